"""What every reader of a data set needs: image files found and checked, and one form for the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from multilabelkit.checks import shorten
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


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, sorted by name; hidden ones are left out."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and is_image_name(entry.name)]
    return [folder / name for name in sorted(names)]


def is_image_name(name: str) -> bool:
    """Tell by its ending whether a file is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def check_listed_images(paths: Sequence[str], *, places: Sequence[str], source: str | os.PathLike) -> None:
    """Refuse images that are named twice or are not there.

    Parameters
    ----------
    paths : sequence of n_samples str
        Full paths.
    places : sequence of n_samples str
        Where each is named, such as "line 7".
    source : path
        The file that names them.

    Raises
    ------
    InputError
        Counts the offenders, and names the first with its place.
    """
    first_places: dict[str, str] = {}
    for path, place in zip(paths, places, strict=True):
        if path in first_places:
            raise InputError(
                f"'{source}' names the image '{path}' twice: in {first_places[path]} and {place}. "
                "Merge the two rows, or remove one."
            )
        first_places[path] = place
    missing = find_missing(paths)
    if missing:
        first = missing[0]
        raise InputError(
            f"'{source}' names {len(missing)} of {len(paths)} images that do not exist; the first is "
            f"'{paths[first]}' in {places[first]}. Correct the folder of the images, or remove these rows."
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


def join_names(names: Iterable[Any], *, limit: int = 5) -> str:
    """Show the first names of many in a message."""
    names = [shorten(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
