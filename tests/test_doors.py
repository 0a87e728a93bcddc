"""Evaluation, gradients and updates through the fast paths and around them: the same bits, the same errors, and
gradients from and to outside."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest
from cases import LAYERS, OPTIMIZERS

import fastgd
from fastgd import SGD, Adam, BatchNorm, Dense, Dropout, Flatten, Network, Reshape, Residual, Sequential, custom
from fastgd._plan import fix_threads
from fastgd.core.kernel import InOut, kernel
from fastgd.layers.base import Layer
from fastgd.torch import RecordedPass

pytestmark = pytest.mark.usefixtures("own_definitions")
ROWS = (1, 32, 300, 1)


def net(layers=None, *, inputs=6, loss="softmax_cross_entropy", **options):
    return Network(inputs, layers or [Dense(8, "tanh"), Dense(3)], loss=loss, **options)


def data(rng, rows, dtype="float32", inputs=6):
    """x, labels and probabilities."""
    shape = (inputs,) if isinstance(inputs, int) else inputs
    x = rng.normal(size=(rows, *shape)).astype(dtype)
    return x, rng.integers(0, 3, rows), rng.dirichlet(np.ones(3), rows).astype(dtype)


def flat(result):
    """The arrays and numbers of a result, in a list."""
    return [part for each in result for part in flat(each)] if isinstance(result, tuple | list) else [result]


def same(one, other):
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_array_equal(a, b, strict=isinstance(a, np.ndarray))


def everything(network, x, y, optimizer=None):
    """The results of all calls with a fast path."""
    out = np.empty((len(x), *network.output_shape), network.dtype)
    dy = np.linspace(-1, 1, out.size).reshape(out.shape).astype(network.dtype)
    results = [network.forward(x), network.predict(x), network.loss(x, y)]
    assert network.forward(x, out=out) is out
    results += [out.copy(), network.predict(x, out=out).copy()]
    for training in (False, True):
        results += [network.loss_and_gradient(x, y, training=training, minibatch=3)]
        results += [network.forward(x, training=training, record=True, minibatch=4, out=out).copy()]
        results += [network.backward(dy), network.gradient.copy()]
        assert network.backward(dy, input_gradient=False) is None
        results += [network.gradient.copy()]
    results += [network.state.copy()]
    if optimizer is not None:
        optimizer.step(network)
        results += [network.train_step(x, y, optimizer), network.state.copy()]
    return results


# ---- the same bits


@pytest.mark.parametrize("layer", LAYERS)
def test_fast_and_slow_ways_give_the_same_bits(layer, backend, dtype, rng):
    """A new network takes the slow way. Labels and probabilities alternate, and so do numbers of rows."""
    network = net([Dense(7, "tanh"), LAYERS[layer](), Dense(3)], dtype=dtype, backend=backend, l1=0.01, l2=0.1)
    for rows in ROWS if backend == "cython" else ROWS[:2]:  # only compiled backends have fast paths
        x, *targets = data(rng, rows, dtype)
        for y in targets:
            new = copy.deepcopy(network)
            same(everything(network, x, y), everything(new, x, y))


@pytest.mark.parametrize("loss", [name for name, loss in fastgd.losses.LOSSES.items() if loss.least_outputs == 1])
def test_losses_of_values(loss, dtype, rng):
    network, optimizer = net(loss=loss, dtype=dtype), Adam()
    for rows in ROWS:
        x, _, y = data(rng, rows, dtype)
        y = np.sign(y - 0.3) if loss == "hinge" else y
        new, new_optimizer = copy.deepcopy((network, optimizer))
        same(everything(network, x, y, optimizer), everything(new, x, y, new_optimizer))
    network = net([Dense(1)], loss=loss, dtype=dtype)
    for column in (y[:, :1], y[:, 0], y[:, :1]):  # the last axis may be left out
        same(everything(network, x, np.ascontiguousarray(column)), everything(copy.deepcopy(network), x, y[:, :1]))


class Own(np.ndarray):
    """A subclass."""


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:].view(x.dtype)[:] = x.reshape(-1)
    return raw[1:].view(x.dtype).reshape(x.shape)


def mapped(x, tmp_path):
    file = np.memmap(tmp_path / "x.bin", x.dtype, "w+", shape=x.shape)
    file[:] = x
    return file


KINDS = {
    "list": lambda x, path: x.tolist(),
    "float64": lambda x, path: x.astype(np.float64),
    "integers": lambda x, path: x.astype(np.int32),
    "strided": lambda x, path: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "reversed": lambda x, path: x[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran order": lambda x, path: np.asfortranarray(x),
    "big-endian": lambda x, path: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x, path: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "subclass": lambda x, path: x.view(Own),
    "view of a subclass": lambda x, path: np.asarray(x.view(Own)),
    "unaligned": lambda x, path: unaligned(x),
    "mapped": mapped,
    "view of mapped": lambda x, path: np.asarray(mapped(x, path)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_kind(kind, backend, dtype, rng, tmp_path):
    network, optimizer = net(dtype=dtype, backend=backend), Adam()
    x, labels, _ = data(rng, 40, dtype)
    x = np.rint(3 * x)  # integers are exact in all dtypes
    for _ in range(2):  # before and after a fast call
        new, new_optimizer = copy.deepcopy((network, optimizer))
        given = KINDS[kind](x, tmp_path)
        expected = everything(new, x, labels, new_optimizer)
        same(everything(network, given, labels, optimizer), expected)
        everything(network, x, labels, optimizer)


@pytest.mark.skipif(not hasattr(os, "truncate"), reason="files cannot be cut here")
def test_a_view_of_a_mapped_file_that_was_cut_is_refused(tmp_path):
    """Reading it would kill the process."""
    network, optimizer = net(inputs=1024), SGD(0.1)
    x, labels = mapped(np.ones((8, 1024), np.float32), tmp_path), np.zeros(8, int)
    view = np.asarray(x)
    for _ in range(2):
        everything(network, view, labels, optimizer)
        everything(network, np.ones((8, 1024), np.float32), labels, optimizer)
    x._mmap.resize  # noqa: B018 - the mapping is alive
    os.truncate(tmp_path / "x.bin", 4096)
    for call in (
        lambda: network.predict(view), lambda: network.loss(view, labels),
        lambda: network.loss_and_gradient(view, labels), lambda: network.forward(view, training=True),
        lambda: network.train_step(view, labels, optimizer),
    ):  # fmt: skip
        with pytest.raises(OSError, match=r"mapped array.*expected 32,768 bytes, got 4,096"):
            call()


SHAPED = {
    "last is a view": [Dense(12, "tanh"), Reshape((2, 6)), Dense(3), Flatten()],
    "last is a view of a view": [Dense(12, "tanh"), Reshape((2, 6)), Flatten(), Reshape((4, 3))],
    "first is a view": [Reshape((3, 2)), Dense(3), Flatten(), Dense(3)],
    "all are views of one": [Flatten(), Reshape((2, 3)), Dense(3), Flatten(), Reshape((6, 1)), Flatten()],
    "views in branches": [fastgd.Concatenate([Flatten()], [Dense(2), Flatten()]), Residual([Flatten(), Dense(8)])],
    "positions": [Reshape((3, 2)), Dense(4, "gelu"), Dense(3)],
}


@pytest.mark.parametrize("name", SHAPED)
def test_outputs_and_inputs_that_are_views(name, backend, dtype, rng):
    network, optimizer = net(SHAPED[name], loss="mse", dtype=dtype, backend=backend), SGD(0.01)
    for rows in (2, 300, 1, 2):
        x, y = data(rng, rows, dtype)[0], rng.normal(size=(rows, *network.output_shape)).astype(dtype)
        new, new_optimizer = copy.deepcopy((network, optimizer))
        same(everything(network, x, y, optimizer), everything(new, x, y, new_optimizer))
        z = network.forward(x)
        assert network.loss(x, y) == pytest.approx(np.mean((z - y) ** 2), rel=1e-6)
    expected = network.forward(x, record=True)
    dy = rng.normal(size=expected.shape).astype(dtype)
    dx = network.backward(dy)
    assert dx.shape == x.shape
    v = rng.normal(size=x.shape)
    h = 1e-5 if dtype == "float64" else 1e-2
    slope = (dy * (network.forward(x + h * v) - network.forward(x - h * v).astype(np.float64))).sum() / (2 * h)
    assert (dx * v).sum() == pytest.approx(slope, rel=1e-7 if dtype == "float64" else 2e-2, abs=1e-2 * (h > 1e-3))


@pytest.mark.usefixtures("every_step_is_shared")
@pytest.mark.parametrize("dtype", ["float32"])
def test_the_same_bits_for_any_number_of_threads(dtype, rng):
    """Work on both sides of the limit above which calls release the GIL and take the lock."""
    for width, rows in ((16, 70), (128, 300)):
        ends, (x, *targets) = [], data(rng, rows, dtype)
        for threads in (1, 2, 3, 7):
            layers = [Dense(width, "tanh"), BatchNorm(), Dropout(0.3), Dense(width, "gelu"), Dense(3)]
            network, optimizer = net(layers, dtype=dtype, num_threads=threads), Adam(clip_norm=0.5)
            ends.append([everything(network, x, targets[i % 2], optimizer) for i in range(3)])
        for end in ends[1:]:
            same(end, ends[0])


def test_the_loss_with_its_gradient_is_not_rounded_again(rng):
    network, x, y = net(loss="mse", dtype="float64"), rng.normal(size=(49, 6)), rng.normal(size=(49, 3))
    for rows in range(1, 50):
        network.parameters[:] = rng.normal(size=network.n_parameters)
        losses = {network.loss_and_gradient(x[:rows], y[:rows])[0] for _ in range(2)}
        losses.add(copy.deepcopy(network).loss_and_gradient(x[:rows], y[:rows])[0])
        assert len(losses) == 1


def test_a_step_reads_the_inputs_it_was_given(rng):
    """A step whose inputs are too large for the fast check takes another pass, which reads x in fewer places. The next
    steps read their own x in all places, and not in memory that may be free by then."""
    network, optimizer = net([Dense(300, "tanh"), Dense(300)], loss="mse"), SGD(1e-6)
    x, y = data(rng, 32)[0], np.zeros((32, 300), np.float32)
    large = np.full((32, 6), 1e19, np.float32)
    for _ in range(2):
        assert network.train_step(large, y, optimizer) > 0
        assert network.executor.plan.best_pass == "fused"
        assert network.executor.fast_step(x, y, optimizer) is not None
        assert network.executor.fast_step(large, y, optimizer) is None
        network.train_step(x, y, optimizer)


# ---- errors


def held(network, optimizer=None, *, gradient=True):
    """Copies of all that an error must not change. gradient: a step that diverges may change that."""
    state = [network.state.copy(), network.gradient.copy() if gradient else 0, network.minibatches]
    if optimizer is not None:
        state += [optimizer.steps, *(a.copy() for arrays in optimizer.state.values() for a in arrays)]
    return state


NAN, INF = np.full((5, 6), np.nan), np.zeros((5, 6))
INF[4, 5] = -np.inf
BAD_X = {
    "nan": (NAN, ValueError, r"'x'.*finite numbers, got nan at index \(0, 0\)"),
    "inf": (INF, ValueError, r"'x'.*finite numbers, got -inf at index \(4, 5\)"),
    "overflow": (np.full((5, 6), 1e300), ValueError, "'x'.*finite numbers, got inf"),
    "features": (np.zeros((5, 7)), ValueError, "'x'.*6 features.*7"),
    "axes": (np.zeros(6), ValueError, r"'x'.*2-D.*reshape\(1, -1\)"),
    "no rows": (np.zeros((0, 6)), ValueError, "'x'.*at least 1 row"),
    "text": (np.full((5, 6), "a"), TypeError, "'x'.*real numbers.*<U1"),
    "complex": (np.zeros((5, 6), complex), TypeError, "'x'.*real numbers.*complex"),
    "object": (np.zeros((5, 6), object), TypeError, "'x'.*real numbers.*object"),
    "masked": (np.ma.zeros((5, 6), np.float32), TypeError, "'x'.*without a mask"),
    "none": (None, TypeError, "'x'.*real numbers.*NoneType"),
}


def evaluations(network, x, labels, out):
    """Calls that change no parameters."""
    return [
        lambda: network.forward(x, out=out), lambda: network.predict(x, out=out), lambda: network.predict(x),
        lambda: network.forward(x, out=out, record=True), lambda: network.forward(x, out=out, training=True),
        lambda: network.loss(x, labels), lambda: network.loss_and_gradient(x, labels),
        lambda: network.loss_and_gradient(x, labels, training=True),
    ]  # fmt: skip


@pytest.mark.parametrize("case", BAD_X)
def test_bad_inputs_change_nothing(case, backend, rng):
    bad, error, match = BAD_X[case]
    network, optimizer = net([Dense(8, "tanh"), BatchNorm(), Dense(3)], backend=backend), Adam()
    x, labels, _ = data(rng, 5)
    for kind in (np.asarray, lambda a: np.asarray(a, "f4") if case in ("nan", "inf", "features") else a):
        for _ in range(2):
            before, out = held(network, optimizer), np.full((5, 3), 7, np.float32)
            with np.errstate(all="ignore"):
                given = bad if case in ("masked", "none") else kind(bad)
            for call in evaluations(network, given, labels, out):
                with pytest.raises(error, match=match):
                    call()
                same(held(network, optimizer), before)
            assert (out == 7).all()
            with pytest.raises(error, match=match):
                network.train_step(given, labels, optimizer)
            same(held(network, optimizer, gradient=False), [before[0], 0, *before[2:]])
            everything(network, x, labels, optimizer)  # the next calls are fast


def test_a_bad_row_in_a_later_block_leaves_out_as_it_was(backend, rng):
    network, (x, labels, _) = net(backend=backend), data(rng, 700)
    network.predict(x)
    x[699, 0] = np.nan
    out = np.full((700, 3), 7, np.float32)
    for call in (network.predict, network.forward):
        for options in ({}, {"out": out}):
            with pytest.raises(ValueError, match=r"'x'.*finite numbers, got nan at index \(699, 0\)"):
                call(x, **options)
    assert (out == 7).all()
    with pytest.raises(ValueError, match=r"'x'.*\(699, 0\)"):
        network.loss(x, labels)


def big_endian(x, path):
    return x.astype(x.dtype.newbyteorder(">"))


BAD_OUT = {
    "list": (lambda: [[0.0] * 3] * 5, TypeError),
    "dtype": (lambda: np.zeros((5, 3)), ValueError),
    "byte order": (lambda: np.zeros((5, 3), ">f4"), ValueError),
    "rows": (lambda: np.zeros((4, 3), "f4"), ValueError),
    "more rows": (lambda: np.zeros((6, 3), "f4"), ValueError),
    "columns": (lambda: np.zeros((5, 4), "f4"), ValueError),
    "axes": (lambda: np.zeros(15, "f4"), ValueError),
    "strided": (lambda: np.zeros((5, 6), "f4")[:, ::2], ValueError),
    "Fortran order": (lambda: np.zeros((5, 3), "f4", order="F"), ValueError),
    "unaligned": (lambda: unaligned(np.zeros((5, 3), "f4")), ValueError),
    "read-only": (lambda: np.frombuffer(bytes(60), "f4").reshape(5, 3), ValueError),
}


@pytest.mark.parametrize("case", BAD_OUT)
def test_bad_out(case, backend, rng):
    make, error = BAD_OUT[case]
    network, (x, _, _) = net(backend=backend), data(rng, 5)
    for _ in range(2):
        out = make()
        for options in ({}, {"record": True}, {"training": True}):
            with pytest.raises(error, match=r"'out'.*writable, C-contiguous, aligned float32 array of shape \(5, 3\)"):
                network.forward(x, out=out, **options)
        with pytest.raises(error, match="'out'"):
            network.predict(x, out=out)
        assert not np.any(out)
        network.predict(x)
        network.forward(x, record=True)


def test_out_that_overlaps_x(backend, rng):
    """All of x is read before out is written."""
    layers = [Dense(8, "tanh"), Dense(6)]
    for rows in (5, 700):
        network = net(layers, loss="mse", backend=backend)
        memory = np.zeros((rows + 1) * 6, np.float32)
        for options in ({}, {}, {"record": True}, {"record": True}):
            x, out = memory[:-6].reshape(rows, 6), memory[6:].reshape(rows, 6)
            x[:] = rng.normal(size=x.shape)
            expected = network.forward(x.copy())
            np.testing.assert_array_equal(network.forward(x, out=out, **options), expected)


BAD_LABELS = {"negative": -1, "too large": 3, "huge": 2**62}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_out_of_range_change_nothing(case, backend, rng):
    network, optimizer = net(backend=backend), Adam()
    x, labels, _ = data(rng, 5)
    bad = labels.copy()
    bad[3] = BAD_LABELS[case]
    refuse_targets(network, optimizer, x, labels, bad, rf"'y'.*integer labels in \[0, 2\], got {bad[3]} at index 3")


def refuse_targets(network, optimizer, x, good, bad, match):
    """Bad targets change nothing, before and after fast calls."""
    for _ in range(3):
        before = held(network, optimizer)
        for call in (
            lambda: network.loss(x, bad), lambda: network.loss_and_gradient(x, bad),
            lambda: network.loss_and_gradient(x, bad, training=True), lambda: network.train_step(x, bad, optimizer),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=match):
                call()
            same(held(network, optimizer), before)
        everything(network, x, good, optimizer)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("loss", fastgd.losses.LOSSES)
def test_targets_that_are_not_finite_change_nothing(loss, value, rng):
    of = fastgd.losses.LOSSES[loss]
    network, optimizer = net([Dense(8, "tanh"), Dense(3 * of.outputs_per_target)], loss=loss), Adam()
    x, _, y = data(rng, 5)
    y = np.ones_like(y) if loss == "hinge" else y
    bad = y.copy()
    bad[3, 1] = value
    refuse_targets(network, optimizer, x, y, bad, r"'y'.*at index (3|\(3, 1\))")


def test_targets_of_the_wrong_shape_are_refused_after_fast_calls(backend, rng):
    """Labels of rows with one position need their axis; only values may lack a last axis of one element."""
    network, optimizer = net([Dense(3)], inputs=(1, 6), backend=backend), SGD(0.1)
    x, labels = rng.normal(size=(5, 1, 6)).astype(np.float32), rng.integers(0, 3, (5, 1))
    match = r"'y'.*shape \(5, 1\) or.*got int64 array of shape \(5,\)"
    refuse_targets(network, optimizer, x, labels, labels[:, 0], match)
    network, optimizer = net([Dense(1)], loss="mse"), SGD(0.1)
    x, y = x[:, 0], rng.normal(size=(5, 1)).astype(np.float32)
    refuse_targets(network, optimizer, x, y, y[:4], r"'y'.*\(5, 1\).*\(4, 1\)")
    refuse_targets(network, optimizer, x, y, y[:, :, None], r"'y'.*\(5, 1\).*\(5, 1, 1\)")


FLAGS = {
    "training": lambda network, x, value: network.forward(x, training=value),
    "record": lambda network, x, value: network.forward(x, training=True, record=value),
    "input_gradient": lambda network, x, value: network.backward(np.zeros((5, 3), "f4"), input_gradient=value),
}


@pytest.mark.parametrize("value", ["no", 1, None, np.ones(2)])
@pytest.mark.parametrize("flag", FLAGS)
def test_flags_are_true_or_false(flag, value, rng):
    network, (x, _, _) = net(), data(rng, 5)
    for _ in range(2):
        network.forward(x, record=True)
        with pytest.raises(TypeError, match=f"'{flag}'.*True or False"):
            FLAGS[flag](network, x, value)


def test_flags_of_numpy_and_minibatches(backend, rng):
    network, (x, _, _) = net([Dense(8), Dropout(0.5), Dense(3)], backend=backend), data(rng, 5)
    for _ in range(2):
        same(network.forward(x, training=np.False_, record=np.bool_(False)), network.forward(x))
        masked = network.forward(x, training=np.True_)
        same(masked, network.forward(x, training=True, minibatch=np.int32(0)))
        assert network.backward(masked, input_gradient=np.bool_(False)) is None
        assert not np.array_equal(masked, network.forward(x, training=True, minibatch=1))
        with pytest.raises(ValueError, match="'minibatch'.*None without training=True or record=True, got 1"):
            network.forward(x, minibatch=1)
        for bad, error in ((-1, ValueError), (2**63, ValueError), (1.0, TypeError), (True, TypeError)):
            with pytest.raises(error, match="'minibatch'.*integer"):
                network.forward(x, record=True, minibatch=bad)


# ---- gradients from and to outside


BAD_DY = {
    "nan": (lambda dy: dy * np.nan, ValueError, "'dy'.*finite numbers, got nan"),
    "inf": (lambda dy: np.where(np.arange(3) == 2, -np.inf, dy), ValueError, r"'dy'.*finite.*got -inf at index \(0, 2"),
    "overflow": (lambda dy: np.full(dy.shape, 1e300), ValueError, "'dy'.*finite numbers, got inf"),
    "rows": (lambda dy: dy[:4], ValueError, r"'dy'.*\(5, 3\), as forward returned.*\(4, 3\)"),
    "columns": (lambda dy: dy[:, :2], ValueError, r"'dy'.*\(5, 3\).*\(5, 2\)"),
    "axes": (lambda dy: dy[..., None], ValueError, r"'dy'.*\(5, 3\).*\(5, 3, 1\)"),
    "none": (lambda dy: None, TypeError, "'dy'.*real numbers"),
    "text": (lambda dy: dy.astype(str), TypeError, "'dy'.*real numbers"),
    "masked": (lambda dy: np.ma.array(dy), TypeError, "'dy'.*mask"),
}


@pytest.mark.parametrize("case", BAD_DY)
def test_bad_gradients_from_outside_change_nothing(case, backend, rng):
    make, error, match = BAD_DY[case]
    network, (x, _, dy) = net(backend=backend), data(rng, 5)
    for training in (True, False, True):
        network.forward(x, training=training, record=True)
        expected = network.backward(dy), network.gradient.copy()
        for kind in (np.asarray, lambda a: np.asarray(a, "f4")) if case in ("nan", "inf", "rows") else (lambda a: a,):
            with pytest.raises(error, match=match):
                network.backward(kind(make(dy)))
            same(network.gradient, expected[1])
        same((network.backward(dy.tolist()), network.gradient), expected)  # the pass may still be followed


def between(network, x, labels, optimizer):
    """Calls between forward and backward: what they are, whether backward is allowed after them."""
    other = copy.deepcopy(network)
    yield "nothing", lambda: None, True
    yield "predict", lambda: network.predict(x), True
    yield "more rows", lambda: network.predict(np.repeat(x, 100, 0)), True
    yield "loss", lambda: network.loss(x, labels), True
    yield "loss of probabilities", lambda: network.loss(x, np.eye(3)[labels]), True
    yield "evaluate", lambda: network.evaluate(x, labels, metrics=["accuracy"]), True
    yield "copy", lambda: copy.deepcopy(network), True
    yield "describe", lambda: network.describe(), True
    yield "copy to another", lambda: other.copy_from(network), True
    yield "refused predict", lambda: refused(lambda: network.predict(NAN)), True
    yield "refused forward", lambda: refused(lambda: network.forward(x[:, :3], record=True)), True
    yield "refused copy", lambda: refused(lambda: network.copy_from(net([Dense(3)]))), True
    yield "refused copy in use", lambda: refused_in_use(network, other), True
    yield "backward", lambda: network.backward(np.ones((len(x), 3))), True
    yield "loss_and_gradient", lambda: network.loss_and_gradient(x, labels), False
    yield "its training mode", lambda: network.loss_and_gradient(x, labels, training=True), False
    yield "of probabilities", lambda: network.loss_and_gradient(x, np.eye(3)[labels]), False
    yield "train_step", lambda: network.train_step(x, labels, optimizer), False
    yield "step", lambda: optimizer.step(network), False
    yield "fit", lambda: network.fit(x, labels, epochs=1), False
    yield "copy_from", lambda: network.copy_from(other), False
    yield "soft copy_from", lambda: network.copy_from(other, 0.5), False


def refused(call):
    with pytest.raises((ValueError, TypeError)):
        call()


def refused_in_use(network, other):
    """`other` may not be read in the middle of its evaluation."""
    called = []

    def metric(y, prediction):
        with pytest.raises(RuntimeError, match="evaluate, but not train"):
            other.copy_from(network)
        called.append(True)
        return 0.0

    other.evaluate(np.zeros((1, 6)), [0], metrics=[metric])
    assert called


@pytest.mark.parametrize("training", [False, True])
def test_what_may_come_between_forward_and_backward(training, backend, rng):
    network = net([Dense(8, "tanh"), Dropout(0.2), BatchNorm(), Dense(3)], backend=backend)
    optimizer, (x, labels, dy) = Adam(), data(rng, 5)
    with pytest.raises(RuntimeError, match="backward: expected a call of forward with.* got no such call"):
        network.backward(dy)
    network.predict(x)
    with pytest.raises(RuntimeError, match="got no such call"):
        network.backward(dy)
    for _ in range(2):
        for name, call, allowed in between(network, x, labels, optimizer):
            for start in (copy.deepcopy(network), network):  # without fast paths, and with them
                if start is not network and (name.startswith("refused copy") or not allowed):
                    continue
                network.forward(x, training=training, record=True)
                expected = network.backward(dy), network.gradient.copy()
                network.forward(x, training=training, record=True)
                call()
                if allowed:
                    same((network.backward(dy), network.gradient), expected)
                else:
                    before = network.gradient.copy()
                    with pytest.raises(
                        RuntimeError, match="backward: expected.*got (no such call|a training step since)"
                    ):
                        network.backward(dy)
                    same(network.gradient, before)


def test_a_first_evaluation_does_not_end_a_forward_pass(backend, rng):
    """Nor does it take the fast path of forward away."""
    x, labels, dy = data(rng, 5)
    for call in (lambda it: it.predict(x), lambda it: it.loss(x, labels), lambda it: it.loss(x, dy)):
        network = net(backend=backend)
        for training in (False, True):
            network.forward(x, training=training, record=True)
            call(network)
            network.backward(dy)
            plan = network.executor._recorders.get(training)
            assert backend == "numpy" or plan.fast_record.record(x, None, -1) is not None


def test_averaged_parameters_end_a_forward_pass(rng):
    network, optimizer, (x, labels, dy) = net(), SGD(0.1, ema_decay=0.5), data(rng, 5)
    network.train_step(x, labels, optimizer)
    for _ in range(2):
        network.forward(x, record=True)
        with optimizer.averaged(network), pytest.raises(RuntimeError, match="got no such call"):
            network.backward(dy)
        with optimizer.averaged(network):
            network.forward(x, record=True)
        with pytest.raises(RuntimeError, match="got no such call"):
            network.backward(dy)


def central(function, array, indices, step=1e-3):
    """Fourth-order central differences with respect to elements of an array."""
    slopes = []
    for i in indices:
        held, values = array.flat[i], []
        for factor in (2, 1, -1, -2):
            array.flat[i] = held + factor * step
            values.append(function())
        array.flat[i] = held
        slopes.append((8 * (values[1] - values[2]) - (values[0] - values[3])) / (12 * step))
    return np.array(slopes)


NESTED = {
    **{name: lambda make=make: [Dense(7), make(), Dense(3)] for name, make in LAYERS.items()},
    **{f"{name} first": lambda make=make: [make(), Dense(3)] for name, make in LAYERS.items()},
    **{f"{name} last": lambda make=make: [Dense(3, "silu"), make()] for name, make in LAYERS.items()},
    **{
        f"{name} nested": lambda make=make: [
            Residual([Sequential([make(), Dense(6)])]), fastgd.Concatenate([make()], [Residual([make(), Dense(6)])]),
        ]
        for name, make in LAYERS.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NESTED)
def test_gradients_are_those_of_differences(name, training, rng):
    """dx and the gradient of sum(dy outputs) plus the penalty; twice, and without dx; the slow way and the fast."""
    network = net(NESTED[name](), loss="mse", dtype="float64", l2=0.1)
    network.parameters[:] += 0.1 * rng.normal(size=network.n_parameters)
    x = rng.normal(size=(5, 6))
    for _ in range(2):
        y = network.forward(x, training=training, record=True, minibatch=3)
        dy = np.cos(np.arange(y.size)).reshape(y.shape)
        dx, gradient = network.backward(dy), network.gradient.copy()
        assert network.backward(dy, input_gradient=False) is None
        same(network.gradient, gradient)
        same((network.backward(dy), network.gradient), (dx, gradient))

    def value():
        w = network.parameters[: network.n_weights]
        outputs = network.forward(x, training=training, record=True, minibatch=3)
        return (dy * outputs).sum() + 0.05 * (w * w).sum()

    some = rng.choice(network.n_parameters, 10)
    np.testing.assert_allclose(dx.flat[:12], central(value, x, range(12)), rtol=0, atol=1e-7)
    np.testing.assert_allclose(gradient[some], central(value, network.parameters, some), rtol=0, atol=1e-7)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_from_outside_are_those_of_the_loss(layer, backend, dtype, rng):
    """dy of the loss's own kernel gives the bits of loss_and_gradient."""
    network = net([Dense(7, "tanh"), LAYERS[layer](), Dense(3)], dtype=dtype, backend=backend, l1=0.01)
    for rows in (7, 1, 32):
        x, labels, _ = data(rng, rows, dtype)
        for training in (False, True):
            _, expected = network.loss_and_gradient(x, labels, training=training, minibatch=2)
            y = network.forward(x, training=training, record=True, minibatch=2)
            network.backward(loss_slope(network, y, labels))
            same(network.gradient, expected)


