"""Every layer in a network, in training and in evaluation: gradients, backends, threads, saving."""

import copy
import pickle

import numpy as np
import pytest
from cases import LAYERS, TOKEN_LAYERS, check_gradient, same

import fastgd
from fastgd.cli.self_check import GRADIENT_TOLERANCE
from fastgd.layers.base import LAYERS as KNOWN
from fastgd.layers.dropout import kept_columns

MODES = {"evaluation": False, "training": True}
BOTH = pytest.mark.parametrize("training", MODES.values(), ids=MODES)
EACH = pytest.mark.parametrize("name", LAYERS)


def make(*names, width=7, backend="auto", loss="softmax_cross_entropy", **options):
    """A 6-width-3 network with the named layers after the first dense one."""
    layers = [fastgd.Dense(width, "tanh"), *(LAYERS[name]() for name in names), fastgd.Dense(3)]
    return fastgd.Network(6, layers, loss=loss, backend=backend, **options)


def test_every_layer_has_a_case():
    assert set(LAYERS) | TOKEN_LAYERS == set(KNOWN)


# ---- the gradient


@pytest.mark.float64
@BOTH
@EACH
def test_gradient(name, training, backend, rows):
    network = make(name, dtype="float64", backend=backend, seed=3)
    x, y = (a[:9] for a in rows)
    network.fit(x, y, optimizer=fastgd.SGD(0.1), batch_size=None, epochs=3)  # statistics of some minibatches
    check_gradient(network, x, y, training=training)


@pytest.mark.float64
@BOTH
@EACH
def test_gradient_of_the_first_layer_and_of_all_together(name, training, backend, rows):
    """A first layer, which passes no gradient on, and a layer that follows another of its kind."""
    layers = [LAYERS[name](), LAYERS[name](), fastgd.Dense(5, "gelu"), LAYERS["BatchNorm"](), LAYERS["Dropout"]()]
    layers += [LAYERS["LayerNorm"](), fastgd.Dense(3)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype="float64", backend=backend, seed=3)
    x, y = (a[:9] for a in rows)
    check_gradient(network, x, y, step=2e-4, training=training)


@pytest.mark.parametrize(("name", "kernel", "argument"), [
    ("LayerNorm", "layer_norm_backward", 0), ("BatchNorm", "batch_norm_means", 1),
    ("BatchNorm", "batch_norm_means", 0), ("BatchNorm", "normalization_backward_gamma", 0),
])  # fmt: skip
def test_gradient_check_catches_a_dropped_term(name, kernel, argument, rows, monkeypatch):
    network = make(name, dtype="float64", backend="numpy", seed=3)
    made = getattr(fastgd.kernels, kernel)
    right = made.reference

    def wrong(*arguments):
        right(*arguments)
        arguments[argument][...] *= 1 - 1e-5

    monkeypatch.setattr(made, "reference", wrong)
    x, y = (a[:9] for a in rows)
    assert max(fastgd.check_gradients(network, x, y, training=True).values()) > GRADIENT_TOLERANCE
    with pytest.raises(AssertionError):
        check_gradient(network, x, y, training=True)


# ---- the same result in every way


