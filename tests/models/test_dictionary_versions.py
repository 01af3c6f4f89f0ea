"""A bundle whose parts rest on different dictionaries is refused, naming both versions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prismrec.errors import LineageError
from prismrec.models.interest_dictionary import stamp
from prismrec.models.loading import load_rankers
from prismrec.models.retrieval_head import RetrievalHead
from prismrec.serving.engine import Engine
from serving.bundles import parts

OTHER = "feedfeedfeedfeed"


def test_parts_of_one_dictionary_load(tmp_path: Path) -> None:
    parts().save(tmp_path)
    assert "gemirec" in load_rankers(tmp_path)


@pytest.mark.parametrize("part", ["item_cells", "posterior", "retrieval"])
def test_a_part_of_another_dictionary_is_refused(tmp_path: Path, part: str) -> None:
    whole = parts()
    version = whole.parts["dictionary"].version
    held = whole.parts[part]
    other = (
        {**held, **stamp(OTHER)}
        if part == "item_cells"
        else type(held)(replace(held.config, dictionary=OTHER), *_buffers(held)).eval()
    )
    replace(whole, parts={**whole.parts, part: other}).save(tmp_path)
    with pytest.raises(LineageError, match=f"{part.split('_')[-1]}.*{OTHER}.*{version}"):
        load_rankers(tmp_path)


def test_cells_without_a_version_are_refused(tmp_path: Path) -> None:
    whole = parts()
    cells = {"cells": np.asarray(whole.parts["item_cells"]["cells"])}
    replace(whole, parts={**whole.parts, "item_cells": cells}).save(tmp_path)
    with pytest.raises(LineageError, match="no version"):
        load_rankers(tmp_path)


@pytest.mark.parametrize("load", [load_rankers, Engine.load])
def test_a_manifest_of_another_dictionary_is_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """All parts are of one dictionary; the ids that clients see beside the manifest's version would be of another."""
    whole = parts()
    replace(whole, dictionary_version=OTHER).save(tmp_path)
    with pytest.raises(LineageError, match=f"manifest.*{OTHER}.*{whole.dictionary_version}"):
        load(tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_a_manifest_names_the_dictionary_that_is_there(tmp_path: Path, named: bool) -> None:
    """Neither one that is not there, nor none where one is."""
    whole = parts()
    stage_6 = {"dictionary", "item_cells", "posterior", "retrieval", "unified_merge"} if named else set()
    replace(
        whole,
        parts={name: part for name, part in whole.parts.items() if name not in stage_6},
        dictionary_version=whole.dictionary_version if named else None,
    ).save(tmp_path)
    with pytest.raises(LineageError, match="None"):
        load_rankers(tmp_path)


def _buffers(model: object) -> tuple:
    """What a posterior is made from beside its config."""
    return () if isinstance(model, RetrievalHead) else (model.cells_GE, model.occupied_G)
