"""Model folders: the same bytes each time, and clear errors for what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prismrec.artifacts.model_folder import dump_json, read_config, read_tensors, write_model, write_tensors
from prismrec.errors import MissingArtefact

CONFIG = {"dim": 2, "names": ["b", "a"]}


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "half": torch.ones(2, dtype=torch.bfloat16), "n": np.arange(4)}
    write_model(tmp_path, "toy", CONFIG, tensors)
    assert read_config(tmp_path) == {**CONFIG, "kind": "toy"}
    loaded = read_tensors(tmp_path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], torch.as_tensor(tensor))
    assert loaded["half"].dtype == torch.bfloat16


def test_the_bytes_do_not_depend_on_order_layout_or_sharing(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    write_model(tmp_path / "1", "toy", {"x": 1, "y": 2}, {"a": matrix, "b": matrix.t()})
    copies = {"b": matrix.t().contiguous(), "a": matrix.numpy()}
    write_model(tmp_path / "2", "toy", {"y": 2, "x": 1}, copies)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_arrays_and_tensors_give_the_same_file(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "arrays", {"b": array.T, "a": array})
    write_tensors(tmp_path / "tensors", {"a": torch.from_numpy(array), "b": torch.from_numpy(array.T)})
    assert (tmp_path / "arrays").read_bytes() == (tmp_path / "tensors").read_bytes()


def test_json_has_no_nan() -> None:
    assert dump_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json({"loss": float("nan")})


def test_another_kind_in_the_config_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_model(tmp_path, "toy", {"kind": "other"}, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", "{", "not JSON"),
        ("config.json", '{"dim": 1}', "names no"),
        ("model.safetensors", None, "holds no model.safetensors"),
        ("model.safetensors", "nonsense", "damaged"),
    ],
)
def test_what_is_no_model_folder_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    write_model(tmp_path, "toy", {}, {"a": np.zeros(2)})
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    read = read_config if name == "config.json" else read_tensors
    with pytest.raises(MissingArtefact, match=message) as caught:
        read(tmp_path)
    assert str(tmp_path) in caught.value.where
