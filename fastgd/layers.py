"""Layers: shapes, initial values, and the kernels of the forward and backward pass."""

import numpy as np

from .activations import ACTIVATIONS, Activation
from .choice import pick
from .errors import check_integer
from .initializers import pick_initializer
from .kernel import In, Out, kernel

# What the Numba bodies of the matrix products keep in the first cache: terms of the sums x columns.
BLOCK_TERMS, BLOCK_COLUMNS = 32, 256


@kernel
def dense_forward(y: Out("rows", "n_out"), x: In("rows", "n_in"), w: In("n_in", "n_out"), b: In("n_out")):
    """y <- x w + b."""
    np.matmul(x, w, out=y)
    y += b


@dense_forward.loop
def dense_forward(y, x, w, b):
    # Blocks of w that stay in the first cache while all rows pass; two rows and four terms of their sums at a time.
    # Views from 0 on: of an index that might be negative Numba makes no vectors.
    rows, n_in, n_out = x.shape[0], w.shape[0], w.shape[1]
    for i in range(rows):
        for j in range(n_out):
            y[i, j] = b[j]
    for start in range(0, n_in, BLOCK_TERMS):
        end = min(start + BLOCK_TERMS, n_in)
        whole = start + (end - start) // 4 * 4
        for left in range(0, n_out, BLOCK_COLUMNS):
            right = min(left + BLOCK_COLUMNS, n_out)
            for i in range(0, rows - 1, 2):
                y0, y1 = y[i, left:right], y[i + 1, left:right]
                for p in range(start, whole, 4):
                    w0, w1, w2, w3 = w[p, left:right], w[p + 1, left:right], w[p + 2, left:right], w[p + 3, left:right]
                    s0, s1, s2, s3 = x[i, p], x[i, p + 1], x[i, p + 2], x[i, p + 3]
                    t0, t1, t2, t3 = x[i + 1, p], x[i + 1, p + 1], x[i + 1, p + 2], x[i + 1, p + 3]
                    for j in range(right - left):
                        y0[j] = (((y0[j] + s0 * w0[j]) + s1 * w1[j]) + s2 * w2[j]) + s3 * w3[j]
                        y1[j] = (((y1[j] + t0 * w0[j]) + t1 * w1[j]) + t2 * w2[j]) + t3 * w3[j]
                for p in range(whole, end):
                    w0, s0, t0 = w[p, left:right], x[i, p], x[i + 1, p]
                    for j in range(right - left):
                        y0[j] += s0 * w0[j]
                        y1[j] += t0 * w0[j]
            if rows % 2:
                y0 = y[rows - 1, left:right]
                for p in range(start, end):
                    w0, s0 = w[p, left:right], x[rows - 1, p]
                    for j in range(right - left):
                        y0[j] += s0 * w0[j]


@kernel
def dense_backward_input(dx: Out("rows", "n_in"), dy: In("rows", "n_out"), w: In("n_in", "n_out")):
    """dx <- dy w^T."""
    np.matmul(dy, w.T, out=dx)


@dense_backward_input.loop
def dense_backward_input(dx, dy, w):
    # As dense_forward, on blocks of w that are transposed.
    rows, n_in, n_out = dx.shape[0], w.shape[0], w.shape[1]
    block = np.empty((BLOCK_TERMS, BLOCK_COLUMNS), w.dtype)
    for i in range(rows):
        for p in range(n_in):
            dx[i, p] = 0
    for start in range(0, n_out, BLOCK_TERMS):
        terms = min(BLOCK_TERMS, n_out - start)
        whole = terms // 4 * 4
        for left in range(0, n_in, BLOCK_COLUMNS):
            columns = min(BLOCK_COLUMNS, n_in - left)
            for p in range(columns):
                for j in range(terms):
                    block[j, p] = w[left + p, start + j]
            for i in range(0, rows - 1, 2):
                x0, x1 = dx[i, left : left + columns], dx[i + 1, left : left + columns]
                for j in range(0, whole, 4):
                    w0, w1, w2, w3 = block[j], block[j + 1], block[j + 2], block[j + 3]
                    k = start + j
                    s0, s1, s2, s3 = dy[i, k], dy[i, k + 1], dy[i, k + 2], dy[i, k + 3]
                    t0, t1, t2, t3 = dy[i + 1, k], dy[i + 1, k + 1], dy[i + 1, k + 2], dy[i + 1, k + 3]
                    for p in range(columns):
                        x0[p] = (((x0[p] + s0 * w0[p]) + s1 * w1[p]) + s2 * w2[p]) + s3 * w3[p]
                        x1[p] = (((x1[p] + t0 * w0[p]) + t1 * w1[p]) + t2 * w2[p]) + t3 * w3[p]
                for j in range(whole, terms):
                    w0, s0, t0 = block[j], dy[i, start + j], dy[i + 1, start + j]
                    for p in range(columns):
                        x0[p] += s0 * w0[p]
                        x1[p] += t0 * w0[p]
            if rows % 2:
                x0 = dx[rows - 1, left : left + columns]
                for j in range(terms):
                    w0, s0 = block[j], dy[rows - 1, start + j]
                    for p in range(columns):
                        x0[p] += s0 * w0[p]


@kernel
def dense_backward_weights(dw: Out("n_in", "n_out"), x: In("rows", "n_in"), dy: In("rows", "n_out")):
    """dw <- x^T dy."""
    np.matmul(x.T, dy, out=dw)


