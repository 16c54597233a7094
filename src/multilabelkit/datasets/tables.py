"""Tables in text files: cut into rows that are known to fit, each with its line, and then parsed by pandas."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from multilabelkit.checks import shorten, suggest
from multilabelkit.datasets.listings import check_file, is_image_name, join_names, read_text
from multilabelkit.errors import InputError

_SEPARATORS = {".tsv": "\t", ".txt": " "}  # elsewhere a comma
_OTHER_SEPARATORS = (",", ";", "\t")


class Table(NamedTuple):
    """A table in which each row has as many fields as there are columns.

    Attributes
    ----------
    source : Path
    sep : str
        The character between two fields; a blank stands for any number of blanks and tabs.
    columns : list of str
        Their names; "" where there is none.
    lines : ndarray of shape (n_samples,)
        The line in which each row begins, as a text editor counts them, from 1.
    body : bytes
        The rows, not parsed yet.
    """

    source: Path
    sep: str
    columns: list[str]
    lines: np.ndarray
    body: bytes


def read_table(
    path: str | os.PathLike,
    *,
    what: str = "table",
    sep: str | None = None,
    n_rows: int | None = None,
    row_ends: Collection[str] = (),
) -> Table:
    """Return the header and the rows of a file, or refuse a table in which they do not fit together.

    Parameters
    ----------
    path : path
    what : str
        What the file is called in an error message.
    sep : str, optional
        As in `Table`. None goes by the ending of the file: a tab for .tsv, blanks for .txt, and else a comma; or, if
        the first row has none, takes the first of comma, semicolon and tab that it has.
    n_rows : int, optional
        Take only the first rows.
    row_ends : collection of str
        If the last field of the first row is one of these (in lower case), the table has no header.

    Raises
    ------
    InputError
        If the file is not there, not UTF-8, empty, has no row, a column twice, quotes without end or ragged rows.
    """
    source = check_file(path, what=what)
    text = read_text(source)
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n") + "\n"
    raw = text.encode()
    sep = sep or _find_separator(source, text)
    lines, widths = _measure_rows(source, raw, sep)
    if not len(lines):
        raise InputError(f"The {what} '{source}' has only blank lines; it has no row to read.")
    count, fields, body = None, *_cut_row(raw, lines, sep)
    if sep == " " and len(fields) == 1 and fields[0].isdecimal() and len(lines) > 1:  # CelebA's begin with a count
        count, lines, widths = int(fields[0]), lines[1:], widths[1:]
        fields, body = _cut_row(raw, lines, sep)
    if fields[-1].lower() in row_ends:
        columns, body = [""] * len(fields), raw
    else:
        columns = _read_header(source, fields, widths, sep)
        lines, widths = lines[1:], widths[1:]
    if count is not None and n_rows is None and count != len(lines):
        raise InputError(
            f"'{source}' begins with the count {count}, but has {len(lines)} rows. Complete the file, or pass n_rows "
            "to read its first rows."
        )
    _refuse_ragged_rows(source, lines[:n_rows], widths[:n_rows], len(columns))
    return Table(source, sep, columns, lines[:n_rows], body)


def parse_columns(table: Table, places: Iterable[int], *, text: Collection[int]) -> pd.DataFrame:
    """Return some columns of a table, named by their places; those in `text` as strings, NaN where they are empty."""
    frame = pd.read_csv(
        io.BytesIO(table.body),
        header=None,
        index_col=False,
        names=range(len(table.columns)),
        usecols=sorted(set(places)),
        dtype=dict.fromkeys(text, str),
        sep=r"\s+" if table.sep == " " else table.sep,
        quoting=csv.QUOTE_NONE if table.sep == " " else csv.QUOTE_MINIMAL,
        skipinitialspace=True,
        keep_default_na=False,  # an image or a label may be called NA
        na_values=[""],
        nrows=len(table.lines),
        low_memory=False,
    )
    assert len(frame) == len(table.lines)
    return frame


def find_column(table: Table, name: str) -> int:
    """Return the place of a column, or raise InputError."""
    if name not in table.columns:
        known = [column for column in table.columns if column]
        raise InputError(
            f"'{table.source}' has no column {shorten(name)}.{suggest(str(name), known)} It has {join_names(known)}."
        )
    return table.columns.index(name)


def _find_separator(source: Path, text: str) -> str:
    """Return the usual separator, if the first row has it, or else one that it has: a single column is no table."""
    usual = _SEPARATORS.get(source.suffix.lower(), ",")
    first = re.sub('"[^"]*"', "", text.lstrip("\n").partition("\n")[0])
    if usual == " " and "\t" in first:
        return usual
    return next((sep for sep in (usual, *_OTHER_SEPARATORS) if sep in first), usual)


def _measure_rows(source: Path, raw: bytes, sep: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the line of each row, counted from 1, and its number of fields; blank lines are no rows."""
    if sep != " " and b'"' in raw:
        return _measure_quoted_rows(source, raw, sep)
    data = np.frombuffer(raw, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if sep == " ":
        blank = (data == ord(" ")) | (data == ord("\t")) | (data == ord("\n"))
        begins = ~blank
        begins[1:] &= blank[:-1]
        widths = np.diff(np.searchsorted(np.flatnonzero(begins), ends), prepend=0)
    else:
        widths = np.diff(np.searchsorted(np.flatnonzero(data == ord(sep)), ends), prepend=0) + 1
        for place in np.flatnonzero(widths == 1):
            begin = ends[place - 1] + 1 if place else 0
            widths[place] = bool(raw[begin : ends[place]].strip(b" \t"))
    rows = np.flatnonzero(widths)
    return rows + 1, widths[rows]


def _measure_quoted_rows(source: Path, raw: bytes, sep: str) -> tuple[np.ndarray, np.ndarray]:
    """Do the same, ten times slower, where quoted fields may hold separators and line breaks."""
    texts = raw.decode().split("\n")
    reader = csv.reader((f"{text}\n" for text in texts[:-1]), delimiter=sep, skipinitialspace=True, strict=True)
    lines, widths, line = [], [], 1
    try:
        for fields in reader:
            if len(fields) > 1 or texts[line - 1].strip(" \t"):
                lines.append(line)
                widths.append(len(fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"The quotes of the row in line {line} of '{source}' do not match ({error}). Put one at each end of a "
            "quoted field, and write a quote inside it twice."
        ) from None
    return np.array(lines), np.array(widths)


def _cut_row(raw: bytes, lines: np.ndarray, sep: str) -> tuple[list[str], bytes]:
    """Return the fields of the first row, and what follows."""
    stop = int(lines[1]) if len(lines) > 1 else raw.count(b"\n") + 1
    *head, body = raw.split(b"\n", stop - 1)
    text = b"\n".join(head[lines[0] - 1 :]).decode()
    if sep == " ":
        return re.findall(r"[^ \t\n]+", text), body
    row = next(csv.reader(io.StringIO(text), delimiter=sep, skipinitialspace=True))
    return [field.strip() for field in row], body


def _read_header(source: Path, fields: list[str], widths: np.ndarray, sep: str) -> list[str]:
    """Return the names of the columns, or refuse a first row that is no header."""
    image = next(filter(is_image_name, fields), None)
    if image is not None:
        raise InputError(
            f"The first row of '{source}' names the image {image!r}, but must be a header. Write one above it, such as "
            f"{'image,sea,sunset'.replace(',', sep)!r}."
        )
    if len(widths) == 1:
        raise InputError(f"'{source}' has a header but no row. Write one row per image below it.")
    if sep == " " and widths[1] == len(fields) + 1:  # CelebA's have no name above the images
        fields = ["", *fields]
    if len(fields) == 1:
        raise InputError(
            f"'{source}' has the single column {shorten(fields[0])}, if its fields are separated by {sep!r}; it needs "
            "one for the images and one for labels. Pass the right separator as sep."
        )
    names = pd.Series([name for name in fields if name])
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        raise InputError(f"'{source}' has {fields.count(name)} columns named {name!r}. Rename or remove all but one.")
    return fields


def _refuse_ragged_rows(source: Path, lines: np.ndarray, widths: np.ndarray, n_columns: int) -> None:
    """Refuse rows with too many or too few fields; pandas fills the latter with NaN and says nothing."""
    wrong = np.flatnonzero(widths != n_columns)
    if len(wrong):
        raise InputError(
            f"'{source}' has {len(wrong)} row(s) with a wrong number of fields; the first, in line {lines[wrong[0]]}, "
            f"has {widths[wrong[0]]} instead of {n_columns}. Leave a field empty where a label is unknown, and quote a "
            "field that holds the separator."
        )
