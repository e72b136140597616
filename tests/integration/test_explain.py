import json
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer, TopicPartition

from tests.builders import DAY, JANUARY, label, tiny_bundle
from tests.integration.harness import eventually
from tests.integration.history import decode, source
from tests.integration.test_commands import command
from tests.integration.traffic import PREDICTION, TOMBSTONE, encode

MINUTE = 60_000_000


def explained(config, *options):
    """Return exit code and what `fraudstream explain --json` says."""
    code, lines = command("explain", "--config", config, "--json", *options)
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    return code, answers[0] if answers else "\n".join(lines)


def at(place):
    """Return the options that name a record."""
    return "--partition", place[0], "--offset", place[1]


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_every_prediction_is_explained_as_it_was_published(scene):
    """Dozens of offsets, before and after a restart: each is what was published, bit for bit."""
    first = scene.start()
    scene.upstream.send_mixed(600, refused_every=100, label_every=10)
    scene.wait_done()
    assert first.stop() == 0
    scene.start()
    scene.upstream.send_mixed(600, refused_every=100, label_every=10)
    scene.wait_done()
    history = scene.history()
    published = [decode("prediction", read.value) for read in history.predictions]
    flagged = [p for p in published if p["reasons"] and p["features"][9:12] != [0, 0, 0]]
    config = scene.config("explain")

    chosen = published[:: len(published) // 20] + flagged[:: max(1, len(flagged) // 8)]
    for prediction in chosen:
        code, answer = explained(config, *at(source(prediction)))
        assert (code, answer["differences"], answer["equal"]) == (0, [], True), answer
        assert answer["compared"] == "all"
        assert [each["value"] for each in answer["features"]] == prediction["features"]
        assert answer["prediction"]["probability"] == prediction["probability"]
        assert answer["transaction"]["event_id"] == prediction["event_id"]
        counted = [label for label in answer["labels"] if label["effect"] == "counted"]
        assert len(counted) == prediction["features"][11] == len(answer["labels"])
    assert len(flagged) > 8


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_hot_card_is_explained_by_the_hour(scene):
    """In order, out of order and late: each is what was published, and what its flags mean."""
    send, made = scene.upstream.send, scene.upstream.traffic.payment
    scene.start()
    for k in range(4_400):
        back = {0: 3 * DAY, 1: DAY, 2: 700 * MINUTE}.get(k % 50, 0) if k > 4_000 else 0
        paid = made(
            card_id="hot", kind="ADVICE", amount_minor=1_000 + k,
            event_time=JANUARY + 7 * DAY + k * MINUTE // 2 - back,
        )  # fmt: skip
        send(paid)
    scene.upstream.flush()
    scene.wait_done()
    published = [decode("prediction", read.value) for read in scene.history().predictions]
    hot = [p for p in published if "HOT_KEY" in p["degraded"]]
    config = scene.config("explain")

    chosen = [p for p in hot if p["source_offset"] % 50 < 4][-4:]
    assert [p["degraded"] for p in chosen] == [["LATE_EVENT", "HOT_KEY"]] + [["HOT_KEY"]] * 3
    for prediction in chosen:
        code, answer = explained(config, *at(source(prediction)))
        assert (code, answer["differences"], answer["compared"]) == (0, [], "all"), answer
        assert answer["prediction"]["degraded"] == prediction["degraded"]
        assert answer["prediction"]["features"] == prediction["features"]
        flags = [note.partition(":")[0] for note in answer["notes"]]
        assert flags == sorted(prediction["degraded"])
    code, lines = command("explain", "--config", config, *at(source(chosen[0])))
    text = " ".join("\n".join(lines).split())
    assert "note: HOT_KEY: the card has 4,095 payments or more in the longest window" in text
    assert "note: LATE_EVENT: the payment is older than the latest of its partition" in text
    assert "equal bit for bit to" in text


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_what_has_no_prediction_is_said_in_a_sentence(scene):
    """Dead letters with their reasons, tombstones, places that are not there, unknown events."""
    scene.start()
    scene.upstream.send_mixed(100, refused_every=100)
    scene.wait_done()
    config = scene.config("explain")

    for sent in scene.upstream.journal.sent:
        if sent.outcome == PREDICTION:
            continue
        code, said = explained(config, *at((sent.partition, sent.offset)))
        assert code == 78
        if sent.outcome == TOMBSTONE:
            assert "is a tombstone: it is skipped" in said
        else:
            assert f"was refused and not scored, reason {sent.outcome} (stage" in said
            assert f"its dead letter is {scene.topics.dead_letters}[{sent.partition}]@" in said
    assert "has no partition 7: it has 4" in explained(config, *at((7, 0)))[1]
    assert "ends before offset 5000" in explained(config, *at((0, 5_000)))[1]
    unknown = "00000000-0000-0000-0000-000000000000"
    assert f"no event {unknown} in" in explained(config, "--event-id", unknown)[1]


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_an_event_is_found_by_its_id(scene):
    """From the end backwards, and outwards from a time."""
    scene.start()
    scene.upstream.send_mixed(200)
    scene.wait_done()
    config = scene.config("explain")
    sent = scene.upstream.journal.sent[120]
    event = decode("transaction", sent.value)["event_id"]
    time = datetime.fromtimestamp(sent.timestamp / 1_000, UTC).isoformat()

    for options in ((), ("--around", time), ("--around", "2020-01-01")):
        code, answer = explained(config, "--event-id", event, *options)
        assert code == 0
        assert (answer["partition"], answer["offset"]) == (sent.partition, sent.offset)


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_label_that_came_too_late_is_told_and_was_not_counted(scene):
    """It counts from before the payment, which was scored without it; the answer is the same."""
    scene.start()
    scene.upstream.send_mixed(50, label_every=0)
    scene.wait_done()
    sent = scene.upstream.journal.sent[40]
    paid = decode("transaction", sent.value)
    late = label(7, terminal_id=paid["terminal_id"], published_at=paid["event_time"] - DAY)
    scene.upstream.send_label(encode("label", late))

    code, answer = explained(scene.config("explain"), *at((sent.partition, sent.offset)))

    assert (code, answer["equal"]) == (0, True)
    [shown] = answer["labels"]
    assert (shown["label_id"], shown["effect"]) == (late["label_id"], "unknown then")
    assert shown["appended_late"]
    assert any("a replay counts them" in note for note in answer["notes"])


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_another_model_is_held_against_the_features_alone(scene, tmp_path):
    """And it is said which model published."""
    tiny_bundle(tmp_path / "other")
    scene.start()
    scene.upstream.send_mixed(100)
    scene.wait_done()
    sent = scene.upstream.journal.sent[90]

    code, answer = explained(
        scene.config("explain"), *at((sent.partition, sent.offset)), "--model", tmp_path / "other"
    )

    assert (code, answer["compared"], answer["differences"]) == (0, "features", [])
    assert answer["prediction"]["model_name"] == "tiny"
    assert any("published by model integration" in note for note in answer["notes"])


def test_a_record_that_retention_took_is_said_to_be_gone(real, scene):
    """And where the log begins now; what is left is explained without what is gone."""
    scene.start()
    scene.upstream.send_mixed(300)
    scene.wait_done()
    partition = 1
    first = scene.history().ends[partition] - 20
    gone = TopicPartition(scene.topics.payments, partition, first)
    [deleted] = scene.admin.delete_records([gone]).values()
    deleted.result(30)
    config = scene.config("explain")

    code, said = explained(config, *at((partition, first - 1)))
    assert code == 78
    assert f"retention has passed offset {first - 1}" in said
    assert f"the first record kept is {first}" in said
    answers = [explained(config, *at((partition, first + k))) for k in range(0, 20, 3)]
    shown = [answer for _, answer in answers if isinstance(answer, dict)]
    assert all(any("may lack history" in note for note in answer["notes"]) for answer in shown)
    fields = {d["field"] for answer in shown for d in answer["differences"]}
    assert "features" in fields
    assert fields <= {"features", "probability", "score", "decision", "reasons"}


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_the_table_says_all_of_it(scene):
    """For people: features with units, reasons in words, and the comparison."""
    scene.start()
    scene.upstream.send_mixed(300, label_every=10)
    scene.wait_done()
    published = [decode("prediction", read.value) for read in scene.history().predictions]
    flagged = next(p for p in reversed(published) if p["reasons"])

    code, lines = command("explain", "--config", scene.config("explain"), *at(source(flagged)))

    text = "\n".join(lines)
    assert code == 0
    for name, unit in (("card_mean_amount_7d", "grid steps"), ("terminal_frauds_30d", "frauds")):
        assert any(name in line and unit in line for line in lines)
    assert flagged["card_id"] in text
    assert f"{flagged['decision']}, score {flagged['score']}" in text
    assert f"contribution {flagged['reasons'][0]['contribution']:.3f}" in text
    assert "equal bit for bit to" in text


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_payment_that_is_not_scored_yet_is_answered_all_the_same(scene):
    """With what is known now; there is nothing to compare it with, which is exit code 1."""
    scene.upstream.send_mixed(50)
    sent = scene.upstream.journal.sent[30]

    code, answer = explained(scene.config("explain"), *at((sent.partition, sent.offset)))

    assert (code, answer["published"], answer["equal"]) == (1, None, False)
    assert answer["compared"] == "nothing"
    assert 0 < answer["prediction"]["probability"] < 1
    assert any("no prediction is published" in note for note in answer["notes"])


def test_a_marker_of_a_transaction_is_no_record(real, scene):
    """Upstream may produce in transactions: the offset after the last record is a marker's."""
    sent = scene.upstream.traffic.payment()
    producer = Producer(
        {"bootstrap.servers": scene.address, "transactional.id": scene.topics.group, "log_level": 0}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(scene.topics.payments, sent.value, sent.key, 2)
    producer.commit_transaction(30)
    config = scene.config("explain")

    def once_the_marker_is_there():
        code, said = explained(config, *at((2, 1)))
        return None if "ends before" in said else (code, said)

    code, said = eventually(once_the_marker_is_there, 20)

    assert code == 78
    assert "offset 1 of" in said
    assert "holds no record, but a transaction's marker" in said
    assert explained(config, *at((2, 0)))[1]["transaction"]["card_id"].encode() == sent.key
