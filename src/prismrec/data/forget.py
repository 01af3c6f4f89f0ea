"""Forgetting users: their rows never reach a table again, and what still holds them is deleted on request.

A request is kept in the workspace as the ids themselves, for the next run has to find them in the source's files; the
files belong to whoever put them there, and are not touched. Our choices: rows are left out while the raw table is
written, so that no version of it is ever complete with them; a map of users keeps the index and loses the id, so that
no other user's index moves; a row whose user could not be read keeps its place, and loses its text if that text names
a forgotten user.
"""

import re
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
LEFT_OUT = "(left out: it names a forgotten user)"
# Tables that hold ids, and those that hold events by the index of a user.
HOLD_IDS = ("raw_interactions", "planted_truth", "validated_interactions", "quarantine", "user_map")
HOLD_EVENTS = ("histories",)


def requested(record: Mapping[str, Any] | None) -> list[str]:
    """Ids of the users to forget, sorted; none without a record."""
    return sorted(record[USERS]) if record else []


def extended(record: Mapping[str, Any] | None, users: Sequence[str]) -> dict[str, Any]:
    """The record with these users too."""
    return {USERS: sorted({*requested(record), *users})}


class WithoutUsers:
    """A table of raw events that is written without the users to forget (see `prismrec.data.tables.Sinkable`).

    Args:
        table: the events as the source reads them.
        users: ids to forget.
        facts: the source's facts, which are told how many rows were left out once the table is written.
    """

    def __init__(self, table: pl.LazyFrame, users: Sequence[str], facts: dict[str, Any]) -> None:
        self._table = table
        self._users = users
        self._facts = facts

    def sink_parquet(self, path: Path, **options: Any) -> None:
        """Write the whole table beside `path`, copy what stays, and delete the whole one."""
        whole = path.with_name(f"{path.name}.whole")
        self._table.sink_parquet(whole, **options)
        events = pl.scan_parquet(whole, glob=False)
        forgotten = events.filter(pl.col(schema.USER_ID).is_in(self._users)).select(pl.len())
        rows = int(forgotten.collect(engine="streaming").item())
        leave_out(events, self._users).sink_parquet(path, **options)
        whole.unlink()
        self._facts[FORGOTTEN] = {"users": len(self._users), "rows": rows}


def leave_out(events: pl.LazyFrame, users: Sequence[str]) -> pl.LazyFrame:
    """Raw events without the rows of these users, and without texts that name them."""
    named = pl.col(schema.AS_GIVEN).str.contains(_names(users)).fill_null(False)
    hidden = pl.when(named).then(pl.lit(LEFT_OUT)).otherwise(pl.col(schema.AS_GIVEN))
    mine = pl.col(schema.USER_ID).is_in(users).fill_null(False)
    return events.filter(~mine).with_columns(hidden.alias(schema.AS_GIVEN))


def _names(users: Sequence[str]) -> str:
    """A pattern of texts in which one of the ids stands as a word."""
    return r"(?:^|[^\w])(?:" + "|".join(re.escape(user) for user in users) + r")(?:[^\w]|$)"


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
    """How many rows of a saved table name one of these users.

    Args:
        name: one of `HOLD_IDS`.
        payload: the Parquet file.
        users: ids to forget.
    """
    table = pl.scan_parquet(payload, glob=False)
    if name == "planted_truth":
        mine = (pl.col("kind") == "user") & pl.col("id").is_in(users)
    elif name == "quarantine":
        text = pl.col("row").str.json_path_match(f"$.{schema.AS_GIVEN}")
        user = pl.col("row").str.json_path_match(f"$.{schema.USER_ID}")
        of_events = pl.col("table") == "interactions"
        mine = of_events & (user.is_in(users).fill_null(False) | text.str.contains(_names(users)).fill_null(False))
    else:
        mine = pl.col(schema.USER_ID).is_in(users)
    return int(table.filter(mine.fill_null(False)).select(pl.len()).collect(engine="streaming").item())


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
        f"The newest version of {name!r} still holds a user who is to be forgotten; nothing was deleted.",
        str(version),
        f"Write it anew first, then purge: {mend}",
    )
