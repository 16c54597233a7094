import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from multilabelkit.checks import shorten
from multilabelkit.data.images import InputSpec
from multilabelkit.data.transforms import (
    AUGMENTATIONS,
    RESIZES,
    Augmentation,
    apply_transform,
    augment_pixels,
    create_augmentation,
    draw_crop,
    jitter_colors,
    resize_pixels,
    to_network_input,
)
from multilabelkit.errors import InputError

CPU = torch.device("cpu")


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(60, 80, 32), (32, 33, 32), (20, 90, 32), (10, 7, 32), (1, 1, 8), (1, 50, 4), (200, 3, 5)],
)
def test_resize_pixels_equals_torchvision(height, width, size, channels):
    pixels = random_pixels(height, width, channels)
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    expected = vision.resize(image, [size, size], antialias=True).permute(1, 2, 0).numpy()
    resized = resize_pixels(pixels, size)
    assert resized.dtype == np.uint8
    assert resized.shape == (size, size, channels)
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_resize_pixels_weighs_by_a_triangle_twice_as_wide_as_a_new_pixel():
    image = np.zeros((31, 31, 3), dtype=np.uint8)
    image[10:21, 10:21] = 255
    weights = 1 - np.abs(np.arange(31) - 15) / 31
    expected = 255 * (weights[10:21].sum() / weights.sum()) ** 2
    assert resize_pixels(image, 1)[0, 0].tolist() == [round(expected)] * 3


def test_resize_pixels_leaves_the_right_size_alone():
    pixels = random_pixels(9, 9, 3)
    assert resize_pixels(pixels, 9) is pixels


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[3:40, 5:60], np.s_[::2, ::3]])
def test_resize_pixels_reads_views_as_it_reads_copies(view):
    pixels = random_pixels(50, 70, 3)[view]
    np.testing.assert_array_equal(resize_pixels(pixels, 16), resize_pixels(pixels.copy(), 16))


def test_draw_crop_keeps_the_wanted_area_and_ratio_inside_the_image():
    augmentation = Augmentation(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    random = np.random.default_rng(0)
    crops = [draw_crop(200, 200, augmentation, random) for _ in range(2000)]
    tops, lefts = (np.array([crop[side].start for crop in crops]) for side in (0, 1))
    heights, widths = (np.array([crop[side].stop - crop[side].start for crop in crops]) for side in (0, 1))
    assert (tops >= 0).all()
    assert (lefts >= 0).all()
    assert (tops + heights <= 200).all()
    assert (lefts + widths <= 200).all()
    areas, ratios = heights * widths / 200**2, widths / heights
    assert areas.min() > 0.19
    assert areas.max() < 0.51
    assert areas.mean() == pytest.approx(0.35, abs=0.01)
    assert ratios.min() > 0.49
    assert ratios.max() < 2.05
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.03)  # as often tall as wide
    # A uniform position lies in the middle of its room on average.
    assert (tops / (200 - heights)).mean() == pytest.approx(0.5, abs=0.02)
    assert (lefts / (200 - widths)).mean() == pytest.approx(0.5, abs=0.02)


def test_draw_crop_draws_as_torchvision_does():
    augmentation = Augmentation(scale=(0.3, 1.0))
    random = np.random.default_rng(1)
    ours = np.array([[s.stop - s.start for s in draw_crop(60, 90, augmentation, random)] for _ in range(3000)])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        crop = v2.RandomResizedCrop(8, scale=augmentation.scale, ratio=augmentation.ratio)
        drawn = [crop.make_params([torch.empty(1, 60, 90)]) for _ in range(3000)]
    theirs = np.array([[params["height"], params["width"]] for params in drawn])
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=1.0)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=1.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_draw_crop_never_draws_nothing(shape):
    random = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = draw_crop(*shape, AUGMENTATIONS["standard"], random)
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]


