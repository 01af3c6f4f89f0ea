"""Cells: what every format is read into, block by block, before anything is made of them.

A batch of cells is a frame with the wanted columns as they stand in the file, `PROBLEM` (null, or why the row
could not be read) and `AS_GIVEN` (the row's text where there is a problem). These two have names of their own, so
that a file may call its columns whatever it likes. Rows in the file are rows in the batches: a row that cannot be
read has null cells. Text formats go by lines; a line longer than `LONGEST_ROW` is no row of a table, and the file is
refused.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Protocol

import polars as pl

from prismrec.data.sources.opening import BLOCK, UTF8_MARK, UTF16_MARKS, RawFile, read_blocks
from prismrec.errors import UserError

LONGEST_ROW = 4 * BLOCK  # bytes
COLUMNS_SHOWN = 30
LINE = "line"
# Columns that the readers add. No column of a file is called that: the first character is a control.
PROBLEM, AS_GIVEN, ROW = "\x1fproblem", "\x1fas_given", "\x1frow"
# Numbers, dates and addresses: what stands in rows and hardly ever in a header.
DATA = re.compile(r"^[-+]?\d+(\.\d+)?$|^\d{4}-\d\d-\d\d|\w@\w")


class CellReader(Protocol):
    """Reads one file of one format.

    Attributes:
        file: the file.
        columns: names of all of its columns, as far as they are known from its head.
        described: the format in words and figures, for the report.
        stored_times: columns of which the file itself says that they are times; their cells are seconds.
    """

    @property
    def file(self) -> RawFile:
        """The file."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of its columns."""

    @property
    def described(self) -> dict[str, str]:
        """The format."""

    @property
    def stored_times(self) -> Collection[str]:
        """Columns of seconds."""

    def batches(self, wanted: Sequence[str], lists: Collection[str] = (), size: int = BLOCK) -> Iterator[pl.DataFrame]:
        """Yield the file's rows.

        Args:
            wanted: columns to read.
            lists: those of them that may hold lists, which come as JSON text.
            size: bytes read at once.

        Raises:
            UserError: the file as a whole cannot be read.
        """


def problem_frame(wanted: Sequence[str], cells: Sequence[Sequence[object]], problems: Sequence[str | None],
                  as_given: Sequence[str | None]) -> pl.DataFrame:  # fmt: skip
    """A batch from Python lists: one of cells for each wanted column."""
    text = dict.fromkeys(wanted, pl.String)
    return pl.DataFrame(
        {**dict(zip(wanted, cells, strict=True)), PROBLEM: problems, AS_GIVEN: as_given},
        schema={**text, PROBLEM: pl.String, AS_GIVEN: pl.String},
    )


def whole_lines(file: RawFile, size: int) -> Iterator[tuple[bytes, bool]]:
    """Yield blocks that end with a line break, and whether a block is the last; a byte order mark is left out.

    Raises:
        UserError: the file is UTF-16, its lines do not end with line feeds, or one is too long to be a row.
    """
    rest: list[bytes] = []
    held = 0
    first = True
    for block in read_blocks(file, size):
        if first:
            _refuse_other_text(file, block)
            block = block.removeprefix(UTF8_MARK)
            first = False
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join([*rest, block[:cut]]), False
            rest, held, block = [], 0, block[cut:]
        rest.append(block)
        held += len(block)
        if held > LONGEST_ROW:
            raise row_too_long(file)
    yield b"".join(rest), True


def read_lines(text: str) -> pl.DataFrame:
    """The lines of a text without the character U+0001 as `LINE`; those without a character are null."""
    return read_csv(text, [LINE], "\x01", None)


def read_csv(text: str, names: Sequence[str], delimiter: str, quote: str | None) -> pl.DataFrame:
    """The cells of a text in which every line has as many as there are names."""
    return pl.read_csv(
        # polars leaves a byte order mark out of whatever it reads first: this one, never a character of a row.
        UTF8_MARK + text.encode(),
        has_header=False,
        new_columns=names,
        infer_schema=False,
        quote_char=quote,
        separator=delimiter,
    )


def row_too_long(file: RawFile) -> UserError:
    """The error of a file without line breaks."""
    return UserError(
        f"{file.name} holds a row of more than {LONGEST_ROW // 2**20} MB.",
        str(file.path),
        "check that it is a table with one row a line, ended by a line feed",
    )


def _refuse_other_text(file: RawFile, head: bytes) -> None:
    """Raise `UserError` for text whose lines do not end with the byte of a line feed."""
    if b"\n" not in head and head.count(b"\r") > 1:
        raise UserError(
            f"{file.name} ends its lines with carriage returns alone.",
            str(file.path),
            f"convert it: tr '\\r' '\\n' < {file.name} > converted",
        )
    sample = head[:4096]
    if head.startswith(UTF16_MARKS) or (len(sample) >= 8 and sample.count(0) * 3 > len(sample)):
        raise UserError(
            f"{file.name} looks like UTF-16 text.",
            str(file.path),
            f"convert it: iconv -f utf-16 -t utf-8 {file.name} > converted",
        )


def undecoded(line: bytes, encoding: str) -> str:
    """A line that is not of its encoding as text, its odd bytes in hexadecimal."""
    return line.decode(encoding, "backslashreplace")


def require_columns(reader: CellReader, needed: dict[str, str], extra: str = "") -> None:
    """Raise `UserError` unless the file has the columns.

    Args:
        reader: the file's reader.
        needed: our column -> the file's column.
        extra: what else may be the matter.
    """
    missing = {ours: given for ours, given in needed.items() if given not in reader.columns}
    if not missing:
        return
    lacks = f"{reader.file.name} has no column {', '.join(map(repr, missing.values()))}."
    if reader.described["format"] == "delimited" and looks_like_data(reader.columns):
        raise without_header(reader.file, reader.columns, lacks)
    there = ", ".join(reader.columns[:COLUMNS_SHOWN]) + (", …" if len(reader.columns) > COLUMNS_SHOWN else "")
    near = {given: get_close_matches(given, reader.columns, n=1, cutoff=0.5) for given in missing.values()}
    meant = "; ".join(f"'{names[0]}' may be meant by '{given}'" for given, names in near.items() if names)
    raise UserError(
        lacks,
        f"{reader.file.path}, whose columns are: {there[:600]}",
        (f"{extra}; " if extra else "")
        + (f"{meant}; " if meant else "")
        + f"say what the columns are called under 'columns' ({', '.join(missing)})",
    )


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether the first row of a table seems to be no header."""
    return any(DATA.search(name) for name in names)


def without_header(file: RawFile, cells: Sequence[str], what: str) -> UserError:
    """The error of a first row that is no header; it does not show the row, which may name a person."""
    return UserError(
        what,
        f"{file.path}, whose first row, of {len(cells)} cells, looks like data and not like names of columns",
        "if no row names the columns, name them all in order under 'header'; otherwise put the names in the first row",
    )
