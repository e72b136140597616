"""The payments that the tables of one key hold, as columns."""

import numba

from consumer.core.windows_kernel import (
    BEFORE,
    BEGIN,
    BLOCK_WORDS,
    CARD_COUNT,
    CARD_WORDS,
    COUNT,
    ENTRIES,
    ENTRY_WORDS,
    FILL,
    FINGERPRINT_BITS,
    FIRST,
    HOUR_WORDS,
    HOURS,
    HOURS_END,
    NEWEST,
    NONE,
    OLDER,
    STAMP,
    SUM,
    TOTAL,
)


@numba.njit(cache=True, nogil=True)
def list_payments(header, cards, blocks, words, exact, least_stamp, rows, stamps, amounts, kept):
    """
    Fill int64[n] rows, stamps and amounts, and kept with their words where there are any, with the
    payments from `least_stamp` on that are told apart, `exact` of each row at most, newest first.
    Returns how many there are, filled in or not.
    """
    found = 0
    for row in range(header[CARD_COUNT]):
        card = row * CARD_WORDS
        block = cards[card + NEWEST]
        fill = cards[card + FILL]
        after = cards[card + TOTAL]
        rank = 0
        while block >= 0:
            for at in range(fill - 1, -1, -1):
                entry = block * BLOCK_WORDS + FIRST + at * ENTRY_WORDS
                before = blocks[entry + BEFORE]
                rank += 1
                if rank <= exact and blocks[entry + STAMP] >= least_stamp:
                    if found < rows.shape[0]:
                        rows[found] = row
                        stamps[found] = blocks[entry + STAMP]
                        amounts[found] = after - before
                        if words.shape[0] > 0:
                            kept[found] = words[block * ENTRIES + at]
                    found += 1
                after = before
            block = blocks[block * BLOCK_WORDS + OLDER]
            fill = ENTRIES
    return found


@numba.njit(cache=True, nogil=True)
def list_hours(header, cards, blocks, exact, pane, after_time, rows, begins, counts, sums):
    """
    Fill int64[n] rows, begins, counts and sums with the hours after `after_time` that the other
    payments were made in; an hour may be there in parts. Returns how many there are.
    """
    found = 0
    for row in range(header[CARD_COUNT]):
        card = row * CARD_WORDS
        block = cards[card + NEWEST]
        fill = cards[card + FILL]
        after = cards[card + TOTAL]
        rank = 0
        while block >= 0:
            for at in range(fill - 1, -1, -1):
                entry = block * BLOCK_WORDS + FIRST + at * ENTRY_WORDS
                before = blocks[entry + BEFORE]
                rank += 1
                time = blocks[entry + STAMP] >> FINGERPRINT_BITS
                if rank > exact and time - time % pane > after_time:
                    if found < rows.shape[0]:
                        rows[found], begins[found] = row, time - time % pane
                        counts[found], sums[found] = 1, after - before
                    found += 1
                after = before
            block = blocks[block * BLOCK_WORDS + OLDER]
            fill = ENTRIES
        hours = HOURS - block
        while hours != NONE:
            for at in range(
                hours * BLOCK_WORDS + FIRST, hours * BLOCK_WORDS + HOURS_END, HOUR_WORDS
            ):
                if blocks[at + BEGIN] > after_time:
                    if found < rows.shape[0]:
                        rows[found], begins[found] = row, blocks[at + BEGIN]
                        counts[found], sums[found] = blocks[at + COUNT], blocks[at + SUM]
                    found += 1
            hours = blocks[hours * BLOCK_WORDS + OLDER]
    return found
