"""The estimators against scikit-learn's, to rounding: the same random state gives the same weights, minibatches, losses
and epochs. Then what is new in them, and what the rest of scikit-learn asks of an estimator."""

import copy
import inspect
import pickle
import threading
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastgd
from fastgd import sklearn_perceptron, sklearn_training
from fastgd.sklearn import MLPClassifier, MLPRegressor
from fastgd.steps import Steps

ROWS = 111  # no multiple of the batch size
BOTH = pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
RELATIVE = 1e-9  # of float64, after some hundred steps

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
    "adam, number": ("number", {**FEW, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    "adam, numbers": ("numbers", {**FEW, "activation": "identity", "alpha": 1.0}),
    "adam, in order": ("numbers", {**FEW, "shuffle": False}, weight),
    "adam, poisson": ("count", {**FEW, "loss": "poisson", "alpha": 0.1}, weight),
    "adam, poisson, two": ("counts", {**FEW, "loss": "poisson"}),
    "adam, converges": ("number", {**FEW, "tol": 0.02, "n_iter_no_change": 3, "max_iter": 200}),
    "adam, all rows": ("three", {**FEW, "batch_size": ROWS}),
    "adam, no hidden layer": ("three", {**FEW, "hidden_layer_sizes": (), "activation": "logistic"}),
    "early stopping, stratified": ("flag", {**FEW, "early_stopping": True, "n_iter_no_change": 3, "max_iter": 99}),
    "early stopping": ("three", {**FEW, "early_stopping": True, "validation_fraction": 0.2}, weight),
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


def learnt(estimator):
    """What a fit has found out, as numbers by name."""
    names = ("loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_", "n_iter_", "t_")
    found = {name: getattr(estimator, name) for name in names if getattr(estimator, name, None) is not None}
    for name in ("coefs_", "intercepts_"):
        found[name] = np.concatenate([array.ravel() for array in getattr(estimator, name)])
    return found


def difference(theirs, ours):
    """The largest relative difference of what both have learnt; infinite for another number of epochs."""
    one, other = learnt(theirs), learnt(ours)
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


def test_some_cases_stop_early_and_some_do_not():
    stopped = {case for case in FOLLOWED if (e := both_fitted(case)[1]).n_iter_ < e.max_iter}
    assert {"adam, converges", "early stopping, stratified", "sgd, adaptive, early stopping"} <= stopped
    assert {"adam", "sgd", "sgd, invscaling"}.isdisjoint(stopped)
    adaptive = both_fitted("sgd, adaptive")[1]
    assert adaptive._optimizer.learning_rate < adaptive.learning_rate_init / 20


def same_rate(optimizer, old, new):
    pass


class RoundedMinibatches(sklearn_training.SameMinibatches):
    """As if all minibatches had as many rows, or weights of mean 1."""

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


def test_penalty_of_each_step_on_every_backend(backend):
    layers = [fastgd.Dense(5, "tanh"), fastgd.Dense(3)]
    net = fastgd.Network(6, layers, loss="softmax_cross_entropy", l2=0.5, dtype="float64", backend=backend)
    values = {"total": np.array([0.1, 0.7, 0.3]), "penalty": np.array([0.2, 0.9, 0.4])}
    bare = net.like(l2=0.0)
    plan, optimizer = net._plan_for(20, net.loss_function.kernels[0]), fastgd.SGD(0.1)
    plan.use_optimizer(optimizer)
    labels = three.astype(np.int64)
    steps = Steps.of(plan, optimizer, X, labels, rows=[20] * 3, starts=[0, 20, 40])
    steps.penalties = values
    net._train(plan, steps)
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
    once = learnt(ours)["coefs_"]
    assert np.array_equal(learnt(quietly(ours.fit, X, three))["coefs_"], once)


@pytest.mark.parametrize("case", ["adam, converges", "adam", "early stopping, stratified"])
def test_a_random_state_is_left_as_scikit_learn_leaves_it(case):
    target, options = FOLLOWED[case]
    states = [np.random.RandomState(5) for _ in range(2)]
    for kind, state in zip(kinds(target), states, strict=True):
        quietly(kind(**{**options, "random_state": state}).fit, X, TARGETS[target])
    assert states[0].randint(2**31) == states[1].randint(2**31)


# ---- scikit-learn's ways


@BOTH
def test_constructor_is_scikit_learns(kind):
    theirs, ours = (
        list(inspect.signature(one).parameters.values())
        for one in (getattr(sklearn.neural_network, kind.__name__), kind)
    )
    assert ours[: len(theirs)] == theirs
    assert {p.name for p in ours[len(theirs) :]} == {"dropout", "class_weight"} & set(kind().get_params())


# What scikit-learn itself leaves out: they ask for an environment variable, or a method that neither has.
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
def test_sparse_is_dense_to_the_bit(case, container, dense_bytes, monkeypatch):
    monkeypatch.setattr(sklearn_training, "DENSE_BYTES", dense_bytes)
    monkeypatch.setattr(sklearn_training, "STAGED_BYTES", 5 * X.shape[1] * 8)  # predictions: 5 rows at a time
    thin = np.where(X > 0, X, 0)
    (_, dense), (_, sparse) = both_fitted(case, thin), both_fitted(case, container(thin))
    assert difference(dense, sparse) == 0
    assert np.array_equal(dense.predict(thin), sparse.predict(container(thin)))


def test_predictions_follow_coefs_that_are_set():
    ours = quietly(MLPRegressor(**FEW).fit, X, TARGETS["number"])
    before = ours.predict(X)
    ours.intercepts_[-1] = ours.intercepts_[-1] + 1
    assert ours.predict(X) == pytest.approx(before + 1, rel=1e-12)
    ours.coefs_[-1] *= 0  # in place
    assert ours.predict(X) == pytest.approx(np.full(ROWS, ours.intercepts_[-1][0]))


def test_threads_may_predict_at_once():
    ours = quietly(MLPClassifier(**FEW).fit, X, three)
    ours = pickle.loads(pickle.dumps(ours))  # without a network made before
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

    monkeypatch.setattr(sklearn_training.EpochEnd, "_look", interrupted)
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


def test_verbose_tells_each_iteration(capsys):
    for solver in ("adam", "lbfgs"):
        ours = quietly(MLPClassifier(solver=solver, verbose=True, max_iter=3, early_stopping=True).fit, X, three)
        told = capsys.readouterr().out
        assert [f"Iteration {i}, loss" in told for i in (1, 3, 4)] == [True, True, False]
        assert f"{ours.loss_:.8f}" in told


# ---- what is new


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
    assert difference(some, listed) == 0  # and so twice the same
    assert some.loss_ > plain.loss_ + 0.05
    assert [repr(layer).split("(")[0] for layer in some._kept[0].layers] == ["Dense", "Dropout"] * 2 + ["Dense"]
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
    first, again, copied = (learnt(quietly(e.fit, X, three))["coefs_"] for e in (ours, ours, clone(ours)))
    assert np.array_equal(first, again)
    assert np.array_equal(first, copied)
    assert ours.solver is given
    assert given.steps == 0
    assert not given.state
    named, made = (MLPClassifier(**FEW, solver=s) for s in ("NAdam", fastgd.NAdam(FEW.get("learning_rate_init", 1e-3))))
    assert difference(quietly(named.fit, X, three), quietly(made.fit, X, three)) == 0
    assert not np.array_equal(learnt(named)["coefs_"], first)


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
    if target != "three":  # held-out rows do not count by their classes
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
def test_wrong_arguments_are_told(name):
    value, match = WRONG[name]
    ours = MLPClassifier(**{**FEW, name: value})
    with pytest.raises(ValueError, match=match):
        ours.fit(X, three)
    assert not hasattr(ours, "coefs_")


def test_wrong_data_is_told():
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
    warm = quietly(MLPClassifier(**FEW, warm_start=True).fit, X, three)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes.*\[9, 5\]"):
        warm.set_params(hidden_layer_sizes=3).fit(X, three)
