"""The synthetic world: sizes, shapes, cold items, determinism, and something to learn."""

import io

import polars as pl
import pytest

from data.tables import as_lists, sequence_parameters, validation_parameters
from prismrec.data import schema
from prismrec.data.sequences import Sequences, build_sequences
from prismrec.data.synthetic import COLD_EVENTS, World, make_world
from prismrec.data.validation import ValidatedTables, validate_tables
from prismrec.data.vocabulary import INTERESTS
from prismrec.parameters.sources import SyntheticWorld

SEED = 20260101


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SEED, SyntheticWorld())


@pytest.fixture(scope="module")
def tables(world: World) -> ValidatedTables:
    return validate_tables(world.interactions.lazy(), world.items, validation_parameters())


@pytest.fixture(scope="module")
def events(tables: ValidatedTables) -> pl.DataFrame:
    return tables.interactions.collect()


@pytest.fixture(scope="module")
def sequences(tables: ValidatedTables) -> Sequences:
    return build_sequences(tables.interactions, tables.items, None, None, sequence_parameters())


def as_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer)
    return buffer.getvalue()


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    small = SyntheticWorld(users=480, items=300, cold_items=10, longest_history=60)
    first, second, other = make_world(3, small), make_world(3, small), make_world(4, small)
    for one, two, three in zip(first, second, other, strict=True):
        assert as_bytes(one) == as_bytes(two)
        assert as_bytes(one) != as_bytes(three)


def test_tables_have_their_schemas_and_ids_are_in_file_order(world: World) -> None:
    assert world.interactions.schema == schema.RAW_INTERACTIONS
    assert world.items.schema == schema.RAW_ITEMS
    assert world.truth.schema == schema.PLANTED_TRUTH
    assert world.interactions[schema.SOURCE_ROW].to_list() == list(range(len(world.interactions)))


def test_sizes_lengths_and_time_span(tables: ValidatedTables, events: pl.DataFrame) -> None:
    lengths = events.group_by(schema.USER_ID).len()["len"]
    assert len(lengths) == 2000
    assert len(tables.items) == 1500
    assert lengths.min() >= 5
    assert 300 < lengths.max() <= 400
    assert 45 <= lengths.mean() <= 60
    assert lengths.mean() > 1.3 * lengths.median()  # a heavy tail
    span = events[schema.TIMESTAMP].max() - events[schema.TIMESTAMP].min()
    assert 330 <= span / 86_400 <= 370


def test_times_of_a_user_strictly_ascend_at_irregular_gaps(events: pl.DataFrame) -> None:
    gaps = (
        events.sort(schema.USER_ID, schema.TIMESTAMP)
        .select(pl.col(schema.TIMESTAMP).diff().over(schema.USER_ID).alias("gap"))["gap"]
        .drop_nulls()
    )
    assert gaps.min() > 0
    assert gaps.quantile(0.5) < 3_600  # within a session
    assert gaps.quantile(0.9) > 86_400 / 4  # between sessions


