"""Domains of a contract's arrays: which values belong to each, and which definitions a kernel refuses."""

import numpy as np
import pytest
from cases import KERNELS

import fastgd
from fastgd.cli.self_check import example
from fastgd.core.domains import DOMAINS, MASS_TOLERANCE, Domain, domain_of
from fastgd.core.kernel import BODIES, In, InOut, Kernel, Out
from fastgd.data.samples import check_values
from fastgd.losses import LOSSES

BELONG = {
    "real": [-1e30, 0.0, 1e30],
    "nonnegative": [0.0, -0.0, 1e30],
    "unit": [0.0, -0.0, 1.0],
    "probabilities": [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.4991, 0.0], [0.5, 0.5009, 0.0]],
    "labels": [0, 1, 2],
    "count": [0, 1, 10**9],
    "tokens": [0.0, 1.0, 2.0],
    "mask": [0.0, 1.0],
    "weights": [-1e30, 0.0, 1e30],
    "gates": [-1.0, 0.0, 1.0],
    "recurrent": [-1e30, 0.0, 1e30],
}
NOT_BELONG = {
    "real": [np.nan, np.inf, -np.inf],
    "nonnegative": [np.nan, np.inf, -1e-30],
    "unit": [np.nan, -1e-30, 1.0001, np.inf],
    "probabilities": [[0.5, 0.4989, 0.0], [0.5, 0.5011, 0.0], [1.5, -0.5, 0.0], [np.nan, 1.0, 0.0]],
    "labels": [-1, 3],
    "count": [-1],
    "tokens": [-1.0, 3.0, 0.5, np.nan],
    "mask": [-1.0, 0.5, np.nan],
    "weights": [np.nan, np.inf],
    "gates": [-1.0001, 1.0001, np.nan],
    "recurrent": [np.nan, np.inf],
}


@pytest.mark.parametrize("name", BELONG)
def test_what_belongs_to_a_domain(name):
    for value in BELONG[name]:
        assert DOMAINS[name].belonging(np.array([value]), 3).all(), value
    for value in NOT_BELONG[name]:
        assert not DOMAINS[name].belonging(np.array([value]), 3).all(), value


@pytest.mark.parametrize("name", DOMAINS)
def test_examples_belong_to_their_domain(name, rng):
    values = DOMAINS[name].example(rng, (50, 7), 3)
    assert values.shape == (50, 7)
    assert DOMAINS[name].belonging(values, 3).all()
    assert len(np.unique(values)) > (1 if name in ("mask", "signs") else 2)


def test_every_domain_is_used_and_documented():
    specs = [(kernel, spec) for kernel in KERNELS.values() for spec in kernel.arrays.values()]
    assert {spec.domain for _, spec in specs} == set(DOMAINS)
    for kernel, spec in specs:
        if spec.domain != "real":
            assert domain_of(spec).expected.format(highest=f"{spec.below} - 1") in kernel.__doc__


def contract(**options):
    def spoilt(y: Out("rows", "k"), x: In("rows", **options)):
        """A contract with options of x."""

    return spoilt


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"domain": "probabilties"},
            "domain of array x of kernel spoilt.*; did you mean 'probabilities'",
        ),
        ({"domain": "labels"}, "below of array x of kernel spoilt.*one of 'rows', 'k', got None"),
        ({"domain": "labels", "below": "n"}, "below of array x of kernel spoilt.*one of 'rows', 'k', got 'n'"),
        ({"domain": "unit", "below": "k"}, "below of array x of kernel spoilt.*None: domain 'unit' has no bound"),
    ],
)
def test_a_domain_that_cannot_work_is_refused_when_the_kernel_is_defined(options, match):
    with pytest.raises(ValueError, match=match):
        Kernel(contract(**options))
    assert not hasattr(fastgd.kernels, "spoilt")


def test_a_contract_without_arrays_or_without_dimensions_is_refused():
    def empty(a: float):
        """No array."""

    def flat(y: Out("n"), x: In()):
        """An array without dimensions."""

    with pytest.raises(TypeError, match="kernel empty: expected annotated arrays"):
        Kernel(empty)
    with pytest.raises(TypeError, match="kernel flat: expected at least one dimension of array x"):
        Kernel(flat)


def test_a_new_domain_needs_one_definition(monkeypatch, rng):
    """The checks, the examples and the docstring follow from it."""
    even = Domain(
        "even numbers", lambda rng, shape, below: 2 * rng.integers(0, 9, shape),
        lambda block, below: block % 2 == 0,
    )  # fmt: skip
    monkeypatch.setitem(DOMAINS, "even", even)

    def halve(y: InOut("rows", domain="even")):
        """y <- y / 2."""
        y /= 2

    kernel = Kernel(halve)
    assert "even numbers" in kernel.__doc__
    (values,) = example(kernel, {"rows": 9}, "float32", rng)
    check_values("y", values, np.float32, kernel.arrays["y"])
    with pytest.raises(ValueError, match=r"'y'.*even numbers.*got 3.0 at index 1"):
        check_values("y", np.array([2.0, 3.0]), np.float32, kernel.arrays["y"])


@pytest.mark.parametrize("off", [-1.01, -0.99, 0.99, 1.01])
@pytest.mark.parametrize("k", [3, 50, 3000])
@pytest.mark.parametrize("body", BODIES)
def test_checks_bodies_and_metrics_share_the_tolerance_of_probabilities(off, k, body, dtype):
    """Just inside and just outside the tolerance: targets that pass the checks have finite losses on every backend."""
    y, is_valid = np.full((5, k), (1 + off * MASS_TOLERANCE) / k, dtype), abs(off) < 1
    loss, kernel = LOSSES["softmax_cross_entropy"], fastgd.kernels.softmax_cross_entropy_loss
    if is_valid:
        check_values("y", y, dtype, kernel.arrays["y"])
        assert fastgd.metrics.METRICS["accuracy"].value(y, y, None) == 1
    else:
        with pytest.raises(ValueError, match="rows of numbers >= 0 that sum to 1"):
            check_values("y", y, dtype, kernel.arrays["y"])
        with pytest.raises(ValueError, match="rows of probabilities"):
            fastgd.metrics.METRICS["accuracy"].value(y, y, None)
    value, dz = np.empty(5, dtype), np.empty((5, k), dtype)
    kernel.body(body)(value, dz, np.zeros_like(y), y, np.ones(5, dtype), *loss.parameters.values())
    assert np.isfinite(value).all() == is_valid
