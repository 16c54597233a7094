"""Labels in plain text files: one file per class with its images, or one file per image with its labels."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from multilabelkit.checks import NON_EMPTY, Check, Choice, Constraint, check_parameters, shorten, suggest
from multilabelkit.data.labels import as_indicator
from multilabelkit.datasets.listings import (
    check_classes,
    check_folder,
    create_bunch,
    find_files,
    find_images,
    read_lines,
)
from multilabelkit.errors import InputError, warn

__all__ = ["read_class_files", "read_sidecar_files"]

_PARAMETERS: dict[str, list[Constraint]] = {
    "label_sep": [Choice((None,)), NON_EMPTY],
    "missing": [Choice(("error", "ignore"))],
    "pattern": [Check(lambda value: isinstance(value, str) and "{id}" in value, "a string with {id} in it")],
    "recursive": [Choice((True, False))],
    "return_X_y": [Choice((True, False))],
}


def read_class_files(
    folder: str | os.PathLike,
    *,
    images: str | os.PathLike,
    pattern: str = "{id}.jpg",
    classes: Any = None,
    missing: str = "error",
    return_X_y: bool = False,
) -> Any:
    """Read labels from one text file per class, which lists the images that have it, as MIRFLICKR has them.

    A class is called like its file without the ending: ``car.txt`` is the class "car". Each line holds the id of one
    image; blank lines and repeated ids do no harm. An image that is in no file has no labels.

    Parameters
    ----------
    folder : path
        The folder of the class files.
    images : path
        The folder of the images; all images directly in it are read.
    pattern : str, default="{id}.jpg"
        How the name of an image is made from its id: ``"im{id}.jpg"`` if 18077 stands for im18077.jpg, ``"{id}"`` if
        the files hold whole names.
    classes : sequence of str of shape (n_classes,), default=None
        The class files to read, without the ending, in the order of the columns. None reads each .txt file but
        README.txt, sorted by name. MIRFLICKR needs a choice: beside ``car.txt`` it has ``car_r1.txt``, the images
        where a car matters.
    missing : {"error", "ignore"}, default="error"
        What to do about ids without an image. "ignore" leaves them out, with a warning.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, sorted by name (im2.jpg before im10.jpg);
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64;
        ``target_names`` : list of the n_classes column names;
        ``n_missing`` : int, how many images are named but not there;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If a folder or a class file is not there, a line holds several ids or is not UTF-8, an id has no image, or a
        file that `classes` does not name is empty (one that it names is a class without images).

    Warns
    -----
    MultiLabelKitWarning
        If ids without an image are ignored.

    See Also
    --------
    read_sidecar_files : One text file per image.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["im8.jpg", "im9.jpg", "im10.jpg"]:
    ...         Path(folder, name).touch()
    ...     for name, ids in {"car.txt": "8", "sky.txt": "10"}.items():
    ...         with open(Path(folder, name), "w", encoding="utf-8") as file:
    ...             print(ids, file=file)
    ...     data = read_class_files(folder, images=folder, pattern="im{id}.jpg")
    >>> data.target
       car  sky
    0    1    0
    1    0    0
    2    0    1
    """
    _check_parameters("read_class_files", pattern=pattern, missing=missing, return_X_y=return_X_y)
    files = _find_class_files(check_folder(folder), check_classes(classes))
    image_folder = check_folder(images, what="folder of images")
    paths = find_images(image_folder)
    labels: dict[str, set[str]] = {path.name: set() for path in paths}
    places: dict[str, str] = {}
    for name, file in files.items():
        for image, line in _read_ids(file, pattern=pattern, known=labels, may_be_empty=classes is not None).items():
            places.setdefault(image, f"'{file}', line {line}")
            if image in labels:
                labels[image].add(name)
    n_missing = _count_lost(places, known=labels, images=image_folder, missing=missing)
    return create_bunch(
        [str(path) for path in paths],
        as_indicator(list(labels.values()), classes=list(files)),
        descr=f"Class files in '{folder}', images in '{images}': n_samples={len(paths)}, n_classes={len(files)}.",
        return_X_y=return_X_y,
        n_missing=n_missing,
    )


def read_sidecar_files(
    folder: str | os.PathLike,
    *,
    label_sep: str | None = None,
    classes: Any = None,
    recursive: bool = False,
    missing: str = "error",
    return_X_y: bool = False,
) -> Any:
    """Read labels from a text file beside each image: those of ``sea.jpg`` are in ``sea.txt``.

    A label file holds one label a line or, with `label_sep`, several; blank lines and repeated labels do no harm. An
    empty label file belongs to an image without labels.

    Parameters
    ----------
    folder : path
        The folder of the images and label files.
    label_sep : str, default=None
        Separator of several labels in a line, such as ``","``. Blanks around a label are removed.
    classes : sequence of str of shape (n_classes,), default=None
        All classes in the wanted order; any other label is an error. None learns them, sorted; name them where two
        folders, read one after the other, must have the same columns.
    recursive : bool, default=False
        Read the folders below, too, but not linked ones.
    missing : {"error", "ignore"}, default="error"
        What to do about an image without a label file, and a label file (other than README.txt) without an image.
        "ignore" leaves both out, with a warning: nothing says that such an image has no labels.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, sorted by name (im2.jpg before im10.jpg);
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64;
        ``target_names`` : list of the n_classes column names;
        ``n_missing`` : int, how many images and label files were left out;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If there are no images, one lacks its label file or the reverse, two images share one, or a label file is not
        UTF-8, holds a label that is not in `classes`, or a line that looks like several labels.

    Warns
    -----
    MultiLabelKitWarning
        If images or label files are left out.

    See Also
    --------
    read_class_files : One text file per class.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, labels in {"a": "sea, sunset", "b": "", "c": "trees"}.items():
    ...         Path(folder, name + ".jpg").touch()
    ...         with open(Path(folder, name + ".txt"), "w", encoding="utf-8") as file:
    ...             print(labels, file=file)
    ...     data = read_sidecar_files(folder, label_sep=",")
    >>> data.target
       sea  sunset  trees
    0    1       1      0
    1    0       0      0
    2    0       0      1
    """
    options = {"label_sep": label_sep, "recursive": recursive, "missing": missing, "return_X_y": return_X_y}
    _check_parameters("read_sidecar_files", **options)
    known = check_classes(classes)
    images, files = _find_label_files(check_folder(folder), recursive=recursive)
    n_missing = _count_alone(images, files, missing=missing)
    pairs = {path: files[stem] for stem, path in images.items() if stem in files}
    if not pairs:
        raise InputError(f"No image in '{folder}' has a label file; that of sea.jpg is sea.txt beside it.")
    labels = [_read_labels(file, label_sep=label_sep, known=known) for file in pairs.values()]
    names = sorted(set().union(*labels)) if known is None else known
    if not names:
        raise InputError(
            f"No label file in '{folder}' holds a label, so there are no classes to learn. Name them with "
            "classes=[...]."
        )
    return create_bunch(
        [str(path) for path in pairs],
        as_indicator(labels, classes=names),
        descr=f"Label files beside the images in '{folder}': n_samples={len(pairs)}, n_classes={len(names)}.",
        return_X_y=return_X_y,
        n_missing=n_missing,
    )


def _check_parameters(owner: str, **parameters: Any) -> None:
    check_parameters(owner, parameters, {name: _PARAMETERS[name] for name in parameters})


def _find_class_files(folder: Path, classes: list[str] | None) -> dict[str, Path]:
    """Return the file of each class, in the order of the columns."""
    files = {path.stem: path for path in find_files(folder, {".txt"})}
    if classes is None:
        classes = sorted(name for name, path in files.items() if not _is_readme(path))
    if not classes:
        raise InputError(f"'{folder}' holds no class file; a class file is called like its class, such as car.txt.")
    absent = next((name for name in classes if name not in files), None)
    if absent is not None:
        raise InputError(
            f"'{folder}' holds no file '{absent}.txt' for the class {absent!r}.{suggest(absent, files)} "
            "`classes` names the class files without their ending."
        )
    return {name: files[name] for name in classes}


def _is_readme(path: Path) -> bool:
    return path.stem.lower() == "readme"


def _read_ids(file: Path, *, pattern: str, known: Collection[str], may_be_empty: bool) -> dict[str, int]:
    """Return the name of each image in a class file, and the line that names it first."""
    lines: dict[str, int] = {}
    for number, line in read_lines(file):
        image_id = line.strip()
        image = pattern.replace("{id}", image_id)
        if image not in known and len(re.split(r"[\s,;]+", image_id)) > 1:
            raise InputError(
                f"'{file}', line {number} is {shorten(image_id)}, but a class file holds one image id a line. If this "
                "is no class file, name those to read with classes=[...]."
            )
        lines.setdefault(image, number)
    if not lines and not may_be_empty:
        raise InputError(
            f"The class file '{file}' names no image. Remove it, or name all classes with classes=[...], which may be "
            "classes without images."
        )
    return lines


def _count_lost(places: dict[str, str], *, known: Collection[str], images: Path, missing: str) -> int:
    """Return how many images the class files name that are not there."""
    lost = [image for image in places if image not in known]
    if lost:
        _report_missing(
            f"{len(lost)} of {len(places)} images that the class files name are not in '{images}'; the first is "
            f"'{lost[0]}' from {places[lost[0]]}.",
            advice='Correct `images` or `pattern`, or pass missing="ignore" to leave them out.',
            missing=missing,
        )
    return len(lost)


def _find_label_files(folder: Path, *, recursive: bool) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Return the images and the text files, both by their paths without the ending."""
    images: dict[Path, Path] = {}
    for path in find_images(folder, recursive=recursive):
        twin = images.setdefault(path.with_suffix(""), path)
        if twin != path:
            raise InputError(f"'{twin}' and '{path.name}' would share one label file. Rename or remove one of them.")
    return images, {path.with_suffix(""): path for path in find_files(folder, {".txt"}, recursive=recursive)}


