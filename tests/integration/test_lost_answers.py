import pytest

from tests.integration.checker import check
from tests.integration.harness import SLOW, eventually
from tests.integration.proxy import (
    ADD_OFFSETS,
    ADD_PARTITIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    OFFSET_COMMIT,
    OFFSET_FETCH,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Fate,
)

QUICK = {
    "batch": {"max_records": 20},
    "kafka": {"socket.timeout.ms": "1200", "fetch.wait.max.ms": "100"},
}
"""A lost answer is missed after a second, and the request sent again."""
FATES = (Fate.UNANSWERED, Fate.LOST) if SLOW else (Fate.UNANSWERED,)
PATIENT = {"batch": {"max_records": 20}}
"""A lost answer is missed after a minute: what became of the transaction is found out otherwise."""


def test_an_answer_to_a_commit_is_lost(behind, proxy):
    """
    EndTxn is done and its answer lost, for good or until it is asked again: the outcome is found
    out, and nothing is published twice.
    """
    consumer = behind.start(**PATIENT)
    with behind.feed(100):
        consumer.go_on(50)
        with proxy.fault(END_TXN, Fate.UNANSWERED, times=1) as fault:
            eventually(lambda: fault.hits, 20)
            consumer.go_on(50)
        consumer.stop()
        consumer = behind.start(**QUICK)
        consumer.go_on(50)
        with proxy.fault(END_TXN, Fate.UNANSWERED, times=2) as fault:
            eventually(lambda: fault.hits > 1, 20)
            consumer.go_on(50)

    behind.wait_done()

    assert check(behind.history()) == []


@pytest.mark.parametrize(
    ("settings", "times"), [(PATIENT, 1), (QUICK, 1_000)], ids=["patient", "quick"]
)
def test_a_commit_arrives_after_its_transaction_timed_out(behind, proxy, settings, times):
    """
    EndTxn is held up for longer than transaction.timeout.ms, and delivered when others have begun:
    it ends neither the transaction it was for, which is aborted, nor a later one.
    """
    consumer = behind.start(**settings)
    with behind.feed(100):
        consumer.go_on(50)
        with proxy.fault(END_TXN, Fate.LATE, times=times):
            outcome = "transaction_outcome_resolved"
            eventually(lambda: consumer.events(outcome), 30, consumer.tail)
            if times == 1:
                consumer.go_on(50)
        consumer.go_on(50)

    behind.wait_done()

    assert check(behind.history()) == []
    assert consumer.total("batches_total", "aborted") > 0


def test_any_answer_of_a_transaction_is_lost(behind, proxy):
    """Whichever step of a transaction stays unanswered, once or twice, the batch is done once."""
    consumer = behind.start(**QUICK)
    with behind.feed(100):
        consumer.go_on(50)
        for api_key in (ADD_PARTITIONS, PRODUCE, ADD_OFFSETS, TXN_OFFSET_COMMIT):
            for fate in FATES:
                with proxy.fault(api_key, fate, times=1) as fault:
                    eventually(lambda: fault.hits, 20)
                    consumer.go_on(50)

    behind.wait_done()

    assert check(behind.history()) == []


def test_outputs_that_do_not_arrive_in_time(behind, proxy):
    """When outputs time out, the transaction is aborted and its batch carried again."""
    consumer = behind.start(**PATIENT)
    with behind.feed(100):
        consumer.go_on(50)
        with proxy.fault(PRODUCE, Fate.LOST):
            eventually(lambda: consumer.events("batch_aborted"), 30, consumer.tail)
        consumer.go_on(50)

    behind.wait_done()

    assert consumer.exit_code is None
    assert check(behind.history()) == []


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_a_partition_refuses_its_first_output_and_takes_the_next(behind, proxy):
    """
    A broker that leads a partition a moment later than the client believes refuses one request and
    takes the one behind it, whose sequence it cannot yet tell to be ahead.
    """
    name = behind.topics.predictions.encode()
    with proxy.fault(PRODUCE, Fate.NOT_YET, times=1, containing=name) as fault:
        behind.upstream.send_mixed(400)
        behind.start(kafka={"linger.ms": "0", "batch.num.messages": "1"})
        behind.wait_done()

    assert fault.hits > 1
    assert check(behind.history()) == []


def test_answers_are_lost_while_a_consumer_starts(behind, proxy):
    """A start waits for its producer's id and for the group's offsets, and then misses nothing."""
    behind.upstream.send_mixed(200)
    first = behind.start(**QUICK)
    behind.wait_done()
    first.kill()
    with (
        proxy.fault(INIT_PRODUCER_ID, Fate.UNANSWERED, times=1) as identity,
        proxy.fault(OFFSET_FETCH, Fate.LOST, times=1) as offsets,
    ):
        behind.start(**QUICK)
        behind.upstream.send_mixed(200)
        behind.wait_done()
        assert identity.hits > 1
        assert offsets.hits > 1

    assert check(behind.history()) == []


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_at_least_once_repeats_only_the_same(behind, proxy):
    """An unanswered produce or commit is asked again; what is seen twice is the same prediction."""
    consumer = behind.start(**QUICK)
    with behind.feed(100):
        consumer.go_on(50)
        for api_key in (PRODUCE, OFFSET_COMMIT):
            for fate in FATES:
                with proxy.fault(api_key, fate, times=2) as fault:
                    eventually(lambda: fault.hits > 1, 20)
                    consumer.go_on(50)

    behind.wait_done()

    assert check(behind.history()) == []
