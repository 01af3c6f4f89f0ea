"""What quantisers keep of item vectors at equal bytes an item: ours, residual and product quantisation.

    python -m benchmarks.codebook_fidelity --output benchmarks/results/codebook_fidelity.json --env ml1m beauty

Every method has 256 codes a layer or a part, so that a code is one byte; bytes are marginal ones (codes, and fp16
coefficients where there are any), the centroids come on top (`shared_bytes`). Methods:
    cosine               ours: a code and an fp16 coefficient a layer (3 bytes)
    cosine, codes only   ours: a code a layer, each centroid's mean coefficient
    |cosine|             a code and an fp16 coefficient a layer, the largest |cosine| instead of the largest cosine
    Euclidean, greedy    plain residual quantisation: k-means by layers, the nearest centroid
    Euclidean, beam      faiss's ResidualQuantizer as it comes: encodes by a beam of several paths
    product              faiss's ProductQuantizer; where the parts do not divide D, zeros are appended
Figures: 1 - mean cosine, relative squared error, and overlap@10: the share of an item's ten nearest items (by cosine,
itself left out) that its reconstruction finds among the original vectors, over 1,000 items. All of a set's vectors are
fitted on, encoded and measured. A cell (set, bytes, method) that the output holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401 - before faiss

from benchmarks.codebook_vectors import clustered, of_environment
from prismrec.artifacts.model_folder import dump_json
from prismrec.quantization.codebook import Codebook
from prismrec.quantization.fidelity import cosines, relative_error

CODES, QUERIES, NEAREST = 256, 1_000, 10
OURS: dict[str, tuple[str, str, int]] = {  # assignment, coefficients, bytes a layer
    "cosine": ("cosine", "item", 3),
    "cosine, codes only": ("cosine", "centroid", 1),
    "|cosine|": ("abs_cosine", "item", 3),
    "Euclidean, greedy": ("euclidean", "centroid", 1),
}
METHODS = (*OURS, "Euclidean, beam", "product")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, nargs="*", default=[2e4, 2e5], help="sizes of clustered sets")
    parser.add_argument("--env", nargs="*", default=[], help="environments whose item vectors are measured too")
    parser.add_argument("--dim", type=int, default=64, help="of the clustered sets")
    parser.add_argument("--bytes", type=int, nargs="+", default=[3, 6, 9], help="bytes an item; multiples of 3")
    parser.add_argument("--iterations", type=int, default=10, help="k-means steps of ours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    if any(size % 3 or size <= 0 for size in options.bytes):
        parser.error("--bytes must be multiples of 3: a code and its coefficient take 3")
    return options


def sets(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    for items in map(int, options.items):
        yield f"clustered {items}", clustered(items, options.dim, options.seed)
    for env in options.env:
        yield env, of_environment(env)


def reconstruct(vectors_nD: np.ndarray, method: str, size: int, options: argparse.Namespace) -> np.ndarray:
    """Fit a method on the vectors and decode their codes: [n, D]."""
    if method not in OURS:
        return _by_faiss(vectors_nD, method, size)
    assignment, coefficients, layer_bytes = OURS[method]
    codebook = Codebook.fit(
        vectors_nD, size // layer_bytes, CODES, options.iterations, options.seed, assignment, coefficients
    )
    codes = codebook.encode(vectors_nD)
    assert codes.bytes_per_item == size
    return codebook.decode(codes)


def _by_faiss(vectors_nD: np.ndarray, method: str, size: int) -> np.ndarray:
    import faiss

    dim = vectors_nD.shape[1]
    if method == "product":
        vectors_nD = np.pad(vectors_nD, ((0, 0), (0, -dim % size)))
        quantiser = faiss.ProductQuantizer(vectors_nD.shape[1], size, 8)
    else:
        quantiser = faiss.ResidualQuantizer(dim, size, 8)
    quantiser.train(np.ascontiguousarray(vectors_nD))
    codes = quantiser.compute_codes(np.ascontiguousarray(vectors_nD))
    assert codes.shape[1] == size
    decoded_nD: np.ndarray = quantiser.decode(codes)[:, :dim]
    return decoded_nD


def overlap(vectors_nD: np.ndarray, decoded_nD: np.ndarray, seed: int) -> float:
    """Share of the nearest items that the reconstruction finds."""
    n = len(vectors_nD)
    queries = np.sort(np.random.default_rng(seed).choice(n, min(QUERIES, n), replace=False))
    unit_nD = vectors_nD / np.linalg.norm(vectors_nD, axis=1, keepdims=True)
    found = []
    for given_nD in (vectors_nD, decoded_nD):
        score_QN = given_nD[queries] @ unit_nD.T
        score_QN[np.arange(len(queries)), queries] = -np.inf
        found.append(np.argpartition(-score_QN, NEAREST, axis=1)[:, :NEAREST])
    return float((found[0][:, :, None] == found[1][:, None, :]).any(2).mean())


def shared_bytes(method: str, size: int, dim: int) -> int:
    """Bytes of the centroids, in float32."""
    if method == "product":
        return 4 * CODES * (dim + -dim % size)
    return 4 * CODES * dim * (size // OURS[method][2] if method in OURS else size)


def measure(vectors_nD: np.ndarray, method: str, size: int, options: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    decoded_nD = reconstruct(vectors_nD, method, size, options)
    seconds = time.perf_counter() - start
    return {
        "cosine_error": 1 - float(cosines(vectors_nD, decoded_nD).mean()),
        "relative_squared_error": relative_error(vectors_nD, decoded_nD),
        "overlap@10": overlap(vectors_nD, decoded_nD, options.seed),
        "shared_bytes": shared_bytes(method, size, vectors_nD.shape[1]),
        "compression_marginal": 4 * vectors_nD.shape[1] / size,
        "seconds": seconds,
    }


def as_table(cells: dict[str, Any]) -> str:
    lines = [f"{'set':<18} {'bytes':>5}  {'method':<19} {'1 - cosine':>10} {'error':>7} {'overlap@10':>10} {'s':>7}"]
    for cell, found in cells.items():
        name, size, method = cell.split(" | ")
        lines.append(
            f"{name:<18} {size:>5}  {method:<19} {found['cosine_error']:>10.4f} "
            f"{found['relative_squared_error']:>7.4f} {found['overlap@10']:>10.4f} {found['seconds']:>7.1f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    given = {name: vars(options)[name] for name in ("dim", "iterations", "seed")}
    report: dict[str, Any] = {"given": given, "cells": {}}
    if options.output and options.output.exists():
        held = json.loads(options.output.read_text())
        if held["given"] != given:
            raise SystemExit(f"{options.output} holds cells of other settings, {held['given']}: take another file")
        report = held
    for name, vectors_nD in sets(options):
        for size in options.bytes:
            for method in METHODS:
                cell = f"{name} | {size} | {method}"
                if cell not in report["cells"]:
                    report["cells"][cell] = measure(vectors_nD, method, size, options)
                    if options.output:
                        options.output.write_text(dump_json(report))
    print(as_table(report["cells"]))


if __name__ == "__main__":
    main()
