"""A toy Kedro project around the real frame: three of our stages with nodes of a line each.

It has its own conf/, catalogs, parameters and workspaces in a temporary folder, and the real settings,
hooks, datasets and command line. The toy stages stand in for the real ones by their module names.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import polars as pl
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline, node
from pydantic import Field

from prismrec import pipeline_registry
from prismrec.errors import UserError
from prismrec.parameters import StageParameters

TOY_STAGES = ("sequence_building", "lightweight_encoder", "codebook")
PYPROJECT = """
[tool.kedro]
package_name = "prismrec"
project_name = "prismrec"
kedro_init_version = "1.7.0"
"""
GLOBALS = """
seed: 7
workspace: demo
workspaces: ${oc.env:PRISMREC_WORKSPACES,data}
data_root: ${oc.env:PRISMREC_DATA_ROOT,data/01_raw}
"""
ENTRY = """
{name}:
  type: prismrec.kedro_datasets.{type}
  filepath: ${{globals:workspaces}}/${{globals:workspace}}/{path}
  versioned: true
  nullable: {nullable}
"""
ITEM_MAP = "03_primary/item_map.parquet"
ENTRIES = {
    "sequence_building": [
        ("item_map", "ParquetDataset", ITEM_MAP, False),
        ("previous_item_map", "ParquetDataset", ITEM_MAP, True),
        ("sequence_building_metrics", "JsonDataset", "08_reporting/sequence_building_metrics.json", False),
    ],
    "lightweight_encoder": [("item_vectors", "JsonDataset", "04_feature/item_vectors.json", False)],
    "codebook": [("codes", "JsonDataset", "04_feature/codes.json", False)],
    "evaluation": [("evaluation_metrics", "JsonDataset", "08_reporting/evaluation_metrics.json", False)],
}


class ToyParameters(StageParameters):
    """Parameters of the stage sequence_building."""

    count: int = Field(gt=0, description="Number of items.")
    fail: Literal["no", "user", "bug"] = Field("no", description="How the stage fails.")


class EmptyParameters(StageParameters):
    """Parameters of the other stages."""


def draw_items(parameters: ToyParameters) -> list[int]:
    if parameters.fail == "user":
        raise UserError("The file items.csv is missing.", "data/01_raw", "Put it there.")
    if parameters.fail == "bug":
        raise ZeroDivisionError("a bug of ours")
    return [parameters.seed + i for i in range(parameters.count)]


def map_items(items: list[int], previous: pl.DataFrame | None) -> pl.DataFrame:
    return pl.DataFrame({"item": items, "known_before": [previous is not None] * len(items)})


def sequence_building() -> Pipeline:
    nodes = [
        node(draw_items, "params:sequence_building", "drawn_items", name="draw_items"),
        node(map_items, ["drawn_items", "previous_item_map"], "item_map", name="map_items"),
        node(lambda items: {"items": len(items)}, "item_map", "sequence_building_metrics", name="summarise"),
    ]
    return _stage("sequence_building", nodes)


def lightweight_encoder() -> Pipeline:
    embed = node(lambda items, _: {"sum": int(items["item"].sum())}, EMBED_INPUTS, "item_vectors", name="embed")
    return _stage("lightweight_encoder", [embed])


EMBED_INPUTS = ["item_map", "params:lightweight_encoder"]


def codebook() -> Pipeline:
    fit = node(lambda items, vectors: {"n": len(items), **vectors}, ["item_map", "item_vectors"], "codes", name="fit")
    return _stage("codebook", [fit])


def _stage(name: str, nodes: list[Any]) -> Pipeline:
    return Pipeline(nodes, namespace=name, prefix_datasets_with_namespace=False)


class ToyProject:
    """The project in its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "conf"
        self.data = root / "data"
        for environment in ("base", "local", "ml1m"):
            (self.conf / environment).mkdir(parents=True)
        (root / "src").mkdir()
        (root / "pyproject.toml").write_text(PYPROJECT)
        (self.conf / "base" / "globals.yml").write_text(GLOBALS)
        (self.conf / "ml1m" / "globals.yml").write_text("workspace: ml1m\n")
        for stage, entries in ENTRIES.items():
            text = "".join(
                ENTRY.format(name=name, type=type_, path=path, nullable=str(nullable).lower())
                for name, type_, path, nullable in entries
            )
            (self.conf / "base" / f"catalog_{stage}.yml").write_text(text)
        self.set_parameters("base", "sequence_building", "count: 3\n  seed: ${globals:seed}")
        for stage in TOY_STAGES[1:]:
            self.set_parameters("base", stage, "seed: ${globals:seed}")

    def set_parameters(self, environment: str, stage: str, text: str) -> None:
        """Write a stage's parameters file: its lines after the first are to be indented by two."""
        file = self.conf / environment / f"parameters_{stage}.yml"
        file.write_text(f"{stage}:\n  {text}\n")

    def run(self, *stages: str, env: str | None = None, params: dict[str, Any] | None = None, **options: Any) -> str:
        """Run stages in a session, all by default, and return the version they saved."""
        with KedroSession.create(self.root, env=env, runtime_params=params) as session:
            session.run(pipeline_names=list(stages) or None, **options)
            return session.session_id

    def versions(self, path: str, workspace: str = "demo") -> list[Path]:
        """Return the version folders of an entry, oldest first."""
        return sorted((self.data / workspace / path).iterdir())


@pytest.fixture
def toy_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """A toy project, known to Kedro, as the working directory."""
    for variable in ("PRISMREC_WORKSPACES", "PRISMREC_DATA_ROOT", "KEDRO_ENV", "PRISMREC_TRACEBACK"):
        monkeypatch.delenv(variable, raising=False)
    # bootstrap_project changes both for good.
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(pipeline_registry, "STAGES", TOY_STAGES)
    creators = {f.__name__: f for f in (sequence_building, lightweight_encoder, codebook)}
    for stage, create in creators.items():
        # A final fit gives its choices; a toy stage has no use for them.
        made = lambda choices=(), create=create: create()  # noqa: E731
        _stand_in(monkeypatch, f"prismrec.pipelines.{stage}.pipeline", create_pipeline=made)
        model = ToyParameters if stage == "sequence_building" else EmptyParameters
        name = f"prismrec.parameters.{stage}"
        _stand_in(monkeypatch, name, Model=type("Model", (model,), {"__module__": name}))
    project = ToyProject(tmp_path)
    monkeypatch.chdir(tmp_path)
    bootstrap_project(tmp_path)
    return project


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
