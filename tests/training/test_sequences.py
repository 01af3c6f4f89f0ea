"""Crops, batches and validation of the training tasks."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.errors import UserError
from prismrec.models.events import UNKNOWN_GAP, EventTable
from prismrec.models.rankers import Ranker
from prismrec.training.sequences import UNTIMED_SHARE, Crops, bucketed_batches, random_crops
from training.small import NUM_ITEMS, Walks, next_item, random_lengths


class Scripted(Ranker):
    """Scores by a function of (user, its number of history events)."""

    name = "scripted"

    def __init__(self, score: Callable[[int, int], torch.Tensor]) -> None:
        self.score = score
        self.asked: list[tuple[int, int]] = []

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        pairs = list(zip(users_B.tolist(), ends_B.tolist(), strict=True))
        self.asked += pairs
        return torch.stack([self.score(user, end) for user, end in pairs])

    def interests(self, events: EventTable) -> tuple[torch.Tensor, list[str]]:
        raise NotImplementedError


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 12), st.integers(0, 1000))
def test_crops_lie_within_the_training_events(ends: list[int], length: int, seed: int) -> None:
    """Each is as long as the history allows, up to the length."""
    found = random_crops(np.array(ends), length, np.random.default_rng(seed))
    for end, crop_end in zip(ends, found, strict=True):
        assert min(end, length) <= crop_end <= end
        if end <= length:
            assert crop_end == end


def test_every_crop_of_a_long_history_comes_up() -> None:
    rng = np.random.default_rng(0)
    assert {int(random_crops(np.array([12]), 5, rng)[0]) for _ in range(200)} == set(range(5, 13))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 7), st.integers(0, 1000))
def test_batches_hold_every_user_once(count: int, batch_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(500, count, replace=False))
    batches = bucketed_batches(users, rng.integers(1, 50, count), batch_size, rng)
    assert sorted(np.concatenate(batches).tolist()) == users.tolist()
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-count // batch_size), "the same number in every epoch"


def test_batches_hold_users_of_like_length() -> None:
    """Little is padded: less than a third of what random batches pad."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 640)

    def padding(batches: list[np.ndarray]) -> int:
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    random = np.split(rng.permutation(640), 40)
    assert padding(bucketed_batches(np.arange(640), lengths, 16, rng)) < padding(random) / 3


def test_batches_differ_from_epoch_to_epoch_and_follow_the_seed() -> None:
    lengths = np.arange(100) % 13

    def epochs(seed: int) -> list[list[list[int]]]:
        rng = np.random.default_rng(seed)
        return [[batch.tolist() for batch in bucketed_batches(np.arange(100), lengths, 8, rng)] for _ in range(2)]

    first, second = epochs(0)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert epochs(0) == [first, second]


def test_the_shortest_batches_do_not_always_come_first() -> None:
    """A model must not see all short histories before all long ones."""
    lengths = np.arange(200)
    batches = bucketed_batches(np.arange(200), lengths, 10, np.random.default_rng(0))
    means = [lengths[batch].mean() for batch in batches]
    assert means != sorted(means)


def test_a_perfect_ranker_and_a_hopeless_one() -> None:
    world = Walks(random_lengths())
    data = world.data()
    perfect = Scripted(lambda user, end: torch.eye(NUM_ITEMS)[world.of(user)[end]])
    assert data.validate(perfect) == {"hr@10": 1.0, "ndcg@10": 1.0}
    assert sorted(perfect.asked) == [(user, int(end)) for user, end in enumerate(world.train_ends)]
    hopeless = Scripted(lambda user, end: -torch.eye(NUM_ITEMS)[world.of(user)[end]])
    assert data.validate(hopeless) == {"hr@10": 0.0, "ndcg@10": 0.0}


def test_seen_items_and_items_not_recommendable_are_out_of_the_ranking() -> None:
    """A constant score for all that is left: chance level among it, whatever the history scores."""
    world = Walks([9] * 40, seed=1)
    world.recommendable[[3, 17]] = False
    data = world.data()

    def score(user: int, end: int) -> torch.Tensor:
        scores = torch.zeros(NUM_ITEMS)
        scores[world.of(user)[:end]] = 5.0
        scores[[3, 17]] = 9.0
        return scores

    expected_hits, expected_gains = [], []
    for user in range(40):
        seen, target = set(world.of(user)[:7].tolist()), int(world.of(user)[7])
        left = set(range(NUM_ITEMS)) - seen - {3, 17}
        hit = target in left
        expected_hits.append(10 / len(left) if hit else 0.0)
        expected_gains.append(sum(1 / math.log2(r + 2) for r in range(10)) / len(left) if hit else 0.0)
    found = data.validate(Scripted(score))
    assert found["hr@10"] == pytest.approx(np.mean(expected_hits))
    assert found["ndcg@10"] == pytest.approx(np.mean(expected_gains))


