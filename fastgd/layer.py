"""What a layer is: sizes, arrays it owns, and how it writes its operations down in a plan. The table of all by name."""

import typing

from .activations import ACTIVATIONS, Activation
from .choice import pick
from .errors import value_error

LAYERS = {}


def layer(kind):
    """Decorator: enters a class of layers in LAYERS."""
    LAYERS[kind.__name__] = kind
    return kind


class ParameterSpec(typing.NamedTuple):
    """An array of parameters: its name, shape, initializer, whether the penalty applies to it, and the initializer's
    (fan_in, fan_out)."""

    name: str
    shape: tuple
    initializer: object
    is_weight: bool
    fans: tuple


class Layer:
    """A layer, the i-th of a network: `x` (rows, n_in) -> `y` (rows, n_out). It keeps nothing of a network: the arrays
    that it needs are the network's and the plan's, with i at the end of their names. One object may serve many."""

    # Rows that a minibatch of training needs for the layer to learn from it.
    least_rows = 1

    def output_size(self, n_in):
        """n_out; raises ValueError if n_in does not suit."""
        return n_in

    def parameters(self, n_in):
        """Name, shape, initializer, whether the penalty applies, and (fan_in, fan_out), of every parameter array."""
        return ()

    def statistics(self, n_in):
        """Name, shape and initial value of every array that training steps keep up to date, but no optimizer."""
        return ()

    def check_dtype(self, dtype):
        """Raises where a network of this dtype would compute something else."""

    def forward(self, plan, i, x):
        """Writes the forward pass down in the plan, for training if `plan.training`; returns the name of y."""
        raise NotImplementedError

    def backward(self, plan, i, x, dy, is_wanted):
        """Writes the backward pass down; dy is consumed. Returns the name of dx, or None if it is not wanted."""
        raise NotImplementedError

    def onnx(self, graph, i, x):
        """Adds the nodes of evaluation to a graph (`fastgd.onnx.Graph`); returns the name of y."""
        raise value_error("layers", "layers that ONNX knows", repr(self))

    def config(self):
        """What a file needs to make this layer again; the initializers have done their work."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config):
        """The layer of a `config`."""
        return cls(**{name: value for name, value in config.items() if name != "layer"})


class ActivatedLayer(Layer):
    """A layer with an activation: what it computes, z (rows, n_out), becomes y = activation(z)."""

    def __init__(self, activation):
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)

    def row_buffer_of_z(self, plan, i):
        """Declares the buffer of z, and returns its name; that of y, if the activation works in place."""
        keeps_slope = self.activation.keeps == "slope"  # where z was, after the forward pass
        return plan.row_buffer(f"z{i}" if keeps_slope else f"a{i}", plan.network.sizes[i])

    def activate(self, plan, i, z):
        """Writes the activation down; returns the name of y."""
        act, y = self.activation, plan.row_buffer(f"a{i}", plan.network.sizes[i])
        if act.forward is not None:
            plan.add("forward", act.forward, y, z, *act.parameters.values())
        return y

    def activate_backward(self, plan, i, dy):
        """Writes down what makes of dy the gradient of z, in its place."""
        act = self.activation
        if act.backward is not None and act.keeps == "output":
            plan.add("backward", act.backward, dy, f"a{i}", *act.parameters.values())
        elif act.backward is not None:
            plan.add("backward", act.backward, dy, f"z{i}")

    def activate_onnx(self, graph, z):
        """Adds the nodes of the activation; returns the name of y."""
        return graph.apply("activation", self.activation, self.activation.forward, z)

    @classmethod
    def from_config(cls, config):
        options = {name: value for name, value in config.items() if name not in ("layer", "activation")}
        chosen = dict(config["activation"])
        activation = pick("activation", chosen.pop("name"), ACTIVATIONS, Activation)(**chosen)
        return cls(activation=activation, **options)


def _numbered(n_features, layers, arrays_of):
    """What arrays_of(layer, n_in) lists, (name, ...), of all layers, with the number of its layer behind each name."""
    specs, n_in = [], n_features
    for i, one in enumerate(layers, 1):
        specs += [(f"{name}{i}", *spec) for name, *spec in arrays_of(one, n_in)]
        n_in = one.output_size(n_in)
    return specs


def parameter_specs(n_features, layers):
    """The parameter arrays of a network in their order: weights first, so that a penalty is on a prefix."""
    specs = _numbered(n_features, layers, lambda one, n_in: one.parameters(n_in))
    return sorted((ParameterSpec(*spec) for spec in specs), key=lambda spec: not spec.is_weight)


def statistic_specs(n_features, layers):
    """Name, shape and initial value of the arrays of statistics of a network."""
    return _numbered(n_features, layers, lambda one, n_in: one.statistics(n_in))
