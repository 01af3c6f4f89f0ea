"""Who imports whom, and what is not imported when nobody computes anything."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "faiss", "great_expectations", "bentoml", "accelerate", "peft")
LIST_PIPELINES = """
from pathlib import Path
from kedro.framework.startup import bootstrap_project
from kedro.framework.project import pipelines, settings
bootstrap_project(Path("."))
settings.HOOKS
assert sum(len(pipeline.nodes) for pipeline in pipelines.values()) > 0
"""
LOADED = "import sys; print(*[name for name in {names!r} if sys.modules.get(name)])"


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Return which of the modules a fresh interpreter has loaded after running some code."""
    command = [sys.executable, "-c", f"{code}\n{LOADED.format(names=names)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_each_room_imports_only_from_those_below() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_listing_the_pipelines_loads_nothing_heavy() -> None:
    assert loaded_after(LIST_PIPELINES, HEAVY) == []


def test_the_check_of_heavy_imports_would_notice_one() -> None:
    assert loaded_after("import faiss", HEAVY) == ["faiss"]


def test_the_serving_engine_loads_without_the_pipelines_needs() -> None:
    """A served Bento has only the core dependencies."""
    absent = ("kedro", "polars", "pandas", "great_expectations", "accelerate", "bentoml")
    pytest.importorskip("prismrec.serving.engine")
    assert loaded_after("import prismrec.serving.engine", absent) == []


def test_listing_the_registry_takes_under_four_seconds_of_cpu() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("kedro")), "registry", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "__default__" in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 4
