"""The commands of the command line; parser.py parses their arguments."""

import contextlib
import csv
import io
import math
import os
import sys
import time

import numpy as np

from .. import callbacks, images
from ..core.config import show_config
from ..core.files import check_file, check_model_file, check_path, replace_file
from ..core.interrupts import sigterm_raises
from ..data.minibatches import check_batch_size
from ..errors import CheckpointError, check_integer, check_number, plain, shown, value_error
from ..explore.range_test import find_learning_rate
from ..network import Network, load
from ..plots.figures import check_picture
from ..schedules import cosine
from ..tables.preprocessing import column_of
from ..text import Vocabulary
from ..training.checkpoint import description, load_described
from . import figures, ranks, texts
from .datasets import data_of_model, data_to_train, described, first, is_of_text, one_or_texts, stem
from .networks import make_network, make_optimizer
from .self_check import installed_backends, time_steps
from .table_data import class_weight, names_in, names_of_classes, use_validation_file

# Defaults of options that differ for text; those are texts.DEFAULTS.
DEFAULTS = {"optimizer": "Adam", "learning_rate": 2e-3, "epochs": 40, "validation": 0.2, "patience": 5}


def train(arguments):
    """`fastgd train`: trains on a data set, prints loss and accuracy, saves the model and the loss curve. Of the ranks
    that mpiexec started, the first alone prints and saves."""
    with ranks.agreed() as parallel:
        network, data, plot, samples, options = _prepared(arguments)
    start = time.perf_counter()
    with sigterm_raises(), _advice(arguments.resume):
        history = network.fit(data.X, data.y, parallel=parallel, **options)
    seconds = time.perf_counter() - start
    if ranks.launched()[0] == 0:
        print(f"{history.steps} steps in {seconds:.2f} s; stopped: {history.stopped}")
        _print_end(arguments, network, data, keeps_best=options["restore_best"])
        print(f"model saved to {options['checkpoint']}")
        if plot:
            written = None if samples is None else samples.texts
            _save_picture(figures.picture(network, f"on {_in_title(first(arguments.data))}", written), plot)
            print(f"{'loss curve' if data.text is not None else 'picture of loss and metrics'} saved to {plot}")


def _prepared(arguments):
    """The network and the data of `fastgd train`, the path of the picture, the samples of a text, and options of `fit`.
    Prints what will be trained."""
    arguments.data = one_or_texts(arguments)
    figures.checked_metrics(arguments.metrics)
    save, plot = _outputs(arguments)
    is_length_given = arguments.epochs is not None
    _fill_defaults(arguments)
    epochs = check_integer("--epochs", arguments.epochs, 0)
    warmup = check_number("--warmup", arguments.warmup, 0.0, epochs)
    patience = check_integer("--patience", arguments.patience, 0)
    logs = [figures.LogInUnits(arguments.log)] if arguments.log else []
    if arguments.tensorboard:
        logs.append(callbacks.tensorboard(arguments.tensorboard))
    fraction = check_number("--validation", arguments.validation, 0.0, 1.0, high_open=True)
    data = data_to_train(arguments, fraction)
    line = described(arguments.data, data)
    if line:
        print(line)
    keeps_best = patience > 0 and data.held_out is not None
    network = make_network(arguments, data)
    batch_size = check_batch_size(arguments.batch_size, data.rows)
    epoch_steps = math.ceil(data.rows / batch_size)
    total_steps, warmup_steps = max(1, epochs * epoch_steps), round(warmup * epoch_steps)
    schedule = cosine(arguments.learning_rate, total_steps=total_steps, warmup_steps=warmup_steps)
    optimizer = make_optimizer(arguments, schedule, None if data.text is None else texts.CLIP_NORM)
    print(f"{network}\n{data.rows} training rows, {data.held_out_rows} validation rows, {optimizer}", flush=True)
    if arguments.resume:
        print(_resumed(save, epochs, None if is_length_given else total_steps, epoch_steps), flush=True)
    samples = None if data.text is None else texts.samples(arguments)
    logs += [] if samples is None else [samples]
    options = {
        "optimizer": optimizer,
        "batch_size": batch_size,
        "epochs": epochs,
        "class_weight": class_weight(arguments.class_weight, data),
        "validation_data": data.held_out,
        "patience": patience if keeps_best else None,
        "restore_best": keeps_best,
        "metrics": () if data.text is not None else _metrics(arguments, data),
        "callbacks": logs,
        "progress": not arguments.quiet,
        "checkpoint": save,
        "resume": arguments.resume,
    }
    return network, data, plot, samples, options


