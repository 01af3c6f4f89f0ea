"""Each type comes back as it was saved, with the same bytes each time; versions are found and checked."""

import base64
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, DatasetError, Version

from prismrec.artifacts.manifest import Provenance, read_manifest
from prismrec.artifacts.model_folder import read_config, write_model
from prismrec.artifacts.stage_record import write_record
from prismrec.data.histories import Histories
from prismrec.errors import MissingArtefact
from prismrec.kedro_datasets import (
    ArtefactDataset,
    CheckpointsDataset,
    FileDataset,
    FolderDataset,
    HistoriesDataset,
    ImageDataset,
    JsonDataset,
    LazyParquetDataset,
    MissingDataset,
    ModelDataset,
    ParquetDataset,
    TensorsDataset,
)

FRAME = pl.DataFrame({"user": [0, 0, 1], "items": [[1, 2], [], [3]], "name": ["a", "é", None]})


class ToyModel:
    kind = "toy"

    def save(self, folder: Path) -> None:
        write_model(folder, self.kind, {"dim": 2}, {"weights": np.ones(2)})


def bytes_of(dataset: ArtefactDataset[Any, Any]) -> dict[str, bytes]:
    folder = dataset.payload().parent
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("kind", "name", "data"),
    [
        (ParquetDataset, "x.parquet", FRAME),
        (LazyParquetDataset, "x.parquet", FRAME.lazy()),
        (HistoriesDataset, "x", Histories.from_lists([[3, 1], [2]])),
        (JsonDataset, "x.json", {"b": 1, "a": ["é", None, 0.5]}),
        (TensorsDataset, "x.safetensors", {"b": np.arange(6).reshape(2, 3).T, "a": np.array([True])}),
        (ModelDataset, "x", ToyModel()),
        (FolderDataset, "x", {"deep/a.txt": "é", "b.bin": b"\x00"}),
        (FolderDataset, "x", ToyModel()),
        (FileDataset, "x.md", "# é\n"),
        (FileDataset, "x.bin", b"\x00"),
        (ImageDataset, "x.png", b"\x89PNG"),
    ],
)
def test_the_same_data_gives_the_same_bytes(tmp_path: Path, kind: Any, name: str, data: Any) -> None:
    first, second = (kind(filepath=str(tmp_path / str(i) / name)) for i in (1, 2))
    first.save(data)
    second.save(data)
    assert bytes_of(first) == bytes_of(second)
    assert "manifest.json" in bytes_of(first)
    assert first.payload() == tmp_path / "1" / name / first.resolve_load_version() / name


def test_kedro_viz_finds_a_picture_by_the_return_type_of_its_preview(tmp_path: Path) -> None:
    dataset = ImageDataset(filepath=str(tmp_path / "x.png"))
    dataset.save(b"\x89PNG")
    assert inspect.signature(dataset.preview).return_annotation.__name__ == "ImagePreview"
    assert base64.b64decode(dataset.preview()) == b"\x89PNG"


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        ImageDataset(filepath=str(tmp_path / "x.jpg")).save(b"")


