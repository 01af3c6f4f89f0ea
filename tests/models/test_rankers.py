"""Rankers: proper distributions, one user's ranking is the merged scores, parts that do not fit are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.small import DIM, NUM_ITEMS, histories, item_vectors, randomise, small_encoder
from prismrec.errors import UserError
from prismrec.models import backbone
from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.merge import LinearTransitionsRanker, Merge, MergeConfig, MergedRanker
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.rankers import (
    LightweightEncoderRanker,
    PopularityRanker,
    Ranker,
    RecommenderRanker,
    ServedRanker,
    one_history,
    recent_and_long,
    strongest_ranking,
)
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig
from prismrec.models.unified import UnifiedRanker

LENGTHS = [20, 7, 1]
ITEMS = item_vectors()
RECOMMENDABLE = torch.arange(NUM_ITEMS) % 9 != 4
CELLS = torch.arange(NUM_ITEMS) * 7 % 10  # of 12 cells, two stay empty


def recommender_ranker() -> RecommenderRanker:
    torch.manual_seed(0)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    config = RecommenderConfig(DIM, 2, 6, 12, False, 0.1, "scratch", num_items=NUM_ITEMS)  # with offsets
    recommender = Recommender(config, small_encoder(), decoder)
    return RecommenderRanker(randomise(recommender), ITEMS, ITEMS, item_vectors(seed=1), RECOMMENDABLE)


def transitions() -> LinearTransitions:
    """Random regression weights of two scales, six a row."""
    generator = torch.Generator().manual_seed(5)
    model = LinearTransitions(LinearTransitionsConfig(NUM_ITEMS, 6, (0.0, 0.8)))
    lottery = torch.rand(2 * NUM_ITEMS, NUM_ITEMS, generator=generator)
    model.columns_RM.copy_(lottery.argsort(1)[:, :6])
    model.values_RM.copy_(torch.randn(2 * NUM_ITEMS, 6, generator=generator))
    return model


def members() -> dict[str, Ranker]:
    """HyMiRec's, in the order of the weights."""
    coarse = LightweightEncoderRanker(small_encoder(), ITEMS, RECOMMENDABLE)
    return {member.name: member for member in (recommender_ranker(), coarse, LinearTransitionsRanker(transitions()))}


def merged(weights: dict[str, float] | None = None, timeless: list[float] | None = None) -> MergedRanker:
    """HyMiRec with these weights."""
    weights = weights or {"llm_recommender": 0.5, "lightweight_encoder": 0.4, "linear_transitions": 1.5}
    merge = Merge(MergeConfig(tuple(weights)))
    merge.timed_M.copy_(torch.tensor(list(weights.values())))
    merge.timeless_M.copy_(merge.timed_M if timeless is None else torch.tensor(timeless))
    return MergedRanker(members(), merge, RECOMMENDABLE)


def gemirec(head_dictionary: str = "v1", **sizes: int) -> GemiRecRanker:
    torch.manual_seed(1)
    table = CellTable(CELLS, RECOMMENDABLE, 12)
    config = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1", **sizes)
    posterior = randomise(Posterior(config, torch.randn(12, 6), table.occupied_G))
    head = randomise(RetrievalHead(RetrievalHeadConfig(DIM, 6, 12, 0.1, 3, head_dictionary)))
    return GemiRecRanker(recommender_ranker(), posterior, head, table, lambda cell: f"cell {cell}")


def unified(hymirec: float = 0.9, gemirec_weight: float = 0.3, **sizes: int) -> UnifiedRanker:
    """HyMiRec's members, all of them times `hymirec`, and GemiRec; the posterior with other `sizes`."""
    alone = merged().pool.merge
    merge = alone.widened((*alone.config.members, "gemirec"))
    for weights_M in (merge.timed_M, merge.timeless_M):
        weights_M.mul_(hymirec)[-1] = gemirec_weight
    return UnifiedRanker(merged(), gemirec(**sizes), merge)


def rankers() -> list[ServedRanker]:
    return [
        PopularityRanker(np.arange(NUM_ITEMS), RECOMMENDABLE),
        LightweightEncoderRanker(small_encoder(), ITEMS, RECOMMENDABLE),
        recommender_ranker(),
        merged(),
        gemirec(),
        unified(),
    ]


