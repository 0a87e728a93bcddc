"""Pictures of trainings: losses, sweeps, loss surfaces, histograms."""

import collections.abc
import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..callbacks import trajectory
from ..core.aliases import column as column_of
from ..errors import choose, shown, type_error, value_error
from ..explore.range_test import RangeTest
from ..explore.surface import losses_over, plane_of
from ..explore.sweep import Sweep
from ..network import Network
from ..training.history import History
from .figures import entry, new_figure
from .text import add_samples, check_samples_of_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct to colour-blind readers (Okabe & Ito 2008), in an order in which neighbours also differ in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#D55E00")
TRAINING, VALIDATION, QUIET = COLOURS[0], COLOURS[6], "#999999"
# Each colour comes with a line style, so that a picture is legible without colours.
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
PATHS, MARKERS_OF_PATHS = (COLOURS[1], COLOURS[3], COLOURS[5], COLOURS[6], "#FFFFFF"), ".sD^v"  # on any shade
FEW_TICKS = 6  # up to so many values of a setting get a tick each
LEVELS, BINS = 24, 40  # levels of a contour plot, bins of a histogram
NARROWEST = 1e-6  # least range of a histogram, as a fraction of the largest magnitude
LEGEND_MARK, LEGEND_LETTER, LEGEND_LINE = 0.6, 0.085, 0.2  # inches that an entry, each of its letters, and a line take


def _finish(axes, losses=(), x="linear", **labels):
    """Sets labels, which are plain text, and a grid; and a logarithmic axis for losses if all of them are positive."""
    known = [value for value in losses if math.isfinite(value)]
    log = bool(known) and min(known) > 0
    if log:
        labels["ylabel"] += " (log scale)"
    if x == "log":
        labels["xlabel"] += " (log scale)"
    axes.set_xscale(x)
    for name, text in labels.items():
        getattr(axes, f"set_{name}")(text, parse_math=False)
    if log:
        axes.set_yscale("log")
        _log(axes.yaxis, axes.get_ylim())
    if x == "log":
        _log(axes.xaxis, axes.get_xlim())
    axes.grid(alpha=0.3)


def _log(axis, limits):
    """Labels a logarithmic axis with plain numbers: at powers of ten; also at 2 and 5 times these if they are few; and
    at even distances if the range is too narrow for that."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

    axis.set_major_formatter("{x:g}")
    if limits[1] < 5 * limits[0]:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_minor_locator(NullLocator())
    elif limits[1] < 200 * limits[0]:
        axis.set_minor_locator(_ticks())
        axis.set_minor_formatter("{x:g}")
    else:
        axis.set_minor_formatter(NullFormatter())


def _ticks(subs=(2, 5)):
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=subs)


def _style(i):
    """Style of the i-th line. When the colours repeat, the markers are shifted by one."""
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "marker": marker}


def _legend_below(figure, axes):
    """Adds a legend below the axes, in as many columns as fit, and makes the figure higher by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    room = int(width / (LEGEND_MARK + LEGEND_LETTER * max(map(len, labels), default=1)))
    columns = max(1, min(4, len(labels), room))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.set_size_inches(width, height + LEGEND_LINE * (math.ceil(len(labels) / columns) - 1))


@np.errstate(all="ignore")
def plot_history(history: History, title: str = "Training") -> "Figure":
    """The loss as in `plot_loss`, and beside it a panel for each metric against epochs."""
    if not isinstance(history, History):
        raise type_error("history", "a History, as fit returns it", shown(history))
    if not history.metrics:
        return plot_loss(history, title)
    across = min(3, 1 + len(history.metrics))
    down = math.ceil((1 + len(history.metrics)) / across)
    figure = new_figure(4.2 * across, 3.2 * down + 0.3)
    figure.suptitle(title, parse_math=False)
    first, *panels = figure.subplots(down, across, squeeze=False).flat
    _draw_loss(first, history, "Loss")
    for panel, (name, values) in zip(panels, history.metrics.items(), strict=False):
        _draw_metric(panel, history, name, values)
    for panel in panels[len(history.metrics) :]:
        panel.set_axis_off()
    return figure


def _draw_metric(axes, history, name, values):
    """Draws a metric after each epoch, with the best epoch marked."""
    of_validation = name.startswith("validation_")
    style = {"color": VALIDATION, "linestyle": "--"} if of_validation else {"color": TRAINING}
    data = "validation" if of_validation else "training"
    marker = "o" if len(values) == 1 else None
    axes.plot(range(1, len(values) + 1), values, marker=marker, label=data, **style)
    _mark_best(axes, history)
    _finish(axes, title=name.removeprefix("validation_"), xlabel="epoch", ylabel=f"on {data} data")
    _whole_epochs(axes)


