"""RandomFlip and RandomCrop: what they do to images, how often, and on what that depends."""

import numpy as np
import pytest
from test_resume import Stop, stop_at

import fastgd
from fastgd import SGD, Conv2D, Dense, Flatten, Network, RandomCrop, RandomFlip, Standardize
from fastgd.core.random import hashes_of_rows, key_of_layer

SHAPE = (6, 5, 3)
CROP = 2, 3  # rows and columns of padding


def flipped(x, bits, horizontal=0.5, vertical=0.5):
    if bits % 2**32 < horizontal * 2**32:
        x = x[:, ::-1]
    return x[::-1] if bits >> 32 < vertical * 2**32 else x


def cropped(x, bits):
    """As in the paper: pads all sides, then cuts out a window."""
    first = [(half * (2 * p + 1)) >> 32 for half, p in zip((bits % 2**32, bits >> 32), CROP, strict=True)]
    padded = np.pad(x, [(p, p) for p in CROP] + [(0, 0)])
    return padded[first[0] : first[0] + x.shape[0], first[1] : first[1] + x.shape[1]]


def run(body, name, x, row, key, step, direction=1.0):
    y = np.full_like(x, 7)
    options = (0.5, 0.5, key, step) if name == "random_flip" else (*map(float, CROP), key, step, direction)
    getattr(fastgd.kernels, name).body(body)(y, x, row, *options)
    return y


KERNELS = pytest.mark.parametrize(("name", "expected"), [("random_flip", flipped), ("random_crop", cropped)])


@KERNELS
@pytest.mark.parametrize("c", [1, 2, 3, 5])
def test_every_body_makes_the_pictures_of_the_formula(name, expected, c, backend, dtype, rng):
    x, row = rng.normal(size=(40, 6, 5, c)).astype(dtype), np.array([*range(38), 2**40, 2**53])
    x[3, 2, 1], x[4] = np.nan, np.inf
    for key, step in ((0.0, 0.0), (2.0**53 - 1, 2.0**53 - 1), (123456789012345.0, 77.0)):
        bits = hashes_of_rows(row, key, step).tolist()
        exact = np.stack([expected(image, b) for image, b in zip(x, bits, strict=True)])
        np.testing.assert_array_equal(run(backend, name, x, row, key, step), exact)


@pytest.mark.float64
@KERNELS
def test_the_backward_pass_is_the_transpose(name, expected, backend, rng):
    """<dy, f(x)> = <f'(dy), x> for each image, of integers: exactly."""
    x, dy = rng.integers(-9, 9, (2, 300, *SHAPE)).astype("f8")
    y, dx = (run(backend, name, a, np.arange(300), 5.0, 6.0, sign) for a, sign in ((x, 1.0), (dy, -1.0)))
    np.testing.assert_array_equal((dy * y).sum((1, 2, 3)), (dx * x).sum((1, 2, 3)))


def test_a_padding_larger_than_the_image_takes_it_out(backend):
    x, results = np.ones((200, 2, 3, 1), np.float32), set()
    for padding in (5.0, 1e30, np.inf):
        y = np.empty_like(x)
        fastgd.kernels.random_crop.body(backend)(y, x, np.arange(200), padding, 0.0, 1.0, 1.0, 1.0)
        assert (y == 0).all((1, 2, 3)).any()
        assert y.any()
        results.add(y.tobytes())
    assert len(results) == 1