def loss_slope(network, z, labels):
    """The gradient of the mean loss with respect to raw outputs, by the loss's kernel."""
    kernel, weight, losses, dy = network.loss_function.kernels[0], *np.ones((2, len(z)), z.dtype), np.empty_like(z)
    weight /= len(z)
    kernel.body(network.backend)(losses, dy, z, labels, weight, *network.loss_function.parameters.values())
    return dy


OPTIONS = {
    "plain": {},
    "accumulate": {"accumulate": 3},
    "clip_norm": {"clip_norm": 0.05},
    "clip_value": {"clip_value": 0.01},
    "average": {"ema_decay": 0.9},
    "factors": {"learning_rate_factors": {"w1": 0.0, "b4": 0.5}},
    "decoupled decay": {"weight_decay": 0.1, "decoupled": True, "decay_biases": False},
    "decay": {"weight_decay": 0.1, "decoupled": False},
    "8bit": {"state_dtype": "8bit"},
    "bfloat16": {"state_dtype": "bfloat16", "clip_norm": 0.1, "accumulate": 2},
}
STEPS = [(name, "plain") for name in OPTIMIZERS] + [("AdamW", options) for options in OPTIONS if options != "plain"]


def steps_from_outside(network, optimizer, batches, save=None):
    for i, (x, labels) in enumerate(batches):
        y = network.forward(x, training=True)
        if i % 2:
            network.predict(x)
        network.backward(loss_slope(network, y, labels), input_gradient=i % 3 == 0)
        optimizer.step(network)
        if save is not None and i == 2:
            network.save(save, optimizer=optimizer)
            network, optimizer = fastgd.load(save, backend=network.backend)
    return network, optimizer


