"""Base class of layers: shapes, arrays, and the operations that a layer adds to a plan. The table of layers by name."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np

from ..activations import ACTIVATIONS, Activation
from ..core.choice import pick
from ..core.types import Shape, ShapeLike
from ..errors import check_integer, choose, shown, value_error
from ..initializers import Initializer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph

LAYERS: dict[str, type["Layer"]] = {}
# Name, shape, initializer, whether the penalty applies, (fan_in, fan_out).
Parameter: TypeAlias = tuple[str, Shape, Initializer, bool, tuple[int, int]]
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
    """An array of parameters."""

    name: str
    shape: Shape
    initializer: Initializer
    is_weight: bool  # whether the penalty applies to it
    fans: tuple[int, int]  # (fan_in, fan_out), for the initializer


class Layer:
    """A layer: `x` (rows, *shape) -> `y` (rows, *output_shape(shape)). It holds no arrays: these belong to the network
    and the plan, and their names end with the layer's path. "3" is the third layer of the network, "3.2" the second
    layer within that. So one object may be used for several layers."""

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of a row of y, given that of x; raises ValueError if the layer cannot take rows of that shape."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """(name, shape, initializer, whether the penalty applies, (fan_in, fan_out)) of every parameter array."""
        return ()

    def shared(self, shape: Shape) -> tuple[tuple[str, Shape], ...]:
        """(name, shape) of every parameter array that it shares with the layer that has it."""
        return ()

    def statistics(self, shape: Shape) -> tuple[tuple[str, Shape, float], ...]:
        """(name, shape, initial value) of every array that training steps update without the optimizer."""
        return ()

    def least_rows(self, shape: Shape) -> int:
        """The least number of rows in a minibatch from which the layer can learn."""
        return 1

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Raises if this dtype is not precise enough for the layer."""

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, "Layer", Shape]]:
        """Yields (path, layer, shape of a row of its x) for every layer that is not a container, in order."""
        yield path, self, shape

    def without_noise(self) -> "Layer":
        """The same layer without randomness in training."""
        return self

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        """Adds the forward pass to the plan, for training if `plan.training`; returns the name of y."""
        raise NotImplementedError

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        """Adds the backward pass to the plan; dy may be overwritten. Returns the name of dx, or None if not wanted."""
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

    def __init__(self, activation: str | Activation) -> None:
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)

    def row_buffer_of_z(self, plan: "Plan", path: str, shape: Shape) -> str:
        """Declares the buffer of z and returns its name, which is that of y if the activation works in place."""
        keeps_slope = self.activation.keeps == "slope"  # the forward pass replaces z by the slope
        return plan.row_buffer(f"z{path}" if keeps_slope else f"a{path}", shape)

    def activate(self, plan: "Plan", path: str, z: str) -> str:
        """Adds the activation to the plan; returns the name of y."""
        act, y = self.activation, plan.row_buffer(f"a{path}", plan.shape(z))
        if act.forward is not None:
            plan.add("forward", act.forward, y, z, *act.parameters.values())
        return y

    def activate_backward(self, plan: "Plan", path: str, dy: str) -> None:
        """Adds the activation's backward pass, which replaces dy by the gradient of z."""
        act = self.activation
        if act.backward is not None and act.keeps == "output":
            plan.add("backward", act.backward, dy, f"a{path}", *act.parameters.values())
        elif act.backward is not None:
            plan.add("backward", act.backward, dy, f"z{path}")

    def activate_onnx(self, graph: "Graph", z: str) -> str:
        """Adds the nodes of the activation; returns the name of y."""
        return graph.apply("activation", self.activation, self.activation.forward, z)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = {name: value for name, value in config.items() if name not in ("layer", "activation")}
        chosen = dict(config["activation"])
        activation = pick("activation", chosen.pop("name"), ACTIVATIONS, Activation)(**chosen)
        return cls(activation=activation, **options)


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """The layer or container described by a `config`."""
    kind: type[Layer] = choose("layer", config["layer"], LAYERS)
    return kind.from_config(config)


def parameter_specs(body: Layer, shape: Shape) -> list[ParameterSpec]:
    """The parameter arrays of a network in order: weights first, so that the penalty applies to a prefix."""
    specs = [
        ParameterSpec(f"{name}{path}", of_array, initializer, is_weight, fans)
        for path, leaf, of_x in body.leaves("", shape)
        for name, of_array, initializer, is_weight, fans in leaf.parameters(of_x)
    ]
    return sorted(specs, key=lambda spec: not spec.is_weight)


def statistic_specs(body: Layer, shape: Shape) -> list[tuple[str, Shape, float]]:
    """(name, shape, initial value) of every array of statistics of a network."""
    return [
        (f"{name}{path}", of_array, value)
        for path, leaf, of_x in body.leaves("", shape)
        for name, of_array, value in leaf.statistics(of_x)
    ]
