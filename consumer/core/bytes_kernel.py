"""Reading bytes as numbers, for the other kernels."""

import numba
import numpy as np


@numba.njit(cache=True)
def word(buffer, at):
    """
    Return eight bytes as a little-endian number.

    Spelt out, and with an unsigned position, so that the compiler makes one load of them.
    """
    return (
        np.uint64(buffer[at])
        | np.uint64(buffer[at + np.uintp(1)]) << np.uint64(8)
        | np.uint64(buffer[at + np.uintp(2)]) << np.uint64(16)
        | np.uint64(buffer[at + np.uintp(3)]) << np.uint64(24)
        | np.uint64(buffer[at + np.uintp(4)]) << np.uint64(32)
        | np.uint64(buffer[at + np.uintp(5)]) << np.uint64(40)
        | np.uint64(buffer[at + np.uintp(6)]) << np.uint64(48)
        | np.uint64(buffer[at + np.uintp(7)]) << np.uint64(56)
    )
