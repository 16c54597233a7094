"""What both classifiers can do once they are fitted: grow, and describe their network."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from multilabelkit import ImageClassifier, MultiLabelImageClassifier
from multilabelkit.errors import InputError

FAST = {"image_size": 32, "max_epochs": 2, "verbose": 0, "validation_fraction": 0.4, "random_state": 0}


def create(backbone="small_cnn", **parameters):
    return MultiLabelImageClassifier(backbone, **{**FAST, **parameters})


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("head", ["linear", "mlp", "attention", "ml_decoder"])
def test_new_classes_come_last_and_leave_the_old_as_they_are(shapes, tmp_path, head):
    params = {"width": 16, "n_heads": 2, "feedforward": 16} if head == "ml_decoder" else None
    classifier = create("plain_cnn", head=head, head_params=params).fit(shapes.images, shapes.target)
    before, thresholds = classifier.predict_proba(shapes.images), classifier.thresholds_
    assert classifier.add_classes(["star", "heart"]) is classifier
    assert classifier.classes_.tolist() == [*shapes.target.columns, "star", "heart"]
    assert classifier.label_binarizer_.classes_.tolist() == classifier.classes_.tolist()
    after = classifier.predict_proba(shapes.images)
    np.testing.assert_allclose(after[:, :3], before, atol=1e-6)
    assert after[:, 3:].max() < 0.2
    np.testing.assert_array_equal(classifier.thresholds_, [*thresholds, 0.5, 0.5])
    assert classifier.threshold_report_.index.tolist() == classifier.classes_.tolist()
    classifier.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(shapes.images), after)


def test_new_classes_are_learnt_by_a_further_fit(shapes):
    classifier = create("plain_cnn", warm_start=True, max_epochs=3).fit(shapes.images, shapes.target)
    classifier.add_classes(["bright"])
    target = shapes.target.astype(float)
    target["bright"] = (shapes.images.mean(axis=(1, 2, 3)) > np.median(shapes.images.mean(axis=(1, 2, 3)))).astype(
        float
    )
    before = classifier.predict_proba(shapes.images)[:, 3].max()
    classifier.set_params(max_epochs=10, learning_rate=1e-2, backbone_lr_factor=1.0).fit(shapes.images, target)
    proba = classifier.predict_proba(shapes.images)[:, 3]
    assert proba.max() > 10 * before
    assert proba[target["bright"] == 1].mean() > proba[target["bright"] == 0].mean()


def test_exclusive_classes_grow_too(shapes):
    names = shapes.target.columns.to_numpy()[shapes.target.to_numpy().argmax(axis=1)]
    classifier = ImageClassifier("small_cnn", **FAST).fit(shapes.images, names)
    classifier.add_classes(["star"])
    proba = classifier.predict_proba(shapes.images)
    assert classifier.classes_.tolist()[-1] == "star"
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert set(classifier.predict(shapes.images)) <= set(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("star", "add_classes takes a list of names. Got the single string 'star'; pass ['star']."),
        ([], "add_classes was given no name; pass at least one."),
        ([3], "The classes are of type str, and so must new ones be. Got 3 in add_classes."),
        (["circle"], "The class 'circle' is there already; name each new class once."),
        (["star", "star"], "The class 'star' is there already; name each new class once."),
    ],
    ids=["string", "nothing", "number", "known", "twice"],
)
def test_classes_that_cannot_be_added_are_refused(shapes, names, message):
    classifier = create(max_epochs=1).fit(shapes.images, shapes.target)
    with pytest.raises(InputError, match=whole(message)):
        classifier.add_classes(names)


def test_scores_of_an_own_network_cannot_grow(shapes):
    network = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 3))
    classifier = create(network, head=None, max_epochs=1).fit(shapes.images, shapes.target)
    message = "With head=None the classes are your network's own outputs; add them there, and fit anew."
    with pytest.raises(InputError, match=whole(message)):
        classifier.add_classes(["star"])


def test_summary_counts_every_parameter(shapes):
    classifier = create(max_epochs=1).fit(shapes.images, shapes.target)
    table = classifier.summary()
    assert isinstance(table, pd.DataFrame)
    assert table["n_params"].sum() == sum(p.numel() for p in classifier.network_.parameters())
    assert table.iloc[-1]["output_shape"] == (None, 3)
    assert torch.equal(torch.tensor(table["n_params"] > 0), torch.tensor(table["trainable"].to_numpy()))
