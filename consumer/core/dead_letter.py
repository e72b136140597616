"""
Refused records -> dead letters: the record as it came, and in headers where and why. And back.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from consumer.core.card_numbers import holds_card_number
from consumer.records import Bools, Headers, Longs, Outputs, Records, Refused, Status

PREFIX: Final = "__fraudstream.errors."
REPLAY_PREFIX: Final = "__fraudstream.replay."
"""Headers of a replayed record: the first coordinates of its payment, and the attempt's number."""

WITHOUT_VALUE: Final = frozenset({Status.OVERSIZE, Status.CARD_NUMBER})
"""
Reasons whose letters carry hash and length instead of the bytes: too large, or not to be copied.
"""

MOST_BYTES_BESIDE_VALUE: Final = 65_536
"""Of key and headers together; larger ones would keep a letter from fitting its topic."""

_HEADERS_LEFT_OUT: Final = frozenset({"headers.length", "headers.unreadable"})
_LONGEST_NUMBER: Final = 19


class DeadLetters:
    """Writes the refused records of a batch to `<input topic>-dlt`, tombstones apart."""

    def __init__(self, topic: str, app_version: str, *, refuse_card_numbers: bool = True) -> None:
        """`topic` must have as many partitions as the input: a letter keeps its partition."""
        self._topic = topic
        self._app_version = app_version
        self._refuse_card_numbers = refuse_card_numbers

    @property
    def topic(self) -> str:
        """Where they go."""
        return self._topic

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

    def write(self, records: Records, refused: Refused, *, bare: bool = False) -> Outputs:
        """
        Return a dead letter for each refused record that is live and no tombstone; `bare` ones have
        no key and no headers of it.
        """
        most_bytes = -1 if bare else MOST_BYTES_BESIDE_VALUE
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        headers: list[Headers] = []
        letters = (refused.statuses != Status.TOMBSTONE) & records.live[refused.rows]
        rows = refused.rows[letters]
        for row, code in zip(rows.tolist(), refused.statuses[letters].tolist(), strict=True):
            status = Status(code)
            key, own = records.keys[row], records.headers(row) or []
            facts = self._facts(records, row, status, own)
            if records.headers(row) is None:
                facts["headers.unreadable"] = "true"
            if status is Status.CARD_NUMBER:
                key, own = (
                    None,
                    [each for each in own if not any(map(holds_card_number, _text(each)))],
                )
            if _size(key, own) > most_bytes:
                facts |= {"headers.length": str(_size(None, own))}
                facts |= {} if status is Status.CARD_NUMBER else _digest("key", key or b"")
                key, own = None, []
            values.append(None if status in WITHOUT_VALUE else records.values[row])
            ours = [(f"{PREFIX}{name}", text.encode()) for name, text in facts.items()]
            keys.append(key)
            headers.append([*own, *ours])
        timestamps = np.maximum(records.timestamps[rows], 0).tolist()
        partitions = records.partitions[rows].tolist()
        return Outputs(self._topic, keys, values, headers, partitions, timestamps)

    def replayed(self, records: Records, rows: Longs) -> Bools:
        """Say which records of these rows were sent again for a dead letter."""
        firsts = (_Replay.of(records.headers(row) or []).first for row in rows.tolist())
        are_ours = (first is not None and first.topic == records.topic for first in firsts)
        return np.fromiter(are_ours, np.bool_, len(rows))

    def _facts(self, records: Records, row: int, status: Status, own: Headers) -> dict[str, str]:
        facts = {
            "topic": records.topic,
            "partition": str(records.partitions[row]),
            "offset": str(records.offsets[row]),
            "stage": status.stage,
            "reason": status.reason,
            "attempts": str(1 + _Replay.of(own).attempt),
            "app.version": self._app_version,
        }
        if status in WITHOUT_VALUE:
            facts |= _digest("value", records.values[row] or b"")
        return facts


