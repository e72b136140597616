"""
THE DATA PATH: poll, decode, features, score, decide, encode, publish, commit. Batch in, batch out.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np

from consumer.core.alerts import AlertEncoder
from consumer.core.batch import Decisions, Events, LabelsKnown, Rows
from consumer.core.dead_letter import DeadLetters
from consumer.core.decide import Explainer, Policy, decide
from consumer.core.decode import PaymentDecoder
from consumer.core.features import FeatureStep
from consumer.core.model import Model
from consumer.core.score import score
from consumer.core.state import VelocityState
from consumer.records import Outputs, Records, Refused, Status
from consumer.telemetry import Telemetry


class Labels(Protocol):
    """Where the pipeline learns of frauds."""

    def catch_up(self) -> LabelsKnown:
        """Read the label topic up to its end as it is now."""


class Predictions(Protocol):
    """What a batch's predictions become."""

    def encode(
        self,
        events: Events,
        rows: Rows,
        decisions: Decisions,
        labels: LabelsKnown,
        keys: Sequence[bytes | None],
        scored_at: int,
    ) -> Outputs:
        """Lay out the predictions of the live events; `scored_at` is microseconds."""


class Sink(Protocol):
    """Where a batch leaves."""

    def publish(self, outputs: Sequence[Outputs], next_offsets: dict[int, int]) -> None:
        """Return when all is out and committed; raise when nothing is."""


class Pipeline:
    """Carries batches from records to committed outputs; holds what the steps need."""

    def __init__(
        self,
        *,
        decoder: PaymentDecoder,
        labels: Labels,
        features: FeatureStep,
        model: Model,
        policy: Policy,
        explainer: Explainer,
        predictions: Predictions,
        alerts: AlertEncoder,
        dead_letters: DeadLetters,
        sink: Sink,
        state: VelocityState,
        telemetry: Telemetry,
        clock: Callable[[], int],
    ) -> None:
        """
        Steps are timed as they are bound, so that the path below is the path and nothing else.
        """
        self._decode: Final = telemetry.timed("decode", decoder.decode)
        self._catch_up: Final = telemetry.timed("labels", labels.catch_up)
        self._measure: Final = telemetry.timed("features", features.measure)
        self._score: Final = telemetry.timed("score", score)
        self._decide: Final = telemetry.timed("decide", decide)
        self._raise_alerts: Final = telemetry.timed("alerts", alerts.raise_alerts)
        self._encode: Final = telemetry.timed("encode", predictions.encode)
        self._publish: Final = telemetry.timed("publish", sink.publish)
        self._dead_letters: Final = dead_letters
        self._model, self._policy, self._explainer = model, policy, explainer
        self._state, self._telemetry, self._clock = state, telemetry, clock

    def process(self, records: Records) -> Refused:
        """
        Carry one batch of polled records to its commit; return what of it was refused.

        The commit comes last, within publish: a failure on any line above it leaves nothing behind
        but what `state.roll_back` takes back. Replayed records go the same way and publish nothing.
        """
        events, refused = self._decode(records)
        labels = self._catch_up()
        events, rows = self._measure(events)
        probabilities = self._score(rows.values, self._model)
        decisions = self._decide(
            rows.values, probabilities, self._policy, self._explainer, self._model
        )
        replayed = self._dead_letters.replayed(records, events.rows[decisions.flagged])
        alerts = self._raise_alerts(events, rows, decisions, self._state, replayed)
        predictions = self._encode(events, rows, decisions, labels, records.keys, self._clock())
        refused = self._dead_letters.classify(records, refused)
        dead_letters = self._dead_letters.write(records, refused)
        self._publish([predictions, alerts.outputs, dead_letters], records.next_offsets)
        self._state.settle()
        self._telemetry.batch_committed(records, refused, events, decisions, alerts.severities)
        return refused

    @property
    def dead_letter_topic(self) -> str:
        """Where refused records go."""
        return self._dead_letters.topic

    def refuse(
        self, record: Records, status: Status, *, observe: bool, bare: bool = False
    ) -> Refused:
        """
        Dead-letter the one record of a batch that a step cannot take; return it as refused.

        With `observe`, its payment still enters the windows, as it would on a replay. A `bare`
        letter, of status OVERSIZE, has nothing of the record but hashes and lengths.
        """
        if observe:
            events, _ = self._decode(record)
            self._measure(events)
        refused = Refused(np.zeros(1, np.intp), np.full(1, status, np.int8))
        refused = self._dead_letters.classify(record, refused)
        letter = self._dead_letters.write(record, refused, bare=bare)
        self._publish([letter], record.next_offsets)
        self._state.settle()
        self._telemetry.records_done(record, refused)
        return refused
