"""
Events -> rows of model inputs. Each feature is declared once, here; its meaning never changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import Events, Rows
from consumer.core.feature_sets import TOPIC_KEY, Feature, FeatureSet, Key
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from consumer.core.symbols import KINDS
from consumer.records import Bools, Longs

DAY: Final = 86_400_000_000
_SATURDAY: Final = 5  # Monday is 0; 1970-01-01 was a Thursday, 3
_LAST_HOUR_OF_NIGHT: Final = 6  # as in the Handbook's data; its prose says that 6:00 ends it
HOUR: Final = DAY // 24
_MAJOR_UNIT: Final = 10_000
RATIO_STEPS: Final = 20
LARGEST_RATIO: Final = 12.5
_AUTHORISATION: Final = KINDS.index("AUTHORISATION")
_ADVICE: Final = KINDS.index("ADVICE")


@dataclass(frozen=True, slots=True)
class Measures:
    """
    Raw columns that aggregates are computed from, n events; counts and sums int64[n, w] of the
    windows of one key, frauds int64[n, v] of the windows of labels. Of a key that features ask it
    of, since int64[n], microseconds since its last payment, and distinct int64[n, attributes, d] of
    its d shortest windows.
    """

    amounts: Longs
    local_times: Longs
    counts: Longs
    sums: Longs
    frauds: Longs
    since: Longs | None
    distinct: Longs | None


@dataclass(frozen=True, slots=True)
class Slots:
    """
    Where a feature's window stands among its key's, and among those of labels; `delay` is where the
    one stands that a delayed window leaves out, `length` its own, microseconds; `of` is where its
    attribute stands among those that are told apart.
    """

    payments: int
    delay: int
    labels: int
    length: int
    of: int


def grid(totals: Longs, counts: Longs | int = 1) -> Longs:
    """
    Put a mean amount, totals / counts ten-thousandths, on 255 steps: 1.25 wide up to 300, then
    four to each doubling.

    Quantile bins of histogram boosting would merge the tail where fraud lies. Integers alone, so
    that every machine agrees. The sign is left out: a refund is as large as its payment.
    """
    totals = np.abs(totals)
    steps: Longs = totals // (counts * _STEP)
    beyond = np.flatnonzero(steps >= _FINE_STEPS)
    if len(beyond):
        edges = np.broadcast_to(counts, totals.shape)[beyond, None] * _COARSE_EDGES
        steps[beyond] = _FINE_STEPS - 1 + (totals[beyond, None] >= edges).sum(axis=1)
    return steps


_STEP: Final = 12_500
_FINE_STEPS: Final = 240
_COARSE_EDGES: Final = np.round(3_000_000 * 2 ** (np.arange(15) / 4)).astype(np.int64)


def ratio(over: NDArray[Any], under: NDArray[Any]) -> NDArray[np.float64]:
    """
    Return over / under on steps of 0.05, at most 12.5; 1 for 0 / 0, with nothing to compare.

    Steps for the same reason as in `grid`: unstepped, average precision was 0.009 lower.
    """
    plain = np.divide(over, under, out=np.full(len(over), LARGEST_RATIO), where=under != 0)
    plain[(under == 0) & (over == 0)] = 1.0
    stepped: NDArray[np.float64] = np.floor(RATIO_STEPS * np.clip(plain, 0.0, LARGEST_RATIO))
    return stepped


def _to_mean_before(m: Measures, at: Slots) -> NDArray[np.float64]:
    others = m.counts[:, at.payments] - 1
    mean_before = (m.sums[:, at.payments] - m.amounts) / np.maximum(others, 1)
    return np.where(others == 0, RATIO_STEPS, ratio(m.amounts, mean_before))


def _to_longest_mean(m: Measures, at: Slots) -> NDArray[np.float64]:
    w = at.payments
    return ratio(m.sums[:, w] / m.counts[:, w], m.sums[:, -1] / m.counts[:, -1])


def _to_mean_earlier(m: Measures, at: Slots) -> NDArray[np.float64]:
    w = at.payments
    earlier = m.counts[:, -1] - m.counts[:, w]
    mean_earlier = (m.sums[:, -1] - m.sums[:, w]) / np.maximum(earlier, 1)
    return np.where(earlier == 0, RATIO_STEPS, ratio(m.sums[:, w] / m.counts[:, w], mean_earlier))


def _weekend(m: Measures, _: Slots) -> Bools:
    return (m.local_times // DAY + 3) % 7 >= _SATURDAY


def _night(m: Measures, _: Slots) -> Bools:
    return m.local_times // HOUR % 24 <= _LAST_HOUR_OF_NIGHT


def _delayed_count(m: Measures, at: Slots) -> Longs:
    counts: Longs = m.counts[:, at.payments] - m.counts[:, at.delay]
    return counts


def _risk(m: Measures, at: Slots) -> NDArray[np.float64]:
    counts = _delayed_count(m, at)
    return np.where(counts == 0, 0.0, m.frauds[:, at.labels] / np.maximum(counts, 1))


def _seconds_since_last(m: Measures, at: Slots) -> NDArray[np.float64]:
    return np.minimum(cast(Longs, m.since), at.length) / 1_000_000


def _distinct(m: Measures, at: Slots) -> Longs:
    return cast(Longs, m.distinct)[:, at.of, at.payments]


Aggregate = Callable[[Measures, Slots], NDArray[Any]]

AGGREGATES: Final[Mapping[str, Aggregate]] = {
    "amount": lambda m, _: grid(m.amounts),
    "weekend": _weekend,
    "night": _night,
    "count": lambda m, at: m.counts[:, at.payments],
    "mean": lambda m, at: grid(m.sums[:, at.payments], m.counts[:, at.payments]),
    "frauds": lambda m, at: m.frauds[:, at.labels],
    "exact_amount": lambda m, _: m.amounts / _MAJOR_UNIT,
    "exact_mean": lambda m, at: m.sums[:, at.payments] / (m.counts[:, at.payments] * _MAJOR_UNIT),
    "delayed_count": _delayed_count,
    "risk": _risk,
    "to_mean_before": _to_mean_before,
    "to_longest_mean": _to_longest_mean,
    "to_mean_earlier": _to_mean_earlier,
    "seconds_since_last": _seconds_since_last,
    "distinct": _distinct,
}


class FeatureStep:
    """Computes one feature set over the velocity state and the labels known."""

    def __init__(
        self, feature_set: FeatureSet, state: VelocityState, frauds: TerminalFrauds
    ) -> None:
        """The state must have been made for the feature set's plan."""
        self._plan = feature_set.plan
        self._label_windows = np.array(feature_set.label_windows, np.int64)
        self._columns = [
            (AGGREGATES[feature.aggregate], self._source(feature), self._slots(feature))
            for feature in feature_set.features
        ]
        self._state = state
        self._frauds = frauds

    def measure(self, events: Events) -> tuple[Events, Rows]:
        """Add the events to the state; return those that need a score, with their rows."""
        enters = (events.kinds == _AUTHORISATION) | (events.kinds == _ADVICE)
        velocity = self._state.observe(events, enters)
        needed = self._state.needs_score(events)
        if not needed.all():
            keep = np.flatnonzero(needed)
            events = events.take(keep)
            velocity = velocity.take(keep)
        local_times = events.times + events.utc_offset_minutes * 60_000_000
        frauds = self._frauds.count(events.terminals, events.times, self._label_windows)
        measures = {
            key: Measures(
                amounts=events.amounts,
                local_times=local_times,
                counts=totals.counts,
                sums=totals.sums,
                frauds=frauds,
                since=totals.since,
                distinct=totals.distinct,
            )
            for key, totals in velocity.totals.items()
        }
        values = np.empty((len(events), len(self._columns)), np.float32)
        for column, (aggregate, source, slots) in enumerate(self._columns):
            values[:, column] = aggregate(measures[source], slots)
        return events, Rows(values, velocity.late, velocity.cold, velocity.hot)

    def _source(self, feature: Feature) -> Key:
        """Return whose windows it reads; one that reads none takes any key's columns."""
        return feature.key if feature.payment_windows else TOPIC_KEY

    def _slots(self, feature: Feature) -> Slots:
        plan = self._plan[self._source(feature)]
        lengths = plan.windows
        return Slots(
            int(np.searchsorted(lengths, feature.delay + feature.window)),
            int(np.searchsorted(lengths, feature.delay)),
            int(np.searchsorted(self._label_windows, feature.window)),
            feature.window,
            plan.of.index(feature.of) if feature.of else 0,
        )
