import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from multilabelkit.data import feature_store as module
from multilabelkit.data.disk_cache import digest_content
from multilabelkit.data.feature_store import FolderStore, MemoryStore, open_feature_store
from multilabelkit.errors import InputError, MultiLabelKitWarning

ROWS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
ROW_BYTES = 5 * 4
FILE_BYTES = 32 + 32 + ROW_BYTES  # of a file of one row: header, digests, features


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.fixture(autouse=True)
def forget_features():
    yield
    MemoryStore.clear()


def digest(row):
    return digest_content(bytes([row]))


def collect(rows, values=ROWS):
    return {digest(row): values[row] for row in rows}


def find(store, rows, values=ROWS):
    found = dict(store.find([digest(row) for row in rows]))
    assert all(np.array_equal(found[digest(row)], values[row]) for row in rows if digest(row) in found)
    assert all(row.dtype == np.float32 for row in found.values())
    return [row for row in rows if digest(row) in found]


def list_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["memory", "folder"])
def open_store(request, tmp_path):
    def open_one(address="a"):
        return MemoryStore(address) if request.param == "memory" else FolderStore(tmp_path, address)

    return open_one


def test_store_gives_back_what_was_put(open_store):
    open_store().put(collect(range(7)))
    assert find(open_store(), [9, 6, 0, 3]) == [6, 0, 3]


def test_store_keeps_what_was_there(open_store):
    for rows in ([1, 2], [3], [2, 4]):
        open_store().put(collect(rows))
    assert find(open_store(), range(7)) == [1, 2, 3, 4]


def test_stores_of_another_address_share_nothing(open_store):
    open_store("a").put(collect([1]))
    assert find(open_store("b"), [1]) == []


def test_store_keeps_tokens(open_store):
    tokens = np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32)
    open_store().put(collect(range(3), tokens))
    assert find(open_store(), range(3), tokens) == [0, 1, 2]


def test_store_is_not_changed_through_what_was_put(open_store):
    rows = ROWS.copy()
    open_store().put(collect(range(3), rows))
    rows[:] = 0
    assert find(open_store(), range(3)) == [0, 1, 2]


def test_store_may_be_put_nothing(open_store, tmp_path):
    open_store().put({})
    assert list_files(tmp_path) == []


