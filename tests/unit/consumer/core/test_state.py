import numpy as np
import pytest

from consumer.core.feature_sets import KeyPlan
from consumer.core.state import ALWAYS, VelocityState
from consumer.core.windows import EXACT_PAYMENTS
from tests.builders import DAY, JANUARY, events_of, payment

PLAN = {"card": KeyPlan((DAY, 7 * DAY, 30 * DAY))}
IN_TIME = np.zeros(5, np.bool_)


@pytest.fixture
def state():
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    state.begin(0)
    state.begin(1)
    return state


def events(*times, card="card", partitions=0, live=True, **fields):
    paid = [
        payment(k, event_time=JANUARY + time, card_id=card, **fields)
        for k, time in enumerate(times)
    ]
    return events_of(paid, partitions=partitions, live=live)


def observe(state, batch, *, enters=True):
    return state.observe(batch, np.full(len(batch), enters))


def test_partitions_do_not_see_each_other(state):
    """The same card on two partitions has two histories, and each partition its own time."""
    observe(state, events(0, 40 * DAY))

    velocity = observe(state, events(1, 2, partitions=[0, 1]))

    assert velocity.totals["card"].counts[:, 0].tolist() == [1, 1]
    assert velocity.late.tolist() == [True, False]


def test_a_batch_of_several_partitions_is_measured_row_by_row(state):
    """Each row gets its own partition's answer, wherever it stands in the batch."""
    batch = events(0, 1, 2, 3, 4, partitions=[0, 1, 0, 1, 0])
    a, b, c, d, e = batch.amounts.tolist()

    velocity = observe(state, batch)

    assert velocity.totals["card"].counts[:, 0].tolist() == [1, 1, 2, 2, 3]
    assert velocity.totals["card"].sums[:, 2].tolist() == [a, b, a + c, b + d, a + c + e]


def test_an_empty_batch_has_empty_columns(state):
    """No events, no rows."""
    velocity = observe(state, events())

    assert velocity.totals["card"].counts.shape == (0, 3)
    assert state.needs_score(events()).shape == (0,)
    assert state.open_alerts(events(), IN_TIME[:0]).shape == (0,)


@pytest.mark.parametrize(("time", "cold"), [(-1, True), (0, False), (1, False)])
def test_events_before_cold_until_miss_history(time, cold):
    """The first event of which every window was read is at that time itself."""
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    state.begin(0, cold_until=JANUARY)

    assert observe(state, events(time)).cold.tolist() == [cold]


@pytest.mark.bad_input("f4")
def test_events_are_cold_while_a_window_may_reach_what_was_evicted():
    """Of the partition where it happened, whatever their card."""
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY, max_bytes=1_000)
    for partition in (0, 1):
        state.begin(partition)
    for card in "abcd":
        observe(state, events(5, card=card))
    state.settle()

    velocity = observe(state, events(6, 30 * DAY + 4, 30 * DAY + 5, 6, partitions=[0, 0, 0, 1]))

    assert velocity.cold.tolist() == [True, True, False, False]
    assert state.evicted_count > 0
    assert state.nbytes <= 3_000


