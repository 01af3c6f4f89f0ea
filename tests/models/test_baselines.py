"""Baselines against plain loops on tiny data; nothing counts that lies after a user's end or after the request."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.small import DIM, NUM_ITEMS, event_table, histories, randomise
from prismrec.errors import UserError
from prismrec.models import baselines as module
from prismrec.models.baselines import (
    AGE_DECAY,
    EASE_RIDGE,
    MAX_AGE,
    ComiRecRanker,
    CountedEvents,
    DecayedMarkovRanker,
    EASERanker,
    ItemKNNRanker,
    RecentPopularityRanker,
    SASRecRanker,
)
from prismrec.models.comirec import ComiRec, ComiRecConfig
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker
from prismrec.models.sasrec import SASRec, SASRecConfig

N = 12  # the last item never occurs
DAY = 86_400
LENGTHS, ENDS = [12, 9, 5, 14, 3], [10, 7, 3, 12, 0]
UNTRAINED: list[Callable[[CountedEvents], Ranker]] = [
    DecayedMarkovRanker,
    ItemKNNRanker,
    EASERanker,
    lambda counted: RecentPopularityRanker(counted, days=40),
]


class World:
    """Random histories, with item, time and end of every user as lists too."""

    def __init__(self, lengths: list[int] = LENGTHS, ends: list[int] = ENDS, seed: int = 0) -> None:
        self.offsets, self.items, self.times = histories(lengths, N - 1, seed)
        self.ends = np.array(ends)

    def counted(self) -> CountedEvents:
        return CountedEvents(self.items, self.times, self.offsets, self.ends, N)

    def table(self) -> EventTable:
        return EventTable(self.offsets, self.items, self.times)

    def of(self, user: int) -> np.ndarray:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def training(self) -> list[list[int]]:
        return [self.of(user)[:end].tolist() for user, end in enumerate(self.ends)]

    def seen(self) -> np.ndarray:
        """[U, N] 1 where a user has a training event of the item."""
        matrix = np.zeros((len(self.ends), N))
        for user, own in enumerate(self.training()):
            matrix[user, own] = 1
        return matrix


USERS, CUT = torch.tensor([0, 1, 3, 4]), torch.tensor([11, 1, 13, 2])


def decayed_sum(world: World, rows: np.ndarray) -> np.ndarray:
    """Σ 0.7^age · row over each user's history, by loops."""
    histories_of = [world.of(user)[:end][::-1] for user, end in zip(USERS.tolist(), CUT.tolist(), strict=True)]
    return np.stack([sum(AGE_DECAY**age * rows[item] for age, item in enumerate(own)) for own in histories_of])


def test_counted_events_are_those_of_a_loop() -> None:
    world = World()
    popularity = np.zeros(N)
    for own in world.training():
        for item in own:
            popularity[item] += 1
    assert np.array_equal(world.counted().popularity(), popularity)
    assert np.array_equal(world.counted().user_items().toarray(), world.seen()), "1.0 however often"
    assert popularity.max() > world.seen().sum(0).max(), "some user repeats an item"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), min_size=2, max_size=6),
    st.integers(0, 1000),
)
def test_an_event_after_a_users_end_changes_nothing(users: list[tuple[int, int]], seed: int) -> None:
    """Held-out events get other items and times, far in the past; scores of training prefixes stay as they are."""
    lengths, ends = [length for length, _ in users], [end for _, end in users]
    world, other = World(lengths, ends, seed), World(lengths, ends, seed)
    position = np.arange(len(other.items)) - np.repeat(other.offsets[:-1], lengths)
    held_out = position >= np.repeat(other.ends, lengths)
    other.items[held_out] = (other.items[held_out] + 5) % N
    first = np.isin(np.arange(len(held_out)), other.offsets[:-1] + other.ends)
    other.times[held_out & ~first] -= 30 * DAY  # the first of them tells the time of the request
    asked = [user for user, end in enumerate(ends) if end > 0]
    if not asked:
        return
    users_B, ends_B = torch.tensor(asked), torch.tensor([ends[user] for user in asked])
    for build in UNTRAINED:
        before = build(world.counted()).scores(world.table(), users_B, ends_B)
        after = build(other.counted()).scores(other.table(), users_B, ends_B)
        assert torch.equal(before, after)


def test_a_training_event_does_change_scores() -> None:
    """The property above could fail."""
    world, other = World(), World()
    other.items[other.offsets[1] + 2] = (other.items[other.offsets[1] + 2] + 1) % (N - 1)
    for build in UNTRAINED:
        before = build(world.counted()).scores(world.table(), USERS, CUT)
        assert not torch.equal(before, build(other.counted()).scores(other.table(), USERS, CUT))


