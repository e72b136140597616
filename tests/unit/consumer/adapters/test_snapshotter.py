import gc
import threading
import time
import weakref

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from consumer.adapters import snapshotter as module
from consumer.adapters.snapshots import SnapshotStore
from consumer.adapters.snapshotter import Snapshotter
from consumer.core.feature_sets import KeyPlan
from consumer.core.pages_kernel import PAGE_WORDS
from consumer.core.snapshot import Contract
from consumer.core.state import ALWAYS, VelocityState
from consumer.telemetry import Telemetry
from tests.builders import DAY, events_of, payment

CONTRACT = Contract(
    feature_set="arrival-1", windows={"card": (DAY,)}, grace=DAY, alert_window=DAY, schemas=["aa"]
)
_GIVE_UP_SECONDS = 20


class Bench:
    """A state of two partitions, the snapshotter that follows it, and where it writes."""

    def __init__(self, folder, interval_seconds=0.0):
        self.state = VelocityState({"card": KeyPlan((DAY,))}, grace=DAY, alert_window=DAY)
        self.store = SnapshotStore(str(folder), "g", "payments")
        self.registry = CollectorRegistry()
        self.snapshotter = Snapshotter(
            self.store, self.state, CONTRACT, interval_seconds,
            Telemetry(self.registry, "g", "payments"),
        )  # fmt: skip
        self.offsets = {}
        for partition in (0, 1):
            self.state.begin(partition)
            self.offsets[partition] = 0
        self.snapshotter.start()

    def batch(self, partition, count=100, settle=True, cards=10_000):
        """Carry one batch, of new cards as long as there are, and say so to the snapshotter."""
        begin = self.offsets[partition]
        events = events_of(
            [payment(k, card_id=f"card-{k % cards}") for k in range(begin, begin + count)],
            partitions=partition,
        )
        self.state.observe(events, np.ones(count, np.bool_))
        if settle:
            self.state.settle()
            self.offsets[partition] += count

    def until(self, happened):
        """Let idle rounds pass until it has."""
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while not happened():
            assert time.monotonic() < deadline
            self.snapshotter.between_batches(self.offsets)
            time.sleep(0.002)

    def written(self, partition):
        """Return the offsets of the partition's snapshots, the newest first."""
        return [stored.next_offset for stored in self.store.stored(partition)]

    def read(self, partition):
        """Return how many cards and payments the newest snapshot of the partition holds."""
        [stored, *_] = self.store.stored(partition)
        tables = self.state.empty_tables()
        self.store.read(stored, CONTRACT, tables)
        return stored.next_offset, tables["card"].card_count, tables["card"].payment_count

    def count(self, name, **labels):
        return self.registry.get_sample_value(f"fraudstream_{name}", labels)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.snapshotter.stop()


def test_a_snapshot_is_the_state_at_its_offset(bench):
    """Though batches went on while it was made."""
    bench.batch(0)
    bench.snapshotter.between_batches(bench.offsets)
    for _ in range(20):
        bench.batch(0)
        bench.snapshotter.between_batches(bench.offsets)
    bench.until(lambda: bench.written(0))

    offset, cards, payments = bench.read(0)
    assert offset == cards == payments > 0


def test_what_comes_after_the_last_step_is_not_in_the_snapshot(bench, monkeypatch):
    """However long the thread takes to copy what it was given then."""
    let_go, room = threading.Event(), module._Scratch.room

    def slow_room(scratch, number, pages):
        let_go.wait(_GIVE_UP_SECONDS)
        return room(scratch, number, pages)

    bench.batch(0)
    bench.until(lambda: bench.snapshotter._job is not None and bench.snapshotter._job.is_waiting)
    monkeypatch.setattr(module._Scratch, "room", slow_room)
    bench.batch(0, cards=100)
    bench.snapshotter.between_batches(bench.offsets)
    bench.batch(0, cards=100)
    let_go.set()
    bench.until(lambda: bench.written(0))

    [*_, first] = bench.store.stored(0)
    tables = bench.state.empty_tables()
    bench.store.read(first, CONTRACT, tables)
    assert (first.next_offset, tables["card"].payment_count) == (200, 200)


@pytest.mark.parametrize("cold_until", [None, 7, ALWAYS])
@pytest.mark.parametrize("leaves", [False, True])
def test_what_history_a_partition_lacks_is_written_with_its_state(bench, leaves, cold_until):
    """Or its next owner would not say STATE_COLD."""
    bench.state.begin(0, cold_until=cold_until)
    bench.offsets[0] = 3
    if leaves:
        bench.snapshotter.parted(0, 3)
    bench.until(lambda: bench.written(0))

    [stored, *_] = bench.store.stored(0)
    manifest = bench.store.read(stored, CONTRACT, bench.state.empty_tables())
    assert (manifest.next_offset, manifest.cold_until) == (3, cold_until)


def test_every_partition_has_its_turn_again_and_again(bench):
    """And only so many are kept."""
    for end in (100, 200, 300, 400):
        for partition in (0, 1):
            bench.batch(partition)
        bench.until(lambda end=end: all(end in bench.written(p) for p in (0, 1)))

    bench.until(lambda: all(bench.written(p) == [400, 300] for p in (0, 1)))


