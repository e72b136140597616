import json
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from consumer.adapters import letter_actions
from consumer.core.dead_letter import DeadLetters
from consumer.records import Refused, Status
from tests.builders import DAY, payment, payment_records
from tests.integration.checker import check
from tests.integration.forked import fraudstream, run_forked
from tests.integration.harness import PARTITIONS, SLOW, Scene, eventually
from tests.integration.history import decode, source
from tests.integration.test_commands import command
from tests.integration.traffic import Input, encode

REPLAY = "__fraudstream.replay."
NUMBER = b"4111111111111111"


def committed(scene: Scene, topic: str) -> list:
    """Return all records of a topic that a committed reader finds, by partition and offset."""
    config = {
        "bootstrap.servers": scene.address, "group.id": "reader", "log_level": 0,
        "enable.partition.eof": True, "fetch.wait.max.ms": "10",
    }  # fmt: skip
    reader = Consumer({**config, "isolation.level": "read_committed"})
    places = [
        TopicPartition(topic, p, 0) for p in reader.list_topics(topic, 10).topics[topic].partitions
    ]
    # A transaction that is committed shows a moment later, when its markers are written.
    ends = high_watermarks(config, places)
    reader.assign(places)
    found = []
    deadline = time.monotonic() + 20
    while ends:
        assert time.monotonic() < deadline
        for message in reader.consume(1_000, timeout=0.1):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at = message.partition()
                if message.offset() >= ends.get(at, 0):
                    ends.pop(at, None)
    reader.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def high_watermarks(config: dict, places: list[TopicPartition]) -> dict[int, int]:
    """Return where each partition ends, open transactions included."""
    reader = Consumer({**config, "isolation.level": "read_uncommitted"})
    ends = {place.partition: reader.get_watermark_offsets(place, 10)[1] for place in places}
    reader.close()
    return ends


def replayed_from(message) -> tuple[str, int, int, int] | None:
    """Return what the replay headers of an input say; None for one that upstream sent."""
    facts = {
        name.removeprefix(REPLAY): value.decode()
        for name, value in message.headers() or ()
        if name.startswith(REPLAY)
    }
    if not facts:
        return None
    return (facts["topic"], *(int(facts[name]) for name in ("partition", "offset", "attempt")))


def letters_command(scene: Scene, *arguments: object) -> tuple[int, list[dict], str]:
    """Run `fraudstream dead-letters`; return its exit code, its JSON lines, and all it printed."""
    action, *options = arguments
    config = scene.config("desk")
    code, lines = command("dead-letters", action, *options, "--config", config, "--json")
    rows = [json.loads(line) for line in lines if line[:1] == "{" and '"event":' not in line]
    return code, rows, "\n".join(lines)


def audited(scene: Scene) -> list[dict]:
    """Return the lines of the audit."""
    lines = committed(scene, f"{scene.topics.dead_letters}-audit")
    return [json.loads(line.value()) for line in lines]


@pytest.fixture
def desk(real, scene):
    """A scene whose dead letters can be worked with."""
    scene.broker.create_topics({f"{scene.topics.dead_letters}-audit": 1})
    return scene


def ahead(number: int, days: float) -> Input:
    """Return a payment that many days after the time at which it is sent."""
    event_time = time.time_ns() // 1_000 + int(days * DAY)
    fields = payment(number, event_time=event_time, card_id=f"ahead-{number}")
    return Input(fields["card_id"].encode(), encode("transaction", fields), "future")


