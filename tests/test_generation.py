"""Generation: each token follows from the tokens before it as without a cache, on every backend and thread; how tokens
are drawn; prompts, streams, and what is refused."""

import inspect
import textwrap

import numpy as np
import pytest
from cases import definitions

import fastgd
from fastgd import (
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LayerNorm,
    Network,
    PositionalEmbedding,
    Residual,
    TransformerBlock,
)
from fastgd.models import gpt
from fastgd.text.vocabulary import Bytes, Characters, Tokenizer

KERNELS = fastgd.kernels


def model(context=9, vocabulary=23, layers=2, width=12, scale=0.4, **options):
    """A small GPT whose parameters are large enough that the tokens differ."""
    network = gpt(vocabulary, context, layers, 2, width, **options)
    network.parameters[:] = np.random.default_rng(5).normal(size=network.n_parameters) * scale
    return network


def next_outputs(network, tokens, start):
    """The outputs that follow tokens[start:], without a cache."""
    x = np.zeros((1, network.input_shape[0]), np.int64)
    x[0, : len(tokens) - start] = tokens[start:]
    return network.forward(x)[0, len(tokens) - start - 1]


def without_cache(network, prompt, length):
    """The most probable tokens after a prompt. A full context goes on from its last half."""
    tokens, context = list(prompt), network.input_shape[0]
    start = max(0, len(tokens) - context)
    for _ in range(length):
        if len(tokens) - start > context:
            start = len(tokens) - max(1, context // 2)
        tokens.append(int(next_outputs(network, tokens, start).argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("context", [1, 2, 9, 130])
def test_tokens_are_those_without_a_cache(context, backend):
    """Also where the prompt is longer than the context, and where the context fills up several times."""
    network = model(context, backend=backend)
    for prompt in ([3], list(range(7)), [i % 23 for i in range(200)]):
        length = 40 if context < 100 or backend == "cython" else 8
        tokens = network.generate(prompt, length, temperature=0)
        assert tokens.dtype == np.int64
        np.testing.assert_array_equal(tokens, without_cache(network, prompt, length))
    assert len(set(network.generate([3], 40, seed=1).tolist())) > 2


def test_every_kind_of_layer_that_looks_at_no_later_position(backend):
    layers = [
        Embedding(11, 8), PositionalEmbedding(), Dropout(0.2), fastgd.BatchNorm("tanh"), fastgd.CausalSelfAttention(4),
        Residual([LayerNorm(), Dense(8, "silu")]), fastgd.Concatenate([], [Dense(3, use_bias=False)]),
        fastgd.Activation("tanh"), Dense(11, bias_init="normal"),
    ]  # fmt: skip
    network = Network(6, layers, loss="softmax_cross_entropy", backend=backend, seed=3)
    network.parameters[:] *= 3
    network.statistics["mean4"][...] = np.linspace(-1, 1, 8)
    np.testing.assert_array_equal(network.generate([4, 1], 25, temperature=0), without_cache(network, [4, 1], 25))


@pytest.mark.parametrize("kind", [fastgd.LSTM, fastgd.GRU])
def test_recurrent_layers_go_on_from_their_state(kind, backend):
    """Two of them, the reader of a long prompt included; of a network that has attention as well."""
    layers = [Embedding(11, 6), kind(5, return_sequences=True), kind(8, return_sequences=True)]
    for more in ([], [TransformerBlock(2)]):
        network = Network(9, [*layers, *more, Dense(11)], loss="softmax_cross_entropy", backend=backend)
        network.parameters[:] = np.random.default_rng(1).normal(size=network.n_parameters)
        for prompt in ([4], [1, 2, 3, 4, 5], list(range(11)) * 2):
            np.testing.assert_array_equal(
                network.generate(prompt, 30, temperature=0), without_cache(network, prompt, 30)
            )
    last = Network(9, [Embedding(11, 6), kind(5), Dense(11)], loss="softmax_cross_entropy")
    with pytest.raises(ValueError, match="expected a network with rows of tokens"):
        last.generate([1], 2)


@pytest.mark.usefixtures("every_step_is_shared")
def test_the_same_tokens_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("fastgd.generation.plan.THREAD_WORK", 1)
    monkeypatch.setattr("fastgd.generation.plan.SHARED_WORK", 1)
    made = {}
    for threads in (1, 3, 16):
        network = model(70, 301, layers=1, width=52, num_threads=threads)
        made[threads] = []
        for options in ({}, {"top_k": 7}, {"top_k": 9, "top_p": 0.9}):
            made[threads].append(network.generate(np.arange(150), 80, seed=4, **options))
        plan = network.executor._generator.decoder
        made[threads].append(plan.rows_of(plan.output).copy())
    for threads in (3, 16):
        for got, expected in zip(made[threads], made[1], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_outputs_are_those_of_the_whole_sequence(dtype):
    """To rounding: with dtype float64 the last outputs before a token agree to 1e-12."""
    network = model(40, dtype=dtype)
    tokens = [2, *network.generate([2], 30, seed=1)]
    plan = network.executor._generator.decoder
    got = plan.rows_of(plan.output)[0, 0]
    expected = next_outputs(network, tokens[:-1], 0)
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=np.abs(expected).max() * (1e-12 if dtype == "float64" else 4e-6)
    )


def draw(body, z, count=0, *, tokens=None, temperature=1.0, top_k=0, top_p=1.0, key=77):
    """(token, p, order) of `sample_token`."""
    z = np.asarray(z, np.float64)
    token, chosen, p, order = np.zeros(1), np.zeros(count + 1, np.int64), np.ones(len(z)), np.ones(len(z), np.int64)
    counted, position = np.array([count]), np.array([5])
    tokens = len(z) if tokens is None else tokens
    scalars = map(float, (tokens, temperature, top_k, top_p, key))
    KERNELS.sample_token.body(body)(token, chosen, counted, position, p, order, z, *scalars)
    assert (counted[0], position[0], chosen[count]) == (count + 1, 6, token[0])
    return int(token[0]), p, order


@pytest.fixture(params=["numpy", "numba", "cython"])
def body(request):
    return request.param


@pytest.mark.float64
def test_tokens_are_drawn_with_their_probabilities(body, rng):
    z = rng.normal(size=6) * 2
    drawn = [draw(body, z, i, temperature=0.8)[0] for i in range(3000)]
    expected = np.exp(z / 0.8) / np.exp(z / 0.8).sum()
    np.testing.assert_allclose(draw(body, z, temperature=0.8)[1], expected, rtol=1e-12)
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 3000, expected, rtol=0, atol=0.03)
    assert drawn != [draw(body, z, i, temperature=0.8, key=78)[0] for i in range(3000)]


@pytest.mark.float64
def test_only_the_most_probable_are_left(body):
    z = np.log([0.05, 0.3, 0.1, 0.3, 0.25])
    for options, kept in (
        ({}, [0, 1, 2, 3, 4]), ({"top_k": 1}, [1]), ({"top_k": 3}, [1, 3, 4]), ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.2}, [1]), ({"top_p": 0.59}, [1, 3]), ({"top_p": 0.61}, [1, 3, 4]),
        ({"top_p": 0.94}, [1, 3, 4, 2]), ({"top_k": 2, "top_p": 0.49}, [1]), ({"top_k": 2, "top_p": 0.51}, [1, 3]),
        ({"tokens": 3}, [0, 1, 2]), ({"tokens": 3, "top_k": 2}, [1, 2]), ({"temperature": 0}, [1]),
        ({"top_p": 0.62, "temperature": 1e-2}, [1, 3]),
    ):  # fmt: skip
        token, p, order = draw(body, z, **options)
        np.testing.assert_array_equal(order, [*kept, *[-1] * (5 - len(kept))])
        t = options.get("temperature", 1.0) or 1.0
        weights = np.zeros(5)
        weights[kept] = np.exp(z[kept] / t - z.max() / t)
        np.testing.assert_allclose(p, weights / weights.sum(), rtol=1e-12)
        assert {draw(body, z, i, **options)[0] for i in range(60)} <= set(kept), token
    assert draw(body, z, temperature=1e-320)[0] == 1
    assert draw(body, [0.0, np.nan, 1.0])[0] == draw(body, [0.0, np.inf])[0] == draw(body, [-np.inf, -np.inf])[0] == -1
    assert draw(body, [0.0, -np.inf])[0] == 0


