"""Fixtures that every folder of tests shares."""

from pathlib import Path

import pytest

from tests.brokers import BrokerUnavailable, choose_for_tests
from tests.builders import tiny_bundle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: a process at work on one gives none of its tests to idle ones."""
    items.sort(key=lambda item: "test_short_forms" not in item.nodeid)


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
