"""Short calls of the estimators: what is proven cheaply instead of checked by scikit-learn, arrays that are shared with
the network, and the epoch that is a single step."""

import copy
import os
import pickle

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state
from test_sklearn_follows import FEW, RELATIVE, ROWS, TARGETS, X, difference, kinds, numbers, quietly, three, weight

import fastgd
from fastgd.sklearn import MLPClassifier, MLPRegressor

CLASSES = {"classes": np.unique(three)}
SHORT = {**FEW, "batch_size": "auto"}  # an epoch is one minibatch


def partly_fitted(target="three", data=X, **options):
    """Ours and scikit-learn's, after two calls of partial_fit: later calls take the short way."""
    estimators = [kind(**{**SHORT, **options}) for kind in reversed(kinds(target))]
    for estimator in estimators:
        y = TARGETS[target]
        classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        first = {"classes": classes} if hasattr(estimator, "predict_proba") else {}
        estimator.partial_fit(data, y, **first).partial_fit(data, y)
        estimator.predict(data)
    return estimators


def arrays_of(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def values_of(estimator):
    """All that a call may change, as bytes."""
    kept = [array.tobytes() for array in arrays_of(estimator)]
    names = ("loss_", "loss_curve_", "n_iter_", "t_", "best_loss_", "_no_improvement_count", "_minibatches")
    optimizer = estimator._optimizer
    state = [array.tobytes() for arrays in optimizer.state.values() for array in arrays]
    return kept, state, optimizer.counter[0], [repr(getattr(estimator, name)) for name in names]


def error_of(call, *arguments):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments)
    return type(caught.value), str(caught.value)


def spoiled(value, dtype=float):
    bad = X.astype(dtype)
    bad[70, 3] = value
    return bad


WRONG_ROWS = {
    "nan": spoiled(np.nan),
    "infinite": spoiled(-np.inf),
    "nan, other dtype": spoiled(np.nan, np.float32),
    "features": X[:, :5],
    "one dimension": X[0],
    "three dimensions": X[None],
    "no rows": X[:0],
    "complex": X + 1j,
    "texts": X.astype(str).astype(object) + "a",
}


@pytest.mark.parametrize("wrong", WRONG_ROWS)
@pytest.mark.parametrize("target", ["three", "number"])
def test_wrong_rows_raise_what_scikit_learn_raises(target, wrong):
    ours, theirs = partly_fitted(target)
    before, bad = values_of(ours), WRONG_ROWS[wrong]
    assert error_of(ours.predict, bad) == error_of(theirs.predict, bad)
    y = TARGETS[target][: len(bad)]
    assert error_of(ours.partial_fit, bad, y) == error_of(theirs.partial_fit, bad, y)
    assert values_of(ours) == before
    for unfitted in (clone(ours), clone(theirs)):
        with pytest.raises(sklearn.exceptions.NotFittedError):
            unfitted.predict(X)


WRONG_TARGETS = {
    "length": ("three", three[:50], "inconsistent numbers of samples"),
    "label": ("three", np.where(np.arange(ROWS) == 60, 7, three), r"'y': expected labels of \[0 1 2\], got \[7\]"),
    "continuous": ("three", three + 0.5, "Unknown label type"),
    "texts for numbers": ("three", three.astype(str), "."),
    "three for flags": ("multilabel", TARGETS["multilabel"] * 2 + 1, "."),
    "columns": ("multilabel", TARGETS["multilabel"][:, :3], "."),
    "nan": ("number", np.where(np.arange(ROWS) == 60, np.nan, TARGETS["number"]), "contains NaN"),
    "outputs": ("numbers", numbers[:, :2], "'y'"),
    "negative": ("count", TARGETS["count"] - 9, "'y': expected numbers >= 0"),
}


@pytest.mark.parametrize("wrong", WRONG_TARGETS)
def test_wrong_targets_raise_and_change_nothing(wrong):
    target, bad, match = WRONG_TARGETS[wrong]
    ours, _ = partly_fitted(target, **({"loss": "poisson"} if target == "count" else {}))
    before = values_of(ours)
    if wrong == "three for flags":  # two values: scikit-learn takes them for 0 and 1
        bad = bad + (np.arange(ROWS) == 9)[:, None]
    with pytest.raises(ValueError, match=match):
        ours.partial_fit(X, bad)
    assert values_of(ours) == before
    ours.partial_fit(X, TARGETS[target])


