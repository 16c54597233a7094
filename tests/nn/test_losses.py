import functools
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight as compute_sklearn_weight
from torchvision.ops import sigmoid_focal_loss

from multilabelkit.errors import InputError
from multilabelkit.nn.losses import binary_cross_entropy, compute_class_weight, create_loss

NAN = float("nan")


def make_batch(n_samples=6, n_classes=4, seed=0):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 3, (n_samples, n_classes)), dtype=torch.float32)
    targets = torch.tensor(random.choice([0.0, 1.0, NAN], (n_samples, n_classes)), dtype=torch.float32)
    weight = torch.tensor(random.integers(0, 4, n_samples), dtype=torch.float32)
    return logits, targets, weight


def loop_over_known(logits, targets, weight=None):
    """Average minus the log of the probability of each known label, times its weight, one after the other."""
    total = count = 0.0
    for row in range(targets.shape[0]):
        for column in range(targets.shape[1]):
            target = targets[row, column].item()
            if math.isnan(target):
                continue
            proba = 1 / (1 + math.exp(-logits[row, column].item()))
            once = 1.0 if weight is None else weight[row].item()
            total -= once * math.log(proba if target == 1 else 1 - proba)
            count += 1
    return total / count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_equals_a_loop_over_known_entries(seed, weighted):
    logits, targets, weight = make_batch(seed=seed)
    weight = weight if weighted else None
    assert binary_cross_entropy(logits, targets, weight).item() == pytest.approx(
        loop_over_known(logits, targets, weight), rel=1e-5
    )


def test_binary_cross_entropy_equals_torch_where_all_is_known():
    logits, targets, _ = make_batch()
    targets = targets.nan_to_num()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)


def test_unknown_entries_have_no_gradient():
    logits, targets, _ = make_batch()
    logits.requires_grad_()
    binary_cross_entropy(logits, targets).backward()
    unknown = targets.isnan()
    assert unknown.any()
    assert (logits.grad[unknown] == 0).all()
    expected = (logits.detach().sigmoid() - targets)[~unknown] / (~unknown).sum()
    torch.testing.assert_close(logits.grad[~unknown], expected)


def test_weight_of_mean_one_counts_as_repetition():
    logits, targets, weight = make_batch()
    targets = targets.nan_to_num()
    times = weight.long()
    repeated = binary_cross_entropy(logits.repeat_interleave(times, 0), targets.repeat_interleave(times, 0))
    torch.testing.assert_close(binary_cross_entropy(logits, targets, weight / weight.mean()), repeated)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "cross_entropy"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_image_has_the_same_weight_in_every_batch(name, batch_size):
    logits, _, targets = make_exclusive_batch()
    weight = torch.tensor([0.0, 5.0, 0.25, 0.5, 0.125, 0.125])
    loss = create_loss(name)
    whole = loss(logits, targets, weight)
    batches = [slice(start, start + batch_size) for start in range(0, 6, batch_size)]
    parts = [loss(logits[batch], targets[batch], weight[batch]) for batch in batches]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize(
    ("targets", "weight"),
    [
        (torch.full((3, 2), NAN), None),
        (torch.full((3, 2), NAN), torch.ones(3)),
        (torch.ones(3, 2), torch.zeros(3)),
        (torch.tensor([[1.0, 0.0], [NAN, NAN], [NAN, NAN]]), torch.tensor([0.0, 1.0, 1.0])),
    ],
    ids=["unknown", "unknown and weighted", "weightless", "known ones weightless"],
)
def test_loss_is_zero_where_nothing_counts(targets, weight):
    logits = torch.randn(3, 2, requires_grad=True)
    loss = binary_cross_entropy(logits, targets, weight)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_weight_scales_the_loss_of_a_single_image():
    logits, targets = torch.tensor([[0.5, -2.0, 1.0]]), torch.tensor([[1.0, 0.0, NAN]])
    plain = binary_cross_entropy(logits, targets)
    torch.testing.assert_close(binary_cross_entropy(logits, targets, torch.tensor([3.0])), 3 * plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_of_half_precision_logits_is_computed_in_fp32(dtype):
    logits, targets, weight = make_batch()
    half = logits.to(dtype)
    loss = binary_cross_entropy(half, targets, weight)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, binary_cross_entropy(half.float(), targets, weight))


