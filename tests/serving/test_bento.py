"""The Bento: built from bentofile.yaml, started by `bentoml serve`, asked over HTTP.

Two bundles are stored and the Bento of the older one is served, so that a Bento which does not stick to
its own bundle gives a wrong answer.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from prismrec.pipelines.packaging import nodes
from prismrec.serving.engine import Engine
from prismrec.serving.switching import point_to
from serving.bundles import parts

PROJECT = Path(__file__).parents[2]
HEAVY = (
    "kedro",
    "mlflow",
    "great_expectations",
    "polars",
    "pandas",
    "scipy",
    "sklearn",
    "peft",
    "accelerate",
)
MODELS = ("popularity", "lightweight_encoder", "llm_recommender", "hymirec", "gemirec", "prismrec")
LOCAL_VARIABLES = ("BENTOML_", "PRISMREC_", "PYTHON")
QUESTIONS: tuple[dict[str, Any], ...] = (
    *({"history": [f"i{n}" for n in range(9)], "k": 20, "model": model} for model in MODELS),
    {"history": ["i3", "nobody"], "k": 5, "num_interests": 1},
    {"history": [], "k": 3},
)


class Built(NamedTuple):
    """A BentoML home with two bundles and their Bentos; `bento` is the first bundle's."""

    home: Path
    bundle: Path
    bento: str
    other_model: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("bento")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(LOCAL_VARIABLES)},
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
    }
    parts(0).save(folder / "first")
    parts(1).save(folder / "second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
        patch.chdir(folder)  # not the project's root
        first = nodes.store_model_and_build_bento(folder / "first")
        assert nodes.store_model_and_build_bento(folder / "first") == first
        second = nodes.store_model_and_build_bento(folder / "second")
    assert first["model"] != second["model"]
    return Built(folder / "home", folder / "first", first["bento"], second["model"], environment)


def sources(built: Built) -> Path:
    """Where the Bento keeps its code."""
    name, _, version = built.bento.partition(":")
    return built.home / "bentos" / name / version / "src"


@contextmanager
def serving(python: Path, built: Built, cwd: Path, **variables: str) -> Iterator[str]:
    """Run `bentoml serve` and give its address once it is ready; its log is `server.log`, its id `server.pid`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "bentoml", "serve", built.bento, "--host", "127.0.0.1", "--port", str(port)]
    log = cwd / "server.log"
    with log.open("wb") as output:
        # Additions are the test's own: the home's default folder would show them to the tests after it.
        environment = {**built.environment, "PRISMREC_ITEMS": str(cwd / "items"), **variables}
        server = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output)
    (cwd / "server.pid").write_text(str(server.pid))
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/readyz", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the service is not ready after two minutes\n{log.read_text()}")


def ask(address: str, body: Any, path: str = "/recommend") -> tuple[int, Any]:
    """Post a question as `curl -d` does, and return status and content of the answer."""
    request = urllib.request.Request(f"{address}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def assert_answers_like_the_engine(address: str, built: Built) -> None:
    engine = Engine.load(built.bundle)
    for question in QUESTIONS:
        status, content = ask(address, question)
        expected = engine.recommend(**question)  # type: ignore[arg-type]
        assert status == 200
        assert content["model"] == expected.model
        assert content["versions"] == expected.versions.model_dump()
        assert content["unknown_items"] == expected.unknown_items
        lists = [(content["items"], expected.items)]
        lists += [
            (got["items"], wanted.items) for got, wanted in zip(content["interests"], expected.interests, strict=True)
        ]
        for got, wanted in lists:
            assert [item["title"] for item in got] == [item.title for item in wanted]
            scores = [item.score for item in wanted]
            assert [item["score"] for item in got] == pytest.approx(scores, abs=1e-5)


def get(address: str, path: str) -> str:
    """A new connection each time, so that any worker may answer."""
    with urllib.request.urlopen(f"{address}{path}", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def test_two_workers_are_one_service(built: Built, tmp_path: Path) -> None:
    """It answers like the engine; added items, metrics, a switch of bundles under load, a shutdown in flight."""
    # This environment has the project installed: the Bento has to run its own code all the same.
    (sources(built) / "prismrec/__init__.py").write_text('__version__ = "the bento\'s"\n')
    variables = {
        "PRISMREC_WORKERS": "2",
        "PRISMREC_HISTORY": f"sqlite:///{tmp_path}/events.db",
    }
    with serving(Path(sys.executable), built, tmp_path, **variables) as address:
        assert_answers_like_the_engine(address, built)
        assert json.loads(get(address, "/model"))["prismrec"] == "the bento's"
        added = {"items": [{"item_id": "new", "title": "robots"}]}
        assert ask(address, added, "/items")[1]["generation"] == 1
        for _ in range(10):  # whichever worker answers
            _, content = ask(address, {"history": ["new"], "allow": ["new"], "exclude_seen": False})
            assert [item["item_id"] for item in content["items"]] == ["new"]
            assert content["unknown_items"] == []
        status, content = ask(address, {"history": ["i1"], "k": 0})
        assert status == 400
        assert content["detail"][0]["msg"] == "k is 0; input should be greater than or equal to 1"
        _share_histories(address)
        _switch_under_load(address, built)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(address, "/made/up/path")
        metrics = get(address, "/metrics")
        for user in ("ada", "/made/up", "bentoml"):
            assert user not in metrics
        for line in (
            'prismrec_requests_total{path="/recommend",status="200"}',
            'prismrec_step_seconds_count{step="encode"}',
            'prismrec_step_seconds_count{step="search"}',
            'prismrec_step_seconds_count{step="merge"}',
            'prismrec_cache_total{cache="texts",outcome="miss"}',
            'prismrec_cache_total{cache="interests",outcome="hit"} 9.0',
        ):
            assert line in metrics
        _shut_down_in_flight(address, int((tmp_path / "server.pid").read_text()))
    log = (tmp_path / "server.log").read_text()
    assert "400 k is 0" in log
    assert "Requests need no key" in log
    assert "/recommend/ada" not in log
    assert "Traceback" not in log


def _share_histories(address: str) -> None:
    """Whichever worker was sent a user's events, both answer from them, until the user is forgotten."""
    events = [{"item_id": "i3", "timestamp": 100}, {"item_id": "i7", "timestamp": 200}]
    assert ask(address, {"user": "ada", "events": events}, "/events") == (
        200,
        {"added": 2, "events": 2, "unknown_items": []},
    )
    answers = {get(address, "/recommend/ada?model=gemirec&k=3") for _ in range(10)}
    assert len(answers) == 1
    assert json.loads(answers.pop())["note"] is None
    request = urllib.request.Request(f"{address}/users/ada", method="DELETE")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer) == {"deleted_events": 2}
    for _ in range(10):
        assert "history is empty" in json.loads(get(address, "/recommend/ada"))["note"]


