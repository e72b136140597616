"""The lock files, read as pip reads them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

LOCKS: Final = ("requirements.lock", "requirements-dev.lock")
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==([^ ;\\]+)(?: *; *([^\\]+?))? *\\?")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64}) *\\?")
_LONGEST_LICENCE: Final = 60


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock: the one version, the files it may come as, and where it is needed."""

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]

    @property
    def licence(self) -> str:
        """What the installed package states of its licence; empty where it is not installed."""
        try:
            stated: Any = distribution(self.name).metadata  # of email.message
        except PackageNotFoundError:
            return ""
        expression: str = stated.get("License-Expression") or ""
        classified = ", ".join(
            line.rpartition(" :: ")[2]
            for line in stated.get_all("Classifier", [])
            if line.startswith("License :: ") and line != "License :: OSI Approved"
        )
        text = (stated.get("License") or "").strip()
        short = text if len(text) <= _LONGEST_LICENCE and "\n" not in text else ""
        return expression or classified or short or "unknown"


def read_lock(path: Path) -> list[Pin]:
    """Return the pins. Raises ValueError for a line that pins no version or allows any file."""
    return list(_pins(path, path.read_text("utf-8").splitlines()))


def _pins(path: Path, lines: Iterable[str]) -> Iterator[Pin]:
    pin: re.Match[str] | None = None
    hashes: list[str] = []
    for line in [*(text.strip() for text in lines), ""]:
        if line.startswith("#"):
            continue
        if found := _HASH.fullmatch(line):
            hashes.append(found[1])
            continue
        if pin is not None:
            if not hashes:
                raise ValueError(f"{path}: {pin[1]} has no hash; run `make lock`")
            yield Pin(pin[1], pin[2], pin[3] or "", tuple(hashes))
        pin, hashes = _PIN.fullmatch(line), []
        if line and pin is None:
            raise ValueError(f"{path}: {line!r} pins no version; run `make lock`")
