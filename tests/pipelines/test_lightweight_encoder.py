"""Nodes of `lightweight_encoder`: texts are embedded once, and the facts say so."""

import numpy as np
import polars as pl
import pytest

from prismrec.data.histories import Histories
from prismrec.data.splits import leave_one_out
from prismrec.models.item_tower import ItemTower
from prismrec.pipelines.lightweight_encoder.nodes import embed_texts, item_texts, train_encoder
from training.small import encoder_parameters, training

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


@pytest.mark.parametrize(("spectral", "start"), [(True, "start_from"), (False, "start_from_noise")])
def test_item_vectors_start_where_they_are_told(spectral: bool, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def noted(name: str) -> None:
        original = getattr(ItemTower, name)
        monkeypatch.setattr(ItemTower, name, lambda *given: (started.append(name), original(*given))[1])

    noted("start_from"), noted("start_from_noise")
    items = pl.DataFrame({"title": ["t"] * 12, "active": [True] * 12})
    texts = {"embeddings": np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)}
    histories = Histories.from_lists([[(user + step) % 12 for step in range(6)] for user in range(8)])
    parameters = encoder_parameters(spectral_start=spectral, training=training(epochs=1))
    vectors = train_encoder(texts, {}, items, histories, leave_one_out(histories), parameters)[1]["vectors"]
    assert started == [start]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
