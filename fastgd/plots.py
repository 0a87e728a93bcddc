"""Pictures, with matplotlib (extra `plots`). Each function returns a matplotlib Figure: `.savefig("loss.png", dpi=150)`
saves it, and a notebook shows it. Nothing global is touched."""

import collections.abc
import copy
import math
import os

import numpy as np

from .errors import choose, shown, type_error, value_error
from .explore.surface import losses_over, plane_of
from .network import Network
from .training.history import History

# Told apart by colour-blind readers (Okabe & Ito 2008), in an order in which neighbours differ in grey, too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#D55E00")
TRAINING, VALIDATION, QUIET = COLOURS[0], COLOURS[6], "#999999"
# With each colour goes a line, so that a picture can be read without colours.
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
FEW_TICKS = 6  # values of a setting that have a tick each
LEVELS, BINS = 24, 40  # of a contour, of a histogram
NARROWEST = 1e-6  # a range of values, as a part of the largest
LEGEND_MARK, LEGEND_LETTER, LEGEND_LINE = 0.6, 0.085, 0.2  # inches that an entry, a letter of it and a line take


def _figure(width=6.4, height=4.0):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'fastgd[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_picture(argument, path):
    """Raises if a figure cannot be saved under such a name."""
    known = _figure().canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1][1:].lower()
    if ending not in known:
        raise value_error(argument, f"a file ending in one of {', '.join(f'.{e}' for e in sorted(known))}", repr(path))


def _finish(axes, losses=(), x="linear", **labels):
    """Labels, a grid, and a logarithmic axis of losses where there is none at or below 0."""
    known = [value for value in losses if math.isfinite(value)]
    log = bool(known) and min(known) > 0
    if log:
        labels["ylabel"] += " (log scale)"
    if x == "log":
        labels["xlabel"] += " (log scale)"
    axes.set(xscale=x, **labels)
    if log:
        axes.set_yscale("log")
        _log(axes.yaxis, axes.get_ylim())
    if x == "log":
        _log(axes.xaxis, axes.get_xlim())
    axes.grid(alpha=0.3)


def _log(axis, limits):
    """Plain numbers on a logarithmic axis, also at 2 and 5 where there are few powers of ten, and evenly spread ones
    where there are not even those."""
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
    """Of the i-th line: when the colours begin again, the markers do not."""
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "marker": marker}


