"""
Every metric, declared once. Names follow Prometheus; labels are closed sets, topic or partition.
"""

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from consumer.core.snapshot import RefusalReason
from consumer.records import Status

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter, of when it was made

LATENCY_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300,
)  # fmt: skip
STAGES: Final = ("decode", "labels", "features", "score", "decide", "encode", "alerts", "publish")
PARTITION: Final = ("group", "topic", "partition")


class ColumnHistogram(Collector):
    """
    A histogram that takes a whole column at once: one search for a batch, not a call a record.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        """`buckets` are upper bounds, rising; +Inf is added."""
        self._name, self._documentation = name, documentation
        self._bounds = np.array(buckets, np.float64)
        self._counts = np.zeros(len(buckets) + 1, np.int64)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, values: NDArray[np.float64]) -> None:
        """Add float64[n] values."""
        slots = np.searchsorted(self._bounds, values)
        counts = np.bincount(slots, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the one family, as prometheus_client asks."""
        with self._lock:
            running, total = np.cumsum(self._counts), self._sum
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        yield HistogramMetricFamily(
            self._name,
            self._documentation,
            buckets=list(zip(bounds, running.tolist(), strict=True)),
            sum_value=total,
        )


class Metrics:
    """The metrics of one process. Counters of results move only after a commit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything; label sets that are known beforehand start at 0."""

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"fraudstream_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"fraudstream_{name}", text, labels, registry=registry)

        self.messages_consumed = counter(
            "messages_consumed_total", "Records whose batch was committed.", PARTITION
        )
        self.predictions = counter(
            "predictions_committed_total", "Predictions committed.", ("decision", "model_version")
        )
        self.alerts = counter("alerts_committed_total", "Alerts committed.", ("severity",))
        self.dead_letters = counter(
            "dead_letters_total", "Records committed to the dead-letter topic.", ("reason", "stage")
        )
        self.skipped = counter(
            "messages_skipped_total", "Records committed without an output.", ("reason",)
        )
        self.reprocessed = counter(
            "records_reprocessed_total", "Records read again after a rewind.", ("cause",)
        )
        self.batches = counter("batches_total", "Batches by outcome.", ("result",))
        self.rebalances = counter("rebalances_total", "Rebalance callbacks.", ("event",))
        self.client_errors = counter(
            "kafka_client_errors_total", "Errors a Kafka client told of.", ("client", "code")
        )
        self.stage_duration = Histogram(
            "fraudstream_stage_duration_seconds", "Time per batch and stage.", ("stage",),
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.batch_messages = Histogram(
            "fraudstream_batch_messages", "Records in a batch.",
            buckets=(1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000),
            registry=registry,
        )  # fmt: skip
        self.end_to_end_latency = ColumnHistogram(
            "fraudstream_end_to_end_latency_seconds", "Record timestamp to commit.", LATENCY_BUCKETS
        )
        self.score_ratio = ColumnHistogram(
            "fraudstream_score_ratio", "Probabilities given.", [k / 20 for k in range(1, 21)]
        )
        registry.register(self.end_to_end_latency)
        registry.register(self.score_ratio)
        self.lag_messages = gauge(
            "consumer_lag_messages", "Last stable offset minus committed offset.", PARTITION
        )
        self.lag_seconds = gauge(
            "consumer_lag_seconds",
            "Age of the oldest record not yet committed, 0 if none.",
            PARTITION,
        )
        self.last_stable_offset = gauge(
            "partition_last_stable_offset", "End of what a committed reader may see.", PARTITION
        )
        self.committed_offset = gauge("committed_offset", "Next offset committed.", PARTITION)
        self.lag_refreshed = gauge(
            "lag_refresh_timestamp_seconds", "When lag was last measured, Unix time."
        )
        self.last_poll = gauge(
            "last_poll_timestamp_seconds", "When the loop last polled, Unix time."
        )
        self.last_commit = gauge(
            "last_commit_timestamp_seconds", "When a batch was last committed, Unix time."
        )
        self.assigned_partitions = gauge("assigned_partitions", "Partitions owned now.")
        self.partition_paused = gauge(
            "partition_paused",
            "1 while a partition waits, having too many dead letters.",
            PARTITION,
        )
        self.partitioners_mixed = gauge(
            "partitioners_mixed",
            "1 while two partitioners place the keys: the histories of cards are split.",
            ("group", "topic"),
        )
        self.ready = gauge("ready", "1 when /readyz answers 200.")
        self.state_cards = gauge("state_cards", "Cards in the velocity state.")
        self.state_bytes = gauge("state_bytes", "Bytes of velocity state in use.")
        self.state_evicted_cards = counter(
            "state_evicted_cards_total", "Cards that left a full state before their time."
        )
        self.restore_remaining = gauge(
            "state_restore_remaining_messages", "Records still to replay before live ones."
        )
        self.snapshots = counter("snapshots_total", "Snapshots of state by outcome.", ("result",))
        self.snapshots_refused = counter(
            "snapshots_refused_total", "Snapshots found and not used.", ("reason",)
        )
        self.snapshot_written = gauge(
            "snapshot_timestamp_seconds",
            "When a partition's state was last stored, Unix time.",
            PARTITION,
        )
        self.labels_read = counter("labels_read_total", "Label records read.")
        self.labels_refused = counter(
            "labels_refused_total", "Label records that could not be read."
        )
        self.labels_appended_late = counter(
            "labels_appended_late_total",
            "Labels appended after the time they count from: a replay counts them earlier.",
        )
        self.labels_stale = gauge("labels_stale", "1 while the label topic's end is out of reach.")
        self.newest_label = gauge(
            "newest_label_timestamp_seconds", "Record timestamp of the newest label, Unix time."
        )
        self.model_info = gauge(
            "model_info", "The model that scores.",
            ("model_name", "model_version", "sha256", "engine", "feature_set"),
        )  # fmt: skip
        self.model_loaded = gauge(
            "model_loaded_timestamp_seconds", "When the model was loaded, Unix time."
        )
        self.build_info = gauge(
            "build_info", "This build.", ("version", "python", "librdkafka", "guarantee")
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for status in Status:
            if status > Status.TOMBSTONE:
                self.dead_letters.labels(status.reason, status.stage)
        for metric, values in (
            (self.skipped, (Status.TOMBSTONE.reason,)),
            (self.rebalances, ("assigned", "revoked", "lost")),
            (self.batches, ("committed", "aborted")),
            (self.snapshots, ("written", "failed")),
            (self.snapshots_refused, (*get_args(RefusalReason), "unreadable", "timeout")),
            (self.alerts, tuple("1234")),
            (self.stage_duration, STAGES),
        ):
            for value in values:
                metric.labels(value)
