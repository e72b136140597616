import numpy as np
import pytest

from consumer.core import windows_kernel as kernel
from consumer.core.validate_kernel import EARLIEST, LATEST
from consumer.core.windows import CardWindows
from tests.property.references import ReferenceWindows

WINDOWS = (10, 70, 300)
GRACE = 20
FULL = kernel.ENTRIES
CARD_BYTES = 32 + 8 * (kernel.CARD_WORDS + kernel.BLOCK_WORDS)
"""A card with one block, and its share of the index."""
ABOUT_A_BLOCK = (FULL - 1, FULL, FULL + 1, 2 * FULL - 1, 2 * FULL, 2 * FULL + 1)


def card_windows(windows=WINDOWS, grace=GRACE, alert_window=100, max_bytes=0, **hot) -> CardWindows:
    return CardWindows(windows, grace, alert_window, max_bytes, **hot)


def observe(state, payments, *, enters=True):
    """
    Return counts, sums and late of (card, time, amount) triples, observed as one batch.

    A fourth item is the fingerprint of the event id.
    """
    n = len(payments)
    rows = [payment if len(payment) == 4 else (*payment, 0) for payment in payments]
    cards, times, amounts, ids = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    width = len(state._windows)
    counts, sums = np.zeros((n, width), np.int64), np.zeros((n, width), np.int64)
    since, late, hot = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
    state.observe(
        np.arange(n), hashes_of(cards), times, amounts, ids, np.full(n, enters), counts, sums,
        since, late, hot,
    )  # fmt: skip
    return counts.tolist(), sums.tolist(), late.tolist()


def hashes_of(cards):
    mixed = np.array(cards, np.int64) * np.int64(0x5851F42D4C957F2D)
    return np.stack([mixed, ~mixed], axis=1)


def open_alerts(state, cards, times, *, late=False):
    times = np.array(times, np.int64)
    return state.open_alerts(hashes_of(cards), times, np.full(len(times), late)).tolist()


def tables(state):
    """Return every word that means something, and where each card's row is found."""
    header = state._header
    cards = state._cards[: state.card_count * kernel.CARD_WORDS]
    blocks = state._blocks[: int(header[kernel.BLOCK_COUNT]) * kernel.BLOCK_WORDS]
    return header.tobytes(), cards.tobytes(), blocks.tobytes()


def test_a_first_payment_is_measured_with_itself_alone():
    """Every window holds the payment that asks."""
    assert observe(card_windows(), [(1, 1_000, 5)]) == ([[1, 1, 1]], [[5, 5, 5]], [False])


@pytest.mark.parametrize(
    ("apart", "counts"), [(0, [2, 2, 2]), (9, [2, 2, 2]), (10, [1, 2, 2]), (69, [1, 2, 2]),
                          (70, [1, 1, 2]), (299, [1, 1, 2]), (300, [1, 1, 1])],
)  # fmt: skip
def test_a_window_is_open_at_its_far_end_and_closed_at_its_near_one(apart, counts):
    """(t - W, t]: a payment exactly W earlier is out, one at the same time is in."""
    state = card_windows()

    found, sums, _ = observe(state, [(1, 1_000, 5), (1, 1_000 + apart, 7)])

    assert found[1] == counts
    assert sums[1] == [12 if count == 2 else 7 for count in counts]


def test_windows_may_be_declared_in_any_order():
    """Columns go from the shortest to the longest."""
    counts, _, _ = observe(card_windows((300, 10, 70)), [(1, 0, 1), (1, 50, 1)])

    assert counts[1] == [1, 2, 2]


def test_cards_do_not_share_payments():
    """One card's history is nobody else's."""
    counts, sums, _ = observe(card_windows(), [(1, 0, 5), (2, 0, 7), (1, 0, 11)])

    assert counts == [[1] * 3, [1] * 3, [2] * 3]
    assert sums == [[5] * 3, [7] * 3, [16] * 3]


def test_a_payment_of_equal_time_counts_those_before_it_in_the_log():
    """Ties are told apart by the order of the log alone."""
    counts, sums, _ = observe(card_windows(), [(1, 5, 1), (1, 5, 2), (1, 5, 4)])

    assert [row[0] for row in counts] == [1, 2, 3]
    assert [row[0] for row in sums] == [1, 3, 7]


