"""Early stopping: what a training run evaluates after each epoch, and whether it goes on."""

import math

import numpy as np

from ..core.aliases import column as column_of
from ..data.mapped import leave_pages
from ..data.samples import CHECK_ROWS
from ..errors import check_flag, check_integer, check_number, choose, value_error
from ..metrics import METRICS


class EarlyStopping:
    """After each epoch evaluates the network, and decides whether training goes on: it stops when the monitored value
    has not improved for `patience` epochs.

    training            samples for the metrics where there is no `validation`, or None
    validation          samples for validation loss and metrics, or None
    monitor             a column of the history, for metrics with or without "validation_", or None for the loss;
                        afterwards it is always the full name of a column

    The state compares values with their sign flipped where greater is better, so lower is better:

    best                the value that improvements are measured from
    waited              epochs since the last improvement by more than `tolerance`
    lowest              the lowest value
    best_state          the network's state (parameters and statistics) at the lowest value, None before there is one"""

    def __init__(self, network, metrics, training, validation, monitor, tolerance, patience, restore_best):
        self.network, self.metrics, self.validation = network, metrics, validation
        self.samples = training if validation is None else validation
        self._prefix = "" if validation is None else "validation_"
        self._check_metrics()
        self.tolerance = check_number("tolerance", tolerance, 0.0)
        self.patience = math.inf if patience is None else check_integer("patience", patience, 1)
        self.restore_best = check_flag("restore_best", restore_best)
        columns = {"loss": ("loss", False), f"{self._prefix}loss": (f"{self._prefix}loss", False)}
        for metric in metrics:
            column = f"{self._prefix}{metric.column}"
            columns[metric.column] = columns[column] = column, metric.greater_is_better
        name = column_of(f"{self._prefix}loss" if monitor is None else monitor, columns)
        others = [f"validation_{column}" for column in columns]
        if name not in columns and validation is None and column_of(name, others) in others:
            got = f"{monitor!r}, which needs validation_data or validation_fraction"
            raise value_error("monitor", f"one of {', '.join(map(repr, columns))}", got)
        metric = str(name).removeprefix("val_").removeprefix("validation_")
        if name not in columns and metric in METRICS:
            got = f"{monitor!r}, which needs metrics=[{metric!r}]"
            raise value_error("monitor", f"one of {', '.join(map(repr, columns))}", got)
        self.monitor, greater_is_better = choose("monitor", name, columns)
        if greater_is_better is None:
            expected = "a metric that says whether greater is better, as fastgd.metrics.own(f, greater_is_better=...)"
            raise value_error("monitor", expected, repr(monitor))
        self.sign, self._has_monitor = -1 if greater_is_better else 1, monitor is not None
        self.best, self.waited, self.lowest, self.best_state = math.inf, 0, math.inf, None

    @property
    def columns(self):
        """Names of the metrics."""
        return [metric.column for metric in self.metrics]

    @property
    def is_needed(self):
        """Whether anything has to be done after an epoch."""
        may_stop = self.patience < math.inf or self.restore_best or self._has_monitor
        return bool(self.validation or self.metrics or may_stop)

    def state(self):
        """The state without `best_state`, as numbers."""
        return self.best, self.waited, self.lowest

    def restore(self, state):
        """Sets what `state` returned."""
        self.best, self.waited, self.lowest = state

    def _check_metrics(self):
        """Raises now, rather than after an epoch, if one of fastgd's own metrics does not suit the targets."""
        if not self.metrics:
            return
        functions = [metric.function for metric in METRICS.values()]
        known = [one for one in self.metrics if getattr(one.function, "adapts", one.function) in functions]
        if known and self.samples is not None:
            for start in range(0, len(self.samples), CHECK_ROWS):
                y, _ = self.samples.targets(start, start + CHECK_ROWS)
                prediction = np.full((len(y), *self.network.output_shape), 0.5)
                for metric in known:
                    metric.value(y, prediction)
                leave_pages(self.samples.y)

    def values(self):
        """Validation loss, or None, and the values of the metrics by the names of their columns in the history."""
        if self.validation is None and not self.metrics:
            return None, {}
        loss, values = self.network.executor.evaluate(self.samples, self.metrics)
        named = {f"{self._prefix}{name}": value for name, value in values.items()}
        return None if self.validation is None else loss, named

    def update(self, history):
        """Takes account of the last epoch in the history; returns why to stop ("converged", "patience"), or None."""
        network, value = self.network, history.columns()[self.monitor][-1] * self.sign
        if value < self.lowest:
            self.lowest, history.best_epoch = value, len(history.loss)
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
