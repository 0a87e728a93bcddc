"""The native engine: all passes and fast steps give the same bits, allocate nothing, and can be interrupted."""

import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from cases import OPTIMIZERS

import fastgd
from fastgd import SGD, Adam, Dense, Network
from fastgd.core.buffers import aligned_zeros
from fastgd.data.samples import check_values
from fastgd.engine import executor, plan


def network(hidden=24, **options):
    layers = [Dense(hidden, "tanh"), Dense(hidden, "relu"), Dense(5)]
    return Network(19, layers, loss="softmax_cross_entropy", seed=1, **options)


@pytest.fixture
def rows(rng):
    return rng.normal(size=(90, 19)).astype(np.float32), rng.integers(0, 5, 90)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_while_the_gradient_is_made_changes_no_bit(name, monkeypatch, rows):
    ends = []
    for limit, pass_name in ((2**40, "step"), (0, "fused")):
        monkeypatch.setattr(plan, "FUSED_BYTES", limit)
        net = network(150)
        net.fit(*rows, optimizer=OPTIMIZERS[name](0.01), batch_size=32, epochs=3)
        assert net.executor.plan.best_pass == pass_name
        ends.append(net.parameters.copy())
    np.testing.assert_array_equal(*ends)


def test_inputs_too_large_for_a_fused_update_train_all_the_same(monkeypatch, rows):
    """A gradient that might overflow is checked before the update uses it."""
    X, y = rows[0] * np.float32(1e12), rows[1]
    ends = []
    for limit in (2**40, 0):
        monkeypatch.setattr(plan, "FUSED_BYTES", limit)
        net = network()
        net.fit(X, y, optimizer=Adam(), batch_size=32, epochs=2)
        ends.append(net.parameters.copy())
    np.testing.assert_array_equal(*ends)
    assert np.isfinite(ends[0]).all()


