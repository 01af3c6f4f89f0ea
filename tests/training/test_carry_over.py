"""What a refresh takes over: weights follow their codes, turned vectors change nothing, and its training is short."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.small import DIM, randomise
from prismrec.errors import UserError
from prismrec.models.events import EventBatch
from prismrec.models.posterior import Posterior, PosteriorConfig
from prismrec.models.retrieval_head import RetrievalHead, RetrievalHeadConfig
from prismrec.training.carry_over import STEP, VALIDATED, carry_head, carry_posterior, refresh_schedule
from prismrec.training.dictionary_refresh import Origins
from prismrec.training.gemirec import PosteriorTask, RetrievalTask
from training.small import training
from training.test_gemirec import RECENT, ranker, world

CELL_DIM = 6


def posterior(sizes: tuple[int, ...], prior: bool = False, seed: int = 0, **changes: Any) -> Posterior:
    torch.manual_seed(seed)
    shape = {"dim": DIM, "cell_dim": CELL_DIM, "hidden": 16, "layers": 1, "heads": 2, "dropout": 0.1, **changes}
    cells = sizes[0] * sizes[1]
    config = PosteriorConfig(sizes=sizes, dictionary=f"v{seed}", prior=prior, **shape)
    made = Posterior(config, torch.randn(cells, CELL_DIM), torch.ones(cells, dtype=torch.bool))
    randomise(made)
    return made.eval()


def head(seed: int = 0, **changes: Any) -> RetrievalHead:
    torch.manual_seed(seed)
    shape = {"dim": DIM, "cell_dim": CELL_DIM, "hidden": 12, "dropout": 0.1, "num_interests": 3, **changes}
    made = RetrievalHead(RetrievalHeadConfig(dictionary=f"v{seed}", **shape))
    randomise(made)
    return made.eval()


def origins(*codes: list[int], map_DD: torch.Tensor | None = None) -> Origins:
    return Origins(tuple(torch.tensor(level) for level in codes), torch.eye(DIM) if map_DD is None else map_DD)


SAME = origins([0, 1, 2], [0, 1, 2, 3])
GROWN = origins([0, 1, 2, 1], [0, 1, 2, 3, 0])  # level 1's fourth code comes from its second, level 2's fifth of 0


def orthogonal(seed: int = 3) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed))).Q


@pytest.mark.parametrize("prior", [False, True])
def test_an_unchanged_dictionary_changes_no_byte(prior: bool) -> None:
    before, after = posterior((3, 4), prior), posterior((3, 4), prior, seed=1)
    carry_posterior(before, after, SAME)
    for name, parameter in before.named_parameters():
        assert torch.equal(dict(after.named_parameters())[name], parameter), name
    assert not torch.equal(after.cells_GE, before.cells_GE), "cells are the new dictionary's"
    one, other = head(), head(seed=1)
    carry_head(one, other, SAME)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in one.state_dict().items())
    assert (after.config.dictionary, other.config.dictionary) == ("v1", "v1")


@torch.no_grad()
def test_codes_that_changed_place_take_their_probability_along() -> None:
    before, after = posterior((3, 4)), posterior((3, 4), seed=1)
    carry_posterior(before, after, origins([2, 0, 1], [1, 3, 2, 0]))
    states = torch.randn(5, 16)
    old, new = before.all_cells(states, None).view(5, 3, 4), after.all_cells(states, None).view(5, 3, 4)
    torch.testing.assert_close(new, old[:, [2, 0, 1]][:, :, [1, 3, 2, 0]])


@torch.no_grad()
def test_a_code_that_was_split_shares_its_probability() -> None:
    before, after = posterior((3, 4)), posterior((4, 5), seed=1)
    carry_posterior(before, after, GROWN)
    states = torch.randn(5, 16)
    old, new = (each.all_cells(states, None).exp() for each in (before, after))
    old, new = old.view(5, 3, 4), new.view(5, 4, 5)
    shared = torch.stack([new[:, 0], new[:, 1] + new[:, 3], new[:, 2]], dim=1)
    shared = torch.cat([shared[..., :1] + shared[..., 4:], shared[..., 1:4]], dim=2)
    torch.testing.assert_close(shared, old)
    torch.testing.assert_close(new[:, 3], new[:, 1])


@torch.no_grad()
def test_a_prior_splits_by_itself() -> None:
    """The recommender says how much of the old cell is in each part: two thirds and a third here."""
    before, after = posterior((3, 4), prior=True), posterior((4, 4), prior=True, seed=1)
    before.prior_weight.fill_(1.0)
    carry_posterior(before, after, origins([0, 1, 2, 1], [0, 1, 2, 3]))
    states = torch.randn(5, 16)
    mass = torch.rand(5, 3, 4).flatten(1).softmax(1).view(5, 3, 4)
    parted = torch.cat([mass, mass[:, 1:2] / 3], dim=1)
    parted[:, 1] *= 2 / 3
    old = before.all_cells(states, mass.flatten(1).log()).exp().view(5, 3, 4)
    new = after.all_cells(states, parted.flatten(1).log()).exp().view(5, 4, 4)
    torch.testing.assert_close(new[:, 1] + new[:, 3], old[:, 1])
    torch.testing.assert_close(new[:, 1], 2 * new[:, 3])


@torch.no_grad()
def test_vectors_that_turned_change_nothing() -> None:
    map_DD = orthogonal()
    generator = torch.Generator().manual_seed(0)
    items = F.normalize(torch.randn(30, DIM, generator=generator), dim=-1)
    context, cells = torch.randn(2, 7, DIM, generator=generator), torch.arange(30) % 12
    recent = EventBatch(
        torch.randint(0, 30, (2, 7), generator=generator),
        *(torch.zeros(2, 7, dtype=torch.int64) for _ in range(2)),
        torch.ones(2, 7, dtype=torch.bool),
    )
    before, after = posterior((3, 4)), posterior((3, 4), seed=1)
    after.cells_GE.copy_(before.cells_GE)
    carry_posterior(before, after, origins([0, 1, 2], [0, 1, 2, 3], map_DD=map_DD))
    torch.testing.assert_close(
        after(recent, context @ map_DD.T, items @ map_DD.T, cells), before(recent, context, items, cells)
    )
    one, other = head(), head(seed=1)
    carry_head(one, other, origins([0, 1, 2], [0, 1, 2, 3], map_DD=map_DD))
    turned = other(context[:, 0] @ map_DD.T, before.cells_GE)
    torch.testing.assert_close(turned, one(context[:, 0], before.cells_GE) @ map_DD.T)


@pytest.mark.parametrize("changes", [{"hidden": 32}, {"layers": 2}, {"prior": True}])
def test_a_posterior_of_another_shape_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))) as refused:
        carry_posterior(posterior((3, 4)), posterior((3, 4), seed=1, **changes), SAME)
    assert "refresh_share=1" in str(refused.value)


def test_a_head_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="variant in_cell and not mixture"):
        carry_head(head(), head(seed=1, variant="mixture"), SAME)


@pytest.mark.parametrize(("share", "epochs", "part"), [(0.05, 1, 0.25), (0.2, 1, 1.0), (0.5, 3, 2.5 / 3)])
def test_a_refresh_reads_a_share_of_what_a_full_training_reads(share: float, epochs: int, part: float) -> None:
    full = training(epochs=5)
    found = refresh_schedule(full, share)
    assert found.training.epochs == epochs
    assert found.part == pytest.approx(part)
    assert found.training.batch_size == STEP * full.batch_size
    assert found.training.validation_users == VALIDATED * full.validation_users
    assert found.training.learning_rate == full.learning_rate


@pytest.mark.parametrize("kind", [PosteriorTask, RetrievalTask])
def test_a_part_of_an_epoch_is_of_the_newest_windows(kind: type[PosteriorTask] | type[RetrievalTask]) -> None:
    walks, ranked = world(), ranker()
    made = kind(ranked, walks.data(), training(batch_size=5), 0, part=0.3)
    batches = made.epoch(np.random.default_rng(0))
    users = [user for batch in batches for user in batch.users_B.tolist()]
    assert len(batches) == round(0.3 * np.ceil((walks.train_ends >= 2).sum() / 5))
    assert len(set(users)) == len(users)
    for batch in batches:
        assert batch.ends_B.tolist() == walks.train_ends[batch.users_B].tolist()
        assert (batch.ends_B - batch.starts_B).max() <= RECENT
    others = made.epoch(np.random.default_rng(1))
    assert {*users} != {user for batch in others for user in batch.users_B.tolist()}, "other users another day"
