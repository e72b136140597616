"""
Judges a history: what was sent, and what a read_committed reader finds. Knows nothing else.

Every rule yields the violations it finds, with coordinates; a sound history yields none.
"""

import hashlib
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.integration.history import PREFIX, History, Place, Read, decode, letter_source, source
from tests.integration.oracle import Frauds, Partition
from tests.integration.traffic import PREDICTION, TOMBSTONE, Sent

REDACTED = {"oversize", "card_number"}
FEWEST_CARD_DIGITS = 13
VOLATILE = ("scored_at", "degraded", "label_offsets")
FLAGGED = {"REVIEW", "DECLINE"}
ALERT_NAMESPACE = uuid.UUID("6f1d2a34-54c1-5c0c-9d1b-0b6f8f2a7c11")


@dataclass(frozen=True)
class Violation:
    """A rule, where it is broken, and how."""

    rule: str
    where: object
    what: str


@dataclass
class _Facts:
    """The history decoded once, for all rules."""

    h: History
    inputs: dict[Place, Sent] = field(init=False)
    payments: dict[Place, dict[str, Any]] = field(init=False)
    predictions: list[tuple[Read, dict[str, Any]]] = field(init=False)
    alerts: list[tuple[Read, dict[str, Any]]] = field(init=False)
    late: set[Place] = field(init=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.h.sent, key=lambda sent: (sent.partition, sent.offset))
        self.inputs = {(sent.partition, sent.offset): sent for sent in ordered}
        self.payments = {
            place: decode("transaction", sent.value)
            for place, sent in self.inputs.items()
            if sent.outcome == PREDICTION
        }
        self.predictions = [(r, decode("prediction", r.value)) for r in self.h.predictions]
        self.alerts = [(r, decode("alert", r.value)) for r in self.h.alerts]
        self.late = set(_late(self.payments, self.h.grace))

    def first_predictions(self) -> dict[Place, dict[str, Any]]:
        return {source(p): p for _, p in reversed(self.predictions)}


def _late(payments: dict[Place, dict[str, Any]], grace: int) -> Iterator[Place]:
    """Yield the payments that came after one of their partition that is later by the grace."""
    latest: dict[int, int] = {}
    for place, payment in payments.items():
        time = payment["event_time"]
        latest[place[0]] = max(time, latest.get(place[0], time))
        if time < latest[place[0]] - grace:
            yield place


def check(history: History) -> list[Violation]:
    """Return every violation found; sooner one too many than none for want of looking."""
    if not history.sent:
        return [Violation("nothing checked", history.topic, "no input was acknowledged")]
    facts = _Facts(history)
    rules = (
        _outcomes, _repeats, _order, _letters, _offsets,
        _copies, _features, _probabilities, _alerts,
    )  # fmt: skip
    return [violation for rule in rules for violation in rule(facts)]


def _outcomes(f: _Facts) -> Iterator[Violation]:
    """Each input has the one outcome that is its own, and there is no other outcome."""
    found = Counter({(source(p), PREDICTION) for _, p in f.predictions})
    for letter in f.h.dead_letters:
        reason = dict(letter.headers).get(f"{PREFIX}reason") or b"?"
        found[letter_source(letter), reason.decode()] = 1
    for place, sent in f.inputs.items():
        due = f.h.complete or place[1] < f.h.committed.get(place[0], 0)
        if sent.outcome != TOMBSTONE and not found.pop((place, sent.outcome), 0) and due:
            yield Violation("lost", place, f"no {sent.outcome}")
    for place, outcome in found:
        sent = f.inputs.get(place)
        yield Violation("phantom", place, f"{outcome} for {sent.outcome if sent else 'no input'}")


def _repeats(f: _Facts) -> Iterator[Violation]:
    """Exactly once: none twice. At least once: a second is the same bit for bit."""
    seen: dict[object, object] = {}
    for kind, place, content in _contents(f):
        first = seen.setdefault((kind, place), content)
        if first is not content and f.h.exactly_once:
            yield Violation("duplicate", place, kind)
        elif first != content:
            yield Violation("changed", place, f"{kind} was {first} and is {content}")


