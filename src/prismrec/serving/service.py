"""The BentoML service: workers, model store, probes and metrics around the web layer (`prismrec.serving.web`).

Which bundle: a Bento carries the tag of the bundle it was built with under an alias (`bentofile.yaml`), so that it
keeps answering from that one when a newer one is stored; PRISMREC_MODEL names another tag, and the file of
`prismrec.serving.switching` another one while it runs. Our choice instead of a class attribute
`BentoModel("prismrec:latest")`, which BentoML 1.4 resolves anew whenever the Bento starts.

    PRISMREC_MODEL      tag of the bundle to serve
    PRISMREC_WORKERS    processes, 1 by default; each holds the models and fills a core
    PRISMREC_ITEMS      folder of items that are added, $BENTOML_HOME/prismrec-items by default
    PRISMREC_API_KEY    key that requests have to bring in X-API-Key; none by default
    PRISMREC_HISTORY    where users' histories are kept; nowhere by default
    OMP_NUM_THREADS     threads of a worker's computing, 1 by default: scoring one user does not gain from more

Notable: no `@bentoml.api`. BentoML logs a traceback for every invalid request, and its OpenAPI document knows neither
limits nor examples nor errors; its Starlette does both. BentoML's metrics, access log and spans are off: they hold the
paths of requests, and with them users' ids; spans also cost more than all else around an answer. The first answer is
computed before the service says it is ready.
"""

import gc
import logging
import os
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prismrec.errors import UserError
from prismrec.serving import explorer, users
from prismrec.serving.engine import Engine
from prismrec.serving.history_store import HistoryStore, open_store
from prismrec.serving.meter import exposition, prometheus
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.switching import Switch, home_folder, pointed_to
from prismrec.serving.web import ApiKey, application

BUNDLE_ALIAS = "prismrec-bundle"  # as in bentofile.yaml
MODEL_VARIABLE = "PRISMREC_MODEL"
BUNDLE_FOLDER = "bundle"  # where in the stored model the bundle lies
ITEMS_FOLDER = "prismrec-items"  # in BentoML's home: in the model store it would belong to one bundle
KEY_VARIABLE = "PRISMREC_API_KEY"
TRAFFIC = {"timeout": 60}  # the web layer's limits come first
OFF = {"enabled": False}
NO_SPANS = {"excluded_urls": [".*"]}  # BentoML has no switch, and makes spans though nobody collects them
# An image is filled by uv, which this tells to take torch without CUDA: gigabytes less.
IN_AN_IMAGE = [{"name": "UV_TORCH_BACKEND", "value": "cpu"}]
WORKERS = int(os.environ.get("PRISMREC_WORKERS", "1"))

log = logging.getLogger(__name__)


def api_key() -> str:
    """The key that requests have to bring; empty where none is wanted.

    Raises:
        UserError: the variable is set, but holds nothing.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise UserError(f"{KEY_VARIABLE} is set, but empty.", KEY_VARIABLE, "Give the key, or do not set it.")
    return key or ""


def metrics(_: Request) -> Response:
    """Of all workers."""
    content, kind = exposition()
    return Response(content, media_type=kind)


def bundle_folder() -> Path:
    """Return where the bundle to serve lies: the pointer's, PRISMREC_MODEL's, or the Bento's own.

    Raises:
        UserError: BentoML's model store does not hold it.
    """
    tag = pointed_to(home_folder()) or os.environ.get(MODEL_VARIABLE) or BUNDLE_ALIAS
    try:
        return Path(bentoml.models.get(tag).path_of(BUNDLE_FOLDER))
    except (NotFound, ValueError) as error:
        raise UserError(
            f"BentoML's model store holds no model {tag!r}.",
            str(error),
            f"Make one: kedro run --pipelines packaging; or set {MODEL_VARIABLE}, see: bentoml models list",
        ) from error


def current() -> "PrismrecService":
    """The service of this worker."""
    service: PrismrecService = bentoml.get_current_service()
    return service


APPLICATION = application(
    lambda: current().switch.engine,
    (*ENGINE_OPERATIONS, *users.operations(lambda: current().history)),
    (*explorer.routes(), Route("/metrics", metrics)),
    prometheus,
)


@bentoml.asgi_app(APPLICATION)
@bentoml.service(
    name="prismrec",
    workers=WORKERS,
    traffic=TRAFFIC,
    metrics=OFF,
    logging={"access": OFF},
    tracing=NO_SPANS,
    envs=IN_AN_IMAGE,
)
class PrismrecService:
    """Recommendations from raw histories, split into interests."""

    history: HistoryStore | None
    switch: Switch

    def __init__(self) -> None:
        import torch

        _log_to_stderr()
        log.info("Requests %s", "have to bring the key" if api_key() else f"need no key: {KEY_VARIABLE} is not set")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.history = open_store(os.environ.get("PRISMREC_HISTORY"))
        self.switch = Switch(bundle_folder, self._load)
        self.switch.follow()

    def _load(self, folder: Path) -> Engine:
        items = os.environ.get("PRISMREC_ITEMS") or home_folder() / ITEMS_FOLDER
        engine = Engine.load(folder, Path(items), prometheus())
        engine.warm_up()
        gc.collect()
        gc.freeze()  # models stay as long as the process: no collection has to look at them again
        return engine

    @bentoml.on_shutdown
    def close(self) -> None:
        """Look for no other bundle, and let go of the histories."""
        self.switch.stop()
        if self.history is not None:
            self.history.close()


def _log_to_stderr() -> None:
    """One line an event, beside BentoML's own lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] [%(name)s] %(message)s"))
    logger = logging.getLogger("prismrec")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


PrismrecService.add_asgi_middleware(  # type: ignore[attr-defined]  # it is a bentoml.Service now
    ApiKey,
    key=api_key(),
    open_paths=frozenset(route.path for route in explorer.routes()),
    meter=prometheus,
)
