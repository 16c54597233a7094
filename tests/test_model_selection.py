import itertools
import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate, learning_curve

from multilabelkit.errors import InputError
from multilabelkit.model_selection import (
    MultiLabelStratifiedKFold,
    MultiLabelStratifiedShuffleSplit,
    multilabel_train_test_split,
)
from multilabelkit.stratification import split_rows


@st.composite
def label_tables(draw, *, unknown=False):
    """Draw 2 to 40 rows of 1 to 6 labels, from rare to common, with NaN if asked for."""
    n_samples, n_classes = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = (rng.random((n_samples, n_classes)) < rng.uniform(0, 0.7, n_classes)).astype(np.float32)
    if unknown:
        table[rng.random(table.shape) < 0.2] = np.nan
        table[0, 0] = 0  # a table of NaN alone is refused
    return table


def count_missing(table, side):
    """Count the labels with at least two positives that are on one side only."""
    positive = np.nan_to_num(table) == 1
    on_test = positive[side == 1].sum(axis=0)
    total = positive.sum(axis=0)
    return int(((total >= 2) & ((on_test == 0) | (on_test == total))).sum())


def find_fewest_missing(table, n_test):
    """Try every split; return the smallest number of labels on one side only."""
    fewest = table.shape[1]
    for rows in itertools.combinations(range(len(table)), n_test):
        side = np.isin(np.arange(len(table)), rows).astype(int)
        fewest = min(fewest, count_missing(table, side))
        if fewest == 0:
            break
    return fewest


def measure_deviation(table, splitter, groups=None):
    """Return the mean difference between label frequencies of test rows and of all rows."""
    tests = [test for _, test in splitter.split(table, table, groups)]
    return np.mean([np.abs(table[test].mean(axis=0) - table.mean(axis=0)).mean() for test in tests])


def create_table(n_samples, n_classes, *, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n_samples, n_classes)) < rng.uniform(0.01, 0.4, n_classes)).astype(int)


@settings(deadline=None, max_examples=80)
@given(table=label_tables(unknown=True), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_folds_cover_every_row_once_with_sizes_within_one(table, seed, data):
    n_splits = data.draw(st.integers(2, len(table)))
    splitter = MultiLabelStratifiedKFold(n_splits, random_state=seed)
    folds = list(splitter.split(table, table))
    assert len(folds) == n_splits
    assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(table)))
    sizes = [len(test) for _, test in folds]
    assert max(sizes) - min(sizes) <= 1
    for train, test in folds:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(table)))
        assert (np.diff(test) > 0).all()
        assert (np.diff(train) > 0).all()


@settings(deadline=None, max_examples=80)
@given(table=label_tables(unknown=True), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_split_in_two_has_the_size_asked_for(table, seed, data):
    n_test = data.draw(st.integers(1, len(table) - 1))
    train, test, y_train, y_test = multilabel_train_test_split(
        np.arange(len(table)), table, test_size=n_test, random_state=seed
    )
    assert (len(train), len(test)) == (len(table) - n_test, n_test)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(table)))
    np.testing.assert_array_equal(y_train, table[train])
    np.testing.assert_array_equal(y_test, table[test])


@pytest.mark.parametrize("seed", range(150))
def test_labels_with_two_positives_are_on_both_sides_whenever_any_split_can_do_it(seed):
    rng = np.random.default_rng(seed)
    n_samples = int(rng.integers(2, 11))
    n_test = int(rng.integers(1, n_samples))
    table = (rng.random((n_samples, rng.integers(1, 9))) < rng.uniform(0.05, 0.6)).astype(int)
    side = split_rows(table, sizes=[n_samples - n_test, n_test], random_state=seed)
    missing = count_missing(table, side)
    assert missing == 0 or missing == find_fewest_missing(table, n_test)


