"""
The Fraud Detection Handbook's protocol and metrics, for predictions from wherever they come.

Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection: Practical
Handbook", chapters 3 (split with delay, cards known to be compromised left out) and 4 (card
precision top-k).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from consumer.records import Bools, Longs

CARDS_PER_DAY: Final = 100


@dataclass(frozen=True, slots=True)
class Quality:
    """Average precision, area under the ROC curve, card precision at 100 a day and its ceiling."""

    ap: float
    auc: float
    cp100: float
    cp100_ceiling: float


@dataclass(frozen=True, slots=True)
class Scored:
    """
    n payments and what a model made of them: days and cards int64[n], probabilities float64[n],
    amounts float64[n] in the major unit, scenarios str[n], empty where a label named none.
    """

    days: Longs
    cards: Longs
    is_fraud: Bools
    probabilities: NDArray[np.float64]
    amounts: NDArray[np.float64]
    scenarios: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Evaluation(Quality):
    """
    All figures of one model: `Quality`, the Brier score, and what an alert for each of the half or
    whole percent of payments with the highest probabilities would find.

    Money is a share of what all frauds took; net of the cost of reviewing every alert.
    """

    brier: float
    recall_at_half_percent: float
    precision_at_half_percent: float
    recall_at_1_percent: float
    precision_at_1_percent: float
    fraud_money_at_1_percent: float
    net_saved_at_1_percent: float
    recall_by_scenario_at_1_percent: dict[str, float]


@dataclass(frozen=True, slots=True)
class Fold:
    """Days, counted from the start of the data, of one split: labels come `delay_days` late."""

    train_first: int
    test_first: int
    test_days: int = 7
    delay_days: int = 7


def rows_to_evaluate(days: Longs, cards: Longs, is_fraud: Bools, fold: Fold) -> NDArray[np.intp]:
    """
    Return the rows of the test days, each without the cards known by then to be compromised.

    A fraud is known from `delay_days` + 1 days after its payment; those before the training period
    are forgotten. days and cards int64[n], is_fraud bool[n].
    """
    kept = []
    for day in range(fold.test_first, fold.test_first + fold.test_days):
        known = is_fraud & (days >= fold.train_first) & (days < day - fold.delay_days)
        rows = np.flatnonzero(days == day)
        kept.append(rows[~np.isin(cards[rows], cards[known])])
    return np.concatenate(kept)


def quality(
    days: Longs, cards: Longs, is_fraud: Bools, probabilities: NDArray[np.float64]
) -> Quality:
    """Return all metrics of n scored payments."""
    return Quality(
        ap=float(average_precision_score(is_fraud, probabilities)),
        auc=float(roc_auc_score(is_fraud, probabilities)),
        cp100=card_precision(days, cards, is_fraud, probabilities),
        cp100_ceiling=card_precision(days, cards, is_fraud, is_fraud.astype(np.float64)),
    )


def evaluate(scored: Scored, review_cost: float) -> Evaluation:
    """Return all figures; a review costs that much of the major unit, whatever it finds."""
    half, whole = (_alerted(scored.probabilities, share) for share in (0.005, 0.01))
    frauds = scored.amounts * scored.is_fraud
    total = max(frauds.sum(), np.finfo(np.float64).tiny)  # frauds of no amount took no money
    found = frauds[whole].sum()
    return Evaluation(
        **asdict(quality(scored.days, scored.cards, scored.is_fraud, scored.probabilities)),
        brier=float(brier_score_loss(scored.is_fraud, scored.probabilities)),
        recall_at_half_percent=_recall(scored.is_fraud, half),
        precision_at_half_percent=float(scored.is_fraud[half].mean()),
        recall_at_1_percent=_recall(scored.is_fraud, whole),
        precision_at_1_percent=float(scored.is_fraud[whole].mean()),
        fraud_money_at_1_percent=float(found / total),
        net_saved_at_1_percent=float((found - review_cost * whole.sum()) / total),
        recall_by_scenario_at_1_percent={
            scenario: _recall(scored.is_fraud & (scored.scenarios == scenario), whole)
            for scenario in np.unique(scored.scenarios[scored.is_fraud]).tolist()
            if scenario
        },
    )


def mean_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the mean of each figure; of a scenario's recall over those that have the scenario."""
    means: dict[str, float] = {
        figure.name: float(np.mean([getattr(each, figure.name) for each in evaluations]))
        for figure in fields(Evaluation)
        if figure.name != "recall_by_scenario_at_1_percent"
    }
    recalls = [each.recall_by_scenario_at_1_percent for each in evaluations]
    by_scenario = {
        scenario: float(np.mean([recall[scenario] for recall in recalls if scenario in recall]))
        for scenario in sorted({scenario for recall in recalls for scenario in recall})
    }
    return Evaluation(**means, recall_by_scenario_at_1_percent=by_scenario)


def _alerted(probabilities: NDArray[np.float64], share: float) -> Bools:
    """Say which payments are that share of all with the highest probability, at least one."""
    count = max(1, round(share * len(probabilities)))
    alerted = np.zeros(len(probabilities), np.bool_)
    alerted[np.argsort(-probabilities, kind="stable")[:count]] = True
    return alerted


def _recall(is_fraud: Bools, alerted: Bools) -> float:
    return float((is_fraud & alerted).sum() / is_fraud.sum())


def card_precision(
    days: Longs, cards: Longs, is_fraud: Bools, scores: NDArray[np.float64], k: int = CARDS_PER_DAY
) -> float:
    """
    Return the mean over days of the share of compromised cards among the k with the highest score.

    A card counts by its highest score of the day; once found, it leaves the pool for later days.
    """
    found: set[int] = set()
    precisions = []
    for day in np.unique(days).tolist():
        rows = np.flatnonzero(days == day)
        rows = rows[~np.isin(cards[rows], list(found))]
        pool, member = np.unique(cards[rows], return_inverse=True)
        best = np.full(len(pool), -np.inf)
        np.maximum.at(best, member, scores[rows])
        compromised = np.zeros(len(pool), np.bool_)
        compromised[member[is_fraud[rows]]] = True
        top = np.argsort(-best, kind="stable")[:k]
        caught = top[compromised[top]]
        precisions.append(len(caught) / k)
        found.update(pool[caught].tolist())
    return float(np.mean(precisions))
