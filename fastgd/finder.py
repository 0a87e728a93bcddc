"""The learning-rate range test: which learning rate to begin with."""

import copy
import dataclasses

import numpy as np

from .callbacks import every
from .errors import DivergenceError, check_integer, check_number, value_error
from .training import fresh_optimizer

# A loss so many times its least ends the test, and the weight of the past in the smoothed loss.
TOO_LARGE, SMOOTHING = 4.0, 0.9


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """learning_rate: of each step; loss: of each, and smoothed: their exponential moving average, corrected for its
    start. suggestion: a tenth of the learning rate at which the smoothed loss is least."""

    learning_rate: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray
    suggestion: float


def find_learning_rate(network, X, y, *, optimizer=None, batch_size=32, low=1e-6, high=1.0, steps=200):
    """Trains a copy of the network while the learning rate grows from low to high, by the same factor each step, until
    the loss is four times its least, or `steps` are done; returns a `RangeTest`. Smith 2017, arXiv:1506.01186.

    X, y, batch_size: as in `fit`. optimizer: one whose options are used, not its state, or a name; None is "Adam".
    Raises TypeError or ValueError that names the argument.
    """
    low, high = check_number("low", low, 0.0, low_open=True), check_number("high", high, 0.0, low_open=True)
    steps = check_integer("steps", steps, 10)
    if high <= low:
        raise value_error("high", f"more than low = {low}", high)
    tried = fresh_optimizer(optimizer, lambda step: low * (high / low) ** (min(step, steps - 1) / (steps - 1)))
    rates, losses, smoothed = [], [], []

    def look(run):
        past = SMOOTHING ** (len(losses) + 1)
        before = smoothed[-1] * (1 - past / SMOOTHING) if losses else 0.0
        rates.append(run.learning_rate)
        losses.append(run.loss)
        smoothed.append((SMOOTHING * before + (1 - SMOOTHING) * run.loss) / (1 - past))
        return len(losses) == steps or smoothed[-1] > TOO_LARGE * min(smoothed)

    twin = copy.deepcopy(network)
    try:
        twin.fit(X, y, optimizer=tried, batch_size=batch_size, epochs=steps, callbacks=[every(1, look)])
    except DivergenceError:
        if not losses:
            raise
    return RangeTest(np.array(rates), np.array(losses), np.array(smoothed), rates[int(np.argmin(smoothed))] / 10)
