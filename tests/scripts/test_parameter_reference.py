"""The reference of parameters is what the models and conf/ say now."""

import runpy
from pathlib import Path

from prismrec.parameters import stage_model
from prismrec.pipeline_registry import STAGES

PROJECT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(PROJECT / "scripts" / "parameter_reference.py"))


def test_committed_page_is_up_to_date() -> None:
    page = PROJECT / "docs" / "reference" / "parameters.md"
    assert page.read_text(encoding="utf-8") == SCRIPT["render"](), "run: make docs"


def test_every_stage_and_its_own_parameters_are_there() -> None:
    text = SCRIPT["render"]()
    for stage in STAGES:
        section = text.split(f"\n## {stage}\n")[1].split("\n## ")[0]
        for name in stage_model(stage).model_fields:
            assert f"| `{name}" in section, f"{stage}.{name}"


def test_bounds_and_choices_are_said() -> None:
    allowed = SCRIPT["allowed"]
    assert allowed({"type": "integer", "minimum": 2, "exclusiveMaximum": 9}) == "integer ≥ 2, < 9"
    assert allowed({"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]}) == "integer ≥ 2 or null"
    assert allowed({"enum": ["full", "lora"]}) == "`full`, `lora`"


def test_value_of_a_file_that_does_not_set_the_key_is_empty() -> None:
    value_at = SCRIPT["value_at"]
    assert value_at({"a": {"b": None}}, "a.b") == "`null`"
    assert value_at({"a": {"b": 3}}, "a.c") == ""
