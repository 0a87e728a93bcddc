"""What becomes of a gradient between backpropagation and the optimizer's rule: summed up over minibatches, clipped."""

import numpy as np

from ..core.kernel import In, InOut, Out, kernel

# Elements in a row whose squares are summed by themselves: the sum does not depend on the threads.
NORM_BLOCK = 4096
# torch.nn.utils.clip_grad_norm_ adds it to the norm.
NORM_EPS = 1e-6
# A sum of squares below it has lost digits: squares of float64 smaller than 2e-308 vanish.
LEAST_SQUARES = 1e-280


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
def sum_squares(squares: Out("rows", dtype="float64"), scales: Out("rows", dtype="float64"), g: In("rows", "n")):
    """squares <- sum of the squares of each row of g / scale, in float64; scales <- the scale of each row: 1, or the
    largest magnitude in the row where the squares of the numbers themselves would overflow or vanish."""
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
    """norm <- sqrt(sum of squares scales^2), the Euclidean norm of all gradients;  factor / scale is
    min(1, limit / (norm + 1e-6)), NaN if the norm is, as torch.nn.utils.clip_grad_norm_. Pascanu et al. 2013,
    arXiv:1211.5063. (optax's clip_by_global_norm leaves the 1e-6 out.) scale is the largest of the scales, so that
    neither overflows, nor do numbers vanish, or 1 where the gradient is short enough."""
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
    """d <- factor g / scale, where its magnitude is above limit that with its sign. In float64 where the factor is too
    small for the precision of g, which a gradient of 3e38 in float32 makes it."""
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
