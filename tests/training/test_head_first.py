from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import PixelReader
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network
from multilabelkit.training import head_first
from multilabelkit.training.head_first import fit_linear_head
from multilabelkit.training.loop import LabelledImages

NAN = np.nan


def make_data(n_samples=120, n_features=6, n_classes=3, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(
        random.normal(0, 5, n_features), random.uniform(0.1, 30, n_features), (n_samples, n_features)
    )
    scores = StandardScaler().fit_transform(features) @ random.normal(0, 1.5, (n_features, n_classes))
    targets = (scores + random.normal(0, 1, scores.shape) > 0.5).astype(np.float32)
    return features.astype(np.float32), targets


def fit_head(features, targets, **params):
    linear = nn.Linear(features.shape[1], targets.shape[1])
    fit_linear_head(linear, features, targets, **params)
    with torch.inference_mode():
        return linear(torch.from_numpy(features)).numpy()


def fit_sklearn(features, targets, *, penalty, weight=None):
    """Return the logits of one logistic regression per class.

    The head minimises ``sum(w * loss) / W + penalty * |coef|^2 / n_classes`` where W is the weight of all known entries
    of all classes. Times ``W * C`` with C = n_classes / (2 * penalty * W), a class's part is scikit-learn's
    ``C * sum(w * loss) + |coef|^2 / 2``.
    """
    known = ~np.isnan(targets)
    weight = np.ones(len(targets)) if weight is None else weight
    C = targets.shape[1] / (2 * penalty * (known * weight[:, None]).sum())
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    logits = []
    for column, rows in zip(targets.T, known.T, strict=True):
        model = LogisticRegression(C=C, tol=1e-8, max_iter=1000)
        model.fit(scaled[rows], column[rows], sample_weight=weight[rows])
        logits.append(model.decision_function(scaled))
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 0.3])
def test_head_equals_logistic_regression_on_standardised_features(penalty):
    features, targets = make_data()
    logits = fit_head(features, targets, penalty=penalty, max_steps=500)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=penalty), atol=0.02)


def test_head_has_a_default_penalty_and_few_steps_suffice():
    features, targets = make_data()
    np.testing.assert_allclose(fit_head(features, targets), fit_sklearn(features, targets, penalty=1e-2), atol=0.05)


def test_head_leaves_unknown_labels_out():
    features, targets = make_data()
    unknown = np.random.default_rng(1).random(targets.shape) < 0.3
    targets[unknown] = NAN
    logits = fit_head(features, targets, penalty=1e-2, max_steps=500)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=1e-2), atol=0.02)


def test_head_counts_weights_as_logistic_regression_does():
    features, targets = make_data()
    targets[::7, 1] = NAN
    weight = np.random.default_rng(2).integers(0, 4, len(targets)).astype(np.float32)
    logits = fit_head(features, targets, penalty=1e-2, max_steps=500, sample_weight=weight)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=1e-2, weight=weight), atol=0.02)


def test_head_does_not_depend_on_the_weights_it_starts_from():
    features, targets = make_data()
    torch.manual_seed(0)
    first = fit_head(features, targets, max_steps=500)
    np.testing.assert_allclose(fit_head(features, targets, max_steps=500), first, atol=1e-2)


def test_head_ignores_constant_features():
    features, targets = make_data()
    constant = np.hstack([features, np.full((len(features), 2), [0.0, 7.0], dtype=np.float32)])
    np.testing.assert_allclose(fit_head(constant, targets), fit_head(features, targets), atol=0.02)


def test_head_stays_finite_for_separable_and_unknown_classes():
    features, targets = make_data()
    targets[:, 0] = features[:, 0] > np.median(features[:, 0])
    targets[:, 1] = 0
    targets[:, 2] = NAN
    logits = fit_head(features, targets)
    assert np.isfinite(logits).all()
    assert ((logits[:, 0] > 0) == (targets[:, 0] == 1)).mean() > 0.98
    assert (logits[:, 1] < -2).all()


def test_head_takes_read_only_labels_and_stays_trainable():
    features, targets = make_data()
    weight = np.ones(len(targets), dtype=np.float32)
    targets.flags.writeable = weight.flags.writeable = False
    linear = nn.Linear(6, 3)
    fit_linear_head(linear, features, targets, sample_weight=weight)
    assert linear.weight.requires_grad
    assert linear.weight.is_leaf
    assert linear.weight.grad is None


def test_start_head_penalises_more_where_images_are_few(monkeypatch):
    penalties = []
    monkeypatch.setattr(head_first, "fit_linear_head", lambda *args, penalty, **_: penalties.append(penalty))
    monkeypatch.setattr(head_first, "embed", lambda *args, **_: np.zeros((n_images, 2)))
    network = Network(nn.Flatten(), LinearHead(2, 1, dropout=0.0))
    settings = SimpleNamespace(batch_size=8, num_workers=0, device=torch.device("cpu"), dtype=torch.float32)
    for n_images in (10, 100, 500, 1000, 5000):
        targets = np.zeros((n_images, 1), dtype=np.float32)
        train = LabelledImages(PixelReader([], size=8, color_mode="rgb", pixel_cache=None), targets)
        spec = InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3)
        head_first.start_head(network, spec, train, settings=settings, learn=True)
    np.testing.assert_allclose(penalties, [0.1, 0.1, 0.02, 0.01, 0.01])
