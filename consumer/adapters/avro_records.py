"""Whole records of one kind, read field by field: for people, not for the data path."""

import io
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import fastavro

import schemas

_HEADER_SIZES: Final = (10, 5, 17)


class AvroRecords:
    """Reads values in single-object encoding, written with any schema of a kind."""

    def __init__(
        self, name: str, registry: Mapping[bytes, schemas.Schema] = MappingProxyType({})
    ) -> None:
        """
        `name` is the schema's: transaction, label, prediction or alert. Values behind a header of
        the registry are read, too.
        """
        headers = {
            schemas.single_object_header(version): version for version in schemas.versions(name)
        }
        self._parsed = {
            header: fastavro.parse_schema(schema)
            for header, schema in {**headers, **registry}.items()
        }

    def read(self, value: bytes | None) -> dict[str, Any] | None:
        """Return the fields of a record, None for a value of no known schema."""
        value = value or b""
        header = next(
            (value[:size] for size in _HEADER_SIZES if value[:size] in self._parsed), None
        )
        if header is None:
            return None
        body = io.BytesIO(value[len(header) :])
        record: Any = fastavro.schemaless_reader(body, self._parsed[header], None)
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
