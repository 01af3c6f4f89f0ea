"""Nodes of `lightweight_encoder`: texts are embedded once, and the facts say so."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from models.checkpoints import save_checkpoint
from models.test_text_encoder import with_tokenizer
from prismrec.data.histories import Histories
from prismrec.data.splits import leave_one_out
from prismrec.errors import UserError
from prismrec.models.item_text import NewItem
from prismrec.models.item_tower import ItemTower
from prismrec.pipelines.inputs import device_for
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


def test_a_text_is_the_same_in_the_catalogue_and_from_outside() -> None:
    """The item map holds empty texts and lists where a source says nothing."""
    said = [
        ("Bread", [], ""),
        ("Bread", ["Kitchen"], ""),
        ("Bread", [], "About"),
        ("", ["Kitchen", "Oven"], ""),
        ("", [], ""),
    ]
    titles, categories, texts = (list(part) for part in zip(*said, strict=True))
    schema = {"title": pl.String, "categories": pl.List(pl.String), "text": pl.String}
    items = pl.DataFrame({"title": titles, "categories": categories, "text": texts}, schema)
    assert item_texts(items) == [NewItem(title, text, tuple(listed)).text for title, listed, text in said]
    assert item_texts(items)[:3] == ["Bread", "Bread. Kitchen", "Bread. About"]


def test_without_two_training_events_the_user_is_told_what_to_change() -> None:
    items = pl.DataFrame({"title": ["t"] * 12, "active": [True] * 12})
    texts = {"embeddings": np.ones((12, 5), np.float32)}
    histories = Histories.from_lists([[user, user + 1, user + 2] for user in range(8)])
    with pytest.raises(UserError, match="None of the 8 users has two training events") as told:
        train_encoder(texts, {}, items, histories, leave_one_out(histories), encoder_parameters())
    assert "sequence_building.max_user_events" in str(told.value)


def test_a_final_fits_embeddings_are_those_of_its_text_model(tmp_path: Path) -> None:
    """Nobody is ranked in it, so nothing else asks for the texts after the last epoch."""
    folder = with_tokenizer(save_checkpoint("bert", tmp_path / "model"))
    words = ["a quiet film", "robots", "gardens in spring", "a film about gardens", "quiet robots", "spring"] * 2
    items = pl.DataFrame(
        {"title": words, "categories": [[]] * 12, "text": [""] * 12, "active": [True] * 12},
        schema_overrides={"categories": pl.List(pl.String)},
    )
    parameters = encoder_parameters(
        text_encoder=str(folder), text_training="full", text_items_per_step=4, max_tokens=8, training=training(epochs=5)
    )
    texts, facts = embed_texts(items, None, parameters)
    histories = Histories.from_lists([[(user + step) % 12 for step in range(6)] for user in range(8)])
    choices = {"epochs": {"lightweight_encoder": 2}}
    *_, learned, text_model, curve, _ = train_encoder(
        texts, facts, items, histories, leave_one_out(histories), parameters, choices=choices
    )
    assert len(curve["epochs"]) == 2
    assert not np.allclose(learned["embeddings"], texts["embeddings"], atol=1e-4), "the texts have learnt"
    np.testing.assert_array_equal(learned["embeddings"], text_model.encode(item_texts(items)))


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


def test_texts_are_encoded_where_the_training_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_for("cpu").type == "cpu"
    gpu = torch.device("meta")  # stands for a GPU
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: gpu)
    assert device_for("auto") == gpu
    assert device_for("cpu").type == "cpu"
    moved: list[torch.device] = []
    monkeypatch.setattr("transformers.BertModel.to", lambda self, device: (moved.append(device), self)[1])
    embed_texts(ITEMS, None, encoder_parameters(max_tokens=16, training=training(device="auto")))
    assert moved == [gpu]
