"""Speed and recall of the index, against exact flat search in the same run.

    python -m benchmarks.index_search --output benchmarks/results/index_search.json

One million clustered vectors of 64 dimensions (`benchmarks.codebook_vectors`), and users with four interests, which
are drawn like the vectors but are none of them. Every user is searched for by the index (`prismrec.retrieval.index`)
and by two exact flat searches, in turn: faiss's `IndexFlatIP`, and the plain product with torch's top-k. The ratio is
against the faster of the two at the 99th percentile. Recall@k: share of the exact merged list (largest inner product
with any of the interests) that the index finds. One thread everywhere.

Notable: the index is built with its own choice of how much to read, which never saw these users; it is saved, and what
is timed is the one read back.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.codebook_vectors import clustered
from prismrec.retrieval.index import ItemIndex

LIMITS = {"p99_of_flat": 0.2, "recall": 0.97}
WARM_UP = 5  # searches of each kind that are not counted


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns the figures."""
    options = parse(arguments)
    torch.set_num_threads(1)
    report = measure(options)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--interests", type=int, default=4)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build, save, load, then search for all users."""
    import faiss

    asked = options.users * options.interests
    rows = torch.from_numpy(clustered(options.items + asked, options.dimensions, options.seed))
    items_ND, interests_UKD = rows[: options.items], rows[options.items :].view(options.users, options.interests, -1)
    started = time.perf_counter()
    index = ItemIndex.build(items_ND, everything := torch.ones(options.items, dtype=torch.bool), options.seed)
    report: dict[str, Any] = {"build_seconds": time.perf_counter() - started, "megabytes": 0.0}
    if index.cells is not None:
        with tempfile.TemporaryDirectory() as folder:
            index.save(Path(folder))
            report["megabytes"] = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
            started = time.perf_counter()
            index = ItemIndex.load(Path(folder), items_ND, everything)
            report["load_seconds"] = time.perf_counter() - started
        report |= {"cells": index.cells.nlist, "cells_read": index.cells.nprobe}
    flat = faiss.IndexFlatIP(options.dimensions)
    flat.add(items_ND.numpy())
    faiss.omp_set_num_threads(1)
    ways: dict[str, Callable[[Tensor], Any]] = {
        "index": lambda asked_KD: index.search(asked_KD, options.k).rows_k,
        "flat, faiss": lambda asked_KD: _merged(flat, asked_KD, options.k),
        "flat, torch": lambda asked_KD: (asked_KD @ items_ND.T).amax(0).topk(options.k).indices,
    }
    seconds, recall = search_all(ways, interests_UKD)
    return {**report, **compare(seconds), "recall": recall, "sizes": _sizes(options), "machine": _machine()}


def _merged(flat: Any, asked_KD: Tensor, k: int) -> np.ndarray:
    """The k best of the union of the interests' exact lists."""
    scores_Kk, rows_Kk = flat.search(asked_KD.numpy(), k)
    order = np.argsort(-scores_Kk, axis=None, kind="stable")
    rows = rows_Kk.ravel()[order]
    return rows[np.sort(np.unique(rows, return_index=True)[1])[:k]]


def search_all(ways: dict[str, Callable[[Tensor], Any]], interests_UKD: Tensor) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of every way for every user, and the mean recall of the first way against the last."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shared = []
    for asked_KD in interests_UKD:
        found = []
        for name, way in ways.items():
            started = time.perf_counter()
            found.append(way(asked_KD))
            seconds[name].append(time.perf_counter() - started)
        exact = np.asarray(found[-1])
        shared.append(len(np.intersect1d(np.asarray(found[0]), exact)) / len(exact))
    return {name: np.array(times)[WARM_UP:] for name, times in seconds.items()}, float(np.mean(shared))


def compare(seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds, and the index's 99th percentile as a share of the faster flat search's."""
    milliseconds = {
        name: {f"p{share}": 1e3 * float(np.percentile(times, share)) for share in (50, 95, 99)}
        for name, times in seconds.items()
    }
    flat = min(figures["p99"] for name, figures in milliseconds.items() if name != "index")
    return {"milliseconds": milliseconds, "p99_of_flat": milliseconds["index"]["p99"] / flat}


def _sizes(options: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(options, name) for name in ("items", "dimensions", "interests", "k", "users", "seed")}


def _machine() -> dict[str, str]:
    import faiss

    return {"processor": platform.machine(), "torch": torch.__version__, "faiss": faiss.__version__, "threads": "1"}


def as_table(report: dict[str, Any]) -> str:
    """The figures, and whether they keep the limits."""
    lines = [f"{'':14}{'p50':>9}{'p95':>9}{'p99':>9}  ms a user"]
    for name, figures in report["milliseconds"].items():
        lines.append(f"{name:14}" + "".join(f"{figures[column]:9.2f}" for column in ("p50", "p95", "p99")))
    kept = report["p99_of_flat"] <= LIMITS["p99_of_flat"], report["recall"] >= LIMITS["recall"]
    words = ["kept" if one else "BROKEN" for one in kept]
    lines.append(f"p99 / flat's p99  {report['p99_of_flat']:.4f}   at most {LIMITS['p99_of_flat']}: {words[0]}")
    lines.append(f"recall            {report['recall']:.4f}   at least {LIMITS['recall']}: {words[1]}")
    for name in ("cells", "cells_read", "build_seconds", "load_seconds", "megabytes"):
        if name in report:
            lines.append(f"{name.replace('_', ' ')}: {report[name]:,.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_table(main()))
