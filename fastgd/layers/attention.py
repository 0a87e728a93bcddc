"""Self-attention: each position of a sequence takes a weighted mean of the others. Vaswani et al. 2017,
arXiv:1706.03762."""

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.kernel import In, Out, kernel
from ..core.random import GOLDEN, GOLDEN_64, LAST_MIX, MIX, key_of_layer, mixed
from ..core.types import Shape
from ..engine.program import PerStep
from ..engine.rows import fill_rows
from ..errors import check_integer, check_number, value_error
from ..initializers import Initializer, pick_initializer, zeros
from .base import Layer, ParameterSpec, layer
from .dense import dense_backward_bias, dense_backward_input, dense_backward_weights, dense_forward
from .dropout import kept_columns
from .embedding import check_sequence
from .past import append_to_cache, cached_attention

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


def _cost_of_forward(rows, t, h, d, **_):
    return 4 * rows * h * t * t * d


def _cost_of_backward(rows, t, h, d, **_):
    return 8 * rows * h * t * t * d


def _factors(row, heads, head, t, rate, key, step, dtype):
    """What dropout multiplies the weights of a head by, (rows, t, t)."""
    numbers = ((row[:, None] * heads + head) * t + np.arange(t)).reshape(-1)
    kept = kept_columns(numbers, t, rate, key, step)
    return (kept * dtype.type(1 / (1 - rate))).reshape(len(row), t, t)


@kernel(cost=_cost_of_forward)
def attention_forward(
    y: Out("rows", "t", "h", "d"),
    p: Out("rows", "k", "t", "t"),
    qkv: In("rows", "t", "three", "h", "d"),
    seen: In("rows", "t", domain="mask"),
    row: In("rows", dtype="int64", domain="count"),
    causal: float,
    rate: float,
    key: float,
    step: float,
):
    """For each row and head, with q, k, v (t, d) from qkv: P <- softmax(q k^T / sqrt(d)) over the positions that are
    seen, and if causal is not 0, not later than the query; 0 at the others, and wherever none is left.
    y <- drop(P) v, where drop is `dropout` of the given rate with row (row H + head) t + position. p: P of head i at
    i mod k: of all heads if k = h, of the last one if k = 1. row: numbers of the rows; key, step: integers."""
    t, heads, size = y.shape[1:]
    hidden = np.broadcast_to((seen == 0)[:, None, :], (len(y), t, t))
    if causal:
        hidden = hidden | np.triu(np.ones((t, t), bool), 1)
    for i in range(heads):
        q, k, v = (qkv[:, :, j, i] for j in range(3))
        scores = np.where(hidden, y.dtype.type(-np.inf), q @ k.swapaxes(1, 2) * y.dtype.type(1 / math.sqrt(size)))
        top = scores.max(axis=2, keepdims=True)
        e = np.exp(scores - np.where(top == -np.inf, 0, top))
        total = e.sum(axis=2, dtype=np.float64, keepdims=True).astype(y.dtype)
        weights = e / np.where(total == 0, 1, total)
        p[:, i % p.shape[1]] = weights
        if rate:
            weights = weights * _factors(row, heads, i, t, rate, key, step, y.dtype)
        y[:, :, i] = weights @ v


@kernel(cost=_cost_of_backward)
def attention_backward(
    dqkv: Out("rows", "t", "three", "h", "d"),
    ds: Out("rows", "t", "t"),
    dy: In("rows", "t", "h", "d"),
    p: In("rows", "h", "t", "t", domain="weights"),
    qkv: In("rows", "t", "three", "h", "d"),
    row: In("rows", dtype="int64", domain="count"),
    causal: float,
    rate: float,
    key: float,
    step: float,
):
    """The gradient of `attention_forward`: for each row and head, with P from p, which must be 0 above the diagonal if
    causal is not 0:
    dv <- drop(P)^T dy,  dP <- drop(dy v^T),  dS <- P (dP - sum of P dP over a row) / sqrt(d),  dq <- dS k,
    dk <- dS^T q.
    ds: scratch memory; dS of the last head at the end."""
    t, heads, size = dy.shape[1:]
    for i in range(heads):
        q, k, v = (qkv[:, :, j, i] for j in range(3))
        dq, dk, dv = (dqkv[:, :, j, i] for j in range(3))
        weights, dout = p[:, i], dy[:, :, i]
        factors = _factors(row, heads, i, t, rate, key, step, dy.dtype) if rate else dy.dtype.type(1)
        np.matmul((weights * factors).swapaxes(1, 2), dout, out=dv)
        dp = dout @ v.swapaxes(1, 2) * factors
        part = (weights * dp).sum(axis=2, dtype=np.float64, keepdims=True).astype(dy.dtype)
        ds[...] = weights * (dp - part) * dy.dtype.type(1 / math.sqrt(size))
        np.matmul(ds, k, out=dq)
        np.matmul(ds.swapaxes(1, 2), q, out=dk)


