"""Rows B13: rights are taken away, passwords rotated, certificates expire."""

import time
from datetime import timedelta

from consumer.adapters.access import Right
from tests.chaos.cluster import GuardedCluster, open_guarded_cluster
from tests.chaos.course import Run
from tests.chaos.plan import STALE, promised, row
from tests.integration.guarded import SECRET, Way, binding, needed
from tests.integration.harness import eventually

NAMES = ("a", "b")
AWAY_SECONDS = 5.0
DENIED, UNREACHED, REFUSED = 70, 75, 78


def guarded_cluster(run: Run) -> GuardedCluster:
    """Return the cluster of these rows."""
    assert isinstance(run.cluster, GuardedCluster)
    return run.cluster


def begin(run: Run, way: Way) -> list[Right]:
    """Start instances that come in this way, with the rights that they need; return those."""
    run.settings["kafka"].update(way.properties)
    least = needed(run.scene, way)
    guarded_cluster(run).guarded.allow([binding(right, way.principal) for right in least])
    run.start(*NAMES)
    run.go_on(100)
    return least


def codes(run: Run, name: str) -> list[int]:
    """Return the exit codes of an instance up to now."""
    return [code for of, code in run.exits if of == name]


def is_ready(run: Run, name: str) -> bool:
    """Say whether /readyz says so; nobody answers for a process that is gone."""
    try:
        return run[name].ready()
    except OSError:
        return False


def says(run: Run, name: str, sentence: str) -> None:
    """Expect the log of an instance to say it."""
    told = any(sentence in line for line in run[name].lines())
    run.expect(holds=told, what=f"{name} does not say {sentence!r}")


def restart(run: Run) -> None:
    """Be the operator: a naive consumer that is refused waits, and may do so for minutes more."""
    for name in NAMES:
        code = run.stop(name, 25)
        run.expect(holds=code in {0, UNREACHED, REFUSED}, what=f"{name} ended with {code}")
        run.start(name)


@row(
    "B13", "rights taken away, one after the other, and given back",
    cluster=open_guarded_cluster, instances=(), allowed=STALE,
)  # fmt: skip
def take_rights(run: Run) -> None:
    """Of the outputs one is drawn; a start without the right is refused until it is back."""
    guarded, topics = guarded_cluster(run).guarded, run.scene.topics
    guarded.set_password(SECRET)
    way = guarded.scram()
    output = run.draw.choice(topics.outputs) if promised(run) else topics.predictions
    spared = {*topics.outputs, topics.labels} - {output}
    for right in begin(run, way):
        if right.name in spared:
            continue
        run.tell(f"without {right.operation} on {right.resource} {right.name}")
        if promised(run):
            eventually(lambda: all(is_ready(run, name) for name in NAMES), 30, run.tails)
        before = {name: len(codes(run, name)) for name in NAMES}
        guarded.forbid([binding(right, way.principal)])
        try:
            if promised(run):
                endure(run, before, right.sentence(way.principal))
            else:
                time.sleep(AWAY_SECONDS)
        finally:
            guarded.allow([binding(right, way.principal)])
        if not promised(run):
            restart(run)
        run.go_on(20)


def endure(run: Run, before: dict[str, int], sentence: str) -> None:
    """Expect that the lack is named, ends what runs, refuses what starts, and lets nothing by."""
    for name, count in before.items():
        run.wait_exit(name, count + 2)
        ended, *refused = codes(run, name)[count:]
        run.expect(holds=ended == DENIED, what=f"{name} ended with {ended}, not {DENIED}")
        run.expect(holds={*refused} == {REFUSED}, what=f"starts of {name} ended with {refused}")
        says(run, name, sentence)
    committed = run.scene.committed()
    until = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < until:
        ready = [name for name in NAMES if is_ready(run, name)]
        run.expect(holds=not ready, what=f"{ready} ready without the right")
        time.sleep(0.2)
    run.expect(holds=run.scene.committed() == committed, what="records were passed over")


@row(
    "B13b", "the password is rotated, and instances have to log in again with the old one",
    cluster=open_guarded_cluster, instances=(), allowed=STALE,
)  # fmt: skip
def rotate_password(run: Run) -> None:
    """Who runs waits, who starts is refused; the operator restarts them with the new one."""
    cluster = guarded_cluster(run)
    old, new = (f"{run.draw.getrandbits(64):x}" for _ in range(2))
    cluster.guarded.set_password(old)
    begin(run, cluster.guarded.scram(old))
    cluster.guarded.set_password(new)
    run.go_on(60)  # who is in stays in
    cluster.break_off()
    if promised(run):
        eventually(lambda: not any(is_ready(run, name) for name in NAMES), 90, run.tails)
        run.expect(holds=not run.exits, what=f"instances ended: {run.exits}")
        says(run, "a", '"code": "_AUTHENTICATION"')
        run.kill("b")
        code = run.wait_exit("b", 2)
        run.expect(holds=code == REFUSED, what=f"a start ended with {code}, not {REFUSED}")
        says(run, "b", "the brokers refuse our credentials, those of User:scorer,")
    else:
        time.sleep(AWAY_SECONDS)
    run.settings["kafka"].update(cluster.guarded.scram(new).properties)
    restart(run)


@row(
    "B13c", "the certificate of the instances expires, and is renewed",
    cluster=open_guarded_cluster, instances=(), allowed=STALE,
    delivery={"outage_limit": "10s"},
)  # fmt: skip
def expire(run: Run) -> None:
    """Who runs gives up after the limit, who starts is refused until the file is a new one."""
    cluster = guarded_cluster(run)
    authority, name = cluster.guarded.authority, run.scene.folder.name
    certificate = authority.issue(name, password=SECRET)
    since = time.monotonic()
    begin(run, cluster.guarded.mtls(certificate))
    valid = timedelta(seconds=10 + 2 * (time.monotonic() - since))  # as slow as it is here and now
    until = time.monotonic() + valid.total_seconds()
    authority.issue(name, valid=valid, password=SECRET)
    restart(run)
    run.go_on(60)
    assert time.monotonic() < until, "it expired before the instances were in full swing"
    time.sleep(until - time.monotonic() + 1)
    before = {instance: len(codes(run, instance)) for instance in NAMES}
    run.go_on(60)  # who is in stays in
    cluster.break_off()
    if promised(run):
        for instance in NAMES:
            code = run.wait_exit(instance, before[instance] + 1)
            run.expect(holds=code == UNREACHED, what=f"it ended with {code}, not {UNREACHED}")
            eventually(lambda name=instance: REFUSED in codes(run, name), 40, run.tails)
            says(run, instance, f"(our certificate {certificate} was valid until")
    else:
        time.sleep(AWAY_SECONDS)
    authority.issue(name, password=SECRET)
    if not promised(run):
        restart(run)
