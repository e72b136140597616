import math
import struct

import numpy as np
import pytest

import schemas
from consumer.core.avro_decoder import AvroDecoder, bounds_of
from consumer.core.avro_program import Column
from consumer.records import Status
from tests.builders import record_schema, single_object, sized, varint, written

LONG = record_schema(a="long")
KEEP_LONG = [Column("a", "long")]


def statuses(schema, bodies, columns=()) -> list[Status]:
    decoder = AvroDecoder([schema], columns, 65_536)
    values = [single_object(schema, body) for body in bodies]
    return [Status(status) for status in decoder.decode(values).statuses]


def longs(schema, column, bodies) -> list[int]:
    decoder = AvroDecoder([schema], [column], 65_536)
    columns = decoder.decode([single_object(schema, body) for body in bodies])
    assert set(columns.statuses.tolist()) <= {Status.GOOD}
    return columns.long(column.path).tolist()


@pytest.mark.bad_input("a1")
def test_a_tombstone_gets_its_status_and_nothing_more():
    """Null is no value: it is told apart from an empty one."""
    columns = AvroDecoder([LONG], KEEP_LONG, 100).decode([None, b""])

    assert columns.statuses.tolist() == [Status.TOMBSTONE, Status.FRAMING]


def test_an_empty_batch_has_empty_columns():
    """No records, no columns, no error."""
    columns = AvroDecoder([LONG], KEEP_LONG, 100).decode([])

    assert columns.long("a").shape == (0,)
    assert columns.statuses.shape == (0,)


@pytest.mark.bad_input("a3")
@pytest.mark.parametrize(
    "value",
    [
        b"\xc3",
        b"\xc3\x01",
        schemas.single_object_header(LONG)[:9],
        b"{" + schemas.single_object_header(LONG)[1:] + b"\x00",
        b"\xc3\x02" + schemas.single_object_header(LONG)[2:] + b"\x00",
        b"\x00\x00\x00\x01",
        b"\x01" + b"\x00" * 15,
        b'{"event_id": "00000000-0000-0000-0000-000000000000"}',
    ],
    ids=[
        "1 byte",
        "marker alone",
        "9 bytes",
        "first byte",
        "second byte",
        "number",
        "GUID",
        "json",
    ],
)
def test_a_value_without_the_marker_and_a_fingerprint_is_framing(value):
    """Ten bytes of header come first, or it is not single-object encoding."""
    columns = AvroDecoder([LONG], KEEP_LONG, 100).decode([value])

    assert columns.statuses.tolist() == [Status.FRAMING]


@pytest.mark.bad_input("a7")
def test_a_schema_of_the_same_shape_that_is_not_allowed_is_refused():
    """The fingerprint decides, not whether the bytes happen to fit."""
    other = record_schema(b="long")

    columns = AvroDecoder([LONG], KEEP_LONG, 100).decode([written(other, {"b": 1})])

    assert columns.statuses.tolist() == [Status.SCHEMA_NOT_ALLOWED]


def test_each_allowed_schema_is_read_by_its_own_layout():
    """Records of several versions may stand in one batch."""
    older = record_schema(a="long")
    newer = record_schema(note="string", a="int")
    values = [written(newer, {"note": "n", "a": 5}), written(older, {"a": 6})]

    columns = AvroDecoder([older, newer], KEEP_LONG, 100).decode(values)

    assert columns.long("a").tolist() == [5, 6]


@pytest.mark.bad_input("c4")
@pytest.mark.parametrize(("spare", "status"), [(0, Status.GOOD), (-1, Status.OVERSIZE)])
def test_a_value_may_have_as_many_bytes_as_allowed_and_not_one_more(spare, status):
    """The limit is on the whole value, header included."""
    value = written(record_schema(a="string"), {"a": "x" * 50})

    decoder = AvroDecoder([record_schema(a="string")], (), len(value) + spare)

    assert decoder.decode([value]).statuses.tolist() == [status]


