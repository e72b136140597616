"""The Handbook's payments, drawn once for all tests of the simulator."""

from pathlib import Path

import pytest

from producer_sim import handbook
from producer_sim.handbook import Payments


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache folder that a crash has left damaged, so whoever loads from it draws anew."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / handbook._CACHE_FILE).write_bytes(b"half of an arch")
    return folder


@pytest.fixture(scope="session")
def payments(cache) -> Payments:
    return handbook.load(cache)
