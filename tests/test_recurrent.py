"""LSTM and GRU: values of torch, every size on every body, the last state, threads, memory, initial values, ONNX, and
that every term of the gradient is tested."""

import inspect
import textwrap

import numpy as np
import onnxruntime
import pytest
from cases import check_gradient
from test_golden import GOLDEN, close

import fastgd
from fastgd import GRU, LSTM, Dense, Dropout, Embedding, LayerNorm, Network, Residual
from fastgd._plan import BY_ROWS
from fastgd.cli.self_check import GRADIENT_TOLERANCE, TOLERANCES, example
from fastgd.layers import gru, lstm

KERNELS = fastgd.kernels
KINDS = {"LSTM": LSTM, "GRU": GRU}
EACH = pytest.mark.parametrize("name", KINDS)
BOTH = pytest.mark.parametrize("every", [True, False], ids=["every", "last"])


@BOTH
@EACH
def test_values_of_torch(name, every, backend, dtype):
    """y, and the gradients of x and of all parameters."""
    layer = KINDS[name](5, return_sequences=every)
    network = Network((7, 4), [layer], loss="mse", dtype=dtype, backend=backend)
    for key, view in network.views().items():
        view[...] = GOLDEN[f"recurrent.{name}.{key}"]
    prefix = f"recurrent.{name}.{'every' if every else 'last'}"
    x, dy = GOLDEN["recurrent.x"].astype(dtype), GOLDEN[f"{prefix}.dy"].astype(dtype)
    close(network.predict(x), GOLDEN[f"{prefix}.y"], dtype)
    close(network.forward(x, training=True), GOLDEN[f"{prefix}.y"], dtype)
    for _ in range(2):  # the backward pass leaves what it reads as it was
        close(network.backward(dy, input_gradient=True), GOLDEN[f"{prefix}.dx"], dtype)
        for key, part in network.views(network.gradient).items():
            close(part, GOLDEN[f"{prefix}.d{key}"], dtype)


@pytest.mark.float64
@BOTH
@EACH
def test_gradient_in_a_network(name, every, backend, rng):
    """After tokens, in a stack, in a branch, with Dropout and before Dense."""
    kind = KINDS[name]
    branch = Residual([LayerNorm(eps=0.1), kind(3, return_sequences=True)])
    layers = [Embedding(4, 3, weight_init="glorot_normal"), branch, Dropout(0.2), kind(2, return_sequences=every)]
    network = Network(4, [*layers, Dense(2)], loss="mse", dtype="float64", backend=backend, seed=2)
    x, y = rng.integers(0, 4, (4, 4)), rng.normal(size=(4, 4, 2) if every else (4, 2))
    for training in (False, True):
        check_gradient(network, x, y, training=training)


# Sizes at which products are packed, or have a row or a column; steps in results: all, one, or some.
SIZES = [
    {"rows": 1, "t": 1, "u": 1, "s": 1, "k": 1}, {"rows": 3, "t": 1, "u": 20, "s": 1, "k": 1},
    {"rows": 50, "t": 4, "u": 33, "s": 1, "k": 4}, {"rows": 7, "t": 9, "u": 16, "s": 9, "k": 1},
    {"rows": 5, "t": 6, "u": 130, "s": 2, "k": 6}, {"rows": 2, "t": 40, "u": 3, "s": 40, "k": 40},
    {"rows": 49, "t": 5, "u": 97, "s": 1, "k": 5}, {"rows": 3, "t": 5, "u": 410, "s": 1, "k": 5},
]  # fmt: skip