def _contents(f: _Facts) -> Iterator[tuple[str, Place, object]]:
    for read, prediction in f.predictions:
        stable = {name: prediction[name] for name in prediction if name not in VOLATILE}
        yield PREDICTION, source(prediction), (read.key, stable)
    for read, alert in f.alerts:
        yield "alert", source(alert), (read.key, read.value)
    for read in f.h.dead_letters:
        content = (read.partition, read.key, read.value, read.headers, read.timestamp)
        yield "dead letter", letter_source(read), content


def _order(f: _Facts) -> Iterator[Violation]:
    """Outputs of one key follow each other as their inputs do; so do a partition's letters."""
    predictions = ((r, source(p), (r.partition, r.key)) for r, p in f.predictions)
    letters = ((r, letter_source(r), r.partition) for r in f.h.dead_letters)
    for outputs in (predictions, letters):
        latest: dict[object, int] = {}
        seen: set[Place] = set()
        partitions: dict[object, int] = {}
        for read, place, key in sorted(outputs, key=lambda output: output[0].offset):
            if place in seen:
                continue
            seen.add(place)
            if place[1] < latest.get(key, -1):
                yield Violation("order", place, f"{key} comes after offset {latest[key]}")
            latest[key] = place[1]
            if partitions.setdefault(key, place[0]) != place[0]:
                yield Violation("order", place, f"{key} has inputs in two partitions")
            if read.partition not in f.h.ends:
                yield Violation("order", place, f"written to partition {read.partition}")


def _letters(f: _Facts) -> Iterator[Violation]:
    """A dead letter is its record untouched, in its partition, and says where it was from."""
    for letter in f.h.dead_letters:
        place = letter_source(letter)
        sent = f.inputs.get(place)
        if sent is None:
            continue
        own = tuple(pair for pair in letter.headers if not pair[0].startswith(PREFIX))
        facts = {name: value for name, value in letter.headers if name.startswith(PREFIX)}
        value = sent.value or b""
        redacted = sent.outcome in REDACTED
        expected = {
            "topic of origin": (facts.get(f"{PREFIX}topic"), f.h.topic.encode()),
            "partition": (letter.partition, sent.partition),
            "key": (letter.key, None if sent.outcome == "card_number" else sent.key),
            "value": (letter.value, None if redacted else sent.value),
            "headers": (own, _kept(sent)),
            "timestamp": (letter.timestamp, sent.timestamp),
        }
        if redacted:
            digest = hashlib.sha256(value).hexdigest().encode()
            expected["hash"] = (facts.get(f"{PREFIX}value.sha256"), digest)
            length = str(len(value)).encode()
            expected["length"] = (facts.get(f"{PREFIX}value.length"), length)
        yield from _unequal("dead letter", place, expected)


def _kept(sent: Sent) -> tuple[tuple[str, bytes], ...]:
    """Return a record's headers, without those that would tell a card's number after all."""
    if sent.outcome != "card_number":
        return sent.headers
    return tuple(
        pair for pair in sent.headers if len(re.findall(rb"\d", pair[1])) < FEWEST_CARD_DIGITS
    )


def _offsets(f: _Facts) -> Iterator[Violation]:
    """Offsets are committed for exactly what is published, and no transaction is left open."""
    for topic, partition in f.h.stuck:
        yield Violation("open transaction", (topic, partition), "a plain record stays invisible")
    for partition, end in f.h.ends.items():
        last = max((offset for p, offset in f.inputs if p == partition), default=-1)
        if last + 1 != end:
            yield Violation("journal", partition, f"ends at {last + 1}, the topic at {end}")
        committed = f.h.committed.get(partition, 0)
        if f.h.complete and committed != end:
            yield Violation("committed", partition, f"{committed} of {end}")
    places = [source(p) for _, p in f.predictions] + [*map(letter_source, f.h.dead_letters)]
    for partition, offset in places:
        if f.h.exactly_once and offset >= f.h.committed.get(partition, 0):
            yield Violation("committed", (partition, offset), "published, and not committed")


def _copies(f: _Facts) -> Iterator[Violation]:
    """What a prediction says of its payment is what the payment says, and the rest fits."""
    for read, prediction in f.predictions:
        payment = f.payments.get(source(prediction))
        if payment is None:
            continue
        names = ("event_id", "transaction_id", "card_id", "terminal_id", "event_time")
        probability = prediction["probability"]
        expected = {name: (prediction[name], payment[name]) for name in names} | {
            "key": (read.key, payment["card_id"].encode()),
            "topic": (prediction["source_topic"], f.h.topic),
            "feature set": (prediction["feature_set"], "arrival-1"),
            "score": (prediction["score"], 1 + int(998 * probability)),
            "decision": (prediction["decision"], f.h.bundle.decision(probability)),
            "reasons": (bool(prediction["reasons"]), prediction["decision"] in FLAGGED),
        }
        yield from _unequal("prediction", source(prediction), expected)


