import subprocess
import sys

import numpy as np
import pytest

from consumer.core.avro_encoder import (
    AvroEncoder,
    BatchColumns,
    Constant,
    LongColumn,
    ReadyColumns,
    TextColumn,
    encoded,
)
from consumer.core.batch import Text
from tests.builders import record_schema, single_object, varint

NO_READY = ReadyColumns(b"\0", np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64))


def columns(n=0, longs=(), texts=()):
    """Return columns of longs and of text, the text columns named a, b, ..."""
    data = b"".join(text for column in texts for text in column)
    lengths = np.array([list(map(len, column)) for column in texts], np.int64)
    lengths = lengths.reshape(len(texts), n)
    starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
    return BatchColumns(
        np.array(longs, np.int64).reshape(len(longs), n),
        np.empty((0, n)),
        Text(tuple("abc"[: len(texts)]), np.frombuffer(data or b"\0", np.uint8), starts, lengths),
        np.empty((n, 0), np.float32),
        NO_READY,
    )


@pytest.mark.parametrize(
    "number", [0, -1, 1, 63, -64, 64, 2**31, 2**62, -(2**62), 2**63 - 1, -(2**63)]
)
def test_numbers_of_every_length_are_written(number):
    """Zig-zag varints of up to ten bytes, as short as they can be."""
    schema = record_schema(x="long")

    values = AvroEncoder(schema, {"x": LongColumn(0)}, ()).encode(columns(1, [[number]]))

    assert values == [single_object(schema, varint(number))]


def test_a_field_without_a_source_is_an_error():
    """It is found when the encoder is built, not when a payment waits."""
    with pytest.raises(KeyError, match="y"):
        AvroEncoder(record_schema(x="long", y="long"), {"x": LongColumn(0)}, ())


def test_text_columns_must_be_those_it_was_compiled_for():
    """Their numbers are compiled in."""
    encoder = AvroEncoder(record_schema(x="string"), {"x": TextColumn("b")}, ("b", "a"))

    with pytest.raises(ValueError, match="compiled for"):
        encoder.encode(columns(1, [[0]], [[b"1"], [b"2"]]))


def test_a_record_of_constants_is_the_same_every_time():
    """Nothing is computed for it."""
    schema = record_schema(x="long", y="string")
    encoder = AvroEncoder(schema, {"x": Constant(-1), "y": Constant("é")}, ())

    values = encoder.encode(columns(3))

    assert values == [single_object(schema, b"\x01\x04\xc3\xa9")] * 3


def test_no_records_make_no_values():
    """An empty batch."""
    encoder = AvroEncoder(record_schema(x="long"), {"x": LongColumn(0)}, ())

    assert encoder.encode(columns(0, [[]])) == []


def test_a_value_can_be_encoded_by_itself():
    """Without a header, for fields that come ready."""
    assert encoded({"type": "array", "items": "long"}, [1, -1]) == b"\x04\x02\x01\x00"


TWICE = """
from consumer.core.avro_encoder import AvroEncoder, TextColumn
from tests.builders import record_schema, single_object, sized
from tests.unit.consumer.core.test_avro_encoder import columns
schema = record_schema(x="string", y="string")
encoder = AvroEncoder(schema, {"x": TextColumn("a"), "y": TextColumn("a")}, ("a",))
text = b"t" * 100_000
assert encoder.encode(columns(1, [[0]], [[text]])) == [single_object(schema, sized(text) * 2)]
"""


def test_a_text_column_may_feed_two_fields():
    """There is room for both. In a child: the kernel checks no bound and could end its process."""
    child = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, check=False)

    assert (child.returncode, child.stderr.decode()) == (0, "")
