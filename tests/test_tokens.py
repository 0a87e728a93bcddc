"""Networks whose input are tokens: embeddings, ids out of range, shared matrices, memory."""

import copy
import math
import pickle

import numpy as np
import onnxruntime
import pytest
from cases import check_gradient

import fastgd
from fastgd import CausalSelfAttention, Concatenate, Dense, Dropout, Embedding, LayerNorm, Network, PositionalEmbedding

V, T, C = 11, 6, 8


def make(layers=None, *, vocabulary=V, **options):
    first = [Embedding(vocabulary, C, weight_init="glorot_normal"), PositionalEmbedding(weight_init="glorot_normal")]
    last = [LayerNorm(), Dense(vocabulary, use_bias=False, tie="w1.T")] if layers is None else layers
    return Network(T, [*first, *last], loss="softmax_cross_entropy", **options)


@pytest.fixture
def tokens(rng):
    return rng.integers(0, V, (9, T)), rng.integers(0, V, (9, T))


# Layers behind the embeddings.
LAYERS = {
    "dense": lambda: [Dense(V)],
    "tied": lambda: None,
    "tied, with a bias": lambda: [Dense(V, tie="w1.T")],
    "tied to the embedding": lambda: [Dense(V, tie="embedding")],
    "tied three times": lambda: [Dense(V, "tanh", tie="w1.T"), Dense(C, tie="w1"), Dropout(0.2), Dense(V, tie="w1.T")],
    "attention": lambda: [CausalSelfAttention(2, 0.3), Dense(V, use_bias=False)],
    "padding": lambda: [fastgd.SelfAttention(2, 0.2, padding=3), Dense(V)],
    "block": lambda: [fastgd.TransformerBlock(2, dropout=0.1), Dense(V)],
}


@pytest.mark.float64
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_gradient(name, training, backend, tokens):
    network = make(LAYERS[name](), dtype="float64", backend=backend, seed=3)
    # The gradient of a mean over positions is small, so rounding needs wide differences; LayerNorm needs narrow ones.
    step = 3e-3 if name in ("attention", "padding") else 1e-3
    check_gradient(network, *tokens, step=step, training=training)


@pytest.mark.float64
def test_gradient_of_two_embeddings(backend, tokens):
    """Branches with an embedding each; both keep the gradient that a layer in between overwrites."""
    branches = Concatenate([Embedding(V, 3), Dropout(0.3)], Embedding(V, 4))
    network = Network(T, [branches, Dense(V)], loss="softmax_cross_entropy", dtype="float64", backend=backend)
    check_gradient(network, *tokens, training=True)
    residual = fastgd.Residual([Embedding(V, 4), Dropout(0.3)], Embedding(V, 4))
    network = Network(T, [residual, Dense(V)], loss="softmax_cross_entropy", dtype="float64", backend=backend)
    check_gradient(network, *tokens, training=True)


