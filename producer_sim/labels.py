"""
When it becomes known that a payment was a fraud, and the Label event that says so.

Labels live on the clock of the payments: each is reported and published at its payment's time
plus a delay. Genuine payments get none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Protocol

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

import schemas
from producer_sim.draws import fractions, uuids
from producer_sim.events import MICROSECONDS, Rows, event_ids, event_times, transaction_id
from producer_sim.handbook import DAY_SECONDS, Payments
from producer_sim.population import Fields, card_ids, terminal_ids

_DAYS: Final = r"(\d+(?:\.\d+)?)d"
_ONE_TIME: Final = re.compile(rf"(exactly|within|exponential):{_DAYS}")
_TWO_TIMES: Final = re.compile(rf"lognormal:{_DAYS}:{_DAYS}")
_SHARED: Final = re.compile(r"(\d+(?:\.\d+)?)%:([^+]+)\+(.+)")
_DAYS_MAX: Final = 3_650
_NORMAL_P95: Final = 1.6448536269514722
"""95th percentile of the standard normal distribution."""
_FRAUD_TYPES: Final = {1: "STOLEN", 2: "COUNTERFEIT", 3: "CARD_NOT_PRESENT"}


class DelayLaw(Protocol):
    """How long after its payment a fraud becomes known."""

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        """Return the delay of each row in whole seconds, at least 1, int64[n]."""
        ...


@dataclass(frozen=True, slots=True)
class Exactly:
    """Every fraud becomes known after the same time."""

    days: float

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        return np.full(len(rows), max(1, round(self.days * DAY_SECONDS)), np.int64)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Frauds become known by chance, as likely on any one day as on the next."""

    mean_days: float

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        """Invert the distribution at a draw of seed and row: -mean * log(1 - u)."""
        seconds = -self.mean_days * DAY_SECONDS * np.log1p(-fractions(seed, "label delay", rows))
        return _whole(seconds)


