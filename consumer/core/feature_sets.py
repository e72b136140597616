"""Every feature, declared once: its name never changes meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

DAY: Final = 86_400_000_000

Key = Literal["event", "card", "terminal"]
TOPIC_KEY: Final[Key] = "card"
"""What the input topic is keyed by: a partition sees all payments of a card."""


@dataclass(frozen=True, slots=True)
class Feature:
    """
    One input of a model.

    `key` is whose history it reads, `window` its length in microseconds (0: the event alone),
    `aggregate` names the function in features.py that computes it, `reason` the group it answers
    for. The window of a feature with a `delay` ends so many microseconds before the event.
    """

    name: str
    key: Key
    window: int
    aggregate: str
    unit: str
    reason: str
    doc: str
    delay: int = 0

    @property
    def reads_labels(self) -> bool:
        """Whether it counts frauds whose label arrived in its window, be it delayed or not."""
        return self.aggregate in {"frauds", "risk"}

    @property
    def payment_windows(self) -> tuple[int, ...]:
        """
        Lengths of the windows of its key's payments that it is computed from, microseconds.

        All of them end at the event: a delayed window is the difference of two.
        """
        if self.window == 0 or self.aggregate == "frauds":
            return ()
        return (self.delay, self.delay + self.window) if self.delay else (self.window,)


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
    def windows(self) -> dict[Key, tuple[int, ...]]:
        """
        The plan of the velocity state: for each key that has any, the lengths of its windows of
        payments, microseconds, shortest first.
        """
        lengths: dict[Key, set[int]] = {}
        for feature in self.features:
            if feature.payment_windows:
                lengths.setdefault(feature.key, set()).update(feature.payment_windows)
        return {key: tuple(sorted(found)) for key, found in lengths.items()}

    @property
    def label_windows(self) -> tuple[int, ...]:
        """Lengths of the windows in which frauds are counted, microseconds, shortest first."""
        return tuple(sorted({f.window for f in self.features if f.reads_labels}))

    @property
    def longest_window(self) -> int:
        """How far back the velocity state reaches, microseconds."""
        return max(max(lengths) for lengths in self.windows.values())

    @property
    def needs_one_partition(self) -> bool:
        """Whether it counts payments of another key than the one that decides on partitions."""
        return any(key != TOPIC_KEY for key in self.windows)

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


ARRIVAL_3: Final = FeatureSet(
    "arrival-3",
    (
        *ARRIVAL_1.features,
        Feature("card_seconds_since_last", "card", 30 * DAY, "seconds_since_last", "seconds", "R11",
                "Seconds since the card's last payment before this one; 30 d without any."),
    ),
    ARRIVAL_1.headlines,
)  # fmt: skip
"""`arrival-1`, and how long the card has been silent."""


def _customer(days: int) -> tuple[Feature, Feature]:
    name = f"{days}DAY_WINDOW"
    return (
        Feature(f"CUSTOMER_ID_NB_TX_{name}", "card", days * DAY, "count", "payments", "R11",
                f"Payments of the card in the last {days} d, this one included."),
        Feature(f"CUSTOMER_ID_AVG_AMOUNT_{name}", "card", days * DAY, "exact_mean", "major units",
                "R12", f"Mean amount of the card in the last {days} d, this payment included."),
    )  # fmt: skip


def _delayed_terminal(days: int) -> tuple[Feature, Feature]:
    name, delay = f"{days}DAY_WINDOW", 7 * DAY
    return (
        Feature(f"TERMINAL_ID_NB_TX_{name}", "terminal", days * DAY, "delayed_count", "payments",
                "R22", f"Payments at the terminal in {days} d that ended 7 d ago.", delay),
        Feature(f"TERMINAL_ID_RISK_{name}", "terminal", days * DAY, "risk", "share", "R21",
                f"Frauds at the terminal whose label arrived in the last {days} d, over its"
                f" payments in {days} d that ended 7 d ago; 0 without any.", delay),
    )  # fmt: skip


HANDBOOK_1: Final = FeatureSet(
    "handbook-1",
    (
        Feature("TX_AMOUNT", "event", 0, "exact_amount", "major units", "R01",
                "Amount of the payment."),
        Feature("TX_DURING_WEEKEND", "event", 0, "weekend", "flag", "R31",
                "Saturday or Sunday, local time of the terminal."),
        Feature("TX_DURING_NIGHT", "event", 0, "night", "flag", "R31",
                "00:00 to 06:59, local time of the terminal."),
        *_customer(1),
        *_customer(7),
        *_customer(30),
        *_delayed_terminal(1),
        *_delayed_terminal(7),
        *_delayed_terminal(30),
    ),
    headlines={
        "R01": "TX_AMOUNT", "R11": "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
        "R12": "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW", "R21": "TERMINAL_ID_RISK_7DAY_WINDOW",
        "R22": "TERMINAL_ID_NB_TX_1DAY_WINDOW", "R31": "TX_DURING_NIGHT",
    },
)  # fmt: skip
"""
The inputs of the Fraud Detection Handbook, by its names (Le Borgne et al., chapter 3, "Baseline
feature transformation"). Its risk is the share of frauds among the payments in the delayed window;
labels published exactly 7 days late, with labels.settle = 0, make it that.
"""

REASONS: Final[Mapping[str, str]] = {
    "R01": "amount unusually high",
    "R11": "card velocity",
    "R12": "spend against the card's own history",
    "R21": "frauds reported at this terminal",
    "R22": "payments at this terminal",
    "R31": "night or weekend",
}
"""Reason codes in words. Never renumbered, never reused."""

FEATURE_SETS: Final[Mapping[str, FeatureSet]] = {
    feature_set.name: feature_set for feature_set in (ARRIVAL_1, ARRIVAL_2, ARRIVAL_3, HANDBOOK_1)
}
