"""Saving and loading: a safetensors file that holds the parameters by name, the optimizer's state and the state of a
training run; its metadata describe, as JSON, how to construct them. No pickle.

The last tensor, "sha256", is the digest of every byte before it. A file is written under another name and made durable
before it is renamed: whatever happens, the path holds the old file or the new one, whole."""

import contextlib
import dataclasses
import json
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ..activations import ACTIVATIONS
from ..core import fingerprint
from ..core.choice import UndefinedError, choice_from_config
from ..core.config import __version__
from ..core.files import FOREIGN, as_path, check_file, replace_file
from ..core.kernel import DTYPES
from ..core.threads import check_threads
from ..core.types import Path
from ..errors import CheckpointError, check_integer, check_number, choose, first_difference, shown, value_error
from ..layers.base import LAYERS, Layer, check_shape, layer_from_config, parameter_specs, statistic_specs
from ..layers.containers import Sequential
from ..losses import LOSSES
from ..optimizers import OPTIMIZERS
from ..optimizers.base import Optimizer, check_optimizer
from ..schedules import SCHEDULES, from_config
from .history import History

if TYPE_CHECKING:
    from ..network import Network
    from .run import Run

FORMAT = 5
# Fields in which schedules keep what they have observed.
_OBSERVED = {f.name for kind in SCHEDULES.values() for f in dataclasses.fields(kind) if not f.init}
# Settings that change during a run. (The learning rate at the start is among the settings of the run.)
CHANGING = {("optimizer", "minibatches"), ("optimizer", "learning_rate")}
# Fields of a schedule that a longer or shorter run may change, if the first does.
LENGTH = ("total_steps", "warmup_steps")
# The library writes tensors of bytes last, ordered by name: no other name of theirs may follow this one.
DIGEST = "sha256"


# ---- writing


def save(path: Path, network: "Network", optimizer: Optimizer | None = None, run: "Run | None" = None) -> None:
    """Writes a network, an optimizer and the state of a training run to `path`. Other safetensors readers see the
    parameters as "w1", "b1", ...

    Raises OSError if the file cannot be written, TypeError or ValueError if `load` could not read it again; a file that
    was at `path` is then unchanged."""
    path, content = check_file(path), describe(network, optimizer)
    arrays = {**network.views(), **network.statistics}
    tensors = {name: np.ascontiguousarray(view) for name, view in arrays.items()}
    if optimizer is not None:
        tensors |= _state(optimizer)
    if run is not None:
        content["run"], more = run.state()
        tensors |= {f"run.{name}": array for name, array in more.items()}
    mark = os.urandom(32)
    tensors[DIGEST] = np.frombuffer(mark, np.uint8)
    data = safetensors.numpy.save(tensors, metadata={"fastgd": json.dumps(content, allow_nan=False)})
    if not data.endswith(mark):
        raise AssertionError("the safetensors library does not put the digest last")
    rest = memoryview(data)[:-32]
    import hashlib  # slow

    replace_file(path, (rest, hashlib.sha256(rest).digest()))


def describe(network, optimizer):
    """What a file says of a network and an optimizer, besides arrays. Raises TypeError or ValueError if `load` could
    not construct them from it."""
    for layer in network.layers:
        _check_layer(layer)
    _check_known("loss", network.loss_function, LOSSES)
    content = {"format": FORMAT, "version": __version__, "network": network.config(), "epochs": network.epochs}
    content["minibatches"] = network.minibatches
    if network.preprocessing is not None:
        content["preprocessing"] = network.preprocessing.config()
    if optimizer is not None:
        check_optimizer(optimizer)
        optimizer.check_network(network)
        config = optimizer.config()
        if OPTIMIZERS.get(config["name"]) is not type(optimizer):
            raise value_error("optimizer", f"one of fastgd's own to save: {', '.join(OPTIMIZERS)}", repr(optimizer))
        if config["learning_rate"] is None:
            raise value_error("optimizer", "a learning rate or schedule of fastgd's own to save", repr(optimizer))
        content["optimizer"] = {**config, "minibatches": optimizer.minibatches}
    content["formulas"] = fingerprint.describe(network, optimizer)
    return content


