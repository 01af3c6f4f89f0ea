"""Fitting of the interest dictionary (GemiRec, IDMM), and what changes from one version to the next.

The dictionary is fitted on frozen item vectors and then frozen itself (staged, our choice): posterior and retrieval
rest on cells that do not move. It sees every trained item twice, once with its behavioural part left out, because
that is what the vector of a new item looks like.

Notable: the cell numbers that posterior and retrieval use come from the final codes, by `codes_of`, for all items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig, sizes_for
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.loop import repeatable


@repeatable()
def fit_dictionary(
    vectors_nD: Tensor, num_items: int, parameters: DictionaryParameters, parent: str | None, seed: int
) -> tuple[InterestDictionary, dict[str, float]]:
    """Fit a dictionary from k-means starts.

    Args:
        vectors_nD: frozen item vectors, full and text-only.
        num_items: recommendable items, from which the size follows unless it is set.
        parent: version of the dictionary this one replaces.

    Returns:
        The dictionary in evaluation mode, and its last losses and the number of reseeded codes.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    per_level = parameters.codes_per_level
    sizes = (
        (per_level,) * parameters.levels
        if per_level is not None
        else sizes_for(num_items, parameters.levels, parameters.items_per_cell)
    )
    config = InterestDictionaryConfig(vectors_nD.shape[1], parameters.code_dim, parameters.hidden, sizes, parent)
    dictionary = InterestDictionary(config).train()
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=parameters.learning_rate)
    _warm_up(dictionary, vectors_nD, parameters, optimizer, generator)
    with torch.no_grad():
        dictionary.quantizer.start_from(dictionary.encode(vectors_nD), seed)
    reseeded, reconstruction, commit = 0, torch.zeros(()), torch.zeros(())
    for step in range(parameters.steps):
        batch = vectors_nD[torch.randint(len(vectors_nD), (parameters.batch_size,), generator=generator)]
        reconstruction, commit, quantized = dictionary.loss(batch, parameters.commitment)
        optimizer.zero_grad()
        torch.autograd.backward(reconstruction + commit)
        optimizer.step()
        if step < 0.9 * parameters.steps:  # the last steps let the codes settle
            reseeded += dictionary.quantizer.follow(quantized, generator)
    losses = {
        "reconstruction_loss": float(reconstruction.detach()),
        "commitment_loss": float(commit.detach()),
        "codes_reseeded": float(reseeded),
    }
    return dictionary.eval(), losses


def _warm_up(
    dictionary: InterestDictionary,
    vectors_nD: Tensor,
    parameters: DictionaryParameters,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Train encoder and decoder without quantisation first, so that k-means starts on a meaningful space."""
    for _ in range(parameters.steps // 4):
        batch = vectors_nD[torch.randint(len(vectors_nD), (parameters.batch_size,), generator=generator)]
        loss = (batch - dictionary.decode(dictionary.encode(batch))).square().sum(1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def drift(
    previous_cells: dict[str, str] | None, cells: dict[str, str], previous_version: str | None, version: str
) -> dict[str, object]:
    """What changed from one dictionary version to the next, by item id.

    Args:
        previous_cells: item id → cell label under the parent; None for a first dictionary.
        cells: item id → cell label now.
    """
    if previous_cells is None:
        return {"version": version, "parent": None, "items": len(cells)}
    common = sorted(previous_cells.keys() & cells.keys())
    moved = sum(previous_cells[item] != cells[item] for item in common)
    before, now = set(previous_cells.values()), set(cells.values())
    return {
        "version": version,
        "parent": previous_version,
        "items": len(cells),
        "items_in_both": len(common),
        "items_moved": moved,
        "items_moved_share": moved / max(len(common), 1),
        "interests_born": sorted(now - before),
        "interests_retired": sorted(before - now),
    }
