"""Domains: the sets of valid values for arrays in a kernel's contract. One definition serves the text of the contract,
the checks of users' data, and the random examples for the self-check, tests and benchmarks."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from ..errors import choose, value_error

# How far the sum of a row of probabilities may be from 1.
MASS_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Domain:
    """A set of values. `below` is the exclusive upper bound, if a contract gives one as the size of a dimension, else
    infinity.

    expected: text for error messages, with {highest} for below - 1.
    example: function(rng, shape, below) -> random values of this domain; real numbers are near 1.
    contains: function(block, below) -> for each element of an array of finite numbers, whether it belongs; or for each
        row, as (..., 1). None if all finite numbers belong.
    has_bound: whether a contract must name the dimension whose size is the bound.
    is_whole: whether values are integers, which are checked unchanged; others are first cast to the network's dtype.
    is_code: whether values are codes of stochastically rounded numbers, so that bodies may differ by 1.
    """

    expected: str
    example: Callable
    contains: Callable | None = None
    has_bound: bool = dataclasses.field(default=False, kw_only=True)
    is_whole: bool = dataclasses.field(default=False, kw_only=True)
    is_code: bool = dataclasses.field(default=False, kw_only=True)

    def belonging(self, block, below=math.inf):
        """Which elements of an array belong to the domain; or which rows, as (..., 1), if the domain is one of rows and
        all elements are finite."""
        finite = np.isfinite(block)
        if self.contains is None or not finite.all():
            return finite
        with np.errstate(all="ignore"):
            return self.contains(block, below)


def sum_to_one(rows):
    """Which rows of an array, along its last axis, sum to 1 within the tolerance."""
    with np.errstate(all="ignore"):
        return np.abs(rows.sum(axis=-1, dtype=np.float64) - 1) <= MASS_TOLERANCE


DOMAINS = {
    "real": Domain("finite numbers", lambda rng, shape, below: rng.normal(size=shape)),
    "nonnegative": Domain(
        "numbers >= 0",
        lambda rng, shape, below: np.abs(rng.normal(size=shape)),
        lambda block, below: block >= 0,
    ),
    "unit": Domain(
        "numbers in [0, 1]",
        lambda rng, shape, below: rng.uniform(0, 1, shape),
        lambda block, below: (block >= 0) & (block <= 1),
    ),
    "signs": Domain(
        "1 or -1",
        lambda rng, shape, below: rng.choice([-1.0, 1.0], shape),
        lambda block, below: np.abs(block) == 1,
    ),
    "probabilities": Domain(
        "rows of numbers >= 0 that sum to 1",
        lambda rng, shape, below: rng.dirichlet(np.ones(shape[-1]), shape[:-1]),
        lambda block, below: ((block >= 0).all(axis=-1) & sum_to_one(block))[..., None],
    ),
    "labels": Domain(
        "integer labels in [0, {highest}]",
        lambda rng, shape, below: rng.integers(0, below, shape),
        lambda block, below: (block >= 0) & (block < below),
        has_bound=True,
        is_whole=True,
    ),
    "tokens": Domain(
        "token ids, whole numbers in [0, {highest}]",
        lambda rng, shape, below: rng.integers(0, below, shape),
        lambda block, below: (block >= 0) & (block < below) & (block == np.floor(block)),
        has_bound=True,
    ),
    "mask": Domain(
        "0 or 1",
        lambda rng, shape, below: rng.integers(0, 2, shape),
        lambda block, below: (block == 0) | (block == 1),
    ),
    "weights": Domain(
        "finite numbers, 0 above the diagonal if the attention is causal",
        lambda rng, shape, below: np.tril(rng.uniform(0, 1, shape)),
    ),
    "gates": Domain(
        "numbers in [-1, 1]",
        lambda rng, shape, below: rng.uniform(0, 1, shape),
        lambda block, below: np.abs(block) <= 1,
    ),
    # Examples are so small that errors do not grow from step to step.
    "recurrent": Domain("finite numbers", lambda rng, shape, below: rng.normal(0, 0.25 / shape[-1] ** 0.5, shape)),
    "count": Domain(
        "integers >= 0",
        lambda rng, shape, below: rng.integers(0, 1000, shape),
        lambda block, below: block >= 0,
        is_whole=True,
    ),
}


def domain_of(spec):
    """The `Domain` of an array of a contract; all finite numbers for None."""
    return DOMAINS["real" if spec is None else spec.domain]


def check_domain(argument, spec, dims):
    """Raises ValueError unless the domain of an array of a contract is known, and `below` is one of the dimensions
    `dims` exactly if the domain has a bound."""
    domain = choose(f"domain of {argument}", spec.domain, DOMAINS)
    if domain.has_bound and spec.below not in dims:
        raise value_error(f"below of {argument}", f"one of {', '.join(map(repr, dims))}", repr(spec.below))
    if spec.below is not None and not domain.has_bound:
        raise value_error(f"below of {argument}", f"None: domain {spec.domain!r} has no bound", repr(spec.below))
