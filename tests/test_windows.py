"""Windows of tokens: what an epoch takes, the same bits as with copies, little memory."""

import os
import tracemalloc
import types

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Dense, Reshape, _plan
from fastgd.callbacks import every
from fastgd.data.mapped import each_once, index_in_windows
from fastgd.data.minibatches import epoch_order
from fastgd.data.windows import shift_of_epoch
from fastgd.text import Characters, Windows

T, V = 8, 11


def network(backend="auto", **options):
    layers = [Reshape((T, 1)), Dense(6, "tanh"), Dense(V)]
    return fastgd.Network((T,), layers, loss="softmax_cross_entropy", backend=backend, **options)


@pytest.fixture
def tokens(rng):
    return rng.integers(0, V, 300).astype(np.uint8)


def mapped(tokens, folder):
    np.save(folder / "tokens.npy", tokens)
    return np.load(folder / "tokens.npy", mmap_mode="r")


def copies(tokens, epoch, seed=0):
    """The windows of an epoch as arrays of their own, in the order of `fit`."""
    per_epoch = (len(tokens) - T) // T
    shift = shift_of_epoch(seed, epoch, len(tokens) - T - (per_epoch - 1) * T)
    starts = epoch_order(per_epoch, seed, epoch, True) * T + shift
    X = np.array([tokens[i : i + T] for i in starts], np.float32)
    return X, np.array([tokens[i + 1 : i + 1 + T] for i in starts], np.int64)


def test_windows_are_views_side_by_side(tokens):
    windows = Windows(tokens, T)
    x, y = windows.x, windows.y
    assert (len(windows), x.shape, y.shape) == (37, (37, T), (37, T))
    assert np.shares_memory(x, tokens)
    assert np.shares_memory(y, tokens)
    np.testing.assert_array_equal(x.ravel(), tokens[:296])
    np.testing.assert_array_equal(y.ravel(), tokens[1:297])
    x, y = windows.at_all_positions()
    assert x.shape == y.shape == (292, T)
    np.testing.assert_array_equal(x[291], tokens[291:299])
    np.testing.assert_array_equal(y[291], tokens[292:300])
    shortest = Windows(tokens[: T + 1], T)
    np.testing.assert_array_equal(shortest.y, [tokens[1 : T + 1]])
    network().fit(shortest, epochs=3)


def test_an_epoch_takes_every_token_once_and_begins_anywhere(tokens):
    """Rows of an epoch lie side by side, every start is possible, and no window reaches beyond the tokens."""
    shifts = 300 - T - 35 * T
    found = {shift_of_epoch(5, epoch, shifts) for epoch in range(200)}
    assert found == set(range(shifts))
    first = []
    for epoch in range(5):
        X, y = copies(np.arange(300), epoch, seed=5)  # the positions of the tokens
        positions = np.sort(X.ravel())
        np.testing.assert_array_equal(positions, np.arange(positions[0], positions[0] + 36 * T))
        np.testing.assert_array_equal(y, X + 1)
        assert y.max() <= 299
        first.append(positions[0])
    assert len(set(first)) > 1
    history = network(seed=5).fit(Windows(tokens, T), epochs=2)
    assert history.rows == [36, 72]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, "mapped"])
def test_the_same_bits_as_with_copies(kind, backend, tokens, tmp_path):
    given = mapped(tokens, tmp_path) if kind == "mapped" else tokens.astype(kind)
    net, twin, optimizer = network(backend), network(backend), Adam(0.01)
    history = net.fit(Windows(given, T), optimizer=Adam(0.01), batch_size=10, epochs=3)
    losses = []
    for epoch in range(3):
        X, y = copies(tokens, epoch)
        steps = [twin.train_step(X[i : i + 10], y[i : i + 10], optimizer) for i in range(0, len(X), 10)]
        losses.append(np.average(steps, weights=[10, 10, 10, 6]))
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, "mapped"])
def test_overlapping_rows_of_any_array(kind, backend, tokens, tmp_path):
    """Views with any stride between rows, as of sliding_window_view, are data like their copies."""
    given = mapped(tokens, tmp_path) if kind == "mapped" else tokens.astype(kind)
    labels = given.astype(np.int16) if kind == np.float32 else given
    x, y = (np.lib.stride_tricks.sliding_window_view(part, T)[::3] for part in (given[:-1], labels[1:]))
    nets = [network(backend), network(backend)]
    for net, X, Y in zip(nets, (x, np.array(x, np.float32)), (y, np.array(y, np.int64)), strict=True):
        net.fit(X, Y, epochs=2, validation_fraction=0.2, metrics="accuracy")
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert nets[0].history.validation_loss == nets[1].history.validation_loss
    assert nets[0].loss(x, y) == nets[1].loss(np.array(x), np.array(y))
    np.testing.assert_array_equal(nets[0].predict(x), nets[1].predict(np.array(x)))


