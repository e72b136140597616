from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core import windows_kernel as kernel
from consumer.core.windows import CardWindows
from tests.property.references import ReferenceWindows

WINDOWS = (10, 60, 300)
GRACE = 40
ALERT_WINDOW = 50
LARGE = 10**15
IN_TIME = np.zeros(100, np.bool_)

steps = st.one_of(st.integers(-60, 30), st.integers(0, 3), st.sampled_from([0, 100, 400, -400]))
amounts = st.one_of(st.integers(-1_000, 1_000), st.sampled_from([LARGE, -LARGE]))
few_cards = st.integers(0, 2)
fingerprints = st.sampled_from([kernel.NO_FINGERPRINT, 1, 2, kernel.FINGERPRINTS])


@st.composite
def payments(draw, max_size=120):
    """
    Return (card, time, amount, fingerprint, enters), in the order of a log whose time mostly goes
    forward; now and then one comes again, as it was or of another kind.
    """
    log, now = [], 10_000
    step = st.tuples(steps, few_cards, amounts, fingerprints, st.integers(0, 9), st.integers(0, 60))
    for passed, card, amount, fingerprint, leaves_out, again in draw(
        st.lists(step, min_size=1, max_size=max_size)
    ):
        enters = leaves_out > 0
        if again > 30 and log:
            *first, entered = log[max(0, len(log) - (again - 30))]
            log.append((*first, entered and enters))
            continue
        now = max(now, now + passed)
        log.append((card, now + min(passed, 0), amount, fingerprint, enters))
    return log


@st.composite
def cut(draw, log):
    """Return the log in batches."""
    bounds = draw(st.lists(st.integers(0, len(log)), max_size=6).map(sorted))
    return [log[a:b] for a, b in zip([0, *bounds], [*bounds, len(log)], strict=True)]


HOT = {"exact": kernel.ENTRIES, "pane": 16}
"""Of a card's payments the last 13 are told apart; an hour is shorter than the grace."""
TELLS = {"distinct_windows": 2}
"""Of each payment a word of two parts is kept; in 10 and 60 is told how many are distinct."""
hot_or_not = pytest.mark.parametrize(
    "hot", [{}, HOT, TELLS, HOT | TELLS], ids=["plain", "hot", "words", "hot-words"]
)
words_or_not = st.sampled_from([{}, TELLS])
MASKS = np.array([-(2**16), 2**16 - 1])


def fresh(max_bytes=0, distinct_windows=0, **hot):
    masks = MASKS if distinct_windows else None
    return CardWindows(WINDOWS, GRACE, ALERT_WINDOW, max_bytes, masks=masks, **hot)


def parts_of(payment):
    """Return the parts of the word of a payment: few different ones, and now and then none."""
    _, _, amount, fingerprint, _ = payment
    return (amount % 5 - 2, fingerprint % 3)


