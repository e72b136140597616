"""Hashes that state is kept by, in place of ids."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core import hash_kernel
from consumer.core.batch import Text
from consumer.core.windows_kernel import FINGERPRINTS, NO_FINGERPRINT
from consumer.records import Longs, Status

_ALPHA_2: Final = 2  # letters
_NO_LETTERS: Final = 1 << 15


def hash_ids(text: Text, slot: int, statuses: NDArray[np.int8] | None = None) -> Longs:
    """
    Return int64[n, 2], 128 bits of each id of this text column; a refused record's are of no bytes.
    """
    lengths = text.lengths[slot]
    if statuses is not None:
        lengths = np.where(statuses == Status.GOOD, lengths, 0)
    hashes = np.empty((len(lengths), 2), np.int64)
    hash_kernel.hash_ids(text.buffer, text.starts[slot], lengths, hashes)
    return hashes


def country_codes(text: Text, slot: int, statuses: NDArray[np.int8] | None = None) -> Longs:
    """
    Return int64[n], 16 bits of each country of this text column: its two letters, or, of what is no
    ISO 3166-1 alpha-2 code, bits of a hash that no two ASCII letters have. 0 is none.
    """
    lengths = text.lengths[slot]
    hashes = hash_ids(text, slot, statuses)[:, 0]
    if statuses is not None:
        lengths = np.where(statuses == Status.GOOD, lengths, 0)
    first = np.where(lengths == _ALPHA_2, text.starts[slot], 0)
    second = np.minimum(first + 1, len(text.buffer) - 1)
    letters = text.buffer[first].astype(np.int64) << 8 | text.buffer[second]
    others = np.where(lengths == 0, 0, hashes & (_NO_LETTERS - 1) | _NO_LETTERS)
    return np.where(lengths == _ALPHA_2, letters, others)


def country_text(code: int) -> str | None:
    """Return the two letters of a country's code, None for one that has none."""
    letters = bytes([code >> 8, code & 0xFF])
    return letters.decode() if 0 < code < _NO_LETTERS else None


def fingerprint_ids(text: Text, slot: int, statuses: NDArray[np.int8] | None = None) -> Longs:
    """
    Return int64[n], 11 bits of each id: enough to tell apart payments that agree in all the rest.

    None is NO_FINGERPRINT.
    """
    fingerprints = hash_ids(text, slot, statuses)[:, 0] & FINGERPRINTS
    return np.where(fingerprints == NO_FINGERPRINT, FINGERPRINTS, fingerprints)
