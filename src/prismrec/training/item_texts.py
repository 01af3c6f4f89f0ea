"""Training of the text model with the recommendation loss, in bounded memory (HyMiRec, part 1).

A step encodes only a sample of the items with gradient: those of its batch first, then random ones. All others keep
the embedding of the last refresh, made at the end of every epoch (our choice; the items of one batch alone would leave
out nearly all negatives, and the whole catalogue does not fit). What a step costs and holds of the text model thus
depends on the sample, not on the catalogue.

Notable: the table of embeddings is part of the state that is saved, so that a training that was interrupted goes on
with the very table it had. The text model runs without dropout, for sampled and other items are to be of one kind.

Shapes: N items, S items of a sample, E width of a text embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from prismrec.models.backbone import add_lora, merge_lora
from prismrec.models.text_encoder import TextEncoder, Tokens


class ItemTexts(nn.Module):
    """The text model and the embeddings of all items' texts.

    Args:
        encoder: its model is trained; with LoRA it is wrapped until `finish`.
        table_NE: the embeddings that the encoder gives the texts now.
        items_per_step: S, items encoded with gradient in a step, at most.
        lora_rank: rank of the adapters, which alone learn; None: all weights learn.
        rate_share: the model's learning rate, as a share of the schedule's.
    """

    table_NE: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        texts: Sequence[str],
        table_NE: Tensor,
        items_per_step: int,
        lora_rank: int | None,
        rate_share: float,
    ) -> None:
        super().__init__()
        self.encoder, self.items_per_step = encoder, items_per_step
        if lora_rank is not None:
            encoder.model = add_lora(encoder.model, lora_rank)
        self.model = encoder.model
        for parameter in self.model.parameters():
            parameter.rate_share = rate_share  # the loop reads it
        self.tokens = encoder.tokens(texts)
        self.register_buffer("table_NE", table_NE.clone())
        self.stale = False  # whether the weights may have moved since the last refresh
        self.register_load_state_dict_post_hook(self._loaded)  # type: ignore[no-untyped-call]

    def _loaded(self, *_: object) -> None:
        self.stale = True

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the text model, which has no dropout in training either."""
        super().train(mode)
        self.model.eval()
        return self

    def sample(self, batch_items: Tensor, generator: torch.Generator) -> Tensor:
        """At most S items, [S] int64 ascending: of the batch first, then any."""
        lottery_N = torch.rand(len(self.table_NE), generator=generator)
        lottery_N[batch_items.flatten().cpu()] += 1.0
        return lottery_N.topk(min(self.items_per_step, len(lottery_N))).indices.sort().values

    def forward(self, items_S: Tensor) -> Tensor:
        """Embeddings of all items [N, E]; gradients reach the text model through those of the sample."""
        self.stale = True
        fresh_SE = self.encoder.forward(self._tokens(items_S))
        return self.table_NE.index_copy(0, items_S.to(self.table_NE.device), fresh_SE)

    def _tokens(self, items_S: Tensor) -> Tokens:
        return Tokens(self.tokens.ids_NL[items_S], self.tokens.length_N[items_S])

    def refresh(self) -> None:
        """Encode all texts anew, unless the table is up to date."""
        if self.stale:
            self.table_NE.copy_(torch.from_numpy(self.encoder.encode_tokens(self.tokens)))
            self.stale = False

    def finish(self) -> TextEncoder:
        """The trained encoder, adapters folded in; nothing is trained hereafter."""
        self.encoder.model = merge_lora(self.model).eval()
        return self.encoder
