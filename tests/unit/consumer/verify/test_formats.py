import hashlib

import pytest

from consumer.verify.formats import (
    ERRORS,
    REPLAY,
    Decoder,
    Place,
    ReplayFacts,
    UnreadableError,
    digest,
    letter_facts,
    replay_facts,
    same_sha256,
    sha256_start,
    without_numbers,
)
from tests.integration.traffic import Traffic

COORDINATES = ((f"{ERRORS}topic", b"t"), (f"{ERRORS}partition", b"3"), (f"{ERRORS}offset", b"7"))


def test_a_payment_is_read_and_what_is_damaged_is_not():
    """Cut short, longer, of an unknown schema, or nothing at all: it says that it cannot."""
    value = Traffic(1).payment().value
    decoder = Decoder("transaction")

    assert decoder.read(value)["card_id"].startswith("card-")
    for damaged in (value[:40], value + b"\0", b"\xc3\x01" + b"\7" * 8 + value[10:], b"", None):
        with pytest.raises(UnreadableError):
            decoder.read(damaged)


def test_digests_are_of_bits():
    """What compares equal and is not the same has another digest; nothing has the digest 0."""
    pairs = [(1, 1.0), (0.0, -0.0), (b"a", "a"), (None, b""), (["a", "b"], ["ab"])]

    assert digest(float("nan")) == digest(float("nan"))
    assert all(digest(a) != digest(b) for a, b in pairs)
    assert digest() != 0


def test_a_hash_is_compared_whole_in_form_and_by_its_start():
    """64 hexadecimal digits, of which 16 are remembered."""
    text = hashlib.sha256(b"value").hexdigest()

    assert same_sha256(text, sha256_start(b"value"))
    assert not same_sha256(text[:16], sha256_start(b"value"))
    assert not same_sha256(None, sha256_start(b"value"))


def test_the_last_headers_of_a_dead_letter_are_the_pipelines():
    """A record may bring headers of the same names: they are its own."""
    forged = ((f"{ERRORS}topic", b"x"), (f"{ERRORS}partition", b"0"), ("trace", None))

    facts = letter_facts((*forged, *COORDINATES, (f"{ERRORS}reason", b"id")))

    assert (facts.topic, facts.place, facts.reason) == ("t", Place(3, 7), "id")
    assert facts.own_headers == forged


def test_headers_that_may_hold_a_card_number_are_left_out():
    """Whether in the name or the value, with hyphens or without."""
    kept = (("trace", b"12345678901"), ("none", None))

    found = without_numbers((("a", b"4111-1111-1111-1111"), *kept, ("411111111111", b"")))

    assert found == kept


@pytest.mark.parametrize("headers", [(), COORDINATES[:2], (*COORDINATES[:2], ("offset", b"x"))])
def test_a_dead_letter_without_coordinates_is_unreadable(headers):
    """It cannot be held against a record."""
    with pytest.raises(UnreadableError):
        letter_facts(headers)


def test_a_replayed_record_names_its_first_place():
    """Others say nothing; half of it is unreadable."""
    names = {"topic": b"t", "partition": b"1", "offset": b"2", "attempt": b"3"}
    headers = tuple((f"{REPLAY}{name}", value) for name, value in names.items())

    assert replay_facts(headers) == ReplayFacts("t", Place(1, 2), 3)
    assert replay_facts(COORDINATES) is None
    with pytest.raises(UnreadableError):
        replay_facts(headers[:2])
