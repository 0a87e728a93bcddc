"""fit(): the loop itself, and the history it returns."""

import contextlib
import dataclasses
import math
import time

import numpy as np

from .data import check_batch_size, check_rows, check_targets, check_values, epoch_order, take_rows
from .errors import check_integer, check_number, shown, type_error
from .optimizers import Adam, Optimizer


@dataclasses.dataclass
class History:
    """What a training run did: one value an epoch in each list.

    loss: mean over the rows of the loss of each minibatch before its update. validation_loss: after the epoch; empty
    without validation data. learning_rate: of the last update. seconds: since the start. `stopped` says why it
    ended: "epochs" or "converged". `steps`: updates made.
    """

    loss: list = dataclasses.field(default_factory=list)
    validation_loss: list = dataclasses.field(default_factory=list)
    learning_rate: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    steps: int = 0
    stopped: str = "epochs"


def fit(
    self,
    X,
    y,
    *,
    optimizer=None,
    batch_size=32,
    epochs=10,
    shuffle=True,
    validation_data=None,
    tolerance=1e-4,
    patience=None,
    progress=False,
):
    """Trains the network; returns a `History`.

    X: (rows, n_features) of real numbers, any dtype and layout; rows are gathered and cast a minibatch at a time.
    y: integer labels (rows,) for softmax_cross_entropy, else (rows, n_out), or (rows,) for one output.
    optimizer: an optimizer; None is Adam().
    batch_size: None is batch gradient descent, 1 stochastic, n mini-batch; the last batch of an epoch may be shorter.
    epochs: int >= 0, passes over the data. shuffle: a new order each epoch, by the network's seed and how many epochs
        it has been through in all (`epochs` of the network).
    validation_data: (X, y), whose loss is taken after each epoch.
    patience: stop when for so many epochs in a row the loss (that of the validation data, if given) has not fallen
        by more than `tolerance` below where it last did; None never stops early.
    progress: True shows a progress bar.

    Raises TypeError or ValueError that names the argument, with the network unchanged; DivergenceError when a loss or
    gradient is not finite, with the parameters of the last good step.
    """
    X = check_rows("X", X, self.n_features)
    y, kernel = check_targets("y", y, len(X), self.loss_function, self.sizes[-1])
    optimizer = Adam() if optimizer is None else optimizer
    if not isinstance(optimizer, Optimizer):
        raise type_error("optimizer", "an optimizer such as fastgd.Adam(1e-3)", shown(optimizer))
    size, epochs = check_batch_size(batch_size, len(X)), check_integer("epochs", epochs, 0)
    if not isinstance(shuffle, (bool, np.bool_)):
        raise type_error("shuffle", "True or False", shown(shuffle))
    tolerance = check_number("tolerance", tolerance, 0.0)
    patience = math.inf if patience is None else check_integer("patience", patience, 1)
    check_values("X", X, self.dtype)
    check_values("y", y, self.dtype, kernel.arrays["y"], self.sizes[-1])
    if validation_data is not None:
        validation_data = _checked_validation(self, validation_data)
    history, best, waited, started = History(), math.inf, 0, time.perf_counter()
    with self._turn, _bar(progress, epochs) as bar:
        for epoch in range(1, epochs + 1):
            history.loss.append(_run_epoch(self, X, y, kernel, optimizer, size, epoch, shuffle))
            history.steps += math.ceil(len(X) / size)
            history.learning_rate.append(float(optimizer.schedule(optimizer.steps - 1)))
            if validation_data is not None:
                history.validation_loss.append(self._mean_loss(*validation_data))
            history.seconds.append(time.perf_counter() - started)
            _tell(bar, history)
            watched = (history.validation_loss or history.loss)[-1]
            if watched < best - tolerance:
                best, waited = watched, 0
            else:
                waited += 1
            if waited >= patience:
                history.stopped = "converged"
                break
    return history


def _run_epoch(network, X, y, kernel, optimizer, size, epoch, shuffle):
    """All rows once, in minibatches; returns the mean loss. Later calls of fit shuffle on where this one ends."""
    order = epoch_order(len(X), network.seed, network.epochs, shuffle)
    total = 0.0
    plan = network._plan_for(size, kernel)
    x_rows, y_rows = plan.own["x"], plan.own["y"]
    for start in range(0, len(X), size):
        index = order[start : start + size]
        rows = len(index)
        take_rows(X, index, x_rows[:rows])
        take_rows(y, index, y_rows[:rows])
        plan.set_minibatch(x=x_rows[:rows], y=y_rows[:rows])
        total += rows * network._step(plan, optimizer, x_rows[:rows], y_rows[:rows], epoch)
    network.epochs += 1
    return total / len(X)


def _checked_validation(network, data):
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise type_error("validation_data", "a pair (X, y)", shown(data))
    X = check_rows("validation_data[0]", data[0], network.n_features)
    y, kernel = check_targets("validation_data[1]", data[1], len(X), network.loss_function, network.sizes[-1])
    check_values("validation_data[0]", X, network.dtype)
    check_values("validation_data[1]", y, network.dtype, kernel.arrays["y"], network.sizes[-1])
    return X, y, kernel


def _bar(progress, epochs):
    """A progress bar over the epochs, if asked for."""
    if not progress:
        return contextlib.nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=epochs, unit="epoch", dynamic_ncols=True)


def _tell(bar, history):
    if bar is None:
        return
    figures = {"loss": f"{history.loss[-1]:.4g}", "lr": f"{history.learning_rate[-1]:.3g}"}
    if history.validation_loss:
        figures["validation"] = f"{history.validation_loss[-1]:.4g}"
    bar.set_postfix(figures, refresh=False)
    bar.update()
