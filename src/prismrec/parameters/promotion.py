"""Parameters of the promotion verdict, a block of `evaluation`: what a run has to show before it is packaged."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# The models that a bundle may hold and the service may answer with.
ServedModel = Literal["popularity", "lightweight_encoder", "llm_recommender", "hymirec", "gemirec", "prismrec"]


class PromotionParameters(BaseModel):
    """Which model of the run is the candidate, by what it has to beat the incumbent, and what it may not break."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal["auto", ServedModel] = Field(
        description="The candidate: `auto` is the served model that is best by selection_metric."
    )
    selection_metric: str = Field(
        pattern=r"^validation_",
        description="Figure that `auto` maximises; a validation figure, so that test stays untouched.",
    )
    metric: str = Field(
        pattern=r"^(hr|recall|ndcg|mrr)@(10|20|50|100)$",
        description="Test figure on which the candidate has to beat the incumbent, outside the paired interval.",
    )
    min_coverage: float = Field(
        ge=0,
        le=1,
        description="Guard: coverage@10 at least popularity's, and this share of the items outside popularity's lists.",
    )
    min_coverage_share: float = Field(
        ge=0, le=1, description="Guard: coverage@10 at least this share of the incumbent's."
    )
    max_interest_cosine: float = Field(
        ge=-1,
        le=1,
        description="Guard against collapse: mean cosine of a user's interests at most this; not for `gemirec` and "
        "`prismrec`.",
    )
    min_effective_rank: float = Field(
        ge=1,
        description="Guard against collapse: mean effective rank of a user's interests at least this; not for "
        "`gemirec` and `prismrec`.",
    )
    max_interest_share: float = Field(
        ge=0,
        le=1,
        description="Guard against collapse: mean share of a user's first ten items that one interest owns at most "
        "this; for `gemirec` and `prismrec`.",
    )
    min_cold_recall_share: float = Field(
        ge=0,
        le=1,
        description="Guard: recall@10 of cold items at least this share of the incumbent's, and at least chance, up to "
        "its interval; not for too few cases.",
    )
    min_utilisation: float = Field(
        ge=0, le=1, description="Guard: every utilisation of codebook and dictionary at least this."
    )