@pytest.mark.parametrize(("width", "options", "pass_name"), [
    (7, {}, "step"), (5000, {}, "fused"), (5000, {"clip_norm": 0.1}, "guarded"),
])  # fmt: skip
def test_every_pass_keeps_statistics(width, options, pass_name, rows):
    x, y = rows
    states = {}
    for backend in ("numpy", "cython"):
        network = make("BatchNorm", width=width, dtype="float64", backend=backend)
        network.fit(x, y, optimizer=fastgd.SGD(0.01, momentum=0.9, **options), epochs=2, batch_size=50)
        states[backend] = network.state
    assert network.executor.plan.best_pass == pass_name
    assert np.abs(network.statistics["mean2"]).max() > 0.01
    np.testing.assert_allclose(states["cython"], states["numpy"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm"])
def test_a_network_of_normalization_alone(name, backend, rng):
    """There are no weights that the penalty could act on."""
    x = rng.normal(3.0, 2.0, size=(50, 4))
    targets = 2 * (x - x.mean(axis=0)) / x.std(axis=0) + 1
    network = fastgd.Network(4, [getattr(fastgd, name)()], loss="mse", l2=0.1, backend=backend)
    history = network.fit(x, targets, optimizer=fastgd.SGD(0.3), epochs=60, batch_size=None)
    assert history.loss[-1] < history.loss[0] - 1
    if name == "BatchNorm":
        np.testing.assert_allclose(network.views()["gamma1"], 2, rtol=1e-2)


@EACH
@pytest.mark.float64
@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_backends_train_alike(name, compiled, rows):
    """Not with Adam, which turns rounding errors of zero gradients (of biases before BatchNorm) into whole steps."""
    x, y = rows
    runs = {}
    for backend in ("numpy", compiled):
        network = make(name, "BatchNorm", "Dropout", dtype="float64", backend=backend)
        history = network.fit(x, y, optimizer=fastgd.SGD(0.1), epochs=3, batch_size=30)
        runs[backend] = np.array([*history.loss, *network.state, *network.predict(x).ravel()])
    np.testing.assert_allclose(runs[compiled], runs["numpy"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize(("width", "pass_name"), [(400, "step"), (5000, "fused")])
@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_bits_do_not_depend_on_threads(compiled, width, pass_name, options, rng):
    x, y = rng.normal(size=(900, 6)).astype(np.float32), rng.integers(0, 3, 900)
    states = []
    for num_threads in (1, 2, 5):
        network = make("Dropout", "BatchNorm", "Dense", "LayerNorm", "Dropout", "BatchNorm", width=width,
                       backend=compiled, num_threads=num_threads)  # fmt: skip
        network.fit(x, y, optimizer=fastgd.Adam(0.01, **options), epochs=2, batch_size=600)
        assert network.executor.plan.threads(600) == num_threads
        assert network.executor.plan.best_pass == (
            "guarded" if options.get("clip_norm") and pass_name == "fused" else pass_name
        )
        states.append(network.state.copy())
    for other in states[1:]:
        np.testing.assert_array_equal(other, states[0])


@pytest.mark.parametrize(("names", "width", "size"), [
    (("Dropout", "BatchNorm", "LayerNorm"), 7, 25), (("Dropout", "Dense", "LayerNorm"), 7, 1),
    (("Dropout", "Dense"), 2000, 1),
])  # fmt: skip
def test_steps_are_those_of_fit(names, width, size, backend, rows):
    """Single steps, fast ones too, with losses and gradients computed in between."""
    x, y = rows[0].astype(np.float32), rows[1]
    fitted, stepped = (make(*names, width=width, backend=backend) for _ in range(2))
    fitted.fit(x, y, optimizer=fastgd.SGD(0.01), epochs=120 * size // 100, batch_size=size, shuffle=False)
    if width == 2000:  # without a gradient array
        assert backend == "numpy" or fitted.executor.plan.best_pass == "rank_one"
    optimizer = fastgd.SGD(0.01)
    for step in range(fitted.history.steps):
        begin = step * size % 100
        if step % 50 == 7:
            stepped.loss_and_gradient(x, y, training=True)
            stepped.loss_and_gradient(x, y)
            stepped.evaluate(x, y)
        stepped.train_step(x[begin : begin + size], y[begin : begin + size], optimizer)
    np.testing.assert_array_equal(stepped.state, fitted.state)


# ---- Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_in_every_row_and_column(rate):
    mask = kept_columns(np.arange(2000), 2000, rate, 5, 7)
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(mask.mean() - (1 - rate)) < 5 * deviation / 2000
    for axis in (0, 1):
        means = mask.mean(axis=axis)
        assert np.abs(means - (1 - rate)).max() < 5 * deviation / 2000**0.5
        # ... but not more evenly than by chance
        assert 0.8 < means.std() / (deviation / 2000**0.5) < 1.2


@pytest.mark.parametrize("other", [
    {"row": np.arange(1, 2001)}, {"key": 6}, {"step": 8}, {"step": 7 + 2**32}, {"key": 5 + 2**40},
], ids=str)  # fmt: skip
def test_dropout_masks_have_nothing_in_common(other):
    given = {"row": np.arange(2000), "n": 500, "rate": 0.5, "key": 5, "step": 7}
    one, two = kept_columns(**given), kept_columns(**{**given, **other})
    for shift in (0, 1, 2, 17):
        agreement = (one[:, shift:] == two[:, : 500 - shift]).mean()
        assert abs(agreement - 0.5) < 5 * 0.5 / (2000 * (500 - shift)) ** 0.5
    both = (one[1:] & one[:-1]).mean()
    assert abs(both - 0.25) < 5 * 0.5 / 1e6**0.5


def test_dropout_bodies_have_one_mask(backend, dtype):
    """For any key and step, which are integers up to 2^53."""
    row, x = np.array([0, 1, 5, 2**40]), np.ones((4, 37), dtype)
    for key, step in ((0, 0), (2**53 - 1, 2**53 - 1), (123456789012345, 77)):
        y = np.empty_like(x)
        fastgd.kernels.dropout.body(backend)(y, x, row, 0.3, float(key), float(step))
        np.testing.assert_array_equal(y, kept_columns(row, 37, 0.3, key, step) * x.dtype.type(1 / 0.7))


def test_what_is_not_finite_is_not_dropped(backend):
    """Dropout must not hide it."""
    network = fastgd.Network(3, [fastgd.Dropout(0.9), fastgd.Dense(1)], loss="mse", backend=backend)
    optimizer = fastgd.Adam()
    network.train_step(np.ones((1, 3), np.float32), np.ones(1), optimizer)
    before = network.state.copy()
    for bad in (np.nan, np.inf):
        for _ in range(5):
            with pytest.raises(ValueError, match="'x'.*finite"):
                network.train_step(np.array([[1, bad, 1]], np.float32), np.ones(1), optimizer)
    np.testing.assert_array_equal(network.state, before)


def test_dropout_is_nothing_in_evaluation(rows):
    x, y = rows
    with_it, without = make("Dropout"), make()
    np.testing.assert_array_equal(with_it.predict(x), without.predict(x))
    assert with_it.loss(x, y) == without.loss(x, y)
    assert with_it.loss_and_gradient(x, y)[0] == pytest.approx(without.loss(x, y), rel=1e-6)
    losses = {with_it.loss_and_gradient(x, y, training=True)[0] for _ in range(3)}
    assert len(losses) == 1
    assert losses.pop() != pytest.approx(without.loss(x, y), rel=1e-6)


def test_each_minibatch_and_each_layer_drops_others(rows):
    """With a negligible learning rate, different losses mean different masks."""
    x, y = rows
    for backend in ("numpy", "cython"):
        network, optimizer = make("Dropout", backend=backend), fastgd.SGD(1e-20)
        losses = [network.train_step(x, y, optimizer) for _ in range(6)]
        assert len(set(losses)) == 6
        assert make("Dropout", backend=backend).train_step(x, y, fastgd.SGD(1e-20)) == losses[0]
        other = make("Dropout", backend=backend, seed=1)
        other.state[:] = network.state
        assert other.train_step(x, y, fastgd.SGD(1e-20)) != losses[0]
    twice = make("Dropout", "Dropout", dtype="float64")
    keys = {o.scalars[1] for o in twice.executor.training_plan(1).operations if o.kernel is fastgd.kernels.dropout}
    assert len(keys) == 2


def test_dropout_of_rate_0(rows):
    x, y = rows
    network = fastgd.Network(6, [fastgd.Dropout(0.0), fastgd.Dense(3)], loss="softmax_cross_entropy")
    assert "dropout" not in network.describe()
    plain = fastgd.Network(6, [fastgd.Dense(3)], loss="softmax_cross_entropy")
    for net in (network, plain):
        net.fit(x, y, epochs=2)
    np.testing.assert_array_equal(network.parameters, plain.parameters)


@pytest.mark.parametrize(("make_layer", "error", "match"), [
    (lambda: fastgd.Dropout(1.0), ValueError, r"'rate'.*\[0, 1\).*1\.0"),
    (lambda: fastgd.Dropout(-0.1), ValueError, "'rate'.*-0.1"),
    (lambda: fastgd.Dropout("0.5"), TypeError, "'rate'.*'0.5'"),
    (lambda: fastgd.LayerNorm(eps=0.0), ValueError, "'eps'"),
    (lambda: fastgd.BatchNorm(eps=-1.0), ValueError, "'eps'"),
    (lambda: fastgd.BatchNorm(momentum=0.0), ValueError, "'momentum'"),
    (lambda: fastgd.BatchNorm(momentum=1.1), ValueError, "'momentum'"),
])  # fmt: skip
def test_bad_arguments(make_layer, error, match):
    with pytest.raises(error, match=match):
        make_layer()


# ---- BatchNorm


@pytest.mark.float64
def test_batch_norm_runs_along(backend, rng):
    """Running mean and variance by hand; evaluation uses them."""
    x, y = rng.normal(2.0, 3.0, size=(64, 6)), rng.integers(0, 3, 64)
    layers = [fastgd.BatchNorm(momentum=0.2), fastgd.Dense(3)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype="float64", backend=backend)
    optimizer, mean, variance = fastgd.SGD(0.01), np.zeros(6), np.ones(6)
    for begin in (0, 16, 32):
        batch = slice(begin, begin + 16)
        mean += 0.2 * (x[batch].mean(axis=0) - mean)
        variance += 0.2 * (x[batch].var(axis=0, ddof=1) - variance)
        network.train_step(x[batch], y[batch], optimizer)
    np.testing.assert_allclose(network.statistics["mean1"], mean, rtol=1e-12)
    np.testing.assert_allclose(network.statistics["variance1"], variance, rtol=1e-12)
    views = network.views()
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    expected = (views["gamma1"] * normal + views["beta1"]) @ views["w2"] + views["b2"]
    np.testing.assert_allclose(network.forward(x), expected, rtol=1e-10, atol=1e-12)


def test_a_minibatch_of_one_row(backend, rows):
    x, y = rows
    network = make("BatchNorm", backend=backend)
    network.fit(x[:9], y[:9], epochs=2, batch_size=4)  # 4, 4 and 1
    assert np.isfinite(network.state).all()
    before = network.statistics["variance2"].copy()
    network.train_step(x[:1], y[:1], fastgd.SGD(0.1))
    np.testing.assert_array_equal(network.statistics["variance2"], before)
    with pytest.raises(ValueError, match="'batch_size'.*at least 2 rows for BatchNorm.*1"):
        network.fit(x, y, batch_size=1)
    with pytest.raises(ValueError, match="'batch_size'"):
        network.fit(x[:1], y[:1])


def test_a_step_that_diverges_leaves_the_statistics(backend, rows):
    x, y = rows
    network, optimizer = make("BatchNorm", backend=backend, loss="mse"), fastgd.SGD(0.01)
    targets = np.eye(3)[y]
    network.train_step(x, targets, optimizer)
    before = network.state.copy()
    targets[3] = 1e30
    with pytest.raises(fastgd.DivergenceError):
        network.train_step(x, targets, optimizer)
    np.testing.assert_array_equal(network.state, before)


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
def test_a_variance_that_overflows_ends_the_training(name, backend, rows):
    x, y = rows[0].astype(np.float32), rows[1]
    network, optimizer = make(name, backend=backend), fastgd.SGD(0.1)
    network = network.like(layers=[LAYERS[name](), *network.layers])
    network.train_step(x, y, optimizer)
    before, x[7, 1] = network.state.copy(), 3e20
    for train in (lambda: network.train_step(x, y, optimizer), lambda: network.fit(x, y, optimizer=optimizer)):
        with pytest.raises(fastgd.DivergenceError):
            train()
        np.testing.assert_array_equal(network.state, before)
    if name == "BatchNorm":  # only the variance over rows - 1 overflows
        x[:2, 1] = 1.5e19, -1.5e19
        with pytest.raises(fastgd.DivergenceError):
            network.train_step(x[:2], y[:2], optimizer)
        np.testing.assert_array_equal(network.state, before)


def test_statistics_of_columns_far_from_0(backend, rng):
    x = rng.normal(size=(50_000, 3)).astype(np.float32) + np.float32(1e4)
    layers = [fastgd.BatchNorm(momentum=1.0), fastgd.Dense(1)]
    network = fastgd.Network(3, layers, loss="mse", backend=backend)
    network.train_step(x, np.zeros(len(x)), fastgd.SGD(1e-9))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(network.statistics["mean1"], exact.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(network.statistics["variance1"], exact.var(axis=0), rtol=1e-3)


def test_evaluation_in_between_changes_nothing(backend, rows):
    x, y = rows
    runs = []
    for options in ({}, {"validation_data": (x, y), "metrics": ["accuracy"], "callbacks": [lambda run: None]}):
        network = make("BatchNorm", "Dropout", backend=backend)
        network.fit(x, y, epochs=4, **options)
        runs.append(network.state.copy())
    np.testing.assert_array_equal(*runs)


# ---- saved and copied


@EACH
def test_saved_loaded_pickled_and_copied(name, rows, tmp_path):
    x, y = rows
    network, optimizer = make(name, "BatchNorm"), fastgd.Adam(0.01)
    network.fit(x, y, optimizer=optimizer, epochs=2)
    network.save(tmp_path / "net.safetensors", optimizer=optimizer)
    loaded, its_optimizer = fastgd.load(tmp_path / "net.safetensors")
    assert repr(loaded.layers) == repr(network.layers)
    for other in (loaded, pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        np.testing.assert_array_equal(other.state, network.state)
        np.testing.assert_array_equal(other.predict(x), network.predict(x))
        assert np.shares_memory(other.parameters, other.state)
        assert list(other.statistics) == list(network.statistics)
    network.fit(x, y, optimizer=optimizer, epochs=1)
    loaded.fit(x, y, optimizer=its_optimizer, epochs=1)
    np.testing.assert_array_equal(loaded.state, network.state)


def test_resumed_bit_for_bit(backend, rows, tmp_path):
    x, y = rows
    options = {"epochs": 5, "batch_size": 30, "validation_data": (x, y), "restore_best": True}

    def network():
        return make("Dropout", "BatchNorm", "LayerNorm", backend=backend)

    whole, stopped, resumed = network(), network(), network()
    expected = whole.fit(x, y, optimizer=fastgd.Adam(0.05), **options)

    def stop(run):
        if run.step == 11:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, y, optimizer=fastgd.Adam(0.05), checkpoint=path,
                    callbacks=[fastgd.callbacks.every(1, stop)], **options)  # fmt: skip
    history = resumed.fit(x, y, optimizer=fastgd.Adam(0.05), checkpoint=path, resume=True, **options)
    np.testing.assert_array_equal(resumed.state, whole.state)
    assert same(history, expected)


def test_best_statistics_come_back_with_the_parameters(rows):
    x, y = rows
    recorded = []
    network = make("BatchNorm")
    network.fit(x, y, optimizer=fastgd.Adam(0.3), epochs=20, validation_data=(x, (y + 1) % 3), restore_best=True,
                callbacks=[lambda run: recorded.append(run.network.state.copy())])  # fmt: skip
    best = network.history.best_epoch
    assert best < 20
    np.testing.assert_array_equal(network.state, recorded[best - 1])
