"""JSON Lines, one object a row; and lines of Python literals, which some older collections hold instead.

Every line is read for itself, so that an unreadable one costs only itself. Numbers keep the text they have in the
file: an id 1e3 stays "1e3", a huge integer stays whole. A block of nothing but flat objects without escapes, as logs
have them, is read by regular expressions, which is several times as fast as a parser and gives the same.
"""

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import polars as pl

from prismrec.data.sources.cells import AS_GIVEN, LINE, PROBLEM, problem_frame, read_lines, undecoded, whole_lines
from prismrec.data.sources.opening import BLOCK, HEAD, RawFile
from prismrec.data.sources.texts import list_cell
from prismrec.errors import UserError

ROWS_FOR_COLUMNS = 1000
LONGEST_LITERAL = 1024 * 1024  # characters; Python's own parser reads them, which is slow and recursive
DEEPEST_LITERAL = 50
BLANK = "[ \\t\\r]*"
_TEXT = r'"[^"\\\x00-\x1f]*"'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_PAIR = f"{BLANK}{_TEXT}{BLANK}:{BLANK}(?:{_TEXT}|{_NUMBER}|true|false|null){BLANK}"
# JSON's grammar for an object without nesting and escapes.
FLAT_OBJECT = rf"^{BLANK}\{{{_PAIR}(?:,{_PAIR})*\}}{BLANK}$"
Lines = Literal["json_lines", "python_lines"]


class Unreadable(Exception):
    """Why a line is no row; the text is the problem's name."""


@dataclass(frozen=True)
class LinesReader:
    """Reads objects line by line (see `prismrec.data.sources.cells.CellReader`)."""

    file: RawFile
    lines: Lines = "json_lines"
    encoding: str = "utf-8"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names in the first rows, in order of appearance."""
        names: dict[str, None] = {}
        for line in islice(self._raw_lines(HEAD), ROWS_FOR_COLUMNS):
            with suppress(Unreadable):
                names.update(dict.fromkeys(self._object(line)))
        return tuple(names)

    @property
    def described(self) -> dict[str, str]:
        """Format and encoding."""
        return {"format": self.lines, "encoding": self.encoding}

    @property
    def stored_times(self) -> tuple[str, ...]:
        """None: JSON has no times."""
        return ()

    def batches(self, wanted: Sequence[str], lists: Collection[str] = (), size: int = BLOCK) -> Iterator[pl.DataFrame]:
        """Yield the rows."""
        for block, _ in whole_lines(self.file, size):
            plain = self._read_plain(block, wanted)
            if plain is not None:
                yield plain
            elif lines := _split(block):
                yield self._frame(lines, wanted, lists)

    def _frame(self, lines: Sequence[bytes], wanted: Sequence[str], lists: Collection[str]) -> pl.DataFrame:
        cells: list[list[str | None]] = [[] for _ in wanted]
        problems: list[str | None] = []
        given: list[str | None] = []
        for line in lines:
            try:
                row = self._object(line)
                values = [_cell(row.get(name), name in lists) for name in wanted]
            except Unreadable as error:
                values = [None] * len(wanted)
                problems.append(str(error))
                given.append(undecoded(line, self.encoding))
            else:
                problems.append(None)
                given.append(None)
            for column, value in zip(cells, values, strict=True):
                column.append(value)
        return problem_frame(wanted, cells, problems, given)

    def _read_plain(self, block: bytes, wanted: Sequence[str]) -> pl.DataFrame | None:
        """The block by regular expressions; None where a line is not plainly one flat object, each name in it once."""
        if self.lines != "json_lines" or b"\x01" in block or not block.strip():
            return None
        try:
            lines = read_lines(block.decode(self.encoding)).get_column(LINE).drop_nulls()
        except UnicodeDecodeError:
            return None
        named = {name: re.escape(json.dumps(name, ensure_ascii=False)) + BLANK + ":" for name in wanted}
        once = all((lines.str.count_matches(name) <= 1).all() for name in named.values())
        if not once or not lines.str.contains(FLAT_OBJECT).all():
            return None
        cells = [_pick(lines, pattern).alias(name) for name, pattern in named.items()]
        nothing = pl.lit(None, pl.String)
        return pl.DataFrame(cells).with_columns(nothing.alias(PROBLEM), nothing.alias(AS_GIVEN))

    def _raw_lines(self, size: int) -> Iterator[bytes]:
        for block, _ in whole_lines(self.file, size):
            yield from _split(block)

    def _object(self, line: bytes) -> dict[str, Any]:
        """The object of a line."""
        try:
            text = line.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise Unreadable("undecodable") from error
        row = PARSERS[self.lines](text)
        if not isinstance(row, dict):
            raise Unreadable("not_an_object")
        return row


def _pick(lines: pl.Series, name: str) -> pl.Series:
    """The value behind a name in flat objects, as `_cell` gives it."""
    text = lines.str.extract(name + BLANK + '"([^"]+)"')
    bare = lines.str.extract(name + BLANK + r"([^\s\",}]+)")
    return pl.select(pl.coalesce(text, bare.replace("null", None))).to_series()


def _split(block: bytes) -> list[bytes]:
    return [line for line in (line.removesuffix(b"\r") for line in block.split(b"\n")) if line]


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Unreadable("not_json") from error


def _parse_literal(text: str) -> Any:
    """A Python literal; what is long or deep enough to trouble Python's parser is not tried."""
    if len(text) > LONGEST_LITERAL or _depth(text) > DEEPEST_LITERAL:
        raise Unreadable("not_a_literal")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Unreadable("not_a_literal") from error


def _depth(text: str) -> int:
    """An upper bound of how deep brackets and signs nest; those within strings count too."""
    deepest = depth = 0
    for sign in text:
        if sign in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ")]}" and depth:
            depth -= 1
    signs = max(text.count("--"), text.count("+-"), text.count("-+"), text.count("++"), text.count("~~"))
    return max(deepest, signs // 4)


PARSERS: dict[Lines, Callable[[str], Any]] = {"json_lines": _parse_json, "python_lines": _parse_literal}


def _cell(value: Any, may_be_list: bool) -> str | None:
    """A value as text; null for null and for an empty text."""
    if value is None or value == "":
        return None
    if isinstance(value, list | tuple | dict | set):
        if not may_be_list:
            raise Unreadable("nested_value")
        return _encodable(list_cell(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return _encodable(value if isinstance(value, str) else str(value))


def _encodable(text: str) -> str:
    """The text; JSON may name halves of a character, which are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unreadable("undecodable") from error
    return text


def refuse_array(file: RawFile, head: str) -> None:
    """Raise `UserError` for one JSON array, which is no JSON Lines."""
    if head.lstrip().startswith("["):
        raise UserError(
            f"{file.name} is one JSON array, not one object a line.",
            str(file.path),
            f"rewrite it: jq -c '.[]' {file.name} > lines.jsonl",
        )
