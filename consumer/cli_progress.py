"""What a command shows: what it is doing, and then its answer, on a terminal or in a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

_WIDTH_OF_A_FILE: Final = 160


class Steps:
    """One step at a time, with a bar where it is known how much there is to do."""

    def __init__(self, bars: Progress) -> None:
        """`bars` are on the console of standard error."""
        self._bars: Final = bars
        self._running: TaskID | None = None

    def begin(self, text: str, total: int | None = None) -> None:
        """The step before is done, and this one begins; `total` is in records."""
        self.finish()
        self._running = self._bars.add_task(text, total=total)
        if not self._bars.console.is_terminal:
            self._bars.console.print(text)

    def at(self, done: int, total: int | None = None) -> None:
        """The step is so far."""
        if self._running is not None:
            self._bars.update(self._running, completed=done, total=total)

    def finish(self) -> None:
        """The step is done."""
        if self._running is not None:
            [task] = [task for task in self._bars.tasks if task.id == self._running]
            total = task.total or 1
            self._bars.update(self._running, completed=total, total=total)


def answer_console() -> Console:
    """Return where the answer goes: as wide as the terminal, or as no table is wider."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)


@contextmanager
def progress() -> Iterator[Steps]:
    """Yield the steps, and show the last as done when the command goes on after them."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        BarColumn(table_column=Column(ratio=1)), MofNCompleteColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        steps = Steps(bars)
        yield steps
        steps.finish()
