"""Activation functions: forward and backward kernels, and the table by name.

Forward is `y <- f(x)`. Backward multiplies a gradient by the derivative in place, `dy <- dy f'`. The derivative is
computed from the output y if possible; forward then works in place. Otherwise forward replaces x by the slope f'(x),
and y and x must be different arrays.

ONNX nodes (`@name.onnx`) use only operators of onnxruntime. It has LeakyRelu, Elu, Softplus and Erf only in float32, so
in float64 these are composed of other operators.

Over 400 lines: all activations, each with its loops and its node."""

import dataclasses
import math
from typing import Literal

import numpy as np

from .core.choice import AT_LEAST_ZERO, POSITIVE, Choice
from .core.kernel import In, InOut, Kernel, Out, kernel
from .core.types import Array

__all__ = [
    "Activation", "elu", "gelu", "gelu_tanh", "identity", "leaky_relu", "relu", "sigmoid",
    "silu", "softplus", "tanh",
]  # fmt: skip

SQRT_HALF = 0.5**0.5
SQRT_2_OVER_PI = (2 / math.pi) ** 0.5
INV_SQRT_2PI = 1 / (2 * math.pi) ** 0.5
GELU_CUBIC = 0.044715
GELU_FLAT = 100.0  # for |x| beyond it the slope of gelu is 0 or 1
ERF_FITTED, ERF_DEGREE = 6.0, 18  # erf rounds to 1 beyond 6 in float64; degree of the polynomial, whose error is 3e-15

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, elementwise, which numpy lacks."""
    return np.asarray(_erf(x), x.dtype)


def sigmoid_of(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    s: Array = np.where(x >= 0, 1, e) / (1 + e)
    return s


@kernel(elementwise=True)
def relu_forward(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- max(x, 0). NaN stays NaN. Nair & Hinton 2010, ICML 27, pp. 807-814."""
    np.maximum(x, 0, out=y)


@relu_forward.loop
def relu_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            y[i, j] = 0 if v < 0 else v


@relu_forward.onnx
def relu_forward(graph, x):
    return graph.add("Relu", x)


@kernel(elementwise=True)
def relu_backward(dy: InOut("rows", "n"), y: In("rows", "n")):
    """dy <- dy if y > 0 else 0: the derivative at 0 is 0."""
    np.multiply(dy, y > 0, out=dy)


