"""Sources: each reads one kind of raw data into the raw tables, and changes no value on the way.

A source adapts names, types and encodings; judging rows is the contract's work (`prismrec.data.contract`). A cell
that cannot be read as a time becomes null and is quarantined later; a row that cannot be read is kept as it was
given; a file that is missing, cut off, of another encoding or without a needed column is a `UserError`.
A new source is a class with `read` and a line in `SOURCES`; most are some file names and columns (see `steam`).

From below: `opening` finds and opens files, `delimited`, `json_lines` and `parquet` turn them into `cells`,
`reading` makes the raw tables of these with `times` and `texts`.
"""

from typing import Any, NamedTuple, Protocol

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.amazon import AmazonSource
from prismrec.data.sources.files import FilesSource
from prismrec.data.sources.microlens import MicroLensSource
from prismrec.data.sources.movielens import MovieLensSource
from prismrec.data.sources.steam import SteamSource
from prismrec.data.sources.tables import SourceTables
from prismrec.data.synthetic import make_world
from prismrec.parameters.data_validation import DataValidationParameters


class RawTables(NamedTuple):
    """What a source gives.

    Attributes:
        interactions: `RAW_INTERACTIONS`, read from its files when it is collected or sunk.
        items: `RAW_ITEMS`.
        planted_truth: `PLANTED_TRUTH`, empty for real data.
        facts: what was read and how, fit for JSON: files, layout, delimiter, encoding, the times' unit and how it is
            known.
    """

    interactions: pl.LazyFrame
    items: pl.DataFrame
    planted_truth: pl.DataFrame
    facts: dict[str, Any]


class Source(Protocol):
    """One kind of raw data."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read the tables; raise `UserError` for files that cannot be read as this kind."""


SOURCES: dict[str, Source] = {
    "files": FilesSource(),
    "movielens": MovieLensSource(),
    "amazon": AmazonSource(),
    "steam": SteamSource(),
    "microlens": MicroLensSource(),
}


def read_source(parameters: DataValidationParameters) -> RawTables:
    """Read the configured source.

    Raises:
        UserError: a file is missing, damaged, holds no row, lacks a column or cannot be read as it is declared.
            What shows only further down in a file of interactions is raised when the lazy table is collected.
    """
    if parameters.source == "synthetic":
        world = make_world(parameters.seed, parameters.synthetic)
        facts = {"source": "synthetic", "seed": parameters.seed, "notes": ["made by the project; no file was read"]}
        return RawTables(world.interactions.lazy(), world.items, world.truth, facts)
    tables = SOURCES[parameters.source].read(parameters)
    facts = {"source": parameters.source, "folder": parameters.folder, **tables.facts}
    return RawTables(tables.interactions, tables.items, pl.DataFrame(schema=schema.PLANTED_TRUTH), facts)
