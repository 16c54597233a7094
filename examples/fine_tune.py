"""The quickstart with a hand on it: find a rate, open layers in stages, watch the training, add a class later on.

Where MULTILABELKIT_DATA names a folder of photographs and weights (see CONTRIBUTING.md), a pretrained network is
fine-tuned on 300 of them; elsewhere a small network learns coloured shapes from scratch.
"""

import os
import tempfile
from pathlib import Path

import pandas as pd

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes
from multilabelkit.inspection import plot_history, plot_learning_rates
from multilabelkit.model_selection import multilabel_train_test_split
from multilabelkit.training import CSVLogger

data = Path(os.environ.get("MULTILABELKIT_DATA", "not set"))
if (data / "data" / "miml").is_dir():
    labels = pd.read_csv(data / "data" / "miml" / "labels.csv", index_col="image").sample(300, random_state=0)
    images = [data / "data" / "miml" / "images" / name for name in labels.index]
    network = {
        "backbone": "mobilenetv2_100",
        "pretrained": data / "weights" / "mobilenetv2_100_in1k.safetensors",
        "backbone_params": {"pad_type": "same"},
        "normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "image_size": 96,
    }
else:
    shapes = make_shapes(600, random_state=0)
    images, labels = shapes.images, shapes.target
    network = {"backbone": "plain_cnn", "image_size": 32, "backbone_lr_factor": 1.0}

X_train, X_test, y_train, y_test = multilabel_train_test_split(images, labels, random_state=0)
*known, late = labels.columns  # the last class is one that nobody has asked for yet
folder = Path(tempfile.mkdtemp())

clf = MultiLabelImageClassifier(
    **network,
    trainable={0: 0.6, 2: "all"},  # the upper 60 % of the layers, from the third epoch on all of them
    max_epochs=8,
    callbacks=[CSVLogger(folder / "history.csv")],  # a row an epoch, while it trains
    random_state=0,
)
curve = clf.find_learning_rate(X_train, y_train[known], n_steps=100)
print(f"suggested learning rate: {curve.suggestion:.2g}, after {len(curve.losses)} batches")
plot_learning_rates(curve).savefig(folder / "rates.png")

clf.set_params(learning_rate=curve.suggestion).fit(X_train, y_train[known])
print(f"\nWithout {late!r}:\n{clf.evaluate(X_test, y_test[known])}")

# Now somebody wants the last class too. What the network has learnt of the others is kept, and the images that were set
# aside for best epoch and thresholds are set aside again.
clf.add_classes([late]).set_params(warm_start=True, trainable="all").fit(X_train, y_train)
print(f"\nWith {late!r}, after 8 epochs more:\n{clf.evaluate(X_test, y_test)}")

plot_history(clf.history_).savefig(folder / "history.png")
print(f"\nBoth fits, from {folder / 'history.csv'} (pictures beside it):")
print(pd.read_csv(folder / "history.csv")[["epoch", "train_loss", "valid_map", "learning_rate"]].round(4))