@EACH
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bodies_agree(name, sizes, dtype, rng):
    """Forward; backward on its results, if it keeps every step."""
    forward, backward = (getattr(KERNELS, f"{name.lower()}_{way}") for way in ("forward", "backward"))
    ready = example(forward, sizes, "float64", rng)
    dy = rng.normal(size=(sizes["rows"], sizes["s"], sizes["u"]))
    runs = {}
    for body, kind in (("numpy", "float64"), ("cython", dtype), ("numba", dtype)):
        if body == "numba" and dtype == "float64":  # slow to compile
            continue
        arrays = dict(zip(forward.arrays, (a.astype(kind) for a in ready), strict=True))
        forward.body(body)(*arrays.values())
        runs[body] = [a for key, a in arrays.items() if forward.arrays[key].direction != "in"]
        if sizes["k"] == sizes["t"]:
            w = arrays["w"]
            arrays |= {"dy": dy.astype(kind), "wt": np.ascontiguousarray(w.transpose(1, 2, 0))}
            sized = dict(zip(backward.arrays, example(backward, sizes, kind, rng), strict=True))
            sized |= {key: a for key, a in arrays.items() if key in sized}
            backward.body(body)(*sized.values())
            runs[body] += [a for key, a in sized.items() if backward.arrays[key].direction == "out"]
    for body in runs:
        for got, expected in zip(runs[body], runs["numpy"], strict=True):
            scale = max(np.abs(expected).max(), 0.1)
            assert np.abs(got - expected).max() <= 3 * TOLERANCES[dtype] * scale, body


@EACH
def test_evaluation_is_training_without_the_steps(name, backend, rng):
    """It keeps the state of one step, and gives the same bits."""
    for every in (True, False):
        network = Network((9, 3), [KINDS[name](5, return_sequences=every)], loss="mse", backend=backend)
        x = rng.normal(size=(4, 9, 3)).astype(np.float32)
        evaluated = network.predict(x)
        np.testing.assert_array_equal(network.forward(x, training=True), evaluated)
        kept = "cell1" if name == "LSTM" else "part1"
        assert network.executor.evaluation_plan().buffers[kept].shape[1] == 1
        assert network.executor.training_plan(4).buffers[kept].shape[1] == 9


@pytest.mark.usefixtures("every_step_is_shared")
@pytest.mark.parametrize("compiled", ["numba", "cython"])
@EACH
def test_bits_do_not_depend_on_the_minibatch_or_on_threads(name, compiled, rng):
    """Of outputs; and with training, of all parameters."""
    x, y = rng.normal(size=(37, 20, 6)).astype(np.float32), rng.normal(size=(37, 7)).astype(np.float32)
    outputs, states = [], []
    for num_threads in (1, 2, 5):
        layers = [KINDS[name](9, return_sequences=True), Dropout(0.2), KINDS[name](7)]
        network = Network((20, 6), layers, loss="mse", backend=compiled, num_threads=num_threads)
        for rows in (37, 10, 3, 1) if num_threads < 5 else (37,):
            outputs.append(np.concatenate([network.predict(x[i : i + rows]) for i in range(0, 37, rows)]))
        network.fit(x, y, optimizer=fastgd.Adam(0.01), epochs=3, batch_size=20)
        states.append(network.state)
    for found in (outputs, states):
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


@EACH
def test_a_step_has_a_stage_for_each_recurrent_kernel(name):
    """A thread takes its rows through it at once; and the transpose before it is finished by then."""
    layers = [KINDS[name](6, return_sequences=True), KINDS[name](5), Dense(2)]
    plan = Network((8, 3), layers, loss="mse").executor.training_plan(4)
    apart = 0
    for first, last, _, _, flags in plan.stages([("forward", "backward", None, None, BY_ROWS)]):
        operations = plan.operations[first:last]
        if any(operation.kernel.at_once for operation in operations):
            assert (len(operations), flags) == (1, 0)
            apart += 1
    assert apart == 4


@BOTH
@EACH
def test_memory_estimate(name, every, rng):
    """To the byte, for one row and for some."""
    layers = [KINDS[name](6, return_sequences=True), KINDS[name](5, return_sequences=every), Dense(2)]
    for rows in (1, 13):
        network = Network((8, 3), layers, loss="mse")
        estimate = network.memory_estimate(rows)["workspace"]
        plan = network.executor.training_plan(rows)
        vectors = [plan.buffers[one] for one, kind in plan._declared.items() if kind == "a vector"]
        inputs = *plan.own.values(), plan.buffers["index"], plan.buffers["row"]
        assert estimate == plan.workspace.nbytes + sum(array.nbytes for array in (*inputs, *vectors))


