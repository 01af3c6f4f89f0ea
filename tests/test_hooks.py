"""Runs of the toy project: what they check before and between nodes, and what they write."""

import json
from pathlib import Path

import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline

from prismrec.artifacts.manifest import Manifest, read_manifest
from prismrec.commands.frame import user_error
from prismrec.errors import LineageError, MissingArtefact, ParameterError
from prismrec.hooks import ArtefactHooks
from prismrec.kedro_datasets import CheckpointsDataset, JsonDataset, UnwrittenDataset
from prismrec.models import load_model
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.training.dictionary_refresh import DictionaryVectors, KeptDictionary, Origins
from toy_project import ToyProject

ITEM_MAP = "03_primary/item_map.parquet"
ITEM_VECTORS = "04_feature/item_vectors.json"
CODES = "04_feature/codes.json"


def manifest_of(project: ToyProject, path: str, workspace: str = "demo") -> Manifest:
    manifest = read_manifest(project.versions(path, workspace)[-1])
    assert manifest is not None
    return manifest


def record_of(project: ToyProject, stage: str, name: str = "manifest.json") -> dict:
    folder = project.versions(f"08_reporting/manifests/{stage}")[-1]
    return json.loads((folder / name).read_text())


def test_ancestors_are_followed_through_memory_and_across_stages(toy_project: ToyProject) -> None:
    toy_project.run()
    item_map = manifest_of(toy_project, ITEM_MAP)
    vectors = manifest_of(toy_project, ITEM_VECTORS)
    codes = manifest_of(toy_project, CODES)
    assert item_map.ancestors == {}
    assert vectors.ancestors == {"item_map": item_map.sha256}
    assert codes.ancestors == {"item_map": item_map.sha256, "item_vectors": vectors.sha256}
    assert (codes.dataset, codes.stage, codes.workspace) == ("codes", "codebook", "demo")
    assert codes.parameters not in ("", item_map.parameters)


def test_what_feeds_back_is_recorded_and_not_followed(toy_project: ToyProject) -> None:
    toy_project.run("sequence_building")
    first = manifest_of(toy_project, ITEM_MAP)
    toy_project.run()
    second = manifest_of(toy_project, ITEM_MAP)
    assert first.previous == {}
    assert second.previous == {"previous_item_map": first.sha256}
    assert manifest_of(toy_project, CODES).previous == {}


def test_the_previous_version_stays_the_previous_one_after_the_new_one_is_saved(
    toy_project: ToyProject,
) -> None:
    """A node that reads it late must not get what this very run wrote."""
    from kedro.framework.session import KedroSession

    toy_project.run("sequence_building")
    with KedroSession.create(toy_project.root) as session:
        catalog = session.load_context().catalog
    previous, current = catalog["previous_item_map"], catalog["item_map"]
    previous.pin()
    current.open()
    before = previous.manifest().sha256
    current.save(current.load().head(1))
    previous.release()
    assert current.manifest().sha256 != before
    assert previous.manifest().sha256 == before