def test_a_payment_out_of_order_is_measured_and_kept_at_its_own_time():
    """What is later in time is not in its windows, and it is in theirs."""
    payments = [(1, 100, 1), (1, 105, 2), (1, 98, 4), (1, 106, 8)]

    counts, sums, late = observe(card_windows(), payments)

    assert counts[2][0] == 1
    assert sums[2][0] == 4
    assert counts[3][0] == 4
    assert sums[3][0] == 15
    assert not any(late)


@pytest.mark.bad_input("e4")
@pytest.mark.parametrize(("behind", "late"), [(GRACE, False), (GRACE + 1, True)])
def test_a_payment_older_than_the_grace_is_late_and_leaves_no_trace(behind, late):
    """It is measured all the same."""
    state = card_windows()

    counts, _, lates = observe(state, [(1, 1_000, 1), (1, 1_000 - behind, 2), (1, 1_000, 4)])

    assert lates == [False, late, False]
    assert counts[1] == [1, 1, 1]
    assert counts[2] == [2, 3 - late, 3 - late]
    assert state.payment_count == 3 - late


def test_a_late_payment_sees_what_is_left_of_its_windows():
    """What lies further back than the longest window and the grace is gone for everyone."""
    state = card_windows()
    observe(state, [(1, 0, 1), (1, 400, 2), (1, 500, 4)])

    counts, sums, late = observe(state, [(1, 250, 8), (1, 450, 16)])

    assert late == [True, True]
    assert (counts[0], sums[0]) == ([1, 1, 1], [8, 8, 8])
    assert (counts[1], sums[1]) == ([1, 2, 2], [16, 18, 18])


def test_a_repeated_payment_is_measured_as_the_first_was_and_not_added():
    """However much the card paid since."""
    state = card_windows()
    log = [(1, 995, 3, 8), (1, 1_000, 5, 7), (1, 1_000, 6, 9), (1, 1_004, 2, 1)]

    counts, sums, _ = observe(state, log)
    again = observe(state, [log[1], log[0], log[3], log[2]])

    assert again == (
        [counts[k] for k in (1, 0, 3, 2)],
        [sums[k] for k in (1, 0, 3, 2)],
        [False] * 4,
    )
    assert state.payment_count == 4


@pytest.mark.parametrize("other", [(1, 1_000, 5, 8), (1, 1_000, 6, 7), (1, 1_001, 5, 7),
                                   (2, 1_000, 5, 7), (1, 1_000, 5, 0)])  # fmt: skip
def test_another_id_amount_time_or_card_is_another_payment(other):
    """And so is one that has no id."""
    state = card_windows()

    observe(state, [(1, 1_000, 5, 7), other])

    assert state.payment_count == 2


def test_payments_without_ids_are_never_repeats_of_each_other():
    """Two columns of a file may agree in all that it says."""
    state = card_windows()

    counts, _, _ = observe(state, [(1, 1_000, 5), (1, 1_000, 5)])

    assert counts == [[1] * 3, [2] * 3]


def test_a_repeat_is_found_across_blocks_of_payments_of_one_time():
    """Forty in one microsecond take several blocks."""
    state = card_windows()
    log = [(1, 1_000, 5, number) for number in range(1, 41)]
    counts, sums, _ = observe(state, log)

    assert observe(state, log) == (counts, sums, [False] * 40)
    assert state.payment_count == 40


def test_a_repeat_later_than_the_grace_is_late_and_does_not_count_its_first():
    """What its windows lack is gone for everyone, and LATE_EVENT says so."""
    state = card_windows()
    observe(state, [(1, 690, 1, 1), (1, 750, 2, 2), (1, 1_000, 4, 3)])

    again = observe(state, [(1, 750, 2, 2)])

    assert again == ([[1, 2, 2]], [[2, 3, 3]], [True])