def _factor_of_column(jit):
    """A function for Numba: the factor of dropout of an element, given the hash of its row."""

    def factor(h, j, least, scale):
        low, high = np.uint32(h & np.uint64(0xFFFFFFFF)), np.uint32(h >> np.uint64(32))
        z = np.uint32(np.uint32(low + np.uint32(np.uint32(j) * np.uint32(GOLDEN))) ^ high)
        z = np.uint32(np.uint32(z ^ (z >> np.uint32(16))) * np.uint32(MIX))
        z = np.uint32(np.uint32(z ^ (z >> np.uint32(13))) * np.uint32(LAST_MIX))
        z = np.uint32(z ^ (z >> np.uint32(16)))
        return scale if z >= least else scale * 0

    return jit(factor)


def _forward_loop(jit, dtype):
    mix, factor = jit(mixed), _factor_of_column(jit)

    def loop(y, p, qkv, seen, row, causal, rate, key, step):
        rows, t, heads, size = y.shape
        real = y.dtype.type
        scale, kept, least = real(1 / math.sqrt(size)), real(1 / (1 - rate)), np.uint32(rate * 2**32)
        start = mix(np.uint64(np.int64(key)) + np.uint64(np.int64(step)) * np.uint64(GOLDEN_64))
        for b in range(rows):
            for i in range(heads):
                weights = p[b, i % p.shape[1]]
                for u in range(t):
                    n = u + 1 if causal != 0 else t
                    top = -np.inf
                    for j in range(n):
                        s = real(0)
                        for d in range(size):
                            s += qkv[b, u, 0, i, d] * qkv[b, j, 1, i, d]
                        weights[u, j] = s * scale
                        if seen[b, j] != 0 and not weights[u, j] <= top:
                            top = weights[u, j]
                    total = 0.0
                    for j in range(t):
                        visible = j < n and seen[b, j] != 0
                        weights[u, j] = np.exp(weights[u, j] - top) if visible else real(0)
                        total += weights[u, j]
                    for j in range(n):
                        weights[u, j] = weights[u, j] / real(total) if total != 0 else real(0)
                    h = mix(start + np.uint64((row[b] * heads + i) * t + u) * np.uint64(GOLDEN_64))
                    for d in range(size):
                        y[b, u, i, d] = 0
                    for j in range(n):
                        weight = weights[u, j] * factor(h, j, least, kept)
                        for d in range(size):
                            y[b, u, i, d] += weight * qkv[b, j, 2, i, d]

    return loop


attention_forward.build_loop = _forward_loop


def _backward_loop(jit, dtype):
    mix, factor = jit(mixed), _factor_of_column(jit)

    def loop(dqkv, ds, dy, p, qkv, row, causal, rate, key, step):
        rows, t, heads, size = dy.shape
        real = dy.dtype.type
        scale, kept, least = real(1 / math.sqrt(size)), real(1 / (1 - rate)), np.uint32(rate * 2**32)
        start = mix(np.uint64(np.int64(key)) + np.uint64(np.int64(step)) * np.uint64(GOLDEN_64))
        for b in range(rows):
            for i in range(heads):
                for u in range(t):
                    for j in range(3):
                        for d in range(size):
                            dqkv[b, u, j, i, d] = 0
                for u in range(t):
                    n = u + 1 if causal != 0 else t
                    h = mix(start + np.uint64((row[b] * heads + i) * t + u) * np.uint64(GOLDEN_64))
                    part = 0.0
                    for j in range(n):
                        f, dp = factor(h, j, least, kept), real(0)
                        for d in range(size):
                            dp += dy[b, u, i, d] * qkv[b, j, 2, i, d]
                            dqkv[b, j, 2, i, d] += p[b, i, u, j] * f * dy[b, u, i, d]
                        ds[b, u, j] = dp * f
                        part += p[b, i, u, j] * ds[b, u, j]
                    for j in range(t):
                        ds[b, u, j] = p[b, i, u, j] * (ds[b, u, j] - real(part)) * scale if j < n else real(0)
                    for j in range(n):
                        for d in range(size):
                            dqkv[b, u, 0, i, d] += ds[b, u, j] * qkv[b, j, 1, i, d]
                            dqkv[b, j, 1, i, d] += ds[b, u, j] * qkv[b, u, 0, i, d]

    return loop


attention_backward.build_loop = _backward_loop


