"""Requests: what is accepted, and how a refusal reads."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from prismrec.serving.types import MAX_HISTORY, RecommendRequest, refusal


def test_only_the_history_is_needed() -> None:
    request = RecommendRequest.model_validate_json('{"history": ["1", "2"]}')
    assert request.model_dump() == {
        "history": ["1", "2"],
        "timestamps": [],
        "now": None,
        "k": 10,
        "num_interests": None,
        "exclude_seen": True,
        "model": None,
    }


def test_the_documented_example_is_valid() -> None:
    RecommendRequest.model_validate(RecommendRequest.model_json_schema()["example"])


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
    ],
)
def test_a_refusal_says_field_value_and_limit(body: Any, field: tuple[str | int, ...], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        RecommendRequest.model_validate_json(json.dumps(body))
    (problem,) = error.value.errors()
    assert problem["loc"] == field
    assert text in problem["msg"]


def test_many_wrong_ids_give_one_error() -> None:
    with pytest.raises(ValidationError) as error:
        RecommendRequest.model_validate_json(json.dumps({"history": list(range(1000))}))
    assert error.value.error_count() == 1


def test_several_wrong_fields_are_named_together() -> None:
    with pytest.raises(ValidationError) as error:
        RecommendRequest.model_validate_json('{"history": [], "k": 0, "num_interests": 0}')
    assert [problem["loc"] for problem in error.value.errors()] == [("k",), ("num_interests",)]


def test_the_engine_s_refusals_look_the_same() -> None:
    (problem,) = refusal("model", "{x}", "the models are a, b").errors()
    assert problem["loc"] == ("model",)
    assert problem["msg"] == 'model is "{x}"; the models are a, b'
