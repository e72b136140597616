"""
Random Avro schemas and random valid bytes of them, and bytes that are valid no more.

The writer is our own and small: unlike fastavro's it may choose any branch of a union, split arrays
into blocks, state the sizes of blocks, and write numbers that are not finite.
"""

import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.builders import sized, varint

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = {
    "int": ("date", "time-millis"),
    "long": ("timestamp-micros", "timestamp-millis", "time-micros"),
    "string": ("uuid",),
}
TEXTS = ("", "a", "0123456789" * 7, "é", "€uro", "\U0001f600", "\x00", "퟿", "￿")
LONGS = (0, -1, 1, 63, 64, -64, -65, 2**31 - 1, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
DOUBLES = (0.0, -0.0, 1.5, -1e308, 5e-324, 3.4028234663852886e38, 1e39)
NOT_FINITE = (math.nan, math.inf, -math.inf)
SYMBOLS = ("UNKNOWN", "A", "B", "C", "D")


@dataclass
class SchemaMaker:
    """Draws record schemas; every name it gives is new, and some are used again."""

    random: random.Random
    prefix: str = "T"
    named: dict[str, Any] = field(default_factory=dict)
    _count: int = 0

    def record(self, depth: int) -> dict[str, Any]:
        """Return a record of up to five fields."""
        name = self._name()
        fields = [
            {"name": f"{self.prefix.lower()}{k}", "type": self.type(depth - 1)}
            for k in range(self.random.randint(0 if depth < 3 else 1, 5))
        ]
        schema = {"type": "record", "name": name, "fields": fields}
        self.named[name] = schema
        return schema

    def schema(self) -> dict[str, Any]:
        """Return a record schema in which each name is defined once, before it is used again."""
        return self.defined_once(self.record(4), set())

    def type(self, depth: int) -> Any:
        """Return any type, no deeper than this."""
        if depth <= 0 or self.random.random() < 0.4:
            return self._leaf()
        kind = self.random.choice(("record", "array", "map", "union", "union", "nullable", "name"))
        match kind:
            case "record":
                return self.record(depth)
            case "array":
                return {"type": "array", "items": self._of_some_bytes(depth - 1)}
            case "map":
                return {"type": "map", "values": self.type(depth - 1)}
            case "nullable":
                other = self._branch(depth - 1)
                return ["null", other] if self.random.random() < 0.8 else [other, "null"]
            case "union":
                return self._union(depth - 1)
            case _:
                names = list(self.named)
                return self.random.choice(names) if names else self._leaf()

    def _name(self) -> str:
        self._count += 1
        return f"{self.prefix}{self._count}"

    def _leaf(self) -> Any:
        kind = self.random.choice((*PRIMITIVES, "enum", "fixed"))
        if kind == "enum":
            symbols = list(self.random.sample(SYMBOLS, self.random.randint(1, len(SYMBOLS))))
            return self._keep({"type": "enum", "name": self._name(), "symbols": symbols})
        if kind == "fixed":
            size = self.random.choice((0, 1, 4, 16))
            return self._keep({"type": "fixed", "name": self._name(), "size": size})
        if kind in LOGICAL and self.random.random() < 0.3:
            return {"type": kind, "logicalType": self.random.choice(LOGICAL[kind])}
        return kind

    def _keep(self, schema: dict[str, Any]) -> dict[str, Any]:
        self.named[schema["name"]] = schema
        return schema

    def defined_once(self, schema: Any, defined: set[str]) -> Any:
        """Return the schema with each named type written out where it first stands."""
        match schema:
            case list():
                return [self.defined_once(branch, defined) for branch in schema]
            case str() if schema in self.named and schema not in defined:
                return self.defined_once(self.named[schema], defined)
            case {"name": name} if name in defined:
                return name
            case {"name": name}:
                defined.add(name)
        if not isinstance(schema, dict):
            return schema
        whole = dict(schema)
        for key in ("items", "values"):
            if key in schema:
                whole[key] = self.defined_once(schema[key], defined)
        if "fields" in schema:
            whole["fields"] = [
                part | {"type": self.defined_once(part["type"], defined)}
                for part in schema["fields"]
            ]
        return whole

    def _of_some_bytes(self, depth: int) -> Any:
        schema = self.type(depth)
        return schema if least_bytes(schema, self.named) > 0 else "string"

    def _branch(self, depth: int) -> Any:
        schema = self.type(depth)
        return "double" if isinstance(schema, list) or schema == "null" else schema

    def _union(self, depth: int) -> list[Any]:
        branches: dict[str, Any] = {}
        for _ in range(self.random.randint(1, 4)):
            schema = self.type(depth)
            if not isinstance(schema, list):
                branches.setdefault(_key_in_union(schema), schema)
        return list(branches.values()) or ["null"]


def _key_in_union(schema: Any) -> str:
    """Return what two branches of a union must not share: the name, or the type without one."""
    if isinstance(schema, str):
        return schema
    return str(schema.get("name", schema["type"]))


def least_bytes(schema: Any, named: dict[str, Any]) -> int:
    """Return the length of the shortest value of this type."""
    match schema:
        case str() if schema in named:
            return least_bytes(named[schema], named)
        case "null":
            return 0
        case {"type": "fixed", "size": size}:
            return int(size)
        case {"type": "record", "fields": fields}:
            return sum(least_bytes(part["type"], named) for part in fields)
    return 1


def without_logical_types(schema: Any) -> Any:
    """Return the schema as the kernel takes it: only the types that say what the bytes are."""
    if isinstance(schema, list):
        return [without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if "logicalType" in schema:
        return schema["type"]
    inner = {key: schema[key] for key in ("items", "values") if key in schema}
    plain = schema | {key: without_logical_types(value) for key, value in inner.items()}
    if "fields" in schema:
        plain["fields"] = [
            part | {"type": without_logical_types(part["type"])} for part in schema["fields"]
        ]
    return plain


@dataclass
class Writer:
    """Writes random values of a schema; `oddness` is how often they are unusual."""

    random: random.Random
    named: dict[str, Any]
    oddness: float = 0.05

    def write(self, schema: Any) -> bytes:
        """Return the bytes of one valid value."""
        match schema:
            case list():
                index = self.random.randrange(len(schema))
                return varint(index) + self.write(schema[index])
            case str() if schema in self.named:
                return self.write(self.named[schema])
            case str():
                return self._primitive(schema)
            case {"type": "record", "fields": fields}:
                return b"".join(self.write(part["type"]) for part in fields)
            case {"type": "enum", "symbols": symbols}:
                return varint(self.random.randrange(len(symbols)))
            case {"type": "fixed", "size": size}:
                return self.random.randbytes(size)
            case {"type": "array", "items": items}:
                return self._blocks(lambda: self.write(items))
            case {"type": "map", "values": values}:
                return self._blocks(lambda: self._primitive("string") + self.write(values))
        return self.write(schema["type"])

    def _primitive(self, kind: str) -> bytes:
        draw = self.random
        match kind:
            case "null":
                return b""
            case "boolean":
                return draw.choice((b"\x00", b"\x01"))
            case "int":
                return varint(draw.choice((draw.randint(-100, 100), 2**31 - 1, -(2**31))))
            case "long":
                return varint(draw.choice((draw.randint(-(2**63), 2**63 - 1), *LONGS)))
            case "float":
                return struct.pack("<f", self._number(draw.choice((0.0, -0.0, 1.5, -3e38, 1e-45))))
            case "double":
                return struct.pack("<d", self._number(draw.choice((draw.random(), *DOUBLES))))
            case "bytes":
                return sized(draw.randbytes(draw.choice((0, 1, 5, 70))))
        return sized(draw.choice(TEXTS).encode())

    def _number(self, usual: float) -> float:
        return self.random.choice(NOT_FINITE) if self.random.random() < self.oddness / 5 else usual

    def _blocks(self, item: Any) -> bytes:
        out = b""
        for _ in range(self.random.choice((0, 1, 1, 2))):
            items = [item() for _ in range(self.random.randint(1, 3))]
            body = b"".join(items)
            if self.random.random() < self.oddness:
                out += varint(-len(items)) + varint(len(body)) + body
            else:
                out += varint(len(items)) + body
        return out + b"\x00"


ODD_NUMBERS = (
    *map(varint, (-1, -2, 7, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))),
    b"\x80" * 9 + b"\x01",
    b"\x80" * 9 + b"\x02",
    b"\x80" * 10 + b"\x00",
    b"\xff" * 10,
    b"\x80\x00",
)


def mutated(value: bytes, others: list[bytes], draw: random.Random, header: int) -> bytes:
    """Return the value with one to three faults, most of them behind its header."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        first = 0 if draw.random() < 0.03 else min(header, len(value))
        at = draw.randint(first, len(value))
        match draw.randrange(8):
            case 0:
                value = value[:at]
            case 1:
                value += draw.randbytes(draw.choice((1, 1, 8)))
            case 2 if at < len(value):
                value = value[:at] + bytes([value[at] ^ 1 << draw.randrange(8)]) + value[at + 1 :]
            case 3 if at < len(value):
                odd = draw.choice((0, 1, 2, 0x7F, 0x80, 0xC0, 0xED, 0xF5, 0xFF))
                value = value[:at] + bytes([odd]) + value[at + 1 :]
            case 4:
                value = value[:at] + value[at + draw.choice((1, 1, 2, 9)) :]
            case 5:
                value = value[:at] + draw.randbytes(draw.choice((1, 1, 2, 9))) + value[at:]
            case 6:
                value = value[:at] + draw.choice(ODD_NUMBERS) + value[at + draw.choice((0, 1)) :]
            case 7:
                other = draw.choice(others)
                start = draw.randint(min(header, len(other)), len(other))
                value = value[:at] + other[start : start + draw.choice((1, 3, 20))] + value[at:]
    return value


@dataclass(frozen=True)
class Leaf:
    """A place a column can lie at: its types there, and whether every branch above has it."""

    path: str
    types: tuple[Any, ...]
    always: bool


def leaves(schema: dict[str, Any], named: dict[str, Any]) -> Iterator[Leaf]:
    """Yield the places of a record schema that lie in no array and no map."""
    types: dict[str, list[Any]] = {}
    sometimes: set[str] = set()
    _walk(schema, "", named, types, sometimes)
    for path, found in types.items():
        parents = [path[:at] for at, c in enumerate(path) if c == "."]
        yield Leaf(path, tuple(found), not sometimes.intersection([path, *parents]))


def _walk(
    schema: Any, path: str, named: dict[str, Any], types: dict[str, list[Any]], sometimes: set[str]
) -> None:
    match schema:
        case list():
            branches = [branch for branch in schema if branch != "null"]
            if len(branches) > 1:
                sometimes.add(path)
            for branch in branches:
                _walk(branch, path, named, types, sometimes)
        case str() if schema in named:
            _walk(named[schema], path, named, types, sometimes)
        case {"type": "record", "fields": fields}:
            for part in fields:
                _walk(part["type"], f"{path}.{part['name']}".lstrip("."), named, types, sometimes)
        case {"type": "array" | "map"} | "null":
            pass
        case {"type": "enum" | "fixed"} | str():
            types.setdefault(path, []).append(schema)
        case _:
            _walk(schema["type"], path, named, types, sometimes)
