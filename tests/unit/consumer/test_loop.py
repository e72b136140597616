import gc
import weakref

import pytest

from consumer.errors import (
    BatchAbortedError,
    FatalError,
    OutageError,
    OutputRefusedError,
    PartitionsHeldError,
)
from tests.builders import payment, payment_records
from tests.fakes import FixedModel
from tests.unit.consumer.rig import AMOUNT, PAYMENTS_30D, Rig, by_amount, without

POISON = 300_000
"""An amount, in cents, whose step the poisoned model cannot take."""
STEP = 250.0


def poisoned(row):
    if row[AMOUNT] > STEP:
        raise ZeroDivisionError("4111111111111111")
    return by_amount(row)


def nan_for(row):
    return float("nan") if row[AMOUNT] > STEP else by_amount(row)


def without_memory(row):
    if row[AMOUNT] > STEP:
        raise MemoryError
    return by_amount(row)


def log_of(*amounts, **columns):
    """Return payments of one card of these amounts, None for a poisoned one."""
    return payment_records(
        [
            payment(k, card_id="card", amount_minor=POISON if amount is None else amount)
            for k, amount in enumerate(amounts)
        ],
        **columns,
    )


def test_the_loop_carries_a_log_to_its_end():
    """Batch after batch, each settled before the next."""
    rig = Rig()

    source = rig.run(log_of(*range(100, 1_100, 100)), batch=3)

    assert [p["source_offset"] for p in rig.predictions] == list(range(10))
    assert rig.sink.committed == {0: 10}
    assert source.rewinds == 0


def test_the_loop_stops_between_two_batches():
    """When it is told to, and never inside one."""
    rig = Rig()

    rig.run(log_of(*range(10)), batch=4, while_=lambda: len(rig.sink.batches) < 2)

    assert rig.sink.committed == {0: 8}


def test_the_collector_of_cycles_is_on_again_after_the_loop():
    """It is off inside, as batches make no cycles."""
    Rig().run(log_of(1))

    assert gc.isenabled()


def test_an_aborted_batch_is_read_again_and_leaves_no_trace():
    """Rolled back, rewound, and processed as if for the first time."""
    rig, sound = Rig(), Rig()
    log = log_of(100, 200_000, 300, 400)
    sound.run(log, batch=2)
    rig.sink.fail_once(BatchAbortedError("no"))

    source = rig.run(log, batch=2)

    assert source.rewinds == 1
    assert rig.predictions == sound.predictions
    assert rig.alerts == sound.alerts
    assert rig.value("batches_total", result="aborted") == 1
    assert rig.value("batches_total", result="committed") == 2
    assert rig.value("records_reprocessed_total", cause="BatchAbortedError") == 2


def test_an_abort_in_the_middle_takes_nothing_committed_back():
    """Only the batch that failed comes again."""
    rig = Rig()
    calls = []

    def second_fails(_):
        calls.append(None)
        return BatchAbortedError("no") if len(calls) == 2 else None

    rig.sink.refuses = second_fails
    rig.run(log_of(*range(6)), batch=2)

    assert [p["source_offset"] for p in rig.predictions] == list(range(6))
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2, 3, 4, 5, 6]


def test_batches_that_keep_failing_end_the_process():
    """After `delivery.outage_limit` without progress."""
    rig = Rig()
    rig.sink.refuses = lambda _: BatchAbortedError("no")

    with pytest.raises(OutageError, match="did not answer for 0 s"):
        rig.run(log_of(1), outage_limit_seconds=0.0)

    assert rig.sink.batches == []


def test_a_fatal_error_goes_straight_up():
    """Nothing here could put it right, and nothing is committed."""
    rig = Rig()
    rig.sink.fail_once(FatalError("fenced"))

    with pytest.raises(FatalError, match="fenced"):
        rig.run(log_of(1, 2))

    assert rig.sink.batches == []


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_culprit_alone_is_dead_lettered(place, batch):
    """A payment that a step cannot take costs its neighbours nothing."""
    amounts = [100, 200, 300, 400, 500]
    amounts[place] = None
    rig = Rig(FixedModel(poisoned))

    rig.run(log_of(*amounts), batch=batch)

    assert rig.dead_letters == {(0, place): "poison"}
    assert [p["source_offset"] for p in rig.predictions] == [k for k in range(5) if k != place]
    assert rig.sink.committed == {0: 5}


def test_neighbours_of_the_culprit_are_scored_as_in_a_run_that_could_take_it():
    """Its payment still counts in their windows, as it would on a replay."""
    log = log_of(100, 200_000, None, 400, 500)
    rig, sound = Rig(FixedModel(poisoned)), Rig()
    sound.run(log)

    rig.run(log)

    expected = [p for p in sound.predictions if p["source_offset"] != 2]
    assert rig.predictions == expected
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2, 4, 5]


