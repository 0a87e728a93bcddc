"""Early stopping: what a training run looks at after each epoch, and whether it goes on."""

import math

import numpy as np

from ..data.mapped import leave_pages
from ..data.samples import CHECK_ROWS
from ..errors import check_flag, check_integer, check_number, choose, value_error
from ..metrics import METRICS


class EarlyStopping:
    """Looks at the network after each epoch: validation loss and metrics, and whether what is monitored has become
    better lately.

    training: the samples that metrics are taken of without a `validation`, or None. monitor: None, or a column of the
    history, for metrics also without "validation_"; afterwards it is such a column."""

    def __init__(self, network, metrics, training, validation, monitor, tolerance, patience, restore_best):
        self.network, self.metrics, self.validation = network, metrics, validation
        self.samples = training if validation is None else validation
        self._begin = "" if validation is None else "validation_"
        self._try_out()
        self.tolerance = check_number("tolerance", tolerance, 0.0)
        self.patience = math.inf if patience is None else check_integer("patience", patience, 1)
        self.restore_best = check_flag("restore_best", restore_best)
        ways = {"loss": ("loss", False), f"{self._begin}loss": (f"{self._begin}loss", False)}
        for metric in metrics:
            column = f"{self._begin}{metric.column}"
            ways[metric.column] = ways[column] = column, metric.greater_is_better
        self.monitor, greater_is_better = choose("monitor", f"{self._begin}loss" if monitor is None else monitor, ways)
        if greater_is_better is None:
            expected = "a metric that says whether greater is better, as fastgd.metrics.own(f, greater_is_better=...)"
            raise value_error("monitor", expected, repr(monitor))
        self.sign, self._is_told = -1 if greater_is_better else 1, monitor is not None
        # Of values whose sign is such that less is better: that which counts as best, for how many epochs none was
        # better, and the least of all, with the state of the network then.
        self.best, self.waited, self.least, self.best_state = math.inf, 0, math.inf, None

    @property
    def is_needed(self):
        return bool(self.validation or self.metrics or self.patience < math.inf or self.restore_best or self._is_told)

    def seen(self):
        """What it has seen, as numbers."""
        return self.best, self.waited, self.least

    def take(self, seen):
        """Goes on from what was `seen`."""
        self.best, self.waited, self.least = seen

    def _try_out(self):
        """Raises where one of fastgd's own metrics does not suit the targets: not only after an epoch."""
        functions = [metric.function for metric in METRICS.values()]
        known = [metric for metric in self.metrics if metric.function in functions]
        if known and self.samples is not None:
            for start in range(0, len(self.samples), CHECK_ROWS):
                y, _ = self.samples.targets(start, start + CHECK_ROWS)
                prediction = np.full((len(y), *self.network.output_shape), 0.5)
                for metric in known:
                    metric.value(y, prediction)
                leave_pages(self.samples.y)

    def values(self):
        """Validation loss, or None, and metrics by the name they have in the history."""
        if self.validation is None and not self.metrics:
            return None, {}
        loss, values = self.network.executor.evaluate(self.samples, self.metrics)
        named = {f"{self._begin}{name}": value for name, value in values.items()}
        return None if self.validation is None else loss, named

    def look(self, history):
        """Looks at the last epoch in the history; tells why to stop, or None."""
        network, value = self.network, history.columns()[self.monitor][-1] * self.sign
        if value < self.least:
            self.least, history.best_epoch = value, len(history.loss)
            if self.restore_best:
                if self.best_state is None:
                    self.best_state = network.state.copy()
                self.best_state[:] = network.state
        if value < self.best - self.tolerance:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited < self.patience:
            return None
        return "converged" if self.monitor == "loss" else "patience"
