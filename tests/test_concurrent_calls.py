"""Small calls in many threads at once, with and without the GIL: each has the result that it has alone, or is refused.
In CPython with the GIL, small calls are made one after the other."""

import copy
import importlib.util
import pickle
import subprocess
import sys
import sysconfig
import threading

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Adam, BatchNorm, Dense, Dropout, Network

THREADS = 4
CALLS, FAST_CALLS = 60, 3000  # calls of a microsecond only meet if they are many
BACKENDS = ["cython", "numpy"]


def in_threads(*functions):
    """Calls all functions at once, each in a thread of its own; returns their results, or raises what one raises."""
    results, raised, barrier = [None] * len(functions), [], threading.Barrier(len(functions))

    def call(i):
        barrier.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=call, args=[i]) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return results


def done(call, calls=CALLS):
    """How many of these calls were made; the others must be refused because another thread makes one."""
    made = 0
    for _ in range(calls):
        try:
            call()
            made += 1
        except RuntimeError as error:
            if "in use by another call" not in str(error):
                raise
    return made


def data(rng):
    return rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)


def net(backend="cython", **options):
    layers = [Dense(9, "tanh"), BatchNorm(), Dropout(0.3), Dense(2)]
    return Network(4, layers, loss="mse", backend=backend, seed=0, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_thread_with_a_network_of_its_own(backend, rng):
    x, y = data(rng)

    def everything():
        network, optimizer, p = net(backend), Adam(0.01), np.ones(5)
        results = []
        for _ in range(15):
            results.append(network.train_step(x, y, optimizer))
            results.append(network.predict(x))
            results.append(network.loss(x, y))
            results.extend(network.loss_and_gradient(x, y, training=True))
            results.append(network.backward(network.forward(x, record=True)))
            optimizer.step(network)
        rule = SGD(0.1, momentum=0.9)
        for _ in range(15):
            rule.step(p, p.copy())
        network.fit(x, y, optimizer=optimizer, batch_size=2, epochs=3)
        return [*results, p, network.parameters, copy.deepcopy(network).predict(x)]

    expected = everything()
    for results in in_threads(*[everything] * THREADS):
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, value)


