"""What the recurrent layers LSTM and GRU share: their parameters, and the products over all steps of a sequence.

The products of the inputs with their weights are made for all steps at once, and so are the gradients of all weights.
Only h w_h is a product for each step, of all the rows of a thread; `lstm_forward` and its like go through the steps."""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..core.kernel import In, Out, kernel
from ..core.types import Shape
from ..errors import check_flag, check_integer
from ..initializers import Initializer, pick_initializer
from .base import Layer, ParameterSpec
from .dense import dense_backward_bias, dense_backward_input, dense_backward_weights, dense_forward
from .embedding import check_sequence

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@kernel
def transposed(y: Out("n", "m"), x: In("m", "n")):
    """y <- x^T."""
    np.copyto(y, x.T)


@transposed.loop
def transposed(y, x, begin, end):
    for i in range(begin, end):
        for j in range(y.shape[1]):
            y[i, j] = x[j, i]


def cost_of_steps(rows, t, u, four=0, three=0, **_):
    """Of a kernel that goes through all steps with four or three gates: products, and functions of each gate."""
    gates = four + three
    return 2 * rows * t * gates * u * u + 50 * rows * t * gates * u


def sigmoid_of_number(x):
    """1 / (1 + exp(-x)), for loops that Numba compiles."""
    e = np.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


def by_gate(initializer: Initializer, gates: int) -> Initializer:
    """An initializer for a matrix (n, gates units), each of whose gates gets values of its own; an array is taken as it
    is."""
    if initializer.name == "array":
        return initializer
    return dataclasses.replace(initializer, values=partial(_values_by_gate, initializer.values, gates))