@relu_backward.loop
def relu_backward(dy, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if not y[i, j] > 0:
                dy[i, j] = 0


@kernel(elementwise=True)
def leaky_relu_forward(y: Out("rows", "n"), x: In("rows", "n"), negative_slope: float):
    """y <- x if x >= 0 else negative_slope x. Maas et al. 2013, "Rectifier nonlinearities", ICML 30."""
    np.copyto(y, np.where(x < 0, negative_slope * x, x))


@leaky_relu_forward.loop
def leaky_relu_forward(y, x, negative_slope):
    slope = x.dtype.type(negative_slope)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            y[i, j] = slope * v if v < 0 else v


@leaky_relu_forward.onnx
def leaky_relu_forward(graph, x, negative_slope):
    if graph.dtype == np.float32:
        return graph.add("LeakyRelu", x, alpha=negative_slope)
    return graph.add("Add", graph.add("Max", x, 0.0), graph.add("Mul", graph.add("Min", x, 0.0), negative_slope))


@kernel(elementwise=True)
def leaky_relu_backward(dy: InOut("rows", "n"), y: In("rows", "n"), negative_slope: float):
    """dy <- dy if y > 0 else negative_slope dy. Needs negative_slope >= 0."""
    np.copyto(dy, np.where(y > 0, dy, negative_slope * dy))


@leaky_relu_backward.loop
def leaky_relu_backward(dy, y, negative_slope):
    slope = y.dtype.type(negative_slope)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if not y[i, j] > 0:
                dy[i, j] *= slope


@kernel(elementwise=True)
def elu_forward(y: Out("rows", "n"), x: In("rows", "n"), alpha: float):
    """y <- x if x > 0 else alpha (exp(x) - 1). Clevert et al. 2016, arXiv:1511.07289."""
    np.copyto(y, np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


@elu_forward.loop
def elu_forward(y, x, alpha):
    a = x.dtype.type(alpha)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            y[i, j] = v if v > 0 else a * math.expm1(v)


@elu_forward.onnx
def elu_forward(graph, x, alpha):
    if graph.dtype == np.float32:
        return graph.add("Elu", x, alpha=alpha)
    less = graph.add("Sub", graph.add("Exp", graph.add("Min", x, 0.0)), 1.0)
    return graph.add("Add", graph.add("Max", x, 0.0), graph.add("Mul", less, alpha))


@kernel(elementwise=True)
def elu_backward(dy: InOut("rows", "n"), y: In("rows", "n"), alpha: float):
    """dy <- dy if y > 0 else dy (y + alpha). Needs alpha > 0."""
    np.multiply(dy, np.where(y > 0, 1, y + alpha), out=dy)


@elu_backward.loop
def elu_backward(dy, y, alpha):
    a = y.dtype.type(alpha)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if not y[i, j] > 0:
                dy[i, j] *= y[i, j] + a


@kernel(elementwise=True)
def tanh_forward(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- tanh(x). LeCun et al. 1998, "Efficient BackProp", doi:10.1007/3-540-49430-8_2."""
    np.tanh(x, out=y)


@tanh_forward.loop
def tanh_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = math.tanh(x[i, j])


@tanh_forward.onnx
def tanh_forward(graph, x):
    return graph.add("Tanh", x)


@kernel(elementwise=True)
def tanh_backward(dy: InOut("rows", "n"), y: In("rows", "n")):
    """dy <- dy (1 - y^2)."""
    dy *= 1 - y * y


@tanh_backward.loop
def tanh_backward(dy, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            dy[i, j] *= 1 - y[i, j] * y[i, j]


@kernel(elementwise=True)
def sigmoid_forward(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- 1 / (1 + exp(-x)). Rumelhart et al. 1986, doi:10.1038/323533a0."""
    np.copyto(y, sigmoid_of(x))


@sigmoid_forward.loop
def sigmoid_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            e = math.exp(-abs(v))
            y[i, j] = 1 / (1 + e) if v >= 0 else e / (1 + e)


@sigmoid_forward.onnx
def sigmoid_forward(graph, x):
    return graph.add("Sigmoid", x)


@kernel(elementwise=True)
def sigmoid_backward(dy: InOut("rows", "n"), y: In("rows", "n")):
    """dy <- dy y (1 - y)."""
    dy *= y * (1 - y)


@sigmoid_backward.loop
def sigmoid_backward(dy, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            dy[i, j] *= y[i, j] * (1 - y[i, j])


@kernel(elementwise=True)
def softplus_forward(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- log(1 + exp(x)). Dugas et al. 2001, NIPS 13, pp. 472-478."""
    np.logaddexp(0, x, out=y)


@softplus_forward.loop
def softplus_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            y[i, j] = (0 if v < 0 else v) + math.log1p(math.exp(-abs(v)))


@softplus_forward.onnx
def softplus_forward(graph, x):
    if graph.dtype == np.float32:
        return graph.add("Softplus", x)
    e = graph.add("Exp", graph.add("Neg", graph.add("Abs", x)))  # the argument is not positive, so it cannot overflow
    return graph.add("Add", graph.add("Max", x, 0.0), graph.add("Log", graph.add("Add", e, 1.0)))


@kernel(elementwise=True)
def softplus_backward(dy: InOut("rows", "n"), y: In("rows", "n")):
    """dy <- dy (1 - exp(-y)), which is dy sigmoid(x)."""
    dy *= -np.expm1(-y)


@softplus_backward.loop
def softplus_backward(dy, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            dy[i, j] *= -math.expm1(-y[i, j])


@kernel(elementwise=True)
def gelu_forward(y: Out("rows", "n"), x: InOut("rows", "n")):
    """y <- x Phi(x), x <- Phi(x) + x phi(x), where Phi is the normal distribution function and phi its density: the
    exact form of gelu. Hendrycks & Gimpel 2016, arXiv:1606.08415."""
    below = (1 + erf(x * SQRT_HALF)) / 2
    np.multiply(x, below, out=y)
    x *= INV_SQRT_2PI * np.exp(-x * x / 2)
    x += below


@gelu_forward.loop
def gelu_forward(y, x):
    root, density = x.dtype.type(SQRT_HALF), x.dtype.type(INV_SQRT_2PI)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            below = (1 + math.erf(v * root)) / 2
            y[i, j] = v * below
            x[i, j] = below + v * density * math.exp(-v * v / 2)


@gelu_forward.onnx
def gelu_forward(graph, x):
    below = graph.add("Mul", graph.add("Add", _onnx_erf(graph, graph.add("Mul", x, SQRT_HALF)), 1.0), 0.5)
    return graph.add("Mul", x, below)


def _onnx_erf(graph, x):
    """Nodes of the error function. In float64 erf(z) = 1 - t exp(-z^2) p(t) for z >= 0, t = 2 / (2 + z), with a
    polynomial p that is fitted here."""
    if graph.dtype == np.float32:
        return graph.add("Erf", x)
    domain = (2 / (2 + ERF_FITTED), 1.0)
    fit = np.polynomial.Chebyshev.interpolate(_scaled_erfc, ERF_DEGREE, domain)
    fit = fit.convert(domain=domain, kind=np.polynomial.Polynomial, window=(-1.0, 1.0))
    shift, scale = fit.mapparms()
    z = graph.add("Abs", x)
    t = graph.add("Div", 2.0, graph.add("Add", z, 2.0))
    u = graph.add("Add", graph.add("Mul", t, float(scale)), float(shift))
    *rest, p = fit.coef.tolist()
    for coefficient in reversed(rest):
        p = graph.add("Add", graph.add("Mul", u, p), coefficient)
    e = graph.add("Exp", graph.add("Neg", graph.add("Mul", z, z)))
    above = graph.add("Mul", graph.add("Mul", t, e), p)
    return graph.add("Mul", graph.add("Sign", x), graph.add("Sub", 1.0, above))


def _scaled_erfc(t):
    """erfc(z) exp(z^2) / t, z = 2 / t - 2."""
    z = 2 / t - 2
    return np.vectorize(math.erfc)(z) * np.exp(z * z) / t


@kernel(elementwise=True)
def gelu_tanh_forward(y: Out("rows", "n"), x: InOut("rows", "n")):
    """y <- x (1 + t) / 2, t = tanh(sqrt(2 / pi) (x + 0.044715 x^3)): the tanh form of gelu. Hendrycks & Gimpel 2016,
    arXiv:1606.08415. x <- (1 + t + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2)) / 2, which is 0 or 1 beyond
    |x| = 100, where the powers of x would overflow."""
    v = np.clip(x, -GELU_FLAT, GELU_FLAT)
    t = np.tanh(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v))
    np.multiply(x, (1 + t) / 2, out=y)
    np.copyto(x, (1 + t + v * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * v * v)) / 2)


@gelu_tanh_forward.loop
def gelu_tanh_forward(y, x):
    scale, cubic, flat = x.dtype.type(SQRT_2_OVER_PI), x.dtype.type(GELU_CUBIC), x.dtype.type(GELU_FLAT)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = min(max(x[i, j], -flat), flat)
            t = math.tanh(scale * (v + cubic * v * v * v))
            y[i, j] = x[i, j] * ((1 + t) / 2)
            x[i, j] = (1 + t + v * (1 - t * t) * scale * (1 + 3 * cubic * v * v)) / 2


@gelu_tanh_forward.onnx
def gelu_tanh_forward(graph, x):
    cube = graph.add("Mul", graph.add("Mul", x, x), x)
    inner = graph.add("Add", x, graph.add("Mul", cube, GELU_CUBIC))
    t = graph.add("Tanh", graph.add("Mul", inner, SQRT_2_OVER_PI))
    return graph.add("Mul", x, graph.add("Mul", graph.add("Add", t, 1.0), 0.5))


@kernel(elementwise=True)
def silu_forward(y: Out("rows", "n"), x: InOut("rows", "n")):
    """y <- x s, x <- s (1 + x (1 - s)), s = sigmoid(x); also called swish. Elfwing et al. 2018, arXiv:1702.03118."""
    s = sigmoid_of(x)
    np.multiply(x, s, out=y)
    np.copyto(x, s * (1 + x * (1 - s)))


@silu_forward.loop
def silu_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            e = math.exp(-abs(v))
            s = 1 / (1 + e) if v >= 0 else e / (1 + e)
            y[i, j] = v * s
            x[i, j] = s * (1 + v * (1 - s))


@silu_forward.onnx
def silu_forward(graph, x):
    # Not x Sigmoid(x): some releases of onnxruntime fuse it to an operator that they have only in float32.
    return graph.add("Div", x, graph.add("Add", graph.add("Exp", graph.add("Neg", x)), 1.0))


@kernel(elementwise=True)
def slope_backward(dy: InOut("rows", "n"), slope: In("rows", "n")):
    """dy <- dy slope."""
    dy *= slope


@slope_backward.loop
def slope_backward(dy, slope):
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            dy[i, j] *= slope[i, j]


@dataclasses.dataclass(frozen=True, repr=False, eq=True)
class Activation(Choice):
    """An activation function. Its parameters are the scalars of its kernels, in order. The identity has no kernels.
    keeps: what the backward kernel reads, "output" or "slope"."""

    _internal = Choice._internal | {"backward", "forward", "keeps"}

    forward: Kernel | None
    backward: Kernel | None
    keeps: Literal["output", "slope"] = "output"

    __hash__ = Choice.__hash__


identity = Activation("identity", None, None)
relu = Activation("relu", relu_forward, relu_backward)
leaky_relu = Activation(
    "leaky_relu", leaky_relu_forward, leaky_relu_backward,
    parameters={"negative_slope": 0.01}, ranges={"negative_slope": AT_LEAST_ZERO},
)  # fmt: skip
elu = Activation("elu", elu_forward, elu_backward, parameters={"alpha": 1.0}, ranges={"alpha": POSITIVE})
tanh = Activation("tanh", tanh_forward, tanh_backward)
sigmoid = Activation("sigmoid", sigmoid_forward, sigmoid_backward)
softplus = Activation("softplus", softplus_forward, softplus_backward)
gelu = Activation("gelu", gelu_forward, slope_backward, "slope")
gelu_tanh = Activation("gelu_tanh", gelu_tanh_forward, slope_backward, "slope")
silu = Activation("silu", silu_forward, slope_backward, "slope")

ACTIVATIONS: dict[str, Activation] = {
    a.name: a for a in (identity, relu, leaky_relu, elu, tanh, sigmoid, softplus, gelu, gelu_tanh, silu)
}
