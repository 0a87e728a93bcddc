"""Base class of layers: shapes, arrays, and the operations that a layer adds to a plan. The table of layers by name."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

from ..activations import ACTIVATIONS, Activation, relu_forward, slope_backward
from ..core.choice import choice_from_config, pick
from ..core.for_users import ForUsers
from ..core.types import Shape, ShapeLike
from ..errors import check_integer, shown, type_error, value_error
from ..initializers import Initializer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph

LAYERS: dict[str, type["Layer"]] = {}
EMBEDDING = "embedding"  # what layers may call the vectors of a network's tokens
T = TypeVar("T", bound="Layer")


def layer(cls: type[T]) -> type[T]:
    """Decorator: adds a class of layers to LAYERS."""
    LAYERS[cls.__name__] = cls
    return cls


def check_shape(argument: str, shape: ShapeLike) -> Shape:
    """The shape of a row, given as an int or a tuple of ints, as a tuple."""
    if isinstance(shape, (list, tuple)):
        if not shape:
            raise value_error(argument, "at least one axis", shown(shape))
        return tuple(check_integer(f"{argument}[{i}]", n, 1) for i, n in enumerate(shape))
    return (check_integer(argument, shape, 1),)


class ParameterSpec(NamedTuple):
    """An array of parameters.

    name: without the path of the layer in `Layer.parameters`, with it in `parameter_specs`.
    is_weight: whether the penalty applies to it.
    fans: (fan_in, fan_out), for the initializer."""

    name: str
    shape: Shape
    initializer: Initializer
    is_weight: bool
    fans: tuple[int, int]


class Layer(ForUsers):
    """A layer: `x` (rows, *shape) -> `y` (rows, *output_shape(shape)). It holds no arrays: these belong to the network
    and the plan. So one object may be used for several layers.

    The path of a layer is its number in the network, "3", or in a container, "3.2": the second layer in the third. It
    is appended to the names of the layer's arrays: parameters "w3.2", statistics "mean3.2", buffers "a3.2".

    Who calls the methods:

    `Network()`           output_shape, leaves, readers; then for each leaf parameters, shared, statistics and
                          check_dtype
    `fit`                 least_rows of each leaf, for minibatches of arrays
    `Plan()`              forward of all layers, first to last, then backward, last to first; both only add operations
                          to the plan. At every new plan: for training and for evaluation, for more rows, another loss
                          kernel
    `to_onnx`             onnx
    `describe()`          describe
    `save`, `load`        config; from_config
    `plots.loss_surface`  without_noise

    Containers call the same methods of their layers.

    Operations must not overwrite x, which other layers may read, but may overwrite dy. The gradients of parameters that
    `Plan.add_gradient` adds are computed after the backward pass of all layers: what they read must be intact then."""

    _internal = frozenset({
        "activations", "backward", "check_dtype", "children", "config", "describe", "forward", "from_config",
        "in_blocks", "is_causal", "least_rows", "leaves", "onnx", "output_activations", "parameters", "readers",
        "shared", "statistics", "vocabulary", "without_noise"
    })  # fmt: skip

    # Whether x and y lie in blocks of images (see engine/rows.py); None if the layer works on any buffer as it is.
    in_blocks: bool | None = False
    # Whether y at a position of a sequence depends on x there, and at most at earlier positions: `generate` needs that.
    is_causal = False
    # For a layer whose x are token ids: the number of tokens, each with a row of the layer's parameter w.
    vocabulary: int | None = None

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of a row of y, given that of x; raises ValueError if the layer cannot take rows of that shape."""
        return shape

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        """The parameter arrays. Each forms the buffers `name` and `d{name}`, its gradient, with the layer's path."""
        return ()

    def shared(self, shape: Shape) -> tuple[tuple[str, Shape], ...]:
        """(name, shape) of every parameter array that it shares with the layer that has it."""
        return ()

    def statistics(self, shape: Shape) -> tuple[tuple[str, Shape, float], ...]:
        """(name, shape, initial value) of every array that training steps update without the optimizer."""
        return ()

    def least_rows(self, shape: Shape) -> int:
        """The least number of rows in a minibatch from which the layer can learn. Only `fit` on arrays refuses smaller
        minibatches: those of an iterable, `train_step` and `loss_and_gradient` take any number."""
        return 1

    def children(self) -> "tuple[Layer, ...]":
        """The layers directly within it, if it is a container."""
        return ()

    def activations(self) -> tuple[Activation, ...]:
        """The activations that the layer applies. They may be users' functions, which a file identifies."""
        return ()

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        """The activations whose outputs are elements of y, given those whose outputs are elements of x."""
        return ()

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Raises if this dtype is not precise enough for the layer."""

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, "Layer", Shape]]:
        """Yields (path, layer, shape of a row of its x) for every layer that is not a container, in order."""
        yield path, self, shape

    def readers(self, path: str) -> Iterator[str]:
        """Yields the paths of the layers in it that read its x: its own, if it is not a container."""
        yield path

    def without_noise(self) -> "Layer":
        """The same layer without randomness in training."""
        return self

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        """Adds the forward pass to the plan, for training if `plan.training`; returns the name of y. x: name of a
        buffer (rows, *shape), which must not be overwritten."""
        raise NotImplementedError

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        """Adds the backward pass to the plan. Returns the name of dx, or None if it is not wanted; dx may be dy. x, dy:
        names of buffers, the gradient of y (rows, *output_shape(shape)) in dy, which may be overwritten."""
        raise NotImplementedError

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        """Adds the nodes of evaluation to a graph (`fastgd.onnx.Graph`); returns the name of y."""
        raise value_error("layers", "layers that can be exported to ONNX", repr(self))

    def describe(self, path: str, shape: Shape) -> Iterator[tuple[str, str, Shape]]:
        """Yields (path, text, shape of a row of y) for the layer and the layers in it."""
        yield path, repr(self), self.output_shape(shape)

    def config(self) -> dict[str, Any]:
        """The arguments that a file needs to make this layer again, without the initializers."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The layer of a `config`."""
        return cls(**{name: value for name, value in config.items() if name != "layer"})


