import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.decoder_oracle import case_from, check

SLOW_VALUES = 200_000


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_the_decoder_and_fastavro_agree(draw, seed):
    """
    On any schema, any record and any bytes: what the kernel takes, fastavro takes and reads alike;
    what fastavro takes and writes alike, the kernel takes; and no record changes its neighbours'.
    """
    check(case_from(draw, seed))


@pytest.mark.parametrize("values", [3_000])
def test_the_decoder_survives_tampered_values(values):
    """In a child process: a crash is a failure here, and not the end of the run."""
    _survives(values)


@pytest.mark.skipif(os.environ.get("FRAUDSTREAM_SLOW") != "1", reason="FRAUDSTREAM_SLOW=1 runs it")
def test_the_decoder_survives_very_many_tampered_values():
    """With a new seed each time, which a failure names."""
    _survives(SLOW_VALUES)


def _survives(values):
    seed = int(time.time())
    command = [sys.executable, "-m", "tests.property.decoder_oracle", str(seed), str(values)]

    child = subprocess.run(command, capture_output=True, text=True, check=False)

    assert child.returncode == 0, f"seed {seed}: {child.stderr[-4_000:]}"
    assert int(child.stdout) >= values
