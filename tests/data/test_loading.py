import itertools
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from multilabelkit.data import loading, pixel_cache
from multilabelkit.data.images import decode_image
from multilabelkit.data.loading import (
    PixelReader,
    count_batches,
    create_generator,
    iterate_evaluation,
    iterate_training,
)
from multilabelkit.data.threads import count_workers
from multilabelkit.data.transforms import AUGMENTATIONS, Augmentation, augment_pixels, resize_pixels
from multilabelkit.errors import ImageDecodeError

IMAGES = [
    np.random.default_rng(row).integers(0, 256, (10 + row, 20, 3), dtype=np.uint8) for row in range(23)
]  # each of another size
WORKERS = [0, 1, 2, 5]


def create_reader(sources=IMAGES, *, size=12, color_mode="rgb", pixel_cache="memory"):
    return PixelReader(sources, size=size, color_mode=color_mode, pixel_cache=pixel_cache)


def train(reader, **params):
    defaults = {"size": 8, "batch_size": 5, "augmentation": AUGMENTATIONS["standard"]}
    return iterate_training(reader, **(defaults | {"seed": 3, "epoch": 0, "num_workers": 0} | params))


def collect_by_row(batches):
    """Return the images that each row was shown as, in no particular order."""
    images = {}
    for batch in batches:
        for row, pixels in zip(batch.rows.tolist(), batch.pixels.numpy(), strict=True):
            images.setdefault(row, []).append(pixels)
    return images


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit-decode")]


@pytest.mark.parametrize("color_mode", ["rgb", "grey"])
def test_pixel_reader_gives_the_resized_image(color_mode):
    reader = create_reader(color_mode=color_mode)
    for row, image in enumerate(IMAGES):
        expected = resize_pixels(decode_image(image, color_mode=color_mode), 12)
        np.testing.assert_array_equal(reader.read(row), expected)  # decoded
        np.testing.assert_array_equal(reader.read(row), expected)  # from the cache


def test_pixel_reader_decodes_each_image_once_with_a_cache():
    reader = create_reader()
    for row in [0, 1, 1, 0, 22, 22]:
        reader.read(row)
    assert reader.n_decoded == 3


def test_pixel_reader_decodes_every_time_without_a_cache():
    reader = create_reader(pixel_cache=None)
    for row in [0, 1, 1, 0]:
        reader.read(row)
    assert reader.n_decoded == 4


def test_pixel_reader_caches_no_more_than_its_budget(monkeypatch):
    monkeypatch.setattr(pixel_cache, "MEMORY_BYTES", 7 * 12 * 12 * 3 + 5)  # seven images and a bit
    reader = create_reader()
    for expected in (23, 23 + 16):
        pixels = [reader.read(row) for row in range(23)]
        assert reader.n_decoded == expected
        np.testing.assert_array_equal(pixels[22], resize_pixels(IMAGES[22], 12))
        np.testing.assert_array_equal(pixels[3], resize_pixels(IMAGES[3], 12))


def test_pixel_reader_leaves_half_of_the_free_memory(monkeypatch):
    class Memory:
        available = 2 * 4 * 12 * 12 * 3

    monkeypatch.setattr(pixel_cache.psutil, "virtual_memory", Memory)
    reader = create_reader()
    for row in [*range(23), *range(23)]:
        reader.read(row)
    assert reader.n_decoded == 23 + 19


def test_pixel_reader_does_not_cache_a_failure(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    reader = create_reader([path])
    with pytest.raises(ImageDecodeError, match=r"a\.png: the file is empty\.$"):
        reader.read(0)
    Image.fromarray(IMAGES[0]).save(path)
    np.testing.assert_array_equal(reader.read(0), resize_pixels(IMAGES[0], 12))
    assert reader.n_decoded == 1


def test_pixel_reader_reads_rows_in_many_threads_at_once():
    reader = create_reader()
    expected = [resize_pixels(image, 12) for image in IMAGES]
    wrong = []

    def read():
        wrong.extend(row for row in range(23) if not np.array_equal(reader.read(row), expected[row]))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("num_workers", "expected"), [(0, 0), (3, 3), (64, 64)])
def test_count_workers_takes_the_callers_number(num_workers, expected):
    assert count_workers(num_workers) == expected