@pytest.mark.parametrize("scale", [1.0, 1e12], ids=["checked beforehand", "checked afterwards"])
@pytest.mark.parametrize("backend", ["numba", "cython"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_short_ways_of_one_row_change_no_bit(name, backend, scale, monkeypatch, rows):
    """The guarded pass checks the factors of the gradient beforehand; plain SGD needs no gradient array."""
    X, y = rows[0] * np.float32(scale), rows[1]
    ends = []
    for factor in (4, np.inf):
        monkeypatch.setattr(plan, "FEW_VALUES", factor)
        net = network(64, backend=backend)
        net.fit(X, y, optimizer=OPTIMIZERS[name](0.01), batch_size=1, epochs=2)
        short = "rank_one" if name == "SGD" else "guarded"
        assert net.executor.plan.best_pass == (short if factor == 4 else "step")
        ends.append((net.parameters.copy(), net.gradient.copy()))
    for short, long in zip(*ends, strict=True):
        np.testing.assert_array_equal(short, long)
        assert np.isfinite(short).all()


@pytest.mark.parametrize(
    "options",
    [{"clip_value": 1e-3}, {"clip_norm": 1e-3}, {"ema_decay": 0.9}, {"accumulate": 2},
     {"learning_rate_factors": {"w1": 0.5}}],
)  # fmt: skip
def test_an_update_that_is_not_plain_has_a_gradient(options, monkeypatch, rows):
    monkeypatch.setattr(plan, "FEW_VALUES", 4)
    short, long = network(64), network(64, backend="numpy")
    for net in (short, long):
        net.fit(*rows, optimizer=SGD(0.1, **options), batch_size=1, epochs=1)
    assert short.executor.plan.best_pass == "guarded"
    np.testing.assert_allclose(short.parameters, long.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_fast_steps_are_steps(backend, rows):
    """Mixed steps of arrays used in place, of lists and of several sizes give the bits of the general way."""
    X, y = rows
    fast, long = network(backend=backend), network(backend=backend)
    fast_optimizer, long_optimizer = (Adam(fastgd.schedules.cosine(0.01, 200, warmup_steps=20)) for _ in range(2))
    for i in range(150):
        n = (32, 32, 32, 7, 1)[i % 5]
        x, labels = X[i % 50 :][:n], y[i % 50 :][:n]
        loss = fast.train_step(x, labels, fast_optimizer)
        long.executor.drop_plans()
        assert long.executor.step(x.tolist() if i % 7 == 3 else x, labels, long_optimizer) == loss
    assert fast.executor.fast_step.last_loss == loss
    assert fast_optimizer.steps == 150
    np.testing.assert_array_equal(fast.parameters, long.parameters)


def test_a_fast_step_uses_what_was_changed(rows):
    X, y = rows
    net, twin = network(), network()
    optimizer, twin_optimizer = SGD(0.1), SGD(0.1)
    for i in range(60):
        if i == 40:
            optimizer.learning_rate = twin_optimizer.learning_rate = 0.01
        if i == 50:
            net.parameters[:] = twin.parameters[:] = 0.01
            net.loss(X, y)
        if i == 55:
            optimizer = twin_optimizer = None
            optimizer, twin_optimizer = Adam(), Adam()
        net.train_step(X, y, optimizer)
        twin.executor.drop_plans()
        twin.executor.step(X, y, twin_optimizer)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_fast_steps_of_two_optimizers_in_turns(rows):
    X, y = rows
    net, twin = network(), network()
    optimizers, twins = [Adam(), SGD(lambda step: 0.5)], [Adam(), SGD(lambda step: 0.5)]
    for i in range(30):
        which = i // 3 % 2
        if i == 20:
            net.fit(X, y, optimizer=optimizers[1], epochs=1)
            twin.fit(X, y, optimizer=twins[1], epochs=1)
        net.train_step(X, y, optimizers[which])
        twin.train_step(X.tolist(), y, twins[which])
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_divergence_error_has_the_loss_before(steps):
    x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
    net, optimizer = fastgd.Network(3, [fastgd.Dense(1)], loss="mse"), SGD(1e-3)
    losses = [net.train_step(x, y, optimizer) for _ in range(steps)]
    with pytest.raises(fastgd.DivergenceError, match="got loss inf; last finite loss") as caught:
        net.train_step(x, y * np.float32(1e30), optimizer)
    assert caught.value.last_loss == losses[-1]


def test_a_fast_step_refuses_as_the_long_way_does(rows):
    X, y = rows
    net, optimizer = network(), Adam()
    for _ in range(5):
        net.train_step(X, y, optimizer)
    before = net.parameters.copy()
    for x, labels, error, match in (
        (X[:, :5], y, ValueError, "19 features"),
        (X, y[:3], ValueError, "'y'"),
        (X, np.full(90, 9), ValueError, "'y'.*9"),
        (np.full_like(X, np.nan), y, ValueError, "'x'.*nan"),
        (X[:0], y[:0], ValueError, "at least 1 row"),
    ):
        with pytest.raises(error, match=match):
            net.train_step(x, labels, optimizer)
    with pytest.raises(TypeError, match="'optimizer'"):
        net.train_step(X, y, None)
    np.testing.assert_array_equal(net.parameters, before)
    assert optimizer.steps == 5


@pytest.mark.parametrize("make", [SGD, Adam, lambda: SGD(momentum=0.9)])
def test_only_the_step_that_binds_the_optimizer_checks_every_value(make, monkeypatch, rows):
    checked = []

    def counted(*given, **options):
        checked.append(given[0])
        return check_values(*given, **options)

    net, optimizer = network(backend="numpy"), make()
    for module in (executor, fastgd.data.samples):  # which checks the inputs
        monkeypatch.setattr(module, "check_values", counted)
    assert not optimizer.is_bound
    with pytest.raises(ValueError, match="'x'.*nan"):
        net.train_step(np.full_like(rows[0], np.nan), rows[1], optimizer)
    assert not optimizer.is_bound
    for _ in range(3):
        net.train_step(*rows, optimizer)
        assert optimizer.is_bound
    assert checked == ["x", "x", "y"]
    with pytest.raises(ValueError, match="'x'.*nan"):
        net.train_step(np.full_like(rows[0], np.nan), rows[1], optimizer)


def test_batch_descent_in_one_piece_is_a_loop_of_steps(rows):
    X, y = rows
    fitted, stepped, optimizer = network(), network(), SGD(0.1)
    history = fitted.fit(X, y, optimizer=SGD(0.1), batch_size=None, epochs=30)
    losses = [stepped.train_step(X, y, optimizer) for _ in range(30)]
    np.testing.assert_array_equal(fitted.parameters, stepped.parameters)
    assert history.loss == losses
    assert history.seconds == sorted(history.seconds)


def test_pieces_of_a_run_do_not_show(monkeypatch, rows):
    ends = []
    for limit in (2**18, 50):
        monkeypatch.setattr(fastgd.training.sampling, "PIECE_ROWS", limit)
        net, steps = network(), []
        callbacks = [fastgd.callbacks.every(4, lambda run, steps=steps: steps.append(run.step))]
        history = net.fit(*rows, optimizer=Adam(), batch_size=16, epochs=5, callbacks=callbacks)
        assert steps == list(range(4, 30, 4))
        ends.append((net.parameters.copy(), history.loss))
        assert history.steps == 30
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_ctrl_c_during_a_native_run(rows):
    net, optimizer = network(), Adam()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    gc.collect()
    gc.disable()  # an exception in a finalizer, such as one of Numba's, would be lost, and a warning
    try:
        # CPU time, since other processes may be busy; again if a finalizer ran all the same.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2, 1)
        with pytest.raises(KeyboardInterrupt):
            net.fit(*rows, optimizer=optimizer, epochs=10**9)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        gc.enable()
    steps = optimizer.steps
    assert steps > 0
    assert np.isfinite(net.parameters).all()
    net.train_step(*rows, optimizer)
    assert optimizer.steps == steps + 1


@pytest.mark.usefixtures("own_definitions", "ctrl_c")
def test_an_interrupt_in_python_waits_for_the_end_of_the_step(rows):
    @fastgd.custom.loss
    def pressed(z, y, dz):
        signal.raise_signal(signal.SIGINT)
        dz[:] = z - y
        return 0.0

    X, y = rows
    net = Network(19, [Dense(1)], loss=pressed, backend="numpy")
    for train, options in ((net.fit, {"epochs": 3}), (net.train_step, {})):
        optimizer = SGD()
        with pytest.raises(KeyboardInterrupt):
            train(X, y, optimizer=optimizer, **options)
        assert optimizer.steps == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("offset", [0, 3, 100])
def test_where_arrays_begin(offset, dtype):
    """At cache lines; each large array an eighth of a page further than the last, counted from the array `like`."""
    size = 20_000
    like = np.zeros(size + offset, dtype)[offset:]
    _, arrays = aligned_zeros([size, 5, size], dtype, eighth=6, like=like)
    away = [(array.ctypes.data - like.ctypes.data) % 4096 for array in arrays]
    assert (away[0], away[2]) == (6 * 512, 7 * 512)
    assert {array.ctypes.data % 64 for array in arrays} == {like.ctypes.data % 64}
    assert [(array.size, array.dtype, array.any()) for array in arrays] == [(n, dtype, False) for n in (size, 5, size)]
    small = np.zeros(32768 // like.itemsize + offset, dtype)[offset:]  # fits into the first-level cache
    for options in ({}, {"eighth": 2, "like": small}):
        _, arrays = aligned_zeros([5, 7, size], dtype, **options)
        assert [array.ctypes.data % 64 for array in arrays] == [0, 0, 0]
    assert (arrays[2].ctypes.data - small.ctypes.data // 64 * 64) % 4096 == 2 * 512


def test_memory_estimate(rows):
    net = network(256)
    estimate = net.memory_estimate(64)
    assert estimate["total"] == sum(v for k, v in estimate.items() if k != "total")
    fixed = estimate["parameters"] + estimate["gradient"] + estimate["optimizer"]
    assert 4 * 4 * net.n_parameters <= fixed <= 4.2 * 4 * net.n_parameters
    net.fit(*rows, optimizer=Adam(), batch_size=64, epochs=1)
    made = net.executor.plan
    size = made.workspace.nbytes + made.buffers["index"].nbytes + sum(array.nbytes for array in made.own.values())
    assert size == pytest.approx(estimate["workspace"], rel=0.02)
    n = net.n_parameters
    for options, bytes_of_one in (
        ({}, 8), ({"accumulate": 2}, 12), ({"ema_decay": 0.9}, 12), ({"accumulate": 2, "ema_decay": 0.9}, 16),
        ({"state_dtype": "bfloat16"}, 4), ({"state_dtype": "8bit"}, 2 + 8 / 256),
    ):  # fmt: skip
        assert net.memory_estimate(64, Adam(**options))["optimizer"] == int(n * bytes_of_one)
    assert net.memory_estimate(64, SGD())["optimizer"] == 0
    assert net.memory_estimate(64, Adam(learning_rate_factors={"w1": 0.0}))["optimizer"] == 8 * (
        n - net.views()["w1"].size
    )
    with pytest.raises(ValueError, match="'batch_size'"):
        net.memory_estimate(0)


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static long calls;
long allocations(void) { return calls; }
void *malloc(size_t n) {
    static void *(*real)(size_t);
    if (!real) real = dlsym(RTLD_NEXT, "malloc");
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    return real(n);
}
"""
COUNTED = """
import ctypes, sys, numpy as np, fastgd
from fastgd.engine.steps import Steps
count = ctypes.CDLL(sys.argv[1]).allocations
count.restype = ctypes.c_long
rng = np.random.default_rng(0)
X, y = rng.normal(size=(64, 19)).astype("f4"), rng.integers(0, 5, 64)
layers = [fastgd.Dense(300, "gelu"), fastgd.Dense(200, "tanh"), fastgd.Dense(5)]
net, opt = fastgd.Network(19, layers, loss="softmax_cross_entropy", num_threads=1), fastgd.Adam()
net.fit(X, y, optimizer=opt, batch_size=32, epochs=1)
taken, runner = [], net.executor.plan.runner

class Counting:
    prepare, threads, uses = runner.prepare, runner.threads, 0

    def train(self, *arguments):
        before = count()
        result = runner.train(*arguments)
        taken.append(count() - before)
        return result

net.executor.plan.runner = Counting()
for n in (10, 10, 500):
    order = np.tile(np.arange(64), n // 2 + 1)
    steps = Steps.of(net.executor.plan, opt, X, y, rows=[32] * n, starts=np.arange(n) * 32, order=order)
    net.executor.plan.train(steps, 0, np.array([n]), net.executor.plan.best_pass, 100.0)
print(net.executor.plan.best_pass, taken[2] - taken[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts by replacing the C library's malloc")
def test_a_step_allocates_nothing(tmp_path):
    """490 more steps make no more allocations."""
    compiler = shutil.which("cc") or shutil.which("gcc") or sysconfig.get_config_var("CC").split()[0]
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(library)], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"LD_PRELOAD": str(library)}, cwd=pathlib.Path(__file__).parent,
    )  # fmt: skip
    assert done.stdout.strip() == "fused 0", done.stdout + done.stderr


def test_a_callback_trains_with_another_optimizer(rows):
    """The operations of the update are then bound anew, twice in each epoch; the run's values go where they are now."""
    X, y = rows
    ends = []
    for backend in ("numpy", "cython"):
        net, other = network(backend=backend, dtype="float64"), SGD(0.01)
        schedule = fastgd.schedules.cosine(0.01, 40)
        net.fit(
            X, y, optimizer=Adam(schedule), batch_size=10, epochs=4,
            callbacks=fastgd.callbacks.every(2, lambda run, net=net, other=other: net.train_step(X[:5], y[:5], other)),
        )  # fmt: skip
        ends.append(net.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-9)
