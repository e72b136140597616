"""Refused records -> dead letters: the record as it came, and in headers where and why."""

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from consumer.core.card_numbers import holds_card_number
from consumer.records import Headers, Outputs, Records, Refused, Status

PREFIX: Final = "__fraudstream.errors."
WITHOUT_VALUE: Final = frozenset({Status.OVERSIZE, Status.CARD_NUMBER})
"""
Reasons whose letters carry hash and length instead of the bytes: too large, or not to be copied.
"""


class DeadLetters:
    """Writes the refused records of a batch to `<input topic>-dlt`, tombstones apart."""

    def __init__(self, topic: str, app_version: str, *, refuse_card_numbers: bool = True) -> None:
        """`topic` must have as many partitions as the input: a letter keeps its partition."""
        self._topic = topic
        self._app_version = app_version
        self._refuse_card_numbers = refuse_card_numbers

    def classify(self, records: Records, refused: Refused) -> Refused:
        """
        Return the refused records with reason `card_number` for each that holds one in clear.

        Whatever else is wrong with it: its bytes must not be copied.
        """
        if len(refused.rows) == 0 or not self._refuse_card_numbers:
            return refused
        statuses = refused.statuses.copy()
        for k, row in enumerate(refused.rows.tolist()):
            if statuses[k] != Status.TOMBSTONE and any(
                map(holds_card_number, _bytes(records, row))
            ):
                statuses[k] = Status.CARD_NUMBER
        return Refused(refused.rows, statuses)

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
            own = records.headers(row)
            if status is Status.CARD_NUMBER:
                own = [header for header in own if not any(map(holds_card_number, _text(header)))]
            headers.append([*own, *self._errors(records, row, status)])
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


def _bytes(records: Records, row: int) -> Iterator[bytes | None]:
    """Yield all bytes that came with a record."""
    yield records.keys[row]
    yield records.values[row]
    for header in records.headers(row):
        yield from _text(header)


def _text(header: tuple[str, bytes | None]) -> tuple[bytes, bytes | None]:
    name, value = header
    return name.encode(), value