def _legend_below(figure, axes):
    """A legend in as many columns as there is room for, and a figure that is higher by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    room = int(width / (LEGEND_MARK + LEGEND_LETTER * max(map(len, labels), default=1)))
    columns = max(1, min(4, len(labels), room))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    figure.set_size_inches(width, height + LEGEND_LINE * (math.ceil(len(labels) / columns) - 1))


@np.errstate(all="ignore")
def plot_loss(history, title="Loss"):
    """Training loss, and validation loss if there is one, against epochs, and which epoch was the best of what was
    monitored. The training loss is the mean of an epoch's minibatches, each before its update."""
    if not isinstance(history, History):
        raise type_error("history", "a History, as fit returns it", shown(history))
    figure = _figure()
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    marker = "o" if len(history.loss) == 1 else None
    axes.plot(range(1, len(history.loss) + 1), history.loss, color=TRAINING, marker=marker, label="training")
    if history.validation_loss:
        epochs = range(1, len(history.validation_loss) + 1)
        axes.plot(epochs, history.validation_loss, color=VALIDATION, linestyle="--", marker=marker, label="validation")
    if history.best_epoch:
        axes.axvline(history.best_epoch, color=QUIET, linestyle=":", label=f"best epoch: {history.best_epoch}")
    _finish(axes, history.loss + history.validation_loss, title=title, xlabel="epoch", ylabel="mean loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend()
    return figure


@np.errstate(all="ignore")
def plot_range_test(found, title="Learning-rate range test"):
    """The loss of each step of a `RangeTest` against its learning rate, smoothed, too, and the suggestion."""
    figure = _figure()
    axes = figure.subplots()
    axes.plot(found.learning_rate, found.loss, color=COLOURS[5], linewidth=0.8, label="loss of a minibatch")
    axes.plot(found.learning_rate, found.smoothed, color=COLOURS[0], linewidth=2, label="smoothed")
    at = int(np.argmin(np.abs(found.learning_rate - found.suggestion)))
    label = f"suggestion: {found.suggestion:.2g}"
    axes.axvline(found.suggestion, color=VALIDATION, linestyle="--")
    axes.plot(found.suggestion, found.smoothed[at], "o", color=VALIDATION, linestyle="--", markersize=8, label=label)
    known = found.loss[np.isfinite(found.loss)]
    low, high = min(found.smoothed.min(), np.quantile(known, 0.02)) if known.size else 0.0, found.smoothed.max()
    if low > 0 and high < math.inf:  # what a single minibatch does, or all when they diverge, is not what is to be seen
        axes.set_ylim(low / 1.5, high * 1.5)
    _finish(axes, found.loss, "log", title=title, xlabel="learning rate", ylabel="loss")
    axes.legend()
    return figure


@np.errstate(all="ignore")
def compare(histories, column=None, title="Trainings compared"):
    """Losses of several trainings, {name: History}, against epochs, rows trained on and seconds, side by side.

    column: what of the histories is drawn; None is "validation_loss" if all have one, else "loss". Every value stands
    at the end of its epoch; a validation loss is taken there, a training loss is the mean of the epoch that ends there.
    """
    if not isinstance(histories, collections.abc.Mapping) or not histories:
        raise type_error("histories", "a dict of histories, {'batch': history, ...}", shown(histories))
    for name, history in histories.items():
        if not isinstance(history, History) or not history.loss:
            raise type_error(f"histories[{name!r}]", "the History of a training of at least 1 epoch", shown(history))
    shared = [c for c in next(iter(histories.values())).columns() if all(c in h.columns() for h in histories.values())]
    if column is None:
        column = "validation_loss" if "validation_loss" in shared else "loss"
    choose("column", column, dict.fromkeys(shared))
    figure = _figure(9.6, 3.8)
    panels = figure.subplots(1, 3, sharey=True)
    values = [value for history in histories.values() for value in history.columns()[column]]
    for panel, (name, unit) in zip(panels, (("epoch", "epochs"), ("rows", "rows trained on"), ("seconds", "seconds")),
                                   strict=True):  # fmt: skip
        for i, (label, history) in enumerate(histories.items()):
            columns = history.to_dict()
            panel.plot(columns[name], columns[column], markevery=0.1, markersize=5, label=label, **_style(i))
        positive = values if "loss" in column else ()
        _finish(panel, positive, "log", xlabel=unit, ylabel=column.replace("_", " "))
    for panel in panels[1:]:
        panel.set_ylabel("")
    figure.suptitle(title)
    _legend_below(figure, panels[0])
    return figure


@np.errstate(all="ignore")
def plot_sweep(found, x=None, column=None, title="Sweep"):
    """A column of the table of a `Sweep` against a setting, a line for each combination of the others; of trainings
    that differ in nothing but the seed the median, and each as a point. Those that diverged are left out.

    x: a setting; None is "learning_rate" if the grid has it, else the first of numbers but the seed, else the first.
    column: as in `Sweep.order`."""
    column = found._known(column)
    settings = list(found.settings[0])
    numbers = [name for name in settings if all(isinstance(v, (int, float)) for v in found.columns[name])]
    if x is None:
        others = [name for name in numbers if name != "seed"]
        x = "learning_rate" if "learning_rate" in numbers else (others or settings)[0]
    choose("x", x, dict.fromkeys(settings))
    named = [] if x in numbers else list(dict.fromkeys(map(str, found.columns[x])))
    figure = _figure()
    axes = figure.subplots()
    groups = {}
    for i in range(len(found)):
        others = [name for name in found.settings[i] if name not in (x, "seed")]
        label = ", ".join(f"{found.columns[name][i]}" if name == "optimizer" else f"{name} {found.columns[name][i]}"
                          for name in others)  # fmt: skip
        place = named.index(str(found.columns[x][i])) if named else found.columns[x][i]
        values = groups.setdefault(label, {}).setdefault(place, [])
        values.append(found.columns[column][i])
    known = []
    for i, (label, values) in enumerate(groups.items()):
        style = _style(i)
        points = [(place, value) for place, group in sorted(values.items()) for value in group if math.isfinite(value)]
        places = sorted({place for place, _ in points})
        medians = [np.median([value for at, value in points if at == place]) for place in places]
        axes.plot(*np.array(points).reshape(-1, 2).T, linestyle="", alpha=0.45, markersize=4,
                  color=style["color"], marker=style["marker"])  # fmt: skip
        style |= {"linestyle": ""} if named else {}  # nothing lies between names
        axes.plot(places, medians, markersize=5, label=label or "median", **style)
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
def loss_surface(network, X, y, *, path=None, directions=None, resolution=41, seed=0, title="Loss surface"):
    """Contours of the loss of X, y over a plane through the parameters, and the path an optimizer took, projected on
    it. The network stays as it is.

    path: a `fastgd.callbacks.trajectory`, or an array (points, n_parameters); the plane goes through its end, or
        without one through the parameters as they are.
    directions: that span the plane. "parameters": for a network of two, the plane of these; "pca": the two principal
        directions of the path; "random": two random ones by `seed`, scaled to each unit's weights, biases fixed (Li et
        al. 2018, arXiv:1712.09913); or two arrays of n_parameters. None is the first of these that can be.
    resolution: points along each direction; the loss of all rows is taken at each, so a sample of rows may do. With
        BatchNorm it is that of these rows as one minibatch.
    """
    figure = _figure(6.4, 5.0)
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
    if path is not None:
        axes.plot(*plane.path.T, color="black", linewidth=3)
        axes.plot(*plane.path.T, ".-", color=COLOURS[1], linewidth=1.5, markersize=5, label="path")
        axes.plot(*plane.path[0], "o", color="white", markeredgecolor="black", markersize=8, label="start")
    label = "parameters" if path is None else "end"
    axes.plot(*plane.path[-1], "*", color="white", markeredgecolor="black", markersize=14, label=label)
    axes.set(title=title, xlabel=plane.names[0], ylabel=plane.names[1])
    axes.legend()
    return figure


@np.errstate(all="ignore")
def histograms(network, X=None, y=None, *, title=None):
    """How the finite values of each parameter array are distributed, and with X and y those of its gradient of the
    loss, a row for each layer. The network stays as it is."""
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    if (X is None) != (y is None):
        raise value_error("y" if y is None else "X", "targets as well as rows, or neither", None)
    drawn = {"value": network.views()}
    if X is not None:
        _, gradient = copy.deepcopy(network).loss_and_gradient(X, y)
        drawn["gradient"] = network.views(gradient)
    layers = {}
    for name in network.views():
        path = name.removeprefix(_kind(name))
        layers.setdefault(tuple(map(int, path.split("."))), []).append(name)
    most = max(map(len, layers.values()))
    figure = _figure(max(2.4 * len(drawn) * most, 6.4), 1.9 * len(layers) + 0.5)
    panels = figure.subplots(len(layers), len(drawn) * most, squeeze=False)
    for row, (_, names) in zip(panels, sorted(layers.items()), strict=True):
        for panel in row:
            panel.set_visible(False)
        for i, (what, views) in enumerate(drawn.items()):
            for j, name in enumerate(names):
                _histogram(row[i * most + j], views[name], name, xlabel=what, color=COLOURS[i])
        row[0].set_ylabel("count (log)")
    figure.suptitle(title or ("Parameters" if X is None else "Parameters and their gradients"))
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
    panel.set(yscale="log", ylim=(0.5, 2 * counts.max()))  # a single value shows, too
    _log(panel.yaxis, panel.get_ylim())
    panel.ticklabel_format(axis="x", scilimits=(-2, 3))
    panel.locator_params(axis="x", nbins=4)


def _kind(name):
    """Of "w12" or "w3.1" the "w"."""
    return name.rstrip("0123456789.")
