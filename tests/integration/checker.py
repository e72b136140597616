"""
Judges a history: the checker of `fraudstream verify` says what is broken of what it promises, and
here stands what only a test can know: what was sent, what it must become, and by which model.

Every rule yields the violations it finds, with coordinates; a sound history yields none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from consumer.verify.evidence import Stretch
from consumer.verify.formats import Place, UnreadableError, letter_facts
from consumer.verify.frauds import KnownFrauds
from consumer.verify.invariants import Findings
from consumer.verify.ledger import Ledger, Promise
from consumer.verify.verdict import Circumstances, conclude
from tests.builders import DAY
from tests.integration.history import History, decode, source
from tests.integration.oracle import WINDOWS, Partition
from tests.integration.traffic import PREDICTION, Sent

FLAGGED = {"REVIEW", "DECLINE"}
OWN_RULES = (
    "journal", "committed", "outcome", "prediction", "degraded", "features", "probability",
)  # fmt: skip
"""What is judged here beside the invariants of `fraudstream verify`."""


@dataclass(frozen=True)
class Violation:
    """A rule, where it is broken, and how."""

    rule: str
    where: object
    what: str


class Judgement(NamedTuple):
    """The names of the rules that had something to judge, and every violation of them."""

    checked: list[str]
    violations: list[Violation]


@dataclass
class _Facts:
    """The history decoded once, for all rules."""

    h: History
    inputs: dict[Place, Sent] = field(init=False)
    payments: dict[Place, dict[str, Any]] = field(init=False)
    predictions: dict[Place, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.h.sent, key=lambda sent: (sent.partition, sent.offset))
        self.inputs = {Place(sent.partition, sent.offset): sent for sent in ordered}
        self.payments = {
            place: decode("transaction", sent.value)
            for place, sent in self.inputs.items()
            if sent.outcome == PREDICTION
        }
        every = [decode("prediction", read.value) for read in self.h.predictions]
        self.predictions = {source(prediction): prediction for prediction in reversed(every)}


def check(history: History) -> list[Violation]:
    """Return every violation found; sooner one too many than none for want of looking."""
    return judge(history).violations


def judge(history: History) -> Judgement:
    """Return every violation found, and which rules it was that looked."""
    if not history.sent:
        nothing = Violation("nothing checked", history.topic, "no input was acknowledged")
        return Judgement([], [nothing])
    findings = list(verified(history))
    found = [
        Violation(finding.name, (e.topic, e.partition, e.offset), e.what)
        for finding in findings
        for e in finding.examples
    ]
    facts = _Facts(history)
    rules = (_journal, _outcomes, _decisions, _features, _probabilities)
    found += [violation for rule in rules for violation in rule(facts)]
    checked = [finding.name for finding in findings if finding.checked]
    return Judgement([*checked, *OWN_RULES], found)


def verified(h: History) -> Findings:
    """Return what `fraudstream verify` finds."""
    promise = Promise(
        h.topic, h.exactly_once, h.alert_window, h.settle, h.grace, DAY, sample=1_000_000
    )
    ledger = Ledger(promise, (Stretch(partition, 0, end) for partition, end in h.ends.items()))
    ledger.inputs(h.inputs)
    ledger.labels(h.labels)
    ledger.predictions(h.predictions)
    ledger.dead_letters(sorted(h.dead_letters, key=lambda read: read.offset))
    ledger.alerts(h.alerts)
    ledger.findings.checked("transactions")
    for topic, partition in h.stuck:
        ledger.findings.broken("transactions", topic, partition, None, "open")
    conclude(ledger, Circumstances(h.committed, h.committed, h.ends))
    return ledger.findings


def _journal(f: _Facts) -> Iterator[Violation]:
    """The topic holds what was sent, all of which is committed in the end."""
    read = {Place(record.partition, record.offset): record for record in f.h.inputs}
    for place in f.inputs.keys() ^ read.keys():
        yield Violation("journal", place, "not on both the topic and the journal")
    for place in f.inputs.keys() & read.keys():
        sent, record = f.inputs[place], read[place]
        if (sent.key, sent.value, sent.headers) != (record.key, record.value, record.headers):
            yield Violation("journal", place, "is not what was sent")
    for partition, end in f.h.ends.items():
        committed = f.h.committed.get(partition, 0)
        if f.h.complete and committed != end:
            yield Violation("committed", partition, f"{committed} of {end}")


def _outcomes(f: _Facts) -> Iterator[Violation]:
    """What is there of an input is its own outcome."""
    found = dict.fromkeys(f.predictions, PREDICTION)
    for letter in f.h.dead_letters:
        try:
            facts = letter_facts(letter.headers)
        except UnreadableError:
            continue  # verify says so
        found[facts.place] = facts.reason
    for place, outcome in found.items():
        sent = f.inputs.get(place)
        if sent is not None and sent.outcome != outcome:
            yield Violation("outcome", place, f"{outcome} for {sent.outcome}")


def _decisions(f: _Facts) -> Iterator[Violation]:
    """What a prediction concludes is what the policy of the bundle that it names says."""
    for place, prediction in f.predictions.items():
        bundle = f.h.bundles.get(prediction["model_version"])
        if bundle is None:
            yield Violation("prediction", place, f"by model {prediction['model_version']}: unknown")
            continue
        probability = prediction["probability"]
        expected = {
            "feature set": (prediction["feature_set"], bundle.feature_set),
            "score": (prediction["score"], 1 + int(998 * probability)),
            "decision": (prediction["decision"], bundle.decision(probability)),
            "reasons": (bool(prediction["reasons"]), prediction["decision"] in FLAGGED),
        }
        yield from _unequal("prediction", place, expected)


def _features(f: _Facts) -> Iterator[Violation]:
    """
    Features are the oracle's, over the labels that the prediction says were known; those are all
    that were acknowledged before the payment was sent, unless it says LABELS_STALE.
    """
    frauds, labels = _frauds(f.h), len(f.h.labels)
    [feature_set] = {bundle.feature_set for bundle in f.h.bundles.values()}
    state: dict[int, Partition] = defaultdict(lambda: Partition(f.h.grace, feature_set=feature_set))
    for place, payment in f.payments.items():
        prediction = f.predictions.get(place)
        below = prediction["label_offsets"] if prediction else [0]
        counts = frauds.counts(payment["terminal_id"], payment["event_time"], below, WINDOWS)
        expected, late, hot = state[place.partition].observe(payment, counts)
        if prediction is None:
            continue
        flags = set(prediction["degraded"])
        if flags - f.h.allowed or ("LATE_EVENT" in flags) is not late:
            yield Violation("degraded", place, f"{sorted(flags)}, and late is {late}")
        needed = 0 if "LABELS_STALE" in flags else f.inputs[place].labels_before
        if not needed <= sum(below) <= labels:
            yield Violation("labels", place, f"{below} known, of {needed} to {labels}")
        if "STATE_COLD" in flags:
            continue
        if ("HOT_KEY" in flags) is not hot:
            yield Violation("degraded", place, f"{sorted(flags)}, and hot is {hot}")
        if prediction["features"] != expected:
            yield Violation("features", place, f"{prediction['features']}, not {expected}")


def _frauds(h: History) -> KnownFrauds:
    frauds = KnownFrauds(h.settle)
    for read in sorted(h.labels, key=lambda read: read.offset):
        try:
            frauds.add(read.partition, read.offset, decode("label", read.value))
        except UnreadableError:
            continue  # nobody can read it
    return frauds


def _probabilities(f: _Facts) -> Iterator[Violation]:
    """Another scorer of the model gives the same features the same probability."""
    for version, bundle in f.h.bundles.items():
        own = {at: p for at, p in f.predictions.items() if p["model_version"] == version}
        if bundle.score is None or not own:
            continue
        scores = bundle.score([prediction["features"] for prediction in own.values()])
        for (place, prediction), expected in zip(own.items(), scores, strict=True):
            actual = prediction["probability"]
            if abs(actual - expected) > 1e-5:
                yield Violation("probability", place, f"{actual}, not {expected}")


def _unequal(
    rule: str, where: Place, expected: dict[str, tuple[object, object]]
) -> Iterable[Violation]:
    for name, (actual, right) in expected.items():
        if actual != right:
            yield Violation(rule, where, f"{name} is {actual!r}, not {right!r}")