def _switch_under_load(address: str, built: Built) -> None:
    """No request is lost or mixed up while both workers switch to the other bundle, and back."""
    models = {Engine.load(built.bundle).versions.model}
    seen: list[tuple[int, str]] = []
    failed: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                status, content = ask(address, {"history": ["i1", "i2"], "k": 3})
                seen.append((status, content["versions"]["model"]))
            except Exception as error:  # a thread's end would not be seen
                failed.append(repr(error))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    for tag in (built.other_model, None):
        point_to(built.home, tag)
        _wait_until_all_serve(address, seen, ours=tag is None, models=models)
    stop.set()
    for thread in clients:
        thread.join()
    assert failed == []
    assert {status for status, _ in seen} == {200}
    assert len({model for _, model in seen}) == 2
    # What was added under the first bundle is there under the other one, and again under the first.
    assert json.loads(get(address, "/model"))["added_items"] == 1


def _wait_until_all_serve(address: str, seen: list[tuple[int, str]], ours: bool, models: set[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answers = [json.loads(get(address, "/model"))["versions"]["model"] for _ in range(8)]
        if all((model in models) == ours for model in answers):
            return
    raise AssertionError(f"the workers did not switch within a minute: {seen[-5:]}")


def _shut_down_in_flight(address: str, server: int) -> None:
    """A request that runs is answered, though the service is told to stop."""
    answers = []
    body = {"requests": [{"history": [f"i{n % 59}" for n in range(10_000)]}] * 64}
    thread = threading.Thread(target=lambda: answers.append(ask(address, body, "/recommend_batch")))
    thread.start()
    time.sleep(0.2)
    assert not answers, "it is answered already: make it a larger one"
    os.kill(server, signal.SIGTERM)
    thread.join()
    ((status, content),) = answers
    assert status == 200
    assert len(content["responses"]) == 64


def test_served_in_a_clean_environment(built: Built, tmp_path: Path) -> None:
    requirements = sources(built).parent / "env/python/requirements.txt"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
    subprocess.run(install, check=True)
    finder = f"import importlib.util as u; print([m for m in {(*HEAVY, 'prismrec')} if u.find_spec(m)])"
    command = [str(python), "-c", finder]
    installed = subprocess.run(command, cwd=tmp_path, env=built.environment, check=True, capture_output=True)
    assert installed.stdout.decode().strip() == "[]"
    with serving(python, built, tmp_path) as address:
        assert_answers_like_the_engine(address, built)


def test_a_bento_holds_code_for_serving_only(built: Built) -> None:
    assert (sources(built) / "prismrec/serving/service.py").is_file()
    top = {file.name for file in sources(built).iterdir() if file.name != "__pycache__"}
    assert top == {"prismrec", "bento_entry.py", "bentofile.yaml"}
    rooms = {file.name for file in (sources(built) / "prismrec").iterdir()}
    assert rooms.isdisjoint({"pipelines", "training", "evaluation", "kedro_datasets", "hooks.py"})


def test_packed_code_needs_nothing_heavy(built: Built, tmp_path: Path) -> None:
    script = f"""
import sys

sys.modules.update(dict.fromkeys({HEAVY}))  # as if they were not installed
from pathlib import Path
import prismrec.serving.service
from prismrec.serving.engine import Engine
engine = Engine.load(Path({str(built.bundle)!r}))
engine.warm_up()
print(prismrec.__file__)
"""
    environment = {**built.environment, "PYTHONPATH": str(sources(built))}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(sources(built) / "prismrec/__init__.py")


def test_pins_are_those_of_the_project_s_core_and_of_the_store() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["redis"]]
    core = {Requirement(line).name: Requirement(line).specifier for line in wanted}
    options = yaml.safe_load((PROJECT / "bentofile.yaml").read_text())["python"]["packages"]
    pins = {Requirement(line).name: next(iter(Requirement(line).specifier)) for line in options}
    # BentoML pins itself, and brings click, which only the command line needs.
    assert set(pins) == set(core) - {"bentoml", "click"}
    for name, pin in pins.items():
        assert pin.operator == "=="
        assert Version(pin.version) in core[name]