@pytest.mark.parametrize(("name", "options"), STEPS)
def test_a_step_from_outside_is_a_training_step(name, options, backend, rng, tmp_path):
    """With Dropout's masks, BatchNorm's statistics and a schedule; also across a save."""
    layers = [Dense(7, "tanh"), Dropout(0.3), BatchNorm("tanh"), Dense(3)]
    rate = fastgd.schedules.cosine(0.01, 5, warmup_steps=2)
    batches = [data(rng, rows)[:2] for rows in (7, 7, 1 + 32, 5, 2, 7)]
    ends = []
    for way in ("train_step", "outside", "saved"):
        network, optimizer = net(layers, backend=backend, l2=0.01), OPTIMIZERS[name](rate, **OPTIONS[options])
        if way == "train_step":
            for x, labels in batches:
                network.train_step(x, labels, optimizer)
        else:
            save = tmp_path / "saved" if way == "saved" else None
            network, optimizer = steps_from_outside(network, optimizer, batches, save)
        ends.append([*held(network, optimizer)[2:], network.state])
    same(ends[1], ends[0])
    same(ends[2], ends[0])


@pytest.mark.parametrize("layers", [[Dense(3)], [Dense(200, "tanh"), Dense(400, "relu"), Dense(3)]])
def test_steps_of_one_row_and_of_large_layers(layers, rng):
    """Whatever pass train_step takes, the bits are the same."""
    for make in (lambda: SGD(0.1), lambda: Adam(), lambda: SGD(0.1, momentum=0.9)):
        one, other = (net(layers) for _ in range(2))
        optimizers = make(), make()
        batches = [data(rng, rows)[:2] for rows in (1, 1, 1, 20, 1)]
        for x, labels in batches:
            one.train_step(x, labels, optimizers[0])
        steps_from_outside(other, optimizers[1], batches)
        same(one.parameters, other.parameters)


