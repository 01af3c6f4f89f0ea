"""`prismrec forget` records, says what happens next, and purges only what may go."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from data.tables import raw_interactions
from prismrec.cli import cli
from prismrec.data.forget import HOLD_EVENTS, HOLD_IDS
from prismrec.kedro_datasets import LazyParquetDataset
from toy_project import ENTRY, ToyProject

RAW = raw_interactions(("ada", "a", 1), ("bob", "a", 2)).lazy()


@pytest.fixture
def project(toy_project: ToyProject) -> ToyProject:
    """The toy project with the tables that the command looks at."""
    tables = "".join(
        ENTRY.format(name=name, type="LazyParquetDataset", path=f"01_raw/{name}.parquet", nullable="false")
        for name in (*HOLD_IDS, *HOLD_EVENTS)
    )
    record = ENTRY.format(name="forgotten_users", type="JsonDataset", path="01_raw/forgotten.json", nullable="true")
    (toy_project.conf / "base" / "catalog_data_validation.yml").write_text(tables + record)
    return toy_project


def forget(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["forget", *arguments], prog_name="prismrec")


def raw_tables(project: ToyProject, workspace: str = "demo") -> LazyParquetDataset:
    return LazyParquetDataset(filepath=str(project.data / workspace / "01_raw" / "raw_interactions.parquet"))


def recorded(project: ToyProject, workspace: str = "demo") -> list[str]:
    newest: Path = project.versions("01_raw/forgotten.json", workspace)[-1]
    users: list[str] = json.loads((newest / "forgotten.json").read_text())["users"]
    return users


def test_requests_are_kept_and_add_up(project: ToyProject) -> None:
    assert "next:   kedro run" in forget("--user", "ada").stdout
    assert forget("--user", "007", "--user", "ada").exit_code == 0
    assert recorded(project) == ["007", "ada"]


def test_an_environment_has_requests_of_its_own(project: ToyProject) -> None:
    result = forget("--user", "ada", "--env", "ml1m")
    assert "next:   kedro run --env ml1m" in result.stdout
    assert "prismrec forget --purge --env ml1m" in result.stdout
    assert recorded(project, "ml1m") == ["ada"]
    assert not (project.data / "demo").exists()


def test_an_id_that_is_nowhere_is_pointed_out(project: ToyProject) -> None:
    raw_tables(project).save(RAW)
    said = forget("--user", "ada", "--user", "Bob").stdout
    assert "ada: 1 rows in the newest raw table" in said
    assert "bob: " not in said
    assert "Bob: not in the newest raw table" in said


def test_several_ids_are_looked_up_at_once(project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    raw_tables(project).save(RAW)
    collected = []
    collect = pl.LazyFrame.collect
    monkeypatch.setattr(
        pl.LazyFrame, "collect", lambda frame, **options: collected.append(1) or collect(frame, **options)
    )
    assert "bob: 1 rows" in forget("--user", "ada", "--user", "bob", "--user", "eve").stdout
    assert len(collected) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Who is to be forgotten?"),
        (["--user", "ada", "--purge"], "Who is to be forgotten?"),
        (["--user", " "], "An empty id"),
        (["--purge"], "Nobody is to be forgotten in workspace 'demo'"),
        (["--user", "ada", "--env", "ml1n"], "Did you mean 'ml1m'"),
    ],
)
def test_what_makes_no_sense_is_said(project: ToyProject, arguments: list[str], message: str) -> None:
    result = forget(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_purging_waits_for_the_next_run(project: ToyProject) -> None:
    raw_tables(project).save(RAW)
    forget("--user", "ada")
    refused = forget("--purge")
    assert refused.exit_code == 1
    assert "still holds a user" in refused.stderr
    assert "kedro run --pipelines data_validation,sequence_building" in refused.stderr
    raw_tables(project).save(RAW.filter(pl.col("user_id") != "ada"))
    done = forget("--purge")
    assert done.exit_code == 0, done.output
    assert "1 older versions deleted" in done.stdout
    assert len(project.versions("01_raw/raw_interactions.parquet")) == 1


def test_the_help_shows_examples() -> None:
    assert "Examples:" in forget("--help").stdout