def test_a_table_comes_back(tmp_path: Path) -> None:
    dataset = ParquetDataset(filepath=str(tmp_path / "x.parquet"))
    dataset.save(FRAME)
    assert dataset.load().equals(FRAME)
    assert dataset.load().schema == FRAME.schema


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_tables_bytes_do_not_depend_on_chunks_or_threads(tmp_path: Path, threads: str) -> None:
    """Written here in one chunk, and in a process of its own in many, with another number of threads."""
    columns = {"n": np.arange(600_000), "f": np.arange(600_000) / 7}
    whole = ParquetDataset(filepath=str(tmp_path / "whole" / "x.parquet"))
    whole.save(pl.DataFrame(columns))
    code = (
        "import sys, numpy as np, polars as pl\n"
        "from prismrec.kedro_datasets import ParquetDataset\n"
        "n = np.arange(600_000)\n"
        "parts = [pl.DataFrame({'n': p, 'f': p / 7}) for p in np.array_split(n, 13)]\n"
        "frame = pl.concat(parts, rechunk=False)\n"
        "assert frame.n_chunks() == 13\n"
        "dataset = ParquetDataset(filepath=sys.argv[1]); dataset.save(frame)\n"
    )
    path = str(tmp_path / "chunks" / "x.parquet")
    environment = {**os.environ, "POLARS_MAX_THREADS": threads}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
    assert bytes_of(ParquetDataset(filepath=path)) == bytes_of(whole)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_lazy_tables_bytes_do_not_depend_on_threads(tmp_path: Path, threads: str) -> None:
    """Nor does the order of its rows: the stream keeps it."""
    dataset = LazyParquetDataset(filepath=str(tmp_path / "here" / "x.parquet"))
    dataset.save(pl.LazyFrame({"n": np.arange(600_000)}).filter(pl.col("n") % 3 != 0).with_columns(f=pl.col("n") / 7))
    code = (
        "import sys, numpy as np, polars as pl\n"
        "from prismrec.kedro_datasets import LazyParquetDataset\n"
        "frame = pl.LazyFrame({'n': np.arange(600_000)}).filter(pl.col('n') % 3 != 0).with_columns(f=pl.col('n') / 7)\n"
        "LazyParquetDataset(filepath=sys.argv[1]).save(frame)\n"
    )
    path = str(tmp_path / "there" / "x.parquet")
    environment = {**os.environ, "POLARS_MAX_THREADS": threads}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
    assert bytes_of(LazyParquetDataset(filepath=path)) == bytes_of(dataset)
    loaded = dataset.load()
    assert isinstance(loaded, pl.LazyFrame)
    assert loaded.collect()["n"].is_sorted()


def test_histories_come_back(tmp_path: Path) -> None:
    dataset = HistoriesDataset(filepath=str(tmp_path / "histories"))
    dataset.save(Histories.from_lists([[3, 1], [2]], [[10, 20], [5]]))
    items, times = dataset.load().of(0)
    assert (items.tolist(), times.tolist()) == ([3, 1], [10, 20])


def test_json_refuses_what_json_has_not_and_leaves_nothing(tmp_path: Path) -> None:
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"))
    with pytest.raises(DatasetError, match="JSON compliant"):
        dataset.save({"loss": float("nan")})
    assert not dataset.exists()
    assert list((tmp_path / "x.json").iterdir()) == []


def test_tensors_come_back(tmp_path: Path) -> None:
    dataset = TensorsDataset(filepath=str(tmp_path / "x.safetensors"))
    tensors = {"vectors": np.arange(6, dtype=np.float32).reshape(3, 2).T, "trained": np.array([True, False])}
    dataset.save(tensors)
    loaded = dataset.load()
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_a_model_is_loaded_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prismrec.models", SimpleNamespace(load_model=read_config))
    dataset = ModelDataset(filepath=str(tmp_path / "x"))
    dataset.save(ToyModel())
    assert dataset.load() == {"dim": 2, "kind": "toy"}


def test_a_model_that_writes_another_kind_is_not_saved(tmp_path: Path) -> None:
    class Liar(ToyModel):
        kind = "truth"

        def save(self, folder: Path) -> None:
            write_model(folder, "lie", {}, {"weights": np.ones(2)})

    dataset = ModelDataset(filepath=str(tmp_path / "x"))
    with pytest.raises(DatasetError, match="says kind 'lie'"):
        dataset.save(Liar())
    assert not dataset.exists()


def test_a_folder_loads_as_its_path(tmp_path: Path) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "site"))
    dataset.save({"index.html": "<p>", "img/a.png": b"\x89"})
    folder = dataset.load()
    assert (folder / "index.html").read_text() == "<p>"
    assert (folder / "img" / "a.png").read_bytes() == b"\x89"


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_a_folders_files_stay_inside(tmp_path: Path, name: str) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "site"))
    with pytest.raises(DatasetError, match="leaves the folder"):
        dataset.save({name: "x"})


def test_files_load_as_text_or_bytes_by_suffix(tmp_path: Path) -> None:
    page, plot = FileDataset(filepath=str(tmp_path / "p.html")), FileDataset(filepath=str(tmp_path / "p.png"))
    page.save("<p>é")
    plot.save(b"\x89PNG")
    assert page.load() == "<p>é"
    assert plot.load() == b"\x89PNG"


