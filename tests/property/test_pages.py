"""A copy made page by page while the tables change is, once it is whole, the tables."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from consumer.core import windows_kernel as kernel
from consumer.core.pages import Pages
from consumer.core.pages_kernel import PAGE_WORDS
from consumer.core.windows import spacious_tables
from tests.property.test_windows import (
    IN_TIME,
    TELLS,
    cut,
    fresh,
    hashes_of,
    observe,
    payments,
    words,
    words_or_not,
)

_WORDS = 200_000  # more than any state of these tests has


def copy_some(windows, changed, targets):
    """Copy what is missing, as the thread does, with the tables as they lie there."""
    _, *tables = windows.tables
    for table, flags, target in zip(tables, changed.take(), targets, strict=True):
        Pages(table, flags, gathered=False).copy_to(target)


def targets_for(windows):
    """Return room for a copy of each table."""
    return [np.zeros(_WORDS, np.int64) for _ in windows.used]


def grown(header, tables, used):
    """Return copies of the tables as far as they are used, with room behind."""
    spacious = spacious_tables(used)
    for space, table, words_used in zip(spacious, tables, used, strict=True):
        space[:words_used] = table[:words_used]
    return header.copy(), *spacious


def many(batch, spread):
    """Return the batch with its cards spread over many pages."""
    return [(card + spread * k, *rest) for k, (card, *rest) in enumerate(batch)]


@given(words_or_not, payments(), payments(max_size=60), st.integers(0, 40), st.data())
def test_a_copy_followed_over_batches_and_roll_backs_is_the_state(
    tells, before, after, spread, data
):
    """Pages are taken at any time, in the middle of a batch too; the last are gathered."""
    state, twin = fresh(**tells), fresh(**tells)
    observe(state, many(before, spread))
    state.settle()
    changed = state.follow()
    targets = targets_for(state)

    for batch in data.draw(cut(after)):
        observe(state, many(batch, spread))
        if data.draw(st.booleans()):
            copy_some(state, changed, targets)
        state.settle() if data.draw(st.booleans()) else state.roll_back()
        if data.draw(st.booleans()):
            copy_some(state, changed, targets)
    _, *tables = state.tables
    for table, flags, target in zip(tables, changed.take(), targets, strict=True):
        Pages(table, flags, gathered=False).gather().copy_to(target)

    twin.take_over(*grown(state.tables[0], targets, state.used))
    assert words(twin) == words(state)
    assert observe(twin, before) == observe(state, before)


@pytest.mark.parametrize("tells", [{}, TELLS], ids=["plain", "words"])
def test_every_word_that_a_payment_or_an_alert_changes_is_on_a_page_that_is_noted(tells):
    """One at a time, of cards whose rows and blocks begin anywhere on a page."""
    state = fresh(**tells)
    observe(state, [(k, 10_000, 5, k, True) for k in range(70)])
    state.settle()
    changed = state.follow()
    changed.take()

    for k in range(400):
        before = [table.copy() for table in state.tables[1:]]
        card, time = k % 70, 10_000 + k // 3
        if k % 4:
            observe(state, [(card, time, 5, k, True)])
        else:
            state.open_alerts(hashes_of([card]), np.array([time]), IN_TIME[:1])
        state.settle()
        for was, now, noted in zip(before, state.tables[1:], changed.take(), strict=True):
            pages = np.flatnonzero(was != now[: len(was)]) // PAGE_WORDS
            assert noted[pages].all()


@pytest.mark.parametrize("tells", [{}, TELLS], ids=["plain", "words"])
def test_dropping_idle_cards_moves_rows_and_so_changes_all(tells):
    """Rows move up without an entry in the undo log; what makes the room for it adds nothing."""
    state, twin = fresh(**tells), fresh(**tells)
    observe(state, [(k, 10_000, 5, k, True) for k in range(450)])
    observe(state, [(k, 20_000, 5, k, True) for k in range(450, 900)])
    state.settle()
    changed = state.follow()
    targets = targets_for(state)
    copy_some(state, changed, targets)

    observe(state, [(k, 20_000, 7, k, False) for k in range(1_000)])
    state.settle()
    copy_some(state, changed, targets)

    assert state.card_count == 450
    twin.take_over(*grown(state.tables[0], targets, state.used))
    assert words(twin) == words(state)


@given(payments(), st.data())
def test_tables_that_lead_out_of_themselves_are_refused(log, data):
    """A kernel would follow them out of the table, so nobody may take them over."""
    state = fresh()
    observe(state, log)
    state.settle()
    header, cards, blocks = (table.copy() for table in state.tables)
    cards, blocks = (t[:n] for t, n in zip((cards, blocks), state.used, strict=True))
    table = data.draw(st.sampled_from([header, cards, blocks]))
    chains = {
        id(header): [kernel.FREE_BLOCK, kernel.FREE_COUNT, kernel.BLOCK_COUNT, kernel.CARD_COUNT],
        id(cards): range(kernel.NEWEST, len(cards), kernel.CARD_WORDS),
        id(blocks): range(kernel.OLDER, len(blocks), kernel.BLOCK_WORDS),
    }[id(table)]
    assume(len(chains) > 0)
    at = data.draw(st.sampled_from(list(chains)))
    table[at] = data.draw(st.sampled_from([len(blocks) + 1, -2, 2**40, -(2**40)]))

    with pytest.raises(ValueError, match="table"):
        fresh().take_over(header, cards, blocks)


def test_a_circle_of_blocks_is_refused():
    """A kernel would never come out of it."""
    state = fresh()
    observe(state, [(1, 10_000, 5, k, True) for k in range(40)])
    state.settle()
    header, cards, blocks = (table.copy() for table in state.tables)
    cards, blocks = (t[:n] for t, n in zip((cards, blocks), state.used, strict=True))
    blocks[kernel.OLDER] = 0

    with pytest.raises(ValueError, match="circle"):
        fresh().take_over(header, cards, blocks)


@pytest.mark.parametrize("fault", ["too few tables", "too many tables", "a row too few"])
def test_words_that_are_not_as_many_as_the_blocks_are_refused(fault):
    """A kernel finds the word of a payment by where the payment is, and asks no more."""
    state = fresh(**TELLS)
    observe(state, [(1, 10_000, 5, k, True) for k in range(40)])
    state.settle()
    header, cards, blocks, kept = grown(state.tables[0], state.tables[1:], state.used)
    tables = {
        "too few tables": (cards, blocks),
        "too many tables": (cards, blocks, kept, kept),
        "a row too few": (cards, blocks, kept[: -kernel.ENTRIES]),
    }[fault]

    with pytest.raises(ValueError, match="table"):
        fresh(**TELLS).take_over(header, *tables)


def test_the_index_follows_from_the_cards():
    """Cards are found again after a take-over, however many there are."""
    state, twin = fresh(), fresh()
    log = [(k, 10_000, k, k % 2_000, True) for k in range(3_000)]
    observe(state, log)
    state.settle()

    twin.take_over(*grown(state.tables[0], state.tables[1:], state.used))

    assert twin.card_count == 3_000
    assert observe(twin, log) == observe(state, log)
