"""Training of the text encoder: what a step encodes, what learns, what is saved, and that it helps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoints import save_checkpoint
from models.small import DIM
from models.test_text_encoder import with_tokenizer
from prismrec.models.item_tower import ItemTower, ItemTowerConfig
from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
from prismrec.models.text_encoder import TextEncoder
from prismrec.training.item_texts import ItemTexts
from prismrec.training.lightweight_encoder import EpochStart, LightweightEncoderTask
from prismrec.training.loop import fit
from training.small import NUM_ITEMS, Walks, encoder_parameters, random_lengths, training

WORDS = ["a", "quiet", "film", "about", "robots", "and", "gardens", "in", "spring"]
TEXTS = [f"{WORDS[i % 9]} {WORDS[i // 9]} {WORDS[(i * 5 + 2) % 9]}" for i in range(NUM_ITEMS)]
RATE_SHARE = 0.2


def text_encoder(architecture: str, folder: Path) -> TextEncoder:
    if not folder.exists():
        with_tokenizer(save_checkpoint(architecture, folder))
    return TextEncoder(str(folder), max_tokens=8, batch_size=8)


def item_texts(folder: Path, architecture: str = "bert", rank: int | None = None, items: int = 8) -> ItemTexts:
    encoder = text_encoder(architecture, folder)
    table = torch.from_numpy(encoder.encode(TEXTS))
    torch.manual_seed(0)  # adapters start at random
    return ItemTexts(encoder, TEXTS, table, items, rank, RATE_SHARE)


def task(texts: ItemTexts, world: Walks, **changes: Any) -> LightweightEncoderTask:
    torch.manual_seed(0)
    parameters = encoder_parameters(**changes)
    tower = ItemTower(ItemTowerConfig(NUM_ITEMS, texts.encoder.dim, DIM))
    trained = np.ones(NUM_ITEMS, dtype=bool)
    trained[-2:] = False
    tower.find_neighbours(texts.table_NE, torch.as_tensor(trained))
    encoder = LightweightEncoder(
        LightweightEncoderConfig(DIM, parameters.num_interests, 12, 3, 0.1, parameters.long_length)
    )
    return LightweightEncoderTask(tower, encoder, texts, trained, world.data(), parameters)


def weights(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def test_a_sample_takes_the_items_of_the_batch_first(tmp_path: Path) -> None:
    texts, generator = item_texts(tmp_path / "model"), torch.Generator().manual_seed(0)
    few, many = torch.tensor([[3, 9], [9, 4]]), torch.arange(20)
    seen = set()
    for _ in range(30):
        found = texts.sample(few, generator).tolist()
        assert len(set(found)) == 8
        assert {3, 4, 9} <= set(found)
        seen |= set(found)
        assert set(texts.sample(many, generator).tolist()) < set(range(20))
    assert seen == set(range(NUM_ITEMS)), "the rest is drawn from all items"


def test_a_steps_table_is_fresh_where_sampled_and_old_elsewhere(tmp_path: Path) -> None:
    texts = item_texts(tmp_path / "model")
    with torch.no_grad():
        for parameter in texts.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    sample = torch.tensor([2, 5, 20])
    table = texts(sample)
    others = torch.ones(NUM_ITEMS, dtype=torch.bool)
    others[sample] = False
    assert torch.equal(table[others], texts.table_NE[others])
    new = torch.from_numpy(texts.encoder.encode(TEXTS))
    torch.testing.assert_close(table[sample], new[sample], atol=0.03, rtol=0)  # bf16 in another shape
    assert (table[sample] - texts.table_NE[sample]).norm(dim=1).min() > 1e-3
    texts.refresh()
    assert torch.equal(texts.table_NE, new), "a refresh encodes as an encoder by itself does"


@pytest.mark.parametrize("rank", [None, 2])
def test_a_step_encodes_a_bounded_sample_whatever_the_catalogue(rank: int | None, tmp_path: Path) -> None:
    """What is encoded with gradient, and so what of the text encoder is held for backward, is the sample."""
    for copies in (1, 40):
        encoder = text_encoder("bert", tmp_path / "model")
        table = torch.from_numpy(encoder.encode(TEXTS)).repeat(copies, 1)
        texts = ItemTexts(encoder, TEXTS * copies, table, 8, rank, RATE_SHARE)
        rows: list[int] = []
        count = rows.append
        hook = texts.model.register_forward_hook(lambda *args, count=count: count(len(args[2].last_hidden_state)))
        texts(texts.sample(torch.tensor([0]), torch.Generator().manual_seed(0))).sum().backward()
        hook.remove()
        assert rows == [8]


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_lora_trains_adapters_only_and_full_trains_all(architecture: str, tmp_path: Path) -> None:
    learning = {}
    for rank in (None, 2):
        texts = item_texts(tmp_path / "model", architecture, rank)
        learning[rank] = {name for name, p in texts.model.named_parameters() if p.requires_grad}
        assert all(p.rate_share == RATE_SHARE for p in texts.model.parameters())
    assert all("lora_" in name for name in learning[2])
    assert learning[2]
    assert not any("lora_" in name for name in learning[None])


@pytest.mark.parametrize(("architecture", "rank"), [("bert", None), ("bert", 2), ("qwen3", 2)])
def test_the_text_encoder_learns_and_is_saved_as_trained(architecture: str, rank: int | None, tmp_path: Path) -> None:
    results = []
    for run in range(2):
        texts = item_texts(tmp_path / "model", architecture, rank)
        before = weights(text_encoder(architecture, tmp_path / "model").model)
        made = task(
            texts, Walks(random_lengths(80)),
            training=training(epochs=6, patience=6, learning_rate=0.05), text_items_per_step=8,
        )  # fmt: skip
        made.tower.requires_grad_(False)  # whatever is learned is learned by the text encoder
        made.encoder.requires_grad_(False)
        curve = fit(made, made.parameters.training, seed=0)
        assert curve[-1].loss < 0.97 * curve[0].loss
        table = made.text_embeddings().clone()
        texts.finish().save(tmp_path / f"trained-{run}")
        loaded = TextEncoder(str(tmp_path / f"trained-{run}"), max_tokens=8, batch_size=8)
        np.testing.assert_allclose(loaded.encode(TEXTS), table.numpy(), atol=0.03)
        after = weights(loaded.model)
        assert before.keys() == after.keys()
        changed = {name for name in before if before[name] != after[name]}
        assert any("layer" in name for name in changed)
        if rank is not None:
            assert not any("embed" in name or "norm" in name.lower() for name in changed)
        results.append((after, table.numpy().tobytes()))
    assert results[0] == results[1], "one seed, one result, to the byte"


def test_loaded_weights_are_not_taken_to_match_the_table(tmp_path: Path) -> None:
    """A training that goes on after its last step and before its validation has to encode anew."""
    texts = item_texts(tmp_path / "model")
    made = task(texts, Walks(random_lengths(20)))
    texts(torch.tensor([1]))
    state = {name: value.clone() for name, value in made.module.state_dict().items()}
    texts.stale = False
    made.module.load_state_dict(state)
    assert texts.stale


def test_embeddings_and_neighbours_are_refreshed_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = item_texts(tmp_path / "model")
    made = task(texts, Walks(random_lengths(80)), training=training(epochs=3, patience=3))
    encoded: list[int] = []
    real = texts.encoder.encode_tokens
    monkeypatch.setattr(texts.encoder, "encode_tokens", lambda tokens: encoded.append(len(tokens[0])) or real(tokens))
    batches = made.epoch(np.random.default_rng(0))
    assert [isinstance(batch, EpochStart) for batch in batches] == [True] + [False] * (len(batches) - 1)
    fit(made, made.parameters.training, seed=0)
    assert encoded == [NUM_ITEMS] * 3
    cosine = torch.nn.functional.normalize(texts.table_NE, dim=1) @ torch.nn.functional.normalize(
        texts.table_NE[0], dim=0
    )
    torch.testing.assert_close(made.tower.cosines_NM[0], cosine[made.tower.neighbours_NM[0]])
