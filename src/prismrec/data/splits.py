"""Cut points of the three protocols: which events train, and which are the validation and test targets.

- *leave one out* (A): the last event is the test target, the one before it validation's;
- *multi-target users* (B, the ComiRec lineage): some users are held out whole, all others train whole; of a held-out
  user the first events are the history and the last ones the targets;
- *global time* (C): two cuts in time; what lies before the first trains, between the two validates, after both tests.

Cut points, not copies: histories are stored once, and a split is five positions a user. Targets are the events
[start, end); an empty range is no case; all events before `start` are the history. The split's hash is taken over user
ids, item ids and cut points, so that it names the cases themselves, whatever indices an append-only map gave them.

For a *final fit* the validation targets train too, and nothing validates; the test cases are the same.

Our choices: B draws users by a hash of seed and user id, so that a user stays where it is when others come or go, and
the shares hold on average; C puts events at the very time of a cut after it.
"""

from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl

from prismrec.data import schema
from prismrec.data.histories import Histories, blocks
from prismrec.errors import DataRejected
from prismrec.parameters.sequence_building import SequenceBuildingParameters

FIELD, EVENT = "\x1f", "\x1e"  # ASCII's unit and record separators: no id holds them
FEWEST_EVENTS = 3  # one each to train, to validate and to test
CUT_POINTS = (
    schema.TRAIN_END,
    schema.VALIDATION_START,
    schema.VALIDATION_END,
    schema.TEST_START,
    schema.TEST_END,
)
WHOLE = 1e-9  # so that 80 % of 5 events are 4, whatever the rounding
EVENT_ORDER = "timestamp, then row of the source file"
HASHED_EVENTS = 2_000_000  # events whose ids are held as text at once
FINAL = (
    "Final fit: the validation events train too, for every row; epochs, weights of merges and the validation figures "
    "are those of the run before, which had not seen them."
)


def make_splits(
    histories: Histories, user_map: pl.DataFrame, parameters: SequenceBuildingParameters, final: bool = False
) -> pl.DataFrame:
    """The `splits` table under the chosen protocol, one row a user of `histories`.

    Args:
        final: train on the validation targets too, and on the history before them.

    Raises:
        DataRejected: validation or test has no target.
    """
    match parameters.protocol:
        case "leave_one_out":
            splits = leave_one_out(histories)
        case "multi_target_users":
            splits = multi_target_users(
                histories, user_map, parameters.holdout_share, parameters.target_share, parameters.seed
            )
        case "global_time":
            splits = global_time(histories, parameters.holdout_share)
    for part, figures in count_cases(histories, splits).items():
        if not figures["users"]:
            raise DataRejected(
                f"No user is left for {part}.",
                f"protocol {parameters.protocol}, {len(histories):,} users",
                "raise holdout_share in parameters_sequence_building.yml, or take leave_one_out",
            )
    return _final(splits) if final else splits


def _final(splits: pl.DataFrame) -> pl.DataFrame:
    """All events before the end of the validation targets train, where there are any; nothing validates."""
    start, end = pl.col(schema.VALIDATION_START), pl.col(schema.VALIDATION_END)
    train_end = pl.when(end > start).then(end).otherwise(schema.TRAIN_END).alias(schema.TRAIN_END)
    return splits.with_columns(train_end, end.alias(schema.VALIDATION_START)).pipe(schema.conform, schema.SPLITS)


def leave_one_out(histories: Histories) -> pl.DataFrame:
    """Protocol A: of every user the last event tests, the one before it validates, the others train."""
    length_U = histories.lengths
    assert (length_U >= FEWEST_EVENTS).all(), "too short a history for leave-one-out"
    return _table(histories, length_U - 2, length_U - 2, length_U - 1, length_U - 1, length_U)


def multi_target_users(
    histories: Histories, user_map: pl.DataFrame, holdout_share: float, target_share: float, seed: int
) -> pl.DataFrame:
    """Protocol B: a share of users validates, as large a share tests, the others train.

    Args:
        histories: users with two events or more.
        user_map: holds the ids by which users are drawn.
        holdout_share: chance of a user to validate, and to test.
        target_share: share of a held-out user's last events that are targets: one at least, not all.
        seed: draws the users.
    """
    length_U = histories.lengths
    assert (length_U >= 2).all(), "no room for a history and a target"
    draw_U = np.array([_uniform(seed, user) for user in user_ids(histories, user_map)])
    start_U = np.clip(np.floor(length_U * (1 - target_share) + WHOLE).astype(np.int64), 1, length_U - 1)
    validates_U, tests_U = draw_U < holdout_share, draw_U >= 1 - holdout_share
    held_U = validates_U | tests_U
    return _table(
        histories,
        np.where(held_U, 0, length_U),
        np.where(held_U, start_U, length_U),
        np.where(tests_U, start_U, length_U),
        np.where(tests_U, start_U, length_U),
        length_U,
    )


def user_ids(histories: Histories, user_map: pl.DataFrame) -> pl.Series:
    """Ids of the users of every row; a user's index is its row in the map."""
    return user_map.get_column(schema.USER_ID).gather(histories.user_index_U)


def _uniform(seed: int, user_id: str) -> float:
    """A number in [0, 1) that depends on seed and user id alone."""
    return int.from_bytes(sha256(f"{seed}{FIELD}{user_id}".encode()).digest()[:6]) / 2**48


def global_time(histories: Histories, holdout_share: float) -> pl.DataFrame:
    """Protocol C: events before the first cut train, those before the second validate, all others test.

    A user without an event before a cut has no history there, and no case.

    Args:
        holdout_share: share of the events in validation, and in test.
    """
    first_U, second_U = (_before(histories, cut) for cut in time_cuts(histories, holdout_share))
    return _table(
        histories,
        first_U,
        first_U,
        np.where(first_U > 0, second_U, 0),
        second_U,
        np.where(second_U > 0, histories.lengths, 0),
    )


