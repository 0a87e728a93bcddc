"""Custom update rules, activations and losses in Python: against the built-in ones, and in training."""

import inspect
import json
import math
import pickle
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from safetensors import safe_open

import fastgd
from fastgd import Adam, Dense, Network, custom
from fastgd.activations import ACTIVATIONS
from fastgd.core.kernel import In, Kernel, kernels
from fastgd.core.reads import Reads
from fastgd.losses import LOSSES
from fastgd.optimizers import OPTIMIZERS
from fastgd.optimizers.low_memory import STATE_DTYPES, low_memory_kernel

pytestmark = pytest.mark.usefixtures("own_definitions")


def my_lion(p, g, m, lr, beta1=0.9, beta2=0.99):
    update = np.sign(beta1 * m + (1 - beta1) * g)
    return p - lr * update, beta2 * m + (1 - beta2) * g


def my_adam(p, g, m, v, lr, t, beta1=0.9, beta2=0.999, eps=1e-8):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    step = m / (1 - beta1**t) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return p - lr * step, m, v


def my_sgd(p, g, lr=1e-2):
    return p - lr * g


RULES = {
    "Lion": (my_lion, {"state": ["m"]}, fastgd.Lion),
    "Adam": (my_adam, {"state": ["m", "v"], "nonnegative": ["v"]}, fastgd.Adam),
    "SGD": (my_sgd, {}, fastgd.SGD),
}


# Both compiled backends run the Numba body of a custom function, so each is compiled on one of them.
ONCE_COMPILED = pytest.mark.parametrize("backend", ["numpy", "cython"])


def on_backends(argument, compiled):
    """Cases (backend, value) of an argument: the compiled ones, and each value on numpy."""
    return pytest.mark.parametrize(("backend", argument), [*(("numpy", value) for _, value in compiled), *compiled])


ON_DTYPES = on_backends("dtype", [("cython", "float64"), ("numba", "float32")])


@ON_DTYPES
@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_ones_own_is_the_built_in(name, backend, dtype, rng):
    function, options, built_in = RULES[name]
    made = custom.optimizer(**options)(function)
    for extra in ({"decoupled": True}, {"decoupled": False, "clip_norm": 0.5, "ema_decay": 0.9, "accumulate": 2}):
        mine, its = (kind(1e-2, weight_decay=0.1, **extra) for kind in (made, built_in))
        p = rng.normal(size=37).astype(dtype)
        q = p.copy()
        for _ in range(10):
            g = rng.normal(size=37).astype(dtype)
            mine.step(p, g, backend=backend)
            its.step(q, g)
        np.testing.assert_allclose(p, q, rtol=1e-5 if dtype == "float32" else 1e-11, err_msg=str(extra))
        assert mine.state.keys() == its.state.keys()


@on_backends("state_dtype", [("cython", "8bit"), ("numba", "bfloat16")])
def test_a_rule_of_ones_own_with_low_memory_state(state_dtype, backend, rng):
    made = custom.optimizer(state=["m", "v"], nonnegative=["v"])(my_adam)
    mine, its = made(1e-2, state_dtype=state_dtype), Adam(1e-2, state_dtype=state_dtype)
    p = rng.normal(size=300)
    q = p.copy()
    for _ in range(10):
        g = rng.normal(size=300)
        mine.step(p, g, backend=backend)
        its.step(q, g, backend=backend)
    assert np.abs(p - q).max() < 1e-2  # a value between two roundings may go either way
    assert mine.update_kernel.grain == {"bfloat16": 1, "8bit": 256}[state_dtype]  # threads share whole blocks


def test_a_mapping_of_any_kind_gives_initial_values():
    made = custom.optimizer(my_lion, state=types.MappingProxyType({"m": 0.25}))
    optimizer, p = made(1e-2), np.zeros(3)
    optimizer.step(p, np.zeros(3), backend="numpy")
    np.testing.assert_allclose(optimizer.state["m"][0], 0.25 * 0.99)
    assert issubclass(made, custom.CustomOptimizer)


