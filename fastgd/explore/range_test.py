"""The learning-rate range test: which learning rate to begin with."""

import copy
import dataclasses
import math
import warnings

import numpy as np

from ..callbacks import every
from ..errors import DivergenceError, check_integer, check_number, shown, type_error, value_error
from ..network import Network
from ..training.fit import fresh_optimizer

# A loss so many times its least ends the test; larger ones count as that many times the median.
TOO_LARGE = 4.0
# The weight of the past in the running average that is held against its least, and the part of all steps after which
# it says something.
PAST, SETTLED = 0.9, 1 / 10
# Standard deviation of the smoothing, as a part of all steps.
SMOOTHING = 1 / 40
# What is left of the fall of the smoothed loss at the suggestion.
LEFT = 0.1
# A fall counts if it is more than so many standard deviations of the noise, and than this part of the loss. Noise has
# its least anywhere; a network that learns has it at rates near those where the loss rises: in the second half.
NOISE, NOISE_EARLY, LEAST_FALL = 2.0, 3.0, 1e-3


@dataclasses.dataclass(frozen=True, repr=False)
class RangeTest:
    """learning_rate: of each step; loss: of each, before its update, and smoothed: its mean over the steps around, with
    Gaussian weights. suggestion: the largest learning rate below that of the least smoothed loss at which this still
    had a tenth of its fall to go: where it falls fast, and a way off from where it rises; of Lion, whose steps do not
    shrink with the gradient, 0.3 of that. It is the first rate if the loss has not fallen by more than the scatter of
    the losses of minibatches explains."""

    learning_rate: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def plot(self, title="Learning-rate range test"):
        """A matplotlib Figure: `fastgd.plots.plot_range_test`."""
        from ..plots import plot_range_test

        return plot_range_test(self, title)

    def __repr__(self):
        rates = self.learning_rate
        return (
            f"<RangeTest of {len(rates)} rates from {rates[0]:.3g} to {rates[-1]:.3g}: suggests {self.suggestion:.3g}>"
        )


def find_learning_rate(network, X, y, *, optimizer=None, batch_size=32, low=1e-6, high=10.0, steps=200):
    """Trains a copy of the network while the learning rate grows from low to high, by the same factor each step, until
    the loss is four times its least, or `steps` are done; returns a `RangeTest`. Smith 2017, arXiv:1506.01186.

    A UserWarning says if the suggestion is not to be relied on: the loss has not fallen by more than noise (the network
    is trained already, or the targets have nothing to do with X), or the range is too high or too low.

    X, y, batch_size: as in `fit`. optimizer: one whose options are used, not its state, or a name; None is "Adam".
    Raises TypeError or ValueError that names the argument.
    """
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    low, high = check_number("low", low, 0.0, low_open=True), check_number("high", high, 0.0, low_open=True)
    steps = check_integer("steps", steps, 10)
    if high <= low:
        raise value_error("high", f"more than low = {low}", high)

    def rate_of(step):
        part = min(step, steps - 1) / (steps - 1)
        return low ** (1 - part) * high**part

    tried = fresh_optimizer(optimizer, rate_of)
    rates, losses, averages = [], [], []

    def look(run):
        if run.optimizer.minibatches % run.optimizer.accumulate:
            return False  # no update yet
        rates.append(run.learning_rate)
        losses.append(run.loss)
        before = averages[-1] if averages else run.loss
        averages.append(PAST * before + (1 - PAST) * run.loss)
        least = min(averages[int(steps * SETTLED) :], default=math.inf)
        return len(losses) == steps or averages[-1] > TOO_LARGE * least

    twin = copy.deepcopy(network)
    try:
        epochs = steps * tried.accumulate  # at most: a minibatch each
        twin.fit(X, y, optimizer=tried, batch_size=batch_size, epochs=epochs, callbacks=[every(1, look)])
    except DivergenceError:
        if not losses:
            raise
    losses, width = np.array(losses), steps * SMOOTHING
    smoothed, before, noise = _smoothed(losses, width, int(steps * SETTLED))
    least = int(np.argmin(smoothed))
    deviations = NOISE_EARLY if least < len(losses) / 2 else NOISE
    has_fallen = before - smoothed[least] > max(deviations * noise, LEAST_FALL * abs(before))
    to_go = smoothed[: least + 1] >= smoothed[least] + LEFT * (smoothed[0] - smoothed[least])
    place = int(np.flatnonzero(to_go)[-1]) if has_fallen else 0
    suggestion = tried.rate_found * rates[place]
    doubt = None
    if len(losses) < steps * SETTLED:
        doubt = f"the loss diverged at the lowest rates: try a low below {low:g}"
    elif not has_fallen:
        doubt = (
            f"the loss has not fallen by more than the noise of minibatches (from {before:.4g} to "
            f"{smoothed[least]:.4g}, noise {noise:.2g}): perhaps the network is trained already, the targets do not "
            f"depend on X, or the lowest rates are too high. The suggestion is the lowest rate, {suggestion:.3g}. Try "
            "a network with initial values (network.like()), larger minibatches or more steps"
        )
    elif place >= steps - width:
        doubt = f"the loss was still falling at the highest rates: try a high above {high:g}"
    if doubt is not None:
        warnings.warn(f"find_learning_rate: {doubt}", stacklevel=2)
    return RangeTest(np.array(rates), losses, smoothed, suggestion)


@np.errstate(all="ignore")
def _smoothed(losses, width, settled):
    """The mean around each step, with Gaussian weights of so many steps, without the lag of a running average; the mean
    before the loss falls: of the first half of the steps up to the least, or of the first `settled`; and the standard
    deviation of the difference of that and the least, had the losses nothing but scatter."""
    capped, i = np.minimum(losses, TOO_LARGE * np.median(losses)), np.arange(len(losses))
    weights = np.exp(-0.5 * ((i[:, None] - i) / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smoothed = weights @ capped
    least = int(np.argmin(smoothed))
    first = capped[: max(least // 2, settled)]
    scatter = (capped - smoothed)[: max(least + 1, settled)].std()
    return smoothed, first.mean(), scatter * np.sqrt(1 / len(first) + np.square(weights[least]).sum())