@pytest.mark.float64
@pytest.mark.parametrize("compiled", ["numba", "cython"])
@pytest.mark.parametrize("name", LAYERS)
def test_backends_train_alike(name, compiled, tokens):
    runs = {}
    for backend in ("numpy", compiled):
        network = make(LAYERS[name](), dtype="float64", backend=backend)
        history = network.fit(*tokens, optimizer=fastgd.SGD(0.1), epochs=3, batch_size=4)
        runs[backend] = np.array([*history.loss, *network.state, *network.predict(tokens[0]).ravel()])
    np.testing.assert_allclose(runs[compiled], runs["numpy"], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("every_step_is_shared")
@pytest.mark.parametrize(("vocabulary", "pass_of_few"), [(40, "step"), (9000, "fused")])
@pytest.mark.parametrize("name", ["tied", "block"])
def test_bits_do_not_depend_on_threads(name, vocabulary, pass_of_few, rng):
    """For minibatches of many rows, which have more activations than there are parameters, and of fewer rows than there
    are threads."""
    x, y = rng.integers(0, vocabulary, (50, T)), rng.integers(0, vocabulary, (50, T))
    for rows in (24, 2, 1):
        states = []
        for num_threads in (1, 2, 3):
            layers = LAYERS[name]() if name == "tied" else [*LAYERS[name]()[:1], Dense(vocabulary, tie="w1.T")]
            network = make(layers, vocabulary=vocabulary, num_threads=num_threads)
            for begin in (0, 24):
                network.fit(x[begin : begin + rows], y[begin : begin + rows], optimizer=fastgd.Adam(0.01), epochs=1,
                            batch_size=rows)  # fmt: skip
            assert network.executor.plan.best_pass == ("step" if rows == 24 else pass_of_few)
            states.append(network.state.copy())
        for other in states[1:]:
            np.testing.assert_array_equal(other, states[0])


def test_tied_to_the_embedding_by_either_name(tokens, tmp_path):
    """... also where it is within another layer; the same bits, saved and loaded."""
    first = fastgd.Sequential([Embedding(V, C), PositionalEmbedding()])
    nets = []
    for tie in ("w1.1.T", "embedding"):
        net = Network(T, [first, Dense(V, use_bias=False, tie=tie)], loss="softmax_cross_entropy")
        net.fit(*tokens, epochs=2)
        net.save(tmp_path / "net.safetensors")
        nets += [net, fastgd.load(tmp_path / "net.safetensors")[0]]
    assert repr(nets[3].layers[1]) == "Dense(11, identity(), use_bias=False, tie='embedding')"
    for net in nets:
        assert list(net.views()) == ["w1.1", "p1.2"]
        np.testing.assert_array_equal(net.parameters, nets[0].parameters)


def test_a_frequent_token_keeps_its_digits(backend, dtype):
    """Several hundred thousand like gradients of one token, which a float32 sum would get wrong in the fourth digit."""
    rows, n = 300_000, 3
    tokens, dy = np.zeros(rows, dtype), np.full((rows, n), 0.1, dtype)
    tokens[::3] = 2
    dw = np.ones((4, n), dtype)
    fastgd.kernels.embedding_backward.body(backend)(dw, tokens, dy)
    expected = 1 + np.array([200_000, 0, 100_000, 0]) * float(dy[0, 0])
    np.testing.assert_allclose(dw, np.repeat(expected[:, None], n, axis=1), rtol=3e-7 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_ids_out_of_range_give_nan_and_touch_nothing(body, dtype):
    tokens = np.array([0, -1, 3, 0.5, np.nan, 2, 1e30], dtype)
    w, y, dw = np.arange(6, dtype=dtype).reshape(3, 2), np.zeros((7, 2), dtype), np.zeros((3, 2), dtype)
    fastgd.kernels.embedding_forward.body(body)(y, tokens, w)
    np.testing.assert_array_equal(y[[0, 5]], w[[0, 2]])
    assert np.isnan(y[[1, 2, 3, 4, 6]]).all()
    fastgd.kernels.embedding_backward.body(body)(dw, tokens, np.ones((7, 2), dtype))
    np.testing.assert_array_equal(dw, [[1, 1], [0, 0], [1, 1]])
    max_abs = np.zeros(7, dtype)
    fastgd.kernels.max_abs_of_tokens.body(body)(max_abs, tokens[:, None], w)
    np.testing.assert_array_equal(max_abs, [0, np.nan, np.nan, np.nan, np.nan, 2, np.nan])


CALLS = {
    "predict": lambda net, x, y: net.predict(x),
    "forward": lambda net, x, y: net.forward(x),
    "record": lambda net, x, y: net.forward(x, record=True),
    "loss": lambda net, x, y: net.loss(x, y),
    "evaluate": lambda net, x, y: net.evaluate(x, y, metrics=["accuracy"]),
    "gradient": lambda net, x, y: net.loss_and_gradient(x, y),
    "train_step": lambda net, x, y: net.train_step(x, y, net.optimizer),
    "fit": lambda net, x, y: net.fit(x, y, optimizer=net.optimizer),
    "validation": lambda net, x, y: net.fit(np.zeros_like(x), y, optimizer=net.optimizer, validation_data=(x, y)),
}


@pytest.mark.parametrize("name", CALLS)
def test_ids_out_of_range_are_named(name, backend, tokens):
    """Slow and fast paths, for whatever dtype; nothing changes."""
    x, y = tokens
    network = make(backend=backend)
    network.optimizer = fastgd.Adam(0.01)
    for kind in (np.float32, np.int64):
        for _ in range(3):
            CALLS[name](network, x.astype(kind), y)
        before = network.state.copy()
        for bad in (V, -1, 2**40, *((0.5, np.nan, np.inf) if kind is np.float32 else ())):
            spoilt = x.astype(kind)
            spoilt[4, 2] = bad
            with pytest.raises(ValueError, match=r"token ids, whole numbers in \[0, 10\], got .* at index \(4, 2\)"):
                CALLS[name](network, spoilt, y)
            np.testing.assert_array_equal(network.state, before)
            CALLS[name](network, x.astype(kind), y)
            before = network.state.copy()


def test_tokens_of_any_dtype_are_the_same(tokens):
    network, x = make(), tokens[0]
    expected = network.predict(x)
    for kind in ("u1", "i4", "u2", "f8", ">i2", "f4"):
        np.testing.assert_array_equal(network.predict(x.astype(kind)), expected)


def test_the_largest_vocabulary():
    """float32 holds every id."""
    assert Embedding(2**24, 1).vocabulary == 2**24
    assert int(np.float32(2**24 - 1)) == 2**24 - 1
    with pytest.raises(ValueError, match="'vocabulary'.*2\\^24.*16,777,217"):
        Embedding(2**24 + 1, 1)


def test_tokens_have_no_gradient(tokens):
    network, x = make(), tokens[0]
    z = network.forward(x, record=True)
    with pytest.raises(ValueError, match="'input_gradient'.*False.*tokens"):
        network.backward(np.ones_like(z))
    expected = network.loss_and_gradient(*tokens)[1]
    p = network.predict(x)
    p[np.arange(9)[:, None], np.arange(T), tokens[1]] -= 1
    for _ in range(3):  # the outputs share the memory of their gradient
        network.forward(x, record=True)
        for _ in range(2):
            assert network.backward(p / x.size, input_gradient=False) is None
            np.testing.assert_allclose(network.gradient, expected, rtol=1e-4, atol=1e-7)


BAD = {
    "not first": (lambda: make([Dense(3), Embedding(4, 2), Dense(V)]), "'layers'.*first layer.*layer 4"),
    "no vocabulary": (lambda: Embedding(0, 2), "'vocabulary'.*>= 1"),
    "no width": (lambda: Embedding(3, 0), "'width'.*>= 1"),
    "vectors": (lambda: Network(3, [PositionalEmbedding(), Dense(2)], loss="mse"), r"'layers'.*\(T, C\).*\(3,\)"),
    "tied to another shape": (lambda: make([Dense(V + 1, tie="w1.T")]), "'tie'"),
    "an embedding of another shape": (lambda: make([Dense(V + 1, tie="embedding")]), "'tie'.*'embedding' of shape"),
    "no embedding": (
        lambda: Network(3, [Dense(3), Dense(3, tie="embedding")], loss="mse"),
        "'tie'.*'embedding', not one",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()


def test_a_layer_after_the_embedding_has_its_own_check(tokens):
    """Where a branch has fewer tokens, ids must be below all vocabularies."""
    network = Network(T, [Concatenate(Embedding(V, 3), Embedding(5, 4)), Dense(V)], loss="softmax_cross_entropy")
    assert network.vocabulary == 5
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        network.predict(np.full((1, T), 5))


def test_saved_loaded_pickled_and_copied(tokens, tmp_path):
    network, optimizer = make(LAYERS["block"]()), fastgd.AdamW(0.01, decay_biases=False)
    network.fit(*tokens, optimizer=optimizer, epochs=2)
    network.save(tmp_path / "net.safetensors", optimizer=optimizer)
    loaded, its_optimizer = fastgd.load(tmp_path / "net.safetensors")
    assert repr(loaded.layers) == repr(network.layers)
    for other in (loaded, pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        np.testing.assert_array_equal(other.predict(tokens[0]), network.predict(tokens[0]))
        assert other.vocabulary == V
    for net, opt in ((network, optimizer), (loaded, its_optimizer)):
        net.fit(*tokens, optimizer=opt, epochs=1)
    np.testing.assert_array_equal(loaded.state, network.state)


@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_agrees(name, dtype, tokens, tmp_path):
    network, x = make(LAYERS[name](), dtype=dtype), tokens[0].copy()
    x[3] = 3  # padding alone
    network.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for rows in (slice(0, 9), slice(0, 1)):
        got, expected = session.run(["prediction"], {"x": x[rows].astype(dtype)})[0], network.predict(x[rows])
        np.testing.assert_allclose(got, expected, rtol=2e-5 if dtype == "float32" else 1e-11)


def test_a_large_vocabulary_takes_its_logits_and_one_gradient(rng):
    """The logits become their gradient, and the gradients of the shared matrix are added where they lie."""
    vocabulary, rows = 20_000, 4
    network = make(vocabulary=vocabulary)
    plan = network.executor.training_plan(rows)
    logits = 4 * rows * T * vocabulary
    assert logits < plan.workspace.nbytes < logits + 100_000
    assert not [name for name, kind in plan._declared.items() if kind == "a vector" and "+" in name]
    assert network.memory_estimate(rows)["workspace"] == plan.bytes_for(rows)
    # The outputs stay where the backward pass needs them.
    kept = make([Dense(vocabulary, "tanh", tie="w1.T")], vocabulary=vocabulary)
    assert kept.executor.training_plan(rows).workspace.nbytes > 2 * logits


@pytest.mark.parametrize("name", [name for name, kernel in vars(fastgd.kernels).items() if kernel.in_place])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_kernels_that_work_in_place(name, smoothing, backend, dtype, rng):
    for rows, k in ((70, 3), (5, 40), (3, 9000)):
        z, y = rng.normal(size=(rows, k)).astype(dtype), rng.integers(0, k, rows)
        weight, dz, losses = rng.random(rows).astype(dtype), np.empty((rows, k), dtype), np.empty((2, rows), dtype)
        kernel = getattr(fastgd.kernels, name).body(backend)
        kernel(losses[0], dz, z, y, weight, smoothing)
        kernel(losses[1], z, z, y, weight, smoothing)
        np.testing.assert_array_equal(z, dz)
        np.testing.assert_array_equal(losses[1], losses[0])


def test_gpt(tokens):
    network = fastgd.models.gpt(50, T, 3, 2, C, dropout=0.1, seed=1)
    block = 12 * C * C + 13 * C
    assert network.n_parameters == 50 * C + T * C + 3 * block + 2 * C
    assert network.output_shape == (T, 50)
    views = network.views()
    for name, view in views.items():
        if name.startswith("b"):
            assert not view.any(), name
        elif name.startswith("gamma"):
            assert (view == 1).all(), name
        else:
            is_projection = name.startswith("w_out") or name.endswith(".2.3")
            std = 0.02 / math.sqrt(6) if is_projection else 0.02
            assert view.std() == pytest.approx(std, rel=5 / math.sqrt(view.size)), name
    assert network.loss(tokens[0], tokens[1]) == pytest.approx(math.log(50), rel=0.02)


def test_weight_decay_leaves_out_biases_and_normalization(tokens):
    network = fastgd.models.gpt(V, T, 1, 2, C)
    before = {name: view.copy() for name, view in network.views().items()}
    for name, view in network.views().items():
        if name.startswith("b"):
            view[...] = before[name] = np.ones_like(view)
    network.gradient[:] = 0
    fastgd.AdamW(0.1, weight_decay=0.5, decay_biases=False).step(network)
    for name, view in network.views().items():
        factor = 0.95 if name[0] in "wp" else 1
        np.testing.assert_allclose(view, factor * before[name], rtol=1e-6, err_msg=name)


def test_gpt_learns(rng):
    """To say what came three tokens ago, which only attention can."""
    x = rng.integers(0, V, (200, 12))
    y = np.concatenate([np.zeros((200, 3), int), x[:, :-3]], axis=1)
    network = fastgd.models.gpt(V, 12, 1, 2, 32)
    network.fit(x, y, optimizer=fastgd.AdamW(1e-2), epochs=30, batch_size=20)
    test = rng.integers(0, V, (50, 12))
    assert (network.predict(test).argmax(axis=2)[:, 3:] == test[:, :-3]).mean() > 0.95
