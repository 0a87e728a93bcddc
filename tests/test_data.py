"""Rows of data: minibatches, files mapped into memory, standardisation."""

import os
import shutil
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest

import fastgd
from fastgd import Dense, Standardize
from fastgd.data.mapped import RowReader
from fastgd.data.minibatches import epoch_order
from fastgd.sklearn import MLPClassifier, MLPRegressor


def collect(**options):
    X = np.arange(20).reshape(10, 2)
    return list(fastgd.minibatches(X, X[:, 0], **options))


def test_every_row_once_in_a_seeded_order():
    batches = collect(batch_size=4, seed=1)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    np.testing.assert_array_equal(x[:, 0], y)
    assert sorted(y) == list(range(0, 20, 2))
    same, other = collect(batch_size=4, seed=1), collect(batch_size=4, seed=1, epoch=1)
    np.testing.assert_array_equal(np.concatenate([b for _, b in same]), y)
    assert not np.array_equal(np.concatenate([b for _, b in other]), y)


def test_order_sizes_and_the_last_batch():
    assert [y.tolist() for _, y in collect(batch_size=4, shuffle=False)] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    assert len(collect(batch_size=4, drop_last=True)) == 2
    assert len(collect(batch_size=None)) == 1
    assert len(collect(batch_size=1)) == 10


def test_batches_are_arrays_of_their_own():
    X = np.zeros((4, 2))
    for x, _ in fastgd.minibatches(X, X, batch_size=2, shuffle=False):
        x += 1
    assert X.sum() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.zeros((0, 2)), np.zeros(0), 3), ValueError, "'X'.*at least 1 row"),
        ((np.zeros((4, 2)), np.zeros(3), 3), ValueError, "'y'.*4 rows"),
        ((np.zeros((4, 2)), np.zeros(4), 0), ValueError, "'batch_size'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, match):
    with pytest.raises(error, match=match):
        fastgd.minibatches(*arguments)


def test_orders_are_permutations_that_depend_on_seed_and_epoch():
    orders = np.array([epoch_order(50, seed, epoch, True) for seed in (0, 2**40) for epoch in range(1000)])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(50), (2000, 1)))
    assert len({tuple(order) for order in orders}) == 2000
    np.testing.assert_array_equal(epoch_order(50, 0, 7, True), orders[7])
    np.testing.assert_array_equal(epoch_order(5, 0, 7, False), np.arange(5))
    # Every row is equally often at every position: chi squared with 49 * 49 degrees of freedom, within 5 deviations.
    counts = np.array([np.bincount(column, minlength=50) for column in orders.T])
    assert abs(((counts - 40.0) ** 2 / 40).sum() - 49**2) < 5 * (2 * 49**2) ** 0.5


def mapped_views(tmp_path, mode):
    """Pairs of a view of a mapped file and the equal array in memory."""
    x = np.arange(600, dtype=np.int16).reshape(100, 6)
    np.save(tmp_path / "x.npy", x)
    m = np.load(tmp_path / "x.npy", mmap_mode=mode)
    return [(m, x), (m[10:90], x[10:90]), (m[::3], x[::3]), (m[::-1], x[::-1]), (m[:, 1:4], x[:, 1:4]),
            (m[5:, 2:], x[5:, 2:]), (m.T, x.T), (m[:, ::2], x[:, ::2]), (np.asarray(m)[7:], x[7:]),
            (m.reshape(50, 12), x.reshape(50, 12)), (m[:0], x[:0])]  # fmt: skip


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_rows_of_a_mapped_file_are_those_of_the_array(mode, tmp_path, rng):
    read_from_file = 0
    for mapped, x in mapped_views(tmp_path, mode):
        reader = RowReader(mapped)
        read_from_file += reader._file is not None
        index = rng.integers(0, len(x), 40) if len(x) else np.zeros(0, int)
        np.testing.assert_array_equal(reader.take(index), x[index])
        out = np.zeros((len(index), x.shape[1]), np.float32)
        reader.take(index, out)
        np.testing.assert_array_equal(out, x[index])
    assert read_from_file == (0 if mode == "c" else 8)


