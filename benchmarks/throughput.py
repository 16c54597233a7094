"""What training and prediction cost beside the network alone, a plain loop, fastai and skorch.

    python benchmarks/throughput.py training     an epoch against the network alone; a fit against fastai and skorch
    python benchmarks/throughput.py prediction   1,600 files against the network alone; the peers; one image at a time
    python benchmarks/throughput.py frozen       20 epochs of the head alone against one pass over the images
    python benchmarks/throughput.py memory       peak memory of a training against that of a plain loop
    python benchmarks/throughput.py gpu          ResNet-50 on a GPU: training from the cache, prediction, idle share

The photographs, the pretrained backbone, the script that measures the network alone (``bench/floor.py``) and those of
the peers (``bench/peer_*.py``) are not part of the repository; MULTILABELKIT_DATA names their folder. Only the part gpu
does without it. The peers run in an interpreter of their own, and are left out if there is none:

    python -m venv peers && peers/bin/pip install fastai skorch timm safetensors
    python benchmarks/throughput.py training prediction --peers peers/bin/python

Everything is taken in turn, and ratios are medians over rounds. A rate is images through fit or predict; ours is that
of a fit with the defaults, so with the head first, and without validation (fastai validates on a tenth of its images
instead of training on them, and they count in full). Beside the peers all run on the processor, each in a fresh
process. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes
from multilabelkit.inference import choose_device, choose_dtype
from multilabelkit.training import Callback

SHARED = Path(os.environ.get("MULTILABELKIT_DATA", Path(__file__).resolve().parents[2] / "shared")).resolve()
DEVICE = choose_device("auto")
BF16 = choose_dtype("auto", DEVICE) is torch.bfloat16
SETTING = f"batch 32, 224 px, {'bf16' if BF16 else 'fp32'}, channels_last"
PEERS = ("fastai", "skorch")
GPU_BACKBONE, GPU_BATCH = "resnet50", 256


def import_bench(name: str) -> ModuleType:
    """Import a script of the folder of data."""
    if not (SHARED / "bench" / f"{name}.py").exists():
        raise SystemExit(f"There is no bench/{name}.py in {SHARED}; MULTILABELKIT_DATA must name the folder of data.")
    sys.path[:0] = [] if str(SHARED / "bench") in sys.path else [str(SHARED / "bench")]
    sys.dont_write_bytecode = True
    return importlib.import_module(name)


def read_scenes(rows: slice) -> tuple[list[str], np.ndarray]:
    """Return paths and labels of photographs, in the order in which the peers take them."""
    common = import_bench("common")
    order = common.ORDER[rows]
    return [common.PATHS[row] for row in order], common.LABELS[order]


def create_classifier(**params: Any) -> MultiLabelImageClassifier:
    """Return the classifier with the local weights, no validation, no features for a later fit, else defaults."""
    own = {"random_state": 0, "verbose": 0, "validation_fraction": None, "feature_cache": None}
    return MultiLabelImageClassifier(
        "mobilenetv2_100",
        pretrained=str(SHARED / "weights" / "mobilenetv2_100_in1k.safetensors"),
        backbone_params={"pad_type": "same"},
        normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        **own | params,
    )


def read_floor() -> tuple[float, float]:
    """Return the images a second of the network alone, in training and in prediction."""
    floor = import_bench("floor")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        floor.measure(True, BF16)
    train, infer = re.search(r"train\s+([\d.]+) img/s\s+infer\s+([\d.]+)", output.getvalue()).groups()
    return float(train), float(infer)


def time_call(function: Callable[..., object], *arguments: object) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def take_medians(rounds: list[list[float]]) -> list[float]:
    """Return the median of each figure over rounds."""
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def run_python(code: str, *arguments: object) -> str:
    """Run code in a fresh process that can import this file and the scripts of the folder of data."""
    folders = [Path(__file__).resolve().parent, SHARED / "bench", os.environ.get("PYTHONPATH")]
    return run([sys.executable, "-c", code, *arguments], PYTHONPATH=os.pathsep.join(str(f) for f in folders if f))


def run(command: list[object], **variables: str) -> str:
    """Run a command and return what it printed."""
    environment = os.environ | {"MULTILABELKIT_DATA": str(SHARED), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    words = [str(word) for word in command]
    finished = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if finished.returncode:
        raise SystemExit(f"{' '.join(words[:2])} failed: {finished.stderr[-2000:]}")
    return finished.stdout


# Training and prediction


class NetworkAlone(Callback):
    """Measures the network alone before, between and after the epochs, so that a drifting machine treats both alike."""

    def __init__(self, measure: Callable[[], tuple[float, float]]) -> None:
        self.measure = measure
        self.rates: list[tuple[float, float]] = []
        self.epoch_ends: list[float] = []
        self.seconds = 0.0

    def on_train_begin(self, state) -> None:
        self.take()

    def on_epoch_end(self, state) -> None:
        self.epoch_ends.append(time.perf_counter())
        self.take()

    def take(self) -> None:
        self.seconds += time_call(lambda: self.rates.append(self.measure()))

    def rate_epoch(self, epoch: int) -> float:
        """Return the images a second of the network alone around an epoch."""
        return statistics.mean(train for train, _ in self.rates[epoch : epoch + 2])


def measure_training(options: argparse.Namespace) -> None:
    """Compare two epochs with the network alone, then a fit of one epoch with those of the peers."""
    paths, labels = read_scenes(slice(options.images or 480))
    rounds = []
    for _ in range(options.rounds):
        alone = NetworkAlone(read_floor)
        classifier = create_classifier(max_epochs=2, callbacks=[alone])
        seconds = time_call(classifier.fit, paths, labels) - alone.seconds
        first, second = (row["seconds"] for row in classifier.history_)
        rates = [len(paths) / taken for taken in (first, second, seconds - second)]
        floors = [alone.rate_epoch(0), alone.rate_epoch(1)]
        rounds.append([rates[0] / floors[0], rates[1] / floors[1], rates[2] / floors[0], *rates])
        print(f"  images/s: network alone {alone.rates}, epochs {rates[0]:.1f}, {rates[1]:.1f}", flush=True)
    first, second, start, *rates = take_medians(rounds)
    beside_peers = compare_with_peers(options, "train", n_images=len(paths))
    print(
        f"training: {len(paths)} images from files, {options.rounds} rounds, {SETTING}: first epoch {first:.3f} of the "
        f"network alone ({rates[0]:.1f} images/s; with the head first and all that fit does before it {start:.3f}), "
        f"second epoch {second:.3f} ({rates[1]:.1f} images/s); {beside_peers}",
        flush=True,
    )


def measure_prediction(options: argparse.Namespace) -> None:
    """Compare prediction with the network alone, with the peers, and of one image with one forward pass."""
    paths, _ = read_scenes(slice(options.images or 1600))
    classifier = create_classifier(max_epochs=1).fit(*read_scenes(slice(64)))  # just enough to predict
    rounds = []
    for _ in range(options.rounds):
        before = read_floor()[1]
        rate = len(paths) / time_call(classifier.predict_proba, paths)
        floor = statistics.mean([before, read_floor()[1]])
        ours, bare = measure_single_images(classifier, paths)
        rounds.append([rate / floor, rate, ours / bare, ours, bare])
        print(
            f"  images/s: network alone {floor:.1f}, predict {rate:.1f}; one image {ours:.2f} ms, bare {bare:.2f} ms",
            flush=True,
        )
    share, rate, ratio, ours, bare = take_medians(rounds)
    beside_peers = compare_with_peers(options, "predict", n_images=64)
    print(
        f"prediction: {len(paths)} images from files, {options.rounds} rounds, {SETTING}: {share:.3f} of the network "
        f"alone ({rate:.1f} images/s); one image on a warm classifier {ours:.2f} ms, a bare forward pass of batch 1 "
        f"{bare:.2f} ms: {ratio:.2f}x; {beside_peers}",
        flush=True,
    )


def measure_single_images(classifier, paths: list[str], n_calls: int = 200) -> tuple[float, float]:
    """Return the median milliseconds of predicting one file and of a bare forward pass, called in turn."""
    network = import_bench("common").backbone().to(DEVICE, memory_format=torch.channels_last).eval()
    image = torch.randn(1, 3, 224, 224, device=DEVICE).contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16):
            network(image).cpu()

    taken = []
    for call in range(20 + n_calls):
        one = [paths[call % len(paths)]]
        taken.append([time_call(classifier.predict_proba, one), time_call(forward)])
    ours, bare = take_medians(taken[20:])  # the first calls warm both up
    return 1000 * ours, 1000 * bare


def compare_with_peers(options: argparse.Namespace, what: str, *, n_images: int) -> str:
    """Fit one epoch and predict 200 images, each time in a fresh process, and say how ours compares."""
    if options.peers is None:
        return "peers left out, as --peers names no interpreter that has them"
    ours_once = "import sys, throughput; throughput.fit_like_peers(int(sys.argv[1]), head_first={})"
    rounds, alike = [], []
    for _ in range(options.rounds):
        rates = [read_rate(run_python(ours_once.format(True), n_images), what)]
        for peer in PEERS:
            command = [options.peers, SHARED / "bench" / f"peer_{peer}.py", n_images]
            rates.append(max(read_rate(run([*command, n_workers]), what) for n_workers in options.workers))
        rounds.append(rates + [rates[0] / rate for rate in rates[1:]])
        print(f"  {what}, images/s: ours {rates[0]}, {PEERS[0]} {rates[1]}, {PEERS[1]} {rates[2]}", flush=True)
        if what == "train":  # the peers do not pass their images through the network first, to fit a head
            alike.append([read_rate(run_python(ours_once.format(False), n_images), what) / rate for rate in rates[1:]])
            print(f"  without the head first {alike[-1][0]:.2f}x, {alike[-1][1]:.2f}x", flush=True)
    ours, *others = take_medians(rounds)
    counts = f"a fit of {n_images} images and 1 epoch" if what == "train" else "200 images"
    ratios = ", ".join(
        f"{ratio:.2f}x {peer} ({rate:.1f})" for peer, rate, ratio in zip(PEERS, others[:2], others[2:], strict=True)
    )
    if alike:
        ratios += ", without the head first {:.2f}x and {:.2f}x".format(*take_medians(alike))
    return f"{counts} at {ours:.1f} images/s, peers in fp32 with the better of {options.workers} workers: {ratios}"


def fit_like_peers(n_images: int, *, head_first: bool) -> None:
    """Do what the scripts of the peers do, where they do it, and print what they print."""
    paths, labels = read_scenes(slice(n_images))
    classifier = create_classifier(max_epochs=1, device="cpu", head_first=head_first)
    print(f"ours train {len(paths) / time_call(classifier.fit, paths, labels):.1f} img/s")
    paths, _ = read_scenes(slice(-200, None))
    print(f"ours predict {len(paths) / time_call(classifier.predict_proba, paths):.1f} img/s")


def read_rate(output: str, what: str) -> float:
    """Return the rate that a script printed for "train" or "predict"."""
    return float(re.search(rf"\w+ {what} ([\d.]+) img/s", output).group(1))


# A frozen backbone


def measure_frozen(options: argparse.Namespace) -> None:
    """Divide the time of 20 epochs of head training by that of one pass, taken before and after."""
    paths, labels = read_scenes(slice(options.images or 1600))
    classifier = create_classifier(trainable="head", max_epochs=1).fit(paths[:64], labels[:64])
    rounds = []
    for _ in range(options.rounds):
        before = time_call(classifier.predict_proba, paths)
        classifier = create_classifier(trainable="head", max_epochs=20, feature_cache=None)
        fit = time_call(classifier.fit, paths, labels)
        one_pass = statistics.mean([before, time_call(classifier.predict_proba, paths)])
        rounds.append([fit / one_pass, fit, one_pass])
        print(f"  fit {fit:.2f} s, one pass {one_pass:.2f} s", flush=True)
    ratio, fit, one_pass = take_medians(rounds)
    print(
        f"frozen: {len(paths)} images from files, {options.rounds} rounds, {SETTING}: 20 epochs of the head "
        f"{fit:.2f} s, one pass of predict_proba {one_pass:.2f} s: {ratio:.3f}x",
        flush=True,
    )


# Memory

# Note: on Linux ru_maxrss is the peak of the process that started this one, if that was larger; VmHWM is its own.
_PEAK = """
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
if sys.platform == "linux":
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
print(peak)
"""
_OURS = """
import sys, throughput
throughput.create_classifier(max_epochs=2, pixel_cache=None).fit(*throughput.read_scenes(slice(int(sys.argv[1]))))
"""
_PLAIN_LOOP = """
import sys, torch
from common import LABELS, ORDER, PATHS, backbone
from PIL import Image
from torchvision import transforms as T

