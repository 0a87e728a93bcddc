"""The estimators: scikit-learn's requirements, and what fastgd adds."""

import copy
import inspect
import os
import pickle
import threading
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from test_sklearn_follows import (
    FEW,
    RELATIVE,
    ROWS,
    TARGETS,
    X,
    both_fitted,
    difference,
    fitted,
    numbers,
    quietly,
    three,
    weight,
)

import fastgd
from fastgd.sklearn import MLPClassifier, MLPRegressor
from fastgd.sklearn import training as sklearn_training
from fastgd.training import sampling

BOTH = pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])


@BOTH
def test_constructor_is_scikit_learns(kind):
    theirs, ours = (
        [p.replace(annotation=p.empty) for p in inspect.signature(one).parameters.values()]
        for one in (getattr(sklearn.neural_network, kind.__name__), kind)
    )
    assert ours[: len(theirs)] == theirs
    assert {p.name for p in ours[len(theirs) :]} == {"dropout", "class_weight"} & set(kind().get_params())


# Checks that scikit-learn itself skips: they need an environment variable, or a method that neither package has.
SKIPPED = {"check_array_api_input", "check_classifiers_multilabel_output_format_decision_function"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("options", [{}, {"solver": "sgd"}, {"solver": "AdamW", "activation": "gelu"}])
@BOTH
def test_check_estimator(kind, options):
    results = check_estimator(kind(**options), on_skip=None)
    assert len(results) > 50
    assert {result["check_name"] for result in results if result["status"] != "passed"} <= SKIPPED


@BOTH
def test_pipeline_grid_search_clone_joblib(kind, tmp_path):
    y = three if kind is MLPClassifier else numbers
    search = GridSearchCV(
        make_pipeline(StandardScaler(), kind(max_iter=20, random_state=0, tol=1.0)),
        {f"{kind.__name__.lower()}__hidden_layer_sizes": [(2,), (20, 10)]}, n_jobs=2, cv=3, error_score="raise",
    )  # fmt: skip
    best = search.fit(X, y).best_estimator_
    joblib.dump(best, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model")
    for other in (loaded, copy.deepcopy(best), pickle.loads(pickle.dumps(best))):
        assert np.array_equal(other.predict(X), best.predict(X))
    assert clone(best)[-1].get_params() == best[-1].get_params()
    assert not hasattr(clone(best)[-1], "coefs_")


@pytest.mark.parametrize("dense_bytes", [2**26, 0])
@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("case", ["adam, weights", "early stopping, numbers", "lbfgs", "adam, all rows"])
def test_sparse_is_dense_to_rounding(case, container, dense_bytes, monkeypatch):
    monkeypatch.setattr(sklearn_training, "DENSE_BYTES", dense_bytes)
    monkeypatch.setattr(sampling, "STAGED_BYTES", 4096)  # less than an epoch
    thin = np.where(X > 0, X, 0)
    (_, dense), (_, sparse) = both_fitted(case, thin), both_fitted(case, container(thin))
    assert difference(dense, sparse) <= 1e-12
    np.testing.assert_allclose(dense.predict(thin), sparse.predict(container(thin)), rtol=1e-10)


@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_predictions_of_sparse_rows(hidden, activation):
    thin = np.where(X > 0, X, 0)
    for labels in (three, three == three[0]):
        options = {**FEW, "hidden_layer_sizes": hidden, "activation": activation, "dropout": 0.3}
        ours = quietly(MLPClassifier(**options).fit, thin, labels)
        got = ours.predict_proba(scipy.sparse.csr_matrix(thin))
        np.testing.assert_allclose(got, ours.predict_proba(thin), rtol=1e-10)


def test_a_loaded_estimator_goes_on_after_it_has_predicted():
    """Also after a while with another solver; with dropout it draws the masks of the original."""
    for dropout in (0.0, 0.3):
        ours = quietly(MLPClassifier(dropout=dropout, **FEW).fit, X, three)
        copies = [pickle.loads(pickle.dumps(ours)) for _ in range(2)]
        copies[0].predict(X)
        for estimator in (ours, *copies):
            estimator.partial_fit(X, three)
        for other in copies:
            for one, same in zip(ours.coefs_, other.coefs_, strict=True):
                np.testing.assert_array_equal(one, same)
    both = [make(**{**FEW, "warm_start": True}) for make in (MLPClassifier, sklearn.neural_network.MLPClassifier)]
    for estimator in both:
        for solver in ("adam", "lbfgs"):
            quietly(estimator.set_params(solver=solver).fit, X, three)
        estimator.set_params(solver="adam").partial_fit(X, three)
    np.testing.assert_allclose(both[0].predict_proba(X), both[1].predict_proba(X), rtol=1e-6)


def test_class_weight_of_labels_that_are_not_there():
    ours = MLPClassifier(class_weight={0: 5.0, 7: 2.0}, **FEW)
    ours.partial_fit(X[three != 1], three[three != 1], classes=[0, 1, 2, 7])
    with pytest.raises(ValueError, match=r"'class_weight\[0\]'.*-5"):
        MLPClassifier(class_weight={0: -5.0}, **FEW).fit(X, three)


def test_a_single_minibatch_moves_the_generator_on():
    states = []
    for make in (MLPClassifier, sklearn.neural_network.MLPClassifier):
        random_state = np.random.RandomState(0)
        quietly(make(**{**FEW, "random_state": random_state, "batch_size": "auto"}).fit, X, three)
        states.append(random_state.randint(10**6))
    assert states[0] == states[1]


def test_predictions_follow_coefs_that_are_set():
    ours = quietly(MLPRegressor(**FEW).fit, X, TARGETS["number"])
    before = ours.predict(X)
    ours.intercepts_[-1] = ours.intercepts_[-1] + 1
    assert ours.predict(X) == pytest.approx(before + 1, rel=1e-12)
    ours.coefs_[-1] *= 0  # in place
    assert ours.predict(X) == pytest.approx(np.full(ROWS, ours.intercepts_[-1][0]))
    ours = quietly(MLPClassifier(**FEW).fit, X, TARGETS["binary"])
    ours.coefs_[-1] *= 0
    for ours.intercepts_[-1][0], label in ((0.01, "yes"), (-0.01, "no")):  # a probability of 0.5025, 0.4975
        assert (ours.predict(X) == label).all()


def test_threads_may_predict_at_once():
    ours = quietly(MLPClassifier(**FEW).fit, X, three)
    ours = pickle.loads(pickle.dumps(ours))  # without a cached network
    expected, failed = quietly(MLPClassifier(**FEW).fit, X, three).predict_proba(X), []

    def work():
        for _ in range(50):
            if not np.array_equal(ours.predict_proba(X), expected):
                failed.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_ctrl_c_ends_a_fit_with_what_is_done(monkeypatch):
    def interrupted(self, value, best):
        if len(self.estimator.loss_curve_) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(sklearn_training.EpochEnd, "_count", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        ours = MLPClassifier(**FEW).fit(X, three)
    assert ours.n_iter_ == 3
    assert ours.predict(X).shape == (ROWS,)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_run_that_diverges_ends_at_once(early_stopping):
    ours = MLPRegressor(solver="sgd", activation="identity", learning_rate_init=1e3, early_stopping=early_stopping)
    if not early_stopping:
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            ours.fit(X, TARGETS["number"])
    else:
        with pytest.warns(ConvergenceWarning, match="diverged"):
            ours.fit(X, TARGETS["number"])
        assert np.isnan(ours.validation_scores_[-1])
        assert ours.n_iter_ == len(ours.loss_curve_) < 200
        assert np.isfinite(ours.predict(X)).all()


def test_verbose_prints_each_iteration(capsys):
    for solver in ("adam", "lbfgs"):
        ours = quietly(MLPClassifier(solver=solver, verbose=True, max_iter=3, early_stopping=True).fit, X, three)
        output = capsys.readouterr().out
        assert [f"Iteration {i}, loss" in output for i in (1, 3, 4)] == [True, True, False]
        assert f"{ours.loss_:.8f}" in output


# ---- what fastgd adds


def test_an_activation_for_each_layer():
    one, other = (quietly(MLPClassifier(**FEW, activation=a).fit, X, three) for a in ("tanh", ["tanh", "tanh"]))
    assert difference(one, other) == 0
    mixed = quietly(
        MLPClassifier(
            **FEW, learning_rate_init=0.03, activation=["logistic", fastgd.activations.leaky_relu(negative_slope=0.3)]
        ).fit,
        X,
        three,
    )
    a = 1 / (1 + np.exp(-(X @ mixed.coefs_[0] + mixed.intercepts_[0])))
    z = a @ mixed.coefs_[1] + mixed.intercepts_[1]
    z = np.where(z > 0, z, 0.3 * z) @ mixed.coefs_[2] + mixed.intercepts_[2]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mixed.predict_proba(X), p, rtol=1e-9)
    assert mixed.score(X, three) > 0.5


def test_dropout_after_hidden_layers():
    plain, none, some, listed = (
        quietly(MLPClassifier(**FEW, learning_rate_init=0.03, activation="tanh", dropout=rate).fit, X, three)
        for rate in (0.0, [0, 0], 0.4, [0.4, 0.4])
    )
    assert difference(plain, none) == 0
    assert difference(some, listed) == 0  # both draw the same masks
    assert some.loss_ > plain.loss_ + 0.05
    assert [repr(layer).split("(")[0] for layer in some._kept.network.layers] == ["Dense", "Dropout"] * 2 + ["Dense"]
    a = X
    for w, b in zip(some.coefs_[:-1], some.intercepts_[:-1], strict=True):
        a = np.tanh(a @ w + b)
    z = a @ some.coefs_[-1] + some.intercepts_[-1]
    assert np.array_equal(some.predict(X), z.argmax(axis=1))
    other = clone(some).set_params(random_state=4, dropout=[0, 0.4])
    for _ in range(3):
        other.partial_fit(X, three, classes=np.unique(three))
    assert np.isfinite(pickle.loads(pickle.dumps(other)).partial_fit(X, three).loss_)


def test_any_optimizer_of_fastgd():
    rate = fastgd.schedules.cosine(0.01, total_steps=200)
    given = fastgd.AdamW(rate, weight_decay=0.1, clip_norm=1.0)
    ours = MLPClassifier(**FEW, solver=given)
    assert clone(ours).get_params()["solver"].config() == given.config()
    first, again, copied = (fitted(quietly(e.fit, X, three))["coefs_"] for e in (ours, ours, clone(ours)))
    assert np.array_equal(first, again)
    assert np.array_equal(first, copied)
    assert ours.solver is given
    assert given.steps == 0
    assert not given.state
    named, made = (MLPClassifier(**FEW, solver=s) for s in ("NAdam", fastgd.NAdam(FEW.get("learning_rate_init", 1e-3))))
    assert difference(quietly(named.fit, X, three), quietly(made.fit, X, three)) == 0
    assert not np.array_equal(fitted(named)["coefs_"], first)


@pytest.mark.parametrize("target", ["binary", "three", "multilabel"])
def test_class_weight_is_weight_of_rows(target):
    y = TARGETS[target]
    if target == "multilabel":
        classes, factor = [{0: 1, 1: 3}] * 4, np.where(y, 3.0, 1.0).prod(axis=1)
    else:
        first = y[0]
        classes, factor = {first: 3.0}, np.where(y == first, 3.0, 1.0)
    options = {**FEW, "early_stopping": target == "three"}
    ours = quietly(MLPClassifier(**options, class_weight=classes).fit, X, y, weight + 1)
    if target != "three":  # class weights do not apply to held-out rows
        assert difference(quietly(MLPClassifier(**options).fit, X, y, (weight + 1) * factor), ours) <= RELATIVE
    plain = quietly(MLPClassifier(**options).fit, X, y, weight + 1)
    assert plain.n_iter_ != ours.n_iter_ or difference(plain, ours) > 1e-3


def test_balanced_classes():
    y = np.repeat([0, 1], [100, ROWS - 100])
    balanced, given = (MLPClassifier(**FEW, class_weight=c) for c in ("balanced", {0: ROWS / 200, 1: ROWS / 22}))
    assert difference(quietly(balanced.fit, X, y), quietly(given.fit, X, y)) <= RELATIVE
    with pytest.raises(ValueError, match="class_weight.*partial_fit"):
        balanced.partial_fit(X, y)


WRONG = {
    "solver": ("adamm", "did you mean 'adam'"),
    "activation": (["relu"] * 3, "activation.*one for each of 2 hidden layers"),
    "hidden_layer_sizes": ((9, 0), r"hidden_layer_sizes\[1\].*>= 1"),
    "dropout": (1.0, r"dropout.*\[0, 1\)"),
    "learning_rate": ("falling", "learning_rate.*invscaling"),
    "alpha": (-1, "alpha"),
    "momentum": (1.0, "momentum"),
    "batch_size": (0, "batch_size"),
    "n_iter_no_change": (0, "n_iter_no_change"),
    "max_iter": (0, "max_iter"),
    "validation_fraction": (1.0, "validation_fraction"),
    "verbose": (-1, "verbose"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_wrong_arguments(name):
    value, match = WRONG[name]
    ours = MLPClassifier(**{**FEW, name: value})
    with pytest.raises(ValueError, match=match):
        ours.fit(X, three)
    assert not hasattr(ours, "coefs_")


def test_errors_name_wrong_data():
    with pytest.raises(ValueError, match="not all zero in any minibatch"):
        MLPClassifier(**FEW, shuffle=False).fit(X, three, np.arange(ROWS) < 20)
    with pytest.raises(ValueError, match="'y': expected numbers >= 0, got -1"):
        MLPRegressor(loss="poisson").fit(X, np.full(ROWS, -1.0))
    with pytest.raises(ValueError, match="'y'.*columns of 0 and 1"):
        MLPClassifier().fit(X, np.column_stack([three, three]))
    with pytest.raises(ValueError, match="'loss'.*'poisson'"):
        MLPRegressor(loss="huber").fit(X, three)
    with pytest.raises(ValueError, match="dropout.*lbfgs"):
        MLPRegressor(dropout=0.5, solver="lbfgs").fit(X, three)
    ours = quietly(MLPClassifier(**FEW).fit, X, three)
    ours.coefs_[0] = ours.coefs_[0][:1]
    with pytest.raises(ValueError, match=r"'coefs_, intercepts_'.*\(6, 9\).*\(1, 9\)"):
        ours.predict(X)


def test_arguments_set_after_a_fit():
    """A new activation affects predictions at once, new sizes only after the weights are drawn anew."""
    both = [make(**{**FEW, "warm_start": True}) for make in (MLPClassifier, sklearn.neural_network.MLPClassifier)]
    for estimator in both:
        quietly(estimator.fit, X, three)
        estimator.predict(X)
        estimator.set_params(activation="tanh")
    np.testing.assert_allclose(both[0].predict_proba(X), both[1].predict_proba(X), rtol=1e-9)
    both[0].set_params(hidden_layer_sizes=(4,))
    np.testing.assert_allclose(
        pickle.loads(pickle.dumps(both[0])).predict_proba(X), both[1].predict_proba(X), rtol=1e-9
    )
    for estimator in both:
        quietly(estimator.fit, X, three)
    np.testing.assert_allclose(both[0].predict_proba(X), both[1].predict_proba(X), rtol=1e-7)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_raises_changes_nothing(solver):
    bad = X.copy()
    bad[90:] = 1e200
    one, other = (MLPClassifier(**{**FEW, "solver": solver}).partial_fit(X, three, classes=[0, 1, 2]) for _ in range(2))
    for attempt in (one.partial_fit, one.fit):
        with pytest.raises(ValueError, match="non-finite"):
            attempt(bad, three)
        with pytest.raises(ValueError, match="sample_weight"):
            attempt(X, three, np.ones(3))
    for _ in range(2):
        for estimator in (one, other):
            estimator.partial_fit(X, three)
    assert one.loss_curve_ == other.loss_curve_
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])
    new = MLPClassifier(**FEW)
    with pytest.raises(ValueError, match="sample_weight"):
        new.partial_fit(X, three, np.ones(3), classes=[0, 1, 2])
    assert not hasattr(new, "classes_")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_warning_that_is_an_error_leaves_what_is_done(solver):
    ours = MLPClassifier(**{**FEW, "solver": solver, "max_iter": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            ours.fit(X, three)
    np.testing.assert_array_equal(ours.coefs_[0], quietly(MLPClassifier(**ours.get_params()).fit, X, three).coefs_[0])


def test_an_optimizer_in_use_elsewhere_gives_its_options():
    used, fresh = fastgd.Adam(0.01), fastgd.Adam(0.01)
    fastgd.Network(6, [fastgd.Dense(1)], loss="mse").fit(X, X[:, 0], optimizer=used, epochs=1)
    one, other = (quietly(MLPClassifier(**{**FEW, "solver": o}).fit, X, three) for o in (used, fresh))
    assert one.loss_curve_ == other.loss_curve_


def test_early_stopping_before_the_first_score_keeps_the_first_weights():
    options = {**FEW, "solver": "sgd", "early_stopping": True, "learning_rate_init": 1e9, "activation": "identity"}
    ours = MLPRegressor(**options)
    with pytest.warns(ConvergenceWarning, match="best parameters"):
        ours.fit(10 * X, 10 * X[:, 0])
    assert np.abs(ours.coefs_[0]).max() < 1


def test_a_mapped_file_that_became_shorter_is_an_error(tmp_path, rng):
    path, X = tmp_path / "x.npy", rng.normal(size=(2000, 4))
    estimator = MLPRegressor(hidden_layer_sizes=(2,), solver="SGD", max_iter=1, tol=0)
    with pytest.warns(ConvergenceWarning):
        estimator.fit(X[:50], X[:50, 0])
    for use in (estimator.predict, lambda x: estimator.fit(x, X[:, 0]), lambda x: estimator.partial_fit(X, x[:, 0])):
        np.save(path, X)
        mapped = np.load(path, mmap_mode="r")
        os.truncate(path, 4096)
        with pytest.raises(OSError, match="file of a mapped array"):
            use(mapped)