def test_a_schedule_of_the_user_is_called_once_a_step(backend, rng):
    network, called, (x, _, dy) = net(backend=backend), [], data(rng, 5)
    optimizer = SGD(lambda step: called.append((step, float(network.loss_and_gradient(x, dy)[0]))) or 0.1)
    twin = net(backend=backend)
    twin_optimizer = SGD(0.1)
    for i in range(4):
        for one, its_optimizer in ((network, optimizer), (twin, twin_optimizer)):
            one.forward(x, training=True)
            one.backward(dy)
            its_optimizer.step(one)  # with the gradient of `backward`, whatever the schedule asks the network
        assert [step for step, _ in called] == list(range(i + 1))
        same(network.parameters, twin.parameters)
    gradient = network.gradient.copy()
    for bad, error in ((-1.0, ValueError), (np.nan, ValueError), ("fast", TypeError)):
        optimizer.learning_rate = lambda step, bad=bad: (
            called.append(step) or (network.loss_and_gradient(x, dy) and bad)
        )
        before = len(called)
        with pytest.raises(error, match=r"'learning_rate \(of step 5\)'"):
            optimizer.step(network)
        assert len(called) == before + 1
        same(network.gradient, gradient)


def test_steps_of_a_bad_gradient_change_nothing(backend, rng):
    network, optimizer, (x, labels, dy) = net(backend=backend), Adam(), data(rng, 5)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        for _ in range(2):
            network.forward(x, training=True)
            network.backward(dy)
            optimizer.step(network)
            network.train_step(x, labels, optimizer)
            network.gradient[7] = bad
            before = held(network, optimizer)
            with pytest.raises(fastgd.DivergenceError, match=f"diverged at update {optimizer.steps + 1}") as caught:
                optimizer.step(network)
            same(held(network, optimizer), before)
            assert (caught.value.loss, caught.value.minibatch) == (None, network.minibatches + 1)


