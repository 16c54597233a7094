import re
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from multilabelkit import features as module
from multilabelkit.data.feature_store import FolderStore, MemoryStore
from multilabelkit.data.images import InputSpec, encode_png
from multilabelkit.data.loading import PixelReader, iterate_evaluation
from multilabelkit.errors import ImageDecodeError, InputError
from multilabelkit.features import compute_features
from multilabelkit.inference import embed
from multilabelkit.nn.network import Network

CPU = torch.device("cpu")
SPEC = InputSpec(28, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.fixture(autouse=True)
def keep_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "cache"))
    yield
    MemoryStore.clear()


@pytest.fixture
def network(tiny_network):
    return Network(nn.Sequential(*tiny_network, nn.BatchNorm2d(16), nn.Dropout(0.5)), None)


@pytest.fixture
def encoded(shapes):
    return [encode_png(image) for image in shapes.images[:20]]


@pytest.fixture
def forward_passes(monkeypatch):
    """The sizes of all batches that a network saw."""
    sizes = []
    convert = module.extract_features.__globals__["to_network_input"]

    def note(pixels, *args, **kwargs):
        sizes.append(tuple(pixels.shape))
        return convert(pixels, *args, **kwargs)

    monkeypatch.setitem(module.extract_features.__globals__, "to_network_input", note)
    return sizes


class TokenHead(nn.Module):
    input_kind = "tokens"


def create_reader(sources, *, size=32, **options):
    return PixelReader(list(sources), size=size, color_mode="rgb", **options)


def compute(network, sources, *, feature_cache="memory", **options):
    reader = sources if isinstance(sources, PixelReader) else create_reader(sources)
    defaults = {"spec": SPEC, "device": CPU, "dtype": torch.float32, "batch_size": 6, "num_workers": 0}
    return compute_features(lambda: network, reader, feature_cache=feature_cache, **{**defaults, **options})


def compute_plainly(network, images, *, kind="pooled"):
    """Compute as a person would: one image at a time."""
    rows = []
    for image in images:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        small = nn.functional.interpolate(pixels, (28, 28), mode="bilinear", antialias=True).double()
        mean, std = (torch.tensor(values, dtype=torch.double)[:, None, None] for values in (SPEC.mean, SPEC.std))
        maps = network.backbone.eval()(((small / 255 - mean) / std).float())[0].detach()
        rows.append(maps.mean(dim=(1, 2)) if kind == "pooled" else maps.flatten(1).T)
    return torch.stack(rows).numpy()


CACHES = ["auto", "memory", "path", None]


@pytest.fixture(params=CACHES, ids=str)
def feature_cache(request, tmp_path):
    return tmp_path / "mine" if request.param == "path" else request.param


@pytest.mark.parametrize("flip", [False, True])
def test_compute_features_equals_a_plain_loop(network, shapes, feature_cache, flip):
    expected = compute_plainly(network, [image[:, ::-1] if flip else image for image in shapes.images])
    for _ in range(2):
        result = compute(network, shapes.images, feature_cache=feature_cache, flip=flip)
        assert result.dtype == np.float32
        assert result.shape == (48, 16)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_compute_features_gives_tokens_to_a_head_that_wants_them(network, shapes, feature_cache):
    network.head = TokenHead()
    expected = compute_plainly(network, shapes.images[:9], kind="tokens")
    for _ in range(2):
        result = compute(network, shapes.images[:9], feature_cache=feature_cache)
        assert result.shape == (9, 36, 16)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_features_are_those_of_embed(network, shapes):
    reader = create_reader(shapes.images, size=28)
    batches = iterate_evaluation(reader, batch_size=6, num_workers=0)
    expected = embed(network, batches, spec=SPEC, device=CPU, dtype=torch.float32)
    np.testing.assert_array_equal(compute(network, reader), expected)


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_features_of_an_image_do_not_depend_on_the_others(network, encoded, feature_cache, dtype, num_workers):
    options = {"dtype": dtype, "num_workers": num_workers}
    expected = compute(network, encoded, feature_cache=None, dtype=dtype)
    order = np.random.default_rng(0).permutation(20)
    for rows in ([3], order[:5], order[5:12], order, order[::-1], [7, 7, 1, 7]):
        result = compute(network, [encoded[row] for row in rows], feature_cache=feature_cache, **options)
        np.testing.assert_array_equal(result, expected[list(rows)])


