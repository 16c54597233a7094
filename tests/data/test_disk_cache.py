import math
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multilabelkit.data import disk_cache as module
from multilabelkit.data.disk_cache import DiskCache, digest_content
from multilabelkit.data.loading import PixelReader
from multilabelkit.data.transforms import resize_pixels
from multilabelkit.errors import MultiLabelKitWarning

SHAPE = (6, 6, 3)
SLOT = math.prod(SHAPE)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)


def whole(message):
    return f"^{re.escape(message)}$"


def digest(row):
    return digest_content(bytes([row]))


_opened = []


@pytest.fixture(autouse=True)
def close_what_is_open():
    """Close what a test has left open, as a fit does at its end."""
    yield
    while _opened:
        _opened.pop().close()


def open_cache(folder, n_images=20, *, kind="rgb", shape=SHAPE, max_bytes=10**6):
    _opened.append(DiskCache(folder, n_images, shape, kind=kind, max_bytes=max_bytes))
    return _opened[-1]


def fill(folder, rows, **options):
    cache = open_cache(folder, **options)
    for place, row in enumerate(rows):
        cache.put(place, PIXELS[row], digest(row))
    cache.close()


def list_found(folder, **options):
    cache = open_cache(folder, **options)
    found = [row for row in range(20) if cache.find(row, digest(row)) is not None]
    assert all(np.array_equal(cache.get(row), PIXELS[row]) for row in found)
    return found


def name_files(folder):
    return sorted(path.name.split(".", 1)[1] for path in folder.rglob("*") if path.is_file())


def test_disk_cache_gives_back_what_was_put(tmp_path):
    cache = open_cache(tmp_path)
    assert cache.get(3) is None
    assert cache.find(3, digest(3)) is None
    cache.put(3, PIXELS[3], digest(3))
    np.testing.assert_array_equal(cache.get(3), PIXELS[3])


def test_pixels_may_be_written_on_without_changing_the_cache(tmp_path):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))
    cache.get(0)[:] = 0
    cache.put(1, PIXELS[1], digest(1))
    np.testing.assert_array_equal(cache.get(0), PIXELS[0])
    np.testing.assert_array_equal(cache.get(1), PIXELS[1])
    cache.close()
    open_cache(tmp_path).find(0, digest(0))[:] = 0
    assert list_found(tmp_path) == [0, 1]


def test_disk_cache_finds_the_same_content_in_another_row(tmp_path):
    cache = open_cache(tmp_path)
    cache.put(3, PIXELS[3], digest(3))
    np.testing.assert_array_equal(cache.find(9, digest(3)), PIXELS[3])
    np.testing.assert_array_equal(cache.get(9), PIXELS[3])


@pytest.mark.parametrize("rows", [range(20), range(7), [19, 4]], ids=["all", "some", "two"])
def test_later_fits_find_what_an_earlier_one_left(tmp_path, rows):
    fill(tmp_path, rows)
    assert list_found(tmp_path) == sorted(rows)
    assert name_files(tmp_path) == ["digests.npy", "pixels.npy"]


def test_a_segment_left_early_takes_no_room_for_images_that_never_came(tmp_path):
    fill(tmp_path, range(3), n_images=1000)
    (pixels,) = tmp_path.rglob("*.pixels.npy")
    assert np.load(pixels).shape == (3, *SHAPE)
    assert pixels.stat().st_size < 3 * SLOT + 200


def test_a_full_segment_is_published_before_the_cache_is_closed(tmp_path):
    cache = open_cache(tmp_path, 5)
    for row in range(5):
        cache.put(row, PIXELS[row], digest(row))
    assert list_found(tmp_path) == list(range(5))
    np.testing.assert_array_equal(cache.get(2), PIXELS[2])
    cache.close()
    assert list_found(tmp_path) == list(range(5))


def test_images_without_a_digest_serve_one_fit_and_leave_no_file(tmp_path):
    cache = open_cache(tmp_path)
    for row in range(20):
        cache.put(row, PIXELS[row])
    np.testing.assert_array_equal(cache.get(7), PIXELS[7])
    cache.close()
    assert name_files(tmp_path) == []