def test_a_rule_trains_a_network_and_has_a_name(backend, rng, tmp_path):
    made = custom.optimizer(my_lion, state={"m": 0.0})
    assert OPTIMIZERS["my_lion"] is made
    X, y = rng.normal(size=(64, 6)).astype("f4"), rng.normal(size=(64, 2)).astype("f4")
    ends = []
    for optimizer in (made(1e-3, beta2=0.98), fastgd.Lion(1e-3, beta2=0.98)):
        net = Network(6, [Dense(9, "tanh"), Dense(2)], loss="mse", backend=backend)
        net.fit(X, y, optimizer=optimizer, batch_size=16, epochs=3)
        ends.append(net.parameters.copy())
    np.testing.assert_allclose(*ends, atol=1e-6)
    net, optimizer = Network(6, [Dense(9, "tanh"), Dense(2)], loss="mse", backend=backend), made(1e-3, beta2=0.98)
    net.fit(X, y, optimizer=optimizer, batch_size=16, epochs=1)
    net.save(tmp_path / "net.safetensors", optimizer=optimizer)
    twin, twin_optimizer = fastgd.load(tmp_path / "net.safetensors", backend=backend)
    assert repr(twin_optimizer) == "my_lion(constant(learning_rate=0.001), weight_decay=0.0, beta1=0.9, beta2=0.98)"
    for n, o in ((net, optimizer), (twin, twin_optimizer)):
        n.fit(X, y, optimizer=o, batch_size=16, epochs=1)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@ONCE_COMPILED
@pytest.mark.parametrize("name", ["lion", "adam", "sgd", "momentum"])
def test_a_name_like_that_of_a_kernel_runs_the_users_function(name, backend):
    made = custom.optimizer(renamed(my_sgd, name))
    p = np.zeros(3)
    made(0.5).step(p, np.ones(3), backend=backend)
    np.testing.assert_array_equal(p, -0.5)
    assert getattr(kernels, f"{name}_step").bodies() == ("numpy", "numba", "cython")


@ONCE_COMPILED
def test_names_of_the_loops_own(backend):
    @custom.optimizer
    def own(p, g, lr, i=2.0, old=3.0, new=5.0, m=7.0):
        return p - lr * g * i * old * new * m

    p = np.zeros(3)
    own(1.0, m=11.0).step(p, np.ones(3), backend=backend)
    np.testing.assert_array_equal(p, -330.0)

    @custom.activation(derivative=lambda x, i, j, v: i * j * v)
    def scaled(x, i=2.0, j=3.0, v=5.0):
        return x * i * j * v

    net = Network(2, [Dense(2, scaled)], loss="mse", dtype="float64", backend=backend)
    x = np.eye(2)
    np.testing.assert_allclose(net.forward(x), 30 * net.views()["w1"])


@on_backends("state_dtype", [("cython", "bfloat16"), ("numba", "8bit")])
def test_names_of_the_low_memory_loops_own(state_dtype, backend):
    """All values are powers of two, so nothing is rounded."""

    @custom.optimizer(state=["noise", "values"])
    def low(p, g, noise, values, lr, size=2.0, begin=1.0, end=1.0, np=1.0, x0=1.0):
        values = size * noise
        return p - lr * values * begin * end * np * x0, noise + g, values

    p = np.zeros(300)
    optimizer = low(1.0, size=4.0, state_dtype=state_dtype)
    for _ in range(2):
        optimizer.step(p, np.ones(300), backend=backend)
    np.testing.assert_array_equal(p, -4.0)


def test_a_name_picks_an_optimizer(rng):
    custom.optimizer(my_sgd)
    custom.optimizer(my_lion, state=["m"])
    X, y = rng.normal(size=(64, 6)), rng.normal(size=(64, 2))
    ends = []
    for optimizer in ("my_sgd", "SGD", OPTIMIZERS["my_sgd"](1e-2)):
        net = Network(6, [Dense(2)], loss="mse", dtype="float64")
        net.fit(X, y, optimizer=optimizer)
        ends.append(net.parameters.copy())
    np.testing.assert_array_equal(ends[0], ends[2])
    np.testing.assert_allclose(ends[0], ends[1])
    with pytest.raises(TypeError, match="'learning_rate'.*my_lion has no default"):
        net.fit(X, y, optimizer="my_lion")
    with pytest.raises(ValueError, match="'optimizer'.*'my_sgt'; did you mean 'my_sgd'"):
        net.fit(X, y, optimizer="my_sgt")


def leaky(x, slope=0.1):
    return x if x > 0 else slope * x


def leaky_slope(x, slope=0.1):
    return 1.0 if x > 0 else slope


def my_tanh(x):
    return math.tanh(x)


