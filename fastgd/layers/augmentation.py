"""RandomFlip and RandomCrop: layers that change images at random in training, and their kernels.

The change of an image depends only on the network's seed, the layer, the number of the minibatch and the row: the
kernels hash these, as Dropout does (see core/random.py). The lower half of the 64 bits decides on one direction, the
upper half on the other. So nothing is stored for the backward pass, which draws the same numbers again."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..activations import Activation
from ..core.kernel import In, Out, kernel
from ..core.random import GOLDEN_64, hashes_of_rows, key_of_layer, mixed
from ..core.types import Shape
from ..engine.program import PerStep
from ..errors import check_number, value_error
from .base import Layer, layer
from .windows import check_image, check_pair, shown_pair

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph

HALF = 2**32


def shift_of(half, padding, size):
    """The shift that 32 random bits choose: an integer in [-padding, padding]. A padding beyond `size` counts as it."""
    most = (int(padding) if padding < size else size) if padding > 0 else 0
    return (half * (2 * most + 1) >> 32) - most


def overlap(shift, size):
    """(first, stop): the indices u in [0, size) for which u + shift is in [0, size)."""
    first = min(size, max(0, -shift))
    return first, max(first, min(size, size - shift))


@kernel
def random_flip(
    y: Out("rows", "h", "w", "c"),
    x: In("rows", "h", "w", "c"),
    row: In("rows", dtype="int64", domain="count"),
    horizontal: float,
    vertical: float,
    key: float,
    step: float,
) -> None:
    """y <- x, each image mirrored left to right with probability `horizontal` and top to bottom with probability
    `vertical`. row: numbers of the rows; key, step: integers. What happens to an image depends only on row, key and
    step, so the same operation computes dx from dy."""
    hashes = hashes_of_rows(row, key, step)
    columns, rows = hashes % HALF < horizontal * HALF, hashes >> np.uint64(32) < vertical * HALF
    for is_mirrored in np.unique(np.stack([rows, columns], 1), axis=0):
        chosen = (rows == is_mirrored[0]) & (columns == is_mirrored[1])
        y[chosen] = np.flip(x[chosen], tuple(np.flatnonzero(is_mirrored) + 1))


def _loop_of_random_flip(jit, dtype):
    mix = jit(mixed)

    def loop(y, x, row, horizontal, vertical, key, step):
        start = mix(np.uint64(np.int64(key)) + np.uint64(np.int64(step)) * np.uint64(GOLDEN_64))
        _, h, w, c = x.shape
        for i in range(x.shape[0]):
            bits = mix(start + np.uint64(row[i]) * np.uint64(GOLDEN_64))
            mirrors_columns = np.int64(bits & np.uint64(0xFFFFFFFF)) < horizontal * HALF
            mirrors_rows = np.int64(bits >> np.uint64(32)) < vertical * HALF
            for u in range(h):
                source = x[i, h - 1 - u if mirrors_rows else u]
                for v in range(w):
                    for ch in range(c):
                        y[i, u, v, ch] = source[w - 1 - v if mirrors_columns else v, ch]

    return loop


random_flip.build_loop = _loop_of_random_flip


@kernel
def random_crop(
    y: Out("rows", "h", "w", "c"),
    x: In("rows", "h", "w", "c"),
    row: In("rows", dtype="int64", domain="count"),
    down: float,
    across: float,
    key: float,
    step: float,
    direction: float,
) -> None:
    """y[i, u, v] <- x[i, u + s, v + t], or 0 beyond the border, with random integers -down <= s <= down and
    -across <= t <= across for each image i. row: numbers of the rows; key, step: integers; down, across: integers >= 0.
    s and t depend only on row, key and step. With direction < 0 instead of > 0 they have the opposite sign, so the same
    operation computes dx from dy."""
    y[...] = 0
    _, h, w, _ = x.shape
    for i, bits in enumerate(hashes_of_rows(row, key, step).tolist()):
        s, t = shift_of(bits % HALF, down, h), shift_of(bits // HALF, across, w)
        s, t = (-s, -t) if direction < 0 else (s, t)
        (u0, u1), (v0, v1) = overlap(s, h), overlap(t, w)
        y[i, u0:u1, v0:v1] = x[i, u0 + s : u1 + s, v0 + t : v1 + t]


def _loop_of_random_crop(jit, dtype):
    mix, shift, common = jit(mixed), jit(shift_of), jit(overlap)

    def loop(y, x, row, down, across, key, step, direction):
        start = mix(np.uint64(np.int64(key)) + np.uint64(np.int64(step)) * np.uint64(GOLDEN_64))
        _, h, w, c = x.shape
        sign = -1 if direction < 0 else 1
        for i in range(x.shape[0]):
            bits = mix(start + np.uint64(row[i]) * np.uint64(GOLDEN_64))
            s = sign * shift(np.int64(bits & np.uint64(0xFFFFFFFF)), down, h)
            t = sign * shift(np.int64(bits >> np.uint64(32)), across, w)
            (u0, u1), (v0, v1) = common(s, h), common(t, w)
            for u in range(h):
                for v in range(w):
                    is_inside = u0 <= u < u1 and v0 <= v < v1
                    for ch in range(c):
                        y[i, u, v, ch] = x[i, u + s, v + t, ch] if is_inside else 0

    return loop


random_crop.build_loop = _loop_of_random_crop


class _RandomChange(Layer):
    """A layer that changes images in training, by a kernel that also computes dx from dy."""

    def _add(self, plan: "Plan", phase: str, path: str, y: str, x: str) -> None:
        """Adds the operation y <- x changed, or its transpose in the backward pass."""
        raise NotImplementedError

    def _changes(self) -> bool:
        """Whether the arguments allow any change."""
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        return check_image(self, shape)

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return of_input  # in evaluation y is x

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        if not plan.training or not self._changes():
            return x
        y = plan.row_buffer(f"a{path}", plan.shape(x))
        self._add(plan, "forward", path, y, x)
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        if not plan.training or not self._changes():
            return dy
        dx = plan.row_buffer(f"dx{path}", plan.shape(x))
        self._add(plan, "backward", path, dx, dy)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return x


@layer
class RandomFlip(_RandomChange):
    """A layer that in training mirrors each image (height, width, channels) at random: left to right with probability
    `horizontal`, top to bottom with probability `vertical`. In evaluation (`predict`, `loss`, validation) y = x.

    horizontal, vertical: in [0, 1].

    The choice depends only on the network's seed, the layer's path, the number of the minibatch (among all that the
    network was trained on) and the row. So a run is the same for any number of threads and after it is resumed, and
    each epoch trains on other pictures.

    Raises TypeError or ValueError that names the argument. `Network` raises ValueError if the rows are no images.
    """

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.0) -> None:
        self.horizontal = check_number("horizontal", horizontal, 0.0, 1.0)
        self.vertical = check_number("vertical", vertical, 0.0, 1.0)

    def _add(self, plan: "Plan", phase: str, path: str, y: str, x: str) -> None:
        key = key_of_layer(plan.network.seed, path)
        plan.add(phase, random_flip, y, x, "row", self.horizontal, self.vertical, key, PerStep("minibatch"))

    def _changes(self) -> bool:
        return bool(self.horizontal or self.vertical)

    def without_noise(self) -> Layer:
        return RandomFlip(0.0)

    def config(self) -> dict[str, Any]:
        return {"layer": "RandomFlip", "horizontal": self.horizontal, "vertical": self.vertical}

    def __repr__(self) -> str:
        return f"RandomFlip(horizontal={self.horizontal}, vertical={self.vertical})"


@layer
class RandomCrop(_RandomChange):
    """A layer that in training pads each image (height, width, channels) with zeros on every side and takes a window of
    the original size at random: y[u, v] = x[u + s, v + t], where s and t are integers between -padding and padding,
    each as likely as another, and pixels beyond the border are 0. In evaluation (`predict`, `loss`, validation) y = x.
    He et al. 2016, arXiv:1512.03385, with 4 pixels for CIFAR-10.

    padding: the rows and columns of zeros at each border, an integer or a pair, fewer than the image has.

    Behind `Standardize` a zero is the mean, in front of it black. The choice of s and t depends on the same as in
    `RandomFlip`.

    Raises TypeError or ValueError that names the argument. `Network` raises ValueError if the rows are no images, or no
    larger than the padding.
    """

    def __init__(self, padding: int | tuple[int, int]) -> None:
        self.padding = check_pair("padding", padding, 0)

    def _add(self, plan: "Plan", phase: str, path: str, y: str, x: str) -> None:
        key, direction = key_of_layer(plan.network.seed, path), 1.0 if phase == "forward" else -1.0
        plan.add(phase, random_crop, y, x, "row", *self.padding, key, PerStep("minibatch"), direction)

    def _changes(self) -> bool:
        return any(self.padding)

    def output_shape(self, shape: Shape) -> Shape:
        h, w, _ = super().output_shape(shape)
        if self.padding[0] >= h or self.padding[1] >= w:
            raise value_error("padding", f"less than the size of the images, {(h, w)}", shown_pair(self.padding))
        return shape

    def without_noise(self) -> Layer:
        return RandomCrop(0)

    def config(self) -> dict[str, Any]:
        return {"layer": "RandomCrop", "padding": list(self.padding)}

    def __repr__(self) -> str:
        return f"RandomCrop({shown_pair(self.padding)})"