@pytest.mark.parametrize("other", [{"kind": "grey"}, {"shape": (6, 6, 1)}, {"shape": (5, 6, 3)}], ids=str)
def test_caches_of_another_kind_share_nothing(tmp_path, other):
    fill(tmp_path, range(20))
    assert open_cache(tmp_path, **other).find(0, digest(0)) is None


def test_a_cache_nobody_filled_leaves_no_file(tmp_path):
    open_cache(tmp_path).close()
    assert name_files(tmp_path) == []


@pytest.mark.parametrize("damage", ["pixels cut", "digests cut", "pixels gone", "no array", "pickle", "fewer pixels"])
def test_damaged_segments_are_passed_over(tmp_path, damage):
    fill(tmp_path, range(5))
    (pixels,), (digests,) = tmp_path.rglob("*.pixels.npy"), tmp_path.rglob("*.digests.npy")
    if damage == "pixels cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "digests cut":
        digests.write_bytes(digests.read_bytes()[:-1])
    elif damage == "pixels gone":
        pixels.unlink()
    elif damage == "no array":
        digests.write_text("no array")
    elif damage == "pickle":
        np.save(digests, np.array([{}], dtype=object), allow_pickle=True)
    else:
        np.save(pixels, PIXELS[:4])
    assert list_found(tmp_path) == []
    fill(tmp_path, range(20))
    assert list_found(tmp_path) == list(range(20))


def age(folder, seconds):
    """Let the segments that were left last be older."""
    for path in folder.rglob("*.digests.npy"):
        if time.time() - path.stat().st_mtime < 50:
            os.utime(path, (time.time() - seconds,) * 2)


