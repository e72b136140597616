import numpy as np
import pytest

import schemas
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_2, ARRIVAL_3, ARRIVAL_4, HANDBOOK_1
from consumer.core.features import FeatureStep, grid, ratio
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from consumer.core.windows import EXACT_PAYMENTS
from tests.builders import DAY, JANUARY, encoded, events_of, label, payment

HOUR = DAY // 24


class Step:
    """The feature step over one fresh partition, asked by names."""

    def __init__(self, feature_set=ARRIVAL_1, **begin):
        self.names = feature_set.names
        self.frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
        state = VelocityState(feature_set.plan, grace=DAY, alert_window=DAY)
        state.begin(0, **begin)
        self.step = FeatureStep(feature_set, state, self.frauds)

    def measure(self, *payments, **columns):
        return self.step.measure(events_of(payments, **columns))

    def last(self, *payments):
        _, rows = self.measure(*payments)
        return dict(zip(self.names, rows.values[-1].tolist(), strict=True))


def paid(amount=1_000, at=0, card="card", number=0, **overrides):
    """Return a payment of so many cents, so many microseconds into January."""
    return payment(number, event_time=JANUARY + at, card_id=card, amount_minor=amount, **overrides)


def cents(amount):
    """Return the grid's step of an amount in cents."""
    return int(grid(np.array([amount * 100]))[0])


@pytest.mark.parametrize(
    ("amount", "step"),
    [
        (0, 0),
        (124, 0),
        (125, 1),
        (249, 1),
        (250, 2),
        (1_000, 8),
        (29_874, 238),
        (29_875, 239),
        (29_999, 239),
        (30_000, 240),
        (30_001, 240),
        (35_676, 240),
        (35_677, 241),
        (42_426, 241),
        (42_427, 242),
        (59_999, 243),
        (60_000, 244),
        (120_000, 248),
        (240_000, 252),
        (339_411, 253),
        (339_412, 254),
        (10**12, 254),
    ],
)
def test_amounts_lie_on_255_steps(amount, step):
    """Steps of 1.25 up to 300, then four to each doubling, up to 3,394.11 and beyond."""
    assert cents(amount) == step


def test_steps_rise_with_the_amount_and_leave_none_out():
    """255 of them, 0 to 254."""
    steps = grid(np.arange(0, 400_000, dtype=np.int64) * 100)

    assert (np.diff(steps) >= 0).all()
    assert np.unique(steps).tolist() == list(range(255))


def test_a_refund_is_as_large_as_its_payment():
    """The sign is left out."""
    amounts = np.array([1, 12_500, 3_000_000, 10**12], np.int64)

    assert grid(-amounts).tolist() == grid(amounts).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("edge", [12_500, 2_987_500, 3_000_000, 3_567_621, 6_000_000])
def test_a_mean_on_an_edge_is_above_it_whatever_it_is_the_mean_of(count, edge):
    """Whole numbers are compared: no division rounds a mean to the other side."""
    totals, counts = np.array([edge * count, edge * count - 1]), np.array([count, count])

    steps = grid(totals, counts)

    assert steps.tolist() == [int(grid(np.array([edge]))[0]), int(grid(np.array([edge - 1]))[0])]


@pytest.mark.bad_input("d5")
def test_rows_beside_a_large_amount_keep_their_steps():
    """The coarse steps are computed for all rows as soon as one needs them."""
    alone = grid(np.array([12_500, 25_000]))

    assert grid(np.array([12_500, 10**9, 25_000]))[[0, 2]].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("over", "under", "step"),
    [
        (1, 1, 20),
        (1, 2, 10),
        (99, 100, 19),
        (100, 99, 20),
        (105, 100, 21),
        (1_049, 1_000, 20),
        (1, 20, 1),
        (1, 21, 0),
        (0, 5, 0),
        (1_249, 100, 249),
        (1_250, 100, 250),
        (10**15, 1, 250),
        (5, 0, 250),
        (0, 0, 20),
        (-5, 1, 0),
        (-5, -1, 100),
    ],
)
def test_ratios_lie_on_steps_of_a_twentieth(over, under, step):
    """At most 12.5, 1 for nothing over nothing, and nothing below 0."""
    assert ratio(np.array([over]), np.array([under])).tolist() == [step]


