"""torch-rechub: ComiRec-SA and MIND, trained by the library's `MatchTrainer` in its list-wise mode.

The library's own preparation builds a Python list for every prefix, which does not fit for long histories; ours makes
the same samples a batch at a time (a prefix of the training events, its next item, and negatives from the library's
`negative_sample` by popularity to the 3/4), with the newest events kept where a history is too long. The library
recommends through approximate indices that this does not need: user and item vectors come from its
`inference_embedding`, and the score of an item is its best product over a user's interests, which is exact.

What we saw in 0.9.0: ComiRec and MIND take a `temperature` that their forward pass does not read.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import MIND, ComirecSA
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.match import negative_sample

from benchmarks.peers.exchange import Exchange, ndcg_at_10, top_lists
from benchmarks.peers.registry import Settings
from benchmarks.peers.run import Trained

PATIENCE = 10  # epochs
CHUNK = 256  # users ranked at once
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Samples:
    """Shuffled batches of training samples, until the epoch or the time is over.

    Item numbers are one above ours: 0 is padding.
    """

    def __init__(self, exchange: Exchange, settings: Settings, seed: int) -> None:
        self.exchange, self.settings = exchange, settings
        self.rng = np.random.default_rng(seed)
        np.random.seed(seed)  # the library draws negatives from numpy's global state
        lengths_U = exchange.train_end_U - 1  # every training event but the first is a target
        self.users_S = np.repeat(np.arange(exchange.num_users), lengths_U)
        first_U = np.concatenate([[0], np.cumsum(lengths_U)[:-1]])
        self.ends_S = np.arange(len(self.users_S)) - first_U[self.users_S] + 1
        counts = Counter((exchange.items[exchange.before(exchange.train_end_U)] + 1).tolist())
        self.by_count = OrderedDict(counts.most_common())
        self.deadline, self.batches = np.inf, 0

    def __len__(self) -> int:
        return -(-len(self.users_S) // self.settings["batch_size"])

    def __iter__(self) -> Iterator[Batch]:
        order_S, size = self.rng.permutation(len(self.users_S)), self.settings["batch_size"]
        for start in range(0, len(order_S), size):
            yield self._batch(order_S[start : start + size])
            self.batches += 1
            if time.perf_counter() >= self.deadline:
                return

    def _batch(self, rows_B: np.ndarray) -> Batch:
        users_B, ends_B = self.users_S[rows_B], self.ends_S[rows_B]
        negatives = self.settings["negatives"]
        drawn = negative_sample(self.by_count, ratio=len(rows_B) * negatives, method_id=1)
        target_B = self.exchange.items[self.exchange.offsets[users_B] + ends_B] + 1
        batch = {
            **user_batch(self.exchange, users_B, ends_B, self.settings["length"]),
            "item": torch.from_numpy(target_B.astype(np.int64)),
            "negatives": torch.from_numpy(np.asarray(drawn, np.int64).reshape(len(rows_B), negatives)),
        }
        return batch, torch.zeros(len(rows_B), dtype=torch.int64)  # the positive stands first


def user_batch(exchange: Exchange, users_B: np.ndarray, ends_B: np.ndarray, length: int) -> dict[str, torch.Tensor]:
    """A user's inputs; histories are padded on the right, as the library's examples do."""
    items_BT, mask_BT = exchange.cut(users_B, ends_B, length)
    order_BT = np.argsort(~mask_BT, axis=1, kind="stable")
    history_BT = np.take_along_axis(np.where(mask_BT, items_BT + 1, 0), order_BT, 1)
    return {
        "user": torch.from_numpy(users_B.astype(np.int64)),
        "history": torch.from_numpy(history_BT.astype(np.int64)),
    }


def train(peer: str, exchange: Exchange, settings: Settings, seconds: float, seed: int) -> Trained:
    """Train epoch by epoch, keeping the best on validation."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    samples, model = Samples(exchange, settings, seed), _model(peer, exchange, settings)
    samples.deadline = start + seconds
    with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
        trainer = MatchTrainer(
            model,
            mode=2,
            optimizer_params={"lr": settings["lr"], "weight_decay": settings["weight_decay"]},
            model_path=folder,
        )
        recommender = _Recommender(trainer, model, exchange, settings["length"])
        curve: list[dict[str, float]] = []
        best, best_state, stale = -1.0, None, 0
        while time.perf_counter() < samples.deadline and stale < PATIENCE:
            model.mode = None
            with contextlib.redirect_stderr(io.StringIO()):
                trainer.train_one_epoch(samples)
            value = ndcg_at_10(recommender.lists(exchange.validation_U), exchange.targets(exchange.validation_U))
            elapsed = round(time.perf_counter() - start, 1)
            curve.append({"epoch": len(curve) + 1, "seconds": elapsed, "ndcg@10": value})
            print(f"epoch {len(curve)}: {elapsed} s, validation NDCG@10 {value:.4f}", flush=True)
            stale += 1
            if value > best:
                best, best_state, stale = value, copy.deepcopy(model.state_dict()), 0
    model.load_state_dict(best_state)
    return Trained(best, samples.batches / len(samples), curve, lambda: recommender.lists(exchange.test_U), {})


