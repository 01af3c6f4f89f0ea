"""The BentoML service: `POST /recommend`, `GET /model`, and a thin layer between HTTP and the engine.

Which bundle: a Bento carries the tag of the bundle it was built with under an alias (`bentofile.yaml`), so
that it keeps answering from that one when a newer one is stored; PRISMREC_MODEL names another tag. Our
choice instead of a class attribute `BentoModel("prismrec:latest")`, which BentoML 1.4 resolves anew whenever
the Bento starts.

Notable: one worker, one request at a time and one compute thread by default (OMP_NUM_THREADS): scoring
one user does not gain from more. The first answer is computed before the service says it is ready.
"""

import os
from dataclasses import asdict
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import prismrec
from prismrec.errors import UserError
from prismrec.serving.types import RecommendRequest, RecommendResponse, refusal

BUNDLE_ALIAS = "prismrec-bundle"  # as in bentofile.yaml
MODEL_VARIABLE = "PRISMREC_MODEL"
BUNDLE_FOLDER = "bundle"  # where in the stored model the bundle lies
TRAFFIC = {"timeout": 30, "max_concurrency": 64}


def bundle_folder() -> Path:
    """Return where the bundle to serve lies: PRISMREC_MODEL's, or the Bento's own.

    Raises:
        UserError: BentoML's model store does not hold it.
    """
    tag = os.environ.get(MODEL_VARIABLE, BUNDLE_ALIAS)
    try:
        return Path(bentoml.models.get(tag).path_of(BUNDLE_FOLDER))
    except NotFound as error:
        raise UserError(
            f"BentoML's model store holds no model {tag!r}.",
            str(error),
            f"Make one: kedro run --pipelines packaging; or set {MODEL_VARIABLE}, see: bentoml models list",
        ) from error


async def describe(_: Request) -> JSONResponse:
    """Answer `GET /model`: versions, models, and the size of the catalogue."""
    description = bentoml.get_current_service().engine.description
    facts = {**asdict(description), "versions": description.versions.model_dump()}
    return JSONResponse({**facts, "prismrec": prismrec.__version__})


class JsonBodies:
    """Middleware: every body is JSON, whatever the client calls it.

    `curl -d` calls it a form, and should just work; nothing ever gets to a parser of forms or pickles.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a content type of JSON."""
        if scope["type"] == "http":
            others = [header for header in scope["headers"] if header[0] != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self.app(scope, receive, send)


@bentoml.asgi_app(Starlette(routes=[Route("/model", describe)]))
@bentoml.service(name="prismrec", workers=1, traffic=TRAFFIC)
class PrismrecService:
    """Recommendations from raw histories, split into interests."""

    def __init__(self) -> None:
        import torch

        from prismrec.serving.engine import Engine

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.engine = Engine.load(bundle_folder())
        self.engine.warm_up()

    @bentoml.api
    def recommend(self, request: RecommendRequest, /) -> RecommendResponse:
        """Recommend items for a history, by interest and merged."""
        from prismrec.serving.engine import UnknownModel

        try:
            answer = self.engine.recommend(**request.model_dump())
        except UnknownModel as error:
            known = ", ".join(self.engine.description.models)
            raise refusal("model", request.model, f"the models are {known}") from error
        return RecommendResponse.model_validate(answer, from_attributes=True)


PrismrecService.add_asgi_middleware(JsonBodies)  # type: ignore[attr-defined]  # it is a bentoml.Service now
