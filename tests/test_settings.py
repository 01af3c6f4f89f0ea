"""Thread counts are explicit, and those that somebody set are kept."""

import os

import pytest

from prismrec.settings import fix_threads


def test_threads_are_the_cores_unless_somebody_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    fix_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"]) == ("3", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    fix_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"]) == ("5", "3")
