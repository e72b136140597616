"""
Payments of each card in exact sliding windows (t - W, t], for one partition of the input topic.

All state is words of int64 in five tables, and every change of a word is written to an undo log
first, so that a batch can be taken back bit for bit.

- `header`: the words of the partition as a whole.
- `index`: a hash table with linear probing, from a card's hash to its row. A slot holds the row
  with the upper half of the second hash, so that probing does not visit the rows of others.
- `cards`: a row for each card. Its payments hang on NEWEST, a chain of blocks towards the past.
- `blocks`: OLDER, then the stamp and the running total of up to ENTRIES payments. Only the newest
  block of a card may be part full. The total of an entry is the sum of all amounts before it, so a
  window costs one look at each block and a scan of the one where it begins.
- `words`: a row for each block, and in it a word for each entry: what else is kept of a payment, as
  a feature set asks (words.py). It has no rows where the set asks for nothing.

What a set does not ask for comes as None, and numba compiles the kernel without it.

A stamp is a payment's time with a fingerprint of its event_id in the lowest bits. Stamps are in the
order of their times; of equal times, in the order of the log.

Of a card with more payments only the newest `exact` count one by one. Those before them are folded,
a block at a time: counted by the hour they were made in, and let go. Blocks of hours hang behind
the oldest block of payments. Until its block is full, a payment that is due lies as it was, but is
measured as if it were folded: so what is measured does not depend on where blocks begin.
"""

from typing import Final

import numba
import numpy as np

from consumer.core.prefetch_kernel import prefetch

# Tables, as the undo log names them.
HEADER: Final = 0
INDEX: Final = 1
CARDS: Final = 2
BLOCKS: Final = 3
WORDS: Final = 4

# Words of the header.
WATERMARK: Final = 0  # latest event time so far, microseconds
CARD_COUNT: Final = 1
BLOCK_COUNT: Final = 2
FREE_BLOCK: Final = 3  # first of the chain of blocks given back
FREE_COUNT: Final = 4
ENTRY_COUNT: Final = 5
COLD_UNTIL: Final = 6  # event time before which a window may reach back to what was evicted
HEADER_WORDS: Final = 7

# Words of a card.
HASH_A: Final = 0
HASH_B: Final = 1
NEWEST: Final = 2
FILL: Final = 3  # payments in the newest block
TOTAL: Final = 4  # sum of all amounts ever; it may wrap, differences stay right
ALERT_WINDOW: Final = 5  # number of the latest window with an alert
ALERT_MASK: Final = 6  # bit k: an alert in that window less k
CARD_WORDS: Final = 7

# Words of a block.
OLDER: Final = 0
ENTRIES: Final = 13
FIRST: Final = 1
BLOCK_WORDS: Final = FIRST + 2 * ENTRIES

# Words of an entry.
STAMP: Final = 0
BEFORE: Final = 1
ENTRY_WORDS: Final = 2

# Words of an hour. A block of hours has room for eight behind OLDER, in no order.
BEGIN: Final = 0  # microseconds; one that no window reaches any more is free
COUNT: Final = 1
SUM: Final = 2
HOUR_WORDS: Final = 3
HOURS_END: Final = FIRST + (BLOCK_WORDS - FIRST) // HOUR_WORDS * HOUR_WORDS

HOURS: Final = -2
"""OLDER of a card's oldest block of payments is HOURS less the row of its first block of hours."""

LINE_WORDS: Final = 8  # of a line of the cache
AHEAD: Final = 128  # payments whose state is fetched together: some 100 kB

FINGERPRINT_BITS: Final = 11
FINGERPRINTS: Final = (1 << FINGERPRINT_BITS) - 1
NO_FINGERPRINT: Final = 0  # of a payment without an id: it repeats no other
LATEST_TIME: Final = 2**52 - 1  # 2112-09-17, microseconds: later ones leave no room beside them
EARLIEST_TIME: Final = -(2**52)

ALERTS_KEPT: Final = 62  # windows that a card remembers its alerts of
ALERT_BITS: Final = (1 << ALERTS_KEPT) - 1

SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
SPREAD_SHIFT: Final = np.uint64(32)

# Halves of a slot of the index.
ROW: Final = (1 << 32) - 1
TAG: Final = -(1 << 32)

NONE: Final = -1
NEVER: Final = -(2**62)
TABLE_SHIFT: Final = 60
UNDO_WORDS: Final = 128
"""The most that one payment in time order can write; a late one may need more, and asks for it."""
MOVED_WORDS: Final = 3
"""What it writes for each payment that it moves up."""
BLOCKS_AT_ONCE: Final = 3
"""The most that one payment can begin: one of payments, two of hours."""


