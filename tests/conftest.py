"""Fixtures that every folder of tests shares."""

from pathlib import Path

import pytest

from tests.builders import tiny_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle for the QuickScorer engine."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(folder)
    return folder
