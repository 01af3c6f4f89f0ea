"""`prismrec batch` as a user meets it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from prismrec.cli import cli
from serving.bundles import parts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    parts().save(folder)
    return folder


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["ada", "bob"], "history": [["i3"], ["i5", "i6"]]}), path)
    return path


def batch(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["batch", *map(str, arguments)], prog_name="prismrec")


def test_users_get_recommendations_and_interests(bundle: Path, users: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--users", users, "--out", out, "--bundle", bundle, "-k", 3, "--interests", 2, "--model", "gemirec")
    result = batch(*arguments)
    assert result.exit_code == 0, result.output
    assert "2 users, 3 items each, by gemirec of bundle" in result.stdout
    assert pq.read_table(out / "part-00000" / "recommendations.parquet").num_rows == 6
    assert pq.read_table(out / "part-00000" / "interests.parquet").num_rows == 4
    refused = batch(*arguments[:-4], "--interests", 3)
    assert refused.exit_code == 1
    assert "interests 2 instead of 3" in refused.stderr
    assert "add --redo" in refused.stderr
    assert batch(*arguments[:-4], "--interests", 3, "--redo").exit_code == 0


def test_what_is_wrong_is_one_message(bundle: Path, users: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--users", tmp_path / "none", "--out", tmp_path / "out", "--bundle", bundle), "no such file of users"),
        (("--users", users, "--out", tmp_path / "out", "--bundle", tmp_path), "not a bundle"),
        (("--users", users, "--out", users, "--bundle", bundle), "cannot be written to"),
        (("--users", users, "--out", tmp_path, "--bundle", bundle, "--model", "x"), "no model 'x'"),
    ):
        result = batch(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.output
