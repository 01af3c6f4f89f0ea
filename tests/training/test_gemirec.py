"""Training of posterior and retrieval head: their losses sum to the exact likelihood of the next item."""

from typing import Any

import numpy as np
import pytest
import torch

from models.small import DIM, item_vectors, randomise, small_encoder
from prismrec.models import backbone
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig
from prismrec.training.gemirec import PosteriorTask, RetrievalTask
from prismrec.training.loop import fit
from training.small import NUM_ITEMS, Walks, next_item, random_lengths, training

RECENT = 6
NOT_RECOMMENDABLE = [4, 11]


def ranker(seed: int = 0) -> GemiRecRanker:
    torch.manual_seed(seed)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    recommender = Recommender(RecommenderConfig(DIM, 2, RECENT, 12, False, 0.1, "scratch"), small_encoder(), decoder)
    randomise(recommender)
    recommendable = torch.ones(NUM_ITEMS, dtype=torch.bool)
    recommendable[NOT_RECOMMENDABLE] = False
    items = item_vectors(NUM_ITEMS)
    context = RecommenderRanker(recommender, items, items, items, recommendable)
    table = CellTable(torch.arange(NUM_ITEMS) // 3, recommendable, 12)  # cells 10 and 11 are empty
    config = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1")
    posterior = Posterior(config, torch.randn(12, 6), table.occupied_G)
    head = RetrievalHead(RetrievalHeadConfig(DIM, 6, 12, 0.1, 3, "v1"))
    return GemiRecRanker(context, posterior.eval(), head.eval(), table, str)


def world(lengths: list[int] | None = None) -> Walks:
    made = Walks(lengths if lengths is not None else random_lengths(60, longest=20))
    made.recommendable[NOT_RECOMMENDABLE] = False
    return made


Task = type[PosteriorTask] | type[RetrievalTask]


def task(kind: Task, made: Walks, ranked: GemiRecRanker | None = None, **changes: Any) -> Any:
    parameters = training(**changes)
    return kind(ranked if ranked is not None else ranker(), made.data(), parameters, 0)


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_crops_hold_every_user_once_and_training_events_only(kind: Task) -> None:
    walks = world()
    batches = task(kind, walks).epoch(np.random.default_rng(0))
    seen = [entry for batch in batches for entry in zip(*(part.tolist() for part in batch), strict=True)]
    assert sorted(user for user, _, _ in seen) == np.flatnonzero(walks.train_ends >= 2).tolist()
    for user, start, end in seen:
        events = int(walks.train_ends[user])
        assert end - start == min(events, RECENT)
        assert end <= events


def test_positions_know_their_next_item() -> None:
    walks = world()
    made = task(PosteriorTask, walks)
    counted = 0
    for batch in made.epoch(np.random.default_rng(0)):
        found = made.positions(batch)
        assert not found.context_BLD.requires_grad, "the recommender is frozen"
        expected = 0
        for row, end in enumerate(batch.ends_B.tolist()):
            own = walks.of(int(batch.users_B[row]))[max(0, end - RECENT) : end]
            expected += sum(item not in NOT_RECOMMENDABLE for item in own[1:])
        assert len(found.targets_P) == expected, "all positions but the last, when there is room"
        columns_P = found.recent.items_BL.shape[1] - found.rows.back_P
        places = zip(found.rows.users_P.tolist(), columns_P.tolist(), found.targets_P.tolist(), strict=True)
        for row, column, target in places:
            assert found.recent.mask_BL[row, column]
            assert target == next_item(int(found.recent.items_BL[row, column]))
            assert target not in NOT_RECOMMENDABLE
        counted += expected
    assert counted > 100
    few = task(PosteriorTask, walks, positions_per_step=5)
    assert len(few.positions(few.epoch(np.random.default_rng(0))[0]).targets_P) == 5


@torch.no_grad()
def test_the_two_losses_are_the_exact_likelihood_of_the_next_item() -> None:
    """MIPDM's loss + the in-cell loss = -log P(i | u) of the ranker that serves, at every position."""
    walks = world([5, 6, 7, 8, 8, 7])  # windows that start at the first event: positions are served the same way
    ranked = ranker()
    posterior, retrieval = (task(kind, walks, ranked) for kind in (PosteriorTask, RetrievalTask))
    (batch,) = posterior.epoch(np.random.default_rng(0))
    total = posterior.loss(batch).total + retrieval.loss(batch).total
    exact = []
    for user in range(6):
        own = walks.of(user)
        for end in range(1, int(walks.train_ends[user])):
            if own[end] in NOT_RECOMMENDABLE:
                continue
            scores = ranked.scores(posterior.data.training_events, torch.tensor([user]), torch.tensor([end]))
            exact.append(-scores[0, own[end]])
    assert len(exact) > 10
    torch.testing.assert_close(total, torch.stack(exact).mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_only_the_trained_part_moves(kind: Task) -> None:
    ranked = ranker()
    parts = {"recommender": ranked.context.recommender, "posterior": ranked.posterior, "head": ranked.head}
    before = {name: {key: tensor.clone() for key, tensor in part.state_dict().items()} for name, part in parts.items()}
    made = task(kind, world(), ranked, epochs=1)
    fit(made, made.training, seed=0)
    moved = {
        name for name, part in parts.items()
        if any(not torch.equal(tensor, before[name][key]) for key, tensor in part.state_dict().items())
    }  # fmt: skip
    assert moved == {"posterior" if kind is PosteriorTask else "head"}


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_it_learns(kind: Task) -> None:
    results = []
    for _ in range(2):
        made = task(kind, world(random_lengths(120)), epochs=6, patience=6, learning_rate=0.02)
        curve = fit(made, made.training, seed=0)
        weights = {name: tensor.numpy().tobytes() for name, tensor in made.module.state_dict().items()}
        results.append((weights, [record.as_dict() for record in curve]))
    assert curve[-1].loss < 0.85 * curve[0].loss
    assert max(r.validation["ndcg@10"] for r in curve[1:]) > curve[0].validation["ndcg@10"]
    assert results[0] == results[1], "one seed, one result, to the byte"


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_histories_no_longer_than_the_recent_window_train_too(kind: Task) -> None:
    """Nobody has a long history then, and the recommender's null vectors stand in; its weights stay frozen."""
    ranked = ranker()
    made = task(kind, world([RECENT] * 20), ranked, epochs=1)
    fit(made, training(epochs=1), 0)
    assert not any(parameter.requires_grad for parameter in ranked.context.recommender.parameters())
