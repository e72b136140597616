"""What a run of the plan leaves: build/chaos.json, and the same as a table for readers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.course import NAIVE, Verdict

JSON, TABLE = Path("build/chaos.json"), Path("build/chaos.md")


@dataclass(frozen=True, kw_only=True)
class Result:
    """
    One run of a row; `ok` is None for a row that is not made here, and `note` says why.

    `lost` and `twice` are inputs without an outcome and with more than one; `wrong`, predictions on
    features that are not the log's; `exits`, processes that ended, by exit code or minus a signal.
    """

    id: str
    fault: str
    guarantee: str = ""
    seed: int = 0
    records: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    dead_letters: int = 0
    recovery_seconds: float | None = None
    ok: bool | None = None
    exits: Sequence[str] = ()
    violations: Sequence[str] = field(default=())
    note: str = ""


def judged(
    id_: str, fault: str, guarantee: str, seed: int, found: Verdict,
    recovery_seconds: float | None, exits: Iterable[tuple[str, int]],
) -> Result:  # fmt: skip
    """Return the line of a run: it is well when no rule is broken; naively, when all is once."""
    bad = found.violations or found.lost or found.wrong
    bad = bad or (found.twice and guarantee != "at-least-once")
    return Result(
        id=id_, fault=fault, guarantee=guarantee, seed=seed, records=found.records,
        lost=found.lost, twice=found.twice, wrong=found.wrong, dead_letters=found.dead_letters,
        recovery_seconds=recovery_seconds, ok=not bad,
        exits=[f"{name}: {code}" for name, code in exits], violations=found.violations[:20],
    )  # fmt: skip


def write(results: Sequence[Result]) -> None:
    """Write both files."""
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    TABLE.write_text(table(results))


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table: a line for each row, the guarantees beside each other."""
    head = (
        "| | fault | records | exactly-once: lost, twice | recovery | at-least-once: lost, twice"
        " | recovery | naive: lost, twice, wrong |\n|---|---|--:|--:|--:|--:|--:|--:|\n"
    )
    ids = list(dict.fromkeys(result.id for result in results))
    return head + "".join(_line([r for r in results if r.id == id_]) for id_ in ids)


def _line(results: Sequence[Result]) -> str:
    first = results[0]
    if first.ok is None:
        return f"| {first.id} | {first.fault} | | not made here: {first.note} | | | | |\n"
    cells = []
    for guarantee in ("exactly-once", "at-least-once"):
        runs = [r for r in results if r.guarantee == guarantee]
        lost, twice = sum(r.lost for r in runs), sum(r.twice for r in runs)
        seconds = max((r.recovery_seconds or 0 for r in runs), default=0)
        flaw = "" if all(r.ok for r in runs) else ", **not ok**"
        cells += [f"{lost}, {twice}{flaw}", f"{seconds:.1f} s"] if runs else ["", ""]
    runs = [r for r in results if r.guarantee == NAIVE]
    counts = [sum(getattr(r, name) for r in runs) for name in ("lost", "twice", "wrong")]
    cells.append(", ".join(map(str, counts)) if runs else "")
    records = sum(r.records for r in results)
    return f"| {first.id} | {first.fault} | {records:,} | {' | '.join(cells)} |\n"
