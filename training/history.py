"""What a model is trained on: payments in log order, and when each was known to be a fraud."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import Events, Text
from consumer.core.feature_sets import FeatureSet
from consumer.core.features import FeatureStep
from consumer.core.hashing import country_codes, fingerprint_ids, hash_ids
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from consumer.records import Longs

NEVER: Final = 2**62
CHUNK: Final = 50_000
_DAY: Final = 86_400_000_000

Progress = Callable[[int], None]
"""Told how many payments were done since the last time."""


@dataclass(frozen=True, slots=True)
class History:
    """
    n payments in log order, int64[n] unless said otherwise.

    `times` are microseconds since 1970, `amounts` ten-thousandths of the major unit, `cards` and
    `terminals` int64[n, 2] hashes, `fingerprints` of the event ids or 0, `countries` codes of the
    merchants' or 0. `fraud_known_at` is when
    the first label called the payment a fraud, NEVER where none did; `scenarios` is the pattern of
    fraud that a label named, str[n], empty where none did.
    """

    partitions: Longs
    times: Longs
    kinds: Longs
    amounts: Longs
    utc_offset_minutes: Longs
    cards: Longs
    terminals: Longs
    fingerprints: Longs
    countries: Longs
    fraud_known_at: Longs
    scenarios: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.times)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return the payments at these rows, in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the histories one after the other."""
        return cls(
            **{
                f.name: np.concatenate([getattr(part, f.name) for part in parts])
                for f in fields(cls)
            }
        )

    def between(self, begin: int, end: int) -> Self:
        """Return the payments made in [begin, end), microseconds."""
        return self.take(np.flatnonzero((self.times >= begin) & (self.times < end)))


def measure(
    history: History,
    feature_set: FeatureSet,
    frauds: TerminalFrauds,
    grace: int,
    progress: Progress,
) -> NDArray[np.float32]:
    """
    Return float32[n, features] as the consumer computes them: the same kernels, in log order.

    All labels may be known beforehand: each counts only for payments after its arrival.
    """
    state = VelocityState(feature_set.plan, grace, alert_window=_DAY)
    for partition in np.unique(history.partitions).tolist():
        state.begin(partition)
    step = FeatureStep(feature_set, state, frauds)
    rows = np.empty((len(history), len(feature_set.names)), np.float32)
    for begin in range(0, len(history), CHUNK):
        chunk = history.take(np.arange(begin, min(begin + CHUNK, len(history))))
        _, measured = step.measure(_as_events(chunk))
        rows[begin : begin + len(chunk)] = measured.values
        state.settle()
        progress(len(chunk))
    return rows


def hash_texts(texts: Sequence[bytes]) -> Longs:
    """Return int64[n, 2], the hashes that state is kept by."""
    return hash_ids(_column_of(texts), 0)


def fingerprint_texts(texts: Sequence[bytes]) -> Longs:
    """Return int64[n], the fingerprints that repeated events are known by."""
    return fingerprint_ids(_column_of(texts), 0)


def country_codes_of(texts: Sequence[bytes]) -> Longs:
    """Return int64[n], the codes that merchants' countries are kept by; nothing is none."""
    return country_codes(_column_of(texts), 0)


def _column_of(texts: Sequence[bytes]) -> Text:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    buffer = np.frombuffer(b"".join(texts) or b"\0", np.uint8)
    starts = np.cumsum(lengths) - lengths
    return Text(("id",), buffer, starts.reshape(1, -1), lengths.reshape(1, -1))


def _as_events(history: History) -> Events:
    n = len(history)
    nothing = np.empty((0, n), np.int64)
    return Events(
        rows=np.arange(n),
        partitions=history.partitions,
        offsets=np.arange(n),
        live=np.ones(n, np.bool_),
        times=history.times,
        kinds=history.kinds,
        amounts=history.amounts,
        amounts_minor=history.amounts,
        utc_offset_minutes=history.utc_offset_minutes,
        cards=history.cards,
        terminals=history.terminals,
        fingerprints=history.fingerprints,
        countries=history.countries,
        text=Text((), np.zeros(1, np.uint8), nothing, nothing),
    )
