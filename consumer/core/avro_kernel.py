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

MAX_DEPTH: Final = 16
HEADER_BYTES: Final = 10  # marker and fingerprint of single-object encoding

GOOD: Final = 0
TOMBSTONE: Final = 1
OVERSIZE: Final = 2
FRAMING: Final = 3
SCHEMA_NOT_ALLOWED: Final = 4
DECODE: Final = 5
TRAILING: Final = 6
NOT_FINITE: Final = 7

_LOW_7 = np.uint64(0x7F)
_SEVEN = np.uint64(7)
_ONE = np.uint64(1)


@numba.njit(cache=True)
def _varint(buffer, at, end):
    """
    Return a zig-zag long and the position after it; position -1 when truncated or over 64 bits.
    """
    if at < end and buffer[at] < 128:  # nearly all: indices of unions, lengths of text
        byte = np.int64(buffer[at])
        return (byte >> 1) ^ -(byte & 1), at + 1
    raw = np.uint64(0)
    shift = np.uint64(0)
    for k in range(10):
        if at >= end:
            return np.int64(0), np.int64(-1)
        byte = buffer[at]
        at += 1
        if k == 9 and byte > 1:
            return np.int64(0), np.int64(-1)
        raw |= (np.uint64(byte) & _LOW_7) << shift
        if byte < 128:
            return np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE), at
        shift += _SEVEN
    return np.int64(0), np.int64(-1)


@numba.njit(cache=True)
def _little_endian(buffer, at, size):
    raw = np.uint64(0)
    for k in range(size):
        raw |= np.uint64(buffer[at + k]) << np.uint64(8 * k)
    return raw


@numba.njit(cache=True)
def is_utf8(buffer, at, end):
    """Say whether the bytes are well-formed UTF-8 (Unicode 15, table 3-7)."""
    every = np.uint8(0)
    for k in range(at, end):  # without a branch, so that it runs on whole registers
        every |= buffer[k]
    if every < 0x80:
        return True
    while at < end:
        lead = buffer[at]
        at += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            low = 0xA0 if lead == 0xE0 else low
            high = 0x9F if lead == 0xED else high
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            low = 0x90 if lead == 0xF0 else low
            high = 0x8F if lead == 0xF4 else high
        else:
            return False
        if end - at < more or buffer[at] < low or buffer[at] > high:
            return False
        for k in range(1, more):
            if buffer[at + k] < 0x80 or buffer[at + k] > 0xBF:
                return False
        at += more
    return True


@numba.njit(cache=True)
def _schema_of(buffer, at, end, fingerprints):
    """Return the position of the record's schema in the allow-list, or minus its status."""
    if end - at < HEADER_BYTES or buffer[at] != 0xC3 or buffer[at + 1] != 0x01:
        return -FRAMING
    found = np.int64(_little_endian(buffer, at + 2, 8))
    for k in range(fingerprints.shape[0]):
        if fingerprints[k] == found:
            return k
    return -SCHEMA_NOT_ALLOWED


@numba.njit(cache=True, nogil=True)
def decode(
    buffer, bounds, max_bytes, fingerprints, entries, program, translation,
    longs, doubles, starts, lengths, statuses,
):  # fmt: skip
    """
    Decode record i from buffer[bounds[i]:bounds[i+1]] into column i of each slot it projects.

    buffer uint8[bytes], bounds int64[n + 1], fingerprints and entries int64[schemas], program
    int64[instructions, 4], translation int64; longs, starts and lengths int64[slots, n], doubles
    float64[slots, n], statuses int8[n]. A status other than GOOD on entry leaves the record alone.
    """
    loop_at = np.empty(MAX_DEPTH, np.int64)
    items = np.empty(MAX_DEPTH, np.int64)
    for i in range(bounds.shape[0] - 1):
        if statuses[i] != GOOD:
            continue
        at, end = bounds[i], bounds[i + 1]
        if end - at > max_bytes:
            statuses[i] = OVERSIZE
            continue
        schema = _schema_of(buffer, at, end, fingerprints)
        if schema < 0:
            statuses[i] = -schema
            continue
        at += HEADER_BYTES
        pc = entries[schema]
        depth = -1
        status = DECODE
        finite = True
        while True:
            operation, slot = program[pc, 0], program[pc, 1]
            if operation == LONG:
                value, at = _varint(buffer, at, end)
                if at < 0:
                    break
                if slot >= 0:
                    if program[pc, 2] == 1:
                        doubles[slot, i] = value
                    else:
                        longs[slot, i] = value
                pc += 1
            elif operation == STRING or operation == BYTES:
                value, at = _varint(buffer, at, end)
                if at < 0 or value < 0 or value > end - at:
                    break
                if operation == STRING and not is_utf8(buffer, at, at + value):
                    break
                if slot >= 0:
                    starts[slot, i] = at
                    lengths[slot, i] = value
                at += value
                pc += 1
            elif operation == UNION:
                value, at = _varint(buffer, at, end)
                if at < 0 or value < 0 or value >= program[pc, 2]:
                    break
                pc = program[pc + 1 + value, 2]
            elif operation == JUMP:
                pc = program[pc, 2]
            elif operation == NULL:
                pc += 1
            elif operation == ENUM:
                value, at = _varint(buffer, at, end)
                if at < 0 or value < 0 or value >= program[pc, 2]:
                    break
                if slot >= 0:
                    symbol = translation[program[pc, 3] + value]
                    if symbol < 0:
                        break
                    longs[slot, i] = symbol
                pc += 1
            elif operation == BOOLEAN:
                if at >= end:
                    break
                if slot >= 0:
                    longs[slot, i] = buffer[at] != 0
                at += 1
                pc += 1
            elif operation == DOUBLE:
                if end - at < 8:
                    break
                wide = np.uint64(_little_endian(buffer, at, 8)).view(np.float64)
                finite = finite and np.isfinite(wide)
                if slot >= 0:
                    doubles[slot, i] = wide
                at += 8
                pc += 1
            elif operation == FLOAT:
                if end - at < 4:
                    break
                narrow = np.uint32(_little_endian(buffer, at, 4)).view(np.float32)
                finite = finite and np.isfinite(narrow)
                if slot >= 0:
                    doubles[slot, i] = narrow
                at += 4
                pc += 1
            elif operation == FIXED:
                if end - at < program[pc, 2]:
                    break
                if slot >= 0:
                    starts[slot, i] = at
                    lengths[slot, i] = program[pc, 2]
                at += program[pc, 2]
                pc += 1
            elif operation == LOOP:
                value, at = _varint(buffer, at, end)
                if at < 0:
                    break
                if value < 0:  # a block that states its size in bytes, so that readers may skip it
                    value = -value
                    size, at = _varint(buffer, at, end)
                    if at < 0 or value < 0 or size < 0:
                        break
                if value == 0:
                    pc = program[pc, 2]
                else:
                    depth += 1
                    loop_at[depth] = pc
                    items[depth] = value
                    pc += 1
            elif operation == NEXT_ITEM:
                items[depth] -= 1
                pc = loop_at[depth]
                if items[depth] > 0:
                    pc += 1
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
