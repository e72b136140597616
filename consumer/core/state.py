"""Velocity state of the partitions that this instance owns, each a fold of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import Events
from consumer.core.feature_sets import TOPIC_KEY, Key, KeyPlan
from consumer.core.windows import CardWindows
from consumer.core.words import masks_of, words_of
from consumer.records import Bools, Longs, by_partition

ALWAYS = -(2**62)

Tables = Mapping[Key, CardWindows]
"""The windows of one partition, by the key whose history they hold."""

_HASHES: Final[Mapping[Key, Callable[[Events], Longs]]] = {
    "card": attrgetter("cards"),
    "terminal": attrgetter("terminals"),
}


@dataclass(frozen=True, slots=True)
class Totals:
    """
    Payments in the windows of one key: counts and sums int64[n, w], shortest window first; since
    int64[n], microseconds from the last of them before, the longest window where there is none;
    distinct int64[n, v, d], how many different ones of v attributes the d shortest windows have.
    None: the plan of the key does not ask for it.
    """

    counts: Longs
    sums: Longs
    since: Longs | None
    distinct: Longs | None

    @classmethod
    def empty(cls, plan: KeyPlan, n: int) -> "Totals":
        """Return columns to be filled, as the plan asks."""
        shape = n, len(plan.windows)
        told = n, len(plan.of), len(plan.distinct_windows)
        return cls(
            np.empty(shape, np.int64),
            np.empty(shape, np.int64),
            np.empty(n, np.int64) if plan.tells_since else None,
            np.empty(told, np.int64) if plan.of else None,
        )

    def take(self, rows: NDArray[np.intp]) -> "Totals":
        """Return the same of these rows."""
        return Totals(
            self.counts[rows],
            self.sums[rows],
            None if self.since is None else self.since[rows],
            None if self.distinct is None else self.distinct[rows],
        )


@dataclass(frozen=True, slots=True)
class Velocity:
    """What the windows of each key said of n events; late, cold and hot bool[n]."""

    totals: Mapping[Key, Totals]
    late: Bools
    cold: Bools
    hot: Bools

    def take(self, rows: NDArray[np.intp]) -> "Velocity":
        """Return the same of these rows."""
        totals = {key: totals.take(rows) for key, totals in self.totals.items()}
        return Velocity(totals, self.late[rows], self.cold[rows], self.hot[rows])


@dataclass(slots=True)
class _Partition:
    windows: Tables
    score_from: int
    decided_since: int
    cold_until: int | None


class VelocityState:
    """
    Windows and alerts by partition. Everything since the last `settle` can be rolled back.

    Each key that has windows has a table of its own; alerts are remembered in that of the cards.
    """

    def __init__(
        self,
        plan: Mapping[Key, KeyPlan],
        grace: int,
        alert_window: int,
        max_bytes: int = 0,
    ) -> None:
        """
        `plan` is a feature set's, cards among its keys. `grace` and `alert_window` are
        microseconds; `max_bytes` limits each partition, all its keys alike.
        """
        self._plan = plan
        self._grace = grace
        self._alert_window = alert_window
        self._max_bytes = max_bytes
        self._evicted = 0
        self._partitions: dict[int, _Partition] = {}

    @property
    def longest_window(self) -> int:
        """Length of the longest window of any key, microseconds."""
        return max(max(plan.windows) for plan in self._plan.values())

    @property
    def grace(self) -> int:
        """How late a payment may be and still enter the windows, microseconds."""
        return self._grace

    def begin(
        self,
        partition: int,
        *,
        score_from: int = ALWAYS,
        decided_since: int = 0,
        cold_until: int | None = ALWAYS,
        tables: Tables | None = None,
    ) -> None:
        """
        Start a partition with empty windows, or with the `tables` of a snapshot.

        Replayed events before `score_from` (event time, microseconds) need no score, since they
        can raise no alert that still counts, nor do those of offsets before `decided_since`: what
        another model raised alerts for is not known. Events before `cold_until` miss history. None:
        all do until the longest window after the first of them.
        """
        tables = self.empty_tables() if tables is None else tables
        self._partitions[partition] = _Partition(tables, score_from, decided_since, cold_until)

    def empty_tables(self) -> Tables:
        """Return tables for a partition, by the key whose history they hold."""
        max_bytes = self._max_bytes // len(self._plan)
        return {
            key: CardWindows(
                plan.windows, self._grace, self._alert_window, max_bytes,
                masks=masks_of(plan.of) if plan.of else None,
            )
            for key, plan in self._plan.items()
        }  # fmt: skip

    def tables(self, partition: int) -> Tables:
        """Return the tables of a partition."""
        return self._partitions[partition].windows

    def cold_until(self, partition: int) -> int | None:
        """Return the event time from which the partition misses no history; see `begin`."""
        return self._partitions[partition].cold_until

    def drop(self, partition: int) -> None:
        """Forget a partition that went to another instance."""
        self._partitions.pop(partition, None)

    def score_from(self, watermark: int) -> int:
        """
        Return the event time from which an alert may still suppress another, at this watermark.
        """
        return (watermark - self._grace) // self._alert_window * self._alert_window

    def observe(self, events: Events, enters: Bools) -> Velocity:
        """Measure each event's windows, itself included, and add those that enter them."""
        n = len(events)
        totals = {key: Totals.empty(plan, n) for key, plan in self._plan.items()}
        words = {key: words_of(events, plan.of) for key, plan in self._plan.items() if plan.of}
        late, cold, hot = (np.zeros(n, np.bool_) for _ in range(3))
        velocity = Velocity(totals, late, cold, hot)
        for partition, rows in by_partition(events.partitions):
            state = self._partitions[partition]
            for key, windows in state.windows.items():
                windows.observe(
                    rows, _HASHES[key](events), events.times, events.amounts,
                    events.fingerprints, enters,
                    totals[key].counts, totals[key].sums, totals[key].since, late, hot,
                    words.get(key), totals[key].distinct,
                )  # fmt: skip
            if state.cold_until is None:
                state.cold_until = int(events.times[rows[0]]) + self.longest_window
            evicted_until = max(windows.cold_until for windows in state.windows.values())
            cold_until = max(state.cold_until, evicted_until)
            cold[rows] = events.times[rows] < cold_until
        return velocity

    def needs_score(self, events: Events) -> Bools:
        """
        Say which events must be scored: all live ones, and replayed ones that may raise an alert.
        """
        if events.live.all():
            return events.live
        needed = events.live.copy()
        for partition, rows in by_partition(events.partitions):
            state = self._partitions[partition]
            may_count = events.times[rows] >= state.score_from
            needed[rows] |= may_count & (events.offsets[rows] >= state.decided_since)
        return needed

    def open_alerts(self, events: Events, late: Bools) -> Bools:
        """Say which of these flagged events are the first of their card in an alert window."""
        opened = np.zeros(len(events), np.bool_)
        for partition, rows in by_partition(events.partitions):
            windows = self._partitions[partition].windows[TOPIC_KEY]
            opened[rows] = windows.open_alerts(events.cards[rows], events.times[rows], late[rows])
        return opened

    def is_settled(self, partition: int) -> bool:
        """Say whether nothing of the partition could be rolled back now."""
        return all(windows.is_settled for windows in self.tables(partition).values())

    def settle(self) -> None:
        """The batch is committed: forget the way back."""
        for windows in self._tables():
            self._evicted += windows.settle()

    def roll_back(self) -> None:
        """The batch is not committed: return to the last settled state, bit for bit."""
        for windows in self._tables():
            windows.roll_back()

    @property
    def card_count(self) -> int:
        """Cards in memory, over all partitions."""
        return sum(state.windows[TOPIC_KEY].card_count for state in self._partitions.values())

    @property
    def evicted_count(self) -> int:
        """Cards evicted since the start, of partitions dropped meanwhile as well."""
        return self._evicted

    @property
    def nbytes(self) -> int:
        """Bytes of state in use, over all partitions."""
        return sum(windows.nbytes for windows in self._tables())

    def _tables(self) -> Iterator[CardWindows]:
        for state in self._partitions.values():
            yield from state.windows.values()
