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

from multilabelkit.data import pixel_cache as module
from multilabelkit.data.loading import PixelReader
from multilabelkit.data.pixel_cache import (
    DiskCache,
    MemoryCache,
    create_pixel_cache,
    digest_content,
    find_cache_folder,
)
from multilabelkit.data.transforms import resize_pixels
from multilabelkit.errors import InputError, MultiLabelKitWarning

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


def test_memory_cache_keeps_the_first_images_that_fit():
    cache = MemoryCache(20, SHAPE, max_bytes=7 * SLOT + 5)
    for row in range(20):
        assert cache.get(row) is None
        cache.put(row, PIXELS[row])
    assert [row for row in range(20) if cache.get(row) is not None] == list(range(7))
    np.testing.assert_array_equal(cache.get(3), PIXELS[3])
    assert cache.n_bytes == 7 * SLOT


def test_disk_cache_gives_back_what_was_put(tmp_path):
    cache = open_cache(tmp_path)
    assert cache.get(3) is None
    assert cache.find(3, digest(3)) is None
    cache.put(3, PIXELS[3], digest(3))
    np.testing.assert_array_equal(cache.get(3), PIXELS[3])


def test_disk_cache_gives_pixels_that_may_be_written_on_without_changing_the_file(tmp_path):
    fill(tmp_path, range(20))
    cache = open_cache(tmp_path)
    cache.find(0, digest(0))[:] = 0
    assert list_found(tmp_path) == list(range(20))


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


def test_images_without_a_digest_serve_one_fit_only(tmp_path):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0])
    np.testing.assert_array_equal(cache.get(0), PIXELS[0])
    cache.close()
    assert list_found(tmp_path) == []


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


def test_the_oldest_segments_make_room(tmp_path):
    for age, rows in ((300, range(5)), (200, range(5, 10)), (100, range(10, 15))):
        fill(tmp_path, rows, n_images=5)
        for path in tmp_path.rglob("*.digests.npy"):
            if time.time() - path.stat().st_mtime < 50:
                os.utime(path, (time.time() - age,) * 2)
    fill(tmp_path, range(15, 20), n_images=5, max_bytes=17 * SLOT)
    assert list_found(tmp_path) == list(range(10, 20))


def test_a_segment_in_use_is_not_the_oldest(tmp_path):
    fill(tmp_path, range(5), n_images=5)
    (digests,) = tmp_path.rglob("*.digests.npy")
    os.utime(digests, (time.time() - 300,) * 2)
    open_cache(tmp_path)
    assert time.time() - digests.stat().st_mtime < 50


def test_a_folder_takes_no_more_than_its_bytes(tmp_path):
    cache = open_cache(tmp_path, max_bytes=8 * SLOT)
    message = f"The pixel cache '{tmp_path}' takes no more images: there is no more room. "
    message += "The others are decoded anew in each epoch."
    for row in range(8):
        cache.put(row, PIXELS[row], digest(row))
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        cache.put(8, PIXELS[8], digest(8))
    for row in range(9, 20):
        cache.put(row, PIXELS[row], digest(row))  # in silence
    assert [row for row in range(20) if cache.get(row) is not None] == list(range(8))
    cache.close()
    assert list_found(tmp_path) == list(range(8))


def test_a_folder_without_room_takes_nothing_and_says_so(tmp_path):
    cache = open_cache(tmp_path, max_bytes=SLOT - 1)
    with pytest.warns(MultiLabelKitWarning, match=r"takes no more images: its 0\.0 GiB, or half of the free disk, are"):
        cache.put(0, PIXELS[0], digest(0))
    assert cache.get(0) is None
    cache.close()
    assert name_files(tmp_path) == []


def test_a_full_disk_ends_the_cache_and_not_the_training(tmp_path, monkeypatch):
    cache = open_cache(tmp_path)
    cache.put(0, PIXELS[0], digest(0))

    def write(file, view):
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
        from multilabelkit.data.pixel_cache import DiskCache, digest_content
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
        from multilabelkit.data.pixel_cache import DiskCache, digest_content
        pixels, start = np.load(sys.argv[1]), int(sys.argv[3])
        for turn in range(10):
            cache = DiskCache(sys.argv[2], 20, {SHAPE}, kind="rgb", max_bytes={60 * SLOT})
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


def test_create_pixel_cache_takes_none():
    assert create_pixel_cache(None, 5, SHAPE, kind="rgb") is None


@pytest.mark.parametrize(("room", "kind"), [(20 * SLOT, MemoryCache), (20 * SLOT - 1, DiskCache)])
def test_auto_takes_memory_while_everything_fits(tmp_path, monkeypatch, room, kind):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MEMORY_BYTES", room)
    cache = create_pixel_cache("auto", 20, SHAPE, kind="rgb")
    assert type(cache) is kind
    if kind is DiskCache:
        assert cache.root == tmp_path / "pixels"


def test_auto_takes_what_memory_there_is_where_the_disk_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MEMORY_BYTES", 9 * SLOT)
    monkeypatch.setattr(module, "DISK_BYTES", 20 * SLOT - 1)
    cache = create_pixel_cache("auto", 20, SHAPE, kind="rgb", reserved_bytes=2 * SLOT)
    assert type(cache) is MemoryCache
    assert cache.n_bytes == 7 * SLOT


def test_auto_does_without_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(module, "MEMORY_BYTES", 9 * SLOT)
    assert type(create_pixel_cache("auto", 20, SHAPE, kind="rgb")) is MemoryCache


def test_a_path_is_a_cache_in_this_folder(tmp_path):
    cache = create_pixel_cache(tmp_path / "a" / "b", 5, SHAPE, kind="rgb")
    assert type(cache) is DiskCache
    assert cache.root == tmp_path / "a" / "b"


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    message = (
        f"The pixel cache cannot be kept in '{tmp_path / 'file'}': File exists. "
        "Set pixel_cache to a folder that can be written, to 'auto', 'memory' or None."
    )
    with pytest.raises(InputError, match=whole(message)):
        create_pixel_cache(tmp_path / "file", 5, SHAPE, kind="rgb")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"MULTILABELKIT_CACHE": "/mine"}, "/mine"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/multilabelkit"),
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/multilabelkit"),
        ("darwin", {"HOME": "/home/me"}, "/home/me/Library/Caches/multilabelkit"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/multilabelkit"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="homes are named by other variables")
def test_the_cache_folder_is_where_the_system_keeps_such_things(monkeypatch, platform, variables, expected):
    for name in ("MULTILABELKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module.sys, "platform", platform)
    assert find_cache_folder() == Path(expected)


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
