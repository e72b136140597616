import numpy as np
import pytest

from consumer.core.batch import LabelsKnown
from consumer.core.score import ScoreInvalidError
from consumer.errors import BatchAbortedError
from consumer.records import Status
from tests.builders import DAY, JANUARY, encoded, label, payment, payment_records
from tests.fakes import FixedModel
from tests.unit.consumer.rig import PAYMENTS_30D, Rig, by_amount, without


@pytest.fixture
def rig():
    return Rig()


def paid(k, amount=1_000, **overrides):
    return payment(k, amount_minor=amount, card_id="card", **overrides)


def test_a_batch_goes_from_records_to_committed_outputs(rig):
    """A prediction for each payment, an alert for what is flagged, a letter for what is refused."""
    records = payment_records([paid(0), b"?", paid(1, 200_000), None], offsets=[4, 5, 6, 7])

    rig.pipeline.process(records)

    assert [p["source_offset"] for p in rig.predictions] == [4, 6]
    assert [p["decision"] for p in rig.predictions] == ["APPROVE", "DECLINE"]
    assert [alert["source_offset"] for alert in rig.alerts] == [6]
    assert rig.dead_letters == {(0, 5): "framing"}
    assert rig.sink.committed == {0: 8}


def test_all_outputs_of_a_batch_are_published_at_once(rig):
    """One call, so that a transaction can hold them all."""
    rig.pipeline.process(payment_records([paid(0, 200_000), b"?"]))

    [(outputs, _)] = rig.sink.batches
    assert [(o.topic, len(o)) for o in outputs] == [
        ("transactions.scored", 1), ("fraud.alerts", 1), ("transactions.raw-dlt", 1),
    ]  # fmt: skip


def test_predictions_go_out_under_the_keys_of_their_records(rig):
    """A refused record in between keeps its own."""
    records = payment_records([payment(0), b"?", payment(2)])

    rig.pipeline.process(records)

    assert [sent.key for sent in rig.sink.to("transactions.scored")] == [b"card-0", b"card-2"]


def test_predictions_say_when_they_were_made(rig):
    """By the clock that was handed in."""
    rig.clock.now = JANUARY + 5

    rig.pipeline.process(payment_records([paid(0)]))

    assert round(rig.predictions[0]["scored_at"].timestamp() * 1e6) == JANUARY + 5


def test_predictions_say_what_was_known_of_labels(rig):
    """How far the label topic was read, and whether that was to its end."""
    rig.labels.known = LabelsKnown((3, 8), stale=True)

    rig.pipeline.process(payment_records([paid(0)]))

    assert rig.predictions[0]["label_offsets"] == [3, 8]
    assert rig.predictions[0]["degraded"] == ["LABELS_STALE"]


def test_labels_are_read_before_features_are_measured(rig):
    """A label that arrives with the batch counts in it."""

    class Arriving:
        def catch_up(inner):  # noqa: N805 - the test's own self is wanted
            value = encoded("label", label(0, terminal_id="t", published_at=JANUARY))
            rig.frauds.add([value], [0])
            return LabelsKnown((1,), stale=False)

    rig.pipeline._catch_up = Arriving().catch_up

    rig.pipeline.process(payment_records([paid(1, terminal_id="t", event_time=JANUARY)]))

    assert rig.predictions[0]["features"][9:12] == [1, 1, 1]


def test_an_empty_batch_flows_through(rig):
    """And commits nothing."""
    rig.pipeline.process(payment_records([]))

    assert rig.sink.batches == []


def test_a_batch_of_nothing_but_refused_records_is_committed(rig):
    """Else it would come back for ever."""
    rig.pipeline.process(payment_records([b"?", None, b""], offsets=[1, 2, 3]))

    assert rig.predictions == []
    assert rig.dead_letters == {(0, 1): "framing", (0, 3): "framing"}
    assert rig.sink.committed == {0: 4}


