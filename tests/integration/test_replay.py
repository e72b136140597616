import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition
from sklearn.metrics import average_precision_score, roc_auc_score

from consumer.adapters import replay_folder
from tests.builders import tiny_bundle
from tests.integration.harness import Scene
from tests.integration.history import decode, source
from tests.integration.test_commands import command
from tests.integration.traffic import PREDICTION

DECISIONS = ("UNKNOWN", "APPROVE", "CHALLENGE", "REVIEW", "DECLINE")


def replayed(scene: Scene, model: Path, out: Path, *options):
    """Return exit code and what `fraudstream replay --json` says."""
    config = scene.config("replay")
    code, lines = command(
        "replay", "--config", config, "--model", model, "--out", out, "--json", *options
    )
    reports = [json.loads(line) for line in lines if line.startswith("{")]
    return code, reports[0] if reports else "\n".join(lines)


def rows_in(out: Path):
    """Return all rows of the folder."""
    return [
        row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def places(rows):
    return sorted((row["source_partition"], row["source_offset"]) for row in rows)


def known_frauds(scene: Scene, rows):
    """Say of each row whether the last word on its payment is that it was a fraud."""
    standing = {}
    for read in scene.history().labels:
        label = decode("label", read.value)
        standing[label["transaction_id"]] = label["verdict"] == "FRAUD"
    return [standing.get(row["transaction_id"], False) for row in rows]


def fed(scene: Scene, count: int = 600):
    """Let a consumer do its work; return what it published, by place."""
    scene.start()
    scene.upstream.send_mixed(count, refused_every=100, label_every=10)
    scene.wait_done()
    history = scene.history()
    return {source(p): p for p in (decode("prediction", r.value) for r in history.predictions)}


def ends(scene: Scene):
    """Return the end of every partition of the live topics."""
    asker = Consumer({"bootstrap.servers": scene.address, "group.id": "ends", "log_level": 0})
    topics = (scene.topics.payments, scene.topics.labels, *scene.topics.outputs)
    known = asker.list_topics(timeout=10).topics
    found = {
        (topic, p): asker.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
        for topic in topics
        for p in known[topic].partitions
    }
    asker.close()
    return found


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_the_same_model_decides_the_same_and_nothing_live_is_touched(scene, tmp_path):
    """Every probability is equal bit for bit; offsets, members and topics are as they were."""
    published = fed(scene)
    before = ends(scene), scene.committed(), scene.instances[0].total("rebalances_total")

    code, report = replayed(scene, scene.bundle, tmp_path / "out")

    assert code == 0
    assert (ends(scene), scene.committed(), scene.instances[0].total("rebalances_total")) == before
    assert report["payments"] == report["equal_probabilities"] == len(published) == 600
    assert (report["flipped"], report["without_published_prediction"]) == (0, 0)
    assert report["quality"]["published"] == report["quality"]["replayed"]
    rows = {
        (row["source_partition"], row["source_offset"]): row for row in rows_in(tmp_path / "out")
    }
    assert rows.keys() == published.keys()
    for place, row in rows.items():
        for name in ("probability", "score", "decision", "features", "event_id", "card_id"):
            assert row[name] == published[place][name]


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_the_report_is_what_both_outputs_show(scene, tmp_path):
    """Counted again from the predictions topic, the Parquet files and the labels."""
    tiny_bundle(tmp_path / "other")
    published = fed(scene)
    code, report = replayed(scene, tmp_path / "other", tmp_path / "out")
    assert code == 0

    rows = rows_in(tmp_path / "out")
    payments, amounts, reasons = Counter(), Counter(), defaultdict(Counter)
    for row in rows:
        was = published[row["source_partition"], row["source_offset"]]
        pair = was["decision"], row["decision"]
        payments[pair] += 1
        amounts[pair] += row["amount"]
        first = row["reason"] or (was["reasons"][0]["code"] if was["reasons"] else "")
        reasons[pair].update([first] if first else [])
    told = {(flip["was"], flip["now"]): flip for flip in report["matrix"]}
    assert {pair: flip["payments"] for pair, flip in told.items()} == payments
    assert {pair: flip["amount"] for pair, flip in told.items()} == amounts
    assert {pair: flip["reasons"] for pair, flip in told.items()} == dict(reasons)
    flipped = sum(count for (was, now), count in payments.items() if was != now)
    assert report["flipped"] == flipped > 20
    is_fraud = known_frauds(scene, rows)
    then = [published[row["source_partition"], row["source_offset"]] for row in rows]
    assert report["frauds"] == sum(is_fraud) > 10
    for name, answers in (("published", then), ("replayed", rows)):
        quality = report["quality"][name]
        scores = [answer["probability"] for answer in answers]
        assert quality["average_precision"] == average_precision_score(is_fraud, scores)
        assert quality["auc_roc"] == roc_auc_score(is_fraud, scores)
        for least in (2, 3, 4):
            caught = [
                DECISIONS.index(answer["decision"]) >= least
                for answer, fraud in zip(answers, is_fraud, strict=True)
                if fraud
            ]
            recall = quality[f"recall_{DECISIONS[least].lower()}"]
            assert recall == pytest.approx(sum(caught) / len(caught))


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_an_interrupted_replay_goes_on_where_it_was(scene, tmp_path, monkeypatch):
    """What is there is kept, and what comes out is the same; another model is refused."""
    monkeypatch.setattr(replay_folder, "SEGMENT", 40)
    tiny_bundle(tmp_path / "other")
    fed(scene)
    out = tmp_path / "out"
    _, report = replayed(scene, scene.bundle, out)
    rows = rows_in(out)
    files = sorted(out.glob("*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in files[::3]}
    for path in set(files) - kept.keys():
        path.unlink()
    scene.upstream.send_mixed(50)  # after the replay was begun, so none of its business
    scene.wait_done()

    assert replayed(scene, scene.bundle, out) == (0, report)

    assert rows_in(out) == rows
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    code, said = replayed(scene, tmp_path / "other", out)
    assert code == 78
    assert "take another folder" in said


def test_a_period_is_of_the_records_timestamps(real, scene, tmp_path):
    """Exactly the payments appended within it, with the whole history before them."""
    published = fed(scene)
    sent = scene.upstream.journal.sent
    begin, end = (sorted(s.timestamp for s in sent)[k] for k in (200, 500))
    within = [
        (s.partition, s.offset)
        for s in sent
        if begin <= s.timestamp < end and s.outcome == PREDICTION
    ]
    times = [datetime.fromtimestamp(time / 1_000, UTC).isoformat() for time in (begin, end)]

    code, report = replayed(
        scene, scene.bundle, tmp_path / "out", "--from", times[0], "--to", times[1], "--rate", 5_000
    )

    assert code == 0
    assert places(rows_in(tmp_path / "out")) == sorted(within)
    assert 50 < report["payments"] == report["equal_probabilities"] < len(published)


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_side_topic_gets_the_predictions_and_a_live_one_is_refused(scene, tmp_path):
    """They are those of the model that replays, in the schema of all predictions."""
    side = scene.narrow_topic()
    published = fed(scene, 200)
    for live in (scene.topics.payments, scene.topics.labels, *scene.topics.outputs):
        code, said = replayed(scene, scene.bundle, tmp_path / "refused", "--to-topic", live)
        assert (code, f"{live} is a live topic" in said) == (78, True)
    assert not (tmp_path / "refused").exists()

    code, _ = replayed(scene, scene.bundle, tmp_path / "out", "--to-topic", side)

    assert code == 0
    reader = Consumer({"bootstrap.servers": scene.address, "group.id": "side", "log_level": 0})
    reader.assign([TopicPartition(side, 0, 0)])
    found = {}
    while len(found) < len(published):
        for message in reader.consume(500, timeout=5):
            prediction = decode("prediction", message.value())
            found[source(prediction)] = prediction["features"], prediction["probability"]
    reader.close()
    assert found == {k: (p["features"], p["probability"]) for k, p in published.items()}
