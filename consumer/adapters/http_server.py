"""/metrics, /livez and /readyz, on a thread of their own."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from consumer.errors import ConfigError

MOST_CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 10.0
"""From a connection, or the answer before, to a whole request and the end of its answer."""

MOST_HEADER_BYTES: Final = 16 * 2**10
_START_SECONDS: Final = 5.0

Checks = Callable[[], Mapping[str, bool]]


class _Connection(H11Protocol):
    """
    A connection that somebody who asks nothing cannot keep: the server has few of them.

    uvicorn by itself waits for a first request, and for the rest of one, without an end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._began = self.loop.time()
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Where there are too many, the one that has asked nothing for longest makes room."""
        super().connection_made(transport)
        self._allow_time()
        if len(self.connections) > MOST_CONNECTIONS:
            others = cast(set[_Connection], self.connections)
            idle = [other for other in others if other.is_idle]
            oldest = min(idle, key=lambda other: other._began, default=self)
            self.connections.discard(oldest)  # at once: its end may wait behind a flood of others
            oldest.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Say whether no answer is on its way."""
        return not self.cycle or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """The next request has its own time."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._allow_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing left to limit."""
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def _allow_time(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)


class HttpServer:
    """
    Serves what ops look at. A check answers 200 when all of its parts hold, else 503 and which.

    Nobody proves who he is here, so it listens where http.host says, on loopback by default, and
    keeps a few connections for a short time.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, live: Checks, ready: Checks
    ) -> None:
        """Take the address. Raises ConfigError when it is not to be had."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"http.host and http.port: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/livez", _answer(live)),
                Route("/readyz", _answer(ready)),
                Route("/metrics", _exposition(registry)),
            ]
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, http=_Connection, log_level="error", access_log=False, lifespan="off",
                server_header=False, h11_max_incomplete_event_size=MOST_HEADER_BYTES,
                timeout_keep_alive=5, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_START_SECONDS)
        self._socket.close()


def _exposition(registry: CollectorRegistry) -> Callable[[Request], Response]:
    """Serve the path itself: make_asgi_app, mounted, would redirect to one with a slash."""

    def endpoint(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return endpoint


def _answer(checks: Checks) -> Callable[[Request], JSONResponse]:
    def endpoint(_: Request) -> JSONResponse:
        parts = dict(checks())
        return JSONResponse(parts, status_code=200 if all(parts.values()) else 503)

    return endpoint