@dataclass(frozen=True, slots=True)
class Within:
    """Frauds become known at any moment of this time with equal chance, as analysts find them."""

    days: float

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        return _whole(self.days * DAY_SECONDS * fractions(seed, "label delay", rows))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Half are known by the median, and a few very late, as chargebacks are."""

    median_days: float
    p95_days: float

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        """
        Return median * exp(sigma * z), with sigma from the 95th percentile and z standard normal.

        Source: Box and Muller, A note on the generation of random normal deviates, 1958.
        """
        radius = np.sqrt(-2 * np.log1p(-fractions(seed, "label delay", rows)))
        normal = radius * np.cos(2 * np.pi * fractions(seed, "label delay, angle", rows))
        sigma = np.log(self.p95_days / self.median_days) / _NORMAL_P95
        return _whole(self.median_days * DAY_SECONDS * np.exp(sigma * normal))


@dataclass(frozen=True, slots=True)
class Shared:
    """A share of the frauds, drawn by chance, follows one law, the others another."""

    share: float
    law: DelayLaw
    others: DelayLaw

    def delay_seconds(self, rows: Rows, seed: int) -> NDArray[np.int64]:
        # By the law too: with a shared law inside another, each draws for itself.
        chosen = fractions(seed, f"label source, {self}", rows) < self.share
        return np.where(
            chosen, self.law.delay_seconds(rows, seed), self.others.delay_seconds(rows, seed)
        )


def _whole(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """
    Round up to whole seconds, which hides what libraries' logarithms differ by; at least 1, since
    no label may precede its own payment.
    """
    return np.maximum(1, np.ceil(seconds)).astype(np.int64)


def parse_law(text: str) -> DelayLaw:
    """
    Read `exactly:7d`, `within:1d`, `exponential:7d` (mean), `lognormal:14d:60d` (median and 95th
    percentile), or `40%:within:1d+lognormal:14d:60d`; days may have decimals.

    Raises ValueError with a sentence for anything else. A delay of 0 is refused too: the label
    would be out before its own payment.
    """
    law = _law(text)
    if law is None:
        raise ValueError(
            f"{text!r} is not a delay law: write exactly:7d, within:1d, exponential:7d,"
            " lognormal:14d:60d, or a share of one and the rest of another,"
            " 40%:within:1d+lognormal:14d:60d,"
            f" with more than 0 and at most {_DAYS_MAX} days"
        )
    return law


_ONE_TIME_LAWS: Final[Mapping[str, Callable[[float], DelayLaw]]] = {
    "exactly": Exactly,
    "within": Within,
    "exponential": Exponential,
}


def _law(text: str) -> DelayLaw | None:
    if match := _SHARED.fullmatch(text):
        share, law, others = float(match[1]) / 100, _law(match[2]), _law(match[3])
        return Shared(share, law, others) if law and others and 0 < share < 1 else None
    if match := _ONE_TIME.fullmatch(text):
        days = float(match[2])
        return _ONE_TIME_LAWS[match[1]](days) if 0 < days <= _DAYS_MAX else None
    if match := _TWO_TIMES.fullmatch(text):
        median, p95 = float(match[1]), float(match[2])
        return Lognormal(median, p95) if 0 < median < p95 <= _DAYS_MAX else None
    return None


@dataclass(frozen=True, slots=True)
class Labels:
    """
    Which payments are labelled and when, columns in the order of publishing.

    Labels of one microsecond are ordered by row; a label's place here is its identity.
    """

    row: Rows
    published_at: NDArray[np.int64]
    """Microseconds since 1970, on the clock of the payments."""

    def __len__(self) -> int:
        return len(self.row)


def fraud_labels(payments: Payments, law: DelayLaw, seed: int) -> Labels:
    """Return one label for each fraud, published after the delay that the law gives its row."""
    rows = np.flatnonzero(payments.scenario)
    delays = law.delay_seconds(rows, seed) * MICROSECONDS
    published_at = event_times(payments)[rows] + delays
    order = np.argsort(published_at, kind="stable")
    return Labels(rows[order], published_at[order])


class LabelWriter:
    """Writes any of `labels`, by their places, as Label events; equal seeds give equal bytes."""

    def __init__(self, payments: Payments, labels: Labels, seed: int) -> None:
        self._payments = payments
        self._labels = labels
        self._seed = seed
        self._times = event_times(payments)
        self._cards = card_ids(seed)
        self._terminals = terminal_ids(seed)
        schema = schemas.load("label")
        self._header = schemas.single_object_header(schema)
        self._schema = parse_schema(schema)

    def keys(self, places: Rows) -> list[bytes]:
        """Return the Kafka key of each label: its terminal's id."""
        terminals = self._payments.terminal[self._labels.row[places]]
        return [self._terminals[terminal].encode() for terminal in terminals.tolist()]

    def values(self, places: Rows) -> list[bytes]:
        """Return the Kafka value of each label."""
        return [self._encode(record) for record in self.records(places)]

    def records(self, places: Rows) -> list[Fields]:
        """Return each label's fields; a field that is not there takes its schema's default."""
        rows = self._labels.row[places]
        return [
            self._record(row, published_at, event_id, label_id)
            for row, published_at, event_id, label_id in zip(
                rows.tolist(),
                self._labels.published_at[places].tolist(),
                event_ids(rows, self._seed),
                uuids(self._seed, "label", rows),
                strict=True,
            )
        ]

    def _record(self, row: int, published_at: int, event_id: str, label_id: str) -> Fields:
        payments = self._payments
        scenario = int(payments.scenario[row])
        return {
            "label_id": label_id,
            "transaction_id": transaction_id(row),
            "event_id": event_id,
            "card_id": self._cards[payments.customer[row]],
            "terminal_id": self._terminals[payments.terminal[row]],
            "event_time": int(self._times[row]),
            "amount_minor": int(payments.cents[row]),
            "currency": "EUR",
            "verdict": "FRAUD",
            "source": "SIMULATOR",
            "fraud_type": _FRAUD_TYPES[scenario],
            "reported_at": published_at,
            "published_at": published_at,
            "scenario": str(scenario),
        }

    def _encode(self, record: Fields) -> bytes:
        buffer = BytesIO()
        buffer.write(self._header)
        schemaless_writer(buffer, self._schema, record)
        return buffer.getvalue()
