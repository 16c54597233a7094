"""Read a table of images and labels, look for what is suspicious in it, and train without the broken images."""

import tempfile
from pathlib import Path

from multilabelkit import MultiLabelImageClassifier, as_labels, check_data
from multilabelkit.data.images import encode_png
from multilabelkit.datasets import make_shapes, read_csv

# A folder as one finds them: a table, 120 images, two of which are broken, and one that is there twice.
folder = Path(tempfile.mkdtemp())
shapes = make_shapes(120)
rows = ["image,labels,part"]
for number, (pixels, labels) in enumerate(zip(shapes.images, as_labels(shapes.target), strict=True)):
    name, part = f"{number:03d}.png", "test" if number % 5 == 0 else "train"
    (folder / name).write_bytes(encode_png(pixels))
    rows.append(f"{name},{'|'.join(labels)},{part}")
(folder / "labels.csv").write_text("\n".join(rows))
(folder / "017.png").write_bytes((folder / "017.png").read_bytes()[:200])
(folder / "042.png").write_text("no image")
(folder / "100.png").write_bytes((folder / "001.png").read_bytes())

data = read_csv(folder / "labels.csv", label_sep="|", split="part")
report = check_data(data.paths, data.target, split=data.split, verbose=0)
print(report)

train = data.split == "train"
clf = MultiLabelImageClassifier(
    "small_cnn", image_size=32, max_epochs=10, on_bad_image="skip", random_state=0, verbose=0
)
clf.fit([path for path, use in zip(data.paths, train, strict=True) if use], data.target[train])
test = [path for path, use in zip(data.paths, train, strict=True) if not use]
print(f"\nmacro-F1 on {len(test)} test images: {clf.score(test, data.target[~train]):.2f}")
