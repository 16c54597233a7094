"""What scikit-learn asks of every classifier, asked of the one whose input is images.

`check_estimator` runs a single check on an estimator that takes no 2-D array, so a green run of it says nothing here.
The checks of scikit-learn that need no data are called by name; the others make tables of numbers, and are ported
below to pictures, under the name of the check they stand for.
"""

import ast
import inspect
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks, estimator_html_repr, get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from multilabelkit import MultiLabelImageClassifier, as_indicator, as_labels
from multilabelkit.errors import InputError

DATA_FREE = [
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
]
# These pass numbers as X, and are content with an error: NotFittedError, or a ValueError for the numbers.
REFUSALS = ["check_estimators_unfitted", "check_fit1d", "check_supervised_y_no_nan"]
# These look at the tags or for an attribute, and find nothing to do; they must not begin to fail.
IDLE = [
    "check_n_features_in_after_fitting",
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_non_transformer_estimators_n_iter",
]
PREDICTIONS = ["predict", "predict_proba", "decision_function", "predict_labels"]
SETTINGS = {"image_size": 32, "max_epochs": 2, "batch_size": 8, "num_workers": 0, "verbose": 0, "random_state": 0}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread; bits are compared between fits on the same number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(shapes):
    return list(shapes.images), shapes.target


@pytest.fixture(scope="module")
def fitted(data):
    """A fitted classifier; tests that change it take a copy."""
    return create_classifier(precision="fp32").fit(*data)


def create_classifier(backbone="small_cnn", **params):
    # Half of the images validate, so that no class has so few positives there that fit would warn.
    return MultiLabelImageClassifier(backbone, **({"validation_fraction": 0.5} | SETTINGS | params))


def read_state(classifier):
    """Return everything a fit has decided, as plain values that can be compared bit by bit."""
    history = [{name: value for name, value in row.items() if "second" not in name} for row in classifier.history_]
    weights = {name: tensor.tolist() for name, tensor in classifier.network_.state_dict().items()}
    return weights, classifier.thresholds_.tolist(), classifier.classes_.tolist(), str(history)