@ON_DTYPES
def test_an_activation_of_ones_own_is_the_built_in(backend, dtype, rng):
    custom.activation(leaky, derivative=leaky_slope)
    X, y = rng.normal(size=(40, 6)).astype(dtype), rng.integers(0, 3, 40)
    ends = []
    for activation in ("leaky", fastgd.activations.leaky_relu(negative_slope=0.1)):
        net = Network(6, [Dense(9, activation), Dense(3)], loss="softmax_cross_entropy", dtype=dtype, backend=backend)
        net.fit(X, y, optimizer=Adam(1e-2), batch_size=10, epochs=3)
        ends.append(net.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-6)
    assert repr(ACTIVATIONS["leaky"](slope=0.3)) == "leaky(slope=0.3)"


@ONCE_COMPILED
def test_an_activation_without_a_derivative(backend, rng):
    with pytest.warns(UserWarning, match="'my_tanh'.*no derivative"):
        custom.activation(my_tanh)
    net = Network(6, [Dense(9, "my_tanh"), Dense(3)], loss="mse", dtype="float64", backend=backend)
    errors = fastgd.check_gradients(net, rng.normal(size=(5, 6)), rng.normal(size=(5, 3)))
    assert max(errors.values()) < 1e-8


def test_a_wrong_derivative_is_found():
    with pytest.raises(ValueError, match="'derivative'.*of leaky.*x = -3.986"):
        custom.activation(leaky, derivative=lambda x, slope=0.1: 1.0 if x > 0 else 2 * slope)
    assert "leaky" not in ACTIVATIONS
    for scale in (1e-3, 1.0, 1e3):  # the tolerance is absolute for derivatives up to 1, relative above
        parts = (0.9e-6, 1.1e-6) if scale >= 1 else (0.9e-3, 1.1e-3)

        def line(x, scale=scale):
            return scale * x

        custom.activation(derivative=lambda x, scale, part=parts[0]: scale * (1 + part))(line)
        with pytest.raises(ValueError, match="'derivative'.*of line"):
            custom.activation(derivative=lambda x, scale, part=parts[1]: scale * (1 + part))(line)


def pinball(z, y, dz, q=0.9):
    total = 0.0
    for j in range(z.size):
        d = y[j] - z[j]
        dz[j] = -q if d > 0 else 1 - q
        total += q * d if d > 0 else (q - 1) * d
    return total


def my_cross_entropy(z, y, dz):
    total = 0.0
    for j in range(z.size):
        dz[j] = math.exp(z[j])
        total += dz[j]
    for j in range(z.size):
        dz[j] /= total
    dz[y] -= 1
    return math.log(total) - z[y]


@ONCE_COMPILED
def test_a_loss_of_ones_own(backend, rng):
    made = custom.loss(pinball)
    net = Network(6, [Dense(2)], loss="pinball", dtype="float64", backend=backend)
    x, y = rng.normal(size=(7, 6)), rng.normal(size=(7, 2))
    d = y - net.forward(x)
    assert net.loss(x, y) == pytest.approx(np.maximum(0.9 * d, -0.1 * d).sum(axis=1).mean())
    assert max(fastgd.check_gradients(net, x, y, step=1e-6).values()) < 1e-6
    median = Network(6, [Dense(2)], loss=made(q=0.5), dtype="float64", backend=backend)
    assert median.loss(x, y) == pytest.approx(np.abs(d).sum(axis=1).mean() / 2)


@ON_DTYPES
def test_a_loss_of_labels_with_a_link(backend, dtype, rng):
    custom.loss(my_cross_entropy, labels=True, link=fastgd.kernels.softmax_forward)
    X, y = rng.normal(size=(40, 6)).astype(dtype), rng.integers(0, 3, 40)
    ends, predictions = [], []
    for loss in ("my_cross_entropy", "softmax_cross_entropy"):
        net = Network(6, [Dense(5, "tanh"), Dense(3)], loss=loss, dtype=dtype, backend=backend)
        net.fit(X, y, optimizer=Adam(1e-2), batch_size=10, epochs=3)
        ends.append(net.parameters.copy())
        predictions.append(net.predict(X))
    np.testing.assert_allclose(*ends, rtol=1e-4 if dtype == "float32" else 1e-9, atol=1e-6)
    np.testing.assert_allclose(*predictions, rtol=1e-4)


