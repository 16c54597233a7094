import ast
import copy
import inspect
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import timm
import torch
from PIL import Image
from sklearn.base import TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import estimator_checks, get_tags
from torch import nn

import multilabelkit
from multilabelkit.data.feature_store import MemoryStore
from multilabelkit.data.file_digests import identify_file
from multilabelkit.embedder import ImageEmbedder
from multilabelkit.errors import ImageDecodeError, InputError, MultiLabelKitWarning
from multilabelkit.nn.backbones import PlainCNN
from multilabelkit.nn.network import Network

UNKNOWN_FORMAT = "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"
SETTINGS = {"image_size": 32, "num_workers": 0, "precision": "fp32", "batch_size": 8, "random_state": 0}
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_transformers_unfitted",
    "check_get_feature_names_out_error",
]


class Blocks(nn.Module):
    """A backbone of one's own, which notes what it is given."""

    def __init__(self, *, output="maps"):
        super().__init__()
        self.convolution, self.norm, self.output = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), output
        self.pair, self.unused = Pair(), nn.Linear(2, 2)

    def forward(self, images):
        maps = self.norm(self.convolution(images)).relu()
        self.pair(maps)
        return maps if self.output == "maps" else maps.flatten(2).transpose(1, 2)


class Pair(nn.Module):
    def forward(self, maps):
        return maps, maps


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread; the number decides rounding errors, and so which features are found."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def keep_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path / "cache"))
    yield
    MemoryStore.clear()


@pytest.fixture
def images(shapes):
    return list(shapes.images[:20])


@pytest.fixture
def paths(images, tmp_path):
    """PNG files of 20 images, an hour old."""
    names = [tmp_path / f"{row:02}.png" for row in range(20)]
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(name)
        os.utime(name, (1e9, 1e9))
    return [str(name) for name in names]


@pytest.fixture
def count_passed():
    """Counts the images that a backbone has seen, without the black ones that fill up batches or that fit tries."""
    counts = []

    def note(module, inputs, output):
        if isinstance(module, (PlainCNN, Blocks)):
            counts.append(int((inputs[0].flatten(1).std(dim=1) > 0).sum()))

    handle = nn.modules.module.register_module_forward_hook(note)
    yield lambda: sum(counts)
    handle.remove()


@pytest.fixture
def settled_at_once(monkeypatch):
    """Files that have just changed are too young to be told by their dates; the tests would not reach that shortcut."""
    monkeypatch.setattr("multilabelkit.data.file_digests._SETTLED_NS", -1)


def create_embedder(backbone="plain_cnn", **params):
    return ImageEmbedder(backbone, **(SETTINGS | params))


def compute_plainly(backbone, images, *, mean=0.0, std=1.0):
    """Run a network as a person would: one image at a time."""
    rows = []
    for image in images:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].double()
        with torch.no_grad():
            rows.append(backbone.eval()(((pixels / 255 - mean) / std).float())[0])
    return torch.stack(rows).numpy()


def read_section(name):
    """Return {name: type} of one section of the numpydoc docstring."""
    body = re.search(
        rf"^{name}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", inspect.getdoc(ImageEmbedder), re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r"^(\w+) : (.*)$", body.group(1), re.MULTILINE))


# What the features are.


def test_features_are_those_of_a_plain_loop(images):
    embedder = create_embedder(normalization=(0.4, 0.2))
    features = embedder.fit_transform(images)
    expected = compute_plainly(copy.deepcopy(embedder.network_.backbone), images, mean=0.4, std=0.2)
    assert (features.shape, features.dtype) == ((20, 128), np.float32)
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("output", ["maps", "tokens"])
def test_maps_and_tokens_of_an_own_module_are_averaged(output, images):
    backbone = Blocks(output=output)
    expected = compute_plainly(copy.deepcopy(backbone), images)
    expected = expected.mean(axis=(2, 3)) if output == "maps" else expected.mean(axis=1)
    np.testing.assert_allclose(create_embedder(backbone).fit_transform(images), expected, atol=1e-5)