def test_a_repeat_of_what_does_not_enter_is_measured_like_any_other():
    """A refund was never held; a payment that agrees with it is not it."""
    state = card_windows()
    observe(state, [(1, 1_000, 5, 7)])

    counts, _, _ = observe(state, [(1, 1_000, 5, 7)], enters=False)

    assert counts == [[2] * 3]


@pytest.mark.parametrize("time", [kernel.EARLIEST_TIME + 2, -1, 0, 1, LATEST, kernel.LATEST_TIME])
@pytest.mark.parametrize("fingerprint", [0, kernel.FINGERPRINTS])
def test_times_keep_their_order_beside_fingerprints(time, fingerprint):
    """From 1827 to 2112, to the microsecond."""
    state = card_windows((1, 2), grace=10**18)
    other = kernel.FINGERPRINTS - fingerprint

    counts, _, _ = observe(state, [(1, time - 1, 5, other), (1, time, 5, fingerprint)])

    assert counts[1] == [1, 2]


def test_every_time_that_the_decoder_accepts_leaves_room_for_a_fingerprint():
    """11 bits beside 52 and a sign."""
    assert kernel.EARLIEST_TIME < EARLIEST < LATEST <= kernel.LATEST_TIME
    assert kernel.LATEST_TIME << kernel.FINGERPRINT_BITS | kernel.FINGERPRINTS == 2**63 - 1


def test_a_payment_that_does_not_enter_is_measured_and_leaves_no_trace():
    """A refund sees its card's windows, and no other payment sees the refund."""
    state = card_windows()
    observe(state, [(1, 0, 1)])

    counts, sums, _ = observe(state, [(1, 1, 100)], enters=False)
    after, _, _ = observe(state, [(1, 2, 1)])

    assert (counts, sums) == ([[2] * 3], [[101] * 3])
    assert after == [[2] * 3]


def test_a_payment_that_does_not_enter_still_moves_the_watermark():
    """Time passes for everyone with any event, so that all instances agree on what is late."""
    state = card_windows()

    observe(state, [(1, 500, 1)], enters=False)
    _, _, late = observe(state, [(2, 500 - GRACE - 1, 1)])

    assert state.watermark == 500
    assert late == [True]
    assert state.card_count == 0


def test_a_late_payment_does_not_move_the_watermark_back():
    """It only rises."""
    state = card_windows()

    observe(state, [(1, 500, 1), (1, 5, 1)])

    assert state.watermark == 500


@pytest.mark.parametrize("payments", [1, *ABOUT_A_BLOCK, 3 * FULL, 3 * FULL + 1, 200])
def test_histories_of_any_length_are_counted(payments):
    """Whole blocks, and one more or less."""
    state = card_windows((10, 1_000_000))

    counts, sums, _ = observe(state, [(1, k, k) for k in range(payments)])

    assert counts[-1] == [min(payments, 10), payments]
    assert sums[-1] == [
        sum(range(max(0, payments - 10), payments)),
        sum(range(payments)),
    ]


@pytest.mark.parametrize("payments", [*ABOUT_A_BLOCK, 100])
@pytest.mark.parametrize("place", [0, 7, FULL - 2, -1])
def test_a_payment_out_of_order_moves_those_after_it_across_blocks(payments, place):
    """However many blocks lie between its place and the newest."""
    state, reference = card_windows((55, 1_000), 10_000), ReferenceWindows((55, 1_000), 10_000)
    times = [10 * k for k in range(1, payments + 1)]
    batch = [(1, time, 1) for time in [*times, times[place] - 5, *times]]

    counts, sums, _ = observe(state, batch)

    expected = [reference.observe(*each) for each in batch]
    assert counts == [each[0] for each in expected]
    assert sums == [each[1] for each in expected]


def test_negative_and_large_amounts_are_summed_exactly():
    """Integers, with their signs; no float rounds them."""
    amounts = [10**17, -(10**17) + 1, 10**17 - 3, -7]

    _, sums, _ = observe(card_windows(), [(1, k, amount) for k, amount in enumerate(amounts)])

    assert [row[0] for row in sums] == [sum(amounts[: k + 1]) for k in range(4)]