@pytest.mark.float64
@pytest.mark.parametrize("name", ["cython", "numba"])
def test_a_heap_finds_the_order_of_many(name, rng):
    z = np.round(rng.normal(size=1000), 2)  # many are equal
    expected = np.argsort(-z, kind="stable")
    for options, n in (({"top_k": 1}, 1), ({"top_k": 300}, 300), ({"top_k": 999}, 999), ({"top_p": 0.999999}, None)):
        order = draw(name, z, **options)[2]
        kept = (order >= 0).sum()
        assert n in (None, kept)
        np.testing.assert_array_equal(order[:kept], expected[:kept])


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1600])
@pytest.mark.parametrize("compiled", ["cython", "numba"])
def test_attention_to_a_long_past(compiled, n, dtype, rng):
    """Scores are computed 512 at a time; a larger one that comes later scales the sums before."""
    h, d = 2, 12
    given = [rng.normal(size=shape) for shape in ((1, h, d), (1, 3, h, d), (h, 1600, d), (h, 1600, d))]
    given[2] *= 1 + 3 * np.linspace(0, 1, 1600)[:, None]
    position = np.array([n - 1])
    y = {}
    for body, kind in (("numpy", "float64"), (compiled, dtype)):
        arrays = [a.astype(kind) for a in given]
        KERNELS.cached_attention.body(body)(*arrays, position)
        y[body] = arrays[0]
    tolerance = 3e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(y[compiled], y["numpy"], rtol=0, atol=tolerance * np.abs(y["numpy"]).max())


