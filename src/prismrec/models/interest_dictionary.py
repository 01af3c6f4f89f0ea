"""Interest dictionary: items fall into the cells of a shared, versioned dictionary (GemiRec, IDMM).

An RQ-VAE on frozen item vectors: z_enc maps a vector to d dimensions, the residual quantiser picks one code a level,
z_dec maps their sum back. The dictionary is the product of the levels, ∏ M_c cells; a cell's embedding is the
*concatenation* of its codes.

    ‖v − z_dec(z + sg[Σe − z])‖² + β Σ_c ‖r_c − sg[e_c]‖²

The straight-through sum lets reconstruction train z_enc; without it a constant encoder would be optimal. The codebook
term is the moving average of `residual_quantizer.py`.

Notable: a dictionary's version is the hash of its content; a refreshed one names its parent. Whatever rests on it
carries that version: `stamp` marks a table, `check_version` refuses what belongs to another. The cell of an item is
one number, mixed radix over its codes, level 1 first.

Shapes: n vectors, N items, C levels, M_c codes, G = ∏ M_c cells, d code width, D item dimension.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.errors import LineageError
from prismrec.models.module import SavedModule
from prismrec.quantization.residual_quantizer import Quantized, ResidualQuantizer


@dataclass(frozen=True)
class InterestDictionaryConfig:
    """Sizes of the dictionary, the version whose cells it goes on with (None if it was fitted), its vectors' hash."""

    dim: int
    code_dim: int
    hidden: int
    sizes: tuple[int, ...]
    parent: str | None = None
    data: str = ""


STAMP = "dictionary"  # the tensor of a table that says which dictionary its cells are of


def stamp(version: str) -> dict[str, np.ndarray]:
    """A dictionary's version as a tensor, to be stored with what rests on it."""
    return {STAMP: np.frombuffer(version.encode("ascii"), dtype=np.uint8).copy()}


def stamped_version(table: Mapping[str, Any]) -> str:
    """The version a table of tensors was marked with; "no version" for a table that was not."""
    return bytes(np.asarray(table[STAMP])).decode("ascii") if STAMP in table else "no version"


def check_version(name: str, found: str, wanted: str, where: str) -> None:
    """Refuse what rests on another dictionary.

    Args:
        name: what it is, such as "item cells".
        found: the version it carries.
        wanted: the version of the dictionary it is used with.
        where: the folder or dataset, for the message.

    Raises:
        LineageError: naming both versions.
    """
    if found != wanted:
        raise LineageError(
            f"The {name} belong to another interest dictionary: {found}, but the dictionary is {wanted}.",
            where,
            "Make them again: kedro run --pipelines interest_dictionary,evaluation,packaging",
        )


def sizes_for(num_items: int, levels: int, items_per_cell: int) -> tuple[int, ...]:
    """Codes a level, equal on all levels, so that a cell holds `items_per_cell` items on average; at least 2."""
    cells = max(num_items / items_per_cell, 1.0)
    size = round(cells ** (1.0 / levels))
    if size**levels > cells:  # in whole numbers: a power of 1/levels is rounded
        size -= 1
    return (max(2, size),) * levels


class InterestDictionary(SavedModule):
    """Encoder, residual quantiser and decoder over item vectors."""

    kind: ClassVar[str] = "interest_dictionary"
    config_class: ClassVar[type] = InterestDictionaryConfig
    config: InterestDictionaryConfig

    def __init__(self, config: InterestDictionaryConfig) -> None:
        super().__init__(replace(config, sizes=tuple(config.sizes)))
        self.sizes = tuple(config.sizes)
        self.encode = nn.Sequential(
            nn.Linear(config.dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.code_dim)
        )
        self.decode = nn.Sequential(
            nn.Linear(config.code_dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dim)
        )
        self.quantizer = ResidualQuantizer(self.sizes, config.code_dim)

    @property
    def num_cells(self) -> int:
        """G, the number of cells, empty ones included."""
        return math.prod(self.sizes)

    @property
    def version(self) -> str:
        """Hash of the content: sizes, parent and weights."""
        digest = hashlib.sha256(repr((self.config.dim, self.config.code_dim, self.sizes, self.config.parent)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def loss(self, vectors_nD: Tensor, commitment: float) -> tuple[Tensor, Tensor, Quantized]:
        """Reconstruction and commitment losses of frozen item vectors (means over n)."""
        z_nD = self.encode(vectors_nD)
        quantized = self.quantizer(z_nD)
        straight_nD = z_nD + (quantized.chosen_CnD.sum(0) - z_nD).detach()
        reconstruction = (vectors_nD - self.decode(straight_nD)).square().sum(1).mean()
        commit = F.mse_loss(quantized.residuals_CnD, quantized.chosen_CnD, reduction="sum") / len(z_nD)
        return reconstruction, commitment * commit, quantized

    @torch.no_grad()
    def codes_of(self, vectors_nD: Tensor) -> Tensor:
        """[n, C] codes, from the vectors alone: new items get theirs without training."""
        codes_nC: Tensor = self.quantizer(self.encode(vectors_nD)).codes_nC
        return codes_nC

    def cell_index(self, codes_nC: Tensor) -> Tensor:
        """[n] one number a cell: mixed radix, level 1 first."""
        index = torch.zeros(len(codes_nC), dtype=torch.int64)
        for level, size in enumerate(self.sizes):
            index = index * size + codes_nC[:, level]
        return index

    def cell_codes(self) -> Tensor:
        """[G, C] the codes of every cell, in the order of `cell_index`."""
        grids = torch.meshgrid(*(torch.arange(size) for size in self.sizes), indexing="ij")
        return torch.stack([grid.flatten() for grid in grids], dim=1)

    def cell_embeddings(self) -> Tensor:
        """[G, C·d] concatenated code vectors of every cell."""
        codes_GC = self.cell_codes()
        levels = [self.quantizer.codes(level)[codes_GC[:, level]] for level in range(len(self.sizes))]
        return torch.cat(levels, dim=1)

    def label(self, cell: int) -> str:
        """Readable id of a cell: its codes joined by hyphens, such as "3-11"."""
        return "-".join(str(int(code)) for code in self.cell_codes()[cell])
