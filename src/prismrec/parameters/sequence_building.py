"""Parameters of `sequence_building`: who is kept and how histories are made."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters

CoreMode = Literal["one_pass", "iterate"]
Repeats = Literal["keep", "first"]


class SequenceBuildingParameters(StageParameters):
    """The k-core and the repeats rule (protocol A: 5, 5, one_pass, first)."""

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
