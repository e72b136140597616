"""What a forked consumer does. Apart from the rest, because each fork imports this module."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

Program = Callable[[list[str]], None]
"""What a process runs, given the arguments of the command line."""


def run_forked(program: Program, arguments: list[str], log: str) -> None:
    """Be the program, with the log in place of both outputs; end when the test's process does."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    end_with_parent()
    program(arguments)


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def fraudstream(arguments: list[str]) -> None:
    """The command."""
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    cli.app(arguments)


def mutated(changes: Sequence[str], arguments: list[str]) -> None:
    """The command, after what functions of mutants.py with these names do to it."""
    from tests.integration import mutants  # noqa: PLC0415 - few are changed

    for change in changes:
        getattr(mutants, change)()
    fraudstream(arguments)