def test_running_totals_may_wrap():
    """A card's total since ever may leave 64 bits: its windows stay right."""
    state = card_windows((10,), grace=0)

    for k in range(50):
        _, sums, _ = observe(state, [(1, 100 * k, 10**18), (1, 100 * k + 1, 10**18)])

        assert sums == [[10**18], [2 * 10**18]]


def test_blocks_that_hold_nothing_any_more_are_used_again():
    """A busy card's memory is bounded by what its windows hold."""
    state = card_windows((10,), grace=0)

    observe(state, [(1, 100 * k, 1) for k in range(10_000)])

    assert int(state._header[kernel.BLOCK_COUNT]) <= 2
    assert state.payment_count <= 2 * kernel.ENTRIES


def test_freed_blocks_serve_other_cards():
    """The free list is the partition's, not the card's."""
    state = card_windows((10_000,), grace=0)
    observe(state, [(1, k, 1) for k in range(10 * FULL)])
    observe(state, [(1, 100_000, 1)])
    blocks = int(state._header[kernel.BLOCK_COUNT])

    counts, sums, _ = observe(state, [(2, 100_000 + k, 2) for k in range(100)])

    assert int(state._header[kernel.BLOCK_COUNT]) == blocks
    assert counts[-1] == [100]
    assert sums[-1] == [200]


def test_tables_grow_with_the_cards():
    """Ten thousand cards in one batch, and each of them is found again."""
    state = card_windows()
    cards = list(range(10_000))

    observe(state, [(card, 1_000, card) for card in cards])
    counts, sums, _ = observe(state, [(card, 1_001, 1) for card in cards])

    assert state.card_count == 10_000
    assert state.payment_count == 20_000
    assert set(map(tuple, counts)) == {(2, 2, 2)}
    assert [row[0] for row in sums] == [card + 1 for card in cards]


def test_cards_that_share_a_place_in_the_index_are_told_apart():
    """Both halves of the hash are compared; the second alone may differ."""
    state = card_windows()
    hashes = np.array([[7, 1], [7, 2], [7 + 2**40, 1], [7, 1]], np.int64)
    n = len(hashes)
    counts, sums = np.zeros((n, 3), np.int64), np.zeros((n, 3), np.int64)

    state.observe(
        np.arange(n), hashes, np.zeros(n, np.int64), np.arange(1, n + 1), np.zeros(n, np.int64),
        np.ones(n, bool), counts, sums, np.zeros(n, np.int64), *np.zeros((2, n), bool),
    )  # fmt: skip

    assert counts[:, 0].tolist() == [1, 1, 1, 2]
    assert sums[:, 0].tolist() == [1, 2, 3, 5]


def test_only_the_rows_asked_for_are_observed():
    """The other rows of the columns belong to other partitions."""
    state = card_windows()
    n = 4
    counts, sums = np.full((n, 3), -1, np.int64), np.full((n, 3), -1, np.int64)

    state.observe(
        np.array([1, 3]), hashes_of([1] * n), np.arange(n), np.full(n, 5), np.zeros(n, np.int64),
        np.ones(n, bool), counts, sums, np.zeros(n, np.int64), *np.zeros((2, n), bool),
    )  # fmt: skip

    assert counts[:, 0].tolist() == [-1, 1, -1, 2]
    assert state.payment_count == 2


def test_idle_cards_go_before_the_index_grows():
    """What is older than the longest window and the grace needs no memory."""
    state = card_windows(alert_window=100)
    for round_ in range(20):
        observe(state, [(1_000 * round_ + k, 10_000 * round_, 1) for k in range(1_000)])
        state.settle()

    assert state.card_count <= 2_000
    assert state.payment_count <= 2_000
    assert int(state._header[kernel.BLOCK_COUNT]) <= 3_000


def test_a_card_that_returns_after_it_was_dropped_starts_anew():
    """Nothing that is dropped was still in a window."""
    state = card_windows()
    for round_ in range(5):
        observe(
            state, [(k, 10_000 * round_, 1) for k in range(1_000 * round_, 1_000 * round_ + 1_000)]
        )
        state.settle()

    counts, _, _ = observe(state, [(0, 10_000 * 4, 1)])

    assert counts == [[1, 1, 1]]


