"""Small checkpoints of known architectures with random weights, as a person would have them in a folder."""

from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


def save_checkpoint(architecture: str, folder: Path, **options: Any) -> Path:
    """Make and save a model: `qwen3`, `llama`, `gpt2` (causal) or `bert` (an encoder)."""
    import transformers

    torch.manual_seed(0)
    if architecture == "qwen3":
        config = transformers.Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8, **options)
        model = transformers.Qwen3ForCausalLM(config)
    elif architecture == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2, **options))
    elif architecture == "gpt2":
        config = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=128, **options)
        model = transformers.GPT2LMHeadModel(config)
    else:
        assert architecture == "bert"
        model = transformers.BertModel(transformers.BertConfig(**{**SIZES, **options}))
    with torch.no_grad():  # wide enough weights that every input matters
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder, safe_serialization=True)
    return folder
