import json
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import TopicPartition

from consumer.adapters import kafka_clients
from consumer.settings import load_settings
from tests.integration.conftest import BOTH_IF_SLOW
from tests.integration.harness import SLOW, Scene
from tests.integration.test_commands import command
from tests.integration.traffic import PREDICTION, TOMBSTONE

HEADER = 10
"""Bytes of the header of Avro single-object encoding."""


def verify(scene: Scene, *options: object, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Return the exit code of `fraudstream verify` and what it reports."""
    config = scene.config("verify", **changes)
    code, lines = command("verify", "--config", config, "--json", *options)
    return code, json.loads(lines[-1]) if lines[-1].startswith("{") else {"said": lines}


def broken(report: dict[str, Any]) -> set[str]:
    """Return the names of the invariants that are broken."""
    return {found["name"] for found in report["invariants"] if found["ok"] is False}


def now() -> str:
    """Return a time that no two records share."""
    time.sleep(0.005)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    time.sleep(0.005)
    return moment


def millis(moment: str) -> int:
    """Return it as Kafka has it."""
    return round(datetime.fromisoformat(moment).timestamp() * 1_000)


@BOTH_IF_SLOW
def test_what_a_consumer_did_is_verified(scene, tmp_path):
    """
    Good and bad records, and a kill between them: all that is promised is looked at, and holds.
    Of a range of time the inputs count, however late their answers are.
    """
    kept = {"state": {"url": str(tmp_path / "state"), "snapshot_interval": "100ms"}}
    consumer = scene.start(**kept)
    scene.upstream.send_mixed(600, refused_every=200)
    scene.wait_done()
    consumer.kill()
    begin = now()
    scene.upstream.send_mixed(150)
    end = now()
    scene.upstream.send_mixed(50)
    consumer = scene.start(**kept)
    scene.wait_done()
    assert consumer.stop() == 0

    code, report = verify(scene, **kept)
    without, _ = verify(scene, state={"url": str(tmp_path / "none")})
    of_range, ranged = verify(scene, "--from", begin, "--to", end)
    shown, lines = command("verify", "--config", scene.config("verify"))

    assert (code, report["ok"], broken(report)) == (0, True, set()), report
    assert {found["name"] for found in report["invariants"] if not found["checked"]} == {"replays"}
    assert_counted(report["counts"], [sent.outcome for sent in scene.upstream.journal.sent])
    assert without == 0
    assert (of_range, broken(ranged)) == (0, set()), ranged
    assert ranged["counts"]["records"] == ranged["counts"]["predictions"] == 150
    assert ranged["counts"]["outside"] > 0
    assert shown == 0
    assert any("800 predictions" in line for line in lines)


def assert_counted(counts: dict[str, int], outcomes: list[str]) -> None:
    """Everything that was sent is in the counts."""
    assert counts["records"] == counts["events"] == len(outcomes)
    assert counts["predictions"] == outcomes.count(PREDICTION)
    assert counts["tombstones"] == outcomes.count(TOMBSTONE)
    refused = len(outcomes) - outcomes.count(PREDICTION) - outcomes.count(TOMBSTONE)
    assert counts["dead_letters"] == refused
    assert counts["pending"] == counts["lost"] == counts["unjudged"] == 0


def test_what_retention_took_is_not_called_lost(real, scene):
    """
    Of predictions, the first of each partition are gone: their payments are not judged; a loss
    among the younger ones is.
    """
    scene.start()
    scene.upstream.send_mixed(100, label_every=0)
    scene.wait_done()
    between = now()
    scene.upstream.send_mixed(100, label_every=0)
    scene.wait_done()
    history = scene.history()
    old = {r.partition: r.offset + 1 for r in history.predictions if r.timestamp < millis(between)}
    gone = [TopicPartition(scene.topics.predictions, p, o) for p, o in old.items()]
    for deleted in scene.admin.delete_records(gone).values():
        deleted.result(30)

    code, report = verify(scene)

    kept = sum(r.offset >= old[r.partition] for r in history.predictions)
    assert (code, broken(report)) == (0, set()), report
    assert report["counts"]["predictions"] == kept
    assert report["counts"]["unjudged"] == 200 - kept > 50
    assert verify(scene, "--from", between)[1]["counts"]["unjudged"] == 0


@BOTH_IF_SLOW
def test_a_live_group_is_verified_while_it_goes_on(real, scene):
    """Transactions come and go while it reads: what is not committed yet is pending, no more."""
    consumer = scene.start(batch={"max_records": 20})
    with scene.feed(300):
        consumer.go_on(100)
        reports = [verify(scene) for _ in range(20 if SLOW else 3)]
        consumer.go_on(50)

    assert [(code, broken(report)) for code, report in reports] == [(0, set())] * len(reports)
    records = [report["counts"]["records"] for _, report in reports]
    assert sorted(set(records)) == records


def test_an_open_transaction_is_found(real, scene):
    """A record of a transaction that nobody ended holds readers up, and is waited for in vain."""
    scene.upstream.send_mixed(20)
    settings = load_settings(scene.config("one"))
    config = kafka_clients.transactional_config(settings, lambda _: None, 0)
    producer = kafka_clients.Producer(config)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(scene.topics.alerts, b"1", b"a", 2)
    producer.flush(30)

    code, report = verify(scene, "--wait", "1s")
    stuck = scene.history(within_seconds=1).stuck
    producer.abort_transaction(30)

    [found] = [found for found in report["invariants"] if found["name"] == "transactions"]
    assert (code, broken(report)) == (65, {"transactions"})
    assert [(e["topic"], e["partition"]) for e in found["examples"]] == [(scene.topics.alerts, 2)]
    assert stuck == [(scene.topics.alerts, 2)]
    assert report["counts"]["pending"] == 20
    assert verify(scene, "--wait", "1s")[0] == 0


def test_payments_in_the_framing_of_a_registry_are_verified(real, scene):
    """
    Those with a number or a GUID that the configuration tells are payments like others, and one
    card's features are counted over all three; without it, predictions of them are of nothing.
    """
    guid = uuid.UUID("1b8a9a08-7c0e-4d0c-9a53-6a3f5f0c4a11")
    told = {"input.schema_ids": {"17": "transaction-1", str(guid): "transaction-1"}}
    upstream = scene.upstream
    for framing in (b"", b"\0" + (17).to_bytes(4, "big"), b"\1" + guid.bytes):
        for _ in range(20):
            paid = upstream.traffic.payment(card_id="one-card")
            upstream.send(replace(paid, value=framing + paid.value[len(framing) and HEADER :]))
    upstream.send(replace(paid, value=b"\0" + (18).to_bytes(4, "big") + paid.value[HEADER:]))
    upstream.flush()
    consumer = scene.start(**told)
    scene.wait_done()
    assert consumer.stop() == 0

    code, report = verify(scene, **told)
    untold, without = verify(scene)

    assert (code, broken(report)) == (0, set()), report
    assert (report["counts"]["predictions"], report["counts"]["dead_letters"]) == (60, 1)
    [velocity] = [found for found in report["invariants"] if found["name"] == "velocity"]
    assert (velocity["checked"], velocity["unjudged"]) == (60, 0)
    assert untold == 65
    assert "no_phantom" in broken(without)


def test_what_cannot_be_checked_does_not_pass(scene):
    """No record, no topic, a promise that there is none of: one sentence, exit code 78."""
    empty, said = verify(scene)
    unknown, guarantees = verify(scene, "--guarantee", "at-most-once")
    elsewhere = scene.config("elsewhere", topics={"labels": "nowhere"})
    scene.upstream.send_mixed(1)
    missing, lines = command("verify", "--config", elsewhere)

    assert (empty, unknown, missing) == (78, 78, 78)
    assert "nothing to check" in said["said"][-1]
    assert "at-most-once" in guarantees["said"][-1]
    assert lines[-1] == "fraudstream: topic nowhere does not exist"
