"""A refresh whose saves are killed again and again, and a reader of what is left; run as a process of its own.

    python killed_refresh.py FOLDER KILLS SEED

Each round a child saves dictionary, cells, posterior, retrieval head and bundle of one version after the
other, until it is killed at a random moment; the parent then loads the newest of each. They are all of one version, or
they are refused; the bundle, which is one folder, always is of one. Prints JSON: how often which.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from pipelines.refresh_sets import Workspace, is_whole

if __name__ == "__main__":
    folder, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    workspace = Workspace(folder)
    workspace.save(workspace.version(0))
    seen = {"whole": 0, "refused": 0}
    for turn in range(kills):
        child = os.fork()
        if not child:
            number = 1 + 1000 * turn
            while True:
                workspace.save(workspace.version(number))
                number += 1
        time.sleep(draw.uniform(0.01, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen["whole" if is_whole(workspace) else "refused"] += 1
        workspace.check_bundle()
    print(json.dumps(seen))
