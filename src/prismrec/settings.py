"""Kedro's settings: how configuration is found and merged, and which hooks watch a run.

Notable choices: an environment overrides single keys, however deep (Kedro's default replaces whole
blocks); `oc.env` lets globals.yml read environment variables, of which an empty one counts as unset;
thread counts are fixed as this file is loaded, which is before anything that computes.
"""

import os
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf.resolvers import oc

from prismrec.hooks import ArtefactHooks


def fix_threads() -> None:
    """Make thread counts explicit, where nobody set them: the number of cores this process may use.

    Sums of floats depend on how work is split over threads: results are promised to be byte-identical only
    for the same thread counts, so these are set before torch, faiss and polars start, and recorded in the
    manifests. Set OMP_NUM_THREADS and POLARS_MAX_THREADS to repeat a run of another machine.
    """
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", cores)
    os.environ.setdefault("POLARS_MAX_THREADS", os.environ["OMP_NUM_THREADS"])


def environment_variable(name: str, *default: Any) -> str | None:
    """OmegaConf's `oc.env`, but for this: a variable that is set to nothing takes the default, as in a shell's `:-`."""
    if default and os.environ.get(name) == "":
        return str(default[0])
    value: str | None = oc.env(name, *default)
    return value


fix_threads()

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": {"oc.env": environment_variable},
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
HOOKS = (ArtefactHooks(),)