@numba.njit(cache=True)
def _put(table, words, at, value, undo, logged):
    """Set a word, after its old value is safe. Returns the new length of the log."""
    undo[logged, 0] = (table << TABLE_SHIFT) | at
    undo[logged, 1] = words[at]
    words[at] = value
    return logged + 1


@numba.njit(cache=True, nogil=True)
def take_back(header, index, cards, blocks, words, undo, logged):
    """Undo the log's changes, newest first."""
    address = (1 << TABLE_SHIFT) - 1
    for k in range(logged - 1, -1, -1):
        at = undo[k, 0] & address
        table = undo[k, 0] >> TABLE_SHIFT
        if table == HEADER:
            header[at] = undo[k, 1]
        elif table == INDEX:
            index[at] = undo[k, 1]
        elif table == CARDS:
            cards[at] = undo[k, 1]
        elif table == BLOCKS:
            blocks[at] = undo[k, 1]
        else:
            words[at] = undo[k, 1]


@numba.njit(cache=True)
def _slot_of(index, cards, hash_a, hash_b):
    """Return where the card is in the index, or the empty slot where it belongs."""
    mask = index.shape[0] - 1
    slot = hash_a & mask
    while index[slot] != NONE:
        if (index[slot] ^ hash_b) & TAG == 0:
            card = (index[slot] & ROW) * CARD_WORDS
            if cards[card + HASH_A] == hash_a and cards[card + HASH_B] == hash_b:
                break
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _likely_card(index, hash_a, hash_b):
    """Return where the card probably is, without a look at it; NONE where it is not."""
    mask = index.shape[0] - 1
    slot = hash_a & mask
    while index[slot] != NONE:
        if (index[slot] ^ hash_b) & TAG == 0:
            return (index[slot] & ROW) * CARD_WORDS
        slot = (slot + 1) & mask
    return np.int64(NONE)


@numba.njit(cache=True, nogil=True)
def rebuild_index(index, cards, count):
    """Enter rows 0 to count - 1 into an empty index."""
    for row in range(count):
        card = row * CARD_WORDS
        slot = _slot_of(index, cards, cards[card + HASH_A], cards[card + HASH_B])
        index[slot] = cards[card + HASH_B] & TAG | row


@numba.njit(cache=True)
def _at(block, k):
    """Return where entry k of the block is."""
    return block + FIRST + k * ENTRY_WORDS


@numba.njit(cache=True)
def _word_at(block, k):
    """Return where the word of entry k of the block is, in the table of words."""
    return block // BLOCK_WORDS * ENTRIES + k


@numba.njit(cache=True)
def _stamp(blocks, block, k):
    return blocks[_at(block, k) + STAMP]


@numba.njit(cache=True)
def _before(blocks, block, k):
    return blocks[_at(block, k) + BEFORE]


@numba.njit(cache=True)
def _last_stamp(time):
    """Return the highest stamp of this time: those above it are later."""
    return time << FINGERPRINT_BITS | FINGERPRINTS


@numba.njit(cache=True)
def _find(blocks, block, fill, end_total, stamp, amount):
    """
    Look for a payment among those of its time, the newest of which ends at the place given.

    Returns (steps, block, fill, end_total): the place right before it and how many steps lead
    there, or 0 and the place as it was given.
    """
    at_block, at, total = block, fill, end_total
    before_time = _last_stamp((stamp >> FINGERPRINT_BITS) - 1)
    steps = 0
    while at_block >= 0 and _stamp(blocks, at_block, at - 1) > before_time:
        at -= 1
        steps += 1
        found = _stamp(blocks, at_block, at) == stamp
        found = found and total - _before(blocks, at_block, at) == amount
        total = _before(blocks, at_block, at)
        if at == 0:
            at_block = blocks[at_block + OLDER] * BLOCK_WORDS
            at = ENTRIES
        if found:
            return steps, at_block, at, total
    return 0, block, fill, end_total