def test_every_step_of_a_ratio_begins_where_it_should():
    """k twentieths are step k for every k: no division rounds below the edge."""
    steps = np.arange(251)

    assert ratio(steps * 7, np.full(251, 140)).tolist() == steps.tolist()


def test_a_first_payment_has_itself_for_history():
    """All means are its own amount, all ratios 1."""
    row = Step().last(paid(1_000, at=12 * HOUR))

    assert row == {
        "amount": 8, "weekend": 0, "night": 0,
        "card_payments_1d": 1, "card_mean_amount_1d": 8,
        "card_payments_7d": 1, "card_mean_amount_7d": 8,
        "card_payments_30d": 1, "card_mean_amount_30d": 8,
        "terminal_frauds_1d": 0, "terminal_frauds_7d": 0, "terminal_frauds_30d": 0,
        "amount_to_card_mean_30d": 20, "card_mean_1d_to_30d": 20,
    }  # fmt: skip


def test_a_history_of_four_payments_by_hand():
    """25 and 3 days, 2 hours before, and now; 10, 20, 40 and 100."""
    row = Step().last(
        paid(1_000, at=0), paid(2_000, at=22 * DAY), paid(4_000, at=25 * DAY - 2 * HOUR),
        paid(10_000, at=25 * DAY),
    )  # fmt: skip

    assert row["amount"] == cents(10_000)
    assert [row[f"card_payments_{days}d"] for days in (1, 7, 30)] == [2, 3, 4]
    assert row["card_mean_amount_1d"] == cents(7_000)
    assert row["card_mean_amount_7d"] == cents(5_333)
    assert row["card_mean_amount_30d"] == cents(4_250)
    assert row["amount_to_card_mean_30d"] == int(20 * 100 / (70 / 3))
    assert row["card_mean_1d_to_30d"] == int(20 * 70 / 42.5)


def test_amounts_are_compared_with_those_of_before_the_window():
    """20, 15 and 5 days, 2 hours before, and now; 10, 20, 30, 40 and 100."""
    row = Step(ARRIVAL_2).last(
        paid(1_000, at=0), paid(2_000, at=5 * DAY), paid(3_000, at=15 * DAY),
        paid(4_000, at=20 * DAY - 2 * HOUR), paid(10_000, at=20 * DAY),
    )  # fmt: skip

    assert row["card_mean_1d_to_earlier"] == int(20 * 70 / 20)
    assert row["card_mean_7d_to_earlier"] == int(20 * (170 / 3) / 15)
    assert row["card_mean_14d_to_earlier"] == int(20 * (170 / 3) / 15)


def test_without_earlier_payments_there_is_nothing_to_compare_with():
    """The ratio is 1, also where the payment is one of many in its window."""
    row = Step(ARRIVAL_2).last(paid(1_000, at=0), paid(9_000, at=12 * HOUR))

    assert [row[f"card_mean_{days}d_to_earlier"] for days in (1, 7, 14)] == [20, 20, 20]


@pytest.mark.parametrize("which", [ARRIVAL_2, ARRIVAL_3, ARRIVAL_4])
def test_later_sets_say_what_arrival_1_says_and_more(which):
    """Whatever two of them share has one meaning, wherever other windows are kept beside it."""
    payments = [paid(1_000 + 700 * k, at=k * 19 * HOUR) for k in range(40)]

    first, second = (Step(each).last(*payments) for each in (ARRIVAL_1, which))

    assert first.items() < second.items()


