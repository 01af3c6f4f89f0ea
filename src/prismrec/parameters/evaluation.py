"""Parameters of stage 7, `evaluation`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.parameters import StageParameters
from prismrec.parameters.promotion import PromotionParameters
from prismrec.parameters.training import TrainingParameters


class BaselineParameters(BaseModel):
    """The trained baselines, SASRec and ComiRec-SA: one budget, one batch, the same negatives for both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(ge=4, le=1024, description="Item dimension D of the baselines.")
    layers: int = Field(ge=1, le=12, description="Transformer blocks of SASRec.")
    heads: int = Field(ge=1, le=16, description="Attention heads of SASRec; they divide dim.")
    interests: int = Field(ge=1, le=16, description="Interests K of ComiRec-SA.")
    length: int = Field(ge=2, le=4096, description="Latest events a baseline reads.")
    dropout: float = Field(ge=0, lt=1, description="Dropout of the baselines.")
    negatives: int = Field(ge=0, description="Negatives of a sampled softmax with logQ; 0: the whole catalogue.")
    negative_exponent: float = Field(ge=0, le=1, description="Negatives are drawn by popularity to this power.")
    comirec_length: int | None = Field(
        default=None, ge=2, le=4096, description="Latest events ComiRec-SA reads; null: length."
    )
    comirec_weight_decay: float | None = Field(
        default=None, ge=0, description="Weight decay of ComiRec-SA's matrices; null: that of training."
    )
    training: TrainingParameters = Field(description="The training loop.")

    @model_validator(mode="after")
    def _coherent(self) -> "BaselineParameters":
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        return self


class EvaluationParameters(StageParameters):
    """What is measured, against which baselines, and what promotes a run."""

    title: str = Field(min_length=1, max_length=80, description="Name of the data set, in tables and pages.")
    data_licence: str = Field(min_length=1, description="Licence of the data set, for the model card.")
    history: Literal["filtered", "kept"] = Field(
        description="`filtered`: what a user has seen is never recommended; `kept`: it may be. The other rule's "
        "accuracy is reported too, unless the protocol is leave_one_out."
    )
    recent_days: float = Field(gt=0, description="Window of the recent-popularity baseline, days.")
    bootstrap_draws: int = Field(ge=100, le=100_000, description="Draws of users behind every 95 % interval.")
    sampled_users: int = Field(
        ge=10,
        description="Test cases, drawn at random, that interests are measured on: how far they lie apart (a guard of "
        "the promotion), and the accuracy-diversity curve over their number.",
    )
    baselines: BaselineParameters = Field(description="The trained baselines.")
    promotion: PromotionParameters = Field(description="What promotes a run.")
