import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from audit.bill import bill
from audit.locks import LOCKS, read_lock

ROOT = Path(__file__).parents[2]
CLOSED = "http://127.0.0.1:1/v1/query"
PIN = "h11==0.16.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture
def known() -> list[dict[str, Any]]:
    """What the index of vulnerabilities below knows of h11."""
    return []


@pytest.fixture
def index(known) -> Iterator[str]:
    """An index with the API of osv.dev."""

    class Index(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            vulns = known if asked["package"]["name"] == "h11" else []
            answer = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(build: Path, *options: str) -> tuple[int, str]:
    """Run it; return exit code and all that it says."""
    run = subprocess.run(
        [sys.executable, "-m", "audit", "--build", str(build), *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def lock(tmp_path) -> str:
    """A lock of one package."""
    path = tmp_path / "one.lock"
    path.write_text(PIN)
    return str(path)


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_the_hashes_of_its_files(name):
    """So that an index cannot serve another file under a version's name."""
    pins = read_lock(ROOT / name)

    assert len(pins) > 30
    assert all(pin.sha256 for pin in pins)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("h11>=0.16.0\n", "pins no version"),
        ("h11==0.16.0\n", "h11 has no hash"),
        (PIN + "git+https://example.org/h11\n", "pins no version"),
        ("h11==0.16.0\n" + PIN.replace("h11", "h12"), "h11 has no hash"),
    ],
)
def test_a_loose_line_is_refused(tmp_path, text, fault):
    """One is enough to let anything in."""
    path = tmp_path / "loose.lock"
    path.write_text(text)

    with pytest.raises(ValueError, match=fault):
        read_lock(path)


def test_the_bill_lists_what_runs_in_production():
    """Each package of the lock, with its hashes and its licence."""
    pins = read_lock(ROOT / LOCKS[0])

    made = json.loads(bill(pins))

    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in made["components"]}
    assert parts.keys() == {pin.name for pin in pins}
    [licence] = parts["confluent-kafka"]["licenses"]
    assert "Apache" in licence["license"]["name"]
    assert re.fullmatch(r"pkg:pypi/numpy@[0-9.]+", parts["numpy"]["purl"])
    [pin] = [pin for pin in pins if pin.name == "cryptography"]
    assert {h["content"] for h in parts[pin.name]["hashes"]} == {*pin.sha256}


def test_every_package_of_production_that_is_here_states_a_licence():
    """Somebody must have said what may be done with it."""
    assert [p.name for p in read_lock(ROOT / LOCKS[0]) if p.licence == "unknown"] == []


def test_nothing_known_is_said_only_of_what_was_checked(tmp_path, index, lock):
    """And with exit code 0."""
    code, said = audit(tmp_path, "--lock", lock, "--osv-url", index)

    assert code == 0, said
    assert "known vulnerabilities: 0 in 1 packages that were checked" in said
    assert "NOT CHECKED" not in said
    assert (tmp_path / "sbom.cdx.json").exists()
    assert (tmp_path / "licences.tsv").read_text().splitlines()[1].startswith("h11\t0.16.0\tMIT")


def test_a_package_that_is_known_to_be_vulnerable_fails(tmp_path, index, lock, known):
    """With what is known, and the version that mends it."""
    versions = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.17.0"}]}]
    package = {"name": "h11", "ecosystem": "PyPI"}
    known.append(
        {
            "id": "PYSEC-2026-1", "summary": "s", "details": "d", "aliases": [],
            "affected": [{"package": package, "ranges": versions}],
        }
    )  # fmt: skip

    code, said = audit(tmp_path, "--lock", lock, "--osv-url", index)

    assert code == 1
    assert "VULNERABLE h11 0.16.0: PYSEC-2026-1, mended in 0.17.0" in said


def test_what_could_not_be_asked_is_not_passed(tmp_path, lock):
    """Offline, there is neither a green result nor a red one."""
    code, said = audit(tmp_path, "--lock", lock, "--osv-url", CLOSED)

    assert code == 75
    assert "known vulnerabilities: 0 in 0 packages that were checked" in said
    assert "NOT CHECKED" in said
    assert "one.lock: all 1 packages" in said


def test_a_package_for_another_platform_is_not_said_to_be_checked(tmp_path, index):
    """It is not looked up here, where nobody runs it, and that is said."""
    path = tmp_path / "elsewhere.lock"
    path.write_text(PIN + PIN.replace("h11==0.16.0", "h12==1 ; sys_platform == 'win32'"))

    code, said = audit(tmp_path, "--lock", str(path), "--osv-url", index)

    assert code == 0
    assert "0 in 1 packages that were checked" in said
    assert "not for this platform: h12 1 (sys_platform == 'win32')" in said
