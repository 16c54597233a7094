import json
import re
import warnings

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from multilabelkit.calibration import METHODS, Calibrator
from multilabelkit.errors import InputError, MultiLabelKitWarning


def draw_cells(seed, n_samples, *, n_classes=1, distort=lambda logits: logits):
    """Return (y_true, distorted logits, true probabilities)."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 2, (n_samples, n_classes))
    y_true = (random.random(logits.shape) < expit(logits)).astype(float)
    return y_true, distort(logits), expit(logits)


def measure_log_loss(y_true, proba):
    return -np.where(y_true == 1, np.log(proba), np.log1p(-proba)).mean(axis=0)


def fit_quietly(method, y_true, logits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        return Calibrator(method=method).fit(y_true, logits)


def fit_slowly(labels, logits, *, with_offset):
    """Return slope and offset of least regularised loss over single cells, without derivatives."""

    def measure_loss(params):
        slope, offset = params[0], params[1] if with_offset else 0.0
        margin = slope * logits + offset
        loss = np.logaddexp(0, np.where(labels == 1, -margin, margin)).sum()
        return (loss + ((slope - 1) ** 2 + offset**2) / 2) if slope >= 0.01 else np.inf

    tight = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000, "maxfev": 4000}
    start = [0.5, 0.1] if with_offset else [0.5]
    return scipy.optimize.minimize(measure_loss, start, method="Nelder-Mead", options=tight).x


@pytest.mark.parametrize("distort", [lambda z: z, lambda z: 3 * z - 2, lambda z: 30 * z, lambda z: -z, np.round])
def test_platt_has_the_least_regularised_log_loss(distort):
    y_true, logits, _ = draw_cells(0, 60, n_classes=2, distort=distort)
    calibrator = Calibrator(method="platt").fit(y_true, logits)
    for place in range(2):
        slope, offset = fit_slowly(y_true[:, place], logits[:, place], with_offset=True)
        assert calibrator.slopes_[place] == pytest.approx(slope, abs=1e-4)
        assert calibrator.offsets_[place] == pytest.approx(offset, abs=1e-4)


def test_platt_is_logistic_regression_where_the_ridge_does_not_matter():
    y_true, logits, _ = draw_cells(1, 50_000, distort=lambda z: 2 * z + 3)
    calibrator = Calibrator(method="platt").fit(y_true, logits)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(logits, y_true[:, 0])
    np.testing.assert_allclose(calibrator.slopes_, peer.coef_[0], rtol=2e-3)
    np.testing.assert_allclose(calibrator.offsets_, peer.intercept_, rtol=2e-3)


def test_temperature_has_the_least_regularised_log_loss_of_all_classes_together():
    y_true, logits, _ = draw_cells(2, 80, n_classes=3, distort=lambda z: 2.5 * z)
    y_true[::7, 1] = np.nan
    calibrator = Calibrator(method="temperature").fit(y_true, logits)
    known = ~np.isnan(y_true)
    assert calibrator.temperature_ == pytest.approx(
        1 / fit_slowly(y_true[known], logits[known], with_offset=False)[0], abs=1e-4
    )
    assert calibrator.methods_ == ["temperature"] * 3
    np.testing.assert_array_equal(calibrator.slopes_, 1 / calibrator.temperature_)
    np.testing.assert_array_equal(calibrator.offsets_, 0)


def test_binned_logits_give_the_sigmoid_of_single_ones():
    y_true, logits, _ = draw_cells(3, 6000, distort=lambda z: 20 * z - 5)
    whole = Calibrator(method="platt").fit(y_true, logits)
    slope, offset = fit_slowly(y_true[:, 0], logits[:, 0], with_offset=True)
    assert whole.slopes_[0] == pytest.approx(slope, rel=1e-3)
    assert whole.offsets_[0] == pytest.approx(offset, rel=1e-3)


def test_isotonic_meets_sklearn_at_the_centres_of_its_steps():
    y_true, logits, _ = draw_cells(4, 3000)
    peer = IsotonicRegression(out_of_bounds="clip").fit(logits[:, 0], y_true[:, 0])
    steps = peer.predict(logits[:, 0])
    calibrator = Calibrator(method="isotonic").fit(y_true, logits)
    assert calibrator.methods_ == ["isotonic"]
    for step in np.unique(steps)[1:-1]:  # the outermost are 0 and 1, which no probability is
        centre = logits[steps == step].mean()
        assert calibrator.predict_proba([[centre]])[0, 0] == pytest.approx(step, abs=1e-9)


def test_isotonic_ends_lie_between_the_outermost_steps_and_0_and_1():
    y_true = np.repeat([0.0, 0.0, 1.0, 1.0], [500, 1, 1, 500])[:, None]
    y_true[[499, 502]] = [[1], [0]]
    calibrator = Calibrator(method="isotonic").fit(y_true, np.arange(1002.0)[:, None] / 1000)
    logits, heights = calibrator.knots_[0]
    # None of 499 samples, which counts as 1 of 501; 2 of 4; all of 499; and Platt's slope beyond.
    np.testing.assert_allclose(logits[1:-1], [0.249, 0.5005, 0.752])
    np.testing.assert_allclose(expit(heights[1:-1]), [1 / 501, 0.5, 500 / 501])
    slope = calibrator.slopes_[0]
    np.testing.assert_allclose(heights[[0, -1]], heights[[1, -2]] + slope * (logits[[0, -1]] - logits[[1, -2]]))


@pytest.mark.parametrize(
    ("method", "distort"),
    [
        ("temperature", lambda z: 3 * z),
        ("platt", lambda z: 0.4 * z + 2),
        ("isotonic", lambda z: np.cbrt(z) * 4 + 1),
        ("auto", lambda z: 5 * z - 4),
        ("auto", lambda z: np.sinh(z)),
    ],
    ids=["temperature", "platt", "isotonic", "auto-line", "auto-curve"],
)
def test_a_known_miscalibration_is_undone(method, distort):
    calibrator = Calibrator(method=method).fit(*draw_cells(5, 4000, n_classes=2, distort=distort)[:2])
    y_true, logits, proba = draw_cells(6, 20_000, n_classes=2, distort=distort)
    best, before = measure_log_loss(y_true, proba), measure_log_loss(y_true, np.clip(expit(logits), 1e-9, 1 - 1e-9))
    assert (measure_log_loss(y_true, calibrator.predict_proba(logits)) <= 1.02 * best).all()
    assert (before > 1.04 * best).all()


def test_auto_chooses_by_support_and_by_what_cross_validation_prefers():
    y_true, logits, _ = draw_cells(7, 4000, n_classes=5)
    logits[:, 1] = np.where(logits[:, 1] > -1, 5.0, 0.0) + np.tanh(logits[:, 1])  # far from a sigmoid
    y_true[:, 2] = np.where(np.arange(4000) < 4, 1, 0)
    y_true[:, 3] = np.where(np.arange(4000) < 4, 0, 1)
    y_true[900:, 4] = np.nan
    calibrator = Calibrator().fit(y_true, logits)
    assert calibrator.methods_ == ["platt", "isotonic", "temperature", "temperature", "platt"]
    assert [knots is None for knots in calibrator.knots_] == [True, False, True, True, True]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("only", [0.0, 1.0, np.nan], ids=["absent", "present", "unknown"])
def test_a_class_of_one_known_value_gets_the_temperature(method, only):
    y_true, logits, _ = draw_cells(8, 200, n_classes=2, distort=lambda z: 3 * z)
    y_true[:, 1] = only
    calibrator = fit_quietly(method, y_true, logits)
    assert calibrator.methods_[1] == "temperature"
    assert calibrator.slopes_[1] == 1 / calibrator.temperature_


@pytest.mark.parametrize("n_samples", [0, 5])
def test_probabilities_stay_as_they_are_where_nothing_is_known(n_samples):
    calibrator = Calibrator().fit(np.full((n_samples, 2), np.nan), np.ones((n_samples, 2)))
    np.testing.assert_allclose(calibrator.predict_proba([[-1, 2]]), expit([[-1, 2]]))


def test_unknown_cells_do_not_matter():
    y_true, logits, _ = draw_cells(9, 3000, n_classes=2)
    y_true[::3, 0] = np.nan
    known = ~np.isnan(y_true[:, 0])
    whole = Calibrator(method="isotonic").fit(y_true, logits)
    part = Calibrator(method="isotonic").fit(y_true[known][:, :1], logits[known][:, :1])
    np.testing.assert_array_equal(whole.knots_[0], part.knots_[0])


@pytest.mark.parametrize("n_samples", [1500, 6000])
def test_the_order_of_samples_does_not_matter(n_samples):
    y_true, logits, _ = draw_cells(10, n_samples, n_classes=4, distort=np.cbrt)
    order = np.random.default_rng(0).permutation(n_samples)
    one, other = Calibrator().fit(y_true, logits), Calibrator().fit(y_true[order], logits[order])
    assert one.methods_ == other.methods_
    np.testing.assert_allclose(one.predict_proba(logits), other.predict_proba(logits), rtol=1e-6)


def test_far_and_infinite_logits_count_as_the_largest():
    y_true, logits, _ = draw_cells(11, 2000, n_classes=3, distort=lambda z: 25 * z)
    logits[:4] = [[np.inf], [-np.inf], [1e30], [-1e30]]
    near = np.clip(logits, -1000, 1000)
    for method in METHODS:
        calibrator = Calibrator(method=method).fit(y_true, logits.astype(np.float32))
        proba = calibrator.predict_proba(logits.astype(np.float32))
        assert ((proba > 0) & (proba < 1)).all()
        np.testing.assert_array_equal(proba, calibrator.predict_proba(near.astype(np.float32)))


LOGITS = st.sampled_from([0.0, 1.0, -2.0, 3.5, np.nextafter(1.0, 2), np.inf, -np.inf, 1e-300]) | st.floats(-110, 110)


def draw_table():
    shapes = st.tuples(st.integers(1, 40), st.integers(1, 3))
    labels = st.sampled_from([0.0, 1.0, np.nan])
    return shapes.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=labels), hnp.arrays(np.float64, shape, elements=LOGITS)
        )
    )


def repeat_for_support(table):
    """Return so many copies that isotonic regression is allowed where both kinds are known."""
    y_true, logits = table
    return np.tile(y_true, (1000, 1)), np.tile(logits, (1000, 1))


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_never_fall_and_the_state_gives_them_back(method):
    @settings(max_examples=80, deadline=None)
    @given(draw_table(), st.booleans(), hnp.arrays(np.float64, 30, elements=LOGITS))
    def check(table, many, further):
        calibrator = fit_quietly(method, *(repeat_for_support(table) if many else table))
        n_classes = table[0].shape[1]
        sorted_logits = np.repeat(np.sort([*further, *table[1].ravel()])[:, None], n_classes, axis=1)
        proba = calibrator.predict_proba(sorted_logits)
        assert ((proba > 0) & (proba < 1)).all()
        assert (np.diff(proba, axis=0) >= 0).all()
        other = Calibrator.from_state(json.loads(json.dumps(calibrator.get_state())))
        np.testing.assert_array_equal(other.predict_proba(sorted_logits), proba)
        assert other.get_state() == calibrator.get_state()

    check()


def test_isotonic_keeps_different_logits_apart():
    y_true, logits, _ = draw_cells(12, 5000, distort=lambda z: z.astype(np.float32))
    calibrator = Calibrator(method="isotonic").fit(y_true, logits)
    values = np.unique(np.concatenate([logits[:, 0], np.linspace(-30, 30, 1001, dtype=np.float32)]))[:, None]
    assert (np.diff(calibrator.predict_proba(values), axis=0) > 0).all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("method", METHODS[1:])
def test_mapped_thresholds_decide_alike(method, inverse):
    y_true, logits, _ = draw_cells(13, 2000, n_classes=3, distort=lambda z: np.round(0.7 * z + 1, 2))
    calibrator = Calibrator(method=method).fit(y_true, logits)
    raw, calibrated = expit(logits), calibrator.predict_proba(logits)
    if inverse:
        raw, calibrated = calibrated, raw
    for row in [*range(200), raw[:, 0].argmax(), raw[:, 0].argmin()]:
        between = (raw[row] + raw[row + 1 - len(raw)]) / 2
        for thresholds in (raw[row], between):  # on a sample, and between two
            mapped = calibrator.map_thresholds(thresholds, inverse=inverse)
            np.testing.assert_array_equal(calibrated >= mapped, raw >= thresholds)


def test_mapped_thresholds_come_back():
    y_true, logits, _ = draw_cells(14, 2000, n_classes=2, distort=lambda z: 2 * z + 1)
    calibrator = Calibrator(method="isotonic").fit(y_true, logits)
    for value in [0.0, 5e-324, 1e-9, 0.01, 0.5, 0.97, 1.0]:
        there = calibrator.map_thresholds([value, value])
        assert (there == value).all() == (value in (0, 1))
        np.testing.assert_allclose(calibrator.map_thresholds(there, inverse=True), value, atol=1e-9)


def test_isotonic_warns_once_of_classes_that_get_a_sigmoid():
    y_true, logits, _ = draw_cells(15, 1200, n_classes=3)
    y_true[49:, 1] = 0
    y_true[:, 2] = 0
    n_present = int(y_true[:, 1].sum())
    message = (
        "2 of 3 classes have too few known samples for isotonic calibration and get a sigmoid: the first is 'sea', "
        f"{n_present} present and {1200 - n_present} absent. It takes 1000 known samples, 50 of either kind; "
        "method='auto' chooses without this warning."
    )
    with pytest.warns(MultiLabelKitWarning) as caught:
        calibrator = Calibrator(method="isotonic").fit(y_true, logits, classes=["desert", "sea", "trees"])
    assert [str(warning.message) for warning in caught] == [message]
    assert calibrator.methods_ == ["isotonic", "platt", "temperature"]


def raise_message(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def test_fit_refuses_what_it_cannot_use():
    with raise_message(
        "The 'method' parameter of Calibrator must be 'auto', 'temperature', 'platt' or 'isotonic'. Got 'beta' instead."
    ):
        Calibrator(method="beta").fit([[1]], [[0.2]])
    with raise_message("logits must be finite. Got nan at row 1, column 0."):
        Calibrator().fit([[1], [0]], [[0.2], [np.nan]])
    with raise_message("y_true and logits must have the same shape. Got (2, 1) and (1, 2)."):
        Calibrator().fit([[1], [0]], [[0.2, 0.3]])
    with raise_message(
        "logits must be an array of numbers. Got [['high']] instead; turn labels of other formats into one with "
        "as_indicator(labels)."
    ):
        Calibrator().fit([[1]], [["high"]])
    with raise_message("classes must name each of 1 columns. Got 2 names: ['sea', 'trees']."):
        Calibrator().fit([[1]], [[0.2]], classes=["sea", "trees"])


def test_a_calibrator_must_be_fitted_and_get_its_own_columns():
    calibrator = Calibrator()
    message = "This Calibrator is not fitted yet. Call fit(y_true, logits) first."
    for use in (
        lambda: calibrator.predict_proba([[1]]),
        lambda: calibrator.map_thresholds([0.5]),
        calibrator.get_state,
    ):
        with pytest.raises(NotFittedError, match=f"^{re.escape(message)}$"):
            use()
    calibrator.fit([[1, 0]], [[0.2, 0.3]])
    for logits, shape in (([[1]], "(1, 1)"), ([1, 2], "(2,)")):
        with raise_message(
            "logits must have the shape (n_samples, 2), a column for each class that the calibrator was fitted to. "
            f"Got the shape {shape}."
        ):
            calibrator.predict_proba(logits)
    with raise_message("logits must be finite. Got nan at row 0, column 1."):
        calibrator.predict_proba([[1, np.nan]])
    assert calibrator.predict_proba(np.empty((0, 2))).shape == (0, 2)


STATE = {
    "method": "auto",
    "methods": ["platt", "isotonic"],
    "temperature": 1.5,
    "slopes": [1.0, 2.0],
    "offsets": [0.0, 1],
    "knots": [None, [[-1001.0, 1001.0], [-3.0, 4.0]]],
}
NUMBERS = "a list of finite numbers"
SLOPES = "a list of numbers >= 0.01"
KNOTS = "a list of None and pairs of equally long lists of ascending numbers"


@pytest.mark.parametrize(
    ("key", "value", "wanted", "shown"),
    [
        ("method", "none", "'auto', 'temperature', 'platt' or 'isotonic'", "'none'"),
        ("methods", ["auto"], "a list of 'temperature', 'platt' and 'isotonic'", "['auto']"),
        ("methods", "platt", "a list of 'temperature', 'platt' and 'isotonic'", "'platt'"),
        ("temperature", 0, "a number >= 1e-12 and <= 100.0", "0"),
        ("slopes", [1.0, -2.0], SLOPES, "[1.0, -2.0]"),
        ("slopes", [1.0, True], SLOPES, "[1.0, True]"),
        ("slopes", [10**400, 1], SLOPES, None),
        ("offsets", [0.0, np.nan], NUMBERS, "[0.0, nan]"),
        ("offsets", None, NUMBERS, "None"),
        ("knots", [None, [[0, 0], [1, 2]]], KNOTS, "[None, [[0, 0], [1, 2]]]"),
        ("knots", [None, [[0, 1, 2], [1, 2]]], KNOTS, "[None, [[0, 1, 2], [1, 2]]]"),
        ("knots", [None, [[0], [1]]], KNOTS, "[None, [[0], [1]]]"),
        ("knots", [None, [[0, 1]]], KNOTS, "[None, [[0, 1]]]"),
        ("knots", [None, [[0, 1], [0, np.inf]]], KNOTS, "[None, [[0, 1], [0, inf]]]"),
        ("knots", [None, [[0, 1], "ab"]], KNOTS, "[None, [[0, 1], 'ab']]"),
    ],
)
def test_from_state_refuses_what_is_out_of_range(key, value, wanted, shown):
    shown = shown or f"{str([10**400, 1])[:77]}..."
    with raise_message(f"The {key!r} parameter of a calibrator's state must be {wanted}. Got {shown} instead."):
        Calibrator.from_state(STATE | {key: value})


@pytest.mark.parametrize(
    ("change", "methods"),
    [
        ({"slopes": [1.0]}, "['platt', 'isotonic']"),
        ({"knots": [None, None]}, "['platt', 'isotonic']"),
        ({"methods": ["isotonic", "isotonic"]}, "['isotonic', 'isotonic']"),
        ({"methods": []}, "[]"),
    ],
)
def test_from_state_refuses_parts_that_do_not_fit_together(change, methods):
    with raise_message(
        "The state of a calibrator must hold a method, a slope, an offset and knots for each class, the knots None "
        f"unless the method is 'isotonic'. Got the methods {methods}."
    ):
        Calibrator.from_state(STATE | change)


@pytest.mark.parametrize(
    ("state", "shown"),
    [(None, "None"), ({"method": "auto"}, "['method']"), ({**STATE, "x": 1}, str([*STATE, "x"]))],
    ids=["nothing", "missing", "unknown"],
)
def test_from_state_refuses_what_is_no_state(state, shown):
    with raise_message(
        "The state of a calibrator must be a dict of method, methods, temperature, slopes, offsets, knots. "
        f"Got {shown}."
    ):
        Calibrator.from_state(state)


def test_a_state_of_extreme_numbers_gives_probabilities_still():
    extreme = [[-1e12, 0.0, 5e-324, 1e12], [-1e12, 0.0, 5e-324, 1e12]]
    state = STATE | {"slopes": [1e12, 1e12], "offsets": [-1e12, 1e12], "knots": [None, extreme]}
    proba = Calibrator.from_state(state).predict_proba([[0, 0], [1, 5e-324], [-np.inf, np.inf]])
    assert ((proba > 0) & (proba < 1)).all()
