"""The codebook's benchmarks run at a small size and write figures of the right kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.codebook_vectors import clustered

from benchmarks import codebook_decode, codebook_fidelity, codebook_fit


def test_vectors_are_clustered_and_seeded() -> None:
    rows = clustered(3_000, 64, 0)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(rows, clustered(3_000, 64, 0))
    assert not np.array_equal(rows, clustered(3_000, 64, 1))
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -1)
    assert 0.5 < np.median(cosine.max(1)) < 0.9, "most vectors have others of their cluster near by"
    assert abs(np.median(cosine)) < 0.05


def test_fit_reports_bounds_and_use(capsys: pytest.CaptureFixture[str]) -> None:
    options = codebook_fit.parse(["--dim", "8", "--layers", "2", "--codes", "16", "--iterations", "2"])
    found = codebook_fit.measure(500, options)
    assert found["bounds"] == [31, 32]
    assert found["smallest_at_fit"] == [31, 31]
    assert found["largest_at_fit"] == [32, 32]
    assert found["used_at_fit"] == [1.0, 1.0]
    assert "500" in codebook_fit.as_table({"500": found})


def test_decode_ways_give_the_same_vectors(tmp_path: Path) -> None:
    given = ["--items", "300", "--dims", "8", "--batch", "2", "--length", "5", "--rounds", "1"]
    codebook_decode.main([*given, "--output", str(tmp_path / "decode.json")])
    found = json.loads((tmp_path / "decode.json").read_text())["sizes"]["300 × 8"]
    assert found["ratio_to_copy"]["copy"] == 1
    assert found["table_mb"]["decoded"] / found["table_mb"]["codes"] == pytest.approx(32 / 9)
    ways = codebook_decode.ways(300, 8, codebook_decode.parse(given))
    items = torch.randint(300, (2, 5))
    torch.testing.assert_close(ways["decode"](items), ways["gather"](items))
    assert torch.equal(ways["index"](items), ways["gather"](items))
    assert ways["copy"](items).shape == (2, 5, 8)


def test_fidelity_cells_are_of_equal_bytes_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook_fidelity, "METHODS", ("cosine", "Euclidean, greedy", "product"))
    output = tmp_path / "fidelity.json"
    given = ["--items", "400", "--dim", "8", "--bytes", "3", "--iterations", "2", "--output", str(output)]
    codebook_fidelity.main(given)
    cells = json.loads(output.read_text())["cells"]
    assert list(cells) == sorted(f"clustered 400 | 3 | {method}" for method in codebook_fidelity.METHODS)
    for found in cells.values():
        assert 0 < found["relative_squared_error"] < 1
        assert 0 < found["overlap@10"] <= 1
    monkeypatch.setattr(codebook_fidelity, "measure", lambda *_: pytest.fail("a cell was run again"))
    codebook_fidelity.main(given)
    with pytest.raises(SystemExit, match="other settings"):
        codebook_fidelity.main([*given[:-4], "--iterations", "3", "--output", str(output)])


def test_a_perfect_reconstruction_overlaps_wholly() -> None:
    rows = clustered(50, 8, 0)
    assert codebook_fidelity.overlap(rows, rows, 0) == 1
    assert codebook_fidelity.overlap(rows, -rows, 0) < 0.5