def test_loss_stays_finite_for_huge_logits():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == 1e4
    assert logits.grad.tolist() == [[0.5, -0.5]]


def make_soft_batch(n_samples=7, n_classes=4, seed=0):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 3, (n_samples, n_classes)), dtype=torch.float32)
    targets = torch.tensor(random.choice([0.0, 0.3, 1.0, NAN], (n_samples, n_classes)), dtype=torch.float32)
    return logits, targets


def make_exclusive_batch(n_samples=6, n_classes=4, seed=0):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 2, (n_samples, n_classes)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, n_classes, n_samples))
    return logits, labels, torch.nn.functional.one_hot(labels, n_classes).float()


def raises(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def cost_bce(proba, params):
    return -math.log(proba), -math.log(1 - proba)


def cost_focal(proba, params):
    present = (1 - proba) ** params["gamma"] * -math.log(proba)
    absent = proba ** params["gamma"] * -math.log(1 - proba)
    alpha = params["alpha"]
    return (present, absent) if alpha is None else (alpha * present, (1 - alpha) * absent)


def cost_asymmetric(proba, params):
    shifted = max(proba - params["margin"], 0)
    present = (1 - proba) ** params["gamma_pos"] * -math.log(proba)
    return present, shifted ** params["gamma_neg"] * -math.log(1 - shifted)


ELEMENT_LOSSES = [
    ("bce", cost_bce, {}),
    ("focal", cost_focal, {"gamma": 2, "alpha": 0.25}),
    ("focal", cost_focal, {"gamma": 0.5, "alpha": None}),
    ("asymmetric", cost_asymmetric, {"gamma_neg": 4, "gamma_pos": 1, "margin": 0.05}),
    ("asymmetric", cost_asymmetric, {"gamma_neg": 0.5, "gamma_pos": 0, "margin": 0.2}),
    ("asymmetric", cost_asymmetric, {"gamma_neg": 2, "gamma_pos": 0, "margin": 0}),
]
ELEMENT_IDS = [f"{name} {params}" for name, _, params in ELEMENT_LOSSES]


@pytest.mark.parametrize(("name", "cost", "params"), ELEMENT_LOSSES, ids=ELEMENT_IDS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_element_loss_equals_a_loop_over_known_entries(name, cost, params, weighted):
    logits, targets = make_soft_batch()
    class_weight = np.array([1.0, 2.5, 0.5, 7.0]) if weighted else np.ones(4)
    sample_weight = torch.arange(7.0) if weighted else torch.ones(7)
    total = count = 0.0
    for row, column in np.argwhere(~np.isnan(targets.numpy())):
        present, absent = cost(1 / (1 + math.exp(-logits[row, column].item())), params)
        target, once = targets[row, column].item(), sample_weight[row].item()
        total += once * (target * class_weight[column] * present + (1 - target) * absent)
        count += 1
    loss = create_loss(name, loss_params=params, class_weight=class_weight if weighted else None)
    got = loss(logits, targets, sample_weight if weighted else None)
    assert got.item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "params"),
    [("focal", {"gamma": 2, "alpha": 0.25}), ("asymmetric", {"gamma_neg": 4, "gamma_pos": 1, "margin": 0.05})],
)
def test_params_left_out_have_the_defaults_of_the_papers(name, params):
    logits, targets = make_soft_batch()
    assert torch.equal(create_loss(name)(logits, targets), create_loss(name, loss_params=params)(logits, targets))


@pytest.mark.parametrize("alpha", [0.25, None])
def test_focal_loss_equals_torchvision_where_all_is_known(alpha):
    logits, targets, _ = make_batch()
    targets = targets.nan_to_num()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1 if alpha is None else alpha, gamma=2, reduction="mean")
    torch.testing.assert_close(create_loss("focal", loss_params={"alpha": alpha})(logits, targets), expected)


