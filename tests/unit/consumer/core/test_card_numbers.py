import os
import time
import uuid
from random import Random

import pytest

from consumer.core.card_numbers import holds_card_number, masked

# Numbers that payment networks publish for tests.
NUMBERS = [
    "4111111111111111", "4222222222222", "5555555555554444", "2223003122003222",
    "378282246310005", "6011111111111117", "30569309025904", "6304000000000000",
    "6799990100000000019",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "around", [b"%s", b'{"pan": "%s"}', b"\x02\x20%s\xff", b"card-%s-x", b"12 %s"]
)
def test_numbers_are_found_wherever_they_stand(number, around):
    """In whatever a record is made of."""
    assert holds_card_number(around % number.encode())


@pytest.mark.parametrize(
    "text", ["4111-1111-1111-1111", "4111 1111 1111 1111", "3782 822463 10005"]
)
def test_numbers_are_found_as_people_write_them(text):
    """With single separators."""
    assert holds_card_number(text.encode())


@pytest.mark.parametrize("number", NUMBERS)
def test_one_wrong_digit_makes_it_no_number(number):
    """Luhn finds each, and each exchange of neighbours but 09 and 90."""
    for at, digit in enumerate(number):
        other = str((int(digit) + 1) % 10)
        assert not holds_card_number((number[:at] + other + number[at + 1 :]).encode()) or at == 0


@pytest.mark.parametrize(
    "data",
    [
        None, b"", b"411111111111", b"1519862400000000", b"04111111111111111",
        b"41111111111111111111", b"4111.1111.1111.1111", b"4111  1111  1111  1111",
        b"tok_4111x1111x1111x1111", b"2026-11-21T21:46:22.123456",
    ],
)  # fmt: skip
def test_what_is_no_card_number(data):
    """Too short, too long, a time, or digits apart."""
    assert not holds_card_number(data)


def test_uuids_are_no_card_numbers():
    """Each payment has some; their digits are too few in a row, or too many."""
    random = Random(0)
    ids = [str(uuid.UUID(int=random.getrandbits(128), version=4)) for _ in range(20_000)]
    ids.append("00000000-4123-8123-1234-5a0000000000")

    assert not [value for value in ids if holds_card_number(f"{value},{value}".encode())]


def test_a_record_made_to_be_slow_is_not():
    """64 KiB of what comes closest, in time that grows with its length alone."""
    parts = (b"2 2 2 2 2 2 2 2 2 2 2 2 3x", b"4111111111111112x", b"2-", b"4", os.urandom(16))
    for part in parts:
        data = part * (65_536 // len(part))
        begin = time.process_time()
        holds_card_number(data)
        assert time.process_time() - begin < 0.5


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"4111111111111111", b"****************"),
        (b"4111-1111 1111-1111", b"****-**** ****-****"),
        (b"pan=378282246310005;", b"pan=***************;"),
        (b"\xff4111111111111111\x00", b"\xff****************\x00"),
        (b"501800000009", b"************"),
        (b"6304000000000000000", b"*******************"),
    ],
)
def test_the_digits_of_a_card_number_are_masked_where_they_stand(content, shown):
    """Whatever is around them; no byte moves."""
    assert masked(content) == shown


@pytest.mark.parametrize("around", [b"12", b"9", b"000"])
def test_a_card_number_among_more_digits_is_masked(around):
    """Where it begins cannot be known."""
    assert b"4111111111111111" not in masked(around + b"4111111111111111" + around)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"411111111111",
        b"2026-11-21T21:08:50",
        b"tok_abc",
        b"4111--1111--1111--1111",
        b"1" * 11,
    ],
)
def test_the_rest_is_shown_as_it_is(content):
    """Too few digits, or no check digit that fits."""
    assert masked(content) == content


def test_a_value_of_nothing_but_digits_takes_no_time_to_speak_of():
    """The largest there may be."""
    assert len(masked(b"1234567890" * 6_553)) == 65_530
