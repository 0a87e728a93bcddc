"""`python -m fastgd`: is this installation correct, and how fast is it here?

Compares the Cython body of every kernel with its numpy body, and the gradient of a network with finite differences;
measures microseconds per training step. `selfcheck --numba` includes the Numba bodies. The test suite uses the same
examples and the same gradient check.
"""

import collections
import importlib.util
import time

import numpy as np

from ..core.config import show_config
from ..core.domains import domain_of
from ..core.kernel import BODIES, DTYPES, FIXED_SIZES, kernels
from ..explore.gradient_check import check_gradients
from ..layers.dense import Dense
from ..network import Network
from ..optimizers import Adam

# Largest allowed difference of a body from the numpy body in float64, relative to the largest element of the result.
TOLERANCES = {"float32": 3e-6, "float64": 1e-13}
# Largest allowed error of a gradient in float64 against 4th-order differences, as `check_gradients` normalises it.
GRADIENT_TOLERANCE = 1e-8
# Sizes of dimensions by name; others are 5.
CHECKED_SIZES = collections.defaultdict(lambda: 5, rows=9, m=19, n=17, n_in=33, n_out=17, k=10, one=1)
TIMED = (
    ("4-16-1, batch 1", 4, (16,), 1, 1),
    ("64-64-10, batch 32", 64, (64,), 10, 32),
    ("784-128-10, batch 128", 784, (128,), 10, 128),
)


def example(kernel, sizes, dtype, rng):
    """Arguments for a kernel: random arrays of the given sizes in the domains of its contract; scalars in (0, 1)."""
    arguments, sizes = [], sizes | FIXED_SIZES
    for spec in kernel.arrays.values():
        first = -(-sizes[kernel.range_dim] // spec.per) if spec.per else sizes[spec.dims[0]]
        shape = (first, *(sizes[dim] for dim in spec.dims[1:]))
        values = domain_of(spec).example(rng, shape, sizes[spec.below] if spec.below else None)
        arguments.append(values.astype(spec.dtype or dtype))
    return arguments + list(rng.uniform(0.1, 0.9, len(kernel.scalars)))


def body_error(kernel, body, sizes, dtype, rng):
    """Largest difference between a body and the numpy body in float64 on the same numbers, relative to the largest
    element of each output, or to 0.1 if all are smaller (inputs are near 1). It is infinite if the body changes an
    array that the kernel only reads."""
    arguments = example(kernel, sizes, dtype, rng)
    exact = [
        a.astype(np.float64) if isinstance(a, np.ndarray) and spec.dtype is None else np.copy(a)
        for a, spec in zip(arguments, kernel.arrays.values(), strict=False)
    ]
    originals = [np.copy(a) for a in arguments[: len(kernel.arrays)]]
    kernel.reference(*exact, *arguments[len(kernel.arrays) :])
    kernel.body(body)(*arguments)
    worst = 0.0
    for spec, got, expected, original in zip(kernel.arrays.values(), arguments, exact, originals, strict=False):
        if spec.direction == "in":
            worst = worst if np.array_equal(got, original) else np.inf
        elif domain_of(spec).is_code:  # rounding may change a code by 1
            worst = worst if np.abs(got.astype(int) - expected).max() <= 1 else np.inf
        elif expected.size:
            scale = max(np.abs(expected).max(), 0.1)
            error = np.abs(got - expected).max() / scale
            worst = max(worst, error) if np.isfinite(error) else np.inf
    return worst


def step_microseconds(network, x, y, seconds=0.1):
    """Median time of a training step with Adam, in microseconds."""
    optimizer = Adam(1e-3)
    network.train_step(x, y, optimizer)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        network.train_step(x, y, optimizer)
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


def _check_bodies(bodies, rng):
    """Compares all bodies with the numpy bodies; prints a line for each kernel; returns the number of failures."""
    failures, compiling = 0, 0.0
    print(f"\n{'kernel against the numpy body':<36}" + "".join(f"{body:<22}" for body in bodies))
    for name, kernel in vars(kernels).items():
        cells = []
        for body in bodies:
            if body not in kernel.bodies():
                cells.append("-")
                continue
            if body == "numba":
                start = time.perf_counter()
                for dtype in DTYPES.values():
                    kernel.address(body, dtype)
                compiling += time.perf_counter() - start
            errors = {d: body_error(kernel, body, CHECKED_SIZES, dtype, rng) for d, dtype in DTYPES.items()}
            passed = all(errors[d] <= TOLERANCES[d] for d in errors)
            failures += not passed
            cells.append("PASS" if passed else "FAIL " + " ".join(f"{e:.1e}" for e in errors.values()))
        print(f"{name:<36}" + "".join(f"{cell:<22}" for cell in cells), flush=True)
    if compiling:
        print(f"(compiling the Numba bodies took {compiling:.1f} s, once)")
    return failures


def _check_gradients(backends, rng):
    failures = 0
    x, y = rng.normal(size=(7, 5)), rng.integers(0, 3, 7)
    print("\ngradient against 4th-order differences (5-8-3 tanh, float64)")
    for backend in backends:
        layers = [Dense(8, "tanh"), Dense(3)]
        network = Network(5, layers, loss="softmax_cross_entropy", l2=0.01, dtype="float64", backend=backend)
        error = max(check_gradients(network, x, y).values())
        passed = error <= GRADIENT_TOLERANCE
        failures += not passed
        print(f"{backend:<36}{'PASS' if passed else 'FAIL'} {error:.1e}")
    return failures


def time_steps(backends, rng):
    """Prints the time of a training step for a few networks and each of the backends."""
    print(f"\n{'microseconds per step (relu, Adam, float32)':<44}" + "".join(f"{b:>10}" for b in backends))
    for title, n_in, hidden, n_out, batch in TIMED:
        x = rng.normal(size=(batch, n_in)).astype(np.float32)
        y = rng.normal(size=(batch, n_out)).astype(np.float32)
        cells = []
        for backend in backends:
            layers = [*(Dense(n, "relu") for n in hidden), Dense(n_out)]
            cells.append(step_microseconds(Network(n_in, layers, loss="mse", backend=backend), x, y))
        print(f"{title:<44}" + "".join(f"{cell:>10.1f}" for cell in cells))


def installed_backends():
    return [b for b in BODIES if b != "numba" or importlib.util.find_spec("numba")]


def run(numba=False):
    """Runs the self-check; returns the number of failures. numba: whether to check and time Numba's bodies, too, whose
    compilation takes minutes."""
    rng = np.random.default_rng(0)
    show_config()
    backends = [backend for backend in installed_backends() if numba or backend != "numba"]
    if numba and "numba" not in backends:
        raise ImportError("the bodies of Numba need numba: pip install 'fastgd[numba]'")
    failures = _check_bodies([b for b in backends if b != "numpy"], rng)
    failures += _check_gradients(backends, rng)
    time_steps(backends, rng)
    print(f"\nself-check: {'PASS' if failures == 0 else f'FAIL ({failures})'}")
    return failures
