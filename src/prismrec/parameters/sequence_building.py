"""Parameters of `sequence_building`: who is kept, how histories are made, and what is held out."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters

CoreMode = Literal["one_pass", "iterate"]
Repeats = Literal["keep", "first"]
Protocol = Literal["leave_one_out", "multi_target_users", "global_time"]


class SequenceBuildingParameters(StageParameters):
    """The k-core, the repeats rule (protocol A: 5, 5, one_pass, first) and the protocol."""

    min_item_events: int = Field(default=5, ge=1, description="Events an item needs to be active.")
    min_user_events: int = Field(
        default=5,
        ge=3,
        description="Events a user needs to be active; three leave one each to train, validate, test.",
    )
    core: CoreMode = Field(
        default="one_pass",
        description="one_pass: filter items once, then users; iterate: until nothing changes.",
    )
    repeats: Repeats = Field(
        default="first", description="first: a user's later events of one item are dropped; keep: they stay."
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
