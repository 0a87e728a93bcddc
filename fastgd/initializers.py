"""Initial values of parameters. fan_in and fan_out are the numbers of inputs and outputs of the layer, for its weights
and for its biases.

    zeros, ones
    glorot_uniform, glorot_normal   variance 2 / (fan_in + fan_out). Glorot & Bengio 2010
    he_uniform, he_normal           variance 2 / fan_in. He et al. 2015, arXiv:1502.01852
    lecun_uniform, lecun_normal     variance 1 / fan_in. LeCun et al. 1998
    torch                           uniform within +-1 / sqrt(fan_in), variance 1 / (3 fan_in): the default of
                                    torch.nn.Linear for weights and biases
    normal(std=0.02)                normal with mean 0 and this standard deviation, as in GPT-2
    orthogonal(gain=1.0)            orthonormal rows or columns, times gain; rows are all axes but the last, the axis of
                                    the outputs. Saxe et al. 2014, arXiv:1312.6120

The suffix `_uniform` means a uniform distribution within +-sqrt(3 variance), `_normal` a normal one; the mean is 0."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .core.choice import POSITIVE, Choice, pick
from .data.mapped import check_mapping
from .errors import shown, value_error

__all__ = [
    "Initializer",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "torch",
    "zeros",
]


@dataclasses.dataclass(frozen=True, repr=False)
class Initializer(Choice):
    """`values(rng, shape, fans, **parameters)` returns a float64 array of the shape; fans: (fan_in, fan_out).

    formula: the distribution of the values, and its source."""

    values: Callable[..., npt.NDArray[np.float64]]
    formula: str = dataclasses.field(default="", kw_only=True, compare=False)

    __hash__ = Choice.__hash__


def _zeros(rng, shape, fans):
    return np.zeros(shape)


def _ones(rng, shape, fans):
    return np.ones(shape)


def _fan_in(fan_in, fan_out):
    return fan_in


def _fan_average(fan_in, fan_out):
    return (fan_in + fan_out) / 2


def _uniform(fan, gain, rng, shape, fans):
    limit = (3 * gain / fan(*fans)) ** 0.5
    return rng.uniform(-limit, limit, shape)


def _normal(fan, gain, rng, shape, fans):
    return rng.normal(0.0, (gain / fan(*fans)) ** 0.5, shape)


def _normal_of(rng, shape, fans, std):
    return rng.normal(0.0, std, shape)


def _orthogonal(rng, shape, fans, gain):
    """Orthonormal rows or columns, whichever are fewer, times gain. The last axis, the outputs, gives the columns; all
    other axes give the rows: (kh, kw, c, k) is a matrix (kh kw c, k)."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))
    return gain * (q if rows >= columns else q.T).reshape(shape)


def _given(argument, array, rng, shape, fans):
    if array.shape != shape:
        raise value_error(argument, f"an array of shape {shape}", shown(array))
    return array


zeros = Initializer("zeros", _zeros, formula="0 everywhere.")
ones = Initializer("ones", _ones, formula="1 everywhere.")
# Variance gain / fan.
glorot_uniform = Initializer(
    "glorot_uniform",
    partial(_uniform, _fan_average, 1.0),
    formula="U(-a, a), a = sqrt(6 / (fan_in + fan_out)): variance 2 / (fan_in + fan_out). Glorot & Bengio 2010, "
    "AISTATS 13, pp. 249-256.",
)
glorot_normal = Initializer(
    "glorot_normal",
    partial(_normal, _fan_average, 1.0),
    formula="N(0, 2 / (fan_in + fan_out)). Glorot & Bengio 2010, AISTATS 13, pp. 249-256.",
)
he_uniform = Initializer(
    "he_uniform",
    partial(_uniform, _fan_in, 2.0),
    formula="U(-a, a), a = sqrt(6 / fan_in): variance 2 / fan_in, for relu. He et al. 2015, arXiv:1502.01852.",
)
he_normal = Initializer(
    "he_normal",
    partial(_normal, _fan_in, 2.0),
    formula="N(0, 2 / fan_in), for relu. He et al. 2015, arXiv:1502.01852.",
)
lecun_uniform = Initializer(
    "lecun_uniform",
    partial(_uniform, _fan_in, 1.0),
    formula="U(-a, a), a = sqrt(3 / fan_in): variance 1 / fan_in. LeCun et al. 1998, Efficient BackProp.",
)
lecun_normal = Initializer(
    "lecun_normal",
    partial(_normal, _fan_in, 1.0),
    formula="N(0, 1 / fan_in). LeCun et al. 1998, Efficient BackProp.",
)
torch = Initializer(
    "torch",
    partial(_uniform, _fan_in, 1 / 3),
    formula="U(-a, a), a = sqrt(1 / fan_in): variance 1 / (3 fan_in), as torch initializes its layers.",
)
normal = Initializer("normal", _normal_of, parameters={"std": 0.02}, ranges={"std": POSITIVE}, formula="N(0, std^2).")
orthogonal = Initializer(
    "orthogonal",
    _orthogonal,
    parameters={"gain": 1.0},
    ranges={"gain": POSITIVE},
    formula="gain times a random matrix with orthonormal rows or columns, whichever are fewer: the last axis gives the "
    "columns, all others the rows. Saxe et al. 2014, arXiv:1312.6120.",
)

INITIALIZERS: dict[str, Initializer] = {
    i.name: i
    for i in (
        zeros, ones, glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, torch, normal,
        orthogonal,
    )
}  # fmt: skip


def pick_initializer(argument: str, value: str | Initializer | npt.NDArray[Any]) -> Initializer:
    """The `Initializer` for a name, an `Initializer`, or an array, which it returns."""
    if not isinstance(value, np.ndarray):
        return pick(argument, value, INITIALIZERS, Initializer)
    check_mapping(value)
    if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
        raise value_error(argument, "an array of finite real numbers", shown(value))
    return Initializer("array", partial(_given, argument, value.astype(np.float64)))