@pytest.mark.parametrize(
    ("earlier", "seconds"),
    [((), 30 * 86_400), ((0,), 86_400), ((0, DAY), 0), ((0, DAY - HOUR, 2 * DAY - 1), 3_600),
     ((-30 * DAY,), 30 * 86_400), ((DAY - 500_000,), 0.5)],
)  # fmt: skip
def test_the_time_since_the_last_payment_is_told_in_seconds(earlier, seconds):
    """The last one before in event time, whichever came last; 30 days where there is none."""
    row = Step(ARRIVAL_3).last(*(paid(1_000, at=at) for at in earlier), paid(2_000, at=DAY))

    assert row["card_seconds_since_last"] == seconds


def spread(row):
    """Return how many terminals and countries a row counts in a day, and in a week."""
    return [row[f"card_{of}_{days}d"] for days in (1, 7) for of in ("terminals", "countries")]


def at(terminal, country, when=0, **fields):
    """Return a payment there; when is in days."""
    return paid(at=int(when * DAY), terminal_id=terminal, merchant_country=country, **fields)


def test_terminals_and_countries_of_a_card_by_hand():
    """Each counts once, however often the card pays there; the payment's own are among them."""
    row = Step(ARRIVAL_4).last(
        at("a", "BE"), at("b", "BE", 1), at("c", "FR", 6), at("b", "BE", 6.5), at("d", "DE", 6.9)
    )

    assert spread(row) == [3, 3, 4, 3]
    assert row["card_payments_7d"] == 5


@pytest.mark.parametrize(
    ("when", "told"),
    [(0, [2, 2, 2, 2]), (1 - 1e-9, [2, 2, 2, 2]), (1, [1, 1, 2, 2]), (6.5, [1, 1, 2, 2]),
     (7 - 1e-9, [1, 1, 2, 2]), (7, [1, 1, 1, 1]), (29, [1, 1, 1, 1])],
)  # fmt: skip
def test_what_is_distinct_is_counted_in_a_day_and_in_a_week(when, told):
    """(t - W, t], to the microsecond, wherever longer windows reach."""
    row = Step(ARRIVAL_4).last(at("a", "BE"), at("b", "FR", when, number=1))

    assert spread(row) == told


@pytest.mark.parametrize(
    ("countries", "distinct"),
    [([None], 0), ([""], 0), ([None, "BE"], 1), (["BE", None], 1), (["BE", "BEL", "BE"], 2),
     (["DEU", "FRA", "DEU"], 2), (["É", "BE"], 2), (["B", "BE"], 2)],
)  # fmt: skip
def test_a_country_that_is_not_told_is_none_and_one_that_is_no_code_is_one(countries, distinct):
    """Whatever upstream writes there, the payment is scored."""
    row = Step(ARRIVAL_4).last(
        *(at("a", country, number=number) for number, country in enumerate(countries))
    )

    assert row["card_countries_7d"] == distinct


def test_what_comes_late_counts_in_its_own_time_and_for_those_after_it():
    """By event time, as all that is in windows."""
    step = Step(ARRIVAL_4)

    _, rows = step.measure(at("a", "BE", 1), at("b", "FR", 0.5), at("c", "DE", 1.2))

    day = rows.values[:, step.names.index("card_terminals_1d")]
    assert day.tolist() == [1, 1, 3]


def test_a_payment_that_comes_again_is_at_one_terminal_still():
    """It is told what it was told first, whatever came between."""
    step = Step(ARRIVAL_4)
    first, second = at("a", "BE", number=1), at("b", "FR", 0.5, number=2)

    _, rows = step.measure(first, second)
    _, again = step.measure(second, first, second)

    assert (again.values == rows.values[[1, 0, 1]]).all()


def test_a_refund_names_a_terminal_and_leaves_none():
    """It is measured with its own, and enters nothing."""
    step = Step(ARRIVAL_4)

    refund = step.last(at("a", "BE"), at("b", "FR", kind="REFUND"))
    after = step.last(at("a", "BE", 0.1, number=1))

    assert spread(refund) == [2, 2, 2, 2]
    assert spread(after) == [1, 1, 1, 1]


