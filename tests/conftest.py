"""Fixtures that every folder of tests shares."""

from pathlib import Path

import pytest

from tests.brokers import BrokerUnavailable, choose_for_tests
from tests.builders import tiny_bundle


def pytest_report_header() -> str:
    """Say before the first test which broker it will meet, and why."""
    try:
        return f"broker: {choose_for_tests()}"
    except BrokerUnavailable as error:
        return f"broker: none, {error}"


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle for the QuickScorer engine."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(folder)
    return folder