def test_a_partition_that_was_read_from_its_beginning_is_never_cold(state):
    """Unless told otherwise, nothing is missing."""
    assert observe(state, events(-10_000 * DAY // 10)).cold.tolist() == [False]


@pytest.mark.parametrize(
    ("live", "time", "needed"),
    [(True, -1, True), (True, 1, True), (False, -1, False), (False, 0, True), (False, 1, True)],
)
def test_replayed_events_are_scored_from_where_their_alerts_still_count(live, time, needed):
    """Live ones always are."""
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    state.begin(0, score_from=JANUARY)

    assert state.needs_score(events(time, live=live)).tolist() == [needed]


def test_what_another_model_decided_is_not_decided_again():
    """Nobody knows which alerts it raised; live events and later ones are scored."""
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    state.begin(0, score_from=JANUARY, decided_since=2)
    batch = events(1, 2, 3, 4, live=[True, False, False, False])

    assert state.needs_score(batch).tolist() == [True, False, True, True]


def test_a_batch_that_goes_live_in_its_middle_is_scored_as_needed():
    """Replayed and live events of several partitions, each by its own bound."""
    state = VelocityState(PLAN, grace=DAY, alert_window=DAY)
    state.begin(0, score_from=JANUARY)
    state.begin(1, score_from=ALWAYS)
    batch = events(-5, -5, -5, 5, partitions=[0, 1, 0, 0], live=[False, False, True, False])

    needed = state.needs_score(batch)

    assert needed.tolist() == [False, True, True, True]
    assert batch.live.tolist() == [False, False, True, False]


def test_one_alert_opens_for_a_card_in_a_window_of_a_partition(state):
    """Aligned windows: a day here."""
    batch = events(0, 1, DAY - 1, DAY, 5, partitions=[0, 0, 0, 0, 1])
    observe(state, batch)

    assert state.open_alerts(batch, IN_TIME).tolist() == [True, False, False, True, True]


def test_alerts_are_rolled_back_with_their_batch(state):
    """An alert that was not published is still to be opened."""
    batch = events(0)
    observe(state, batch)
    state.open_alerts(batch, IN_TIME)

    state.roll_back()
    observe(state, batch)

    assert state.open_alerts(batch, IN_TIME).tolist() == [True]


def test_all_partitions_are_rolled_back_and_settled_together(state):
    """A batch is of all of them."""
    first = events(0, 0, partitions=[0, 1])
    observe(state, first)
    state.settle()
    observe(state, events(1, 1, partitions=[0, 1]))
    state.roll_back()

    velocity = observe(state, events(2, 2, partitions=[0, 1]))

    assert velocity.totals["card"].counts[:, 0].tolist() == [2, 2]


def test_a_partition_that_was_dropped_begins_empty_when_it_comes_back(state):
    """Another instance may have moved on; what was here is stale."""
    observe(state, events(0))
    state.drop(0)
    state.begin(0)

    assert observe(state, events(1)).totals["card"].counts[:, 0].tolist() == [1]


def test_dropping_a_partition_that_is_not_ours_is_nothing(state):
    """Lost partitions may never have been begun."""
    state.drop(99)


def test_sizes_are_of_all_partitions(state):
    """What the metrics show."""
    empty = state.nbytes
    observe(state, events(0, 0, 1, partitions=[0, 1, 1]))

    assert state.card_count == 2
    assert state.nbytes > empty


@pytest.mark.parametrize(
    ("watermark", "expected"),
    [(10 * DAY, 9 * DAY), (10 * DAY + 1, 9 * DAY), (11 * DAY - 1, 9 * DAY), (11 * DAY, 10 * DAY)],
)
def test_alerts_count_from_the_start_of_the_window_that_the_grace_reaches(
    state, watermark, expected
):
    """A payment in time may still fall into that window, whose first alert suppresses its own."""
    assert state.score_from(watermark) == expected


def test_the_state_tells_how_far_back_it_reaches(state):
    """For the search for a place in the log to start from."""
    assert (state.longest_window, state.grace) == (30 * DAY, DAY)


def test_velocity_of_some_rows_is_taken_together(state):
    """Counts, sums and flags stay side by side."""
    velocity = observe(state, events(0, 1, 2))

    taken = velocity.take(np.array([2, 0]))

    assert taken.totals["card"].counts[:, 0].tolist() == [3, 1]
    assert taken.totals["card"].sums.tolist() == velocity.totals["card"].sums[[2, 0]].tolist()
    assert (len(taken.late), len(taken.cold), len(taken.hot)) == (2, 2, 2)


@pytest.fixture
def two_keys():
    state = VelocityState(
        {"card": KeyPlan((DAY,)), "terminal": KeyPlan((DAY, 37 * DAY))}, grace=DAY, alert_window=DAY
    )
    state.begin(0)
    return state


def test_each_key_has_its_own_history_and_windows(two_keys):
    """A terminal's payments are of many cards, a card's at many terminals."""
    observe(two_keys, events(0, card="a", terminal_id="t"))
    observe(two_keys, events(DAY, card="b", terminal_id="t"))

    totals = observe(two_keys, events(DAY + 1, card="b", terminal_id="u")).totals

    assert totals["card"].counts.tolist() == [[2]]
    assert totals["terminal"].counts.tolist() == [[1, 1]]
    again = observe(two_keys, events(DAY + 2, card="c", terminal_id="t")).totals
    assert again["card"].counts.tolist() == [[1]]
    assert again["terminal"].counts.tolist() == [[2, 3]]


def test_what_enters_no_window_enters_that_of_no_key(two_keys):
    """It is measured by all of them."""
    observe(two_keys, events(0, terminal_id="t"), enters=False)

    totals = observe(two_keys, events(1, terminal_id="t")).totals

    assert (totals["card"].counts[0, 0], totals["terminal"].counts[0, 0]) == (1, 1)


def test_all_keys_are_rolled_back_and_settled_together(two_keys):
    """A batch enters all tables or none."""
    observe(two_keys, events(0, terminal_id="t"))
    two_keys.settle()
    observe(two_keys, events(1, terminal_id="t"))
    two_keys.roll_back()

    totals = observe(two_keys, events(2, terminal_id="t")).totals

    assert (totals["card"].counts[0, 0], totals["terminal"].counts[0, 0]) == (2, 2)


def test_a_dropped_partition_leaves_nothing_of_any_key(two_keys):
    """What comes back begins empty."""
    observe(two_keys, events(0, terminal_id="t"))
    two_keys.drop(0)
    two_keys.begin(0)

    totals = observe(two_keys, events(1, terminal_id="t")).totals

    assert (totals["card"].counts[0, 0], totals["terminal"].counts[0, 0]) == (1, 1)


def test_alerts_are_of_cards(two_keys):
    """Two cards at one terminal have one each."""
    batch = events(0, card="a", terminal_id="t")
    other = events(1, card="b", terminal_id="t")
    observe(two_keys, batch)
    observe(two_keys, other)

    opened = [two_keys.open_alerts(of, IN_TIME[:1]).tolist() for of in (batch, batch, other)]

    assert opened == [[True], [False], [True]]


def test_sizes_are_of_all_keys_and_cards_are_cards(two_keys):
    """Bytes count wherever they lie; a terminal is no card."""
    observe(two_keys, events(*range(5), terminal_id="t"))
    cards_alone = VelocityState({"card": KeyPlan((DAY,))}, grace=DAY, alert_window=DAY)
    cards_alone.begin(0)
    observe(cards_alone, events(*range(5), terminal_id="t"))

    assert two_keys.card_count == 1
    assert two_keys.nbytes > cards_alone.nbytes


def test_it_reaches_back_as_far_as_the_longest_window_of_any_key(two_keys):
    """Events are cold until all windows are full."""
    two_keys.begin(1, cold_until=None)

    cold = observe(two_keys, events(0, 37 * DAY - 1, 37 * DAY, partitions=1)).cold

    assert two_keys.longest_window == 37 * DAY
    assert cold.tolist() == [True, True, False]


def test_some_rows_are_taken_of_all_keys(two_keys):
    """They stay side by side."""
    velocity = observe(two_keys, events(0, 1, 2, terminal_id="t"))

    taken = velocity.take(np.array([2, 0])).totals

    assert taken["card"].counts[:, 0].tolist() == [3, 1]
    assert taken["terminal"].counts[:, 1].tolist() == [3, 1]


def test_a_prediction_is_hot_when_any_key_of_it_is(two_keys):
    """Here a terminal: as many payments as are told apart, of as many cards."""
    batch = events(*range(10), terminal_id="t")
    many = batch.take(np.arange(EXACT_PAYMENTS + 1) % 10)
    many.times[:] = JANUARY + np.arange(len(many))
    many.cards[:, 0] = np.arange(len(many))
    many.fingerprints[:] = 0

    velocity = observe(two_keys, many)

    assert velocity.hot.tolist() == [False] * EXACT_PAYMENTS + [True]
    assert velocity.totals["terminal"].counts[-1].tolist() == [EXACT_PAYMENTS + 1] * 2