def _print_end(arguments, network, data, keeps_best):
    """Prints losses and metrics of a network that was trained."""
    history = network.history
    figures.print_end(history, keeps_best, data.tail, network)
    if not keeps_best:
        figures.advise_patience(history)
    if data.text is None and history.loss:
        figures.print_end_of_training(network, data, balanced=arguments.class_weight == "balanced")


def _metrics(arguments, data):
    """The metrics after each epoch. Without validation data the usual one comes at the end alone: of the
    training rows it would make an epoch a third longer."""
    usual = "r2" if data.n_classes is None else "accuracy"
    given = figures.checked_metrics(arguments.metrics, names_of_classes(data))
    own = [metric for metric in given if metric.column != usual or data.held_out is None]
    return own if data.held_out is None else [usual, *own]


def _fill_defaults(arguments):
    """Sets options that are not given, and whose defaults depend on the kind of data."""
    is_text = is_of_text(arguments)
    use_validation_file(arguments)
    for name, value in {**DEFAULTS, **(texts.DEFAULTS if is_text else {})}.items():
        if getattr(arguments, name, value) is None:
            setattr(arguments, name, value)
    if getattr(arguments, "warmup", 0) is None:
        arguments.warmup = texts.WARMUP * max(0, arguments.epochs) if is_text else 0


def _outputs(arguments):
    """The paths of the model and of the loss curve, or None for the latter. Raises before the training if they cannot
    be written."""
    data = arguments.data
    save = f"{stem(first(data))}.safetensors" if arguments.save is None else arguments.save
    save = check_model_file(save, "--save")
    if os.path.isfile(save) and not (arguments.resume or arguments.overwrite):
        expected = "a new file (or --overwrite to replace it, or --resume to continue the run in it)"
        raise value_error("--save", expected, repr(save))
    plot = arguments.plot
    if plot is None and data == "digits":
        plot = "digits.png"
    _check_plot(plot)
    if arguments.log:
        check_file(arguments.log, "--log")
    files = {"--validation-file": arguments.validation_file, "--save": save, "--plot": plot, "--log": arguments.log}
    for path in data if isinstance(data, list) else [data]:
        _check_different({"DATA": path, **files})
    return save, plot


def _check_plot(plot):
    """Raises before the training if a picture cannot be saved there, or matplotlib is missing."""
    if plot:
        check_picture("--plot", plot)
        check_path(plot, "--plot")


def _check_different(paths):
    """Raises ValueError unless all files are different. paths: by the arguments that name them."""
    known = {}
    for argument, path in paths.items():
        path_on_disk = path and os.path.realpath(path)
        if path_on_disk in known:
            raise value_error(argument, f"another file than {known[path_on_disk]}", repr(path))
        if path_on_disk:
            known[path_on_disk] = argument


def _resumed(path, epochs, total_steps, epoch_steps):
    """A message that says from where a run continues. total_steps: if they follow from the default of --epochs, to
    which a run of another length must not be changed without a word; else None."""
    if not os.path.exists(path):
        return f"no {path} yet: a new run"
    run = description(path).get("run")
    planned = ((run or {}).get("fit", {}).get("learning_rate") or {}).get("total_steps")
    if total_steps is not None and isinstance(planned, int) and planned != total_steps:
        raise ValueError(
            f"--epochs: give their number, since the run in {path} was planned for {planned / epoch_steps:g}"
        )
    if run is not None and run["epoch"] > epochs:
        raise value_error("--epochs", f"at least {run['epoch']}, the epochs done in {path}: they count", epochs)
    return f"continuing {path}" + ("" if run is None else f", after minibatch {run['step']}")


