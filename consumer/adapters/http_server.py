"""/metrics, /livez and /readyz, on a thread of their own."""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from consumer.errors import ConfigError

MOST_CONNECTIONS: Final = 64
_START_SECONDS: Final = 5.0

Checks = Callable[[], Mapping[str, bool]]


class HttpServer:
    """
    Serves what ops look at. A check answers 200 when all of its parts hold, else 503 and which.
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
                app, log_level="error", access_log=False, lifespan="off",
                limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
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
