"""Decoding a batch of histories straight from codes, against copying the same bytes, in one run.

    python -m benchmarks.codebook_decode --output benchmarks/results/codebook_decode.json

Ways, each giving a new [B, L, D] float32 tensor of the same histories:
    decode       `CodeTable`: codes and fp16 coefficients
    decode codes `CodeTable` of codes alone
    gather       rows of a table of N decoded vectors, by `torch.embedding`
    index        the same by `table[items]`
    copy         a plain memory copy of as many bytes (`Tensor.clone`): no way can be faster
Every round draws other item ids, evenly, so that no way finds its rows in a cache, and begins with another way; the
best of all rounds counts. Codes are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.codebook_vectors import unit
from prismrec.artifacts.model_folder import dump_json
from prismrec.quantization.code_table import CodeTable
from prismrec.quantization.codebook import Codebook, Codes


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, nargs="+", default=[12_000, 1e6], help="numbers of items N")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64, help="histories B")
    parser.add_argument("--length", type=int, default=1_000, help="events of a history L")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args(arguments)


def ways(items: int, dim: int, options: argparse.Namespace) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is timed, by name: vectors of items; all give the same, but for codes alone and the copy."""
    rng = np.random.default_rng(options.seed)
    shape = (options.layers, options.codes)
    centroids_LkD = unit(rng.standard_normal((options.layers * options.codes, dim), dtype=np.float32))
    codebook = Codebook(centroids_LkD.reshape(*shape, dim), np.ones(shape, np.float32))
    dtype = np.uint8 if options.codes <= 256 else np.uint16
    codes_nL = rng.integers(0, options.codes, (items, options.layers)).astype(dtype)
    codes = Codes(codes_nL, rng.random((items, options.layers), dtype=np.float32).astype(np.float16))
    table, alone = CodeTable(codebook, codes), CodeTable(codebook, Codes(codes_nL, None))
    decoded_ND = torch.from_numpy(codebook.decode(codes))
    source_BLD = torch.ones(options.batch, options.length, dim)
    return {
        "decode": table.__getitem__,
        "decode codes": alone.__getitem__,
        "gather": lambda items_BL: F.embedding(items_BL, decoded_ND),
        "index": decoded_ND.__getitem__,
        "copy": lambda items_BL: source_BLD.clone(),
    }


def measure(items: int, dim: int, options: argparse.Namespace) -> dict[str, Any]:
    timed = ways(items, dim, options)
    generator = torch.Generator().manual_seed(options.seed)
    best = dict.fromkeys(timed, float("inf"))
    for round_ in range(options.rounds):
        items_BL = torch.randint(items, (options.batch, options.length), generator=generator)
        for place in range(len(timed)):
            name = list(timed)[(round_ + place) % len(timed)]
            start = time.perf_counter()
            timed[name](items_BL)
            best[name] = min(best[name], time.perf_counter() - start)
    torch.testing.assert_close(timed["decode"](items_BL), timed["gather"](items_BL), atol=1e-5, rtol=1e-5)
    coefficients = 2 * options.layers
    marginal = options.layers * (1 if options.codes <= 256 else 2)
    return {
        "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()},
        "ratio_to_copy": {name: seconds / best["copy"] for name, seconds in best.items()},
        "ratio_to_gather": {name: seconds / best["gather"] for name, seconds in best.items()},
        "nanoseconds_an_event": 1e9 * best["decode"] / (options.batch * options.length),
        "table_mb": {"decoded": 4 * dim * items / 2**20, "codes": (marginal + coefficients) * items / 2**20},
    }


def as_table(report: dict[str, Any]) -> str:
    lines = [f"{'items × D':>16} {'way':>13} {'ms':>8} {'× copy':>8} {'× gather':>9}"]
    for size, found in report["sizes"].items():
        for name, milliseconds in found["milliseconds"].items():
            ratios = f"{found['ratio_to_copy'][name]:>8.2f} {found['ratio_to_gather'][name]:>9.2f}"
            lines.append(f"{size:>16} {name:>13} {milliseconds:>8.2f} {ratios}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    given = {name: vars(options)[name] for name in ("layers", "codes", "batch", "length", "rounds", "seed")}
    report: dict[str, Any] = {"given": given, "threads": torch.get_num_threads(), "sizes": {}}
    for items in map(int, options.items):
        for dim in options.dims:
            report["sizes"][f"{items} × {dim}"] = measure(items, dim, options)
    if options.output:
        options.output.write_text(dump_json(report))
    print(as_table(report))


if __name__ == "__main__":
    main()
