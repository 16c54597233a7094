import errno
import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
import torch

from multilabelkit import atomic, storage
from multilabelkit.errors import InputError, ModelFileError
from multilabelkit.storage import read_model, write_model

posix_only = pytest.mark.skipif(os.name == "nt", reason="links, pipes and devices of POSIX")

CONFIG = {"kind": "Test", "names": ["sea", "sun \N{SUN BEHIND CLOUD}"], "number": 0.1, "nothing": None}


def create_weights():
    tied = torch.arange(6.0).reshape(2, 3)
    return {
        "plain": torch.tensor([[0.1, -2.5e-30], [3e38, 0.0]]),
        "tied": tied,
        "tied.transposed": tied.T,
        "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "count": torch.tensor(2**40),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "model", CONFIG, create_weights())
    return tmp_path / "model"


def whole(message):
    return f"^{re.escape(message)}$"


def damaged(folder, reason):
    return whole(f"The model folder '{folder}' is damaged: {reason}. Copy or save it again.")


def rewrite(folder, name, content):
    """Replace a file and correct its checksum, so that reading comes to the content itself."""
    (folder / name).write_bytes(content)
    sums = [
        f"{hashlib.sha256((folder / each).read_bytes()).hexdigest()}  {each}\n"
        for each in ("config.json", "model.safetensors")
    ]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_what_is_written_is_read_back_to_the_bit(model):
    config, weights = read_model(model)
    assert config == {"format": "multilabelkit", "schema_version": 1, **CONFIG}
    expected = create_weights()
    assert set(weights) == set(expected)
    for key, value in expected.items():
        assert (weights[key].dtype, weights[key].shape) == (value.dtype, value.shape)
        assert torch.equal(weights[key], value)


def test_a_folder_holds_three_files_and_no_more(model):
    assert sorted(os.listdir(model)) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert os.listdir(model.parent) == ["model"]


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs the command sha256sum")
def test_the_checksums_are_those_of_sha256sum(model):
    finished = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=model, capture_output=True, text=True, check=True)
    assert finished.stdout == "config.json: OK\nmodel.safetensors: OK\n"


def test_writing_makes_the_folders_above(tmp_path):
    write_model(tmp_path / "a" / "b" / "model", CONFIG, {})
    assert read_model(tmp_path / "a" / "b" / "model")[0]["kind"] == "Test"


def test_a_relative_path_and_a_trailing_slash_mean_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model("model/", CONFIG, {})
    assert read_model("model")[0] == read_model(f"{tmp_path}/model/")[0]


def test_writing_over_a_model_replaces_it_whole(model):
    write_model(model, {"kind": "Other"}, {"other": torch.ones(1)})
    config, weights = read_model(model)
    assert config["kind"] == "Other"
    assert list(weights) == ["other"]


def test_writing_into_an_empty_folder_is_fine(tmp_path):
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", CONFIG, {})
    assert read_model(tmp_path / "model")[0]["kind"] == "Test"


def test_a_damaged_model_may_be_replaced(model):
    (model / "config.json").write_bytes(b"")
    write_model(model, CONFIG, {})
    assert read_model(model)[0]["kind"] == "Test"


@pytest.mark.parametrize(
    ("files", "first"),
    [
        (["notes.txt"], "notes.txt"),
        (["SHA256SUMS", "config.json", "model.safetensors", "notes.txt"], "notes.txt"),
        (["config.json", "model.safetensors"], "config.json"),
        (["config.json"], "config.json"),
    ],
    ids=["other files", "a model and more", "the model of another library", "a lone config"],
)
def test_a_folder_that_holds_anything_else_is_refused(tmp_path, files, first):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("mine")
    message = (
        f"The model cannot be saved to '{folder}': the folder holds other files ('{first}'), and saving replaces "
        "a folder whole. Choose a new folder, or one that holds a model and nothing else."
    )
    with pytest.raises(InputError, match=whole(message)):
        write_model(folder, CONFIG, {})
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(files, "mine")


@posix_only
@pytest.mark.parametrize("kind", ["file", "link to a model", "dead link"])
def test_a_file_or_a_link_is_refused(tmp_path, model, kind):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(model if kind == "link to a model" else tmp_path / "nothing")
    message = f"The model cannot be saved to '{target}': it is a file or a link. Choose the name of a folder."
    with pytest.raises(InputError, match=whole(message)):
        write_model(target, CONFIG, {})
    assert target.is_symlink() or target.read_text() == "mine"
    assert read_model(model)[0]["kind"] == "Test"


def unwritable(path, reason):
    return whole(
        f"The model cannot be saved to '{path}': {reason}. Nothing was written; "
        "choose a folder that you may write to, on a disk with room."
    )


