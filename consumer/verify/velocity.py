"""
Features of payments computed again, for a sample of cards and terminals: whole histories in lists.

One payment at a time in the order of the log, exact integers until the last step. What a payment's
windows hold, and when one is late, is told in docs/features.md and docs/state.md.
"""

import math
import struct
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

DAY: Final = 86_400_000_000
NEVER: Final = -(2**62)
_HOUR: Final = DAY // 24
_MINUTE: Final = 60_000_000
_ENTERING: Final = frozenset({"AUTHORISATION", "ADVICE"})
_MAJOR: Final = 10_000
_FINE_STEP: Final = 12_500
_FINE_END: Final = 3_000_000
_COARSE: Final = tuple(round(_FINE_END * 2 ** (quarter / 4)) for quarter in range(15))
_NIGHT_HOURS: Final = 7
_WEEKDAY_OF_1970: Final = 3
_SATURDAY: Final = 5
_RATIO_STEPS: Final = 20
_LARGEST_RATIO: Final = 12.5
_WIDEST: Final = 2**64

LONGEST: Final = 30 * DAY
"""The longest window of a card's payments, in every feature set."""
DELAY: Final = 7 * DAY
"""How long before the payment a terminal's windows of `handbook-1` end."""


class Payment(NamedTuple):
    """
    What windows take of a payment: times in microseconds, the amount in ten-thousandths; a country
    that is empty is none.
    """

    offset: int
    time: int
    amount: int
    event: int
    enters: bool
    utc_offset_minutes: int
    terminal: str = ""
    country: str = ""


class Answer(NamedTuple):
    """
    What a prediction says of a payment: float32 features. Where a feature is a share of the
    terminal's payments, the frauds that were known, by window.
    """

    feature_set: str
    features: bytes
    frauds: Sequence[int] | None


def payment_of(offset: int, fields: Mapping[str, Any], event: int) -> Payment | None:
    """Return the payment of these fields; None of one that no consumer would take."""
    minor, exponent = fields.get("billing_amount_minor"), fields.get("billing_currency_exponent")
    if minor is None:
        minor, exponent = fields["amount_minor"], fields.get("currency_exponent")
    exponent = 2 if exponent is None else exponent
    if not 0 <= exponent <= 4:  # noqa: PLR2004 - ISO 4217 has no others
        return None
    return Payment(
        offset, fields["event_time"], minor * 10 ** (4 - exponent), event,
        fields.get("kind", "AUTHORISATION") in _ENTERING,
        fields.get("local_utc_offset_minutes") or 0,
        fields["terminal_id"], fields.get("merchant_country") or "",
    )  # fmt: skip


class Sample:
    """
    The payments of as many owners, cards or terminals, as `most` payments allow, in log order.

    Owners are known by a hash, and those of the lowest hashes are kept: of each all payments, and
    the same ones in every run.
    """

    def __init__(self, most: int) -> None:
        """Nothing is kept yet."""
        self._most: Final = most
        self._below = _WIDEST if most > 0 else 0
        self._held = 0
        self.owners: Final[dict[tuple[int, int], list[Payment]]] = {}
        """(partition, hash) -> payments."""

    def takes(self, owner: int) -> bool:
        """Say whether the payments of this hash are kept."""
        return owner < self._below

    def add(self, partition: int, owner: int, payment: Payment) -> None:
        """Keep a payment, if its owner's are; where there are too many, fewer owners' are."""
        if owner >= self._below:
            return
        self.owners.setdefault((partition, owner), []).append(payment)
        self._held += 1
        while self._held > self._most:
            self._below //= 2
            for place in [place for place in self.owners if place[1] >= self._below]:
                self._held -= len(self.owners.pop(place))


@dataclass(slots=True)
class History:
    """
    The payments of one owner so far, by time, and by the log where times are equal.

    `doubtful` says that nobody can tell what it holds, and so what follows from it: a payment may
    have counted or not, or two may have been taken for one.
    """

    doubtful: bool = False
    _times: list[int] = field(default_factory=list)
    _payments: list[Payment] = field(default_factory=list)

    def before(self, payment: Payment, kept_after: int) -> list[Payment]:
        """
        Return what is measured with a payment: all that is kept up to its time, and for one that
        came before, what stood before the first of it.
        """
        until = bisect_right(self._times, payment.time)
        first = self._first_of(payment)
        return self._payments[bisect_right(self._times, kept_after) : min(until, first)]

    def add(self, payment: Payment, *, late: bool) -> None:
        """Let a payment enter, unless it is late or came before."""
        if not payment.enters or late or self._first_of(payment) < len(self._payments):
            return
        at = bisect_right(self._times, payment.time)
        insort(self._times, payment.time)
        self._payments.insert(at, payment)

    def _first_of(self, payment: Payment) -> int:
        """Return where the same payment stands, the end where it does not."""
        at = bisect_right(self._times, payment.time)
        while payment.enters and at > 0 and self._times[at - 1] == payment.time:
            at -= 1
            other = self._payments[at]
            if other.amount == payment.amount:
                # Another event of equal time and amount has, once in 2,048, the same fingerprint.
                self.doubtful |= other.event != payment.event
                if other.event == payment.event:
                    return at
        return len(self._payments)


