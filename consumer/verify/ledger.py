"""Takes in every record of the topics, and says what is broken as it sees it."""

import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import schemas
from consumer.verify.evidence import (
    COLD,
    DOUBTFUL,
    FLAGGED,
    HOT,
    LATE,
    MODELS,
    RECORD,
    REPLAYED,
    STALE,
    TOMBSTONE,
    Stretch,
)
from consumer.verify.formats import (
    Decoder,
    LetterFacts,
    Place,
    Record,
    ReplayFacts,
    UnreadableError,
    digest,
    key_digest,
    letter_facts,
    replay_facts,
    same_sha256,
    sha256_start,
    without_numbers,
)
from consumer.verify.frauds import COUNTS, SHARES, KnownFrauds
from consumer.verify.invariants import Findings
from consumer.verify.velocity import FEATURE_SETS, Answer, Sample, payment_of

_PAYMENT: Final = ("event_id", "transaction_id", "card_id", "terminal_id", "event_time")
_MAKER: Final = ("model_name", "model_version")
_MODEL: Final = (*_MAKER, "policy_version")
_MAY_DIFFER: Final = frozenset({"scored_at", "degraded", "label_offsets", *_MODEL})
_FLAGS: Final = {"LATE_EVENT": LATE, "STATE_COLD": COLD, "LABELS_STALE": STALE, "HOT_KEY": HOT}
_FLAGGED: Final = frozenset({"REVIEW", "DECLINE"})
_NEVER_COUNTED: Final = frozenset(
    {"framing", "decode", "trailing", "not_finite", "id", "key", "time", "range"}
)
"""Reasons that no change of a configuration or a schema takes back."""
_WITHOUT_VALUE: Final = frozenset({"oversize", "card_number"})
_ALERT_NAMESPACE: Final = uuid.UUID("6f1d2a34-54c1-5c0c-9d1b-0b6f8f2a7c11")
_MOST: Final = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Promise:
    """
    What the consumer under test was told: times in microseconds. Features are computed again for
    cards, and for terminals where a feature set counts theirs, of `sample` payments at most.
    """

    topic: str
    exactly_once: bool
    alert_window: int
    settle: int
    grace: int
    max_future: int
    sample: int
    registry: Mapping[bytes, schemas.Schema] = field(default_factory=dict)
    """Headers of a schema registry that payments may have, and their schemas."""


