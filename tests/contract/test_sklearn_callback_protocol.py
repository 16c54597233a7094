"""The callbacks of scikit-learn (1.9 and later) on the classifier: alone, in a search, in cross-validation."""

import copy
import pickle

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline

from multilabelkit import MultiLabelImageClassifier, as_labels
from multilabelkit.errors import MultiLabelKitWarning
from multilabelkit.exclusive import ImageClassifier
from multilabelkit.metrics import make_multilabel_scorer
from multilabelkit.training import Callback

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))
needs_protocol = pytest.mark.skipif(VERSION < (1, 9), reason="scikit-learn has callbacks from 1.9 on")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Half of the images validate, so that no class has so few positives there that fit would warn.
SETTINGS = {"image_size": 32, "max_epochs": 2, "batch_size": 8, "num_workers": 0, "verbose": 0, "random_state": 0}
SETTINGS |= {"validation_fraction": 0.5}


def create_classifier(**params):
    return MultiLabelImageClassifier("small_cnn", **(SETTINGS | params))


def create_monitor(scoring="f1_macro"):
    from sklearn.callback import ScoringMonitor

    return ScoringMonitor(scoring=scoring)


def create_bar(**params):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    return ProgressBar(**params)


def list_scores(monitor, name="f1_macro"):
    """Return the scores of the last fit by epoch, and that of the fit itself."""
    rows = monitor.get_logs().data
    epochs = {row["task_id"]: row[name] for row in rows if row["task_name"] == "epoch"}
    return [epochs[epoch] for epoch in range(len(epochs))], [row[name] for row in rows if row["task_name"] == "fit"]


def drop_seconds(classifier):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in classifier.history_]


class StopAfter(Callback):
    """Stops after so many epochs, and keeps the last reason."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_epoch_end(self, state):
        if state.epoch + 1 == self.n_epochs:
            state.stop_reason = "enough"


class SklearnStop:
    """A callback of scikit-learn's protocol that stops after the first epoch."""

    max_propagation_depth = None

    def __init__(self):
        self.n_ended = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n_ended += context.task_name == "epoch"
        return context.task_name == "epoch"


@pytest.mark.skipif(VERSION >= (1, 9), reason="scikit-learn has callbacks from 1.9 on")
def test_before_1_9_there_is_no_set_callbacks(shapes):
    classifier = create_classifier(max_epochs=1).fit(shapes.images, shapes.target)
    assert not hasattr(classifier, "set_callbacks")


@needs_protocol
def test_monitor_scores_what_a_fit_that_stopped_there_would_be(shapes):
    """Each epoch, beside a fit that one of our own callbacks stops after it."""
    images, labels, valid = shapes.images[:32], shapes.target[:32], (shapes.images[32:], shapes.target[32:])
    monitor = create_monitor()
    create_classifier(max_epochs=4).set_callbacks(monitor).fit(images, labels, validation_data=valid)
    epochs, whole = list_scores(monitor)
    expected = []
    for n_epochs in range(1, 5):
        stopped = create_classifier(max_epochs=4, callbacks=[StopAfter(n_epochs)])
        stopped.fit(images, labels, validation_data=valid)
        assert len(stopped.history_) == n_epochs
        expected.append(f1_score(labels, stopped.predict(images), average="macro"))
    assert epochs == expected
    assert whole == expected[-1:]


@needs_protocol
def test_callbacks_change_nothing_about_the_fit(shapes):
    plain = create_classifier().fit(shapes.images, shapes.target)
    watched = create_classifier().set_callbacks(create_monitor(), create_bar()).fit(shapes.images, shapes.target)
    assert drop_seconds(watched) == drop_seconds(plain)
    np.testing.assert_array_equal(watched.predict_proba(shapes.images), plain.predict_proba(shapes.images))
    assert set(vars(watched)) - set(vars(plain)) == {"_skl_callbacks"}


@needs_protocol
def test_monitor_takes_labels_of_any_format_and_sees_training_images_alone(shapes):
    scores = []
    for labels in (shapes.target, shapes.target.to_numpy(), [list(names) for names in as_labels(shapes.target)]):
        monitor = create_monitor({"f1_macro": make_scorer(f1_score, average="macro"), "n": count_images})
        create_classifier().set_callbacks(monitor).fit(shapes.images, labels)
        scores.append(list_scores(monitor))
        assert list_scores(monitor, "n") == ([24, 24], [24])
    assert scores[0] == scores[1] == scores[2]


