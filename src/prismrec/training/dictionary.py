"""Fitting of the interest dictionary (GemiRec, IDMM).

The dictionary is fitted on frozen item vectors and then frozen itself (staged, our choice): posterior and retrieval
rest on cells that do not move. It sees every trained item twice, once with its behavioural part left out, because
that is what the vector of a new item looks like.

Notable: the cell numbers that posterior and retrieval use come from the final codes, by `codes_of`, for all items.
A dictionary that is fitted has no parent; one that goes on with another's cells is made in `dictionary_refresh.py`.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from prismrec.errors import ParameterError
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig, sizes_for
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.loop import repeatable


@repeatable()
def fit_dictionary(
    vectors_nD: Tensor, num_items: int, parameters: DictionaryParameters, seed: int
) -> tuple[InterestDictionary, dict[str, float]]:
    """Fit a dictionary from k-means starts.

    Args:
        vectors_nD: frozen item vectors, full and text-only.
        num_items: recommendable items, from which the size follows unless it is set.

    Returns:
        The dictionary in evaluation mode, and its last losses and the number of reseeded codes.

    Raises:
        ParameterError: more codes a level are asked for than there are vectors to start them from.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = wanted_sizes(num_items, parameters)
    if max(sizes) > len(vectors_nD):
        raise ParameterError(
            f"{max(sizes)} codes a level need as many vectors to start from; {num_items} items have {len(vectors_nD)} "
            "(each counts with and without its behavioural part).",
            "interest_dictionary.dictionary.codes_per_level",
            f"At most {len(vectors_nD)}, or null: from the number of items.",
        )
    config = InterestDictionaryConfig(
        vectors_nD.shape[1], parameters.code_dim, parameters.hidden, sizes, data=data_version(vectors_nD)
    )
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
        if step < 0.9 * parameters.steps:  # in the last tenth codes stay where they are; encoder and decoder learn on
            reseeded += dictionary.quantizer.follow(quantized, generator)
    losses = {
        "reconstruction_loss": float(reconstruction.detach()),
        "commitment_loss": float(commit.detach()),
        "codes_reseeded": float(reseeded),
    }
    return dictionary.eval(), losses


def wanted_sizes(num_items: int, parameters: DictionaryParameters) -> tuple[int, ...]:
    """Codes a level: as set, else by the rule from the number of recommendable items."""
    if parameters.codes_per_level is not None:
        return (parameters.codes_per_level,) * parameters.levels
    return sizes_for(num_items, parameters.levels, parameters.items_per_cell)


def data_version(vectors_nD: Tensor) -> str:
    """Hash of the vectors that a dictionary rests on, in their order."""
    return hashlib.sha256(vectors_nD.contiguous().numpy().tobytes()).hexdigest()[:16]


def _warm_up(
    dictionary: InterestDictionary,
    vectors_nD: Tensor,
    parameters: DictionaryParameters,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Train encoder and decoder without quantisation first, so that k-means starts on a meaningful space."""
    for _ in range(parameters.warm_up_steps):
        batch = vectors_nD[torch.randint(len(vectors_nD), (parameters.batch_size,), generator=generator)]
        loss = (batch - dictionary.decode(dictionary.encode(batch))).square().sum(1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
