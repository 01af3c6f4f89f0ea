"""LLM recommender: coarse interests, recent items and interest queries through a causal decoder (HyMiRec, part 4).

    [K_c coarse interests] [recent items, old → new] [K interest queries]  →  K refined interests

- Coarse interests come from the recommender's own copy of the lightweight encoder, over the events *before* the
  recent window; where there are none, learned null vectors stand in. Nothing a position sees lies in its future.
- The output head is shared by all positions (RED-Rec's shape): Linear, GELU, Linear, dropout, plus a skip
  connection, then unit length.
- Beyond the paper (our choice): every position knows when its prediction is asked for (the time until the next event,
  or until the request); the recent positions predict their next item through the same head; the last one's
  vector, the "now" interest, joins the K refined interests. A gate weighs each interest for the merge. Where no loss
  teaches the "now" interest, as with the paper's alone, there is none.

Items reach the model as vectors of two tables: `long_ND` for the long history (codebook-decoded), `recent_ND` for
the recent items. Both are frozen and not part of the model. What it learns of items itself (our choice) are *offsets*:
a recent item is read, and an item is ranked, as normalize(v_i + o_i). Items that training did not meet have none, nor
have those that a catalogue gains later: these stand where the item tower puts them.

Shapes: B users, L recent events, M long events, C coarse interests, K refined interests, N items, D item dimension,
H hidden.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.models import backbone
from prismrec.models.events import NUM_GAP_BUCKETS, EventBatch
from prismrec.models.lightweight_encoder import (
    INITIAL_SCALE,
    MAX_SCALE,
    LightweightEncoder,
    LightweightEncoderConfig,
)
from prismrec.models.quick_decoder import QuickDecoder
from prismrec.quantization.code_table import VectorTable


@dataclass(frozen=True)
class RecommenderConfig:
    """Sizes of the recommender around its backbone, and what it is made of.

    Attributes:
        long_from: what the long history is read from: "codebook", or "raw", the item vectors themselves.
        num_items: so many items have offsets, the first ones of the item table.
        now: whether the last recent position's vector is one more interest.
    """

    dim: int
    num_interests: int
    recent_length: int
    long_length: int
    recent_from_codebook: bool
    dropout: float
    backbone_name: str
    long_from: str = "codebook"
    num_items: int = 0
    now: bool = True


class Refined(NamedTuple):
    """What one forward pass yields; all interest vectors have unit length."""

    refined_BKD: Tensor  # the K queries' interests
    next_BLD: Tensor  # after every recent event, or the last ones, the prediction of the next
    gate_BK1: Tensor  # log weights of the refined interests and, last, the "now" interest, if there is one

    @property
    def interests(self) -> Tensor:
        """[B, K+1, D]: the refined interests and the "now" interest; K where there is none of the latter."""
        if self.gate_BK1.shape[1] == self.refined_BKD.shape[1]:
            return self.refined_BKD
        return torch.cat([self.refined_BKD, self.next_BLD[:, -1:]], dim=1)


class Recommender(nn.Module):
    """Coarse interests in, refined interests out, by a Hugging Face decoder."""

    kind: ClassVar[str] = "recommender"
    trained_N: Tensor  # bool, which items may have an offset

    def __init__(self, config: RecommenderConfig, encoder: LightweightEncoder, decoder: backbone.Decoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.backbone = decoder
        dim, hidden = config.dim, decoder.config.hidden_size
        self.null_CD = nn.Parameter(F.normalize(torch.randn(encoder.config.num_interests, dim), dim=-1))
        self.coarse_in = nn.Linear(dim, hidden)
        self.item_in = nn.Linear(dim, hidden)
        self.gap = nn.Embedding(NUM_GAP_BUCKETS, hidden)
        self.until = nn.Embedding(NUM_GAP_BUCKETS, hidden)
        self.query_KH = nn.Parameter(torch.randn(config.num_interests, hidden) * 0.02)
        self.input_norm = nn.LayerNorm(hidden)
        self.skip = nn.Linear(hidden, dim)
        self.head = nn.Sequential(nn.Linear(hidden, dim), nn.GELU(), nn.Linear(dim, dim), nn.Dropout(config.dropout))
        self.gate = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.offset_ND = nn.Parameter(torch.zeros(config.num_items, dim))
        self.register_buffer("trained_N", torch.ones(config.num_items, dtype=torch.bool))
        self.quick: QuickDecoder | None = None
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())
        nn.init.zeros_(self.gap.weight)
        nn.init.zeros_(self.until.weight)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature that turns cosines into logits."""
        return self.log_scale.exp().clamp_max(MAX_SCALE)

    def quicken(self) -> None:
        """Take the forms that are made for serving, where there are; weights must not change any more."""
        self.quick = QuickDecoder.of(self.backbone)

    def items(self, items_ND: Tensor) -> Tensor:
        """Item vectors as this model ranks them: [N, D], unit length.

        Args:
            items_ND: item vectors of the catalogue, which may have grown since training.
        """
        if not self.config.num_items:
            return items_ND
        offset_ND = self.offset_ND * self.trained_N[:, None]
        return F.normalize(items_ND + F.pad(offset_ND, (0, 0, 0, len(items_ND) - len(offset_ND))), dim=-1)

    def _read(self, items_ND: VectorTable, items_BL: Tensor) -> Tensor:
        """[B, L, D] vectors of recent items, with their offsets."""
        vectors_BLD = items_ND[items_BL]
        if not self.config.num_items:
            return vectors_BLD
        place_BL = items_BL.clamp_max(self.config.num_items - 1)
        known_BL = self.trained_N[place_BL] & (place_BL == items_BL)
        return F.normalize(vectors_BLD + F.embedding(place_BL, self.offset_ND) * known_BL[..., None], dim=-1)

    def coarse(self, long: EventBatch, long_ND: VectorTable) -> Tensor:
        """Coarse interests of the events before the recent window: [B, C, D]; null vectors where there are none."""
        null_BCD = self.null_CD.expand(len(long.mask_BL), -1, -1)
        if long.items_BL.shape[1] == 0:
            return null_BCD
        interests_BCD = self.encoder(long_ND[long.items_BL], long)
        return torch.where(long.mask_BL.any(1)[:, None, None], interests_BCD, null_BCD)

    def forward(
        self,
        recent: EventBatch,
        long: EventBatch,
        recent_ND: VectorTable,
        long_ND: VectorTable,
        predictions: int | None = None,
    ) -> Refined:
        """Refine the interests of B users.

        Args:
            recent: the last events, at least one a user.
            long: the events before them, possibly none.
            recent_ND: item vectors the recent items are read from.
            long_ND: item vectors the long history is read from.
            predictions: of how many of the last events the next one is predicted; of all by default.
        """
        batch, length = recent.items_BL.shape
        length = predictions or length
        coarse_BCH = self.coarse_in(self.coarse(long, long_ND))
        until_BLH = self.until(recent.until_BL)
        event_BLH = self.item_in(self._read(recent_ND, recent.items_BL)) + self.gap(recent.gaps_BL) + until_BLH
        query_BKH = self.query_KH + until_BLH[:, -1:]
        inputs = self.input_norm(torch.cat([coarse_BCH, event_BLH, query_BKH], dim=1))
        always = recent.mask_BL.new_ones
        mask = torch.cat([always(batch, coarse_BCH.shape[1]), recent.mask_BL, always(batch, query_BKH.shape[1])], dim=1)
        states = self._states(self.dropout(inputs), mask, length + query_BKH.shape[1])
        outputs = F.normalize((self.skip(states) + self.head(states)).float(), dim=-1)
        gate_BK1 = self.gate(states[:, length - 1 :]).squeeze(-1).float().roll(-1, dims=1)
        if not self.config.now:
            gate_BK1 = gate_BK1[:, :-1]
        return Refined(outputs[:, length:], outputs[:, :length], gate_BK1.log_softmax(1))

    def _states(self, inputs: Tensor, mask: Tensor, outputs: int) -> Tensor:
        """The decoder's states at the last positions."""
        if self.quick is not None:
            return self.quick(inputs, mask, outputs)
        return backbone.run(self.backbone, inputs, mask)[:, -outputs:]

    def interest_scores(self, refined: Refined, items_ND: Tensor) -> Tensor:
        """Score of every item under every interest, on one scale: [B, K+1, N], or K; merged by log-sum-exp.

        Args:
            items_ND: as `items` gives them.
        """
        return self.scale * refined.interests @ items_ND.T + refined.gate_BK1[..., None]

    def save(self, folder: Path) -> None:
        """Write the model folder: sizes, the encoder's config, the backbone's Hugging Face config, all weights."""
        config = {
            "recommender": asdict(self.config),
            "encoder": asdict(self.encoder.config),
            "backbone": backbone.config_of(self.backbone),
        }
        write_model(folder, self.kind, config, self.state_dict())

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """Read a folder that `save` wrote, without the network or the original checkpoint.

        Raises:
            MissingArtefact: the folder is not a model folder, or is damaged.
        """
        config: dict[str, Any] = read_config(folder)
        model = cls(
            RecommenderConfig(**config["recommender"]),
            LightweightEncoder(LightweightEncoderConfig(**config["encoder"])),
            backbone.from_config(config["backbone"]),
        )
        tensors = read_tensors(folder)
        if not model.config.num_items:  # saved before there were offsets, perhaps: then it holds no place for them
            tensors = {"offset_ND": model.offset_ND.detach(), "trained_N": model.trained_N} | tensors
        model.load_state_dict(tensors)
        return model.eval()
