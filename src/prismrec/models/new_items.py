"""Vectors of items that a bundle does not have, from their texts: its text encoder, then its item tower.

    text_encoder/                  the text encoder as a Hugging Face folder, and `text_encoder.json` about it
    text_embeddings.safetensors    embeddings of the catalogue's texts, whose items lend what the text cannot tell

Nothing is downloaded: the bundle carries the encoder. Our choices: weights and embeddings are stored in half precision,
which moves a vector by about a thousandth; a text is encoded in batches of one, for most requests bring one or none,
and embeddings of texts seen lately are kept.

Shapes: X new items, N items of the catalogue, E width of a text embedding, D item dimension.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from prismrec.artifacts.model_folder import dump_json
from prismrec.models import load_model
from prismrec.models.item_text import NewItem
from prismrec.models.item_tower import ItemTower
from prismrec.models.text_encoder import TextEncoder

TEXT_ENCODER, TEXT_EMBEDDINGS = "text_encoder", "text_embeddings"
FACTS_NAME = "text_encoder.json"
KEPT_TEXTS = 10_000  # embeddings of texts seen lately; 15 MB at 384 numbers each


@dataclass(frozen=True)
class PackedTextEncoder:
    """The part of a bundle that turns texts into embeddings.

    Args:
        name: of the encoder: `packaged`, a Hugging Face id, or a folder.
        facts: what else is known of it; `max_tokens` has to be among it.
    """

    name: str
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and facts."""
        encoder = TextEncoder(self.name)
        encoder.model = encoder.model.half()
        encoder.save(folder)
        (folder / FACTS_NAME).write_text(dump_json(self.facts), encoding="utf-8")


class NewItemReader:
    """Reads new items' texts; see `load`.

    Attributes:
        hits: texts whose embedding was kept from earlier.
        misses: texts that had to be encoded.
    """

    def __init__(self, encoder: TextEncoder, tower: ItemTower, text_NE: Tensor, trained_N: Tensor) -> None:
        self.encoder, self.tower = encoder, tower
        self.text_NE, self.trained_N = text_NE, trained_N
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    @classmethod
    def load(cls, folder: Path) -> NewItemReader | None:
        """The reader of a bundle; None where the bundle does not carry its text encoder."""
        needed = (folder / TEXT_ENCODER, folder / f"{TEXT_EMBEDDINGS}.safetensors", folder / "item_tower")
        if not all(part.exists() for part in needed):
            return None
        facts = json.loads((folder / TEXT_ENCODER / FACTS_NAME).read_text(encoding="utf-8"))
        return cls(
            TextEncoder(str(folder / TEXT_ENCODER), facts["max_tokens"], batch_size=1),
            load_model(folder / "item_tower"),
            load_file(folder / f"{TEXT_EMBEDDINGS}.safetensors")["embeddings"].float(),
            load_file(folder / "item_vectors.safetensors")["trained"],
        )

    @torch.no_grad()
    def vectors(self, items: Sequence[NewItem], rows: Sequence[int | None]) -> Tensor:
        """Unit vectors [X, D].

        Args:
            items: what is known of them now.
            rows: the catalogue's row of an item that it has; None for new ones. Trained ones keep their behaviour.
        """
        text_XE = torch.from_numpy(np.stack([self._embedding(item.text) for item in items]))
        vectors_XD = self.tower.of_texts(text_XE, self.text_NE, self.trained_N)
        trained_X = torch.tensor([row is not None and bool(self.trained_N[row]) for row in rows])
        if trained_X.any():
            items_X = torch.tensor([row for row, known in zip(rows, trained_X, strict=True) if known])
            vectors_XD[trained_X] = self.tower.retexted(text_XE[trained_X], items_X)
        return vectors_XD

    def _embedding(self, text: str) -> np.ndarray:
        if text in self._kept:
            self.hits += 1
            self._kept.move_to_end(text)
            return self._kept[text]
        self.misses += 1
        embedding_E: np.ndarray = self.encoder.encode([text])[0]
        self._kept[text] = embedding_E
        if len(self._kept) > KEPT_TEXTS:
            self._kept.popitem(last=False)
        return embedding_E
