"""Pictures of language models: the weights of attention, samples of text on a loss curve."""

import io
import math
import warnings

import numpy as np
import pytest

import fastgd
from fastgd import Dense, Embedding, History, Network, PositionalEmbedding, SelfAttention, plots

T, HEADS, WIDTH = 6, 2, 8
VOCABULARY = fastgd.text.Characters("\n $abc")


def gpt(**options):
    net = fastgd.models.gpt(len(VOCABULARY), T, 3, HEADS, WIDTH, seed=1, **options)
    net.parameters[:] *= 20  # so that attention differs from a mean
    net.preprocessing = VOCABULARY
    return net


def panels(figure):
    """{title: drawn array, with NaN where it is blank} of the panels that are seen."""
    found = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    return {i: np.ma.filled(axes.images[0].get_array(), np.nan) for i, axes in enumerate(found, 1)}


def norm(x, gamma, beta):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gamma + beta


def weights_of_first_layer(net, ids, path, hidden, *, has_norm=True):
    """By the formula, in float64; NaN where a position is hidden."""
    p = {name: view.astype(np.float64) for name, view in net.views().items()}
    x = p["w1"][ids] + p["p2"]
    if has_norm:
        x = norm(x, p["gamma4.1.1"], p["beta4.1.1"])
    q, k, _ = np.split(x @ p[f"w_qkv{path}"] + p[f"b_qkv{path}"], 3, axis=1)
    d, found = WIDTH // HEADS, []
    for i in range(HEADS):
        columns = slice(i * d, (i + 1) * d)
        scores = np.where(hidden, -np.inf, q[:, columns] @ k[:, columns].T / math.sqrt(d))
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        found.append(np.where(hidden, np.nan, e / e.sum(axis=1, keepdims=True)))
    return found


