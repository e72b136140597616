import math

import numpy as np
import pytest

from consumer.core.decide import MOST_REASONS, Explainer, Policy, decide, log_odds
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.symbols import DECISIONS
from tests.fakes import FixedModel

WIDTH = len(ARRIVAL_1.names)
POLICY = Policy("p-1", challenge=0.2, review=0.5, decline=0.9)
NO_MEDIANS = np.zeros(WIDTH, np.float32)


def row(**features):
    values = np.zeros(WIDTH, np.float32)
    for name, value in features.items():
        values[ARRIVAL_1.names.index(name)] = value
    return values


def weighing(**weights):
    """Return a model whose log-odds are -5 and each feature times its weight."""
    by_column = row(**weights).astype(np.float64)
    return FixedModel(lambda values: 1 / (1 + math.exp(5 - float(values @ by_column))))


def decided(probabilities, policy=POLICY, model=None):
    rows = np.zeros((len(probabilities), WIDTH), np.float32)
    explainer = Explainer(ARRIVAL_1, NO_MEDIANS)
    model = model or FixedModel(lambda _: 0.5)
    return decide(rows, np.array(probabilities, np.float64), policy, explainer, model)


def reasons_of(rows, model, medians=NO_MEDIANS):
    """Return (code, contribution, value) of each reason of each row."""
    rows = np.array(rows, np.float32).reshape(-1, WIDTH)
    probabilities = model.score(rows)
    reasons = Explainer(ARRIVAL_1, medians).explain(rows, probabilities, model)
    lines = zip(
        reasons.codes.tolist(), reasons.contributions.tolist(), reasons.values.tolist(),
        reasons.counts.tolist(), strict=True,
    )  # fmt: skip
    return [
        [(code.decode(), *rest) for code, *rest in zip(*columns, strict=True)][:count]
        for *columns, count in lines
    ]


@pytest.mark.parametrize(
    ("probability", "decision"),
    [
        (0.0, "APPROVE"),
        (math.nextafter(0.2, 0), "APPROVE"),
        (0.2, "CHALLENGE"),
        (math.nextafter(0.5, 0), "CHALLENGE"),
        (0.5, "REVIEW"),
        (math.nextafter(0.9, 0), "REVIEW"),
        (0.9, "DECLINE"),
        (1.0, "DECLINE"),
    ],
)
def test_a_decision_begins_at_its_threshold(probability, decision):
    """The threshold itself belongs to the stricter side."""
    assert DECISIONS[decided([probability]).decisions[0]] == decision


def test_equal_thresholds_leave_out_what_lies_between():
    """A model without a challenge has its threshold where review begins."""
    policy = Policy("p", challenge=0.5, review=0.5, decline=0.5)

    assert [DECISIONS[d] for d in decided([0.4, 0.5], policy).decisions] == ["APPROVE", "DECLINE"]


@pytest.mark.parametrize(
    ("probability", "score"),
    [(0.0, 1), (1 / 998 - 1e-9, 1), (1 / 998 + 1e-9, 2), (0.5, 500), (1 - 1e-9, 998), (1.0, 999)],
)
def test_scores_are_1_to_999(probability, score):
    """1 + floor(998 p), for rules and screens."""
    assert decided([probability]).scores.tolist() == [score]


def test_what_reaches_review_is_flagged():
    """In log order; a challenge costs nobody's time and is not explained."""
    decisions = decided([0.9, 0.49, 0.5, 0.1, 0.95])

    assert decisions.flagged.tolist() == [0, 2, 4]
    assert len(decisions.reasons.counts) == 3


@pytest.mark.parametrize("probabilities", [[], [0.1, 0.4]])
def test_nothing_flagged_asks_the_model_nothing(probabilities):
    """Reasons cost more than the score."""
    model = FixedModel(lambda _: 0.5)

    decisions = decided(probabilities, model=model)

    assert decisions.flagged.tolist() == []
    assert len(decisions.reasons.counts) == 0
    assert model.calls == 0


def test_a_reason_is_what_goes_when_its_group_is_usual():
    """The difference in log-odds, and the headline's value beside it."""
    [[(code, contribution, value)]] = reasons_of(
        [row(terminal_frauds_7d=3)], weighing(terminal_frauds_7d=2)
    )

    assert (code, value) == ("R21", 3.0)
    assert contribution == pytest.approx(6.0)


