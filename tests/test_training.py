"""fit() on real data and on small problems: the three forms of descent, stopping, divergence, agreement of backends."""

import pickle
import sys
import threading

import numpy as np
import pytest
from cases import OPTIMIZERS
from conftest import BACKENDS

import fastgd
from fastgd import SGD, Adam, Dense, DivergenceError, Network, RMSProp


def digit_network(**options):
    return Network(64, [Dense(32, "tanh"), Dense(10)], loss="softmax_cross_entropy", **options)


@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_backends_agree_after_three_epochs(compiled, dtype, data):
    (X, y), _ = data
    ends = []
    for backend in ("numpy", compiled):
        # tanh: with relu, a rounding could move a unit over the kink, and 64 weights with it.
        layers = [Dense(64, "tanh"), Dense(10)]
        network = Network(64, layers, loss="softmax_cross_entropy", dtype=dtype, backend=backend)
        network.fit(X, y, optimizer=Adam(1e-3), epochs=3)
        ends.append(network.parameters.copy())
    tolerance = {"float64": 1e-10, "float32": 1e-4}[dtype]
    assert np.abs(ends[1] - ends[0]).max() <= tolerance * np.abs(ends[0]).max()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_digits(name, backend, data):
    (X, y), (X_test, y_test) = data
    rate = {"SGD": 0.1, "momentum": 0.02, "Nesterov": 0.02, "AdaGrad": 0.05, "AdaDelta": 1.0}.get(name, 3e-3)
    network = digit_network(backend=backend)
    network.fit(X, y, optimizer=OPTIMIZERS[name](rate), epochs=15)
    assert (network.predict(X_test).argmax(axis=1) == y_test).mean() >= 0.93


@pytest.mark.parametrize(("batch_size", "steps"), [(None, 1), (1, 1438), (32, 45), (5000, 1)])
def test_three_forms_of_descent(batch_size, steps, data):
    (X, y), _ = data
    network = digit_network()
    before = network.loss(X, y)
    history = network.fit(X, y, optimizer=SGD(0.05), batch_size=batch_size, epochs=2)
    assert history.steps == 2 * steps
    assert network.loss(X, y) < before


@pytest.mark.float64
def test_batch_descent_is_the_formula(rng, backend):
    """One step of batch descent on linear regression: w - lr dL/dw."""
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    network = Network(3, [Dense(1)], loss="mse", dtype="float64", backend=backend)
    w = network.views()["w1"].copy()
    history = network.fit(X, y, optimizer=SGD(0.1), batch_size=None, epochs=1)
    residual = X @ w[:, 0] - y
    assert history.loss == [pytest.approx((residual**2).mean())]
    np.testing.assert_allclose(network.views()["w1"][:, 0], w[:, 0] - 0.1 * 2 * X.T @ residual / 50, rtol=1e-12)


@pytest.mark.float64
@pytest.mark.parametrize("backend", BACKENDS)
def test_larger_calls_between_epochs_do_not_show(backend, rng):
    """A loss or validation data of more rows than a minibatch makes the plan larger, but changes no result."""
    X, y = rng.normal(size=(64, 6)), rng.normal(size=(64, 1))
    ends = []
    for between in ("nothing", "loss", "validation"):
        net = Network(6, [Dense(1)], loss="mse", dtype="float64", seed=1, backend=backend)
        if between == "loss":
            net.loss(X, y)
        validation = (X, y) if between == "validation" else None
        history = net.fit(X, y, optimizer=SGD(0.1), batch_size=8, epochs=3, validation_data=validation)
        ends.append((net.parameters.tolist(), history.loss))
    assert ends[0] == ends[1] == ends[2]


def test_fit_is_a_loop_over_minibatches(data):
    """A loop of train_step gives the bits of fit."""
    (X, y), _ = data
    fitted, stepped, optimizer = digit_network(seed=5), digit_network(seed=5), Adam()
    fitted.fit(X, y, optimizer=Adam(), batch_size=100, epochs=2)
    for epoch in range(2):
        for xb, yb in fastgd.minibatches(X, y, batch_size=100, seed=5, epoch=epoch):
            stepped.train_step(xb, yb, optimizer)
    np.testing.assert_array_equal(fitted.parameters, stepped.parameters)


