import io
import re
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from multilabelkit.data import duplicates
from multilabelkit.data.duplicates import find_near_duplicates, group_duplicates, hash_image, sketch_image
from multilabelkit.data.images import decode_image
from multilabelkit.errors import InputError

LOWEST = sorted(((i, j) for i in range(32) for j in range(32) if i + j), key=lambda place: (sum(place), place))[:64]


def make_photo(seed, height=64, width=96):
    """A smooth picture with large and small shapes, as photographs have."""
    small = np.random.default_rng(seed).integers(30, 200, (9, 11, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def make_sky(seed, *, noise=0.6):
    """A slope of blue with the grain of a sensor."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1:1:64j, -1:1:96j]
    levels = rng.uniform(100, 150) + rng.uniform(20, 50) * rows + rng.uniform(-10, 10) * columns
    return np.clip(levels[:, :, None] + [-40, 0, 60] + rng.normal(0, noise * 8, (64, 96, 1)), 0, 255).astype(np.uint8)


def compress(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return np.asarray(Image.open(buffer))


def count_differing_bits(one, other):
    return (hash_image(one) ^ hash_image(other)).bit_count()


def find_slowly(hashes, radius):
    return [
        [i, j]
        for i, one in enumerate(hashes)
        for j, other in enumerate(hashes)
        if i < j and (int(one) ^ int(other)).bit_count() <= radius
    ]


def make_hashes(seed, n_hashes=150):
    """Random hashes, and others that differ from them in up to 17 bits, or not at all."""
    rng = np.random.default_rng(seed)
    hashes = [int(number) for number in rng.integers(0, 2**64, n_hashes, dtype=np.uint64)]
    for number in hashes[:100]:
        for bit in rng.choice(64, rng.integers(0, 18), replace=False):
            number ^= 1 << int(bit)
        hashes.append(number)
    return hashes


def group(images):
    return [groups.tolist() for groups in group_duplicates([sketch_image(np.atleast_3d(image)) for image in images])]


def whole(message):
    return f"^{re.escape(message)}$"


def test_hashes_differ_where_the_signs_of_the_lowest_frequencies_do():
    """Against scipy's cosine transform, of images that need no averaging."""
    images = [make_photo(seed, 32, 32).mean(axis=2).round().astype(np.uint8)[:, :, None] for seed in range(8)]
    signs = [[dctn(image[:, :, 0].astype(float))[place] > 0 for place in LOWEST] for image in images]
    for i in range(8):
        for j in range(8):
            expected = sum(one != other for one, other in zip(signs[i], signs[j], strict=True))
            assert count_differing_bits(images[i], images[j]) == expected


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (5, 7), (1, 1), (700, 40), (40, 1300)])
def test_cells_are_averages_over_equal_areas(size):
    """Against a picture in which each pixel is repeated 32 times, so that no pixel is cut in two."""
    image = make_photo(0, *size)
    rows = np.repeat(image.astype(float), 32, axis=0).reshape(32, size[0], size[1], 3).mean(axis=1)
    cells = np.repeat(rows, 32, axis=1).reshape(32, 32, size[1], 3).mean(axis=2)
    exact = cells @ [0.299, 0.587, 0.114]
    expected = exact.reshape(16, 2, 16, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(sketch_image(image).thumbnail, expected, rtol=0, atol=1.5)


def test_grey_images_are_sketched_like_grey_colours():
    grey = make_photo(0)[:, :, :1]
    one, other = sketch_image(grey), sketch_image(np.repeat(grey, 3, axis=2))
    assert one.hash == other.hash
    np.testing.assert_array_equal(one.thumbnail, other.thumbnail)
    np.testing.assert_array_equal(one.color, other.color)


@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
@pytest.mark.parametrize("size", [(32, 32), (100, 33), (600, 700)])
def test_images_of_one_colour_have_the_hash_0(level, size):
    assert hash_image(np.full((*size, 3), level, dtype=np.uint8)) == 0


def test_mean_colour_is_kept():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:20] = [200, 100, 50]
    assert sketch_image(image).color.tolist() == [100, 50, 25]


