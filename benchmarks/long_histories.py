r"""Time of one pass of the lightweight encoder over histories of 100, 1,000 and 10,000 events.

    python -m benchmarks.long_histories --output benchmarks/results/long_histories.json

Random unit vectors as items, weights as they are made, no gradients; both ways of pooling, one history at a time and
32. CPU time of one thread, which other work on the machine does not stretch; the best of several rounds counts, rounds
interleaved, freed memory kept as in training. *slope* is that of log time on log length: 1 is
linear, 2 quadratic, below 1 a fixed cost that is still felt; *ratio* is the time at the longest length against the time
at the one before it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.peers.measure import machine
from prismrec.artifacts.model_folder import dump_json
from prismrec.models.events import GAP_BUCKETS, EventBatch
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.training.memory import keep_freed_memory

LENGTHS = (100, 1_000, 10_000)
BATCHES = (1, 32)
DIM, HIDDEN, INTERESTS, KERNEL, POSITIONS = 64, 128, 4, 4, 200


def make_encoder(pooling: str, length: int) -> LightweightEncoder:
    """An encoder of the demo's sizes."""
    torch.manual_seed(0)
    positions = POSITIONS if pooling == "comirec" else 0
    return LightweightEncoder(LightweightEncoderConfig(DIM, INTERESTS, HIDDEN, KERNEL, 0.0, length, positions)).eval()


@torch.inference_mode()
def seconds(encoder: LightweightEncoder, batch: int, length: int) -> float:
    """CPU time of one pass over a batch of histories of one length."""
    items = F.normalize(torch.randn(batch, length, DIM), dim=-1)
    gaps, until = torch.randint(GAP_BUCKETS, (2, batch, length))
    events = EventBatch(torch.zeros_like(gaps), gaps, until, torch.ones(batch, length, dtype=torch.bool))
    started = time.process_time()
    encoder(items, events)
    return time.process_time() - started


def measure(lengths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Times, slopes and ratios of every pooling and batch size."""
    report: dict[str, Any] = {}
    for pooling in ("decay", "comirec"):
        encoder = make_encoder(pooling, max(lengths))
        for batch in BATCHES:
            best = dict.fromkeys(lengths, float("inf"))
            for _ in range(rounds + 1):  # the first one warms up, and is never the best
                for length in lengths:
                    best[length] = min(best[length], seconds(encoder, batch, length))
            times = np.array([best[length] for length in lengths])
            slope = np.polyfit(np.log(lengths), np.log(times), 1)[0]
            report[f"{pooling}, batch {batch}"] = {
                "milliseconds": {str(length): round(1e3 * best[length], 3) for length in lengths},
                "slope": round(float(slope), 3),
                "ratio": round(float(times[-1] / times[-2]), 2),
            }
    return report


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="events, shortest first")
    parser.add_argument("--rounds", type=int, default=4, help="the best of so many counts")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    sizes = {"dim": DIM, "hidden": HIDDEN, "interests": INTERESTS, "kernel": KERNEL, "threads": 1}
    report = {"passes": measure(tuple(options.lengths), options.rounds), "sizes": sizes, "machine": machine()}
    for name, figures in report["passes"].items():
        print(f"{name:<18} {figures['milliseconds']} ms, slope {figures['slope']}, last ratio {figures['ratio']}")
    if options.output:
        options.output.write_text(dump_json(report), encoding="utf-8")


if __name__ == "__main__":
    main()
