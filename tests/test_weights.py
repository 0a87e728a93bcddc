"""Weights of rows and of classes."""

import numpy as np
import pytest
from cases import make

import fastgd
from fastgd import SGD, Dense, Network


def test_weights_are_repetitions(backend, dtype, rng):
    """A row of weight 3 counts as three rows, one of weight 0 not at all."""
    X, y, times = rng.normal(size=(30, 6)), rng.integers(0, 3, 30), rng.integers(0, 4, 30)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    network = make(backend, dtype=dtype, l2=0.01)
    loss, gradient = network.loss_and_gradient(X, y, sample_weight=times)
    repeated, expected = network.loss_and_gradient(np.repeat(X, times, axis=0), np.repeat(y, times))
    assert loss == pytest.approx(repeated, rel=tolerance)
    assert network.loss(X, y, sample_weight=times) == pytest.approx(repeated, rel=tolerance)
    np.testing.assert_allclose(gradient, expected, atol=tolerance * np.abs(expected).max())
    assert np.abs(network.loss_and_gradient(X, y)[1] - gradient).max() > 1e-2
    ends = []
    for x, labels, weight in ((X, y, times), (np.repeat(X, times, axis=0), np.repeat(y, times), None)):
        network = make(backend, dtype=dtype)
        history = network.fit(x, labels, optimizer=SGD(0.5), batch_size=None, epochs=5, sample_weight=weight)
        ends.append((network.parameters.copy(), history.loss))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=20 * tolerance)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=20 * tolerance)


@pytest.mark.float64
@pytest.mark.parametrize("batch_size", [1, 7, None])
@pytest.mark.parametrize("cast", [np.float64, np.float32])
def test_minibatches_of_weighted_rows_are_the_formula(batch_size, cast, backend, rng):
    X, y, weight = rng.normal(size=(30, 3)).astype(cast), rng.normal(size=30), rng.uniform(0, 2, 30)
    network = Network(3, [Dense(1)], loss="mse", dtype="float64", backend=backend)
    w = network.views()["w1"][:, 0].copy()
    b = 0.0
    network.fit(X, y, optimizer=SGD(0.01), batch_size=batch_size, epochs=2, sample_weight=weight)
    scaled, X = weight / weight.mean(), X.astype(np.float64)
    for epoch in range(2):
        index = np.arange(30)
        for rows, _ in fastgd.minibatches(index, index, batch_size, epoch=epoch, shuffle=batch_size is not None):
            residual = scaled[rows] * (X[rows] @ w + b - y[rows])
            w, b = w - 0.01 * 2 * X[rows].T @ residual / len(rows), b - 0.01 * 2 * residual.mean()
    np.testing.assert_allclose(network.views()["w1"][:, 0], w, rtol=1e-11)
    np.testing.assert_allclose(network.views()["b1"], b, rtol=1e-11)


@pytest.mark.float64
def test_train_step_takes_weights(backend, rng):
    X, y, weight = rng.normal(size=(9, 3)), rng.normal(size=(9, 1)), rng.uniform(size=9)
    network = Network(3, [Dense(1)], loss="mse", dtype="float64", backend=backend)
    optimizer = SGD(0.1)
    for i in range(6):  # weighted and plain steps in turn
        before, given = network.parameters.copy(), weight if i % 2 else None
        loss, gradient = network.loss_and_gradient(X, y, sample_weight=given)
        assert network.train_step(X, y, optimizer, sample_weight=given) == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(network.parameters, before - 0.1 * gradient, rtol=1e-12)


@pytest.mark.float64
def test_class_weights_are_weights(backend, rng):
    X, y = rng.normal(size=(60, 6)), np.repeat([0, 1, 2], [40, 15, 5])
    ends = []
    weight = rng.uniform(size=60)
    for options in (
        {"class_weight": "balanced", "sample_weight": weight},
        {"class_weight": {0: 0.5, 1: 60 / 45, 2: 4.0}, "sample_weight": weight},
        {"sample_weight": weight * (60 / (3 * np.array([40, 15, 5])))[y]},
        {},
    ):
        network = make(backend, dtype="float64")
        network.fit(X, y, epochs=2, batch_size=16, **options)
        ends.append(network.parameters.copy())
    np.testing.assert_allclose(ends[0], ends[2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ends[1], ends[2], rtol=1e-9, atol=1e-12)
    assert np.abs(ends[3] - ends[0]).max() > 1e-3


def test_class_weights_of_one_yes_or_no_output(rng):
    X, y = rng.normal(size=(40, 4)), np.repeat([0.0, 1.0], [30, 10])
    ends = []
    for options in ({"class_weight": {1: 3}}, {"sample_weight": np.where(y == 1, 3, 1)}):
        network = Network(4, [Dense(1)], loss="binary_cross_entropy")
        network.fit(X, y, epochs=2, **options)
        ends.append(network.parameters.copy())
    np.testing.assert_array_equal(*ends)
    with pytest.raises(ValueError, match=r"'class_weight'.*\[0, 1\], got 2"):
        network.fit(X, y, class_weight={2: 1})


def test_class_weights_are_of_what_is_trained_on(rng):
    """Held-out rows have no class weights."""
    X, y = rng.normal(size=(60, 6)), np.repeat([0, 1, 2], [40, 15, 5])
    network = make()
    history = network.fit(X, y, epochs=2, validation_fraction=0.3, class_weight={0: 1, 1: 20}, metrics="accuracy")
    held_out = np.sort(fastgd.data.minibatches.epoch_order(60, 0, fastgd.data.samples.SPLIT_EPOCH, True)[:18])
    result = network.evaluate(X[held_out], y[held_out], metrics="accuracy")
    assert history.validation_loss[-1] == result["loss"]
    assert history.metrics["validation_accuracy"][-1] == result["accuracy"]
    soft = Network(6, [Dense(1)], loss="binary_cross_entropy")
    with pytest.raises(ValueError, match="'class_weight'.*other than 0 and 1"):
        soft.fit(X, rng.uniform(size=60), class_weight="balanced")


@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}])
def test_weights_beside_held_out_rows_are_of_the_rest(options, rng):
    """As if the other rows were all the data, also when classes are held out unevenly."""
    X, y, weight = rng.normal(size=(60, 6)), np.repeat([0, 1, 2], [40, 15, 5]), rng.uniform(size=60)
    rest, _ = fastgd.data.samples.split_rows("", 60, 0.4, 0)
    ends = []
    for rows, more in ((slice(None), {"validation_fraction": 0.4}), (rest, {})):
        network = make(dtype="float64")
        network.fit(X[rows], y[rows], sample_weight=weight[rows], epochs=2, batch_size=7, **options, **more)
        ends.append(network.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-12)


def test_class_weights_are_of_the_training_loss_alone(rng):
    X, y = rng.normal(size=(60, 6)), np.repeat([0, 1], 30)
    network = make()
    history = network.fit(X, y, epochs=2, class_weight={0: 1, 1: 20, 2: 7}, metrics="accuracy")  # there is no 2
    assert history.metrics["accuracy"][-1] == (network.predict(X).argmax(axis=1) == y).mean()
    twin = make()
    twin.fit(X, y, epochs=2, class_weight={0: 1, 1: 20})
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    with pytest.raises(ValueError, match=r"'class_weight'.*\[0, 2\], got 3"):
        network.fit(X, y, class_weight={3: 1})


def test_very_large_weights_are_weights(rng):
    X, y = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
    ends = []
    for weight in (1.0, 1e308):
        network = make(dtype="float64")
        network.fit(X, y, epochs=2, sample_weight=np.full(40, weight))
        ends.append(network.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-12)
