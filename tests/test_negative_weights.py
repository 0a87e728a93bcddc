"""Weights below 0, as policy gradients have them: the loss is the mean of weight times loss."""

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Dense, Network

ROWS = 12


def make(backend="auto", **options):
    layers = [Dense(8, "tanh"), Dense(3)]
    return Network(5, layers, loss="softmax_cross_entropy", dtype="float64", backend=backend, **options)


@pytest.fixture
def rows(rng):
    return rng.normal(size=(ROWS, 5)), rng.integers(0, 3, ROWS), rng.normal(size=ROWS)


def test_the_loss_is_the_mean_of_weight_times_loss(rows, backend):
    x, y, w = rows
    net = make(backend)
    expected = np.mean(w * -np.log(net.predict(x)[np.arange(ROWS), y]))
    for scale in (1.0, -2.0):  # of any sum
        options = {"sample_weight": scale * w, "allow_negative": True}
        assert net.loss(x, y, **options) == pytest.approx(scale * expected, rel=1e-12)
        loss, gradient = net.loss_and_gradient(x, y, **options)
        assert loss == pytest.approx(scale * expected, rel=1e-12)
        parts = [w[i] * net.loss_and_gradient(x[i : i + 1], y[i : i + 1])[1] for i in range(ROWS)]
        np.testing.assert_allclose(gradient, scale * np.mean(parts, axis=0), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("weight", ["of sum 0", "positive"])
def test_steps_are_those_of_fit(rows, weight, backend):
    x, y, w = rows
    w = w - w.mean() if weight == "of sum 0" else np.abs(w)
    one, two, three = (make(backend) for _ in range(3))
    gradient = one.loss_and_gradient(x, y, sample_weight=w, allow_negative=True)[1]
    expected = one.parameters - 0.1 * gradient
    loss = one.train_step(x, y, SGD(0.1), sample_weight=w, allow_negative=True)
    np.testing.assert_allclose(one.parameters, expected, rtol=1e-12, atol=1e-15)
    fitted = {"optimizer": SGD(0.1), "epochs": 1}
    history = two.fit(x, y, sample_weight=w, allow_negative=True, batch_size=None, shuffle=False, **fitted)
    np.testing.assert_allclose(two.parameters, expected, rtol=1e-12, atol=1e-15)
    assert history.loss[0] == pytest.approx(loss, rel=1e-12, abs=1e-15)
    three.fit([(x, y, w)], allow_negative=True, optimizer=SGD(0.1), epochs=1)
    np.testing.assert_allclose(three.parameters, expected, rtol=1e-12, atol=1e-15)


def test_a_part_that_is_held_out_is_not_scaled(rows):
    x, y, w = rows
    net = make()
    history = net.fit(x, y, sample_weight=np.abs(w), allow_negative=True, validation_fraction=0.5, epochs=1,
                      optimizer=SGD(1e-30), batch_size=None)  # fmt: skip
    whole = net.loss(x, y, sample_weight=np.abs(w), allow_negative=True)
    assert (history.loss[0] + history.validation_loss[0]) / 2 == pytest.approx(whole, rel=1e-12)


def test_without_the_option_the_error_names_it(rows):
    x, y, w = rows
    net, optimizer = make(), SGD(0.1)
    before = net.parameters.copy()
    calls = (
        lambda: net.train_step(x, y, optimizer, sample_weight=w), lambda: net.loss(x, y, sample_weight=w),
        lambda: net.loss_and_gradient(x, y, sample_weight=w), lambda: net.fit(x, y, sample_weight=w),
        lambda: net.fit([(x, y, w)], epochs=1),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"'sample_weight'.*>= 0.*allow_negative=True.*index"):
            call()
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="'sample_weight'.*finite"):
            net.train_step(x, y, optimizer, sample_weight=np.where(w == w[3], bad, w), allow_negative=True)
    with pytest.raises(TypeError, match="'allow_negative'"):
        net.fit(x, y, sample_weight=w, allow_negative="yes")
    with pytest.raises(ValueError, match="'class_weight'.*allow_negative"):
        net.fit(x, y, sample_weight=w, allow_negative=True, class_weight="balanced")
    with pytest.raises(ValueError, match="'metrics'.*allow_negative"):
        net.fit(x, y, sample_weight=w, allow_negative=True, metrics="accuracy")
    np.testing.assert_array_equal(net.parameters, before)


def test_a_policy_gradient_learns(rng):
    """REINFORCE on three bandits: the best arm of each state gets the most probable one."""
    x, best, optimizer = np.eye(5)[rng.integers(0, 3, 64)], np.array([2, 0, 1]), fastgd.Adam(0.02)
    net = make()
    for _ in range(200):
        p = net.predict(x)
        action = (p.cumsum(axis=1) > rng.random((64, 1))).argmax(axis=1)
        reward = (action == best[x.argmax(axis=1)]) * 1.0
        net.train_step(x, action, optimizer, sample_weight=reward - reward.mean(), allow_negative=True)
    assert (net.predict(np.eye(5)[:3]).argmax(axis=1) == best).all()