class Ledger:
    """
    Inputs are to be entered first, then labels, then what answers them.

    What answers a record outside the stretches is passed over.
    """

    def __init__(self, promise: Promise, stretches: Iterable[Stretch]) -> None:
        """The stretches are empty, one for each partition of the input topic."""
        self.promise: Final = promise
        self.stretches: Final = {stretch.partition: stretch for stretch in stretches}
        self.findings: Final = Findings()
        self.counts: Counter[str] = Counter()
        self.furthest: Final[dict[int, int]] = {}
        """For each partition, the last offset that anything answers, in the stretch or not."""
        self.opened_before: Final[set[tuple[int, int, int]]] = set()
        """Partition, card and window of the alerts of records before the stretches."""
        self.replays: Final[dict[Place, list[tuple[int, Place]]]] = {}
        """First place of a replayed record -> attempts, and where they are."""
        self.cards: Final = Sample(promise.sample)
        self.terminals: Final = Sample(promise.sample if len(self.stretches) == 1 else 0)
        """Only a feature set for a topic of one partition counts payments of terminals."""
        self.answers: Final[dict[Place, Answer]] = {}
        """Of the payments in either sample."""
        self._frauds: Final = KnownFrauds(promise.settle)
        self._label_ends: Final[dict[int, int]] = {}
        self._labels_whole = True
        self._decoders: Final = {
            "transaction": Decoder("transaction", promise.registry),
            **{name: Decoder(name) for name in ("label", "prediction", "alert")},
        }

    def inputs(self, records: Iterable[Record]) -> None:
        """Enter records of the input topic."""
        for record in records:
            stretch = self.stretches[record.partition]
            if not stretch.has(record.offset):
                continue
            row = stretch.row(record.offset)
            row["seen"] = TOMBSTONE if record.value is None else RECORD
            row["timestamp"], row["appended"] = record.timestamp, record.appended
            row["key"] = key_digest(record.key)
            row["value"] = sha256_start(record.value)
            row["length"] = -1 if record.value is None else len(record.value)
            row["headers"] = digest(*record.headers)
            row["numberless_headers"] = digest(*without_numbers(record.headers))
            self._enter_payment(record, row)
            self.counts["records"] += 1
            self._note_replay(record)

    def _enter_payment(self, record: Record, row: Any) -> None:
        if record.value is None:
            return
        try:
            fields = self._decoders["transaction"].read(record.value)
        except UnreadableError:
            return
        row["payment"] = digest(*(fields[name] for name in _PAYMENT))
        row["event_time"] = fields["event_time"]
        payment = payment_of(record.offset, fields, digest(fields["event_id"]))
        if payment is not None:
            self.cards.add(record.partition, int(row["key"]), payment)
            terminal = key_digest(fields["terminal_id"].encode())
            self.terminals.add(record.partition, terminal, payment)

    def _note_replay(self, record: Record) -> None:
        place = Place(record.partition, record.offset)
        try:
            facts = replay_facts(record.headers)
        except UnreadableError as error:
            self.findings.broken("replays", record.topic, *place, str(error))
            return
        if facts is None:
            return
        self.counts["replayed"] += 1
        if facts.topic == self.promise.topic:
            self.stretches[place.partition].row(place.offset)["flags"] |= REPLAYED
            self._enter_replay(place, facts)

    def _enter_replay(self, place: Place, facts: ReplayFacts) -> None:
        attempts = self.replays.setdefault(facts.first, [])
        self.findings.checked("replays")
        if any(attempt == facts.attempt for attempt, _ in attempts):
            self.findings.broken(
                "replays", self.promise.topic, *place, f"attempt {facts.attempt} came twice"
            )
        attempts.append((facts.attempt, place))

    def labels(self, records: Iterable[Record]) -> None:
        """Enter labels, all there are, in the order of their partitions."""
        for record in records:
            self._label_ends[record.partition] = record.offset + 1
            self.counts["labels"] += 1
            try:
                label = self._decoders["label"].read(record.value)
            except UnreadableError:
                continue  # the consumer counts it and goes on, too
            self._frauds.add(record.partition, record.offset, label)

    def labels_cut(self) -> None:
        """Retention took labels, so that frauds cannot be counted again."""
        self._labels_whole = False

    def predictions(self, records: Iterable[Record]) -> None:
        """Enter records of the topic of predictions, each partition in its order."""
        for record in records:
            try:
                prediction = self._decoders["prediction"].read(record.value)
            except UnreadableError as error:
                self._unreadable(record, error)
                continue
            place = Place(prediction["source_partition"], prediction["source_offset"])
            row = self._row_of(prediction["source_topic"], place)
            if row is not None:
                self._check_source(record, prediction, place, row)
                self._check_labels(prediction, place)
                self._enter_prediction(record, prediction, place, row)

    def _unreadable(self, record: Record, error: UnreadableError) -> None:
        self.findings.checked("no_phantom")
        self.findings.broken(
            "no_phantom", record.topic, record.partition, record.offset, str(error)
        )

    def _row_of(self, topic: str | None, place: Place) -> Any | None:
        """Return the row of an answer's record; None where it is not to be judged."""
        if topic != self.promise.topic:
            self.counts["outside"] += 1
            return None
        self.furthest[place.partition] = max(place.offset, self.furthest.get(place.partition, -1))
        stretch = self.stretches.get(place.partition)
        if stretch is None or not stretch.has(place.offset):
            self.counts["outside"] += 1
            return None
        return stretch.row(place.offset)

    def _check_source(
        self, record: Record, prediction: Mapping[str, Any], place: Place, row: Any
    ) -> None:
        self.findings.checked("no_phantom")
        what = ""
        if row["seen"] != RECORD:
            what = "a prediction of no record"
        elif row["payment"] != digest(*(prediction[name] for name in _PAYMENT)):
            what = "a prediction that has other ids than its record"
        elif record.key != prediction["card_id"].encode():
            what = "a prediction whose key is not its card"
        if what:
            self.findings.broken("no_phantom", self.promise.topic, *place, what)

    def _check_labels(self, prediction: Mapping[str, Any], place: Place) -> None:
        self._keep_answer(prediction, place)
        windows = COUNTS.get(prediction["feature_set"])
        features = prediction["features"]
        if windows is None or features is None or not self._labels_whole:
            self.findings["labels"].unjudged += 1
            return
        self.findings.checked("labels")
        below = prediction["label_offsets"]
        if any(known > self._label_ends.get(p, 0) for p, known in enumerate(below)):
            self.findings.broken("labels", self.promise.topic, *place, "labels that are not there")
        expected = self._frauds.counts(
            prediction["terminal_id"], prediction["event_time"], below, list(windows.values())
        )
        if [features[at] for at in windows] != expected:
            self.findings.broken(
                "labels", self.promise.topic, *place, "other frauds than were known and settled"
            )

    def _keep_answer(self, prediction: Mapping[str, Any], place: Place) -> None:
        """Keep what is said of a payment's features, if they are computed again."""
        card, terminal = (key_digest(prediction[of].encode()) for of in ("card_id", "terminal_id"))
        name, features = prediction["feature_set"], prediction["features"]
        wanted = self.cards.takes(card) or self.terminals.takes(terminal)
        if not wanted or features is None or name not in FEATURE_SETS or place in self.answers:
            return
        frauds: list[int] | None = None
        if name in SHARES and self._labels_whole:
            frauds = self._frauds.counts(
                prediction["terminal_id"], prediction["event_time"], prediction["label_offsets"],
                SHARES[name],
            )  # fmt: skip
        self.answers[place] = Answer(name, struct.pack(f"<{len(features)}f", *features), frauds)

    def _enter_prediction(
        self, record: Record, prediction: Mapping[str, Any], place: Place, row: Any
    ) -> None:
        model = digest(*(prediction[name] for name in _MODEL))
        said = [value for name, value in prediction.items() if name not in _MAY_DIFFER]
        content = digest(record.key, said)
        flags = sum(_FLAGS.get(flag, 0) for flag in set(prediction["degraded"]))
        flagged = FLAGGED if prediction["decision"] in _FLAGGED else 0
        if row["predictions"]:
            by_another = model != row["model"]
            row["flags"] |= (MODELS | flagged) * by_another
            excused = by_another or (flags | int(row["flags"])) & (COLD | STALE)
            self._repeated(place, "prediction", same=content == row["prediction"] or bool(excused))
        else:
            row["prediction"], row["model"] = content, model
            row["maker"] = digest(*(prediction[name] for name in _MAKER))
            row["flags"] |= flags | flagged
            row["event"] = digest(prediction["event_id"])
            row["out_partition"], row["out_offset"] = record.partition, record.offset
        row["predictions"] = min(_MOST, int(row["predictions"]) + 1)

    def _repeated(self, place: Place, what: str, *, same: bool) -> None:
        self.counts["repeats"] += 1
        if self.promise.exactly_once:
            self.findings.broken("no_repeat", self.promise.topic, *place, f"a second {what}")
        elif not same:
            self.findings.broken(
                "no_repeat", self.promise.topic, *place, f"a second {what} that is another"
            )

    def alerts(self, records: Iterable[Record]) -> None:
        """Enter records of the topic of alerts, once all predictions are."""
        for record in records:
            try:
                alert = self._decoders["alert"].read(record.value)
            except UnreadableError as error:
                self._unreadable(record, error)
                continue
            place = Place(alert["source_partition"] or 0, alert["source_offset"] or 0)
            row = self._row_of(alert["source_topic"], place)
            if row is None:
                self._note_earlier(alert, place)
                continue
            self._check_alert(record, alert, place, row)
            self._note_maker(alert, row)
            content = digest(record.key, record.value)
            if row["alerts"]:
                excused = bool(int(row["flags"]) & (COLD | STALE | MODELS))
                self._repeated(place, "alert", same=content == row["alert"] or excused)
            else:
                row["alert"], row["alert_window"] = content, alert["window_start"]
            row["alerts"] = min(_MOST, int(row["alerts"]) + 1)

    def _note_maker(self, alert: Mapping[str, Any], row: Any) -> None:
        """
        At least once, an alert may be out and its prediction not when another model takes over,
        which then predicts: as if both had.
        """
        by_another = row["maker"] != digest(*(alert[name] for name in _MAKER))
        if row["predictions"] and by_another and not self.promise.exactly_once:
            row["flags"] |= MODELS

    def _note_earlier(self, alert: Mapping[str, Any], place: Place) -> None:
        stretch = self.stretches.get(place.partition)
        if stretch is not None and place.offset < stretch.begin:
            card = key_digest(alert["subject_id"].encode())
            self.opened_before.add((place.partition, card, alert["window_start"]))

    def _check_alert(
        self, record: Record, alert: Mapping[str, Any], place: Place, row: Any
    ) -> None:
        card, window = alert["subject_id"], alert["window_start"]
        right_id = str(uuid.uuid5(_ALERT_NAMESPACE, f"{alert['kind']}:{card}:{window}"))
        what = ""
        if record.key != card.encode() or key_digest(record.key) != row["key"]:
            what = "an alert of another card than its record's"
        elif alert["alert_id"] != right_id:
            what = "an alert whose id is not that of its card and window"
        elif alert["status"] != "OPENED" or alert["events"] != len(alert["event_ids"]):
            what = "an alert that does not count its events"
        elif row["predictions"] and digest(*alert["event_ids"]) != row["event"]:
            what = "an alert of another event than its prediction's"
        if what:
            self.findings.broken("alerts", self.promise.topic, *place, what)

    def dead_letters(self, records: Iterable[Record]) -> None:
        """Enter records of the dead-letter topic, each partition in its order."""
        for record in records:
            self.findings.checked("dead_letters")
            try:
                facts = letter_facts(record.headers)
            except UnreadableError as error:
                self.findings.broken(
                    "dead_letters", record.topic, record.partition, record.offset, str(error)
                )
                continue
            row = self._row_of(facts.topic, facts.place)
            if row is None:
                continue
            if row["seen"] == RECORD:
                for what in _differences(record, row):
                    self.findings.broken("dead_letters", self.promise.topic, *facts.place, what)
            else:
                self.findings.broken(
                    "no_phantom", self.promise.topic, *facts.place, "a dead letter of no record"
                )
            content = digest(record.key, record.value, facts.own_headers, facts.reason)
            if row["letters"]:
                self._repeated(facts.place, "dead letter", same=content == row["letter"])
            else:
                row["letter"], row["letter_offset"] = content, record.offset
            row["letters"] = min(_MOST, int(row["letters"]) + 1)
            if self._may_count(facts.reason, row):
                row["flags"] |= DOUBTFUL

    def _may_count(self, reason: str, row: Any) -> bool:
        """Say whether a state that is rebuilt now may count a payment that was refused."""
        ahead = int(row["event_time"]) - 1_000 * int(row["timestamp"])
        is_ahead = reason == "future" and ahead > self.promise.max_future
        return bool(row["event_time"]) and reason not in _NEVER_COUNTED and not is_ahead


