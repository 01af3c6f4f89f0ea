"""Parameters of the training loop, a block of every stage that trains by gradient steps."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingParameters(BaseModel):
    """How long, how fast and in which precision to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1, le=1000, description="Passes over the users, at most.")
    patience: int = Field(ge=1, description="Stop after this many epochs without a better validation NDCG@10.")
    batch_size: int = Field(ge=1, description="Users a step.")
    learning_rate: float = Field(gt=0, lt=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(ge=0, description="Weight decay of matrices; vectors and scalars have none.")
    warmup_share: float = Field(ge=0, lt=1, description="Share of all steps over which the rate rises.")
    clip_norm: float = Field(gt=0, description="Gradients are scaled down to this norm.")
    bf16: bool = Field(description="bfloat16 autocast, on devices that multiply in it; the losses stay in fp32.")
    positions_per_step: int = Field(ge=1, description="Next-item predictions a step at most (bounds cost, memory).")
    validation_users: int = Field(ge=1, description="Users whose validation event is ranked after each epoch.")
    accumulation: int = Field(ge=1, description="Parts a step's users are computed in, one after the other (memory).")
    device: Literal["auto", "cpu"] = Field(description="auto: a GPU where there is one, else the CPU | cpu.")
    checkpoint_seconds: float = Field(
        ge=0, description="Seconds between states kept to resume from, besides one at each epoch's end; 0: none at all."
    )
