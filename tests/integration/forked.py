"""What a forked consumer does. Apart from the rest, because each fork imports this module."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def run_forked(arguments: list[str], log: str) -> None:
    """Be the command, with the log in place of both outputs; end when the test's process does."""
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

    cli.app(arguments)
