"""
`make bench`: what an event costs in CPU, as a ratio to what a raw client and ONNX Runtime cost.

At least seven interleaved rounds in one run, median and interval; build/bench.json has them all.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

import fastavro
from confluent_kafka import Consumer, TopicPartition

import schemas
from benchmarks.cards import (
    SIZES,
    bytes_per_card,
    cost_of_a_hot_card,
    cost_of_cards,
    cost_of_sets,
)
from benchmarks.passes import BATCH, PARTITIONS, Cost, Ready, consumer_pass, floor_pass
from benchmarks.snapshots import snapshot_figures
from consumer.core.avro_decoder import AvroDecoder
from consumer.core.decode import PAYMENT_COLUMNS
from consumer.core.feature_sets import ARRIVAL_4
from demo.outputs import ALERTS, DEAD_LETTERS, PREDICTIONS
from tests.brokers import Rung, choose, open_broker

OUT: Final = Path("build/bench.json")
SNAPSHOT_CARDS: Final = 1_000_000
TOPICS: Final = {
    "transactions.raw": PARTITIONS, PREDICTIONS: PARTITIONS, ALERTS: PARTITIONS,
    DEAD_LETTERS: PARTITIONS, "fraud.labels": 1,
}  # fmt: skip
FLOOR: Final = "floor"
TUNED: Final = "tuned floor"
Measured = TypeVar("Measured")
RUNS: Final = {
    "at-least-once": ("at-least-once", "quickscorer"),
    "exactly-once": ("exactly-once", "quickscorer"),
    "at-least-once, onnxruntime": ("at-least-once", "onnxruntime"),
}


def main() -> None:
    """Run the rounds, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cards", type=int, default=SIZES[-1], help="most cards in memory")
    parser.add_argument("--broker", default="kafka")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    # The process of each pass imports this file anew, and scikit-learn takes seconds to import.
    from benchmarks.workload import make_workload, publish, train_model  # noqa: PLC0415

    print(f"making {arguments.events:,} payments and two models of 100 trees of 31 leaves")
    workload = make_workload(arguments.events)
    choice = choose(arguments.broker, os.environ, default=Rung.KAFKA)
    with tempfile.TemporaryDirectory() as scratch, open_broker(choice) as broker:
        models = {engine: Path(scratch) / engine for engine in ("quickscorer", "onnxruntime")}
        for engine, folder in models.items():
            train_model(folder, workload, engine)  # type: ignore[arg-type]
        publish(broker, workload, TOPICS)
        job = Job(broker.bootstrap_servers, models, Path(scratch), len(workload.values))
        Ready(workload.rows, _predictions(job)).save(job.ready)
        costs = _rounds(job, arguments.rounds)
    result = _summary(costs) | {
        "decoder_ratio_to_fastavro": _decoder_ratio(workload.values[:BATCH])
    }
    sizes = tuple(size for size in SIZES if size <= arguments.cards)
    print(f"measuring the feature step over up to {sizes[-1]:,} cards")
    result |= {
        "cards": _alone(partial(cost_of_cards, arguments.rounds, sizes)),
        "feature_sets": _alone(partial(cost_of_sets, arguments.rounds)),
        "hot_card": _alone(partial(cost_of_a_hot_card, arguments.rounds)),
        "bytes_per_card": bytes_per_card(days=30),
        "bytes_per_card_after_75_days": bytes_per_card(days=75),
        "bytes_per_card_arrival_4": bytes_per_card(days=30, feature_set=ARRIVAL_4),
    }
    most = min(sizes[-1], SNAPSHOT_CARDS)
    result |= _alone(partial(snapshot_figures, most, workload.values[:BATCH]))
    result |= {"events": arguments.events, "rounds": arguments.rounds, "broker": str(choice.rung)}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)
    print(f"written to {arguments.out}")


@dataclass(frozen=True, slots=True)
class Job:
    """Where the payments are, models by engine, what the floor has ready, how many payments."""

    servers: str
    models: dict[str, Path]
    ready: Path
    total: int


def _rounds(job: Job, rounds: int) -> dict[str, list[Cost]]:
    """Run floor and consumer in turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in (FLOOR, TUNED, *RUNS)}
    for number in range(1, rounds + 1):
        taken = {}
        for name in (FLOOR, TUNED):
            floor = partial(floor_pass, job.servers, job.models["onnxruntime"], job.ready)
            taken[name] = _alone(partial(floor, tuned=name == TUNED))
        for name, (guarantee, engine) in RUNS.items():
            model = job.models[engine]
            taken[name] = _alone(partial(consumer_pass, job.servers, model, guarantee, job.total))
        line = "  ".join(f"{name} {cost.cpu_us:.2f}" for name, cost in taken.items())
        print(f"round {number}, CPU us per event: {line}", flush=True)
        for name, cost in taken.items():
            costs[name].append(cost)
    return costs


def _alone(measured: Callable[[], Measured]) -> Measured:
    """Measure in a process of its own, which takes its memory with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured).result()


