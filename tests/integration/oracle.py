"""
The features of arrival-1 and arrival-4, computed again: slow, plain, and sharing no line with the
pipeline.
Frauds are counted by the checker (consumer/verify/frauds.py), which shares none either.

One payment at a time in log order, whole histories in lists, exact integers until the last step.
"""

import math
import struct
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * 60 * MINUTE
WINDOWS = (DAY, 7 * DAY, 30 * DAY)
ENTERING = {"AUTHORISATION", "ADVICE"}
FINE_STEP = 12_500  # 1.25 in ten-thousandths
FINE_END = 3_000_000  # 300
TOLD_APART = 4_095
"""Of a card's payments the newest so many; of older ones a window takes the hours it holds."""


_Past = tuple[int, int, str, str, str | None]
"""Time, amount, event id, terminal and country of a payment."""


@dataclass
class Partition:
    """The history of one partition of the input topic; feed it every payment in offset order."""

    grace: int
    watermark: float = -math.inf
    feature_set: str = "arrival-1"
    _cards: dict[str, list[_Past]] = field(default_factory=lambda: defaultdict(list))

    def observe(
        self, payment: dict[str, Any], frauds: Sequence[int]
    ) -> tuple[list[float], bool, bool]:
        """
        Return the payment's features, whether it came too late to enter the windows, and whether
        its card is hot.
        """
        time, amount = payment["event_time"], _ten_thousandths(payment)
        late = time < self.watermark - self.grace
        self.watermark = max(self.watermark, time)
        kept_after = self.watermark - WINDOWS[-1] - self.grace
        history = self._cards[payment["card_id"]]
        newest, older = history[-TOLD_APART:], history[:-TOLD_APART]
        earlier = [past for past in newest if kept_after < past[0] <= time]
        place = payment["terminal_id"], payment["merchant_country"]
        this = (time, amount, payment["event_id"], *place)
        repeated = payment["kind"] in ENTERING and this in earlier
        if repeated:
            since = earlier.index(this)
            earlier = [p for k, p in enumerate(earlier) if p[0] < time or k < since]
        hours = [(t - t % HOUR, a, event, "", None) for t, a, event, *_ in older]
        earlier += [past for past in hours if kept_after < past[0] <= time]
        start = max(time - WINDOWS[-1], kept_after)
        hot = len(newest) == TOLD_APART and newest[0][0] > start
        inside = [[a for t, a, *_ in earlier if t > time - w] + [amount] for w in WINDOWS]
        if payment["kind"] in ENTERING and not late and not repeated:
            insort(history, this, key=lambda past: past[0])
        month = inside[-1]
        features = [_grid(amount, 1), *_calendar(payment)]
        for amounts in inside:
            features += [len(amounts), _grid(sum(amounts), len(amounts))]
        features += frauds
        others = len(month) - 1
        features.append(_steps(amount, (sum(month) - amount) / others) if others else 20)
        features.append(_steps(sum(inside[0]) / len(inside[0]), sum(month) / len(month)))
        if self.feature_set == "arrival-4":
            features += _more_of_arrival_4(this, earlier)
        return [_float32(feature) for feature in features], late, hot


def _more_of_arrival_4(this: _Past, earlier: Sequence[_Past]) -> list[float]:
    """Return seconds since the last payment; terminals and countries of a day, and of a week."""
    time = this[0]
    last = max([time - WINDOWS[-1], *(t for t, *_ in earlier)])
    features = [(time - last) / 1_000_000]
    for window in WINDOWS[:2]:
        places = [this[3:], *(past[3:] for past in earlier if past[0] > time - window)]
        features.append(len({terminal for terminal, _ in places if terminal}))
        features.append(len({country for _, country in places if country}))
    return features


def _float32(feature: float) -> float:
    """Return what a row of float32 holds of it; only seconds are no small whole numbers."""
    found: tuple[float] = struct.unpack("f", struct.pack("f", feature))
    return found[0]


def _calendar(payment: dict[str, Any]) -> list[bool]:
    """Return whether it is weekend, and night, where the terminal stands."""
    local = payment["event_time"] + (payment["local_utc_offset_minutes"] or 0) * MINUTE
    return [(local // DAY + 3) % 7 in {5, 6}, local % DAY // HOUR < 7]


def _ten_thousandths(payment: dict[str, Any]) -> int:
    minor, exponent = payment["amount_minor"], payment["currency_exponent"]
    if payment["billing_amount_minor"] is not None:
        minor, exponent = payment["billing_amount_minor"], payment["billing_currency_exponent"]
        exponent = 2 if exponent is None else exponent
    return minor * 10 ** (4 - exponent)


def _grid(total: int, count: int) -> int:
    """Return the step of a mean: 1.25 wide up to 300, then four to each doubling, 255 in all."""
    total = abs(total)
    if total < FINE_END * count:
        return total // (FINE_STEP * count)
    edges = [round(FINE_END * 2 ** (quarter / 4)) for quarter in range(15)]
    return 239 + sum(total >= edge * count for edge in edges)


def _steps(over: float, under: float) -> int:
    """Return a ratio in steps of 0.05: at most 12.5, and 1 where there is nothing to compare."""
    if under == 0:
        return 20 if over == 0 else 250
    return math.floor(20 * min(max(over / under, 0.0), 12.5))
