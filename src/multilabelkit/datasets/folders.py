"""Images sorted into one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from multilabelkit.checks import Choice, check_parameters
from multilabelkit.data.labels import as_indicator
from multilabelkit.datasets.listings import (
    IMAGE_SUFFIXES,
    check_folder,
    create_bunch,
    find_files,
    join_names,
    warn_of_other_formats,
)
from multilabelkit.errors import InputError, warn

__all__ = ["read_folders"]

# What folders of splits are called, in the order of the result.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}


class _ClassFolder(NamedTuple):
    """A folder whose images share one class, and the split it lies in, if any."""

    path: Path
    split: str | None


def read_folders(folder: str | os.PathLike, *, return_X_y: bool = False) -> Any:
    """Read images that lie in one folder per class, so that each has exactly one label.

    It is for classes that exclude each other. An image that was copied into the folders of several classes is read as
    several images, each without the other labels: write such labels in a table, and use `read_csv`.

    The class folders lie in `folder` itself (``cat/1.jpg``), or in folders of splits in it (``train/cat/1.jpg``)
    that are all called train, training, val, valid, validation, test or testing. Images are files with the ending of
    an image format anywhere below a class folder; other files, hidden files and folders, and what lies behind links
    inside a class folder are left out.

    Parameters
    ----------
    folder : path
        The folder that holds the class folders or the folders of splits.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, sorted by split (train, valid, test), class and name (2.jpg before 10.jpg);
        ``target`` : DataFrame of shape (n_samples, n_classes), int64, with one 1 a row; the columns are the classes
        of all splits, sorted;
        ``target_names`` : list of the n_classes column names;
        ``labels`` : list of n_samples str, the class of each image;
        ``split`` : Series of n_samples str, "train", "valid" or "test"; only where there are folders of splits;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If there are no class folders, a class has no image, or folders of splits lie beside others.

    Warns
    -----
    MultiLabelKitWarning
        If images lie outside the class folders; they are left out.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg"]:
    ...         Path(folder, name).parent.mkdir(parents=True)
    ...         Path(folder, name).touch()
    ...     data = read_folders(folder)
    >>> data.target.assign(split=data.split)
       cat  dog  split
    0    1    0  train
    1    0    1  train
    2    1    0   test
    """
    check_parameters("read_folders", {"return_X_y": return_X_y}, {"return_X_y": [Choice((True, False))]})
    top = check_folder(folder)
    warn_of_other_formats(top, recursive=True)
    images_of = {place: find_files(place.path, IMAGE_SUFFIXES, recursive=True) for place in _list_class_folders(top)}
    classes = sorted({place.path.name for place in images_of})
    labels = [place.path.name for place, images in images_of.items() for _ in images]
    _refuse_empty_classes(top, classes, labels)
    splits = [place.split for place, images in images_of.items() for _ in images if place.split is not None]
    return create_bunch(
        [str(path) for images in images_of.values() for path in images],
        as_indicator([[label] for label in labels], classes=classes),
        descr=f"Images in one folder per class in '{top}': n_samples={len(labels)}, n_classes={len(classes)}.",
        return_X_y=return_X_y,
        split=splits or None,
        labels=labels,
    )


def _list_class_folders(top: Path) -> list[_ClassFolder]:
    """Return every class folder, in the order of the result."""
    split_folders = _find_split_folders(top)
    places: list[tuple[Path, str | None]] = [*split_folders] or [(top, None)]
    class_folders = [_ClassFolder(path, split) for place, split in places for path in _list_folders_or_raise(place)]
    strays = find_files(top, IMAGE_SUFFIXES)
    for place, _ in split_folders:
        strays += find_files(place, IMAGE_SUFFIXES)
    if strays:
        warn(f"{len(strays)} image(s) lie outside the class folders and are left out; the first is '{strays[0]}'.")
    return class_folders


def _find_split_folders(top: Path) -> list[tuple[Path, str]]:
    """Return the folders of splits; none if `top` holds the classes itself."""
    folders = _list_folders_or_raise(top)
    others = [path for path in folders if path.name.lower() not in _SPLITS]
    found = [(path, _SPLITS[path.name.lower()]) for path in folders if path not in others]
    if not others:
        return sorted(found, key=lambda pair: list(_SPLITS.values()).index(pair[1]))
    # A folder called "train" that holds images shows trains; one that holds folders is a split, or too like one.
    unclear = [path for path, _ in found if _list_folders(path)]
    if unclear:
        raise InputError(
            f"'{unclear[0]}' looks like a split, but lies beside {join_names(path.name for path in others)}, which "
            "are no splits. Keep either splits or classes in a folder: move the others away, or rename this one."
        )
    return []


def _list_folders_or_raise(folder: Path) -> list[Path]:
    found = _list_folders(folder)
    if not found:
        raise InputError(f"'{folder}' holds no folders. Put the images of each class in a folder of its own in it.")
    return found


def _list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, linked ones too, sorted by name."""
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))]


def _refuse_empty_classes(top: Path, classes: list[str], labels: list[str]) -> None:
    empty = [name for name in classes if name not in set(labels)]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(classes)} class folders in '{top}' hold no image: {join_names(empty)}. Put images "
            "in them, or remove them."
        )