@numba.njit(cache=True)
def _measure(
    cards, blocks, card, stamp, amount, may_repeat, oldest_kept, windows, exact, pane, counts, sums,
    since, told, hot, i,
):  # fmt: skip
    """
    Count and sum the payments of the card in (time - W, time] for each W, shortest first; where it
    is asked, say how long before this one the last of them was, and count what is distinct.

    A payment at or before `oldest_kept` does not exist any more, wherever it still lies. One that
    is there already is measured over those before it. Returns how many payments stand after the
    place of this one, and whether it is such a repeat.
    """
    time = stamp >> FINGERPRINT_BITS
    block = cards[card + NEWEST] * BLOCK_WORDS
    fill = cards[card + FILL]
    end_total = cards[card + TOTAL]
    later = 0
    while block >= 0 and _stamp(blocks, block, fill - 1) > _last_stamp(time):
        later += 1
        fill -= 1
        end_total = _before(blocks, block, fill)
        if fill == 0:
            block = blocks[block + OLDER] * BLOCK_WORDS
            fill = ENTRIES
    repeated = False
    if may_repeat:
        steps, at_block, at, total = _find(blocks, block, fill, end_total, stamp, amount)
        if steps > 0 and later + steps <= exact:  # one that is folded is not known any more
            repeated, later, block, fill, end_total = True, later + steps, at_block, at, total
    if since is not None:
        last = NEVER if block < 0 else _stamp(blocks, block, fill - 1) >> FINGERPRINT_BITS
        if last > oldest_kept:
            since[i] = min(since[i], time - last)
    place, place_fill = block, fill
    count = 0
    first_total = end_total
    for w in range(windows.shape[0]):
        start = _last_stamp(max(time - windows[w], oldest_kept))
        while block >= 0 and _stamp(blocks, block, 0) > start:  # the block begins inside the window
            count += fill
            first_total = _before(blocks, block, 0)
            block = blocks[block + OLDER] * BLOCK_WORDS
            fill = ENTRIES
        inside = 0
        total = first_total
        if block >= 0:
            while _stamp(blocks, block, fill - 1 - inside) > start:
                inside += 1
                total = _before(blocks, block, fill - inside)
        counts[i, w] = count + inside
        sums[i, w] = end_total - total
    if told is not None:
        _count_distinct(blocks, told, place, place_fill, max(exact - later, 0), counts, i)
    if later + counts[i, windows.shape[0] - 1] >= exact:
        _measure_folded(
            cards, blocks, card, later, end_total, time, oldest_kept, windows, exact, pane, counts,
            sums, since, hot, i,
        )  # fmt: skip
    return later, repeated


@numba.njit(cache=True)
def _count_distinct(blocks, told, block, fill, apart, counts, i):
    """
    Count the distinct parts of the words of this payment and of those in the windows that end at
    the place given, `apart` of them at most: as many are told apart.

    Most words come again as they are, so whole ones are looked for first, under their complements:
    no part of a word looks like one.
    """
    words, own, masks, seen, distinct = told
    longest = distinct.shape[2] - 1
    size = 2
    while size < 2 * (1 + masks.shape[0]) * (1 + min(counts[i, longest], apart)):
        size *= 2
    stamp = seen[0] + 1
    seen[0] = stamp
    _see(seen, size - 1, ~own[i], stamp)
    for f in range(masks.shape[0]):
        distinct[i, f, longest] = _see(seen, size - 1, own[i] & masks[f], stamp)
    row = block // BLOCK_WORDS
    done = 0
    for w in range(longest + 1):
        while done < min(counts[i, w], apart):
            if fill == 0:
                row = blocks[row * BLOCK_WORDS + OLDER]
                fill = ENTRIES
            fill -= 1
            done += 1
            word = words[row * ENTRIES + fill]
            if _see(seen, size - 1, ~word, stamp) == 1:
                for f in range(masks.shape[0]):
                    distinct[i, f, longest] += _see(seen, size - 1, word & masks[f], stamp)
        for f in range(masks.shape[0]):
            distinct[i, f, w] = distinct[i, f, longest]


@numba.njit(cache=True)
def _see(seen, mask, part, stamp):
    """
    Return 1 for a part of a word that was not seen under this stamp yet, 0 for one that was, or is
    nothing. Slots of another stamp are empty, so that the table is never cleared.
    """
    if part == 0:
        return 0
    slot = np.int64(np.uint64(part) * SPREAD >> SPREAD_SHIFT) & mask
    while seen[2 * slot + 1] == stamp:
        if seen[2 * slot + 2] == part:
            return 0
        slot = (slot + 1) & mask
    seen[2 * slot + 1] = stamp
    seen[2 * slot + 2] = part
    return 1


