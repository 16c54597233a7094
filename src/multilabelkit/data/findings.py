"""What the doctor can find, in words, and the report of it."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

_SEVERITIES = ("error", "warning", "note")
LIMITS = {
    "few": 10,  # of fewer positives, validation gets two or less, which choose no threshold
    "side": 32,
    "aspect": 4,
    "pixels": 25_000_000,
}
N_EXAMPLES, _N_PAIRS, _N_CLASSES, _MANY_LABELS, _WIDTH, _NAME_WIDTH = 5, 5, 20, 8, 100, 36

# Severity and kind, what is wrong, what to do.
_CATALOGUE = """
error unreadable_image
    {count} cannot be read.
    Repair or remove them, or fit with on_bad_image="skip": as they are, training stops.
error unusable_labels
    The labels cannot be used. {problem}
    Mend this and check again: labels are read up to the first such problem.
error length_mismatch
    X holds {n_images:,} images, but y has {n_rows:,} rows.
    Pass one row of labels per image, in the same order; [] is the row of an image without labels.
error exact_duplicate_across_splits
    {count} have the same pixels as others, but lie in another split ({groups}).
    Keep each group in one split, for a model knows what it was trained on.
warning near_duplicate_across_splits
    {count} look the same as others, but lie in another split ({groups}).
    Look at them, and keep each group in one split, for a model knows what it was trained on.
warning exact_duplicate_with_other_labels
    {count} have the same pixels as others, but other labels ({groups}).
    Correct the labels, and keep one image of each group.
warning near_duplicate_with_other_labels
    {count} look the same as others, but have other labels ({groups}).
    Look at them, and correct the labels of those that show the same.
note exact_duplicate
    {count} have the same pixels as others ({groups}).
    Keep one image of each group, or see that no split parts them.
note near_duplicate
    {count} look the same as others ({groups}).
    See that no split parts them: splitters take groups=report.images["duplicate_group"].
warning class_without_positive
    {count} {are} present in no image.
    Nothing can be learnt of them: add images that show them, or leave the classes out.
warning class_missing_in_split
    {count} {are} present in some split, but in no image of another.
    Nothing is learnt or measured of them there: split anew, so that each part has its share of every label.
warning constant_class
    {count} {are} present in every image where they are known.
    Nothing can be learnt of them: add images without them, or leave the classes out.
warning rare_class
    {count} {are} present in fewer than {few} images.
    Validation sees two or less, so that thresholds and scores are a matter of luck: add images that show them.
warning similar_class_names
    {count} differ from others only in case, blanks, hyphens or underscores of their names.
    Give each class one spelling.
warning identical_classes
    {count} have the same labels as others.
    Merge them, or correct the labels.
note nearly_identical_classes
    {count} have nearly the same labels as others.
    See whether they mean the same; if so, merge them.
note opposite_classes
    {count} are absent where others are present, always or nearly so.
    One of the two is enough.
warning image_without_known_label
    {count} {are} unknown in every class.
    Nothing is learnt from them: label them, or leave them out.
note image_without_label
    {count} {have} no label.
    That is right where no class is present; where nobody looked, write NaN (unknown) or leave the image out.
note unknown_labels
    {count} {are} labelled in part: {share} of all labels are unknown.
    Training, thresholds and scores leave unknown labels out.
warning tiny_image
    {count} {are} less than {side} pixels wide or high.
    See that they are no icons or thumbnails: enlarged, they show little.
note extreme_aspect_ratio
    {count} {are} more than {aspect} times as long as wide.
    Squished to a square, what they show is hard to recognise: cut them, or train with resize="pad".
note very_large_image
    {count} {have} more than {pixels:,} pixels.
    They take long to decode in every epoch: scale them down once.
note deep_image
    {count} {have} more than 8 bits per channel.
    The upper 8 bits are kept: scale the values yourself where the lower ones matter.
note mixed_modes
    {count} {are} not of the mode {mode}, as the others are: {modes}.
    All get the colours that the network wants, and what is transparent is laid on white: see that this is right.
note rotated_image
    {count} {are} turned as the camera noted (EXIF orientation).
    See that whoever labelled them saw them turned, too.
note animated_image
    {count} {have} several frames.
    Only the first one is used: save the others as images if they matter.