@contextlib.contextmanager
def _advice(resume):
    """Context that adds advice to exceptions, as notes."""
    try:
        yield
    except CheckpointError as error:
        if resume:
            error.add_note("--resume needs the data and the options of the original run; only --epochs may be another")
        raise
    except KeyboardInterrupt as error:
        if any("saved to" in note for note in getattr(error, "__notes__", [])):
            error.add_note("the same command with --resume continues")
        raise


def predict(arguments):
    """`fastgd predict`: writes a prediction for each row, as CSV."""
    if arguments.output is None and sys.stdout is None:
        raise value_error("--output", "a file, since the standard output is closed", None)
    if arguments.output is not None:
        check_path(arguments.output, "--output")
        for path in arguments.data:
            _check_different({"MODEL": arguments.model, "DATA": path, "--output": arguments.output})
    network, _ = load(arguments.model, backend=arguments.backend)
    data = data_of_model(arguments, network, arguments.data, needs_target=False)
    prediction = network.predict(data.X)
    classes = network.loss_function.takes_labels
    if isinstance(data.preprocessing, images.Preprocessing):
        decoded, title, names = data.preprocessing.decode(prediction), "class", data.preprocessing.classes
    elif data.preprocessing is not None:
        decoded = data.preprocessing.decode(prediction)
        title, names = data.preprocessing.target.name, data.preprocessing.target.classes
    elif classes:
        decoded, title, names = prediction.argmax(axis=-1), "prediction", range(prediction.shape[-1])
    else:
        decoded, title, names = prediction, "prediction", None
    columns = decoded.reshape(len(decoded), -1).tolist()
    header = [title] if len(columns[0]) == 1 else [f"{title} {i}" for i in range(len(columns[0]))]
    if arguments.probabilities:
        if not classes:
            raise value_error("--probabilities", "a model of classes", arguments.model)
        positions = math.prod(prediction.shape[1:-1])
        suffixes = [""] if prediction.ndim == 2 else [f" {i}" for i in range(positions)]
        header += [f"probability of {name}{suffix}" for suffix in suffixes for name in names]
        flat = prediction.reshape(len(prediction), -1).tolist()
        columns = [[*row, *p] for row, p in zip(columns, flat, strict=True)]
    if data.paths is not None:
        header, columns = ["path", *header], [[path, *row] for path, row in zip(data.paths, columns, strict=True)]
    if arguments.keep:
        if data.table is None:
            raise value_error("--keep", "columns of a table", shown(arguments.data))
        kept = names_in(data.table, arguments.keep)
        columns_kept = [column_of(data.table, name, arguments.data[0], "--keep").to_pylist() for name in kept]
        header = [*kept, *(f"predicted {name}" if name in kept else name for name in header)]
        columns = [[*row, *predicted] for *row, predicted in zip(*columns_kept, columns, strict=True)]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([header, *columns])
    _note(data)
    _write_text(lines.getvalue(), arguments.output)


def generate(arguments):
    """`fastgd generate`: continues a prompt with a model of text."""
    network, _ = load(arguments.model, backend=arguments.backend)
    texts.generate(arguments, network)


def _note(data):
    """Prints notes on the data of a model to the standard error, if there is one."""
    if sys.stderr is not None:
        for note in data.notes:
            print(f"note: {note}", file=sys.stderr)


def _write_text(text, path):
    """Writes text in UTF-8 to a file, or, if path is None, to the standard output, whatever its encoding. Bytes in
    names of files that are not UTF-8 stay as they are."""
    data = text.encode("utf-8", "surrogateescape")
    if path is not None:
        _write(data, path)
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(text)


def _write(data, path):
    """Writes bytes to a file, which is replaced atomically; or to a device, or a pipe that has a reader."""
    if os.path.isfile(path) or not os.path.exists(path):
        replace_file(path, (data,))
        return
    # Fails, rather than waits, if a pipe has no reader. Windows has neither such pipes nor these functions.
    opened = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(opened, "wb") as file:
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(opened, True)
        file.write(data)