def test_a_payment_without_a_probability_has_a_reason_of_its_own():
    """`score_invalid`: the model's fault, told apart from ours."""
    rig = Rig(FixedModel(nan_for))

    rig.run(log_of(100, None, 300))

    assert rig.dead_letters == {(0, 1): "score_invalid"}
    assert rig.value("dead_letters_total", reason="score_invalid", stage="score") == 1


def test_a_process_without_memory_ends_and_blames_no_record():
    """A batch that does not fit is tried record by record; one that does not, is not at fault."""
    rig = Rig(FixedModel(without_memory))

    with pytest.raises(FatalError, match="memory"):
        rig.run(log_of(1, 2, None, 4), batch=4)

    assert [p["source_offset"] for p in rig.predictions] == [0, 1]
    assert rig.dead_letters == {}
    assert rig.sink.committed == {0: 2}


@pytest.mark.bad_input("f6")
def test_two_culprits_in_a_row_stop_the_process():
    """The fault is not theirs: a bad deploy must not drain the topic into the dead letters."""
    rig = Rig(FixedModel(poisoned))

    with pytest.raises(FatalError, match="two records in a row were refused as poison"):
        rig.run(log_of(100, None, None, 400))

    assert rig.sink.committed == {0: 2}


def test_two_culprits_with_a_sound_payment_between_them_do_not():
    """They are not in a row."""
    rig = Rig(FixedModel(poisoned))

    rig.run(log_of(100, None, 300, None, 500))

    assert set(rig.dead_letters) == {(0, 1), (0, 3)}


@pytest.mark.parametrize("batch", [1, 2])
def test_culprits_of_batches_with_sound_ones_between_are_not_in_a_row(batch):
    """At a low rate each batch is a single record: the count starts anew with any that is sound."""
    rig = Rig(FixedModel(poisoned))

    rig.run(log_of(None, 200, 300, 400, None, 600), batch=batch)

    assert set(rig.dead_letters) == {(0, 0), (0, 4)}
    assert rig.sink.committed == {0: 6}


def test_a_culprit_at_the_end_of_a_batch_and_one_at_the_start_of_the_next_are_in_a_row():
    """Where batches are cut changes nothing."""
    rig = Rig(FixedModel(poisoned))

    with pytest.raises(FatalError, match="in a row"):
        rig.run(log_of(100, None, None, 400), batch=2)


def test_a_culprit_s_exception_is_told_by_its_type_alone(capsys):
    """Its text may quote the payment."""
    rig = Rig(FixedModel(poisoned))

    rig.run(log_of(100, None))

    told = "".join(capsys.readouterr())
    assert "ZeroDivisionError" in told
    assert "4111111111111111" not in told


def test_a_culprit_that_cannot_even_be_measured_is_dead_lettered_unmeasured():
    """It fails before it could be observed; its neighbours count without it."""
    rig = Rig()
    whole = rig.pipeline._measure

    def fragile(events):
        if (events.amounts_minor == POISON).any():
            raise OverflowError
        return whole(events)

    rig.pipeline._measure = fragile
    rig.run(log_of(100, None, 300))

    assert rig.dead_letters == {(0, 1): "poison"}
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2]


def test_an_abort_while_the_culprit_is_sought_starts_over():
    """What was committed one by one stays; the rest is read again."""
    rig = Rig(FixedModel(poisoned))
    calls = []

    def third_fails(_):
        calls.append(None)
        return BatchAbortedError("no") if len(calls) == 3 else None

    rig.sink.refuses = third_fails
    rig.run(log_of(100, 200, 300, None, 500))

    assert [p["source_offset"] for p in rig.predictions] == [0, 1, 2, 4]
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 2, 3, 5]
    assert rig.dead_letters == {(0, 3): "poison"}


def test_an_abort_of_the_dead_letter_itself_starts_over():
    """The letter is written once."""
    rig = Rig(FixedModel(poisoned))
    faults = [BatchAbortedError("no")]
    rig.sink.refuses = lambda outputs: (
        faults.pop()
        if faults and any(o.topic.endswith("-dlt") and len(o) for o in outputs)
        else None
    )

    rig.run(log_of(100, None, 300))

    assert rig.dead_letters == {(0, 1): "poison"}
    assert len(rig.sink.to("transactions.raw-dlt")) == 1
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [1, 3]


def test_an_output_that_is_refused_costs_its_own_record_alone():
    """Too large for its topic, say: found like any other culprit."""
    rig = Rig()

    def too_large(outputs):
        letters = any(o.topic.endswith("-dlt") and len(o) for o in outputs)
        offsets = {k for o in outputs if o.topic == "transactions.scored" for k in o.values}
        unwanted = any(b"payment-2" in value for value in offsets)
        return ValueError("too large") if unwanted and not letters else None

    rig.sink.refuses = too_large
    rig.run(log_of(100, 200, 300, 400))

    assert rig.dead_letters == {(0, 2): "poison"}
    assert [p["source_offset"] for p in rig.predictions] == [0, 1, 3]


