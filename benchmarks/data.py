"""What reading, decoding, caching, splitting and checking data costs, beside a plain script or another library.

    python benchmarks/data.py                      everything, about ten minutes on two cores
    python benchmarks/data.py decode cache splits  only these

Each figure is taken in turn with that of its peer, in one process and on one core where it says so. The photographs
are not part of the repository; MULTILABELKIT_DATA names their folder. The splits are compared with
iterative-stratification, if it is installed. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # "on one core" is meant; the loaders bring their own threads

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image

from multilabelkit.data.images import decode_image, encode_png
from multilabelkit.data.loading import PixelReader, iterate_evaluation
from multilabelkit.data.transforms import resize_pixels
from multilabelkit.model_selection import MultiLabelStratifiedKFold, MultiLabelStratifiedShuffleSplit

SHARED = Path(os.environ.get("MULTILABELKIT_DATA", Path(__file__).resolve().parents[2] / "shared"))
PHOTOS = SHARED / "data" / "miml"
SIZE = 224


def time_in_turn(*functions: Callable[[], object], n_turns: int = 7) -> list[float]:
    """Return the median seconds of each function, run in turn, so that a drifting machine slows all alike."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(n_turns):
        for place, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[place].append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def list_photos(*sizes: tuple[int, int]) -> list[str]:
    paths = sorted((PHOTOS / "images").glob("*.jpg"), key=lambda path: int(path.stem))
    return [str(path) for path in paths if not sizes or Image.open(path).size in sizes]


def write_large_photos(folder: Path, n_photos: int) -> list[str]:
    paths = []
    for number, path in enumerate(list_photos((384, 256), (256, 384))[:n_photos]):
        paths.append(str(folder / f"{number}.jpg"))
        with Image.open(path) as image:
            image.convert("RGB").resize((1600, 1200), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


# Decoding


def decode_plainly(path: str) -> np.ndarray:
    """Open, convert and resize as everybody does."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE)))


def decode_plainly_bilinear(path: str) -> np.ndarray:
    """Do the same with the cheaper kernel that torchvision's transforms take."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def measure_decode() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in {
            "384x256": list_photos((384, 256), (256, 384))[:200],
            "1600x1200": write_large_photos(Path(folder), 24),
        }.items():
            readers = {key: PixelReader(paths, size=SIZE, color_mode="rgb", decoder=key) for key in ("auto", "pillow")}
            plain, bilinear, fast, pillow = time_in_turn(
                lambda paths=paths: [decode_plainly(path) for path in paths],
                lambda paths=paths: [decode_plainly_bilinear(path) for path in paths],
                lambda reader=readers["auto"]: [reader.read(row) for row in range(len(reader.sources))],
                lambda reader=readers["pillow"]: [reader.read(row) for row in range(len(reader.sources))],
            )
            print(
                f"decode {name}: {len(paths) / fast:,.0f} images/s on one core; plain Pillow {len(paths) / plain:,.0f} "
                f"({plain / fast:.2f}x; with its bilinear kernel {bilinear / fast:.2f}x); "
                f"decoder='pillow' {len(paths) / pillow:,.0f} ({plain / pillow:.2f}x)"
            )
            differences = [
                np.abs(readers["auto"].read(row).astype(int) - resize_pixels(decode_image(path), SIZE)).mean()
                for row, path in enumerate(paths)
            ]
            print(f"decode {name}: mean difference to a full decode by Pillow {np.mean(differences):.3f} of 255")


# The pixel cache


def measure_cache() -> None:
    paths = list_photos()
    with tempfile.TemporaryDirectory() as folder:
        for kind in (None, "memory", Path(folder) / "pixels"):
            for fit in ("first", "second"):
                reader = PixelReader(paths, size=256, color_mode="rgb", pixel_cache=kind)
                rates, decoded = [], []
                for _ in range(2):
                    before, start = reader.n_decoded, time.perf_counter()
                    for _ in iterate_evaluation(reader, batch_size=32, num_workers=2):
                        pass
                    rates.append(len(paths) / (time.perf_counter() - start))
                    decoded.append(reader.n_decoded - before)
                reader.close()
                name = "a folder" if isinstance(kind, Path) else kind
                print(
                    f"cache {name}, {fit} fit: epochs at {rates[0]:,.0f} and {rates[1]:,.0f} images/s in 2 threads, "
                    f"decoding {decoded[0]} and {decoded[1]} of {len(paths)} images"
                )
                if not isinstance(kind, Path):
                    break


# Loading


