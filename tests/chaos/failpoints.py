"""
Named places of the consumer where a fault strikes: what a program of a forked instance installs.

    scene.start(program=partial(run_with, Failpoint("after-score", "kill", nth=7)))

A point is a call of the consumer's own code; the fault strikes right before or after it.
"""

import functools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

NAIVE_RECORDS = 10
"""Records of the naive consumer that stand for a batch of the other."""

Action = Literal["kill", "stop", "delay", "no-memory", "hog", "nan"]
Point = Literal[
    "after-consume", "after-decode", "after-features", "after-score", "mid-produce",
    "after-produce", "before-offsets", "after-offsets", "after-commit", "on-revoke", "on-assign",
    "on-restore", "in-drain", "in-load",
]  # fmt: skip


@dataclass(frozen=True)
class Failpoint:
    """Where, what, and at which time it is reached; `seconds` are a delay's."""

    point: Point
    action: Action
    nth: int = 1
    seconds: float = 0.0
    times: int = 1


def run_with(failpoint: Failpoint, arguments: list[str]) -> None:
    """Be the command, with the failpoint in it."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    _install(failpoint)
    cli.app(arguments)


def run_naive_with(failpoint: Failpoint, arguments: list[str]) -> None:
    """Be the naive consumer, with the failpoint where it has a place like that."""
    from tests.chaos import naive  # noqa: PLC0415 - the consumer under test does without

    act = _ACTIONS[failpoint.action](failpoint.seconds)
    strike = _at(NAIVE_RECORDS * failpoint.nth, failpoint.times, act)
    before = {
        "after-consume": "decode", "after-decode": "measure", "after-features": "predict",
        "after-score": "publish",
    }  # fmt: skip
    if failpoint.point in before:
        _before(naive.Naive, before[failpoint.point], strike)
    else:
        _after(naive.Naive, "publish", strike)
    naive.run(arguments)


def run_within_memory(more_bytes: int, nth: int, arguments: list[str]) -> None:
    """Be the command; from the nth batch on, allow no more address space than so much above."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it
    from consumer.pipeline import Pipeline  # noqa: PLC0415

    def limit() -> None:
        with open("/proc/self/statm") as statm:  # noqa: PTH123 - a file of the kernel
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, resource.RLIM_INFINITY))

    _before(Pipeline, "process", _at(nth, 1, limit))
    cli.app(arguments)


def run_slowed(while_exists: str, seconds: float, arguments: list[str]) -> None:
    """Be the command with a model that takes so long for each record, while a file exists."""
    from consumer import cli, pipeline  # noqa: PLC0415 - the fork server has loaded them

    score = pipeline.score

    def slow(rows: Any, model: Any) -> Any:
        if os.path.exists(while_exists):  # noqa: PTH110 - once a batch
            time.sleep(seconds * len(rows))
        return score(rows, model)

    pipeline.score = slow
    cli.app(arguments)


def run_with_full_log(arguments: list[str]) -> None:
    """Be the command, with its output on a device that is full."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)
    cli.app(arguments)


def run_with_small_files(most_bytes: int, arguments: list[str]) -> None:
    """Be the command on a disk where nothing becomes larger: files end there, with an error."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    cli.app(arguments)