def test_of_a_hot_card_the_payments_that_are_told_apart_are_counted():
    """The older ones are known by the hour, where no terminal is; the prediction says HOT_KEY."""
    step, older = Step(ARRIVAL_4), 500
    n = EXACT_PAYMENTS + older
    payments = [at(f"t-{k}", "FR" if k < older else "BE", k / n, number=k) for k in range(n)]

    _, rows = step.measure(*payments, at("t-0", "BE", 1 - 1e-9))

    told = dict(zip(step.names, rows.values[-1].tolist(), strict=True))
    assert rows.hot[-1]
    assert not rows.hot[:EXACT_PAYMENTS].any()
    assert rows.values[EXACT_PAYMENTS - 1, step.names.index("card_terminals_1d")] == EXACT_PAYMENTS
    assert spread(told) == [EXACT_PAYMENTS + 1, 1, EXACT_PAYMENTS + 1, 1]
    assert told["card_payments_7d"] == n + 1


@pytest.mark.parametrize(
    ("days", "at", "counted"),
    [(1, DAY - 1, True), (1, DAY, False), (7, 7 * DAY - 1, True), (7, 7 * DAY, False),
     (30, 30 * DAY - 1, True), (30, 30 * DAY, False)],
)  # fmt: skip
def test_each_window_of_a_card_is_as_long_as_its_name_says(days, at, counted):
    """1, 7 and 30 days to the microsecond."""
    row = Step().last(paid(1_000), paid(3_000, at=at))

    assert row[f"card_payments_{days}d"] == 1 + counted
    assert row[f"card_mean_amount_{days}d"] == cents(2_000 if counted else 3_000)


@pytest.mark.parametrize(
    ("days", "at", "counted"),
    [(1, DAY - 1, 1), (1, DAY, 0), (7, 7 * DAY - 1, 1), (7, 7 * DAY, 0),
     (30, 30 * DAY - 1, 1), (30, 30 * DAY, 0)],
)  # fmt: skip
def test_each_window_of_a_terminal_is_as_long_as_its_name_says(days, at, counted):
    """Frauds by the arrival of their label."""
    step = Step()
    step.frauds.add([encoded("label", label(0, terminal_id="t", published_at=JANUARY))], [0])

    row = step.last(paid(at=at, terminal_id="t"))

    assert row[f"terminal_frauds_{days}d"] == counted


@pytest.mark.bad_input("f1")
def test_an_event_that_comes_again_gets_the_same_row_and_is_counted_once():
    """Whatever the card paid in between, and however often it comes."""
    step = Step()
    again = paid(2_000, at=HOUR, number=1)
    payments = [paid(1_000), again, paid(9_000, at=HOUR, number=2), paid(500, at=DAY, number=3)]

    _, rows = step.measure(*payments)
    _, repeated = step.measure(again, again, *payments)
    after = step.last(paid(1_000, at=DAY + 1, number=4))

    assert (repeated.values[:2] == rows.values[1]).all()
    assert (repeated.values[2:] == rows.values).all()
    assert not repeated.late.any()
    assert after["card_payments_7d"] == 5


def test_an_event_with_another_id_is_another_payment():
    """Though it agree in card, time, terminal and amount."""
    row = Step().last(paid(number=1), paid(number=2))

    assert row["card_payments_1d"] == 2


def test_frauds_are_those_of_the_payment_s_own_terminal():
    """A card carries no frauds from one terminal to the next."""
    step = Step()
    step.frauds.add([encoded("label", label(0, terminal_id="t", published_at=JANUARY))], [0])

    _, rows = step.measure(paid(at=1, terminal_id="t"), paid(at=1, terminal_id="u"))

    column = ARRIVAL_1.names.index("terminal_frauds_30d")
    assert rows.values[:, column].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("amount", "before", "step"),
    [(1_000, 1_000, 20), (1_000, 2_000, 10), (12_500, 1_000, 250), (99_999, 1_000, 250),
     (1_000, 0, 250), (0, 0, 20), (0, 1_000, 0)],
)  # fmt: skip
def test_an_amount_is_compared_with_the_mean_without_it(amount, before, step):
    """Else a card with one payment would look like itself for ever."""
    row = Step().last(paid(before), paid(amount, at=HOUR))

    assert row["amount_to_card_mean_30d"] == step


