"""Parameters of stage 3, `lightweight_encoder`."""

from typing import Literal

from pydantic import Field

from prismrec.parameters import StageParameters
from prismrec.parameters.training import TrainingParameters


class LightweightEncoderParameters(StageParameters):
    """Text encoder, item tower and lightweight encoder."""

    text_encoder: str = Field(
        min_length=1, description="`packaged` (all-MiniLM-L6-v2), a Hugging Face id, or a folder."
    )
    max_tokens: int = Field(ge=4, le=512, description="Longer item texts are cut here, tokens.")
    text_training: Literal["frozen", "lora", "full"] = Field(
        description="What of the text encoder learns from the recommendation loss: nothing, adapters, or all of it."
    )
    text_lora_rank: int = Field(ge=1, le=256, description="Rank of the adapters (text_training: lora).")
    text_items_per_step: int = Field(
        ge=1, description="Item texts encoded with gradient in a step, at most (bounds memory; unless frozen)."
    )
    text_learning_rate: float = Field(gt=0, lt=1, description="Peak learning rate of the text encoder.")
    dim: int = Field(ge=4, le=1024, description="Item dimension D.")
    spectral_start: bool = Field(
        default=True, description="Start item vectors from the spectrum of the transition matrix, not from noise."
    )
    num_interests: int = Field(ge=1, le=8, description="Coarse interests K_c.")
    hidden: int = Field(ge=4, description="Width of the encoder's feed-forward layers.")
    pooling: Literal["decay", "comirec"] = Field(
        description="How events are pooled into interests: by learned decay, or by ComiRec's self-attention."
    )
    kernel: int = Field(ge=1, le=16, description="Events the local convolution looks back on, itself included.")
    dropout: float = Field(ge=0, lt=1, description="Dropout in the encoder.")
    residual_dropout: float = Field(
        ge=0, lt=1, description="Share of items that lose their behavioural residual in a step (whole items)."
    )
    untrained_lift: float = Field(
        ge=0, le=2, description="How far never-trained items lean towards the mean interest; more brings more of them."
    )
    train_length: int = Field(ge=2, description="Events of one training crop, at most.")
    long_length: int = Field(ge=1, le=100_000, description="Events the encoder reads when it is used, at most.")
    target_window: int = Field(ge=1, le=64, description="Targets W of the matching loss.")
    matching_weight: float = Field(ge=0, description="Weight of the matching loss beside the next-item loss.")
    duplicate_cosine: float = Field(
        gt=0, le=1, description="Items at least this similar to a target are no negatives (matching loss)."
    )
    training: TrainingParameters = Field(description="The training loop.")
