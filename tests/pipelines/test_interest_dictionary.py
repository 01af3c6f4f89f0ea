"""Nodes of `interest_dictionary`: fit, refresh, cells, reports; what a refresh that was cut off leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch.nn import functional as F

from pipelines.refresh_sets import Workspace, is_whole
from prismrec.artifacts import atomic
from prismrec.data.histories import Histories
from prismrec.errors import UserError
from prismrec.models import load_model
from prismrec.models.interest_dictionary import stamped_version
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.pipelines.interest_dictionary import nodes
from prismrec.training.dictionary_refresh import KeptDictionary

PROJECT = Path(__file__).parents[2]
ITEMS = 150


def parameters(**changes: Any) -> InterestDictionaryParameters:
    text = (PROJECT / "conf/base/parameters_interest_dictionary.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["interest_dictionary"]
    sizes = {"warm_up_steps": 20, "steps": 40, "code_dim": 4, "hidden": 12, "batch_size": 64}
    return InterestDictionaryParameters(
        **{**values, "seed": 0, "dictionary": {**values["dictionary"], **sizes}, **changes}
    )


def item_vectors(seed: int = 0, nudge: float = 0.0) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(ITEMS, 8, generator=generator), dim=-1)
    noise = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(99))
    vectors = F.normalize(vectors + nudge * noise, dim=-1)
    known = np.ones(ITEMS, dtype=bool)
    known[:5] = False
    return {"vectors": vectors.numpy(), "text_only": vectors.flip(0).numpy(), "recommendable": known}


First = tuple[KeptDictionary, Path, dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """A dictionary, where it is kept, its cells, how it came about."""
    kept, origin = nodes.fit_dictionary(item_vectors(), None, parameters())
    folder = tmp_path_factory.mktemp("kept") / "dictionary"
    kept.save(folder)
    return kept, folder, nodes.assign_cells(kept.dictionary, item_vectors()), origin


def test_cells_carry_the_version_and_vectors_lie_with_the_dictionary(first: First) -> None:
    kept, folder, cells, origin = first
    assert stamped_version(cells) == kept.dictionary.version
    assert len(cells["cells"]) == ITEMS
    assert origin["kind"] == "fitted"
    loaded = KeptDictionary.load(folder)
    assert loaded.dictionary.version == kept.dictionary.version == load_model(folder).version
    assert len(loaded.rows.items_N) == ITEMS - 5
    assert torch.equal(loaded.rows.both, kept.rows.both)


def test_whoever_loads_the_model_has_no_vectors(first: First, tmp_path: Path) -> None:
    """So a bundle does not carry them."""
    load_model(first[1]).save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_plain_run_does_not_depend_on_what_was_there_before(first: First) -> None:
    kept, folder, _, _ = first
    again, _ = nodes.fit_dictionary(item_vectors(), folder, parameters())
    assert again.dictionary.version == kept.dictionary.version


def test_a_refresh_goes_on_with_the_parent(first: First) -> None:
    kept, folder, cells, _ = first
    now = item_vectors(nudge=0.01)
    child, origin = nodes.fit_dictionary(now, folder, parameters(refresh=True))
    assert origin["kind"] == "refreshed"
    assert child.dictionary.config.parent == kept.dictionary.version
    new_cells = nodes.assign_cells(child.dictionary, now)
    report, plot, health = nodes.report_dictionary(child.dictionary, origin, new_cells, now, folder)
    assert report["parent"] == report["previous"] == kept.dictionary.version
    assert report["items_in_both"] == ITEMS - 5
    known = now["recommendable"]
    assert report["items_moved"] == int((cells["codes"][known] != new_cells["codes"][known]).any(1).sum())
    assert report["barely_moved_changed_share"] <= 0.05
    assert not report["aligned"]
    assert health["codes_born"] >= 0
    json.dumps([report, plot, health], allow_nan=False)


def test_a_refresh_that_was_cut_off_is_gone_on_with(first: First, tmp_path: Path) -> None:
    """It got as far as its dictionary: that one is the parent of the next, and already what that one would make."""
    now = item_vectors(nudge=0.01)
    cut_off, _ = nodes.fit_dictionary(now, first[1], parameters(refresh=True))
    cut_off.save(tmp_path)
    again, origin = nodes.fit_dictionary(now, tmp_path, parameters(refresh=True))
    assert origin["kind"] == "unchanged"
    assert again.dictionary.version == cut_off.dictionary.version


def test_the_first_run_reports_too(first: First) -> None:
    kept, _, cells, origin = first
    report, _, health = nodes.report_dictionary(kept.dictionary, origin, cells, item_vectors(), None)
    assert report["kind"] == "fitted"
    assert "previous" not in report
    assert health["reconstruction_loss"] > 0


@pytest.mark.parametrize("there", [False, True])
def test_a_refresh_needs_a_parent_with_its_vectors(first: First, tmp_path: Path, there: bool) -> None:
    kept, _, cells, origin = first
    kept.dictionary.save(tmp_path)  # as the releases before did, without vectors
    folder = tmp_path if there else None
    with pytest.raises(UserError, match="no previous dictionary"):
        nodes.fit_dictionary(item_vectors(), folder, parameters(refresh=True))
    report, *_ = nodes.report_dictionary(kept.dictionary, origin, cells, item_vectors(), folder)
    assert "previous" not in report


def test_interests_are_named_counted_and_placed(first: First) -> None:
    kept, _, cells, _ = first
    items = pl.DataFrame(
        {
            "item_id": [str(item) for item in range(ITEMS)],
            "title": [None if item == 7 else f"title {item}" for item in range(ITEMS)],
            "categories": [["sea"] if item % 2 else ["land"] for item in range(ITEMS)],
        }
    )
    histories = Histories.from_lists([list(range(user, ITEMS, 3)) for user in range(3)])
    names, table, figure = nodes.label_interests(kept.dictionary, cells, item_vectors(), items, histories)
    assert table["dictionary"] == kept.dictionary.version
    assert sum(row["items"] for row in table["interests"]) == ITEMS - 5
    assert {row["id"]: row["name"] for row in table["interests"]}.items() <= names.items()
    assert len(figure["data"][0]["x"]) == len(table["interests"])


# What is left of a refresh that was cut off


def test_a_cut_at_every_write_leaves_one_version_or_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is flushed to the disk once: fail at the first flush, the second, … until a refresh comes through."""
    workspace = Workspace(tmp_path)
    workspace.save(workspace.version(1))
    old = workspace.newest()["dictionary"].version
    flush, seen = atomic._flush, {"whole": 0, "refused": 0}
    for last in range(1, 200):
        calls = iter(range(1, 10_000))

        def cut(path: Path, calls: Any = calls, last: int = last) -> None:
            if next(calls) >= last:
                raise KeyboardInterrupt
            flush(path)

        new = workspace.version(1 + last)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_flush", cut)
            try:
                workspace.save(new)
            except KeyboardInterrupt:
                pass
            else:
                break
        seen["whole" if is_whole(workspace) else "refused"] += 1
        assert workspace.check_bundle() in (old, new["dictionary"].dictionary.version)
        workspace.save(workspace.version(1))  # the mend: the stages once more
        assert is_whole(workspace)
    assert workspace.check_bundle() == new["dictionary"].dictionary.version
    assert seen["whole"] > 0
    assert seen["refused"] > 10, "otherwise no cut fell between two datasets"


@pytest.mark.slow
def test_what_real_kills_leave_is_of_one_version_or_refused(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_refresh.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "12", "7"],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["whole"] + seen["refused"] == 12
