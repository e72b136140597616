import errno
import io
import json
import time

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from consumer.core.batch import Reasons
from consumer.core.decide import Decisions
from consumer.records import Refused, Status
from consumer.telemetry import Lag, Telemetry, configure_logging
from tests.builders import events_of, payment, payment_records


class Watched:
    """Telemetry over a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(self.registry, "g", "t")

    def value(self, name, **labels):
        return self.registry.get_sample_value(f"fraudstream_{name}", labels)

    def of_partition(self, name, partition):
        return self.value(name, group="g", topic="t", partition=str(partition))


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture(autouse=True)
def default_logging():
    """Leave the logger as it was."""
    yield
    structlog.reset_defaults()


def decisions_of(numbers, probabilities):
    n = len(numbers)
    nothing = Reasons(
        np.empty((0, 4), "S3"),
        np.empty((0, 4)),
        np.empty((0, 4), np.float32),
        np.empty(0, np.int64),
    )
    return Decisions(
        np.array(probabilities, np.float64), np.ones(n, np.int64), np.array(numbers, np.int64),
        np.empty(0, np.intp), nothing,
    )  # fmt: skip


def committed(watched, *, live=True, timestamps=-1, severities=()):
    """Tell of a batch of four: two predictions, a dead letter and a tombstone, two partitions."""
    records = payment_records(
        [payment(0), b"?", None, payment(3)], partitions=[1, 1, 5, 1], live=live,
        timestamps=timestamps,
    )  # fmt: skip
    refused = Refused(np.array([1, 2]), np.array([Status.FRAMING, Status.TOMBSTONE], np.int8))
    flags = records.live[[0, 3]]
    events = events_of([payment(0), payment(3)], live=flags)
    watched.telemetry.batch_committed(
        records, refused, events, decisions_of([1, 4], [0.1, 0.93]), np.array(severities, np.int64)
    )


def test_a_committed_batch_counts_what_became_of_each_record(watched):
    """Records in are predictions, dead letters and skips."""
    committed(watched)

    assert watched.of_partition("messages_consumed_total", 1) == 3
    assert watched.of_partition("messages_consumed_total", 5) == 1
    assert watched.value("predictions_committed_total", decision="APPROVE", model_version="") == 1
    assert watched.value("predictions_committed_total", decision="DECLINE", model_version="") == 1
    assert watched.value("dead_letters_total", reason="framing", stage="decode") == 1
    assert watched.value("messages_skipped_total", reason="tombstone") == 1
    assert watched.value("batches_total", result="committed") == 1


def test_replayed_records_count_for_nothing(watched):
    """They were counted when they were live."""
    committed(watched, live=False)

    assert watched.of_partition("messages_consumed_total", 1) is None
    assert watched.value("dead_letters_total", reason="framing", stage="decode") == 0
    assert watched.value("messages_skipped_total", reason="tombstone") == 0
    assert watched.value("score_ratio_count") == 0
    assert watched.value("end_to_end_latency_seconds_count") == 0


def test_only_the_live_part_of_a_batch_counts(watched):
    """A batch may go live in its middle."""
    committed(watched, live=[False, False, True, True])

    assert watched.of_partition("messages_consumed_total", 1) == 1
    assert watched.of_partition("messages_consumed_total", 5) == 1
    assert watched.value("dead_letters_total", reason="framing", stage="decode") == 0
    assert watched.value("messages_skipped_total", reason="tombstone") == 1
    assert watched.value("score_ratio_count") == 1


def test_alerts_are_counted_by_severity(watched):
    """1 is the highest."""
    committed(watched, severities=[1, 4, 4])

    counts = [watched.value("alerts_committed_total", severity=str(k)) for k in range(1, 5)]
    assert counts == [1, 0, 0, 2]


def test_scores_are_shown_as_they_are_distributed(watched):
    """For drift."""
    committed(watched)

    assert watched.value("score_ratio_count") == 2
    assert watched.value("score_ratio_sum") == pytest.approx(1.03)


def test_latency_is_from_the_record_s_timestamp_to_its_commit(watched):
    """Records without a timestamp have none."""
    now = time.time() * 1_000

    committed(watched, timestamps=[int(now - 5_000), -1, int(now - 7_000), -1])

    assert watched.value("end_to_end_latency_seconds_count") == 2
    assert watched.value("end_to_end_latency_seconds_sum") == pytest.approx(12, abs=1)


def test_a_commit_is_told_with_its_time(watched):
    """Staleness is for the reader to compute."""
    before = time.time()

    committed(watched)

    assert before <= watched.value("last_commit_timestamp_seconds") <= time.time()


def test_an_aborted_batch_counts_as_read_again(watched):
    """By its cause, which is the name of an error of ours."""
    watched.telemetry.batch_aborted("AssignmentLostError", 70)

    assert watched.value("batches_total", result="aborted") == 1
    assert watched.value("records_reprocessed_total", cause="AssignmentLostError") == 70


def test_each_step_is_timed_under_its_stage(watched):
    """And returns what it returns."""
    step = watched.telemetry.timed("decode", lambda a, *, b: (a, b))

    assert step(1, b=2) == (1, 2)
    assert watched.value("stage_duration_seconds_count", stage="decode") == 1


def test_a_step_that_fails_fails(watched):
    """Timing swallows nothing."""
    step = watched.telemetry.timed("decode", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        step()


def test_lag_is_shown_for_the_partitions_it_is_known_of(watched):
    """Four gauges a partition."""
    watched.telemetry.lag_measured([Lag(3, 10, 25, 15, 1.5)])

    assert watched.of_partition("consumer_lag_messages", 3) == 15
    assert watched.of_partition("consumer_lag_seconds", 3) == 1.5
    assert watched.of_partition("partition_last_stable_offset", 3) == 25
    assert watched.of_partition("committed_offset", 3) == 10
    assert watched.value("lag_refresh_timestamp_seconds") > 0


def test_lag_of_a_partition_that_is_gone_is_shown_no_more(watched):
    """A frozen gauge lies."""
    watched.telemetry.lag_measured([Lag(3, 10, 25, 15, 1.5), Lag(4, 0, 0, 0, 0)])
    watched.telemetry.lag_measured([Lag(4, 0, 1, 1, 0.5)])

    assert watched.of_partition("consumer_lag_messages", 3) is None
    assert watched.of_partition("committed_offset", 3) is None
    assert watched.of_partition("consumer_lag_messages", 4) == 1


def test_lag_that_cannot_be_known_is_absent(watched):
    """And the time of the last measurement stays that of the last one."""
    watched.telemetry.lag_measured([Lag(3, 10, 25, 15, 1.5)])
    measured = watched.value("lag_refresh_timestamp_seconds")

    watched.telemetry.lag_unknown()

    assert watched.of_partition("consumer_lag_seconds", 3) is None
    assert watched.value("lag_refresh_timestamp_seconds") == measured


@pytest.mark.parametrize("event", ["assigned", "revoked", "lost"])
def test_rebalances_are_counted_by_what_happened(watched, event):
    """With what is owned afterwards."""
    getattr(watched.telemetry, f"partitions_{event}")([1, 2], 7)

    assert watched.value("rebalances_total", event=event) == 1
    assert watched.value("assigned_partitions") == 7


def test_labels_are_counted_as_they_are_read(watched):
    """The unreadable and the late ones among them."""
    watched.telemetry.labels_read(10, 2, 3, 1_000.5)
    watched.telemetry.labels_stale("no broker")

    assert watched.value("labels_read_total") == 10
    assert watched.value("labels_refused_total") == 2
    assert watched.value("labels_appended_late_total") == 3
    assert watched.value("newest_label_timestamp_seconds") == 1_000.5
    assert watched.value("labels_stale") == 1


def test_what_is_left_to_replay_is_a_gauge(watched):
    """0 when all is live."""
    watched.telemetry.restore_progressed(500)
    assert watched.value("state_restore_remaining_messages") == 500

    watched.telemetry.restore_progressed(0)
    assert watched.value("state_restore_remaining_messages") == 0


@pytest.mark.parametrize(("format_", "is_json"), [("json", True), ("console", False)])
def test_logs_are_lines_for_people_or_objects_for_machines(capsys, format_, is_json):
    """On stderr, so that stdout stays free."""
    configure_logging(format_, "info")

    Watched().telemetry.partitions_lost([1], 0)

    out, err = capsys.readouterr()
    assert out == ""
    assert ("partitions_lost" in err) is True
    assert err.startswith("{") is is_json
    if is_json:
        assert json.loads(err)["partitions"] == [1]


@pytest.mark.parametrize(
    ("level", "lines"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 0)]
)
def test_logs_begin_at_a_level(capsys, level, lines):
    """`log.level` is the least of what is told."""
    configure_logging("json", level)
    telemetry = Watched().telemetry

    telemetry.stopped()
    telemetry.batch_aborted("x", 1)

    assert len(capsys.readouterr().err.splitlines()) == lines


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch):
    """A full disk, or a collector that is gone, costs lines and no payment."""

    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    configure_logging("json", "info")
    watched = Watched()

    watched.telemetry.partitions_assigned([1], 1)
    watched.telemetry.batch_aborted("x", 1)

    assert watched.value("assigned_partitions") == 1


def test_control_characters_of_a_message_are_escaped(capsys):
    """A line of the log is one event, whatever a broker answers."""
    configure_logging("json", "info")

    Watched().telemetry.client_error("group", "_TRANSPORT", 'x\n{"event": "forged"}\x1b[31m')

    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "kafka_client_error"
    assert "\x1b" not in line


def test_a_line_is_written_at_once(monkeypatch):
    """With PYTHONUNBUFFERED too: what the client library prints must not come before its end."""
    written = []

    class Unbuffered(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            written.append(bytes(data))
            return len(data)

    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(Unbuffered(), write_through=True))
    configure_logging("json", "info")

    Watched().telemetry.partitions_assigned([1], 1)

    [line] = written
    assert line.endswith(b"}\n")


def test_evicted_cards_are_counted_as_they_go(watched, capsys):
    """The state tells how many left since the start; the log has a line when there are more."""
    configure_logging("json", "warning")
    for evicted in (0, 3, 3, 10):
        watched.telemetry.state_measured(5, 5_000, evicted)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert watched.value("state_evicted_cards_total") == 10
    assert [line["cards"] for line in lines] == [3, 7]


@pytest.mark.parametrize("goes", [Telemetry.partitions_revoked, Telemetry.partitions_lost])
def test_a_partition_that_went_shows_no_snapshot_any_more(watched, goes):
    """Its new owner tells of them, though the farewell is still to be written."""
    telemetry = watched.telemetry
    telemetry.partitions_assigned([1, 2], owned=2)
    for partition in (1, 2):
        telemetry.snapshot_written(partition, 100, 5_000, 0.1)
    goes(telemetry, [1], 1)
    telemetry.snapshot_written(1, 200, 5_000, 0.1)

    assert watched.of_partition("snapshot_timestamp_seconds", 1) is None
    assert watched.of_partition("snapshot_timestamp_seconds", 2) > 0
    assert watched.value("snapshots_total", result="written") == 3
