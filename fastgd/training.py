"""fit(): the training loop, what it watches, whom it tells, and the history it returns.

`Run` is one call of `fit`. It lets the native runner go from pause to pause: a pause is the end of an epoch if
something is to be done there (validation, early stopping, callbacks), and every k minibatches if a callback or the
checkpoint asks for it. Between two pauses Python sees nothing but a look at signals every 50 ms. Over 400 lines: it is
one loop, and what it carries from step to step belongs together."""

import bisect
import contextlib
import dataclasses
import math
import time

import numpy as np

from .callbacks import ProgressBar, check_callbacks, every
from .data import check_batch_size, check_class_weight, check_samples
from .errors import DivergenceError, check_flag, check_integer, check_number, choose, shown, type_error, value_error
from .metrics import check_metrics
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS
from .sampling import Minibatches


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
        """Arrays by name, all of one length: "epoch" (from 1), "loss", ... `pandas.DataFrame` takes it as it is."""
        columns = {name: np.array(values) for name, values in self._columns().items()}
        return {"epoch": np.arange(1, len(self.loss) + 1), **columns}

    def last(self):
        """The values of the last epoch by name."""
        return {name: values[-1] for name, values in self._columns().items()}


def fit(
    self,
    X,
    y=None,
    *,
    optimizer=None,
    batch_size=32,
    epochs=10,
    shuffle=True,
    sample_weight=None,
    class_weight=None,
    validation_data=None,
    validation_fraction=None,
    metrics=(),
    monitor=None,
    tolerance=1e-4,
    patience=None,
    restore_best=False,
    callbacks=(),
    progress=False,
):
    """Trains the network; returns a `History`.

    X: (rows, n_features) of real numbers, any dtype and layout; rows are gathered and cast a minibatch at a time. Or,
        without y, an iterable of minibatches (x, y) or (x, y, sample_weight), gone through once an epoch in its own
        order and sizes; one that can be gone through once only serves for one epoch.
    y: integer labels (rows,) for softmax_cross_entropy, else (rows, n_out), or (rows,) for one output.
    optimizer: an optimizer, or the name of one that takes its default values; None is "Adam".
    batch_size: None is batch gradient descent, 1 stochastic, n mini-batch; the last batch of an epoch may be shorter.
    epochs: int >= 0, passes over the data. shuffle: a new order each epoch, by the network's seed and how many epochs
        it has been through in all (`epochs` of the network).
    sample_weight: (rows,) numbers >= 0: a row counts by its weight over the mean weight of all rows, so the loss is the
        weighted mean, and with batch_size=1, too, a row of weight 2 pulls twice as hard as one of weight 1.
    class_weight: {label: number >= 0}, 1 for labels not in it, or "balanced" for rows / (classes x rows of the class);
        multiplied with sample_weight. For integer labels, or 0 and 1 in one output.
    validation_data: (X, y) or (X, y, sample_weight), whose loss is taken after each epoch. validation_fraction: takes
        so great a part of the rows for it instead, chosen by the network's seed and not trained on.
    metrics: names ("accuracy", ...: `fastgd.metrics.METRICS`), metrics, or functions of (y, prediction), taken after
        each epoch of the validation data or, without, of the training data.
    monitor: what `patience` and `restore_best` look at: None is the loss, that of the validation data if given; else
        the name of one of the metrics.
    patience: stop when for so many epochs in a row it has not become better by more than `tolerance` than where it last
        did; None never stops early. restore_best: at the end go back to the parameters of the epoch where it was best.
    callbacks: functions of the run (`fastgd.training.Run`), called after each epoch, or `fastgd.callbacks.every(k, f)`
        after every k minibatches; one that returns True stops the training. They may use the network.
    progress: True shows a progress bar.

    Raises TypeError or ValueError that names the argument, with the network unchanged; DivergenceError when a loss or
    gradient is not finite, with the parameters of the last good step. What was done until an exception is in
    `network.history`.
    """
    optimizer = _checked_optimizer(optimizer)
    epochs = check_integer("epochs", epochs, 0)
    check_flag("shuffle", shuffle)
    validation = None
    if validation_data is not None:
        validation = _checked_validation(self, validation_data)
    if y is None:
        for name, value in (("sample_weight", sample_weight), ("class_weight", class_weight),
                            ("validation_fraction", validation_fraction)):  # fmt: skip
            if value is not None:
                raise value_error(name, "None for an iterable of minibatches", shown(value))
        source = Stream(self, X, epochs)
    else:
        samples = check_samples(self, X, y, sample_weight)
        if class_weight is not None:
            samples = check_class_weight(class_weight, samples, self.dtype)
        if validation_fraction is not None:
            if validation is not None:
                raise value_error("validation_fraction", "None beside validation_data", shown(validation_fraction))
            fraction = check_number("validation_fraction", validation_fraction, 0.0, 1.0, low_open=True, high_open=True)
            samples, validation = samples.split(fraction, self.seed)
        source = Minibatches(self, samples, check_batch_size(batch_size, len(samples)), shuffle=shuffle)
    watch = Watch(check_metrics("metrics", metrics), validation, monitor, tolerance, patience, restore_best)
    if watch.metrics and y is None and validation is None:
        raise value_error("metrics", "none without validation data for an iterable of minibatches", shown(metrics))
    callbacks = check_callbacks(callbacks)
    bar = ProgressBar(epochs) if check_flag("progress", progress) else None
    return Run(self, optimizer, source, epochs, watch, callbacks, bar).go()