def test_pretrained_features_are_those_of_timm(shared_data):
    weights = shared_data / "weights" / "mobilenetv2_100_in1k.safetensors"
    network = timm.create_model("mobilenetv2_100", pad_type="same", checkpoint_path=str(weights)).eval()
    paths = sorted((shared_data / "data" / "miml" / "images").glob("*.jpg"))[:4]
    pixels = torch.stack(
        [torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((64, 64)))) for path in paths]
    )
    with torch.no_grad():
        images = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        expected = network.forward_head(network.forward_features(images), pre_logits=True).numpy()
    options = {"pretrained": weights, "backbone_params": {"pad_type": "same"}, "normalization": (0.5, 0.5)}
    features = create_embedder("mobilenetv2_100", **options | {"image_size": 64}).fit_transform(list(pixels))
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_layer_gives_what_a_hook_on_it_gives_averaged_over_places(images):
    embedder = create_embedder("resnet18", pretrained=False, normalization="unit").fit(images)
    network, outputs = copy.deepcopy(embedder.network_.backbone), []
    network.layer2[0].conv1.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    compute_plainly(network, images)
    expected = torch.cat(outputs).mean(dim=(2, 3)).numpy()
    embedder.set_params(layer="layer2.0.conv1")
    features = embedder.fit_transform(images)
    assert embedder.n_features_out_ == 128
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_features_do_not_depend_on_other_images(images):
    embedder = create_embedder(feature_cache=None).fit(images)
    features = embedder.transform(images)
    np.testing.assert_array_equal(embedder.transform(images[::-1])[::-1], features)
    np.testing.assert_array_equal(embedder.transform(images[7:8]), features[7:8])


@pytest.mark.parametrize(
    "convert",
    [np.array, lambda X: [Image.fromarray(x) for x in X], lambda X: pd.Series(X, index=range(9, 29)), tuple],
    ids=["array", "PIL", "Series", "tuple"],
)
def test_features_do_not_depend_on_the_container(convert, images):
    np.testing.assert_array_equal(
        create_embedder().fit_transform(convert(images)), create_embedder().fit_transform(images)
    )


def test_fit_works_on_a_copy_of_an_own_module(images):
    backbone = Blocks().train()
    before = pickle.dumps(backbone.state_dict())
    embedder = create_embedder(backbone).fit(images)
    embedder.network_.backbone.convolution.weight.data.zero_()
    assert pickle.dumps(backbone.state_dict()) == before
    assert all(part.training for part in backbone.modules())


def test_embedders_of_the_same_parameters_share_no_weights(images):
    first, second = create_embedder().fit(images), create_embedder().fit(images)
    expected = second.transform(images)
    next(first.network_.parameters()).data.zero_()
    np.testing.assert_array_equal(second.transform(images), expected)
    np.testing.assert_array_equal(create_embedder().fit_transform(images), expected)


def test_features_follow_a_change_of_the_weights(images):
    embedder = create_embedder().fit(images)
    before = embedder.transform(images)
    for weight in embedder.network_.parameters():
        weight.data.zero_()
    assert before.any()
    assert not embedder.transform(images).any()


def test_network_is_copied_only_for_who_needs_it(images, monkeypatch):
    expected = create_embedder().fit_transform(images)

    def refuse(network, memo):
        raise AssertionError("nothing needs the network")

    monkeypatch.setattr(Network, "__deepcopy__", refuse, raising=False)
    embedder = create_embedder().fit(images)
    np.testing.assert_array_equal(embedder.transform(images), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(images), expected)
    monkeypatch.undo()
    assert embedder.network_ is embedder.network_
    assert embedder.network_ is not create_embedder().fit(images).network_


def test_random_weights_follow_random_state_and_leave_the_callers_numbers_alone(images):
    before = torch.get_rng_state()
    for other in (create_embedder(), create_embedder(random_state=np.random.RandomState(0))):
        np.testing.assert_array_equal(other.fit_transform(images), create_embedder().fit_transform(images))
    for other in (create_embedder(random_state=1), create_embedder(random_state=None)):
        assert not np.array_equal(other.fit_transform(images), create_embedder().fit_transform(images))
    assert torch.equal(torch.get_rng_state(), before)


# The cache.


@pytest.mark.parametrize("feature_cache", ["auto", "memory", "path"])
def test_images_are_computed_once_for_all_clones_and_folds(feature_cache, paths, tmp_path, count_passed):
    embedder = create_embedder(feature_cache=tmp_path / "mine" if feature_cache == "path" else feature_cache)
    embedder.fit(paths)
    assert count_passed() == 0
    expected = embedder.transform(paths)
    assert count_passed() == 20
    for rows in (slice(None), slice(3, 9), slice(None, None, -2)):
        np.testing.assert_array_equal(clone(embedder).fit_transform(paths[rows]), expected[rows])
    assert count_passed() == 20