def _features(f: _Facts) -> Iterator[Violation]:
    """
    Features are the oracle's, over the labels that the prediction says were known; those are all
    that were acknowledged before the payment was sent, unless it says LABELS_STALE.
    """
    labels = [_readable(read) for read in sorted(f.h.labels, key=lambda read: read.offset)]
    frauds: dict[int, Frauds] = {}
    state: dict[int, Partition] = defaultdict(lambda: Partition(f.h.grace))
    predictions = f.first_predictions()
    for place, payment in f.payments.items():
        prediction = predictions.get(place)
        known = sum(prediction["label_offsets"]) if prediction else 0
        if known not in frauds:
            frauds[known] = Frauds(labels[:known], f.h.settle)
        counts = frauds[known].counts(payment["terminal_id"], payment["event_time"])
        expected, late = state[place[0]].observe(payment, counts)
        if prediction is None:
            continue
        flags = set(prediction["degraded"])
        if flags - f.h.allowed or ("LATE_EVENT" in flags) is not late:
            yield Violation("degraded", place, f"{sorted(flags)}, and late is {late}")
        needed = 0 if "LABELS_STALE" in flags else f.inputs[place].labels_before
        if not needed <= known <= len(labels):
            yield Violation("labels", place, f"{known} known, of {needed} to {len(labels)}")
        if "STATE_COLD" not in flags and prediction["features"] != expected:
            yield Violation("features", place, f"{prediction['features']}, not {expected}")


def _probabilities(f: _Facts) -> Iterator[Violation]:
    """Another scorer gives the same features the same probability."""
    predictions = f.first_predictions()
    if f.h.bundle.score is None or not predictions:
        return
    scores = f.h.bundle.score([prediction["features"] for prediction in predictions.values()])
    for (place, prediction), expected in zip(predictions.items(), scores, strict=True):
        if abs(prediction["probability"] - expected) > 1e-5:
            yield Violation("probability", place, f"{prediction['probability']}, not {expected}")


def _readable(label: Read) -> dict[str, Any] | None:
    try:
        return decode("label", label.value)
    except Exception:  # noqa: BLE001 - whatever fastavro raises: nobody can read it
        return None


def _alerts(f: _Facts) -> Iterator[Violation]:
    """
    The first flagged payment of a card in an aligned window opens an alert, and a late one again,
    which nobody remembers; no other does.
    """
    due: dict[Place, tuple[str, int]] = {}
    opened: set[tuple[int, str, int]] = set()
    for place, prediction in sorted(f.first_predictions().items()):
        if prediction["decision"] not in FLAGGED:
            continue
        card, time = prediction["card_id"], prediction["event_time"]
        window = time // f.h.alert_window * f.h.alert_window
        if place in f.late:
            due[place] = card, window
        elif (place[0], card, window) not in opened:
            opened.add((place[0], card, window))
            due[place] = card, window
    found = {source(alert): alert for _, alert in f.alerts}
    for place, (card, window) in due.items():
        alert = found.pop(place, None)
        if alert is None:
            yield Violation("alert", place, "none was opened")
            continue
        name = f"CARD_COMPROMISE:{card}:{window}"
        expected = {
            "subject": (alert["subject_id"], card),
            "status": (alert["status"], "OPENED"),
            "window": (alert["window_start"], window),
            "id": (alert["alert_id"], str(uuid.uuid5(ALERT_NAMESPACE, name))),
            "event": (alert["event_ids"], [f.payments[place]["event_id"]]),
        }
        yield from _unequal("alert", place, expected)
    for place in found:
        yield Violation("alert", place, "opened, and not due")


def _unequal(
    rule: str, where: Place, expected: dict[str, tuple[object, object]]
) -> Iterable[Violation]:
    for name, (actual, right) in expected.items():
        if actual != right:
            yield Violation(rule, where, f"{name} is {actual!r}, not {right!r}")
