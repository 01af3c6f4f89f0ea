"""What every model of ours shares: a frozen dataclass of sizes, and a folder it is saved to and loaded from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from prismrec.artifacts.model_folder import read_config, read_tensors, write_model


class SavedModule(nn.Module):
    """A module built from one config dataclass, saved as `config.json` + `model.safetensors`.

    Subclasses set `kind` (the name in `config.json`) and `config_class`, and take the config as their only
    argument.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        write_model(folder, self.kind, asdict(self.config), self.state_dict())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `save` wrote; the module comes back in evaluation mode.

        Raises:
            MissingArtefact: the folder is not a model folder, or is damaged.
        """
        config = read_config(folder)
        assert config.pop("kind") == cls.kind
        model = cls(cls.config_class(**config))
        model.load_state_dict(read_tensors(folder))
        return model.eval()
