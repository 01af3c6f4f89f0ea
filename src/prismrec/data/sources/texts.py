"""Texts of items as people should see them: entities unescaped, junk removed, one form of each character.

Any script stays as it is. Our choices: Unicode NFC; the joiners U+200C and U+200D stay, since Persian and
emoji are spelt with them; marks that turn the direction of a whole line go, since a title must not turn
the page that shows it.
"""

import html
import json
import re
import unicodedata
from typing import Any

import polars as pl

# Controls, zero-width space, word joiner, byte order mark, soft hyphen, direction overrides, lone surrogates.
JUNK = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff]"
)
# Begins a cell that a reader made of a list in the file; a text that merely looks like a list stays what it is.
LIST = "\x1f"
NO_GENRES = "(no genres listed)"  # MovieLens


def plain_text(text: str | None) -> str | None:
    """Return the text cleaned and with runs of white space, line breaks too, as one blank."""
    if text is None:
        return None
    cleaned = JUNK.sub("", html.unescape(text))
    return unicodedata.normalize("NFC", " ".join(cleaned.split()))


def clean(column: pl.Expr) -> pl.Expr:
    """`plain_text` of every cell."""
    return column.map_elements(plain_text, return_dtype=pl.String)


def joined(cell: str | None) -> str | None:
    """A text from a cell that is one, or a list of them."""
    listed = _listed(cell)
    return cell if listed is None else " ".join(listed)


def as_categories(cell: str | None, separator: str) -> list[str]:
    """Categories from a list, nested or not, or from text with separators; each once, in order."""
    listed = _listed(cell)
    if listed is None:
        listed = (cell or "").split(separator)
    cleaned = (plain_text(category) for category in listed)
    return list(dict.fromkeys(category for category in cleaned if category and category != NO_GENRES))


def _listed(cell: str | None) -> list[str] | None:
    """The texts of a list, however deep; None where the cell is none."""
    if cell is None or not cell.startswith(LIST):
        return None
    try:
        return _flat(json.loads(cell.removeprefix(LIST)))
    except (ValueError, RecursionError):
        return None


def _flat(content: Any) -> list[str]:
    if isinstance(content, list):
        return [text for part in content for text in _flat(part)]
    return [] if content is None else [content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)]


def list_cell(value: Any) -> str:
    """The cell of a list, or of whatever else is nested: JSON text behind `LIST`."""
    return LIST + json.dumps(value, ensure_ascii=False, default=str)
