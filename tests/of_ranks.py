"""What test_distributed.py runs under mpiexec: python of_ranks.py FUNCTION [FILE]. Each function checks something on
all ranks; what it returns is printed by rank 0."""

import functools
import hashlib
import itertools
import os
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from mpi4py import MPI

import fastgd
from fastgd import Adam, AdamW, BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Network, schedules
from fastgd.callbacks import every
from fastgd.data.mapped import RowReader
from fastgd.distributed import mpi
from fastgd.engine import rank_steps
from fastgd.training.ranks import LEAST_BYTES, Ranks

RANK, SIZE = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(203, 6)), RNG.normal(size=(203, 2))
FILE = sys.argv[2] if sys.argv[2:] else None


def net(**options):
    options = {"dtype": "float64", "seed": 1, "num_threads": 1, **options}
    return Network(6, [Dense(17, "tanh"), Dropout(0.2), Dense(9, "relu"), Dense(2)], loss="mse", **options)


def rows_of(kind):
    """A network and its rows."""
    options = {"dtype": "float64", "seed": 1, "num_threads": 1}
    if kind == "images":
        layers = [Conv2D(4, 3, "relu"), MaxPool2D(2), Flatten(), Dropout(0.1), Dense(3)]
        network = Network((8, 8, 1), layers, loss="softmax_cross_entropy", l2=0.1, **options)
        return network, RNG.normal(size=(60, 8, 8, 1)), RNG.integers(0, 3, 60)
    if kind == "norms":
        # Without biases in front, whose gradient is 0 but for rounding, which Adam would follow.
        bare = {"use_bias": False}
        second = Dense(5, **bare), BatchNorm(sync=True, momentum=0.3)
        layers = [Dense(9, **bare), BatchNorm("relu", sync=True), *second, Dense(2)]
        network = Network((3, 6), layers, loss="mse", **options)
        return network, RNG.normal(5, 3, size=(40, 3, 6)), Y[:120].reshape(40, 3, 2)
    if kind == "norms of images":
        layers = [
            Conv2D(4, 3, use_bias=False), BatchNorm("relu", sync=True), MaxPool2D(2), Conv2D(5, 2, use_bias=False),
            BatchNorm("tanh", sync=True), Flatten(), Dense(3),
        ]  # fmt: skip
        network = Network((8, 8, 1), layers, loss="softmax_cross_entropy", **options)
        return network, RNG.normal(size=(60, 8, 8, 1)), RNG.integers(0, 3, 60)
    if kind == "tokens":
        network = fastgd.models.gpt(11, 6, layers=2, heads=2, width=8, **options)
        return network, RNG.integers(0, 11, (50, 6)), RNG.integers(0, 11, (50, 6))
    return net(l2=0.01, l1=1e-4, **({"backend": kind} if kind in ("numpy", "numba") else {})), X, Y


def digest(network):
    return hashlib.sha256(network.parameters.tobytes()).hexdigest()


def same_on_all_ranks(network):
    assert len(set(MPI.COMM_WORLD.allgather(digest(network)))) == 1


def equals_one_rank():
    """With weights, penalties, dropout, clipping, accumulation, schedules, odd sizes; on images and tokens; with
    statistics over ranks, of which some have no rows at times."""
    for kind in ("cython", "numpy", "images", "tokens", "norms", "norms of images"):
        ends, histories = [], []
        has_norms, size = kind.startswith("norms"), 5 if kind == "norms" else 19
        for parallel in (None, "mpi", mpi(bucket_bytes=8), *([] if has_norms else [mpi(exact=True)])):
            globals()["RNG"] = np.random.default_rng(2)
            network, x, y = rows_of(kind)
            rate = schedules.cosine(1e-2, total_steps=20)
            optimizer = AdamW(rate, clip_norm=1.0, accumulate=2) if kind != "tokens" else Adam(rate)
            options = {"sample_weight": np.linspace(0, 2, len(x)), "metrics": ["r2"]} if kind == "cython" else {}
            history = network.fit(x, y, optimizer=optimizer, batch_size=size, epochs=3, validation_fraction=0.2,
                                  parallel=parallel, **options)  # fmt: skip
            same_on_all_ranks(network)
            ends.append(network.state.copy())
            histories.append([*history.loss, *history.validation_loss, *itertools.chain(*history.metrics.values())])
        for end, losses in zip(ends[1:], histories[1:], strict=True):
            np.testing.assert_allclose(end, ends[0], rtol=0, atol=1e-11)
            np.testing.assert_allclose(losses, histories[0], rtol=1e-10)


