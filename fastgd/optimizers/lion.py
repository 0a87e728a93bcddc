"""Lion, whose steps are the sign of an average of gradients."""

from typing import Unpack

import numpy as np

from ..core.choice import FRACTION
from ..core.kernel import In, InOut, kernel
from ..core.types import Rate
from .base import Numbers, Optimizer, Options, optimizer


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


@optimizer
class Lion(Optimizer):
    """Lion: p <- p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p);  m <- beta2 m + (1 - beta2) g. Chen et al.
    2023, arXiv:2302.06675, as optax.lion: weight decay is decoupled. Further options: see `Optimizer`."""

    kernel, decoupled = lion_step, True
    ranges = Optimizer.ranges | {"beta1": FRACTION, "beta2": FRACTION}
    range_test_factor = 0.3  # its steps do not shrink with the gradient

    def __init__(
        self,
        learning_rate: "Rate" = 1e-4,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        super().__init__(learning_rate, {"beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}, **options)

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return lr, self.hyper["beta1"], self.hyper["beta2"]
