"""Consumer, trainer and simulator as their users run them: processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Final

from tests.brokers import Broker, Rung

_START_SECONDS: Final = 240.0
_DRAIN_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.25
_MOST_UNREAD: Final = 20_000


class DemoFailedError(Exception):
    """Something that is needed did not work; the message says what."""


EXACTLY_A_WEEK: Final = "exactly:7d"


def train(
    folder: Path,
    begin: date,
    end: date,
    known_by: date,
    label_delay: str = EXACTLY_A_WEEK,
    feature_set: str = "arrival-1",
) -> str:
    """
    Train on the Handbook's payments of [begin, end) and the labels known by then, and return what
    the trainer said. Raises DemoFailedError.
    """
    bundle = ["--feature-set", feature_set, "--name", "handbook", "--out", str(folder)]
    known = ["--known-by", str(known_by), *bundle]
    return _on_the_handbook("train", begin, end, label_delay, known).stderr


def evaluate(folders: list[Path], begin: date, end: date, label_delay: str) -> dict[str, Any]:
    """
    Judge the bundles, one after the other, on the Handbook's payments of [begin, end). Raises
    DemoFailedError.
    """
    bundles = [*map(str, folders), "--json"]
    found: dict[str, Any] = json.loads(
        _on_the_handbook("evaluate", begin, end, label_delay, bundles).stdout
    )
    return found


def _on_the_handbook(
    command: str, begin: date, end: date, label_delay: str, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable, "-m", "consumer", command, "--from", "handbook", "--begin", str(begin),
        "--end", str(end), "--label-delay", label_delay, "--settle", "0s", *arguments,
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise DemoFailedError(f"{command} failed: {done.stderr.strip()}")
    return done


@contextmanager
def consumer(broker: Broker, model: Path, guarantee: str, log: Path) -> Iterator[int]:
    """
    Run one member of the group until the block ends; yield its HTTP port once it is live.

    Raises DemoFailedError when it does not start, or does not end in good order.
    """
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith("FRAUDSTREAM_") or name == "FRAUDSTREAM_CACHE"
        },
        "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "FRAUDSTREAM_SECURITY__INSECURE": str(broker.is_remote),
        "FRAUDSTREAM_PROCESSING__GUARANTEE": guarantee,
        "FRAUDSTREAM_INSTANCE__ID": "demo",
        "FRAUDSTREAM_MODEL__PATH": str(model),
        "FRAUDSTREAM_LABELS__SETTLE": "0",  # the simulator's labels come at their published_at
        "FRAUDSTREAM_LAG__INTERVAL": "500ms",
        "FRAUDSTREAM_HTTP__PORT": "0",
        "FRAUDSTREAM_LOG__FORMAT": "json",
    }
    if broker.rung is Rung.EMBEDDED:
        # This broker answers a waiting fetch only when its time is up, also when records came.
        environment["FRAUDSTREAM_KAFKA__FETCH_WAIT_MAX_MS"] = "10"
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


def simulate(
    broker: Broker, arguments: list[str], seconds: float, log: Path, look: Callable[[], object]
) -> int:
    """
    Publish for so long at the most, and return how many payments were acknowledged.

    Calls `look` a few times a second meanwhile. Raises DemoFailedError.
    """
    command = [
        sys.executable, "-m", "producer_sim", "--bootstrap-servers", broker.bootstrap_servers,
        "--max-unread", str(_MOST_UNREAD), "--group", "fraudstream", *arguments,
    ]  # fmt: skip
    if broker.is_remote:
        command.append("--insecure")
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)  # noqa: S603 - our own program
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        time.sleep(_LOOK_SECONDS)
        look()
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + _DRAIN_SECONDS
    text = " ".join(log.read_text().split())
    published = re.search(r"published ([\d,]+) payments", text)
    if published is None:
        raise DemoFailedError(f"the simulator failed: {text[-500:]}")
    return int(published[1].replace(",", ""))


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
