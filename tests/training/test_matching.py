"""DMIL: groups, the best matching, and who gets a gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from models.small import item_vectors
from prismrec.training.losses import catalogue_cross_entropy
from prismrec.training.matching import MAX_INTERESTS, assign_interests, best_matching, cosine_groups, dmil_loss

SCALE = torch.tensor(10.0)
ONES = torch.ones(1, 6, dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lottery(mask: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.rand(mask.shape, generator=generator(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 10_000), st.booleans())
def test_matching_is_the_optimal_assignment(batch: int, size: int, seed: int, ties: bool) -> None:
    similarity = torch.randn(batch, size, size, generator=generator(seed))
    similarity = similarity.round() if ties else similarity
    found = best_matching(similarity)
    assert found.shape == (batch, size)
    for user in range(batch):
        assert sorted(found[user].tolist()) == list(range(size)), "one to one"
        rows, columns = linear_sum_assignment(-similarity[user].double().numpy())
        best = similarity[user].double().numpy()[rows, columns].sum()
        assert float(similarity[user][torch.arange(size), found[user]].double().sum()) == pytest.approx(best, abs=1e-4)


def test_eight_interests_still_match() -> None:
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    assert torch.equal(best_matching(torch.eye(MAX_INTERESTS)[order][None])[0], order)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=7), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 1000)
)
def test_groups_are_clusters_of_the_targets(users: list[list[int]], num_groups: int, seed: int) -> None:
    """Used groups are those that hold a target, no more than distinct targets; a user without targets has none."""
    items = item_vectors(5, 6)
    width = max(1, *map(len, users))
    targets = torch.tensor([user + [0] * (width - len(user)) for user in users])
    mask = torch.tensor([[True] * len(user) + [False] * (width - len(user)) for user in users])
    groups = cosine_groups(items[targets], mask, num_groups, lottery(mask, seed))
    for row, user in enumerate(users):
        chosen = groups.group_BW[row][mask[row]].tolist()
        used = {group for group in range(num_groups) if groups.used_BK[row, group]}
        assert set(chosen) == used
        assert len(used) <= min(num_groups, len(set(user)))
        if user:
            assert used
        by_item: dict[int, set[int]] = {}
        for item, group in zip(user, chosen, strict=True):
            by_item.setdefault(item, set()).add(group)
        assert all(len(found) == 1 for found in by_item.values()), "equal targets in different groups"
        for group in used:
            members = items[[item for item, its in zip(user, chosen, strict=True) if its == group]]
            torch.testing.assert_close(groups.centres_BKD[row, group], F.normalize(members.sum(0), dim=0))


def test_as_many_groups_as_distinct_targets_when_they_are_few() -> None:
    items = item_vectors(6, 6)
    groups = cosine_groups(items[:3][None], ONES[:, :3], 5, lottery(ONES[:, :3]))
    assert groups.used_BK.sum() == 3
    assert len(set(groups.group_BW[0].tolist())) == 3


@pytest.mark.parametrize("seed", range(5))
def test_planted_groups_are_found(seed: int) -> None:
    """Two tight bundles that start from any two targets: k-means separates them unless both starts are in one."""
    centres = torch.eye(2, 8)
    targets = F.normalize(centres[[0, 1, 0, 1, 1, 0]] + 0.02 * torch.randn(6, 8, generator=generator(seed)), dim=-1)
    starts_apart = 0
    for trial in range(20):
        groups = cosine_groups(targets[None], ONES, 2, lottery(ONES, trial))
        first = groups.group_BW[0, 0]
        starts_apart += torch.equal(groups.group_BW[0] == first, torch.tensor([True, False, True, False, False, True]))
    assert starts_apart >= 15


def test_starts_differ_between_users_of_a_batch() -> None:
    """A start shared by the batch is a known fault of the public code."""
    targets = F.normalize(torch.randn(1, 8, 6, generator=generator(3)), dim=-1).expand(64, -1, -1)
    mask = torch.ones(64, 8, dtype=torch.bool)
    groups = cosine_groups(targets, mask, 2, lottery(mask))
    partitions = {tuple((row == row[0]).tolist()) for row in groups.group_BW}
    assert len(partitions) > 1


def test_empty_groups_take_no_part_in_the_matching() -> None:
    """One target, three interests: it pulls the nearest one, although the other groups are empty."""
    interests = torch.eye(3, 4)[None]
    for nearest in range(3):
        target = F.normalize(interests[:, nearest] + 0.1, dim=-1)[:, None]
        for seed in range(5):
            found = assign_interests(interests, target, ONES[:, :1], lottery(ONES[:, :1], seed))
            assert found.tolist() == [[nearest]]


def test_a_negative_cosine_still_matches_best() -> None:
    """All interests point away: the least bad one is matched, not one that an empty group left over."""
    interests = F.normalize(torch.tensor([[[-1.0, 0.1], [-1.0, 0.9], [-1.0, -0.5]]]), dim=-1)
    target = torch.tensor([[[1.0, 0.0]]])
    best = (interests[0] @ target[0, 0]).argmax()
    assert assign_interests(interests, target, ONES[:, :1], lottery(ONES[:, :1])).tolist() == [[best]]


def test_targets_go_to_the_interests_that_already_mean_them() -> None:
    interests = torch.eye(3, 4)[None]
    order = [2, 0, 1, 0, 2]
    targets = F.normalize(torch.eye(3, 4)[order] + 0.05, dim=-1)[None]
    hits = [
        assign_interests(interests, targets, ONES[:, :5], lottery(ONES[:, :5], seed))[0].tolist() == order
        for seed in range(20)
    ]
    # k-means may start two groups inside one bundle; where it does not, the matching is exact.
    assert sum(hits) >= 5


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    items = item_vectors(25, 6)
    interests = F.normalize(torch.randn(3, 4, 6, generator=generator(seed)), dim=-1)
    targets = torch.randint(0, 25, (3, 5), generator=generator(seed))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True] + [False] * 4])
    return items, interests, targets, mask


def test_the_loss_is_that_of_the_matched_interests() -> None:
    items, interests, targets, mask = case()
    found = dmil_loss(interests, targets, mask, items, SCALE, 0.98, lottery(mask, 5))
    matched = assign_interests(interests, items[targets], mask, lottery(mask, 5))
    rows = [
        catalogue_cross_entropy(
            interests[user, matched[user, place]][None], targets[user, place][None], items, SCALE, duplicate_cosine=0.98
        )
        for user, place in mask.nonzero().tolist()
    ]
    assert len(rows) == 8
    torch.testing.assert_close(found, torch.stack(rows).mean())


def test_only_matched_interests_get_a_gradient() -> None:
    for seed in range(5):
        items, interests, targets, mask = case(seed)
        interests.requires_grad_()
        dmil_loss(interests, targets, mask, items, SCALE, 0.98, lottery(mask, seed)).backward()
        matched = assign_interests(interests, items[targets], mask, lottery(mask, seed))
        for user in range(3):
            pulled = set(matched[user][mask[user]].tolist())
            for interest in range(4):
                moved = bool(interests.grad[user, interest].abs().max() > 0)
                assert moved == (interest in pulled)
        assert len(set(matched[2][mask[2]].tolist())) == 1, "a single target pulls a single interest"


def test_masked_targets_do_not_matter() -> None:
    items, interests, targets, mask = case()
    other = torch.where(mask, targets, (targets + 9) % 25)
    first, second = (dmil_loss(interests, t, mask, items, SCALE, 0.98, lottery(mask, 1)) for t in (targets, other))
    assert torch.equal(first, second)


def test_the_matching_runs_in_bf16() -> None:
    items, interests, targets, mask = case()
    interests.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dmil_loss(interests.bfloat16(), targets, mask, items, SCALE, 0.98, lottery(mask))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(interests.grad).all()
