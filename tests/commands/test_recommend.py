"""`prismrec recommend`: titles become items, and a bundle answers as a service does."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result

from prismrec.artifacts.bundle import CatalogueItem
from prismrec.cli import cli
from prismrec.serving.engine import Engine
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.web import ApiKey, application
from serving.bundles import parts
from toy_project import ToyProject

TITLES = {
    0: "Heat (1995)",
    1: "Toy Story (1995)",
    2: "Toy Story 2 (1999)",
    3: "Amélie (2001)",
    4: "i9",
    5: "heat (1995)",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with titles to look for."""
    content = parts()
    items = [
        CatalogueItem(one.item_index, one.item_id, TITLES.get(one.item_index, one.title), one.categories, one.active)
        for one in content.items
    ]
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    replace(content, items=items).save(folder)
    return folder


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    """A service of that bundle, which wants a key."""
    engine = Engine.load(bundle)
    app = ApiKey(application(lambda: engine, ENGINE_OPERATIONS), key="secret")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(params=["bundle", "url"])
def source(request: pytest.FixtureRequest) -> list[str]:
    where = str(request.getfixturevalue(request.param))
    return ["--bundle", where] if request.param == "bundle" else ["--url", where, "--api-key", "secret"]


def recommend(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["recommend", *arguments], prog_name="prismrec")


def answer(*arguments: str) -> dict[str, Any]:
    result = recommend(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def histories(*titles: str) -> list[str]:
    return [argument for title in titles for argument in ("--history", title)]


def test_titles_and_ids_are_a_history(source: list[str], bundle: Path) -> None:
    options = ["-k", "4", "--num-interests", "2", "--diversity", "0.5", "--keep-seen"]
    found = answer(*source, *histories("Toy Story (1995)", "i7"), *options)
    expected = Engine.load(bundle).recommend(["i1", "i7"], k=4, num_interests=2, exclude_seen=False, diversity=0.5)
    assert [item["item_id"] for item in found["items"]] == [item.item_id for item in expected.items]
    assert [interest["id"] for interest in found["interests"]] == [interest.id for interest in expected.interests]
    assert found["unknown_items"] == []


@pytest.mark.parametrize(
    ("title", "item"),
    [
        ("Heat (1995)", "i0"),  # as it stands, though another one differs by case only
        ("TOY STORY (1995)", "i1"),
        ("amelie (2001)", "i3"),
        ("amelie", "i3"),  # one item has this word
        ("i9", "i9"),  # an id comes before a title
    ],
)
def test_a_title_names_one_item(source: list[str], title: str, item: str) -> None:
    found = answer(*source, *histories(title), "--model", "lightweight_encoder")
    assert found == answer(*source, *histories(item), "--model", "lightweight_encoder")


@pytest.mark.parametrize(
    ("title", "messages"),
    [
        ("toy story", ["2 items fit 'toy story'", "Toy Story 2 (1999)   (id i2)"]),
        ("HEAT (1995)", ["2 items fit", "(id i0)", "(id i5)"]),
        ("Film", ["items fit 'Film'", "… and"]),
        ("Metropolis", ["No item is called 'Metropolis'"]),
    ],
)
def test_a_title_of_none_or_several_is_refused(source: list[str], title: str, messages: list[str]) -> None:
    result = recommend(*source, *histories(title))
    assert result.exit_code == 1
    for message in messages:
        assert message in result.stderr


def test_people_get_a_table(source: list[str]) -> None:
    result = recommend(*source, *histories("Toy Story (1995)", "Amélie (2001)"), "-k", "3")
    lines = result.stdout.splitlines()
    assert lines[0] == "history   Toy Story (1995) · Amélie (2001)"
    assert lines[1] == "model     hymirec"
    top = lines.index("") + 2
    assert [line[:4] for line in lines[top : top + 4]] == ["  1 ", "  2 ", "  3 ", ""]
    assert any("like" in line and "Toy Story (1995)" in line for line in lines)


def test_without_a_history_there_is_what_is_popular(source: list[str]) -> None:
    result = recommend(*source, "-k", "2")
    assert "most popular" in result.stdout
    assert "1 Heat (1995)" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [(["-k", "0"], "k is 0"), (["--diversity", "2"], "diversity is 2"), (["--model", "sasrec"], "no model 'sasrec'")],
)
def test_options_beyond_their_limits_are_refused(source: list[str], options: list[str], message: str) -> None:
    result = recommend(*source, *histories("i7"), *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_temperature_is_passed_on(source: list[str], bundle: Path) -> None:
    found = answer(*source, *histories("i7"), "--model", "gemirec", "--temperature", "5")
    expected = Engine.load(bundle).recommend(["i7"], model="gemirec", temperature=5.0)
    assert [interest["weight"] for interest in found["interests"]] == [one.weight for one in expected.interests]


def test_a_long_history_of_titles_and_ids_is_looked_up(source: list[str]) -> None:
    names = [*(f"i{number}" for number in range(6, 56)), "Toy Story (1995)"]
    result = recommend(*source, *histories(*names))
    assert result.stdout.splitlines()[0].startswith("history   Film 6 · Film 7")
    assert "Film 55 · Toy Story (1995)" in result.stdout
    assert "No item is called" in recommend(*source, *histories("x" * 300)).stderr


def test_the_key_may_be_set(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = recommend("--url", url, *histories("i7"))
    assert "wants a key" in refused.stderr
    monkeypatch.setenv("PRISMREC_API_KEY", "secret")
    assert recommend("--url", url, *histories("i7")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:1"], "No service answers there"),
        (["--url", "localhost:3000"], "no address of a service"),
        (["--url", "file:///etc/passwd"], "no address of a service"),
        (["--bundle", "nowhere"], "not a bundle"),
        (["--bundle", "nowhere", "--url", "http://x"], "Give one of the two"),
    ],
)
def test_a_source_that_is_none_is_said(arguments: list[str], message: str) -> None:
    result = recommend(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_the_workspace_s_bundle_answers_by_default(toy_project: ToyProject, bundle: Path) -> None:
    from prismrec.artifacts.bundle import KeptBundle
    from prismrec.kedro_datasets import FolderDataset

    entry = (
        "bundle:\n  type: prismrec.kedro_datasets.FolderDataset\n  versioned: true\n"
        "  filepath: ${globals:workspaces}/${globals:workspace}/07_model_output/bundle\n"
    )
    (toy_project.conf / "base" / "catalog_packaging.yml").write_text(entry)
    missing = recommend(*histories("i7"))
    assert missing.exit_code == 1
    assert "There is no 'bundle'" in missing.stderr
    FolderDataset(filepath=str(toy_project.data / "demo" / "07_model_output" / "bundle")).save(KeptBundle(bundle))
    assert answer(*histories("i7")) == answer("--bundle", str(bundle), *histories("i7"))