def test_no_bit_depends_on_threads(tokens, every_step_is_shared):
    nets = [network(num_threads=threads) for threads in (1, 3)]
    for net in nets:
        net.fit(Windows(tokens, T), epochs=2)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_resumed_run_is_one_that_never_stopped(is_mapped, tokens, tmp_path, backend):
    given, file = mapped(tokens, tmp_path) if is_mapped else tokens, tmp_path / "run.safetensors"
    windows = Windows(given, T)
    options = {"batch_size": 10, "epochs": 4, "validation_data": windows}
    whole, first, second = (network(backend, seed=3) for _ in range(3))
    whole.fit(windows, optimizer=Adam(0.01), **options)
    stop = every(6, lambda run: True)
    first.fit(windows, optimizer=Adam(0.01), callbacks=stop, checkpoint=file, **options)
    assert not np.array_equal(first.parameters, whole.parameters)
    second.fit(windows, optimizer=Adam(0.01), checkpoint=file, resume=True, **options)
    np.testing.assert_array_equal(second.parameters, whole.parameters)
    assert second.history.validation_loss == whole.history.validation_loss
    changed = tokens.copy()
    changed[0] = (changed[0] + 1) % V
    with pytest.raises(fastgd.CheckpointError, match="rows of this run"):
        network(backend, seed=3).fit(Windows(changed, T), optimizer=Adam(0.01), checkpoint=file, resume=True, **options)


def test_without_shuffling_epochs_are_the_same(tokens):
    net, twin = network(), network()
    net.fit(Windows(tokens, T), shuffle=False, epochs=2)
    twin.fit(Windows(tokens, T).x[:36], Windows(tokens, T).y[:36], shuffle=False, epochs=2)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_validation_and_metrics(tokens):
    net, windows = network(), Windows(tokens, T)
    twin = network()
    own = types.SimpleNamespace(x=windows.x, y=windows.y)
    twin.fit(windows, epochs=2, validation_data=own, metrics="accuracy")
    history = net.fit(windows, epochs=2, validation_data=windows, metrics="accuracy")
    expected = net.evaluate(windows.x, windows.y, metrics="accuracy")
    assert net.evaluate(windows, metrics="accuracy") == expected
    assert net.evaluate(own, metrics="accuracy") == expected
    for x in (windows.x, 3, types.SimpleNamespace(x=windows.x)):
        with pytest.raises(TypeError, match="'y': expected targets, unless x is data with both"):
            net.evaluate(x)
        with pytest.raises(TypeError, match="'validation_data': expected .*or data with x and y: images, or windows"):
            net.fit(windows, validation_data=x)
    assert history.validation_loss[-1] == expected["loss"]
    assert history.metrics["validation_accuracy"][-1] == expected["accuracy"]
    assert (twin.history.validation_loss, twin.history.metrics) == (history.validation_loss, history.metrics)
    own.y = own.y[1:]
    with pytest.raises(ValueError, match=r"'validation_data\.y'"):
        net.fit(windows, validation_data=own)
    net.fit(windows, epochs=1, metrics="accuracy")
    assert net.history.metrics["accuracy"] == [
        net.evaluate(windows.x[:36], windows.y[:36], metrics="accuracy")["accuracy"]
    ]


