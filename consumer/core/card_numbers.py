"""Card numbers in clear, looked for in whatever bytes are about to be shown to people."""

import re
from itertools import accumulate
from typing import Final

MASK: Final = b"*"
_RUN: Final = re.compile(rb"\d(?:[ -]?\d){11,}")
_DIGIT: Final = re.compile(rb"\d")
_FEWEST, _MOST = 12, 19


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