def test_validation_ranks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks, with users sorted by length inside."""
    monkeypatch.setattr("prismrec.retrieval.chunks.MOST_USERS", 7)
    world = Walks(random_lengths(40))
    table = torch.randn(40, NUM_ITEMS, generator=torch.Generator().manual_seed(0))
    gains = []
    for user in range(40):
        end = int(world.train_ends[user])
        scores = table[user].tolist()
        target = int(world.of(user)[end])
        rank = sum(
            scores[item] > scores[target] for item in range(NUM_ITEMS) if item not in world.of(user)[:end].tolist()
        )
        gains.append(1 / math.log2(rank + 2) if rank < 10 else 0.0)
    found = world.data().validate(Scripted(lambda user, end: table[user]))
    assert found["ndcg@10"] == pytest.approx(np.mean(gains))
    assert found["hr@10"] == pytest.approx(np.mean(np.array(gains) > 0))


def test_several_targets_of_held_out_users_are_validated_together() -> None:
    """Only users with a target are asked for; targets that are in the history, or come twice, do not count."""
    world = Walks([8] * 6)
    world.items[world.offsets[2] + 7] = world.items[world.offsets[2]]  # user 2: the last target is an old item
    world.validation_starts, world.validation_ends = np.full(6, 8), np.full(6, 8)
    world.validation_starts[[2, 4, 5]], world.train_ends[[2, 4, 5]] = [5, 6, 7], 0
    world.items[world.offsets[5] + 7] = world.items[world.offsets[5]]  # user 5: so is the only one
    data = world.data()
    assert data.validation.users_C.tolist() == [2, 4]
    assert data.validation.mask_CT.tolist() == [[True, True], [True, True]]

    def score(user: int, end: int) -> torch.Tensor:
        """User 2's targets come first and second, of user 4's only the second."""
        found = torch.zeros(NUM_ITEMS)
        found[world.of(user)[end:]] = torch.tensor({2: [3.0, 2.0, 9.0], 4: [-1.0, 1.0]}[user])
        return found

    ranker = Scripted(score)
    metrics = data.validate(ranker)
    assert sorted(ranker.asked) == [(2, 5), (4, 6)]
    ideal = 1 + 1 / math.log2(3)
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / ideal) / 2)
    assert metrics["hr@10"] == 1.0


def test_nobody_to_validate_on_is_a_bug() -> None:
    world = Walks([8] * 6)
    world.validation_ends = world.validation_starts
    with pytest.raises(AssertionError, match="nobody to validate on"):
        world.data().validate(Scripted(lambda user, end: torch.zeros(NUM_ITEMS)))


def test_nobody_with_a_new_target_is_for_the_user_to_mend() -> None:
    world = Walks([8] * 6)
    for offset, end in zip(world.offsets[:-1], world.validation_starts, strict=True):
        world.items[offset + end] = world.items[offset]
    with pytest.raises(UserError, match=r"in its user's history[\s\S]*sequence_building\.repeats"):
        world.data()


def test_validation_scores_no_more_than_a_ranker_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Walks([8] * 60)
    sizes = []

    class Holding(Scripted):
        held = 5

        def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
            sizes.append(len(users_B))
            return super().scores(events, users_B, ends_B)

    monkeypatch.setattr("prismrec.retrieval.chunks.SCORES", 11 * 5 * NUM_ITEMS)
    world.data().validate(Holding(lambda user, end: torch.zeros(NUM_ITEMS)))
    assert max(sizes) == 11


def test_the_validation_sample_is_fixed_by_the_seed() -> None:
    world = Walks(random_lengths(50), validation_users=12)
    first, again, other = world.data(0), world.data(0), world.data(1)
    assert first.validation.users_C.tolist() == again.validation.users_C.tolist()
    assert len(set(first.validation.users_C.tolist())) == 12
    assert set(first.validation.users_C.tolist()) != set(other.validation.users_C.tolist())
    ranker = Scripted(lambda user, end: torch.zeros(NUM_ITEMS))
    first.validate(ranker)
    assert {user for user, _ in ranker.asked} == set(first.validation.users_C.tolist())


def test_some_users_are_trained_on_without_times_and_none_is_validated_so() -> None:
    world = Walks([6] * 1000)
    data = world.data()
    users = torch.arange(1000)
    crops = Crops(users, torch.zeros_like(users), torch.full_like(users, 6))
    batch = data.cut(crops)
    untimed = (batch.gaps_BL == UNKNOWN_GAP).all(1)
    assert torch.equal(untimed, (batch.gaps_BL == UNKNOWN_GAP).any(1))
    assert untimed.float().mean() == pytest.approx(UNTIMED_SHARE, abs=0.03)
    unasked = (batch.until_BL == UNKNOWN_GAP).all(1)
    assert unasked[untimed].all()
    assert (unasked & ~untimed).float().mean() == pytest.approx(UNTIMED_SHARE, abs=0.03)
    assert not (data.events.cut(*crops).gaps_BL == UNKNOWN_GAP).any()
    assert torch.equal(batch.items_BL, data.events.cut(*crops).items_BL)
    assert torch.equal(batch.items_BL[:, 1:], next_item(batch.items_BL[:, :-1]))