def test_readers_return_what_was_written_to_a_mapped_file(tmp_path):
    for mode in ("r+", "c"):
        np.save(tmp_path / "x.npy", np.zeros((50, 4)))
        x = np.load(tmp_path / "x.npy", mmap_mode=mode)
        reader = RowReader(x)
        x[7] = 3
        reader.take(np.arange(50))
        assert reader.take(np.array([7])).tolist() == [[3.0] * 4]
        assert x[7].tolist() == [3.0] * 4


def test_a_file_replaced_since_it_was_mapped_is_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((50, 4)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.save(tmp_path / "new.npy", np.zeros((50, 4)))
    (tmp_path / "new.npy").replace(tmp_path / "x.npy")
    assert RowReader(x).take(np.array([3])).tolist() == [[1.0] * 4]
    (tmp_path / "x.npy").unlink()
    assert RowReader(x).take(np.array([3])).tolist() == [[1.0] * 4]


def like(x, changed):
    """An array that equals x in the rows that a spot check might compare, and differs elsewhere."""
    other = np.full_like(x, changed)
    for count in (1, 2, 16, 64, 100, 256):
        index = np.linspace(0, len(x) - 1, count).astype(int)
        other[index] = x[index]
    return other


@pytest.mark.parametrize("name", ["X", "y", "both"])
def test_a_file_replaced_while_it_is_in_use(name, tmp_path, monkeypatch):
    """Between two calls and between two epochs, under its relative name: training continues on the mapped rows."""
    monkeypatch.chdir(tmp_path)
    X, y = np.ones((3000, 4), np.float32), np.ones((3000, 2), np.float32)
    ends = []
    for replaces in (False, True):
        arrays = {"X": X, "y": y}
        for key in ("X", "y") if name == "both" else [name]:
            np.save(f"{key}.npy", arrays[key])
            arrays[key] = np.load(f"{key}.npy", mmap_mode="r")

        def replace(run):
            for key in ("X", "y"):
                np.save(tmp_path / "new.npy", like({"X": X, "y": y}[key], 1000))
                os.replace(tmp_path / "new.npy", tmp_path / f"{key}.npy")

        network = fastgd.Network(4, [Dense(2)], loss="mse")
        options = {"batch_size": 50, "validation_fraction": 0.2, "callbacks": [replace] if replaces else []}
        first = network.fit(arrays["X"], arrays["y"], epochs=2, **options)
        second = network.fit(arrays["X"], arrays["y"], epochs=1, **options)
        batches = [part.sum() for batch in fastgd.minibatches(*arrays.values(), 50) for part in batch]
        evaluated = network.evaluate(arrays["X"], arrays["y"], metrics="mae")
        ends.append((first.loss, second.validation_loss, batches, evaluated))
    assert ends[0] == ends[1]
    samples = fastgd.data.samples.check_samples(network, *arrays.values())
    memory = fastgd.data.samples.check_samples(network, *map(np.array, arrays.values()))
    np.testing.assert_array_equal(samples.rows.take(np.arange(3000)), X)
    assert memory.x.tobytes() == samples.x.tobytes()


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_the_file_of_a_mapping_is_known_by_its_identity(mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.arange(40_000, dtype=np.float32).reshape(10_000, 4)
    x.tofile("raw")
    mapped = np.memmap("raw", np.float32, mode, offset=6 * 1024 * 16, shape=(3000, 4))
    expected = x[6 * 1024 : 6 * 1024 + 3000]
    index = np.array([0, 2999, 7])
    for view, right in ((mapped, expected), (mapped[5::-1], expected[5::-1]), (mapped[::3], expected[::3])):
        reader = RowReader(view)
        assert reader._file is not None
        np.testing.assert_array_equal(reader.take(index % len(view)), right[index % len(view)])
    shutil.copy("raw", "copy")  # the same bytes are another file
    os.replace("copy", "raw")
    assert RowReader(mapped)._file is None
    with tempfile.TemporaryFile() as nameless:
        held = np.memmap(nameless, np.float32, "w+", shape=(30, 4))
        held[3] = 2.0
        assert RowReader(held).take(np.array([3])).tolist() == [[2.0] * 4]
    os.remove("raw")
    os.mkfifo("raw")
    reader = RowReader(mapped)
    assert reader._file is None
    np.testing.assert_array_equal(reader.take(index), expected[index])


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    """It does not kill the process."""
    path = tmp_path / "x.npy"
    X, y = np.ones((5000, 4), np.float32), np.ones(5000)
    network = fastgd.Network(4, [Dense(1)], loss="mse")
    uses = (
        lambda x: network.fit(x, y, epochs=1, callbacks=[]),
        lambda x: network.fit(X, x, epochs=1) if x.shape[1] == 1 else network.predict(x),
        lambda x: network.evaluate(x, y),
        lambda x: network.train_step(x, y, fastgd.Adam()),
        lambda x: network.loss_and_gradient(x, y),
        lambda x: list(fastgd.minibatches(x, y, 100)),
        lambda x: Standardize.of(x),
        lambda x: Standardize(x[-1]),
        lambda x: fastgd.SGD(0.1).step(X.copy(), x),
        lambda x: fastgd.SGD(0.1).step([X.copy()], [np.asarray(x)]),
        lambda x: fastgd.Network(5000, [Dense(4, weight_init=x)], loss="mse"),
        lambda x: RowReader(x[:, 1:]).take(np.arange(5000)),
        lambda x: RowReader(x.T).take(np.array([3])),
    )
    for use in uses:
        np.save(path, X)
        x = np.load(path, mmap_mode="r")
        os.truncate(path, 4096)
        with pytest.raises(OSError, match=r"file of a mapped array|mapped file could not be read"):
            use(x)
    np.save(path, X)
    x = np.load(path, mmap_mode="r")
    with pytest.raises(OSError, match="mapped"):
        network.fit(x, y, epochs=60, batch_size=500, callbacks=[lambda run: os.truncate(path, 4096)])
    np.save(path, X)
    x, optimizer = np.load(path, mmap_mode="r+"), fastgd.SGD(0.1)
    for _ in range(3):
        optimizer.step(x, X)
    os.truncate(path, 4096)
    with pytest.raises(OSError, match="file of a mapped array"):
        optimizer.step(x, X)
    np.save(path, y.astype(network.dtype))
    mapped = np.load(path, mmap_mode="r")
    assert network.fit(X, mapped, epochs=2, callbacks=[lambda run: os.truncate(path, 99)]).stopped == "epochs"


def test_estimators_read_no_file_that_became_shorter(tmp_path, rng):
    """scikit-learn's checks read every page."""
    data = {"X": rng.normal(size=(9000, 2)), "y": np.arange(9000) % 2}
    for kind in (MLPClassifier, MLPRegressor):
        model = kind(hidden_layer_sizes=(2,), max_iter=1, tol=10.0, n_iter_no_change=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged after one epoch
            model.fit(data["X"], data["y"])
        for name, uses in {"X": ("fit", "partial_fit", "predict", "score"), "y": ("fit", "partial_fit")}.items():
            for use in uses:
                np.save(tmp_path / "a.npy", data[name])
                given = {**data, name: np.load(tmp_path / "a.npy", mmap_mode="r")}
                os.truncate(tmp_path / "a.npy", 4096)
                with pytest.raises(OSError, match="the file of a mapped array"):
                    getattr(model, use)(*(given["X"],) if use == "predict" else given.values())


def test_targets_of_a_mapped_file(tmp_path, rng):
    """An autoencoder trains on a mapped file as on an array in memory."""
    np.save(tmp_path / "x.npy", rng.normal(size=(90, 6)))
    mapped, ends = np.load(tmp_path / "x.npy", mmap_mode="r"), []
    for x in (mapped, np.array(mapped)):
        network = fastgd.Network(6, [Dense(2), Dense(6)], loss="mse")
        history = network.fit(x, x, batch_size=8, epochs=3, validation_fraction=0.2, metrics="r2")
        ends.append([network.parameters.copy(), history.validation_loss, history.metrics["validation_r2"]])
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


RESIDENT = """
import sys, numpy as np, fastgd
def resident(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1024
def fit(X, y, **options):
    layers = [fastgd.Standardize.of(X), fastgd.Dense(4), fastgd.Dense(y[0].size)]
    net = fastgd.Network(X.shape[1], layers, loss="mse", num_threads=1)
    return net.fit(X, y, batch_size=64, epochs=1, **options)
rng = np.random.default_rng(0)
fit(rng.normal(size=(300, 500)).astype("f4"), np.zeros(300), validation_fraction=0.1, metrics="mae")
before = resident("VmRSS")
X = np.load(sys.argv[1], mmap_mode="r")
fit(X, np.zeros(len(X)), validation_fraction=0.1, metrics="mae")
fit(X, X, validation_fraction=0.1, checkpoint=sys.argv[1] + ".safetensors")
print(resident("VmHWM") - before, X.nbytes / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc for the resident memory")
@pytest.mark.parametrize("dtype", ["f4", "u1", "f8"])
def test_memory_is_bounded_for_mapped_files(dtype, tmp_path):
    rows = 300_000_000 // 500 // np.dtype(dtype).itemsize
    whole = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, (rows, 500))
    whole[::1000] = 1
    del whole
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(tmp_path / "x.npy")], capture_output=True,
                          text=True, check=False, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken, size = map(float, done.stdout.split())
    assert taken < 150 < size


def test_moments_in_one_pass(rng):
    X = (rng.normal(size=(10_000, 5)) * [1, 10, 0.1, 1e-3, 1] + [0, 1e6, -5, 3, 0]).astype(np.float64)
    X[:, 4] = 7
    mean, variance = fastgd.data.samples.moments("X", X)
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(variance, X.var(axis=0), rtol=1e-9)
    for x in (X.astype(np.float32), np.asfortranarray(X), (X * 10).astype(np.int64)):
        np.testing.assert_allclose(fastgd.data.samples.moments("X", x)[1], x.astype(np.float64).var(axis=0), rtol=1e-9)
    X[5, 2] = np.nan
    with pytest.raises(ValueError, match=r"'X'.*nan at index \(5, 2\)"):
        fastgd.data.samples.moments("X", X)


# ---- Standardize


def test_standardized_features_train_like_standardized_data(backend, dtype, rng):
    X, y = rng.normal(3, 5, size=(60, 4)), rng.integers(0, 3, 60)
    by_layer = fastgd.Network(4, [Standardize.of(X), Dense(8, "tanh"), Dense(3)], loss="softmax_cross_entropy",
                              dtype=dtype, backend=backend)  # fmt: skip
    by_hand = fastgd.Network(4, [Dense(8, "tanh"), Dense(3)], loss="softmax_cross_entropy", dtype=dtype,
                             backend=backend)  # fmt: skip
    np.testing.assert_array_equal(by_layer.parameters, by_hand.parameters)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    for network, x in ((by_layer, X), (by_hand, Z)):
        network.fit(x, y, epochs=3, validation_fraction=0.2)
    np.testing.assert_allclose(by_layer.parameters, by_hand.parameters, atol=tolerance)
    np.testing.assert_allclose(by_layer.predict(X), by_hand.predict(Z), atol=tolerance)
    assert "standardize_forward(a1" in by_layer.describe()
    assert "da1" not in by_layer.describe()  # the gradient of the input is not computed


@pytest.mark.parametrize("shape", [(9, 8, 1), (5, 7, 3), (2, 40, 2), (3, 100), (70, 1)])
def test_standardize_takes_a_number_a_channel(shape, backend, dtype, rng):
    """As a formula, for images and sequences; so does the gradient of its input."""
    X, (*_, channels) = rng.integers(0, 256, (11, *shape)).astype(np.uint8), shape
    layer = Standardize.of(X)
    assert layer.shift.shape == layer.scale.shape == (channels,)
    mean, deviation = X.mean(axis=tuple(range(X.ndim - 1))), X.std(axis=tuple(range(X.ndim - 1)))
    layers = [layer, fastgd.Flatten(), Dense(2)]
    network = fastgd.Network(shape, layers, loss="mse", dtype=dtype, backend=backend, seed=1)
    plain = fastgd.Network(shape, layers[1:], loss="mse", dtype=dtype, backend=backend, seed=1)
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == "float32" else 1e-12}
    standardized = (X - mean) / deviation
    np.testing.assert_allclose(network.forward(X, record=True), plain.forward(standardized, record=True), **tolerance)
    dy = rng.normal(size=(11, 2))
    np.testing.assert_allclose(network.backward(dy), plain.backward(dy) / deviation, **tolerance)


@pytest.mark.float64
def test_standardize_within_a_network_has_the_right_gradient(backend, rng):
    layers = [Dense(4, "tanh"), Standardize([1, 2, 3, 4], [0.1, 2, 3, 4]), Dense(2), Standardize(scale=2.0)]
    network = fastgd.Network(5, layers, loss="mse", dtype="float64", backend=backend)
    errors = fastgd.check_gradients(network, rng.normal(size=(6, 5)), rng.normal(size=(6, 2)))
    assert max(errors.values()) <= 1e-8
    assert list(errors) == ["w1", "w3", "b1", "b3"]


def test_bytes_scaled_by_the_network(data):
    (X, y), _ = data
    ends = []
    for x, layers in ((X, []), (np.rint(X * 16).astype(np.uint8), [Standardize(scale=1 / 16)])):
        network = fastgd.Network(64, [*layers, Dense(10)], loss="softmax_cross_entropy")
        network.fit(x, y, epochs=2)
        ends.append(network.parameters.copy())
    np.testing.assert_array_equal(*ends)


def test_a_constant_feature_becomes_zero():
    X = np.array([[1.0, 5.0], [3.0, 5.0]])
    layer = Standardize.of(X)
    assert layer.shift.tolist() == [2.0, 5.0]
    assert layer.scale.tolist() == [1.0, 0.0]
    assert Standardize.of(np.full((10_001, 1), 0.1)).scale.tolist() == [0.0]  # though its mean is rounded
    fastgd.Network(1, [Standardize.of(np.full((5, 1), 1e9)), Dense(1)], loss="mse")
    assert Standardize.of(np.array([[1e9], [1e9 + 1]])).scale.tolist() == [2.0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Standardize(np.nan), "'shift'.*finite"),
        (lambda: Standardize(scale=[[1.0]]), "'scale'"),
        (lambda: Standardize(scale="a"), "'scale'.*'a'"),
        (lambda: Standardize.of(np.zeros(3)), "'X'"),
        (lambda: Standardize.of(np.zeros((0, 3))), "'X'.*at least 1 row"),
        (lambda: fastgd.Network(4, [Standardize([1.0, 2.0]), Dense(1)], loss="mse"), "'shift'.*4 features"),
        (lambda: fastgd.Network(4, [Standardize()], loss="mse"), "'layers'.*has parameters"),
        (lambda: fastgd.Network(4, [Standardize(scale=1e39), Dense(1)], loss="mse"), "'scale'.*finite in float32"),
        (
            lambda: fastgd.Network(2, [Standardize([0, 1.6e9], 0.1), Dense(1)], loss="mse"),
            "'shift'.*float32.*feature 1",
        ),
    ],
)
def test_bad_standardize(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_large_offsets_are_distinguished_or_refused():
    """Timestamps within an hour, as seconds since 1970."""
    X = 1.6e9 + np.linspace(0, 3600, 50)[:, None]
    layers = [Standardize.of(X), Dense(1)]
    with pytest.raises(ValueError, match="'shift'.*float64"):
        fastgd.Network(1, layers, loss="mse")
    network = fastgd.Network(1, layers, loss="mse", dtype="float64")
    network.parameters[:] = [1, 0]
    np.testing.assert_allclose(network.predict(X)[:, 0], (X[:, 0] - X.mean()) / X.std(), atol=1e-6)
    years = np.linspace(1970, 2030, 61)[:, None]
    fastgd.Network(1, [Standardize.of(years), Dense(1)], loss="mse")


def test_standardize_is_saved(tmp_path, rng):
    X = rng.normal(3, 5, size=(60, 4))
    network = fastgd.Network(4, [Standardize.of(X), Dense(3)], loss="mse")
    network.save(tmp_path / "m")
    loaded, _ = fastgd.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(X), network.predict(X))
    assert repr(loaded.layers) == repr(network.layers)


INTERRUPTED = """
import gc, os, random, signal, sys, time
import numpy as np
from fastgd.data.mapped import RowReader
from fastgd.tables.files import open_file


def interrupt(*_):
    raise KeyboardInterrupt


np.save("x.npy", np.ones((500, 3)))
mapped = np.load("x.npy", mmap_mode="r")
signal.signal(signal.SIGALRM, interrupt)
before, end = len(os.listdir("/proc/self/fd")), time.monotonic() + 1
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, 20e-6 + random.random() * 150e-6)
        with open_file("x.npy"):
            pass
        RowReader(mapped)
        while True:
            pass
    except KeyboardInterrupt:
        pass
gc.collect()
print(len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files as Linux shows them")
def test_interrupts_leave_no_file_open(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0\n", done.stderr
