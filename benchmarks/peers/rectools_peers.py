"""RecTools: SASRec, eSASRec (LiGR layers), BERT4Rec, HSTU without and with time, EASE.

The transformers are fitted on training and validation events with the library's own mask, which keeps the last event
out of training and validates on it. Our part is a Lightning callback that measures NDCG@10 over the whole catalogue
after each epoch, remembers the best weights, and ends the fit when the seconds are spent or nothing has improved for
`PATIENCE` epochs. At most `VALIDATION_USERS` users validate, the same for everybody. HSTU with time is told the test
event's time as the request's context, which is what the library's tutorial does.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.bert4rec import BERT4RecModel
from rectools.models.nn.transformers.hstu import HSTUModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.ligr import LiGRLayers
from rectools.models.nn.transformers.sasrec import SASRecModel
from rectools.models.nn.transformers.utils import leave_one_out_mask

from benchmarks.peers.exchange import LIST_LENGTH, Exchange, ndcg_at_10, top_lists
from benchmarks.peers.registry import Settings
from benchmarks.peers.run import Trained

PATIENCE = 10  # epochs
VALIDATION_USERS = 6000
MODELS = {
    "rectools_sasrec": SASRecModel,
    "rectools_esasrec": SASRecModel,
    "rectools_bert4rec": BERT4RecModel,
    "rectools_hstu": HSTUModel,
    "rectools_hstu_time": HSTUModel,
}


def train(peer: str, exchange: Exchange, settings: Settings, seconds: float, seed: int) -> Trained:
    """Fit one of the models."""
    warnings.filterwarnings("ignore")
    if peer == "rectools_ease":
        return _train_ease(exchange, settings)
    start = time.perf_counter()
    seed_everything(seed, verbose=False)
    frame = _frame(exchange, exchange.test_U, np.random.default_rng(seed).permutation(exchange.num_users))
    dataset = Dataset.construct(frame)
    batches = math.ceil(min(VALIDATION_USERS, exchange.num_users) / settings["batch_size"])
    # What the preparation took is taken off the budget.
    left = max(seconds - (time.perf_counter() - start), 0.0)
    # As for ours: without bfloat16 arithmetic, products in it are many times slower than in fp32.
    precision = settings["precision"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
    limits = {"seconds": left, "validation_batches": batches, "precision": precision}
    model = _model(peer, settings, limits)
    model.fit(dataset)
    watch = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, KeepBest))
    model.lightning_model.load_state_dict(watch.best_state)
    context = _request_times(exchange) if peer == "rectools_hstu_time" else None
    users = np.arange(exchange.num_users)

    def recommend() -> np.ndarray:
        recommended = model.recommend(users, dataset, k=LIST_LENGTH, filter_viewed=True, context=context)
        return _lists(recommended, exchange.num_users)

    epochs = model.fit_trainer.global_step / model.fit_trainer.num_training_batches
    return Trained(watch.best, epochs, watch.curve, recommend, {"precision": precision})


class WithoutValidationLoss(TransformerLightningModule):
    """RecTools' module, but validation computes no loss: `KeepBest` ranks, and the loss costs as much as training."""

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        return {}


