"""docs/how-to/bring-your-data.md is run as it stands, in a project of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl

PROJECT = Path(__file__).parents[3]
PAGE = PROJECT / "docs" / "how-to" / "bring-your-data.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def newest(project: Path, path: str) -> Path:
    entry = project / "data" / "shop" / path
    return max(entry.iterdir()) / entry.name


def test_the_page(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "src").mkdir()
    for block in blocks("yaml"):
        name = re.match(r"# (\S+)\n", block)
        assert name, "a YAML block says where it belongs"
        file = tmp_path / name[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block, encoding="utf-8")
    settings = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PRISMREC_")} | settings
    said = ""
    for block in blocks("bash"):
        run = subprocess.run(
            ["bash", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        said += run.stdout + run.stderr
    assert "Traceback" not in said
    (message,) = blocks("text")
    assert message in said

    facts = json.loads(newest(tmp_path, "01_raw/source_facts.json").read_text())
    assert facts["interactions"]["delimiter"] == ";"
    assert facts["interactions"]["time"]["unit"] == "iso8601"
    events = pl.read_parquet(newest(tmp_path, "02_intermediate/validated_interactions.parquet"))
    quarantine = pl.read_parquet(newest(tmp_path, "02_intermediate/quarantine.parquet"))
    assert events.height + quarantine.height == 3004
    assert quarantine.get_column("rules").explode().value_counts().sort("rules").rows()[-2:] == [
        ("missing_time", 2),
        ("unreadable_row", 2),
    ]
    items = pl.read_parquet(newest(tmp_path, "02_intermediate/validated_items.parquet"))
    assert items.row(0) == ("0000", "Blend 0 & co", "", ["coffee"])


def test_ten_lines_are_ten() -> None:
    first = blocks("yaml")[0].splitlines()
    assert len([line for line in first if not line.startswith("#")]) <= 10
