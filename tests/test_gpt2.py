"""GPT-2's files: against logits of torch 2.13 (golden/make.py), names, dtypes, sizes, what is written, errors."""

import json
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from test_golden import GOLDEN

import fastgd
from fastgd.models import gpt2, language, save_gpt2

PREFIX = "gpt2.state."
STATE = {key.removeprefix(PREFIX): GOLDEN[key] for key in GOLDEN.files if key.startswith(PREFIX)}
X, LOGITS = GOLDEN["gpt2.x"], GOLDEN["gpt2.logits"]
T, HEADS = 7, 3
# Parameters of the published models: vocabulary 50,257, context 1,024.
PUBLISHED = {(12, 768): 124_439_808, (24, 1024): 354_823_168, (36, 1280): 774_030_080, (48, 1600): 1_557_611_200}


def bare(state):
    """Names without "transformer.", and neither masks nor an output, as in the published files."""
    state = {key.removeprefix("transformer."): tensor for key, tensor in state.items()}
    return {
        key: tensor for key, tensor in state.items() if not key.endswith((".attn.bias", "masked_bias", "head.weight"))
    }


def write(folder, state, config=None, name="model.safetensors"):
    """A folder with the tensors, and config.json if there is one."""
    safetensors.numpy.save_file({key: np.ascontiguousarray(tensor) for key, tensor in state.items()}, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def error_of(net, t=T):
    """The largest difference from torch's logits, relative to the largest of these."""
    return np.abs(net.forward(X[:, :t]) - LOGITS[:, :t]).max() / np.abs(LOGITS).max()


@pytest.mark.parametrize("names", ["transformer.", "", "masks"])
def test_logits_are_torchs(names, dtype, tmp_path):
    state = STATE if names == "transformer." else bare(STATE)
    if names == "masks":
        state |= {key.removeprefix("transformer."): tensor for key, tensor in STATE.items() if "bias" in key}
    folder = write(tmp_path, state, {"model_type": "gpt2", "n_head": HEADS, "activation_function": "gelu_new"})
    net = gpt2(folder, dtype=dtype)
    assert error_of(net) <= (1e-13 if dtype == "float64" else 2e-6)
    assert error_of(gpt2(folder / "model.safetensors", heads=1, dtype=dtype)) > 1e-3  # heads matter


def test_a_shorter_context(tmp_path):
    """A causal model gives the same at the first positions."""
    folder = write(tmp_path, STATE)
    net = gpt2(folder, context=4, heads=HEADS, dropout=0.1, dtype="float64", seed=5)
    assert (net.input_shape, net.seed, net.layers[2].rate) == ((4,), 5, 0.1)
    assert error_of(net, 4) <= 1e-13
    with pytest.raises(ValueError, match="'context': expected at most 7.*got 8"):
        gpt2(folder, context=8, heads=HEADS)


@pytest.mark.parametrize("part", [8, 2**24])
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_other_dtypes_are_cast(kind, part, tmp_path, monkeypatch):
    monkeypatch.setattr(language, "PART", part)
    cast = {key: tensor.astype(kind) for key, tensor in STATE.items()}
    views = gpt2(write(tmp_path, cast), heads=HEADS).views()
    for theirs, ours in language.Sizes(11, 7, 2, 6).names().items():
        np.testing.assert_array_equal(views[ours], cast[f"transformer.{theirs}"].astype(np.float32))


def test_bfloat16(tmp_path):
    """The library for numpy does not write it, so a header is changed."""
    state = {key: tensor.astype(np.float32) for key, tensor in bare(STATE).items()}
    state = {key: (tensor.view(np.uint32) & 0xFFFF0000).view(np.float32) for key, tensor in state.items()}
    halves = {key: (tensor.view(np.uint32) >> 16).astype(np.uint16) for key, tensor in state.items()}
    path = write(tmp_path, halves) / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"'))
    data = path.read_bytes()
    length = len(data) - sum(tensor.nbytes for tensor in halves.values()) - 8
    path.write_bytes(length.to_bytes(8, "little") + data[8:])
    views = gpt2(path, heads=HEADS).views()
    for theirs, ours in language.Sizes(11, 7, 2, 6).names().items():
        np.testing.assert_array_equal(views[ours], state[theirs])


def test_heads(tmp_path):
    """An argument comes before config.json, that before a note in the file, that before 64 columns a head."""
    file = write(tmp_path, STATE) / "model.safetensors"
    with pytest.raises(
        ValueError, match="'heads': expected the number of heads, since 6 columns are no multiple of 64"
    ):
        gpt2(file)
    wide = fastgd.models.gpt(3, 2, 1, 1, 192)
    save_gpt2(wide, tmp_path / "wide.safetensors")
    assert gpt2(tmp_path / "wide.safetensors").layers[3].attention.heads == 1
    state = safetensors.numpy.load_file(tmp_path / "wide.safetensors")
    assert gpt2(write(tmp_path, state)).layers[3].attention.heads == 3
    assert gpt2(write(tmp_path, state, {"n_head": 6})).layers[3].attention.heads == 6
    assert gpt2(tmp_path, heads=2).layers[3].attention.heads == 2
    with pytest.raises(ValueError, match="'heads': expected a divisor of 192"):
        gpt2(tmp_path, heads=5)


@pytest.mark.parametrize(("layers", "width"), PUBLISHED)
def test_sizes_of_the_published_models(layers, width):
    sizes = language.Sizes(50257, 1024, layers, width)
    shapes = sizes.shapes()
    assert sum(map(np.prod, shapes.values())) == PUBLISHED[layers, width]
    assert shapes[f"h.{layers - 1}.attn.c_attn.weight"] == (width, 3 * width)
    assert list(sizes.names()) == list(shapes)
    assert language._heads(None, None, None, width) == {768: 12, 1024: 16, 1280: 20, 1600: 25}[width]


def test_a_network_of_these_sizes_has_these_arrays():
    net, sizes = fastgd.models.gpt(11, 7, 3, 2, 6), language.Sizes(11, 7, 3, 6)
    shapes = sizes.shapes()
    assert {ours: shapes[theirs] for theirs, ours in sizes.names().items()} == {
        name: view.shape for name, view in net.views().items()
    }


def test_what_is_written_is_read_again(dtype, tmp_path):
    state = {key: tensor.astype(dtype) for key, tensor in bare(STATE).items()}
    net = gpt2(write(tmp_path, state), heads=HEADS, dropout=0.25, dtype=dtype)
    for target in (tmp_path / "made", str(tmp_path), tmp_path / "one.safetensors", os.fsencode(tmp_path / "two")):
        save_gpt2(net, target)
        again = gpt2(target, dtype=dtype)
        np.testing.assert_array_equal(again.state, net.state)
        assert again.layers[3].attention.heads == HEADS
    found = safetensors.numpy.load_file(tmp_path / "made" / "model.safetensors")
    assert found.keys() == state.keys()
    for key, tensor in found.items():
        assert tensor.dtype == np.dtype(dtype)
        assert tensor.tobytes() == state[key].tobytes()
    with safetensors.safe_open(tmp_path / "made" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "n_head": "3"}  # transformers asks for "format"
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert sorted(os.listdir(tmp_path / "made")) == ["config.json", "model.safetensors"]
    sizes = {"vocab_size": 11, "n_positions": 7, "n_layer": 2, "n_head": 3, "n_embd": 6, "attn_pdrop": 0.25}
    formula = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    assert sizes.items() | formula.items() <= config.items()


def test_memory(tmp_path):
    """Parameters, and the gradient that every network has; the file only in parts, and no copy when it is written."""
    net = fastgd.models.gpt(40_000, 64, 2, 2, 256)
    size, largest = net.parameters.nbytes, net.views()["w1"].size
    tracemalloc.start()
    save_gpt2(net, tmp_path)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    again = gpt2(tmp_path)
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(again.state, net.state)
    assert written < 0.1 * size
    # Initial zeros of the largest array, in float64, of which none is written, whether they are finite, and two parts.
    assert read < 2 * size + 9 * largest + 2 * language.PART + 100_000


def changed(**changes):
    """The golden tensors with others; None removes one."""
    made = {**STATE, **{f"transformer.{key}": tensor for key, tensor in changes.items()}}
    return {key: tensor for key, tensor in made.items() if tensor is not None}


NAN = np.where(np.arange(6) == 3, np.nan, 1)
WRONG = {
    "missing": (lambda: changed(**{"h.1.mlp.c_fc.bias": None, "ln_f.bias": None}), None,
                "GPT-2 with Sizes.*layers=2.*missing: h.1.mlp.c_fc.bias, ln_f.bias$"),
    "unexpected": (lambda: changed(**{"h.0.attn.k.weight": NAN}), None, r"unexpected: h.0.attn.k.weight \(6,\)$"),
    "shape": (lambda: changed(**{"h.0.mlp.c_fc.weight": np.ones((24, 6))}), None,
              r"of another shape: h.0.mlp.c_fc.weight \(24, 6\), not \(6, 24\)$"),
    "all three": (lambda: changed(**{"ln_f.bias": None, "a": NAN, "wpe.bias": NAN, "ln_f.weight": NAN[:2]}), None,
                  r"missing: ln_f.bias; unexpected: a \(6,\), wpe.bias \(6,\); .*: ln_f.weight \(2,\), not \(6,\)$"),
    "a block is missing": (lambda: {k: v for k, v in STATE.items() if "h.0." not in k}, None,
                           "missing: h.0.ln_1.weight, .* and 6 more$"),
    "a far block": (lambda: changed(**{"h.99999999.x": NAN}), None, "unexpected: h.99999999.x"),
    "no embedding": (lambda: changed(**{"wte.weight": None}), None, "tensor 'wte.weight'"),
    "axes": (lambda: changed(**{"wpe.weight": NAN}), None, r"'wpe.weight' with 2 axes, got shape \(6,\)"),
    "output": (lambda: {**STATE, "lm_head.weight": STATE["lm_head.weight"] + 1}, None,
               "'lm_head.weight' equal to 'wte.weight'"),
    "shape of the output": (lambda: {**STATE, "lm_head.weight": NAN}, None, r"lm_head.weight \(6,\), not \(11, 6\)"),
    "twice": (lambda: {**STATE, "ln_f.bias": NAN}, None, "each name once"),
    "not finite": (lambda: changed(**{"ln_f.bias": NAN}), None, "'ln_f.bias' of numbers that are finite"),
    "too large": (lambda: changed(**{"ln_f.bias": 1e300 * np.ones(6)}), None, "'ln_f.bias'.*finite in float32"),
    "integers": (lambda: changed(**{"ln_f.bias": np.ones(6, np.int32)}), None, "tensors of F16.*got ln_f.bias I32"),
    "activation": (lambda: STATE, {"activation_function": "relu"}, "activation_function 'gelu_new' in config.json"),
    "eps": (lambda: STATE, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-05 in"),
    "vocabulary": (lambda: STATE, {"vocab_size": 12}, "vocab_size 11 in config.json, got 12"),
    "another model": (lambda: STATE, {"model_type": "llama"}, "model_type 'gpt2'.*'llama'"),
    "a list": (lambda: STATE, [1], "model_type 'gpt2'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(name, tmp_path):
    make, config, match = WRONG[name]
    write(tmp_path, make(), config)
    with pytest.raises((TypeError, ValueError), match=f"'path': expected.*{match}"):
        gpt2(tmp_path, heads=HEADS)


def test_files_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="a folder with model.safetensors, got .* without it$"):
        gpt2(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"without it, in several files \(shards\)"):
        gpt2(tmp_path)
    path = tmp_path / "model.safetensors"
    for content, match in ((b"PK\x03\x04" + bytes(99), "a zip archive"), (b"", "safetensors file"), (b"abc", "whole")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            gpt2(path)
    write(tmp_path, STATE)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="JSON in config.json"):
        gpt2(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="a whole safetensors file"):
        gpt2(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a regular file"):
        gpt2(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        gpt2(tmp_path / "none.safetensors")
    with pytest.raises(TypeError, match="'path'.*3"):
        gpt2(3)


LAYERS = {
    "mlp": lambda: fastgd.models.mlp(4, 2),
    "untied": lambda: like(-1, fastgd.Dense(11, use_bias=False)),
    "bias": lambda: like(-1, fastgd.Dense(11, tie="embedding")),
    "activation": lambda: like(3, fastgd.TransformerBlock(2, activation="gelu")),
    "hidden": lambda: like(3, fastgd.TransformerBlock(2, hidden=12)),
    "not causal": lambda: like(4, fastgd.TransformerBlock(2, causal=False)),
    "heads": lambda: like(4, fastgd.TransformerBlock(3)),
    "eps": lambda: like(-2, fastgd.LayerNorm(eps=1e-3)),
    "no dropout": lambda: like(2, fastgd.LayerNorm()),
}


def like(i, layer):
    """A GPT with another layer."""
    layers = list(fastgd.models.gpt(11, 7, 2, 2, 6).layers)
    layers[i] = layer
    return fastgd.Network(7, layers, loss="softmax_cross_entropy")


@pytest.mark.parametrize("name", LAYERS)
def test_other_networks_are_not_written(name, tmp_path):
    with pytest.raises(ValueError, match=r"'net': expected the layers of fastgd.models.gpt, got \["):
        save_gpt2(LAYERS[name](), tmp_path)
    assert not os.listdir(tmp_path)


def test_layers_that_are_the_same(tmp_path):
    """By other names, and after a file."""
    net = like(-1, fastgd.Dense(11, use_bias=False, tie="w1.T"))
    net.save(tmp_path / "net.safetensors")
    for one in (
        net,
        fastgd.load(tmp_path / "net.safetensors")[0],
        like(3, fastgd.TransformerBlock(2, 24, dropout=0.5)),
    ):
        save_gpt2(one, tmp_path / "gpt2")
        np.testing.assert_array_equal(gpt2(tmp_path / "gpt2").state, one.state)


def test_bad_arguments_to_save(tmp_path):
    net = fastgd.models.gpt(11, 7, 2, 2, 6)
    for arguments, error, match in (((3, tmp_path), TypeError, "'net'"), ((net, 3), TypeError, "'path'"),
                                    ((net, ""), ValueError, "'path'"),
                                    ((net, tmp_path / "a" / "b.safetensors"), FileNotFoundError, "folder that exists"),
                                    ):  # fmt: skip
        with pytest.raises(error, match=match):
            save_gpt2(*arguments)
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(FileExistsError):
        save_gpt2(net, tmp_path / "file.bin")


@pytest.mark.slow
def test_the_memory_of_a_step_of_gpt2():
    """Bytes that training of 124M takes, with 4 rows of 64 tokens."""
    network = fastgd.models.gpt(50257, 64, 12, 12, 768)
    assert network.n_parameters == 124_439_808 - (1024 - 64) * 768
    assert network.memory_estimate(4, fastgd.AdamW(1e-3))["total"] <= 2.6e9
    assert network.memory_estimate(4, fastgd.AdamW(1e-3, state_dtype="8bit"))["total"] <= 1.9e9


def test_damaged_files_name_the_argument(tmp_path):
    network = fastgd.models.gpt(7, 5, 1, 2, 8)
    fastgd.models.save_gpt2(network, tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    config.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"'path': expected JSON in config\.json"):
        fastgd.models.gpt2(tmp_path)
    config.unlink()
    assert next(one for one in fastgd.models.gpt2(tmp_path).layers if hasattr(one, "attention")).attention.heads == 2
    for note in (b'"-"', b'"x"'):
        weights.write_bytes(
            whole.replace(b'"n_head": "2"', b'"n_head": ' + note).replace(b'"n_head":"2"', b'"n_head":' + note)
        )
        with pytest.raises(ValueError, match="'path': expected a whole number as the note 'n_head'"):
            fastgd.models.gpt2(tmp_path)
