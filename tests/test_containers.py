"""Containers of layers, nested to any depth, and parameters that layers share."""

import numpy as np
import pytest
from cases import check_gradient

import fastgd
from fastgd import BatchNorm, Concatenate, Dense, Dropout, Flatten, LayerNorm, Network, Reshape, Residual, Sequential
from fastgd.engine import plan

SIZE, OUTPUTS, ROWS = 6, 3, 10
NETWORKS = {
    "sequential": [Sequential([Dense(5, "tanh"), Sequential([LayerNorm(), Sequential([])])]), Dense(OUTPUTS)],
    "residual": [Residual([Dense(9, "gelu"), Dense(SIZE, "tanh")]), Dense(OUTPUTS)],
    # The inner layers write to the gradient that the skip connection needs, too.
    "in place": [Dense(SIZE, "tanh"), Residual([Dense(SIZE, "tanh"), Dropout(0.3)]),
                 Residual([Residual([Dense(SIZE, "tanh")])]),
                 Residual([Residual([Dense(SIZE, "tanh")]), Dropout(0.3)]), Dense(OUTPUTS)],
    # The shortcut writes to the gradient that gradients within f read, or that f returns.
    "shortcut in place": [Residual([Dense(4)], [Dense(4, "tanh")]), Residual([], [Dense(4, "silu")]), Dense(OUTPUTS)],
    "shortcut within": [Residual([Residual([Dense(4, "tanh")], [Dense(4, "tanh")])], Dense(4, "tanh")), Dense(OUTPUTS)],
    "nothing": [Dense(SIZE, "tanh"), Residual([]), Residual([Dropout(0.4)]), Concatenate([], []), Dense(OUTPUTS)],
    "branches": [Dense(5, "silu"), Concatenate([], [Dense(4, "tanh"), Dropout(0.2)], BatchNorm()), Dense(OUTPUTS)],
    "branches first": [Concatenate([], Dense(4, "tanh"), [Dense(5), LayerNorm("tanh", eps=0.1)]), Dense(OUTPUTS)],
    "no gradient beyond": [Residual([Concatenate(Dropout(0.1), Dense(SIZE, "tanh")), Dense(SIZE)]), Dense(OUTPUTS)],
    "deep": [Residual([Concatenate([Residual([Dense(SIZE, "tanh")])], [Flatten(), Reshape((2, 3)), LayerNorm(),
                                                                       Reshape((-1,))]), Dense(SIZE, "silu")]),
             Dense(OUTPUTS)],
    "tied": [Dense(SIZE, "tanh"), Dense(SIZE, "tanh", tie="w1"), Dense(OUTPUTS)],
    "tied transposed": [Dense(4, "tanh"), Dense(SIZE, "gelu", tie="w1.T"), Dense(OUTPUTS)],
    "tied within": [Residual([Dense(4, "tanh"), Dense(SIZE, tie="w1.1.T")]), Dense(4, "silu", tie="w1.1"),
                    Dense(SIZE, tie="w1.1.T"), Dense(OUTPUTS)],
}  # fmt: skip
EACH = pytest.mark.parametrize("name", NETWORKS)


def network(name, **options):
    options = {"dtype": "float64", "seed": 3, "loss": "mse", **options}
    return Network(SIZE, NETWORKS[name], **options)


@pytest.fixture
def samples(rng):
    return rng.normal(size=(ROWS, SIZE)), rng.normal(size=(ROWS, OUTPUTS))


@pytest.mark.float64
@EACH
def test_gradient(name, backend, samples):
    net = network(name, backend=backend)
    net.fit(*samples, optimizer=fastgd.SGD(0.001), batch_size=4, epochs=2)
    for training in (False, True):
        check_gradient(net, *samples, training=training)


@EACH
@pytest.mark.float64
@pytest.mark.parametrize("way", ["one by one", "minibatches"])
@pytest.mark.parametrize("compiled", ["numba", "cython"])
def test_trains_alike_on_every_backend_saves_and_resumes(name, way, compiled, samples, tmp_path):
    ends = []
    for backend in ("numpy", compiled):
        options = {
            "batch_size": 2 if way == "minibatches" or "branches" in name else 1,
            "checkpoint": tmp_path / backend,
        }
        net = network(name, backend=backend)
        net.fit(*samples, optimizer=fastgd.SGD(0.001, momentum=0.5 * (way == "minibatches")), epochs=3, **options)
        ends.append(net.state.copy())
        loaded, _ = fastgd.load(tmp_path / backend, backend=backend)
        assert list(loaded.views()) == list(net.views())
        np.testing.assert_array_equal(loaded.predict(samples[0]), net.predict(samples[0]))
        np.testing.assert_array_equal(net.like().parameters, loaded.like(seed=3).parameters)
    np.testing.assert_allclose(*ends, rtol=1e-11, atol=1e-13)


@EACH
def test_onnx(name, samples, tmp_path):
    import onnxruntime

    net = network(name)
    net.fit(*samples, optimizer=fastgd.SGD(0.001), batch_size=4, epochs=2)
    net.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    got = session.run(["prediction"], {"x": samples[0]})[0]
    np.testing.assert_allclose(got, net.predict(samples[0]), rtol=1e-11, atol=1e-12)


def test_what_containers_compute(samples):
    x, _ = samples
    net = Network(SIZE, [Residual([Dense(SIZE)]), Concatenate([], Dense(2, "tanh"))], loss="mse", dtype="float64")
    p = net.views()
    y = x + x @ p["w1.1"] + p["b1.1"]
    expected = np.hstack([y, np.tanh(y @ p["w2.2.1"] + p["b2.2.1"])])
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-13, atol=1e-15)


