"""
Fit HistGradientBoosting on features as the consumer computes
them, and pick thresholds out of sample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from consumer.core.manifest import Thresholds
from consumer.records import Bools, Longs
from training.bundle import Trained
from training.history import History

DEFAULT_PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "max_iter": 200,
        "learning_rate": 0.05,
        "max_leaf_nodes": 8,
        "l2_regularization": 10.0,
        "min_samples_leaf": 10,
        "early_stopping": False,
        "random_state": 0,
    }
)
"""Chosen on the Handbook's four validation weeks, and only then read on its test weeks."""

DECLINE_PRECISION: Final = 0.95
LEAST_DECLINED: Final = 20
_HOLD_OUT_SHARE: Final = 5
_DAY: Final = 86_400_000_000

Tell = Callable[[str], None]


class UntrainableError(Exception):
    """The history cannot teach a model; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Period:
    """Payments made in [begin, end) teach; labels published by `known_by` say which were frauds."""

    begin: int
    end: int
    known_by: int


def train(
    history: History,
    rows: NDArray[np.float32],
    period: Period,
    alerts_per_day: int,
    tell: Tell,
    parameters: Mapping[str, Any] = DEFAULT_PARAMETERS,
) -> Trained:
    """
    Fit on the period's payments; its last fifth, scored by a model of the rest, gives thresholds.

    Raises UntrainableError without frauds and genuine payments on both sides of that split.
    """
    inside = np.flatnonzero((history.times >= period.begin) & (history.times < period.end))
    inside = inside[np.argsort(history.times[inside], kind="stable")]
    times, features = history.times[inside], rows[inside]
    is_fraud = history.fraud_known_at[inside] <= period.known_by
    days = max(1, (period.end - period.begin) // _DAY)
    held_out = times >= period.end - max(1, days // _HOLD_OUT_SHARE) * _DAY
    for part, name in ((held_out, "its last fifth"), (~held_out, "the rest of it")):
        if is_fraud[part].all() or not is_fraud[part].any():
            raise UntrainableError(
                f"the training period has {len(inside)} payments, and {name} does not hold both"
                " frauds known in time and genuine payments; take a longer period, or labels that"
                " reach it"
            )
    tell("fitting on the first days, to pick thresholds on the last")
    rehearsal = HistGradientBoostingClassifier(**parameters).fit(
        features[~held_out], is_fraud[~held_out]
    )
    scores = rehearsal.predict_proba(features[held_out])[:, 1]
    cards = np.unique(history.cards[inside][held_out], axis=0, return_inverse=True)[1].ravel()
    thresholds = pick_thresholds(
        scores, is_fraud[held_out], times[held_out] // _DAY, cards, alerts_per_day
    )
    tell("fitting on all days")
    classifier = HistGradientBoostingClassifier(**parameters).fit(features, is_fraud)
    return Trained(
        classifier,
        features,
        is_fraud,
        thresholds,
        {
            "begin": str(np.datetime64(period.begin, "us")),
            "end": str(np.datetime64(period.end, "us")),
            "labels_known_by": str(np.datetime64(period.known_by, "us")),
            "payments": len(inside),
            "frauds": int(is_fraud.sum()),
            "alerts_per_day": alerts_per_day,
            **{f"parameter.{name}": value for name, value in parameters.items()},
        },
        {
            "held_out_average_precision": float(
                average_precision_score(is_fraud[held_out], scores)
            ),
            "held_out_auc_roc": float(roc_auc_score(is_fraud[held_out], scores)),
            "held_out_payments": int(held_out.sum()),
        },
    )


def pick_thresholds(
    scores: NDArray[np.float64], is_fraud: Bools, days: Longs, cards: Longs, alerts_per_day: int
) -> Thresholds:
    """
    Return thresholds for a budget of cards a day, from n payments scored out of sample.

    Review is where as many cards a day rise above it as the budget allows; challenge, which costs
    nobody's time, where twice as many do. Decline is the lowest probability from which 95 % of the
    payments above are frauds, never below review, and 1 where too few payments show that.
    """
    day_and_card = days * (cards.max() + 1) + cards
    pairs, member = np.unique(day_and_card, return_inverse=True)
    best = np.zeros(len(pairs))
    np.maximum.at(best, member, scores)
    ranked = np.sort(best)[::-1]
    day_count = len(np.unique(days))

    def at_budget(budget: int) -> float:
        place = min(budget * day_count, len(ranked)) - 1
        return float(ranked[place])

    review = at_budget(alerts_per_day)
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(is_fraud[order]) / np.arange(1, len(order) + 1)
    precise = np.flatnonzero(precision >= DECLINE_PRECISION)
    precise = precise[precise >= LEAST_DECLINED - 1]
    decline = float(scores[order[precise[-1]]]) if len(precise) else 1.0
    return Thresholds(
        challenge=at_budget(2 * alerts_per_day), review=review, decline=max(review, decline)
    )
