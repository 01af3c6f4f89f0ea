"""Full ranking of all cases by every ranker, whatever the protocol.

Each ranker scores a chunk of users once; from these scores come the targets' places, ties and all, and the first
LENGTH items of the list, where lists are wanted. Notable: scores are held for one chunk of users at a time
(`retrieval.chunks`), so working memory is bounded whatever users × items, down to one user at a time. What is kept
grows with the cases, places of the targets and LENGTH items a case and ranker, and is laid out before the first chunk
(`metrics.ranking.nowhere`). Ranking takes a slice of the chunk at a time, on all threads: copies of a few MiB are made
in memory that is at hand, where those of a whole chunk would wait for fresh pages longer than the work takes.

Shapes: B users of a chunk, N items, T targets, C cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prismrec.evaluation.protocols import Cases, History
from prismrec.metrics.ranking import TargetRanks, nowhere, rank_targets
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.rankers import Ranker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.search import run_on_all_threads
from prismrec.retrieval.topk import exclude, top_k

LENGTH = 100  # items of a kept list: the largest cutoff
SLICE = 2**20  # scores that are ranked at once on a thread: 4 MiB in float32


class Ranked(NamedTuple):
    """What one ranker made of all cases."""

    ranks: TargetRanks  # in the cases' order and width
    lists_CK: np.ndarray  # int32 [C, LENGTH], best first; -1 where nothing is left to recommend; [C, 0] without lists

    def of(self, chunk: slice) -> Ranked:
        """The places and lists of some of the cases, to be written to."""
        return Ranked(TargetRanks(*(part_CT[chunk] for part_CT in self.ranks)), self.lists_CK[chunk])


class _Asked(NamedTuple):
    """What a chunk of users has seen, and is to find."""

    seen: EventBatch
    targets_BT: Tensor
    mask_BT: Tensor
    recommendable_N: Tensor


@torch.inference_mode()
def evaluate(
    rankers: Mapping[str, Ranker],
    events: EventTable,
    cases: Cases,
    recommendable_N: Tensor,
    history: History,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    lists: bool = True,
) -> dict[str, Ranked]:
    """Rank every case with every ranker.

    Args:
        rankers: by the name of their row.
        events: all users' events.
        cases: who is asked for, and what is to be found.
        recommendable_N: bool; other items are never recommended.
        history: "filtered": seen items are not recommended either; "kept": they may be.
        progress: wraps the iterable of chunks, for a progress bar.
        lists: whether lists are made; the targets' places do without.
    """
    assert len(cases.users_C), "no case to rank"
    assert recommendable_N[torch.as_tensor(cases.targets_CT[cases.mask_CT])].all(), (
        "a target that may not be recommended"
    )
    size = chunk_size(len(recommendable_N), max((ranker.held for ranker in rankers.values()), default=1))
    mask_CT = torch.as_tensor(cases.mask_CT)
    shape = (len(mask_CT), LENGTH if lists else 0)
    found = {name: Ranked(nowhere(mask_CT), np.full(shape, -1, np.int32)) for name in rankers}
    for start in progress(range(0, len(mask_CT), size)):
        chunk = slice(start, start + size)
        users_B, ends_B = torch.as_tensor(cases.users_C[chunk]), torch.as_tensor(cases.starts_C[chunk])
        targets_BT = torch.as_tensor(cases.targets_CT[chunk])
        seen = events.cut(users_B, torch.zeros_like(ends_B) if history == "filtered" else ends_B, ends_B)
        asked = _Asked(seen, targets_BT, mask_CT[chunk], recommendable_N)
        for name, ranker in rankers.items():
            _rank(ranker, ranker.scores(events, users_B, ends_B), asked, found[name].of(chunk))
    return found


def _rank(ranker: Ranker, said_BN: Tensor, asked: _Asked, found: Ranked) -> None:
    """Write the targets' places, and the lists, of a chunk of users."""
    users, items = said_BN.shape
    size = max(min(SLICE // items, -(-users // torch.get_num_threads())), 1)
    starts = iter(range(0, users, size))  # shared: a thread takes the next slice when it is free

    @torch.inference_mode()
    def work() -> None:
        for start in starts:
            part = slice(start, start + size)
            left_BN = exclude(said_BN[part], asked.seen.of(part), asked.recommendable_N)
            scores_BN = ranker.listed(said_BN[part], left_BN)
            found.ranks.put(part, rank_targets(scores_BN, asked.targets_BT[part], asked.mask_BT[part]))
            if found.lists_CK.size:
                found.lists_CK[part] = _best(scores_BN, LENGTH)

    run_on_all_threads(work, -(-users // size))


def _best(scores_BN: Tensor, length: int) -> np.ndarray:
    """The first items of every list, int32 [B, length]; -1 where no item is left."""
    lists_BK = np.full((len(scores_BN), length), -1, np.int32)
    items_Bk = top_k(scores_BN, length)
    items_Bk = items_Bk.where(scores_BN.gather(1, items_Bk) > -torch.inf, -1)
    lists_BK[:, : items_Bk.shape[1]] = items_Bk.numpy()
    return lists_BK
