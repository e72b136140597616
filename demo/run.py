"""Run the consumer and the simulator as their users would, as processes, and watch."""

import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Self

from confluent_kafka import Producer
from rich.console import Console

from demo.judge import fold_of, judge
from demo.metrics import Scrape, scrape
from demo.outputs import ALERTS, DEAD_LETTERS, PREDICTIONS, OutputReader
from demo.processes import DemoFailedError, consumer, simulate, train
from demo.view import LiveView
from tests.brokers import Broker, Choice, open_broker

FOLDER: Final = Path("build/demo")
MODEL: Final = FOLDER / "model"
INPUT: Final = "transactions.raw"
LABELS: Final = "fraud.labels"
PARTITIONS: Final = 8

TRAIN_FIRST: Final = date(2018, 7, 25)
TEST_FIRST: Final = date(2018, 8, 8)
TEST_DAYS: Final = 7
_HISTORY_DAYS: Final = 37  # the longest window, and the labels' delay
_PAYMENTS_PER_DAY: Final = 9_600
_CAREFUL_RATE: Final = 15_000
_HISTORY_SHARE: Final = 0.6
_DRAIN_SECONDS: Final = 60.0
_BROKEN: Final = (b"", b"\xc3\x01 not a payment", b"{}", b"\x00" * 40, None)


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
        told = train(MODEL, TRAIN_FIRST, TRAIN_FIRST + timedelta(days=7), TEST_FIRST)
        console.print(" ".join(told.split("\n")[-3:]).strip(), highlight=False)
        console.print("[bold]3/4[/] consumer: starting (its kernels are compiled the first time)")
        outputs = OutputReader(broker.bootstrap_servers)
        outputs.start()
        try:
            with consumer(broker, MODEL, plan.guarantee, FOLDER / "consumer.log") as port:
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
    found = judge(scored, fold_of(TRAIN_FIRST, TEST_FIRST))
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
        "quality": {"ap": None, "auc": None, "cp100": None}
        if found is None
        else {"ap": found.ap, "auc": found.auc, "cp100": found.cp100},
    }


def _simulate(stage: Stage, arguments: list[str], seconds: float) -> int:
    log = FOLDER / "simulator.log"
    return simulate(stage.broker, arguments, seconds, log, stage.look)


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
        time.sleep(0.25)
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
