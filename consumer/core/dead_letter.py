"""Refused records -> dead letters: the record as it came, and in headers where and why."""

import hashlib
from typing import Final

import numpy as np

from consumer.records import Headers, Outputs, Records, Refused, Status

PREFIX: Final = "__fraudstream.errors."
WITHOUT_VALUE: Final = frozenset({Status.OVERSIZE, Status.CARD_NUMBER})
"""
Reasons whose letters carry hash and length instead of the bytes: too large, or not to be copied.
"""


class DeadLetters:
    """Writes the refused records of a batch to `<input topic>-dlt`, tombstones apart."""

    def __init__(self, topic: str, app_version: str) -> None:
        """`topic` must have as many partitions as the input: a letter keeps its partition."""
        self._topic = topic
        self._app_version = app_version

    def write(self, records: Records, refused: Refused) -> Outputs:
        """Return a dead letter for each refused record that is live and no tombstone."""
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        headers: list[Headers] = []
        letters = (refused.statuses != Status.TOMBSTONE) & records.live[refused.rows]
        rows = refused.rows[letters]
        for row, code in zip(rows.tolist(), refused.statuses[letters].tolist(), strict=True):
            status = Status(code)
            key, value = records.keys[row], records.values[row]
            keys.append(None if status is Status.CARD_NUMBER else key)
            values.append(None if status in WITHOUT_VALUE else value)
            headers.append([*records.headers(row), *self._errors(records, row, status)])
        timestamps = np.maximum(records.timestamps[rows], 0).tolist()
        partitions = records.partitions[rows].tolist()
        return Outputs(self._topic, keys, values, headers, partitions, timestamps)

    def _errors(self, records: Records, row: int, status: Status) -> Headers:
        facts = {
            "topic": records.topic,
            "partition": str(records.partitions[row]),
            "offset": str(records.offsets[row]),
            "stage": status.stage,
            "reason": status.reason,
            "attempts": "1",
            "app.version": self._app_version,
        }
        if status in WITHOUT_VALUE:
            value = records.values[row] or b""
            facts["value.sha256"] = hashlib.sha256(value).hexdigest()
            facts["value.length"] = str(len(value))
        return [(f"{PREFIX}{name}", text.encode()) for name, text in facts.items()]
