"""Write docs/reference/parameters.md from the parameter models and conf/ (`make docs`).

What a parameter means and may be is said once, in `prismrec.parameters`; what it is, in `conf/`. This page only
brings the two together, and a test holds it up to date.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prismrec.configuration import BASE, LOCAL, environments, read_yaml
from prismrec.parameters import stage_model
from prismrec.pipeline_registry import STAGES

PROJECT = Path(__file__).parents[1]
CONF = PROJECT / "conf"
PAGE = PROJECT / "docs" / "reference" / "parameters.md"
INTRODUCTION = """# Parameters

Written by `make docs` from `src/prismrec/parameters/` and `conf/`; do not edit it by hand.

A value stands in `conf/base/parameters_<stage>.yml`, an environment overrides it in a file of the same name, and
`kedro run --params codebook.layers=4` overrides both for one run. Unknown keys and values out of bounds stop a run
before it starts. An empty cell of an environment: as in base.
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def leaves(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the JSON schema of every parameter that is no group of others."""
    for name, field in schema["properties"].items():
        key = f"{path}.{name}" if path else name
        reference = field.get("$ref", "").rpartition("/")[2]
        if reference:
            yield from leaves(definitions[reference], definitions, key)
        else:
            yield key, field


def allowed(field: Mapping[str, Any]) -> str:
    """What a parameter may be, in a few words."""
    if "anyOf" in field:
        return " or ".join(allowed(choice) for choice in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    bounds = [f"{sign} {plain(field[word])}" for word, sign in BOUNDS.items() if word in field]
    return " ".join([field["type"], ", ".join(bounds)]).strip()


def plain(bound: float) -> str:
    """A bound without a needless fraction."""
    return str(int(bound) if bound == int(bound) else bound)


def value_at(content: Mapping[str, Any], key: str) -> str:
    """A parameter's value as it stands in the file; empty where the file does not set it."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ""
        value = value[part]
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def section(stage: str, names: list[str]) -> Iterator[str]:
    """Lines of one stage."""
    files = [CONF / name / f"parameters_{stage}.yml" for name in names]
    contents = [read_yaml(file).get(stage, {}) if file.is_file() else {} for file in files]
    schema = stage_model(stage).model_json_schema()
    yield from ["", f"## {stage}", "", f"| parameter | {' | '.join(names)} | may be | meaning |"]
    yield "|---" * (len(names) + 3) + "|"
    for key, field in leaves(schema, schema.get("$defs", {})):
        values = " | ".join(value_at(content, key) for content in contents)
        yield f"| `{key}` | {values} | {allowed(field)} | {field['description']} |"


def render() -> str:
    """The page."""
    names = [BASE, *(name for name in environments(CONF) if name not in (BASE, LOCAL))]
    lines = [line for stage in STAGES for line in section(stage, names)]
    return INTRODUCTION + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(PROJECT)}")
