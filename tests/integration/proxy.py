"""
A TCP proxy that knows Kafka's frames: it can lose answers, lose requests, and deliver them late.

The broker must advertise the proxy's address, so that clients come through it for everything.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

PRODUCE, LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH = 0, 2, 8, 9
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
_BACKLOG_SECONDS = 0.3
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
        api_key, _, _, length = struct.unpack_from(">hhih", frame)
        ours = frame[10 : 10 + length].decode().startswith(OUR_CLIENTS)
        if api_key != self.api_key or not ours or self.containing not in frame:
            return False
        self.hits += 1
        return self.hits <= self.times


class Proxy:
    """Listens at once; forwards from `open` on, on a thread of its own."""

    def __init__(self) -> None:
        """Take a free port, which the broker is then told to advertise."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._upstream = 0
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def open(self, upstream: int) -> None:
        """Forward every connection to that port of this machine."""
        self._upstream = upstream
        self._thread.start()
        started = asyncio.start_server(self._serve, sock=self._listener)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)

    def close(self) -> None:
        """Cut all connections."""

        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        unanswered: set[bytes] = set()
        pumps = [
            asyncio.create_task(self._requests(reader, up_writer, unanswered)),
            asyncio.create_task(self._answers(up_reader, writer, unanswered)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (*pumps, up_writer, writer):
                end.cancel() if isinstance(end, asyncio.Task) else end.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unanswered: set[bytes]
    ) -> None:
        async for frame in _frames(reader):
            fault = next((fault for fault in self._faults if fault.strikes(frame)), None)
            if fault is not None and fault.fate is Fate.LOST:
                continue
            if fault is not None and fault.fate is Fate.LATE:
                await fault.over.wait()
            if fault is not None and fault.fate is Fate.UNANSWERED:
                unanswered.add(frame[4:8])
            sent = frame
            if fault is not None and fault.fate is Fate.NOT_YET:
                await asyncio.sleep(_BACKLOG_SECONDS)
                sent = frame.replace(fault.containing, b"x" * len(fault.containing))
            writer.write(struct.pack(">i", len(sent)) + sent)
            await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unanswered: set[bytes]
    ) -> None:
        async for frame in _frames(reader):
            if frame[:4] not in unanswered:
                writer.write(struct.pack(">i", len(frame)) + frame)
                await writer.drain()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            yield await reader.readexactly(size)