def test_only_missing_images_are_decoded_and_computed(network, encoded, feature_cache, forward_passes):
    compute(network, encoded[:8], feature_cache=feature_cache)
    forward_passes.clear()
    for sources, n_missing, n_batches in [(encoded, 12, 2), (encoded[::-1], 0, 0), (encoded[3:9], 0, 0)]:
        reader = create_reader(sources)
        compute(network, reader, feature_cache=feature_cache)
        uncached = feature_cache is None
        assert reader.n_decoded == (len(sources) if uncached else n_missing)
        assert forward_passes == [(6, 28, 28, 3)] * (-(-len(sources) // 6) if uncached else n_batches)
        forward_passes.clear()


def test_images_of_one_content_are_computed_once(network, encoded, tmp_path, forward_passes):
    path = tmp_path / "a.png"
    path.write_bytes(encoded[0])
    reader = create_reader([encoded[0], path, str(path), bytearray(encoded[0]), encoded[1]])
    result = compute(network, reader)
    assert reader.n_decoded == 2
    assert len(forward_passes) == 1
    np.testing.assert_array_equal(result[:4], result[:1].repeat(4, axis=0))


def test_images_in_memory_are_found_by_their_pixels(network, shapes, forward_passes):
    image = shapes.images[0]
    forms = [image, Image.fromarray(image), torch.from_numpy(image), torch.from_numpy(image).permute(2, 0, 1)]
    results = [compute(network, [form]) for form in forms]
    assert len(forward_passes) == 1
    assert all(np.array_equal(result, results[0]) for result in results)
    compute(network, [image.transpose(1, 0, 2)])
    assert len(forward_passes) == 2


def test_file_that_changed_is_computed_anew_whatever_its_date(network, encoded, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded[0])
    status = path.stat()
    before = compute(network, [path])
    path.write_bytes(encoded[1])
    module.os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = compute(network, [path])
    np.testing.assert_array_equal([before[0], after[0]], compute(network, encoded[:2], feature_cache=None))


def test_file_that_changes_while_it_is_read_is_not_kept(network, encoded, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded[0])
    reader = create_reader([path])
    read = reader.read

    def change(row):
        path.write_bytes(encoded[1])
        return read(row)

    reader.read = change
    after = compute(network, reader)
    expected = compute(network, encoded[:2], feature_cache=None)
    np.testing.assert_array_equal(after[0], expected[1])
    np.testing.assert_array_equal(compute(network, encoded[:2]), expected)


@pytest.mark.parametrize(
    "other",
    [
        {"spec": InputSpec(28, 3, (0.4, 0.5, 0.7), (0.2, 0.3, 0.4))},
        {"spec": InputSpec(24, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))},
        {"dtype": torch.bfloat16},
        {"batch_size": 7},
        {"flip": True},
        {"size": 33},
        {"resize": "pad"},
        {"max_pixels": 10**6},
        {"decoder": "pillow"},
    ],
    ids=str,
)
def test_what_is_computed_otherwise_is_not_mixed_up(network, encoded, forward_passes, other):
    other = dict(other)
    compute(network, encoded[:3])
    reader_options = {name: other.pop(name) for name in ("size", "resize", "max_pixels", "decoder") if name in other}
    for _ in range(2):
        result = compute(network, create_reader(encoded[:3], **reader_options), **other)
        assert len(forward_passes) == 2
    expected = compute(network, create_reader(encoded[:3], **reader_options), feature_cache=None, **other)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.backbone[0].weight.data.mul_(2),
        lambda network: network.backbone[4].running_mean.add_(1),
        lambda network: network.backbone.insert(1, nn.Tanh()),
        lambda network: setattr(network, "head", TokenHead()),
        lambda network: torch.set_num_threads(torch.get_num_threads() + 1),
    ],
    ids=["weights", "statistics", "layers", "kind", "threads"],
)
def test_features_of_another_network_are_not_mixed_up(network, encoded, forward_passes, change):
    n_threads = torch.get_num_threads()
    compute(network, encoded[:3])
    change(network)
    try:
        result = compute(network, encoded[:3])
        assert len(forward_passes) == 2
        np.testing.assert_array_equal(result, compute(network, encoded[:3], feature_cache=None))
    finally:
        torch.set_num_threads(n_threads)