"""
_LINES = [line.strip() for line in _CATALOGUE.strip().splitlines()]
KINDS = {
    head.split()[1]: (head.split()[0], message, advice)
    for head, message, advice in zip(_LINES[::3], _LINES[1::3], _LINES[2::3], strict=True)
}


@dataclass(frozen=True)
class Finding:
    """One suspicious thing about a data set.

    Attributes
    ----------
    kind : str
        A name for it, such as ``"unreadable_image"``.
    severity : {"error", "warning", "note"}
        An error stops training or makes its scores meaningless, a warning probably does harm, a note is good to know.
    count : int
        How many images it concerns, or how many classes if it is about classes.
    message, advice : str
        What is wrong, and what to do about it.
    examples : tuple of str
        The first offenders by name.
    rows : tuple of int
        All images it concerns, as positions in X.
    classes : tuple of str or int
        All classes it concerns.
    """

    kind: str
    severity: str
    count: int
    message: str
    advice: str
    examples: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    classes: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class DataReport:
    """The result of `check_data`; print it, or take it as a dict or as tables.

    Attributes
    ----------
    findings : tuple of Finding
        The gravest first.
    images : DataFrame of n_samples rows
        Of each image in X: `path`, `width`, `height` (turned as the camera noted), `mode`, `format`, `rotated`,
        `animated`, `error` (why it cannot be read, or None), `n_labels` (known to be present), `split`, and if
        duplicates were looked for `exact_group` and `duplicate_group`. A group is named by the row of its first image,
        and an image without a duplicate is a group of its own: either column can be the `groups` of a splitter.
    label_counts : DataFrame of shape (n_classes, 4), or None
        `positives`, `negatives` and `unknown` of each class, and the `share` of positives among the known.
    cooccurrence : DataFrame of shape (n_classes, n_classes), or None
        How many images have both classes. None without labels or with more than 3,000 classes.
    correlation : DataFrame of shape (n_classes, n_classes), or None
        Phi, the correlation of two classes over the images where both are known; NaN where one of them never varies.
    """

    findings: tuple[Finding, ...]
    images: pd.DataFrame
    label_counts: pd.DataFrame | None = None
    cooccurrence: pd.DataFrame | None = None
    correlation: pd.DataFrame | None = None

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def text(self) -> str:
        """The report to read in a terminal: findings, the gravest first, then tables of labels and images."""
        folder = _find_folder(self.images["path"])
        parts = [_write_headline(self), *(_write_finding(finding, folder) for finding in self.findings)]
        parts += [_write_labels(self), _write_images(self.images, folder)]
        # Names of files and classes may hold anything, also what a terminal obeys or cannot show.
        shown = (char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in "\n\n".join(parts))
        return "".join(shown)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<DataReport of {_write_headline(self)}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the findings, one row each; the columns are the attributes of `Finding`."""
        return pd.DataFrame([asdict(found) for found in self.findings], columns=[part.name for part in fields(Finding)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and None, ready for JSON.

        Returns
        -------
        report : dict
            `ok`; `findings`, `images` and `label_counts` (its classes under `class`; None without labels) as lists of
            one dict per row; and instead of the two tables of pairs `strongest_pairs`, a list of at most 100.
        """
        counts = None if self.label_counts is None else _list_records(self.label_counts.rename_axis("class"))
        return {
            "ok": self.ok,
            "findings": [_to_plain(asdict(finding)) for finding in self.findings],
            "label_counts": counts,
            "strongest_pairs": _list_strongest_pairs(self, limit=100),
            "images": _list_records(self.images),
        }


def create_finding(
    kind: str, count: int, *, total: str = "", examples: Any = (), rows: Any = (), classes: Any = (), **values: Any
) -> Finding:
    """Complete the entry of the catalogue with what its sentence needs."""
    severity, message, advice = KINDS[kind]
    values |= {"are": "is" if count == 1 else "are", "have": "has" if count == 1 else "have"}
    message = message.format(count=f"{count:,} of {total}", **LIMITS, **values)
    rows, classes = tuple(int(row) for row in rows), tuple(classes)
    return Finding(kind, severity, count, message, advice, tuple(examples[:N_EXAMPLES]), rows, classes)


def _list_strongest_pairs(report: DataReport, *, limit: int) -> list[dict[str, Any]]:
    """Return the pairs of classes with the strongest correlation, whatever its sign."""
    if report.correlation is None or report.cooccurrence is None:
        return []
    phi, together = np.triu(report.correlation.to_numpy(), 1), report.cooccurrence.to_numpy()
    strength = np.nan_to_num(np.abs(phi)).ravel()
    strongest = np.argsort(-strength, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(strongest[strength[strongest] > 0], phi.shape), strict=True)
    names = report.correlation.index.tolist()
    return [
        {"classes": [names[i], names[j]], "phi": float(phi[i, j]), "together": int(together[i, j])} for i, j in pairs
    ]


def _to_plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _list_records(table: pd.DataFrame) -> list[Any]:
    table = table.reset_index().astype(object)
    return table.where(table.notna(), None).to_dict(orient="records")


def _write_headline(report: DataReport) -> str:
    numbers = Counter(finding.severity for finding in report.findings)
    found = [count_things(numbers[name], name) for name in _SEVERITIES if numbers[name]]
    total = count_things(len(report.images), "image")
    total += "" if report.label_counts is None else f", {count_things(len(report.label_counts), 'class')}"
    return f"{total}: {', '.join(found) or 'nothing suspicious'}"


def count_things(number: int, what: str) -> str:
    """Return a number and a noun that fits it."""
    ending = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{ending}"


def _find_folder(paths: pd.Series) -> str:
    """Return the beginning that all paths share, up to the last separator in it."""
    first, last = paths.min(), paths.max()  # what these two share, all between them share
    length = next(
        (place for place, chars in enumerate(zip(first, last, strict=False)) if len(set(chars)) > 1), len(last)
    )
    folder = first[: 1 + max(first.rfind(separator, 0, length) for separator in ("/", os.sep))]
    return folder if len(folder) > 1 else ""


def _write_finding(finding: Finding, folder: str) -> str:
    text = f"{finding.severity.upper()} {finding.kind}: {finding.message} {finding.advice}"
    examples = [example.replace(f"'{folder}", "'") if folder else example for example in finding.examples]
    lines = [_fill(f"  - {_cut(example, 3 * _WIDTH)}", indent="    ") for example in examples]
    return "\n".join([_fill(text, indent="  "), *lines])


def _fill(text: str, *, indent: str) -> str:
    """Break a text into lines, but no path or name."""
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _cut(text: str, width: int) -> str:
    """Take out the middle of a text that is too long: of a path, the end tells most."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width // 3]}...{text[len(text) + 3 - width + width // 3 :]}"


def _write_labels(report: DataReport) -> str:
    """Write the classes with their counts, the number of labels per image and the strongest pairs."""
    if report.label_counts is None:
        return "Labels: none"
    table = report.label_counts.sort_values("positives", ascending=False, kind="stable")
    title, half = "Labels", _N_CLASSES // 2
    if len(table) > _N_CLASSES:
        title = f"Labels: the {half} most common and the {half} rarest classes"
        table = pd.concat([table.head(half), table.tail(half)])
    table.index = pd.Index([_cut(str(name), _NAME_WIDTH) for name in table.index])
    lines = [title, table.to_string(formatters={"share": "{:.1%}".format}, na_rep="-")]
    numbers = report.images["n_labels"].dropna()
    if len(numbers):
        counts = numbers.clip(upper=_MANY_LABELS).value_counts().sort_index()
        counts.index = pd.Index([f"with {n}{' or more' if n == _MANY_LABELS else ''}" for n in counts.index])
        text = f"Labels per image: {numbers.mean():.2f} on average; {join_counts(counts)}"
        lines.append(textwrap.fill(text, _WIDTH, subsequent_indent="  "))
    return "\n".join(lines + _write_pairs(report))


def _write_pairs(report: DataReport) -> list[str]:
    pairs = _list_strongest_pairs(report, limit=_N_PAIRS)
    names = [" and ".join(_cut(str(name), _NAME_WIDTH) for name in pair["classes"]) for pair in pairs]
    lines = [f"  {pair['phi']:+.2f}  {pair['together']:7,}  {name}" for name, pair in zip(names, pairs, strict=True)]
    return ["Strongest correlations (phi) of two classes, and the number of images with both", *lines] if lines else []


def _write_images(images: pd.DataFrame, folder: str) -> str:
    """Write the quantiles of the sizes, and how often each format and mode occurs."""
    lines = [f"Formats: {join_counts(images['format'].value_counts())}"]
    lines += [f"Modes: {join_counts(images['mode'].value_counts())}"]
    sides = images[["width", "height"]].dropna().astype(np.float64)
    if len(sides):
        quantiles = sides.quantile([0, 0.05, 0.5, 0.95, 1]).T
        quantiles.columns = pd.Index(["smallest", "5 %", "median", "95 %", "largest"])
        lines.insert(0, quantiles.to_string(float_format="{:.0f}".format))
    return "\n".join([f"Images, all in '{folder}'" if folder else "Images", *lines])


def join_counts(counts: pd.Series) -> str:
    """Return how often each value occurs, as one text."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "not known"


def sort_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Put the gravest first, and among those of one severity keep the order of the catalogue."""
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda found: (_SEVERITIES.index(found.severity), kinds.index(found.kind))))
