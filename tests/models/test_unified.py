"""The unified model: HyMiRec and GemiRec on one scale, told apart by the dictionary's cells."""

import numpy as np
import pytest
import torch

from models.small import NUM_ITEMS, event_table
from models.test_rankers import CELLS, LENGTHS, RECOMMENDABLE, gemirec, merged, of_user, unified
from prismrec.errors import LineageError
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.posterior import Knobs
from prismrec.models.unified import UnifiedRanker

EVENTS = event_table(LENGTHS)
USERS, ENDS = torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)


@torch.no_grad()
def test_scores_are_the_weighted_sum_of_both_papers_models() -> None:
    expected = 0.9 * merged().scores(EVENTS, USERS, ENDS) + 0.3 * gemirec().scores(EVENTS, USERS, ENDS)
    expected = expected.masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(1)
    torch.testing.assert_close(unified().scores(EVENTS, USERS, ENDS), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_of_hymirec_as_a_whole_which_releases_before_fitted_still_rank() -> None:
    merge = Merge(MergeConfig(("hymirec", "gemirec")))
    for weights_M in (merge.timed_M, merge.timeless_M):
        weights_M.copy_(torch.tensor([0.9, 0.3]))
    before = UnifiedRanker(merged(), gemirec(), merge)
    expected = unified().scores(EVENTS, USERS, ENDS)
    torch.testing.assert_close(before.scores(EVENTS, USERS, ENDS), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_that_were_fitted_on_another_dictionary_are_refused() -> None:
    merge = unified().pool.merge
    kept = UnifiedRanker(merged(), gemirec(), merge.resting_on("v1"))
    assert torch.equal(kept.scores(EVENTS, USERS, ENDS), unified().scores(EVENTS, USERS, ENDS))
    with pytest.raises(LineageError, match=r"weights of the unified model .* v0, but the dictionary is v1"):
        UnifiedRanker(merged(), gemirec(), merge.resting_on("v0"))


@torch.no_grad()
def test_gemirecs_rule_for_its_own_lists_does_not_reach_the_pool() -> None:
    member = gemirec()
    member.rule = "quotas"
    ranker = UnifiedRanker(merged(), member, unified().pool.merge)
    scores = ranker.scores(EVENTS, USERS, ENDS)
    assert torch.equal(scores, unified().scores(EVENTS, USERS, ENDS))
    assert ranker.listed(scores, scores) is scores


@torch.no_grad()
def test_without_weight_for_gemirec_it_ranks_as_hymirec_does() -> None:
    expected = merged().scores(EVENTS, USERS, ENDS).masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(1)
    torch.testing.assert_close(unified(1.0, 0.0).scores(EVENTS, USERS, ENDS), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_beam_takes_no_item_from_hymirec(weight: float) -> None:
    """Cells that the beam does not find stay possible, whatever GemiRec's weight."""
    scores = unified(0.9, weight, max_cells=11, beam=2).scores(EVENTS, USERS, ENDS)
    assert scores[:, RECOMMENDABLE].isfinite().all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(LENGTHS)), atol=1e-5, rtol=0)


def test_an_interest_is_a_cell_and_its_weight_the_cells_mass() -> None:
    ranking = unified().rank(*of_user(0), 100)
    shares = np.exp(ranking.scores_N)
    for label, weight, scores_N in zip(ranking.labels_K, ranking.weights_K, ranking.interest_scores_KN, strict=True):
        cell = int(label.removeprefix("cell "))
        own = (cell == CELLS) & RECOMMENDABLE
        assert set(np.flatnonzero(scores_N > -np.inf)) == set(np.flatnonzero(own))
        assert weight == pytest.approx(shares[own].sum(), abs=1e-5)


@torch.no_grad()
def test_novelty_moves_mass_to_cells_that_the_history_lacks() -> None:
    ranker, cells = unified(), CELLS.numpy()
    seen = set(cells[of_user(1)[0]])
    new = np.array([cell not in seen for cell in cells])
    shares = [
        np.exp(ranker.with_knobs(Knobs(novelty=novelty)).rank(*of_user(1), None).scores_N)[new].sum()
        for novelty in (0.0, 1.0, 3.0)
    ]
    assert shares[0] < shares[1] < shares[2]


@torch.no_grad()
def test_knobs_keep_the_order_within_a_cell() -> None:
    ranker = unified()
    plain = ranker.scores(EVENTS, USERS, ENDS)
    turned = ranker.with_knobs(Knobs(temperature=2.0, novelty=1.0)).scores(EVENTS, USERS, ENDS)
    assert (turned[:, ~RECOMMENDABLE] == -torch.inf).all()
    for cell in CELLS.unique():
        own = (cell == CELLS) & RECOMMENDABLE
        assert torch.equal(plain[:, own].argsort(1), turned[:, own].argsort(1))
    torch.testing.assert_close(turned.exp().sum(1), torch.ones(len(LENGTHS)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_strongest_interests_alone_score_their_own_items_only() -> None:
    scores = unified().strongest(EVENTS, USERS, ENDS, 2)
    assert scores.shape == (len(LENGTHS), NUM_ITEMS)
    for row in scores:
        assert len(CELLS[row.isfinite()].unique()) == 2
