"""Draw docs/images/explorer*.png: the explorer page of a running service, desktop, dark and phone.

    bentoml serve prismrec:latest                                       # of a bundle of MovieLens-1M
    .venv/bin/python scripts/explorer_pictures.py http://localhost:3000

Needs the `dev` extra and `chromium` on the path (a Debian package of that name).
"""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MODEL = "gemirec"
HISTORY = (
    "Matrix, The (1999)",
    "Alien (1979)",
    "Blade Runner (1982)",
    "Toy Story (1995)",
    "Beauty and the Beast (1991)",
    "Shakespeare in Love (1998)",
    "Groundhog Day (1993)",
)


class Picture(NamedTuple):
    """How a picture is taken; sizes in CSS pixels, `scale` device pixels each."""

    name: str
    width: int
    height: int
    scale: int
    dark: bool = False
    at_stage: bool = False


PICTURES = (
    Picture("explorer", 1280, 900, 1),
    Picture("explorer_dark", 1280, 900, 1, dark=True),
    Picture("explorer_phone", 390, 844, 2, at_stage=True),
)


def link(page: Page, address: str) -> str:
    """The page's address with the history in it."""
    ids = []
    for title in HISTORY:
        answer = page.request.get(f"{address}/items?{urlencode({'query': title, 'limit': 1})}")
        ids.append(answer.json()["items"][0]["item_id"])
    return f"{address}/#{urlencode([('item', item) for item in ids] + [('model', MODEL)])}"


def main() -> None:
    """Take all pictures of the service at the address on the command line."""
    address = sys.argv[1].rstrip("/")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for picture in PICTURES:
            page = browser.new_page(
                viewport={"width": picture.width, "height": picture.height},
                device_scale_factor=picture.scale,
                color_scheme="dark" if picture.dark else "light",
            )
            page.goto(link(page, address))
            page.wait_for_selector("#beams li")
            if picture.at_stage:
                page.locator("#stage").evaluate("stage => scrollTo(0, stage.offsetTop - 16)")
            page.screenshot(path=IMAGES / f"{picture.name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