def test_digests_are_equal_only_for_equal_pixels_of_equal_size():
    image = make_photo(0)
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert sketch_image(image).digest == sketch_image(image.copy()).digest
    assert sketch_image(image).digest == sketch_image(np.asfortranarray(image)).digest
    assert sketch_image(image).digest != sketch_image(changed).digest
    assert sketch_image(image).digest != sketch_image(image.reshape(96, 64, 3)).digest
    assert sketch_image(image, size=(96, 64)).digest != sketch_image(image, size=(192, 128)).digest


def test_memory_layout_does_not_change_the_hash():
    image = make_photo(0)
    assert hash_image(image) == hash_image(np.asfortranarray(image)) == hash_image(image[::-1][::-1])


@pytest.mark.parametrize("radius", [0, 1, 3, 4, 7, 8, 12, 15])
def test_search_finds_what_comparing_all_with_all_finds(radius):
    hashes = make_hashes(radius)
    assert find_near_duplicates(hashes, radius=radius).tolist() == find_slowly(hashes, radius)
    array = np.array(hashes, dtype=np.uint64)
    assert find_near_duplicates(array, radius=radius).tolist() == find_slowly(hashes, radius)


def test_search_in_small_blocks_finds_the_same(monkeypatch):
    monkeypatch.setattr(duplicates, "_PAIRS_PER_BLOCK", 7)
    hashes = make_hashes(0) + [0] * 20
    assert find_near_duplicates(hashes).tolist() == find_slowly(hashes, 7)


def test_search_without_the_bit_count_of_numpy_2_finds_the_same(monkeypatch):
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    hashes = make_hashes(1)
    assert find_near_duplicates(hashes).tolist() == find_slowly(hashes, 7)


@pytest.mark.parametrize("hashes", [[], [5]])
def test_search_among_none_or_one_finds_nothing(hashes):
    assert find_near_duplicates(hashes).shape == (0, 2)


