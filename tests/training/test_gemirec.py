"""Training of posterior and retrieval head: their losses sum to the exact likelihood of the next item."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.small import DIM, item_vectors, randomise, small_encoder
from prismrec.metrics.calibration import calibration_error
from prismrec.models import backbone
from prismrec.models.gemirec import GemiRecRanker, gemirec_ranker
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig
from prismrec.training.gemirec import PosteriorTask, RetrievalTask, cell_figures, fit_temperature
from prismrec.training.loop import Share, fit
from training.small import NUM_ITEMS, Walks, next_item, random_lengths, training

RECENT = 6
NOT_RECOMMENDABLE = [4, 11]
ITEMS = item_vectors(NUM_ITEMS)  # as they are read; they are ranked with the recommender's offsets


def ranker(seed: int = 0, variant: str = "in_cell", prior: bool = False, hidden: int = 12) -> GemiRecRanker:
    torch.manual_seed(seed)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    config = RecommenderConfig(DIM, 2, RECENT, 12, False, 0.1, "scratch", num_items=NUM_ITEMS)  # with offsets
    recommender = Recommender(config, small_encoder(), decoder)
    randomise(recommender)
    recommendable = torch.ones(NUM_ITEMS, dtype=torch.bool)
    recommendable[NOT_RECOMMENDABLE] = False
    context = RecommenderRanker(recommender, ITEMS, ITEMS, ITEMS, recommendable)
    table = CellTable(torch.arange(NUM_ITEMS) // 3, recommendable, 12)  # cells 10 and 11 are empty
    config = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1", prior=prior)
    posterior = Posterior(config, torch.randn(12, 6), table.occupied_G)
    head = RetrievalHead(RetrievalHeadConfig(DIM, 6, hidden, 0.1, 3, "v1", variant))
    return gemirec_ranker(context, posterior.eval(), head.eval(), table, str)


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
@pytest.mark.parametrize("prior", [False, True])
def test_the_two_losses_are_the_exact_likelihood_of_the_next_item(prior: bool) -> None:
    """MIPDM's loss + the in-cell loss = -log P(i | u) of the ranker that serves, at every position."""
    walks = world([5, 6, 7, 8, 8, 7])  # windows that start at the first event: positions are served the same way
    ranked = ranker(prior=prior)
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
    made = task(kind, world(), ranked)
    fit(made, made.training, seed=0, epochs=1)
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
    assert curve[-1].loss < 0.85 * curve[1].loss
    assert max(r.validation["ndcg@10"] for r in curve[2:]) > curve[1].validation["ndcg@10"]
    assert results[0] == results[1], "one seed, one result, to the byte"


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_a_training_that_only_harms_keeps_the_start(kind: Task) -> None:
    """It begins at a model that knows the walks, and takes steps that are far too long."""
    ranked, _ = trained("in_cell")
    made = task(kind, world(random_lengths(80)), ranked, epochs=2, learning_rate=0.9)
    before = {name: tensor.clone() for name, tensor in made.module.state_dict().items()}
    start, *later = fit(made, made.training, 0)
    assert (start.epoch, start.loss) == (0, None)
    assert start.validation["ndcg@10"] > max(record.validation["ndcg@10"] for record in later)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.module.state_dict().items())
    with torch.inference_mode():
        assert made.validate() == start.validation


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_histories_no_longer_than_the_recent_window_train_too(kind: Task) -> None:
    """Nobody has a long history then, and the recommender's null vectors stand in; its weights stay frozen."""
    ranked = ranker()
    made = task(kind, world([RECENT] * 20), ranked, epochs=1)
    fit(made, training(epochs=1), 0)
    assert not any(parameter.requires_grad for parameter in ranked.context.recommender.parameters())


