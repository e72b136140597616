import pytest

import schemas
from consumer.core import avro_kernel as op
from consumer.core.avro_program import (
    MAX_INSTRUCTIONS,
    MAX_NESTING,
    Column,
    compile_schemas,
    slots_of,
)
from consumer.core.decode import PAYMENT_COLUMNS
from consumer.core.labels import LABEL_COLUMNS
from consumer.errors import ConfigError
from tests.builders import record_schema


def by_header(writers):
    return {schemas.single_object_header(writer): writer for writer in writers}


def nested(levels, wrap):
    type_ = "long"
    for level in range(levels):
        type_ = wrap(level, type_)
    return record_schema(a=type_)


def record_type(name, *types):
    fields = [{"name": f"f{k}", "type": type_} for k, type_ in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields}


@pytest.mark.bad_input("c2")
@pytest.mark.parametrize(
    "through",
    [
        lambda name: ["null", name],
        lambda name: {"type": "array", "items": name},
        lambda name: {"type": "map", "values": name},
        lambda name: record_type("Between", ["null", name]),
    ],
    ids=["union", "array", "map", "record"],
)
def test_a_recursive_schema_is_refused(through):
    """A value of 5 kB could nest 5,000 records deep, and fastavro dies of it."""
    schema = record_type("Node", "long", through("Node"))

    with pytest.raises(ConfigError, match="Node is recursive"):
        compile_schemas(by_header([schema]), ())


@pytest.mark.bad_input("c1")
@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "fixed", "name": "F", "size": 0},
        record_type("Empty"),
        record_type("Nulls", "null", {"type": "fixed", "name": "F", "size": 0}),
        record_type("Outer", record_type("Inner")),
        record_type("Again", {"type": "fixed", "name": "F", "size": 0}, "F"),
        record_type("Twice", record_type("Inner"), "Inner"),
        {"type": "error", "name": "Fault", "fields": []},
    ],
    ids=["null", "fixed", "record", "nulls", "nested", "named fixed", "named record", "error"],
)
def test_an_array_of_items_without_bytes_is_refused(items):
    """Five bytes could claim 2^62 of them, and each would be read."""
    schema = record_schema(a={"type": "array", "items": items})

    with pytest.raises(ConfigError, match="items of no bytes"):
        compile_schemas(by_header([schema]), ())


def test_an_array_of_a_type_without_bytes_that_was_named_before_is_refused():
    """A name stands for what it names."""
    schema = record_schema(
        a={"type": "fixed", "name": "F", "size": 0}, b={"type": "array", "items": "F"}
    )

    with pytest.raises(ConfigError, match="items of no bytes"):
        compile_schemas(by_header([schema]), ())


def test_a_map_of_values_without_bytes_is_read():
    """Its keys take a byte at least."""
    compile_schemas(by_header([record_schema(a={"type": "map", "values": "null"})]), ())