def read_section(name):
    """Return {name: type} of one section of the numpydoc docstring."""
    text = inspect.getdoc(MultiLabelImageClassifier)
    body = re.search(rf"^{name}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE).group(1)
    return dict(re.findall(r"^(\w+) : (.*)$", body, re.MULTILINE))


# ---- scikit-learn's own checks


@pytest.mark.parametrize("check", DATA_FREE + REFUSALS + IDLE)
def test_check_of_sklearn_passes(check):
    run_check = getattr(estimator_checks, check, None)
    if run_check is None:
        pytest.skip(f"scikit-learn {sklearn.__version__} has no {check}")
    run_check("MultiLabelImageClassifier", create_classifier(max_epochs=1))


def test_check_estimator_runs_one_check_alone_on_image_input():
    with pytest.warns(estimator_checks.SkipTestWarning, match="Can't test estimator MultiLabelImageClassifier"):
        results = check_estimator(create_classifier())
    assert [(result["check_name"], result["status"]) for result in results] == [("check_estimator_cloneable", "passed")]


def test_every_check_of_sklearn_called_here_has_another_name():
    names = DATA_FREE + REFUSALS + IDLE
    assert len(set(names)) == len(names) == 17


# ---- parameters


def test_get_params_returns_what_set_params_set():
    classifier = MultiLabelImageClassifier()
    values = {name: object() for name in classifier.get_params()}
    assert classifier.set_params(**values) is classifier
    assert classifier.get_params() == values
    assert MultiLabelImageClassifier(**values).get_params() == values


def test_init_only_assigns():
    values = {name: object() for name in inspect.signature(MultiLabelImageClassifier).parameters}
    assert vars(MultiLabelImageClassifier(**values)) == values


def test_clone_of_a_fitted_classifier_is_unfitted_with_the_same_parameters(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert vars(copy).keys() == copy.get_params().keys()


def test_clone_copies_a_network_given_as_backbone():
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    assert clone(create_classifier(backbone)).backbone is not backbone


def test_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="Invalid parameter 'epochs' for estimator"):
        create_classifier().set_params(epochs=3)


@pytest.mark.parametrize("name", sorted(MultiLabelImageClassifier().get_params()))
def test_check_param_validation(name, data):
    """Every parameter is checked when fit starts, not before, and the error names it."""
    classifier = create_classifier().set_params(**{name: np.array([[-1.5, np.nan]], dtype=object)})
    with pytest.raises(InputError, match=name):
        classifier.fit(*data)


@pytest.mark.parametrize("backbone", ["small_cnn", "module"])
def test_check_dont_overwrite_parameters(backbone, data):
    """Fit changes no parameter, not even the weights of a network given as backbone."""
    if backbone == "module":
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = create_classifier(backbone, backbone_params=None if isinstance(backbone, nn.Module) else {})
    before = classifier.get_params()
    frozen = pickle.dumps(before)
    classifier.fit(*data)
    assert all(value is before[name] for name, value in classifier.get_params().items())
    assert pickle.dumps(classifier.get_params()) == frozen


def test_every_parameter_is_documented_with_its_default():
    documented = read_section("Parameters")
    signature = inspect.signature(MultiLabelImageClassifier).parameters
    assert list(documented) == list(signature)
    for name, parameter in signature.items():
        default = documented[name].split("default=")[1]
        assert ast.literal_eval(default) == parameter.default, name


# ---- tags, representation


def test_tags_say_images_in_and_label_sets_out():
    tags = get_tags(create_classifier())
    assert tags.estimator_type == "classifier"
    assert tags.requires_fit
    assert (tags.classifier_tags.multi_label, tags.classifier_tags.multi_class) == (True, False)
    target = tags.target_tags
    assert (target.required, target.multi_output, target.single_output, target.two_d_labels) == (
        True,
        True,
        False,
        True,
    )
    inputs = tags.input_tags
    assert (inputs.string, inputs.three_d_array, inputs.two_d_array) == (True, True, False)
    assert not inputs.allow_nan


def test_tags_say_whether_two_fits_agree():
    assert get_tags(create_classifier(random_state=None)).non_deterministic
    assert not get_tags(create_classifier(random_state=0)).non_deterministic


def test_sklearn_takes_it_for_a_classifier():
    assert is_classifier(create_classifier())
    assert issubclass(MultiLabelImageClassifier, (ClassifierMixin, BaseEstimator))


def test_repr_names_the_parameters_that_differ_from_their_default():
    classifier = MultiLabelImageClassifier("small_cnn", max_epochs=3)
    assert repr(classifier) == "MultiLabelImageClassifier(backbone='small_cnn', max_epochs=3)"


def test_html_repr_says_whether_it_is_fitted(fitted):
    for html, words in [
        (estimator_html_repr(create_classifier()), "Not fitted"),
        (estimator_html_repr(fitted), "Fitted"),
        (fitted._repr_mimebundle_()["text/html"], "Fitted"),
    ]:
        assert "MultiLabelImageClassifier" in html
        assert f"<span>{words}</span>" in html


# ---- fit


def test_check_estimators_fit_returns_self(data):
    classifier = create_classifier(max_epochs=1)
    assert classifier.fit(*data) is classifier


def test_check_fit_score_takes_y():
    for method in ("fit", "score", "evaluate"):
        assert list(inspect.signature(getattr(MultiLabelImageClassifier, method)).parameters)[1:3] == ["X", "y"]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_check_fit_idempotent(precision, data):
    """A second fit with the same seed gives the same bits, in the same object and in another one."""
    classifier = create_classifier(precision=precision).fit(*data)
    first = read_state(classifier)
    assert read_state(classifier.fit(*data)) == first
    assert read_state(clone(classifier).fit(*data)) == first


def test_fit_depends_on_the_seed(data, fitted):
    assert read_state(create_classifier(precision="fp32", random_state=1).fit(*data)) != read_state(fitted)


def test_fit_and_predict_leave_the_random_numbers_of_the_caller_alone(data):
    numpy_before, torch_before = pickle.dumps(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    create_classifier(max_epochs=1).fit(*data).predict(data[0])
    assert pickle.dumps(np.random.get_state()) == numpy_before  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_fitted_attributes_end_in_an_underscore_and_are_the_documented_ones(fitted):
    found = set(vars(fitted)) - set(fitted.get_params())
    assert found == set(read_section("Attributes"))
    assert all(name.endswith("_") and not name.startswith("_") for name in found)


def test_check_n_features_in_is_absent_for_images(fitted):
    assert not hasattr(fitted, "n_features_in_")
    assert not hasattr(fitted, "feature_names_in_")


def test_check_fit_check_is_fitted(fitted):
    check_is_fitted(fitted)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(fitted))


def test_check_classifiers_classes(data):
    X, Y = data
    for y, classes in [
        (as_labels(Y), ["circle", "square", "triangle"]),
        (Y[["triangle", "circle", "square"]], ["triangle", "circle", "square"]),
        (Y.to_numpy(), [0, 1, 2]),
        (Y.set_axis([7, 3, 5], axis=1), [7, 3, 5]),
    ]:
        classifier = create_classifier(max_epochs=1).fit(X, y)
        assert classifier.classes_.tolist() == classes
        assert classifier.label_binarizer_.classes_.tolist() == classes


@pytest.mark.parametrize(
    "convert",
    [
        as_labels,
        lambda Y: [set(row) for row in as_labels(Y)],
        lambda Y: pd.Series(as_labels(Y), index=range(100, 148)),
        lambda Y: [dict.fromkeys(row, 1) for row in as_labels(Y)],
        pd.DataFrame.to_numpy,
        lambda Y: Y.to_numpy().astype(bool),
        lambda Y: Y.to_numpy(np.float32) * 2 - 1,
        lambda Y: sparse.csr_array(Y.to_numpy()),
        lambda Y: torch.tensor(Y.to_numpy()),
    ],
    ids=["tuples", "sets", "Series", "dicts", "ndarray", "bool", "plus-minus", "sparse", "tensor"],
)
def test_check_classifiers_multilabel_representation_invariance(convert, data, fitted):
    """The same labels in another format give the same network."""
    other = create_classifier(precision="fp32").fit(data[0], convert(data[1]))
    assert read_state(other)[:2] == read_state(fitted)[:2]


@pytest.mark.parametrize(
    "convert",
    [np.array, np.asfortranarray, lambda X: pd.Series(X, index=range(100, 148)), torch.tensor],
    ids=["4-D", "Fortran", "Series", "tensor"],
)
def test_check_classifier_data_not_an_array(convert, data, fitted):
    """The same images in another container give the same network."""
    images = convert(data[0] if convert is not torch.tensor else np.array(data[0]))
    assert read_state(create_classifier(precision="fp32").fit(images, data[1])) == read_state(fitted)


def test_check_readonly_memmap_input(tmp_path, data, fitted):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.uint8, shape=(48, 32, 32, 3))
    X[:] = data[0]
    X.flush()
    del X
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = data[1].to_numpy()
    y.flags.writeable = False
    classifier = create_classifier(precision="fp32").fit(X, y)
    assert read_state(classifier)[:2] == read_state(fitted)[:2]
    classifier.predict(X)


