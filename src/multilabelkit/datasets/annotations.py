"""Labels taken from annotated objects: Pascal VOC's XML files and COCO's JSON."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from multilabelkit.checks import Check, Choice, Constraint, check_parameters, shorten, suggest
from multilabelkit.data.labels import as_indicator
from multilabelkit.datasets.listings import (
    check_classes,
    check_file,
    check_folder,
    check_image_folder,
    create_bunch,
    find_files,
    is_image_name,
    join_names,
    locate_images,
    read_lines,
    read_text,
)
from multilabelkit.errors import InputError

__all__ = ["read_coco", "read_voc"]

_VOC_PARAMETERS: dict[str, list[Constraint]] = {
    "image_set": [Choice((None,)), Check(lambda value: isinstance(value, str) and value != "", "a name like 'train'")],
    "difficult": [Choice(("missing", "present"))],
    "return_X_y": [Choice((True, False))],
}
_SPLIT_OF = {"train": "train", "val": "valid", "test": "test"}
_DIFFICULT_VALUES = {"": False, "0": False, "1": True}
_Kinds = tuple[set[type], str]
_ID: _Kinds = ({int, float, str}, "a number or a non-empty string")
_NAME: _Kinds = ({str}, "a non-empty string")
_COCO_FIELDS: dict[str, dict[str, _Kinds]] = {
    "images": {"id": _ID, "file_name": _NAME},
    "annotations": {"image_id": _ID, "category_id": _ID},
    "categories": {"id": _ID, "name": _NAME},
}
_COCO_KEYS = {*_COCO_FIELDS, *chain.from_iterable(_COCO_FIELDS.values())}


def read_voc(
    folder: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    image_set: str | None = None,
    difficult: str = "missing",
    classes: Any = None,
    return_X_y: bool = False,
) -> Any:
    """Read the objects in Pascal VOC annotations as labels: an image has the label of each object in it.

    An annotation without objects is an image without labels. Images without an annotation are not read.

    Parameters
    ----------
    folder : path
        A folder as VOC2012, with ``Annotations`` (one .xml file per image), ``JPEGImages`` and ``ImageSets``; or the
        folder of the .xml files itself, beside which the others may lie.
    images : path, default=None
        The folder of the images. None takes ``JPEGImages``.
    image_set : str, default=None
        Read the images, in this order, that ``ImageSets/Main`` lists under this name, such as "trainval". None reads
        every annotation.
    difficult : {"missing", "present"}, default="missing"
        What an object marked as difficult stands for. "missing" makes its class unknown (NaN) in the image, unless
        another object shows it; "present" takes it like any other.
    classes : sequence of str of shape (n_classes,), default=None
        All classes in the wanted order; an object of any other is an error. None learns them, sorted; name them
        where two lists, read one after the other, must have the same columns.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, sorted by the names of the annotations, or as in `image_set`; taken from
        their <filename> (.jpg is added if it has no ending), or else from their own names;
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64, or of 0, 1 and NaN, float32;
        ``target_names`` : list of the n_classes column names;
        ``split`` : Series of n_samples str, "train", "valid" or "test"; only where the lists train, val and test in
        ``ImageSets/Main`` name every image that is read;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If a folder, a list, an annotation or an image is not there, two annotations or lists name one image, or an
        annotation is not XML of VOC, declares entities (which can exhaust the memory) or holds an unfit object.

    See Also
    --------
    read_coco : COCO's one file for all images.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, label in {"1": "cat", "2": "dog"}.items():
    ...         Path(folder, name + ".jpg").touch()
    ...         with open(Path(folder, name + ".xml"), "w", encoding="utf-8") as file:
    ...             print(f"<annotation><object><name>{label}</name></object></annotation>", file=file)
    ...     data = read_voc(folder, images=folder)
    >>> data.target
       cat  dog
    0    1    0
    1    0    1
    """
    options = {"image_set": image_set, "difficult": difficult, "return_X_y": return_X_y}
    check_parameters("read_voc", options, _VOC_PARAMETERS)
    known = check_classes(classes)
    top = check_folder(folder)
    annotations, top = (top / "Annotations", top) if (top / "Annotations").is_dir() else (top, top.parent)
    image_folder = _find_image_folder(top, images)
    files = _list_annotations(annotations, top / "ImageSets" / "Main", image_set)
    names, labels = zip(*(_read_annotation(file, difficult=difficult, known=known) for file in files), strict=True)
    places = [f"'{file.name}'" for file in files]
    paths = locate_images(names, images=image_folder, source=annotations, places=places)
    target_names = sorted(set().union(*labels)) if known is None else known
    _refuse_unknown(labels, target_names, annotations)
    return create_bunch(
        paths,
        as_indicator(list(labels), classes=target_names),
        descr=f"Pascal VOC annotations in '{annotations}': n_samples={len(paths)}, n_classes={len(target_names)}.",
        return_X_y=return_X_y,
        split=_find_split([file.stem for file in files], top / "ImageSets" / "Main", image_set),
    )


def _find_image_folder(top: Path, images: str | os.PathLike | None) -> Path:
    if images is not None:
        return check_folder(images, what="folder of images")
    if not (top / "JPEGImages").is_dir():
        raise InputError(f"'{top}' holds no folder 'JPEGImages'; pass images=... to name the folder of the images.")
    return top / "JPEGImages"


def _list_annotations(annotations: Path, lists: Path, image_set: str | None) -> list[Path]:
    """Return the annotations to read, in their order."""
    files = {path.stem: path for path in find_files(annotations, {".xml"})}
    if not files:
        raise InputError(f"'{annotations}' holds no .xml file, so there are no annotations to read.")
    if image_set is None:
        return list(files.values())
    source = check_file(lists / f"{image_set}.txt", what="list of images")
    lines = _read_image_list(source)
    if not lines:
        raise InputError(f"The list of images '{source}' names no image; it has only blank lines.")
    for name, line in lines.items():
        if name not in files:
            raise InputError(
                f"'{source}', line {line} names {shorten(name)}, but there is no '{name}.xml' in '{annotations}'. A "
                "line holds the name of one annotation without its ending; correct or remove it."
            )
    return [files[name] for name in lines]


def _read_image_list(source: Path) -> dict[str, int]:
    """Return the names in a list of images, and the line of each."""
    lines: dict[str, int] = {}
    for number, line in read_lines(source):
        name = line.strip()
        if name in lines:
            raise InputError(
                f"'{source}' names {shorten(name)} twice: in line {lines[name]} and line {number}. Remove one."
            )
        lines[name] = number
    return lines


def _find_split(names: Sequence[str], lists: Path, image_set: str | None) -> list[str] | None:
    """Return the split of each annotation, if the lists of the splits name them all."""
    if image_set in _SPLIT_OF:
        return [_SPLIT_OF[image_set]] * len(names)
    if image_set not in (None, "trainval"):
        return None
    sources = {lists / f"{name}.txt": split for name, split in _SPLIT_OF.items()}
    source_of: dict[str, Path] = {}
    for source in filter(Path.is_file, sources):
        for name, line in _read_image_list(source).items():
            if name in source_of:
                raise InputError(
                    f"'{source}', line {line} names {shorten(name)}, which is in '{source_of[name]}', too. An image "
                    "belongs to one split: remove it from one of the lists, or pass image_set=... to read one of them."
                )
            source_of[name] = source
    return [sources[source_of[name]] for name in names] if source_of.keys() >= set(names) else None


def _read_annotation(file: Path, *, difficult: str, known: list[str] | None) -> tuple[str, dict[str, int | None]]:
    """Return the name of the image, and each class in it as 1 or None (unknown)."""
    root = _parse_xml(check_file(file))
    labels: dict[str, int | None] = {}
    for place, item in enumerate(root.findall("object"), start=1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"'{file}': object {place} has no <name>. Add its class, or remove the object.")
        if known is not None and name not in known:
            raise InputError(
                f"'{file}': object {place} is {shorten(name)}, which is not among the {len(known)} classes."
                f"{suggest(name, known)} Name every class with classes=[...], or read all and choose columns later."
            )
        if _is_difficult(item, f"'{file}': object {place}") and difficult == "missing":
            labels.setdefault(name, None)
        else:
            labels[name] = 1
    name = (root.findtext("filename") or "").strip() or file.stem
    return name if is_image_name(name) else f"{name}.jpg", labels


def _is_difficult(item: ET.Element, place: str) -> bool:
    mark = (item.findtext("difficult") or "").strip()
    if mark not in _DIFFICULT_VALUES:
        raise InputError(f"{place} has {shorten(mark)} as <difficult>, which must be 0 or 1. Correct it.")
    return _DIFFICULT_VALUES[mark]


def _parse_xml(file: Path) -> ET.Element:
    """Return the root of an annotation that declares no entities: a few lines of them unfold to gigabytes."""
    data = file.read_bytes()
    plain = data.replace(b"\0", b"")  # makes ASCII of UTF-16 and UTF-32; every other encoding of XML contains ASCII
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise InputError(f"'{file}' holds a DOCTYPE or ENTITY declaration, which is not safe to read. Remove it.")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two for an encoding that is not known
        raise InputError(f"'{file}' cannot be read as XML: {error}. Repair or remove it.") from None
    if root.tag != "annotation":
        raise InputError(f"'{file}' is no annotation of Pascal VOC: it holds <{root.tag}> instead of <annotation>.")
    return root


def _refuse_unknown(labels: Iterable[dict[str, int | None]], classes: list[str], annotations: Path) -> None:
    """Refuse data in which nothing is known."""
    if not classes:
        raise InputError(f"No annotation in '{annotations}' holds an object. Name the classes with classes=[...].")
    if all(len(row) == len(classes) and 1 not in row.values() for row in labels):
        raise InputError(
            f"Every object in '{annotations}' is marked as difficult, so that no label is known. Pass "
            'difficult="present" to take them like any other.'
        )


def read_coco(
    annotation_file: str | os.PathLike,
    *,
    images: str | os.PathLike,
    classes: Any = None,
    check_files: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Read the objects in a COCO file (``instances_*.json``) as labels: an image has the label of each object in it.

    Crowds (``iscrowd``) count like any object. An image without annotations has no labels.

    Parameters
    ----------
    annotation_file : path
        JSON with the lists ``images`` (id, file_name), ``annotations`` (image_id, category_id) and ``categories``
        (id, name).
    images : path
        The folder of the images, or a URL. Absolute paths and URLs in the file stay as they are.
    classes : sequence of str of shape (n_classes,), default=None
        The categories to read, in the order of the columns. None takes all, as in the file.
    check_files : bool, default=True
        Refuse images that do not exist. URLs are not looked up, except ``file://``.
    return_X_y : bool, default=False
        Return only the paths and the target.

    Returns
    -------
    data : Bunch
        ``paths`` : list of n_samples str, as in the file;
        ``target`` : DataFrame of shape (n_samples, n_classes) of 0 and 1, int64;
        ``target_names`` : list of the n_classes column names;
        ``DESCR`` : str, where the data came from.
    (paths, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    InputError
        If the file is not there or not JSON, lacks a list or a key, names something twice, or names an image,
        category or image file that does not exist.

    See Also
    --------
    read_voc : Pascal VOC's one file per image.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> content = {
    ...     "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    ...     "annotations": [{"image_id": 9, "category_id": 1}],
    ...     "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["a.jpg", "b.jpg"]:
    ...         Path(folder, name).touch()
    ...     with open(Path(folder, "instances.json"), "w", encoding="utf-8") as file:
    ...         json.dump(content, file)
    ...     data = read_coco(Path(folder, "instances.json"), images=folder)
    >>> data.target
       cat  dog
    0    0    0
    1    1    0
    """
    for name, value in {"check_files": check_files, "return_X_y": return_X_y}.items():
        check_parameters("read_coco", {name: value}, {name: [Choice((True, False))]})
    wanted = check_classes(classes)
    source = check_file(annotation_file, what="annotation file")
    folder = check_image_folder(images, must_exist=check_files)
    content = _read_json(source)
    image_ids, file_names = _read_columns(source, content, "images", unique=("id",))
    category_ids, names = _read_columns(source, content, "categories", unique=("id", "name"))
    labels: dict[Any, set[str]] = {image_id: set() for image_id in image_ids}
    name_of: dict[Any, str] = dict(zip(category_ids, names, strict=True))
    pairs = zip(*_read_columns(source, content, "annotations"), strict=True)
    for place, (image_id, category_id) in enumerate(pairs):
        if image_id not in labels or category_id not in name_of:
            what, value = ("image", image_id) if image_id not in labels else ("category", category_id)
            raise InputError(
                f"'{source}': annotations[{place}] names the {what} {shorten(value)}, which is no 'id' in the list of "
                "those. Add it there, or remove the annotation."
            )
        labels[image_id].add(name_of[category_id])
    places = [f"images[{place}]" for place in range(len(file_names))]
    paths = locate_images(file_names, images=folder, source=source, places=places, check_files=check_files)
    target = as_indicator(list(labels.values()), classes=names)[_choose_categories(source, names, wanted)]
    return create_bunch(
        paths,
        target,
        descr=f"COCO annotations in '{source}': n_samples={len(target)}, n_classes={len(target.columns)}.",
        return_X_y=return_X_y,
    )


