"""Scored events -> Prediction records, one each, in the order of the log."""

from collections.abc import Sequence
from typing import Final

import numpy as np

import schemas
from consumer.core.avro_encoder import (
    AvroEncoder,
    BatchColumns,
    Constant,
    DoubleColumn,
    FloatMatrix,
    LongColumn,
    Ready,
    ReadyColumns,
    TextColumn,
    encoded,
)
from consumer.core.batch import Decisions, Degraded, Events, LabelsKnown, Rows
from consumer.core.manifest import ModelIdentity
from consumer.records import Longs, Outputs

# Columns of the encoder's matrices.
_TIME, _SCORED_AT, _SCORE, _DECISION, _PARTITION, _OFFSET = range(6)
_REASONS, _DEGRADED, _LABELS = range(3)
_TEXT: Final = ("event_id", "transaction_id", "card_id", "terminal_id", "currency")


class PredictionEncoder:
    """Writes one Prediction for each live event."""

    def __init__(self, topic: str, source_topic: str, identity: ModelIdentity) -> None:
        """Compile schemas/prediction.avsc for one model and one pair of topics."""
        self._topic = topic
        self._feature_count = identity.feature_count
        schema = schemas.load("prediction")
        types = {part["name"]: part["type"] for part in schema["fields"]}
        self._labels_schema = types["label_offsets"]
        self._no_reasons = encoded(types["reasons"], [])
        self._degraded = [
            encoded(types["degraded"], Degraded(k).names) for k in range(1 << len(Degraded))
        ]
        self._encoder = AvroEncoder(
            schema,
            {
                "event_id": TextColumn("event_id"),
                "transaction_id": TextColumn("transaction_id"),
                "card_id": TextColumn("card_id"),
                "terminal_id": TextColumn("terminal_id"),
                "event_time": LongColumn(_TIME),
                "scored_at": LongColumn(_SCORED_AT),
                "model_name": Constant(identity.name),
                "model_version": Constant(identity.version),
                "feature_set": Constant(identity.feature_set),
                "probability": DoubleColumn(0),
                "score": LongColumn(_SCORE),
                "decision": LongColumn(_DECISION),
                "policy_version": Constant(identity.policy_version),
                "reasons": Ready(_REASONS),
                "features": FloatMatrix(identity.feature_count),
                "degraded": Ready(_DEGRADED),
                "source_topic": Constant(source_topic),
                "source_partition": LongColumn(_PARTITION),
                "source_offset": LongColumn(_OFFSET),
                "label_offsets": Ready(_LABELS),
            },
            _TEXT,
        )

    def encode(
        self,
        events: Events,
        rows: Rows,
        decisions: Decisions,
        labels: LabelsKnown,
        keys: Sequence[bytes | None],
        scored_at: int,
    ) -> Outputs:
        """
        Encode the live ones of n events; `keys` are the input records', `scored_at` microseconds.
        """
        longs = np.empty((6, len(events)), np.int64)
        longs[_TIME] = events.times
        longs[_SCORED_AT] = scored_at
        longs[_SCORE] = decisions.scores
        longs[_DECISION] = decisions.decisions
        longs[_PARTITION] = events.partitions
        longs[_OFFSET] = events.offsets
        degraded = (
            rows.cold * int(Degraded.STATE_COLD)
            + rows.late * int(Degraded.LATE_EVENT)
            + rows.hot * int(Degraded.HOT_KEY)
            + labels.stale * int(Degraded.LABELS_STALE)
        )
        columns = BatchColumns(
            longs,
            decisions.probabilities.reshape(1, -1),
            events.text,
            rows.values,
            self._ready(decisions, degraded, labels),
        )
        values = self._encoder.encode(columns)
        if not events.live.all():
            live = np.flatnonzero(events.live)
            values = [values[i] for i in live.tolist()]
            events = events.take(live)
        if len(events) < len(keys):  # else all records are events, in the same order
            keys = [keys[record] for record in events.rows.tolist()]
        return Outputs(self._topic, keys, values)

    def _ready(self, decisions: Decisions, degraded: Longs, labels: LabelsKnown) -> ReadyColumns:
        """Lay out the fields that come encoded; most records share the empty ones."""
        shared = [
            self._no_reasons,
            encoded(self._labels_schema, labels.next_offsets),
            *self._degraded,
        ]
        pool = shared + decisions.reasons.encoded()
        lengths = np.array([len(data) for data in pool], np.int64)
        ends = np.cumsum(lengths)
        chosen = np.zeros((3, len(degraded)), np.int64)
        chosen[_REASONS, decisions.flagged] = np.arange(len(decisions.flagged)) + len(shared)
        chosen[_DEGRADED] = 2 + degraded
        chosen[_LABELS] = 1
        return ReadyColumns(b"".join(pool), (ends - lengths)[chosen], lengths[chosen])
