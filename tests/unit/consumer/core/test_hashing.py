import random
import string

import numpy as np
import pytest

from consumer.core.batch import Text
from consumer.core.hashing import country_codes, country_text, fingerprint_ids, hash_ids
from consumer.records import Status

SEEDS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
MASK = 2**64 - 1


def murmur_hash_64a(data: bytes, seed: int) -> int:
    """A. Appleby's MurmurHash64A, as published, as a signed number."""
    m, r = 0xC6A4A7935BD1E995, 47
    h = seed ^ (len(data) * m & MASK)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        k = int.from_bytes(data[at : at + 8], "little") * m & MASK
        k = (k ^ k >> r) * m & MASK
        h = (h ^ k) * m & MASK
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & MASK
    h = (h ^ h >> r) * m & MASK
    h ^= h >> r
    return h - 2**64 if h >= 2**63 else h


def text_of(ids: list[bytes]) -> Text:
    lengths = np.array([list(map(len, ids))], np.int64)
    starts = np.cumsum(lengths, axis=1) - lengths
    return Text(("id",), np.frombuffer(b"".join(ids) or b"\0", np.uint8), starts, lengths)


@pytest.mark.parametrize("length", [*range(26), 255, 256])
def test_an_id_is_hashed_by_murmur_hash_64a_under_two_seeds(length):
    """The state of an older build must find its cards again, so the hash never changes."""
    data = random.Random(length).randbytes(length)

    hashes = hash_ids(text_of([data]), 0)

    assert hashes.tolist() == [[murmur_hash_64a(data, seed) for seed in SEEDS]]


def test_a_hash_depends_on_the_id_alone():
    """Not on where it lies in the batch."""
    ids = [f"card-{k % 5}".encode() for k in range(20)]

    hashes = hash_ids(text_of(ids), 0)

    for k in range(20):
        assert hashes[k].tolist() == hashes[k % 5].tolist()
    assert len(np.unique(hashes, axis=0)) == 5


def test_ids_that_differ_in_trailing_zeros_differ():
    """The length is hashed as well."""
    ids = [b"card" + b"\0" * k for k in range(6)]

    assert len(np.unique(hash_ids(text_of(ids), 0), axis=0)) == 6


def test_the_id_of_a_refused_record_is_of_no_bytes():
    """Its span may be of any length, as it was never checked."""
    text = text_of([b"card", b"x" * 50])
    text.lengths[0, 1] = 2**40

    hashes = hash_ids(text, 0, np.array([Status.GOOD, Status.DECODE], np.int8))

    assert hashes[0].tolist() == hash_ids(text_of([b"card"]), 0)[0].tolist()
    assert hashes[1].tolist() == hash_ids(text_of([b""]), 0)[0].tolist()


def test_a_fingerprint_is_eleven_bits_of_the_hash():
    """
    Two thousand ids that differ in a digit take two thirds of the 2,047 there are; 0 is none.
    """
    ids = [f"{k:036}".encode() for k in range(2_048)]

    fingerprints = fingerprint_ids(text_of(ids), 0)

    assert fingerprints.tolist() == [
        int(h) & 2_047 or 2_047 for h in hash_ids(text_of(ids), 0)[:, 0]
    ]
    assert fingerprints.min() > 0
    assert 1_200 < len(np.unique(fingerprints)) < 1_400


def test_no_two_countries_share_a_code():
    """Nor does what is no code share one with a country: a count of them is exact."""
    letters = string.ascii_uppercase + string.ascii_lowercase
    codes = [(a + b).encode() for a in letters for b in letters]
    others = [b"", b"B", b"BEL", "Österreich".encode(), b"be-BE"]

    found = country_codes(text_of(codes + others), 0).tolist()

    assert [country_text(code) for code in found] == [code.decode() for code in codes] + [None] * 5
    assert found[len(codes)] == 0
    assert len(set(found)) == len(found)


def test_a_country_of_two_letters_is_read_where_nothing_else_is():
    """The spans of a single record, and of none."""
    assert country_codes(text_of([b"BE"]), 0).tolist() == [int.from_bytes(b"BE")]
    assert country_codes(text_of([]), 0).tolist() == []
    assert country_codes(text_of([b""]), 0).tolist() == [0]
