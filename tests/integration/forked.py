"""What a forked consumer does. Apart from the rest, because each fork imports this module."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait


def run_forked(arguments: list[str], log: str, changes: Sequence[str] = ()) -> None:
    """
    Be the command, with the log in place of both outputs; end when the test's process does.

    `changes` are names of what mutants.py does to it first.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    from consumer import cli  # noqa: PLC0415 - the fork server has loaded it

    if changes:
        from tests.integration import mutants  # noqa: PLC0415 - few are changed

        for change in changes:
            getattr(mutants, change)()
    cli.app(arguments)
