"""Early stopping: what a training run looks at after each epoch, and whether it goes on."""

import math

from .errors import check_flag, check_integer, check_number, choose, value_error


class Watch:
    """Looks at the network after each epoch: validation loss and metrics, and whether what is monitored has become
    better lately."""

    def __init__(self, metrics, validation, monitor, tolerance, patience, restore_best):
        self.metrics, self.validation = metrics, validation
        self.tolerance = check_number("tolerance", tolerance, 0.0)
        self.patience = math.inf if patience is None else check_integer("patience", patience, 1)
        self.restore_best = check_flag("restore_best", restore_best)
        self.monitor, self.sign = None, 1
        if monitor is not None:
            chosen = choose("monitor", monitor, {metric.name: metric for metric in metrics})
            if chosen.greater_is_better is None:
                expected = (
                    "a metric that says whether greater is better, as fastgd.metrics.own(f, greater_is_better=...)"
                )
                raise value_error("monitor", expected, repr(monitor))
            self.monitor, self.sign = monitor, -1 if chosen.greater_is_better else 1
        # Of values whose sign is such that less is better: that which counts as best, for how many epochs none was
        # better, and the least of all, with the parameters then.
        self.best, self.waited, self.least, self.parameters = math.inf, 0, math.inf, None

    @property
    def is_needed(self):
        return bool(self.validation or self.metrics or self.patience < math.inf or self.restore_best)

    def seen(self):
        """What it has seen, as numbers."""
        return self.best, self.waited, self.least

    def take(self, seen):
        """Goes on from what was `seen`."""
        self.best, self.waited, self.least = seen

    def values(self, network, source):
        """Validation loss, or None, and metrics by the name they have in the history."""
        if self.validation is not None:
            loss, values = network._evaluate(self.validation, self.metrics)
            return loss, {f"validation_{name}": value for name, value in values.items()}
        return None, network._evaluate(source.samples, self.metrics)[1] if self.metrics else {}

    def look(self, network, history):
        """Looks at the last epoch in the history; tells why to stop, or None."""
        if self.monitor is not None:
            values = history.metrics[self.monitor if self.validation is None else f"validation_{self.monitor}"]
        else:
            values = history.loss if self.validation is None else history.validation_loss
        value = values[-1] * self.sign
        if value < self.least:
            self.least, history.best_epoch = value, len(history.loss)
            if self.restore_best:
                if self.parameters is None:
                    self.parameters = network.parameters.copy()
                self.parameters[:] = network.parameters
        if value < self.best - self.tolerance:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited < self.patience:
            return None
        return "converged" if self.validation is None and self.monitor is None else "patience"