def differing(answer: Answer, payment: Payment, earlier: Sequence[Payment]) -> bool:
    """Say whether what a prediction says of the card's windows is not what they hold."""
    says = struct.unpack(f"<{len(answer.features) // 4}f", answer.features)
    expected = _SETS[answer.feature_set](payment, earlier)
    return any(says[at] != _float32(value) for at, value in expected.items())


def differing_terminal(answer: Answer, payment: Payment, earlier: Sequence[Payment]) -> bool:
    """Say so of the terminal's delayed windows, which `handbook-1` has."""
    says = struct.unpack(f"<{len(answer.features) // 4}f", answer.features)
    expected: list[float] = []
    for window, frauds in zip((DAY, 7 * DAY, 30 * DAY), answer.frauds or (), strict=True):
        end = payment.time - DELAY
        count = sum(end - window < other.time <= end for other in earlier)
        expected += [count, frauds / count if count else 0.0]
    return list(says[9:15]) != [_float32(value) for value in expected]


def _arrival_1(payment: Payment, earlier: Sequence[Payment]) -> dict[int, float]:
    day, week, month = (_amounts(payment, earlier, days) for days in (1, 7, 30))
    found: dict[int, float] = {0: _grid(payment.amount, 1), **_calendar(payment)}
    for at, amounts in ((3, day), (5, week), (7, month)):
        found |= {at: len(amounts), at + 1: _grid(sum(amounts), len(amounts))}
    others = len(month) - 1
    mean_before = (sum(month) - payment.amount) / max(others, 1)
    found[12] = _ratio(payment.amount, mean_before) if others else _RATIO_STEPS
    found[13] = _ratio(sum(day) / len(day), sum(month) / len(month))
    return found


def _arrival_2(payment: Payment, earlier: Sequence[Payment]) -> dict[int, float]:
    found = _arrival_1(payment, earlier)
    month = _amounts(payment, earlier, 30)
    for at, days in ((18, 1), (19, 7), (20, 14)):
        recent = _amounts(payment, earlier, days)
        others = len(month) - len(recent)
        mean_before = (sum(month) - sum(recent)) / max(others, 1)
        found[at] = _ratio(sum(recent) / len(recent), mean_before) if others else _RATIO_STEPS
    return found


def _arrival_3(payment: Payment, earlier: Sequence[Payment]) -> dict[int, float]:
    since = payment.time - earlier[-1].time if earlier else LONGEST
    return {**_arrival_1(payment, earlier), 14: min(since, LONGEST) / 1_000_000}


def _arrival_4(payment: Payment, earlier: Sequence[Payment]) -> dict[int, float]:
    found = _arrival_3(payment, earlier)
    for at, days in ((15, 1), (17, 7)):
        start = payment.time - days * DAY
        inside = [payment, *(other for other in earlier if other.time > start)]
        found[at] = len({other.terminal for other in inside})
        found[at + 1] = len({other.country for other in inside} - {""})
    return found


def _handbook_1(payment: Payment, earlier: Sequence[Payment]) -> dict[int, float]:
    found: dict[int, float] = {0: payment.amount / _MAJOR, **_calendar(payment)}
    for at, days in ((3, 1), (5, 7), (7, 30)):
        amounts = _amounts(payment, earlier, days)
        found |= {at: len(amounts), at + 1: sum(amounts) / (len(amounts) * _MAJOR)}
    return found


_SETS: Final = MappingProxyType(
    {
        "arrival-1": _arrival_1,
        "arrival-2": _arrival_2,
        "arrival-3": _arrival_3,
        "arrival-4": _arrival_4,
        "handbook-1": _handbook_1,
    }
)
FEATURE_SETS: Final = frozenset(_SETS)
"""Those whose features are known here."""


def _amounts(payment: Payment, earlier: Sequence[Payment], days: int) -> list[int]:
    """Return the amounts of (t - days, t], the payment's own the last."""
    start = payment.time - days * DAY
    return [*(other.amount for other in earlier if other.time > start), payment.amount]


def _calendar(payment: Payment) -> dict[int, float]:
    """Return weekend and night, local time of the terminal."""
    local = payment.time + payment.utc_offset_minutes * _MINUTE
    weekday, hour = (local // DAY + _WEEKDAY_OF_1970) % 7, local % DAY // _HOUR
    return {1: weekday >= _SATURDAY, 2: hour < _NIGHT_HOURS}


def _grid(total: int, count: int) -> int:
    """Return the step of a mean: 1.25 wide up to 300, then four to each doubling."""
    total = abs(total)
    if total < _FINE_END * count:
        return total // (_FINE_STEP * count)
    return _FINE_END // _FINE_STEP - 1 + sum(total >= edge * count for edge in _COARSE)


def _ratio(over: float, under: float) -> int:
    """Return a quotient in steps of 0.05: at most 12.5, and 1 where there is nothing to compare."""
    if under == 0:
        return _RATIO_STEPS if over == 0 else round(_RATIO_STEPS * _LARGEST_RATIO)
    return math.floor(_RATIO_STEPS * min(max(over / under, 0.0), _LARGEST_RATIO))


def _float32(value: float) -> float:
    number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return number
