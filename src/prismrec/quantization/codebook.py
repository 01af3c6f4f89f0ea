"""Residual codebook of the item vectors (HyMiRec, part 2).

For each layer l = 1 … L, on residuals e^l (e^1 = the item's vector), by default:
    fit      balanced k-means on the residuals gives centroids c^l_1 … c^l_k (unit length)
    encode   b_l = argmax_x cos(e^l, c^l_x)
    residual e^{l+1} = e^l − s_l c^l_{b_l}, with s_l = e^l · c^l_{b_l}: the projection is taken away
    decode   ê = Σ_l s_l c^l_{b_l}

`assignment` says how a layer chooses its centroid:
    cosine       the paper's: the largest cosine, signed
    abs_cosine   the largest |cosine|; centroids are lines, s_l may be negative
    euclidean    plain residual quantisation, for comparison: the nearest centroid of a plain k-means, s_l = 1
`coefficients` says what is stored for an item (our choice): "item", its L codes and L fp16 coefficients s_l;
"centroid", its codes alone, each centroid standing for all its items by their mean coefficient at fit. There the
residual is what the decoder will really leave, so that later layers mend what the means got wrong.

Notable: with own coefficients and unit centroids, s_l² is exactly the squared length that layer explains, so the
error is the length of the last residual and never grows with L (tests hold these identities; they do not hold for
codes only). Balance binds at fit only; encoding is the plain choice. The search for the best centroid, and the
Euclidean k-means, are faiss's.

Shapes: n vectors, L layers, k codes a layer, D dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch  # noqa: F401 - before faiss, which brings an OpenMP of its own

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.errors import MissingArtefact
from prismrec.quantization.kmeans import balanced_kmeans

Assignment = Literal["cosine", "abs_cosine", "euclidean"]
Coefficients = Literal["item", "centroid"]
UNIT = 1e-5  # a length this near to 1 counts as unit


class Codes(NamedTuple):
    """Compressed vectors."""

    codes_nL: np.ndarray  # uint8 where k ≤ 256, else uint16
    coefficients_nL: np.ndarray | None  # float16; None where the codes are all that is stored

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Codes:
        """Read what `arrays` wrote, numpy arrays or torch tensors."""
        given = arrays.get("coefficients")
        return cls(np.asarray(arrays["codes"]), None if given is None else np.asarray(given))

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored."""
        codes = {"codes": self.codes_nL}
        return codes if self.coefficients_nL is None else {**codes, "coefficients": self.coefficients_nL}

    def take(self, rows: np.ndarray) -> Codes:
        """The codes of some vectors."""
        return Codes(self.codes_nL[rows], None if self.coefficients_nL is None else self.coefficients_nL[rows])

    @property
    def bytes_per_item(self) -> int:
        """Bytes stored for a vector."""
        return sum(array[:1].nbytes for array in self.arrays().values())


