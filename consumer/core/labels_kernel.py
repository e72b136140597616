"""Reported frauds of each terminal, counted by the time their label arrived."""

from typing import Final

import numba
import numpy as np

# Columns of a terminal's row.
HASH_A: Final = 0
HASH_B: Final = 1
NEWEST: Final = 2

# Columns of a fraud's row. The frauds of a terminal are a chain, latest arrival first.
ARRIVAL: Final = 0  # when it counts from, microseconds
REVOKED: Final = 1  # when it was taken back
OLDER: Final = 2

NONE: Final = -1
NEVER: Final = 2**62


@numba.njit(cache=True)
def slot_of(index, terminals, hash_a, hash_b):
    """Return where the terminal is in the index, or the empty slot where it belongs."""
    mask = index.shape[0] - 1
    slot = hash_a & mask
    while index[slot] != NONE:
        row = index[slot]
        if terminals[row, HASH_A] == hash_a and terminals[row, HASH_B] == hash_b:
            break
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def rebuild_index(index, terminals, count):
    """Enter rows 0 to count - 1 into an empty index."""
    for row in range(count):
        index[slot_of(index, terminals, terminals[row, HASH_A], terminals[row, HASH_B])] = row


@numba.njit(cache=True)
def link(terminals, frauds, terminal, fraud):
    """Hang a fraud into its terminal's chain, behind those that arrived later."""
    newer = NONE
    older = terminals[terminal, NEWEST]
    while older != NONE and frauds[older, ARRIVAL] > frauds[fraud, ARRIVAL]:
        newer = older
        older = frauds[older, OLDER]
    frauds[fraud, OLDER] = older
    if newer == NONE:
        terminals[terminal, NEWEST] = fraud
    else:
        frauds[newer, OLDER] = fraud


@numba.njit(cache=True)
def unlink(terminals, frauds, terminal, fraud):
    """Take a fraud out of its terminal's chain."""
    at = terminals[terminal, NEWEST]
    if at == fraud:
        terminals[terminal, NEWEST] = frauds[fraud, OLDER]
        return
    while frauds[at, OLDER] != fraud:
        at = frauds[at, OLDER]
    frauds[at, OLDER] = frauds[fraud, OLDER]


@numba.njit(cache=True, nogil=True)
def count(index, terminals, frauds, hashes, times, windows, counts):
    """
    Fill counts int64[n, w] with the frauds that arrived in (time - W, time] and still stood then.

    hashes int64[n, 2], times int64[n] and windows int64[w], rising, in microseconds.
    """
    longest = windows[windows.shape[0] - 1]
    for i in range(times.shape[0]):
        counts[i, :] = 0
        row = index[slot_of(index, terminals, hashes[i, 0], hashes[i, 1])]
        fraud = np.int64(NONE) if row == NONE else terminals[row, NEWEST]
        while fraud != NONE and frauds[fraud, ARRIVAL] > times[i] - longest:
            arrival = frauds[fraud, ARRIVAL]
            if arrival <= times[i] and frauds[fraud, REVOKED] > times[i]:
                for w in range(windows.shape[0]):
                    if arrival > times[i] - windows[w]:
                        counts[i, w] += 1
            fraud = frauds[fraud, OLDER]