def test_windows_of_another_vocabulary_are_refused(tokens):
    """Their tokens mean other characters, though they are numbers of the same range."""
    net = network()
    net.preprocessing = Characters("abcdefghij")
    same, other = Windows(tokens, T, Characters("abcdefghij")), Windows(tokens, T, Characters("bcdefghijk"))
    for windows in (same, Windows(tokens, T)):
        net.fit(windows, epochs=1, validation_data=windows)
    before = net.parameters.copy()
    expected = r"windows of Characters\(10\), as read\(.*tokens=network\.preprocessing\) gives, got .*other tokens"
    for refused, argument in ((lambda: net.fit(other), "X"), (lambda: net.evaluate(other), "x"),
                              (lambda: net.fit(same, validation_data=other), "validation_data")):  # fmt: skip
        with pytest.raises(ValueError, match=f"'{argument}': expected {expected}"):
            refused()
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_memory_does_not_grow_with_the_context(is_mapped, tmp_path, rng):
    """Neither windows nor overlapping views are copied, in checks, in training, or in validation. A copy of the targets
    alone would take 100 MB."""
    tokens = rng.integers(0, V, 400_000).astype(np.uint8)
    windows = Windows(mapped(tokens, tmp_path) if is_mapped else tokens, 32)
    layers = [Reshape((32, 1)), Dense(4, "tanh"), Dense(V)]
    net = fastgd.Network((32,), layers, loss="softmax_cross_entropy")
    x, y = windows.at_all_positions()
    tracemalloc.start()
    try:
        net.fit(windows, batch_size=512, epochs=1, validation_data=windows, checkpoint=tmp_path / "run.safetensors")
        net.fit(x, y, batch_size=512, callbacks=every(1, lambda run: True), checkpoint=tmp_path / "other.safetensors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert net.history.steps == 1
    assert peak < 40e6


def test_rows_of_arrays_that_are_not_contiguous_are_not_copied_as_a_whole(rng):
    X, y = rng.normal(size=(100_000, 64)).astype(np.float32)[:, :32], rng.integers(0, 3, 100_000)
    nets = [fastgd.Network(32, [Dense(3)], loss="softmax_cross_entropy") for _ in range(2)]
    nets[0].fit(X.copy(), y, batch_size=256, epochs=1)
    tracemalloc.start()
    try:
        nets[1].fit(X, y, batch_size=256, epochs=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert peak < X.nbytes


def test_elements_once(rng):
    base = rng.integers(0, 9, 50)
    for step, width in ((1, 5), (3, 5), (4, 5)):
        x = np.lib.stride_tricks.sliding_window_view(base, width)[::step]
        flat = each_once(x)
        np.testing.assert_array_equal(flat, base[: (len(x) - 1) * step + width])
        for i in range(len(flat)):
            row, column = index_in_windows(x, i)
            assert row * step + column == i
            assert 0 <= column < width
            assert row == 0 or i - (row - 1) * step >= width  # no earlier row has it
    for x in (base, base.reshape(10, 5), base[::2], np.lib.stride_tricks.sliding_window_view(base, 5)[::5],
              np.lib.stride_tricks.sliding_window_view(base, 5)[::-1], base.reshape(10, 5).T):  # fmt: skip
        assert each_once(x) is x


def test_errors(tokens, tmp_path):
    net, windows = network(), Windows(tokens, T)
    before = net.parameters.copy()
    wrong = tokens.copy()
    wrong[20] = V
    for given in (wrong, mapped(wrong, tmp_path)):
        with pytest.raises(ValueError, match=r"'y \(the tokens of X\)': expected integer labels in \[0, 10\], got 11"):
            net.fit(Windows(given, T))
        x, y = Windows(given, T).at_all_positions()
        with pytest.raises(ValueError, match=r"'y': expected .*, got 11 at index \(12, 7\)"):
            net.fit(x, y)
    with pytest.raises(ValueError, match=r"'X': expected rows of shape \(8,\), got Windows\(42 of 7 tokens\)"):
        net.fit(Windows(tokens, 7))
    with pytest.raises(ValueError, match="'y': expected None for windows"):
        net.fit(windows, tokens)
    for name, value in (("sample_weight", np.ones(37)), ("class_weight", "balanced"), ("validation_fraction", 0.1)):
        with pytest.raises(ValueError, match=f"'{name}': expected None for windows"):
            net.fit(windows, **{name: value})
    for bad, error in ((tokens.astype(float), TypeError), (tokens.reshape(2, -1), TypeError), ("text", TypeError)):
        with pytest.raises(error, match="'tokens'"):
            Windows(bad, T)
    with pytest.raises(ValueError, match="'context': expected fewer than 300 tokens.*got 300"):
        Windows(tokens, 300)
    with pytest.raises(ValueError, match="'context'"):
        Windows(tokens, 0)
    np.testing.assert_array_equal(net.parameters, before)
    assert net.epochs == 0


def test_views_with_strides_of_a_mapped_file_are_known_as_such(tokens, tmp_path):
    """numpy puts an object of its own between such a view and the mapping."""
    given = mapped(tokens, tmp_path)
    view = np.lib.stride_tricks.sliding_window_view(given[:-1], T)
    assert type(view) is np.ndarray
    assert not _plan.is_in_memory(view)
    assert _plan.is_in_memory(np.frombuffer(b"abc", np.uint8)[1:])
    net = network()
    targets = np.array(np.lib.stride_tricks.sliding_window_view(tokens[1:], T), np.int64)
    os.truncate(tmp_path / "tokens.npy", 150)
    with pytest.raises(OSError, match=r"tokens\.npy.*expected"):
        net.fit(view, targets)
