"""Decoding a batch straight from codes gives what decoding the catalogue and gathering gives."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prismrec.quantization.code_table import CodeTable
from prismrec.quantization.codebook import Assignment, Codebook, Coefficients


@settings(max_examples=40, deadline=None)
@example("cosine", "item", 300, [1])
@example("cosine", "item", 8, [0])
@given(
    st.sampled_from(["cosine", "abs_cosine", "euclidean"]),
    st.sampled_from(["item", "centroid"]),
    st.sampled_from([8, 300]),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_equals_the_decoded_table(assignment: Assignment, coefficients: Coefficients, k: int, shape: list[int]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((320, 6)).astype(np.float32)
    codebook = Codebook.fit(rows, 3, k, 1, 0, assignment, coefficients)
    codes = codebook.encode(rows)
    table = CodeTable(codebook, codes)
    items = torch.from_numpy(rng.integers(0, 320, shape))
    expected = torch.from_numpy(codebook.decode(codes))[items]
    assert table.shape == (320, 6)
    assert table[items].shape == (*shape, 6)
    torch.testing.assert_close(table[items], expected, atol=1e-5, rtol=0)


def test_never_makes_the_catalogues_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 items no more vectors are decoded than were asked for."""
    rows = np.random.default_rng(0).standard_normal((5_000, 4)).astype(np.float32)
    codebook = Codebook.fit(rows, 2, 4, 1, 0)
    table = CodeTable(codebook, codebook.encode(rows))
    decoded, plain = [], torch.nn.functional.embedding_bag

    def counted(codes: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        decoded.append(len(codes))
        return plain(codes, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("prismrec.quantization.code_table.F.embedding_bag", counted)
    table[torch.zeros(3, 5, dtype=torch.int64)]
    assert decoded == [15]
