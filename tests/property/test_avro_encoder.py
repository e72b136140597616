import io
import random
from typing import Any

import fastavro
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer.core.avro_encoder import (
    AvroEncoder,
    BatchColumns,
    Constant,
    DoubleColumn,
    FloatMatrix,
    LongColumn,
    OneText,
    Ready,
    ReadyColumns,
    TextColumn,
)
from consumer.core.batch import Text
from tests.property.avro_random import LONGS, TEXTS, SchemaMaker, Writer, without_logical_types

WIDTH = 3
KINDS = ("constant", "long", "enum", "double", "text", "one text", "floats", "ready")
ENUM = {"type": "enum", "symbols": ["A", "B", "C"]}
FLOATS = {"type": "array", "items": "float"}


class Batch:
    """n records of random columns, field by field: what to write, and what it must come to."""

    def __init__(self, draw: random.Random, kinds: list[str], n: int) -> None:
        self._draw = draw
        self._n = n
        self._maker = SchemaMaker(draw)
        self.types: list[Any] = []
        self.sources: dict[str, Any] = {}
        self.expected: list[list[bytes]] = []
        self.longs: list[list[int]] = []
        self.doubles: list[list[float]] = []
        self.texts: list[list[bytes]] = []
        self.ready: list[list[bytes]] = []
        self.floats = np.array(
            [[draw.uniform(-9, 9) for _ in range(WIDTH)] for _ in range(n)], np.float32
        ).reshape(n, WIDTH)
        for kind in kinds:
            type_, source, values = getattr(self, "_" + kind.replace(" ", "_"))()
            self.sources[f"f{len(self.types)}"] = source
            self.types.append(type_)
            self.expected.append(values)

    def _long(self):
        values = [self._draw.choice((*LONGS, self._draw.randint(-300, 300))) for _ in self.rows]
        self.longs.append(values)
        type_ = self._perhaps_null(self._draw.choice(["int", "long"]))
        return type_, LongColumn(len(self.longs) - 1), self._written(type_, "long", values)

    def _enum(self):
        values = [self._draw.randrange(3) for _ in self.rows]
        self.longs.append(values)
        type_ = ENUM | {"name": f"E{len(self.types)}"}
        symbols = [ENUM["symbols"][value] for value in values]
        return type_, LongColumn(len(self.longs) - 1), self._written(type_, type_, symbols)

    def _double(self):
        values = [self._draw.choice((self._draw.random(), -0.0, 1e308)) for _ in self.rows]
        self.doubles.append(values)
        type_ = self._perhaps_null("double")
        return type_, DoubleColumn(len(self.doubles) - 1), self._written(type_, "double", values)

    def _text(self):
        type_ = self._perhaps_null("string")
        name, values = self._text_column()
        return type_, TextColumn(name), self._written(type_, "bytes", values)

    def _one_text(self):
        name, values = self._text_column()
        type_ = {"type": "array", "items": "string"}
        return type_, OneText(name), self._written(type_, type_, [[v.decode()] for v in values])

    def _floats(self):
        type_ = self._draw.choice([FLOATS, ["null", FLOATS]])
        return type_, FloatMatrix(WIDTH), self._written(type_, FLOATS, self.floats.tolist())

    def _ready(self):
        type_ = self._maker.type(2)
        writer = Writer(self._draw, self._maker.named)
        values = [writer.write(type_) for _ in self.rows]
        self.ready.append(values)
        return type_, Ready(len(self.ready) - 1), values

    def _constant(self):
        type_ = self._draw.choice(
            ["int", "string", ["null", "string"], ["null", "long"], "boolean"]
        )
        value = {"int": -7, "string": "é", "boolean": True}.get(str(type_))
        out = io.BytesIO()
        fastavro.schemaless_writer(out, type_, value)
        return type_, Constant(value), [out.getvalue()] * self._n

    @property
    def rows(self):
        return range(self._n)

    def _text_column(self) -> tuple[str, list[bytes]]:
        values = [self._draw.choice(TEXTS).encode() for _ in self.rows]
        self.texts.append(values)
        return f"text{len(self.texts) - 1}", values

    def _perhaps_null(self, type_):
        return self._draw.choice([type_, ["null", type_], [type_, "null"]])

    def _written(self, type_, inner, values) -> list[bytes]:
        """Write by fastavro, behind the index of the branch that is not null."""
        branch = b"" if not isinstance(type_, list) else bytes([2 * (type_[0] == "null")])
        written = []
        for value in values:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, inner, value)
            written.append(branch + out.getvalue())
        return written

    def schema(self) -> dict[str, Any]:
        fields = [{"name": f"f{k}", "type": type_} for k, type_ in enumerate(self.types)]
        record = {"type": "record", "name": "Record", "fields": fields}
        return self._maker.defined_once(record, set())

    def columns(self) -> BatchColumns:
        names = tuple(f"text{k}" for k in range(len(self.texts)))
        buffer, starts, lengths = spans(self._draw, self.texts, self._n)
        ready = ReadyColumns(*spans(self._draw, self.ready, self._n))
        return BatchColumns(
            np.array(self.longs, np.int64).reshape(len(self.longs), self._n),
            np.array(self.doubles, np.float64).reshape(len(self.doubles), self._n),
            Text(names, np.frombuffer(buffer, np.uint8), starts, lengths),
            self.floats,
            ready,
        )


def spans(draw, columns, n):
    """Lay the values out in one buffer, in no order and with gaps."""
    buffer, starts = b"?", np.zeros((len(columns), n), np.int64)
    places = [(slot, row) for slot in range(len(columns)) for row in range(n)]
    draw.shuffle(places)
    for slot, row in places:
        starts[slot, row] = len(buffer)
        buffer += columns[slot][row] + b"?" * draw.randrange(3)
    lengths = np.array([list(map(len, column)) for column in columns], np.int64)
    return buffer, starts, lengths.reshape(len(columns), n)


@given(st.lists(st.sampled_from(KINDS), max_size=8), st.integers(0, 6), st.integers(0, 2**32))
def test_records_are_what_fastavro_would_have_written(kinds, n, seed):
    """Field by field and byte for byte, whatever feeds the fields and wherever it lies."""
    batch = Batch(random.Random(seed), kinds, n)
    schema = batch.schema()
    columns = batch.columns()
    encoder = AvroEncoder(schema, batch.sources, columns.text.names)

    values = encoder.encode(columns)

    header = schemas.single_object_header(schema)
    assert values == [
        header + b"".join(column[row] for column in batch.expected) for row in range(n)
    ]
    for value in values:
        body = io.BytesIO(value[10:])
        fastavro.schemaless_reader(body, without_logical_types(schema), None)
        assert body.read() == b""