def _check_layer(layer):
    """Raises unless the configuration of a layer, found in a file, would give it again."""
    name = None if type(layer).config is Layer.config else layer.config().get("layer")
    if LAYERS.get(name) is not type(layer):
        expected = "layers whose class has the decorator `layer`, and its name under 'layer' in config(), to save"
        raise value_error("layers", expected, f"a {type(layer).__name__} whose config() names {name!r}")
    for activation in layer.activations():
        _check_known("activation", activation, ACTIVATIONS)
    for child in layer.children():
        _check_layer(child)


def _check_known(argument, choice, table):
    """Raises unless the name of an activation or a loss, found in a file, would give it again."""
    known = table.get(choice.name)
    if known is None:
        raise value_error(argument, f"one of fastgd's own to save: {', '.join(table)}", repr(choice))
    if known(**choice.parameters) != choice:
        raise value_error(argument, f"what {choice.name!r} means now, to save its name", "another one of that name")


def _state(optimizer):
    """The state arrays of an optimizer by the names they have in a file."""
    return {f"optimizer.{slot}.{i}": a for slot, arrays in optimizer.state.items() for i, a in enumerate(arrays)}


# ---- reading


def _code(dtype):
    """The code of a dtype in safetensors files: F32, U8, ..."""
    dtype = np.dtype(dtype)
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _dtype(code):
    """The dtype of a code."""
    return np.dtype(f"{code[0].lower()}{int(code[1:]) // 8}")


