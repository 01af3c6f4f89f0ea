"""Residual codebook: the identities of the paper page, codes only, the other assignments, storage, golden values."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.artifacts.model_folder import write_model, write_tensors
from prismrec.errors import MissingArtefact
from prismrec.quantization.codebook import Assignment, Codebook, Codes, Coefficients, _choose, _rest
from prismrec.quantization.fidelity import relative_error

FP16_ROUNDING = 2.0**-11  # half a unit in the last place of a float16, relative
FP16_SMALLEST = 2.0**-25  # half the smallest step near zero


def vectors(seed: int, n: int = 60, dim: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_codebook(seed: int, layers: int, codes: int, dim: int, assignment: Assignment = "cosine") -> Codebook:
    """Unit centroids that fit nothing in particular: the identities hold for any."""
    centroids_LkD = vectors(seed, layers * codes, dim).reshape(layers, codes, dim)
    return Codebook(centroids_LkD, np.ones((layers, codes), np.float32), assignment)


class Trace:
    """The layers of one encoding with unrounded coefficients."""

    def __init__(self, codebook: Codebook, rows_nD: np.ndarray) -> None:
        self.residuals, self.codes, self.coefficients = [rows_nD], [], []
        for centroids_kD in codebook.centroids_LkD:
            code_n, coefficient_n = _choose(self.residuals[-1], centroids_kD, codebook.assignment)
            self.residuals.append(_rest(self.residuals[-1], centroids_kD[code_n], coefficient_n))
            self.codes.append(code_n)
            self.coefficients.append(coefficient_n)


SEEDS = st.integers(0, 2**31 - 1)
FLOAT32 = 2e-6  # rounding of a few float32 steps, relative to a vector's length
identities = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Codebook, np.ndarray]:
    """A random codebook with projections, and vectors of any length."""
    layers, codes, dim = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(2, 10))
    rows = vectors(draw(SEEDS), 20, dim) * np.float32(10.0 ** draw(st.integers(-2, 2)))
    assignment: Assignment = draw(st.sampled_from(["cosine", "abs_cosine"]))
    return random_codebook(draw(SEEDS), layers, codes, dim, assignment), rows


@identities
@given(cases())
def test_a_residual_is_orthogonal_to_its_centroid(case: tuple[Codebook, np.ndarray]) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    for layer, code in enumerate(trace.codes):
        inner = np.einsum("nd,nd->n", trace.residuals[layer + 1], codebook.centroids_LkD[layer, code])
        assert np.all(np.abs(inner) <= FLOAT32 * np.linalg.norm(rows, axis=1))


@identities
@given(cases())
def test_squared_length_splits_into_coefficients_and_last_residual(case: tuple[Codebook, np.ndarray]) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    explained = sum(coefficient.astype(np.float64) ** 2 for coefficient in trace.coefficients)
    last = (trace.residuals[-1].astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(explained + last, (rows.astype(np.float64) ** 2).sum(1), rtol=1e-5)


@identities
@given(cases())
def test_the_error_is_the_last_residual_and_never_grows(case: tuple[Codebook, np.ndarray]) -> None:
    codebook, rows = case
    trace = Trace(codebook, rows)
    decoded = np.zeros(rows.shape)
    length = np.linalg.norm(rows, axis=1)
    before = length
    for layer, (code, coefficient) in enumerate(zip(trace.codes, trace.coefficients, strict=True)):
        decoded += coefficient[:, None] * codebook.centroids_LkD[layer, code].astype(np.float64)
        error = np.linalg.norm(rows - decoded, axis=1)
        last = np.linalg.norm(trace.residuals[layer + 1], axis=1)
        assert np.all(np.abs(error - last) <= FLOAT32 * length)
        assert np.all(error <= before + FLOAT32 * length)
        before = error


def test_with_codes_only_the_error_may_grow_with_a_layer() -> None:
    """The mean coefficient, 1, overshoots a short vector: two layers leave more than one."""
    codebook = Codebook(np.array([[[1, 0]], [[0, 1]]], np.float32), np.ones((2, 1), np.float32), "cosine", "centroid")
    rows = np.array([[1, 0.1]], dtype=np.float32)
    one = Codebook(codebook.centroids_LkD[:1], codebook.means_Lk[:1], "cosine", "centroid")
    errors = [np.linalg.norm(rows - made.decode(made.encode(rows))) for made in (one, codebook)]
    np.testing.assert_allclose(errors, [0.1, 0.9], atol=1e-6)


@identities
@given(cases())
def test_the_chosen_centroid_has_the_largest_cosine(case: tuple[Codebook, np.ndarray]) -> None:
    """Signed, as the paper has it, unless |cosine| is asked for."""
    codebook, rows = case
    trace = Trace(codebook, rows)
    for layer, code in enumerate(trace.codes):
        inner = trace.residuals[layer].astype(np.float64) @ codebook.centroids_LkD[layer].astype(np.float64).T
        value = inner if codebook.assignment == "cosine" else np.abs(inner)
        short = value.max(1) - value[np.arange(len(rows)), code]
        assert np.all(short <= FLOAT32 * np.linalg.norm(rows, axis=1))
        own = inner[np.arange(len(rows)), code]
        assert np.all(np.abs(trace.coefficients[layer] - own) <= FLOAT32 * np.linalg.norm(rows, axis=1))


def decoded(codebook: Codebook, rows: np.ndarray) -> np.ndarray:
    return codebook.decode(codebook.encode(rows))


@identities
@given(cases(), SEEDS)
def test_the_order_of_centroids_changes_no_reconstruction(case: tuple[Codebook, np.ndarray], seed: int) -> None:
    codebook, rows = case
    rng = np.random.default_rng(seed)
    shuffled = np.stack([layer[rng.permutation(len(layer))] for layer in codebook.centroids_LkD])
    permuted = Codebook(shuffled, codebook.means_Lk, codebook.assignment)
    np.testing.assert_allclose(decoded(permuted, rows), decoded(codebook, rows), atol=1e-5 * np.abs(rows).max())


@identities
@given(cases(), SEEDS)
def test_the_length_of_centroids_changes_no_reconstruction(case: tuple[Codebook, np.ndarray], seed: int) -> None:
    codebook, rows = case
    factors = 2.0 ** np.random.default_rng(seed).integers(-6, 7, (*codebook.means_Lk.shape, 1))  # exact to scale by
    scaled = Codebook((codebook.centroids_LkD * factors).astype(np.float32), codebook.means_Lk, codebook.assignment)
    # The last bits of a unit length differ, and with them, rarely, the rounding to fp16.
    np.testing.assert_allclose(decoded(scaled, rows), decoded(codebook, rows), atol=2e-3 * np.abs(rows).max())
    np.testing.assert_allclose(scaled.centroids_LkD, codebook.centroids_LkD, atol=1e-6)


@identities
@given(cases())
def test_fp16_coefficients_add_a_bounded_error(case: tuple[Codebook, np.ndarray]) -> None:
    """Half a unit in the last place of each coefficient, and in the decoded vector no more than their sum."""
    codebook, rows = case
    trace, codes = Trace(codebook, rows), codebook.encode(rows)
    assert codes.coefficients_nL is not None
    assert np.array_equal(codes.codes_nL, np.stack(trace.codes, 1))
    coefficients = np.stack(trace.coefficients, 1).astype(np.float64)
    allowed = np.maximum(FP16_ROUNDING * np.abs(coefficients), FP16_SMALLEST)
    assert np.all(np.abs(codes.coefficients_nL.astype(np.float64) - coefficients) <= allowed)
    exact = np.zeros(rows.shape)
    for layer, code in enumerate(trace.codes):
        exact += coefficients[:, layer, None] * codebook.centroids_LkD[layer, code]
    error = np.linalg.norm(codebook.decode(codes) - exact, axis=1)
    assert np.all(error <= allowed.sum(1) + FLOAT32 * np.linalg.norm(rows, axis=1))


def test_golden_values() -> None:
    """Two layers in the plane, by hand: 3·e1, then the rest along (0, 1); a negative rest has no good centroid."""
    half = np.sqrt(np.float32(0.5))
    centroids = np.array([[[1, 0], [half, half]], [[0, 1], [1, 0]]], dtype=np.float32)
    codebook = Codebook(centroids, np.ones((2, 2), np.float32))
    codes = codebook.encode(np.array([[3, 1], [1, 3], [2, -1]], dtype=np.float32))
    # (3, 1): cosine with e1 wins. (1, 3): the diagonal wins, s = 4·half, leaving (-1, 1), whose best is (0, 1).
    # (2, -1): e1, leaving (0, -1): both centroids of layer 2 are no better than orthogonal; (1, 0) wins with s = 0.
    assert codes.codes_nL.tolist() == [[0, 0], [1, 0], [0, 1]]
    np.testing.assert_allclose(codes.coefficients_nL, [[3, 1], [2.828, 1], [2, 0]], atol=2e-3)
    np.testing.assert_allclose(codebook.decode(codes), [[3, 1], [2, 3], [2, 0]], atol=2e-3)


def test_golden_values_of_the_other_assignments() -> None:
    """|cosine| takes the opposite centroid with a negative coefficient; the nearest centroid has coefficient 1."""
    centroids, means = np.array([[[1, 0], [0, 2]]], np.float32), np.array([[1, 1]], np.float32)
    rows = np.array([[-3, 1], [1.4, 1.5], [0.1, 2]], dtype=np.float32)
    lines = Codebook(centroids, means, "abs_cosine")
    codes = lines.encode(rows)
    assert codes.codes_nL.tolist() == [[0], [1], [1]]
    np.testing.assert_allclose(codes.coefficients_nL, [[-3], [1.5], [2]], atol=2e-3)
    np.testing.assert_allclose(lines.decode(codes), [[-3, 0], [0, 1.5], [0, 2]], atol=2e-3)
    nearest = Codebook(centroids, means, "euclidean")
    codes = nearest.encode(np.array([[3, -1], [1.4, 1.5], [5, 4]], np.float32))
    assert codes.codes_nL.tolist() == [[0], [1], [1]], "squared distances 5, 13; 2.41, 2.21; 32, 29"
    assert codes.coefficients_nL is None
    np.testing.assert_array_equal(nearest.decode(codes), [[1, 0], [0, 2], [0, 2]])


def test_the_largest_code_survives_its_type() -> None:
    """Code 255 in a byte, code 256 in two."""
    for k in (256, 257):
        codebook = random_codebook(3, 1, k, 32)
        codes = codebook.encode(codebook.centroids_LkD[0])
        assert codes.codes_nL[:, 0].tolist() == list(range(k))
        np.testing.assert_allclose(codebook.decode(codes), codebook.centroids_LkD[0], atol=2e-3)


def test_fit_is_deterministic_and_uses_every_code() -> None:
    rows = vectors(0, 200)
    first, again, other = (Codebook.fit(rows, 3, 16, 8, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.centroids_LkD, again.centroids_LkD)
    assert not np.array_equal(first.centroids_LkD, other.centroids_LkD)
    np.testing.assert_allclose(np.linalg.norm(first.centroids_LkD, axis=-1), 1, atol=1e-5)
    codes = first.encode(rows).codes_nL
    for layer in range(3):
        assert len(np.unique(codes[:, layer])) == 16


def test_fit_leaves_its_input_alone() -> None:
    rows = vectors(0, 40)
    before = rows.copy()
    Codebook.fit(rows, 2, 4, 3, 0)
    assert np.array_equal(rows, before)


def test_fewer_codes_than_asked_for_when_there_are_few_vectors() -> None:
    rows = vectors(0, 5)
    codebook = Codebook.fit(rows, 2, 256, 5, 0)
    assert codebook.centroids_LkD.shape == (2, 5, 8)
    np.testing.assert_allclose(codebook.decode(codebook.encode(rows)), rows, atol=2e-3)


def clustered(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return vectors(1, 12, 16)[rng.integers(0, 12, n)] + 0.3 * vectors(2, n, 16)


@pytest.mark.parametrize("assignment", ["cosine", "abs_cosine", "euclidean"])
def test_fitted_layers_explain_more_than_random_ones(assignment: Assignment) -> None:
    rows = clustered()
    fitted = Codebook.fit(rows, 3, 12, 10, 0, assignment)
    random = random_codebook(4, 3, 12, 16, assignment)
    errors = [relative_error(rows, decoded(codebook, rows)) for codebook in (fitted, random)]
    assert errors[0] < 0.5 * errors[1]
    one = Codebook(fitted.centroids_LkD[:1], fitted.means_Lk[:1], assignment)
    assert errors[0] < relative_error(rows, decoded(one, rows))


def test_codes_only_keep_less_than_coefficients_and_more_than_one_length_for_all() -> None:
    rows = clustered() * np.random.default_rng(1).choice([1, 1.5], (300, 1)).astype(np.float32)
    fits: dict[Coefficients, Codebook] = {
        kept: Codebook.fit(rows, 3, 12, 10, 0, "cosine", kept) for kept in ("item", "centroid")
    }
    own, shared = (relative_error(rows, decoded(fitted, rows)) for fitted in fits.values())
    one_length = Codebook(fits["centroid"].centroids_LkD, np.ones((3, 12), np.float32), "cosine", "centroid")
    assert own < shared < relative_error(rows, decoded(one_length, rows))


def test_the_means_are_the_mean_coefficients_of_what_a_centroid_holds() -> None:
    rows = clustered()
    fitted = Codebook.fit(rows, 2, 12, 10, 0, "cosine", "centroid")
    residual = rows
    for layer in range(2):
        code_n, coefficient_n = _choose(residual, fitted.centroids_LkD[layer], "cosine")
        for code in range(12):
            assert fitted.means_Lk[layer, code] == pytest.approx(coefficient_n[code_n == code].mean(), rel=1e-5)
        residual = _rest(residual, fitted.centroids_LkD[layer, code_n], fitted.means_Lk[layer, code_n])
    np.testing.assert_allclose(rows - decoded(fitted, rows), residual, atol=1e-6)


def test_a_vector_and_its_opposite_share_a_line() -> None:
    """Fitted for |cosine|, mirrored points change no centroid but for its sign."""
    rows = clustered(60)
    mirrored = rows * np.random.default_rng(3).choice([-1, 1], (60, 1)).astype(np.float32)
    codes = [Codebook.fit(r, 1, 6, 8, 0, "abs_cosine").encode(r) for r in (rows, mirrored)]
    assert np.array_equal(codes[0].codes_nL, codes[1].codes_nL)
    np.testing.assert_array_equal(np.abs(codes[0].coefficients_nL), np.abs(codes[1].coefficients_nL))


def test_plain_choice_uses_nearly_every_code_of_a_clustered_catalogue() -> None:
    rng = np.random.default_rng(0)
    rows = vectors(1, 100, 16)[rng.integers(0, 100, 5000)] + 0.3 * vectors(2, 5000, 16)
    codes = Codebook.fit(rows, 3, 64, 5, 0).encode(rows).codes_nL
    for layer in range(3):
        assert len(np.unique(codes[:, layer])) >= 0.95 * 64


def test_encoding_an_item_alone_gives_the_same_codes() -> None:
    codebook, rows = random_codebook(0, 3, 8, 8), vectors(1, 50)
    together = codebook.encode(rows)
    for row in (0, 17, 49):
        alone = codebook.encode(rows[row : row + 1])
        assert np.array_equal(alone.codes_nL[0], together.codes_nL[row])
        np.testing.assert_allclose(alone.coefficients_nL[0], together.coefficients_nL[row], atol=1e-3)


def test_save_and_load(tmp_path: Path) -> None:
    codebook = Codebook.fit(vectors(0), 2, 8, 3, 0)
    for name in ("a", "b"):
        codebook.save(tmp_path / name)
    loaded = Codebook.load(tmp_path / "a")
    assert np.array_equal(loaded.centroids_LkD, codebook.centroids_LkD)
    codes, again = codebook.encode(vectors(1)), loaded.encode(vectors(1))
    assert np.array_equal(codes.codes_nL, again.codes_nL)
    assert np.array_equal(codes.coefficients_nL, again.coefficients_nL)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert np.array_equal(loaded.means_Lk, codebook.means_Lk)
    assert (loaded.assignment, loaded.coefficients) == ("cosine", "item")
    with pytest.raises(MissingArtefact):
        Codebook.load(tmp_path)


def test_a_codebook_of_an_older_version_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "codebook", {"layers": 1}, {"centroids": np.zeros((1, 2, 3), np.float32)})
    with pytest.raises(MissingArtefact, match="older version"):
        Codebook.load(tmp_path)


@pytest.mark.parametrize(("k", "coefficients", "size"), [(8, "item", 9), (8, "centroid", 3), (300, "item", 12)])
def test_codes_come_back_from_storage(tmp_path: Path, k: int, coefficients: Coefficients, size: int) -> None:
    """Whether a reader takes them as numpy arrays or as torch tensors."""
    rows = vectors(1, 400)
    codebook = Codebook.fit(rows, 3, k, 2, 0, "cosine", coefficients)
    fresh = codebook.encode(rows)
    assert fresh.bytes_per_item == size
    write_tensors(tmp_path / "codes.safetensors", fresh.arrays())
    for load in (safetensors.numpy.load_file, safetensors.torch.load_file):
        stored = Codes.from_arrays(load(tmp_path / "codes.safetensors"))
        assert stored.codes_nL.dtype == fresh.codes_nL.dtype
        assert np.array_equal(codebook.decode(stored), codebook.decode(fresh))
        assert np.array_equal(codebook.decode(stored.take(np.array([7, 3]))), codebook.decode(fresh)[[7, 3]])
