"""Fit, predict, report, save and load: images of coloured shapes, a network that trains from scratch in seconds."""

import tempfile
from pathlib import Path

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes
from multilabelkit.model_selection import multilabel_train_test_split

shapes = make_shapes(600, random_state=0)
X_train, X_test, y_train, y_test = multilabel_train_test_split(shapes.images, shapes.target, random_state=0)

clf = MultiLabelImageClassifier("small_cnn", image_size=32, max_epochs=15, backbone_lr_factor=1.0, random_state=0)
clf.fit(X_train, y_train)

print(clf.predict(X_test[:3]))  # 0 and 1, one column per class: what scikit-learn's metrics want
print(clf.predict_labels(X_test[:3]))  # names: what people want
print(clf.evaluate(X_test, y_test))
print(clf.threshold_report_)

with tempfile.TemporaryDirectory() as folder:
    clf.save(Path(folder) / "shapes")  # JSON and safetensors; loading runs no code
    again = MultiLabelImageClassifier.load(Path(folder) / "shapes")
    print("loaded model agrees:", (again.predict(X_test) == clf.predict(X_test)).all())
