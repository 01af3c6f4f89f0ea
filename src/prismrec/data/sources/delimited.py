"""Delimited text: one row a line, cells between delimiters, in quotes where a cell holds one.

Blocks in which every line is plainly a row (each byte the encoding's own, each quote where it may stand) are split
by polars; any other block is read row by row here. Both give the same rows. Our choices, where files disagree: a line
without a character is no row; a quoted cell may hold line breaks and doubled quotes; a quote inside an unquoted cell
is a character like any other; a quoted cell that does not end before a delimiter or line break makes its *line*
unreadable, and reading goes on with the next line, so that one stray quote never swallows the rows after it.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from prismrec.data.sources.cells import (
    AS_GIVEN,
    LINE,
    PROBLEM,
    looks_like_data,
    problem_frame,
    read_csv,
    read_lines,
    undecoded,
    whole_lines,
    without_header,
)
from prismrec.data.sources.opening import BLOCK, RawFile
from prismrec.errors import UserError

QUOTE = '"'
DELIMITERS = (",", "\t", ";", "|")
HEADER_BLOCK = 4096  # bytes read at once to find the header
LONGEST_QUOTED = 4 * 1024 * 1024  # characters in which a quoted cell has to end
ROW_END = re.compile(r"\r?\n|\r?\Z")
QUOTED_CELL = re.compile(r'"((?:[^"]++|"")*+)"')


class Row(NamedTuple):
    """A row as it stands: its cells, or why there are none; and its text."""

    cells: list[str] | None
    problem: str | None
    text: str


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        delimiter: one or more characters between cells.
        quoted: whether cells may stand in quotes.
        encoding: a Python encoding in which a line break's byte is nothing else.
        header: names of the columns where the first row names none.
    """

    delimiter: str = ","
    quoted: bool = True
    encoding: str = "utf-8"
    header: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DelimitedReader:
    """Reads a delimited file (see `prismrec.data.sources.cells.CellReader`)."""

    file: RawFile
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def columns(self) -> tuple[str, ...]:
        """The header's names, or those that were declared.

        Raises:
            UserError: a name stands there twice.
        """
        if self.dialect.header is not None:
            return self.dialect.header
        row = self._first_row()
        names = [] if row is None else row.cells or row.text.split(self.dialect.delimiter)
        names = [name.strip() for name in names]
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice and looks_like_data(names):
            raise without_header(self.file, names, f"{self.file.name} names its columns nowhere.")
        if twice:
            raise UserError(
                f"{self.file.name} has more than one column {', '.join(map(repr, twice))}.",
                f"{self.file.path}, first row",
                "give every column a name of its own",
            )
        return tuple(names)

    @property
    def described(self) -> dict[str, str]:
        """Format, delimiter and encoding."""
        return {"format": "delimited", "delimiter": self.dialect.delimiter, "encoding": self.dialect.encoding}

    @property
    def stored_times(self) -> tuple[str, ...]:
        """None: text."""
        return ()

    def batches(self, wanted: Sequence[str], lists: Collection[str] = (), size: int = BLOCK) -> Iterator[pl.DataFrame]:
        """Yield the rows after the header."""
        columns = self.columns
        header_comes = self.dialect.header is None
        for text, rows in self._pieces(len(columns), size):
            if header_comes and text is not None:
                # A line without a character is no row, before the header too.
                first, _, text = text.lstrip("\r\n").partition("\n")
                header_comes = not first
            elif header_comes:
                header_comes, rows = not rows, rows[1:]
            frame = _frame(rows, columns, wanted) if text is None else self._split(text, columns, wanted)
            if len(frame):
                yield frame

    def _first_row(self) -> Row | None:
        rest = b""
        for block, last in whole_lines(self.file, HEADER_BLOCK):
            rows, rest = self._read_carefully(rest + block, last)
            if rows:
                return rows[0]
        return None

    def _pieces(self, width: int, size: int) -> Iterator[tuple[str | None, list[Row]]]:
        """Blocks as plain text that polars may split, or as rows."""
        rest = b""
        for block, last in whole_lines(self.file, size):
            data = rest + block
            text = self._plain(data, width)
            if text is not None:
                yield text, []
                rest = b""
            else:
                rows, rest = self._read_carefully(data, last)
                yield None, rows

    def _read_carefully(self, data: bytes, last: bool) -> tuple[list[Row], bytes]:
        """Rows, and the bytes of a row that goes on behind the block."""
        encoding = self.dialect.encoding
        # Bytes that the encoding lacks become lone surrogates, and turn back into bytes when shown.
        loose = data.decode(encoding, "surrogateescape")
        rows, used = split_rows(loose, self.dialect, last)
        return [self._checked(row) for row in rows], loose[used:].encode(encoding, "surrogateescape")

    def _plain(self, data: bytes, width: int) -> str | None:
        """The block as text where nothing in it needs care."""
        if data.count(b"\r") != data.count(b"\r\n") or b"\x01" in data:
            return None
        try:
            text = data.decode(self.dialect.encoding)
        except UnicodeDecodeError:
            return None
        if self.dialect.quoted and QUOTE in text and not self._well_quoted(text, width):
            return None
        return text

    def _well_quoted(self, text: str, width: int) -> bool:
        """Whether every line is a row of its own, of that many cells, and its quotes all stand where they may."""
        if len(self.dialect.delimiter) > 1 or not self.dialect.delimiter.isascii():
            return False
        cell = r'(?:"(?:[^"]|"")*"|[^"' + re.escape(self.dialect.delimiter) + "]*)"
        row = f"^{cell}(?:{re.escape(self.dialect.delimiter)}{cell}){{{width - 1}}}$"
        return bool(read_lines(text).get_column(LINE).str.contains(row).fill_null(False).all())

    def _checked(self, row: Row) -> Row:
        """The row, unreadable if its text is not of the encoding."""
        try:
            row.text.encode("utf-8")
        except UnicodeEncodeError:
            given = row.text.encode(self.dialect.encoding, "surrogateescape")
            return Row(None, "undecodable", undecoded(given, self.dialect.encoding))
        return row

    def _split(self, text: str, columns: Sequence[str], wanted: Sequence[str]) -> pl.DataFrame:
        """Cells of a plain block."""
        if not text.strip("\r\n"):
            return _frame([], columns, wanted)
        places = {given: f"cell {list(columns).index(given)}" for given in wanted}
        names = [f"cell {i}" for i in range(len(columns))]
        if self.dialect.quoted and QUOTE in text:
            table = read_csv(text, names, self.dialect.delimiter, QUOTE)
            split = table.with_columns(pl.lit(None, pl.String).alias(name) for name in (PROBLEM, AS_GIVEN))
        else:
            split = _split_lines(read_lines(text), names, self.dialect.delimiter)
        cells = (pl.when(pl.col(name) != "").then(pl.col(name)).alias(given) for given, name in places.items())
        return split.select(*cells, PROBLEM, AS_GIVEN)


