"""Labels in JSON: a list of rows, an object with an entry per image, or an object per image, also one a line."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, shorten, suggest
from multilabelkit.data.images import find_local_path
from multilabelkit.datasets.csv_files import PARAMETERS, choose_image_name, encode_file_labels
from multilabelkit.datasets.listings import (
    check_classes,
    check_file,
    create_bunch,
    join_names,
    locate_images,
    read_text,
)
from multilabelkit.errors import InputError

__all__ = ["read_json"]

_PARAMETERS: dict[str, list[Constraint]] = {
    **PARAMETERS,
    "first": [Interval(int, 0)],
    "image_key": PARAMETERS["label_sep"],
    "labels_key": PARAMETERS["label_sep"],
}
_ID_PATTERN: list[Constraint] = [
    Choice((None,)),
    Check(lambda value: isinstance(value, str) and "{id}" in value, "a string with {id} in it"),
]
_NUMBER_PATTERN: list[Constraint] = [
    Check(lambda value: _is_number_pattern(value), "a string with {i} in it, for rows that name no image"),
]
_LABELS_KEYS = ("labels", "label", "tags", "tag", "classes", "categories")
_LAYOUTS = (
    "It must hold a list of rows of numbers, an object with the labels of each image, or a list of objects (or one "
    'object a line) such as {"image": "a.jpg", "labels": ["sea"]}.'
)


class _Entries(NamedTuple):
    """What a file says of each image."""

    ids: list[str] | None  # None where rows belong to images by number
    rows: list[Any]
    places: list[str]


def read_json(
    path: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    image_key: str | None = None,
    pattern: str | None = None,
    first: int = 1,
    classes: Any = None,
    labels_key: str | None = None,
    label_sep: str | None = None,
    uncertain: str | None = None,
    check_files: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Read images and labels from JSON.

    The file holds one of these:

    - an object with an entry per image: ``{"a.jpg": ["sea", "sunset"], "b.jpg": []}``;
    - a list of objects, JSON Lines (one object a line) or a single object: ``{"image": "a.jpg", "labels": ["sea"]}``;
    - a list with a row per image, numbered: ``[[1, -1], [-1, -1]]``. It needs `classes` and `pattern`.

    An object is taken for a single image if, under the keys that `image_key` and `labels_key` describe, it has the
    name of an image and labels; and else for an entry per image.

    The labels of an image are a list of names; an object such as ``{"sea": 1, "sunset": null}``, in which a label left
    out is absent; or a row of numbers, one per class, which needs `classes`: 0 and 1, or -1 and 1, and null or NaN
    for unknown.

    Parameters
    ----------
    path : path
        The file, in UTF-8.
    images : path, default=None
        The folder of the images, or a URL such as ``"s3://bucket/photos"``. None takes that of the file. Absolute
        paths and URLs in the file stay as they are.
    image_key : str, default=None
        The key of the image in a list of objects. None takes image, image_id, path, file, filename, name or the like,
        in capitals or not, or else the first key.
    pattern : str, default=None
        How the name of an image is made: from what the file holds, such as ``"{id}.jpg"`` (None takes it as it is),
        or from the number of the row, such as ``"{i}.jpg"`` or ``"{i:06d}.jpg"``.
    first : int, default=1
        The number of the image to which the first row of a list of rows belongs.
    classes : sequence of str of shape (n_classes,), default=None
        The classes in the wanted order. None learns them, sorted.
    labels_key : str, default=None
        The key of the labels in a list of objects. None takes labels, label, tags, tag, classes or categories, or
        else the only key beside that of the image.
    label_sep : str, default=None
        Separator of several labels in a string, such as ``"|"``.
    uncertain : {None, "missing", "positive", "negative"}, default=None
        What -1 stands for where 0 or null are beside it: NaN, 1 or 0. If given, it holds for every -1.
    check_files : bool, default=True
        Refuse images that do not exist. URLs are not looked up, except ``file://``.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, in the order of the file;
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64, or of 0, 1 and NaN, float32;
        ``target_names`` : list of the n_classes column names;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If the file is not there, not JSON or none of the above, a key is twice in an object, a row has not one cell
        per class, an image is named twice or does not exist, or there are more numbered images than rows. Lines are
        counted from 1, rows (and objects in a list) from 0.

    See Also
    --------
    read_csv : Labels in a table.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["1.jpg", "2.jpg"]:
    ...         Path(folder, name).touch()
    ...     with open(Path(folder, "labels.json"), "w", encoding="utf-8") as file:
    ...         json.dump([[1, 1, -1], [-1, -1, 1]], file)
    ...     data = read_json(Path(folder, "labels.json"), classes=["sea", "sunset", "trees"], pattern="{i}.jpg")
    >>> data.target
       sea  sunset  trees
    0    1       1      0
    1    0       0      1
    """
    check_parameters("read_json", locals(), _PARAMETERS)
    known = check_classes(classes)
    source = check_file(path, what="JSON file")
    entries = _read_entries(source, image_key=image_key, labels_key=labels_key)
    names = _name_images(entries, pattern=pattern, first=first)
    paths = locate_images(names, images=images, source=source, places=entries.places, check_files=check_files)
    if entries.ids is None and check_files:
        _refuse_more_images(source, paths, str(pattern), first)
    entries, known = _spread_objects(entries, known)
    y = _create_table(source, entries, known) if _holds_cells(entries.rows) else entries.rows
    options = {"classes": known, "label_sep": label_sep, "uncertain": uncertain}
    target = encode_file_labels(y, owner="read_json", source=source, places=entries.places, options=options)
    return create_bunch(
        paths,
        target,
        descr=f"JSON in '{source}': n_samples={len(paths)}, n_classes={len(target.columns)}.",
        return_X_y=return_X_y,
    )


