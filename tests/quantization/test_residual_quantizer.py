"""Residual quantiser: against brute force, gradients, moving averages, dead codes."""

import pytest
import torch

from prismrec.quantization.residual_quantizer import DECAY, ResidualQuantizer

CORNERS = torch.tensor([[3.0, 3.0], [3.0, -3.0], [-3.0, 3.0], [-3.0, -3.0]])


def quantizer(sizes: tuple[int, ...], dim: int, seed: int = 0) -> ResidualQuantizer:
    made = ResidualQuantizer(sizes, dim)
    generator = torch.Generator().manual_seed(seed)
    for level in range(len(sizes)):
        made.codes(level).copy_(torch.randn(sizes[level], dim, generator=generator) / (level + 1))
    return made


def inputs(n: int, dim: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(5,), (4, 6), (3, 3, 3)])
@pytest.mark.parametrize("n", [1, 10, 80])
def test_codes_are_the_nearest_of_each_level(sizes: tuple[int, ...], n: int) -> None:
    made, rows = quantizer(sizes, 6), inputs(n, 6)
    found = made(rows)
    residual = rows.clone()
    for level in range(len(sizes)):
        difference = residual[:, None].double() - made.codes(level).double()
        nearest = difference.square().sum(-1).argmin(1)
        assert torch.equal(found.codes_nC[:, level], nearest)
        torch.testing.assert_close(found.residuals_CnD[level], residual)
        assert torch.equal(found.chosen_CnD[level], made.codes(level)[nearest])
        residual = residual - made.codes(level)[nearest]
    torch.testing.assert_close(found.distances_n, residual.square().sum(1))


def test_a_vector_gets_the_same_code_alone_and_in_any_batch() -> None:
    """Codes are stored and compared between runs: the batch a vector stood in must not matter.

    Rows lie just on one side of the border between two codes, far from the origin, as collapsed encoders have it.
    """
    made = ResidualQuantizer((2,), 2)
    made.codes(0).copy_(torch.tensor([[300.0, 0.0], [300.0, 0.5]]))
    rows = torch.stack([torch.full((64,), 300.0), 0.25 + torch.linspace(-0.02, 0.02, 64)], dim=1)
    together = made(rows).codes_nC
    alone = torch.cat([made(row[None]).codes_nC for row in rows])
    assert torch.equal(together, alone)


def test_residual_gradient_is_the_commitment_of_every_level() -> None:
    """d/dz Σ_c ‖z − Σ_<c e − e_c‖² = 2 Σ_c (r_c − e_c): no level's term is cut off, no code gets a gradient."""
    made, rows = quantizer((4, 5, 3), 6), inputs(30, 6).requires_grad_()
    found = made(rows)
    assert not found.chosen_CnD.requires_grad
    assert not found.distances_n.requires_grad
    for level in range(3):
        (gradient,) = torch.autograd.grad(
            (found.residuals_CnD[level] - found.chosen_CnD[level]).square().sum(), rows, retain_graph=True
        )
        expected = 2 * (found.residuals_CnD[level] - found.chosen_CnD[level]).detach()
        torch.testing.assert_close(gradient, expected)
        assert gradient.abs().max() > 0.1
    assert list(made.parameters()) == [], "codes are buffers"


def test_start_is_k_means_on_what_the_earlier_levels_leave() -> None:
    """At a fixed point of k-means every code is the mean of the residuals it gets, on each level."""
    rows = torch.cat([inputs(60, 4, seed) * 0.3 + 4 * torch.eye(4)[seed] for seed in range(4)])
    made = ResidualQuantizer((4, 3), 4)
    made.start_from(rows, seed=0)
    found = made(rows)
    for level, size in enumerate((4, 3)):
        code_n = found.codes_nC[:, level]
        assert torch.bincount(code_n, minlength=size).min() > 0
        means = torch.stack([found.residuals_CnD[level][code_n == code].mean(0) for code in range(size)])
        torch.testing.assert_close(made.codes(level), means, atol=0.02, rtol=0)


def test_start_is_deterministic_and_seeded() -> None:
    rows = inputs(200, 6)
    first, again, other = (
        ResidualQuantizer((8, 8), 6),
        ResidualQuantizer((8, 8), 6),
        ResidualQuantizer((8, 8), 6),
    )
    for made, seed in ((first, 0), (again, 0), (other, 1)):
        made.start_from(rows, seed)
    assert torch.equal(first.codes(0), again.codes(0))
    assert torch.equal(first.codes(1), again.codes(1))
    assert not torch.equal(first.codes(0), other.codes(0))
    spread = (rows - rows.mean(0)).square().sum(1).mean()
    assert first(rows).distances_n.mean() < 0.5 * spread