def test_asymmetric_loss_has_the_gradient_of_its_formula():
    logits, targets, _ = make_batch()
    targets = targets.nan_to_num()
    logits.requires_grad_()
    create_loss("asymmetric")(logits, targets).backward()
    plain = logits.detach().double().requires_grad_()
    proba = plain.sigmoid()
    shifted = (proba - 0.05).clamp(min=0)
    values = -targets * (1 - proba) * proba.log() - (1 - targets) * shifted**4 * (1 - shifted).log()
    values.mean().backward()
    torch.testing.assert_close(logits.grad.double(), plain.grad, rtol=1e-4, atol=1e-7)


def test_asymmetric_loss_drops_absent_labels_below_the_margin():
    logits = torch.tensor([[-4.0, 1.0]], requires_grad=True)  # probabilities 0.018 and 0.73
    create_loss("asymmetric")(logits, torch.zeros(1, 2)).backward()
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] > 0


def test_named_bce_is_the_plain_function_to_the_last_bit():
    logits, targets, weight = make_batch()
    loss = create_loss("bce")
    assert torch.equal(loss(logits, targets), binary_cross_entropy(logits, targets))
    assert torch.equal(loss(logits, targets, weight), binary_cross_entropy(logits, targets, weight))


def test_label_smoothing_pulls_targets_to_one_half():
    logits, targets = make_soft_batch()
    smoothed = create_loss("bce", loss_params={"label_smoothing": 0.2})(logits, targets)
    torch.testing.assert_close(smoothed, binary_cross_entropy(logits, targets * 0.8 + 0.1))


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "cross_entropy"])
def test_gradient_is_finite_for_unknown_labels_and_huge_logits(name):
    logits = torch.tensor([[1e4, -1e4, 300.0], [-300.0, 0.0, 1e4]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.0], [NAN, NAN, NAN]])
    loss = create_loss(name)(logits, targets)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()
    assert logits.grad[0].abs().max() > 0


@pytest.mark.parametrize("margin", [0, 1e-12, 0.05])
@pytest.mark.parametrize("gamma", [0, 0.3, 1])
def test_small_powers_have_finite_gradients_at_certain_logits(gamma, margin):
    params = {"gamma_neg": gamma, "gamma_pos": gamma, "margin": margin}
    logits = torch.tensor([[1e3, -1e3, 0.0, -3.0]], requires_grad=True)
    for target in (0.0, 1.0):
        loss = create_loss("asymmetric", loss_params=params)(logits, torch.full((1, 4), target))
        loss = loss + create_loss("focal", loss_params={"gamma": gamma})(logits, torch.full((1, 4), target))
        loss.backward()
        assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "cross_entropy"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_named_losses_are_computed_in_fp32(name, dtype):
    logits, _, targets = make_exclusive_batch()
    half = logits.to(dtype)
    got = create_loss(name)(half, targets.to(dtype))
    assert got.dtype == torch.float32
    assert torch.equal(got, create_loss(name)(half.float(), targets))


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "cross_entropy"])
def test_named_losses_are_zero_where_nothing_is_known(name):
    logits = torch.randn(3, 2, requires_grad=True)
    loss = create_loss(name)(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_missing_labels_can_count_as_absent(name):
    logits, targets = make_soft_batch()
    got = create_loss(name, missing_labels="negative")(logits, targets)
    assert torch.equal(got, create_loss(name)(logits, targets.nan_to_num()))


def test_loss_does_not_write_into_its_input():
    logits, targets = make_soft_batch()
    before = targets.clone()
    create_loss("bce", missing_labels="negative", loss_params={"label_smoothing": 0.1})(logits, targets)
    assert torch.equal(targets.nan_to_num(9), before.nan_to_num(9))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch_on_labels(smoothing):
    logits, labels, targets = make_exclusive_batch()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    loss = create_loss("cross_entropy", loss_params={"label_smoothing": smoothing})
    torch.testing.assert_close(loss(logits, targets), expected)


def test_cross_entropy_leaves_out_unknown_rows():
    logits, labels, targets = make_exclusive_batch()
    targets[1] = NAN
    targets[4, 0] = NAN
    known = [0, 2, 3, 5]
    expected = torch.nn.functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(create_loss("cross_entropy")(logits, targets), expected)


def test_cross_entropy_takes_soft_rows():
    logits, _, targets = make_exclusive_batch()
    soft = 0.7 * targets + 0.3 * targets.flip(0)
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(create_loss("cross_entropy")(logits, soft), expected)


def test_cross_entropy_weighs_classes_and_samples():
    logits, labels, targets = make_exclusive_batch()
    class_weight, sample_weight = np.array([1.0, 2.0, 3.0, 0.5]), torch.arange(6.0)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each * torch.tensor(class_weight).float()[labels] * sample_weight).mean()
    got = create_loss("cross_entropy", class_weight=class_weight)(logits, targets, sample_weight)
    torch.testing.assert_close(got, expected)