def _checked_optimizer(optimizer):
    optimizer = "Adam" if optimizer is None else optimizer
    if isinstance(optimizer, str):
        optimizer = choose("optimizer", optimizer, OPTIMIZERS)()
    if not isinstance(optimizer, Optimizer):
        raise type_error("optimizer", "an optimizer such as fastgd.Adam(1e-3), or a name", shown(optimizer))
    return optimizer


def _checked_validation(network, data):
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise type_error("validation_data", "(X, y) or (X, y, sample_weight)", shown(data))
    return check_samples(network, *data, names=[f"validation_data[{i}]" for i in range(3)])


class Stream:
    """Minibatches out of an iterable, in place of `Minibatches`."""

    def __init__(self, network, batches, epochs):
        try:
            again = iter(batches)
        except TypeError:
            expected = "an array and y, or an iterable of minibatches (x, y)"
            raise type_error("X", expected, f"{shown(batches)} and no y") from None
        if isinstance(batches, np.ndarray):
            raise type_error("y", "targets for the rows of X", None)
        if again is batches and epochs > 1:
            raise value_error("X", "an iterable that can be gone through again for each epoch", shown(batches))
        self.batches = batches
        self.epoch, self.position, self.rows = network.epochs, 0, None

    def minibatches(self):
        """Those of the epoch that are not done yet."""
        for i, batch in enumerate(self.batches):
            if i < self.position:
                continue
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                raise type_error(f"X (minibatch {i})", "(x, y) or (x, y, sample_weight)", shown(batch))
            yield batch


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
        # What it has seen, of values whose sign is such that less is better.
        self.best, self.waited, self.least, self.parameters = math.inf, 0, math.inf, None

    @property
    def is_needed(self):
        return bool(self.validation or self.metrics or self.patience < math.inf or self.restore_best)

    def values(self, network, source):
        """Validation loss, or None, and metrics by the name they have in the history."""
        if self.validation is not None:
            loss, values = network._evaluate(self.validation, self.metrics)
            return loss, {f"validation_{name}": value for name, value in values.items()}
        return None, network._evaluate(source.samples, self.metrics)[1] if self.metrics else {}

    def look(self, network, history):
        """Looks at the last epoch in the history; tells why to stop, or None."""
        validated = "validation_" if self.validation is not None else ""
        value = history.last()[validated + (self.monitor or "loss")] * self.sign
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