@settings(deadline=None, max_examples=60)
@given(n_samples=st.integers(60, 200), n_classes=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_rare_labels_are_on_both_sides_of_a_realistic_split(n_samples, n_classes, seed):
    rng = np.random.default_rng(seed)
    table = np.zeros((n_samples, n_classes))
    for column in table.T:
        column[rng.permutation(n_samples)[: rng.integers(2, 6)]] = 1
    side = split_rows(table, sizes=[n_samples - n_samples // 5, n_samples // 5], random_state=seed)
    assert count_missing(table, side) == 0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n_splits=st.integers(2, 6))
def test_no_label_with_two_positives_lies_in_one_fold_alone(seed, n_splits):
    rng = np.random.default_rng(seed)
    table = np.zeros((60, 5))
    for column in table.T:
        column[rng.permutation(60)[: rng.integers(2, 12)]] = 1
    counts = np.array([table[test].sum(axis=0) for _, test in MultiLabelStratifiedKFold(n_splits).split(table, table)])
    assert ((counts > 0).sum(axis=0) >= np.minimum(table.sum(axis=0), 2)).all()
    assert (counts[:, table.sum(axis=0) >= n_splits] > 0).all()


@settings(deadline=None, max_examples=60)
@given(table=label_tables(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_groups_never_lie_on_two_sides_and_every_part_gets_rows(table, seed, data):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, data.draw(st.integers(2, 30)), len(table))
    groups[:2] = 0, 1
    n_groups = len(np.unique(groups))
    splitter = MultiLabelStratifiedKFold(data.draw(st.integers(2, n_groups)), random_state=seed)
    for train, test in splitter.split(table, table, groups):
        assert len(train) > 0
        assert len(test) > 0
        assert not set(groups[train]) & set(groups[test])
    train, test, *_ = multilabel_train_test_split(groups, table, groups=groups, random_state=seed)
    assert len(train) > 0
    assert len(test) > 0
    assert not set(train) & set(test)


def test_groups_keep_sizes_and_label_shares_near():
    table = create_table(2000, 12)
    groups = np.random.default_rng(1).integers(0, 250, 2000)
    splitter = MultiLabelStratifiedKFold(5, random_state=0)
    sizes = [len(test) for _, test in splitter.split(table, table, groups)]
    assert max(sizes) - min(sizes) <= 20
    shuffled = [np.isin(groups, block) for block in np.array_split(np.random.default_rng(2).permutation(250), 5)]
    plain = np.mean([np.abs(table[rows].mean(axis=0) - table.mean(axis=0)).mean() for rows in shuffled])
    assert measure_deviation(table, splitter, groups) < plain / 4


@pytest.mark.parametrize("n_splits", [2, 5, 10])
@pytest.mark.parametrize(("n_samples", "n_classes"), [(200, 3), (1000, 20)], ids=["small", "large"])
def test_folds_deviate_far_less_than_plain_shuffled_ones(n_splits, n_samples, n_classes):
    table = create_table(n_samples, n_classes)
    stratified = measure_deviation(table, MultiLabelStratifiedKFold(n_splits, random_state=0))
    plain = np.mean([measure_deviation(table, KFold(n_splits, shuffle=True, random_state=seed)) for seed in range(5)])
    assert stratified < plain / 3


def test_label_counts_of_folds_are_as_equal_as_whole_rows_allow():
    table = create_table(600, 6)
    counts = np.array([table[test].sum(axis=0) for _, test in MultiLabelStratifiedKFold(5).split(table, table)])
    assert np.abs(counts - table.sum(axis=0) / 5).max() < 1


def test_many_rows_and_labels_split_to_within_two_rows_of_their_share():
    table = create_table(20000, 40)
    side = split_rows(table, sizes=[16000, 4000], random_state=0)
    assert np.abs(table[side == 1].sum(axis=0) - table.sum(axis=0) / 5).max() <= 2


@pytest.mark.parametrize("splitter", [MultiLabelStratifiedKFold, MultiLabelStratifiedShuffleSplit])
def test_a_seed_gives_the_same_splits_again_and_another_seed_others(splitter):
    table = create_table(80, 4)

    def collect(random_state):
        return np.concatenate([test for _, test in splitter(4, random_state=random_state).split(table, table)])

    assert np.array_equal(collect(5), collect(5))
    assert np.array_equal(collect(np.random.RandomState(5)), collect(np.random.RandomState(5)))
    assert not np.array_equal(collect(5), collect(6))


def test_shuffle_splits_differ_from_each_other():
    table = create_table(80, 4)
    tests = [tuple(test) for _, test in MultiLabelStratifiedShuffleSplit(4, random_state=0).split(table, table)]
    assert len(set(tests)) == 4


def test_folds_without_shuffle_are_always_the_same():
    table = create_table(80, 4)
    first, second = (list(MultiLabelStratifiedKFold(4, shuffle=False).split(table, table)) for _ in range(2))
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "table",
    [np.zeros((10, 3)), np.ones((10, 3)), np.eye(10), np.ones((10, 1)), np.arange(10)[:, None] < 1],
    ids=["all empty", "all full", "one positive each", "one class", "one positive"],
)
def test_degenerate_tables_are_split_by_size_alone(table):
    for n_splits in (2, 3, 10):
        folds = list(MultiLabelStratifiedKFold(n_splits, random_state=0).split(table, table))
        assert {len(test) for _, test in folds} <= {10 // n_splits, -(-10 // n_splits)}


def test_unknown_labels_count_as_not_present():
    table = create_table(100, 5).astype(float)
    unknown = table.copy()
    unknown[(np.random.default_rng(0).random(table.shape) < 0.3) & (table == 0)] = np.nan
    sizes = [70, 30]
    assert np.array_equal(
        split_rows(table, sizes=sizes, random_state=0), split_rows(unknown, sizes=sizes, random_state=0)
    )


LABELS = [["sea"], ["sea", "sun"], ["sun"], [], ["sea"], ["sun"], ["sea", "sun"], []]
INDICATOR = np.array([["sea" in row, "sun" in row] for row in LABELS]).astype(int)


@pytest.mark.parametrize(
    "y",
    [
        LABELS,
        [set(row) for row in LABELS],
        [dict.fromkeys(row, 1) for row in LABELS],
        pd.Series(LABELS, index=list("abcdefgh")),
        INDICATOR,
        INDICATOR * 2 - 1,
        pd.DataFrame(INDICATOR, columns=["sea", "sun"], index=list("abcdefgh")),
        sparse.csr_matrix(INDICATOR),
        sparse.coo_array(INDICATOR),
    ],
    ids=["lists", "sets", "dicts", "Series", "matrix", "-1 and 1", "DataFrame", "csr", "coo"],
)
def test_every_label_format_gives_the_same_split_and_comes_back_as_it_was(y):
    rows, _, y_train, y_test = multilabel_train_test_split(list(range(8)), y, test_size=0.5, random_state=0)
    expected = split_rows(INDICATOR, sizes=[4, 4], random_state=0)
    assert rows == np.flatnonzero(expected == 0).tolist()
    if isinstance(y, list):
        assert y_train == [y[row] for row in rows]
    elif hasattr(y, "iloc"):
        assert y_train.equals(y.iloc[rows])
    else:
        assert (y_train != (y.tocsr() if sparse.issparse(y) else y)[rows]).sum() == 0
    assert type(y_test) is type(y_train)


@pytest.mark.parametrize(
    "X",
    [
        [f"{row}.jpg" for row in range(8)],
        tuple(range(8)),
        np.arange(16).reshape(8, 2),
        pd.DataFrame({"path": range(8)}, index=list("abcdefgh")),
        pd.Series(range(8), index=list("abcdefgh")),
    ],
    ids=["list", "tuple", "ndarray", "DataFrame", "Series"],
)
def test_containers_of_images_keep_their_kind(X):
    X_train, X_test, y_train, y_test = multilabel_train_test_split(X, INDICATOR, random_state=0)
    assert type(X_train) is type(X_test) is type(X)
    assert (len(X_train), len(X_test), len(y_train), len(y_test)) == (6, 2, 6, 2)


@pytest.mark.parametrize("test_size", [0.07, 7, np.float32(0.07)], ids=["share", "number", "float32"])
def test_test_size_is_a_share_rounded_up_or_a_number(test_size):
    table = create_table(100, 3)
    splitter = MultiLabelStratifiedShuffleSplit(1, test_size=test_size, random_state=0)
    assert [len(test) for _, test in splitter.split(table, table)] == [7]


@pytest.mark.parametrize(
    "splitter",
    [MultiLabelStratifiedKFold(3, random_state=0), MultiLabelStratifiedShuffleSplit(3, random_state=0)],
    ids=["folds", "shuffle"],
)
def test_splitters_work_wherever_sklearn_takes_cv(splitter):
    y = create_table(90, 3)
    X = np.hstack([y, np.ones((90, 1))])
    assert splitter.get_n_splits() == 3
    assert len(cross_val_score(DummyClassifier(), X, y, cv=splitter)) == 3
    assert len(cross_validate(DummyClassifier(), X, pd.DataFrame(y), cv=splitter)["test_score"]) == 3
    search = GridSearchCV(RidgeClassifier(), {"alpha": [0.1, 1000]}, cv=splitter, scoring="f1_micro").fit(X, y)
    assert search.best_params_ == {"alpha": 0.1}
    sizes, _, _ = learning_curve(DummyClassifier(), X, y, cv=splitter, train_sizes=[0.5, 1.0])
    assert len(sizes) == 2


def test_groups_reach_the_splitter_through_metadata_routing():
    table, groups = create_table(60, 3), np.arange(60) // 10
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            DummyClassifier(), table, table, cv=MultiLabelStratifiedKFold(6), params={"groups": groups}
        )
        assert len(scores) == 6
        with pytest.raises(InputError, match="Cannot deal 6 groups to 7 parts: a part would stay empty"):
            cross_val_score(DummyClassifier(), table, table, cv=MultiLabelStratifiedKFold(7), params={"groups": groups})


def test_splitters_show_their_parameters():
    splitter = MultiLabelStratifiedKFold(3, shuffle=False)
    assert " ".join(repr(splitter).split()) == (
        "MultiLabelStratifiedKFold(label_sep=None, n_splits=3, random_state=None, shuffle=False)"
    )
    assert " ".join(repr(MultiLabelStratifiedShuffleSplit(3, test_size=0.1)).split()) == (
        "MultiLabelStratifiedShuffleSplit(label_sep=None, n_splits=3, random_state=None, test_size=0.1)"
    )
    search = clone(GridSearchCV(DummyClassifier(), {}, cv=splitter))
    assert repr(search.cv) == repr(splitter)


def test_string_groups_serve_as_well_as_numbers():
    table, groups = create_table(40, 3), np.arange(40) // 4
    names = [f"patient {group}" for group in groups]
    expected = split_rows(table, sizes=[20, 20], groups=groups, random_state=0)
    assert np.array_equal(split_rows(table, sizes=[20, 20], groups=names, random_state=0), expected)
    assert np.array_equal(split_rows(table, sizes=[20, 20], groups=pd.Series(names), random_state=0), expected)


def split_once(splitter, X=INDICATOR, y=INDICATOR, groups=None):
    return next(splitter.split(X, y, groups))


SIZE_RULE = "a number > 0 and < 1, or an integer >= 1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: split_once(MultiLabelStratifiedKFold(1)),
            "The 'n_splits' parameter of MultiLabelStratifiedKFold must be an integer >= 2. Got 1 instead.",
        ),
        (
            lambda: split_once(MultiLabelStratifiedKFold(9)),
            "Cannot make n_splits=9 folds of 8 rows. Set n_splits to 8 or less, or give more rows.",
        ),
        (
            lambda: split_once(MultiLabelStratifiedKFold(3), groups=[0, 0, 0, 0, 1, 1, 1, 1]),
            "Cannot deal 2 groups to 3 parts: a part would stay empty. Ask for fewer parts, or pass finer groups.",
        ),
        (
            lambda: split_once(MultiLabelStratifiedKFold(3, shuffle=False, random_state=0)),
            "random_state=0 has no effect with shuffle=False in MultiLabelStratifiedKFold. "
            "Leave it out, or set shuffle=True.",
        ),
        (
            lambda: split_once(MultiLabelStratifiedShuffleSplit(test_size=1.5)),
            f"The 'test_size' parameter of MultiLabelStratifiedShuffleSplit must be {SIZE_RULE}. Got 1.5 instead.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR, INDICATOR, test_size=0.0),
            f"The 'test_size' parameter of multilabel_train_test_split must be {SIZE_RULE}. Got 0.0 instead.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR, INDICATOR, test_size=8),
            "test_size=8 leaves no row to train on: there are 8 rows. Make test_size smaller, or give more rows.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR, INDICATOR, test_size=0.9),
            "test_size=0.9 leaves no row to train on: there are 8 rows. Make test_size smaller, or give more rows.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR[:7], INDICATOR),
            "X and y must have the same length. Got 7 and 8.",
        ),
        (
            lambda: split_once(MultiLabelStratifiedKFold(2), y=None),
            "MultiLabelStratifiedKFold stratifies by labels and needs y. Got None.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR, INDICATOR, groups=[1, 2]),
            "groups must name the group of every row. Got 2 entries for 8 rows.",
        ),
        (
            lambda: multilabel_train_test_split(INDICATOR, INDICATOR, groups=["a", "b", None, *"aaaaa"]),
            "groups must name the group of every row. Got nan at row 2.",
        ),
        (
            lambda: split_rows(INDICATOR, sizes=[4, 3]),
            "sizes must be whole numbers of at least 1 that add up to the 8 rows of y. Got [4, 3].",
        ),
        (
            lambda: split_rows(INDICATOR, sizes=[4.5, 3.5]),
            "sizes must be whole numbers of at least 1 that add up to the 8 rows of y. Got [4.5, 3.5].",
        ),
        (
            lambda: split_rows(INDICATOR[0], sizes=[1, 1]),
            "y must have the shape (n_samples, n_classes) in split_rows. Got the shape (2,).",
        ),
    ],
    ids=[
        "one fold",
        "more folds than rows",
        "more folds than groups",
        "seed without shuffle",
        "test_size above 1",
        "test_size zero",
        "all rows to test",
        "nearly all rows to test",
        "X and y differ",
        "no y",
        "groups differ",
        "missing group",
        "sizes do not add up",
        "sizes not whole",
        "one dimension",
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()


def test_every_splitter_splits_strings_by_label_sep():
    strings = ["sea|sunset", "sea", "sunset", "", "sea|sunset", "sea", "sunset", ""]
    lists = [string.split("|") if string else [] for string in strings]
    rows = np.arange(len(strings))
    for kind in (MultiLabelStratifiedKFold, MultiLabelStratifiedShuffleSplit):
        expected = list(kind(2, random_state=0).split(rows, lists))
        found = list(kind(2, random_state=0, label_sep="|").split(rows, strings))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one[1], other[1])
    expected_test = multilabel_train_test_split(rows, lists, random_state=0)[1]
    found_test = multilabel_train_test_split(rows, strings, random_state=0, label_sep="|")[1]
    np.testing.assert_array_equal(expected_test, found_test)
