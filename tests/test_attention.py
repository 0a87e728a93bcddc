"""Self-attention and the transformer block: what each position sees, dropout, sizes of every kind, memory, and that
every term of the gradient is tested."""

import inspect
import re
import textwrap

import numpy as np
import pytest

import fastgd
from fastgd import CausalSelfAttention, Dense, Dropout, LayerNorm, Network, Residual, SelfAttention, TransformerBlock
from fastgd.cli.self_check import GRADIENT_TOLERANCE, TOLERANCES
from fastgd.core.random import key_of_layer
from fastgd.layers import attention
from fastgd.layers.dropout import kept_columns

KERNELS = fastgd.kernels


def make(layer, t=7, c=4, backend="auto", **options):
    return Network((t, c), [layer, Dense(3)], loss="mse", backend=backend, **options)


def weights_of(q, k, causal):
    """The softmax of scores (t, t), with loops."""
    t, size = q.shape
    p = np.zeros((t, t))
    for u in range(t):
        n = u + 1 if causal else t
        e = [np.exp(q[u] @ k[j] / np.sqrt(size)) for j in range(n)]
        p[u, :n] = np.array(e) / sum(e)
    return p


@pytest.mark.float64
@pytest.mark.parametrize("causal", [False, True])
def test_formula_and_masks(causal, backend, rng):
    """Each head on its columns of q, k and v; dropout with the counter (row heads + head) T + position."""
    rows, t, c, heads, rate = 3, 7, 6, 2, 0.4
    kind = CausalSelfAttention if causal else SelfAttention
    network = make(kind(heads, rate), t, c, dtype="float64", backend=backend, seed=5)
    views, x = network.views(), rng.normal(size=(rows, t, c))
    for name in ("b_qkv1", "b_out1"):
        views[name][...] = rng.normal(size=views[name].shape)
    for minibatch in (None, 3):
        y = np.empty((rows, t, c))
        for b in range(rows):
            q, k, v = np.split(x[b] @ views["w_qkv1"] + views["b_qkv1"], 3, axis=1)
            for i in range(heads):
                part = slice(i * c // heads, (i + 1) * c // heads)
                p = weights_of(q[:, part], k[:, part], causal)
                if minibatch is not None:
                    numbers = (b * heads + i) * t + np.arange(t)
                    p *= kept_columns(numbers, t, rate, key_of_layer(5, "1"), minibatch) / (1 - rate)
                y[b, :, part] = p @ v[:, part]
        expected = (y @ views["w_out1"] + views["b_out1"]) @ views["w2"] + views["b2"]
        options = {} if minibatch is None else {"training": True, "minibatch": minibatch}
        np.testing.assert_allclose(network.forward(x, **options), expected, rtol=1e-11, atol=1e-13)


SIZES = [
    {"rows": 1, "t": 1, "h": 1, "d": 1}, {"rows": 2, "t": 17, "h": 3, "d": 5}, {"rows": 3, "t": 12, "h": 2, "d": 16},
    {"rows": 2, "t": 33, "h": 1, "d": 8}, {"rows": 1, "t": 130, "h": 2, "d": 40}, {"rows": 1, "t": 5, "h": 1, "d": 900},
    {"rows": 1, "t": 2100, "h": 1, "d": 3},
]  # fmt: skip


def arguments(sizes, causal, rate, dtype, rng):
    rows, t, h, d = sizes.values()
    qkv, dy = rng.normal(size=(rows, t, 3, h, d)), rng.normal(size=(rows, t, h, d))
    seen = rng.integers(0, 4, (rows, t)) > 0
    if rows > 1:
        seen[0], seen[1] = True, False
    row, scalars = np.arange(rows) + 2**40, (float(causal), rate, 12345.0, 6.0)
    y, p, dqkv, ds = (np.zeros(shape) for shape in (dy.shape, (rows, h, t, t), qkv.shape, (rows, t, t)))
    forward = [a.astype(dtype) for a in (y, p, qkv, seen)] + [row, *scalars]
    return forward, [a.astype(dtype) for a in (dqkv, ds, dy, p, qkv)] + [row, *scalars]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bodies_agree_with_any_mask(sizes, rate, causal, dtype, rng):
    """Forward and backward, of positions that are hidden, too, and of rows that see nothing."""
    runs = {}
    given = arguments(sizes, causal, rate, "float64", rng)
    for body, kind in (("numpy", "float64"), ("cython", dtype), ("numba", dtype)):
        if body == "numba" and (dtype == "float64" or sizes["t"] > 200):  # slow to compile; slow
            continue
        forward, backward = ([a.astype(kind) if getattr(a, "dtype", "") == np.float64 else a for a in g] for g in given)
        KERNELS.attention_forward.body(body)(*forward)
        backward[3] = forward[1]
        KERNELS.attention_backward.body(body)(*backward)
        runs[body] = [*forward[:2], *backward[:2]]
        if causal:
            assert not np.triu(forward[1], 1).any()
        assert not forward[1][np.broadcast_to(forward[3][:, None, None, :] == 0, forward[1].shape)].any()
    for body in runs:
        for got, expected in zip(runs[body], runs["numpy"], strict=True):
            scale = max(np.abs(expected).max(), 0.1)
            assert np.abs(got - expected).max() <= TOLERANCES[dtype] * scale, body


def test_a_position_sees_nothing_later(backend, rng):
    x = rng.normal(size=(4, 33, 8)).astype(np.float32)
    block = TransformerBlock(2)
    network = make(block, 33, 8, backend=backend)
    y, later = network.predict(x), x.copy()
    for t in (32, 20, 12, 5, 1):
        later[:, t:] = rng.normal(size=(4, 33 - t, 8))
        other = network.predict(later)
        np.testing.assert_array_equal(other[:, :t], y[:, :t])
        assert (other[:, t:] != y[:, t:]).any(axis=2).all()
    both = make(TransformerBlock(2, causal=False), 33, 8, backend=backend)
    assert (both.predict(later)[:, 0] != both.predict(x)[:, 0]).any(axis=1).all()


def test_padding_is_not_seen(backend, rng):
    layers = [fastgd.Embedding(9, 6), TransformerBlock(2, causal=False, padding=0), SelfAttention(2, padding=0)]
    network = Network(8, [*layers, Dense(4)], loss="softmax_cross_entropy", backend=backend)
    x = rng.integers(1, 9, (3, 8))
    x[0, 5:] = x[1, 2:4] = 0
    y = network.predict(x)
    network.views()["w1"][0] = 7.0
    other = network.predict(x)
    np.testing.assert_array_equal(other[x > 0], y[x > 0])
    assert (other[x == 0] != y[x == 0]).any()
    views = network.views()
    views["b_out3"][...] = np.arange(6)
    alone = network.forward(np.zeros((1, 8), int))[0]
    np.testing.assert_allclose(alone, np.tile(np.arange(6) @ views["w4"] + views["b4"], (8, 1)), rtol=1e-5)
    short = Network(5, [*layers, Dense(4)], loss="softmax_cross_entropy", backend=backend)
    short.parameters[:] = network.parameters
    np.testing.assert_allclose(short.predict(x[:1, :5])[0], network.predict(x[:1])[0, :5], rtol=2e-5)


@pytest.mark.usefixtures("every_step_is_shared")
def test_bits_do_not_depend_on_the_minibatch_or_on_threads(rng):
    x = rng.normal(size=(13, 40, 12)).astype(np.float32)
    expected = None
    for num_threads in (1, 2, 3):
        network = make(TransformerBlock(3), 40, 12, num_threads=num_threads)
        for rows in (13, 5, 2, 1):
            y = np.concatenate([network.predict(x[i : i + rows]) for i in range(0, 13, rows)])
            expected = y if expected is None else expected
            np.testing.assert_array_equal(y, expected)


# What the backward pass would be without a term.
MUTANTS = {
    "dq": ("np.matmul(ds, k, out=dq)", "dq[...] = 0"),
    "dk": ("np.matmul(ds.swapaxes(1, 2), q, out=dk)", "dk[...] = 0"),
    "dv": ("np.matmul((weights * factors).swapaxes(1, 2), dout, out=dv)", "dv[...] = 0"),
    "the sum over a row": ("(dp - part)", "dp"),
    "the scale": (" * dy.dtype.type(1 / math.sqrt(size))", ""),
    "the mask of dv": ("weights * factors", "weights"),
    "the mask of dP": ("v.swapaxes(1, 2) * factors", "v.swapaxes(1, 2)"),
    "another mask": ("(row, heads, i, t", "(row, heads, i + 1, t"),
    "the weights": ("ds[...] = weights * ", "ds[...] = "),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_gradient_check_and_golden_bodies_catch_a_dropped_term(name, rng, monkeypatch):
    kernel = KERNELS.attention_backward
    source = textwrap.dedent(inspect.getsource(kernel.reference)).split("\n", 1)[1]
    if name is not None:
        old, new = MUTANTS[name]
        assert source.count(old) == 1
        source = source.replace(old, new)
    scope = dict(vars(attention))
    exec(source, scope)
    monkeypatch.setattr(kernel, "reference", scope["attention_backward"])
    network = make(CausalSelfAttention(2, 0.3), dtype="float64", backend="numpy")
    x, y = rng.normal(size=(3, 7, 4)), rng.normal(size=(3, 7, 3))
    error = max(fastgd.check_gradients(network, x, y, training=True).values())
    assert (error > GRADIENT_TOLERANCE) == (name is not None)


def test_a_block_is_its_layers(backend, rng):
    """With the same names, parameters and bits."""
    x, y = rng.normal(size=(5, 7, 6)), rng.normal(size=(5, 7, 3))
    layers = [
        Residual([LayerNorm(), CausalSelfAttention(2, 0.2), Dropout(0.2)]),
        Residual([LayerNorm(), Dense(24, "gelu_tanh"), Dense(6), Dropout(0.2)]),
    ]
    networks = [
        make(one, 7, 6, backend=backend) for one in (TransformerBlock(2, dropout=0.2), fastgd.Sequential(layers))
    ]
    for network in networks:
        network.fit(x, y, optimizer=fastgd.Adam(0.01), epochs=3, batch_size=2)
    assert networks[0].views().keys() == networks[1].views().keys()
    np.testing.assert_array_equal(networks[0].state, networks[1].state)
    assert re.search(r"1\.1\.2 +CausalSelfAttention\(2, dropout=0\.2\)", networks[0].describe())


def test_evaluation_keeps_the_weights_of_one_head():
    network = make(CausalSelfAttention(4), 64, 8)
    training, evaluation = network.executor.training_plan(8), network.executor.evaluation_plan()
    assert training.buffers["weights1"].shape == (8, 4, 64, 64)
    assert evaluation.buffers["weights1"].shape[1:] == (1, 64, 64)


BAD = {
    "no head": (lambda: SelfAttention(0), "'heads'.*>= 1"),
    "heads": (lambda: make(SelfAttention(3)), "'heads'.*divisor of 4.*3"),
    "block": (lambda: make(TransformerBlock(3)), "'heads'.*divisor of 4.*3"),
    "dropout": (lambda: CausalSelfAttention(2, 1.0), r"'dropout'.*\[0, 1\)"),
    "vectors": (lambda: Network(4, [SelfAttention(2)], loss="mse"), r"'layers'.*\(T, C\).*\(4,\)"),
    "padding": (lambda: SelfAttention(2, padding=-1), "'padding'"),
    "padding without tokens": (
        lambda: make(SelfAttention(2, padding=0)).predict(np.ones((1, 7, 4))),
        "'padding'.*tokens",
    ),
    "padding of a causal block": (lambda: TransformerBlock(2, padding=0), "'padding'.*causal"),
    "hidden": (lambda: TransformerBlock(2, 0), "'hidden'"),
    "activation": (lambda: TransformerBlock(2, activation="gellu"), "'activation'.*'gelu'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()


def test_loss_surfaces_are_without_dropout():
    block = TransformerBlock(2, dropout=0.3)
    for layer in (block, CausalSelfAttention(2, 0.3), SelfAttention(2, 0.3, padding=1)):
        assert "dropout=0.0" in repr(layer.without_noise())
        assert "dropout=0.3" in repr(layer)
