"""Times: whole seconds since 1970-01-01 UTC from numbers of some unit or from ISO 8601 text.

The unit of a column is declared, or told once from its first rows, and never guessed row by row: a few
milliseconds among seconds stay absurd seconds, which the contract refuses. Our choices: fractions of a second
are cut off downwards; a text without a zone is UTC, and a zone is at most 14:59 away from it; a date is its midnight.
"""

import polars as pl

from prismrec.parameters.sources import TimeUnit

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# A number at or above the bound is of a finer unit: 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
FIRST_OF_UNIT: tuple[tuple[TimeUnit, float], ...] = (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 0.0))
ISO = (
    r"^\s*(\d{4}-\d{2}-\d{2}|\d{8})"
    r"(?:[T ](\d{2}:\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(Z|z|UTC|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)?)?\s*$"
)
BASIC_DATE = r"^\s*(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\s*$"


def tell_unit(cells: pl.Series) -> TimeUnit | None:
    """Tell the unit from a column's first cells, by most of them; None where most are no times.

    Args:
        cells: text or numbers.
    """
    given = cells.drop_nulls()
    text = given.cast(pl.String)
    # 20240131 would be a second of 1970: as a date it makes sense. Few running numbers would be dates.
    if 2 * text.str.contains(BASIC_DATE).sum() > len(given):
        return "iso8601"
    number = text.str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
    numbers = number.is_not_null().sum()
    iso = text.to_frame("t").select(_iso_seconds("t").is_not_null().sum()).item()
    if 2 * max(numbers, iso) <= len(given):
        return None
    if iso > numbers:
        return "iso8601"
    middle = number.abs().median()
    assert isinstance(middle, float)
    return next(unit for unit, first in FIRST_OF_UNIT if middle >= first)


def seconds(column: str, dtype: pl.DataType, unit: TimeUnit) -> pl.Expr:
    """Whole seconds of a column of text or numbers; null where a cell is no time of that unit."""
    if unit == "iso8601":
        return _iso_seconds(column)
    per_second = PER_SECOND[unit]
    if dtype.is_integer():
        return pl.col(column).cast(pl.Int64, strict=False) // per_second
    number = pl.col(column).str.strip_chars() if dtype == pl.String else pl.col(column)
    whole = number.cast(pl.Int64, strict=False) if dtype == pl.String else pl.lit(None, pl.Int64)
    # Floats lose no second below 2**53; the integer comes first because it is exact beyond.
    floats = (number.cast(pl.Float64, strict=False) / per_second).floor().cast(pl.Int64, strict=False)
    return pl.coalesce(whole // per_second, floats)


def _iso_seconds(column: str) -> pl.Expr:
    text = pl.col(column).cast(pl.String)
    date = text.str.extract(ISO, 1).str.replace_all("-", "")
    minute = text.str.extract(ISO, 2).fill_null("00:00")
    second = text.str.extract(ISO, 3).fill_null("00")
    zone = text.str.extract(ISO, 4).fill_null("Z").str.replace(":", "", literal=True)
    offset = (
        pl.when(zone.str.contains(r"^[+-]"))
        .then(
            pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
            * (
                zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 3600
                + zone.str.slice(3, 2).str.replace("^$", "0").cast(pl.Int64, strict=False) * 60
            )
        )
        .otherwise(0)
    )
    stamp = pl.concat_str(date, pl.lit(" "), minute, pl.lit(":"), second)
    return stamp.str.to_datetime("%Y%m%d %H:%M:%S", time_unit="ms", strict=False).dt.epoch("s") - offset
