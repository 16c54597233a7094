"""The doctor: everything suspicious about images and labels, before an hour of training."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from multilabelkit.checks import NON_EMPTY, Choice, Constraint, Interval, check_parameters, shorten
from multilabelkit.data.duplicates import Sketch, group_duplicates, sketch_image
from multilabelkit.data.findings import (
    LIMITS,
    N_EXAMPLES,
    DataReport,
    Finding,
    count_things,
    create_finding,
    join_counts,
    sort_findings,
)
from multilabelkit.data.images import FORMATS, check_images, decode_image, describe_source, read_orientation
from multilabelkit.data.labels import Classes, as_indicator
from multilabelkit.data.threads import map_in_threads
from multilabelkit.errors import ImageDecodeError, InputError

__all__ = ["DataReport", "Finding", "check_data"]

_SHARED_POSITIVES = 3  # fewer images of two classes are alike by accident
_SAME_CLASS = 0.98  # phi
_MAX_PAIRED_CLASSES = 3000  # each table of all pairs takes 72 MB for so many
_DECODED_SIDE = 64  # a JPEG is decoded no larger than this needs, which reads all of the file nevertheless

_PARAMETERS: dict[str, list[Constraint]] = {
    "label_sep": [Choice((None,)), NON_EMPTY],
    "uncertain": [Choice((None, "missing", "positive", "negative"))],
    "duplicates": [Choice((True, False))],
    "num_workers": [Interval(int, 0), Choice((None,))],
    "verbose": [Interval(int, 0), Choice((True, False))],
}


def check_data(
    X: Any,
    y: Any = None,
    *,
    split: Any = None,
    classes: Classes = None,
    label_sep: str | None = None,
    uncertain: str | None = None,
    duplicates: bool = True,
    num_workers: int | None = None,
    verbose: int = 1,
) -> DataReport:
    """Look for everything suspicious in images and labels, before an hour of training.

    Each image is decoded once. Files that cannot be read, labels that `fit` would refuse, duplicates that leak from
    one split into another and whatever else is odd are reported, not raised.

    Parameters
    ----------
    X : sequence of n_samples paths, PIL images or arrays
        As for `fit`.
    y : labels of n_samples images, default=None
        In any format that `as_indicator` takes. None checks the images alone.
    split : array-like of n_samples str, default=None
        The split that each image is in, such as "train", "valid" or "test", or None where it is in none.
    classes, label_sep, uncertain
        As for `as_indicator`.
    duplicates : bool, default=True
        Look for images with the same pixels, and for those that look the same.
    num_workers : int, default=None
        Threads that decode; None means one per processor, at most 8.
    verbose : int or bool, default=1
        0 shows no progress bar.

    Returns
    -------
    report : DataReport
        Print it, or see its `findings`, `images`, `label_counts`, `cooccurrence`, `correlation` and `ok`.

    Raises
    ------
    InputError
        If X is no list of images, `split` has another length, or a parameter is none of the above.

    Examples
    --------
    >>> from multilabelkit.datasets import make_shapes
    >>> data = make_shapes(40)
    >>> images = [*data.images, data.images[0]]
    >>> labels = pd.concat([data.target, data.target.iloc[[0]]])
    >>> report = check_data(images, labels, split=["train"] * 40 + ["test"])
    >>> report.ok
    False
    >>> report.findings[0].message
    '2 of 41 images have the same pixels as others, but lie in another split (1 group).'
    >>> report.findings[0].examples
    ('row 0 in train = row 40 in test',)
    """
    check_parameters("check_data", locals(), _PARAMETERS)
    sources = check_images(X)
    splits = _check_split(split, len(sources))
    labels, findings = _read_labels(y, len(sources), classes=classes, label_sep=label_sep, uncertain=uncertain)
    facts = _scan_images(sources, duplicates=duplicates, num_workers=num_workers, verbose=bool(verbose))
    images = _tabulate_images(sources, facts, splits)
    findings += _check_images(images)
    cells = None if labels is None or len(labels) != len(images) else labels.to_numpy(np.float32)
    if cells is not None:
        images["n_labels"] = pd.array(np.count_nonzero(cells == 1, axis=1), dtype="Int64")
        names = [] if labels is None else list(labels.columns)
        findings += _check_rows(images, cells) + _check_splits(images, cells, names)
    if duplicates:
        _group_images(images, facts)
        findings += _check_duplicates(images, cells)
    tables = () if labels is None else (_count_classes(labels), *_count_pairs(labels))
    findings += _check_classes(*tables) if tables else []
    return DataReport(sort_findings(findings), images, *tables)


def _check_split(split: Any, n_images: int) -> list[str | None]:
    if split is None:
        return [None] * n_images
    is_list = isinstance(split, (list, tuple, np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray))
    names = list(split) if is_list else []
    if len(names) != n_images or any(map(pd.api.types.is_list_like, names)):
        found = f"{len(names)} names" if is_list and len(names) != n_images else shorten(split)
        raise InputError(f"split must name the split of each of the {n_images} images in X. Got {found}.")
    return [None if pd.isna(name) else str(name) for name in names]


def _read_labels(y: Any, n_images: int, **parameters: Any) -> tuple[pd.DataFrame | None, list[Finding]]:
    """Return the table of labels, if they make one, and what is wrong with them as a whole."""
    if y is None:
        return None, []
    try:
        labels = as_indicator(y, **parameters)
    except InputError as error:
        return None, [create_finding("unusable_labels", n_images, problem=error)]
    if len(labels) == n_images:
        return labels, []
    difference = abs(len(labels) - n_images)
    return labels, [create_finding("length_mismatch", difference, n_images=n_images, n_rows=len(labels))]


class _Facts(NamedTuple):
    """What is kept of an image."""

    width: int | None = None
    height: int | None = None
    mode: str | None = None
    format: str | None = None
    rotated: bool = False
    animated: bool = False
    error: str | None = None
    sketch: Sketch | None = None


def _scan_images(sources: Sequence[Any], *, duplicates: bool, num_workers: int | None, verbose: bool) -> list[_Facts]:
    """Decode every image once, in threads; Ctrl-C waits only for those that are being decoded."""
    is_silent = not (verbose and (sys.stderr.isatty() or "ipykernel" in sys.modules))
    facts: list[_Facts] = []
    # Products of small matrices: threads of their own within each of ours would only wait for each other.
    bar = tqdm(total=len(sources), unit="image", leave=False, disable=is_silent)
    with bar, threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about one image each
        for fact in map_in_threads(lambda s: _read_facts(s, duplicates=duplicates), sources, num_workers=num_workers):
            facts.append(fact)
            bar.update()
    return facts


def _read_facts(source: Any, *, duplicates: bool) -> _Facts:
    facts = _read_header(source)
    try:
        pixels = decode_image(source, min_size=None if facts.width is None else _DECODED_SIDE)
    except ImageDecodeError as error:
        return facts._replace(error=error.reasons[0])
    except ImportError as error:  # a URL of a kind that needs another package
        return facts._replace(error=str(error))
    width, height = facts.width or pixels.shape[1], facts.height or pixels.shape[0]
    sketch = sketch_image(pixels, size=(width, height)) if duplicates else None
    return facts._replace(width=width, height=height, sketch=sketch)


def _read_header(source: Any) -> _Facts:
    """Return what an image says of itself; if anything is wrong with it, decoding will tell."""
    with contextlib.suppress(Exception):
        if isinstance(source, Image.Image):
            return _read_notes(source)
        if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
            file = source if isinstance(source, (str, os.PathLike)) else io.BytesIO(source)
            with Image.open(file, formats=FORMATS) as image:
                return _read_notes(image)
    return _Facts()


def _read_notes(image: Image.Image) -> _Facts:
    orientation = read_orientation(image)
    width, height = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
    animated = bool(getattr(image, "is_animated", False))
    return _Facts(width, height, image.mode, image.format, orientation in range(2, 9), animated)


def _tabulate_images(sources: Sequence[Any], facts: Sequence[_Facts], splits: list[str | None]) -> pd.DataFrame:
    columns: dict[str, Any] = {"path": [describe_source(source) for source in sources]}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in _Facts._fields if name != "sketch"}
    columns |= {"n_labels": [None] * len(facts), "split": splits}
    kinds: dict[str, Any] = {
        "width": "Int64",
        "height": "Int64",
        "n_labels": "Int64",
        "rotated": bool,
        "animated": bool,
    }
    # Note: pandas 3 would turn None among strings into NaN, and cannot hold the name of every file as its own strings.
    images = pd.DataFrame({name: pd.Series(column, dtype=kinds.get(name, object)) for name, column in columns.items()})
    return images.rename_axis("row")


def _group_images(images: pd.DataFrame, facts: Sequence[_Facts]) -> None:
    sketched = [(row, fact.sketch) for row, fact in enumerate(facts) if fact.sketch is not None]
    rows = np.array([row for row, _ in sketched], dtype=np.int64)
    groups = group_duplicates([sketch for _, sketch in sketched])
    for name, group in zip(("exact_group", "duplicate_group"), groups, strict=True):
        images[name] = np.arange(len(images))
        images.loc[rows, name] = rows[group]


def _check_images(images: pd.DataFrame) -> list[Finding]:
    """Find what is wrong or odd with single images."""
    sides = images[["width", "height"]].astype(np.float64)
    modes = images["mode"].value_counts()
    usual = modes.index[0] if len(modes) else None
    masks = {
        "unreadable_image": images["error"].notna(),
        "tiny_image": sides.min(axis=1) < LIMITS["side"],
        "extreme_aspect_ratio": sides.max(axis=1) > LIMITS["aspect"] * sides.min(axis=1),
        "very_large_image": sides.prod(axis=1) > LIMITS["pixels"],
        "deep_image": images["mode"].isin(["I", "F"]) | images["mode"].str.startswith("I;16", na=False),
        "mixed_modes": images["mode"].notna() & (images["mode"] != usual),
        "rotated_image": images["rotated"],
        "animated_image": images["animated"],
    }
    return _report_rows(images, masks, mode=usual, modes=join_counts(modes[1:]))


def _check_rows(images: pd.DataFrame, cells: np.ndarray) -> list[Finding]:
    """Find images whose labels are missing, all or in part."""
    unknown = np.isnan(cells)
    masks = {
        "image_without_known_label": unknown.all(axis=1),
        "image_without_label": ~unknown.all(axis=1) & ~(cells == 1).any(axis=1),
        "unknown_labels": unknown.any(axis=1) & ~unknown.all(axis=1),
    }
    return _report_rows(images, masks, share=f"{unknown.mean():.1%}")


def _check_splits(images: pd.DataFrame, cells: np.ndarray, names: list[Any]) -> list[Finding]:
    """Find classes that are present in one split and in no image of another."""
    positives = pd.DataFrame(cells == 1).groupby(images["split"].to_numpy()).sum()
    missing = {split: np.flatnonzero((row == 0) & (positives.sum() > 0)) for split, row in positives.iterrows()}
    examples = [
        f"{shorten(names[place])} in no image of {split}" for split, places in missing.items() for place in places
    ]
    found = sorted({place for places in missing.values() for place in places})
    if not found:
        return []
    total, classes = count_things(len(names), "class"), [names[place] for place in found]
    return [create_finding("class_missing_in_split", len(found), total=total, examples=examples, classes=classes)]


def _report_rows(images: pd.DataFrame, masks: dict[str, Any], **values: Any) -> list[Finding]:
    total = count_things(len(images), "image")
    found = {kind: np.flatnonzero(mask) for kind, mask in masks.items()}
    examples = {kind: [_name_image(images, row) for row in rows[:N_EXAMPLES]] for kind, rows in found.items()}
    return [
        create_finding(kind, len(rows), total=total, examples=examples[kind], rows=rows, **values)
        for kind, rows in found.items()
        if len(rows)
    ]


def _name_image(images: pd.DataFrame, row: Any) -> str:
    path, error = images["path"][row], images["error"][row]
    name = f"row {row}" if path.startswith("<") else f"'{path}' (row {row})"
    return f"{name}: {error}" if isinstance(error, str) else name


def _check_duplicates(images: pd.DataFrame, cells: np.ndarray | None) -> list[Finding]:
    """Find groups of duplicates; those that leak or contradict each other apart from the others."""
    findings = []
    for sort, column in (("exact_duplicate", "exact_group"), ("near_duplicate", "duplicate_group")):
        groups: dict[str, list[np.ndarray]] = {"_across_splits": [], "_with_other_labels": [], "": []}
        for rows in _list_groups(images, column):
            leaks = len(set(images["split"].iloc[rows].dropna())) > 1
            differs = cells is not None and bool(
                np.any((cells[rows] == 0).any(axis=0) & (cells[rows] == 1).any(axis=0))
            )
            for suffix in ["_across_splits"] * leaks + ["_with_other_labels"] * differs or [""]:
                groups[suffix].append(rows)
        findings += [_report_groups(images, sort + suffix, found) for suffix, found in groups.items() if found]
    return findings


def _list_groups(images: pd.DataFrame, column: str) -> list[np.ndarray]:
    """Return the rows of each group of two or more; those that look the same must have different pixels."""
    members = images[images[column].duplicated(keep=False)]
    if column == "duplicate_group":
        members = members[members.groupby(column)["exact_group"].transform("nunique") > 1]
    return [members.index[places].to_numpy() for places in members.groupby(column).indices.values()]


def _report_groups(images: pd.DataFrame, kind: str, groups: list[np.ndarray]) -> Finding:
    rows, total = np.sort(np.concatenate(groups)), count_things(len(images), "image")
    examples = [_join_members(images, group) for group in groups[:N_EXAMPLES]]
    values = {"total": total, "groups": count_things(len(groups), "group")}
    return create_finding(kind, len(rows), examples=examples, rows=rows, **values)


def _join_members(images: pd.DataFrame, rows: np.ndarray) -> str:
    """Show some of a group, of each split one before any second."""
    repeated = images["split"].iloc[rows].duplicated().to_numpy()
    shown = rows[np.argsort(repeated, kind="stable")][:3]
    splits = images["split"][shown]
    names = [_name_image(images, row) + (f" in {split}" if split else "") for row, split in splits.items()]
    return " = ".join(names) + (f" and {len(rows) - 3:,} more" if len(rows) > 3 else "")


def _count_classes(labels: pd.DataFrame) -> pd.DataFrame:
    cells = labels.to_numpy(np.float32)
    positives, negatives = np.count_nonzero(cells == 1, axis=0), np.count_nonzero(cells == 0, axis=0)
    columns = {"positives": positives, "negatives": negatives, "unknown": len(cells) - positives - negatives}
    counts = pd.DataFrame(columns, index=labels.columns)
    return counts.assign(share=counts["positives"] / (counts["positives"] + counts["negatives"]))


def _count_pairs(labels: pd.DataFrame) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Return how many images have both of each two classes, and how the two are correlated where both are known."""
    if labels.shape[1] > _MAX_PAIRED_CLASSES:
        return None, None
    cells = labels.to_numpy(np.float32)
    together, one, both = (np.zeros((labels.shape[1],) * 2) for _ in range(3))
    for block in np.array_split(cells, len(cells) // 8192 + 1):  # float32 counts exactly up to 16 million
        positive, known = (block == 1).astype(np.float32), (~np.isnan(block)).astype(np.float32)
        together += positive.T @ positive
        one += positive.T @ known  # how often the class of the row is present where that of the column is known
        both += known.T @ known
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = (both * together - one * one.T) / np.sqrt(one * (both - one) * one.T * (both - one.T))
    names = labels.columns
    return pd.DataFrame(together.astype(np.int64), names, names), pd.DataFrame(phi, names, names)


def _check_classes(counts: pd.DataFrame, together: pd.DataFrame | None, phi: pd.DataFrame | None) -> list[Finding]:
    """Find classes that teach little, and classes that may be one."""
    positives, constant = counts["positives"], counts["negatives"] == 0
    masks = {
        "class_without_positive": positives == 0,
        "constant_class": (positives > 0) & constant,
        "rare_class": (positives > 0) & (positives < LIMITS["few"]) & ~constant,
    }
    alike = {kind: [[name] for name in counts.index[mask]] for kind, mask in masks.items()}
    alike["similar_class_names"] = _find_similar_names(counts.index)
    if together is not None and phi is not None:
        alike |= _find_paired_classes(together, phi)
    findings = []
    for kind, groups in alike.items():
        names = list(dict.fromkeys(name for group in groups for name in group))
        if names:
            examples = [" and ".join(f"{shorten(n)} ({positives[n]:,})" for n in group[:5]) for group in groups[:5]]
            values: Any = {"total": count_things(len(counts), "class"), "examples": examples, "classes": names}
            findings.append(create_finding(kind, len(names), **values))
    return findings


def _find_similar_names(names: pd.Index) -> list[list[Any]]:
    groups: dict[str, list[Any]] = {}
    for name in names:
        spelling = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", str(name)).casefold())
        groups.setdefault(spelling or str(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _find_paired_classes(together: pd.DataFrame, correlation: pd.DataFrame) -> dict[str, list[list[Any]]]:
    phi, positives = np.triu(correlation.to_numpy(), 1), np.diag(together)
    phi[np.minimum.outer(positives, positives) < _SHARED_POSITIVES] = 0
    same = phi > 1 - 1e-9
    masks = {
        "identical_classes": same,
        "nearly_identical_classes": (phi >= _SAME_CLASS) & ~same,
        "opposite_classes": phi <= -_SAME_CLASS,
    }
    return {kind: [[*together.index[pair]] for pair in np.argwhere(mask)] for kind, mask in masks.items()}
