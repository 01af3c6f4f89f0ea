"""The exchange folder: one data set's split as plain numpy arrays, the same for every peer.

`events.npz` holds histories and cut points, `about.json` what they are. Our choice: flat arrays without pickle, so
that any interpreter with numpy reads them; items are counted 0 … N-1 over the items that may be recommended, in the
order of our item map, and `item_index_N` leads back to our indices.

Shapes: U users, E events, N items, T padded history length, K length of a list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

EVENTS_NAME = "events.npz"
ABOUT_NAME = "about.json"
LIST_LENGTH = 100
LONG_HISTORIES = 50  # events; from this median on a data set is "long"


@dataclass(frozen=True)
class Exchange:
    """Events and cut points of one data set, leave-one-out.

    Attributes:
        offsets: int64 [U+1]; user u's events are [offsets[u], offsets[u+1]), oldest first.
        items: int32 [E], 0 … N-1.
        timestamps: int64 [E], seconds since 1970 UTC.
        train_end_U: int32; the first so many events of a user are for training.
        validation_U, test_U: int32; position of the validation and of the test target.
        item_index_N: int32; our index of each item.
        about: name and title of the data set, split hash, counts, rules.
    """

    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    train_end_U: np.ndarray
    validation_U: np.ndarray
    test_U: np.ndarray
    item_index_N: np.ndarray
    about: dict[str, Any]

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.test_U)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_index_N)

    @property
    def event_users(self) -> np.ndarray:
        """The user of each event, int64 [E]."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offsets))

    @property
    def kind(self) -> str:
        """Which published settings fit: "long" or "short" histories."""
        return "long" if np.median(self.train_end_U) >= LONG_HISTORIES else "short"

    def before(self, ends_U: np.ndarray) -> np.ndarray:
        """[E] bool: the events at positions below each user's end."""
        return (np.arange(len(self.items)) - self.offsets[:-1][self.event_users]) < ends_U[self.event_users]

    def targets(self, positions_U: np.ndarray) -> np.ndarray:
        """[U] the item at each user's position."""
        return self.items[self.offsets[:-1] + positions_U]

    def last(self, ends_U: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Each user's last events before the end: items [U, T] and mask [U, T], padded on the left."""
        return self.cut(np.arange(self.num_users), ends_U, length)

    def cut(self, users_B: np.ndarray, ends_B: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The last `length` events before `ends_B` of some users: items and mask [B, length], padded on the left."""
        position_BT = ends_B[:, None] - np.arange(length, 0, -1)
        mask_BT = position_BT >= 0
        return self.items[self.offsets[users_B][:, None] + np.where(mask_BT, position_BT, 0)], mask_BT


def write_exchange(folder: Path, exchange: Exchange) -> None:
    """Write the folder; the same exchange gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(exchange, field.name) for field in fields(Exchange) if field.name != "about"}
    np.savez_compressed(folder / EVENTS_NAME, **arrays)
    (folder / ABOUT_NAME).write_text(json.dumps(exchange.about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_exchange(folder: Path) -> Exchange:
    """Read what `write_exchange` wrote.

    Raises:
        SystemExit: if the folder does not hold it, with the command that makes it.
    """
    if not (folder / EVENTS_NAME).is_file():
        raise SystemExit(
            f"{folder} holds no exchanged split. Make it: python -m benchmarks.peers.prepare --env … --out …"
        )
    with np.load(folder / EVENTS_NAME) as arrays:
        about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
        return Exchange(**{name: arrays[name] for name in arrays.files}, about=about)


def top_lists(scores_BN: np.ndarray, k: int = LIST_LENGTH) -> np.ndarray:
    """The k best items of each row, best first; -1 where the score is -inf: int32 [B, k]."""
    k = min(k, scores_BN.shape[1])
    # Equal scores: the smaller item first, so that lists do not depend on the machine.
    threshold_B1 = np.partition(scores_BN, -k, axis=1)[:, -k, None]
    above_BN, tied_BN = scores_BN > threshold_B1, scores_BN == threshold_B1
    room_B1 = k - above_BN.sum(1, keepdims=True)
    best_Bk = np.nonzero(above_BN | (tied_BN & (tied_BN.cumsum(1) <= room_B1)))[1].reshape(-1, k)
    values_Bk = np.take_along_axis(scores_BN, best_Bk, 1)
    order_Bk = np.argsort(-values_Bk, axis=1, kind="stable")
    best_Bk, values_Bk = np.take_along_axis(best_Bk, order_Bk, 1), np.take_along_axis(values_Bk, order_Bk, 1)
    return np.where(np.isneginf(values_Bk), -1, best_Bk).astype(np.int32)


def ndcg_at_10(lists_BK: np.ndarray, targets_B: np.ndarray) -> float:
    """Mean NDCG@10 of one target a user; how all peers choose epochs and settings on validation."""
    hits_Bk = lists_BK[:, :10] == targets_B[:, None]
    return float((hits_Bk / np.log2(np.arange(hits_Bk.shape[1]) + 2.0)).sum(1).mean())
