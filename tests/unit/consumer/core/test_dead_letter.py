import hashlib

import numpy as np
import pytest

from consumer.core.dead_letter import MOST_BYTES_BESIDE_VALUE, DeadLetters, Place, read_letter
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


@pytest.mark.bad_input("d8")
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


@pytest.mark.bad_input("c6")
@pytest.mark.parametrize(
    ("key", "own"),
    [
        (b"k" * (MOST_BYTES_BESIDE_VALUE + 1), [("h", b"v")]),
        (b"card", [("h", b"v" * MOST_BYTES_BESIDE_VALUE)]),
        (b"card", [("h" * 60, b"")] * 2_000),
    ],
    ids=["key", "header", "many headers"],
)
def test_a_key_or_headers_too_large_for_the_letter_leave_hash_and_length(key, own):
    """A letter that its topic refuses would come back for ever; the value is still there."""
    letters = write(records_of([b"x"], [key], headers=[own]), Status.KEY)

    [headers] = letters.headers
    assert letters.keys == [None]
    assert letters.values == [b"x"]
    assert errors(headers)["key.sha256"] == hashlib.sha256(key).hexdigest()
    assert errors(headers)["key.length"] == str(len(key))
    assert errors(headers)["headers.length"] == str(sum(len(n) + len(v) for n, v in own))
    assert read_letter(headers).left_out == ("key", "headers")


@pytest.mark.bad_input("c6")
def test_headers_that_cannot_be_read_are_said_to_be():
    """A name that is no UTF-8: the client has no way to give it to us."""
    letters = write(records_of([b"x"], headers=[None]), Status.FRAMING)

    assert errors(letters.headers[0])["headers.unreadable"] == "true"
    assert read_letter(letters.headers[0]).left_out == ("headers",)


def test_a_letter_is_read_back_as_it_was_written():
    """Where, why, and the headers that were the record's own, look as they may like ours."""
    own = [
        ("trace", b"1"),
        (f"{PREFIX}topic", b"forged"),
        (f"{PREFIX}offset", b"7"),
        ("empty", None),
    ]
    [headers] = write(
        records_of([b"x"], partitions=3, offsets=[42], headers=[own]), Status.ID
    ).headers

    letter = read_letter(headers)

    assert letter.place == letter.first == Place("transactions.raw", 3, 42)
    assert (letter.stage, letter.reason, letter.attempt) == ("validate", "id", 0)
    assert letter.own == own
    assert letter.left_out == ()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("trace", b"1")],
        [(f"{PREFIX}topic", b"t")],
        [
            (f"{PREFIX}{name}", b"-1")
            for name in ("topic", "partition", "offset", "stage", "reason")
        ],
        [
            (f"{PREFIX}{name}", b"9" * 20)
            for name in ("topic", "partition", "offset", "stage", "reason")
        ],
        [(f"{PREFIX}{name}", None) for name in ("topic", "partition", "offset", "stage", "reason")],
    ],
)
def test_a_record_of_somebody_else_s_is_no_letter(headers):
    """Anything may lie in a topic."""
    assert read_letter(headers) is None


def test_a_record_that_is_sent_again_says_where_its_payment_was_first():
    """Also when it was refused again: the coordinates stay the first, the attempts count up."""
    [headers] = write(
        records_of([b"x"], offsets=[5], headers=[[("trace", b"1")]]), Status.ID
    ).headers
    once = read_letter(headers).replay_headers()
    [headers] = write(records_of([b"x"], offsets=[9], headers=[once]), Status.ID).headers
    refused_again = read_letter(headers)

    twice = refused_again.replay_headers()

    replay = "__fraudstream.replay."
    first = [
        (f"{replay}topic", b"transactions.raw"),
        (f"{replay}partition", b"0"),
        (f"{replay}offset", b"5"),
    ]
    assert once == [("trace", b"1"), *first, (f"{replay}attempt", b"1")]
    assert twice == [("trace", b"1"), *first, (f"{replay}attempt", b"2")]
    assert refused_again.place == Place("transactions.raw", 0, 9)
    assert refused_again.attempt == 1
    assert errors(headers)["attempts"] == "2"


@pytest.mark.parametrize("attempt", [b"", b"-1", b"x", b"1" * 30, "\u00b2".encode(), None])
def test_replay_headers_that_make_no_sense_count_for_nothing(attempt):
    """Whoever writes to the input topic may write them."""
    replay = "__fraudstream.replay."
    forged = [(f"{replay}topic", b"t"), (f"{replay}partition", b"0"), (f"{replay}offset", b"5"),
              (f"{replay}attempt", attempt)]  # fmt: skip

    [headers] = write(records_of([b"x"], offsets=[9], headers=[forged]), Status.ID).headers

    assert read_letter(headers).first == Place("transactions.raw", 0, 9)
    assert errors(headers)["attempts"] == "1"


def test_replay_headers_of_another_topic_are_none_of_ours():
    """What they say would be told in the audit, and may be anything."""
    replay = "__fraudstream.replay."
    names = ("partition", "offset", "attempt")
    forged = [(f"{replay}topic", b"4111111111111111"), *((f"{replay}{n}", b"3") for n in names)]

    letter = read_letter(write(records_of([b"x"], headers=[forged]), Status.ID).headers[0])

    assert letter.first == letter.place
    assert letter.attempt == 0