class _Recommender:
    """Exact lists from the vectors that the library infers."""

    def __init__(self, trainer: MatchTrainer, model: Any, exchange: Exchange, length: int) -> None:
        self.trainer, self.model, self.exchange, self.length = trainer, model, exchange, length

    def lists(self, ends_U: np.ndarray) -> np.ndarray:
        """[U, 100] after each user's first `ends_U` events."""
        with tempfile.TemporaryDirectory(prefix="rechub-") as folder, contextlib.redirect_stderr(io.StringIO()):
            torch.save(self.model.state_dict(), Path(folder) / "model.pth")  # `inference_embedding` reads this
            items_ND = self._vectors("item", [{"item": torch.arange(1, self.exchange.num_items + 1)}], folder)
            chunks = np.array_split(np.arange(self.exchange.num_users), -(-self.exchange.num_users // CHUNK))
            batches = [user_batch(self.exchange, users_B, ends_U[users_B], self.length) for users_B in chunks]
            users_UKD = self._vectors("user", batches, folder)
        return np.concatenate([self._top(users_UKD[users_B], items_ND, users_B, ends_U) for users_B in chunks])

    def _vectors(self, mode: str, batches: list[dict[str, torch.Tensor]], folder: str) -> torch.Tensor:
        vectors: torch.Tensor = self.trainer.inference_embedding(self.model, mode, batches, folder)
        return vectors.squeeze(1) if mode == "item" and vectors.dim() == 3 else vectors

    def _top(
        self, interests_BKD: torch.Tensor, items_ND: torch.Tensor, users_B: np.ndarray, ends_U: np.ndarray
    ) -> np.ndarray:
        scores_BN = (interests_BKD @ items_ND.T).amax(1).numpy()
        items_BT, mask_BT = self.exchange.cut(users_B, ends_U[users_B], int(ends_U[users_B].max()))
        scores_BN[np.nonzero(mask_BT)[0], items_BT[mask_BT]] = -np.inf
        return top_lists(scores_BN)


def _model(peer: str, exchange: Exchange, settings: Settings) -> torch.nn.Module:
    vocabulary, dim = exchange.num_items + 1, settings["embed_dim"]
    user = [SparseFeature("user", vocab_size=exchange.num_users, embed_dim=dim)]
    item = [SparseFeature("item", vocab_size=vocabulary, embed_dim=dim)]
    history, negatives = (
        [SequenceFeature(name, vocab_size=vocabulary, embed_dim=dim, pooling="concat", shared_with="item")]
        for name in ("history", "negatives")
    )
    if peer == "rechub_mind":
        return MIND(user, history, item, negatives, settings["length"], interest_num=settings["interests"])
    return ComirecSA(user, history, item, negatives, interest_num=settings["interests"])