def test_a_column_of_targets_warns():
    for target in ("three", "number"):
        for estimator in partly_fitted(target):
            with pytest.warns(DataConversionWarning, match="column-vector"):
                estimator.partial_fit(X, TARGETS[target][:, None])


def test_classes_of_later_calls():
    ours, _ = partly_fitted()
    for classes in ([0, 1, 2], np.array([2, 1, 0]), np.arange(3)):
        ours.partial_fit(X, three, classes=classes)
    for classes in (np.arange(4), [0, 1], np.array([0.0, 1.0, 3.0])):
        with pytest.raises(ValueError, match=r"'classes'.*as at the first call"):
            ours.partial_fit(X, three, classes=classes)
    other = MLPClassifier(**SHORT, warm_start=True).partial_fit(X, three, **CLASSES)
    with pytest.raises(ValueError, match="warm_start"):
        other.partial_fit(X[three < 2], three[three < 2])


LAYOUTS = {
    "float32": lambda x: x.astype(np.float32).astype(float).astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "integers": lambda x: (9 * x).astype(np.int16),
    "flags": lambda x: x > 0,
    "other byte order": lambda x: x.astype(">f8"),
    "Fortran order": np.asfortranarray,
    "strides": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1],
    "list": lambda x: x.tolist(),
    "unaligned": lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(float).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_dtypes_and_layouts_of_rows(layout):
    given = LAYOUTS[layout](X)
    plain = np.array(given, np.float64, order="C")
    one, other = partly_fitted()[0], partly_fitted()[0]
    assert np.array_equal(one.predict_proba(given), other.predict_proba(plain))
    assert np.array_equal(one.predict(given[:1]), other.predict(plain[:1]))
    one.partial_fit(given, three)
    other.partial_fit(plain, three)
    assert values_of(one) == values_of(other)


def test_numbers_that_overflow_in_the_dtype_of_the_network():
    ours, _ = partly_fitted("number", X.astype(np.float32))
    before, large = values_of(ours), np.full_like(X, 1e300)
    with pytest.raises(ValueError, match="'x'"):
        ours.predict(large)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ours.partial_fit(large, TARGETS["number"])
    assert values_of(ours)[0] == before[0]


def test_names_of_features():
    ours, theirs = partly_fitted()
    for estimator in (ours, theirs):
        estimator.feature_names_in_ = np.array(list("abcdef"), object)
        for call in (lambda e=estimator: e.predict(X), lambda e=estimator: e.partial_fit(X, three)):
            with pytest.warns(UserWarning, match="does not have valid feature names"):
                call()


def test_arrays_that_become_shorter_in_their_file(tmp_path):
    ours, path = partly_fitted("number")[0], tmp_path / "x.npy"
    rows = np.tile(X, (40, 1))
    for call in (ours.predict, lambda x: ours.partial_fit(x, rows[:, 0]), lambda x: ours.partial_fit(rows, x[:, 0])):
        np.save(path, rows)
        mapped = np.asarray(np.load(path, mmap_mode="r"))
        assert type(mapped) is np.ndarray
        os.truncate(path, 4096)
        with pytest.raises(OSError, match="file of a mapped array"):
            call(mapped)


# ---- arguments


def test_arguments_changed_between_calls():
    ours, theirs = partly_fitted()
    for change in ({"activation": "tanh"}, {"alpha": 0.5}, {"batch_size": 20}, {"shuffle": False}, {"random_state": 7},
                   {"activation": "relu", "batch_size": "auto"}):  # fmt: skip
        for estimator in (ours, theirs):
            estimator.set_params(**change)
        np.testing.assert_allclose(ours.predict_proba(X[:1]), theirs.predict_proba(X[:1]), rtol=1e-9)
        for estimator in (ours, theirs):
            estimator.partial_fit(X, three, weight + 1)
        assert difference(theirs, ours) <= RELATIVE


