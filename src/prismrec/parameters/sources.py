"""Parameters of the sources: which one reads the raw data, what it reads, and the synthetic world's size."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SourceName = Literal["synthetic", "files", "movielens", "amazon", "steam", "microlens"]
FileFormat = Literal["auto", "delimited", "json_lines", "parquet"]
# Those in which the bytes of a line break, and of ASCII, mean only that.
Encoding = Literal["utf-8", "latin-1", "cp1250", "cp1251", "cp1252", "gb18030", "shift_jis"]
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso8601"]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InteractionColumns(_Group):
    """What the columns of the interactions are called in the files."""

    user_id: str = Field(default="user_id", description="Column of the user's id.")
    item_id: str = Field(default="item_id", description="Column of the item's id.")
    timestamp: str | None = Field(
        default="timestamp", description="Column of the time; null: the rows stand in the order of time, and have none."
    )
    event: str | None = Field(default=None, description="Column of the event's kind (view, purchase); null: none.")
    weight: str | None = Field(default=None, description="Column of a number (stars, seconds watched); null: none.")


class ItemColumns(_Group):
    """What the columns of the items are called in the files."""

    item_id: str = Field(default="item_id", description="Column of the item's id.")
    title: str = Field(default="title", description="Column of the title.")
    text: str | None = Field(default=None, description="Column of a longer text; null: none.")
    categories: str | None = Field(default=None, description="Column of the categories; null: none.")


class TableFiles(_Group):
    """How the files of a table are written."""

    format: FileFormat = Field(default="auto", description="How the files are written; auto: by what they begin with.")
    delimiter: str = Field(
        default="auto",
        min_length=1,
        max_length=4,
        description='What separates the cells of delimited text, "\\t" for a tab; auto: what the header fits.',
    )
    encoding: Encoding = Field(default="utf-8", description="Encoding of text files; a byte order mark is fine.")
    header: tuple[str, ...] | None = Field(
        default=None, description="Names of the columns of delimited text whose first row names none; null: it does."
    )


class InteractionFiles(TableFiles):
    """The files of interactions."""

    path: str = Field(
        default="interactions.csv",
        min_length=1,
        description="File name, or pattern such as `events-*.csv.gz`, within the folder; plain, .gz or .zst.",
    )
    columns: InteractionColumns = Field(default_factory=InteractionColumns, description="Their columns' names.")
    time_unit: TimeUnit = Field(
        default="auto", description="Unit of the times, since 1970 UTC, or iso8601; auto: told from the first rows."
    )


class ItemFiles(TableFiles):
    """The files of items."""

    path: str | None = Field(
        default="items.csv", description="File name or pattern; null: there are no items' files, ids are the titles."
    )
    columns: ItemColumns = Field(default_factory=ItemColumns, description="Their columns' names.")
    category_separator: str = Field(
        default="|", min_length=1, description="What separates the categories in a cell that is no list."
    )


class FilesParameters(_Group):
    """Source `files`: anybody's own logs."""

    interactions: InteractionFiles = Field(default_factory=InteractionFiles, description="The events.")
    items: ItemFiles = Field(default_factory=ItemFiles, description="The items.")


class SyntheticWorld(_Group):
    """Size and habits of the world that the project generates itself."""

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
