import re
from dataclasses import replace
from io import BytesIO
from uuid import UUID

import numpy as np
import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer, validate

import schemas
from producer_sim.events import TransactionWriter, event_ids, event_times, row_of
from producer_sim.population import card_ids, terminal_ids

SCHEMA = parse_schema(schemas.load("transaction"))
ROWS = np.random.RandomState(0).choice(1_754_155, 2_000, replace=False)


@pytest.fixture(scope="module")
def writer(payments) -> TransactionWriter:
    return TransactionWriter(payments, seed=0)


def test_every_event_is_valid(writer):
    """An event fits the Transaction schema and names no field that the schema lacks."""
    names = {field["name"] for field in schemas.load("transaction")["fields"]}

    for record in writer.records(ROWS):
        validate(record, SCHEMA)
        assert record.keys() <= names


def test_a_value_is_what_fastavro_writes_in_one_go(writer):
    """Putting encoded parts together gives the very bytes of encoding the whole record."""
    header = schemas.single_object_header(schemas.load("transaction"))

    for record, value in zip(writer.records(ROWS), writer.values(ROWS), strict=True):
        whole = BytesIO()
        schemaless_writer(whole, SCHEMA, record)
        assert value == header + whole.getvalue()


def test_an_event_carries_its_payment(payments, writer):
    """Time, amount, card and terminal are the payment's own."""
    [row] = ROWS[:1]
    event = schemaless_reader(BytesIO(writer.values(ROWS[:1])[0][10:]), SCHEMA)

    assert event["event_time"].timestamp() * 1_000_000 == event_times(payments)[row]
    assert event["amount_minor"] == payments.cents[row]
    assert event["card_id"] == card_ids(0)[payments.customer[row]]
    assert event["terminal_id"] == terminal_ids(0)[payments.terminal[row]]
    assert event["transaction_id"] == f"handbook-{row:010d}"
    assert event["event_id"].version == 8
    assert event["produced_at"] is None


def test_the_key_is_the_card(writer):
    """Payments of one card share a partition, as their key is its id."""
    cards = [record["card_id"].encode() for record in writer.records(ROWS)]

    assert writer.keys(ROWS) == cards


def test_nothing_in_an_event_tells_of_fraud(payments, writer):
    """The same payments with every fraud flag turned round give the same bytes."""
    turned = replace(payments, scenario=(payments.scenario == 0).astype(np.int8))

    assert TransactionWriter(turned, seed=0).values(ROWS) == writer.values(ROWS)


def test_events_do_not_depend_on_what_is_written_with_them(writer):
    """A resumed run writes the bytes that an uninterrupted one would have written."""
    assert [writer.values(ROWS[i : i + 1])[0] for i in range(50)] == writer.values(ROWS[:50])


def test_the_seed_changes_attributes_and_not_payments(payments, writer):
    """The Handbook's seeds are fixed: another seed gives other ids, never other amounts."""
    other = TransactionWriter(payments, seed=1).records(ROWS)

    for mine, theirs in zip(writer.records(ROWS), other, strict=True):
        assert mine["card_id"] != theirs["card_id"]
        assert mine["event_id"] != theirs["event_id"]
        assert (mine["amount_minor"], mine["event_time"]) == (
            theirs["amount_minor"],
            theirs["event_time"],
        )


def test_nothing_could_be_taken_for_a_card_number(writer):
    """No text in an event has 12 digits or more in a row."""
    for value in writer.values(ROWS):
        assert not re.search(rb"\d{12}", value)


def test_only_web_payments_have_a_device_and_only_shops_a_place(writer):
    """What a terminal is decides what its events carry."""
    for record in writer.records(ROWS):
        web = record["entry_mode"] in {"ECOMMERCE", "CREDENTIAL_ON_FILE"}
        assert record["card_present"] is not web
        assert (record["device"] is not None) is web
        assert (record["geo"] is None) is web
        assert web or record["three_ds"] is None


def test_attributes_belong_to_their_card_terminal_or_merchant(payments, writer):
    """One card has one country, funding and device; one merchant one category and acquirer."""
    rows = np.flatnonzero(payments.customer < 20)
    by_card: dict[str, set] = {}
    by_merchant: dict[str, set] = {}
    for record in writer.records(rows):
        device = record["device"] and record["device"]["device_id"]
        by_card.setdefault(record["card_id"], set()).add(
            (record["card_country"], record["funding"], record["customer_id"])
        )
        if device:
            by_card.setdefault(f"{record['card_id']} device", set()).add(device)
        by_merchant.setdefault(record["merchant_id"], set()).add(
            (record["mcc"], record["acquirer_id"], record["card_present"])
        )

    assert {len(seen) for seen in by_card.values()} == {1}
    assert {len(seen) for seen in by_merchant.values()} == {1}


def test_event_ids_differ_over_the_whole_data_set(payments):
    """The idempotency key of an event belongs to it alone."""
    made = event_ids(np.arange(len(payments)), seed=0)

    assert len(set(made)) == len(payments)
    assert UUID(made[-1]).version == 8


def test_a_value_names_its_row(writer):
    """A topic can be resumed, as its last record says which payment it is."""
    assert [row_of(value) for value in writer.values(ROWS)] == ROWS.tolist()
    assert row_of(b"anything else") is None
