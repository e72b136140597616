import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that has the switch")

CANARY = "canary-3f9c1d"
NOBODY = 65_534


def killed(folder: Path, before: str) -> int:
    """Let a process that may dump its core abort; return its wait status."""
    program = (
        "import os, resource;"
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1];"
        f"resource.setrlimit(resource.RLIMIT_CORE, (most, most)); {before}; os.abort()"
    )
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), sys.executable, "-c", program],
        {**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    return os.waitpid(pid, 0)[1]


def test_a_crash_leaves_no_core(tmp_path):
    """Where the machine would keep one, which shows all that the process knew."""
    if not resource.getrlimit(resource.RLIMIT_CORE)[1] or not os.WCOREDUMP(killed(tmp_path, "0")):
        pytest.skip("no process leaves a core dump here")

    private = "from consumer.adapters import private_memory as m; m.keep_memory_private()"

    assert not os.WCOREDUMP(killed(tmp_path, private))


def environment_seen_by_its_user(then: str) -> subprocess.CompletedProcess[str]:
    """Let a process of another user wait; return what that user's `cat` says of its variables."""
    program = (
        "import ctypes, os; from consumer.adapters.private_memory import keep_memory_private;"
        f"os.setgid({NOBODY}); os.setuid({NOBODY});"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0);"  # as it is after an exec
        f"{then}; print(flush=True); input()"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "SECRET": CANARY},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        read = subprocess.run(
            ["/bin/cat", f"/proc/{waiting.pid}/environ"], user=NOBODY, group=NOBODY, cwd="/",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        waiting.communicate("\n")
    return read


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user than its own")
def test_its_own_user_does_not_read_its_environment():
    """Who broke into another program of that user would have the password of the brokers."""
    refused = environment_seen_by_its_user("keep_memory_private()")

    assert CANARY in environment_seen_by_its_user("0").stdout
    assert refused.stdout == ""
    assert "Permission denied" in refused.stderr
