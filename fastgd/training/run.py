"""A training run: one call of `fit`, from its first minibatch to its last.

The native runner trains from pause to pause. A run pauses at the end of an epoch if something is due there (validation,
early stopping, callbacks), and every k minibatches if a callback or the checkpoint asks for it. Between two pauses
Python only checks for signals, every 50 ms.

Over 400 lines: it is one loop and the state that the loop updates, saves and restores."""

import contextlib
import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .._plan import Use
from ..callbacks import Callback, ProgressBar, every
from ..core.for_users import ForUsers
from ..core.interrupts import held
from ..core.types import Array, Path
from ..engine.steps import Steps
from ..errors import RankError, check_integer, check_number, reason, shown, value_error
from ..optimizers.base import Optimizer
from ..schedules import Schedule
from . import checkpoint
from .early_stopping import EarlyStopping
from .history import History
from .sampling import Minibatches, Stream
from .team import Team

if TYPE_CHECKING:
    from ..network import Network

# Seconds between two saves of a run whose checkpoint interval is not given.
SAVE_SECONDS = 60
NO_PAUSES = np.zeros(0, np.int64)
# Names in a file of the network's states, and of the parameters that outer steps of many ranks keep.
OUTER = "outer", "momentum"
STATES = "best", "state", *OUTER


def _each_once(entries, function_of):
    """The entries without those whose function an earlier entry has."""
    functions = [function_of(entry) for entry in entries]
    return [entry for i, entry in enumerate(entries) if functions[i] not in functions[:i]]


@dataclasses.dataclass
class Piece:
    """Steps that are laid out for the native runner, and how many of them the run has recorded.

    steps               the steps
    epoch_ends          numbers of steps after which an epoch ends, then infinity
    epoch_rates         the learning rate of the last step of each of these epochs
    first_minibatch     minibatches of the optimizer before the first step
    network_minibatches minibatches of the network before the first step
    changes             how often the optimizer had been changed by hand when the steps were laid out
    recorded            steps recorded in the history
    epochs_recorded     ends of epochs recorded in the history"""

    steps: Steps
    epoch_ends: list[float]
    epoch_rates: list[float]
    first_minibatch: int
    network_minibatches: int
    changes: int
    recorded: int = 0
    epochs_recorded: int = 0


