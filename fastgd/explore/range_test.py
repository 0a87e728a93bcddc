"""The learning-rate range test, which suggests an initial learning rate."""

import copy
import dataclasses
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..callbacks import every
from ..core.for_users import ForUsers
from ..core.html import html_table
from ..core.types import Data
from ..errors import DivergenceError, check_integer, check_number, shown, type_error, value_error
from ..network import Network
from ..optimizers.base import Optimizer
from ..training.fit import fresh_optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The test ends when the running average of the loss exceeds so many times its minimum. For smoothing, losses are capped
# at so many times their median.
TOO_LARGE = 4.0
# Weight of the past in the running average, and the fraction of all steps after which its minimum counts.
PAST, SETTLED = 0.9, 1 / 10
# Standard deviation of the Gaussian smoothing, as a fraction of all steps.
SMOOTHING = 1 / 40
# Fraction of the fall of the smoothed loss that is still to come at the suggestion.
LEFT = 0.1
# A fall counts if it exceeds so many standard deviations of the noise, and this fraction of the loss. Noise may have
# its minimum anywhere; a network that learns has it near the rates where the loss rises, in the second half. So a
# minimum in the first half has to pass the second limit.
NOISE, NOISE_EARLY, LEAST_FALL = 2.0, 3.0, 1e-3


@dataclasses.dataclass(frozen=True, repr=False)
class RangeTest(ForUsers):
    """The result of a learning-rate range test.

    learning_rate   (steps,) learning rate of each step
    loss            (steps,) loss of each minibatch, before its update
    smoothed        (steps,) mean of the losses of neighbouring steps, with Gaussian weights
    suggestion      the largest learning rate, before the minimum of the smoothed loss, at which at least a tenth of the
                    fall to the minimum is still to come: there the loss falls fast, and is not near its rise. For Lion,
                    whose steps do not shrink with the gradient, 0.3 times that. The lowest rate if the loss has not
                    fallen by more than the noise of minibatches."""

    learning_rate: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    smoothed: npt.NDArray[np.float64]
    suggestion: float

    def plot(self, title: str = "Learning-rate range test") -> "Figure":
        """Returns a matplotlib Figure; see `fastgd.plots.plot_range_test`."""
        from ..plots import plot_range_test

        return plot_range_test(self, title)

    def __repr__(self) -> str:
        rates = self.learning_rate
        return (
            f"<RangeTest of {len(rates)} rates from {rates[0]:.3g} to {rates[-1]:.3g}: suggests {self.suggestion:.3g}>"
        )

    def _repr_html_(self) -> str:
        rates, nearest = self.learning_rate, int(np.argmin(np.abs(self.learning_rate - self.suggestion)))
        places = {"first": 0, "suggestion": nearest, "lowest loss": int(np.argmin(self.smoothed)), "last": -1}
        rows = [(name, f"{rates[i]:.3g}", f"{self.smoothed[i]:.4g}") for name, i in places.items()]
        rows[1] = ("suggestion", f"{self.suggestion:.3g}", rows[1][2])  # for Lion it is no rate that was tried
        return html_table(f"Range test of {len(rates)} rates", ["", "learning rate", "smoothed loss"], rows)


def find_learning_rate(
    network: Network,
    X: "Data",
    y: "npt.ArrayLike | None",
    *,
    optimizer: str | Optimizer | None = None,
    batch_size: int | None = 32,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
) -> RangeTest:
    """Trains a copy of the network while the learning rate grows from low to high, by the same factor each step, until
    the average loss is four times its minimum, or `steps` are done; returns a `RangeTest`. Smith 2017,
    arXiv:1506.01186.

    Warns (UserWarning) if the suggestion is not reliable: the loss has not fallen by more than the noise (the network
    is trained already, or the targets do not depend on X), or the range is too high or too low.

    X, y, batch_size: as in `fit`. optimizer: an optimizer, whose options are used but not its state, or a name; None is
        "Adam".
    Raises TypeError or ValueError that names the argument."""
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    low, high = check_number("low", low, 0.0, low_open=True), check_number("high", high, 0.0, low_open=True)
    steps = check_integer("steps", steps, 10)
    if high <= low:
        raise value_error("high", f"more than low = {low}", high)

    def rate_of(step):
        part = min(step, steps - 1) / (steps - 1)
        return low ** (1 - part) * high**part

    tried = _optimizer_of(optimizer, rate_of)
    rates, losses = [], []
    averages: list[float] = []

    def record(run):
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
        epochs = steps * tried.accumulate  # enough, as each epoch has at least one minibatch
        twin.fit(X, y, optimizer=tried, batch_size=batch_size, epochs=epochs, callbacks=[every(1, record)])
    except DivergenceError:
        if not losses:
            raise
    smoothed, before, noise, index = _found(np.array(losses), steps)
    suggestion = tried.range_test_factor * rates[index or 0]
    doubt = None
    if len(losses) <= steps * SETTLED:
        doubt = f"the loss diverged at the lowest rates: try a low below {low:g}"
    elif index is None:
        doubt = (
            f"the loss has not fallen by more than the noise of minibatches (from {before:.4g} to "
            f"{smoothed.min():.4g}, noise {noise:.2g}): perhaps the network is trained already, the targets do not "
            f"depend on X, or the lowest rates are too high. The suggestion is the lowest rate, {suggestion:.3g}. Try "
            "a network with initial values (network.like()), larger minibatches or more steps"
        )
    elif index >= steps - steps * SMOOTHING:
        doubt = f"the loss was still falling at the highest rates: try a high above {high:g}"
    if doubt is not None:
        warnings.warn(f"find_learning_rate: {doubt}", stacklevel=2)
    return RangeTest(np.array(rates), np.array(losses), smoothed, suggestion)


def _optimizer_of(given, rate_of):
    """A new optimizer like the given one, with other learning rates."""
    made = fresh_optimizer(given, rate_of)
    if made.takes_all_rows:
        raise value_error("optimizer", "one for minibatches", shown(given))
    return made


def _found(losses, steps):
    """Returns (smoothed, before, noise, index): what `_smoothed` returns, and the index of the suggestion, or
    None if the loss has not fallen by more than the noise."""
    smoothed, before, noise = _smoothed(losses, steps * SMOOTHING, int(steps * SETTLED))
    least = int(np.argmin(smoothed))
    deviations = NOISE_EARLY if least < len(losses) / 2 else NOISE
    if not before - smoothed[least] > max(deviations * noise, LEAST_FALL * abs(before)):
        return smoothed, before, noise, None
    to_go = smoothed[: least + 1] >= smoothed[least] + LEFT * (smoothed[0] - smoothed[least])
    return smoothed, before, noise, int(np.flatnonzero(to_go)[-1])


@np.errstate(all="ignore")
def _smoothed(losses, width, settled):
    """Returns (smoothed, before, noise).

    smoothed    the losses, averaged with Gaussian weights of standard deviation `width` steps; this does not lag behind
                as a running average does
    before      the mean loss before the fall: over the first half of the steps up to the minimum, at least `settled`
    noise       the standard deviation that before - min(smoothed) would have if the losses were only noise"""
    capped, i = np.minimum(losses, TOO_LARGE * np.median(losses)), np.arange(len(losses))
    weights = np.exp(-0.5 * ((i[:, None] - i) / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smoothed = weights @ capped
    least = int(np.argmin(smoothed))
    first = capped[: max(least // 2, settled)]
    scatter = (capped - smoothed)[: max(least + 1, settled)].std()
    return smoothed, first.mean(), scatter * np.sqrt(1 / len(first) + np.square(weights[least]).sum())