def cut_off(toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the first stage with one item more, and stop it between its datasets, after the item map."""

    def stop(self: JsonDataset, data: object, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JsonDataset, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            toy_project.run("sequence_building", params={"sequence_building": {"count": 4}})


def test_other_stages_pass_over_what_a_cut_off_run_left(
    toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toy_project.run()
    first = manifest_of(toy_project, ITEM_MAP)
    cut_off(toy_project, monkeypatch)
    assert manifest_of(toy_project, ITEM_MAP).sha256 != first.sha256, "the cut-off run left a newer one"
    toy_project.run("lightweight_encoder", "codebook")
    assert manifest_of(toy_project, CODES).ancestors["item_map"] == first.sha256
    warned = [record.getMessage() for record in caplog.records if "was cut off" in record.getMessage()]
    assert len(warned) == 1, "once a stage"
    assert "The last run of sequence_building was cut off" in warned[0]
    assert warned[0].endswith("kedro run --pipelines sequence_building")


def test_a_run_after_a_cut_off_one_goes_on_with_what_was_settled(
    toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it writes what a run that was never cut off would have written."""
    toy_project.run()
    first = manifest_of(toy_project, ITEM_MAP)
    cut_off(toy_project, monkeypatch)
    toy_project.run("sequence_building", params={"sequence_building": {"count": 4}})
    assert manifest_of(toy_project, ITEM_MAP).previous == {"previous_item_map": first.sha256}
    with pytest.raises(LineageError, match="made from another version of 'item_map'"):
        toy_project.run("codebook")


def test_a_run_from_inside_a_stage_takes_up_what_the_cut_off_one_left(
    toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_project.run("sequence_building")
    cut_off(toy_project, monkeypatch)
    left = manifest_of(toy_project, ITEM_MAP)
    toy_project.run("sequence_building", from_nodes=["sequence_building.summarise"])
    toy_project.run("lightweight_encoder")
    assert manifest_of(toy_project, ITEM_VECTORS).ancestors == {"item_map": left.sha256}


def test_two_runs_in_two_workspaces_write_the_same_manifests(
    toy_project: ToyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_project.run()
    monkeypatch.setenv("PRISMREC_WORKSPACES", str(tmp_path / "elsewhere"))
    toy_project.run()
    files = [p for p in toy_project.data.rglob("*") if p.is_file() and p.name != "run.json"]
    assert len(files) > 8
    for file in files:
        entry, _, *rest = file.relative_to(toy_project.data).as_posix().rpartition("/")
        twins = list((tmp_path / "elsewhere").glob(f"{Path(entry).parent.as_posix()}/*/{rest[0]}"))
        assert [twin.read_bytes() for twin in twins] == [file.read_bytes()], file


def test_a_stage_record_says_what_was_done_and_what_it_cost(toy_project: ToyProject) -> None:
    version = toy_project.run()
    manifest = record_of(toy_project, "sequence_building")
    assert manifest["outputs"]["item_map"] == manifest_of(toy_project, ITEM_MAP).sha256
    assert manifest["inputs"] == {}
    assert manifest["parameters"] == {"count": 3, "seed": 7, "fail": "no"}
    assert manifest["seed"] == 7
    assert manifest["metrics"] == {"items": 3}
    assert len(manifest["nodes"]) == 3
    assert manifest["libraries"]["kedro"].startswith("1.")
    run = record_of(toy_project, "sequence_building", "run.json")
    assert run["versions"]["item_map"] == version
    assert run["seconds"] > 0
    assert 10 < run["peak_rss_mb"] < 100_000
    assert record_of(toy_project, "codebook")["inputs"].keys() == {"item_map", "item_vectors"}


def test_a_partial_run_records_the_nodes_it_ran(toy_project: ToyProject) -> None:
    toy_project.run("sequence_building")
    toy_project.run("sequence_building", from_nodes=["sequence_building.summarise"])
    record = record_of(toy_project, "sequence_building")
    assert record["nodes"] == ["sequence_building.summarise"]
    assert record["inputs"] == {"item_map": manifest_of(toy_project, ITEM_MAP).sha256}


def test_a_run_that_starts_inside_a_stage_says_where_to_start(toy_project: ToyProject) -> None:
    toy_project.run("sequence_building")
    with pytest.raises(MissingArtefact, match="drawn_items") as caught:
        toy_project.run("sequence_building", from_nodes=["sequence_building.map_items"])
    assert caught.value.mend.endswith("kedro run --pipelines sequence_building")


def test_missing_inputs_are_all_named_before_anything_runs(toy_project: ToyProject) -> None:
    with pytest.raises(MissingArtefact, match="item_map, item_vectors") as caught:
        toy_project.run("codebook", env="ml1m")
    command = "kedro run --pipelines sequence_building,lightweight_encoder --env ml1m"
    assert caught.value.mend.endswith(command)
    assert not toy_project.data.exists()


def test_inputs_made_from_different_versions_are_refused(toy_project: ToyProject) -> None:
    toy_project.run()
    toy_project.run("sequence_building", params={"sequence_building": {"count": 4}})
    with pytest.raises(LineageError, match="'item_vectors' was made from another version of 'item_map'") as e:
        toy_project.run("codebook")
    assert e.value.mend.endswith("kedro run --pipelines lightweight_encoder")
    toy_project.run("lightweight_encoder", "codebook")


def test_the_same_content_again_breaks_nothing(toy_project: ToyProject) -> None:
    toy_project.run("sequence_building")
    toy_project.run()
    toy_project.run("sequence_building")
    toy_project.run("codebook")


def test_artefacts_of_two_workspaces_are_refused(toy_project: ToyProject) -> None:
    toy_project.run()
    toy_project.run(env="ml1m")
    catalog = toy_project.conf / "ml1m" / "catalog_lightweight_encoder.yml"
    text = (toy_project.conf / "base" / "catalog_lightweight_encoder.yml").read_text()
    catalog.write_text(text.replace("${globals:workspace}", "demo"))
    with pytest.raises(LineageError) as caught:
        toy_project.run("codebook", env="ml1m")
    message = str(caught.value)
    assert "'item_vectors' was made in workspace 'demo'" in message
    assert "'item_map' in 'ml1m'" in message
    assert "kedro run --pipelines lightweight_encoder --env ml1m" in message


def test_a_damaged_input_is_refused(toy_project: ToyProject) -> None:
    toy_project.run()
    payload = toy_project.versions(ITEM_VECTORS)[-1] / "item_vectors.json"
    payload.write_text(payload.read_text()[:-3])
    with pytest.raises(DatasetError) as caught:
        toy_project.run("codebook")
    assert "damaged: its file item_vectors.json was changed or cut short" in str(user_error(caught.value))


@pytest.mark.parametrize(
    ("environment", "stage", "text", "parts"),
    [
        ("base", "sequence_building", "count: -1\n  seed: 1", ["'sequence_building.count' cannot be -1",
         "greater than 0", "conf/base/parameters_sequence_building.yml", "Number of items."]),
        ("ml1m", "sequence_building", "cuont: 5", ["'sequence_building.cuont'", "Did you mean 'count'?",
         "conf/ml1m/parameters_sequence_building.yml"]),
        ("ml1m", "sequence_bulding", "count: 5", ["'sequence_bulding', which is no stage",
         "Did you mean 'sequence_building'?", "conf/ml1m/parameters_sequence_bulding.yml"]),
        ("base", "sequence_building", "count: 5", ["'sequence_building.seed' is missing",
         "conf/base/parameters_sequence_building.yml"]),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named_with_their_file(
    toy_project: ToyProject, environment: str, stage: str, text: str, parts: list[str]
) -> None:
    toy_project.set_parameters(environment, stage, text)
    with pytest.raises(ParameterError) as caught:
        toy_project.run(env="ml1m")
    for part in parts:
        assert part in str(caught.value)


def test_wrong_parameters_of_the_command_line_are_named_as_such(toy_project: ToyProject) -> None:
    with pytest.raises(ParameterError, match=r"'sequence_building\.count' cannot be 'many'") as caught:
        toy_project.run(params={"sequence_building": {"count": "many"}})
    assert caught.value.where == "--params on the command line"


def test_unknown_globals_are_refused(toy_project: ToyProject) -> None:
    (toy_project.conf / "ml1m" / "globals.yml").write_text("workspce: ml1m\n")
    with pytest.raises(ParameterError, match="Did you mean 'workspace'") as caught:
        toy_project.run(env="ml1m")
    assert caught.value.where == "conf/ml1m/globals.yml"


def test_an_environment_overrides_single_keys(toy_project: ToyProject) -> None:
    toy_project.set_parameters("ml1m", "sequence_building", "count: 5")
    toy_project.run("sequence_building", env="ml1m", params={"sequence_building": {"seed": 9}})
    folder = toy_project.versions("08_reporting/manifests/sequence_building", "ml1m")[-1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"count": 5, "seed": 9, "fail": "no"}


def test_states_of_trainings_go_when_the_run_has_succeeded(tmp_path: Path) -> None:
    """Those of the run's own nodes; another stage's interrupted training keeps its own."""
    folders = {name: tmp_path / name for name in ("read_checkpoints", "other_checkpoints")}
    for folder in folders.values():
        (folder / "model" / "000000007-00001").mkdir(parents=True)
    catalog = DataCatalog({name: CheckpointsDataset(filepath=str(folder)) for name, folder in folders.items()})
    pipeline = Pipeline([Node(lambda folder: folder, "read_checkpoints", "model", name="train")])
    ArtefactHooks().after_pipeline_run(pipeline, catalog)
    assert [folder.name for folder in tmp_path.iterdir()] == ["other_checkpoints"]


def test_processes_but_the_first_write_nothing(toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run the same nodes, and pass on in memory what the first one writes."""
    monkeypatch.setenv("RANK", "1")
    toy_project.run()
    assert not [path for path in toy_project.root.rglob("*") if "data" in path.parts]
    monkeypatch.setenv("RANK", "0")
    toy_project.run()
    assert record_of(toy_project, "codebook")["outputs"]


def test_what_other_processes_hold_is_what_the_written_artefact_would_be_read_as(tmp_path: Path) -> None:
    """A dictionary is written with the vectors it rests on, and read without them."""
    torch.manual_seed(0)
    dictionary = InterestDictionary(InterestDictionaryConfig(4, 2, 4, (2, 2))).eval()
    rows = DictionaryVectors(torch.arange(3), torch.eye(4)[:3], torch.eye(4)[:3])
    kept = KeptDictionary(dictionary, rows, Origins.itself(dictionary))
    unwritten = UnwrittenDataset()
    unwritten.save(kept)
    kept.save(tmp_path / "dictionary")
    held, read = unwritten.load(), load_model(tmp_path / "dictionary")
    assert type(held) is type(read)
    assert held.version == read.version
    unwritten.save({"a": 1})
    assert unwritten.load() == {"a": 1}