def test_a_refund_is_measured_and_not_counted():
    """Every kind is scored; only AUTHORISATION and ADVICE enter the windows."""
    step = Step()
    row = step.last(paid(1_000), paid(-400, at=1, kind="REFUND"))
    after = step.last(paid(1_000, at=2))

    assert row["card_payments_30d"] == 2
    assert row["card_mean_amount_30d"] == cents(300)
    assert row["amount_to_card_mean_30d"] == 0
    assert after["card_payments_30d"] == 2
    assert after["card_mean_amount_30d"] == cents(1_000)


@pytest.mark.parametrize(
    ("kind", "enters"),
    [("AUTHORISATION", 1), ("ADVICE", 1), ("REVERSAL", 0), ("REFUND", 0), ("CLEARING", 0),
     ("ACCOUNT_VERIFICATION", 0), ("UNKNOWN", 0)],
)  # fmt: skip
def test_a_kind_enters_the_windows_or_does_not(kind, enters):
    """A payment's clearing is not a second payment."""
    row = Step().last(paid(kind=kind), paid(at=1))

    assert row["card_payments_1d"] == 1 + enters


@pytest.mark.parametrize(
    ("day", "weekend"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (6, 0), (7, 0)]
)
def test_saturday_and_sunday_are_the_weekend(day, weekend):
    """2020-01-01 was a Wednesday."""
    assert Step().last(paid(at=day * DAY + 12 * HOUR))["weekend"] == weekend


@pytest.mark.parametrize(
    ("at", "night"),
    [(0, 1), (6 * HOUR, 1), (7 * HOUR - 1, 1), (7 * HOUR, 0), (12 * HOUR, 0), (DAY - 1, 0)],
)
def test_night_is_from_midnight_to_seven(at, night):
    """00:00 to 06:59:59.999999."""
    assert Step().last(paid(at=at))["night"] == night


@pytest.mark.parametrize(
    ("at", "offset", "night", "weekend"),
    [
        (0, -1, 0, 0),
        (0, 0, 1, 0),
        (7 * HOUR, -1, 1, 0),
        (7 * HOUR, 0, 0, 0),
        (6 * HOUR, 60, 0, 0),
        (23 * HOUR, 60, 1, 0),
        (2 * DAY + 23 * HOUR, 60, 1, 1),
        (3 * DAY, -1, 0, 0),
        (4 * DAY + 23 * HOUR, 60, 1, 0),
        (5 * DAY, -300, 0, 1),
        (5 * DAY + 12 * HOUR, -18 * 60, 0, 1),
    ],
)
def test_night_and_weekend_are_the_terminal_s_own(at, offset, night, weekend):
    """Minutes east of UTC, negative in the west; they may move the day across midnight."""
    row = Step().last(paid(at=at, local_utc_offset_minutes=offset))

    assert (row["night"], row["weekend"]) == (night, weekend)


def test_local_time_moves_no_window():
    """Windows run on UTC, wherever the terminal is."""
    row = Step().last(
        paid(local_utc_offset_minutes=-600), paid(at=DAY - 1, local_utc_offset_minutes=600)
    )

    assert row["card_payments_1d"] == 2


def test_rows_are_float32_and_exact():
    """Counts and steps are small whole numbers, which float32 holds as they are."""
    _, rows = Step().measure(*(paid(k * 997, at=k) for k in range(50)))

    assert rows.values.dtype == np.float32
    assert rows.values.shape == (50, 14)
    assert (rows.values == np.floor(rows.values)).all()


def test_an_empty_batch_gives_no_rows():
    """As wide as any other."""
    events, rows = Step().measure()

    assert len(events) == 0
    assert rows.values.shape == (0, 14)


def test_late_and_cold_events_are_told():
    """They are scored, and the prediction says what was missing."""
    step = Step(cold_until=JANUARY)

    _, rows = step.measure(paid(at=-DAY), paid(at=5 * DAY), paid(at=-1))

    assert rows.cold.tolist() == [True, False, True]
    assert rows.late.tolist() == [False, False, True]