def _read_entries(source: Path, *, image_key: str | None, labels_key: str | None) -> _Entries:
    """Tell the layouts apart."""
    text = read_text(source)
    decoder = json.JSONDecoder(object_pairs_hook=_create_object)
    if source.suffix.lower() in (".jsonl", ".ndjson") or _is_one_object_a_line(text, decoder):
        lines = {number: line for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
        data: Any = [_decode(line, decoder, source, number) for number, line in lines.items()]
        places = [f"line {number}" for number in lines]
    else:
        data = _decode(text, decoder, source)
        places = [f"row {row} (counted from 0)" for row in range(len(data))] if isinstance(data, list) else []
    if not isinstance(data, (dict, list)) or not data:
        raise InputError(f"'{source}' holds {shorten(data)}, but no image. {_LAYOUTS}")
    if isinstance(data, dict) and _is_one_image(data, image_key, labels_key):
        data, places = [data], ["the only object"]
    if isinstance(data, dict) and data.keys() >= {"images", "annotations", "categories"}:
        raise InputError(f"'{source}' is a file of COCO's. Read it with read_coco(path, images=...).")
    if isinstance(data, dict):
        return _Entries(list(data), list(data.values()), [f"the entry {shorten(name)}" for name in data])
    if isinstance(data[0], dict):
        return _read_objects(source, data, places, image_key, labels_key)
    wrong = next((place for place, row in enumerate(data) if not isinstance(row, list)), None)
    if wrong is not None:
        raise InputError(f"'{source}' holds {shorten(data[wrong])} in {places[wrong]}. {_LAYOUTS}")
    return _Entries(None, data, places)


def _decode(text: str, decoder: json.JSONDecoder, source: Path, line: int | None = None) -> Any:
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:  # also numbers too long for Python, and lists too deep
        reason, place = str(error), "" if line is None else f", line {line}"
        if line is not None and isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg}: column {error.colno}"
        raise InputError(f"'{source}'{place} cannot be read as JSON: {reason}.") from None


