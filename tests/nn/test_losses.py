import math

import numpy as np
import pytest
import torch

from multilabelkit.nn.losses import binary_cross_entropy

NAN = float("nan")


def make_batch(n_samples=6, n_classes=4, seed=0):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 3, (n_samples, n_classes)), dtype=torch.float32)
    targets = torch.tensor(random.choice([0.0, 1.0, NAN], (n_samples, n_classes)), dtype=torch.float32)
    weight = torch.tensor(random.integers(0, 4, n_samples), dtype=torch.float32)
    return logits, targets, weight


def loop_over_known(logits, targets, weight=None):
    """Sum minus the log of the probability of each known label, one after the other."""
    total = count = 0.0
    for row in range(targets.shape[0]):
        for column in range(targets.shape[1]):
            target = targets[row, column].item()
            if math.isnan(target):
                continue
            proba = 1 / (1 + math.exp(-logits[row, column].item()))
            once = 1.0 if weight is None else weight[row].item()
            total -= once * math.log(proba if target == 1 else 1 - proba)
            count += once
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


def test_weight_counts_as_repetition():
    logits, targets, weight = make_batch()
    times = weight.long()
    repeated = binary_cross_entropy(logits.repeat_interleave(times, 0), targets.repeat_interleave(times, 0))
    torch.testing.assert_close(binary_cross_entropy(logits, targets, weight), repeated)


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


def test_tiny_weights_still_count():
    logits, targets, _ = make_batch()
    weight = torch.full((6,), 1e-30)
    torch.testing.assert_close(binary_cross_entropy(logits, targets, weight), binary_cross_entropy(logits, targets))


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