@pytest.mark.bad_input("b2")
def test_a_header_without_a_body_does_not_decode():
    """A record of no bytes lacks its fields."""
    assert statuses(LONG, [b""]) == [Status.DECODE]


@pytest.mark.bad_input("b1")
def test_every_truncation_of_a_record_is_refused():
    """No field is ever read beyond the end of its own record."""
    schema = schemas.load("transaction")
    whole = _full_transaction()
    cuts = [whole[:length] for length in range(len(whole))]

    columns = AvroDecoder([schema], (), 65_536).decode([*cuts, whole])

    assert columns.statuses[-1] == Status.GOOD
    assert set(columns.statuses[:10].tolist()) == {Status.FRAMING}
    assert set(columns.statuses[10:-1].tolist()) == {Status.DECODE}


def _full_transaction() -> bytes:
    schema = schemas.load("transaction")
    record = {part["name"]: _filled(part["type"]) for part in schema["fields"]}
    return written(schema, record | {"event_id": "0" * 36})


def _filled(type_):
    match type_:
        case ["null", inner]:
            return _filled(inner)
        case {"type": "record", "fields": fields}:
            return {part["name"]: _filled(part["type"]) for part in fields}
        case {"type": "enum", "symbols": symbols}:
            return symbols[-1]
        case {"type": "map"}:
            return {"a": "b", "c": "d"}
        case {"type": inner}:
            return _filled(inner)
    return {"string": "text", "int": 7, "long": 7, "boolean": True, "double": 0.5}[type_]


@pytest.mark.bad_input("b3")
@pytest.mark.parametrize("more", [b"\x00", b"\xff", b"\x00" * 50])
def test_bytes_behind_the_record_are_trailing(more):
    """A value is one record and nothing else."""
    assert statuses(LONG, [varint(5) + more]) == [Status.TRAILING]


@pytest.mark.parametrize(
    "number", [0, -1, 1, 63, 64, -64, -65, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]
)
def test_numbers_of_every_length_are_read(number):
    """Zig-zag varints of up to 64 bits."""
    assert longs(LONG, Column("a", "long"), [varint(number)]) == [number]


@pytest.mark.parametrize(
    ("body", "number"), [(b"\x80\x00", 0), (b"\x82" + b"\x80" * 8 + b"\x00", 1)]
)
def test_a_number_longer_than_it_need_be_is_read(body, number):
    """The specification asks no writer for the shortest form, and fastavro reads the long ones."""
    assert longs(LONG, Column("a", "long"), [body]) == [number]


@pytest.mark.bad_input("b6")
@pytest.mark.parametrize(
    "body",
    [b"\x80" * 9 + b"\x02", b"\xff" * 9 + b"\x03", b"\x80" * 10 + b"\x00", b"\xff" * 10, b"\x80"],
    ids=["65 bits", "65 bits set", "11 bytes", "11 bytes, cut", "1 byte, cut"],
)
def test_a_number_of_more_than_64_bits_is_refused(body):
    """fastavro makes some other number of it without a word."""
    assert statuses(LONG, [body]) == [Status.DECODE]


def test_the_tenth_byte_of_a_number_holds_one_bit():
    """Nine bytes hold 63 bits, so the last of ten is 0 or 1."""
    assert longs(LONG, Column("a", "long"), [b"\xff" * 9 + b"\x01"]) == [-(2**63)]


@pytest.mark.bad_input("b4")
@pytest.mark.parametrize("kind", ["string", "bytes"])
@pytest.mark.parametrize("length", [4, 2**40, 2**62, 2**63 - 1, -1, -(2**63)])
def test_a_length_beyond_the_record_or_below_nothing_is_refused(kind, length):
    """Lengths are believed only as far as the record goes."""
    assert statuses(record_schema(a=kind), [varint(length) + b"abc"]) == [Status.DECODE]