def _split_lines(lines: pl.DataFrame, names: Sequence[str], delimiter: str) -> pl.DataFrame:
    """Cells of lines without quotes; a line without a character is no row."""
    line = pl.col(LINE)
    whole = line.str.count_matches(delimiter, literal=True) == len(names) - 1
    parts = line.str.split_exact(delimiter, len(names) - 1).struct.rename_fields(names)
    return (
        lines.lazy()
        .filter(line != "")
        .select(
            pl.when(whole).then(parts).alias("parts"),
            pl.when(~whole).then(pl.lit("ragged_row")).alias(PROBLEM),
            pl.when(~whole).then(line).alias(AS_GIVEN),
        )
        .unnest("parts")
        .collect()
    )


def split_rows(text: str, dialect: Dialect, last: bool) -> tuple[list[Row], int]:
    """Split text into rows with all care.

    Args:
        text: lines; a row may go on behind the text's end.
        dialect: how they are written.
        last: whether the text ends the file, so that an open quote is a stray one.

    Returns:
        The rows, and the position behind the last of them.
    """
    rows: list[Row] = []
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].removesuffix("\r")
        if not dialect.quoted or QUOTE not in line:
            if line:
                rows.append(Row(line.split(dialect.delimiter), None, line))
            at = end + 1
            continue
        cells, behind = _quoted_row(text, at, dialect.delimiter)
        if cells is not None:
            rows.append(Row(cells, None, text[at:behind].removesuffix("\n").removesuffix("\r")))
            at = behind
        elif behind and not last and len(text) - at < LONGEST_QUOTED:
            return rows, at
        else:
            rows.append(Row(None, "stray_quote", line))
            at = end + 1
    return rows, min(at, len(text))


def _quoted_row(text: str, at: int, delimiter: str) -> tuple[list[str] | None, int]:
    """Cells of the row at a position, and the position behind it.

    None where a quote is astray; the position is then 0, or -1 if its end may come behind the text.
    """
    cells: list[str] = []
    limit = at + LONGEST_QUOTED
    while True:
        if text.startswith(QUOTE, at):
            found = QUOTED_CELL.match(text, at, limit)
            if found is None:
                return None, -1
            cells.append(found[1].replace('""', QUOTE))
            at = found.end()
        else:
            ends = [position for position in (text.find(delimiter, at), text.find("\n", at)) if position >= 0]
            end = min(ends, default=len(text))
            stops_row = not text.startswith(delimiter, end)
            cells.append(text[at:end].removesuffix("\r") if stops_row else text[at:end])
            at = end
        if text.startswith(delimiter, at):
            at += len(delimiter)
            continue
        tail = ROW_END.match(text, at)
        return (cells, tail.end()) if tail else (None, 0)


def _frame(rows: Sequence[Row], columns: Sequence[str], wanted: Sequence[str]) -> pl.DataFrame:
    """A batch of rows that were split one by one."""
    judged = [_width_checked(row, len(columns)) for row in rows]
    places = [list(columns).index(name) for name in wanted]
    cells = [[(row.cells[place] or None) if row.cells else None for row in judged] for place in places]
    problems = [row.problem for row in judged]
    return problem_frame(wanted, cells, problems, [row.text if row.problem else None for row in judged])


def _width_checked(row: Row, width: int) -> Row:
    if row.cells is None or len(row.cells) == width:
        return row
    return Row(None, "ragged_row", row.text)


def fitting_delimiter(head: str, fits: Collection[str]) -> str | None:
    """The delimiter whose first row holds most of the names in `fits`; without names, that of most cells."""
    line = head.lstrip("\r\n").split("\n", 1)[0].removesuffix("\r")

    def score(delimiter: str) -> int:
        rows, _ = split_rows(line, Dialect(delimiter), last=True)
        cells = rows[0].cells or [] if rows else []
        return len({cell.strip() for cell in cells} & set(fits)) if fits else len(cells)

    best = max(DELIMITERS, key=score)
    return best if score(best) > (0 if fits else 1) else None
