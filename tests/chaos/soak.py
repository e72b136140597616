"""
Run two instances for long under steady traffic, members coming and going, and look for leaks:

    SOAK_SECONDS=1800 python -m tests.chaos.soak

Memory, descriptors and threads of each instance are sampled every second; after a warm-up, a line
is laid through each by least squares. A leak is a slope that is above the limit by more than twice
its standard error.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.brokers import BrokerUnavailable, Rung, choose, open_broker
from tests.chaos.course import SETTINGS
from tests.integration.bundle import write_model
from tests.integration.checker import check
from tests.integration.conftest import QUICK_GROUPS
from tests.integration.harness import Instance, Scene

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
WARM_UP = 0.3
"""Share of the time that is not judged: histories of cards fill, and allocators settle."""
PER_SECOND = 200
SECONDS_BETWEEN_VISITS = 30.0
LIMITS = {"rss_bytes": 16 << 20, "descriptors": 6.0, "threads": 2.0}
"""Growth in an hour that passes for none."""
OUTPUT = Path("build/soak.json")


@dataclass(frozen=True)
class Slope:
    """Growth in an hour, with its standard error."""

    per_hour: float
    error: float

    def exceeds(self, limit: float) -> bool:
        """Say whether it is above the limit beyond chance."""
        return self.per_hour - 2 * self.error > limit


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """
    Return the slope of the least-squares line through these points.

    Neighbours in time are alike, so that each counts for less than one: the error is that of the
    means of twenty stretches of equal length.
    """
    size = max(1, len(values) // 20)
    starts = range(0, len(values) - size + 1, size)
    x = [statistics.fmean(seconds[k : k + size]) for k in starts]
    y = [statistics.fmean(values[k : k + size]) for k in starts]
    line = statistics.linear_regression(x, y)
    middle = statistics.fmean(x)
    rest = sum((b - line.intercept - line.slope * a) ** 2 for a, b in zip(x, y, strict=True))
    spread = sum((a - middle) ** 2 for a in x)
    error = (rest / max(1, len(x) - 2) / spread) ** 0.5
    return Slope(line.slope * 3600, error * 3600)


def main() -> None:
    """Exit with 1 when something leaks, or a promise was broken."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="soak-") as folder,
            open_broker(choose(Rung.KAFKA, {}), properties=QUICK_GROUPS) as broker,
        ):
            bundle = Path(folder, "model")
            write_model(bundle)
            scene = Scene(broker, Path(folder), bundle, "exactly-once")
            try:
                sys.exit(soak(scene))
            finally:
                scene.close()
    except BrokerUnavailable as error:
        sys.exit(str(error))


def soak(scene: Scene) -> int:
    """Run, judge, and write what was found; return 0 if nothing leaks."""
    state = {"url": str(scene.folder / "state"), "snapshot_interval": "10s"}
    watched = [scene.start(name, **SETTINGS, state=state) for name in ("a", "b")]
    for instance in watched:
        instance.wait_ready(60)
    samples: list[tuple[float, list[dict[str, float]]]] = []
    begin, visit = time.monotonic(), SECONDS_BETWEEN_VISITS
    visitor: Instance | None = None
    with scene.feed(PER_SECOND, refused_every=50):
        while (now := time.monotonic() - begin) < SECONDS:
            samples.append((now, [_sample(instance) for instance in watched]))
            if now > visit:
                visit += SECONDS_BETWEEN_VISITS
                if visitor is None:
                    visitor = scene.start("c", **SETTINGS, state=state)
                else:
                    visitor.stop()
                    visitor = None
            time.sleep(1)
    scene.wait_done(60)
    judged = [s for s in samples if s[0] > WARM_UP * SECONDS]
    found, leaks = _judge(watched, judged)
    violations = [str(violation) for violation in check(scene.history())]
    records = len(scene.upstream.journal.sent)
    report = {"seconds": SECONDS, "records": records, "slopes_per_hour": found,
              "leaks": leaks, "violations": violations[:20]}  # fmt: skip
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 1 if leaks or violations else 0


def _judge(
    watched: Sequence[Instance], samples: Sequence[tuple[float, list[dict[str, float]]]]
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[str]]:
    times = [seconds for seconds, _ in samples]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    leaks = []
    for k, instance in enumerate(watched):
        of_instance = found[instance.name] = {}
        for name, limit in LIMITS.items():
            line = slope(times, [sample[k][name] for _, sample in samples])
            of_instance[name] = round(line.per_hour, 1), round(line.error, 1)
            if line.exceeds(limit):
                leaks.append(f"{instance.name}: {name} grows by {line.per_hour:.0f} an hour")
    return found, leaks


def _sample(instance: Instance) -> dict[str, float]:
    process = psutil.Process(instance.pid)
    return {
        "rss_bytes": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


if __name__ == "__main__":
    main()
