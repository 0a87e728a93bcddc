"""Adam and its variants: AdamW, AMSGrad, Adamax, NAdam, RAdam.

The formulas come from the papers, computed as in torch.optim, or as in optax where torch has no such optimizer."""

import math
from typing import Any, Unpack

import numpy as np

from ..core.choice import AT_LEAST_ZERO, FRACTION
from ..core.kernel import In, InOut, kernel
from ..core.types import Rate
from ..errors import check_flag
from .base import EPS, Numbers, Optimizer, Options, optimizer


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

    The caller includes the bias corrections of step t, c1 = 1 - beta1^t and c2 = 1 - beta2^t, in the scalars. Adam
    passes rate = lr sqrt(c2) / c1, adapt = 1, eps = sqrt(c2) eps; RAdam passes adapt = 0, eps = 1 in its first steps.
    Kingma & Ba 2015, arXiv:1412.6980."""
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
    p <- p - shrink p - rate m / (sqrt(s) + eps). Reddi et al. 2018, arXiv:1904.09237. The caller includes the bias
    corrections in the scalars, as for `adam_step`."""
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
    p <- p - shrink p - (rate m + fresh_rate d) / (sqrt(v) + eps). Dozat 2016. The caller includes the bias
    corrections, and the momentum of this step and the next, in the scalars."""
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


def enough_steps(beta: float) -> float:
    """A number of steps after which beta^t is negligible compared with the precision of 1."""
    return 64 * math.log(2) / -math.log(beta) if beta > 0 else 1.0


def bias_correction(beta: float, t: Numbers) -> Numbers:
    """1 - beta^t for a number t, or an ascending array. The exponent is limited to `enough_steps`, since numpy is slow
    for powers that underflow, and the result is 1 anyway."""
    enough = enough_steps(beta)
    return 1 - beta ** (enough if np.ravel(t)[0] >= enough else np.minimum(t, enough))


class AdamOptions(Options, total=False):
    """Options of the variants of `Adam`."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@optimizer
class Adam(Optimizer):
    """Adam: m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    p <- p - lr m' / (sqrt(v') + eps),  m' = m / (1 - beta1^t),  v' = v / (1 - beta2^t).
    Kingma & Ba 2015, arXiv:1412.6980. As torch.optim.Adam: weight_decay is added to the gradient. Further options: see
    `Optimizer`."""

    kernel = adam_step
    ranges = Optimizer.ranges | {"beta1": FRACTION, "beta2": FRACTION, "eps": EPS}

    def __init__(
        self,
        learning_rate: "Rate" = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(learning_rate, hyper, **options)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        beta1, beta2, eps, _ = self.hyper.values()
        c1, root2 = bias_correction(beta1, t), bias_correction(beta2, t) ** 0.5
        return lr * root2 / c1, beta1, beta2, 1.0, eps * root2


@optimizer
class AdamW(Adam):
    """Adam with decoupled weight decay: p <- (1 - lr weight_decay) p, then as `Adam` with weight_decay 0.
    Loshchilov & Hutter 2019, arXiv:1711.05101. As torch.optim.AdamW. Further options: see `Optimizer`."""

    decoupled = True

    def __init__(
        self,
        learning_rate: "Rate" = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: "Unpack[Options]",
    ) -> None:
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, **options)


@optimizer
class AMSGrad(Adam):
    """Adam whose second moment never decreases: s <- max(s, v);  p <- p - lr m' / (sqrt(s / (1 - beta2^t)) + eps).
    Reddi et al. 2018, arXiv:1904.09237. As torch.optim.Adam(amsgrad=True). corrected=True: the maximum of the
    corrected moment, s <- max(s, v / (1 - beta2^t)), p <- p - lr m' / (sqrt(s) + eps), as in optax.amsgrad. Further
    options: see `Optimizer`."""

    kernel = amsgrad_step

    def __init__(
        self, learning_rate: "Rate" = 1e-3, *, corrected: bool = False, **options: "Unpack[AdamOptions]"
    ) -> None:
        super().__init__(learning_rate, **options)
        self.corrected = check_flag("corrected", corrected)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        rate, beta1, beta2, _, eps = super().scalars(lr, t)
        if not self.corrected:
            return rate, beta1, beta2, 1.0, eps
        c2 = bias_correction(self.hyper["beta2"], t)
        return rate / c2**0.5, beta1, beta2, 1 / c2, self.hyper["eps"]

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "corrected": self.corrected}