@numba.njit(cache=True)
def _measure_folded(
    cards, blocks, card, later, end_total, time, oldest_kept, windows, exact, pane, counts, sums,
    since, hot, i,
):  # fmt: skip
    """
    Measure again the windows that reach beyond the newest `exact` payments, `later` of which do not
    count: of those before them, the hours that begin inside the window. If none of the newest
    counts, the last payment was when the last of these hours began.
    """
    block = cards[card + NEWEST] * BLOCK_WORDS
    fill = cards[card + FILL]
    left = exact
    while left > fill:
        left -= fill
        block = blocks[block + OLDER] * BLOCK_WORDS
        fill = ENTRIES
    fill -= left  # what the block holds of folded ones
    after = _before(blocks, block, fill)
    longest = windows[windows.shape[0] - 1]
    if _stamp(blocks, block, fill) > _last_stamp(max(time - longest, oldest_kept)):
        hot[i] = True
    for w in range(windows.shape[0]):
        if later + counts[i, w] >= exact:
            counts[i, w] = max(exact - later, 0)
            sums[i, w] = end_total - after if later < exact else 0
    more = np.zeros((windows.shape[0], 2), np.int64)
    last = np.int64(NEVER)
    link = np.int64(NONE)
    while block >= 0:
        for k in range(fill - 1, -1, -1):
            before = _before(blocks, block, k)
            hour = _hour_of(_stamp(blocks, block, k), pane)
            begin = _add_hour(hour, 1, after - before, time, oldest_kept, windows, more)
            last = max(last, begin)
            after = before
        link = blocks[block + OLDER]
        block = link * BLOCK_WORDS
        fill = ENTRIES
    row = HOURS - link
    while row != NONE:
        for at in range(row * BLOCK_WORDS + FIRST, row * BLOCK_WORDS + HOURS_END, HOUR_WORDS):
            begin = _add_hour(
                blocks[at + BEGIN], blocks[at + COUNT], blocks[at + SUM], time, oldest_kept,
                windows, more,
            )  # fmt: skip
            last = max(last, begin)
        row = blocks[row * BLOCK_WORDS + OLDER]
    if since is not None and later >= exact:
        since[i] = min(longest, time - last)
    count = amount = 0
    for w in range(windows.shape[0]):
        count += more[w, 0]
        amount += more[w, 1]
        counts[i, w] += count
        sums[i, w] += amount


@numba.njit(cache=True)
def _add_hour(hour, count, amount, time, oldest_kept, windows, more):
    """
    Add an hour to the shortest window that it begins in. One that a late payment lies in counts
    whole. Returns when it began, or NEVER if it does not count.
    """
    w = windows.shape[0]
    if oldest_kept < hour <= time:
        while w > 0 and hour > time - windows[w - 1]:
            w -= 1
    if w == windows.shape[0]:
        return NEVER
    more[w, 0] += count
    more[w, 1] += amount
    return hour


@numba.njit(cache=True)
def _hour_of(stamp, pane):
    """Return when the hour of a payment began."""
    time = stamp >> FINGERPRINT_BITS
    return time - time % pane


