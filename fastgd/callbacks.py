"""Callbacks: functions that `fit` calls while it trains. A callback takes the run (`fastgd.Run`). It is called after
each epoch, or, wrapped in `every`, after every k minibatches; if it returns True, the training stops. A callback that
is also a context manager is entered before the first step and left after the last, even after an exception; once, even
if it is given both for epochs and for minibatches."""

import contextlib
import functools
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from ._plan import UseLock
from .core.files import check_file
from .core.for_users import ForUsers
from .core.types import Array, Path
from .errors import check_integer, reason, shown, type_error, value_error

__all__ = ["every", "figures", "json_lines", "tensorboard", "trajectory"]

if TYPE_CHECKING:
    from .network import Network
    from .training.history import History
    from .training.run import Run

Callback: TypeAlias = Callable[["Run"], object]

# Seconds between two updates of the progress bar.
TICK = 0.1


class every(ForUsers):
    """A callback that is called after every `steps` minibatches instead of after each epoch."""

    def __init__(self, steps: int, callback: "Callback") -> None:
        self.steps = check_integer("steps", steps, 1)
        _check_callback("callback", callback)
        self.callback = callback

    def __call__(self, run: "Run") -> object:
        return self.callback(run)


def figures(run: "Run") -> dict[str, float]:
    """Current values of a run for a log: {"loss": ..., "learning_rate": ..., ...}. At the end of an epoch they are
    the last values of the history; within an epoch "loss" is the loss of the last minibatch."""
    if run.at_epoch_end:
        return run.history.last()
    return {"loss": run.loss, "learning_rate": run.learning_rate}


def json_of(record: dict[str, Any]) -> str:
    """A record as JSON, in which numbers that are not finite are null."""
    import json

    known = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in record.items()}
    return json.dumps(known)


class json_lines(ForUsers):
    """Appends lines of JSON to a file: {"step": ..., "epoch": ..., "loss": ..., ...} after each epoch, or, within
    `every`, after every k minibatches, and at the end {"stopped": "epochs"}. Numbers that are not finite become null.
    A run that is resumed first removes the lines at the end of the file that have a later step than it begins with.

    path: a regular file; it is created if it does not exist. One `fit` at a time may use it, others raise
        RuntimeError."""

    _file: Any  # open during a `fit`
    _entered: Any
    _history: "History | None"

    def __init__(self, path: Path) -> None:
        self.path = os.path.abspath(os.fspath(path))  # the process may change its folder before `fit`
        self._file, self._history, self._lock = None, None, UseLock(f"json_lines({self.path!r})")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock)
            check_file(self.path)  # open() of a pipe may wait for ever
            self._file, self._history = stack.enter_context(open(self.path, "ab+")), None
            self._entered = stack.pop_all()
        return self

    def __call__(self, run: "Run") -> None:
        if self._history is None and run.first_row:
            self._forget(run.first_step)
        self._history = run.history
        self._write({"step": run.step, "epoch": run.epoch, **self._figures(run)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._entered:
            if error is not None:
                self._write({"stopped": reason(error)})
            elif self._history is not None:
                self._write({"stopped": self._history.stopped})
        self._file, self._entered = None, None

    def _figures(self, run):
        return figures(run)

    def _forget(self, step):
        """Removes the lines from the end of the file back to one with at most this step, and what lies between."""
        self._file.seek(0)
        lines = self._file.readlines()
        kept = len(lines)
        for i, line in reversed(list(enumerate(lines))):
            record = _record(line)
            if line.endswith(b"\n") if record is None else record.get("step", math.inf) <= step:
                break
            if record is None or "step" in record:  # None: a process was killed while it wrote the line
                kept = i
        if kept < len(lines):
            self._file.truncate(sum(map(len, lines[:kept])))

    def _write(self, record):
        self._file.write(json_of(record).encode() + b"\n")
        self._file.flush()


def _record(line):
    """A line of a log as a dict; None if it is not one."""
    import json

    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and ("step" in record or "stopped" in record) else None


class tensorboard(ForUsers):
    """Writes scalars for TensorBoard to a folder, with the writer of the package `tensorboard` (extra `tensorboard`):
    after each epoch, or, within `every`, after every k minibatches. The tags are "loss/train", "loss/validation",
    "metrics/accuracy" and so on, "learning_rate", "rows" and "seconds"; within `every` "loss/minibatch" and
    "learning_rate". The step is `network.minibatches`, which counts on from one `fit` to the next. One `fit` at a time
    may use it, others raise RuntimeError. A forked process that continues training writes to a new file."""

    _writers: dict[int, Any]

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise ImportError("logs for TensorBoard need tensorboard: pip install 'fastgd[tensorboard]'") from error
        self.folder = os.path.abspath(os.fspath(folder))
        self._new_writer, self._writers, self._lock = Writer, {}, UseLock(f"tensorboard({self.folder!r})")

    def __enter__(self) -> Self:
        self._lock.__enter__()
        return self

    def __call__(self, run: "Run") -> None:
        pid = os.getpid()  # the threads of a writer do not survive a fork
        if pid not in self._writers:
            self._writers[pid] = self._new_writer(self.folder)
        for name, value in figures(run).items():
            self._writers[pid].add_scalar(_tag(name, run), value, run.network.minibatches)

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)
        writer = self._writers.pop(os.getpid(), None)
        if writer is not None:
            writer.close()


def _tag(name, run):
    """TensorBoard draws tags with the same beginning in one group."""
    if name == "loss":
        return "loss/train" if run.at_epoch_end else "loss/minibatch"
    if name == "validation_loss":
        return "loss/validation"
    return f"metrics/{name}" if name in run.history.metrics else name


class trajectory(ForUsers):
    """Collects the parameters of a network as it trains: the initial ones, and those after each epoch, or, within
    `every`, after every k minibatches. `parameters` is an array (points, n_parameters); `steps` lists the minibatches
    done at each point, over all calls of `fit`. Each point takes as much memory as the parameters. See
    `fastgd.plots.loss_surface`."""

    steps: list[int]
    _points: "list[Array]"

    def __init__(self, network: "Network") -> None:
        self.network, self.steps, self._points, self._before = network, [], [], 0
        self._lock = UseLock("trajectory")

    def __enter__(self) -> Self:
        self._lock.__enter__()
        if not self._points:
            self._add(0)
        self._before = self.steps[-1]
        return self

    def __call__(self, run: "Run") -> None:
        if run.network is not self.network:
            raise value_error("network", "the network that is trained", "another")
        if self._before + run.step != self.steps[-1]:  # not twice where it serves both minibatches and epochs
            self._add(self._before + run.step)

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)

    def _add(self, step):
        self.steps.append(step)
        self._points.append(self.network.parameters.copy())

    @property
    def parameters(self) -> "Array":
        """Array (points, n_parameters): the parameters at each point."""
        return np.array(self._points).reshape(len(self._points), self.network.n_parameters)