def test_letters_are_replayed_when_their_cause_is_gone_and_scored_once(desk):
    """
    Refused as from the future; then `input.max_future` is raised, and the payments are sent again:
    each is scored once, its headers and the audit say where it came from, and again does nothing.
    """
    refused = [ahead(number, 2) for number in range(40)]
    first = desk.start()
    desk.upstream.send_mixed(100, refused_every=100)
    for one in refused:
        desk.upstream.send(one)
    desk.upstream.flush()
    desk.wait_done()
    assert first.stop() == 0
    events = {decode("transaction", one.value)["event_id"] for one in refused}

    _, planned, _ = letters_command(desk, "replay", "--reason", "future", "--dry-run")
    before = len(committed(desk, desk.topics.payments))
    assert before == len(desk.upstream.journal.sent), "a dry run sends nothing"
    second = desk.start(input={"max_future": "4d"}, windows={"grace": "5d"})
    _, done, _ = letters_command(desk, "replay", "--reason", "future", "--rate", 30)

    assert len(done) == len(planned) == 41  # one of them is of the mixed rubbish
    inputs = {
        (m.partition(), m.offset()): replayed_from(m) for m in committed(desk, desk.topics.payments)
    }
    sent = {place: origin for place, origin in inputs.items() if origin}
    topic, journal = desk.topics.payments, desk.upstream.journal.sent
    origins = {(topic, s.partition, s.offset, 1) for s in journal if s.outcome == "future"}
    assert sorted(sent.values()) == sorted(origins)
    told = {(line["partition"], line["offset"], line["replayed_to"]) for line in audited(desk)}
    assert told == {(p, o, offset) for (_, offset), (_, p, o, _) in sent.items()}

    def scored():
        predictions = committed(desk, desk.topics.predictions)
        found = [decode("prediction", message.value()) for message in predictions]
        return Counter(p["event_id"] for p in found if source(p) in sent)

    eventually(lambda: len(scored()) == 41, 20, second.tail)
    assert scored() == dict.fromkeys([*events, *scored()], 1)
    eventually(lambda: second.total("consumer_lag_messages") == 0, 20, second.tail)
    assert letters_command(desk, "replay", "--reason", "future")[1] == []
    assert len(committed(desk, desk.topics.payments)) == before + 41


def test_what_is_refused_each_time_is_left_alone_in_the_end(desk):
    """
    The attempts are counted in a header, and stop at --max-attempts; what holds no bytes is never
    replayed; what is discarded is neither listed nor replayed, and lies where it was.
    """
    desk.start()
    for bad in desk.upstream.traffic.refused():
        desk.upstream.send(bad)
    desk.upstream.flush()
    desk.wait_done()
    letters = len(committed(desk, desk.topics.dead_letters))
    reasons = Counter(row["reason"] for row in letters_command(desk, "list", "--limit", 0)[1])
    assert reasons.total() == letters == 13
    assert (reasons["oversize"], reasons["card_number"], reasons["key"]) == (1, 1, 2)

    for attempt in (1, 2, 3):
        _, done, text = letters_command(desk, "replay", "--reason", "decode")
        assert [line["attempt"] for line in done] == [attempt]
        eventually(
            lambda n=attempt: len(committed(desk, desk.topics.dead_letters)) == letters + n, 20
        )
    _, done, text = letters_command(desk, "replay", "--reason", "decode", "--reason", "oversize")

    assert done == []
    assert "1 left: decode: replayed 3 times, refused each time (--max-attempts)" in text
    assert "1 left: oversize: its letter has no bytes; upstream sends it again, smaller" in text
    [row] = [r for r in letters_command(desk, "list")[1] if r["reason"] == "decode"]
    [origin] = [s for s in desk.upstream.journal.sent if s.outcome == "decode"]
    assert row["first"] == f"{desk.topics.payments}[{origin.partition}]@{origin.offset}"
    last = committed(desk, desk.topics.dead_letters)
    attempts = [dict(m.headers())["__fraudstream.errors.attempts"] for m in last]
    assert sorted(attempts)[-1] == b"4"
    assert letters_command(desk, "discard", "--because", "")[0] == 78
    code, done, text = letters_command(desk, "discard", "--because", "a test of upstream")
    assert (code, len(done)) == (0, 13)
    assert {line["because"] for line in audited(desk)} == {None, "a test of upstream"}
    assert letters_command(desk, "list")[1] == []
    assert len(letters_command(desk, "list", "--all")[1]) == letters + 3
    assert len(committed(desk, desk.topics.dead_letters)) == letters + 3


def test_a_letter_is_shown_without_a_card_number_in_clear(desk):
    """Neither in the key, the headers, the value, its hexadecimal digits, nor its fields."""
    value = encode("transaction", payment(1, merchant_id=f"shop {NUMBER.decode()}"))
    desk.start(input={"refuse_card_numbers": False})  # else there would be nothing to show
    desk.upstream.send(Input(NUMBER, value, "key", (("pan", b"4111-1111-1111-1111"),)))
    desk.upstream.flush()
    desk.wait_done()
    [sent] = desk.upstream.journal.sent

    code, [row], text = letters_command(desk, "show", sent.partition, sent.offset)
    _, lines = command("dead-letters", "show", sent.partition, sent.offset,
                       "--config", desk.config("desk"))  # fmt: skip

    assert code == 0
    assert row["key"] == {"text": "*" * 16, "hex": "2a" * 16}
    assert row["headers"] == [
        ["pan", {"text": "****-****-****-****", "hex": "2a2a2a2a2d" * 3 + "2a" * 4}]
    ]
    assert row["decoded"]["merchant_id"] == "shop " + "*" * 16
    assert row["decoded"]["terminal_id"] == "terminal-1"
    for shown in (text, "\n".join(lines)):
        assert NUMBER.decode() not in shown
        assert NUMBER.hex() not in shown.replace(" ", "")
    assert letters_command(desk, "show", sent.partition, sent.offset + 1)[0] == 1


