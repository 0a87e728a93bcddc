"""GRU: gated recurrent units, a recurrent layer, and its kernels. Cho et al. 2014, arXiv:1406.1078."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..activations import sigmoid_of
from ..core.kernel import In, InOut, Out, kernel
from ..core.matrix_product import add_product
from ..core.types import Shape
from ..initializers import zeros
from .base import ParameterSpec, layer
from .dense import dense_backward_bias, dense_backward_weights
from .recurrent import Recurrent, cost_of_steps, sigmoid_of_number

if TYPE_CHECKING:
    from ..engine.plan import Plan


@kernel(cost=cost_of_steps, at_once=True)
def gru_forward(
    y: Out("rows", "s", "u"),
    hidden: Out("rows", "k", "u"),
    part: Out("rows", "k", "u"),
    state: Out("rows", "u"),
    q: Out("rows", "three", "u"),
    gates: InOut("rows", "t", "three", "u"),
    w: In("u", "three", "u", domain="recurrent"),
    b: In("three", "u"),
):
    """For each row, from h = 0 on, for each of the t steps, with gates = x w_x + b_x of the step and q <- h w + b:
    r, z <- sigmoid(gates + q), n <- tanh(gates + r q), in the order r, z, n;  h <- n + z (h - n).

    The results of step j are at j mod k in hidden (h before the step) and in part (q of n), at j mod s in y (h after
    it), and in place of the gates. state, q: the last h; h w + b of the last step."""
    rows, t, three, u = gates.shape
    state[...] = 0
    for j in range(t):
        hidden[:, j % hidden.shape[1]] = state
        q[...] = b
        if j:
            flat = q.reshape(rows, three * u)
            flat += state @ w.reshape(u, three * u)
        part[:, j % part.shape[1]] = q[:, 2]
        now = gates[:, j]
        now[:, :2] = sigmoid_of(now[:, :2] + q[:, :2])
        r, z, n = (now[:, p] for p in range(3))
        n[...] = np.tanh(n + r * q[:, 2])
        state[...] = n + z * (state - n)
        y[:, j % y.shape[1]] = state


def _forward_loop(jit, dtype):
    sigmoid = jit(sigmoid_of_number)

    def loop(y, hidden, part, state, q, gates, w, b):
        rows, t, three, u = gates.shape
        product, weights = q.reshape(rows, three * u), w.reshape(u, three * u)
        for j in range(t):
            for i in range(rows):
                for v in range(u):
                    if j == 0:
                        state[i, v] = 0
                    hidden[i, j % hidden.shape[1], v] = state[i, v]
                    for p in range(three):
                        q[i, p, v] = b[p, v]
            if j > 0:
                add_product(product, state, weights)
            for i in range(rows):
                for v in range(u):
                    r, z = sigmoid(gates[i, j, 0, v] + q[i, 0, v]), sigmoid(gates[i, j, 1, v] + q[i, 1, v])
                    n = np.tanh(gates[i, j, 2, v] + r * q[i, 2, v])
                    gates[i, j, 0, v], gates[i, j, 1, v], gates[i, j, 2, v] = r, z, n
                    part[i, j % part.shape[1], v] = q[i, 2, v]
                    state[i, v] = n + z * (state[i, v] - n)
                    y[i, j % y.shape[1], v] = state[i, v]

    return loop


gru_forward.build_loop = _forward_loop


@kernel(cost=cost_of_steps, at_once=True)
def gru_backward(
    dgates: Out("rows", "t", "three", "u"),
    dproduct: Out("rows", "t", "three", "u"),
    dstate: Out("rows", "u"),
    dq: Out("rows", "three", "u"),
    dy: In("rows", "s", "u"),
    gates: In("rows", "t", "three", "u", domain="gates"),
    part: In("rows", "t", "u"),
    hidden: In("rows", "t", "u"),
    wt: In("three", "u", "u", domain="recurrent"),
):
    """The gradient of `gru_forward`, from dh = 0 on, for each step from the last to the first, with r, z, n from gates,
    q of n from part, h before the step from hidden, and dy of the step, if it is one of the last s:
    dh <- dh + dy;  dz <- dh (h - n) z (1 - z);  dn <- dh (1 - z) (1 - n^2);  dr <- dn q r (1 - r);
    dgates <- (dr, dz, dn);  dproduct <- (dr, dz, dn r), the gradient of h w + b;
    dh <- dh z + dproduct wt, in the first step without the product.

    wt: the transpose of w. dstate, dq: dh and dproduct of the step, at the end of the first one."""
    rows, t, three, u = gates.shape
    dstate[...] = 0
    for j in range(t - 1, -1, -1):
        r, z, n = (gates[:, j, p] for p in range(3))
        if j + dy.shape[1] >= t:
            dstate += dy[:, j % dy.shape[1]]
        dn = dstate * (1 - z) * (1 - n * n)
        dq[:, 0] = dn * part[:, j] * (r * (1 - r))
        dq[:, 1] = dstate * (hidden[:, j] - n) * (z * (1 - z))
        dq[:, 2] = dn
        dgates[:, j] = dq
        dq[:, 2] *= r
        dproduct[:, j] = dq
        dstate *= z
        if j:
            dstate += dq.reshape(rows, three * u) @ wt.reshape(three * u, u)


@gru_backward.loop
def gru_backward(dgates, dproduct, dstate, dq, dy, gates, part, hidden, wt):
    rows, t, three, u = gates.shape
    flat, weights = dq.reshape(rows, three * u), wt.reshape(three * u, u)
    for i in range(rows):
        for v in range(u):
            dstate[i, v] = 0
    for j in range(t - 1, -1, -1):
        for i in range(rows):
            for v in range(u):
                r, z, n = gates[i, j, 0, v], gates[i, j, 1, v], gates[i, j, 2, v]
                if j + dy.shape[1] >= t:
                    dstate[i, v] += dy[i, j % dy.shape[1], v]
                dh = dstate[i, v]
                dn = dh * (1 - z) * (1 - n * n)
                dq[i, 0, v] = dn * part[i, j, v] * (r * (1 - r))
                dq[i, 1, v] = dh * (hidden[i, j, v] - n) * (z * (1 - z))
                dq[i, 2, v] = dn * r
                for p in range(three):
                    dproduct[i, j, p, v] = dq[i, p, v]
                    dgates[i, j, p, v] = dq[i, p, v] if p < 2 else dn
                dstate[i, v] = dh * z
        if j > 0:
            add_product(dstate, flat, weights)


@kernel(cost=lambda one, u, three, rows: rows * three * u * (2 * u + 50))
def gru_continue(
    state: InOut("one", "u"),
    q: Out("one", "three", "u"),
    y: Out("rows", "u"),
    gates: InOut("rows", "three", "u"),
    w: In("u", "three", "u", domain="recurrent"),
    b: In("three", "u"),
    position: In("one", dtype="int64", domain="count"),
):
    """The steps of `gru_forward` for rows that are consecutive steps of one sequence, from h in state on, or from 0 if
    the row is the first step: if position + row = 0. q: h w + b of the last step."""
    u = state.shape[1]
    for j in range(len(y)):
        if position[0] + j == 0:
            state[...] = 0
        np.matmul(state, w.reshape(u, -1), out=q.reshape(1, -1))
        q += b
        now = gates[j]
        now[:2] = sigmoid_of(now[:2] + q[0, :2])
        now[2] = np.tanh(now[2] + now[0] * q[0, 2])
        state[0] = now[2] + now[1] * (state[0] - now[2])
        y[j] = state[0]


def _continue_loop(jit, dtype):
    sigmoid = jit(sigmoid_of_number)

    def loop(state, q, y, gates, w, b, position):
        three, u = b.shape
        product, weights = q.reshape(1, three * u), w.reshape(u, three * u)
        for j in range(y.shape[0]):
            for v in range(u):
                if position[0] + j == 0:
                    state[0, v] = 0
                for p in range(three):
                    q[0, p, v] = b[p, v]
            add_product(product, state, weights)
            for v in range(u):
                r, z = sigmoid(gates[j, 0, v] + q[0, 0, v]), sigmoid(gates[j, 1, v] + q[0, 1, v])
                n = np.tanh(gates[j, 2, v] + r * q[0, 2, v])
                gates[j, 0, v], gates[j, 1, v], gates[j, 2, v] = r, z, n
                state[0, v] = n + z * (state[0, v] - n)
                y[j, v] = state[0, v]

    return loop


gru_continue.build_loop = _continue_loop


@layer
class GRU(Recurrent):
    """Gated recurrent units on sequences x (rows, T, n). For each position, from h = 0 on,

        r, z = sigmoid(x w_x + b + h w_h + b_h),   n = tanh(x w_x + b + r (h w_h + b_h)),
        h = (1 - z) n + z h,

    with the columns of r, z, n, units each, in w_x (n, 3 units), w_h (units, 3 units), b and b_h (3 units,). y is h at
    every position (rows, T, units), or the last (rows, units). As torch's GRU: r multiplies the product, as in cuDNN,
    where Cho et al. 2014, arXiv:1406.1078, multiply h.

    units: int >= 1. return_sequences: whether y has every position.
    weight_init: as in `Dense`, of w_x, gate by gate. recurrent_init: of w_h, gate by gate; orthogonal matrices keep the
        length of h. b and b_h are 0 at first.

    Raises TypeError or ValueError that names the argument; `Network` raises ValueError unless rows of x are (T, n).
    """

    gates, states = 3, 1
    onnx_order: ClassVar[list[int]] = [1, 0, 2]
    onnx_attributes: ClassVar[dict[str, int]] = {"linear_before_reset": 1}

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        width, fans = (3 * self.units,), (shape[-1], self.units)
        biases = (ParameterSpec(name, width, zeros, is_weight=False, fans=fans) for name in ("b", "b_h"))
        return (*super().parameters(shape), *biases)

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y, (t, _), u = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x))), plan.shape(x), self.units
        gates = self._add_inputs(plan, path, x)
        w = plan.reshaped_parameters(f"w_h{path}", (u, 3, u))
        b = plan.reshaped_parameters(f"b_h{path}", (3, u))
        if plan.past is not None:
            state, q = plan.kept(f"state{path}", (1, u)), plan.vector(f"q{path}", np.zeros((1, 3, u)))
            plan.add("forward", gru_continue, state, q, y, gates, w, b, "position")
            return y
        hidden, part = (self._by_step(plan, path, name, t) for name in ("hidden", "part"))
        state, q = plan.row_buffer(f"state{path}", (u,)), plan.row_buffer(f"q{path}", (3, u))
        plan.add("forward", gru_forward, self._outputs(plan, f"a{path}.steps", y), hidden, part, state, q, gates, w, b)
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        (t, _), u = plan.shape(x), self.units
        of_gates, of_product = (plan.row_buffer(f"{name}{path}", (t, 3 * u)) for name in ("dgates", "dproduct"))
        split = [plan.reshaped(f"{name}.split", name, (t, 3, u)) for name in (of_gates, of_product)]
        dstate, dq = plan.row_buffer(f"dstate{path}", (u,)), plan.row_buffer(f"dq{path}", (3, u))
        kept = f"gates{path}.split", f"part{path}", f"hidden{path}"
        dy, wt = self._outputs(plan, f"dy{path}.steps", dy), self._add_transpose(plan, path)
        plan.add("backward", gru_backward, *split, dstate, dq, dy, *kept, wt)
        plan.add_gradient(dense_backward_weights, f"w_h{path}", f"hidden{path}", of_product)
        plan.add_gradient(dense_backward_bias, f"b_h{path}", of_product)
        return self._add_gradients(plan, path, x, of_gates, is_wanted)

    def _onnx_step(self, graph, path, *values):
        h, gates = values
        product = graph.add("MatMul", h, graph.parameter(f"w_h{path}"))
        product = graph.add("Add", product, graph.parameter(f"b_h{path}"))
        *of_x, x = self._onnx_split(graph, gates)
        *of_h, q = self._onnx_split(graph, product)
        r, z = (graph.add("Sigmoid", graph.add("Add", *pair)) for pair in zip(of_x, of_h, strict=True))
        n = graph.add("Tanh", graph.add("Add", x, graph.add("Mul", r, q)))
        return (graph.add("Add", n, graph.add("Mul", z, graph.add("Sub", h, n))),)
