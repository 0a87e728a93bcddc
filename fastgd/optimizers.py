"""Optimizers: the rule of each as one fused kernel over flat arrays, its hyper-parameters, and the table by name.

Formulas are those of the papers as torch.optim computes them, or optax where torch has no such optimizer. Every kernel
ends with `weight_decay`, which adds weight_decay p to the gradient, and `shrink`, the part of p that is
taken off it: lr weight_decay for decoupled decay, else 0. Scalars are worked out in float64, once a step. Over 400
lines: one kernel, its loop and one class for each optimizer, which grow with their number.
"""

import math

import numpy as np

from .choice import AT_LEAST_ZERO, FRACTION
from .errors import check_flag, value_error
from .kernel import In, InOut, kernel, kernels
from .lowmemory import STATE_DTYPES, low_memory_kernel
from .optimizer import Optimizer

EPS = {"low": 1e-30}


@kernel
def sgd_step(p: InOut("n"), g: In("n"), lr: float, weight_decay: float, shrink: float):
    """p <- p - shrink p - lr d, d = g + weight_decay p."""
    d = g + weight_decay * p
    p -= shrink * p + lr * d


@sgd_step.loop
def sgd_step(p, g, lr, weight_decay, shrink):
    lr = p.dtype.type(lr)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        p[i] = (p[i] - lr * d) - shrink * p[i]


@kernel
def sgd_outer_step(
    b: InOut("n_out"), w: InOut("n_in", "n_out"), x: In("one", "n_in"), dy: In("one", "n_out"), lr: float
):
    """b <- b - lr dy,  w <- w - lr x^T dy: `sgd_step` for the layer y = x w + b and a minibatch of one row, whose
    gradient is never an array."""
    b -= lr * dy[0]
    w -= lr * (x.T * dy)


@sgd_outer_step.loop
def sgd_outer_step(b, w, x, dy, lr):
    lr = w.dtype.type(lr)
    for j in range(b.size):
        b[j] -= lr * dy[0, j]
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            w[i, j] -= lr * (x[0, i] * dy[0, j])


@kernel
def momentum_step(
    p: InOut("n"), b: InOut("n"), g: In("n"), lr: float, momentum: float, weight_decay: float, shrink: float
):
    """b <- momentum b + d, d = g + weight_decay p;  p <- p - shrink p - lr b. Polyak 1964,
    doi:10.1016/0041-5553(64)90137-5."""
    b *= momentum
    b += g + weight_decay * p
    p -= shrink * p + lr * b


@momentum_step.loop
def momentum_step(p, b, g, lr, momentum, weight_decay, shrink):
    lr, momentum = p.dtype.type(lr), p.dtype.type(momentum)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        b[i] = momentum * b[i] + d
        p[i] = (p[i] - lr * b[i]) - shrink * p[i]


@kernel
def nesterov_step(
    p: InOut("n"), b: InOut("n"), g: In("n"), lr: float, momentum: float, weight_decay: float, shrink: float
):
    """b <- momentum b + d, d = g + weight_decay p;  p <- p - shrink p - lr (d + momentum b). Sutskever et al. 2013, as
    torch.optim.SGD(nesterov=True)."""
    d = g + weight_decay * p
    b *= momentum
    b += d
    p -= shrink * p + lr * (d + momentum * b)


@nesterov_step.loop
def nesterov_step(p, b, g, lr, momentum, weight_decay, shrink):
    lr, momentum = p.dtype.type(lr), p.dtype.type(momentum)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        b[i] = momentum * b[i] + d
        p[i] = (p[i] - lr * (d + momentum * b[i])) - shrink * p[i]


