import numpy as np

from consumer.core.flips import Answers, Flip, matrix, recalls
from consumer.core.symbols import DECISIONS

APPROVE, CHALLENGE, REVIEW, DECLINE = range(1, len(DECISIONS))


def answers(*decisions, reasons=None):
    n = len(decisions)
    codes = np.array(reasons or [b""] * n, "S3")
    return Answers(np.linspace(0, 1, n), np.array(decisions, np.int64), codes)


def test_each_pair_of_decisions_has_its_payments_and_their_amount():
    """Those that did not change are told, too."""
    was = answers(APPROVE, APPROVE, APPROVE, DECLINE)
    now = answers(APPROVE, REVIEW, REVIEW, APPROVE, reasons=[b"", b"R01", b"R21", b""])

    found = matrix(was, now, np.array([1, 20, 300, 4_000]))

    assert found == [
        Flip("APPROVE", "APPROVE", 1, 1, {}),
        Flip("APPROVE", "REVIEW", 2, 320, {"R01": 1, "R21": 1}),
        Flip("DECLINE", "APPROVE", 1, 4_000, {}),
    ]


def test_a_payment_that_is_no_longer_flagged_keeps_the_reason_it_had():
    """And where both models give one, it is that of the replay."""
    was = answers(REVIEW, REVIEW, reasons=[b"R11", b"R11"])
    now = answers(APPROVE, DECLINE, reasons=[b"", b"R12"])

    found = matrix(was, now, np.array([1, 1]))

    assert [flip.reasons for flip in found] == [{"R11": 1}, {"R12": 1}]


def test_recall_is_the_share_of_frauds_from_a_decision_on():
    """Each threshold includes the stricter ones."""
    is_fraud = np.array([True, True, True, True, False])

    found = recalls(answers(APPROVE, CHALLENGE, REVIEW, DECLINE, DECLINE), is_fraud)

    assert found == {"CHALLENGE": 0.75, "REVIEW": 0.5, "DECLINE": 0.25}


def test_nothing_is_no_flip():
    """An empty period."""
    assert matrix(answers(), answers(), np.empty(0, np.int64)) == []
