"""What the commands of the command line do; `cli` reads their arguments."""

import csv
import dataclasses
import difflib
import json
import math
import os
import sys
import time
import zipfile
import zlib

import numpy as np

from . import callbacks, table_files, tables
from .checkpoint import check_path, description, load
from .config import show_config
from .data import check_batch_size
from .errors import check_number, choose, shown, value_error
from .finder import find_learning_rate
from .layers import Dense, Standardize
from .losses import softmax_cross_entropy
from .network import Network
from .optimizers import OPTIMIZERS
from .schedules import cosine
from .selfcheck import installed_backends, time_steps

ARRAYS = ".npz"
# Labels above this, and above the number of rows, are no labels.
MOST_CLASSES = 1000
KINDS = f"digits, or a file ending in {', '.join([*table_files.READERS, ARRAYS])}"


def digits():
    """The handwritten digits of scikit-learn, 1,797 images of 8 x 8 pixels, scaled to [0, 1]: training and test
    rows (every fifth image), X and y each."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come from scikit-learn: pip install 'fastgd[sklearn]'") from error
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    test = np.arange(len(X)) % 5 == 4
    return (X[~test], y[~test]), (X[test], y[test])


@dataclasses.dataclass
class Data:
    """Rows of numbers with what is known of them. `standardize`: features are to be standardised by the network."""

    X: np.ndarray
    y: np.ndarray | None
    held_out: tuple | None = None
    preprocessing: tables.Preprocessing | None = None
    standardize: bool = False

    @property
    def is_classification(self):
        return self.y.ndim == 1 and self.y.dtype.kind in "iu"

    @property
    def n_outputs(self):
        if self.is_classification:
            return int(self.y.max()) + 1 if self.preprocessing is None else self.preprocessing.n_outputs
        return 1 if self.y.ndim == 1 else self.y.shape[1]


# ---- reading data


def read_data(arguments, *, preprocessing=None, needs_target=True):
    """The data that `arguments.data` names. With a `preprocessing` it is made rows of numbers by that, else by one that
    is learnt from it."""
    path = arguments.data
    if path == "digits":
        (X, y), held_out = digits()
        return Data(X, y, held_out)
    if path.lower().endswith(ARRAYS):
        return _read_arrays(path, arguments, needs_target)
    if table_files.ending(path) is None:
        hint = "; did you mean 'digits'?" if difflib.get_close_matches(path, ["digits"]) else ""
        raise value_error("DATA", KINDS, f"{path!r}{hint}")
    table = tables.read(path, text=arguments.categorical if preprocessing is None else preprocessing.text)
    if preprocessing is None:
        if arguments.target is None:
            raise value_error("--target", f"a column of {path}: {shown(table.column_names)}", None)
        preprocessing = tables.Preprocessing.of(
            table, arguments.target, categorical=arguments.categorical, drop=arguments.drop, task=arguments.task,
            missing=arguments.missing, source=path,
        )  # fmt: skip
    X = preprocessing.encode(table, unknown=getattr(arguments, "unknown", "error"), source=path)
    has_target = needs_target or preprocessing.target.name in table.column_names
    return Data(X, preprocessing.targets(table, source=path) if has_target else None, preprocessing=preprocessing)


def _read_arrays(path, arguments, needs_target):
    """Arrays of an npz file: that called --target (or "y") and the only other one, or "X"."""
    try:
        with open(path, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("an array by itself")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise table_files.TableError(path, None, None, "an npz file of arrays", f"{error}") from None
    target = arguments.target or "y"
    others = [name for name in arrays if name != target]
    name = "X" if "X" in others else others[0] if len(others) == 1 else None
    if name is None:
        raise table_files.TableError(path, None, None, f"an array 'X' beside {target!r}", shown(list(arrays)))
    if needs_target and target not in arrays:
        raise table_files.TableError(path, target, None, "such an array (--target)", shown(list(arrays)))
    X, y = arrays[name], arrays.get(target)
    for column, array in ((name, X), (target, y)):
        if array is not None and (array.ndim == 0 or array.dtype.kind not in "biuf" or len(array) != len(X)):
            expected = f"an array of {len(X) if X.ndim else 'some'} rows of numbers"
            raise table_files.TableError(path, column, None, expected, shown(array))
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise table_files.TableError(
                path, column, place[0] + 1, "a finite number", f"{array[place]} at index {place}"
            )
    if X.ndim > 2:  # images
        X = X.reshape(len(X), -1)
    if y is not None and y.dtype.kind in "iu" and y.ndim == 1 and hasattr(arguments, "task"):
        if arguments.task == "regression":
            y = y.astype(np.float64)
        elif len(y) and y.min() == y.max():
            raise table_files.TableError(path, target, None, "at least 2 classes", f"only {y.min()}")
        elif len(y) and not 0 <= y.min() <= y.max() < max(MOST_CLASSES, len(y)):
            row = int(np.argmin(y) if y.min() < 0 else np.argmax(y))
            expected = "labels from 0 to below the number of classes"
            raise table_files.TableError(path, target, row + 1, expected, f"{y[row]}")
    return Data(X, y, standardize=True)


# ---- commands


def make_network(arguments, data):
    front = [Standardize.of(data.X)] if data.standardize else []
    hidden = [Dense(units, arguments.activation, weight_init="he_uniform") for units in arguments.hidden]
    loss = softmax_cross_entropy(label_smoothing=arguments.label_smoothing) if data.is_classification else "mse"
    network = Network(
        data.X.shape[1],
        [*front, *hidden, Dense(data.n_outputs)],
        loss=loss,
        seed=arguments.seed,
        backend=arguments.backend,
        num_threads=arguments.threads,
    )
    network.preprocessing = data.preprocessing
    return network


def make_optimizer(arguments, learning_rate):
    names, given = {name.lower(): name for name in OPTIMIZERS}, arguments.optimizer
    return choose("--optimizer", names.get(given.lower(), given), OPTIMIZERS)(learning_rate)


def train(arguments):
    """`fastgd train`: trains on a data set, prints loss and accuracy, saves the model and the loss curve."""
    stem = os.path.basename(arguments.data).split(".")[0]
    save = check_path(f"{stem}.safetensors" if arguments.save is None else arguments.save)
    if os.path.exists(save) and os.path.exists(arguments.data) and os.path.samefile(save, arguments.data):
        raise value_error("--save", "another file than DATA", repr(save))
    plot = arguments.plot
    if plot is None and arguments.data == "digits":
        plot = "digits.png"
    if plot:  # a missing extra or an unknown kind of picture shows before the training
        from .plots import check_picture, plot_loss

        check_picture("--plot", plot)
        check_path(plot)
    logs = [callbacks.json_lines(check_path(arguments.log))] if arguments.log else []
    if arguments.tensorboard:
        logs.append(callbacks.tensorboard(arguments.tensorboard))
    data = read_data(arguments)
    network = make_network(arguments, data)
    fraction = check_number("--validation", arguments.validation, 0.0, 1.0, high_open=True)
    held_out = {"validation_data": data.held_out} if data.held_out else {"validation_fraction": fraction or None}
    rows = len(data.X) - (0 if data.held_out else max(1, round(fraction * len(data.X))) if fraction else 0)
    if rows < 1:
        raise value_error("--validation", "a row left to train on", f"{len(data.X)} rows in all")
    batch_size = check_batch_size(arguments.batch_size, rows)
    total_steps = max(1, arguments.epochs * math.ceil(rows / batch_size))
    optimizer = make_optimizer(arguments, cosine(arguments.learning_rate, total_steps=total_steps))
    tested = len(data.held_out[0]) if data.held_out else len(data.X) - rows
    print(f"{network}\n{rows} training rows, {tested} test rows, {optimizer}", flush=True)
    start = time.perf_counter()
    history = network.fit(
        data.X,
        data.y,
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=arguments.epochs,
        patience=arguments.patience,
        restore_best=arguments.patience is not None,
        metrics="accuracy" if data.is_classification else "r2",
        callbacks=logs,
        progress=not arguments.quiet,
        checkpoint=save,
        resume=arguments.resume,
        **held_out,
    )
    seconds = time.perf_counter() - start
    print(f"{history.steps} steps in {seconds:.2f} s; stopped: {history.stopped}")
    if history.loss:
        kept = history.best_epoch if arguments.patience else len(history.loss)
        told = {name: values[kept - 1] for name, values in history.to_dict().items()}
        tested = f", test loss {told['validation_loss']:.4f}" if "validation_loss" in told else ""
        print(f"training loss {told['loss']:.4f}{tested}{f' (epoch {kept}, kept)' if arguments.patience else ''}")
        for name in history.metrics:
            print(f"{name.replace('validation_', 'test ')} {told[name]:.4f}")
    print(f"model saved to {save}")
    if plot:
        plot_loss(history, f"Loss on {arguments.data}").savefig(plot, dpi=150)
        print(f"loss curve saved to {plot}")


def _model_and_data(arguments, needs_target):
    network, _ = load(arguments.model, backend=arguments.backend)
    data = read_data(arguments, preprocessing=network.preprocessing, needs_target=needs_target)
    if data.held_out is not None:  # of digits, what was not trained on
        data = Data(*data.held_out)
    return network, data


def predict(arguments):
    """`fastgd predict`: writes a prediction for each row, as CSV."""
    network, data = _model_and_data(arguments, needs_target=False)
    prediction = network.predict(data.X)
    classes = network.loss_function.name == "softmax_cross_entropy"
    if data.preprocessing is not None:
        decoded = data.preprocessing.decode(prediction)
        title, names = data.preprocessing.target.name, data.preprocessing.target.classes
    elif classes:
        decoded, title, names = prediction.argmax(axis=1), "prediction", range(prediction.shape[1])
    else:
        decoded, title, names = prediction, "prediction", None
    columns = decoded.reshape(len(decoded), -1).tolist()
    header = [title] if len(columns[0]) == 1 else [f"{title} {i}" for i in range(len(columns[0]))]
    if arguments.probabilities:
        if not classes:
            raise value_error("--probabilities", "a model of classes", arguments.model)
        header += [f"probability of {name}" for name in names]
        columns = [[*row, *p] for row, p in zip(columns, prediction.tolist(), strict=True)]
    out = sys.stdout if arguments.output is None else open(check_path(arguments.output), "w", newline="")  # noqa: SIM115
    try:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(columns)
    finally:
        if out is not sys.stdout:
            out.close()


def evaluate(arguments):
    """`fastgd evaluate`: loss and metrics of a model on data."""
    network, data = _model_and_data(arguments, needs_target=True)
    metrics = ["accuracy"] if network.loss_function.name == "softmax_cross_entropy" else ["mae", "rmse", "r2"]
    told = {"rows": len(data.X), **network.evaluate(data.X, data.y, metrics=metrics)}
    if data.preprocessing is not None and data.preprocessing.target.classes is None:  # in the units of the column
        for name in ("mae", "rmse"):
            told[name] /= data.preprocessing.target.scale
    if arguments.json:
        print(json.dumps(told))
    else:
        for name, value in told.items():
            print(f"{name:<10}{value:.6g}")


def info(arguments):
    """`fastgd info`: what is in a model file."""
    network, optimizer = load(arguments.model, backend="numpy")
    content = description(arguments.model)
    print(f"{arguments.model}: {os.path.getsize(arguments.model):,} bytes, written by fastgd {content['version']}")
    print(network)
    for layer, n_in in zip(network.layers, network.sizes, strict=False):
        print(f"  {n_in} -> {layer.output_size(n_in)}  {layer}")
    print(f"epochs {network.epochs}")
    if optimizer is not None:
        print(f"{optimizer}, {optimizer.steps} updates")
    run = content.get("run")
    if run is not None:
        print(f"training run: {run['step']} minibatches, stopped: {run['stopped']}, {run['seconds']:.1f} s")
    if network.preprocessing is not None:
        print(network.preprocessing)
        for column in network.preprocessing.columns:
            print(f"  {column}")
        print(f"  {network.preprocessing.target}")


def find_lr(arguments):
    """`fastgd find-lr`: the learning-rate range test."""
    data = read_data(arguments)
    network = make_network(arguments, data)
    found = find_learning_rate(
        network, data.X, data.y, optimizer=make_optimizer(arguments, 1e-3), batch_size=arguments.batch_size,
        low=arguments.low, high=arguments.high, steps=arguments.steps,
    )  # fmt: skip
    print(f"{'learning rate':>13}  loss (smoothed)")
    for i in range(0, len(found.loss), max(1, len(found.loss) // 20)):
        print(f"{found.learning_rate[i]:>13.3g}  {found.smoothed[i]:.4f}")
    print(f"suggestion: --learning-rate {found.suggestion:.2g}")


def bench(arguments):
    """`fastgd bench`: microseconds a training step on this machine."""
    show_config()
    backends = installed_backends() if arguments.backend == "auto" else [arguments.backend]
    time_steps(backends, np.random.default_rng(0))
