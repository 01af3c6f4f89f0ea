"""The stage `codebook` in memory, with every way of choosing and storing."""

from typing import Any

import numpy as np
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from prismrec.parameters.codebook import CodebookParameters
from prismrec.pipelines.codebook.pipeline import create_pipeline


def run(**parameters: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    given = {"seed": 1, "layers": 2, "codes": 8, "iterations": 2, "assignment": "cosine", "coefficients": "item"}
    vectors = {
        "vectors": rng.standard_normal((60, 6)).astype(np.float32),
        "text_only": rng.standard_normal((60, 6)).astype(np.float32),
        "recommendable": np.arange(60) < 50,
    }
    pipeline = create_pipeline()
    inputs = {"item_vectors": vectors, "params:codebook": CodebookParameters(**(given | parameters))}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in inputs.items()})
    return {name: data.load() for name, data in SequentialRunner().run(pipeline, catalog).items()}


@pytest.mark.parametrize("assignment", ["cosine", "abs_cosine", "euclidean"])
@pytest.mark.parametrize("coefficients", ["item", "centroid"])
def test_every_way_writes_its_codes_and_figures(assignment: str, coefficients: str) -> None:
    found = run(assignment=assignment, coefficients=coefficients)
    own = coefficients == "item" and assignment != "euclidean"
    figures = found["codebook_metrics"]
    assert figures["items"] == 50, "only recommendable items count"
    assert figures["bytes_per_item_marginal"] == (6 if own else 2)
    assert figures["assignment"] == assignment
    assert "<svg" in found["codebook_page"]


def test_codes_of_every_known_item_are_stored() -> None:
    pipeline = create_pipeline()
    assert {"codebook", "item_codes", "codebook_metrics", "codebook_page"} == pipeline.all_outputs()
    found = run()
    assert found.keys() == {"codebook_metrics", "codebook_page"}


def test_another_assignment_is_refused() -> None:
    with pytest.raises(ValidationError, match="assignment"):
        run(assignment="manhattan")
