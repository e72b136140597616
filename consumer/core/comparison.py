"""Two records of one schema, field by field and bit for bit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import schemas
from consumer.core.avro_encoder import encoded


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that two records do not have in common."""

    field: str
    published: Any
    again: Any


def differences(
    schema: schemas.Schema,
    published: Mapping[str, Any],
    again: Mapping[str, Any],
    fields: Collection[str],
) -> list[Difference]:
    """
    Return these of the schema's fields whose encoded values differ, in the schema's order.

    Encoded, since then a float is its bits: 0.0 is not -0.0, and NaN is itself.
    """
    return [
        Difference(name, published[name], again[name])
        for name, type_ in ((part["name"], part["type"]) for part in schema["fields"])
        if name in fields and encoded(type_, published[name]) != encoded(type_, again[name])
    ]
