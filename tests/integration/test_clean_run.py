import time
from collections import Counter
from dataclasses import replace

import pytest

from tests.integration.checker import check
from tests.integration.conftest import BOTH
from tests.integration.harness import SLOW, eventually
from tests.integration.traffic import PREDICTION, TOMBSTONE

CONSUMER_PROTOCOL = {
    "group.protocol": "consumer", "session.timeout.ms": None, "heartbeat.interval.ms": None,
}  # fmt: skip
RANGE = {"partition.assignment.strategy": "range"}


@BOTH
def test_every_record_has_one_outcome_and_the_metrics_agree(scene):
    """
    Good and bad records in, over 4 partitions: each has its one outcome, features are the
    oracle's, and the counters say what the topics hold.
    """
    consumer = scene.start()
    scene.upstream.send_mixed(3_000, refused_every=100)

    scene.wait_done()

    history = scene.history()
    sent = Counter(sent.outcome for sent in scene.upstream.journal.sent)
    letters = sent.keys() - {PREDICTION, TOMBSTONE}
    assert check(history) == []
    assert len(letters) == 12
    assert len(history.alerts) > 100
    assert consumer.total("messages_consumed_total") == sent.total()
    assert consumer.total("predictions_committed_total") == sent[PREDICTION] == 3_000
    assert consumer.total("alerts_committed_total") == len(history.alerts)
    assert consumer.total("messages_skipped_total", 'reason="tombstone"') == sent[TOMBSTONE]
    assert consumer.total("dead_letters_total") == len(history.dead_letters)
    for reason in letters:
        assert consumer.total("dead_letters_total", f'reason="{reason}"') == sent[reason]
    assert consumer.total("labels_read_total") == len(history.labels)


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_state_with_a_limit_is_cold_where_it_is_not_exact(scene):
    """60 cards do not fit: what STATE_COLD is not said of has the oracle's features."""
    consumer, begin = scene.start(state={"max_bytes": 4_000}), time.monotonic()
    scene.upstream.send_mixed(1_000)
    scene.wait_done()
    time.sleep(max(0.0, begin + 8 - time.monotonic()))  # sizes are told every 5 s, between batches
    scene.upstream.send_mixed(10)

    scene.wait_done()

    history = replace(scene.history(), allowed=frozenset({"LATE_EVENT", "STATE_COLD"}))
    assert check(history) == []
    assert consumer.total("state_evicted_cards_total") > 0
    assert consumer.total("state_bytes") <= 4 * 4_000


@pytest.mark.parametrize(
    ("guarantee", "kafka"),
    [
        ("exactly-once", CONSUMER_PROTOCOL),
        ("at-least-once", RANGE),
        *([("at-least-once", CONSUMER_PROTOCOL), ("exactly-once", RANGE)] if SLOW else []),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(filter(None, value.values())),
)
def test_every_way_to_share_partitions_keeps_the_promise(real, scene, kafka):
    """With KIP-848 and with the eager range assignor, a member may come and go under load."""
    first = scene.start("first", kafka=kafka).wait_ready()
    with scene.feed(500) as acknowledged:
        second = scene.start("second", kafka=kafka)
        eventually(lambda: second.total("assigned_partitions") == 2, 20, second.tail)
        eventually(lambda: second.total("predictions_committed_total") > 100, 20, second.tail)
        assert second.stop() == 0
        eventually(lambda: first.total("assigned_partitions") == 4, 20, first.tail)
        target = acknowledged() + 300
        eventually(lambda: acknowledged() > target, 20)

    scene.wait_done()

    assert check(scene.history()) == []
