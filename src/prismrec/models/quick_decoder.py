"""The decoder in few large operations, for serving: the same numbers as Hugging Face's in less time.

One user's hundred positions are little work for a core, and much of a pass is calls: here queries, keys and values are
one product, gate and up projection another, norms and rotations one call each. The last layer is computed for those
positions alone whose states are asked for; the others only give it keys and values. Only Qwen3 without bias and with
plain rotary positions, the recommender's own architecture (`backbone.SCRATCH`), is written out; others run as they are.

Shapes: B users, L positions, O positions that are asked for, A heads, H hidden, F of the feed-forward layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.models.backbone import Decoder


class _Layer(NamedTuple):
    """Weights of one layer, those of one input beside each other."""

    norm_H: Tensor
    query: Tensor
    key_value: Tensor
    query_norm: Tensor
    key_norm: Tensor
    out: Tensor
    feed_norm_H: Tensor
    gate_up: Tensor
    down: Tensor


class QuickDecoder:
    """A decoder that no longer learns; see `of`."""

    def __init__(self, model: Decoder) -> None:
        config = model.config
        self.head_dim, self.epsilon = config.head_dim, config.rms_norm_eps
        self.layers = [_layer(layer) for layer in model.layers]
        self.norm_H = model.norm.weight.detach()
        positions = torch.arange(config.max_position_embeddings)[:, None]
        angles = (positions * model.rotary_emb.inv_freq.detach()).repeat(1, 2)
        self.cosine, self.sine = angles.cos(), angles.sin()

    @classmethod
    def of(cls, model: Decoder) -> QuickDecoder | None:
        """The model in this form; None where its architecture is not written out here."""
        config = model.config
        plain = config.model_type == "qwen3" and not config.attention_bias and config.hidden_act == "silu"
        plain = plain and set(config.layer_types) == {"full_attention"}
        return cls(model) if plain and config.rope_parameters["rope_type"] == "default" else None

    def __call__(self, inputs_BLH: Tensor, mask_BL: Tensor, outputs: int) -> Tensor:
        """Last hidden states of the last O positions [B, O, H]; positions count only what the mask holds."""
        length = inputs_BLH.shape[1]
        position_BL = (mask_BL.long().cumsum(1) - 1).clamp_min(0)
        rotation = self.cosine[position_BL][:, None], self.sine[position_BL][:, None]
        # A place of padding sees itself, so that its softmax is finite; nobody sees it.
        own_LL = torch.eye(length, dtype=torch.bool, device=mask_BL.device)
        seen_B1LL = torch.ones_like(own_LL).tril() & mask_BL[:, None, None] | own_LL
        states_BLH = inputs_BLH
        for place, layer in enumerate(self.layers):
            kept = outputs if place == len(self.layers) - 1 else length
            states_BLH = self._layer(layer, states_BLH, kept, rotation, seen_B1LL)
        return self._norm(states_BLH[:, -outputs:], self.norm_H)

    def _layer(
        self, layer: _Layer, states_BLH: Tensor, kept: int, rotation: tuple[Tensor, Tensor], seen_B1LL: Tensor
    ) -> Tensor:
        """The last `kept` states after a layer."""
        cosine, sine = rotation
        normed_BLH = self._norm(states_BLH, layer.norm_H)
        states_BLH = states_BLH[:, -kept:]
        queries = self._norm(self._heads(F.linear(normed_BLH[:, -kept:], layer.query)), layer.query_norm)
        key_width = len(layer.key_value) // 2
        both_BLH = F.linear(normed_BLH, layer.key_value)
        keys, values = self._heads(both_BLH[..., :key_width]), self._heads(both_BLH[..., key_width:])
        attended = F.scaled_dot_product_attention(
            _rotated(queries, cosine[:, :, -kept:], sine[:, :, -kept:]),
            _rotated(self._norm(keys, layer.key_norm), cosine, sine),
            values,
            attn_mask=seen_B1LL[:, :, -kept:],
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        states_BLH = states_BLH + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
        gate_BLF, up_BLF = F.linear(self._norm(states_BLH, layer.feed_norm_H), layer.gate_up).chunk(2, -1)
        return states_BLH + F.linear(F.silu(gate_BLF) * up_BLF, layer.down)

    def _norm(self, values: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(values, weight.shape, weight, self.epsilon)

    def _heads(self, values_BLH: Tensor) -> Tensor:
        """[B, A, L, width of a head]."""
        return values_BLH.view(*values_BLH.shape[:2], -1, self.head_dim).transpose(1, 2)


def _layer(layer: Decoder) -> _Layer:
    attention, feed = layer.self_attn, layer.mlp
    weights = (
        layer.input_layernorm.weight,
        attention.q_proj.weight,
        torch.cat([attention.k_proj.weight, attention.v_proj.weight]),
        attention.q_norm.weight,
        attention.k_norm.weight,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        torch.cat([feed.gate_proj.weight, feed.up_proj.weight]),
        feed.down_proj.weight,
    )
    return _Layer(*(weight.detach() for weight in weights))


def _rotated(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: the two halves of every head turned by their angles."""
    first, second = values.chunk(2, -1)
    return values * cosine + torch.cat([-second, first], -1) * sine
