"""
The decoder held against fastavro: one case is a schema, columns of it, and values good and bad.

Run as a module it checks many cases without pytest, so that a crash of the kernel ends a child
process and not the test run: `python -m tests.property.decoder_oracle SEED VALUES`.
"""

import io
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np

import schemas
from consumer.core.avro_decoder import AvroDecoder, Columns
from consumer.core.avro_program import Column
from consumer.records import Status
from tests.property.avro_random import (
    SYMBOLS,
    SchemaMaker,
    Writer,
    leaves,
    mutated,
    without_logical_types,
)

HEADER = 10
MUTANTS = 60
_KINDS = {
    "int": {"long", "double"},
    "long": {"long", "double"},
    "boolean": {"boolean"},
    "float": {"double"},
    "double": {"double"},
    "string": {"string"},
    "bytes": {"string"},
    "fixed": {"string"},
    "enum": {"enum"},
}
_NOTHING = object()


@dataclass(frozen=True)
class Case:
    """Writer schemas, the columns kept of them, valid values, and values tampered with."""

    writers: list[dict[str, Any]]
    columns: list[Column]
    valid: list[bytes]
    tampered: list[bytes]
    max_bytes: int


def case_from(draw: random.Random, seed: int) -> Case:
    """Return a case: `draw` chooses the schemas, the seed all the rest."""
    makers = [SchemaMaker(draw, prefix) for prefix in ("T", "S")[: draw.choice((1, 1, 2))]]
    writers = [maker.schema() for maker in makers]
    rest = random.Random(seed)
    columns = [
        column
        for maker, writer in zip(makers, writers, strict=True)
        for column in _columns(writer, maker.named, rest, alone=len(makers) == 1)
    ]
    columns.append(Column("missing.everywhere", "long", default=7))
    valid = [
        schemas.single_object_header(writer) + Writer(rest, maker.named).write(writer)
        for maker, writer in zip(makers, writers, strict=True)
        for _ in range(4)
    ]
    tampered = [mutated(rest.choice(valid), valid, rest, HEADER) for _ in range(MUTANTS)]
    max_bytes = rest.choice((10, 64, 65_536, 65_536, 65_536))
    return Case(writers, columns, valid, tampered, max_bytes)


def _columns(
    writer: dict[str, Any], named: dict[str, Any], draw: random.Random, *, alone: bool
) -> Iterator[Column]:
    for leaf in leaves(writer, named):
        kinds = set.intersection(
            *(_KINDS[kind if isinstance(kind, str) else kind["type"]] for kind in leaf.types)
        )
        if not kinds or draw.random() < 0.25:
            continue
        needed = alone and leaf.always and draw.random() < 0.5
        symbols = tuple(draw.sample(SYMBOLS, draw.randint(1, len(SYMBOLS))))
        kind = draw.choice(sorted(kinds))
        default = None if needed else draw.choice((0, 1) if kind == "enum" else (0, 1, -5))
        yield Column(leaf.path, kind, default, symbols if kind == "enum" else ())  # type: ignore[arg-type]


class Oracle:
    """Says by fastavro what the decoder must make of a value."""

    def __init__(self, case: Case) -> None:
        self._case = case
        plain = [fastavro.parse_schema(without_logical_types(writer)) for writer in case.writers]
        self._by_header = dict(
            zip(map(schemas.single_object_header, case.writers), plain, strict=True)
        )

    def refusal_of_header(self, value: bytes) -> Status | None:
        """Return what is wrong before the first byte of the record, if anything is."""
        if len(value) > self._case.max_bytes:
            return Status.OVERSIZE
        if (value[:1] == b"\0" and len(value) >= 5) or (value[:1] == b"\1" and len(value) >= 17):
            return Status.SCHEMA_NOT_ALLOWED  # an id of a registry, and none is told
        if len(value) < HEADER or value[:2] != schemas.SINGLE_OBJECT_MARKER:
            return Status.FRAMING
        return None if value[:HEADER] in self._by_header else Status.SCHEMA_NOT_ALLOWED

    def read(self, value: bytes) -> tuple[Any, int, bool] | None:
        """Return the record, how many bytes are left, and whether fastavro writes it alike."""
        schema = self._by_header[value[:HEADER]]
        body = io.BytesIO(value[HEADER:])
        try:
            record = fastavro.schemaless_reader(body, schema, None)
        except Exception:  # noqa: BLE001 - fastavro raises whatever a fault leads to
            return None
        left = len(value) - HEADER - body.tell()
        again = io.BytesIO()
        try:
            fastavro.schemaless_writer(again, schema, record)
        except Exception:  # noqa: BLE001 - a number too large for the schema, for one
            return record, left, False
        return record, left, again.getvalue() == value[HEADER:]

    def expected(self, record: Any, column: Column) -> Any:
        """Return what the column must hold; _NOTHING where the record must be refused for it."""
        value = record
        for name in column.path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict | list):
            return _NOTHING if column.default is None else _stored(column, column.default)
        if column.kind == "enum":
            if value in column.symbols:
                return column.symbols.index(value)
            return _NOTHING if column.default is None else column.default
        return value.encode() if isinstance(value, str) else value


