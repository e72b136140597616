"""
Card numbers in clear, wherever they stand among other bytes.

What is kept from a copy for good is told with care, what is shown to people with none: a time in
microseconds may be masked, but no record lose its bytes for it.
"""

import re
from itertools import accumulate
from typing import Final

_CANDIDATE: Final = re.compile(rb"(?s)[2-6](?<![0-9].)(?:[ -]?[0-9]){12,18}+(?![0-9])")
"""
13 to 19 digits, spaces or hyphens between them, that begin as payment networks' numbers do
(ISO/IEC 7812-1). So a time in microseconds is none by chance.
"""
_UUID: Final = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)
_UUID_BYTES: Final = 36

_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
"""Every second digit, from the right, counts as the sum of the digits of its double."""

MASK: Final = b"*"
_RUN: Final = re.compile(rb"\d(?:[ -]?\d){11,}")
_DIGIT: Final = re.compile(rb"\d")
_FEWEST, _MOST = 12, 19


def holds_card_number(data: bytes | None) -> bool:
    """Say whether such digits that pass Luhn's check (ISO/IEC 7812-1, annex B) stand in there."""
    return data is not None and any(
        _passes_luhn(found[0]) and not _is_of_a_uuid(data, *found.span())
        for found in _CANDIDATE.finditer(data)
    )


def _passes_luhn(text: bytes) -> bool:
    digits = text.translate(None, b" -")
    total = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - len(digits) * ord("0")
    return total % 10 == 0


def _is_of_a_uuid(data: bytes, start: int, end: int) -> bool:
    """Say whether the digits are a stretch of a UUID, of which every payment has some."""
    near = _UUID.finditer(data, max(0, start - _UUID_BYTES), end + _UUID_BYTES)
    return any(uuid.start() <= start and end <= uuid.end() for uuid in near)


def masked(content: bytes) -> bytes:
    """
    Return the bytes with `*` for every digit of what may be a card number, as long as they were.

    That is 12 to 19 digits of ASCII, with single spaces or hyphens between them or none, that pass
    Luhn's check (ISO/IEC 7812-1, annex B), wherever they stand among more digits.
    """
    return _RUN.sub(_masked_run, content)


def _masked_run(run: re.Match[bytes]) -> bytes:
    places = [match.start() for match in _DIGIT.finditer(run[0])]
    digits = [run[0][at] - ord("0") for at in places]
    content = bytearray(run[0])
    # Luhn doubles every second digit from the right: by where a number ends, the odd or the even.
    sums = [
        [0, *accumulate(_doubled(d) if at % 2 == parity else d for at, d in enumerate(digits))]
        for parity in (0, 1)
    ]
    unmasked = 0
    for begin in range(len(digits) - _FEWEST + 1):
        for end in range(begin + _FEWEST, min(begin + _MOST, len(digits)) + 1):
            if (sums[end % 2][end] - sums[end % 2][begin]) % 10 == 0:
                for at in places[max(begin, unmasked) : end]:
                    content[at : at + 1] = MASK
                unmasked = max(unmasked, end)
    return bytes(content)


def _doubled(digit: int) -> int:
    return 2 * digit - 9 * (digit > 4)  # noqa: PLR2004 - the double of the rest has two digits
