"""Maximum-inner-product search for one user's interests: exact in small catalogues, by cells in large ones.

As in `search`, the score of an item is its largest inner product with one of the user's interests. That module is for
many users at once; this one is for one request. Up to `EXACT_ITEMS` items a product with the whole table takes a few
milliseconds and nothing is kept. Above, items lie in √N cells of a spherical k-means (faiss's inverted file), and only
the cells nearest to each interest are read.

Notable, our choices:
- What cells give are candidates only. Scores are taken again from the item vectors, so they are those of the exact
  search; cells therefore keep vectors in half precision, at half the memory.
- How many cells are read is not guessed: building raises it by halves until sampled searches find `RECALL` of the
  exact lists. Where vectors have no clusters that ends with nearly all cells, which is slow but right.
- The same vectors and seed give the same bytes: one thread, seeded k-means.

Shapes: N rows of the item table, R of them recommendable, K interests, D dimensions, S sampled searches, C candidates,
k items of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch  # before faiss, which brings an OpenMP of its own
from torch import Tensor
from torch.nn import functional as F

from prismrec.retrieval.search import search

EXACT_ITEMS = 50_000  # up to here the product with the whole table is fast enough
ROWS_A_CELL = 64  # that k-means looks at
ITERATIONS = 10
RECALL, LENGTH, SAMPLE = 0.995, 100, 200  # sampled searches find this share of the exact lists
NOISE = 0.5  # of a sampled search, beside the item's own length of one
MARGIN = 1.25  # candidates for a place, as half precision may swap neighbours
FILE = "index.faiss"
PART = "index"  # of a bundle
RECOMMENDER_PART = "recommender_index"  # of the items as a recommender with offsets ranks them


class Found(NamedTuple):
    """A list, best first; equal scores by row."""

    rows_k: Tensor  # int64
    scores_k: Tensor  # float32


class ItemIndex:
    """The recommendable rows of an item table, ready to be searched; see `build`.

    Attributes:
        cells: faiss's inverted file; None where the search is exact.
    """

    def __init__(self, items_ND: Tensor, recommendable_N: Tensor, cells: Any | None) -> None:
        self.items_ND, self.recommendable_N, self.cells = items_ND, recommendable_N, cells

    @classmethod
    def build(cls, items_ND: Tensor, recommendable_N: Tensor, seed: int = 0) -> Self:
        """Sort the rows into cells, if there are many.

        Args:
            items_ND: float32.
            recommendable_N: bool; other rows are never found.
            seed: of k-means and of the sampled searches.
        """
        rows_R = torch.nonzero(recommendable_N).flatten().numpy()
        if len(rows_R) <= EXACT_ITEMS:
            return cls(items_ND, recommendable_N, None)
        with _one_faiss_thread():
            index = cls(items_ND, recommendable_N, _sorted_into_cells(items_ND.numpy(), rows_R, seed))
            index._choose_probes(rows_R, seed)
        return index

    def search(self, interests_KD: Tensor, k: int, hidden: Tensor | None = None) -> Found:
        """The best items of one user, at most k.

        Args:
            interests_KD: float32.
            hidden: int64 rows that may not be found, such as the history's.
        """
        if self.cells is None:
            rows_C = self._shown(hidden)
            scores_C = _largest(interests_KD, self.items_ND)[rows_C]
        else:
            rows_C = self.candidates(interests_KD, k, hidden)
            scores_C = _largest(interests_KD, self.items_ND[rows_C])
        return _best(rows_C, scores_C, k)

    def save(self, folder: Path) -> None:
        """Write the cells; an exact index has none and need not be saved."""
        import faiss

        assert self.cells is not None, "an exact index is made from the item table at once"
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.cells, str(folder / FILE))

    @classmethod
    def load(cls, folder: Path, items_ND: Tensor, recommendable_N: Tensor) -> Self:
        """Read what `save` wrote, for the same item table."""
        import faiss

        cells = faiss.read_index(str(folder / FILE))
        assert cells.ntotal == int(recommendable_N.sum()), "the index is of another item table"
        return cls(items_ND, recommendable_N, cells)

    def _shown(self, hidden: Tensor | None) -> Tensor:
        shown_N = self.recommendable_N
        if hidden is not None:
            shown_N = shown_N.clone()
            shown_N[hidden] = False
        return torch.nonzero(shown_N).flatten()

    def candidates(self, interests_KD: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
        """[C] rows that one of the interests wants, about k each, by row; an exact index has none."""
        import faiss

        assert self.cells is not None
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = self.cells.nprobe
        if hidden is not None and len(hidden):
            among = faiss.IDSelectorBatch(hidden.numpy())
            others = faiss.IDSelectorNot(among)  # faiss keeps no reference: both have to live until it has searched
            parameters.sel = others
        wanted = min(int(k * MARGIN) + 1, self.cells.ntotal)
        with _one_faiss_thread():
            _, rows_KC = self.cells.search(interests_KD.numpy(), wanted, params=parameters)
        rows_C = np.unique(rows_KC)
        return torch.from_numpy(rows_C[rows_C >= 0])

    def _choose_probes(self, rows_R: np.ndarray, seed: int) -> None:
        """The number of cells that searches near sampled items need."""
        random = torch.Generator().manual_seed(seed)
        sample_S = torch.from_numpy(rows_R)[torch.randperm(len(rows_R), generator=random)[:SAMPLE]]
        noise_SD = F.normalize(torch.randn(len(sample_S), self.items_ND.shape[1], generator=random), dim=1)
        asked_SD = F.normalize(self.items_ND[sample_S], dim=1) + NOISE * noise_SD
        exact_Sk = search(asked_SD[:, None], self.items_ND, LENGTH, recommendable_N=self.recommendable_N).items_Bk
        assert self.cells is not None
        self.cells.nprobe = 1
        while self.cells.nprobe < self.cells.nlist:
            self.cells.nprobe = min(3 * self.cells.nprobe // 2 + 1, self.cells.nlist)
            found = [self.search(asked_D[None], LENGTH).rows_k for asked_D in asked_SD]
            if sum(map(_shared, found, exact_Sk)) >= RECALL * exact_Sk.numel():
                return


def _sorted_into_cells(items_ND: np.ndarray, rows_R: np.ndarray, seed: int) -> Any:
    import faiss

    dim, num_cells = items_ND.shape[1], 1 << round(np.log2(len(rows_R)) / 2)
    cells = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, num_cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    cells.cp.seed, cells.cp.niter, cells.cp.spherical = seed, ITERATIONS, True
    cells.cp.max_points_per_centroid = ROWS_A_CELL
    vectors_RD = items_ND[rows_R]
    cells.train(vectors_RD)
    cells.add_with_ids(vectors_RD, rows_R)
    return cells


def _largest(interests_KD: Tensor, items_CD: Tensor) -> Tensor:
    """[C] largest inner product of each item with one of the interests."""
    return (interests_KD @ items_CD.T).amax(0)


def _best(rows_C: Tensor, scores_C: Tensor, k: int) -> Found:
    """The k best of them; the rows rise, and equal scores go to the smaller one."""
    if len(rows_C) > k:
        kept = torch.nonzero(scores_C >= scores_C.kthvalue(len(scores_C) - k + 1).values).flatten()
        rows_C, scores_C = rows_C[kept], scores_C[kept]
    order = scores_C.argsort(descending=True, stable=True)[:k]
    return Found(rows_C[order], scores_C[order])


def _shared(first_k: Tensor, second_k: Tensor) -> int:
    return len(np.intersect1d(first_k.numpy(), second_k.numpy()))


@contextmanager
def _one_faiss_thread() -> Iterator[None]:
    """Inside, faiss uses one thread: sums come out the same, and a request holds one core."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
