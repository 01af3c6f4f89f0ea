"""Text encoder: the packaged model, folders of encoders and decoders, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints import save_checkpoint
from prismrec.errors import UserError
from prismrec.models import text_encoder
from prismrec.models.text_encoder import TextEncoder, embed

WORDS = ["a", "quiet", "film", "about", "robots", "and", "gardens", "in", "spring"]
TEXTS = ["a film", "robots and gardens in spring", "quiet", "a quiet film about robots and gardens in spring"]


def with_tokenizer(folder: Path) -> Path:
    """Add a tokenizer of a few words that knows no padding token, as those of decoders often do not."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", "<end>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packaged() -> TextEncoder:
    return TextEncoder("packaged", max_tokens=32, batch_size=3)


def assert_unit_rows(embeddings: np.ndarray, count: int, dim: int) -> None:
    assert embeddings.shape == (count, dim)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-4)


def test_packaged_texts_of_like_meaning_lie_close(packaged: TextEncoder) -> None:
    texts = [
        "Red lipstick, long lasting", "A documentary about penguins in the Antarctic", "Matte lip colour, scarlet",
        "A film on the birds of the South Pole",
    ]  # fmt: skip
    embeddings = packaged.encode(texts)
    assert_unit_rows(embeddings, 4, 384)
    cosine = embeddings @ embeddings.T - 2 * np.eye(4)
    assert cosine.argmax(1).tolist() == [2, 3, 0, 1]


def test_order_and_batches_change_nothing(packaged: TextEncoder) -> None:
    """Texts are batched by length inside; each embedding must come back to its own text, bit by bit."""
    texts = [
        "robots", "gardens in spring", "a quiet film about an old clockmaker and his apprentice", "lipstick",
        "penguins of the Antarctic ocean", "the history of Rome in ten volumes, newly bound", "running shoes", "jazz",
        "a cookbook of simple soups for winter evenings",
    ]  # fmt: skip
    together = packaged.encode(texts)
    for index in (0, 4, 8):
        assert np.array_equal(packaged.encode([texts[index]])[0], together[index]), "neighbours changed bits"
    assert np.array_equal(packaged.encode(texts[::-1])[::-1], together)
    cosine = together @ together.T
    assert cosine[~np.eye(9, dtype=bool)].max() < 0.97, "different texts can be told apart beyond rounding"


def test_no_texts_and_empty_texts(packaged: TextEncoder) -> None:
    assert packaged.encode([]).shape == (0, 384)
    assert_unit_rows(packaged.encode(["", "film"]), 2, 384)


def test_long_texts_are_cut(packaged: TextEncoder) -> None:
    short = " ".join(["robots"] * 40)
    np.testing.assert_allclose(packaged.encode([short + " gardens in spring"]), packaged.encode([short]), atol=1e-6)


def test_progress_sees_every_batch(packaged: TextEncoder) -> None:
    seen: list[int] = []

    def count(batches: object) -> object:
        for batch in batches:
            seen.append(batch)
            yield batch

    packaged.encode(["film"] * 7, progress=count)
    assert len(seen) == 3


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "bert"])
def test_pooling_of_encoders_and_decoders(architecture: str, tmp_path: Path) -> None:
    """Mean over tokens for an encoder, the last token for a decoder; padding is neither."""
    encoder = TextEncoder(str(with_tokenizer(save_checkpoint(architecture, tmp_path))), batch_size=4)
    embeddings = encoder.encode(TEXTS)
    assert_unit_rows(embeddings, 4, 16)
    assert encoder.causal == (architecture != "bert")
    for text, found in zip(TEXTS, embeddings, strict=True):
        tokens = encoder.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            states = encoder.model(**tokens).last_hidden_state[0]
        pooled = states.mean(0) if architecture == "bert" else states[-1]
        cosine = float(found @ torch.nn.functional.normalize(pooled, dim=0).numpy())
        assert cosine > 0.999


def test_a_folder_that_is_no_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        TextEncoder(str(tmp_path))


def saved_encoder(architecture: str, folder: Path) -> TextEncoder:
    return TextEncoder(str(with_tokenizer(save_checkpoint(architecture, folder))), max_tokens=20, batch_size=4)


def as_previous(found: text_encoder.Embedded) -> dict[str, np.ndarray]:
    return {"embeddings": found.embeddings_NE, "keys": found.keys_N32}


