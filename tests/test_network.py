"""Network's public methods: shapes, views, plan, arrays used in place, and bad input that changes nothing."""

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Concatenate, Dense, Dropout, Flatten, Network, Reshape, Residual, Sequential, Standardize


def classifier(**options):
    return Network(5, [Dense(8, "relu"), Dense(3)], loss="softmax_cross_entropy", **options)


def test_forward_is_the_formula(backend, dtype, rng):
    network = classifier(backend=backend, dtype=dtype)
    x = rng.normal(size=(600, 5))
    w = {name: view.astype(np.float64) for name, view in network.views().items()}
    z = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(network.forward(x), z, rtol=tolerance, atol=tolerance)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(network.predict(x), p, rtol=tolerance, atol=tolerance)
    assert network.forward(x).dtype == dtype


@pytest.mark.float64
def test_predict_of_the_other_links(backend, rng):
    x = rng.normal(size=(4, 5))
    for loss, link in (("mse", lambda z: z), ("binary_cross_entropy", lambda z: 1 / (1 + np.exp(-z)))):
        network = Network(5, [Dense(2)], loss=loss, dtype="float64", backend=backend)
        np.testing.assert_allclose(network.predict(x), link(network.forward(x)), rtol=1e-14)


@pytest.mark.float64
def test_loss_is_the_mean_with_the_penalty(backend, rng):
    network = Network(5, [Dense(2)], loss="mse", l1=0.1, l2=0.2, dtype="float64", backend=backend)
    x, y = rng.normal(size=(700, 5)), rng.normal(size=(700, 2))
    w = network.views()["w1"]
    w[0, 0] = 0
    expected = ((network.forward(x) - y) ** 2).mean() + 0.1 * np.abs(w).sum() + 0.1 * (w * w).sum()
    assert network.loss(x, y) == pytest.approx(expected, rel=1e-12)
    loss, gradient = network.loss_and_gradient(x, y)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(gradient).all()


def test_a_last_layer_that_does_not_suit_the_loss_is_refused():
    for layer, loss, match in (
        (Dense(1), "softmax_cross_entropy", "'layers'.*2 outputs.*binary_cross_entropy"),
        (Dense(1, "sigmoid"), "binary_cross_entropy", "'layers'.*raw outputs.*applies sigmoid itself"),
    ):
        with pytest.raises(ValueError, match=match):
            Network(5, [Dense(8), layer], loss=loss)
    Network(5, [Dense(1, "sigmoid")], loss="mse")


def test_the_link_is_applied_once():
    made = Dense(1, "sigmoid")
    for layers in (
        [made, Flatten()],
        [made, Dropout(0.5), Reshape((1, 1))],
        [Sequential([made, Sequential([])])],
        [Concatenate(made, Dense(1))],
        [Concatenate([Dense(1)], [made]), Flatten()],
        [fastgd.LayerNorm("sigmoid")],
    ):
        with pytest.raises(ValueError, match="'layers'.*raw outputs.*sigmoid itself, got outputs of sigmoid()"):
            Network(1, [Dense(1), *layers], loss="binary_cross_entropy")
        Network(1, [Dense(1), *layers], loss="mse")
    for layers in ([Residual([made])], [made, Dense(1)], [made, Standardize(0.5)], [Residual([made]), Flatten()]):
        Network(1, layers, loss="binary_cross_entropy")


def test_parameters_are_views_of_one_aligned_buffer():
    network = classifier()
    assert network.parameters.size == 5 * 8 + 8 + 8 * 3 + 3
    assert network.parameters.ctypes.data % 64 == 0
    assert list(network.views()) == ["w1", "w2", "b1", "b2"]
    network.views()["b2"][1] = 7
    assert network.parameters[-2] == 7
    x = np.zeros((1, 5))
    assert network.forward(x)[0, 1] == 7


def test_train_step_uses_arrays_where_they_lie(backend, rng):
    network = classifier(backend=backend)
    x, y = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(0, 3, 6)
    x.flags.writeable = y.flags.writeable = False
    network.train_step(x, y, Adam())
    assert not network.executor.plan.own["x"].any()
    assert not network.executor.plan.own["y"].any()