LETTERS = "transactions.raw-dlt"


def refuses_letters(outputs, larger_than=0):
    """Refuse letters as their topic does whose bytes are more."""
    values = [v for o in outputs if o.topic == LETTERS for v in o.values]
    is_too_large = any(len(value or b"") >= larger_than for value in values)
    return OutputRefusedError("MSG_SIZE_TOO_LARGE", LETTERS) if is_too_large else None


def test_letters_that_are_too_large_are_written_without_their_records():
    """However many in a row; small ones keep their bytes, and sound payments are scored."""
    rig = Rig()
    rig.sink.refuses = lambda outputs: refuses_letters(outputs, larger_than=50)

    rig.run(payment_records([payment(0), *[b"?" * 50] * 3, b"?", payment(1)]))

    large = dict.fromkeys([(0, 1), (0, 2), (0, 3)], "oversize")
    assert rig.dead_letters == {**large, (0, 4): "framing"}
    assert [sent.value for sent in rig.sink.to(LETTERS)] == [None, None, None, b"?"]
    assert [sent.key for sent in rig.sink.to(LETTERS)[:3]] == [None] * 3
    assert [p["source_offset"] for p in rig.predictions] == [0, 5]


def test_a_topic_that_takes_no_letter_at_all_ends_the_process():
    """Nothing is committed, and the sentence says what to change."""
    rig = Rig()
    rig.sink.refuses = refuses_letters

    with pytest.raises(FatalError, match=r"raise max\.message\.bytes of that topic"):
        rig.run(payment_records([b"?"]))

    assert rig.sink.committed == {}


def test_a_partition_whose_letters_have_no_place_waits_and_the_others_go_on():
    """What came before the letter in its batch waits with it."""
    rig = Rig()

    def too_narrow(outputs):
        missing = {p for o in outputs if o.topic == LETTERS for p in o.partitions if p == 2}
        return PartitionsHeldError(LETTERS, 2, [2]) if missing else None

    rig.sink.refuses = too_narrow
    log = payment_records(
        [payment(0), payment(1), payment(2), b"?", b"?"],
        partitions=[0, 1, 2, 2, 0], offsets=[0, 0, 0, 1, 1],
    )  # fmt: skip
    source = rig.run(log)

    assert source.held == {2}
    assert rig.sink.committed == {0: 2, 1: 1}
    assert rig.dead_letters == {(0, 1): "framing"}
    assert (
        rig.value("partition_paused", group="group", topic="transactions.raw", partition="2") == 1
    )


def test_replayed_culprits_are_passed_over_in_silence():
    """Their letters are out; their payments count."""
    rig = Rig(FixedModel(poisoned))

    rig.run(log_of(100, None, 300, live=[False, False, True]))

    assert rig.dead_letters == {}
    assert [p["features"][PAYMENTS_30D] for p in rig.predictions] == [3]


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_partitions_do_not_disturb_each_other(batch):
    """A culprit on one of them leaves the others' predictions as they were."""
    payments = [
        payment(k, card_id="card", amount_minor=POISON if k == 7 else 1_000 + k) for k in range(18)
    ]
    log = payment_records(
        payments, partitions=[k % 3 for k in range(18)], offsets=[k // 3 for k in range(18)]
    )
    rig, sound = Rig(FixedModel(poisoned)), Rig()
    sound.run(log)

    rig.run(log, batch=batch)

    culprit = (7 % 3, 7 // 3)
    expected = [
        without(p, "scored_at")
        for p in sound.predictions
        if (p["source_partition"], p["source_offset"]) != culprit
    ]
    assert [without(p, "scored_at") for p in rig.predictions] == expected
    assert rig.dead_letters == {culprit: "poison"}


def test_the_state_is_sized_for_the_metrics():
    """At once, and then every few seconds."""
    rig = Rig()

    rig.run(log_of(1, 2, 3))

    assert rig.value("state_cards") == 1
    assert rig.value("state_bytes") > 0


def test_an_idle_loop_lets_no_garbage_lie():
    """Other threads go on making cycles at night, which nobody else collects."""
    rig = Rig()
    left = set()

    class Cycle:
        def __init__(self):
            self.itself = self
            weakref.finalize(self, left.add, "collected")

    rig.run(payment_records([]), at_least=3, while_=lambda: bool(Cycle()))

    assert left


def test_an_idle_loop_makes_progress():
    """Nothing waiting is as good as something done: readiness must not fade at night."""
    rig = Rig()

    rig.run(payment_records([]), at_least=3)

    assert rig.loop.seconds_since_progress <= rig.loop.seconds_since_poll < 60
