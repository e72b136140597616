"""Run the consumer and the simulator as their users would, as processes, and watch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import Producer
from rich.console import Console

from demo.metrics import Scrape, scrape
from demo.outputs import ALERTS, DEAD_LETTERS, PREDICTIONS, OutputReader, Scored
from demo.view import LiveView
from producer_sim import handbook
from tests.brokers import Broker, Choice, Rung, open_broker
from training.evaluate import Fold, quality, rows_to_evaluate

FOLDER: Final = Path("build/demo")
INPUT: Final = "transactions.raw"
LABELS: Final = "fraud.labels"
PARTITIONS: Final = 8

FIRST_DAY: Final = date(2018, 4, 1)
TRAIN_FIRST: Final = date(2018, 7, 25)
TEST_FIRST: Final = date(2018, 8, 8)
TEST_DAYS: Final = 7
_HISTORY_DAYS: Final = 37  # the longest window, and the labels' delay
_PAYMENTS_PER_DAY: Final = 9_600
_CAREFUL_RATE: Final = 15_000
_HISTORY_SHARE: Final = 0.6
_MOST_UNREAD: Final = 20_000
_START_SECONDS: Final = 240.0
_DRAIN_SECONDS: Final = 60.0
_BROKEN: Final = (b"", b"\xc3\x01 not a payment", b"{}", b"\x00" * 40, None)


class DemoFailedError(Exception):
    """Something the demo needs did not work; the message says what."""


@dataclass(frozen=True, slots=True)
class Plan:
    """History at full speed, then the test week at a steady rate, both within `seconds`."""

    history_first: date
    seconds: float
    guarantee: str

    @classmethod
    def within(cls, seconds: float, guarantee: str) -> Self:
        """Take as much history as a slow machine can stream in its part, 37 days at the most."""
        days = int(_HISTORY_SHARE * seconds * _CAREFUL_RATE / _PAYMENTS_PER_DAY)
        history = timedelta(days=min(_HISTORY_DAYS, max(days, 1)))
        return cls(TEST_FIRST - history, seconds, guarantee)

    def test_rate(self, seconds_left: float) -> float:
        """Payments a second that bring the test week to its end in a little less than that."""
        return 1.15 * TEST_DAYS * _PAYMENTS_PER_DAY / seconds_left


@dataclass(frozen=True, slots=True)
class Stage:
    """What every part of the stream needs: where it goes, and who watches."""

    broker: Broker
    port: int
    outputs: OutputReader
    view: LiveView

    def look(self) -> Scrape | None:
        """Show how things are now, None when the consumer is too busy to say."""
        time.sleep(0.25)
        try:
            now = scrape(self.port)
        except OSError:
            return None
        self.view.show(now, self.outputs)
        return now


def run_demo(choice: Choice, plan: Plan, console: Console) -> dict[str, Any]:
    """Stream, watch and count. Raises DemoFailedError, BrokerUnavailable."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]1/4[/] broker: {choice}")
    with open_broker(choice) as broker:
        broker.create_topics(
            dict.fromkeys((INPUT, PREDICTIONS, ALERTS, DEAD_LETTERS), PARTITIONS) | {LABELS: 1}
        )
        console.print("[bold]2/4[/] model: trained on 2018-07-25 to 07-31, labels 7 days late")
        _train(console)
        console.print("[bold]3/4[/] consumer: starting (its kernels are compiled the first time)")
        outputs = OutputReader(broker.bootstrap_servers)
        outputs.start()
        try:
            with _consumer(broker, plan) as port:
                console.print(
                    f"[bold]4/4[/] streaming {plan.history_first} to 2018-08-07 at full speed, then"
                    " the test week at a steady rate"
                )
                with LiveView(console, f"fraudstream on {broker.rung}") as view:
                    return _stream(plan, Stage(broker, port, outputs, view))
        finally:
            outputs.stop()


def _stream(plan: Plan, stage: Stage) -> dict[str, Any]:
    begin = time.monotonic()
    days = ["--from", str(plan.history_first), "--to", str(TEST_FIRST)]
    sent = _simulate(stage, days, _HISTORY_SHARE * plan.seconds) + _send_broken_values(stage.broker)
    before = _settled(stage, sent)
    events_per_second = sent / (time.monotonic() - begin)
    left = max(begin + plan.seconds - time.monotonic(), (1 - _HISTORY_SHARE) * plan.seconds)
    days = ["--from", str(TEST_FIRST), "--to", str(TEST_FIRST + timedelta(days=TEST_DAYS))]
    rate = str(plan.test_rate(left))
    sent += _simulate(stage, [*days, "--again", "--rate", rate], left)
    after = _settled(stage, sent)
    scored = stage.outputs.scored()
    return {
        "events_in": sent,
        "predictions": len(scored.rows),
        "dead_letters": stage.outputs.dead_letter_count,
        "skipped": after.skipped,
        "alerts": stage.outputs.alert_count,
        "events_per_second": round(events_per_second, 1),
        "latency_p50_seconds": after.latency_since(before, 0.5),
        "latency_p99_seconds": after.latency_since(before, 0.99),
        "broker": str(stage.broker.rung),
        "guarantee": plan.guarantee,
        "quality": _quality(scored),
    }