def measure(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def put_all(cache, rows):
    """Put rows into a cache that becomes full, and return the one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for row in rows:
            cache.put(row, PIXELS[row], digest(row))
    (warning,) = caught
    assert warning.category is MultiLabelKitWarning
    return str(warning.message)


FILES = 512  # bytes kept free for the headers of a segment, beside the pixels and 16 bytes for each image


def test_segments_used_longest_ago_make_room(tmp_path):
    for seconds, rows in ((300, range(5)), (200, range(5, 10)), (100, range(10, 15))):
        fill(tmp_path, rows, n_images=5)
        age(tmp_path, seconds)
    limit = 16 * (SLOT + 16) + FILES + 3 * 256
    fill(tmp_path, range(15, 20), n_images=5, max_bytes=limit)
    assert list_found(tmp_path) == list(range(5, 20)) or list_found(tmp_path) == list(range(10, 20))
    assert measure(tmp_path) <= limit


def test_a_segment_is_as_young_as_its_last_use_and_not_as_its_last_sight(tmp_path):
    fill(tmp_path, range(5), n_images=5)
    age(tmp_path, 300)
    (digests,) = tmp_path.rglob("*.digests.npy")
    cache = open_cache(tmp_path)
    assert time.time() - digests.stat().st_mtime > 200
    cache.find(0, digest(0))
    assert time.time() - digests.stat().st_mtime < 50


def test_a_segment_in_use_makes_no_room(tmp_path):
    fill(tmp_path, range(5), n_images=5)
    limit = 7 * (SLOT + 16) + FILES + 256
    cache = open_cache(tmp_path, max_bytes=limit)
    for row in range(5):
        cache.find(row, digest(row))
    warning = put_all(cache, range(5, 20))
    assert "takes no more images" in warning
    assert set(range(5)) <= {row for row in range(20) if cache.get(row) is not None}
    cache.close()
    assert measure(tmp_path) <= limit
    assert set(range(5)) <= set(list_found(tmp_path))


def test_a_folder_takes_no_more_than_its_bytes(tmp_path):
    cache = open_cache(tmp_path, max_bytes=8 * (SLOT + 16) + FILES)
    assert put_all(cache, range(20)) == (
        f"The pixel cache '{tmp_path}' takes no more images: its 0.0 GiB, or half of the free disk, are used up. The "
        "others are decoded anew in each epoch."
    )
    kept = [row for row in range(20) if cache.get(row) is not None]
    assert kept == list(range(8))
    cache.close()
    assert list_found(tmp_path) == kept


def test_fits_side_by_side_share_one_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOM_STEP", 1)
    limit = 10 * (SLOT + 16) + 4 * FILES
    caches = [open_cache(tmp_path, max_bytes=limit) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in range(20):
            for number, cache in enumerate(caches):
                cache.put(row, PIXELS[row], digest_content(bytes([row, number])))
    assert measure(tmp_path) <= limit + SLOT
    for cache in caches:
        cache.close()


def test_a_folder_without_room_takes_nothing_and_says_so(tmp_path):
    cache = open_cache(tmp_path, max_bytes=SLOT - 1)
    with pytest.warns(MultiLabelKitWarning, match=r"takes no more images: its 0\.0 GiB, or half of the free disk, are"):
        cache.put(0, PIXELS[0], digest(0))
    assert cache.get(0) is None
    cache.close()
    assert name_files(tmp_path) == []


def test_one_image_twice_does_not_put_off_publishing(tmp_path):
    cache = open_cache(tmp_path, 5)
    for row in range(4):
        cache.put(row, PIXELS[row], digest(row))
    assert list_found(tmp_path) == []
    assert cache.find(4, digest(0)) is not None
    assert list_found(tmp_path) == [0, 1, 2, 3]


def test_a_published_segment_is_never_written_again(tmp_path):
    cache = open_cache(tmp_path, 2)
    for row in range(2):
        cache.put(row, PIXELS[row], digest(row))
    cache.put(0, PIXELS[9], digest(9))  # the file has changed
    np.testing.assert_array_equal(cache.get(0), PIXELS[9])
    cache.close()
    assert list_found(tmp_path) == [0, 1, 9]


def test_segments_that_vanish_are_images_to_decode_again(tmp_path):
    fill(tmp_path, range(5))
    cache = open_cache(tmp_path)
    for path in tmp_path.rglob("*.npy"):
        path.unlink()
    assert cache.find(0, digest(0)) is None
    cache.put(0, PIXELS[0], digest(0))
    np.testing.assert_array_equal(cache.get(0), PIXELS[0])


def test_a_segment_that_is_cut_short_while_it_is_open_is_images_to_decode_again(tmp_path):
    fill(tmp_path, range(5))
    cache = open_cache(tmp_path)
    assert cache.find(4, digest(4)) is not None
    (pixels,) = tmp_path.rglob("*.pixels.npy")
    os.truncate(pixels, 128 + 2 * SLOT)
    assert cache.get(4) is None
    assert cache.find(1, digest(1)) is not None


@pytest.mark.parametrize("max_open", [0, 3, 64])
def test_many_segments_need_few_open_files(tmp_path, monkeypatch, max_open):
    monkeypatch.setattr(module, "_MAX_OPEN", max_open)
    for row in range(20):
        fill(tmp_path, [row], n_images=1)
    assert list_found(tmp_path) == list(range(20))
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    cache = open_cache(tmp_path)
    for row in range(20):
        assert cache.find(row, digest(row)) is not None
    if n_open is not None:
        assert len(os.listdir("/proc/self/fd")) - n_open == min(max_open, 20)


@pytest.mark.parametrize("moment", ["replace", "fsync", "unlink"])
def test_a_folder_that_fails_at_the_end_loses_no_training(tmp_path, monkeypatch, moment):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))

    def fail(*arguments, **options):
        raise PermissionError(13, "no")

    monkeypatch.setattr(*((Path, "unlink") if moment == "unlink" else (module.os, moment)), fail)
    cache.close()
    monkeypatch.undo()
    assert list_found(tmp_path) in ([], [0])


def test_where_open_files_cannot_be_renamed_they_are_closed_first(tmp_path, monkeypatch):
    """As on Windows."""
    cache = open_cache(tmp_path, 3)
    replace = os.replace

    def replace_closed(old, new):
        if any(not own._file.closed for own in cache._written):
            raise PermissionError(32, "it is used by another process")
        replace(old, new)

    monkeypatch.setattr(module.os, "replace", replace_closed)
    for row in range(3):
        cache.put(row, PIXELS[row], digest(row))
    assert list_found(tmp_path) == []
    cache.close()
    assert list_found(tmp_path) == [0, 1, 2]


def test_systems_without_positional_reads_read_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(module.os, "preadv", raising=False)
    fill(tmp_path, range(20))
    assert list_found(tmp_path) == list(range(20))


def test_damaged_headers_are_passed_over(tmp_path):
    fill(tmp_path, range(5))
    random = np.random.default_rng(0)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    for _ in range(300):
        for path, sound in files.items():
            damaged = bytearray(sound)
            for place in random.integers(0, 128, 3):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
        cache = DiskCache(tmp_path, 20, SHAPE, kind="rgb", max_bytes=10**6)
        for row in range(5):
            cache.find(row, digest(row))
        cache.close()


def test_a_full_disk_ends_the_cache_and_not_the_training(tmp_path, monkeypatch):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))

    def write(file, view):
        file.write(view[: len(view) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_all", write)
    with pytest.warns(MultiLabelKitWarning, match="No space left on device"):
        cache.put(1, PIXELS[1], digest(1))
    cache.put(2, PIXELS[2], digest(2))  # in silence
    assert [row for row in range(3) if cache.get(row) is not None] == [0]
    monkeypatch.undo()
    cache.close()
    assert list_found(tmp_path) == [0]


def write_killed(folder, n_images):
    """Fill a cache in a process that is killed before it could close it."""
    script = f"""
        import os, signal, sys
        import numpy as np
        from multilabelkit.data.disk_cache import DiskCache, digest_content
        pixels = np.load(sys.argv[1])
        cache = DiskCache(sys.argv[2], 20, {SHAPE}, kind="rgb", max_bytes=10**6)
        for row in range({n_images}):
            cache.put(row, pixels[row], digest_content(bytes([row])))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    source = folder.with_suffix(".npy")
    np.save(source, PIXELS)
    finished = subprocess.run([sys.executable, "-c", textwrap.dedent(script), source, folder], check=False)
    assert finished.returncode == -9


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(("n_images", "left"), [(7, []), (20, list(range(20)))], ids=["half-way", "full"])
def test_a_killed_process_leaves_whole_segments_only(tmp_path, n_images, left):
    folder = tmp_path / "cache"
    write_killed(folder, n_images)
    assert list_found(folder) == left
    assert not list(folder.rglob("*.tmp"))  # opening it swept up


def test_files_of_living_processes_are_not_swept_away(tmp_path):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))
    open_cache(tmp_path)
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    cache.close()
    assert list_found(tmp_path) == [0]


