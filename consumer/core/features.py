"""
Events -> rows of model inputs. Each feature is declared once, here; its meaning never changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import Events, Rows
from consumer.core.feature_sets import FeatureSet
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from consumer.core.symbols import KINDS
from consumer.records import Bools, Longs

DAY: Final = 86_400_000_000
_SATURDAY: Final = 5  # Monday is 0; 1970-01-01 was a Thursday, 3
_LAST_HOUR_OF_NIGHT: Final = 6  # as in the Handbook's data; its prose says that 6:00 ends it
HOUR: Final = DAY // 24
RATIO_STEPS: Final = 20
LARGEST_RATIO: Final = 12.5
_AUTHORISATION: Final = KINDS.index("AUTHORISATION")
_ADVICE: Final = KINDS.index("ADVICE")


@dataclass(frozen=True, slots=True)
class Measures:
    """
    Raw columns that aggregates are computed from, n events; counts, sums and frauds int64[n, w].
    """

    amounts: Longs
    local_times: Longs
    counts: Longs
    sums: Longs
    frauds: Longs


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


def _to_mean_before(m: Measures, w: int) -> NDArray[np.float64]:
    others = m.counts[:, w] - 1
    mean_before = (m.sums[:, w] - m.amounts) / np.maximum(others, 1)
    return np.where(others == 0, RATIO_STEPS, ratio(m.amounts, mean_before))


def _to_longest_mean(m: Measures, w: int) -> NDArray[np.float64]:
    return ratio(m.sums[:, w] / m.counts[:, w], m.sums[:, -1] / m.counts[:, -1])


def _to_mean_earlier(m: Measures, w: int) -> NDArray[np.float64]:
    earlier = m.counts[:, -1] - m.counts[:, w]
    mean_earlier = (m.sums[:, -1] - m.sums[:, w]) / np.maximum(earlier, 1)
    return np.where(earlier == 0, RATIO_STEPS, ratio(m.sums[:, w] / m.counts[:, w], mean_earlier))


def _weekend(m: Measures, _: int) -> Bools:
    return (m.local_times // DAY + 3) % 7 >= _SATURDAY


def _night(m: Measures, _: int) -> Bools:
    return m.local_times // HOUR % 24 <= _LAST_HOUR_OF_NIGHT


AGGREGATES: Final[Mapping[str, Callable[[Measures, int], NDArray[Any]]]] = {
    "amount": lambda m, _: grid(m.amounts),
    "weekend": _weekend,
    "night": _night,
    "count": lambda m, w: m.counts[:, w],
    "mean": lambda m, w: grid(m.sums[:, w], m.counts[:, w]),
    "frauds": lambda m, w: m.frauds[:, w],
    "to_mean_before": _to_mean_before,
    "to_longest_mean": _to_longest_mean,
    "to_mean_earlier": _to_mean_earlier,
}


class FeatureStep:
    """Computes one feature set over the velocity state and the labels known."""

    def __init__(
        self, feature_set: FeatureSet, state: VelocityState, frauds: TerminalFrauds
    ) -> None:
        """The state must have been made for the feature set's windows."""
        self._features = feature_set.features
        self._windows = np.array(feature_set.windows, np.int64)
        self._slots = [
            int(np.searchsorted(self._windows, feature.window)) for feature in self._features
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
        measures = Measures(
            events.amounts,
            events.times + events.utc_offset_minutes * 60_000_000,
            velocity.counts,
            velocity.sums,
            self._frauds.count(events.terminals, events.times, self._windows),
        )
        values = np.empty((len(events), len(self._features)), np.float32)
        for column, (feature, slot) in enumerate(zip(self._features, self._slots, strict=True)):
            values[:, column] = AGGREGATES[feature.aggregate](measures, slot)
        return events, Rows(values, velocity.late, velocity.cold)