def test_own_loss_of_cells_is_masked_weighted_and_averaged():
    logits, targets = make_soft_batch()
    sample_weight, class_weight = torch.arange(7.0), np.array([1.0, 2.0, 3.0, 0.5])
    seen = []

    def square(logits, targets):
        seen.append(targets)
        return (logits - targets) ** 2

    got = create_loss(square, class_weight=class_weight)(logits, targets, sample_weight)
    assert torch.equal(seen[0], targets.nan_to_num())
    known = ~targets.isnan()
    factor = 1 + (torch.tensor(class_weight).float() - 1) * targets.nan_to_num()
    weights = known * sample_weight[:, None]
    expected = (((logits - targets.nan_to_num()) ** 2 * factor) * weights).sum() / known.sum()
    torch.testing.assert_close(got, expected)


def test_own_loss_of_images_is_masked_weighted_and_averaged():
    logits, _, targets = make_exclusive_batch()
    targets[1] = NAN
    targets[4, 0] = NAN  # the others are known
    own = torch.nn.CrossEntropyLoss(reduction="none")
    weight = torch.arange(6.0)
    each = own(logits, targets.nan_to_num())
    known = [0, 2, 3, 4, 5]
    torch.testing.assert_close(create_loss(own)(logits, targets), each[known].mean())
    torch.testing.assert_close(create_loss(own)(logits, targets, weight), (each * weight)[known].mean())


def test_own_loss_of_images_may_have_as_many_as_classes():
    logits, _, targets = make_exclusive_batch(n_samples=4, n_classes=4)
    own = torch.nn.CrossEntropyLoss(reduction="none")
    weight = torch.arange(4.0)
    expected = (own(logits, targets) * weight).mean()
    torch.testing.assert_close(create_loss(own)(logits, targets, weight), expected)


def test_own_loss_of_images_is_zero_where_nothing_is_known():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = create_loss(torch.nn.CrossEntropyLoss(reduction="none"))(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_own_loss_of_a_single_value_is_taken_as_it_is():
    logits, targets = make_soft_batch()
    own = torch.nn.MultiLabelSoftMarginLoss()
    known = targets.nan_to_num()
    torch.testing.assert_close(create_loss(own)(logits, known), own(logits, known))
    torch.testing.assert_close(create_loss(own, missing_labels="negative")(logits, targets), own(logits, known))


def test_own_module_is_copied():
    own = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(4))
    loss = create_loss(own)
    loss.to(torch.float64)
    assert own.pos_weight.dtype == torch.float32
    assert [buffer.dtype for buffer in loss.buffers()] == [torch.float64]


def test_loss_moves_with_all_its_tensors():
    own = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(4), reduction="none")
    loss = create_loss(own, class_weight=np.ones(4)).to("meta")
    assert {name: buffer.device.type for name, buffer in loss.named_buffers()} == {
        "class_weight": "meta",
        "compute.loss.pos_weight": "meta",
    }
    logits = torch.zeros(3, 4, device="meta")
    assert loss(logits, logits, logits[:, 0]).device.type == "meta"


SINGLE = torch.nn.BCEWithLogitsLoss()
INSTEAD = (
    "Return one value per cell or per image instead, as torch's losses do with reduction='none'; what is unknown is "
    "then left out."
)