@pytest.mark.parametrize(("n_processors", "expected"), [(2, 2), (64, 8), (None, 1)])
def test_count_workers_is_one_per_processor_up_to_eight(monkeypatch, n_processors, expected):
    monkeypatch.setattr(loading.os, "cpu_count", lambda: n_processors)
    assert count_workers(None) == expected


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_iterate_evaluation_equals_a_plain_loop(num_workers, batch_size):
    batches = list(iterate_evaluation(create_reader(), batch_size=batch_size, num_workers=num_workers))
    expected = np.stack([resize_pixels(image, 12) for image in IMAGES])
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), np.arange(23))
    np.testing.assert_array_equal(torch.cat([batch.pixels for batch in batches]).numpy(), expected)
    assert [len(batch.rows) for batch in batches] == [min(batch_size, 23 - s) for s in range(0, 23, batch_size)]
    assert all(batch.factors is None for batch in batches)
    assert decoding_threads() == []


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("name", ["light", "standard"])
def test_iterate_training_equals_a_plain_loop(num_workers, name):
    augmentation = AUGMENTATIONS[name]
    batches = list(train(create_reader(), augmentation=augmentation, epoch=4, num_workers=num_workers))
    order = create_generator("order", 3, 4).permutation(23)
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), order)
    for batch in batches:
        for position, row in enumerate(batch.rows):
            random = create_generator("augmentation", 3, 4, int(row), 0)
            pixels, factors = augment_pixels(resize_pixels(IMAGES[row], 12), 8, augmentation, random)
            np.testing.assert_array_equal(batch.pixels[position].numpy(), pixels)
            if name == "standard":
                np.testing.assert_array_equal(batch.factors[position].numpy(), factors)
        assert (batch.factors is None) == (name == "light")  # nothing to jitter


@pytest.mark.parametrize("num_workers", WORKERS)
def test_iterate_training_without_augmentation_only_shuffles(num_workers):
    for batch in train(create_reader(size=8), augmentation=None, num_workers=num_workers):
        expected = np.stack([resize_pixels(IMAGES[row], 8) for row in batch.rows])
        np.testing.assert_array_equal(batch.pixels.numpy(), expected)
        assert batch.factors is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 11, 22, 23, 24])
@pytest.mark.parametrize("n_images", [1, 2, 7, 23])
def test_iterate_training_covers_all_rows_once_in_even_batches(n_images, batch_size):
    batches = list(train(create_reader(IMAGES[:n_images]), batch_size=batch_size))
    sizes = [len(batch.rows) for batch in batches]
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(n_images))
    assert max(sizes) - min(sizes) <= 1
    if batch_size == 2:  # one batch of three rather than one of one
        assert min(sizes) >= min(2, n_images)
        assert max(sizes) <= 3
    else:
        assert max(sizes) <= batch_size
        assert len(sizes) == -(-n_images // batch_size)


def test_iterate_training_differs_between_epochs_and_seeds():
    def collect(**params):
        batches = list(train(create_reader(), **params))
        pixels = torch.cat([batch.pixels for batch in batches])
        return np.concatenate([batch.rows for batch in batches]), pixels

    runs = [collect(), collect(epoch=1), collect(seed=4)]
    for (rows, pixels), (other_rows, other_pixels) in itertools.combinations(runs, 2):
        assert not np.array_equal(rows, other_rows)
        assert not torch.equal(pixels[np.argsort(rows)], other_pixels[np.argsort(other_rows)])
    again = collect()
    np.testing.assert_array_equal(runs[0][0], again[0])
    assert torch.equal(runs[0][1], again[1])


@pytest.mark.parametrize("num_workers", WORKERS)
def test_rows_of_an_epoch_are_shown_as_often_as_asked(num_workers):
    rows = np.array([4, 4, 4, 0, 22, 22, 7])
    batches = list(train(create_reader(), rows=rows, batch_size=3, num_workers=num_workers))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == sorted(rows)
    assert [len(batch.rows) for batch in batches] == [3, 2, 2]


def test_the_order_of_given_rows_is_drawn_by_seed_and_epoch():
    rows = np.array([9, 9, 1, 5, 5, 5, 2, 0])
    batches = train(create_reader(), rows=rows, epoch=4)
    order = create_generator("order", 3, 4).permutation(8)
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), rows[order])


