"""Threads: the same bits for any number of them, many callers, forks, and the default number."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from cases import OPTIMIZERS

import fastgd
from fastgd import Adam, Dense, Network, _plan
from fastgd.core import threads
from fastgd.engine.plan import Plan

COUNTS = (1, 2, 3, 8, 16)
pytestmark = pytest.mark.usefixtures("every_step_is_shared")


def trained(num_threads, optimizer, *, backend="cython", dtype="float32", hidden=(40, 24), rows=101, l2=0.0, steps=4):
    rng = np.random.default_rng(7)
    X, y = rng.normal(size=(rows, 19)).astype(dtype), rng.integers(0, 5, rows)
    layers = [*(Dense(n, a) for n, a in zip(hidden, ("tanh", "gelu"), strict=True)), Dense(5)]
    network = Network(19, layers, loss=fastgd.losses.softmax_cross_entropy(label_smoothing=0.1), dtype=dtype, l2=l2,
                      backend=backend, num_threads=num_threads)  # fmt: skip
    history = network.fit(X, y, optimizer=optimizer, batch_size=rows // 2, epochs=steps)
    for _ in range(3):
        network.train_step(X, y, optimizer)
    return network.parameters.copy(), np.array(history.loss), network.loss_and_gradient(X, y), network.predict(X)


def same(a, b):
    for left, right in zip(a, b, strict=True):
        if isinstance(left, tuple):
            same(left, right)
        else:
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("hidden", [(40, 24), (300, 257)], ids=["one sweep", "fused"])
@pytest.mark.parametrize(("name", "l2"), [("Adam", 0.0), *((name, 0.1) for name in OPTIMIZERS)])
def test_the_same_bits_for_any_number_of_threads(name, hidden, l2, dtype):
    """One, an uneven share, and more than there are cores; test_update.py has other numbers for each optimizer."""
    ends = [trained(n, OPTIMIZERS[name](0.01), dtype=dtype, hidden=hidden, l2=l2) for n in (1, 3, 16)]
    for end in ends[1:]:
        same(end, ends[0])


def test_the_numba_backend_is_alike():
    ends = [trained(n, Adam(), backend="numba") for n in COUNTS]
    for end in ends[1:]:
        same(end, ends[0])


def test_many_python_threads_with_networks_of_their_own():
    alone, ends = trained(2, Adam(), steps=20), {}
    callers = [threading.Thread(target=lambda i=i: ends.update({i: trained(2, Adam(), steps=20)})) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(ends) == 6
    for end in ends.values():
        same(end, alone)


def _in_child(queue):
    queue.put(trained(2, Adam()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    here = trained(2, Adam())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    there = queue.get()
    child.join(timeout=60)
    assert child.exitcode == 0
    same(there, here)
    same(trained(2, Adam()), here)


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
import fastgd
from fastgd import _plan
rng = np.random.default_rng(0)
X, y = rng.normal(size=(2000, 64)).astype("f"), rng.integers(0, 5, 2000)
parameters = []
for threads in (1, 2, 4):
    net = fastgd.Network(64, [fastgd.Dense(256, "relu"), fastgd.Dense(5)], loss="softmax_cross_entropy",
                         num_threads=threads)
    limits = set()
    for _ in range(20):
        net.fit(X, y, batch_size=100, epochs=5, callbacks=[lambda run: limits.add(_plan.thread_limit())])
    assert threads == 1 or min(limits) == 1, limits
    parameters.append(net.parameters.copy())
assert all((p == parameters[0]).all() for p in parameters)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_threads_that_share_a_core_are_given_up_and_change_no_bit():
    done = subprocess.run([sys.executable, "-c", ON_ONE_CORE], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_number_may_be_set_and_holds_from_the_next_call_on(rng):
    network, X = Network(4, [Dense(8, "tanh"), Dense(2)], loss="mse", num_threads=2), rng.normal(size=(99, 4))
    y, optimizer = X[:, :2], Adam()

    def use():
        network.train_step(X, y, optimizer)
        network.predict(X)
        network.loss_and_gradient(X, y)
        executor = network.executor
        plans = [executor.plan, *executor._evaluation_plans.values(), *executor._gradient_plans.values()]
        return {plan.threads(99) for plan in plans}

    assert use() == {2}
    for number in (3, 1):
        network.num_threads = number
        assert network.num_threads == number
        assert use() == {number}
    assert network.like().num_threads == pickle.loads(pickle.dumps(network)).num_threads == 1
    network.num_threads = None
    assert network.num_threads == threads.default_threads()
    for bad, kind in ((0, ValueError), (257, ValueError), (1.5, TypeError), ("2", TypeError)):
        with pytest.raises(kind, match="^argument 'num_threads'"):
            network.num_threads = bad
    assert network.num_threads == threads.default_threads()


def test_a_callback_may_set_the_number(rng, monkeypatch):
    X, prepared, make = rng.normal(size=(64, 4)), [], Plan._prepare

    def prepare(plan, steps, first, pass_name):
        make(plan, steps, first, pass_name)
        prepared.append((plan._prepared[2], first))

    def set_number(run):
        if run.epoch == 2:
            run.network.num_threads = 3

    def trained_with(*callbacks):
        network = Network(4, [Dense(8, "tanh"), Dense(2)], loss="mse", num_threads=2, dtype="float64")
        network.fit(X, X[:, :2], batch_size=32, epochs=4, callbacks=callbacks)
        return network.parameters

    monkeypatch.setattr(Plan, "_prepare", prepare)
    np.testing.assert_array_equal(trained_with(set_number), trained_with())
    assert [number for number, _ in prepared] == [2, 3, 2]


def test_another_thread_may_not_set_the_number_in_the_middle_of_a_call(rng):
    network, X = Network(4, [Dense(2)], loss="mse", num_threads=2), rng.normal(size=(64, 4))
    errors = []

    def set_number():
        try:
            network.num_threads = 1
        except RuntimeError as error:
            errors.append(str(error))

    def from_another_thread(run):
        caller = threading.Thread(target=set_number)
        caller.start()
        caller.join()

    network.fit(X, X[:, :2], epochs=1, callbacks=[from_another_thread])
    assert len(errors) == 1
    assert "in use by another call" in errors[0]
    assert network.num_threads == 2


def default_in(environment):
    code = "import fastgd; print(fastgd.core.threads.default_threads())"
    held = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=held | environment,
                          check=False, timeout=60)  # fmt: skip


def test_the_environment_sets_the_default():
    assert default_in({"OMP_NUM_THREADS": "5,2"}).stdout.strip() == "5"
    assert default_in({"OMP_NUM_THREADS": "5", "FASTGD_NUM_THREADS": "3"}).stdout.strip() == "3"
    assert 1 <= int(default_in({}).stdout) <= os.cpu_count()
    bad = default_in({"FASTGD_NUM_THREADS": "many"})
    assert bad.returncode != 0
    assert "FASTGD_NUM_THREADS" in bad.stderr
    assert "'many'" in bad.stderr


def test_cores_and_quotas(tmp_path, monkeypatch):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert threads._physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert threads._physical_cores({0, 2}, tmp_path) == 1
    assert threads._physical_cores({7, 8, 9}, tmp_path) == 3
    inner = tmp_path / "cgroup" / "a" / "b"
    inner.mkdir(parents=True)
    assert threads._cgroup_cpus(str(tmp_path / "cgroup"), "a/b") == float("inf")
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("250000 100000\n")
    assert threads._cgroup_cpus(str(tmp_path / "cgroup"), "a/b") == 2.5
    assert threads._cgroup_cpus("/nowhere", "") == float("inf")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, cpus in ((3, {0, 1, 2}), (None, {0})):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert threads._allowed_cpus() == cpus
    for name in ("FASTGD_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for cores, quota, number in ((6, float("inf"), 6), (6, 2.5, 2), (6, 0.5, 1), (999, float("inf"), 256)):
        monkeypatch.setattr(threads, "_physical_cores", lambda cpus, cores=cores: cores)
        monkeypatch.setattr(threads, "_cgroup_cpus", lambda *path, quota=quota: quota)
        assert threads.default_threads.__wrapped__() == number


def test_what_is_wrong_with_the_environment_is_not_the_file_s(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    fastgd.Network(2, [fastgd.Dense(1)], loss="mse").save(path)
    monkeypatch.setenv("FASTGD_NUM_THREADS", "0")
    fastgd.core.threads.default_threads.cache_clear()
    try:
        with pytest.raises(ValueError, match="^argument 'environment variable FASTGD_NUM_THREADS'"):
            fastgd.load(path)
    finally:
        fastgd.core.threads.default_threads.cache_clear()


def test_shares_follow_the_speed_of_the_threads():
    equal = np.array([0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(_plan.adapted_shares(equal, np.full(4, 100_000)), equal, rtol=1e-12)
    ends, speeds = equal, np.array([1, 2, 0.5, 1])
    for _ in range(200):  # a thread's time is its share divided by its speed
        ends = _plan.adapted_shares(ends, (1e6 * np.diff(ends, prepend=0) / speeds).astype(np.int64))
    np.testing.assert_allclose(np.diff(ends, prepend=0), speeds / speeds.sum(), rtol=1e-3)


def test_an_interruption_changes_the_shares_little():
    ends = _plan.adapted_shares(np.array([0.5, 1]), np.array([100_000, 900_000_000]))
    assert 0.5 < ends[0] < 0.55
    np.testing.assert_array_equal(_plan.adapted_shares(np.array([0.5, 1]), np.array([1, 20_000])), [0.5, 1])


def test_the_bits_do_not_depend_on_the_shares():
    def step(num_threads):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(2000, 300)).astype("float32"), rng.integers(0, 5, 2000)
        layers = [Dense(300, "relu"), Dense(5)]
        network = Network(300, layers, loss="softmax_cross_entropy", num_threads=num_threads)
        network.fit(X, y, optimizer=Adam(), batch_size=500, epochs=5)
        return network.parameters

    alone, together = step(1), step(3)
    shares = np.diff(_plan.shares_of_team(), prepend=0)
    assert len(shares) == 3
    assert len(set(shares)) > 1
    assert _plan.shares_of_team()[-1] == 1
    assert shares.min() > 0
    np.testing.assert_array_equal(together, alone)
