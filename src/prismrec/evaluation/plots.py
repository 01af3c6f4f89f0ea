"""Plots of the evaluation. matplotlib draws off screen, and stamps no date, so that the file's bytes repeat."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

COLOURS = {"popularity": "#9aa0a6", "decayed_markov": "#6b7280", "lightweight_encoder": "#60a5fa",
           "hymirec": "#7c3aed", "gemirec": "#db2777"}  # fmt: skip
CUTOFFS = (10, 20, 50)


def accuracy_plot(report: Mapping[str, Any], title: str) -> bytes:
    """HR and NDCG at each cutoff, a group of bars a model, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = sorted(report["models"], key=lambda name: report["models"][name]["ndcg@10"])
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric, name in zip(figure.subplots(1, 2), ("hr", "ndcg"), ("Hit rate", "NDCG"), strict=True):
        width = 0.8 / len(models)
        for index, model in enumerate(models):
            values = [report["models"][model][f"{metric}@{k}"] for k in CUTOFFS]
            places = [group + (index - (len(models) - 1) / 2) * width for group in range(len(CUTOFFS))]
            bars = axes.bar(places, values, width, label=model, color=COLOURS.get(model))
            axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=2, rotation=90)
        axes.set_xticks(range(len(CUTOFFS)), [f"@{k}" for k in CUTOFFS])
        axes.set_title(name)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: full ranking, {report['cases']:,} cases", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()
