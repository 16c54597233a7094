import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, logit

from multilabelkit.threshold_prior import combine_with_anchors, compute_anchors, move_towards, to_logit, to_proba

LARGEST = logit(1 - 1e-7)


def calibrate_slowly(labels, logits):
    """Return the slope and offset of least loss over single cells, by a search of one inside a search of the other."""

    def measure_loss(slope, offset):
        margin = slope * logits + offset
        loss = np.logaddexp(0, margin).sum() - margin[labels == 1].sum()
        return loss + (slope - 1) ** 2 / 2 + offset**2 / 2

    def search(measure, low, high):
        return scipy.optimize.minimize_scalar(measure, bounds=(low, high), method="bounded", options={"xatol": 1e-8})

    def fit_offset(slope):
        return search(lambda offset: measure_loss(slope, offset), -50, 50)

    slope = search(lambda slope: fit_offset(slope).fun, 0.05, 20).x
    return slope, fit_offset(slope).x


def find_best_expected_f1_slowly(proba):
    """Try every number of predictions in plain Python, those of highest probability first."""
    proba = sorted(proba, reverse=True)
    return max(2 * sum(proba[:n]) / (sum(proba) + n) for n in range(1, len(proba) + 1))


def compute_anchors_slowly(kind, scores):
    logits = logit(np.clip(scores, 1e-7, 1 - 1e-7))
    slope, offset = calibrate_slowly(kind[kind < 2], logits[kind < 2])
    anchors = []
    for known, column in zip(kind < 2, logits, strict=True):
        best = find_best_expected_f1_slowly(expit(slope * column[known] + offset))
        anchors.append((logit(best / 2) - offset) / slope)
    return np.array(anchors)


def draw_cells(seed, *, n_classes=4, n_samples=60, unknown=0.1, distort=lambda logits: logits):
    """Return (kind, scores) of shape (n_classes, n_samples); without distortion, the scores are calibrated."""
    random = np.random.default_rng(seed)
    prevalence, distance = random.uniform(0.05, 0.4, (n_classes, 1)), random.uniform(1, 3, (n_classes, 1))
    kind = (random.random((n_classes, n_samples)) < prevalence).astype(np.int16)
    seen = distance * kind + random.normal(size=kind.shape)
    scores = expit(distort(distance * seen - distance**2 / 2 + logit(prevalence)))
    kind[random.random(kind.shape) < unknown] = 2
    return kind, scores


@pytest.mark.parametrize(
    "distort",
    [
        lambda logits: logits,
        lambda logits: 0.3 * logits + 2,
        lambda logits: 4 * logits - 3,
        lambda logits: logits.round(),
        lambda logits: np.where(np.abs(logits) > 2, np.inf * np.sign(logits), logits),
        lambda logits: -logits,
    ],
    ids=["calibrated", "timid", "bold", "tied", "zeros-and-ones", "reversed"],
)
def test_anchors_are_those_of_single_cells_and_all_cuts(distort):
    for seed, n_samples in enumerate([12, 60, 300]):
        kind, scores = draw_cells(seed, n_samples=n_samples, distort=distort)
        expected = np.clip(compute_anchors_slowly(kind, scores), -LARGEST, LARGEST)
        np.testing.assert_allclose(compute_anchors(kind, scores), expected, atol=1e-2)


def test_the_anchor_of_calibrated_probabilities_is_half_the_best_f1():
    kind, scores = draw_cells(0, n_classes=3, n_samples=100_000, unknown=0)
    order = np.argsort(-scores, axis=1)
    hits = np.cumsum(np.take_along_axis(kind, order, axis=1), axis=1)
    f1 = 2 * hits / (hits[:, -1:] + np.arange(1, kind.shape[1] + 1))
    np.testing.assert_allclose(to_proba(compute_anchors(kind, scores)), f1.max(axis=1) / 2, atol=0.01)


def test_anchors_follow_a_distortion_that_all_classes_share():
    straight = compute_anchors(*draw_cells(1, n_samples=50_000))
    kind, scores = draw_cells(1, n_samples=50_000, distort=lambda logits: 0.5 * logits - 1)
    np.testing.assert_allclose(compute_anchors(kind, scores), 0.5 * straight - 1, atol=0.01)


def test_the_anchor_of_a_class_needs_no_positive_of_its_own():
    kind, scores = draw_cells(2, n_classes=20, n_samples=300, unknown=0)
    anchors = compute_anchors(kind, scores)
    kind[0] = 0
    np.testing.assert_allclose(compute_anchors(kind, scores)[0], anchors[0], atol=0.2)


