"""The nearline job: what the engine says, part by part, whatever happens in between."""

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prismrec.artifacts.atomic import files_of
from prismrec.errors import UserError
from prismrec.serving import batch
from prismrec.serving.batch import BatchJob
from prismrec.serving.engine import Engine
from serving.bundles import NUM_ITEMS, parts

USERS = 25
MODELS = ("hymirec", "gemirec", "prismrec", "llm_recommender", "lightweight_encoder", "popularity")
KILLED = """
import sys
from pathlib import Path
from prismrec.serving import batch
batch.PART = 5
def progress(more):
    if len(list(Path(sys.argv[2]).glob("part-*"))) == 2:
        print("two parts", flush=True)
        import time; time.sleep(60)
batch.run(batch.BatchJob(*map(Path, sys.argv[1:4]), k=4, model="gemirec"), progress)
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PART", 10)


def histories(seed: int = 0) -> dict[str, list[Any]]:
    """Users u0, u1, …; some know nobody's items, some have no events, times are known of every other user."""
    random = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"user_id": [], "history": [], "timestamps": []}
    for user in range(USERS):
        items = [f"i{item}" for item in random.integers(0, NUM_ITEMS, size=random.integers(0, 12))]
        if user % 7 == 3:
            items = ["nobody's", *items]
        rows["user_id"].append(f"u{user}")
        rows["history"].append(["nobody's"] if user == 12 else items)
        times = sorted(random.integers(10**9, 10**9 + 10**6, size=len(rows["history"][-1])).tolist())
        rows["timestamps"].append(times if user % 2 else [])
    return rows


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.parquet"
    pq.write_table(pa.table(histories()), path, row_group_size=7)  # row groups that are no parts
    return path


def read(out: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(sorted(out.glob(f"part-*/{name}.parquet")))


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_says_what_the_engine_says(users: Path, bundle_folder: Path, tmp_path: Path, model: str) -> None:
    done: list[int] = []
    manifest = batch.run(BatchJob(users, tmp_path, bundle_folder, k=6, interests=2, model=model), done.append)
    assert sum(done) == USERS
    assert manifest["num_users"] == USERS
    lists, kept = read(tmp_path, "recommendations"), read(tmp_path, "interests")
    engine = Engine.load(bundle_folder)
    rows = histories()
    assert lists["user_id"].unique(maintain_order=True).to_list() == rows["user_id"]
    for user, history, times in zip(*rows.values(), strict=True):
        expected = engine.recommend(history, k=6, model=model, timestamps=times)
        found = lists.filter(pl.col("user_id") == user)
        assert found["rank"].to_list() == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(found["score"], [item.score for item in expected.items], atol=1e-4)
        assert len(set(found["item_id"]) & {item.item_id for item in expected.items}) == 6
        assert found["item_id"].to_list() == [item.item_id for item in expected.items]
        interests = kept.filter(pl.col("user_id") == user)
        if expected.note is not None:
            assert interests.is_empty()
            continue
        shown = engine.recommend(history, k=1, num_interests=2, model=model, timestamps=times).interests
        assert interests["interest"].to_list() == [interest.id for interest in shown]
        np.testing.assert_allclose(interests["weight"], [interest.weight for interest in shown], atol=1e-4)
        assert interests["rank"].to_list() == list(range(1, len(shown) + 1))


@pytest.mark.parametrize("rule", ["quotas", "max_score"])
def test_a_batch_merges_gemirecs_lists_as_the_engine_does(users: Path, tmp_path: Path, rule: str) -> None:
    made = parts()
    made.parts["retrieval"].config = replace(made.parts["retrieval"].config, merge=rule)
    made.save(tmp_path / "bundle")
    batch.run(BatchJob(users, tmp_path / "out", tmp_path / "bundle", k=6, model="gemirec"))
    lists, engine = read(tmp_path / "out", "recommendations"), Engine.load(tmp_path / "bundle")
    for user, history, times in zip(*histories().values(), strict=True):
        expected = engine.recommend(history, k=6, model="gemirec", timestamps=times)
        found = lists.filter(pl.col("user_id") == user)
        assert found["item_id"].to_list() == [item.item_id for item in expected.items]
        np.testing.assert_allclose(found["score"], [item.score for item in expected.items], atol=1e-4)


def test_models_without_times_get_none(users: Path, tmp_path: Path) -> None:
    replace(parts(), timed=False).save(tmp_path / "bundle")
    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.table({name: column for name, column in histories().items() if name != "timestamps"}), bare)
    for path in (users, bare):
        batch.run(BatchJob(path, tmp_path / path.stem, tmp_path / "bundle"))
    timed, untimed = (read(tmp_path / path.stem, "recommendations") for path in (users, bare))
    assert timed.equals(untimed)


