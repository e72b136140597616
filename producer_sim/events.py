"""
Payments as Transaction events, in Avro single-object encoding.

An event is filled from five sources: the payment itself, its card, its terminal, the way it was
paid, and the device of a web payment. An Avro record is the plain concatenation of its fields, so
what a card or a terminal gives is encoded once, and each event encodes only what is its own.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby, repeat
from typing import Any, Final

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

import schemas
from producer_sim.draws import uuids
from producer_sim.handbook import START_SECONDS, Payments
from producer_sim.population import (
    CHECKOUTS,
    Fields,
    card_ids,
    cards,
    checkouts,
    devices,
    remote_terminals,
    terminals,
)

MICROSECONDS: Final = 1_000_000
_ID_IN_VALUE: Final = re.compile(rb"handbook-(\d{10})")
_OWN_FIELDS: Final = ("event_id", "transaction_id", "kind", "event_time", "amount_minor")

Rows = NDArray[np.int64]


def transaction_id(row: int) -> str:
    """Return the id of the payment in this row; it names the row, so a topic can be resumed."""
    return f"handbook-{row:010d}"


def row_of(value: bytes) -> int | None:
    """Return the row of the payment that a record's value names, or None where it names none."""
    named = _ID_IN_VALUE.search(value)
    return int(named[1]) if named else None


def event_ids(rows: Rows, seed: int) -> list[str]:
    """Return the event id of each row, a UUID drawn from seed and row."""
    return uuids(seed, "event", rows)


def event_times(payments: Payments) -> NDArray[np.int64]:
    """Return when each payment was made, in microseconds since 1970, int64[n]."""
    return (payments.second + START_SECONDS) * MICROSECONDS


class TransactionWriter:
    """Writes any rows of `payments` as events; equal seeds give equal bytes."""

    def __init__(self, payments: Payments, seed: int) -> None:
        self._payments = payments
        self._seed = seed
        self._times = event_times(payments)
        self._remote = remote_terminals(seed)
        self._tables: dict[str, list[Fields]] = {
            "card": cards(seed),
            "terminal": terminals(seed),
            "checkout": [way.fields for way in CHECKOUTS],
            "device": [*devices(seed), {"device": None}],
        }
        self._keys = [card.encode() for card in card_ids(seed)]
        schema = schemas.load("transaction")
        self._header = schemas.single_object_header(schema)
        self._parts = list(_parts(schema, self._tables))

    def keys(self, rows: Rows) -> list[bytes]:
        """Return the Kafka key of each row: its card id."""
        return [self._keys[customer] for customer in self._payments.customer[rows].tolist()]

    def records(self, rows: Rows) -> list[Fields]:
        """Return each row's fields; a field that is not there takes its schema's default."""
        sources = [self._own_fields(rows)]
        for name, numbers in self._numbers(rows).items():
            sources.append([self._tables[name][number] for number in numbers])
        return [
            {name: value for fields in parts for name, value in fields.items()}
            for parts in zip(*sources, strict=True)
        ]

    def values(self, rows: Rows) -> list[bytes]:
        """Return the Kafka value of each row."""
        own_fields = self._own_fields(rows)
        numbers = self._numbers(rows)
        columns = [
            map(part.encode, own_fields)
            if part.table is None
            else map(part.encoded.__getitem__, numbers[part.table])
            for part in self._parts
        ]
        return [b"".join(pieces) for pieces in zip(repeat(self._header), *columns, strict=False)]

    def _own_fields(self, rows: Rows) -> list[Fields]:
        """Return what only the payment itself knows: `_OWN_FIELDS`."""
        return [
            {
                "event_id": event_id,
                "transaction_id": transaction_id(row),
                "kind": "AUTHORISATION",
                "event_time": time,
                "amount_minor": cents,
            }
            for row, event_id, time, cents in zip(
                rows.tolist(),
                event_ids(rows, self._seed),
                self._times[rows].tolist(),
                self._payments.cents[rows].tolist(),
                strict=True,
            )
        ]

    def _numbers(self, rows: Rows) -> dict[str, list[int]]:
        """Return for each table which of its entries each row takes."""
        customer = self._payments.customer[rows]
        terminal = self._payments.terminal[rows]
        remote = self._remote[terminal]
        checkout = checkouts(rows, self._payments.cents[rows], remote, self._seed)
        return {
            "card": customer.tolist(),
            "terminal": terminal.tolist(),
            "checkout": checkout.tolist(),
            "device": np.where(remote, customer, len(self._tables["device"]) - 1).tolist(),
        }


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring fields of the schema that come from one source."""

    table: str | None
    """None: the payment itself."""
    encode: Callable[[Fields], bytes]
    encoded: list[bytes]
    """The part's bytes for each entry of its table."""


def _parts(schema: dict[str, Any], tables: dict[str, list[Fields]]) -> Iterator[_Part]:
    """Cut the schema's fields, in order, where their source changes."""
    source_by_field = {name: table for table, entries in tables.items() for name in entries[0]}
    for table, fields in groupby(_with_source(schema["fields"], source_by_field), lambda f: f[0]):
        part = {**schema, "fields": [field for _, field in fields]}
        encode = _encoder(part)
        yield _Part(table, encode, [encode(entry) for entry in tables[table]] if table else [])


def _with_source(
    fields: list[dict[str, Any]], source_by_field: dict[str, str]
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Pair each field with its source; what no source fills goes with its neighbour before."""
    source: str | None = None
    for field in fields:
        if field["name"] in _OWN_FIELDS:
            source = None
        else:
            source = source_by_field.get(field["name"], source)
        yield source, field


def _encoder(schema: dict[str, Any]) -> Callable[[Fields], bytes]:
    parsed = parse_schema(schema)

    def encode(record: Fields) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, parsed, record)
        return buffer.getvalue()

    return encode
