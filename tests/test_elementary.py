"""Elementary functions against more precise ones; errors are in units in the last place.

The tests take every 251st float32 number; `python tests/test_elementary.py` takes all of them.
"""

import importlib

import numpy as np
import pytest

from fastgd import _cpu

# name: the reference function, the lowest and highest argument, the largest error allowed
FUNCTIONS = {
    "exp": (np.exp, -np.inf, np.inf, 1.0),
    "expm1": (np.expm1, -np.inf, 40.0, 2.0),
    "log": (np.log, float(np.finfo(np.float32).tiny), np.inf, 1.5),
    "log1p": (np.log1p, 0.0, 1.0, 2.0),
    "tanh": (np.tanh, -np.inf, np.inf, 3.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -80.0, np.inf, 3.0),
}


def largest_errors(name, x, variants):
    """Of each variant, in units in the last place of the exact value in the precision of x."""
    x, errors = np.ascontiguousarray(x), {}
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][0](x.astype(np.float64 if x.dtype == np.float32 else np.longdouble))
        rounded = exact.astype(x.dtype)
        infinite = np.isinf(rounded)
        unit = np.spacing(np.abs(rounded)).astype(exact.dtype)
        for variant in variants:
            y = np.empty_like(x)
            compiled = importlib.import_module(f"fastgd._kernels_{variant}_{x.dtype}")
            compiled.apply_elementary(name, y.ctypes.data, x.ctypes.data, x.size)
            assert (y[infinite] == rounded[infinite]).all(), variant
            errors[variant] = float((np.abs(y - exact) / unit)[~infinite].max())
    return errors


def all_floats(start, step):
    """Every `step`-th float32 number from the `start`-th on, in the order of their bits."""
    return np.arange(start, 2**32, step, np.uint32).view(np.float32)


def in_range(name, x):
    _, low, high, _ = FUNCTIONS[name]
    return x[(x >= low) & (x <= high)]


def check(name, x):
    errors = largest_errors(name, x, _cpu.variants())
    assert max(errors.values()) <= FUNCTIONS[name][3], errors


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32(name):
    check(name, in_range(name, all_floats(0, 251)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64(name, rng):
    x = np.concatenate([rng.normal(size=100_000) * scale for scale in (1e-9, 1e-3, 0.1, 1, 10, 300)])
    x = np.concatenate([x, rng.uniform(0, 1, 100_000), 10.0 ** rng.uniform(-300, 300, 100_000)])
    check(name, in_range(name, x))


@pytest.mark.parametrize("variant", _cpu.variants())
def test_special_values(variant, dtype):
    compiled = importlib.import_module(f"fastgd._kernels_{variant}_{dtype}")
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    expected = {"exp": [np.nan, np.inf, 0, 1, 1], "tanh": [np.nan, 1, -1, 0, 0], "sigmoid": [np.nan, 1, 0, 0.5, 0.5]}
    for name, values in expected.items():
        y = np.empty_like(x)
        compiled.apply_elementary(name, y.ctypes.data, x.ctypes.data, x.size)
        np.testing.assert_array_equal(y, np.array(values, dtype))
    with pytest.raises(ValueError, match="'cbrt'"):
        compiled.apply_elementary("cbrt", 0, 0, 0)


def test_variants_that_fuse_give_the_same_bits(dtype, rng):
    x = np.abs(rng.normal(size=10_001) * 3).astype(dtype)
    fusing = [v for v in _cpu.variants() if v != "v2"]
    for name in FUNCTIONS:
        results = []
        for variant in fusing:
            y = np.empty_like(x)
            compiled = importlib.import_module(f"fastgd._kernels_{variant}_{dtype}")
            compiled.apply_elementary(name, y.ctypes.data, x.ctypes.data, x.size)
            results.append(y)
        for y in results[1:]:
            np.testing.assert_array_equal(y, results[0])


if __name__ == "__main__":
    for function in FUNCTIONS:
        best, errors = _cpu.variants()[:1], []
        for i in range(64):
            errors += largest_errors(function, in_range(function, all_floats(i, 64)), best).values()
        print(f"{function:<8} {max(errors):.3f} units of the last place over all float32")
