"""What the process has in memory, payments and secrets among it, is nobody else's to read."""

import ctypes
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def keep_memory_private() -> None:
    """
    Leave no core dump, and let no other process of our user read our memory or environment.

    Linux gives `/proc/<pid>/mem` and `environ` to root then (PR_SET_DUMPABLE, prctl(2)). Other
    systems have no such switch, and nothing is done there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
