"""A bundle whose parts rest on different dictionaries is refused, naming both versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prismrec.errors import LineageError
from prismrec.models.interest_dictionary import stamp
from prismrec.models.loading import load_rankers
from prismrec.models.retrieval_head import RetrievalHead
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


def _buffers(model: object) -> tuple:
    """What a posterior is made from beside its config."""
    return () if isinstance(model, RetrievalHead) else (model.cells_GE, model.occupied_G)