def test_features_in_memory_make_room_for_new_ones_longest_unused_first(monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BYTES", 4 * ROW_BYTES)
    MemoryStore("a").put(collect([0, 1, 2, 3]))
    find(MemoryStore("a"), [0])
    MemoryStore("b").put(collect([4, 5]))
    assert find(MemoryStore("a"), range(4)) == [0, 3]
    assert find(MemoryStore("b"), range(9)) == [4, 5]


def test_features_larger_than_the_memory_are_not_kept(monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BYTES", ROW_BYTES - 1)
    MemoryStore("a").put(collect([0, 1]))
    assert find(MemoryStore("a"), [0, 1]) == []


def test_file_is_written_as_it_is_described(tmp_path):
    FolderStore(tmp_path, "a").put(collect([1, 2]))
    (path,) = list_files(tmp_path)
    content = path.read_bytes()
    assert path.parent == tmp_path / "features-1-a"
    assert content[:8] == b"features"
    np.testing.assert_array_equal(np.frombuffer(content[8:32], "<u8"), [2, 0, 5])
    assert (content[32:48], content[64:80]) == (digest(1), digest(2))
    np.testing.assert_array_equal(np.frombuffer(content[96:], "<f4").reshape(2, 5), ROWS[1:3])


def test_torn_file_is_passed_over(tmp_path):
    FolderStore(tmp_path, "a").put(collect(range(3)))
    (path,) = list_files(tmp_path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert find(FolderStore(tmp_path, "a"), range(3)) == []
    FolderStore(tmp_path, "a").put(collect(range(3)))
    assert find(FolderStore(tmp_path, "a"), range(3)) == [0, 1, 2]


def test_changed_byte_never_gives_other_features(tmp_path):
    FolderStore(tmp_path, "a").put(collect(range(3)))
    (path,) = list_files(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        found = find(FolderStore(tmp_path, "a"), range(3))  # which compares them
        assert len(found) == (0 if place < 32 else 2)


def test_changed_row_leaves_the_others(tmp_path):
    FolderStore(tmp_path, "a").put(collect(range(3)))
    (path,) = list_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[32 + 3 * 32 + ROW_BYTES] ^= 1  # the first byte of the second row
    path.write_bytes(content)
    assert find(FolderStore(tmp_path, "a"), range(3)) == [0, 2]


@pytest.mark.parametrize(
    "numbers",
    [(2**40, 0, 5), (3, 2**40, 5), (3, 0, 2**62), (2**64 - 1,) * 3, (3, 5, 0), (0, 2**63, 2**63)],
    ids=str,
)
def test_absurd_sizes_in_a_file_take_no_memory(tmp_path, numbers):
    FolderStore(tmp_path, "a").put(collect(range(3)))
    (path,) = list_files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:8] + np.array(numbers, dtype="<u8").tobytes() + content[32:])
    assert find(FolderStore(tmp_path, "a"), range(3)) == []


def test_folder_in_the_place_of_a_file_is_passed_over(tmp_path):
    (tmp_path / "features-1-a" / "x.features").mkdir(parents=True)
    FolderStore(tmp_path, "a").put(collect([1]))
    assert find(FolderStore(tmp_path, "a"), [1]) == [1]


def test_many_small_files_become_one(tmp_path):
    for row in range(65):
        FolderStore(tmp_path, "a").put(collect([row]))
    assert len(list_files(tmp_path)) == 1
    assert find(FolderStore(tmp_path, "a"), range(70)) == list(range(65))


def test_files_that_are_not_small_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SMALL_BYTES", FILE_BYTES)
    for row in range(65):
        FolderStore(tmp_path, "a").put(collect([row]))
    assert len(list_files(tmp_path)) == 65


def test_folder_makes_room_for_new_features_longest_unused_first(tmp_path):
    for row, address in enumerate("abc"):
        FolderStore(tmp_path, address).put(collect([row]))
        (path,) = (tmp_path / f"features-1-{address}").iterdir()
        os.utime(path, (row, row))
    assert find(FolderStore(tmp_path, "a"), [0]) == [0]  # and is the youngest now
    FolderStore(tmp_path, "d", max_bytes=3 * FILE_BYTES).put(collect([3]))
    assert [find(FolderStore(tmp_path, address), range(4)) for address in "abcd"] == [[0], [], [2], [3]]
    assert not (tmp_path / "features-1-b").exists()


def test_folder_of_the_user_takes_what_it_can_in_silence(tmp_path):
    store = FolderStore(tmp_path, "a", max_bytes=FILE_BYTES)
    store.put(collect([1]))
    store.put(collect([2, 3]))
    assert find(store, range(5)) == [1]


def test_folder_of_the_caller_says_once_that_it_is_full(tmp_path, monkeypatch):
    store = FolderStore(tmp_path, "a")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**29}))
    monkeypatch.setattr(module, "_HEADER", type("Header", (), {"size": 2**29})())
    message = (
        f"The feature cache '{tmp_path}' takes no more features: they take 0.5 GiB, and 0.2 GiB may be used. They are "
        "computed anew in each fit."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        store.put(collect([1]))
    store.put(collect([2]))


def test_files_that_cannot_be_removed_are_said_to_be_in_the_way(tmp_path, monkeypatch):
    FolderStore(tmp_path, "a").put(collect([1]))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    monkeypatch.setattr(module.Path, "unlink", lambda path, missing_ok=False: (_ for _ in ()).throw(OSError))
    message = (
        f"The feature cache '{tmp_path}' takes no more features: the files there cannot be removed. They are computed "
        "anew in each fit."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        FolderStore(tmp_path, "b").put(collect([2]))


def test_failure_to_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("the drive went away")

    monkeypatch.setattr(module.os, "replace", fail)
    message = (
        f"The feature cache '{tmp_path}' takes no more features: the drive went away. They are computed anew in each "
        "fit."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        FolderStore(tmp_path, "a").put(collect([1]))
    FolderStore(tmp_path, "a", max_bytes=10**6).put(collect([1]))
    assert list_files(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    folder = tmp_path / "features-1-a"
    folder.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = module.socket.gethostname()
    names = [f"0.{host}.{dead.pid}.tmp", f"0.{host}.{os.getpid()}.tmp", "0.elsewhere.1.tmp", "1.elsewhere.1.tmp"]
    for name in names:
        (folder / name).touch()
    os.utime(folder / names[3], (time.time() - 10**6,) * 2)
    FolderStore(tmp_path, "b")
    assert sorted(path.name for path in list_files(tmp_path)) == sorted(names[1:3])


def test_threads_share_a_folder(tmp_path):
    wrong = []

    def work(start):
        for row in range(start, start + 50):
            rows = [row % 100, (row + 1) % 100]
            FolderStore(tmp_path, "a", max_bytes=10**6).put(collect(rows))
            found = dict(FolderStore(tmp_path, "a").find([digest(row) for row in range(100)]))
            wrong.extend(r for r in range(100) if digest(r) in found and not np.array_equal(found[digest(r)], ROWS[r]))

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not [path for path in list_files(tmp_path) if path.suffix == ".tmp"]


def test_processes_share_a_folder(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import numpy as np
        from multilabelkit.data.disk_cache import digest_content
        from multilabelkit.data.feature_store import FolderStore
        from pathlib import Path

        digests = [digest_content(bytes([row])) for row in range(100)]
        for row in range(100):
            store = FolderStore(Path(sys.argv[1]), "a")
            store.put({digests[row]: np.full(5, row, dtype=np.float32)})
            for digest, features in store.find(digests):
                assert (features == digests.index(digest)).all()
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    expected = np.repeat(np.arange(100, dtype=np.float32)[:, None], 5, axis=1)
    assert find(FolderStore(tmp_path, "a"), range(100), expected) == list(range(100))


def test_open_feature_store_takes_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "cache"))
    open_feature_store("auto", "a").put(collect([1]))
    assert [path.parent for path in list_files(tmp_path)] == [tmp_path / "cache" / "features" / "features-1-a"]
    assert find(open_feature_store("auto", "a"), [1, 2]) == [1]


def test_users_cache_folder_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "DISK_BYTES", FILE_BYTES)
    for row in (1, 2):
        open_feature_store("auto", "a").put(collect([row]))
    assert find(open_feature_store("auto", "a"), [1, 2]) == [2]


def test_nothing_is_kept_where_the_user_has_no_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "file"))
    assert open_feature_store("auto", "a") is None


def test_open_feature_store_takes_the_callers_folder(tmp_path):
    open_feature_store(tmp_path / "mine", "a").put(collect([1]))
    assert [path.parent for path in list_files(tmp_path)] == [tmp_path / "mine" / "features-1-a"]


def test_open_feature_store_keeps_features_in_memory():
    open_feature_store("memory", "a").put(collect([1]))
    assert find(open_feature_store("memory", "a"), [1]) == [1]


def test_open_feature_store_refuses_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    reason = "File exists" if os.name != "nt" else "Cannot create a file when that file already exists"
    message = (
        f"The feature cache cannot be kept in '{tmp_path / 'file'}': {reason}. "
        "Set feature_cache to a folder that can be written, to 'auto', 'memory' or None."
    )
    with pytest.raises(InputError, match=whole(message)):
        open_feature_store(tmp_path / "file", "a")
