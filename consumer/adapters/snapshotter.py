"""Writes snapshots on a thread of its own, while the loop goes on changing what they hold."""

import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from consumer.adapters.snapshots import SnapshotStore
from consumer.core.pages import Pages
from consumer.core.snapshot import Contract, StateCopy, Table
from consumer.core.state import VelocityState
from consumer.records import Longs
from consumer.telemetry import Telemetry

KEPT: Final = 2
"""Snapshots of a partition that are kept: one that proves damaged has one before it."""

_LAST_PAGES: Final = 32_768
"""The most pages that are copied between two batches at first: 16 MiB, some milliseconds."""

_PATIENT_ROUNDS: Final = 4
"""After every so many rounds as much again may be copied then, since batches may be large."""

_MOST_ROUNDS: Final = 30
"""A copy that cannot keep up after so many rounds is given up."""

_FAREWELL_SECONDS: Final = 3.0


@dataclass(slots=True)
class _Job:
    """One snapshot in the making. The loop hands over pages; the thread copies them."""

    partition: int
    copy: StateCopy
    begun: float
    inbox: "queue.SimpleQueue[_Part]" = field(default_factory=queue.SimpleQueue)
    rounds: int = 0
    is_waiting: bool = False
    """The thread has copied all that it was given."""
    is_cut: bool = False
    """The loop has given it all; what is left is to write it."""
    is_over: bool = False

    def forget(self) -> None:
        """Let go of what the thread has not taken yet."""
        with suppress(queue.Empty):
            while True:
                self.inbox.get_nowait()
        self.inbox.put(_Part([]))


@dataclass(frozen=True, slots=True)
class _Part:
    """Pages to copy; with the last of them, what the copy then is. Neither: forget it."""

    pages: list[Pages]
    cut: "_Cut | None" = None


@dataclass(frozen=True, slots=True)
class _Cut:
    next_offset: int
    cold_until: int | None
    tables: list[Table]


