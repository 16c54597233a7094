"""What every reader of a data set needs: files found, read and checked, and one form for the result."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from multilabelkit.checks import shorten
from multilabelkit.data.labels import as_indicator
from multilabelkit.errors import InputError

# The file name endings under which the formats that `decode_image` reads are found.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)


def create_bunch(
    paths: Sequence[str],
    target: pd.DataFrame,
    *,
    descr: str,
    return_X_y: bool = False,
    split: Sequence[str] | None = None,
    **more: Any,
) -> Any:
    """Return what a reader found as a Bunch, or as (paths, target).

    Parameters
    ----------
    paths : sequence of n_samples str
    target : DataFrame of shape (n_samples, n_classes)
        0, 1, and NaN for unknown; the columns are the classes.
    descr : str
        Where the data came from and how many images and classes it has.
    return_X_y : bool
        Return only the pair.
    split : sequence of n_samples str, optional
        "train", "valid" or "test" of each image, where the data says so.
    **more
        Further entries of the Bunch, such as a count of what was left out.
    """
    if return_X_y:
        return list(paths), target
    known = {} if split is None else {"split": pd.Series(list(split), name="split", dtype=object)}
    return Bunch(paths=list(paths), target=target, target_names=list(target.columns), DESCR=descr, **known, **more)


def check_file(path: str | os.PathLike, *, what: str = "file") -> Path:
    """Return the path of a file that is there and not empty, or raise InputError."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"The {what} '{path}' does not exist; check the path.")
    if not path.is_file():
        raise InputError(f"'{path}' is a folder, but a {what} is wanted.")
    if path.stat().st_size == 0:
        raise InputError(f"The {what} '{path}' is empty; it has no line to read.")
    return path


def check_folder(path: str | os.PathLike, *, what: str = "folder") -> Path:
    """Return the path of a folder that is there, or raise InputError."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"The {what} '{path}' does not exist; check the path.")
    if not path.is_dir():
        raise InputError(f"'{path}' is a file, but a {what} is wanted.")
    return path


def find_files(folder: Path, suffixes: Collection[str], *, recursive: bool = False) -> list[Path]:
    """Return the files with one of some endings, numbers in their names by value: im2.jpg comes before im10.jpg.

    Parameters
    ----------
    folder : Path
        Where to look; hidden files and folders are left out.
    suffixes : collection of str
        The endings in lower case, such as ``".txt"``.
    recursive : bool
        Look into the folders below, too, but not into linked ones, which may lead round in a circle.
    """
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_sort_by_number)
    files = [
        folder / entry.name
        for entry in shown
        if os.path.splitext(entry.name)[1].lower() in suffixes and not entry.is_dir()
    ]
    for entry in shown:
        if recursive and entry.is_dir(follow_symlinks=False):
            files += find_files(folder / entry.name, suffixes, recursive=True)
    return files


def _sort_by_number(entry: os.DirEntry) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", entry.name)  # text and digits in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], entry.name


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the images of a folder in the order of `find_files`, or raise InputError if there is none."""
    images = find_files(folder, IMAGE_SUFFIXES, recursive=recursive)
    if not images:
        raise InputError(f"'{folder}' holds no image; images are files that end in .jpg, .png and the like.")
    return images


def is_image_name(name: str) -> bool:
    """Tell by its ending whether a file is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def check_listed_images(
    paths: Sequence[str], *, places: Sequence[str], source: str | os.PathLike, must_exist: bool = True
) -> None:
    """Refuse images that are named twice or are not there.

    Parameters
    ----------
    paths : sequence of n_samples str
        Full paths.
    places : sequence of n_samples str
        Where each is named, such as "line 7".
    source : path
        The file that names them.
    must_exist : bool
        Whether to look for the files.

    Raises
    ------
    InputError
        Counts the offenders, and names the first with its place.
    """
    first_places: dict[str, str] = {}
    for path, place in zip(paths, places, strict=True):
        first = first_places.setdefault(path, place)
        if first != place:
            raise InputError(
                f"'{source}' names the image '{path}' twice: in {first} and {place}. Merge the two entries, or remove "
                "one."
            )
    missing = find_missing(paths) if must_exist else []
    if missing:
        first_missing = missing[0]
        raise InputError(
            f"'{source}' names {len(missing)} of {len(paths)} images that do not exist; the first is "
            f"'{paths[first_missing]}' in {places[first_missing]}. Correct the folder of the images, or remove these "
            "entries."
        )


def find_missing(paths: Sequence[str]) -> list[int]:
    """Return the positions of files that are not there; each folder is read once, which is fast for many files."""
    names_in: dict[str, set[str]] = {}
    missing = []
    for place, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in names_in:
            names_in[folder] = _list_names(folder or os.curdir)
        if name not in names_in[folder] and not os.path.isfile(path):
            missing.append(place)
    return missing


def _list_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:  # not there, or may not be entered: each path is then looked at for itself
        return set()


def read_text(path: Path) -> str:
    """Return a text of UTF-8, with or without a byte order mark, or name the line that is something else."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"'{path}', line {line} is not in UTF-8. Save the file in that encoding.") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of the lines that are not blank."""
    lines = enumerate(re.split("\r\n|\n|\r", read_text(path)), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def check_classes(classes: Any) -> list[str] | None:
    """Return the classes that a caller named as a list of different strings, or raise InputError."""
    if classes is None:
        return None
    names = list(as_indicator([[]], classes=classes).columns)
    if not isinstance(names[0], str):
        raise InputError(f"classes must be strings, as all labels in files are. Got {shorten(names)} instead.")
    return names


def join_names(names: Iterable[Any], *, limit: int = 5) -> str:
    """Show the first names of many in a message."""
    names = [shorten(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
