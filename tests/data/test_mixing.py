import re

import numpy as np
import pytest
import torch

from multilabelkit.data.mixing import Mixing, create_mixing, mix_batch
from multilabelkit.errors import InputError

NAN = float("nan")
MIXUP, CUTMIX, BOTH = Mixing(mixup_alpha=1.0), Mixing(cutmix_alpha=1.0), Mixing(mixup_alpha=1.0, cutmix_alpha=1.0)


class Draws:
    """A generator whose draws are written down beforehand."""

    def __init__(self, *, share, partner, centers=(), chances=(0.0, 0.0)):
        self.share, self.partner = share, partner
        self.centers, self.chances = iter(centers), iter(chances)

    def random(self):
        return next(self.chances)

    def beta(self, a, b):
        assert a == b
        return self.share

    def permutation(self, n):
        assert n == len(self.partner)
        return np.array(self.partner)

    def integers(self, high):
        center = next(self.centers)
        assert 0 <= center < high
        return center


def make_batch(n_samples=4, size=8):
    """Images of one grey value each, its number, so that a pixel tells whose it is."""
    images = torch.arange(n_samples, dtype=torch.float32)[:, None, None, None].expand(-1, 3, size, size).clone()
    targets = torch.eye(n_samples)
    return images.to(memory_format=torch.channels_last), targets, torch.arange(1.0, n_samples + 1)


def raises(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("mixup", "expected"),
    [
        (None, None),
        ("mixup", Mixing(mixup_alpha=0.2, cutmix_alpha=0, probability=1)),
        ("cutmix", Mixing(mixup_alpha=0, cutmix_alpha=1.0, probability=1)),
        ("both", Mixing(mixup_alpha=0.2, cutmix_alpha=1.0, probability=1)),
        ({"cutmix_alpha": 2, "probability": 0.5}, Mixing(mixup_alpha=0, cutmix_alpha=2, probability=0.5)),
    ],
)
def test_create_mixing_knows_names_and_dicts(mixup, expected):
    assert create_mixing(mixup) == expected


@pytest.mark.parametrize(
    ("mixup", "message"),
    [
        (
            "mixmatch",
            "The 'mixup' parameter of create_mixing must be 'mixup', 'cutmix', 'both' or None, or a dict of "
            "mixup_alpha, cutmix_alpha, probability. Got 'mixmatch' instead.",
        ),
        (
            {"alpha": 0.2},
            "mixup must not hold 'alpha'. Did you mean 'mixup_alpha' or 'cutmix_alpha'? "
            "Allowed: 'mixup_alpha', 'cutmix_alpha', 'probability'.",
        ),
        (
            {"mixup_alpha": -0.2},
            "The 'mixup_alpha' parameter of mixup must be a number >= 0. Got -0.2 instead.",
        ),
        (
            {"cutmix_alpha": "1"},
            "The 'cutmix_alpha' parameter of mixup must be a number >= 0. Got '1' instead.",
        ),
        (
            {"mixup_alpha": 0.2, "probability": 0},
            "The 'probability' parameter of mixup must be a number > 0 and <= 1. Got 0 instead.",
        ),
        (
            {"probability": 0.5},
            "mixup mixes nothing where mixup_alpha and cutmix_alpha are both 0. Set one of them above 0, or "
            "mixup=None.",
        ),
    ],
)
def test_create_mixing_refuses_what_it_does_not_know(mixup, message):
    with raises(message):
        create_mixing(mixup)


def test_mixup_blends_images_targets_and_weights_in_one_share():
    images, targets, weight = make_batch()
    mixed, labels, weights = mix_batch(images, targets, weight, MIXUP, Draws(share=0.75, partner=[1, 0, 2, 3]))
    assert mixed[:, 0, 0, 0].tolist() == [0.25, 0.75, 2, 3]
    assert (mixed == mixed[:, :1, :1, :1]).all()
    assert labels.tolist() == [[0.75, 0.25, 0, 0], [0.25, 0.75, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert weights.tolist() == [1.25, 1.75, 3, 4]


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    images, targets, weight = make_batch()
    # A quarter of the area is a side of 4 about the middle (3, 5): rows 1 to 4, columns 3 to 6.
    draws = Draws(share=0.75, partner=[1, 0, 3, 2], centers=(3, 5))
    mixed, labels, weights = mix_batch(images, targets, weight, CUTMIX, draws)
    expected = torch.zeros(3, 8, 8)
    expected[:, 1:5, 3:7] = 1
    assert torch.equal(mixed[0], expected)
    assert torch.equal(mixed[1], 1 - expected)
    assert labels[0].tolist() == [0.75, 0.25, 0, 0]
    assert weights.tolist() == [1.25, 1.75, 3.25, 3.75]


def test_cutmix_corrects_the_share_to_the_box_that_is_left_inside():
    images, targets, _ = make_batch()
    # A side of 4 about the corner (0, 7): rows 0 and 1, columns 5 to 7.
    draws = Draws(share=0.75, partner=[1, 0, 2, 3], centers=(0, 7))
    mixed, labels, _ = mix_batch(images, targets, None, CUTMIX, draws)
    assert torch.nonzero(mixed[0, 0]).tolist() == [[row, column] for row in (0, 1) for column in (5, 6, 7)]
    torch.testing.assert_close(labels[0, :2], torch.tensor([58 / 64, 6 / 64]))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_targets_are_the_shares_of_pixels(seed):
    images, targets, _ = make_batch(size=9)
    mixed, labels, _ = mix_batch(images, targets, None, CUTMIX, np.random.default_rng(seed))
    for image, label in zip(mixed, labels, strict=True):
        shares = torch.bincount(image[0].flatten().long(), minlength=4) / 81
        torch.testing.assert_close(label, shares)


@pytest.mark.parametrize("seed", range(10))
def test_mixup_targets_are_the_shares_of_grey(seed):
    images, targets, _ = make_batch()
    mixed, labels, _ = mix_batch(images, targets, None, MIXUP, np.random.default_rng(seed))
    torch.testing.assert_close(mixed[:, 0, 0, 0], labels @ torch.arange(4.0))
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))


