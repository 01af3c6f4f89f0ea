"""GemiRec's ranker: what a request may turn, large dictionaries, and the mixture of catalogue-wide conditionals.

What all rankers have in common is tested in `test_rankers.py`.
"""

import math
from dataclasses import replace

import pytest
import torch

from models.small import DIM, NUM_ITEMS, event_table, item_vectors, randomise, small_encoder
from prismrec.errors import UserError
from prismrec.models import backbone
from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker, MixtureRanker, gemirec_ranker
from prismrec.models.posterior import Knobs, Posterior, PosteriorConfig
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.models.retrieval_head import CellTable, RetrievalHead, RetrievalHeadConfig

LENGTHS = [20, 7, 1]
ITEMS = item_vectors()
RECOMMENDABLE = torch.arange(NUM_ITEMS) % 9 != 4
CELLS = torch.arange(NUM_ITEMS) * 7 % 10  # of 12 cells, two stay empty
POSTERIOR = PosteriorConfig(DIM, 6, (3, 4), 16, 1, 2, 0.1, "v1")
HEAD = RetrievalHeadConfig(DIM, 6, 12, 0.1, 3, "v1")


def gemirec(head: RetrievalHeadConfig = HEAD, spread: float = 0.2, **changes: object) -> GemiRecRanker:
    torch.manual_seed(0)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    config = RecommenderConfig(DIM, 2, 6, 12, False, 0.1, "scratch", num_items=NUM_ITEMS)  # with offsets
    recommender = Recommender(config, small_encoder(), decoder)
    context = RecommenderRanker(randomise(recommender), ITEMS, ITEMS, ITEMS, RECOMMENDABLE)
    table = CellTable(CELLS, RECOMMENDABLE, 12)
    posterior = Posterior(replace(POSTERIOR, **changes), torch.randn(12, 6), table.occupied_G)
    made = RetrievalHead(head)
    for part in (posterior, made):
        randomise(part, spread=spread)
    return gemirec_ranker(context, posterior, made, table, str)


def ranked_items(ranker: GemiRecRanker) -> torch.Tensor:
    """[N, D] with the recommender's offsets; what is read is without them."""
    items = ranker.context.recommender.items(ITEMS)
    assert (items - ITEMS).abs().mean() > 0.1
    return items


def asked() -> tuple[EventTable, torch.Tensor, torch.Tensor]:
    return event_table(LENGTHS), torch.arange(3), torch.tensor(LENGTHS)


def new_cells() -> torch.Tensor:
    """[B, G] cells that no event of the history has."""
    events = event_table(LENGTHS)
    rows = [set(CELLS[items].tolist()) for items in events.items_E.split(LENGTHS)]
    return torch.tensor([[cell not in row for cell in range(12)] for row in rows])


def test_a_recommender_that_does_not_know_what_comes_next_is_refused() -> None:
    ranker = gemirec()
    recommender = ranker.context.recommender
    recommender.config = replace(recommender.config, now=False)
    with pytest.raises(UserError, match="what comes next") as caught:
        GemiRecRanker(ranker.context, ranker.posterior, ranker.head, ranker.table, str)
    assert caught.value.where == "llm_recommender.next_item_weight"


@torch.no_grad()
def test_knobs_turn_the_posterior_and_leave_the_ranker_as_it_was() -> None:
    ranker = gemirec()
    before = ranker.cells(*asked())
    turned = ranker.with_knobs(Knobs(temperature=0.5, novelty=2.0)).cells(*asked())
    expected = (before / 0.5 + 2.0 * new_cells()).log_softmax(1)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ranker.cells(*asked()), before)
    assert torch.equal(ranker.with_knobs(Knobs()).scores(*asked()), ranker.scores(*asked()))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["in_cell", "mixture"])
