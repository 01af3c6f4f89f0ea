"""Plots of the evaluation, as Kedro-Viz shows them. matplotlib draws off screen and stamps no date: bytes repeat.

The page has the same charts and more (`prismrec.evaluation.report`). Time-free and time-aware rows stand apart.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prismrec.evaluation.rows import TIMES, contrasting_rows, interval_of, label_of, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = {"heuristic": "#8b95a1", "baseline": "#2f7fbf", "prismrec": "#7c4ddb", "incumbent": "#c9721a"}
COLOURS = ("#7c4ddb", "#2f7fbf", "#c9721a", "#1f8a70", "#6b7480", "#c23b78")
MARKERS = ("o", "s", "^", "D", "_", "v")


def accuracy_plot(report: Mapping[str, Any]) -> bytes:
    """HR@10 and NDCG@10 of every row with 95 % intervals, as PNG."""
    groups = [(time, names) for time in TIMES if (names := rows_of(report, time))]
    figure = _figure(11, 0.9 + 0.32 * sum(len(names) + 1.5 for _, names in groups))
    heights = [len(names) + 1 for _, names in groups]
    grid = figure.subplots(len(groups), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes_row, (time, names) in zip(grid, groups, strict=True):
        for axes, metric, title in zip(axes_row, ("hr@10", "ndcg@10"), ("HR@10", "NDCG@10"), strict=True):
            _bars(axes, report, names, metric)
            axes.set_title(f"{title}, time-{time}", fontsize=10)
    figure.suptitle(f"{report['data_set']}: {report['cases']['test']['users']:,} users, 95 % intervals", fontsize=11)
    return _png(figure)


def slices_plot(report: Mapping[str, Any]) -> bytes:
    """NDCG@10 by slice with 95 % intervals: a row of plots a kind of slice, as PNG."""
    kinds = list(dict.fromkeys(part["slice"] for part in report["slices"]))
    groups = [time for time in TIMES if rows_of(report, time)]
    figure = _figure(6.5 * len(groups), 0.5 + 2.9 * max(len(kinds), 1))
    grid = figure.subplots(max(len(kinds), 1), len(groups), squeeze=False)
    for axes_row, kind in zip(grid, kinds, strict=False):
        parts = [part for part in report["slices"] if part["slice"] == kind]
        for axes, time in zip(axes_row, groups, strict=True):
            names = contrasting_rows(report, [n for n in rows_of(report, time) if n in parts[0]["models"]])
            _dots(axes, report, parts, names)
            axes.set_title(f"{kind.replace('_', ' ')}, time-{time}", fontsize=10)
            axes.set_ylabel("NDCG@10")
    figure.suptitle(f"{report['data_set']}: by slice, number of cases below", fontsize=11)
    return _png(figure)


def interest_plot(report: Mapping[str, Any]) -> bytes:
    """Accuracy and diversity of lists made of one, two, … of a user's strongest interests, as PNG."""
    figure = _figure(11, 4)
    points: Sequence[Mapping[str, Any]] = report["interest_curve"]
    models = list(dict.fromkeys(point["model"] for point in points))
    pairs = (("diversity_text@10", "text diversity@10"), ("interests", "interests"))
    for axes, (x, label) in zip(figure.subplots(1, 2), pairs, strict=True):
        for index, model in enumerate(models):
            chosen = [p for p in points if p["model"] == model and p.get(x) is not None]
            xs, ys = [p[x] for p in chosen], [p["ndcg@10"] for p in chosen]
            axes.plot(xs, ys, color=COLOURS[index % 6], marker=MARKERS[index % 6], label=label_of(report, model))
            for p in chosen if x != "interests" else ():
                axes.annotate(str(p["interests"]), (p[x], p["ndcg@10"]), (4, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel(label)
        axes.set_ylabel("NDCG@10")
        _plain(axes, "both")
    if models:
        figure.axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report['data_set']}: accuracy and diversity over the number of interests", fontsize=11)
    return _png(figure)


def curves_plot(curves: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Loss and validation NDCG@10 of every training by epoch, as PNG."""
    from matplotlib.ticker import MaxNLocator

    trained = {name: curve["epochs"] for name, curve in curves.items() if curve["epochs"]}
    figure = _figure(3.2 * max(len(trained), 1), 4.6)
    grid = figure.subplots(2, max(len(trained), 1), squeeze=False)
    for column, (name, epochs) in enumerate(trained.items()):
        losses = [(epoch["epoch"], epoch["loss"]) for epoch in epochs if epoch["loss"] is not None]
        figures = [(e["epoch"], e["validation"]["ndcg@10"]) for e in epochs if "ndcg@10" in e["validation"]]
        lines = (("loss", losses), ("validation NDCG@10", figures))
        for axes, (title, points) in zip(grid[:, column], lines, strict=True):
            axes.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[0], marker="o", markersize=3)
            axes.set_title(f"{name.removesuffix('_curve').replace('_', ' ')}\n{title}", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _plain(axes, "y")
        grid[1, column].set_xlabel("epoch")
    return _png(figure)


def _bars(axes: Axes, report: Mapping[str, Any], names: Sequence[str], metric: str) -> None:
    rows = [report["models"][name] for name in names]
    values = [row[metric] for row in rows]
    ends = [interval_of(report, name, metric) or (v, v) for name, v in zip(names, values, strict=True)]
    around = _around(values, ends)
    colours = [FAMILIES[row["family"]] for row in rows]
    axes.barh(range(len(rows)), values, 0.7, xerr=around, color=colours, error_kw={"elinewidth": 1, "capsize": 2})
    for place, (value, (_, high)) in enumerate(zip(values, ends, strict=True)):
        axes.annotate(f"{value:.4f}", (high, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _plain(axes, "x")


def _dots(axes: Axes, report: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    step = 0.7 / len(names)
    for index, name in enumerate(names):
        figures = [part["models"][name]["ndcg@10"] for part in parts]
        places = [place + (index - (len(names) - 1) / 2) * step for place in range(len(parts))]
        values = [value for value, _, _ in figures]
        around = _around(values, [(low, high) for _, low, high in figures])
        axes.errorbar(places, values, around, color=COLOURS[index % 6], marker=MARKERS[index % 6], markersize=4,
                      linestyle="none", elinewidth=1, label=label_of(report, name))  # fmt: skip
    room = max(72 // len(parts), 8)  # letters that fit under a slice
    labels = [f"{textwrap.fill(part['label'].partition(' (')[0], room)}\n{part['cases']:,}" for part in parts]
    axes.set_xticks(range(len(parts)), labels, fontsize=7)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)
    _plain(axes, "y")


def _around(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Lengths of the whiskers downwards and upwards; a percentile interval may leave its mean out by a hair."""
    pairs = list(zip(values, ends, strict=True))
    return [
        [max(value - low, 0.0) for value, (low, _) in pairs],
        [max(high - value, 0.0) for value, (_, high) in pairs],
    ]


def _plain(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
