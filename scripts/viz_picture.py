"""Draw docs/images/pipeline.png: the eight stages as Kedro-Viz shows them (`make viz-picture`).

Kedro-Viz is built as static pages, its first-visit tour and its side bar are switched off, and headless Chromium
takes the picture. Needs the `viz` extra and `chromium` on the path (a Debian package of that name).
"""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs" / "images" / "pipeline.png"
SIZE = (1380, 1160)  # CSS pixels
SCALE = 2  # device pixels each
# What Kedro-Viz remembers of a visitor, as if they had closed the tour and the side bar.
VISITOR = {
    "theme": "light",
    "showFeatureHints": False,
    "isPrettyName": False,
    "expandAllPipelines": False,
    "visible": {"sidebar": False, "miniMap": False, "labelBtn": True, "layerBtn": True},
}
# Stages and datasets only: parameters would add a box a stage.
QUERY = "?pid=__default__&expandAllPipelines=false&types=nodes,datasets"


class Quiet(SimpleHTTPRequestHandler):
    """Serve a folder without a log line a file."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def build_pages(folder: Path) -> None:
    """Build Kedro-Viz's static pages into a folder, with the visitor's memory set before anything else runs."""
    subprocess.run([sys.executable, "-m", "kedro", "viz", "build"], cwd=PROJECT, check=True)
    shutil.copytree(PROJECT / "build", folder, dirs_exist_ok=True)
    page = folder / "index.html"
    remember = f"<script>localStorage.setItem('KedroViz', JSON.stringify({json.dumps(VISITOR)}))</script>"
    page.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{remember}", 1), encoding="utf-8")


def take_picture(url: str, profile: Path) -> None:
    """Let Chromium open the page, and save what it shows."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed; on Debian: apt-get install chromium")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
        f"--window-size={SIZE[0]},{SIZE[1]}", f"--force-device-scale-factor={SCALE}",
        "--virtual-time-budget=15000", f"--screenshot={PICTURE}",
    ]  # fmt: skip
    subprocess.run([chromium, *options, url], check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    """Build, serve, photograph."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pages, profile = Path(scratch, "pages"), Path(scratch, "profile")
        build_pages(pages)
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=pages))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        take_picture(f"http://127.0.0.1:{server.server_port}/{QUERY}", profile)
        server.shutdown()
    print(f"{PICTURE.relative_to(PROJECT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
