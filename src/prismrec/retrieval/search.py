"""Exact search: the k best items of many users by their interest vectors, what they have seen left out.

The score of an item is its largest inner product with one of the user's interests; with one interest it is the plain
inner product. All of it is exact: lists equal those of a full sort, equal scores go to the smaller item index.

Notable: the product of a block of users and a block of items stays in the cache, where the largest over interests
and over groups of neighbouring items are taken at once; only [users, items] scores of a chunk are ever stored, never
[users, interests, items]. Seen items are overwritten by one scatter, and only the groups they fall into are looked at
again. Two-stage top-k: see `topk`. Threads take whole chunks of users and work alone, so nobody waits for anybody and
the figures of a chunk do not depend on the number of threads. Working memory: threads × (CHUNK × PANEL + a block)
numbers, whatever users × items; larger catalogues go panel by panel, and lists are merged.

Shapes: U users, B users of a chunk, K interests, R = B * K rows, D dimensions, N items, J blocks of M items or H groups
of a panel, E seen events, S of them of a chunk, k items of a list. CPU only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from prismrec.retrieval.topk import GROUP, Best, best_at_least, best_of_groups, group_maxima, kth_value

CHUNK = 128  # users worked on at once
PRODUCT = 2**17  # numbers of one product of blocks: 512 KiB of float32, half of what a core's cache holds
PANEL = 2**17  # items whose scores are kept at once


class Seen(NamedTuple):
    """What is hidden from each user: items_E[starts_U[u] : ends_U[u]], in any order, repeats allowed.

    A CSR matrix is `Seen(offsets[:-1], offsets[1:], items)`; histories up to a position of an `EventTable` are slices
    of its items.
    """

    starts_U: Tensor  # int64
    ends_U: Tensor  # int64
    items_E: Tensor  # int64 item indices


class _Catalogue(NamedTuple):
    """What every chunk needs."""

    items_ND: Tensor
    hidden_N: Tensor | None  # True: may not be recommended
    k: int


class _Scratch:
    """One thread's working memory, reused from chunk to chunk: fresh pages cost more than the top-k."""

    def __init__(self, interests: int, items_ND: Tensor) -> None:
        self.block = items_per_block(interests, len(items_ND))
        blocks = -(-min(PANEL, len(items_ND)) // self.block)
        self.scores = items_ND.new_empty(blocks * CHUNK * self.block)
        self.maxima = items_ND.new_empty(blocks * CHUNK * self.block // GROUP)
        self.product = items_ND.new_empty(CHUNK * interests * self.block)


def items_per_block(interests: int, num_items: int) -> int:
    """Items of one product, whole groups: as many as the cache holds, no more than there are."""
    wanted = min(PRODUCT // (CHUNK * interests), num_items)
    return max(-(-wanted // GROUP), 1) * GROUP


def search(
    interests_UKD: Tensor,
    items_ND: Tensor,
    k: int,
    seen: Seen | None = None,
    recommendable_N: Tensor | None = None,
) -> Best:
    """The k best items of every user that they have not seen and that may be recommended.

    Runs on `torch.get_num_threads()` threads. While it does, that number is 1 for the whole process: one search at a
    time.

    Args:
        interests_UKD: float32 or float64.
        recommendable_N: bool; all items when None.

    Returns:
        [U, k] items and scores, k at most N; where a user has fewer items left, item -1 of score -inf.
    """
    users, interests, _ = interests_UKD.shape
    hidden_N = None if recommendable_N is None or recommendable_N.all() else ~recommendable_N
    catalogue = _Catalogue(items_ND, hidden_N, min(k, len(items_ND)))
    found = Best(
        torch.empty(users, catalogue.k, dtype=torch.int64),
        torch.empty(users, catalogue.k, dtype=interests_UKD.dtype),
    )
    starts = iter(range(0, users, CHUNK))  # shared: a thread takes the next chunk when it is free

    @torch.inference_mode()
    def work() -> None:
        scratch = _Scratch(interests, items_ND)
        for start in starts:
            chunk = slice(start, start + CHUNK)
            seen_B = None if seen is None else Seen(seen.starts_U[chunk], seen.ends_U[chunk], seen.items_E)
            best = _search_chunk(interests_UKD[chunk], seen_B, catalogue, scratch)
            found.items_Bk[chunk], found.scores_Bk[chunk] = best

    run_on_all_threads(work, -(-users // CHUNK))
    return found


def largest_products(interests_BKD: Tensor, items_ND: Tensor) -> Tensor:
    """Every item's largest inner product with one of the user's interests: [B, N], without the [B, K, N] products."""
    query_RD = interests_BKD.flatten(0, 1)
    size = max(PRODUCT // max(len(query_RD), 1), GROUP)
    product = items_ND.new_empty(len(query_RD) * size)
    scores_BN = items_ND.new_empty(len(interests_BKD), len(items_ND))
    for start in range(0, len(items_ND), size):
        _largest(query_RD, items_ND[start : start + size], product, out_BM=scores_BN[:, start : start + size])
    return scores_BN


def _largest(query_RD: Tensor, items_MD: Tensor, product: Tensor, out_BM: Tensor) -> None:
    """Write the largest products of a block of items to `out_BM`; `product` is scratch."""
    users, width = out_BM.shape
    if len(query_RD) == users:
        torch.mm(query_RD, items_MD.T, out=out_BM)
        return
    product_RM = product[: len(query_RD) * width].view(-1, width)
    torch.mm(query_RD, items_MD.T, out=product_RM)
    torch.amax(product_RM.view(users, -1, width), 1, out=out_BM)


def _search_chunk(interests_BKD: Tensor, seen: Seen | None, catalogue: _Catalogue, scratch: _Scratch) -> Best:
    hidden = None if seen is None else _flatten(seen)
    best: Best | None = None
    for start in range(0, len(catalogue.items_ND), PANEL):
        stop = min(start + PANEL, len(catalogue.items_ND))
        found = _search_panel(interests_BKD, hidden, catalogue, slice(start, stop), scratch)
        best = found if best is None else _merge(best, found, catalogue.k)
    assert best is not None
    return Best(best.items_Bk.masked_fill(best.scores_Bk == -torch.inf, -1), best.scores_Bk)


def _search_panel(
    interests_BKD: Tensor,
    hidden: tuple[Tensor, Tensor] | None,
    catalogue: _Catalogue,
    panel: slice,
    scratch: _Scratch,
) -> Best:
    """The best of a panel of items, at most k."""
    scores_JBM, maxima_JBH = _score(interests_BKD, catalogue, panel, scratch)
    if hidden is not None:
        _hide(scores_JBM, maxima_JBH, *hidden, panel)
    k = min(catalogue.k, panel.stop - panel.start)
    blocks, users, per_block = maxima_JBH.shape
    if blocks * per_block >= 2 * k:
        found = best_of_groups(scores_JBM, maxima_JBH, k)
    else:
        scores_BP = scores_JBM.transpose(0, 1).reshape(users, -1)
        found = best_at_least(scores_BP, kth_value(scores_BP, k), k)
    return Best(found.items_Bk + panel.start, found.scores_Bk)


def _score(interests_BKD: Tensor, catalogue: _Catalogue, panel: slice, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """Scores of a panel, padded to whole blocks with -inf, and the maxima of its groups, block by block of items."""
    users, interests, _ = interests_BKD.shape
    query_RD = interests_BKD.reshape(users * interests, -1)
    size = scratch.block
    blocks = -(-(panel.stop - panel.start) // size)
    scores_JBM = scratch.scores[: blocks * users * size].view(blocks, users, size)
    maxima_JBH = scratch.maxima[: blocks * users * size // GROUP].view(blocks, users, -1)
    for j, start in enumerate(range(panel.start, panel.stop, size)):
        block = slice(start, min(start + size, panel.stop))
        width = block.stop - start
        scores_BM = scores_JBM[j, :, :width]
        _largest(query_RD, catalogue.items_ND[block], scratch.product, out_BM=scores_BM)
        if catalogue.hidden_N is not None:
            scores_BM.masked_fill_(catalogue.hidden_N[block], -torch.inf)
        if width < size:
            scores_JBM[j, :, width:] = -torch.inf
        group_maxima(scores_JBM[j], out_BG=maxima_JBH[j])
    return scores_JBM, maxima_JBH


def _hide(scores_JBM: Tensor, maxima_JBH: Tensor, row_S: Tensor, item_S: Tensor, panel: slice) -> None:
    """Overwrite seen items with -inf, in place, and take the maxima of their groups again."""
    here_S = (item_S >= panel.start) & (item_S < panel.stop)
    column_S = item_S[here_S] - panel.start
    _, users, size = scores_JBM.shape
    place_S = (column_S // size * users + row_S[here_S]) * size + column_S % size
    scores_JBM.view(-1).index_fill_(0, place_S, -torch.inf)
    group_S = place_S // GROUP  # a group seen twice is taken twice, with the same result
    maxima_JBH.view(-1)[group_S] = scores_JBM.view(-1, GROUP).index_select(0, group_S).amax(1)


def _flatten(seen: Seen) -> tuple[Tensor, Tensor]:
    """[S] row and [S] item of everything seen by the users of a chunk."""
    length_B = seen.ends_U - seen.starts_U
    row_S = torch.repeat_interleave(length_B)
    shift_B = seen.starts_U - (length_B.cumsum(0) - length_B)
    return row_S, seen.items_E[torch.arange(len(row_S)) + shift_B[row_S]]


def _merge(first: Best, second: Best, k: int) -> Best:
    """The best of two lists, where every index of the first is below those of the second."""
    items = torch.cat([first.items_Bk, second.items_Bk], dim=1)
    scores, order = torch.cat([first.scores_Bk, second.scores_Bk], dim=1).sort(dim=1, descending=True, stable=True)
    return Best(items.gather(1, order[:, :k]), scores[:, :k])


def run_on_all_threads(work: Callable[[], None], chunks: int) -> None:
    """Run the same work on as many threads as torch has (fewer for few chunks); torch releases the GIL in between."""
    threads = min(torch.get_num_threads(), chunks)
    if threads <= 1:
        work()
        return
    with one_thread_each(), ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, torch splits no operation over threads; the number is the whole process's, hence given back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
