"""Source `amazon`: Amazon Reviews of one category, as UCSD publishes them.

2014 and 2018, 5-core: a file of reviews (`reviews_Beauty_5.json.gz`, `All_Beauty_5.json.gz`) and one of products
(`meta_Beauty.json.gz`), an object a line; the products of 2014 are Python literals. 2023: reviews as JSON Lines, or
the 5-core's `user_id,parent_asin,rating,timestamp` as csv, and `meta_*.jsonl`. Which it is tell the first row's names.
Stars become the weight; a product's text is its brand or shop and its categories. Many products of 2014 have no
title: they go to the quarantine, and so do their events unless `unknown_items` says otherwise.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from prismrec.data import schema
from prismrec.data.sources.cells import CellReader
from prismrec.data.sources.delimited import DelimitedReader
from prismrec.data.sources.json_lines import LinesReader
from prismrec.data.sources.opening import DATA_ROOT_MEND, RawFile, find_file, find_folder, first_bytes, names_in
from prismrec.data.sources.reading import described, items_table, read_cells, read_interactions
from prismrec.data.sources.tables import SourceTables
from prismrec.data.sources.texts import clean
from prismrec.errors import UserError
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sources import InteractionColumns, TimeUnit

ENDINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".json.zst", ".jsonl.zst")
OLD = InteractionColumns(user_id="reviewerID", item_id="asin", timestamp="unixReviewTime", weight="overall")
NEW = InteractionColumns(user_id="user_id", item_id="parent_asin", timestamp="timestamp", weight="rating")
CATEGORIES = ("categories", "category")  # 2014 and 2023, 2018
MAKERS = ("brand", "store")  # until 2018, 2023


class AmazonSource:
    """Reviews as events, and products."""

    def read(self, parameters: DataValidationParameters) -> SourceTables:
        """Read reviews and products.

        Raises:
            UserError: besides what all sources raise, there is not exactly one file of each.
        """
        folder = find_folder(parameters.data_root, parameters.folder, parameters.source)
        names = [name for name in names_in(folder) if name.endswith(ENDINGS)]
        reviews = _open(_only(folder, [name for name in names if not name.startswith("meta_")], "reviews"))
        products = _open(_only(folder, [name for name in names if name.startswith("meta_")], "products (meta_…)"))
        columns, unit, layout = _layout(reviews)
        interactions, facts = read_interactions([reviews], columns, unit)
        needed = _product_columns(products.columns)
        items = _items(products, needed)
        return SourceTables(
            interactions, items, {"layout": layout, "interactions": facts, "items": described([products], needed)}
        )


def _layout(reviews: CellReader) -> tuple[InteractionColumns, TimeUnit, str]:
    if "parent_asin" in reviews.columns:
        return NEW, "ms", "2023"
    return OLD, "s", "2018" if "verified" in reviews.columns else "2014"


def _only(folder: Path, names: Sequence[str], kind: str) -> RawFile:
    if len(names) != 1:
        raise UserError(
            f"There is {'no file' if not names else 'more than one file'} of {kind}: {', '.join(names) or 'none'}.",
            str(folder),
            f"give each category a folder of its own with one file of reviews and one of products; {DATA_ROOT_MEND}",
        )
    return find_file(folder, names[0])


def _open(file: RawFile) -> CellReader:
    """The reader of a file of either kind."""
    if ".csv" in file.path.name:
        return DelimitedReader(file)
    reader = LinesReader(file)
    # The products of 2014 are written with Python's quotes, which JSON does not know.
    literal = first_bytes(file).lstrip()[:64].replace(b" ", b"").startswith((b"{'", b"{u'"))
    return LinesReader(file, "python_lines") if literal else reader


def _product_columns(there: Sequence[str]) -> dict[str, str]:
    """Our column -> theirs; the id's and the title's whether they are there or not."""
    item = "parent_asin" if "parent_asin" in there else "asin"
    found = {schema.ITEM_ID: item, schema.TITLE: "title"}
    for ours, names in ((schema.CATEGORIES, CATEGORIES), ("maker", MAKERS)):
        found.update((ours, name) for name in names if name in there)
    return found


def _items(products: CellReader, needed: dict[str, str]) -> pl.DataFrame:
    lists = [needed[schema.CATEGORIES]] if schema.CATEGORIES in needed else []
    cells = read_cells([products], needed, lists)
    items = items_table(cells)
    maker = clean(pl.col("maker")) if "maker" in needed else pl.lit(None, pl.String)
    text = pl.concat_list(maker, pl.col(schema.CATEGORIES)).list.drop_nulls().list.join(", ")
    makers = cells.select("maker") if "maker" in needed else pl.DataFrame()
    return schema.conform(pl.concat([items, makers], how="horizontal").with_columns(text.alias(schema.TEXT)),
                          schema.RAW_ITEMS)  # fmt: skip
