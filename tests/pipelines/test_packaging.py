"""The packaging stage: what goes into the bundle, which model answers by default, and the wiring."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from safetensors.numpy import load_file

from prismrec.artifacts.bundle import read_bundle
from prismrec.errors import UserError
from prismrec.kedro_datasets import FolderDataset
from prismrec.parameters.packaging import PackagingParameters
from prismrec.pipelines.packaging import nodes
from prismrec.pipelines.packaging.pipeline import create_pipeline
from serving.bundles import DIM, NUM_ITEMS, catalogue, parts

HYMIREC = nodes.NEEDED_PARTS["hymirec"]
METRIC = "validation_ndcg@10"
EVALUATION: dict[str, Any] = {
    "split_hash": "abc",
    "models": {
        "popularity": {METRIC: 0.01, "ndcg@10": 0.5},
        "markov": {METRIC: 0.9},
        "lightweight_encoder": {METRIC: 0.02, "ndcg@10": 0.1},
        "hymirec": {METRIC: 0.03, "ndcg@10": 0.1},
    },
}


class Dictionary:
    """What packaging needs of the interest dictionary."""

    version = "d1"

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")


def parameters(**changes: Any) -> PackagingParameters:
    return PackagingParameters(**{"seed": 0, "default_model": "auto", "selection_metric": METRIC, **changes})


def item_map() -> pl.DataFrame:
    items = catalogue()
    return pl.DataFrame(
        {
            "item_index": pl.Series([item.item_index for item in items], dtype=pl.Int32),
            "item_id": [item.item_id for item in items],
            "title": [item.title for item in items],
            "text": "",
            "categories": [list(item.categories) for item in items],
            "active": [item.active for item in items],
        }
    )


def histories() -> pl.DataFrame:
    events = pl.Series([[0, 5, 5], [5]], dtype=pl.List(pl.Int32))
    return pl.DataFrame({"user_index": [0, 1], "item_indices": events, "timestamps": [[1, 2, 3], [4]]})


def test_the_bundle_holds_the_catalogue_the_models_and_popularity(tmp_path: Path) -> None:
    given = dict(parts().parts)
    del given["popularity"]
    labels = {"0-1": "Drama"}
    content = nodes.assemble_bundle(item_map(), histories(), EVALUATION, parameters(), labels, **given)
    content.save(tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.items == catalogue()
    assert bundle.labels == {"0-1": "Drama"}
    assert bundle.manifest.default_model == "hymirec"
    assert bundle.manifest.created_from == {"split_hash": "abc"}
    counts = load_file(bundle.folder / "popularity.safetensors")["counts"]
    assert counts.shape == (NUM_ITEMS,)
    assert (counts[0], counts[5], counts.sum()) == (1, 3, 4)
    assert load_file(bundle.folder / "item_vectors.safetensors")["vectors"].shape == (NUM_ITEMS, DIM)


def test_a_bundle_is_tried_out_and_measured(tmp_path: Path) -> None:
    bundle_folder = tmp_path / "bundle"
    parts().save(bundle_folder)
    metrics = nodes.measure_bundle(bundle_folder)
    assert metrics["default_model"] == "hymirec"
    assert metrics["models"] == ["gemirec", "hymirec", "lightweight_encoder", "popularity"]
    assert metrics["items"] == NUM_ITEMS
    files = [file for file in bundle_folder.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert (metrics["files"], metrics["bytes"]) == (len(files), sum(file.stat().st_size for file in files))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({*HYMIREC, "lightweight_encoder"}, "hymirec"),
        ({"item_vectors", "lightweight_encoder"}, "lightweight_encoder"),
        ({"item_vectors"}, "popularity"),
    ],
)
def test_auto_is_the_best_on_validation_that_can_be_served(given: set[str], chosen: str) -> None:
    assert nodes.choose_model(EVALUATION, parameters(), given) == chosen


def test_the_metric_is_a_parameter() -> None:
    given = {*HYMIREC, "lightweight_encoder"}
    assert nodes.choose_model(EVALUATION, parameters(selection_metric="ndcg@10"), given) == "popularity"
    with pytest.raises(UserError, match=r"ndcg@10, validation_ndcg@10"):
        nodes.choose_model(EVALUATION, parameters(selection_metric="hr@7"), given)


def test_a_named_model_has_to_be_there() -> None:
    given = {"item_vectors", "lightweight_encoder"}
    assert nodes.choose_model(EVALUATION, parameters(default_model="popularity"), given) == "popularity"
    with pytest.raises(UserError, match="auto, popularity, lightweight_encoder"):
        nodes.choose_model(EVALUATION, parameters(default_model="gemirec"), given)


def test_every_needed_part_is_packed() -> None:
    assert set().union(*nodes.NEEDED_PARTS.values()) <= set(nodes.MODEL_PARTS)


def test_the_pipeline_feeds_what_the_nodes_name() -> None:
    pipeline = create_pipeline()
    assert set(nodes.MODEL_PARTS) < pipeline.inputs()
    assert {"item_map", "histories", "evaluation_metrics", "params:packaging"} < pipeline.inputs()
    assert pipeline.outputs() | {"bundle"} == {"bundle", "packaging_metrics", "bento_tag"}


def test_the_runner_passes_every_part_on(tmp_path: Path) -> None:
    given = {name: MemoryDataset({"x": np.zeros(1)}) for name in nodes.MODEL_PARTS}
    given["dictionary"] = MemoryDataset(Dictionary(), copy_mode="assign")
    catalog = DataCatalog(
        {
            **given,
            "item_map": MemoryDataset(item_map()),
            "histories": MemoryDataset(histories()),
            "evaluation_metrics": MemoryDataset(EVALUATION),
            "interest_labels": MemoryDataset({}),
            "params:packaging": MemoryDataset(parameters()),
            "bundle": FolderDataset(filepath=str(tmp_path / "bundle")),
        }
    )
    SequentialRunner().run(create_pipeline().only_nodes("packaging.assemble_bundle"), catalog)
    manifest = read_bundle(catalog.load("bundle")).manifest
    tensors = {f"{name}.safetensors" for name in {*nodes.MODEL_PARTS, "popularity"} - {"dictionary"}}
    assert set(manifest.files) == {"items.jsonl", "dictionary/config.json", *tensors}
    assert manifest.versions.dictionary == "d1"
