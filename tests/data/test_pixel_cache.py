import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from multilabelkit.data import pixel_cache as module
from multilabelkit.data.disk_cache import DiskCache, digest_content
from multilabelkit.data.pixel_cache import MemoryCache, create_pixel_cache, find_cache_folder, prepare_folder
from multilabelkit.errors import InputError

SHAPE = (6, 6, 3)
SLOT = math.prod(SHAPE)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)


def whole(message):
    return f"^{re.escape(message)}$"


def test_memory_cache_keeps_the_first_images_that_fit():
    cache = MemoryCache(20, SHAPE, max_bytes=7 * SLOT + 5)
    for row in range(20):
        assert cache.get(row) is None
        cache.put(row, PIXELS[row])
    assert [row for row in range(20) if cache.get(row) is not None] == list(range(7))
    np.testing.assert_array_equal(cache.get(3), PIXELS[3])
    assert cache.n_bytes == 7 * SLOT


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


def test_auto_counts_what_the_folder_holds_already(tmp_path, monkeypatch):
    """A folder that holds all images is used again, however full the disk is."""
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    cache = create_pixel_cache("auto", 20, SHAPE, kind="rgb")
    for row in range(20):
        cache.put(row, PIXELS[row], digest_content(bytes([row])))
    cache.close()

    class Usage:
        free = 0

    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage)
    cache = create_pixel_cache("auto", 20, SHAPE, kind="rgb")
    assert type(cache) is DiskCache
    assert cache.find(3, digest_content(bytes([3]))) is not None
    cache.close()


def test_auto_does_without_a_folder_where_nobody_is_at_home(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module, "find_cache_folder", fail)
    monkeypatch.setattr(module, "MEMORY_BYTES", 9 * SLOT)
    assert type(create_pixel_cache("auto", 20, SHAPE, kind="rgb")) is MemoryCache


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_the_folder_of_the_user_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    create_pixel_cache("auto", 20, SHAPE, kind="rgb").close()
    assert (tmp_path / "pixels").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.name == "nt", reason="homes are named by another variable")
def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_folder("~/pixels") == tmp_path / "pixels"
    monkeypatch.setenv("MULTILABELKIT_CACHE", "~/cache")
    assert find_cache_folder() == tmp_path / "cache"


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "expected"), [("max", 0, 0, 1000), ("900", 600, 200, 500), ("100", 600, 0, 0)]
)
def test_memory_of_a_container_counts_files_that_were_read_as_free(monkeypatch, limit, used, inactive, expected):
    texts = {"memory.max": limit, "memory.current": str(used), "memory.stat": f"anon 1\ninactive_file {inactive}\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: texts[path.name])

    class Memory:
        available = 1000

    monkeypatch.setattr(module.psutil, "virtual_memory", Memory)
    assert module._measure_free_memory() == expected
