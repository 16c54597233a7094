import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from multilabelkit import metrics
from multilabelkit.data.images import InputSpec
from multilabelkit.inference import sigmoid
from multilabelkit.nn.heads import LinearHead, create_head
from multilabelkit.nn.network import Network
from multilabelkit.training import head_first
from multilabelkit.training.head_first import fit_head, fit_linear_head, start_at_frequencies
from multilabelkit.training.labelled import LabelledFeatures
from multilabelkit.training.settings import TrainingSettings

NAN = np.nan


def make_data(n_samples=120, n_features=6, n_classes=3, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(
        random.normal(0, 5, n_features), random.uniform(0.1, 30, n_features), (n_samples, n_features)
    )
    scores = StandardScaler().fit_transform(features) @ random.normal(0, 1.5, (n_features, n_classes))
    targets = (scores + random.normal(0, 1, scores.shape) > 0.5).astype(np.float32)
    return features.astype(np.float32), targets


def fit_to_features(features, targets, **params):
    linear = nn.Linear(features.shape[1], targets.shape[1])
    fit_linear_head(linear, features, targets, **params)
    with torch.inference_mode():
        return linear(torch.from_numpy(features)).numpy()


def fit_sklearn(features, targets, *, penalty, weight=None):
    """Return the logits of one logistic regression per class.

    The head minimises ``sum(w * loss) / N + penalty * |coef|^2 / n_classes`` where N is the number of known entries of
    all classes. Times ``N * C`` with C = n_classes / (2 * penalty * N), a class's part is scikit-learn's
    ``C * sum(w * loss) + |coef|^2 / 2``.
    """
    known = ~np.isnan(targets)
    weight = np.ones(len(targets)) if weight is None else weight
    C = targets.shape[1] / (2 * penalty * known.sum())
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
    logits = fit_to_features(features, targets, penalty=penalty, max_steps=500)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=penalty), atol=0.02)


def test_head_has_a_default_penalty_and_few_steps_suffice():
    features, targets = make_data()
    np.testing.assert_allclose(
        fit_to_features(features, targets), fit_sklearn(features, targets, penalty=1e-2), atol=0.05
    )


def test_head_leaves_unknown_labels_out():
    features, targets = make_data()
    unknown = np.random.default_rng(1).random(targets.shape) < 0.3
    targets[unknown] = NAN
    logits = fit_to_features(features, targets, penalty=1e-2, max_steps=500)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=1e-2), atol=0.02)


def test_head_counts_weights_as_logistic_regression_does():
    features, targets = make_data()
    targets[::7, 1] = NAN
    weight = np.random.default_rng(2).integers(0, 4, len(targets)).astype(np.float32)
    logits = fit_to_features(features, targets, penalty=1e-2, max_steps=500, sample_weight=weight)
    np.testing.assert_allclose(logits, fit_sklearn(features, targets, penalty=1e-2, weight=weight), atol=0.02)


def test_head_does_not_depend_on_the_weights_it_starts_from():
    features, targets = make_data()
    torch.manual_seed(0)
    first = fit_to_features(features, targets, max_steps=500)
    np.testing.assert_allclose(fit_to_features(features, targets, max_steps=500), first, atol=1e-2)


def test_head_ignores_constant_features():
    features, targets = make_data()
    constant = np.hstack([features, np.full((len(features), 2), [0.0, 7.0], dtype=np.float32)])
    np.testing.assert_allclose(fit_to_features(constant, targets), fit_to_features(features, targets), atol=0.02)


def test_head_stays_finite_for_separable_and_unknown_classes():
    features, targets = make_data()
    targets[:, 0] = features[:, 0] > np.median(features[:, 0])
    targets[:, 1] = 0
    targets[:, 2] = NAN
    logits = fit_to_features(features, targets)
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


def create_settings(**params):
    return TrainingSettings(
        max_epochs=1,
        batch_size=8,
        learning_rate=1e-3,
        backbone_lr_factor=0.5,
        weight_decay=0.01,
        ema=None,
        augmentation=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_workers=0,
        seed=0,
        **params,
    )


SPEC = InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3)


def test_fit_head_penalises_more_where_images_are_few(monkeypatch):
    penalties = []
    monkeypatch.setattr(head_first, "fit_linear_head", lambda *args, penalty, **_: penalties.append(penalty))
    network = Network(nn.Flatten(), LinearHead(2, 1, dropout=0.0))
    for n_images in (10, 100, 500, 1000, 5000):
        train = LabelledFeatures(np.zeros((n_images, 2)), np.zeros((n_images, 1), dtype=np.float32))
        fit_head(network, train, spec=SPEC, settings=create_settings())
    np.testing.assert_allclose(penalties, [0.1, 0.1, 0.1, 0.05, 0.01])


def test_start_is_at_the_class_frequencies():
    """By hand: 3 of 4 known images have the first class, of the second nothing is known."""
    targets = np.array([[1, np.nan], [1, np.nan], [1, np.nan], [0, np.nan]], dtype=np.float32)
    network = Network(nn.Identity(), LinearHead(3, 2, dropout=0.0))
    start_at_frequencies(network, targets)
    np.testing.assert_allclose(network.head.linear.bias.detach(), [np.log(3), 0], atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "mlp", "attention", "ml_decoder"])
def test_every_head_learns_from_features_alone(head):
    features, targets = make_data()
    scaled = StandardScaler().fit_transform(features).astype(np.float32)
    params = {"width": 16, "n_heads": 2, "feedforward": 16} if head == "ml_decoder" else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = create_head(head, n_features=6, n_classes=3, dropout=0.1, head_params=params)
        network = Network(nn.Identity(), made)
        inputs = scaled if made.input_kind == "pooled" else scaled[:, None, :]
        train = LabelledFeatures(np.ascontiguousarray(inputs), targets)
        before = train.predict_logits(network, spec=SPEC, settings=create_settings())
        fit_head(network, train, spec=SPEC, settings=create_settings())
        after = train.predict_logits(network, spec=SPEC, settings=create_settings())
    losses = [metrics.binary_cross_entropy(targets, sigmoid(logits)) for logits in (before, after)]
    assert losses[1] < 0.9 * losses[0]


def test_classes_that_exclude_each_other_start_at_their_frequencies_under_softmax():
    network = Network(nn.Identity(), LinearHead(2, 3, dropout=0.0))
    targets = np.eye(3)[np.repeat([0, 1, 2], [16, 3, 1])]
    targets[0] = NAN
    start_at_frequencies(network, targets, exclusive=True)
    bias = network.head.linear.bias.detach()
    np.testing.assert_allclose(torch.softmax(bias, 0), np.array([15, 3, 1]) / 19, rtol=1e-5)
