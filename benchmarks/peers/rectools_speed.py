"""RecTools' SASRec for `benchmarks.training_speed`: positions a second, and validation NDCG@10 against seconds.

    .venv-peers/bin/python -m benchmarks.peers.rectools_speed --data FOLDER --asked JSON --out FILE

The library's own data preparation, loader, loss and optimiser, on the training events; our part is a Lightning
callback that counts, stops, and ranks the validation targets after each epoch over the whole catalogue, all of a
user's history left out. Time is that of training alone, the loader included. Interpreter: .venv-peers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.net_blocks import PreLNTransformerLayers
from rectools.models.nn.transformers.sasrec import SASRecModel, SASRecTransformerLayers

from benchmarks.peers.exchange import Exchange, ndcg_at_10, read_exchange, top_lists
from benchmarks.peers.rectools_peers import _frame

BLOCKS = {"pre_norm": PreLNTransformerLayers, "released": SASRecTransformerLayers}
CHUNK = 256  # users ranked at once


class Watch(Callback):
    """Count positions and seconds of training; stop after so many steps or seconds.

    Args:
        asked: "warm_up" and "steps" (0: no end), "seconds", "validate", "length".
    """

    def __init__(self, asked: dict[str, Any], exchange: Exchange) -> None:
        self.asked, self.exchange = asked, exchange
        self.steps, self.positions, self.slots = 0, 0, 0
        self.seconds, self.started = 0.0, 0.0
        self.curve: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        now = time.perf_counter()
        if self.steps > self.asked["warm_up"]:
            self.seconds += now - self.started
            self.positions += int((batch["y"] != 0).sum())
            self.slots += batch["y"].numel()
        self.started = now
        done = self.asked["steps"] and self.steps >= self.asked["warm_up"] + self.asked["steps"]
        trainer.should_stop |= bool(done or self.seconds >= self.asked["seconds"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.asked["validate"]:
            value = self._validate(pl_module)
            self.curve.append({"seconds": round(self.seconds, 2), "ndcg@10": value})
            print(f"RecTools: {self.seconds:.0f} s, validation NDCG@10 {value:.4f}", flush=True)

    @torch.no_grad()
    def _validate(self, pl_module: Any) -> float:
        exchange, network = self.exchange, pl_module.torch_model
        internal_N = pl_module.data_preparator.item_id_map.to_internal.reindex(range(exchange.num_items))
        known_N = internal_N.notna().to_numpy()
        internal_N = internal_N.fillna(0).to_numpy(dtype=np.int64)
        network.eval()
        items = network.item_model.get_all_embeddings()
        targets_U, found = exchange.targets(exchange.validation_U), []
        for first in range(0, exchange.num_users, CHUNK):
            users_B = np.arange(first, min(first + CHUNK, exchange.num_users))
            ends_B = exchange.validation_U[users_B]
            items_BT, mask_BT = exchange.cut(users_B, ends_B, self.asked["length"])
            x = torch.from_numpy(np.where(mask_BT, internal_N[items_BT], 0))
            states = network.encode_sessions({"x": x}, items)[:, -1, :]
            scores_BN = network.similarity_module(states, items).float().numpy()[:, internal_N].copy()
            scores_BN[:, ~known_N] = -np.inf
            for row, (user, end) in enumerate(zip(users_B, ends_B, strict=True)):
                start = exchange.offsets[user]
                scores_BN[row, exchange.items[start : start + end]] = -np.inf
            found.append(ndcg_at_10(top_lists(scores_BN, 10), targets_U[users_B]) * len(users_B))
        network.train()
        return float(np.sum(found) / exchange.num_users)


def run(exchange: Exchange, asked: dict[str, Any]) -> dict[str, Any]:
    """Train as asked; positions a second, padding, and the curve."""
    warnings.filterwarnings("ignore")
    seed_everything(asked["seed"], verbose=False)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=100_000,
            accelerator="cpu",
            devices=1,
            precision=asked["precision"],
            callbacks=[Watch(asked, exchange)],
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_blocks=asked["layers"], n_heads=asked["heads"], n_factors=asked["dim"], session_max_len=asked["length"],
        dropout_rate=asked["dropout"], loss="softmax", batch_size=asked["batch_size"], lr=asked["learning_rate"],
        transformer_layers_type=BLOCKS[asked["blocks"]], item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer,
    )  # fmt: skip
    users = np.random.default_rng(asked["seed"]).permutation(exchange.num_users)
    model.fit(Dataset.construct(_frame(exchange, exchange.train_end_U, users)))
    watch = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, Watch))  # a copy trained
    return {
        "positions_per_second": round(watch.positions / watch.seconds, 1),
        "padding_waste": round(1.0 - watch.positions / watch.slots, 4),
        "seconds": round(watch.seconds, 2),
        **({"curve": watch.curve} if asked["validate"] else {}),
        "parameters": sum(p.numel() for p in model.lightning_model.torch_model.parameters()),
    }


def main() -> None:
    """Run once, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="exchange folder")
    parser.add_argument("--asked", required=True, help="JSON: sizes, precision, and how long")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    report = run(read_exchange(arguments.data), json.loads(arguments.asked))
    arguments.out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