def within(count, n, p):
    """Whether a count is that of n draws of probability p, to 5 standard deviations."""
    return abs(count - n * p) < 5 * (n * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("by", ["row", "step", "key"])
def test_all_shifts_and_flips_are_as_frequent(by):
    """... and independent of each other, over rows, minibatches and layers."""
    n = 35_000
    x = np.zeros((n if by == "row" else 1, 5, 7, 1))
    x[:, 2, 3] = 1  # the middle
    given = [{"row": 0, "step": 5.0, "key": 6.0} | {by: i} for i in range(1 if by == "row" else n)]
    places, flips = np.zeros((5, 7), int), np.zeros((2, 2), int)
    corner = np.zeros_like(x)
    corner[:, 0, 0] = 1
    made = []
    for one in given:
        row = np.arange(n) if by == "row" else np.array([one["row"]])
        y, z = np.empty_like(x), np.empty_like(x)
        fastgd.kernels.random_crop(y, x, row, 2.0, 3.0, float(one["key"]), float(one["step"]), 1.0)
        fastgd.kernels.random_flip(z, corner, row, 0.5, 0.5, float(one["key"]), float(one["step"]))
        places += y.sum((0, 3)).astype(int)
        flips += z[:, ::4, ::6, 0].sum(0).astype(int)
        made.append(z[:, 0, 0, 0])
    assert places.sum() == flips.sum() == n
    assert all(within(count, n, 1 / 35) for count in places.flat)
    assert all(within(count, n, 1 / 4) for count in flips.flat)
    stays = np.concatenate(made) > 0  # whether consecutive images agree is chance, too
    assert within((stays[1:] & stays[:-1]).sum(), n - 1, 1 / 16)


@pytest.mark.parametrize(("horizontal", "vertical"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
def test_probabilities_of_flips(horizontal, vertical, backend):
    n, x = 4000, np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1).repeat(4000, 0)
    y = np.empty_like(x)
    fastgd.kernels.random_flip.body(backend)(y, x, np.arange(n), horizontal, vertical, 3.0, 4.0)
    for axis, probability in ((1, horizontal), (0, vertical)):
        count = (y[:, 0, 0, 0].astype(int) >> (1 - axis) & 1).sum()
        assert count == n * probability if probability in (0, 1) else within(count, n, probability)


# ---- networks


def network(*layers, backend="auto", shape=SHAPE, **options):
    on_pixels = Dense(4, "tanh") if backend == "numba" else Conv2D(4, 3, "tanh")  # which takes Numba long to compile
    layers = [*(layers or (RandomFlip(), RandomCrop(2))), on_pixels, Flatten(), Dense(3)]
    return Network(shape, layers, loss="softmax_cross_entropy", backend=backend, seed=3, **options)


@pytest.fixture
def images(rng):
    return rng.normal(size=(53, *SHAPE)).astype(np.float32), rng.integers(0, 3, 53)


def test_predictions_are_those_of_the_network_without_them(backend, images):
    x, y = images
    net, plain = network(backend=backend), network(RandomCrop(0), backend=backend)
    plain.parameters[:] = net.parameters
    np.testing.assert_array_equal(net.predict(x), plain.predict(x))
    np.testing.assert_array_equal(net.forward(x), plain.forward(x))
    assert net.loss(x, y) == plain.loss(x, y)
    for one, other in zip(net.loss_and_gradient(x, y), plain.loss_and_gradient(x, y), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(net.forward(x, training=True), plain.forward(x, training=True))
    assert "random_flip" in net.describe()


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_each_minibatch_layer_and_seed_has_other_pictures(backend, images):
    """With a negligible learning rate, different losses mean different pictures."""
    x, y = images
    for layer in (RandomFlip(0.5, 0.5), RandomCrop(1)):
        net = network(layer, backend=backend)
        losses = [net.train_step(x, y, SGD(1e-20)) for _ in range(6)]
        assert len(set(losses)) == 6
        other = network(layer, backend=backend)
        assert other.train_step(x, y, SGD(1e-20)) == losses[0]
        same = np.repeat(x[:1], 40, 0)  # rows of a minibatch differ, and so do two layers
        rows = other.forward(same, training=True, minibatch=0)
        assert len(np.unique(rows, axis=0)) == (4 if isinstance(layer, RandomFlip) else 9)
        twice = network(layer, layer, backend=backend)
        assert not np.array_equal(twice.forward(same, training=True, minibatch=0), rows)
        seeded = Network(SHAPE, other.layers, loss="softmax_cross_entropy", backend=backend, seed=4)
        seeded.parameters[:] = net.parameters
        assert seeded.train_step(x, y, SGD(1e-20)) != losses[0]


@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_bits_do_not_depend_on_threads(compiled, every_step_is_shared, images):
    ends = []
    for num_threads in (1, 2, 3):
        net = network(backend=compiled, num_threads=num_threads)
        net.fit(*images, optimizer=fastgd.Adam(0.01), epochs=2, batch_size=37)
        ends.append(net.parameters.copy())
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


def test_networks_train_on_the_pictures_of_the_formula(backend, images):
    """... of the layer's path and the number of the minibatch; the gradient of the input goes back to its pixels."""
    x, _ = images
    layers = [Standardize(), RandomFlip(), RandomCrop(CROP), Dense(3, weight_init=np.eye(3))]
    net = Network(SHAPE, layers, loss="mse", backend=backend)
    bits = [hashes_of_rows(np.arange(len(x)), key_of_layer(net.seed, path), 9.0).tolist() for path in ("2", "3")]
    expected = [cropped(flipped(image, a, vertical=0), b) for image, a, b in zip(x, *bits, strict=True)]
    np.testing.assert_array_equal(net.forward(x, training=True, minibatch=9), expected)
    once = np.zeros((len(x), *SHAPE), np.float32)  # how often y has a pixel of x
    once[...] = net.backward(np.ones_like(once), input_gradient=True)
    for image, a, b, count in zip(np.arange(1.0, 91).reshape(1, *SHAPE).repeat(len(x), 0), *bits, once, strict=True):
        np.testing.assert_array_equal(np.isin(image, cropped(flipped(image, a, vertical=0), b)), count)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_has_the_same_pictures(accumulate, backend, images, tmp_path):
    x, y = images
    options = {"epochs": 3, "batch_size": 20}
    whole = network(backend=backend)
    history = whole.fit(x, y, optimizer=fastgd.Adam(0.01, accumulate=accumulate), **options)
    stop_at.path = tmp_path / "m"
    for step in (1, 3, 5):
        with pytest.raises(Stop):
            network(backend=backend).fit(x, y, optimizer=fastgd.Adam(0.01, accumulate=accumulate),
                                         callbacks=stop_at(step), **options)  # fmt: skip
        net = network(backend=backend)
        resumed = net.fit(x, y, optimizer=fastgd.Adam(0.01, accumulate=accumulate), checkpoint=tmp_path / "m",
                          resume=True, **options)  # fmt: skip
        np.testing.assert_array_equal(net.parameters, whole.parameters)
        assert resumed.loss == history.loss


def test_bytes_and_images_without_an_axis_for_channels(rng):
    images, y = rng.integers(0, 256, (50, 9, 8), np.uint8), rng.integers(0, 3, 50)
    ends = []
    for x in (images[..., np.newaxis].astype(np.float32), images[..., np.newaxis], images, images[:, ::-1][:, ::-1]):
        net = network(Standardize(127.0, 64.0), RandomCrop(1), RandomFlip(), shape=(9, 8, 1))
        net.fit(x, y, optimizer=fastgd.Adam(1e-2), epochs=2, batch_size=20)
        ends.append((net.parameters, net.predict(x)))
    for end in ends[1:]:
        for one, other in zip(end, ends[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_nothing_is_left_of_layers_that_change_nothing(images):
    net = network(RandomFlip(0.0), RandomCrop(0), RandomFlip(0.5).without_noise(), RandomCrop(3).without_noise())
    assert "random" not in net.describe().replace("Random", "")
    plain = network(Standardize())
    plain.parameters[:] = net.parameters
    for one in (net, plain):
        one.fit(*images, optimizer=SGD(0.1), epochs=2)
    np.testing.assert_array_equal(net.parameters, plain.parameters)


@pytest.mark.parametrize("layer", [RandomFlip(), RandomFlip(0.25, 1), RandomCrop(4), RandomCrop((2, 0))], ids=repr)
def test_saved_networks_and_onnx(layer, tmp_path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, _ = images
    net = network(layer, shape=(6, 5, 3))
    net.save(tmp_path / "m")
    other, _ = fastgd.load(tmp_path / "m")
    assert repr(other.layers[0]) == repr(layer) == repr(eval(repr(layer), vars(fastgd)))
    assert repr(layer) in net.describe()
    np.testing.assert_array_equal(other.forward(x, training=True), net.forward(x, training=True))
    net.to_onnx(tmp_path / "m.onnx")
    (got,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["prediction"], {"x": x})
    np.testing.assert_allclose(got, net.predict(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("make", "error", "expected"), [
    (lambda: RandomFlip(1.5), ValueError, r"'horizontal'.*\[0, 1\].*1\.5"),
    (lambda: RandomFlip(0.5, -0.1), ValueError, r"'vertical'.*\[0, 1\].*-0\.1"),
    (lambda: RandomFlip(np.nan), ValueError, "'horizontal'.*nan"),
    (lambda: RandomFlip(True), TypeError, "'horizontal'.*number.*True"),
    (lambda: RandomFlip("horizontal"), TypeError, "'horizontal'.*number.*'horizontal'"),
    (lambda: RandomCrop(-1), ValueError, "'padding'.*integer >= 0.*-1"),
    (lambda: RandomCrop(1.0), TypeError, "'padding'.*integer"),
    (lambda: RandomCrop((1, 2, 3)), ValueError, "'padding'.*pair"),
    (lambda: network(RandomCrop(5)), ValueError, r"'padding'.*less than the size of the images, \(6, 5\), got 5"),
    (lambda: network(RandomCrop((6, 0))), ValueError, r"'padding'.*got \(6, 0\)"),
    (lambda: Network(7, [RandomFlip(), Dense(1)], loss="mse"), ValueError, r"'layers'.*images.*RandomFlip.*\(7,\)"),
    (lambda: Network((7, 7), [RandomCrop(1), Dense(1)], loss="mse"), ValueError, r"'layers'.*RandomCrop\(1\).*\(7, 7"),
])  # fmt: skip
def test_bad_arguments(make, error, expected):
    with pytest.raises(error, match=expected):
        make()