def _mark_best(axes, history):
    if history.best_epoch:
        axes.axvline(history.best_epoch, color=QUIET, linestyle=":", label=f"best epoch: {history.best_epoch}")


def _whole_epochs(axes):
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend()


@np.errstate(all="ignore")
def plot_loss(history: History, title: str = "Loss", *, samples: Mapping[int, str] | None = None) -> "Figure":
    """Training loss, and validation loss if there is one, against epochs, with the epoch of the best monitored value
    marked. The training loss is the mean over the epoch, each minibatch before its update.

    samples: texts that a language model wrote after some epochs, {1: "...", 5: "..."}: numbers on the curve, and below
        it the beginning of each text."""
    if not isinstance(history, History):
        raise type_error("history", "a History, as fit returns it", shown(history))
    texts = {} if samples is None else check_samples_of_text(samples, len(history.loss))
    figure = new_figure()
    axes = figure.subplots()
    _draw_loss(axes, history, title)
    if texts:
        add_samples(figure, axes, history.loss, texts)
    return figure


def _draw_loss(axes, history, title):
    marker = "o" if len(history.loss) == 1 else None
    axes.plot(range(1, len(history.loss) + 1), history.loss, color=TRAINING, marker=marker, label="training")
    if history.validation_loss:
        epochs = range(1, len(history.validation_loss) + 1)
        axes.plot(epochs, history.validation_loss, color=VALIDATION, linestyle="--", marker=marker, label="validation")
    _mark_best(axes, history)
    _finish(axes, history.loss + history.validation_loss, title=title, xlabel="epoch", ylabel="mean loss")
    _whole_epochs(axes)


@np.errstate(all="ignore")
def plot_range_test(found: RangeTest, title: str = "Learning-rate range test") -> "Figure":
    """The losses of a `RangeTest` against the learning rate, the smoothed losses, and the suggestion."""
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(found.learning_rate, found.loss, color=COLOURS[5], linewidth=0.8, label="loss of a minibatch")
    axes.plot(found.learning_rate, found.smoothed, color=COLOURS[0], linewidth=2, label="smoothed")
    nearest = int(np.argmin(np.abs(found.learning_rate - found.suggestion)))
    label = f"suggestion: {found.suggestion:.2g}"
    axes.axvline(found.suggestion, color=VALIDATION, linestyle="--")
    y = found.smoothed[nearest]
    axes.plot(found.suggestion, y, "o", color=VALIDATION, linestyle="--", markersize=8, label=label)
    known = found.loss[np.isfinite(found.loss)]
    low, high = min(found.smoothed.min(), np.quantile(known, 0.02)) if known.size else 0.0, found.smoothed.max()
    if low > 0 and high < math.inf:  # outliers, and diverged losses at the end, must not set the scale
        axes.set_ylim(low / 1.5, high * 1.5)
    _finish(axes, found.loss, "log", title=title, xlabel="learning rate", ylabel="loss")
    axes.legend()
    return figure


@np.errstate(all="ignore")
def compare(histories: Mapping[str, History], column: str | None = None, title: str = "Trainings compared") -> "Figure":
    """A column of several histories, {name: History}, against epochs, rows trained on and seconds, side by side.

    column: a column that all histories have; None is "validation_loss" if all have it, else "loss". Each value is drawn
        at the end of its epoch; a validation loss is computed there, a training loss is the mean over that epoch."""
    if not isinstance(histories, collections.abc.Mapping) or not histories:
        raise type_error("histories", "a dict of histories, {'batch': history, ...}", shown(histories))
    for name, history in histories.items():
        if not isinstance(history, History) or not history.loss:
            raise type_error(f"histories[{name!r}]", "the History of a training of at least 1 epoch", shown(history))
    shared = [c for c in next(iter(histories.values())).columns() if all(c in h.columns() for h in histories.values())]
    if column is None:
        column = "validation_loss" if "validation_loss" in shared else "loss"
    column = column_of(column, shared)
    choose("column", column, dict.fromkeys(shared))
    figure = new_figure(9.6, 3.8)
    panels = figure.subplots(1, 3, sharey=True)
    values = [value for history in histories.values() for value in history.columns()[column]]
    for panel, (name, unit) in zip(panels, (("epoch", "epochs"), ("rows", "rows trained on"), ("seconds", "seconds")),
                                   strict=True):  # fmt: skip
        for i, (label, history) in enumerate(histories.items()):
            columns = history.to_dict()
            panel.plot(columns[name], columns[column], markevery=0.1, markersize=5, label=entry(label), **_style(i))
        positive = values if "loss" in column else ()
        _finish(panel, positive, "log", xlabel=unit, ylabel=column.replace("_", " "))
    for panel in panels[1:]:
        panel.set_ylabel("")
    figure.suptitle(title, parse_math=False)
    _legend_below(figure, panels[0])
    return figure


