"""A period of the live topics scored again with another bundle, beside the group."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from consumer.adapters.kafka_clients import producer_config, reader_config
from consumer.adapters.kafka_sink import AtLeastOnceSink
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_search import REQUEST_SECONDS
from consumer.adapters.log_source import Stretch
from consumer.adapters.model_bundle import Bundle
from consumer.adapters.published_answers import PublishedAnswers
from consumer.adapters.replay_folder import ReplayFolder, Request
from consumer.assembly import Parts, assemble
from consumer.cli_progress import Steps
from consumer.core.batch import Decisions, Events, LabelsKnown, Rows
from consumer.core.encode import PredictionEncoder
from consumer.core.flips import Answers, matrix, recalls
from consumer.core.symbols import DECISIONS
from consumer.errors import ConfigError
from consumer.log_fold import MOST_RECORDS, LogFold
from consumer.pipeline import Predictions, Sink
from consumer.records import Bools, Longs, Outputs
from consumer.settings import Settings

_TEXT: Final = ("event_id", "transaction_id", "card_id", "terminal_id", "currency")
_SCHEMA: Final = pa.schema(
    [
        ("source_partition", pa.int32()),
        ("source_offset", pa.int64()),
        ("event_time", pa.timestamp("us", "UTC")),
        *((name, pa.string()) for name in _TEXT),
        ("amount", pa.int64()),  # ten-thousandths of the major unit, billing currency if any
        ("probability", pa.float64()),
        ("score", pa.int32()),
        ("decision", pa.string()),
        ("reason", pa.string()),  # the strongest, empty below the review threshold
        ("features", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What to replay: records with a Kafka timestamp in [begin, end), milliseconds, None for all; to
    where; and at how many records a second at most.
    """

    begin: int | None
    end: int | None
    out: Path
    to_topic: str | None
    rate: float


class _NoGroup:
    """The membership of a sink that has none: nothing is ever committed."""

    group_metadata: Any = None

    def is_member(self) -> bool:
        return False

    def commit(self, next_offsets: dict[int, int], within_seconds: float) -> None:
        """Do nothing: the group's offsets are not ours."""


class _Table:
    """
    Takes the place of the prediction encoder and of the sink: lays predictions out as columns, and
    keeps them when their batch is through. With a side topic, it publishes them there first.
    """

    def __init__(self, side: Predictions | None, sink: Sink | None) -> None:
        self._side = side
        self._sink = sink
        self._laid_out: tuple[Outputs, pa.RecordBatch] | None = None
        self._batches: list[pa.RecordBatch] = []

    def encode(
        self, events: Events, rows: Rows, decisions: Decisions, labels: LabelsKnown,
        keys: Sequence[bytes | None], scored_at: int,
    ) -> Outputs:  # fmt: skip
        outputs = Outputs("", [], [])
        if self._side is not None:
            outputs = self._side.encode(events, rows, decisions, labels, keys, scored_at)
        self._laid_out = outputs, _batch(events, rows, decisions)
        return outputs

    def publish(self, outputs: Sequence[Outputs], next_offsets: dict[int, int]) -> None:
        if self._laid_out is None or outputs[0] is not self._laid_out[0]:
            return  # the dead letter of a record that no step could take
        if self._sink is not None:
            self._sink.publish(outputs[:1], next_offsets)
        self._batches.append(self._laid_out[1])

    def take(self) -> pa.Table:
        """Return what was kept since the last time."""
        batches, self._batches = self._batches, []
        return pa.Table.from_batches(batches, _SCHEMA)


