"""What else is kept of a payment than its time and amount: one word of 64 bits."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from consumer.core.batch import Events
from consumer.core.feature_sets import Attribute
from consumer.records import Longs

MASKS: Final[Mapping[Attribute, int]] = {"terminal": -(1 << 16), "merchant_country": (1 << 16) - 1}
"""
The bits that an attribute has of the word: 48 of the terminal's hash, of which 150 terminals of one
card share some with a probability of 4e-11; and the country as `hashing.country_codes` gives it. A
state that was made with other bits counts otherwise: to change them is to change snapshot.FORMAT.
"""


def masks_of(attributes: Sequence[Attribute]) -> Longs:
    """Return int64[v], the masks of these attributes."""
    return np.array([MASKS[attribute] for attribute in attributes], np.int64)


def part(words: Longs, attribute: Attribute) -> Longs:
    """Return int64[n], what the words say of the attribute alone; 0 is nothing."""
    return words & MASKS[attribute]


def words_of(events: Events, attributes: Collection[Attribute]) -> Longs:
    """Return int64[n], these attributes of each payment; the bits of the others are 0."""
    words = np.zeros(len(events), np.int64)
    if "terminal" in attributes:
        words |= events.terminals[:, 0] & MASKS["terminal"]
    if "merchant_country" in attributes:
        words |= events.countries
    return words