class Snapshotter:
    """
    Writes the state of each partition every `interval_seconds`, one partition after the other.

    A copy is made page by page while batches go on. What they change meanwhile is copied again,
    round by round, until so little is missing that it can be copied between two batches: then the
    copy is the state at exactly that offset. All methods are for the loop's thread.
    """

    def __init__(
        self,
        store: SnapshotStore,
        state: VelocityState,
        contract: Contract,
        interval_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        """Nothing runs before `start`."""
        self._store = store
        self._state = state
        self._contract = contract
        self._interval = interval_seconds
        self._telemetry = telemetry
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._job: _Job | None = None
        self._farewells: dict[int, _Job] = {}
        self._due: dict[int, float] = {}
        self._written: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        """Let the thread run."""
        self._thread.start()

    def stop(self) -> None:
        """Wait a few seconds for what is still to be written; the rest is left out."""
        if self._job is not None and not self._job.is_cut:
            self._give_up(self._job)
        self._jobs.put(None)
        self._thread.join(_FAREWELL_SECONDS)

    def between_batches(self, next_offsets: Mapping[int, int]) -> None:
        """
        Carry the copy in hand on, or begin the next that is due.

        `next_offsets` are those of the partitions that are owned and restored: what the state is a
        fold up to.
        """
        self._farewells = {p: job for p, job in self._farewells.items() if not job.is_over}
        job = self._job
        if job is not None and job.is_over:
            job.copy.release()
            job = self._job = None
        if job is None:
            self._begin_one_that_is_due(next_offsets)
        elif job.is_cut:
            return
        elif job.partition not in next_offsets or not self._is_of_now(job):
            self._give_up(job)
        elif job.is_waiting:
            self._carry_on(job, next_offsets[job.partition])

    def parted(self, partition: int, next_offset: int) -> None:
        """
        The partition goes to another instance: write its state, which changes no more.

        Call it before the state is dropped. The pages are handed over where they lie, so that a
        state which waits to be written keeps its memory: of a partition that came and went again
        before its turn, the latest alone.
        """
        self._due.pop(partition, None)
        if self._written.pop(partition, None) == next_offset:
            return
        if not self._state.is_settled(partition):  # we end in the middle of a batch
            return
        job = self._job
        if job is None or job.partition != partition or job.is_over or job.is_cut:
            job = self._new_job(partition)
        if partition in self._farewells:
            self._farewells[partition].forget()
        self._farewells[partition] = job
        self._finish(job, next_offset, job.copy.take())

    def _is_of_now(self, job: _Job) -> bool:
        """Say whether its partition did not go and come back meanwhile, with other tables."""
        return job.copy.is_of(self._state.tables(job.partition))

    def _begin_one_that_is_due(self, next_offsets: Mapping[int, int]) -> None:
        now = time.monotonic()
        due = [
            (self._due.setdefault(partition, now + self._interval), partition)
            for partition, next_offset in next_offsets.items()
            if self._written.get(partition) != next_offset
        ]
        since, partition = min(due, default=(math.inf, 0))
        if since <= now:
            self._due[partition] = now + self._interval
            self._job = self._new_job(partition)
            self._hand_over(self._job, _Part(self._job.copy.take()))

    def _new_job(self, partition: int) -> _Job:
        job = _Job(partition, StateCopy(self._state.tables(partition)), time.monotonic())
        self._jobs.put(job)
        return job

    def _carry_on(self, job: _Job, next_offset: int) -> None:
        job.rounds += 1
        if job.copy.missing <= _LAST_PAGES * (1 + job.rounds // _PATIENT_ROUNDS):
            self._finish(job, next_offset, [pages.gather() for pages in job.copy.take()])
        elif job.rounds > _MOST_ROUNDS:
            self._telemetry.snapshot_failed(job.partition, "batches change it too fast")
            self._give_up(job)
        else:
            self._hand_over(job, _Part(job.copy.take()))

    def _finish(self, job: _Job, next_offset: int, pages: list[Pages]) -> None:
        cut = _Cut(next_offset, self._state.cold_until(job.partition), job.copy.cut())
        job.copy.release()
        job.is_cut = True
        self._hand_over(job, _Part(pages, cut))

    def _give_up(self, job: _Job) -> None:
        job.copy.release()
        job.is_cut = True
        self._hand_over(job, _Part([]))

    def _hand_over(self, job: _Job, part: _Part) -> None:
        job.is_waiting = False
        job.inbox.put(part)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._write(job)
            except Exception as error:  # noqa: BLE001 - what a file system raises is its own
                self._telemetry.snapshot_failed(job.partition, f"{type(error).__name__}: {error}")
            finally:
                job.is_over = True
            del job  # or it would keep the tables until the next one comes

    def _write(self, job: _Job) -> None:
        """Copy what comes until the last of it is there, and write it."""
        with _Scratch(self._store.scratch_folder) as scratch:
            while True:
                part = job.inbox.get()
                for number, pages in enumerate(part.pages):
                    pages.copy_to(scratch.room(number, pages))
                if part.cut is not None:
                    break
                if not part.pages:
                    return
                job.is_waiting = True
            cut = part.cut
            counts = [count for table in cut.tables for count in table.words]
            stored = self._store.write(
                job.partition, cut.next_offset, self._contract, cut.cold_until, cut.tables,
                [scratch.words(number, count) for number, count in enumerate(counts)],
            )  # fmt: skip
        self._written[job.partition] = cut.next_offset
        seconds = time.monotonic() - job.begun
        self._telemetry.snapshot_written(job.partition, cut.next_offset, stored.size_bytes, seconds)
        self._store.prune(stored, KEPT)


class _Scratch:
    """Files in memory maps, which the system may write out: a large state is not held twice."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[int, Any] = {}
        self._maps: dict[int, Longs] = {}

    def __enter__(self) -> "_Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self._maps.clear()
        self._open.close()

    def room(self, number: int, pages: Pages) -> Longs:
        """Return the words of a file, at least as many as the pages reach to."""
        wanted = pages.reach
        if number not in self._files:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the stack closes it
            self._open.enter_context(file)
            self._files[number] = file
        if number not in self._maps or len(self._maps[number]) < wanted:
            self._maps.pop(number, None)
            # Taken from the disk at once: a map into a full one would end the process.
            os.posix_fallocate(self._files[number].fileno(), 0, 8 * max(wanted, 1))
            self._maps[number] = np.memmap(self._files[number], np.int64, "r+")
        return self._maps[number]

    def words(self, number: int, count: int) -> Longs:
        """Return the first words of a file."""
        return self._maps[number][:count]
