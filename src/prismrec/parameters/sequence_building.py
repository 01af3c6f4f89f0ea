"""Parameters of `sequence_building`: who is kept, how histories are made, and what is held out."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters

CoreMode = Literal["one_pass", "iterate"]
Repeats = Literal["keep", "first", "last"]
Protocol = Literal["leave_one_out", "multi_target_users", "global_time"]


class SequenceBuildingParameters(StageParameters):
    """Which events count, the k-core, the repeats rule (protocol A: 5, 5, one_pass, first) and the protocol."""

    events: list[str] = Field(
        default=[], description="Kinds of events that count, of the source's event column; an empty list: all."
    )
    min_weight: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Events of a smaller weight, or of none, do not count (ratings of 4 and more: 4); null: all count.",
    )
    min_item_events: int = Field(default=5, ge=1, description="Events an item needs to be active.")
    min_user_events: int = Field(
        default=5,
        ge=3,
        description="Events a user needs to be active; three leave one each to train, validate, test.",
    )
    max_user_events: int | None = Field(
        default=None, ge=3, description="Newest events of a user that are kept; null keeps all."
    )
    core: CoreMode = Field(
        default="one_pass",
        description="one_pass: filter items once, then users; iterate: until nothing changes.",
    )
    repeats: Repeats = Field(
        default="first",
        description="first: of a user's events of one item only the oldest stays; last: the newest; keep: all stay.",
    )
    protocol: Protocol = Field(
        default="leave_one_out",
        description="leave_one_out: the last two events of each user; multi_target_users: the last events of users "
        "held out whole; global_time: all events after cuts in time.",
    )
    holdout_share: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share for validation, and the same for test: of users (multi_target_users) or of events "
        "(global_time).",
    )
    target_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="multi_target_users: share of a held-out user's last events that are targets.",
    )
