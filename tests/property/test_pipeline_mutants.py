import json
import os
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize(
    "records",
    [
        10_000,
        pytest.param(
            1_000_000,
            marks=pytest.mark.skipif(
                os.environ.get("FRAUDSTREAM_SLOW") != "1", reason="FRAUDSTREAM_SLOW=1 runs it"
            ),
        ),
    ],
)
def test_the_path_survives_tampered_payments(records):
    """
    In a child process, so that a crash is a failure here: each has one outcome, and the payments
    between them are scored bit for bit as if they were alone. A failure names the seed.
    """
    seed = int(time.time())
    command = [sys.executable, "-m", "tests.property.pipeline_mutants", str(seed), str(records)]

    child = subprocess.run(command, capture_output=True, text=True, check=False)

    assert child.returncode == 0, f"seed {seed}: {child.stderr[-4_000:]}"
    outcomes = json.loads(child.stdout)
    assert sum(outcomes.values()) >= records
    assert outcomes.keys() >= {"scored", "tombstone", "decode", "trailing", "framing", "key", "id"}