@pytest.fixture(params=rankers(), ids=lambda ranker: ranker.name)
def ranker(request: pytest.FixtureRequest) -> ServedRanker:
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
def test_one_users_ranking_is_the_merged_scores(ranker: ServedRanker, user: int) -> None:
    """What is served is what was measured: the same order, now normalised over what may be recommended."""
    ranking = ranker.rank(*of_user(user), None)
    with torch.no_grad():
        end = torch.tensor([LENGTHS[user]])
        merged = ranker.scores(EventTable(*histories(LENGTHS)), torch.tensor([user]), end)[0]
    expected = merged.masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(0)
    torch.testing.assert_close(torch.from_numpy(ranking.scores_N), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kept", [None, 1, 2, 100])
def test_interests_are_distributions_and_their_weights_sum_to_one(ranker: ServedRanker, kept: int | None) -> None:
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


@torch.no_grad()
def test_claims_of_many_users_say_what_each_ranking_says(ranker: ServedRanker) -> None:
    ends = [6, 7, 1]  # the first user's history goes on after it
    claims = ranker.claims(EventTable(*histories(LENGTHS)), torch.arange(3), torch.tensor(ends))
    for user, end in enumerate(ends):
        items, times = (part[:end] for part in of_user(user))
        # Until when the last event lasts is known in the table, so the ranking has to be told of the next one.
        following = of_user(user)[1][end] if end < LENGTHS[user] else None
        ranking = ranker.rank(items, times, 100, following)
        np.testing.assert_allclose(np.exp(claims.scores_BN[user]), np.exp(ranking.scores_N), atol=1e-5)
        weights = dict(zip(claims.labels_G, claims.weights_BG[user].exp().tolist(), strict=True))
        assert {label: weights[label] for label in ranking.labels_K} == pytest.approx(
            dict(zip(ranking.labels_K, ranking.weights_K.tolist(), strict=True)), abs=1e-5
        )
        with np.errstate(divide="ignore"):
            joint_KN = ranking.interest_scores_KN + np.log(ranking.weights_K)[:, None]
        owner_N = np.array([claims.labels_G[owner] for owner in claims.owners_BN[user].tolist()])
        shown = RECOMMENDABLE.numpy()
        of_owner = np.array([joint_KN[ranking.labels_K.index(owner_N[i]), i] for i in np.flatnonzero(shown)])
        np.testing.assert_allclose(of_owner, joint_KN[:, shown].max(0), atol=1e-4)


@torch.no_grad()
def test_users_ranked_together_get_what_each_gets_alone(ranker: ServedRanker) -> None:
    asked = [(0, True, None), (1, False, 2), (2, True, 1), (1, True, 100)]  # user, whether times are known, interests
    tables, alone = [], []
    for user, timed, wanted in asked:
        items, times = of_user(user)
        request = (items, times if timed else None, wanted, int(times[-1]) + 60 if timed and user else None)
        tables.append(one_history(request[0], request[1], request[3]))
        alone.append(ranker.rank(*request))
    together = ranker.rank_all(EventTable.joined(tables), [wanted for _, _, wanted in asked])
    for one, other in zip(together, alone, strict=True):
        assert one.labels_K == other.labels_K
        for name in ("scores_N", "interest_scores_KN", "weights_K"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_prediction_is_enough_to_rank_by() -> None:
    whole, last = recommender_ranker(), recommender_ranker()
    last.predictions = 1
    for user in range(3):
        one, other = (ranker.rank(*of_user(user), None).scores_N for ranker in (whole, last))
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


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
    for ranker in (recommender_ranker(), gemirec()):
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


def test_recent_and_long_histories_are_read_from_the_tables_they_are_told() -> None:
    decoded = item_vectors(seed=5)
    sizes = RecommenderConfig(DIM, 2, 6, 12, False, 0.1, "scratch")
    assert recent_and_long(ITEMS, decoded, sizes) == (ITEMS, decoded)
    assert recent_and_long(ITEMS, decoded, replace(sizes, recent_from_codebook=True)) == (decoded, decoded)
    assert recent_and_long(ITEMS, decoded, replace(sizes, long_from="raw")) == (ITEMS, ITEMS)


def asked() -> tuple[EventTable, torch.Tensor, torch.Tensor]:
    """All users, after all their events."""
    return EventTable(*histories(LENGTHS)), torch.arange(3), torch.tensor(LENGTHS)


@torch.no_grad()
def test_scores_of_the_encoder_are_its_merged_interests() -> None:
    ranker = LightweightEncoderRanker(small_encoder(), ITEMS, RECOMMENDABLE)
    vectors = ranker.interest_vectors(*asked())
    merged = torch.exp(ranker.encoder.scale * torch.einsum("bkd,nd->bkn", vectors, ITEMS)).sum(1).log()
    torch.testing.assert_close(ranker.scores(*asked()), merged, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_scores_of_the_recommender_are_its_gated_interests() -> None:
    ranker = recommender_ranker()
    vectors, gate = ranker.interest_vectors(*asked()), ranker.state(*asked()).refined.gate_BK1
    items = ranker.recommender.items(ITEMS)
    assert (items - ITEMS).abs().mean() > 0.1
    joint = ranker.recommender.scale * torch.einsum("bkd,nd->bkn", vectors, items) + gate[..., None]
    torch.testing.assert_close(ranker.scores(*asked()), joint.exp().sum(1).log(), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_all_interests_together_are_the_scores(ranker: ServedRanker) -> None:
    every = ranker.strongest(*asked(), 100)[:, RECOMMENDABLE]
    torch.testing.assert_close(every, ranker.scores(*asked())[:, RECOMMENDABLE], atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kept", [1, 2])
def test_the_strongest_interests_are_those_that_are_served(ranker: ServedRanker, kept: int) -> None:
    """`strongest` of many users at once is `rank` of each with so many interests, up to a constant."""
    found = ranker.strongest(*asked(), kept).masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(1)
    for user in range(3):
        served = torch.from_numpy(ranker.rank(*of_user(user), kept).scores_N)
        torch.testing.assert_close(found[user], served, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_strongest_interest_has_most_mass_on_what_may_be_recommended() -> None:
    """An interest that points at items out of the catalogue is not the strongest."""
    encoder = small_encoder(num_interests=3)
    out = int(torch.nonzero(~RECOMMENDABLE)[0])
    vectors = torch.stack([ITEMS[out], ITEMS[0], -ITEMS[out]])[None]
    encoder.forward = lambda items, events: vectors.expand(len(items), -1, -1)
    ranker = LightweightEncoderRanker(encoder, ITEMS, RECOMMENDABLE)
    joint_KN = encoder.interest_scores(vectors, ITEMS)[0]
    mass_K = joint_KN[:, RECOMMENDABLE].logsumexp(1)
    assert joint_KN.logsumexp(1).argmax() != mass_K.argmax(), "or the test shows nothing"
    torch.testing.assert_close(ranker.strongest(*asked(), 1)[1], joint_KN[mass_K.argmax()])


@torch.no_grad()
def test_gemirecs_strongest_interest_is_one_cell() -> None:
    ranker = gemirec()
    found = ranker.strongest(*asked(), 1)
    for user in range(3):
        cell = set(CELLS[found[user] > -torch.inf].tolist())
        assert len(cell) == 1
        top = ranker.rank(*of_user(user), 1)
        assert top.labels_K == [f"cell {cell.pop()}"]


@torch.no_grad()
def test_interest_vectors_are_unit_vectors_one_for_each_interest(ranker: ServedRanker) -> None:
    found = ranker.interest_vectors(*asked())
    if ranker.num_interests == 1:
        assert found is None
    else:
        assert found.shape == (3, ranker.num_interests, DIM)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, ranker.num_interests))


def test_the_number_of_interests() -> None:
    """Coarse; refined and "now"; both together; cells shown, but no more than have items."""
    assert [ranker.num_interests for ranker in rankers()] == [1, 3, 3, 6, 3, 3]


@torch.no_grad()
def test_gemirecs_interest_vectors_are_the_centres_of_the_cells_it_shows() -> None:
    ranker = gemirec()
    found = ranker.interest_vectors(*asked())
    for user in range(3):
        labels = ranker.rank(*of_user(user), None).labels_K
        for vector, label in zip(found[user], labels, strict=True):
            torch.testing.assert_close(vector, ranker.centres_GD[int(label.split()[1])])
    assert (~ranker.table.occupied_G).sum() == 2
    for cell in range(12):
        total = ranker.context.recommender.items(ITEMS)[(cell == CELLS) & RECOMMENDABLE].sum(0)
        expected = total / total.norm() if ranker.table.occupied_G[cell] else torch.zeros(DIM)
        torch.testing.assert_close(ranker.centres_GD[cell], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_gemirecs_conditioned_vectors_are_those_it_ranks_a_cell_with() -> None:
    ranker = gemirec()
    vectors_BKD = ranker.conditioned_vectors(*asked())
    cells_BG, scores_BN = ranker.cells_and_scores(*asked())
    items_ND = ranker.context.recommender.items(ITEMS)
    for user, cells_K in enumerate(cells_BG.topk(ranker.num_interests, dim=1).indices.tolist()):
        for vector_D, cell in zip(vectors_BKD[user], cells_K, strict=True):
            own = torch.nonzero((cell == CELLS) & RECOMMENDABLE).flatten()
            expected = cells_BG[user, cell] + (ranker.head.scale * items_ND[own] @ vector_D).log_softmax(0)
            torch.testing.assert_close(scores_BN[user, own], expected, atol=1e-4, rtol=1e-4)


def test_the_users_own_interests_are_not_conditioned() -> None:
    assert all(one.conditioned_vectors(*asked()) is None for one in rankers() if one.dictionary is None)


@torch.no_grad()
def test_a_dictionary_of_few_cells_shows_no_empty_ones() -> None:
    """Two cells have items, the head was trained to show three."""
    torch.manual_seed(1)
    table = CellTable(torch.arange(NUM_ITEMS) % 2 * 5, RECOMMENDABLE, 12)
    config = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1")
    posterior = randomise(Posterior(config, torch.randn(12, 6), table.occupied_G))
    head = randomise(RetrievalHead(RetrievalHeadConfig(DIM, 6, 12, 0.1, 3, "v1")))
    ranker = GemiRecRanker(recommender_ranker(), posterior, head, table, str)
    found = ranker.interest_vectors(*asked())
    assert found.shape == (3, 2, DIM)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 2))


@torch.no_grad()
def test_time_aware_means_that_times_change_scores(ranker: ServedRanker) -> None:
    table, users, ends = asked()
    without = table.without_times(np.ones(3, dtype=bool))
    same = torch.equal(ranker.scores(table, users, ends), ranker.scores(without, users, ends))
    assert same is not ranker.reads_time


@torch.no_grad()
def test_events_after_the_end_change_nothing(ranker: ServedRanker) -> None:
    offsets, items, times = histories(LENGTHS)
    users, ends = torch.tensor([0, 1]), torch.tensor([9, 3])
    later = items.copy()
    for user, end in zip(users, ends, strict=True):
        later[offsets[user] + end : offsets[user + 1]] = 0
    before = ranker.scores(EventTable(offsets, items, times), users, ends)
    assert torch.equal(before, ranker.scores(EventTable(offsets, later, times), users, ends))


@torch.no_grad()
def test_gemirecs_interests_need_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = gemirec()
    asked = EventTable(*histories(LENGTHS)), torch.arange(3), torch.tensor(LENGTHS)
    cells_BG = ranker.cells(*asked)

    def scored(*_: object) -> None:
        raise AssertionError("items were scored")

    monkeypatch.setattr(ranker.head, "log_probabilities", scored)
    best = cells_BG.topk(ranker.num_interests, dim=1).indices
    assert torch.equal(ranker.interest_vectors(*asked), ranker.centres_GD[best])


def test_what_a_ranker_holds_for_a_user() -> None:
    """A vector of scores per interest; GemiRec a vector of every cell, and padded places."""
    assert [one.held for one in rankers()[:3]] == [one.num_interests for one in rankers()[:3]] == [1, 3, 3]
    ranker = gemirec()
    places = sum(bucket.items_gs.numel() for bucket in ranker.table.buckets)
    of_cells = int(ranker.table.occupied_G.sum()) * max(ranker.head.config.hidden, DIM)
    assert places <= 2 * NUM_ITEMS
    assert ranker.held * NUM_ITEMS >= of_cells + places


@torch.inference_mode()
@pytest.mark.parametrize("num_interests", [1, 3, 5])
def test_what_is_kept_of_a_user_ranks_as_the_history_does(num_interests: int) -> None:
    """GemiRec's nearline part: a few numbers a user, and no network but the retrieval head."""
    ranker = gemirec()
    items, times = of_user(0)
    kept = ranker.keep(one_history(items, times, None), 5)
    expected = ranker.rank(items, times, num_interests)
    found = strongest_ranking(*ranker.kept_interests(kept), num_interests)
    assert found.labels_K == expected.labels_K
    for one, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(np.exp(one), np.exp(other), atol=1e-6)
