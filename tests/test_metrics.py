"""Metrics against scikit-learn's, alone and through the network."""

import numpy as np
import pytest
from sklearn import metrics as sk

import fastgd
from fastgd import Dense, Network

LABELS = {
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "top_k": lambda y, p, w: sk.top_k_accuracy_score(y, p, k=5, sample_weight=w, labels=np.arange(7)),
}
# Of each class against the rest, or of class 1; compared in test_metrics_of_classes.py.
OF_CLASSES = ("balanced_accuracy", "recall", "precision", "f1", "auc", "average_precision")
VALUES = {
    "mae": lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
    "mse": lambda y, p, w: sk.mean_squared_error(y, p, sample_weight=w),
    "rmse": lambda y, p, w: sk.mean_squared_error(y, p, sample_weight=w) ** 0.5,
    "r2": lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
}
CASES = [*LABELS, *VALUES, "binary_accuracy"]


def test_every_metric_has_a_case():
    assert sorted([*CASES, *OF_CLASSES]) == sorted(fastgd.metrics.METRICS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_metrics_are_scikit_learns(name, weighted, rng):
    metric = fastgd.metrics.METRICS[name]
    w = rng.uniform(0, 3, 50) if weighted else None
    p = rng.uniform(size=(50, 7))
    if name in LABELS:
        y = rng.integers(0, 7, 50)
        assert metric.value(y, p, w) == pytest.approx(LABELS[name](y, p, w), rel=1e-12)
        assert metric.value(np.eye(7)[y], p, w) == metric.value(y, p, w)
    elif name in VALUES:
        y = p + rng.normal(size=p.shape)
        assert metric.value(y, p, w) == pytest.approx(VALUES[name](y, p, w), rel=1e-12)
    else:
        y = rng.integers(0, 2, p.shape)
        right = np.average(((p >= 0.5) == y).mean(axis=1), weights=w)
        assert metric.value(y, p, w) == pytest.approx(right, rel=1e-12)
        one = metric.value(y[:, :1], p[:, :1], w)
        assert fastgd.metrics.accuracy.value(y[:, :1], p[:, :1], w) == one


def test_r2_of_constant_targets():
    r2, ones = fastgd.metrics.r2, np.ones((4, 1))
    assert r2.value(ones, ones) == 1
    assert r2.value(ones, 2 * ones) == 0


def test_r2_of_targets_that_are_constant_but_for_rounding():
    """The mean of 100,003 values 0.1 is not 0.1; rows of weight 0 add no variance."""
    r2, y = fastgd.metrics.r2, np.full((100_003, 1), 0.1)
    assert np.average(y) != 0.1
    assert r2.value(y, y) == 1
    assert r2.value(y, y + 1e-3) == 0
    y, weight = np.array([[5.0], [7.0], [3.0], [3.0]]), np.array([0.0, 0.0, 1.0, 2.0])
    assert r2.value(y, y, weight) == 1
    assert r2.value(y, y + 1, weight) == 0


RANKED = {
    "all alike": (np.full((10, 10), 0.1), np.arange(10), np.arange(1, 11) / 10),
    "sure": (np.eye(10)[np.full(10, 9)], np.arange(10), [0.1, *(np.arange(2, 11) / 10)]),
    "NaN": ([[np.nan, 1.0, np.nan, np.inf]] * 4, np.arange(4), [0.25, 0.5, 0.75, 1.0]),
    "infinite": ([[-np.inf, np.inf, np.inf, 0.0]] * 4, np.arange(4), [0.25, 0.5, 0.75, 1.0]),
    "two alike": ([[0.4, 0.2, 0.4]] * 3, np.arange(3), [1 / 3, 2 / 3, 1.0]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", RANKED)
def test_ties_go_by_index(case, dtype):
    """Top-1 equals accuracy for any scores; every class has its own rank."""
    prediction, y, expected = RANKED[case]
    prediction = np.array(prediction, dtype)
    shares = [fastgd.metrics.top_k(k=k).value(y, prediction) for k in range(1, prediction.shape[1] + 1)]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert shares[0] == fastgd.metrics.accuracy.value(y, prediction)


def test_top_1_is_accuracy_of_scores_with_many_ties(rng):
    for _ in range(50):
        scores = rng.choice([0.0, -0.0, 0.5, 1.0, np.nan, np.inf, -np.inf], (40, 5)).astype(np.float32)
        y, weight = rng.integers(0, 5, 40), rng.uniform(size=40)
        for w in (None, weight):
            top = [fastgd.metrics.top_k(k=k).value(y, scores, w) for k in range(1, 6)]
            assert top[0] == fastgd.metrics.accuracy.value(y, scores, w)
            assert top == sorted(top)
            assert top[-1] == pytest.approx(1, rel=1e-12)


def test_an_untrained_network_is_not_right(data):
    """Equal scores, and probabilities that are 0 for all classes but one."""
    X, y = data[1]
    options = {"loss": "softmax_cross_entropy"}
    zeros = Network(64, [Dense(10, weight_init="zeros")], **options)
    bias = np.zeros(10)
    bias[4] = 500.0
    sure = Network(64, [Dense(10, weight_init="zeros", bias_init=bias)], **options)
    metrics = ["accuracy", *(fastgd.metrics.top_k(k=k) for k in (1, 2, 5))]
    for network, first in ((zeros, [0, 1, 2, 3, 4]), (sure, [4, 0, 1, 2, 3])):
        found = network.evaluate(X, y, metrics=metrics)
        shares = [np.isin(y, first[:k]).mean() for k in (1, 1, 2, 5)]
        assert list(found.values())[1:] == pytest.approx(shares, rel=1e-12)


def test_a_half_is_on_the_lower_side():
    """0.5 counts as class 0, as in scikit-learn and as in a tie of two classes."""
    half, y = np.full((4, 1), 0.5, np.float32), np.array([[0.0], [0.0], [0.0], [1.0]])
    assert fastgd.metrics.accuracy.value(y, half) == 0.75
    assert fastgd.metrics.binary_accuracy.value(y, half) == 0.75
    above = half + np.float32(0.002)
    assert fastgd.metrics.accuracy.value(y, above) == fastgd.metrics.binary_accuracy.value(y, above) == 0.25
    assert fastgd.metrics.accuracy.value(above, above) == fastgd.metrics.binary_accuracy.value(above, above) == 1
    both = np.hstack([1 - half, half])
    assert fastgd.metrics.accuracy.value(y[:, 0].astype(int), both) == 0.75


def test_parameters_of_a_metric(rng):
    y, p = rng.integers(0, 7, 50), rng.uniform(size=(50, 7))
    assert fastgd.metrics.top_k(k=1).value(y, p) == fastgd.metrics.accuracy.value(y, p)
    assert fastgd.metrics.top_k(k=7).value(y, p) == 1
    with pytest.raises(ValueError, match="'k'.*0"):
        fastgd.metrics.top_k(k=0)


@pytest.mark.parametrize(
    ("metric", "y", "match"),
    [
        ("accuracy", np.ones((3, 4)), "'y'.*accuracy.*binary_accuracy"),
        ("top_k", np.ones((3, 4)), "'y'.*top_k"),
        ("mae", np.array([0, 1, 2]), r"'y'.*\(3, 4\), for mae"),
    ],
)
def test_targets_that_do_not_suit(metric, y, match):
    with pytest.raises(ValueError, match=match):
        fastgd.metrics.METRICS[metric].value(y, np.ones((3, 4)))


def test_evaluate(backend, data, rng):
    _, (X, y) = data
    network = Network(64, [Dense(10)], loss="softmax_cross_entropy", backend=backend)
    weight = rng.uniform(size=len(X))

    def share_of_ones(y, prediction):
        return (prediction.argmax(axis=1) == 1).mean()

    got = network.evaluate(X, y, metrics=["accuracy", fastgd.metrics.top_k(k=3), share_of_ones], sample_weight=weight)
    p = network.predict(X)
    assert list(got) == ["loss", "accuracy", "top_k(k=3)", "share_of_ones"]
    assert got["loss"] == network.loss(X, y, sample_weight=weight)
    assert got["loss"] == pytest.approx(np.average(-np.log(p[np.arange(len(y)), y]), weights=weight), rel=1e-5)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(axis=1), sample_weight=weight))
    assert got["share_of_ones"] == (p.argmax(axis=1) == 1).mean()


def test_metrics_of_means(rng):
    """gaussian_nll: of the first outputs, the means; not metrics of one's own."""
    net = Network(3, [Dense(4)], loss="gaussian_nll", dtype="float64")
    X, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    seen = []
    own = fastgd.metrics.own(lambda y, p: seen.append(p.shape) or 0.0, name="mae")
    got = net.evaluate(X, y, metrics=["mse", "rmse", "r2", own])
    d = net.predict(X)[:, :2] - y
    assert seen == [(9, 4)]
    assert got["mse"] == pytest.approx((d * d).mean(), rel=1e-12)
    assert got["rmse"] == pytest.approx((d * d).mean() ** 0.5, rel=1e-12)
    assert got["r2"] == pytest.approx(sk.r2_score(y, net.predict(X)[:, :2]), rel=1e-12)
    history = net.fit(X, y, metrics=["mae"], epochs=1, monitor="mae", patience=1)
    assert history.metrics["mae"] == [pytest.approx(np.abs(net.predict(X)[:, :2] - y).mean(), rel=1e-12)]
    with pytest.raises(ValueError, match="'y'.*for accuracy"):
        net.fit(X, y, metrics=["accuracy"])


def test_metrics_of_signs(rng):
    """hinge: targets are 1 and -1, and outputs have no threshold of 0.5."""
    net = Network(3, [Dense(1)], loss="hinge", dtype="float64")
    X, y = rng.normal(size=(40, 3)), np.where(rng.random(40) > 0.4, 1, -1)
    scores = net.predict(X)[:, 0]
    assert ((scores > 0) != (scores > 0.5)).any()
    assert net.evaluate(X, y, metrics=["accuracy", "binary_accuracy", "recall", "auc", "mae"]) == {
        "loss": net.loss(X, y),
        "accuracy": pytest.approx((np.sign(scores) == y).mean(), rel=1e-12),
        "binary_accuracy": pytest.approx((np.sign(scores) == y).mean(), rel=1e-12),
        "recall": pytest.approx(sk.recall_score(y, np.sign(scores)), rel=1e-12),
        "auc": pytest.approx(sk.roc_auc_score(y, scores), rel=1e-12),
        "mae": pytest.approx(np.abs(scores - y).mean(), rel=1e-12),
    }
    history = net.fit(X, y, metrics=["accuracy"], epochs=1)
    assert history.metrics["accuracy"] == [(np.sign(net.predict(X)[:, 0]) == y).mean()]


def test_own_metrics_may_take_weights(rng):
    network, weight = Network(5, [Dense(3)], loss="softmax_cross_entropy"), rng.uniform(size=20)
    X, y = rng.normal(size=(20, 5)), rng.integers(0, 3, 20)

    def weighed(y, prediction, weight):
        return np.average(prediction.argmax(axis=1) == y, weights=weight)

    got = network.evaluate(X, y, metrics=[weighed, "accuracy"], sample_weight=weight)
    assert got["weighed"] == got["accuracy"] != network.evaluate(X, y, metrics="accuracy")["accuracy"]
    several = network.evaluate(X, y, metrics=[fastgd.metrics.top_k(k=1), fastgd.metrics.top_k(k=2), "accuracy"])
    assert several["top_k(k=1)"] == several["accuracy"] <= several["top_k(k=2)"]
    with pytest.raises(ValueError, match="'step'"):
        network.evaluate(X, y, metrics=fastgd.metrics.own(weighed, name="step"))


@pytest.mark.parametrize(
    ("metrics", "error", "match"),
    [
        ("acuracy", ValueError, "did you mean 'accuracy'"),
        (3, TypeError, "'metrics'.*3"),
        ([3], TypeError, r"'metrics\[0\]'.*3"),
        (["mae", "mae"], ValueError, r"'metrics\[1\]'.*'mae'"),
        ([lambda y, p: "high"], TypeError, "number.*'high'"),
    ],
)
def test_bad_metrics(metrics, error, match, small):
    network, x, y = small
    network = Network(5, [Dense(1)], loss="mse")
    with pytest.raises(error, match=match):
        network.evaluate(x, y * 1.0, metrics=metrics)
