"""The catalogue of docs/bad-input.md: each bad record beside good ones, through the whole path."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pytest

import schemas
from consumer.core.decode import PaymentDecoder
from consumer.errors import ConfigError, FatalError
from tests.builders import (
    DAY,
    JANUARY,
    encoded,
    payment,
    payment_records,
    record_schema,
    records_of,
    sized,
    varint,
    written,
)
from tests.fakes import FixedModel
from tests.unit.consumer.rig import AMOUNT, Rig, by_amount, without

SCORED, SKIPPED = "scored", "tombstone"
CARD = b"bad-card"
TIMESTAMP = JANUARY // 1_000 + 100
"""Of all records, in milliseconds; their payments are made about then."""


def bad(**fields: Any) -> dict[str, Any]:
    """Return a payment of the card that is only ever a bad one's."""
    return payment(1, card_id=CARD.decode(), terminal_id="bad-terminal") | fields


GOOD = encoded("transaction", bad())
HEADER, BODY = GOOD[:10], GOOD[10:]
AFTER_IDS = len(sized(b"0" * 36) + sized(b"payment-1"))
"""Where the enumeration `kind` lies in the body: behind event_id and transaction_id."""


def replaced(at: int, new: bytes, count: int = 1) -> bytes:
    """Return the good value with some bytes of its body replaced."""
    return HEADER + BODY[:at] + new + BODY[at + count :]


def differing(**fields: Any) -> int:
    """Return where the body of a payment with this change first differs from that without."""
    other = encoded("transaction", bad(**fields))[10:]
    return next(k for k, (a, b) in enumerate(zip(BODY, other, strict=False)) if a != b)


UNION = AFTER_IDS + 1 + len(varint(bad()["event_time"]))
"""Where the union of the optional local_utc_offset_minutes lies."""
PRESENT = encoded("transaction", bad(card_present=True))[10:]
ABSENT = encoded("transaction", bad(card_present=False))[10:]
BOOLEAN = next(k for k, (a, b) in enumerate(zip(PRESENT, ABSENT, strict=True)) if a != b)
ENTRY = sized(b"k") + sized(b"v")
LABEL = schemas.single_object_header(schemas.load("label"))
NAN_COSTS = {"lat": math.nan, "lon": 0.0}


@dataclass(frozen=True)
class Case:
    """One row of the catalogue, or a kind of it: the record, and its only right outcome."""

    row: str
    what: str
    outcome: str
    value: bytes | None
    key: bytes | None = CARD
    headers: Sequence[tuple[str, bytes | None]] | None = ()
    timestamp: int = TIMESTAMP
    degraded: tuple[str, ...] = ()


def fields(row: str, what: str, outcome: str, **changes: Any) -> Case:
    """Return the case of a payment that is well written and says something wrong."""
    about = {name: changes.pop(name) for name in ("timestamp", "degraded") if name in changes}
    paid = bad(**changes)
    key = about.pop("key", paid["card_id"].encode())
    return Case(row, what, outcome, encoded("transaction", paid), key, **about)


