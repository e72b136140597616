"""Flagged events -> Alert records: one for each card and window, however many payments it has."""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Final

import numpy as np

import schemas
from consumer.core.avro_encoder import (
    AvroEncoder,
    BatchColumns,
    Constant,
    LongColumn,
    OneText,
    Ready,
    ReadyColumns,
    TextColumn,
)
from consumer.core.batch import Decisions, Events, Rows
from consumer.core.manifest import ModelIdentity
from consumer.core.state import VelocityState
from consumer.records import Bools, Longs, Outputs

ALERT_NAMESPACE: Final = uuid.UUID("6f1d2a34-54c1-5c0c-9d1b-0b6f8f2a7c11")
_KIND: Final = "CARD_COMPROMISE"
_LEAST_SCORES: Final = np.array([400, 700, 900])  # of severities 3, 2 and 1

_TEXT: Final = ("event_id", "transaction_id", "card_id", "terminal_id", "currency")
# Columns of the encoder's matrices.
_WINDOW, _SEVERITY, _TIME, _EXPIRES, _SCORE, _AMOUNT, _PARTITION, _OFFSET = range(8)
_ID, _REASONS = range(2)


@dataclass(frozen=True, slots=True)
class Alerts:
    """Alert records, and the severity of each: 1 is the highest, 4 the lowest."""

    outputs: Outputs
    severities: Longs


class AlertEncoder:
    """Opens alerts in the velocity state, and writes those of live events."""

    def __init__(
        self, topic: str, source_topic: str, identity: ModelIdentity, alert_window: int
    ) -> None:
        """`alert_window` is in microseconds, the same as the state's."""
        self._topic = topic
        self._window = alert_window
        self._encoder = AvroEncoder(
            schemas.load("alert"),
            {
                "alert_id": Ready(_ID),
                "kind": Constant(_KIND),
                "status": Constant("OPENED"),
                "subject_id": TextColumn("card_id"),
                "window_start": LongColumn(_WINDOW),
                "severity": LongColumn(_SEVERITY),
                "opened_at": LongColumn(_TIME),
                "updated_at": LongColumn(_TIME),
                "expires_at": LongColumn(_EXPIRES),
                "event_ids": OneText("event_id"),
                "max_score": LongColumn(_SCORE),
                "events": Constant(1),
                "amount_minor": LongColumn(_AMOUNT),
                "currency": TextColumn("currency"),
                "reasons": Ready(_REASONS),
                "sequence": Constant(1),
                "model_name": Constant(identity.name),
                "model_version": Constant(identity.version),
                "source_topic": Constant(source_topic),
                "source_partition": LongColumn(_PARTITION),
                "source_offset": LongColumn(_OFFSET),
            },
            _TEXT,
        )

    def raise_alerts(
        self,
        events: Events,
        rows: Rows,
        decisions: Decisions,
        state: VelocityState,
        replayed: Bools,
    ) -> Alerts:
        """
        Return one alert for each flagged event that is the first of its card in its window.

        One of a replayed dead letter, bool[flagged] says which, raises one as well, with the id of
        the first: a state that was rebuilt since may have met the record that was refused, and
        counts its alert as open, which nobody was told of.
        """
        suspects = events.take(decisions.flagged)
        late = rows.late[decisions.flagged]
        due = state.open_alerts(suspects, late) | replayed
        opened = np.flatnonzero(due & suspects.live)
        first = suspects.take(opened)
        scores = decisions.scores[decisions.flagged[opened]]
        longs = np.empty((8, len(first)), np.int64)
        longs[_TIME] = first.times
        longs[_WINDOW] = first.times // self._window * self._window
        longs[_EXPIRES] = longs[_WINDOW] + self._window
        longs[_SCORE] = scores
        longs[_SEVERITY] = 4 - np.searchsorted(_LEAST_SCORES, scores, side="right")
        longs[_AMOUNT] = first.amounts_minor
        longs[_PARTITION] = first.partitions
        longs[_OFFSET] = first.offsets
        cards = [first.text.bytes_of("card_id", i) for i in range(len(first))]
        ids = [
            b"\x48" + alert_id(_KIND, card, start).encode()  # zig-zag of 36, its length
            for card, start in zip(cards, longs[_WINDOW].tolist(), strict=True)
        ]
        columns = BatchColumns(
            longs,
            np.empty((0, len(first))),
            first.text,
            np.empty((len(first), 0), np.float32),
            _laid_out(ids, decisions.reasons.take(opened).encoded()),
        )
        values = self._encoder.encode(columns)
        return Alerts(Outputs(self._topic, cards, values), longs[_SEVERITY])


def alert_id(kind: str, subject: bytes, window_start: int) -> str:
    """
    Return the id that every replay gives this alert: UUIDv5 (RFC 9562, section 5.5) of its subject.

    By hand, as uuid.uuid5 costs more than all the rest of an alert.
    """
    name = b"%s:%s:%d" % (kind.encode(), subject, window_start)
    digest = bytearray(hashlib.sha1(ALERT_NAMESPACE.bytes + name, usedforsecurity=False).digest())
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"


def _laid_out(*columns: list[bytes]) -> ReadyColumns:
    """Put encoded fields behind each other, a column after the other."""
    data = [item for column in columns for item in column]
    lengths: Longs = np.fromiter(map(len, data), np.int64, len(data))
    starts = np.cumsum(lengths) - lengths
    shape = (len(columns), len(columns[0]))
    return ReadyColumns(b"".join(data) or b"\0", starts.reshape(shape), lengths.reshape(shape))
