"""
Repeatable draws: a number for any (seed, what it is for, which one), with no state in between.

So the value that fills a field depends on nothing that was drawn before it: any payment can be
made alone, in any order, and comes out the same.
"""

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LETTERS: Final = str.maketrans("0123456789abcdef", "bcdfghjklmnpqrst")


def draws(seed: int, what: str, numbers: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """
    Return 64 well-mixed bits for each number, uint64[n]; different numbers never share them.

    Source: the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
    number generators, OOPSLA 2014), on a stream chosen by seed and purpose.
    """
    stream = hashlib.blake2b(f"{seed}/{what}".encode(), digest_size=8).digest()
    start = np.frombuffer(stream, "<u8").astype(np.uint64)
    z: NDArray[np.uint64] = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fractions(seed: int, what: str, numbers: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return a uniform draw from [0, 1) for each number, float64[n]."""
    return (draws(seed, what, numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choices(
    seed: int, what: str, numbers: NDArray[np.integer[Any]], weights: list[float]
) -> NDArray[np.intp]:
    """Return an index into `weights` for each number, drawn in proportion to them, intp[n]."""
    edges = np.cumsum(weights) / sum(weights)
    return np.searchsorted(edges[:-1], fractions(seed, what, numbers), side="right")


def tokens(seed: int, what: str, numbers: NDArray[np.integer[Any]]) -> list[str]:
    """
    Return a token of 16 consonants for each number, different for different numbers.

    Letters only: a token must never be taken for a card number.
    """
    digits = draws(seed, what, numbers).astype(">u8").tobytes().hex().translate(_LETTERS)
    return [digits[start : start + 16] for start in range(0, len(digits), 16)]


def uuids(seed: int, what: str, numbers: NDArray[np.integer[Any]]) -> list[str]:
    """
    Return a UUID of version 8 for each number: 120 drawn bits in the form of RFC 9562, 5.8.

    The last group starts with a letter, so that it is never 12 digits in a row.
    """
    high = draws(seed, f"{what}, high", numbers) & np.uint64(0xFFFF_FFFF_FFFF_0FFF)
    low = draws(seed, f"{what}, low", numbers) & np.uint64(0x3FFF_FFFF_FFFF_FFFF)
    high |= np.uint64(0x0000_0000_0000_8000)
    low |= np.uint64(0x8000_A000_0000_0000)
    digits = np.stack((high, low), axis=1).astype(">u8").tobytes().hex()
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-{digits[i + 12 : i + 16]}"
        f"-{digits[i + 16 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in range(0, len(digits), 32)
    ]
