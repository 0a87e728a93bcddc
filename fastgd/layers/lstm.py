"""LSTM: long short-term memory, a recurrent layer, and its kernels. Hochreiter & Schmidhuber 1997,
doi:10.1162/neco.1997.9.8.1735."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..activations import sigmoid_of
from ..core.kernel import In, InOut, Out, kernel
from ..core.matrix_product import add_product
from ..core.types import Shape
from ..initializers import Initializer
from .base import ParameterSpec, layer
from .dense import dense_backward_weights
from .recurrent import Recurrent, cost_of_steps, sigmoid_of_number

if TYPE_CHECKING:
    from ..engine.plan import Plan


@kernel(cost=cost_of_steps, at_once=True)
def lstm_forward(
    y: Out("rows", "s", "u"),
    hidden: Out("rows", "k", "u"),
    cell: Out("rows", "k", "u"),
    state: Out("rows", "u"),
    z: Out("rows", "four", "u"),
    gates: InOut("rows", "t", "four", "u"),
    w: In("u", "four", "u", domain="recurrent"),
):
    """For each row, from h = c = 0 on, for each step of the t steps, with gates = x w_x + b of the step:
    i, f, o <- sigmoid(gates + h w), g <- tanh(gates + h w), in the order i, f, g, o;  c <- f c + i g;  h <- o tanh(c).

    The results of step j are at j mod k in hidden (h before the step) and in cell (c after it), at j mod s in y (h
    after it), and in place of the gates. state, z: the last h; h w of the last step, where h w is 0 in the first."""
    rows, t, four, u = gates.shape
    state[...] = 0
    z[...] = 0
    c = np.zeros_like(state)
    for j in range(t):
        hidden[:, j % hidden.shape[1]] = state
        if j:
            np.matmul(state, w.reshape(u, four * u), out=z.reshape(rows, four * u))
        now = gates[:, j]
        now += z
        now[:, :2], now[:, 2], now[:, 3] = sigmoid_of(now[:, :2]), np.tanh(now[:, 2]), sigmoid_of(now[:, 3])
        i, f, g, o = (now[:, q] for q in range(4))
        c = f * c + i * g
        cell[:, j % cell.shape[1]] = c
        state[...] = o * np.tanh(c)
        y[:, j % y.shape[1]] = state


def _forward_loop(jit, dtype):
    sigmoid = jit(sigmoid_of_number)

    def loop(y, hidden, cell, state, z, gates, w):
        rows, t, four, u = gates.shape
        product, weights = z.reshape(rows, four * u), w.reshape(u, four * u)
        for j in range(t):
            for b in range(rows):
                for q in range(u):
                    if j == 0:
                        state[b, q] = 0
                    hidden[b, j % hidden.shape[1], q] = state[b, q]
                for q in range(four * u):
                    product[b, q] = 0
            if j > 0:
                add_product(product, state, weights)
            for b in range(rows):
                for q in range(u):
                    i, f = sigmoid(gates[b, j, 0, q] + z[b, 0, q]), sigmoid(gates[b, j, 1, q] + z[b, 1, q])
                    g, o = np.tanh(gates[b, j, 2, q] + z[b, 2, q]), sigmoid(gates[b, j, 3, q] + z[b, 3, q])
                    c = i * g
                    if j > 0:
                        c += f * cell[b, (j - 1) % cell.shape[1], q]
                    gates[b, j, 0, q], gates[b, j, 1, q], gates[b, j, 2, q], gates[b, j, 3, q] = i, f, g, o
                    cell[b, j % cell.shape[1], q] = c
                    state[b, q] = o * np.tanh(c)
                    y[b, j % y.shape[1], q] = state[b, q]

    return loop


lstm_forward.build_loop = _forward_loop


@kernel(cost=cost_of_steps, at_once=True)
def lstm_backward(
    dgates: Out("rows", "t", "four", "u"),
    dstate: Out("rows", "u"),
    dcell: Out("rows", "u"),
    dz: Out("rows", "four", "u"),
    dy: In("rows", "s", "u"),
    gates: In("rows", "t", "four", "u", domain="gates"),
    cell: In("rows", "t", "u"),
    wt: In("four", "u", "u", domain="recurrent"),
):
    """The gradient of `lstm_forward`, from dh = dc = 0 on, for each step from the last to the first, with i, f, g, o
    from gates, c before and after the step from cell, and dy of the step, if it is one of the last s:
    dh <- dh + dy;  dc <- dc + dh o (1 - tanh(c)^2);
    di <- dc g i (1 - i);  df <- dc c_before f (1 - f);  dg <- dc i (1 - g^2);  do <- dh tanh(c) o (1 - o);
    dgates <- (di, df, dg, do);  dh <- dgates wt, except after the first step;  dc <- dc f.

    wt: the transpose of w. dstate, dcell, dz: dh, dc and dgates of the step, at the end of the first one."""
    rows, t, four, u = gates.shape
    dstate[...] = 0
    dcell[...] = 0
    for j in range(t - 1, -1, -1):
        i, f, g, o = (gates[:, j, q] for q in range(4))
        if j + dy.shape[1] >= t:
            dstate += dy[:, j % dy.shape[1]]
        tanh = np.tanh(cell[:, j])
        dcell += dstate * o * (1 - tanh * tanh)
        dz[:, 0] = dcell * g * (i * (1 - i))
        dz[:, 1] = dcell * cell[:, j - 1] * (f * (1 - f)) if j else 0
        dz[:, 2] = dcell * i * (1 - g * g)
        dz[:, 3] = dstate * tanh * (o * (1 - o))
        dgates[:, j] = dz
        dcell *= f
        if j:
            np.matmul(dz.reshape(rows, four * u), wt.reshape(four * u, u), out=dstate)


@lstm_backward.loop
def lstm_backward(dgates, dstate, dcell, dz, dy, gates, cell, wt):
    rows, t, four, u = gates.shape
    flat, weights = dz.reshape(rows, four * u), wt.reshape(four * u, u)
    for b in range(rows):
        for q in range(u):
            dstate[b, q] = dcell[b, q] = 0
    for j in range(t - 1, -1, -1):
        for b in range(rows):
            for q in range(u):
                i, f, g, o = gates[b, j, 0, q], gates[b, j, 1, q], gates[b, j, 2, q], gates[b, j, 3, q]
                if j + dy.shape[1] >= t:
                    dstate[b, q] += dy[b, j % dy.shape[1], q]
                dh, tanh = dstate[b, q], np.tanh(cell[b, j, q])
                dc = dcell[b, q] + dh * o * (1 - tanh * tanh)
                dz[b, 0, q] = dc * g * (i * (1 - i))
                dz[b, 1, q] = dc * cell[b, j - 1, q] * (f * (1 - f)) if j > 0 else 0
                dz[b, 2, q] = dc * i * (1 - g * g)
                dz[b, 3, q] = dh * tanh * (o * (1 - o))
                dcell[b, q] = dc * f
                for p in range(four):
                    dgates[b, j, p, q] = dz[b, p, q]
        if j > 0:
            for b in range(rows):
                for q in range(u):
                    dstate[b, q] = 0
            add_product(dstate, flat, weights)


@kernel(cost=lambda one, u, four, rows: rows * four * u * (2 * u + 50))
def lstm_continue(
    state: InOut("one", "u"),
    cell: InOut("one", "u"),
    z: Out("one", "four", "u"),
    y: Out("rows", "u"),
    gates: InOut("rows", "four", "u"),
    w: In("u", "four", "u", domain="recurrent"),
    position: In("one", dtype="int64", domain="count"),
):
    """The steps of `lstm_forward` for rows that are consecutive steps of one sequence, from h and c in state and cell
    on, or from 0 if the row is the first step: if position + row = 0. z: h w of the last step."""
    u = state.shape[1]
    for j in range(len(y)):
        if position[0] + j == 0:
            state[...] = 0
            cell[...] = 0
        np.matmul(state, w.reshape(u, -1), out=z.reshape(1, -1))
        now = gates[j]
        now += z[0]
        now[:2], now[2], now[3] = sigmoid_of(now[:2]), np.tanh(now[2]), sigmoid_of(now[3])
        cell[0] = now[1] * cell[0] + now[0] * now[2]
        state[0] = now[3] * np.tanh(cell[0])
        y[j] = state[0]


def _continue_loop(jit, dtype):
    sigmoid = jit(sigmoid_of_number)

    def loop(state, cell, z, y, gates, w, position):
        four, u = z.shape[1:]
        product, weights = z.reshape(1, four * u), w.reshape(u, four * u)
        for j in range(y.shape[0]):
            product[:] = 0
            for q in range(u):
                if position[0] + j == 0:
                    state[0, q] = cell[0, q] = 0
            add_product(product, state, weights)
            for q in range(u):
                i, f = sigmoid(gates[j, 0, q] + z[0, 0, q]), sigmoid(gates[j, 1, q] + z[0, 1, q])
                g, o = np.tanh(gates[j, 2, q] + z[0, 2, q]), sigmoid(gates[j, 3, q] + z[0, 3, q])
                gates[j, 0, q], gates[j, 1, q], gates[j, 2, q], gates[j, 3, q] = i, f, g, o
                cell[0, q] = f * cell[0, q] + i * g
                state[0, q] = o * np.tanh(cell[0, q])
                y[j, q] = state[0, q]

    return loop


lstm_continue.build_loop = _continue_loop


def _bias_values(rng, shape, fans):
    bias = np.zeros(shape)
    bias[shape[0] // 4 : shape[0] // 2] = 1
    return bias


# 0, and 1 for the forget gate.
_forgetting_bias = Initializer("forgetting", _bias_values)


@layer
class LSTM(Recurrent):
    """Long short-term memory on sequences x (rows, T, n). For each position, from h = c = 0 on,

        i, f, o = sigmoid(x w_x + h w_h + b),   g = tanh(x w_x + h w_h + b),
        c = f c + i g,   h = o tanh(c),

    with the columns of i, f, g, o, units each, in w_x (n, 4 units), w_h (units, 4 units) and b (4 units,). y is h at
    every position (rows, T, units), or the last (rows, units). As torch's LSTM, whose two biases are one here.
    Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. 2000,
    doi:10.1162/089976600300015015.

    units: int >= 1. return_sequences: whether y has every position.
    weight_init: as in `Dense`, of w_x, gate by gate. recurrent_init: of w_h, gate by gate; orthogonal matrices keep the
        length of h. b is 0 at first, and 1 for the forget gate, so that c is kept at first (Jozefowicz et al. 2015,
        ICML 37, pp. 2342-2350).

    Raises TypeError or ValueError that names the argument; `Network` raises ValueError unless rows of x are (T, n).
    """

    gates, states = 4, 2
    onnx_order: ClassVar[list[int]] = [0, 3, 1, 2]

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        fans = shape[-1], self.units
        return (
            *super().parameters(shape),
            ParameterSpec("b", (4 * self.units,), _forgetting_bias, is_weight=False, fans=fans),
        )

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        y, (t, _) = plan.row_buffer(f"a{path}", self.output_shape(plan.shape(x))), plan.shape(x)
        gates = self._add_inputs(plan, path, x)
        w = plan.reshaped_parameters(f"w_h{path}", (self.units, 4, self.units))
        if plan.past is not None:
            kept = (plan.kept(f"{name}{path}", (1, self.units)) for name in ("state", "cell"))
            z = plan.vector(f"z{path}", np.zeros((1, 4, self.units)))
            plan.add("forward", lstm_continue, *kept, z, y, gates, w, "position")
            return y
        hidden, cell = (self._by_step(plan, path, name, t) for name in ("hidden", "cell"))
        state, z = plan.row_buffer(f"state{path}", (self.units,)), plan.row_buffer(f"z{path}", (4, self.units))
        plan.add("forward", lstm_forward, self._outputs(plan, f"a{path}.steps", y), hidden, cell, state, z, gates, w)
        return y

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        (t, _), u, gates = plan.shape(x), self.units, f"gates{path}"
        dgates = plan.row_buffer(f"dgates{path}", (t, 4 * u))
        split = plan.reshaped(f"dgates{path}.split", dgates, (t, 4, u))
        dstate, dcell = (plan.row_buffer(f"{name}{path}", (u,)) for name in ("dstate", "dcell"))
        dz, dy = plan.row_buffer(f"dz{path}", (4, u)), self._outputs(plan, f"dy{path}.steps", dy)
        wt = self._add_transpose(plan, path)
        plan.add("backward", lstm_backward, split, dstate, dcell, dz, dy, f"{gates}.split", f"cell{path}", wt)
        plan.add_gradient(dense_backward_weights, f"w_h{path}", f"hidden{path}", dgates)
        return self._add_gradients(plan, path, x, dgates, is_wanted)

    def _onnx_step(self, graph, path, *values):
        _, c, gates = values
        product = graph.add("MatMul", values[0], graph.parameter(f"w_h{path}"))
        i, f, g, o = self._onnx_split(graph, graph.add("Add", gates, product))
        i, f, o = (graph.add("Sigmoid", gate) for gate in (i, f, o))
        c = graph.add("Add", graph.add("Mul", f, c), graph.add("Mul", i, graph.add("Tanh", g)))
        return graph.add("Mul", o, graph.add("Tanh", c)), c
