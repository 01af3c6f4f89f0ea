"""Nodes of `lightweight_encoder`: texts are embedded once, and the facts say so."""

import numpy as np
import polars as pl

from prismrec.pipelines.lightweight_encoder.nodes import embed_texts, item_texts
from training.small import encoder_parameters

ITEMS = pl.DataFrame(
    {
        "title": ["Sea Ocean", "Bread Dough", "Bread Dough"],
        "categories": [["Travel", "sea voyages"], ["Kitchen"], []],
        "text": ["About ships.", None, None],
    },
    schema_overrides={"categories": pl.List(pl.String)},
)


def test_a_text_is_title_categories_and_text() -> None:
    assert item_texts(ITEMS)[:2] == ["Sea Ocean. Travel, sea voyages. About ships.", "Bread Dough. Kitchen"]


def test_a_second_run_encodes_what_is_new_and_writes_the_same_bytes() -> None:
    parameters = encoder_parameters(max_tokens=16)
    first, facts = embed_texts(ITEMS[:2], None, parameters)
    assert (facts["texts_encoded"], facts["texts_taken_over"]) == (2, 0)
    assert facts["text_encoder_licence"] == "Apache-2.0"
    second, facts = embed_texts(ITEMS, first, parameters)
    assert (facts["texts_encoded"], facts["texts_taken_over"]) == (1, 2)
    afresh, _ = embed_texts(ITEMS, None, parameters)
    for name, values in afresh.items():
        assert np.array_equal(second[name], values), name
