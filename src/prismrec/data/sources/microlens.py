"""Source `microlens`: `*_pairs.tsv` (a user, a tab, the items in order) and `*_titles.csv` (item, title).

There are no times: an item's place in its user's line, from 0, stands for the second, and the report says so. The
number of a row is the number of its line, which several rows share.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.cells import AS_GIVEN, PROBLEM, ROW
from prismrec.data.sources.delimited import DelimitedReader, Dialect
from prismrec.data.sources.opening import BLOCK, DATA_ROOT_MEND, RawFile, find_file, find_folder, names_in
from prismrec.data.sources.reading import described, items_table, read_cells, read_interactions
from prismrec.data.sources.tables import SourceTables
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import InteractionColumns

USER, ITEMS, ITEM, PLACE = "user", "items", "item", "place in the line"


@dataclass(frozen=True)
class PairsReader:
    """Reads lines of a user and its items as one row an item (see `prismrec.data.sources.cells.CellReader`)."""

    file: RawFile

    @property
    def columns(self) -> tuple[str, ...]:
        """User, item and place."""
        return USER, ITEM, PLACE

    @property
    def described(self) -> dict[str, str]:
        """The format."""
        return {"format": "a user, a tab, and the items in order", "encoding": "utf-8"}

    @property
    def stored_times(self) -> tuple[str, ...]:
        """The place stands for the time."""
        return (PLACE,)

    def batches(self, wanted: Sequence[str], lists: Collection[str] = (), size: int = BLOCK) -> Iterator[pl.DataFrame]:
        """Yield one row an item; a line without items is one row without an item."""
        lines = DelimitedReader(self.file, Dialect("\t", False, "utf-8", (USER, ITEMS)))
        before = 0
        for batch in lines.batches((USER, ITEMS), (), size):
            items = pl.col(ITEMS).str.strip_chars().str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
            numbered = batch.with_row_index(ROW, before).with_columns(items.alias(ITEM))
            places = pl.int_ranges(pl.max_horizontal(pl.col(ITEM).list.len().fill_null(1), 1))
            before += len(batch)
            yield (
                numbered.with_columns(places.alias(PLACE), _one_at_least(ITEM))
                .explode(ITEM, PLACE)
                .select(*wanted, ROW, PROBLEM, AS_GIVEN)
            )


def _one_at_least(column: str) -> pl.Expr:
    """An empty or missing list as one null."""
    nothing = pl.lit([None], schema.STRING_LIST)
    return pl.when(pl.col(column).list.len().fill_null(0) == 0).then(nothing).otherwise(pl.col(column)).alias(column)


class MicroLensSource:
    """Videos watched, in order."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read both files.

        Raises:
            UserError: besides what all sources raise, there is not exactly one file of each.
        """
        folder = find_folder(parameters.data_root, parameters.folder, parameters.source)
        pairs = PairsReader(_only(folder, "_pairs.tsv"))
        titles = DelimitedReader(_only(folder, "_titles.csv"))
        columns = InteractionColumns(user_id=USER, item_id=ITEM, timestamp=PLACE)
        interactions, facts = read_interactions([pairs], columns, "s")
        told = "no times: an item's place in its user's line stands for them"
        facts["time"] = {"unit": "place", "told": told, "known": False}
        needed = {schema.ITEM_ID: "item", schema.TITLE: "title"}
        items = items_table(read_cells([titles], needed))
        return SourceTables(
            interactions, items, {"layout": "pairs", "interactions": facts, "items": described([titles], needed)}
        )


def _only(folder: Path, ending: str) -> RawFile:
    names = [name for name in names_in(folder) if name.endswith(ending)]
    if len(names) != 1:
        there = ", ".join(names) or "none"
        raise UserError(f"There has to be one file *{ending}, there is: {there}.", str(folder), DATA_ROOT_MEND)
    return find_file(folder, names[0])
