"""AdaGrad, AdaDelta and RMSProp, which divide by the root of accumulated squared gradients.

The formulas come from the papers, computed as in torch.optim, or as in optax where torch has no such optimizer."""

from typing import Any, Unpack

import numpy as np

from ..core.choice import AT_LEAST_ZERO, FRACTION
from ..core.kernel import In, InOut, kernel
from ..core.types import Rate
from ..errors import check_flag
from .base import EPS, Numbers, Optimizer, Options, optimizer


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


# A variance near 0 is a small difference of averages, which fewer bits would lose.
rmsprop_centred_step.whole_state = True


def placed(eps: float, in_root: bool) -> tuple[float, float]:
    """(eps inside the root, eps outside it)."""
    return (eps, 0.0) if in_root else (0.0, eps)


@optimizer
class AdaGrad(Optimizer):
    """AdaGrad: s <- s + g^2;  p <- p - lr g / (sqrt(s) + eps), where s starts at initial_accumulator.
    Duchi et al. 2011, JMLR 12, pp. 2121-2159. As torch.optim.Adagrad with lr_decay 0 (`schedules.inverse_time` is that
    decay).
    eps_in_root=True: sqrt(s + eps), as in optax.adagrad. Further options: see `Optimizer`."""

    kernel = adagrad_step
    ranges = Optimizer.ranges | {"eps": EPS, "initial_accumulator": AT_LEAST_ZERO}

    def __init__(
        self,
        learning_rate: "Rate" = 1e-2,
        *,
        eps: float = 1e-10,
        eps_in_root: bool = False,
        weight_decay: float = 0.0,
        initial_accumulator: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        hyper = {"eps": eps, "weight_decay": weight_decay, "initial_accumulator": initial_accumulator}
        super().__init__(learning_rate, hyper, **options)
        self.eps_in_root = check_flag("eps_in_root", eps_in_root)

    def initial(self, slot: str) -> float:
        return self.hyper["initial_accumulator"]

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return lr, *placed(self.hyper["eps"], self.eps_in_root)

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "eps_in_root": self.eps_in_root}


@optimizer
class AdaDelta(Optimizer):
    """AdaDelta: the step is the gradient times the ratio of the root mean squares of past steps and past gradients; see
    `fastgd.kernels.adadelta_step`. Zeiler 2012, arXiv:1212.5701. As torch.optim.Adadelta and optax.adadelta. Further
    options: see `Optimizer`."""

    kernel = adadelta_step
    ranges = Optimizer.ranges | {"rho": FRACTION, "eps": EPS}

    def __init__(
        self,
        learning_rate: "Rate" = 1.0,
        *,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        super().__init__(learning_rate, {"rho": rho, "eps": eps, "weight_decay": weight_decay}, **options)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return lr, self.hyper["rho"], self.hyper["eps"]


@optimizer
class RMSProp(Optimizer):
    """RMSProp: v <- alpha v + (1 - alpha) g^2;  p <- p - lr g / (sqrt(v) + eps); centred=True takes the square of the
    mean gradient off v, momentum > 0 adds heavy-ball momentum. See `fastgd.kernels.rmsprop_step`,
    `rmsprop_momentum_step` and `rmsprop_centred_step`. Tieleman & Hinton 2012; Graves 2013, arXiv:1308.0850. As
    torch.optim.RMSprop. optax.rmsprop has sqrt(v + eps): eps_in_root=True. Further options: see `Optimizer`; a
    state_dtype goes without centred."""

    rules = rmsprop_step, rmsprop_momentum_step, rmsprop_centred_step
    ranges = Optimizer.ranges | {"alpha": FRACTION, "eps": EPS, "momentum": FRACTION}

    def __init__(
        self,
        learning_rate: "Rate" = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        eps_in_root: bool = False,
        momentum: float = 0.0,
        centred: bool = False,
        weight_decay: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        self.centred, self.eps_in_root = check_flag("centred", centred), check_flag("eps_in_root", eps_in_root)
        hyper = {"alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        moving = rmsprop_momentum_step if self.check_hyper("momentum", momentum) else rmsprop_step
        self.kernel = rmsprop_centred_step if self.centred else moving
        super().__init__(learning_rate, hyper, **options)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        plain = lr, self.hyper["alpha"], *placed(self.hyper["eps"], self.eps_in_root)
        return plain if self.kernel is rmsprop_step else (*plain, self.hyper["momentum"])

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "centred": self.centred, "eps_in_root": self.eps_in_root}
