"""Feature set handbook-1 as a user meets it: trained, refused where it cannot work, and scoring."""

import json
import os
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
from confluent_kafka import Producer

from consumer.core.feature_sets import HANDBOOK_1
from producer_sim import handbook
from producer_sim.events import TransactionWriter
from producer_sim.labels import Exactly, LabelWriter, fraud_labels
from tests.integration.harness import COMMAND, PARTITIONS, Scene, eventually
from tests.integration.test_commands import command
from tests.property.handbook_reference import reference

AT_LEAST_ONCE = pytest.mark.parametrize("guarantee", ["at-least-once"])
CARDS, DAYS = 150, 25
TRAINING = ("--feature-set", "handbook-1", "--settle", "0s")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """
    A model of handbook-1, trained by the command on a week of the Handbook.

    In a process of its own, whose threads do not spin for work that others hold up.
    """
    folder = tmp_path_factory.mktemp("handbook") / "model"
    period = ("--from", "handbook", "--begin", "2018-05-01", "--end", "2018-05-08")
    subprocess.run(
        [*COMMAND, "train", *period, *TRAINING, "--warm-up", "20d", "--out", str(folder)],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}, check=True,
    )  # fmt: skip
    return folder


@dataclass
class Narrow:
    """A scene whose topics of payments have one partition."""

    scene: Scene

    def __post_init__(self):
        payments = self.scene.narrow_topic()
        self.topics = {"input": payments, "dead_letters": f"{payments}-dlt"}
        self.scene.broker.create_topics({self.topics["dead_letters"]: 1})

    def send(self, payments):
        """Send every payment, and before them every label, 7 days after its payment."""
        labels = fraud_labels(payments, Exactly(7), seed=0)
        places = np.arange(len(labels))
        label_writer = LabelWriter(payments, labels, seed=0)
        writer, rows = TransactionWriter(payments, seed=0), np.arange(len(payments))
        producer = Producer({"bootstrap.servers": self.scene.address})
        for topic, keys, values in (
            (self.scene.topics.labels, label_writer.keys(places), label_writer.values(places)),
            (self.topics["input"], writer.keys(rows), writer.values(rows)),
        ):
            for key, value in zip(keys, values, strict=True):
                producer.produce(topic, value, key)
            assert producer.flush(30) == 0

    def config(self, name):
        """Write a configuration that says what handbook-1 needs."""
        return self.scene.config(name, topics=self.topics, labels={"settle": "0s"})


def some_cards():
    """Return the first days of the first cards."""
    payments = handbook.load()
    chosen = (payments.customer < CARDS) & (payments.second < DAYS * handbook.DAY_SECONDS)
    return handbook.Payments(
        **{name: column[chosen] for name, column in payments.columns().items()}
    )


@AT_LEAST_ONCE
def test_predictions_are_made_from_the_book_s_features(scene):
    """Through a broker and back: every payment once, in order, with the inputs of the reference."""
    payments = some_cards()
    expected = reference(payments)
    narrow = Narrow(scene)
    narrow.send(payments)
    consumer = scene.start(topics=narrow.topics, labels={"settle": "0s"})

    eventually(
        lambda: consumer.total("predictions_committed_total") == len(payments), 60, consumer.tail
    )

    wanted = ("--from-beginning", "--no-follow", "--json")
    code, lines = command("tail", "predictions", "--config", narrow.config("tail"), *wanted)
    predictions = sorted(map(json.loads, lines), key=lambda found: found["source_offset"])
    assert code == 0
    assert [found["source_offset"] for found in predictions] == list(range(len(payments)))
    assert {found["feature_set"] for found in predictions} == {"handbook-1"}
    np.testing.assert_allclose([found["features"] for found in predictions], expected, rtol=1e-6)
    assert (expected[:, HANDBOOK_1.names.index("TERMINAL_ID_RISK_7DAY_WINDOW")] > 0).any()


@AT_LEAST_ONCE
def test_a_topic_that_splits_its_terminals_is_refused(scene):
    """Before anything is joined or read."""
    refused = scene.start()

    assert refused.wait(20) == 78
    [sentence] = [line for line in refused.lines() if line.startswith("fraudstream: ")]
    assert f"{scene.topics.payments}: {PARTITIONS} partitions would each see a part" in sentence
    assert "give it one partition" in sentence


@AT_LEAST_ONCE
def test_the_trainer_refuses_such_a_topic_too(scene):
    """A model of halved counts would be none of handbook-1."""
    period = ("--begin", "2018-05-01", "--end", "2018-05-15")
    scene.upstream.send_label()  # a topic as young as this one may not be led yet

    code, lines = command(
        "train", *period, *TRAINING, "--config", scene.config("train"),
        "--out", scene.folder / "model",
    )  # fmt: skip

    assert code == 78
    assert f"{PARTITIONS} partitions would each see a part" in lines[-1]
    assert not (scene.folder / "model").exists()


@AT_LEAST_ONCE
def test_a_model_of_it_is_not_judged_on_such_a_topic(scene, bundle):
    """Its figures would be those of other inputs."""
    period = ("--begin", "2018-05-01", "--end", "2018-05-15")
    scene.upstream.send_label()  # a topic as young as this one may not be led yet

    code, lines = command("evaluate", bundle, *period, "--config", scene.config("evaluate"))

    assert code == 78
    assert f"{PARTITIONS} partitions would each see a part" in lines[-1]


@AT_LEAST_ONCE
def test_check_tells_what_the_feature_set_needs(scene):
    """It asks no broker, so it cannot say whether the topic is so."""
    code, lines = command("check", "--config", scene.config("sound"))

    assert code == 0
    assert lines[0] == "configuration and model bundle are sound"
    assert f"topic {scene.topics.payments} must have one partition" in lines[1]


def test_topics_are_created_for_it_with_one_partition(real, scene):
    """And long enough for its longest window; a wider one is refused, there or to be made."""
    fresh = {name: f"{scene.topics.group}.{name}" for name in ("input", "predictions", "alerts")}
    config = scene.config("topics", topics=fresh)
    wanted = ("--config", config, "--feature-set", "handbook-1")

    assert command("topics", *wanted, "--partitions", 2)[0] == 78
    assert command("topics", *wanted)[0] == 0

    def width():
        found = scene.admin.list_topics(timeout=10).topics.get(fresh["input"])
        return found and len(found.partitions)

    assert eventually(width, 10) == 1
    assert command("topics", "--config", scene.config("wide"), *wanted[2:])[0] == 78


def test_a_feature_set_that_is_none_is_refused(tmp_path):
    """With the names of those there are."""
    period = ("--begin", "2018-05-01", "--end", "2018-05-15")

    code, lines = command("train", *period, "--feature-set", "handbook-2", "--out", tmp_path / "m")

    assert code == 78
    listed = "arrival-1, arrival-2, arrival-3, arrival-4, handbook-1"
    assert lines[-1].endswith(f"'handbook-2' is none of {listed}")
