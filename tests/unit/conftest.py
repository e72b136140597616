"""What all unit tests share."""

from collections.abc import Iterator

import pytest
import threadpoolctl


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are fitted faster by one thread than by many that wait for each other."""
    with threadpoolctl.threadpool_limits(1):
        yield
