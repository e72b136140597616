"""Why a payment got its score: what was known at its offset, folded from the log again."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from confluent_kafka import Message

import schemas
from consumer.adapters.avro_records import AvroRecords, plain
from consumer.adapters.kafka_clients import place, reader_config
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_search import REQUEST_SECONDS, SearchTimeoutError, search
from consumer.adapters.log_source import Stretch
from consumer.adapters.message_columns import as_records
from consumer.adapters.model_bundle import Bundle
from consumer.adapters.outcomes import DeadLetter, Outcomes, Published, place_text
from consumer.assembly import Parts, assemble, micros
from consumer.cli_progress import Steps
from consumer.core.batch import LabelsKnown
from consumer.core.comparison import Difference, differences
from consumer.core.feature_sets import REASONS
from consumer.core.labels import TerminalFrauds
from consumer.core.windows import EXACT_PAYMENTS
from consumer.errors import ConfigError
from consumer.log_fold import KeptOutputs, LogFold
from consumer.records import Status
from consumer.settings import Settings, duration_text

_OF_THIS_RUN: Final = frozenset({"scored_at", "degraded", "label_offsets"})
"""Fields that may differ from run to run with the same model."""
_OF_THE_MODEL: Final = frozenset(
    {"model_name", "model_version", "policy_version", "probability", "score", "decision", "reasons"}
)
_DEGRADED: Final = {
    "HOT_KEY": (
        f"the {{key}} has {EXACT_PAYMENTS:,} payments or more in the longest window; those before"
        f" the newest {EXACT_PAYMENTS:,} are known by the hour, and a window has the hours that lie"
        " wholly in it"
    ),
    "LABELS_STALE": (
        "the label topic was not read to its end in time; features count the frauds that had been"
        " read, up to label_offsets"
    ),
    "LATE_EVENT": (
        "the payment is older than the latest of its partition by more than windows.grace; features"
        " lack what was let go by then, and it enters no window of another payment"
    ),
    "STATE_COLD": (
        "the log begins within the longest window, or cards that paid within it were evicted;"
        " features may lack history"
    ),
}
"""What a flag of a prediction, then or now, means for its features."""


@dataclass(frozen=True, slots=True)
class LabelShown:
    """
    A label at the payment's terminal that says whether a fraud counted; times are ISO 8601.

    `effect` is `counted`, `unknown then` (appended after the payment was scored, though it counts
    from before it) or `revoked since` (taken back by a label that was unknown then).
    """

    label_id: str
    transaction_id: str
    effect: str
    counts_from: str
    appended_at: str
    appended_late: bool
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one payment's score; `published` is None where it has no prediction."""

    topic: str
    partition: int
    offset: int
    timestamp: str
    transaction: dict[str, Any]
    features: list[dict[str, Any]]
    prediction: dict[str, Any]
    published: dict[str, Any] | None
    published_at: str | None
    compared: str
    differences: list[Difference]
    labels: list[LabelShown]
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Say whether there is a published prediction, and nothing that was compared differs."""
        return self.published is not None and not self.differences


class PaymentExplainer:
    """Explains payments of one configuration and bundle. Reads beside the group, by offset."""

    def __init__(self, settings: Settings, bundle: Bundle, steps: Steps) -> None:
        """`steps` are told what is being done."""
        self._settings = settings
        self._bundle = bundle
        self._steps = steps
        self._topic = settings.topics.input
        self._decoder = assemble(settings, bundle).decoder
        with ExitStack() as stack:
            self._payments = self._reader(stack, self._topic)
            self._outcomes = Outcomes(settings, steps.at)
            stack.callback(self._outcomes.close)
            self._labels = self._reader(stack, settings.topics.labels)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close all clients."""
        self._stack.close()

    def locate(self, event_id: str, around: int | None, within_seconds: float) -> tuple[int, int]:
        """
        Return partition and offset of the event: looked for outwards from the Kafka timestamp
        `around` (milliseconds), or backwards from the end. Raises ConfigError when it is not found.
        """
        self._steps.begin(f"looking for event {event_id} in {self._topic}", 0)
        partitions = self._partitions()
        origins = (
            self._payments.ends(partitions, REQUEST_SECONDS)
            if around is None
            else self._payments.since(partitions, around, REQUEST_SECONDS)
        )
        is_wanted = partial(self._is_event, event_id.encode())
        try:
            found = search(self._payments, is_wanted, origins, self._steps.at, within_seconds)
        except SearchTimeoutError:
            raise ConfigError(
                f"event {event_id} was not found within {duration_text(within_seconds)}; narrow the"
                " search with --around, or give it longer with --within"
            ) from None
        if found is None:
            raise ConfigError(f"no event {event_id} in {self._topic}")
        return place(found)

    def explain(self, partition: int, offset: int) -> Explanation:
        """
        Return what was known of the record, what is answered for it, and what was published.

        Raises ConfigError for a record that is not there or was not scored, in a sentence.
        """
        message = self._record(partition, offset)
        payment = self._payment(message)
        outcome = self._published(message)
        published = outcome.fields if outcome else None
        self._steps.begin(f"reading labels from {self._settings.topics.labels}")
        parts = assemble(self._settings, self._bundle)
        known = fold_labels(
            self._labels, parts.frauds, published["label_offsets"] if published else None
        )
        labels = self._labels_at(payment, parts.frauds, known)
        prediction = self._answer(parts, known, partition, offset)
        compared = _compared(prediction, published)
        schema = schemas.load("prediction")
        return Explanation(
            topic=self._topic,
            partition=partition,
            offset=offset,
            timestamp=_iso(message.timestamp()[1] * 1_000),
            transaction=plain(payment),
            features=self._features(prediction, published),
            prediction=plain(prediction),
            published=plain(published) if published else None,
            published_at=outcome.where if outcome else None,
            compared=_words(compared),
            differences=differences(schema, published, prediction, compared) if published else [],
            labels=labels,
            notes=list(_notes(self._bundle, prediction, published, labels)),
        )

    def _reader(self, stack: ExitStack, topic: str) -> LogReader:
        reader = LogReader(reader_config(self._settings, lambda _: None), topic)
        stack.callback(reader.close)
        return reader

    def _partitions(self) -> list[int]:
        partitions = self._payments.partitions(REQUEST_SECONDS)
        if not partitions:
            raise ConfigError(f"topic {self._topic} does not exist; see topics.input")
        return partitions

    def _is_event(self, event_id: bytes, message: Message) -> bool:
        """Look for the bytes first; a record that is refused is what it seems."""
        if event_id not in (message.value() or b""):
            return False
        events, refused = self._decoder.decode(as_records(self._topic, [message]))
        return len(refused.rows) > 0 or events.text.bytes_of("event_id", 0) == event_id

    def _record(self, partition: int, offset: int) -> Message:
        partitions = self._partitions()
        if partition not in partitions:
            raise ConfigError(
                f"{self._topic} has no partition {partition}: it has {len(partitions)}, from 0 on"
            )
        first = self._payments.beginnings([partition], REQUEST_SECONDS)[partition]
        end = self._payments.ends([partition], REQUEST_SECONDS)[partition]
        where = f"{self._topic}[{partition}]"
        if offset >= end:
            raise ConfigError(f"{where} ends before offset {offset}: the next record gets {end}")
        if offset < first:
            raise ConfigError(
                f"retention has passed offset {offset} of {where}: the first record kept is {first}"
            )
        for messages in self._payments.between({partition: (offset, offset + 1)}):
            return messages[0]
        raise ConfigError(f"offset {offset} of {where} holds no record, but a transaction's marker")

    def _payment(self, message: Message) -> dict[str, Any]:
        """Return the record's fields. Raises ConfigError for one that the decoder refuses."""
        _, refused = self._decoder.decode(as_records(self._topic, [message]))
        if not len(refused.rows):
            payment = AvroRecords(
                "transaction", schemas.registry_headers(self._settings.input.schema_ids)
            ).read(message.value())
            assert payment is not None, "the decoder knows its schema"  # noqa: S101
            return payment
        status = Status(int(refused.statuses[0]))
        if status is Status.TOMBSTONE:
            raise ConfigError(
                f"{place_text(message)} is a tombstone: it is skipped, and never scored"
            )
        raise self._refusal(message, status.reason)

    def _refusal(self, message: Message, reason: str) -> ConfigError:
        """Return the sentence for a record that the decoder refuses."""
        where = place_text(message)
        letter = self._outcomes.dead_letter_of(message)
        if letter is not None:
            return _refused(where, letter)
        return ConfigError(
            f"{where} is refused, reason {reason}; {self._settings.dead_letter_topic} holds no dead"
            " letter of it (yet, or any more)"
        )

    def _published(self, message: Message) -> Published | None:
        """
        Return the record's prediction, None where there is none. Raises ConfigError when there is a
        dead letter instead.
        """
        self._steps.begin(f"looking for the prediction in {self._settings.topics.predictions}", 0)
        published = self._outcomes.prediction_of(message)
        if published is None:
            letter = self._outcomes.dead_letter_of(message)
            if letter is not None:
                raise _refused(place_text(message), letter)
        return published

    def _labels_at(
        self, payment: dict[str, Any], then: TerminalFrauds, known: LabelsKnown
    ) -> list[LabelShown]:
        """Return the labels that count for the payment, or would if they had been known."""
        now = TerminalFrauds(schemas.versions("label"), self._settings.labels.settle)
        mentions: list[Message] = []
        terminal = payment["terminal_id"]

        def see(messages: Sequence[Message]) -> None:
            mentions.extend(m for m in messages if terminal.encode() in (m.value() or b""))

        fold_labels(self._labels, now, see=see)
        records = AvroRecords("label")
        shown: dict[tuple[bool, int], LabelShown] = {}
        time, window = _micros(payment["event_time"]), self._longest_label_window
        for message in mentions:
            label = records.read(message.value())
            if label is None or label["terminal_id"] != terminal:
                continue
            label_id = str(label["label_id"]).encode()
            before, after = then.claim(label_id), now.claim(label_id)
            counted = before is not None and before.counts(time, window)
            would = after is not None and after.counts(time, window)
            if counted or would:
                effect = "counted" if would and counted else "unknown then"
                effect = "revoked since" if counted and not would else effect
                claim = before if counted else after
                assert claim is not None  # noqa: S101 - one of them counts
                shown.setdefault(
                    (counted, claim.row), self._shown(message, label, effect, claim.arrival)
                )
        return list(shown.values())

    @property
    def _longest_label_window(self) -> int:
        return max(self._bundle.feature_set.label_windows, default=0)

    def _shown(
        self, message: Message, label: dict[str, Any], effect: str, arrival: int
    ) -> LabelShown:
        partition, offset = place(message)
        appended = message.timestamp()[1] * 1_000
        settle = micros(self._settings.labels.settle)
        return LabelShown(
            str(label["label_id"]), label["transaction_id"], effect, _iso(arrival), _iso(appended),
            appended > _micros(label["published_at"]) + settle, partition, offset,
        )  # fmt: skip

    def _answer(
        self, parts: Parts, known: LabelsKnown, partition: int, offset: int
    ) -> dict[str, Any]:
        """Return the prediction that the steps make for the record, from the log before it."""
        kept = KeptOutputs()
        fold = LogFold(parts, known, kept, from_snapshots=True)
        try:
            plan = fold.begin(partition, offset)
            self._steps.begin(
                f"folding {self._topic}[{partition}] from offset {plan.start}", offset - plan.start
            )
            fold.run(
                Stretch(partition, plan.start, offset, offset + 1),
                lambda position: self._steps.at(position - plan.start),
            )
        finally:
            fold.close()
        values = [
            value
            for outputs in kept.outputs
            if outputs.topic == self._settings.topics.predictions
            for value in outputs.values
        ]
        prediction = AvroRecords("prediction").read(values[0]) if values else None
        if prediction is None:
            raise ConfigError(
                f"{self._topic}[{partition}]@{offset} cannot be scored by this model: it would be a"
                " dead letter"
            )
        return prediction

    def _features(
        self, prediction: dict[str, Any], published: dict[str, Any] | None
    ) -> list[dict[str, Any]]:
        same_set = published and published["feature_set"] == prediction["feature_set"]
        then = published["features"] if published and same_set else None
        features = self._bundle.feature_set.features
        return [
            {
                "name": feature.name,
                "value": prediction["features"][k],
                "unit": feature.unit,
                "published": then[k] if then else None,
                "meaning": feature.doc,
            }
            for k, feature in enumerate(features)
        ]


