"""The payments that the tables of one key hold, as columns."""

import numba

from consumer.core.windows_kernel import (
    BEFORE,
    BLOCK_WORDS,
    CARD_COUNT,
    CARD_WORDS,
    ENTRIES,
    ENTRY_WORDS,
    FILL,
    FIRST,
    NEWEST,
    OLDER,
    STAMP,
    TOTAL,
)


@numba.njit(cache=True, nogil=True)
def list_payments(header, cards, blocks, least_stamp, rows, stamps, amounts):
    """
    Fill int64[n] rows, stamps and amounts with the payments from `least_stamp` on, newest first
    within each row. Returns how many there are, filled in or not.
    """
    found = 0
    for row in range(header[CARD_COUNT]):
        card = row * CARD_WORDS
        block = cards[card + NEWEST]
        fill = cards[card + FILL]
        after = cards[card + TOTAL]
        while block >= 0:
            for at in range(fill - 1, -1, -1):
                entry = block * BLOCK_WORDS + FIRST + at * ENTRY_WORDS
                before = blocks[entry + BEFORE]
                if blocks[entry + STAMP] >= least_stamp:
                    if found < rows.shape[0]:
                        rows[found] = row
                        stamps[found] = blocks[entry + STAMP]
                        amounts[found] = after - before
                    found += 1
                after = before
            block = blocks[block * BLOCK_WORDS + OLDER]
            fill = ENTRIES
    return found
