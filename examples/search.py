"""Searches with Optuna: a classifier of features, and a network whose hopeless trainings are given up early."""

import warnings

import optuna
from optuna.distributions import FloatDistribution
from optuna_integration import OptunaSearchCV
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multilabelkit import ImageEmbedder, MultiLabelImageClassifier, MultiLabelLogisticRegression
from multilabelkit.datasets import make_shapes
from multilabelkit.model_selection import MultiLabelStratifiedKFold, multilabel_train_test_split
from multilabelkit.training import OptunaPruning

warnings.filterwarnings("ignore", message=".*OptunaSearchCV")  # that it may change, and how
warnings.filterwarnings("ignore", module="optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

shapes = make_shapes(300, random_state=0)
X_train, X_test, y_train, y_test = multilabel_train_test_split(shapes.images, shapes.target, random_state=0)

# Every image passes the network once, whatever the number of trials: its features are kept. For photographs, take
# ImageEmbedder("resnet50"); this network has random weights, which must be the same in every fold.
pipeline = make_pipeline(
    ImageEmbedder("plain_cnn", image_size=32, random_state=0), StandardScaler(), MultiLabelLogisticRegression()
)
search = OptunaSearchCV(
    pipeline,
    {"multilabellogisticregression__C": FloatDistribution(1e-3, 1e2, log=True)},
    cv=MultiLabelStratifiedKFold(3, random_state=0),
    scoring="f1_macro",
    n_trials=8,
    random_state=0,
).fit(X_train, y_train)
print("features:", search.best_params_, "macro-F1", round(search.best_score_, 3))
print("macro-F1 on unseen images:", round(search.score(X_test, y_test), 3))

clf = MultiLabelImageClassifier(
    "small_cnn", image_size=32, max_epochs=6, backbone_lr_factor=1.0, verbose=0, random_state=0
)


def objective(trial):
    """Train one network; one fit a trial, on the same images each time, so that epochs can be compared."""
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    watched = clone(clf).set_params(learning_rate=rate, dropout=dropout, callbacks=[OptunaPruning(trial)])
    history = watched.fit(X_train, y_train).history_
    return max(row["valid_map"] for row in history)  # on images that fit sets aside, the same in every trial


study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
)
study.optimize(objective, n_trials=8)
pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
print(f"network: {study.best_params}, mAP {study.best_value:.3f}; {pruned} of {len(study.trials)} trainings given up")

clf.set_params(**study.best_params).fit(X_train, y_train)
print("macro-F1 on unseen images:", round(clf.score(X_test, y_test), 3))