# Mistakes that only return_sequences=True shows.
EVERY = {
    "dy of every step": ("if j + dy.shape[1] >= t:", "if j + 1 >= t:"),
    "dy of its own step": ("dy[:, j % dy.shape[1]]", "dy[:, -1]"),
}
# What the passes would be without a term, or with one of another gate or step.
MUTANTS = {
    "lstm_backward": {
        "i": ("dcell * g * (i * (1 - i))", "0"),
        "f": ("dcell * cell[:, j - 1] * (f * (1 - f)) if j else 0", "0"),
        "the cell before": ("cell[:, j - 1]", "cell[:, j]"),
        "g": ("dcell * i * (1 - g * g)", "0"),
        "o": ("dstate * tanh * (o * (1 - o))", "0"),
        "the slope of i": ("(i * (1 - i))", "1"),
        "the slope of f": ("(f * (1 - f))", "1"),
        "the slope of g": ("(1 - g * g)", "1"),
        "the slope of o": ("(o * (1 - o))", "1"),
        "the cell's own": ("dcell *= f", "dcell[...] = 0"),
        "the cell by the state": ("dcell += dstate * o", "dcell += 0 * o"),
        "the slope of the cell": ("(1 - tanh * tanh)", "1"),
        "steps": ("np.matmul(dz", "0 * np.matmul(dz.copy()"),
        **EVERY,
    },
    "gru_backward": {
        "r": ("dn * part[:, j] * (r * (1 - r))", "0"),
        "z": ("dstate * (hidden[:, j] - n) * (z * (1 - z))", "0"),
        "n": ("dn = dstate * (1 - z) * (1 - n * n)", "dn = 0 * n"),
        "the slope of r": ("(r * (1 - r))", "1"),
        "the slope of z": ("(z * (1 - z))", "1"),
        "the slope of n": ("(1 - n * n)", "1"),
        "r of the product": ("dq[:, 2] *= r", "dq[:, 2] *= 1"),
        "the state's own": ("dstate *= z", "dstate *= 0"),
        "the state before": ("hidden[:, j] - n", "hidden[:, j] - 0"),
        "steps": ("dstate += dq.reshape", "dstate += 0 * dq.reshape"),
        **EVERY,
    },
}
CASES = [(kernel, name) for kernel, mutants in MUTANTS.items() for name in (None, *mutants)]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_gradient_check_catches_a_dropped_term(kernel, name, rng, monkeypatch):
    made = getattr(KERNELS, kernel)
    source = textwrap.dedent(inspect.getsource(made.reference)).split("\n", 1)[1]
    if name is not None:
        old, new = MUTANTS[kernel][name]
        assert source.count(old) == 1
        source = source.replace(old, new)
        if name == "steps" and kernel == "lstm_backward":
            source = source.replace("out=dstate)", "out=dstate.copy())")
    scope = dict(vars(lstm if kernel == "lstm_backward" else gru))
    exec(source, scope)
    monkeypatch.setattr(made, "reference", scope[kernel])
    kind = LSTM if kernel == "lstm_backward" else GRU
    for every in (True, False):
        layers = [kind(2, return_sequences=every), Dense(1)]
        network = Network((4, 2), layers, loss="mse", dtype="float64", backend="numpy")
        for key, view in network.views().items():
            if key.startswith("b"):
                view[...] += rng.normal(size=view.shape)
        x, y = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 1) if every else (3, 1))
        error = max(fastgd.check_gradients(network, x, y).values())
        assert (error > GRADIENT_TOLERANCE) == (name is not None and (every or name not in EVERY))


