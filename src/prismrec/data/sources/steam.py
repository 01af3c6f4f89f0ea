"""Source `steam`: two layouts of reviews on Steam.

csv: `interactions.csv`, `items.csv` and, where it exists, `item_metadata_dh-r.csv`, whose categories and tags are
joined by title. UCSD: `steam_reviews.json.gz` (or `steam_new.json`) and `steam_games.json.gz`, a Python literal a
line; there the hours played are the weight, and the order within a day is the file's.
"""

from pathlib import Path

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.delimited import DelimitedReader
from prismrec.data.sources.json_lines import LinesReader
from prismrec.data.sources.opening import DATA_ROOT_MEND, find_file, find_folder, names_in
from prismrec.data.sources.reading import described, items_table, read_cells, read_interactions
from prismrec.data.sources.tables import SourceTables
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import InteractionColumns

METADATA = "item_metadata_dh-r.csv"
REVIEWS = ("steam_reviews.json", "steam_reviews.json.gz", "steam_new.json", "steam_new.json.gz")
GAMES = ("steam_games.json", "steam_games.json.gz")
REVIEW = InteractionColumns(user_id="username", item_id="product_id", timestamp="date", weight="hours")
TAGS = "tags"


class SteamSource:
    """Reviews or plays as events, and games."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read whichever layout is there.

        Raises:
            UserError: besides what all sources raise, neither is.
        """
        folder = find_folder(parameters.data_root, parameters.folder, parameters.source)
        there = names_in(folder)
        reviews = [name for name in there if name in REVIEWS]
        games = [name for name in there if name in GAMES]
        if reviews or games:
            return _read_json(folder, (reviews or REVIEWS[1:2])[0], (games or GAMES[1:2])[0])
        if {"interactions.csv", "items.csv"} & set(there):
            return _read_csv(folder)
        raise UserError(
            "No Steam data is there: neither interactions.csv nor steam_reviews.json.gz.", str(folder), DATA_ROOT_MEND
        )


def _read_csv(folder: Path) -> SourceTables:
    interactions, facts = read_interactions(
        [DelimitedReader(find_file(folder, "interactions.csv"))], InteractionColumns(), "s"
    )
    games = DelimitedReader(find_file(folder, "items.csv"))
    needed = {schema.ITEM_ID: schema.ITEM_ID, schema.TITLE: schema.TITLE}
    items = items_table(read_cells([games], needed))
    item_facts = described([games], needed)
    if (folder / METADATA).is_file():
        items = _with_metadata(items, folder)
        found = int((items.get_column(schema.CATEGORIES).list.len() > 0).sum())
        item_facts["metadata"] = {"name": METADATA, "joined_by": "title", "games_found": found}
    return SourceTables(interactions, items, {"layout": "csv", "interactions": facts, "items": item_facts})


def _with_metadata(items: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Categories, and tags as the text, by title."""
    reader = DelimitedReader(find_file(folder, METADATA))
    needed = {schema.ITEM_ID: "ItemId", schema.TITLE: "Name", schema.CATEGORIES: "Category", schema.TEXT: "Tag"}
    known = items_table(read_cells([reader], needed), separator="_").select(
        schema.TITLE, schema.CATEGORIES, pl.col(schema.TEXT).str.replace_all("_", ", ", literal=True)
    )
    known = known.drop_nulls(schema.TITLE).unique(schema.TITLE, keep="first", maintain_order=True)
    left = items.drop(schema.CATEGORIES, schema.TEXT)
    joined = left.join(known, on=schema.TITLE, how="left", maintain_order="left").with_columns(
        pl.col(schema.CATEGORIES).fill_null([]), pl.col(schema.TEXT).fill_null("")
    )
    return schema.conform(joined, schema.RAW_ITEMS)


def _read_json(folder: Path, reviews: str, games: str) -> SourceTables:
    events = LinesReader(find_file(folder, reviews), "python_lines")
    interactions, facts = read_interactions([events], REVIEW, "iso8601")
    reader = LinesReader(find_file(folder, games), "python_lines")
    needed = {schema.ITEM_ID: "id", schema.TITLE: "app_name", schema.CATEGORIES: "genres", schema.TEXT: TAGS}
    items = items_table(read_cells([reader], needed, ["genres", TAGS]))
    facts = {"layout": "UCSD", "interactions": facts, "items": described([reader], needed)}
    return SourceTables(interactions, items, facts)