def test_offsets_are_committed_partition_by_partition(rig):
    """The one after the last record of each."""
    records = payment_records(
        [paid(k) for k in range(4)], partitions=[0, 2, 0, 2], offsets=[7, 3, 9, 4]
    )

    rig.pipeline.process(records)

    assert rig.sink.committed == {0: 10, 2: 5}


def test_a_publish_that_fails_leaves_the_state_to_be_rolled_back(rig):
    """Commit comes last: nothing is settled, and the same batch gives the same outputs again."""
    records = payment_records([paid(0, 200_000), paid(1)])
    rig.sink.fail_once(BatchAbortedError("no"))
    with pytest.raises(BatchAbortedError):
        rig.pipeline.process(records)
    rig.state.roll_back()

    rig.pipeline.process(records)

    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2]
    assert len(rig.alerts) == 1


def test_counters_of_results_move_only_after_the_commit(rig):
    """A batch that was not committed was not processed."""
    rig.sink.fail_once(BatchAbortedError("no"))
    records = payment_records([paid(0), b"?", None])

    with pytest.raises(BatchAbortedError):
        rig.pipeline.process(records)
    before = _counters(rig)
    rig.state.roll_back()
    rig.pipeline.process(records)

    assert before == [0, 0, 0, 0]
    assert _counters(rig) == [3, 1, 1, 1]


def _counters(rig):
    where = {"group": "group", "topic": "transactions.raw", "partition": "0"}
    return [
        rig.value("messages_consumed_total", **where),
        rig.value("predictions_committed_total", decision="APPROVE", model_version=""),
        rig.value("dead_letters_total", reason="framing", stage="decode"),
        rig.value("messages_skipped_total", reason="tombstone"),
    ]


def test_a_committed_batch_is_not_taken_back_with_the_next(rig):
    """The state is settled once the outputs are out."""
    rig.pipeline.process(payment_records([paid(0)]))
    rig.state.roll_back()

    rig.pipeline.process(payment_records([paid(1)], offsets=[1]))

    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2]


def test_replayed_records_feed_the_state_and_publish_nothing(rig):
    """Their predictions, alerts and letters are out since before."""
    replay = payment_records([paid(0, 200_000), b"?", paid(1)], live=False)

    rig.pipeline.process(replay)
    rig.pipeline.process(payment_records([paid(2, 200_000)], offsets=[3]))

    assert [p["source_offset"] for p in rig.predictions] == [3]
    assert rig.predictions[0]["features"][PAYMENTS_30D] == 3
    assert rig.alerts == []
    assert rig.dead_letters == {}
    assert rig.sink.committed == {0: 4}


def test_a_replayed_dead_letter_raises_the_alert_that_nobody_was_told_of(rig):
    """
    Refused by an older release, its record counts when a newer one rebuilds the state, and with it
    an alert that was never written: what is sent again raises it, and what follows does not.
    """
    first = {"topic": "transactions.raw", "partition": "0", "offset": "0", "attempt": "1"}
    said = [(f"__fraudstream.replay.{name}", text.encode()) for name, text in first.items()]
    rig.pipeline.process(payment_records([paid(0, 200_000)], live=False))

    rig.pipeline.process(
        payment_records([paid(0, 200_000), paid(1, 200_000)], offsets=[1, 2], headers=[said, ()])
    )

    assert [alert["source_offset"] for alert in rig.alerts] == [1]


def test_replayed_records_are_not_counted_again(rig):
    """Counters are of what this process committed."""
    rig.pipeline.process(payment_records([paid(0), b"?", None], live=False))

    assert _counters(rig) == [0, 0, 0, 0]


def test_a_batch_may_go_live_in_its_middle(rig):
    """What is below the committed offset only rebuilds the state."""
    records = payment_records(
        [paid(0), b"?", paid(1), b"!", paid(2)], live=[False, False, True, True, True]
    )

    rig.pipeline.process(records)

    assert [p["source_offset"] for p in rig.predictions] == [2, 4]
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [2, 3]
    assert rig.dead_letters == {(0, 3): "framing"}


