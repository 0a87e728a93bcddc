"""Layers on images: values of torch, every geometry on every body, threads, layouts of buffers, memory, ONNX."""

import importlib
import itertools
import types

import numpy as np
import pytest
from test_golden import GOLDEN, cases, close, evaluate

import fastgd
from fastgd import (
    Activation,
    AvgPool2D,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    Network,
    Residual,
    _cpu,
)
from fastgd._plan import IMAGES, call_kernel
from fastgd.cli.self_check import GRADIENT_TOLERANCE, TOLERANCES
from fastgd.core.kernel import In, Kernel, Out

NAMES = types.SimpleNamespace(**vars(fastgd), **fastgd.activations.ACTIVATIONS)


def network(layers, shape=(8, 7, 4), **options):
    return Network(shape, layers, **{"loss": "mse", "seed": 3, **options})


@pytest.mark.parametrize("name", cases("image", "y"))
def test_values_of_torch(name, backend, dtype):
    """After a convolution that changes nothing, since a network needs parameters."""
    same = Conv2D(4, 1, use_bias=False, weight_init=np.eye(4).reshape(1, 1, 4, 4))
    net = network([same, evaluate(name, fastgd)], shape=GOLDEN["image.x"].shape[1:], backend=backend, dtype=dtype)
    found = {key: GOLDEN[f"image.{name}.{key}"] for key in ("y", "dy", "dx")}
    for key, view in net.views().items():
        if key != "w1":
            view[...] = GOLDEN[f"image.{name}.{key[0]}"]
    x, dy = (a.astype(dtype) for a in (GOLDEN["image.x"], found["dy"]))
    flat = [a.reshape(len(a), *net.output_shape) for a in (found["y"], dy)]
    y = net.forward(x, training=True)
    close(y, flat[0], dtype)
    close(net.backward(np.ascontiguousarray(flat[1]), input_gradient=True), found["dx"], dtype)
    for key, part in net.views(net.gradient).items():
        if key != "w1":
            close(part, GOLDEN[f"image.{name}.d{key[0]}"], dtype)


# ---- kernels


def geometries(seed, count):
    """Random geometries: blocks, shape of x, outputs, window, strides, padding, groups."""
    rng = np.random.default_rng(seed)
    while count:
        h, w = rng.integers(1, 13, 2)
        c, o, groups = ((1, 1, 1), (1, 6, 1), (3, 8, 1), (6, 16, 1), (4, 6, 2), (5, 5, 5), (3, 9, 3), (17, 33, 1),
                        (2, 70, 1), (16, 32, 1))[rng.integers(10)]  # fmt: skip
        size, strides = rng.integers(1, 6, 2), rng.integers(1, 4, 2)
        before = rng.integers(0, size)
        counts = (np.array([h, w]) + 2 * before - size) // strides + 1
        if (counts >= 1).all():
            count -= 1
            yield int(rng.integers(1, 4)), (h, w), c, o, groups, size, strides, before, counts


