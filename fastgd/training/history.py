"""The history of a training run."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core import hints
from ..core.aliases import column as column_of
from ..core.for_users import ForUsers
from ..core.html import html_table
from ..core.types import Array
from ..errors import check_integer, choose, shown, type_error, value_error
from ..metrics import COLUMNS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_EPOCHS = 20  # in a notebook: the first and last ones


class _Metrics(dict[str, list[float]]):
    """A dict whose KeyError names the keys: with validation data there is no "accuracy", but "validation_accuracy"."""

    def __missing__(self, name: object) -> list[float]:
        none = "a metric of fit(metrics=...), of which no epoch has a value"
        known = f"one of {', '.join(map(repr, self))}" if self else none
        raise KeyError(f"metrics: expected {known}, got {name!r}")


@dataclasses.dataclass(repr=False)
class History(ForUsers):
    """What a training run did. Lists have one value for each epoch.

    loss                mean loss of the rows, each before the update of its minibatch
    validation_loss     loss of the validation data after the epoch; empty without such data
    metrics             lists by name, of values after the epoch: of the validation data ("validation_accuracy"), or
                        without such data of the training data ("accuracy")
    learning_rate       learning rate of the epoch's last update
    rows                rows trained on since the start of the run
    seconds             seconds since the start of the run
    steps               number of updates in all
    best_epoch          the epoch with the best monitored value, counted from 1; None if nothing is monitored
    stopped             why the run ended, None before that:
                        "epochs": all epochs are done
                        "converged": the training loss was monitored and has not improved for `patience` epochs
                        "patience": likewise, where the validation loss or a metric was monitored
                        "callback": a callback returned True
                        "diverged", "interrupted" (Ctrl-C, sys.exit), "error": an exception; the history is then
                            `network.history`"""

    _internal = frozenset({"of", "state"})

    loss: list[float] = dataclasses.field(default_factory=list)
    validation_loss: list[float] = dataclasses.field(default_factory=list)
    metrics: dict[str, list[float]] = dataclasses.field(default_factory=_Metrics)
    learning_rate: list[float] = dataclasses.field(default_factory=list)
    rows: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    steps: int = 0
    best_epoch: int | None = None
    stopped: str | None = None

    def __post_init__(self) -> None:
        self.metrics = _Metrics(self.metrics)

    def columns(self) -> dict[str, list[int] | list[float]]:
        """The lists that are not empty, by name."""
        columns: dict[str, list[int] | list[float]] = {"loss": self.loss, "validation_loss": self.validation_loss}
        columns |= {**self.metrics, "learning_rate": self.learning_rate, "rows": self.rows, "seconds": self.seconds}
        return {name: values for name, values in columns.items() if values}

    def to_dict(self) -> dict[str, "npt.NDArray[Any]"]:
        """Arrays by name, all of one length: "epoch" (from 1), "loss", ... `pandas.DataFrame` takes the dict. Values
        that an exception prevented are NaN."""
        n = len(self.loss)  # another thread may be training
        columns = {name: np.array(values[:n] + [np.nan] * (n - len(values))) for name, values in self.columns().items()}
        return {"epoch": np.arange(1, n + 1), **columns}

    def __getitem__(self, name: str) -> list[int] | list[float]:
        """The list of a column by its name, or by Keras's: history["val_accuracy"] is
        history.metrics["validation_accuracy"]. Raises ValueError for other names."""
        columns = self.columns()
        found: list[int] | list[float] = choose("name", column_of(name, columns), columns)
        return found

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raises AttributeError, which says how to get at a column."""
            if name.startswith("_") or "metrics" not in vars(self):
                raise AttributeError(name)
            columns = self.columns()
            is_column = name == "history" or {column_of(name, columns), f"validation_{name}"} & set(columns)
            advice = "; history[name] or history.to_dict() have the columns " if is_column else ""
            advice += ", ".join(map(repr, columns)) if is_column else ""
            raise hints.no_attribute(self, name, advice)

    def last(self) -> dict[str, float]:
        """The values of the last epoch by name."""
        return {name: values[-1] for name, values in self.columns().items()}

    def plot(self, title: str | None = None, *, samples: Mapping[int, str] | None = None) -> "Figure":
        """Returns a matplotlib Figure of the loss, and of each metric on axes of its own; with `samples` of the loss
        alone. See `fastgd.plots.plot_history` and `fastgd.plots.plot_loss`."""
        from ..plots import plot_history, plot_loss

        if samples is None:
            return plot_history(self, title or ("Training" if self.metrics else "Loss"))
        return plot_loss(self, title or "Loss", samples=samples)

    def __repr__(self) -> str:
        last = "".join(f", {name} {_text(value)}" for name, value in self.last().items())
        best = f", best epoch: {self.best_epoch}" if self.best_epoch and self.best_epoch < len(self.loss) else ""
        return f"<History of {len(self.loss)} epochs{last}; stopped: {self.stopped}{best}>"

    def _repr_html_(self) -> str:
        columns = {"epoch": range(1, len(self.loss) + 1), **self.columns()}
        rows: list[Sequence[object]] = list(itertools.zip_longest(*columns.values(), fillvalue=""))
        if len(rows) > SHOWN_EPOCHS:
            half = SHOWN_EPOCHS // 2
            rows = [*rows[:half], ["..."] * len(columns), *rows[-half:]]
        texts = [[_text(cell) for cell in row] for row in rows]
        best = f", best epoch: {self.best_epoch}" if self.best_epoch else ""
        return html_table(f"{self.steps:,} steps; stopped: {self.stopped}{best}", list(columns), texts)

    # ---- saving

    def state(self) -> tuple[dict[str, Any], dict[str, "npt.NDArray[np.float64]"]]:
        """What a file stores: a dict for JSON, and arrays by name."""
        content = {"steps": self.steps, "best_epoch": self.best_epoch, "stopped": self.stopped}
        lists = {name: getattr(self, name) for name in COLUMNS}
        lists |= {f"metrics.{name}": values for name, values in self.metrics.items()}
        arrays = {name: np.array(values, np.float64) for name, values in lists.items()}
        return {**content, "metrics": list(self.metrics)}, arrays

    @classmethod
    def of(cls, content: dict[str, Any], arrays: dict[str, "Array"]) -> Self:
        """The history of a saved `state`; raises TypeError, ValueError or KeyError if that is not valid."""
        best, stopped = content["best_epoch"], content["stopped"]
        if best is not None:
            check_integer("best_epoch", best, 1)
        if not isinstance(stopped, str | None):
            raise type_error("stopped", "a text or None", shown(stopped))
        metric_names = [str(name) for name in content["metrics"]]
        names = [*COLUMNS, *(f"metrics.{name}" for name in metric_names)]
        lists = [arrays[name].tolist() for name in names]
        epochs = len(lists[0])
        for name, values in zip(names, lists, strict=True):
            may_be_short = name == "validation_loss" or name.startswith("metrics.")  # an exception may have come first
            if len(values) > epochs or (len(values) < epochs and not may_be_short):
                raise value_error(name, f"{epochs} values", len(values))
        if best is not None and best > epochs:
            raise value_error("best_epoch", f"at most {epochs}", best)
        columns, more = dict(zip(COLUMNS, lists, strict=False)), lists[len(COLUMNS) :]
        columns["rows"] = [check_integer("rows", int(count), 1) for count in columns["rows"]]
        steps = check_integer("steps", content["steps"], 0)
        metrics = dict(zip(metric_names, more, strict=True))
        return cls(**columns, metrics=metrics, steps=steps, best_epoch=best, stopped=stopped)


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)