@kernel
def adagrad_step(
    p: InOut("n"),
    s: InOut("n", domain="nonnegative"),
    g: In("n"),
    lr: float,
    inner: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """s <- s + d^2, d = g + weight_decay p;  p <- p - shrink p - lr d / (sqrt(s + inner) + eps). Duchi et al. 2011,
    jmlr.org/papers/v12/duchi11a."""
    d = g + weight_decay * p
    s += d * d
    p -= shrink * p + lr * d / (np.sqrt(s + inner) + eps)


@adagrad_step.loop
def adagrad_step(p, s, g, lr, inner, eps, weight_decay, shrink):
    lr, inner, eps = p.dtype.type(lr), p.dtype.type(inner), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        s[i] += d * d
        p[i] = (p[i] - lr * d / (np.sqrt(s[i] + inner) + eps)) - shrink * p[i]


@kernel
def adadelta_step(
    p: InOut("n"),
    s: InOut("n", domain="nonnegative"),
    u: InOut("n", domain="nonnegative"),
    g: In("n"),
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """s <- rho s + (1 - rho) d^2, d = g + weight_decay p;  delta = sqrt(u + eps) / sqrt(s + eps) d;
    u <- rho u + (1 - rho) delta^2;  p <- p - shrink p - lr delta. Zeiler 2012, arXiv:1212.5701."""
    d = g + weight_decay * p
    s *= rho
    s += (1 - rho) * d * d
    delta = np.sqrt(u + eps) / np.sqrt(s + eps) * d
    u *= rho
    u += (1 - rho) * delta * delta
    p -= shrink * p + lr * delta


@adadelta_step.loop
def adadelta_step(p, s, u, g, lr, rho, eps, weight_decay, shrink):
    fresh = p.dtype.type(1 - rho)
    lr, eps = p.dtype.type(lr), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        s[i] = s[i] - fresh * s[i] + fresh * d * d if s[i] < np.inf else s[i]
        delta = np.sqrt(u[i] + eps) / np.sqrt(s[i] + eps) * d
        u[i] = u[i] - fresh * u[i] + fresh * delta * delta if u[i] < np.inf else u[i]
        p[i] = (p[i] - lr * delta) - shrink * p[i]


@kernel
def rmsprop_step(
    p: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    g: In("n"),
    lr: float,
    alpha: float,
    inner: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """v <- alpha v + (1 - alpha) d^2, d = g + weight_decay p;  p <- p - shrink p - lr d / (sqrt(v + inner) + eps).
    Tieleman & Hinton 2012, Lecture 6.5 of Neural Networks for Machine Learning."""
    d = g + weight_decay * p
    v *= alpha
    v += (1 - alpha) * d * d
    p -= shrink * p + lr * d / (np.sqrt(v + inner) + eps)


@rmsprop_step.loop
def rmsprop_step(p, v, g, lr, alpha, inner, eps, weight_decay, shrink):
    fresh = p.dtype.type(1 - alpha)
    lr, inner, eps = p.dtype.type(lr), p.dtype.type(inner), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        v[i] = v[i] - fresh * v[i] + fresh * d * d if v[i] < np.inf else v[i]
        p[i] = (p[i] - lr * d / (np.sqrt(v[i] + inner) + eps)) - shrink * p[i]


@kernel
def rmsprop_momentum_step(
    p: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    b: InOut("n"),
    g: In("n"),
    lr: float,
    alpha: float,
    inner: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    shrink: float,
):
    """As `rmsprop_step`, with momentum:  b <- momentum b + d / (sqrt(v + inner) + eps);  p <- p - shrink p - lr b."""
    d = g + weight_decay * p
    v *= alpha
    v += (1 - alpha) * d * d
    b *= momentum
    b += d / (np.sqrt(v + inner) + eps)
    p -= shrink * p + lr * b


@rmsprop_momentum_step.loop
def rmsprop_momentum_step(p, v, b, g, lr, alpha, inner, eps, momentum, weight_decay, shrink):
    fresh = p.dtype.type(1 - alpha)
    lr, inner = p.dtype.type(lr), p.dtype.type(inner)
    eps, momentum = p.dtype.type(eps), p.dtype.type(momentum)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        v[i] = v[i] - fresh * v[i] + fresh * d * d if v[i] < np.inf else v[i]
        b[i] = momentum * b[i] + d / (np.sqrt(v[i] + inner) + eps)
        p[i] = (p[i] - lr * b[i]) - shrink * p[i]


@kernel
def rmsprop_centred_step(
    p: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    a: InOut("n"),
    b: InOut("n"),
    g: In("n"),
    lr: float,
    alpha: float,
    inner: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    shrink: float,
):
    """v <- alpha v + (1 - alpha) d^2,  a <- alpha a + (1 - alpha) d,  d = g + weight_decay p;
    b <- momentum b + d / (sqrt(max(v - a^2, 0) + inner) + eps);  p <- p - shrink p - lr b. Graves 2013,
    arXiv:1308.0850, eq. 38-41, eps outside the root."""
    d = g + weight_decay * p
    v *= alpha
    v += (1 - alpha) * d * d
    a *= alpha
    a += (1 - alpha) * d
    b *= momentum
    b += d / (np.sqrt(np.maximum(v - a * a, 0) + inner) + eps)
    p -= shrink * p + lr * b


@rmsprop_centred_step.loop
def rmsprop_centred_step(p, v, a, b, g, lr, alpha, inner, eps, momentum, weight_decay, shrink):
    fresh = p.dtype.type(1 - alpha)
    lr, inner = p.dtype.type(lr), p.dtype.type(inner)
    eps, momentum = p.dtype.type(eps), p.dtype.type(momentum)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        v[i] = v[i] - fresh * v[i] + fresh * d * d if v[i] < np.inf else v[i]
        a[i] += fresh * (d - a[i])
        variance = v[i] - a[i] * a[i]
        b[i] = momentum * b[i] + d / (np.sqrt((variance if variance > 0 else p.dtype.type(0)) + inner) + eps)
        p[i] = (p[i] - lr * b[i]) - shrink * p[i]


@kernel
def adam_step(
    p: InOut("n"),
    m: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    g: In("n"),
    rate: float,
    beta1: float,
    beta2: float,
    adapt: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """m <- beta1 m + (1 - beta1) d,  v <- beta2 v + (1 - beta2) d^2,  d = g + weight_decay p;
    p <- p - shrink p - rate m / (adapt sqrt(v) + eps).

    The bias corrections of step t are folded in by the caller, c1 = 1 - beta1^t, c2 = 1 - beta2^t: for Adam
    rate = lr sqrt(c2) / c1, adapt = 1, eps = sqrt(c2) eps. Kingma & Ba 2015, arXiv:1412.6980. RAdam sets adapt = 0,
    eps = 1 in its first steps."""
    d = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * d
    v *= beta2
    v += (1 - beta2) * d * d
    p -= shrink * p + rate * m / (adapt * np.sqrt(v) + eps)


@adam_step.loop
def adam_step(p, m, v, g, rate, beta1, beta2, adapt, eps, weight_decay, shrink):
    fresh1, fresh2 = p.dtype.type(1 - beta1), p.dtype.type(1 - beta2)
    rate, adapt, eps = p.dtype.type(rate), p.dtype.type(adapt), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        m[i] += fresh1 * (d - m[i])
        v[i] = v[i] - fresh2 * v[i] + fresh2 * d * d if v[i] < np.inf else v[i]
        p[i] = (p[i] - rate * m[i] / (adapt * np.sqrt(v[i]) + eps)) - shrink * p[i]


@kernel
def amsgrad_step(
    p: InOut("n"),
    m: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    s: InOut("n", domain="nonnegative"),
    g: In("n"),
    rate: float,
    beta1: float,
    beta2: float,
    correct: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """m <- beta1 m + (1 - beta1) d,  v <- beta2 v + (1 - beta2) d^2,  d = g + weight_decay p;  s <- max(s, correct v);
    p <- p - shrink p - rate m / (sqrt(s) + eps). Reddi et al. 2018, arXiv:1904.09237. Bias corrections are folded in
    by the caller as for `adam_step`."""
    d = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * d
    v *= beta2
    v += (1 - beta2) * d * d
    np.maximum(s, correct * v, out=s)
    p -= shrink * p + rate * m / (np.sqrt(s) + eps)


@amsgrad_step.loop
def amsgrad_step(p, m, v, s, g, rate, beta1, beta2, correct, eps, weight_decay, shrink):
    fresh1, fresh2 = p.dtype.type(1 - beta1), p.dtype.type(1 - beta2)
    rate, correct, eps = p.dtype.type(rate), p.dtype.type(correct), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        m[i] += fresh1 * (d - m[i])
        v[i] = v[i] - fresh2 * v[i] + fresh2 * d * d if v[i] < np.inf else v[i]
        s[i] = max(s[i], correct * v[i])
        p[i] = (p[i] - rate * m[i] / (np.sqrt(s[i]) + eps)) - shrink * p[i]


@kernel
def adamax_step(
    p: InOut("n"),
    m: InOut("n"),
    u: InOut("n", domain="nonnegative"),
    g: In("n"),
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """m <- beta1 m + (1 - beta1) d,  u <- max(beta2 u, |d| + eps),  d = g + weight_decay p;
    p <- p - shrink p - rate m / u, rate = lr / (1 - beta1^t). Kingma & Ba 2015, arXiv:1412.6980, section 7.1."""
    d = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * d
    u *= beta2
    np.maximum(u, np.abs(d) + eps, out=u)
    p -= shrink * p + rate * m / u


@adamax_step.loop
def adamax_step(p, m, u, g, rate, beta1, beta2, eps, weight_decay, shrink):
    fresh1 = p.dtype.type(1 - beta1)
    rate, beta2, eps = p.dtype.type(rate), p.dtype.type(beta2), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        m[i] += fresh1 * (d - m[i])
        u[i] = max(beta2 * u[i], abs(d) + eps)
        p[i] = (p[i] - rate * m[i] / u[i]) - shrink * p[i]


@kernel
def nadam_step(
    p: InOut("n"),
    m: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    g: In("n"),
    rate: float,
    fresh_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """m <- beta1 m + (1 - beta1) d,  v <- beta2 v + (1 - beta2) d^2,  d = g + weight_decay p;
    p <- p - shrink p - (rate m + fresh_rate d) / (sqrt(v) + eps). Dozat 2016. Bias corrections and the momentum of
    this step and the next are folded in by the caller."""
    d = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * d
    v *= beta2
    v += (1 - beta2) * d * d
    p -= shrink * p + (rate * m + fresh_rate * d) / (np.sqrt(v) + eps)


@nadam_step.loop
def nadam_step(p, m, v, g, rate, fresh_rate, beta1, beta2, eps, weight_decay, shrink):
    fresh1, fresh2 = p.dtype.type(1 - beta1), p.dtype.type(1 - beta2)
    rate, fresh_rate, eps = p.dtype.type(rate), p.dtype.type(fresh_rate), p.dtype.type(eps)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        m[i] += fresh1 * (d - m[i])
        v[i] = v[i] - fresh2 * v[i] + fresh2 * d * d if v[i] < np.inf else v[i]
        p[i] = (p[i] - (rate * m[i] + fresh_rate * d) / (np.sqrt(v[i]) + eps)) - shrink * p[i]


@kernel
def lion_step(
    p: InOut("n"), m: InOut("n"), g: In("n"), lr: float, beta1: float, beta2: float, weight_decay: float, shrink: float
):
    """p <- p - shrink p - lr sign(beta1 m + (1 - beta1) d), d = g + weight_decay p;  m <- beta2 m + (1 - beta2) d.
    Chen et al. 2023, arXiv:2302.06675."""
    d = g + weight_decay * p
    p -= shrink * p + lr * np.sign(beta1 * m + (1 - beta1) * d)
    m *= beta2
    m += (1 - beta2) * d


@lion_step.loop
def lion_step(p, m, g, lr, beta1, beta2, weight_decay, shrink):
    fresh1, fresh2 = p.dtype.type(1 - beta1), p.dtype.type(1 - beta2)
    lr = p.dtype.type(lr)
    weight_decay, shrink = p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        p[i] = (p[i] - lr * np.sign(m[i] + fresh1 * (d - m[i]))) - shrink * p[i]
        m[i] += fresh2 * (d - m[i])


# A variance near 0 is a small difference of averages, which fewer bits would lose.
WHOLE_STATE = sgd_step, rmsprop_centred_step
for rule in [made for made in vars(kernels).values() if made.__module__ == __name__ and made not in WHOLE_STATE]:
    for state_dtype in STATE_DTYPES if "p" in rule.arrays else ():
        low_memory_kernel(rule, state_dtype)


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum > 0 heavy-ball momentum, with nesterov=True Nesterov's.

    p <- p - lr (g + weight_decay p);  with momentum see `fastgd.kernels.momentum_step` and `nesterov_step`. As
    torch.optim.SGD with dampening 0. Further options: see `Optimizer`.
    """

    ranges = Optimizer.ranges | {"momentum": FRACTION}

    def __init__(self, learning_rate=1e-2, *, momentum=0.0, nesterov=False, weight_decay=0.0, **options):
        super().__init__(learning_rate, {"momentum": momentum, "weight_decay": weight_decay}, **options)
        self.nesterov = check_flag("nesterov", nesterov)
        if nesterov and self.hyper["momentum"] == 0:
            raise value_error("momentum", "a number > 0 with nesterov=True", momentum)
        self.kernel = sgd_step if self.hyper["momentum"] == 0 else nesterov_step if nesterov else momentum_step
        self.rank_one_kernel = sgd_outer_step if self.kernel is sgd_step and not self.hyper["weight_decay"] else None

    def scalars(self, lr, t):
        return (lr,) if self.kernel is sgd_step else (lr, self.hyper["momentum"])

    def own_options(self):
        return {**self.hyper, "nesterov": self.nesterov}


class AdaGrad(Optimizer):
    """AdaGrad: s <- s + g^2;  p <- p - lr g / (sqrt(s) + eps), s starting at initial_accumulator.
    Duchi et al. 2011. As torch.optim.Adagrad with lr_decay 0 (`schedules.inverse_time` is that decay). optax.adagrad
    has sqrt(s + eps): eps_in_root=True. Further options: see `Optimizer`."""

    kernel = adagrad_step
    ranges = Optimizer.ranges | {"eps": EPS, "initial_accumulator": AT_LEAST_ZERO}

    def __init__(
        self,
        learning_rate=1e-2,
        *,
        eps=1e-10,
        eps_in_root=False,
        weight_decay=0.0,
        initial_accumulator=0.0,
        **options,
    ):
        hyper = {"eps": eps, "weight_decay": weight_decay, "initial_accumulator": initial_accumulator}
        super().__init__(learning_rate, hyper, **options)
        self.eps_in_root = check_flag("eps_in_root", eps_in_root)

    def initial(self, slot):
        return self.hyper["initial_accumulator"]

    def scalars(self, lr, t):
        return lr, *placed(self.hyper["eps"], self.eps_in_root)

    def own_options(self):
        return {**self.hyper, "eps_in_root": self.eps_in_root}


class AdaDelta(Optimizer):
    """AdaDelta: the step is the gradient times the ratio of the root mean squares of past steps and past gradients; see
    `fastgd.kernels.adadelta_step`. Zeiler 2012, arXiv:1212.5701. As torch.optim.Adadelta and optax.adadelta. Further
    options: see `Optimizer`."""

    kernel = adadelta_step
    ranges = Optimizer.ranges | {"rho": FRACTION, "eps": EPS}

    def __init__(self, learning_rate=1.0, *, rho=0.9, eps=1e-6, weight_decay=0.0, **options):
        super().__init__(learning_rate, {"rho": rho, "eps": eps, "weight_decay": weight_decay}, **options)

    def scalars(self, lr, t):
        return lr, self.hyper["rho"], self.hyper["eps"]


class RMSProp(Optimizer):
    """RMSProp: v <- alpha v + (1 - alpha) g^2;  p <- p - lr g / (sqrt(v) + eps); centred=True takes the square of the
    mean gradient off v, momentum > 0 adds heavy-ball momentum. See `fastgd.kernels.rmsprop_step`,
    `rmsprop_momentum_step` and `rmsprop_centred_step`. Tieleman & Hinton 2012; Graves 2013, arXiv:1308.0850. As
    torch.optim.RMSprop. optax.rmsprop has sqrt(v + eps): eps_in_root=True. Further options: see `Optimizer`; a
    state_dtype goes without centred."""

    ranges = Optimizer.ranges | {"alpha": FRACTION, "eps": EPS, "momentum": FRACTION}

    def __init__(
        self,
        learning_rate=1e-2,
        *,
        alpha=0.99,
        eps=1e-8,
        eps_in_root=False,
        momentum=0.0,
        centred=False,
        weight_decay=0.0,
        **options,
    ):
        hyper = {"alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(learning_rate, hyper, **options)
        self.centred, self.eps_in_root = check_flag("centred", centred), check_flag("eps_in_root", eps_in_root)
        moving = rmsprop_momentum_step if self.hyper["momentum"] else rmsprop_step
        self.kernel = rmsprop_centred_step if centred else moving
        if centred and self.state_dtype is not None:
            expected = "None with centred=True, since a variance near 0 needs the whole precision"
            raise value_error("state_dtype", expected, repr(self.state_dtype))

    def scalars(self, lr, t):
        plain = lr, self.hyper["alpha"], *placed(self.hyper["eps"], self.eps_in_root)
        return plain if self.kernel is rmsprop_step else (*plain, self.hyper["momentum"])

    def own_options(self):
        return {**self.hyper, "centred": self.centred, "eps_in_root": self.eps_in_root}


def placed(eps, in_root):
    """eps under the root, and beside it."""
    return (eps, 0.0) if in_root else (0.0, eps)


def enough_steps(beta):
    """Steps after which beta^t is far below the last place of 1."""
    return 64 * math.log(2) / -math.log(beta) if beta > 0 else 1.0


def bias_correction(beta, t):
    """1 - beta^t for a number t, or ascending ones. After `enough_steps` the exponent stays: numpy is slow at powers
    that underflow, and the difference is 1."""
    enough = enough_steps(beta)
    return 1 - beta ** (enough if np.ravel(t)[0] >= enough else np.minimum(t, enough))


class Adam(Optimizer):
    """Adam: m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    p <- p - lr m' / (sqrt(v') + eps),  m' = m / (1 - beta1^t),  v' = v / (1 - beta2^t).
    Kingma & Ba 2015, arXiv:1412.6980. As torch.optim.Adam: weight_decay is added to the gradient. Further options: see
    `Optimizer`."""

    kernel = adam_step
    ranges = Optimizer.ranges | {"beta1": FRACTION, "beta2": FRACTION, "eps": EPS}

    def __init__(self, learning_rate=1e-3, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, **options):
        hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(learning_rate, hyper, **options)

    def scalars(self, lr, t):
        beta1, beta2, eps, _ = self.hyper.values()
        c1, root2 = bias_correction(beta1, t), bias_correction(beta2, t) ** 0.5
        return lr * root2 / c1, beta1, beta2, 1.0, eps * root2


class AdamW(Adam):
    """Adam with decoupled weight decay: p <- (1 - lr weight_decay) p, then as `Adam` with weight_decay 0.
    Loshchilov & Hutter 2019, arXiv:1711.05101. As torch.optim.AdamW. Further options: see `Optimizer`."""

    decoupled = True

    def __init__(self, learning_rate=1e-3, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2, **options):
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, **options)


class AMSGrad(Adam):
    """Adam whose second moment never falls: s <- max(s, v);  p <- p - lr m' / (sqrt(s / (1 - beta2^t)) + eps).
    Reddi et al. 2018, arXiv:1904.09237. As torch.optim.Adam(amsgrad=True). optax.amsgrad takes the maximum of the
    corrected moment, s <- max(s, v / (1 - beta2^t)), p <- p - lr m' / (sqrt(s) + eps): corrected=True. Further options:
    see `Optimizer`."""

    kernel = amsgrad_step

    def __init__(self, learning_rate=1e-3, *, corrected=False, **options):
        super().__init__(learning_rate, **options)
        self.corrected = check_flag("corrected", corrected)

    def scalars(self, lr, t):
        rate, beta1, beta2, _, eps = super().scalars(lr, t)
        if not self.corrected:
            return rate, beta1, beta2, 1.0, eps
        c2 = bias_correction(beta2, t)
        return rate / c2**0.5, beta1, beta2, 1 / c2, self.hyper["eps"]

    def own_options(self):
        return {**self.hyper, "corrected": self.corrected}


class Adamax(Adam):
    """Adam with the infinity norm: u <- max(beta2 u, |g| + eps);  p <- p - lr m' / u, m' = m / (1 - beta1^t).
    Kingma & Ba 2015, arXiv:1412.6980, section 7.1. As torch.optim.Adamax and optax.adamax. Further options: see
    `Optimizer`."""

    kernel = adamax_step

    def __init__(self, learning_rate=2e-3, **options):
        super().__init__(learning_rate, **options)

    def scalars(self, lr, t):
        beta1, beta2, eps, _ = self.hyper.values()
        return lr / bias_correction(beta1, t), beta1, beta2, eps


class NAdam(Adam):
    """Adam with Nesterov's momentum: the gradient of this step counts at once.
    p <- p - lr (mu' m / (1 - P mu') + (1 - mu) g / (1 - P)) / (sqrt(v') + eps), where mu and mu' are the momentum of
    this step and the next, mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), P the product of those so far. Dozat 2016.
    As torch.optim.NAdam; momentum_decay=None is a constant mu = beta1, as optax.nadam. Further options: see
    `Optimizer`."""

    kernel = nadam_step
    ranges = Adam.ranges | {"momentum_decay": AT_LEAST_ZERO}

    def __init__(self, learning_rate=2e-3, *, momentum_decay=4e-3, **options):
        super().__init__(learning_rate, **options)
        if momentum_decay is not None:
            momentum_decay = self.check_hyper("momentum_decay", momentum_decay)
        self.momentum_decay = momentum_decay
        self._product = 0, 1.0  # of the momentum of so many steps

    def scalars(self, lr, t):
        _, beta1, beta2, _, eps = super().scalars(lr, t)
        t = np.atleast_1d(t)
        mu, ahead = self._momentum(t), self._momentum(t + 1)
        product = self._products(t)
        root2 = bias_correction(beta2, t) ** 0.5
        rate, fresh_rate = ahead / (1 - product * ahead), (1 - mu) / (1 - product)
        return lr * rate * root2, lr * fresh_rate * root2, beta1, beta2, eps

    def _momentum(self, t):
        beta1 = self.hyper["beta1"]
        return (
            np.full(len(t), beta1)
            if self.momentum_decay is None
            else beta1 * (1 - 0.96 ** (t * self.momentum_decay) / 2)
        )

    def _products(self, t):
        """The product of the momentum of steps 1, ..., t, for ascending t that have no gaps; 0 where it is too small to
        tell."""
        first, last = int(t[0]), int(t[-1])
        if first > enough_steps(self.hyper["beta1"]):
            return np.zeros(len(t))
        done, product = self._product if self._product[0] < first else (0, 1.0)
        products = np.cumprod([product, *self._momentum(np.arange(done + 1.0, last + 1))])[1:]
        self._product = last, float(products[-1])
        return products[(t - done).astype(int) - 1]

    def own_options(self):
        return {**self.hyper, "momentum_decay": self.momentum_decay}


class RAdam(Adam):
    """Rectified Adam: plain momentum p <- p - lr m' until the variance of v can be told (rho > 5), then
    p <- p - lr r m' sqrt(1 - beta2^t) / (sqrt(v) + eps), where r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4)
    (rho_inf - 2) rho)), rho_inf = 2 / (1 - beta2) - 1, rho = rho_inf - 2 t beta2^t / (1 - beta2^t). Liu et al. 2020,
    arXiv:1908.03265. As torch.optim.RAdam. optax.radam has p <- p - lr r m' / (sqrt(v') + eps): eps_corrected=True.
    Further options: see `Optimizer`."""

    def __init__(self, learning_rate=1e-3, *, eps_corrected=False, **options):
        super().__init__(learning_rate, **options)
        self.eps_corrected = check_flag("eps_corrected", eps_corrected)

    def scalars(self, lr, t):
        beta1, beta2, eps, _ = self.hyper.values()
        t = np.atleast_1d(t)
        c1, c2 = bias_correction(beta1, t), bias_correction(beta2, t)
        limit = 2 / (1 - beta2) - 1
        rho = limit - 2 * t * (1 - c2) / c2
        adapt = rho > 5
        rectification, beside = np.ones(len(t)), np.ones(len(t))
        if adapt.any():  # then limit > 5
            rho = rho[adapt]
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            root = np.broadcast_to(c2, len(t))[adapt] ** 0.5
            rectification[adapt], beside[adapt] = r * root, eps * root if self.eps_corrected else eps
        return lr / c1 * rectification, beta1, beta2, adapt.astype(np.float64), beside

    def own_options(self):
        return {**self.hyper, "eps_corrected": self.eps_corrected}


class Lion(Optimizer):
    """Lion: p <- p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p);  m <- beta2 m + (1 - beta2) g. Chen et al.
    2023, arXiv:2302.06675, as optax.lion: weight decay is decoupled. Further options: see `Optimizer`."""

    kernel, decoupled = lion_step, True
    ranges = Optimizer.ranges | {"beta1": FRACTION, "beta2": FRACTION}
    rate_found = 0.3  # its steps do not shrink with the gradient

    def __init__(self, learning_rate=1e-4, *, beta1=0.9, beta2=0.99, weight_decay=0.0, **options):
        super().__init__(learning_rate, {"beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}, **options)

    def scalars(self, lr, t):
        return lr, self.hyper["beta1"], self.hyper["beta2"]


__all__ = ["SGD", "AMSGrad", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSProp"]
OPTIMIZERS = {name: globals()[name] for name in __all__}
