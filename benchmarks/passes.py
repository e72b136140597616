"""
One pass over the whole topic: by the floor, or by the consumer. CPU is that of all threads.

Each pass is to run in a process of its own, so that no client or frozen object of another is left.
"""

import gc
import logging
import resource
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime
import structlog
from confluent_kafka import Consumer, Message, Producer
from numpy.typing import NDArray

from consumer.adapters import kafka_clients
from consumer.app import App
from consumer.core.batching import BatchControl
from consumer.settings import Settings

BATCH: Final = 5_000
PARTITIONS: Final = 4
_GIVE_UP_SECONDS: Final = 120.0


@dataclass(slots=True)
class Cost:
    """CPU seconds of a pass: all threads, and of the main thread by stage; and its wall seconds."""

    cpu: float
    wall: float
    events: int
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per event."""
        return 1e6 * self.cpu / self.events


@dataclass(frozen=True, slots=True)
class Ready:
    """What the floor need not compute: float32[n, features] rows, and the values to produce."""

    rows: NDArray[np.float32]
    values: list[bytes]

    def save(self, folder: Path) -> None:
        """Write it for another process to load."""
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "bounds.npy", np.cumsum([0, *map(len, self.values)]))
        (folder / "values").write_bytes(b"".join(self.values))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what was saved."""
        data = (folder / "values").read_bytes()
        bounds = np.load(folder / "bounds.npy").tolist()
        return cls(np.load(folder / "rows.npy"), [data[a:b] for a, b in pairwise(bounds)])


def settings_for(bootstrap_servers: str, model: Path, guarantee: str) -> Settings:
    """Return settings with a group of their own, so that a pass begins at the beginning."""
    return Settings(
        kafka={"bootstrap.servers": bootstrap_servers, "group.id": f"bench-{uuid.uuid4()}"},
        security={"insecure": True},  # a container's address may not be loopback
        processing={"guarantee": guarantee},
        instance={"id": "bench"},
        batch={"max_records": BATCH},
        model={"path": model},
        labels={"settle": 0},
        http={"port": 0},
    )


def floor_pass(bootstrap_servers: str, model: Path, ready_folder: Path, *, tuned: bool) -> Cost:
    """
    Consume, run ONNX Runtime on ready rows, produce ready bytes, commit: nothing else.

    The same client configuration, batch size, wait and commit cadence as the consumer's. `tuned`
    gives it what the consumer found out besides: the collector of cycles off, and no bytecode
    between two calls of produce().
    """
    settings = settings_for(bootstrap_servers, model, "at-least-once")
    ready = Ready.load(ready_folder)
    config = kafka_clients.group_consumer_config(settings, _ignore)
    raw = {"auto.offset.reset": "earliest", "enable.auto.offset.store": True}
    consumer = Consumer({**config, **raw})
    producer = Producer(kafka_clients.producer_config(settings, _ignore))
    score = _onnx_scorer((model / "model.onnx").read_bytes())
    produce = _produce_without_bytecode if tuned else _produce_in_a_loop
    control = BatchControl(BATCH, settings.batch.max_wait)
    total, done = len(ready.values), 0
    with _measured(total, collector=not tuned) as cost:
        consumer.subscribe([settings.topics.input])
        while done < total:
            messages = consumer.consume(BATCH, control.wait_seconds) or consumer.consume(1, 0.1)
            if not messages:
                continue
            begin = time.monotonic()
            batch = slice(done, done + len(messages))
            score(ready.rows[batch])
            produce(producer, settings.topics.predictions, ready.values[batch], messages)
            producer.flush()
            consumer.commit(asynchronous=False)
            done += len(messages)
            control.finished(time.monotonic() - begin)
    consumer.close()
    return cost


def _onnx_scorer(onnx: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, ["CPUExecutionProvider"])
    [name] = [part.name for part in session.get_inputs()]
    return lambda rows: session.run(None, {name: rows})


def _produce_in_a_loop(
    producer: Producer, topic: str, values: list[bytes], messages: list[Message]
) -> None:
    for value, message in zip(values, messages, strict=True):
        producer.produce(topic, value, message.key())


def _produce_without_bytecode(
    producer: Producer, topic: str, values: list[bytes], messages: list[Message]
) -> None:
    deque(map(producer.produce, repeat(topic), values, map(Message.key, messages)), maxlen=0)


def consumer_pass(bootstrap_servers: str, model: Path, guarantee: str, total: int) -> Cost:
    """Run the whole consumer, with its threads, until all of the topic is committed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    app = App(settings_for(bootstrap_servers, model, guarantee))
    stages = _count_cpu_of_stages(app)
    give_up = time.monotonic() + _GIVE_UP_SECONDS
    source = app._source

    def keep_going() -> bool:
        if time.monotonic() > give_up:
            raise RuntimeError("the pass does not end")
        return sum(source.uncommitted_from.values()) < total

    with app.opened(), _measured(total, collector=False) as cost:  # the loop turns it off anyway
        begin = time.thread_time()
        source.subscribe()
        app._loop.run(keep_going)
        stages["poll and the rest"] = time.thread_time() - begin - sum(stages.values())
    cost.stages = {**stages, "threads of the client": cost.cpu - sum(stages.values())}
    return cost


def _count_cpu_of_stages(app: App) -> dict[str, float]:
    """Have the pipeline's steps, which are bound already, counted in CPU time of their thread."""
    pipeline: Any = app._loop._pipeline
    steps = {
        "decode": "_decode", "labels": "_catch_up", "features": "_measure", "score": "_score",
        "decide": "_decide", "alerts": "_raise_alerts", "encode": "_encode", "publish": "_publish",
    }  # fmt: skip
    spent = dict.fromkeys(steps, 0.0)

    def counted(stage: str, step: Any) -> Any:
        def run(*args: Any) -> Any:
            begin = time.thread_time()
            result = step(*args)
            spent[stage] += time.thread_time() - begin
            return result

        return run

    for stage, name in steps.items():
        setattr(pipeline, name, counted(stage, getattr(pipeline, name)))
    return spent


@contextmanager
def _measured(events: int, *, collector: bool) -> Iterator[Cost]:
    """Measure the block, with Python's collector of cycles on or off."""
    cost = Cost(0.0, 0.0, events)
    gc.collect()
    if not collector:
        gc.disable()
    cpu, wall = _cpu_seconds(), time.monotonic()
    yield cost
    cost.cpu, cost.wall = _cpu_seconds() - cpu, time.monotonic() - wall
    gc.enable()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _ignore(_: object) -> None:
    """Errors show in the result."""
