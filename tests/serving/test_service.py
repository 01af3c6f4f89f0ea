"""The service in this process: routes, answers, and errors as a client sees them; `test_web` has the web layer."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from prismrec.errors import UserError
from prismrec.serving.engine import Engine


@pytest.fixture(scope="module")
def client(bundle_folder: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(bundle_folder.parent / "bentoml"))
        patch.setenv("BENTOML_DO_NOT_TRACK", "True")
        from prismrec.serving import service

        patch.setattr(service, "bundle_folder", lambda: bundle_folder)
        with TestClient(service.PrismrecService.to_asgi()) as client:
            yield client


def test_the_answer_is_the_engine_s(client: TestClient, bundle_folder: Path) -> None:
    body = {"history": ["i3", "nobody", "i7"], "k": 4, "num_interests": 2}
    answer = client.post("/recommend", json=body)
    expected = Engine.load(bundle_folder).recommend(**body)  # type: ignore[arg-type]
    assert answer.status_code == 200
    content = answer.json()
    assert [item["item_id"] for item in content["items"]] == [item.item_id for item in expected.items]
    assert [item["score"] for item in content["items"]] == [item.score for item in expected.items]
    assert [interest["id"] for interest in content["interests"]] == [i.id for i in expected.interests]
    assert content["unknown_items"] == ["nobody"]
    assert content["model"] == "hymirec"
    assert content["versions"] == expected.versions.model_dump()
    assert content["note"] is None
    assert set(content["items"][0]) == {"item_id", "title", "score", "interest"}
    assert set(content["interests"][0]["items"][0]) == {"item_id", "title", "score"}
    assert content["interests"][0]["reasons"][0]["item_id"] in {"i3", "i7"}


def test_an_empty_history_gets_popular_items(client: TestClient) -> None:
    content = client.post("/recommend", json={"history": [], "k": 2}).json()
    assert [item["title"] for item in content["items"]] == ["Film 0", "Film 1"]
    assert "most popular" in content["note"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"history": ["i1"], "k": 500}', "k is 500; input should be less than or equal to 200"),
        ('{"history": ["i1"], "model": "sasrec"}', "There is no model 'sasrec'. Choose one of: "),
        ('{"history": ["i1"], "k": NaN}', "k is NaN"),
        ('{"histroy": ["i1"]}', "histroy is no field"),
        ('{"history": ["i1"', "invalid JSON"),
        ('["i1"]', "it has to be an object"),
        ("", "invalid JSON"),
    ],
)
def test_wrong_input_is_refused_with_what_is_wrong(client: TestClient, body: str, text: str) -> None:
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    content = answer.json()
    assert any(text in problem["msg"] for problem in content["detail"])
    assert "Traceback" not in json.dumps(content)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_json_is_read_whatever_it_is_called(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind}  # the first is what `curl -d` sends
    assert client.post("/recommend", content='{"history": ["i1"]}', headers=headers).status_code == 200


def test_nothing_but_json_is_read(client: TestClient) -> None:
    headers = {"Content-Type": "application/vnd.bentoml+pickle"}
    answer = client.post("/recommend", content=b"\x80\x04N.", headers=headers)
    assert answer.status_code == 400
    assert "invalid JSON" in answer.text


def test_the_model_says_what_it_is(client: TestClient) -> None:
    content = client.get("/model").json()
    assert content["default_model"] == "hymirec"
    assert "popularity" in content["models"]
    assert content["items"] == content["active_items"] + 1 == 60
    assert set(content["versions"]) == {"model", "dictionary", "data"}


def test_our_routes_come_before_bentoml_s(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    assert client.get("/docs.json").json()["openapi"] == "3.1.0"
    assert "<title>" in client.get("/").text
    assert "swagger" not in client.get("/").text


def test_without_a_store_the_users_routes_say_so(client: TestClient) -> None:
    answer = client.get("/recommend/ada")
    assert answer.status_code == 501
    assert "PRISMREC_HISTORY" in answer.json()["error"]


def test_metrics_name_routes_and_neither_users_nor_made_up_paths(client: TestClient) -> None:
    for path in ("/recommend/ada-4711", "/livez"):
        client.get(path)
    assert "no such path" in client.get("/made/up/path-4711").json()["error"]
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert 'prismrec_requests_total{path="/recommend/{user}",status="501"}' in answer.text
    assert "4711" not in answer.text
    assert "bentoml" not in answer.text


def test_no_log_holds_users_ids(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    client.get("/recommend/ada-4711")
    said = capfd.readouterr()
    assert "4711" not in said.out + said.err


@pytest.mark.parametrize("key", ["", " ", "\t\n"])
def test_an_empty_key_is_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prismrec.serving.service import api_key

    monkeypatch.setenv("PRISMREC_API_KEY", key)
    with pytest.raises(UserError, match="PRISMREC_API_KEY is set, but empty"):
        api_key()
    monkeypatch.delenv("PRISMREC_API_KEY")
    assert api_key() == ""


def test_added_items_belong_to_no_bundle(client: TestClient, bundle_folder: Path) -> None:
    added = {"items": [{"item_id": "new", "title": "robots"}]}
    assert client.post("/items", json=added).status_code == 200
    folder = bundle_folder.parent / "bentoml" / "prismrec-items"
    assert [path.name for path in folder.glob("0*")] == ["00000001"]
    shutil.rmtree(folder)
    assert client.get("/items?id=new").json() == {"items": []}
