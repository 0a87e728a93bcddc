"""`fastgd.models.from_torch`: the weights of a torch model in a network of fastgd. Needs no torch."""

import itertools
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.types import Path, Shape
from ..data.tensors import as_array, read_tensors
from ..errors import shown, type_error, value_error
from ..layers import GRU, LSTM, BatchNorm, Concatenate, Conv2D, Dense, Layer, LayerNorm, Reshape, Residual, Sequential
from ..network import Network

# The tensors of torch's modules in the order of a state_dict, and the names that they have here.
LINEAR = {"weight": "w", "bias": "b"}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
# LSTM has one bias, the sum of torch's two.
RECURRENT = {"weight_ih_l0": "w_x", "weight_hh_l0": "w_h", "bias_ih_l0": "b", "bias_hh_l0": "b_h"}
KINDS = (*NORM, *RECURRENT)
IGNORED = "num_batches_tracked"
# A tensor that torch leaves out with bias=False or affine=False is a constant there.
CONSTANTS = {"b": 0.0, "b_h": 0.0, "beta": 0.0, "gamma": 1.0}
SEARCHED = 50_000  # steps of a search for the order of modules


class Target(NamedTuple):
    """A layer that has arrays, and what a torch module for it holds.

    shapes: torch's shape by torch's name of each tensor.
    order: order[i] is torch's index of our i-th feature of x, or None if these are the same: torch flattens images with
        the channels first."""

    path: str
    layer: Layer
    shapes: dict[str, Shape]
    order: "npt.NDArray[np.intp] | None"

    def __str__(self) -> str:
        return f"layer {self.path}, {self.layer!r}"


class Module(NamedTuple):
    """Tensors of one torch module: arrays by the last part of their name. name: what precedes it, with its dot."""

    name: str
    tensors: "dict[str, npt.NDArray[Any]]"


def from_torch(source: "Mapping[str, Any] | Path", net: Network) -> Network:
    """Copies the weights and running statistics of a torch model into `net`, a network with the same layers in the same
    order; returns `net`.

    source: a `state_dict()`, or any mapping from names to torch tensors or numpy arrays in the order of the layers; or
        the path of a .safetensors file. A file has no order, and neither has what `safetensors.torch.load_file` makes
        of it: then the only order in which all tensors fit is taken. In it numbers in names rise ("conv2" follows
        "conv1"), tensors within one module follow each other, and modules of like names have a like order.

    Linear.weight (out, in) becomes w (in, out); Conv2d.weight (filters, c / groups, kh, kw) becomes (kh, kw, c /
    groups, filters); features that torch has flattened from images (c, h, w) are put in the order (h, w, c) of
    `Flatten`. Rows with three axes are images. LSTM.weight_ih_l0 (4 units, in) becomes w_x (in, 4 units), the like of
    weight_hh_l0 and of GRU, of one layer and direction; LSTM has one bias, the sum of torch's two. A missing bias is 0,
    as with bias=False, a missing weight of BatchNorm is 1. In `Residual` the layers come first, then the shortcut's; in
    `Concatenate` one branch after the other. num_batches_tracked is ignored. Numbers are cast to the network's dtype.
    Activations, strides, padding, groups and eps are those of `net`; a state_dict does not have them.

    Raises TypeError or ValueError that names the tensor and the layer if tensors or layers are left over, do not fit,
    are not numbers or not finite, or if names of a file leave the order open; OSError if a file cannot be read. The
    network is then unchanged."""
    if not isinstance(net, Network):
        raise type_error("net", "a fastgd.Network", shown(net))
    if isinstance(source, Mapping):
        tensors = {name: as_array(name, value) for name, value in source.items()}
        is_ordered = not _is_sorted(list(tensors))
    elif isinstance(source, (str, bytes, os.PathLike)):
        tensors, is_ordered = read_tensors(source), False
    else:
        raise type_error("source", "a state_dict, as model.state_dict() gives it, or a path", shown(source))
    modules, (targets, _) = _modules(tensors), _targets(net.body, "", net.input_shape, None)
    if not is_ordered:
        modules = _in_order(modules, targets)
    pairs = list(itertools.zip_longest(modules, targets))
    for module, target in pairs:
        problem = _misfit(module, target)
        if problem is not None:
            raise value_error("source", *problem)
    new = net.like()
    arrays = {**new.views(), **new.statistics}
    for module, target in pairs:
        _fill(module, target, arrays)
    for module, target in pairs:
        _check_tie(module, target, arrays)
    net.copy_from(new)
    return net


