"""Parameters of both classifiers, mixed by lot: each mixture works from fit to load, or is refused in plain words."""

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit import ImageClassifier, MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes
from multilabelkit.errors import InputError

CLASSES = ["circle", "square", "triangle"]
N_IMAGES, N_CASES = 24, 20  # cases of each kind of classifier


class Features(nn.Module):
    """A network of the caller's own that gives maps of 16 features."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2)
            )

    def forward(self, images):
        return self.layers(images)


class Scores(Features):
    """A network of the caller's own that scores three classes itself."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.scores = nn.Linear(16, 3)

    def forward(self, images):
        return self.scores(self.layers(images).mean(dim=(2, 3)))


def square_error(logits, targets):
    return (logits.sigmoid() - targets) ** 2


def mean_proba_of_truth(y_true, proba):
    return float((np.nan_to_num(y_true) * proba).mean())


# Parameters that belong together are drawn together.
SHARED = [
    [{"backbone": name} for name in ("small_cnn", "plain_cnn", Features, Features)],
    [
        {"head": "linear"},
        {"head": "mlp", "head_params": {"hidden": (8,), "activation": "gelu"}},
        {"head": "attention", "head_params": {"queries": "per_class"}},
        {"head": "attention"},
        {"head": "ml_decoder", "head_params": {"width": 16, "n_heads": 4, "feedforward": 16}},
        {"head": "ml_decoder", "head_params": {"width": 16, "n_heads": 4, "feedforward": 16, "n_groups": 2}},
        {"head": None, "backbone": Scores},
    ],
    [{"trainable": value} for value in ("all", "head", 0.5)] + [{"trainable": {0: "head", 1: "all"}, "max_epochs": 2}],
    [{"head_first": True}, {"head_first": False}],
    [{"start_share": value} for value in ("auto", 0.0, 0.5)],
    [{"class_weight": value} for value in (None, "balanced", {"circle": 3.0}, [1, 2, 0.5])],
    [
        {"sampler": None},
        {"sampler": "repeat_factor", "sampler_params": {"threshold": 0.6}},
        {"sampler": "oversample", "sampler_params": {"frequencies": 0.3}},
    ],
    [{"mixup": value} for value in (None, "mixup", "cutmix", "both", {"mixup_alpha": 0.4, "probability": 0.5})],
    [{"optimizer": value} for value in ("adamw", "adam", "sgd", "rmsprop", "lion", torch.optim.Adagrad)],
    [{"schedule": value} for value in ("one_cycle", "exponential", "plateau", "constant")]
    + [
        {"schedule": "cosine", "schedule_params": {"warmup_epochs": 1}, "max_epochs": 2},
        {"schedule": "step", "schedule_params": {"milestones": [1]}, "max_epochs": 2},
    ],
    [{"clip_norm": None}, {"clip_norm": 0.5}],
    [{"accumulate": value} for value in (1, 2, 50)],
    [{"batch_size": value} for value in (None, None, 16, 16, 2, 1)],
    [{"ema": 0.9}, {"ema": None}],
    [{"validation_fraction": value} for value in (0.25, 0.25, 0.25, None)],
    [{"patience": None}, {"patience": 1}],
    [{"refit": False}, {"refit": True}],
    [{"tta": None}, {"tta": "hflip"}],
    [{"precision": value} for value in ("auto", "fp32", "bf16", "fp16")],
    [{"augment": value} for value in ("standard", "light", None)],
    [{"weighted": False}, {"weighted": True}],
    [{"hidden": False}, {"hidden": True}],
]
OWN = {
    MultiLabelImageClassifier: [
        [
            {"loss": "auto"},
            {"loss": "bce", "loss_params": {"label_smoothing": 0.1}},
            {"loss": "focal", "loss_params": {"alpha": None}},
            {"loss": "asymmetric"},
            {"loss": square_error},
            {"loss": nn.HuberLoss(reduction="none")},
        ],
        [{"monitor": value} for value in ("auto", "auto", "train_loss", "valid_micro_f1", mean_proba_of_truth)],
        [{"thresholds": value} for value in ("f1", "global", 0.4, [0.2, 0.5, 0.7], dict.fromkeys(CLASSES, 0.3))],
        [{"missing_labels": "ignore"}, {"missing_labels": "negative"}],
    ],
    ImageClassifier: [
        [
            {"loss": "auto"},
            {"loss": "cross_entropy", "loss_params": {"label_smoothing": 0.1}},
            {"loss": square_error},
        ],
        [{"monitor": value} for value in ("auto", "auto", "train_loss", "valid_accuracy", mean_proba_of_truth)],
    ],
}


def draw_cases(kind, *, seed):
    """Draw mixtures in which each value of a parameter is about as frequent as the others."""
    random = np.random.default_rng(seed)
    cases = [{"max_epochs": 1 + place % 2} for place in range(N_CASES)]
    for values in [*SHARED, *OWN[kind]]:
        order = random.permutation(N_CASES)
        for place, case in zip(order, cases, strict=True):
            case.update(values[place % len(values)])
    return [pytest.param(kind, case, id=f"{kind.__name__}-{place}") for place, case in enumerate(cases)]


def is_contradiction(parameters):
    """Tell whether parameters exclude each other, as is documented."""
    only_head = parameters["trainable"] == "head" or isinstance(parameters["trainable"], dict)
    watches = parameters["monitor"] not in ("auto", "train_loss")
    return (parameters["head"] is None and only_head) or (watches and parameters["validation_fraction"] is None)


def create_data(kind, *, hidden):
    """Return images and labels; where asked, a sixth of what is to be learnt is unknown."""
    shapes = make_shapes(N_IMAGES, random_state=0)
    unknown = np.random.default_rng(0).random((N_IMAGES, 3)) < (1 / 6 if hidden else 0)
    if kind is MultiLabelImageClassifier:
        return shapes.images, shapes.target.astype(float).mask(unknown)
    return shapes.images, np.where(unknown[:, 0], None, shapes.target.idxmax(axis=1))


def check_predictions(classifier, proba):
    """Check that probabilities are some, and that predictions follow from them."""
    assert proba.shape == (N_IMAGES, 3)
    assert np.isfinite(proba).all()
    assert ((proba >= 0) & (proba <= 1)).all()
    if isinstance(classifier, ImageClassifier):
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    else:
        assert np.isfinite(classifier.thresholds_).all()


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [*draw_cases(MultiLabelImageClassifier, seed=11), *draw_cases(ImageClassifier, seed=12)],
)
def test_a_mixture_of_parameters_works_or_is_refused(kind, parameters, tmp_path):
    parameters = dict(parameters)
    X, y = create_data(kind, hidden=parameters.pop("hidden"))
    weight = np.linspace(0, 2, N_IMAGES) if parameters.pop("weighted") else None
    classifier = kind(
        image_size=32, classes=CLASSES, device="cpu", num_workers=0, random_state=0, verbose=0, **parameters
    )
    if is_contradiction(parameters):
        with pytest.raises(InputError):
            classifier.fit(X, y, sample_weight=weight)
        return
    classifier.fit(X, y, sample_weight=weight)
    assert np.isfinite([row["train_loss"] for row in classifier.history_]).all()
    proba = classifier.predict_proba(X)
    check_predictions(classifier, proba)
    classifier.save(tmp_path / "model")
    backbone = parameters["backbone"]
    loaded = kind.load(tmp_path / "model", backbone=None if isinstance(backbone, str) else backbone, device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X), proba)
    np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
