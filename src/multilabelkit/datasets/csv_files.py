"""Labels in a table: a column of 0 and 1 for each class, or one column that lists the labels."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from multilabelkit.checks import NON_EMPTY, Check, Choice, Constraint, Interval, check_parameters, shorten, suggest
from multilabelkit.data.labels import as_indicator
from multilabelkit.datasets.listings import check_classes, create_bunch, locate_images
from multilabelkit.datasets.tables import Table, find_column, parse_columns, read_table
from multilabelkit.errors import InputError

__all__ = ["read_csv"]

_PATH = Check(lambda value: isinstance(value, (str, os.PathLike)), "a path")
_SEPARATOR = Check(
    lambda value: isinstance(value, str) and len(value) == 1 and value.isascii() and value not in '"\r\n',
    "a single ASCII character, neither a quote nor a line break",
)
# What the readers of tables and of JSON have in common.
PARAMETERS: dict[str, list[Constraint]] = {
    "path": [_PATH],
    "images": [Choice((None,)), _PATH],
    "label_sep": [Choice((None,)), NON_EMPTY],
    "uncertain": [Choice((None, "missing", "positive", "negative"))],
    "check_files": [Choice((True, False))],
    "return_X_y": [Choice((True, False))],
}
_PARAMETERS: dict[str, list[Constraint]] = {
    **PARAMETERS,
    "image_column": [Choice((None,)), NON_EMPTY],
    "label_column": [Choice((None,)), NON_EMPTY],
    "pattern": [Check(lambda value: isinstance(value, str) and "{id}" in value, "a string with {id} in it")],
    "split": [Choice((None,)), _PATH],
    "sep": [Choice((None,)), _SEPARATOR],
    "n_rows": [Choice((None,)), Interval(int, 1)],
}
_IMAGE_NAMES = ("image", "imageid", "imagepath", "imagename", "path", "filepath", "file", "filename", "name")
_URL_NAMES = ("imageurl", "url")  # rather the file, where a table has both
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_SPLITS |= {"0": "train", "1": "valid", "2": "test"}
_CELLS = {"": math.nan, "na": math.nan, "null": math.nan, "none": math.nan, "true": 1.0, "false": 0.0}
_NAMELESS = re.compile(r"(Unnamed: [0-9.]+)?")  # what pandas calls a column without a name
# In a message of `as_indicator`: labels, whole or cut off, which may hold anything; and what speaks of `y`.
_SHOWN = r"""['"].*?\.\.\.(?= in row \d+ of y |\. Write )|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ABOUT_Y = re.compile(rf"{_SHOWN}|\b[Rr]ow (\d+)(?: of y)?|(as_indicator\(y, )")


class _Columns(NamedTuple):
    """The places of columns in a table."""

    image: int
    split: int | None
    labels: list[int]
    listed: bool  # whether the labels are lists in one column


def read_csv(
    path: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    image_column: str | None = None,
    pattern: str = "{id}",
    classes: Any = None,
    label_column: str | None = None,
    label_sep: str | None = None,
    uncertain: str | None = None,
    split: str | os.PathLike | None = None,
    sep: str | None = None,
    n_rows: int | None = None,
    check_files: bool = True,
    return_X_y: bool = False,
) -> Any:
    r"""Read images and labels from a table with one row per image.

    The labels are in one column per class (0 and 1, -1 and 1, or True and False; an empty cell is unknown), or in a
    single column of lists such as ``sea|sunset`` (an empty cell means no labels). CelebA's attributes are read as
    they are published, .csv or .txt.

    Parameters
    ----------
    path : path
        The table, in UTF-8, with a header. Blank lines and columns without a name (or with pandas' name for these,
        ``Unnamed: 0``) are left out.
    images : path, default=None
        The folder of the images, or a URL such as ``"s3://bucket/photos"``. None takes that of the table. Absolute
        paths and URLs in the table stay as they are.
    image_column : str, default=None
        The column that names the images. None takes image, image_id, path, file, filename, name or the like, in
        capitals or not, or else the first column.
    pattern : str, default="{id}"
        How the name of an image is made from what the table holds, such as ``"{id}.jpg"``.
    classes : sequence of str of shape (n_classes,), default=None
        The classes in the wanted order: columns of the table, or labels in the lists. None takes all other columns,
        or learns the labels, sorted.
    label_column : str, default=None
        The column of lists of labels. None takes the only column beside the images, if it holds text.
    label_sep : str, default=None
        Separator of several labels in a list, such as ``"|"``. Blanks around a label are removed.
    uncertain : {None, "missing", "positive", "negative"}, default=None
        What -1 stands for where 0 or empty cells are beside it: NaN, 1 or 0. If given, it holds for every -1.
    split : str or path, default=None
        A column with train, valid (or val) or test, or 0, 1 or 2, for each image; or a file with two columns, images
        and such splits, with or without a header.
    sep : str, default=None
        The character between two fields; ``" "`` means any number of blanks. None is a tab for .tsv, blanks for .txt,
        and a comma for all others; or, where the header has none, a comma, a semicolon (as Excel writes it in many
        countries) or a tab.
    n_rows : int, default=None
        Read only the first rows.
    check_files : bool, default=True
        Refuse images that do not exist. URLs are not looked up, except ``file://``.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, in the order of the table;
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64, or of 0, 1 and NaN, float32;
        ``target_names`` : list of the n_classes column names;
        ``split`` : Series of n_samples str, "train", "valid" or "test"; only with `split`;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If a file or a column is not there, a row has too many or too few fields, a cell is none of the above, or an
        image is named twice, does not exist or has no split. Lines are those of a text editor, counted from 1.

    See Also
    --------
    read_json : Labels in JSON.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["a.jpg", "b.jpg"]:
    ...         Path(folder, name).touch()
    ...     with open(Path(folder, "labels.csv"), "w", encoding="utf-8") as file:
    ...         print("image,labels", "a.jpg,sea|sunset", "b.jpg,trees", sep="\n", file=file)
    ...     data = read_csv(Path(folder, "labels.csv"), label_sep="|")
    >>> data.target
       sea  sunset  trees
    0    1       1      0
    1    0       0      1
    """
    check_parameters("read_csv", locals(), _PARAMETERS)
    known = check_classes(classes)
    table = read_table(path, sep=sep, n_rows=n_rows)
    columns = _choose_columns(
        table, image_column=image_column, classes=known, label_column=label_column, label_sep=label_sep, split=split
    )
    frame = _parse(table, columns)
    lines = [f"line {line}" for line in table.lines.tolist()]
    ids = _read_ids(table, frame[columns.image])
    names = [pattern.replace("{id}", name) for name in ids]
    paths = locate_images(names, images=images, source=table.source, places=lines, check_files=check_files)
    splits = _read_split(table, frame, columns, split, ids)
    y = _read_labels(table, frame[columns.labels], columns, split_lists=label_sep is not None, classes=known)
    options = {"classes": known, "label_sep": label_sep, "uncertain": uncertain}
    target = encode_file_labels(y, owner="read_csv", source=table.source, places=lines, options=options)
    return create_bunch(
        paths,
        target,
        descr=f"Table in '{table.source}': n_samples={len(paths)}, n_classes={len(target.columns)}.",
        return_X_y=return_X_y,
        split=splits,
    )


def choose_image_name(names: Sequence[str]) -> str:
    """Return the name that a column of images usually has, or else the first name."""
    plain = {re.sub("[ _-]", "", name).lower(): name for name in reversed(names)}
    return next((plain[usual] for usual in (*_IMAGE_NAMES, *_URL_NAMES) if usual in plain), names[0])


def encode_file_labels(
    y: Any, *, owner: str, source: Path, places: Sequence[str], options: dict[str, Any]
) -> pd.DataFrame:
    """Turn labels into a table; a complaint says in which place of which file, and not in which row of `y`."""
    try:
        return as_indicator(y, **options)
    except InputError as error:
        words = {str(row): place for row, place in enumerate(places)} | {"as_indicator(y, ": f"{owner}(path, "}
        text = _ABOUT_Y.sub(lambda found: words.get(found[1] or found[2], found[0]), str(error))
        raise InputError(f"The labels (y) in '{source}' cannot be used: {text}") from None


def _choose_columns(
    table: Table,
    *,
    image_column: str | None,
    classes: list[Any] | None,
    label_column: str | None,
    label_sep: str | None,
    split: str | os.PathLike | None,
) -> _Columns:
    """Say which columns hold images, split and labels."""
    names = table.columns
    image = find_column(table, choose_image_name(names) if image_column is None else image_column)
    split_column = names.index(split) if isinstance(split, str) and split in names else None
    named = [place for place, name in enumerate(names) if not _NAMELESS.fullmatch(name)]
    rest = [place for place in named if place not in (image, split_column)]
    if label_column is not None:
        return _Columns(image, split_column, [find_column(table, label_column)], listed=True)
    if not rest:
        raise InputError(f"'{table.source}' has no column of labels beside that of the images, {names[image]!r}.")
    if label_sep is not None and len(rest) > 1:
        raise InputError(
            f"'{table.source}' has {len(rest)} columns beside that of the images, {names[image]!r}. Say with "
            "label_column=... which of them label_sep splits."
        )
    if label_sep is not None or (classes is not None and len(rest) == 1 and names[rest[0]] not in classes):
        return _Columns(image, split_column, rest, listed=True)
    labels = rest if classes is None else [find_column(table, name) for name in classes]
    return _Columns(image, split_column, labels, listed=False)


def _parse(table: Table, columns: _Columns) -> pd.DataFrame:
    text = {columns.image, *(columns.labels if columns.listed else [])}
    if columns.split is not None:
        text.add(columns.split)
    return parse_columns(table, text.union(columns.labels), text=text)


def _read_ids(table: Table, column: pd.Series) -> list[str]:
    """Return what the column of images holds."""
    ids = column.fillna("").str.strip()
    empty = np.flatnonzero(ids == "")
    if len(empty):
        raise InputError(f"'{table.source}' names no image in line {table.lines[empty[0]]}. Add it, or remove the row.")
    return ids.tolist()


def _read_labels(
    table: Table, frame: pd.DataFrame, columns: _Columns, *, split_lists: bool, classes: list[Any] | None
) -> Any:
    """Return the labels as `as_indicator` takes them: strings or lists of a label, or a table of numbers."""
    only = frame[columns.labels[0]]
    if columns.listed or (classes is None and len(columns.labels) == 1 and _holds_text(only)):
        texts = only.fillna("").str.strip().tolist()
        _refuse_python_lists(table, texts, classes or [])
        return texts if split_lists else [text or [] for text in texts]
    cells = {table.columns[place]: _read_cells(table, place, frame[place]) for place in columns.labels}
    return pd.DataFrame(cells, copy=False)


def _refuse_python_lists(table: Table, texts: list[str], classes: list[Any]) -> None:
    """Refuse what pandas writes for a column of lists; cut at its commas, it would give labels such as "['sea'"."""
    lists = (place for place, text in enumerate(texts) if text[:1] == "[" and text[-1] == "]" and text not in classes)
    found = next(lists, None)
    if found is not None:
        raise InputError(
            f"'{table.source}' has {shorten(texts[found])} in line {table.lines[found]}, as Python writes a list. "
            "Write the labels with a separator between them, such as sea|sky, and pass it as label_sep; or, if this is "
            "the name of one label, name the classes with classes=[...]."
        )


def _holds_text(column: pd.Series) -> bool:
    return column.dtype.kind not in "biuf" and math.inf in map(_read_cell, column.unique())


def _read_cells(table: Table, place: int, column: pd.Series) -> np.ndarray:
    """Return a column of numbers, or refuse what is no cell of a table of labels."""
    if column.dtype.kind in "biuf":
        values = column.to_numpy()
    else:
        codes, texts = pd.factorize(column)
        values = np.array([*map(_read_cell, texts), math.nan])[codes]  # the code of an empty cell is -1
    wrong = np.flatnonzero(~(np.isnan(values) | np.isin(values, (-1, 0, 1))))
    if len(wrong):
        name, found = table.columns[place], column.iloc[wrong[0]]
        raise InputError(
            f"'{table.source}' has {str(found)!r} in line {table.lines[wrong[0]]}, column {name!r}; {len(wrong)} of "
            f"the {len(column)} cells of this column are none of 0, 1, -1 and empty (unknown). Correct them; or, if it "
            f"is no class, name the classes with classes=[...], or pass label_column={name!r} or split={name!r}."
        )
    return values


def _read_cell(value: Any) -> float:
    """Return the number that a cell stands for, infinity if there is none."""
    text = str(value).strip().lower()
    try:
        return _CELLS[text] if text in _CELLS else float(text)
    except ValueError:
        return math.inf


def _read_split(
    table: Table, frame: pd.DataFrame, columns: _Columns, split: str | os.PathLike | None, ids: list[str]
) -> list[str] | None:
    """Return the split of each image."""
    if split is None or columns.split is not None:
        return None if split is None else _name_splits(table, frame[columns.split])
    if not Path(split).exists():
        raise InputError(
            f"The split {str(split)!r} is neither a column of '{table.source}' nor a file that exists."
            f"{suggest(str(split), table.columns)}"
        )
    other = read_table(split, what="split file", row_ends=_SPLITS)
    if len(other.columns) != 2:
        raise InputError(f"The split file '{other.source}' has {len(other.columns)} columns. Keep two: images, splits.")
    parts = parse_columns(other, (0, 1), text=(0, 1))
    split_of: dict[str, str] = {}
    for name, line, part in zip(_read_ids(other, parts[0]), other.lines, _name_splits(other, parts[1]), strict=True):
        if split_of.setdefault(name, part) != part:
            raise InputError(f"'{other.source}' names the image {name!r} again, with another split, in line {line}.")
    missing = [place for place, name in enumerate(ids) if name not in split_of]
    if missing:
        raise InputError(
            f"The split file '{other.source}' does not name {len(missing)} of {len(ids)} images in '{table.source}'; "
            f"the first is {ids[missing[0]]!r} in line {table.lines[missing[0]]}. Add them to it."
        )
    return [split_of[name] for name in ids]


def _name_splits(table: Table, column: pd.Series) -> list[str]:
    """Return "train", "valid" or "test" for each cell."""
    splits = column.str.strip().str.lower().map(_SPLITS)
    wrong = np.flatnonzero(splits.isna())
    if len(wrong):
        raise InputError(
            f"'{table.source}' gives the split {column.fillna('').iloc[wrong[0]]!r} in line {table.lines[wrong[0]]}. "
            "Write train, valid or test, or 0, 1 or 2."
        )
    return splits.tolist()
