"""What `train` and `evaluate` print of a network on data: its figures beside those of a prediction that is always the
same, and the confusion matrix of a classifier."""

import dataclasses
import re
import sys

import numpy as np

from .. import tables
from ..callbacks import figures, json_lines, json_of
from ..errors import plain, shown, value_error
from ..metrics import check_metrics, confusion_matrix
from . import texts

# The widest line of a confusion matrix whose columns have names rather than numbers.
WIDEST = 100
OF_CLASSES, OF_VALUES = ["accuracy"], ["mae", "rmse", "r2"]
# A validation loss that ends more than this share above its least value is worth a note.
OVERFITTED = 0.1
# By metric: the power of the scale of standardised targets that it is divided by, in the units of the column.
POWERS = {"mae": 1, "rmse": 1, "mse": 2}


def is_classifier(network):
    """Whether predictions are probabilities of classes that exclude each other."""
    loss = network.loss_function
    return loss.takes_labels or (loss.name == "binary_cross_entropy" and network.output_shape[-1] == 1)


def metrics(network, more=()):
    """The metrics that suit a network, and then those of --metrics that are not among them."""
    usual = OF_CLASSES if is_classifier(network) else OF_VALUES
    checked = checked_metrics(more, class_names(network))
    return [*usual, *(metric for metric in checked if metric.column not in usual)]


def checked_metrics(given, names=None):
    """The metrics of --metrics. A label that is no number is the name of a class, "recall(label=late)"; names: those of
    the classes, None if they are not known yet."""
    named = [re.fullmatch(r"(\w+)\(label=(.*\D.*)\)", text) for text in given]
    if names is None:
        return check_metrics("--metrics", [text for text, parts in zip(given, named, strict=True) if not parts])
    unknown = [parts[2] for parts in named if parts and parts[2] not in names]
    if unknown:
        raise value_error("--metrics", f"a label among {shown(names)}", repr(unknown[0]))
    texts = [f"{p[1]}(label={names.index(p[2])})" if p else text for text, p in zip(given, named, strict=True)]
    return check_metrics("--metrics", texts)


def class_names(network):
    """The names of the classes, or their numbers, as texts of one line."""
    names = getattr(network.preprocessing, "classes", None) or range(max(2, network.output_shape[-1]))
    return [plain(name) if isinstance(name, str) else str(name) for name in names]


def scale_of_target(network):
    """What standardised targets of a table are divided by to be in the units of their column, or None."""
    made = network.preprocessing
    scaled = isinstance(made, tables.Preprocessing) and made.target.classes is None
    return made.target.scale if scaled else None


def in_units(network, values):
    """Values of metrics by name, in the units of the column that a network predicts."""
    scale = scale_of_target(network)
    if scale is None:
        return values
    return {name: value / scale ** POWERS.get(name.removeprefix("validation_"), 0) for name, value in values.items()}


class LogInUnits(json_lines):
    """The log of --log, with metrics in the units of the column that the network predicts."""

    def _figures(self, run):
        return in_units(run.network, figures(run))


def baseline(network, y):
    """(name, value, explanation) of the figure of a prediction that is always the same: the share of the most frequent
    class of the targets y; or the rmse of their mean, in units."""
    if is_classifier(network):
        counts = _counts(network, y)
        name = class_names(network)[counts.argmax()]
        return "baseline accuracy", float(counts.max() / counts.sum()), f"always {name!r}, the most frequent class"
    y = np.asarray(y, np.float64).reshape(-1, network.output_shape[-1])
    rmse = float(np.sqrt(((y - y.mean(axis=0)) ** 2).mean()))
    return "baseline rmse", in_units(network, {"rmse": rmse})["rmse"], "always the mean of these rows"


def _counts(network, y):
    """The number of rows of each class."""
    k = network.output_shape[-1]
    labels = y > 0.5 if k == 1 else y if y.ndim == len(network.output_shape) else y.argmax(axis=-1)
    return np.bincount(labels.reshape(-1).astype(np.int64), minlength=max(2, k))


def warn_if_useless(network, values, base, y):
    """Prints a warning unless a network is better than its baseline on rows with the targets y. values: metrics by
    name; balanced accuracy, if it is among them, counts rather than accuracy."""
    name, value, always = base
    metric = "accuracy" if is_classifier(network) else "rmse"
    if "balanced_accuracy" in values:
        metric, name = "balanced_accuracy", "balanced accuracy of a single class"
        value = 1 / np.count_nonzero(_counts(network, y))
    useless = not values["rmse"] < value if metric == "rmse" else values[metric] <= value
    if useless and sys.stderr is not None:
        own = f"{metric.replace('_', ' ')} {values[metric]:{'.6g' if metric == 'rmse' else '.4f'}}"
        print(f"warning: {own} is no better than the {name}, {value:.6g} ({always})", file=sys.stderr)


def print_end_of_training(network, data, balanced):
    """Prints what the history of a training does not have: the baseline, mae and rmse in units, and, for training rows,
    accuracy or r2. balanced: whether all classes weighed the same."""
    (X, y), of = data.held_out or data.arrays, "validation " if data.held_out else ""
    own = metrics(network, ["balanced_accuracy"] * balanced)
    values = network.evaluate(X, y, metrics=own)
    base = baseline(network, y)
    values = in_units(network, values)
    usual = "accuracy" if is_classifier(network) else "r2"
    if not of and usual not in network.history.metrics:
        print(f"{usual} {values[usual]:.4f}")
    if not is_classifier(network):
        for name in ("mae", "rmse"):
            if f"{of}{name}".replace(" ", "_") not in network.history.metrics:
                print(f"{of}{name} {values[name]:.6g}")
    print(f"{of}{base[0]} {base[1]:{'.4f' if is_classifier(network) else '.6g'}} ({base[2]})")
    warn_if_useless(network, values, base, y)


