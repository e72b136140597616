"""What all unit tests share."""

import os
from collections.abc import Iterator

import pytest
import threadpoolctl


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are fitted faster by one thread than by many that wait for each other."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def no_configuration() -> Iterator[None]:
    """Whoever runs the tests may have exported a configuration, as the README does."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FRAUDSTREAM_")]:
            if name != "FRAUDSTREAM_SLOW":
                patch.delenv(name)
        yield
