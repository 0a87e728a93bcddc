"""Compiled custom functions compute what Python computes: Python floats beside float32, integers, math."""

import math

import numpy as np
import pytest

from fastgd import custom
from fastgd.core.jit import Compiler

pytestmark = [pytest.mark.usefixtures("own_definitions"), pytest.mark.slow]  # each compiles a function


def compiled(function, *arguments):
    """The value of the compiled function; raises where it reports that Python would raise."""
    value, is_bad = Compiler((function,)).user(function)(*arguments)
    if is_bad:
        raise ArithmeticError("deferred")
    return value


THIRD, PAIR, TABLE = 1 / 3, (0.1, 2), np.array([0.1, 0.2], np.float32)


def scaled(v):
    return v * 0.7


def counters(z):
    n = z.size - 1
    total, k = 0, 0
    for i in range(n):
        total += i // 2 + i % 3
        k -= 1
    return total * 10 + k


def augmented(x):
    x += 0.1
    x *= 0.7
    x -= 1
    x /= 3
    return x


def closed():
    k = 0.1

    def times(x):
        return x * k

    return times


def nested(x):
    def inner(v, k=0.1):
        return v * k

    return inner(x) + inner(x, 0.3)


def comprehension(z):
    kept = [0.1 * v for v in z]
    return kept[1] + sum([0.3 * i for i in range(3)])


def loop(x):
    n = 0
    while x < 100:
        x = x * 1.7
        n += 1
    return x * n


def last(z):
    for j in range(z.size):
        v = z[j] * 0.1
    return v * z.shape[0]


def overflows(n):
    value = 1
    for _ in range(n):
        value *= 10
    return value


def unbound(x):
    if x > 1:
        s = 2.0
    return s * x


def handled(x):
    try:
        value = math.log(x)
    except Exception:
        value = -1.0
    return value * x


