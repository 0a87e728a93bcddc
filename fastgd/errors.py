"""Errors, and checks of arguments: every message names the argument, what was expected and what was received."""

import math
import numbers
import os
import sys
import warnings
from typing import Any

import numpy as np


class DivergenceError(ArithmeticError):
    """The loss or the gradient of a step is not finite. It is raised before the update, so the parameters have
    their values after the last good step.

    update: number of the optimizer's update that was not made, from 1 on.
    minibatch: number of the minibatch, from 1 on: within the run in `fit`, as `run.step` counts, otherwise among all
        that the network was trained on. It differs from `update` if the optimizer accumulates gradients.
    epoch: from 1 on; None outside `fit`.
    loss, learning_rate: of the minibatch; the loss is None after `optimizer.step(network)`, which does not know it.
    last_loss: of the minibatch before, or None."""

    def __init__(
        self,
        update: int,
        *,
        minibatch: int,
        epoch: int | None = None,
        loss: float | None,
        learning_rate: float,
        last_loss: float | None = None,
    ) -> None:
        self.update, self.minibatch, self.epoch = update, minibatch, epoch
        self.loss, self.learning_rate, self.last_loss = loss, learning_rate, last_loss
        where = f"update {update} (minibatch {minibatch}{'' if epoch is None else f', epoch {epoch}'})"
        what = f"loss {loss}" if loss is not None and not math.isfinite(loss) else "a gradient that would overflow"
        last = "" if last_loss is None else f"; last finite loss {last_loss:.4g}"
        super().__init__(
            f"training diverged at {where}: expected a finite loss and gradient, got {what}{last}; "
            f"learning_rate {learning_rate:.4g}. The parameters are those before this step. "
            "Try a smaller learning rate, or scale the inputs and targets."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _divergence, (vars(self),)


def _divergence(fields):
    """A DivergenceError from its fields, for pickle."""
    return DivergenceError(**fields)


def reason(error):
    """`History.stopped` of a run that an exception ended."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return "diverged" if isinstance(error, DivergenceError) else "error"


class RankError(RuntimeError):
    """Another process of a training on several ranks failed, hangs or has died. `rank` is its number; `is_told` whether
    it has said so itself."""

    def __init__(self, message: str, rank: int, *, is_told: bool = False) -> None:
        super().__init__(message, rank)
        self.rank, self.is_told = rank, is_told

    def __str__(self) -> str:
        return str(self.args[0])


def raised_by_all(error):
    """The exception, marked as one that all ranks of a training raise at the same point, so that none has to learn of
    it."""
    error.is_on_all_ranks = True
    return error


def warn_user(message):
    """Warns, in the name of the line outside of this package that led here."""
    package, frame, level = os.path.dirname(__file__) + os.sep, sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


class CheckpointError(ValueError):
    """A file is not a fastgd model, is incomplete, or does not fit the object that it is loaded into. See the
    attributes `path`, `field`, `expected` and `got`."""

    def __init__(self, path: str, field: str, expected: object, got: object) -> None:
        super().__init__(path, field, expected, got)
        self.path, self.field, self.expected, self.got = path, field, expected, got

    def __str__(self) -> str:
        return f"{self.path!r}, field {self.field!r}: expected {self.expected}, got {self.got}"


def shown(value):
    """A short text for a value in a message: arrays by dtype and shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    text = repr(value)
    if len(text) > 80 and type(value) in (list, tuple) and len(value) > 1:
        return _shown_items(value, *("()" if type(value) is tuple else "[]"))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _shown_items(values, first, last):
    """The first items of a sequence, none cut, and how many there are."""
    items = [text if len(text) <= 40 else f"{text[:37]}..." for text in map(repr, values[:40])]
    while len(items) > 1 and sum(len(item) + 2 for item in items) > 66:
        items.pop()
    if len(items) == len(values):
        return f"{first}{', '.join(items)}{last}"
    return f"{first}{', '.join(items)}, ... {len(values)} in all{last}"


def first_difference(name, one, other):
    """Where two values made of lists and dicts differ first, and the values there as texts, for a message. Short values
    are shown whole."""
    if max(len(repr(one)), len(repr(other))) <= 80:
        return name, repr(one), repr(other)
    if type(one) is dict and type(other) is dict and one.keys() == other.keys():
        key = next(key for key in one if one[key] != other[key])
        return first_difference(f"{name}.{key}", one[key], other[key])
    if type(one) is list and type(other) is list:
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return first_difference(f"{name}[{i}]", a, b)
        return name, f"{len(one)} elements", f"{len(other)}"
    return name, shown(one), shown(other)


def value_error(argument, expected, got):
    return ValueError(f"argument {argument!r}: expected {expected}, got {got}")


def type_error(argument, expected, got):
    return TypeError(f"argument {argument!r}: expected {expected}, got {got}")


def check_integer(argument, value, low):
    """`value` as an int of at least `low`, below 2^63."""
    if type(value) is int and low <= value < 2**63:
        return value
    expected = f"an integer >= {low}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")
    if not low <= value < 2**63:
        raise value_error(argument, expected if value < low else f"{expected} and below 2^63", shown(int(value)))
    return int(value)


def check_number(argument, value, low=-math.inf, high=math.inf, *, low_open=False, high_open=False):
    """`value` as a finite float in the interval from `low` to `high`."""
    if type(value) is float and low < value < high:
        return value
    opening, closing = "(" if low_open or low == -math.inf else "[", ")" if high_open or high == math.inf else "]"
    expected = f"a finite number in {opening}{low:g}, {high:g}{closing}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")
    try:
        value = float(value)
    except OverflowError:
        raise value_error(argument, expected, shown(value)) from None
    inside = (value > low if low_open else value >= low) and (value < high if high_open else value <= high)
    if not (math.isfinite(value) and inside):
        raise value_error(argument, expected, value)
    return value


def check_flag(argument, value):
    """`value` as a bool."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise type_error(argument, "True or False", shown(value))
    return bool(value)


def choose(argument, name, table):
    """The entry of `table` called `name`; for an unknown name, the error suggests the nearest known one."""
    if not isinstance(name, str):
        raise type_error(argument, f"one of {', '.join(map(repr, table))}", f"{shown(name)} ({type(name).__name__})")
    if name not in table:
        import difflib

        lower = {known.lower(): known for known in reversed(list(table))}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
        raise value_error(argument, f"one of {', '.join(map(repr, table))}", f"{name!r}{hint}")
    return table[name]


def plain(name):
    """A name for printing: control characters and bytes that are not UTF-8 are escaped."""
    return name if name.isprintable() else repr(name)