class PlainDataset(torch.utils.data.Dataset):
    """What a hand-written loop has: Pillow, and torchvision's conversion to a tensor."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.from_numpy(decode_plainly_bilinear(self.paths[place]).copy()).permute(2, 0, 1).float() / 255


def measure_loading() -> None:
    paths = list_photos()
    loaders = {n: torch.utils.data.DataLoader(PlainDataset(paths), batch_size=32, num_workers=n) for n in (0, 2)}

    def run_ours() -> None:
        reader = PixelReader(paths, size=SIZE, color_mode="rgb")
        for _ in iterate_evaluation(reader, batch_size=32, num_workers=2):
            pass

    def run(loader: torch.utils.data.DataLoader) -> None:
        for _ in loader:
            pass

    ours, none, two = time_in_turn(run_ours, lambda: run(loaders[0]), lambda: run(loaders[2]), n_turns=5)
    print(
        f"loading {len(paths)} photographs, nothing cached: {len(paths) / ours:,.0f} images/s in 2 threads; torch's "
        f"DataLoader {len(paths) / none:,.0f} without workers ({none / ours:.2f}x), {len(paths) / two:,.0f} with 2 "
        f"({two / ours:.2f}x)"
    )


def measure_memory(n_images: int = 200_000) -> None:
    """Predict on tiny files, and watch the resident memory of the process."""
    from multilabelkit import MultiLabelImageClassifier

    with tempfile.TemporaryDirectory() as folder:
        paths = write_tiny_files(Path(folder), n_images)
        data = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))
        clf = MultiLabelImageClassifier(
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()),
            pretrained=False,
            image_size=8,
            max_epochs=1,
            thresholds=0.5,
            verbose=0,
            batch_size=256,
            num_workers=2,
        )
        clf.fit([data] * 40, [["a"], ["b"]] * 20)
        process, samples = psutil.Process(), []
        clf.predict_proba(paths[:20_000])
        start = time.perf_counter()
        for share in (0.1, 0.5, 1.0):
            before = process.memory_info().rss
            proba = clf.predict_proba(paths[: int(n_images * share)])
            samples.append(f"{len(proba):,} images {(process.memory_info().rss - before) / 2**20:+.0f} MB")
        rss = process.memory_info().rss / 2**20
        print(
            f"memory: predict_proba on tiny files, change of resident memory: {'; '.join(samples)}; {rss:,.0f} MB in "
            f"all; {n_images * 1.6 / (time.perf_counter() - start):,.0f} images/s"
        )


def write_tiny_files(folder: Path, n_images: int) -> list[str]:
    images = [encode_png(np.full((8, 8, 3), value, dtype=np.uint8)) for value in range(256)]
    paths = [str(folder / f"{number:06d}.jpg") for number in range(n_images)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(images[number % 256])
    return paths


# Readers

# Of Linux: the peak that `resource` gives is that of the process that started this one, if that was larger.
_PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10
"""
_READ = """
import sys, time
from multilabelkit.datasets import read_csv
start = time.perf_counter()
data = read_csv(sys.argv[1], images=sys.argv[2], split=sys.argv[3])
seconds = time.perf_counter() - start
assert data.target.shape == (200000, 40) and set(data.split) == {"train", "valid", "test"}
print(f"{seconds:.2f} s, {peak():,.0f} MB")
"""
_READ_WITH_PANDAS = """
import sys, time
import pandas as pd
start = time.perf_counter()
table = pd.read_csv(sys.argv[1], **({} if sys.argv[1].endswith(".csv") else {"sep": r"\\s+", "skiprows": 1}))
seconds = time.perf_counter() - start
print(f"{seconds:.2f} s, {peak():,.0f} MB")
"""