def print_end(history, is_best_kept, tail=None, network=None):
    """Prints loss and metrics of the parameters that are saved, in the units of the network's target. tail: the part of
    a text that was held out."""
    if not history.loss:
        return
    kept = history.best_epoch if is_best_kept and history.best_epoch else len(history.loss)
    values_kept = {name: values[:kept][-1] for name, values in history.columns().items()}
    validation = f", validation loss {values_kept['validation_loss']:.4f}" if "validation_loss" in values_kept else ""
    print(f"training loss {values_kept['loss']:.4f}{validation}{f' (epoch {kept}, kept)' if is_best_kept else ''}")
    metrics = {name: values_kept[name] for name in history.metrics}
    for name, value in metrics.items() if network is None else in_units(network, metrics).items():
        print(f"{name.replace('validation_', 'validation ')} {value:.4f}")
    if tail is not None:
        for name, value in list(texts.figures(tail, values_kept["validation_loss"]).items())[1:]:
            print(f"validation {name} {value:.4f}")


def advise_patience(history):
    """Prints a note if the validation loss was clearly less after an earlier epoch than after the last one."""
    losses = history.validation_loss
    if not losses or sys.stderr is None:
        return
    best = int(np.nanargmin(losses)) if not np.isnan(losses).all() else len(losses) - 1
    if losses[best] < losses[-1] - OVERFITTED * abs(losses[-1]):
        print(
            f"note: the validation loss was least after epoch {best + 1}, {losses[best]:.4f}: "
            "--patience 5 would stop soon after it and keep that network",
            file=sys.stderr,
        )


def picture(network, title, samples):
    """A picture of the history of a network, with metrics in units. title: without its first word. samples: as in
    `History.plot`."""
    history = network.history
    metrics = in_units(network, {name: np.array(values) for name, values in history.metrics.items()})
    history = dataclasses.replace(history, metrics={name: values.tolist() for name, values in metrics.items()})
    return history.plot(f"{'Training' if metrics else 'Loss'} {title}", samples=samples)


def print_figures(values, as_json, units=None):
    """Prints numbers by name, a line each, or all as a line of JSON."""
    if as_json:
        print(json_of(values))
        return
    width = max(10, *(len(name) + 2 for name in values))
    for name, value in values.items():
        print(f"{name:<{width}}{value:.6g}{(units or {}).get(name, '')}")


def print_evaluation(arguments, network, X, y):
    """Prints the loss and the metrics of a network on data, beside the baseline, and the confusion matrix if asked."""
    values = in_units(network, network.evaluate(X, y, metrics=metrics(network, arguments.metrics)))
    base = baseline(network, y)
    values = {"rows": len(X), **values, base[0]: base[1]}
    units = {base[0]: f"  ({base[2]})"}
    if scale_of_target(network) is not None:
        units["loss"] = "  (of standardised targets)"
    found = confusion(network, X, y) if arguments.confusion else None
    if arguments.json and found:
        values["confusion"] = found
    print_figures(values, arguments.json, units)
    if found and not arguments.json:
        print_confusion(found)
    warn_if_useless(network, values, base, y)


def confusion(network, X, y):
    """The confusion matrix and the recall and precision of each class, as a dict for JSON. NaN is None."""
    if not is_classifier(network):
        raise value_error("--confusion", "a model of classes", repr(network))
    prediction = network.predict(X)
    prediction = prediction.reshape(-1, prediction.shape[-1])
    counts = confusion_matrix(y.reshape(len(prediction), *y.shape[len(network.output_shape) :]), prediction)
    right, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    shares = {"recall": (right, true), "precision": (right, predicted)}
    return {
        "classes": class_names(network),
        "matrix": counts.astype(int).tolist(),
        **{name: [float(a / b) if b else None for a, b in zip(*pair, strict=True)] for name, pair in shares.items()},
    }


def print_confusion(found):
    """Prints what `confusion` returns: a line for each true class."""
    names, matrix = found["classes"], found["matrix"]
    first = max(len("true \\ predicted"), *map(len, names))
    widths = [max(len(name), *(len(str(row[j])) for row in matrix)) + 2 for j, name in enumerate(names)]
    columns = names
    if first + sum(widths) > WIDEST:  # columns by number
        names = [f"{j} {name}" if str(j) != name else name for j, name in enumerate(names)]
        columns = [str(j) for j in range(len(names))]
        first = max(first, *map(len, names))
        widths = [max(len(c), *(len(str(row[j])) for row in matrix)) + 2 for j, c in enumerate(columns)]
    ends = f"{'recall':>9}{'precision':>11}"
    print("\n" + "true \\ predicted".ljust(first) + "".join(map(str.rjust, columns, widths)) + ends)
    for name, row, recall, precision in zip(names, matrix, found["recall"], found["precision"], strict=True):
        shares = "".join(
            f"{'-' if share is None else f'{share:.4f}':>{width}}" for share, width in ((recall, 9), (precision, 11))
        )
        print(name.ljust(first) + "".join(map(str.rjust, map(str, row), widths)) + shares)
