"""The dictionary's interests for people: what is in them, how much they are used, where they lie.

The map is the principal plane of the interests' centres (unit means of their items' vectors); near ones are alike.
Signs of its axes are fixed, so that the same centres give the same map.

Shapes: N items, K interests (cells that hold a counted item), D item dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

TITLES = 5


def interest_rows(
    cells_N: np.ndarray,
    counted_N: np.ndarray,
    vectors_ND: np.ndarray,
    counts_N: np.ndarray,
    titles_N: Sequence[str],
    names: Mapping[int, str],
    label: Callable[[int], str],
) -> list[dict[str, Any]]:
    """One row an interest, the most used first.

    Args:
        cells_N: each item's cell.
        counted_N: which items count, those that may be recommended.
        counts_N: each item's number of events.
        names: cell → name.
        label: cell → id.

    Returns:
        id, name, items, share_of_events, titles (most popular first), and x, y on the map.
    """
    cells_K = np.unique(cells_N[counted_N])
    total = max(int(counts_N[counted_N].sum()), 1)
    members = [np.flatnonzero((cells_N == cell) & counted_N) for cell in cells_K]
    places_K2 = principal_plane(np.array([_centre(vectors_ND[items]) for items in members]))
    rows = [
        {
            "id": label(int(cell)),
            "name": names[int(cell)],
            "items": len(items),
            "share_of_events": float(counts_N[items].sum() / total),
            "titles": [titles_N[item] for item in items[np.argsort(-counts_N[items], kind="stable")][:TITLES]],
            "x": round(float(place[0]), 6),
            "y": round(float(place[1]), 6),
        }
        for cell, items, place in zip(cells_K, members, places_K2, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["share_of_events"])


def principal_plane(centres_KD: np.ndarray) -> np.ndarray:
    """[K, 2] coordinates in the plane of largest variance; zeros where there is none."""
    centred_KD = centres_KD.astype(np.float64) - centres_KD.mean(0)
    left, lengths, _ = np.linalg.svd(centred_KD, full_matrices=False)
    places = np.zeros((len(centres_KD), 2))
    rank = min(2, len(lengths))
    places[:, :rank] = left[:, :rank] * lengths[:rank]
    largest = places[np.abs(places).argmax(0), [0, 1]]
    return places * np.where(largest < 0, -1.0, 1.0)


def interest_map(rows: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """The rows as a Plotly figure: a circle an interest, its area the share of events, what it is on hover."""
    shares = [row["share_of_events"] for row in rows]
    texts = [
        f"<b>{row['id']}</b> {row['name']}<br>{row['items']} items, {row['share_of_events']:.1%} of events<br>"
        + "<br>".join(row["titles"][:3])
        for row in rows
    ]
    circles = {
        "type": "scatter",
        "mode": "markers",
        "x": [row["x"] for row in rows],
        "y": [row["y"] for row in rows],
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": shares,
            "sizemode": "area",
            "sizeref": 2 * max([*shares, 1e-9]) / 50**2,
            "sizemin": 3,
            "color": "#7c4ddb",
            "opacity": 0.6,
        },
    }
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False}
    return {
        "data": [circles],
        "layout": {
            "title": {"text": f"{len(rows)} interests of dictionary {version}, sized by use"},
            "xaxis": {**bare, "title": {"text": "first principal axis"}},
            "yaxis": {**bare, "title": {"text": "second"}},
            "hovermode": "closest",
            "showlegend": False,
        },
    }


def _centre(vectors_nD: np.ndarray) -> np.ndarray:
    mean_D: np.ndarray = vectors_nD.mean(0)
    return mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)


def as_table(rows: Sequence[Mapping[str, Any]], version: str, top: int | None = None) -> str:
    """The rows as text, the most used first."""
    shown = rows[:top]
    width = max([len(row["name"]) for row in shown] + [4])
    width = min(width, 32)
    lines = [
        f"dictionary {version}: {len(rows)} interests",
        f"{'id':<8} {'name':<{width}} {'items':>6} {'events':>7}  top titles",
    ]
    for row in shown:
        name = row["name"] if len(row["name"]) <= width else row["name"][: width - 1] + "…"
        lines.append(
            f"{row['id']:<8} {name:<{width}} {row['items']:>6,} {row['share_of_events']:>7.1%}  "
            + " · ".join(row["titles"][:3])
        )
    return "\n".join(lines)
