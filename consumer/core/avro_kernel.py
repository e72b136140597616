"""
The Avro decoder: a schema compiled to a table of instructions (avro_program.py), run over a whole
batch.

One generic kernel serves every schema, so it is compiled once and kept on disk. Numba checks no
index, so every read is checked here against the end of its record, and every jump comes from the
compiler. An item of a block takes at least one byte (the compiler refuses other schemas), so the
work is bounded by the length of the record.
"""

from typing import Final

import numba
import numpy as np

from consumer.core.bytes_kernel import word

# Instructions. A row of the program is (operation, slot or -1, argument, argument).
NULL: Final = 0
BOOLEAN: Final = 1
LONG: Final = 2  # third: 1 stores it as a double
FLOAT: Final = 3
DOUBLE: Final = 4
BYTES: Final = 5
STRING: Final = 6
ENUM: Final = 7  # third: number of symbols; fourth: where its translation starts
FIXED: Final = 8  # third: size
UNION: Final = 9  # third: number of branches; as many jumps follow, a table
JUMP: Final = 10  # third: where to
LOOP: Final = 11  # third: where to go when no block is left
NEXT_ITEM: Final = 12
STOP: Final = 13
REFUSE: Final = 14  # null where a value is needed
OPTIONAL_STRING: Final = 15  # null or a string, and nobody asked for it: one step, not three

MAX_DEPTH: Final = 16

GOOD: Final = 0
TOMBSTONE: Final = 1
OVERSIZE: Final = 2
FRAMING: Final = 3
SCHEMA_NOT_ALLOWED: Final = 4
DECODE: Final = 5
TRAILING: Final = 6
NOT_FINITE: Final = 7

# Positions are unsigned: numba counts a signed index from the end when it is negative, and that
# test costs several times the reading. A failed read answers FAILED for its position.
FAILED = np.uintp(2**64 - 1)
_ONE = np.uintp(1)
_FOUR = np.uintp(4)
_EIGHT = np.uintp(8)
SINGLE_OBJECT: Final = 10  # bytes of a header: marker and fingerprint
REGISTRY_ID: Final = 5  # a byte 0, and the number of the schema
REGISTRY_GUID: Final = 17  # a byte 1, and the GUID of the schema
_SEVEN_BITS = np.uint64(0x7F)
_SHIFT = np.uint64(7)
_HIGH_BITS = np.uint64(0x8080808080808080)


@numba.njit(cache=True)
def _varint(buffer, at, end):
    """Return a zig-zag long and the position after it; FAILED if truncated or over 64 bits."""
    if at < end and buffer[at] < 128:  # nearly all: indices of unions, lengths of text
        short = np.int64(buffer[at])
        return (short >> 1) ^ -(short & 1), at + _ONE
    raw = np.uint64(0)
    shift = np.uint64(0)
    for k in range(10):
        if at >= end:
            return np.int64(0), FAILED
        byte = np.uint64(buffer[at])
        at += _ONE
        if k == 9 and byte > 1:
            return np.int64(0), FAILED
        raw |= (byte & _SEVEN_BITS) << shift
        if byte < 128:
            return np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1)), at
        shift += _SHIFT
    return np.int64(0), FAILED


@numba.njit(cache=True)
def _four_bytes(buffer, at):
    raw = np.uint64(0)
    for k in range(_FOUR):
        raw |= np.uint64(buffer[at + k]) << (np.uint64(8) * np.uint64(k))
    return raw


@numba.njit(cache=True)
def _is_ascii(buffer, at, end):
    """Say whether no byte has its high bit, eight at a time; eight bytes lie before `end`."""
    while end - at >= _EIGHT:
        if word(buffer, at) & _HIGH_BITS != np.uint64(0):
            return False
        at += _EIGHT
    if at == end:
        return True
    beside = np.uint64(8) * (_EIGHT - (end - at))
    return (word(buffer, end - _EIGHT) >> beside) & _HIGH_BITS == np.uint64(0)


@numba.njit(cache=True)
def is_utf8(buffer, at, end):
    """Say whether the bytes, behind a header, are well-formed UTF-8 (Unicode 15, table 3-7)."""
    if _is_ascii(buffer, at, end):
        return True
    while at < end:
        lead = buffer[at]
        at += _ONE
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = np.uintp(1)
        elif 0xE0 <= lead <= 0xEF:
            more = np.uintp(2)
            low = 0xA0 if lead == 0xE0 else low
            high = 0x9F if lead == 0xED else high
        elif 0xF0 <= lead <= 0xF4:
            more = np.uintp(3)
            low = 0x90 if lead == 0xF0 else low
            high = 0x8F if lead == 0xF4 else high
        else:
            return False
        if end - at < more or buffer[at] < low or buffer[at] > high:
            return False
        for k in range(_ONE, more):
            if buffer[at + k] < 0x80 or buffer[at + k] > 0xBF:
                return False
        at += more
    return True


@numba.njit(cache=True)
def _schema_of(buffer, at, end, headers):
    """Return the position of the record's header in the allow-list, or minus its status."""
    size = end - at
    first, second = np.int64(0), np.int64(0)
    if size >= SINGLE_OBJECT and buffer[at] == 0xC3 and buffer[at + _ONE] == 0x01:
        length = SINGLE_OBJECT
        first = np.int64(word(buffer, at + np.uintp(2)))
    elif size >= REGISTRY_ID and buffer[at] == 0:
        length = REGISTRY_ID
        first = np.int64(_four_bytes(buffer, at + _ONE))
    elif size >= REGISTRY_GUID and buffer[at] == 1:
        length = REGISTRY_GUID
        first = np.int64(word(buffer, at + _ONE))
        second = np.int64(word(buffer, at + np.uintp(9)))
    else:
        return -FRAMING
    for k in range(headers.shape[0]):
        if headers[k, 1] == first and headers[k, 2] == second and headers[k, 0] == length:
            return k
    return -SCHEMA_NOT_ALLOWED


