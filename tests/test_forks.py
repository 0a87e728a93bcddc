"""Forks: the child has one thread, and can use what other threads of its parent were using."""

import copy
import multiprocessing
import os
import pickle
import select
import signal
import threading
import time

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Dense, Network
from fastgd._plan import Use, UseLock, WaitingLock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
SECONDS = 60


def in_child(function):
    """Calls a function in a forked child and returns its result; fails if the child does not end within SECONDS."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, pickle.dumps(function()))
        except BaseException as error:
            os.write(writing, pickle.dumps(repr(error)))
        os._exit(0)
    os.close(writing)
    answered = select.select([reading], [], [], SECONDS)[0]
    if not answered:
        os.kill(child, signal.SIGKILL)
    answer = os.read(reading, 2**16)
    os.close(reading)
    os.waitpid(child, 0)
    assert answered, "the child hangs"
    return pickle.loads(answer)


class Busy(threading.Thread):
    """A thread that repeats `work` while the context lasts."""

    def __init__(self, work):
        super().__init__()
        self.work, self.ends, self.times = work, False, 0

    def run(self):
        while not self.ends:
            self.work()
            self.times += 1

    def __enter__(self):
        self.start()
        while not self.times:
            time.sleep(0.001)
        return self

    def __exit__(self, *raised):
        self.ends = True
        self.join(SECONDS)
        assert not self.is_alive()


def equal_weights(n=300):
    """A network, whose weights are all equal between two steps but not within one, and its data."""
    layers = [Dense(n, weight_init="zeros"), Dense(1, weight_init="zeros")]
    network = Network(n, layers, loss="mse", num_threads=2)
    network.parameters[:] = 0.001
    return network, np.ones((512, n), np.float32), np.zeros((512, 1), np.float32)


@pytest.mark.parametrize("task", ["predict", "save", "copy", "fit", "train_step"])
@pytest.mark.parametrize("backend", ["cython", "numpy"])
def test_a_child_uses_what_another_thread_was_using(task, backend, tmp_path):
    network, x, y = equal_weights(100 if backend == "numpy" else 300)
    network = network.like(backend=backend)
    network.parameters[:] = 0.001
    optimizer = fastgd.SGD(1e-6)
    work = {
        "predict": lambda: network.predict(x),
        "save": lambda: network.save(tmp_path / "m", optimizer=optimizer),
        "copy": lambda: copy.deepcopy((network, optimizer)),
        "fit": lambda: network.fit(x, y, optimizer=optimizer, batch_size=64, epochs=3),
        "train_step": lambda: network.train_step(x, y, optimizer),
    }[task]

    def child():
        weights = {len(np.unique(view)) for view in network.views().values()}
        finite = np.isfinite(network.predict(x)).all()
        network.save(tmp_path / f"child {os.getpid()}", optimizer=optimizer)
        network.fit(x, y, optimizer=optimizer, epochs=1)
        copy.deepcopy((network, optimizer))
        return weights, bool(finite)

    with Busy(work):
        answers = [in_child(child) for _ in range(5)]
    assert answers == [({1}, True)] * 5  # the parameters are those between two steps
    network.fit(x, y, optimizer=optimizer, epochs=1)  # the parent continues, too


def test_a_child_uses_an_optimizer_and_an_estimator_that_were_in_use(rng):
    sklearn = pytest.importorskip("fastgd.sklearn")
    x, labels = rng.normal(size=(400, 6)).astype(np.float32), rng.integers(0, 2, 400)
    estimator = sklearn.MLPClassifier((8,)).partial_fit(x, labels, classes=[0, 1])
    p, g, optimizer = np.zeros(200_000, np.float32), np.ones(200_000, np.float32), Adam()
    estimate = {
        "predict": lambda: estimator.predict(x),
        "partial_fit": lambda: estimator.partial_fit(x, labels),
    }
    for work in estimate.values():
        with Busy(work):
            for _ in range(4):
                assert in_child(lambda: (len(estimator.predict(x)), estimator.partial_fit(x, labels) is estimator)) == (
                    400,
                    True,
                )
    with Busy(lambda: optimizer.step(p, g)):
        for _ in range(4):
            assert in_child(lambda: (optimizer.step(p, g), copy.deepcopy(optimizer).steps == optimizer.steps)) == (
                None,
                True,
            )


def test_a_fork_within_a_callback(rng):
    """The child has the thread that forked, within fit: it may use the network as in any callback, and continue."""
    x, y = rng.normal(size=(64, 4)), rng.normal(size=(64, 1))
    network, answers = Network(4, [Dense(3, "tanh"), Dense(1)], loss="mse", seed=1), []
    expected = copy.deepcopy(network)
    expected.fit(x, y, optimizer=Adam(), epochs=2)

    def fork(run):
        def child():
            other = threading.Thread(target=lambda: refused.append(_refuses(network, x)))
            refused = []
            other.start()
            other.join()
            return run.network.loss(x, y) == network.loss(x, y), copy.deepcopy(network) is not None, refused

        answers.append(in_child(child))

    network.fit(x, y, optimizer=Adam(), epochs=2, callbacks=[fork])
    assert answers == [(True, True, [True])] * 2
    np.testing.assert_array_equal(network.parameters, expected.parameters)

    parent, (reading, writing) = os.getpid(), os.pipe()
    network = copy.deepcopy(expected).like()
    history = network.fit(x, y, optimizer=Adam(), epochs=2, callbacks=[lambda run: os.fork() and None])
    if os.getpid() != parent:  # each child trains to the end, like its parent
        os.write(writing, network.parameters.tobytes() if len(history.loss) == 2 else b"")
        os._exit(0)
    for _ in range(2):
        os.waitpid(-1, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == network.parameters.tobytes() * 3


def _refuses(network, x):
    try:
        network.predict(x)
    except RuntimeError as error:
        return "in use by another call" in str(error)
    return False


def _loss(network, x, y):
    return network.loss(x, y)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_networks_in_processes(method, rng):
    network = Network(4, [Dense(3, "tanh"), Dense(1)], loss="mse")
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 1))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(_loss, (network, x, y)).get(SECONDS) == network.loss(x, y)


def test_a_fork_waits_for_a_compilation():
    """Numba compiles under one global lock."""
    pytest.importorskip("numba")
    from fastgd.core import jit

    jit.global_compiler_lock.acquire()
    held, release = threading.Event(), threading.Event()

    def compile_something():
        with jit.global_compiler_lock:
            held.set()
            release.wait(SECONDS)

    other = threading.Thread(target=compile_something)
    jit.global_compiler_lock.release()
    other.start()
    held.wait(SECONDS)
    threading.Timer(0.05, release.set).start()

    def child():
        with jit.global_compiler_lock:
            return True

    assert in_child(child)
    other.join()


def test_a_fork_waits_for_a_progress_bar(rng):
    lock = fastgd.callbacks._bar_class().get_lock()
    held, release = threading.Event(), threading.Event()

    def draw():
        with lock:
            held.set()
            release.wait(SECONDS)

    other = threading.Thread(target=draw)
    other.start()
    held.wait(SECONDS)
    threading.Timer(0.05, release.set).start()
    x = rng.normal(size=(8, 2))
    network = Network(2, [Dense(1)], loss="mse")
    assert in_child(lambda: len(network.fit(x, x[:, :1], epochs=2, progress=True).loss)) == 2
    other.join()


def entered(lock):
    """Takes the lock; returns "entered" or the error's message."""
    try:
        with lock:
            return "entered"
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize("turn", [UseLock("thing"), WaitingLock("thing")])
def test_what_the_forking_thread_holds_it_holds_on(turn):
    with turn:
        assert "already in use further up the call stack" in in_child(lambda: entered(turn))
    assert in_child(lambda: entered(turn)) == "entered"


def test_a_reader_in_a_child():
    lock = UseLock("thing")
    with lock.reading():

        def read():
            return entered(lock.use(Use.EVALUATE)), entered(lock.use(Use.BORROW)), entered(lock)

        evaluates, borrows, trains = in_child(read)
        assert evaluates == "entered"
        assert "being saved, exported or copied" in borrows
        assert borrows == trains


@pytest.mark.parametrize("kind", ["taken", "read", "waiting"])
def test_what_other_threads_hold_is_free_in_a_child(kind):
    lock = WaitingLock("thing") if kind == "waiting" else UseLock("thing")
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock.reading() if kind == "read" else lock:
            held.set()
            release.wait(SECONDS)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(SECONDS)

    def take():
        with lock:
            return in_child(lambda: entered(lock))  # in a grandchild, whose only thread holds the lock

    assert "already in use further up the call stack" in in_child(take)
    release.set()
    other.join()
    assert entered(lock) == "entered"
