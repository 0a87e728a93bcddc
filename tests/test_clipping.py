"""Clipping of very long and very short gradients, whose squares and sums of squares overflow or vanish."""

import numpy as np
import pytest
from cases import OPTIMIZERS

import fastgd
from fastgd import SGD, Dense, Network

LENGTHS = {
    "float32": (3e38, 1e38, 1e30, 1e19, 1e-30),
    "float64": (1.7e308, 1e300, 1e200, 1e154, 1e38, 1e-150),
}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def signs(n, dtype):
    return np.where(np.arange(n) % 3, 1, -1).astype(dtype)


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_a_huge_gradient_makes_a_step_of_the_limit(n, backend, dtype):
    for length in LENGTHS[dtype][:-1]:
        for limit in (1.0, 1e-20, 1e10):
            p, g = np.zeros(n, dtype), signs(n, dtype) * np.array(length, dtype)
            SGD(1.0, clip_norm=limit).step(p, g, backend=backend)
            expected = -signs(n, "f8") * min(limit / n**0.5, length)
            np.testing.assert_allclose(p, expected, rtol=TOLERANCE[dtype])


def test_parts_of_all_sizes(backend, dtype):
    """Arrays of very different scales: the largest one dominates the norm."""
    sizes = (*LENGTHS[dtype][1:], 0.0)
    params, grads = [np.zeros(3, dtype) for _ in sizes], [np.full(3, size, dtype) for size in sizes]
    optimizer = SGD(1.0, clip_norm=1.0)
    optimizer.step(params, grads, backend=backend)
    norm = np.linalg.norm(np.array(sizes) / sizes[0]) * 3**0.5 * float(grads[0][0])
    assert optimizer.gradient_norm == pytest.approx(norm, rel=1e-12)
    for p, g in zip(params, grads, strict=True):
        np.testing.assert_allclose(p, -(g.astype("f8") / norm), rtol=TOLERANCE[dtype], atol=float(np.finfo(dtype).tiny))


def test_short_gradients_stay_as_they_are(backend, dtype):
    for length in (LENGTHS[dtype][-1], 0.0, 1e-3):
        p, g = np.zeros(5000, dtype), signs(5000, dtype) * np.array(length, dtype)
        optimizer = SGD(1.0, clip_norm=1.0)
        optimizer.step(p, g, backend=backend)
        np.testing.assert_array_equal(p, -g)
        assert optimizer.gradient_norm == pytest.approx(5000**0.5 * abs(float(g[0])), rel=1e-9)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_gradients_that_are_no_numbers(strange, backend, dtype):
    """As in torch.nn.utils.clip_grad_norm_."""
    p, g = np.zeros(3, dtype), np.array([1.0, strange, 2.0], dtype)
    optimizer = SGD(1.0, clip_norm=1.0)
    optimizer.step(p, g, backend=backend)
    assert np.isnan(p[1])
    assert np.isnan(p[[0, 2]]).all() if np.isnan(strange) else not p[[0, 2]].any()
    np.testing.assert_equal(optimizer.gradient_norm, strange)


def test_both_limits(backend):
    p, g = np.zeros(4, np.float32), np.array([3e38, -1e38, 1e38, 0], np.float32)
    SGD(1.0, clip_norm=1.0, clip_value=0.5).step(p, g, backend=backend)
    np.testing.assert_allclose(p, [-0.5, 1 / 11**0.5, -1 / 11**0.5, 0], rtol=1e-6)


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "8bit"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("SGD", "RMSProp centred")])
def test_every_rule_gets_the_clipped_gradient(name, state_dtype, dtype, rng):
    g = rng.normal(size=600).astype(dtype)
    ends = []
    for scale in (1e3, LENGTHS[dtype][1] / 8):
        p, optimizer = np.ones(600, dtype), OPTIMIZERS[name](0.1, clip_norm=1.0, state_dtype=state_dtype)
        for _ in range(3):
            optimizer.step(p, g * np.array(scale, dtype))
        ends.append(p)
    # Low-memory state is rounded stochastically, depending on the last bits.
    tolerance = {None: 2e-4, "bfloat16": 0.05, "8bit": 0.2}[state_dtype]
    np.testing.assert_allclose(*ends, rtol=0, atol=tolerance)


def test_a_network_with_an_exploding_gradient(backend):
    """A finite gradient is clipped; without clipping the training diverges."""
    X, y = np.full((8, 1), 1e30, np.float32), np.ones((8, 1), np.float32)
    for options in ({}, {"clip_norm": 1e30}, {"clip_norm": 1.0, "accumulate": 2}, {"clip_value": 1.0}):
        layers = [Dense(1, weight_init="zeros")]
        net = Network(1, layers, loss="mae", backend=backend)
        if options in ({}, {"clip_norm": 1e30}):
            with pytest.raises(fastgd.DivergenceError):
                net.fit(X, y, optimizer=SGD(1.0, **options), epochs=1)
            np.testing.assert_array_equal(net.parameters, 0)
            continue
        optimizer = SGD(1.0, **options)
        for _ in range(2):
            if not net.parameters.any():
                net.train_step(X, y, optimizer)
        np.testing.assert_allclose(net.parameters, [1.0, 1e-30 if "clip_norm" in options else 1.0], rtol=1e-6)
        assert net.loss(X, y) == pytest.approx(1e30, rel=1e-6)
    net = Network(1, layers, loss="mae", backend=backend)
    with pytest.raises(fastgd.DivergenceError):
        net.train_step(np.full((8, 1), 1e38, np.float32), y, SGD(1e30, clip_norm=1.0))