class _File:
    """The contents of a file.

    path, size  its path, and its number of bytes
    content     its description, from JSON
    names       the names of its tensors, which are checked before they are used"""

    def __init__(self, path, header, tensors, size):
        self.path, self._tensors, self.size = path, tensors, size
        self.names = set(tensors)
        with self.field("metadata"):
            metadata = json.loads(header).get("__metadata__", {})
            if "fastgd" not in metadata:
                raise self.error("metadata", "a file saved by fastgd", "a safetensors file of another program")
            self.content = json.loads(metadata["fastgd"])
            version, by = self.content["format"], self.content.get("version")
        if version != FORMAT:
            raise self.error("format", FORMAT, f"{shown(version)}, written by fastgd {shown(by)}")

    def error(self, field, expected, got):
        return CheckpointError(self.path, field, expected, got)

    @contextlib.contextmanager
    def field(self, name):
        """Context in which an exception becomes a `CheckpointError` that names this field."""
        try:
            yield
        except CheckpointError:
            raise
        except UndefinedError as error:
            raise self.error(f"{name}.{error.argument}", error.expected, error.got) from None
        except (
            AttributeError, ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise self.error(name, "a value that fastgd writes", f"{type(error).__name__}: {error}") from error

    def check(self, expected):
        """Raises unless the file has these tensors. expected: (shape, dtype) by name."""
        wrong = {}
        for name, (shape, dtype) in expected.items():
            if name not in self.names:
                wrong[name] = "none"
                continue
            tensor = self._tensors[name]
            found = tensor["dtype"], tuple(tensor["shape"])
            if found != (_code(dtype), tuple(shape)):
                wrong[name] = "{} {}".format(*found)
        if wrong:
            name = next(iter(wrong))
            others = ", ".join(list(wrong)[1:])
            more = f"; so are {others}" if others else ""
            shape, dtype = expected[name]
            raise self.error(name, f"{_code(dtype)} {tuple(shape)}", f"{wrong[name]}{more}")

    def read(self, name):
        """A copy of a tensor."""
        tensor = self._tensors[name]
        with self.field(name):
            return np.frombuffer(tensor["data"], _dtype(tensor["dtype"])).reshape(tensor["shape"]).copy()

    def fill(self, arrays):
        """Copies tensors into arrays by name, of shapes and dtypes that `check` has passed."""
        for name, array in arrays.items():
            array[...] = np.frombuffer(self._tensors[name]["data"], array.dtype).reshape(array.shape)


def _read(path):
    """Reads and checks every byte of a file; returns a `_File`. The bytes are read once: even if the file changes
    meanwhile, the bytes that were checked are parsed."""
    path = as_path(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # open() of a pipe may wait for ever
        raise CheckpointError(path, "file", "a regular file", "something else")
    with open(path, "rb") as file:
        data = file.read()
    try:
        tensors = {name: tensor for name, tensor in safetensors.deserialize(data)}
    except SafetensorError as error:
        got = next((format for magic, format in FOREIGN.items() if data.startswith(magic)), f"{error}")
        raise CheckpointError(path, "file", "a whole safetensors file saved by fastgd", got) from None
    found = _File(path, data[8 : 8 + int.from_bytes(data[:8], "little")], tensors, len(data))
    found.check({DIGEST: ((32,), np.uint8)})
    import hashlib  # slow

    if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise found.error(DIGEST, "the digest of the bytes before it", "another: the file was damaged or altered")
    return found


def load(
    path: Path, network_class: "type[Network]", backend: str, num_threads: int
) -> "tuple[Network, Optimizer | None]":
    """`fastgd.load`, with the class of networks, of checked arguments."""
    return _loaded(_read(path), network_class, backend, num_threads)


def _loaded(
    file: _File, network_class: "type[Network]", backend: str, num_threads: int
) -> "tuple[Network, Optimizer | None]":
    network = _network(file, network_class, backend, num_threads)
    optimizer = _optimizer(file, network)
    if file.content.get("run") is not None:
        with file.field("run"):
            network.history = History.of(file.content["run"]["history"], _arrays_of_run(file, "history."))
    return network, optimizer


def _arrays_of_run(file, prefix=""):
    """The arrays saved by a run, by their names without "run." and the prefix."""
    prefix = f"run.{prefix}"
    return {name[len(prefix) :]: file.read(name) for name in sorted(file.names) if name.startswith(prefix)}


def _network(file, network_class, backend, num_threads):
    with file.field("network"):
        config = dict(file.content["network"])
        loss = choice_from_config("loss", config.pop("loss"), LOSSES)
        layers = [layer_from_config(layer) for layer in config.pop("layers")]
        shape = check_shape("input_shape", config.pop("input_shape"))
        choose("dtype", config["dtype"], DTYPES)
        body = Sequential(layers)
        arrays = [*parameter_specs(body, shape), *statistic_specs(body, shape)]
        # Checked before the network allocates them.
        file.check({name: (shape, config["dtype"]) for name, shape, *_ in arrays})
        network = network_class(shape, layers, loss=loss, backend=backend, num_threads=num_threads, **config)
    _check_formulas(file, network)
    with file.field("epochs"):
        network.epochs = check_integer("epochs", file.content["epochs"], 0)
    with file.field("minibatches"):
        network.counter[0] = _count(file.content["minibatches"])
    if file.content.get("preprocessing") is not None:
        with file.field("preprocessing"):
            network.preprocessing = _preprocessing(file.content["preprocessing"])
    file.fill({**network.views(), **network.statistics})
    return network


def _preprocessing(config):
    """The preprocessing of a `config`: the vocabulary of a text, or that of images or of a table."""
    from .. import images, tables
    from ..text.vocabulary import from_config

    if "text" in config:
        return from_config(config)
    return (images if "images" in config else tables).Preprocessing.from_config(config)


def _count(minibatches):
    """A count of minibatches, checked."""
    return int(check_number("minibatches", check_integer("minibatches", minibatches, 0), 0, 2**53))


def _check_formulas(file, network, optimizer=None):
    """Raises if a function has changed, under the same name, since the file was saved."""
    with file.field("formulas"):
        found = fingerprint.difference(file.content.get("formulas", {}), network, optimizer)
    if found is not None:
        path, name = found
        raise file.error(path, f"the function {name!r} that the file was saved with", "another function of that name")


def _optimizer(file, network):
    if file.content.get("optimizer") is None:
        return None
    with file.field("optimizer"):
        config = dict(file.content["optimizer"])
        schedule, minibatches = dict(config.pop("learning_rate")), config.pop("minibatches")
        optimizer = choose("optimizer", config.pop("name"), OPTIMIZERS)(from_config(schedule), **config)
        optimizer.minibatches = _count(minibatches)
    _check_formulas(file, network, optimizer)
    if optimizer.minibatches == 0 and not any(name.startswith("optimizer.") for name in file.names):
        return optimizer  # saved before its first update, which creates the state
    with file.field("optimizer"):
        optimizer.bind(network)
    arrays = _state(optimizer)
    file.check({name: (array.shape, array.dtype) for name, array in arrays.items()})
    file.fill(arrays)
    return optimizer


def description(path):
    """The description in a file, as a dict."""
    return _description(_read(path))


def _description(file):
    with file.field("version"):
        file.content["version"] = str(file.content["version"])
    run = file.content.get("run")
    if run is not None:
        with file.field("run"):
            check_integer("step", run["step"], 0)
            check_number("seconds", run["seconds"], 0.0)
            run["best_is_kept"] = "run.state" in file.names
    return {**file.content, "size": file.size}


def load_described(path, network_class):
    """Returns (network, optimizer, description) and reads the file once."""
    threads = check_threads(None)  # an error in the environment must not be reported as one of the file
    file = _read(path)
    return *_loaded(file, network_class, "auto", threads), _description(file)


def resume(path, run):
    """Restores a training run as it was saved: network, optimizer and the run itself. Raises CheckpointError, and
    changes nothing, unless the file fits this run."""
    network, optimizer = run.network, run.optimizer
    file = _read(path)
    content, given = file.content, json.loads(json.dumps(describe(network, optimizer)))
    if content.get("run") is None:
        raise file.error("run", "a training run saved by fit(checkpoint=...)", "a model alone")
    with file.field("run"):
        saved = {**content, "fit": content["run"]["fit"]}
        given["fit"] = json.loads(json.dumps(run.settings()))
    if content.get("preprocessing") != given.get("preprocessing"):
        raise file.error("preprocessing", "the preprocessing of this run", "another")
    with file.field("run"):
        rate, was = given["fit"].get("learning_rate"), saved["fit"].get("learning_rate")
        # ... unless a callback has set another schedule since
        is_of_another_length = _is_of_another_length(rate, was) and was == content["optimizer"]["learning_rate"]
    for part in ("network", "optimizer", "fit"):
        with file.field(part):
            for name in {**given[part], **saved[part]}:
                one, other = _settings(given[part].get(name)), _settings(saved[part].get(name))
                if name == "learning_rate" and is_of_another_length:
                    continue
                if one != other and "data" in name:
                    raise file.error(f"{part}.{name}", "the rows of this run", "others")
                if one != other and (part, name) not in CHANGING:
                    field, expected, got = first_difference(f"{part}.{name}", one, other)
                    raise file.error(field, f"{expected} as in this run", got)
    loaded = _network(file, type(network), network.backend, network.num_threads)
    loaded_optimizer = _optimizer(file, loaded)
    with file.field("run"):
        restore = run.prepare(content["run"], _arrays_of_run(file), loaded)
    network.state[:], network.epochs, network.counter[:] = loaded.state, loaded.epochs, loaded.counter
    optimizer.bind(network)
    for slot, arrays in loaded_optimizer.state.items():
        for array, saved in zip(optimizer.state[slot], arrays, strict=True):
            array[...] = saved
    optimizer.minibatches = loaded_optimizer.minibatches
    is_changed = content["optimizer"]["learning_rate"] != given["optimizer"]["learning_rate"]
    if is_changed and not is_of_another_length:  # set by a callback, or observed
        optimizer.learning_rate = loaded_optimizer.learning_rate
    restore()


def _is_of_another_length(one, other):
    """Whether two schedules have another number of steps, and else at most another number of steps of warm-up."""
    if not (isinstance(one, dict) and isinstance(other, dict)) or one.get(LENGTH[0]) == other.get(LENGTH[0]):
        return False
    return {**one, **dict.fromkeys(LENGTH)} == {**other, **dict.fromkeys(LENGTH)}


def _settings(config):
    """A setting without what a schedule has observed since."""
    if not isinstance(config, dict):
        return config
    return {name: _settings(value) for name, value in config.items() if name not in _OBSERVED}
