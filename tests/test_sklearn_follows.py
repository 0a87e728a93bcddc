"""The estimators agree with scikit-learn's up to rounding: the same random state gives the same weights, minibatches,
losses and epochs."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning

import fastgd
from fastgd.engine.steps import Steps
from fastgd.sklearn import MLPClassifier, MLPRegressor
from fastgd.sklearn import perceptron as sklearn_perceptron
from fastgd.sklearn import training as sklearn_training

ROWS = 111  # no multiple of the batch size
RELATIVE = 1e-9  # for float64, after some hundred steps

rng = np.random.default_rng(0)
X, three = make_classification(ROWS, 6, n_informative=4, n_classes=3, random_state=0)
_, numbers = make_regression(ROWS, 6, n_targets=3, random_state=0)
numbers /= numbers.std()
weight = rng.integers(0, 4, ROWS).astype(float)
TARGETS = {
    "binary": np.array(["no", "yes"])[(X[:, 0] + X[:, 1] > 0).astype(int)],
    "flag": (X[:, 0] + X[:, 1] > 0).astype(int),
    "three": three,
    "multilabel": make_multilabel_classification(ROWS, 6, n_classes=4, random_state=0)[1],
    "two labels": make_multilabel_classification(ROWS, 6, n_classes=2, random_state=0)[1],
    "number": numbers[:, 0],
    "numbers": numbers,
    "count": rng.poisson(np.exp(X[:, 0] / 3)).astype(float),
    "counts": rng.poisson(np.exp(X[:, :2] / 3)).astype(float),
}
FEW = {"hidden_layer_sizes": (9, 5), "max_iter": 25, "batch_size": 20, "random_state": 3, "tol": 1e-5}
SGD = {**FEW, "solver": "sgd", "learning_rate_init": 0.05}
LBFGS = {**FEW, "solver": "lbfgs", "max_iter": 12}
FOLLOWED = {
    "adam": ("three", {**FEW, "alpha": 0.3}),
    "adam, defaults": ("three", {"max_iter": 15, "random_state": 0}),
    "adam, weights": ("three", {**FEW, "alpha": 0.3}, weight),
    "adam, binary, logistic": ("binary", {**FEW, "activation": "logistic", "learning_rate_init": 0.01}),
    "adam, multilabel": ("multilabel", {**FEW, "activation": "tanh", "alpha": 0.1}),
    "adam, two labels": ("two labels", FEW),
    "adam, number": ("number", {**FEW, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    "adam, numbers": ("numbers", {**FEW, "activation": "identity", "alpha": 1.0}),
    "adam, in order": ("numbers", {**FEW, "shuffle": False}, weight),
    "adam, poisson": ("count", {**FEW, "loss": "poisson", "alpha": 0.1}, weight),
    "adam, poisson, two": ("counts", {**FEW, "loss": "poisson"}),
    "adam, converges": ("number", {**FEW, "tol": 0.02, "n_iter_no_change": 3, "max_iter": 200}),
    "adam, all rows": ("three", {**FEW, "batch_size": ROWS}),
    "adam, no hidden layer": ("three", {**FEW, "hidden_layer_sizes": (), "activation": "logistic"}),
    "early stopping, stratified": ("flag", {**FEW, "early_stopping": True, "n_iter_no_change": 3, "max_iter": 99}),
    "early stopping": ("three", {**FEW, "early_stopping": True, "validation_fraction": 0.2, "tol": 0.0}, weight),
    "early stopping, numbers": ("numbers", {**SGD, "early_stopping": True, "tol": 0.01, "max_iter": 99}),
    "sgd": ("three", SGD),
    "sgd, heavy ball": ("number", {**SGD, "nesterovs_momentum": False, "alpha": 0.2}, weight),
    "sgd, no momentum": ("three", {**SGD, "momentum": 0}),
    "sgd, invscaling": ("three", {**SGD, "learning_rate": "invscaling", "power_t": 0.2}),
    "sgd, invscaling, heavy ball": ("three", {
        **SGD, "learning_rate": "invscaling", "power_t": 0.2, "nesterovs_momentum": False,
    }),
    "sgd, adaptive": ("number", {
        **SGD, "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2, "max_iter": 99,
    }),
    "sgd, adaptive, its last rate": ("number", {
        **SGD, "learning_rate": "adaptive", "learning_rate_init": 1e-6, "tol": 1.0, "n_iter_no_change": 2,
    }),
    "sgd, adaptive, early stopping": ("three", {
        **SGD, "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 1, "early_stopping": True, "max_iter": 99,
    }),
    "lbfgs": ("three", {**LBFGS, "alpha": 0.3}),
    "lbfgs, weights": ("binary", LBFGS, weight),
    "lbfgs, multilabel": ("multilabel", {**LBFGS, "activation": "logistic"}),
    "lbfgs, number": ("number", {**LBFGS, "activation": "tanh"}),
    "lbfgs, numbers": ("numbers", {**LBFGS, "max_iter": 5}),
    "lbfgs, poisson": ("count", {**LBFGS, "loss": "poisson"}),
}  # fmt: skip


def kinds(target):
    name = "MLPRegressor" if TARGETS[target].dtype == float else "MLPClassifier"
    return getattr(sklearn.neural_network, name), getattr(fastgd.sklearn, name)


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*arguments, **options)


def both_fitted(case, data=X):
    """scikit-learn's estimator and ours, fitted alike."""
    target, options, *weights = FOLLOWED[case]
    return [quietly(kind(**options).fit, data, TARGETS[target], *weights) for kind in kinds(target)]