def test_steps_that_are_refused(backend, rng):
    network, optimizer, (x, _, dy) = net(backend=backend), Adam(), data(rng, 5)
    for _ in range(2):
        network.forward(x, training=True)
        network.backward(dy)
        before = held(network, optimizer)
        for call, error, match in (
            (lambda: optimizer.step(network, num_threads=2), ValueError, "'num_threads'.*None for a network.*2"),
            (lambda: optimizer.step(network, backend="numpy"), ValueError, "'backend'.*'auto' for a network.*numpy"),
            (lambda: optimizer.step(network, [network.gradient]), (TypeError, ValueError), "'params'"),
            (lambda: optimizer.step(dy), TypeError, "'grads'.*arrays like params"),
            (lambda: optimizer.step(None), TypeError, "'params'.*a network"),
            (lambda: Adam(learning_rate_factors={"w9": 1.0}).step(network), ValueError, "'learning_rate_factors'.*w9"),
        ):
            with pytest.raises(error, match=match):
                call()
            same(held(network, optimizer), before)
        optimizer.step(network)
        with pytest.raises(ValueError, match="'optimizer'.*drives no other network"):
            optimizer.step(net(backend=backend))


def test_two_optimizers_take_turns(backend, rng):
    """The fast path of one is not the other's."""
    ends = []
    for drops in (False, True):
        network, optimizers, (x, labels, dy) = (
            net(backend=backend),
            (Adam(), SGD(0.1)),
            data(np.random.default_rng(5), 5),
        )
        for i in (0, 0, 0, 1, 0, 1, 1, 1, 0, 0):
            network.forward(x, training=True)
            network.backward(dy)
            optimizers[i].step(network)
            network.train_step(x, labels, optimizers[1 - i])
            if drops:
                network.executor.drop_plans()
        ends.append(network.parameters)
    same(*ends)


