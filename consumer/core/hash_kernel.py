"""128-bit hashes of ids, a whole column at a time."""

import numba
import numpy as np

from consumer.core.bytes_kernel import word

_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))
_MULTIPLIER = np.uint64(0xC6A4A7935BD1E995)
_SHIFT = np.uint64(47)
_WORD_BYTES = np.uintp(8)


@numba.njit(cache=True)
def _mixed(k):
    k *= _MULTIPLIER
    k ^= k >> _SHIFT
    return k * _MULTIPLIER


@numba.njit(cache=True)
def _finished(h):
    h ^= h >> _SHIFT
    h *= _MULTIPLIER
    return np.int64(h ^ (h >> _SHIFT))


@numba.njit(cache=True, nogil=True)
def hash_ids(buffer, starts, lengths, hashes):
    """
    Fill hashes int64[n, 2] with 128 bits of each span: state is kept by them, not by the ids.

    MurmurHash64A (A. Appleby, public domain) under two seeds; its words are the same for both.
    """
    for i in range(starts.shape[0]):
        at = np.uintp(starts[i])
        left = np.uintp(lengths[i])
        a = _SEEDS[0] ^ (np.uint64(lengths[i]) * _MULTIPLIER)
        b = _SEEDS[1] ^ (np.uint64(lengths[i]) * _MULTIPLIER)
        while left >= _WORD_BYTES:
            k = _mixed(word(buffer, at))
            a = (a ^ k) * _MULTIPLIER
            b = (b ^ k) * _MULTIPLIER
            at += _WORD_BYTES
            left -= _WORD_BYTES
        if left > np.uintp(0):
            tail = np.uint64(0)
            for j in range(left):
                tail |= np.uint64(buffer[at + j]) << (np.uint64(8) * np.uint64(j))
            a = (a ^ tail) * _MULTIPLIER
            b = (b ^ tail) * _MULTIPLIER
        hashes[i, 0] = _finished(a)
        hashes[i, 1] = _finished(b)