class ActivatedLayer(Layer):
    """A layer with an activation: y = activation(z), where z (rows, *shape) is the layer's result."""

    _internal = Layer._internal | {
        "activate", "activate_backward", "activate_onnx", "is_relu", "least", "row_buffer_of_z"
    }  # fmt: skip

    def __init__(self, activation: str | Activation) -> None:
        if isinstance(activation, int):  # torch's Linear(inputs, outputs)
            expected = "a name, such as 'relu' (sizes of inputs are not given: they follow from the layer before)"
            raise type_error("activation", expected, activation)
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)

    @property
    def is_relu(self) -> bool:
        """Whether the activation is relu, which kernels on images apply to their result: see `least`."""
        return self.activation.forward is relu_forward

    @property
    def least(self) -> float:
        """Kernels on images raise their result to this: 0 for relu, otherwise -infinity."""
        return 0.0 if self.is_relu else -math.inf

    def activations(self) -> tuple[Activation, ...]:
        return (self.activation,)

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return (self.activation,)

    def row_buffer_of_z(self, plan: "Plan", path: str, shape: Shape, *, in_blocks: bool = False) -> str:
        """Declares the buffer of z and returns its name. If the activation works in place, this is also that of y."""
        keeps_slope = self.activation.keeps == "slope"  # the forward pass replaces z by the slope
        return plan.row_buffer(f"z{path}" if keeps_slope else f"a{path}", shape, in_blocks=in_blocks)

    def activate(self, plan: "Plan", path: str, z: str) -> str:
        """Adds the activation to the plan; returns the name of y."""
        act, y = self.activation, f"a{path}"
        if z != y:
            plan.row_buffer(y, plan.shape(z), in_blocks=plan.is_in_blocks(z))
        if act.forward is not None:
            plan.add("forward", act.forward, y, z, *act.parameters.values())
        return y

    def activate_backward(self, plan: "Plan", path: str, dy: str) -> str:
        """Adds the activation's backward pass; returns the name of the gradient of z, which replaces dy or slope."""
        act, z = self.activation, f"z{path}"
        if dy in plan.gradients_of_z or act.backward is None:
            return dy
        if act.keeps == "output":
            plan.add("backward", act.backward, dy, f"a{path}", *act.parameters.values())
        elif act.backward is slope_backward and not plan.may_repeat_backward and plan.shape(z) == plan.shape(dy):
            plan.add("backward", act.backward, z, dy)  # the product in the slope's memory, which leaves dy's for others
            return z
        else:
            plan.add("backward", act.backward, dy, z)
        return dy

    def activate_onnx(self, graph: "Graph", z: str) -> str:
        """Adds the nodes of the activation; returns the name of y."""
        return graph.apply("activation", self.activation, self.activation.forward, z)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = {name: value for name, value in config.items() if name not in ("layer", "activation")}
        return cls(activation=choice_from_config("activation", config["activation"], ACTIVATIONS), **options)


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """The layer or container described by a `config`."""
    name = config["layer"]
    if name not in LAYERS:
        expected = f"one of {', '.join(LAYERS)}, or your own, whose module is imported before the file is loaded"
        raise value_error("layer", expected, shown(name))
    return LAYERS[name].from_config(config)


def parameter_specs(body: Layer, shape: Shape) -> list[ParameterSpec]:
    """The parameter arrays of a network in order: weights first, so that the penalty applies to a prefix."""
    specs = [
        ParameterSpec(*spec)._replace(name=f"{spec[0]}{path}")
        for path, leaf, x_shape in body.leaves("", shape)
        for spec in leaf.parameters(x_shape)
    ]
    return sorted(specs, key=lambda spec: not spec.is_weight)


def statistic_specs(body: Layer, shape: Shape) -> list[tuple[str, Shape, float]]:
    """(name, shape, initial value) of every array of statistics of a network."""
    return [
        (f"{name}{path}", array_shape, value)
        for path, leaf, x_shape in body.leaves("", shape)
        for name, array_shape, value in leaf.statistics(x_shape)
    ]


def check_names(body: Layer, shape: Shape) -> None:
    """Raises ValueError if two arrays of the layers of a network have the same name: parameters, their gradients,
    statistics."""
    parameters = [spec.name for spec in parameter_specs(body, shape)]
    arrays = [(name, "parameters") for name in parameters]
    arrays += [(f"d{name}", f"the gradient of {name!r}") for name in parameters]
    arrays += [(name, "statistics") for name, *_ in statistic_specs(body, shape)]
    names: dict[str, str] = {}
    for name, kind in arrays:
        if name in names:
            raise value_error("layers", "arrays of different names", f"{name!r} for {kind} and {names[name]}")
        names[name] = kind
