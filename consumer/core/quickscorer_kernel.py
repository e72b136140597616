"""
Tree ensembles scored by bit masks instead of by walking trees.

QuickScorer (Lucchese et al., SIGIR 2015) numbers each tree's leaves from left to right and gives
every node a mask that clears the leaves of its left subtree, applied when the node's test fails.
What is left of all masks has the true leaf as its lowest bit. Here, as in RapidScorer (Ye et al.,
KDD 2018), the masks of all failed tests of one feature are ANDed beforehand for each interval
between its thresholds, so a row costs one search and one line of masks for each feature. Small
whole numbers, which most features are, need no search: their interval is looked up.
"""

import math
from typing import Final

import numba
import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

WHOLE_NUMBERS: Final = 256
"""Inputs 0 to 255 have their interval in a table."""


@numba.njit(cache=True)
def interval_of(x, thresholds, low, high):
    """Return the place of the first threshold in [low, high) that x does not exceed, or high."""
    while low < high:
        middle = (low + high) >> 1
        if x > thresholds[middle]:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def score(
    rows, thresholds, starts, lines, whole_lines, masks, leaves, base, logistic, alive, out
):  # fmt: skip
    """
    Fill out float64[n] with the probability of each row.

    rows float32[n, features]; thresholds float32, rising within each feature, whose span is
    starts[f] to starts[f + 1]; lines int64[features], the first line of each feature in masks
    uint[lines, trees], the last of a feature's being that of NaN; whole_lines int64[features, 256],
    the line of each small whole number; leaves float32[trees, bits]; alive uint[trees] is scratch.
    """
    trees = masks.shape[1]
    for i in range(rows.shape[0]):
        for f in range(rows.shape[1]):
            x = rows[i, f]
            if 0 <= x < WHOLE_NUMBERS and x == np.float32(np.int64(x)):
                line = whole_lines[f, np.int64(x)]
            elif np.isnan(x):
                line = lines[f] + starts[f + 1] - starts[f] + 1
            else:
                interval = interval_of(x, thresholds, starts[f], starts[f + 1])
                line = lines[f] + interval - starts[f]
            if f == 0:
                for t in range(trees):
                    alive[t] = masks[line, t]
            else:
                for t in range(trees):
                    alive[t] &= masks[line, t]
        total = base
        for t in range(trees):
            total += np.float64(leaves[t, trailing_zeros(alive[t])])
        out[i] = 1.0 / (1.0 + math.exp(-total)) if logistic else total
