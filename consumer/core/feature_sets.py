"""Every feature, declared once: its name never changes meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

DAY: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Feature:
    """
    One input of a model.

    `key` is whose history it reads, `window` its length in microseconds (0: the event alone),
    `aggregate` names the function below that computes it, `reason` the group it answers for.
    """

    name: str
    key: Literal["event", "card", "terminal"]
    window: int
    aggregate: str
    unit: str
    reason: str
    doc: str


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """
    A named, ordered list of features: the contract between a model and the consumer.

    `headlines` names, for each reason code, the feature whose value an analyst is shown.
    """

    name: str
    features: tuple[Feature, ...]
    headlines: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in the order of a row."""
        return tuple(feature.name for feature in self.features)

    @property
    def windows(self) -> tuple[int, ...]:
        """Every window length in use, microseconds, shortest first."""
        return tuple(sorted({feature.window for feature in self.features if feature.window}))

    @property
    def reasons(self) -> dict[str, list[int]]:
        """Columns of each reason group, in the order the groups are declared."""
        groups: dict[str, list[int]] = {}
        for column, feature in enumerate(self.features):
            groups.setdefault(feature.reason, []).append(column)
        return groups


def _card(days: int) -> tuple[Feature, Feature]:
    return (
        Feature(f"card_payments_{days}d", "card", days * DAY, "count", "payments", "R11",
                f"Payments of the card in the last {days} d, this one included."),
        Feature(f"card_mean_amount_{days}d", "card", days * DAY, "mean", "grid steps", "R12",
                f"Mean amount of the card in the last {days} d, this payment included."),
    )  # fmt: skip


def _terminal(days: int) -> Feature:
    return Feature(f"terminal_frauds_{days}d", "terminal", days * DAY, "frauds", "frauds", "R21",
                   f"Frauds at the terminal whose label arrived in the last {days} d.")  # fmt: skip


ARRIVAL_1: Final = FeatureSet(
    "arrival-1",
    (
        Feature("amount", "event", 0, "amount", "grid steps", "R01", "Amount of the payment."),
        Feature("weekend", "event", 0, "weekend", "flag", "R31",
                "Saturday or Sunday, local time of the terminal."),
        Feature("night", "event", 0, "night", "flag", "R31",
                "00:00 to 06:59, local time of the terminal."),
        *_card(1),
        *_card(7),
        *_card(30),
        _terminal(1),
        _terminal(7),
        _terminal(30),
        Feature("amount_to_card_mean_30d", "card", 30 * DAY, "to_mean_before", "steps of 0.05",
                "R12", "Amount over the card's mean of 30 d without it; 1 for a first payment,"
                " at most 12.5."),
        Feature("card_mean_1d_to_30d", "card", DAY, "to_longest_mean", "steps of 0.05", "R12",
                "Mean amount of the card's last day over that of its last 30 d, at most 12.5."),
    ),
    headlines={
        "R01": "amount", "R11": "card_payments_1d", "R12": "amount_to_card_mean_30d",
        "R21": "terminal_frauds_7d", "R31": "night",
    },
)  # fmt: skip


def _mean_to_earlier(days: int) -> Feature:
    return Feature(f"card_mean_{days}d_to_earlier", "card", days * DAY, "to_mean_earlier",
                   "steps of 0.05", "R12",
                   f"Mean amount of the card's last {days} d over that of its payments before,"
                   " back to 30 d; 1 without any, at most 12.5.")  # fmt: skip


ARRIVAL_2: Final = FeatureSet(
    "arrival-2",
    (
        *ARRIVAL_1.features,
        *(_terminal(days) for days in (3, 14, 21, 28)),
        *(_mean_to_earlier(days) for days in (1, 7, 14)),
    ),
    ARRIVAL_1.headlines,
)
"""
What a compromise of a terminal that lasts weeks leaves in the labels, by its age, and how a card's
amounts have changed since. Better than `arrival-1` with much to learn from, see decision 0018.
"""

REASONS: Final[Mapping[str, str]] = {
    "R01": "amount unusually high",
    "R11": "card velocity",
    "R12": "spend against the card's own history",
    "R21": "frauds reported at this terminal",
    "R31": "night or weekend",
}
"""Reason codes in words. Never renumbered, never reused."""

FEATURE_SETS: Final[Mapping[str, FeatureSet]] = {
    feature_set.name: feature_set for feature_set in (ARRIVAL_1, ARRIVAL_2)
}
