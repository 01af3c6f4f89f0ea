"""Parameters of stage 8, `packaging`."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters
from prismrec.parameters.promotion import ServedModel


class PackagingParameters(StageParameters):
    """Whether a run has to be promoted to be packaged, and which model of the bundle answers by default."""

    package: Literal["promoted", "this_run"] = Field(
        description="`promoted`: package this run if it is promoted, else keep the incumbent; `this_run`: package it "
        "though it was not promoted."
    )
    default_model: Literal["auto", ServedModel] = Field(
        description="Model that answers when a request names none; `auto` is the candidate of the promotion "
        "verdict. Another one needs `package: this_run`, for the verdict is not on it."
    )