@pytest.mark.parametrize("augmentation", [AUGMENTATIONS["standard"], None], ids=["standard", "none"])
def test_rows_named_once_each_are_the_plain_epoch(augmentation):
    plain = list(train(create_reader(size=8), augmentation=augmentation))
    named = list(train(create_reader(size=8), augmentation=augmentation, rows=np.arange(23)))
    for batch, other in zip(plain, named, strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        assert torch.equal(batch.pixels, other.pixels)


def test_a_repeated_row_is_shown_as_in_the_plain_epoch_and_then_otherwise():
    plain = collect_by_row(train(create_reader(), epoch=2))
    repeated = collect_by_row(train(create_reader(), epoch=2, rows=np.array([3, 8, 3, 3, 8])))
    assert {row: len(images) for row, images in repeated.items()} == {3: 3, 8: 2}
    for row, images in repeated.items():
        assert sum(np.array_equal(image, plain[row][0]) for image in images) == 1
        assert not any(np.array_equal(one, other) for one, other in itertools.combinations(images, 2))


def test_the_number_of_workers_changes_no_repeated_row():
    rows = np.array([3, 8, 3, 3, 8, 1, 1])
    alone, threads = (list(train(create_reader(), rows=rows, batch_size=2, num_workers=n)) for n in (0, 5))
    for batch, other in zip(alone, threads, strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        assert torch.equal(batch.pixels, other.pixels)
        assert torch.equal(batch.factors, other.factors)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([5], [0]),
        ([2, 1, 0], [0, 0, 0]),
        ([7, 7, 7], [0, 1, 2]),
        ([3, 8, 3, 0, 3, 8], [0, 0, 1, 0, 2, 1]),
    ],
)
def test_turns_number_the_times_that_a_row_stands_there(rows, expected):
    assert loading._count_turns(np.array(rows)).tolist() == expected


@pytest.mark.parametrize(("pixel_cache", "expected"), [("memory", 23), (None, 46)])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_second_epoch_decodes_only_without_a_cache(pixel_cache, expected, num_workers):
    reader = create_reader(pixel_cache=pixel_cache)
    for epoch in (0, 1):
        for _ in train(reader, epoch=epoch, num_workers=num_workers):
            pass
    assert reader.n_decoded == expected


def test_augmented_batches_leave_the_cache_alone():
    reader = create_reader(size=8)
    whole_image = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    for batch in train(reader, augmentation=whole_image, num_workers=2):
        batch.pixels.zero_()
    np.testing.assert_array_equal(reader.read(5), resize_pixels(IMAGES[5], 8))


@pytest.mark.parametrize("num_workers", WORKERS)
def test_error_in_a_worker_surfaces_and_leaves_no_thread(tmp_path, num_workers):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    reader = create_reader([*IMAGES[:9], bad, *IMAGES[9:]])
    batches = iterate_evaluation(reader, batch_size=2, num_workers=num_workers)
    with pytest.raises(ImageDecodeError, match=r"bad\.png: it is not an image of a format that is read"):
        list(batches)
    assert decoding_threads() == []


@pytest.mark.parametrize("num_workers", WORKERS)
def test_batches_closed_early_leave_no_thread(num_workers):
    batches = iterate_evaluation(create_reader(), batch_size=2, num_workers=num_workers)
    next(batches)
    batches.close()
    assert decoding_threads() == []


def test_batches_that_nobody_asked_for_start_no_thread():
    iterate_evaluation(create_reader(), batch_size=2, num_workers=3)
    assert decoding_threads() == []


def test_workers_decode_only_a_few_batches_ahead():
    reader = create_reader()
    batches = iterate_evaluation(reader, batch_size=1, num_workers=2)
    next(batches)
    time.sleep(0.1)  # time enough to decode all 23
    assert reader.n_decoded <= 3
    batches.close()


@pytest.mark.parametrize(
    ("n_images", "batch_size", "sizes"),
    [(3, 2, [3]), (5, 2, [3, 2]), (1, 2, [1]), (33, 32, [17, 16]), (64, 32, [32, 32]), (3, 1, [1, 1, 1])],
)
def test_no_training_batch_holds_one_image_unless_asked(n_images, batch_size, sizes):
    parts = np.array_split(np.arange(n_images), count_batches(n_images, batch_size))
    assert [len(part) for part in parts] == sizes


def test_caches_share_one_budget(monkeypatch):
    monkeypatch.setattr("multilabelkit.data.pixel_cache.MEMORY_BYTES", 10 * 8 * 8 * 3)
    first = PixelReader(IMAGES[:4], size=8, color_mode="rgb", pixel_cache="memory")
    second = PixelReader(IMAGES, size=8, color_mode="rgb", pixel_cache="memory", reserved_bytes=first.cache_bytes)
    assert (first.cache_bytes, second.cache_bytes) == (4 * 8 * 8 * 3, 6 * 8 * 8 * 3)


def test_a_single_batch_is_decoded_by_all_workers(monkeypatch):
    names = set()
    reader = create_reader()
    read = reader.read

    def note(row):
        names.add(threading.current_thread().name)
        time.sleep(0.01)
        return read(row)

    monkeypatch.setattr(reader, "read", note)
    (batch,) = iterate_evaluation(reader, batch_size=64, num_workers=3)
    assert len(names) == 3
    np.testing.assert_array_equal(batch.pixels.numpy(), np.stack([resize_pixels(image, 12) for image in IMAGES]))
    assert decoding_threads() == []
