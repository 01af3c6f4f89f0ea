"""Source `movielens`: the layouts of GroupLens' MovieLens, told by the files that are there.

100K: `u.data`, `u.item`, `u.genre`. 1M and 10M: `ratings.dat` and `movies.dat`, separated by "::". 20M, 25M and
32M: `ratings.csv` and `movies.csv`. Every rating is an event whatever its stars, which become the weight. A film's
text is its genres, and by parameter its plot where `movies_extrainfos.dat` (1M) has one.
"""

from pathlib import Path
from typing import Any

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.delimited import DelimitedReader, Dialect
from prismrec.data.sources.opening import DATA_ROOT_MEND, find_file, find_folder, names_in, read_blocks
from prismrec.data.sources.reading import described, items_table, read_cells, read_interactions
from prismrec.data.sources.tables import SourceTables
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import InteractionColumns

RATING = ("user", "movie", "rating", "time")
FILM = {schema.ITEM_ID: "movie", schema.TITLE: "title", schema.CATEGORIES: "genres"}
EXTRAS = "movies_extrainfos.dat"
EXTRA_FIELDS = 11
PLOT_FIELD = 9
ITEM_FIELDS_100K = ("movie", "title", "released", "video", "address")


class MovieLensSource:
    """Ratings and films of any size of MovieLens."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read ratings and films.

        Raises:
            UserError: besides what all sources raise, no known layout is there.
        """
        folder = find_folder(parameters.data_root, parameters.folder, parameters.source)
        there = set(names_in(folder))
        if "u.data" in there:
            return _read_100k(folder)
        if "ratings.dat" in there or "movies.dat" in there:
            return _read_dat(folder, parameters.plots)
        if "ratings.csv" in there or "movies.csv" in there:
            return _read_csv(folder)
        raise UserError(
            "No MovieLens is there: neither u.data nor ratings.dat nor ratings.csv.", str(folder), DATA_ROOT_MEND
        )


def _read_100k(folder: Path) -> SourceTables:
    ratings = DelimitedReader(find_file(folder, "u.data"), Dialect("\t", False, header=RATING))
    interactions, facts = read_interactions([ratings], _columns(RATING), "s")
    genres = _genres(folder)
    films = DelimitedReader(
        find_file(folder, "u.item"), Dialect("|", False, "latin-1", (*ITEM_FIELDS_100K, *(f"is {g}" for g in genres)))
    )
    flags = {f"is {genre}": f"is {genre}" for genre in genres}
    needed = {schema.ITEM_ID: "movie", schema.TITLE: "title", **flags}
    named = [pl.when(pl.col(f"is {genre}") == "1").then(pl.lit(genre)) for genre in genres]
    cells = read_cells([films], needed).with_columns(
        pl.concat_str(named, separator="|", ignore_nulls=True).alias(schema.CATEGORIES)
    )
    facts = {
        "layout": "100K",
        "interactions": facts,
        "items": described([films], {**FILM, schema.CATEGORIES: "a column each"}),
    }
    return SourceTables(interactions, _with_genres(items_table(cells)), facts)


def _genres(folder: Path) -> list[str]:
    """Names of the genres in the order of their columns."""
    reader = DelimitedReader(find_file(folder, "u.genre"), Dialect("|", False, "latin-1", ("genre", "number")))
    table = read_cells([reader], {schema.ITEM_ID: "genre", "number": "number"})
    return table.get_column(schema.ITEM_ID).drop_nulls().unique(maintain_order=True).to_list()


def _read_dat(folder: Path, plots: bool) -> SourceTables:
    ratings = DelimitedReader(find_file(folder, "ratings.dat"), Dialect("::", False, "latin-1", RATING))
    interactions, facts = read_interactions([ratings], _columns(RATING), "s")
    file = find_file(folder, "movies.dat")
    encoding = "utf-8" if _is_utf8(b"".join(read_blocks(file))) else "latin-1"
    films = DelimitedReader(file, Dialect("::", False, encoding, ("movie", "title", "genres")))
    items = _with_genres(items_table(read_cells([films], FILM)))
    item_facts = described([films], FILM)
    if plots and (folder / EXTRAS).is_file():
        items, item_facts["plots"] = _with_plots(items, folder)
    layout = "1M and 10M, '::' between fields"
    return SourceTables(interactions, items, {"layout": layout, "interactions": facts, "items": item_facts})


def _read_csv(folder: Path) -> SourceTables:
    given = ("userId", "movieId", "rating", "timestamp")
    interactions, facts = read_interactions([DelimitedReader(find_file(folder, "ratings.csv"))], _columns(given), "s")
    films = DelimitedReader(find_file(folder, "movies.csv"))
    needed = {schema.ITEM_ID: "movieId", schema.TITLE: "title", schema.CATEGORIES: "genres"}
    items = _with_genres(items_table(read_cells([films], needed)))
    facts = {"layout": "20M, 25M and 32M, csv", "interactions": facts, "items": described([films], needed)}
    return SourceTables(interactions, items, facts)


def _columns(given: tuple[str, str, str, str]) -> InteractionColumns:
    user, item, rating, time = given
    return InteractionColumns(user_id=user, item_id=item, timestamp=time, weight=rating)


def _with_genres(items: pl.DataFrame) -> pl.DataFrame:
    return items.with_columns(pl.col(schema.CATEGORIES).list.join(", ").alias(schema.TEXT))


def _with_plots(items: pl.DataFrame, folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Genres and plot as the text, where a plot is known; and what is to be said of the file."""
    names = tuple(f"field {i}" for i in range(EXTRA_FIELDS))
    reader = DelimitedReader(find_file(folder, EXTRAS), Dialect("::", False, "utf-8", names))
    needed = {schema.ITEM_ID: names[0], schema.TITLE: names[PLOT_FIELD]}
    plots = items_table(read_cells([reader], needed)).select(schema.ITEM_ID, pl.col(schema.TITLE).alias("plot"))
    known = plots.drop_nulls(schema.ITEM_ID).unique(schema.ITEM_ID, keep="first", maintain_order=True)
    text = pl.concat_str(schema.TEXT, "plot", separator=". ", ignore_nulls=True)
    joined = items.join(known, on=schema.ITEM_ID, how="left", maintain_order="left").with_columns(
        text.alias(schema.TEXT)
    )
    unread = len(plots) - len(known)
    return schema.conform(joined, schema.RAW_ITEMS), {"name": EXTRAS, "films": len(known), "rows_left_out": unread}


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
