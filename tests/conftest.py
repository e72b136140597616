"""What every folder of tests shares: fixtures, and how hard properties are tried."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.brokers import BrokerUnavailable, choose_for_tests
from tests.builders import tiny_bundle

# A few seconds each, or FRAUDSTREAM_SLOW=1. A machine with other work fails no property.
settings.register_profile(
    "quick",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("slow", settings.get_profile("quick"), max_examples=3_000)
settings.load_profile("slow" if os.environ.get("FRAUDSTREAM_SLOW") == "1" else "quick")


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
