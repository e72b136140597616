"""Stand-ins for what the pipeline and the loop talk to: a log, a sink, a model, a clock, labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import LabelsKnown
from consumer.records import Headers, Outputs, Records, Refused, by_partition


class ManualClock:
    """Microseconds since 1970 that pass only when told to."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@dataclass
class FixedLabels:
    """Says how far the label topic was read; nothing is ever read from it."""

    known: LabelsKnown = field(default_factory=lambda: LabelsKnown((0,), stale=False))

    def catch_up(self) -> LabelsKnown:
        """Return what was set."""
        return self.known


class FixedModel:
    """Scores each row by a function of it alone."""

    engine = "fixed"

    def __init__(self, probability: Callable[[NDArray[np.float32]], float]) -> None:
        self._probability = probability
        self.calls = 0

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64[n]."""
        self.calls += 1
        return np.array([self._probability(row) for row in rows], np.float64)


@dataclass(frozen=True)
class Sent:
    """One record that reached the sink."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None
    timestamp: int | None


class RecordingSink:
    """Keeps what is committed, batch by batch; refuses the batches for which it has an error."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[Outputs], dict[int, int]]] = []
        self.refuses: Callable[[list[Outputs]], Exception | None] = lambda _: None

    def publish(self, outputs: Sequence[Outputs], next_offsets: dict[int, int]) -> None:
        """Keep the batch, or raise and keep nothing; of replayed records, commit nothing."""
        if not next_offsets:
            assert not any(map(len, outputs)), "replayed records publish nothing"
            return
        fault = self.refuses(list(outputs))
        if fault is not None:
            raise fault
        self.batches.append((list(outputs), next_offsets))

    def fail_once(self, fault: Exception) -> None:
        """Refuse the next batch."""
        faults = [fault]
        self.refuses = lambda _: faults.pop() if faults else None

    def to(self, topic: str) -> list[Sent]:
        """Return what was sent to the topic, oldest first."""
        return [
            sent
            for outputs, _ in self.batches
            for column in outputs
            if column.topic == topic
            for sent in _rows(column)
        ]

    @property
    def committed(self) -> dict[int, int]:
        """The next offset of each partition, as last committed."""
        return {p: o for _, next_offsets in self.batches for p, o in next_offsets.items()}


def _rows(column: Outputs) -> list[Sent]:
    n = len(column)
    return [
        Sent(*row)
        for row in zip(
            column.keys, column.values, column.headers or [()] * n,
            column.partitions or [None] * n, column.timestamps or [None] * n, strict=True,
        )
    ]  # fmt: skip


class FakeSource:
    """A log that is polled in batches, and polled again from what is settled after a rewind."""

    def __init__(self, log: Records, batch: int) -> None:
        self._log = log
        self._batch = batch
        self._settled: dict[int, int] = {}
        self._waiting = list(range(len(log)))
        self.polls = 0
        self.rewinds = 0
        self.held: set[int] = set()

    @property
    def has_more(self) -> bool:
        """Say whether a record waits to be polled."""
        return bool(self._waiting)

    def poll(self) -> Records:
        """Return the next batch, an empty one at the end."""
        self.polls += 1
        rows, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        return taken(self._log, rows)

    def settled(self, records: Records, _: Refused) -> None:
        """These records are done with."""
        for partition, rows in by_partition(records.partitions):
            self._settled[partition] = int(records.offsets[rows[-1]]) + 1

    def rewind(self, held: Sequence[int] = ()) -> None:
        """Poll again whatever is not settled, but for partitions that are held."""
        self.rewinds += 1
        self.held.update(held)
        places = zip(self._log.partitions.tolist(), self._log.offsets.tolist(), strict=True)
        self._waiting = [
            row
            for row, (p, offset) in enumerate(places)
            if offset >= self._settled.get(p, 0) and p not in self.held
        ]


def taken(records: Records, rows: Sequence[int]) -> Records:
    """Return these records as a poll of their own."""
    index = np.array(rows, np.intp)
    columns: dict[str, Any] = {
        name: getattr(records, name)[index]
        for name in ("partitions", "offsets", "timestamps", "live")
    }
    return replace(
        records,
        values=[records.values[row] for row in rows],
        keys=[records.keys[row] for row in rows],
        headers=lambda row: records.headers(int(index[row])),
        **columns,
    )
