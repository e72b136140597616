import hashlib

import numpy as np
import pytest

from consumer.core.dead_letter import DeadLetters
from consumer.records import Refused, Status
from tests.builders import records_of

PREFIX = "__fraudstream.errors."
LETTERS = DeadLetters("transactions.raw-dlt", "1.2.3")
REASONS = [status for status in Status if status > Status.TOMBSTONE]


def write(records, *statuses, rows=None):
    rows = range(len(statuses)) if rows is None else rows
    refused = Refused(np.array(rows, np.intp), np.array(statuses, np.int8))
    return LETTERS.write(records, refused)


def errors(headers):
    """Return our own headers without their prefix."""
    return {
        name.removeprefix(PREFIX): value.decode()
        for name, value in headers
        if name.startswith(PREFIX)
    }


def test_a_dead_letter_is_the_record_as_it_came():
    """Key, value, partition and timestamp untouched, on the topic beside the input."""
    records = records_of(
        [b"\x00\xffnot avro"], [b"card-1"], partitions=3, offsets=[42], timestamps=1_577_836_800_123
    )

    letters = write(records, Status.FRAMING)

    assert letters.topic == "transactions.raw-dlt"
    assert letters.keys == [b"card-1"]
    assert letters.values == [b"\x00\xffnot avro"]
    assert letters.partitions == [3]
    assert letters.timestamps == [1_577_836_800_123]


def test_its_headers_say_where_and_why():
    """A closed set of words; never the text of an exception, which may quote the payment."""
    records = records_of([b"x"], partitions=3, offsets=[42])

    [headers] = write(records, Status.FRAMING).headers

    assert errors(headers) == {
        "topic": "transactions.raw",
        "partition": "3",
        "offset": "42",
        "stage": "decode",
        "reason": "framing",
        "attempts": "1",
        "app.version": "1.2.3",
    }


@pytest.mark.parametrize("status", REASONS, ids=lambda status: status.reason)
def test_every_reason_has_its_word_and_its_stage(status):
    """The word and the stage of the metric."""
    [headers] = write(records_of([b"x"]), status).headers

    assert errors(headers)["reason"] == status.reason
    assert errors(headers)["stage"] == status.stage


def test_its_own_headers_come_first_and_unchanged():
    """Twice the same name, no value, bytes that are no text: all of it was somebody's."""
    own = [("trace", b"\xff"), ("trace", b"2"), ("empty", None), (f"{PREFIX}reason", b"older")]

    [headers] = write(records_of([b"x"], headers=[own]), Status.DECODE).headers

    assert headers[:4] == own
    assert headers[-3:] == [
        (f"{PREFIX}reason", b"decode"),
        (f"{PREFIX}attempts", b"1"),
        (f"{PREFIX}app.version", b"1.2.3"),
    ]


@pytest.mark.parametrize("status", [Status.OVERSIZE, Status.CARD_NUMBER])
def test_a_value_that_must_not_be_copied_leaves_its_hash_and_length(status):
    """Too large to go with its headers, or a card number in clear."""
    value = b"x" * 1_000

    letters = write(records_of([value]), status)

    assert letters.values == [None]
    assert errors(letters.headers[0])["value.sha256"] == hashlib.sha256(value).hexdigest()
    assert errors(letters.headers[0])["value.length"] == "1000"


@pytest.mark.parametrize("status", REASONS, ids=lambda status: status.reason)
def test_only_two_reasons_leave_the_value_out(status):
    """For the rest, the bytes are what somebody will want to look at."""
    letters = write(records_of([b"x"], [b"card"]), status)

    left_out = status in {Status.OVERSIZE, Status.CARD_NUMBER}
    assert letters.values == [None if left_out else b"x"]
    assert ("value.sha256" in errors(letters.headers[0])) is left_out
    assert letters.keys == [None if status is Status.CARD_NUMBER else b"card"]