@pytest.mark.parametrize("backend", ["cython", "numpy"])
def test_weights_of_a_causal_layer(backend):
    net, text = gpt(backend=backend, dtype="float64"), "a b$c\n"
    before = net.state.copy()
    figure = plots.plot_attention(net, text, 1)
    np.testing.assert_array_equal(net.state, before)
    assert figure.get_suptitle() == "Attention of layer 1"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["head 1", "head 2"]
    ids, later = VOCABULARY.encode(text), np.triu(np.ones((T, T), bool), 1)
    expected, drawn = weights_of_first_layer(net, ids, "4.1.2", later), panels(figure)
    for one, other in zip(drawn.values(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.nanmax(np.abs(one[-1] - 1 / T)) > 0.05
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [*"a\u2423b$c\u21b5"]
    # Later tokens change nothing; ids are as good as a text.
    for number, one in panels(plots.plot_attention(net, ids[:3], 1)).items():
        np.testing.assert_array_equal(one, drawn[number][:3, :3])


def test_all_layers_and_the_last_one():
    net = gpt()
    figure = plots.plot_attention(net, "abc", title="A")
    grid = panels(figure)
    assert (len(grid), figure.get_suptitle()) == (3 * HEADS, "A")
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()][:3] == ["layer 1", "layer 2", "layer 3"]
    last = panels(plots.plot_attention(net, "abc", 3))
    for number, expected in last.items():
        np.testing.assert_array_equal(grid[2 * HEADS + number], expected)
    assert not np.array_equal(grid[1], grid[3], equal_nan=True)


def test_a_layer_that_sees_all_but_padding():
    """One layer is drawn with labels; each row sums to 1."""
    layers = [Embedding(7, WIDTH), PositionalEmbedding(), SelfAttention(HEADS, padding=3), Dense(2)]
    net = Network(T, layers, loss="softmax_cross_entropy", seed=2, dtype="float64")
    net.parameters[:] *= 20
    figure = plots.plot_attention(net, [1, 3, 0, 5])
    ids = np.array([1, 3, 0, 5, 3, 3])
    hidden = np.broadcast_to(ids == 3, (T, T))
    expected = weights_of_first_layer(net, ids, "3", hidden, has_norm=False)
    for one, other in zip(panels(figure).values(), expected, strict=True):
        np.testing.assert_allclose(one, other[:4, :4], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.nansum(one, axis=1), 1, rtol=1e-9)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [*"1305"]
    plain = Network(T, [*layers[:2], SelfAttention(HEADS), Dense(2)], loss="softmax_cross_entropy")
    with pytest.raises(ValueError, match="'tokens': expected 6 tokens, since not all layers are causal"):
        plots.plot_attention(plain, [1, 3])
    whole = panels(plots.plot_attention(plain, [1, 3, 0, 5, 3, 3]))
    np.testing.assert_allclose(whole[1].sum(axis=1), 1, rtol=1e-6)


def test_pictures_can_be_saved_without_a_warning():
    net = gpt()
    for figure in (
        plots.plot_attention(net, "a $ $\n"),
        plots.plot_attention(net, "$a$", 2, labels=["$\\frac$", "long " * 9, 3]),
        plots.plot_attention(net, "c", 1),
        plots.plot_loss(History(loss=[2.0, 1.0]), samples={1: "$\\frac$\n a" * 90, 2: ""}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(io.BytesIO(), dpi=30)


VECTORS = Network((T, 4), [SelfAttention(2)], loss="mse")
BAD = {
    "network": (lambda: plots.plot_attention(3, "a"), "'network'.*3"),
    "no attention": (lambda: plots.plot_attention(fastgd.models.mlp(4, 2), [1]), "'network'.*with attention"),
    "no tokens": (lambda: plots.plot_attention(VECTORS, [1]), "'network'.*tokens"),
    "layer": (lambda: plots.plot_attention(gpt(), "a", 4), "'layer': expected at most 3, the layers with attention"),
    "layer 0": (lambda: plots.plot_attention(gpt(), "a", 0), "'layer'.*>= 1"),
    "too long": (lambda: plots.plot_attention(gpt(), "abcabca"), "'tokens': expected from 1 to 6 tokens"),
    "empty": (lambda: plots.plot_attention(gpt(), ""), "'tokens': expected from 1 to 6"),
    "two axes": (lambda: plots.plot_attention(gpt(), [[1]]), "'tokens': expected from 1 to 6"),
    "range": (lambda: plots.plot_attention(gpt(), [1, 6]), r"token ids, whole numbers in \[0, 5\], got 6"),
    "character": (lambda: plots.plot_attention(gpt(), "x"), "'x'"),
    "labels": (lambda: plots.plot_attention(gpt(), "abc", labels="ab"), "'labels': expected a text for each of 3"),
    "samples": (lambda: plots.plot_loss(History(loss=[1.0]), samples=["a"]), "'samples'.*dict of texts by epoch"),
    "a number": (lambda: plots.plot_loss(History(loss=[1.0]), samples={1: 3}), "'samples'.*dict of texts"),
    "epoch": (lambda: plots.plot_loss(History(loss=[1.0]), samples={2: "a"}), "'samples': expected epochs from 1 to 1"),
    "epoch 0": (lambda: plots.plot_loss(History(loss=[1.0]), samples={0: "a"}), "epoch of samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, match = BAD[name]
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def test_a_text_needs_a_vocabulary():
    net = gpt()
    net.preprocessing = None
    with pytest.raises(ValueError, match="'tokens': expected ids, since the network has no vocabulary"):
        plots.plot_attention(net, "abc")


def test_samples_are_on_the_curve():
    """In the order of epochs, at the loss of each; the text below, cut after three lines."""
    history = History(loss=[4.0, 3.0, 2.0, math.nan])
    plain = plots.plot_loss(history)
    figure = history.plot(samples={3: "the cat\nsat", 1: "x " * 300, 4: "none"})
    (axes,) = figure.axes
    *marks, below = axes.texts
    assert [(mark.get_text(), mark.xy) for mark in marks] == [("1", (1, 4.0)), ("2", (3, 2.0))]
    lines = below.get_text().split("\n")
    assert lines[0] == "1  epoch 1, loss 4"
    assert lines[3].endswith("x\u2026")
    assert lines[4:] == ["2  epoch 3, loss 2", "    the cat\u21b5 sat", "3  epoch 4, loss nan", "    none"]
    assert figure.get_size_inches()[1] > plain.get_size_inches()[1] + 1
    assert not plots.plot_loss(history, samples={}).axes[0].texts
