"""`fastgd.models.from_torch`: against outputs of torch 2.13 (golden/make.py), the order of tensors, files, errors."""

import os
import re

import numpy as np
import pytest
import safetensors.numpy
from test_golden import GOLDEN

from fastgd import (
    GRU,
    LSTM,
    Activation,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    LayerNorm,
    MaxPool2D,
    Network,
    Reshape,
    Residual,
    Sequential,
    Standardize,
)  # fmt: skip
from fastgd.models import from_torch

TOLERANCES = {"float64": 1e-13, "float32": 1e-5}


def convolution(filters, size, **options):
    return Conv2D(filters, size, use_bias=False, **options)


BLOCK = Residual(
    [convolution(6, 3, strides=2, padding=1), BatchNorm("relu"), convolution(6, 3, padding=1), BatchNorm()],
    [convolution(6, 1, strides=2), BatchNorm()],
)
LAYERS = {
    "lenet": [Conv2D(3, 3, "relu"), MaxPool2D(2), Conv2D(4, 2, "relu"), MaxPool2D(2), Flatten(), Dropout(0.1),
              Dense(10, "relu"), Dense(3)],
    "resnet": [convolution(4, 3, padding=1), BatchNorm("relu"), Conv2D(8, 3, groups=4), BLOCK, Activation("relu"),
               GlobalAvgPool2D(), Dense(3)],
    "recurrent": [LSTM(4, return_sequences=True), GRU(5, return_sequences=True), LSTM(3), Dense(2)],
    "mlp": [Dense(6), LayerNorm("relu"), Sequential([Dense(6), BatchNorm("tanh")]), Dense(2)],
}  # fmt: skip


def state(name):
    """The state_dict of a golden model, in torch's order."""
    prefix = f"weights.{name}.state."
    return {key.removeprefix(prefix): GOLDEN[key] for key in GOLDEN.files if key.startswith(prefix)}


def network(name, dtype="float64"):
    shape = GOLDEN[f"weights.{name}.x"].shape[1:]
    return Network(shape, LAYERS[name], loss="mse", dtype=dtype, seed=1)


def error_of(name, net=None):
    """The largest difference from torch's outputs, relative to the largest of these."""
    x, y = GOLDEN[f"weights.{name}.x"], GOLDEN[f"weights.{name}.y"]
    return np.abs(net.forward(x) - y).max() / np.abs(y).max()


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_torchs(name, dtype):
    net = network(name, dtype)
    assert error_of(name, net) > 0.1
    assert from_torch(state(name), net) is net
    assert error_of(name, net) <= TOLERANCES[dtype]


