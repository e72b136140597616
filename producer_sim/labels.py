"""
When it becomes known that a payment was a fraud, and the Label event that says so.

Labels live on the clock of the payments: each is reported and published at its payment's time
plus a delay. Genuine payments get none.
"""

import re
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

_LAW: Final = re.compile(r"(?P<law>exactly|exponential):(?P<days>\d+(\.\d+)?)d")
_DAYS_MAX: Final = 3_650
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
        # Up to whole seconds: they hide what libraries' logarithms differ by, and no label may
        # precede its own payment.
        return np.maximum(1, np.ceil(seconds)).astype(np.int64)


def parse_law(text: str) -> DelayLaw:
    """
    Read `exactly:7d` or `exponential:7d`; days may have decimals.

    Raises ValueError with a sentence for anything else. A delay of 0 is refused too: the label
    would be out before its own payment.
    """
    match = _LAW.fullmatch(text)
    days = float(match["days"]) if match else 0.0
    if not match or not 0 < days <= _DAYS_MAX:
        raise ValueError(
            f"{text!r} is not a delay law: write exactly:7d or exponential:7d, "
            f"with more than 0 and at most {_DAYS_MAX} days"
        )
    return Exactly(days) if match["law"] == "exactly" else Exponential(days)


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
