"""What a refresh of stage 6 takes over from the run before: weights of posterior and retrieval head (our choice).

A refreshed dictionary goes on with its parent's codes, so the models that rest on it go on with their weights and are
trained a little. What belongs to a code follows the code, whatever became of it; what reads or gives item vectors is
turned as the vectors were; what belongs to no code and reads no vector stays.

- A code that was split off another begins with the other's weights: what is said of the one held for its items too.
  Without a prior the two halve the probability; a prior splits it by itself, by what the recommender says of the cells.
- Cell embeddings, and which cells hold items, are the new dictionary's.
- The temperature begins at 1 and is fitted again, as after a full training.

The short training (`refresh_schedule`) is on a share of what a full one reads, the newest windows of random users: what
is new is in it, and other users are drawn another day. Half the users a step make twice the steps of it: what decides
is how many steps there are. At a quarter or half of the peak rate a few dozen steps of AdamW left the head of the demo
where it was or a little worse, so the rate is the full one. Nothing is picked, so nobody ranks; the temperature is
fitted on a share of the validation users.

Shapes: C levels, M codes a level, D item dimension, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prismrec.errors import UserError
from prismrec.models.posterior import Posterior
from prismrec.models.retrieval_head import RetrievalHead
from prismrec.parameters.training import TrainingParameters
from prismrec.training.dictionary_refresh import Origins

STEP = 0.5  # users of a refresh's step, as a share of a full training's
VALIDATED = 0.2  # of the validation users, for the temperature
POSTERIOR_SHAPE = ("dim", "cell_dim", "hidden", "layers", "heads", "prior")
HEAD_SHAPE = ("dim", "cell_dim", "hidden", "variant")
TRAIN_ANEW = (
    "Set it as it was, or train both models anew on the refreshed dictionary: interest_dictionary.refresh_share=1"
)


class Refreshing(NamedTuple):
    """How a refresh trains.

    Attributes:
        training: the full training's parameters with fewer epochs, fewer users a step, fewer validation users.
        part: share of an epoch's batches that each of its epochs has.
    """

    training: TrainingParameters
    part: float


def refresh_schedule(training: TrainingParameters, share: float) -> Refreshing:
    """The training of a refresh: on `share` of what the full one reads, in epochs of equal parts."""
    passes = share * training.epochs
    epochs = math.ceil(passes)
    changes = {
        "epochs": epochs,
        "batch_size": math.ceil(STEP * training.batch_size),
        "validation_users": math.ceil(VALIDATED * training.validation_users),
    }
    return Refreshing(training.model_copy(update=changes), passes / epochs)


@torch.no_grad()
def carry_posterior(previous: Posterior, posterior: Posterior, origins: Origins) -> None:
    """Give a new posterior, on the refreshed dictionary, the weights of the one on its parent.

    Raises:
        UserError: they differ in more than the dictionary.
    """
    _check_shape("posterior", previous.config, posterior.config, POSTERIOR_SHAPE)
    weights = dict(previous.named_parameters())
    for name, parameter in posterior.named_parameters():
        kind, level, *_ = (*name.split("."), "")
        if kind in ("chosen", "level_out"):
            parameter.copy_(weights[name][origins.codes_CM[int(level)]])
        else:
            parameter.copy_(weights[name])
    for reader in (posterior.item_in, posterior.context_in):
        _turn_input(reader, origins.map_DD)
    if not posterior.config.prior:
        for codes_M, out in zip(origins.codes_CM, posterior.level_out, strict=True):
            assert isinstance(out, nn.Linear)
            out.bias.sub_(torch.bincount(codes_M)[codes_M].log())


@torch.no_grad()
def carry_head(previous: RetrievalHead, head: RetrievalHead, origins: Origins) -> None:
    """Give a new retrieval head the weights of the one on the parent; none of them belongs to a code.

    Raises:
        UserError: they differ in more than the dictionary.
    """
    _check_shape("retrieval", previous.config, head.config, HEAD_SHAPE)
    head.load_state_dict(previous.state_dict())
    _turn_input(head.user_in, origins.map_DD)
    head.out.weight.copy_(origins.map_DD @ head.out.weight)
    head.out.bias.copy_(origins.map_DD @ head.out.bias)


def _turn_input(reader: nn.Linear, map_DD: Tensor) -> None:
    """Make it do with v what it did with v · map."""
    reader.weight.copy_(reader.weight @ map_DD.T)


def _check_shape(name: str, previous: Any, wanted: Any, fields: tuple[str, ...]) -> None:
    differ = [field for field in fields if getattr(previous, field) != getattr(wanted, field)]
    if differ:
        found = ", ".join(f"{field} {getattr(previous, field)} and not {getattr(wanted, field)}" for field in differ)
        raise UserError(f"The previous {name} has {found}.", f"interest_dictionary.{name}", TRAIN_ANEW)
