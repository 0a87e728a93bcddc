"""Copies of a network, and one network in several threads."""

import copy
import pickle
import threading

import numpy as np
import pytest
from cases import make

import fastgd
from fastgd import Adam, Network


def test_copy_and_pickle_carry_on_alike(rng):
    x, y = rng.normal(size=(6, 6)), rng.integers(0, 3, 6)
    network, optimizer = make(), Adam(0.1)
    network.train_step(x, y, optimizer)
    twins = [copy.deepcopy((network, optimizer)), pickle.loads(pickle.dumps((network, optimizer)))]
    network.train_step(x, y, optimizer)
    for twin, twin_optimizer in twins:
        twin.train_step(x, y, twin_optimizer)
        np.testing.assert_array_equal(twin.parameters, network.parameters)


def test_each_thread_its_own_network(rng):
    x, y = rng.normal(size=(32, 6)), rng.integers(0, 3, 32)

    def train(results, i):
        network = make(seed=i)
        network.fit(x, y, epochs=50)
        results[i] = network.parameters.copy()

    serial, threaded = {}, {}
    for i in range(4):
        train(serial, i)
    threads = [threading.Thread(target=train, args=(threaded, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(serial[i], threaded[i])


def test_one_network_in_two_threads_is_refused(small):
    network, x, y = small
    with network.executor.lock, pytest.raises(RuntimeError, match="already in use further up the call stack"):
        network.train_step(x, y, Adam())


def test_copies_of_a_network_at_work_are_of_between_two_steps(tmp_path, rng):
    """Or copying is refused. All weights of this network are equal between two steps."""
    x = np.ones((4096, 400), np.float32)
    network = Network(400, [fastgd.Dense(400, weight_init="zeros"), fastgd.Dense(1, weight_init="zeros")], loss="mse")
    network.parameters[:] = 0.001
    whole, refused, begun = [], 0, threading.Event()
    thread = threading.Thread(target=network.fit, args=(x, np.zeros(4096)), kwargs={
        "optimizer": fastgd.SGD(1e-6), "epochs": 12, "callbacks": [fastgd.callbacks.every(9, lambda run: begun.set())],
    })  # fmt: skip
    thread.start()
    assert begun.wait(60)
    while thread.is_alive():
        for keep in (copy.deepcopy, lambda network: network.save(tmp_path / "m")):
            try:
                kept = keep(network)
            except RuntimeError:
                refused += 1
            else:
                whole.append(fastgd.load(tmp_path / "m")[0] if kept is None else kept)
    thread.join()
    assert refused
    for kept in whole:
        for view in kept.views().values():
            assert len(np.unique(view)) == 1


def test_readers_of_a_network_do_not_meet(tmp_path, rng):
    """Copies in several threads, and training that waits for them."""
    network = Network(200, [fastgd.Dense(500, "relu"), fastgd.Dense(1)], loss="mse")
    x, y, optimizer, failed = rng.normal(size=(8, 200)).astype(np.float32), np.zeros((8, 1), np.float32), Adam(), []

    def work(keep):
        try:
            for _ in range(20):
                keep()
        except RuntimeError as error:
            failed.append(error)

    keepers = [lambda: copy.deepcopy(network), lambda: pickle.dumps(network), lambda: network.save(tmp_path / "m")]
    threads = [threading.Thread(target=work, args=[keep]) for keep in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with network.executor.lock.reading():
        thread = threading.Thread(target=network.train_step, args=(x, y, optimizer))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert optimizer.steps == 0
        network.executor.lock.reading().__enter__()
        network.executor.lock.reading().__exit__(None, None, None)
    thread.join(10)
    assert optimizer.steps == 1
