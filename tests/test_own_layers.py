"""New layers: what they may declare and add to a plan (the errors name their arrays), and weights of any shape."""

import numpy as np
import pytest
from cases import LAYERS

import fastgd
from fastgd import Dense, Network, Residual
from fastgd.core.kernel import In, Out, kernel
from fastgd.engine.plan import Plan
from fastgd.engine.program import PerStep
from fastgd.explore.surface import plane_of
from fastgd.initializers import ones
from fastgd.layers.base import Layer, ParameterSpec

pytestmark = pytest.mark.usefixtures("own_definitions")


class Own(Layer):
    """y = x, with arrays as a test wants them."""

    def __init__(self, parameters=(), statistics=(), forward=None, backward=None):
        self.names, self.more, self.hooks = parameters, statistics, (forward, backward)

    def parameters(self, shape):
        n = shape[-1]
        return tuple(ParameterSpec(name, (n,), ones, is_weight=False, fans=(n, n)) for name in self.names)

    def statistics(self, shape):
        return tuple((name, shape[-1:], 0.0) for name in self.more)

    def forward(self, plan, path, x):
        if self.hooks[0]:
            self.hooks[0](plan, path, x)
        return x

    def backward(self, plan, path, x, dy, is_wanted):
        if self.hooks[1]:
            self.hooks[1](plan, path, x, dy)
        return dy if is_wanted else None


def plan_of(*layers, input_shape=3, capacity=2):
    network = Network(input_shape, layers, loss="mse", backend="numpy")
    return Plan(network, capacity, network.loss_function.kernels[0], training=True)


# ---- names


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Own(["w", "dw"]), "'dw2' for the gradient of 'w2' and parameters"),
        (Own(["w", "w"]), "'w2' for parameters and parameters"),
        (Own(["w"], ["w"]), "'w2' for statistics and parameters"),
        (Own(["w"], ["dw"]), "'dw2' for statistics and the gradient of 'w2'"),
        (Residual([Own(["v"], ["dv"])]), "'dv2.1' for statistics and the gradient of 'v2.1'"),
    ],
)
def test_parameters_and_statistics_have_names_of_their_own(layer, match):
    with pytest.raises(ValueError, match=f"'layers': expected arrays of different names, got {match}"):
        Network(3, [Dense(3), layer], loss="mse")


@pytest.mark.parametrize(
    ("arrays", "declare", "match"),
    [
        ((["a"],), lambda plan, path: plan.row_buffer(f"a{path}", (3,)), "'a2' for a buffer of rows and parameters"),
        ((["x"],), lambda plan, path: plan.row_buffer(f"dx{path}", (3,)), "'dx2' for .* and the gradient of 'x2'"),
        (([], ["m"]), lambda plan, path: plan.vector(f"m{path}", [1.0]), "'m2' for a vector and statistics"),
        ((), lambda plan, path: plan.row_buffer("b1", (3,)), "'b1' for a buffer of rows and parameters"),
        ((), lambda plan, path: plan.reshaped("x", "dz", (3, 1)), "'x' for a buffer of rows and one of the engine"),
        ((), lambda plan, path: plan.vector("gradient", [1.0]), "'gradient' for a vector and one of the engine"),
        ((), lambda plan, path: [plan.row_buffer("t", (n,)) for n in (3, 4)], "'t' for a buffer of rows and a buffer"),
        ((), lambda plan, path: (plan.vector("t", [1.0]), plan.row_buffer("t")), "'t' for a buffer of rows and a vect"),
    ],
)
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_buffers_have_names_of_their_own(arrays, declare, match, phase):
    layer = Own(*arrays, **{phase: lambda plan, path, *_: declare(plan, path)})
    with pytest.raises(ValueError, match=f"'layers': expected arrays of different names, got {match}"):
        plan_of(Dense(3), layer)


# ---- mistakes in a layer


@pytest.mark.parametrize(
    ("phase", "arguments", "error", "match"),
    [
        ("forwards", ("t2", "x", 1.0), ValueError, "'phase': expected .*'forward', .*got 'forwards'"),
        ("forward", ("t2", "x"), TypeError, "own_scaled, phase 'forward': expected y, x, scale, got .'t2', 'x'.$"),
        ("forward", ("t2", "nothing", 1.0), ValueError, "own_scaled: expected names of arrays, got 'nothing'"),
    ],
)
def test_an_operation_that_cannot_be_added(phase, arguments, error, match):
    made = scaled()

    def forward(plan, path, x):
        plan.row_buffer("t2", (3,))
        plan.add(phase, made, *arguments)

    with pytest.raises(error, match=match):
        plan_of(Dense(3), Own(forward=forward))