def test_own_loss_of_a_single_value_refuses_unknown_labels():
    message = "A loss of your own that returns a single value cannot be used where 2 of 6 labels of a batch are unknown"
    with raises(f"{message}. {INSTEAD}"):
        create_loss(SINGLE)(torch.zeros(3, 2), torch.tensor([[NAN, 1.0], [0.0, NAN], [0.0, 0.0]]))


def test_own_loss_of_a_single_value_refuses_sample_weight():
    message = "A loss of your own that returns a single value cannot be used where sample_weight is used."
    with raises(f"{message} {INSTEAD}"):
        create_loss(SINGLE)(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3))


@pytest.mark.parametrize(
    ("own", "returned"),
    [(SINGLE, "a single value"), (torch.nn.CrossEntropyLoss(reduction="none"), "one value per image")],
    ids=["single", "per image"],
)
def test_own_loss_without_a_value_per_cell_refuses_class_weight(own, returned):
    with raises(
        f"A loss of your own that returns {returned} cannot be combined with class_weight. Return one value per "
        "cell, of the shape of the logits, instead, or leave class_weight out."
    ):
        create_loss(own, class_weight=np.ones(2))(torch.zeros(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (lambda logits, targets: logits[0], "the shape (2,)"),
        (lambda logits, targets: logits[:, :1], "the shape (3, 1)"),
        (lambda logits, targets: 0.5, "the float 0.5"),
    ],
    ids=["per class", "per image as a column", "no tensor"],
)
def test_own_loss_of_another_shape_is_refused(own, found):
    with raises(
        "A loss of your own must return a tensor with one value per cell, here of shape (3, 2), one value per image, "
        f"here of shape (3,), or a single value. Got {found}."
    ):
        create_loss(own)(torch.zeros(3, 2), torch.zeros(3, 2))


def test_own_loss_takes_no_loss_params():
    with raises(
        "loss_params must be None with a loss of your own. Got {'gamma': 2}; bind its parameters with "
        "functools.partial."
    ):
        create_loss(functools.partial(sigmoid_focal_loss), loss_params={"gamma": 2})


LOSS_RULE = "'bce', 'focal', 'asymmetric' or 'cross_entropy', or a callable of logits and targets (not a class)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, f"The 'loss' parameter of create_loss must be {LOSS_RULE}. Got 'hinge' instead."),
        (
            {"loss": torch.nn.BCELoss},
            f"The 'loss' parameter of create_loss must be {LOSS_RULE}. "
            "Got <class 'torch.nn.modules.loss.BCELoss'> instead.",
        ),
        (
            {"loss": "bce", "loss_params": 0.1},
            "The 'loss_params' parameter of create_loss must be None or a dict. Got 0.1 instead.",
        ),
        (
            {"loss": "bce", "missing_labels": "drop"},
            "The 'missing_labels' parameter of create_loss must be 'ignore' or 'negative'. Got 'drop' instead.",
        ),
        (
            {"loss": "focal", "loss_params": {"gama": 2}},
            "loss_params must not hold 'gama' with loss='focal'. Did you mean 'gamma'? Allowed: 'gamma', 'alpha'.",
        ),
        (
            {"loss": "focal", "loss_params": {"label_smoothing": 0.1}},
            "loss_params must not hold 'label_smoothing' with loss='focal'. Allowed: 'gamma', 'alpha'.",
        ),
        (
            {"loss": "bce", "loss_params": {"label_smoothing": 1}},
            "The 'label_smoothing' parameter of loss='bce' must be a number >= 0 and < 1. Got 1 instead.",
        ),
        (
            {"loss": "focal", "loss_params": {"alpha": 1}},
            "The 'alpha' parameter of loss='focal' must be a number > 0 and < 1, or None. Got 1 instead.",
        ),
        (
            {"loss": "asymmetric", "loss_params": {"gamma_neg": -1}},
            "The 'gamma_neg' parameter of loss='asymmetric' must be a number >= 0. Got -1 instead.",
        ),
        (
            {"loss": "asymmetric", "loss_params": {"margin": 1}},
            "The 'margin' parameter of loss='asymmetric' must be a number >= 0 and < 1. Got 1 instead.",
        ),
        (
            {"loss": "cross_entropy", "missing_labels": "negative"},
            "The 'missing_labels' parameter must be 'ignore' with loss='cross_entropy': where classes exclude each "
            "other, an image without a known class cannot count as absent from all of them. Got 'negative' instead.",
        ),
    ],
)
def test_create_loss_refuses_what_it_does_not_know(arguments, message):
    with raises(message):
        create_loss(**arguments)


