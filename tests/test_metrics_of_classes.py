"""Recall, precision, F1, balanced accuracy, AUC and average precision against scikit-learn's, and where these are not
defined; the confusion matrix."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from fastgd import Dense, Network
from fastgd.metrics import METRICS, auc, average_precision, confusion_matrix, f1, precision, recall

EXACT = {"rel": 1e-12, "abs": 1e-14}


def macro(function):
    return lambda y, p, w: function(y, p.argmax(axis=1), sample_weight=w, average="macro", zero_division=0)


def one(function):
    return lambda y, p, w: function(y, p[:, 0] > 0.5, sample_weight=w, zero_division=0)


def of_curves(function, **options):
    """The mean over the classes, each against the rest."""

    def mean(y, p, w):
        columns = [k for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
        return np.mean([function(y == k, p[:, k], sample_weight=w, **options) for k in columns])

    return mean


SEVERAL = {
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "recall": macro(sk.recall_score),
    "precision": macro(sk.precision_score),
    "f1": macro(sk.f1_score),
    "auc": of_curves(sk.roc_auc_score),
    "average_precision": of_curves(sk.average_precision_score),
}
BINARY = {
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p[:, 0] > 0.5, sample_weight=w),
    "recall": one(sk.recall_score),
    "precision": one(sk.precision_score),
    "f1": one(sk.f1_score),
    "auc": lambda y, p, w: sk.roc_auc_score(y, p[:, 0], sample_weight=w),
    "average_precision": lambda y, p, w: sk.average_precision_score(y, p[:, 0], sample_weight=w),
}


def scores(rng, rows, k, kind):
    """Rows of probabilities: all different, or few different ones, so that most are equal to others."""
    if kind == "different":
        return rng.dirichlet(np.ones(k), rows) if k > 1 else rng.random((rows, 1))
    return rng.integers(0, 4, (rows, k)) / 4


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # scikit-learn's
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["different", "ties"])
@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_classes(name, kind, weighted, rng):
    """Class 5 of 6 does not occur, but is predicted."""
    p, y = scores(rng, 200, 6, kind), rng.integers(0, 5, 200)
    w = rng.uniform(0, 3, 200) if weighted else None
    for dtype in ("float64", "float32"):
        got = METRICS[name].value(y, p.astype(dtype), w)
        assert got == pytest.approx(SEVERAL[name](y, p.astype(dtype), w), **EXACT)
    assert METRICS[name].value(np.eye(6)[y], p, w) == METRICS[name].value(y, p, w)
    shuffled = rng.permutation(200)
    again = METRICS[name].value(y[shuffled], p[shuffled], None if w is None else w[shuffled])
    assert again == pytest.approx(METRICS[name].value(y, p, w), **EXACT)
    assert METRICS[name].value((y + 1) % 6, p, w) != pytest.approx(METRICS[name].value(y, p, w), **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["different", "ties"])
@pytest.mark.parametrize("name", BINARY)
def test_of_one_output(name, kind, weighted, rng):
    p, y = scores(rng, 100, 1, kind), rng.integers(0, 2, 100)
    w = rng.uniform(0, 3, 100) if weighted else None
    expected = BINARY[name](y, p, w)
    for targets in (y, y[:, None], y[:, None] * 1.0):
        assert METRICS[name].value(targets, p, w) == pytest.approx(expected, **EXACT)
    if kind == "different" and name in ("auc", "average_precision"):  # of class 1, where there are two outputs
        assert METRICS[name].value(y, np.hstack([1 - p, p]), w) == pytest.approx(expected, **EXACT)


def test_all_classes_at_once_are_scikit_learns(rng):
    """Where all classes occur, scikit-learn averages over them itself."""
    y, p = np.arange(60) % 4, scores(rng, 60, 4, "different")
    assert auc.value(y, p) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"), **EXACT)
    assert average_precision.value(y, p) == pytest.approx(sk.average_precision_score(np.eye(4)[y], p), **EXACT)
    several = rng.integers(0, 2, (60, 4))
    assert auc.value(several, p) == pytest.approx(sk.roc_auc_score(several, p), **EXACT)
    assert average_precision.value(several, p) == pytest.approx(sk.average_precision_score(several, p), **EXACT)


def test_of_a_single_class(rng):
    y, p, w = rng.integers(0, 4, 90), scores(rng, 90, 4, "different"), rng.uniform(0, 3, 90)
    for metric, peer in ((recall, sk.recall_score), (precision, sk.precision_score), (f1, sk.f1_score)):
        expected = peer(y, p.argmax(axis=1), average=None, sample_weight=w)
        got = [metric(label=k).value(y, p, w) for k in range(4)]
        assert got == pytest.approx(expected, **EXACT)
        for label in (4, 1.5):
            with pytest.raises(ValueError, match=r"'label'.*\[0, 3\]"):
                metric(label=label).value(y, p)
    with pytest.raises(ValueError, match=r"'label'.*-1"):
        recall(label=-1)


UNDEFINED = {
    "recall of a class without rows": (recall(label=2), [0, 1, 1], np.eye(3)),
    "precision of a class that is never predicted": (precision(label=2), [0, 1, 2], np.eye(3)[[0, 1, 1]]),
    "f1 of neither": (f1(label=2), [0, 1, 1], np.eye(3)[[0, 1, 1]]),
    "recall of class 1": (recall, [0, 0, 0], np.array([[0.1], [0.9], [0.2]])),
    "auc of one class": (auc, [1, 1, 1], np.array([[0.1], [0.9], [0.2]])),
    "auc of rows of one class": (auc, [2, 2, 2], np.eye(3)),
    "auc of NaN": (auc, [0, 1, 2], np.full((3, 3), np.nan)),
    "average precision of no rows": (average_precision, [0, 0, 0], np.array([[0.1], [0.9], [0.2]])),
    "average precision of NaN": (average_precision, [0, 1, 1], np.array([[0.1], [np.nan], [0.2]])),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_is_not_defined_is_nan(case):
    metric, y, p = UNDEFINED[case]
    assert math.isnan(metric.value(np.array(y), p))


def test_infinite_scores_are_equal_to_each_other():
    y, p = np.array([0, 1, 0, 1]), np.array([[-np.inf], [np.inf], [np.inf], [-np.inf]])
    assert auc.value(y, p) == 0.5
    assert average_precision.value(y, p) == pytest.approx(0.5)


def test_always_the_same_class():
    y, p = np.array([0] * 90 + [1] * 10), np.tile([0.9, 0.1], (100, 1))
    assert METRICS["accuracy"].value(y, p) == 0.9
    assert METRICS["balanced_accuracy"].value(y, p) == 0.5
    assert auc.value(y, p) == 0.5
    assert average_precision.value(y, p) == pytest.approx(0.1)
    assert f1(label=1).value(y, p) == 0


def test_confusion_matrix(rng):
    y, p, w = rng.integers(0, 4, 80), scores(rng, 80, 5, "ties"), rng.uniform(0, 3, 80)
    for weight in (None, w):
        expected = sk.confusion_matrix(y, p.argmax(axis=1), labels=np.arange(5), sample_weight=weight)
        np.testing.assert_allclose(confusion_matrix(y, p, weight), expected, rtol=1e-12)
    np.testing.assert_array_equal(
        confusion_matrix(np.array([0, 1, 1]), np.array([[0.5], [0.6], [0.2]])), [[1, 0], [1, 1]]
    )
    with pytest.raises(ValueError, match=r"'y'.*\[0, 4\]"):
        confusion_matrix(np.array([5]), np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"'y'.*\[0, 1\].*2"):
        confusion_matrix(np.array([2]), np.ones((1, 1)))
    assert confusion_matrix([1, 0], [[0.2, 0.8], [0.1, 0.9]], [2, 3]).tolist() == [[0, 3], [0, 2]]
    for arguments, match in (
        (([0, 1], [[1, 0]]), "'y': expected targets of 1 rows"),
        ((0, [[1, 0]]), "'y': expected targets of 1 rows"),
        (([0], [1, 0]), "'prediction'"),
        (([0.5], [[1, 0]]), "'y': expected integer labels"),
        (([0], [[1, 0]], [1, 2]), "'weight': expected 1 numbers"),
    ):
        with pytest.raises(ValueError, match=match):
            confusion_matrix(*arguments)


def test_over_the_whole_validation_set(data):
    """Not a mean over batches; with the names that a history has."""
    (X, y), (X_test, y_test) = data
    net = Network(64, [Dense(10)], loss="softmax_cross_entropy")
    names = ["recall", "roc_auc", "recall(label=3)", "f1", "top_k(k=2)"]
    history = net.fit(
        X, y, epochs=2, validation_data=(X_test, y_test), metrics=names, monitor="val_f1", restore_best=True
    )
    p = net.predict(X_test)
    columns = ["recall", "auc", "recall(label=3)", "f1", "top_k(k=2)"]
    assert list(history.metrics) == [f"validation_{name}" for name in columns]
    assert history.metrics["validation_recall"][-1] == pytest.approx(SEVERAL["recall"](y_test, p, None), **EXACT)
    assert history.metrics["validation_auc"][-1] == pytest.approx(
        sk.roc_auc_score(y_test, p, multi_class="ovr"), **EXACT
    )
    found = net.evaluate(X_test, y_test, metrics=names)
    assert [found[name] for name in columns] == [history.metrics[f"validation_{name}"][-1] for name in columns]


def test_positions_are_rows(rng):
    y, p = rng.integers(0, 3, (7, 5)), rng.dirichlet(np.ones(3), (7, 5))
    for name in SEVERAL:
        flat = METRICS[name].value(y.reshape(-1), p.reshape(-1, 3))
        assert METRICS[name].value(y, p) == flat


@pytest.mark.parametrize("name", BINARY)
def test_targets_that_do_not_suit(name):
    y = np.array([[0.2, 0.2]] * 3) if name in ("auc", "average_precision") else np.array([[1, 1]] * 3)
    with pytest.raises(ValueError, match=f"'y'.*for {name}"):
        METRICS[name].value(y, np.ones((3, 2)))
    with pytest.raises(ValueError, match=rf"'y'.*\[0, 1\], for {name}"):
        METRICS[name].value(np.array([0, 2, 1]), np.ones((3, 1)))


def test_bad_parameters_in_names(small):
    network, x, y = small
    for name, match in (("recall(class=1)", "'class'"), ("recal(label=1)", "did you mean 'recall'"), ("f1(", "f1"),
                        ("recall(label=1.2.3)", r"'metrics\[0\]'.*did you mean 'recall'"),
                        ("accuracy(k=2)", "expected no parameters, got 'k'")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            network.evaluate(x, y, metrics=[name])
