"""Gives each partition its state: from a snapshot and the log behind it, or from the log alone."""

import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, Generic, TypeVar

from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import as_records
from consumer.adapters.snapshots import SnapshotStore
from consumer.core.decode import PaymentDecoder
from consumer.core.restore import SAMPLE, Plan, Reach, plan_from_snapshot, plan_restore
from consumer.core.snapshot import Contract, Manifest, SnapshotRefusedError
from consumer.core.state import ALWAYS, Tables, VelocityState
from consumer.telemetry import Telemetry

_REQUEST_SECONDS: Final = 5.0

_Found = tuple[Manifest, Tables]
T = TypeVar("T")


class _Call(threading.Thread, Generic[T]):
    """One call to a file system. It may never return, so nobody waits for its thread."""

    def __init__(self, call: Callable[[Callable[[], None]], T]) -> None:
        """`call` is given what it must call whenever it gets on, which may raise to end it."""
        super().__init__(name="restore", daemon=True)
        self._call = call
        self._is_unwanted = False
        self._heard = time.monotonic()
        self.answer: T | None = None
        self.fault: Exception | None = None

    @property
    def seconds_silent(self) -> float:
        """Time since it last got on."""
        return time.monotonic() - self._heard

    def run(self) -> None:
        """Keep the answer, or why there is none."""
        try:
            self.answer = self._call(self._got_on)
        except Exception as fault:  # noqa: BLE001 - what a file system raises is its own
            self.fault = fault

    def forget(self) -> None:
        """Let it end as soon as it can."""
        self._is_unwanted = True

    def _got_on(self) -> None:
        if self._is_unwanted:
            raise TimeoutError
        self._heard = time.monotonic()


class SnapshotLoader:
    """
    Looks for the newest snapshot that is of use, one partition after the other.

    Snapshots may be large and far, and a file system may hang: each call to it has a thread of its
    own, which is left behind after `patience_seconds` without a sign of progress.
    """

    def __init__(
        self,
        store: SnapshotStore,
        contract: Contract,
        state: VelocityState,
        telemetry: Telemetry,
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._contract = contract
        self._state = state
        self._telemetry = telemetry
        self._patience = patience_seconds
        self._call: _Call[Any] | None = None

    def search(self, partition: int, low: int, committed: int) -> "Search":
        """Look for a snapshot at an offset in [low, committed]; whoever steps it, returns."""
        stored = yield from self._calling(partition, "", lambda _: self._store.stored(partition))
        for each in stored or ():
            if not low <= each.next_offset <= committed:
                continue
            tables = self._state.empty_tables()
            manifest = yield from self._calling(
                partition,
                each.path,
                partial(self._store.read, each, self._contract, tables),
            )
            if manifest is not None:
                return manifest, tables
        return None

    def _calling(
        self, partition: int, path: str, do: Callable[[Callable[[], None]], T]
    ) -> Generator[None, None, T | None]:
        """Yield until the call has returned; return None, and say why, if it is of no use."""
        while self._call is not None:
            yield
        call = self._call = _Call(do)
        try:
            call.start()
            while call.is_alive() and call.seconds_silent < self._patience:
                yield
            if call.is_alive():
                text = f"nothing came of it for {self._patience:g} s (state.read_timeout)"
                self._telemetry.snapshot_refused(partition, path, "timeout", text)
                return None
        finally:
            call.forget()
            self._call = None
        if call.fault is not None:
            fault = call.fault
            reason = fault.reason if isinstance(fault, SnapshotRefusedError) else "unreadable"
            self._telemetry.snapshot_refused(partition, path, reason, str(fault))
        return call.answer


Search = Generator[None, None, _Found | None]


class StateRestorer:
    """Observes assignments for a VelocityState."""

    def __init__(
        self,
        reader: LogReader,
        decoder: PaymentDecoder,
        state: VelocityState,
        telemetry: Telemetry,
        snapshots: SnapshotLoader | None = None,
        on_part: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """
        `reader` reads the input topic, beside the group. `on_part(partition, next_offset)` is told
        of a state that goes in good order, before it is dropped.
        """
        self._reader = reader
        self._decoder = decoder
        self._state = state
        self._telemetry = telemetry
        self._snapshots = snapshots
        self._on_part = on_part
        self._searches: dict[int, Search] = {}
        self._found: dict[int, _Found | None] = {}

    def plan(self, partition: int, committed: int | None) -> Plan | None:
        """
        Return where to start the partition; None while a snapshot is being read.

        Raises KafkaException when the broker is away.
        """
        if partition in self._searches and not self._has_ended(partition):
            return None
        low = self._reader.beginnings([partition], _REQUEST_SECONDS)[partition]
        reach = Reach(self._state.longest_window, self._state.grace, self._state.score_from)
        latest_time = self._latest_time_from(partition)
        if self._snapshots is not None and committed is not None and committed > low:
            if partition not in self._found:
                self._searches[partition] = self._snapshots.search(partition, low, committed)
                return None
            found = self._found[partition]
            if found is not None and found[0].next_offset >= low:  # retention may have passed it
                plan = plan_from_snapshot(*found, committed, latest_time, reach)
                if plan is not None:
                    return plan
        return plan_restore(low, committed, latest_time, reach)

    def begin(self, partition: int, plan: Plan) -> None:
        """Start the partition's state; the records of the plan bring it up to date."""
        self._found.pop(partition, None)
        self._state.begin(
            partition,
            score_from=plan.score_from,
            decided_since=plan.decided_since,
            cold_until=plan.cold_until,
            tables=plan.tables,
        )
        self._telemetry.restore_planned(
            partition, plan.start, plan.live_from,
            cold=plan.cold_until != ALWAYS, from_snapshot=plan.tables is not None,
        )  # fmt: skip

    def part(self, partition: int, next_offset: int) -> None:
        """The partition goes in good order; its state may be kept for the next owner."""
        self._on_part(partition, next_offset)

    def drop(self, partition: int) -> None:
        """Forget the partition's state."""
        if partition in self._searches:
            self._searches.pop(partition).close()
        self._found.pop(partition, None)
        self._state.drop(partition)

    def close(self) -> None:
        """Close the client."""
        self._reader.close()

    def _has_ended(self, partition: int) -> bool:
        """Carry the search on; keep what it found."""
        try:
            next(self._searches[partition])
        except StopIteration as end:
            del self._searches[partition]
            self._found[partition] = end.value
            return True
        return False

    def _latest_time_from(self, partition: int) -> Callable[[int], int | None]:
        """A record that is refused says nothing of the time: one from 2099 would hide history."""

        def latest_time(offset: int) -> int | None:
            messages = self._reader.read(partition, offset, SAMPLE)
            payments, _ = self._decoder.decode(as_records(self._reader.topic, messages))
            return int(payments.times.max()) if len(payments) else None

        return latest_time