def test_one_network_is_evaluated_copied_and_saved(tmp_path, rng):
    network, (x, y) = net(), data(rng)
    out = np.empty((6, 2), np.float32)
    calls = [
        lambda: network.predict(x), lambda: network.predict(x, out=out), lambda: network.loss(x, y),
        lambda: network.loss(x, y, sample_weight=np.arange(6.0)), lambda: network.evaluate(x, y)["loss"],
        lambda: network.loss_and_gradient(x, y)[1],
    ]  # fmt: skip
    expected = [copy.deepcopy(call()) for call in calls]

    def check(i):
        np.testing.assert_array_equal(calls[i](), expected[i])

    def keep(i):
        copies = [lambda: copy.deepcopy(network), lambda: pickle.loads(pickle.dumps(network))]
        if i == 2:
            network.save(tmp_path / "m")
            return fastgd.load(tmp_path / "m")[0]
        return copies[i]()

    def kept(i):
        np.testing.assert_array_equal(keep(i).parameters, network.parameters)

    def of(function, i, calls):
        return lambda: done(lambda: function(i), calls)

    checks = [of(check, i, FAST_CALLS // 5) for i in range(len(calls))]
    assert any(in_threads(*checks, *(of(kept, i, CALLS) for i in range(3))))
    for i in range(len(calls)):
        check(i)


@pytest.mark.parametrize("call", ["predict", "loss", "gradient"])
def test_one_network_evaluates_rows_of_each_thread(call, rng):
    network, rows = net(), [data(rng) for _ in range(THREADS)]
    calls = {"predict": lambda x, y: network.predict(x), "loss": network.loss,
             "gradient": lambda x, y: network.loss_and_gradient(x, y)[1]}  # fmt: skip
    expected = [copy.deepcopy(calls[call](*pair)) for pair in rows]

    def check(i):
        assert np.array_equal(calls[call](*rows[i]), expected[i])

    assert any(in_threads(*[lambda i=i: done(lambda: check(i), FAST_CALLS) for i in range(THREADS)]))


@pytest.mark.parametrize("way", ["train_step", "update", "fit"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_network_and_optimizer_make_the_steps_of_all_threads(backend, way, rng):
    """Each step is whole: the parameters are those after as many steps of one thread."""
    x, y = data(rng)
    layers = [Dense(9, "tanh"), Dense(2)]
    networks = [Network(4, layers, loss="mse", backend=backend, seed=0) for _ in range(2)]
    optimizers = [SGD(0.01, momentum=0.5) for _ in range(2)]
    gradient = networks[0].loss_and_gradient(x, y)[1]
    networks[1].gradient[:] = gradient

    def call(i):
        if way == "train_step":
            networks[i].train_step(x, y, optimizers[i])
        elif way == "update":
            optimizers[i].step(networks[i])
        else:
            networks[i].fit(x, y, optimizer=optimizers[i], batch_size=3, epochs=1, shuffle=False)

    calls = CALLS if backend == "numpy" or way == "fit" else FAST_CALLS
    made = sum(in_threads(*[lambda: done(lambda: call(0), calls)] * THREADS))
    assert made > 0
    assert made == done(lambda: call(1), made)
    assert optimizers[0].minibatches == optimizers[1].minibatches == networks[0].minibatches
    np.testing.assert_array_equal(networks[0].parameters, networks[1].parameters)


def test_one_optimizer_updates_arrays(rng):
    """Each update is whole, and of the arrays that it was asked for."""
    start = [rng.normal(size=n) for n in (3, 5)]
    optimizers, g = [SGD(0.01, momentum=0.5), SGD(0.01, momentum=0.5)], [np.ones(3), np.full(5, 2.0)]
    arrays = [[p.copy() for p in start] for _ in range(2)]
    made = sum(in_threads(*[lambda: done(lambda: optimizers[0].step(arrays[0], g), FAST_CALLS)] * THREADS))
    assert 0 < made == done(lambda: optimizers[1].step(arrays[1], g), made)
    assert optimizers[0].steps == optimizers[1].steps
    np.testing.assert_array_equal(np.concatenate(arrays[0]), np.concatenate(arrays[1]))

    plain = SGD(0.5)
    own = [np.zeros(4) for _ in range(THREADS)]
    made = in_threads(*[lambda p=p: done(lambda: plain.step(p, np.ones(4)), FAST_CALLS) for p in own])
    assert [p.tolist() for p in own] == [[-0.5 * n] * 4 for n in made]


def test_training_and_saving_meet(tmp_path, rng):
    """Saving waits for a step, and steps for saving, or they are refused; what is saved is of between two steps."""
    x, y = np.ones((6, 4), np.float32), np.zeros((6, 1), np.float32)
    network = Network(4, [Dense(5, weight_init="zeros"), Dense(1, weight_init="zeros")], loss="mse")
    network.parameters[:] = 0.1
    optimizer, kept = SGD(1e-3), []

    def keep_some():
        while len(kept) < CALLS:
            done(lambda: kept.append(copy.deepcopy(network)), 1)

    in_threads(lambda: done(lambda: network.train_step(x, y, optimizer), FAST_CALLS), keep_some, keep_some)
    for twin in kept:
        for view in twin.views().values():
            assert len(np.unique(view)) == 1


def test_networks_copy_from_each_other(rng):
    networks = [net(), net()]
    networks[1].state[:] = 1.0
    networks[0].state[:] = 1.0
    calls = [lambda: networks[0].copy_from(networks[1]), lambda: networks[1].copy_from(networks[0], 0.5)]
    made = in_threads(*[lambda call=call: done(call, FAST_CALLS) for call in [*calls, *calls]])
    assert any(made)
    for network in networks:
        assert (network.state == 1.0).all()
        network.copy_from(network, 0.25)
        assert (network.state == 1.0).all()


IN_NEW_PROCESS = """
import sys, threading, warnings

warnings.simplefilter("error")
barrier, raised = threading.Barrier(6), []

def work(i):
    barrier.wait()
    try:
        import fastgd
        import fastgd.text
        fastgd.check_gradients
        import numpy as np
        p, q = np.zeros(8), np.ones(8)
        barrier.wait()
        fastgd.kernels.average_parameters(p, q, 0.75)
        assert (p == 0.25).all()
        x = np.ones((4, 3), np.float32)
        barrier.wait()
        net = fastgd.Network(3, [fastgd.Dense(4, "relu"), fastgd.Dense(1)], loss="mse")
        net.fit(x, x[:, :1], epochs=2)
        barrier.wait()
        net.save(f"{sys.argv[1]}/{i}.safetensors")
        fastgd.load(f"{sys.argv[1]}/{i}.safetensors")[0].predict(x)
    except BaseException as error:
        raised.append(error)
        barrier.abort()
        raise

threads = [threading.Thread(target=work, args=[i]) for i in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(getattr(sys, "_is_gil_enabled", lambda: True)())
sys.exit(len(raised))
"""


def test_threads_import_and_begin_at_once(tmp_path):
    """In free-threaded CPython, the GIL stays off."""
    command = [sys.executable, "-c", IN_NEW_PROCESS, tmp_path]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    if sysconfig.get_config_var("Py_GIL_DISABLED") and not sys._is_gil_enabled():
        assert child.stdout == "False\n"


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
def test_threads_compile_one_function(own_definitions, rng):
    x, y = data(rng)

    @fastgd.custom.activation(derivative=lambda x: 1.0 if x > 0 else 0.1)
    def bent(x):
        return x if x > 0 else 0.1 * x

    def train():
        network, optimizer = Network(4, [Dense(5, bent), Dense(2)], loss="mse", seed=0), Adam()
        return [network.train_step(x, y, optimizer) for _ in range(5)]

    results = in_threads(*[train] * 3)
    assert all(result == results[0] for result in results)
