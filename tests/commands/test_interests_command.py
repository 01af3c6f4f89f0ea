"""`prismrec interests` prints the latest table, and says what to run where there is none."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from prismrec.cli import cli
from prismrec.commands import frame
from prismrec.kedro_datasets import JsonDataset

ROWS = [
    {
        "id": "0-1",
        "name": "Sea",
        "items": 12,
        "share_of_events": 0.75,
        "titles": ["Waves", "Ships"],
        "x": 0.0,
        "y": 0.0,
    },
    {"id": "1-0", "name": "Land", "items": 1200, "share_of_events": 0.25, "titles": [], "x": 1.0, "y": 0.0},
]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JsonDataset:
    made = JsonDataset(filepath=str(tmp_path / "interest_table.json"))
    made.bind("interest_table", "interest_dictionary", "demo")
    monkeypatch.setattr(frame, "catalog", lambda _: {"interest_table": made})
    return made


def test_the_most_used_interests_are_printed(dataset: JsonDataset) -> None:
    dataset.save({"dictionary": "abcd", "interests": ROWS})
    all_of_them, one = (CliRunner().invoke(cli, ["interests", *more]) for more in ([], ["--top", "1"]))
    assert all_of_them.exit_code == one.exit_code == 0
    assert "dictionary abcd: 2 interests" in one.output
    assert "Waves · Ships" in one.output
    assert "75.0%" in one.output
    assert "Land" not in one.output
    assert "1,200" in all_of_them.output


def test_without_a_dictionary_it_names_the_command(dataset: JsonDataset) -> None:
    done = CliRunner().invoke(cli, ["interests", "--env", "ml1m"])
    assert done.exit_code == 1
    assert "no interest dictionary yet in workspace 'demo'" in done.output
    assert "kedro run --env ml1m" in done.output
