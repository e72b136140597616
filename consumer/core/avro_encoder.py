"""Columns -> Avro values in single-object encoding, a whole batch at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any, Final, TypeAlias

import fastavro
import numpy as np
from numpy.typing import NDArray

import schemas
from consumer.core import encode_kernel as op
from consumer.core.batch import Text
from consumer.records import Longs


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every record; `value` as fastavro takes it."""

    value: Any


@dataclass(frozen=True, slots=True)
class LongColumn:
    """
    An int, long or enum field, or a union of null and one, from the long column of this number.
    """

    slot: int


@dataclass(frozen=True, slots=True)
class DoubleColumn:
    """A double field, or a union of null and one, from the double column of this number."""

    slot: int


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A string field, or a union of null and one, from the text column of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class OneText:
    """An array of strings that holds one, from the text column of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """
    An array of floats, from the matrix: `width` in every record. May be a union's second branch.
    """

    width: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A field that comes encoded: the ready column of this number."""

    slot: int


Source: TypeAlias = (
    Constant | LongColumn | DoubleColumn | TextColumn | OneText | FloatMatrix | Ready
)


@dataclass(frozen=True, slots=True)
class ReadyColumns:
    """Encoded values as spans of one buffer: starts and lengths int64[slots, n]."""

    buffer: bytes
    starts: Longs
    lengths: Longs


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """
    n records to write: int64[slots, n], float64[slots, n], text, float32[n, width], ready bytes.
    """

    longs: Longs
    doubles: NDArray[np.float64]
    text: Text
    floats: NDArray[np.float32]
    ready: ReadyColumns


class AvroEncoder:
    """Writes one record schema from columns; the sources name every field of the schema."""

    def __init__(
        self, schema: schemas.Schema, sources: Mapping[str, Source], text_names: Sequence[str]
    ) -> None:
        """Compile the schema. Raises KeyError for a field without a source."""
        self._steps: list[list[int]] = []
        self._pool = bytearray()
        self._fixed_bytes = 0
        self._spans_used: list[int] = []  # text columns, then ready ones, as often as written
        self._text_names: Final = tuple(text_names)
        self._constant(schemas.single_object_header(schema))
        for part in schema["fields"]:
            self._field(part["type"], sources[part["name"]])
        self._program = np.array(self._steps, np.uintp)
        self._pool_bytes = np.frombuffer(bytes(self._pool), np.uint8)

    def encode(self, columns: BatchColumns) -> list[bytes]:
        """Return one value for each record of the batch."""
        n = columns.longs.shape[1]
        text = columns.text
        if text.names != self._text_names:
            raise ValueError(f"text columns are {text.names}, compiled for {self._text_names}")
        ready = columns.ready
        spans = np.concatenate((text.lengths.sum(axis=1), ready.lengths.sum(axis=1)))
        size = n * self._fixed_bytes + int(spans[self._spans_used].sum())
        out = np.empty(size, np.uint8)
        bounds = np.empty(n + 1, np.int64)
        op.encode(
            self._program, self._pool_bytes, columns.longs, columns.doubles,
            text.buffer, text.starts, text.lengths,
            np.ascontiguousarray(columns.floats, "<f4").view(np.uint8),
            np.frombuffer(ready.buffer, np.uint8), ready.starts, ready.lengths, out, bounds,
        )  # fmt: skip
        data = out[: bounds[-1]].tobytes()
        ends = bounds.tolist()
        return [data[start:end] for start, end in pairwise(ends)]

    def _field(self, schema: Any, source: Source) -> None:
        match source:
            case Constant(value):
                self._constant(encoded(schema, value))
            case LongColumn() | DoubleColumn() | TextColumn():
                if isinstance(schema, list):
                    self._constant(bytes([2 * (schema[0] == "null")]))  # zig-zag of the branch
                self._column(source)
            case OneText(name):
                self._constant(b"\x02")  # a block of one item
                self._column(TextColumn(name))
                self._constant(b"\0")
            case FloatMatrix(width):
                ready = encoded(schema, [0.0] * width)
                self._constant(ready[: -4 * width - 1])
                self._step(op.FLOATS, 0, most_bytes=4 * width)
                self._constant(ready[-1:])
            case Ready(slot):
                self._spans_used.append(len(self._text_names) + slot)
                self._step(op.READY, slot, most_bytes=0)

    def _column(self, source: LongColumn | DoubleColumn | TextColumn) -> None:
        match source:
            case LongColumn(slot):
                self._step(op.LONG, slot, most_bytes=op.LONGEST_LONG_BYTES)
            case DoubleColumn(slot):
                self._step(op.DOUBLE, slot, most_bytes=8)
            case TextColumn(name):
                slot = self._text_names.index(name)
                self._spans_used.append(slot)
                self._step(op.TEXT, slot, most_bytes=op.LONGEST_LONG_BYTES)

    def _constant(self, data: bytes) -> None:
        """Add bytes that stand in every record, to the run before them where there is one."""
        if self._steps and self._steps[-1][0] == op.CONSTANT:
            self._steps[-1][2] += len(data)
        else:
            self._step(op.CONSTANT, len(self._pool), len(data), most_bytes=0)
        self._pool += data
        self._fixed_bytes += len(data)

    def _step(self, kind: int, slot: int, length: int = 0, *, most_bytes: int) -> None:
        self._steps.append([kind, slot, length])
        self._fixed_bytes += most_bytes


def encoded(schema: Any, value: Any) -> bytes:
    """Return the value in plain Avro binary, without a header; fastavro writes it."""
    out = BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()
