"""Cosine residual codebook (HyMiRec, part 2).

For each layer l = 1 … L, on residuals e^l (e^1 = the item's vector):
    fit      balanced k-means on the residuals gives centroids c^l_1 … c^l_k (unit length)
    encode   b_l = argmax_x cos(e^l, c^l_x)
    residual e^{l+1} = e^l − s_l c^l_{b_l}, with s_l = e^l · c^l_{b_l}: the projection is taken away
    decode   ê = Σ_l s_l c^l_{b_l}

Stored for an item: L codes and L fp16 coefficients s_l. Balance binds at fit only; encoding is the plain argmax.

Notable: with unit centroids, s_l² is exactly the squared length that layer explains, so the error is the length of
the last residual and never grows with L (tests hold these identities).

Shapes: n vectors, L layers, k codes a layer, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.metrics.codes import code_health
from prismrec.quantization.kmeans import balanced_kmeans

BLOCK = 65_536  # vectors encoded at once


class Codes(NamedTuple):
    """Compressed vectors."""

    codes_nL: np.ndarray  # uint8 where k ≤ 256, else uint16
    coefficients_nL: np.ndarray  # float16


@dataclass(frozen=True)
class CosineCodebook:
    """Centroids of all layers: [L, k, D] float32, unit length."""

    centroids_LkD: np.ndarray
    kind: ClassVar[str] = "codebook"

    @classmethod
    def fit(cls, vectors_nD: np.ndarray, layers: int, codes: int, iterations: int, seed: int) -> Self:
        """Fit layer after layer on what the earlier ones leave.

        Args:
            vectors_nD: float32 vectors; a layer has at most n codes.
            layers: L.
            codes: k; fewer when there are fewer vectors.
            iterations: k-means steps a layer.
            seed: start centroids.
        """
        residual = np.asarray(vectors_nD, dtype=np.float32).copy()
        codes = min(codes, len(residual))
        centroids = []
        for layer in range(layers):
            fitted = balanced_kmeans(residual, codes, iterations, seed + layer)
            centroids.append(fitted.centroids_kD)
            residual, _, _ = _encode_layer(residual, fitted.centroids_kD)
        return cls(np.stack(centroids))

    def encode(self, vectors_nD: np.ndarray) -> Codes:
        """Codes and coefficients of the vectors."""
        residual = np.asarray(vectors_nD, dtype=np.float32)
        dtype = np.uint8 if self.centroids_LkD.shape[1] <= 256 else np.uint16
        codes, coefficients = [], []
        for centroids_kD in self.centroids_LkD:
            residual, code_n, coefficient_n = _encode_layer(residual, centroids_kD)
            codes.append(code_n.astype(dtype))
            coefficients.append(coefficient_n)
        return Codes(np.stack(codes, 1), np.stack(coefficients, 1).astype(np.float16))

    def decode(self, codes: Codes) -> np.ndarray:
        """Reconstructed vectors: [n, D] float32."""
        decoded = np.zeros((len(codes.codes_nL), self.centroids_LkD.shape[2]), dtype=np.float32)
        for layer, centroids_kD in enumerate(self.centroids_LkD):
            coefficient_n1 = codes.coefficients_nL[:, layer, None].astype(np.float32)
            decoded += coefficient_n1 * centroids_kD[codes.codes_nL[:, layer]]
        return decoded

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        layers, codes, dim = self.centroids_LkD.shape
        config = {"layers": layers, "codes": codes, "dim": dim}
        write_model(folder, self.kind, config, {"centroids": self.centroids_LkD})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            MissingArtefact: the folder is not a model folder, or is damaged.
        """
        assert read_config(folder)["kind"] == cls.kind
        return cls(read_tensors(folder)["centroids"].numpy())


def _encode_layer(residual_nD: np.ndarray, centroids_kD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One layer: the next residual, the codes, the coefficients in fp32."""
    code_n = np.concatenate(
        [(residual_nD[i : i + BLOCK] @ centroids_kD.T).argmax(1) for i in range(0, len(residual_nD), BLOCK)]
    )
    chosen_nD = centroids_kD[code_n]
    coefficient_n = np.einsum("nd,nd->n", residual_nD, chosen_nD)
    return residual_nD - coefficient_n[:, None] * chosen_nD, code_n, coefficient_n


def fidelity(vectors_nD: np.ndarray, codebook: CosineCodebook, codes: Codes) -> dict[str, float]:
    """How much the compressed vectors keep, and what they cost.

    Returns:
        Mean cosine and its 5 % quantile, relative squared error, bytes an item (marginal, and amortised over the
        codebook), the compression ratio to fp32, and the health of the codes of every layer and jointly.
    """
    decoded_nD = codebook.decode(codes)
    length = np.linalg.norm(vectors_nD, axis=1) * np.linalg.norm(decoded_nD, axis=1)
    cosine_n = np.einsum("nd,nd->n", vectors_nD, decoded_nD) / np.maximum(length, 1e-12)
    n, dim = vectors_nD.shape
    layers, k, _ = codebook.centroids_LkD.shape
    marginal = codes.codes_nL.itemsize * layers + codes.coefficients_nL.itemsize * layers
    return {
        "cosine_mean": float(cosine_n.mean()),
        "cosine_p05": float(np.quantile(cosine_n, 0.05)),
        "relative_squared_error": float(((vectors_nD - decoded_nD) ** 2).sum() / (vectors_nD**2).sum()),
        "bytes_per_item_marginal": float(marginal),
        "bytes_per_item_amortised": float(marginal + codebook.centroids_LkD.nbytes / n),
        "compression_marginal": float(4 * dim / marginal),
        **code_health(codes.codes_nL, (k,) * layers, level_name="layer"),
    }