def _bytes(records: Records, row: int) -> Iterator[bytes | None]:
    """Yield all bytes that came with a record."""
    yield records.keys[row]
    yield records.values[row]
    for header in records.headers(row) or []:
        yield from _text(header)


def _text(header: tuple[str, bytes | None]) -> tuple[bytes, bytes | None]:
    name, value = header
    return name.encode(), value


@dataclass(frozen=True, slots=True)
class Place:
    """Coordinates of a record."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Self | None:
        """Return the coordinates that headers state, None where they state none."""
        partition, offset = _number(facts.get("partition")), _number(facts.get("offset"))
        if "topic" not in facts or partition is None or offset is None:
            return None
        return cls(facts["topic"], partition, offset)


@dataclass(frozen=True, slots=True)
class Letter:
    """
    What a dead letter's headers say of its record.

    `place` is where the record was when it was refused, `first` where its payment was when it came
    for the first time, `attempt` how often it was replayed since. `own` are the record's own
    headers. `left_out` names what the letter does not hold: value, key, headers.
    """

    place: Place
    first: Place
    stage: str
    reason: str
    attempt: int
    app_version: str
    own: Headers
    left_out: tuple[str, ...]
    value_sha256: str | None

    def replay_headers(self) -> Headers:
        """Return the headers of the record that is sent again."""
        ours = {
            "topic": self.first.topic,
            "partition": str(self.first.partition),
            "offset": str(self.first.offset),
            "attempt": str(self.attempt + 1),
        }
        return [
            *((name, value) for name, value in self.own if not name.startswith(REPLAY_PREFIX)),
            *((f"{REPLAY_PREFIX}{name}", text.encode()) for name, text in ours.items()),
        ]


def read_letter(headers: Headers) -> Letter | None:
    """Return what the headers of a dead letter say; None for a record that is none of ours."""
    begins = [at for at, (name, _) in enumerate(headers) if name == f"{PREFIX}topic"]
    if not begins:
        return None
    # Those of the record may look like ours, and stand before them.
    own, facts = headers[: begins[-1]], _texts(headers[begins[-1] :], PREFIX)
    place = Place.of(facts)
    if place is None or not {"stage", "reason"} <= facts.keys():
        return None
    first, attempt, replay = place, 0, _Replay.of(own)
    if replay.first is not None and replay.first.topic == place.topic:  # else no words of ours
        first, attempt = replay.first, replay.attempt
    absent = {"value": {"value.sha256"}, "key": {"key.sha256"}, "headers": _HEADERS_LEFT_OUT}
    return Letter(
        place, first, facts["stage"], facts["reason"], attempt,
        facts.get("app.version", ""), own,
        tuple(part for part, said in absent.items() if said & facts.keys()),
        facts.get("value.sha256"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Replay:
    """What a replayed record's headers say; anybody may have written them."""

    first: Place | None = None
    attempt: int = 0

    @classmethod
    def of(cls, own: Headers) -> Self:
        facts = _texts(own, REPLAY_PREFIX)
        first, attempt = Place.of(facts), _number(facts.get("attempt"))
        return cls() if first is None or attempt is None else cls(first, attempt)


def _texts(headers: Headers, prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): value.decode("utf-8", "replace")
        for name, value in headers
        if name.startswith(prefix) and value is not None
    }


def _number(text: str | None) -> int | None:
    """Return a decimal number of a header, None for anything else."""
    is_number = text is not None and text.isascii() and text.isdigit()
    return int(text) if is_number and text and len(text) <= _LONGEST_NUMBER else None


def _digest(part: str, content: bytes) -> dict[str, str]:
    return {
        f"{part}.sha256": hashlib.sha256(content).hexdigest(),
        f"{part}.length": str(len(content)),
    }


def _size(key: bytes | None, headers: Headers) -> int:
    """Return the bytes of a key and of headers, names included."""
    return len(key or b"") + sum(len(name.encode()) + len(value or b"") for name, value in headers)