class KeepBest(Callback):
    """Watch validation, keep the best weights, and stop in time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start = 0.0
        self.best, self.best_state, self.stale = -1.0, None, 0
        self.curve: list[dict[str, float]] = []
        self.gains: list[tuple[float, int]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *arguments: Any) -> None:
        # Lightning then ends the epoch here, and validates once more.
        trainer.should_stop |= self._spent()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        items_ND = pl_module.item_embs
        network = pl_module.torch_model
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # bf16 would tie items
            sessions_BD = network.encode_sessions(batch, items_ND)[:, -1, :]
            scores_BN = network.similarity_module(sessions_BD, items_ND).clone()
        scores_BN.scatter_(1, batch["x"], -torch.inf)  # the history, as far as the model sees it
        scores_BN[:, : pl_module.data_preparator.n_item_extra_tokens] = -torch.inf  # padding and mask are no items
        lists_Bk = top_lists(scores_BN.numpy(), 10)
        self.gains.append((ndcg_at_10(lists_Bk, batch["y"][:, -1].numpy()), len(lists_Bk)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = float(np.average([gain for gain, _ in self.gains], weights=[users for _, users in self.gains]))
        self.gains = []
        elapsed = round(time.perf_counter() - self.start, 1)
        self.curve.append({"epoch": trainer.current_epoch + 1, "seconds": elapsed, "ndcg@10": value})
        print(f"epoch {trainer.current_epoch + 1}: {elapsed} s, validation NDCG@10 {value:.4f}", flush=True)
        self.stale += 1
        if value > self.best:
            self.best, self.best_state, self.stale = value, copy.deepcopy(pl_module.state_dict()), 0
        trainer.should_stop |= self._spent() or self.stale >= PATIENCE

    def _spent(self) -> bool:
        return time.perf_counter() - self.start >= self.seconds


def make_trainer(seconds: float, validation_batches: int, precision: Any) -> Trainer:
    """A Lightning trainer on the CPU; RecTools names this function in its configuration, so it stands alone."""
    return Trainer(
        max_epochs=100_000,
        accelerator="cpu",
        devices=1,
        callbacks=[KeepBest(seconds)],
        limit_val_batches=validation_batches,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=precision,
    )


def _model(peer: str, settings: Settings, trainer: dict[str, Any]) -> Any:
    options: dict[str, Any] = {name: value for name, value in settings.items() if name != "precision"}
    if "logits_t" in options:
        options["lightning_module_kwargs"] = {"logits_t": options.pop("logits_t")}
    if peer == "rectools_esasrec":
        options["transformer_layers_type"] = LiGRLayers
    if peer.startswith("rectools_hstu"):
        options["relative_time_attention"] = peer == "rectools_hstu_time"
    return MODELS[peer](
        **options,
        item_net_block_types=(IdEmbeddingsItemNet,),
        lightning_module_type=WithoutValidationLoss,
        get_val_mask_func=leave_one_out_mask,
        get_trainer_func=make_trainer,
        get_trainer_func_kwargs=trainer,
        recommend_torch_device="cpu",
    )


def _frame(exchange: Exchange, ends_U: np.ndarray, users: np.ndarray | None = None) -> pd.DataFrame:
    """Events before the ends as RecTools' table; users in the order given, their events in ours."""
    known = np.flatnonzero(exchange.before(ends_U))
    if users is not None:
        rank_U = np.empty_like(users)
        rank_U[users] = np.arange(len(users))
        known = known[np.argsort(rank_U[exchange.event_users[known]], kind="stable")]
    return pd.DataFrame(
        {
            Columns.User: exchange.event_users[known],
            Columns.Item: exchange.items[known],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(exchange.timestamps[known], unit="s"),
        }
    )


def _request_times(exchange: Exchange) -> pd.DataFrame:
    times_U = exchange.timestamps[exchange.offsets[:-1] + exchange.test_U]
    return pd.DataFrame(
        {
            Columns.User: np.arange(exchange.num_users),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(times_U, unit="s"),
        }
    )


def _lists(recommended: pd.DataFrame, num_users: int) -> np.ndarray:
    lists_UK = np.full((num_users, LIST_LENGTH), -1, np.int32)
    lists_UK[recommended[Columns.User], recommended[Columns.Rank] - 1] = recommended[Columns.Item]
    return lists_UK


def _train_ease(exchange: Exchange, settings: Settings) -> Trained:
    """Fit on the training part for validation, then on everything before the test target."""

    def fitted(ends_U: np.ndarray) -> Callable[[], np.ndarray]:
        dataset = Dataset.construct(_frame(exchange, ends_U))
        model = EASEModel(**settings, recommend_use_gpu_ranking=False)
        model.fit(dataset)
        return lambda: _lists(
            model.recommend(np.arange(exchange.num_users), dataset, k=LIST_LENGTH, filter_viewed=True),
            exchange.num_users,
        )

    validation = ndcg_at_10(fitted(exchange.train_end_U)(), exchange.targets(exchange.validation_U))
    return Trained(validation, 1, [], fitted(exchange.test_U), {})