def catalog_entry(tmp_path: Path, **options: Any) -> DataCatalog:
    config = {"type": "prismrec.kedro_datasets.JsonDataset", "filepath": str(tmp_path / "x.json")}
    return DataCatalog.from_config({"x": {**config, "versioned": True, **options}})


def test_the_newest_version_is_loaded_and_any_older_by_name(tmp_path: Path) -> None:
    for version in ("2026-01-01", "2026-01-03", "2026-01-02"):
        JsonDataset(filepath=str(tmp_path / "x.json"), version=Version(None, version)).save({"v": version})
    assert catalog_entry(tmp_path).load("x") == {"v": "2026-01-03"}
    assert catalog_entry(tmp_path).load("x", version="2026-01-01") == {"v": "2026-01-01"}
    versions = JsonDataset(filepath=str(tmp_path / "x.json")).list_versions(full_path=False)
    assert versions == ["2026-01-03", "2026-01-02", "2026-01-01"]


def test_a_save_outside_of_a_session_draws_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["first", "second"])
    monkeypatch.setattr("kedro.io.core.generate_timestamp", lambda: next(drawn))
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"))
    dataset.save({"n": 1})
    assert dataset.list_versions(full_path=False) == ["first"]


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    for number in (1, 2):
        dataset = JsonDataset(filepath=str(tmp_path / "x.json"), version=Version(None, "one"))
        if number == 2:
            with pytest.raises(DatasetError, match="must not exist"):
                dataset.save({"n": number})
        else:
            dataset.save({"n": number})
    assert dataset.load() == {"n": 1}


def test_what_was_not_written_whole_is_no_version(tmp_path: Path) -> None:
    """Temporary folders of dead writers, and files that Kedro's own versioned save left behind."""
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"))
    dataset.save({"n": 1})
    for name in ("9999-torn", ".tmp-9999-abc"):
        (tmp_path / "x.json" / name).mkdir()
        (tmp_path / "x.json" / name / "x.json").write_text('{"n":')
    assert catalog_entry(tmp_path).load("x") == {"n": 1}


def test_a_missing_version_names_dataset_workspace_and_command(tmp_path: Path) -> None:
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"))
    dataset.bind("item_map", "sequence_building", "ml1m", "ml1m")
    assert not dataset.exists()
    with pytest.raises(MissingDataset) as caught:
        dataset.load()
    assert isinstance(caught.value, MissingArtefact)
    message = str(caught.value)
    assert "'item_map' in workspace 'ml1m'" in message
    assert message.endswith("kedro run --pipelines sequence_building --env ml1m")


def test_a_missing_named_version_is_named(tmp_path: Path) -> None:
    JsonDataset(filepath=str(tmp_path / "x.json")).save({"n": 1})
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"), version=Version("1999", None))
    with pytest.raises(MissingDataset, match="There is no version 1999 of 'x'"):
        dataset.load()


def test_nullable_is_none_until_there_is_a_version(tmp_path: Path) -> None:
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"), nullable=True)
    assert dataset.load() is None
    assert dataset.manifest() is None
    JsonDataset(filepath=str(tmp_path / "x.json")).save({"n": 1})
    dataset.release()
    assert dataset.load() == {"n": 1}


def test_a_dataset_pinned_while_absent_stays_absent(tmp_path: Path) -> None:
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"), nullable=True)
    dataset.pin()
    JsonDataset(filepath=str(tmp_path / "x.json")).save({"n": 1})
    assert dataset.load() is None


def test_a_stages_record_settles_what_it_wrote(tmp_path: Path) -> None:
    def read(standalone: bool = False, running: bool = False) -> JsonDataset:
        dataset = JsonDataset(filepath=str(tmp_path / "x.json"), standalone=standalone)
        dataset.bind("x", "codebook", "demo", records=tmp_path / "records")
        if running:
            dataset.open()
        return dataset

    for number in (1, 2, 3):
        JsonDataset(filepath=str(tmp_path / "x.json"), version=Version(None, str(number))).save({"n": number})
    assert (read().load(), read().unsettled()) == ({"n": 3}, None), "no record: every version counts"
    write_record(tmp_path / "records" / "evaluation" / "3", {}, {})
    write_record(tmp_path / "records" / "codebook" / "2", {}, {})
    assert (read().load(), read().unsettled()) == ({"n": 2}, "3")
    assert read(running=True).load() == {"n": 3}, "its own stage"
    assert (read(standalone=True).load(), read(standalone=True).unsettled()) == ({"n": 3}, None)
    write_record(tmp_path / "records" / "codebook" / "4", {}, {})
    assert (read().load(), read().unsettled()) == ({"n": 3}, None)


