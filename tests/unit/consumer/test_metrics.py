import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from consumer.metrics import LATENCY_BUCKETS, PARTITION, STAGES, ColumnHistogram, Metrics
from consumer.records import Status

BASE_UNITS = ("seconds", "bytes", "messages", "ratio", "total", "info", "partitions", "cards")
UNITLESS = {
    "partition_paused",
    "partitioners_mixed",
    "committed_offset",
    "partition_last_stable_offset",
    "ready",
    "labels_stale",
}
LABELS = {
    "group", "topic", "partition", "decision", "model_version", "severity", "reason", "stage",
    "cause", "result", "event", "client", "code", "model_name", "sha256", "engine", "feature_set",
    "version", "python", "librdkafka", "guarantee", "le",
}  # fmt: skip


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Metrics(registry)
    return registry


def samples(registry):
    return [sample for family in registry.collect() for sample in family.samples]


def test_names_begin_with_one_prefix_and_end_in_a_base_unit(registry):
    """Prometheus' own conventions: seconds and bytes, `_total` on counters, `_info` on facts."""
    for family in registry.collect():
        name = family.name.removeprefix("fraudstream_")
        assert name != family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        unit = "total" if family.type == "counter" else name.rpartition("_")[2]
        assert unit in BASE_UNITS or name in UNITLESS, name


def test_every_metric_says_what_it_is(registry):
    """One sentence of help."""
    for family in registry.collect():
        assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation), family.name


def test_labels_are_of_a_closed_list():
    """Never a card, an event or the text of an error."""
    metrics = Metrics(CollectorRegistry())

    for name, metric in vars(metrics).items():
        assert set(getattr(metric, "_labelnames", ())) <= LABELS, name


def test_label_sets_that_are_known_beforehand_start_at_zero(registry):
    """A rate over a counter that is born with its first event misses that event."""
    for status in Status:
        if status > Status.TOMBSTONE:
            labels = {"reason": status.reason, "stage": status.stage}
            assert registry.get_sample_value("fraudstream_dead_letters_total", labels) == 0
    for name, label, values in (
        ("messages_skipped_total", "reason", ["tombstone"]),
        ("rebalances_total", "event", ["assigned", "revoked", "lost"]),
        ("batches_total", "result", ["committed", "aborted"]),
        ("alerts_committed_total", "severity", ["1", "2", "3", "4"]),
        ("stage_duration_seconds_count", "stage", STAGES),
    ):
        for value in values:
            assert registry.get_sample_value(f"fraudstream_{name}", {label: value}) == 0, name


def test_lag_is_absent_until_it_is_known(registry):
    """A gauge at 0 would say that all is well."""
    names = {sample.name for sample in samples(registry)}

    assert "fraudstream_consumer_lag_seconds" not in names
    assert "fraudstream_consumer_lag_messages" not in names


def test_partitions_are_told_by_group_topic_and_number():
    """The labels by which exporters of ops know them."""
    assert PARTITION == ("group", "topic", "partition")


def test_two_seconds_is_a_bucket_of_latency():
    """The objective is stated at it."""
    assert 2 in LATENCY_BUCKETS
    assert list(LATENCY_BUCKETS) == sorted(LATENCY_BUCKETS)


VALUES = [0.0, 0.001, 0.00100001, 0.5, 1, 1.0000001, 2, 59.9, 300, 301, 1e9, -5.0]


@pytest.mark.parametrize("values", [[], VALUES, VALUES * 3])
def test_a_column_histogram_shows_what_a_histogram_shows(values):
    """Name by name, label by label, number by number: nobody can tell which one it was."""
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("h_seconds", "Help.", buckets=LATENCY_BUCKETS, registry=one_by_one)
    columns = ColumnHistogram("h_seconds", "Help.", LATENCY_BUCKETS)
    at_once.register(columns)

    for value in values:
        histogram.observe(value)
    columns.observe(np.array(values[:5], np.float64))
    columns.observe(np.array(values[5:], np.float64))

    assert exposed(at_once) == exposed(one_by_one)


def exposed(registry):
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


def test_a_column_histogram_of_a_whole_scale_leaves_nothing_out():
    """Scores from 0 to 1 in twentieths, both ends included."""
    registry = CollectorRegistry()
    histogram = ColumnHistogram("score_ratio", "Help.", [k / 20 for k in range(1, 21)])
    registry.register(histogram)

    histogram.observe(np.linspace(0, 1, 101))

    assert registry.get_sample_value("score_ratio_count") == 101
    buckets = [s for s in samples(registry) if s.name == "score_ratio_bucket"]
    assert buckets[0].value == 6
    assert buckets[-2].value == 101