CASES = [
    Case("a1", "null", SKIPPED, None),
    Case("a2", "empty", "framing", b""),
    *(Case("a3", f"{n} bytes", "framing", GOOD[:n]) for n in (1, 5, 9)),
    Case("a4", "JSON", "framing", b'{"event_id": "x", "amount": 1}'),
    Case("a4", "magic 2", "framing", b"\x02" + GOOD[1:]),
    Case("a5", "unknown GUID", "schema_not_allowed", b"\x01" + bytes(16) + BODY),
    Case("a5", "GUID cut short", "framing", b"\x01" + bytes(15)),
    Case("a6", "unknown id", "schema_not_allowed", b"\x00" + bytes(4) + BODY),
    Case("a6", "id cut short", "framing", b"\x00" + bytes(3)),
    Case("a6", "unknown fingerprint", "schema_not_allowed", HEADER[:2] + bytes(8) + BODY),
    Case("a7", "another kind's schema", "schema_not_allowed", LABEL + BODY),
    *(Case("b1", f"cut at {n}", "decode", GOOD[:n]) for n in (11, 40, len(GOOD) - 1)),
    Case("b2", "header alone", "decode", HEADER),
    Case("b3", "one byte more", "trailing", GOOD + b"\0"),
    Case("b3", "twice", "trailing", GOOD + GOOD),
    *(
        Case("b4", f"length {n}", "decode", replaced(0, varint(n)))
        for n in (2**40, 2**62, -1, -(2**63))
    ),
    Case("b5", "no UTF-8", "decode", replaced(5, b"\xff")),
    Case("b6", "varint of 11 bytes", "decode", replaced(AFTER_IDS, b"\x80" * 10 + b"\x00")),
    Case("b6", "varint of 65 bits", "decode", replaced(AFTER_IDS, b"\x80" * 9 + b"\x02")),
    *(Case("b7", f"branch {n}", "decode", replaced(UNION, varint(n))) for n in (7, -1)),
    *(Case("b7", f"symbol {n}", "decode", replaced(AFTER_IDS, varint(n))) for n in (9, -1)),
    Case(
        "b8", "boolean 7", SCORED,
        HEADER + PRESENT[:BOOLEAN] + b"\x07" + PRESENT[BOOLEAN + 1 :],
    ),
    Case(
        "b9", "sized block", SCORED,
        replaced(len(BODY) - 1, varint(-1) + varint(len(ENTRY)) + ENTRY + b"\0"),
    ),
    Case("b10", "key twice", SCORED, replaced(len(BODY) - 1, varint(2) + 2 * ENTRY + b"\0")),
    Case("c1", "map of 2^40", "decode", replaced(len(BODY) - 1, varint(2**40))),
    Case("c4", "1 MB", "oversize", GOOD + bytes(2**20)),
    Case("c6", "1,000 headers", "framing", b"?", headers=[(f"h{k}", b"v") for k in range(1_000)]),
    Case("c6", "1 MB header", "framing", b"?", headers=[("h", bytes(2**20))]),
    Case("c6", "unreadable header", "framing", b"?", headers=None),
    Case("c6", "the same header twice", "framing", b"?", headers=[("h", b"1"), ("h", None)]),
    Case("c6", "headers of a good one", SCORED, GOOD, headers=[("h", bytes(2**20))] * 3),
    Case("c6", "unreadable of a good one", SCORED, GOOD, headers=None),
    Case("c7", "no key", "key", GOOD, key=None),
    Case("c7", "empty key", "key", GOOD, key=b""),
    Case("c7", "another card", "key", GOOD, key=b"another"),
    Case("c7", "10 MB key", "key", GOOD, key=bytes(10 * 2**20)),
    *(
        fields("d1", f"{x}", "not_finite", geo={"lat": 0.0, "lon": x})
        for x in (math.nan, math.inf, -math.inf)
    ),
    *(
        fields("d1", f"{x}", SCORED, geo={"lat": x, "lon": 0.0})
        for x in (-0.0, 5e-324, 1e308)
    ),
    fields("d4", "amount of 19 digits", "range", amount_minor=2**63 - 1),
    *(
        fields("d2", kind, outcome, kind=kind, amount_minor=-500)
        for kind, outcome in (
            ("AUTHORISATION", "range"), ("CLEARING", "range"), ("REFUND", SCORED),
            ("REVERSAL", SCORED),
        )
    ),
    fields("d3", "card check", SCORED, amount_minor=0),
    fields("d4", "beyond ten to the 14", "range", amount_minor=10**14 + 1),
    fields("d4", "exponent", "range", currency_exponent=40),
    fields("d5", "double beyond float32", SCORED, geo={"lat": 1e39, "lon": -1e39}),
    fields("d5", "the largest amount", SCORED, amount_minor=10**14),
    *(fields("d6", repr(c), SCORED, currency=c) for c in ("XXX", "eur", "EURO", "")),
    fields("d6", "no country", SCORED, merchant_country=""),
    *(
        fields("d7", what, SCORED, merchant_id=text)
        for what, text in (
            ("NUL", "a\0b"), ("right to left", "\u202eshop"), ("emoji", "\U0001f4b3"),
            ("log line", 'x\n{"level": "error"}'), ("formula", "=cmd()"), ("template", "{{7*7}}"),
            ("60 kB", "m" * 60_000),
        )
    ),
    fields("d7", "1 MB merchant", "oversize", merchant_id="m" * 2**20),
    fields("d7", "NUL in the card", SCORED, card_id="card\0\n\u202e"),
    fields("d8", "Luhn", "card_number", card_id="4111111111111111"),
    fields("d8", "Luhn with spaces", "card_number", card_id="4111 1111 1111 1111"),
    *(
        fields("d8", what, SCORED, card_id=text)
        for what, text in (
            ("not Luhn", "4111111111111112"), ("11 digits", "0" * 11), ("20 digits", "0" * 20),
        )
    ),
    fields("e1", "1 s ahead", SCORED, event_time=TIMESTAMP * 1_000 + 1_000_000),
    fields("e1", "1 h ahead", SCORED, event_time=TIMESTAMP * 1_000 + DAY // 24),
    fields("e1", "2 d ahead", "future", event_time=TIMESTAMP * 1_000 + 2 * DAY),
    fields("e1", "year 3000", "time", event_time=32_503_680_000_000_000),
    *(
        fields("e2", f"{t}", "time", event_time=t)
        for t in (0, -1, -62_200_000_000_000_000, 253_402_300_800_000_000, 2**62, -(2**63))
    ),
    fields("e3", "seconds", "time", event_time=JANUARY // 1_000_000),
    fields("e3", "milliseconds", "time", event_time=JANUARY // 1_000),
    fields("e3", "nanoseconds", "time", event_time=JANUARY * 1_000),
    fields("e4", "late", SCORED, event_time=JANUARY - 3 * DAY, degraded=("LATE_EVENT",)),
    fields("e5", "no timestamp", SCORED, timestamp=-1),
    fields("e5", "a timestamp beyond all", SCORED, timestamp=2**62),
    fields("f2", "an id of another payment", SCORED, event_id=payment(0)["event_id"]),
    *(
        fields("f3", f"{what} {name}", "id", **{name: text})
        for name, what, text in (
            ("event_id", "empty", ""), ("event_id", "10 kB", "x" * 10_000),
            ("event_id", "no UUID", "0" * 36), ("transaction_id", "empty", ""),
            ("card_id", "empty", ""), ("terminal_id", "empty", ""),
            ("terminal_id", "10 kB", "x" * 10_000),
        )
    ),
    fields("f5", "only what is needed", SCORED),
]  # fmt: skip


def batch_of(*cases: Case | None) -> Any:
    """Return one poll: good payments, and between them the cases; None leaves a gap."""
    rows: list[tuple[Any, ...]] = []
    for number, case in enumerate([*cases, None]):
        good = payment(2 * number, card_id="card", terminal_id="terminal", amount_minor=150_000)
        rows.append((encoded("transaction", good), b"card", 3 * number, TIMESTAMP, ()))
        if case is not None:
            rows.append((case.value, case.key, 3 * number + 1, case.timestamp, case.headers))
    values, keys, offsets, timestamps, headers = zip(*rows, strict=True)
    return records_of(values, keys, offsets=offsets, timestamps=timestamps, headers=headers)


def run(*cases: Case | None, model: FixedModel | None = None) -> Rig:
    rig = Rig(model)
    rig.run(batch_of(*cases))
    return rig


def neighbours(rig: Rig) -> list[dict[str, Any]]:
    """Return the predictions of the good payments."""
    return [prediction for prediction in rig.predictions if prediction["card_id"] == "card"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}: {case.what}")
def test_a_bad_record_has_its_outcome_and_harms_no_neighbour(case, capsys):
    """
    It is a dead letter with the reason named, or scored, or skipped; those before and after it in
    its batch are scored bit for bit as without it, and nothing of it is in the log.
    """
    rig, sound = run(case), run(None)

    letters = {(0, 1): case.outcome} if case.outcome not in {SCORED, SKIPPED} else {}
    assert rig.dead_letters == letters
    others = [p for p in rig.predictions if p["source_offset"] == 1]
    assert [tuple(p["degraded"]) for p in others] == [case.degraded] * (case.outcome == SCORED)
    assert all(math.isfinite(number) for p in others for number in p["features"])
    assert neighbours(rig) == neighbours(sound)
    assert len(neighbours(rig)) == 2
    assert rig.alerts[:1] == sound.alerts[:1]
    assert rig.sink.committed == {0: 4}
    skipped = rig.value("messages_skipped_total", reason="tombstone")
    assert len(rig.predictions) + len(rig.dead_letters) + skipped == 3
    assert capsys.readouterr() == ("", "")


def test_all_bad_records_at_once_have_their_outcomes_and_harm_no_neighbour():
    """In one batch, each between two good ones."""
    rig, sound = run(*CASES), run(*[None] * len(CASES))

    expected = {
        (0, 3 * number + 1): case.outcome
        for number, case in enumerate(CASES)
        if case.outcome not in {SCORED, SKIPPED}
    }
    assert rig.dead_letters == expected
    assert neighbours(rig) == neighbours(sound)


@pytest.mark.bad_input("f1")
def test_a_payment_that_comes_again_is_scored_as_the_first_and_counted_once():
    """A prediction each, equal in all but its place."""
    rig = Rig()

    rig.run(payment_records([bad(), bad(), bad(event_id=payment(7)["event_id"])]))

    first, again, other = (without(p, "source_offset") for p in rig.predictions)
    assert first == again
    assert other["features"][AMOUNT + 3] == first["features"][AMOUNT + 3] + 1


@pytest.mark.bad_input("f6")
@pytest.mark.parametrize("answer", [-0.1, 1.1, math.nan, math.inf])
def test_a_score_that_is_no_probability_is_one_dead_letter(answer):
    """Its neighbours are scored as if the model had answered well."""
    case = fields("f6", "", "score_invalid", amount_minor=300_000)
    model = FixedModel(lambda row: answer if row[AMOUNT] > 250 else by_amount(row))

    rig = run(case, model=model)

    assert rig.dead_letters == {(0, 1): "score_invalid"}
    assert neighbours(rig) == neighbours(run(case))


@pytest.mark.bad_input("f6")
@pytest.mark.parametrize("shape", ["a column", "objects", "too few"])
def test_a_model_that_answers_in_another_shape_ends_the_process(shape):
    """It is no record's fault: nothing but the first is put aside, and nothing is committed."""

    class Misshapen:
        engine = "fixed"

        def score(self, rows):
            answers = {
                "a column": np.zeros((len(rows), 1)),
                "objects": np.array([None] * len(rows), object),
                "too few": np.zeros(len(rows) + 1),
            }
            return answers[shape]

    rig = Rig(Misshapen())

    with pytest.raises(FatalError, match="the fault is not theirs"):
        rig.run(batch_of(None, None))


@pytest.mark.bad_input("a8", "a10")
@pytest.mark.parametrize(
    "change", [{"type": "double"}, {"type": "string"}, {"name": "amount"}], ids=str
)
def test_a_schema_in_which_a_needed_field_is_another_or_renamed_is_refused(change):
    """At the start, by the name of the field: no default stands in for what is needed."""
    newer = schemas.load("transaction")
    field = next(part for part in newer["fields"] if part["name"] == "amount_minor")
    field |= change

    with pytest.raises(ConfigError, match="amount_minor"):
        PaymentDecoder([newer])


@pytest.mark.bad_input("a9")
def test_a_schema_that_grew_is_scored_as_the_old_one_was():
    """A new optional field, and a narrower number."""
    newer = schemas.load("transaction")
    newer["fields"].append({"name": "wallet", "type": ["null", "string"], "default": None})
    next(part for part in newer["fields"] if part["name"] == "amount_minor")["type"] = "int"
    old, new = Rig(), Rig()
    new.pipeline._decode = PaymentDecoder([newer]).decode

    old.run(payment_records([bad()]))
    new.run(records_of([written(newer, bad(wallet="w"))], [CARD]))

    assert new.predictions == old.predictions


GUID = "0f5e1f4e-8a2b-4c3d-9e6f-a1b2c3d4e5f6"


@pytest.mark.bad_input("a5", "a6")
@pytest.mark.parametrize(
    "header", [b"\0" + (2**31 - 1).to_bytes(4, "big"), b"\1" + UUID(GUID).bytes], ids=["id", "GUID"]
)
def test_an_id_that_is_told_is_read_as_the_schema_that_it_stands_for(header):
    """Scored as the payment would be in single-object encoding; damaged ones are told apart."""
    told = schemas.registry_headers({f"{2**31 - 1}": "transaction-1", GUID: "transaction-1"})
    decoder = PaymentDecoder([schemas.load("transaction")], registry=told)
    old, new = Rig(), Rig()
    new.pipeline._decode = decoder.decode
    values = [header + BODY, header, header + BODY + b"\0", b"\0\0\0\0\x07" + BODY]

    old.run(payment_records([bad()]))
    new.run(records_of(values, [CARD] * 4))

    assert new.predictions == old.predictions
    assert new.dead_letters == {(0, 1): "decode", (0, 2): "trailing", (0, 3): "schema_not_allowed"}


def nested(levels: int) -> Any:
    schema: Any = "long"
    for level in range(levels):
        inner = {"name": "inner", "type": schema}
        schema = ["null", {"type": "record", "name": f"R{level}", "fields": [inner]}]
    return schema


HOSTILE = {
    "c1 null": {"type": "array", "items": "null"},
    "c1 empty record": {
        "type": "array", "items": {"type": "record", "name": "E", "fields": []},
    },
    "c2 recursive": {
        "type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}],
    },
    "c3 deep": nested(200),
    "c3 wide": {
        "type": "record", "name": "W",
        "fields": [{"name": f"f{k}", "type": ["null", "long"]} for k in range(20_000)],
    },
}  # fmt: skip


@pytest.mark.bad_input("c1", "c2", "c3")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_whose_values_could_exhaust_the_process_is_refused(name):
    """When it is to be allowed, before any value of it is read."""
    writer = record_schema(**{f["name"]: f["type"] for f in schemas.load("transaction")["fields"]})
    writer["fields"].append({"name": "hostile", "type": HOSTILE[name]})

    with pytest.raises(ConfigError):
        PaymentDecoder([writer])
