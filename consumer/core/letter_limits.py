"""How many dead letters of a partition are too many to be the fault of its records."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np

from consumer.records import Records, Refused, Status, by_partition

Limit: TypeAlias = Literal["consecutive", "ratio"]
"""Which of the two limits was reached."""


@dataclass(slots=True)
class _Tally:
    in_a_row: int = 0
    records: int = 0
    letters: int = 0


_NONE: Final = _Tally()


@dataclass(slots=True)
class LetterLimits:
    """
    Counts the dead letters of each partition, in a row and in each `ratio_records` of its records.

    `max_consecutive` 0 and `max_ratio` 1 are no limit. Tombstones and replayed records count for
    nothing. What a batch holds beyond a limit is out when the limit is seen.
    """

    max_consecutive: int
    max_ratio: float
    ratio_records: int
    _tallies: dict[int, _Tally] = field(default_factory=dict)

    def count(self, records: Records, refused: Refused) -> dict[int, Limit]:
        """Count a batch that is committed; return the partitions that reached a limit by it."""
        if len(refused.rows) == 0:  # nearly always: how many there were is all that counts
            counts = np.bincount(records.partitions[records.live]).tolist()
            good = {partition: count for partition, count in enumerate(counts) if count}
            found = {p: self._add(p, count, 0, 0, 0) for p, count in good.items()}
        else:
            found = self._each(records, refused)
        return {partition: limit for partition, limit in found.items() if limit is not None}

    def forget(self, partition: int) -> None:
        """Count the partition from nothing: its cause is said to be gone."""
        self._tallies.pop(partition, None)

    def _each(self, records: Records, refused: Refused) -> dict[int, Limit | None]:
        counted, is_letter = records.live.copy(), np.zeros(len(records), np.bool_)
        is_letter[refused.rows] = True
        counted[refused.rows[refused.statuses == Status.TOMBSTONE]] = False
        found: dict[int, Limit | None] = {}
        for partition, rows in by_partition(records.partitions):
            letters = is_letter[rows[counted[rows]]]
            if len(letters):
                before = self._tallies.get(partition, _NONE).in_a_row
                bounds = [-1 - before, *np.flatnonzero(~letters).tolist(), len(letters)]
                runs = np.diff(bounds) - 1
                found[partition] = self._add(
                    partition, len(letters), int(letters.sum()), int(runs.max()), int(runs[-1])
                )
        return found

    def _add(
        self, partition: int, records: int, letters: int, longest: int, in_a_row: int
    ) -> Limit | None:
        """Add what a batch had of a partition: its longest run of letters, and its last."""
        tally = self._tallies.setdefault(partition, _Tally())
        tally.in_a_row = in_a_row
        tally.records += records
        tally.letters += letters
        if self.max_consecutive and longest >= self.max_consecutive:
            return "consecutive"
        if tally.records < self.ratio_records:
            return None
        is_too_many = tally.letters > self.max_ratio * tally.records
        tally.records = tally.letters = 0
        return "ratio" if is_too_many else None
