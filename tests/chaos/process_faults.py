"""Rows K: a consumer's process is killed, stopped, starved, or runs out of something."""

import signal
import time
from functools import partial
from pathlib import Path

import psutil

from consumer.adapters.model_bundle import load_bundle
from tests.chaos.course import Run
from tests.chaos.failpoints import (
    Failpoint,
    Point,
    run_with_full_log,
    run_with_small_files,
    run_within_memory,
)
from tests.chaos.plan import AT_LEAST_ONCE, EXACTLY_ONCE, STALE, promised, row
from tests.integration.bundle import write_model
from tests.integration.harness import eventually
from tests.integration.proxy import END_TXN, OFFSET_COMMIT, Fate

OURS = (EXACTLY_ONCE, AT_LEAST_ONCE)
NTH = (1, 20)
"""At which time a point is reached a process dies there: at once, and in full swing."""
STAGES: dict[str, tuple[str, Point]] = {
    "K1": ("killed after consume", "after-consume"),
    "K2": ("killed after decode", "after-decode"),
    "K3": ("killed after features", "after-features"),
    "K4": ("killed after score", "after-score"),
    "K5": ("killed mid-produce", "mid-produce"),
    "K6": ("killed after the last produce", "after-produce"),
    "K7": ("killed before its offsets are sent", "before-offsets"),
    "K8": ("killed after its offsets are sent", "after-offsets"),
    "K10": ("killed after commit, before state is settled", "after-commit"),
}


def die_at(point: Point, run: Run) -> None:
    """Let one of two instances die at a point, and its successors at later times."""
    for count, nth in enumerate(NTH, start=1):
        if count == 1:
            run.remove("a")
        run.start("a", strike=Failpoint(point, "kill", nth))
        run.wait_exit("a", count)
        if count < len(NTH):
            run.remove("a")


for id_, (fault, point) in STAGES.items():
    row(id_, f"{fault}, twice")(partial(die_at, point))


def die_while_committing(times: int, run: Run) -> None:
    """Kill both instances when the answer to a commit is on its way, and will not arrive."""
    api_key = END_TXN if run.guarantee == EXACTLY_ONCE else OFFSET_COMMIT
    for _ in range(times):
        with run.cluster.fault(api_key, Fate.UNANSWERED, times=1) as faults:
            eventually(lambda: any(fault.hits for fault in faults), 20)
            run.kill("a")
            run.kill("b")
        run.go_on(20)


row("K9", "killed with the commit sent and its answer unread, three times", guarantees=OURS)(
    partial(die_while_committing, 3)
)


@row("K11", "killed while its partitions are taken", guarantees=OURS, instances=("b",))
def die_on_revoke(run: Run) -> None:
    run.start("a", strike=Failpoint("on-revoke", "kill"))
    eventually(lambda: run["a"].total("assigned_partitions") == 2, 30, run.tails)
    run.start("c", "d")  # of four members each has one partition, so that `a` must give one
    run.wait_exit("a")


@row("K12", "killed while it takes partitions and restores them", guarantees=OURS)
def die_on_assign(run: Run) -> None:
    run.remove("a")
    for count, (point, nth) in enumerate((("on-assign", 1), ("on-restore", 1), ("on-restore", 2))):
        run.start("a", strike=Failpoint(point, "kill", nth))
        run.wait_exit("a", count + 1)
        if count < 2:
            run.remove("a")


@row(
    "K13", "a rolling change of models: killed as it loads the new one, and in commits after it",
    guarantees=OURS,
)  # fmt: skip
def change_models(run: Run) -> None:
    """
    Each prediction is judged by the model that it names; for a while both of them serve. One that
    follows another may raise an alert again, and leaves none out.
    """
    new = run.scene.folder / "new-model"
    write_model(new, seed=1)
    run.scene.bundles.append(new)
    for name in ("a", "b"):
        change_model(run, name, new)
        die_while_committing(1, run)
    run.go_on(60)


def change_model(run: Run, name: str, bundle: Path) -> None:
    """Stop an instance, and let it die in the load of another model before it serves that."""
    run.stop(name)
    ended = sum(of == name for of, _ in run.exits)
    run.start(name, strike=Failpoint("in-load", "kill"), model={"path": str(bundle)})
    run.wait_exit(name, ended + 1)
    eventually(lambda: run[name].answers("/readyz"), 60, run.tails)
    version = load_bundle(bundle, allow_pickle=False).identity.version
    serves = run[name].total("model_info", f'model_version="{version}"')
    run.expect(holds=serves == 1, what=f"{name} does not serve the new model")
    run.go_on(60)


