"""What is known of frauds: a fold over the label topic, the same on every instance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

import schemas
from consumer.core import labels_kernel as kernel
from consumer.core.avro_decoder import AvroDecoder
from consumer.core.avro_program import Column
from consumer.core.hashing import hash_ids
from consumer.core.symbols import VERDICTS
from consumer.records import Longs, Status

_FRAUD: Final = VERDICTS.index("FRAUD")
_TEXT: Final = ("label_id", "transaction_id", "terminal_id", "supersedes")

LABEL_COLUMNS: Final = (
    *(Column(name, "string") for name in _TEXT[:3]),
    Column("supersedes", "string", default=0),
    Column("verdict", "enum", default=0, symbols=VERDICTS),
    Column("published_at", "long"),
)

_FIRST_ROWS: Final = 1_024


@dataclass(frozen=True, slots=True)
class _Fraud:
    """Rows of a claim, of its terminal, and of the payment's claim before it, NONE if first."""

    row: int
    terminal: int
    before: int


@dataclass(frozen=True, slots=True)
class Claim:
    """
    One span of time in which a payment stands as a fraud: [arrival, revoked), microseconds.

    Labels that say the same of a payment share its claim, known by its `row`.
    """

    row: int
    arrival: int
    revoked: int

    def counts(self, time: int, window: int) -> bool:
        """Say whether a payment at that time counts it in a window of that length."""
        return time - window < self.arrival <= time < self.revoked


class TerminalFrauds:
    """
    The frauds reported at each terminal, by arrival: published_at + settle.

    A payment counts once however many labels call it a fraud: from the earliest of them, until a
    label that is no fraud supersedes one of them; labels after that may claim it anew. A label
    delivered again says nothing new. Nothing here is ever rolled back: a label only counts for
    events from its arrival on, so knowing it early changes no score.
    """

    def __init__(
        self, writers: Iterable[schemas.Schema], settle_seconds: float, *, max_bytes: int = 65_536
    ) -> None:
        """Compile the allowed writer schemas of the label topic."""
        self._decoder = AvroDecoder(writers, LABEL_COLUMNS, max_bytes)
        self._settle = int(settle_seconds * 1_000_000)
        self._index = np.full(2 * _FIRST_ROWS, kernel.NONE, np.int64)
        self._terminals = np.empty((_FIRST_ROWS, 3), np.int64)
        self._frauds = np.empty((_FIRST_ROWS, 3), np.int64)
        self._terminal_count = 0
        self._fraud_count = 0
        self._fraud_of_payment: dict[bytes, _Fraud] = {}
        self._fraud_of_label: dict[bytes, _Fraud] = {}

    @property
    def fraud_count(self) -> int:
        """Frauds known, those taken back included."""
        return self._fraud_count

    @property
    def published_at(self) -> dict[bytes, int]:
        """
        For each payment that stands as a fraud, by transaction id, when its first label was
        published.
        """
        return {
            payment: int(self._frauds[fraud.row, kernel.ARRIVAL]) - self._settle
            for payment, fraud in self._fraud_of_payment.items()
            if self._frauds[fraud.row, kernel.REVOKED] == kernel.NEVER
        }

    def claim(self, label_id: bytes) -> Claim | None:
        """Return what the label claims, None when it is no fraud or not known."""
        fraud = self._fraud_of_label.get(label_id)
        if fraud is None:
            return None
        row = self._frauds[fraud.row]
        return Claim(fraud.row, int(row[kernel.ARRIVAL]), int(row[kernel.REVOKED]))

    def add(self, values: Sequence[bytes | None], timestamps: Sequence[int]) -> tuple[int, int]:
        """
        Fold in label records in log order; `timestamps` are theirs, milliseconds.

        Returns how many came to the topic after the time they count from, and how many could not
        be read.
        """
        columns = self._decoder.decode(values)
        text = columns.text
        hashes = hash_ids(text, _TEXT.index("terminal_id"), columns.statuses)
        arrivals = columns.long("published_at") + self._settle
        is_fraud = columns.long("verdict") == _FRAUD
        refused = 0
        for i in range(len(values)):
            if columns.statuses[i] != Status.GOOD:
                refused += columns.statuses[i] != Status.TOMBSTONE
                continue
            label = text.bytes_of("label_id", i)
            superseded = self._fraud_of_label.get(text.bytes_of("supersedes", i))
            if is_fraud[i] and label not in self._fraud_of_label:
                self._fraud_of_label[label] = self.report(
                    text.bytes_of("transaction_id", i),
                    hashes[i],
                    int(arrivals[i]) - self._settle,
                )
            elif superseded is not None and not is_fraud[i]:
                self._revoke(superseded, int(arrivals[i]))
        good = columns.statuses == Status.GOOD
        late = np.array(timestamps, np.int64) * 1_000 > arrivals
        return int((good & late).sum()), int(refused)

    def count(self, terminals: Longs, times: Longs, windows: Longs) -> Longs:
        """
        Return int64[n, w]: frauds known at each time that arrived within each window before it.
        """
        counts = np.empty((len(times), len(windows)), np.int64)
        kernel.count(self._index, self._terminals, self._frauds, terminals, times, windows, counts)
        return counts

    def report(self, payment: bytes, terminal_hash: Longs, published_at: int) -> _Fraud:
        """
        A label published at that time, microseconds, calls the payment at the terminal a fraud.
        """
        arrival = published_at + self._settle
        known = self._fraud_of_payment.get(payment)
        revoked = kernel.NEVER if known is None else int(self._frauds[known.row, kernel.REVOKED])
        if known is None or revoked != kernel.NEVER:
            known = self._new_fraud(terminal_hash, kernel.NONE if known is None else known.row)
            self._fraud_of_payment[payment] = known
        elif arrival < self._frauds[known.row, kernel.ARRIVAL]:
            kernel.unlink(self._terminals, self._frauds, known.terminal, known.row)
        else:
            return known
        if known.before != kernel.NONE:  # two claims of a payment never count at a time
            arrival = max(arrival, int(self._frauds[known.before, kernel.REVOKED]))
        self._frauds[known.row, kernel.ARRIVAL] = arrival
        kernel.link(self._terminals, self._frauds, known.terminal, known.row)
        return known

    def _new_fraud(self, terminal_hash: Longs, before: int) -> _Fraud:
        if self._fraud_count == len(self._frauds):
            self._frauds = np.concatenate([self._frauds, np.empty_like(self._frauds)])
        fraud = _Fraud(self._fraud_count, self._row_of(terminal_hash), before)
        self._fraud_count += 1
        self._frauds[fraud.row] = (kernel.NEVER, kernel.NEVER, kernel.NONE)
        return fraud

    def _revoke(self, fraud: _Fraud, at: int) -> None:
        self._frauds[fraud.row, kernel.REVOKED] = min(at, self._frauds[fraud.row, kernel.REVOKED])

    def _row_of(self, terminal_hash: Longs) -> int:
        a, b = int(terminal_hash[0]), int(terminal_hash[1])
        slot = kernel.slot_of(self._index, self._terminals, a, b)
        if self._index[slot] != kernel.NONE:
            return int(self._index[slot])
        row = self._terminal_count
        if row == len(self._terminals):
            self._terminals = np.concatenate([self._terminals, np.empty_like(self._terminals)])
            self._index = np.full(2 * len(self._index), kernel.NONE, np.int64)
            kernel.rebuild_index(self._index, self._terminals, row)
            slot = kernel.slot_of(self._index, self._terminals, a, b)
        self._terminals[row] = (a, b, kernel.NONE)
        self._index[slot] = row
        self._terminal_count += 1
        return row
