"""What every reader of a data set needs: files found, read and checked, and one form for the result."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from multilabelkit.checks import shorten
from multilabelkit.data.images import find_local_path
from multilabelkit.data.labels import as_indicator
from multilabelkit.errors import InputError, warn

# The file name endings under which the formats that `decode_image` reads are found.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
_ID_ADVICE = " A name without an ending may be an id: pass pattern='{id}.jpg' or the like."
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # absolute; other systems would take it for a name in a folder


# Images that people have and that are not read.
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw", ".tga", ".svg", ".dcm"}
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
    found = _find_path(path, what)
    if not found.is_file():
        raise InputError(f"'{found}' is a folder, but a {what} is wanted.")
    if found.stat().st_size == 0:
        raise InputError(f"The {what} '{found}' is empty; it has no line to read.")
    return found


def check_folder(path: str | os.PathLike, *, what: str = "folder") -> Path:
    """Return the path of a folder that is there, or raise InputError."""
    found = _find_path(path, what)
    if not found.is_dir():
        raise InputError(f"'{found}' is a file, but a {what} is wanted.")
    return found


def _find_path(path: str | os.PathLike, what: str) -> Path:
    local = find_local_path(_check_path(path, what))
    if local is None:
        raise InputError(f"The {what} '{path}' is a URL, but must be on this machine. Download it, and pass its path.")
    found = Path(local)
    if not found.exists():
        home = " '~' is not replaced by your home folder; os.path.expanduser does that." if local[:1] == "~" else ""
        raise InputError(f"The {what} '{found}' does not exist; check the path.{home}")
    return found


def _check_path(path: Any, what: str) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"The {what} must be a path. Got {shorten(path)} instead.")
    return os.fspath(path)


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
    warn_of_other_formats(folder, recursive=recursive)
    if not images:
        raise InputError(f"'{folder}' holds no image; images are files that end in .jpg, .png and the like.")
    return images


def warn_of_other_formats(folder: Path, *, recursive: bool = False) -> None:
    """Warn of images that are left out because their format is not read."""
    others = find_files(folder, OTHER_SUFFIXES, recursive=recursive)
    if others:
        warn(
            f"{len(others)} image(s) in '{folder}' are of formats that are not read, and are left out; the first is "
            f"'{others[0]}'. Convert them to JPEG or PNG."
        )


def is_image_name(name: str) -> bool:
    """Tell by its ending whether a file is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def check_image_folder(images: str | os.PathLike, *, must_exist: bool = True) -> str:
    """Return the folder in which images are; it may be behind a URL, where nobody looks whether it is there."""
    path = _check_path(images, "folder of images")
    local = find_local_path(path)
    if local is None:
        return path
    return str(check_folder(local, what="folder of images") if must_exist else Path(local))


def locate_images(
    names: Sequence[str],
    *,
    images: str | os.PathLike | None,
    source: Path,
    places: Sequence[str],
    check_files: bool = True,
) -> list[str]:
    """Return the path of each image, or refuse those that are named twice or, if asked, do not exist.

    Parameters
    ----------
    names : sequence of n_samples str
        What `source` calls them. Absolute paths and URLs stay as they are.
    images : path, optional
        The folder of all others, perhaps a URL. None takes that of `source`.
    source, places, check_files
        As in `check_listed_images`.
    """
    folder = os.path.dirname(source) if images is None else check_image_folder(images, must_exist=check_files)
    join = posixpath.join if find_local_path(folder) is None else os.path.join
    paths = [name if _stands_alone(name) else join(folder, name) for name in names]
    check_listed_images(paths, places=places, source=source, must_exist=check_files)
    return paths


def _stands_alone(name: str) -> bool:
    """Tell URLs and absolute paths of Windows; joining leaves those of this system alone."""
    if ":" not in name and not name.startswith("\\"):  # almost every name, of which there may be a million
        return False
    return bool(_WINDOWS_PATH.match(name)) or find_local_path(name) != name


def check_listed_images(
    paths: Sequence[str], *, places: Sequence[str], source: str | os.PathLike, must_exist: bool = True
) -> None:
    """Refuse images that are named twice or are not there.

    Parameters
    ----------
    paths : sequence of n_samples str
        Full paths, or URLs.
    places : sequence of n_samples str
        Where each is named, such as "line 7".
    source : path
        The file that names them.
    must_exist : bool
        Whether to look for the files. URLs are not looked up, except ``file://``.

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
        path, place = paths[missing[0]], places[missing[0]]
        raise InputError(
            f"'{source}' names {len(missing)} of {len(paths)} images that do not exist; the first is '{path}' in "
            f"{place}.{_explain_missing(path)} Correct the folder of the images, or remove these entries."
        )


def find_missing(paths: Sequence[str]) -> list[int]:
    """Return the positions of files that are not there; each folder is read once, which is fast for many files."""
    names_in: dict[str, set[str]] = {}
    missing = []
    for place, listed in enumerate(paths):
        path = find_local_path(listed) if ":" in listed else listed
        if path is None:  # a URL
            continue
        folder, name = os.path.split(path)
        if folder not in names_in:
            names_in[folder] = _list_names(folder or os.curdir)
        if name not in names_in[folder] and not os.path.isfile(path):
            missing.append(place)
    return missing


def _explain_missing(path: str) -> str:
    """Say what may be wrong with the name of an image, or nothing."""
    hint = "" if is_image_name(path) else _ID_ADVICE
    if os.sep == "/" and "\\" in path:
        return " It is written as on Windows; here, / stands between folders."
    folder, name = os.path.split(str(find_local_path(path)))
    plain = _fold_name(name)
    for other in sorted(_list_names(folder or os.curdir)):
        if plain in (_fold_name(other), _fold_name(os.path.splitext(other)[0])) and is_image_name(other):
            return f" Beside it lies '{other}', whose name differs in its ending, capitals or accents.{hint}"
    return hint


def _fold_name(name: str) -> str:
    """Make names equal that differ only in capitals or, as between macOS and others, in how accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def _list_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:  # not there, or may not be entered: each path is then looked at for itself
        return set()


def read_text(path: Path) -> str:
    """Return a text of UTF-8, with or without a byte order mark, or name the line that is something else."""
    data = path.read_bytes()
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"'{path}' is no text but an archive, such as a workbook of Excel. Save the table as CSV.")
    try:
        return data.decode("utf-8-sig")
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
