"""Saving and loading: a safetensors file that holds the parameters by name, the optimizer's state, and in its
metadata, as JSON, what it takes to make both again. No pickle."""

import contextlib
import json
import os
import shutil

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from .activations import ACTIVATIONS
from .choice import pick
from .errors import CheckpointError, check_integer, choose, shown, type_error, value_error
from .layers import LAYERS
from .losses import LOSSES, Loss
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS
from .schedules import from_config

FORMAT = 1


def save(path, network, optimizer=None):
    """Writes network and optimizer to `path`. Other safetensors readers see the parameters as "w1", "b1", ...

    Raises OSError if the file cannot be written, TypeError or ValueError if `load` could not read it again; then what
    was at `path` is still there."""
    for layer in network.layers:
        _check_known("activation", layer.activation, ACTIVATIONS)
    _check_known("loss", network.loss_function, LOSSES)
    content = {"format": FORMAT, "network": network.config(), "epochs": network.epochs}
    tensors = {name: np.ascontiguousarray(view) for name, view in network.views().items()}
    if optimizer is not None:
        if not isinstance(optimizer, Optimizer):
            raise type_error("optimizer", "an optimizer such as fastgd.Adam(1e-3)", shown(optimizer))
        optimizer.check_network(network)
        config = optimizer.config()
        if OPTIMIZERS.get(config["name"]) is not type(optimizer):
            raise value_error("optimizer", f"one of fastgd's own to save: {', '.join(OPTIMIZERS)}", repr(optimizer))
        if config["learning_rate"] is None:
            raise value_error("optimizer", "a learning rate or schedule of fastgd's own to save", repr(optimizer))
        content["optimizer"] = {**config, "minibatches": optimizer.minibatches}
        tensors |= _state(optimizer)
    _write(_path(path), safetensors.numpy.save(tensors, metadata={"fastgd": json.dumps(content)}))


def _state(optimizer):
    """The state arrays of an optimizer by the names they have in a file."""
    return {f"optimizer.{slot}.{i}": a for slot, arrays in optimizer.state.items() for i, a in enumerate(arrays)}


def _path(path):
    try:
        return os.fsdecode(path)
    except TypeError:
        raise type_error("path", "a path", f"{shown(path)} ({type(path).__name__})") from None


def _write(path, content):
    """Replaces the file at `path`, or the one a link there points to, in one go; a device is written to."""
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(content)
        return
    sibling = f"{path}.{os.getpid()}.tmp"
    try:
        with open(sibling, "xb") as file:
            file.write(content)
        if os.path.exists(path):
            shutil.copymode(path, sibling)
        os.replace(sibling, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(sibling)
        raise


def _check_known(argument, choice, table):
    """Raises unless a name in a file will mean the same thing again."""
    known = table.get(choice.name)
    if known is None or known(**choice.parameters) != choice:
        raise value_error(argument, f"one of fastgd's own to save: {', '.join(table)}", repr(choice))


def load(path, *, backend="auto"):
    """Returns (network, optimizer) as saved; the optimizer is None if none was saved.

    Raises OSError if the file cannot be read, CheckpointError if it is not a whole fastgd model.
    """
    from .network import Network

    path = _path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"load({path!r}): expected a file, got a folder")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"load({path!r}): expected a safetensors file, got {error}") from None
    if "fastgd" not in metadata:
        raise CheckpointError(f"load({path!r}): expected a file saved by fastgd, got one without its metadata")
    try:
        content = json.loads(metadata["fastgd"])
        if content["format"] != FORMAT:
            raise ValueError(f"field 'format': expected {FORMAT}, got {content['format']!r}")
        config = content["network"]
        layers = [choose("layer", layer["layer"], LAYERS).from_config(layer) for layer in config.pop("layers")]
        loss = _chosen("loss", config.pop("loss"), LOSSES, Loss)
        network = Network(config.pop("n_features"), layers, loss=loss, backend=backend, **config)
        network.epochs = check_integer("epochs", content["epochs"], 0)
        for name, view in network.views().items():
            _fill(name, view, tensors)
        return network, _optimizer(content.get("optimizer"), network, tensors)
    except (AttributeError, KeyError, MemoryError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"load({path!r}): {error}") from error


def _chosen(argument, config, table, kind):
    config = dict(config)
    return pick(argument, config.pop("name"), table, kind)(**config)


def _optimizer(config, network, tensors):
    if config is None:
        return None
    schedule, minibatches = dict(config.pop("learning_rate")), config.pop("minibatches")
    optimizer = choose("optimizer", config.pop("name"), OPTIMIZERS)(from_config(schedule), **config)
    optimizer.minibatches = check_integer("minibatches", minibatches, 0)
    if optimizer.minibatches == 0 and not any(name.startswith("optimizer.") for name in tensors):
        return optimizer  # saved before its first update, which makes the state
    optimizer.bind(network)
    for name, array in _state(optimizer).items():
        _fill(name, array, tensors)
    return optimizer


def _fill(name, array, tensors):
    saved = tensors.get(name)
    if saved is None or saved.shape != array.shape or saved.dtype != array.dtype:
        got = "none" if saved is None else f"{saved.dtype} {saved.shape}"
        raise ValueError(f"tensor {name!r}: expected {array.dtype} {array.shape}, got {got}")
    array[...] = saved