class Replay:
    """Scores what is not in the folder yet, and reports on all of it."""

    def __init__(self, settings: Settings, bundle: Bundle, wanted: Wanted, steps: Steps) -> None:
        """Raises ConfigError for a side topic that is a live one or not there."""
        self._settings = settings
        self._bundle = bundle
        self._wanted = wanted
        self._steps = steps
        self._folder = ReplayFolder(wanted.out)
        self._stack = ExitStack()
        self._payments = self._reader(settings.topics.input)
        self._check_side_topic()

    def run(self) -> dict[str, Any]:
        """Return the report, which is also in the folder. Raises KafkaException."""
        settings = self._settings
        parts = assemble(settings, self._bundle)
        labels = self._reader(settings.topics.labels)
        self._steps.begin(f"reading labels from {settings.topics.labels}")
        request = self._known_request()
        known = fold_labels(labels, parts.frauds, request.label_offsets if request else None)
        if request is None:
            request = self._new_request(known)
            self._folder.begin(request)
        self._score(request, parts, known)
        report = self._report(request, parts)
        self._folder.write_report(report)
        return report

    def close(self) -> None:
        """Close all clients."""
        self._stack.close()

    def _reader(self, topic: str) -> LogReader:
        reader = LogReader(reader_config(self._settings, lambda _: None), topic)
        self._stack.callback(reader.close)
        return reader

    def _check_side_topic(self) -> None:
        topics, side = self._settings.topics, self._wanted.to_topic
        live = (
            topics.input, topics.predictions, topics.alerts, topics.labels,
            self._settings.dead_letter_topic,
        )  # fmt: skip
        if side in live:
            raise ConfigError(f"--to-topic: {side} is a live topic; a replay never writes to one")
        if side is not None and not self._reader(side).partitions(REQUEST_SECONDS):
            raise ConfigError(f"--to-topic: topic {side} does not exist; create it first")

    def _known_request(self) -> Request | None:
        """Return what the folder was begun with. Raises ConfigError when it is another replay."""
        request = self._folder.request()
        wanted, manifest = self._wanted, self._bundle.manifest
        asked = {
            "topic": self._settings.topics.input, "begin": wanted.begin, "end": wanted.end,
            "model_sha256": manifest.model.sha256, "to_topic": wanted.to_topic,
        }  # fmt: skip
        for name, value in asked.items() if request else ():
            if getattr(request, name) != value:
                raise ConfigError(
                    f"{wanted.out} holds a replay with {name} {getattr(request, name)}, not"
                    f" {value}: take another folder for --out"
                )
        return request

    def _new_request(self, known: LabelsKnown) -> Request:
        partitions = self._payments.partitions(REQUEST_SECONDS)
        if not partitions:
            raise ConfigError(f"topic {self._settings.topics.input} does not exist")
        begins = self._payments.beginnings(partitions, REQUEST_SECONDS)
        ends = self._payments.ends(partitions, REQUEST_SECONDS)
        if self._wanted.begin is not None:
            begins = self._payments.since(partitions, self._wanted.begin, REQUEST_SECONDS)
        if self._wanted.end is not None:
            ends = self._payments.since(partitions, self._wanted.end, REQUEST_SECONDS)
        ranges = {p: (begins[p], max(begins[p], ends[p])) for p in partitions}
        if not any(begin < end for begin, end in ranges.values()):
            raise ConfigError(f"{self._settings.topics.input} holds no record of that time")
        manifest = self._bundle.manifest
        return Request(
            self._settings.topics.input, self._wanted.begin, self._wanted.end,
            f"{manifest.name} {manifest.version}", manifest.model.sha256, self._wanted.to_topic,
            ranges, known.next_offsets,
        )  # fmt: skip

    def _score(self, request: Request, parts: Parts, known: LabelsKnown) -> None:
        table = self._table()
        pace = _Pace(self._wanted.rate)
        batch = int(max(1, min(MOST_RECORDS, self._wanted.rate)))
        fold = LogFold(replace(parts, predictions=table), known, table, batch, from_snapshots=True)
        self._stack.callback(fold.close)
        for partition, (begin, end) in request.ranges.items():
            missing = [
                segment
                for segment in self._folder.segments(begin, end)
                if not self._folder.has(partition, segment[0])
            ]
            if not missing:
                continue
            start = fold.begin(partition, missing[0][0]).start
            self._steps.begin(f"scoring {request.topic}[{partition}]", end - start)
            first, pace.position = start, start

            def done(position: int, first: int = first) -> None:
                self._steps.at(position - first)
                pace.wait(position)

            for segment in missing:  # they follow each other: each is written before the next
                fold.run(Stretch(partition, start, segment[0], segment[1]), done)
                self._folder.write(partition, segment[0], table.take())
                start = segment[1]
            parts.state.drop(partition)

    def _table(self) -> _Table:
        side = self._wanted.to_topic
        if side is None:
            return _Table(None, None)
        config = producer_config(self._settings, lambda _: None)
        sink = AtLeastOnceSink(config, _NoGroup(), self._settings.delivery.outage_limit)
        self._stack.callback(sink.close)
        encoder = PredictionEncoder(side, self._settings.topics.input, self._bundle.identity)
        return _Table(encoder, sink)

    def _report(self, request: Request, parts: Parts) -> dict[str, Any]:
        predictions = self._settings.topics.predictions
        self._steps.begin(f"reading {predictions}", 0)
        published = PublishedAnswers(request.topic, request.ranges)
        published.read(self._reader(predictions), request.begin, self._steps.at)
        was, now = [], []
        amounts, is_fraud = [], []
        frauds = parts.frauds.published_at
        for partition, (begin, end) in request.ranges.items():
            for start, _ in self._folder.segments(begin, end):
                table = self._folder.read(partition, start)
                was.append(published.of(partition, _longs(table, "source_offset")))
                now.append(_answers(table))
                amounts.append(_longs(table, "amount"))
                payments = table["transaction_id"].to_pylist()
                is_fraud.append(np.array([p.encode() in frauds for p in payments], np.bool_))
        report = _compare(
            Answers.concatenate(was), Answers.concatenate(now), np.concatenate(amounts),
            np.concatenate(is_fraud),
        )  # fmt: skip
        return {
            "model": request.model,
            "published_by": dict(published.models.most_common()),
            "ranges": {str(p): list(range_) for p, range_ in request.ranges.items()},
            **report,
        }