@pytest.mark.bad_input("c3")
@pytest.mark.parametrize("levels", [MAX_NESTING // 2, 1_000])
def test_a_schema_that_nests_too_deep_is_refused(levels):
    """Records in unions in records, and so on: two levels each."""
    schema = nested(levels, lambda k, inner: ["null", record_type(f"N{k}", inner)])

    with pytest.raises(ConfigError, match=f"more than {MAX_NESTING} levels"):
        compile_schemas(by_header([schema]), ())


def test_a_schema_that_nests_as_deep_as_allowed_is_compiled():
    """31 optional records, the record around them and the long within."""
    compile_schemas(
        by_header([nested(31, lambda k, inner: ["null", record_type(f"N{k}", inner)])]), ()
    )


@pytest.mark.parametrize("kind", ["array", "map"])
def test_arrays_and_maps_nest_sixteen_deep_and_no_deeper(kind):
    """The kernel counts items on a stack of fixed size."""
    key = "items" if kind == "array" else "values"
    deepest = nested(op.MAX_DEPTH, lambda _, inner: {"type": kind, key: inner})
    deeper = nested(op.MAX_DEPTH + 1, lambda _, inner: {"type": kind, key: inner})

    compile_schemas(by_header([deepest]), ())

    with pytest.raises(ConfigError, match="more than 16 arrays and maps"):
        compile_schemas(by_header([deeper]), ())


@pytest.mark.bad_input("c3")
def test_a_small_schema_that_grows_by_its_names_is_refused():
    """Each name is written out where it is used: ten of ten of ten are a thousand."""
    fields = [record_type("B0", "long")]
    fields += [record_type(f"B{k}", *[f"B{k - 1}"] * 10) for k in range(1, 6)]
    schema = record_type("All", *fields)

    with pytest.raises(ConfigError, match=f"more than {MAX_INSTRUCTIONS} instructions"):
        compile_schemas(by_header([schema]), ())


@pytest.mark.bad_input("a10")
def test_a_schema_without_a_needed_field_is_refused_by_name():
    """A column without default must be there."""
    with pytest.raises(ConfigError, match="schema Record lacks the field 'b'"):
        compile_schemas(by_header([record_schema(a="long")]), [Column("b", "long")])


@pytest.mark.bad_input("a8")
@pytest.mark.parametrize(
    ("written_as", "kind"),
    [
        ("string", "long"),
        ("double", "long"),
        ("long", "boolean"),
        ("long", "string"),
        ("boolean", "double"),
        ("string", "enum"),
        ({"type": "enum", "name": "E", "symbols": ["X"]}, "string"),
        ({"type": "fixed", "name": "F", "size": 4}, "long"),
        (["null", "string"], "long"),
        (["long", "string"], "long"),
    ],
)
def test_a_field_of_another_type_is_refused(written_as, kind):
    """Nothing is guessed: only Avro's own promotions are made."""
    with pytest.raises(ConfigError, match=r"field 'a' is .* cannot be read as"):
        compile_schemas(by_header([record_schema(a=written_as)]), [Column("a", kind, default=0)])


def test_an_array_in_the_place_of_a_needed_field_is_refused():
    """Nothing can be kept of an array, so the field is not there."""
    schema = record_schema(a={"type": "array", "items": "long"})

    with pytest.raises(ConfigError, match="lacks the field 'a'"):
        compile_schemas(by_header([schema]), [Column("a", "long")])


def test_every_schema_gets_its_fingerprint_and_an_entry():
    """The kernel looks for the first and goes on at the second."""
    writers = [record_schema(a="long"), record_schema(a="int")]

    program = compile_schemas(by_header(writers), [Column("a", "long")])

    found = [word.item().to_bytes(8, "little", signed=True) for word in program.headers[:, 1]]
    assert found == [schemas.fingerprint(writer) for writer in writers]
    assert program.instructions[program.entries[1] - 1, 0] == op.STOP


def test_no_schema_at_all_makes_a_program_that_allows_nothing():
    """An empty allow-list is a list."""
    program = compile_schemas({}, ())

    assert program.headers.shape == (0, 3)


def test_columns_are_numbered_within_their_store():
    """Longs with booleans and enumerations, doubles, text."""
    columns = [
        Column("a", "long"),
        Column("b", "string"),
        Column("c", "enum"),
        Column("d", "double"),
        Column("e", "boolean"),
        Column("f", "string"),
    ]

    assert slots_of(columns) == {"a": 0, "b": 0, "c": 1, "d": 0, "e": 2, "f": 1}


@pytest.mark.parametrize(
    ("path", "covered"),
    [("a", True), ("a.b", True), ("a.b.c", True), ("a.bc", False), ("b", False)],
)
def test_a_column_is_covered_by_itself_and_what_it_lies_in(path, covered):
    """`a` covers `a.b` and not `ab`."""
    assert Column("a.b.c", "long").covers(path) is covered


@pytest.mark.parametrize(
    ("name", "columns"), [("transaction", PAYMENT_COLUMNS), ("label", LABEL_COLUMNS)]
)
def test_our_own_schemas_take_few_instructions(name, columns):
    """The largest takes some 200, a hundredth of what is allowed."""
    program = compile_schemas(by_header(schemas.versions(name)), columns)

    assert len(program.instructions) < MAX_INSTRUCTIONS // 25
