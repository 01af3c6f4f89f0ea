"""Rankers: proper distributions, one user's ranking is the merged scores, parts that do not fit are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.small import DIM, NUM_ITEMS, histories, item_vectors, randomise, small_encoder
from prismrec.errors import UserError
from prismrec.models import backbone
from prismrec.models.baselines import AGE_DECAY, DecayedMarkovRanker
from prismrec.models.events import EventTable
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.rankers import (
    GemiRecRanker,
    HyMiRecRanker,
    LightweightEncoderRanker,
    PopularityRanker,
    Ranker,
    recent_and_long,
)
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig

LENGTHS = [20, 7, 1]
ITEMS = item_vectors()
RECOMMENDABLE = torch.arange(NUM_ITEMS) % 9 != 4
CELLS = torch.arange(NUM_ITEMS) * 7 % 10  # of 12 cells, two stay empty


def hymirec() -> HyMiRecRanker:
    torch.manual_seed(0)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    recommender = Recommender(RecommenderConfig(DIM, 2, 6, 12, False, 0.1, "scratch"), small_encoder(), decoder)
    return HyMiRecRanker(randomise(recommender), ITEMS, ITEMS, item_vectors(seed=1), RECOMMENDABLE)


def gemirec(head_dictionary: str = "v1") -> GemiRecRanker:
    torch.manual_seed(1)
    table = CellTable(CELLS, RECOMMENDABLE, 12)
    config = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1")
    posterior = randomise(Posterior(config, torch.randn(12, 6), table.occupied_G))
    head = randomise(RetrievalHead(RetrievalHeadConfig(DIM, 6, 12, 0.1, 3, head_dictionary)))
    return GemiRecRanker(hymirec(), posterior, head, table, lambda cell: f"cell {cell}")


def rankers() -> list[Ranker]:
    return [
        PopularityRanker(np.arange(NUM_ITEMS), RECOMMENDABLE),
        LightweightEncoderRanker(small_encoder(), ITEMS, RECOMMENDABLE),
        hymirec(),
        gemirec(),
    ]


@pytest.fixture(params=rankers(), ids=lambda ranker: ranker.name)
def ranker(request: pytest.FixtureRequest) -> Ranker:
    return request.param


def of_user(user: int) -> tuple[np.ndarray, np.ndarray]:
    offsets, items, times = histories(LENGTHS)
    return items[offsets[user] : offsets[user + 1]], times[offsets[user] : offsets[user + 1]]


@torch.no_grad()
def test_gemirec_scores_are_one_distribution_over_the_catalogue() -> None:
    """Log P(m_i | u) + log P(i | u, m_i) of the real models: probabilities that sum to 1."""
    scores = gemirec().scores(EventTable(*histories(LENGTHS)), torch.arange(3), torch.tensor(LENGTHS))
    assert (scores[:, ~RECOMMENDABLE] == -torch.inf).all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("user", [0, 1, 2])
def test_one_users_ranking_is_the_merged_scores(ranker: Ranker, user: int) -> None:
    """What is served is what was measured: the same order, now normalised over what may be recommended."""
    ranking = ranker.rank(*of_user(user), None)
    with torch.no_grad():
        end = torch.tensor([LENGTHS[user]])
        merged = ranker.scores(EventTable(*histories(LENGTHS)), torch.tensor([user]), end)[0]
    expected = merged.masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(0)
    torch.testing.assert_close(torch.from_numpy(ranking.scores_N), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kept", [None, 1, 2, 100])
def test_interests_are_distributions_and_their_weights_sum_to_one(ranker: Ranker, kept: int | None) -> None:
    ranking = ranker.rank(*of_user(0), kept)
    count = len(ranking.labels_K)
    assert ranking.interest_scores_KN.shape == (count, NUM_ITEMS)
    assert len(set(ranking.labels_K)) == count
    assert kept is None or count <= kept
    assert ranking.weights_K.sum() == pytest.approx(1, abs=1e-5)
    assert np.all(np.diff(ranking.weights_K) <= 1e-7), "strongest first"
    np.testing.assert_allclose(np.exp(ranking.interest_scores_KN).sum(1), 1, atol=1e-4)
    assert np.exp(ranking.scores_N).sum() == pytest.approx(1, abs=1e-4)
    assert np.all(ranking.scores_N[~RECOMMENDABLE.numpy()] == -np.inf)
    if kept == 100 or (kept is not None and count == kept):  # merged from these interests alone
        mixture = (ranking.weights_K[:, None] * np.exp(ranking.interest_scores_KN)).sum(0)
        np.testing.assert_allclose(np.exp(ranking.scores_N), mixture, atol=1e-5)


def test_gemirec_shows_the_number_of_interests_it_was_trained_with() -> None:
    ranking = gemirec().rank(*of_user(0), None)
    assert len(ranking.labels_K) == 3
    for label, scores in zip(ranking.labels_K, ranking.interest_scores_KN, strict=True):
        cell = int(label.split()[1])
        assert set(np.flatnonzero(scores > -np.inf)) == set(
            np.flatnonzero((cell == CELLS).numpy() & RECOMMENDABLE.numpy())
        )


@torch.no_grad()
def test_without_times_they_are_unknown_not_zero() -> None:
    items, times = of_user(0)
    for ranker in (hymirec(), gemirec()):
        without, zero, timed = (ranker.rank(items, when, None).scores_N for when in (None, times * 0, times))
        table = EventTable(np.array([0, len(items)]), items, None)
        merged = ranker.scores(table, torch.tensor([0]), torch.tensor([len(items)]))[0]
        expected = merged.masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(0)
        torch.testing.assert_close(torch.from_numpy(without), expected, atol=1e-4, rtol=1e-5)
        for one, other in ((without, zero), (without, timed), (zero, timed)):
            assert not np.allclose(one, other)


def test_popularity_is_the_share_of_events() -> None:
    counts = np.array([5, 0, 9, 2])
    scores = PopularityRanker(counts, torch.tensor([True, True, False, True])).rank(np.array([0]), None, None)
    np.testing.assert_allclose(np.exp(scores.scores_N), [6 / 10, 1 / 10, 0, 3 / 10], rtol=1e-5)


def test_the_encoder_reads_its_length_and_no_further() -> None:
    encoder = small_encoder()
    encoder.config = replace(encoder.config, length=5)
    ranker = LightweightEncoderRanker(encoder, ITEMS, RECOMMENDABLE)
    items, times = of_user(0)
    other = items.copy()
    other[:-5] = (other[:-5] + 3) % NUM_ITEMS
    assert np.array_equal(ranker.rank(items, times, None).scores_N, ranker.rank(other, times, None).scores_N)
    other[-5] = (other[-5] + 3) % NUM_ITEMS
    assert not np.array_equal(ranker.rank(items, times, None).scores_N, ranker.rank(other, times, None).scores_N)


def test_parts_of_two_dictionaries_are_refused() -> None:
    with pytest.raises(UserError, match="different dictionaries") as caught:
        gemirec(head_dictionary="v2")
    assert "v1" in str(caught.value)
    assert "v2" in str(caught.value)


def test_the_long_history_always_comes_from_the_codebook() -> None:
    decoded = item_vectors(seed=5)
    assert recent_and_long(ITEMS, decoded, False) == (ITEMS, decoded)
    assert recent_and_long(ITEMS, decoded, True) == (decoded, decoded)


def test_decayed_markov_is_a_sum_over_history() -> None:
    """Counts at lags 1-3 weighted 1/lag, over √popularity, plus half the transpose; Σ 0.7^age · row."""
    rng = np.random.default_rng(0)
    lengths, ends = [12, 9, 5, 14], [10, 7, 3, 12]
    offsets, items, times = histories(lengths, num_items=11)
    counts, popularity = np.zeros((11, 11)), np.zeros(11)
    for user, end in enumerate(ends):
        own = items[offsets[user] : offsets[user] + end]
        for later in range(end):
            popularity[own[later]] += 1
            for lag in range(1, min(3, later) + 1):
                counts[own[later - lag], own[later]] += 1 / lag
    normalised = counts / np.sqrt(np.maximum(popularity, 1))
    rows = normalised + 0.5 * normalised.T
    ranker = DecayedMarkovRanker(items, offsets, np.array(ends), 11)
    users, cut = torch.tensor([0, 1, 3]), torch.tensor([11, 1, int(rng.integers(2, 14))])
    found = ranker.scores(EventTable(offsets, items, times), users, cut)
    for row, (user, end) in enumerate(zip(users.tolist(), cut.tolist(), strict=True)):
        own = items[offsets[user] : offsets[user] + end]
        expected = sum(AGE_DECAY**age * rows[item] for age, item in enumerate(own[::-1]))
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)
