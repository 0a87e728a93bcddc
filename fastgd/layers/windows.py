"""Windows: the rectangles of pixels that convolutions and pooling reduce to one pixel each. Their sizes, strides and
padding; how many an image has."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.types import Shape
from ..errors import check_integer, shown, value_error

if TYPE_CHECKING:
    from ..onnx import Graph


class ImageSizeError(ValueError):
    """The images are smaller than a window."""


def window(tap, stride, padding, size, out_size):
    """(first, stop): the pixels u in [0, out_size) for which u stride + tap - padding is in [0, size)."""
    first = max(0, (padding - tap + stride - 1) // stride)
    stop = min(out_size, (size - 1 + padding - tap) // stride + 1)
    return first, max(first, stop)


def check_pair(argument: str, value: Any, low: int = 1) -> tuple[int, int]:
    """Two integers, given as one for both or as a pair: rows, columns."""
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise value_error(argument, "an integer or a pair (rows, columns)", shown(value))
        return check_integer(f"{argument}[0]", value[0], low), check_integer(f"{argument}[1]", value[1], low)
    both = check_integer(argument, value, low)
    return both, both


def check_padding(padding: Any, size: tuple[int, int]) -> str | tuple[int, int]:
    """The padding: "valid", "same", or the rows and columns beyond each border, fewer than those of a window."""
    if isinstance(padding, str):
        if padding.lower() not in ("valid", "same"):
            raise value_error("padding", "'valid', 'same', an integer or a pair (rows, columns)", repr(padding))
        return padding.lower()
    rows, columns = check_pair("padding", padding, 0)
    if rows >= size[0] or columns >= size[1]:
        raise value_error("padding", f"less than the size of a window, {shown_pair(size)}", shown(padding))
    return rows, columns


def shown_pair(value: str | tuple[int, int]) -> str | int | tuple[int, int]:
    """A pair as users write it: one integer if both are equal."""
    return value if isinstance(value, str) or value[0] != value[1] else value[0]


def check_image(layer: "Any", shape: Shape) -> tuple[int, int, int]:
    """The shape of an image; raises if a row is none."""
    if len(shape) != 3:
        of_vectors = "Reshape((height, width, channels)) makes images of vectors"
        hint = f"with one channel that is {(*shape, 1)}" if len(shape) == 2 else of_vectors
        expected = f"images (height, width, channels) as input of {layer!r}"
        raise value_error("layers", expected, f"rows of shape {shape}; {hint}")
    return shape


def windows(
    layer: "Any", shape: Shape, size: tuple[int, int], strides: tuple[int, int], padding: str | tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((oh, ow), (top, left)): how many windows an image has, and the zeros before its first row and column. "same":
    oh = h / strides, rounded up, with equal zeros at both ends, or one more at the last."""
    sizes, before = [], []
    for axis, (n, k, stride) in enumerate(zip(check_image(layer, shape), size, strides, strict=False)):
        if padding == "same":
            count = -(-n // stride)
            first = max(0, (count - 1) * stride + k - n) // 2
        else:
            first = 0 if isinstance(padding, str) else padding[axis]
            count = (n + 2 * first - k) // stride + 1
        if count < 1:
            expected = f"images of at least {k} pixels in each direction for {layer!r}"
            hint = "; channels come last" if shape[0] < shape[1] == shape[2] else ""
            raise ImageSizeError(f"argument 'layers': expected {expected}, got rows of shape {shape}{hint}")
        sizes.append(count)
        before.append(first)
    return (sizes[0], sizes[1]), (before[0], before[1])


def onnx_windows(
    graph: "Graph", x: str, layer: Any, shape: Shape, size: tuple[int, int], beyond: float
) -> list[tuple[str, int, int]]:
    """Adds the pixels of all windows to a graph: for each pixel of a window (value, row, column), the value being
    (rows, oh, ow, c). Pixels beyond the border are `beyond`."""
    counts, before = windows(layer, shape, size, layer.strides, layer.padding)
    axes = list(zip(counts, layer.strides, size, before, shape, strict=False))
    after = [max(0, (count - 1) * stride + k - first - n) for count, stride, k, first, n in axes]
    if any((*before, *after)):
        x = graph.add("Pad", x, np.array([0, *before, 0, 0, *after, 0]), beyond)
    stops = [(count - 1) * stride + 1 for count, stride, *_ in axes]
    return [
        (
            graph.add("Slice", x, np.array([r, t]), np.array([r + stops[0], t + stops[1]]), np.array([1, 2]),
                      np.array(layer.strides)),
            r, t,
        )
        for r in range(size[0]) for t in range(size[1])
    ]  # fmt: skip