def test_names_are_paths_and_describe_shows_the_nesting():
    net = network("deep")
    assert list(net.views()) == [
        "w1.1.1.1.1", "w1.2", "w2", "b1.1.1.1.1", "gamma1.1.2.3", "beta1.1.2.3", "b1.2", "b2",
    ]  # fmt: skip
    lines = net.describe().splitlines()[1:13]
    assert [line.split()[0] for line in lines] == [
        "1", "1.1", "1.1.1", "1.1.1.1", "1.1.1.1.1", "1.1.2", "1.1.2.1", "1.1.2.2", "1.1.2.3", "1.1.2.4", "1.2", "2",
    ]  # fmt: skip
    assert lines[0].split() == ["1", "Residual", "->", "6,", "126", "parameters"]
    assert lines[4].startswith(" " * 10 + "1.1.1.1.1")


def test_one_layer_used_twice_has_two_sets_of_parameters():
    one = Dense(SIZE, "tanh")
    net = Network(SIZE, [one, Residual([one]), Dense(1)], loss="mse")
    assert [n for n in net.views() if n.startswith("w")] == ["w1", "w2.1", "w3"]
    assert not np.array_equal(net.views()["w1"], net.views()["w2.1"])


def test_a_shared_gradient_is_the_sum_of_both_layers(samples):
    """Compared with layers that share nothing but have the same values."""
    x, y = samples
    tied = network("tied transposed")
    apart = Network(SIZE, [Dense(4, "tanh"), Dense(SIZE, "gelu"), Dense(OUTPUTS)], loss="mse", dtype="float64")
    for name, view in apart.views().items():
        view[...] = tied.views()["w1"].T if name == "w2" else tied.views()[name]
    got, expected = (net.views(net.loss_and_gradient(x, y)[1]) for net in (tied, apart))
    np.testing.assert_allclose(got["w1"], expected["w1"] + expected["w2"].T, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(got["b2"], expected["b2"], rtol=1e-13)


def test_a_shared_array_is_updated_once_its_gradient_is_whole(samples, monkeypatch):
    """Also in the fused pass, which updates each array as soon as its gradient is finished."""
    ends = []
    for pass_name in ("step", "guarded", "fused"):
        monkeypatch.setattr(fastgd.engine.plan.Plan, "_choose_pass", lambda plan, pass_name=pass_name: pass_name)
        net = network("tied within")
        net.fit(*samples, optimizer=fastgd.Adam(0.01), batch_size=4, epochs=3)
        ends.append(net.parameters.copy())
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


def test_the_penalty_counts_a_shared_array_once(samples):
    net, without = network("tied", l2=0.5), network("tied")
    weights = sum((view**2).sum() for name, view in net.views().items() if name[0] == "w")
    assert net.loss(*samples) - without.loss(*samples) == pytest.approx(0.25 * weights, rel=1e-12)


def test_without_noise():
    """Dropout(0.0) replaces each Dropout, so that paths stay the same."""
    twin = Concatenate([Dropout(0.5)], Residual([Dropout(0.2), Dense(3)])).without_noise()
    assert repr(twin) == "Concatenate([Dropout(0.0)], [Residual([Dropout(0.0), Dense(3, identity())])])"


BAD = {
    "residual": (lambda: Network(4, [Residual([Dense(3)])], loss="mse"), r"'layers'.*keep the shape \(4,\).*\(3,\)"),
    "axes": (lambda: Network((4, 2), [Concatenate([], Flatten()), Dense(1)], loss="mse"), r"'branches'.*last axis"),
    "none": (Concatenate, "'branches'.*at least one"),
    "branch": (lambda: Concatenate([Dense(1)], ["relu"]), r"'branches\[1\]'.*list of layers"),
    "layers": (lambda: Residual(Dense(3)), "'layers'.*list of layers"),
    "tie": (lambda: Dense(3, tie=1), "'tie'.*name of the weights.*1"),
    "empty tie": (lambda: Dense(3, tie=".T"), "'tie'.*name of the weights.*'.T'"),
    "unknown tie": (lambda: Network(4, [Dense(3, tie="w7")], loss="mse"), "layers.*has parameters|'tie'.*'w7'"),
    "tie shape": (lambda: Network(4, [Dense(3), Dense(4, tie="w1")], loss="mse"), r"'tie'.*\(3, 4\).*'w1'.*\(4, 3\)"),
    "no parameters": (lambda: Network(4, [Residual([Dropout(0.1)])], loss="mse"), "'layers'.*has parameters"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_containers(name):
    call, pattern = BAD[name]
    with pytest.raises((TypeError, ValueError), match=pattern):
        call()


@pytest.mark.parametrize(
    ("fused_bytes", "options"), [(2**40, {}), (0, {}), (0, {"clip_norm": 1.0})], ids=["step", "fused", "guarded"]
)
@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_threads_change_no_bit_of_tied_weights(fused_bytes, options, backend, every_step_is_shared, monkeypatch, rng):
    """The threads share products by rows of w, and the sum of two gradients by elements."""
    monkeypatch.setattr(plan, "FUSED_BYTES", fused_bytes)
    x, y = rng.normal(size=(40, 21)), rng.normal(size=(40, 3))
    layers = [Dense(37, "tanh"), Residual([Dense(21, "tanh", tie="w1.T"), Dense(37, tie="w1")]), Dense(3)]
    ends = []
    for threads in (1, 2, 3, 7):
        net = Network(21, layers, loss="mse", backend=backend, num_threads=threads)
        net.fit(x, y, optimizer=fastgd.Adam(0.01, **options), epochs=20, batch_size=10)
        ends.append(np.concatenate([net.parameters, net.loss_and_gradient(x, y)[1]]))
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])