def test_draw_crop_takes_the_whole_image_where_no_crop_fits():
    augmentation = Augmentation(scale=(1.0, 1.0), ratio=(3.0, 3.0))
    assert draw_crop(10, 10, augmentation, np.random.default_rng(0)) == (slice(0, 10), slice(0, 10))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augment_pixels_depends_on_the_generator_alone(name):
    pixels = random_pixels(40, 50, 3)
    first, again, other = (
        augment_pixels(pixels, 24, AUGMENTATIONS[name], np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (24, 24, 3)
    assert first[0].dtype == np.uint8
    assert first[1].shape == (3,)
    assert first[1].dtype == np.float32


@pytest.mark.parametrize(("flip", "step"), [(0.0, 1), (1.0, -1)])
def test_augment_pixels_mirrors_left_and_right(flip, step):
    pixels = random_pixels(16, 16, 3)
    augmentation = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)
    augmented, factors = augment_pixels(pixels, 16, augmentation, np.random.default_rng(0))
    np.testing.assert_array_equal(augmented, pixels[:, ::step])
    np.testing.assert_array_equal(factors, [1, 1, 1])


def test_augment_pixels_leaves_the_original_alone():
    pixels = random_pixels(20, 20, 3)
    before = pixels.copy()
    augment_pixels(pixels, 8, AUGMENTATIONS["standard"], np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, before)


def test_augment_pixels_draws_flips_and_factors_in_their_shares():
    augmentation = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.25, jitter=0.3)
    pixels = random_pixels(2, 2, 1)
    draws = [augment_pixels(pixels, 2, augmentation, np.random.default_rng(seed)) for seed in range(1000)]
    flipped = np.mean([not np.array_equal(image, pixels) for image, _ in draws])
    factors = np.stack([factor for _, factor in draws])
    assert flipped == pytest.approx(0.25, abs=0.04)
    assert factors.min() >= 0.7
    assert factors.max() <= 1.3
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(factors.std(axis=0), 0.6 / math.sqrt(12), atol=0.01)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(6, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        InputSpec(6, 1, (0.449,), (0.226,)),
        InputSpec(6, 3, (0.0,) * 3, (1.0,) * 3),
    ],
    ids=["colours", "grey", "unit"],
)
def test_to_network_input_scales_as_the_formula_says(spec):
    pixels = random_pixels(4, 6, 6, spec.channels)
    images = to_network_input(torch.from_numpy(pixels), spec, device=CPU)
    expected = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert images.dtype == torch.float32
    assert images.shape == (4, spec.channels, 6, 6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factors", [None, torch.tensor([[1.2, 0.9, 1.1]] * 4)], ids=["plain", "jittered"])
def test_to_network_input_is_channels_last_and_spares_the_pixels(channels, factors):
    pixels = torch.from_numpy(random_pixels(4, 6, 6, channels))
    before = pixels.clone()
    spec = InputSpec(6, channels, (0.5,) * channels, (0.25,) * channels)
    images = to_network_input(pixels, spec, device=CPU, factors=factors)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_to_network_input_jitters_before_it_scales():
    pixels = torch.from_numpy(random_pixels(2, 5, 5, 3))
    factors = torch.tensor([[1.2, 0.8, 0.5], [0.7, 1.3, 1.4]])
    spec = InputSpec(5, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    jittered = jitter_colors(pixels.permute(0, 3, 1, 2).float(), factors)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    images = to_network_input(pixels, spec, device=CPU, factors=factors)
    torch.testing.assert_close(images, (jittered / 255 - mean) / std, atol=1e-5, rtol=1e-5)


def jitter_slowly(image, brightness, contrast, saturation):
    """Jitter one image (H, W, C), step by step and in float64."""

    def to_grey(x):
        return x @ [0.299, 0.587, 0.114] if x.shape[2] == 3 else x[..., 0]

    image = image * brightness
    center = to_grey(image).mean()
    image = center + (image - center) * contrast
    if image.shape[2] == 3:
        grey = to_grey(image)[..., None]
        image = grey + (image - grey) * saturation
    return np.clip(image, 0, 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_colors_equals_the_same_steps_on_each_image(channels):
    pixels = random_pixels(6, 7, 7, channels)
    factors = np.random.default_rng(3).uniform(0.4, 1.6, (6, 3)).astype(np.float32)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    jittered = jitter_colors(images, torch.from_numpy(factors)).permute(0, 2, 3, 1).numpy()
    expected = np.stack(
        [jitter_slowly(image.astype(float), *factor) for image, factor in zip(pixels, factors, strict=True)]
    )
    np.testing.assert_allclose(jittered, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("factors", "step"),
    [
        ([1.3, 1, 1], lambda image: vision.adjust_brightness(image, 1.3)),
        ([1, 0.6, 1], lambda image: vision.adjust_contrast(image, 0.6)),
        ([1, 1, 0.3], lambda image: vision.adjust_saturation(image, 0.3)),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_jitter_colors_takes_each_step_as_torchvision_does(factors, step):
    image = torch.from_numpy(random_pixels(1, 3, 8, 8)) / 255
    expected = step(image)
    jittered = jitter_colors(image * 255, torch.tensor([factors], dtype=torch.float32)) / 255
    torch.testing.assert_close(jittered, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_colors_changes_nothing_at_one(channels):
    images = torch.from_numpy(random_pixels(2, channels, 5, 5)).float()
    torch.testing.assert_close(jitter_colors(images.clone(), torch.ones(2, 3)), images, atol=1e-3, rtol=0)


def test_jitter_colors_leaves_a_flat_grey_alone_under_contrast_and_saturation():
    images = torch.full((1, 3, 4, 4), 90.0)
    jittered = jitter_colors(images.clone(), torch.tensor([[1, 0.2, 1.8]]))
    torch.testing.assert_close(jittered, images, atol=1e-3, rtol=0)


def test_jitter_colors_gives_grey_without_saturation():
    images = torch.from_numpy(random_pixels(2, 3, 4, 4)).float()
    jittered = jitter_colors(images, torch.tensor([[1.0, 1.0, 0.0]] * 2))
    torch.testing.assert_close(jittered[:, :1].expand(-1, 3, -1, -1), jittered, atol=1e-4, rtol=0)


def test_jitter_colors_stays_between_black_and_white():
    images = torch.from_numpy(random_pixels(2, 3, 8, 8)).float()
    jittered = jitter_colors(images, torch.tensor([[3.0, 3.0, 3.0], [0.1, 5.0, 5.0]]))
    assert jittered.min() == 0
    assert jittered.max() == 255


def test_resize_pads_with_black_and_keeps_the_aspect_ratio():
    pixels = np.full((10, 20, 3), 200, dtype=np.uint8)
    resized = resize_pixels(pixels, 8, resize="pad")
    expected = np.zeros((8, 8, 3), dtype=np.uint8)
    expected[2:6] = 200
    np.testing.assert_array_equal(resized, expected)
    np.testing.assert_array_equal(
        resize_pixels(pixels.transpose(1, 0, 2), 8, resize="pad"), expected.transpose(1, 0, 2)
    )


def test_resize_crops_to_the_middle_square():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 21, 3), dtype=np.uint8)
    expected = resize_pixels(pixels[:, 5:15], 6)
    np.testing.assert_array_equal(resize_pixels(pixels, 6, resize="crop"), expected)
    np.testing.assert_array_equal(
        resize_pixels(pixels.transpose(1, 0, 2), 6, resize="crop"),
        resize_pixels(pixels.transpose(1, 0, 2)[5:15], 6),
    )


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 10000), (10000, 1), (3, 2), (7, 7)], ids=str)
def test_resize_makes_a_square_of_any_shape(shape, resize):
    pixels = np.full((*shape, 1), 9, dtype=np.uint8)
    resized = resize_pixels(pixels, 7, resize=resize)
    assert resized.shape == (7, 7, 1)
    assert resized.max() == 9


@pytest.mark.parametrize("resize", RESIZES)
def test_resize_leaves_squares_of_the_right_size_alone(resize):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_pixels(pixels, 7, resize=resize), pixels)