class Run:
    """A call of `fit`, as callbacks see it.

    network, optimizer; history: what is known so far. epochs: how many are asked for. step: minibatches done.
    at_epoch_end: whether this is a pause after an epoch.
    """

    def __init__(self, network, optimizer, source, epochs, watch, callbacks, bar):
        self.network, self.optimizer, self.epochs = network, optimizer, epochs
        self.history = History(metrics={})
        self._source, self._watch, self._callbacks, self._bar = source, watch, callbacks, bar
        self._each_epoch = [c for c in enumerate(callbacks) if not isinstance(c[1], every)]
        self._each_steps = [c for c in enumerate(callbacks) if isinstance(c[1], every)]
        self._looks = getattr(optimizer.schedule, "looks", False)
        self._watches = watch.is_needed or self._looks or bool(self._each_epoch)
        self._sums = np.zeros(2)  # of the rows' losses in the epoch going on, and of rows
        self._first_epoch, self._rows_before, self.first_row = network.epochs, 0, 0
        self.step, self.at_epoch_end, self._last_loss = 0, False, math.nan
        # Steps that are laid out, how many of them and of their epochs are booked, and the minibatches before.
        self._piece, self._booked, self._ended, self._base = None, 0, 0, 0

    # ---- what a callback may ask

    @property
    def epoch(self):
        """Epochs done."""
        return len(self.history.loss)

    @property
    def loss(self):
        """Of the last minibatch, before its update."""
        return float(self._piece.totals[self._booked - 1]) if self._booked else self._last_loss

    @property
    def learning_rate(self):
        """Of the last update."""
        if self._booked:
            return float(self._piece.rates[self._booked - 1])
        return float(self.optimizer.schedule(max(self.optimizer.steps - 1, 0)))

    @property
    def rows_of_epoch(self):
        """Rows in an epoch; None if that is not known."""
        return self._source.rows

    @property
    def rows_in_epoch(self):
        """Rows done of the epoch going on."""
        return int(self._sums[1])

    @property
    def rows(self):
        """Rows done in all."""
        return self._rows_before + self.rows_in_epoch

    # ---- the loop

    def go(self):
        """Trains; returns the history."""
        history = self.network.history = self.history
        self._started = time.monotonic()
        with contextlib.ExitStack() as stack:
            for entered in (*self._callbacks, self._bar):
                if hasattr(entered, "__enter__"):
                    stack.enter_context(entered)
            try:
                if isinstance(self._source, Stream):
                    self._train_on_stream()
                else:
                    with self.network._turn:
                        self._train_on_arrays()
            except BaseException as error:
                known = {DivergenceError: "diverged", KeyboardInterrupt: "interrupted"}
                history.stopped = known.get(type(error), "error")
                raise
            history.stopped = history.stopped or "epochs"
            if self._watch.parameters is not None:
                self.network.parameters[:] = self._watch.parameters
            if self._bar:
                self._bar(self, last=True)
        return history

    def _train_on_arrays(self):
        optimizer, source = self.optimizer, self._source
        while self.epoch < self.epochs and not self.history.stopped:
            last_epoch = self._first_epoch + self.epochs
            self._base, self._booked, self._ended = optimizer.minibatches, 0, 0
            self._piece = source.lay_out(self._plan(), optimizer, self._sums, last_epoch, whole_epochs=not self._looks)
            self._ends = self._piece.ends.tolist()
            self._end_rates = self._piece.rates[self._piece.ends - 1].tolist()
            self._go_through_piece()
            source.rewind(self._booked)
        if self.network._plan is not None:
            self.network._plan.release()

    def _plan(self):
        """The network's plan with the optimizer in use; a callback may have used the network for something else."""
        plan = self.network._plan_for(self._source.size, self._source.samples.kernel)
        plan.use_optimizer(self.optimizer)
        return plan

    def _go_through_piece(self):
        """Trains from pause to pause, until the piece is done, or is not what is to be done any more."""
        network, optimizer, steps, plan = self.network, self.optimizer, self._piece, self._plan()
        changes, ends = optimizer.changes, set(self._ends)
        for pause in self._pauses():
            if network._plan is not plan or plan.optimizer is not optimizer or network._turn.disturbed:
                plan = self._plan()
            failed = network._train(plan, steps, self._booked, pause, self._tell)
            if failed is not None:
                self._book(failed)
                raise network._divergence(steps, failed, optimizer, self.epoch + 1)
            self._pause(pause in ends)
            if self.history.stopped or optimizer.changes != changes or optimizer.minibatches != self._base + pause:
                break

    def _pauses(self):
        """The steps of the piece after which there is something to do, and the last."""
        size, places = len(self._piece), [np.array([len(self._piece)])]
        if self._watches:
            places.append(self._piece.ends)
        for _, callback in self._each_steps:
            places.append(np.arange(callback.steps - self.step % callback.steps, size, callback.steps))
        return np.unique(np.concatenate(places)).tolist()

    def _tell(self, s):
        self._book(s)
        if self._bar:
            self._bar(self)

    def _book(self, s):
        """Enters in the history what was done up to step s of the piece."""
        steps, history, begun = self._piece, self.history, self._booked
        if s == begun:
            return
        every = self.optimizer.accumulate
        history.steps += (self._base + s) // every - (self._base + begun) // every
        self.step += s - begun
        self._booked = s
        ended = bisect.bisect_right(self._ends, s, self._ended)
        if ended > self._ended:
            new, count = slice(self._ended, ended), ended - self._ended
            history.loss += steps.losses[new].tolist()
            history.learning_rate += self._end_rates[new]
            history.seconds += (steps.times[new] - self._started).tolist()
            self._rows_before += count * self._source.rows
            self.network.epochs += count
            self._ended = ended

    def _train_on_stream(self):
        """Trains on an iterable's minibatches, one at a time."""
        network, optimizer, source, history = self.network, self.optimizer, self._source, self.history
        while self.epoch < self.epochs and not history.stopped:
            for x, y, *weight in source.minibatches():
                made = optimizer.steps
                loss = network.train_step(x, y, optimizer, sample_weight=weight[0] if weight else None)
                self._sums += len(x) * loss, len(x)
                self._last_loss, self.step, source.position = loss, self.step + 1, source.position + 1
                history.steps += optimizer.steps - made
                if self._bar:
                    self._bar(self)
                if self._each_steps:
                    self._call(at_epoch_end=False)
                if history.stopped:
                    return
            if not source.position:
                raise value_error("X", "an iterable with a minibatch in it", shown(source.batches))
            history.loss.append(float(self._sums[0] / self._sums[1]))
            history.learning_rate.append(self.learning_rate)
            history.seconds.append(time.monotonic() - self._started)
            self._rows_before += self.rows_in_epoch
            network.epochs, source.position = network.epochs + 1, 0
            self._sums[:] = 0
            self._end_epoch()
            self._call(at_epoch_end=True)

    # ---- what is done at a pause

    def _pause(self, at_epoch_end):
        if at_epoch_end:
            self._end_epoch()
        if self._callbacks:
            self._call(at_epoch_end)

    def _end_epoch(self):
        """Validation, metrics, and whether to go on."""
        watch, history = self._watch, self.history
        if not watch.is_needed and not self._looks:
            return
        loss, values = watch.values(self.network, self._source)
        if loss is not None:
            history.validation_loss.append(loss)
        for name, value in values.items():
            history.metrics.setdefault(name, []).append(value)
        self.optimizer.observe(history.loss[-1] if loss is None else loss)
        history.stopped = watch.look(self.network, history)

    def _call(self, at_epoch_end):
        """Calls the callbacks whose time it is."""
        due = [c for c in self._each_steps if self.step % c[1].steps == 0]
        if at_epoch_end:
            due += self._each_epoch
        self.at_epoch_end = at_epoch_end
        self.network._turn.lend()
        for i, callback in due:
            try:
                answer = callback(self)
            except Exception as error:
                error.add_note(f"raised by callbacks[{i}] after minibatch {self.step}, {self.epoch} epochs done")
                raise
            if answer is True or answer is np.True_:
                self.history.stopped = self.history.stopped or "callback"
        self.network._turn.take_back()
