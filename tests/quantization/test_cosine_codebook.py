"""Cosine residual codebook: the identities of the paper page, storage, golden values."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.errors import MissingArtefact
from prismrec.quantization import cosine_codebook
from prismrec.quantization.cosine_codebook import Codes, CosineCodebook, _encode_layer, fidelity

FP16_ROUNDING = 2.0**-11  # half a unit in the last place of a float16, relative
FP16_SMALLEST = 2.0**-25  # half the smallest step near zero


def vectors(seed: int, n: int = 60, dim: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_codebook(seed: int, layers: int, codes: int, dim: int) -> CosineCodebook:
    """Unit centroids that fit nothing in particular: the identities hold for any."""
    return CosineCodebook(vectors(seed, layers * codes, dim).reshape(layers, codes, dim))


class Trace:
    """The layers of one encoding with unrounded coefficients, in float64 unless told."""

    def __init__(self, codebook: CosineCodebook, rows_nD: np.ndarray, dtype: type = np.float64) -> None:
        self.residuals, self.codes, self.coefficients = [rows_nD.astype(dtype)], [], []
        for centroids_kD in codebook.centroids_LkD.astype(dtype):
            residual, code, coefficient = _encode_layer(self.residuals[-1], centroids_kD)
            self.residuals.append(residual)
            self.codes.append(code)
            self.coefficients.append(coefficient)


SEEDS = st.integers(0, 2**31 - 1)
identities = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[CosineCodebook, np.ndarray]:
    """A random codebook and vectors of any length."""
    layers, codes, dim = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(2, 10))
    rows = vectors(draw(SEEDS), 20, dim) * np.float32(10.0 ** draw(st.integers(-2, 2)))
    return random_codebook(draw(SEEDS), layers, codes, dim), rows


@identities
@given(cases())
def test_a_residual_is_orthogonal_to_its_centroid(case: tuple[CosineCodebook, np.ndarray]) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    for layer, code in enumerate(trace.codes):
        chosen = codebook.centroids_LkD[layer, code].astype(np.float64)
        inner = np.einsum("nd,nd->n", trace.residuals[layer + 1], chosen)
        # The stored centroids are unit only to float32, which is what bounds the inner product.
        assert np.all(np.abs(inner) <= 1e-6 * np.linalg.norm(rows, axis=1))


@identities
@given(cases())
def test_squared_length_splits_into_coefficients_and_last_residual(
    case: tuple[CosineCodebook, np.ndarray],
) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    explained = sum(coefficient**2 for coefficient in trace.coefficients)
    last = (trace.residuals[-1] ** 2).sum(1)
    np.testing.assert_allclose(explained + last, (rows.astype(np.float64) ** 2).sum(1), rtol=1e-5)


@identities
@given(cases())
def test_the_error_is_the_last_residual_and_never_grows(case: tuple[CosineCodebook, np.ndarray]) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    decoded = np.zeros_like(trace.residuals[0])
    length = np.linalg.norm(rows, axis=1)
    before = length
    for layer, (code, coefficient) in enumerate(zip(trace.codes, trace.coefficients, strict=True)):
        decoded += coefficient[:, None] * codebook.centroids_LkD[layer, code]
        error = np.linalg.norm(rows - decoded, axis=1)
        np.testing.assert_allclose(error, np.linalg.norm(trace.residuals[layer + 1], axis=1), atol=1e-6)
        assert np.all(error <= before + 1e-6 * length)
        before = error


@identities
@given(cases())
def test_the_chosen_centroid_has_the_largest_cosine(case: tuple[CosineCodebook, np.ndarray]) -> None:
    """Signed, as the paper has it: never the most negative one."""
    codebook, rows = case
    trace = Trace(codebook, rows)
    for layer, code in enumerate(trace.codes):
        residual = trace.residuals[layer]
        inner = residual @ codebook.centroids_LkD[layer].astype(np.float64).T
        assert np.array_equal(code, inner.argmax(1))
        np.testing.assert_allclose(trace.coefficients[layer], inner.max(1), rtol=1e-9, atol=1e-12)


@identities
@given(cases(), SEEDS)
def test_the_order_of_centroids_changes_no_reconstruction(case: tuple[CosineCodebook, np.ndarray], seed: int) -> None:
    codebook, rows = case
    rng = np.random.default_rng(seed)
    k = codebook.centroids_LkD.shape[1]
    shuffled = np.stack([layer[rng.permutation(k)] for layer in codebook.centroids_LkD])
    straight = codebook.decode(codebook.encode(rows))
    permuted = CosineCodebook(shuffled)
    np.testing.assert_allclose(permuted.decode(permuted.encode(rows)), straight, atol=1e-5 * np.abs(rows).max())


@identities
@given(cases())
def test_fp16_coefficients_add_a_bounded_error(case: tuple[CosineCodebook, np.ndarray]) -> None:
    """Half a unit in the last place of each coefficient, and in the decoded vector no more than their sum."""
    codebook, rows = case
    trace, codes = Trace(codebook, rows, np.float32), codebook.encode(rows)
    assert np.array_equal(codes.codes_nL, np.stack(trace.codes, 1))
    coefficients = np.stack(trace.coefficients, 1).astype(np.float64)
    allowed = np.maximum(FP16_ROUNDING * np.abs(coefficients), FP16_SMALLEST)
    assert np.all(np.abs(codes.coefficients_nL.astype(np.float64) - coefficients) <= allowed)
    exact = np.zeros(rows.shape)
    for layer, code in enumerate(trace.codes):
        exact += coefficients[:, layer, None] * codebook.centroids_LkD[layer, code]
    error = np.linalg.norm(codebook.decode(codes) - exact, axis=1)
    float32 = 1e-6 * np.linalg.norm(rows, axis=1)  # of unit lengths, and of adding up
    assert np.all(error <= allowed.sum(1) + float32)


def test_golden_values() -> None:
    """Two layers in the plane, by hand: 3·e1, then the rest along (0, 1); a negative rest has no good centroid."""
    half = np.sqrt(np.float32(0.5))
    codebook = CosineCodebook(
        np.array([[[1, 0], [half, half]], [[0, 1], [1, 0]]], dtype=np.float32),
    )
    codes = codebook.encode(np.array([[3, 1], [1, 3], [2, -1]], dtype=np.float32))
    # (3, 1): cosine with e1 wins. (1, 3): the diagonal wins, s = 4·half, leaving (-1, 1), whose best is (0, 1).
    # (2, -1): e1, leaving (0, -1): both centroids of layer 2 are no better than orthogonal; (1, 0) wins with s = 0.
    assert codes.codes_nL.tolist() == [[0, 0], [1, 0], [0, 1]]
    np.testing.assert_allclose(codes.coefficients_nL, [[3, 1], [2.828, 1], [2, 0]], atol=2e-3)
    np.testing.assert_allclose(codebook.decode(codes), [[3, 1], [2, 3], [2, 0]], atol=2e-3)


@pytest.mark.parametrize(
    ("layers", "k", "dim", "code_type", "expected"),
    [(3, 256, 64, np.uint8, 9), (2, 257, 8, np.uint16, 8), (1, 4, 8, np.uint8, 3)],
)
def test_bytes_an_item(layers: int, k: int, dim: int, code_type: type, expected: int) -> None:
    codebook = random_codebook(0, layers, k, dim)
    rows = vectors(1, 50, dim)
    codes = codebook.encode(rows)
    assert codes.codes_nL.dtype == code_type
    assert codes.coefficients_nL.dtype == np.float16
    assert (codes.codes_nL.nbytes + codes.coefficients_nL.nbytes) / len(rows) == expected
    report = fidelity(rows, codebook, codes)
    assert report["bytes_per_item_marginal"] == expected
    assert report["compression_marginal"] == pytest.approx(4 * dim / expected)
    assert report["bytes_per_item_amortised"] == pytest.approx(expected + 4 * layers * k * dim / len(rows))


def test_the_largest_code_survives_its_type() -> None:
    """Code 255 in a byte, code 256 in two."""
    for k in (256, 257):
        codebook = random_codebook(3, 1, k, 32)
        codes = codebook.encode(codebook.centroids_LkD[0])
        assert codes.codes_nL[:, 0].tolist() == list(range(k))
        np.testing.assert_allclose(codebook.decode(codes), codebook.centroids_LkD[0], atol=2e-3)


def test_fit_is_deterministic_and_uses_every_code() -> None:
    rows = vectors(0, 200)
    first, again, other = (CosineCodebook.fit(rows, 3, 16, 8, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.centroids_LkD, again.centroids_LkD)
    assert not np.array_equal(first.centroids_LkD, other.centroids_LkD)
    np.testing.assert_allclose(np.linalg.norm(first.centroids_LkD, axis=-1), 1, atol=1e-5)
    codes = first.encode(rows).codes_nL
    for layer in range(3):
        assert len(np.unique(codes[:, layer])) == 16


def test_fit_leaves_its_input_alone() -> None:
    rows = vectors(0, 40)
    before = rows.copy()
    CosineCodebook.fit(rows, 2, 4, 3, 0)
    assert np.array_equal(rows, before)


def test_fewer_codes_than_asked_for_when_there_are_few_vectors() -> None:
    rows = vectors(0, 5)
    codebook = CosineCodebook.fit(rows, 2, 256, 5, 0)
    assert codebook.centroids_LkD.shape == (2, 5, 8)
    np.testing.assert_allclose(codebook.decode(codebook.encode(rows)), rows, atol=2e-3)


def test_fitted_layers_explain_more_than_random_ones() -> None:
    rng = np.random.default_rng(0)
    centres = vectors(1, 12, 16)
    rows = centres[rng.integers(0, 12, 300)] + 0.3 * vectors(2, 300, 16)
    fitted = CosineCodebook.fit(rows, 3, 12, 10, 0)
    random = random_codebook(4, 3, 12, 16)
    errors = [
        fidelity(rows, codebook, codebook.encode(rows))["relative_squared_error"] for codebook in (fitted, random)
    ]
    assert errors[0] < 0.5 * errors[1]
    one = CosineCodebook(fitted.centroids_LkD[:1])
    assert errors[0] < fidelity(rows, one, one.encode(rows))["relative_squared_error"]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook, rows = random_codebook(0, 3, 8, 8), vectors(1, 50)
    whole = codebook.encode(rows)
    monkeypatch.setattr(cosine_codebook, "BLOCK", 7)
    blocks = codebook.encode(rows)
    assert np.array_equal(whole.codes_nL, blocks.codes_nL)
    np.testing.assert_allclose(whole.coefficients_nL, blocks.coefficients_nL, atol=1e-3)


def test_encoding_an_item_alone_gives_the_same_codes() -> None:
    codebook, rows = random_codebook(0, 3, 8, 8), vectors(1, 50)
    together = codebook.encode(rows)
    for row in (0, 17, 49):
        alone = codebook.encode(rows[row : row + 1])
        assert np.array_equal(alone.codes_nL[0], together.codes_nL[row])
        np.testing.assert_allclose(alone.coefficients_nL[0], together.coefficients_nL[row], atol=1e-3)


def test_fidelity_of_a_known_case() -> None:
    codebook = CosineCodebook(np.array([[[1, 0], [0, 1], [-1, 0], [0, -1]]], dtype=np.float32))
    rows = np.array([[2, 0], [0, 1], [0.6, 0.8], [0, 4]], dtype=np.float32)
    codes = codebook.encode(rows)
    report = fidelity(rows, codebook, codes)
    assert codes.codes_nL[:, 0].tolist() == [0, 1, 1, 1]
    assert report["cosine_mean"] == pytest.approx((1 + 1 + 0.8 + 1) / 4, abs=1e-3)
    assert report["relative_squared_error"] == pytest.approx(0.36 / 22, abs=1e-4)
    assert report["utilisation_layer_1"] == 0.5
    assert report["perplexity_layer_1"] == pytest.approx(np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))))


def test_save_and_load(tmp_path: Path) -> None:
    codebook = CosineCodebook.fit(vectors(0), 2, 8, 3, 0)
    for name in ("a", "b"):
        codebook.save(tmp_path / name)
    loaded = CosineCodebook.load(tmp_path / "a")
    assert np.array_equal(loaded.centroids_LkD, codebook.centroids_LkD)
    codes, again = codebook.encode(vectors(1)), loaded.encode(vectors(1))
    assert np.array_equal(codes.codes_nL, again.codes_nL)
    assert np.array_equal(codes.coefficients_nL, again.coefficients_nL)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(MissingArtefact):
        CosineCodebook.load(tmp_path)


def test_decode_reads_codes_from_storage() -> None:
    """Codes as they come back from a tensors file decode like fresh ones."""
    codebook, rows = random_codebook(0, 3, 8, 8), vectors(1, 10)
    fresh = codebook.encode(rows)
    stored = Codes(
        np.frombuffer(fresh.codes_nL.tobytes(), np.uint8).reshape(10, 3),
        np.frombuffer(fresh.coefficients_nL.tobytes(), np.float16).reshape(10, 3),
    )
    assert np.array_equal(codebook.decode(stored), codebook.decode(fresh))
