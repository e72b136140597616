"""
Known vulnerabilities of the locks, by pip-audit; and what it did not check, which is never passed.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences on what is known to be vulnerable, and on what could not be looked up."""

    checked: int = 0
    vulnerable: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def look_up(lock: Path, names: Sequence[str], osv_url: str | None = None) -> Findings:
    """
    Ask for each package of the lock, of which `names` are needed on this platform.

    pip-audit exits with 0 for packages that its source does not know, as for all of them behind an
    index of one's own; so its answer is read, and what is not in it is not checked.
    """
    service = ["-s", "osv", "--osv-url", osv_url] if osv_url else []
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--disable-pip"]
    options = ["--require-hashes", "--format", "json", "--progress-spinner", "off", *service]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        answers = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (run.stderr.strip().splitlines() or ["no answer"])[-1]
        return Findings(unchecked=[f"{lock.name}: all {len(names)} packages: {last}"])
    vulnerable, unchecked = [], []
    for answer in answers:
        if reason := answer.get("skip_reason"):
            unchecked.append(f"{lock.name}: {reason}")
        for known in answer.get("vulns", ()):
            mended = ", ".join(known["fix_versions"]) or "no version"
            name, version = answer["name"], answer["version"]
            vulnerable.append(f"{name} {version}: {known['id']}, mended in {mended}")
    silent = {*names} - {answer["name"] for answer in answers}
    unchecked += [f"{lock.name}: {name}: no answer" for name in sorted(silent)]
    return Findings(len(answers) - len(unchecked) + len(silent), vulnerable, unchecked)
