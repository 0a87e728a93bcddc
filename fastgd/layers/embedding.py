"""Embedding and PositionalEmbedding: vectors for tokens and for positions, and their kernels.

Token ids arrive as real numbers, as all inputs do. float32 holds every whole number up to 2^24, the most tokens that a
vocabulary may have."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.kernel import In, InOut, Out, kernel
from ..core.types import Shape
from ..engine.rows import copy_rows
from ..errors import check_integer, value_error
from ..initializers import Initializer, normal, pick_initializer
from .base import Layer, ParameterSpec, layer
from .past import add_positions

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph

MOST_TOKENS = 2**24


@kernel
def embedding_forward(y: Out("rows", "n"), tokens: In("rows", domain="tokens", below="m"), w: In("m", "n")):
    """y[i] <- w[tokens[i]]; NaN where tokens[i] is not a whole number in [0, m)."""
    m = len(w)
    valid = (tokens >= 0) & (tokens < m) & (tokens == np.floor(tokens))
    np.take(w, np.where(valid, tokens, 0).astype(np.int64), axis=0, out=y, mode="clip")
    y[~valid] = np.nan


@embedding_forward.loop
def embedding_forward(y, tokens, w):
    for i in range(y.shape[0]):
        valid = 0 <= tokens[i] < w.shape[0] and tokens[i] == np.floor(tokens[i])
        token = int(tokens[i]) if valid else 0
        for j in range(y.shape[1]):
            y[i, j] = w[token, j] if valid else np.nan


@kernel(cost=lambda m, n, rows: rows * n)
def embedding_backward(dw: InOut("m", "n"), tokens: In("rows", domain="tokens", below="m"), dy: In("rows", "n")):
    """dw[k] <- dw[k] + sum of dy[i] over the rows i with tokens[i] = k, in float64 and in ascending order; other ids
    are left out."""
    for k in np.unique(tokens):
        if 0 <= k < len(dw) and k == np.floor(k):
            dw[int(k)] += np.sum(dy[tokens == k], axis=0, dtype=np.float64).astype(dw.dtype)


@embedding_backward.loop
def embedding_backward(dw, tokens, dy, begin, end):
    m, rows = end - begin, tokens.shape[0]
    # For each token of the share its first row, and for each row the next one with the same token.
    first, following = np.full(m, -1), np.full(rows, -1)
    for i in range(rows - 1, -1, -1):
        if begin <= tokens[i] < end and tokens[i] == np.floor(tokens[i]):
            token = int(tokens[i]) - begin
            following[i], first[token] = first[token], i
    total = np.zeros(dw.shape[1])
    for k in range(m):
        if first[k] >= 0:
            total[:] = 0
            i = first[k]
            while i >= 0:
                for j in range(total.size):
                    total[j] += dy[i, j]
                i = following[i]
            for j in range(total.size):
                dw[begin + k, j] += dw.dtype.type(total[j])


@kernel
def positions_forward(y: Out("rows", "t", "n"), x: In("rows", "t", "n"), p: In("t", "n")):
    """y <- x + p."""
    np.add(x, p, out=y)


@positions_forward.loop
def positions_forward(y, x, p):
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            for j in range(x.shape[2]):
                y[i, t, j] = x[i, t, j] + p[t, j]


@kernel
def positions_backward(dp: Out("t", "n"), dy: In("rows", "t", "n")):
    """dp <- sum of dy over the rows, in float64, or in blocks of rows whose sums are added in float64."""
    dp[...] = np.sum(dy, axis=0, dtype=np.float64)


@positions_backward.loop
def positions_backward(dp, dy, begin, end):
    total = np.zeros((end - begin, dp.shape[1]))
    for i in range(dy.shape[0]):
        for t in range(end - begin):
            for j in range(dp.shape[1]):
                total[t, j] += dy[i, begin + t, j]
    for t in range(end - begin):
        for j in range(dp.shape[1]):
            dp[begin + t, j] = total[t, j]


@layer
class Embedding(Layer):
    """A vector for each token of a vocabulary: y = w[x], where x (rows, ...) are token ids, whole numbers in
    [0, vocabulary), of any dtype; w (vocabulary, width), y (rows, ..., width). Bengio et al. 2003,
    JMLR 3, pp. 1137-1155.

    The first layer of a network, whose input are tokens: `Network(T, [Embedding(vocabulary, width), ...])`. Tokens have
    no gradient: `Network.backward` needs `input_gradient=False`. `Dense(vocabulary, tie="embedding")` as the last layer
    shares w (Press & Wolf 2017, arXiv:1608.05859).

    vocabulary: int in [1, 2^24]. width: int >= 1. weight_init: as in `Dense`.

    Raises TypeError or ValueError that names the argument. Methods of the network raise ValueError that names the index
    of an id that is out of range.
    """

    _internal = Layer._internal - {"vocabulary"}

    is_causal = True

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        weight_init: "str | Initializer | npt.NDArray[Any]" = normal,
    ) -> None:
        self.vocabulary: int = check_integer("vocabulary", vocabulary, 1)
        if vocabulary > MOST_TOKENS:
            raise value_error("vocabulary", f"at most 2^24 = {MOST_TOKENS:,}", f"{vocabulary:,}")
        self.width = check_integer("width", width, 1)
        self.weight_init = pick_initializer("weight_init", weight_init)

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.width)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        fans = self.vocabulary, self.width
        return (ParameterSpec("w", fans, self.weight_init, is_weight=True, fans=fans),)

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x)))
        plan.add("forward", embedding_forward, y, x, f"w{path}")
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        plan.add_gradient(embedding_backward, f"w{path}", x, dy)
        return None

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return graph.add("Gather", graph.parameter(f"w{path}"), graph.cast(x, np.int64))

    def config(self) -> dict[str, Any]:
        return {"layer": "Embedding", "vocabulary": self.vocabulary, "width": self.width}

    def __repr__(self) -> str:
        return f"Embedding({self.vocabulary}, {self.width})"


@layer
class PositionalEmbedding(Layer):
    """A learned vector for each position: y = x + p, x and y (rows, T, C), p (T, C). Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5.

    weight_init: as in `Dense`.

    Raises TypeError or ValueError that names the argument; `Network` raises ValueError unless rows of x are (T, C).
    """

    is_causal = True

    def __init__(self, *, weight_init: "str | Initializer | npt.NDArray[Any]" = normal) -> None:
        self.weight_init = pick_initializer("weight_init", weight_init)

    def output_shape(self, shape: Shape) -> Shape:
        return check_sequence(self, shape)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        fans = shape[0], shape[1]
        return (ParameterSpec("p", shape, self.weight_init, is_weight=True, fans=fans),)

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y = plan.row_buffer(f"a{path}", plan.shape(x))
        if plan.past is not None:
            plan.add("forward", add_positions, y, x, f"p{path}", "position")
        else:
            plan.add("forward", positions_forward, y, x, f"p{path}")
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        plan.add_gradient(positions_backward, f"p{path}", dy)
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", plan.shape(x))  # the gradient of p reads dy later
        plan.add("backward", copy_rows, dx, dy)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        return graph.add("Add", x, graph.parameter(f"p{path}"))

    def config(self) -> dict[str, Any]:
        return {"layer": "PositionalEmbedding"}

    def __repr__(self) -> str:
        return "PositionalEmbedding()"


def check_sequence(one: Layer, shape: Shape) -> Shape:
    """The shape (T, C) of a row; raises ValueError if it has other axes."""
    if len(shape) != 2:
        hint = (
            "; a recurrent layer gives sequences with return_sequences=True, Embedding makes them of tokens, "
            f"Reshape(({shape[0]}, 1)) of numbers"
        )
        raise value_error("layers", f"rows of shape (T, C) for {one!r}", f"{shape}{hint if len(shape) == 1 else ''}")
    return shape
