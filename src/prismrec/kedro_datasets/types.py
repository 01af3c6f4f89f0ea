"""The kinds of payload: tables, JSON, tensors, models, folders and single files.

All of them write the same bytes for the same data, which is why some options are fixed here. Heavy
libraries are imported when a payload is written or read, so that listing the catalog stays fast.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NewType, Protocol

from prismrec.artifacts.model_folder import (
    CONFIG_NAME,
    TENSORS_NAME,
    dump_json,
    read_config,
    write_tensors,
)
from prismrec.kedro_datasets.base import ArtefactDataset

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from prismrec.data.histories import Histories

# Fixed, since by default polars cuts row groups by the number of threads.
ROWS_PER_GROUP = 262_144
# Kedro-Viz shows what preview() returns by the name of its return type.
ImagePreview = NewType("ImagePreview", str)
PlotlyPreview = NewType("PlotlyPreview", dict[str, Any])
TEXT_SUFFIXES = frozenset({".css", ".csv", ".html", ".js", ".json", ".md", ".svg", ".txt"})


class Savable(Protocol):
    """Whatever writes itself into a folder."""

    def save(self, folder: Path) -> None:
        """Write everything into `folder`, which may not exist yet."""


class Model(Savable, Protocol):
    """A model that writes itself as a model folder (see `prismrec.artifacts.model_folder`)."""

    kind: ClassVar[str]


class LazyParquetDataset(ArtefactDataset["pl.LazyFrame", "pl.LazyFrame"]):
    """A table that need not fit into memory as one Parquet file: saved as a stream, in order, and loaded lazily."""

    def _write(self, data: "pl.LazyFrame", path: Path) -> None:
        data.sink_parquet(path, compression="zstd", row_group_size=ROWS_PER_GROUP, maintain_order=True)

    def _read(self, path: Path) -> "pl.LazyFrame":
        import polars as pl

        return pl.scan_parquet(path, glob=False)


class ParquetDataset(ArtefactDataset["pl.DataFrame", "pl.DataFrame"]):
    """A polars frame as one Parquet file."""

    def _write(self, data: "pl.DataFrame", path: Path) -> None:
        # One chunk and fixed row groups: the bytes depend on the values alone.
        data.rechunk().write_parquet(path, compression="zstd", row_group_size=ROWS_PER_GROUP)

    def _read(self, path: Path) -> "pl.DataFrame":
        import polars as pl

        # A version is never changed, but it may be removed while the frame lives: no memory map.
        return pl.read_parquet(path, memory_map=False, glob=False)


class HistoriesDataset(ArtefactDataset["Histories", "Histories"]):
    """Histories as a folder of arrays, mapped into memory when they are loaded."""

    def _write(self, data: "Histories", path: Path) -> None:
        data.save(path)

    def _read(self, path: Path) -> "Histories":
        from prismrec.data.histories import Histories

        return Histories.load(path)


class JsonDataset(ArtefactDataset[dict[str, Any], dict[str, Any]]):
    """Plain data as JSON with sorted keys; NaN and infinities are refused, for JSON has none."""

    def _write(self, data: dict[str, Any], path: Path) -> None:
        path.write_text(dump_json(data), encoding="utf-8")

    def _read(self, path: Path) -> dict[str, Any]:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content


class PlotDataset(JsonDataset):
    """A plot as Plotly's JSON, `{"data": [...], "layout": {...}}`, which Kedro-Viz draws."""

    def preview(self) -> PlotlyPreview:
        """The figure."""
        return PlotlyPreview(json.loads(self.payload().read_text(encoding="utf-8")))


class TensorsDataset(ArtefactDataset["dict[str, np.ndarray]", "dict[str, np.ndarray]"]):
    """Named numpy arrays as one safetensors file."""

    def _write(self, data: "dict[str, np.ndarray]", path: Path) -> None:
        write_tensors(path, data)

    def _read(self, path: Path) -> "dict[str, np.ndarray]":
        from safetensors.numpy import load_file

        tensors: dict[str, np.ndarray] = load_file(path)
        return tensors


class ModelDataset(ArtefactDataset[Model, Model]):
    """A model as its model folder; the config's "kind" finds the class to load it with."""

    def _write(self, data: Model, path: Path) -> None:
        data.save(path)
        assert (path / TENSORS_NAME).is_file(), f"{type(data).__name__}.save wrote no {TENSORS_NAME}"
        kind = read_config(path)["kind"]
        assert kind == data.kind, f"{CONFIG_NAME} says kind {kind!r}, the model is a {data.kind!r}"

    def _read(self, path: Path) -> Model:
        from prismrec.models import load_model

        model: Model = load_model(path)
        return model


class FolderDataset(ArtefactDataset[Savable | Mapping[str, str | bytes], Path]):
    """A folder: from an object that saves itself, or from texts and bytes by relative file name.

    Loads as the folder's path; what lies there must not be changed.
    """

    def _write(self, data: Savable | Mapping[str, str | bytes], path: Path) -> None:
        path.mkdir()
        if not isinstance(data, Mapping):
            data.save(path)
            return
        for name, content in data.items():
            relative = PurePosixPath(name)
            inside = not relative.is_absolute() and ".." not in relative.parts
            assert inside, f"{name} leaves the folder"
            file = path / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_content(file, content)

    def _read(self, path: Path) -> Path:
        return path


class FileDataset(ArtefactDataset[str | bytes, str | bytes]):
    """One file: loads as text where the suffix says so (HTML, Markdown, …), else as bytes (PNG, …)."""

    def _write(self, data: str | bytes, path: Path) -> None:
        _write_content(path, data)

    def _read(self, path: Path) -> str | bytes:
        content = path.read_bytes()
        return content.decode("utf-8") if path.suffix in TEXT_SUFFIXES else content


class ImageDataset(FileDataset):
    """A PNG, which Kedro-Viz shows."""

    def _write(self, data: str | bytes, path: Path) -> None:
        assert path.suffix == ".png", f"{path.name} is to be a PNG"
        assert isinstance(data, bytes)
        super()._write(data, path)

    def preview(self) -> ImagePreview:
        """The picture in base64, as Kedro-Viz wants it."""
        return ImagePreview(base64.b64encode(self.payload().read_bytes()).decode("ascii"))


def _write_content(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