def fitted(estimator):
    """The fitted attributes, as numbers by name."""
    names = ("loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_", "n_iter_", "t_")
    found = {name: getattr(estimator, name) for name in names if getattr(estimator, name, None) is not None}
    for name in ("coefs_", "intercepts_"):
        found[name] = np.concatenate([array.ravel() for array in getattr(estimator, name)])
    return found


def difference(theirs, ours):
    """The largest relative difference of fitted attributes; infinite if the numbers of epochs differ."""
    one, other = fitted(theirs), fitted(ours)
    assert list(one) == list(other)
    if any(np.shape(one[name]) != np.shape(other[name]) for name in one):
        return np.inf
    return max(np.abs(np.subtract(one[n], other[n])).max() / max(np.abs(one[n]).max(), 1e-3) for n in one)


@pytest.mark.parametrize("case", FOLLOWED)
def test_follows_scikit_learn(case):
    theirs, ours = both_fitted(case)
    assert difference(theirs, ours) <= RELATIVE
    public = [{name for name in vars(e) if name.endswith("_") and not name.startswith("_")} for e in (theirs, ours)]
    assert public[0] == public[1]
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "classes_"):
        assert np.array_equal(getattr(theirs, name, None), getattr(ours, name, None))
    held = dict(vars(ours))
    assert np.array_equal(theirs.predict(X), ours.predict(X)) or isinstance(ours, MLPRegressor)
    assert all(vars(ours)[name] is held[name] for name in (*held, *vars(ours)))
    predictions = "predict" if isinstance(ours, MLPRegressor) else "predict_proba"
    np.testing.assert_allclose(getattr(ours, predictions)(X), getattr(theirs, predictions)(X), rtol=1e-7, atol=1e-9)


