"""Figures of several interests: against naive counts, and known geometry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.metrics import interests
from prismrec.metrics.interests import (
    cells_hit,
    effective_rank,
    interest_cosine,
    interest_shares,
    new_interest_recall,
    new_interests,
)
from prismrec.metrics.ranking import NEVER, TargetRanks, per_user_metrics, rank_targets


def random_ranks(seed: int, levels: int) -> tuple[TargetRanks, np.ndarray]:
    """Ranks of up to six targets of seven users, and the targets' cells, one of them none."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.integers(0, levels, (7, 20)), dtype=torch.float32)
    targets = torch.tensor(np.stack([rng.permutation(20)[:6] for _ in range(7)]))
    mask = torch.tensor(rng.random((7, 6)) < 0.8)
    cells = rng.integers(-1, 3, 20)
    return rank_targets(scores, targets, mask), cells[targets.numpy()]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 5, 1000]))
def test_cells_hit_is_the_sum_of_the_hit_rates_of_the_cells(seed: int, levels: int) -> None:
    ranks, cells = random_ranks(seed, levels)
    found = cells_hit(ranks, cells, (2, 10))
    number, existing = {2: np.zeros(7), 10: np.zeros(7)}, np.zeros(7)
    for cell in range(3):
        of_cell = ranks._replace(mask_CT=ranks.mask_CT & torch.tensor(cells == cell))
        hits = per_user_metrics(of_cell, (2, 10))
        existing += of_cell.mask_CT.any(1).numpy()
        for k in (2, 10):
            number[k] += np.nan_to_num(hits[f"hr@{k}"])
    existing[existing == 0] = np.nan
    for k in (2, 10):
        np.testing.assert_allclose(found[f"cells_hit@{k}"], np.where(np.isnan(existing), np.nan, number[k]), atol=1e-12)
        np.testing.assert_allclose(found[f"cells_hit_share@{k}"], number[k] / existing, atol=1e-12)


def test_cells_hit_of_a_known_case() -> None:
    """Targets at places 1, 2, 3 and 30 of cells 4, 4, 7 and 9: two of three cells within ten, one within two."""
    higher, ones = torch.tensor([[0, 1, 2, 29]]), torch.ones(1, 4, dtype=torch.int64)
    found = cells_hit(TargetRanks(higher, ones, ones.bool()), np.array([[4, 4, 7, 9]]), (2, 10, 50))
    assert [found[f"cells_hit@{k}"][0] for k in (2, 10, 50)] == [1, 2, 3]
    assert found["cells_hit_share@10"][0] == pytest.approx(2 / 3)
    none = cells_hit(TargetRanks(higher, ones, ones.bool()), np.full((1, 4), -1), (2,))
    assert math.isnan(none["cells_hit@2"][0])
    never = cells_hit(TargetRanks(torch.full((1, 4), NEVER), 4 * ones, ones.bool()), np.array([[4, 4, 7, 9]]), (50,))
    assert never["cells_hit@50"][0] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 60))
