"""Normalization: layers that give each row, or each column of a minibatch, mean 0 and variance 1; and their kernels.

Both compute x' = (x - mean) / sqrt(variance + eps) and y = gamma x' + beta, where the variance is divided by the number
of elements. `normal` is x', `inverse` is 1 / sqrt(variance + eps). Sums are in float64, or in blocks whose sums are
added in float64.

Over 400 lines: two layers share parameters, kernels and the backward pass."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..activations import Activation
from ..core.kernel import In, Out, kernel
from ..core.types import Shape
from ..engine.gradient import average_parameters
from ..errors import check_flag, check_number
from ..initializers import ones, zeros
from .base import ActivatedLayer, ParameterSpec, layer
from .dense import dense_backward_bias
from .normalization_of_images import (
    image_moments,
    image_norm_backward,
    image_norm_forward,
    image_norm_sums,
    image_norm_total,
    image_statistics,
)

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@kernel
def layer_norm_forward(
    y: Out("rows", "n"),
    normal: Out("rows", "n"),
    inverse: Out("rows"),
    x: In("rows", "n"),
    gamma: In("n"),
    beta: In("n"),
    eps: float,
):
    """normal <- (x - mean) inverse, inverse <- 1 / sqrt(variance + eps), with mean and variance of each row, NaN if the
    variance overflows; y <- gamma normal + beta. Ba et al. 2016, arXiv:1607.06450."""
    np.subtract(x, x.mean(axis=1, dtype=np.float64, keepdims=True).astype(x.dtype), out=normal)
    variance = (normal * normal).mean(axis=1, dtype=np.float64).astype(x.dtype)
    np.copyto(inverse, np.where(np.isfinite(variance), 1 / np.sqrt(variance + x.dtype.type(eps)), np.nan))
    normal *= inverse[:, None]
    np.multiply(normal, gamma, out=y)
    y += beta


@layer_norm_forward.loop
def layer_norm_forward(y, normal, inverse, x, gamma, beta, eps):
    n = x.shape[1]
    for i in range(x.shape[0]):
        total, squares = 0.0, 0.0
        for j in range(n):
            total += x[i, j]
        mean = x.dtype.type(total / n)
        for j in range(n):
            squares += (x[i, j] - mean) * (x[i, j] - mean)
        variance = x.dtype.type(squares / n)
        inverse[i] = 1 / np.sqrt(variance + x.dtype.type(eps)) if variance < np.inf else np.nan
        for j in range(n):
            normal[i, j] = (x[i, j] - mean) * inverse[i]
            y[i, j] = normal[i, j] * gamma[j] + beta[j]


@kernel
def layer_norm_backward(
    dx: Out("rows", "n"), dy: In("rows", "n"), normal: In("rows", "n"), inverse: In("rows"), gamma: In("n")
):
    """dx <- inverse (d - mean(d) - normal mean(d normal)), d = gamma dy, with means over each row."""
    d = dy * gamma
    mean, part = (t.mean(axis=1, dtype=np.float64, keepdims=True).astype(dy.dtype) for t in (d, d * normal))
    np.subtract(d, mean, out=dx)
    dx -= normal * part
    dx *= inverse[:, None]


@layer_norm_backward.loop
def layer_norm_backward(dx, dy, normal, inverse, gamma):
    n = dy.shape[1]
    for i in range(dy.shape[0]):
        total, products = 0.0, 0.0
        for j in range(n):
            d = dy[i, j] * gamma[j]
            total += d
            products += d * normal[i, j]
        mean, part = dy.dtype.type(total / n), dy.dtype.type(products / n)
        for j in range(n):
            dx[i, j] = inverse[i] * (dy[i, j] * gamma[j] - mean - normal[i, j] * part)


@kernel
def normalization_backward_gamma(dgamma: Out("n"), dy: In("rows", "n"), normal: In("rows", "n")):
    """dgamma <- sum of dy normal over the rows."""
    dgamma[...] = np.sum(dy * normal, axis=0, dtype=np.float64)


@normalization_backward_gamma.loop
def normalization_backward_gamma(dgamma, dy, normal):
    total = np.zeros(dgamma.size)
    for i in range(dy.shape[0]):
        for j in range(dgamma.size):
            total[j] += dy[i, j] * normal[i, j]
    for j in range(dgamma.size):
        dgamma[j] = total[j]


@kernel
def batch_statistics(
    mean: Out("n"), inverse: Out("n"), unbiased: Out("n"), x: In("rows", "n"), running: In("n"), eps: float
):
    """mean <- mean of each column of x; inverse <- 1 / sqrt(variance + eps), NaN if the variance overflows, so that the
    step is not made; unbiased <- rows / (rows - 1) variance, or `running` for a single row, which has no variance. Sums
    are in float64, for columns far from 0 and many rows."""
    rows = x.shape[0]
    exact = x.mean(axis=0, dtype=np.float64)
    variance = np.square(x - exact).mean(axis=0)
    mean[...] = exact
    unbiased[...] = running if rows == 1 else variance * (rows / (rows - 1))
    inverse[...] = np.where(np.isfinite(unbiased), 1 / np.sqrt(variance + eps), np.nan)


@batch_statistics.loop
def batch_statistics(mean, inverse, unbiased, x, running, eps):
    rows, n = x.shape
    exact, squares = np.zeros(n), np.zeros(n)
    for i in range(rows):
        for j in range(n):
            exact[j] += x[i, j]
    exact /= rows
    for i in range(rows):
        for j in range(n):
            squares[j] += (x[i, j] - exact[j]) * (x[i, j] - exact[j])
    for j in range(n):
        mean[j] = exact[j]
        unbiased[j] = running[j] if rows == 1 else squares[j] / (rows - 1)
        inverse[j] = 1 / np.sqrt(squares[j] / rows + eps) if unbiased[j] < np.inf else np.nan


@kernel
def inverse_deviation(inverse: Out("n"), variance: In("n", domain="nonnegative"), eps: float):
    """inverse <- 1 / sqrt(variance + eps)."""
    np.copyto(inverse, 1 / np.sqrt(variance + variance.dtype.type(eps)))


@inverse_deviation.loop
def inverse_deviation(inverse, variance, eps):
    for j in range(inverse.size):
        inverse[j] = 1 / np.sqrt(variance[j] + variance.dtype.type(eps))


@kernel
def batch_norm_forward(
    y: Out("rows", "n"),
    normal: Out("rows", "n"),
    x: In("rows", "n"),
    mean: In("n"),
    inverse: In("n"),
    gamma: In("n"),
    beta: In("n"),
):
    """normal <- (x - mean) inverse, y <- gamma normal + beta, with mean and inverse of each column. Ioffe & Szegedy
    2015, arXiv:1502.03167."""
    np.subtract(x, mean, out=normal)
    normal *= inverse
    np.multiply(normal, gamma, out=y)
    y += beta


@batch_norm_forward.loop
def batch_norm_forward(y, normal, x, mean, inverse, gamma, beta):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            normal[i, j] = (x[i, j] - mean[j]) * inverse[j]
            y[i, j] = normal[i, j] * gamma[j] + beta[j]


@kernel
def batch_norm_means(mean: Out("n"), part: Out("n"), dy: In("rows", "n"), normal: In("rows", "n")):
    """mean <- mean of each column of dy; part <- mean of each column of dy normal."""
    mean[...] = np.mean(dy, axis=0, dtype=np.float64)
    part[...] = np.mean(dy * normal, axis=0, dtype=np.float64)


@batch_norm_means.loop
def batch_norm_means(mean, part, dy, normal):
    total, products = np.zeros(mean.size), np.zeros(mean.size)
    for i in range(dy.shape[0]):
        for j in range(mean.size):
            total[j] += dy[i, j]
            products[j] += dy[i, j] * normal[i, j]
    for j in range(mean.size):
        mean[j] = total[j] / dy.shape[0]
        part[j] = products[j] / dy.shape[0]


@kernel
def batch_norm_backward(
    dx: Out("rows", "n"),
    dy: In("rows", "n"),
    normal: In("rows", "n"),
    inverse: In("n"),
    gamma: In("n"),
    mean: In("n"),
    part: In("n"),
):
    """dx <- gamma inverse (dy - mean - normal part). With the means of `batch_norm_means` this is the gradient for
    statistics of the minibatch; with zeros, for constant statistics."""
    np.multiply(normal, part, out=dx)
    np.subtract(dy - mean, dx, out=dx)
    dx *= gamma * inverse


@batch_norm_backward.loop
def batch_norm_backward(dx, dy, normal, inverse, gamma, mean, part):
    for i in range(dx.shape[0]):
        for j in range(dx.shape[1]):
            dx[i, j] = gamma[j] * inverse[j] * (dy[i, j] - mean[j] - normal[i, j] * part[j])


def means_of_ranks(counts, own, *means):
    """Means over the values of all ranks, given those of each."""
    return [counts @ of_ranks / counts.sum() for of_ranks in means]


def sums_of_ranks(counts, own, *sums):
    """Sums over the values of a rank if their mean were that of all ranks."""
    return [of_ranks.sum(axis=0) * (own / counts.sum()) for of_ranks in sums]


class Normalization(ActivatedLayer):
    """Base class of `LayerNorm` and `BatchNorm`: parameters gamma (n,), initially 1, and beta (n,), initially 0,
    without penalty."""

    _internal = ActivatedLayer._internal | {"backward_input"}

    is_causal = True

    def __init__(self, activation: str | Activation, eps: float) -> None:
        super().__init__(activation)
        self.eps = check_number("eps", eps, 0.0, low_open=True)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        n = shape[-1]
        return (
            ParameterSpec("gamma", (n,), ones, is_weight=False, fans=(n, n)),
            ParameterSpec("beta", (n,), zeros, is_weight=False, fans=(n, n)),
        )

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        shape = plan.shape(x)
        dy = self.activate_backward(plan, path, dy)
        terms = math.prod(shape[:-1])
        plan.add_gradient(normalization_backward_gamma, f"gamma{path}", dy, f"normal{path}", terms=terms)
        plan.add_gradient(dense_backward_bias, f"beta{path}", dy, terms=terms)
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", shape)
        self.backward_input(plan, path, dx, dy)
        return dx

    def backward_input(self, plan: "Plan", path: str, dx: str, dy: str) -> None:
        """Adds the operations that compute dx from dy."""
        raise NotImplementedError


@layer
class LayerNorm(Normalization):
    """A layer that gives each row, or each position of a row, mean 0 and variance 1, then scales and shifts its
    columns: y = activation(gamma (x - mean) / sqrt(variance + eps) + beta), as torch's LayerNorm. Ba et al. 2016,
    arXiv:1607.06450.

    x, y (rows, ..., n); mean, variance (rows, ...), each over n columns; gamma, beta (n,), initially 1 and 0.

    activation: as in `Dense`. eps: > 0. Raises TypeError or ValueError that names the argument.
    """

    def __init__(self, activation: str | Activation = "identity", *, eps: float = 1e-5) -> None:
        super().__init__(activation, eps)

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape = plan.shape(x)
        z, normal = self.row_buffer_of_z(plan, path, shape), plan.row_buffer(f"normal{path}", shape)
        inverse = plan.row_buffer(f"inverse{path}", shape[:-1])
        plan.add("forward", layer_norm_forward, z, normal, inverse, x, f"gamma{path}", f"beta{path}", self.eps)
        return self.activate(plan, path, z)

    def backward_input(self, plan: "Plan", path: str, dx: str, dy: str) -> None:
        plan.add("backward", layer_norm_backward, dx, dy, f"normal{path}", f"inverse{path}", f"gamma{path}")

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        apart = graph.add("Sub", x, graph.add("ReduceMean", x, axes=[-1]))
        variance = graph.add("ReduceMean", graph.add("Mul", apart, apart), axes=[-1])
        normal = graph.add("Div", apart, graph.add("Sqrt", graph.add("Add", variance, self.eps)))
        z = graph.add("Add", graph.add("Mul", normal, graph.parameter(f"gamma{path}")), graph.parameter(f"beta{path}"))
        return self.activate_onnx(graph, z)

    def config(self) -> dict[str, Any]:
        return {"layer": "LayerNorm", "activation": self.activation.config(), "eps": self.eps}

    def __repr__(self) -> str:
        return f"LayerNorm({self.activation!r}, eps={self.eps})"


@layer
class BatchNorm(Normalization):
    """A layer that gives each column of a minibatch, over all rows and positions, mean 0 and variance 1, then scales
    and shifts it: y = activation(gamma (x - mean) / sqrt(variance + eps) + beta), as torch's BatchNorm1d. Ioffe &
    Szegedy 2015, arXiv:1502.03167.

    x, y (rows, ..., n); gamma, beta (n,), initially 1 and 0; mean, variance (n,), of the minibatch, and the running
    ones, initially 0 and 1.

    Evaluation (`predict`, `loss`, validation) uses running statistics. Each training step moves them towards those of
    the minibatch: running <- (1 - momentum) running + momentum new, with the variance divided by rows - 1. They are
    `network.statistics`, saved and restored with the parameters.

    activation: as in `Dense`. eps: > 0. momentum: in (0, 1].
    sync: where several ranks share a minibatch (see `fastgd.distributed`), False takes the statistics of each rank's
        rows for these; True takes those of all rows, for two small messages a layer and step, as torch's SyncBatchNorm.

    On images (rows, h, w, c) these are mean and variance of each channel, as torch's BatchNorm2d.

    A minibatch of one row gives y = activation(beta) and does not change the running variance; `fit` refuses
    batch_size=1 for rows that are vectors.

    Raises TypeError or ValueError that names the argument.
    """

    in_blocks = None  # as its input

    def __init__(
        self, activation: str | Activation = "identity", *, eps: float = 1e-5, momentum: float = 0.1, sync: bool = False
    ) -> None:
        super().__init__(activation, eps)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0, low_open=True)
        self.sync = check_flag("sync", sync)

    def statistics(self, shape: Shape) -> tuple[tuple[str, Shape, float], ...]:
        return (("mean", shape[-1:], 0.0), ("variance", shape[-1:], 1.0))

    def least_rows(self, shape: Shape) -> int:
        return 2 if math.prod(shape[:-1]) == 1 else 1

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape, in_blocks = plan.shape(x), plan.is_in_blocks(x)
        z = self.row_buffer_of_z(plan, path, shape, in_blocks=in_blocks)
        inverse = plan.vector(f"inverse{path}", np.ones(shape[-1]))
        mean = self._add_statistics(plan, path, x, inverse)
        arrays = mean, inverse, f"gamma{path}", f"beta{path}"
        if in_blocks:
            plan.add("forward", image_norm_forward, z, x, *arrays, self.least)
            return z if self.is_relu else self.activate(plan, path, z)
        plan.add("forward", batch_norm_forward, z, plan.row_buffer(f"normal{path}", shape), x, *arrays)
        return self.activate(plan, path, z)

    def _add_statistics(self, plan, path, x, inverse):
        """Adds the operations that compute mean and inverse; returns the name of the mean."""
        if not plan.training:
            plan.add("forward", inverse_deviation, inverse, f"variance{path}", self.eps)
            return f"mean{path}"
        shape = plan.shape(x)
        n, pixels = shape[-1], math.prod(shape[:-1])
        mean, unbiased = (plan.vector(f"minibatch.{name}{path}", np.zeros(n)) for name in ("mean", "unbiased"))
        arrays = mean, inverse, unbiased
        if plan.is_in_blocks(x):
            names = [f"image.{name}{path}" for name in ("mean", "rest", "variance")]
            moments = [plan.row_buffer(name, (n,), in_blocks=True) for name in names]
            plan.add("forward", image_moments, *moments, x)
            plan.add("forward", image_statistics, *arrays, *moments, "row", f"variance{path}", self.eps, pixels)
        else:
            plan.add("forward", batch_statistics, *arrays, x, f"variance{path}", self.eps)
        if self.sync:
            plan.combine_over_ranks("forward", self._statistics_of_ranks, arrays, pixels)
        plan.add("track", average_parameters, f"mean{path}", mean, 1 - self.momentum)
        plan.add("track", average_parameters, f"variance{path}", unbiased, 1 - self.momentum)
        return mean

    def _statistics_of_ranks(self, counts, own, means, inverses, variances):
        """What `batch_statistics` gives for the values of all ranks: see `Plan.combine_over_ranks`."""
        number, counts = counts.sum(), counts[:, None]
        mean = (counts * means).sum(axis=0) / number
        apart = means - mean
        # The variance of a single value, which it does not have, is left out.
        squares = np.where(counts > 1, (counts - 1) * variances, 0) + counts * apart * apart
        variance = squares.sum(axis=0) / number
        unbiased = variances[counts.argmax()] if number == 1 else variance * (number / (number - 1))
        return mean, np.where(np.isfinite(unbiased), 1 / np.sqrt(variance + self.eps), np.nan), unbiased

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        if not plan.is_in_blocks(x):
            return super().backward(plan, path, x, dy, is_wanted)
        if not self.is_relu:
            dy = self.activate_backward(plan, path, dy)
        shape, mean = plan.shape(x), f"minibatch.mean{path}" if plan.training else f"mean{path}"
        n, terms = shape[-1], math.prod(shape[:-1])
        arrays = x, mean, f"inverse{path}", f"gamma{path}", f"beta{path}"
        sums = [plan.row_buffer(f"image.{name}{path}", (n,), in_blocks=True) for name in ("sum", "product")]
        plan.add("backward", image_norm_sums, *sums, dy, *arrays, self.least)
        totals = [f"dbeta{path}", f"dgamma{path}"]
        for name, of_images in zip(("beta", "gamma"), sums, strict=True):
            plan.add_gradient(image_norm_total, f"{name}{path}", of_images, terms=terms)
        if not is_wanted:
            return None
        if not plan.training:
            totals = 2 * [plan.vector(f"zero{path}", np.zeros(n))]
        elif self.sync:  # the gradients are sums over the rank's rows alone
            totals = [plan.vector(f"{name}.of.ranks{path}", np.zeros(n)) for name in ("total", "product")]
            for total, of_images in zip(totals, sums, strict=True):
                plan.add("backward", image_norm_total, total, of_images)
            plan.combine_over_ranks("backward", sums_of_ranks, totals, math.prod(shape[:-1]))
        dx = plan.row_buffer(f"dx{path}", shape, in_blocks=True)
        plan.add("backward", image_norm_backward, dx, dy, *arrays, *totals, "row", self.least)
        return dx

    def backward_input(self, plan: "Plan", path: str, dx: str, dy: str) -> None:
        n = plan.shape(dy)[-1]
        mean, part = (plan.vector(f"d{name}{path}", np.zeros(n)) for name in ("mean", "part"))
        if plan.training:
            plan.add("backward", batch_norm_means, mean, part, dy, f"normal{path}")
            if self.sync:
                plan.combine_over_ranks("backward", means_of_ranks, (mean, part), math.prod(plan.shape(dy)[:-1]))
        arrays = f"normal{path}", f"inverse{path}", f"gamma{path}", mean, part
        plan.add("backward", batch_norm_backward, dx, dy, *arrays)

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        # Not BatchNormalization, whose eps is a float32.
        mean, variance = (graph.statistics[f"{name}{path}"] for name in ("mean", "variance"))
        inverse = 1 / np.sqrt(variance + variance.dtype.type(self.eps))
        normal = graph.add("Mul", graph.add("Sub", x, mean), inverse)
        z = graph.add("Add", graph.add("Mul", normal, graph.parameter(f"gamma{path}")), graph.parameter(f"beta{path}"))
        return self.activate_onnx(graph, z)

    def config(self) -> dict[str, Any]:
        activation = self.activation.config()
        options = {"eps": self.eps, "momentum": self.momentum, "sync": self.sync}
        return {"layer": "BatchNorm", "activation": activation, **options}

    def __repr__(self) -> str:
        return f"BatchNorm({self.activation!r}, eps={self.eps}, momentum={self.momentum}, sync={self.sync})"
