"""Errors, and the checks at the door: every message names the argument, what was expected and what came."""

import difflib
import math
import numbers

import numpy as np


class DivergenceError(ArithmeticError):
    """The loss or the gradient of a step is not finite. Raised before the update: the parameters are as after the last
    good step.

    update: the number of the optimizer's update that was not made, from 1 on. minibatch: the number of the minibatch,
    from 1 on: of the run in `fit`, as `run.step` counts, else of all that the network was trained on. The two differ
    where the optimizer accumulates gradients. epoch: from 1 on, or None outside `fit`. loss, learning_rate: of the
    minibatch. last_loss: of the one before, or None."""

    def __init__(self, update, *, minibatch, epoch=None, loss, learning_rate, last_loss=None):
        self.update, self.minibatch, self.epoch = update, minibatch, epoch
        self.loss, self.learning_rate, self.last_loss = loss, learning_rate, last_loss
        where = f"update {update} (minibatch {minibatch}{'' if epoch is None else f', epoch {epoch}'})"
        what = f"loss {loss}" if not math.isfinite(loss) else f"a gradient too large to follow (loss {loss:.4g})"
        last = "" if last_loss is None else f"; last finite loss {last_loss:.4g}"
        super().__init__(
            f"training diverged at {where}: expected a finite loss and gradient, got {what}{last}; "
            f"learning_rate {learning_rate:.4g}. The parameters are those before this step. "
            "Try a smaller learning rate, or scale the inputs."
        )

    def __reduce__(self):
        return _divergence, (vars(self),)


def _divergence(fields):
    """A DivergenceError from its fields: to pickle it, as process pools do."""
    return DivergenceError(**fields)


class CheckpointError(ValueError):
    """A file is not a fastgd model, or not a whole one, or not one for what it is loaded into: `path`, `field`,
    `expected` and `got` tell."""

    def __init__(self, path, field, expected, got):
        super().__init__(path, field, expected, got)
        self.path, self.field, self.expected, self.got = path, field, expected, got

    def __str__(self):
        return f"{self.path!r}, field {self.field!r}: expected {self.expected}, got {self.got}"


def shown(value):
    """A short text for a value in a message: arrays by dtype and shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def value_error(argument, expected, got):
    return ValueError(f"argument {argument!r}: expected {expected}, got {got}")


def type_error(argument, expected, got):
    return TypeError(f"argument {argument!r}: expected {expected}, got {got}")


def check_integer(argument, value, low):
    """`value` as an int of at least `low`, below 2^63."""
    expected = f"an integer >= {low}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")
    if not low <= value < 2**63:
        raise value_error(argument, expected if value < low else f"{expected} and below 2^63", shown(int(value)))
    return int(value)


def check_number(argument, value, low=-math.inf, high=math.inf, *, low_open=False, high_open=False):
    """`value` as a finite float in the interval from `low` to `high`."""
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
    if not isinstance(value, (bool, np.bool_)):
        raise type_error(argument, "True or False", shown(value))
    return bool(value)


def choose(argument, name, table):
    """The entry of `table` called `name`; an unknown name is an error that tells the nearest known one."""
    if not isinstance(name, str):
        raise type_error(argument, f"one of {', '.join(map(repr, table))}", f"{shown(name)} ({type(name).__name__})")
    if name not in table:
        lower = {known.lower(): known for known in reversed(list(table))}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
        raise value_error(argument, f"one of {', '.join(map(repr, table))}", f"{name!r}{hint}")
    return table[name]
