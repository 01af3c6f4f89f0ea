"""The commands as a user meets them: exit codes, messages, tables, and no traceback for what one can mend."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evaluation.report_fixture import report
from prismrec.cli import cli
from prismrec.commands import frame
from prismrec.commands.frame import user_error
from prismrec.errors import UserError
from prismrec.evaluation.report import as_table
from prismrec.kedro_datasets import JsonDataset
from toy_project import ToyProject

METRICS = report()


def invoke(arguments: Sequence[str]) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="prismrec")


def failure(arguments: Sequence[str]) -> str:
    """Return what a failing command prints on stderr, after checking how it ends."""
    result = invoke(arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stderr.count("Error:") == 1
    return result.stderr


def save_metrics(project: ToyProject, workspace: str = "demo") -> None:
    path = project.data / workspace / "08_reporting" / "evaluation_metrics.json"
    JsonDataset(filepath=str(path)).save(METRICS)


def test_run_runs_the_stages_that_are_asked_for(toy_project: ToyProject) -> None:
    assert invoke(["run", "--pipelines", "sequence_building", "--env", "ml1m"]).exit_code == 0
    assert toy_project.versions("03_primary/item_map.parquet", "ml1m")
    assert not (toy_project.data / "ml1m" / "04_feature").exists()


def test_the_configuration_may_lie_elsewhere(
    toy_project: ToyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh process, where nobody has told Kedro of the project yet."""
    monkeypatch.setattr("kedro.framework.project.PACKAGE_NAME", None)
    elsewhere = shutil.copytree("conf", tmp_path / "elsewhere")
    result = invoke(["run", "--pipelines", "sequence_building", "--conf-source", str(elsewhere)])
    assert result.exit_code == 0, result.output
    assert toy_project.versions("03_primary/item_map.parquet")


def test_parameters_of_the_command_line_reach_the_nodes(toy_project: ToyProject) -> None:
    result = invoke(["run", "--pipelines", "sequence_building", "--params", "sequence_building.count=11"])
    assert result.exit_code == 0
    version = toy_project.versions("08_reporting/sequence_building_metrics.json")[-1]
    assert json.loads((version / "sequence_building_metrics.json").read_text()) == {"items": 11}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--env", "ml1n"], ["no environment 'ml1n'", "Did you mean 'ml1m'", "base, local, ml1m"]),
        (["run", "--pipelines", "codebok"], ["no pipeline 'codebok'", "Did you mean 'codebook'"]),
        (["run", "--pipelines", "codebook"], ["item_map", "kedro run --pipelines sequence_building"]),
        (["run", "--params", "sequence_building.cuont=3"], ["'sequence_building.cuont'", "'count'"]),
        (["run", "--params", "sequence_building.count=-3"], ["cannot be -3", "greater than 0"]),
        (["run", "--params", "sequence_building.fail=user"], ["items.csv is missing", "Put it there."]),
        (
            ["run", "--from-nodes", "sequence_building.summarize"],
            ["--from-nodes", "summarise'"],
        ),
        (["run", "--to-outputs", "item_mapp"], ["--to-outputs", "Did you mean 'item_map'"]),
        (["report", "--env", "ml1n"], ["Did you mean 'ml1m'"]),
        (["report", "--env", "ml1m"], ["Nothing has been evaluated", "kedro run --env ml1m"]),
    ],
)
def test_what_a_user_can_mend_ends_in_one_message(
    toy_project: ToyProject, arguments: list[str], parts: list[str]
) -> None:
    message = failure(arguments)
    for part in parts:
        assert part in message


def test_a_failed_node_that_the_user_can_mend_is_not_logged_as_well(
    toy_project: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    failure(["run", "--params", "sequence_building.fail=user"])
    assert not [record for record in caplog.records if "items.csv" in record.getMessage()]


def test_a_bug_keeps_its_traceback_and_its_log(toy_project: ToyProject, caplog: pytest.LogCaptureFixture) -> None:
    result = invoke(["run", "--params", "sequence_building.fail=bug"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert [record for record in caplog.records if "a bug of ours" in record.getMessage()]


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_traceback_of_a_user_error_is_shown_on_request(
    toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    arguments = ["run", "--params", "sequence_building.fail=user"]
    if by_variable:
        monkeypatch.setenv("PRISMREC_TRACEBACK", "1")
    else:
        arguments.append("--traceback")
    assert isinstance(invoke(arguments).exception, UserError)


def test_a_wrong_option_is_a_usage_error(toy_project: ToyProject) -> None:
    result = invoke(["run", "--pipelnes", "codebook"])
    assert result.exit_code == 2
    assert "--pipelines" in result.stderr


def test_report_prints_the_metrics_file_verbatim(toy_project: ToyProject) -> None:
    save_metrics(toy_project, "ml1m")
    result = invoke(["report", "--env", "ml1m", "--json"])
    assert result.exit_code == 0
    version = toy_project.versions("08_reporting/evaluation_metrics.json", "ml1m")[-1]
    assert result.stdout == (version / "evaluation_metrics.json").read_text()


def test_report_prints_the_tables_and_the_verdict(toy_project: ToyProject) -> None:
    save_metrics(toy_project)
    result = invoke(["report"])
    assert result.exit_code == 0
    assert result.stdout == as_table(METRICS)
    assert "Candidate hymirec: promoted." in result.stdout


def test_the_report_needs_no_torch() -> None:
    """It prints at once: what draws and ranks is not imported."""
    code = (
        "import sys; import prismrec.evaluation.report; assert not {'torch', 'matplotlib', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outside_of_a_project_the_message_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no project here" in failure(["run"])


@pytest.mark.parametrize("arguments", [["run", "--pipelines", "codebook"], ["report"]])
def test_without_kedro_the_commands_say_what_to_install(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(frame, "kedro_run", lambda: None)
    assert "pip install 'prismrec[pipelines]'" in failure(arguments)


def test_help_works_without_kedro() -> None:
    """In a process of its own, where importing Kedro fails as it does in a serving image."""
    code = (
        "import sys; sys.modules['kedro'] = None\n"
        "from prismrec.cli import main; sys.argv = ['prismrec', {arguments}]; main()"
    )
    for arguments, expected in [("'--help'", "report"), ("'run', '--help'", "--traceback")]:
        command = [sys.executable, "-c", code.format(arguments=arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in done.stdout


def test_every_command_shows_examples_in_its_help() -> None:
    for arguments in (["--help"], *([name, "--help"] for name in cli.commands)):
        result = invoke(arguments)
        assert result.exit_code == 0
        assert "Examples:" in result.output


def test_a_user_error_is_found_below_others() -> None:
    mendable = UserError("This file is missing.")
    wrapped = RuntimeError("while loading")
    wrapped.__cause__ = mendable
    assert user_error(wrapped) is mendable
    assert user_error(RuntimeError("alone")) is None