def test_check_inplace_ensure_writeable(data):
    X, Y = np.array(data[0]), data[1].copy()
    create_classifier(max_epochs=1).fit(X, Y).predict(X)
    np.testing.assert_array_equal(X, np.array(data[0]))
    pd.testing.assert_frame_equal(Y, data[1])


def test_check_classifiers_one_label(data):
    X, Y = data
    classifier = create_classifier(max_epochs=1).fit(X, Y[["square"]])
    assert classifier.predict(X).shape == classifier.predict_proba(X).shape == classifier.decision_function(X).shape
    assert classifier.predict(X).shape == (48, 1)


def test_refit_on_other_classes_forgets_the_first_fit(data, fitted):
    X, Y = data
    classifier = pickle.loads(pickle.dumps(fitted)).fit(X, Y[["circle", "square"]].set_axis(["a", "b"], axis=1))
    assert classifier.classes_.tolist() == ["a", "b"]
    assert classifier.predict(X).shape == (48, 2)
    assert len(classifier.history_) == 2
    assert read_state(classifier.fit(X, Y)) == read_state(fitted)


def test_warm_fit_on_other_classes_is_refused_and_changes_nothing(data, fitted):
    X, Y = data
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(warm_start=True)
    with pytest.raises(InputError, match="'a' in column 0"):
        classifier.fit(X, Y.set_axis(["a", "b", "c"], axis=1))
    assert read_state(classifier) == read_state(fitted)


