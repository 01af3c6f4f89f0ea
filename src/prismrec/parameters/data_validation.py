"""Parameters of `data_validation`: where the data comes from and what is refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.parameters import StageParameters

SourceName = Literal["synthetic", "movielens_1m", "csv"]
Severity = Literal["reject", "quarantine", "warn"]


class SyntheticWorld(BaseModel):
    """Size and habits of the world that the project generates itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int = Field(default=2000, ge=50, le=1_000_000, description="Number of users.")
    items: int = Field(default=1500, ge=240, le=2400, description="Number of items, those without events included.")
    cold_items: int = Field(
        default=40, ge=0, le=200, description="Items released at the end: only ever somebody's last event."
    )
    silent_items: int = Field(default=20, ge=0, le=200, description="Items without any event.")
    median_events: float = Field(
        default=32.0, gt=0, description="Median of the log-normal part of a history's length, events."
    )
    length_spread: float = Field(default=1.0, gt=0, le=3, description="Sigma of that log-normal; larger: heavier tail.")
    longest_history: int = Field(default=400, ge=12, le=1000, description="Longest history, events.")
    series_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Chance that the next event continues the series last met in its interest.",
    )
    stay_share: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="Chance that the next event of a session keeps the session's interest.",
    )
    explore_share: float = Field(default=0.05, ge=0, le=1, description="Chance of an event outside a user's interests.")
    repeat_share: float = Field(default=0.02, ge=0, le=0.5, description="Chance of meeting an earlier item again.")
    zipf_exponent: float = Field(
        default=0.9, ge=0, le=3, description="Popularity of rank r in an interest is r ** -exponent."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "SyntheticWorld":
        if self.cold_items * 12 > self.users:
            raise ValueError("cold_items needs at least 12 users an item, each of whom tries one of them last")
        warm_items = self.items - self.cold_items - self.silent_items
        if self.longest_history * 2 > warm_items:
            raise ValueError(f"longest_history may be at most half of the {warm_items} items met before the end")
        return self


class DataValidationParameters(StageParameters):
    """Source, contract choices, threshold and report of the stage."""

    source: SourceName = Field(description="Which registered source reads the raw data.")
    data_root: str = Field(description="Folder that holds the raw data sets; not read by the synthetic source.")
    folder: str = Field(default="", description="Folder of this data set below data_root.")
    plots: bool = Field(default=True, description="movielens_1m: append each film's plot to its text, where known.")
    synthetic: SyntheticWorld = Field(default_factory=SyntheticWorld, description="The synthetic source's world.")
    unknown_items: Severity = Field(
        default="quarantine",
        description="What happens to an event of an item that the items table does not list.",
    )
    earliest_timestamp: int = Field(default=0, ge=0, description="Earliest plausible time, seconds since 1970 UTC.")
    latest_timestamp: int = Field(
        default=2_000_000_000,
        gt=0,
        description="Latest plausible time, seconds since 1970 UTC; fixed, not the clock's.",
    )
    max_quarantined_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of a table's rows that may be quarantined, 0 to 1.",
    )
    examples_per_rule: int = Field(default=3, ge=0, le=50, description="Broken rows the report shows for each rule.")
    row_check_limit: int = Field(
        default=10_000_000,
        ge=0,
        description="Rows up to which Great Expectations sees every row; beyond, counts made by polars.",
    )

    @model_validator(mode="after")
    def _times_in_order(self) -> "DataValidationParameters":
        if self.earliest_timestamp >= self.latest_timestamp:
            raise ValueError("earliest_timestamp must be before latest_timestamp")
        return self
