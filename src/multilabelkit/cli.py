"""The ``multilabelkit`` command."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multilabelkit import __version__
from multilabelkit.errors import InputError, MultiLabelKitError, MultiLabelKitWarning

_N_TRAIN, _N_TEST, _N_SHOWN = 3000, 1000, 16
_MARKER = ".multilabelkit-demo"  # in a folder that the demo has made, and so may overwrite


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an error that it explained, 130 after Ctrl-C."""
    options = _create_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except MultiLabelKitError as error:
        print(f"multilabelkit: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("multilabelkit: interrupted", file=sys.stderr)
        return 130


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="multilabelkit", description="Multi-label image classification.")
    parser.add_argument("--version", action="version", version=f"multilabelkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_check(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train, tune, report, save and reload on handwritten digits, in about a minute and without a network",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("multilabelkit-demo"),
        help="folder for the images, the model and the picture (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=_create_number_reader(1, 10_000),
        default=8,
        help="passes over the training images (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_create_number_reader(0, 2**32 - 1),
        default=0,
        help="seed of everything random (default: %(default)s)",
    )
    demo.set_defaults(run=_run_demo)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="look for everything suspicious in images and labels, before an hour of training",
        description="Look for everything suspicious in images and labels. The exit status is 1 if there is an error.",
    )
    check.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a folder with one folder per class, or with images (each with its labels in a .txt file beside it, or "
        "without labels); or a table (.csv, .tsv, .txt), .json or .jsonl file that names images and labels",
    )
    check.add_argument("--images", type=Path, metavar="FOLDER", help="the folder of the images (default: that of DATA)")
    check.add_argument("--label-sep", metavar="TEXT", help="what separates several labels in one field, such as '|'")
    check.add_argument("--split", metavar="COLUMN", help="the column of a table that names each image's split")
    check.add_argument(
        "--uncertain",
        choices=("missing", "positive", "negative"),
        help="what -1 stands for in a table or JSON file that holds 0 or empty fields as well",
    )
    check.add_argument("--json", type=Path, metavar="FILE", help="write the whole report to a JSON file")
    check.add_argument("--csv", type=Path, metavar="FILE", help="write the table with one row per image to a CSV file")
    check.add_argument("--no-duplicates", action="store_true", help="do not look for duplicates")
    check.add_argument(
        "--num-workers",
        type=_create_number_reader(0, 1024),
        metavar="N",
        help="threads that decode images (default: one per processor, at most 8)",
    )
    check.set_defaults(run=_run_check)


def _create_number_reader(low: int, high: int) -> Callable[[str], int]:
    """Return what turns an argument into a number, or makes argparse explain what it must be."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return read


def _run_demo(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    folder = options.output
    _claim_folder(folder)
    print(f"Writing {_N_TRAIN} training and {_N_TEST} test images with 0 to 4 handwritten digits each to {folder}/")
    train_paths, train_labels = _write_digits(folder / "train", _N_TRAIN, seed=options.seed, split="train")
    test_paths, test_labels = _write_digits(folder / "test", _N_TEST, seed=options.seed, split="test")

    from multilabelkit.classifier import MultiLabelImageClassifier

    print("Training a small network from scratch, then tuning one threshold per class on held-out images")
    classifier = MultiLabelImageClassifier(
        "plain_cnn",
        color_mode="grey",
        image_size=96,
        augment=None,  # a mirrored digit is no digit
        max_epochs=options.epochs,
        learning_rate=3e-3,
        backbone_lr_factor=1.0,
        random_state=options.seed,
    )
    classifier.fit(train_paths, train_labels)
    print(f"\nOn {_N_TEST} test images, drawn with digits that no training image shows:\n")
    print(classifier.evaluate(test_paths, test_labels))

    model, picture = folder / "model", folder / "predictions.png"
    classifier.save(model)
    _draw_predictions(classifier, test_paths[:_N_SHOWN], test_labels[:_N_SHOWN], picture)
    print(f"\nModel saved to {model}/ and pictures of {_N_SHOWN} test images to {picture}")
    _compare_with_fresh_process(model, test_paths, classifier.predict_labels(test_paths))
    print(f"Done in {time.perf_counter() - start:.0f} s")


def _claim_folder(folder: Path) -> None:
    """Make the demo's folder, or refuse one that holds something else."""
    marker = folder / _MARKER
    try:
        if folder.is_dir() and any(folder.iterdir()) and not marker.exists():
            raise InputError(
                f"The demo does not write to '{folder}': the folder holds other files, which it could overwrite. "
                "Choose a new folder with --output."
            )
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise _explain_unwritable(folder, error) from error


def _explain_unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"The demo cannot write its images to '{folder}': {error.strerror or error}. "
        "Choose another folder with --output."
    )


def _write_digits(folder: Path, n_images: int, *, seed: int, split: str) -> tuple[list[str], list[tuple]]:
    from multilabelkit.data.images import encode_png
    from multilabelkit.data.labels import as_labels
    from multilabelkit.datasets import make_digits

    digits = make_digits(n_images, random_state=seed, split=split)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:04d}.png" for number in range(n_images)]
        for path, image in zip(paths, digits.images, strict=True):
            path.write_bytes(encode_png(image))
    except OSError as error:
        raise _explain_unwritable(folder, error) from error
    return [str(path) for path in paths], as_labels(digits.target)