def test_popularity_is_skewed(events: pl.DataFrame) -> None:
    counts = events.group_by(schema.ITEM_ID).len()["len"].sort(descending=True)
    assert counts.head(len(counts) // 10).sum() > 0.25 * counts.sum()


def test_titles_are_distinct_and_described(tables: ValidatedTables) -> None:
    assert tables.items[schema.TITLE].is_unique().all()
    assert tables.items[schema.TITLE].str.contains(": ").all()
    assert (tables.items[schema.TEXT] == "").sum() == 1  # planted for the warning


def test_planted_weights_sum_to_one(world: World) -> None:
    sums = world.truth.group_by("kind", "id").agg(pl.col("weight").sum(), pl.len())
    assert ((sums["weight"] - 1).abs() < 1e-9).all()
    users = sums.filter(pl.col("kind") == "user")
    assert users["len"].is_between(2, 5).all()
    assert set(users["len"]) == {2, 3, 4, 5}
    assert set(world.truth["interest"]) == {interest.name for interest in INTERESTS}


def test_events_follow_the_planted_interests(world: World, events: pl.DataFrame) -> None:
    held = {
        kind: world.truth.filter(pl.col("kind") == kind).select(pl.col("id").alias(f"{kind}_id"), "interest")
        for kind in ("user", "item")
    }
    fitting = events.join(held["item"], on=schema.ITEM_ID).join(
        held["user"], on=[schema.USER_ID, "interest"], how="semi"
    )
    share = fitting.select(list(schema.VALIDATED_INTERACTIONS)).n_unique() / len(events)
    assert 0.85 < share < 1  # by chance: about 4 of 24


def test_interests_drift(world: World, events: pl.DataFrame) -> None:
    """A user's first and second half differ more than two random halves do."""
    item = world.truth.filter((pl.col("kind") == "item") & (pl.col("weight") > 0.5)).select(
        pl.col("id").alias(schema.ITEM_ID), "interest"
    )
    numbered = (
        events.sort(schema.USER_ID, schema.TIMESTAMP)
        .with_columns(
            pl.int_range(pl.len()).over(schema.USER_ID).alias("step"),
            pl.len().over(schema.USER_ID).alias("length"),
        )
        .filter(pl.col("length") >= 60)
        .join(item, on=schema.ITEM_ID)
    )

    def distance(half: pl.Expr) -> float:
        counts = (
            numbered.with_columns(half.alias("half"))
            .group_by(schema.USER_ID, "half", "interest")
            .len()
            .with_columns(pl.col("len") / pl.col("len").sum().over(schema.USER_ID, "half"))
            .pivot("half", index=[schema.USER_ID, "interest"], values="len")
            .fill_null(0)
        )
        return float(counts.select((pl.col("true") - pl.col("false")).abs().sum()).item())

    early = distance(pl.col("step") < pl.col("length") / 2)
    by_coin = distance((pl.col("step") // 10) % 2 == 0)
    assert early > 1.5 * by_coin


def test_cold_items_are_last_events_only_and_often_enough(sequences: Sequences) -> None:
    assert sequences.metrics["items_never_in_training"] == 40
    last = as_lists(sequences.histories).select(pl.col("item_indices").list.last()).to_series()
    before = (
        as_lists(sequences.histories)
        .select(pl.col("item_indices").list.head(pl.col("item_indices").list.len() - 1).explode())
        .to_series()
    )
    active = sequences.item_map.filter(schema.ACTIVE)
    cold = active.filter(~pl.col(schema.ITEM_INDEX).is_in(before.unique().implode()))
    assert len(cold) == 40
    counts = last.value_counts().filter(pl.col("item_indices").is_in(cold[schema.ITEM_INDEX].implode()))
    assert counts["count"].is_between(COLD_EVENTS[0], COLD_EVENTS[1] - 1).all()


def test_silent_items_exist(sequences: Sequences) -> None:
    assert sequences.metrics["items_known"] - sequences.metrics["items"] == 20


def test_broken_rows_are_few_and_of_every_kind(world: World, tables: ValidatedTables) -> None:
    quarantine = tables.quarantine.collect()
    assert len(quarantine) < 0.01 * len(world.interactions)
    assert set(quarantine["rules"].explode()) == {
        "missing_user_id",
        "missing_item_id",
        "missing_time",
        "too_early",
        "too_late",
        "unknown_item",
        "duplicate_row",
        "item_without_title",
        "duplicate_item",
    }


def test_transitions_beat_popularity(sequences: Sequences) -> None:
    """The item most often met right after the last but one event is the last event far more often."""
    history, length = pl.col("item_indices"), pl.col("item_indices").list.len()
    cases = as_lists(sequences.histories).select(
        history.list.get(-2).alias("given"), history.list.get(-1).alias("target")
    )
    steps = as_lists(sequences.histories).select(
        history.list.head(length - 2).explode().alias("given"),
        history.list.slice(1, length - 2).explode().alias("target"),
    )
    top = 10
    follows = steps.group_by("given", "target").len().sort("len", "target", descending=True).group_by("given").head(top)
    transitions = len(cases.join(follows, on=["given", "target"], how="semi")) / len(cases)
    popular = steps.group_by("target").len().top_k(top, by="len")
    popularity = len(cases.join(popular, on="target", how="semi")) / len(cases)
    assert transitions > 3 * popularity


def test_worlds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="longest_history"):
        SyntheticWorld(items=300, longest_history=200)
    with pytest.raises(ValueError, match="12 users"):
        SyntheticWorld(users=100, cold_items=40)
