"""RecBole: GRU4Rec and SINE, with the library's own data loading, trainer and checkpoints.

RecBole reads an atomic file with the position of each event as its time, so that its own leave-one-out cuts exactly
our split, ties included. It trains on every prefix of a user's training events. Our part: a callback and a data
loader that end the fit when the seconds are spent (an epoch on ML-1M takes longer than many budgets, so an epoch may
end early), and the filter of the history, which RecBole's sequential evaluation does not have; lists come from the
model's own `full_sort_predict`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # RecBole's checkpoints; only our own are read

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_logger, init_seed

from benchmarks.peers.exchange import LIST_LENGTH, Exchange, ndcg_at_10, top_lists
from benchmarks.peers.registry import Settings
from benchmarks.peers.run import Trained

MODELS = {"recbole_gru4rec": "GRU4Rec", "recbole_sine": "SINE"}
PATIENCE = 10  # epochs, RecBole's default
NAME = "exchange"  # of the atomic file


class BudgetSpent(Exception):
    """The seconds are spent, and the last epoch is validated and saved."""


class UntilDeadline:
    """A data loader that ends when the time has come; everything else is the loader's own."""

    def __init__(self, loader: Any, deadline: float) -> None:
        self.loader, self.deadline, self.batches = loader, deadline, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.batches += 1
            yield batch
            if time.perf_counter() >= self.deadline:
                return

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def train(peer: str, exchange: Exchange, settings: Settings, seconds: float, seed: int) -> Trained:
    """Train one of the models in a temporary folder."""
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="recbole-"))
    home = Path.cwd()
    os.chdir(folder)  # RecBole writes logs into the working directory
    try:
        return _train(MODELS[peer], exchange, settings, (start, start + seconds), seed)
    finally:
        os.chdir(home)
        shutil.rmtree(folder, ignore_errors=True)


def _train(model_name: str, exchange: Exchange, settings: Settings, clock: tuple[float, float], seed: int) -> Trained:
    start, deadline = clock
    _write_atomic_file(Path(NAME), exchange)
    config = _config(model_name, settings, seed)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    model = get_model(model_name)(config, train_data.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
    curve: list[dict[str, float]] = []

    def watch(epoch: int, score: float) -> None:
        elapsed = round(time.perf_counter() - start, 1)
        curve.append({"epoch": epoch + 1, "seconds": elapsed, "ndcg@10": float(score)})
        print(f"epoch {epoch + 1}: {elapsed} s, validation NDCG@10 {score:.4f} (history not filtered)", flush=True)
        if time.perf_counter() >= deadline:
            raise BudgetSpent

    batches = UntilDeadline(train_data, deadline)
    with contextlib.suppress(BudgetSpent):
        trainer.fit(batches, valid_data, verbose=False, callback_fn=watch)
    model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
    lists = _Lists(model, exchange, [int(token) if i else -1 for i, token in enumerate(_tokens(dataset, "item_id"))])
    users = [int(token) if i else -1 for i, token in enumerate(_tokens(dataset, "user_id"))]
    validation_UK = lists.of(valid_data, users, exchange.validation_U)
    validation = ndcg_at_10(validation_UK, exchange.targets(exchange.validation_U))
    resolved = {key: config[key] for key in sorted(_model_properties(config)) if key not in settings}
    epochs = batches.batches / len(batches)
    return Trained(validation, epochs, curve, lambda: lists.of(test_data, users, exchange.test_U), resolved)


class _Lists:
    """Lists of the model's scores, with the history filtered, in our numbers."""

    def __init__(self, model: Any, exchange: Exchange, items: list[int]) -> None:
        self.model, self.exchange, self.items_n = model, exchange, np.array(items)
        self.column_N = np.empty(exchange.num_items, np.int64)
        self.column_N[self.items_n[1:]] = np.arange(1, len(items))

    @torch.no_grad()
    def of(self, loader: Any, users: list[int], ends_U: np.ndarray) -> np.ndarray:
        """[U, 100] for all users of a loader, which hold all users once."""
        self.model.eval()
        user_n, lists_UK = np.array(users), np.full((self.exchange.num_users, LIST_LENGTH), -1, np.int32)
        for interaction, *_ in loader:
            scores_Bn = self.model.full_sort_predict(interaction).view(len(interaction), -1).numpy()
            users_B = user_n[interaction["user_id"].numpy()]
            scores_Bn[:, 0] = -np.inf  # RecBole's padding item
            items_BT, mask_BT = self.exchange.cut(users_B, ends_U[users_B], int(ends_U[users_B].max()))
            rows = np.nonzero(mask_BT)[0]
            scores_Bn[rows, self.column_N[items_BT[mask_BT]]] = -np.inf
            best_BK = top_lists(scores_Bn)
            lists_UK[users_B, : best_BK.shape[1]] = np.where(best_BK >= 0, self.items_n[best_BK], -1)
        return lists_UK


def _write_atomic_file(folder: Path, exchange: Exchange) -> None:
    folder.mkdir()
    position_E = np.arange(len(exchange.items)) - exchange.offsets[:-1][exchange.event_users]
    table = np.stack([exchange.event_users, exchange.items, position_E], 1)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(folder / f"{NAME}.inter", table, fmt="%d", delimiter="\t", header=header, comments="")


def _config(model: str, settings: Settings, seed: int) -> Config:
    options = {
        "data_path": str(Path.cwd()),
        "checkpoint_dir": "saved",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "group_by": "user",
            "order": "TO",
            "mode": {"valid": "full", "test": "full"},
        },
        "train_neg_sample_args": None,
        "metrics": ["NDCG", "Hit"],
        "topk": [10],
        "metric_decimal_place": 6,
        "valid_metric": "NDCG@10",
        "eval_batch_size": 2048,
        "epochs": 100_000,
        "stopping_step": PATIENCE,
        "seed": seed,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        **settings,
    }
    return Config(model=model, dataset=NAME, config_dict=options)


def _model_properties(config: Config) -> set[str]:
    return set(config.internal_config_dict) & {
        "n_layers", "n_heads", "hidden_size", "inner_size", "hidden_dropout_prob", "attn_dropout_prob",
        "embedding_size", "num_layers", "dropout_prob", "prototype_size", "interest_size", "tau_ratio",
        "reg_loss_ratio",
    }  # fmt: skip


def _tokens(dataset: Any, field: str) -> list[str]:
    tokens: list[str] = dataset.field2id_token[field].tolist()
    return tokens
