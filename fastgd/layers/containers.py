"""Containers: layers made of layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..activations import Activation
from ..core.kernel import In, InOut, Out, kernel
from ..core.types import Shape
from ..errors import shown, type_error, value_error
from .base import Layer, layer, layer_from_config

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@kernel(elementwise=True)
def add_rows(y: Out("rows", "n"), a: In("rows", "n"), b: In("rows", "n")):
    """y <- a + b; y may be a."""
    np.add(a, b, out=y)


@add_rows.loop
def add_rows(y, a, b):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = a[i, j] + b[i, j]


@kernel
def put_columns(y: InOut("rows", "n"), x: In("rows", "k"), first: float):
    """y[:, first + j] <- x[:, j] for every column j for which y has column first + j. first: an integer >= 0."""
    first = int(first)
    part = y[:, first : first + x.shape[1]]
    part[...] = x[:, : part.shape[1]]


@put_columns.loop
def put_columns(y, x, first):
    begin = int(first)
    for i in range(y.shape[0]):
        for j in range(min(x.shape[1], y.shape[1] - begin)):
            y[i, begin + j] = x[i, j]


@kernel
def take_columns(y: Out("rows", "k"), x: In("rows", "n"), first: float):
    """y[:, j] <- x[:, first + j], or 0 if x has no such column. first: an integer >= 0."""
    part = x[:, int(first) : int(first) + y.shape[1]]
    y[:, : part.shape[1]] = part
    y[:, part.shape[1] :] = 0


@take_columns.loop
def take_columns(y, x, first):
    begin = int(first)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = x[i, begin + j] if begin + j < x.shape[1] else 0


def check_layers(argument: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """A list of layers as a tuple."""
    if not isinstance(layers, (list, tuple)) or not all(isinstance(one, Layer) for one in layers):
        raise type_error(argument, "a list of layers such as Dense(64, 'relu')", shown(layers))
    return tuple(layers)


def _joined(path, number):
    return f"{path}.{number}" if path else str(number)


def _indented(layers):
    return f"[{', '.join(map(repr, layers))}]"


@layer
class Sequential(Layer):
    """Layers one after the other, as one layer: x (rows, *shape) -> y (rows, *shape of the last layer's output). An
    empty list is the identity, y = x.

    Raises TypeError that names the argument. `Network` raises ValueError if a layer cannot take the output of the one
    before.
    """

    in_blocks = None  # the layers within decide

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = check_layers("layers", layers)

    def _children(self, path, shape):
        """Yields (path, layer, shape of a row of its x) for each layer."""
        for number, child in enumerate(self.layers, 1):
            yield _joined(path, number), child, shape
            shape = child.output_shape(shape)

    def output_shape(self, shape: Shape) -> Shape:
        for child in self.layers:
            shape = child.output_shape(shape)
        return shape

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        for child in self._children(path, shape):
            yield from child[1].leaves(child[0], child[2])

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        for child in self.layers:
            of_input = child.output_activations(of_input)
        return of_input

    def readers(self, path: str) -> Iterator[str]:
        if self.layers:
            yield from self.layers[0].readers(_joined(path, 1))

    def children(self) -> tuple[Layer, ...]:
        return self.layers

    def without_noise(self) -> Layer:
        return type(self)([child.without_noise() for child in self.layers])

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        plan.child_inputs[path], plan.child_outputs[path] = inputs, outputs = [], []
        for number, child in enumerate(self.layers, 1):
            inputs.append(x if child.in_blocks is None else plan.laid_out("forward", x, child.in_blocks))
            x = _checked_name(child, "forward", child.forward(plan, _joined(path, number), inputs[-1]))
            outputs.append(x)
        return x

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        """If dx is not wanted, the pass ends at the first layer that has parameters."""
        children = list(self._children(path, plan.shape(x)))
        learning = [i for i, child in enumerate(children) if has_parameters(*child)]
        first = 0 if is_wanted else learning[0]
        for i in range(len(children) - 1, first - 1, -1):
            child_path, child, _ = children[i]
            needs_dx = is_wanted or i > first
            name = child.backward(plan, child_path, plan.child_inputs[path][i], dy, needs_dx)
            if needs_dx:
                before = plan.child_outputs[path][i - 1] if i else x
                dy = plan.laid_out("backward", _checked_name(child, "backward", name), plan.is_in_blocks(before))
        return dy if is_wanted else None

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        for number, child in enumerate(self.layers, 1):
            x = child.onnx(graph, _joined(path, number), x)
        return x

    def describe(self, path: str, shape: Shape) -> Iterator[tuple[str, str, Shape]]:
        if path:
            yield path, type(self).__name__, self.output_shape(shape)
        for child_path, child, x_shape in self._children(path, shape):
            yield from child.describe(child_path, x_shape)

    def config(self) -> dict[str, Any]:
        return {"layer": type(self).__name__, "layers": [child.config() for child in self.layers]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls([layer_from_config(child) for child in config["layers"]])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_indented(self.layers)})"


def _checked_name(layer: Layer, method: str, name: str | None) -> str:
    """The name of a buffer that a layer's method returned."""
    if not isinstance(name, str):
        raise TypeError(f"{method} of {layer!r}: expected the name of a buffer, got {name!r}")
    return name


def has_parameters(path: str, one: Layer, shape: Shape) -> bool:
    """Whether a layer, or a layer in it, has parameters or shares another layer's."""
    return any(leaf.parameters(x_shape) or leaf.shared(x_shape) for _, leaf, x_shape in one.leaves(path, shape))


@layer
class Residual(Sequential):
    """Layers f with a skip connection: y = x + f(x), where x, f(x) and y are (rows, *shape). With a shortcut g,
    y = g(x) + f(x), where g(x), f(x) and y have the same shape. He et al. 2016, arXiv:1512.03385.

    shortcut: a layer or a list of layers, such as a `Conv2D` with strides where f changes the size of images; None is
        the identity.

    Raises TypeError that names the argument. `Network` raises ValueError if f(x) has another shape than x or g(x).
    """

    def __init__(self, layers: Sequence[Layer], shortcut: Layer | Sequence[Layer] | None = None) -> None:
        super().__init__(layers)
        self.shortcut = None if shortcut is None else _branch("shortcut", shortcut)

    def output_shape(self, shape: Shape) -> Shape:
        made = super().output_shape(shape)
        expected = self.shortcut.output_shape(shape) if self.shortcut else shape
        if made != expected:
            kept = f"make the shape {expected} of the shortcut" if self.shortcut else f"keep the shape {shape}"
            raise value_error("layers", f"layers in Residual that {kept}", f"{made} of {self!r}")
        return made

    def _path_of_shortcut(self, path):
        return _joined(path, len(self.layers) + 1)

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        yield from super().leaves(path, shape)
        if self.shortcut:
            yield from self.shortcut.leaves(self._path_of_shortcut(path), shape)

    def readers(self, path: str) -> Iterator[str]:
        yield from super().readers(path)
        if self.shortcut:
            yield from self.shortcut.readers(self._path_of_shortcut(path))

    def children(self) -> tuple[Layer, ...]:
        return (*self.layers, self.shortcut) if self.shortcut else self.layers

    def without_noise(self) -> Layer:
        shortcut = self.shortcut and self.shortcut.without_noise()
        return Residual([child.without_noise() for child in self.layers], shortcut)

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return ()  # a sum is the output of no activation

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        f = super().forward(plan, path, x)
        other = self.shortcut.forward(plan, self._path_of_shortcut(path), x) if self.shortcut else x
        in_blocks = plan.is_in_blocks(f)
        y = plan.row_buffer(f"a{path}", plan.shape(f), in_blocks=in_blocks)
        plan.add("forward", add_rows, y, plan.laid_out("forward", other, in_blocks), f)
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        """dx is the sum of the gradients through f and through the shortcut. Either may overwrite dy."""
        shape, mark, dx_f, dx_g = plan.shape(x), plan.mark(), None, None
        if is_wanted or any(has_parameters(*child) for child in self._children(path, shape)):
            dx_f = plan.keep(dy, mark, super().backward(plan, path, x, dy, is_wanted))
        path_of_g = self._path_of_shortcut(path)
        if self.shortcut is None:
            dx_g = dy
        elif is_wanted or has_parameters(path_of_g, self.shortcut, shape):
            output = [x, *plan.child_outputs[path_of_g]][-1]
            dy_g = plan.laid_out("backward", dy, plan.is_in_blocks(output))
            mark = plan.mark()  # gradients within f may read dy later
            dx_g = plan.keep(dy, mark, self.shortcut.backward(plan, path_of_g, x, dy_g, is_wanted))
        if not is_wanted or dx_g is None:
            return None
        in_blocks = plan.is_in_blocks(x)
        dx = plan.row_buffer(f"dx{path}", shape, in_blocks=in_blocks)
        plan.add("backward", add_rows, dx, plan.laid_out("backward", dx_g, in_blocks), dx_f)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        other = self.shortcut.onnx(graph, self._path_of_shortcut(path), x) if self.shortcut else x
        return graph.add("Add", other, super().onnx(graph, path, x))

    def describe(self, path: str, shape: Shape) -> Iterator[tuple[str, str, Shape]]:
        yield from super().describe(path, shape)
        if self.shortcut:
            yield self._path_of_shortcut(path), "shortcut", self.shortcut.output_shape(shape)
            for number, text, made in self.shortcut.describe(self._path_of_shortcut(path), shape):
                if number != self._path_of_shortcut(path):
                    yield number, text, made

    def config(self) -> dict[str, Any]:
        config = super().config()
        return config | {"shortcut": self.shortcut.config()["layers"]} if self.shortcut else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        shortcut = config.get("shortcut")
        made = None if shortcut is None else [layer_from_config(child) for child in shortcut]
        return cls([layer_from_config(child) for child in config["layers"]], made)

    def __repr__(self) -> str:
        return f"Residual({_indented(self.layers)}{f', {_indented(self.shortcut.layers)}' if self.shortcut else ''})"


def _branch(argument, branch):
    """A layer or a list of layers as a `Sequential`."""
    if type(branch) is Sequential:
        return branch
    return Sequential([branch] if isinstance(branch, Layer) else check_layers(argument, branch))


@layer
class Concatenate(Layer):
    """Branches with the same input, each a layer or a list of layers; their outputs are concatenated along the last
    axis: x (rows, *shape), outputs (rows, *axes, n_1), (rows, *axes, n_2), ... -> y (rows, *axes, n_1 + n_2 + ...). An
    empty list is the identity. Szegedy et al. 2015, arXiv:1409.4842; Huang et al. 2017, arXiv:1608.06993.

    Raises TypeError or ValueError that names the argument. `Network` raises ValueError if the outputs of the branches
    differ in other axes than the last.
    """

    def __init__(self, *branches: Layer | Sequence[Layer]) -> None:
        if not branches:
            raise value_error("branches", "at least one layer or list of layers", "none")
        self.branches = tuple(_branch(f"branches[{i}]", branch) for i, branch in enumerate(branches))

    def _children(self, path):
        return [(_joined(path, number), branch) for number, branch in enumerate(self.branches, 1)]

    def output_shape(self, shape: Shape) -> Shape:
        shapes = [branch.output_shape(shape) for branch in self.branches]
        if len({one[:-1] for one in shapes}) > 1:
            raise value_error("branches", "outputs that differ only in their last axis", " and ".join(map(str, shapes)))
        return (*shapes[0][:-1], sum(one[-1] for one in shapes))

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        for child_path, branch in self._children(path):
            yield from branch.leaves(child_path, shape)

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return tuple(one for branch in self.branches for one in branch.output_activations(of_input))

    def readers(self, path: str) -> Iterator[str]:
        for child_path, branch in self._children(path):
            yield from branch.readers(child_path)

    def children(self) -> tuple[Layer, ...]:
        return self.branches

    def without_noise(self) -> Layer:
        return Concatenate(*(branch.without_noise() for branch in self.branches))

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y, first = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x))), 0
        for child_path, branch in self._children(path):
            part = plan.laid_out("forward", branch.forward(plan, child_path, x), in_blocks=False)
            plan.add("forward", put_columns, y, part, first)
            first += plan.shape(part)[-1]
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        """The gradient of x is the sum over the branches, from the last to the first."""
        shape, stop, dx = plan.shape(x), plan.shape(dy)[-1], None
        for child_path, branch in reversed(self._children(path)):
            part_shape = branch.output_shape(shape)
            stop -= part_shape[-1]
            if not is_wanted and not has_parameters(child_path, branch, shape):
                continue
            part = plan.row_buffer(f"dy{child_path}", part_shape)
            plan.add("backward", take_columns, part, dy, stop)
            output = [x, *plan.child_outputs[child_path]][-1]
            part = plan.laid_out("backward", part, plan.is_in_blocks(output))
            dx_branch = branch.backward(plan, child_path, x, part, is_wanted)
            if is_wanted and dx is None:
                dx = dx_branch
            elif is_wanted:
                total = plan.row_buffer(f"dx{child_path}", shape, in_blocks=plan.is_in_blocks(x))
                plan.add("backward", add_rows, total, dx, dx_branch)
                dx = total
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return graph.add("Concat", *(branch.onnx(graph, at, x) for at, branch in self._children(path)), axis=-1)

    def describe(self, path: str, shape: Shape) -> Iterator[tuple[str, str, Shape]]:
        yield path, "Concatenate", self.output_shape(shape)
        for child_path, branch in self._children(path):
            yield from branch.describe(child_path, shape)

    def config(self) -> dict[str, Any]:
        return {"layer": "Concatenate", "branches": [branch.config() for branch in self.branches]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(*(layer_from_config(branch) for branch in config["branches"]))

    def __repr__(self) -> str:
        return f"Concatenate({', '.join(_indented(branch.layers) for branch in self.branches)})"
