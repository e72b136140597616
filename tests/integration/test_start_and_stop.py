import shutil
import signal
import time
from dataclasses import replace
from typing import Any

import pytest

from consumer.app import App
from consumer.settings import load_settings
from tests.integration.checker import check
from tests.integration.conftest import BOTH, free_port
from tests.integration.harness import PARTITIONS, Scene, eventually, interrupt, run_here
from tests.integration.history import decode

AT_LEAST_ONCE = pytest.mark.parametrize("guarantee", ["at-least-once"])
"""What says nothing about a guarantee, so that the embedded broker can show it too."""


def broken_bundle(scene: Scene) -> dict[str, Any]:
    """Return the setting of a model whose file is not the one that its manifest states."""
    folder = scene.folder / "broken"
    shutil.copytree(scene.bundle, folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    return {"model": {"path": str(folder)}}


REFUSALS = {
    "a model that is not its manifest's": (broken_bundle, "model.onnx has sha256"),
    "no model": (lambda _: {"model": {"path": "nowhere"}}, "no model bundle at nowhere"),
    "an unknown key": (lambda _: {"batch": {"max_record": 5}}, "did you mean batch.max_records?"),
    "an unknown Kafka property": (
        lambda _: {"kafka": {"bootstrap.server": "x"}},
        "bootstrap.server",
    ),
    "no input topic": (lambda _: {"topics": {"input": "gone", "dead_letters": "gone-too"}}, "gone"),
    "no output topic": (lambda _: {"topics": {"alerts": "gone"}}, "topic gone does not exist"),
    "no label topic": (lambda _: {"topics": {"labels": "gone"}}, "topic gone does not exist"),
    "a narrow dead-letter topic": (
        lambda scene: {"topics": {"dead_letters": scene.narrow_topic()}},
        "a dead letter keeps its partition; run `fraudstream topics`",
    ),
}


@AT_LEAST_ONCE
@pytest.mark.parametrize("name", REFUSALS)
def test_a_start_that_cannot_work_is_refused(scene, name):
    """Before anything is joined or read: one sentence that says what to change, exit code 78."""
    change, sentence = REFUSALS[name]

    refused = scene.start(**change(scene))

    assert refused.wait(20) == 78
    said = [line for line in refused.lines() if line.startswith("fraudstream: ")]
    assert sentence in said[0], said
    assert "Traceback" not in refused.log.read_text()


@BOTH
def test_sigterm_drains_and_leaves(scene):
    """
    As a user would run it: SIGTERM under load, exit 0 within 10 s, all that is published is
    committed and nothing is published twice; another instance then goes on at once.
    """
    consumer = scene.start(fresh=scene.exactly_once, batch={"max_records": 20})
    with scene.feed(400):
        consumer.go_on(200)
        assert consumer.stop(within_seconds=10) == 0
        assert [entry["cause"] for entry in consumer.events("stopping")] == ["SIGTERM"]
        assert consumer.events("stopped")
        left = replace(scene.history(complete=False), exactly_once=True)
        scene.start("two").go_on(100)
    scene.wait_done()

    assert {v.rule for v in check(left)} <= {"journal"}, "the journal is still being written"
    assert check(replace(scene.history(), exactly_once=True)) == []


@AT_LEAST_ONCE
def test_sigterm_ends_a_start_too(scene):
    """Before anything is joined there is nothing to drain: it ends at once, as asked."""
    nobody = f"127.0.0.1:{free_port()}"
    for seconds in (0.0, 1.0, 2.0):  # imports, model, brokers that are awaited
        starting = scene.start(fresh=True, kafka={"bootstrap.servers": nobody})
        eventually(lambda starting=starting: starting.catches(signal.SIGTERM), 20, starting.tail)
        time.sleep(seconds)

        assert starting.stop(within_seconds=10) == 0


@AT_LEAST_ONCE
def test_state_is_rebuilt_before_the_instance_is_ready(scene):
    """Restarted, it reads the log again and publishes nothing of it; only then is it ready."""
    scene.upstream.send_mixed(1_000)
    first = scene.start()
    scene.wait_done()
    assert first.stop() == 0

    second = scene.start(batch={"max_records": 20})
    seen = eventually(lambda: watched(second), 40, second.tail)

    assert max(remaining for _, remaining in seen) > 0
    assert sum(entry["records"] for entry in second.events("restore_planned")) == 1_000
    assert second.total("predictions_committed_total") == 0
    scene.upstream.send_mixed(200)
    scene.wait_done()
    assert check(replace(scene.history(), exactly_once=True)) == []


def watched(instance: Any) -> list[tuple[bool, float]]:
    """Ask again and again until it is ready: (ready, records still to replay)."""
    seen = [(False, 0.0)]
    while not seen[-1][0]:
        remaining = instance.total("state_restore_remaining_messages")
        seen.append((instance.ready(), remaining))
        time.sleep(0.01)  # it must get on with it, too
    assert instance.total("state_restore_remaining_messages") == 0
    return seen


@AT_LEAST_ONCE
def test_a_label_counts_for_the_very_next_payment(scene):
    """
    A label is acknowledged before each payment is sent, by another client: the payment is scored
    with it, however fast the consumer is.
    """
    scene.start().wait_ready()
    scene.upstream.send_mixed(300, label_every=1)

    scene.wait_done()

    history = scene.history()
    names = [read.value for read in history.predictions]
    counted = [decode("prediction", value)["features"][9:12] for value in names]
    assert check(history) == []
    assert sum(map(any, counted)) > 100


@AT_LEAST_ONCE
def test_lag_is_what_is_not_committed(scene):
    """
    While a batch is in hand, lag is all from its first record on, and older by the second; after
    the last commit it is 0.
    """
    scene.upstream.send_mixed(1_000)
    app = App(load_settings(scene.config("one")))

    def total(name: str) -> float:
        return sum(
            sample.value
            for metric in app._registry.collect()
            for sample in metric.samples
            if sample.name == f"fraudstream_{name}"
        )

    def lags() -> bool:
        waiting = 1_000 - sum(scene.committed().values())
        return 0 < waiting == total("consumer_lag_messages")

    def hold() -> None:
        eventually(lags, 10)
        assert total("partition_last_stable_offset") == 1_000
        seconds = total("consumer_lag_seconds")
        eventually(lambda: total("consumer_lag_seconds") > seconds + PARTITIONS / 2, 10)

    def meanwhile() -> None:
        scene.wait_done()
        eventually(lambda: total("consumer_lag_messages") == total("consumer_lag_seconds") == 0, 10)
        assert total("committed_offset") == 1_000

    interrupt(app, 4, hold)
    run_here(app, meanwhile)

    assert total("messages_consumed_total") == 1_000


@AT_LEAST_ONCE
def test_brokers_that_do_not_answer_at_start_are_awaited_and_then_given_up(scene):
    """For delivery.outage_limit, in the log; then the exit code says that a restart may do."""
    nobody = f"127.0.0.1:{free_port()}"

    awaiting = scene.start(kafka={"bootstrap.servers": nobody}, delivery={"outage_limit": "3s"})

    assert awaiting.wait(30) == 75
    assert any('"brokers_awaited"' in line for line in awaiting.lines())
    assert "did not answer for 3 s (delivery.outage_limit)" in awaiting.tail()


def test_an_instance_that_reaches_no_broker_is_not_ready(scene, node, monkeypatch):
    """Nor with nothing in hand: what came now would not be scored."""
    monkeypatch.setattr("consumer.app._NOT_COMMITTING_SECONDS", 1.0)
    app = App(load_settings(scene.config("one")))

    def is_ready() -> bool:
        return all(app._ready().values())

    def meanwhile() -> None:
        eventually(is_ready, 30)
        node.pause()
        try:
            eventually(lambda: not is_ready(), 20)
            time.sleep(2)
            assert not is_ready(), "it was the moment of a poll"
        finally:
            node.resume()
        eventually(is_ready, 30)

    run_here(app, meanwhile)