def test_nothing_new_is_not_written_again(bench):
    """An idle topic costs nothing."""
    del bench.offsets[1]
    bench.batch(0)
    bench.until(lambda: bench.count("snapshots_total", result="written"))
    for _ in range(50):
        bench.snapshotter.between_batches(bench.offsets)
        time.sleep(0.001)

    assert bench.written(0) == [100]
    assert bench.count("snapshots_total", result="written") == 1


def test_none_is_due_before_the_interval(tmp_path):
    """The first one comes an interval after the partition did."""
    bench = Bench(tmp_path, interval_seconds=3_600)
    bench.batch(0)
    for _ in range(20):
        bench.snapshotter.between_batches(bench.offsets)
    bench.snapshotter.stop()

    assert bench.store.stored() == []


def test_a_partition_that_goes_leaves_its_state(tmp_path):
    """However long the interval."""
    bench = Bench(tmp_path, interval_seconds=3_600)
    bench.batch(0)
    bench.snapshotter.between_batches(bench.offsets)
    bench.snapshotter.parted(0, bench.offsets[0])
    bench.state.drop(0)
    bench.snapshotter.stop()

    assert bench.read(0) == (100, 100, 100)


def test_a_partition_goes_while_its_copy_is_made(bench):
    """The copy ends where the partition does."""
    bench.batch(0)
    bench.snapshotter.between_batches(bench.offsets)
    bench.batch(0)
    bench.snapshotter.parted(0, bench.offsets[0])
    bench.state.drop(0)
    del bench.offsets[0]
    bench.until(lambda: bench.written(0))

    assert bench.read(0) == (200, 200, 200)


def test_a_partition_that_goes_in_the_middle_of_a_batch_leaves_nothing(tmp_path):
    """Its state is that of no offset: the process ends by a fault."""
    bench = Bench(tmp_path, interval_seconds=3_600)
    bench.batch(0)
    bench.batch(0, settle=False)
    bench.snapshotter.parted(0, bench.offsets[0])
    bench.snapshotter.stop()

    assert bench.store.stored() == []


def test_a_lost_partition_ends_its_copy_and_others_go_on(bench):
    """Somebody else may be further already."""
    bench.batch(0)
    bench.batch(1)
    bench.snapshotter.between_batches({0: 100})
    bench.state.drop(0)
    del bench.offsets[0]
    bench.until(lambda: bench.written(1))

    assert bench.written(0) == []


def test_a_store_that_fails_is_told_of_and_tried_again(bench, monkeypatch):
    """The consumer goes on; state can always be rebuilt."""

    def full(*_):
        raise RuntimeError("no credentials")  # a file system's own kind of error

    bench.batch(0)
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "write", full)
        bench.until(lambda: bench.count("snapshots_total", result="failed"))

    bench.until(lambda: bench.written(0) == [100])


def test_batches_that_change_too_much_end_the_copy(bench, monkeypatch):
    """It would never be whole, and the last step would be long."""
    monkeypatch.setattr(module, "_LAST_PAGES", -1)
    del bench.offsets[1]

    def failed():
        bench.batch(0, 10)
        return bench.count("snapshots_total", result="failed")

    bench.until(failed)

    assert bench.written(0) == []


def test_a_partition_that_comes_back_at_once_has_a_copy_of_its_own(bench):
    """Lost and assigned again within one poll: the tables followed are nobody's any more."""
    bench.batch(0)
    del bench.offsets[1]
    bench.snapshotter.between_batches(bench.offsets)
    bench.state.drop(0)
    bench.state.begin(0)
    bench.offsets[0] = 0
    bench.batch(0, 7)
    bench.until(lambda: bench.written(0))

    assert bench.read(0) == (7, 7, 7)


def test_a_state_that_was_written_is_let_go(bench):
    """An instance that has no partition any more keeps no state."""
    bench.batch(0)
    del bench.offsets[1]
    tables = weakref.ref(bench.state.tables(0)["card"])
    bench.snapshotter.parted(0, 100)
    bench.state.drop(0)
    del bench.offsets[0]
    bench.until(lambda: bench.written(0))

    bench.until(lambda: gc.collect() >= 0 and tables() is None)


def test_states_that_wait_to_be_written_are_one_for_a_partition(bench, monkeypatch):
    """The store is slow, and the group takes all partitions back and gives them again."""
    go_on, begun = threading.Event(), threading.Event()
    write = bench.store.write

    def slow(*args):
        begun.set()
        go_on.wait()
        return write(*args)

    monkeypatch.setattr(bench.store, "write", slow)
    bench.batch(1)
    bench.snapshotter.parted(1, 100)
    begun.wait()
    held = []
    for _ in range(5):
        bench.batch(0)
        held.append(weakref.ref(bench.state.tables(0)["card"].tables[1]))
        bench.snapshotter.parted(0, bench.offsets[0])
        bench.state.drop(0)
        bench.state.begin(0)
    gc.collect()

    assert [words() is not None for words in held] == [False] * 4 + [True]
    go_on.set()
    bench.until(lambda: bench.written(0))
    assert bench.written(0) == [500]


def test_the_last_step_is_bounded():
    """128 MiB at the very most, for batches that change as much themselves."""
    most = module._LAST_PAGES * (1 + module._MOST_ROUNDS // module._PATIENT_ROUNDS)
    assert most * PAGE_WORDS * 8 == 128 * 2**20
