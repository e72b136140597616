import pytest

from consumer.core.feature_sets import (
    ARRIVAL_1,
    ARRIVAL_2,
    ARRIVAL_3,
    ARRIVAL_4,
    DAY,
    FEATURE_SETS,
    HANDBOOK_1,
    REASONS,
    KeyPlan,
)
from consumer.core.features import AGGREGATES

every_set = pytest.mark.parametrize("feature_set", FEATURE_SETS.values(), ids=FEATURE_SETS)


@every_set
def test_features_are_declared_completely(feature_set):
    """Each has a name of its own, an aggregate that exists, a reason in words, a unit and a doc."""
    assert len(set(feature_set.names)) == len(feature_set.names)
    for feature in feature_set.features:
        assert feature.aggregate in AGGREGATES
        assert feature.reason in REASONS
        assert feature.unit
        assert feature.doc.endswith(".")


@every_set
def test_windows_belong_to_history_and_only_to_history(feature_set):
    """An event alone has no window; a card or a terminal has one."""
    for feature in feature_set.features:
        assert (feature.window == 0) is (feature.key == "event")
        assert feature.window % DAY == 0
        assert set(feature.payment_windows) <= set(feature_set.windows.get(feature.key, ()))
        assert (feature.of is not None) is (feature.aggregate == "distinct")
        assert not feature.reads_labels or feature.window in feature_set.label_windows


@every_set
def test_the_state_s_plan_has_rising_windows_of_cards_and_of_labels(feature_set):
    """Alerts are remembered beside the windows of cards; the kernels take the last for longest."""
    for lengths in (*feature_set.windows.values(), feature_set.label_windows):
        assert list(lengths) == sorted(set(lengths))
        assert lengths
        assert lengths[-1] <= feature_set.longest_window
    assert next(iter(feature_set.windows)) == "card"


@every_set
def test_each_reason_has_a_headline_among_its_own_features(feature_set):
    """The value an analyst is shown explains the reason it stands beside."""
    assert set(feature_set.headlines) == set(feature_set.reasons)
    for code, name in feature_set.headlines.items():
        assert feature_set.names.index(name) in feature_set.reasons[code]


@every_set
def test_every_feature_answers_for_one_reason(feature_set):
    """Groups cover the row and do not overlap."""
    columns = [column for columns in feature_set.reasons.values() for column in columns]

    assert sorted(columns) == list(range(len(feature_set.names)))


@every_set
def test_a_feature_set_is_found_by_its_name(feature_set):
    """The name in a model's manifest."""
    assert FEATURE_SETS[feature_set.name] is feature_set


def test_reason_codes_have_three_characters():
    """They are written as such, without a look at their length."""
    assert {len(code.encode()) for code in REASONS} == {3}


def test_arrival_1_is_what_it_was():
    """A feature's meaning never changes under one name: a change needs a new set."""
    assert ARRIVAL_1.names == (
        "amount", "weekend", "night",
        "card_payments_1d", "card_mean_amount_1d",
        "card_payments_7d", "card_mean_amount_7d",
        "card_payments_30d", "card_mean_amount_30d",
        "terminal_frauds_1d", "terminal_frauds_7d", "terminal_frauds_30d",
        "amount_to_card_mean_30d", "card_mean_1d_to_30d",
    )  # fmt: skip
    assert ARRIVAL_1.windows == {"card": (DAY, 7 * DAY, 30 * DAY)}
    assert ARRIVAL_1.label_windows == (DAY, 7 * DAY, 30 * DAY)
    assert ARRIVAL_1.reasons == {
        "R01": [0], "R31": [1, 2], "R11": [3, 5, 7], "R12": [4, 6, 8, 12, 13], "R21": [9, 10, 11],
    }  # fmt: skip


def test_arrival_2_is_what_it_was():
    """The inputs of arrival-1 and seven more, from no longer history."""
    assert ARRIVAL_2.names == (
        *ARRIVAL_1.names,
        "terminal_frauds_3d", "terminal_frauds_14d", "terminal_frauds_21d", "terminal_frauds_28d",
        "card_mean_1d_to_earlier", "card_mean_7d_to_earlier", "card_mean_14d_to_earlier",
    )  # fmt: skip
    assert ARRIVAL_2.longest_window == ARRIVAL_1.longest_window


def test_arrival_4_is_what_it_was():
    """The inputs of arrival-3, and what the card's payments of a day and a week differ by."""
    assert ARRIVAL_4.names == (
        *ARRIVAL_1.names, "card_seconds_since_last",
        "card_terminals_1d", "card_countries_1d", "card_terminals_7d", "card_countries_7d",
    )  # fmt: skip
    assert ARRIVAL_4.windows == ARRIVAL_1.windows
    assert ARRIVAL_4.reasons["R13"] == [15, 16, 17, 18]


def test_a_set_has_kept_and_told_what_its_features_ask_for_alone():
    """What nobody asks for costs nobody."""
    month = (DAY, 7 * DAY, 30 * DAY)
    assert ARRIVAL_1.plan == {"card": KeyPlan(month)}
    assert ARRIVAL_3.plan == {"card": KeyPlan(month, tells_since=True)}
    card = ARRIVAL_4.plan["card"]
    assert card == KeyPlan(month, True, ("terminal", "merchant_country"), 7 * DAY)
    assert card.distinct_windows == (DAY, 7 * DAY)
    assert [len(one.attributes) for one in (ARRIVAL_3, ARRIVAL_4)] == [0, 2]


def test_handbook_1_is_what_it_was():
    """The Handbook's inputs by its own names and in its own order."""
    assert HANDBOOK_1.names == (
        "TX_AMOUNT", "TX_DURING_WEEKEND", "TX_DURING_NIGHT",
        "CUSTOMER_ID_NB_TX_1DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_7DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_30DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
        "TERMINAL_ID_NB_TX_1DAY_WINDOW", "TERMINAL_ID_RISK_1DAY_WINDOW",
        "TERMINAL_ID_NB_TX_7DAY_WINDOW", "TERMINAL_ID_RISK_7DAY_WINDOW",
        "TERMINAL_ID_NB_TX_30DAY_WINDOW", "TERMINAL_ID_RISK_30DAY_WINDOW",
    )  # fmt: skip
    assert HANDBOOK_1.windows == {
        "card": (DAY, 7 * DAY, 30 * DAY),
        "terminal": (7 * DAY, 8 * DAY, 14 * DAY, 37 * DAY),
    }
    assert HANDBOOK_1.label_windows == (DAY, 7 * DAY, 30 * DAY)
    assert HANDBOOK_1.reasons == {
        "R01": [0], "R31": [1, 2], "R11": [3, 5, 7], "R12": [4, 6, 8],
        "R22": [9, 11, 13], "R21": [10, 12, 14],
    }  # fmt: skip


def test_counting_payments_of_terminals_needs_one_partition():
    """The topic is keyed by card; frauds of terminals come from labels, which everyone reads."""
    assert HANDBOOK_1.needs_one_partition
    assert not ARRIVAL_1.needs_one_partition


def test_state_reaches_back_to_the_beginning_of_the_longest_window():
    """A delayed window begins earlier by its delay."""
    assert ARRIVAL_1.longest_window == 30 * DAY
    assert HANDBOOK_1.longest_window == 37 * DAY
