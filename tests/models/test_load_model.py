"""`load_model` finds every kind of model; foreign folders are user errors."""

from importlib import import_module
from pathlib import Path

import pytest

from prismrec.artifacts.model_folder import write_model
from prismrec.errors import MissingArtefact
from prismrec.models import KINDS, load_model


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_names_the_class_that_saves_it(kind: str) -> None:
    module, name = KINDS[kind]
    assert getattr(import_module(module), name).kind == kind


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="not a model folder"):
        load_model(tmp_path)
    write_model(tmp_path / "other", "crystal_ball", {}, {})
    with pytest.raises(MissingArtefact, match="crystal_ball"):
        load_model(tmp_path / "other")