@pytest.mark.parametrize("knobs", [Knobs(), Knobs(3.0), Knobs(0.4, 1.5)])
@pytest.mark.parametrize("changes", [{}, {"prior": True}])
def test_the_catalogue_is_one_distribution(variant: str, knobs: Knobs, changes: dict[str, object]) -> None:
    """The third risk of the method page: probabilities over the catalogue sum to 1, so scores are comparable."""
    ranker = gemirec(replace(HEAD, variant=variant), **changes).with_knobs(knobs)
    scores = ranker.scores(*asked())
    assert (scores[:, ~RECOMMENDABLE] == -torch.inf).all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    claims = ranker.claims(*asked())
    torch.testing.assert_close(claims.scores_BN[:, RECOMMENDABLE], scores[:, RECOMMENDABLE], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(claims.weights_BG.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@torch.no_grad()
def test_scores_of_different_interests_are_comparable() -> None:
    """A cell's items together have the cell's probability, however many they are."""
    ranker = gemirec()
    scores, cells = ranker.scores(*asked()), ranker.cells(*asked())
    for cell in range(10):
        mass = scores[:, cell == CELLS].exp().sum(1)
        torch.testing.assert_close(mass, cells[:, cell].exp(), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_heads_rule_merges_the_lists_of_the_interests_shown() -> None:
    """Places count what may be shown; the model's scores, which a pool of models reads, stay the likelihood."""
    plain = gemirec(spread=0.6)
    said = plain.scores(*asked())
    left = said.masked_fill(torch.arange(NUM_ITEMS) % 5 == 0, -torch.inf)
    assert plain.listed(said, left) is left
    cells = plain.cells(*asked()).topk(3, dim=1).indices
    for rule in ("max_score", "quotas"):
        ranker = gemirec(replace(HEAD, merge=rule), spread=0.6)
        assert torch.equal(ranker.scores(*asked()), said)
        order = ranker.listed(said, left).argsort(dim=1, descending=True)
        for user in range(3):
            lists = [left[user].masked_fill(cell != CELLS, -torch.inf) for cell in cells[user]]
            if rule == "quotas":
                firsts = sorted((float(one.max()), int(one.argmax())) for one in lists)[::-1]
                assert order[user, :3].tolist() == [item for _, item in firsts]
            else:
                best = torch.stack([one.log_softmax(0) for one in lists]).amax(0)
                assert order[user, :5].tolist() == best.argsort(descending=True)[:5].tolist()
        assert ranker.held >= 3 * ranker.num_interests


@torch.no_grad()
def test_a_mixture_by_hand() -> None:
    ranker = gemirec(replace(HEAD, variant="mixture"), spread=0.6)
    assert isinstance(ranker, MixtureRanker)
    found, cells = ranker.scores(*asked()), ranker.cells(*asked())
    _, refined = ranker.context.state(*asked())
    for user in range(3):
        best = cells[user].topk(3)
        expected = torch.zeros(NUM_ITEMS, dtype=torch.float64)
        for cell, weight in zip(best.indices, best.values.softmax(0), strict=True):
            vector = ranker.head(refined.next_BLD[user : user + 1, -1], ranker.posterior.cells_GE[cell][None])[0, 0]
            logits = (ranker.head.scale * ranked_items(ranker) @ vector).masked_fill(~RECOMMENDABLE, -torch.inf)
            expected += weight.double() * logits.double().softmax(0)
        torch.testing.assert_close(found[user].double().exp(), expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_mixtures_parts_are_told_apart() -> None:
    """`strongest`, `interests` and `claims` say the same of the three interests shown."""
    ranker = gemirec(replace(HEAD, variant="mixture"), spread=0.6)
    joint, cells = ranker.joint(*asked())
    torch.testing.assert_close(ranker.strongest(*asked(), 2), joint[:, :2].logsumexp(1))
    first, labels = ranker.interests(event_table(LENGTHS))
    torch.testing.assert_close(first, joint[0], atol=1e-5, rtol=1e-5)
    assert labels == [str(cell) for cell in cells[0].tolist()]
    claims = ranker.claims(*asked())
    assert (claims.owners_BN[:, RECOMMENDABLE].unsqueeze(2) == cells[:, None]).any(2).all()
    owned = joint.gather(1, joint.argmax(1, keepdim=True))[:, 0]
    for user in range(3):
        for item in torch.nonzero(RECOMMENDABLE).flatten().tolist():
            column = cells[user].tolist().index(int(claims.owners_BN[user, item]))
            assert joint[user, column, item] == owned[user, item]


@torch.no_grad()
@pytest.mark.parametrize("prior", [False, True])
def test_a_large_dictionary_is_ranked_by_its_beam(prior: bool) -> None:
    """As exactly, where the beam is wide enough; else the cells found are, and the others share the rest."""
    exact, wide, narrow = (gemirec(prior=prior, **size) for size in ({}, {"max_cells": 11, "beam": 12},
                                                                     {"max_cells": 11, "beam": 2}))  # fmt: skip
    torch.testing.assert_close(wide.scores(*asked()), exact.scores(*asked()), atol=1e-4, rtol=1e-4)
    assert (exact.num_interests, narrow.num_interests) == (3, 2)
    found, whole = narrow.cells(*asked()), exact.cells(*asked())
    assert torch.equal(found == -torch.inf, whole == -torch.inf)
    assert (torch.isclose(found, whole, atol=1e-4) & (whole > -torch.inf)).sum(1).min() >= 2
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    assert narrow.interest_vectors(*asked()).shape == (3, 2, DIM)


@torch.no_grad()
def test_an_untrained_prior_and_head_rank_as_the_recommenders_next_item() -> None:
    """Training starts at the recommender's own prediction, and can only improve on it."""
    ranker = gemirec(spread=0.0, prior=True)
    ranker.head.log_scale.copy_(ranker.context.recommender.log_scale)
    _, refined = ranker.context.state(*asked())
    logits = ranker.context.recommender.scale * refined.next_BLD[:, -1] @ ranked_items(ranker).T
    expected = logits.masked_fill(~RECOMMENDABLE, -torch.inf).log_softmax(1)
    torch.testing.assert_close(ranker.scores(*asked()), expected, atol=1e-4, rtol=1e-4)


def test_seen_cells_and_masses_of_cells_by_hand() -> None:
    table = CellTable(torch.tensor([0, 2, 2, 1]), torch.tensor([True, True, True, False]), 4)
    history = EventTable([0, 2, 3], [1, 1, 3], None).cut(torch.arange(2), torch.zeros(2).long(), torch.tensor([2, 1]))
    assert table.seen(history).tolist() == [[False, False, True, False], [False, True, False, False]]
    found = table.log_mass(torch.tensor([[0.5, 0.2, 0.3, 9.0]]).log()).exp()
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0, 0.5, 0.0]]), atol=1e-6, rtol=1e-5)
    assert math.isfinite(float(table.log_mass(torch.zeros(1, 4)).min()))
