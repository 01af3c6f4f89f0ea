"""Kedro datasets whose versions are written whole or not at all, each with a manifest and checksums.

Every dataset of this project is one of these, so that a killed run never leaves a broken latest version:
see `prismrec.kedro_datasets.base`. The folders of running trainings are the exception; they are no results.
"""

from prismrec.kedro_datasets.base import ArtefactDataset, MissingDataset
from prismrec.kedro_datasets.checkpoints import CheckpointsDataset
from prismrec.kedro_datasets.types import (
    FileDataset,
    FolderDataset,
    HistoriesDataset,
    ImageDataset,
    JsonDataset,
    LazyParquetDataset,
    ModelDataset,
    ParquetDataset,
    PlotDataset,
    TensorsDataset,
)
from prismrec.kedro_datasets.unwritten import UnwrittenDataset

__all__ = [
    "ArtefactDataset",
    "CheckpointsDataset",
    "FileDataset",
    "FolderDataset",
    "HistoriesDataset",
    "ImageDataset",
    "JsonDataset",
    "LazyParquetDataset",
    "MissingDataset",
    "ModelDataset",
    "ParquetDataset",
    "PlotDataset",
    "TensorsDataset",
    "UnwrittenDataset",
]
