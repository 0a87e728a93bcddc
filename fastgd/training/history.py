"""The history of a training run."""

import dataclasses

import numpy as np

from ..errors import DivergenceError, check_integer, shown, type_error, value_error
from ..metrics import COLUMNS

# Lists with a value for each epoch, besides the metrics.


def why(error):
    """What a history says of a run that an exception ended."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return "diverged" if isinstance(error, DivergenceError) else "error"


@dataclasses.dataclass(repr=False)
class History:
    """What a training run did: one value an epoch in each list.

    loss: mean over the rows of the loss of each minibatch before its update. validation_loss: after the epoch; empty
    without validation data. metrics: by name a list of the values after the epoch, of the validation data
    ("validation_accuracy") or, without, of the training data ("accuracy"). learning_rate: of the last update. rows:
    trained on since the start. seconds: since the start. steps: updates made. best_epoch: that with the best value of
    what is monitored, counted from 1, if anything is.

    stopped: why it ended. "epochs": all are done; "converged": the training loss, and "patience": the validation loss
    or the metric monitored has not become better for so many epochs; "callback": one returned True; "diverged",
    "interrupted" (Ctrl-C, sys.exit) and "error": by an exception, and then this is the network's `history`; None: not
    yet.
    """

    loss: list = dataclasses.field(default_factory=list)
    validation_loss: list = dataclasses.field(default_factory=list)
    metrics: dict = dataclasses.field(default_factory=dict)
    learning_rate: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    steps: int = 0
    best_epoch: int | None = None
    stopped: str | None = None

    def columns(self):
        """The lists by name, those that have values."""
        columns = {"loss": self.loss, "validation_loss": self.validation_loss, **self.metrics}
        columns |= {"learning_rate": self.learning_rate, "rows": self.rows, "seconds": self.seconds}
        return {name: values for name, values in columns.items() if values}

    def to_dict(self):
        """Arrays by name, all of one length: "epoch" (from 1), "loss", ... `pandas.DataFrame` takes it as it is. NaN is
        what an exception kept from being known."""
        n = len(self.loss)  # another thread may be training
        columns = {name: np.array(values[:n] + [np.nan] * (n - len(values))) for name, values in self.columns().items()}
        return {"epoch": np.arange(1, n + 1), **columns}

    def last(self):
        """The values of the last epoch by name."""
        return {name: values[-1] for name, values in self.columns().items()}

    def plot(self, title="Loss"):
        """A matplotlib Figure: `fastgd.plots.plot_loss`."""
        from ..plots import plot_loss

        return plot_loss(self, title)

    def __repr__(self):
        last = "".join(f", {name} {value:.4g}" for name, value in self.last().items())
        return f"<History of {len(self.loss)} epochs{last}; stopped: {self.stopped}>"

    # ---- kept

    def state(self):
        """What a file keeps: a dict for JSON, and arrays by name."""
        told = {"steps": self.steps, "best_epoch": self.best_epoch, "stopped": self.stopped}
        lists = {name: getattr(self, name) for name in COLUMNS}
        lists |= {f"metrics.{name}": values for name, values in self.metrics.items()}
        arrays = {name: np.array(values, np.float64) for name, values in lists.items()}
        return {**told, "metrics": list(self.metrics)}, arrays

    @classmethod
    def of(cls, told, arrays):
        """A history as it was saved; raises if it is none."""
        best, stopped = told["best_epoch"], told["stopped"]
        if best is not None:
            check_integer("best_epoch", best, 1)
        if not isinstance(stopped, str | None):
            raise type_error("stopped", "a text or None", shown(stopped))
        metrics = [str(name) for name in told["metrics"]]
        names = [*COLUMNS, *(f"metrics.{name}" for name in metrics)]
        lists = [arrays[name].tolist() for name in names]
        epochs = len(lists[0])
        for name, values in zip(names, lists, strict=True):
            is_short = name == "validation_loss" or name.startswith("metrics.")  # or an exception came before
            if len(values) > epochs or (len(values) < epochs and not is_short):
                raise value_error(name, f"{epochs} values", len(values))
        if best is not None and best > epochs:
            raise value_error("best_epoch", f"at most {epochs}", best)
        columns, more = dict(zip(COLUMNS, lists, strict=False)), lists[len(COLUMNS) :]
        columns["rows"] = [check_integer("rows", int(count), 1) for count in columns["rows"]]
        steps = check_integer("steps", told["steps"], 0)
        metrics = dict(zip(metrics, more, strict=True))
        return cls(**columns, metrics=metrics, steps=steps, best_epoch=best, stopped=stopped)