def _count_alone(images: dict[Path, Path], files: dict[Path, Path], *, missing: str) -> int:
    """Return how many images lack their label file, and label files their image."""
    images_alone = [path for stem, path in images.items() if stem not in files]
    files_alone = [path for stem, path in files.items() if stem not in images and not _is_readme(path)]
    found = []
    if images_alone:
        found.append(f"{len(images_alone)} image(s) without a label file, such as '{images_alone[0]}'")
    if files_alone:
        found.append(f"{len(files_alone)} label file(s) without an image, such as '{files_alone[0]}'")
    if found:
        _report_missing(
            f"There are {', and '.join(found)}.",
            advice="Add what is missing (an image without labels needs an empty label file), or pass "
            'missing="ignore" to leave them out.',
            missing=missing,
        )
    return len(images_alone) + len(files_alone)


def _report_missing(finding: str, *, advice: str, missing: str) -> None:
    if missing == "error":
        raise InputError(f"{finding} {advice}")
    warn(f"{finding} They are left out.")


def _read_labels(file: Path, *, label_sep: str | None, known: list[str] | None) -> list[str]:
    """Return the labels in a label file, each once."""
    labels: dict[str, None] = {}
    for number, line in read_lines(file):
        parts = [line] if label_sep is None else line.split(label_sep)
        for label in filter(None, map(str.strip, parts)):
            _check_label(label, f"'{file}', line {number}", label_sep=label_sep, known=known)
            labels[label] = None
    return list(labels)


_BOX = re.compile(r"\d+(\s+-?[0-9.eE+-]+){4,}")  # a class number and at least two corners


def _check_label(label: str, place: str, *, label_sep: str | None, known: list[str] | None) -> None:
    """Refuse a label that is not among the classes, or looks like several."""
    if known is not None and label in known:
        return
    if _BOX.fullmatch(label):
        raise InputError(
            f"{place}: {shorten(label)} looks like a box of YOLO's, and no label. Write the names of the classes "
            "instead."
        )
    mark = next((mark for mark in "|;," if mark in label and label_sep is None), None)
    if mark is not None:
        raise InputError(
            f"{place}: {shorten(label)} looks like several labels. Pass label_sep={mark!r} to split it, or name the "
            "classes with classes=[...]."
        )
    if known is not None:
        raise InputError(
            f"{place}: the label {shorten(label)} is not among the {len(known)} classes.{suggest(label, known)} "
            "Correct it, or name every class with classes=[...]."
        )