def test_without_a_cache_each_transform_computes(paths, count_passed):
    embedder = create_embedder(feature_cache=None).fit(paths)
    embedder.transform(paths)
    embedder.transform(paths)
    assert count_passed() == 40


def test_clones_of_an_own_module_share_the_cache(paths, count_passed):
    embedder = create_embedder(Blocks())
    expected = embedder.fit_transform(paths)
    np.testing.assert_array_equal(clone(embedder).fit_transform(paths), expected)
    assert count_passed() == 20


def test_another_process_computes_nothing(paths, tmp_path):
    embedder = create_embedder("resnet18", pretrained=False).fit(paths)
    np.save(tmp_path / "expected.npy", embedder.transform(paths))
    (tmp_path / "embedder.pickle").write_bytes(pickle.dumps((embedder, paths)))
    code = (
        "import pickle, sys, numpy, torch\n"
        "torch.set_num_threads(1)\n"
        "embedder, paths = pickle.load(open('embedder.pickle', 'rb'))\n"
        "def refuse(*args): sys.exit('an image passed the network')\n"
        "embedder.network_.embed = refuse\n"
        "print((embedder.transform(paths) == numpy.load('expected.npy')).all())\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(multilabelkit.__file__).parents[1])},
        timeout=120,
    )
    assert (finished.returncode, finished.stdout) == (0, "True\n"), finished.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 24},
        {"resize": "pad"},
        {"normalization": (0.5, 0.5)},
        {"color_mode": "grey"},
        {"layer": "layers.3"},
        {"random_state": 1},
        {"batch_size": 4},
        {"precision": "bf16"},
        {"decoder": "pillow"},
    ],
    ids=str,
)
def test_what_changes_the_features_computes_them_anew(change, paths, count_passed):
    create_embedder().fit_transform(paths)
    features = create_embedder(**change).fit_transform(paths)
    assert count_passed() == 40
    np.testing.assert_array_equal(features, create_embedder(**change, feature_cache=None).fit_transform(paths))


def test_other_weights_in_the_checkpoint_compute_anew(paths, tmp_path, count_passed, settled_at_once):
    weights, options = tmp_path / "weights.pt", {"pretrained": tmp_path / "weights.pt"}
    results = []
    for seed in (0, 1):
        torch.save(create_embedder(random_state=seed).fit(paths).network_.backbone.state_dict(), weights)
        os.utime(weights, (1e9, 1e9))
        results.append(create_embedder(**options, random_state=None).fit_transform(paths))
    assert count_passed() == 40
    np.testing.assert_array_equal(results[1], create_embedder(random_state=1).fit_transform(paths))
    assert not np.array_equal(*results)


def test_changed_file_of_the_same_size_and_date_is_computed_anew(tmp_path, count_passed, settled_at_once):
    path, embedder = tmp_path / "a.bmp", create_embedder()
    pictures = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in (0, 1)]
    results, statuses = [], []
    for pixels in pictures:
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(10**18, 10**18))
        assert sys.platform == "win32" or identify_file(path) is not None
        results += [embedder.fit_transform([path]), embedder.transform([path])]
        statuses.append(path.stat())
    assert statuses[0].st_size == statuses[1].st_size
    assert statuses[0].st_mtime_ns == statuses[1].st_mtime_ns
    assert count_passed() == 2
    np.testing.assert_array_equal(results[3], create_embedder(feature_cache=None).fit_transform([pictures[1]]))


# Within scikit-learn.


@pytest.fixture
def data(paths, shapes):
    return paths, shapes.target.to_numpy()[:20]


def create_linear():
    return OneVsRestClassifier(LogisticRegression())


def test_cross_val_score_equals_a_loop_by_hand(data, count_passed):
    X, y = data
    scores = cross_val_score(make_pipeline(create_embedder(), create_linear()), X, y, scoring="accuracy", cv=4)
    assert count_passed() == 20
    features = create_embedder(feature_cache=None).fit_transform(X)
    expected = [
        accuracy_score(y[test], create_linear().fit(features[train], y[train]).predict(features[test]))
        for train, test in KFold(4).split(X)
    ]
    assert scores.tolist() == expected


def test_grid_search_passes_each_image_through_the_network_once(data, count_passed):
    grid = {"onevsrestclassifier__estimator__C": np.logspace(-3, 2, 6)}
    search = GridSearchCV(make_pipeline(create_embedder(), create_linear()), grid, scoring="accuracy", cv=5)
    search.fit(*data)
    assert search.predict(data[0]).shape == (20, 3)
    assert count_passed() == 20