def test_text_and_streams():
    network = model(context=16, vocabulary=40)
    network.preprocessing = Characters("".join(sorted("abcdefgh äöü€\n")))
    parts = []
    text = network.generate("bad €", 300, seed=2, stream=parts.append)
    assert isinstance(text, str)
    assert len(text) == 300
    assert "".join(parts) == text
    assert set(text) <= set(network.preprocessing.characters)
    assert text == network.generate("bad €", 300, seed=2) != network.generate("bad €", 300, seed=3)
    ids = network.generate(network.preprocessing.encode("bad €"), 300, seed=2)
    assert network.preprocessing.decode(ids) == text


def test_streams_wait_for_whole_characters_and_may_stop(monkeypatch):
    monkeypatch.setattr("fastgd.generation.generate.STREAM_SECONDS", 1e-9)  # after each token
    network = model(context=4, vocabulary=256, layers=1)
    network.preprocessing = Bytes()
    network.parameters[:] = 0
    b = network.views()["w1"]
    b[...] = 0  # every byte is as probable
    parts = []
    text = network.generate("ä", 400, stream=parts.append)
    assert "".join(parts) == text
    whole = network.generate(list("ä".encode()), 400)
    assert text == bytes(whole.astype(np.uint8)).decode("utf-8", "replace")
    assert any(len(part) > 1 for part in parts)  # bytes that wait for others
    silent = network.like(seed=1)
    silent.parameters[:] = 0
    silent.preprocessing, parts = Bytes(), []
    bias = silent.views()
    first = [name for name in bias if name.startswith("beta")][-1]
    bias[first][...], bias["w1"][0x80] = 1, 9  # every token is a byte that begins no character
    text = silent.generate("a", 60, temperature=0, stream=parts.append)
    assert text == "\ufffd" * 60 == "".join(parts)
    assert len(parts) > 30
    calls = []
    stopped = network.generate([1], 50, stream=lambda new: calls.append(new.copy()) or new.fill(0) or len(calls) == 3)
    assert [new.shape for new in calls] == 3 * [(1,)]
    np.testing.assert_array_equal(stopped, network.generate([1], 50)[:3])