SQUARE = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_create_augmentation_knows_names_and_takes_transforms():
    assert create_augmentation(None) is None
    assert create_augmentation("light") is AUGMENTATIONS["light"]
    transform = v2.RandomHorizontalFlip()
    assert create_augmentation(transform) == Augmentation(transform=transform)


def test_a_transform_is_applied_to_uint8_images_with_the_channels_first():
    seen = []

    def transform(image):
        seen.append(image)
        return image

    assert np.array_equal(apply_transform(transform, SQUARE, seed=0), SQUARE)
    assert isinstance(seen[0], tv_tensors.Image)
    assert seen[0].dtype == torch.uint8
    assert seen[0].shape == (3, 16, 16)


def test_a_transform_may_return_floats_from_0_to_1():
    result = apply_transform(v2.ToDtype(torch.float32, scale=True), SQUARE, seed=0)
    np.testing.assert_array_equal(result, SQUARE)


def test_a_transform_may_change_the_size():
    augmentation = Augmentation(transform=v2.CenterCrop((10, 12)))
    augmented, factors = augment_pixels(SQUARE, 8, augmentation, np.random.default_rng(0))
    np.testing.assert_array_equal(augmented, resize_pixels(SQUARE[3:13, 2:14], 8))
    np.testing.assert_array_equal(factors, 1)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (lambda image: image[0], "a tensor of shape (16, 16), torch.uint8 from 0 to 254"),
        (lambda image: image[:1], "a tensor of shape (1, 16, 16), torch.uint8 from 0 to 254"),
        (lambda image: image.float(), "a tensor of shape (3, 16, 16), torch.float32 from 0 to 255"),
        (lambda image: image / 255 - 1, "a tensor of shape (3, 16, 16), torch.float32 from -1 to 0"),
        (lambda image: image.int(), "a tensor of shape (3, 16, 16), torch.int32 from 0 to 255"),
    ],
    ids=["two dimensions", "one channel", "0 to 255", "normalized", "int32"],
)
def test_what_is_no_image_is_refused(transform, got):
    pixels = SQUARE.copy()
    pixels[..., 0].flat[:2] = 0, 254
    pixels[..., 0] = np.minimum(pixels[..., 0], 254)
    pixels[0, 0, 1:] = 0, 255
    message = (
        f"The 'augment' transform {shorten(transform)} must return an image tensor (C, H, W) of 3 channel(s), uint8 or "
        f"float in [0, 1]. Got {got}; leave out Normalize and the like, which the classifier does itself."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        apply_transform(transform, pixels, seed=0)


TRANSFORMS = {
    "affine": v2.RandomAffine(20, translate=(0.1, 0.1)),
    "AugMix": v2.AugMix(),
    "AutoAugment": v2.AutoAugment(),
    "choice": v2.RandomChoice([v2.RandomInvert(), v2.RandomPosterize(3)]),
    "crop": v2.RandomResizedCrop(16),
    "elastic": v2.ElasticTransform(sigma=1.0),
    "erasing": v2.RandomErasing(p=1.0),
    "jitter": v2.ColorJitter(0.3, 0.3, 0.3, 0.1),
    "noise": v2.GaussianNoise(),
    "order": v2.RandomOrder([v2.RandomInvert(), v2.RandomPosterize(3), v2.RandomSolarize(99)]),
    "perspective": v2.RandomPerspective(p=1.0),
    "RandAugment": v2.RandAugment(),
    "TrivialAugment": v2.TrivialAugmentWide(),
    "strong": AUGMENTATIONS["strong"].transform,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_draws_from_its_seed_alone(name):
    transform = TRANSFORMS[name]
    torch.manual_seed(0)
    first = [apply_transform(transform, SQUARE, seed=seed) for seed in range(12)]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    second = [apply_transform(transform, SQUARE, seed=seed) for seed in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert len({image.tobytes() for image in first}) > 2
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # and takes nothing from the draws of others


def test_transforms_in_many_threads_draw_as_in_one():
    transform = TRANSFORMS["RandAugment"]
    expected = [apply_transform(transform, SQUARE, seed=seed) for seed in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: apply_transform(transform, SQUARE, seed=seed), range(60)))
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_every_named_augmentation_makes_images_of_the_right_size(name, n_channels):
    pixels = SQUARE[..., :n_channels]
    made = [augment_pixels(pixels, 14, AUGMENTATIONS[name], np.random.default_rng(seed))[0] for seed in range(40)]
    assert {image.shape for image in made} == {(14, 14, n_channels)}
    assert {image.dtype for image in made} == {np.dtype(np.uint8)}
    assert len({image.tobytes() for image in made}) > 30


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_transform_that_works_in_place_leaves_its_pixels_alone(n_channels):
    pixels = SQUARE[..., :n_channels].copy()
    augmented = apply_transform(v2.RandomErasing(p=1.0, inplace=True), pixels, seed=0)
    assert not np.array_equal(augmented, pixels)
    np.testing.assert_array_equal(pixels, SQUARE[..., :n_channels])


def test_an_empty_image_is_refused():
    with pytest.raises(InputError, match=r"Got a tensor of shape \(3, 0, 16\), torch.uint8; leave out Normalize"):
        apply_transform(lambda image: image[:, :0], SQUARE, seed=0)


@pytest.mark.parametrize(("transform", "kind"), [(v2.ToPILImage(), "Image"), (lambda image: None, "NoneType")])
def test_what_is_no_tensor_is_refused(transform, kind):
    message = (
        f"The 'augment' transform {shorten(transform)} must return an image tensor. Got {kind}; end a transform that "
        "gives PIL images with torchvision.transforms.v2.ToImage()."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        apply_transform(transform, SQUARE, seed=0)
