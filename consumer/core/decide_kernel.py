"""Log-odds, one number after the other."""

import math

import numba


@numba.njit(cache=True, nogil=True)
def log_odds(probabilities, margin, odds):
    """Fill odds float64[n] with ln(p / (1 - p)), p kept `margin` away from 0 and 1."""
    for i in range(probabilities.shape[0]):
        p = min(max(probabilities[i], margin), 1 - margin)
        odds[i] = math.log(p / (1 - p))