@functools.cache
def _bar_class():
    """tqdm's class of bars. Its lock is held during a fork, so that the child does not find it locked."""
    from tqdm.std import TqdmDefaultWriteLock, tqdm

    if importlib.util.find_spec("ipywidgets") is not None:  # else tqdm.auto warns in a notebook
        from tqdm.auto import tqdm

    lock = TqdmDefaultWriteLock.th_lock
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return tqdm


class Bar:
    """A bar of tqdm on the standard error. If that cannot be written to, the bar vanishes, and the work goes on.
    options: arguments of tqdm."""

    def __init__(self, **options: Any) -> None:
        self._bar = None
        if sys.stderr is not None:
            with self._shown():
                self._bar = _bar_class()(dynamic_ncols=True, delay=1e-9, **options)  # the delay: not drawn yet

    @contextlib.contextmanager
    def _shown(self):
        try:
            yield
        except (OSError, ValueError):  # a pipe without a reader, a closed stream
            if self._bar is not None:
                self._bar.disable = True
            self._bar = None

    def show(self, n: float, **figures: object) -> None:
        """Shows that n units are done, and figures by name."""
        with self._shown():
            if self._bar is not None:
                self._bar.n = n
                self._bar.set_postfix(figures, refresh=False)
                self._bar.refresh()

    def count_from(self, n: int) -> None:
        """Sets how many units were done before; the speed does not count them."""
        if self._bar is not None:
            self._bar.initial = n

    def close(self) -> None:
        with self._shown():
            if self._bar is not None:
                self._bar.close()


def print_above_bars(text: str) -> None:
    """Prints a text to the standard output, above the bars that are shown."""
    if sys.stdout is not None:
        _bar_class().write(text, file=sys.stdout)
        sys.stdout.flush()


class ProgressBar:
    """A bar over the epochs, in a terminal or a notebook, with the last figures of the history and rows per second; for
    a network with the vocabulary of a text tokens per second."""

    _bar: Any
    _run: "Run | None"
    _rows: int | None

    def __init__(self, epochs: int) -> None:
        self._epochs, self._bar, self._run = epochs, None, None

    def __enter__(self) -> Self:
        self._bar = Bar(total=self._epochs, unit="epoch")
        self._bar.show(0)
        self._started, self._updated, self._rows = time.monotonic(), 0.0, None
        return self

    def __call__(self, run: "Run", last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._updated < TICK:
            return
        self._updated = now
        self._run = run
        if self._rows is None:  # the first call; a resumed run starts with rows done before
            self._rows = run.first_row
            self._bar.count_from(run.first_epoch)
        history = run.history
        shown = {"loss": f"{history.loss[-1] if history.loss else run.loss:.4g}"}
        if history.validation_loss:
            shown["validation"] = f"{history.validation_loss[-1]:.4g}"
        shown |= {name: f"{values[-1]:.4g}" for name, values in history.metrics.items() if values}
        shown["lr"] = f"{run.learning_rate:.3g}"
        unit, size = ("tokens", run.network.input_shape[0]) if _is_of_text(run.network) else ("rows", 1)
        shown[f"{unit}/s"] = f"{(run.rows - self._rows) * size / max(now - self._started, 1e-9):,.0f}"
        part = run.rows_in_epoch / run.rows_per_epoch if run.rows_per_epoch else 0
        self._bar.show(round(run.epoch + part, 2) if part else run.epoch, **shown)

    def __exit__(self, *raised: Any) -> None:
        if self._run is not None:
            self(self._run, last=True)
        self._bar.close()


def _is_of_text(network):
    """Whether a network has stored the vocabulary of a text."""
    if network.preprocessing is None:
        return False
    from .text import Vocabulary

    return isinstance(network.preprocessing, Vocabulary)


def check_callbacks(callbacks: "Callback | Sequence[Callback]") -> "list[Callback]":
    """Returns the callbacks as a list. Raises TypeError if one is not callable."""
    if callable(callbacks):
        callbacks = [callbacks]
    if not isinstance(callbacks, (list, tuple)):
        raise type_error("callbacks", "a list of functions of the run", shown(callbacks))
    for i, callback in enumerate(callbacks):
        _check_callback(f"callbacks[{i}]", callback)
    return list(callbacks)


def _check_callback(argument, callback):
    if not callable(callback) or callback in (every, json_lines, tensorboard, trajectory):
        hint = f"; {callback.__name__}(...) makes one" if isinstance(callback, type) else ""
        raise type_error(argument, "a function of the run", f"{shown(callback)}{hint}")
