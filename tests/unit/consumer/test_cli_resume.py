import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from consumer import cli


def test_a_process_that_would_die_of_the_signal_is_not_sent_it():
    """SIGUSR1 ends whoever has no handler for it: any process but a consumer."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        result = CliRunner().invoke(cli.app, ["resume", str(other.pid)])

        assert result.exit_code == 78
        assert f"process {other.pid} is no running consumer of this host" in result.output
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may signal everybody")
def test_a_process_that_is_not_there_is_said_to_be_none():
    """The largest number is no process id."""
    result = CliRunner().invoke(cli.app, ["resume", str(2**22 + 1)])

    assert result.exit_code == 78