def test_decayed_markov_is_a_sum_over_history() -> None:
    """Counts at lags 1-3 weighted 1/lag, over √popularity, plus half the transpose; Σ 0.7^age · row."""
    world = World()
    counts, popularity = np.zeros((N, N)), np.zeros(N)
    for own in world.training():
        for later in range(len(own)):
            popularity[own[later]] += 1
            for lag in range(1, min(3, later) + 1):
                counts[own[later - lag], own[later]] += 1 / lag
    normalised = counts / np.sqrt(np.maximum(popularity, 1))
    found = DecayedMarkovRanker(world.counted()).scores(world.table(), USERS, CUT)
    np.testing.assert_allclose(found, decayed_sum(world, normalised + 0.5 * normalised.T), rtol=1e-6)


def test_item_knn_is_the_cosine_of_two_items_users() -> None:
    world = World()
    seen = world.seen()
    rows = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            if i != j and seen[:, i].any() and seen[:, j].any():
                rows[i, j] = seen[:, i] @ seen[:, j] / np.linalg.norm(seen[:, i]) / np.linalg.norm(seen[:, j])
    found = ItemKNNRanker(world.counted()).scores(world.table(), USERS, CUT)
    np.testing.assert_allclose(found, decayed_sum(world, rows), rtol=1e-6)
    assert (found[:, N - 1] == 0).all(), "an item without users resembles none"


@pytest.mark.filterwarnings("error")
def test_item_knn_is_quiet_about_items_without_users() -> None:
    ItemKNNRanker(World().counted())


