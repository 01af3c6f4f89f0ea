"""Write docs/reference/bad-input.md from the tests' table of corrupt inputs (`make docs`)."""

import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "reference" / "bad-input.md"

if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT / "tests"))
    from data.corrupt.page import page

    PAGE.write_text(page(), encoding="utf-8")