@pytest.mark.parametrize(("days", "is_kept"), [(1, True), (3, False)])
def test_files_of_other_machines_are_swept_away_when_they_are_old(tmp_path, days, is_kept):
    folder = open_cache(tmp_path).folder
    path = folder / "0123.another.host.7.tmp"
    path.touch()
    os.utime(path, (time.time() - days * 86400,) * 2)
    (folder / "mine.tmp").touch()
    open_cache(tmp_path)
    assert path.exists() is is_kept
    assert (folder / "mine.tmp").exists()


def test_pixels_whose_digests_never_came_are_swept_away(tmp_path):
    folder = open_cache(tmp_path).folder
    young, old = folder / "1.pixels.npy", folder / "2.pixels.npy"
    for path in (young, old):
        np.save(path, PIXELS)
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    open_cache(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_two_processes_at_the_same_time_do_not_disturb_each_other(tmp_path):
    script = f"""
        import sys, numpy as np
        from multilabelkit.data.disk_cache import DiskCache, digest_content
        pixels, start = np.load(sys.argv[1]), int(sys.argv[3])
        for turn in range(10):
            cache = DiskCache(sys.argv[2], 20, {SHAPE}, kind="rgb", max_bytes={70 * SLOT})
            for step in range(20):
                row = (start + step) % 20
                found = cache.find(row, digest_content(bytes([row])))
                if found is None:
                    cache.put(row, pixels[row], digest_content(bytes([row])))
                assert np.array_equal(cache.get(row), pixels[row])
            cache.close()
    """
    source = tmp_path / "pixels.npy"
    np.save(source, PIXELS)
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), source, tmp_path / "cache"]
    processes = [subprocess.Popen([*command, start], stderr=subprocess.PIPE) for start in ("0", "7", "13")]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert list_found(tmp_path / "cache") == list(range(20))


