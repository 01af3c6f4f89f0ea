"""A refresh whose saves are killed again and again, and a reader of what is left; run as a process of its own.

    python killed_refresh.py FOLDER KILLS SEED

Each round a child saves dictionary, cells, posterior, retrieval head, the stage's record and the bundle of one version
after the other, until it is killed at a random moment of the first three; the parent then reads what another stage
would. That is of one version every time, the killed child's or one before it, and so is the bundle. Prints JSON: the
versions read, and how many kills fell between two datasets.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from pipelines.refresh_sets import Workspace, settled_version

if __name__ == "__main__":
    folder, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    workspace = Workspace(folder)
    started = time.perf_counter()
    workspace.save(workspace.version(0))
    took = time.perf_counter() - started
    versions, between = [settled_version(workspace)], 0
    for turn in range(kills):
        child = os.fork()
        if not child:
            number = 1 + 1000 * turn
            while True:
                workspace.save(workspace.version(number))
                number += 1
        time.sleep(draw.uniform(0.1, 3) * took)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        versions.append(settled_version(workspace))
        between += workspace.cut_between()
        workspace.check_bundle()
    print(json.dumps({"versions": versions, "between": between}))
