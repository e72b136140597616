"""From what the brokers say to a report: which stretches are read, in which order, and judged."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import schemas
from consumer.errors import ConfigError
from consumer.settings import Settings
from consumer.verify.evidence import Stretch
from consumer.verify.formats import Record
from consumer.verify.invariants import Findings
from consumer.verify.ledger import Ledger, Promise
from consumer.verify.log import Log, Ranges
from consumer.verify.verdict import Circumstances, conclude, unanswered

VERSION: Final = 1
"""Of the form of the JSON report; another one where a name in it goes or changes its meaning."""
_MICROS: Final = 1_000_000
_CLOCKS_APART_MS: Final = 60_000


class Steps(Protocol):
    """Who is told what is being read."""

    def begin(self, text: str, total: int | None = None) -> None:
        """A step begins; `total` is in offsets."""

    def at(self, done: int, total: int | None = None) -> None:
        """The step is so far."""


@dataclass(frozen=True, slots=True)
class Scope:
    """
    What to look at: a group, what it promises, and inputs with Kafka timestamps [begin, end),
    milliseconds, None for all. An open transaction is waited for `wait_seconds`. Features are
    computed again for cards of `sample` payments at most.
    """

    group: str
    exactly_once: bool
    begin: int | None
    end: int | None
    wait_seconds: float
    sample: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and of what."""

    scope: Scope
    topic: str
    partitions: list[dict[str, int]]
    counts: dict[str, int]
    findings: Findings

    @property
    def ok(self) -> bool:
        """Whether nothing that was checked is broken."""
        return not self.findings.broken_names

    def as_json(self) -> dict[str, Any]:
        """Return it as docs/reliability.md describes it."""
        return {
            "version": VERSION,
            "ok": self.ok,
            "group": self.scope.group,
            "guarantee": "exactly-once" if self.scope.exactly_once else "at-least-once",
            "topic": self.topic,
            "from": self.scope.begin,
            "to": self.scope.end,
            "partitions": self.partitions,
            "counts": self.counts,
            "invariants": [finding.as_json() for finding in self.findings],
        }


COUNTED: Final = (
    "records", "replayed", "superseded", "events", "predictions", "dead_letters", "tombstones",
    "pending", "unjudged", "lost", "repeats", "alerts", "labels", "outside",
)  # fmt: skip


def verify(settings: Settings, scope: Scope, steps: Steps) -> Report:
    """
    Read the topics and judge them.

    Raises ConfigError where a topic is missing or there is nothing to check, KafkaException where
    the brokers do not answer.
    """
    with Log(settings, scope.group) as log:
        return _Verification(settings, scope, steps, log).run()


