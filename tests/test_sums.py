"""Long sums in float32 by every body, over any number of rows and columns: equal terms would lose digits if they were
added one after the other. The tolerance is 1e-6."""

import importlib
import itertools

import numpy as np
import pytest
from cases import KERNELS

import fastgd
from fastgd import SGD, BatchNorm, Dense, LayerNorm, Network, _cpu
from fastgd._plan import call_kernel
from fastgd.cli.self_check import example

RIGHT = 1e-6
CONSTANTS = (0.1, 1 / 3, 0.7, 1.0, 1.1, 1.9999999, 3e-5, -123.456)
BODIES = pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
# The arguments of kernels that sum over rows; inputs other than the terms are ones.
OVER_ROWS = {
    "dense_backward_bias": lambda out, x: (out[0], x),
    "normalization_backward_gamma": lambda out, x: (out[0], x, np.ones_like(x)),
    "batch_norm_means": lambda out, x: (out[0], out[1], x, np.ones_like(x)),
}


def like_rows(rows, columns=CONSTANTS):
    return np.tile(np.array(columns, np.float32), (rows, 1))


def check_sums(kernel, body, x):
    out = np.empty((2, x.shape[1]), np.float32)
    arguments = OVER_ROWS[kernel](out, x)
    KERNELS[kernel].body(body)(*arguments)
    expected = x[0].astype(np.float64) * (1 if kernel == "batch_norm_means" else len(x))
    for a, spec in zip(arguments, KERNELS[kernel].arrays.values(), strict=True):
        if spec.direction == "out":
            np.testing.assert_allclose(a, expected, rtol=RIGHT)


@BODIES
@pytest.mark.parametrize("kernel", OVER_ROWS)
@pytest.mark.parametrize("rows", [31, 32, 33, 65, 1000, 100_003])
def test_sums_over_rows(kernel, body, rows):
    check_sums(kernel, body, like_rows(rows))


@BODIES
def test_sums_over_rows_of_wide_ones(body, rng):
    """Columns in whole vectors, single columns, and more columns than are held at a time."""
    check_sums("dense_backward_bias", body, like_rows(700, rng.uniform(1, 2, 1103)))
    check_sums("normalization_backward_gamma", body, like_rows(700, rng.uniform(1, 2, 1103)))


@BODIES
def test_more_rows_than_float32_can_count(body):
    check_sums("dense_backward_bias", body, like_rows(2**24 + 5, [0.1]))


@BODIES
def test_no_block_loses_digits(body, rng):
    """The worst of thousands of columns, in the longest sum that is added up in float32."""
    check_sums("dense_backward_bias", body, like_rows(32, np.append(np.linspace(1, 2, 5000), rng.uniform(1, 2, 5000))))


@BODIES
@pytest.mark.parametrize("rows", [1, 47, 48, 49, 64, 65, 384, 385, 1000, 4608, 4609, 100_003])
def test_products_summed_over_rows(body, rows, rng):
    """The gradient of dense weights, for one output and for more."""
    for n_in, n_out in ((1, 3), (5, 1), (13, 33) if rows < 5000 else (2, 2)):
        x, dy = rng.uniform(0.1, 1, n_in).astype(np.float32), rng.uniform(-2, -1, n_out).astype(np.float32)
        dw = np.empty((n_in, n_out), np.float32)
        KERNELS["dense_backward_weights"].body(body)(dw, np.tile(x, (rows, 1)), np.tile(dy / rows, (rows, 1)))
        exact = np.outer(x.astype(np.float64), (dy / rows).astype(np.float64)) * rows
        np.testing.assert_allclose(dw, exact, rtol=RIGHT)


def test_the_gradient_of_a_million_like_rows(backend):
    X, y = np.ones((10**6, 1), np.float32), np.full(10**6, -1.0)
    network = Network(1, [Dense(1, weight_init="zeros")], loss="mse", backend=backend)
    loss, gradient = network.loss_and_gradient(X, y)
    assert loss == pytest.approx(1.0, rel=RIGHT)
    np.testing.assert_allclose(gradient, [2.0, 2.0], rtol=RIGHT)
    network.fit(X, y, optimizer=SGD(0.25), batch_size=None, epochs=1)
    np.testing.assert_allclose(network.parameters, [-0.5, -0.5], rtol=RIGHT)


