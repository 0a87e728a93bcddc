"""fit(): checks its arguments and makes a run of them. `fit` has over 60 lines, since it has 20 arguments."""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ..callbacks import Callback, ProgressBar, check_callbacks
from ..core.aliases import named
from ..core.files import check_model_file
from ..core.types import Data, HasTargets, Path, Rate
from ..data.minibatches import check_batch_size
from ..data.samples import check_class_weight, check_samples, with_targets
from ..data.windows import Windows, samples_of_windows
from ..engine.steps import Steps
from ..errors import check_flag, check_integer, check_number, shown, type_error, value_error
from ..metrics import Metrics, check_metrics
from ..optimizers import OPTIMIZERS
from ..optimizers.base import Optimizer, check_optimizer
from .checkpoint import describe
from .early_stopping import EarlyStopping
from .history import History
from .repeated import TOLERANCE, key_of_plain
from .run import Run
from .sampling import Minibatches, Stream, is_iterable
from .team import Team, on_all_ranks

if TYPE_CHECKING:
    from ..distributed import Mpi
    from ..network import Network


@on_all_ranks
def fit(
    self: "Network",
    X: "Data | Windows",
    y: "npt.ArrayLike | None" = None,
    *,
    optimizer: str | Optimizer | None = None,
    batch_size: int | None = 32,
    epochs: int = 10,
    shuffle: bool = True,
    sample_weight: "npt.ArrayLike | None" = None,
    class_weight: str | Mapping[Any, float] | None = None,
    validation_data: "Sequence[npt.ArrayLike] | HasTargets | None" = None,
    validation_fraction: float | None = None,
    metrics: "Metrics" = (),
    monitor: str | None = None,
    tolerance: float = TOLERANCE,
    patience: int | None = None,
    restore_best: bool = False,
    callbacks: "Callback | Sequence[Callback]" = (),
    progress: bool = False,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    allow_negative: bool = False,
    parallel: "str | Mpi | Team | None" = None,
) -> History:
    """Trains the network; returns a `History`.

    X: (rows, *input_shape) of real numbers, any dtype and layout; rows are gathered and cast a minibatch at a time. Or,
        without y, data that have targets: images (`fastgd.images.read`), windows of a text (`Text.windows`). Or,
        without y, an iterable of minibatches (x, y) or (x, y, sample_weight), with its own order and sizes; weights
        are not scaled: the loss of a minibatch is sum(weight loss) / rows. Each epoch takes a new iterator, and asks it
        for the next minibatch before it calls the callbacks of the last one. An iterator, which cannot start again,
        serves for one epoch.
    y: integer labels (rows,) for softmax_cross_entropy, else (rows, n_out), or (rows,) for one output. For outputs with
        positions, such as sequences (T, n_out), labels are (rows, T), and values (rows, T, n_out).
    optimizer: an optimizer, or the name of one, which then has its default options; None is "Adam".
    batch_size: None is batch gradient descent, 1 stochastic, n mini-batch; the last batch of an epoch may be shorter.
        `LBFGS` always takes all rows.
    epochs: int >= 0, passes over the data. shuffle: True takes the rows in a new random order each epoch, which depends
        on the network's `seed` and `epochs`. An iterable has its own order.
    sample_weight: (rows,) numbers >= 0, or (rows, T), one for each position (0 for padding). The loss of a row is
        multiplied by its weight over the mean weight of all rows, so the loss is the weighted mean, and a row of weight
        2 pulls twice as hard as a row of weight 1, also with batch_size=1. allow_negative: True takes weights below 0,
        too (of an iterable as well), and does not divide them by their mean, as in `loss`; metrics then need validation
        data, and class_weight must be None.
    class_weight: {label: number >= 0}, 1 for labels not in it, or "balanced" for rows / (classes x rows of the class).
        It multiplies sample_weight in the training loss, not in metrics or validation. For integer labels, or 0 and 1
        in one output.
    validation_data: (X, y), (X, y, sample_weight), or data with x and y as attributes, such as windows of a text; its
        loss is computed after each epoch.
        validation_fraction: holds out this fraction of the rows instead, chosen by the network's seed.
    metrics: names ("accuracy", ...: `fastgd.metrics.METRICS`), metrics, or functions of (y, prediction); computed after
        each epoch on the validation data, or on the training data if there are none.
    monitor: the value that `patience` and `restore_best` use: None is the validation loss, or the training loss if
        there are no validation data; else "loss" (of training), "validation_loss", or the name of one of the metrics.
    patience: training stops when the monitored value has not improved by more than `tolerance` for this many epochs in
        a row; None never stops early. restore_best: at the end restores the parameters of the epoch with the best
        value; NaN is never best.
    callbacks: functions of the run (`fastgd.Run`), called after each epoch, or `fastgd.callbacks.every(k, f)`, called
        after every k minibatches. One that returns True stops the training. They may use the network, and train it.
        Metrics and learning-rate functions may evaluate it; a learning-rate function is called once before each update.
        Other threads must not use the network or the optimizer during `fit`.
    progress: True shows a progress bar.
    checkpoint: a file to which network, optimizer and the state of this run are saved at the end, on Ctrl-C, and every
        `checkpoint_every` minibatches (None: once a minute). An existing file is replaced.
    resume: True continues from the file `checkpoint`, if it exists, until `epochs` are done in all. With the same
        arguments and data the results have the same bits as without the stop. There may be more epochs, or fewer, and
        for these a schedule with another `total_steps`, which then goes on as if it had been there from the start.
        Other arguments or data raise. Of mapped files only some rows are compared, of iterables nothing.
    parallel: "mpi", or `fastgd.distributed.mpi(...)`, shares the rows of each minibatch over the processes that
        mpiexec started.

    Raises TypeError or ValueError that names the argument, with the network unchanged; DivergenceError if a loss or
    gradient is not finite, with the parameters of the last good step; CheckpointError if the file does not hold such a
    run. After an exception `network.history` has what was done before it."""
    begun: tuple[Steps, int] | None = None
    options = (sample_weight, class_weight, validation_data, validation_fraction, metrics, monitor, tolerance, patience,
               restore_best, callbacks, progress, checkpoint, checkpoint_every, resume, allow_negative,
               parallel)  # fmt: skip
    key = key_of_plain(X, y, optimizer, batch_size, epochs, shuffle, options)
    if key is not None:
        done = self.repeated_calls.repeat(self, X, y, optimizer, key)
        if isinstance(done, History):
            return done
        begun = done
    optimizer, team = pick_optimizer(optimizer), parallel if isinstance(parallel, Team) else None
    if team is not None and optimizer.takes_all_rows:
        raise value_error("optimizer", "one for minibatches with parallel", shown(optimizer))
    epochs = check_integer("epochs", epochs, 0)
    source: Minibatches | Stream
    check_flag("shuffle", shuffle)
    if check_flag("allow_negative", allow_negative) and class_weight is not None:
        raise value_error("class_weight", "None with allow_negative", shown(class_weight))
    validation = None
    if validation_data is not None:
        validation = _checked_validation(self, validation_data)
    is_of_windows = isinstance(X, Windows)
    # An iterable of minibatches may keep its rows as x and y.
    if y is None and not is_of_windows and (isinstance(X, str) or not is_iterable(X)):
        X, y = with_targets("X", self, X) or (X, None)
    if y is None:
        for name, value in (("sample_weight", sample_weight), ("class_weight", class_weight),
                            ("validation_fraction", validation_fraction)):  # fmt: skip
            if value is not None:
                rows = "windows" if is_of_windows else "an iterable of minibatches"
                raise value_error(name, f"None for {rows}", shown(value))
    elif is_of_windows:
        raise value_error("y", "None for windows, which have targets", shown(y))
    if y is None and not is_of_windows:
        check_batch_size(batch_size, math.inf)
        if team is not None:
            raise value_error("X", "arrays with parallel, which cuts minibatches into shares", shown(X))
        if optimizer.takes_all_rows:
            raise value_error("optimizer", "one for minibatches, for an iterable of them", shown(optimizer))
        source, unweighted = Stream(self, X, epochs, allow_negative=allow_negative), None
    else:
        share = None if team is None else team.own_parts()
        if is_of_windows:
            samples = samples_of_windows(self, X, share)
        else:
            samples = check_samples(self, X, y, sample_weight, allow_negative=allow_negative, share=share)
        if validation_fraction is not None:
            if validation is not None:
                raise value_error("validation_fraction", "None beside validation_data", shown(validation_fraction))
            fraction = check_number("validation_fraction", validation_fraction, 0.0, 1.0, low_open=True, high_open=True)
            samples, validation = samples.split(fraction, self.seed)
        unweighted = samples  # for metrics, which ignore class weights
        if class_weight is not None:  # "balanced" counts the rows that are trained on
            samples = check_class_weight(class_weight, samples, self.output_shape[-1], self.dtype)
        size = check_batch_size(batch_size, len(samples))
        if team is not None:
            size = team.own_rows(batch_size, size, sample_weight=sample_weight, class_weight=class_weight)
        if optimizer.takes_all_rows:
            size, shuffle = len(samples), False
        least, layer = self.least_rows
        if size < least:
            raise value_error("batch_size", f"at least {least} rows for {layer!r}", size)
        source = Minibatches(self, samples, size, shuffle=shuffle, share=share)
    checked = [self.loss_function.adapted(metric) for metric in check_metrics("metrics", metrics)]
    if checked and unweighted is None and validation is None:
        raise value_error("metrics", "none without validation data for an iterable of minibatches", shown(metrics))
    if checked and allow_negative and validation is None:
        raise value_error("metrics", "none without validation data with allow_negative", shown(metrics))
    early_stopping = EarlyStopping(self, checked, unweighted, validation, monitor, tolerance, patience, restore_best)
    callbacks = check_callbacks(callbacks)
    is_root = team is None or team.is_root
    bar = ProgressBar(epochs) if check_flag("progress", progress) and is_root else None
    file = None
    if checkpoint is not None:
        file = check_model_file(checkpoint, "checkpoint")
        describe(self, optimizer)  # raises if the file could not store them
    if checkpoint_every is not None:
        check_integer("checkpoint_every", checkpoint_every, 1)
    for name, value in (("checkpoint_every", checkpoint_every), ("resume", check_flag("resume", resume))):
        if value and checkpoint is None:
            raise value_error("checkpoint", f"a file, for {name}={value}", None)
    saved = file if is_root else None
    run = Run(self, optimizer, source, epochs, early_stopping, callbacks, bar, saved, checkpoint_every, team)
    may_resume = resume and file and (os.path.exists(file) or not is_root)
    history = run.go(resume=file if may_resume else None, begun=begun)
    if key is not None:
        self.repeated_calls.keep(key, run)
    return history


