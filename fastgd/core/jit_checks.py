"""Functions that the passes of jit_python.py insert into users' functions: they give Python's numbers the right
precision, and raise where Python raises.

When Numba compiles them, their overloads replace them. Functions that check an operand return it, so that the operation
itself remains Numba's.
"""

import math
import operator

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

BITS_63 = 2.0**63
# An exponent of 2 beyond which every float is infinite or 0. It fits in the 32 bits that Numba has for it.
LARGEST_SHIFT = 10_000


def weak(value, other):
    """The value, a Python number, in the precision that it has in an operation with `other`."""
    return value


@overload(weak)
def _weak(value, other):
    dtype = other.dtype if isinstance(other, types.Array) else other
    if dtype == types.float32 and isinstance(value, (types.Number, types.Boolean)) and value != types.float32:
        return lambda value, other: np.float32(value)
    return lambda value, other: value


def divisor(value, by):
    """`by`; raises if both are integers and `by` is 0."""
    return by


@overload(divisor)
def _divisor(value, by):
    if not (isinstance(value, types.Integer) and isinstance(by, types.Integer)):
        return lambda value, by: by

    def checked(value, by):
        if by == 0:
            raise ZeroDivisionError("division by zero")
        return by

    return checked


def number_divisor(value, by):
    """`by`, for Python numbers; raises if `by` is 0."""
    return by


@overload(number_divisor)
def _number_divisor(value, by):
    def checked(value, by):
        if by == 0:
            raise ZeroDivisionError("division by zero")
        return by

    return checked


def check_number_power(base, power):
    """Raises if a power of Python numbers is not real, or too large. (For two integers, `exponent` checks it.)"""


@overload(check_number_power)
def _check_number_power(base, power):
    if isinstance(base, types.Integer) and isinstance(power, types.Integer):
        return lambda base, power: None

    def checked(base, power):
        v, w = np.float64(base), np.float64(power)
        value = v**w
        if (value != value and v == v and w == w) or (abs(value) == np.inf and v - v == 0 and w - w == 0):
            raise ArithmeticError("a power that is no real number, or too large")

    return checked


def contained(values, value):
    """Whether a value equals an element of a tuple, in which Python numbers take the value's precision."""
    return value in values


@overload(contained)
def _contained(values, value):
    if not isinstance(values, types.BaseTuple):
        return lambda values, value: value in values
    same = " or ".join(f"value == weak(values[{i}], value)" for i in range(len(values)))
    return eval(f"lambda values, value: {same or False}", {"weak": weak})


def _shift(function):
    """A shift that raises if it is by a negative number, or if the result exceeds 64 bits."""

    def shifted(value, by):
        return function(value, by)

    @overload(shifted)
    def _shifted(value, by):
        is_left = function is operator.lshift

        def checked(value, by):
            if by < 0 or (is_left and not abs(np.float64(value)) * 2.0 ** np.float64(by) < BITS_63):
                raise OverflowError("a shift by a negative number, or beyond 64 bits")
            return function(value, min(by, 63))

        return checked

    return shifted


SHIFTS = {function: _shift(function) for function in (operator.lshift, operator.rshift)}


def exponent(base, power):
    """`power`; raises if both are integers and the result is not an integer of 64 bits."""
    return power


@overload(exponent)
def _exponent(base, power):
    if not (isinstance(base, types.Integer) and isinstance(power, types.Integer)):
        return lambda base, power: power

    def checked(base, power):
        if power < 0 or not abs(np.float64(base)) ** np.float64(power) < BITS_63:
            raise OverflowError("a power that is no whole number of 64 bits")
        return power

    return checked


def _within(function):
    """The function that returns the second operand; raises if both are integers and the result exceeds 64 bits."""

    def operand(left, right):
        return right

    @overload(operand)
    def _operand(left, right):
        if not (isinstance(left, types.Integer) and isinstance(right, types.Integer)):
            return lambda left, right: right

        def checked(left, right):
            if not abs(function(np.float64(left), np.float64(right))) < BITS_63:
                raise OverflowError("a whole number beyond 64 bits")
            return right

        return checked

    return operand