def file_letters(scene: Scene, count: int, twice: int = 0) -> None:
    """Put dead letters in their topic, the first few twice, as at-least-once may."""
    payments = [payment(number) for number in range(count)]
    records = payment_records(
        payments, partitions=[k % PARTITIONS for k in range(count)],
        offsets=[k // PARTITIONS for k in range(count)], timestamps=1_600_000_000_000,
    )  # fmt: skip
    records = type(records)(
        scene.topics.payments, records.values, records.keys, records.partitions, records.offsets,
        records.timestamps, records.live, records.headers,
    )  # fmt: skip
    refused = Refused(np.arange(count), np.full(count, Status.POISON, np.int8))
    letters = DeadLetters(scene.topics.dead_letters, "test").write(records, refused)
    producer = Producer({"bootstrap.servers": scene.address})
    columns = list(
        zip(letters.keys, letters.values, letters.headers, letters.partitions, strict=True)
    )
    for key, value, headers, partition in [*columns, *columns[:twice]]:
        producer.produce(letters.topic, value, key, partition, headers=headers)
    assert producer.flush(30) == 0


def die_at(commit: int, after: bool, arguments: list[str], log: str) -> None:
    """Run the command, and SIGKILL it before or after the broker took its nth commit."""
    commits = iter(range(1, 1_000))

    class Mortal(Producer):
        def commit_transaction(self, *timeout):
            fatal = next(commits) == commit
            if after:
                super().commit_transaction(*timeout)
            if fatal:
                self.flush(10)  # all is at the broker, and nothing of it counts
                os.kill(os.getpid(), signal.SIGKILL)
            if not after:
                super().commit_transaction(*timeout)

    letter_actions.Producer = Mortal
    run_forked(fraudstream, arguments, log)


@pytest.mark.parametrize(
    "after", [False, True] if SLOW else [False], ids=lambda late: "after" if late else "before"
)
def test_a_replay_that_is_killed_is_finished_by_the_next_and_sends_nothing_twice(desk, after):
    """
    SIGKILL when all records of a transaction and their lines are at the broker: a rerun goes on
    where it was. Letters that lie there twice are one.
    """
    file_letters(desk, 50, twice=7)
    arguments = ["dead-letters", "replay", "--config", str(desk.config("desk")), "--rate", "20"]
    log = desk.folder / "replay.log"
    fork = multiprocessing.get_context("forkserver").Process(
        target=die_at, args=(2, after, arguments, str(log))
    )
    fork.start()
    fork.join(60)
    assert fork.exitcode == -signal.SIGKILL, log.read_text()

    code, done, text = letters_command(desk, "replay")

    assert code == 0, text
    assert len(done) == (10 if after else 30)
    origins = [replayed_from(message) for message in committed(desk, desk.topics.payments)]
    places = [(p, o) for _, p, o, _ in origins]
    assert sorted(places) == sorted((k % PARTITIONS, k // PARTITIONS) for k in range(50))
    assert len(audited(desk)) == 50


def test_of_two_who_replay_at_once_one_gives_way(desk):
    """The second fences the first; together they send everything, and nothing twice."""
    file_letters(desk, 40)
    arguments = ["dead-letters", "replay", "--config", str(desk.config("desk")), "--rate", "10"]
    log = desk.folder / "replay.log"
    fork = multiprocessing.get_context("forkserver").Process(
        target=run_forked, args=(fraudstream, arguments, str(log))
    )
    fork.start()
    eventually(lambda: len(audited(desk)) >= 10, 30, log.read_text)

    code, _, text = letters_command(desk, "replay")

    fork.join(60)
    assert code == 0, text
    assert fork.exitcode == 70, log.read_text()
    assert "somebody else began to replay or discard dead letters" in log.read_text()
    origins = [replayed_from(message) for message in committed(desk, desk.topics.payments)]
    assert len(origins) == len({origin[1:3] for origin in origins}) == 40


def test_who_is_fenced_while_it_sends_says_so(desk, monkeypatch):
    """The client knows only that there was a fatal fault; it is the abort that says which."""
    file_letters(desk, 40)
    younger = []

    class Elder(Producer):
        def __init__(self, config):
            super().__init__(config)
            self.config = config

        def produce(self, *args, **options):
            super().produce(*args, **options)
            if not younger:
                younger.append(Producer(self.config))
                younger[0].init_transactions(30)
            time.sleep(0.01)  # the client learns of it meanwhile

    monkeypatch.setattr(letter_actions, "Producer", Elder)

    code, done, text = letters_command(desk, "replay")

    assert (code, done) == (70, [])
    assert "somebody else began to replay or discard dead letters" in text


def test_an_audit_that_cannot_be_read_stops_everything(desk):
    """What it says was done could be done again; strangers among the letters are only counted."""
    file_letters(desk, 3)
    producer = Producer({"bootstrap.servers": desk.address})
    producer.produce(desk.topics.dead_letters, b"no letter", b"key", 0)
    producer.flush(30)
    _, lines = command("dead-letters", "list", "--config", desk.config("desk"))
    [counts] = [line for line in lines if line.strip().startswith("poison")]
    assert re.findall(r"\w+", counts) == ["poison", "1", "1", "1", "3"]
    assert sum(f"{desk.topics.payments}[" in line for line in lines) == 3
    assert lines[-1] == f"1 records are no dead letters of {desk.topics.payments}"
    producer.produce(f"{desk.topics.dead_letters}-audit", b"no line")
    producer.flush(30)

    code, _, text = letters_command(desk, "replay")

    assert code == 70
    assert "payments-dlt-audit[0]@0 is no line of an audit" in text
    assert committed(desk, desk.topics.payments) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reason", "framed"], "--reason: 'framed' is none of oversize, framing,"),
        (["--offset", "3"], "--offset is one of a partition: give --partition too"),
        (["--partition", "9"], "payments-dlt has no 9"),
        (["--from", "yesterday"], "--from: 'yesterday' is no time"),
    ],
)
def test_what_is_not_to_be_had_is_said(desk, options, said):
    """Exit code 78, and what to change."""
    code, _, text = letters_command(desk, "replay", *options)

    assert code == 78
    assert said in text


def test_nothing_is_done_without_an_audit(real, scene):
    """Its topic is made by `fraudstream topics`; looking needs none."""
    file_letters(scene, 3)

    assert len(letters_command(scene, "list")[1]) == 3
    code, _, text = letters_command(scene, "replay")

    assert code == 78
    assert "payments-dlt-audit does not exist, and every action is told there" in text
    assert committed(scene, scene.topics.payments) == []


LIMITS = {"batch": {"max_records": 10}, "dead_letters": {"max_consecutive": 30}}


def test_a_partition_with_too_many_dead_letters_waits_and_the_others_go_on(desk):
    """
    Paused after the limit, within a batch; told to go on, it stops at the next so many; a restart
    goes on too, and in the end every record has its one outcome, none skipped.
    """
    instance = desk.start(**LIMITS).wait_ready()
    for number in range(85):  # so that fewer than the limit are left after two pauses
        desk.upstream.send(replace(ahead(0, 2 + number / 1_000), outcome="future"))
    desk.upstream.send_mixed(200)
    where = Counter(
        sent.partition for sent in desk.upstream.journal.sent if sent.outcome == "future"
    )
    [bad] = where
    mine = f'partition="{bad}"'

    def standing() -> int:
        eventually(lambda: instance.total("partition_paused", mine) == 1, 20, instance.tail)
        return desk.committed()[bad]

    def others_are_done() -> bool:
        sent = Counter(sent.partition for sent in desk.upstream.journal.sent)
        return all(desk.committed()[p] == count for p, count in sent.items() if p != bad)

    assert 30 <= standing() < 40
    eventually(others_are_done, 20, instance.tail)
    assert instance.total("partition_paused") == 1
    assert instance.ready()
    assert instance.total("consumer_lag_messages", mine) > 50
    assert command("resume", instance.pid) == (0, [f"told process {instance.pid}"])
    eventually(lambda: instance.events("partition_resumed"), 20, instance.tail)
    assert 60 <= standing() < 80
    desk.upstream.send_mixed(100)
    eventually(others_are_done, 20, instance.tail)
    assert instance.stop() == 0

    desk.start(**LIMITS)
    desk.wait_done()

    assert check(desk.history()) == []