def _stored(column: Column, default: float) -> Any:
    return b"" if column.kind == "string" else default


def has_odd_float(value: Any) -> bool:
    """Say whether a float that is no number is anywhere in the value."""
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(has_odd_float, value.values()))
        case list():
            return any(map(has_odd_float, value))
    return False


def cell(columns: Columns, column: Column, row: int) -> Any:
    """Return what the decoder put into one column of one record."""
    if column.kind == "string":
        return columns.text.bytes_of(column.path, row)
    slot = columns.slots[column.path]
    return (columns.doubles if column.kind == "double" else columns.longs)[slot, row]


def same(found: Any, expected: Any) -> bool:
    """Compare cells; a double must have the very bits, but for those that NaN has to spare."""
    if isinstance(found, np.float64):
        return bool(np.float64(expected).tobytes() == found.tobytes() or np.isnan(expected))
    return bool(found == expected)


def check(case: Case) -> int:
    """Hold the decoder against fastavro for every value of the case; return how many it held."""
    decoder = AvroDecoder(case.writers, case.columns, case.max_bytes)
    oracle = Oracle(case)
    values = [*case.valid, *case.tampered]
    random.Random(len(values)).shuffle(values)
    columns = decoder.decode(values)
    for row, value in enumerate(values):
        _check_value(oracle, case, columns, row, value)
    _check_neighbours(decoder, case, values, columns)
    return len(case.tampered)


def _check_value(oracle: Oracle, case: Case, columns: Columns, row: int, value: bytes) -> None:
    status = Status(columns.statuses[row])
    told = f"{value.hex()} of {case.writers} with {case.columns}: {status.name}"
    refused = oracle.refusal_of_header(value)
    if refused is not None:
        assert status is refused, f"{told}, not {refused.name}"
        return
    reading = oracle.read(value)
    if status is Status.GOOD:
        assert reading is not None, f"{told}, and fastavro refuses it"
        record, left, _ = reading
        assert left == 0, f"{told}, and {left} bytes are left"
        for column in case.columns:
            expected = oracle.expected(record, column)
            found = cell(columns, column, row)
            assert expected is not _NOTHING, f"{told}, without {column.path}"
            assert same(found, expected), f"{told}, {column.path} {found!r}, not {expected!r}"
    if status in {Status.TRAILING, Status.NOT_FINITE}:
        assert reading is not None, f"{told}, and fastavro refuses it"
        assert (reading[1] > 0) is (status is Status.TRAILING), told
    if reading is not None and (value in case.valid or (reading[2] and reading[1] == 0)):
        lacks = any(oracle.expected(reading[0], column) is _NOTHING for column in case.columns)
        expected_status = Status.NOT_FINITE if has_odd_float(reading[0]) else Status.GOOD
        expected_status = Status.DECODE if lacks else expected_status
        if not reading[2] and status is Status.NOT_FINITE:  # under a key that came twice, perhaps
            return
        assert status is expected_status, f"{told}, not {expected_status.name}"


def _check_neighbours(
    decoder: AvroDecoder, case: Case, values: Sequence[bytes], columns: Columns
) -> None:
    """The valid records read the same alone as among the others."""
    alone = decoder.decode(case.valid)
    rows = [values.index(value) for value in case.valid]
    assert alone.statuses.tolist() == columns.statuses[rows].tolist()
    for column in case.columns:
        for row, neighbour in zip(range(len(case.valid)), rows, strict=True):
            if alone.statuses[row] == Status.GOOD:
                told = f"{column.path} of {case.valid[row].hex()} depends on its neighbours"
                assert same(cell(columns, column, neighbour), cell(alone, column, row)), told


def main(seed: int, least: int) -> int:
    """Check cases until so many tampered values were held against fastavro."""
    held = 0
    while held < least:
        draw = random.Random(seed)
        held += check(case_from(draw, seed))
        seed += 1
    return held


if __name__ == "__main__":
    sys.stdout.write(f"{main(int(sys.argv[1]), int(sys.argv[2]))}\n")
