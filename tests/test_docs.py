"""The Python blocks of the pages in docs run as they stand, one after the other."""

import re
from pathlib import Path

import pytest
from PIL import Image

from multilabelkit import MultiLabelImageClassifier, as_labels
from multilabelkit.datasets import make_shapes
from multilabelkit.model_selection import multilabel_train_test_split

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What pages speak of without making it: a folder of photographs, a table of labels, and names for them."""
    shapes = make_shapes(60, random_state=0)
    (tmp_path / "photos").mkdir()
    lines = ["image,labels"]
    for place, (image, labels) in enumerate(zip(shapes.images, as_labels(shapes.target), strict=True)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{place}.png")
        lines.append(f"{place}.png,{'|'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    fast = {"image_size": 32, "max_epochs": 1, "verbose": 0, "random_state": 0}
    return {
        "paths": [f"photos/{place}.png" for place in range(60)],
        "labels": as_labels(shapes.target),
        "split": ["train", "test"] * 30,
        "clf": MultiLabelImageClassifier("small_cnn", **fast),
        "MultiLabelImageClassifier": MultiLabelImageClassifier,
        "multilabel_train_test_split": multilabel_train_test_split,
    }


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page, files):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        exec(compile(block, f"docs/{page}.md", "exec"), files)
