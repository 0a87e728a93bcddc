"""Saving and loading: a safetensors file that holds the parameters by name, the optimizer's state, and in its
metadata, as JSON, what it takes to make both again. No pickle."""

import json
import os

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .choice import pick
from .errors import CheckpointError, choose, value_error
from .layers import LAYERS
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

FORMAT = 1


def save(path, network, optimizer=None):
    """Writes network and optimizer to `path`. Other safetensors readers see the parameters as "w1", "b1", ...

    Raises OSError if the file cannot be written."""
    content = {"format": FORMAT, "network": network.config()}
    tensors = {name: np.ascontiguousarray(view) for name, view in network.views().items()}
    if optimizer is not None:
        config = optimizer.config()
        if config["learning_rate"] is None:
            raise value_error("optimizer", "a learning rate or schedule of fastgd's own to save", repr(optimizer))
        content["optimizer"] = {**config, "steps": optimizer.steps}
        tensors |= {f"optimizer.{slot}": arrays[0] for slot, arrays in optimizer.state.items()}
    try:
        save_file(tensors, os.fspath(path), metadata={"fastgd": json.dumps(content)})
    except SafetensorError as error:
        raise OSError(f"cannot write {os.fspath(path)!r}: {error}") from None


def load(path, *, backend="auto"):
    """Returns (network, optimizer) as saved; the optimizer is None if none was saved.

    Raises OSError if the file cannot be read, CheckpointError if it is not a whole fastgd model.
    """
    from .network import Network

    path = os.fspath(path)
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
        for name, view in network.views().items():
            _fill(name, view, tensors)
        return network, _optimizer(content.get("optimizer"), network, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"load({path!r}): {error}") from error


def _chosen(argument, config, table, kind):
    config = dict(config)
    return pick(argument, config.pop("name"), table, kind)(**config)


def _optimizer(config, network, tensors):
    if config is None:
        return None
    schedule, steps = dict(config.pop("learning_rate")), config.pop("steps")
    learning_rate = choose("schedule", schedule.pop("name"), SCHEDULES)(**schedule)
    optimizer = choose("optimizer", config.pop("name"), OPTIMIZERS)(learning_rate, **config)
    optimizer.steps = steps
    optimizer.bind(network)
    for slot, (array,) in optimizer.state.items():
        _fill(f"optimizer.{slot}", array, tensors)
    return optimizer


def _fill(name, array, tensors):
    saved = tensors.get(name)
    if saved is None or saved.shape != array.shape or saved.dtype != array.dtype:
        got = "none" if saved is None else f"{saved.dtype} {saved.shape}"
        raise ValueError(f"tensor {name!r}: expected {array.dtype} {array.shape}, got {got}")
    array[...] = saved