def test_an_empty_batch_changes_nothing():
    """No payments, no state."""
    state = card_windows()
    observe(state, [(1, 1, 1)])
    state.settle()
    before = tables(state)

    none = np.empty((0, 3), np.int64)
    state.observe(
        np.empty(0, np.intp), np.empty((0, 2), np.int64), none[:, 0], none[:, 0], none[:, 0],
        np.empty(0, bool), none, none, none[:, 0], *np.empty((2, 0), bool),
    )  # fmt: skip

    assert tables(state) == before


def test_a_fresh_state_has_seen_nothing():
    """Its watermark lies before all times."""
    state = card_windows()

    assert (state.card_count, state.payment_count) == (0, 0)
    assert state.watermark < 0


def test_the_first_alert_of_a_card_in_a_window_opens_and_the_next_does_not():
    """One case for an analyst, however many payments it has."""
    state = card_windows()

    assert open_alerts(state, [1, 1, 2, 1], [0, 99, 50, 100]) == [True, False, True, True]


def test_windows_of_alerts_are_aligned_to_their_length():
    """Multiples since 1970, so that a replay which starts elsewhere finds the same ones."""
    state = card_windows()

    assert open_alerts(state, [1] * 4, [199, 200, 299, 201]) == [True, True, False, False]


def test_an_alert_out_of_order_opens_in_its_own_window():
    """A window left out is still open; one that had its alert stays shut."""
    state = card_windows()

    opened = open_alerts(state, [1] * 6, [500, 300, 399, 599, 100, 100])

    assert opened == [True, True, False, False, True, False]


@pytest.mark.parametrize("windows_apart", [1, 30, 61, 62, 63, 64, 1_000, 2**40])
def test_alerts_of_windows_far_apart_do_not_touch(windows_apart):
    """The later one opens whatever the earlier left behind, and once."""
    state = card_windows()
    time = 100 * windows_apart

    assert open_alerts(state, [1] * 3, [0, time, time]) == [True, True, False]


@pytest.mark.parametrize("windows_back", [1, 30, 60, 61])
def test_a_window_that_had_its_alert_stays_shut_as_time_goes_on(windows_back):
    """As far back as the state remembers windows."""
    state = card_windows()
    first = 100 * 1_000

    opened = open_alerts(state, [1] * 3, [first, first + 100 * windows_back, first])

    assert opened == [True, True, False]


@pytest.mark.parametrize("windows_back", [62, 63, 64, 200])
def test_a_window_further_back_than_the_state_remembers_always_opens(windows_back):
    """An alert too many has the id of the first, and is told apart by it; one too few is lost."""
    state = card_windows()
    late = 100 * (1_000 - windows_back)

    opened = open_alerts(state, [1] * 3, [100 * 1_000, late, late])

    assert opened == [True, True, True]


def test_alerts_and_payments_of_a_card_share_its_row():
    """A card that only ever raised an alert holds no payment."""
    state = card_windows()
    observe(state, [(1, 0, 1)])

    open_alerts(state, [1, 2], [0, 0])

    assert state.card_count == 2
    assert state.payment_count == 1


def test_alerts_for_many_new_cards_grow_the_tables():
    """As payments do."""
    state = card_windows()
    cards = list(range(5_000))

    assert all(open_alerts(state, cards, [0] * 5_000))
    assert not any(open_alerts(state, cards, [1] * 5_000))


def test_whether_an_alert_opens_does_not_depend_on_the_batch_around_it():
    """Idle cards are dropped as the index fills, and that depends on how the log was cut."""

    def opened_after(batch):
        state = card_windows()
        observe(state, [(-1, 0, 1)])
        open_alerts(state, [-1], [0])
        state.settle()
        observe(state, [(-2, 100_000, 1)])
        state.settle()
        late = observe(state, [*batch, (-1, 50, 1)])[2][-1]
        return open_alerts(state, [-1], [50], late=late)

    assert opened_after([]) == opened_after([(k, 100_000, 1) for k in range(1_500)])


