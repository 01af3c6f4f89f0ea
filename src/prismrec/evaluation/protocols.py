"""The cases of a protocol: users, how much of them is history, and the targets to be found.

Whatever the protocol (`prismrec.data.splits` makes its cut points), a case is a user whose events [start, end) are the
targets and whose events before start are the history. What differs is the rule on the history:
- *filtered*: what a user has seen is never recommended. A target that is in the history could not be found, so it is
  no target, and `left_out` counts it; a user with no target left is no case, and `users_left_out` counts them;
- *kept*: seen items may be recommended, all targets count, and `repeated` says how many of them were in the history.

Shapes: C cases, T targets of the case that has most.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from prismrec.data.targets import distinct_targets
from prismrec.models.events import EventTable

History = Literal["filtered", "kept"]

TIE_RULE = (
    "Items of equal score stand in every order with equal chance: HR, Recall, NDCG and MRR, and what counts hits by "
    "cells, are expectations over these orders. Lists (coverage, Gini, novelty, diversity, popularity lift) take them "
    "by item index."
)
FILTER_RULES = {
    "filtered": "Items of the history are never recommended; targets among them are left out and counted.",
    "kept": "Items of the history may be recommended; targets among them count and are said.",
}


class Cases(NamedTuple):
    """Users with targets, shortest history first."""

    users_C: np.ndarray  # int64 rows of the event table
    starts_C: np.ndarray  # int64; the events before it are the history, at least one
    targets_CT: np.ndarray  # int64 items, distinct within a case, 0 where padded
    mask_CT: np.ndarray  # bool; False is padding
    left_out: int  # targets not counted because they are in the history, under "filtered"
    repeated: int  # counted targets that are in the history, under "kept"
    users_left_out: int  # users all of whose targets are in the history, under "filtered"


def make_cases(events: EventTable, starts_U: np.ndarray, ends_U: np.ndarray, history: History) -> Cases:
    """All users with a target that counts.

    Args:
        events: all users' events.
        starts_U: position of each user's first target.
        ends_U: position after the last; where it equals the start, the user is no case.
        history: the rule on what a user has seen.
    """
    starts_U, ends_U = np.asarray(starts_U, dtype=np.int64), np.asarray(ends_U, dtype=np.int64)
    assert history in FILTER_RULES, f"no such rule: {history}"
    assert (starts_U <= ends_U).all(), "targets end before they start"
    users_C = np.flatnonzero(ends_U > starts_U)
    assert (starts_U[users_C] > 0).all(), "a case without a history"
    users_C = users_C[np.argsort(starts_U[users_C], kind="stable")]
    items_CT, mask_CT, seen = distinct_targets(
        events.offsets_U1.cpu().numpy(),
        events.items_E.cpu().numpy(),
        users_C,
        starts_U[users_C],
        ends_U[users_C],
        keep_seen=history == "kept",
    )
    some_C = mask_CT.any(1)
    users_C, users_left_out = users_C[some_C], int((~some_C).sum())
    left_out, repeated = (seen, 0) if history == "filtered" else (0, seen)
    return Cases(users_C, starts_U[users_C], items_CT[some_C], mask_CT[some_C], left_out, repeated, users_left_out)


def count(cases: Cases) -> dict[str, int]:
    """How many users and targets are counted, and what became of targets, and users, because of the history."""
    return {
        "users": len(cases.users_C),
        "targets": int(cases.mask_CT.sum()),
        "left_out": cases.left_out,
        "repeated": cases.repeated,
        "users_left_out": cases.users_left_out,
    }


def describe(split: dict[str, Any], history: History) -> dict[str, str]:
    """The protocol in words, for reports: name, description, and rules on ties, filter, repeats and time.

    Args:
        split: what `sequence_building_metrics` holds under "protocol".
        history: the rule on what a user has seen.
    """
    return {
        "name": split["name"],
        "description": split["description"],
        "ties": f"{split['ties']} {TIE_RULE}",
        "filter": FILTER_RULES[history],
        "repeats": split["repeats"],
        "time": split["time"],
    }
