"""`fraudstream resume`: the cause is gone, and a running consumer is told so."""

import os
import re
import signal
from pathlib import Path
from typing import Annotated

import typer

from consumer.errors import ConfigError


def resume(
    pids: Annotated[
        list[int], typer.Argument(min=1, help="Process ids of consumers; 1 in a container.")
    ],
) -> None:
    """
    Let consumers on this host go on with the partitions that they paused for too many dead letters.

    Each partition goes on with the record after its last dead letter, as it does after a restart.
    The consumer's log says `partition_resumed`, or pauses it again if the cause is still there.
    """
    for pid in pids:
        if not _listens(pid):
            raise ConfigError(f"process {pid} is no running consumer of this host")
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
        typer.echo(f"told process {pid}")


def _listens(pid: int) -> bool:
    """Say whether a process has a handler for the signal, which would end any other."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise ConfigError(f"process {pid} belongs to another user") from error
    status = Path(f"/proc/{pid}/status")
    if not status.exists():  # not Linux, where nobody can be asked
        return True
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)
