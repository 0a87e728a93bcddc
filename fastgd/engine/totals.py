"""Kernels for the total loss of a minibatch and for the penalty on the weights."""

import numpy as np

from ..core.kernel import In, InOut, Out, kernel


@kernel
def sum_loss(total: Out("one", dtype="float64"), loss: In("rows")):
    """total <- sum of loss, in float64, in the order of the rows."""
    total[0] = np.add.accumulate(loss, dtype=np.float64)[-1]


@sum_loss.loop
def sum_loss(total, loss):
    value = 0.0
    for i in range(loss.size):
        value += loss[i]
    total[0] = value


@kernel
def penalty_value(total: InOut("one", dtype="float64"), w: In("n"), l1: float, l2: float):
    """total <- total + l1 sum |w| + (l2 / 2) sum w^2, in float64."""
    w = w.astype(np.float64)
    total += l1 * np.abs(w).sum() + l2 / 2 * np.dot(w, w)


@penalty_value.loop
def penalty_value(total, w, l1, l2):
    magnitude, square = 0.0, 0.0
    for i in range(w.size):
        v = np.float64(w[i])
        magnitude += abs(v)
        square += v * v
    total[0] += l1 * magnitude + l2 / 2 * square


@kernel
def penalty_gradient(g: InOut("n"), w: In("n"), l1: float, l2: float):
    """g <- g + l1 sign(w) + l2 w."""
    g += l1 * np.sign(w) + l2 * w


@penalty_gradient.loop
def penalty_gradient(g, w, l1, l2):
    first, second = g.dtype.type(l1), g.dtype.type(l2)
    for i in range(g.size):
        g[i] += first * np.sign(w[i]) + second * w[i]
