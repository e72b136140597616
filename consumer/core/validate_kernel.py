"""What the Avro schema cannot say about a payment, checked for a whole batch."""

from typing import Final

import numba
import numpy as np

GOOD: Final = 0
ID: Final = 8
KEY: Final = 9
TIME: Final = 10
FUTURE: Final = 11
RANGE: Final = 12
CARD_NUMBER: Final = 13

EARLIEST: Final = 946_684_800_000_000  # 2000-01-01; earlier ones were sent as milliseconds
LATEST: Final = 4_102_444_800_000_000  # 2100-01-01
LARGEST_AMOUNT_MINOR: Final = 10**14
LARGEST_AMOUNT: Final = 10**16  # ten-thousandths; 64 bits hold the sum of 900 such payments
LARGEST_EXPONENT: Final = 4  # ISO 4217 has 0 to 4
LONGEST_ID_BYTES: Final = 256
UUID_BYTES: Final = 36
LONGEST_OFFSET_MINUTES: Final = 18 * 60
ABSENT: Final = -(2**63)

REVERSAL: Final = 3  # of the schema's TransactionKind
REFUND: Final = 4


@numba.njit(cache=True)
def _is_uuid(buffer, start, length):
    if length != UUID_BYTES:
        return False
    at = np.uintp(start)
    good = True
    for k in range(UUID_BYTES):
        c = buffer[at + np.uintp(k)]
        hyphen = k == 8 or k == 13 or k == 18 or k == 23
        lower = c | 0x20  # 'A' to 'F' as well
        good &= (c == 45) if hyphen else (48 <= c <= 57 or 97 <= lower <= 102)
    return good


@numba.njit(cache=True)
def _is_card_number(buffer, start, length):
    """
    12 to 19 digits, spaces and hyphens apart, that pass Luhn's check (ISO/IEC 7812-1, annex B).
    """
    digits = np.int64(0)
    total = np.int64(0)
    for k in range(length - 1, -1, -1):
        c = buffer[np.uintp(start + k)]
        if c == 32 or c == 45:
            continue
        if c < 48 or c > 57:
            return False
        digit = np.int64(c) - 48
        if digits % 2 == 1:
            digit = digit * 2 - 9 * (digit > 4)
        total += digit
        digits += 1
    return 12 <= digits <= 19 and total % 10 == 0


@numba.njit(cache=True)
def _same(a, a_start, a_length, b, b_start, b_length):
    if a_length != b_length:
        return False
    at, other = np.uintp(a_start), np.uintp(b_start)
    for k in range(np.uintp(a_length)):
        if a[at + k] != b[other + k]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def validate(
    times, timestamps, furthest_ahead, kinds, amounts_minor, exponents, billing_minor,
    billing_exponents, utc_offsets, buffer, starts, lengths, card, keys, key_bounds,
    refuse_card_numbers, amounts, statuses,
):  # fmt: skip
    """
    Set statuses[i] where payment i breaks a rule, else amounts[i] to its ten-thousandths of a unit.

    Columns int64[n]; starts and lengths int64[ids, n], of which row `card` is the card id; keys
    uint8 with bounds int64[n + 1]; furthest_ahead in microseconds.
    """
    for i in range(times.shape[0]):
        if statuses[i] != GOOD:
            continue
        statuses[i] = ID
        if not _is_uuid(buffer, starts[0, i], lengths[0, i]):
            continue
        named = True
        for k in range(1, starts.shape[0]):
            named = named and 1 <= lengths[k, i] <= LONGEST_ID_BYTES
        if not named:
            continue
        if refuse_card_numbers and _is_card_number(buffer, starts[card, i], lengths[card, i]):
            statuses[i] = CARD_NUMBER
            continue
        statuses[i] = KEY
        start, end = key_bounds[i], key_bounds[i + 1]
        if not _same(buffer, starts[card, i], lengths[card, i], keys, start, end - start):
            continue
        statuses[i] = TIME
        if times[i] < EARLIEST or times[i] > LATEST:
            continue
        timestamp = min(timestamps[i], LATEST // 1000) * 1000
        if timestamp >= 0 and times[i] > timestamp + furthest_ahead:
            statuses[i] = FUTURE
            continue
        statuses[i] = RANGE
        amount, exponent = amounts_minor[i], exponents[i]
        if billing_minor[i] != ABSENT:
            amount, exponent = billing_minor[i], billing_exponents[i]
        if exponent < 0 or exponent > LARGEST_EXPONENT:
            continue
        if amount < -LARGEST_AMOUNT_MINOR or amount > LARGEST_AMOUNT_MINOR:
            continue
        if amount < 0 and kinds[i] != REVERSAL and kinds[i] != REFUND:
            continue
        if utc_offsets[i] < -LONGEST_OFFSET_MINUTES or utc_offsets[i] > LONGEST_OFFSET_MINUTES:
            continue
        for _ in range(LARGEST_EXPONENT - exponent):
            amount *= 10
        if amount < -LARGEST_AMOUNT or amount > LARGEST_AMOUNT:
            continue
        amounts[i] = amount
        statuses[i] = GOOD