def _predictions(job: Job) -> list[bytes]:
    """
    Let the consumer score once, and keep its predictions: the bytes that the floor produces.

    It also warms up the caches of kernels and pages.
    """
    servers, total = job.servers, job.total
    quickscorer = job.models["quickscorer"]
    _alone(partial(consumer_pass, servers, quickscorer, "at-least-once", total))
    reader = Consumer(
        {"bootstrap.servers": servers, "group.id": "bench-reader", "enable.auto.commit": False}
    )
    reader.assign([TopicPartition(PREDICTIONS, p, 0) for p in range(PARTITIONS)])
    values: list[bytes] = []
    while len(values) < total:
        values += [m.value() or b"" for m in reader.consume(10_000, 1.0) if m.error() is None]
    reader.close()
    return values[:total]


def _summary(costs: dict[str, list[Cost]]) -> dict[str, Any]:
    plain = costs["at-least-once"]
    return {
        "floor": _median_us(costs[FLOOR]),
        "tuned_floor": _median_us(costs[TUNED]),
        "consumer": {name: _median_us(costs[name]) for name in RUNS},
        "stages": {
            stage: statistics.median(1e6 * cost.stages[stage] / cost.events for cost in plain)
            for stage in plain[0].stages
        },
        "ratio_to_floor": {name: _ratios(costs, name, FLOOR)["median"] for name in RUNS},
        "ratio_interval": {name: _ratios(costs, name, FLOOR)["interval"] for name in RUNS},
        "ratio_to_tuned_floor": {name: _ratios(costs, name, TUNED)["median"] for name in RUNS},
        "events_per_second": {
            name: statistics.median(c.events / c.wall for c in costs[name]) for name in costs
        },
        "batch": BATCH,
    }


def _median_us(costs: list[Cost]) -> float:
    return statistics.median(cost.cpu_us for cost in costs)


def _ratios(costs: dict[str, list[Cost]], name: str, base: str) -> dict[str, Any]:
    """Compare what was measured side by side, round for round."""
    ratios = [a.cpu_us / b.cpu_us for a, b in zip(costs[name], costs[base], strict=True)]
    return {"median": statistics.median(ratios), "interval": [min(ratios), max(ratios)]}


def _decoder_ratio(values: list[bytes]) -> float:
    """Return how many times faster the columnar decoder is than fastavro, interleaved, median."""
    schema: Any = fastavro.parse_schema(schemas.load("transaction"))
    decoder = AvroDecoder([schemas.load("transaction")], PAYMENT_COLUMNS, 65_536)
    decoder.decode(values)
    ratios = []
    for _ in range(7):
        begin = time.thread_time()
        for value in values:
            fastavro.schemaless_reader(BytesIO(value[10:]), schema, None)
        middle = time.thread_time()
        for _ in range(20):
            decoder.decode(values)
        ratios.append((middle - begin) / ((time.thread_time() - middle) / 20))
    return statistics.median(ratios)


def _print(result: dict[str, Any]) -> None:
    print(
        f"\nfloor: {result['floor']:.2f} us CPU per event;"
        f" tuned as the consumer is: {result['tuned_floor']:.2f} us"
    )
    for name in RUNS:
        low, high = result["ratio_interval"][name]
        print(
            f"{name}: {result['consumer'][name]:.2f} us,"
            f" {result['ratio_to_floor'][name]:.2f} x the floor ({low:.2f} to {high:.2f}),"
            f" {result['ratio_to_tuned_floor'][name]:.2f} x the tuned one,"
            f" {result['events_per_second'][name]:,.0f} events/s"
        )
    stages = ", ".join(f"{stage} {us:.2f}" for stage, us in result["stages"].items())
    print(f"stages, at-least-once: {stages}")
    print(f"decoder alone: {result['decoder_ratio_to_fastavro']:.1f} x fastavro")
    fewest = min(result["cards"])
    for size, cost in result["cards"].items():
        ratio = cost / result["cards"][fewest]
        print(f"feature step, {size:,} cards: {cost:.2f} us, {ratio:.2f} x that of {fewest:,}")
    for name, cost in result["feature_sets"].items():
        ratio = cost / result["feature_sets"]["arrival-1"]
        print(f"feature step of {name}: {cost:.2f} us, {ratio:.2f} x that of arrival-1")
    hot = result["hot_card"]
    print(
        f"a card of 100,000 payments: {hot['by_the_hour']:.1f} us an event, the older ones by the"
        f" hour; {hot['one_by_one']:.1f} us one by one; {hot['distinct']:.1f} us by the hour, with"
        " terminals and countries counted"
    )
    print(
        f"state: {result['bytes_per_card']:,.0f} bytes a card at 78 payments in 30 days,"
        f" {result['bytes_per_card_after_75_days']:,.0f} after 75 days of them;"
        f" {result['bytes_per_card_arrival_4']:,.0f} of arrival-4"
    )
    print(
        f"snapshot of {result['snapshot_cards']:,} cards: {result['snapshot_pause_ms']:.1f} ms more"
        f" in the slowest batch; to restore it takes {result['restore_ratio']:.3f} of the time to"
        " decode its payments and compute their features again"
    )


if __name__ == "__main__":
    main()
