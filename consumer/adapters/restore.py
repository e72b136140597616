"""Gives each partition its state: from a snapshot and the log behind it, or from the log alone."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

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


class SnapshotLoader:
    """Reads the newest snapshot that is of use, on a thread of its own: it may be large and far."""

    def __init__(
        self, store: SnapshotStore, contract: Contract, state: VelocityState, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._contract = contract
        self._state = state
        self._telemetry = telemetry
        self._pool = ThreadPoolExecutor(1, "restore")

    def load(self, partition: int, low: int, committed: int) -> "Future[_Found | None]":
        """Begin to look for a snapshot at an offset in [low, committed]."""
        return self._pool.submit(self._newest, partition, low, committed)

    def close(self) -> None:
        """Forget what was not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _newest(self, partition: int, low: int, committed: int) -> _Found | None:
        try:
            stored = self._store.stored(partition)
        except Exception as error:  # noqa: BLE001 - what a file system raises is its own
            self._telemetry.snapshot_refused(partition, "", "unreadable", str(error))
            return None
        for each in stored:
            if not low <= each.next_offset <= committed:
                continue
            tables = self._state.empty_tables()
            try:
                return self._store.read(each, self._contract, tables), tables
            except SnapshotRefusedError as refusal:
                self._telemetry.snapshot_refused(partition, each.path, refusal.reason, str(refusal))
            except Exception as error:  # noqa: BLE001 - as above
                self._telemetry.snapshot_refused(partition, each.path, "unreadable", str(error))
        return None


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
        self._loading: dict[int, Future[_Found | None]] = {}

    def plan(self, partition: int, committed: int | None) -> Plan | None:
        """
        Return where to start the partition; None while a snapshot is being read.

        Raises KafkaException when the broker is away.
        """
        loading = self._loading.get(partition)
        if loading is not None and not loading.done():
            return None
        low = self._reader.beginnings([partition], _REQUEST_SECONDS)[partition]
        reach = Reach(self._state.longest_window, self._state.grace, self._state.score_from)
        latest_time = self._latest_time_from(partition)
        if self._snapshots is not None and committed is not None and committed > low:
            if loading is None:
                self._loading[partition] = self._snapshots.load(partition, low, committed)
                return None
            found = loading.result()
            if found is not None and found[0].next_offset >= low:  # retention may have passed it
                plan = plan_from_snapshot(*found, committed, latest_time, reach)
                if plan is not None:
                    return plan
        return plan_restore(low, committed, latest_time, reach)

    def begin(self, partition: int, plan: Plan) -> None:
        """Start the partition's state; the records of the plan bring it up to date."""
        self._loading.pop(partition, None)
        self._state.begin(
            partition, score_from=plan.score_from, cold_until=plan.cold_until, tables=plan.tables
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
        if partition in self._loading:
            self._loading.pop(partition).cancel()
        self._state.drop(partition)

    def close(self) -> None:
        """Close the client, and forget what was not begun."""
        if self._snapshots is not None:
            self._snapshots.close()
        self._reader.close()

    def _latest_time_from(self, partition: int) -> Callable[[int], int | None]:
        """A record that is refused says nothing of the time: one from 2099 would hide history."""

        def latest_time(offset: int) -> int | None:
            messages = self._reader.read(partition, offset, SAMPLE)
            payments, _ = self._decoder.decode(as_records(self._reader.topic, messages))
            return int(payments.times.max()) if len(payments) else None

        return latest_time
