"""One of several processes that train together: `python shared_training.py FOLDER ACCUMULATION`.

The launcher's environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says which. The losses of every step and the
final weights go into FOLDER, in files named by the rank.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TESTS = Path(__file__).parents[1]


def main(folder: Path, rank: str, accumulation: int) -> None:
    """Train the real recommender at a tiny size, without dropout, for two epochs."""
    sys.path.insert(0, str(TESTS))
    from prismrec.training import loop
    from training.small import Walks, random_lengths, training
    from training.test_recommender import task

    schedule = training(
        epochs=2, patience=2, batch_size=16, positions_per_step=10**6, accumulation=accumulation, device="cpu"
    )
    lengths = [length + 1 for length in random_lengths(65)]  # the last batch has one user: a process is without any
    made = task(Walks(lengths), training=schedule)
    for part in made.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.0
    steps, step = [], loop._Training._step

    def noted(training: loop._Training, *arguments: Any) -> None:
        before = dict(training.progress.sums)
        step(training, *arguments)
        steps.append({name: float(total - before.get(name, 0.0)) for name, total in training.progress.sums.items()})

    loop._Training._step = noted  # type: ignore[method-assign]
    curve = loop.fit(made, schedule, seed=0)
    (folder / f"{rank}.json").write_text(json.dumps({"steps": steps, "curve": [r.as_dict() for r in curve]}))
    save_file(dict(made.module.state_dict()), folder / f"{rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), os.environ.get("RANK", "0"), int(sys.argv[2]))