def test_a_batch_rolled_back_leaves_no_trace():
    """Watermark, cards, payments and alerts: every word is as it was."""
    state = card_windows()
    observe(state, [(k % 3, 10 * k, k) for k in range(60)])
    open_alerts(state, [0, 1], [50, 60])
    state.settle()
    before = tables(state)

    observe(state, [(k % 5, 600 - 7 * (k % 4), k) for k in range(80)])
    open_alerts(state, [0, 3, 4], [600, 50, 60])
    state.roll_back()

    assert tables(state) == before


def test_a_roll_back_after_the_index_grew_finds_every_card():
    """The log names places in the index before it."""
    state = card_windows()
    observe(state, [(card, 0, 1) for card in range(900)])
    state.settle()
    before = tables(state)

    observe(state, [(card, 1, 1) for card in range(700, 1_000)])
    observe(state, [(card, 1, 1) for card in range(1_000, 4_000)])
    state.roll_back()
    after = tables(state)
    counts, _, _ = observe(state, [(card, 2, 1) for card in range(4_000)])

    assert after == before
    assert [row[0] for row in counts] == [2] * 900 + [1] * 3_100


def test_a_settled_batch_is_not_taken_back():
    """Only what came after the last settle is."""
    state = card_windows()
    observe(state, [(1, 0, 1)])
    state.settle()

    state.roll_back()
    counts, _, _ = observe(state, [(1, 1, 1)])

    assert counts == [[2, 2, 2]]


def test_rolling_back_twice_is_rolling_back_once():
    """The way back is forgotten with the first."""
    state = card_windows()
    observe(state, [(1, 0, 1)])
    state.settle()
    observe(state, [(1, 1, 1)])
    state.roll_back()
    before = tables(state)

    state.roll_back()

    assert tables(state) == before


def test_a_late_payment_that_needs_more_log_than_there_is_gets_it():
    """Thousands of payments may move for one; each of their words is saved first."""
    state = card_windows((10**9,), grace=10**9, exact=10**6 * FULL)
    observe(state, [(1, 10 + k, 1) for k in range(20_000)])
    state.settle()
    before = tables(state)

    counts, _, _ = observe(state, [(1, 5, 1)])
    asked, _, _ = observe(state, [(1, 10 + 20_000, 1)])
    state.roll_back()

    assert counts == [[1]]
    assert asked == [[20_002]]
    assert tables(state) == before


def test_memory_in_use_grows_with_what_is_held():
    """What is kept ready to grow into is not in use."""
    state = card_windows()
    empty = state.nbytes

    observe(state, [(card, 0, 1) for card in range(100)])

    assert empty == 0
    assert state.nbytes == 100 * CARD_BYTES


def test_blocks_given_back_are_not_in_use():
    """They wait for the next payments."""
    state = card_windows((10,), grace=0)
    observe(state, [(1, k, 1) for k in range(3 * FULL)])

    observe(state, [(1, 1_000, 1)])

    assert state.nbytes == CARD_BYTES


@pytest.mark.bad_input("f4")
def test_the_cards_that_paid_longest_ago_leave_a_full_state():
    """An eighth of them at a time, whatever order they came in; the others keep their payments."""
    state = card_windows(grace=50, max_bytes=16 * CARD_BYTES)
    order = [(5 * k) % 17 for k in range(17)]

    observe(state, [(card, 1_000 + card, 1) for card in order])
    evicted = state.settle()
    counts, _, _ = observe(state, [(card, 1_020, 1) for card in range(17)])

    assert evicted == 3
    assert [count[1] for count in counts] == [1] * 3 + [2] * 14


def test_a_state_as_large_as_it_may_be_evicts_nothing():
    """One byte less, and it does."""
    payments = [(card, 1_000 + card, 1) for card in range(8)]
    fitting, full = (card_windows(max_bytes=8 * CARD_BYTES - less) for less in (0, 1))
    for state in (fitting, full):
        observe(state, payments)

    assert (fitting.settle(), full.settle()) == (0, 2)
    assert (fitting.cold_until, full.cold_until) == (kernel.NEVER, 1_001 + WINDOWS[-1])


