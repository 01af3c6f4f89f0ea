"""Fixtures and settings of all tests."""

import os

# Before torch or numpy start: the tests share their cores, and single threads make them repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", KEDRO_DISABLE_TELEMETRY="1", BENTOML_DO_NOT_TRACK="True")

import hypothesis
import pytest

from toy_project import toy_project  # noqa: F401 - a fixture, and the environment comes first

# On shared cores any example may take long; how fast things are, the benchmarks tell.
hypothesis.settings.register_profile("shared cores", deadline=None)
hypothesis.settings.load_profile("shared cores")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: the test processes take one file after the other."""
    long_ones = ("test_demo", "test_small_world", "test_bento", "test_reference_figures", "test_kills")
    items.sort(key=lambda item: long_ones.index(item.path.stem) if item.path.stem in long_ones else len(long_ones))