@pytest.mark.parametrize(
    "text", ["", "plain", "x" * 300, "é", "€", "\U0001f600", "\U0010ffff", "퟿", "a\x00b"]
)
def test_well_formed_utf_8_is_kept_byte_for_byte(text):
    """One to four bytes a character, and the edges between the classes."""
    schema = record_schema(a="string")

    columns = AvroDecoder([schema], [Column("a", "string")], 1_000).decode(
        [written(schema, {"a": text})]
    )

    assert columns.text.bytes_of("a", 0) == text.encode()


@pytest.mark.bad_input("b5")
@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3",
        b"\xc3\x28",
        b"\xe0\x9f\xbf",
        b"\xe2\x82",
        b"\xe2\x28\xa1",
        b"\xe2\x82\x28",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x9f\x98",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
        b"abc\xe2\x82",
    ],
    ids=lambda data: data.hex(),
)
def test_malformed_utf_8_is_refused(data):
    """Table 3-7 of the Unicode standard, row by row: overlong, surrogate, beyond, cut."""
    with pytest.raises(UnicodeDecodeError):
        data.decode()

    assert statuses(record_schema(a="string"), [sized(data)]) == [Status.DECODE]


def test_malformed_utf_8_may_stand_in_bytes():
    """Only text has a coding."""
    assert statuses(record_schema(a="bytes"), [sized(b"\xff")]) == [Status.GOOD]


def test_a_character_must_end_within_its_text():
    """The bytes behind a text do not complete it."""
    schema = record_schema(a="string", b="bytes")

    assert statuses(schema, [sized(b"\xc3") + sized(b"\xa9")]) == [Status.DECODE]


@pytest.mark.bad_input("b7")
@pytest.mark.parametrize("index", [2, 7, -1, 2**40, -(2**63)])
def test_a_branch_that_a_union_does_not_have_is_refused(index):
    """An index outside is no branch, wherever Python would count from the end."""
    schema = record_schema(a=["null", "long"])

    assert statuses(schema, [varint(index) + b"\x02"]) == [Status.DECODE]


@pytest.mark.bad_input("b7")
@pytest.mark.parametrize("columns", [(), [Column("a", "enum", default=0, symbols=("X", "Y"))]])
@pytest.mark.parametrize("index", [2, 9, -1, 2**40])
def test_a_symbol_that_an_enumeration_does_not_have_is_refused(columns, index):
    """fastavro takes -1 for the last symbol."""
    schema = record_schema(a={"type": "enum", "name": "E", "symbols": ["X", "Y"]})

    assert statuses(schema, [varint(index)], columns) == [Status.DECODE]


@pytest.mark.bad_input("b8")
def test_any_byte_but_zero_is_true():
    """As fastavro and Java read it."""
    column = Column("a", "boolean")

    assert longs(record_schema(a="boolean"), column, [b"\x00", b"\x01", b"\x07"]) == [0, 1, 1]


@pytest.mark.bad_input("b9")
@pytest.mark.parametrize("kind", [{"type": "array", "items": "long"}, "map"])
def test_blocks_that_state_their_size_are_read(kind):
    """A negative count is followed by the bytes of the block, for readers that skip it."""
    map_ = kind == "map"
    schema = record_schema(a={"type": "map", "values": "long"} if map_ else kind, b="long")
    items = [(sized(b"k") if map_ else b"") + varint(k) for k in range(3)]
    block = varint(-3) + varint(len(b"".join(items))) + b"".join(items)

    body = block + varint(1) + items[0] + b"\x00" + varint(42)

    assert longs(schema, Column("b", "long"), [body]) == [42]


@pytest.mark.bad_input("c1")
@pytest.mark.parametrize(
    "body",
    [
        varint(-(2**63)) + varint(1) + b"\x00\x00",
        varint(-1) + varint(-1) + b"\x00\x00",
        varint(-1) + b"\x80",
        varint(2**62) + b"\x00" * 20,
        varint(3) + b"\x00\x00",
        b"",
    ],
    ids=["count -2^63", "size -1", "size cut", "count 2^62", "item missing", "no block"],
)
def test_blocks_whose_counts_cannot_be_are_refused(body):
    """Work is bounded by the length of the record, whatever a count claims."""
    schema = record_schema(a={"type": "array", "items": "long"})

    assert statuses(schema, [body]) == [Status.DECODE]