def test_labels_both_images_have_stay_whole():
    images, _, _ = make_batch()
    targets = torch.ones(4, 2)
    for seed in range(10):
        labels = mix_batch(images, targets, None, MIXUP, np.random.default_rng(seed))[1]
        assert torch.equal(labels, targets)


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_what_is_unknown_of_either_image_is_unknown_of_both(mixing):
    images, _, _ = make_batch(2)
    targets = torch.tensor([[NAN, 1.0, 0.0], [1.0, NAN, 0.0]])
    draws = Draws(share=0.5, partner=[1, 0], centers=(4, 4))
    labels = mix_batch(images, targets, None, mixing, draws)[1]
    assert labels.isnan().tolist() == [[True, True, False]] * 2


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("share", [1.0, 1 - 1e-12])
def test_an_unknown_label_of_no_weight_has_no_say(mixing, share):
    images, _, weight = make_batch(2)
    targets = torch.tensor([[0.0, 1.0], [1.0, NAN]])
    draws = Draws(share=share, partner=[1, 0], centers=(4, 4))
    mixed, labels, weights = mix_batch(images, targets, weight[:2], mixing, draws)
    assert torch.equal(mixed, images)
    assert torch.equal(labels.nan_to_num(9), targets.nan_to_num(9))
    assert weights.tolist() == [1, 2]


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_a_partner_of_full_weight_takes_over(mixing):
    images, _, weight = make_batch(2)
    targets = torch.tensor([[0.0, 1.0], [1.0, NAN]])
    draws = Draws(share=0.0, partner=[1, 0], centers=(4, 4))
    mixed, labels, weights = mix_batch(images, targets, weight[:2], mixing, draws)
    assert torch.equal(mixed, images.flip(0))
    assert torch.equal(labels.nan_to_num(9), targets.flip(0).nan_to_num(9))
    assert weights.tolist() == [2, 1]


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_input_is_left_alone_and_the_memory_format_kept(mixing, memory_format):
    images, targets, weight = make_batch()
    images = images.contiguous(memory_format=memory_format)
    before = [images.clone(), targets.clone(), weight.clone()]
    for seed in range(5):
        mixed, labels, weights = mix_batch(images, targets, weight, mixing, np.random.default_rng(seed))
        assert mixed.is_contiguous(memory_format=memory_format)
        assert (mixed.dtype, labels.dtype, weights.dtype) == (torch.float32,) * 3
    assert all(torch.equal(*pair) for pair in zip(before, (images, targets, weight), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_stay_so(dtype):
    images, targets, _ = make_batch()
    for mixing in (MIXUP, CUTMIX):
        assert mix_batch(images.to(dtype), targets, None, mixing, np.random.default_rng(0))[0].dtype == dtype


def test_batch_of_one_is_returned_as_it_is():
    images, targets, weight = make_batch(1)
    mixed = mix_batch(images, targets, weight, BOTH, np.random.default_rng(0))
    assert all(got is given for got, given in zip(mixed, (images, targets, weight), strict=True))


def test_probability_is_the_share_of_mixed_batches():
    images, targets, _ = make_batch()
    mixing = Mixing(mixup_alpha=1.0, probability=0.3)
    random = np.random.default_rng(0)
    n_mixed = sum(mix_batch(images, targets, None, mixing, random)[0] is not images for _ in range(1000))
    assert n_mixed == pytest.approx(300, abs=50)


def test_both_takes_each_kind_half_of_the_time():
    images, targets, _ = make_batch()
    random = np.random.default_rng(0)
    n_blended = n_pasted = 0
    for _ in range(1000):
        mixed = mix_batch(images, targets, None, BOTH, random)[0]
        n_pasted += bool((mixed != mixed[:, :, :1, :1]).any())
        n_blended += bool((mixed != mixed.round()).any())
    # A partner that is the image itself, and a box of no or all pixels, leave no trace.
    assert n_pasted == pytest.approx(450, abs=60)
    assert n_blended == pytest.approx(480, abs=60)


def test_draws_depend_on_the_generator_alone():
    images, targets, _ = make_batch()
    torch.manual_seed(0)
    first = mix_batch(images, targets, None, BOTH, np.random.default_rng(5))[1]
    torch.manual_seed(1)
    assert torch.equal(first, mix_batch(images, targets, None, BOTH, np.random.default_rng(5))[1])
    assert any(
        not torch.equal(first, mix_batch(images, targets, None, BOTH, np.random.default_rng(seed))[1])
        for seed in range(3)
    )