@pytest.mark.parametrize("change", ["cut", "flip", "remove_manifest", "add"])
def test_damage_is_told_with_the_folder(tmp_path: Path, change: str) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "x"))
    dataset.save({"a": "12345678"})
    file = dataset.payload() / "a"
    if change == "cut":
        file.write_text("1234")
    elif change == "flip":
        file.write_text("12345679")
    elif change == "add":
        (dataset.payload() / "b").write_text("")
    else:
        (dataset.payload().parent / "manifest.json").write_text("{")
    with pytest.raises(MissingDataset, match="damaged") as caught:
        dataset.load()
    assert caught.value.where == str(dataset.payload().parent)


def test_what_is_handed_over_goes_into_the_manifest(tmp_path: Path) -> None:
    dataset = JsonDataset(filepath=str(tmp_path / "x.json"))
    dataset.bind("codes", "codebook", "demo")
    dataset.hand_over(Provenance(ancestors={"item_map": "m"}, previous={"previous_codes": "p"}), "params")
    dataset.save({"n": 1})
    manifest = read_manifest(dataset.payload().parent)
    assert manifest is not None
    assert manifest == dataset.manifest()
    assert (manifest.dataset, manifest.stage, manifest.workspace) == ("codes", "codebook", "demo")
    assert (manifest.ancestors, manifest.previous) == ({"item_map": "m"}, {"previous_codes": "p"})
    assert manifest.parameters == "params"


def test_concurrent_reader_sees_no_half_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a save is under way the version before it is still the latest."""
    JsonDataset(filepath=str(tmp_path / "x.json"), version=Version(None, "1")).save({"n": 1})
    seen: list[Any] = []

    class Slow(JsonDataset):
        def _write(self, data: dict[str, Any], path: Path) -> None:
            super()._write(data, path)
            seen.append(JsonDataset(filepath=str(tmp_path / "x.json")).load())

    Slow(filepath=str(tmp_path / "x.json"), version=Version(None, "2")).save({"n": 2})
    assert seen == [{"n": 1}]
    assert JsonDataset(filepath=str(tmp_path / "x.json")).load() == {"n": 2}


def test_old_versions_are_removed_after_a_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def save(version: str, keep: int | None, data: Any = None) -> None:
        JsonDataset(filepath=str(path), keep=keep, version=Version(None, version)).save(data or {"v": version})

    for version in ("1", "2", "3"):
        save(version, None)
    assert sorted(folder.name for folder in path.iterdir()) == ["1", "2", "3"]
    with pytest.raises(DatasetError):
        save("4", 2, {"not json": float("nan")})
    assert sorted(folder.name for folder in path.iterdir()) == ["1", "2", "3"]
    save("4", 2)
    assert sorted(folder.name for folder in path.iterdir()) == ["3", "4"]
    assert JsonDataset(filepath=str(path)).load() == {"v": "4"}
    save("5", 1)
    assert [folder.name for folder in path.iterdir()] == ["5"]


def test_at_least_one_version_has_to_stay(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least one"):
        JsonDataset(filepath=str(tmp_path / "x.json"), keep=0)


def test_a_checkpoints_folder_is_a_path_that_need_not_exist(tmp_path: Path) -> None:
    dataset = CheckpointsDataset(filepath=str(tmp_path / "states"))
    assert dataset.load() == tmp_path / "states"
    assert dataset.exists()
    dataset.clear()
    (tmp_path / "states" / "recommender").mkdir(parents=True)
    dataset.clear()
    assert not list(tmp_path.iterdir())
    with pytest.raises(DatasetError):
        dataset.save({})