@numba.njit(cache=True)
def _prune(header, cards, blocks, card, oldest_kept, exact, pane, undo, logged):
    """
    Give back, as one chain, the blocks that hold no payment later than `oldest_kept`. Where there
    are none, fold the oldest block if the others, which are full, hold `exact` payments.
    """
    block = cards[card + NEWEST] * BLOCK_WORDS
    fill = cards[card + FILL]
    newer = np.int64(NONE)
    before_newer = np.int64(NONE)
    kept = 0
    while block >= 0 and _stamp(blocks, block, fill - 1) > _last_stamp(oldest_kept):
        kept += fill
        before_newer = newer
        newer = block
        block = blocks[block + OLDER] * BLOCK_WORDS
        fill = ENTRIES
    if block < 0:
        if kept > exact:
            logged = _fold(header, blocks, before_newer, newer, oldest_kept, pane, undo, logged)
        return logged
    if newer < 0:
        logged = _put(CARDS, cards, card + NEWEST, NONE, undo, logged)
        logged = _put(CARDS, cards, card + FILL, 0, undo, logged)
    else:
        logged = _put(BLOCKS, blocks, newer + OLDER, NONE, undo, logged)
    oldest = block
    gone = fill
    freed = 1
    while blocks[oldest + OLDER] >= 0:
        oldest = blocks[oldest + OLDER] * BLOCK_WORDS
        gone += ENTRIES
        freed += 1
    row = HOURS - blocks[oldest + OLDER]
    if row != NONE:  # hours of payments before those
        logged = _put(BLOCKS, blocks, oldest + OLDER, row, undo, logged)
        while row != NONE:
            oldest = row * BLOCK_WORDS
            freed += 1
            row = blocks[oldest + OLDER]
    logged = _put(BLOCKS, blocks, oldest + OLDER, header[FREE_BLOCK], undo, logged)
    logged = _put(HEADER, header, FREE_BLOCK, block // BLOCK_WORDS, undo, logged)
    logged = _put(HEADER, header, FREE_COUNT, header[FREE_COUNT] + freed, undo, logged)
    return _put(HEADER, header, ENTRY_COUNT, header[ENTRY_COUNT] - gone, undo, logged)


@numba.njit(cache=True)
def _fold(header, blocks, newer, oldest, oldest_kept, pane, undo, logged):
    """Count the payments of the oldest block in the hours behind it, and give it back."""
    row = HOURS - blocks[oldest + OLDER]
    end = _before(blocks, newer, 0)
    last = ENTRIES
    for k in range(ENTRIES - 1, -1, -1):
        hour = _hour_of(_stamp(blocks, oldest, k), pane)
        if k > 0 and _hour_of(_stamp(blocks, oldest, k - 1), pane) == hour:
            continue
        before = _before(blocks, oldest, k)
        row, logged = _add_to_hours(
            header, blocks, row, hour, last - k, end - before, oldest_kept, undo, logged
        )
        last, end = k, before
    logged = _put(BLOCKS, blocks, newer + OLDER, HOURS - row, undo, logged)
    logged = _put(BLOCKS, blocks, oldest + OLDER, header[FREE_BLOCK], undo, logged)
    logged = _put(HEADER, header, FREE_BLOCK, oldest // BLOCK_WORDS, undo, logged)
    logged = _put(HEADER, header, FREE_COUNT, header[FREE_COUNT] + 1, undo, logged)
    return _put(HEADER, header, ENTRY_COUNT, header[ENTRY_COUNT] - ENTRIES, undo, logged)


@numba.njit(cache=True)
def _add_to_hours(header, blocks, first, hour, count, amount, oldest_kept, undo, logged):
    """
    Count payments in their hour, unless no window reaches it any more. `first` is the row of the
    first block of hours, or NONE; returns it as it is then.
    """
    if hour <= oldest_kept:
        return first, logged
    free = NONE
    row = first
    while row != NONE:
        for at in range(row * BLOCK_WORDS + FIRST, row * BLOCK_WORDS + HOURS_END, HOUR_WORDS):
            if blocks[at + BEGIN] == hour:
                logged = _put(BLOCKS, blocks, at + COUNT, blocks[at + COUNT] + count, undo, logged)
                logged = _put(BLOCKS, blocks, at + SUM, blocks[at + SUM] + amount, undo, logged)
                return first, logged
            if blocks[at + BEGIN] <= oldest_kept:
                free = at
        row = blocks[row * BLOCK_WORDS + OLDER]
    if free == NONE:
        first, logged = _take_block(header, blocks, first, undo, logged)
        free = first * BLOCK_WORDS + FIRST
        for at in range(free, first * BLOCK_WORDS + HOURS_END, HOUR_WORDS):
            logged = _put(BLOCKS, blocks, at + BEGIN, NEVER, undo, logged)
    logged = _put(BLOCKS, blocks, free + BEGIN, hour, undo, logged)
    logged = _put(BLOCKS, blocks, free + COUNT, count, undo, logged)
    return first, _put(BLOCKS, blocks, free + SUM, amount, undo, logged)


@numba.njit(cache=True)
def _insert_folded(header, cards, blocks, card, stamp, amount, oldest_kept, pane, undo, logged):
    """
    Count a payment in its hour if it is earlier than all that lie as they were: so these are never
    earlier than an hour behind them. Returns whether it did, and the log's length.
    """
    oldest = cards[card + NEWEST] * BLOCK_WORDS
    while blocks[oldest + OLDER] >= 0:
        oldest = blocks[oldest + OLDER] * BLOCK_WORDS
    if _stamp(blocks, oldest, 0) <= _last_stamp(stamp >> FINGERPRINT_BITS):
        return False, logged
    hour = _hour_of(stamp, pane)
    row = HOURS - blocks[oldest + OLDER]
    row, logged = _add_to_hours(header, blocks, row, hour, 1, amount, oldest_kept, undo, logged)
    return True, _put(BLOCKS, blocks, oldest + OLDER, HOURS - row, undo, logged)


@numba.njit(cache=True)
def _take_block(header, blocks, older, undo, logged):
    """Return a block that hangs before row `older`, and the length of the log."""
    row = header[FREE_BLOCK]
    if row != NONE:
        logged = _put(HEADER, header, FREE_BLOCK, blocks[row * BLOCK_WORDS + OLDER], undo, logged)
        logged = _put(HEADER, header, FREE_COUNT, header[FREE_COUNT] - 1, undo, logged)
    else:
        row = header[BLOCK_COUNT]
        logged = _put(HEADER, header, BLOCK_COUNT, row + 1, undo, logged)
    return row, _put(BLOCKS, blocks, row * BLOCK_WORDS + OLDER, older, undo, logged)


@numba.njit(cache=True)
def _begin_block(header, cards, blocks, card, undo, logged):
    row, logged = _take_block(header, blocks, cards[card + NEWEST], undo, logged)
    logged = _put(CARDS, cards, card + NEWEST, row, undo, logged)
    return _put(CARDS, cards, card + FILL, 0, undo, logged)


@numba.njit(cache=True)
def _insert(header, cards, blocks, told, card, stamp, amount, later, undo, logged, i):
    """Place a payment after all that are not later; `later` payments move up by one."""
    block = cards[card + NEWEST] * BLOCK_WORDS
    at = cards[card + FILL]
    total = cards[card + TOTAL]
    logged = _put(CARDS, cards, card + FILL, at + 1, undo, logged)
    logged = _put(CARDS, cards, card + TOTAL, total + amount, undo, logged)
    logged = _put(HEADER, header, ENTRY_COUNT, header[ENTRY_COUNT] + 1, undo, logged)
    before = total
    for _ in range(later):
        to_block, to = block, at
        at -= 1
        if at < 0:
            block = blocks[block + OLDER] * BLOCK_WORDS
            at = ENTRIES - 1
        before = _before(blocks, block, at)
        moved = _stamp(blocks, block, at)
        logged = _put(BLOCKS, blocks, _at(to_block, to) + STAMP, moved, undo, logged)
        logged = _put(BLOCKS, blocks, _at(to_block, to) + BEFORE, before + amount, undo, logged)
        if told is not None:
            moved = told[0][_word_at(block, at)]
            logged = _put(WORDS, told[0], _word_at(to_block, to), moved, undo, logged)
    if told is not None:
        logged = _put(WORDS, told[0], _word_at(block, at), told[1][i], undo, logged)
    logged = _put(BLOCKS, blocks, _at(block, at) + STAMP, stamp, undo, logged)
    return _put(BLOCKS, blocks, _at(block, at) + BEFORE, before, undo, logged)


@numba.njit(cache=True)
def _begin_card(header, index, cards, slot, hash_a, hash_b, undo, logged):
    """Add a row. Its words need no undo: a row beyond CARD_COUNT means nothing."""
    row = header[CARD_COUNT]
    card = row * CARD_WORDS
    cards[card + HASH_A] = hash_a
    cards[card + HASH_B] = hash_b
    cards[card + NEWEST] = NONE
    cards[card + FILL] = 0
    cards[card + TOTAL] = 0
    cards[card + ALERT_WINDOW] = NEVER
    cards[card + ALERT_MASK] = 0
    logged = _put(HEADER, header, CARD_COUNT, row + 1, undo, logged)
    return _put(INDEX, index, slot, hash_b & TAG | row, undo, logged)


@numba.njit(cache=True)
def has_blocks(header, blocks):
    """Say whether there are as many free blocks as one payment can need."""
    used = header[BLOCK_COUNT] - header[FREE_COUNT]
    return (used + BLOCKS_AT_ONCE) * BLOCK_WORDS <= blocks.shape[0]


@numba.njit(cache=True)
def _has_room(header, cards, blocks, undo, logged, words):
    return (
        header[CARD_COUNT] * CARD_WORDS < cards.shape[0]
        and has_blocks(header, blocks)
        and logged + words <= undo.shape[0]
    )


@numba.njit(cache=True)
def _prefetch(index, cards, blocks, told, rows, hashes, places):
    """
    Have what these payments will look at fetched from memory, all of it at once.

    Of ten million cards nearly every look is a miss in the cache; one after the other, that would
    be most of the time. Each pass finds what the one before has fetched.
    """
    mask = index.shape[0] - 1
    for i in rows:
        prefetch(index, hashes[i, 0] & mask)
    for k in range(rows.shape[0]):
        card = _likely_card(index, hashes[rows[k], 0], hashes[rows[k], 1])
        places[k] = card
        if card != NONE:
            prefetch(cards, card)
            prefetch(cards, card + CARD_WORDS - 1)
    for k in range(rows.shape[0]):
        card = places[k]
        newest = NONE if card == NONE else cards[card + NEWEST]
        places[k] = newest
        if newest != NONE:
            block = newest * BLOCK_WORDS
            end = _at(block, cards[card + FILL])
            if told is not None:
                prefetch(told[0], newest * ENTRIES)
                prefetch(told[0], newest * ENTRIES + cards[card + FILL])
            prefetch(blocks, block)
            prefetch(blocks, max(block, end - LINE_WORDS))
            prefetch(blocks, end)
    for k in range(rows.shape[0]):
        older = NONE if places[k] == NONE else blocks[places[k] * BLOCK_WORDS + OLDER]
        if older >= 0:
            if told is not None:
                prefetch(told[0], older * ENTRIES)
                prefetch(told[0], older * ENTRIES + ENTRIES - 1)
            prefetch(blocks, older * BLOCK_WORDS)


@numba.njit(cache=True, nogil=True)
def observe(
    header, index, cards, blocks, undo, logged, begin, rows, hashes, times, amounts, fingerprints,
    enters, windows, grace, exact, pane, counts, sums, since, told, late, hot,
):  # fmt: skip
    """
    Measure each payment's windows, itself included, and then add it if it `enters`, is not late and
    is not there already.

    rows int64[k] are positions in the columns, in log order; hashes int64[n, 2], times, amounts and
    fingerprints int64[n], enters bool[n]; windows int64[w] and pane, the length of an hour,
    microseconds, windows rising; exact is a multiple of ENTRIES. counts and sums int64[n, w], since
    int64[n] (the longest window at most) and late bool[n] are filled, hot bool[n] set where `exact`
    payments or more are later than where the longest window begins. Starts at rows[begin] and
    returns (position, logged): position short of k means that a table or the log is full, and the
    caller grows them and calls again.

    told is None, or the table of words; the word of each payment, int64[n]; v masks of the parts of
    a word; a table of int64[1 + 2 * slots], slots a power of two and 2 * (1 + v) for each payment
    told apart at least, zeros at first and then left alone; and distinct int64[n, v, d], which is
    filled for the d shortest windows. A part that is 0 is none. since may be None.
    """
    longest = windows[windows.shape[0] - 1]
    places = np.empty(AHEAD, np.int64)
    for k in range(begin, rows.shape[0]):
        if (k - begin) % AHEAD == 0:
            _prefetch(index, cards, blocks, told, rows[k : k + AHEAD], hashes, places)
        if not _has_room(header, cards, blocks, undo, logged, UNDO_WORDS):
            return k, logged
        i = rows[k]
        time = times[i]
        watermark = max(header[WATERMARK], time)
        oldest_kept = max(watermark - longest - grace, EARLIEST_TIME)
        stamp = time << FINGERPRINT_BITS | fingerprints[i]
        may_repeat = enters[i] and fingerprints[i] != NO_FINGERPRINT
        slot = _slot_of(index, cards, hashes[i, 0], hashes[i, 1])
        later, repeated = 0, False
        if since is not None:
            since[i] = longest
        if index[slot] == NONE:
            counts[i, :] = 0
            sums[i, :] = 0
            if told is not None:
                _count_distinct(blocks, told, 0, 0, 0, counts, i)
        else:
            card = (index[slot] & ROW) * CARD_WORDS
            later, repeated = _measure(
                cards, blocks, card, stamp, amounts[i], may_repeat, oldest_kept, windows, exact,
                pane, counts, sums, since, told, hot, i,
            )  # fmt: skip
        if not _has_room(header, cards, blocks, undo, logged, UNDO_WORDS + MOVED_WORDS * later):
            return k, logged
        for w in range(windows.shape[0]):
            counts[i, w] += 1
            sums[i, w] += amounts[i]
        late[i] = time < header[WATERMARK] - grace
        if watermark > header[WATERMARK]:
            logged = _put(HEADER, header, WATERMARK, watermark, undo, logged)
        if late[i] or repeated or not enters[i]:
            continue
        if index[slot] == NONE:
            logged = _begin_card(
                header, index, cards, slot, hashes[i, 0], hashes[i, 1], undo, logged
            )
        card = (index[slot] & ROW) * CARD_WORDS
        if cards[card + FILL] == ENTRIES:
            logged = _prune(header, cards, blocks, card, oldest_kept, exact, pane, undo, logged)
        if later >= exact:
            folded, logged = _insert_folded(
                header, cards, blocks, card, stamp, amounts[i], oldest_kept, pane, undo, logged
            )
            if folded:
                continue
        if cards[card + NEWEST] == NONE or cards[card + FILL] == ENTRIES:
            logged = _begin_block(header, cards, blocks, card, undo, logged)
        logged = _insert(
            header, cards, blocks, told, card, stamp, amounts[i], later, undo, logged, i
        )
    return rows.shape[0], logged


@numba.njit(cache=True, nogil=True)
def open_alerts(header, index, cards, blocks, undo, logged, begin, hashes, numbers, late, opened):
    """
    Say for each flagged payment, in log order, whether its card has no alert in its window yet.

    hashes int64[k, 2]; numbers int64[k] are the windows' numbers, time // length; late bool[k];
    opened bool[k] is filled. Begins, stops and returns as `observe` does.
    """
    for k in range(begin, numbers.shape[0]):
        if not _has_room(header, cards, blocks, undo, logged, UNDO_WORDS):
            return k, logged
        if late[k]:
            opened[k] = True
            continue
        slot = _slot_of(index, cards, hashes[k, 0], hashes[k, 1])
        if index[slot] == NONE:
            logged = _begin_card(
                header, index, cards, slot, hashes[k, 0], hashes[k, 1], undo, logged
            )
        card = (index[slot] & ROW) * CARD_WORDS
        ahead = numbers[k] - cards[card + ALERT_WINDOW]
        mask = cards[card + ALERT_MASK]
        if ahead > 0:
            mask = (mask << ahead) & ALERT_BITS if ahead < ALERTS_KEPT else 0
            logged = _put(CARDS, cards, card + ALERT_WINDOW, numbers[k], undo, logged)
        bit = np.int64(1) << max(-ahead, 0) if -ahead < ALERTS_KEPT else np.int64(0)
        opened[k] = mask & bit == 0
        logged = _put(CARDS, cards, card + ALERT_MASK, mask | bit, undo, logged)
    return numbers.shape[0], logged


@numba.njit(cache=True)
def _are_sound(header, blocks, hours, seen):
    """Say so of a chain of hours. Flags its blocks in seen bool[blocks]."""
    while hours != NONE:
        if hours < 0 or hours >= header[BLOCK_COUNT] or seen[hours]:
            return False
        seen[hours] = True
        for at in range(hours * BLOCK_WORDS + FIRST, hours * BLOCK_WORDS + HOURS_END, HOUR_WORDS):
            if blocks[at + BEGIN] > header[WATERMARK]:
                return False
        hours = blocks[hours * BLOCK_WORDS + OLDER]
    return True


@numba.njit(cache=True, nogil=True)
def is_sound(header, cards, blocks):
    """
    Say whether every block is on one chain of its table, and no payment or hour later than the
    watermark.

    Tables from elsewhere are asked this once, since kernels trust them afterwards.
    """
    block_count = header[BLOCK_COUNT]
    latest = _last_stamp(max(header[WATERMARK], EARLIEST_TIME))
    seen = np.zeros(block_count, np.bool_)
    entries = 0
    free = 0
    for row in range(-1, header[CARD_COUNT]):
        card = row * CARD_WORDS
        block = header[FREE_BLOCK] if row < 0 else cards[card + NEWEST]
        fill = 0 if row < 0 else cards[card + FILL]
        if fill < 0 or fill > ENTRIES or (row >= 0 and (block < 0) != (fill == 0)):
            return False
        while block >= 0:
            if block >= block_count or seen[block]:
                return False
            seen[block] = True
            entries += fill
            if fill > 0 and _stamp(blocks, block * BLOCK_WORDS, fill - 1) > latest:
                return False
            free += row < 0
            block = blocks[block * BLOCK_WORDS + OLDER]
            fill = 0 if row < 0 else ENTRIES
        if block != NONE and fill == 0:  # hours hang behind payments alone
            return False
        if not _are_sound(header, blocks, HOURS - block, seen):
            return False
    return seen.all() and entries == header[ENTRY_COUNT] and free == header[FREE_COUNT]


@numba.njit(cache=True, nogil=True)
def newest_stamps(cards, blocks, newest):
    """Fill newest int64[rows] with the stamp of each row's newest payment, NEVER where none is."""
    for row in range(newest.shape[0]):
        card = row * CARD_WORDS
        block = cards[card + NEWEST] * BLOCK_WORDS
        newest[row] = NEVER if block < 0 else _stamp(blocks, block, cards[card + FILL] - 1)


@numba.njit(cache=True)
def _give_back(header, blocks, row):
    """Put a block among the free ones, for ever. Returns what hung behind it."""
    older = blocks[row * BLOCK_WORDS + OLDER]
    blocks[row * BLOCK_WORDS + OLDER] = header[FREE_BLOCK]
    header[FREE_BLOCK] = row
    header[FREE_COUNT] += 1
    return older


@numba.njit(cache=True, nogil=True)
def keep_cards(header, cards, blocks, keep):
    """
    Remove the rows where keep bool[rows] is false, and give their blocks back.

    Rows move up, so the index must be built again. Not undone: call it between batches.
    """
    kept = 0
    for row in range(keep.shape[0]):
        card = row * CARD_WORDS
        if keep[row]:
            for word in range(CARD_WORDS):
                cards[kept * CARD_WORDS + word] = cards[card + word]
            kept += 1
            continue
        block = cards[card + NEWEST]
        fill = cards[card + FILL]
        while block >= 0:
            older = _give_back(header, blocks, block)
            header[ENTRY_COUNT] -= fill
            block, fill = older, ENTRIES
        hours = HOURS - block
        while hours != NONE:
            hours = _give_back(header, blocks, hours)
    header[CARD_COUNT] = kept