@pytest.mark.bad_input("b10")
def test_a_map_may_repeat_a_key():
    """The specification does not forbid it; nothing is kept of maps."""
    schema = record_schema(a={"type": "map", "values": "long"}, b="long")
    body = varint(2) + (sized(b"k") + varint(1)) * 2 + b"\x00" + varint(5)

    assert longs(schema, Column("b", "long"), [body]) == [5]


@pytest.mark.bad_input("d1")
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "form"), [("float", "<f"), ("double", "<d")])
@pytest.mark.parametrize("kept", [True, False])
def test_a_float_that_is_no_number_refuses_the_record(number, kind, form, kept):
    """Whether the field is kept or not: a later reader of the topic must not meet it either."""
    columns = [Column("a", "double")] if kept else ()

    assert statuses(record_schema(a=kind), [struct.pack(form, number)], columns) == [
        Status.NOT_FINITE
    ]


def test_a_record_cut_short_behind_nan_does_not_decode():
    """What cannot be read at all is told before what should not be in it."""
    schema = record_schema(a="double", b="long")

    assert statuses(schema, [struct.pack("<d", math.nan)]) == [Status.DECODE]


@pytest.mark.bad_input("d1")
@pytest.mark.parametrize("number", [-0.0, 5e-324, 1.7976931348623157e308])
def test_doubles_keep_their_bits(number):
    """The sign of zero and the smallest and largest of them included."""
    schema = record_schema(a="double")

    columns = AvroDecoder([schema], [Column("a", "double")], 100).decode(
        [written(schema, {"a": number})]
    )

    assert columns.doubles[0].tobytes() == struct.pack("<d", number)


@pytest.mark.parametrize("written_as", ["int", "long", "float", "double"])
def test_numbers_are_promoted_to_double(written_as):
    """As in Avro's schema resolution."""
    schema = record_schema(a=written_as)

    columns = AvroDecoder([schema], [Column("a", "double")], 100).decode(
        [written(schema, {"a": -3})]
    )

    assert columns.doubles[0].tolist() == [-3.0]


@pytest.mark.bad_input("a9")
def test_an_int_is_promoted_to_long():
    """A narrower writer is no fault."""
    schema = record_schema(a="int")

    assert longs(schema, Column("a", "long"), [varint(-(2**31))]) == [-(2**31)]


def test_a_field_that_the_writer_lacks_reads_as_its_default():
    """So older records stay readable."""
    column = Column("newer", "long", default=-7)

    assert longs(LONG, column, [varint(1)]) == [-7]


def test_null_reads_as_the_default():
    """The column has no other way to say that there is none."""
    schema = record_schema(a=["null", "long"])
    column = Column("a", "long", default=-7)

    assert longs(schema, column, [varint(0), varint(1) + varint(3)]) == [-7, 3]


def test_null_without_a_default_is_refused():
    """A payment without what is needed cannot be scored."""
    schema = record_schema(a=["null", "long"])

    assert statuses(schema, [varint(0), varint(1) + varint(3)], [Column("a", "long")]) == [
        Status.DECODE,
        Status.GOOD,
    ]


def test_a_null_record_gives_the_defaults_of_all_its_fields():
    """`device.ip_country` is absent when `device` is."""
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "b", "type": "long"}]}
    schema = record_schema(a=["null", inner])
    column = Column("a.b", "long", default=-7)

    assert longs(schema, column, [varint(0), varint(1) + varint(3)]) == [-7, 3]


def test_a_null_record_that_holds_a_needed_field_is_refused():
    """The field is missing, though nothing at its own place says so."""
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "b", "type": "long"}]}
    schema = record_schema(a=["null", inner])

    assert statuses(schema, [varint(0)], [Column("a.b", "long")]) == [Status.DECODE]