# The loss of a row of k equal outputs c with targets 0, or equal probabilities.
OVER_COLUMNS = {
    "mse_loss": lambda c, k: c * c,
    "mae_loss": lambda c, k: abs(c),
    "huber_loss": lambda c, k: c * c / 2 if abs(c) <= 1 else abs(c) - 0.5,
    "binary_cross_entropy_loss": lambda c, k: np.logaddexp(0, c),
    "poisson_loss": lambda c, k: np.exp(c),
    "softmax_cross_entropy_loss": lambda c, k: np.log(k),
}


@BODIES
@pytest.mark.parametrize("columns", [100, 511, 513, 100_003])
@pytest.mark.parametrize("name", OVER_COLUMNS)
def test_losses_of_wide_rows(name, body, columns):
    kernel = KERNELS[name]
    for c in np.array([0.1, 1 / 3, 1.7], np.float32):
        z, y = np.full((2, columns), c, np.float32), np.zeros((2, columns), np.float32)
        if name == "softmax_cross_entropy_loss":
            y += np.float32(1 / columns)
        loss, dz, weight = np.empty(2, np.float32), np.empty_like(z), np.ones(2, np.float32)
        scalars = [{"delta": 1.0, "label_smoothing": 0.0}[scalar] for scalar in kernel.scalars]
        kernel.body(body)(loss, dz, z, y, weight, *scalars)
        np.testing.assert_allclose(loss, OVER_COLUMNS[name](float(c), columns), rtol=RIGHT)


@BODIES
def test_a_million_classes(body):
    """Sums of probabilities, of a row of targets and of exponentials."""
    k = 1_000_003
    z, p, y = np.full((1, k), 2.5, np.float32), np.empty((1, k), np.float32), np.full((1, k), 1 / k, np.float32)
    KERNELS["softmax_forward"].body(body)(p, z)
    np.testing.assert_allclose(p[0, ::1000], 1 / k, rtol=RIGHT)
    loss, weight = np.empty(1, np.float32), np.ones(1, np.float32)
    KERNELS["softmax_cross_entropy_labels_loss"].body(body)(loss, p, z, np.array([7]), weight, 0.3)
    np.testing.assert_allclose(loss, np.log(k), rtol=RIGHT)
    KERNELS["softmax_cross_entropy_loss"].body(body)(loss, p, z, y, weight, 0.3)
    np.testing.assert_allclose(loss, np.log(k), rtol=RIGHT)


@BODIES
def test_layer_norm_of_wide_rows(body):
    n = 100_003
    x = np.full((1, n), 0.1, np.float32)
    x[0, ::2] = 0.3
    y, normal, inverse = np.empty_like(x), np.empty_like(x), np.empty(1, np.float32)
    KERNELS["layer_norm_forward"].body(body)(y, normal, inverse, x, np.ones(n, "f4"), np.zeros(n, "f4"), 1e-5)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(exact.var() + 1e-5), rtol=RIGHT)
    np.testing.assert_allclose(normal[0], (exact[0] - exact.mean()) * inverse[0], rtol=2e-6)
    dx, dy = np.empty_like(x), np.full_like(x, 0.1)
    dy[0, ::2] = 0.7
    KERNELS["layer_norm_backward"].body(body)(dx, dy, normal, inverse, np.ones(n, "f4"))
    d, unit = dy[0].astype(np.float64), normal[0].astype(np.float64)
    expected = inverse[0] * (d - d.mean() - unit * (d * unit).mean())
    np.testing.assert_allclose(dx[0], expected, atol=RIGHT * inverse[0])


def test_the_gradient_of_many_like_rows(backend):
    """X = 1, y = -1, mse, zero weights: the bias has the gradient 2; every loss and metric is 1."""
    rows = 300_001
    X, y = np.ones((rows, 1), np.float32), np.full((rows, 1), -1, np.float32)
    net = Network(1, [Dense(1, weight_init="zeros")], loss="mse", backend=backend)
    loss, gradient = net.loss_and_gradient(X, y)
    assert loss == pytest.approx(1, rel=RIGHT)
    assert net.views(gradient)["b1"][0] == pytest.approx(2, rel=RIGHT)
    assert net.loss(X, y) == pytest.approx(1, rel=RIGHT)
    assert net.evaluate(X, y, metrics=["mse", "mae"]) == pytest.approx({"loss": 1, "mse": 1, "mae": 1}, rel=RIGHT)
    history = net.fit(X, y, optimizer=fastgd.SGD(1e-6), epochs=1, batch_size=100_000)
    assert history.loss[0] == pytest.approx(1, rel=1e-5)