def test_idle_cards_go_before_any_is_evicted():
    """Nobody misses them, so nothing is cold."""
    state = card_windows(max_bytes=10 * CARD_BYTES)
    observe(state, [(card, 0, 1) for card in range(8)])
    state.settle()

    observe(state, [(card, 1_000, 1) for card in range(10, 18)])

    assert state.settle() == 0
    assert state.card_count == 8
    assert state.cold_until == kernel.NEVER


def test_which_cards_are_evicted_does_not_depend_on_how_the_log_was_cut():
    """As long as the state is full at the same place."""
    log = [(card, 1_000 + (card * 7) % 40, 1) for card in range(40)]

    def held_after(batches):
        state = card_windows(grace=50, max_bytes=40 * CARD_BYTES - 1)
        for batch in batches:
            observe(state, batch)
            state.settle()
        counts, _, _ = observe(state, [(card, 1_040, 1) for card in range(40)])
        return counts, state.cold_until

    assert held_after([log]) == held_after([log[:13], log[13:14], log[14:]])
    assert held_after([log]) == held_after([log[::-1]])


def test_a_card_too_large_for_the_state_is_evicted_too():
    """The limit holds, whatever it is."""
    state = card_windows(max_bytes=1)

    observe(state, [(1, 1_000, 1)])

    assert state.settle() == 1
    assert (state.card_count, state.nbytes) == (0, 0)


def test_a_batch_is_rolled_back_to_the_state_after_an_eviction():
    """What was evicted stays so: it left with a batch that was committed."""
    state = card_windows(max_bytes=20 * CARD_BYTES)
    observe(state, [(card, 1_000 + card, 1) for card in range(30)])
    state.settle()
    before = tables(state)

    observe(state, [(card, 1_040, 1) for card in range(60)])
    state.roll_back()

    assert tables(state) == before


HOT = {"exact": FULL, "pane": 60}
"""Thirteen payments of a card are told apart, and the others are known by the minute."""


def test_a_window_of_a_hot_card_takes_whole_hours_of_its_older_payments():
    """Thirteen of thirty are told apart, from 170 on; one at 0 is in the hour from 0 on."""
    state = card_windows((10, 70, 300), GRACE, **HOT)
    observe(state, [(1, time, 1) for time in range(0, 300, 10)])

    counts, sums, _ = observe(state, [(1, 299, 1), (1, 300, 1), (1, 355, 1)])

    assert counts == [[2, 8, 31], [2, 8, 26], [1, 4, 27]]
    assert sums == counts


@pytest.mark.parametrize(("known", "counts"), [(FULL, [1, 1, 1]), (FULL + 1, [14, 15, 15])])
def test_a_repeat_is_recognised_among_the_payments_that_are_told_apart(known, counts):
    """The first of fourteen is not, be its block folded or not; its hour began at 960."""
    state = card_windows(**HOT)
    log = [(1, 1_000, 7, number) for number in range(1, known + 1)]
    observe(state, log)

    again, _, _ = observe(state, [log[0]])

    assert again == [counts]


@pytest.mark.parametrize(
    ("time", "since"), [(1_100, 0), (1_099, 300), (959, 179), (700, 40), (659, 300), (2_000, 300)]
)
def test_the_last_payment_before_a_late_one_of_a_hot_card_is_known_by_the_hour(time, since):
    """One at 680, one at 800, and thirteen at 1,100: hours begin at 660 and 780."""
    state = card_windows(grace=500, **HOT)
    observe(state, [(1, 680, 1), (1, 800, 1), *[(1, 1_100, 1)] * FULL])

    hashes, found, lasted = hashes_of([1]), np.zeros((1, 3), np.int64), np.zeros(1, np.int64)
    column = np.array([time])
    state.observe(
        np.arange(1), hashes, column, column, 0 * column, column < 0, found, found.copy(), lasted,
        *np.zeros((2, 1), bool),
    )  # fmt: skip

    assert lasted.tolist() == [since]