@pytest.mark.parametrize("name", LAYERS)
def test_files_and_dicts_sorted_by_name(name, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(state(name), path)
    for source in (path, str(path), os.fsencode(path), dict(sorted(state(name).items()))):
        net = network(name)
        from_torch(source, net)
        assert error_of(name, net) <= 1e-13


class Tensor:
    """What `from_torch` uses of a torch tensor that requires a gradient; torch's bfloat16 is no dtype of numpy."""

    dtype, grad = "torch.bfloat16", True

    def __init__(self, array):
        self.array = array

    def cpu(self):
        return self

    def detach(self):
        made = Tensor(self.array)
        made.grad = False
        return made

    def float(self):
        made = Tensor(self.array.astype(np.float32))
        made.dtype, made.grad = "torch.float32", self.grad
        return made

    def numpy(self):
        if self.grad or "bfloat16" in self.dtype:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_dtypes(tmp_path):
    """Tensors of torch and arrays of any real dtype, layout and byte order."""
    for cast in (
        lambda a: a.astype(np.float16), lambda a: np.asfortranarray(a), lambda a: a.astype(">f8"), Tensor,
        lambda a: np.broadcast_to(a[..., None], (*a.shape, 2))[..., 0],
    ):  # fmt: skip
        net = network("lenet", "float32")
        from_torch({key: cast(tensor) for key, tensor in state("lenet").items()}, net)
        assert error_of("lenet", net) < 1e-2
    weights = {"weight": np.array([[1, -2, 3]], np.int8), "bias": np.array([4], np.int64)}
    net = from_torch(weights, Network(3, [Dense(1)], loss="mse"))
    assert net.parameters.tolist() == [1, -2, 3, 4]
    header = b'{"weight":{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]}}'
    halves = (np.array([1.5, -2.0, 3.0], np.float32).view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + halves.tobytes())
    assert from_torch(tmp_path / "a", net).parameters.tolist() == [1.5, -2, 3, 0]  # without bias


def linear(n_out, n_in, rng, name="", bias=False):
    return {
        f"{name}weight": rng.normal(size=(n_out, n_in)),
        **({f"{name}bias": rng.normal(size=n_out)} if bias else {}),
    }


def test_flattened_images_reach_every_branch(rng):
    """Each Dense behind Flatten has the order of torch's channels first, behind normalization and in all branches."""
    h, w, c, n = 2, 3, 4, 24
    x = rng.normal(size=(5, h, w, c))
    flat = x.transpose(0, 3, 1, 2).reshape(5, -1)
    source = {"bn.weight": rng.normal(size=n), "bn.running_mean": rng.normal(size=n), "bn.running_var": np.ones(n)}
    weights = [linear(3, n, rng, "0."), linear(3, n, rng, "1."), linear(2, 3 + n, rng, "2.")]
    layers = [Flatten(), BatchNorm(), Concatenate([Residual([Dense(3)], Dense(3))], []), Dense(2)]
    net = Network((h, w, c), layers, loss="mse", dtype="float64")
    from_torch({**source, **{name: tensor for one in weights for name, tensor in one.items()}}, net)
    z = (flat - source["bn.running_mean"]) / np.sqrt(1 + 1e-5) * source["bn.weight"]
    a, b, last = (one[name] for one in weights for name in one)
    np.testing.assert_allclose(net.forward(x), np.hstack([z @ a.T + z @ b.T, z]) @ last.T, rtol=1e-12)


def test_shared_weights(rng):
    layers = [Dense(3), Dense(4, tie="w1.T")]
    w = rng.normal(size=(3, 4))
    for source in ({"a.weight": w, "b.weight": w.T}, {"a.weight": w, "b.bias": np.zeros(4)}):
        net = from_torch(source, Network(4, layers, loss="mse", dtype="float64"))
        np.testing.assert_array_equal(net.views()["w1"], w.T)
    with pytest.raises(ValueError, match="'b.weight' equal to w1"):
        from_torch({"a.weight": w, "b.weight": w.T + 1}, net)


def test_order_of_names(rng, tmp_path):
    """Numbers in names count; names that leave the order open are refused, a dict in the order of layers is taken."""
    path, n = tmp_path / "model.safetensors", 12
    net = Network(3, [Dense(3) for _ in range(n)], loss="mse", dtype="float64")
    tensors = {name: tensor for i in range(n) for name, tensor in linear(3, 3, rng, f"net.{i}.").items()}
    safetensors.numpy.save_file(tensors, path)
    for source in (tensors, path, dict(sorted(tensors.items()))):
        from_torch(source, net)
        assert all(np.array_equal(net.views()[f"w{i + 1}"], tensors[f"net.{i}.weight"].T) for i in range(n))
    net = Network(3, [Dense(3), Dense(3)], loss="mse", dtype="float64")
    tensors = linear(3, 3, rng, "up.") | linear(3, 3, rng, "down.")
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="names that give an order.*'(up|down)' and '(up|down)', which both fit"):
        from_torch(path, net)
    from_torch(tensors, net)
    np.testing.assert_array_equal(net.views()["w1"], tensors["up.weight"].T)
    tensors = {f"{letter}.weight": np.eye(3) for letter in "abcdefghijklmnopqrs"}
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="19 modules, too many"):
        from_torch(path, Network(3, [*[Dense(3)] * 18, Dense(4)], loss="mse"))
    net = Network(3, [Dense(4), Dense(3)], loss="mse")  # shapes give an order
    safetensors.numpy.save_file(linear(4, 3, rng, "up.", bias=True) | linear(3, 4, rng, "down."), path)
    from_torch(path, net)


def normalized(name, channels, inputs, rng):
    """The tensors of a convolution 1 x 1 without bias and of BatchNorm, with torchvision's names."""
    norm = {f"{name.format('bn')}.{kind}": rng.uniform(1, 2, channels) for kind in (
        "weight", "bias", "running_mean", "running_var")}  # fmt: skip
    return {f"{name.format('conv')}.weight": rng.normal(size=(channels, inputs, 1, 1)), **norm}


@pytest.mark.parametrize("blocks", [1, 2])
def test_like_modules_have_a_like_order(blocks, rng, tmp_path):
    """In a file of a residual network, the first bn1 might also follow layer1, if the blocks there began with bn1. A
    block in layer2 with the same names shows that they do not."""
    source, layers = normalized("{}1", 2, 1, rng), [convolution(2, 1), BatchNorm()]
    for name, channels, inputs in (("layer1.0", 2, 2), ("layer2.0", 3, 2), ("layer2.1", 3, 3))[: blocks + 1]:
        f = [convolution(channels, 1), BatchNorm(), convolution(channels, 1), BatchNorm()]
        source |= normalized(f"{name}.{{}}1", channels, inputs, rng) | normalized(
            f"{name}.{{}}2", channels, channels, rng
        )
        if channels > inputs:
            shortcut = normalized("{}", channels, inputs, rng)
            source |= {f"{name}.downsample.{int(key[0] == 'b')}.{key.split('.')[1]}": a for key, a in shortcut.items()}
        layers.append(Residual(f, [convolution(channels, 1), BatchNorm()] if channels > inputs else None))
    source["fc.weight"] = rng.normal(size=(2, 3))
    expected, net = (Network((1, 1, 1), [*layers, Flatten(), Dense(2)], loss="mse", seed=i) for i in (1, 2))
    from_torch(source, expected)
    safetensors.numpy.save_file(source, tmp_path / "model.safetensors")
    if blocks == 1:
        with pytest.raises(ValueError, match="'(layer1.0.)?bn1' and '(layer1.0.)?bn1', which both fit layer 2"):
            from_torch(tmp_path / "model.safetensors", net)
    else:
        from_torch(tmp_path / "model.safetensors", net)
        np.testing.assert_array_equal(net.state, expected.state)