@pytest.mark.float64
def test_normalizations_of_many_like_rows(backend):
    """Two kinds of rows; rows of the same kind have the same gradient."""
    rows = 200_002
    X = np.zeros((rows, 2), np.float32)
    X[::2, 0] = X[1::2, 1] = 1
    y = np.full((rows, 1), -0.7, np.float32)
    for layer in (LayerNorm(), BatchNorm()):
        single, gradients = {}, {}
        for dtype in ("float32", "float64"):
            layers = [layer, Dense(1, weight_init=np.array([[0.3], [0.4]]))]
            net = Network(2, layers, loss="mse", dtype=dtype, backend=backend)
            _, gradient = net.loss_and_gradient(X, y, training=True)
            gradients[dtype] = {name: g.copy() for name, g in net.views(gradient).items() if not name.startswith("w")}
            single[dtype] = net.loss(X, y)
        assert single["float32"] == pytest.approx(single["float64"], rel=RIGHT)
        for name, exact in gradients["float64"].items():
            np.testing.assert_allclose(gradients["float32"][name], exact, rtol=2e-6, atol=RIGHT)


def test_metrics_of_many_rows_in_float32():
    rows = 2**24 // 16 + 3
    p, y, w = np.full((rows, 1), 0.6, np.float32), np.full((rows, 1), 0.5, np.float32), np.full(rows, 0.1, np.float32)
    y[0], p[0] = 0.4, 0.3
    metrics = fastgd.metrics.METRICS
    d = np.abs(p.astype("f8") - y)[:, 0]
    for weight in (None, w):
        assert metrics["mae"].value(y, p, weight) == pytest.approx(d.mean(), rel=1e-9)
        assert metrics["mse"].value(y, p, weight) == pytest.approx((d**2).mean(), rel=1e-9)
        assert metrics["accuracy"].value(np.ones_like(y), p, weight) == pytest.approx(1 - 1 / rows, rel=1e-9)
        assert metrics["binary_accuracy"].value(np.ones_like(y), p, weight) == pytest.approx(1 - 1 / rows, rel=1e-9)
        two = np.hstack([p, 1 - p])
        assert metrics["top_k"](k=1).value(np.zeros(rows, int), two, weight) == pytest.approx(1 - 1 / rows, rel=1e-9)
    assert np.isfinite(metrics["r2"].value(y, p, w))


def test_the_penalty_of_many_like_weights(backend):
    layers = [Dense(1000, weight_init=np.full((1000, 1000), 0.1))]
    net = Network(1000, layers, loss="mse", l1=1.0, l2=1.0, backend=backend)
    penalty = net.loss(np.zeros((1, 1000), "f4"), np.zeros((1, 1000), "f4"))
    assert penalty == pytest.approx(1e5 + 0.5e4, rel=RIGHT)


def test_standardize_of_many_like_rows():
    X = np.full((2**20 + 1, 2), 0.1, np.float32)
    X[::2, 1] = 0.3
    layer = fastgd.Standardize.of(X)
    exact = X.astype(np.float64)
    np.testing.assert_allclose(layer.shift, exact.mean(axis=0), rtol=1e-12)
    assert layer.scale[0] == 0
    assert layer.scale[1] == pytest.approx(1 / exact[:, 1].std(), rel=1e-9)


# ---- the same bits


SUMS = [
    *OVER_ROWS,
    "dense_backward_weights",
    *OVER_COLUMNS,
    "softmax_cross_entropy_labels_loss",
    "layer_norm_forward",
    "layer_norm_backward",
]
SIZES = [{"rows": rows, "n": n} for rows, n in ((33, 5), (257, 600), (1000, 17), (3, 1100), (5000, 1))]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_sums_have_the_same_bits_on_every_instruction_set_and_share(name, sizes, dtype, rng):
    """On instruction sets that fuse products and sums; for the bias, which has no products, on all."""
    kernel = KERNELS[name]
    variants = [v for v in _cpu.variants() if v != "v2" or name == "dense_backward_bias"]
    n = sizes["n"]
    given = example(kernel, {"rows": sizes["rows"], "n": n, "n_in": 35, "n_out": n, "k": n}, dtype, rng)
    results = []
    for variant in variants:
        bodies = importlib.import_module(f"fastgd._kernels_{variant}_{dtype}").bodies
        for cuts in ([0, 1], [0, 0.3, 0.5, 1]):
            arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in given]
            checked = kernel.check(arguments)[1]
            record, end = kernel.record(arguments, checked), checked[kernel.range_dim]
            for begin, stop in itertools.pairwise(int(cut * end) for cut in cuts):
                if begin < stop:
                    call_kernel(bodies[name][0], record.ctypes.data, begin, stop)
            results.append(arguments)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