def _read_json(source: Path) -> Any:
    text = read_text(source)
    try:
        return json.loads(text, object_pairs_hook=_keep_needed)
    except (ValueError, RecursionError) as error:  # also numbers too long for Python, and lists too deep
        raise InputError(f"'{source}' cannot be read as JSON: {error}.") from None


def _keep_needed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop polygons and boxes as soon as they are parsed, which halves the time and saves gigabytes."""
    return {key: value for key, value in pairs if key in _COCO_KEYS}


def _read_columns(source: Path, content: Any, name: str, *, unique: Sequence[str] = ()) -> list[list[Any]]:
    """Return one list per field of the entries of a list in a COCO file."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not (entries or name == "annotations"):
        raise InputError(
            f"'{source}' has no list {name!r} with something in it. COCO's files of objects have the lists 'images', "
            "'annotations' and 'categories'."
        )
    columns = []
    for key, (kinds, words) in _COCO_FIELDS[name].items():
        column = [entry.get(key) if isinstance(entry, dict) else None for entry in entries]
        if "" in column or not kinds.issuperset(map(type, column)):
            place = next(place for place, value in enumerate(column) if value == "" or type(value) not in kinds)
            raise InputError(
                f"'{source}': {name}[{place}] must have {words} as {key!r}. Got {shorten(column[place])} instead."
            )
        if key in unique:
            _refuse_repeated(source, name, key, column)
        columns.append(column)
    return columns


def _refuse_repeated(source: Path, name: str, key: str, column: list[Any]) -> None:
    first_places: dict[Any, int] = {}
    for place, value in enumerate(column):
        first = first_places.setdefault(value, place)
        if first != place:
            raise InputError(
                f"'{source}': {name}[{first}] and {name}[{place}] have the same {key!r}, {shorten(value)}. Merge them, "
                "or remove one."
            )


def _choose_categories(source: Path, names: list[str], wanted: list[str] | None) -> list[str]:
    """Return the columns to keep, in their order."""
    absent = next((name for name in wanted or [] if name not in names), None)
    if absent is not None:
        raise InputError(
            f"'{source}' has no category {absent!r}, which classes=[...] names.{suggest(absent, names)} It has "
            f"{join_names(names)}."
        )
    return wanted or names