def reason_words(code: str) -> str:
    """Return what a reason code stands for."""
    return REASONS.get(code, "")


def _compared(prediction: dict[str, Any], published: dict[str, Any] | None) -> set[str]:
    """Return the fields that must be equal: of another model's prediction, not its answer."""
    fields = prediction.keys() - _OF_THIS_RUN
    if published is None:
        return set()
    if published["feature_set"] != prediction["feature_set"]:
        return fields - _OF_THE_MODEL - {"feature_set", "features"}
    versions = ("model_name", "model_version", "policy_version")
    if any(published[name] != prediction[name] for name in versions):
        return fields - _OF_THE_MODEL
    return fields


def _words(compared: set[str]) -> str:
    if not compared:
        return "nothing"
    if "probability" in compared:
        return "all"
    return "features" if "features" in compared else "event"


def _notes(
    bundle: Bundle, prediction: dict[str, Any], published: dict[str, Any] | None,
    labels: Sequence[LabelShown],
) -> Any:  # fmt: skip
    if published is None:
        yield "no prediction is published: the group has not come to it yet, or retention took it"
    else:
        theirs = f"{published['model_name']} {published['model_version']}"
        ours = f"{bundle.manifest.name} {bundle.manifest.version}"
        if theirs != ours:
            yield f"published by model {theirs}, explained with {ours}: only features are compared"
        if published["degraded"] != prediction["degraded"]:
            yield (
                f"degraded was {published['degraded']} when it was published and is"
                f" {prediction['degraded']} now"
            )
    flags = set(prediction["degraded"]).union(published["degraded"] if published else ())
    keys = " or ".join(bundle.feature_set.windows)
    for flag in sorted(flags & _DEGRADED.keys()):
        yield f"{flag}: {_DEGRADED[flag].format(key=keys)}"
    if any(label.effect != "counted" for label in labels):
        yield (
            "labels were appended after this payment was scored that count from before it: a replay"
            " counts them, the published prediction could not"
        )
    elif any(label.appended_late for label in labels):
        yield "a label was appended later than it counts from: payments in between did not have it"


def _refused(where: str, letter: DeadLetter) -> ConfigError:
    return ConfigError(
        f"{where} was refused and not scored, reason {letter.reason} (stage {letter.stage}); its"
        f" dead letter is {letter.where}"
    )


def _iso(time: int) -> str:
    return datetime.fromtimestamp(time / 1_000_000, UTC).isoformat()


def _micros(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)