@np.errstate(all="ignore")
def plot_sweep(found: Sweep, x: str | None = None, column: str | None = None, title: str = "Sweep") -> "Figure":
    """A column of a `Sweep` against a setting. Each combination of the other settings has a line, through the medians
    of trainings that differ only by the seed; each training is a point. Diverged trainings are left out.

    x: a setting; None is "learning_rate" if the grid has it, else the first numeric setting other than the seed, else
        the first setting.
    column: as in `Sweep.order`."""
    column = found._known(column)
    settings = list(found.settings[0])
    numbers = [name for name in settings if all(isinstance(v, (int, float)) for v in found.columns[name])]
    if x is None:
        others = [name for name in numbers if name != "seed"]
        x = "learning_rate" if "learning_rate" in numbers else (others or settings)[0]
    choose("x", x, dict.fromkeys(settings))
    named = [] if x in numbers else list(dict.fromkeys(map(str, found.columns[x])))
    figure = new_figure()
    axes = figure.subplots()
    groups: dict[str, dict[Any, list[float]]] = {}
    for i in range(len(found)):
        others = [name for name in found.settings[i] if name not in (x, "seed")]
        label = ", ".join(f"{found.columns[name][i]}" if name == "optimizer" else f"{name} {found.columns[name][i]}"
                          for name in others)  # fmt: skip
        position = named.index(str(found.columns[x][i])) if named else found.columns[x][i]
        groups.setdefault(label, {}).setdefault(position, []).append(found.columns[column][i])
    known = []
    for i, (label, values) in enumerate(groups.items()):
        style = _style(i)
        points = [(at, value) for at, group in sorted(values.items()) for value in group if math.isfinite(value)]
        positions = sorted({position for position, _ in points})
        medians = [np.median([value for at, value in points if at == position]) for position in positions]
        axes.plot(*np.array(points).reshape(-1, 2).T, linestyle="", alpha=0.45, markersize=4,
                  color=style["color"], marker=style["marker"])  # fmt: skip
        style |= {"linestyle": ""} if named else {}  # nothing lies between names
        axes.plot(positions, medians, markersize=5, label=entry(label or "median"), **style)
        known += [value for _, value in points]
    losses = known if "loss" in column else ()
    scale = "log" if not named and x != "seed" and min(found.columns[x]) > 0 else "linear"
    _finish(axes, losses, scale, title=title, xlabel=x.replace("_", " "), ylabel=column.replace("_", " "))
    if named:
        axes.set_xticks(range(len(named)), named)
    elif len(set(found.columns[x])) <= FEW_TICKS:
        from matplotlib.ticker import NullLocator

        axes.set_xticks(sorted(set(found.columns[x])))
        axes.xaxis.set_minor_locator(NullLocator())
    _legend_below(figure, axes)
    return figure


