"""The benchmark of the index at a small size: figures of the right kind, and the same exact lists by both flat ways."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import index_search
from prismrec.retrieval import index


def test_report_of_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_ITEMS", 1_000)
    output = tmp_path / "index.json"
    arguments = ["--items", "4000", "--dimensions", "8", "--k", "10", "--users", "20", "--output", str(output)]
    index_search.main(arguments)
    report = json.loads(output.read_text())
    assert report["recall"] > 0.9
    assert report["cells_read"] <= report["cells"]
    figures = report["milliseconds"]
    fastest = min(figures["flat, faiss"]["p99"], figures["flat, torch"]["p99"])
    assert report["p99_of_flat"] == pytest.approx(figures["index"]["p99"] / fastest)
    assert "recall" in index_search.as_table(report)


def test_the_flat_lists_are_merged_without_repeats() -> None:
    import faiss

    items_ND = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    flat = faiss.IndexFlatIP(8)
    flat.add(items_ND.numpy())
    asked_KD = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    expected = (asked_KD @ items_ND.T).amax(0).topk(20).indices.numpy()
    np.testing.assert_array_equal(index_search._merged(flat, asked_KD, 20), expected)