class _Pace:
    """Keeps to a rate of records a second, on average over the whole replay."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due = time.monotonic()
        self.position = 0

    def wait(self, position: int) -> None:
        """Sleep off what was read up to this position."""
        self._due = max(self._due, time.monotonic() - 1)  # no more than a second is caught up
        self._due += max(0, position - self.position) / self._rate
        self.position = position
        time.sleep(max(0.0, self._due - time.monotonic()))


def _compare(was: Answers, now: Answers, amounts: Longs, is_fraud: Bools) -> dict[str, Any]:
    both = np.flatnonzero(was.decisions != 0)
    then, again, frauds = was.take(both), now.take(both), is_fraud[both]
    flips = matrix(then, again, amounts[both])
    return {
        "payments": len(now.decisions),
        "without_published_prediction": len(now.decisions) - len(both),
        "flipped": sum(flip.payments for flip in flips if flip.was != flip.now),
        "equal_probabilities": int((then.probabilities == again.probabilities).sum()),
        "matrix": [asdict(flip) for flip in flips],
        "frauds": int(frauds.sum()),
        "quality": {"published": _quality(then, frauds), "replayed": _quality(again, frauds)},
    }


def _quality(answers: Answers, is_fraud: Bools) -> dict[str, float] | None:
    """Return None where the labels know no fraud, or nothing else."""
    if not is_fraud.any() or is_fraud.all():
        return None
    return {
        "average_precision": float(average_precision_score(is_fraud, answers.probabilities)),
        "auc_roc": float(roc_auc_score(is_fraud, answers.probabilities)),
        **{f"recall_{name.lower()}": r for name, r in recalls(answers, is_fraud).items()},
    }


def _batch(events: Events, rows: Rows, decisions: Decisions) -> pa.RecordBatch:
    live = np.flatnonzero(events.live)
    reasons = np.zeros(len(events), "S3")
    strongest = decisions.reasons.codes[:, 0] if len(decisions.flagged) else reasons[:0]
    reasons[decisions.flagged] = np.where(decisions.reasons.counts > 0, strongest, b"")
    text = {
        name: [events.text.bytes_of(name, row).decode() for row in live.tolist()] for name in _TEXT
    }
    columns: dict[str, Any] = {
        "source_partition": events.partitions[live],
        "source_offset": events.offsets[live],
        "event_time": events.times[live],
        **text,
        "amount": events.amounts[live],
        "probability": decisions.probabilities[live],
        "score": decisions.scores[live],
        "decision": [DECISIONS[k] for k in decisions.decisions[live].tolist()],
        "reason": [code.decode() for code in reasons[live].tolist()],
        "features": list(rows.values[live]),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[part.name], part.type) for part in _SCHEMA], schema=_SCHEMA
    )


def _answers(table: pa.Table) -> Answers:
    decisions = [DECISIONS.index(name) for name in table["decision"].to_pylist()]
    reasons = [code.encode() for code in table["reason"].to_pylist()]
    probabilities: NDArray[np.float64] = table["probability"].to_numpy()
    return Answers(probabilities, np.array(decisions, np.int64), np.array(reasons, "S3"))


def _longs(table: pa.Table, name: str) -> Longs:
    column: Longs = table[name].to_numpy()
    return column