@dense_backward_weights.loop
def dense_backward_weights(dw, x, dy):
    # As dense_forward, with the rows of the minibatch as terms.
    rows, n_in, n_out = x.shape[0], dw.shape[0], dw.shape[1]
    for p in range(n_in):
        for j in range(n_out):
            dw[p, j] = 0
    for start in range(0, rows, BLOCK_TERMS):
        end = min(start + BLOCK_TERMS, rows)
        whole = start + (end - start) // 4 * 4
        for left in range(0, n_out, BLOCK_COLUMNS):
            right = min(left + BLOCK_COLUMNS, n_out)
            for p in range(0, n_in - 1, 2):
                w0, w1 = dw[p, left:right], dw[p + 1, left:right]
                for i in range(start, whole, 4):
                    d0, d1, d2, d3 = (
                        dy[i, left:right], dy[i + 1, left:right], dy[i + 2, left:right], dy[i + 3, left:right]
                    )  # fmt: skip
                    s0, s1, s2, s3 = x[i, p], x[i + 1, p], x[i + 2, p], x[i + 3, p]
                    t0, t1, t2, t3 = x[i, p + 1], x[i + 1, p + 1], x[i + 2, p + 1], x[i + 3, p + 1]
                    for j in range(right - left):
                        w0[j] = (((w0[j] + s0 * d0[j]) + s1 * d1[j]) + s2 * d2[j]) + s3 * d3[j]
                        w1[j] = (((w1[j] + t0 * d0[j]) + t1 * d1[j]) + t2 * d2[j]) + t3 * d3[j]
                for i in range(whole, end):
                    d0, s0, t0 = dy[i, left:right], x[i, p], x[i, p + 1]
                    for j in range(right - left):
                        w0[j] += s0 * d0[j]
                        w1[j] += t0 * d0[j]
            if n_in % 2:
                w0 = dw[n_in - 1, left:right]
                for i in range(start, end):
                    d0, s0 = dy[i, left:right], x[i, n_in - 1]
                    for j in range(right - left):
                        w0[j] += s0 * d0[j]


@kernel
def dense_backward_bias(db: Out("n_out"), dy: In("rows", "n_out")):
    """db <- sum of dy over the rows."""
    np.sum(dy, axis=0, out=db)


@dense_backward_bias.loop
def dense_backward_bias(db, dy):
    for j in range(db.size):
        db[j] = 0
    for i in range(dy.shape[0]):
        for j in range(db.size):
            db[j] += dy[i, j]


class Dense:
    """A fully connected layer: y = activation(x w + b), x (rows, n_in), w (n_in, units), b (units,).

    units: int >= 1, the number of outputs.
    activation: a name ("relu", "tanh", ...: `fastgd.activations.ACTIVATIONS`) or an `Activation`.
    weight_init, bias_init: a name ("glorot_uniform", ...: `fastgd.initializers.INITIALIZERS`), an `Initializer`, or an
        array of the shape of w or b.

    Raises TypeError or ValueError that names the argument.
    """

    def __init__(self, units, activation="identity", *, weight_init="glorot_uniform", bias_init="zeros"):
        self.units = check_integer("units", units, 1)
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)
        self.weight_init = pick_initializer("weight_init", weight_init)
        self.bias_init = pick_initializer("bias_init", bias_init)

    def output_size(self, n_in):
        return self.units

    def parameters(self, n_in):
        """Name, shape, initializer and whether the penalty applies, of every parameter array."""
        return (
            ("w", (n_in, self.units), self.weight_init, True),
            ("b", (self.units,), self.bias_init, False),
        )

    def forward(self, plan, i, x):
        """Writes the forward pass of this layer, the i-th, down in the plan; returns the name of its output."""
        act, scalars = self.activation, self.activation.parameters.values()
        y = plan.row_buffer(f"a{i}", self.units)
        if act.forward is None:
            plan.add("forward", dense_forward, y, x, f"w{i}", f"b{i}")
        elif act.keeps == "output":
            plan.add("forward", dense_forward, y, x, f"w{i}", f"b{i}")
            plan.add("forward", act.forward, y, y, *scalars)
        else:
            z = plan.row_buffer(f"z{i}", self.units)
            plan.add("forward", dense_forward, z, x, f"w{i}", f"b{i}")
            plan.add("forward", act.forward, y, z, *scalars)
        return y

    def backward(self, plan, i, x, dy, dx):
        """Writes the backward pass down: dy is consumed; dx is written unless it is None."""
        act = self.activation
        if act.backward is not None:
            kept = f"a{i}" if act.keeps == "output" else f"z{i}"
            plan.add("backward", act.backward, dy, kept, *act.parameters.values())
        if dx is not None:
            plan.add("backward", dense_backward_input, dx, dy, f"w{i}")
        plan.add("parameters", dense_backward_weights, f"dw{i}", x, dy)
        plan.add("parameters", dense_backward_bias, f"db{i}", dy)
        plan.add_outer_product(f"b{i}", f"w{i}", x, dy)

    def config(self):
        """What a file needs to make this layer again; the initializers have done their work."""
        return {"layer": "Dense", "units": self.units, "activation": self.activation.config()}

    @classmethod
    def from_config(cls, config):
        activation = dict(config["activation"])
        return cls(config["units"], pick("activation", activation.pop("name"), ACTIVATIONS, Activation)(**activation))

    def __repr__(self):
        return f"Dense({self.units}, {self.activation!r})"


LAYERS = {"Dense": Dense}
