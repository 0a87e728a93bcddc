"""Sweeps: many small trainings in parallel, over learning rates, seeds, optimizers and so on, compared in a table."""

import collections.abc
import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.aliases import column as column_of
from ..core.for_users import ForUsers
from ..core.hints import of_argument
from ..core.html import html_table
from ..core.threads import check_threads
from ..data.samples import as_array
from ..errors import check_flag, check_integer, choose, shown, type_error, value_error
from ..metrics import check_metrics
from ..network import Network
from ..optimizers.base import Optimizer
from ..training.fit import fit, fresh_optimizer
from ..training.history import History
from .executors import check_executor, train_all

if TYPE_CHECKING:
    import concurrent.futures

    from matplotlib.figure import Figure

# Arguments of `fit` that make sense for a single training only.
UNUSED = {"callbacks", "progress", "checkpoint", "checkpoint_every", "resume"}
# Settings, by the function that takes them.
OF_FIT = {p.name for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY} - UNUSED
OF_NETWORK = {"layers", "l1", "l2", "dtype", "seed", "backend"}
OF_OPTIMIZER = {"optimizer", "learning_rate"}
# The last columns of the table, and columns of a history that the table leaves out.
ENDS = ("epoch", "seconds", "stopped")
NO_FIGURES = ("learning_rate", "rows", "seconds")
TAKEN = {"loss", "validation_loss", *ENDS, "error"}  # names that no setting may have
PRINTED_ROWS = 30  # the most


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep(ForUsers):
    """The results of many trainings. Lists have one element for each training, in the order of the grid.

    settings            dicts of the values from the grid
    histories           a `History` each
    networks            the trained networks
    columns             lists by name: the settings, with optimizers as text; "epoch", the last epoch, or the best one
                        with restore_best; "loss", "validation_loss" and metrics of that epoch, NaN where the training
                        diverged; "seconds"; "stopped", as in `History`; "error", only if a training has no results:
                        why (its worker died), else "". Its figures are NaN, and its network has initial values
    greater_is_better   for each column of figures whether greater is better; None if unknown

    Printed, and in a notebook, it is the table, the best training first; "index" is the index in these lists."""

    settings: list[dict[str, Any]]
    histories: list[History]
    networks: list[Network]
    columns: dict[str, list[Any]]
    greater_is_better: dict[str, bool | None]

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns as lists of one length, by name. `pandas.DataFrame` takes the dict."""
        return {name: list(values) for name, values in self.columns.items()}

    def order(self, column: str | None = None) -> list[int]:
        """Indices of the trainings, the best first and NaN last, by a column: None is the validation loss, or without
        one the loss. Lower is better, except for metrics for which greater is better.

        Both losses include the penalty of the network. So they compare trainings of one l1 and l2: of two that predict
        alike, the one with the larger l2 has the larger loss. If the grid has l1 or l2, order by a metric.

        Raises ValueError if the column has no figures, or if it is unknown whether greater is better."""
        column = self._known(column)
        greater = self.greater_is_better[column]
        if greater is None:
            expected = "a metric that says whether greater is better, as fastgd.metrics.own(f, greater_is_better=...)"
            raise value_error("column", expected, repr(column))
        values = np.array(self.columns[column], np.float64)
        order: list[int] = np.argsort(-values if greater else values, kind="stable").tolist()
        return order

    def _known(self, column: str | None) -> str:
        """The name of a column of figures; the default of `order` for None. Raises ValueError for other names."""
        if column is None:
            column = "validation_loss" if "validation_loss" in self.columns else "loss"
        known: str = column_of(column, self.greater_is_better)
        choose("column", known, self.greater_is_better)
        return known

    def plot(self, x: str | None = None, column: str | None = None, title: str = "Sweep") -> "Figure":
        """Returns a matplotlib Figure; see `fastgd.plots.plot_sweep`."""
        from ..plots import plot_sweep

        return plot_sweep(self, x, column, title)

    def best(self, column: str | None = None) -> int:
        """The index of the best training by a column, as in `order`, the first of equally good ones: use it as
        `networks[best()]`, `settings[best()]`. Raises ValueError, also if all values are NaN."""
        first = self.order(column)[0]
        name = self._known(column)
        if math.isnan(self.columns[name][first]):
            expected = "a column with a number in it, of a training that did not diverge or die"
            raise value_error("column", expected, f"{name!r}, NaN in all {len(self)}")
        return first

    def __len__(self) -> int:
        return len(self.settings)

    def __repr__(self) -> str:
        lines = [["index", *self.columns], *self._rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.rjust, line, widths)) for line in lines]
        more = len(self) - PRINTED_ROWS
        return "\n".join([*text, *([f"... and {more} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        shown = f", of which the best {PRINTED_ROWS}" if len(self) > PRINTED_ROWS else ", the best first"
        return html_table(f"{len(self):,} trainings{shown}", ["index", *self.columns], self._rows())

    def _rows(self):
        """The texts of the table, by row."""
        return [[f"{i}", *(_cell(values[i]) for values in self.columns.values())] for i in self.order()[:PRINTED_ROWS]]


def _cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else shown(value)


def sweep(
    network: Network | Callable[..., Network],
    X: "npt.ArrayLike",
    y: "npt.ArrayLike",
    grid: Mapping[str, Any],
    *,
    executor: "concurrent.futures.Executor | None" = None,
    num_threads: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Sweep:
    """Trains a network for each combination of a grid, several at a time, each on one thread; returns a `Sweep`.

    network: a Network, from which each training makes a new one with initial values (`Network.like`); or a function
        that makes one, whose arguments are settings not listed below: `lambda hidden: Network(...)`.
    X, y: as in `Network.fit`, the same for all trainings.
    grid: {setting: list of values}. Settings are "learning_rate"; arguments of `fit`, such as "optimizer" (names, or
        optimizers, whose options are used but not their state) and "batch_size"; and of `Network`: "seed", "l1", "l2",
        "layers", "dtype", "backend". Every combination is trained; the last setting varies fastest.
    executor: None trains in threads of this process. Otherwise each training is a task for an executor, which decides
        how many run at a time: ThreadPoolExecutor, ProcessPoolExecutor, loky's, Dask's `client.get_executor()`,
        `mpi4py.futures.MPIPoolExecutor`. The results are the same, bit for bit. Processes that are not forked import
        the script, so it must make a ProcessPoolExecutor below `if __name__ == "__main__":`.
    num_threads: without an executor, number of trainings at a time; None is as for `Network`. With one, number of
        threads of each training; None is 1. The results do not depend on it, bit for bit.
    progress: True shows a progress bar over the trainings.
    options: settings that are the same for all: `epochs=20, validation_data=(Xv, yv)`. (validation_fraction would
        hold out different rows for each seed.)

    What is sent to the workers of an executor: X, y and the options once, as a temporary file (in the folder that
    TMPDIR names) that the workers of a machine map into their memory together; to a worker that finds no such file, as
    on another machine, with each of its trainings. With each training its network, made in this process,
    and its settings from the grid. Back come parameters, statistics, gradient and history. Metrics and other functions
    are sent by name, or whole if cloudpickle is installed. The function that makes networks is not sent. To threads
    nothing is.

    If a training diverges, the others continue. So they do if a worker dies or has not enough memory: the column
    "error" says why a training has no results. (An executor that takes no more tasks then, as ProcessPoolExecutor and
    loky's, is replaced by new pools like it.) If no training has results, the error is raised.

    Raises TypeError or ValueError that names the argument, for any of the combinations, before the first training.
    Ctrl-C, or an exception in one training, ends all trainings, but for those that other processes have begun."""
    if y is None:
        raise type_error("y", "targets for the rows of X", None)
    executor, bar = check_executor(executor), check_flag("progress", progress)
    threads = 1 if num_threads is None and executor is not None else check_threads(num_threads)
    X, y = as_array("X", X), as_array("y", y)  # converted once, not for each training
    grid, options = _renamed(network, grid), _renamed(network, options)
    combinations = _combinations(grid, options, isinstance(network, Network))
    threads_each = 1 if executor is None else threads
    trainings = [_prepared(network, X, y, {**options, **own}, own, threads_each) for own in combinations]
    shared = (OF_FIT & set(options)) - {"optimizer"}
    errors = train_all(executor, trainings, X, y, shared, combinations, threads=threads, shows_bar=bar)
    networks = [trained for trained, _ in trainings]
    histories = [trained.history for trained in networks]
    outcomes, directions = zip(*map(_outcome, histories, (of_fit for _, of_fit in trainings)), strict=True)
    greater = {name: is_better for known in [{"loss": False}, *directions] for name, is_better in known.items()}
    columns = {name: [_named(name, settings) for settings in combinations] for name in combinations[0]}
    columns |= {name: [outcome.get(name, math.nan) for outcome in outcomes] for name in [*greater, *ENDS]}
    if any(errors):
        columns["error"] = errors
    return Sweep(combinations, histories, networks, columns, {**greater, "epoch": False, "seconds": False})


def _renamed(network, settings):
    """The settings, with "learning_rate" for "lr", unless that is an argument of a function that makes the network."""
    if not isinstance(settings, collections.abc.Mapping) or "lr" not in settings or "learning_rate" in settings:
        return settings
    if callable(network) and "lr" in inspect.signature(network).parameters:
        return settings
    return {"learning_rate" if name == "lr" else name: values for name, values in settings.items()}


def _combinations(grid, options, is_network):
    """The settings of each training, from the grid. Raises TypeError or ValueError that names a setting."""
    if not isinstance(grid, collections.abc.Mapping) or not grid:
        raise type_error("grid", "a dict of lists, {'learning_rate': [1e-3, 1e-2]}", shown(grid))
    known = dict.fromkeys(sorted(OF_OPTIMIZER | OF_FIT | OF_NETWORK))
    for name in [*grid, *options]:
        if not isinstance(name, str) or name in UNUSED or name in TAKEN:
            raise value_error("grid", "settings of trainings", f"{name!r}")
        if is_network and name not in known:
            makes_it = f"; a function that makes the network may take it: sweep(lambda {name}: Network(...), ...)"
            advice = of_argument(name, known) or (makes_it if name.isidentifier() else "")
            raise value_error("grid", f"one of {', '.join(map(repr, known))}", f"{name!r}{advice}")
        if name in grid and name in options:
            raise value_error(name, "one value for all, or a list in the grid", "both")
    lists = []
    for name, values in grid.items():
        values = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
        if not isinstance(values, (list, tuple, range)) or not values:
            raise type_error(f"grid[{name!r}]", "a list of values", shown(values))
        lists.append(values)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*lists)]


def _prepared(network, X, y, settings, from_grid, threads):
    """A network for a training, and the arguments of its `fit`, checked. from_grid: the settings from the grid, for
    messages."""
    try:
        changes = {name: value for name, value in settings.items() if name in OF_NETWORK}
        if not isinstance(network, Network):
            own = {n: v for n, v in settings.items() if n not in OF_NETWORK | OF_FIT | OF_OPTIMIZER}
            made = network(**own) if callable(network) else network
            if not isinstance(made, Network):
                raise type_error("network", "a Network, or a function that makes one", shown(made))
            network = made
        network = network.like(**changes, num_threads=threads)
        optimizer = fresh_optimizer(settings.get("optimizer"), settings.get("learning_rate"))
        of_fit = {name: value for name, value in settings.items() if name in OF_FIT} | {"optimizer": optimizer}
        check_integer("epochs", settings.get("epochs", 1), 0)
        optimizer.check_network(network)
        network.fit(X, y, **{**of_fit, "epochs": 0})
    except Exception as error:
        error.add_note(f"in the training of {from_grid}")
        raise
    return network, of_fit


def _named(name, settings):
    """A setting as the table shows it: an optimizer by its name and the options that are not the default ones."""
    value = settings[name]
    if name != "optimizer" or not isinstance(value, Optimizer):
        return value
    default = type(value)(1.0).options()
    parts = [] if "learning_rate" in settings else [repr(value.learning_rate)]
    parts += [f"{name}={v!r}" for name, v in value.options().items() if name not in default or v != default[name]]
    return f"{type(value).__name__}({', '.join(parts)})" if parts else type(value).__name__


def _outcome(history, of_fit):
    """The figures of a training for the table, by name, and for each whether greater is better."""
    metrics = check_metrics("metrics", of_fit.get("metrics", ()))
    directions = {metric.column: metric.greater_is_better for metric in metrics}
    figures = {name: values for name, values in history.columns().items() if name not in NO_FIGURES}
    greater = {name: directions.get(name.removeprefix("validation_"), False) for name in figures}
    if history.stopped == "error":
        return {"stopped": "error"}, greater
    epoch, diverged = len(history.loss), history.stopped == "diverged"
    if of_fit.get("restore_best", False) and history.best_epoch and not diverged:
        epoch = history.best_epoch
    outcome = {"epoch": epoch, "seconds": history.seconds[-1] if epoch else 0.0, "stopped": history.stopped}
    if not diverged:
        outcome |= {name: values[epoch - 1] for name, values in figures.items()}
    return outcome, greater