def _values_by_gate(values, gates, rng, shape, fans, **parameters):
    n, width = shape
    return np.concatenate([values(rng, (n, width // gates), fans, **parameters) for _ in range(gates)], axis=1)


class Recurrent(Layer):
    """Base class of `LSTM` and `GRU`.

    gates: how many weights there are for each pair of an input and a unit. states: how many vectors a step passes on.
    onnx_order, onnx_attributes: of the node of the same name, the order of gates and further attributes."""

    _internal = Layer._internal | {"gates", "onnx_attributes", "onnx_order", "states"}

    gates: ClassVar[int]
    states: ClassVar[int]
    onnx_order: ClassVar[list[int]]
    onnx_attributes: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        recurrent_init: "str | Initializer | npt.NDArray[Any]" = "orthogonal",
    ) -> None:
        self.units = check_integer("units", units, 1)
        self.return_sequences = check_flag("return_sequences", return_sequences)
        self.is_causal = self.return_sequences
        self.weight_init = pick_initializer("weight_init", weight_init)
        self.recurrent_init = pick_initializer("recurrent_init", recurrent_init)

    def output_shape(self, shape: Shape) -> Shape:
        t, _ = check_sequence(self, shape)
        return (t, self.units) if self.return_sequences else (self.units,)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        n, width = shape[-1], self.gates * self.units
        weight_init, recurrent_init = (by_gate(one, self.gates) for one in (self.weight_init, self.recurrent_init))
        return (
            ParameterSpec("w_x", (n, width), weight_init, is_weight=True, fans=(n, self.units)),
            ParameterSpec("w_h", (self.units, width), recurrent_init, is_weight=True, fans=(self.units, self.units)),
        )

    def _add_inputs(self, plan, path, x):
        """Adds gates <- x w_x + b; returns the name of a view (t, gates, units) of the gates."""
        t, _ = plan.shape(x)
        gates = plan.row_buffer(f"gates{path}", (t, self.gates * self.units))
        plan.add("forward", dense_forward, gates, x, f"w_x{path}", f"b{path}")
        return plan.reshaped(f"gates{path}.split", gates, (t, self.gates, self.units))

    def _by_step(self, plan, path, name, t):
        """Declares a buffer of a vector of the units for each step, or for the last one if there is no backward pass;
        returns its name."""
        return plan.row_buffer(f"{name}{path}", (t if plan.has_backward else 1, self.units))

    def _outputs(self, plan, name, of):
        """A view (steps, units) of y or dy."""
        return of if self.return_sequences else plan.reshaped(name, of, (1, self.units))

    def _add_transpose(self, plan, path):
        """Adds the transpose of w_h, for products that read it in order; returns the name of (gates, units, units)."""
        shape = self.gates, self.units, self.units
        name = plan.vector(f"w_h{path}.T", np.zeros(shape))
        plan.add("backward", transposed, name, f"w_h{path}")
        return name

    def _add_gradients(self, plan: "Plan", path: str, x: str, dgates: str, is_wanted: bool) -> str | None:
        """Adds the gradients of w_x, b and x, given the gradient of the gates; returns the name of dx."""
        plan.add_gradient(dense_backward_weights, f"w_x{path}", x, dgates)
        plan.add_gradient(dense_backward_bias, f"b{path}", dgates)
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", plan.shape(x))
        plan.add("backward", dense_backward_input, dx, dgates, f"w_x{path}")
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        if graph.dtype != np.float32:  # which onnxruntime's nodes do not have
            h = self._onnx_loop(graph, path, x, graph.add("Transpose", x, perm=[1, 0, 2]))
            return graph.add("Transpose", h, perm=[1, 0, 2]) if self.return_sequences else h
        # Without rows onnxruntime's nodes end the process, so there is always one more.
        more = graph.add("Pad", x, np.array([0, 0, 0, 1, 0, 0], np.int64))
        h = self._onnx_node(graph, path, graph.add("Transpose", more, perm=[1, 0, 2]))
        y = graph.add("Transpose", h, perm=[1, 0, 2]) if self.return_sequences else h
        return graph.add("Slice", y, *(np.array([i], np.int64) for i in (0, -1, 0)))

    def _onnx_node(self, graph, path, steps):
        """Adds ONNX's node for this layer; returns the name of h (t, rows, units), or of the last, (rows, units)."""

        def in_onnx_order(name):
            array = graph.parameters.get(f"{name}{path}", np.zeros_like(graph.parameters[f"b{path}"]))
            split = array.reshape(-1, self.gates, self.units)[:, self.onnx_order]
            return split.reshape(len(split), -1).T

        biases = np.concatenate([in_onnx_order("b"), in_onnx_order("b_h")])[:, 0]
        arrays = (np.ascontiguousarray(array)[None] for array in (in_onnx_order("w_x"), in_onnx_order("w_h"), biases))
        options = {"hidden_size": self.units, "output": 0 if self.return_sequences else 1, **self.onnx_attributes}
        y = graph.add(type(self).__name__, steps, *arrays, **options)
        directions = 1 if self.return_sequences else 0  # their axis
        return graph.add("Squeeze", y, np.array([directions], np.int64))

    def _onnx_loop(self, graph, path, x, steps):
        """Adds a loop over the steps; returns the name of h (t, rows, units), or of the last, (rows, units)."""
        gates = graph.add("Add", graph.add("MatMul", steps, graph.parameter(f"w_x{path}")), graph.parameter(f"b{path}"))
        rows = graph.add("Gather", graph.add("Shape", x), np.array([0], np.int64), axis=0)
        shape = graph.add("Concat", rows, np.array([self.units], np.int64), axis=0)
        states = [graph.add("Expand", np.zeros(1, graph.dtype), shape)] * self.states
        last, *_, every = graph.scan(
            partial(self._onnx_step, graph, path), states, gates, *[self.units] * self.states, self.gates * self.units
        )
        return every if self.return_sequences else last

    def _onnx_step(self, graph, path, *values):
        """Adds a step of the loop; returns the names of the states after it. values: names of the states before it, and
        of x w_x + b."""
        raise NotImplementedError

    def _onnx_split(self, graph, value):
        """The names of the parts (rows, units) of (rows, gates units)."""
        split = graph.add("Reshape", value, np.array([-1, self.gates, self.units], np.int64))
        return [graph.add("Gather", split, np.array(i, np.int64), axis=1) for i in range(self.gates)]

    def config(self) -> dict[str, Any]:
        return {"layer": type(self).__name__, "units": self.units, "return_sequences": self.return_sequences}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.units}{', return_sequences=True' if self.return_sequences else ''})"
