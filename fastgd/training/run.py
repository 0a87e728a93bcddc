"""A training run: one call of `fit`, from its first minibatch to its last.

It lets the native runner go from pause to pause: a pause is the end of an epoch if something is to be done there
(validation, early stopping, callbacks), and every k minibatches if a callback or the checkpoint asks for it. Between
two pauses Python sees nothing but a look at signals every 50 ms.

Over 400 lines: it is one loop, and what it carries from step to step, saves and takes up again."""

import contextlib
import copy
import math
import operator
import os
import time

import numpy as np

from .._plan import Use
from ..callbacks import every
from ..core.interrupts import held
from ..errors import check_integer, check_number, shown, value_error
from ..schedules import Schedule
from ..training import checkpoint as files
from .history import History, why
from .sampling import Stream

# After how long a run that is asked for it saves itself.
SAVE_SECONDS = 60


def _each_once(entries, function_of):
    """The entries but for those whose function has come before."""
    functions = [function_of(entry) for entry in entries]
    return [entry for i, entry in enumerate(entries) if functions[i] not in functions[:i]]


class Run:
    """A call of `fit`, as callbacks see it.

    network, optimizer; history: what is known so far. epochs: how many are asked for; epoch: how many are done.
    step: minibatches done. loss: of the last minibatch, before its update. learning_rate: of the last update.
    rows: done in all; rows_in_epoch: of the epoch going on; rows_of_epoch: in a whole one, None if that is not known.
    at_epoch_end: whether an epoch has just ended. save(path): see there. It may set `optimizer.learning_rate`, for all
    steps to come: a number, or another schedule of the optimizer's steps from its first one on.
    """

    def __init__(
        self, network, optimizer, source, epochs, early_stopping, callbacks, bar, checkpoint, checkpoint_every
    ):
        self._network, self._optimizer, self._history, self.epochs = network, optimizer, History(), epochs
        self._source, self._early_stopping, self._bar = source, early_stopping, bar
        self.rows_of_epoch = source.rows
        self._checkpoint, self._checkpoint_every, self._state = checkpoint, checkpoint_every, None
        self._checkpoint_file = checkpoint and os.path.abspath(checkpoint)  # wherever a callback goes
        self._functions = [c.callback if isinstance(c, every) else c for c in callbacks]
        self._each_epoch = [(i, c) for i, c in enumerate(callbacks) if not isinstance(c, every)]
        self._each_steps = [(i, c.callback, c.steps) for i, c in enumerate(callbacks) if isinstance(c, every)]
        self._learning_rate = None  # at the beginning; a callback may set another
        self._looks, self._looks_at_epochs, self._has_observers = None, None, None  # see _note_observers
        self._sums = np.zeros(2)  # of the rows' losses in the epoch going on, and of rows
        self._first_epoch = 0
        self.first_row, self.first_epoch = 0, 0  # of those done when this call began, if it goes on with a run
        self.step, self.at_epoch_end, self._last_loss = 0, False, math.nan
        self._last_rate = None  # see _keep_rate
        # Steps that are laid out, how many of them and of their epochs are booked, and the minibatches before; epochs
        # whose end has been handled to.
        self._piece, self._recorded, self._ended, self._base, self._handled = None, 0, 0, 0, 0
        self._trained = 0  # minibatches of the network before the steps that are laid out
        self._changes = 0  # of the optimizer, by hand, when they were laid out
        self._calling = False  # callbacks, who may have trained the network
        self._digests = None  # of the samples, once they are asked for
        self._seconds_before, self._rows_now, self._undo = 0.0, None, None

    # ---- what a callback may ask

    network = property(operator.attrgetter("_network"))
    optimizer = property(operator.attrgetter("_optimizer"))
    history = property(operator.attrgetter("_history"))

    @property
    def epoch(self):
        """Epochs done."""
        return len(self._history.loss)

    @property
    def loss(self):
        """Of the last minibatch, before its update."""
        return float(self._piece.totals[self._recorded - 1]) if self._recorded else self._last_loss

    @property
    def learning_rate(self):
        """Of the last update."""
        if self._recorded:
            return float(self._piece.rates[self._recorded - 1])
        if self._last_rate is not None:
            return self._last_rate
        return float(self._optimizer.schedule(max(self._optimizer.steps - 1, 0)))

    @property
    def rows_in_epoch(self):
        """Rows done of the epoch going on."""
        return int(self._sums[1])

    @property
    def rows(self):
        """Rows done in all."""
        return self._rows_before + self.rows_in_epoch

    @property
    def _rows_before(self):
        """Rows done before the epoch going on."""
        return self._history.rows[-1] if self._history.rows else 0

    # ---- the loop

    def go(self, resume=None):
        """Trains; returns the history. resume: a file to go on from.

        All the while no other thread may use the network or the optimizer; functions that are called here may."""
        network, optimizer = self._network, self._optimizer
        with network.executor.lock, optimizer.lock, self._lent(Use.TRAIN):
            optimizer.settle()
            self._learning_rate = optimizer.config()["learning_rate"]
            self._first_epoch = self._source.epoch = network.epochs
            if resume is not None:
                files.resume(resume, self)
            return self._go()

    @contextlib.contextmanager
    def _lent(self, use):
        """Context of calls to functions of the user: they may use the network and the optimizer."""
        with self._network.executor.lock.lend(use), self._optimizer.lock.lend(use):
            yield

    def _go(self):
        history = self._history
        self._note_observers()
        if self._checkpoint:
            self.settings()  # looks at the data
        self._saved = time.monotonic()
        self._started = self._saved - self._seconds_before
        with contextlib.ExitStack() as stack:
            for entered in _each_once([*self._functions, self._bar], lambda function: function):
                if hasattr(entered, "__enter__"):
                    stack.enter_context(entered)
            self._network.history = history
            try:
                if isinstance(self._source, Stream):
                    self._train_on_stream()
                else:
                    with self._network.executor.lock, self._optimizer.lock:
                        self._train_on_arrays()
                history.stopped = history.stopped or "epochs"
                self._finish()
            except (KeyboardInterrupt, SystemExit) as error:
                with held(pass_on=False):  # another Ctrl-C would lose what is saved
                    self._take_back_epoch_end()
                    history.stopped = history.stopped or why(error)
                    if self._checkpoint:
                        self._save_interrupted(error)
                raise
            except BaseException as error:
                self._take_back_epoch_end()
                history.stopped = why(error)
                raise
            finally:
                self._network.history = history  # a callback may have trained, too
        return history

    def _note_observers(self):
        """Whether the schedule looks at losses (a callback may have set another one), whether there is more than
        callbacks to attend to at the end of an epoch, and whether there is anything."""
        if self._has_observers is False:  # up to now nothing was to be handled to
            self._handled = self.epoch
        self._looks = getattr(self._optimizer.schedule, "looks", False)
        self._looks_at_epochs = self._early_stopping.is_needed or self._looks
        self._has_observers = self._looks_at_epochs or bool(self._each_epoch)

    def _finish(self):
        if self._early_stopping.best_state is not None:
            if self._checkpoint:
                self._state = self._network.state.copy()
            self._network.state[:] = self._early_stopping.best_state
        if self._checkpoint:
            self._save()
        if self._bar:
            self._bar(self, last=True)

    def _train_on_arrays(self):
        optimizer, source = self._optimizer, self._source
        self._handle_missed()
        while self.epoch < self.epochs and not self._history.stopped:
            self._note_observers()
            last_epoch, base = self._first_epoch + self.epochs, optimizer.minibatches
            self._trained = self._network.minibatches
            piece = source.lay_out(self._plan(), optimizer, self._sums, last_epoch, whole_epochs=not self._looks)
            ends, rates = [*piece.ends.tolist(), math.inf], piece.rates[piece.ends - 1].tolist()
            # All of this or nothing, as in `_record`; below, too.
            self._piece, self._base, self._ends, self._end_rates = piece, base, ends, rates
            self._go_through_piece()
            place, loss, rate = source.place_after(piece.ends, self._recorded), self.loss, self.learning_rate
            source.epoch, source.position = place
            self._piece, self._recorded, self._ended, self._last_loss = None, 0, 0, loss
            self._keep_rate(rate)
        self._network.executor.release()

    def _keep_rate(self, rate):
        """Keeps the rate of the last step if it came of a function of the user's, which is asked for no step twice."""
        self._last_rate = None if isinstance(self._optimizer.schedule, Schedule) else rate

    def _plan(self):
        """The network's plan with the optimizer in use; a callback may have used the network for something else."""
        samples, size = self._source.samples, self._source.size
        return self._network.executor.training_plan(size, samples.kernel, self._optimizer)

    def _go_through_piece(self):
        """Trains until the piece is done, or is not what is to be done any more."""
        executor, steps, self._changes = self._network.executor, self._piece, self._optimizer.changes
        pauses = self._pauses()
        while self._recorded < len(steps) and self._is_as_laid_out():
            try:
                self._plan()
                failed = executor.train(steps, self._recorded, pauses, self._notify)
            except Exception:
                if executor.is_mid_step:  # a user's function raised in a step in Python
                    self._record(self._optimizer.minibatches - self._base)
                raise
            if failed is not None:
                self._record(failed)
                minibatch, epoch = self.step + 1, self.epoch + 1
                raise executor.failure(steps, failed, self._optimizer, minibatch=minibatch, epoch=epoch)

    def _pauses(self):
        """The steps of the piece after which there is something to do."""
        size, begun, places = len(self._piece), self.step, [np.zeros(0, np.int64)]
        if self._has_observers:
            places.append(self._piece.ends)
        intervals = [steps for _, _, steps in self._each_steps]
        if self._checkpoint_every:
            intervals.append(self._checkpoint_every)
        places += [np.arange(n - begun % n, size, n) for n in intervals]
        pauses = np.unique(np.concatenate(places))
        return pauses[pauses < size]

    def _is_as_laid_out(self):
        """Whether the rest of the piece is still to be done."""
        counter, booked = self._optimizer.counter, self._base + self._recorded
        is_mine = counter.item(0) == booked and counter.item(1) == self._changes
        return not self._history.stopped and is_mine and self._network.minibatches == self._trained + self._recorded

    def _notify(self, s):
        """Attends to what is to be done after step s of the piece, at a pause or when Python looks in; tells whether
        the native run is at its end."""
        self._record(s)
        if self._bar:
            with self._lent(Use.BORROW):
                self._bar(self)
        self._pause(at_epoch_end=self._ends[self._ended - 1] == s)
        # A callback may have used the network for something else.
        return not (self._network.executor.is_ready_for(self._piece) and self._is_as_laid_out())

    def _record(self, s):
        """Enters in the history what was done up to step s of the piece."""
        steps, history, begun = self._piece, self._history, self._recorded
        if s == begun:
            return
        every = self._optimizer.accumulate
        updates = (self._base + s) // every - (self._base + begun) // every
        first = ended = self._ended
        losses, seconds = [], []
        while self._ends[ended] <= s:
            losses.append(steps.losses.item(ended))
            seconds.append(steps.times.item(ended) - self._started)
            ended += 1
        rates, new, before = self._end_rates[first:ended], ended - first, self._rows_before
        rows = [before + (i + 1) * self._source.rows for i in range(new)]
        # All of this or nothing: without a call in between Python does not look at signals.
        history.loss += losses
        history.learning_rate += rates
        history.rows += rows
        history.seconds += seconds
        history.steps += updates
        self.step += s - begun
        self._network.epochs += new
        self._recorded, self._ended = s, ended

    def _train_on_stream(self):
        """Trains on an iterable's minibatches, one at a time."""
        network, optimizer, source, history = self._network, self._optimizer, self._source, self._history
        self._handle_missed()
        while self.epoch < self.epochs and not history.stopped:
            self._note_observers()
            batches = source.minibatches()
            batch = next(batches, None)
            if batch is None and not source.position:
                raise value_error("X", "an iterable with a minibatch in it", shown(source.batches))
            while batch is not None:
                x, y, *weight = batch
                self._base, self._rows_now = optimizer.minibatches, len(x)
                try:
                    if weight:
                        loss = network.executor.step(x, y, optimizer, *weight, scaled=False)
                    else:
                        loss = network.train_step(x, y, optimizer)
                except Exception as error:
                    error.add_note(f"in minibatch {source.position} of epoch {self.epoch + 1}")
                    raise
                self._record_minibatch(loss)
                if self._bar:
                    self._bar(self)
                batch = next(batches, None)
                if batch is not None and (self._each_steps or self._checkpoint):
                    self._pause(at_epoch_end=False)
                if history.stopped:
                    return
            self._record_epoch()
            self._pause(at_epoch_end=True)

    @np.errstate(all="ignore")
    def _record_epoch(self):
        """Enters an epoch of an iterable."""
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
        """Enters a minibatch of an iterable."""
        every = self._optimizer.accumulate
        update = (self._base + 1) // every - self._base // every
        self._sums += self._rows_now * loss, self._rows_now
        self._last_loss, self._rows_now = loss, None
        self._keep_rate(self._network.executor.last_rate)
        self.step += 1
        self._source.position += 1
        self._history.steps += update

    # ---- what is done at a pause

    def _pause(self, at_epoch_end):
        if at_epoch_end:
            if self._looks_at_epochs and isinstance(self._source, Stream):
                with self._network.executor.lock, self._optimizer.lock:
                    self._end_epoch()
            elif self._looks_at_epochs:
                self._end_epoch()
            self._handled, self._undo = len(self._history.loss), None
        if self._each_steps or (at_epoch_end and self._each_epoch):
            self._call(at_epoch_end)
        if self._checkpoint:
            if self._checkpoint_every and self.step % self._checkpoint_every == 0:
                self._save()
            else:
                self._save_in_time()

    def _handle_missed(self):
        """A run that was resumed may have stopped between an epoch and what is done at its end."""
        if self._has_observers and self._handled < self.epoch:
            self._pause(at_epoch_end=True)

    def _end_epoch(self):
        """Validation, metrics, and whether to go on."""
        early_stopping, history = self._early_stopping, self._history
        with self._optimizer.lock.lend(Use.BORROW):
            loss, values = early_stopping.values()
        with self._lent(Use.BORROW):
            schedule = copy.deepcopy(self._optimizer.schedule) if self._looks else None
        self._undo = early_stopping.seen(), history.best_epoch, schedule
        if loss is not None:
            history.validation_loss.append(loss)
        for name, value in values.items():
            history.metrics.setdefault(name, []).append(value)
        if self._looks:
            with self._lent(Use.BORROW):
                self._optimizer.observe(history.loss[-1] if loss is None else loss)
        history.stopped = early_stopping.look(history)

    def _take_back_epoch_end(self):
        """Undoes what was begun at the end of an epoch when an exception came."""
        if self._undo is None:
            return
        seen, self._history.best_epoch, schedule = self._undo
        self._early_stopping.take(seen)
        self._history.stopped = None
        if schedule is not None:
            self._optimizer.learning_rate = schedule
        for values in (self._history.validation_loss, *self._history.metrics.values()):
            del values[self._handled :]

    def _call(self, at_epoch_end):
        """Calls the callbacks whose time it is."""
        due = self._each_epoch if at_epoch_end else []
        if self._each_steps:  # what is due for both is called once
            by_steps = [(i, function) for i, function, steps in self._each_steps if self.step % steps == 0]
            due = _each_once([*by_steps, *due], lambda numbered: numbered[1])
        self.at_epoch_end, self._calling = at_epoch_end, True
        for i, function in due:
            try:
                with self._lent(Use.TRAIN):
                    answer = function(self)
            except Exception as error:
                error.add_note(f"raised by callbacks[{i}] after minibatch {self.step}, {self.epoch} epochs done")
                raise
            if answer is True or answer is np.True_:
                self._history.stopped = self._history.stopped or "callback"
        self._calling = False

    # ---- kept

    def save(self, path):
        """Writes network, optimizer and the state of this run to a file from which `fit(resume=True)` goes on."""
        with self._lent(Use.BORROW), self._network.executor.lock.reading(), self._optimizer.lock.reading():
            files.save(path, self._network, self._optimizer, self)

    def _save(self):
        self.save(self._checkpoint_file)
        self._saved = time.monotonic()

    def _save_in_time(self):
        if self._checkpoint_every is None and time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _save_interrupted(self, error):
        """Saves what is done after Ctrl-C, wherever it came."""
        done = self._optimizer.minibatches - self._base
        if self._network.executor.is_mid_step:
            error.add_note(f"{self._checkpoint!r} is as it was: the interrupt came within a step")
            return
        if self._piece is not None and done > self._recorded and not self._calling:
            self._record(done)
        elif self._rows_now is not None and done == 1:
            self._record_minibatch(self._network.executor.loss_of_step)
        self._save()
        error.add_note(f"saved to {self._checkpoint!r} after minibatch {self.step}")

    def settings(self):
        """What has to be the same for a run to be resumed."""
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
            "learning_rate": self._learning_rate,
        }

    def state(self):
        """What a file keeps of the run: a dict for JSON, and arrays by name."""
        source, early_stopping, history = self._source, self._early_stopping, self._history
        place = source.epoch, source.position
        if self._piece is not None:
            place = source.place_after(self._piece.ends, self._recorded)
        content = {
            "fit": self.settings(),
            "epoch": place[0],
            "position": place[1],
            "step": self.step,
            "handled": self._handled if self._has_observers else self.epoch,
            "seconds": time.monotonic() - self._started,
        }
        content["history"], lists = history.state()
        arrays = {f"history.{name}": array for name, array in lists.items()}
        arrays |= {"sums": self._sums, "early_stopping": np.array(early_stopping.seen())}
        for name, array in (("best", early_stopping.best_state), ("state", self._state)):
            if array is not None:
                arrays[name] = array
        return content, arrays

    def prepare(self, content, arrays, network):
        """Checks a state as it was saved, with the network as it was then; returns a function that takes it over."""
        counts = ("epoch", "position", "step", "handled")
        numbers = {name: check_integer(name, content[name], 0) for name in counts}
        seconds = check_number("seconds", content["seconds"], 0.0)
        for name, array in arrays.items():
            kept = name in ("best", "state")
            if array.dtype != (network.dtype if kept else np.float64) or array.ndim != 1:
                raise value_error(name, "a flat array of the run's precision", shown(array))
        begin = "history."
        lists = {name[len(begin) :]: array for name, array in arrays.items() if name.startswith(begin)}
        saved = History.of(content["history"], lists)
        epochs, handled = len(saved.loss), numbers["handled"]
        begin = "" if self._early_stopping.validation is None else "validation_"
        names = [f"{begin}{metric.column}" for metric in self._early_stopping.metrics] if handled else []
        if list(saved.metrics) != names:
            raise value_error("metrics", names, shown(list(saved.metrics)))
        of_validation = 0 if self._early_stopping.validation is None else handled
        if len(saved.validation_loss) != of_validation:
            raise value_error("validation_loss", f"{of_validation} values", len(saved.validation_loss))
        for name, values in saved.metrics.items():
            if len(values) != handled:
                raise value_error(name, f"{handled} values", len(values))
        if handled > epochs or epochs > numbers["epoch"] or numbers["position"] >= self._source.per_epoch:
            raise value_error("position", "one that a run can have", shown(numbers))
        sums, seen = arrays["sums"].reshape(2), arrays["early_stopping"].reshape(3).tolist()
        if not (np.isfinite(sums).all() and 0 <= sums[1] < 2**53) or any(map(math.isnan, seen)):
            raise value_error("sums", "finite numbers", shown(sums.tolist()))
        for name in {"best", "state"} & set(arrays):
            if arrays[name].shape != network.state.shape:
                raise value_error(name, f"{network.dtype} {network.state.shape}", shown(arrays[name]))

        def restore():
            history, early_stopping = self._history, self._early_stopping
            early_stopping.take(seen)
            if early_stopping.waited < early_stopping.patience or saved.stopped not in ("converged", "patience"):
                saved.stopped = None
            vars(history).update(vars(saved))
            self._network.history = history
            self._sums[:], self.step = sums, numbers["step"]
            self.first_row, self.first_epoch = self.rows, epochs
            self._handled, self._seconds_before = handled, seconds
            self._first_epoch = numbers["epoch"] - epochs
            self._source.epoch, self._source.position = numbers["epoch"], numbers["position"]
            early_stopping.best_state = arrays.get("best")
            if "state" in arrays:
                self._network.state[:] = arrays["state"]

        return restore