def _differences(letter: Record, row: Any) -> Iterable[str]:
    """Say what of a dead letter is not its record's."""
    facts = letter_facts(letter.headers)
    rules = (
        ("a dead letter in another partition", letter.partition == facts.place.partition),
        ("a dead letter without a reason", facts.reason != ""),
        ("a dead letter with another key", _same_key(letter.key, facts, int(row["key"]))),
        ("a dead letter with other headers", _same_headers(facts, row)),
        (
            "a dead letter with another timestamp",
            letter.appended or letter.timestamp == max(0, row["timestamp"]),
        ),
        *_value_rules(letter.value, facts, row),
    )
    return [what for what, holds in rules if not holds]


def _same_key(key: bytes | None, facts: LetterFacts, expected: int) -> bool:
    """A card number may be the key; a giant key is hashed, as it would not fit the topic."""
    if facts.reason == "card_number":
        return key is None
    if "key.sha256" in facts.said:
        return key is None and same_sha256(facts.said["key.sha256"], expected)
    return key_digest(key) == expected


def _same_headers(facts: LetterFacts, row: Any) -> bool:
    """Headers with a card number are left out, and giant ones are all, which says so."""
    if facts.said.keys() & {"headers.length", "headers.unreadable"}:
        return not facts.own_headers
    if facts.reason == "card_number":
        return digest(*without_numbers(facts.own_headers)) == int(row["numberless_headers"])
    return digest(*facts.own_headers) == int(row["headers"])


def _value_rules(value: bytes | None, facts: LetterFacts, row: Any) -> Iterable[tuple[str, bool]]:
    expected = int(row["value"])
    if facts.reason not in _WITHOUT_VALUE:
        same = value is not None and sha256_start(value) == expected
        return [("a dead letter with another value", same)]
    return [
        ("a dead letter that must not hold its value", value is None),
        ("a dead letter with another hash", same_sha256(facts.said.get("value.sha256"), expected)),
        (
            "a dead letter with another length",
            facts.said.get("value.length") == str(row["length"]),
        ),
    ]
