"""The packaging stage: what goes into the bundle, which model answers by default, and the wiring."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from safetensors.numpy import load_file

from prismrec.artifacts.atomic import sha256_folder
from prismrec.artifacts.bundle import BundleParts, KeptBundle, read_bundle
from prismrec.data.histories import Histories
from prismrec.errors import UserError
from prismrec.kedro_datasets import FolderDataset
from prismrec.models.item_text import NewItem
from prismrec.parameters.packaging import PackagingParameters
from prismrec.pipelines.packaging import nodes
from prismrec.pipelines.packaging.pipeline import create_pipeline
from prismrec.retrieval import index
from prismrec.serving.engine import Engine
from serving.bundles import DIM, MAX_TOKENS, NUM_ITEMS, catalogue, parts, text_encoder_folder

HYMIREC = nodes.NEEDED_PARTS["hymirec"]
CARD = "# Model card"


def evaluation(promoted: bool = True, candidate: str = "hymirec") -> dict[str, Any]:
    verdict = {"promoted": promoted, "candidate": candidate, "reasons": ["hymirec does not beat the incumbent."]}
    return {"split_hash": "abc", "promotion": verdict}


class Dictionary:
    """What packaging needs of the interest dictionary."""

    version = "d1"

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")


def parameters(**changes: Any) -> PackagingParameters:
    return PackagingParameters(**{"seed": 0, "package": "promoted", "default_model": "auto", **changes})


def assemble(previous: Path | None = None, promoted: bool = True, **changes: Any) -> BundleParts | KeptBundle:
    given = dict(parts().parts)
    del given["popularity"]
    del given["text_encoder"]
    given |= {"text_model": text_encoder_folder(), "text_encoding": {"max_tokens": MAX_TOKENS}}
    given["sequence_building_metrics"] = {"counted_events": ["watch"]}
    labels = {"0-1": "Drama"}
    arguments = (evaluation(promoted), CARD, previous, parameters(**changes), labels)
    return nodes.assemble_bundle(item_map(), histories(), *arguments, **given)


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


def histories(times: list[list[int]] | None = None) -> Histories:
    return Histories.from_lists([[0, 5, 5], [5]], times or [[1, 2, 3], [9]])


def test_the_bundle_holds_the_catalogue_the_models_and_popularity(tmp_path: Path) -> None:
    assemble().save(tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.items == catalogue()
    assert bundle.labels == {"0-1": "Drama"}
    assert bundle.manifest.default_model == "hymirec"
    assert bundle.manifest.created_from == {"split_hash": "abc", "promotion": "promoted"}
    assert (bundle.folder / "README.md").read_text() == CARD
    counts = load_file(bundle.folder / "popularity.safetensors")["counts"]
    assert counts.shape == (NUM_ITEMS,)
    assert (counts[0], counts[5], counts.sum()) == (1, 3, 4)
    assert load_file(bundle.folder / "item_vectors.safetensors")["vectors"].shape == (NUM_ITEMS, DIM)
    assert bundle.manifest.events == ["watch"]
    assert bundle.manifest.timed


def test_a_bundle_of_events_without_times_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "histories", partial(histories, [[0, 0, 0], [0]]))
    assemble().save(tmp_path / "bundle")
    assert not read_bundle(tmp_path / "bundle").manifest.timed


def test_a_large_catalogue_gets_an_index_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_ITEMS", 20)
    for name in ("one", "two"):
        assemble().save(tmp_path / name)
        files = read_bundle(tmp_path / name).manifest.files
        assert {f"{part}/{index.FILE}" for part in (index.PART, index.RECOMMENDER_PART)} < files.keys()
    one, two, other = (
        sha256_folder(tmp_path / name / part)
        for name, part in (("one", index.PART), ("two", index.PART), ("one", index.RECOMMENDER_PART))
    )
    assert one == two != other


def test_the_bundle_reads_texts_by_itself(tmp_path: Path) -> None:
    assemble().save(tmp_path / "bundle")
    facts = json.loads((tmp_path / "bundle/text_encoder/text_encoder.json").read_text())
    assert facts == {"max_tokens": MAX_TOKENS}
    assert load_file(tmp_path / "bundle/text_embeddings.safetensors")["embeddings"].dtype == np.float16
    assert Engine.load(tmp_path / "bundle").recommend([NewItem("robots")]).note is None


def test_a_text_encoder_that_was_not_trained_is_packed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "text_model").mkdir()
    (tmp_path / "text_model/text_encoder.json").write_text("{}")
    encoding = {"text_encoder": str(text_encoder_folder()), "max_tokens": 7}
    packed = nodes._text_parts(tmp_path / "text_model", encoding, {"embeddings": np.zeros((2, 3), np.float32)})
    packed["text_encoder"].save(tmp_path / "packed")
    assert (tmp_path / "packed/model.safetensors").is_file()
    assert json.loads((tmp_path / "packed/text_encoder.json").read_text())["max_tokens"] == 7


def test_a_bundle_is_tried_out_and_measured(tmp_path: Path) -> None:
    bundle_folder = tmp_path / "bundle"
    parts().save(bundle_folder)
    metrics = nodes.measure_bundle(bundle_folder, evaluation(), parameters())
    assert metrics["default_model"] == "hymirec"
    assert metrics["models"] == [
        "gemirec",
        "hymirec",
        "lightweight_encoder",
        "llm_recommender",
        "popularity",
        "prismrec",
    ]
    assert metrics["items"] == NUM_ITEMS
    files = [file for file in bundle_folder.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert (metrics["files"], metrics["bytes"]) == (len(files), sum(file.stat().st_size for file in files))


def test_auto_is_the_candidate_of_the_verdict() -> None:
    verdict = evaluation(candidate="lightweight_encoder")["promotion"]
    assert nodes.choose_model(verdict, parameters(), {*HYMIREC, "lightweight_encoder"}) == "lightweight_encoder"


def test_the_default_model_has_to_be_there() -> None:
    given = {"item_vectors", "lightweight_encoder"}
    verdict = evaluation(candidate="lightweight_encoder")["promotion"]
    assert nodes.choose_model(verdict, parameters(default_model="lightweight_encoder"), given) == "lightweight_encoder"
    verdict = evaluation()["promotion"]
    for changes in ({"default_model": "gemirec"}, {}):
        with pytest.raises(UserError, match="auto, popularity, lightweight_encoder"):
            nodes.choose_model(verdict, parameters(**changes), given)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_model_that_was_not_judged_is_never_called_promoted(tmp_path: Path, promoted: bool) -> None:
    if promoted:
        with pytest.raises(UserError, match="verdict is on 'hymirec'; 'popularity' was not judged") as error:
            assemble(default_model="popularity")
        assert "evaluation.promotion.model=popularity" in error.value.mend
    asked = parameters(default_model="popularity", package="this_run")
    assemble(promoted=promoted, default_model="popularity", package="this_run").save(tmp_path / "bundle")
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.default_model == "popularity"
    assert manifest.created_from["promotion"] == nodes.NOT_PROMOTED
    assert not nodes.measure_bundle(tmp_path / "bundle", evaluation(promoted), asked)["promoted"]


def test_a_run_that_is_not_promoted_leaves_the_incumbent_byte_by_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = FolderDataset(filepath=str(tmp_path / "bundle"))
    bundle.save(parts(seed=1))
    incumbent = bundle.load()
    assert incumbent is not None
    again = FolderDataset(filepath=str(tmp_path / "bundle"))
    again.save(assemble(incumbent, promoted=False))
    kept = again.load()
    assert kept is not None
    assert kept != incumbent
    assert read_bundle(kept).version == read_bundle(incumbent).version  # so the Bento keeps its tag
    assert sha256_folder(kept) == sha256_folder(incumbent)
    assert [record.message for record in caplog.records if "the incumbent stays packaged" in record.message]
    metrics = nodes.measure_bundle(kept, evaluation(promoted=False), parameters())
    assert (metrics["promoted"], metrics["packaged"]) == (False, "incumbent")


def test_without_an_incumbent_to_keep_the_reasons_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not beat the incumbent") as error:
        assemble(promoted=False)
    assert "packaging.package=this_run" in error.value.mend
    parts().save(tmp_path / "bundle")
    (tmp_path / "bundle" / "items.jsonl").unlink()
    with pytest.raises(UserError, match=r"cannot be kept.*items\.jsonl") as error:
        assemble(tmp_path / "bundle", promoted=False)
    assert "packaging.package=this_run" in error.value.mend


def test_an_incumbent_whose_models_cannot_be_used_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise TypeError("unexpected keyword argument 'depth'")

    parts().save(tmp_path / "bundle")
    monkeypatch.setattr("prismrec.evaluation.promotion.load_rankers", refuse)
    with pytest.raises(UserError, match=r"cannot be kept\..*'depth'") as error:
        assemble(tmp_path / "bundle", promoted=False)
    assert "packaging.package=this_run" in error.value.mend


def test_a_run_is_packaged_on_request_and_the_bundle_says_so(tmp_path: Path) -> None:
    parts(seed=1).save(tmp_path / "incumbent")
    assemble(tmp_path / "incumbent", promoted=False, package="this_run").save(tmp_path / "bundle")
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.created_from["promotion"] == "not promoted, packaged by packaging.package: this_run"
    asked = parameters(package="this_run")
    metrics = nodes.measure_bundle(tmp_path / "bundle", evaluation(promoted=False), asked)
    assert (metrics["promoted"], metrics["packaged"]) == (False, "this_run")


def test_every_needed_part_is_packed() -> None:
    assert set().union(*nodes.NEEDED_PARTS.values()) <= set(nodes.MODEL_PARTS)


def test_the_pipeline_feeds_what_the_nodes_name() -> None:
    pipeline = create_pipeline()
    assert set(nodes.MODEL_PARTS) < pipeline.inputs()
    assert {"item_map", "histories", "evaluation_metrics", "params:packaging"} < pipeline.inputs()
    assert {"model_card", "previous_bundle"} < pipeline.inputs()
    assert pipeline.outputs() | {"bundle"} == {"bundle", "packaging_metrics", "bento_tag"}


def test_the_runner_passes_every_part_on(tmp_path: Path) -> None:
    given = {name: MemoryDataset({"x": np.zeros(1)}) for name in nodes.MODEL_PARTS}
    known = parts().parts
    given["item_vectors"] = MemoryDataset(known["item_vectors"])
    given["recommender"] = MemoryDataset(known["recommender"], copy_mode="assign")
    given["dictionary"] = MemoryDataset(Dictionary(), copy_mode="assign")
    catalog = DataCatalog(
        {
            **given,
            "item_map": MemoryDataset(item_map()),
            "histories": MemoryDataset(histories()),
            "evaluation_metrics": MemoryDataset(evaluation()),
            "model_card": MemoryDataset(CARD),
            "previous_bundle": FolderDataset(filepath=str(tmp_path / "bundle"), nullable=True),
            "interest_labels": MemoryDataset({}),
            "text_model": MemoryDataset(text_encoder_folder()),
            "text_encoding": MemoryDataset({"max_tokens": MAX_TOKENS}),
            "sequence_building_metrics": MemoryDataset({}),
            "params:packaging": MemoryDataset(parameters()),
            "bundle": FolderDataset(filepath=str(tmp_path / "bundle")),
        }
    )
    SequentialRunner().run(create_pipeline().only_nodes("packaging.assemble_bundle"), catalog)
    manifest = read_bundle(catalog.load("bundle")).manifest
    tensors = {f"{name}.safetensors" for name in {*nodes.MODEL_PARTS, "popularity"} - {"dictionary", "recommender"}}
    recommender = {"recommender/config.json", "recommender/model.safetensors"}
    others = {name for name in manifest.files if not name.startswith("text_encoder/")}
    assert others == {"items.jsonl", "README.md", "dictionary/config.json", *recommender, *tensors}
    assert "text_encoder/model.safetensors" in manifest.files
    assert manifest.versions.dictionary == "d1"
