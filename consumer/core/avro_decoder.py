"""Avro values -> columns of the fields that were asked for, and a status for each record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

import schemas
from consumer.core import avro_kernel
from consumer.core.avro_program import Column, compile_schemas, slots_of
from consumer.core.batch import Text
from consumer.records import Longs, Status


@dataclass(frozen=True, slots=True)
class Columns:
    """
    n decoded records: longs int64[slots, n], doubles float64[slots, n], text spans, and statuses
    int8[n].

    Columns of a record whose status is not GOOD hold whatever was read before the fault.
    """

    slots: dict[str, int]
    longs: Longs
    doubles: NDArray[np.float64]
    text: Text
    statuses: NDArray[np.int8]

    def long(self, path: str) -> Longs:
        """Return the int64[n] column of a long, boolean or enum field."""
        column: Longs = self.longs[self.slots[path]]
        return column


class AvroDecoder:
    """
    Decodes values in Avro single-object encoding, written with any schema of an allow-list, or
    behind any header of `registry`.

    Source of the encoding: Avro 1.12 specification, "Single-object encoding" and "Binary Encoding".
    """

    def __init__(
        self,
        writers: Iterable[schemas.Schema],
        columns: Sequence[Column],
        max_bytes: int,
        registry: Mapping[bytes, schemas.Schema] = MappingProxyType({}),
    ) -> None:
        """Compile the schemas. Raises ConfigError for one that cannot serve these columns."""
        self.columns = tuple(columns)
        self.max_bytes = max_bytes
        self.slots: Final = slots_of(columns)
        headers = {schemas.single_object_header(writer): writer for writer in writers}
        self._program = compile_schemas({**headers, **registry}, columns)
        kept = {kind: [c for c in columns if _store(c) == kind] for kind in _STORES}
        self._long_defaults = np.array([[c.default or 0] for c in kept["long"]], np.int64)
        self._double_defaults = np.array([[c.default or 0.0] for c in kept["double"]], np.float64)
        self._names = tuple(column.path for column in kept["string"])

    def decode(self, values: Sequence[bytes | None]) -> Columns:
        """Decode n values at once; None (a tombstone) only gets its status."""
        n = len(values)
        statuses = np.zeros(n, np.int8)
        if None in values:
            statuses[[value is None for value in values]] = Status.TOMBSTONE
            values = [value or b"" for value in values]
        bounds = bounds_of(values)
        buffer = np.frombuffer(b"".join(values) or b"\0", np.uint8)  # type: ignore[arg-type]
        longs = np.empty((max(len(self._long_defaults), 1), n), np.int64)
        doubles = np.empty((max(len(self._double_defaults), 1), n), np.float64)
        longs[: len(self._long_defaults)] = self._long_defaults.reshape(-1, 1)
        doubles[: len(self._double_defaults)] = self._double_defaults.reshape(-1, 1)
        starts = np.zeros((max(len(self._names), 1), n), np.int64)
        lengths = np.zeros_like(starts)
        program = self._program
        avro_kernel.decode(
            buffer, bounds, self.max_bytes, program.headers, program.entries,
            program.instructions, program.translation, longs, doubles, starts, lengths, statuses,
        )  # fmt: skip
        text = Text(self._names, buffer, starts, lengths)
        return Columns(self.slots, longs, doubles, text, statuses)


_STORES: Final = ("long", "double", "string")


def _store(column: Column) -> str:
    return column.kind if column.kind in _STORES else "long"


def bounds_of(values: Sequence[bytes | None]) -> Longs:
    """Return int64[n + 1]: where each value starts in their concatenation, and where it ends."""
    bounds = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=bounds[1:])  # type: ignore[arg-type]
    return bounds
