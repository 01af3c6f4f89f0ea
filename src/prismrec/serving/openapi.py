"""The OpenAPI document, made from the operations and their types."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

import prismrec
from prismrec.serving.operations import Operation
from prismrec.serving.types import ErrorResponse

REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"
TITLE = "prismrec"
DESCRIPTION = "Recommendations from raw histories, split into interests."
ALWAYS = {
    400: "The request is not valid: field, value, and what is allowed.",
    401: "A key is wanted, in the header X-API-Key.",
    429: "Too many requests are waiting.",
    500: "A bug; the server's log says more.",
    504: "It took too long.",
}
WITH_BODY = {408: "The body did not arrive in time.", 413: "The body is too large."}
PROBES = {
    "/livez": "The process lives.",
    "/readyz": "The models are loaded and warm.",
    "/healthz": "The process lives.",
    "/metrics": "Counts and times, for Prometheus.",
}


def document(operations: Sequence[Operation]) -> bytes:
    """JSON of OpenAPI 3.1 for the operations, for BentoML's probes, and for the metrics."""
    requests = [one.request for one in operations if one.request is not None]
    answers = [one.response for one in operations]
    modes = [*((model, "validation") for model in requests), *((model, "serialization") for model in answers)]
    _, definitions = models_json_schema([*modes, (ErrorResponse, "serialization")], ref_template=REFERENCE)  # type: ignore[list-item]
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    for path, text in PROBES.items():
        content = {"text/plain": {"schema": {"type": "string"}}}
        paths[path] = {"get": {"summary": text, "responses": {"200": {"description": text, "content": content}}}}
    schema = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "description": DESCRIPTION, "version": prismrec.__version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
        "security": [{}, {"key": []}],
    }
    return json.dumps(schema, ensure_ascii=False).encode()


def _operation(one: Operation) -> dict[str, Any]:
    errors = {**ALWAYS, **(WITH_BODY if one.method == "POST" else {}), **one.errors}
    responses = {"200": {"description": "The answer.", "content": _content(one.response.__name__)}}
    for status, text in sorted(errors.items()):
        responses[str(status)] = {"description": text, "content": _content(ErrorResponse.__name__)}
    name = re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").strip("_")
    described: dict[str, Any] = {"operationId": name, "summary": one.summary, "responses": responses}
    if one.request is None:
        return described
    if one.method == "POST":
        return {**described, "requestBody": {"required": True, "content": _content(one.request.__name__)}}
    return {**described, "parameters": _parameters(one)}


def _content(model: str) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": REFERENCE.format(model=model)}}}


def _parameters(one: Operation) -> list[dict[str, Any]]:
    """Fields of the request as parameters of the path, where it names them, or of the query."""
    assert one.request is not None
    schema = one.request.model_json_schema(ref_template=REFERENCE)
    return [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in one.path else "query",
            "required": name in schema.get("required", ()),
            "schema": described,
        }
        for name, described in schema["properties"].items()
    ]
