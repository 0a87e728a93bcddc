"""Standardisation: a layer that shifts and scales features by constants."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core.kernel import In, Out, kernel
from ..core.types import Shape
from ..data.mapped import check_mapping
from ..data.samples import as_array, moments, scale_of
from ..errors import shown, value_error
from .base import Layer, layer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@kernel
def standardize_forward(y: Out("rows", "n"), x: In("rows", "n"), shift: In("n"), scale: In("n")):
    """y <- (x - shift) scale."""
    np.subtract(x, shift, out=y)
    y *= scale


@standardize_forward.loop
def standardize_forward(y, x, shift, scale):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (x[i, j] - shift[j]) * scale[j]


@kernel
def standardize_backward(dx: Out("rows", "n"), dy: In("rows", "n"), scale: In("n")):
    """dx <- dy scale."""
    np.multiply(dy, scale, out=dx)


@standardize_backward.loop
def standardize_backward(dx, dy, scale):
    for i in range(dx.shape[0]):
        for j in range(dx.shape[1]):
            dx[i, j] = dy[i, j] * scale[j]


# Kernels work on rows of at least so many numbers, if there are as many, so that they use whole vectors.
WIDE = 64
# The largest error of a standardised feature that rounding of the data may cause.
COARSEST = 0.01


@layer
class Standardize(Layer):
    """A layer that shifts and scales each feature (the last axis of its input) by constants: y = (x - shift) scale. The
    constants are saved with the network; there are no parameters. `Standardize(scale=1 / 255)` maps bytes to [0, 1];
    `Standardize.of(X)` gives each feature mean 0 and variance 1.

    shift, scale: a number, or one number per feature.

    Raises TypeError or ValueError that names the argument. Data is cast to the network's dtype first; `Network` raises
    ValueError if that would cost a feature more than 1 % of a standard deviation, as for time stamps in float32.
    """

    def __init__(self, shift: "npt.ArrayLike" = 0.0, scale: "npt.ArrayLike" = 1.0) -> None:
        self.shift, self.scale = _numbers("shift", shift), _numbers("scale", scale)

    @classmethod
    def of(cls, X: "npt.ArrayLike") -> Self:
        """The layer for the mean and variance (divided by the number of rows) of each column of X.

        X: (..., n_features), any real dtype and layout, read in one pass over blocks of rows. A column that is constant
            in X becomes 0 for all data."""
        rows = as_array("X", X)
        mean, variance = moments("X", rows)
        return cls(mean, scale_of(mean, variance, rows.size // rows.shape[-1], otherwise=0.0))

    def output_shape(self, shape: Shape) -> Shape:
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if values.shape not in ((), shape[-1:]):
                raise value_error(name, f"a number, or one for each of {shape[-1]} features", shown(values))
        return shape

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        limits = np.finfo(dtype)
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if np.abs(values).max() > limits.max:
                raise value_error(name, f"numbers that are finite in {dtype}", shown(values[()]))
        # The rounding error of a feature with a value near the shift, after scaling.
        left = np.abs(self.shift) * np.abs(self.scale) * limits.eps
        if left.max() > COARSEST:
            feature = f"feature {int(np.argmax(left))}: " if left.ndim else ""
            ratio = f"{left.max() / limits.eps:.3g}"
            expected = f"features that {dtype} can resolve (|shift| scale <= {COARSEST / limits.eps:.3g})"
            hint = "; use dtype='float64'" if dtype == np.float32 else ""
            raise value_error("shift", expected, f"{feature}{ratio}{hint}, or subtract a constant from X before")

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape = plan.shape(x)
        wide = _wide(shape)
        y, x = plan.row_buffer(f"a{path}.wide", wide), plan.reshaped(f"x{path}.wide", x, wide)
        constants = [
            plan.vector(f"{name}{path}", np.tile(np.broadcast_to(values, shape[-1]), wide[-1] // shape[-1]))
            for name, values in (("shift", self.shift), ("scale", self.scale))
        ]
        plan.add("forward", standardize_forward, y, x, *constants)
        return plan.reshaped(f"a{path}", y, shape)

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        shape = plan.shape(x)
        wide = _wide(shape)
        dx, dy = plan.row_buffer(f"dx{path}.wide", wide), plan.reshaped(f"dy{path}.wide", dy, wide)
        plan.add("backward", standardize_backward, dx, dy, f"scale{path}")
        return plan.reshaped(f"dx{path}", dx, shape)

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        shift, scale = (values.astype(graph.dtype) for values in (self.shift, self.scale))
        return graph.add("Mul", graph.add("Sub", x, shift), scale)

    def config(self) -> dict[str, Any]:
        return {"layer": "Standardize", "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    def __repr__(self) -> str:
        return f"Standardize(shift={shown(self.shift[()])}, scale={shown(self.scale[()])})"


def _wide(shape):
    """A shape of as many elements whose last axis is wide: the last axes are one."""
    while len(shape) > 1 and shape[-1] < WIDE:
        shape = (*shape[:-2], shape[-2] * shape[-1])
    return shape


def _numbers(name, values):
    """A number, or a list of them, as an array of float64."""
    array = np.asarray(values)
    check_mapping(array)
    if array.ndim > 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all() or not array.size:
        raise value_error(name, "a finite number, or one for each feature", shown(values))
    return array.astype(np.float64)
