"""
The promise of the state: whatever becomes of instances, batches and snapshots, each record has the
outcome of one run that nobody interrupted.

The loop, the pipeline, the restorer and the store of snapshots are the consumer's own; the group,
the log and who dies when are hypothesis's.
"""

import gc
import itertools
import os
import random
import time
from unittest.mock import patch

import fsspec
import numpy as np
from confluent_kafka import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import schemas
from consumer import loop
from consumer.adapters import restore as restore_adapter
from consumer.adapters.message_columns import as_records
from consumer.adapters.restore import SnapshotLoader, StateRestorer
from consumer.adapters.snapshots import SnapshotStore
from consumer.core import restore, windows
from consumer.core.batching import BatchControl
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_4, HANDBOOK_1
from consumer.core.snapshot import Contract, StateCopy
from consumer.errors import BatchAbortedError
from consumer.loop import Loop
from consumer.records import by_partition
from tests.builders import DAY, JANUARY, decoded, encoded, label, payment
from tests.fakes import FixedModel
from tests.unit.consumer.rig import Rig

SLOW = os.environ.get("FRAUDSTREAM_SLOW") == "1"
TOPIC = "transactions.raw"
PARTITIONS = range(2)
HOUR = DAY // 24
SAMPLE = 4
"""Records in a probe of the log, instead of a hundred: the logs here are as short."""
POISON = 666
GIVE_UP_SECONDS = 20

_numbers = itertools.count()

seeds = st.integers(0, 2**32)
"""Of what comes into the log: payments drawn one by one would leave no room for more."""


def steps_of(seed, count):
    """Yield what a payment differs by from the one before it, mostly harmless."""
    draw = random.Random(seed)
    quiet = draw.choice([0.03, 0.3])
    for _ in range(count):
        yield {
            "passed": draw.choice([0, 1, HOUR, 9 * HOUR])
            if draw.random() > quiet
            else draw.choice([DAY, DAY, 2 * DAY, 3 * DAY, 3 * DAY, 7 * DAY, 7 * DAY, 31 * DAY]),
            "back": 0
            if draw.random() < 0.6
            else draw.choice([HOUR, DAY - 1, DAY, DAY + 1, 3 * DAY, 31 * DAY]),
            "again": draw.choice([1, 3, 10]) if draw.random() < 0.1 else 0,
            "broken": draw.choice([b"", b"\xc3\x01 none of ours"])
            if draw.random() < 0.05
            else None,
            "card": draw.randrange(draw.choice([3, 3, 200])),
            "terminal": draw.randrange(6),
            "country": draw.choice([None, "BE", "BE", "DE", "Utopia"]),
            "kind": draw.choice(["AUTHORISATION"] * 4 + ["ADVICE", "REFUND", "REVERSAL"]),
            "amount": draw.choice([0, 1, 100, 1_234, 25_000, 10**9])
            if draw.random() < 0.97
            else POISON,
        }


events = st.one_of(
    st.tuples(st.just("payments_come"), seeds, st.sampled_from([1, 5, 20, 60])),
    *[
        st.tuples(
            st.just("batch"),
            st.sampled_from([1, 5, 20, 40]),
            st.sampled_from(["committed"] * 4 + ["aborted", "unanswered"]),
            st.booleans(),
        )
    ]
    * 4,
    st.tuples(
        st.just("move"),
        st.integers(0, 2),
        st.sampled_from(["in good order", "lost", "killed"]),
        st.sampled_from(
            [""] * 6 + ["newest damaged", "newest damaged", "all damaged", "retention", "set back"]
        ),
        st.integers(0, 7),
    ),
    st.tuples(st.just("snapshot")),
)


