"""
Consumers with a defect, under the fault that makes it matter: verify must name what they break,
and must find nothing in a consumer without the defect under the same fault.
"""

import signal
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest

from tests.integration.harness import SLOW, Instance, Scene, eventually
from tests.integration.mutants import LARGEST_PREDICTION
from tests.integration.test_verify import verify
from tests.integration.traffic import Input

FROZEN = "frozen_with_a_batch_in_hand"
REFUSED_BY_BROKER = "refused_by_the_broker"
SMALL = {"batch": {"max_records": 50}}
PATIENT = {**SMALL, "kafka": {"session.timeout.ms": "20000"}}
"""A member that a busy machine makes late is not thrown out, which would mend some defects."""
ALO, EO = "at-least-once", "exactly-once"


@dataclass(frozen=True)
class Case:
    """A defect (none for the sound consumer), a fault, and the invariants that are broken."""

    guarantee: str
    fault: str
    defect: str = ""
    broken: tuple[str, ...] = ()
    quick: bool = False

    @property
    def name(self) -> str:
        return self.defect or f"sound, {self.fault or 'no fault'}, {self.guarantee}"


CASES = [
    Case(
        ALO, "killed_before_producing", "commits_before_it_publishes", ("no_loss", "offsets"), True
    ),
    Case(ALO, "killed_among_single_records", "commits_positions", ("no_loss", "offsets")),
    Case(EO, "refused_by_the_client", "drops_what_cannot_be_produced", ("no_loss",)),
    Case(ALO, REFUSED_BY_BROKER, "ignores_delivery_errors", ("no_loss",)),
    Case(EO, FROZEN, "commits_in_nobodys_name", ("no_repeat",)),
    Case(EO, "", "counts_labels_early", ("labels",)),
    Case(EO, "aborted_once", "keeps_state_of_failed_batches", ("alerts",), True),
    Case(EO, "aborted_once", "does_not_seek_back", ("no_loss",)),
    Case(EO, "timed_out_and_committed", "believes_that_time_outs_fail", ("no_repeat",), True),
    Case(EO, "", "truncates_dead_letters", ("dead_letters",)),
    Case(EO, "", "forgets_alerts", ("alerts",)),
    Case(EO, "", "scatters_cards", ("order",)),
    Case(ALO, "killed_before_committing", "scores_otherwise_each_time", ("no_repeat",)),
]
SOUND = [
    Case(guarantee, fault, quick=fault == "aborted_once")
    for guarantee, fault in sorted({(case.guarantee, case.fault) for case in CASES})
]


def ended(instance: Instance) -> bool:
    """Say whether a fault has struck that ends or stops the process."""
    if instance.exit_code is not None:
        return True
    return psutil.Process(instance.pid).status() == psutil.STATUS_STOPPED


def send(scene: Scene, fault: str) -> None:
    """Send payments, rubbish and labels; and what is refused, where that is the fault."""
    scene.upstream.send_mixed(400, refused_every=200, label_every=20)
    if fault.startswith("refused"):
        ids = dict.fromkeys(("transaction_id", "terminal_id"), "x" * 256)
        large = scene.upstream.traffic.payment(kind="CLEARING", **ids)
        scene.upstream.send(Input(large.key, large.value))
    scene.upstream.send_mixed(200)


def strike(scene: Scene, case: Case) -> None:
    """Run the consumer through the fault, and then until all is committed."""
    defects = (case.defect,) if case.defect else ()
    if case.fault == REFUSED_BY_BROKER:
        scene.limit(scene.topics.predictions, LARGEST_PREDICTION)
        scene.start(mutants=defects, **PATIENT)
        return
    faults = (case.fault,) if case.fault else ()
    is_missed = case.fault.startswith(("killed", "frozen"))
    first = scene.start(mutants=(*faults, *defects), **SMALL if is_missed else PATIENT)
    if case.fault.startswith("killed"):
        eventually(lambda: ended(first), 30, first.tail)
        scene.start(mutants=defects, **SMALL)
    elif case.fault == "aborted_once":
        eventually(lambda: first.events("batch_aborted"), 30, first.tail)
        push_on(scene)
    elif case.fault == FROZEN:
        eventually(lambda: ended(first), 30, first.tail)
        other = scene.start("other", mutants=defects, **SMALL)
        scene.wait_done()
        first.signal(signal.SIGCONT)
        eventually(lambda: first.total("assigned_partitions") == 2, 20, first.tail)
        eventually(lambda: other.total("assigned_partitions") == 2, 20, other.tail)


def push_on(scene: Scene) -> None:
    """Send until all is committed: what skips an aborted batch is only behind till more comes."""
    for _ in range(9):
        scene.upstream.send_mixed(60)
        with suppress(AssertionError):
            eventually(scene.done, 5)
            return


@pytest.mark.parametrize(
    ("case", "guarantee"),
    [
        pytest.param(case, case.guarantee, id=case.name)
        for case in (*CASES, *SOUND)
        if SLOW or case.quick
    ],
)
def test_verify_names_what_a_defect_breaks(real, scene, case):
    """With the defect: exit code 65, and the invariants by name; without it: all hold."""
    send(scene, case.fault)

    strike(scene, case)
    scene.wait_done()

    code, report = verify(scene)
    broken = {found["name"] for found in report["invariants"] if found["ok"] is False}
    assert code == (65 if case.broken else 0), report
    assert broken >= set(case.broken), report
    assert bool(broken) is bool(case.broken), report
