import numpy as np
import pytest

import schemas
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_4
from consumer.core.hashing import fingerprint_ids, hash_ids
from consumer.core.symbols import KINDS
from consumer.core.validate_kernel import EARLIEST, LATEST, LONGEST_ID_BYTES
from consumer.records import Status
from tests.builders import DAY, JANUARY, encoded, payment, payment_records, records_of, written

LUHN = "4111111111111111"


@pytest.fixture(scope="module")
def decoder():
    return PaymentDecoder([schemas.load("transaction")])


def status_of(decoder, record, **columns) -> Status:
    _, refused = decoder.decode(payment_records([record], **columns))
    return Status(refused.statuses[0]) if len(refused.rows) else Status.GOOD


def amount_of(decoder, **fields) -> int:
    events, refused = decoder.decode(payment_records([payment(**fields)]))
    assert refused.statuses.tolist() == []
    return int(events.amounts[0])


def test_a_payment_becomes_a_row_of_every_column(decoder):
    """What the features need, and what the prediction repeats."""
    paid = payment(
        3, kind="REFUND", amount_minor=-1_234, local_utc_offset_minutes=-90, card_id="card-3"
    )

    events, refused = decoder.decode(
        payment_records([paid], partitions=5, offsets=[77], live=False)
    )

    assert len(refused.rows) == 0
    assert len(events) == 1
    assert events.rows.tolist() == [0]
    assert events.partitions.tolist() == [5]
    assert events.offsets.tolist() == [77]
    assert events.live.tolist() == [False]
    assert events.times.tolist() == [paid["event_time"]]
    assert events.kinds.tolist() == [KINDS.index("REFUND")]
    assert events.amounts.tolist() == [-123_400]
    assert events.amounts_minor.tolist() == [-1_234]
    assert events.utc_offset_minutes.tolist() == [-90]
    texts = {name: events.text.bytes_of(name, 0).decode() for name in events.text.names}
    assert texts == {name: paid[name] for name in events.text.names}


def test_ids_are_hashed_column_by_column(decoder):
    """State knows cards and terminals by their hashes alone."""
    paid = [payment(k, card_id="same", terminal_id=f"t{k}") for k in range(3)]
    paid.append(payment(4, card_id="t0", terminal_id="same"))

    events, _ = decoder.decode(payment_records(paid))

    assert len(np.unique(events.cards[:3], axis=0)) == 1
    assert len(np.unique(events.terminals[:3], axis=0)) == 3
    assert events.cards[0].tolist() == events.terminals[3].tolist()
    assert events.cards[3].tolist() == events.terminals[0].tolist()
    assert events.cards.tolist() == hash_ids(events.text, 2).tolist()
    assert events.fingerprints.tolist() == fingerprint_ids(events.text, 0).tolist()


def test_an_empty_batch_gives_no_events_and_refuses_nothing(decoder):
    """No records in, none out."""
    events, refused = decoder.decode(payment_records([]))

    assert len(events) == 0
    assert len(refused.rows) == 0


def test_a_batch_of_nothing_but_refused_records_gives_no_events(decoder):
    """Each of them is told with its reason, in log order."""
    batch = [None, b"", b"not avro at all", payment(0, card_id="")]

    events, refused = decoder.decode(payment_records(batch))

    assert len(events) == 0
    assert refused.rows.tolist() == [0, 1, 2, 3]
    assert refused.statuses.tolist() == [
        Status.TOMBSTONE, Status.FRAMING, Status.FRAMING, Status.ID,
    ]  # fmt: skip


def test_refused_records_cost_their_neighbours_nothing(decoder):
    """What is left is what a batch without them gives, place by place."""
    good = [payment(k) for k in range(4)]
    mixed = [b"", good[0], None, good[1], payment(9, amount_minor=-1), good[2], good[3]]

    alone, _ = decoder.decode(payment_records(good, offsets=[1, 3, 5, 6]))
    events, refused = decoder.decode(payment_records(mixed))

    assert refused.rows.tolist() == [0, 2, 4]
    assert events.rows.tolist() == [1, 3, 5, 6]
    for name in ("partitions", "offsets", "live", "times", "kinds", "amounts", "amounts_minor"):
        assert getattr(events, name).tolist() == getattr(alone, name).tolist()
    assert events.cards.tolist() == alone.cards.tolist()
    assert events.terminals.tolist() == alone.terminals.tolist()
    for name in events.text.names:
        for row in range(4):
            assert events.text.bytes_of(name, row) == alone.text.bytes_of(name, row)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, Status.TOMBSTONE),
        (b"{" + b" " * 20, Status.FRAMING),
        (encoded("label", {
            "label_id": "0" * 36, "transaction_id": "t", "card_id": "c", "terminal_id": "t",
            "event_time": 0, "amount_minor": 0, "currency": "EUR", "reported_at": 0,
            "published_at": 0,
        }), Status.SCHEMA_NOT_ALLOWED),
        (encoded("transaction", payment())[:-5], Status.DECODE),
        (encoded("transaction", payment()) + b"\x00", Status.TRAILING),
        (encoded("transaction", payment(geo={"lat": float("nan"), "lon": 0})), Status.NOT_FINITE),
        (encoded("transaction", payment(attributes={"a": "x" * 70_000})), Status.OVERSIZE),
    ],
    ids=lambda value: value.name if isinstance(value, Status) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_reason(decoder, value, status):
    """The decoder's own statuses pass through."""
    assert status_of(decoder, value) is status