def test_train_step_casts_what_it_cannot_use(backend, rng):
    x, y = rng.integers(0, 255, (6, 10)), rng.integers(0, 3, 6)
    usable = np.ascontiguousarray(x[:, ::2], np.float32)
    steps = []
    for xs, ys in (
        (usable, y),
        (x[:, ::2].astype(np.uint8), y.astype(np.uint8)),
        (np.asfortranarray(usable.astype(">f8")), y.astype(np.int32)),
        (usable.tolist(), y.tolist()),
    ):
        network = classifier(backend=backend)
        network.train_step(xs, ys, Adam())
        steps.append(network.parameters.copy())
    for step in steps[1:]:
        np.testing.assert_array_equal(step, steps[0])


def test_misaligned_input(backend, rng):
    raw = np.zeros(6 * 5 * 4 + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(6, 5)
    x[...] = rng.normal(size=(6, 5))
    network = classifier(backend=backend)
    np.testing.assert_array_equal(network.forward(x), network.forward(x.copy()))


def test_gradient_does_not_depend_on_the_workspace(backend, small):
    network, x, y = small
    network = Network(5, network.layers, loss="softmax_cross_entropy", backend=backend)
    loss, gradient = network.loss_and_gradient(x, y)
    plan = network.executor.gradient_plan(1, training=False)
    plan.workspace[:] = np.nan
    network.gradient[:] = np.nan
    plan.rows = 0
    again = network.loss_and_gradient(x, y)
    assert again[0] == loss
    np.testing.assert_array_equal(again[1], gradient)


@pytest.mark.float64
def test_any_number_of_rows_in_any_order(backend, rng):
    """One plan serves shorter minibatches: a row's result does not depend on the others."""
    network = classifier(backend=backend, dtype="float64")
    x, y = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
    expected = network.forward(x)
    for rows in (40, 1, 13, 40, 39):
        np.testing.assert_allclose(network.forward(x[:rows]), expected[:rows], rtol=1e-13)
        loss, gradient = network.loss_and_gradient(x[:rows], y[:rows])
        fresh = classifier(backend=backend, dtype="float64").loss_and_gradient(x[:rows], y[:rows])
        assert loss == pytest.approx(fresh[0], rel=1e-14)
        np.testing.assert_array_equal(gradient, fresh[1])


def test_same_seed_same_parameters():
    np.testing.assert_array_equal(classifier(seed=1).parameters, classifier(seed=1).parameters)
    assert not np.array_equal(classifier(seed=1).parameters, classifier(seed=2).parameters)


def test_describe_shows_the_plan(backend):
    text = classifier(backend=backend, l2=0.1).describe()
    lines = text.splitlines()
    assert "5-8-3" in lines[0]
    assert [line.split() for line in lines[1:3]] == [
        ["1", "Dense(8,", "relu())", "->", "8,", "48", "parameters"],
        ["2", "Dense(3,", "identity())", "->", "3,", "27", "parameters"],
    ]
    phases = [line.split()[0] for line in lines[3:]]
    assert phases == sorted(phases, key=fastgd.engine.plan.PHASES.index)
    assert all(line.endswith(backend) for line in lines[3:])
    for kernel in ("dense_forward", "relu_backward", "softmax_cross_entropy_labels_loss", "penalty_gradient"):
        assert kernel in text


# ---- bad input


NOT_FINITE = np.full((11, 5), np.nan)
ONE_INF = np.zeros((11, 5))
ONE_INF[3, 2] = np.inf
BAD_X = {
    "one dimension": (np.zeros(5), ValueError, "2-D.*reshape"),
    "three dimensions": (np.zeros((1, 11, 5)), ValueError, "2-D"),
    "features": (np.zeros((11, 4)), ValueError, "5 features.*4"),
    "no rows": (np.zeros((0, 5)), ValueError, "at least 1 row"),
    "nan": (NOT_FINITE, ValueError, r"finite.*nan.*\(0, 0\)"),
    "inf": (ONE_INF, ValueError, r"finite.*inf.*\(3, 2\)"),
    "overflow in float32": (np.full((11, 5), 1e300), ValueError, "finite.*inf"),
    "text": (np.full((11, 5), "a"), TypeError, "real numbers.*<U1"),
    "object": (np.full((11, 5), None), TypeError, "real numbers.*object"),
    "complex": (np.zeros((11, 5), complex), TypeError, "real numbers.*complex128"),
    "ragged": ([[1.0, 2.0], [1.0]], TypeError, "real numbers"),
    "masked": (np.ma.zeros((11, 5)), TypeError, "mask"),
    "none": (None, TypeError, "real numbers"),
}
BAD_Y = {
    "rows": (np.zeros(10, int), ValueError, r"\(11,\).*\(10,\)"),
    "too large": (np.full(11, 3), ValueError, r"\[0, 2\].*3.*index 0"),
    "negative": (np.full(11, -1), ValueError, r"\[0, 2\].*-1"),
    "float labels": (np.zeros(11), TypeError, "integer labels.*float64.*astype"),
    "column": (np.zeros((11, 1), int), ValueError, "shape"),
    "sum": (np.full((11, 3), 0.5), ValueError, "sum to 1"),
    "negative probability": (np.tile([1.5, -0.5, 0.0], (11, 1)), ValueError, "sum to 1"),
    "nan": (np.full((11, 3), np.nan), ValueError, "index"),
    "text": (np.full(11, "a"), TypeError, "real numbers"),
}


def unchanged(network, optimizer, call, error, match):
    parameters = network.parameters.copy()
    state = {slot: [a.copy() for a in arrays] for slot, arrays in optimizer.state.items()}
    steps = optimizer.steps
    with pytest.raises(error, match=match):
        call()
    np.testing.assert_array_equal(network.parameters, parameters)
    assert optimizer.steps == steps
    for slot, arrays in state.items():
        for held, array in zip(arrays, optimizer.state[slot], strict=True):
            np.testing.assert_array_equal(held, array)


@pytest.mark.parametrize("case", BAD_X)
def test_bad_x(case, backend, small):
    _, good, y = small
    x, error, match = BAD_X[case]
    network, optimizer = classifier(backend=backend), Adam()
    network.train_step(good, y, optimizer)
    for name, call in (
        ("x", lambda: network.forward(x)),
        ("x", lambda: network.predict(x)),
        ("x", lambda: network.loss(x, y)),
        ("x", lambda: network.loss_and_gradient(x, y)),
        ("x", lambda: network.train_step(x, y, optimizer)),
        ("X", lambda: network.fit(x, y, optimizer=optimizer)),
    ):
        unchanged(network, optimizer, call, error, f"'{name}'.*{match}")


@pytest.mark.parametrize("case", BAD_Y)
def test_bad_y(case, backend, small):
    _, x, good = small
    y, error, match = BAD_Y[case]
    network, optimizer = classifier(backend=backend), Adam()
    network.train_step(x, good, optimizer)
    for call in (
        lambda: network.loss(x, y),
        lambda: network.loss_and_gradient(x, y),
        lambda: network.train_step(x, y, optimizer),
        lambda: network.fit(x, y, optimizer=optimizer),
        lambda: network.fit(x, good, optimizer=optimizer, epochs=1, validation_data=(x, y)),
    ):
        unchanged(network, optimizer, call, error, f"'(y|validation_data.1.)'.*{match}")


@pytest.mark.parametrize("y", [np.full((11, 2), 1.5), np.full((11, 2), -0.1), np.full((11, 2), np.inf)])
def test_bad_binary_targets(y, backend, small):
    _, x, _ = small
    network, optimizer = Network(5, [Dense(2)], loss="binary_cross_entropy", backend=backend), Adam()
    for call in (lambda: network.loss(x, y), lambda: network.train_step(x, y, optimizer)):
        unchanged(network, optimizer, call, ValueError, "'y'.*index")


BAD_OPTIONS = {
    "input_shape 0": (lambda: Network(0, [Dense(1)], loss="mse"), ValueError, "'input_shape'.*>= 1.*0"),
    "input_shape float": (lambda: Network(2.0, [Dense(1)], loss="mse"), TypeError, "'input_shape'.*float"),
    "input_shape in it": (lambda: Network((3, 0), [Dense(1)], loss="mse"), ValueError, "'input_shape\\[1\\]'.*>= 1.*0"),
    "input_shape ()": (lambda: Network((), [Dense(1)], loss="mse"), ValueError, "'input_shape'.*one axis"),
    "no layers": (lambda: Network(2, [], loss="mse"), ValueError, "'layers'"),
    "not layers": (lambda: Network(2, [3], loss="mse"), TypeError, "'layers'"),
    "activation as layer": (lambda: Network(2, [fastgd.activations.relu], loss="mse"), TypeError, "'layers'"),
    "class as layer": (lambda: Network(2, [Dense], loss="mse"), TypeError, "'layers'"),
    "units huge": (lambda: Dense(10**30), ValueError, "'units'.*below 2"),
    "huge number": (lambda: classifier(l2=10**400), ValueError, "'l2'.*finite"),
    "initial overflow": (lambda: Network(1, [Dense(1, weight_init=np.full((1, 1), 1e300))], loss="mse"), ValueError,
                         "initial values of w1.*finite in float32"),
    "dtype None": (lambda: classifier(dtype=None), TypeError, "'dtype'"),
    "flat": (lambda: classifier().views(np.zeros(3)), ValueError, "'flat'.*75 elements"),
    "warm-up": (lambda: fastgd.schedules.cosine(0.1, 10, warmup_steps=11), ValueError, "'warmup_steps'.*10.*11"),
    "units": (lambda: Dense(0), ValueError, "'units'.*>= 1.*0"),
    "units bool": (lambda: Dense(True), TypeError, "'units'"),
    "activation": (lambda: Dense(1, "rleu"), ValueError, "'activation'.*'rleu'; did you mean 'relu'"),
    "activation type": (lambda: Dense(1, 3), TypeError, "'activation'.*3"),
    "initializer": (lambda: Dense(1, weight_init="he"), ValueError, "'weight_init'"),
    "initial shape": (lambda: Network(2, [Dense(1, weight_init=np.zeros((1, 2)))], loss="mse"), ValueError,
                      r"'weight_init'.*\(2, 1\).*\(1, 2\)"),
    "initial nan": (lambda: Dense(1, bias_init=np.array([np.nan])), ValueError, "'bias_init'.*finite"),
    "loss": (lambda: Network(2, [Dense(1)], loss="mean"), ValueError, "'loss'.*'mean'"),
    "loss parameter": (lambda: fastgd.losses.huber(delta=0), ValueError, "'delta'"),
    "loss option": (lambda: fastgd.losses.huber(delt=1), ValueError, "'delt'; did you mean 'delta'"),
    "smoothing": (lambda: fastgd.losses.softmax_cross_entropy(label_smoothing=1.5), ValueError, "'label_smoothing'"),
    "slope": (lambda: fastgd.activations.leaky_relu(negative_slope=-1), ValueError, "'negative_slope'"),
    "dtype": (lambda: classifier(dtype="float16"), ValueError, "'dtype'.*float16"),
    "dtype type": (lambda: classifier(dtype=3.5), TypeError, "'dtype'"),
    "backend": (lambda: classifier(backend="cyton"), ValueError, "'cyton'; did you mean 'cython'"),
    "seed": (lambda: classifier(seed=-1), ValueError, "'seed'"),
    "l2": (lambda: classifier(l2=-1.0), ValueError, "'l2'"),
    "l1 nan": (lambda: classifier(l1=float("nan")), ValueError, "'l1'.*nan"),
    "threads": (lambda: classifier(num_threads=0), ValueError, "'num_threads'.*>= 1.*0"),
    "many threads": (lambda: classifier(num_threads=257), ValueError, "'num_threads'.*256.*257"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case):
    make, error, match = BAD_OPTIONS[case]
    with pytest.raises(error, match=match):
        make()


def test_optimizer_must_be_one(small):
    network, x, y = small
    for optimizer in ("adam", None, Adam):
        with pytest.raises(TypeError, match="'optimizer'"):
            network.train_step(x, y, optimizer)


# Values at the ends of their ranges: accepted ones, then refused ones.
POSITIVE, NOT_NEGATIVE, COUNT = ((1e-30, 1e30), (0.0,)), ((0.0, 1e30), (-1e-30,)), ((1, 2), (0,))
NUMBER = ((0, 1), (-1,))
LIMITS = [
    (Network, "input_shape", COUNT), (Network, "l1", NOT_NEGATIVE), (Network, "l2", NOT_NEGATIVE),
    (Network, "seed", NUMBER), (Dense, "units", COUNT), (fastgd.Dropout, "rate", ((0.0, 0.999), (-1e-9, 1.0))),
    (fastgd.LayerNorm, "eps", POSITIVE), (fastgd.BatchNorm, "eps", POSITIVE),
    (fastgd.BatchNorm, "momentum", ((1e-9, 1.0), (0.0, 1.001))),
    (fastgd.activations.leaky_relu, "negative_slope", NOT_NEGATIVE), (fastgd.activations.elu, "alpha", POSITIVE),
    (fastgd.losses.huber, "delta", POSITIVE), (fastgd.initializers.orthogonal, "gain", POSITIVE),
    (fastgd.losses.softmax_cross_entropy, "label_smoothing", ((0.0, 1.0), (-1e-9, 1.001))),
    (fastgd.metrics.top_k, "k", COUNT), ("fit", "epochs", NUMBER), ("fit", "batch_size", COUNT),
    ("fit", "patience", COUNT), ("fit", "tolerance", NOT_NEGATIVE), ("fit", "checkpoint_every", COUNT),
    ("fit", "validation_fraction", ((0.2, 0.8), (0.0, 1.0))), ("loss_and_gradient", "minibatch", NUMBER),
    ("memory_estimate", "batch_size", COUNT), ("check_gradients", "step", ((1e-9, 1e-3), (0.0,))),
    ("minibatches", "seed", NUMBER), ("minibatches", "epoch", NUMBER), ("minibatches", "batch_size", COUNT),
]  # fmt: skip


@pytest.mark.parametrize(("taker", "name", "values"), LIMITS)
def test_limits_of_options(taker, name, values, tmp_path):
    X, y = np.ones((5, 2)), np.ones((5, 1))
    network = Network(2, [Dense(1)], loss="mse")
    given = {"loss": "mse", "layers": [Dense(1)], "input_shape": 2} if taker is Network else {}
    calls = {
        "fit": lambda **options: network.fit(X, y, **{"epochs": 1, "checkpoint": tmp_path / "c"} | options),
        "loss_and_gradient": lambda **options: network.loss_and_gradient(X, y, training=True, **options),
        "memory_estimate": network.memory_estimate,
        "check_gradients": lambda **options: fastgd.check_gradients(network, X, y, **options),
        "minibatches": lambda **options: list(fastgd.minibatches(X, y, **{"batch_size": 2} | options)),
    }
    call = calls.get(taker, taker)
    for value in values[0]:
        call(**given | {name: value})
    for value in values[1]:
        with pytest.raises(ValueError, match=f"'{name}'"):
            call(**given | {name: value})


def test_what_has_a_name_and_parameters_is_equal_to_its_like():
    for choice, other in (
        (fastgd.activations.leaky_relu, {"negative_slope": 0.5}), (fastgd.losses.huber, {"delta": 0.5}),
        (fastgd.initializers.orthogonal, {"gain": 0.5}), (fastgd.metrics.top_k, {"k": 2}),
    ):  # fmt: skip
        assert len({choice, choice(), choice(**choice.parameters)}) == 1
        assert len({choice, choice(**other)}) == 2


def test_orthogonal_weights_of_several_axes_are_orthogonal_by_unit():
    orthogonal = fastgd.initializers.orthogonal(gain=2.0)
    for shape in ((3, 3, 4, 8), (2, 1, 3, 8), (5, 3), (3, 5)):
        values = orthogonal.values(np.random.default_rng(1), shape, (1, 1), **orthogonal.parameters)
        matrix = values.reshape(-1, shape[-1])
        product = matrix.T @ matrix if len(matrix) >= shape[-1] else matrix @ matrix.T
        np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-14)


def test_user_arrays_and_orthogonal_initializers():
    w = np.arange(6.0).reshape(2, 3)
    network = Network(
        2, [Dense(3, weight_init=w, bias_init=np.ones(3)), Dense(5, weight_init="orthogonal")], loss="mse"
    )
    np.testing.assert_array_equal(network.views()["w1"], w)
    np.testing.assert_array_equal(network.views()["b1"], np.ones(3))
    q = network.views()["w2"]
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-6)
    tall = Network(5, [Dense(3, weight_init=fastgd.initializers.orthogonal(gain=2.0))], loss="mse").views()["w1"]
    np.testing.assert_allclose(tall.T @ tall, 4 * np.eye(3), atol=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_initializers_have_their_variance(kind):
    """All of a kind draw the same numbers, so the ratios of their variances are exact."""
    drawn = []
    for name, variance in (("glorot", 2 / 500), ("he", 2 / 300), ("lecun", 1 / 300)):
        layers = [Dense(200, weight_init=f"{name}_{kind}")]
        drawn.append(Network(300, layers, loss="mse", dtype="float64").views()["w1"] / variance**0.5)
        np.testing.assert_allclose(drawn[-1], drawn[0], atol=1e-12)
    assert drawn[0].var() == pytest.approx(1.0, rel=0.015)
    assert abs(drawn[0].mean()) < 4 / drawn[0].size ** 0.5
    if kind == "uniform":
        assert 0.999 * 3**0.5 < np.abs(drawn[0]).max() <= 3**0.5


@pytest.mark.parametrize("n_in", [1, 4, 300])
def test_torch_gives_weights_and_biases_the_bounds_of_torch(n_in, dtype):
    """kaiming_uniform_(a=sqrt(5)) has the gain sqrt(2 / (1 + a^2)) = sqrt(1 / 3), the bound gain sqrt(3 / fan_in)."""
    bound, units = (1 / 3) ** 0.5 * (3 / n_in) ** 0.5, 4000
    views = Network(n_in, [Dense(units, weight_init="torch", bias_init="torch")], loss="mse", dtype=dtype).views()
    for values in views.values():
        n = values.size
        assert 0.999 * bound < np.abs(values).max() <= bound * (1 + 1e-7)
        assert abs(values.mean(dtype="f8")) < 4 * bound / (3 * n) ** 0.5
        assert values.var(dtype="f8") == pytest.approx(bound**2 / 3, rel=4 * (0.8 / n) ** 0.5)
        assert np.histogram(values, 8, (-bound, bound))[0].min() > n / 8 - 4 * (n / 8) ** 0.5
    w, b = views["w1"], views["b1"]
    assert not np.array_equal(w[0], b)


def test_biases_have_the_fans_of_their_layer():
    for name, variance in (("he_normal", 2 / 50), ("glorot_uniform", 2 / 8050), ("lecun_uniform", 1 / 50)):
        b = Network(50, [Dense(8000, bias_init=name)], loss="mse").views()["b1"]
        assert b.var() == pytest.approx(variance, rel=0.1)


def test_torch_is_drawn_by_the_seed_and_saved(tmp_path):
    layers = [Dense(7, "relu", weight_init="torch", bias_init="torch"), Dense(2, weight_init="torch")]
    one, same, other = (Network(5, layers, loss="mse", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.parameters, same.parameters)
    assert not np.array_equal(one.parameters, other.parameters)
    assert one.views()["b1"].all()
    assert not one.views()["b2"].any()
    one.save(tmp_path / "m")
    np.testing.assert_array_equal(fastgd.load(tmp_path / "m")[0].parameters, one.parameters)
    np.testing.assert_array_equal(one.like(seed=4).parameters, other.parameters)


def test_like_makes_a_fresh_network(small):
    network, x, y = small
    network.fit(x, y, epochs=2)
    twin = network.like()
    assert (twin.epochs, twin.history) == (0, None)
    np.testing.assert_array_equal(twin.parameters, network.like().parameters)
    assert not np.array_equal(twin.parameters, network.parameters)
    other = network.like(seed=1, dtype="float64")
    assert (other.seed, str(other.dtype), other.layers) == (1, "float64", network.layers)
    assert not np.array_equal(other.parameters, twin.parameters)
    with pytest.raises(TypeError, match="seeds"):
        network.like(seeds=1)


def test_a_gradient_of_bad_rows_leaves_the_last_gradient(small):
    network, x, y = small
    network.train_step(x, y, Adam())
    before, x[3, 1] = network.gradient.copy(), np.nan
    for training in (False, True):
        with pytest.raises(ValueError, match="'x'"):
            network.loss_and_gradient(x, y, training=training)
        np.testing.assert_array_equal(network.gradient, before)


def test_messages_name_the_shapes_that_were_given():
    network = Network((3, 2), [Dense(1)], loss="mse")
    with pytest.raises(ValueError, match=r"'x': expected a 3-D array \(rows, 3, 2\), got .*\(2,\)$"):
        network.predict(np.ones(2))
    with pytest.raises(ValueError, match=r"'y': expected .*\(4, 3, 1\), got .*\(4, 12\)"):
        network.loss(np.ones((4, 3, 2)), np.ones((4, 12)))