def test_a_column_of_numbers_is_a_target_with_a_warning():
    for kind in (sklearn.neural_network.MLPRegressor, MLPRegressor):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            kind(**{**FEW, "max_iter": 1, "batch_size": ROWS}).partial_fit(X, numbers[:, :1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_class_alone():
    theirs, ours = (
        kind(**FEW).fit(X, np.full(ROWS, 7)) for kind in (sklearn.neural_network.MLPClassifier, MLPClassifier)
    )
    assert ours.n_outputs_ == theirs.n_outputs_ == 1
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_some_cases_stop_early_and_some_do_not():
    stopped = {case for case in FOLLOWED if (e := both_fitted(case)[1]).n_iter_ < e.max_iter}
    assert {"adam, converges", "early stopping, stratified", "sgd, adaptive, early stopping"} <= stopped
    assert {"adam", "sgd", "sgd, invscaling"}.isdisjoint(stopped)
    adaptive = both_fitted("sgd, adaptive")[1]
    assert adaptive._optimizer.learning_rate < adaptive.learning_rate_init / 20


def same_rate(optimizer, old, new):
    pass


class RoundedMinibatches(sklearn_training.SameMinibatches):
    """As if all minibatches had the same number of rows, or weights of mean 1."""

    def lay_out(self, *arguments, **options):
        steps = super().lay_out(*arguments, **options)
        for values in steps.penalties.values():
            values[:] = values[0]
        return steps


MUTANTS = {
    "eps corrected": ("adam", "ClassicAdam", fastgd.Adam),
    "penalty of a whole minibatch": ("adam", "SameMinibatches", RoundedMinibatches),
    "penalty by rows, not weights": ("adam, weights", "SameMinibatches", RoundedMinibatches),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_term_would_show(mutant, monkeypatch):
    case, name, wrong = MUTANTS[mutant]
    monkeypatch.setattr(sklearn_perceptron, name, wrong)
    assert difference(*both_fitted(case)) > 100 * RELATIVE


@pytest.mark.parametrize("case", ["sgd, invscaling", "sgd, adaptive"])
def test_momentum_left_as_it_is_at_another_rate_would_show(case, monkeypatch):
    monkeypatch.setattr(sklearn_training, "set_rate", same_rate)
    assert difference(*both_fitted(case)) > 100 * RELATIVE


@pytest.mark.float64
def test_penalty_of_each_step_on_every_backend(backend):
    layers = [fastgd.Dense(5, "tanh"), fastgd.Dense(3)]
    net = fastgd.Network(6, layers, loss="softmax_cross_entropy", l2=0.5, dtype="float64", backend=backend)
    values = {"total": np.array([0.1, 0.7, 0.3]), "penalty": np.array([0.2, 0.9, 0.4])}
    bare = net.like(l2=0.0)
    plan, optimizer = net.executor.training_plan(20, net.loss_function.kernels[0]), fastgd.SGD(0.1)
    plan.use_optimizer(optimizer)
    labels = three.astype(np.int64)
    steps = Steps.of(plan, optimizer, X, labels, rows=[20] * 3, starts=[0, 20, 40])
    steps.penalties = values
    net.executor.train(steps)
    weights = slice(0, net.n_weights)
    for i in range(3):
        rows = slice(20 * i, 20 * i + 20)
        loss, gradient = bare.loss_and_gradient(X[rows], labels[rows])
        w = bare.parameters[weights]
        assert steps.totals[i] == pytest.approx(loss + values["total"][i] / 2 * w @ w, rel=1e-12)
        gradient[weights] += values["penalty"][i] * w
        bare.parameters[:] -= 0.1 * gradient
    np.testing.assert_allclose(net.parameters, bare.parameters, rtol=1e-11)
    net.parameters[:] = bare.parameters
    w = bare.parameters[weights]
    assert net.loss_and_gradient(X, labels, training=True)[0] == pytest.approx(
        bare.loss(X, labels) + 0.25 * w @ w, rel=1e-12
    )


@pytest.mark.parametrize("case", ["adam", "adam, number", "sgd", "adam, poisson"])
def test_follows_in_float32(case):
    theirs, ours = both_fitted(case, X.astype(np.float32))
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float32)}
    assert 0 < difference(theirs, ours) <= 2e-3


@pytest.mark.parametrize("options", [{}, {"solver": "sgd", "learning_rate": "invscaling"}, {"solver": "sgd"}])
@pytest.mark.parametrize("target", ["three", "number"])
def test_partial_fit_follows(target, options):
    theirs, ours = (kind(**{**FEW, **options}) for kind in kinds(target))
    y, first = TARGETS[target], {"classes": np.unique(three)} if target == "three" else {}
    for i, rows in enumerate((slice(0, 50), slice(50, 70), slice(0, ROWS), slice(3, 90))):
        for estimator in (theirs, ours):
            estimator.partial_fit(X[rows], y[rows], weight[rows] + 1, **(first if i == 0 else {}))
        assert difference(theirs, ours) <= RELATIVE
        if i == 1:
            ours = pickle.loads(pickle.dumps(ours))
        if i == 2:
            for estimator in (theirs, ours):
                estimator.set_params(alpha=2.0)
    assert ours.loss_curve_ == pytest.approx(theirs.loss_curve_, rel=RELATIVE)
    assert len(ours.loss_curve_) == 4


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "invscaling"}])
def test_warm_start_follows(options):
    theirs, ours = (kind(**{**FEW, **options, "warm_start": True, "max_iter": 4}) for kind in kinds("three"))
    for _ in range(3):
        for estimator in (theirs, ours):
            quietly(estimator.fit, X, three)
        assert difference(theirs, ours) <= RELATIVE
    assert len(ours.loss_curve_) == 12


def test_fit_begins_anew_without_warm_start():
    ours = quietly(MLPClassifier(**FEW).fit, X, three)
    once = fitted(ours)["coefs_"]
    assert np.array_equal(fitted(quietly(ours.fit, X, three))["coefs_"], once)


@pytest.mark.parametrize("case", ["adam, converges", "adam", "early stopping, stratified"])
def test_a_random_state_is_left_as_scikit_learn_leaves_it(case):
    target, options = FOLLOWED[case]
    states = [np.random.RandomState(5) for _ in range(2)]
    for kind, state in zip(kinds(target), states, strict=True):
        quietly(kind(**{**options, "random_state": state}).fit, X, TARGETS[target])
    assert states[0].randint(2**31) == states[1].randint(2**31)
