"""Health of discrete codes: how many are used, and how evenly.

Perplexity is exp of the entropy (nats) of the items' codes: the number of codes that would give the same entropy if
all were used alike. Much below the number of codes, it shows a collapse that utilisation alone hides.
"""

from __future__ import annotations

import math

import numpy as np


def perplexity(counts: np.ndarray) -> float:
    """Exp of the entropy of the shares; entries of 0 do not matter."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def code_health(codes_nL: np.ndarray, sizes: tuple[int, ...], level_name: str = "level") -> dict[str, float]:
    """Utilisation, perplexity and dead codes, a level and jointly.

    Args:
        codes_nL: codes of the items that count, one column a level.
        sizes: codes a level.
        level_name: what a level is called in the keys, as in `utilisation_level_1`.

    Returns:
        `utilisation_joint` is the share of the cells (combinations of codes) in use among those that n items can
        use: the number of cells, or n where there are fewer items than cells. `dead_codes_*` counts codes of no item.
    """
    cells = math.prod(sizes)
    _, load = np.unique(codes_nL, axis=0, return_counts=True)
    report = {
        "cells": float(cells),
        "occupied_cells": float(len(load)),
        "utilisation_joint": len(load) / min(cells, len(codes_nL)),
        "perplexity_joint": perplexity(load),
        "items_per_occupied_cell": len(codes_nL) / len(load),
        "largest_cell": float(load.max()),
    }
    for level, size in enumerate(sizes):
        counts = np.bincount(codes_nL[:, level], minlength=size)
        name = f"{level_name}_{level + 1}"
        report[f"utilisation_{name}"] = float((counts > 0).mean())
        report[f"perplexity_{name}"] = perplexity(counts)
        report[f"dead_codes_{name}"] = float((counts == 0).sum())
    return report
