"""Every feature, declared once: its name never changes meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

DAY: Final = 86_400_000_000

Key = Literal["event", "card", "terminal"]
TOPIC_KEY: Final[Key] = "card"
"""What the input topic is keyed by: a partition sees all payments of a card."""

Attribute = Literal["terminal", "merchant_country"]
"""What payments can be told apart by."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """
    What the velocity state keeps and tells of one key.

    `windows` are the lengths of its windows of payments, microseconds, shortest first.
    `tells_since`: how long ago its last payment was. `of` is kept of each payment, and told is how
    many different ones the windows have that are no longer than `distinct_window`.
    """

    windows: tuple[int, ...]
    tells_since: bool = False
    of: tuple[Attribute, ...] = ()
    distinct_window: int = 0

    @property
    def distinct_windows(self) -> tuple[int, ...]:
        """The windows in which it is told how many are distinct, the shortest ones."""
        return tuple(length for length in self.windows if length <= self.distinct_window)


@dataclass(frozen=True, slots=True)
class Feature:
    """
    One input of a model.

    `key` is whose history it reads, `window` its length in microseconds (0: the event alone),
    `aggregate` names the function in features.py that computes it, `reason` the group it answers
    for. The window of a feature with a `delay` ends so many microseconds before the event. One that
    counts what is distinct says `of` what.
    """

    name: str
    key: Key
    window: int
    aggregate: str
    unit: str
    reason: str
    doc: str
    delay: int = 0
    of: Attribute | None = None

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
    def plan(self) -> dict[Key, KeyPlan]:
        """What the velocity state keeps, for each key that has windows of payments."""
        readers: dict[Key, list[Feature]] = {}
        for feature in self.features:
            if feature.payment_windows:
                readers.setdefault(feature.key, []).append(feature)
        return {
            key: KeyPlan(
                tuple(sorted({length for one in found for length in one.payment_windows})),
                any(one.aggregate == "seconds_since_last" for one in found),
                tuple(dict.fromkeys(one.of for one in found if one.of is not None)),
                max(one.window if one.of is not None else 0 for one in found),
            )
            for key, found in readers.items()
        }

    @property
    def windows(self) -> dict[Key, tuple[int, ...]]:
        """
        For each key that has any, the lengths of its windows of payments, microseconds, shortest
        first.
        """
        return {key: plan.windows for key, plan in self.plan.items()}

    @property
    def attributes(self) -> frozenset[Attribute]:
        """What the payments of any of its keys are told apart by."""
        return frozenset(attribute for plan in self.plan.values() for attribute in plan.of)

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


def _distinct(days: int) -> tuple[Feature, Feature]:
    return (
        Feature(f"card_terminals_{days}d", "card", days * DAY, "distinct", "terminals", "R13",
                f"Different terminals that the card paid at in the last {days} d, this one"
                " included.", of="terminal"),
        Feature(f"card_countries_{days}d", "card", days * DAY, "distinct", "countries", "R13",
                f"Different countries of merchants that the card paid in the last {days} d, this"
                " one included; one that is not told is none.", of="merchant_country"),
    )  # fmt: skip


ARRIVAL_4: Final = FeatureSet(
    "arrival-4",
    (*ARRIVAL_3.features, *_distinct(1), *_distinct(7)),
    {**ARRIVAL_3.headlines, "R13": "card_terminals_1d"},
)
"""`arrival-3`, and at how many terminals and in how many countries the card has paid."""


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
    "R13": "spread over terminals and countries",
    "R21": "frauds reported at this terminal",
    "R22": "payments at this terminal",
    "R31": "night or weekend",
}
"""Reason codes in words. Never renumbered, never reused."""

FEATURE_SETS: Final[Mapping[str, FeatureSet]] = {
    feature_set.name: feature_set
    for feature_set in (ARRIVAL_1, ARRIVAL_2, ARRIVAL_3, ARRIVAL_4, HANDBOOK_1)
}
