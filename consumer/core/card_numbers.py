"""Card numbers in clear, wherever they stand among other bytes."""

import re
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