def changed(name, **changes):
    """The state of a model with other tensors; None removes one. Names have "_" for "."."""
    made = state(name)
    for key, value in changes.items():
        made[key.replace("_", ".", 1)] = value
    return {key: value for key, value in made.items() if value is not None}


ONES = np.ones(3)
WRONG = {
    "shape": (lambda: changed("lenet", **{"3_weight": np.ones((4, 3, 3, 3))}),
              r"'3.weight' of shape \(4, 3, 2, 2\) for layer 3, Conv2D\(4.*got shape \(4, 3, 3, 3\)"),
    "tensor left over": (lambda: {**state("lenet"), "extra.weight": ONES}, r"also 'extra.weight' of shape \(3,\)"),
    "layer left over": (lambda: changed("lenet", **{"9_weight": None, "9_bias": None}), "layer 8, Dense.*no more"),
    "no weights": (lambda: changed("lenet", **{"3_weight": None}), "'3.weight' for layer 3.*only '3.bias'"),
    "no statistics": (lambda: changed("mlp", **{"4_running_var": None}), "'4.running_var' for layer 3.2"),
    "no name": (lambda: {".weight": ONES, **state("lenet")}, "'.weight' of shape"),
    "empty": (dict, "layer 1, Conv2D.*no more"),
    "name": (lambda: {"in_proj_weight": ONES, **state("lenet")}, "'in_proj_weight'"),
    "not finite": (lambda: changed("lenet", **{"9_bias": np.array([0, np.nan, 0])}), "'9.bias' of numbers.*finite"),
    "too large": (lambda: changed("lenet", **{"9_bias": np.array([0, 1e300, 0])}), "'9.bias' of numbers.*float32"),
    "complex": (lambda: changed("lenet", **{"9_bias": ONES * 1j}), "'9.bias' as .* real numbers"),
    "objects": (lambda: changed("lenet", **{"9_bias": ONES.astype(object)}), "'9.bias' as"),
    "bool": (lambda: changed("lenet", **{"9_bias": ONES > 0}), "'9.bias' as"),
    "checkpoint": (lambda: {"model": state("lenet")}, "'model' as a torch tensor"),
    "number": (lambda: {3: ONES}, "'source'.*names of tensors, got 3"),
    "list": (lambda: [ONES], "'source'.*state_dict"),
    "folder": (lambda: os.curdir, "'source'.*folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_change_nothing(case):
    source, match = WRONG[case]
    net = network("mlp" if "statistics" in case else "lenet", "float32")
    before = net.state.copy()
    with pytest.raises((TypeError, ValueError, IsADirectoryError), match=match):
        from_torch(source(), net)
    np.testing.assert_array_equal(net.state, before)


def test_errors_of_files(tmp_path):
    net, path = network("lenet"), tmp_path / "model.safetensors"
    wrong = changed("lenet", **{"9_weight": np.ones((4, 10)), "9_bias": np.ones(4)})
    whole = safetensors.numpy.save(state("lenet"))
    for data, match in (
        (whole[:-1], re.escape(repr(str(path)))), (b"", "whole safetensors"), (b"PK\x03\x04........", "a zip archive"),
        (safetensors.numpy.save({"weight": ONES > 0}), "'weight' of BOOL"),
        (safetensors.numpy.save(wrong), r"'9.\w+' of shape .* for layer 8, Dense"),
        (safetensors.numpy.save({**state("lenet"), "9a.weight": ONES}), r"also '9a.weight'|'9a.weight' of shape"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises((TypeError, ValueError), match=match):
            from_torch(path, net)
    with pytest.raises(FileNotFoundError):
        from_torch(tmp_path / "none", net)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        from_torch(tmp_path / "pipe", net)
    with pytest.raises(TypeError, match="'net'"):
        from_torch(path, None)


def test_networks_that_torch_orders_otherwise(rng, own_definitions):
    """A sum of flattened images with outputs of Dense, and images made by Reshape, would need weights in two orders."""
    for shape, layers, match in (
        ((2, 3, 4), [Flatten(), Residual([Dense(24)]), Dense(2)], "layer 2, Residual"),
        ((2, 3, 4), [Reshape((6, 4)), Dense(2)], "layer 1, Reshape"),
        (24, [Dense(24), Reshape((2, 3, 4)), Conv2D(1, 1)], "layer 2, Reshape"),
    ):
        net = Network(shape, layers, loss="mse")
        with pytest.raises(ValueError, match=match):
            from_torch({}, net)
    net = Network((2, 3, 1), [Standardize(1.0), Flatten(), Residual([Dense(6)])], loss="mse", dtype="float64")
    source = linear(6, 6, rng)
    x = rng.normal(size=(3, 2, 3, 1))
    flat = x.reshape(3, 6) - 1
    np.testing.assert_allclose(from_torch(source, net).forward(x), flat + flat @ source["weight"].T, rtol=1e-12)
