"""What changes from one version of the interest dictionary to the next.

Interests are compared by their ids, which a refresh keeps: *born*, one that holds items now and held none; *retired*,
the other way round; *moved*, one that holds items in both and has lost most of those it had. For each the report says
where its items came from or went to: the interest that shares most of them, which is how a split is told. An id in both
means one thing: a code that has lost its items rests for a refresh before it is put elsewhere, so its interests are
first retired, and born in the next report.
A dictionary that is no refresh of the previous one shares no ids with it: then only items that parted count.

Shapes: B items in both, N items, D item dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prismrec.metrics.codes import code_health
from prismrec.models.interest_dictionary import InterestDictionary
from prismrec.training.dictionary_refresh import DictionaryVectors, calm, common

COLOURS = {"before": "#8b95a1", "now": "#7c4ddb", "interests": "#2f7fbf"}
SHOWN = 50  # interests listed of each sort


@torch.no_grad()
def drift(
    kind: str,
    dictionary: InterestDictionary,
    rows: DictionaryVectors,
    previous: tuple[InterestDictionary, DictionaryVectors] | None,
) -> dict[str, Any]:
    """The drift report.

    Args:
        kind: how the dictionary came about, see `Refresh.kind` and `fitted`.
        rows: the vectors it rests on.
        previous: the dictionary before it with its vectors; None for a first one.

    Returns:
        Versions, health and error now, and beside the previous ones. JSON data.
    """
    now = _state(dictionary, rows)
    facts: dict[str, Any] = {
        "kind": kind,
        "version": dictionary.version,
        "parent": dictionary.config.parent,
        "data": dictionary.config.data,
        "items": len(rows.items_N),
        "now": now,
    }
    if previous is None:
        return facts
    before, before_rows = previous
    before_B, now_B = common(before_rows.items_N, rows.items_N)
    old_BD, new_BD = before_rows.full_ND[before_B], rows.full_ND[now_B]
    same_space = before.config.dim == dictionary.config.dim
    calm_B = calm(old_BD, new_BD) if same_space else torch.zeros(len(now_B), dtype=torch.bool)
    old_ids, new_ids = labels(before, old_BD), labels(dictionary, new_BD)
    changed_B = torch.tensor([old != new for old, new in zip(old_ids, new_ids, strict=True)], dtype=torch.bool)
    same_ids = kind in ("refreshed", "unchanged")
    return {
        **facts,
        "previous": before.version,
        "before": _state(before, before_rows),
        "items_in_both": len(now_B),
        **({"items_barely_moved": int(calm_B.sum())} if same_space else {}),
        **({} if not same_ids else _changes(changed_B, calm_B)),
        **({} if not same_ids else interests(labels(before, before_rows.full_ND), labels(dictionary, rows.full_ND),
                                             old_ids, new_ids)),
        "items_parted_share": parted(old_ids, new_ids),
    }  # fmt: skip


def drift_plot(report: Mapping[str, Any]) -> dict[str, Any]:
    """Utilisation, perplexity and error now and before, and interests born, retired and moved, as a Plotly figure."""
    sides = [(side, report[side]) for side in ("before", "now") if side in report]
    bars = [_bars(side, "", _heights(state)) for side, state in sides]
    counts = {word: report.get("interests", {}).get(word, 0) for word in ("born", "retired", "moved")}
    return {
        "data": [*bars, {**_bars("interests", "2", counts), "showlegend": False}],
        "layout": {
            "title": {"text": f"Dictionary {report['version']}: {report['kind']}"},
            "barmode": "group",
            "xaxis": {"domain": [0, 0.68]},
            "xaxis2": {"domain": [0.76, 1], "anchor": "y2"},
            "yaxis": {"title": {"text": "share, error"}, "rangemode": "tozero"},
            "yaxis2": {"title": {"text": "interests"}, "anchor": "x2", "rangemode": "nonnegative"},
        },
    }


def _heights(state: Mapping[str, Any]) -> dict[str, float]:
    """Shares of a dictionary's own levels and cells in use, and its error."""
    sizes = dict(enumerate(state["sizes"], start=1))
    return {
        **{f"level {level} in use": state[f"utilisation_level_{level}"] for level in sizes},
        "cells in use": state["occupied_cells"] / state["cells"],
        **{f"level {level} perplexity": state[f"perplexity_level_{level}"] / size for level, size in sizes.items()},
        "error": state["vector_error"],
    }