def test_the_largest_value_is_a_setting():
    """`input.max_value_bytes`, to the byte."""
    size = len(encoded("transaction", payment()))
    decoders = [
        PaymentDecoder([schemas.load("transaction")], max_bytes=limit) for limit in (size, size - 1)
    ]

    found = [status_of(each, payment()) for each in decoders]

    assert found == [Status.GOOD, Status.OVERSIZE]


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        "00000000-0000-0000-0000-00000000000",
        "00000000-0000-0000-0000-0000000000000",
        "00000000000000000000000000000000----",
        "g0000000-0000-0000-0000-000000000000",
        "00000000_0000-0000-0000-000000000000",
        "{0000000-0000-0000-0000-00000000000}",
        "x" * 10_000,
    ],
)
def test_an_event_id_that_is_no_uuid_is_refused(decoder, event_id):
    """36 characters: hexadecimal digits, and four hyphens where they belong."""
    assert status_of(decoder, payment(event_id=event_id)) is Status.ID


def test_a_uuid_may_be_in_either_case(decoder):
    """RFC 9562 writes lower case and reads both."""
    event_id = "0189DCB5-0000-7ABC-9def-0123456789aF"

    assert status_of(decoder, payment(event_id=event_id)) is Status.GOOD


@pytest.mark.bad_input("f3")
@pytest.mark.parametrize("name", ["transaction_id", "card_id", "terminal_id"])
@pytest.mark.parametrize(
    ("length", "status"),
    [
        (0, Status.ID),
        (1, Status.GOOD),
        (LONGEST_ID_BYTES, Status.GOOD),
        (LONGEST_ID_BYTES + 1, Status.ID),
    ],
)
def test_ids_have_1_to_256_bytes(decoder, name, length, status):
    """An empty one would make strangers one card; a long one would fill the state."""
    assert status_of(decoder, payment(**{name: "x" * length})) is status


@pytest.mark.bad_input("d8")
@pytest.mark.parametrize(
    "card_id",
    [
        LUHN,
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        " 4111-1111 1111-1111 ",
        "378282246310005",
        "6304000000000000000",
        "501800000009",
    ],
)
def test_a_card_number_in_clear_is_refused(decoder, card_id):
    """12 to 19 digits that pass Luhn's check, spaces and hyphens apart."""
    assert status_of(decoder, payment(card_id=card_id)) is Status.CARD_NUMBER


@pytest.mark.bad_input("d8")
@pytest.mark.parametrize(
    "card_id",
    [
        "4111111111111112",
        "00000000000",
        "00000000000000000000",
        "4111111111111111x",
        "4111.1111.1111.1111",
        "tok_4111111111111111",
        "------------",
    ],
    ids=["not Luhn", "11 digits", "20 digits", "letter", "dots", "prefix", "no digits"],
)
def test_a_token_that_only_resembles_a_card_number_is_accepted(decoder, card_id):
    """Format-preserving tokens keep the length and break the check digit on purpose."""
    assert status_of(decoder, payment(card_id=card_id)) is Status.GOOD


def test_a_card_number_is_told_before_its_key_is_compared(decoder):
    """The reason that keeps the number out of the dead letters wins."""
    assert status_of(decoder, payment(card_id=LUHN), keys=[b"other"]) is Status.CARD_NUMBER


def test_card_numbers_may_be_let_through():
    """`input.refuse_card_numbers = false`, for tokens that pass Luhn's check by design."""
    decoder = PaymentDecoder([schemas.load("transaction")], refuse_card_numbers=False)

    assert status_of(decoder, payment(card_id=LUHN)) is Status.GOOD


@pytest.mark.bad_input("c7")
@pytest.mark.parametrize("key", [None, b"", b"card", b"card-00", b"CARD-0", b"card-0 "])
def test_a_key_that_is_not_the_card_is_refused(decoder, key):
    """The key chose the partition, and with it whose history the payment is measured by."""
    assert status_of(decoder, payment(card_id="card-0"), keys=[key]) is Status.KEY