def test_two_processes_give_the_same_scores(data):
    pipeline = make_pipeline(create_embedder(), create_linear())
    alone, parallel = (cross_val_score(pipeline, *data, scoring="accuracy", cv=2, n_jobs=n) for n in (1, 2))
    np.testing.assert_array_equal(parallel, alone)


def test_feature_union_of_two_backbones_puts_them_side_by_side(images):
    union = FeatureUnion([("plain", create_embedder()), ("own", create_embedder(Blocks(), layer="norm"))])
    features = union.fit_transform(images)
    assert features.shape == (20, 136)
    np.testing.assert_array_equal(features[:, :128], create_embedder().fit_transform(images))
    assert union.get_feature_names_out()[[0, 128, 135]].tolist() == [
        "plain__plain_cnn_0",
        "own__blocks_norm_0",
        "own__blocks_norm_7",
    ]


def test_set_output_gives_a_table_with_the_rows_of_the_input(images):
    embedder = create_embedder().set_output(transform="pandas")
    table = embedder.fit_transform(pd.DataFrame({"image": images}, index=range(50, 70)))
    assert table.columns.tolist() == [f"plain_cnn_{number}" for number in range(128)]
    assert table.index.tolist() == list(range(50, 70))
    assert set(table.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(table, create_embedder().fit_transform(images))


def test_feature_names_of_a_function_are_its_own(images):
    def create_blocks():
        return Blocks()

    assert create_embedder(create_blocks).fit(images).get_feature_names_out()[7] == "create_blocks_7"


def test_pickle_keeps_the_features(images):
    embedder = create_embedder(feature_cache=None).fit(images)
    copied = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(copied.transform(images), embedder.transform(images))
    assert copied.get_params() == embedder.get_params()


@pytest.mark.parametrize("check", CHECKS)
def test_check_of_sklearn_passes(check):
    run_check = getattr(estimator_checks, check, None)
    if run_check is None:
        pytest.skip(f"scikit-learn {sklearn.__version__} has no {check}")
    run_check("ImageEmbedder", create_embedder())


def test_tags_say_images_in(images):
    tags = get_tags(create_embedder())
    inputs = tags.input_tags
    assert (inputs.string, inputs.three_d_array, inputs.two_d_array) == (True, True, False)
    assert (tags.requires_fit, tags.target_tags.required, tags.transformer_tags is None) == (True, False, False)
    assert issubclass(ImageEmbedder, TransformerMixin)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"backbone": "small_cnn"}, True),
        ({"backbone": "small_cnn", "random_state": 0}, False),
        ({"backbone": "resnet18"}, False),
        ({"backbone": "resnet18", "pretrained": False}, True),
        ({"backbone": "resnet18", "pretrained": "a.pt"}, False),
        ({"backbone": Blocks()}, False),
        ({"backbone": Blocks}, True),
    ],
    ids=str,
)
def test_tags_say_whether_two_fits_agree(params, expected):
    assert get_tags(ImageEmbedder(**params)).non_deterministic is expected


def test_every_parameter_is_documented_with_its_default():
    documented, signature = read_section("Parameters"), inspect.signature(ImageEmbedder).parameters
    assert list(documented) == list(signature)
    for name, parameter in signature.items():
        assert ast.literal_eval(documented[name].split("default=")[1]) == parameter.default, name


def test_fitted_attributes_are_the_documented_ones(images):
    embedder = create_embedder().fit(images)
    embedder.transform(images)
    fitted = {"network_" if name == "_model" else name for name in vars(embedder)}
    assert fitted - set(embedder.get_params()) == set(read_section("Attributes"))


# What is refused.