class Run(ForUsers):
    """A call of `fit`, as callbacks see it.

    network, optimizer  what is trained, and by which optimizer
    history             the `History` so far
    epochs, epoch       epochs asked for; epochs done
    step                minibatches done
    loss                loss of the last minibatch, before its update
    learning_rate       learning rate of the last update
    rows                rows trained on so far
    rows_in_epoch       rows trained on in the current epoch
    rows_per_epoch      rows of a whole epoch, None if unknown
    at_epoch_end        whether an epoch has just ended
    save(path)          saves the run

    A callback may set `optimizer.learning_rate` for all steps to come: to a number, or to a schedule, which counts the
    optimizer's steps from its first one."""

    _internal = frozenset({
        "callbacks_due", "checkpoint_every", "early_stopping", "first_epoch", "first_row", "first_step", "go", "outer",
        "prepare", "settings", "source", "state"
    })  # fmt: skip

    step: int
    epochs: int
    rows_per_epoch: int | None
    at_epoch_end: bool
    first_row: int
    first_step: int
    first_epoch: int
    _digests: list[str | None] | None

    def __init__(
        self,
        network: "Network",
        optimizer: Optimizer,
        source: Minibatches | Stream,
        epochs: int,
        early_stopping: EarlyStopping,
        callbacks: "list[Callback]",
        bar: ProgressBar | None,
        checkpoint_path: str | None,
        checkpoint_every: int | None,
        team: "Team | None",
    ) -> None:
        self._network, self._optimizer, self._history, self.epochs = network, optimizer, History(), epochs
        self._source, self._early_stopping, self._bar = source, early_stopping, bar
        self._shards = 1 if team is None else team.shards  # how many ranks have other rows, as many as this one
        self.rows_per_epoch = None if source.rows is None else source.rows * self._shards
        self._checkpoint, self._checkpoint_every = checkpoint_path, checkpoint_every
        self._final_state = None  # the network's last state, if the best one has replaced it
        self._checkpoint_file = checkpoint_path and os.path.abspath(checkpoint_path)  # a callback may change the folder
        self._functions = [c.callback if isinstance(c, every) else c for c in callbacks]
        self._epoch_callbacks = [(i, c) for i, c in enumerate(callbacks) if not isinstance(c, every)]
        self._step_callbacks = [(i, c.callback, c.steps) for i, c in enumerate(callbacks) if isinstance(c, every)]
        self._schedule = optimizer.schedule  # at the start; a callback may set another
        # Set by _update_observers: whether the schedule observes the loss; whether anything but callbacks is due at the
        # end of an epoch; whether anything is.
        self._schedule_observes, self._observes_epochs, self._pauses_at_epochs = False, False, True
        self._sums = np.zeros(2)  # in the current epoch: the sum of the rows' losses, and the number of rows
        self._epochs_before = 0  # epochs of the network before the run
        # Rows, steps and epochs that a resumed run had done before this call.
        self.first_row, self.first_step, self.first_epoch = 0, 0, 0
        self.step, self.at_epoch_end, self._last_loss = 0, False, math.nan
        self._last_rate = None  # see _keep_rate
        self._piece = None  # the current `Piece`
        self._begun: tuple[Steps, int] | None = None  # see `go`
        self._handled = 0  # epochs whose end was handled: validation, early stopping, callbacks
        # A minibatch of an iterable that is not recorded yet: its rows, and the optimizer's minibatches before it.
        self._streamed = None
        self._calling = False  # whether callbacks are being called, which may have trained the network
        self._digests = None  # digests of the samples, computed by `settings`
        self._seconds_before = 0.0  # of a resumed run, before this call
        self._undo = None  # what _undo_epoch_end restores
        self._team = team  # the ranks that share the run
        self.outer: tuple[Array, Array] | None = None  # of a resumed run: see `RankSteps.outer`

    # ---- for callbacks

    @property
    def network(self) -> "Network":
        return self._network

    @property
    def optimizer(self) -> Optimizer:
        return self._optimizer

    @property
    def source(self) -> Minibatches | Stream:
        return self._source

    @property
    def history(self) -> History:
        return self._history

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self._history.loss)

    @property
    def early_stopping(self) -> EarlyStopping:
        return self._early_stopping

    @property
    def checkpoint_every(self) -> int | None:
        return self._checkpoint_every

    @property
    def callbacks_due(self) -> list[str]:
        """When each callback is called."""
        return ["each epoch" for _ in self._epoch_callbacks] + [f"every {steps}" for *_, steps in self._step_callbacks]

    @property
    def loss(self) -> float:
        """Loss of the last minibatch, before its update."""
        piece = self._piece
        return float(piece.steps.totals[piece.recorded - 1]) if piece and piece.recorded else self._last_loss

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last update."""
        piece = self._piece
        if piece and piece.recorded:
            return float(piece.steps.rates[piece.recorded - 1])
        if self._last_rate is not None:
            return self._last_rate
        return float(self._optimizer.schedule(max(self._optimizer.steps - 1, 0)))

    @property
    def rows_in_epoch(self) -> int:
        """Number of rows trained on in the current epoch."""
        return int(self._sums[1]) * self._shards

    @property
    def rows(self) -> int:
        """Number of rows trained on so far."""
        return self._rows_before + self.rows_in_epoch

    @property
    def _rows_before(self) -> int:
        """Number of rows trained on before the current epoch."""
        return self._history.rows[-1] if self._history.rows else 0

    # ---- the loop

    def go(self, resume: str | None = None, begun: tuple[Steps, int] | None = None) -> History:
        """Trains; returns the history. resume: a file from which the run continues. begun: the first steps, and how
        many of them were made.

        Meanwhile no other thread may use the network or the optimizer; functions of the user that the run calls may."""
        network, optimizer = self._network, self._optimizer
        locks = network.executor.lock, optimizer.lock
        with locks[0], locks[1], locks[0].lend(Use.TRAIN), locks[1].lend(Use.TRAIN):
            optimizer.discard_disturbed()
            self._schedule = optimizer.schedule
            self._epochs_before = self._source.epoch = network.epochs
            self._begun = begun
            if self._team is not None:
                self._team.check(self)
            self._begin(resume)
        return self._history

    def _begin(self, resume):
        with contextlib.nullcontext(resume) if self._team is None else self._team.file_of_root(resume) as path:
            if path is not None:
                checkpoint.resume(path, self)
            else:
                self._optimizer.begin_run()
        if self._team is not None:
            self._team.begin(self)
        self._go()

    @contextlib.contextmanager
    def _lent(self, use):
        """Context in which functions of the user may use the network and the optimizer."""
        with self._network.executor.lock.lend(use), self._optimizer.lock.lend(use):
            yield

    def _go(self):
        self._update_observers()
        if self._checkpoint:
            self.settings()  # reads the data now, not at the first save
        self._saved = time.monotonic()
        self._started = self._saved - self._seconds_before
        with contextlib.ExitStack() as stack:
            is_root = self._team is None or self._team.is_root
            for entered in _each_once([*self._functions, self._bar] if is_root else [], lambda function: function):
                if hasattr(entered, "__enter__"):
                    stack.enter_context(entered)
            self._execute()

    def _execute(self):
        """The run, within the contexts of the callbacks."""
        network, history = self._network, self._history
        network.history = history
        try:
            if isinstance(self._source, Stream):
                self._train_on_stream()
            else:
                with network.executor.lock, self._optimizer.lock:
                    self._train_on_arrays()
            history.stopped = history.stopped or "epochs"
            self._finish()
            if self._team is not None:
                self._team.end(network)
        except (KeyboardInterrupt, SystemExit, RankError) as error:
            with held(pass_on=False):  # a second Ctrl-C must not interrupt the save
                self._undo_epoch_end()
                history.stopped = history.stopped or reason(error)
                if self._checkpoint:
                    self._save_interrupted(error)
            raise
        except BaseException as error:
            self._undo_epoch_end()
            history.stopped = reason(error)
            raise
        finally:
            network.history = history  # a callback may have trained, too

    def _update_observers(self):
        """Updates what depends on the schedule, which a callback may have replaced."""
        if not self._pauses_at_epochs:  # nothing was due at the ends of the epochs so far
            self._handled = self.epoch
        self._schedule_observes = getattr(self._optimizer.schedule, "observes_loss", False)
        self._observes_epochs = self._early_stopping.is_needed or self._schedule_observes
        self._pauses_at_epochs = self._observes_epochs or bool(self._epoch_callbacks)

    def _finish(self):
        best_state, best = self._early_stopping.best_state, self._optimizer.best
        if best_state is not None or best is not None:
            if self._checkpoint:
                self._final_state = self._network.state.copy()
            if best_state is None:
                self._network.parameters[:] = best
            else:
                self._network.state[:] = best_state
        if self._checkpoint:
            self._save()
        if self._bar:
            self._bar(self, last=True)

    def _train_on_arrays(self):
        source = self._source
        self._handle_missed()
        while self.epoch < self.epochs and not self._history.stopped:
            self._update_observers()
            begun = 0 if self._begun is None else self._begun[1]
            self._piece = self._next_piece()
            self._record(begun)
            self._train_piece()
            piece, loss, rate = self._piece, self.loss, self.learning_rate
            position = source.position_after(piece.steps.ends, piece.recorded)
            # All of this or nothing, as in `_record`.
            source.epoch, source.position = position
            self._piece, self._last_loss = None, loss
            self._keep_rate(rate)
        self._network.executor.release()

    def _next_piece(self):
        """Lays out the next steps."""
        optimizer, last_epoch, done = self._optimizer, self._epochs_before + self.epochs, 0
        if self._begun is None:
            whole_epochs = not self._schedule_observes
            steps = self._source.lay_out(self._plan(), optimizer, self._sums, last_epoch, whole_epochs=whole_epochs)
        else:
            (steps, done), self._begun = self._begun, None
            self._sums = steps.sums
            if optimizer.minibatches != steps.known.begin + steps.first + done:
                raise RuntimeError("this network was trained by another call; give each thread its own network")
        before = optimizer.minibatches - done, self._network.minibatches - done
        ends, rates = [*steps.ends.tolist(), math.inf], steps.rates[steps.ends - 1].tolist()
        return Piece(steps, ends, rates, *before, optimizer.changes)

    def _keep_rate(self, rate):
        """Keeps the rate of the last step if a function of the user gave it: that is called once for each step."""
        self._last_rate = None if isinstance(self._optimizer.schedule, Schedule) else rate

    def _plan(self):
        """The network's plan, set to this optimizer. A callback may have used the network for something else."""
        samples, size = self._source.samples, self._source.size
        if self._team is not None:
            size = self._team.largest_share(size)
        return self._network.executor.training_plan(size, samples.kernel, self._optimizer)

    def _train_piece(self):
        """Trains until all steps of the piece are done, or the rest of them is out of date."""
        executor, piece = self._network.executor, self._piece
        steps, pauses = piece.steps, self._pauses()
        while piece.recorded < len(steps) and self._is_as_laid_out():
            try:
                self._plan()
                train = executor.train if self._team is None else self._team.steps.train
                failed = train(steps, piece.recorded, pauses, self._notify)
            except Exception:
                if executor.is_mid_step:  # a function of the user, called from Python, raised in a step
                    self._record(self._optimizer.minibatches - piece.first_minibatch)
                raise
            if failed is not None:
                self._record(failed)
                if self._optimizer.has_converged:
                    self._history.stopped = "converged"
                    return
                minibatch, epoch = self.step + 1, self.epoch + 1
                raise executor.failure(steps, failed, self._optimizer, minibatch=minibatch, epoch=epoch)

    def _pauses(self):
        """The numbers of steps of the piece after which something is due, ascending."""
        size, done, pauses = len(self._piece.steps), self.step, [NO_PAUSES]
        if not (self._pauses_at_epochs or self._step_callbacks or self._checkpoint_every):
            return NO_PAUSES
        if self._pauses_at_epochs:
            pauses.append(self._piece.steps.ends)
        intervals = [steps for _, _, steps in self._step_callbacks]
        if self._checkpoint_every:
            intervals.append(self._checkpoint_every)
        pauses += [np.arange(n - done % n, size, n) for n in intervals]
        pauses = np.unique(np.concatenate(pauses))
        return pauses[pauses < size]

    def _is_as_laid_out(self):
        """Whether the rest of the piece is still what has to be done: the run was not stopped, and no callback trained
        the network, used the optimizer or changed it."""
        counter, piece = self._optimizer.counter, self._piece
        unused = counter.item(0) == piece.first_minibatch + piece.recorded and counter.item(1) == piece.changes
        untrained = self._network.minibatches == piece.network_minibatches + piece.recorded
        return not self._history.stopped and unused and untrained

    def _notify(self, s):
        """Handles what is due after s steps of the piece, at a pause or when Python checks for signals. Returns whether
        the native run has to end."""
        piece = self._piece
        self._record(s)
        if self._bar:
            with self._lent(Use.BORROW):
                self._bar(self)
        self._pause(at_epoch_end=piece.epoch_ends[piece.epochs_recorded - 1] == s)
        # A callback may have used the network for something else.
        return not (self._network.executor.is_ready_for(piece.steps) and self._is_as_laid_out())

    def _record(self, s):
        """Records the first s steps of the piece in the history."""
        piece, history = self._piece, self._history
        steps, done = piece.steps, piece.recorded
        if s == done:
            return
        accumulate, minibatches = self._optimizer.accumulate, piece.first_minibatch
        updates = (minibatches + s) // accumulate - (minibatches + done) // accumulate
        first = end = piece.epochs_recorded
        losses, seconds = [], []
        while piece.epoch_ends[end] <= s:
            losses.append(steps.losses.item(end))
            seconds.append(steps.times.item(end) - self._started)
            end += 1
        rates, new, before = piece.epoch_rates[first:end], end - first, self._rows_before
        rows = [before + (i + 1) * self._source.rows * self._shards for i in range(new)]
        # All of this or nothing: Python handles signals at calls and jumps, and here there are none.
        history.loss += losses
        history.learning_rate += rates
        history.rows += rows
        history.seconds += seconds
        history.steps += updates
        self.step += s - done
        self._network.epochs += new
        piece.recorded, piece.epochs_recorded = s, end

    def _train_on_stream(self):
        """Trains on an iterable's minibatches, one at a time."""
        network, optimizer, source, history = self._network, self._optimizer, self._source, self._history
        self._handle_missed()
        while self.epoch < self.epochs and not history.stopped:
            self._update_observers()
            batches = source.minibatches()
            batch = next(batches, None)
            if batch is None and not source.position:
                raise value_error("X", "an iterable with a minibatch in it", shown(source.batches))
            while batch is not None:
                x, y, *weight = batch
                self._streamed = len(x), optimizer.minibatches
                try:
                    if weight:
                        allow = source.allow_negative
                        loss = network.executor.step(x, y, optimizer, *weight, scaled=False, allow_negative=allow)
                    else:
                        loss = network.train_step(x, y, optimizer)
                except Exception as error:
                    error.add_note(f"in minibatch {source.position} of epoch {self.epoch + 1}")
                    raise
                self._record_minibatch(loss)
                if self._bar:
                    self._bar(self)
                batch = next(batches, None)
                if batch is not None and (self._step_callbacks or self._checkpoint):
                    self._pause(at_epoch_end=False)
                if history.stopped:
                    return
            self._record_epoch()
            self._pause(at_epoch_end=True)

    @np.errstate(all="ignore")
    def _record_epoch(self):
        """Records an epoch of an iterable in the history."""
        source, history = self._source, self._history
        loss, rate, seconds = self._sums[0] / self._sums[1], self.learning_rate, time.monotonic() - self._started
        rows, loss = self.rows, float(loss)
        history.loss += [loss]
        history.learning_rate += [rate]
        history.rows += [rows]
        history.seconds += [seconds]
        self._sums[:] = 0
        self._network.epochs, source.epoch, source.position = self._network.epochs + 1, source.epoch + 1, 0

    @np.errstate(all="ignore")
    def _record_minibatch(self, loss):
        """Records a minibatch of an iterable."""
        rows, minibatches = self._streamed
        accumulate = self._optimizer.accumulate
        update = (minibatches + 1) // accumulate - minibatches // accumulate
        self._keep_rate(self._network.executor.last_rate)
        # All of this or nothing, as in `_record`.
        self._sums += rows * loss, rows
        self._last_loss, self._streamed = loss, None
        self.step += 1
        self._source.position += 1
        self._history.steps += update

    # ---- what is due at a pause

    def _pause(self, at_epoch_end):
        if at_epoch_end:
            if self._observes_epochs and isinstance(self._source, Stream):
                with self._network.executor.lock, self._optimizer.lock:
                    self._end_epoch()
            elif self._observes_epochs:
                self._end_epoch()
            self._handled, self._undo = len(self._history.loss), None
        if self._step_callbacks or (at_epoch_end and self._epoch_callbacks):
            self._call(at_epoch_end)
        if self._checkpoint:
            if self._checkpoint_every and self.step % self._checkpoint_every == 0:
                self._save()
            else:
                self._save_in_time()

    def _handle_missed(self):
        """Handles the end of an epoch if the run that is resumed was stopped before it did."""
        if self._pauses_at_epochs and self._handled < self.epoch:
            self._pause(at_epoch_end=True)

    def _end_epoch(self):
        """Validation loss and metrics, the schedule's observation of the loss, early stopping."""
        early_stopping, history = self._early_stopping, self._history
        with self._optimizer.lock.lend(Use.BORROW):
            evaluate = early_stopping.values
            loss, values = evaluate() if self._team is None else self._team.from_root(evaluate)
        with self._lent(Use.BORROW):
            schedule = copy.deepcopy(self._optimizer.schedule) if self._schedule_observes else None
        self._undo = early_stopping.state(), history.best_epoch, schedule
        if loss is not None:
            history.validation_loss.append(loss)
        for name, value in values.items():
            history.metrics.setdefault(name, []).append(value)
        if self._schedule_observes:
            with self._lent(Use.BORROW):
                self._optimizer.observe(history.loss[-1] if loss is None else loss)
        why = early_stopping.update(history)
        history.stopped = history.stopped or why  # another thread may have stopped the run

    def _undo_epoch_end(self):
        """Undoes the part of `_end_epoch` that was done before an exception."""
        if self._undo is None:
            return
        state, self._history.best_epoch, schedule = self._undo
        self._early_stopping.restore(state)
        self._history.stopped = None
        if schedule is not None:
            self._optimizer.learning_rate = schedule
        for values in (self._history.validation_loss, *self._history.metrics.values()):
            del values[self._handled :]

    def _call(self, at_epoch_end):
        """Calls the callbacks that are due."""
        due = self._epoch_callbacks if at_epoch_end else []
        if self._step_callbacks:  # a function that is due for both reasons is called once
            by_steps = [(i, function) for i, function, steps in self._step_callbacks if self.step % steps == 0]
            due = _each_once([*by_steps, *due], lambda numbered: numbered[1])
        self.at_epoch_end, self._calling = at_epoch_end, True
        if self._team is None:
            self._call_each(due)
        elif due:
            self._team.follow_root(self, lambda: self._call_each(due))
        self._calling = False

    def _call_each(self, due):
        for i, function in due:
            try:
                with self._lent(Use.TRAIN):
                    answer = function(self)
            except Exception as error:
                error.add_note(f"raised by callbacks[{i}] after minibatch {self.step}, {self.epoch} epochs done")
                raise
            if answer is True or answer is np.True_:
                self._history.stopped = self._history.stopped or "callback"

    # ---- saving and resuming

    def save(self, path: Path) -> None:
        """Saves network, optimizer and the state of this run to a file from which `fit(resume=True)` continues."""
        with self._lent(Use.BORROW), self._network.executor.lock.reading(), self._optimizer.lock.reading():
            checkpoint.save(path, self._network, self._optimizer, self)

    def _save(self):
        self.save(self._checkpoint_file)
        self._saved = time.monotonic()

    def _save_in_time(self):
        if self._checkpoint_every is None and time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _save_interrupted(self, error):
        """Saves the run after Ctrl-C, wherever that came; steps that were done, but not yet recorded, are recorded."""
        if self._network.executor.is_mid_step:
            error.add_note(f"{self._checkpoint!r} is as it was: the interrupt came within a step")
            return
        piece, minibatches = self._piece, self._optimizer.minibatches
        if piece is not None and not self._calling and minibatches > piece.first_minibatch + piece.recorded:
            self._record(minibatches - piece.first_minibatch)
        elif self._streamed is not None and minibatches == self._streamed[1] + 1:
            self._record_minibatch(self._network.executor.loss_of_step)
        self._save()
        error.add_note(f"saved to {self._checkpoint!r} after minibatch {self.step}")

    def settings(self) -> dict[str, Any]:
        """The settings that have to be the same for a run to be resumed."""
        source, early_stopping = self._source, self._early_stopping
        if self._digests is None:
            samples = None if isinstance(source, Stream) else source.samples, early_stopping.validation
            self._digests = [None if part is None else part.digest(self._network.dtype) for part in samples]
        return {
            "rows": source.rows,
            "data": self._digests[0],
            "batch_size": source.size,
            "shuffle": source.shuffle,
            "validation rows": None if early_stopping.validation is None else len(early_stopping.validation),
            "validation data": self._digests[1],
            "metrics": [metric.column for metric in early_stopping.metrics],
            "monitor": early_stopping.monitor,
            "restore_best": early_stopping.restore_best,
            "learning_rate": self._schedule.config() if isinstance(self._schedule, Schedule) else None,
            "local steps": None if self._team is None else self._team.local_steps,
        }

    def state(self) -> tuple[dict[str, Any], dict[str, "Array"]]:
        """What a file stores of the run: a dict for JSON, and arrays by name."""
        source, early_stopping, history, piece = self._source, self._early_stopping, self._history, self._piece
        position = source.epoch, source.position
        if piece is not None:
            position = source.position_after(piece.steps.ends, piece.recorded)
        content = {
            "fit": self.settings(),
            "epoch": position[0],
            "position": position[1],
            "step": self.step,
            "handled": self._handled if self._pauses_at_epochs else self.epoch,
            "seconds": time.monotonic() - self._started,
        }
        content["history"], lists = history.state()
        arrays: dict[str, Array] = {f"history.{name}": array for name, array in lists.items()}
        arrays |= {"sums": self._sums, "early_stopping": np.array(early_stopping.state())}
        outer = (None, None) if self._team is None or self._team.steps.outer is None else self._team.steps.outer
        kept = early_stopping.best_state, self._final_state, *outer
        for name, array in zip(STATES, kept, strict=True):
            if array is not None:
                arrays[name] = array
        return content, arrays

    def prepare(self, content: dict[str, Any], arrays: dict[str, "Array"], network: "Network") -> Callable[[], None]:
        """Checks a saved state, with the network as it was saved; returns a function that restores the run from it."""
        counts = ("epoch", "position", "step", "handled")
        numbers = {name: check_integer(name, content[name], 0) for name in counts}
        seconds = check_number("seconds", content["seconds"], 0.0)
        for name, array in arrays.items():
            is_state = name in STATES
            if array.dtype != (network.dtype if is_state else np.float64) or array.ndim != 1:
                raise value_error(name, "a flat array of the run's precision", shown(array))
        prefix = "history."
        lists = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
        saved = History.of(content["history"], lists)
        epochs, handled = len(saved.loss), numbers["handled"]
        prefix = "" if self._early_stopping.validation is None else "validation_"
        names = [f"{prefix}{metric.column}" for metric in self._early_stopping.metrics] if handled else []
        if list(saved.metrics) != names:
            raise value_error("metrics", names, shown(list(saved.metrics)))
        losses = 0 if self._early_stopping.validation is None else handled
        if len(saved.validation_loss) != losses:
            raise value_error("validation_loss", f"{losses} values", len(saved.validation_loss))
        for name, values in saved.metrics.items():
            if len(values) != handled:
                raise value_error(name, f"{handled} values", len(values))
        if handled > epochs or epochs > numbers["epoch"] or numbers["position"] >= self._source.per_epoch:
            raise value_error("position", "one that a run can have", shown(numbers))
        sums, state = arrays["sums"].reshape(2), arrays["early_stopping"].reshape(3).tolist()
        if not (np.isfinite(sums).all() and 0 <= sums[1] < 2**53) or any(map(math.isnan, state)):
            raise value_error("sums", "finite numbers", shown(sums.tolist()))
        for name in set(STATES) & set(arrays):
            shape = (network.parameters if name in OUTER else network.state).shape
            if arrays[name].shape != shape:
                raise value_error(name, f"{network.dtype} {shape}", shown(arrays[name]))
        if set(OUTER) & set(arrays):
            self.outer = arrays[OUTER[0]], arrays[OUTER[1]]

        def restore():
            history, early_stopping = self._history, self._early_stopping
            early_stopping.restore(state)
            if early_stopping.waited < early_stopping.patience or saved.stopped not in ("converged", "patience"):
                saved.stopped = None
            vars(history).update(vars(saved))
            self._network.history = history
            self._sums[:], self.step = sums, numbers["step"]
            self.first_row, self.first_step, self.first_epoch = self.rows, self.step, epochs
            self._handled, self._seconds_before = handled, seconds
            self._epochs_before = numbers["epoch"] - epochs
            self._source.epoch, self._source.position = numbers["epoch"], numbers["position"]
            early_stopping.best_state = arrays.get("best")
            if "state" in arrays:
                self._network.state[:] = arrays["state"]

        return restore