def _simulate(stage: Stage, arguments: list[str], seconds: float) -> int:
    """Publish for so long at the most, and return how many payments were acknowledged."""
    command = [
        sys.executable, "-m", "producer_sim", "--bootstrap-servers", stage.broker.bootstrap_servers,
        "--max-unread", str(_MOST_UNREAD), "--group", "fraudstream", *arguments,
    ]  # fmt: skip
    log = FOLDER / "simulator.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)  # noqa: S603 - our own program
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        stage.look()
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + _DRAIN_SECONDS
    text = " ".join(log.read_text().split())
    published = re.search(r"published ([\d,]+) payments", text)
    if published is None:
        raise DemoFailedError(f"the simulator failed: {text[-500:]}")
    return int(published[1].replace(",", ""))


def _send_broken_values(broker: Broker) -> int:
    """Send what an upstream in trouble might: four values that are no payments, and a tombstone."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for number, value in enumerate(_BROKEN):
        producer.produce(INPUT, value, f"card-{number}".encode())
    if producer.flush(30) > 0:
        raise DemoFailedError("the broker does not take the broken values")
    return len(_BROKEN)


def _settled(stage: Stage, sent: int) -> Scrape:
    """Wait until all that was sent is committed and read back; say how far it came if it is not."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    outputs, consumed = stage.outputs, 0
    while time.monotonic() < deadline:
        now = stage.look()
        read = outputs.prediction_count + outputs.dead_letter_count
        if now is not None:
            consumed = now.consumed
            if consumed >= sent and read + now.skipped >= sent:
                return now
    raise DemoFailedError(
        f"{sent:,} events were sent, {consumed:,} committed and"
        f" {outputs.prediction_count:,} predictions read; see {FOLDER}/consumer.log"
    )


def _quality(scored: Scored) -> dict[str, float | None]:
    """Judge the test week by the Handbook's protocol; None where the stream did not reach it."""
    payments = handbook.load()
    days = payments.second // handbook.DAY_SECONDS
    test_first = (TEST_FIRST - FIRST_DAY).days
    reached = np.zeros(len(payments), np.bool_)
    probabilities = np.zeros(len(payments))
    reached[scored.rows[scored.rows >= 0]] = True
    probabilities[scored.rows[scored.rows >= 0]] = scored.probabilities[scored.rows >= 0]
    is_fraud = payments.scenario > 0
    cards = payments.customer.astype(np.int64)
    fold = Fold((TRAIN_FIRST - FIRST_DAY).days, test_first, TEST_DAYS)
    rows = rows_to_evaluate(days, cards, is_fraud, fold)
    rows = rows[reached[rows]]
    if not is_fraud[rows].any():
        return {"ap": None, "auc": None, "cp100": None}
    found = quality(days[rows], cards[rows], is_fraud[rows], probabilities[rows])
    return {"ap": found.ap, "auc": found.auc, "cp100": found.cp100}


def _train(console: Console) -> None:
    command = [
        sys.executable, "-m", "consumer", "train", "--from", "handbook",
        "--begin", str(TRAIN_FIRST), "--end", str(TRAIN_FIRST + timedelta(days=7)),
        "--known-by", str(TEST_FIRST),
        "--settle", "0s", "--name", "handbook", "--out", str(FOLDER / "model"),
    ]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise DemoFailedError(f"training failed: {done.stderr.strip()}")
    console.print(" ".join(done.stderr.split("\n")[-3:]).strip(), highlight=False)


@contextmanager
def _consumer(broker: Broker, plan: Plan) -> Iterator[int]:
    """Run one member of the group until the block ends; yield its HTTP port."""
    environment = {
        **{
            k: v
            for k, v in os.environ.items()
            if not k.startswith("FRAUDSTREAM_") or k == "FRAUDSTREAM_CACHE"
        },
        "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "FRAUDSTREAM_PROCESSING__GUARANTEE": plan.guarantee,
        "FRAUDSTREAM_INSTANCE__ID": "demo",
        "FRAUDSTREAM_MODEL__PATH": str(FOLDER / "model"),
        "FRAUDSTREAM_LABELS__SETTLE": "0",  # the simulator's labels come at their published_at
        "FRAUDSTREAM_LAG__INTERVAL": "500ms",
        "FRAUDSTREAM_HTTP__PORT": "0",
        "FRAUDSTREAM_LOG__FORMAT": "json",
    }
    if broker.rung is Rung.EMBEDDED:
        # This broker answers a waiting fetch only when its time is up, also when records came.
        environment["FRAUDSTREAM_KAFKA__FETCH_WAIT_MAX_MS"] = "10"
    log = FOLDER / "consumer.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "consumer", "run"], env=environment, stderr=file
        )
    try:
        yield _ready_port(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code != 0:
        raise DemoFailedError(f"the consumer ended with exit code {code}; see {log}")


def _ready_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the consumer owns partitions and has its state, and return its port."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        events = _events_of(log)
        if "restored" in events:
            return int(events["started"]["http_port"])
        time.sleep(0.1)
    raise DemoFailedError(f"the consumer did not start: {log.read_text()[-1_000:]}")


def _events_of(log: Path) -> Mapping[str, dict[str, Any]]:
    """Return the last log event of each name."""
    events = {}
    for line in log.read_text().splitlines():
        if line.startswith("{") and line.endswith("}"):
            event = json.loads(line)
            events[event["event"]] = event
    return events
