"""Row X: whatever the seed draws, one thing after the other and some of them at the same time."""

import signal
import threading
import time
from collections.abc import Callable

from tests.chaos.course import Run
from tests.chaos.plan import STALE, row

ROUNDS = 8
MOST_SECONDS = 4.0


def kill(run: Run, name: str) -> None:
    """SIGKILL to an instance."""
    run.kill(name)


def stop(run: Run, name: str) -> None:
    """SIGSTOP to an instance, for less or for more than its session."""
    instance = run[name]
    instance.signal(signal.SIGSTOP)
    time.sleep(run.draw.uniform(0.1, MOST_SECONDS))
    instance.signal(signal.SIGCONT)


def terminate(run: Run, name: str) -> None:
    """SIGTERM to an instance; it comes back."""
    run[name].signal(signal.SIGTERM)


def restart_broker(run: Run, _: str) -> None:
    """SIGKILL to a broker, and its restart."""
    run.draw.choice(run.cluster.nodes).restart()


def freeze_broker(run: Run, _: str) -> None:
    """SIGSTOP to a broker for a while."""
    node = run.draw.choice(run.cluster.nodes)
    if node.alive:
        node.pause()
        time.sleep(run.draw.uniform(0.1, MOST_SECONDS))
        node.resume()


def cut(run: Run, name: str) -> None:
    """Cut an instance off from all brokers or from one."""
    some = run.draw.choice([(), (run.draw.choice(run.cluster.members),)])
    with run.cluster.weather(f"fraudstream-{name}", at=some, cut=True):
        time.sleep(run.draw.uniform(0.1, MOST_SECONDS))


def slow_down(run: Run, name: str) -> None:
    """Let each message of an instance take longer."""
    seconds = run.draw.uniform(0.01, 0.2)
    with run.cluster.weather(f"fraudstream-{name}", delay_seconds=lambda: seconds):
        time.sleep(MOST_SECONDS)


def reset(run: Run, name: str) -> None:
    """Reset an instance's connections."""
    run.cluster.reset(f"fraudstream-{name}")


FAULTS: tuple[Callable[[Run, str], None], ...] = (
    kill, stop, terminate, restart_broker, freeze_broker, cut, slow_down, reset,
)  # fmt: skip


@row("X1", "eight rounds of one or two faults that the seed draws", allowed=STALE)
def at_random(run: Run) -> None:
    for _ in range(ROUNDS):
        faults = run.draw.sample(FAULTS, run.draw.choice((1, 2)))
        # Two faults strike different instances, and at most one of them brokers.
        if {restart_broker, freeze_broker} <= set(faults):
            faults.pop()
        names = run.draw.sample(("a", "b"), len(faults))
        told = [f"{fault.__name__} {name}" for fault, name in zip(faults, names, strict=True)]
        run.tell(" + ".join(told))
        threads = [
            threading.Thread(target=fault, args=(run, name))
            for fault, name in zip(faults, names, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        run.go_on(10, within_seconds=90)
