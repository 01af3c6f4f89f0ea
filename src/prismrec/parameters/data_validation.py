"""Parameters of `data_validation`: where the data comes from and what is refused."""

from typing import Literal

from pydantic import Field, model_validator

from prismrec.parameters import StageParameters
from prismrec.parameters.sources import FilesParameters, SourceName, SyntheticWorld

Severity = Literal["reject", "quarantine", "warn"]


class DataValidationParameters(StageParameters):
    """Source, contract choices, threshold and report of the stage."""

    source: SourceName = Field(description="Which registered source reads the raw data.")
    data_root: str = Field(description="Folder that holds the raw data sets; not read by the synthetic source.")
    folder: str = Field(default="", description="Folder of this data set below data_root.")
    plots: bool = Field(default=True, description="movielens 1M: append each film's plot to its text, where known.")
    files: FilesParameters = Field(default_factory=FilesParameters, description="What the source `files` reads.")
    synthetic: SyntheticWorld = Field(default_factory=SyntheticWorld, description="The synthetic source's world.")
    unknown_items: Severity = Field(
        default="quarantine",
        description="What happens to an event of an item that the items table does not list.",
    )
    repeated_rows: Severity = Field(
        default="quarantine",
        description="What happens to a row whose user, item, time, kind and weight an earlier row has.",
    )
    earliest_timestamp: int = Field(default=0, ge=0, description="Earliest plausible time, seconds since 1970 UTC.")
    latest_timestamp: int = Field(
        default=2_000_000_000,
        gt=0,
        description="Latest plausible time, seconds since 1970 UTC; fixed, not the clock's.",
    )
    max_id_length: int = Field(default=256, ge=1, description="Longest id that is accepted, characters.")
    max_title_length: int = Field(default=10_000, ge=1, description="Longest title that is accepted, characters.")
    max_quarantined_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of a table's rows that may be quarantined, 0 to 1.",
    )
    burst_events: int = Field(
        default=1000, ge=1, description="Events of a user within a clock hour, more of which raise a warning."
    )
    max_share_of_one: float = Field(
        default=0.1, gt=0, le=1, description="Share of all events, more of which in one user or item raise a warning."
    )
    max_gap_days: int = Field(default=60, ge=1, description="Days without an event, more of which raise a warning.")
    max_popularity_gini: float = Field(
        default=0.95, gt=0, le=1, description="Gini coefficient of the items' events beyond which a warning is raised."
    )
    drift_change: float = Field(
        default=0.25,
        gt=0,
        description="Relative change of a figure against the last accepted version that raises a warning.",
    )
    drift_index: float = Field(
        default=0.2,
        gt=0,
        description="Population stability index of a distribution, against that version, that raises a warning.",
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