def run_with_jumping_clock(jump_seconds: float, every_seconds: float, arguments: list[str]) -> None:
    """Be the command under a wall clock that is ahead for a while, and then behind for a while."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    now, now_ns, begin = time.time, time.time_ns, time.monotonic()

    def ahead() -> float:
        phase = int((time.monotonic() - begin) / every_seconds) % 3
        return (0.0, jump_seconds, -jump_seconds)[phase]

    time.time = lambda: now() + ahead()
    time.time_ns = lambda: now_ns() + int(ahead() * 1e9)
    cli.app(arguments)


def _install(failpoint: Failpoint) -> None:
    from consumer import pipeline  # noqa: PLC0415 - the fork server has loaded them
    from consumer.adapters import (  # noqa: PLC0415
        kafka_sink,
        kafka_source,
        label_feed,
        model_bundle,
        restore,
    )
    from consumer.core.state import VelocityState  # noqa: PLC0415

    act = _at(failpoint.nth, failpoint.times, _ACTIONS[failpoint.action](failpoint.seconds))
    source, sink = kafka_source.KafkaSource, kafka_sink.AtLeastOnceSink
    before: dict[Point, list[tuple[Any, str]]] = {
        "after-consume": [(pipeline.Pipeline, "process")],
        "after-decode": [(label_feed.LabelFeed, "catch_up")],
        "after-features": [(pipeline, "score")],
        "after-score": [(pipeline, "decide")],
        "after-commit": [(VelocityState, "settle")],
        "on-revoke": [(source, "_give")],
        "on-assign": [(source, "_take")],
        "on-restore": [(restore.StateRestorer, "begin")],
        "in-drain": [(source, "close")],
        "in-load": [(model_bundle, "_reproduce_golden_rows")],
    }
    if failpoint.action == "nan":
        _spoil_scores(pipeline, failpoint.nth)
    elif failpoint.point == "mid-produce":
        _between_outputs(kafka_sink, act)
    elif failpoint.point == "after-produce":
        _after(kafka_sink, "produce", act)
    elif failpoint.point == "before-offsets":
        _before(sink, "_commit", act)
        _before_call(kafka_sink._Transaction, "send_offsets_to_transaction", act)
    elif failpoint.point == "after-offsets":
        _after(source, "commit", act)
        _before_call(kafka_sink._Transaction, "commit_transaction", act)
    else:
        for owner, name in before[failpoint.point]:
            _before(owner, name, act)


def _at(nth: int, times: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return what acts when it is called for the nth time, and as often again as `times` says."""
    calls = iter(range(1, 1_000_000_000))

    def strike() -> None:
        if nth <= next(calls) < nth + times:
            act()

    return strike


def _kill(_: float) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: float) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signal.SIGSTOP)


def _delay(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def _no_memory(_: float) -> Callable[[], None]:
    def act() -> None:
        raise MemoryError

    return act


def _hog(seconds: float) -> Callable[[], None]:
    """Let a thread hold the interpreter's lock for a while, as a careless extension does."""

    def spin() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(50_000))

    return lambda: threading.Thread(target=spin, daemon=True).start()


_ACTIONS: dict[str, Callable[[float], Callable[[], None]]] = {
    "kill": _kill, "stop": _stop, "delay": _delay, "no-memory": _no_memory, "hog": _hog,
    "nan": _delay,
}  # fmt: skip


def _before(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def struck(*args: Any, **kwargs: Any) -> Any:
        act()
        return original(*args, **kwargs)

    setattr(owner, name, struck)


def _after(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def struck(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        act()
        return result

    setattr(owner, name, struck)


def _before_call(transaction: Any, name: str, act: Callable[[], None]) -> None:
    """Strike before one step of a transaction, when what came before it is on the brokers."""
    resumed = transaction._resumed

    def struck(self: Any, call: Callable[..., None], *args: Any) -> None:
        if call.__name__ == name:
            self.producer.flush(5)
            act()
        resumed(self, call, *args)

    transaction._resumed = struck


def _between_outputs(kafka_sink: Any, act: Callable[[], None]) -> None:
    """Strike when the predictions of a batch are on the brokers, and its alerts are not."""
    produce = kafka_sink.produce

    def struck(producer: Any, outputs: Any) -> None:
        produce(producer, outputs[:1])
        producer.flush(5)
        act()
        produce(producer, outputs[1:])

    kafka_sink.produce = struck


def _spoil_scores(pipeline: Any, nth: int) -> None:
    """Let the model answer one batch with no number, as one that divides by zero does."""
    original, calls = pipeline.score, iter(range(1, 1_000_000_000))

    def spoiled(rows: Any, model: Any) -> Any:
        if next(calls) == nth and len(rows):
            return original(
                rows, type("Broken", (), {"score": lambda _, r: r[:, 0] * float("nan")})()
            )
        return original(rows, model)

    pipeline.score = spoiled