def test_a_network_of_ones_own_parts_is_written_and_read(rng, tmp_path):
    custom.activation(leaky, derivative=leaky_slope)
    custom.loss(pinball)
    net = Network(6, [Dense(5, ACTIVATIONS["leaky"](slope=0.3)), Dense(3)], loss=LOSSES["pinball"](q=0.2))
    net.save(tmp_path / "net.safetensors")
    twin, _ = fastgd.load(tmp_path / "net.safetensors")
    x = rng.normal(size=(5, 6))
    np.testing.assert_array_equal(twin.predict(x), net.predict(x))
    del ACTIVATIONS["leaky"]
    with pytest.raises(fastgd.CheckpointError, match="'leaky'"):
        fastgd.load(tmp_path / "net.safetensors")


def test_networks_of_ones_own_parts_are_pickled(rng):
    custom.activation(leaky, derivative=leaky_slope)
    net = Network(6, [Dense(5, "leaky"), Dense(3)], loss="mse")
    twin = pickle.loads(pickle.dumps(net))
    x = rng.normal(size=(5, 6))
    np.testing.assert_array_equal(twin.predict(x), net.predict(x))


BAD = {
    "not a function": (lambda: custom.optimizer(3), TypeError, "'function'.*3"),
    "a built-in name": (lambda: custom.optimizer(renamed(my_sgd, "Adam")), ValueError, "a name other than.*'Adam'"),
    "no name": (lambda: custom.activation(lambda x: x), ValueError, "a name.*<lambda>"),
    "arguments": (lambda: custom.optimizer(my_lion), TypeError, "'my_lion'.*p, g, lr.*p, g, m, lr"),
    "no default": (lambda: custom.optimizer(lambda_named()), TypeError, "default value for 'decay'"),
    "slot": (lambda: custom.optimizer(my_sgd, nonnegative=["v"]), ValueError, "'nonnegative'.*'v'"),
    "a name in use": (lambda: custom.optimizer(with_parameter("accumulate")), ValueError, "'taken'.*'accumulate'"),
    "a name of a loop": (lambda: custom.optimizer(with_parameter("shrink")), ValueError, "'taken'.*'shrink'"),
    "a hidden name": (lambda: custom.optimizer(with_parameter("_i")), ValueError, "'taken'.*'_i'"),
    "a slot's name": (lambda: custom.optimizer(state=["average"])(of_average), ValueError, "'of_average'.*'average'"),
    "a base's name": (lambda: custom.optimizer(state=["m", "m_base"])(of_base), ValueError, "'of_base'.*'m_base'"),
    "0 in float32": (lambda: custom.optimizer(my_lion, state=["m"])(1e-3, beta1=1e-50), ValueError, "'beta1'.*float32"),
    "a keyword": (lambda: custom.activation(of_keyword), TypeError, "'of_keyword'.*positional arguments.*a=0.5"),
    "activation's": (lambda: custom.activation(my_sgd), TypeError, "'my_sgd'.*x, then parameters"),
    "derivative": (lambda: custom.activation(leaky, derivative=3), TypeError, "'derivative'.*3"),
    "loss's": (lambda: custom.loss(leaky), TypeError, "'leaky'.*z, y, dz"),
    "link": (lambda: custom.loss(pinball, link="softmax"), TypeError, "'link'.*softmax"),
    "hyper-parameter": (lambda: custom.optimizer(my_lion, state=["m"])(1e-3, beta1="x"), TypeError, "'beta1'"),
    "unknown option": (lambda: custom.optimizer(my_lion, state=["m"])(1e-3, beta3=0.1), TypeError, "beta3"),
}


