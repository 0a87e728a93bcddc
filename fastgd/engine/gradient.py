"""Kernels between backpropagation and the optimizer's rule: accumulation and clipping of the gradient; and the moving
average of the parameters after it."""

import numpy as np

from ..core.kernel import In, InOut, Out, kernel

# Squares are summed in blocks of this many elements, so that the sum does not depend on the number of threads.
NORM_BLOCK = 4096
# Added to the norm, as torch.nn.utils.clip_grad_norm_ does.
NORM_EPS = 1e-6
# Smaller sums of squares may have lost digits, since float64 squares below 2e-308 underflow.
LEAST_SQUARES = 1e-280


@kernel
def accumulate_gradient(d: InOut("n"), g: In("n"), keep: float, weight: float):
    """d <- keep d + weight g. With weight = 1 / k, and keep = 0 for the first of k minibatches and 1 for the others, d
    becomes their mean gradient."""
    d *= keep
    d += weight * g


@accumulate_gradient.loop
def accumulate_gradient(d, g, keep, weight):
    keep, weight = d.dtype.type(keep), d.dtype.type(weight)
    for i in range(d.size):
        d[i] = keep * d[i] + weight * g[i]


@kernel
def sum_squares(squares: Out("rows", dtype="float64"), scales: Out("rows", dtype="float64"), g: In("rows", "n")):
    """squares <- sum of (g / scale)^2 over each row of g, in float64; scales <- the scale of each row: 1, or the row's
    largest magnitude where the squares of g would overflow or underflow."""
    np.sum(np.square(g, dtype=np.float64), axis=1, out=squares)
    scales.fill(1.0)
    for i in np.flatnonzero(~((squares >= LEAST_SQUARES) & (squares < np.inf))):
        largest = np.abs(g[i]).max()
        if 0 < largest < np.inf:
            scales[i] = largest
            squares[i] = np.sum(np.square(g[i] / scales[i]))


@sum_squares.loop
def sum_squares(squares, scales, g):
    for i in range(g.shape[0]):
        total, scale = 0.0, 1.0
        for j in range(g.shape[1]):
            total += np.float64(g[i, j]) * np.float64(g[i, j])
        if not LEAST_SQUARES <= total < np.inf:
            largest = 0.0
            for j in range(g.shape[1]):
                v = np.float64(abs(g[i, j]))
                largest = v if v > largest or v != v else largest
            if 0 < largest < np.inf:
                total, scale = 0.0, largest
                for j in range(g.shape[1]):
                    v = g[i, j] / scale
                    total += v * v
        squares[i], scales[i] = total, scale


@kernel
def clip_factor(
    norm: Out("one", dtype="float64"),
    factor: Out("one", dtype="float64"),
    scale: Out("one", dtype="float64"),
    squares: In("rows", dtype="float64", domain="nonnegative"),
    scales: In("rows", dtype="float64", domain="nonnegative"),
    limit: float,
):
    """norm <- sqrt(sum of squares scales^2), the Euclidean norm of all gradients; factor and scale so that
    factor / scale = min(1, limit / (norm + 1e-6)), NaN if the norm is NaN, as in torch.nn.utils.clip_grad_norm_.
    (optax's clip_by_global_norm has no 1e-6.) scale is 1 if nothing is clipped, else the largest of the scales, which
    avoids overflow and underflow. Pascanu et al. 2013, arXiv:1211.5063."""
    used = squares != 0
    scale[0] = scales[used].max() if used.any() else 1.0
    root = np.sqrt(np.add.accumulate(squares * np.square(scales / scale[0]))[-1])
    norm[0] = scale[0] * root
    factor[0] = limit / (root + NORM_EPS / scale[0])
    if factor[0] > scale[0]:
        factor[0] = scale[0] = 1.0


@clip_factor.loop
def clip_factor(norm, factor, scale, squares, scales, limit):
    largest, total = 0.0, 0.0
    for i in range(squares.size):
        if squares[i] != 0:
            largest = max(largest, scales[i])
    largest = largest if largest > 0 else 1.0
    for i in range(squares.size):
        part = scales[i] / largest
        total += squares[i] * (part * part)
    root = np.sqrt(total)
    norm[0] = largest * root
    part = limit / (root + NORM_EPS / largest)
    factor[0] = 1.0 if part > largest else part
    scale[0] = 1.0 if part > largest else largest


@kernel
def clip_gradient(
    d: Out("n"), g: In("n"), factor: In("one", dtype="float64"), scale: In("one", dtype="float64"), limit: float
):
    """d <- factor g / scale, clipped to [-limit, limit]. Computed in float64 if factor is below the smallest normal
    number of g's precision, as it is for a float32 gradient near 3e38."""
    np.clip(factor * (g.astype(np.float64) / scale), -limit, limit, out=d)


def _clip_loop(jit, dtype):
    """The loop for Numba."""
    least = float(np.finfo(dtype).tiny)

    def loop(d, g, factor, scale, limit):
        small = d.dtype.type(factor[0])
        if scale[0] != 1 or abs(small) < least:
            for i in range(d.size):
                d[i] = min(max(factor[0] * (np.float64(g[i]) / scale[0]), -limit), limit)
        else:
            limit = d.dtype.type(limit)
            for i in range(d.size):
                d[i] = min(max(small * g[i], -limit), limit)

    return loop


clip_gradient.build_loop = _clip_loop


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
