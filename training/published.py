"""
What others reached on the Fraud Detection Handbook's data, labels exactly 7 days late.

Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection: Practical
Handbook": chapter 3 for its week 1 (2018-08-08 to 08-14), chapters 5 to 7 for the mean of four
weeks from then on.
"""

from dataclasses import dataclass
from typing import Final


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

WEEK_1: Final = (
    Published("logistic regression", 0.871, 0.606, 0.291),
    Published("decision tree, depth 2", 0.763, 0.496, 0.241),
    Published("random forest", 0.867, 0.658, 0.287),
    Published("XGBoost", 0.862, 0.639, 0.273),
)
FOUR_WEEKS: Final = (
    Published("decision tree", 0.797, 0.579, 0.284),
    Published("logistic regression", 0.868, 0.623, 0.297),
    Published("random forest", 0.870, 0.678, 0.299),
    Published("XGBoost, best on test", 0.872, 0.694, 0.304),
    Published("balanced bagging", 0.879, 0.680, 0.305),
    Published("feed-forward net", 0.876, 0.675, 0.303),
    Published("1-D CNN", 0.872, 0.599, 0.288),
    Published("LSTM", 0.876, 0.665, 0.297),
    Published("LSTM with attention", 0.874, 0.667, 0.295),
)
