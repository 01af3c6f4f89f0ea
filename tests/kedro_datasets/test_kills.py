"""A hundred kills at random moments: whatever is found as the latest version is whole."""

import json
import subprocess
import sys
from pathlib import Path

KILLS = 100


def test_the_latest_version_is_whole_after_every_kill(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_writer.py")
    command = [sys.executable, str(script), str(tmp_path), str(KILLS), "20260101"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] == KILLS
    # Otherwise the kills fell between saves, and the test would prove nothing.
    assert seen["in_the_middle"] > KILLS // 4, seen
    assert len(seen["versions"]) == 6
    assert all(count > KILLS // 20 for count in seen["versions"].values()), seen
