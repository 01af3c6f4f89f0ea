"""The speed benchmark runs at a small size and writes figures of the right kind; how fast it is, it tells, no test."""

import json
from pathlib import Path

import pytest

from benchmarks import ranking_speed

SMALL = ["--users", "40", "--items", "900", "--rounds", "1", "--seen", "5", "9", "--k", "10"]


def test_report_of_a_small_run(tmp_path: Path) -> None:
    output = tmp_path / "speed.json"
    output.write_text('{"rectools": {"kept": 1}}')
    ranking_speed.main([*SMALL, "--output", str(output)])
    written = json.loads(output.read_text())
    assert written["rectools"] == {"kept": 1}, "the other command's figures are kept"
    report = written["search"]
    products = [seconds for name, seconds in report["seconds"].items() if name != "search"]
    assert report["ratio"] == pytest.approx(report["seconds"]["search"] / min(products))
    assert report["seconds"][report["fastest_product"]] == min(products)
    assert report["sizes"]["items"] == 900
    parts = report["microseconds_a_user_on_one_thread"]
    assert parts["product"] > 0
    assert parts["top-k"] > 0, "the timed functions are those the search calls"
    assert parts["seen items"] > 0
    assert "ratio: " in ranking_speed.as_table(report)


def test_the_bare_product_covers_every_user_and_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio against a product that skips something would flatter the search."""
    options = ranking_speed.parse([*SMALL, "--users", "300"])
    inputs = ranking_speed.make_inputs(options)
    multiply, numbers = ranking_speed.torch.mm, []

    def counted(left, right, *, out):  # type: ignore[no-untyped-def]
        numbers.append(out.numel())
        return multiply(left, right, out=out)

    monkeypatch.setattr(ranking_speed.torch, "mm", counted)
    for shape in ranking_speed.shapes_of(inputs).values():
        numbers.clear()
        ranking_speed.multiply(inputs, shape)
        assert sum(numbers) == 300 * 4 * 900
        numbers.clear()
        ranking_speed.multiply_on_all_threads(inputs, shape)
        assert sum(numbers) == 300 * 4 * 900


def test_differing_lists_are_told_from_swapped_ties() -> None:
    inputs = ranking_speed.make_inputs(ranking_speed.parse([*SMALL, "--interests", "1"]))
    ours = ranking_speed.search(*inputs).items_Bk.numpy()
    assert ranking_speed.compare(inputs, ours, ours) == {"places": 400, "different": 0, "largest_gap": 0.0}
    swapped = ours.copy()
    swapped[0, [0, 1]] = ours[0, [1, 0]]
    told = ranking_speed.compare(inputs, ours, swapped)
    assert told["different"] == 2
    assert told["largest_gap"] > 1e-4


def test_a_catalogue_too_small_for_full_lists_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ranking_speed.parse(["--items", "20"])
    assert "--items must be" in capsys.readouterr().err
