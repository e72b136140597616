"""
The fault plan: what a row is, and the list of all rows, those that cannot be made here included.

Ids: K are faults of a consumer's process, B of brokers, N of the network, G of the group, T of
clocks, M of the model, Q of the data, R of the schema registry, O of who observes, L of load; E
stands for what happens to the topics themselves, X for what a seed draws.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.cluster import Cluster, open_cluster
from tests.chaos.course import GUARANTEES, NAIVE, Act, Run

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"
STALE = frozenset({"LABELS_STALE"})
"""Flag that predictions may carry in a row that keeps a consumer from the label topic."""

Opener = Callable[[], AbstractContextManager[Cluster]]
"""What opens a cluster, and closes it at the end; rows with the same one share what it opened."""


@dataclass(frozen=True)
class Row:
    """
    A fault, and how it is brought about on a running group.

    `options` are those of `perform`; `cluster` opens the one that the row takes place on; `why_not`
    says why it is not made here.
    """

    id: str
    fault: str
    act: Act | None = None
    guarantees: Sequence[str] = GUARANTEES
    options: Mapping[str, Any] = field(default_factory=dict)
    cluster: Opener = open_cluster
    why_not: str = ""


ROWS: dict[str, Row] = {}


def row(
    id_: str, fault: str, *, guarantees: Sequence[str] = GUARANTEES,
    cluster: Opener = open_cluster, **options: Any,
) -> Callable[[Act], Act]:  # fmt: skip
    """Enter a function into the plan."""

    def enter(act: Act) -> Act:
        assert id_ not in ROWS, f"two rows are called {id_}"
        ROWS[id_] = Row(id_, fault, act, guarantees, options, cluster)
        return act

    return enter


def not_made(id_: str, fault: str, why: str) -> None:
    """Enter a row that cannot be made here."""
    assert id_ not in ROWS, f"two rows are called {id_}"
    ROWS[id_] = Row(id_, fault, why_not=why)


class Task(NamedTuple):
    """One run: which row, whose promise, and the seed; a row not made here has only its id."""

    id: str
    guarantee: str = ""
    seed: int = 0


def tasks(ids: Iterable[str], guarantees: Collection[str], seeds: Sequence[int]) -> Iterator[Task]:
    """Yield what is to be run of these rows."""
    for row in map(ROWS.__getitem__, ids):
        if row.act is None:
            yield Task(row.id)
            continue
        for guarantee in row.guarantees:
            if guarantee in guarantees:
                yield from (Task(row.id, guarantee, seed) for seed in seeds)


def left(planned: Iterable[Task], done: Iterable[Task], *, of_any_seed: bool) -> list[Task]:
    """Return what is planned and not done; if need be, with any seed."""
    known = {task[:2] if of_any_seed else task for task in done}
    return [task for task in planned if (task[:2] if of_any_seed else task) not in known]


def promised(run: Run) -> bool:
    """Whether the consumer under test is the one that promises something."""
    return run.guarantee != NAIVE