def test_replayed_records_that_raise_no_alert_are_not_scored():
    """Scoring costs; their features alone are needed."""
    model = FixedModel(by_amount)
    rig = Rig(model, score_from=JANUARY + DAY)

    rig.pipeline.process(payment_records([paid(0)], live=False))

    assert model.calls == 0


def test_cold_and_late_events_say_so():
    """Scored, and told what their history lacks."""
    rig = Rig(cold_until=JANUARY)
    times = [JANUARY - DAY, JANUARY + 5 * DAY, JANUARY]

    rig.pipeline.process(payment_records([paid(k, event_time=t) for k, t in enumerate(times)]))

    assert [p["degraded"] for p in rig.predictions] == [["STATE_COLD"], [], ["LATE_EVENT"]]


@pytest.mark.parametrize("cuts", [(), (1,), (15,), (5, 6, 20), tuple(range(1, 30))])
def test_where_batches_are_cut_changes_nothing(cuts):
    """A prediction is the same in every run, bit for bit."""
    rng = np.random.default_rng(0)
    log = [
        payment(
            k, card_id=f"card-{k % 3}", amount_minor=int(rng.integers(1, 200_000)),
            event_time=JANUARY + int(rng.integers(0, 20 * DAY)),
        )
        for k in range(30)
    ]  # fmt: skip
    records = payment_records(log, partitions=[k % 3 for k in range(30)])
    whole, cut = Rig(), Rig()

    whole.process(records)
    cut.process(records, *cuts)

    assert cut.predictions == whole.predictions
    assert cut.alerts == whole.alerts


def test_a_model_that_answers_nonsense_is_told_apart_from_a_failure():
    """The loop gives the record its own reason."""
    rig = Rig(FixedModel(lambda _: float("nan")))

    with pytest.raises(ScoreInvalidError):
        rig.pipeline.process(payment_records([paid(0)]))

    assert rig.sink.batches == []


@pytest.mark.parametrize(("observe", "counted"), [(True, 2), (False, 1)])
def test_a_record_refused_by_hand_is_a_dead_letter(rig, observe, counted):
    """With `observe`, its payment enters the windows, as it would on a replay."""
    rig.pipeline.refuse(payment_records([paid(0)]), Status.POISON, observe=observe)

    rig.pipeline.process(payment_records([paid(1)], offsets=[1]))

    assert rig.dead_letters == {(0, 0): "poison"}
    assert rig.predictions[0]["features"][PAYMENTS_30D] == counted
    assert rig.value("dead_letters_total", reason="poison", stage="process") == 1
    assert rig.sink.batches[0][1] == {0: 1}


def test_a_replayed_record_refused_by_hand_leaves_no_second_letter(rig):
    """It was dead-lettered before."""
    rig.pipeline.refuse(payment_records([paid(0)], live=False), Status.POISON, observe=True)

    assert rig.dead_letters == {}
    assert rig.value("dead_letters_total", reason="poison", stage="process") == 0


def test_refused_by_hand_is_settled(rig):
    """The next roll-back leaves it in the windows."""
    rig.pipeline.refuse(payment_records([paid(0)]), Status.POISON, observe=True)
    rig.state.roll_back()

    rig.pipeline.process(payment_records([paid(1)], offsets=[1]))

    assert rig.predictions[0]["features"][PAYMENTS_30D] == 2


def test_each_stage_is_timed(rig):
    """One measurement a batch."""
    rig.pipeline.process(payment_records([paid(0)]))

    for stage in ("decode", "labels", "features", "score", "decide", "encode", "alerts", "publish"):
        assert rig.value("stage_duration_seconds_count", stage=stage) == 1


def test_predictions_of_a_replay_differ_in_nothing_but_their_time():
    """The same log, another process."""
    first, second = Rig(), Rig()
    second.clock.now = first.clock.now + 1
    records = payment_records([payment(k, amount_minor=9_000 * k) for k in range(20)])

    first.process(records)
    second.process(records, 3, 4, 11)

    assert [without(p, "scored_at") for p in second.predictions] == [
        without(p, "scored_at") for p in first.predictions
    ]
    assert second.predictions[0]["scored_at"] != first.predictions[0]["scored_at"]