def exact_bits():
    networks = [net(), net(dtype="float32", l2=0.1)]
    for network in networks:
        network.fit(X, Y, optimizer=Adam(1e-2), batch_size=50, epochs=3, parallel=mpi(exact=True))
        same_on_all_ranks(network)
    return [digest(network) for network in networks]


def repeated_bits():
    """A fixed number of ranks gives the same bits each time; another seed does not."""
    ends = []
    for seed in (1, 1, 2):
        network = net(dtype="float32", seed=seed)
        network.fit(X, Y, batch_size=32, epochs=4, parallel="mpi")
        ends.append(digest(network))
    assert ends[0] == ends[1] != ends[2]
    return ends


def sums():
    """Arrays are added in the order of the ranks, several at a time; other ranks' numbers give another sum."""
    ranks = Ranks(MPI.COMM_WORLD, 5.0)
    for dtype in ("float32", "float64"):
        arrays = [RNG.normal(size=(SIZE, n)).astype(dtype) for n in (1, 5000, 70_001, 70_001)]
        own = [array[RANK].copy() for array in arrays]
        ranks.wait([ranks.start_sum(array) for array in own])
        for array, added in zip(arrays, own, strict=True):
            expected = functools.reduce(np.add, array)
            if added.nbytes >= LEAST_BYTES:
                np.testing.assert_array_equal(added, expected)
            np.testing.assert_allclose(added, expected, rtol=1e-5)
            assert (added != functools.reduce(np.add, array[:-1])).all()
    ranks.close()