def test_warm_fit_goes_on(data, fitted):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(warm_start=True).fit(*data)
    assert len(classifier.history_) == 4


# ---- sample weights


@pytest.mark.parametrize("kind", [np.ones, lambda n: [1.0] * n, lambda n: pd.Series(np.ones(n), index=range(9, n + 9))])
def test_check_sample_weights_of_one_are_as_none(kind, data, fitted):
    classifier = create_classifier(precision="fp32").fit(*data, sample_weight=kind(48))
    assert read_state(classifier) == read_state(fitted)


def test_check_sample_weights_not_overwritten(data, fitted):
    weight = np.linspace(0, 2, 48)
    classifier = create_classifier(precision="fp32").fit(*data, sample_weight=weight)
    np.testing.assert_array_equal(weight, np.linspace(0, 2, 48))
    assert read_state(classifier) != read_state(fitted)


@pytest.mark.parametrize(
    "weight",
    [np.ones(47), np.ones((48, 2)), np.full(48, -1.0), np.full(48, np.nan)],
    ids=["short", "2-D", "negative", "nan"],
)
def test_check_sample_weights_shape_and_values(weight, data):
    with pytest.raises(InputError, match=r"sample_weight must hold one finite weight >= 0 for each of the 48 rows"):
        create_classifier().fit(*data, sample_weight=weight)


def test_check_all_zero_sample_weights_error(data):
    with pytest.raises(InputError, match=r"^sample_weight is zero for all 48 rows\."):
        create_classifier().fit(*data, sample_weight=np.zeros(48))


def test_sample_weight_of_zero_leaves_an_image_out_of_the_score(data, fitted):
    X, Y = data
    weight = np.repeat([1.0, 0.0], 24)
    assert fitted.score(X, Y, sample_weight=weight) == pytest.approx(fitted.score(X[:24], Y[:24]), abs=1e-12)