def test_head_has_no_part_in_features(network, encoded, forward_passes):
    compute(network, encoded[:3])
    network.head = nn.Linear(16, 2)
    compute(network, encoded[:3])
    assert len(forward_passes) == 1


@pytest.mark.parametrize("training", [True, False])
def test_network_keeps_its_mode(network, encoded, training):
    network.train(training)
    for _ in range(2):
        compute(network, encoded[:3])
        assert all(part.training is training for part in network.modules())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_that_cannot_be_read_raises_as_without_a_cache(network, encoded, feature_cache, num_workers):
    sources = [*encoded[:9], b"no image", *encoded[9:]]
    for _ in range(2):
        with pytest.raises(
            ImageDecodeError, match=r"^Cannot decode the image <bytes>: it is not an image of a format "
        ):
            compute(network, sources, feature_cache=feature_cache, num_workers=num_workers)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit")]
    expected = compute(network, encoded, feature_cache=None)
    np.testing.assert_array_equal(compute(network, encoded, feature_cache=feature_cache), expected)


def test_missing_file_raises_as_without_a_cache(network):
    with pytest.raises(ImageDecodeError, match=whole("Cannot decode the image absent.png: the file does not exist.")):
        compute(network, ["absent.png"])


def test_bad_image_read_as_black_is_noted_every_time(network, encoded):
    for _ in range(2):
        reader = create_reader([b"no image", encoded[0], "absent.png", b"no image"], keep_bad=True)
        result = compute(network, reader)
        assert sorted(reader.failures) == [0, 2, 3]
        np.testing.assert_array_equal(result[0], result[3])
    good = compute(network, encoded[:1], feature_cache=None)
    np.testing.assert_array_equal(result[1], good[0])


def test_what_was_computed_before_an_error_is_kept(network, encoded, monkeypatch):
    monkeypatch.setattr(module, "_PART_IMAGES", 7)  # parts of one batch, of six
    with pytest.raises(ImageDecodeError):
        compute(network, [*encoded[:14], b"no image"])
    reader = create_reader(encoded)
    np.testing.assert_array_equal(compute(network, reader), compute(network, encoded, feature_cache=None))
    assert reader.n_decoded == 20 - 12


def test_all_fits_of_the_process_share_the_memory(network, encoded, forward_passes):
    compute(network, encoded[:6])
    copy = Network(nn.Sequential(*network.backbone), None)
    copy.load_state_dict(network.state_dict())
    compute(copy, encoded[:6])
    assert len(forward_passes) == 1


def test_damaged_file_is_computed_anew(network, encoded, tmp_path, forward_passes):
    expected = compute(network, encoded, feature_cache=tmp_path)
    (path,) = tmp_path.rglob("*.features")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    forward_passes.clear()
    reader = create_reader(encoded)
    np.testing.assert_array_equal(compute(network, reader, feature_cache=tmp_path), expected)
    assert reader.n_decoded == len(forward_passes) == 1


def test_users_folder_that_cannot_be_written_keeps_nothing(network, encoded, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        reader = create_reader(encoded)
        np.testing.assert_array_equal(
            compute(network, reader, feature_cache="auto"), compute(network, encoded, feature_cache=None)
        )
        assert reader.n_decoded == 20


def test_users_folder_that_fails_later_keeps_nothing(network, encoded, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(FolderStore, "_write", fail)
    result = compute(network, encoded, feature_cache="auto")
    np.testing.assert_array_equal(result, compute(network, encoded, feature_cache=None))


def test_callers_folder_that_cannot_be_made_is_refused(network, encoded, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InputError, match=rf"^The feature cache cannot be kept in '{re.escape(str(path))}': .*None\.$"):
        compute(network, encoded, feature_cache=path)


def test_network_without_a_fingerprint_is_computed_each_time(network, encoded, feature_cache, forward_passes):
    network.backbone.lock = threading.Lock()
    for _ in range(2):
        forward_passes.clear()
        result = compute(network, encoded[:6], feature_cache=feature_cache)
        np.testing.assert_array_equal(result, compute(network, encoded[:6], feature_cache=None))
        assert len(forward_passes) == 2


def test_network_that_fails_leaves_no_thread(network, encoded):
    def fail(images):
        raise KeyboardInterrupt

    network.compute_features = fail
    with pytest.raises(KeyboardInterrupt):
        compute(network, encoded, num_workers=2, batch_size=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit")]
