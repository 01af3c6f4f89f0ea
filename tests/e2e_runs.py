"""Runs of the command line in a process of its own, for the end-to-end tests."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def prismrec(workspaces: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `prismrec` on a workspaces folder; Bentos go there too."""
    settings = {"PRISMREC_WORKSPACES": str(workspaces), "BENTOML_HOME": str(workspaces / "bentoml")}
    return subprocess.run(
        [sys.executable, "-m", "prismrec", *arguments],
        cwd=PROJECT,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
