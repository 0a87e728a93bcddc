"""Layers that only change the shape of their input."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..activations import Activation
from ..core.types import Shape
from ..errors import check_integer, shown, type_error, value_error
from .base import Layer, layer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@layer
class Reshape(Layer):
    """A layer that changes the shape of the rows without moving data: y has the elements of x in C order.

    shape: a tuple of ints >= 1, one of which may be -1: it is inferred.

    Raises TypeError or ValueError that names the argument. `Network` raises ValueError if the number of elements
    differs.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        if not isinstance(shape, (list, tuple)) or not shape:
            raise type_error("shape", "a tuple of ints such as (28, 28, 1)", shown(shape))
        self.shape = tuple(n if n == -1 else check_integer(f"shape[{i}]", n, 1) for i, n in enumerate(shape))
        if self.shape.count(-1) > 1:
            raise value_error("shape", "at most one -1", shown(shape))

    def output_shape(self, shape: Shape) -> Shape:
        size, given = math.prod(shape), math.prod(n for n in self.shape if n != -1)
        made = tuple(size // given if n == -1 else n for n in self.shape)
        if math.prod(made) != size:
            raise value_error("shape", f"a shape of {size} elements, as {shape} has", self.shape)
        return made

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return of_input

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        return plan.reshaped(f"a{path}", x, self.output_shape(plan.shape(x)))

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        return plan.reshaped(f"dx{path}", dy, plan.shape(x)) if is_wanted else None

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        shape = self.output_shape(graph.shapes[path])
        return graph.add("Reshape", x, np.array([-1, *shape]))

    def config(self) -> dict[str, Any]:
        return {"layer": "Reshape", "shape": list(self.shape)}

    def __repr__(self) -> str:
        return f"Reshape({self.shape})"


@layer
class Flatten(Reshape):
    """A layer that makes each row a vector: `Reshape((-1,))`."""

    def __init__(self) -> None:
        super().__init__((-1,))

    def config(self) -> dict[str, Any]:
        return {"layer": "Flatten"}

    def __repr__(self) -> str:
        return "Flatten()"
