import ctypes
import errno
import os
import stat
import sys

import pytest

from multilabelkit import atomic
from multilabelkit.atomic import find_folder, name_previous, write_folder

OLD, NEW = {"a": b"old", "b": b"old"}, {"a": b"new", "c": b"new"}


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["one step", "two renames"])
def way(request, monkeypatch):
    """Both ways to replace a folder: by exchanging names, and where the system cannot do that."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    return request.param


def test_write_folder_makes_a_folder(tmp_path):
    write_folder(tmp_path / "m", NEW)
    assert read(tmp_path / "m") == NEW
    assert os.listdir(tmp_path) == ["m"]


def test_write_folder_replaces_a_folder_whole(tmp_path, way):
    write_folder(tmp_path / "m", OLD)
    write_folder(tmp_path / "m", NEW)
    assert read(tmp_path / "m") == NEW
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_write_folder_that_fails_makes_nothing(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_folder(tmp_path / "m", NEW)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("n_written", [0, 1, 2])
def test_write_folder_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, way, n_written):
    write_folder(tmp_path / "m", OLD)
    real, synced = os.fsync, []

    def fill_up(descriptor):
        if len(synced) == n_written:
            fail()
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(OSError, match="No space left on device"):
        write_folder(tmp_path / "m", NEW)
    assert read(tmp_path / "m") == OLD
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("n_renamed", [0, 1])
def test_write_folder_without_exchange_takes_back_the_first_rename_if_the_second_fails(
    tmp_path, monkeypatch, n_renamed
):
    write_folder(tmp_path / "m", OLD)
    real, renamed = os.rename, []

    def break_once(one, other):
        renamed.append(one)
        if len(renamed) == n_renamed + 1:
            fail()
        real(one, other)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", break_once)
    with pytest.raises(OSError, match="No space left on device"):
        write_folder(tmp_path / "m", NEW)
    assert read(tmp_path / "m") == OLD
    assert os.listdir(tmp_path) == ["m"]


def test_find_folder_falls_back_to_the_copy_that_a_crash_left(tmp_path):
    """Without exchange, a crash between the two renames leaves the old folder under another name."""
    write_folder(tmp_path / "m", OLD)
    os.rename(tmp_path / "m", name_previous(tmp_path / "m"))
    assert read(find_folder(tmp_path / "m")) == OLD
    write_folder(tmp_path / "m", NEW)
    assert read(find_folder(tmp_path / "m")) == NEW
    assert os.listdir(tmp_path) == ["m"]


def test_find_folder_prefers_the_folder_itself(tmp_path):
    write_folder(tmp_path / "m", NEW)
    write_folder(name_previous(tmp_path / "m"), OLD)
    assert find_folder(str(tmp_path / "m")) == tmp_path / "m"


def test_find_folder_returns_the_path_where_there_is_nothing(tmp_path):
    assert find_folder(tmp_path / "m") == tmp_path / "m"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_drive_that_cannot_sync_folders_is_written_to_all_the_same(tmp_path, monkeypatch, code):
    real = os.fsync

    def sync_only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync_only_files)
    write_folder(tmp_path / "m", NEW)
    assert read(tmp_path / "m") == NEW


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_exchange_swaps_two_names_in_one_step(tmp_path):
    write_folder(tmp_path / "one", OLD)
    write_folder(tmp_path / "two", NEW)
    if not atomic._exchange(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this file system cannot exchange names")
    assert (read(tmp_path / "one"), read(tmp_path / "two")) == (NEW, OLD)


@pytest.mark.parametrize(
    "break_system",
    [
        lambda patch: patch.setattr(sys, "platform", "darwin"),
        lambda patch: patch.setattr(ctypes, "CDLL", lambda name: object()),
        lambda patch: patch.setattr(ctypes, "CDLL", lambda name: type("Library", (), {"renameat2": lambda *a: -1})),
    ],
    ids=["not linux", "old libc", "refused by the file system"],
)
def test_exchange_says_where_it_cannot(tmp_path, monkeypatch, break_system):
    break_system(monkeypatch)
    assert atomic._exchange(tmp_path / "one", tmp_path / "two") is False
