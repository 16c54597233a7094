import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.nn.heads import LinearHead, set_prior_bias


def test_linear_head_is_a_linear_layer_in_eval_mode():
    head = LinearHead(5, 3, dropout=0.5).eval()
    features = torch.randn(4, 5)
    torch.testing.assert_close(head(features), features @ head.linear.weight.T + head.linear.bias)


def test_linear_head_drops_features_in_training():
    head = LinearHead(1000, 1, dropout=0.25)
    nn.init.ones_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    torch.manual_seed(0)
    kept = head(torch.ones(50, 1000)) * 0.75 / 1000  # what is kept grows by 1 / 0.75
    assert kept.mean().item() == pytest.approx(0.75, abs=0.01)
    assert kept.std() > 0


def test_prior_bias_gives_each_class_its_frequency():
    head = LinearHead(5, 4, dropout=0.0)
    prior = np.array([0.5, 0.1, 0.003, 0.97])
    set_prior_bias(head.linear, prior)
    logits = head(torch.zeros(1, 5))
    np.testing.assert_allclose(logits.sigmoid().detach().numpy()[0], prior, rtol=1e-5)
    assert head.linear.bias.requires_grad


@pytest.mark.parametrize(("prior", "expected"), [(0.0, 1e-3), (1.0, 1 - 1e-3), (1e-9, 1e-3), (np.nan, 0.5)])
def test_prior_bias_is_finite_for_classes_without_positives_negatives_or_labels(prior, expected):
    linear = nn.Linear(2, 1)
    set_prior_bias(linear, np.array([prior]))
    assert linear.bias.sigmoid().item() == pytest.approx(expected, rel=1e-4)


def test_prior_bias_leaves_the_weights_alone():
    linear = nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    set_prior_bias(linear, np.array([0.2, 0.3]))
    assert torch.equal(linear.weight, before)