CLASSES = ["sea", "trees", "sunset", "desert"]


def test_no_class_weight_is_none():
    assert compute_class_weight(None, np.eye(4), classes=CLASSES) is None


def test_balanced_weight_is_absent_to_present_within_the_cap():
    targets = np.array([[1, 1, 0, 0]] + [[0, 1, 0, 0]] * 3 + [[0, NAN, 0, 1]] * 3 + [[0, 0, 0, NAN]] * 17)
    # sea: 23 / 1, over the cap; trees: 17 / 4; sunset: never present; desert: 4 / 3
    weight = compute_class_weight("balanced", targets, classes=CLASSES)
    np.testing.assert_allclose(weight, [10, 17 / 4, 1, 4 / 3])
    np.testing.assert_allclose(compute_class_weight("balanced", targets, classes=CLASSES, cap=30)[0], 23)


def test_balanced_weight_of_a_common_class_is_one():
    targets = np.array([[1.0], [1.0], [1.0], [0.0]])
    assert compute_class_weight("balanced", targets, classes=["sea"]).tolist() == [1]


def test_balanced_weight_of_exclusive_classes_equals_sklearn():
    labels = np.repeat([0, 1, 2, 3], [30, 10, 7, 4])
    weight = compute_class_weight("balanced", np.eye(4)[labels], classes=CLASSES, exclusive=True)
    np.testing.assert_allclose(weight, compute_sklearn_weight("balanced", classes=np.arange(4), y=labels))


def test_balanced_weight_of_exclusive_classes_is_capped_on_both_sides():
    targets = np.vstack([np.eye(4)[np.repeat([0, 1, 3], [98, 1, 1])], np.full((5, 4), NAN)])
    weight = compute_class_weight("balanced", targets, classes=CLASSES, exclusive=True, cap=2)
    np.testing.assert_allclose(weight, [0.5, 2, 1, 2])


@pytest.mark.parametrize(
    "given",
    [
        {"trees": 2, "desert": 0.5},
        pd.Series({"trees": 2, "desert": 0.5}),
        [1, 2, 1, 0.5],
        (1, 2, 1, 0.5),
        np.array([1, 2, 1, 0.5]),
    ],
    ids=["dict", "Series", "list", "tuple", "array"],
)
def test_given_class_weights_are_taken_as_they_are(given):
    weight = compute_class_weight(given, np.eye(4), classes=np.array(CLASSES), cap=1)
    assert weight.tolist() == [1, 2, 1, 0.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trees": 2, "sunsett": 1}, "class_weight names unknown classes: 'sunsett'. Did you mean 'sunset'?"),
        ({7: 2}, "class_weight names unknown classes: 7."),
        ([1, 2], "class_weight must hold one number for each of 4 classes. Got 2."),
        ([1, 2, 0, 1], "A class_weight must be a number > 0. Got 0 for class 'sunset'."),
        (np.array([1, np.inf, 1, 1]), "A class_weight must be a number > 0. Got inf for class 'trees'."),
        ({"sea": "2"}, "A class_weight must be a number > 0. Got '2' for class 'sea'."),
        (
            "balance",
            "class_weight must be None, 'balanced', a dict by class, or one number per class. Got 'balance' instead.",
        ),
        (2.0, "class_weight must be None, 'balanced', a dict by class, or one number per class. Got 2.0 instead."),
    ],
)
def test_class_weights_that_cannot_be_are_refused(given, message):
    with raises(message):
        compute_class_weight(given, np.eye(4), classes=CLASSES)


def test_cap_below_one_is_refused():
    with raises("The 'cap' parameter of compute_class_weight must be a number >= 1. Got 0.5 instead."):
        compute_class_weight("balanced", np.eye(4), classes=CLASSES, cap=0.5)
