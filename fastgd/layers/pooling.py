"""Pooling: layers that reduce windows of pixels to one, and their kernels. They work on blocks of 16 images; see
engine/rows.py. The window of pixel (u, v) of y begins in row u down - top and column v across - left of x; pixels
beyond the border do not belong to it."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..activations import relu_backward
from ..core.kernel import In, Out, kernel
from ..core.types import Shape
from .base import Layer, layer
from .windows import check_image, check_padding, check_pair, onnx_windows, shown_pair, window, windows

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


def geometry(height, width, down, across, top, left):
    """Height and width of the window, strides, and rows and columns before the image, as integers; sizes and strides
    below 1 count as 1."""
    return (
        max(1, int(height)), max(1, int(width)), max(1, int(down)), max(1, int(across)), int(top), int(left)
    )  # fmt: skip


def bounds(g, u, v, shape):
    """(i0, i1, j0, j1): the rows [i0, i1) and columns [j0, j1) of an array of this shape that the window of pixel
    (u, v) covers. g: as from `geometry`."""
    height, width, down, across, top, left = g
    i, j = u * down - top, v * across - left
    return max(0, i), min(shape[1], i + height), max(0, j), min(shape[2], j + width)


def _pixels(x, y, *options):
    """For each pixel of a window: (pixels of x, pixels of y) as slices."""
    height, width, down, across, top, left = geometry(*options)
    for r in range(height):
        u0, u1 = window(r, down, top, x.shape[1], y.shape[1])
        for t in range(width):
            v0, v1 = window(t, across, left, x.shape[2], y.shape[2])
            if u0 < u1 and v0 < v1:
                i, j = u0 * down + r - top, v0 * across + t - left
                rows = slice(i, i + (u1 - u0 - 1) * down + 1, down)
                columns = slice(j, j + (v1 - v0 - 1) * across + 1, across)
                yield (slice(None), rows, columns), (slice(None), slice(u0, u1), slice(v0, v1))


def window_sizes(x, y, *options):
    """How many pixels each window has, as an array (1, oh, ow, 1, 1)."""
    counts = np.zeros((1, *y.shape[1:3], 1, 1), y.dtype)
    for _, at_y in _pixels(x, y, *options):
        counts[at_y] += 1
    return counts


@kernel
def max_pool_forward(
    y: Out("blocks", "oh", "ow", "c", "images"),
    x: In("blocks", "h", "w", "c", "images"),
    height: float,
    width: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """y[u, v] <- the largest x in the window of (u, v); NaN if one is NaN, 0 if the window has no pixel."""
    y[...] = -np.inf
    for at_x, at_y in _pixels(x, y, height, width, down, across, top, left):
        np.maximum(y[at_y], x[at_x], out=y[at_y])
    y[np.broadcast_to(window_sizes(x, y, height, width, down, across, top, left) == 0, y.shape)] = 0


def _loop_of_max_pool_forward(jit, dtype):
    geometry_of, bounds_of = jit(geometry), jit(bounds)

    def loop(y, x, height, width, down, across, top, left):
        g = geometry_of(height, width, down, across, top, left)
        for b in range(y.shape[0]):
            for u in range(y.shape[1]):
                for v in range(y.shape[2]):
                    i0, i1, j0, j1 = bounds_of(g, u, v, x.shape)
                    for n in range(y.shape[3]):
                        tops = y[b, u, v, n]
                        for k in range(tops.size):
                            tops[k] = x[b, i0, j0, n, k] if i0 < i1 and j0 < j1 else 0
                        for i in range(i0, i1):
                            for j in range(j0, j1):
                                values = x[b, i, j, n]
                                for k in range(tops.size):
                                    if values[k] > tops[k] or values[k] != values[k]:
                                        tops[k] = values[k]

    return loop


max_pool_forward.build_loop = _loop_of_max_pool_forward


@kernel
def max_pool_backward(
    dx: Out("blocks", "h", "w", "c", "images"),
    dy: In("blocks", "oh", "ow", "c", "images"),
    y: In("blocks", "oh", "ow", "c", "images"),
    x: In("blocks", "h", "w", "c", "images"),
    height: float,
    width: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """dx <- for each window, dy in the first of its pixels for which x = y, row by row; 0 elsewhere."""
    dx[...] = 0
    free = np.ones(y.shape, bool)
    for at_x, at_y in _pixels(x, y, height, width, down, across, top, left):
        hits = free[at_y] & (x[at_x] == y[at_y])
        dx[at_x] += np.where(hits, dy[at_y], 0)
        free[at_y] &= ~hits


def _loop_of_max_pool_backward(jit, dtype):
    geometry_of, bounds_of = jit(geometry), jit(bounds)

    def loop(dx, dy, y, x, height, width, down, across, top, left):
        g = geometry_of(height, width, down, across, top, left)
        dx[...] = 0
        for b in range(y.shape[0]):
            for u in range(y.shape[1]):
                for v in range(y.shape[2]):
                    i0, i1, j0, j1 = bounds_of(g, u, v, x.shape)
                    for n in range(y.shape[3]):
                        for k in range(y.shape[4]):
                            is_free = True
                            for i in range(i0, i1):
                                for j in range(j0, j1):
                                    if is_free and x[b, i, j, n, k] == y[b, u, v, n, k]:
                                        dx[b, i, j, n, k] += dy[b, u, v, n, k]
                                        is_free = False

    return loop


max_pool_backward.build_loop = _loop_of_max_pool_backward


@kernel
def average_pool_forward(
    y: Out("blocks", "oh", "ow", "c", "images"),
    x: In("blocks", "h", "w", "c", "images"),
    height: float,
    width: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """y[u, v] <- the mean of x over the pixels in the window of (u, v); 0 if it has none."""
    options = height, width, down, across, top, left
    y[...] = 0
    for at_x, at_y in _pixels(x, y, *options):
        y[at_y] += x[at_x]
    y /= np.maximum(window_sizes(x, y, *options), 1)


def _loop_of_average_pool_forward(jit, dtype):
    geometry_of, bounds_of = jit(geometry), jit(bounds)

    def loop(y, x, height, width, down, across, top, left):
        g = geometry_of(height, width, down, across, top, left)
        for b in range(y.shape[0]):
            for u in range(y.shape[1]):
                for v in range(y.shape[2]):
                    i0, i1, j0, j1 = bounds_of(g, u, v, x.shape)
                    count = y.dtype.type(max(1, max(0, i1 - i0) * max(0, j1 - j0)))
                    for n in range(y.shape[3]):
                        sums = y[b, u, v, n]
                        for k in range(sums.size):
                            sums[k] = 0
                        for i in range(i0, i1):
                            for j in range(j0, j1):
                                values = x[b, i, j, n]
                                for k in range(sums.size):
                                    sums[k] += values[k]
                        for k in range(sums.size):
                            sums[k] /= count

    return loop


average_pool_forward.build_loop = _loop_of_average_pool_forward


@kernel
def average_pool_backward(
    dx: Out("blocks", "h", "w", "c", "images"),
    dy: In("blocks", "oh", "ow", "c", "images"),
    height: float,
    width: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """dx <- for each window, dy divided by its number of pixels in each of them, summed over the windows."""
    options = height, width, down, across, top, left
    dx[...] = 0
    each = dy / np.maximum(window_sizes(dx, dy, *options), 1)
    for at_x, at_y in _pixels(dx, dy, *options):
        dx[at_x] += each[at_y]


def _loop_of_average_pool_backward(jit, dtype):
    geometry_of, bounds_of = jit(geometry), jit(bounds)

    def loop(dx, dy, height, width, down, across, top, left):
        g = geometry_of(height, width, down, across, top, left)
        dx[...] = 0
        for b in range(dy.shape[0]):
            for u in range(dy.shape[1]):
                for v in range(dy.shape[2]):
                    i0, i1, j0, j1 = bounds_of(g, u, v, dx.shape)
                    count = dx.dtype.type(max(1, max(0, i1 - i0) * max(0, j1 - j0)))
                    for i in range(i0, i1):
                        for j in range(j0, j1):
                            for n in range(dy.shape[3]):
                                for k in range(dy.shape[4]):
                                    dx[b, i, j, n, k] += dy[b, u, v, n, k] / count

    return loop


average_pool_backward.build_loop = _loop_of_average_pool_backward


@kernel
def global_average_forward(y: Out("blocks", "c", "images"), x: In("blocks", "pixels", "c", "images")):
    """y <- the mean of x over all pixels."""
    np.mean(x, axis=1, out=y)


@global_average_forward.loop
def global_average_forward(y, x):
    scale = x.dtype.type(1 / x.shape[1])
    for b in range(y.shape[0]):
        y[b] = 0
        for p in range(x.shape[1]):
            for n in range(y.shape[1]):
                for k in range(y.shape[2]):
                    y[b, n, k] += x[b, p, n, k]
        for n in range(y.shape[1]):
            for k in range(y.shape[2]):
                y[b, n, k] *= scale


@kernel
def global_average_backward(dx: Out("blocks", "pixels", "c", "images"), dy: In("blocks", "c", "images")):
    """dx <- dy divided by the number of pixels, in each of them."""
    dx[...] = (dy / dx.shape[1])[:, None]


@global_average_backward.loop
def global_average_backward(dx, dy):
    scale = dx.dtype.type(1 / dx.shape[1])
    for b in range(dx.shape[0]):
        for p in range(dx.shape[1]):
            for n in range(dx.shape[2]):
                for k in range(dx.shape[3]):
                    dx[b, p, n, k] = dy[b, n, k] * scale


class _Pool(Layer):
    """Base class of layers with a window for each pixel of y."""

    in_blocks = True

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        *,
        strides: int | tuple[int, int] | None = None,
        padding: Literal["valid", "same"] | int | tuple[int, int] = "valid",
    ) -> None:
        self.pool_size = check_pair("pool_size", pool_size)
        self.strides = self.pool_size if strides is None else check_pair("strides", strides)
        self.padding = check_padding(padding, self.pool_size)

    def output_shape(self, shape: Shape) -> Shape:
        sizes, _ = windows(self, shape, self.pool_size, self.strides, self.padding)
        return (*sizes, shape[-1])

    def _geometry(self, shape):
        """The scalars of the kernels."""
        _, before = windows(self, shape, self.pool_size, self.strides, self.padding)
        return *self.pool_size, *self.strides, *before

    def config(self) -> dict[str, Any]:
        name = type(self).__name__
        return {"layer": name, "pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}

    def __repr__(self) -> str:
        strides = "" if self.strides == self.pool_size else f", strides={shown_pair(self.strides)!r}"
        padding = "" if self.padding == "valid" else f", padding={shown_pair(self.padding)!r}"
        return f"{type(self).__name__}({shown_pair(self.pool_size)}{strides}{padding})"


@layer
class MaxPool2D(_Pool):
    """The largest value in each window: y[u, v, c] = max of x over the window's pixels, for x (h, w, c), y (oh, ow, c).
    Of equal values, the first gets the gradient, row by row.

    pool_size: the height and width of the window, an integer or a pair.
    strides: how far windows are apart, an integer or a pair; None is the size.
    padding: "valid" (oh = (h - height) / strides + 1, rounded down), "same" (oh = h / strides, rounded up), or the
        number of rows and columns at each border by which windows may exceed the image, less than their size; pixels
        there never count.

    Raises TypeError or ValueError that names the argument.
    """

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x)), in_blocks=True)
        plan.add("forward", max_pool_forward, y, x, *self._geometry(plan.shape(x)))
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        dx, y = plan.row_buffer(f"dx{path}", plan.shape(x), in_blocks=True), f"a{path}"
        if x in plan.relu_outputs:  # the maximum of relu is relu of the maximum, which has fewer pixels
            plan.add("backward", relu_backward, dy, y)
            plan.gradients_of_z.add(dx)
        plan.add("backward", max_pool_backward, dx, dy, y, x, *self._geometry(plan.shape(x)))
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        pieces = onnx_windows(graph, x, self, graph.shapes[path], self.pool_size, -np.inf)
        return graph.add("Max", *(pixels for pixels, *_ in pieces))


@layer
class AvgPool2D(_Pool):
    """The mean of each window: y[u, v, c] = mean of x over the window's pixels, for x (h, w, c), y (oh, ow, c).

    pool_size, strides, padding: as in `MaxPool2D`. Raises TypeError or ValueError that names the argument.
    """

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x)), in_blocks=True)
        plan.add("forward", average_pool_forward, y, x, *self._geometry(plan.shape(x)))
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", plan.shape(x), in_blocks=True)
        plan.add("backward", average_pool_backward, dx, dy, *self._geometry(plan.shape(x)))
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        shape = graph.shapes[path]
        image, windows_shape = np.zeros((1, *shape, 1)), np.zeros((1, *self.output_shape(shape), 1))
        counts = window_sizes(image, windows_shape, *self._geometry(shape))[..., 0].astype(graph.dtype)
        pieces = onnx_windows(graph, x, self, shape, self.pool_size, 0.0)
        return graph.add("Div", graph.add("Sum", *(pixels for pixels, *_ in pieces)), counts)


@layer
class GlobalAvgPool2D(Layer):
    """The mean over all pixels: x (h, w, c) -> y (c,). Lin et al. 2013, arXiv:1312.4400."""

    in_blocks = True

    def output_shape(self, shape: Shape) -> Shape:
        return check_image(self, shape)[-1:]

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y = plan.row_buffer(f"a{path}", plan.shape(x)[-1:], in_blocks=True)
        plan.add("forward", global_average_forward, y, x)
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", plan.shape(x), in_blocks=True)
        plan.add("backward", global_average_backward, dx, dy)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return graph.add("ReduceMean", x, axes=[1, 2], keepdims=0)

    def config(self) -> dict[str, Any]:
        return {"layer": "GlobalAvgPool2D"}

    def __repr__(self) -> str:
        return "GlobalAvgPool2D()"