@dataclass(frozen=True)
class Codebook:
    """Centroids of all layers. Cosine assignments bring them to unit length: only their directions count there."""

    centroids_LkD: np.ndarray  # float32
    means_Lk: np.ndarray  # float32, mean coefficient of each centroid at fit
    assignment: Assignment = "cosine"
    coefficients: Coefficients = "item"
    kind: ClassVar[str] = "codebook"

    def __post_init__(self) -> None:
        if self.assignment == "euclidean":
            return
        length_Lk1 = np.linalg.norm(self.centroids_LkD, axis=-1, keepdims=True)
        other = (length_Lk1 > 0) & (np.abs(length_Lk1 - 1) > UNIT)  # the bytes of unit ones stay as they are
        object.__setattr__(self, "centroids_LkD", self.centroids_LkD / np.where(other, length_Lk1, 1))

    @property
    def own_coefficients(self) -> bool:
        """Whether an item's own coefficients are stored; Euclidean centroids need none."""
        return self.coefficients == "item" and self.assignment != "euclidean"

    @classmethod
    def fit(
        cls,
        vectors_nD: np.ndarray,
        layers: int,
        codes: int,
        iterations: int,
        seed: int,
        assignment: Assignment = "cosine",
        coefficients: Coefficients = "item",
    ) -> Self:
        """Fit layer after layer on what the earlier ones leave.

        Args:
            vectors_nD: float32 vectors; a layer has at most n codes.
            layers: L.
            codes: k; fewer when there are fewer vectors.
            iterations: k-means steps a layer.
            seed: start centroids.
            assignment: how a layer chooses.
            coefficients: what will be stored.
        """
        residual = np.array(vectors_nD, dtype=np.float32)
        codes = min(codes, len(residual))
        own = assignment != "euclidean" and coefficients == "item"
        centroids, means = [], []
        for layer in range(layers):
            if assignment == "euclidean":
                centroids_kD = _euclidean_kmeans(residual, codes, iterations, seed + layer)
            else:
                lines = assignment == "abs_cosine"
                centroids_kD = balanced_kmeans(residual, codes, iterations, seed + layer, lines).centroids_kD
            code_n, coefficient_n = _choose(residual, centroids_kD, assignment)
            means_k = _means(code_n, coefficient_n, codes)
            residual = _rest(residual, centroids_kD[code_n], coefficient_n if own else means_k[code_n])
            centroids.append(centroids_kD)
            means.append(means_k)
        return cls(np.stack(centroids), np.stack(means), assignment, coefficients)

    def encode(self, vectors_nD: np.ndarray) -> Codes:
        """Codes of the vectors, with their coefficients where those are stored."""
        residual = np.asarray(vectors_nD, dtype=np.float32)
        layers, k, _ = self.centroids_LkD.shape
        codes_nL = np.empty((len(residual), layers), dtype=np.uint8 if k <= 256 else np.uint16)
        coefficients_nL = np.empty((len(residual), layers), dtype=np.float16)
        for layer in range(layers):
            centroids_kD = self.centroids_LkD[layer]
            code_n, coefficient_n = _choose(residual, centroids_kD, self.assignment)
            codes_nL[:, layer], coefficients_nL[:, layer] = code_n, coefficient_n
            used_n = coefficient_n if self.own_coefficients else self.means_Lk[layer, code_n]
            residual = _rest(residual, centroids_kD[code_n], used_n)
        return Codes(codes_nL, coefficients_nL if self.own_coefficients else None)

    def decode(self, codes: Codes) -> np.ndarray:
        """Reconstructed vectors: [n, D] float32."""
        decoded = np.zeros((len(codes.codes_nL), self.centroids_LkD.shape[2]), dtype=np.float32)
        for layer, centroids_kD in enumerate(self.centroids_LkD):
            code_n = codes.codes_nL[:, layer]
            if codes.coefficients_nL is None:
                coefficient_n = self.means_Lk[layer, code_n]
            else:
                coefficient_n = codes.coefficients_nL[:, layer].astype(np.float32)
            decoded += coefficient_n[:, None] * centroids_kD[code_n]
        return decoded

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        layers, codes, dim = self.centroids_LkD.shape
        config: dict[str, Any] = {"layers": layers, "codes": codes, "dim": dim}
        config |= {"assignment": self.assignment, "coefficients": self.coefficients}
        write_model(folder, self.kind, config, {"centroids": self.centroids_LkD, "means": self.means_Lk})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            MissingArtefact: the folder is not a model folder, is damaged, or an older version wrote it.
        """
        config, tensors = read_config(folder), read_tensors(folder)
        assert config["kind"] == cls.kind
        if "means" not in tensors:
            raise MissingArtefact(
                "An older version of prismrec wrote this codebook.", str(folder), "kedro run --pipelines codebook"
            )
        return cls(tensors["centroids"].numpy(), tensors["means"].numpy(), config["assignment"], config["coefficients"])


def _choose(residual_nD: np.ndarray, centroids_kD: np.ndarray, assignment: Assignment) -> tuple[np.ndarray, np.ndarray]:
    """The code of each residual, int64, and the residual's own coefficient: [n] both."""
    import faiss

    dim = centroids_kD.shape[1]
    index = faiss.IndexFlatL2(dim) if assignment == "euclidean" else faiss.IndexFlatIP(dim)
    index.add(np.ascontiguousarray(centroids_kD))
    if assignment == "abs_cosine":
        index.add(np.ascontiguousarray(-centroids_kD))  # the largest of both is the largest |cosine|
    _, found_n1 = index.search(np.ascontiguousarray(residual_nD), 1)
    code_n: np.ndarray = found_n1[:, 0] % len(centroids_kD)
    if assignment == "euclidean":
        return code_n, np.ones(len(code_n), dtype=np.float32)
    return code_n, np.einsum("nd,nd->n", residual_nD, centroids_kD[code_n])


def _rest(residual_nD: np.ndarray, chosen_nD: np.ndarray, coefficient_n: np.ndarray) -> np.ndarray:
    """What a layer leaves for the next: [n, D]."""
    rest_nD: np.ndarray = residual_nD - coefficient_n[:, None] * chosen_nD
    return rest_nD


def _means(code_n: np.ndarray, coefficient_n: np.ndarray, k: int) -> np.ndarray:
    """Mean coefficient of each centroid; of all vectors where the plain choice gives a centroid none."""
    counts_k = np.bincount(code_n, minlength=k)
    sums_k = np.bincount(code_n, weights=coefficient_n, minlength=k)
    means_k = np.full(k, coefficient_n.mean(dtype=np.float64))
    np.divide(sums_k, counts_k, out=means_k, where=counts_k > 0)
    return means_k.astype(np.float32)


def _euclidean_kmeans(residual_nD: np.ndarray, k: int, iterations: int, seed: int) -> np.ndarray:
    """Centroids of faiss's k-means over all rows: [k, D]."""
    import faiss

    n, dim = residual_nD.shape
    kmeans = faiss.Kmeans(
        dim, k, niter=iterations, seed=seed, min_points_per_centroid=1, max_points_per_centroid=-(-n // k)
    )
    kmeans.train(np.ascontiguousarray(residual_nD))
    centroids_kD = np.asarray(kmeans.centroids, dtype=np.float32)
    return centroids_kD.reshape(k, dim)
