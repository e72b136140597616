"""
The Avro encoder: a schema and its sources compiled to a table of steps, run over a whole batch.
"""

from typing import Final

import numba
import numpy as np

# Steps. A row of the program is (step, slot or start, length).
CONSTANT: Final = 0  # bytes of the pool
LONG: Final = 1
DOUBLE: Final = 2
TEXT: Final = 3
FLOATS: Final = 4  # a line of the matrix, without counts
READY: Final = 5  # a span of bytes that come encoded

LONGEST_LONG_BYTES: Final = 10

_ONE = np.uintp(1)
_EIGHT = np.uintp(8)
_SEVEN_BITS = np.uint64(0x7F)
_MORE = np.uint64(0x80)
_SHIFT = np.uint64(7)


@numba.njit(cache=True)
def _write_long(out, at, value):
    raw = np.uint64(value << 1) ^ np.uint64(value >> 63)
    while raw >= _MORE:
        out[at] = raw & _SEVEN_BITS | _MORE
        raw >>= _SHIFT
        at += _ONE
    out[at] = raw
    return at + _ONE


@numba.njit(cache=True)
def _copy(out, at, source, start, length):
    for k in range(length):
        out[at + k] = source[start + k]
    return at + length


@numba.njit(cache=True, nogil=True)
def encode(
    program, pool, longs, doubles, buffer, starts, lengths, floats, ready, ready_starts,
    ready_lengths, out, bounds,
):  # fmt: skip
    """
    Write record i to out[bounds[i]:bounds[i + 1]]; the caller made `out` long enough for all.

    program uintp[steps, 3], pool uint8; longs int64[slots, n] and doubles float64[slots, n];
    buffer and ready uint8, each with starts and lengths int64[slots, n]; floats uint8[n, bytes].
    Positions are unsigned: numba counts a signed index from the end when it is negative, and that
    test makes copies several times slower.
    """
    at = np.uintp(0)
    bounds[0] = 0
    width = np.uintp(floats.shape[1])
    flat_floats = floats.ravel()
    for record in range(bounds.shape[0] - 1):
        i = np.uintp(record)
        for step in range(program.shape[0]):
            kind, slot = program[step, 0], program[step, 1]
            if kind == CONSTANT:
                at = _copy(out, at, pool, slot, program[step, 2])
            elif kind == LONG:
                at = _write_long(out, at, longs[slot, i])
            elif kind == TEXT:
                at = _write_long(out, at, lengths[slot, i])
                length = np.uintp(lengths[slot, i])
                at = _copy(out, at, buffer, np.uintp(starts[slot, i]), length)
            elif kind == FLOATS:
                at = _copy(out, at, flat_floats, i * width, width)
            elif kind == DOUBLE:
                raw = np.float64(doubles[slot, i]).view(np.uint64)
                for k in range(_EIGHT):
                    out[at + k] = raw >> (np.uint64(k) * np.uint64(8)) & np.uint64(0xFF)
                at += _EIGHT
            else:  # READY
                length = np.uintp(ready_lengths[slot, i])
                at = _copy(out, at, ready, np.uintp(ready_starts[slot, i]), length)
        bounds[i + _ONE] = at