@torch.no_grad()
@pytest.mark.parametrize("horizon", [1, 3, 50])
def test_the_horizon_is_the_cells_of_the_next_items(horizon: int) -> None:
    """Each position's loss is the mean of -log P of its next items' cells, as far as the window goes."""
    walks, ranked = world([9, 6, 12, 5]), ranker()
    made = PosteriorTask(ranked, walks.data(), training(), 0, horizon)
    (batch,) = made.epoch(np.random.default_rng(0))
    chosen = made.positions(batch)
    states = ranked.posterior(chosen.recent, chosen.context_BLD, ITEMS, made.table.cells_N)
    log_PG = ranked.posterior.log_probabilities(chosen.rows.take(states), None)
    expected, longest = [], 0
    for row, (user, back) in enumerate(zip(chosen.rows.users_P.tolist(), chosen.rows.back_P.tolist(), strict=True)):
        window = chosen.recent.items_BL[user].tolist()
        here = len(window) - back
        later = [item for item in window[here + 1 : here + 1 + horizon] if item not in NOT_RECOMMENDABLE]
        longest = max(longest, len(later))
        expected.append(-sum(log_PG[row, item // 3] for item in later) / len(later))
    assert longest == min(horizon, RECENT - 1)
    torch.testing.assert_close(made.loss(batch).total, torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prior", [False, True])
def test_the_temperature_is_the_likeliest_one(prior: bool) -> None:
    """And where all logits are twice what they were, it is twice what it was."""
    ranked, data, parameters = ranker(prior=prior), world(random_lengths(80)).data(), training(learning_rate=0.02)
    with torch.no_grad():
        ranked.context.recommender.log_scale.zero_()  # an untrained recommender should not be sure of anything
    fit(PosteriorTask(ranked, data, parameters, 0), parameters, 0)
    found = fit_temperature(ranked, data)
    assert found == ranked.posterior.config.temperature
    assert 0.3 < found < 1.9, "within its bounds, and twice it too"
    cases = data.validation
    known = ranked.table.recommendable_N[cases.targets_CT[:, 0]]
    cells = ranked.table.cells_N[cases.targets_CT[known]]
    likelihood = {}
    for temperature in (found, 0.25, 0.9 * found, 1.1 * found, 4.0):
        ranked.posterior.config = replace(ranked.posterior.config, temperature=temperature)
        with torch.no_grad():
            log = ranked.cells(data.events, cases.users_C[known], cases.starts_C[known])
        likelihood[temperature] = float(log.gather(1, cells).sum())
    assert max(likelihood, key=likelihood.__getitem__) == found, likelihood
    with torch.no_grad():
        for parameter in (
            *ranked.posterior.level_out.parameters(),
            *([ranked.posterior.prior_weight] if prior else []),
        ):
            parameter.mul_(2.0)
    assert fit_temperature(ranked, data) == pytest.approx(2 * found, rel=1e-3)


def test_an_epoch_is_validated_at_the_temperature_that_it_would_be_served_with() -> None:
    """And the next one is trained at 1 again, as the first was."""
    made = task(PosteriorTask, world(), ranker(prior=True), learning_rate=0.02)
    curve = fit(made, made.training, 0)
    assert made.posterior.config.temperature == 1.0
    found = fit_temperature(made.ranker, made.data)
    assert found != 1.0
    best = max(curve, key=lambda record: record.validation["ndcg@10"])
    with torch.inference_mode():
        assert made.data.validate(made.ranker) == best.validation
    unseen = task(PosteriorTask, world(), ranker(prior=True), learning_rate=0.02)
    losses = [record.loss for record in fit(unseen, unseen.training, 0, epochs=len(curve) - 1)]
    assert losses == [record.loss for record in curve[1:]]


@torch.no_grad()
def test_what_cells_are_worth_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that may not be recommended do not count; chunks do not show."""
    ranked, data = ranker(), world(random_lengths(80)).data()
    for parameter in ranked.posterior.level_out.parameters():
        parameter.mul_(6.0)
    found, cases = cell_figures(ranked, data), data.validation
    likelihoods, said, came = [], [], []
    for user, start, target in zip(cases.users_C, cases.starts_C, cases.targets_CT[:, 0].tolist(), strict=True):
        if target in NOT_RECOMMENDABLE:
            continue
        log_G = ranked.cells(data.events, user[None], start[None])[0]
        likelihoods.append(float(log_G[target // 3]))
        said.append(float(log_G.max().exp()))
        came.append(float(log_G.argmax() == target // 3))
    assert len(said) < len(cases.users_C)
    assert found["log_likelihood"] == pytest.approx(np.mean(likelihoods), abs=1e-5)
    assert found["calibration_error"] == pytest.approx(calibration_error(np.array(said), np.array(came)), abs=1e-5)
    monkeypatch.setattr("prismrec.training.gemirec.chunk_size", lambda *_: 7)
    assert cell_figures(ranked, data) == pytest.approx(found, abs=1e-6)
    data.recommendable_N[:] = ranked.table.recommendable_N[:] = False
    assert cell_figures(ranked, data) == {}


@torch.no_grad()
def test_interests_are_drawn_by_the_posterior() -> None:
    ranked = ranker(variant="mixture")
    own = RetrievalTask(ranked, world().data(), training(), 0, 0.0)
    batch = own.epoch(np.random.default_rng(0))[0]
    chosen = own.positions(batch, draws=2)
    assert torch.equal(own.conditions(chosen), own.table.cells_N[chosen.targets_P])
    drawn = RetrievalTask(ranked, world().data(), training(), 0, 1.0)
    states = ranked.posterior(chosen.recent, chosen.context_BLD, ITEMS, own.table.cells_N)
    law = ranked.posterior.log_probabilities(chosen.rows.take(states), None).exp().mean(0)
    counts = torch.zeros(12)
    for seed in range(200):
        draws = torch.rand(len(chosen.targets_P), 2, generator=torch.Generator().manual_seed(seed))
        counts += torch.bincount(drawn.conditions(chosen._replace(draws_PX=draws)), minlength=12)
    assert (counts[~ranked.table.occupied_G] == 0).all()
    torch.testing.assert_close(counts / counts.sum(), law, atol=0.02, rtol=0)


@torch.no_grad()
def test_each_draw_is_of_its_own_users_posterior() -> None:
    ranked = ranker(variant="mixture")
    for parameter in ranked.posterior.level_out.parameters():
        parameter.mul_(6.0)  # surer of cells than it begins, and each user of others
    drawn = RetrievalTask(ranked, world().data(), training(), 0, 1.0)
    chosen = drawn.positions(drawn.epoch(np.random.default_rng(0))[0], draws=2)
    states = ranked.posterior(chosen.recent, chosen.context_BLD, ITEMS, drawn.table.cells_N)
    below_PG = ranked.posterior.log_probabilities(chosen.rows.take(states), None).exp().cumsum(1)
    expected_P = (below_PG < chosen.draws_PX[:, 1:]).sum(1)
    assert len(expected_P.unique()) > 5
    assert torch.equal(drawn.conditions(chosen), expected_P)


@torch.no_grad()
def test_the_mixtures_loss_is_the_likelihood_among_all_items_under_the_interest() -> None:
    ranked = ranker(variant="mixture")
    made = RetrievalTask(ranked, world().data(), training(), 0, 0.0)
    batch = made.epoch(np.random.default_rng(0))[0]
    state = made.generator.get_state()
    chosen = made.positions(batch, draws=2)
    cells_PE = ranked.posterior.cells_GE[made.table.cells_N[chosen.targets_P]]
    vectors = ranked.head(chosen.rows.take(chosen.context_BLD), cells_PE[:, None])[:, 0]
    logits = ranked.head.scale * vectors @ ranked.context.recommender.items(ITEMS).T
    log_PN = logits.masked_fill(~made.table.recommendable_N, -torch.inf).log_softmax(1)
    made.generator.set_state(state)
    expected = -log_PN.gather(1, chosen.targets_P[:, None]).mean()
    torch.testing.assert_close(made.loss(batch).total, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_draws_leave_the_sample_of_positions_as_it_was_and_shares_see_their_own() -> None:
    one, other = (task(RetrievalTask, world()) for _ in range(2))
    batch = one.epoch(np.random.default_rng(0))[0]
    whole = one.positions(batch, draws=2)
    parts = []
    for part in range(3):
        other.generator.manual_seed(0)
        parts.append(other.positions(batch, Share(part, 3), draws=2))
    one.generator.manual_seed(0)
    assert torch.equal(one.positions(batch).targets_P, whole.targets_P)
    assert torch.equal(torch.cat([part.draws_PX for part in parts]), whole.draws_PX)


def trained(variant: str, posterior_share: float = 0.5) -> tuple[GemiRecRanker, RetrievalTask]:
    """Posterior, for few enough epochs to be unsure of cells, then head, on eighty walks."""
    ranked, walks = ranker(variant=variant, hidden=48), world(random_lengths(80))
    parameters = training(epochs=15, learning_rate=0.03)
    posterior = PosteriorTask(ranked, walks.data(), parameters, 0)
    head = RetrievalTask(ranked, walks.data(), parameters, 0, posterior_share)
    fit(posterior, parameters, 0, epochs=3)
    fit(head, parameters, 0, epochs=15)
    return ranked, head


@torch.no_grad()
def held_items(ranked: GemiRecRanker, made: RetrievalTask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The recommender's states before each validation event, the log-posterior, and the event's item."""
    cases = made.data.validation
    known = made.table.recommendable_N[cases.targets_CT[:, 0]]
    asked = made.data.events, cases.users_C[known], cases.starts_C[known]
    refined = ranked.context.state(*asked).refined
    return refined.next_BLD[:, -1], ranked.cells(*asked), cases.targets_CT[known, 0]


@pytest.mark.parametrize(("variant", "posterior_share"), [("in_cell", 0.0), ("mixture", 0.0), ("mixture", 0.5)])
def test_a_head_ranks_inside_a_cell_far_above_chance(variant: str, posterior_share: float) -> None:
    """Risk 1: knowing the target's cell, a head could learn to go to the cell's centre and nothing else.

    In a cell's own softmax that would bring nothing; among all items, as in the mixture, it would bring most.
    """
    ranked, made = trained(variant, posterior_share)
    user, _, targets = held_items(ranked, made)
    ranked.head.requires_grad_(False)
    same = made.table.cells_N[targets][:, None] == made.table.cells_N
    same &= made.table.recommendable_N
    if variant == "mixture":
        own_BE = ranked.posterior.cells_GE[made.table.cells_N[targets]]
        known_N = made.table.recommendable_N
        log_B1N = ranked.head.catalogue_log_probabilities(user, own_BE[:, None], made.items_ND, known_N)
        log_BN = log_B1N[:, 0].masked_fill(~same, -torch.inf).log_softmax(1)
    else:
        log_BN = ranked.head.log_probabilities(user, ranked.posterior.cells_GE, made.items_ND, made.table)
    first = log_BN.masked_fill(~same, -torch.inf).argmax(1) == targets
    assert same.sum(1).float().mean() > 2.5, "some choice inside a cell"
    chance = (1 / same.sum(1)).mean()
    assert first.float().mean() > 1.5 * chance
    likelihood = log_BN.gather(1, targets[:, None]).mean()
    assert likelihood > -same.sum(1).log().mean() + 0.2


def test_serving_is_close_to_teacher_forcing() -> None:
    """Risk 2: at serving, interests are the posterior's. Drawn ones in training keep the gap small."""
    gaps = {}
    for posterior_share in (0.0, 0.5):
        ranked, made = trained("mixture", posterior_share)
        user, cells, targets = held_items(ranked, made)
        ranked.head.requires_grad_(False)
        own_PE = ranked.posterior.cells_GE[made.table.cells_N[targets]]
        known = made.table.recommendable_N
        told = ranked.head.catalogue_log_probabilities(user, own_PE[:, None], made.items_ND, known)[:, 0]
        served = ranked._joint(cells, user)[0].logsumexp(1)
        gaps[posterior_share] = float((told - served).gather(1, targets[:, None]).mean())
    assert gaps[0.5] < 0.5 * gaps[0.0]
