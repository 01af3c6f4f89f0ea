"""Leave-one-out cut points (protocol A): the last event is the test target, the one before validation's.

Cut points, not copies: histories are stored once, and a split is three positions a user. The split's hash
is taken over user ids, item ids and cut points, so that it names the cases themselves, whatever indices
an append-only map gave them.
"""

from hashlib import sha256

import polars as pl

from prismrec.data import schema

FIELD, EVENT = "\x1f", "\x1e"  # ASCII's unit and record separators: no id holds them
FEWEST_EVENTS = 3  # one each to train, to validate and to test


def leave_one_out(histories: pl.DataFrame) -> pl.DataFrame:
    """Return the `splits` table of a `histories` table whose users have three events or more."""
    length = pl.col(schema.ITEM_INDICES).list.len().cast(pl.Int32)
    assert histories.select((length >= FEWEST_EVENTS).all()).item(), "too short a history for leave-one-out"
    return histories.select(
        schema.USER_INDEX,
        (length - 2).alias(schema.TRAIN_END),
        (length - 2).alias(schema.VALIDATION_POSITION),
        (length - 1).alias(schema.TEST_POSITION),
    ).pipe(schema.conform, schema.SPLITS)


def split_hash(histories: pl.DataFrame, splits: pl.DataFrame, item_map: pl.DataFrame, user_map: pl.DataFrame) -> str:
    """SHA-256 over one line a user, sorted by user id: the id, the item ids in order, the cut points."""
    events = (
        histories.lazy()
        .select(schema.USER_INDEX, pl.col(schema.ITEM_INDICES).alias(schema.ITEM_INDEX))
        .explode(schema.ITEM_INDEX)
        .join(
            item_map.lazy().select(schema.ITEM_INDEX, schema.ITEM_ID),
            on=schema.ITEM_INDEX,
            maintain_order="left",
        )
        .group_by(schema.USER_INDEX, maintain_order=True)
        .agg(pl.col(schema.ITEM_ID).str.join(EVENT))
    )
    lines = (
        events.join(user_map.lazy().select(schema.USER_INDEX, schema.USER_ID), on=schema.USER_INDEX)
        .join(splits.lazy(), on=schema.USER_INDEX)
        .sort(schema.USER_ID)
        .select(
            pl.concat_str(
                schema.USER_ID,
                schema.ITEM_ID,
                schema.TRAIN_END,
                schema.VALIDATION_POSITION,
                schema.TEST_POSITION,
                separator=FIELD,
            )
        )
        .collect()
        .to_series()
    )
    digest = sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
