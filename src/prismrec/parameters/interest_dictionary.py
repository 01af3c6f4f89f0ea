"""Parameters of stage 6, `interest_dictionary`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.parameters import StageParameters
from prismrec.parameters.training import TrainingParameters

MOST_CELLS = 2**20  # a vector of every cell is held, in use or not


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DictionaryParameters(_Block):
    """The RQ-VAE over item vectors (IDMM)."""

    levels: int = Field(ge=1, le=4, description="Levels C of the residual quantiser.")
    items_per_cell: int = Field(ge=1, description="Items a cell holds on average; sets the codes a level.")
    codes_per_level: int | None = Field(
        ge=2, le=4096, description="Codes a level; null: from the catalogue size and items_per_cell."
    )
    code_dim: int = Field(ge=2, description="Width d of a code.")
    hidden: int = Field(ge=4, description="Width of encoder and decoder.")
    commitment: float = Field(ge=0, description="Weight β of the commitment loss.")
    warm_up_steps: int = Field(ge=0, description="Gradient steps of encoder and decoder before there are codes.")
    steps: int = Field(ge=1, description="Gradient steps with codes.")
    batch_size: int = Field(ge=2, description="Item vectors a step.")
    learning_rate: float = Field(gt=0, lt=1, description="Learning rate of Adam.")

    @model_validator(mode="after")
    def _held(self) -> "DictionaryParameters":
        if self.codes_per_level is not None and self.codes_per_level**self.levels > MOST_CELLS:
            raise ValueError(
                f"codes_per_level ({self.codes_per_level}) to the power of levels ({self.levels}) is "
                f"{self.codes_per_level**self.levels:,} cells; at most {MOST_CELLS:,} are held"
            )
        return self


class PosteriorParameters(_Block):
    """The causal decoder over interests (MIPDM)."""

    hidden: int = Field(ge=8, description="Hidden size.")
    layers: int = Field(ge=1, description="Decoder layers.")
    heads: int = Field(ge=1, description="Attention heads.")
    dropout: float = Field(ge=0, lt=1, description="Dropout.")
    prior: bool = Field(description="Start from the recommender's next-item distribution, summed by cell.")
    horizon: int = Field(ge=1, le=100, description="Next items H whose cells are predicted; 1: the next item's.")
    training: TrainingParameters = Field(description="The training loop.")

    @model_validator(mode="after")
    def _coherent(self) -> "PosteriorParameters":
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of twice heads ({self.heads})")
        return self


class RetrievalParameters(_Block):
    """The interest-conditioned retrieval head (MIRM)."""

    variant: Literal["in_cell", "mixture"] = Field(
        description="P(item | user, interest) over the interest's own items, or over all items, mixed over interests."
    )
    posterior_share: float = Field(
        ge=0, le=1, description="Mixture: share of positions trained under an interest drawn from the posterior."
    )
    merge: Literal["likelihood", "max_score", "quotas"] = Field(
        description="How GemiRec makes one list of its interests': by likelihood, by an item's best score in any of "
        "those shown, or from each of them in turn. The model of both papers always goes by likelihood."
    )
    hidden: int = Field(ge=4, description="Width of the head.")
    dropout: float = Field(ge=0, lt=1, description="Dropout.")
    training: TrainingParameters = Field(description="The training loop.")

    @model_validator(mode="after")
    def _of_one_cell(self) -> "RetrievalParameters":
        if self.variant == "mixture" and self.merge != "likelihood":
            raise ValueError(f"merge {self.merge} takes lists of cells (in_cell); the mixture is a likelihood")
        return self


class InterestDictionaryParameters(StageParameters):
    """Dictionary, posterior and retrieval."""

    num_interests: int = Field(ge=1, le=64, description="Interests shown for a user: the most likely cells.")
    max_cells: int = Field(ge=4, description="Largest dictionary scored exactly; a larger one by a beam.")
    beam: int = Field(ge=1, description="Prefixes of codes kept a level by the beam.")
    refresh: bool = Field(
        description="Go on with the previous dictionary, posterior and retrieval head instead of beginning anew."
    )
    refresh_share: float = Field(
        gt=0,
        le=1,
        description="What posterior and retrieval head train on in a refresh, as a share of a full training's passes "
        "over the users; 1: both are trained anew.",
    )
    dictionary: DictionaryParameters = Field(description="The RQ-VAE (IDMM).")
    posterior: PosteriorParameters = Field(description="The posterior (MIPDM).")
    retrieval: RetrievalParameters = Field(description="The retrieval head (MIRM).")
