"""Hashes that state is kept by, in place of ids."""

import numpy as np
from numpy.typing import NDArray

from consumer.core import hash_kernel
from consumer.core.batch import Text
from consumer.core.windows_kernel import FINGERPRINTS, NO_FINGERPRINT
from consumer.records import Longs, Status


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


def fingerprint_ids(text: Text, slot: int, statuses: NDArray[np.int8] | None = None) -> Longs:
    """
    Return int64[n], 11 bits of each id: enough to tell apart payments that agree in all the rest.

    None is NO_FINGERPRINT.
    """
    fingerprints = hash_ids(text, slot, statuses)[:, 0] & FINGERPRINTS
    return np.where(fingerprints == NO_FINGERPRINT, FINGERPRINTS, fingerprints)