def test_the_owner_of_an_item_is_the_engine_s(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    batch.run(BatchJob(users, tmp_path, bundle_folder, k=4, model="hymirec"))
    found = read(tmp_path, "recommendations").filter(pl.col("user_id") == "u5")["interest"].to_list()
    rows = histories()
    engine = Engine.load(bundle_folder)
    items = engine.recommend(rows["history"][5], k=4, num_interests=16, timestamps=rows["timestamps"][5]).items
    assert found == [item.interest for item in items]


def test_only_cells_of_a_dictionary_name_it(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    versions = Engine.load(bundle_folder).description.versions
    for model, expected in (("gemirec", versions.dictionary), ("hymirec", None)):
        manifest = batch.run(BatchJob(users, tmp_path / model, bundle_folder, model=model))
        assert manifest["dictionary"] == expected
        assert set(read(tmp_path / model, "interests")["dictionary"]) == {expected}


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(
    users: Path, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART", 5)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    manifest = batch.run(BatchJob(users, whole, bundle_folder, k=4, model="gemirec"))
    command = [sys.executable, "-c", KILLED, str(users), str(cut), str(bundle_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "two parts\n"
        job.send_signal(signal.SIGKILL)
    assert not (cut / "manifest.json").exists()
    first = (cut / "part-00000" / "recommendations.parquet").stat().st_mtime_ns
    assert len(list(cut.glob("part-*"))) == 2
    assert batch.run(BatchJob(users, cut, bundle_folder, k=4, model="gemirec")) == manifest
    assert (cut / "part-00000" / "recommendations.parquet").stat().st_mtime_ns == first
    names = [file.relative_to(whole) for file in files_of(whole)]
    assert [file.relative_to(cut) for file in files_of(cut)] == names
    assert [(cut / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


def test_parts_of_another_bundle_are_refused_or_made_anew(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    parts(seed=1).save(other)
    batch.run(BatchJob(users, out, other, k=4))
    job = BatchJob(users, out, bundle_folder, k=4)
    manifest = (out / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"made by another job: bundle \w+ instead of"):
        batch.run(job)
    assert (out / "manifest.json").read_bytes() == manifest  # the other job's results are as they were
    redone = batch.run(job, redo=True)
    assert redone == batch.run(BatchJob(users, tmp_path / "fresh", bundle_folder, k=4))
    with pytest.raises(UserError, match="k 4 instead of 5"):
        batch.run(BatchJob(users, out, bundle_folder, k=5))


def test_parts_of_a_longer_input_are_refused_or_removed(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    out, fewer = tmp_path / "out", tmp_path / "fewer.parquet"
    job = BatchJob(users, out, bundle_folder, k=2)
    manifest = batch.run(job)
    (out / "part-00002").rename(out / "part-00003")
    with pytest.raises(UserError, match="it belongs to a longer input"):
        batch.run(job)
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert not (out / "part-00002").exists()  # nothing was begun
    assert batch.run(job, redo=True) == manifest
    pq.write_table(pq.read_table(users).slice(0, 5), fewer)
    short = batch.run(BatchJob(fewer, out, bundle_folder, k=2), redo=True)
    assert short == batch.run(BatchJob(fewer, tmp_path / "fresh", bundle_folder, k=2))
    assert [path.name for path in out.glob("part-*")] == ["part-00000"]


def test_a_damaged_part_is_not_taken_for_done(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    job = BatchJob(users, tmp_path, bundle_folder, k=2)
    manifest = batch.run(job)
    (tmp_path / "part-00001" / "interests.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"interests\.parquet is not readable"):
        batch.run(job)
    assert batch.run(job, redo=True) == manifest


def test_two_jobs_do_not_write_into_one_folder(users: Path, bundle_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another batch job"):
            batch.run(BatchJob(users, tmp_path, bundle_folder))


@pytest.mark.parametrize("write", ["numbers", "polars", "no times"])
def test_other_writers_and_types_are_read(bundle_folder: Path, tmp_path: Path, write: str) -> None:
    rows = {"user_id": ["7", "8"], "history": [["i3", "i4"], []], "timestamps": [[5, 6], None]}
    path = tmp_path / "users.parquet"
    if write == "polars":
        pl.DataFrame(rows).write_parquet(path)
    elif write == "numbers":
        pq.write_table(pa.table({**rows, "user_id": [7, 8]}), path)
    else:
        pq.write_table(pa.table({**rows, "history": [["i3", None, "i4"], None]}).drop(["timestamps"]), path)
    batch.run(BatchJob(path, tmp_path / "out", bundle_folder, k=2))
    found = read(tmp_path / "out", "recommendations")
    times = [] if write == "no times" else [5, 6]
    expected = Engine.load(bundle_folder).recommend(["i3", "i4"], k=2, timestamps=times).items
    assert found["user_id"].to_list() == ["7", "7", "8", "8"]
    assert found["item_id"].to_list() == [*(item.item_id for item in expected), "i0", "i1"]


def test_only_the_newest_events_are_read(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismrec.serving.users_file.MAX_HISTORY", 2)
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["a"], "history": [["i9", "i3", "i4"]]}), path)
    batch.run(BatchJob(path, tmp_path / "out", bundle_folder, k=3))
    expected = Engine.load(bundle_folder).recommend(["i3", "i4"], k=3).items
    assert read(tmp_path / "out", "recommendations")["item_id"].to_list() == [item.item_id for item in expected]


def test_no_users_make_no_parts(bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    schema = pa.schema({"user_id": pa.string(), "history": pa.list_(pa.string())})
    pq.write_table(schema.empty_table(), path)
    manifest = batch.run(BatchJob(path, tmp_path / "out", bundle_folder))
    assert manifest["num_users"] == 0
    assert manifest["files"] == {}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"user": ["a"], "history": [["i1"]]}, "no column user_id"),
        ({"user_id": ["a"]}, "no column history"),
        ({"user_id": ["a"], "history": ["i1 i2"]}, "history is of string, not of lists"),
        ({"user_id": [1.5], "history": [["i1"]]}, "user_id holds double"),
        ({"user_id": ["a"], "history": [["i1"]], "timestamps": [["noon"]]}, "timestamps holds string"),
        ({"user_id": ["a", None], "history": [["i1"], []]}, r"no id(.|\n)*row 1"),
        ({"user_id": ["a", "b"], "history": [[], ["i1"]], "timestamps": [[], [1, 2]]}, r"timestamps(.|\n)*row 1"),
    ],
)
def test_input_of_another_shape_is_refused(
    bundle_folder: Path, tmp_path: Path, rows: dict[str, Any], message: str
) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table(rows), path)
    with pytest.raises(UserError, match=message):
        batch.run(BatchJob(path, tmp_path / "out", bundle_folder))


def test_what_is_no_parquet_file_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    with pytest.raises(UserError, match="no such file"):
        batch.run(BatchJob(path, tmp_path / "out", bundle_folder))
    path.write_text("user_id,history\n" * 10)
    with pytest.raises(UserError, match="no parquet file"):
        batch.run(BatchJob(path, tmp_path / "out", bundle_folder))