@np.errstate(all="ignore")
def loss_surface(
    network: Network,
    X: "npt.ArrayLike",
    y: "npt.ArrayLike",
    *,
    path: "trajectory | npt.ArrayLike | Mapping[str, trajectory | npt.ArrayLike] | None" = None,
    directions: "str | Sequence[npt.ArrayLike] | None" = None,
    resolution: int = 41,
    seed: int = 0,
    title: str = "Loss surface",
) -> "Figure":
    """Contours of the loss of X, y over a plane in the space of parameters, and the paths of optimizers, projected on
    it. The network does not change.

    path: a `fastgd.callbacks.trajectory`, or an array (points, n_parameters); or a dict of several, {label: path}. The
        plane goes through the end of the path, the mean of the ends of several, or without a path through the present
        parameters.
    directions: two directions that span the plane. "parameters": the two parameters of a network that has no more;
        "pca": the two principal directions of all points of the paths; "random": two random directions by `seed`,
        scaled to the weights of each unit, with biases fixed (Li et al. 2018, arXiv:1712.09913); or two arrays
        (n_parameters,). None is the first of these that applies.
    resolution: points along each direction. The loss of all rows is computed at each point, so a sample of the rows may
        suffice. BatchNorm treats the rows as one minibatch."""
    figure = new_figure(6.4, 5.0)
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    plane = plane_of(network, path, directions, seed)
    a, b, losses = losses_over(network, X, y, plane, resolution)
    known = losses[np.isfinite(losses)]
    if not known.size:
        raise value_error("X", "data with a finite loss somewhere on the plane", "none")
    low, high = known.min(), known.max()
    log = low > 0 and high > 3 * low
    levels = np.geomspace(low, high, LEVELS) if log else MaxNLocator(LEVELS).tick_values(low, high)
    axes = figure.subplots()
    shades = axes.contourf(a, b, np.ma.masked_invalid(losses), levels, norm=LogNorm(low, high) if log else None)
    axes.contour(a, b, np.ma.masked_invalid(losses), levels[::2], colors="white", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(shades, label="mean loss (log scale)" if log else "mean loss")
    ticks = _ticks((1, 2, 5)).tick_values(low, high) if log else MaxNLocator(8).tick_values(low, high)
    bar.set_ticks([tick for tick in ticks if levels[0] <= tick <= levels[-1]], minor=False)
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter("{x:g}")
    _draw_paths(axes, plane)
    axes.set(xlabel=plane.names[0], ylabel=plane.names[1])
    axes.set_title(title, parse_math=False)
    for text in axes.legend(frameon=True, facecolor="white", framealpha=0.8).get_texts():  # on any shade, in any style
        text.set_parse_math(False)
    return figure


def _draw_paths(axes, plane):
    """Draws the paths of a plane, or the parameters if there are none."""
    for i, (label, points) in enumerate(plane.paths.items()):
        colour, marker = PATHS[i % len(PATHS)], MARKERS_OF_PATHS[i % len(MARKERS_OF_PATHS)]
        axes.plot(*points.T, color="black", linewidth=3)
        axes.plot(*points.T, f"{marker}-", color=colour, linewidth=1.5, markersize=5, label=entry(label))
    mark = {"color": "white", "markeredgecolor": "black", "linestyle": ""}
    if plane.paths:
        axes.plot(*np.transpose([one[0] for one in plane.paths.values()]), "o", markersize=8, label="start", **mark)
    ends, label = [one[-1] for one in plane.paths.values()], "end" if plane.paths else "parameters"
    axes.plot(*np.transpose(ends or [plane.path[-1]]), "*", markersize=14, label=label, **mark)


@np.errstate(all="ignore")
def histograms(
    network: Network,
    X: "npt.ArrayLike | None" = None,
    y: "npt.ArrayLike | None" = None,
    *,
    title: str | None = None,
) -> "Figure":
    """Histograms of the finite values of each array of parameters, and, if X and y are given, of the gradient of the
    loss; one row of histograms for each layer. The network does not change."""
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    if (X is None) != (y is None):
        raise value_error("y" if y is None else "X", "targets as well as rows, or neither", None)
    drawn = {"value": network.views()}
    if X is not None and y is not None:
        _, gradient = copy.deepcopy(network).loss_and_gradient(X, y)
        drawn["gradient"] = network.views(gradient)
    layers: dict[tuple[int, ...], list[str]] = {}
    for name in network.views():
        path = name.removeprefix(_kind(name))
        layers.setdefault(tuple(map(int, path.split("."))), []).append(name)
    most = max(map(len, layers.values()))
    figure = new_figure(max(2.4 * len(drawn) * most, 6.4), 1.9 * len(layers) + 0.5)
    panels = figure.subplots(len(layers), len(drawn) * most, squeeze=False)
    for row, (_, names) in zip(panels, sorted(layers.items()), strict=True):
        for panel in row:
            panel.set_visible(False)
        for i, (quantity, views) in enumerate(drawn.items()):
            for j, name in enumerate(names):
                _histogram(row[i * most + j], views[name], name, xlabel=quantity, color=COLOURS[i])
        row[0].set_ylabel("count (log)")
    figure.suptitle(title or ("Parameters" if X is None else "Parameters and their gradients"), parse_math=False)
    return figure


def _histogram(panel, values, name, *, xlabel, color):
    panel.set_visible(True)
    known, shape = values[np.isfinite(values)].astype(np.float64), " x ".join(map(str, values.shape))
    spread = f"sd {known.std():.2g}" if known.size == values.size else f"{values.size - known.size} not finite"
    panel.set_title(f"{name} ({shape}), {spread}", fontsize="medium")
    panel.set_xlabel(xlabel)
    if not known.size:
        return
    low, high = known.min(), known.max()
    least = max(NARROWEST * max(abs(low), abs(high)), np.finfo(np.float32).tiny)  # bins have to differ
    if high - low < least:
        low, high = low - least, high + least
    counts, _, _ = panel.hist(known, min(BINS, 5 + values.size // 8), range=(low, high), color=color)
    low, high = panel.get_xlim()
    if low < 0 < high:
        panel.axvline(0, color="black", linewidth=0.8)
    panel.set(yscale="log", ylim=(0.5, 2 * counts.max()))  # a count of 1 is visible
    _log(panel.yaxis, panel.get_ylim())
    panel.ticklabel_format(axis="x", scilimits=(-2, 3))
    panel.locator_params(axis="x", nbins=4)


def _kind(name):
    """The name of a parameter array without its path: "w" for "w12" or "w3.1"."""
    return name.rstrip("0123456789.")
