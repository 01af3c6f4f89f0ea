"""Requests: what is accepted, and how a refusal reads."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from prismrec.models.item_text import NewItem
from prismrec.serving import types
from prismrec.serving.engine import MAX_TEXTS as SPARE_ROWS
from prismrec.serving.types import MAX_HISTORY, MAX_TEXTS, Problem, RecommendRequest, Refused, Request, parse


def refused(body: Any, model: type[Request] = RecommendRequest) -> list[Problem]:
    with pytest.raises(Refused) as error:
        parse(model, json.dumps(body).encode())
    assert error.value.status == 400
    return error.value.content.detail


def test_only_the_history_is_needed() -> None:
    request = parse(RecommendRequest, b'{"history": ["1", {"title": "Metropolis"}]}')
    assert request.arguments() == {
        "history": ["1", NewItem("Metropolis")],
        "timestamps": [],
        "events": [],
        "now": None,
        "k": 10,
        "num_interests": None,
        "exclude_seen": True,
        "allow": [],
        "deny": [],
        "categories": [],
        "diversity": 0.0,
        "novelty": 0.0,
        "temperature": 1.0,
        "model": None,
    }


@pytest.mark.parametrize(
    "model",
    [
        types.RecommendRequest,
        types.BatchRequest,
        types.SimilarRequest,
        types.TextItem,
        types.CatalogueEntry,
        types.AddItemsRequest,
    ],
)
def test_the_documented_examples_are_valid(model: type[BaseModel]) -> None:
    for example in model.model_json_schema()["examples"]:
        model.model_validate(example)


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        (
            {"history": ["1", "2"], "timestamps": [5]},
            (),
            "timestamps has 1 entries, history has 2; give one for each event, or none",
        ),
        ({"history": ["1"], "now": 5}, (), "now says nothing without timestamps"),
        (
            {"history": ["1", "2"], "timestamps": [5, 9], "now": 7},
            (),
            "now is 7, before the newest timestamp 9; give seconds since 1970 UTC for both",
        ),
        ({"history": ["1"], "timestamps": [-5]}, ("timestamps", 0), "input should be greater than or equal to 0"),
        ({"history": [], "k": 201}, ("k",), "k is 201; input should be less than or equal to 200"),
        ({"history": [], "k": 0}, ("k",), "k is 0; input should be greater than or equal to 1"),
        ({"history": [], "k": "10"}, ("k",), 'k is "10"; input should be a valid integer'),
        (
            {"history": [], "num_interests": 17},
            ("num_interests",),
            "num_interests is 17; input should be less than or equal to 16",
        ),
        ({"history": [7]}, ("history", 0), "history.0 is 7; input should be a valid string"),
        ({"history": ["x" * 257]}, ("history", 0), "at most 256 characters"),
        ({"history": ["1"] * (MAX_HISTORY + 1)}, ("history",), "history has 10,001 entries; at most 10,000"),
        ({}, ("history",), "history is missing"),
        ({"history": [], "topk": 5}, ("topk",), "topk is no field of the request; its fields are history"),
        (["1", "2"], (), 'the body is ["1", "2"]; it has to be an object such as {"history"'),
        ({"history": [], "model": "{evil}" * 20}, ("model",), "at most 64 characters"),
        ({"history": [{"title": ""}]}, ("history", 0, "title"), 'history.0.title is ""; string should have at least'),
        ({"history": [{"description": "x"}]}, ("history", 0, "title"), "history.0.title is missing"),
        ({"history": ["1"], "events": ["view"] * 2}, (), "events has 2 entries, history has 1"),
        (
            {"history": [], "diversity": 1.5},
            ("diversity",),
            "diversity is 1.5; input should be less than or equal to 1",
        ),
    ],
)
def test_a_refusal_says_field_value_and_limit(body: Any, field: tuple[str | int, ...], text: str) -> None:
    (problem,) = refused(body)
    assert tuple(problem.loc) == field
    assert text in problem.msg


def test_many_wrong_ids_give_one_error() -> None:
    assert len(refused({"history": list(range(1000))})) == 1


def test_several_wrong_fields_are_named_together() -> None:
    problems = refused({"history": [], "k": 0, "num_interests": 0})
    assert [problem.loc for problem in problems] == [["k"], ["num_interests"]]


def test_a_wrong_user_of_a_batch_is_named_by_place() -> None:
    (problem,) = refused({"requests": [{"history": []}, {"history": [], "k": 0}]}, types.BatchRequest)
    assert problem.msg == "requests.1.k is 0; input should be greater than or equal to 1"


def test_no_more_texts_than_the_engine_has_rows_for() -> None:
    assert MAX_TEXTS == SPARE_ROWS
    texts = [{"title": str(number % MAX_TEXTS)} for number in range(MAX_TEXTS * 2)]
    parse(RecommendRequest, json.dumps({"history": texts}).encode())
    (problem,) = refused({"history": [*texts, {"title": "one more"}]})
    assert "101 different items as texts; at most 100" in problem.msg


def test_no_more_texts_in_a_batch_than_in_one_request() -> None:
    requests = [{"history": [{"title": str(number)}, {"title": "same"}]} for number in range(60)]
    parse(types.BatchRequest, json.dumps({"requests": requests}).encode())
    many = [{"history": [{"title": f"{user} {number}"} for number in range(26)]} for user in range(4)]
    (problem,) = refused({"requests": many}, types.BatchRequest)
    assert "the requests have 104 different items as texts; at most 100" in problem.msg


@pytest.mark.parametrize("key", ["constrained-str", "TextItem", "history"])
@pytest.mark.parametrize("value", [{}, 1])
def test_keys_called_as_pydantic_s_own_names_are_named(key: str, value: Any) -> None:
    wrong = {"history": [{"title": "x", key: value}]}
    (problem,) = refused(wrong)
    assert (problem.loc, problem.msg) == (["history", 0, key], f"history.0.{key} is no field there")
    (problem,) = refused({"requests": [wrong]}, types.BatchRequest)
    assert problem.msg == f"requests.0.history.0.{key} is no field there"


def test_parameters_of_an_address_are_read_as_what_they_are() -> None:
    request = types.parse_strings(types.SearchRequest, {"query": "9", "limit": "3"})
    assert (request.query, request.limit) == ("9", 3)
    lists = types.parse_strings(types.RecommendOptions, {"deny": "a", "allow": ["b", "c"], "exclude_seen": "false"})
    assert (lists.deny, lists.allow, lists.exclude_seen) == (["a"], ["b", "c"], False)
    with pytest.raises(Refused, match='limit is "x"; input should be a valid integer'):
        types.parse_strings(types.SearchRequest, {"limit": "x"})