class _Verification:
    """One run: the committed offsets first, then inputs, then what answers them, offsets again."""

    def __init__(self, settings: Settings, scope: Scope, steps: Steps, log: Log) -> None:
        self._settings: Final = settings
        self._scope: Final = scope
        self._steps: Final = steps
        self._log: Final = log
        self._topic: Final = settings.topics.input
        self._inputs: Final = log.partitions(self._topic)
        self._ranges: Final = self._input_ranges()
        promise = Promise(
            self._topic,
            scope.exactly_once,
            round(settings.alerts.window * _MICROS),
            round(settings.labels.settle * _MICROS),
            round(settings.windows.grace * _MICROS),
            round(settings.input.max_future * _MICROS),
            scope.sample,
            schemas.registry_headers(settings.input.schema_ids),
        )
        self._ledger: Final = Ledger(promise, (Stretch(p, *r) for p, r in self._ranges.items()))

    def run(self) -> Report:
        committed = self._committed()
        if committed is None:
            self._ledger.findings.broken(
                "transactions", "__consumer_offsets", 0, None,
                f"the offsets of group {self._scope.group} wait for an open transaction",
            )  # fmt: skip
            committed = {}
        self._read(self._topic, self._ranges, self._ledger.inputs)
        if self._ledger.counts["records"] == 0:
            raise ConfigError(
                f"{self._topic} holds no record in this time: there is nothing to check"
            )
        outputs = _Outputs(self._settings, self._log, self._scope.begin)
        self._read_labels()  # as far as any prediction that is there by now may know them
        self._read_outputs(outputs, committed)
        after = self._committed() or committed
        facts = Circumstances(
            committed_before=committed,
            committed_after=after,
            ends=self._log.ends(self._topic, self._inputs),
            answers_since=outputs.answers_since(),
            alerts_since=outputs.alerts_since(),
        )
        conclude(self._ledger, facts)
        return self._report(after)

    def _committed(self) -> dict[int, int] | None:
        return self._log.committed(self._topic, self._inputs, self._scope.wait_seconds)

    def _input_ranges(self) -> dict[int, tuple[int, int]]:
        ends = self._log.stable_ends(self._topic, self._inputs)
        begins = self._log.beginnings(self._topic, self._inputs)
        if self._scope.begin is not None:
            begins = self._log.since(self._topic, self._inputs, self._scope.begin)
        if self._scope.end is not None:
            until = self._log.since(self._topic, self._inputs, self._scope.end)
            ends = {partition: min(end, until[partition]) for partition, end in ends.items()}
        return {p: (begins[p], max(begins[p], ends[p])) for p in self._inputs}

    def _read(self, topic: str, ranges: Ranges, enter: Callable[[list[Record]], None]) -> None:
        total, done = sum(end - begin for begin, end in ranges.values()), 0
        self._steps.begin(f"reading {topic}", total)
        findings = self._ledger.findings
        findings.checked("transactions", len(ranges))

        def stuck(partition: int, offset: int) -> None:
            if topic != self._topic:
                findings.broken(
                    "transactions", topic, partition, offset,
                    f"open for more than {self._scope.wait_seconds:g} s",
                )  # fmt: skip

        for records in self._log.read(topic, ranges, self._scope.wait_seconds, stuck):
            enter(records)
            done += len(records)
            self._steps.at(done)

    def _read_labels(self) -> None:
        topic = self._settings.topics.labels
        partitions = self._log.partitions(topic)
        begins = self._log.beginnings(topic, partitions)
        ends = self._log.stable_ends(topic, partitions)
        if any(begins.values()):
            self._ledger.labels_cut()
            self._ledger.findings["labels"].reason = "retention took labels"
        self._read(topic, {p: (begins[p], ends[p]) for p in partitions}, self._ledger.labels)

    def _read_outputs(self, outputs: "_Outputs", committed: dict[int, int]) -> None:
        """Read what answers the inputs; what is missing then is looked for in all that is older."""
        entries = {
            outputs.predictions: self._ledger.predictions,
            outputs.dead_letters: self._ledger.dead_letters,
        }
        for topic, enter in entries.items():
            self._read(topic, outputs.ranges(topic), enter)
        if unanswered(self._ledger, committed):
            for topic, enter in entries.items():
                if any(begin < end for begin, end in outputs.earlier(topic).values()):
                    self._read(topic, outputs.earlier(topic), enter)
        self._read(outputs.alerts, outputs.ranges(outputs.alerts), self._ledger.alerts)

    def _report(self, committed: dict[int, int]) -> Report:
        partitions = [
            {"partition": p, "begin": begin, "end": end, "committed": committed.get(p, 0)}
            for p, (begin, end) in self._ranges.items()
        ]
        counts = {name: self._ledger.counts[name] for name in COUNTED}
        return Report(self._scope, self._topic, partitions, counts, self._ledger.findings)


class _Outputs:
    """
    Which part of the output topics may answer the inputs.

    An answer is not older than its record, clocks apart, but it may be younger by any outage: so
    each topic is read to its end, however early the inputs end. Ends are those of one moment, and
    of open transactions as well, which must come to an end before it is read.
    """

    def __init__(self, settings: Settings, log: Log, begin: int | None) -> None:
        self.predictions: Final = settings.topics.predictions
        self.alerts: Final = settings.topics.alerts
        self.dead_letters: Final = settings.dead_letter_topic
        self._log: Final = log
        topics = (self.predictions, self.alerts, self.dead_letters)
        partitions = {topic: log.partitions(topic) for topic in topics}
        self._ends: Final = {topic: log.ends(topic, partitions[topic]) for topic in topics}
        self._oldest: Final = {topic: log.beginnings(topic, partitions[topic]) for topic in topics}
        self._begins: Final = dict(self._oldest)
        reach = settings.alerts.window + settings.windows.grace + settings.input.max_future
        self._reach_ms: Final = round(reach * 1_000)
        if begin is not None:
            for topic in topics:
                since = begin - _CLOCKS_APART_MS - (topic == self.alerts) * self._reach_ms
                self._begins[topic] = log.since(topic, partitions[topic], since)

    def ranges(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return where answers are."""
        ends = self._ends[topic]
        return {p: (begin, max(begin, ends[p])) for p, begin in self._begins[topic].items()}

    def earlier(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return what is older: there may be answers of records whose clock was ahead."""
        return {p: (first, self._begins[topic][p]) for p, first in self._oldest[topic].items()}

    def answers_since(self) -> float:
        """
        Return from when on no answer can be gone, milliseconds.

        A partition that retention has cut holds what is younger than its first record; of one that
        it has emptied, what is older than retention.ms is gone.
        """
        return max(self._cuts(self.predictions, self.dead_letters), default=0)

    def alerts_since(self) -> float:
        """Return from when on no alert can be gone that is still open, milliseconds."""
        return max((cut + self._reach_ms for cut in self._cuts(self.alerts)), default=0)

    def _cuts(self, *topics: str) -> Iterator[float]:
        for topic in topics:
            for partition, first in self._oldest[topic].items():
                end = self._ends[topic][partition]
                if first > 0 and first < end:
                    yield self._log.first_timestamp(topic, partition, first, end) or 0
                elif first > 0:
                    yield time.time() * 1_000 - (self._log.retention_ms(topic) or math.inf)