@numba.njit(cache=True, nogil=True)
def decode(
    buffer, bounds, max_bytes, headers, entries, program, translation,
    longs, doubles, starts, lengths, statuses,
):  # fmt: skip
    """
    Decode record i from buffer[bounds[i]:bounds[i+1]] into column i of each slot it projects.

    buffer uint8[bytes], bounds int64[n + 1], headers int64[schemas, 3], entries uintp[schemas],
    program int64[instructions, 4], translation int64; longs, starts and lengths int64[slots, n],
    doubles float64[slots, n], statuses int8[n]. A status other than GOOD on entry leaves the
    record alone.
    """
    loop_at = np.empty(MAX_DEPTH, np.uintp)
    items = np.empty(MAX_DEPTH, np.int64)
    for i in range(bounds.shape[0] - 1):
        if statuses[i] != GOOD:
            continue
        at, end = np.uintp(bounds[i]), np.uintp(bounds[i + 1])
        if bounds[i + 1] - bounds[i] > max_bytes:
            statuses[i] = OVERSIZE
            continue
        schema = _schema_of(buffer, at, end, headers)
        if schema < 0:
            statuses[i] = -schema
            continue
        at += np.uintp(headers[schema, 0])
        pc = entries[schema]
        depth = -1
        status = DECODE
        finite = True
        while True:
            operation, slot = program[pc, 0], program[pc, 1]
            if operation == LONG:
                value, at = _varint(buffer, at, end)
                if at == FAILED:
                    break
                if slot >= 0:
                    if program[pc, 2] == 1:
                        doubles[slot, i] = value
                    else:
                        longs[slot, i] = value
                pc += _ONE
            elif operation == STRING or operation == BYTES:
                value, at = _varint(buffer, at, end)
                length = np.uintp(value)
                if at == FAILED or value < 0 or length > end - at:
                    break
                if operation == STRING and not is_utf8(buffer, at, at + length):
                    break
                if slot >= 0:
                    starts[slot, i] = at
                    lengths[slot, i] = value
                at += length
                pc += _ONE
            elif operation == OPTIONAL_STRING:
                value, at = _varint(buffer, at, end)
                if at == FAILED or value < 0 or value > 1:
                    break
                if value == 1:
                    value, at = _varint(buffer, at, end)
                    length = np.uintp(value)
                    if at == FAILED or value < 0 or length > end - at:
                        break
                    if not is_utf8(buffer, at, at + length):
                        break
                    at += length
                pc += _ONE
            elif operation == UNION:
                value, at = _varint(buffer, at, end)
                if at == FAILED or value < 0 or value >= program[pc, 2]:
                    break
                pc = np.uintp(program[pc + _ONE + np.uintp(value), 2])
            elif operation == JUMP:
                pc = np.uintp(program[pc, 2])
            elif operation == NULL:
                pc += _ONE
            elif operation == ENUM:
                value, at = _varint(buffer, at, end)
                if at == FAILED or value < 0 or value >= program[pc, 2]:
                    break
                if slot >= 0:
                    symbol = translation[program[pc, 3] + value]
                    if symbol < 0:
                        break
                    longs[slot, i] = symbol
                pc += _ONE
            elif operation == BOOLEAN:
                if at >= end:
                    break
                if slot >= 0:
                    longs[slot, i] = buffer[at] != 0
                at += _ONE
                pc += _ONE
            elif operation == DOUBLE:
                if end - at < _EIGHT:
                    break
                wide = np.uint64(word(buffer, at)).view(np.float64)
                finite = finite and np.isfinite(wide)
                if slot >= 0:
                    doubles[slot, i] = wide
                at += _EIGHT
                pc += _ONE
            elif operation == FLOAT:
                if end - at < _FOUR:
                    break
                narrow = np.uint32(_four_bytes(buffer, at)).view(np.float32)
                finite = finite and np.isfinite(narrow)
                if slot >= 0:
                    doubles[slot, i] = narrow
                at += _FOUR
                pc += _ONE
            elif operation == FIXED:
                length = np.uintp(program[pc, 2])
                if end - at < length:
                    break
                if slot >= 0:
                    starts[slot, i] = at
                    lengths[slot, i] = length
                at += length
                pc += _ONE
            elif operation == LOOP:
                value, at = _varint(buffer, at, end)
                if at == FAILED:
                    break
                if value < 0:  # a block that states its size in bytes, so that readers may skip it
                    value = -value
                    size, at = _varint(buffer, at, end)
                    if at == FAILED or value < 0 or size < 0:
                        break
                if value == 0:
                    pc = np.uintp(program[pc, 2])
                else:
                    depth += 1
                    loop_at[depth] = pc
                    items[depth] = value
                    pc += _ONE
            elif operation == NEXT_ITEM:
                items[depth] -= 1
                pc = loop_at[depth]
                if items[depth] > 0:
                    pc += _ONE
                else:
                    depth -= 1
            elif operation == STOP:
                status = GOOD
                break
            else:  # REFUSE
                break
        if status == GOOD:
            if at != end:
                status = TRAILING
            elif not finite:
                status = NOT_FINITE
        statuses[i] = status