@pytest.mark.bad_input("e2", "e3")
@pytest.mark.parametrize(
    ("time", "status"),
    [
        (EARLIEST, Status.GOOD),
        (EARLIEST - 1, Status.TIME),
        (LATEST, Status.GOOD),
        (LATEST + 1, Status.TIME),
        (0, Status.TIME),
        (-1, Status.TIME),
        (JANUARY // 1_000, Status.TIME),
        (JANUARY // 1_000_000, Status.TIME),
        (JANUARY * 1_000, Status.TIME),
        (2**63 - 1, Status.TIME),
        (-(2**63), Status.TIME),
    ],
)
def test_event_times_lie_between_2000_and_2100(decoder, time, status):
    """Seconds, milliseconds and nanoseconds taken for microseconds fall outside."""
    assert status_of(decoder, payment(event_time=time)) is status


@pytest.mark.bad_input("e1")
@pytest.mark.parametrize(
    ("ahead", "status"), [(DAY, Status.GOOD), (DAY + 1, Status.FUTURE), (-DAY, Status.GOOD)]
)
def test_a_payment_made_a_day_after_its_record_is_from_the_future(decoder, ahead, status):
    """It is judged by its own record's timestamp, so that a replay judges alike."""
    record = payment(event_time=JANUARY + ahead)

    assert status_of(decoder, record, timestamps=JANUARY // 1_000) is status


def test_how_far_ahead_a_payment_may_be_is_a_setting():
    """`input.max_future`, here nothing at all."""
    decoder = PaymentDecoder([schemas.load("transaction")], furthest_ahead_seconds=0)
    records = [payment(event_time=JANUARY), payment(event_time=JANUARY + 1)]

    _, refused = decoder.decode(payment_records(records, timestamps=JANUARY // 1_000))

    assert refused.rows.tolist() == [1]
    assert refused.statuses.tolist() == [Status.FUTURE]


@pytest.mark.bad_input("e5")
def test_without_a_timestamp_no_payment_is_from_the_future(decoder):
    """-1 is Kafka's for none: there is nothing to judge by."""
    assert status_of(decoder, payment(event_time=LATEST), timestamps=-1) is Status.GOOD


@pytest.mark.bad_input("e5")
@pytest.mark.parametrize("timestamp", [2**62, 2**63 - 1, (2**63 - 1) // 1_000 + 1])
def test_a_timestamp_beyond_all_times_makes_no_payment_one_from_the_future(decoder, timestamp):
    """Producers set timestamps as they like: microseconds of them may not fit 64 bits."""
    assert status_of(decoder, payment(), timestamps=timestamp) is Status.GOOD


@pytest.mark.parametrize(
    ("exponent", "amount"), [(0, 12_340_000), (1, 1_234_000), (2, 123_400), (3, 12_340), (4, 1_234)]
)
def test_amounts_are_ten_thousandths_of_the_major_unit(decoder, exponent, amount):
    """1234 is 12.34 with two decimals and 1234 with none."""
    assert amount_of(decoder, amount_minor=1_234, currency_exponent=exponent) == amount


@pytest.mark.bad_input("d4")
@pytest.mark.parametrize("exponent", [-1, 5, 2**31 - 1, -(2**31)])
def test_an_exponent_outside_0_to_4_is_refused(decoder, exponent):
    """ISO 4217 has no other."""
    assert status_of(decoder, payment(currency_exponent=exponent)) is Status.RANGE


def test_the_billing_amount_is_aggregated_where_there_is_one(decoder):
    """One card, one currency; without an exponent of its own it has two decimals."""
    yen = {"amount_minor": 5_000, "currency": "JPY", "currency_exponent": 0}

    plain = amount_of(decoder, **yen)
    billed = amount_of(decoder, **yen, billing_amount_minor=3_100)
    dinars = amount_of(decoder, **yen, billing_amount_minor=3_100, billing_currency_exponent=3)
    nothing = amount_of(decoder, **yen, billing_amount_minor=0)

    assert (plain, billed, dinars, nothing) == (50_000_000, 310_000, 31_000, 0)


def test_the_billing_amount_is_the_one_that_must_be_in_range(decoder):
    """What is not aggregated is not judged."""
    wild = {"amount_minor": -(2**62), "currency_exponent": 9}

    assert status_of(decoder, payment(**wild, billing_amount_minor=1)) is Status.GOOD
    assert status_of(decoder, payment(billing_amount_minor=-1)) is Status.RANGE
    assert (
        status_of(decoder, payment(billing_amount_minor=1, billing_currency_exponent=5))
        is Status.RANGE
    )


@pytest.mark.bad_input("d3", "d4")
@pytest.mark.parametrize(
    ("amount", "status"),
    [
        (0, Status.GOOD),
        (10**14, Status.GOOD),
        (10**14 + 1, Status.RANGE),
        (2**63 - 1, Status.RANGE),
    ],
)
def test_amounts_reach_from_nothing_to_ten_to_the_14(decoder, amount, status):
    """Card checks are for nothing; no payment is for more."""
    assert status_of(decoder, payment(amount_minor=amount)) is status


@pytest.mark.bad_input("d2")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [-1, -(10**14)])
def test_only_reversals_and_refunds_may_be_negative(decoder, kind, amount):
    """Money goes back in those two; anywhere else a sign is a fault."""
    allowed = kind in {"REVERSAL", "REFUND"}

    found = status_of(decoder, payment(kind=kind, amount_minor=amount))

    assert found is (Status.GOOD if allowed else Status.RANGE)


@pytest.mark.parametrize("amount", [-(10**14) - 1, -(2**63)])
def test_no_amount_is_below_minus_ten_to_the_14(decoder, amount):
    """The least of 64 bits is what stands for an absent billing amount; it is refused as well."""
    assert status_of(decoder, payment(kind="REFUND", amount_minor=amount)) is Status.RANGE


@pytest.mark.parametrize(
    ("minutes", "status"),
    [
        (18 * 60, Status.GOOD),
        (18 * 60 + 1, Status.RANGE),
        (-18 * 60, Status.GOOD),
        (-18 * 60 - 1, Status.RANGE),
        (None, Status.GOOD),
    ],
)
def test_offsets_from_utc_reach_18_hours_either_way(decoder, minutes, status):
    """As far as ISO 8601 libraries let them; without one it is UTC."""
    assert status_of(decoder, payment(local_utc_offset_minutes=minutes)) is status


@pytest.mark.bad_input("a9")
def test_a_kind_newer_than_this_build_is_scored_as_unknown():
    """Its symbol is read by name, and the others keep theirs."""
    newer = schemas.load("transaction")
    kind = next(part["type"] for part in newer["fields"] if part["name"] == "kind")
    kind["symbols"].insert(1, "INSTALMENT")
    records = records_of(
        [written(newer, payment(kind=kind)) for kind in ("INSTALMENT", "CLEARING")],
        [b"card-0"] * 2,
    )

    events, _ = PaymentDecoder([newer]).decode(records)

    assert events.kinds.tolist() == [KINDS.index("UNKNOWN"), KINDS.index("CLEARING")]


@pytest.mark.bad_input("a9")
def test_a_schema_with_more_fields_is_scored_the_same():
    """New fields, wherever they stand, change nothing of the old ones."""
    newer = schemas.load("transaction")
    newer["fields"].insert(3, {"name": "wallet", "type": ["null", "string"], "default": None})
    newer["fields"].append({"name": "risk", "type": {"type": "array", "items": "double"}})
    value = written(newer, payment(5) | {"wallet": "w", "risk": [0.5]})

    old, _ = PaymentDecoder([schemas.load("transaction")]).decode(payment_records([payment(5)]))
    new, _ = PaymentDecoder([newer]).decode(records_of([value], [b"card-5"]))

    assert new.times.tolist() == old.times.tolist()
    assert new.amounts.tolist() == old.amounts.tolist()
    assert new.cards.tolist() == old.cards.tolist()
    assert new.terminals.tolist() == old.terminals.tolist()


def test_a_country_is_decoded_for_a_set_that_asks_for_it_and_for_no_other():
    """Two letters, a hash of what is no code, or none."""
    records = payment_records(
        [payment(k, merchant_country=country) for k, country in enumerate(["BE", None, "", "BEL"])]
    )
    decoders = [
        PaymentDecoder([schemas.load("transaction")], attributes=each.attributes)
        for each in (ARRIVAL_1, ARRIVAL_4)
    ]

    plain, asked = (decoder.decode(records)[0] for decoder in decoders)

    assert [decoder._avro.columns[-1].path for decoder in decoders] == [
        "billing_currency_exponent", "merchant_country",
    ]  # fmt: skip
    assert plain.countries.tolist() == [0] * 4
    assert asked.text.names == plain.text.names
    assert asked.countries[:3].tolist() == [int.from_bytes(b"BE"), 0, 0]
    assert asked.countries[3] >= 2**15


def test_a_payment_without_a_country_in_its_schema_has_none():
    """An upstream may write a schema from before the field was there."""
    older = schemas.load("transaction")
    older["fields"] = [each for each in older["fields"] if each["name"] != "merchant_country"]
    records = records_of([written(older, payment(5))], [b"card-5"])

    events, _ = PaymentDecoder([older], attributes=ARRIVAL_4.attributes).decode(records)

    assert events.countries.tolist() == [0]
