import os
import sys

import pytest

from multilabelkit.data import file_digests as module
from multilabelkit.data.file_digests import identify_file, recall_digest, remember_digest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell when an inode changed")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SETTLED_NS", -1)
    monkeypatch.setattr(module, "_digests", type(module._digests)())
    path = tmp_path / "a.bin"
    path.write_bytes(b"first")
    return path


def test_digest_is_recalled_as_long_as_the_file_is_untouched(path):
    assert recall_digest(identify_file(path)) is None
    remember_digest(identify_file(path), b"digest")
    assert recall_digest(identify_file(path)) == b"digest"
    assert recall_digest(identify_file(str(path))) == b"digest"
    path.rename(path.with_name("b.bin"))
    assert recall_digest(identify_file(path)) is None


@pytest.mark.parametrize("way", ["in place", "renamed over", "grown"])
def test_change_of_the_file_is_noticed_though_its_date_is_put_back(way, path):
    status = path.stat()
    remember_digest(identify_file(path), b"digest")
    if way == "renamed over":
        other = path.with_name("other")
        other.write_bytes(b"other")
        os.replace(other, path)
    else:
        path.write_bytes(b"other" if way == "in place" else b"longer")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert recall_digest(identify_file(path)) is None


def test_file_that_has_just_changed_is_not_vouched_for(path, monkeypatch):
    monkeypatch.setattr(module, "_SETTLED_NS", 3 * 10**9)
    assert identify_file(path) is None
    os.utime(path, (1e9, 1e9))  # which the date of the inode gives away
    assert identify_file(path) is None


@pytest.mark.parametrize("wrong", [None, "absent", "a\0b"])
def test_what_is_no_file_has_no_identity(wrong):
    assert identify_file(wrong) is None


def test_what_has_no_identity_or_digest_is_not_remembered(path):
    remember_digest(None, b"digest")
    remember_digest(identify_file(path), None)
    assert recall_digest(None) is None
    assert not module._digests


def test_oldest_digests_make_room(path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    for number in range(3):
        remember_digest((number, 0, 0, 0, 0), b"%d" % number)
    assert [recall_digest((number, 0, 0, 0, 0)) for number in range(3)] == [None, b"1", b"2"]
