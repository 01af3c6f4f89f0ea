"""Kedro-Viz can order the catalog's layers: it switches all of them off where they form a cycle.

It counts a collapsed stage as one node, so a stage that reads one layer and writes an earlier one is a cycle too.
"""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LAYERS = ["raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]


def test_kedro_viz_shows_all_layers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kedro_viz", reason="needs the viz extra")
    from kedro_viz.api.rest.responses.pipelines import get_pipeline_response
    from kedro_viz.server import load_and_populate_data

    monkeypatch.setenv("PYTHONPATH", "")  # bootstrapping changes it for good
    monkeypatch.chdir(PROJECT)
    load_and_populate_data(PROJECT)
    assert get_pipeline_response("__default__").layers == LAYERS