@pytest.mark.parametrize("name", sorted(ImageEmbedder().get_params()))
def test_every_parameter_is_checked_when_fit_starts(name, images):
    embedder = create_embedder().set_params(**{name: np.array([[-1.5, np.nan]], dtype=object)})
    with pytest.raises(InputError, match=f"^The {name!r} parameter of ImageEmbedder must be "):
        embedder.fit(images)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"normalization": "dataset"},
            "The 'normalization' parameter of ImageEmbedder must be 'pretrained' or 'unit', or a pair (mean, std) with "
            "std > 0. Got 'dataset' instead.",
        ),
        (
            {"on_bad_image": "skip"},
            "The 'on_bad_image' parameter of ImageEmbedder must be 'raise' or 'nan'. Got 'skip' instead.",
        ),
        (
            {"batch_size": None},
            "The 'batch_size' parameter of ImageEmbedder must be an integer >= 1. Got None instead.",
        ),
        (
            {"layer": 3},
            "The 'layer' parameter of ImageEmbedder must be None or the name of a layer of the backbone. "
            "Got 3 instead.",
        ),
        (
            {"layer": "layer.3"},
            "The backbone has no layer 'layer.3'. Did you mean 'layers.3' or 'layers.13' or 'layers.9'? Its parts are "
            "['layers']; network_.backbone.named_modules() of an embedder fitted with layer=None lists all that is in "
            "them.",
        ),
        (
            {"backbone": Blocks(), "layer": "pair"},
            "The layer 'pair' of the backbone must give features (B, F), tokens (B, N, F) or maps (B, F, h, w). For 1 "
            "image(s) it gave tuple; choose another layer.",
        ),
        (
            {"backbone": Blocks(), "layer": "unused"},
            "The layer 'unused' of the backbone must give features (B, F), tokens (B, N, F) or maps (B, F, h, w). For "
            "1 image(s) it gave nothing, for it is not run; choose another layer.",
        ),
        (
            {"backbone": "qqq"},
            "The backbone 'qqq' is unknown. "
            "Use 'small_cnn', 'plain_cnn', a name from timm.list_models(), or your own torch.nn.Module.",
        ),
        (
            {"backbone": "resnet18", "backbone_params": {"num_classes": 3}},
            "backbone_params must not hold 'num_classes': the embedder sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'.",
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_wrong_parameter_says_what_to_do(params, message, images):
    with pytest.raises(InputError, match=whole(message)):
        create_embedder(**params).fit(images)


def test_folder_of_the_cache_that_cannot_be_made_is_refused_by_fit(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^The feature cache cannot be kept in '.*file': .* 'memory' or None\.$"):
        create_embedder(feature_cache=tmp_path / "file").fit(images)


@pytest.mark.parametrize("method", ["fit", "transform"])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "X is empty; pass at least one image."),
        ("a.jpg", "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg']."),
        (
            np.zeros((8, 9, 3)),
            "X is a single image, an array of shape (8, 9, 3); pass a list of images: [image] or image[None].",
        ),
        (
            {"a": 1},
            "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas "
            "column. Got dict instead.",
        ),
    ],
    ids=["empty", "path", "image", "dict"],
)
def test_wrong_images_are_refused_as_by_the_classifier(method, X, message, images):
    embedder = create_embedder().fit(images)
    with pytest.raises(InputError, match=whole(message)):
        getattr(embedder, method)(X)


@pytest.mark.parametrize("method", ["transform", "get_feature_names_out"])
def test_unfitted_embedder_says_so(method, images):
    with pytest.raises(NotFittedError, match=r"^This ImageEmbedder instance is not fitted yet\. Call 'fit' with "):
        getattr(create_embedder(), method)(images)


@pytest.mark.parametrize("bad", [["absent.png", b"no image"], [b"no image"]], ids=["two", "one"])
def test_bad_images_are_all_listed(bad, images):
    embedder, n_images = create_embedder().fit(images), 20 + len(bad)
    end = "or set on_bad_image='nan' to have rows of NaN for what is bad."
    if len(bad) == 2:
        message = (
            f"Cannot decode 2 of {n_images} images in X; the first is 'absent.png' at row 20: the file does not exist. "
            f"Repair or remove them (all are listed in error.paths and error.rows), {end}"
        )
    else:
        message = (
            f"Cannot decode 1 of {n_images} images in X: '<bytes>' at row 20: {UNKNOWN_FORMAT}. Repair or remove it, "
            f"{end}"
        )
    for _ in range(2):  # the second time, the others are in the cache
        with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
            embedder.transform([*images, *bad])
        assert caught.value.rows == tuple(range(20, n_images))


def test_bad_images_have_rows_of_nan_if_wanted(images):
    embedder = create_embedder(on_bad_image="nan").fit(images)
    message = (
        f"Cannot decode 2 of 22 images in X; the first is '<bytes>' at row 0: {UNKNOWN_FORMAT}. Their rows are NaN, as "
        "on_bad_image='nan' asks. Others: 'absent.png'."
    )
    for _ in range(2):
        with pytest.warns(MultiLabelKitWarning, match=whole(message)):
            features = embedder.transform([b"no image", *images, "absent.png"])
        assert np.isnan(features[[0, 21]]).all()
        np.testing.assert_array_equal(features[1:21], create_embedder(feature_cache=None).fit_transform(images))
