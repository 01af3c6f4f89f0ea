"""Candidates from the index: nearly the lists of the whole catalogue, and exact scores on them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.small import DIM, histories, small_encoder
from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.merge import LinearTransitionsRanker, Merge, MergeConfig, MergedRanker
from prismrec.models.rankers import LightweightEncoderRanker, PopularityRanker
from prismrec.models.remembering import remembering
from prismrec.retrieval import index as index_module
from prismrec.retrieval import narrowed as module
from prismrec.retrieval.index import ItemIndex
from prismrec.retrieval.narrowed import NarrowedRanker, narrowed

ITEMS, USERS = 4_000, 40
RECOMMENDABLE = torch.arange(ITEMS) % 9 != 4


@pytest.fixture(scope="module")
def whole() -> MergedRanker:
    """An encoder and transitions over clustered items."""
    random = torch.Generator().manual_seed(3)
    centres = torch.randn(60, DIM, generator=random)[torch.randint(60, (ITEMS,), generator=random)]
    items_ND = F.normalize(centres + 0.3 * torch.randn(ITEMS, DIM, generator=random), dim=1)
    transitions = LinearTransitions(LinearTransitionsConfig(ITEMS, 20, (0.5,)))
    transitions.columns_RM.copy_(torch.randint(ITEMS, (ITEMS, 20), generator=random))
    transitions.values_RM.copy_(torch.rand(ITEMS, 20, generator=random))
    encoder = remembering(LightweightEncoderRanker(small_encoder(), items_ND, RECOMMENDABLE), "interest_vectors")
    members = {"lightweight_encoder": encoder, "linear_transitions": LinearTransitionsRanker(transitions)}
    merge = Merge(MergeConfig(tuple(members)))
    merge.timed_M.copy_(torch.tensor([1.0, 3.0]))
    merge.timeless_M.copy_(merge.timed_M)
    return MergedRanker(members, merge, RECOMMENDABLE)


@pytest.fixture
def indexes(whole: MergedRanker, monkeypatch: pytest.MonkeyPatch) -> dict[str, ItemIndex]:
    monkeypatch.setattr(index_module, "EXACT_ITEMS", 1_000)
    monkeypatch.setattr(module, "CANDIDATES", 100)
    return {"lightweight_encoder": ItemIndex.build(whole.tellers[0].items_ND, RECOMMENDABLE)}


def test_lists_are_nearly_those_of_the_whole_catalogue(whole: MergedRanker, indexes: dict[str, ItemIndex]) -> None:
    always_A = torch.tensor([17, 4, 2_000])  # of which 4 may not be recommended
    ranker = NarrowedRanker(whole, indexes, always_A)
    offsets, items, times = histories([12] * USERS, ITEMS)
    shared = 0
    for start, end in pairwise(offsets.tolist()):
        history = items[start:end], times[start:end]
        some, full = ranker.rank(*history, None), whole.rank(*history, None)
        assert some.rows is not None
        assert len(some.rows) < ITEMS / 4
        assert np.all(np.diff(some.rows) > 0)
        assert {17, 2_000} <= set(some.rows.tolist())
        assert RECOMMENDABLE[some.rows].all()
        assert sorted(some.labels_K) == sorted(full.labels_K)
        # The same scores up to what their sum leaves out.
        np.testing.assert_allclose(np.diff(some.scores_N), np.diff(full.scores_N[some.rows]), atol=1e-4)
        best = some.rows_of(np.argsort(-some.scores_N)[:10])
        shared += len(set(best.tolist()) & set(np.argsort(-full.scores_N)[:10].tolist()))
    assert shared / (10 * USERS) >= 0.97


def test_only_large_catalogues_and_rankers_with_interests_are_narrowed(
    whole: MergedRanker, indexes: dict[str, ItemIndex]
) -> None:
    rankers = {"hymirec": whole, "popularity": PopularityRanker(np.ones(ITEMS), RECOMMENDABLE)}
    none = torch.zeros(0, dtype=torch.int64)
    assert narrowed(rankers, {}, none) == rankers
    some = narrowed(rankers, indexes, none)
    assert isinstance(some["hymirec"], NarrowedRanker)
    assert some["popularity"] is rankers["popularity"]
