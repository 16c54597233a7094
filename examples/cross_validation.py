"""The quickstart, inside scikit-learn: cross-validation with folds that share out every label, and a grid search."""

from sklearn.model_selection import GridSearchCV, cross_val_score

from multilabelkit import MultiLabelImageClassifier, as_indicator, as_labels
from multilabelkit.datasets import make_shapes
from multilabelkit.model_selection import MultiLabelStratifiedKFold

shapes = make_shapes(300, random_state=0)
labels = as_labels(shapes.target)  # [("circle",), (), ("circle", "square"), ...]
y = as_indicator(labels)  # scikit-learn wants a table of 0 and 1, not lists

clf = MultiLabelImageClassifier(
    "small_cnn", image_size=32, max_epochs=8, backbone_lr_factor=1.0, random_state=0, verbose=0
)
cv = MultiLabelStratifiedKFold(3, random_state=0)
print("macro-F1 of each fold:", cross_val_score(clf, shapes.images, y, scoring="f1_macro", cv=cv))

search = GridSearchCV(clf, {"learning_rate": [1e-3, 3e-3], "dropout": [0.0, 0.2]}, scoring="f1_macro", cv=cv)
search.fit(shapes.images, y)
print("best:", search.best_params_, round(search.best_score_, 3))
