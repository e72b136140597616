"""
A TCP proxy that knows Kafka's frames: it can lose answers, lose requests, and deliver them late;
and it can be a bad network, slow, narrow, broken off or silent.

The broker must advertise the proxy's address, so that clients come through it for everything.
"""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

PRODUCE, LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH = 0, 2, 8, 9
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
_BACKLOG_SECONDS = 0.3
_CHUNK_BYTES = 65_536
OUR_CLIENTS = "fraudstream"
"""How the client ids of consumers under test begin; upstream and checker have others."""


class Fate(Enum):
    """What becomes of a request that a fault is meant for."""

    UNANSWERED = auto()
    """The broker acts on it, and its answer is lost."""
    LOST = auto()
    """The broker never sees it."""
    LATE = auto()
    """The broker sees it once the fault is over."""
    NOT_YET = auto()
    """
    The broker answers, while more requests wait behind, that it does not have this partition, as
    one does that is about to lead it.
    """


@dataclass
class Fault:
    """Which requests it is meant for, what becomes of them, and how many it has hit so far."""

    api_key: int
    fate: Fate
    times: int
    containing: bytes
    hits: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self, frame: bytes) -> bool:
        """Say whether the request is one of its kind, and count it."""
        (api_key,) = struct.unpack_from(">h", frame)
        ours = _client_of(frame).startswith(OUR_CLIENTS)
        if api_key != self.api_key or not ours or self.containing not in frame:
            return False
        self.hits += 1
        return self.hits <= self.times


class Way(Enum):
    """A direction of a connection."""

    TO_BROKER = auto()
    TO_CLIENT = auto()


BOTH_WAYS = frozenset(Way)


@dataclass
class Weather:
    """
    What a network does to the connections of some clients: each frame waits `delay_seconds`, as
    drawn for it, and as long as its bytes take at `bytes_per_second`; with `cut`, until the weather
    is over.
    """

    client: str
    ways: frozenset[Way]
    cut: bool = False
    delay_seconds: Callable[[], float] = lambda: 0.0
    bytes_per_second: float = math.inf
    hits: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def delay(self, client: str, way: Way, size: int) -> None:
        """Return when a frame of that size may go on."""
        if way not in self.ways or not client.startswith(self.client):
            return
        self.hits += 1
        seconds = math.inf if self.cut else self.delay_seconds() + size / self.bytes_per_second
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), None if self.cut else seconds)


@dataclass(eq=False)
class _Connection:
    """One client's connection; whose it is, its first request says."""

    writer: asyncio.StreamWriter
    client: str = ""
    unanswered: set[bytes] = field(default_factory=set)


class Proxy:
    """Listens at once; forwards from `open` on, on a thread of its own."""

    def __init__(self, name: str = "") -> None:
        """
        Take a free port, which the broker is then told to advertise: on loopback, or with a `name`
        on every address, and by that name.
        """
        self._listener = socket.create_server(("" if name else "127.0.0.1", 0))
        self._name = name or "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self._upstream = ("", 0)
        self._faults: list[Fault] = []
        self._weathers: list[Weather] = []
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"{self._name}:{self.port}"

    def open(self, upstream: str) -> str:
        """Forward every connection to that address, host:port; return our own."""
        host, port = upstream.split(":")
        self._upstream = host, int(port)
        self._thread.start()
        started = asyncio.start_server(self._serve, sock=self._listener)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)
        return self.address

    def close(self) -> None:
        """Cut all connections."""

        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0.1)  # closed sockets are let go in a later turn of the loop

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @contextmanager
    def fault(
        self, api_key: int, fate: Fate, *, times: int = 1_000_000, containing: bytes = b""
    ) -> Iterator[Fault]:
        """Strike the next requests of our clients with this key, until the block ends."""
        fault = Fault(api_key, fate, times, containing)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
            self._loop.call_soon_threadsafe(fault.over.set)

    @contextmanager
    def weather(
        self, client: str = OUR_CLIENTS, ways: frozenset[Way] = BOTH_WAYS, **what: Any
    ) -> Iterator[Weather]:
        """Let clients whose ids begin so suffer a Weather, until the block ends."""
        weather = Weather(client, ways, **what)
        self._weathers.append(weather)
        try:
            yield weather
        finally:
            self._weathers.remove(weather)
            self._loop.call_soon_threadsafe(weather.over.set)

    def reset(self, client: str = OUR_CLIENTS) -> None:
        """Break off the connections of clients whose ids begin so, with a TCP reset."""

        def abort() -> None:
            for connection in self._connections:
                if connection.client.startswith(client):
                    connection.writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:  # the broker is down, and its clients are to notice
            writer.transport.abort()
            return
        connection = _Connection(writer)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._requests(reader, up_writer, connection)),
            asyncio.create_task(self._answers(up_reader, writer, connection)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            for end in (*pumps, up_writer, writer):
                end.cancel() if isinstance(end, asyncio.Task) else end.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        async for frame in _frames(reader):
            connection.client = connection.client or _client_of(frame)
            fault = next((fault for fault in self._faults if fault.strikes(frame)), None)
            if fault is not None and fault.fate is Fate.LOST:
                continue
            if fault is not None and fault.fate is Fate.LATE:
                await fault.over.wait()
            if fault is not None and fault.fate is Fate.UNANSWERED:
                connection.unanswered.add(frame[4:8])
            sent = frame
            if fault is not None and fault.fate is Fate.NOT_YET:
                await asyncio.sleep(_BACKLOG_SECONDS)
                sent = frame.replace(fault.containing, b"x" * len(fault.containing))
            await self._forward(sent, writer, connection, Way.TO_BROKER)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        async for frame in _frames(reader):
            if frame[:4] not in connection.unanswered:
                await self._forward(frame, writer, connection, Way.TO_CLIENT)

    async def _forward(
        self, frame: bytes, writer: asyncio.StreamWriter, connection: _Connection, way: Way
    ) -> None:
        for weather in list(self._weathers):
            await weather.delay(connection.client, way, len(frame))
        writer.write(struct.pack(">i", len(frame)) + frame)
        await writer.drain()


class OpaqueProxy(Proxy):
    """
    Passes on what it cannot read, as TLS: whose a connection is it does not know, and can only
    break off all of them, `reset("")`.
    """

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        await _pass_on(reader, writer)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        await _pass_on(reader, writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


def _client_of(frame: bytes) -> str:
    length: int = struct.unpack_from(">h", frame, 8)[0]
    return frame[10 : 10 + length].decode()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            yield await reader.readexactly(size)