def test_a_group_is_taken_out_as_a_whole():
    """Its features stand for each other: one of them alone would hide behind the rest."""
    [[(code, contribution, _)]] = reasons_of(
        [row(terminal_frauds_1d=1, terminal_frauds_7d=1, terminal_frauds_30d=1)],
        weighing(terminal_frauds_1d=1, terminal_frauds_7d=2, terminal_frauds_30d=4),
    )

    assert code == "R21"
    assert contribution == pytest.approx(7.0)


def test_usual_is_the_median_of_genuine_payments():
    """Three frauds are no reason at a terminal where three are usual."""
    medians = row(terminal_frauds_7d=3, amount=10)

    [found] = reasons_of(
        [row(terminal_frauds_7d=3, amount=12)], weighing(terminal_frauds_7d=2, amount=1), medians
    )

    assert [(code, round(contribution, 9)) for code, contribution, _ in found] == [("R01", 2.0)]


def test_reasons_come_strongest_first():
    """An analyst reads the first."""
    [found] = reasons_of(
        [row(amount=1, night=1, card_payments_1d=1, terminal_frauds_7d=1)],
        weighing(amount=2, night=1, card_payments_1d=4, terminal_frauds_7d=3),
    )

    assert [code for code, _, _ in found] == ["R11", "R21", "R01", "R31"]


def test_no_more_than_four_reasons_are_given():
    """The weakest of five is left out."""
    unusual = dict.fromkeys(
        ("amount", "night", "card_payments_1d", "terminal_frauds_7d", "card_mean_amount_1d"), 1
    )

    [found] = reasons_of([row(**unusual)], weighing(**(unusual | {"night": 0.1})))

    assert len(found) == MOST_REASONS == 4
    assert "R31" not in [code for code, _, _ in found]


def test_what_speaks_for_the_payment_is_no_reason():
    """Neither is what changes nothing."""
    [found] = reasons_of(
        [row(amount=1, night=1, card_payments_1d=1)],
        weighing(amount=3, night=-2, card_payments_1d=0),
    )

    assert [code for code, _, _ in found] == ["R01"]


def test_a_payment_may_be_flagged_without_a_reason():
    """Where the model flags what is usual."""
    assert reasons_of([row()], FixedModel(lambda _: 0.9)) == [[]]


def test_reasons_as_strong_as_each_other_keep_the_order_of_the_feature_set():
    """The same order in every run."""
    [found] = reasons_of(
        [row(amount=1, night=1, terminal_frauds_7d=1)],
        weighing(amount=1, night=1, terminal_frauds_7d=1),
    )

    assert [code for code, _, _ in found] == ["R01", "R31", "R21"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 257])
def test_reasons_do_not_depend_on_the_batch_around_the_row(size):
    """Bit for bit: NumPy rounds the tail of an array in another way than its body."""
    rng = np.random.default_rng(size)
    rows = rng.gamma(1, 3, (size, WIDTH)).astype(np.float32)
    model = weighing(amount=0.3, night=0.2, card_payments_1d=0.17, terminal_frauds_7d=0.23)

    together = reasons_of(rows, model)

    assert together == [reasons_of([each], model)[0] for each in rows]


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-6, 1 - 1e-6])
def test_log_odds_are_those_of_the_probability(p):
    """ln(p / (1 - p))."""
    assert log_odds(np.array([p]))[0] == pytest.approx(math.log(p / (1 - p)))


@pytest.mark.parametrize(("p", "sign"), [(0.0, -1), (1.0, 1), (1e-300, -1), (1 - 1e-16, 1)])
def test_log_odds_of_certainty_are_finite(p, sign):
    """A hair away from 0 and 1."""
    [odds] = log_odds(np.array([p]))

    assert odds == pytest.approx(sign * 27.6, abs=0.1)


def test_certainty_can_be_explained():
    """Contributions are differences of numbers, never of infinities."""
    [found] = reasons_of([row(amount=1)], FixedModel(lambda values: float(values[0] > 0)))

    assert [(code, round(contribution)) for code, contribution, _ in found] == [("R01", 55)]