def test_lists_of_arguments_that_change_in_place():
    given = {"activation": ["tanh", "relu"], "dropout": [0.0, 0.0]}
    ours = MLPClassifier(**SHORT, **given).partial_fit(X, three, **CLASSES).partial_fit(X, three)
    plain = partly_fitted(activation="tanh")[0]
    ours.activation[1] = "tanh"
    for one, other in zip(arrays_of(ours), arrays_of(plain), strict=True):
        one[...] = other
    assert np.array_equal(ours.predict_proba(X), plain.predict_proba(X))
    ours.dropout[0] = 0.4
    ours.partial_fit(X, three)
    plain.set_params(dropout=[0.4, 0.0]).partial_fit(X, three)
    ours.dropout[0] = 1.5
    for call in (lambda: ours.predict(X), lambda: ours.partial_fit(X, three)):
        with pytest.raises(ValueError, match=r"dropout.*\[0, 1\)"):
            call()


WRONG = {"alpha": -1.0, "momentum": 2, "solver": "adamm", "batch_size": 0, "learning_rate": "fast", "shuffle": "yes",
         "activation": "rel", "dropout": True, "early_stopping": True}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_set_between_calls(name):
    ours, _ = partly_fitted()
    before, right = values_of(ours), getattr(ours, name)
    for _ in range(2):
        with pytest.raises((ValueError, TypeError), match=name):
            ours.set_params(**{name: WRONG[name]}).partial_fit(X, three)
    ours.set_params(**{name: right})
    assert values_of(ours) == before
    assert values_of(ours.partial_fit(X, three)) == values_of(partly_fitted()[0].partial_fit(X, three))