@pytest.mark.parametrize("body", ["cython", "numba"])
def test_convolutions_of_every_geometry(body, dtype, rng):
    kernels = fastgd.kernels
    for blocks, image, c, o, groups, size, strides, before, counts in geometries(0, 60):
        k = size.prod() * (c // groups)
        x, weights, bias = (rng.normal(size=s) for s in ((blocks, *image, c, IMAGES), (k, o), o))
        dy = rng.normal(size=(blocks, *counts, o, IMAGES))
        options = [float(v) for v in (size[1], c // groups, *strides, *before)]

        def run(body, dtype, x=x, weights=weights, bias=bias, dy=dy, options=options):
            given = [a.astype(dtype) for a in (x, weights, bias, dy)]
            y, dx, dweights = (np.full(a.shape, 7, dtype) for a in (dy, x, weights))
            kernels.conv2d_forward.body(body)(y, *given[:3], *options, 0.0)
            kernels.conv2d_backward_input.body(body)(dx, given[3], given[1], *options)
            kernels.conv2d_backward_weights.body(body)(dweights, given[0], given[3], *options)
            return y, dx, dweights

        for got, exact in zip(run(body, dtype), run("numpy", "float64"), strict=True):
            assert np.abs(got - exact).max() <= TOLERANCES[dtype] * max(np.abs(exact).max(), 1)


def weights_gradient(variant, dtype, x, dy, k, width, channels, padding, cuts):
    """The result of a variant of the compiled body for shares that end at these cuts."""
    kernel = fastgd.kernels.conv2d_backward_weights
    dweights = np.full((k + 1, dy.shape[3]), 7, dtype)  # with a row that is not an argument
    arguments = [dweights[:k], x, dy, width, channels, 1.0, 1.0, padding, padding]
    record = kernel.record(arguments, kernel.check(arguments)[1])
    body = importlib.import_module(f"fastgd._kernels_{variant}_{dtype}").bodies[kernel.name][0]
    for begin, end in itertools.pairwise(cuts):
        call_kernel(body, record.ctypes.data, begin, end)
    assert (dweights[k] == 7).all()
    return dweights[:k]


@pytest.mark.parametrize(("h", "w", "c", "o", "width"), [
    (3, 32, 32, 32, 3), (3, 30, 9, 33, 3), (1, 12, 200, 8, 3), (4, 32, 182, 8, 3), (1, 5, 360, 8, 3),
    (2, 100, 1, 16, 7), (14, 14, 4, 20, 3),
])  # fmt: skip
def test_gradients_of_weights_have_the_same_bits_on_every_instruction_set_and_share(h, w, c, o, width, dtype, rng):
    """On instruction sets that fuse products and sums."""
    k, padding = width * width * c, width // 2
    x, dy = (rng.normal(size=(1, h, w, n, IMAGES)).astype(dtype) for n in (c, o))
    results = [
        weights_gradient(variant, dtype, x, dy, k, width, c, padding, cuts)
        for variant in _cpu.variants() if variant != "v2"
        for cuts in ((0, k), (0, k // 2, k), (0, k // 3, 2 * k // 3, k))
    ]  # fmt: skip
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("o", [2, 9, 33])
@pytest.mark.parametrize(
    ("c", "channels", "k"), [(8, 8, 65), (8, 8, 71), (8, 8, 73), (5, 3, 27), (3, 2, 18), (9, 8, 72), (9, 8, 70)]
)
def test_windows_that_are_not_whole(c, channels, k, o, padding, dtype, rng):
    """A kernel that is called by name may have a window whose last tap has fewer channels than the others, or one that
    reads only the first channels of the image."""
    options = (3.0, float(channels), 1.0, 1.0, float(padding), float(padding))
    x, dy = (rng.normal(size=(1, *size, n, IMAGES)).astype(dtype) for size, n in (((5, 6), c), ((4, 5), o)))
    weights, bias, results = rng.normal(size=(k, o)).astype(dtype), np.zeros(o, dtype), []
    for body in ("cython", "numpy"):
        y, dx = np.empty_like(dy), np.full_like(x, 7)
        fastgd.kernels.conv2d_forward.body(body)(y, x, weights, bias, *options, -np.inf)
        fastgd.kernels.conv2d_backward_input.body(body)(dx, dy, weights, *options)
        results.append((y, dx))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=20 * TOLERANCES[dtype])
    exact = np.empty((k, o))
    fastgd.kernels.conv2d_backward_weights.body("numpy")(exact, *(a.astype(np.float64) for a in (x, dy)), *options)
    for variant in _cpu.variants():
        got = weights_gradient(variant, dtype, x, dy, k, 3, channels, padding, (0, k // 2, k))
        np.testing.assert_allclose(got, exact, rtol=0, atol=20 * TOLERANCES[dtype])


@pytest.mark.parametrize("body", ["cython", "numba"])
def test_pools_of_every_geometry(body, dtype, rng):
    for blocks, image, c, _, _, size, strides, before, counts in geometries(1, 60):
        x = np.round(rng.normal(size=(blocks, *image, c, IMAGES)), 1).astype(dtype)  # with equal values
        dy = rng.normal(size=(blocks, *counts, c, IMAGES)).astype(dtype)
        options = [float(v) for v in (*size, *strides, *before)]

        def run(body, x=x, dy=dy, options=options):
            y, mean, dx, dmean = (np.full(a.shape, 7, a.dtype) for a in (dy, dy, x, x))
            fastgd.kernels.max_pool_forward.body(body)(y, x, *options)
            fastgd.kernels.max_pool_backward.body(body)(dx, dy, y, x, *options)
            fastgd.kernels.average_pool_forward.body(body)(mean, x, *options)
            fastgd.kernels.average_pool_backward.body(body)(dmean, dy, *options)
            return y, dx, mean, dmean

        for got, expected in zip(run(body), run("numpy"), strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=20 * TOLERANCES[dtype])


@pytest.mark.parametrize(("c", "o", "size", "blocks"), [(8, 9, 5, 1), (16, 16, 32, 2), (70, 64, 7, 8)])
def test_convolutions_are_precise(c, o, size, blocks, rng):
    """As exact as direct sums: transforms with larger factors would lose a digit or two."""
    x, dy = (rng.normal(size=(blocks, size, size, n, IMAGES)).astype(np.float32) for n in (c, o))
    weights, bias = rng.normal(size=(9 * c, o)).astype(np.float32), np.ones(o, np.float32)
    options, results = (3.0, float(c), 1.0, 1.0, 1.0, 1.0), []
    for dtype in (np.float32, np.float64):
        y, dx, dweights = (np.empty(a.shape, dtype) for a in (dy, x, weights))
        args = [a.astype(dtype) for a in (x, dy, weights, bias)]
        fastgd.kernels.conv2d_forward.body("cython")(y, args[0], *args[2:], *options, -np.inf)
        fastgd.kernels.conv2d_backward_input.body("cython")(dx, args[1], args[2], *options)
        fastgd.kernels.conv2d_backward_weights.body("cython")(dweights, *args[:2], *options)
        results.append((y, dx, dweights))
    for got, exact in zip(*results, strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_windows_of_more_weights_than_are_packed(dtype, rng):
    """Over 1.6 MB of weights for one output channel."""
    c = 3000 if dtype == "float64" else 6000
    x, dy = rng.normal(size=(1, 9, 9, c, IMAGES)).astype(dtype), rng.normal(size=(1, 1, 1, 2, IMAGES)).astype(dtype)
    weights, bias = rng.normal(size=(81 * c, 2)).astype(dtype), np.ones(2, dtype)
    results = []
    for body in ("cython", "numpy"):
        y, dx = np.empty_like(dy), np.empty_like(x)
        fastgd.kernels.conv2d_forward.body(body)(y, x, weights, bias, 9.0, c, 1.0, 1.0, 0.0, 0.0, 0.0)
        fastgd.kernels.conv2d_backward_input.body(body)(dx, dy, weights, 9.0, c, 1.0, 1.0, 0.0, 0.0)
        results.append((y, dx))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_pooling_lets_nan_through(body):
    x = np.zeros((1, 2, 2, 1, IMAGES), np.float32)
    x[0, 1, 0, 0, 3], x[0, :, :, 0, 4] = np.nan, -np.inf
    y = np.empty((1, 1, 1, 1, IMAGES), np.float32)
    fastgd.kernels.max_pool_forward.body(body)(y, x, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0)
    assert np.isnan(y[0, 0, 0, 0, 3])
    assert y[0, 0, 0, 0, 4] == -np.inf
    assert (np.delete(y, (3, 4)) == 0).all()


def test_a_gradient_of_a_million_like_terms_is_exact(rng):
    x, dy = (np.full((64, 32, 32, 1, IMAGES), v, np.float32) for v in (0.1, 0.3))
    dweights = np.empty((1, 1), np.float32)
    exact = np.float64(np.float32(0.1)) * np.float32(0.3) * x.size
    for body in ("numpy", "numba", "cython"):
        fastgd.kernels.conv2d_backward_weights.body(body)(dweights, x, dy, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
        assert abs(dweights[0, 0] - exact) <= 1e-6 * exact


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_images_is_that_of_pixels(training, backend, dtype, rng):
    """In blocks of images, the last of them not full, as in rows of pixels."""
    same = Conv2D(3, 1, use_bias=False, weight_init=np.eye(3).reshape(1, 1, 3, 3))
    x, y = rng.normal(2, 3, size=(37, 5, 4, 3)).astype(dtype), rng.normal(size=(37, 5, 4, 3)).astype(dtype)
    found = []
    for layers in ([same, BatchNorm("tanh")], [Dense(3, weight_init=np.eye(3)), BatchNorm("tanh")]):
        net = network(layers, (5, 4, 3), backend=backend, dtype=dtype)
        loss, gradient = net.loss_and_gradient(x, y, training=training)
        gradient = [part.copy() for name, part in net.views(gradient).items() if name[0] != "b" or name == "beta2"]
        out = net.forward(x, training=training)
        net.fit(x, y, optimizer=fastgd.SGD(0.01), epochs=1, batch_size=37)
        found.append((loss, *[g.reshape(-1) for g in gradient], out, *net.statistics.values()))
    for one, other in zip(*found, strict=True):
        scale = max(np.abs(other).max(), 0.1)
        np.testing.assert_allclose(one, other, rtol=0, atol=20 * TOLERANCES[dtype] * scale)


def test_statistics_far_from_zero(backend):
    """A difference of squares would lose every digit."""
    x = (1e4 + np.random.default_rng(0).normal(size=(40, 6, 6, 1))).astype(np.float32)
    blocks = np.zeros((3, 36, 1, IMAGES), np.float32)
    fastgd.kernels.to_blocks(x.reshape(40, 36), blocks.reshape(3, 36, IMAGES), 0.0)
    mean, inverse, unbiased, running = (np.zeros(1, np.float32) for _ in range(4))
    row = np.arange(40)
    moments = [np.zeros((3, 1, IMAGES), np.float32) for _ in range(3)]
    fastgd.kernels.image_moments.body(backend)(*moments, blocks)
    fastgd.kernels.image_statistics.body(backend)(mean, inverse, unbiased, *moments, row, running, 0.0, 36.0)
    assert mean[0] == pytest.approx(x.astype("f8").mean(), rel=1e-7)
    assert unbiased[0] == pytest.approx(x.astype("f8").var(ddof=1), rel=1e-5)


# ---- networks


SHAPE = (7, 6, 2)


def mixed(pool=MaxPool2D):
    """Layers on images and on rows, in containers, in each other's place."""
    return [
        Residual([Conv2D(2, 3, "tanh", padding="same", groups=2)]), Conv2D(3, (3, 2), "gelu", strides=2),
        Concatenate([Conv2D(2, 1)], [Dense(1)], []), Dropout(0.2), AvgPool2D(2, strides=1, padding=1),
        Residual([Dense(6, "silu"), Residual([Conv2D(6, 2, padding="same", groups=3)])]), pool(2, strides=1),
        Residual([BatchNorm("tanh"), Conv2D(4, 2, strides=2)], [Conv2D(4, 2, strides=2)]), Activation("gelu"),
        Concatenate([GlobalAvgPool2D()], [Conv2D(2, 1), Flatten()]), Dense(3),
    ]  # fmt: skip


@pytest.mark.float64
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("training", [False, True])
def test_gradient_of_mixed_layers(training, backend, rng):
    """Without maxima, whose derivatives jump. The numpy bodies are compared with those of Cython below."""
    net = network(mixed(AvgPool2D), SHAPE, dtype="float64", backend=backend)
    x, y = rng.normal(size=(19, *SHAPE)), rng.normal(size=(19, 3))
    assert max(fastgd.check_gradients(net, x, y, training=training).values()) <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_numpy_and_cython_agree(training, rng):
    x, y = rng.normal(size=(19, *SHAPE)), rng.normal(size=(19, 3))
    nets = [network(mixed(AvgPool2D), SHAPE, dtype="float64", backend=backend) for backend in ("numpy", "cython")]
    gradients = [net.loss_and_gradient(x, y, training=training)[1] for net in nets]
    np.testing.assert_allclose(*gradients, rtol=1e-11, atol=1e-13)


def test_a_copy_of_a_gradient_in_blocks_is_in_blocks(rng):
    """The shortcut works in place of a gradient that f needs, too, and returns it."""
    shortcut = Residual([Conv2D(2, 3, padding="same")], [Activation("tanh")])
    net = network([Conv2D(2, 1), shortcut, Flatten(), Dense(3)], (4, 3, 2), dtype="float64")
    x, y = rng.normal(size=(19, 4, 3, 2)), rng.normal(size=(19, 3))
    assert max(fastgd.check_gradients(net, x, y).values()) <= GRADIENT_TOLERANCE


def test_only_elementwise_kernels_work_on_blocks():
    """softmax_forward, which sums over a row, has the dimensions of an elementwise kernel."""
    program = Network(SHAPE, [Conv2D(2, 1), Flatten(), Dense(3)], loss="mse").executor.training_plan(4)
    with pytest.raises(ValueError, match="softmax_forward: expected 'a1' by rows, got blocks of images"):
        program.add("forward", fastgd.kernels.softmax_forward, "a1", "a1")
    with pytest.raises(TypeError, match=r"bad: expected arrays \(rows, n\)"):
        Kernel(bad, elementwise=True)


def bad(y: Out("rows", "n"), x: In("n")): ...


def test_relu_within_the_convolution(backend, rng):
    """As the same function in an operation of its own."""
    x, y = rng.normal(size=(19, 8, 7, 4)), rng.normal(size=(19, 3))
    found = []
    for activation in ("relu", fastgd.activations.leaky_relu(negative_slope=0.0)):
        net = network(
            [Conv2D(6, 3, activation), Conv2D(5, 2, activation), GlobalAvgPool2D(), Dense(3)], backend=backend
        )
        found.append((*net.loss_and_gradient(x, y), net.predict(x)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.float64
@pytest.mark.parametrize("layers", [mixed(), [MaxPool2D(2), BatchNorm("tanh"), Flatten(), Dense(3)]],
                         ids=["mixed", "behind BatchNorm"])  # fmt: skip
def test_gradient_of_the_input(layers, backend, rng):
    net = network(layers, SHAPE, dtype="float64", backend=backend)
    x, y = rng.normal(size=(5, *SHAPE)), rng.normal(size=(5, 3))
    net.forward(x, training=True)
    dx = net.backward(y, input_gradient=True)
    direction = rng.normal(size=x.shape)

    def value(h):
        again = network(layers, SHAPE, dtype="float64", backend=backend)
        return np.sum(again.forward(x + h * direction, training=True) * y)

    assert (value(1e-5) - value(-1e-5)) / 2e-5 == pytest.approx(np.sum(dx * direction), rel=1e-6)


@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_bits_do_not_depend_on_threads(compiled, rng):
    x, y = rng.normal(size=(150, *SHAPE)).astype("float32"), rng.normal(size=(150, 3)).astype("float32")
    states = []
    for num_threads in (1, 2, 3, 8):
        net = network(mixed(), SHAPE, backend=compiled, num_threads=num_threads)
        net.fit(x, y, optimizer=fastgd.Adam(0.01), epochs=2, batch_size=67)
        states.append((net.parameters, net.predict(x), net.loss(x, y)))
    for other in states[1:]:
        for a, b in zip(other, states[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("c", "o"), [(9, 8), (16, 40), (33, 70)])
def test_bits_of_filters_do_not_depend_on_threads(c, o, rng):
    """Whatever the rows of the gradient that a thread computes: large sums have parts."""
    x, y = rng.normal(size=(64, 14, 14, c)).astype("float32"), rng.normal(size=(64, 3)).astype("float32")
    gradients = []
    for num_threads in (1, 2, 3, 8):
        layers = [Conv2D(o, 3, "relu", padding=1), MaxPool2D(2), Conv2D(5, 4), Flatten(), Dense(3)]
        gradients.append(network(layers, (14, 14, c), num_threads=num_threads).loss_and_gradient(x, y)[1].copy())
    for other in gradients[1:]:
        np.testing.assert_array_equal(other, gradients[0])


def test_results_do_not_depend_on_the_other_images_of_a_block(backend, rng):
    net, x = network(mixed(), SHAPE, backend=backend), rng.normal(size=(37, *SHAPE)).astype("float32")
    whole = net.predict(x)
    for rows in (slice(0, 2), slice(3, 20), slice(30, 37)):
        np.testing.assert_array_equal(net.predict(x[rows]), whole[rows])


@pytest.mark.usefixtures("own_definitions")
def test_missing_images_have_finite_slopes_where_others_have():
    """An image of zeros would give 0 times infinity."""

    @fastgd.custom.activation(derivative=lambda x: 0.5 * np.sign(x) / np.sqrt(np.abs(x)))
    def root(x):
        return np.sqrt(np.abs(x))

    layers = [Conv2D(2, 2, root, use_bias=False), GlobalAvgPool2D(), Dense(1)]
    net = Network((3, 3, 1), layers, loss="mse", backend="numpy", seed=1)
    x = np.random.default_rng(0).random((3, 3, 3, 1)) + 0.5
    assert np.isfinite(net.loss_and_gradient(x, np.ones((3, 1)))[1]).all()


@pytest.mark.float64
def test_missing_images_of_a_block_add_nothing_to_the_gradient(backend, rng):
    """As many minibatches as fill a block give the same gradient."""
    x, y = rng.normal(size=(48, *SHAPE)), rng.normal(size=(48, 3))
    net = network(mixed(), SHAPE, dtype="float64", backend=backend)
    _, whole = net.loss_and_gradient(x, y)
    parts = [net.loss_and_gradient(x[i : i + 6], y[i : i + 6])[1].copy() for i in range(0, 48, 6)]
    np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-10, atol=1e-13)


def test_bytes_and_images_without_an_axis_for_channels(tmp_path, rng):
    """As floats of four axes, from memory and from a mapped file."""
    images, y = rng.integers(0, 256, (50, 9, 8), np.uint8), rng.integers(0, 3, 50)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    layers = [fastgd.Standardize(127.0, 64.0), Conv2D(4, 3, "relu"), Flatten(), Dense(3)]
    found = []
    for x in (images[..., np.newaxis].astype(np.float32), images[..., np.newaxis], images, mapped):
        net = network(layers, (9, 8, 1), loss="softmax_cross_entropy")
        net.fit(x, y, optimizer=fastgd.Adam(1e-2), epochs=2, batch_size=20)
        found.append((net.parameters, net.predict(x), net.loss(x, y), net.train_step(x[:20], y[:20], fastgd.SGD(0.1))))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layer", [
    Conv2D(5, 3), Conv2D(6, (2, 3), "gelu", strides=(1, 2), padding="same", groups=2, use_bias=False),
    MaxPool2D(2), AvgPool2D((3, 2), strides=2, padding=1), GlobalAvgPool2D(),
], ids=repr)  # fmt: skip
def test_saved_networks_and_descriptions(layer, tmp_path, rng):
    net = network([layer, Flatten(), Dense(2)])
    net.save(tmp_path / "net.safetensors")
    (other, _), x = fastgd.load(tmp_path / "net.safetensors"), rng.normal(size=(3, 8, 7, 4))
    assert repr(other.layers[0]) == repr(layer) == repr(evaluate(repr(layer), NAMES))
    np.testing.assert_array_equal(other.predict(x), net.predict(x))
    assert repr(layer) in net.describe()


@pytest.mark.parametrize(("make", "expected"), [
    (lambda: Conv2D(0, 3), "'filters': expected"),
    (lambda: Conv2D(4, (3, 3, 3)), "'kernel_size': expected an integer or a pair"),
    (lambda: Conv2D(4, 3, padding="full"), "'padding': expected 'valid', 'same'"),
    (lambda: Conv2D(4, 3, padding=3), "'padding': expected less than the size of a window, 3, got 3"),
    (lambda: Conv2D(4, 3, groups=3), "'groups': expected a divisor of filters = 4, got 3"),
    (lambda: network([Conv2D(6, 3, groups=3)]), "'groups': expected a divisor of the 4 channels"),
    (lambda: network([Conv2D(6, 9)]), "images of at least 9 pixels"),
    (lambda: network([Flatten(), Conv2D(6, 3)]), "expected images (height, width, channels) as input of Conv2D(6, 3)"),
    (lambda: network([MaxPool2D(9)]), "images of at least 9 pixels"),
], ids=str)  # fmt: skip
def test_errors_name_the_argument(make, expected):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert expected in str(caught.value)


def test_a_kernel_refuses_blocks_of_another_size():
    x = np.zeros((1, 3, 3, 1, 8))
    with pytest.raises(ValueError, match="16"):
        fastgd.kernels.global_average_forward(np.zeros((1, 1, 8)), x.reshape(1, 9, 1, 8))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx(dtype, tmp_path, rng):
    onnxruntime = pytest.importorskip("onnxruntime")
    layers = [
        Conv2D(6, (3, 2), "relu", padding="same"), Conv2D(4, 3, "tanh", strides=2, padding=1, groups=2, use_bias=False),
        MaxPool2D((2, 3), strides=1, padding="same"), AvgPool2D(2, padding=(1, 0)), Conv2D(5, 1), GlobalAvgPool2D(),
    ]  # fmt: skip
    net, x = network(layers, dtype=dtype), rng.normal(size=(7, 8, 7, 4)).astype(dtype)
    net.to_onnx(tmp_path / "net.onnx")
    (got,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(["prediction"], {"x": x})
    np.testing.assert_allclose(got, net.predict(x), rtol=0, atol=2e-6 if dtype == "float32" else 1e-14)
