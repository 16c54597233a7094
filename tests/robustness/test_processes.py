"""Loading images wherever a program may run: scripts without a guard, spawned processes, many images."""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from multilabelkit.data.loading import PixelReader, iterate_evaluation

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=200,
    )


def test_a_script_without_a_guard_loads_in_threads(tmp_path):
    """With worker processes this would start itself over and over, or hang."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import multiprocessing
        multiprocessing.set_start_method("spawn")
        from multilabelkit import MultiLabelImageClassifier
        from multilabelkit.datasets import make_shapes
        data = make_shapes(24)
        clf = MultiLabelImageClassifier("small_cnn", image_size=32, max_epochs=2, verbose=0, num_workers=3,
                                        validation_fraction=None, pixel_cache=sys.argv[1], random_state=0)
        clf.fit(data.images, data.target)
        print(clf.predict(data.images).shape)
        """)
    )
    finished = run(script, tmp_path / "pixels")
    assert (finished.stdout, finished.stderr, finished.returncode) == ("(24, 3)\n", "", 0)


def test_spawned_processes_share_a_cache_folder(tmp_path):
    """As a grid search with n_jobs=2 does: two processes fit the same photographs at the same time."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import warnings
        from sklearn.model_selection import cross_val_score
        from multilabelkit import MultiLabelImageClassifier
        from multilabelkit.data.images import encode_png
        from multilabelkit.datasets import make_shapes
        data = make_shapes(24)
        images = [encode_png(image) for image in data.images]
        clf = MultiLabelImageClassifier("small_cnn", image_size=32, max_epochs=1, verbose=0, num_workers=2,
                                        validation_fraction=None, random_state=0)
        scores = [cross_val_score(clf.set_params(pixel_cache=cache), images, data.target, cv=3, n_jobs=n_jobs).tolist()
                  for cache, n_jobs in ((sys.argv[1], 2), (sys.argv[1], 1), (None, 1))]
        print(scores[0] == scores[1] == scores[2])
        """)
    )
    finished = run(script, tmp_path / "pixels")
    assert finished.stdout == "True\n", finished.stderr
    names = {path.name.split(".", 1)[1] for path in (tmp_path / "pixels").rglob("*") if path.is_file()}
    assert names == {"digests.npy", "pixels.npy"}


def measure_growth(paths, n_images):
    """Return by how many bytes the process grows while it reads images that it does not keep."""
    reader = PixelReader([paths[number % len(paths)] for number in range(n_images)], size=16, color_mode="rgb")
    process = psutil.Process()
    gc.collect()
    before, peak = process.memory_info().rss, 0
    for number, batch in enumerate(iterate_evaluation(reader, batch_size=64, num_workers=2)):
        assert batch.pixels.shape[1:] == (16, 16, 3)
        if number % 50 == 0:
            peak = max(peak, process.memory_info().rss)
    return peak - before


@pytest.mark.parametrize(
    "n_images", [10_000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, n_images):
    paths = [str(tmp_path / f"{number}.png") for number in range(100)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    measure_growth(paths, 2_000)  # whatever is imported or pooled on first use
    assert measure_growth(paths, n_images) < 20 * 2**20