@pytest.mark.parametrize("begin", [0, 1, 59])
def test_a_late_payment_of_a_hot_card_is_counted_in_its_hour(begin):
    """Earlier than all that are told apart: it enters no block of payments."""
    state = card_windows((300,), 300, **HOT)
    observe(state, [(1, 100 + k, 1) for k in range(3 * FULL + 1)])
    held = state.payment_count

    counts, _, _ = observe(state, [(1, 60 + begin, 1), (1, 150, 1)])

    assert state.payment_count == held + 1
    assert counts[1] == [3 * FULL + 3]


def test_one_payment_folds_a_block_into_many_hours_within_its_share_of_the_log():
    """Each of the thirteen in an hour of its own, and all of them new."""
    state = card_windows((10**6,), 10**6, exact=FULL, pane=1)
    most = 0

    for time in range(20 * FULL):
        observe(state, [(1, time, 1)])
        most = max(most, state._logged)
        state.settle()

    assert 3 * FULL < most <= kernel.UNDO_WORDS


def test_hours_that_no_window_reaches_make_room_for_the_next():
    """A key that stays hot for ever takes no more memory than in its first month."""
    state = card_windows((300,), 60, **HOT)
    sizes = []

    for day in range(10):
        observe(state, [(1, 1_000 * day + k, 1) for k in range(0, 1_000, 3)])
        state.settle()
        sizes.append(state.nbytes)

    assert len(set(sizes[1:])) == 1


def test_a_hot_card_gives_all_back_when_it_is_idle():
    """Its hours with its payments."""
    state = card_windows(**HOT)
    observe(state, [(1, k, 1) for k in range(10 * FULL)])
    state.settle()

    observe(state, [(1, 10_000, 1)])

    assert (state.payment_count, state.nbytes) == (1, CARD_BYTES)


def test_an_evicted_hot_card_gives_its_hours_back():
    """Or they would be lost for ever."""
    state = card_windows(max_bytes=1, **HOT)
    observe(state, [(1, k, 1) for k in range(10 * FULL)])

    assert state.settle() == 1

    assert (state.card_count, state.nbytes) == (0, 0)
    assert kernel.is_sound(*state.tables)


def hot_tables():
    """Return tables of a hot card, and the row of its block of hours."""
    state = card_windows(**HOT)
    observe(state, [(1, k, 1) for k in range(10 * FULL)])
    header, cards, blocks = state.tables
    links = blocks[:: kernel.BLOCK_WORDS]
    [hours] = kernel.HOURS - links[links < kernel.NONE]
    return header, cards, blocks, int(hours)


@pytest.mark.parametrize(
    ("word", "value"),
    [(kernel.OLDER, 10**6), (kernel.OLDER, -2), (kernel.OLDER, 0), (kernel.FIRST, 10**9)],
)
def test_hours_that_lead_astray_are_no_state(word, value):
    """Out of the table, into payments, or into the future."""
    header, cards, blocks, hours = hot_tables()
    assert kernel.is_sound(header, cards, blocks)

    blocks[hours * kernel.BLOCK_WORDS + word] = value

    with pytest.raises(ValueError, match="chain of blocks"):
        card_windows(**HOT).take_over(header, cards, blocks)


def test_a_link_to_hours_beyond_the_table_is_no_state():
    """However far."""
    header, cards, blocks, hours = hot_tables()
    oldest = np.flatnonzero(blocks[:: kernel.BLOCK_WORDS] == kernel.HOURS - hours)[0]

    for link in (kernel.HOURS - 10**6, -(2**63)):
        blocks[oldest * kernel.BLOCK_WORDS] = link
        assert not kernel.is_sound(header, cards, blocks)


def test_the_reference_agrees_on_a_year_of_one_card():
    """The property tests trust the reference; here both are held against counting by hand."""
    state = card_windows()
    reference = ReferenceWindows(WINDOWS, GRACE)
    times = [0, 5, 5, 9, 10, 80, 75, 320, 310, 299, 1_000, 979, 980]

    counts, _, late = observe(state, [(1, time, 1) for time in times])

    by_hand = [1, 2, 3, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [row[0] for row in counts] == by_hand
    assert [reference.observe(1, time, 1)[0][0] for time in times] == by_hand
    assert late == [False] * 9 + [True, False, True, False]
