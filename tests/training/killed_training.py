"""A training in a process of its own, to be killed: `python killed_training.py FOLDER CHECKPOINTS DELAY`.

Writes the final weights and the curve, without times, into FOLDER once it is done.
"""

import logging
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

TESTS = Path(__file__).parents[1]


def main(folder: Path, checkpoints: Path, delay: float) -> None:
    """Train the real recommender at a tiny size; `delay` seconds a step leave room for a kill."""
    sys.path.insert(0, str(TESTS))
    from prismrec.artifacts.model_folder import dump_json
    from prismrec.training import loop
    from training.small import Walks, random_lengths, training
    from training.test_recommender import task

    schedule = training(epochs=4, patience=4, positions_per_step=40, checkpoint_seconds=1e-6, bf16=True)
    made = task(Walks(random_lengths(60)), training=schedule)
    compute = made.loss

    def slow(*arguments: object) -> loop.Loss:
        time.sleep(delay)
        return compute(*arguments)

    made.loss = slow
    curve = loop.fit(made, schedule, seed=0, checkpoints=checkpoints)
    (folder / "curve.json").write_text(dump_json({"epochs": [record.as_dict() for record in curve]}))
    save_file(dict(made.module.state_dict()), folder / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