def _bars(name: str, axis: str, heights: Mapping[str, float]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(heights),
        "y": list(heights.values()),
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "marker": {"color": COLOURS[name]},
    }


def labels(dictionary: InterestDictionary, vectors_ND: Tensor) -> list[str]:
    """Interest id of every item."""
    return ["-".join(map(str, codes)) for codes in dictionary.codes_of(vectors_ND).tolist()]


def interests(before: Sequence[str], now: Sequence[str], old_B: Sequence[str], new_B: Sequence[str]) -> dict[str, Any]:
    """Interests born, retired and moved.

    Args:
        before: interest of every item under the previous dictionary, now: under this one.
        old_B: the same of the items in both, new_B likewise.
    """
    was, holds = set(before), set(now)
    pairs = Counter(zip(old_B, new_B, strict=True))
    went: dict[str, Counter[str]] = {}
    came: dict[str, Counter[str]] = {}
    for (old, new), count in sorted(pairs.items()):
        went.setdefault(old, Counter())[new] += count
        came.setdefault(new, Counter())[old] += count
    moved = [
        interest
        for interest in sorted(was & holds)
        if interest in went and 2 * went[interest][interest] < went[interest].total()
    ]
    born, retired = sorted(holds - was), sorted(was - holds)
    return {
        "interests": {"born": len(born), "retired": len(retired), "moved": len(moved), "kept": len(was & holds)},
        "interests_born": [_along(interest, came, "from") for interest in born[:SHOWN]],
        "interests_retired": [_along(interest, went, "to") for interest in retired[:SHOWN]],
        "interests_moved": [_along(interest, went, "to") for interest in moved[:SHOWN]],
    }


def parted(old_B: Sequence[str], new_B: Sequence[str]) -> float:
    """Share of items that are not with most of those they were with, whatever the interests are called."""
    together: dict[str, Counter[str]] = {}
    for old, new in zip(old_B, new_B, strict=True):
        together.setdefault(old, Counter())[new] += 1
    stayed = sum(counter.most_common(1)[0][1] for counter in together.values())
    return 1 - stayed / len(old_B) if old_B else 0.0


def _along(interest: str, paths: dict[str, Counter[str]], word: str) -> dict[str, Any]:
    """An interest with the one that shares most of its items; null if only new or gone items are in it."""
    other, shared = paths[interest].most_common(1)[0] if interest in paths else (None, 0)
    return {"interest": interest, word: other, "items_shared": shared}


def _changes(changed_B: Tensor, calm_B: Tensor) -> dict[str, Any]:
    return {
        "items_moved": int(changed_B.sum()),
        "items_moved_share": float(changed_B.float().mean()) if len(changed_B) else 0.0,
        "barely_moved_changed_share": float(changed_B[calm_B].float().mean()) if calm_B.any() else 0.0,
    }


def _state(dictionary: InterestDictionary, rows: DictionaryVectors) -> dict[str, Any]:
    """Health of the codes, and quantisation errors: in code space, and of the decoded vectors."""
    quantized = dictionary.quantizer(dictionary.encode(rows.full_ND))
    decoded_ND = dictionary.decode(quantized.chosen_CnD.sum(0))
    return {
        **code_health(quantized.codes_nC.numpy(), dictionary.sizes),
        "sizes": list(dictionary.sizes),
        "code_error": float(quantized.distances_n.double().mean()),
        "vector_error": float((rows.full_ND - decoded_ND).double().square().sum(1).mean()),
    }