def test_unknown_cells_change_no_anchor():
    kind, scores = draw_cells(3)
    scores = np.hstack([scores, np.random.default_rng(0).random((4, 50))])
    anchors = compute_anchors(np.pad(kind, [(0, 0), (0, 50)], constant_values=2), scores)
    np.testing.assert_array_equal(anchors, compute_anchors(kind, scores[:, :60]))


def test_a_class_without_a_known_sample_has_no_anchor_and_changes_no_other():
    kind, scores = draw_cells(4)
    kind[1] = 2
    anchors, others = compute_anchors(kind, scores), [0, 2, 3]
    np.testing.assert_array_equal(np.isnan(anchors), [False, True, False, False])
    np.testing.assert_allclose(anchors[others], compute_anchors(kind[others], scores[others]), rtol=1e-9)


def test_anchors_do_not_depend_on_the_order_of_samples_or_classes():
    kind, scores = draw_cells(5)
    rows, columns = [2, 0, 3, 1], np.random.default_rng(0).permutation(60)
    moved = compute_anchors(kind[rows][:, columns], scores[rows][:, columns])
    np.testing.assert_allclose(moved, compute_anchors(kind, scores)[rows], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 8)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.int16, shape, elements=st.sampled_from([0, 1])),
            hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 5e-324, 0.3, 1.0]) | st.floats(0, 1)),
        )
    )
)
def test_anchors_are_never_beyond_the_logits_that_there_are(cells):
    assert (np.abs(compute_anchors(*cells)) <= LARGEST + 1e-9).all()


def combine_by_quadrature(own, anchors, noise):
    """The posterior mean of thresholds ~ N(anchor, spread**2), seen with noise, spread half-Cauchy of scale 2."""

    def weigh(spread):
        density = scipy.stats.norm.pdf(own, anchors, np.sqrt(spread**2 + noise)).prod()
        return density * scipy.stats.halfcauchy.pdf(spread, scale=2)

    def integrate(function):
        parts = ((0, 1), (1, 10), (10, np.inf))
        return sum(scipy.integrate.quad(function, *ends, epsabs=0, limit=500)[0] for ends in parts)

    total = integrate(weigh)
    trust = [integrate(lambda s, one=one: weigh(s) * s**2 / (s**2 + one)) / total for one in noise]
    return anchors + np.array(trust) * (own - anchors)


@pytest.mark.parametrize("n_classes", [1, 2, 5, 20])
def test_own_thresholds_count_as_far_as_all_spreads_that_are_plausible_say(n_classes):
    for seed in range(5):
        random = np.random.default_rng(seed)
        anchors, noise = random.normal(size=n_classes), random.uniform(0.05, 2, n_classes)
        own = anchors + random.normal(0, random.uniform(0, 2), n_classes)
        expected = combine_by_quadrature(own, anchors, noise)
        np.testing.assert_allclose(combine_with_anchors(own, anchors, noise), expected, atol=1e-3)


def test_a_noisier_class_goes_nearer_to_its_anchor():
    low, high = combine_with_anchors(np.array([3.0, 3.0]), np.zeros(2), np.array([3.0, 1.0]))
    assert 0 < low < high < 3


def test_differences_that_chance_explains_nearly_leave_the_anchors():
    differences = np.tile([0.5, -0.5], 50)
    assert np.abs(combine_with_anchors(differences, np.zeros(100), np.ones(100))).max() < 0.05


def test_many_classes_weigh_their_differences_by_the_spread_that_is_their_own():
    # Spread 2**2 - 1, so 3 / (3 + 1).
    combined = combine_with_anchors(np.tile([2.0, -2.0], 5000), np.zeros(10000), np.ones(10000))
    np.testing.assert_allclose(np.abs(combined), 1.5, rtol=1e-2)


def test_differences_far_beyond_chance_leave_the_own_thresholds():
    own = np.array([30.0, -30.0, 25.0])
    np.testing.assert_allclose(combine_with_anchors(own, np.zeros(3), np.ones(3)), own, rtol=5e-3)


def test_logits_and_probabilities_are_inverse_and_finite():
    proba = np.array([1e-6, 0.2, 0.5, 1 - 1e-6])
    np.testing.assert_allclose(to_proba(to_logit(proba)), proba, rtol=1e-12)
    np.testing.assert_allclose(to_logit(np.array([0.0, 1.0])), [-LARGEST, LARGEST], rtol=1e-9)


def test_move_towards_goes_a_share_of_the_way_in_logits():
    moved = move_towards(np.array([0.5, 0.2, 0.0]), 0.8, np.array([0.5, 1.0, 0.0]))
    np.testing.assert_allclose(moved, [2 / 3, 0.8, 0.0], rtol=1e-12)  # odds 1 and 4 meet at 2