@row("K14", "killed while it drains after SIGTERM", guarantees=OURS)
def die_in_drain(run: Run) -> None:
    run.remove("a")
    instance = run.start("a", strike=Failpoint("in-drain", "kill"))
    eventually(lambda: instance.total("predictions_committed_total") > 50, 30, run.tails)
    instance.signal(signal.SIGTERM)
    run.expect(holds=run.wait_exit("a") == -signal.SIGKILL, what="it did not die in its drain")


@row("K15", "SIGTERM under load")
def terminate(run: Run) -> None:
    for _ in range(3):
        code = run.stop("a")
        run.expect(holds=code == 0, what=f"SIGTERM ended it with {code}, not 0")
        again = run.start("a")
        run.go_on(20)
        if promised(run):
            again.wait_ready()


@row("K16", "SIGTERM while every broker is away", guarantees=OURS, allowed=STALE)
def terminate_without_brokers(run: Run) -> None:
    for node in run.cluster.nodes:
        node.pause()
    try:
        time.sleep(1)
        begin = time.monotonic()
        code = run.stop("a", within_seconds=20)
        seconds = time.monotonic() - begin
    finally:
        for node in run.cluster.nodes:
            node.resume()
    run.expect(holds=code in {0, 75}, what=f"it ended with {code}: 0 if all is committed, or 75")
    run.expect(holds=seconds < 12, what=f"it took {seconds:.1f} s to end")
    run.start("a")


@row("K17", "SIGSTOP for less than the session, five times")
def stop_briefly(run: Run) -> None:
    for _ in range(5):
        run["a"].signal(signal.SIGSTOP)
        time.sleep(0.8)
        run["a"].signal(signal.SIGCONT)
        run.go_on(20)


@row("K18", "SIGSTOP in a batch, beyond session and transaction time-out: a zombie wakes up")
def stop_long(run: Run) -> None:
    run.remove("a")
    run.start("a", strike=Failpoint("after-produce", "stop", 10))
    zombie = psutil.Process(run["a"].pid)
    eventually(lambda: zombie.status() == psutil.STATUS_STOPPED, 30)
    time.sleep(7.5)
    run["a"].signal(signal.SIGCONT)
    run.go_on(20)


@row("K19", "out of memory: an allocation fails in scoring, again and again", guarantees=OURS)
def no_memory(run: Run) -> None:
    run.remove("a")
    run.start("a", strike=Failpoint("after-features", "no-memory", 60, times=1_000))
    code = run.wait_exit("a")
    run.expect(holds=code == 70, what=f"it ended with {code}, not 70")


@row("K19b", "out of memory: RLIMIT_AS leaves 4 MB", guarantees=OURS)
def little_memory(run: Run) -> None:
    run.remove("a")
    run.start("a", program=partial(run_within_memory, 4 << 20, 10))
    run.go_on(200)
    run.kill("a")


@row("K20", "starved: it runs 5 % of the time, and a thread holds the GIL for 3 s")
def starve(run: Run) -> None:
    run.remove("a")
    run.start("a", strike=Failpoint("after-decode", "hog", 5, seconds=3.0))
    run.go_on(20)
    for _ in range(8):
        run["a"].signal(signal.SIGSTOP)
        time.sleep(0.95)
        run["a"].signal(signal.SIGCONT)
        time.sleep(0.05)


@row("K21", "no file descriptor is left while brokers are cut off", guarantees=OURS, allowed=STALE)
def no_descriptors(run: Run) -> None:
    process = psutil.Process(run["a"].pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (8, hard))
    run.cluster.reset("fraudstream-a")
    time.sleep(5)
    if process.is_running() and run["a"].pid == process.pid:
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


@row("K21b", "the disk for snapshots is full", guarantees=OURS)
def no_room_for_snapshots(run: Run) -> None:
    """Its log ends there as well, so that it has a new one, in which its port is told."""
    run.remove("a")
    state = {"url": str(run.scene.folder / "state"), "snapshot_interval": "200ms"}
    run.start("c", program=partial(run_with_small_files, 2_000), state=state)
    eventually(lambda: run["c"].total("snapshots_total", 'result="failed"') > 3, 40, run.tails)
    run.go_on(100)
    run.kill("c")


@row("K21c", "the disk for the log is full", guarantees=OURS)
def no_room_for_log(run: Run) -> None:
    run.remove("b")
    run.remove("a")
    run.start("a", program=run_with_full_log)
    run.go_on(200)
    run.start("b")
    run.go_on(100)
    codes = [code for name, code in run.exits if name == "a"]
    run.expect(holds=not codes, what=f"it ended with {codes}")