def test_any_dtype_and_layout_of_x_trains_alike(data, tmp_path):
    (X, y), _ = data
    X = np.rint(X[:200] * 16)
    np.save(tmp_path / "x.npy", X.astype(np.uint8))
    wide = np.zeros((200, 128), np.float32)
    wide[:, ::2] = X
    ends = []
    for x in (X.astype(np.float32), X, X.astype(np.uint8), np.asfortranarray(X), wide[:, ::2],
              np.load(tmp_path / "x.npy", mmap_mode="r")):  # fmt: skip
        network = digit_network()
        network.fit(x, y[:200], epochs=2)
        ends.append(network.parameters.copy())
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


def test_probability_rows_train_like_labels(data):
    (X, y), _ = data
    ends = []
    for targets in (y, np.eye(10)[y]):
        network = digit_network(dtype="float64")
        network.fit(X, targets, epochs=2)
        ends.append(network.parameters.copy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_without_shuffle_the_order_is_that_of_the_data(rng):
    X, y = rng.normal(size=(10, 3)), rng.normal(size=(10, 1))
    fitted, stepped = (Network(3, [Dense(1)], loss="mse") for _ in range(2))
    optimizer = SGD(0.1)
    fitted.fit(X, y, optimizer=SGD(0.1), batch_size=4, epochs=1, shuffle=False)
    for start in (0, 4, 8):
        stepped.train_step(X[start : start + 4], y[start : start + 4], optimizer)
    np.testing.assert_array_equal(fitted.parameters, stepped.parameters)


def test_stops_when_the_loss_no_longer_falls(rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    network = Network(3, [Dense(1)], loss="mse")
    history = network.fit(X, y, optimizer=SGD(0.1), batch_size=None, epochs=1000, tolerance=1e-5, patience=5)
    assert history.stopped == "converged"
    assert len(history.loss) < 200
    assert min(history.loss[-5:]) >= history.loss[-6] - 1e-5
    endless = Network(3, [Dense(1)], loss="mse").fit(X, y, optimizer=SGD(0.1), batch_size=None, epochs=50)
    assert (endless.stopped, len(endless.loss)) == ("epochs", 50)


def test_patience_watches_the_validation_loss(rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    network = Network(3, [Dense(1)], loss="mse")
    opposite = (X, -y)
    history = network.fit(X, y, optimizer=SGD(0.1), epochs=500, validation_data=opposite, patience=3)
    assert history.stopped == "patience"
    assert len(history.loss) == len(history.validation_loss) < 50
    assert history.validation_loss[-1] == pytest.approx(network.loss(*opposite))


@pytest.mark.parametrize("optimizer", [lambda: SGD(1e6), lambda: SGD(1e6, momentum=0.9), lambda: SGD(1e30)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_divergence_keeps_the_last_good_parameters(optimizer, loss, backend, dtype, rng):
    X, y = rng.normal(size=(64, 8)), rng.normal(size=(64, 2))

    def make():
        layers = [Dense(16, "leaky_relu"), Dense(16, "leaky_relu"), Dense(2)]
        return Network(8, layers, loss=loss, dtype=dtype, backend=backend)

    network = make()
    with pytest.raises(DivergenceError, match=r"update \d+ \(minibatch \d+, epoch \d+\).*learning_rate") as caught:
        network.fit(X, y, optimizer=optimizer(), batch_size=16, epochs=2000)
    assert np.isfinite(network.parameters).all()
    twin, twin_optimizer, steps = make(), optimizer(), 0
    for epoch in range(2000):
        for xb, yb in fastgd.minibatches(X, y, batch_size=16, epoch=epoch):
            if steps == caught.value.update - 1:
                break
            twin.train_step(xb, yb, twin_optimizer)
            steps += 1
        if steps == caught.value.update - 1:
            break
    np.testing.assert_array_equal(twin.parameters, network.parameters)


@pytest.mark.parametrize("make", [
    lambda: SGD(1e6, weight_decay=0.01),
    lambda: SGD(1e6, momentum=0.9, weight_decay=0.01),
    lambda: fastgd.AdamW(1e6),
])  # fmt: skip
@pytest.mark.parametrize("loss", ["mae", "softmax_cross_entropy"])
def test_divergence_by_weight_decay_keeps_finite_parameters(make, loss, backend, dtype, rng):
    """The loss and its gradient stay finite while the decay multiplies the parameters."""
    X, optimizer = rng.normal(size=(37, 4)), make()
    y = rng.integers(0, 3, 37) if loss.startswith("softmax") else rng.normal(size=(37, 3))
    network = Network(4, [Dense(3)], loss=loss, dtype=dtype, backend=backend)
    with pytest.raises(DivergenceError):
        network.fit(X, y, optimizer=optimizer, batch_size=None, epochs=400)
    assert np.isfinite(network.parameters).all()
    assert all(np.isfinite(array).all() for (array,) in optimizer.state.values())


def test_a_learning_rate_beyond_the_precision_is_refused(backend, rng):
    network = Network(4, [Dense(3, weight_init="zeros")], loss="mse", backend=backend)
    with pytest.raises(ValueError, match="'learning_rate .of step 1.'.*finite in float32"):
        network.train_step(rng.normal(size=(5, 4)), np.zeros((5, 3)), SGD(lambda step: 1e39))
    assert not network.parameters.any()


def test_divergence_error_travels_between_processes():
    error = pickle.loads(
        pickle.dumps(DivergenceError(7, minibatch=9, epoch=2, loss=np.inf, learning_rate=0.1, last_loss=3.0))
    )
    assert (error.update, error.minibatch, error.epoch, error.last_loss) == (7, 9, 2, 3.0)
    assert "update 7 (minibatch 9, epoch 2)" in str(error)


def test_fit_goes_on_shuffling_where_it_stopped(data):
    """Three calls of one epoch equal one call of three."""
    (X, y), _ = data
    ends = []
    for calls, epochs in ((1, 3), (3, 1)):
        network, optimizer = digit_network(), Adam()
        for _ in range(calls):
            network.fit(X, y, optimizer=optimizer, epochs=epochs)
        ends.append(network.parameters.copy())
        assert network.epochs == 3
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize(
    "function",
    [
        "lay_out",
        "of",
        "use_optimizer",
        "_bind",
        "train",
        "training_plan",
        "take",
        "_record",
        "_train_piece",
    ],
)
def test_interrupted_anywhere_a_network_goes_on(function, backend, rng):
    """Ctrl-C at any line of the inner functions: parameters stay finite, later results equal a fresh network's."""
    X, y = rng.normal(size=(90, 4)), rng.integers(0, 3, 90)

    def interrupt(frame, event, argument):
        nonlocal countdown
        if frame.f_code.co_name == function and "fastgd" in frame.f_code.co_filename:
            countdown -= 1
            if countdown == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return interrupt

    for line in (1, 2, 3, 4, 5, 7, 10, 15, 22, 40, 60):
        network = Network(4, [Dense(5, "tanh"), Dense(3)], loss="softmax_cross_entropy", backend=backend)
        network.fit(X, y, optimizer=Adam(), epochs=1)
        countdown = line
        sys.settrace(interrupt)
        try:
            network.fit(X, y, optimizer=SGD(0.1), epochs=5)
        except KeyboardInterrupt:
            pass
        else:
            assert line > 2, "never interrupted"
            break
        finally:
            sys.settrace(None)
        assert np.isfinite(network.parameters).all()
        twin = Network(4, [Dense(5, "tanh"), Dense(3)], loss="softmax_cross_entropy", backend=backend)
        twin.parameters[:] = network.parameters
        for rows in (90, 32, 26):
            expected, gradient = twin.loss_and_gradient(X[:rows], y[:rows])
            assert network.loss(X[:rows], y[:rows]) == pytest.approx(expected, rel=1e-6)
            np.testing.assert_array_equal(network.loss_and_gradient(X[:rows], y[:rows])[1], gradient)
        optimizer, twin_optimizer = RMSProp(), RMSProp()
        assert network.train_step(X, y, optimizer) == twin.train_step(X, y, twin_optimizer)


def test_fit_owns_the_network(rng):
    """A call from another thread while it trains is refused; the training goes on."""
    X, y = rng.normal(size=(64, 4)), rng.integers(0, 3, 64)
    network, refused = Network(4, [Dense(3)], loss="softmax_cross_entropy"), []

    def predict():
        with pytest.raises(RuntimeError, match="in use by another call"):
            network.predict(X)
        refused.append(True)

    def intrude(step):
        other = threading.Thread(target=predict)
        other.start()
        other.join()
        return 0.1

    history = network.fit(X, y, optimizer=SGD(intrude), epochs=3)
    assert len(history.loss) == 3
    assert refused


def test_divergence_on_digits(backend, data):
    (X, y), _ = data
    network = Network(64, [Dense(64, "elu"), Dense(64, "elu"), Dense(10)], loss="softmax_cross_entropy",
                      backend=backend)  # fmt: skip
    with pytest.raises(DivergenceError):
        network.fit(X * 16, y, optimizer=SGD(1e6), epochs=50)
    assert np.isfinite(network.parameters).all()


BAD_FIT = {
    "shuffle": ({"shuffle": "a"}, TypeError, "'shuffle'.*'a'"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "'batch_size'.*>= 1.*0"),
    "batch_size float": ({"batch_size": 2.0}, TypeError, "'batch_size'.*float"),
    "epochs": ({"epochs": -1}, ValueError, "'epochs'.*>= 0"),
    "tolerance": ({"tolerance": -1.0}, ValueError, "'tolerance'"),
    "patience": ({"patience": 0}, ValueError, "'patience'"),
    "optimizer": ({"optimizer": "adamm"}, ValueError, "'optimizer'.*'adamm'; did you mean 'Adam'"),
    "optimizer type": ({"optimizer": 1e-3}, TypeError, "'optimizer'.*0.001"),
    "validation": ({"validation_data": 3}, TypeError, "'validation_data'.*sample_weight.*3"),
    "validation X": ({"validation_data": (np.zeros((2, 4)), np.zeros(2, int))}, ValueError, "5 features"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_bad_fit(case, small):
    network, x, y = small
    options, error, match = BAD_FIT[case]
    before = network.parameters.copy()
    with pytest.raises(error, match=match):
        network.fit(x, y, **options)
    np.testing.assert_array_equal(network.parameters, before)


def test_no_epochs_change_nothing(small):
    network, x, y = small
    before = network.parameters.copy()
    assert network.fit(x, y, epochs=0).loss == []
    np.testing.assert_array_equal(network.parameters, before)


def test_progress_is_shown_when_asked_for(small, capfd):
    network, x, y = small
    network.fit(x, y, epochs=2)
    assert capfd.readouterr().err == ""
    network.fit(x, y, epochs=2, progress=True)
    assert "2/2" in capfd.readouterr().err


@pytest.mark.parametrize(("rate", "decay"), [(1e12, 1e8), (1.0, 1e20)])
def test_weight_decay_that_overflows_leaves_the_parameters_before(rate, decay):
    network = Network(1, [Dense(1)], loss="mse")
    network.parameters[:] = 0.1, 0.0
    with pytest.raises(fastgd.DivergenceError, match="update 2"):
        network.fit(np.zeros((4, 1)), np.zeros(4), optimizer=fastgd.SGD(rate, weight_decay=decay), epochs=3)
    np.testing.assert_allclose(network.parameters, [-1e19, 0.0], rtol=1e-6)