@kernel
def seen_tokens(seen: Out("rows"), tokens: In("rows"), padding: float):
    """seen <- 0 where the token is `padding`, else 1."""
    np.not_equal(tokens, tokens.dtype.type(padding), out=seen)


@seen_tokens.loop
def seen_tokens(seen, tokens, padding):
    for i in range(seen.size):
        seen[i] = 0 if tokens[i] == tokens.dtype.type(padding) else 1


@layer
class SelfAttention(Layer):
    """Multi-head self-attention: x, y (rows, T, C); with C / heads columns d for each head,

        (q, k, v) = x w_qkv + b_qkv,   a = softmax(q k^T / sqrt(d)) v for each head,
        y = a w_out + b_out.

    w_qkv (C, 3 C) has the columns of q, of k and of v, each head by head; w_out (C, C). As torch's MultiheadAttention.
    Vaswani et al. 2017, arXiv:1706.03762.

    heads: int >= 1, which divides C.
    dropout: in [0, 1), the share of the weights softmax(...) that training sets to 0, as `Dropout` does.
    padding: None, or the id of the token that fills up short sequences, in a network whose input are tokens (T,): no
        position attends to one that has this token. Its own output is a number like any other; a weight 0 leaves it out
        of the loss. A sequence of padding alone gives y = b_out.
    weight_init: as in `Dense`, of w_qkv, whose fans are C and C, and of w_out; projection_init: of w_out, if it is
        another.

    Raises TypeError or ValueError that names the argument; `Network` raises ValueError unless rows of x are (T, C) and
    heads divides C.
    """

    is_causal = False

    def __init__(
        self,
        heads: int,
        dropout: float = 0.0,
        *,
        padding: int | None = None,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        projection_init: "str | Initializer | npt.NDArray[Any] | None" = None,
    ) -> None:
        self.heads = check_integer("heads", heads, 1)
        self.dropout = check_number("dropout", dropout, 0.0, 1.0, high_open=True)
        self.padding = None if padding is None else check_integer("padding", padding, 0)
        self.weight_init = pick_initializer("weight_init", weight_init)
        given = weight_init if projection_init is None else projection_init
        self.projection_init = pick_initializer("projection_init", given)

    def output_shape(self, shape: Shape) -> Shape:
        _, channels = check_sequence(self, shape)
        if channels % self.heads:
            raise value_error("heads", f"a divisor of {channels}, the channels of a position", self.heads)
        return shape

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        n = shape[-1]
        return (
            ParameterSpec("w_qkv", (n, 3 * n), self.weight_init, is_weight=True, fans=(n, n)),
            ParameterSpec("w_out", (n, n), self.projection_init, is_weight=True, fans=(n, n)),
            ParameterSpec("b_qkv", (3 * n,), zeros, is_weight=False, fans=(n, n)),
            ParameterSpec("b_out", (n,), zeros, is_weight=False, fans=(n, n)),
        )

    def without_noise(self) -> "SelfAttention":
        quiet = copy.copy(self)
        quiet.dropout = 0.0
        return quiet

    def _scalars(self, plan, path):
        rate = self.dropout if plan.training else 0.0
        return float(self.is_causal), rate, key_of_layer(plan.network.seed, path), PerStep("minibatch")

    def _add_seen(self, plan, path, t):
        """Adds the operation that says which positions may be attended to; returns the name of its result."""
        seen = plan.row_buffer(f"seen{path}", (t,))
        if self.padding is None:
            plan.add("forward", fill_rows, seen, 1.0)
            return seen
        if not plan.network.vocabulary or plan.shape("x") != (t,):
            raise value_error("padding", f"None in a network whose input are not tokens ({t},)", self.padding)
        plan.add("forward", seen_tokens, seen, "x", self.padding)
        return seen

    def _split(self, plan, name, shape):
        """A view of a buffer whose rows are (T, 3 C) or (T, C) with an axis of heads, and of q, k, v."""
        t, n = shape
        heads = (self.heads, n // self.heads)
        whole = plan.shape(name)
        return plan.reshaped(f"{name}.heads", name, (t, 3, *heads) if whole == (t, 3 * n) else (t, *heads))

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape = t, n = plan.shape(x)
        qkv, mean = plan.row_buffer(f"qkv{path}", (t, 3 * n)), plan.row_buffer(f"attended{path}", shape)
        plan.add("forward", dense_forward, qkv, x, f"w_qkv{path}", f"b_qkv{path}")
        if plan.past is not None:
            self._attend_to_past(plan, path, mean, qkv)
            return self._project(plan, path, mean)
        p = plan.row_buffer(f"weights{path}", (self.heads if plan.has_backward else 1, t, t))
        arrays = self._split(plan, mean, shape), p, self._split(plan, qkv, shape), self._add_seen(plan, path, t), "row"
        plan.add("forward", attention_forward, *arrays, *self._scalars(plan, path))
        return self._project(plan, path, mean)

    def _attend_to_past(self, plan, path, mean, qkv):
        """Adds the operations for positions that go on with a sequence."""
        n = plan.shape(mean)[-1]
        cache = self.heads, plan.network.input_shape[0], n // self.heads
        keys, values = plan.kept(f"keys{path}", cache), plan.kept(f"values{path}", cache)
        split = self._split(plan, qkv, (1, n))
        plan.add("forward", append_to_cache, keys, values, split, "position")
        plan.add("forward", cached_attention, self._split(plan, mean, (1, n)), split, keys, values, "position")

    def _project(self, plan: "Plan", path: str, mean: str) -> str:
        """Adds the product with w_out; returns the name of y."""
        y = plan.row_buffer(f"a{path}", plan.shape(mean))
        plan.add("forward", dense_forward, y, mean, f"w_out{path}", f"b_out{path}")
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        shape = t, n = plan.shape(x)
        mean, qkv = f"attended{path}", f"qkv{path}"
        plan.add_gradient(dense_backward_weights, f"w_out{path}", mean, dy)
        plan.add_gradient(dense_backward_bias, f"b_out{path}", dy)
        dmean, dqkv = plan.row_buffer(f"dattended{path}", shape), plan.row_buffer(f"dqkv{path}", (t, 3 * n))
        plan.add("backward", dense_backward_input, dmean, dy, f"w_out{path}")
        ds = plan.row_buffer(f"ds{path}", (t, t))
        gradients = self._split(plan, dqkv, shape), ds, self._split(plan, dmean, shape)
        arrays = *gradients, f"weights{path}", f"{qkv}.heads", "row"
        plan.add("backward", attention_backward, *arrays, *self._scalars(plan, path))
        plan.add_gradient(dense_backward_weights, f"w_qkv{path}", x, dqkv)
        plan.add_gradient(dense_backward_bias, f"b_qkv{path}", dqkv)
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", shape)
        plan.add("backward", dense_backward_input, dx, dqkv, f"w_qkv{path}")
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        t, n = graph.shapes[path]
        qkv = graph.add("Add", graph.add("MatMul", x, graph.parameter(f"w_qkv{path}")), graph.parameter(f"b_qkv{path}"))
        split = graph.add("Reshape", qkv, np.array([-1, t, 3, self.heads, n // self.heads], np.int64))
        by_head = graph.add("Transpose", split, perm=[2, 0, 3, 1, 4])  # (3, rows, heads, T, d)
        q, k, v = (graph.add("Gather", by_head, np.array(i, np.int64), axis=0) for i in range(3))
        scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = graph.add("Mul", scores, 1 / math.sqrt(n // self.heads))
        if self.is_causal:
            scores = graph.add("Add", scores, np.triu(np.full((t, t), -np.inf, graph.dtype), 1))
        if self.padding is not None:
            is_padding = graph.add("Equal", "x", np.array(self.padding, graph.dtype))
            hidden = graph.add("Unsqueeze", is_padding, np.array([1, 2], np.int64))
            scores = graph.add("Where", hidden, np.array(-np.inf, graph.dtype), scores)
        weights = graph.add("Softmax", scores, axis=-1)
        if self.padding is not None:  # of nothing else softmax is NaN
            weights = graph.add("Where", hidden, np.array(0, graph.dtype), weights)
        mean = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        mean = graph.add("Reshape", mean, np.array([-1, t, n], np.int64))
        y = graph.add("MatMul", mean, graph.parameter(f"w_out{path}"))
        return graph.add("Add", y, graph.parameter(f"b_out{path}"))

    def config(self) -> dict[str, Any]:
        config = {"layer": type(self).__name__, "heads": self.heads, "dropout": self.dropout}
        return config if self.padding is None else {**config, "padding": self.padding}

    def __repr__(self) -> str:
        padding = "" if self.padding is None else f", padding={self.padding}"
        return f"{type(self).__name__}({self.heads}, dropout={self.dropout}{padding})"


@layer
class CausalSelfAttention(SelfAttention):
    """`SelfAttention` in which each position sees itself and the positions before it, for models that predict the next
    token. Radford et al. 2018, "Improving language understanding by generative pre-training".

    heads, dropout, weight_init, projection_init: as in `SelfAttention`. Raises as that does.
    """

    is_causal = True

    def __init__(
        self,
        heads: int,
        dropout: float = 0.0,
        *,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        projection_init: "str | Initializer | npt.NDArray[Any] | None" = None,
    ) -> None:
        super().__init__(heads, dropout, weight_init=weight_init, projection_init=projection_init)
