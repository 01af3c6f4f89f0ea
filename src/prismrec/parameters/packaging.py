"""Parameters of stage 8, `packaging`."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters


class PackagingParameters(StageParameters):
    """Which model of the bundle answers by default, and how it is chosen."""

    default_model: Literal["auto", "popularity", "lightweight_encoder", "hymirec", "gemirec"] = Field(
        description="Model that answers when a request names none; `auto` is the best by selection_metric."
    )
    selection_metric: str = Field(
        min_length=1,
        description="Key of a model's evaluation metrics that `auto` maximises (validation, not test).",
    )
