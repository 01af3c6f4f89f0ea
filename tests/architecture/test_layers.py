"""Kedro-Viz can order the catalog's layers: it switches all of them off where they form a cycle."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LAYERS = ["raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]


def test_kedro_viz_shows_all_layers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kedro_viz", reason="needs the viz extra")
    from kedro_viz.data_access import data_access_manager
    from kedro_viz.server import load_and_populate_data

    monkeypatch.setenv("PYTHONPATH", "")  # bootstrapping changes it for good
    monkeypatch.chdir(PROJECT)
    load_and_populate_data(PROJECT)
    assert data_access_manager.get_sorted_layers_for_registered_pipeline("__default__") == LAYERS
