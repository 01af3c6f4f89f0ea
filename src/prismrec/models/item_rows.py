"""What rankers know of the items, row by row: those of a bundle, those added since, and guests of one request.

Every ranker reads the same tables, so that an item is added in one place: vectors, codes, dictionary cells, counts.
Guests are items that only one history knows, by their text. The last rows are kept for them (our choice): they are
never recommendable, and are written anew for each request that brings some.

Shapes: N rows, X rows that are added or replaced, R recommendable rows of the bundle, D item dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from prismrec.artifacts.bundle import MANIFEST_NAME, read_manifest
from prismrec.models import load_model
from prismrec.models.interest_dictionary import InterestDictionary, check_version, stamped_version
from prismrec.quantization.code_table import CodeTable
from prismrec.quantization.codebook import Codes

ITEM_VECTORS = "item_vectors.safetensors"


@dataclass(frozen=True)
class ItemRows:
    """The tables of N rows, of which the last `guests` are spare.

    Attributes:
        decoded_ND: vectors that histories are read from, decoded from the codebook; None without a codebook.
        cells_N: dictionary cells; None without a dictionary.
        known_R: rows that the bundle itself recommends; their cells are those that the posterior knows.
        changed_X: rows that were added or replaced since.
    """

    vectors_ND: Tensor
    recommendable_N: Tensor
    counts_N: np.ndarray
    decoded_ND: CodeTable | None
    cells_N: Tensor | None
    dictionary: InterestDictionary | None
    known_R: Tensor
    guests: int = 0
    changed_X: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @classmethod
    def load(cls, folder: Path) -> ItemRows:
        """Read a bundle's tables; no spare rows yet.

        Raises:
            UserError: dictionary, cells and the manifest's word on the dictionary do not belong together.
        """
        stored = load_file(folder / ITEM_VECTORS)
        dictionary = _dictionary(folder)
        return cls(
            stored["vectors"],
            stored["recommendable"],
            load_file(folder / "popularity.safetensors")["counts"].numpy(),
            _decoded(folder),
            None if dictionary is None else _cells(folder, dictionary),
            dictionary,
            torch.nonzero(stored["recommendable"]).flatten(),
        )

    @property
    def first_guest(self) -> int:
        """The first spare row."""
        return len(self.vectors_ND) - self.guests

    def grown(self, rows_X: Tensor, vectors_XD: Tensor, guests: int) -> ItemRows:
        """A copy with items added or replaced, which are recommendable, and so many spare rows.

        Args:
            rows_X: int64; rows behind the last item are new ones, without gaps.
            vectors_XD: float32, unit length.
        """
        num_items = max(self.first_guest, int(rows_X.max()) + 1 if len(rows_X) else 0)
        more = num_items + guests - self.first_guest
        grown = replace(
            self,
            vectors_ND=F.pad(self.vectors_ND[: self.first_guest], (0, 0, 0, more)),
            recommendable_N=F.pad(self.recommendable_N[: self.first_guest], (0, more), value=False),
            counts_N=np.pad(self.counts_N[: self.first_guest], (0, more)),
            decoded_ND=None if self.decoded_ND is None else self.decoded_ND.resized(num_items + guests),
            cells_N=None if self.cells_N is None else F.pad(self.cells_N[: self.first_guest], (0, more)),
            guests=guests,
            changed_X=rows_X,
        )
        grown.put(rows_X, vectors_XD)
        grown.recommendable_N[rows_X] = True
        return grown

    def put(self, rows_X: Tensor, vectors_XD: Tensor) -> None:
        """Write items into these rows, in place: their vectors, codes and cells."""
        if not len(rows_X):
            return
        self.vectors_ND[rows_X] = vectors_XD
        if self.decoded_ND is not None:
            self.decoded_ND.put(rows_X, vectors_XD)
        if self.cells_N is not None:
            self.cells_N[rows_X] = self._cells_of(vectors_XD)

    def _cells_of(self, vectors_XD: Tensor) -> Tensor:
        """[X] cells; where the bundle has no item, the posterior knows nothing: the nearest item's then, our choice."""
        assert self.cells_N is not None
        assert self.dictionary is not None
        cells_X = self.dictionary.cell_index(self.dictionary.codes_of(vectors_XD))
        cells_R = self.cells_N[self.known_R]
        lonely_X = ~torch.isin(cells_X, cells_R)
        if lonely_X.any() and len(cells_R):
            cells_X[lonely_X] = cells_R[(vectors_XD[lonely_X] @ self.vectors_ND[self.known_R].T).argmax(1)]
        return cells_X


def _dictionary(folder: Path) -> InterestDictionary | None:
    """The dictionary, which has to be the one whose ids the manifest speaks of: clients keep both together."""
    dictionary = load_model(folder / "dictionary") if (folder / "dictionary").is_dir() else None
    found, wanted = read_manifest(folder).versions.dictionary, None if dictionary is None else dictionary.version
    check_version("interests of the manifest", str(found), str(wanted), str(folder / MANIFEST_NAME))
    return dictionary


def _cells(folder: Path, dictionary: InterestDictionary) -> Tensor:
    table = load_file(folder / "item_cells.safetensors")
    check_version("item cells", stamped_version(table), dictionary.version, str(folder))
    cells_N: Tensor = table["cells"]
    return cells_N


def _decoded(folder: Path) -> CodeTable | None:
    if not (folder / "item_codes.safetensors").is_file():
        return None
    return CodeTable(load_model(folder / "codebook"), Codes.from_arrays(load_file(folder / "item_codes.safetensors")))