def test_new_interests_are_absent_from_the_history(seed: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    items, cells = rng.integers(0, 15, events), rng.integers(-1, 5, 15)
    starts = rng.integers(0, events + 1, 8)
    ends = np.minimum(starts + rng.integers(0, 6, 8), events)
    targets = cells[rng.integers(0, 15, (8, 3))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interests, "EVENTS", 7)
        found = new_interests(targets, items, starts, ends, cells)
    for case in range(8):
        history = set(cells[items[starts[case] : ends[case]]].tolist())
        assert found[case].tolist() == [cell >= 0 and cell not in history for cell in targets[case].tolist()]


def test_recall_of_new_interests_counts_only_these() -> None:
    ones = torch.ones(3, 2, dtype=torch.int64)
    ranks = TargetRanks(torch.tensor([[0, 50], [0, 50], [0, 50]]), ones, ones.bool())
    new = np.array([[True, True], [False, True], [False, False]])
    found = new_interest_recall(ranks, new, (10,))["new_interest_recall@10"]
    np.testing.assert_array_equal(found, [0.5, 0.0, math.nan])


def test_effective_rank_and_cosine_of_known_shapes() -> None:
    """Orthogonal interests, collapsed ones, and two pairs of twins."""
    eye = torch.eye(4, 8)
    vectors = torch.stack([eye, eye[:1].expand(4, 8), eye[[0, 0, 1, 1]]])
    np.testing.assert_allclose(effective_rank(vectors), [4, 1, 2], atol=1e-6)
    np.testing.assert_allclose(interest_cosine(vectors), [0, 1, 2 / 6], atol=1e-6)
    with pytest.raises(AssertionError):
        interest_cosine(vectors[:, :1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 5))
def test_effective_rank_and_cosine_by_definition(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(3, count, 6, generator=generator, dtype=torch.float64), dim=2)
    singular = torch.linalg.svdvals(vectors)
    share = singular / singular.sum(1, keepdim=True)
    expected = torch.exp(-(share * share.log()).sum(1))
    np.testing.assert_allclose(effective_rank(vectors), expected, rtol=1e-6)
    cosine = vectors @ vectors.transpose(1, 2)
    off_diagonal = (cosine.sum((1, 2)) - count) / (count * (count - 1))
    np.testing.assert_allclose(interest_cosine(vectors), off_diagonal, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_new_cell_recall_against_a_naive_count(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(6, 9, generator=generator)  # no ties
    seen = torch.rand(6, 9, generator=generator) < 0.5
    targets = torch.randint(9, (6, 4), generator=generator)
    mask = torch.rand(6, 4, generator=generator) < 0.7
    found = interests.new_cell_recall(scores, seen, targets, mask, (1, 3))
    for user in range(6):
        wanted = set(targets[user][mask[user]].tolist()) - set(seen[user].nonzero().flatten().tolist())
        unseen = [cell for cell in scores[user].argsort(descending=True).tolist() if not seen[user, cell]]
        for k in (1, 3):
            value = found[f"new_cell_recall@{k}"][user]
            if wanted:
                assert value == pytest.approx(len(wanted & set(unseen[:k])) / len(wanted))
            else:
                assert math.isnan(value)


def test_transitions_of_cells_by_hand() -> None:
    cells = np.array([0, 1, 1, 2, 0, 2])
    law = interests.cell_transitions(cells, np.array([0, 4, 6]), np.array([3, 2]), 4)
    popularity = np.array([2, 2, 1, 0]) / 5  # the fourth event is not counted
    counts = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]) + popularity
    np.testing.assert_allclose(law, counts / counts.sum(1, keepdims=True))


def test_cells_of_a_list_of_items_stand_by_their_first_item() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [1.0, 0.0, 2.0, 3.0]])
    found = interests.best_of_cells(scores, torch.tensor([2, 0, 0, 2]), 3)
    assert found[:, [0, 2]].tolist() == torch.tensor([[0.9, 0.7], [2.0, 3.0]]).tolist()
    assert (found[:, 1] == -torch.inf).all()


def test_a_list_is_shared_out_among_its_owners() -> None:
    found = interest_shares(torch.tensor([[3, 3, 1, 3], [2, 2, 2, 2], [0, 1, 2, 3]]))
    assert found["interests_shown"].tolist() == [2, 1, 4]
    assert found["largest_interest_share"].tolist() == [0.75, 1.0, 0.25]


def test_overlap_of_interests_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    items = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0], [2.0, 2.0]])
    users = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    known = torch.tensor([True] * 5 + [False])  # the last would be nearest to all
    # Of the first: {0, 1, 2}, {4, 3, 2} and {0, 1, 2}: pairs share 1, 3 and 1 items.
    found = interests.interest_jaccard([(users, items)], known, 3)
    assert found.tolist() == pytest.approx([(1 / 5 + 1 + 1 / 5) / 3, 1.0])
    # The same from two spaces, of which the second has its axes swapped.
    swapped = [(users[:, :1], items), (users[:, 1:].flip(2), items.flip(1))]
    assert torch.equal(interests.interest_jaccard(swapped, known, 3), found)
    near = interests.interest_jaccard([(users, items)], known, 50)
    assert near.tolist() == [1.0, 1.0], "all items are near then"
    monkeypatch.setattr(interests, "HELD", 1)  # one user at a time
    assert torch.equal(interests.interest_jaccard([(users, items)], known, 3), found)