def test_a_gradient_that_cannot_be_added():
    made = scaled()
    with pytest.raises(TypeError, match="own_scaled, phase 'parameters': expected y, x, scale, got .'ds2', 'x'.$"):
        plan_of(Dense(3), Own(["s"], backward=lambda plan, path, x, dy: plan.add_gradient(made, "s2", "x")))


def test_a_parameter_without_a_gradient_is_an_error():
    with pytest.raises(ValueError, match="'layers': expected layers that add a gradient for all .*none for 's2'"):
        plan_of(Dense(3), Own(["s"]))


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_layer_that_returns_no_buffer_is_named(method, monkeypatch):
    monkeypatch.setattr(Own, method, lambda self, *_: None)
    monkeypatch.setattr(Own, "__repr__", lambda self: "Own()")
    with pytest.raises(TypeError, match=rf"{method} of Own\(\): expected the name of a buffer, got None"):
        plan_of(Dense(3), Own())


@pytest.mark.parametrize("config", [{"layer": "Own"}, {"layer": "Dense", "units": 3}, {}])
def test_a_layer_that_could_not_be_loaded_is_not_saved(config, monkeypatch, tmp_path):
    monkeypatch.setattr(Own, "config", lambda self: config)
    with pytest.raises(ValueError, match="'layers': expected layers whose class has the decorator `layer`"):
        Network(3, [Dense(3), Own()], loss="mse").save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ---- per-step scalars


def scaled():
    @kernel
    def own_scaled(y: Out("rows", "n"), x: In("rows", "n"), scale: float):
        """y <- scale x."""
        np.multiply(x, scale, out=y)

    return own_scaled


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_the_minibatch_is_the_only_per_step_scalar_of_layers(phase):
    made = scaled()

    def add(key, plan, path, x, *_):
        plan.add(phase, made, plan.row_buffer(f"t{path}", plan.shape(x)), x, PerStep(key))

    for key in ("epoch", ("minibatch", 1), "seed"):
        match = f"kernel own_scaled, phase '{phase}': scalar 'scale': expected a number or PerStep.'minibatch'.*{key!r}"
        with pytest.raises(ValueError, match=match.replace("(", ".").replace(")", ".")):
            plan_of(Dense(3), Own(**{phase: lambda *given, key=key: add(key, *given)}))
    plan = plan_of(Dense(3), Own(**{phase: lambda *given: add("minibatch", *given)}))
    plan.set_minibatch_number(7)
    assert [link.arguments[-1] for _, _, links in plan.per_step((phase,)) for link in links] == [7.0]


@pytest.mark.parametrize("phase", ["track", "parameters", "loss"])
def test_scalars_of_other_phases_are_numbers(phase):
    def add(plan, path, x):
        plan.add(phase, made, plan.row_buffer(f"t{path}", plan.shape(x)), x, PerStep("minibatch"))

    made = scaled()
    with pytest.raises(
        ValueError, match=f"own_scaled, phase '{phase}': scalar 'scale': expected a number, got PerStep"
    ):
        plan_of(Dense(3), Own(forward=add))


# ---- gradients


def gradient_kernel(gradient, x, dy):
    """A kernel with the contract of a gradient: dimensions of its three arrays."""

    def own_gradient(dw: Out(*gradient), x: In(*x), dy: In(*dy)):
        dw.fill(0)

    return kernel(own_gradient)


@pytest.mark.parametrize(
    ("gradient", "x", "dy", "shape", "terms"),
    [
        ("n", ("rows", "n"), ("rows", "n"), (4, 5, 3), 20),  # folded: 4 x 5 positions
        ("c", ("rows", "c", "t"), ("rows", "c", "t"), (3, 7), 7),  # channels first
        ("t", ("rows", "t", "c"), ("rows", "t", "c"), (3, 7), 7),  # one parameter per position
        ("c", ("rows", "h", "v", "c"), ("rows", "h", "v", "c"), (4, 5, 3), 20),
        ("c", ("rows", "h", "v", "c"), ("rows", "i", "j", "c"), (4, 5, 3), 400),  # at most: the contract has 4 sizes
        ("n", ("rows", "n"), ("rows", "m"), (6,), 6),
    ],
)
def test_the_terms_of_a_gradient_follow_from_the_contract(gradient, x, dy, shape, terms):
    made = gradient_kernel((gradient,), x, dy)
    axis = (*x[1:], *["?"] * len(shape))[: len(shape)].index(gradient) if len(x) - 1 == len(shape) else -1

    class Learning(Own):
        def parameters(self, of_x):
            return (ParameterSpec("w", (of_x[axis],), ones, is_weight=False, fans=(1, 1)),)

    layer = Learning(backward=lambda plan, path, x, dy: plan.add_gradient(made, f"w{path}", x, dy))
    assert plan_of(layer, input_shape=shape).terms == terms


