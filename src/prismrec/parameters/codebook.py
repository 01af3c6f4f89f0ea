"""Parameters of stage 4, `codebook`."""

from pydantic import Field

from prismrec.parameters import StageParameters


class CodebookParameters(StageParameters):
    """Cosine residual codebook."""

    layers: int = Field(ge=1, le=8, description="Layers L; each costs an item one code and one fp16 coefficient.")
    codes: int = Field(ge=2, le=65_536, description="Codes a layer k (fewer when there are fewer items).")
    iterations: int = Field(ge=1, le=100, description="Balanced k-means steps a layer.")