def _draw_predictions(classifier, paths: Sequence[str], labels: Sequence[tuple], picture: Path) -> None:
    from multilabelkit.inspection import plot_predictions

    guessed = classifier.predict(paths)
    truth = classifier.label_binarizer_.transform(labels)
    figure = plot_predictions(paths, truth, guessed, classes=classifier.classes_)
    try:
        figure.savefig(picture, dpi=110)
    except OSError as error:
        raise InputError(f"The picture cannot be written to '{picture}': {error.strerror or error}.") from error


_FRESH_PROCESS = """
import sys
from multilabelkit import MultiLabelImageClassifier
classifier = MultiLabelImageClassifier.load(sys.argv[1])
for labels in classifier.predict_labels(sys.stdin.read().splitlines()):
    print("|".join(labels))
"""


def _compare_with_fresh_process(model: Path, paths: Sequence[str], expected: Sequence[tuple | None]) -> None:
    """Load the model where nothing of this process is left, and check that it predicts the same."""
    finished = subprocess.run(
        [sys.executable, "-c", _FRESH_PROCESS, str(model)],
        input="\n".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise MultiLabelKitError(f"A fresh process could not use the model:\n{finished.stderr}")
    lines = finished.stdout.removesuffix("\n").split("\n")
    predicted = [tuple(line.split("|")) if line else () for line in lines]
    n_same = sum(one == other for one, other in zip(predicted, expected, strict=True))
    print(f"A fresh process loaded the model and agrees on {n_same} of {len(expected)} images")
    if n_same != len(expected):
        raise MultiLabelKitError("The loaded model predicts other labels than the one that was saved.")


def _run_check(options: argparse.Namespace) -> int:
    from multilabelkit.data.doctor import check_data

    for output in filter(None, (options.json, options.csv)):
        _check_output(output, data=options.data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MultiLabelKitWarning)
        data = _read_data(options)
    for warning in caught:
        print(f"multilabelkit: {warning.message}", file=sys.stderr)
    report = check_data(
        data["paths"],
        data.get("target"),
        split=data.get("split"),
        duplicates=not options.no_duplicates,
        num_workers=options.num_workers,
    )
    encoding = sys.stdout.encoding or "utf-8"
    print(str(report).encode(encoding, "backslashreplace").decode(encoding))
    if options.images is None and (report.images["error"] == "the file does not exist").all():
        print("\nNone of the images exists: name the folder they are in with --images.")
    if options.json is not None:
        _write_text(options.json, json.dumps(report.to_dict(), indent=1) + "\n")
    if options.csv is not None:
        _write_text(options.csv, report.images.to_csv(lineterminator="\n"))
    return 0 if report.ok else 1


def _check_output(output: Path, *, data: Path) -> None:
    """Refuse, before any work, a place where a report cannot be written or would destroy what it is about."""
    if output.exists() and data.exists() and output.samefile(data):
        raise InputError(f"The report would overwrite '{output}', which is to be checked. Choose another file for it.")
    if not output.absolute().parent.is_dir():
        raise InputError(f"The report cannot be written to '{output}': there is no such folder. Make it first.")


def _read_data(options: argparse.Namespace) -> Mapping[str, Any]:
    """Read paths, labels and splits with the reader that fits; missing files are for the doctor to report."""
    path = options.data
    try:
        if not path.exists():
            raise InputError(f"'{path}' does not exist; check the path.")
        return _read_data_folder(options) if path.is_dir() else _read_data_file(options)
    except OSError as error:
        raise InputError(f"'{error.filename or path}' cannot be read: {error.strerror or error}.") from error


def _read_data_file(options: argparse.Namespace) -> Mapping[str, Any]:
    from multilabelkit.datasets import annotations, csv_files, json_files

    path, suffix = options.data, options.data.suffix.lower()
    labels = {"label_sep": options.label_sep, "uncertain": options.uncertain}
    if suffix in (".csv", ".tsv", ".txt"):
        return csv_files.read_csv(path, images=options.images, split=options.split, check_files=False, **labels)
    _refuse_options(options, "split", what="a table")
    if suffix not in (".json", ".jsonl"):
        raise InputError(
            f"'{path}' is nothing that can be checked: pass a folder, or a file that ends in .csv, .tsv, .txt, .json "
            "or .jsonl."
        )
    if _is_coco(path):
        _refuse_options(options, "label_sep", "uncertain", what="a table or plain JSON")
        return annotations.read_coco(path, images=options.images or path.parent, check_files=False)
    return json_files.read_json(path, images=options.images, check_files=False, **labels)


def _read_data_folder(options: argparse.Namespace) -> Mapping[str, Any]:
    from multilabelkit.datasets import folders, text_files
    from multilabelkit.datasets.listings import IMAGE_SUFFIXES

    _refuse_options(options, "images", "split", "uncertain", what="a file")
    images = folders.find_files(options.data, IMAGE_SUFFIXES)
    if images and any(image.with_suffix(".txt").exists() for image in images):
        return text_files.read_sidecar_files(options.data, label_sep=options.label_sep, missing="ignore")
    _refuse_options(options, "label_sep", what="labels in text")
    return {"paths": [str(image) for image in images]} if images else folders.read_folders(options.data)


def _refuse_options(options: argparse.Namespace, *names: str, what: str) -> None:
    """An option that would be ignored is a misunderstanding."""
    for name in names:
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for {what}, which '{options.data}' is not. Leave it out.")


def _is_coco(path: Path) -> bool:
    text = path.read_bytes()
    return text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and all(
        b'"%s"' % key in text for key in (b"images", b"annotations", b"categories")
    )


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise InputError(f"The report cannot be written to '{path}': {error.strerror or error}.") from error


if __name__ == "__main__":
    sys.exit(main())
