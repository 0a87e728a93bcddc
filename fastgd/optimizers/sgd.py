"""Stochastic gradient descent, plain, with momentum or with Nesterov momentum. The formulas come from the papers,
computed as in torch.optim."""

from typing import Any, Unpack

from ..core.choice import FRACTION
from ..core.kernel import In, InOut, kernel
from ..core.types import Rate
from ..errors import check_flag, value_error
from .base import Numbers, Optimizer, Options, optimizer


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
def sgd_rank_one_update(
    b: InOut("n_out"), w: InOut("n_in", "n_out"), x: In("one", "n_in"), dy: In("one", "n_out"), lr: float
):
    """b <- b - lr dy,  w <- w - lr x^T dy: `sgd_step` for the layer y = x w + b and a minibatch of one row, without
    storing the gradient."""
    b -= lr * dy[0]
    w -= lr * (x.T * dy)


@sgd_rank_one_update.loop
def sgd_rank_one_update(b, w, x, dy, lr):
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


@optimizer
class SGD(Optimizer):
    """Stochastic gradient descent, with heavy-ball momentum if momentum > 0, Nesterov momentum if nesterov=True.

    p <- p - lr (g + weight_decay p);  with momentum see `fastgd.kernels.momentum_step` and `nesterov_step`. As
    torch.optim.SGD with dampening 0. Further options: see `Optimizer`.
    """

    rules = sgd_step, momentum_step, nesterov_step
    ranges = Optimizer.ranges | {"momentum": FRACTION}

    def __init__(
        self,
        learning_rate: "Rate" = 1e-2,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **options: "Unpack[Options]",
    ) -> None:
        self.nesterov, has_momentum = check_flag("nesterov", nesterov), self.check_hyper("momentum", momentum) != 0
        if nesterov and not has_momentum:
            raise value_error("momentum", "a number > 0 with nesterov=True", momentum)
        self.kernel = sgd_step if not has_momentum else nesterov_step if nesterov else momentum_step
        super().__init__(learning_rate, {"momentum": momentum, "weight_decay": weight_decay}, **options)
        self.rank_one_kernel = (
            sgd_rank_one_update if self.kernel is sgd_step and not self.hyper["weight_decay"] else None
        )

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return (lr,) if self.kernel is sgd_step else (lr, self.hyper["momentum"])

    def own_options(self) -> dict[str, Any]:
        return {**self.hyper, "nesterov": self.nesterov}