# ---- copies


def test_copies_between_networks(backend, dtype, rng):
    for layers in ([Dense(8, "tanh"), BatchNorm(), Dense(3)], [Dense(300), BatchNorm(), Dense(300), Dense(3)]):
        p, q = (net(layers, dtype=dtype, backend=backend, seed=seed) for seed in (1, 2))
        q.state[q.n_parameters :] = rng.uniform(1, 2, q.state.size - q.n_parameters)
        for rate in (0.25, np.float32(0.25), 0, 1e-3):
            expected = p.state + p.dtype.type(1 - (1 - float(rate))) * (q.state - p.state)
            p.copy_from(q, rate)
            np.testing.assert_allclose(p.state, expected, rtol=0, atol=4 * np.finfo(dtype).eps)
        source = q.state.copy()
        for rate in (1, 1.0, np.float64(1)):
            p.parameters[:] = 0
            p.copy_from(q, rate)
            same((p.state, q.state), (source, source))
        p.copy_from(p, 0.5)
        same(p.state, source)
        same(p.predict(np.ones((2, 6))), q.predict(np.ones((2, 6))))


class OwnNetwork(Network):
    """A subclass."""


def test_copies_that_are_refused(rng):
    network = net()
    before = network.state.copy()
    for rate, error in ((-1e-9, ValueError), (1.1, ValueError), (np.nan, ValueError), (True, TypeError),
                        ("1", TypeError), (None, TypeError), (np.True_, TypeError)):  # fmt: skip
        with pytest.raises(error, match="'rate'.*finite number in"):
            network.copy_from(net(seed=1), rate)
    for other, error in (
        (net(dtype="float64"), ValueError), (net([Dense(3)]), ValueError), (net(inputs=7), ValueError),
        (net([Dense(8), BatchNorm(), Dense(3)]), ValueError), (None, TypeError), (network.parameters, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="'other'.*[nN]etwork"):
            network.copy_from(other)
    same(network.state, before)
    network.copy_from(OwnNetwork(6, [Dense(8), Dense(3)], loss="mse", seed=1))  # the same arrays
    assert not np.array_equal(network.state, before)


# ---- passes that others may come between (modules of torch are made of these)


@pytest.mark.parametrize("training", [False, True])
def test_recorded_passes_in_any_order(training, backend, rng):
    """The backward pass of each is that of its own forward pass, with its masks and statistics; statistics stay."""
    network = net([Dense(8, "tanh"), Dropout(0.4), BatchNorm(), Dense(3)], backend=backend)
    for _ in range(2):
        rows = [data(rng, rows)[0] for rows in (5, 5, 40)]
        twins, passes = [], []
        for i, x in enumerate(rows):
            twins.append(copy.deepcopy(network))
            passes.append(RecordedPass(network, x, training=training, minibatch=i))
            same(passes[-1].y, twins[-1].forward(x, training=training, record=True, minibatch=i))
        network.statistics["mean3"][:] += 1  # what another call in training mode changes
        for i in (2, 0, 1, 0, 0, 2):
            dy, state = rng.normal(size=passes[i].y.shape), network.state.copy()
            same(passes[i].backward(rows[i], dy, True), twins[i].backward(dy))
            same((network.gradient, network.state), (twins[i].gradient, state))
            assert passes[i].backward(rows[i], dy, False) is None
            same((network.gradient, network.state), (twins[i].gradient, state))
            if i == 1:
                network.forward(rows[0], record=True)
                network.loss_and_gradient(rows[0], [0] * 5, training=training)


def test_recorded_passes_end_with_the_parameters(backend, rng):
    network, optimizer, (x, labels, dy) = net(backend=backend), SGD(0.1, ema_decay=0.5), data(rng, 5)
    network.train_step(x, labels, optimizer)
    for change in (
        lambda: network.train_step(x, labels, optimizer), lambda: optimizer.step(network),
        lambda: network.copy_from(net(seed=1)), lambda: optimizer.averaged(network).__enter__(),
    ):  # fmt: skip
        one, other = (RecordedPass(network, x, training=True, minibatch=0) for _ in range(2))
        change()
        for made in (other, one):
            with pytest.raises(RuntimeError, match="as_module: expected .* got an update of the network since"):
                made.backward(x, dy, True)


# ---- locks


def refused_elsewhere(calls):
    """Makes calls from another thread, which all must be refused."""
    errors = []

    def run():
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(errors) == len(calls)
    assert all("in use by another call" in error for error in errors)


def test_calls_while_the_network_is_in_use(backend, rng):
    """From a callback of fit, which may do anything; from another thread, which may do nothing; from a metric, which
    may evaluate and, with a gradient in evaluation mode, go back."""
    network, other, optimizer = net([Dense(8), BatchNorm(), Dense(3)], backend=backend), net(backend=backend), Adam()
    x, labels, dy = data(rng, 5)
    everything(network, x, labels, optimizer)
    calls = [
        lambda: network.predict(x), lambda: network.forward(x), lambda: network.loss(x, labels),
        lambda: network.loss_and_gradient(x, labels), lambda: network.forward(x, record=True),
        lambda: network.forward(x, training=True), lambda: network.backward(dy), lambda: optimizer.step(network),
        lambda: network.copy_from(copy_of), lambda: copy_of.copy_from(network), lambda: pickle.dumps(network),
    ]  # fmt: skip
    copy_of, seen = copy.deepcopy(network), []

    def callback(run):
        network.forward(x, record=True)
        before = network.state.copy()
        refused_elsewhere(calls)
        same(network.state, before)
        network.backward(dy)
        twin = copy.deepcopy(network)
        for _ in range(2):
            same(everything(network, x, labels), everything(twin, x, labels))
        network.forward(x, training=True)
        network.backward(dy)
        seen.append(network.predict(x))

    network.fit(x, labels, epochs=2, optimizer=optimizer, callbacks=[callback])
    assert len(seen) == 2

    def metric(y, prediction):
        before = network.state.copy()
        for call in calls[5:9]:
            if call is not calls[6]:
                with pytest.raises(RuntimeError, match="evaluate, but not train"):
                    call()
        for call in calls[:5]:
            call()
        network.backward(dy)
        refused_elsewhere(calls[:7])
        same(network.state, before)
        return 0.0

    network.forward(x, record=True)
    network.evaluate(x, labels, metrics=[metric])
    everything(network, x, labels, optimizer)
    assert other.predict(x).shape == (5, 3)


def test_threads_that_call_one_network(rng):
    """Calls above the limit release the GIL: each gives the right result or is refused."""
    network = net([Dense(256, "tanh"), Dense(256, "tanh"), Dense(3)])
    x, labels, _ = data(rng, 100)
    expected = {
        "predict": network.predict(x), "loss": network.loss(x, labels),
        "gradient": network.loss_and_gradient(x, labels),
    }  # fmt: skip
    calls = {
        "predict": lambda: network.predict(x), "loss": lambda: network.loss(x, labels),
        "gradient": lambda: network.loss_and_gradient(x, labels),
    }  # fmt: skip
    wrong, refusals = [], []

    def run(name):
        for _ in range(15):
            try:
                result = calls[name]()
            except RuntimeError as error:
                refusals.append(str(error))
                continue
            if not all(np.array_equal(a, b) for a, b in zip(flat(result), flat(expected[name]), strict=True)):
                wrong.append(name)

    threads = [threading.Thread(target=run, args=[name]) for name in [*calls, *calls]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all("in use by another call" in text for text in refusals)


def test_copies_after_fast_calls(rng):
    network, optimizer, (x, labels, dy) = net([Dense(8), BatchNorm(), Dropout(0.5), Dense(3)]), Adam(), data(rng, 5)
    for _ in range(3):
        everything(network, x, labels, optimizer)
        network.forward(x, training=True)
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert twin.minibatches == network.minibatches
            same(twin.gradient, network.gradient)
            with pytest.raises(RuntimeError, match="got no such call"):
                twin.backward(dy)
            same(everything(twin, x, labels), everything(copy.deepcopy(network), x, labels))
        network.backward(dy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on(rng):
    network, optimizer, (x, labels, dy) = net([Dense(200, "tanh"), Dense(3)], num_threads=2), Adam(), data(rng, 1000)
    fix_threads(True)
    try:
        for _ in range(2):
            everything(network, x, labels, optimizer)
        network.forward(x, training=True)
        expected = copy.deepcopy(network)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                network.backward(dy)
                same(everything(network, x, labels), everything(expected, x, labels))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        network.backward(dy)
    finally:
        fix_threads(False)


# ---- users' functions

BOUND = 1e9


def failing(x):
    if x > BOUND:
        raise ValueError("too large")
    return 2 * x


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_users_functions_that_raise(backend, monkeypatch, rng):
    """In forward, from any call, before and after fast calls, in one block and in two: nothing has changed."""
    activation = custom.activation(failing, derivative=lambda x: 2.0)
    for rows in (5, 300):
        network = net([Dense(100), BatchNorm(), Dense(100, activation), Dense(3)], backend=backend)
        x, labels, _ = data(rng, rows)
        out, optimizer = np.full((rows, 3), 7, np.float32), SGD(1e-3)
        for limit in (1e9, 0.0):
            monkeypatch.setattr(f"{__name__}.BOUND", limit)
            if limit:
                everything(network, x, labels, optimizer)
                continue
            before = held(network, optimizer)
            for call in evaluations(network, x, labels, out):
                for _ in range(2):
                    with pytest.raises(ValueError, match="too large") as caught:
                        call()
                    assert any("raised in kernel" in note for note in caught.value.__notes__)
                    same(held(network, optimizer), before)
            assert (out == 7).all()
            with pytest.raises(ValueError, match="too large"):
                network.train_step(x, labels, optimizer)
            same(held(network, optimizer), before)


class Picky(Layer):
    """The identity; a kernel of its backward pass raises for large numbers."""

    def forward(self, plan, path, x):
        return x

    def backward(self, plan, path, x, dy, is_wanted):
        plan.add("backward", fastgd.kernels.picky, dy)
        return dy


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_kernels_that_raise_on_the_way_back(backend, rng):
    """The exception is the user's; the gradient stays as it was, and the forward pass may be followed again."""

    @kernel
    def picky(dy: InOut("rows", "n")):
        """Nothing."""
        if dy.max() > BOUND:
            raise ZeroDivisionError("too large")

    picky.loop(picky.reference)
    network, (x, _, dy) = net([Dense(8), Picky(), Dense(3)], backend=backend), data(rng, 5)
    for _ in range(2):
        network.forward(x, record=True)
        expected = network.backward(dy), network.gradient.copy()
        for to_input in (True, False, True):
            with pytest.raises(ZeroDivisionError, match="too large"):
                network.backward(1e12 * np.ones((5, 3)), input_gradient=to_input)
            same(network.gradient, expected[1])
        same((network.backward(dy), network.gradient), expected)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_links_and_losses_of_the_user(backend, rng):
    """Losses must notice targets that are not finite or no labels, for which they may return a finite number, or read
    memory that is not theirs."""

    @custom.loss
    def margins(z, y, dz):
        total = 0.0
        for j in range(z.size):
            if y[j] == 9:
                raise ValueError("no such target")
            margin = 1.0 - z[j] * y[j]
            dz[j] = -np.sign(y[j]) if margin > 0 else 0.0
            total += margin if margin > 0 else 0.0
        return total

    @custom.loss(labels=True, link=fastgd.kernels.softmax_forward)
    def linear(z, y, dz):
        for j in range(z.size):
            dz[j] = 0.0
        dz[y] = -1.0
        return -z[y]

    x, labels, _ = data(rng, 5)
    network, optimizer = net(loss=margins, backend=backend), SGD(1e-3)
    y = np.where(network.forward(x) > 0, 1, -1).astype(np.float32)
    for bad in (np.inf, -np.inf):
        refuse_targets(network, optimizer, x, y, np.where(y * np.sign(bad) > 0, bad, y), "'y'.*finite")
    refuse_targets(network, optimizer, x, y, np.where(y > 0, 9, y).astype(np.float32), "no such target")
    network, optimizer = net(loss=linear, backend=backend), SGD(1e-3)
    np.testing.assert_allclose(network.predict(x).sum(axis=1), 1, rtol=1e-6)
    for bad in (-1, 3, 2**40):
        wrong = labels.copy()
        wrong[4] = bad
        refuse_targets(network, optimizer, x, labels, wrong, rf"'y'.*labels in \[0, 2\], got {bad} at index 4")


FACTOR, ELEMENTS = 2.0, np.array([2.0])


def by_factor(x):
    return FACTOR * x


def by_element(x):
    return ELEMENTS[0] * x


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("function", [by_factor, pytest.param(by_element, marks=pytest.mark.slow)])
def test_functions_that_change_between_calls(function, backend, monkeypatch, rng):
    slope = (lambda x: FACTOR) if function is by_factor else (lambda x: ELEMENTS[0])
    activation = custom.activation(function, derivative=slope)
    network, (x, labels, dy) = net([Dense(5, activation), Dense(3)], backend=backend, dtype="float64"), data(rng, 5)
    for factor in (2.0, 2.0, 7.0, 7.0, 0.5):
        monkeypatch.setattr(f"{__name__}.FACTOR", factor)
        monkeypatch.setattr(f"{__name__}.ELEMENTS", np.array([factor]))
        plain = net([Dense(5), fastgd.Standardize(0, factor), Dense(3)], dtype="float64")
        plain.parameters[:] = network.parameters
        for one, other in zip(flat(everything(network, x, labels)), flat(everything(plain, x, labels)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    if backend == "cython":
        network.forward(x, record=True)
        monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
        monkeypatch.setattr(f"{__name__}.ELEMENTS", np.array([3.0]))
        with pytest.raises(RuntimeError, match="got other functions of yours since"):
            network.backward(dy)


def test_backward_never_continues_the_pass_of_another_plan(rng):
    """As after Ctrl-C between the native pass of `forward` and the line that notes its plan."""
    network, (x, _, dy) = net(), data(rng, 400)
    for rows in (4, 400):
        network.forward(x[:rows], training=rows == 4, record=rows == 400)
        network.forward(x[:rows], training=rows == 4, record=rows == 400)
        if rows == 4:
            first = network.executor._recorded
    network.executor._recorded = first
    with pytest.raises(RuntimeError, match="got no such call"):
        network.backward(dy)


def test_refused_calls_keep_the_plans(rng):
    network, (x, labels, _) = net(), data(rng, 5)
    optimizer, busy = Adam(), network.like()
    network.train_step(x, labels, optimizer)
    network.loss_and_gradient(x, labels)
    network.forward(x, training=True)
    plans = network.executor.plan, network.executor.evaluation_plan(), network.executor.gradient_plan(1, True)
    bad = np.full_like(x, np.nan)
    for call in (
        lambda: network.predict(bad), lambda: network.forward(bad), lambda: network.loss(bad, labels),
        lambda: network.loss_and_gradient(bad, labels), lambda: network.forward(bad, record=True),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="'x'.*nan"):
            call()
    with busy.executor.lock, pytest.raises(RuntimeError, match="already in use"):
        network.copy_from(busy, 0.5)
    assert not network.executor.lock.disturbed
    now = network.executor.plan, network.executor.evaluation_plan(), network.executor.gradient_plan(1, True)
    assert all(one is other for one, other in zip(plans, now, strict=True))


class Tensor:
    """What other libraries' arrays are to numpy; their `size` is a method."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array

    def size(self):
        return self.array.shape


def test_arrays_of_other_libraries(rng):
    network, (x, labels, _) = net(), data(rng, 5)
    x, same_x = Tensor(x), x
    assert network.loss(x, labels) == network.loss(same_x, labels)
    same(network.loss_and_gradient(x, labels), network.loss_and_gradient(same_x, labels))
    same(network.predict(x), network.predict(same_x))
