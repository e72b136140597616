"""Where rows of the plan are performed: a process that has a cluster of its own."""

import tempfile
import time
import traceback
from contextlib import ExitStack
from multiprocessing.util import Finalize
from pathlib import Path

from tests.brokers import BrokerUnavailable
from tests.chaos import (  # noqa: F401 - importing them enters their rows
    NotMadeHere,
    access_faults,
    broker_faults,
    group_faults,
    load,
    network_faults,
    process_faults,
    random_faults,
    topic_faults,
)
from tests.chaos.cluster import Cluster
from tests.chaos.course import perform
from tests.chaos.network import leave_the_machine_s
from tests.chaos.plan import ROWS, Opener, Task
from tests.chaos.report import Result, judged
from tests.integration.forked import end_with_parent


class Stage:
    """The cluster of this process: opened when it is needed, and again after a row broke it."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._opener: Opener | None = None
        self._cluster: Cluster | None = None

    def cluster(self, opener: Opener) -> Cluster:
        """Return what it opens, once another one is closed. Raises BrokerUnavailable."""
        if self._opener is not opener:
            self.close()
        if self._cluster is None:
            self._cluster = self._opened.enter_context(opener())
            self._opener = opener
        return self._cluster

    def close(self) -> None:
        """End the brokers."""
        self._cluster = None
        self._opened.close()


_STAGE = Stage()
Finalize(None, _STAGE.close, exitpriority=10)  # a process of a pool ends without atexit


def enter() -> None:
    """Be a process of the stage, with a network of its own where it may have one."""
    end_with_parent()
    leave_the_machine_s()


def play(task: Task, folder: str, commit: str) -> Result:
    """
    Perform a row. What goes wrong with the stage itself is a run that is not ok, and ends no other.

    Raises BrokerUnavailable.
    """
    row, begin = ROWS[task.id], time.monotonic()
    if row.act is None:
        return Result(id=row.id, fault=row.fault, commit=commit, note=row.why_not)
    scene = Path(tempfile.mkdtemp(prefix=f"{row.id.lower()}-", dir=folder))
    try:
        cluster = _STAGE.cluster(row.cluster)
        run, found = perform(
            cluster, scene, Path(folder, "model"), row.act, task.guarantee, task.seed, **row.options
        )
        cluster.make_whole()
    except BrokerUnavailable:
        raise
    except NotMadeHere as lack:
        return Result(id=row.id, fault=row.fault, commit=commit, note=str(lack))
    except Exception as fault:  # noqa: BLE001 - the rows after it are performed all the same
        traceback.print_exc()
        _STAGE.close()
        return Result(
            id=row.id, fault=row.fault, guarantee=task.guarantee, seed=task.seed, commit=commit,
            ok=False, violations=[f"not judged: {type(fault).__name__}: {fault}"[:2_000]],
        )  # fmt: skip
    return judged(
        row.id, row.fault, task.guarantee, task.seed, commit, found, run.recovery_seconds,
        run.exits, time.monotonic() - begin,
    )  # fmt: skip