def test_a_branch_without_a_needed_field_is_refused():
    """A record of the other branch lacks the field as surely as null does."""
    with_b = {"type": "record", "name": "With", "fields": [{"name": "b", "type": "long"}]}
    without = {"type": "record", "name": "Without", "fields": [{"name": "c", "type": "long"}]}
    schema = record_schema(a=[with_b, without])
    bodies = [varint(0) + varint(3), varint(1) + varint(3)]

    assert statuses(schema, bodies, [Column("a.b", "long")]) == [Status.GOOD, Status.DECODE]


def test_symbols_are_read_in_the_order_of_the_reader():
    """Writers may add symbols anywhere: their numbers are not ours."""
    schema = record_schema(a={"type": "enum", "name": "E", "symbols": ["NEW", "B", "A"]})
    column = Column("a", "enum", default=0, symbols=("UNKNOWN", "A", "B"))

    assert longs(schema, column, [varint(0), varint(1), varint(2)]) == [0, 2, 1]


def test_a_symbol_unknown_to_a_reader_without_default_is_refused():
    """As in Avro's schema resolution; the symbols it knows stay readable."""
    schema = record_schema(a={"type": "enum", "name": "E", "symbols": ["NEW", "A"]})
    column = Column("a", "enum", symbols=("A",))

    assert statuses(schema, [varint(0), varint(1)], [column]) == [Status.DECODE, Status.GOOD]


def test_a_missing_text_is_of_no_bytes():
    """The default of text is the empty one."""
    schema = record_schema(a=["null", "string"])

    columns = AvroDecoder([schema], [Column("a", "string", default=0)], 100).decode(
        [written(schema, {"a": None}), written(schema, {"a": "x"})]
    )

    assert [columns.text.bytes_of("a", row) for row in (0, 1)] == [b"", b"x"]


def test_arrays_and_maps_nest_as_deep_as_the_kernel_counts():
    """Sixteen loops one in another, each with its own count."""
    type_ = "long"
    for _ in range(16):
        type_ = {"type": "array", "items": type_}
    schema = record_schema(a=type_, b="long")
    body = varint(1) * 16 + varint(9) + b"\x00" * 16 + varint(42)

    assert longs(schema, Column("b", "long"), [body]) == [42]


def test_columns_of_the_same_store_do_not_mix():
    """Longs, booleans and enumerations share one matrix, each with a row of its own."""
    schema = record_schema(
        a="long", b="boolean", c={"type": "enum", "name": "E", "symbols": ["X", "Y"]}, d="long"
    )
    kept = [
        Column("d", "long"),
        Column("c", "enum", symbols=("X", "Y")),
        Column("b", "boolean"),
        Column("a", "long"),
    ]

    columns = AvroDecoder([schema], kept, 100).decode(
        [written(schema, {"a": 1, "b": True, "c": "Y", "d": 4})]
    )

    assert [int(columns.long(path)[0]) for path in "abcd"] == [1, 1, 1, 4]


def test_a_bad_record_leaves_its_neighbours_alone():
    """Every record is read between its own bounds."""
    good = [written(LONG, {"a": number}) for number in (1, 2)]
    bad = [single_object(LONG, b"\x80"), None, b"x", single_object(LONG, b"\x02\x02")]
    values = [good[0], *bad, good[1]]

    columns = AvroDecoder([LONG], KEEP_LONG, 100).decode(values)

    assert columns.statuses.tolist() == [
        Status.GOOD, Status.DECODE, Status.TOMBSTONE, Status.FRAMING, Status.TRAILING, Status.GOOD,
    ]  # fmt: skip
    assert columns.long("a")[[0, -1]].tolist() == [1, 2]


def test_bounds_say_where_each_value_starts():
    """The last one says where all end."""
    assert bounds_of([b"ab", b"", b"c"]).tolist() == [0, 2, 2, 3]
    assert np.array_equal(bounds_of([]), [0])
