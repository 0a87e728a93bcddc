"""LBFGS: its directions against the two-loop recursion on vectors, its line search, its place in `fit`."""

import numpy as np
import pytest

import fastgd
from fastgd import LBFGS, BatchNorm, Dense, Dropout, Network, SelfAttention, Sequential
from fastgd.core.kernel import kernels
from fastgd.optimizers import lbfgs


@pytest.fixture
def curve():
    """Rows of a damped oscillation."""
    x = np.linspace(-2, 2, 60)[:, None]
    return x, np.sin(3 * x) * np.exp(-x)


def net(**options):
    return Network(1, [Dense(9, "tanh"), Dense(7, "tanh"), Dense(1)], loss="mse", **{"seed": 3, **options})


def two_loops(pairs, g):
    """The direction of Nocedal & Wright 2006, algorithm 7.4, on vectors. pairs: (s, y), the oldest first."""
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - y @ q / (s @ y)) * s
    return -q


@pytest.mark.parametrize("backend", ["cython", pytest.param("numba", marks=pytest.mark.slow), "numpy"])
def test_directions_and_line_searches(backend, curve):
    """Each accepted step satisfies the Wolfe conditions, and each direction is the one of the last pairs."""
    network, optimizer, pairs = net(dtype="float64", backend=backend), LBFGS(memory=4), []
    x, y = curve
    base = accepted = 0
    for _ in range(60):
        p, (loss, _) = network.parameters.copy(), network.loss_and_gradient(x, y)
        g = network.gradient.copy()
        assert network.train_step(x, y, optimizer) == pytest.approx(loss, rel=1e-12)
        vectors = optimizer.state["vectors"][0].reshape(11, -1)
        np.testing.assert_array_equal(network.gradient, g)
        if (vectors[-1] != p).any():  # rejected: another point on the line from the accepted parameters
            np.testing.assert_array_equal(vectors[-1], base[0])
            np.testing.assert_allclose(
                network.parameters, base[0] + optimizer.state["control"][0][lbfgs.STEP] * vectors[-2], rtol=1e-12
            )
            continue
        if accepted:
            before, g_before, loss_before = base
            s = p - before
            assert loss <= loss_before + 1e-4 * (g_before @ s)
            assert g @ s >= 0.9 * (g_before @ s)
            pairs = [*pairs, (s, g - g_before)][-4:]
        base, accepted = (p, g, loss), accepted + 1
        np.testing.assert_array_equal(vectors[-3], g)
        expected = two_loops(pairs, g)
        np.testing.assert_allclose(vectors[-2], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert accepted > 40


def test_each_mistake_in_the_direction_is_noticed(curve, monkeypatch):
    """Negative controls of the test above: a pair that is not stored, a weight that is 1 % off."""

    def store_none(*arguments):
        return -1

    def weigh(weights, gram, control, rate):
        turn(weights, gram, control, rate)
        if control[lbfgs.STORED] > 2:
            weights[0] *= 1.01

    judge, store, turn = lbfgs._judge, lbfgs._store, lbfgs._turn
    for parts in ((judge, store_none, turn), (judge, store, weigh)):
        monkeypatch.setattr(lbfgs, "_search", lbfgs._searching(*parts))
        with pytest.raises(AssertionError):
            test_directions_and_line_searches("numpy", curve)


@pytest.mark.parametrize("body", ["cython", pytest.param("numba", marks=pytest.mark.slow)])
def test_kernels_agree(body, rng, dtype):
    """With the numpy bodies, on more than a block of elements, with any action."""
    n, k, tight = 2 * lbfgs.DOT_BLOCK + 77, 9, 1e-5 if dtype == "float32" else 1e-13
    vectors, g = rng.normal(size=(k, n)).astype(dtype), rng.normal(size=n).astype(dtype)
    expected = np.array([(np.vstack([vectors[:-1], g]) * g).astype(float)[:, b : b + lbfgs.DOT_BLOCK].sum(1)
                         for b in range(0, n, lbfgs.DOT_BLOCK)])  # fmt: skip
    for one in ("numpy", body):
        partial = np.zeros((3, k))
        kernels.lbfgs_dots.body(one)(partial, vectors, g)
        np.testing.assert_allclose(partial, expected, rtol=1e-5 if dtype == "float32" else 1e-10, atol=1e-3)
    for action in (lbfgs.RETRY, lbfgs.ACCEPT, lbfgs.RESTART, lbfgs.BACK, lbfgs.STAY):
        for slot in (-1.0, 2.0, 3.0):  # 3 is no slot
            ends = []
            for one in ("numpy", body):
                p, moved = np.ones(n, dtype), vectors.copy()
                kernels.lbfgs_move.body(one)(p, moved, g, np.linspace(-1, 1, k), np.array([action, slot, 0.5, 0.25]))
                ends.append(np.vstack([p, moved]))
            np.testing.assert_allclose(*ends, rtol=tight, atol=20 * tight)
            changed = {i for i in range(k) if (ends[0][1 + i] != vectors[i]).any()}
            rows = {lbfgs.RETRY: set(), lbfgs.ACCEPT: {6, 7, 8, *((2, 5) if slot == 2 else ())}, lbfgs.RESTART: {7}}
            assert changed == rows.get(action, set())


def test_any_numbers_are_safe(rng):
    """A call by name with numbers that no run has stays within its arrays."""
    for k in (1, 4, 5, 9):
        for _ in range(50):
            control = rng.choice([np.nan, np.inf, -np.inf, -3.0, 0.0, 1.0, 2.5, 1e300], 16)
            arrays = rng.normal(size=k), rng.normal(size=(k, k)), rng.normal(size=(2, k))
            copies = [a.copy() for a in (np.zeros(4), control, *arrays)]
            kernels.lbfgs_search(np.zeros(1, np.int64), *copies, np.ones(1), 1.0, 0.0)


def test_a_parabola_takes_as_many_steps_as_it_has_dimensions(dtype):
    """One layer with mean squared error: the minimum is that of least squares."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.normal(size=(200, 2))
    network = Network(5, [Dense(2)], loss="mse", dtype=dtype)
    history = network.fit(x, y, optimizer="lbfgs", epochs=100)
    best = np.linalg.lstsq(np.hstack([x, np.ones((200, 1))]), y, rcond=None)[0]
    views = network.views()
    found = np.vstack([views["w1"], views["b1"]])
    np.testing.assert_allclose(found, best, atol=1e-6 if dtype == "float64" else 1e-4)
    assert history.stopped == "converged"
    assert len(history.loss) < 40
    assert network.fit(x, y, optimizer=LBFGS(), epochs=100).stopped == "converged"  # from the minimum on
    np.testing.assert_allclose(np.vstack([views["w1"], views["b1"]]), best, atol=1e-4)


def test_against_scipy(curve):
    optimize = pytest.importorskip("scipy.optimize")
    ours, theirs = [], []
    for seed in range(5):
        network = net(dtype="float64", seed=seed, l2=1e-4)
        start = network.parameters.copy()
        network.fit(*curve, optimizer="LBFGS", epochs=300)
        ours.append(network.loss(*curve))

        def value(p, network=network):
            network.parameters[:] = p
            return network.loss_and_gradient(*curve)[0], network.gradient.copy()

        options = {"maxfun": 300, "maxiter": 10_000, "ftol": 0, "gtol": 0}
        theirs.append(optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options).fun)
    assert np.median(ours) < 1.5 * np.median(theirs)


def test_ends_with_the_parameters_that_were_accepted(curve):
    """Whatever the last trial of a line search was."""
    for epochs in range(1, 30):
        network = net(dtype="float64")
        history = network.fit(*curve, optimizer=LBFGS(), epochs=epochs)
        assert network.loss(*curve) == pytest.approx(min(history.loss), rel=1e-9)


def test_all_rows_are_taken(curve):
    """Whatever the batch size; in their order; by `fit`, which counts an epoch for each step."""
    ends = []
    for batch_size in (32, 1, None):
        network, optimizer = net(), LBFGS()
        history = network.fit(*curve, optimizer=optimizer, batch_size=batch_size, epochs=25)
        ends.append(network.parameters.copy())
        assert optimizer.steps == history.steps == len(history.loss) == 25
    np.testing.assert_array_equal(ends[1:], ends[:1] * 2)


@pytest.mark.parametrize("threads", [3, 16])
def test_bits_do_not_depend_on_threads(threads, rng):
    x, y, ends = rng.normal(size=(300, 40)), rng.normal(size=(300, 1)), []
    for n in (1, threads):
        network = Network(40, [Dense(150, "tanh"), Dense(60, "tanh"), Dense(1)], loss="mse", num_threads=n)
        network.fit(x, y, optimizer="lbfgs", epochs=20)
        ends.append(network.parameters.copy())
    assert network.n_parameters > 2 * lbfgs.DOT_BLOCK
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("backend", ["cython", "numpy"])
def test_a_resumed_run_has_the_same_bits(backend, curve, tmp_path):
    ends = []
    for stops in ((40,), (7, 8, 23, 40)):
        for i, epochs in enumerate(stops):
            network, optimizer = net(backend=backend), LBFGS(memory=3)
            file = tmp_path / f"{len(stops)}.safetensors"
            history = network.fit(*curve, optimizer=optimizer, epochs=epochs, checkpoint=file, resume=i > 0)
        ends.append([*network.parameters, *history.loss, *optimizer.state["vectors"][0]])
    np.testing.assert_array_equal(*ends)


def test_a_first_loss_that_is_not_finite(curve):
    network = net(dtype="float64")
    network.parameters[:] = 1e200
    before = network.parameters.copy()
    with pytest.raises(fastgd.DivergenceError):
        network.fit(*curve, optimizer="lbfgs", epochs=3)
    np.testing.assert_array_equal(network.parameters, before)


def test_a_trial_that_is_not_finite_is_shortened(rng):
    """The first step is so long that the loss overflows."""
    x = rng.normal(size=(50, 3))
    y = np.exp(x[:, :1])
    network = Network(3, [Dense(4, "tanh"), Dense(1)], loss="poisson", dtype="float64", seed=1)
    history = network.fit(x, y, optimizer=LBFGS(1e4), epochs=100)
    assert not np.isfinite(history.loss).all()
    assert history.loss[0] > network.loss(x, y)


def test_with_the_rest_of_fit(curve):
    """Validation, metrics, callbacks, early stopping, weights, BatchNorm."""
    x, y = curve
    seen = []
    network = Network(1, [Dense(9, "tanh"), BatchNorm(), Dense(1)], loss="mse", dtype="float64", seed=1)
    assert min(network.fit(x, y, optimizer=LBFGS(), epochs=200).loss) < 1e-2
    network = net(dtype="float64")
    history = network.fit(
        x, y, optimizer=LBFGS(), epochs=200, sample_weight=np.linspace(0, 2, 60), validation_fraction=0.2,
        metrics=["r2"], patience=10, restore_best=True, callbacks=lambda run: seen.append(run.loss),
    )  # fmt: skip
    assert len(history.loss) == len(seen) == len(history.metrics["validation_r2"])
    assert history.stopped in ("patience", "epochs")
    assert network.loss(x, y) < 1
    assert min(history.validation_loss) < history.validation_loss[0] / 2


def test_a_callback_that_stops_it_and_another_run(curve):
    network, optimizer = net(dtype="float64"), LBFGS()
    history = network.fit(*curve, optimizer=optimizer, epochs=100, callbacks=lambda run: run.epoch == 5)
    assert (history.stopped, len(history.loss)) == ("callback", 5)
    loss = network.loss(*curve)
    again = network.fit(*curve, optimizer=optimizer, epochs=50)
    assert again.loss[0] == pytest.approx(loss, rel=1e-12)
    assert network.loss(*curve) < loss / 2


def test_what_it_refuses(curve, tmp_path):
    x, y = curve
    for layer in (Dropout(0.1), Sequential([Dropout(0.5)])):
        network = Network(1, [Dense(3), layer, Dense(1)], loss="mse")
        with pytest.raises(ValueError, match=r"'optimizer': expected one for minibatches.*Dropout.*got LBFGS\(1.0"):
            network.fit(x, y, optimizer="lbfgs")
    attention = [Dense(4), SelfAttention(2), Dense(1)]
    Network((6, 1), attention, loss="mse").fit(x.reshape(10, 6, 1), y.reshape(10, 6, 1), optimizer="lbfgs", epochs=2)
    network = net()
    with pytest.raises(ValueError, match="'optimizer': expected one for minibatches, for an iterable"):
        network.fit([(x, y)], optimizer="lbfgs")
    with pytest.raises(ValueError, match="'optimizer': expected one for minibatches, got 'lbfgs'"):
        fastgd.find_learning_rate(network, x, y, optimizer="lbfgs")
    network.loss_and_gradient(x, y)
    for call in (lambda: LBFGS().step(network), lambda: LBFGS().step(np.ones(3), np.ones(3))):
        with pytest.raises(ValueError, match="'optimizer'.*needs the loss"):
            call()
    with pytest.raises(TypeError, match=r"'LBFGS\(\)': expected options .*tolerance, got momentum"):
        LBFGS(momentum=0.9)
    for options, name in (({"memory": 0}, "memory"), ({"tolerance": -1}, "tolerance"), ({"lr": 0}, "learning_rate")):
        with pytest.raises(ValueError, match=f"'{name}'"):
            LBFGS(**options)
