import math
from collections.abc import Iterable
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer_sim.pace import Pace
from producer_sim.publish import Control, Publisher, Reader, Stream
from producer_sim.timeline import Lane

sorted_times = st.lists(st.integers(0, 50), max_size=40).map(sorted)


class TimesAsRecords:
    """Writes each record as its number, so that a test can tell which one it was."""

    def keys(self, numbers) -> list[bytes]:
        return [b""] * len(numbers)

    def values(self, numbers) -> list[bytes]:
        return [str(number).encode() for number in numbers.tolist()]


class Topic:
    """A topic that acknowledges what it took when it is polled, never before."""

    def __init__(self, log: list[tuple[str, str, int]], name: str) -> None:
        self.log = log
        self.name = name
        self.waiting: list[int] = []
        self.stored: list[int] = []

    def produce(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        for _, value in records:
            self.waiting.append(int(value))
            self.log.append(("produced", self.name, int(value)))

    def poll(self, seconds: float) -> None:
        for number in self.waiting:
            self.log.append(("acknowledged", self.name, number))
        self.stored += self.waiting
        self.waiting.clear()

    def unacknowledged(self) -> int:
        return len(self.waiting)


class Scene:
    """A publisher between two topics that are lists."""

    def __init__(self, payment_times: list[int], label_times: list[int]) -> None:
        self.log: list[tuple[str, str, int]] = []
        self.payments = Topic(self.log, "payments")
        self.labels = Topic(self.log, "labels")
        self.statuses = []
        self._lanes = [
            Lane(np.arange(len(times)), np.array(times, np.int64))
            for times in (payment_times, label_times)
        ]

    def publisher(self, reader: Reader | None = None, stopped=lambda: False) -> Publisher:
        writer = TimesAsRecords()
        payments, labels = self._lanes
        return Publisher(
            Stream(payments, writer, self.payments),
            Stream(labels, writer, self.labels),
            Control(Pace(math.inf), reader, stopped, self.statuses.append),
        )


@given(sorted_times, sorted_times)
def test_a_label_is_acknowledged_before_any_later_payment_is_produced(payments, labels):
    """Whoever has read a payment can read every label published up to its time."""
    scene = Scene(payments, labels)

    scene.publisher().run()

    known: set[int] = set()
    for what, topic, number in scene.log:
        if (what, topic) == ("acknowledged", "labels"):
            known.add(number)
        if (what, topic) == ("produced", "payments"):
            due = {i for i, time in enumerate(labels) if time <= payments[number]}
            assert due <= known


@given(sorted_times, sorted_times)
def test_everything_is_produced_once_in_order_and_acknowledged(payments, labels):
    """A finished run has published each payment and each label, in order of time."""
    scene = Scene(payments, labels)

    scene.publisher().run()

    assert scene.payments.stored == list(range(len(payments)))
    assert scene.labels.stored == list(range(len(labels)))


@given(sorted_times.filter(len), st.integers(1, 7), st.integers(1, 5))
def test_a_reader_is_never_left_further_behind_than_allowed(payments, unread_max, reads):
    """Payments not yet read, those on their way included, never exceed the bound."""
    scene = Scene(payments, [])
    read = 0

    def unread() -> int:
        nonlocal read
        behind = len(scene.payments.stored) - read
        read += min(behind, reads)
        return behind

    scene.publisher(Reader("scorers", unread_max, unread)).run()

    produced = acknowledged = 0
    for what, *_ in scene.log:
        produced += what == "produced"
        acknowledged += what == "acknowledged"
        assert produced - acknowledged <= unread_max
    assert len(scene.payments.stored) == len(payments)


def test_who_is_waited_for_is_told():
    """A simulation that stands still says which group it waits for."""
    scene = Scene([1, 2, 3], [])
    unread = chain([2, 2], repeat(0))

    scene.publisher(Reader("scorers", 2, lambda: next(unread))).run()

    assert [status.waiting_for for status in scene.statuses[:3]] == ["scorers", "scorers", ""]


@pytest.mark.parametrize("steps", range(6))
def test_a_stop_leaves_the_first_so_many_records_of_each_topic(steps):
    """Wherever a stop falls, what is published is what an earlier end would have published."""
    scene = Scene([1, 3, 5], [2, 4])
    asked = iter([False] * steps)

    status = scene.publisher(stopped=lambda: next(asked, True)).run()

    assert scene.payments.stored == list(range(status.done.payments))
    assert scene.payments.waiting == []
    assert scene.labels.stored == list(range(len(scene.labels.stored)))
