"""Parameters of stage 4, `codebook`."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters


class CodebookParameters(StageParameters):
    """Residual codebook."""

    layers: int = Field(ge=1, le=16, description="Layers L; each costs an item one code and one fp16 coefficient.")
    codes: int = Field(ge=2, le=65_536, description="Codes a layer k (fewer when there are fewer items).")
    iterations: int = Field(ge=1, le=100, description="K-means steps a layer.")
    assignment: Literal["cosine", "abs_cosine", "euclidean"] = Field(
        description="How a layer chooses a centroid: largest cosine (the paper), largest |cosine|, or nearest "
        "(plain residual quantisation, no coefficients)."
    )
    coefficients: Literal["item", "centroid"] = Field(
        description="`item` stores each item's own coefficients, `centroid` only its codes (mean coefficient of each "
        "centroid)."
    )
