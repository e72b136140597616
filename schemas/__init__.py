"""
The event schemas, by name: transaction, prediction, alert, label.

`schemas/<name>.avsc` is what this build writes; `schemas/released/` holds every version that was
ever published, frozen, so that old records stay readable.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from fastavro.schema import fingerprint as _fingerprint
from fastavro.schema import to_parsing_canonical_form

Schema = dict[str, Any]

SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"
"""First two bytes of Avro single-object encoding; the writer schema's fingerprint follows."""


def load(name: str) -> Schema:
    """Return the schema that this build writes for `name`, parsed from JSON."""
    return _read(f"{name}.avsc")


def released(name: str) -> list[Schema]:
    """Return every released version of `name`, oldest first."""
    folder = files(__name__).joinpath("released")
    versions = [entry.name for entry in folder.iterdir() if entry.name.startswith(f"{name}-")]
    versions.sort(key=lambda file: int(file.removeprefix(f"{name}-").removesuffix(".avsc")))
    return [_read(f"released/{file}") for file in versions]


def versions(name: str) -> list[Schema]:
    """Return every version of `name` that may be read: the released ones, and this build's."""
    return [*released(name), load(name)]


def fingerprint(schema: Schema) -> bytes:
    """
    Return the CRC-64-AVRO fingerprint of the schema's canonical form: 8 bytes, little-endian.

    Source: Avro 1.12 specification, "Schema Fingerprints" and "Single-object encoding".
    """
    return bytes.fromhex(_fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def single_object_header(schema: Schema) -> bytes:
    """Return the 10 bytes that start every single-object value written with `schema`."""
    return SINGLE_OBJECT_MARKER + fingerprint(schema)


def registry_headers(ids: Mapping[str, str]) -> dict[bytes, Schema]:
    """
    Return what starts a value in the framing of a schema registry, and the schema behind it.

    `ids` names the released payment schema of each id, a number or a GUID: {"17": "transaction-1"}.
    Source: Confluent's wire format, a byte 0 and the id in four, big-endian, or 1 and a GUID in 16.
    Raises ValueError with a sentence.
    """
    known = {f"transaction-{k}": schema for k, schema in enumerate(released("transaction"), 1)}
    found = {}
    for key, name in ids.items():
        if name not in known:
            raise ValueError(f"{key}: {name!r} is no released schema: {', '.join(known)}")
        found[_registry_header(key)] = known[name]
    return found


def _registry_header(key: str) -> bytes:
    try:
        return b"\0" + int(key).to_bytes(4, "big") if key.isdigit() else b"\1" + UUID(key).bytes
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{key!r} is neither the number of a schema nor its GUID") from error


def _read(path: str) -> Schema:
    schema: Schema = json.loads(files(__name__).joinpath(path).read_text("utf-8"))
    return schema