def test_search_among_many_takes_no_time_for_all_pairs():
    """20 thousand million pairs would take minutes."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(0b1000001)
    start = time.perf_counter()
    pairs = find_near_duplicates(hashes)
    assert time.perf_counter() - start < 30
    assert [0, 199_999] in pairs.tolist()


@pytest.mark.parametrize("wrong", [-1, 2**64, 0.5, "a", None, True])
def test_search_refuses_what_is_no_hash(wrong):
    message = (
        f"hashes must be whole numbers from 0 to 2**64 - 1, as hash_image makes them. Got {wrong!r} at position 1."
    )
    with pytest.raises(InputError, match=whole(message)):
        find_near_duplicates([3, wrong])


@pytest.mark.parametrize("radius", [-1, 16, 2.5, None])
def test_search_refuses_a_wrong_radius(radius):
    message = (
        f"The 'radius' parameter of find_near_duplicates must be an integer >= 0 and <= 15. Got {radius!r} instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        find_near_duplicates([3, 4], radius=radius)


def test_equal_images_are_one_group_named_by_the_first():
    one, other = make_photo(0), make_photo(1)
    assert group([one, other, one.copy(), other, one]) == [[0, 1, 0, 1, 0], [0, 1, 0, 1, 0]]


def test_versions_of_an_image_look_the_same_but_are_not_equal():
    image = make_photo(0, 128, 192)
    versions = [
        image,
        make_photo(1, 128, 192),
        compress(image, quality=60),
        np.asarray(Image.fromarray(image).resize((134, 90))),
        np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.1)),
        np.asarray(Image.fromarray(image).convert("L"))[:, :, None],
    ]
    assert group(versions) == [[0, 1, 2, 3, 4, 5], [0, 1, 0, 0, 0, 0]]


def test_turned_and_mirrored_images_do_not_look_the_same():
    image = make_photo(0)
    assert group([image, image[::-1], image[:, ::-1]])[1] == [0, 1, 2]


def test_likeness_is_handed_on():
    """The first and the last differ in too many bits to be compared."""
    image = make_photo(3)
    images = [np.roll(image, step, axis=1) for step in range(9)]
    assert count_differing_bits(images[0], images[8]) > duplicates.HASH_RADIUS
    assert group(images)[1] == [0] * 9


def test_photographs_of_an_empty_sky_are_different():
    skies = [make_sky(seed) for seed in range(40)]
    assert group(skies)[1] == list(range(40))


def test_slopes_without_grain_are_different_although_their_hashes_are_equal():
    rows = np.linspace(0, 1, 64)[:, None, None]
    slopes = [
        np.broadcast_to(low + height * rows, (64, 64, 1)).astype(np.uint8) for low, height in [(60, 90), (80, 60)]
    ]
    assert hash_image(slopes[0]) == hash_image(slopes[1])
    assert group(slopes)[1] == [0, 1]


def test_different_images_of_equal_hashes_are_not_taken_for_the_same(monkeypatch):
    monkeypatch.setattr(duplicates, "_hash_cells", lambda grey: 7)
    images = [make_photo(seed) for seed in range(30)]
    assert group([*images, compress(images[4], quality=80)])[1] == [*range(30), 4]


def test_images_of_one_colour_are_the_same_only_in_the_same_colour():
    colours = [(0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 102, 0), (0, 0, 0), (1, 1, 1)]
    images = [np.full((40, 40 + place, 3), colour, dtype=np.uint8) for place, colour in enumerate(colours)]
    assert group(images) == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 0]]


@pytest.mark.parametrize("width", [32, 33], ids=["same pixels", "other sizes"])
def test_thousands_of_equal_images_are_grouped_at_once(width):
    sketches = [sketch_image(np.zeros((32, width if place % 2 else 32, 3), np.uint8)) for place in range(5000)]
    start = time.perf_counter()
    exact, near = group_duplicates(sketches)
    assert time.perf_counter() - start < 5
    assert not near.any()
    assert set(exact.tolist()) == ({0} if width == 32 else {0, 1})


def test_thousands_of_versions_of_an_image_are_one_group():
    rng = np.random.default_rng(0)
    sketch = sketch_image(make_photo(0))
    versions = [
        sketch._replace(
            digest=bytes([place // 256, place % 256]),
            hash=sketch.hash ^ 1 << int(rng.integers(64)),
            thumbnail=sketch.thumbnail + rng.integers(0, 3, (16, 16), dtype=np.uint8),
        )
        for place in range(2000)
    ]
    exact, near = group_duplicates(versions)
    assert exact.tolist() == list(range(2000))
    assert not near.any()


def test_nothing_has_no_groups():
    assert [groups.tolist() for groups in group_duplicates([])] == [[], []]


def make_versions(path):
    image = Image.open(path).convert("RGB")
    smaller = image.resize((round(image.width * 0.7), round(image.height * 0.7)), Image.Resampling.LANCZOS)
    brighter = ImageEnhance.Brightness(image).enhance(1.1)
    for version, quality in ((image, 60), (smaller, 90), (brighter, 90)):
        buffer = io.BytesIO()
        version.save(buffer, "JPEG", quality=quality)
        yield buffer.getvalue()


@pytest.fixture(scope="module")
def photographs(shared_data):
    paths = sorted((shared_data / "data" / "miml" / "images").glob("*.jpg"))
    return paths, [sketch_image(decode_image(path, min_size=64)) for path in paths]


def test_versions_of_photographs_are_found(photographs):
    paths, sketches = photographs
    versions = [
        sketch_image(decode_image(version, min_size=64)) for path in paths[::16] for version in make_versions(path)
    ]
    _, near = group_duplicates([*sketches, *versions])
    originals = near[np.repeat(np.arange(0, len(paths), 16), 3)]
    assert np.mean(near[len(paths) :] == originals) >= 0.95


def test_different_photographs_are_not_taken_for_duplicates(photographs):
    """Looked at, each of these groups shows one picture (in two sizes, or with camels), but for a sunset seen twice."""
    paths, sketches = photographs
    _, near = group_duplicates(sketches)
    numbers = np.array([int(path.stem) for path in paths])
    groups = [sorted(numbers[near == name].tolist()) for name in np.unique(near)]
    assert sorted(members for members in groups if len(members) > 1) == [
        [39, 43],
        [41, 382],
        [47, 387],
        [49, 390],
        [50, 337, 397],
        [52, 395],
        [53, 393],
        [54, 392],
        [55, 396, 400],
        [56, 383],
        [59, 385],
        [60, 156],
        [62, 391],
        [279, 281],
        [1444, 1453],  # the sunset
    ]