WITHIN = {function: _within(function) for function in (operator.add, operator.sub, operator.mul)}


def inverse_power(base, power):
    """base to the power of a negative integer."""
    return base**power


@overload(inverse_power)
def _inverse_power(base, power):
    if isinstance(base, types.Integer):

        def of_whole(base, power):
            if base == 0:
                raise ZeroDivisionError("0.0 cannot be raised to a negative power")
            return np.float64(base) ** np.float64(power)

        return of_whole
    if base == types.float32:
        return lambda base, power: base ** np.float32(power)
    return lambda base, power: base**power


def _checked_math(function, arity):
    """A function of `math` that returns its value, and whether Python would raise."""
    if function is math.sqrt:  # the check does not use the root, so that a float32 root can be computed in float32
        return register_jitable(lambda x: (math.sqrt(np.float64(x)), x < 0))
    if function is math.ldexp:

        def checked(x, n):
            v = np.float64(x)
            value = math.ldexp(v, min(max(n, -LARGEST_SHIFT), LARGEST_SHIFT))
            return value, (abs(value) == np.inf) & (v - v == 0)

    elif arity == 1:

        def checked(x):
            v = np.float64(x)
            value = function(v)
            return value, ((value != value) & (v == v)) | ((abs(value) == np.inf) & (v - v == 0))

    else:

        def checked(x, y):
            v, w = np.float64(x), np.float64(y)
            value = function(v, w)
            both = (v == v) & (w == w)
            return value, ((value != value) & both) | ((abs(value) == np.inf) & (v - v == 0) & (w - w == 0))

    return register_jitable(checked)


def _raising(checked, arity):
    """A function of `math` that raises immediately."""
    if arity == 1:

        def raising(x):
            value, is_bad = checked(x)
            if is_bad:
                raise ValueError("math domain error")
            return value

    else:

        def raising(x, y):
            value, is_bad = checked(x, y)
            if is_bad:
                raise ValueError("math domain error")
            return value

    return register_jitable(raising)


def _whole(function):
    """A function that converts a float to an integer, or raises."""

    def made(x):
        return function(x)

    @overload(made)
    def _made(x):
        if not isinstance(x, types.Float):
            return lambda x: function(x)

        def checked(x):
            if not abs(x) < BITS_63:
                raise ValueError("cannot convert float to integer")
            return function(x)

        return checked

    return made


@register_jitable
def as_float(x):
    """float(x); Numba's own float(x) leaves float32 as it is."""
    return np.float64(x)


def bound(is_bound):
    """Raises if a local variable that is read has no value, for which Numba would use 0."""


@overload(bound)
def _bound(is_bound):
    def checked(is_bound):
        if not is_bound:
            raise UnboundLocalError("a local variable without a value")

    return checked


UNARY = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "degrees", "erf", "erfc", "exp", "exp2",
    "expm1", "fabs", "gamma", "lgamma", "log", "log10", "log1p", "log2", "radians", "sin", "sinh", "sqrt", "tan",
    "tanh",
)  # fmt: skip
BINARY = ("atan2", "copysign", "fmod", "hypot", "ldexp", "pow")
CHECKED = {
    (getattr(math, name), arity): _checked_math(getattr(math, name), arity)
    for names, arity in ((UNARY, 1), (BINARY, 2))
    for name in names
}
RAISING = {key: _raising(checked, key[1]) for key, checked in CHECKED.items()}
# Replacements for functions of one argument that return Python numbers.
CONVERSIONS = {float: as_float}
CONVERSIONS |= {function: _whole(function) for function in (int, round, math.floor, math.ceil, math.trunc)}
# The inserted functions that return Python numbers.
NUMBERS = {*RAISING.values(), *CONVERSIONS.values()}