def test_replayed_events_that_need_no_score_only_feed_the_windows():
    """They leave no row, and those after them count them."""
    step = Step(score_from=JANUARY + 2 * DAY)

    events, rows = step.measure(
        paid(at=0), paid(at=DAY, card="other"), paid(at=2 * DAY), live=False
    )

    assert events.rows.tolist() == [2]
    column = ARRIVAL_1.names.index("card_payments_7d")
    assert rows.values[:, column].tolist() == [2]


def test_a_card_that_pays_the_largest_amount_over_and_over_keeps_its_mean():
    """The sum of a window must not leave 64 bits: a wrapped one would look small."""
    step = Step()

    row = step.last(*(paid(10**12, at=k, currency_exponent=0) for k in range(20)))

    assert row["card_mean_amount_30d"] == 254
    assert row["amount_to_card_mean_30d"] == 20


def test_handbook_amounts_are_exact():
    """In major units, on no grid."""
    step = Step(HANDBOOK_1)

    step.last(paid(1_001))
    row = step.last(paid(2_002, at=1))

    assert row["TX_AMOUNT"] == np.float32(20.02)
    assert row["CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"] == np.float32(15.015)
    assert row["CUSTOMER_ID_NB_TX_1DAY_WINDOW"] == 2


@pytest.mark.parametrize(
    ("at", "days_1", "days_7", "days_30"),
    [
        (7 * DAY - 1, 0, 0, 0),
        (7 * DAY, 1, 1, 1),
        (8 * DAY - 1, 1, 1, 1),
        (8 * DAY, 0, 1, 1),
        (14 * DAY, 0, 0, 1),
        (37 * DAY - 1, 0, 0, 1),
        (37 * DAY, 0, 0, 0),
    ],
)
def test_a_terminal_s_payments_count_from_a_week_on(at, days_1, days_7, days_30):
    """(t - 7 d - W, t - 7 d]: the payment itself is never among them, nor its card asked for."""
    step = Step(HANDBOOK_1)

    row = step.last(paid(card="other", terminal_id="t"), paid(at=at, terminal_id="t"))

    assert row["TERMINAL_ID_NB_TX_1DAY_WINDOW"] == days_1
    assert row["TERMINAL_ID_NB_TX_7DAY_WINDOW"] == days_7
    assert row["TERMINAL_ID_NB_TX_30DAY_WINDOW"] == days_30
    assert row["CUSTOMER_ID_NB_TX_30DAY_WINDOW"] == 1


def test_risk_is_the_share_of_frauds_among_a_terminal_s_payments():
    """Of payments a week old, whose labels have come by now."""
    step = Step(HANDBOOK_1)
    fraud = label(0, terminal_id="t", published_at=JANUARY + 7 * DAY)
    step.frauds.add([encoded("label", fraud)], [0])

    row = step.last(*(paid(at=k, terminal_id="t") for k in (0, 1, 2, 7 * DAY + 1)))

    assert row["TERMINAL_ID_NB_TX_1DAY_WINDOW"] == 2
    assert row["TERMINAL_ID_RISK_1DAY_WINDOW"] == 0.5


def test_frauds_without_payments_are_no_risk():
    """A label that came early, or of a payment that never was: 0, as the Handbook has it."""
    step = Step(HANDBOOK_1)
    fraud = label(0, terminal_id="t", published_at=JANUARY)
    step.frauds.add([encoded("label", fraud)], [0])

    row = step.last(paid(at=1, terminal_id="t"))

    assert row["TERMINAL_ID_RISK_1DAY_WINDOW"] == 0


def test_a_refund_enters_no_count_of_its_terminal():
    """As it enters none of its card."""
    step = Step(HANDBOOK_1)

    row = step.last(paid(kind="REFUND", terminal_id="t"), paid(at=7 * DAY, terminal_id="t"))

    assert row["TERMINAL_ID_NB_TX_30DAY_WINDOW"] == 0
