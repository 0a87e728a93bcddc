"""Dropout: the layer, its kernels, and the generator of its masks.

Whether an element is kept depends only on its position: it is the same for any number of threads and in the backward
pass, so no mask is stored. The generator is counter-based (Salmon et al. 2011, doi:10.1145/2063384.2063405): it hashes
(key, step, row) to 64 bits, then each column with the two 32-bit halves."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..activations import Activation
from ..core.kernel import In, Out, kernel
from ..core.random import GOLDEN, GOLDEN_64, LAST_MIX, MIX, hashes_of_rows, key_of_layer, mixed
from ..engine.program import PerStep
from ..errors import check_number
from .base import Layer, layer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


def kept_columns(row: npt.NDArray[np.int64], n: int, rate: float, key: float, step: float) -> npt.NDArray[np.bool_]:
    """Which of n columns are kept in these rows: bools (rows, n), True with probability 1 - rate."""
    hashes = hashes_of_rows(row, key, step)
    low, high = hashes.astype(np.uint32)[:, None], (hashes >> np.uint64(32)).astype(np.uint32)[:, None]
    z = (low + np.arange(n, dtype=np.uint32) * np.uint32(GOLDEN)) ^ high
    z = (z ^ (z >> np.uint32(16))) * np.uint32(MIX)
    z = (z ^ (z >> np.uint32(13))) * np.uint32(LAST_MIX)
    result: npt.NDArray[np.bool_] = z ^ (z >> np.uint32(16)) >= np.uint32(rate * 2**32)
    return result


@kernel
def dropout(
    y: Out("rows", "n"),
    x: In("rows", "n"),
    row: In("rows", dtype="int64", domain="count"),
    rate: float,
    key: float,
    step: float,
) -> None:
    """y <- x / (1 - rate) with probability 1 - rate, else 0 x, so that NaN stays. Srivastava et al. 2014, "Dropout",
    scaled in training as in torch. row: numbers of the rows; key, step: integers. The result for an element depends
    only on row, column, key and step, so the same operation computes dx from dy. y may be x."""
    np.multiply(x, kept_columns(row, x.shape[1], rate, key, step) * x.dtype.type(1 / (1 - rate)), out=y)


def _loop(jit, dtype):
    """The loop for Numba, where `mixed` is compiled for scalars."""
    mix = jit(mixed)

    def loop(y, x, row, rate, key, step):
        scale, least = x.dtype.type(1 / (1 - rate)), np.uint32(rate * 2**32)
        start = mix(np.uint64(np.int64(key)) + np.uint64(np.int64(step)) * np.uint64(GOLDEN_64))
        for i in range(x.shape[0]):
            h = mix(start + np.uint64(row[i]) * np.uint64(GOLDEN_64))
            low, high = np.uint32(h & np.uint64(0xFFFFFFFF)), np.uint32(h >> np.uint64(32))
            for j in range(x.shape[1]):
                z = np.uint32(np.uint32(low + np.uint32(np.uint32(j) * np.uint32(GOLDEN))) ^ high)
                z = np.uint32(np.uint32(z ^ (z >> np.uint32(16))) * np.uint32(MIX))
                z = np.uint32(np.uint32(z ^ (z >> np.uint32(13))) * np.uint32(LAST_MIX))
                z = np.uint32(z ^ (z >> np.uint32(16)))
                y[i, j] = x[i, j] * (scale if z >= least else x.dtype.type(0))

    return loop


dropout.build_loop = _loop


@layer
class Dropout(Layer):
    """A layer that in training sets each element to 0 with probability `rate` and divides the others by 1 - rate, which
    preserves the mean. In evaluation (`predict`, `loss`, validation) y = x. Srivastava et al. 2014, "Dropout: a simple
    way to prevent neural networks from overfitting".

    rate: in [0, 1).

    The choice of elements depends only on the network's seed, the layer's path, the number of the minibatch (among all
    that the network was trained on), row and column. So a run is the same for any number of threads and after it is
    resumed; another call of `fit` draws other elements.

    Raises TypeError or ValueError that names the argument.
    """

    is_causal = True

    def __init__(self, rate: float) -> None:
        self.rate = check_number("rate", rate, 0.0, 1.0, high_open=True)

    def output_activations(self, of_input: tuple[Activation, ...]) -> tuple[Activation, ...]:
        return of_input  # in evaluation y is x

    def without_noise(self) -> Layer:
        return Dropout(0.0)

    def _scalars(self, plan, path):
        return self.rate, key_of_layer(plan.network.seed, path), PerStep("minibatch")

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        if not plan.training or not self.rate:
            return x
        y = plan.row_buffer(f"a{path}", plan.shape(x))
        plan.add("forward", dropout, y, x, "row", *self._scalars(plan, path))
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not is_wanted:
            return None
        if plan.training and self.rate:
            plan.add("backward", dropout, dy, dy, "row", *self._scalars(plan, path))
        return dy

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return x

    def config(self) -> dict[str, Any]:
        return {"layer": "Dropout", "rate": self.rate}

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"