def test_tokens_of_a_tokenizer(monkeypatch):
    """Byte-level pieces cut characters; the text is what the tokens decode to, however it is streamed."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. "] * 9, trainer)
    vocabulary = Tokenizer.of(made)
    network = model(context=6, vocabulary=len(vocabulary), layers=1)
    network.preprocessing = vocabulary
    network.views()["w1"][...] = 0
    ids = vocabulary.encode("über den")
    expected = vocabulary.decode(np.concatenate([ids, network.generate(ids, 300)])).removeprefix("über den")
    for seconds in (1e-9, 1.0):
        monkeypatch.setattr("fastgd.generation.generate.STREAM_SECONDS", seconds)
        parts = []
        assert network.generate("über den", 300, stream=parts.append) == expected
        assert "".join(parts) == expected
    assert "\ufffd" in expected


MUTANTS = {
    "add_positions": ("_positions(position, len(x), len(p))", "np.arange(len(x))"),
    "append_to_cache": (
        "keys[:, first : first + rows] = qkv[:rows, 1]",
        "keys[:, first : first + rows] = qkv[:rows, 0]",
    ),
    "append_to_cache values": ("values[:, first : first + rows]", "values[:, :rows]"),
    "cached_attention": ("values[:, : last + 1])[:, 0]", "values[:, : last + 1])[:, 0] * 1.2"),
    "cached_attention seen": ("_positions(position, len(y), keys.shape[1])", "_positions(position, len(y), 3)"),
    "cached_attention scale": ("* scale\n", "* scale * 2\n"),
    "split_k_product": ("for i in range(len(y)):", "y[-1] = 0\n    for i in range(len(y) - 1):"),
    "sum_of_splits": ("y += b", "y += 0 * b"),
    "transposed_product_of_row": ("np.matmul(w, x, out=y)", "np.matmul(w * w, x, out=y)"),
    "lstm_continue": ("if position[0] + j == 0:", "if False:"),
    "lstm_continue cell": ("now[1] * cell[0]", "cell[0]"),
    "gru_continue": ("if position[0] + j == 0:", "if True:"),
    "gru_continue b": ("q += b", "q += 0 * b"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_a_wrong_term_is_noticed(name, monkeypatch):
    """Negative controls of the comparison with the whole sequence."""
    if name is not None:
        kernel = getattr(KERNELS, name.split()[0])
        source = textwrap.dedent(inspect.getsource(kernel.reference))
        source = source[source.index("def ") :]
        old, new = MUTANTS[name]
        assert source.count(old) == 1
        scope = dict(inspect.getmodule(kernel.reference).__dict__)
        exec(source.replace(old, new), scope)
        monkeypatch.setattr(kernel, "reference", scope[kernel.name])
    layers = [
        Embedding(11, 8), PositionalEmbedding(), fastgd.CausalSelfAttention(2), fastgd.LSTM(8, return_sequences=True),
        fastgd.GRU(8, return_sequences=True), Dense(11, tie="embedding", use_bias=False),
    ]  # fmt: skip
    network = Network(8, layers, loss="softmax_cross_entropy", backend="numpy", dtype="float64")
    network.parameters[:] = np.random.default_rng(2).normal(size=network.n_parameters)
    differs = False
    for length in range(1, 13):  # beyond the context, so the states begin anew
        tokens = network.generate([4, 1, 7], length, temperature=0)
        plan = network.executor._generator.decoder
        known = [4, 1, 7, *tokens[:-1]]
        start = 0 if len(known) <= 8 else len(known) - int(plan.past.position[0])
        expected = next_outputs(network, known, start)
        differs |= not np.allclose(plan.rows_of(plan.output)[0, 0], expected, rtol=1e-9, atol=1e-9)
    assert differs == (name is not None)


def test_a_stream_may_evaluate_but_not_train():
    network = model()
    x, y = np.ones((2, 9), int), np.ones((2, 9), int)
    losses = []
    network.generate([1], 3, stream=lambda new: losses.append(network.loss(x, y)))
    assert losses[0] == network.loss(x, y)
    with pytest.raises(RuntimeError, match="train"):
        network.generate([1], 3, stream=lambda new: network.train_step(x, y, fastgd.SGD(0.1)))
    inner, alone = [], network.generate([4], 30)
    outer = network.generate([1], 3, stream=lambda new: inner.append(network.generate([4], 30)))
    np.testing.assert_array_equal(inner[0], alone)
    np.testing.assert_array_equal(outer, network.generate([1], 3))


def test_a_callback_of_fit_may_generate():
    network, made = model(), []
    x = np.random.default_rng(0).integers(0, 23, (64, 9))
    before = network.generate([1], 9, temperature=0)
    network.fit(
        x,
        x,
        epochs=3,
        optimizer=fastgd.Adam(0.01),
        callbacks=[lambda run: made.append(network.generate([1], 9, temperature=0))],
    )
    assert len(made) == 3
    np.testing.assert_array_equal(made[-1], without_cache(network, [1], 9))
    assert made[-1].tolist() != before.tolist()


@pytest.mark.filterwarnings("ignore:activation 'risky'")
def test_users_functions_work_and_raise():
    def risky(x):
        return [0.3, -1.2, 0.8][int(abs(x))]

    with definitions():
        layers = [Embedding(7, 4), Dense(8, fastgd.custom.activation(risky)), Dense(7)]
        network = Network(5, layers, loss="softmax_cross_entropy")
        np.testing.assert_array_equal(network.generate([1], 9, temperature=0), without_cache(network, [1], 9))
        network.parameters[:] = 10
        with pytest.raises(IndexError, match="list index out of range"):
            network.generate([1], 9)
        network.parameters[:] = 0.1
        assert len(network.generate([1], 9)) == 9


REFUSED = [
    ({"prompt": []}, ValueError, "'prompt': expected at least one token, got none"),
    ({"prompt": [1, 23]}, ValueError, r"'prompt': expected tokens in \[0, 22\], got 23 at index 1"),
    ({"prompt": [-1]}, ValueError, r"'prompt': expected tokens in \[0, 22\], got -1 at index 0"),
    ({"prompt": [[1], [1, 2]]}, TypeError, "'prompt': expected a str or a sequence of tokens"),
    ({"prompt": [1.0]}, TypeError, "'prompt': expected a str or a sequence of tokens"),
    ({"prompt": "ab"}, ValueError, "'prompt': expected tokens, since the network has no vocabulary"),
    ({"length": 0}, ValueError, "'length': expected an integer >= 1"),
    ({"length": 2.5}, TypeError, "length"),
    ({"temperature": -0.1}, ValueError, "temperature"),
    ({"temperature": np.nan}, ValueError, "temperature"),
    ({"top_k": 0}, ValueError, "top_k"),
    ({"top_p": 0.0}, ValueError, "top_p"),
    ({"top_p": 1.1}, ValueError, "top_p"),
    ({"seed": -1}, ValueError, "seed"),
    ({"stream": 3}, TypeError, "'stream': expected a function of the new text, or None, got 3"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_is_refused(changes, error, message):
    network = model()
    with pytest.raises(error, match=message):
        network.generate(**{"prompt": [1], "length": 3, **changes})
    assert len(network.generate([1], 3)) == 3


def test_networks_that_cannot_generate():
    later = Network(5, [Embedding(7, 4), TransformerBlock(2, causal=False), Dense(7)], loss="softmax_cross_entropy")
    with pytest.raises(
        ValueError, match=r"expected layers whose outputs do not depend on later tokens, got SelfAttention"
    ):
        later.generate([1], 2)
    for network in (
        Network(5, [Embedding(7, 4), Flatten(), Dense(7)], loss="softmax_cross_entropy"),
        Network((5, 3), [Dense(7)], loss="softmax_cross_entropy"),
    ):
        with pytest.raises(ValueError, match=r"generate: expected a network with rows of tokens \(T,\)"):
            network.generate([1], 2)
    broken = model()
    broken.parameters[:] = np.nan
    with pytest.raises(ArithmeticError, match="finite"):
        broken.generate([1], 2)
