"""Activation: a layer that is nothing but its activation."""

from typing import TYPE_CHECKING, Any

from ..activations import Activation as Function
from ..core.types import Shape
from ..engine.rows import copy_rows
from .base import ActivatedLayer, layer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@layer
class Activation(ActivatedLayer):
    """An activation as a layer of its own: y = activation(x), x and y (rows, *shape). It follows layers that have no
    activation, such as `Residual`.

    activation: as in `Dense`. Raises TypeError or ValueError that names the argument.
    """

    in_blocks = None  # as its input
    is_causal = True

    def __init__(self, activation: str | Function) -> None:
        super().__init__(activation)

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape, in_blocks, act = plan.shape(x), plan.is_in_blocks(x), self.activation
        z = self.row_buffer_of_z(plan, path, shape, in_blocks=in_blocks)
        if act.keeps == "output" and act.forward is not None:
            plan.add("forward", act.forward, z, x, *act.parameters.values())
            return z
        plan.add("forward", copy_rows, z, x)  # which the activation then replaces by its slope
        return self.activate(plan, path, z)

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        dy = self.activate_backward(plan, path, dy)
        return dy if is_wanted else None

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return self.activate_onnx(graph, x)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def config(self) -> dict[str, Any]:
        return {"layer": "Activation", "activation": self.activation.config()}

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"
