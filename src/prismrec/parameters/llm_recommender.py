"""Parameters of stage 5, `llm_recommender`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.parameters import StageParameters
from prismrec.parameters.training import TrainingParameters


class TransitionParameters(BaseModel):
    """Linear transitions: the regression of the next item on the decayed history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        description="Decay per event of age, one for each scale (0: the latest event alone); none: no transitions."
    )
    ridge: float = Field(gt=0, description="Weight of the squared regression weights, in events.")
    kept: int = Field(ge=1, description="Largest weights kept of a row; they bound the model's size.")
    max_items: int = Field(
        ge=1,
        description="Items that take part, the most frequent ones; memory grows with (scales x items)^2, "
        "time with its cube.",
    )


class LLMRecommenderParameters(StageParameters):
    """Backbone, window, interests and losses of the LLM recommender."""

    backbone: str = Field(
        min_length=1,
        description="`scratch` (a small Qwen3, random weights), `packaged` (MiniLM with a causal mask), a Hugging "
        "Face id or a folder of a causal decoder.",
    )
    tuning: Literal["full", "lora"] = Field(description="Train all backbone weights, or low-rank adapters.")
    lora_rank: int = Field(ge=1, le=256, description="Rank of the adapters (tuning: lora).")
    hidden: int = Field(ge=8, description="Hidden size (scratch only).")
    layers: int = Field(ge=1, description="Decoder layers (scratch only).")
    heads: int = Field(ge=1, description="Attention heads (scratch only).")
    kv_heads: int | None = Field(
        ge=1, description="Key and value heads, a divisor of heads; null: heads (scratch only)."
    )
    head_dim: int | None = Field(ge=2, description="Width of a head; null: hidden / heads (scratch only).")
    intermediate: int | None = Field(ge=8, description="Feed-forward width; null: 3 x hidden (scratch only).")
    dropout: float = Field(ge=0, lt=1, description="Dropout at the input, in the head and (scratch) in attention.")
    num_interests: int = Field(ge=1, le=8, description="Interest queries K, hence refined interests.")
    recent_length: int = Field(ge=2, le=2048, description="Recent items the decoder reads, at most.")
    long_length: int = Field(
        ge=0,
        le=100_000,
        description="Events before them that the lightweight encoder reads, at most (0: no long branch).",
    )
    recent_from_codebook: bool = Field(
        description="Read recent items decoded from the codebook too, not only long ones."
    )
    long_from: Literal["codebook", "raw"] = Field(
        default="codebook", description="Read the long history decoded from the codebook, or from the item vectors."
    )
    train_encoder: bool = Field(description="Go on training the recommender's copy of the lightweight encoder.")
    item_offset_rate: float = Field(
        ge=0,
        le=1,
        description="Share of the learning rate at which the recommender learns an offset of every item's vector, for "
        "its own reading and ranking; 0: none, it takes the item tower's vectors as they are (the paper). Above 0 "
        "every step goes over the whole catalogue, so only with negatives: full.",
    )
    target_window: int = Field(ge=1, le=64, description="Targets W of the matching loss (DMIL).")
    matching_weight: float = Field(default=1.0, ge=0, description="Weight of the matching loss (1: as the paper).")
    next_item_weight: float = Field(
        ge=0,
        description="Weight of the next-item loss on recent positions. 0, and merge_weight 0: as the paper, without a "
        '"now" interest, and without stage 6, which rests on it.',
    )
    merge_weight: float = Field(
        ge=0, description="Weight of the loss that teaches the gate to merge the interests (0: as the paper)."
    )
    negatives: Literal["full", "sampled", "in_batch"] = Field(
        description="What the losses compare a target with: the whole catalogue, items drawn for each step, or the "
        "step's other targets; the latter two with logQ correction, and without item offsets."
    )
    num_negatives: int = Field(ge=1, description="Items drawn for a step, with replacement (negatives: sampled).")
    negative_exponent: float = Field(
        ge=0, le=1, description="They are drawn by popularity to this power; 0: uniformly (negatives: sampled)."
    )
    duplicate_cosine: float = Field(gt=0, le=1, description="Items at least this similar to a target are no negatives.")
    gradient_checkpointing: bool = Field(
        description="Compute the backbone's activations anew in the backward pass: less memory, a third more work."
    )
    compile: bool = Field(description="torch.compile of the backbone; needs a C++ compiler.")
    transitions: TransitionParameters = Field(description="Linear transitions, a member of the merge.")
    recent_days: int = Field(
        ge=0, description="Window of recency, a member of the merge where times are known, in days; 0: none."
    )
    training: TrainingParameters = Field(description="The training loop.")

    @property
    def teaches_now(self) -> bool:
        """Whether any loss teaches the last recent position's vector, the "now" interest."""
        return self.next_item_weight > 0 or self.merge_weight > 0

    @model_validator(mode="after")
    def _coherent(self) -> "LLMRecommenderParameters":
        if self.backbone == "scratch" and self.tuning == "lora":
            raise ValueError("tuning: lora needs a pretrained backbone; scratch has random weights (use tuning: full)")
        if self.head_dim is None and self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of twice heads ({self.heads})")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.item_offset_rate and self.negatives != "full":
            raise ValueError(
                f"negatives: {self.negatives} bounds what a step costs, and item offsets take each step through the "
                "whole catalogue (use item_offset_rate: 0, or negatives: full)"
            )
        return self
