"""A plot loads as it was saved, and Kedro-Viz gets it under the name it knows."""

import inspect
from pathlib import Path

from prismrec.kedro_datasets import PlotDataset


def test_a_plot_is_previewed_as_plotly(tmp_path: Path) -> None:
    figure = {"data": [{"type": "scatter", "x": [1], "y": [2]}], "layout": {}}
    dataset = PlotDataset(filepath=str(tmp_path / "plot.json"))
    dataset.save(figure)
    assert dataset.load() == dataset.preview() == figure
    assert inspect.signature(dataset.preview).return_annotation.__name__ == "PlotlyPreview"