def test_a_card_number_is_nowhere_in_its_letter():
    """The key was the number as well."""
    pan = b"4111111111111111"

    letters = write(records_of([b"..." + pan], [pan]), Status.CARD_NUMBER)

    assert letters.keys == [None]
    assert pan not in repr(letters).encode()


def test_tombstones_are_no_dead_letters():
    """They are skipped and counted."""
    letters = write(records_of([None, b"x"]), Status.TOMBSTONE, Status.FRAMING)

    assert letters.values == [b"x"]


def test_replayed_records_leave_no_second_letter():
    """They were dead-lettered before the partition came to us."""
    records = records_of([b"a", b"b"], live=[False, True])

    assert write(records, Status.FRAMING, Status.FRAMING).values == [b"b"]


def test_letters_are_of_the_refused_records_of_the_batch():
    """The others are scored."""
    records = records_of(
        [b"a", b"b", b"c", b"d"], [b"0", b"1", b"2", b"3"], partitions=[0, 1, 0, 1]
    )

    letters = write(records, Status.FRAMING, Status.DECODE, rows=[1, 3])

    assert letters.values == [b"b", b"d"]
    assert letters.keys == [b"1", b"3"]
    assert letters.partitions == [1, 1]
    assert [errors(headers)["offset"] for headers in letters.headers] == ["1", "3"]


def test_a_record_without_a_timestamp_has_none_to_keep():
    """0 lets the client put the time of the letter; -1 it would refuse."""
    assert write(records_of([b"a"], timestamps=-1), Status.FRAMING).timestamps == [0]


def test_nothing_refused_makes_no_letters():
    """The usual batch."""
    letters = write(records_of([b"a"]))

    assert len(letters) == 0
    assert letters.headers == []


NUMBER = b"4111111111111111"


def classified(records, status):
    """Return the one status that a refused record gets, and its letter."""
    refused = LETTERS.classify(records, Refused(np.zeros(1, np.intp), np.full(1, status, np.int8)))
    return Status(refused.statuses[0]), LETTERS.write(records, refused)


@pytest.mark.parametrize("status", [s for s in Status if s > Status.TOMBSTONE])
@pytest.mark.parametrize(
    "columns",
    [
        {"values": [b'{"pan": "%s"}' % NUMBER]},
        {"values": [b"x"], "keys": [NUMBER]},
        {"values": [b"x"], "headers": [[("trace", b"1"), ("pan", NUMBER)]]},
        {"values": [b"x"], "headers": [[("trace", b"1"), (NUMBER.decode(), None)]]},
    ],
    ids=["value", "key", "header", "header's name"],
)
def test_whatever_is_refused_and_holds_a_card_number_is_not_copied(status, columns):
    """Its letter has digest and length, and those headers that are clean."""
    records = records_of(**columns)

    found, letters = classified(records, status)

    assert found is Status.CARD_NUMBER
    assert letters.keys == letters.values == [None]
    assert NUMBER not in repr(letters.headers).encode()
    facts = errors(letters.headers[0])
    assert facts["reason"] == "card_number"
    assert facts["value.sha256"] == hashlib.sha256(records.values[0]).hexdigest()
    assert ("trace", b"1") in letters.headers[0] or "headers" not in columns


@pytest.mark.parametrize("status", [s for s in Status if s > Status.TOMBSTONE])
def test_what_holds_none_keeps_its_reason(status):
    """A token that fails Luhn's check is no card number."""
    assert classified(records_of([b"4111111111111112"]), status)[0] is status


def test_a_tombstone_stays_one():
    """It has no letter, so that nothing of it is copied."""
    status, letters = classified(records_of([None], [NUMBER]), Status.TOMBSTONE)

    assert status is Status.TOMBSTONE
    assert len(letters) == 0


def test_those_who_allow_card_numbers_get_them():
    """The setting holds for dead letters too."""
    letters = DeadLetters("t", "1", refuse_card_numbers=False)
    refused = Refused(np.zeros(1, np.intp), np.full(1, Status.FRAMING, np.int8))

    assert letters.classify(records_of([NUMBER]), refused) is refused
