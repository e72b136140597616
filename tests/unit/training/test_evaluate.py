"""Each figure against a hand-made example, or against its definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from training.evaluate import (
    Fold,
    Scored,
    card_precision,
    evaluate,
    mean_of,
    quality,
    rows_to_evaluate,
)


def scored(is_fraud, probabilities, **columns) -> Scored:
    """Return scored payments, each of a card of its own, all of one day and of one amount."""
    n = len(is_fraud)
    defaults = {
        "days": np.zeros(n, np.int64), "cards": np.arange(n), "amounts": np.full(n, 10.0),
        "scenarios": np.full(n, ""),
    }  # fmt: skip
    given_ = {name: np.array(column) for name, column in columns.items()}
    return Scored(
        is_fraud=np.array(is_fraud, np.bool_),
        probabilities=np.array(probabilities, np.float64),
        **(defaults | given_),
    )


def two_hundred(*frauds: int) -> Scored:
    """Return 200 payments, likeliest first, of which those at the given places are frauds."""
    is_fraud = np.isin(np.arange(200), frauds)
    return scored(is_fraud, np.linspace(0.9, 0.1, 200))


probabilities_and_frauds = st.integers(5, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])),
        arrays(np.bool_, n).filter(lambda frauds: frauds.any() and not frauds.all()),
    )
)


@given(probabilities_and_frauds)
def test_ranking_figures_are_their_definitions(drawn):
    """AUC counts pairs in the right order, AP adds precision for each step of recall."""
    probabilities, is_fraud = drawn

    found = evaluate(scored(is_fraud, probabilities), 5.0)

    higher = probabilities[is_fraud][:, None] - probabilities[~is_fraud][None, :]
    assert found.auc == pytest.approx(((higher > 0) + (higher == 0) / 2).mean())
    precision_times_step = 0.0
    for threshold in np.unique(probabilities):
        above = probabilities >= threshold
        step = (is_fraud & (probabilities == threshold)).sum() / is_fraud.sum()
        precision_times_step += step * is_fraud[above].mean()
    assert found.ap == pytest.approx(precision_times_step)
    assert found.brier == pytest.approx(((probabilities - is_fraud) ** 2).mean())


@given(probabilities_and_frauds)
def test_ranking_figures_are_scikit_learns(drawn):
    """Whoever computes them from the predictions finds the same."""
    probabilities, is_fraud = drawn

    found = evaluate(scored(is_fraud, probabilities), 5.0)

    assert found.ap == pytest.approx(average_precision_score(is_fraud, probabilities))
    assert found.auc == pytest.approx(roc_auc_score(is_fraud, probabilities))
    assert found.brier == pytest.approx(brier_score_loss(is_fraud, probabilities))


def test_card_precision_counts_a_card_once_by_its_best_score():
    """Of the two cards that are looked at a day, one is compromised."""
    cards = np.array([1, 1, 2, 3])
    is_fraud = np.array([False, True, False, False])
    scores = np.array([0.9, 0.1, 0.5, 0.4])

    assert card_precision(np.zeros(4, np.int64), cards, is_fraud, scores, k=2) == 0.5


def test_a_card_that_was_found_leaves_the_pool():
    """On the second day there is one compromised card left to find, and it is third in order."""
    days = np.array([0, 0, 0, 1, 1, 1])
    cards = np.array([1, 2, 3, 1, 2, 3])
    is_fraud = np.array([True, False, False, True, False, True])
    scores = np.array([0.9, 0.5, 0.1, 0.9, 0.5, 0.1])

    assert card_precision(days, cards, is_fraud, scores, k=1) == (1 + 0) / 2
    assert card_precision(days, cards, is_fraud, scores, k=2) == (1 / 2 + 1 / 2) / 2


def test_a_perfect_order_has_a_ceiling():
    """With three compromised cards a day and 100 to look at, nobody reaches more than 0.03."""
    is_fraud = np.arange(150) < 3

    found = quality(np.zeros(150, np.int64), np.arange(150), is_fraud, np.linspace(0, 1, 150))

    assert found.cp100_ceiling == 0.03
    assert found.cp100 == 0.0


def test_alerts_go_to_a_share_of_the_likeliest():
    """Of 200 payments half a percent is one, and one percent two."""
    found = evaluate(two_hundred(1, 50), 0.0)

    assert (found.recall_at_half_percent, found.precision_at_half_percent) == (0.0, 0.0)
    assert (found.recall_at_1_percent, found.precision_at_1_percent) == (0.5, 0.5)


def test_at_least_one_payment_is_alerted():
    """Also where a share of them is none."""
    found = evaluate(scored([True, False, True], [0.9, 0.8, 0.1]), 0.0)

    assert (found.recall_at_half_percent, found.precision_at_half_percent) == (0.5, 1.0)


def test_money_is_what_alerted_frauds_took():
    """
    Frauds of 30 and 70, of which that of 30 is alerted beside a genuine payment: 30 % of the money,
    and 2 x 5 for looking leave 20 %.
    """
    payments = two_hundred(0, 50)
    payments.amounts[[0, 1, 50]] = 30.0, 500.0, 70.0

    found = evaluate(payments, 5.0)

    assert found.fraud_money_at_1_percent == pytest.approx(0.3)
    assert found.net_saved_at_1_percent == pytest.approx(0.2)


def test_frauds_that_took_nothing_save_nothing():
    """Amounts of zero are valid, and no reason to divide by them."""
    payments = two_hundred(0)
    payments.amounts[:] = 0.0

    assert evaluate(payments, 0.0).fraud_money_at_1_percent == 0.0


def test_recall_is_told_by_scenario():
    """Only frauds count, and only those whose label names a scenario."""
    payments = two_hundred(0, 1, 50, 60, 70)
    scenarios = np.full(200, "", "U20")
    scenarios[[0, 50, 60, 70]] = "terminal", "terminal", "card", ""
    scenarios[2] = "genuine"

    found = evaluate(
        Scored(
            payments.days, payments.cards, payments.is_fraud, payments.probabilities,
            payments.amounts, scenarios,
        ),
        0.0,
    )  # fmt: skip

    assert found.recall_by_scenario_at_1_percent == {"terminal": 0.5, "card": 0.0}


def test_a_mean_is_of_each_figure():
    """A scenario that one week lacks is the mean of the others."""
    first, second = (evaluate(two_hundred(place), 0.0) for place in (0, 1))
    first.recall_by_scenario_at_1_percent.update({"1": 0.2, "2": 0.4})
    second.recall_by_scenario_at_1_percent.update({"1": 0.6})

    mean = mean_of([first, second])

    assert mean.ap == (first.ap + second.ap) / 2 == 0.75
    assert mean.recall_at_half_percent == 0.5
    assert mean.recall_by_scenario_at_1_percent == {"1": pytest.approx(0.4), "2": 0.4}


def test_cards_known_to_be_compromised_are_not_judged():
    """
    A fraud is known 8 days after its payment: its card is judged until the day before. One before
    the training period is forgotten.
    """
    days = np.array([9, 10, 17, 17, 18, 18, 18])
    cards = np.array([3, 1, 1, 2, 1, 2, 3])
    is_fraud = np.array([True, True, False, False, False, False, False])

    rows = rows_to_evaluate(days, cards, is_fraud, Fold(10, 17, 2))

    assert rows.tolist() == [2, 3, 5, 6]
