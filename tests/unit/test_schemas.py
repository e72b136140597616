import io
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_many

import schemas

NAMES = ("transaction", "label", "prediction", "alert")


def parts_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a schema: types and fields, wherever they are nested."""
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from parts_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from parts_of(inner)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_documented(name):
    """The files are what other teams read."""
    schema = schemas.load(name)
    fields = [field for part in parts_of(schema) for field in part.get("fields", ())]

    assert schema["doc"]
    assert [field["name"] for field in fields if not field.get("doc")] == []


@pytest.mark.parametrize("name", NAMES)
def test_symbols_may_be_added(name):
    """A reader without a default refuses each record that has a symbol it does not know."""
    enums = [part for part in parts_of(schemas.load(name)) if part.get("type") == "enum"]

    assert [enum["name"] for enum in enums if enum.get("default") not in enum["symbols"]] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_present_version_is_released(name):
    """A schema that changes without a new released file would lock out who wrote the old one."""
    released = [schemas.fingerprint(schema) for schema in schemas.released(name)]

    assert schemas.fingerprint(schemas.load(name)) in released


@pytest.mark.parametrize("name", NAMES)
def test_present_readers_read_every_released_version(name):
    """Under Avro's rules of schema resolution."""
    reader = fastavro.parse_schema(schemas.load(name))
    for released in schemas.released(name):
        writer = fastavro.parse_schema(released)
        for record in generate_many(writer, 3):
            out = io.BytesIO()
            fastavro.schemaless_writer(out, writer, record)
            out.seek(0)
            fastavro.schemaless_reader(out, writer, reader)
            assert out.read() == b""
