"""What becomes of a gradient between backpropagation and the optimizer's rule: summed up over minibatches, clipped."""

import numpy as np

from .kernel import In, InOut, Out, kernel

# Elements in a row whose squares are summed by themselves: the sum does not depend on the threads.
NORM_BLOCK = 4096
# torch.nn.utils.clip_grad_norm_ adds it to the norm.
NORM_EPS = 1e-6


@kernel
def accumulate_gradient(d: InOut("n"), g: In("n"), keep: float, weight: float):
    """d <- keep d + weight g: the mean gradient of k minibatches, with weight = 1 / k, and keep = 0 at the first of
    them, 1 at the others."""
    d *= keep
    d += weight * g


@accumulate_gradient.loop
def accumulate_gradient(d, g, keep, weight):
    keep, weight = d.dtype.type(keep), d.dtype.type(weight)
    for i in range(d.size):
        d[i] = keep * d[i] + weight * g[i]


@kernel
def sum_squares(squares: Out("rows", dtype="float64"), g: In("rows", "n")):
    """squares <- sum of the squares of each row of g, in float64."""
    np.sum(np.square(g, dtype=np.float64), axis=1, out=squares)


@sum_squares.loop
def sum_squares(squares, g):
    for i in range(g.shape[0]):
        total = 0.0
        for j in range(g.shape[1]):
            total += np.float64(g[i, j]) * np.float64(g[i, j])
        squares[i] = total


@kernel
def clip_factor(
    norm: Out("one", dtype="float64"),
    factor: Out("one", dtype="float64"),
    squares: In("rows", dtype="float64", domain="nonnegative"),
    limit: float,
):
    """norm <- sqrt(sum of squares), the Euclidean norm of all gradients;  factor <- min(1, limit / (norm + 1e-6)),
    NaN if the norm is, as torch.nn.utils.clip_grad_norm_. Pascanu et al. 2013, arXiv:1211.5063. (optax's
    clip_by_global_norm leaves the 1e-6 out.)"""
    norm[0] = np.sqrt(np.add.accumulate(squares)[-1])
    factor[0] = np.minimum(1.0, limit / (norm[0] + NORM_EPS))


@clip_factor.loop
def clip_factor(norm, factor, squares, limit):
    total = 0.0
    for i in range(squares.size):
        total += squares[i]
    norm[0] = np.sqrt(total)
    part = limit / (norm[0] + NORM_EPS)
    factor[0] = 1.0 if part > 1 else part


@kernel
def clip_gradient(d: Out("n"), g: In("n"), factor: In("one", dtype="float64"), limit: float):
    """d <- factor g, where its magnitude is above limit that with its sign."""
    np.clip(g * factor.astype(g.dtype), -limit, limit, out=d)


@clip_gradient.loop
def clip_gradient(d, g, factor, limit):
    scale, limit = d.dtype.type(factor[0]), d.dtype.type(limit)
    for i in range(d.size):
        d[i] = min(max(scale * g[i], -limit), limit)


@kernel
def average_parameters(average: InOut("n"), p: In("n"), decay: float):
    """average <- average + (1 - decay) (p - average): the exponential moving average of the parameters. Polyak &
    Juditsky 1992, doi:10.1137/0330046."""
    average += (1 - decay) * (p - average)


@average_parameters.loop
def average_parameters(average, p, decay):
    fresh = p.dtype.type(1 - decay)
    for i in range(p.size):
        average[i] += fresh * (p[i] - average[i])