def _before(histories: Histories, cut: int) -> np.ndarray:
    """How many of each user's events come before a time; every user has an event."""
    return np.add.reduceat(histories.timestamps < cut, histories.offsets[:-1], dtype=np.int64)


def time_cuts(histories: Histories, holdout_share: float) -> tuple[int, int]:
    """Times of the two cuts, seconds since 1970 UTC: quantiles of the event times."""
    events = len(histories.timestamps)
    first, second = (int((1 - share) * events + WHOLE) for share in (2 * holdout_share, holdout_share))
    ordered = np.partition(histories.timestamps, (first, second))
    return int(ordered[first]), int(ordered[second])


def _table(histories: Histories, *points_U: np.ndarray) -> pl.DataFrame:
    columns = dict(zip(CUT_POINTS, points_U, strict=True))
    return pl.DataFrame({schema.USER_INDEX: histories.user_index_U, **columns}).pipe(schema.conform, schema.SPLITS)


def count_cases(histories: Histories, splits: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Users with targets, their targets, and users left out for want of a history, in validation and test.

    Targets are events here; what the rule on repeats leaves of them is counted when they are ranked.
    """
    counted = {}
    length_U = pl.Series(histories.lengths)
    for part, start, end, last in (
        ("validation", schema.VALIDATION_START, schema.VALIDATION_END, splits.get_column(schema.TEST_START)),
        ("test", schema.TEST_START, schema.TEST_END, length_U),
    ):
        start_U, end_U = splits.get_column(start), splits.get_column(end)
        counted[part] = {
            "users": int((end_U > start_U).sum()),
            "targets": int((end_U - start_U).sum()),
            "users_without_history": int(((start_U == 0) & (last > 0)).sum()),
        }
    return counted


def describe(histories: Histories, parameters: SequenceBuildingParameters, final: bool = False) -> dict[str, Any]:
    """The protocol in words: its name, what it does, and its rules on ties, repeats and time."""
    held, aimed = f"{100 * parameters.holdout_share:g} %", f"{100 * parameters.target_share:g} %"
    ties = f"Events of one user are ordered by {EVENT_ORDER}."
    match parameters.protocol:
        case "leave_one_out":
            description = "Leave one out: each user's last event is the test target, the one before it validation's."
            time = "Each user has cuts of their own: another user's training events may be later than a target."
        case "multi_target_users":
            description = (
                f"Multi-target users: {held} of the users validate, {held} test, and none of their events trains; "
                f"their last {aimed} of events are targets (one at least), those before are the history."
            )
            time = "Users are drawn whatever their times: training events may be later than a target."
        case "global_time":
            first, second = time_cuts(histories, parameters.holdout_share)
            description = (
                f"Global time: events before {first} train, the {held} up to {second} validate, the {held} from then "
                "on test (seconds since 1970 UTC); users without an earlier event are no case."
            )
            time = "No training event is later than a target; the history of a test target holds validation's events."
            ties += " Events at the very time of a cut lie after it."
    repeats = {
        "first": "A user's later events of one item are dropped, so no target is in the history.",
        "last": "A user's earlier events of one item are dropped, so no target is in the history.",
        "keep": "A user's repeated events of one item stay; several in the targets count once.",
    }[parameters.repeats]
    return {
        "name": parameters.protocol,
        "description": f"{description} {FINAL}" if final else description,
        "ties": ties,
        "repeats": repeats,
        "time": time,
    }


def split_hash(histories: Histories, splits: pl.DataFrame, item_map: pl.DataFrame, user_map: pl.DataFrame) -> str:
    """SHA-256 over one line a user, sorted by user id: the id, the item ids in order, the cut points.

    Where every target range is one event and the next begins at its end, as leave-one-out has it, ends follow from
    starts and are not hashed. Users are taken block by block, so that only a block's ids are in memory as text.
    """
    hashed = _hashed(histories, splits)
    ids = user_ids(histories, user_map)
    order_U = ids.arg_sort().to_numpy()
    item_ids = item_map.get_column(schema.ITEM_ID)
    sorted_offsets = np.concatenate([[0], np.cumsum(histories.lengths[order_U])])
    digest = sha256()
    for block in blocks(sorted_offsets, HASHED_EVENTS):
        rows = order_U[block]
        lines = pl.DataFrame({"user": ids.gather(rows), "items": _joined(histories, rows, item_ids)}).hstack(
            splits.select(hashed)[rows]
        )
        for line in lines.select(pl.concat_str("user", "items", *hashed, separator=FIELD)).to_series():
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _joined(histories: Histories, rows: np.ndarray, item_ids: pl.Series) -> pl.Series:
    """The item ids of each row as one text."""
    length_B = histories.lengths[rows]
    row_E = np.repeat(np.arange(len(rows)), length_B)
    shift_B = histories.offsets[rows] - (np.cumsum(length_B) - length_B)
    items_E = histories.items[np.arange(len(row_E)) + shift_B[row_E]]
    events = pl.DataFrame({"row": row_E, "item": item_ids.gather(items_E)})
    return events.group_by("row", maintain_order=True).agg(pl.col("item").str.join(EVENT)).get_column("item")


def _hashed(histories: Histories, splits: pl.DataFrame) -> tuple[str, ...]:
    if (histories.lengths >= FEWEST_EVENTS).all() and splits.equals(leave_one_out(histories)):
        return (schema.TRAIN_END, schema.VALIDATION_START, schema.TEST_START)
    return CUT_POINTS
