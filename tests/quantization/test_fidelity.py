"""Figures of compressed vectors by hand, bytes an item, and the page."""

import numpy as np
import pytest

from prismrec.quantization.codebook import Assignment, Codebook, Coefficients
from prismrec.quantization.fidelity import fidelity, render_page


def unit_rows(seed: int, n: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_known_case() -> None:
    centroids = np.array([[[1, 0], [0, 1], [-1, 0], [0, -1]]], dtype=np.float32)
    codebook = Codebook(centroids, np.ones((1, 4), np.float32))
    rows = np.array([[2, 0], [0, 1], [0.6, 0.8], [0, 4]], dtype=np.float32)
    codes = codebook.encode(rows)
    report = fidelity(rows, codebook, codes)
    assert codes.codes_nL[:, 0].tolist() == [0, 1, 1, 1]
    assert report["cosine_mean"] == pytest.approx((1 + 1 + 0.8 + 1) / 4, abs=1e-3)
    assert sum(report["cosine_histogram"]) == 4
    assert report["cosine_histogram"][-1] == 3
    assert report["relative_squared_error"] == pytest.approx(0.36 / 22, abs=1e-4)
    assert report["utilisation_layer_1"] == 0.5
    assert report["perplexity_layer_1"] == pytest.approx(np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))))


@pytest.mark.parametrize(
    ("layers", "k", "dim", "assignment", "coefficients", "expected"),
    [
        (3, 256, 64, "cosine", "item", 9),
        (3, 256, 64, "cosine", "centroid", 3),
        (3, 256, 64, "euclidean", "item", 3),
        (2, 257, 8, "cosine", "item", 8),
        (1, 4, 8, "abs_cosine", "item", 3),
    ],
)
def test_bytes_an_item(
    layers: int, k: int, dim: int, assignment: Assignment, coefficients: Coefficients, expected: int
) -> None:
    centroids = unit_rows(0, layers * k, dim).reshape(layers, k, dim)
    codebook = Codebook(centroids, np.ones((layers, k), np.float32), assignment, coefficients)
    rows = unit_rows(1, 50, dim)
    codes = codebook.encode(rows)
    assert sum(array.nbytes for array in codes.arrays().values()) / len(rows) == expected
    report = fidelity(rows, codebook, codes)
    assert report["bytes_per_item_marginal"] == expected
    assert report["compression_marginal"] == pytest.approx(4 * dim / expected)
    amortised = expected + 4 * layers * k * dim / len(rows)
    assert report["bytes_per_item_amortised"] == pytest.approx(amortised)
    assert report["compression_amortised"] == pytest.approx(4 * dim / amortised)


def test_the_page_shows_layers_and_costs() -> None:
    rows = unit_rows(0, 200, 16)
    codebook = Codebook.fit(rows, 2, 16, 3, 0)
    page = render_page(fidelity(rows, codebook, codebook.encode(rows)))
    assert page.count('<th scope="row">') == 2
    assert "<svg" in page
    assert "<b>6</b>" in page, "two codes and two fp16 coefficients"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
