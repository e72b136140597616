"""Flagged events -> Alert records: one for each card and window, however many payments it has."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import numpy as np

import schemas
from consumer.core.avro_encoder import encoded
from consumer.core.batch import Decisions, Events
from consumer.core.manifest import ModelIdentity
from consumer.core.state import VelocityState
from consumer.records import Outputs

ALERT_NAMESPACE: Final = uuid.UUID("6f1d2a34-54c1-5c0c-9d1b-0b6f8f2a7c11")
_SEVERITIES: Final = ((900, 1), (700, 2), (400, 3))


@dataclass(frozen=True, slots=True)
class Alerts:
    """Alert records, and the severity of each."""

    outputs: Outputs
    severities: list[int]


class AlertEncoder:
    """Opens alerts in the velocity state, and writes those of live events."""

    def __init__(
        self, topic: str, source_topic: str, identity: ModelIdentity, alert_window: int
    ) -> None:
        """`alert_window` is in microseconds, the same as the state's."""
        self._topic = topic
        self._source_topic = source_topic
        self._identity = identity
        self._window = alert_window
        schema = schemas.load("alert")
        self._header = schemas.single_object_header(schema)
        self._schema = fastavro.parse_schema(schema)

    def raise_alerts(self, events: Events, decisions: Decisions, state: VelocityState) -> Alerts:
        """Return one alert for each flagged event that is the first of its card in its window."""
        flagged = decisions.flagged
        suspects = events.take(flagged)
        opened = np.flatnonzero(state.open_alerts(suspects) & suspects.live)
        alerts = [self._alert(suspects, i, decisions, int(flagged[i])) for i in opened.tolist()]
        outputs = Outputs(
            self._topic,
            [alert["subject_id"].encode() for alert in alerts],
            [self._header + encoded(self._schema, alert) for alert in alerts],
        )
        return Alerts(outputs, [alert["severity"] for alert in alerts])

    def _alert(self, suspects: Events, i: int, decisions: Decisions, row: int) -> dict[str, Any]:
        time = int(suspects.times[i])
        window_start = time // self._window * self._window
        card = suspects.text.bytes_of("card_id", i).decode()
        score = int(decisions.scores[row])
        return {
            "alert_id": str(alert_id("CARD_COMPROMISE", card, window_start)),
            "kind": "CARD_COMPROMISE",
            "status": "OPENED",
            "subject_id": card,
            "window_start": window_start,
            "severity": next((s for least, s in _SEVERITIES if score >= least), 4),
            "opened_at": time,
            "updated_at": time,
            "expires_at": window_start + self._window,
            "event_ids": [suspects.text.bytes_of("event_id", i).decode()],
            "max_score": score,
            "events": 1,
            "amount_minor": int(suspects.amounts_minor[i]),
            "currency": suspects.text.bytes_of("currency", i).decode(),
            "reasons": [reason.as_dict() for reason in decisions.reasons[row]],
            "sequence": 1,
            "model_name": self._identity.name,
            "model_version": self._identity.version,
            "source_topic": self._source_topic,
            "source_partition": int(suspects.partitions[i]),
            "source_offset": int(suspects.offsets[i]),
        }


def alert_id(kind: str, subject: str, window_start: int) -> uuid.UUID:
    """Return the id that every replay gives this alert: UUIDv5 (RFC 9562) of what it is about."""
    return uuid.uuid5(ALERT_NAMESPACE, f"{kind}:{subject}:{window_start}")
