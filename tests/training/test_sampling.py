import re

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.training.sampling import compute_repeats, draw_rows

NAN = float("nan")
CLASSES = ["sea", "trees", "sunset"]


def oversample(targets, frequencies, classes=CLASSES, **params):
    params = {"frequencies": frequencies, **params}
    return compute_repeats(targets, sampler="oversample", sampler_params=params, classes=classes)


def list_shares(targets, repeats):
    """Return the share of the epoch that each class has."""
    return repeats @ (targets == 1) / repeats.sum()


def make_targets(*, n_samples=400, n_classes=8, seed=0):
    """Labels that occur together, from rare to common."""
    random = np.random.default_rng(seed)
    return (random.random((n_samples, n_classes)) < np.linspace(0.02, 0.4, n_classes)).astype(np.float64)


def raises(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def test_no_sampler_is_none():
    assert compute_repeats(np.eye(3), sampler=None, classes=CLASSES) is None


def test_repeat_factor_is_the_root_of_threshold_over_share():
    # sea: 1 of 100, sqrt(0.1 / 0.01) = 3.16; trees: 4 of 100, sqrt(2.5) = 1.58; sunset: 50 of 100, not rare
    targets = np.zeros((100, 3))
    targets[0] = [1, 1, 0]
    targets[1:4] = [0, 1, 1]
    targets[4:51, 2] = 1
    repeats = compute_repeats(targets, sampler="repeat_factor", classes=CLASSES)
    expected = np.ones(100)
    expected[0], expected[1:4] = np.sqrt(10), np.sqrt(2.5)
    np.testing.assert_allclose(repeats, expected)


def test_repeat_factor_takes_threshold_and_cap():
    targets = np.zeros((1000, 2))
    targets[0, 0] = targets[1:11, 1] = 1
    repeats = compute_repeats(targets, sampler="repeat_factor", classes=["a", "b"])
    np.testing.assert_allclose(repeats[:2], [5, np.sqrt(10)])
    params = {"threshold": 0.04, "max_repeat": 6}
    repeats = compute_repeats(targets, sampler="repeat_factor", sampler_params=params, classes=["a", "b"])
    np.testing.assert_allclose(repeats[:2], [6, 2])


def test_repeat_factor_counts_unknown_as_not_carried():
    targets = np.zeros((100, 2))
    targets[0, 0] = 1
    unknown = targets.copy()
    unknown[50:] = NAN
    repeats = compute_repeats(unknown, sampler="repeat_factor", classes=["a", "b"])
    np.testing.assert_array_equal(repeats, compute_repeats(targets, sampler="repeat_factor", classes=["a", "b"]))


def test_oversampling_two_exclusive_classes_to_a_half():
    targets = np.eye(2)[[0] * 9 + [1]]
    np.testing.assert_allclose(oversample(targets, 0.5, ["a", "b"]), [1] * 9 + [9])


@pytest.mark.parametrize(
    ("counts", "shares", "expected"),
    [
        ((80, 15, 5), (1 / 3, 1 / 3, 1 / 3), (1, 80 / 15, 16)),
        # b is lifted to 0.2 of T and c to 0.3: T = 80 / 0.5 = 160
        ((80, 15, 5), (0.1, 0.2, 0.3), (1, 32 / 15, 48 / 5)),
        # b has more than its share even after c is lifted: T = 95 / 0.8
        ((80, 15, 5), (0.1, 0.1, 0.2), (1, 1, 95 / 0.8 * 0.2 / 5)),
        # b has its share before c is lifted, and no longer afterwards: T = 80 / 0.45
        ((80, 15, 5), (0.1, 0.15, 0.4), (1, 0.15 * 80 / 0.45 / 15, 0.4 * 80 / 0.45 / 5)),
    ],
    ids=["all alike", "two lifted", "one lifted", "one drawn along"],
)
def test_oversampling_is_exact_where_classes_exclude_each_other(counts, shares, expected):
    targets = np.eye(3)[np.repeat([0, 1, 2], counts)]
    repeats = oversample(targets, dict(zip(CLASSES, shares, strict=True)))
    np.testing.assert_allclose(repeats, np.repeat(expected, counts), rtol=1e-5)


def test_oversampling_many_exclusive_classes_to_nearly_the_same_share():
    counts = np.arange(1, 41) ** 2
    targets = np.eye(40)[np.repeat(np.arange(40), counts)]
    repeats = oversample(targets, 0.999 / 40, list(range(40)), max_repeat=2000)
    np.testing.assert_allclose(list_shares(targets, repeats)[:39], 0.999 / 40, rtol=1e-4)
    assert repeats[-1] == 1


def test_images_without_labels_are_kept_once():
    targets = np.array([[1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [NAN, NAN]])
    repeats = oversample(targets, {"a": 0.3, "b": 0.2}, ["a", "b"])
    # T = 5 / 0.5 = 10
    np.testing.assert_allclose(repeats, [3, 2, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("seed", range(4))
def test_oversampling_reaches_every_share_with_the_smallest_repeats_where_labels_occur_together(seed):
    targets = make_targets(seed=seed)
    frequencies = 0.12
    repeats = oversample(targets, frequencies, list(range(8)))
    assert (repeats >= 1).all()
    assert (list_shares(targets, repeats) >= frequencies - 1e-5).all()
    gains = targets - frequencies
    oracle = minimize(
        lambda r: (np.sum((r - 1) ** 2) / 2, r - 1),
        np.ones(len(targets)),
        jac=True,
        bounds=[(1, 20)] * len(targets),
        constraints={"type": "ineq", "fun": lambda r: r @ gains, "jac": lambda r: gains.T},
        method="SLSQP",
    )
    assert oracle.success
    np.testing.assert_allclose(repeats, oracle.x, atol=2e-3)


def test_oversampling_repeats_images_alone_whose_labels_are_missing():
    # b comes mostly beside the common a: images of b alone bring it without more of a
    targets = np.array([[1, 0]] * 80 + [[1, 1]] * 4 + [[0, 1]] * 4 + [[0, 0]] * 12)
    repeats = oversample(targets, {"a": 0.8, "b": 0.2}, ["a", "b"])
    shares = list_shares(targets, repeats)
    assert shares == pytest.approx([0.8, 0.2], abs=1e-5)
    assert repeats[80] > repeats[84] > repeats[0] == repeats[-1] == 1


def test_oversampling_changes_nothing_where_shares_are_large_enough():
    targets = make_targets()
    np.testing.assert_array_equal(oversample(targets, 0.001, list(range(8))), np.ones(400))


def test_one_frequency_for_all_leaves_out_classes_without_an_image():
    targets = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, NAN]])
    np.testing.assert_allclose(oversample(targets, 0.5), [1, 1, 1, 3])
    np.testing.assert_array_equal(oversample(np.zeros((2, 3)), 0.5), [1, 1])


def test_cap_holds_and_shortfalls_are_told():
    targets = np.eye(2)[[0] * 99 + [1]]
    message = (
        "Oversampling falls short of the frequencies of 1 of 2 classes: 'b' (0.168 of 0.5). Raise max_repeat, or lower "
        "the frequencies of these or of the labels beside them."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        repeats = oversample(targets, 0.5, ["a", "b"])
    np.testing.assert_allclose(repeats, [1] * 99 + [20])


@pytest.mark.parametrize(("seed", "frequencies"), [(0, 0.3), (1, 0.35), (2, 0.25), (3, 0.4)])
def test_shares_that_cannot_all_be_had_are_missed_by_the_least_squares(seed, frequencies):
    targets = make_targets(n_classes=6, seed=seed)
    sets, counts = np.unique(targets, axis=0, return_counts=True)
    gains, weights = sets - frequencies, counts / counts.sum()
    slack = linprog(
        np.r_[np.zeros(len(sets)), np.ones(6)],
        A_ub=-np.c_[(gains * weights[:, None]).T, np.eye(6)],
        b_ub=np.zeros(6),
        bounds=[(1, 4)] * len(sets) + [(0, None)] * 6,
    )
    assert slack.fun > 1e-3
    with pytest.warns(MultiLabelKitWarning, match="^Oversampling falls short of the frequencies of"):
        repeats = oversample(targets, frequencies, list(range(6)), max_repeat=4)
    assert repeats.min() >= 1
    assert repeats.max() <= 4

    def miss(repeats):
        return np.sum(np.maximum(frequencies - (weights * repeats) @ sets / (weights @ repeats), 0) ** 2)

    starts = (np.ones(len(sets)), np.full(len(sets), 2.0))
    best = min(minimize(miss, start, bounds=[(1, 4)] * len(sets), method="L-BFGS-B").fun for start in starts)
    shortfall = np.sum(np.maximum(frequencies - list_shares(targets, repeats), 0) ** 2)
    assert shortfall <= 1.02 * best
    assert shortfall < 0.8 * miss(starts[0])


def test_draw_rows_repeats_whole_numbers_exactly():
    rows = draw_rows(np.array([1.0, 3.0, 2.0, 0.0, 1.0]), np.random.default_rng(0))
    assert rows.tolist() == [0, 1, 1, 1, 2, 2, 4]
    assert rows.dtype == np.int64


def test_draw_rows_rounds_fractions_by_chance():
    random = np.random.default_rng(0)
    repeats = np.array([1.0, 2.25, 1.9])
    times = np.array([np.bincount(draw_rows(repeats, random), minlength=3) for _ in range(4000)])
    assert [set(column) for column in times.T.tolist()] == [{1}, {2, 3}, {1, 2}]
    np.testing.assert_allclose(times.mean(axis=0), repeats, atol=0.03)


def test_draw_rows_depends_on_the_generator_alone():
    repeats = np.full(50, 1.5)
    first, again, other = (draw_rows(repeats, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_an_epoch_of_oversampling_has_the_wanted_shares():
    targets = np.eye(3)[np.repeat([0, 1, 2], (800, 150, 50))]
    rows = draw_rows(oversample(targets, 1 / 3), np.random.default_rng(0))
    np.testing.assert_allclose(targets[rows].mean(axis=0), 1 / 3, atol=0.01)


SAMPLER_RULE = "'repeat_factor', 'oversample' or None"


@pytest.mark.parametrize(
    ("sampler", "params", "message"),
    [
        (
            "smote",
            None,
            f"The 'sampler' parameter of compute_repeats must be {SAMPLER_RULE}. Got 'smote' instead.",
        ),
        (
            "oversample",
            0.5,
            "The 'sampler_params' parameter of compute_repeats must be None or a dict. Got 0.5 instead.",
        ),
        (
            None,
            {"threshold": 0.1},
            "sampler_params needs a sampler. Choose sampler='repeat_factor' or 'oversample', or leave it out.",
        ),
        (
            "repeat_factor",
            {"treshold": 0.1},
            "sampler_params must not hold 'treshold' with sampler='repeat_factor'. Did you mean 'threshold'? "
            "Allowed: 'threshold', 'max_repeat'.",
        ),
        (
            "repeat_factor",
            {"threshold": 0},
            "The 'threshold' parameter of sampler='repeat_factor' must be a number > 0 and < 1. Got 0 instead.",
        ),
        (
            "repeat_factor",
            {"max_repeat": 0.5},
            "The 'max_repeat' parameter of sampler='repeat_factor' must be a number >= 1. Got 0.5 instead.",
        ),
        (
            "oversample",
            {"max_repeat": 3},
            "sampler='oversample' needs frequencies. Say which share of an epoch each class should have, such as "
            "sampler_params={'frequencies': 0.1} or {'frequencies': {'sunset': 0.3}}.",
        ),
        (
            "oversample",
            {"frequencies": 1.0},
            "The 'frequencies' parameter of sampler='oversample' must be a number > 0 and < 1, or a dict by class. "
            "Got 1.0 instead.",
        ),
        (
            "oversample",
            {"frequencies": {"sea": 30}},
            "The \"frequencies['sea']\" parameter of sampler='oversample' must be a number > 0 and < 1. "
            "Got 30 instead.",
        ),
        (
            "oversample",
            {"frequencies": {"sunsett": 0.3}},
            "frequencies names unknown classes: 'sunsett'. Did you mean 'sunset'?",
        ),
        (
            "oversample",
            {"frequencies": {"sea": 0.3, "sunset": 0.1}},
            "frequencies names 1 class(es) that no training image is known to carry: 'sunset'. "
            "Leave them out, or add images of them.",
        ),
        (
            "oversample",
            {"frequencies": {"sea": 0.6, "trees": 0.5}},
            "The frequencies of 2 classes add up to 1.1, but no training image carries more than 1 of these classes. "
            "Lower the frequencies until they add up to at most 1.",
        ),
    ],
)
def test_samplers_that_cannot_be_are_refused(sampler, params, message):
    targets = np.array([[1, 0, 0], [0, 1, NAN], [1, 0, 0]])
    with raises(message):
        compute_repeats(targets, sampler=sampler, sampler_params=params, classes=CLASSES)


def test_frequencies_of_two_classes_that_exclude_each_other_are_refused_beside_a_third():
    targets = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
    with raises(
        "The frequencies of 'sea' and 'trees' add up to 1.1, but no training image carries both. "
        "Lower them until they add up to at most 1."
    ):
        oversample(targets, {"sea": 0.6, "trees": 0.5, "sunset": 0.1})