def test_many_threads_put_and_get_at_once(tmp_path):
    cache = open_cache(tmp_path)
    wrong = []

    def work(rows):
        for row in rows:
            cache.put(row, PIXELS[row], digest(row))
        wrong.extend(row for row in rows if not np.array_equal(cache.get(row), PIXELS[row]))

    threads = [threading.Thread(target=work, args=(range(start, 20, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    cache.close()
    assert list_found(tmp_path) == list(range(20))


@pytest.fixture
def photos(tmp_path):
    """Five files, two of them the same picture."""
    paths = []
    for number, seed in enumerate((0, 1, 2, 3, 1)):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    return paths


def read_all(reader):
    return np.stack([reader.read(row) for row in range(len(reader.sources))])


def create_reader(sources, folder, **options):
    _opened.append(PixelReader(sources, size=6, color_mode="rgb", pixel_cache=folder, **options))
    return _opened[-1]


def test_reader_decodes_each_content_once_and_never_again(photos, tmp_path):
    reader = create_reader(photos, tmp_path / "cache")
    expected = read_all(PixelReader(photos, size=6, color_mode="rgb"))
    for n_decoded in (4, 4):
        np.testing.assert_array_equal(read_all(reader), expected)
        assert reader.n_decoded == n_decoded
    reader.close()
    second = create_reader(photos[::-1], tmp_path / "cache")
    np.testing.assert_array_equal(read_all(second), expected[::-1])
    assert second.n_decoded == 0


def test_reader_sees_that_a_file_has_changed(photos, tmp_path):
    reader = create_reader(photos, tmp_path / "cache")
    read_all(reader)
    reader.close()
    status = photos[0].stat()
    pixels = np.full((20, 30, 3), 7, dtype=np.uint8)
    Image.fromarray(pixels).save(photos[0])
    os.utime(photos[0], ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` does
    reader = create_reader(photos, tmp_path / "cache")
    np.testing.assert_array_equal(reader.read(0), resize_pixels(pixels, 6))
    assert reader.n_decoded == 1


@pytest.mark.parametrize("other", [{"resize": "pad"}, {"resize": "crop"}, {"decoder": "pillow"}], ids=str)
def test_readers_of_another_kind_decode_for_themselves(photos, tmp_path, other):
    reader = create_reader(photos, tmp_path / "cache")
    read_all(reader)
    reader.close()
    second = create_reader(photos, tmp_path / "cache", **other)
    np.testing.assert_array_equal(read_all(second), read_all(PixelReader(photos, size=6, color_mode="rgb", **other)))
    assert second.n_decoded == 4


def test_reader_keeps_images_in_memory_on_disk_for_one_fit(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8))
    reader = create_reader([*images[:3], Image.fromarray(images[3])], tmp_path / "cache")
    for _ in range(2):
        np.testing.assert_array_equal(read_all(reader), np.stack([resize_pixels(image, 6) for image in images]))
    assert reader.n_decoded == 4


def test_readers_copies_are_used_without_a_warning(photos, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            reader = create_reader(photos, tmp_path / "cache")
            assert resize_pixels(reader.read(0), 4).shape == (4, 4, 3)
            reader.close()


def test_names_of_temporary_files_hold_host_and_process(tmp_path):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))
    (path,) = tmp_path.rglob("*.tmp")
    assert path.name.endswith(f".{socket.gethostname()}.{os.getpid()}.tmp")
    cache.close()