def test_codes_follow_the_moving_average_of_their_residuals() -> None:
    """Against the textbook formula, one level, one code held by all."""
    made = ResidualQuantizer((2,), 2)
    made.codes(0).copy_(torch.tensor([[1.0, 0.0], [-50.0, 0.0]]))
    made.load_0.fill_(10.0)
    rows = torch.tensor([[2.0, 1.0]]).repeat(20, 1)
    made.follow(made(rows), torch.Generator().manual_seed(0))
    load = DECAY * 10 + (1 - DECAY) * 20
    expected = (DECAY * 10 * torch.tensor([1.0, 0.0]) + (1 - DECAY) * 20 * torch.tensor([2.0, 1.0])) / load
    torch.testing.assert_close(made.codes(0)[0], expected)
    torch.testing.assert_close(made.load_0[0], torch.tensor(load))
    torch.testing.assert_close(made.codes(0)[1], torch.tensor([-50.0, 0.0]))


def test_codes_converge_to_the_means_of_their_rows() -> None:
    made, rows = ResidualQuantizer((2,), 2), torch.tensor([[5.0, 1.0], [5.0, 3.0], [-5.0, 0.0], [-5.0, 4.0]])
    made.codes(0).copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    for _ in range(600):
        made.follow(made(rows), torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.codes(0), torch.tensor([[5.0, 2.0], [-5.0, 2.0]]), atol=1e-3, rtol=0)


def test_dead_codes_come_back_to_work() -> None:
    """A code nobody chooses is put onto a residual it then owns; codes in use stay where they are."""
    made = ResidualQuantizer((4,), 2)
    rows = inputs(200, 2)
    made.codes(0).copy_(
        torch.cat([torch.randn(3, 2, generator=torch.Generator().manual_seed(3)), torch.full((1, 2), 1e4)])
    )
    made.load_0.fill_(len(rows) / 4)
    assert 3 not in made(rows).codes_nC
    generator, revived = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        revived += made.follow(made(rows), generator)
    assert revived == 1
    counts = torch.bincount(made(rows).codes_nC[:, 0], minlength=4)
    assert counts.min() >= 0.02 * len(rows)
    assert made.codes(0).abs().max() < 10


def test_codes_in_use_are_not_taken_for_dead_when_batches_are_larger_than_the_start() -> None:
    """A small catalogue: k-means on 60 vectors, then steps of 2,048 draws from them."""
    made, rows = ResidualQuantizer((4,), 2), CORNERS.repeat(15, 1) + inputs(60, 2) * 0.1
    made.start_from(rows, seed=0)
    batch = rows.repeat(35, 1)[:2048]
    assert torch.bincount(made(batch).codes_nC[:, 0], minlength=4).min() > 0.05 * len(batch), "all are in use"
    assert made.follow(made(batch), torch.Generator().manual_seed(0)) == 0


@pytest.mark.parametrize("sizes", [(5,), (6, 6), (4, 4, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_codes_and_moving_averages_are_those_of_vector_quantize_pytorch(sizes: tuple[int, ...], seed: int) -> None:
    """The same codes from random inputs, and after three updates the same codebooks."""
    from vector_quantize_pytorch import ResidualVQ

    made, dim = quantizer(sizes, 6, seed), 6
    theirs = ResidualVQ(
        dim=dim, num_quantizers=len(sizes), codebook_size=sizes[0], decay=DECAY, threshold_ema_dead_code=0,
        ema_update=True, kmeans_init=False,
    ).train()  # fmt: skip
    for level, layer in enumerate(theirs.layers):
        codebook = layer._codebook
        load = torch.full((sizes[level],), 40.0)
        getattr(made, f"load_{level}").copy_(load)
        codebook.embed.data.copy_(made.codes(level)[None])
        codebook.cluster_size.data.copy_(load[None])
        codebook.embed_avg.data.copy_((made.codes(level) * load[:, None])[None])
    for step in range(3):
        rows = inputs(300, dim, seed=10 * seed + step)
        found = made(rows)
        assert torch.bincount(found.codes_nC[:, 0], minlength=sizes[0]).min() > 0
        _, codes, _ = theirs(rows[None])
        assert torch.equal(found.codes_nC, codes[0])
        assert made.follow(found, torch.Generator().manual_seed(0)) == 0, "no code is dead here"
        for level, layer in enumerate(theirs.layers):
            torch.testing.assert_close(made.codes(level), layer._codebook.embed[0], atol=1e-4, rtol=1e-4)