@optimizer
class Adamax(Adam):
    """Adam with the infinity norm: u <- max(beta2 u, |g| + eps);  p <- p - lr m' / u, m' = m / (1 - beta1^t).
    Kingma & Ba 2015, arXiv:1412.6980, section 7.1. As torch.optim.Adamax and optax.adamax. Further options: see
    `Optimizer`."""

    kernel = adamax_step

    def __init__(self, learning_rate: "Rate" = 2e-3, **options: "Unpack[AdamOptions]") -> None:
        super().__init__(learning_rate, **options)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        beta1, beta2, eps, _ = self.hyper.values()
        return lr / bias_correction(beta1, t), beta1, beta2, eps


@optimizer
class NAdam(Adam):
    """Adam with Nesterov's momentum: the gradient of this step counts at once.
    p <- p - lr (mu' m / (1 - P mu') + (1 - mu) g / (1 - P)) / (sqrt(v') + eps), where mu and mu' are the momentum of
    this step and the next, mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), P the product of those so far. Dozat 2016,
    "Incorporating Nesterov momentum into Adam".
    As torch.optim.NAdam; momentum_decay=None is a constant mu = beta1, as optax.nadam. Further options: see
    `Optimizer`."""

    kernel = nadam_step
    ranges = Adam.ranges | {"momentum_decay": AT_LEAST_ZERO}

    def __init__(
        self, learning_rate: "Rate" = 2e-3, *, momentum_decay: float | None = 4e-3, **options: "Unpack[AdamOptions]"
    ) -> None:
        super().__init__(learning_rate, **options)
        if momentum_decay is not None:
            momentum_decay = self.check_hyper("momentum_decay", momentum_decay)
        self.momentum_decay = momentum_decay
        self._product = 0, 1.0  # (number of steps, product of their momentum)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        _, beta1, beta2, _, eps = super().scalars(lr, t)
        t = np.atleast_1d(t)
        mu, ahead = self._momentum(t), self._momentum(t + 1)
        product = self._products(t)
        root2 = bias_correction(self.hyper["beta2"], t) ** 0.5
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
        """The product of the momentum of steps 1, ..., t, for ascending t without gaps; 0 where it is negligible."""
        first, last = int(t[0]), int(t[-1])
        if first > enough_steps(self.hyper["beta1"]):
            return np.zeros(len(t))
        done, product = self._product if self._product[0] < first else (0, 1.0)
        products = np.cumprod([product, *self._momentum(np.arange(done + 1.0, last + 1))])[1:]
        self._product = last, float(products[-1])
        return products[(t - done).astype(int) - 1]

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "momentum_decay": self.momentum_decay}


@optimizer
class RAdam(Adam):
    """Rectified Adam: plain momentum p <- p - lr m' until the variance of v can be estimated (rho > 5), then
    p <- p - lr r m' sqrt(1 - beta2^t) / (sqrt(v) + eps), where r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4)
    (rho_inf - 2) rho)), rho_inf = 2 / (1 - beta2) - 1, rho = rho_inf - 2 t beta2^t / (1 - beta2^t). Liu et al. 2020,
    arXiv:1908.03265. As torch.optim.RAdam. optax.radam has p <- p - lr r m' / (sqrt(v') + eps): eps_corrected=True.
    Further options: see `Optimizer`."""

    def __init__(
        self, learning_rate: "Rate" = 1e-3, *, eps_corrected: bool = False, **options: "Unpack[AdamOptions]"
    ) -> None:
        super().__init__(learning_rate, **options)
        self.eps_corrected = check_flag("eps_corrected", eps_corrected)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
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

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "eps_corrected": self.eps_corrected}
