"""Causal decoders: loading, refusing, causality, adapters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.small import randomise
from prismrec.errors import UserError
from prismrec.models import backbone
from prismrec.models.text_encoder import PACKAGED

SCRATCH_CONFIG = backbone.scratch_config(hidden=16, layers=2, heads=2, dropout=0.1, max_length=64)
KINDS = ["scratch", "packaged", "qwen3", "llama"]


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> nn.Module:
    torch.manual_seed(0)
    model = backbone.from_pretrained(str(checkpoints.get(request.param, request.param)), SCRATCH_CONFIG)
    # Scratch starts so near to nothing that positions hardly see each other.
    return randomise(model) if request.param == "scratch" else model.eval()


def inputs(model: nn.Module, batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))


def full(batch: int = 2, length: int = 7) -> torch.Tensor:
    return torch.ones(batch, length, dtype=torch.bool)


@torch.no_grad()
def test_no_position_sees_a_later_one(decoder: nn.Module) -> None:
    rows = inputs(decoder)
    before = backbone.run(decoder, rows, full())
    for changed in range(7):
        other = rows.clone()
        other[:, changed:] += inputs(decoder, seed=1)[:, changed:]
        after = backbone.run(decoder, other, full())
        torch.testing.assert_close(after[:, :changed], before[:, :changed], atol=1e-5, rtol=1e-4)
        assert (after - before)[:, changed:].abs().amax(-1).min() > 1e-3, "later positions see it"


@torch.no_grad()
def test_masked_positions_count_for_nothing(decoder: nn.Module) -> None:
    """Padding on the left, or between, as between coarse interests and recent items."""
    rows, mask = inputs(decoder), full()
    mask[0, :3] = False
    mask[1, 2:4] = False
    together = backbone.run(decoder, rows, mask)
    noisy = backbone.run(decoder, torch.where(mask[..., None], rows, 9.0), mask)
    for user in range(2):
        alone = backbone.run(decoder, rows[user][mask[user]][None], full(1, int(mask[user].sum())))
        torch.testing.assert_close(together[user][mask[user]], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(noisy[user][mask[user]], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_config_rebuilds_the_architecture(decoder: nn.Module) -> None:
    """From plain JSON data, the weights then come from our own folder."""
    config = json.loads(json.dumps(backbone.config_of(decoder)))
    rebuilt = backbone.from_config(config)
    rebuilt.load_state_dict(decoder.state_dict())
    rows = inputs(decoder)
    assert torch.equal(backbone.run(rebuilt.eval(), rows, full()), backbone.run(decoder, rows, full()))
    assert backbone.config_of(rebuilt) == backbone.config_of(decoder)


def test_there_is_no_vocabulary(decoder: nn.Module) -> None:
    assert decoder.config.vocab_size == 1
    assert max(parameter.shape[0] for parameter in decoder.parameters()) < 2000
    assert not any("lm_head" in name or "pooler" in name for name, _ in decoder.named_parameters())


@pytest.mark.parametrize("name", ["qwen3", "llama"])
@torch.no_grad()
def test_weights_are_those_of_the_checkpoint(name: str, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoints[name]).model.eval()
    decoder = backbone.from_pretrained(str(checkpoints[name]), {}).eval()
    rows = inputs(decoder)
    expected = reference(inputs_embeds=rows).last_hidden_state
    torch.testing.assert_close(backbone.run(decoder, rows, full()), expected)


@torch.no_grad()
def test_packaged_is_the_pretrained_model_with_a_causal_mask() -> None:
    """Its first position sees itself alone either way; with one token the encoder says the same."""
    from transformers import AutoModel

    from prismrec.models.text_encoder import packaged_folder

    decoder = backbone.from_pretrained(PACKAGED, {}).eval()
    encoder = AutoModel.from_pretrained(packaged_folder()).eval()
    rows = inputs(decoder, length=5)
    states = backbone.run(decoder, rows, full(2, 5))
    alone = encoder(inputs_embeds=rows[:, :1]).last_hidden_state
    torch.testing.assert_close(states[:, :1], alone, atol=1e-5, rtol=1e-4)
    assert (encoder(inputs_embeds=rows).last_hidden_state - states)[:, 0].abs().max() > 1e-2, "that one looks ahead"


def test_half_precision_checkpoints_are_read_in_fp32(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]).to(torch.bfloat16).save_pretrained(tmp_path)
    decoder = backbone.from_pretrained(str(tmp_path), {})
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float32}
    rebuilt = backbone.from_config(backbone.config_of(decoder))
    assert {parameter.dtype for parameter in rebuilt.parameters()} == {torch.float32}


def test_scratch_has_the_sizes_asked_for() -> None:
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(24, 3, 4, 0.2, 99))
    config = decoder.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("qwen3", 24, 3)
    assert (config.num_attention_heads, config.head_dim, config.attention_dropout) == (4, 6, 0.2)


def folder_without_a_model(root: Path) -> Path:
    (root / "notes.txt").write_text("nothing here")
    return root


def folder_with_broken_config(root: Path) -> Path:
    (root / "config.json").write_text("{not json")
    return root


def copied(source: Path, root: Path) -> Path:
    shutil.copytree(source, root, dirs_exist_ok=True)
    return root


@pytest.mark.parametrize("make", [folder_without_a_model, folder_with_broken_config])
def test_a_folder_that_is_no_model_is_a_user_error(make: object, tmp_path: Path) -> None:
    folder = make(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        backbone.from_pretrained(str(folder), {})
    assert str(folder) in str(caught.value)
    assert caught.value.mend


def test_an_encoder_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="not a causal decoder") as caught:
        backbone.from_pretrained(str(checkpoints["bert"]), {})
    assert "BertModel" in str(caught.value)
    assert "llm_recommender.backbone" in str(caught.value)


def test_every_causal_architecture_is_taken(checkpoints: dict[str, Path]) -> None:
    """GPT-2's class is called GPT2LMHeadModel, which is a causal language model all the same."""
    decoder = backbone.from_pretrained(str(checkpoints["gpt2"]), {}).eval()
    states = backbone.run(decoder, inputs(decoder), full())
    assert states.shape == (2, 7, 16)


