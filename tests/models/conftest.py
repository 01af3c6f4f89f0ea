"""Checkpoints that the tests make once."""

from pathlib import Path

import pytest

from models.checkpoints import save_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small checkpoints, by architecture; tests must not change them."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save_checkpoint(name, root / name) for name in ("qwen3", "llama", "gpt2", "bert")}
