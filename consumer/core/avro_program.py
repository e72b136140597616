"""
Compile writer schemas to the decoder's table of instructions, keeping only the columns asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import fastavro
import numpy as np
from numpy.typing import NDArray

import schemas
from consumer.core import avro_kernel as op
from consumer.errors import ConfigError
from consumer.records import Longs

MAX_INSTRUCTIONS: Final = 20_000
"""A schema beyond this is an attack or an accident: our largest takes some 200."""

MAX_NESTING: Final = 64

Kind = Literal["long", "boolean", "double", "string", "enum"]

_WORD_BYTES: Final = 8
_READABLE: Final[Mapping[Kind, frozenset[str]]] = {
    "long": frozenset({"int", "long"}),
    "boolean": frozenset({"boolean"}),
    "double": frozenset({"int", "long", "float", "double"}),
    "string": frozenset({"string", "bytes", "fixed"}),
    "enum": frozenset({"enum"}),
}
_OPERATIONS: Final[Mapping[str, int]] = {
    "boolean": op.BOOLEAN,
    "int": op.LONG,
    "long": op.LONG,
    "float": op.FLOAT,
    "double": op.DOUBLE,
    "bytes": op.BYTES,
    "string": op.STRING,
}


@dataclass(frozen=True, slots=True)
class Column:
    """
    One field to keep: `path` is dotted (`device.ip_country`), `kind` says how it is stored.

    `default` stands where the writer's schema lacks the field or a record holds null in it;
    without one, the schema or the record is refused, as in Avro's schema resolution. `symbols`
    are the reader's, of an enum; a symbol that is none of them reads as the default.
    """

    path: str
    kind: Kind
    default: float | None = None
    symbols: tuple[str, ...] = ()

    def covers(self, path: str | None) -> bool:
        """Say whether the column lies at this path or below it; None is nowhere."""
        return path is not None and (self.path == path or self.path.startswith(f"{path}."))


@dataclass(frozen=True, slots=True)
class Program:
    """
    Allowed schemas, compiled: instructions int64[m, 4], and an entry point for each header.

    headers int64[k, 3]: how many bytes it has, and its words behind the mark, little-endian.
    """

    headers: Longs
    entries: NDArray[np.uintp]
    instructions: Longs
    translation: Longs


def compile_schemas(writers: Mapping[bytes, schemas.Schema], columns: Sequence[Column]) -> Program:
    """
    Compile each allowed writer schema, by the header of its values, for the same columns.

    Raises ConfigError for a schema that is recursive, too large, has items of no bytes, lacks a
    column without a default, or holds another type in its place.
    """
    compiler = _Compiler(columns)
    headers, entries = [], []
    for header, writer in writers.items():
        headers.append((len(header), *_words(header)))
        entries.append(compiler.add(writer))
    return Program(
        np.array(headers, np.int64).reshape(-1, 3),
        np.array(entries, np.uintp),
        np.array(compiler.program, np.int64).reshape(-1, 4),
        np.array(compiler.translation or [0], np.int64),
    )


def _words(header: bytes) -> tuple[int, int]:
    """Return what the kernel compares: the bytes behind the mark of the framing."""
    behind = header[2:] if header.startswith(schemas.SINGLE_OBJECT_MARKER) else header[1:]
    return (
        int.from_bytes(behind[:8], "little", signed=len(behind) >= _WORD_BYTES),
        int.from_bytes(behind[8:], "little", signed=True),
    )


def slots_of(columns: Iterable[Column]) -> dict[str, int]:
    """Number the columns within each of the three stores: longs, doubles, text."""
    counts: dict[str, int] = {}
    slots = {}
    for column in columns:
        store = column.kind if column.kind in {"double", "string"} else "long"
        slots[column.path] = counts.setdefault(store, 0)
        counts[store] += 1
    return slots


@dataclass
class _Compiler:
    columns: Sequence[Column]
    program: list[list[int]] = field(default_factory=list)
    translation: list[int] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    being_compiled: list[str] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    nesting: int = 0
    loops: int = 0

    def __post_init__(self) -> None:
        self.by_path = {column.path: column for column in self.columns}
        self.slots = slots_of(self.columns)

    def add(self, writer: schemas.Schema) -> int:
        """Append one schema's instructions and return where they start."""
        self.named, self.found = {}, set()
        entry = len(self.program)
        self.compile(fastavro.parse_schema(writer), "")
        self.emit(op.STOP)
        for column in self.columns:
            if column.path not in self.found and column.default is None:
                raise ConfigError(f"schema {writer.get('name')} lacks the field {column.path!r}")
        return entry

    def emit(self, operation: int, slot: int = -1, third: int = 0, fourth: int = 0) -> int:
        if len(self.program) >= MAX_INSTRUCTIONS:
            raise ConfigError(f"the schemas need more than {MAX_INSTRUCTIONS} instructions")
        self.program.append([operation, slot, third, fourth])
        return len(self.program) - 1

    def compile(self, schema: Any, path: str | None) -> None:
        """Compile one type; `path` is None inside arrays and maps, where nothing can be kept."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise ConfigError(f"a schema nests more than {MAX_NESTING} levels")
        if isinstance(schema, list):
            self.union(schema, path)
        elif isinstance(schema, dict):
            self.complex(schema, path)
        elif schema in self.named:
            self.complex(self.named[schema], path)
        elif schema == "null":
            self.emit(op.NULL)
        else:
            slot = self.slot(schema, path)
            as_double = path is not None and slot >= 0 and self.by_path[path].kind == "double"
            self.emit(_OPERATIONS[schema], slot, int(as_double))
        self.nesting -= 1

    def complex(self, schema: Any, path: str | None) -> None:
        """Compile a type that is an object in JSON."""
        match schema:
            case {"type": "record" | "error"}:
                self.record(schema, path)
            case {"type": "enum"}:
                self.named[schema["name"]] = schema
                self.enum(schema["symbols"], path)
            case {"type": "fixed"}:
                self.named[schema["name"]] = schema
                self.emit(op.FIXED, self.slot("fixed", path), schema["size"])
            case {"type": "array"}:
                self.blocks([schema["items"]])
            case {"type": "map"}:
                self.blocks(["string", schema["values"]])
            case {"type": inner}:
                self.compile(inner, path)

    def slot(self, avro_type: str, path: str | None) -> int:
        column = self.by_path.get(path or "")
        if column is None:
            return -1
        if avro_type not in _READABLE[column.kind]:
            raise ConfigError(f"field {path!r} is {avro_type} and cannot be read as {column.kind}")
        self.found.add(column.path)
        return self.slots[column.path]

    def record(self, schema: Any, path: str | None) -> None:
        name = schema["name"]
        if name in self.being_compiled:
            raise ConfigError(f"schema {name} is recursive: a short value could nest without end")
        self.named[name] = schema
        self.being_compiled.append(name)
        for part in schema["fields"]:
            inside = None if path is None else f"{path}.{part['name']}".lstrip(".")
            self.compile(part["type"], inside)
        self.being_compiled.pop()

    def enum(self, symbols: Sequence[str], path: str | None) -> None:
        slot = self.slot("enum", path)
        start = len(self.translation)
        if slot >= 0:
            column = self.by_path[path or ""]
            other = -1 if column.default is None else int(column.default)
            known = {symbol: k for k, symbol in enumerate(column.symbols)}
            self.translation += [known.get(symbol, other) for symbol in symbols]
        self.emit(op.ENUM, slot, len(symbols), start)

    def union(self, branches: Sequence[Any], path: str | None) -> None:
        if branches == ["null", "string"] and path not in self.by_path:
            self.emit(op.OPTIONAL_STRING)
            return
        self.emit(op.UNION, third=len(branches))
        table = [self.emit(op.JUMP) for _ in branches]
        to_the_end = []
        for jump, branch in zip(table, branches, strict=True):
            start = len(self.program)
            self.program[jump][2] = start
            self.branch(branch, path)
            if self.program[start:] == [[op.NULL, -1, 0, 0]]:
                self.program.pop()
                to_the_end.append(jump)
            elif branch is not branches[-1]:
                to_the_end.append(self.emit(op.JUMP))
        for jump in to_the_end:
            self.program[jump][2] = len(self.program)

    def branch(self, schema: Any, path: str | None) -> None:
        """Compile a union's branch; one that lacks a column without a default refuses records."""
        start = len(self.program)
        outside, self.found = self.found, set()
        self.compile(schema, path)
        needed = {c.path for c in self.columns if c.default is None and c.covers(path)}
        if needed <= self.found:
            self.found |= outside
        else:
            self.found = outside
            del self.program[start:]
            self.emit(op.REFUSE)

    def blocks(self, item: Sequence[Any]) -> None:
        self.loops += 1
        if self.loops > op.MAX_DEPTH:
            raise ConfigError(f"a schema nests more than {op.MAX_DEPTH} arrays and maps")
        loop = self.emit(op.LOOP)
        for part in item:
            self.compile(part, None)
        if len(item) == 1 and self.may_be_empty(item[0]):
            raise ConfigError("an array has items of no bytes: five bytes could claim millions")
        self.emit(op.NEXT_ITEM)
        self.program[loop][2] = len(self.program)
        self.loops -= 1

    def may_be_empty(self, schema: Any) -> bool:
        """Say whether a value of this type can take no byte at all."""
        match schema:
            case "null" | {"type": "null"} | {"type": "fixed", "size": 0}:
                return True
            case {"type": "record" | "error", "fields": parts}:
                return all(self.may_be_empty(part["type"]) for part in parts)
            case str() if schema in self.named:
                return self.may_be_empty(self.named[schema])
        return False
