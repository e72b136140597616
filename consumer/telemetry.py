"""What happens, told once: each method is an event, and does its log line and its metrics."""

import logging
import math
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TextIO, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumer import __version__
from consumer.core.batch import Decisions, Events
from consumer.core.manifest import Manifest
from consumer.core.placement import Placed
from consumer.core.symbols import DECISIONS
from consumer.metrics import Metrics
from consumer.records import Longs, Records, Refused, Status

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS_BETWEEN_PROGRESS: Final = 5.0
_SECONDS_BETWEEN_ERRORS: Final = 5.0


def configure_logging(format_: str, level: str) -> None:
    """Write logs to stderr: lines for people on a terminal, JSON objects otherwise."""
    console = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_BestEffort(sys.stderr)),  # type: ignore[arg-type] # all it needs
    )


class _BestEffort:
    """A stream that drops what it cannot write: a full disk must not stop payments."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind one partition is: offsets, messages, and the age of the oldest in seconds."""

    partition: int
    next_offset: int
    last_stable_offset: int
    messages: int
    seconds: float


class Telemetry:
    """Events of the consumer, in the past tense. Nothing here names a card."""

    def __init__(self, registry: CollectorRegistry, group: str, topic: str) -> None:
        """Metrics go to the registry; the logger is structlog's, as configured."""
        self.metrics = Metrics(registry)
        self._group = group
        self._topic = topic
        self._log = structlog.get_logger("fraudstream")
        self._model_version = ""
        self._progress_told = 0.0
        self._evicted_told = 0
        self._mixed = False
        self._error_told: dict[tuple[str, str], float] = {}
        self._lag_shown: set[tuple[str, str, str]] = set()
        self._snapshots_shown = threading.Lock()
        self._owned: set[int] = set()

    def timed(self, stage: str, step: Callable[P, R]) -> Callable[P, R]:
        """Return the step with its duration measured, so that the pipeline need not."""
        durations = self.metrics.stage_duration.labels(stage)

        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            begin = time.perf_counter()
            result = step(*args, **kwargs)
            durations.observe(time.perf_counter() - begin)
            return result

        return measured

    def started(
        self, guarantee: str, manifest: Manifest, engine: str, librdkafka: str, http_port: int
    ) -> None:
        """The process has its configuration, its model and its port."""
        self.metrics.build_info.labels(
            __version__, platform.python_version(), librdkafka, guarantee
        ).set(1)
        self.metrics.model_info.labels(
            manifest.name, manifest.version, manifest.model.sha256, engine, manifest.feature_set
        ).set(1)
        self.metrics.model_loaded.set_to_current_time()
        self._model_version = manifest.version
        self._log.info(
            "started", version=__version__, guarantee=guarantee, group=self._group,
            model=manifest.name, model_version=manifest.version, engine=engine,
            http_port=http_port,
        )  # fmt: skip

    def batch_committed(
        self, records: Records, refused: Refused, events: Events, decisions: Decisions,
        severities: Longs,
    ) -> None:  # fmt: skip
        """A batch is out and its offsets are committed."""
        metrics = self.metrics
        self.records_done(records, refused)
        for decision, count in _counted(decisions.decisions[events.live]):
            metrics.predictions.labels(DECISIONS[decision], self._model_version).inc(count)
        for severity, count in _counted(severities):
            metrics.alerts.labels(str(severity)).inc(count)
        metrics.score_ratio.observe(decisions.probabilities[events.live])
        metrics.batch_messages.observe(len(records))
        metrics.batches.labels("committed").inc()

    def records_done(self, records: Records, refused: Refused) -> None:
        """Records are done with, some of them as dead letters or skips."""
        metrics = self.metrics
        live = records.live
        for partition, count in _counted(records.partitions[live]):
            metrics.messages_consumed.labels(self._group, self._topic, partition).inc(count)
        for code, count in _counted(refused.statuses[live[refused.rows]]):
            status = Status(code)
            if status is Status.TOMBSTONE:
                metrics.skipped.labels(status.reason).inc(count)
            else:
                metrics.dead_letters.labels(status.reason, status.stage).inc(count)
        now = time.time()
        stamped = live & (records.timestamps >= 0)
        metrics.end_to_end_latency.observe(now - records.timestamps[stamped] / 1_000)
        metrics.last_commit.set(now)

    def polled(self) -> None:
        """The loop asked for records."""
        self.metrics.last_poll.set_to_current_time()

    def batch_aborted(self, cause: str, records: int) -> None:
        """Nothing of a batch was committed; its records will be read again."""
        self.metrics.batches.labels("aborted").inc()
        self.metrics.reprocessed.labels(cause).inc(records)
        self._log.warning("batch_aborted", cause=cause, records=records)

    def record_poisoned(self, record: Records, status: Status, error: Exception) -> None:
        """
        One record made a step fail, and goes to the dead letters. The error's text may quote it.
        """
        self._log.error(
            "record_poisoned", partition=int(record.partitions[0]), offset=int(record.offsets[0]),
            reason=status.reason, error=type(error).__name__, at=_place_of(error),
        )  # fmt: skip

    def producer_replaced(self) -> None:
        """A transaction could not be aborted; a new producer of the same id ends it."""
        self._log.warning("producer_replaced")

    def outcome_resolved(self, *, committed: bool) -> None:
        """The broker said what became of the transaction."""
        self._log.info("transaction_outcome_resolved", committed=committed)

    def partitions_assigned(self, partitions: list[int], owned: int) -> None:
        """The group gave us partitions; they are not read before their state is rebuilt."""
        with self._snapshots_shown:
            self._owned.update(partitions)
        self._rebalanced("assigned", partitions, owned)

    def partitions_revoked(self, partitions: list[int], owned: int) -> None:
        """The group took partitions back in good order."""
        self._rebalanced("revoked", partitions, owned)

    def partitions_lost(self, partitions: list[int], owned: int) -> None:
        """The group gave our partitions away without asking."""
        self._rebalanced("lost", partitions, owned)

    def _rebalanced(self, event: str, partitions: list[int], owned: int) -> None:
        self.metrics.rebalances.labels(event).inc()
        self.metrics.assigned_partitions.set(owned)
        for partition in partitions:
            labels = (self._group, self._topic, str(partition))
            if event == "assigned":
                self.metrics.partition_paused.labels(*labels).set(0)
            else:
                self.metrics.partition_paused.remove(*labels)
        if event != "assigned":
            self._forget_snapshots(partitions)
        self._log.info(f"partitions_{event}", partitions=partitions, owned=owned)

    def partition_paused(self, partition: int, next_offset: int, limit: str) -> None:
        """A partition has too many dead letters: it waits, and the others go on."""
        self.metrics.partition_paused.labels(self._group, self._topic, str(partition)).set(1)
        self._log.error(
            "partition_paused", partition=partition, next_offset=next_offset, limit=limit,
            do="see `fraudstream dead-letters list`; with the cause gone, `fraudstream resume`",
        )  # fmt: skip

    def partitions_held(self, partitions: Sequence[int], cause: str) -> None:
        """Dead letters of these partitions have nowhere to go: they wait, and the others go on."""
        for partition in partitions:
            self.metrics.partition_paused.labels(self._group, self._topic, str(partition)).set(1)
        self._log.error(
            "partitions_held", partitions=list(partitions), cause=cause,
            do="run `fraudstream topics`, and then `fraudstream resume`",
        )  # fmt: skip

    def placement_seen(self, placed: Placed) -> None:
        """A sample of keys lies where one partitioner puts them, or where two do."""
        is_news = placed.is_mixed is not self._mixed
        self._mixed = placed.is_mixed
        self.metrics.partitioners_mixed.labels(self._group, self._topic).set(placed.is_mixed)
        if is_news and placed.is_mixed:
            self._log.error(
                "partitioners_mixed", murmur2=placed.murmur2, crc32=placed.crc32,
                do="give all who send to this topic one partitioner, such as murmur2_random: the"
                " same card is in two partitions, and each knows a part of its history",
            )  # fmt: skip
        elif is_news:
            self._log.info("partitioners_agree")

    def partition_resumed(self, partition: int, next_offset: int) -> None:
        """A partition that was paused goes on, with its next record."""
        self.metrics.partition_paused.labels(self._group, self._topic, str(partition)).set(0)
        self._log.info("partition_resumed", partition=partition, next_offset=next_offset)

    def offset_disregarded(self, partition: int, offset: int) -> None:
        """The group's offset is of a topic of that name that was deleted."""
        self._log.warning("offset_disregarded", partition=partition, offset=offset)

    def _forget_snapshots(self, partitions: list[int]) -> None:
        """Whoever owns them now tells when their state was stored."""
        with self._snapshots_shown:
            self._owned.difference_update(partitions)
            for partition in partitions:
                with suppress(KeyError):
                    self.metrics.snapshot_written.remove(self._group, self._topic, str(partition))

    def restore_planned(
        self, partition: int, start: int, live_from: int, *, cold: bool, from_snapshot: bool
    ) -> None:
        """
        A partition's state will be rebuilt from the records in [start, live_from), on top of a
        snapshot or of nothing.
        """
        self._log.info(
            "restore_planned", partition=partition, start=start, live_from=live_from,
            records=live_from - start, cold=cold, from_snapshot=from_snapshot,
        )  # fmt: skip

    def restore_progressed(self, remaining: int) -> None:
        """So many records are still to be replayed, over all partitions."""
        finished = remaining == 0
        self.metrics.restore_remaining.set(remaining)
        now = time.monotonic()
        if finished or now - self._progress_told > _SECONDS_BETWEEN_PROGRESS:
            self._progress_told = now
            self._log.info("restored" if finished else "restoring", remaining=remaining)

    def snapshot_written(
        self, partition: int, next_offset: int, size_bytes: int, seconds: float
    ) -> None:
        """A partition's state up to the offset is stored."""
        self.metrics.snapshots.labels("written").inc()
        with self._snapshots_shown:
            if partition in self._owned:  # it may have gone meanwhile
                labels = (self._group, self._topic, str(partition))
                self.metrics.snapshot_written.labels(*labels).set_to_current_time()
        self._log.info(
            "snapshot_written", partition=partition, next_offset=next_offset,
            size_bytes=size_bytes, seconds=round(seconds, 3),
        )  # fmt: skip

    def snapshot_failed(self, partition: int, cause: str) -> None:
        """A snapshot was not written; the next one is tried when it is due."""
        self.metrics.snapshots.labels("failed").inc()
        self._log.warning("snapshot_failed", partition=partition, cause=cause)

    def snapshot_refused(self, partition: int, path: str, reason: str, text: str) -> None:
        """A snapshot that was found is of no use; an older one is tried, and then the log."""
        self.metrics.snapshots_refused.labels(reason).inc()
        self._log.warning(
            "snapshot_refused", partition=partition, path=path, reason=reason, text=text
        )

    def state_measured(self, cards: int, nbytes: int, evicted: int) -> None:
        """The velocity state was sized; `evicted` cards had to leave it since the start."""
        self.metrics.state_cards.set(cards)
        self.metrics.state_bytes.set(nbytes)
        if newly := evicted - self._evicted_told:
            self._evicted_told = evicted
            self.metrics.state_evicted_cards.inc(newly)
            self._log.warning("cards_evicted", cards=newly, held=cards, held_bytes=nbytes)

    def client_error(self, client: str, code: str, text: str) -> None:
        """
        A Kafka client told of an error: news, and no failure unless it is fatal.

        In an outage it tells so at each attempt to connect; the log has it now and then.
        """
        self.metrics.client_errors.labels(client, code).inc()
        now = time.monotonic()
        if now - self._error_told.get((client, code), -math.inf) < _SECONDS_BETWEEN_ERRORS:
            return
        self._error_told[client, code] = now
        self._log.warning("kafka_client_error", client=client, code=code, text=text)

    def brokers_awaited(self, text: str) -> None:
        """At start, the brokers did not answer yet."""
        self._log.warning("brokers_awaited", text=text)

    def labels_loaded(self, frauds: int) -> None:
        """The label topic was read to its end for the first time."""
        self._log.info("labels_loaded", frauds=frauds)

    def labels_read(self, count: int, refused: int, late: int, newest_seconds: float) -> None:
        """Label records were read, some of them unreadable or appended late."""
        self.metrics.labels_read.inc(count)
        self.metrics.labels_refused.inc(refused)
        self.metrics.labels_appended_late.inc(late)
        self.metrics.newest_label.set(newest_seconds)
        if refused:
            self._log.warning("labels_refused", count=refused)

    def labels_stale(self, cause: str | None) -> None:
        """The label topic's end is out of reach for a cause, or, with none, within it again."""
        self.metrics.labels_stale.set(cause is not None)
        if cause is None:
            self._log.info("labels_caught_up")
        else:
            self._log.warning("labels_stale", cause=cause)

    def lag_measured(self, lags: list[Lag]) -> None:
        """Lag is known for these partitions, and for no others."""
        metrics = self.metrics
        shown = set()
        for lag in lags:
            labels = (self._group, self._topic, str(lag.partition))
            metrics.lag_messages.labels(*labels).set(lag.messages)
            metrics.lag_seconds.labels(*labels).set(lag.seconds)
            metrics.last_stable_offset.labels(*labels).set(lag.last_stable_offset)
            metrics.committed_offset.labels(*labels).set(lag.next_offset)
            shown.add(labels)
        for labels in self._lag_shown - shown:
            for gauge in (
                metrics.lag_messages, metrics.lag_seconds,
                metrics.last_stable_offset, metrics.committed_offset,
            ):  # fmt: skip
                gauge.remove(*labels)
        self._lag_shown = shown
        if lags:
            metrics.lag_refreshed.set_to_current_time()

    def lag_unknown(self) -> None:
        """The broker did not answer: no lag is shown rather than an old one."""
        self.lag_measured([])

    def stopping(self, cause: str) -> None:
        """The loop ends after this batch."""
        self._log.info("stopping", cause=cause)

    def stuck(self, limit_seconds: float) -> None:
        """A call of the client did not return for so long: the process ends as it is."""
        self._log.error("stuck", limit_seconds=limit_seconds, do="restart; nothing is lost")

    def stopped(self) -> None:
        """All is committed and the group is left."""
        self._log.info("stopped")


def _place_of(error: Exception) -> str:
    """Return the file and line where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _counted(values: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield each value of a column of small numbers with how often it stands there."""
    for value, count in enumerate(np.bincount(values).tolist()):
        if count:
            yield value, count