def hashes_of(cards):
    """Return hashes that share their places in the index, so that it has to probe."""
    cards = np.array(cards, np.int64)
    return np.stack([cards // 2, cards], axis=1)


def observe(state, batch):
    """Return (counts, sums, since, late, hot, distinct) of each payment of the batch."""
    n = len(batch)
    if n == 0:
        return []
    cards, times, amounts_, ids, enters = zip(*batch, strict=True)
    counts, sums = np.empty((n, len(WINDOWS)), np.int64), np.empty((n, len(WINDOWS)), np.int64)
    since, late, hot = np.empty(n, np.int64), np.empty(n, np.bool_), np.zeros(n, np.bool_)
    keeps_words = state._masks is not None
    distinct = np.empty((n, 2, 2) if keeps_words else (n, 0), np.int64)
    state.observe(
        np.arange(n), hashes_of(cards), np.array(times, np.int64), np.array(amounts_, np.int64),
        np.array(ids, np.int64), np.array(enters, np.bool_), counts, sums, since, late, hot,
        np.array([part << 16 | other for part, other in map(parts_of, batch)]), distinct,
    )  # fmt: skip
    columns = counts, sums, since, late, hot, distinct
    return list(zip(*(column.tolist() for column in columns), strict=True))


def expected(log, **hot):
    reference = ReferenceWindows(WINDOWS, GRACE, **hot)
    found = []
    for card, time, amount, event, enters in log:
        parts = parts_of((card, time, amount, event, enters)) if hot.keys() & TELLS else ()
        found.append(
            reference.observe(card, time, amount, event or None, enters=enters, parts=parts)
        )
    return found


def words(state):
    """Return every word of the state that means something: of blocks, those on a chain."""
    cards = state._cards[: state.card_count * kernel.CARD_WORDS].reshape(-1, kernel.CARD_WORDS)
    blocks = state._blocks.reshape(-1, kernel.BLOCK_WORDS)
    held = []
    for card in cards:
        block, fill = card[kernel.NEWEST], card[kernel.FILL]
        while block != kernel.NONE:
            entries = blocks[block, kernel.FIRST : kernel.FIRST + fill * kernel.ENTRY_WORDS]
            more = state._words[block * kernel.ENTRIES :][: fill if len(state._words) else 0]
            held.append((int(block), entries.tolist(), more.tolist()))
            block, fill = blocks[block, kernel.OLDER], kernel.ENTRIES
            if block < kernel.NONE:
                break
        hours = kernel.HOURS - block
        while hours != kernel.NONE:
            held.append((int(hours), blocks[hours].tolist()))
            hours = blocks[hours, kernel.OLDER]
    free, block = [], state._header[kernel.FREE_BLOCK]
    while block != kernel.NONE:
        free.append(int(block))
        block = blocks[block, kernel.OLDER]
    return state._header.tobytes(), cards.tobytes(), held, free


@hot_or_not
@given(payments().flatmap(lambda log: st.tuples(st.just(log), cut(log))))
def test_windows_hold_what_a_list_of_all_payments_says(hot, case):
    """
    Any order, ties, late ones, repeats, gaps, any sign; and wherever the log is cut into batches.
    """
    log, batches = case
    state = fresh(**hot)

    found = []
    for batch in batches:
        found += observe(state, batch)
        state.settle()

    assert found == expected(log, **hot)


@given(
    st.lists(st.tuples(st.integers(0, 30), few_cards, amounts), max_size=80),
    st.permutations(range(80)),
)
def test_a_log_in_order_that_comes_again_is_scored_as_before(steps, order):
    """Whatever comes between a payment and its repeat, within the grace: equal, bit for bit."""
    log, now = [], 10_000
    for number, (passed, card, amount) in enumerate(steps, 1):
        now += passed
        log.append((card, now, amount, number, True))
    again = [k for k in order if k < len(log) and log[k][1] >= now - GRACE]
    state = fresh()

    found = observe(state, log)
    held = words(state)

    assert observe(state, [log[k] for k in again]) == [found[k] for k in again]
    assert words(state) == held


@hot_or_not
@given(payments(), payments(max_size=60), payments(max_size=40), st.data())
def test_a_roll_back_restores_every_word(hot, before, lost, after, data):
    """And what follows is as if the batch had never been."""
    state, twin = fresh(**hot), fresh(**hot)
    for each in (state, twin):
        observe(each, before)
        each.settle()
    saved = words(state)

    for batch in data.draw(cut(lost)):
        observe(state, batch)
        flagged = data.draw(st.lists(st.sampled_from(lost), max_size=5))
        if flagged:
            cards, times = [p[0] for p in flagged], [p[1] for p in flagged]
            state.open_alerts(hashes_of(cards), np.array(times, np.int64), IN_TIME[: len(cards)])
    state.roll_back()

    assert words(state) == saved
    assert observe(state, after) == observe(twin, after)
    assert words(state) == words(twin)


@hot_or_not
@given(payments(), payments(max_size=40))
def test_the_last_windows_and_grace_of_a_log_are_all_of_it(hot, before, after):
    """What is older than the longest window and the grace can be forgotten, unread."""
    whole, part = fresh(**hot), fresh(**hot)
    observe(whole, before)
    horizon = whole.watermark - WINDOWS[-1] - GRACE

    observe(part, [payment for payment in before if payment[1] > horizon])

    assert observe(part, after) == observe(whole, after)


@hot_or_not
@given(st.integers(0, 2**32), st.integers(0, 8_000), st.integers(1, 60))
def test_a_state_with_a_limit_is_exact_or_says_that_it_is_cold(hot, seed, max_bytes, cards):
    """Whatever was evicted, and for every payment: unlimited state knows no better."""
    rng = np.random.default_rng(seed)
    n = 400
    times = 10_000 + np.cumsum(rng.integers(0, 6, n)) - rng.integers(0, GRACE + 9, n)
    columns = rng.integers(0, cards, n), times, rng.integers(-9, 99, n), rng.integers(0, 2_048, n)
    log = list(zip(*(column.tolist() for column in columns), [True] * n, strict=True))
    state, unlimited = fresh(max_bytes or 1, **hot), fresh(**hot)
    evicted = 0

    for begin in range(0, n, 20):
        batch = log[begin : begin + 20]
        observe(state, batch[::-1])
        state.roll_back()
        found, exact = observe(state, batch), observe(unlimited, batch)
        for k, payment in enumerate(batch):
            assert found[k] == exact[k] or payment[1] < state.cold_until
        evicted += state.settle()
        unlimited.settle()
        assert state.nbytes <= (max_bytes or 1)

    assert (evicted > 0) == (state.cold_until > kernel.NEVER)


@given(st.lists(st.tuples(few_cards, st.integers(0, 60 * ALERT_WINDOW)), min_size=1, max_size=60))
def test_one_alert_opens_for_each_card_and_window(flagged):
    """The first of them in the log, in whatever order their times come."""
    state, reference = fresh(), ReferenceWindows(WINDOWS, GRACE, ALERT_WINDOW)
    cards, times = zip(*flagged, strict=True)

    opened = state.open_alerts(hashes_of(cards), np.array(times, np.int64), IN_TIME[: len(cards)])

    assert opened.tolist() == [reference.opens_alert(*each) for each in flagged]


@given(
    words_or_not, st.integers(0, 2**32), st.integers(2_000, 6_000),
    st.sampled_from([50, 700, 5_000, 100_000]),
)  # fmt: skip
def test_many_cards_are_told_apart_however_the_tables_grow(tells, seed, cards, span):
    """Tables and index grow in the middle of batches, and idle cards go before they do."""
    rng = np.random.default_rng(seed)
    n = 9_000
    times = np.sort(rng.integers(0, span, n)) + rng.integers(-GRACE, GRACE, n)
    log = list(
        zip(
            rng.integers(0, cards, n).tolist(), times.tolist(),
            rng.integers(-9, 1_000, n).tolist(), rng.integers(0, 2_048, n).tolist(),
            (rng.random(n) < 0.9).tolist(), strict=True,
        )
    )  # fmt: skip
    bounds = [0, *sorted(rng.integers(0, n, 8).tolist()), n]
    state = fresh(**tells)

    found = []
    for begin, end in pairwise(bounds):
        observe(state, log[begin:end])
        state.roll_back()
        found += observe(state, log[begin:end])
        state.settle()

    assert found == expected(log, **tells)
    assert state.card_count <= cards


def busy_log(seed, burst, gap, n=240):
    """Return payments of two cards, in bursts, a fifth of them out of order."""
    rng = np.random.default_rng(seed)
    gaps = np.where(np.arange(n) % burst == 0, gap * 10, rng.integers(0, 2, n))
    times = 10_000 + np.cumsum(gaps) - rng.integers(0, GRACE + 9, n) * (rng.random(n) < 0.2)
    columns = rng.integers(0, 2, n), times, rng.integers(-9, 100, n), rng.integers(0, 2_048, n)
    return list(zip(*(column.tolist() for column in columns), [True] * n, strict=True))


busy = given(st.integers(0, 2**32), st.integers(1, 100), st.integers(1, 50))


@given(words_or_not, st.integers(0, 2**32), st.integers(1, 100), st.integers(1, 50))
def test_busy_cards_are_measured_across_many_blocks(tells, seed, burst, gap):
    """Hundreds of payments of two cards: blocks fill, empty, and are used again."""
    state, log = fresh(**tells), busy_log(seed, burst, gap, 600)

    found = observe(state, log)

    assert found == expected(log, **tells)
    if gap * 10 > WINDOWS[-1] + GRACE and burst < 30:
        assert int(state._header[kernel.BLOCK_COUNT]) <= 20


@pytest.mark.parametrize("words_too", [{}, TELLS], ids=["plain", "words"])
@pytest.mark.parametrize("blocks", [1, 3])
@busy
def test_hot_cards_are_measured_by_the_hour_whatever_becomes_of_batches(
    blocks, words_too, seed, burst, gap
):
    """Batches end anywhere, are taken back, and the state goes on from a copy of its tables."""
    hot = {"exact": blocks * kernel.ENTRIES, "pane": 16} | words_too
    state, log = fresh(**hot), busy_log(seed, burst, gap)
    bounds = np.random.default_rng(seed).integers(0, len(log), 6)

    found = []
    for begin, end in pairwise([0, *sorted(bounds.tolist()), len(log)]):
        observe(state, log[begin:end])
        state.roll_back()
        found += observe(state, log[begin:end])
        state.settle()
        state = copy_of(state, **hot)

    assert found == expected(log, **hot)
    kept = WINDOWS[-1] + GRACE
    most = 2 * (blocks + 2 + (kept // 16 + 2) // 8 + 1)  # of payments, and of hours, eight in each
    words_a_block = kernel.BLOCK_WORDS + (kernel.ENTRIES if words_too else 0)
    assert state.nbytes <= 2 * (32 + 8 * kernel.CARD_WORDS) + most * 8 * words_a_block


@busy
def test_an_hour_at_its_edge_is_all_that_a_hot_card_may_differ_by(seed, burst, gap):
    """It leaves out a part of the hour where the window begins; a late one adds all of its own."""
    hot = {"exact": kernel.ENTRIES, "pane": 16}
    log = [(*payment[:2], 1, 0, True) for payment in busy_log(seed, burst, gap)]

    found = observe(fresh(**hot), log)

    entered, watermark = [], 0
    for (card, time, *_), (counts, _, _, late, is_hot, _) in zip(log, found, strict=True):
        watermark = max(watermark, time)
        mine = [t for c, t in entered if c == card]
        for window, count in zip(WINDOWS, counts, strict=True):
            start = max(time - window, watermark - WINDOWS[-1] - GRACE)
            at_least = sum(start + 16 <= t <= time for t in mine)
            at_most = sum(start < t < time + 16 for t in mine)
            assert at_least <= count - 1 <= at_most
            if not is_hot:
                assert count - 1 == sum(start < t <= time for t in mine)
        if not late:
            entered.append((card, time))


@busy
def test_a_state_that_holds_more_goes_on_as_one_that_never_did(seed, burst, gap):
    """A snapshot from before hot cards were told by the hour has all of their payments."""
    log = busy_log(seed, burst, gap)
    before = fresh()
    observe(before, log[:120])
    before.settle()

    state = copy_of(before, **HOT)

    assert observe(state, log[120:]) == expected(log, **HOT)[120:]


def copy_of(state, **hot):
    """Return a state in copies of the tables, as if they came from a snapshot."""
    copied = fresh(**hot)
    copied.take_over(*(table.copy() for table in state.tables))
    return copied