@needs_protocol
def test_monitor_leaves_unknown_labels_to_a_scorer_that_knows_them(shapes):
    labels = shapes.target.astype(float)
    labels.iloc[::5, 0] = np.nan
    monitor = create_monitor({"f1_macro": make_multilabel_scorer("f1_macro")})
    valid = (shapes.images[24:], shapes.target[24:])
    classifier = create_classifier().set_callbacks(monitor).fit(shapes.images, labels, validation_data=valid)
    assert list_scores(monitor)[1] == [classifier.score(shapes.images, labels)]


def count_images(estimator, X, y):
    assert len(X) == len(y)
    return len(X)


@needs_protocol
def test_monitor_passes_the_weights_on(shapes):
    weight = np.zeros(48)
    weight[[0, 1, 2, 3]] = 1
    monitor = create_monitor()
    valid = (shapes.images[24:], shapes.target[24:])
    classifier = create_classifier().set_callbacks(monitor)
    classifier.fit(shapes.images, shapes.target, sample_weight=weight, validation_data=valid)
    y_pred = classifier.predict(shapes.images)
    assert list_scores(monitor)[1] == [f1_score(shapes.target, y_pred, average="macro", sample_weight=weight)]


@needs_protocol
def test_monitor_does_without_images_that_are_skipped(shapes):
    monitor = create_monitor({"n": count_images})
    classifier = create_classifier(on_bad_image="skip").set_callbacks(monitor)
    with pytest.warns(MultiLabelKitWarning, match="^Cannot decode 1 of 49 images in X"):
        classifier.fit([*shapes.images, b"no image"], shapes.target.iloc[[*range(48), 0]])
    assert list_scores(monitor, "n") == ([24, 24], [24])


@needs_protocol
def test_warm_start_is_a_run_of_its_own(shapes):
    monitor = create_monitor()
    classifier = create_classifier(warm_start=True).set_callbacks(monitor)
    classifier.fit(shapes.images, shapes.target).fit(shapes.images, shapes.target)
    assert [len(log.data) for log in monitor.get_logs("all")] == [3, 3]
    assert [row["epoch"] for row in classifier.history_] == [0, 1, 2, 3]


@needs_protocol
@pytest.mark.parametrize(
    ("params", "tasks"),
    [
        ({"trainable": "head"}, ["head-epoch"] * 2),
        ({"refit": True}, ["epoch"] * 2 + ["refit-epoch"] * 2),
        ({"validation_fraction": None}, ["epoch"] * 2),
    ],
    ids=["head", "refit", "no validation"],
)
def test_every_kind_of_training_ends_with_the_score_of_the_fit(shapes, capsys, params, tasks):
    monitor = create_monitor()
    create_classifier(**params).set_callbacks(monitor, create_bar()).fit(shapes.images, shapes.target)
    whole, *epochs = monitor.get_logs().data
    assert [row["task_name"] for row in [*epochs, whole]] == [*tasks, "fit"]
    assert epochs[-1]["f1_macro"] == whole["f1_macro"]
    assert read_bars(capsys) == [("MultiLabelImageClassifier - fit", "100%")]


@needs_protocol
def test_exclusive_classes_are_monitored_by_name(shapes):
    monitor = create_monitor("accuracy")
    names = np.array(["a", "b", "c"])[shapes.target.to_numpy().argmax(axis=1)]
    classifier = ImageClassifier("small_cnn", **(SETTINGS | {"validation_fraction": None}))
    classifier.set_callbacks(monitor).fit(shapes.images, names)
    epochs, whole = list_scores(monitor, "accuracy")
    assert epochs[-1:] == whole == [classifier.score(shapes.images, names)]


@needs_protocol
def test_stopped_fit_leaves_a_full_bar(shapes, capsys):
    stop = SklearnStop()
    classifier = create_classifier(max_epochs=5).set_callbacks(create_bar(), stop).fit(shapes.images, shapes.target)
    assert (len(classifier.history_), stop.n_ended) == (1, 1)
    assert read_bars(capsys) == [("MultiLabelImageClassifier - fit", "100%")]


def read_bars(capsys):
    """Return the names of the bars as they stood at last, and their percentages."""
    lines = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    return [(line.split("  ")[0].split(" ━")[0].strip(), next(w for w in line.split() if "%" in w)) for line in lines]


