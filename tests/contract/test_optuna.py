"""Optuna's search, as examples/search.py shows it, against scikit-learn's own cross-validation."""

import pytest
from optuna.distributions import FloatDistribution
from optuna_integration import OptunaSearchCV
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from multilabelkit import ImageEmbedder, MultiLabelImageClassifier, MultiLabelLogisticRegression, as_labels
from multilabelkit.metrics import make_multilabel_scorer
from multilabelkit.model_selection import MultiLabelStratifiedKFold


# Optuna says of itself what may change.
@pytest.mark.filterwarnings("ignore:.*OptunaSearchCV", "ignore::FutureWarning:optuna")
@pytest.mark.parametrize("kind", ["table", "lists"])
@pytest.mark.parametrize("name", ["network", "features"])
def test_optuna_search_scores_as_cross_validation_does(name, kind, shapes):
    network = MultiLabelImageClassifier(
        "small_cnn", image_size=32, max_epochs=1, thresholds=0.5, verbose=0, random_state=0
    )
    features = make_pipeline(ImageEmbedder("plain_cnn", image_size=32, random_state=0), MultiLabelLogisticRegression())
    estimator, values = {
        "network": (network, {"dropout": FloatDistribution(0.0, 0.5)}),
        "features": (features, {"multilabellogisticregression__C": FloatDistribution(0.1, 10.0, log=True)}),
    }[name]
    y = shapes.target if kind == "table" else [list(row) for row in as_labels(shapes.target)]
    scoring = "f1_macro" if kind == "table" else make_multilabel_scorer("f1_macro")
    cv = MultiLabelStratifiedKFold(2, random_state=0)
    search = OptunaSearchCV(estimator, values, cv=cv, scoring=scoring, n_trials=2, random_state=0)
    found = search.fit(list(shapes.images), y)
    best = clone(estimator).set_params(**found.best_params_)
    expected = cross_val_score(best, list(shapes.images), y, scoring=scoring, cv=cv)
    assert found.best_score_ == expected.mean()
    assert found.best_estimator_.predict(list(shapes.images)).shape == (48, 3)