@pytest.mark.parametrize("call", ["mkdir", "fsync"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_unwritable_folder_is_named_and_nothing_is_left(tmp_path, monkeypatch, call, code):
    """Permissions do not stop the superuser, so the system's answer is put in its mouth."""

    def refuse(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(InputError, match=unwritable(tmp_path / "model", os.strerror(code))):
        write_model(tmp_path / "model", CONFIG, create_weights())
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_model(model, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match=unwritable(model, "No space left on device")):
        write_model(model, {"kind": "Other"}, {})
    assert read_model(model)[0]["kind"] == "Test"
    assert os.listdir(model.parent) == ["model"]


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"/file/model': (Not a directory|File exists)\. Nothing was written; choose"):
        write_model(tmp_path / "file" / "model", CONFIG, {})


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    message = (
        "The weights 'head.bias' are not all finite, so the model cannot be saved. Train again with a lower "
        "learning_rate; or, if they are a mask of your own module, register it with persistent=False."
    )
    with pytest.raises(InputError, match=whole(message)):
        write_model(tmp_path / "model", CONFIG, {"ok": torch.ones(1), "head.bias": torch.tensor([1, float("nan")])})
    assert os.listdir(tmp_path) == []


def test_state_that_is_no_tensor_is_not_saved(tmp_path):
    message = (
        "The network's state '_extra_state' is a dict, which cannot be saved as data. "
        "Keep in your module's state_dict() nothing but tensors."
    )
    with pytest.raises(InputError, match=whole(message)):
        write_model(tmp_path / "model", CONFIG, {"_extra_state": {}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_reading_where_there_is_no_folder_says_so(tmp_path, kind):
    if kind == "a file":
        (tmp_path / "model").write_text("mine")
    message = f"There is no model folder at '{tmp_path / 'model'}'; pass the folder that save() made."
    with pytest.raises(ModelFileError, match=whole(message)):
        read_model(tmp_path / "model")


def test_reading_a_folder_without_a_model_says_so(tmp_path):
    message = f"The folder '{tmp_path}' holds no model; pass the folder that save() made."
    with pytest.raises(ModelFileError, match=whole(message)):
        read_model(str(tmp_path))


@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(ModelFileError, match=damaged(model, f"{name} cannot be opened (No such file or directory)")):
        read_model(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("change", ["flip", "cut", "append", "empty"])
def test_a_changed_file_does_not_match_its_checksum(model, name, change):
    content = bytearray((model / name).read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 1
    changed = {"cut": content[:-1], "append": content + b" ", "empty": b""}.get(change, content)
    (model / name).write_bytes(changed)
    with pytest.raises(ModelFileError, match=damaged(model, f"{name} does not match its checksum in SHA256SUMS")):
        read_model(model)


def test_swapped_files_do_not_match_their_checksums(model):
    os.rename(model / "config.json", model / "x")
    os.rename(model / "model.safetensors", model / "config.json")
    os.rename(model / "x", model / "model.safetensors")
    with pytest.raises(ModelFileError, match=damaged(model, "config.json does not match its checksum in SHA256SUMS")):
        read_model(model)


@pytest.mark.parametrize("sums", [b"", b"\xff\x00" * 100, b"0" * 64 + b"  config.json\n"])
def test_senseless_checksums_do_not_match(model, sums):
    (model / "SHA256SUMS").write_bytes(sums)
    with pytest.raises(ModelFileError, match=damaged(model, "config.json does not match its checksum in SHA256SUMS")):
        read_model(model)


@posix_only
@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_only_regular_files_are_read(model, tmp_path, name, kind):
    os.rename(model / name, tmp_path / "elsewhere")
    if kind == "link":
        (model / name).symlink_to(tmp_path / "elsewhere")
        reason = f"{name} cannot be opened (Too many levels of symbolic links)"
    elif kind == "pipe":
        os.mkfifo(model / name)
        reason = f"{name} is not a regular file"
    elif kind == "folder":
        (model / name).mkdir()
        reason = f"{name} is not a regular file"
    else:
        try:
            os.mknod(model / name, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
        except PermissionError:
            pytest.skip("only the superuser may make devices")
        reason = f"{name} (is not a regular file|cannot be opened .*)"
    pattern = damaged(model, reason).replace(re.escape(reason), reason if kind == "device" else re.escape(reason))
    with pytest.raises(ModelFileError, match=pattern):
        read_model(model)


def test_a_file_larger_than_any_real_one_is_not_read(model):
    with open(model / "config.json", "r+b") as file:
        file.truncate(2**40)  # of holes: it takes no room
    reason = "config.json has 1099511627776 bytes, more than any real one"
    with pytest.raises(ModelFileError, match=damaged(model, reason)):
        read_model(model)


def test_reading_closes_every_file_it_opened(model):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    n_open = len(os.listdir("/proc/self/fd"))
    read_model(model)
    (model / "config.json").unlink()
    (model / "config.json").mkdir()
    with pytest.raises(ModelFileError):
        read_model(model)
    assert len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "config.json is no valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": 1, "a": 2}', "config.json is no valid JSON (a key stands twice)"),
        (b'{"a": NaN}', "config.json is no valid JSON (NaN is no number)"),
        (b'{"a": -Infinity}', "config.json is no valid JSON (-Infinity is no number)"),
        (b"[]", "config.json does not describe a multilabelkit model"),
        (b'{"format": "pickle"}', "config.json does not describe a multilabelkit model"),
        (b'{"format": "multilabelkit"}', "config.json has the schema_version None"),
        (b'{"format": "multilabelkit", "schema_version": "1"}', "config.json has the schema_version '1'"),
        (b'{"format": "multilabelkit", "schema_version": true}', "config.json has the schema_version True"),
        (b'{"format": "multilabelkit", "schema_version": 0}', "config.json has the schema_version 0"),
    ],
)
def test_a_config_that_is_no_config_is_refused(model, content, reason):
    rewrite(model, "config.json", content)
    with pytest.raises(ModelFileError, match=damaged(model, reason)):
        read_model(model)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": 1' + b"0" * 10_000 + b"}", b"\xff\xfe\x00", b"\x80", b'"\\ud800'],
    ids=["nested lists", "nested dicts", "endless number", "odd encoding", "not UTF-8", "cut string"],
)
def test_a_config_made_to_upset_the_parser_is_refused(model, content):
    rewrite(model, "config.json", content)
    with pytest.raises(
        ModelFileError, match=r"is damaged: config\.json is no valid JSON \(.*\)\. Copy or save it again"
    ):
        read_model(model)


def test_a_newer_schema_asks_for_an_upgrade(model):
    rewrite(model, "config.json", json.dumps({"format": "multilabelkit", "schema_version": 2}).encode())
    message = (
        f"The model folder '{model}' has schema_version 2, but this multilabelkit reads up to 1. "
        "Upgrade: pip install -U multilabelkit"
    )
    with pytest.raises(ModelFileError, match=whole(message)):
        read_model(model)


def pack(header, data=b""):
    """Return a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95 a pickle, renamed",
        (2**63).to_bytes(8, "little") + b"{}",
        (90 * 10**6).to_bytes(8, "little") + b"{}",
        pack(b"{" * 1000),
        pack({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        pack({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, bytes(4)),
        pack({"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)),
        pack({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)),
        pack({"w": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        pack({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
    ],
    ids=[
        "empty",
        "pickle",
        "endless header",
        "huge header",
        "nested header",
        "shape too large",
        "data too short",
        "overflowing shape",
        "dtype that torch lacks",
        "unknown dtype",
        "data left over",
    ],
)
def test_weights_that_are_no_safetensors_are_refused(model, content):
    rewrite(model, "model.safetensors", content)
    with pytest.raises(
        ModelFileError, match=r"is damaged: model\.safetensors is no valid safetensors file \(.*\)\. Copy"
    ):
        read_model(model)


@pytest.mark.parametrize("value", [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"])
def test_weights_that_are_not_finite_are_refused(model, value):
    rewrite(
        model,
        "model.safetensors",
        pack({"w\n": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4) + value),
    )
    with pytest.raises(ModelFileError, match=damaged(model, r"the weights 'w\n' are not all finite")):
        read_model(model)


@pytest.mark.parametrize("way", ["one step", "two renames"])
def test_reading_while_the_folder_is_replaced_gives_the_old_or_the_new_model(model, monkeypatch, way):
    """The reader opens three files; whoever replaces the folder between two of them must not be seen."""
    if way == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    write_model(model, {"kind": "Old"}, {"w": torch.zeros(1)})
    real, n_reads = storage._read_file, []

    def replace_now_and_then(folder, name):
        n_reads.append(name)
        if len(n_reads) in (2, 5):
            write_model(model, {"kind": f"New {len(n_reads)}"}, {"w": torch.full((1,), float(len(n_reads)))})
        return real(folder, name)

    monkeypatch.setattr(storage, "_read_file", replace_now_and_then)
    config, weights = read_model(model)
    assert config["kind"] == "New 5"
    assert weights["w"].item() == 5