# ---- torch's modules


def _modules(tensors):
    """The `Module`s in the order of their first tensors."""
    modules = {}
    for name, array in tensors.items():
        prefix, dot, kind = name.rpartition(".")
        if kind not in (*KINDS, IGNORED) or (dot and "" in prefix.split(".")):
            expected = f"tensors of layers, named {', '.join(KINDS)}"
            raise value_error("source", expected, f"{name!r} of shape {array.shape}")
        if kind != IGNORED:
            modules.setdefault(prefix + dot, {})[kind] = array
    return [Module(name, found) for name, found in modules.items()]


# ---- the network's layers


def _targets(layer, path, shape, order):
    """The `Target`s of a layer and those within it, in torch's order, and the order of the features of its output.
    order: that of its input."""
    if isinstance(layer, (Sequential, Concatenate)):
        return (_targets_of_branches if isinstance(layer, Concatenate) else _targets_in_turn)(layer, path, shape, order)
    owned = [name for name, *_ in (*layer.parameters(shape), *layer.statistics(shape), *layer.shared(shape))]
    if isinstance(layer, Dense):
        shapes = {"weight": (layer.units, shape[-1]), "bias": (layer.units,)}
        return [Target(path, layer, shapes, order)], None
    if isinstance(layer, Conv2D):
        shapes = {"weight": (layer.filters, shape[-1] // layer.groups, *layer.kernel_size)}
        return [Target(path, layer, shapes | ({"bias": (layer.filters,)} if layer.use_bias else {}), None)], None
    if isinstance(layer, (BatchNorm, LayerNorm)):
        shapes = {kind: shape[-1:] for kind, name in NORM.items() if name in owned}
        return [Target(path, layer, shapes, order)], order
    if isinstance(layer, (LSTM, GRU)):
        n = layer.gates * layer.units
        shapes = dict(zip(RECURRENT, ((n, shape[-1]), (n, layer.units), (n,), (n,)), strict=True))
        return [Target(path, layer, shapes, None)], None
    if owned or layer.children():
        raise value_error("net", "layers that torch has, too", f"layer {path}, {layer!r}")
    return [], _order_after(layer, path, shape, order)


def _order_after(layer, path, shape, order):
    """The order of features after a layer without arrays."""
    made = layer.output_shape(shape)
    if made == shape or (order is None and not isinstance(layer, Reshape)):
        return order
    if isinstance(layer, Reshape) and len(shape) == 3 and len(made) == 1:
        h, w, c = shape
        order = np.arange(math.prod(shape)).reshape(c, h, w).transpose(1, 2, 0).ravel()
        return None if (np.diff(order) == 1).all() else order
    if order is not None or any(len(one) == 3 and one[-1] > 1 and math.prod(one[:-1]) > 1 for one in (shape, made)):
        raise value_error("net", "images whose only change of shape is Flatten", f"layer {path}, {layer!r}")
    return None


def _targets_in_turn(layer, path, shape, order):
    """`_targets` of a `Sequential` or `Residual`."""
    targets, x_shape, x_order = [], shape, order
    for number, child in enumerate(layer.layers, 1):
        found, x_order = _targets(child, _joined(path, number), x_shape, x_order)
        targets, x_shape = targets + found, child.output_shape(x_shape)
    if isinstance(layer, Residual):
        if layer.shortcut is not None:
            found, order = _targets(layer.shortcut, _joined(path, len(layer.layers) + 1), shape, order)
            targets = targets + found
        if not np.array_equal(x_order, order):
            expected = "a Dense layer between Flatten of images and a sum"
            raise value_error("net", expected, f"layer {path}, {layer!r}")
    return targets, x_order


def _targets_of_branches(layer, path, shape, order):
    """`_targets` of a `Concatenate`."""
    targets, orders, width = [], [], 0
    for number, branch in enumerate(layer.branches, 1):
        found, one = _targets(branch, _joined(path, number), shape, order)
        made = branch.output_shape(shape)
        orders.append((np.arange(made[-1]) if one is None else one) + width)
        targets, width = targets + found, width + made[-1]
    joined = np.concatenate(orders)
    return targets, None if (np.diff(joined) == 1).all() else joined


def _joined(path, number):
    return f"{path}.{number}" if path else str(number)


# ---- which module is for which layer


def _misfit(module, target):
    """(expected, got) of an error if the tensors of a module are not those of a layer, else None. Either may be None,
    where there are no more."""
    if target is None:
        kind, array = next(iter(module.tensors.items()))
        return "tensors of the layers of net alone", f"also {module.name + kind!r} of shape {array.shape}"
    if module is None:
        return f"tensors for {target}", "no more tensors"
    for kind, array in module.tensors.items():
        name, shape = f"{module.name}{kind}", target.shapes.get(kind)
        if shape is None:
            return f"no {kind} for {target}", f"{name!r} of shape {array.shape}"
        if shape != array.shape:
            return f"{name!r} of shape {shape} for {target}", f"shape {array.shape}"
    for kind in target.shapes:
        is_optional = _name(target, kind) in CONSTANTS or getattr(target.layer, "tie", None)
        if kind not in module.tensors and not is_optional:
            names = ", ".join(repr(module.name + kind) for kind in module.tensors)
            return f"{module.name + kind!r} for {target}", f"only {names}"
    return None


def _stem(part):
    """A part of a name with its numbers left out, and these numbers."""
    return re.sub(r"\d+", "#", part), [int(number) for number in re.findall(r"\d+", part)]


def _is_sorted(names):
    """Whether names of tensors have been sorted as text: in torch weights precede biases, and 2 precedes 10."""
    names = [name for name in names if name.rpartition(".")[2] != IGNORED]  # integers come first in files

    def natural(name):
        *parts, kind = name.split(".")
        return [_stem(part) for part in parts], KINDS.index(kind)

    return names == sorted(names) and names != sorted(names, key=natural)


class Node(NamedTuple):
    """A torch module that has others in it, some of which a search has taken.

    groups: those left, (name, number of a `Module` or a node), in groups whose names differ only by numbers, in order.
    taken: the names of the others. names: all, sorted."""

    groups: tuple[tuple[tuple[str, Any], ...], ...]
    taken: tuple[str, ...]
    names: tuple[str, ...]

    def without(self, i: int) -> "Node":
        """The node after the first module of group i has been taken."""
        (name, _), *others = self.groups[i]
        groups = (*self.groups[:i], tuple(others), *self.groups[i + 1 :])
        return self._replace(groups=tuple(filter(None, groups)), taken=(*self.taken, name))


def _tree(modules):
    """The `Node` of a whole model. Its own tensors have the name ""."""
    root = {}
    for i, module in enumerate(modules):
        node = root
        for part in module.name.split(".")[:-1]:
            node = node.setdefault(part, {})
        node[""] = i

    def made(node):
        if list(node) == [""]:
            return node[""]
        groups = {}
        for part in sorted(node, key=lambda part: _stem(part)[1]):
            child = node[part]
            groups.setdefault(_stem(part)[0], []).append((part, made(child) if isinstance(child, dict) else child))
        return Node(tuple(map(tuple, groups.values())), (), tuple(sorted(node)))

    return made(root)


def _orders(modules, targets, problems):
    """Yields each order of the modules, as numbers, in which they fit the layers. Modules within one follow each other,
    numbers in names rise, and where modules have the same names within them, the order of these is the same. Appends
    (number of modules that fit, why the next does not) to `problems`."""
    steps = itertools.count()

    def search(tasks, known, order):
        order = order.copy()
        while tasks is not None:
            if next(steps) > SEARCHED:
                raise RecursionError
            node, tasks = tasks
            if isinstance(node, int):
                at = len(order)
                problem = _misfit(modules[node], targets[at] if at < len(targets) else None)
                if problem is not None:
                    problems.append((at, problem))
                    return
                order.append(node)
            elif not node.groups:
                known = {**known, node.names: node.taken}
            else:
                first = known.get(node.names, ())[len(node.taken) : len(node.taken) + 1]
                found = [(group[0][1], node.without(i)) for i, group in enumerate(node.groups)
                         if not first or group[0][0] == first[0]]  # fmt: skip
                *others, (child, rest) = found
                for other, left in others:
                    yield from search((other, (left, tasks)), known, order)
                tasks = child, (rest, tasks)
        yield order

    return search((_tree(modules), None), {}, [])


def _in_order(modules, targets):
    """The modules in the order of the layers that they fit. Raises ValueError if there is none or more than one."""
    expected, problems = "names that give an order of the layers", []
    if not modules:
        return []
    try:
        found = list(itertools.islice(_orders(modules, targets, problems), 2))
    except RecursionError:
        got = f"{len(modules)} modules, too many to try; pass a dict in the order of the layers"
        raise value_error("source", expected, got) from None
    if not found:
        raise value_error("source", *max(problems, key=lambda pair: pair[0])[1])
    if len(found) > 1:
        i, pair = next((i, pair) for i, pair in enumerate(zip(*found, strict=True)) if pair[0] != pair[1])
        names = [modules[number].name[:-1] for number in pair]
        got = f"{names[0]!r} and {names[1]!r}, which both fit {targets[i]}; pass a dict in the order of the layers"
        raise value_error("source", expected, got)
    return [modules[i] for i in found[0]]


# ---- copying


def _name(target, kind):
    """The name of a tensor here, without the path of its layer."""
    if isinstance(target.layer, (LSTM, GRU)):
        return "b" if kind.startswith("bias") and isinstance(target.layer, LSTM) else RECURRENT[kind]
    return (NORM if isinstance(target.layer, (BatchNorm, LayerNorm)) else LINEAR)[kind]


def _converted(array, target):
    """A tensor in the order of axes and features that the layer has."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    is_weight = array.ndim == 2
    array = array.T if is_weight else array
    return array if target.order is None or (isinstance(target.layer, Dense) and not is_weight) else array[target.order]


def _fill(module, target, arrays):
    """Copies the tensors of a module into `arrays`, by name."""
    for kind in target.shapes:
        name = _name(target, kind)
        array = arrays.get(f"{name}{target.path}")
        if array is None:  # weights that belong to another layer
            continue
        is_second = kind == "bias_hh_l0" and name == "b"
        if kind not in module.tensors:
            array[...] = array if is_second else CONSTANTS[name]
            continue
        with np.errstate(all="ignore"):
            converted = _converted(module.tensors[kind], target)
            array[...] = array + converted if is_second else converted
        if not np.isfinite(array).all():
            expected = f"{module.name + kind!r} of numbers that are finite in {array.dtype}, for {target}"
            raise value_error("source", expected, "others")


def _check_tie(module, target, arrays):
    """Raises ValueError if a layer shares weights that are different tensors in torch."""
    layer = target.layer
    if getattr(layer, "tie", None) is None or "weight" not in module.tensors:
        return
    shared = arrays[layer.tied_to]
    with np.errstate(all="ignore"):
        own = _converted(module.tensors["weight"], target).astype(shared.dtype)
    if not np.array_equal(own, shared.T if layer.is_transposed else shared):
        raise value_error("source", f"{module.name + 'weight'!r} equal to {layer.tied_to}, for {target}", "others")
