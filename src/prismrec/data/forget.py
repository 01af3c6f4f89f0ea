"""Forgetting users: their rows never reach a table again, and what still holds them is deleted on request.

A request is kept in the workspace as the ids themselves, for the next run has to find them in the source's files; the
files belong to whoever put them there, and are not touched. Our choices: rows are left out while the source is read,
so that they never reach the disk; they are counted by a reading before that; a map of users keeps the index and loses
the id, so that no other user's index moves; a row whose user could not be read keeps its place and loses its text, for
that may name somebody in more spellings (escapes, quotes, encodings) than can be looked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prismrec.artifacts.atomic import remove_folder
from prismrec.artifacts.manifest import MANIFEST_NAME
from prismrec.data import schema
from prismrec.errors import UserError

USERS = "users"  # key of a request's ids
FORGOTTEN = "forgotten"  # of the source's facts
# Ids with control characters are quarantined, so that no user of any source is called that.
NAMELESS = "\x1fforgotten "
LEFT_OUT = "(left out: it may name a forgotten user)"
# Tables that hold ids, and those that hold events by the index of a user.
HOLD_IDS = ("raw_interactions", "planted_truth", "validated_interactions", "quarantine", "user_map")
HOLD_EVENTS = ("histories",)


def requested(record: Mapping[str, Any] | None) -> list[str]:
    """Ids of the users to forget, sorted; none without a record."""
    return sorted(record[USERS]) if record else []


def extended(record: Mapping[str, Any] | None, users: Sequence[str]) -> dict[str, Any]:
    """The record with these users too."""
    return {USERS: sorted({*requested(record), *users})}


def leave_out(events: pl.LazyFrame, users: Sequence[str]) -> pl.LazyFrame:
    """Raw events without the rows of these users, and without texts of rows whose user is not known."""
    user, text = pl.col(schema.USER_ID), pl.col(schema.AS_GIVEN)
    hidden = pl.when(_may_name(user, text)).then(pl.lit(LEFT_OUT)).otherwise(text)
    return events.filter(~_is_one(user, users)).with_columns(hidden.alias(schema.AS_GIVEN))


def count_rows(events: pl.LazyFrame, users: Sequence[str]) -> dict[str, int]:
    """Rows of each of these users, by id; those without a row are not in it."""
    mine = events.filter(_is_one(pl.col(schema.USER_ID), users))
    counts = mine.group_by(schema.USER_ID).len().sort(schema.USER_ID).collect(engine="streaming")
    return dict(counts.iter_rows())


def _is_one(user: pl.Expr, users: Sequence[str]) -> pl.Expr:
    return user.is_in(users).fill_null(False)


def _may_name(user: pl.Expr, text: pl.Expr) -> pl.Expr:
    """Whether a row has a text and no user, so that it may name anybody."""
    return user.is_null() & text.is_not_null() & (text != LEFT_OUT)


def leave_out_of_truth(planted_truth: pl.DataFrame, users: Sequence[str]) -> pl.DataFrame:
    """What the synthetic world planted, without these users."""
    return planted_truth.filter(~((pl.col("kind") == "user") & pl.col("id").is_in(users)))


def forget_in_map(user_map: pl.DataFrame, users: Sequence[str]) -> pl.DataFrame:
    """A map of users that keeps every index, and these users' ids no more.

    One of them who comes back gets a new index: nobody can tell any more who had the old one.
    """
    gone = pl.col(schema.USER_ID).is_in(users)
    nameless = pl.lit(NAMELESS) + pl.col(schema.USER_INDEX).cast(pl.String)
    return user_map.with_columns(pl.when(gone).then(nameless).otherwise(pl.col(schema.USER_ID)).alias(schema.USER_ID))


def holds(name: str, payload: Path, users: Sequence[str]) -> int:
    """How many rows of a saved table name one of these users, or may do so in a text.

    Args:
        name: one of `HOLD_IDS`.
        payload: the Parquet file.
        users: ids to forget.
    """
    table = pl.scan_parquet(payload, glob=False)
    if name == "planted_truth":
        mine = (pl.col("kind") == "user") & pl.col("id").is_in(users)
    elif name == "quarantine":
        user, text = (pl.col("row").str.json_path_match(f"$.{cell}") for cell in (schema.USER_ID, schema.AS_GIVEN))
        mine = (pl.col("table") == "interactions") & (_is_one(user, users) | _may_name(user, text))
    elif name == "raw_interactions":
        mine = _is_one(pl.col(schema.USER_ID), users) | _may_name(pl.col(schema.USER_ID), pl.col(schema.AS_GIVEN))
    else:
        mine = _is_one(pl.col(schema.USER_ID), users)
    return int(table.filter(mine).select(pl.len()).collect(engine="streaming").item())


def purge(entries: Mapping[str, Path], users: Sequence[str], mend: str) -> list[Path]:
    """Delete the older versions of tables that hold forgotten users, or their events.

    Args:
        entries: folder of versions by catalog entry, of all in `HOLD_IDS` and `HOLD_EVENTS`.
        users: ids that were to be forgotten.
        mend: the command that writes the newest versions anew.

    Returns:
        The folders that were deleted.

    Raises:
        UserError: a newest version still holds one of them; nothing is deleted.
    """
    versions = {name: _versions(entry) for name, entry in entries.items()}
    for name in HOLD_IDS:
        if versions[name] and holds(name, versions[name][-1] / entries[name].name, users):
            raise _still_there(name, versions[name][-1], mend)
    for name in HOLD_EVENTS:
        # They name nobody, but were made in one run with the map that says who is who.
        if versions[name] and [v.name for v in versions[name][-1:]] != [v.name for v in versions["user_map"][-1:]]:
            raise _still_there(name, versions[name][-1], mend)
    old = [v for name in HOLD_IDS for v in versions[name][:-1] if holds(name, v / entries[name].name, users)]
    old += [version for name in HOLD_EVENTS for version in versions[name][:-1]]
    for version in old:
        remove_folder(version)
    return old


def _versions(entry: Path) -> list[Path]:
    """Complete versions of an entry, oldest first."""
    return sorted(manifest.parent for manifest in entry.glob(f"[!.]*/{MANIFEST_NAME}"))


def _still_there(name: str, version: Path, mend: str) -> UserError:
    return UserError(
        f"The newest version of {name!r} still holds a user who is to be forgotten, or a text that may name one; "
        "nothing was deleted.",
        str(version),
        f"Write it anew first, then purge: {mend}",
    )
