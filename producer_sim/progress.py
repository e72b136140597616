"""How far a simulation is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from producer_sim.publish import Status
from producer_sim.timeline import FOREVER

Report = Callable[[Status], None]

_LINE_SECONDS: Final = 5.0
_STARTING: Final = "loading the payments (drawn the first time, which takes some 10 s)"


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """Show what is reported while the context lasts: a bar if the console is a terminal."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("payments"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(_STARTING, total=None)

        def report(status: Status) -> None:
            bar.update(
                task,
                description=_doing(status),
                completed=status.done.payments,
                total=status.total.payments,
            )

        yield report


def clock_text(microseconds: int) -> str:
    """Write a time on the payments' clock, in UTC."""
    if microseconds == FOREVER:
        return "the end"
    return f"{datetime.fromtimestamp(microseconds // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def _doing(status: Status) -> str:
    return (
        f"waiting for {status.waiting_for}" if status.waiting_for else clock_text(status.next_time)
    )


class _Lines:
    """Prints a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_at = time.monotonic()
        self._printed_payments = 0
        self._print(_STARTING)

    def __call__(self, status: Status) -> None:
        elapsed_seconds = time.monotonic() - self._printed_at
        if elapsed_seconds < _LINE_SECONDS:
            return
        done, total = status.done, status.total
        rate = (done.payments - self._printed_payments) / elapsed_seconds
        self._print(
            f"{_doing(status)}: {done.payments:,} of {total.payments:,} payments, "
            f"{done.labels:,} of {total.labels:,} labels, {rate:,.0f} payments/s"
        )
        self._printed_at += elapsed_seconds
        self._printed_payments = done.payments

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)
