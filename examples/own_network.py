"""The quickstart with a network of your own: any torch module that turns images into features."""

import tempfile
from pathlib import Path

from torch import nn

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes


class MyNet(nn.Module):
    """Two convolutions and a mean; the classifier adds the head."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU()
        )

    def forward(self, images):
        """Map images (B, 3, S, S) to features (B, 2 * width, h, w)."""
        return self.layers(images)


shapes = make_shapes(300, random_state=0)
clf = MultiLabelImageClassifier(
    MyNet, backbone_params={"width": 32}, pretrained=False, image_size=32, max_epochs=8, learning_rate=1e-2, verbose=0
)
clf.fit(shapes.images, shapes.target)
print("macro-F1 on the training images:", round(clf.score(shapes.images, shapes.target), 3))

with tempfile.TemporaryDirectory() as folder:
    clf.save(Path(folder) / "model")  # holds the weights, but never code ...
    again = MultiLabelImageClassifier.load(Path(folder) / "model", backbone=MyNet)  # ... so the code comes from you
    print("loaded model agrees:", (again.predict(shapes.images) == clf.predict(shapes.images)).all())