def _create_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict, if no key is lost; `json` alone keeps the last of two equal keys and says nothing."""
    created = dict(pairs)
    if len(created) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        values = " and ".join(shorten(value, limit=40) for name, value in pairs if name == key)
        raise ValueError(f"the key {shorten(key)} is repeated in one object, with {values}; merge them, or remove one")
    return created


def _is_one_object_a_line(text: str, decoder: json.JSONDecoder) -> bool:
    """Tell whether more follows an object in the first line; no other JSON is like that."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and first.startswith("{") and isinstance(decoder.decode(first), dict)
    except (ValueError, RecursionError):
        return False


def _is_one_image(data: dict[str, Any], image_key: str | None, labels_key: str | None) -> bool:
    """Tell the object of an image from one with an entry per image: its keys are named, or called as they usually are.

    The value under the key of the image tells, too: it is a name, where an entry is mostly a list of labels.
    """
    image = image_key or choose_image_name(["", *data])
    labels = labels_key or next((key for key in data if key.lower() in _LABELS_KEYS), "")
    return type(data.get(image)) in (int, str) and (image_key is not None or labels in data)


def _read_objects(
    source: Path, objects: list[Any], places: list[str], image_key: str | None, labels_key: str | None
) -> _Entries:
    """Return image and labels of each object in a list."""
    wrong = next((place for place, entry in enumerate(objects) if not isinstance(entry, dict)), None)
    if wrong is not None:
        raise InputError(f"'{source}' holds {shorten(objects[wrong])} in {places[wrong]}. {_LAYOUTS}")
    if image_key is None and objects[0]:
        image_key = choose_image_name(list(objects[0]))
    labels_key = labels_key or _choose_labels_key(source, [key for key in objects[0] if key != image_key])
    for entry, place in zip(objects, places, strict=True):
        for key in (image_key, labels_key):
            if key not in entry:
                raise InputError(
                    f"'{source}' has no {key!r} in {place}.{suggest(str(key), entry)} Say with image_key and "
                    "labels_key where images and labels are."
                )
    ids = [entry[image_key] for entry in objects]
    odd = next((place for place, name in enumerate(ids) if type(name) not in (int, str) or name == ""), None)
    if odd is not None:
        raise InputError(
            f"'{source}' has {shorten(ids[odd])} as {image_key!r} in {places[odd]}. The name of an image is a "
            "non-empty string or an integer."
        )
    return _Entries([str(name) for name in ids], [entry[labels_key] for entry in objects], places)


def _choose_labels_key(source: Path, keys: Sequence[str]) -> str:
    """Return the key under which labels usually are, or else the only one."""
    known = {key.lower(): key for key in reversed(keys)}
    usual = next((known[name] for name in _LABELS_KEYS if name in known), None)
    if usual is None and len(keys) != 1:
        raise InputError(
            f"The objects in '{source}' have none of the keys {join_names(_LABELS_KEYS, limit=6)}. Beside the image "
            f"they have {join_names(keys) or 'nothing'}; say with labels_key where the labels are."
        )
    return usual or keys[0]


def _name_images(entries: _Entries, *, pattern: str | None, first: int) -> list[str]:
    """Return the name of each image from what names or numbers it."""
    constraints = _NUMBER_PATTERN if entries.ids is None else _ID_PATTERN
    check_parameters("read_json", {"pattern": pattern}, {"pattern": constraints})
    if entries.ids is None:
        return [str(pattern).format(i=first + row) for row in range(len(entries.rows))]
    return entries.ids if pattern is None else [pattern.replace("{id}", name) for name in entries.ids]


def _is_number_pattern(pattern: Any) -> bool:
    try:
        return isinstance(pattern, str) and pattern.format(i=1) != pattern.format(i=2)
    except (AttributeError, LookupError, TypeError, ValueError):  # something else in braces
        return False


def _refuse_more_images(source: Path, paths: Sequence[str], pattern: str, first: int) -> None:
    """A numbered image right before the first or after the last row means that rows and images are shifted."""
    folder = paths[0].removesuffix(pattern.format(i=first))
    for number in (first - 1, first + len(paths)):
        more = folder + pattern.format(i=number)
        if number >= 0 and os.path.exists(find_local_path(more) or ""):
            raise InputError(
                f"'{source}' has {len(paths)} rows, for '{paths[0]}' to '{paths[-1]}', but there is also '{more}'. "
                "Add the missing rows, or correct first, which is the number of the image of the first row."
            )


def _spread_objects(entries: _Entries, classes: list[Any] | None) -> tuple[_Entries, list[Any] | None]:
    """Turn labels that are objects with all classes into rows of numbers, which are read three times faster."""
    first = entries.rows[0]
    if not isinstance(first, dict) or not first or (classes is not None and set(classes) != set(first)):
        return entries, classes
    if not all(isinstance(row, dict) and row.keys() == first.keys() for row in entries.rows):
        return entries, classes
    classes = classes or sorted(first)
    return entries._replace(rows=[[row[name] for name in classes] for row in entries.rows]), classes


def _holds_cells(rows: Sequence[Any]) -> bool:
    """Tell whether the labels are rows of numbers."""
    first = next((row for row in rows if isinstance(row, list) and row), None)
    return first is not None and (first[0] is None or isinstance(first[0], (int, float)))


def _create_table(source: Path, entries: _Entries, classes: list[Any] | None) -> pd.DataFrame:
    """Return rows of cells as a table with one column per class."""
    if classes is None:
        raise InputError(
            f"The labels in '{source}' are rows of numbers. Name the classes in their order with classes=[...]; or, if "
            "the numbers are labels, write them as strings."
        )
    n_classes = len(classes)
    wrong = [place for place, row in enumerate(entries.rows) if not isinstance(row, list) or len(row) != n_classes]
    if wrong:
        row = entries.rows[wrong[0]]
        found = f"a list of {len(row)}" if isinstance(row, list) else shorten(row)
        raise InputError(
            f"'{source}' has {len(wrong)} of {len(entries.rows)} rows that are not lists of {n_classes} numbers, one "
            f"per class; the first, in {entries.places[wrong[0]]}, is {found}."
        )
    _check_cells(source, entries, classes)
    return pd.DataFrame(np.array(entries.rows, dtype=np.float64), columns=classes)


def _check_cells(source: Path, entries: _Entries, classes: list[Any]) -> None:
    """Refuse the first cell that is none; good files have few different values, so that this takes no time."""
    kinds = set(map(type, chain.from_iterable(entries.rows)))
    if kinds <= {int, float, bool, type(None)} and all(map(_is_cell, set(chain.from_iterable(entries.rows)))):
        return
    for row, place in zip(entries.rows, entries.places, strict=True):
        for name, value in zip(classes, row, strict=True):
            if not _is_cell(value):
                raise InputError(
                    f"'{source}' has {shorten(value)} in {place}, column {name!r}. A row of numbers holds 0 and 1, or "
                    "-1 and 1, and null where a label is unknown."
                )


def _is_cell(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and (value in (-1, 0, 1) or value != value))