def test_damaged_weights_are_a_user_error(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    weights = copied(checkpoints["qwen3"], tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be loaded"):
        backbone.from_pretrained(str(tmp_path), {})


def test_missing_weights_are_not_made_up(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    weights = copied(checkpoints["qwen3"], tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError):
        backbone.from_pretrained(str(tmp_path), {})


def test_pickled_weights_are_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    weights = copied(checkpoints["qwen3"], tmp_path) / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        backbone.from_pretrained(str(tmp_path), {})


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Config: pass\nclass Model: pass\n"
    (tmp_path / "own.py").write_text(code)
    auto = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    config = {"model_type": "own_architecture", "architectures": ["OwnForCausalLM"], "auto_map": auto}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        backbone.from_pretrained(str(tmp_path), {})
    assert not trace.exists()


@pytest.mark.parametrize("name", ["packaged", "qwen3", "llama"])
def test_adapters_start_silent_and_fold_into_the_weights(name: str, checkpoints: dict[str, Path]) -> None:
    decoder = backbone.from_pretrained(str(checkpoints.get(name, name)), {}).eval()
    keys, rows = set(decoder.state_dict()), inputs(decoder)
    with torch.no_grad():
        plain = backbone.run(decoder, rows, full())
    adapted = backbone.add_lora(decoder, rank=2).eval()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    layers = {name.split(".lora_")[0] for name in trained}
    assert len(layers) >= 4 * decoder.config.num_hidden_layers, "attention and feed-forward layers"
    with torch.no_grad():
        assert torch.equal(backbone.run(adapted, rows, full()), plain)
        for key, parameter in adapted.named_parameters():
            if key in trained:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        moved = backbone.run(adapted, rows, full())
        assert (moved - plain).abs().max() > 1e-2
        merged = backbone.merge_lora(adapted).eval()
        torch.testing.assert_close(backbone.run(merged, rows, full()), moved, atol=1e-5, rtol=1e-4)
    assert set(merged.state_dict()) == keys, "a plain backbone again"
    assert backbone.merge_lora(merged) is merged, "nothing to merge"


def test_scratch_takes_the_shape_of_a_known_model() -> None:
    """Grouped key and value heads, and heads that are wider than hidden / heads, as in Qwen3-0.6B."""
    sizes = backbone.scratch_config(16, 2, 4, 0.0, 32, kv_heads=2, head_dim=8, intermediate=40)
    layer = backbone.from_config(sizes).layers[0]
    assert layer.self_attn.q_proj.weight.shape == (32, 16)
    assert layer.self_attn.k_proj.weight.shape == (16, 16)
    assert layer.mlp.up_proj.weight.shape == (40, 16)
