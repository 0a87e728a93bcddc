"""What a layer is: shapes, arrays it owns, and how it writes its operations down in a plan. The table by name."""

import typing

from ..activations import ACTIVATIONS, Activation
from ..core.choice import pick
from ..errors import check_integer, choose, shown, value_error

LAYERS = {}


def layer(kind):
    """Decorator: enters a class of layers in LAYERS."""
    LAYERS[kind.__name__] = kind
    return kind


def check_shape(argument, shape):
    """The shape of a row, given as an int or a tuple of them, as a tuple."""
    if isinstance(shape, (list, tuple)):
        if not shape:
            raise value_error(argument, "at least one axis", shown(shape))
        return tuple(check_integer(f"{argument}[{i}]", n, 1) for i, n in enumerate(shape))
    return (check_integer(argument, shape, 1),)


class ParameterSpec(typing.NamedTuple):
    """An array of parameters: its name, shape, initializer, whether the penalty applies to it, and the initializer's
    (fan_in, fan_out)."""

    name: str
    shape: tuple
    initializer: object
    is_weight: bool
    fans: tuple


class Layer:
    """A layer: `x` (rows, *shape) -> `y` (rows, *output_shape(shape)). It keeps nothing of a network: the arrays that
    it needs are the network's and the plan's, with its path at the end of their names: "3" is the third layer of the
    network, "3.2" the second in that. One object may serve as many layers."""

    def output_shape(self, shape):
        """The shape of a row of y; raises ValueError if that of x does not suit."""
        return shape

    def parameters(self, shape):
        """Name, shape, initializer, whether the penalty applies, and (fan_in, fan_out), of every parameter array."""
        return ()

    def shared(self, shape):
        """Name and shape of every parameter array that it uses, but another layer has."""
        return ()

    def statistics(self, shape):
        """Name, shape and initial value of every array that training steps keep up to date, but no optimizer."""
        return ()

    def least_rows(self, shape):
        """How many rows a minibatch of training needs for the layer to learn from it."""
        return 1

    def check_dtype(self, dtype):
        """Raises where a network of this dtype would compute something else."""

    def leaves(self, path, shape):
        """Yields (path, layer, shape of a row of its x) of every layer that is no container, in order."""
        yield path, self, shape

    def without_noise(self):
        """The same layer, but for what is random in training."""
        return self

    def forward(self, plan, path, x):
        """Writes the forward pass down in the plan, for training if `plan.training`; returns the name of y."""
        raise NotImplementedError

    def backward(self, plan, path, x, dy, is_wanted):
        """Writes the backward pass down; dy may be overwritten. Returns the name of dx, or None if it is not wanted."""
        raise NotImplementedError

    def onnx(self, graph, path, x):
        """Adds the nodes of evaluation to a graph (`fastgd.onnx.Graph`); returns the name of y."""
        raise value_error("layers", "layers that ONNX knows", repr(self))

    def describe(self, path, shape):
        """Yields (path, text, shape of a row of y), of the layer and of those in it."""
        yield path, repr(self), self.output_shape(shape)

    def config(self):
        """What a file needs to make this layer again; the initializers have done their work."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config):
        """The layer of a `config`."""
        return cls(**{name: value for name, value in config.items() if name != "layer"})


class ActivatedLayer(Layer):
    """A layer with an activation: what it computes, z (rows, *shape), becomes y = activation(z)."""

    def __init__(self, activation):
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)

    def row_buffer_of_z(self, plan, path, shape):
        """Declares the buffer of z, and returns its name; that of y, if the activation works in place."""
        keeps_slope = self.activation.keeps == "slope"  # where z was, after the forward pass
        return plan.row_buffer(f"z{path}" if keeps_slope else f"a{path}", shape)

    def activate(self, plan, path, z):
        """Writes the activation down; returns the name of y."""
        act, y = self.activation, plan.row_buffer(f"a{path}", plan.shape(z))
        if act.forward is not None:
            plan.add("forward", act.forward, y, z, *act.parameters.values())
        return y

    def activate_backward(self, plan, path, dy):
        """Writes down what makes of dy the gradient of z, in its place."""
        act = self.activation
        if act.backward is not None and act.keeps == "output":
            plan.add("backward", act.backward, dy, f"a{path}", *act.parameters.values())
        elif act.backward is not None:
            plan.add("backward", act.backward, dy, f"z{path}")

    def activate_onnx(self, graph, z):
        """Adds the nodes of the activation; returns the name of y."""
        return graph.apply("activation", self.activation, self.activation.forward, z)

    @classmethod
    def from_config(cls, config):
        options = {name: value for name, value in config.items() if name not in ("layer", "activation")}
        chosen = dict(config["activation"])
        activation = pick("activation", chosen.pop("name"), ACTIVATIONS, Activation)(**chosen)
        return cls(activation=activation, **options)


def layer_from_config(config):
    """The layer, or container of layers, of a `config`."""
    return choose("layer", config["layer"], LAYERS).from_config(config)


def parameter_specs(body, shape):
    """The parameter arrays of a network in their order: weights first, so that a penalty is on a prefix."""
    specs = [
        ParameterSpec(f"{name}{path}", *spec)
        for path, leaf, of_x in body.leaves("", shape)
        for name, *spec in leaf.parameters(of_x)
    ]
    return sorted(specs, key=lambda spec: not spec.is_weight)


def statistic_specs(body, shape):
    """Name, shape and initial value of the arrays of statistics of a network."""
    return [
        (f"{name}{path}", *spec) for path, leaf, of_x in body.leaves("", shape) for name, *spec in leaf.statistics(of_x)
    ]