# ---- coefs_ and intercepts_


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_arrays_are_shared_with_no_other_estimator(solver):
    ours = quietly(MLPClassifier(**{**FEW, "solver": solver}).fit, X, three)
    expected = ours.predict_proba(X)
    others = [copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    for other in others:
        assert not any(np.shares_memory(a, b) for a, b in zip(arrays_of(ours), arrays_of(other), strict=True))
        quietly(other.set_params(solver="adam").partial_fit, X, three)
        assert not np.array_equal(other.predict_proba(X), expected)
        assert np.array_equal(ours.predict_proba(X), expected)
    assert len({id(array) for estimator in (ours, *others) for array in arrays_of(estimator)}) == 6 * 4


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_leaves_the_arrays_of_an_earlier_fit(warm_start):
    ours = quietly(MLPClassifier(**FEW, warm_start=warm_start).fit, X, three)
    held = arrays_of(ours)
    before = [array.copy() for array in held]
    quietly(ours.set_params(alpha=0.1).fit, X, three)
    assert all(map(np.array_equal, held, before))
    assert not np.array_equal(ours.coefs_[0], before[0])


def test_arrays_that_the_user_changes_or_replaces():
    ours, theirs = partly_fitted()
    draw = np.random.default_rng(0)

    def scale(estimator, factor):
        estimator.coefs_[0] *= factor

    def replace(estimator, factor):
        estimator.coefs_[1] = estimator.coefs_[1] * factor

    def set_all(estimator, factor):
        estimator.intercepts_ = [np.array(array) + factor for array in estimator.intercepts_]

    def swap(estimator, factor):
        estimator.coefs_[0][:, [0, 1]] = estimator.coefs_[0][:, [1, 0]]

    for change in (scale, replace, scale, set_all, swap):
        factor = draw.uniform(0.5, 1.5)
        for estimator in (ours, theirs):
            change(estimator, factor)
        np.testing.assert_allclose(ours.predict_proba(X[:1]), theirs.predict_proba(X[:1]), rtol=1e-9)
        for estimator in (ours, theirs):
            change(estimator, factor)
            estimator.partial_fit(X, three)
        assert difference(theirs, ours) <= 1e-7
    ours.coefs_ = [array.T for array in ours.coefs_]
    with pytest.raises(ValueError, match="coefs_, intercepts_|shape"):
        ours.predict(X)


def test_partial_fit_changes_arrays_in_place():
    for estimator in partly_fitted():
        held = arrays_of(estimator)
        estimator.partial_fit(X, three)
        assert all(one is other for one, other in zip(held, arrays_of(estimator), strict=True))


# ---- an epoch that is one step

STEPS = {
    "labels": ("three", {}), "weights": ("three", {}, weight + 1), "texts": ("binary", {"alpha": 0.0}),
    "class weights": ("flag", {"class_weight": {0: 3.0}}, weight + 1), "flags": ("multilabel", {"solver": "sgd"}),
    "number": ("number", {"solver": "sgd", "alpha": 0.3}), "numbers": ("numbers", {"shuffle": False}),
    "counts": ("counts", {"loss": "poisson"}, weight + 1), "dropout": ("three", {"dropout": 0.4}),
    "options": ("numbers", {"solver": fastgd.AdamW(0.01, accumulate=2, clip_norm=0.1, ema_decay=0.9)}),
    "invscaling": ("three", {"solver": "sgd", "learning_rate": "invscaling"}),
    "adaptive": ("three", {"solver": "sgd", "learning_rate": "adaptive", "tol": 9.0, "n_iter_no_change": 1}),
    "generator": ("three", {"random_state": np.random.RandomState(5)}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_gives_the_bits_of_a_run(case, dtype, monkeypatch):
    target, options, *weights = STEPS[case]
    y, kind, trails = TARGETS[target], kinds(target)[1], [[], []]
    classes = {"classes": np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)}
    for trail in trails:
        ours = kind(**{**SHORT, **copy.deepcopy(options)})
        for i, rows in enumerate((*[slice(0, ROWS)] * 2, slice(0, 32), slice(40, 72), slice(7, 8), slice(3, 4))):
            first = classes if i == 0 and kind is MLPClassifier else {}
            ours.partial_fit(X[rows].astype(dtype), y[rows], *(w[rows] for w in weights), **first)
            trail.append(values_of(ours))
        monkeypatch.setattr(kind, "_may_be_one_step", lambda *arguments: False)
    assert trails[0] == trails[1]


@pytest.mark.parametrize("seed", [3, None, "RandomState"])
def test_random_states_are_used_as_by_scikit_learn(seed):
    states, ends = [], []
    for kind in kinds("three"):
        np.random.seed(11)  # noqa: NPY002  what random_state=None uses
        given = np.random.RandomState(4) if seed == "RandomState" else seed
        estimator = kind(**{**SHORT, "random_state": given})
        for rows in (slice(0, 40), slice(0, 40), slice(20, 90)):
            estimator.partial_fit(X[rows], three[rows], classes=CLASSES["classes"])
        states.append(estimator)
        generator = given if seed == "RandomState" else check_random_state(None)
        ends.append(generator.randint(2**31))
    assert difference(*states) <= RELATIVE
    assert ends[0] == ends[1]


def test_a_negative_seed_set_later_raises():
    ours, theirs = partly_fitted()
    for estimator in (ours, theirs):
        with pytest.raises(ValueError, match="random_state|Seed"):
            estimator.set_params(random_state=-1).partial_fit(X, three)
    ours.set_params(random_state=3).partial_fit(X, three)


@pytest.mark.parametrize("batch_size", ["auto", 20])
def test_divergence_changes_nothing_in_the_middle_either(batch_size):
    """The last rows diverge, after minibatches that do not; arrays that the user holds keep their values, too."""
    options = {**SHORT, "batch_size": batch_size, "shuffle": False, "solver": "sgd"}
    ours, twin = (MLPRegressor(**options).partial_fit(X, X[:, 0]).partial_fit(X, X[:, 0]) for _ in range(2))
    held, bad = arrays_of(ours), X.copy()
    bad[90:] = 1e200
    for _ in range(2):
        with pytest.raises(ValueError, match="non-finite"):
            ours.partial_fit(bad, X[:, 0])
        assert values_of(ours) == values_of(twin)
        assert all(map(np.array_equal, held, arrays_of(twin)))
        assert np.array_equal(ours.predict(X), twin.predict(X))
    assert values_of(ours.partial_fit(X, X[:, 0])) == values_of(twin.partial_fit(X, X[:, 0]))


def test_a_learning_rate_function_that_raises_changes_nothing():
    calls = []

    def rate(step):
        if len(calls) > 4:
            raise OSError("no rate")
        calls.append(step)
        return 0.01

    for batch_size in ("auto", 20):
        calls.clear()
        ours = MLPRegressor(**{**SHORT, "batch_size": batch_size, "solver": fastgd.Adam(rate)})
        while len(calls) < 4:
            ours.partial_fit(X[:40], X[:40, 0])
        calls.append(None)
        before = values_of(ours)
        with pytest.raises(OSError, match="no rate"):
            ours.partial_fit(X[:40], X[:40, 0])
        assert values_of(ours) == before


def test_ctrl_c_in_a_step_warns(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    ours, _ = partly_fitted()
    monkeypatch.setattr("fastgd.sklearn.perceptron.penalized_step", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        ours.partial_fit(X, three)
    assert len(ours.loss_curve_) == 2
