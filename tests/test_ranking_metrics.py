import re

import numpy as np
import pytest
from sklearn import metrics as reference

from multilabelkit import metrics
from multilabelkit.errors import InputError

N_MATRICES = 1000
LABEL_RANKINGS = {
    metrics.label_ranking_average_precision: reference.label_ranking_average_precision_score,
    metrics.label_ranking_loss: reference.label_ranking_loss,
    metrics.coverage_error: reference.coverage_error,
}


def draw(seed):
    """Return a table of labels, scores with ties and weights, with absent and full classes among them."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 30), rng.integers(2, 7)
    y_true = (rng.random(shape) < rng.choice([0.0, 0.1, 0.4, 1.0], shape[1])).astype(float)
    return y_true, np.round(rng.normal(size=shape), rng.integers(0, 3)), rng.integers(0, 4, shape[0]) + 0.5


def hide(y_true, seed, share=0.3):
    return np.where(np.random.default_rng(seed).random(y_true.shape) < share, np.nan, y_true)


def test_average_precision_equals_sklearn_with_ties_and_unknown_labels():
    for seed in range(N_MATRICES):
        y_true, scores, weight = draw(seed)
        y_true = hide(y_true, seed)
        ours = metrics.average_precision(y_true, scores, sample_weight=weight if seed % 2 else None)
        for place, (truth, score) in enumerate(zip(y_true.T, scores.T, strict=True)):
            known = ~np.isnan(truth)
            if not np.any(truth == 1):
                assert np.isnan(ours[place])
                continue
            params = {"sample_weight": weight[known]} if seed % 2 else {}
            expected = reference.average_precision_score(truth[known], score[known], **params)
            assert ours[place] == pytest.approx(expected, rel=0, abs=1e-12)


def test_average_precision_of_a_worked_example():
    # ranks: hit, miss, hit -> (1/1 + 2/3) / 2
    assert metrics.average_precision([[1], [0], [1]], [[0.9], [0.8], [0.7]])[0] == pytest.approx(5 / 6)


def test_average_precision_of_equal_scores_is_the_share_of_positives():
    assert metrics.average_precision([[1], [0], [0], [0]], [[0.3]] * 4)[0] == pytest.approx(0.25)


def test_average_precision_takes_logits():
    y_true, scores, _ = draw(3)
    proba = 1 / (1 + np.exp(-scores))
    np.testing.assert_array_equal(metrics.average_precision(y_true, scores), metrics.average_precision(y_true, proba))


def test_mean_average_precision_skips_classes_without_positives():
    y_true, scores = [[1, 0, 1], [0, 0, 0]], [[0.9, 0.1, 0.2], [0.8, 0.2, 0.7]]
    assert metrics.mean_average_precision(y_true, scores) == pytest.approx((1 + 0.5) / 2)
    assert np.isnan(metrics.mean_average_precision(np.zeros((2, 3)), scores))


@pytest.mark.parametrize("ours", LABEL_RANKINGS, ids=lambda ours: ours.__name__)
def test_rankings_of_labels_equal_sklearn_on_random_matrices(ours):
    for seed in range(N_MATRICES):
        y_true, scores, weight = draw(seed)
        params = {"sample_weight": weight if seed % 2 else None}
        expected = LABEL_RANKINGS[ours](y_true, scores, **params)
        assert ours(y_true, scores, **params) == pytest.approx(expected, rel=0, abs=1e-12)


def rank_by_hand(truth, scores):
    """Return LRAP, ranking loss and coverage error of the known labels of one sample, by their definitions."""
    present = [score for label, score in zip(truth, scores, strict=True) if label == 1]
    absent = [score for label, score in zip(truth, scores, strict=True) if label == 0]
    rank = {score: sum(other >= score for other in present + absent) for score in present}
    coverage = max(rank.values(), default=0)
    if not present or not absent:
        return 1, 0, coverage
    shares = [sum(other >= score for other in present) / rank[score] for score in present]
    wrong = sum(low >= high for high in present for low in absent)
    return np.mean(shares), wrong / (len(present) * len(absent)), coverage


def test_unknown_labels_are_left_out_of_the_ranking_of_their_sample():
    for seed in range(200):
        y_true, scores, weight = draw(seed)
        y_true = hide(y_true, seed, share=0.5)
        known = ~np.isnan(y_true).all(axis=1)
        if not known.any():
            continue
        rows = [rank_by_hand(truth, score) for truth, score in zip(y_true[known], scores[known], strict=True)]
        expected = np.average(rows, axis=0, weights=weight[known])
        found = [measure(y_true, scores, sample_weight=weight) for measure in LABEL_RANKINGS]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_unknown_label_changes_nothing_but_its_own_pairs():
    # known labels: present at 0.7, absent at 0.5 and 0.9 -> ranked second; the unknown one at 0.8 does not push it down
    y_true, scores = [[1, 0, 0, np.nan]], [[0.7, 0.5, 0.9, 0.8]]
    assert metrics.label_ranking_average_precision(y_true, scores) == 0.5
    assert metrics.label_ranking_loss(y_true, scores) == 0.5
    assert metrics.coverage_error(y_true, scores) == 2


def test_samples_without_a_pair_count_as_right():
    y_true, scores = [[1, 1], [0, 0], [1, np.nan], [np.nan, np.nan]], np.zeros((4, 2))
    assert metrics.label_ranking_average_precision(y_true, scores) == 1
    assert metrics.label_ranking_loss(y_true, scores) == 0
    assert metrics.coverage_error(y_true, scores) == pytest.approx((2 + 0 + 1) / 3)


def test_tables_of_many_blocks_equal_their_parts():
    rng = np.random.default_rng(0)
    y_true, scores = hide((rng.random((3, 200_000)) < 0.01).astype(float), 0), rng.random((3, 200_000))
    for measure in LABEL_RANKINGS:
        parts = [measure(y_true[[row]], scores[[row]]) for row in range(3)]
        assert measure(y_true, scores) == pytest.approx(np.mean(parts), rel=1e-12)


def test_metrics_of_scores_refuse_what_is_not_finite():
    message = "scores must be finite. Got inf at row 1, column 0."
    for measure in (metrics.average_precision, *LABEL_RANKINGS):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            measure([[1], [0]], [[0.1], [np.inf]])