# ---- what fit refuses; a failed fit leaves a fitted classifier as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, Y: ([], Y), "X is empty; pass at least one image."),
        (lambda X, Y: (X, Y[:0]), "y is empty"),
        (lambda X, Y: (X, Y[:47]), "X and y must have the same length. Got 48 images and labels for 47."),
        (lambda X, Y: (X[:47], Y), "X and y must have the same length. Got 47 images and labels for 48."),
        (lambda X, Y: (X[0], Y), r"X is a single image, an array of shape (32, 32, 3)"),
        (lambda X, Y: (X, Y * np.nan), "y holds no known label: every cell is NaN."),
        (lambda X, Y: (X, Y.replace(1, np.inf)), "inf"),
        (lambda X, Y: (X, Y * 1j), "y"),
        (lambda X, Y: (X[:1], Y[:1]), "1 image(s) are too few to set a validation part of 0.5 aside"),
        (lambda X, Y: ([x * np.inf for x in map(np.float64, X)], Y), "a float array must hold finite values"),
        (lambda X, Y: (np.random.default_rng(0).normal(size=(48, 5)), Y), "X is a single image"),
        (lambda X, Y: (sparse.csr_array(np.eye(48)), Y), "X must be a list of paths"),
        (lambda X, Y: (X, None), "y"),
    ],
    ids=[
        *("no-X", "no-y", "short-y", "short-X", "one-image", "all-nan", "inf", "complex"),
        *("one-sample", "inf-X", "2-D-X", "sparse-X", "None"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
def test_check_bad_data_is_refused(change, message, data, fitted):
    classifier = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier.fit(*change(*data))
    assert read_state(classifier) == read_state(fitted)


# ---- predict


@pytest.mark.parametrize("method", PREDICTIONS)
def test_check_estimators_unfitted(method, data):
    with pytest.raises(NotFittedError, match="This MultiLabelImageClassifier instance is not fitted yet"):
        getattr(create_classifier(), method)(data[0])


@pytest.mark.parametrize("method", ["score", "evaluate"])
def test_check_estimators_unfitted_with_labels(method, data):
    with pytest.raises(NotFittedError, match="This MultiLabelImageClassifier instance is not fitted yet"):
        getattr(create_classifier(), method)(*data)


def test_check_estimators_unfitted_save(tmp_path):
    with pytest.raises(NotFittedError, match="This MultiLabelImageClassifier instance is not fitted yet"):
        create_classifier().save(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_check_dict_unchanged(data, fitted):
    X, Y = data
    before, keys = pickle.dumps(read_state(fitted)), list(vars(fitted))
    values = {name: id(value) for name, value in vars(fitted).items()}
    for method in PREDICTIONS:
        getattr(fitted, method)(X)
    fitted.score(X, Y)
    fitted.evaluate(X, Y)
    assert list(vars(fitted)) == keys
    assert {name: id(value) for name, value in vars(fitted).items()} == values
    assert pickle.dumps(read_state(fitted)) == before


def test_check_classifiers_multilabel_output_format(data, fitted):
    X, _ = data
    formats = {
        "predict": np.dtype(np.int64),
        "predict_proba": np.dtype(np.float32),
        "decision_function": np.dtype(np.float32),
    }
    for method, dtype in formats.items():
        output = getattr(fitted, method)(X)
        assert type(output) is np.ndarray
        assert (output.shape, output.dtype) == ((48, 3), dtype)
    assert set(np.unique(fitted.predict(X))) <= {0, 1}
    assert ((fitted.predict_proba(X) >= 0) & (fitted.predict_proba(X) <= 1)).all()


def test_check_decision_proba_consistency(data, fitted):
    logits, proba = fitted.decision_function(data[0]), fitted.predict_proba(data[0])
    np.testing.assert_allclose(proba, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(data[0]), proba >= fitted.thresholds_)


def test_labels_are_the_names_of_predict(data, fitted):
    indicator = fitted.predict(data[0])
    assert fitted.predict_labels(data[0]) == fitted.label_binarizer_.inverse_transform(indicator)
    np.testing.assert_array_equal(as_indicator(fitted.predict_labels(data[0]), classes=fitted.classes_), indicator)


def test_check_methods_subset_invariance(data, fitted):
    """An image gets the same answer alone as among others."""
    X, _ = data
    alone = np.concatenate([fitted.decision_function([image]) for image in X])
    np.testing.assert_allclose(alone, fitted.decision_function(X), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([fitted.predict([image]) for image in X]), fitted.predict(X))


def test_check_methods_sample_order_invariance(data, fitted):
    X, _ = data
    order = np.random.default_rng(0).permutation(48)
    shuffled = fitted.decision_function([X[row] for row in order])
    np.testing.assert_allclose(shuffled, fitted.decision_function(X)[order], rtol=0, atol=1e-5)


def test_check_estimators_pickle(data, fitted):
    X, Y = data
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.predict_labels(X) == fitted.predict_labels(X)
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(copy, method)(X), getattr(fitted, method)(X))
    assert copy.score(X, Y) == fitted.score(X, Y)
    assert copy.get_params() == fitted.get_params()
    assert read_state(copy) == read_state(fitted)


def test_pickle_of_an_unfitted_classifier_can_be_fitted(data, fitted):
    copy = pickle.loads(pickle.dumps(create_classifier(precision="fp32")))
    assert read_state(copy.fit(*data)) == read_state(fitted)


def test_metadata_routing_takes_requests_for_fit_and_score(data):
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = create_classifier().set_fit_request(sample_weight=True, groups=True, validation_data=False)
        routing = classifier.set_score_request(sample_weight=True).get_metadata_routing()
    assert routing.fit.requests == {"sample_weight": True, "groups": True, "validation_data": False}
    assert routing.score.requests == {"sample_weight": True}
