"""Initial values of parameters. fan_in and fan_out are the rows and columns of a weight matrix (n_in, n_out)."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from .choice import POSITIVE, Choice, pick
from .errors import shown, value_error


@dataclasses.dataclass(frozen=True, repr=False)
class Initializer(Choice):
    """`values(rng, shape, **parameters)` gives a float64 array of the shape."""

    values: Callable

    __hash__ = Choice.__hash__


def _zeros(rng, shape):
    return np.zeros(shape)


def _ones(rng, shape):
    return np.ones(shape)


def _fan_in(fan_in, fan_out):
    return fan_in


def _fan_average(fan_in, fan_out):
    return (fan_in + fan_out) / 2


def _uniform(fan, gain, rng, shape):
    limit = (3 * gain / fan(shape[0], shape[-1])) ** 0.5
    return rng.uniform(-limit, limit, shape)


def _normal(fan, gain, rng, shape):
    return rng.normal(0.0, (gain / fan(shape[0], shape[-1])) ** 0.5, shape)


def _orthogonal(rng, shape, gain):
    """Orthonormal rows or columns, whichever are fewer, times gain. Saxe et al. 2014, arXiv:1312.6120."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))
    return gain * (q if rows >= columns else q.T).reshape(shape)


def _given(argument, array, rng, shape):
    if array.shape != shape:
        raise value_error(argument, f"an array of shape {shape}", shown(array))
    return array


zeros = Initializer("zeros", _zeros)
ones = Initializer("ones", _ones)
# Variance gain / fan. Glorot & Bengio 2010 (average, 1); He et al. 2015, arXiv:1502.01852 (in, 2); LeCun et al. 1998
# (in, 1).
glorot_uniform = Initializer("glorot_uniform", partial(_uniform, _fan_average, 1.0))
glorot_normal = Initializer("glorot_normal", partial(_normal, _fan_average, 1.0))
he_uniform = Initializer("he_uniform", partial(_uniform, _fan_in, 2.0))
he_normal = Initializer("he_normal", partial(_normal, _fan_in, 2.0))
lecun_uniform = Initializer("lecun_uniform", partial(_uniform, _fan_in, 1.0))
lecun_normal = Initializer("lecun_normal", partial(_normal, _fan_in, 1.0))
orthogonal = Initializer("orthogonal", _orthogonal, parameters={"gain": 1.0}, ranges={"gain": POSITIVE})

INITIALIZERS = {
    i.name: i
    for i in (
        zeros, ones, glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, orthogonal,
    )
}  # fmt: skip


def pick_initializer(argument, value):
    """An `Initializer`; an array becomes one that gives that array."""
    if not isinstance(value, np.ndarray):
        return pick(argument, value, INITIALIZERS, Initializer)
    if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
        raise value_error(argument, "an array of finite real numbers", shown(value))
    return Initializer("array", partial(_given, argument, value.astype(np.float64)))
