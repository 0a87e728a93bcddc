"""The history of a training run."""

import dataclasses

import numpy as np

# Lists with a value for each epoch, besides the metrics.
COLUMNS = ("loss", "validation_loss", "learning_rate", "seconds")


@dataclasses.dataclass
class History:
    """What a training run did: one value an epoch in each list.

    loss: mean over the rows of the loss of each minibatch before its update. validation_loss: after the epoch; empty
    without validation data. metrics: by name a list of the values after the epoch, of the validation data
    ("validation_accuracy") or, without, of the training data ("accuracy"). learning_rate: of the last update. seconds:
    since the start. steps: updates made. best_epoch: that with the best value of what is monitored, counted from 1, if
    anything is.

    stopped: why it ended. "epochs": all are done; "converged": the training loss, and "patience": the validation loss
    or the metric monitored has not become better for so many epochs; "callback": one returned True; "diverged",
    "interrupted" (Ctrl-C) and "error": by an exception, and then this is the network's `history`; None: not yet.
    """

    loss: list = dataclasses.field(default_factory=list)
    validation_loss: list = dataclasses.field(default_factory=list)
    metrics: dict = dataclasses.field(default_factory=dict)
    learning_rate: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    steps: int = 0
    best_epoch: int | None = None
    stopped: str | None = None

    def _columns(self):
        columns = {"loss": self.loss, "validation_loss": self.validation_loss, **self.metrics}
        columns |= {"learning_rate": self.learning_rate, "seconds": self.seconds}
        return {name: values for name, values in columns.items() if values}

    def to_dict(self):
        """Arrays by name, all of one length: "epoch" (from 1), "loss", ... `pandas.DataFrame` takes it as it is. NaN is
        what an exception kept from being known."""
        n = len(self.loss)
        columns = {name: np.array(values + [np.nan] * (n - len(values))) for name, values in self._columns().items()}
        return {"epoch": np.arange(1, n + 1), **columns}

    def last(self):
        """The values of the last epoch by name."""
        return {name: values[-1] for name, values in self._columns().items()}