@needs_protocol
def test_fit_that_fails_takes_the_bar_away(shapes):
    class Fail(Callback):
        def on_epoch_end(self, state):
            raise ZeroDivisionError

    classifier = create_classifier(callbacks=[Fail()]).set_callbacks(create_bar())
    with pytest.raises(ZeroDivisionError):
        classifier.fit(shapes.images, shapes.target)
    assert "network_" not in vars(classifier)
    classifier.set_params(callbacks=None).fit(shapes.images, shapes.target)  # and the next fit has its own


@needs_protocol
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_shows_and_scores_every_fit(shapes, monkeypatch, capsys, n_jobs):
    monkeypatch.setenv("COLUMNS", "200")
    Y, grid, monitor = shapes.target.to_numpy(), {"dropout": [0.0, 0.5]}, create_monitor()
    plain = GridSearchCV(create_classifier(), grid, cv=KFold(2), scoring="f1_macro").fit(shapes.images, Y)
    watched = GridSearchCV(
        create_classifier().set_callbacks(monitor), grid, cv=KFold(2), scoring="f1_macro", n_jobs=n_jobs
    )
    watched.set_callbacks(create_bar(max_propagation_depth=None)).fit(shapes.images, Y)
    for name in ("split0_test_score", "split1_test_score"):
        assert watched.cv_results_[name].tolist() == plain.cv_results_[name].tolist()
    rows = monitor.get_logs().data
    # Four fits in folds and that of all images at the end, of two epochs each.
    assert sorted(row["task_name"] for row in rows) == ["epoch"] * 10 + ["fit"] * 5
    assert {row["parent_task_id_path"] for row in rows if row["task_name"] == "fit"} == {(0,), (0, 0)}
    bars = read_bars(capsys)
    assert len(bars) == 7
    assert {share for _, share in bars} == {"100%"}


@needs_protocol
def test_stop_in_a_search_stops_the_fits_and_not_the_search(shapes):
    stop = SklearnStop()
    search = GridSearchCV(create_classifier(), {"dropout": [0.0, 0.5]}, cv=KFold(2), scoring="f1_macro")
    search.set_callbacks(stop).fit(shapes.images, shapes.target.to_numpy())
    assert stop.n_ended == 5
    assert len(search.best_estimator_.history_) == 1
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@needs_protocol
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_validate_monitors_every_fold(shapes, n_jobs):
    monitor = create_monitor()
    results = cross_validate(
        create_classifier().set_callbacks(monitor, create_bar()),
        shapes.images,
        shapes.target.to_numpy(),
        cv=KFold(2),
        n_jobs=n_jobs,
        return_estimator=True,
        error_score="raise",
    )
    logs = monitor.get_logs("all")
    assert [len(log.data) for log in logs] == [3, 3]
    assert [len(fold.history_) for fold in results["estimator"]] == [2, 2]


@needs_protocol
def test_pipeline_hands_its_bar_down(shapes, capsys):
    pipeline = Pipeline([("classify", create_classifier())]).set_callbacks(create_bar())
    pipeline.fit(shapes.images, shapes.target.to_numpy())
    assert [share for _, share in read_bars(capsys)] == ["100%", "100%"]
    assert "_skl_callbacks" not in vars(pipeline[-1])


@needs_protocol
@pytest.mark.parametrize(
    "copy_of", [clone, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["clone", "deepcopy", "pickle"]
)
def test_copies_go_on_with_the_callbacks(shapes, copy_of):
    copied = copy_of(create_classifier(max_epochs=1).set_callbacks(create_monitor()))
    (monitor,) = copied.fit(shapes.images, shapes.target)._skl_callbacks
    assert len(monitor.get_logs().data) == 2


@needs_protocol
def test_model_folder_holds_no_callbacks(shapes, tmp_path):
    classifier = create_classifier(max_epochs=1).set_callbacks(create_monitor()).fit(shapes.images, shapes.target)
    classifier.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    assert "_skl_callbacks" not in vars(loaded)
    np.testing.assert_array_equal(loaded.predict(shapes.images), classifier.predict(shapes.images))


@needs_protocol
def test_set_callbacks_refuses_what_is_none():
    with pytest.raises(TypeError, match=r"^callbacks must be instances following the FitCallback protocol\.$"):
        create_classifier().set_callbacks(Callback())
