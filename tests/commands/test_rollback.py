"""`prismrec rollback` writes the file that services follow, and only bundles that can be served into it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from prismrec.cli import cli
from prismrec.commands import rollback
from prismrec.commands.rollback import Stored
from prismrec.serving.switching import pointed_to
from serving.bundles import parts

STORE = """
import shutil, sys
import bentoml
from prismrec.serving.service import BUNDLE_FOLDER
for tag in sys.argv[2:]:
    with bentoml.models.create(tag) as stored:
        shutil.copytree(sys.argv[1], stored.path_of(BUNDLE_FOLDER))
from prismrec.cli import cli
cli(["rollback", "--list"], standalone_mode=False)
cli(["rollback"], standalone_mode=False)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of bundles, the newest first; one is of another catalogue, and the oldest is damaged."""
    stored = []
    for tag in ("new", "other", "middle", "old"):
        folder = tmp_path / tag
        parts().save(folder)
        catalogue = "d2" if tag == "other" else "d1"
        stored.append(Stored(f"prismrec:{tag}", "2026-01-01 10:00", folder, "hymirec", 60, catalogue))
    (tmp_path / "old" / "items.jsonl").write_text("")
    monkeypatch.setattr(rollback, "_stored", lambda: stored)
    home = tmp_path / "bentoml"
    home.mkdir()
    monkeypatch.setenv("BENTOML_HOME", str(home))
    return home


def roll_back(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rollback", *arguments], prog_name="prismrec")


def test_without_a_tag_the_one_before_of_the_same_catalogue_is_served(home: Path) -> None:
    result = roll_back()
    assert result.exit_code == 0, result.output
    assert pointed_to(home) == "prismrec:middle"
    assert "from  prismrec:new (60 items, hymirec)\nto    prismrec:middle (60 items, hymirec)" in result.stdout
    assert "prismrec rollback --undo" in result.stdout


@pytest.mark.parametrize("tag", ["prismrec:middle", "middle"])
def test_any_bundle_may_be_named(home: Path, tag: str) -> None:
    assert roll_back("--to", "new").exit_code == 0
    assert roll_back("--to", tag).exit_code == 0
    assert pointed_to(home) == "prismrec:middle"


def test_a_damaged_bundle_is_refused_and_nothing_changes(home: Path) -> None:
    roll_back()
    result = roll_back()
    assert result.exit_code == 1
    assert "items.jsonl" in result.stderr
    assert pointed_to(home) == "prismrec:middle"


def test_it_can_be_undone(home: Path) -> None:
    roll_back()
    assert roll_back("--undo").exit_code == 0
    assert pointed_to(home) is None
    assert roll_back("--undo").exit_code == 0


def test_the_list_marks_what_was_chosen(home: Path) -> None:
    assert "No bundle is chosen" in roll_back("--list").stdout
    roll_back()
    lines = roll_back("--list").stdout.splitlines()
    assert [line.startswith("*") for line in lines[1:5]] == [False, False, True, False]
    assert lines[2].split()[-3:] == ["60", "d2", "hymirec"]
    assert pointed_to(home) == "prismrec:middle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "nobody"], "no bundle 'prismrec:nobody'"),
        (["--to", "new", "--undo"], "Only one thing"),
        (["--list", "--undo"], "Only one thing"),
    ],
)
def test_what_makes_no_sense_is_said(home: Path, arguments: list[str], message: str) -> None:
    result = roll_back(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert pointed_to(home) is None


def test_before_the_oldest_there_is_none(home: Path, tmp_path: Path) -> None:
    (home / "prismrec-serves").write_text("prismrec:old\n")
    assert "no bundle before prismrec:old" in roll_back().stderr
    (home / "prismrec-serves").write_text("prismrec:other\n")
    refused = roll_back()
    assert "no bundle before prismrec:other (60 items, hymirec) of the same catalogue" in refused.stderr
    assert "2 older ones have another" in refused.stderr
    assert pointed_to(home) == "prismrec:other"


def test_what_is_served_is_what_was_chosen_or_set_and_never_newer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRISMREC_MODEL", "prismrec:middle")
    assert "items.jsonl" in roll_back().stderr  # of the oldest, which is damaged
    monkeypatch.delenv("PRISMREC_MODEL")
    (home / "prismrec-serves").write_text("prismrec:latest\n")
    assert roll_back().exit_code == 0
    assert pointed_to(home) == "prismrec:middle"
    (home / "prismrec-serves").write_text("prismrec:gone\n")
    assert "not in the store any more" in roll_back().stderr
    assert pointed_to(home) == "prismrec:gone"


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prismrec", "rollback", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "kedro run --pipelines packaging" in done.stderr


def test_bentoml_s_own_store_is_read(bundle_folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    command = [sys.executable, "-c", STORE, str(bundle_folder), "prismrec:first", "prismrec:second"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[1].split()[0] == "prismrec:second"
    assert lines[2].split()[0] == "prismrec:first"
    assert lines[1].split()[-1] == "hymirec"
    assert pointed_to(tmp_path) == "prismrec:first"
