"""
The Fraud Detection Handbook's protocol and metrics, for predictions from wherever they come.

Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection: Practical
Handbook", chapters 3 (split with delay, cards known to be compromised left out) and 4 (card
precision top-k).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

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
class Published:
    """A row of the Handbook's tables."""

    model: str
    auc: float
    ap: float
    cp100: float


PUBLISHED_WEEK_1: Final = Published("best of each, week 1 (chapter 3)", 0.871, 0.658, 0.291)
PUBLISHED_FOUR_WEEKS: Final = Published(
    "best of each, four weeks (chapters 5 to 7)", 0.879, 0.694, 0.305
)


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
