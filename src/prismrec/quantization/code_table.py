"""Item vectors read from their codes: a batch of histories is decoded as it is read, the catalogue's table never made.

A table of N items takes 9 bytes an item (3 layers of up to 256 codes, fp16 coefficients) instead of 4 · D. Decoding is
one weighted sum of L rows of a small matrix that stays in the cache (`embedding_bag`), written straight into the
result. Notable: equal to `Codebook.decode` but for the last bits of float32; no gradient.

Shapes: N items, L layers, k codes a layer, D dimension.
"""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prismrec.quantization.codebook import Codebook, Codes


class CodeTable:
    """Stands where a table [N, D] would: `table[items]` are the vectors of these items, float32."""

    def __init__(self, codebook: Codebook, codes: Codes) -> None:
        layers, k, dim = codebook.centroids_LkD.shape
        centroids_LkD = torch.from_numpy(codebook.centroids_LkD)
        if codes.coefficients_nL is None:
            centroids_LkD = centroids_LkD * torch.from_numpy(codebook.means_Lk)[:, :, None]
        self._codebook = codebook
        self._rows_RD = centroids_LkD.reshape(layers * k, dim).contiguous()  # R = L · k
        self._starts_L = torch.arange(layers, dtype=torch.int32) * k
        self._code_type = torch.uint8 if codes.codes_nL.dtype == np.uint8 else torch.uint16
        self._split = 0 if codes.coefficients_nL is None else 2 * layers  # bytes of the coefficients
        self._records_NR = _records(codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), as a table has it."""
        return len(self._records_NR), self._rows_RD.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it decodes."""
        return self._rows_RD.device

    def to(self, device: torch.device | str) -> Self:
        """Move codes and centroids."""
        self._rows_RD, self._starts_L = self._rows_RD.to(device), self._starts_L.to(device)
        self._records_NR = self._records_NR.to(device)
        return self

    def put(self, items: Tensor, vectors_nD: Tensor) -> None:
        """Encode vectors and keep their codes at these items' rows, instead of what was there."""
        self._records_NR[items] = _records(self._codebook.encode(vectors_nD.numpy())).to(self.device)

    def resized(self, num_items: int) -> CodeTable:
        """A copy with so many rows; new ones have no vector of their own yet."""
        table = copy.copy(self)
        table._records_NR = F.pad(self._records_NR, (0, 0, 0, num_items - len(self._records_NR)))
        return table

    @torch.no_grad()
    def __getitem__(self, items: Tensor) -> Tensor:
        """Vectors of items, int64 of any shape […]: […, D]."""
        record_nR = self._records_NR.index_select(0, items.reshape(-1))
        codes_nL = self._numbers(record_nR[:, self._split :], self._code_type).int().add_(self._starts_L)
        weights_nL = None
        if self._split:
            weights_nL = self._numbers(record_nR[:, : self._split], torch.float16).float()
        decoded_nD = F.embedding_bag(codes_nL, self._rows_RD, mode="sum", per_sample_weights=weights_nL)
        return decoded_nD.view(*items.shape, self.shape[1])

    def _numbers(self, bytes_nR: Tensor, dtype: torch.dtype) -> Tensor:
        """The L numbers of each record."""
        # One dimension first: a single row counts as contiguous whatever its stride, which no view accepts.
        return bytes_nR.reshape(-1).view(dtype).view(-1, len(self._starts_L))


def _records(codes: Codes) -> Tensor:
    """[N, R] bytes: one record an item, coefficients first, so that what it needs lies in one place of the memory."""
    parts = [] if codes.coefficients_nL is None else [codes.coefficients_nL]
    bytes_ = [np.ascontiguousarray(part).view(np.uint8) for part in (*parts, codes.codes_nL)]
    return torch.from_numpy(np.concatenate(bytes_, axis=1))


VectorTable = Tensor | CodeTable  # either gives the vectors of items: `table[items]`