def test_ease_solves_the_constrained_ridge_regression() -> None:
    """Column j: the ridge regression of item j on all other items, each solved by itself; the diagonal is zero."""
    world = World()
    seen = world.seen()
    rows = np.zeros((N, N))
    for j in range(N):
        others = np.delete(np.arange(N), j)
        own = seen[:, others]
        rows[others, j] = np.linalg.solve(own.T @ own + EASE_RIDGE * np.eye(N - 1), own.T @ seen[:, j])
    ranker = EASERanker(world.counted())
    assert ranker.rows.flags.c_contiguous, "or every product copies it first"
    assert (np.diag(ranker.rows) == 0).all()
    np.testing.assert_allclose(ranker.rows, rows, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(ranker.scores(world.table(), USERS, CUT), decayed_sum(world, rows), rtol=1e-6)


def test_events_beyond_the_oldest_age_change_no_rank() -> None:
    """What is cut away weighs less than rounding of a float32 score."""
    assert AGE_DECAY**MAX_AGE / (1 - AGE_DECAY) < 1e-8
    world = World([200, 80], [190, 70])
    found = DecayedMarkovRanker(world.counted())
    users, ends = torch.tensor([0, 1]), torch.tensor([195, 75])
    full = np.zeros((2, N))
    for user, end in enumerate(ends.tolist()):
        for age, item in enumerate(world.of(user)[:end][::-1]):
            full[user, item] += AGE_DECAY**age
    np.testing.assert_allclose(found.scores(world.table(), users, ends), full @ found.rows.toarray(), rtol=1e-7)


@pytest.mark.parametrize("days", [1, 40, 4000])
def test_recent_popularity_counts_the_window_before_the_request(days: int) -> None:
    world = World()
    found = RecentPopularityRanker(world.counted(), days).scores(world.table(), USERS, CUT)
    for row, (user, end) in enumerate(zip(USERS.tolist(), CUT.tolist(), strict=True)):
        now, expected = world.times[world.offsets[user] + end], np.zeros(N)
        for other, last in enumerate(world.ends):
            for event in range(world.offsets[other], world.offsets[other] + last):
                expected[world.items[event]] += now - days * DAY <= world.times[event] < now
        assert np.array_equal(found[row].numpy(), expected)
    assert found.any(), "or nothing is tested"


def test_recent_popularity_ends_strictly_before_the_request_and_its_window_is_closed_below() -> None:
    now = 100 * DAY
    times = np.array([now - 2 * DAY - 1, now - 2 * DAY, now - 1, now, now + 1, now, now + 9])
    counted = CountedEvents(np.arange(7), times, np.array([0, 5, 7]), np.array([5, 0]), 7)
    table = EventTable(np.array([0, 5, 7]), np.arange(7), times)
    # User 1 asks with no counted event of their own; the next event is at `now`.
    found = RecentPopularityRanker(counted, days=2).scores(table, torch.tensor([1]), torch.tensor([0]))
    assert found.tolist() == [[0, 1, 1, 0, 0, 0, 0]]


def test_recent_popularity_needs_a_next_event() -> None:
    """After all of a user's events there is no request; the next user's time is not it."""
    world = World()
    ranker = RecentPopularityRanker(world.counted(), days=40)
    with pytest.raises(AssertionError, match="next event"):
        ranker.scores(world.table(), torch.tensor([0]), torch.tensor([LENGTHS[0]]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3), st.integers(1, 9))
def test_what_happens_from_the_request_on_is_not_recent(seed: int, user: int, end: int) -> None:
    """Events of other users at or after the request get other items: the answer is the same."""
    lengths = [10, 10, 10, 10]
    world, other = World(lengths, lengths, seed), World(lengths, lengths, seed)
    now = world.times[world.offsets[user] + end]
    other.items[other.times >= now] = N - 1
    asked = torch.tensor([user]), torch.tensor([end])
    before = RecentPopularityRanker(world.counted(), 400).scores(world.table(), *asked)
    after = RecentPopularityRanker(other.counted(), 400).scores(other.table(), *asked)
    assert torch.equal(before, after)


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([12] * 9, [12] * 9)
    assert (world.seen().sum(1) ** 2).sum() > N**2, "the catalogue is the smaller bound here"
    monkeypatch.setattr(module, "EASE_MOST_ITEMS", N - 1)
    monkeypatch.setattr(module, "KNN_MOST_NUMBERS", N**2 - 1)
    with pytest.raises(UserError, match="EASE"):
        EASERanker(world.counted())
    with pytest.raises(UserError, match=f"{N**2} numbers"):
        ItemKNNRanker(world.counted())
    monkeypatch.setattr(module, "EASE_MOST_ITEMS", N)
    monkeypatch.setattr(module, "KNN_MOST_NUMBERS", N**2)
    EASERanker(world.counted())
    assert ItemKNNRanker(world.counted()).rows.nnz <= N**2


def test_item_knn_runs_on_a_large_catalogue_of_short_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([4, 3], [4, 3])
    pairs = int((world.seen().sum(1) ** 2).sum())
    assert pairs < N**2
    monkeypatch.setattr(module, "KNN_MOST_NUMBERS", pairs)
    assert ItemKNNRanker(world.counted()).rows.nnz <= pairs
    monkeypatch.setattr(module, "KNN_MOST_NUMBERS", pairs - 1)
    with pytest.raises(UserError, match=f"{pairs} numbers"):
        ItemKNNRanker(world.counted())


def trained() -> list[SASRecRanker | ComiRecRanker]:
    torch.manual_seed(0)
    sasrec = SASRec(SASRecConfig(NUM_ITEMS, DIM, layers=1, heads=2, length=6, dropout=0.3))
    comirec = ComiRec(ComiRecConfig(NUM_ITEMS, DIM, num_interests=3, length=6, dropout=0.3))
    randomise(sasrec)
    randomise(comirec)
    return [SASRecRanker(sasrec), ComiRecRanker(comirec)]


@torch.no_grad()
@pytest.mark.parametrize("ranker", trained(), ids=lambda ranker: ranker.name)
def test_a_trained_baseline_scores_its_latest_events(ranker: SASRecRanker | ComiRecRanker) -> None:
    """Cosine to the last state, or the largest over interests, of the last six events alone."""
    lengths = [20, 7, 3, 1]
    found = ranker.scores(event_table(lengths), torch.arange(4), torch.tensor(lengths) - torch.tensor([4, 0, 0, 0]))
    offsets, items, _ = histories(lengths)
    for user, end in enumerate([16, 7, 3, 1]):
        own = torch.from_numpy(items[offsets[user] : offsets[user] + end][-6:])[None]
        vectors = ranker.model(ranker.model.items()[own], torch.ones_like(own, dtype=torch.bool))
        vectors_KD = vectors[0, -1:] if ranker.name == "sasrec" else vectors[0]
        expected = (vectors_KD @ ranker.model.items().T).amax(0)
        torch.testing.assert_close(found[user], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_interests_of_trained_baselines() -> None:
    sasrec, comirec = trained()
    asked = event_table([9, 4]), torch.arange(2), torch.tensor([9, 4])
    assert sasrec.interest_vectors(*asked) is None
    vectors = comirec.interest_vectors(*asked)
    assert vectors.shape == (2, comirec.num_interests, DIM) == (2, 3, DIM)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(comirec.scores(*asked), (vectors @ comirec.items_ND.T).amax(1))


@torch.no_grad()
def test_time_free_means_that_times_change_nothing() -> None:
    """Times of events move, hours to years; a row that says it is free of time must not."""
    world, moved = World(), World()
    moved.times = moved.times + np.random.default_rng(3).integers(0, 10**8, len(moved.times))
    rankers = [(build(world.counted()), build(moved.counted())) for build in UNTRAINED]
    rankers += [(ranker, ranker) for ranker in trained()]
    assert {ranker.name for ranker, _ in rankers if ranker.reads_time} == {"recent_popularity"}
    for before, after in rankers:
        same = torch.equal(before.scores(world.table(), USERS, CUT), after.scores(moved.table(), USERS, CUT))
        assert same is not before.reads_time, before.name


def test_recent_popularity_asks_for_times() -> None:
    counted = CountedEvents(np.array([0, 1, 1]), np.zeros(3, np.int64), np.array([0, 3]), np.array([3]), 2)
    with pytest.raises(UserError, match="needs times, and there are none"):
        RecentPopularityRanker(counted, days=7)