def renamed(function, name):
    made = type(function)(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    return made


def with_parameter(name):
    names = {}
    exec(f"def taken(p, g, lr, {name}=1.0):\n    return p", names)
    return names["taken"]


def of_keyword(x, *, a=0.5):
    return a * x


def of_base(p, g, m, m_base, lr):
    return p, m, m_base


def of_average(p, g, average, lr):
    return p, average


def lambda_named():
    def needs_decay(p, g, lr, decay):
        return p - lr * g

    return needs_decay


@pytest.mark.parametrize("case", BAD)
def test_bad_definitions(case):
    make, error, match = BAD[case]
    with pytest.raises(error, match=match):
        make()


def test_a_function_may_be_defined_anew():
    custom.optimizer(my_sgd)

    def double(p, g, lr):
        return p - 2 * lr * g

    made = custom.optimizer(renamed(double, "my_sgd"))
    p = np.zeros(3)
    made(0.5).step(p, np.ones(3))
    np.testing.assert_array_equal(p, -1.0)


def test_errors_name_what_numba_does_not_compile():
    @custom.optimizer
    def impossible(p, g, lr):
        return p - lr * open("x")

    @custom.optimizer(state=["m"])
    def forgets(p, g, m, lr):
        return p - lr * g

    @custom.optimizer
    def misspelt(p, g, lr):
        return p - lr * G  # noqa: F821

    for rule, cause in ((impossible, "open"), (forgets, "failed to unpack"), (misspelt, "NameError: name 'G'")):
        with pytest.raises(TypeError, match="_step: .*Numba compiles, got: .*backend=.numpy.") as caught:
            rule(0.1).step(np.zeros(3), np.ones(3))
        assert cause in str(caught.value)
        assert len(str(caught.value)) < 300  # the cause alone, not how Numba came to compile the function


def test_labels_for_a_loss_of_values():
    made = custom.loss(renamed(lambda z, y, dz: 0.0, "of_values"))
    network = Network(2, [Dense(3)], loss=made, backend="numpy")
    with pytest.raises(ValueError, match=r"'y'.*labels of classes are for custom.loss\(labels=True\)"):
        network.loss(np.zeros((4, 2)), np.arange(4) % 3)


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import numpy as np, fastgd

@fastgd.custom.optimizer
def mine(p, g, lr):
    return p - lr * g

p = np.zeros(3)
mine(0.5).step(p, np.ones(3), backend="numpy")
assert (p == -0.5).all()
net = fastgd.Network(3, [fastgd.Dense(2)], loss="mse", backend="numpy")
net.train_step(np.ones((1, 3)), np.ones((1, 2)), mine(0.1))
try:
    mine(0.5).step(p, np.ones(3))
except ImportError as error:
    print(error)
"""


def test_without_numba():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
    assert "mine_step" in done.stdout
    assert "pip install 'fastgd[numba]', or use backend=\"numpy\"" in done.stdout


def test_definitions_warn_of_nothing_else(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        custom.activation(leaky, derivative=leaky_slope)
        custom.optimizer(my_lion, state=["m"])
        custom.loss(pinball)


def large_rule(slots, hyper):
    """p <- p - lr (g + s0 + s1 + ...), each slot the mean of itself and g; the last hyper-parameter is added to g."""
    state, names = [f"s{i}" for i in range(slots)], [f"h{i}" for i in range(hyper)]
    lines = [
        f"def large(p, g, {', '.join(state)}, lr, {', '.join(f'{name}=0.25' for name in names)}):",
        f"    g = g + {names[-1]}",
        f"    return p - lr * (g + {' + '.join(state)}), {', '.join(f'({slot} + g) / 2' for slot in state)}",
    ]
    space = {}
    exec("\n".join(lines), space)
    return fastgd.custom.optimizer(space["large"], state=state)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"state_dtype": "8bit", "ema_decay": 0.5}], ids=["plain", "8bit"])
def test_a_rule_with_many_slots_and_hyper_parameters(options):
    """More arguments than Numba allows in a call, and many arrays in one kernel of a chain."""
    rule, found = large_rule(20, 20), {}
    for backend in ("numpy", "cython"):
        p, optimizer = np.ones(300), rule(0.01, **options)
        for _ in range(2):
            optimizer.step(p, np.full(300, 0.5), backend=backend)
        found[backend] = p
    np.testing.assert_allclose(found["cython"], found["numpy"], rtol=1e-12)
    if not options:
        np.testing.assert_allclose(found["cython"], 1 - 0.01 * 0.75 * (1 + 1 + 20 / 2), rtol=1e-12)


def test_a_rule_that_is_too_large_is_refused_when_it_is_defined():
    with pytest.raises(ValueError, match="'large': expected at most 100 slots, got 101"):
        large_rule(101, 1)
    with pytest.raises(ValueError, match="'large': expected at most 200 hyper-parameters, got 201"):
        large_rule(1, 201)
    assert "large" not in fastgd.optimizers.OPTIMIZERS
    assert not hasattr(fastgd.kernels, "custom_large_step")
    for state_dtype in STATE_DTYPES:
        low_memory_kernel(large_rule(100, 200).kernel, state_dtype)


def test_a_kernel_that_is_too_large_for_a_chain_is_refused():
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(f"x{i}", kind, annotation=In("n")) for i in range(257)]

    def wide(*arguments):
        """257 arrays."""

    wide.__signature__ = inspect.Signature(parameters)
    with pytest.raises(ValueError, match="kernel wide: expected at most 256 arrays.*got 257 and 258"):
        Kernel(wide)


def test_what_functions_compute_is_written_as_in_older_files(tmp_path):
    """A file records custom functions' values at fixed points; other points would invalidate every existing file."""

    @custom.activation(derivative=lambda x, a: a / (1 + abs(x)) ** 2)
    def squashed(x, a=0.5):
        return a * x / (1 + abs(x))

    @custom.loss(labels=True)
    def margin(z, y, dz):
        dz[:], dz[y] = 1.0, -1.0
        return z[0] - z[y] + 1.0

    @custom.optimizer(state=["m", "v"], nonnegative=["v"])
    def slow(p, g, m, v, lr, t):
        return p - lr * g * t - m + v, m + g, v

    @custom.loss
    def fourth(z, y, dz):
        dz[:] = (z - y) ** 3
        return np.sum((z - y) ** 4) / 4

    written = {}
    for loss, optimizer in ((margin, slow(0.1)), (fourth, None)):
        network = Network(3, [Dense(2, squashed), Dense(2)], loss=loss)
        network.save(tmp_path / "m", optimizer=optimizer)
        with safe_open(tmp_path / "m", "numpy") as file:
            written |= {
                (loss.name, *key.split()): rows
                for key, rows in json.loads(file.metadata()["fastgd"])["formulas"].items()
            }
    numbers = {key: [n for row in rows if row != [""] for n in row] for key, rows in written.items()}
    expected = {
        ("margin", "layer", "1"): (48, 0.22399014107892, 7.60889674759668),
        ("margin", "loss"): (48, 0.683812076232023, 160.36361838),
        ("margin", "optimizer"): (72, 0.8242656482579007, 732.241668394587),
        ("fourth", "layer", "1"): (48, 0.22399014107892, 7.60889674759668),
        ("fourth", "loss"): (48, 48.166756343407144, 2025445.2114971802),
    }
    assert numbers.keys() == expected.keys()
    for key, (count, first, total) in expected.items():
        assert (len(numbers[key]), numbers[key][0]) == (count, pytest.approx(first, rel=1e-9))
        assert sum(numbers[key]) == pytest.approx(total, rel=1e-8)


def test_what_compiled_code_raises_and_python_does_not():
    made = custom.optimizer(my_sgd)
    error = made.kernel.fault()
    assert isinstance(error, RuntimeError)
    assert "expected 'my_sgd' to return" in str(error)
    assert isinstance(fastgd.kernels.sgd_step.fault(), MemoryError)


FACTOR, PAIRS, TABLE = 1.5, (1.0, (2.0, 3)), np.array([1.0, 2.0])


DEPTH = 2.0


def deeper(x):
    return DEPTH * x


def reading(x):
    return FACTOR * deeper(x) * PAIRS[0] * PAIRS[1][0] * TABLE[1]


@pytest.mark.parametrize(
    ("name", "same", "others"),
    [
        ("FACTOR", float("1.5"), (2.0, np.float32(1.5), -1.5)),
        (
            "PAIRS",
            (1.0, (2.0, 3)),
            ((1.0, (2.0, 4)), (1.0, (2.0,)), (1.0, (2.0, 3), 4), [1.0, (2.0, 3)], (1.0, (2, 3))),
        ),
        ("TABLE", TABLE.copy(), (TABLE + 1, TABLE.astype(np.float32), TABLE[None], TABLE[:1])),
        ("DEPTH", 2.0, (3.0, None)),
        ("deeper", deeper, (leaky, math.sqrt)),
        ("leaky", None, ()),
    ],
)
def test_what_a_function_reads_is_current_until_it_is_another(name, same, others, monkeypatch):
    for value, is_current in ((same, True), *((other, False) for other in others)):
        known = Reads((reading,))
        assert known.are_current()
        with monkeypatch.context() as changed:
            changed.setitem(reading.__globals__, name, value)
            assert known.are_current() == is_current
        assert Reads((reading,)).are_current()
    for change, is_current in ((1.0, False), (-1.0, True)):  # in place, and back
        TABLE[0] += change
        assert known.are_current() == is_current