def _in_title(path):
    """The name of a file for the title of a picture: invalid bytes are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def _save_picture(figure, path):
    """Writes a figure in the format that the ending of the file name says."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=os.path.splitext(path)[1][1:].lower())
    _write(picture.getvalue(), path)


def evaluate(arguments):
    """`fastgd evaluate`: loss and metrics of a model on data."""
    network, _ = load(arguments.model, backend=arguments.backend)
    if isinstance(network.preprocessing, Vocabulary):
        figures.print_figures(texts.evaluate(arguments, network), arguments.json)
        return
    data = data_of_model(arguments, network, [arguments.data], needs_target=True)
    _note(data)
    figures.print_evaluation(arguments, network, data.X, data.y)


def info(arguments):
    """`fastgd info`: describes a model file."""
    network, optimizer, content = load_described(arguments.model, Network)
    print(f"{arguments.model}: {content['size']:,} bytes, written by fastgd {content['version']}")
    print(network)
    print("\n".join(network.layer_lines()))
    print(f"epochs {network.epochs}")
    if optimizer is not None:
        print(f"{optimizer}, {optimizer.steps} updates")
    run = content.get("run")
    if run is not None:
        stopped = network.history.stopped
        print(f"training run: {run['step']} minibatches, stopped: {stopped}, {run['seconds']:.1f} s")
        figures.print_end(network.history, run["best_is_kept"], network=network)
    if isinstance(network.preprocessing, images.Preprocessing):
        print(network.preprocessing)
        print(f"  classes: {', '.join(plain(name) for name in network.preprocessing.classes)}")
    elif isinstance(network.preprocessing, Vocabulary):
        print(network.preprocessing)
    elif network.preprocessing is not None:
        print(network.preprocessing)
        for column in network.preprocessing.columns:
            print(f"  {column}")
        print(f"  {network.preprocessing.target}")


def export(arguments):
    """`fastgd export`: writes a model as ONNX."""
    check_file(arguments.output, "FILE")
    _check_different({"MODEL": arguments.model, "FILE": arguments.output})
    network, _ = load(arguments.model)
    network.to_onnx(arguments.output, unknown=arguments.unknown)
    made, names = network.preprocessing, ["x"]
    if made is not None and not isinstance(made, Vocabulary):
        is_images = isinstance(made, images.Preprocessing)
        names = ["images"] if is_images else [column.name for column in made.columns]
    print(f"ONNX model with inputs {shown(names)} written to {arguments.output}")


def find_lr(arguments):
    """`fastgd find-lr`: the learning-rate range test."""
    _check_plot(arguments.plot)
    _check_different({"DATA": arguments.data, "--plot": arguments.plot})
    _fill_defaults(arguments)
    data = data_to_train(arguments, 0)
    for note in data.notes:
        print(f"{arguments.data}: {note}")
    network = make_network(arguments, data)
    found = find_learning_rate(
        network, *data.arrays, optimizer=make_optimizer(arguments, 1e-3), batch_size=arguments.batch_size,
        low=arguments.low, high=arguments.high, steps=arguments.steps,
    )  # fmt: skip
    print(f"{'learning rate':>13}  loss (smoothed)")
    for i in range(0, len(found.loss), max(1, len(found.loss) // 20)):
        print(f"{found.learning_rate[i]:>13.3g}  {found.smoothed[i]:.4f}")
    print(f"suggestion: --learning-rate {found.suggestion:.2g}")
    if arguments.plot:
        _save_picture(found.plot(f"Range test on {_in_title(arguments.data)}"), arguments.plot)
        print(f"picture saved to {arguments.plot}")


def bench(arguments):
    """`fastgd bench`: measures microseconds per training step on this machine."""
    show_config()
    backends = installed_backends() if arguments.backend == "auto" else [arguments.backend]
    time_steps(backends, np.random.default_rng(0))