@pytest.mark.parametrize(
    ("gradient", "x", "dy", "used", "match"),
    [
        (("n",), ("n",), ("n",), ("b1", "b1"), r"got a gradient \('n',\) of no buffer of rows"),
        (("rows",), ("rows", "n"), ("rows", "n"), ("x", "dz"), r"got a gradient \('rows',\) of buffers of rows"),
        (("n",), ("rows", "n"), ("n", "m"), ("x", "w1"), "got dimension 'm' of no buffer of rows"),
    ],
)
def test_a_gradient_whose_terms_cannot_be_counted_is_refused(gradient, x, dy, used, match):
    made = gradient_kernel(gradient, x, dy)
    layer = Own(["w"], backward=lambda plan, path, x, dy: plan.add_gradient(made, f"w{path}", *used))
    with pytest.raises(
        ValueError, match=f"kernel own_gradient: expected a gradient that is summed over the rows .*{match}"
    ):
        plan_of(Dense(3), layer)


# ---- weights of several axes


class Kernels(Own):
    """y = x, with weights (kh, kw, c, k)."""

    def parameters(self, shape):
        init = fastgd.initializers.orthogonal
        return (ParameterSpec("w", (3, 3, 2, 4), init, is_weight=True, fans=(18, 36)), *super().parameters(shape))


def test_random_directions_of_weights_of_several_axes():
    network = Network(3, [Dense(3), Kernels(["v"])], loss="mse", seed=2)
    network.views()["w2"][...] *= np.arange(1, 5)
    plane = plane_of(network, directions="random")
    for direction in (plane.first, plane.second):
        parts = network.views(direction)
        for name in ("w1", "w2"):
            lengths = np.sqrt((parts[name] ** 2).sum(axis=tuple(range(parts[name].ndim - 1))))
            wanted = np.sqrt((network.views()[name] ** 2).sum(axis=tuple(range(parts[name].ndim - 1))))
            np.testing.assert_allclose(lengths, wanted, rtol=1e-6)
        assert not parts["b1"].any()
        assert not parts["v2"].any()


# ---- bodies


@pytest.mark.parametrize("name", ["cython", "numba"])
def test_a_kernel_without_a_compiled_body_says_so(name):
    made = scaled()

    def add(plan, path, x):
        plan.add("forward", made, plan.row_buffer(f"t{path}", plan.shape(x)), x, 2.0)

    network = Network(3, [Dense(3), Own(forward=add)], loss="mse", backend=name)
    match = f"kernel own_scaled: backend '{name}': expected a compiled body.*@own_scaled.loop.*backend=\"numpy\""
    with pytest.raises(ValueError, match=match):
        network.predict(np.ones((2, 3)))
    with pytest.raises(ValueError, match="kernel own_scaled: backend 'cython': expected a compiled body"):
        made(np.zeros((1, 2)), np.ones((1, 2)), 2.0)


def test_the_cost_of_a_kernel():
    def double(y: Out("rows", "n"), x: In("rows", "n")):
        np.multiply(x, 2, out=y)

    sizes = {"rows": 2, "n": 3}
    assert kernel(double).operations(sizes) == kernel()(double).operations(sizes) == 6
    assert kernel(cost=lambda rows, n: 7 * rows * n)(double).operations(sizes) == 42
    assert kernel(double, cost=lambda rows, n: rows).operations(sizes) == 2
    assert fastgd.kernels.dense_backward_weights.operations({"rows": 2, "n_in": 3, "n_out": 5}) == 60


def test_a_parameter_is_a_spec():
    for make in LAYERS.values():
        for _, leaf, shape in make().leaves("1", (4,)):
            assert all(isinstance(spec, ParameterSpec) for spec in leaf.parameters(shape))
