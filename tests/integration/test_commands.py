import json

import pytest
import structlog
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from typer.testing import CliRunner

from consumer import cli
from consumer.adapters import topics
from tests.integration.harness import Scene, eventually
from tests.integration.traffic import PREDICTION, TOMBSTONE


def command(*arguments: object) -> tuple[int, list[str]]:
    """Run the command in this process; return its exit code and its lines."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    structlog.reset_defaults()  # the command logs to a stream that is closed by now
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.splitlines()


def test_topics_are_created_as_they_must_be_or_what_differs_is_said(real, scene):
    """
    Made once with what guarantee and windows need; asked again, they are as they must be; changed,
    each difference is a sentence.
    """
    fresh = {name: f"{scene.topics.group}.{name}" for name in ("input", "predictions", "alerts")}
    fresh |= {"labels": f"{scene.topics.group}.labels"}
    config = scene.config("topics", topics=fresh)

    code, lines = command("topics", "--config", config, "--partitions", 3)

    assert code == 0
    beside = [f"{fresh['input']}-dlt", f"{fresh['input']}-dlt-audit"]
    assert lines[:-1] == [f"created {name}" for name in (*fresh.values(), *beside)]
    assert command("topics", "--config", config) == (0, ["all topics are as they must be"])
    made = scene.admin.list_topics(timeout=10).topics
    assert [len(made[name].partitions) for name in fresh.values()] == [3, 3, 3, 1]
    assert len(made[f"{fresh['input']}-dlt"].partitions) == 3
    for name, key, value in (
        (fresh["labels"], "cleanup.policy", "compact"),
        (fresh["input"], "retention.ms", "3600000"),
    ):
        entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        [changed] = scene.admin.incremental_alter_configs([resource]).values()
        changed.result(30)

    def told() -> list[str] | None:
        """Return both differences; a broker may learn of one before the other."""
        code, lines = command("topics", "--config", config)
        return lines if code == 1 and len(lines) == 2 else None

    lines = eventually(told, 20)
    assert lines[0].startswith(f"differs: {fresh['input']} has retention.ms=3600000: set it to")
    assert f"{fresh['labels']} has cleanup.policy=compact: set it to delete" in lines[1]


def test_topics_that_two_create_at_once_are_created_once(real, scene, monkeypatch):
    """As the instances of a deployment do: neither fails, whoever is quicker."""
    fresh = {name: f"{scene.topics.group}.{name}" for name in ("input", "predictions", "alerts")}
    config = scene.config("topics", topics=fresh)
    first = command("topics", "--config", config)

    class Late(topics.AdminClient):
        """It asked what there is before the other created it."""

        def list_topics(self, *args, **kwargs):
            metadata = super().list_topics(*args, **kwargs)
            metadata.topics = {scene.topics.labels: metadata.topics[scene.topics.labels]}
            return metadata

    monkeypatch.setattr(topics, "AdminClient", Late)

    assert first[0] == 0
    assert command("topics", "--config", config) == (0, ["all topics are as they must be"])


def shown(scene: Scene, kind: str, *options: str) -> list[dict]:
    """Return what `fraudstream tail` shows of all there is."""
    wanted = ("--from-beginning", "--no-follow", "--json", *options)
    code, lines = command("tail", kind, "--config", scene.config("tail"), *wanted)
    assert code == 0
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_tail_shows_what_is_committed(scene):
    """Each kind is shown whole, as JSON, or as one line; filters by card, decision and reason."""
    scene.start()
    scene.upstream.send_mixed(300, refused_every=300, label_every=50)
    scene.wait_done()
    sent = [sent.outcome for sent in scene.upstream.journal.sent]

    predictions = shown(scene, "predictions")
    assert len(predictions) == sent.count(PREDICTION) == 300
    for name, option in (("card_id", "--card"), ("decision", "--decision")):
        value = predictions[0][name]
        expected = [row for row in predictions if row[name] == value]
        found = shown(scene, "predictions", option, value)
        assert sorted(map(str, found)) == sorted(map(str, expected))
    alerts = shown(scene, "alerts")
    code = alerts[0]["reasons"][0]["code"]
    expected = [a for a in alerts if code in {reason["code"] for reason in a["reasons"]}]
    assert len(shown(scene, "alerts", "--reason", code)) == len(expected) > 0
    reasons = sorted(row["reason"] for row in shown(scene, "dead-letters"))
    assert reasons == sorted(outcome for outcome in sent if outcome not in {PREDICTION, TOMBSTONE})
    [oversize] = shown(scene, "dead-letters", "--reason", "oversize")
    assert oversize["topic"] == scene.topics.payments
    assert len(shown(scene, "labels")) == scene.upstream.journal.labels == 6
    one = ("--from-beginning", "--no-follow", "-n", "1")
    for kind in ("predictions", "alerts", "dead-letters", "labels"):
        code, lines = command("tail", kind, "--config", scene.config("tail"), *one)
        assert (code, len(lines)) == (0, 1)
        assert "{" not in lines[0]
        assert kind != "alerts" or any(f"  {a['amount_minor']} minor " in lines[0] for a in alerts)


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_check_names_every_fault_at_once(scene):
    """Configuration and bundle are judged together, without a broker."""
    sound = scene.config("sound")
    faulty = scene.config("faulty", model={"path": "nowhere"}, kafka={"session.timeout.ms": "soon"})

    assert command("check", "--config", sound) == (0, ["configuration and model bundle are sound"])
    code, lines = command("check", "--config", faulty)

    assert code == 78
    assert len(lines) == 2
    assert "session.timeout.ms" in lines[0]
    assert "no model bundle at nowhere" in lines[1]
