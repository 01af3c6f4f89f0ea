"""Text encoder: the packaged model, folders of encoders and decoders, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoints import save_checkpoint
from prismrec.errors import UserError
from prismrec.models.text_encoder import TextEncoder

WORDS = ["a", "quiet", "film", "about", "robots", "and", "gardens", "in", "spring"]
TEXTS = ["a film", "robots and gardens in spring", "quiet", "a quiet film about robots and gardens in spring"]
# The model runs in bfloat16, whose rounding depends on how a batch is padded.
BF16 = 0.03


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
    """Texts are sorted by length inside; each embedding must come back to its own text."""
    texts = [
        "robots", "gardens in spring", "a quiet film about an old clockmaker and his apprentice", "lipstick",
        "penguins of the Antarctic ocean", "the history of Rome in ten volumes, newly bound", "running shoes", "jazz",
        "a cookbook of simple soups for winter evenings",
    ]  # fmt: skip
    together = packaged.encode(texts)
    for index in (0, 4, 8):
        np.testing.assert_allclose(packaged.encode([texts[index]])[0], together[index], atol=BF16)
    np.testing.assert_allclose(packaged.encode(texts[::-1])[::-1], together, atol=BF16)
    assert np.array_equal(packaged.encode(texts), together), "the same call gives the same bytes"
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
