"""A bundle on disk, for all tests of serving."""

from pathlib import Path

import pytest

from serving.bundles import parts


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on disk; tests must not change it."""
    folder = tmp_path_factory.mktemp("serving") / "bundle"
    parts().save(folder)
    return folder