def measure_readers(n_rows: int = 200_000, n_classes: int = 40) -> None:
    """Read face attributes as they are published, all images there, and with pandas alone, which checks nothing."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        names = [f"{number:06d}.jpg" for number in range(1, n_rows + 1)]
        for name in names:
            (images / name).touch()
        values = pd.DataFrame(rng.choice([-1, 1], (n_rows, n_classes)), columns=[f"Attr_{i}" for i in range(n_classes)])
        values.insert(0, "image_id", names)
        values.to_csv(Path(folder, "attr.csv"), index=False)
        with open(Path(folder, "attr.txt"), "w", encoding="utf-8") as file:
            file.write(f"{n_rows}\n{' '.join(values.columns[1:])}\n")
            values.to_csv(file, sep=" ", header=False, index=False)
        split = pd.DataFrame({"image_id": names, "partition": rng.choice([0, 1, 2], n_rows)})
        split.to_csv(Path(folder, "split.csv"), index=False)
        for name in ("attr.csv", "attr.txt"):
            arguments = [str(Path(folder, name)), str(images), str(Path(folder, "split.csv"))]
            for what, script in (("read_csv", _READ), ("pandas alone", _READ_WITH_PANDAS)):
                found = [run_script(script, arguments) for _ in range(3)]
                print(f"readers: {n_rows:,} x {n_classes}, {name}, {what} (time, peak memory): {'; '.join(found)}")


def run_script(script: str, arguments: list[str]) -> str:
    """Run it in a process of its own, whose peak memory is then its own, too."""
    finished = subprocess.run(
        [sys.executable, "-c", _PEAK + script, *arguments], capture_output=True, text=True, check=False
    )
    return finished.stdout.strip() or f"failed: {finished.stderr[-300:]}"


# Splits


def create_labels() -> dict[str, np.ndarray]:
    """Return the labels of the photographs, a random and a long-tailed set, and one for the time alone."""
    rng = np.random.default_rng(0)
    shares = 0.3 * np.arange(1, 81) ** -1.2
    return {
        "1,600 photographs x 5": pd.read_csv(PHOTOS / "labels.csv").drop(columns="image").to_numpy(),
        "random 20,000 x 40": (rng.random((20_000, 40)) < rng.uniform(0.02, 0.5, 40)).astype(int),
        "long-tailed 82,000 x 80": (rng.random((82_000, 80)) < shares).astype(int),
        "random 200,000 x 40": (rng.random((200_000, 40)) < rng.uniform(0.01, 0.3, 40)).astype(int),
    }


def compute_deviation(labels: np.ndarray, tests: list[np.ndarray]) -> float:
    """Return the mean difference between a label's share in a part and in all rows, over labels and parts."""
    return float(np.mean([np.abs(labels[test].mean(axis=0) - labels.mean(axis=0)).mean() for test in tests]))


def measure_splits() -> None:
    try:
        from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit
    except ImportError:
        print("splits: pip install iterative-stratification to compare with it")
        MultilabelStratifiedKFold = MultilabelStratifiedShuffleSplit = None
    for name, labels in create_labels().items():
        rows = np.zeros((len(labels), 1))
        kinds: dict[str, tuple] = {
            "one split": (
                MultiLabelStratifiedShuffleSplit(1, test_size=0.2, random_state=0),
                MultilabelStratifiedShuffleSplit
                and MultilabelStratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=0),
            ),
            "five folds": (
                MultiLabelStratifiedKFold(5, random_state=0),
                MultilabelStratifiedKFold and MultilabelStratifiedKFold(n_splits=5, shuffle=True, random_state=0),
            ),
        }
        for kind, splitters in kinds.items():
            found = []
            for splitter in filter(None, splitters):
                seconds = []
                for _ in range(3):
                    start = time.perf_counter()
                    tests = [test for _, test in splitter.split(rows, labels)]
                    seconds.append(time.perf_counter() - start)
                found.append((statistics.median(seconds), compute_deviation(labels, tests)))
            text = "; iterative-stratification ".join(f"{s:.3f} s, deviation {d:.2e}" for s, d in found)
            print(f"splits {name}, {kind}: {text}")


# The doctor


def measure_doctor(n_images: int = 10_000) -> None:
    """Check copies of the photographs, each cut and encoded in another way, and their labels."""
    from multilabelkit.data.doctor import check_data

    table = pd.read_csv(PHOTOS / "labels.csv")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths, rows = [], []
        for number in range(n_images):
            row = number % len(table)
            with Image.open(PHOTOS / "images" / table["image"][row]) as image:
                left, top = rng.integers(0, 9, 2)
                image = image.convert("RGB").resize((384, 256)).crop((left, top, left + 376, top + 248))
                paths.append(str(Path(folder, f"{number}.jpg")))
                image.resize((384, 256)).save(paths[-1], quality=int(rng.integers(60, 95)))
            rows.append(row)
        labels = table.drop(columns="image").iloc[rows].reset_index(drop=True)
        start = time.perf_counter()
        report = check_data(paths, labels, verbose=0)
        seconds = time.perf_counter() - start
    print(
        f"doctor: {n_images:,} photographs of 384x256 checked in {seconds:.1f} s with "
        f"{os.cpu_count()} processors; {len(report.findings)} findings"
    )


SECTIONS: dict[str, Callable[[], None]] = {
    "decode": measure_decode,
    "cache": measure_cache,
    "loading": measure_loading,
    "memory": measure_memory,
    "readers": measure_readers,
    "splits": measure_splits,
    "doctor": measure_doctor,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    sections = parser.parse_args().sections or list(SECTIONS)
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    for name in sections:
        SECTIONS[name]()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