@EACH
def test_initial_values(name):
    layer = KINDS[name](6)
    views, gates = Network((4, 3), [layer], loss="mse", dtype="float64").views(), layer.gates
    matrices = views["w_h1"].reshape(6, gates, 6).transpose(1, 0, 2)
    for matrix in matrices:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-12)
    assert not np.allclose(matrices[0], matrices[1])
    limit = np.sqrt(6 / (3 + 6))
    assert 0.8 * limit < np.abs(views["w_x1"]).max() <= limit
    bias = np.zeros((gates, 6))
    if name == "LSTM":
        bias[1] = 1
    np.testing.assert_array_equal(views["b1"], bias.ravel())
    given = np.arange(3.0 * gates * 6).reshape(3, -1)
    network = Network((4, 3), [KINDS[name](6, weight_init=given, recurrent_init="zeros")], loss="mse", dtype="float64")
    np.testing.assert_array_equal(network.views()["w_x1"], given)
    assert not network.views()["w_h1"].any()


@EACH
def test_remembers_the_first_token(name, rng):
    """What only the state carries; a network cannot learn it from the other tokens."""
    x = rng.integers(0, 4, (256, 6))
    y = x[:, 0] % 2

    def loss_of(changed):
        layers = [Embedding(4, 4, weight_init="glorot_normal"), KINDS[name](8), Dense(2)]
        network = Network(6, layers, loss="softmax_cross_entropy")
        return network.fit(changed, y, optimizer=fastgd.Adam(0.03), epochs=15, batch_size=32).loss[-1]

    assert loss_of(x) < 0.05
    assert loss_of(np.concatenate([x[:, :1] * 0, x[:, 1:]], axis=1)) > 0.5


@BOTH
@EACH
def test_onnx(name, every, dtype, rng, tmp_path):
    """The node of the layer's name in float32; a loop in float64, which onnxruntime's nodes lack."""
    layers = [Dense(5, "tanh"), KINDS[name](6, return_sequences=True), KINDS[name](4, return_sequences=every), Dense(2)]
    network = Network((7, 3), layers, loss="mse", dtype=dtype)
    for key, view in network.views().items():
        if key.startswith("b"):
            view[...] = rng.normal(size=view.shape)
    network.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = rng.normal(size=(11, 7, 3)).astype(dtype)
    for rows in (11, 1):
        (got,) = session.run(["prediction"], {"x": x[:rows]})
        np.testing.assert_allclose(got, network.predict(x[:rows]), rtol=0, atol=2e-6 if dtype == "float32" else 1e-14)


BAD = {
    "units": (lambda: LSTM(0), ValueError, "'units'.*>= 1.*0"),
    "kind of units": (lambda: GRU(2.5), TypeError, "'units'.*2.5"),
    "flag": (lambda: LSTM(3, return_sequences=1), TypeError, "'return_sequences'.*1"),
    "name": (lambda: GRU(3, recurrent_init="orthogonl"), ValueError, "'recurrent_init'.*'orthogonal'"),
    "shape": (
        lambda: Network((4, 3), [LSTM(2, weight_init=np.ones((3, 2)))], loss="mse"), ValueError,
        r"'weight_init'.*\(3, 8\)",
    ),
    "vectors": (lambda: Network(4, [LSTM(2)], loss="mse"), ValueError, r"'layers'.*\(T, C\).*LSTM\(2\).*\(4,\)"),
    "last states": (lambda: Network((4, 3), [GRU(2), GRU(2)], loss="mse"), ValueError, r"'layers'.*\(T, C\).*\(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, error, match = BAD[name]
    with pytest.raises(error, match=match):
        call()


@EACH
def test_files_and_descriptions(name, tmp_path, rng):
    layers = [KINDS[name](3, return_sequences=True), KINDS[name](2)]
    network = Network((4, 3), layers, loss="mse")
    network.save(tmp_path / "net.safetensors")
    loaded, _ = fastgd.load(tmp_path / "net.safetensors")
    x = rng.normal(size=(5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(x), network.predict(x))
    assert repr(loaded.layers) == f"({name}(3, return_sequences=True), {name}(2))"
    assert f"1    {name}(3, return_sequences=True)  ->  4x3" in network.describe()
