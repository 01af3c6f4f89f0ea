"""Thread counts are explicit, and those that somebody set are kept; a seed for all stages may be set outside too."""

import os
from pathlib import Path

import pytest

from prismrec.pipeline_registry import STAGES
from prismrec.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS, fix_threads


def test_threads_are_the_cores_unless_somebody_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    fix_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"]) == ("3", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    fix_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"]) == ("5", "3")


@pytest.mark.parametrize(("given", "seed"), [(None, 20260101), ("", 20260101), ("7", 7)])
def test_seed_of_every_stage_may_come_from_outside(
    monkeypatch: pytest.MonkeyPatch, given: str | None, seed: int
) -> None:
    if given is None:
        monkeypatch.delenv("PRISMREC_SEED", raising=False)
    else:
        monkeypatch.setenv("PRISMREC_SEED", given)
    loader = CONFIG_LOADER_CLASS(str(Path(__file__).parents[1] / "conf"), env="ml1m", **CONFIG_LOADER_ARGS)
    parameters = loader["parameters"]
    assert {stage: of_stage["seed"] for stage, of_stage in parameters.items()} == dict.fromkeys(STAGES, seed)
