"""Causal decoders of the LLM recommender and the posterior, fed through `inputs_embeds`.

Three kinds by one parameter (HyMiRec's own is TinyLlama-1.1B):
- `scratch`: a small Qwen3 with random weights, of the sizes given;
- `packaged`: the pretrained MiniLM that ships as a Python package, run with a causal mask;
- anything else: a Hugging Face id or local folder of a causal decoder (safetensors, no remote code).

Notable: token embeddings and language-model head are left out, because items come in as vectors. A saved backbone is
its Hugging Face config plus weights inside our own model folder, so that loading one needs neither the network nor
the original checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prismrec.errors import UserError
from prismrec.models.text_encoder import PACKAGED, load_pretrained

logger = logging.getLogger(__name__)

SCRATCH = "scratch"
Decoder = Any  # a transformers model; its attributes are not typed
LORA_TARGETS = {"bert": ["query", "key", "value", "dense"]}  # others: every linear layer


def scratch_config(
    hidden: int,
    layers: int,
    heads: int,
    dropout: float,
    max_length: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate: int | None = None,
) -> dict[str, Any]:
    """Hugging Face config of a Qwen3 decoder; what is None follows from hidden and heads."""
    return {
        "model_type": "qwen3",
        "vocab_size": 1,
        "hidden_size": hidden,
        "intermediate_size": intermediate or 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "head_dim": head_dim or hidden // heads,
        "attention_dropout": dropout,
        "max_position_embeddings": max_length,
        "use_cache": False,
        "pad_token_id": None,
    }


def from_config(config: dict[str, Any]) -> Decoder:
    """A decoder of that architecture with freshly initialised weights."""
    from transformers import AutoConfig, AutoModel

    options = dict(config)
    hf_config = AutoConfig.for_model(options.pop("model_type"), **options)
    return _causal(AutoModel.from_config(hf_config, attn_implementation="sdpa"))


def from_pretrained(name: str, seed_config: dict[str, Any]) -> Decoder:
    """The backbone `name`: `scratch` (sizes from `seed_config`), `packaged`, or a Hugging Face id or folder.

    Raises:
        UserError: the model cannot be loaded, or it is no causal decoder.
    """
    if name == SCRATCH:
        return from_config(seed_config)
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = load_pretrained(AutoConfig, name)
    if name == PACKAGED:
        config.is_decoder = True
        config.add_cross_attention = False
    elif not set(config.architectures or []) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(
            f"The backbone {name!r} is not a causal decoder but {config.architectures}.",
            "llm_recommender.backbone",
            "Name a causal language model (Qwen3, Llama, …), `packaged` or `scratch`.",
        )
    config.use_cache = False
    model, loading = load_pretrained(
        AutoModel, name, config=config, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa",
        output_loading_info=True,
    )  # fmt: skip
    if loading["missing_keys"]:
        raise UserError(
            f"The checkpoint {name!r} lacks weights: {sorted(loading['missing_keys'])[:3]}.",
            "llm_recommender.backbone",
            "Download or save it again; its architecture has to be the one its config names.",
        )
    return _causal(model)


def _causal(model: Decoder) -> Decoder:
    """Drop what only token ids need; gradients never reach it."""
    embeddings = getattr(model, "embeddings", None)  # BERT keeps position embeddings beside its words
    if embeddings is not None:
        embeddings.word_embeddings = nn.Embedding(1, model.config.hidden_size, padding_idx=None)
        if hasattr(model, "pooler"):
            model.pooler = None
    else:
        model.set_input_embeddings(nn.Embedding(1, model.config.hidden_size))
    model.config.vocab_size = 1
    model.config.pad_token_id = None
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


def config_of(model: Decoder) -> dict[str, Any]:
    """The Hugging Face config as plain JSON data, from which `from_config` builds the same architecture."""
    config = model.config.to_dict()
    volatile = (
        "transformers_version",
        "_name_or_path",
        "torch_dtype",
        "dtype",
        "architectures",
        "_attn_implementation",
    )
    return {key: value for key, value in config.items() if key not in volatile}


def add_lora(model: Decoder, rank: int) -> Decoder:
    """Low-rank adapters on the linear layers; everything else is frozen. `merge_lora` folds them in."""
    from peft import LoraConfig, get_peft_model

    targets: Any = LORA_TARGETS.get(model.config.model_type, "all-linear")
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))


def merge_lora(model: Decoder) -> Decoder:
    """The plain backbone with the adapters folded into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


@contextlib.contextmanager
def economies(model: Decoder, checkpointing: bool, compiled: bool) -> Iterator[None]:
    """Train with less memory or compiled kernels for as long as this lasts; neither is part of the model.

    Where compiling was asked for and is not to be had, one line says so.
    """
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if compiled and (obstacle := _compile_obstacle()):
        logger.warning("The backbone is not compiled: %s.", obstacle)
    elif compiled:
        model.compile(dynamic=True)
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model._compiled_call_impl = None


def _compile_obstacle() -> str:
    """Why torch.compile does not work here; empty where it does."""
    try:
        torch.compile(lambda x: (x + 1.0).sin())(torch.zeros(2))
    except Exception as error:  # many kinds, from a missing compiler to a missing header
        return str(error).strip().partition("\n")[0]
    return ""


def run(model: Decoder, inputs_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Last hidden states [B, L, H]; positions count only what the mask holds."""
    position_BL = (mask_BL.long().cumsum(1) - 1).clamp_min(0)
    output = model(inputs_embeds=inputs_BLH, attention_mask=mask_BL.long(), position_ids=position_BL)
    states: Tensor = output.last_hidden_state
    return states