X, N, ROW, HUGE = np.float32(0.3), 7, np.array([0.3, 0.1, -2, 5], np.float32), np.float32(100)
SAME = {
    "floats": (lambda x: 0.1 * x + 0.7 - x / 3, X),
    "weak comparison": (lambda x: (x > 0.1) + 0, np.float32(0.1)),
    "one of some": (lambda x: (x in (0.3, 0.5)) + 2 * (x not in (1, 0.3)) + 4 * (2 in range(3)), X),
    "comparison by a function": (lambda x: np.greater(x, 0.3) + 2.0 * np.equal(x, 0.3), X),
    "choice by a function": (lambda z: (np.where(z > 0.05, 0.1, z) == z)[1] * 1.0, ROW),
    "remainder by a function": (lambda x: np.fmod(x, 0.3) + np.remainder(x, 0.1), X),
    "power of two": (lambda x: math.exp2(x), X),
    "shifts": (lambda n: (n << 3) + (n >> 70) + (-n >> 1), N),
    "shift to the last bit": (lambda n: (n - 4) << 61, N),
    "a whole number and a large float": (lambda n: n * 1e300 + n - 1e300, N),
    "whole part of 63 bits": (lambda x: int(x) + math.floor(-x), np.float32(2.0**62)),
    "weak equality": (lambda x: int(x == 0.1), np.float32(0.1)),
    "chained comparison": (lambda x: 1 if 0.05 < x <= 0.1 else 0, np.float32(0.1)),
    "strong float64": (lambda x: x * np.float64(0.1), X),
    "strong root": (lambda x: x * np.sqrt(2.0), X),
    "label": (lambda y, x: y * x, np.int64(3), X),
    "whole division": (lambda n: n // 2 + n % 3 + n / 2, N),
    "quotient and remainder": (lambda n: divmod(-n, 3)[0] + 10 * divmod(-n, 3)[1], N),
    "negative division": (lambda n: -n // 2 + (-n) % 3, N),
    "float division": (lambda x: x // 0.07 + x % 0.07, X),
    "by zero in float32": (lambda x: 1 / (x - x), X),
    "negative power": (lambda n: n**-1, N),
    "folded negative power": (lambda x: x * 2**-2, X),
    "square": (lambda x: x**2, X),
    "square of a whole number": (lambda n: n**2 - (n + 1) ** 20 + n**0, N),
    "power beyond every float": (lambda x: 1 / x**200, HUGE),
    "inverse": (lambda x: 1 / x + 2 * x - 3, X),
    "inverse square": (lambda x: x**-2, X),
    "root": (lambda x: x**0.5, X),
    "power of a number": (lambda x: 2**x, X),
    "power of a counter": (lambda x, n: x**n, X, 3),
    "negative literal": (lambda x: x * -0.1, X),
    "global": (lambda x: x * THIRD, X),
    "folded globals": (lambda x: x * (THIRD + 3), X),
    "global tuple": (lambda x: x * PAIR[0], X),
    "global array": (lambda x: x * TABLE[0], X),
    "constant of a module": (lambda x: x * math.pi, X),
    "another function": (lambda x: scaled(x) - 0.1, X),
    "condition": (lambda x: (0.1 if x > 0.2 else 0.7) * x, X),
    "mixed condition": (lambda x: (0.1 if x > 1 else x) * 0.7, X),
    "and": (lambda x: x and 0.5, X),
    "not": (lambda x: (not x > 0) * 1.0, X),
    "truth": (lambda x: (x > 0) * x, X),
    "size": (lambda z: z[0] / z.size + z[1] / len(z) + z[2] * z.shape[0], ROW),
    "negative index": (lambda z: z[-1] + z[z.size - 2], ROW),
    "array": (lambda z: (z * 0.1)[1], ROW),
    "minimum": (lambda x: np.minimum(x, 0.1) - np.maximum(x, 0.7), X),
    "largest": (lambda x: max(x, 0.1, 0.2), np.float32(0.2)),
    "exponential": (lambda x: math.exp(x), X),
    "exponential times": (lambda x: math.exp(x) * x, X),
    "softplus beyond float32": (lambda x: math.log(1 + math.exp(x)), HUGE),
    "root of math": (lambda x: math.sqrt(x) + 1, X),
    "exponent": (lambda x: math.ldexp(x, 3) + math.ldexp(x, -(2**40)), X),
    "division of floats": (lambda x: 1.0 / float(x) + 5.0 % float(x) - len(range(3)) // 0.7, X),
    "powers of floats": (
        lambda x: float(x) ** 2 + float(x) ** -2 + float(x) ** -0.5 + 2.0 ** float(x) + float(x) ** 0,
        X,
    ),
    "two arguments": (lambda x: math.atan2(x, 0.1) + math.hypot(x, 3), X),
    "rounding": (lambda x: round(x) + int(x * 3) + math.floor(-x), np.float32(2.5)),
    "float": (lambda x: float(x) * 0.1, X),
    "product of floats": (lambda x: float(x) * float(x), X),
    "counters": (counters, ROW),
    "augmented": (augmented, X),
    "closure": (closed(), X),
    "nested": (nested, X),
    "comprehension": (comprehension, ROW),
    "while": (loop, X),
    "last of a loop": (last, ROW),
    "bound": (unbound, np.float32(2)),
    "handled": (handled, np.float32(-2)),
    "not a number": (lambda x: math.exp(x), np.float32(np.nan)),
    "infinite": (lambda x: math.exp(x), np.float32(np.inf)),
}
# Where Python raises, or its result exceeds 64 bits: compiling or calling the function raises, too.
OTHER = {
    "division of wholes": (lambda n: 1 / (n - n), N),
    "whole division by zero": (lambda n: 1 // (n - n), N),
    "remainder by zero": (lambda n: 1 % (n - n), N),
    "division of floats": (lambda x: 1.0 / (math.exp(x - x) - 1), X),
    "whole division of floats": (lambda x: 1.0 // float(x - x), X),
    "remainder of floats": (lambda x: 5.0 % float(x - x), X),
    "float by a whole number": (lambda z: 0.5 / len(z[4:]), ROW),
    "inverse of a float": (lambda x: float(x - x) ** -1, X),
    "root of a negative float": (lambda x: float(-x) ** 0.5 + 1.0, X),
    "large square of a float": (lambda x: (float(x) * 1e200) ** 2, X),
    "large power of a float": (lambda z: float(z[3]) ** (1000 * z.size), ROW),
    "large exponent": (lambda x: math.ldexp(x, 2000), X),
    "larger exponent": (lambda x: math.ldexp(x, 2**40), X),
    "shift beyond 64 bits": (lambda n: n << 62, N),
    "shift to 64 bits": (lambda n: (n - 3) << 61, N),
    "whole part beyond 64 bits": (lambda x: int(x), np.float32(2.0**63)),
    "square beyond 64 bits": (lambda n: (n << 30) ** 2, N),
    "power of 64 bits": (lambda n: (n + 1) ** 21, N),
    "sum of 64 bits": (lambda n: (n << 60) + (n << 57) + (n - 6 << 57), N),
    "quotient by zero": (lambda n: divmod(n, n - n)[0], N),
    "shift by a negative number": (lambda n: n << (n - 10), N),
    "logarithm": (lambda x: math.log(x - x), X),
    "root": (lambda x: math.sqrt(-x), X),
    "exponential": (lambda x: math.exp(10 * x), HUGE),
    "sine": (lambda x: math.sin(x), np.float32(np.inf)),
    "whole part of NaN": (lambda x: int(x), np.float32(np.nan)),
    "floor of infinity": (lambda x: math.floor(x), np.float32(np.inf)),
    "index": (lambda z: z[z.size], ROW),
    "negative index": (lambda z: z[-5], ROW),
    "no value": (unbound, X),
    "no turn": (lambda z: last(z[4:]), ROW),
    "sums of conditions": (lambda x: ((x > 0) + (x > -1)) * 1.0, X),
    "differences of conditions": (lambda x: ((x > 0) - (x < 0)) * 1.0, X),
    "power of wholes": (lambda n: 2 ** (n * 10), N),
    "inverse power of a counter": (lambda n, k: n**k, N, -1),
    "literal": (lambda x: x * 10**20, X),
    "product": (overflows, 25),
}


@pytest.mark.parametrize("case", SAME)
def test_python_computes_the_same(case):
    function, *arguments = SAME[case]
    with np.errstate(all="ignore"):
        expected = function(*arguments)
    value = compiled(function, *arguments)
    precision = 2e-7 if isinstance(expected, np.float32) else 1e-15
    np.testing.assert_allclose(value, float(expected), rtol=precision)
    if isinstance(expected, np.float32) and case != "comprehension":  # its sum begins with an int
        assert math.isnan(value) or float(np.float32(value)) == value


@pytest.mark.parametrize("case", OTHER)
def test_what_python_does_not_compute_is_not_computed(case):
    function, *arguments = OTHER[case]
    with pytest.raises(Exception):  # noqa: B017, PT011  Numba's own, and Python's
        compiled(function, *arguments)


def test_numbers_keep_float32():
    """A float32 rule compiles to float32 vectors: Python floats promote nothing to double."""

    @custom.optimizer(state=["m", "v"])
    def mine(p, g, m, v, lr, beta=0.9, eps=1e-8):
        m = beta * m + (1 - beta) * g
        v = 0.99 * v + 0.01 * g**2
        return p - lr * m / (math.sqrt(v) + eps) * math.pi, m, v

    text = mine.kernel.numba_loop(np.float32).function._library.get_asm_str()
    assert "sqrtps" in text
    assert "sqrtpd" not in text
