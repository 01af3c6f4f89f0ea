"""Fitting the cosine codebook: time, memory, how many codes are used, what is kept.

    python -m benchmarks.codebook_fit --items 1e6 --output benchmarks/results/codebook_fit.json

Every size runs in a process of its own, so that its peak memory is its own; the vectors are made before the clock
starts. The report says for each layer how many vectors the fullest and the emptiest cluster held at fit, how many codes
the plain choice then uses, and how evenly (perplexity).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.codebook_vectors import clustered
from prismrec.artifacts.model_folder import dump_json


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, nargs="+", default=[2e4, 1e5, 1e6], help="numbers of vectors")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file; sizes it already holds are measured again")
    return parser.parse_args(arguments)


def measure(items: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit once, in this process."""
    from prismrec.quantization import codebook as subject
    from prismrec.quantization.fidelity import fidelity

    vectors_nD = clustered(items, options.dim, options.seed)
    before = peak_mb()
    counts: list[np.ndarray] = []
    plain = subject.balanced_kmeans

    def watched(*given: Any) -> Any:
        result = plain(*given)
        counts.append(result.counts_k)
        return result

    subject.balanced_kmeans = watched
    try:
        start, cpu = time.perf_counter(), time.process_time()
        codebook = subject.Codebook.fit(vectors_nD, options.layers, options.codes, options.iterations, options.seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        subject.balanced_kmeans = plain
    start = time.perf_counter()
    codes = codebook.encode(vectors_nD)
    encoding = time.perf_counter() - start
    report = fidelity(vectors_nD, codebook, codes)
    k = codebook.centroids_LkD.shape[1]
    return {
        "sizes": {name: vars(options)[name] for name in ("dim", "layers", "codes", "iterations", "seed")},
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "fit_seconds": seconds,
        "fit_cpu_seconds": cpu,
        "encode_seconds": encoding,
        "vectors_mb": vectors_nD.nbytes / 2**20,
        "peak_mb_before": before,
        "peak_mb": peak_mb(),
        "bounds": [items // k, -(-items // k)],
        "smallest_at_fit": [int(count.min()) for count in counts],
        "largest_at_fit": [int(count.max()) for count in counts],
        "used_at_fit": [float((count > 0).mean()) for count in counts],
        "used_by_plain_choice": [report[f"utilisation_layer_{layer + 1}"] for layer in range(options.layers)],
        "perplexity": [report[f"perplexity_layer_{layer + 1}"] for layer in range(options.layers)],
        "cosine_mean": report["cosine_mean"],
        "relative_squared_error": report["relative_squared_error"],
    }


def peak_mb() -> float:
    """Most memory this process has held, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def as_table(report: dict[str, Any]) -> str:
    lines = [f"{'items':>10} {'seconds':>8} {'CPU s':>7} {'peak MB':>8} {'cosine':>7}  at fit   plain choice, a layer"]
    for items, found in sorted(report.items(), key=lambda pair: int(pair[0])):
        used = " ".join(f"{share:.1%}" for share in found["used_by_plain_choice"])
        lines.append(
            f"{int(items):>10,} {found['fit_seconds']:>8.1f} {found['fit_cpu_seconds']:>7.1f} "
            f"{found['peak_mb']:>8,.0f} {found['cosine_mean']:>7.4f}  {min(found['used_at_fit']):>6.1%}   {used}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    report: dict[str, Any] = {}
    if options.output and options.output.exists():
        report = json.loads(options.output.read_text())
    for items in map(int, options.items):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            report[str(items)] = pool.submit(measure, items, options).result()
        if options.output:
            options.output.write_text(dump_json(report))
    print(as_table(report))


if __name__ == "__main__":
    main()