def sharded():
    """Each rank has every SIZE-th row; one rank with the same minibatches finds the same."""
    rows = len(X) // SIZE * SIZE
    own = slice(RANK, rows, SIZE)
    network = Network(6, [Dense(8, "tanh"), Dense(2)], loss="mse", dtype="float64")
    alone = network.like()
    seen = []
    history = network.fit(X[own], Y[own], batch_size=5 * SIZE, epochs=3, shuffle=False, parallel=mpi(sharded=True),
                          callbacks=lambda run: seen.append((run.rows, run.rows_per_epoch)))  # fmt: skip
    assert history.rows == [rows, 2 * rows, 3 * rows]
    assert seen == ([(n, rows) for n in history.rows] if RANK == 0 else [])
    for name, weight in (("sample_weight", np.ones(len(X[own]))), ("class_weight", {0: 2.0})):
        classifier, labels = Network(6, [Dense(2)], loss="softmax_cross_entropy"), np.zeros(len(X[own]), int)
        with pytest.raises(ValueError, match=name):
            classifier.fit(X[own], labels, parallel=mpi(sharded=True), **{name: weight})
    per_rank = [np.arange(r, rows, SIZE) for r in range(SIZE)]
    order = np.concatenate([of[i : i + 5] for i in range(0, rows // SIZE, 5) for of in per_rank])
    alone.fit(X[order], Y[order], batch_size=5 * SIZE, epochs=3, shuffle=False)
    same_on_all_ranks(network)
    np.testing.assert_allclose(network.parameters, alone.parameters, rtol=0, atol=1e-12)


def local_steps():
    """Against the same by hand: each rank's network trained alone, then the outer step."""
    for outer in ({}, {"outer_learning_rate": 0.7, "outer_momentum": 0.9}):
        layers = [Dense(8, "tanh"), Dense(2)]
        network = Network(6, layers, loss="mse", dtype="float64", seed=3, l2=0.01)
        own = [network.like() for _ in range(SIZE)]
        history = network.fit(X, Y, optimizer=Adam(1e-2), batch_size=6 * SIZE, epochs=2, shuffle=False,
                              parallel=mpi(steps_between_syncs=4, **outer))  # fmt: skip
        optimizers, start, momentum, made = [Adam(1e-2) for _ in own], network.like().parameters.copy(), 0.0, 0
        start = own[0].parameters.copy()
        losses = []
        for _ in range(2):
            total = 0.0
            for begin in range(0, len(X), 6 * SIZE):
                rows = min(6 * SIZE, len(X) - begin)
                for r, (one, optimizer) in enumerate(zip(own, optimizers, strict=True)):
                    cut = slice(begin + rows * r // SIZE, begin + rows * (r + 1) // SIZE)
                    total += one.train_step(X[cut], Y[cut], optimizer) * (cut.stop - cut.start)
                made += 1
                if made % 4 == 0 or begin + rows == len(X):
                    mean = np.mean([one.parameters for one in own], axis=0)
                    step = start - mean
                    if outer:
                        momentum = 0.9 * momentum + step
                        mean = start - 0.7 * (step + 0.9 * momentum)
                    for one in own:
                        one.parameters[:] = mean
                    start = mean
            losses.append(total / len(X))
        same_on_all_ranks(network)
        np.testing.assert_allclose(network.parameters, start, rtol=0, atol=1e-11)
        np.testing.assert_allclose(history.loss, losses, rtol=1e-9)
    alone, network = net(), net()  # a row, which the last rank has: the others make no step
    for one, parallel in ((alone, None), (network, mpi(steps_between_syncs=2))):
        one.fit(X[:1], Y[:1], optimizer=fastgd.SGD(0.1), epochs=1, parallel=parallel)
    expected = ((SIZE - 1) * net().parameters + alone.parameters) / SIZE
    np.testing.assert_allclose(network.parameters, expected, rtol=0, atol=1e-12)


def mapped_files():
    """Of mapped files a rank reads its own rows alone: in a file of its own, all others are NaN."""
    rows, size = 2000, 30
    x = np.random.default_rng(3).normal(size=(rows, 6))
    y = x[:, :2] ** 2
    is_known = np.isin(np.arange(rows), np.linspace(0, rows - 1, 256).astype(int))  # by the digest
    is_known[rows * RANK // SIZE : rows * (RANK + 1) // SIZE] = True  # checked
    for start in range(0, rows, size):
        n = min(size, rows - start)
        for a, b, k in ((RANK, RANK + 1, SIZE), (16 * RANK // SIZE, 16 * (RANK + 1) // SIZE, 16)):  # also of `exact`
            is_known[start + n * a // k : start + n * b // k] = True
    np.save(f"{FILE}{RANK}.npy", np.where(is_known[:, None], x, np.nan))
    assert not is_known.all()
    own, taken, take = np.load(f"{FILE}{RANK}.npy", mmap_mode="r"), [], RowReader.take

    def counting(self, index, out=None):
        taken.append(len(index))
        return take(self, index, out)

    options = {"batch_size": size, "epochs": 2, "shuffle": False}
    for exact in (False, True):
        network, alone = net(), net()
        alone.fit(x, y, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                RowReader, "take", lambda self, index, out=None: taken.append(len(index)) or take(self, index, out)
            )
            network.fit(own, y, parallel=mpi(exact=exact), **options)
        np.testing.assert_allclose(network.parameters, alone.parameters, rtol=0, atol=1e-12)
        same_on_all_ranks(network)
    assert sum(taken) < 1.2 * 4 * rows / SIZE  # of 2 runs of 2 epochs
    bad = np.load(f"{FILE}{RANK}.npy", mmap_mode="c")
    bad[1] = np.nan
    with pytest.raises(fastgd.RankError if RANK else ValueError, match=r"'X': expected finite.* at index \(1, 0\)"):
        net().fit(bad, y, parallel="mpi", **options)


def followers():
    """Callbacks run on rank 0 alone; the others follow its learning rate, its parameters and its stop."""
    seen = []

    def callback(run):
        seen.append(run.epoch)
        if run.epoch == 2:
            run.optimizer.learning_rate = 0.5
        if run.epoch == 4:
            run.network.parameters[:] = 0.25
            run.network.train_step(X[:5], Y[:5], fastgd.SGD(1e-3))
        return run.epoch == 6

    network, optimizer = net(), Adam(1e-2)
    history = network.fit(X, Y, optimizer=optimizer, batch_size=50, epochs=9, callbacks=callback, parallel="mpi")
    assert seen == ([1, 2, 3, 4, 5, 6] if RANK == 0 else [])
    assert (history.stopped, len(history.loss), optimizer.learning_rate) == ("callback", 6, 0.5)
    same_on_all_ranks(network)


def early_stopping():
    """All ranks stop after the same epoch, and keep the same best parameters."""
    network, alone = net(), net()
    options = {"batch_size": 20, "epochs": 100, "validation_fraction": 0.3, "patience": 3, "restore_best": True}
    history = network.fit(X, Y, optimizer=Adam(0.05), parallel="mpi", **options)
    other = alone.fit(X, Y, optimizer=Adam(0.05), **options)
    assert (history.stopped, history.best_epoch, len(history.loss)) == ("patience", other.best_epoch, len(other.loss))
    same_on_all_ranks(network)
    np.testing.assert_allclose(network.parameters, alone.parameters, rtol=0, atol=1e-9)


def statistics():
    """Each rank normalizes its own rows, which is not what one rank does; the running statistics become the same."""
    network = Network(6, [Dense(8), BatchNorm("relu"), Dense(2)], loss="mse", dtype="float64")
    alone = network.like()
    for one, parallel in ((network, "mpi"), (alone, None)):
        one.fit(X, Y, batch_size=40, epochs=3, validation_fraction=0.2, parallel=parallel)
    assert np.abs(network.parameters - alone.parameters).max() > 1e-6
    states = MPI.COMM_WORLD.allgather(network.state)
    assert all((state == states[0]).all() for state in states)
    assert np.abs(network.state[network.n_parameters :] - np.r_[np.zeros(8), np.ones(8)]).max() > 0.05


def saved():
    """The first half of a run."""
    net().fit(X, Y, optimizer=Adam(1e-2), batch_size=20, epochs=3, parallel="mpi", checkpoint=FILE)


def resumed():
    network, alone = net(), net()
    history = network.fit(X, Y, optimizer=Adam(1e-2), batch_size=20, epochs=6, parallel="mpi",
                          checkpoint=FILE if RANK == 0 else "elsewhere", resume=True)  # fmt: skip
    other = alone.fit(X, Y, optimizer=Adam(1e-2), batch_size=20, epochs=6)
    np.testing.assert_allclose(network.parameters, alone.parameters, rtol=0, atol=1e-11)
    np.testing.assert_allclose(history.loss, other.loss, rtol=1e-10)


def resumed_local_steps():
    """The outer momentum goes on."""
    settings = {"steps_between_syncs": 3, "outer_learning_rate": 0.7, "outer_momentum": 0.9}
    ends = []
    for stops in ((6,), (2, 6)):
        for i, epochs in enumerate(stops):
            network = net()
            network.fit(X, Y, optimizer=fastgd.SGD(0.05), batch_size=20, epochs=epochs, parallel=mpi(**settings),
                        checkpoint=f"{FILE}{len(stops)}", resume=i > 0)  # fmt: skip
        ends.append(network.parameters.copy())
    np.testing.assert_array_equal(*ends)


def diverges():
    network = net(dtype="float32")
    before = network.parameters.copy()
    try:
        network.fit(1e18 * X, Y, optimizer=fastgd.SGD(1e6), batch_size=20, epochs=3, parallel="mpi")
    except fastgd.DivergenceError as error:
        same_on_all_ranks(network)
        return str(error)
    raise AssertionError(before)


def warns():
    """Ranks that gain less than they must, whatever this machine's load, are warned; others are not."""
    for rank_steps.LEAST_GAIN, expected in ((0.0, 0), (np.inf, RANK == 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net().fit(X, Y, batch_size=2 * SIZE, epochs=5, parallel="mpi")
        assert len(caught) == expected
    assert all(warning.filename == __file__ for warning in caught)
    return str(caught[0].message) if RANK == 0 else None


def refuses():
    """Each difference is named on all ranks."""
    odd, network = RANK == SIZE - 1, net()
    cases = {
        "dtype": lambda: net(dtype="float32" if odd else "float64").fit(X, Y, parallel="mpi"),
        "seed": lambda: net(seed=2 if odd else 1).fit(X, Y, parallel="mpi"),
        "layers": lambda: Network(6, [Dense(2 + odd), Dense(2)], loss="mse").fit(X, Y, parallel="mpi"),
        "rows": lambda: net().fit(X[: 200 - odd], Y[: 200 - odd], parallel="mpi"),
        "data": lambda: net().fit(X + odd, Y, parallel="mpi"),
        "optimizer": lambda: net().fit(X, Y, optimizer=Adam(1e-3 * (1 + odd)), parallel="mpi"),
        "batch_size": lambda: net().fit(X, Y, batch_size=20 + odd, parallel="mpi"),
        "epochs": lambda: net().fit(X, Y, epochs=3 + odd, parallel="mpi"),
        "epochs of the network": lambda: trained(odd).fit(X, Y, parallel="mpi"),
        "callbacks": lambda: net().fit(X, Y, callbacks=every(2 + odd, print), parallel="mpi"),
        "checkpoint_every": lambda: net().fit(X, Y, checkpoint="x", checkpoint_every=1 + odd, parallel="mpi"),
        "patience": lambda: net().fit(X, Y, patience=2 + odd, parallel="mpi"),
        "outer_momentum": lambda: net().fit(X, Y, parallel=mpi(steps_between_syncs=2, outer_momentum=odd / 2)),
    }
    for name, call in cases.items():
        match = f"'{name}': expected the same on all ranks.*on rank {SIZE - 1}"
        with pytest.raises(ValueError, match=match):
            call()
    normed = Network(6, [Dense(3), BatchNorm(sync=True), Dense(2)], loss="mse")
    for options, name in (({"exact": True}, "'exact'"), ({"steps_between_syncs": 2}, "'sync'")):
        with pytest.raises(ValueError, match=name):
            normed.fit(X, Y, parallel=mpi(**options))
    network.fit(X, Y, epochs=1, parallel="mpi")  # and goes on after them
    rate = 1e-3 if odd else 1e-2
    with pytest.raises(ValueError, match="'parameters at the end': expected the same"):
        net().fit(X, Y, optimizer=Adam(lambda t: rate), epochs=1, parallel="mpi")
    for bad in ("x", "x" if odd else 20):  # on all ranks, and on one
        with pytest.raises((TypeError, fastgd.RankError), match="'batch_size'") as caught:
            net().fit(X, Y, batch_size=bad, parallel="mpi")
        assert caught.type is (fastgd.RankError if bad == 20 else TypeError)
    network.fit(X, Y, optimizer=Adam(lambda t: 1e-3), epochs=1, parallel="mpi")  # and goes on after them
    network.fit(X[: SIZE - 1], Y[: SIZE - 1], epochs=1, parallel="mpi")


def trained(epochs):
    network = net()
    network.fit(X, Y, epochs=int(epochs))
    return network


def fault():
    """The last rank does what the environment says, amid the training."""
    kind = os.environ["FAULT"]

    def act():
        if kind == "raise":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        os.kill(os.getpid(), {"die": signal.SIGKILL, "hang": signal.SIGSTOP, "raise": signal.SIGUSR1}[kind])

    def boom(*_):
        raise OSError("disk on fire")

    signal.signal(signal.SIGUSR1, boom)
    options = {"batch_size": "x"} if kind == "argument" and RANK == SIZE - 1 else {}
    if kind != "argument" and RANK == SIZE - 1:
        threading.Timer(1.5, act).start()
    try:
        net().fit(X, Y, epochs=10**7, parallel=mpi(timeout=2.0), checkpoint=FILE, **options)
    except fastgd.RankError as error:
        print(f"rank {RANK} learns: {error}", flush=True)
        raise SystemExit(3) from None


if __name__ == "__main__":
    found = globals()[sys.argv[1]]()
    if RANK == 0 and found:
        print(found)