@pytest.mark.parametrize("architecture", ["qwen3", "bert"])
def test_only_new_and_changed_texts_are_encoded_and_the_bytes_are_the_same(architecture: str, tmp_path: Path) -> None:
    encoder = saved_encoder(architecture, tmp_path)
    first = embed(encoder, TEXTS, None)
    assert first.encoded == len(TEXTS)
    changed = [TEXTS[3], "gardens", TEXTS[0], TEXTS[0], "a film about spring"]
    again = embed(encoder, changed, as_previous(first))
    assert again.encoded == 2
    fresh = embed(encoder, changed, None)
    assert fresh.encoded == 4, "a text that occurs twice is encoded once"
    assert np.array_equal(again.embeddings_NE, fresh.embeddings_NE)
    assert np.array_equal(again.keys_N32, fresh.keys_N32)


def test_another_encoder_takes_nothing_over(tmp_path: Path) -> None:
    encoder = saved_encoder("bert", tmp_path)
    previous = as_previous(embed(encoder, TEXTS, None))
    shorter = TextEncoder(str(tmp_path), max_tokens=3, batch_size=4)
    assert embed(shorter, TEXTS, previous).encoded == len(TEXTS)
    with torch.no_grad():
        next(encoder.model.parameters()).view(-1)[0] += 1e-3
    assert embed(encoder, TEXTS, previous).encoded == len(TEXTS), "a single weight counts"


def test_a_folder_moved_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = saved_encoder("bert", tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = TextEncoder(str(tmp_path / "there"), max_tokens=20, batch_size=4)
    assert moved.identity() == encoder.identity()


def test_packaged_files_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    text_encoder.packaged_folder.cache_clear()
    monkeypatch.setitem(text_encoder.PACKAGED_SHA256, "tokenizer.json", "0" * 64)
    with pytest.raises(UserError, match=r"expected 0{64}, found be50c3628f"):
        text_encoder.packaged_folder()
    text_encoder.packaged_folder.cache_clear()


@pytest.mark.parametrize("architecture", ["qwen3", "bert"])
def test_a_saved_encoder_is_loaded_as_it_was(architecture: str, tmp_path: Path) -> None:
    encoder = saved_encoder(architecture, tmp_path / "first")
    encoder.save(tmp_path / "second")
    loaded = TextEncoder(str(tmp_path / "second"), max_tokens=20, batch_size=4)
    assert loaded.causal == encoder.causal
    assert np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    encoder.save(tmp_path / "third")
    for file in sorted((tmp_path / "second").iterdir()):
        assert file.read_bytes() == (tmp_path / "third" / file.name).read_bytes(), file.name


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """A tokenizer is made up then, to which all words are unknown, and all texts of one length alike."""
    for architecture in ("bert", "qwen3"):
        folder = save_checkpoint(architecture, tmp_path / architecture)
        with pytest.raises(UserError) as refused:
            TextEncoder(str(folder))
        assert "tokenizer" in str(refused.value).lower()


def test_a_folder_without_some_weights_is_refused(tmp_path: Path) -> None:
    """They would be drawn at random, anew at every start."""
    folder = with_tokenizer(save_checkpoint("bert", tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if ".layer.1." not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"lacks weights: encoder\.layer\.1"):
        TextEncoder(str(folder))
    unpooled = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    save_file(unpooled, folder / "model.safetensors", {"format": "pt"})
    TextEncoder(str(folder))  # what pools is not read


def test_weights_of_another_size_are_a_user_error(tmp_path: Path) -> None:
    folder = with_tokenizer(save_checkpoint("bert", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 24}))
    with pytest.raises(UserError, match="cannot be loaded"):
        TextEncoder(str(folder))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="an encoder with a decoder"):
        TextEncoder(str(with_tokenizer(tmp_path)))


def test_texts_are_cut_where_positions_end(tmp_path: Path) -> None:
    """Batches are padded to whole buckets, which may be longer than what a small model knows."""
    encoder = TextEncoder(str(with_tokenizer(save_checkpoint("bert", tmp_path, max_position_embeddings=20))), 64)
    assert encoder.max_tokens == 20
    long = " ".join(WORDS * 4)
    assert_unit_rows(encoder.encode([long, "a film", " ".join(WORDS * 2)]), 3, 16)
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([" ".join((WORDS * 4)[:20])]))
