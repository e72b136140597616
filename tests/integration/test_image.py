"""The image and the stack of docker-compose.yml, where Docker was asked for."""

import json
import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Rung, choose_for_tests
from tests.integration.conftest import free_port
from tests.integration.harness import eventually

ROOT = Path(__file__).parents[2]
DOCKER = shutil.which("docker") or "docker"
CANARY = "canary-3f9c1d"
PAYMENTS_OF_HISTORY = 354_211
WHAT_ALL_SHOW = "for p in /proc/[0-9]*; do cat $p/cmdline $p/environ 2>/dev/null; done; true"


def docker(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Docker's in the repository."""
    return subprocess.run(
        [DOCKER, *map(str, arguments)], cwd=ROOT, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=1_500, check=False,
    )  # fmt: skip


def output(*arguments: object, **variables: str) -> str:
    """Return what a command of Docker's prints; it must succeed."""
    done = docker(*arguments, **variables)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """The image of what stands here, built where it is not in Docker's cache."""
    if choose_for_tests().rung is not Rung.DOCKER:
        pytest.skip("make test-docker runs it")
    output("compose", "build", "--quiet")
    return "fraudstream"


@pytest.fixture
def consumer(image: str, bundle: Path, tmp_path: Path) -> Iterator[str]:
    """A container that may do as little as README says, with a password in a file."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "sasl.password").write_text(CANARY)
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA__SECURITY_PROTOCOL": "sasl_plaintext",
        "KAFKA__SASL_MECHANISM": "PLAIN",
        "KAFKA__SASL_USERNAME": "scorer",
        "SECURITY__SECRETS_DIR": "/run/secrets/fraudstream",
    }
    name = f"fraudstream-test-{uuid.uuid4().hex[:8]}"
    output(
        "run", "--detach", "--init", "--name", name, "--read-only", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", f"--volume={bundle}:/var/lib/fraudstream/model:ro",
        f"--volume={secrets}:/run/secrets/fraudstream:ro",
        *(f"--env=FRAUDSTREAM_{key}={value}" for key, value in variables.items()), image,
    )  # fmt: skip
    yield name
    docker("rm", "--force", "--volumes", name)


def test_nobody_in_the_container_reads_what_the_consumer_knows(consumer):
    """
    Whoever gets a shell there, as the image's user, is refused its memory and its environment, and
    finds the password, which is in a file, in no process's environment or command line.
    """

    def asked(command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", consumer, "sh", "-c", command)

    pid = eventually(lambda: asked("grep -lx fraudstream /proc/[0-9]*/comm").stdout, 30)
    pid = pid.split("/")[2]
    eventually(lambda: asked(f"cat /proc/{pid}/environ").returncode, 60)

    for file in ("environ", "mem", "maps"):
        refused = asked(f"cat /proc/{pid}/{file}")
        assert refused.stdout == ""
        assert "Permission denied" in refused.stderr
    shown = asked(WHAT_ALL_SHOW).stdout
    assert "fraudstream\0run\0" in shown
    assert "SASL_USERNAME=scorer" in shown, "others in the container have its variables"
    assert CANARY not in shown


@pytest.fixture
def stack(image: str) -> Iterator[dict[str, str]]:
    """Variables that make a stack of this test alone, which is taken down after it."""
    name = f"fraudstream-test-{uuid.uuid4().hex[:8]}"
    variables = {"COMPOSE_PROJECT_NAME": name, "METRICS_PORT": str(free_port())}
    yield variables
    docker("compose", "down", "--volumes", **variables)


def test_the_stack_scores_stops_and_goes_on(stack):
    """As README says: up, stop, up again; what it did in both lives holds."""
    output("compose", "up", "--detach", **stack)
    output("compose", "stop", **stack)
    ended = output("compose", "ps", "--all", "--format={{.ExitCode}}", "consumer", **stack)
    output("compose", "up", "--detach", **stack)
    eventually(lambda: scored_since_start(stack["METRICS_PORT"]), 60)

    verified = output(
        "compose", "exec", "--no-TTY", "consumer", "fraudstream", "verify", "--sample=20000",
        "--json", **stack,
    )  # fmt: skip

    assert ended.strip() == "0"
    found = json.loads(verified)
    assert found["ok"]
    assert found["counts"]["predictions"] >= PAYMENTS_OF_HISTORY


def scored_since_start(port: str) -> bool:
    """Say whether the consumer that answers there has committed a prediction."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return b"\nfraudstream_predictions_committed_total{" in answer.read()
