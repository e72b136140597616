"""What a run of the plan leaves: build/chaos.json, and the same as a table for readers."""

import json
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.course import NAIVE, Verdict
from tests.chaos.plan import Task

JSON, TABLE = Path("build/chaos.json"), Path("build/chaos.md")


@dataclass(frozen=True, kw_only=True)
class Result:
    """
    One run of a row; `ok` is None for a row that is not made here, and `note` says why.

    `lost` and `twice` are inputs without an outcome and with more than one; `wrong`, predictions on
    features that are not the log's; `exits`, processes that ended, by exit code or minus a signal.
    `checked` names the rules that judged it: none if it could not be judged. `seconds` is what the
    run took, `commit` what was checked out.
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
    checked: Sequence[str] = ()
    note: str = ""
    seconds: float = 0.0
    commit: str = ""

    @property
    def task(self) -> Task:
        """What one commit has one line of."""
        return Task(self.id, self.guarantee, self.seed)

    def __str__(self) -> str:
        """Return what is said of a run when it ends."""
        if self.ok is None:
            return f"{self.id:4} not made here: {self.note}"
        said = (
            f"{self.id:4} {self.guarantee:13} {'ok' if self.ok else 'NOT OK':6} {self.records:6}"
            f" records, lost {self.lost}, twice {self.twice}, wrong {self.wrong}, recovery"
            f" {self.recovery_seconds} s, exits {list(self.exits)}, took {self.seconds:.0f} s,"
            f" seed {self.seed}: {self.fault}"
        )
        shown = self.violations if self.guarantee != NAIVE else ()
        return "\n     ".join((said, *shown))


def commit() -> str:
    """Return what is checked out, with -dirty where files differ from it; nothing without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def judged(
    id_: str, fault: str, guarantee: str, seed: int, at: str, found: Verdict,
    recovery_seconds: float | None, exits: Iterable[tuple[str, int]], seconds: float,
) -> Result:  # fmt: skip
    """Return the line of a run: it is well when no rule is broken; naively, when all is once."""
    bad = found.violations or found.lost or found.wrong
    bad = bad or (found.twice and guarantee != "at-least-once")
    return Result(
        id=id_, fault=fault, guarantee=guarantee, seed=seed, records=found.records,
        lost=found.lost, twice=found.twice, wrong=found.wrong, dead_letters=found.dead_letters,
        recovery_seconds=recovery_seconds, ok=not bad,
        exits=[f"{name}: {code}" for name, code in exits], violations=found.violations[:20],
        checked=found.checked,
        seconds=round(seconds, 1), commit=at,
    )  # fmt: skip


def merged(results: Sequence[Result], new: Result) -> list[Result]:
    """Return the results with a new one, in place of its own line and of other commits' ones."""

    def stays(old: Result) -> bool:
        if (old.id, old.guarantee) != (new.id, new.guarantee):
            return True
        return old.commit == new.commit and old.seed != new.seed

    return [*filter(stays, results), new]


def read() -> list[Result]:
    """Return what earlier runs wrote."""
    if not JSON.exists():
        return []
    return [Result(**line) for line in json.loads(JSON.read_text())]


def write(results: Sequence[Result]) -> None:
    """Write both files; one that is there is replaced at once, and never half."""
    JSON.parent.mkdir(exist_ok=True)
    lines = json.dumps([asdict(result) for result in results], indent=1) + "\n"
    said = "\n".join((rules(results), table(results), seeds(results), _commits(results)))
    for path, text in ((JSON, lines), (TABLE, said)):
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)


def _commits(results: Sequence[Result]) -> str:
    """Say which rows are of which commit."""
    made = [result for result in results if result.ok is not None]
    ids = {at: dict.fromkeys(r.id for r in made if r.commit == at) for at in
           dict.fromkeys(result.commit for result in made)}  # fmt: skip
    return "".join(f"Commit {at or 'unknown'}: {', '.join(of)}.\n" for at, of in ids.items())


def rules(results: Sequence[Result]) -> str:
    """Say which rules judged our runs, and which of them did not judge those of some rows."""
    ours = [result for result in results if result.checked and result.guarantee != NAIVE]
    names = dict.fromkeys(name for result in ours for name in result.checked)
    rows_by_lack: dict[tuple[str, ...], list[str]] = {}
    for id_ in dict.fromkeys(result.id for result in ours):
        runs = [result.checked for result in ours if result.id == id_]
        lack = tuple(name for name in names if any(name not in checked for checked in runs))
        rows_by_lack.setdefault(lack, []).append(id_)
    told = [
        f"Not of {', '.join(ids)}: {_names(lack)}.\n" for lack, ids in rows_by_lack.items() if lack
    ]
    return "".join([f"Checked: {_names(names)}.\n", *told]) if names else ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def seeds(results: Sequence[Result]) -> str:
    """Say which seeds the rows were run with."""
    seeds_by_row: dict[str, set[int]] = {}
    for result in results:
        if result.ok is not None:
            seeds_by_row.setdefault(result.id, set()).add(result.seed)
    rows_by_seeds: dict[tuple[int, ...], list[str]] = {}
    for id_, of in seeds_by_row.items():
        rows_by_seeds.setdefault(tuple(sorted(of)), []).append(id_)
    return "".join(
        f"Seed{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {', '.join(ids)}.\n"
        for of, ids in rows_by_seeds.items()
    )


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
