import threading
import time

import numpy as np
import pytest
from confluent_kafka import Message
from prometheus_client import CollectorRegistry

import schemas
from consumer.adapters.restore import SnapshotLoader, StateRestorer
from consumer.adapters.snapshots import SnapshotStore
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import KeyPlan
from consumer.core.restore import Plan
from consumer.core.snapshot import Contract, StateCopy
from consumer.core.state import VelocityState
from consumer.telemetry import Telemetry
from tests.builders import DAY, encoded, events_of, payment

HOUR = DAY // 24
LENGTH = 5_000


class FakeReader:
    """A log of one payment an hour, each record made in the minute of its payment."""

    topic = "transactions.raw"

    def __init__(self, strangers):
        """`strangers` are event times, by offset, that stand in place of the regular ones."""
        self._strangers = strangers

    def beginnings(self, partitions, _):
        return dict.fromkeys(partitions, 0)

    def read(self, partition, offset, count):
        return [self._message(at) for at in range(offset, min(offset + count, LENGTH))]

    def _message(self, offset):
        regular = payment()["event_time"] + offset * HOUR
        fields = payment(event_time=self._strangers.get(offset, regular))
        value, key = encoded("transaction", fields), fields["card_id"].encode()
        return Message(self.topic, 0, offset, key=key, value=value, timestamp=(1, regular // 1_000))


def plan_of(strangers):
    telemetry = Telemetry(CollectorRegistry(), "group", FakeReader.topic)
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    decoder = PaymentDecoder([schemas.load("transaction")])
    return StateRestorer(FakeReader(strangers), decoder, state, telemetry).plan(0, LENGTH)


def test_the_plan_reaches_back_over_windows_and_grace():
    """By the event times of the records themselves; one sample's width is not looked at."""
    reach = (30 + 2) * 24

    assert LENGTH - reach - 200 < plan_of({}).start <= LENGTH - reach


@pytest.mark.parametrize("cold_until", [None, 7])
def test_what_history_the_plan_lacks_is_told_to_the_state(cold_until):
    """Predictions say STATE_COLD by it."""
    telemetry = Telemetry(CollectorRegistry(), "group", FakeReader.topic)
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    decoder = PaymentDecoder([schemas.load("transaction")])
    restorer = StateRestorer(FakeReader({}), decoder, state, telemetry)

    restorer.begin(0, Plan(10, 20, cold_until=cold_until))

    assert state.cold_until(0) == cold_until


@pytest.mark.parametrize("offset", [LENGTH - 1, LENGTH - 50, LENGTH - 900])
def test_a_payment_from_the_future_hides_no_history(offset):
    """It is refused, so it says nothing of how far the log is; one record less is an hour less."""
    plan = plan_of({offset: payment()["event_time"] + 20_000 * DAY})

    assert plan_of({}).start - 1 <= plan.start <= plan_of({}).start


CONTRACT = Contract(
    feature_set="arrival-1", windows={"card": (30 * DAY,)}, grace=DAY, alert_window=DAY, schemas=[]
)
PLAN = {"card": KeyPlan(CONTRACT.windows["card"])}
PATIENCE_SECONDS = 1.0


class Shelf(SnapshotStore):
    """Two snapshots of one partition; the first `hanging` calls never return."""

    def __init__(self, folder, hanging):
        super().__init__(str(folder), "g", FakeReader.topic)
        self.calls = []
        self._hanging = hanging
        self.let_go = threading.Event()
        state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
        state.begin(0)
        for offset in (LENGTH - 10, LENGTH - 5):
            paid = [
                payment(
                    card_id=f"card-{offset}", event_time=payment()["event_time"] + LENGTH * HOUR
                )
            ]
            state.observe(events_of(paid), np.ones(1, np.bool_))
            state.settle()
            tables = state.tables(0)["card"]
            words = [t[:n] for t, n in zip(tables.tables[1:], tables.used, strict=True)]
            self.write(0, offset, CONTRACT, None, StateCopy(state.tables(0)).cut(), words)

    def stored(self, partition=None):
        self._call("list")
        return super().stored(partition)

    def read(self, stored, *args):
        self._call(stored.next_offset)
        return super().read(stored, *args)

    def _call(self, what):
        self.calls.append(what)
        if len(self.calls) in self._hanging:
            self.let_go.wait()


@pytest.fixture
def search(tmp_path):
    """Return the plan of a partition whose store hangs at some calls, the store, and metrics."""
    shelves = []

    def plan(*hanging):
        shelves.append(Shelf(tmp_path, hanging))
        registry = CollectorRegistry()
        telemetry = Telemetry(registry, "group", FakeReader.topic)
        state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
        # As a consumer does before it joins: no kernel is compiled while somebody waits.
        newest = SnapshotStore.stored(shelves[0], 0)[0]
        SnapshotStore.read(shelves[0], newest, CONTRACT, state.empty_tables())
        shelves[0].calls.clear()
        loader = SnapshotLoader(shelves[0], CONTRACT, state, telemetry, PATIENCE_SECONDS)
        decoder = PaymentDecoder([schemas.load("transaction")])
        restorer = StateRestorer(FakeReader({}), decoder, state, telemetry, loader)
        deadline = time.monotonic() + 20
        while (found := restorer.plan(0, LENGTH)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gone = registry.get_sample_value(
            "fraudstream_snapshots_refused_total", {"reason": "timeout"}
        )
        return found, shelves[0].calls, gone

    yield plan
    for shelf in shelves:
        shelf.let_go.set()


def test_the_newest_snapshot_is_taken(search):
    """And no other is read."""
    plan, calls, gone = search()

    assert (plan.start, plan.tables is not None, calls) == (LENGTH - 5, True, ["list", LENGTH - 5])
    assert gone == 0


def test_a_snapshot_whose_reading_hangs_gives_way_to_the_one_before(search):
    """After state.read_timeout without a sign of progress, and with its reason."""
    plan, calls, gone = search(2)

    assert (plan.start, calls) == (LENGTH - 10, ["list", LENGTH - 5, LENGTH - 10])
    assert gone == 1


@pytest.mark.parametrize("hanging", [(1,), (2, 3)])
def test_a_store_that_hangs_leaves_the_log(search, hanging):
    """Nobody waits for it for ever."""
    plan, _, gone = search(*hanging)

    assert plan.tables is None
    assert plan == plan_of({})
    assert gone == len(hanging)


def test_a_hanging_read_keeps_no_process(search):
    """At its end Python waits for all threads but these."""
    search(2, 3)

    left = [thread for thread in threading.enumerate() if thread.name == "restore"]
    assert left
    assert all(thread.daemon for thread in left)


def test_a_partition_that_goes_while_its_snapshot_is_read_lets_others_be_read(tmp_path):
    """And its reading is not waited for."""
    shelf = Shelf(tmp_path, (2,))
    telemetry = Telemetry(CollectorRegistry(), "group", FakeReader.topic)
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    loader = SnapshotLoader(shelf, CONTRACT, state, telemetry, 20.0)
    decoder = PaymentDecoder([schemas.load("transaction")])
    restorer = StateRestorer(FakeReader({}), decoder, state, telemetry, loader)
    while len(shelf.calls) < 2:
        assert restorer.plan(0, LENGTH) is None
    restorer.drop(0)

    deadline = time.monotonic() + 10
    while (plan := restorer.plan(0, LENGTH)) is None:
        assert time.monotonic() < deadline

    assert plan.start == LENGTH - 5
    shelf.let_go.set()
