"""Fixtures and settings of all tests."""

import os
from pathlib import Path

# Before torch or numpy start: the tests share their cores, and single threads make them repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", KEDRO_DISABLE_TELEMETRY="1", BENTOML_DO_NOT_TRACK="True")

import hypothesis
import pytest

from toy_project import toy_project  # noqa: F401 - a fixture, and the environment comes first

PROJECT = Path(__file__).parents[1]

# On shared cores any example may take long; how fast things are, the benchmarks tell.
hypothesis.settings.register_profile("shared cores", deadline=None)
hypothesis.settings.load_profile("shared cores")


@pytest.fixture(scope="session")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspaces folder in which the embedded demo has run, all eight stages, in this process."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    folder = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRISMREC_WORKSPACES", str(folder))
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        patch.setenv("PYTHONPATH", "")  # bootstrap_project changes it for good
        patch.chdir(PROJECT)
        bootstrap_project(PROJECT)
        with KedroSession.create(PROJECT) as session:
            session.run()
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file, and whatever looks at the demo run, on one test process; begin with the longest."""
    for item in items:
        on_demo = "demo_workspace" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("demo" if on_demo else item.path.stem))
    long_ones = ("test_demo", "test_notebooks", "test_small_world", "test_bento", "test_kills")
    items.sort(key=lambda item: long_ones.index(item.path.stem) if item.path.stem in long_ones else len(long_ones))
