"""fit(): the loop itself, and the history it returns."""

import contextlib
import dataclasses
import math
import time

import numpy as np

from .data import check_batch_size, check_rows, check_targets, check_values, epoch_order, take_rows
from .errors import check_flag, check_integer, check_number, choose, shown, type_error
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS
from .steps import Steps

# Steps, and rows of them, that are laid out to be run in one go, and bytes of rows that are gathered beforehand.
CHUNK_STEPS, CHUNK_ROWS = 2**15, 2**20
STAGED_BYTES = 2**21


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
    optimizer: an optimizer, or the name of one that takes its default values; None is "Adam".
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
    optimizer = "Adam" if optimizer is None else optimizer
    if isinstance(optimizer, str):
        optimizer = choose("optimizer", optimizer, OPTIMIZERS)()
    if not isinstance(optimizer, Optimizer):
        raise type_error("optimizer", "an optimizer such as fastgd.Adam(1e-3), or a name", shown(optimizer))
    size, epochs = check_batch_size(batch_size, len(X)), check_integer("epochs", epochs, 0)
    check_flag("shuffle", shuffle)
    tolerance = check_number("tolerance", tolerance, 0.0)
    patience = math.inf if patience is None else check_integer("patience", patience, 1)
    check_values("X", X, self.dtype)
    check_values("y", y, self.dtype, kernel.arrays["y"], self.sizes[-1])
    if validation_data is not None:
        validation_data = _checked_validation(self, validation_data)
    history, best, waited, started = History(), math.inf, 0, time.monotonic()
    looking = getattr(optimizer.schedule, "looks", False)
    watching = validation_data is not None or patience < math.inf or progress or looking
    total, rows = 0.0, 0
    with self._turn, _bar(progress, epochs) as bar:
        for first_epoch, steps in _chunks(self, X, y, kernel, optimizer, size, epochs, shuffle, watching):
            failed = self._train(self._plan, steps, optimizer)
            if failed is not None:
                epoch = first_epoch + int(np.searchsorted(steps.ends, failed, side="right"))
                raise self._divergence(steps, failed, optimizer, epoch)
            weighted = steps.rows * steps.totals
            begin = 0
            for end, now in zip(steps.ends.tolist(), steps.times.tolist(), strict=True):
                total, rows = total + weighted[begin:end].sum(), rows + int(steps.rows[begin:end].sum())
                history.loss.append(float(total / rows))
                history.learning_rate.append(float(steps.rates[end - 1]))
                history.seconds.append(now - started)
                self.epochs += 1
                total, rows, begin = 0.0, 0, end
            total, rows = total + weighted[begin:].sum(), rows + int(steps.rows[begin:].sum())
            history.steps += int(steps.active.sum())
            if not len(steps.ends) or not watching:
                continue
            if validation_data is not None:
                history.validation_loss.append(self._mean_loss(*validation_data))
            _tell(bar, history)
            watched = (history.validation_loss or history.loss)[-1]
            optimizer.observe(watched)
            if watched < best - tolerance:
                best, waited = watched, 0
            else:
                waited += 1
            if waited >= patience:
                history.stopped = "converged"
                break
    return history


def _chunks(network, X, y, kernel, optimizer, size, epochs, shuffle, watching):
    """The steps of all epochs in pieces to be run natively, each with the number of its first epoch; with `watching`
    no piece goes beyond the end of an epoch.

    Rows that the kernels can read where they lie are read there, or gathered by the plan; of others, a piece at a
    time is gathered and cast here.
    """
    n, done, per_epoch = len(X), network.epochs, -(-len(X) // size)
    usable = X.dtype == network.dtype and X.flags.c_contiguous and X.flags.aligned
    shuffled = shuffle and size < n  # batch descent needs no order
    rows = CHUNK_ROWS if usable else STAGED_BYTES // (X.shape[1] * network.dtype.itemsize)
    limit = max(1, min(CHUNK_STEPS, rows // size))
    y = np.require(y, kernel.arrays["y"].dtype or network.dtype, ["C", "ALIGNED"])
    epoch, position, order = 0, 0, None
    while epoch < epochs:
        first_epoch, parts, sizes, ends, count = epoch + 1, [], [], [], 0
        while epoch < epochs and count < limit and not (watching and ends):
            if position == 0 and (shuffled or order is None):
                order = epoch_order(n, network.seed, done + epoch, shuffled)
            stop = min(per_epoch, position + limit - count)
            parts.append(order[position * size : stop * size])
            sizes.append(np.full(stop - position, size, np.int64))
            count, position = count + stop - position, stop
            if position == per_epoch:
                sizes[-1][-1] = n - (per_epoch - 1) * size
                ends.append(count)
                epoch, position = epoch + 1, 0
        rows, index = np.concatenate(sizes), np.concatenate(parts)
        starts = np.cumsum(rows) - rows
        plan = network._plan_for(size, kernel)
        plan.use_optimizer(optimizer)
        if not usable:
            x_part, y_part = _staged(X, index, network.dtype), y[index]
            yield first_epoch, Steps.of(plan, optimizer, x_part, y_part, rows=rows, starts=starts, ends=ends)
        elif size == 1 or not shuffled:  # the rows of a step lie side by side
            yield first_epoch, Steps.of(plan, optimizer, X, y, rows=rows, starts=index[starts], ends=ends)
        else:
            yield first_epoch, Steps.of(plan, optimizer, X, y, rows=rows, starts=starts, order=index, ends=ends)


def _staged(X, index, dtype):
    """Rows of X as an array of their own."""
    rows = np.empty((len(index), X.shape[1]), dtype)
    take_rows(X, index, rows)
    return rows


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
