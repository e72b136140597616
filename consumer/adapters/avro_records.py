"""Whole records of one kind, read field by field: for people, not for the data path."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import fastavro

import schemas


class AvroRecords:
    """Reads values in single-object encoding, written with any schema of a kind."""

    def __init__(self, name: str) -> None:
        """`name` is the schema's: transaction, label, prediction or alert."""
        self._parsed = {
            schemas.single_object_header(schema): fastavro.parse_schema(schema)
            for schema in schemas.versions(name)
        }

    def read(self, value: bytes | None) -> dict[str, Any] | None:
        """Return the fields of a record, None for a value of no known schema."""
        value = value or b""
        schema = self._parsed.get(value[:10])
        if schema is None:
            return None
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
        return record  # type: ignore[no-any-return] # the schema is a record's


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with what JSON has in place of what fastavro makes of logical types."""
    return {name: _plain(content) for name, content in record.items()}


def _plain(content: Any) -> Any:
    if isinstance(content, datetime):
        return content.isoformat()
    if isinstance(content, dict):
        return plain(content)
    if isinstance(content, list):
        return [_plain(inner) for inner in content]
    return content if isinstance(content, str | int | float | bool | None) else str(content)
