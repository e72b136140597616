import pytest

from consumer.core.card_numbers import masked


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