n_images, bf16, device = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
augment = T.Compose([T.RandomResizedCrop(224, scale=(0.4, 1)), T.RandomHorizontalFlip(),
                     T.ColorJitter(0.2, 0.2, 0.2), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return n_images

    def __getitem__(self, i):
        return augment(Image.open(PATHS[ORDER[i]]).convert("RGB")), torch.tensor(LABELS[ORDER[i]])

network = backbone().to(device, memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
for epoch in range(2):
    for images, targets in torch.utils.data.DataLoader(Images(), batch_size=32, shuffle=True):
        images = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = network(images)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def measure_memory(options: argparse.Namespace) -> None:
    """Compare the peak resident memory of two trainings, each in a fresh process."""
    import_bench("common")
    n_images, rounds = options.images or 256, []
    for _ in range(options.rounds):
        ours = float(run_python(_OURS + _PEAK, n_images))
        plain = float(run_python(_PLAIN_LOOP + _PEAK, n_images, BF16, DEVICE.type))
        rounds.append([ours / plain, ours, plain])
        print(f"  peak {ours:,.0f} MB, plain loop {plain:,.0f} MB", flush=True)
    ratio, ours, plain = take_medians(rounds)
    print(
        f"memory: {n_images} images from files, 2 epochs, {options.rounds} rounds, {SETTING}, no pixel cache: peak "
        f"{ours:,.0f} MB, a plain loop {plain:,.0f} MB: {ratio:.3f}x",
        flush=True,
    )


# A GPU


def measure_gpu(options: argparse.Namespace) -> None:
    """Train a network from the cache and predict from files, beside the network alone on one batch."""
    if not torch.cuda.is_available():
        print("gpu: not measured: no GPU")
        return
    with tempfile.TemporaryDirectory() as folder, GpuUse() as use:
        paths, labels = write_pictures(Path(folder), options.images or 16384)
        rounds = [measure_gpu_round(paths, labels, use) for _ in range(options.rounds)]
    train, predict, train_rate, predict_rate, train_idle, predict_idle = take_medians(rounds)
    print(
        f"gpu: {torch.cuda.get_device_name()}, {GPU_BACKBONE}, {len(paths)} JPEG files of 256 px, {options.rounds} "
        f"rounds, batch {GPU_BATCH}, 224 px, bf16, channels_last: second epoch, from the cache, {train:.3f} of the "
        f"network alone ({train_rate:,.0f} images/s), GPU idle {train_idle:.3f}; prediction {predict:.3f} "
        f"({predict_rate:,.0f} images/s), GPU idle {predict_idle:.3f} (nan: nvidia-smi does not tell)",
        flush=True,
    )


def measure_gpu_round(paths: list[str], labels: np.ndarray, use: GpuUse) -> list[float]:
    """Return both ratios, both rates and both idle shares."""
    alone = NetworkAlone(measure_alone)
    classifier = MultiLabelImageClassifier(
        GPU_BACKBONE,
        pretrained=False,
        batch_size=GPU_BATCH,
        image_size=224,
        precision="bf16",
        pixel_cache="memory",
        max_epochs=2,
        validation_fraction=None,
        random_state=0,
        verbose=0,
        callbacks=[alone],
    ).fit(paths, labels)
    seconds, end = classifier.history_[1]["seconds"], alone.epoch_ends[1]
    start = time.perf_counter()
    classifier.predict_proba(paths)
    stop = time.perf_counter()
    train, predict = len(paths) / seconds, len(paths) / (stop - start)
    floors = alone.rate_epoch(1), statistics.mean([alone.rates[-1][1], measure_alone()[1]])
    print(
        f"  network alone {floors[0]:,.0f}, {floors[1]:,.0f}, library {train:,.0f}, {predict:,.0f} images/s", flush=True
    )
    idle = [use.share_idle(end - seconds, end), use.share_idle(start, stop)]
    return [train / floors[0], predict / floors[1], train, predict, *idle]


def measure_alone(repeats: int = 20) -> tuple[float, float]:
    """Do what ``bench/floor.py`` does with this network: train and predict on one batch on the device."""
    network = timm.create_model(GPU_BACKBONE, num_classes=3).to(DEVICE, memory_format=torch.channels_last)
    images = torch.randn(GPU_BATCH, 3, 224, 224, device=DEVICE).contiguous(memory_format=torch.channels_last)
    targets = torch.rand(GPU_BATCH, 3, device=DEVICE).round()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = network(images)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
            network(images)

    def repeat(function: Callable[[], None], n_calls: int) -> None:
        for _ in range(n_calls):
            function()
        torch.cuda.synchronize()

    rates = []
    for function in (step, forward):
        network.train(function is step)
        repeat(function, 3)
        rates.append(repeats * GPU_BATCH / time_call(repeat, function, repeats))
    return rates[0], rates[1]


class GpuUse:
    """Samples in the background how busy the GPU is."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> GpuUse:
        device = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        with contextlib.suppress(FileNotFoundError):
            self.process = subprocess.Popen(["nvidia-smi", "-i", device, *query], stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self.read, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def read(self) -> None:
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # "[N/A]" where the driver does not tell
                self.samples.append((time.perf_counter(), float(line)))

    def share_idle(self, start: float, end: float) -> float:
        """Return one minus the mean share of the time in which the GPU computed."""
        busy = [value for moment, value in self.samples if start <= moment <= end]
        return 1 - statistics.mean(busy) / 100 if busy else float("nan")


def write_pictures(folder: Path, n_images: int) -> tuple[list[str], np.ndarray]:
    """Write coloured shapes as JPEG files; pictures repeat, as only their reading counts."""
    shapes = make_shapes(min(n_images, 256), image_size=256, random_state=0)
    paths, rows = [], np.arange(n_images) % len(shapes.images)
    for number, row in enumerate(rows):
        paths.append(str(folder / f"{number}.jpg"))
        if number == row:
            Image.fromarray(shapes.images[row]).save(paths[-1], quality=90)
        else:
            shutil.copyfile(paths[row], paths[-1])
    return paths, shapes.target.to_numpy()[rows]


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "training": measure_training,
    "prediction": measure_prediction,
    "frozen": measure_frozen,
    "memory": measure_memory,
    "gpu": measure_gpu,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument(
        "--images", type=int, help="default: training 480, prediction and frozen 1600, memory 256, gpu 16384"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="an interpreter that has fastai and skorch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the peers; the better one counts")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors ({platform.machine()}), torch {torch.__version__}")
    for name in options.parts:
        PARTS[name](options)


if __name__ == "__main__":
    main()