def probability(row):
    """A model that every feature matters to, and that fails for a certain amount."""
    if row[0] in (POISON / 100, POISON * 100 // 12_500):
        raise ArithmeticError("it cannot be scored")
    return float(np.dot(row, np.arange(3, 3 + len(row)) ** 2) % 101) / 101


class Log:
    """The input topic and the labels, by partition and offset, and what retention has left."""

    topic = TOPIC

    def __init__(self):
        self.values = {partition: [] for partition in PARTITIONS}
        self.fields = {partition: [] for partition in PARTITIONS}
        self.low = dict.fromkeys(PARTITIONS, 0)
        self.now = dict.fromkeys(PARTITIONS, JANUARY)
        self.labels = []

    def append(self, partition, step):
        """
        Add a payment, one that came before, or what is none. One that says nothing of how far the
        log is follows one that does: probes look at several records for that.
        """
        fields = self.fields[partition]
        plain = bool(fields) and fields[-1] is not None and fields[-1]["in_time"]
        if plain and step["broken"] is not None:
            self._add(partition, step["broken"] or None, None)
            return
        if plain and step["again"] and len(fields) >= step["again"]:
            again = fields[-step["again"]]
            if again is not None and again["payment"]["amount_minor"] != POISON:
                self._add(partition, encoded("transaction", again["payment"]), again)
                fields[-1] = {**again, "in_time": again["time"] >= self.now[partition] - DAY}
                return
        self.now[partition] += step["passed"]
        back = step["back"] if plain else min(step["back"], DAY)
        poison = plain and fields[-1]["payment"]["amount_minor"] != POISON and partition == 0
        time_ = self.now[partition] - back
        made = payment(
            next(_numbers), event_time=time_, kind=step["kind"],
            card_id=f"card-{step['card']}", terminal_id=f"terminal-{step['terminal']}",
            merchant_country=step["country"],
            amount_minor=step["amount"] if poison or step["amount"] != POISON else 5,
        )  # fmt: skip
        about = {"payment": made, "time": time_, "in_time": back <= DAY}
        self._add(partition, encoded("transaction", made), about)

    def append_label(self, number, *, genuine):
        """Published after all payments that there are: what has been scored stays as it was."""
        made = next((f["payment"] for f in self.fields[number % 2][::-1] if f is not None), None)
        if made is None:
            return
        facts = label(next(_numbers)) | {n: made[n] for n in ("transaction_id", "terminal_id")}
        facts |= {"published_at": max(self.now.values()) + 1 + number * DAY // 2}
        if genuine and self.labels:
            revoked = decoded("label", self.labels[-1])["label_id"]
            facts |= {"verdict": "GENUINE", "supersedes": str(revoked)}
        self.labels.append(encoded("label", facts))

    def teach(self, frauds, known):
        """Fold in the labels behind the first `known`; return how many there are."""
        frauds.add(self.labels[known:], [0] * (len(self.labels) - known))
        return len(self.labels)

    def _add(self, partition, value, about):
        self.values[partition].append(value)
        self.fields[partition].append(about)

    def records(self, partition, begin, end):
        """Return the records of [begin, end), as the client gives them."""
        found = []
        for offset in range(begin, min(end, len(self.values[partition]))):
            value, about = self.values[partition][offset], self.fields[partition][offset]
            key, millis = b"card", JANUARY // 1_000
            if about is not None:
                key, millis = about["payment"]["card_id"].encode(), about["time"] // 1_000
            found.append(
                Message(TOPIC, partition, offset, key=key, value=value, timestamp=(1, millis))
            )
        return found

    def beginnings(self, partitions, _):
        return {partition: self.low[partition] for partition in partitions}

    def read(self, partition, offset, count):
        return self.records(partition, offset, offset + count)


class Group:
    """What an instance polls: its partitions of the log, from where they go on."""

    def __init__(self, log):
        self._log = log
        self.owned = {}
        self.live_from = {}
        self.polled = {}
        self.most = {}

    def poll(self):
        """Return up to `most` records of each partition."""
        messages = [
            message
            for partition, begin in self.polled.items()
            for message in self._log.records(partition, begin, begin + self.most.get(partition, 0))
        ]
        records = as_records(TOPIC, messages)
        for partition, rows in by_partition(records.partitions):
            records.live[rows] = records.offsets[rows] >= self.live_from[partition]
            self.polled[partition] = int(records.offsets[rows[-1]]) + 1
        return records

    def settled(self, records, _):
        self.owned |= records.positions

    def rewind(self, _held=()):
        self.polled = dict(self.owned)


class Copy:
    """A copy of a partition's state in the making; pages are landed whenever the machine says."""

    def __init__(self, tables):
        self.state = StateCopy(tables)
        self._words = []
        self._flying = []
        self._lift(self.state.take())

    def _lift(self, pages):
        self._flying = pages
        self._words += [np.zeros(0, np.int64)] * (len(pages) - len(self._words))

    def land(self):
        """Copy what was handed over, from where it lies by now."""
        for number, pages in enumerate(self._flying):
            missing = pages.reach - len(self._words[number])
            if missing > 0:
                more = np.zeros(missing, np.int64)
                self._words[number] = np.concatenate([self._words[number], more])
            pages.copy_to(self._words[number])
        self._flying = []

    def take(self):
        """Hand over what was changed since."""
        self.land()
        self._lift(self.state.take())

    def cut(self):
        """Copy the rest; return the tables and their words."""
        self.land()
        self._lift([pages.gather() for pages in self.state.take()])
        self.land()
        tables = self.state.cut()
        self.state.release()
        counts = [count for table in tables for count in table.words]
        return tables, [words[:n] for words, n in zip(self._words, counts, strict=True)]


class Member:
    """One instance of the consumer, from its start to its end."""

    def __init__(self, world):
        self._world = world
        self.rig = world.rig()
        self.group = Group(world.log)
        self.copies = {}
        self._labels = 0
        loader = SnapshotLoader(
            world.store, world.contract, self.rig.state, self.rig.telemetry, GIVE_UP_SECONDS
        )
        decoder = PaymentDecoder([*world.schemas], attributes=world.feature_set.attributes)
        self.restorer = StateRestorer(
            world.log, decoder, self.rig.state, self.rig.telemetry, loader, self._part
        )
        self._loop = Loop(
            self.group, self.rig.pipeline, self.rig.state, BatchControl(10, 0.0),
            self.rig.telemetry, outage_limit_seconds=3_600,
        )  # fmt: skip

    def step(self, most, fate, *, copying):
        """Carry one batch of up to so many records of each partition; return what was sent."""
        self._labels = self._world.log.teach(self.rig.frauds, self._labels)
        self.group.most = most
        sent = []

        def publish(outputs):
            for copy in self.copies.values() if copying else ():
                copy.land()
            if fate == "aborted":
                return BatchAbortedError("refused")
            sent.extend(outputs)
            return BatchAbortedError("no answer") if fate == "unanswered" else None

        self.rig.sink.refuses = publish
        polls = iter([True])
        self._loop.run(lambda: next(polls, False))
        for _, next_offsets in self.rig.sink.batches:
            self._world.committed |= next_offsets
        self.rig.sink.batches.clear()
        self._copy(take=copying)
        return sent

    def _copy(self, *, take):
        """Have a copy of each restored partition in the making, and let it get on or not."""
        for partition in filter(self.is_restored, self.group.owned):
            if partition not in self.copies:
                self.copies[partition] = Copy(self.rig.state.tables(partition))
            if take:
                self.copies[partition].take()

    def begin(self, partition):
        """The partition was assigned: restore it, and let it run."""
        world, refused = self._world, self._refused
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while (plan := self.restorer.plan(partition, self._world.committed[partition])) is None:
            assert time.monotonic() < deadline
        damaged = {s.path for s in world.store.stored(partition)} & world.damaged
        assert self._refused - refused <= len(damaged), "a snapshot was refused that is whole"
        self.restorer.begin(partition, plan)
        self.group.owned[partition] = self.group.polled[partition] = plan.start
        self.group.live_from[partition] = plan.live_from

    @property
    def _refused(self):
        return self.rig.value("snapshots_refused_total", reason="damaged")

    def is_restored(self, partition):
        return self.group.owned[partition] >= self.group.live_from[partition]

    def cold_until(self, partition):
        """Return the event time before which a prediction says STATE_COLD."""
        tables = self.rig.state.tables(partition).values()
        return max(self.rig.state.cold_until(partition) or 0, *(t.cold_until for t in tables))

    def snapshot(self, partition):
        """Write the state of a restored partition, through the copy in the making if one is."""
        copy = self.copies.pop(partition, None) or Copy(self.rig.state.tables(partition))
        tables, words = copy.cut()
        offset = self.group.owned[partition]
        world = self._world
        cold_until = self.rig.state.cold_until(partition)
        stored = world.store.write(partition, offset, world.contract, cold_until, tables, words)
        world.damaged.discard(stored.path)
        world.store.prune(stored, 3)

    def _part(self, partition, _):
        self.snapshot(partition)

    def leave(self, partition, *, lost):
        """The partition goes; in good order its state is written."""
        if not lost and self.is_restored(partition):
            self.restorer.part(partition, self.group.owned[partition])
        self.copies.pop(partition, None)
        self.restorer.drop(partition)
        for places in (self.group.owned, self.group.polled, self.group.live_from):
            places.pop(partition)


class World:
    """The log, the group's offsets, the snapshots, and what one run without a break makes of it."""

    def __init__(self, feature_set, alert_window, max_bytes):
        self.schemas = [schemas.load("transaction")]
        self.feature_set = feature_set
        self._max_bytes = max_bytes
        self.alert_window = alert_window
        self.log = Log()
        self.committed = dict.fromkeys(PARTITIONS)
        self.contract = Contract(
            feature_set=feature_set.name, windows=dict(feature_set.windows), grace=DAY,
            alert_window=alert_window, schemas=["aa"],
        )  # fmt: skip
        self.store = SnapshotStore(f"memory://machine-{next(_numbers)}", "g", TOPIC)
        self._judge = Rig(
            FixedModel(probability), partitions=len(PARTITIONS),
            feature_set=feature_set, alert_window=alert_window,
        )  # fmt: skip
        self._judged = dict.fromkeys(PARTITIONS, 0)
        self._labels = 0
        self.outcomes = {}
        self.damaged = set()

    def rig(self):
        return Rig(
            FixedModel(probability), partitions=0, feature_set=self.feature_set,
            alert_window=self.alert_window, max_bytes=self._max_bytes,
        )  # fmt: skip

    def expected(self):
        """Return the outcomes of all records that there are, by one run over them."""
        judge = self._judge
        self._labels = self.log.teach(judge.frauds, self._labels)
        for partition in PARTITIONS:
            begin, end = self._judged[partition], len(self.log.values[partition])
            if begin < end:
                judge.run(as_records(TOPIC, self.log.records(partition, begin, end)))
            self._judged[partition] = end
        self.outcomes |= outcomes_of(o for outputs, _ in judge.sink.batches for o in outputs)
        judge.sink.batches.clear()
        return self.outcomes


def outcomes_of(outputs):
    """Return what became of each record: (kind, partition, offset) -> the decoded record."""
    found = {}
    for column in outputs:
        for number, value in enumerate(column.values):
            if column.topic == f"{TOPIC}-dlt":
                facts = dict(column.headers[number])
                place = [int(facts[f"__fraudstream.errors.{n}"]) for n in ("partition", "offset")]
                outcome, kind = facts["__fraudstream.errors.reason"], "dead letter"
            else:
                kind = "alert" if column.topic == "fraud.alerts" else "prediction"
                outcome = decoded(kind, value)
                place = [outcome[f"source_{name}"] for name in ("partition", "offset")]
            found[kind, *place] = outcome
    return found


class Machine(RuleBasedStateMachine):
    """Each rule is one thing that happens to the group."""

    @initialize(
        feature_set=st.sampled_from([ARRIVAL_1, ARRIVAL_4, HANDBOOK_1]),
        alert_window=st.sampled_from([DAY // 2, 3 * DAY]),
        max_bytes=st.sampled_from([0, 0, 12_000]),
        seed=seeds,
    )
    def begin(self, feature_set, alert_window, max_bytes, seed):
        self.patches = [
            patch.object(windows, "_FIRST_CARDS", 4),
            patch.object(restore, "SAMPLE", SAMPLE),
            patch.object(restore_adapter, "SAMPLE", SAMPLE),
            patch.object(loop, "_PAUSE_AFTER_ABORT_SECONDS", 0),
        ]
        for each in self.patches:
            each.start()
        self.world = World(feature_set, alert_window, max_bytes)
        self.members = [Member(self.world) for _ in range(3)]
        self.owner = dict.fromkeys(PARTITIONS)
        for partition in PARTITIONS:
            self.payments_come(partition, seed + partition, 80)

    def teardown(self):
        if hasattr(self, "world"):
            try:
                self.carry_the_rest()
            finally:
                for each in self.patches:
                    each.stop()
                fsspec.filesystem("memory").store.clear()
                gc.unfreeze()  # the loop froze what there was
                gc.collect()  # or the next one freezes the garbage for good, gigabytes of it

    def carry_the_rest(self):
        """One member takes all and goes on to the end."""
        for partition in PARTITIONS:
            self.take_away(partition, lost=False)
            self.assign(partition, 0)
        ends = {partition: len(values) for partition, values in self.world.log.values.items()}
        while self.members[0].group.polled != ends:
            self.carry(self.members[0], dict.fromkeys(PARTITIONS, 17), "committed")

    @rule(partition=st.sampled_from(PARTITIONS), event=events)
    def happens(self, partition, event):
        """One rule for all, lest hypothesis leaves out some of them for a whole run."""
        name, *inputs = event
        getattr(self, name)(partition, *inputs)

    def payments_come(self, partition, seed, count):
        """And now and then a label of an earlier one."""
        for step in steps_of(seed, count):
            self.world.log.append(partition, step)
            if step["card"] == 1:
                self.world.log.append_label(step["terminal"], genuine=step["amount"] == 0)

    def batch(self, partition, most, fate, copying):
        """Whoever has the partition carries a batch, of its other partitions as well."""
        if self.owner[partition] is None:
            self.assign(partition, partition)
        member = self.members[self.owner[partition]]
        self.carry(member, {p: most >> (p != partition) for p in PARTITIONS}, fate, copying=copying)

    def carry(self, member, most, fate, *, copying=False):
        before = dict(member.group.owned)
        found = outcomes_of(member.step(most, fate, copying=copying))
        expected = self.world.expected()
        for place, outcome in found.items():
            assert place in expected or self.is_unsure(member, place), f"{place} is one too many"
            if place in expected and outcome != expected[place]:
                if place[0] == "prediction" and "STATE_COLD" in outcome["degraded"]:
                    continue
                assert self.is_unsure(member, place), (outcome, expected[place])
        if fate == "committed":
            self.check_complete(member, before, found, expected)

    def check_complete(self, member, before, found, expected):
        """Whatever was to be said of the records that are done was said."""
        for partition, position in member.group.owned.items():
            for offset in range(
                max(before[partition], member.group.live_from[partition]), position
            ):
                for kind in ("prediction", "alert", "dead letter"):
                    place = (kind, partition, offset)
                    if place in expected and place not in found:
                        assert self.is_unsure(member, place), f"{place} is missing"

    def is_unsure(self, member, place):
        """Say whether an alert window of the record began when history was missing."""
        kind, partition, offset = place
        about = self.world.log.fields[partition][offset]
        if kind == "dead letter" or about is None:
            return False
        window = self.world.alert_window
        return about["time"] // window * window < member.cold_until(partition)

    def move(self, partition, name, how, harm, share):
        """A partition goes from one to another, or comes back; meanwhile things happen."""
        owner = self.owner[partition]
        if how == "killed" and owner is not None:
            self.kill(owner)
        self.take_away(partition, lost=how == "lost")
        if harm.endswith("damaged"):
            self.damage(partition, 1 if harm == "newest damaged" else None)
        low, committed = self.world.log.low[partition], self.world.committed[partition] or 0
        if harm == "retention":  # of what was committed
            self.world.log.low[partition] = low + max(0, committed - low) * share // 8
        if harm == "set back" and committed:
            self.world.committed[partition] = low + (committed - low) * share // 8
        self.assign(partition, name)

    def kill(self, name):
        self.members[name] = Member(self.world)
        for partition, owner in self.owner.items():
            if owner == name:
                self.owner[partition] = None

    def take_away(self, partition, *, lost):
        if self.owner[partition] is not None:
            self.members[self.owner[partition]].leave(partition, lost=lost)
            self.owner[partition] = None

    def assign(self, partition, name):
        self.members[name].begin(partition)
        self.owner[partition] = name

    def damage(self, partition, count):
        files = fsspec.filesystem("memory")
        for stored in self.world.store.stored(partition)[:count]:
            self.world.damaged.add(stored.path)
            files.pipe_file(stored.path, files.cat_file(stored.path)[:-1])

    def snapshot(self, partition):
        """The copy in the making is cut and written."""
        owner = self.owner[partition]
        if owner is not None and self.members[owner].is_restored(partition):
            self.members[owner].snapshot(partition)


TestStateMachine = Machine.TestCase
TestStateMachine.settings = settings(
    settings.get_profile("slow" if SLOW else "quick"),
    max_examples=2_000 if SLOW else 20,
    stateful_step_count=40,
)