def pick_optimizer(optimizer: str | Optimizer | None) -> Optimizer:
    """Returns the optimizer itself, a new one for a name ("adam", in any case), or a new Adam for None."""
    optimizer = "Adam" if optimizer is None else optimizer
    if isinstance(optimizer, str):
        make: Any = named("optimizer", optimizer, OPTIMIZERS, "Optimizer")
        made: Optimizer = make()
        return made
    check_optimizer(optimizer, also=", or a name")
    return optimizer


def fresh_optimizer(optimizer: str | Optimizer | None, learning_rate: Rate | None = None) -> Optimizer:
    """Returns a new optimizer without state, of the class and with the options of the given one (or name). Its learning
    rate is the given one's if `learning_rate` is None; a schedule is copied, since it may hold observed losses."""
    given = pick_optimizer(optimizer)
    rate = given.learning_rate if learning_rate is None else learning_rate
    return type(given)(copy.deepcopy(rate), **given.options())


def _checked_validation(network, data):
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        return check_samples(network, *data, names=[f"validation_data[{i}]" for i in range(3)])
    both = with_targets("validation_data", network, data)
    if both is not None:
        return check_samples(network, *both, names=("validation_data.x", "validation_data.y", ""))
    expected = "(X, y), (X, y, sample_weight), or data with x and y: images, or windows of a text"
    got = f"a {type(data).__name__} of {len(data)}" if isinstance(data, (tuple, list)) else shown(data)
    raise type_error("validation_data", expected, got)
