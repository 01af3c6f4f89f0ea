"""Fixtures and settings of all tests."""

import os

# Before torch or numpy start: the tests share their cores, and single threads make them repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", KEDRO_DISABLE_TELEMETRY="1", BENTOML_DO_NOT_TRACK="True")

from toy_project import toy_project  # noqa: F401 - a fixture, and the environment comes first
