"""Language models with GPT-2's architecture, and its weights in the layout of Hugging Face: `fastgd.models.gpt`,
`gpt2`, `save_gpt2`. Its matrices are (in, out), as they are here."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors import SafetensorError

from ..core.files import FOREIGN, as_path, check_file, replace_file
from ..core.types import Array, Path, Shape
from ..data.tensors import CODES
from ..errors import check_integer, shown, type_error, value_error
from ..initializers import Initializer, normal, zeros
from ..layers import Dense, Dropout, Embedding, Layer, LayerNorm, PositionalEmbedding, TransformerBlock
from ..network import Network

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
PREFIX = "transformer."  # of names in models with an output; the published files of GPT-2 have none
VECTORS, POSITIONS, OUTPUT = "wte.weight", "wpe.weight", "lm_head.weight"
DIGITS = re.compile("[0-9]{1,9}")  # a number of heads or layers
MASKS = ".attn.bias", ".attn.masked_bias"  # buffers that older versions of the library saved
COLUMNS_OF_HEAD = 64  # in all four sizes of GPT-2
# The arrays of a block by their names there: the name here, with the path within the block, and the shape in widths.
BLOCK: dict[str, tuple[str, tuple[int, ...]]] = {
    "ln_1.weight": ("gamma{}.1.1", (1,)), "ln_1.bias": ("beta{}.1.1", (1,)),
    "attn.c_attn.weight": ("w_qkv{}.1.2", (1, 3)), "attn.c_attn.bias": ("b_qkv{}.1.2", (3,)),
    "attn.c_proj.weight": ("w_out{}.1.2", (1, 1)), "attn.c_proj.bias": ("b_out{}.1.2", (1,)),
    "ln_2.weight": ("gamma{}.2.1", (1,)), "ln_2.bias": ("beta{}.2.1", (1,)),
    "mlp.c_fc.weight": ("w{}.2.2", (1, 4)), "mlp.c_fc.bias": ("b{}.2.2", (4,)),
    "mlp.c_proj.weight": ("w{}.2.3", (4, 1)), "mlp.c_proj.bias": ("b{}.2.3", (1,)),
}  # fmt: skip
PART = 2**22  # so many bytes of a tensor are read at a time
# Settings of a config.json that change the formula, with the values that `gpt` has, the usual one first.
FORMULA: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}


class Sizes(NamedTuple):
    """Sizes of a GPT-2: as the arguments of `gpt`, without heads, which no shape depends on."""

    vocabulary: int
    context: int
    layers: int
    width: int

    def shapes(self) -> dict[str, Shape]:
        """The shape of each tensor by its name in a file."""
        n = self.width
        of_block = {name: tuple(n * k for k in widths) for name, (_, widths) in BLOCK.items()}
        return {
            VECTORS: (self.vocabulary, n),
            POSITIONS: (self.context, n),
            **{f"h.{i}.{name}": shape for i in range(self.layers) for name, shape in of_block.items()},
            "ln_f.weight": (n,),
            "ln_f.bias": (n,),
        }

    def names(self) -> dict[str, str]:
        """The name in a network of `gpt` of each tensor by its name in a file."""
        first, last = 4, self.layers + 4  # behind Embedding, PositionalEmbedding, Dropout
        blocks = {
            f"h.{i}.{name}": ours.format(first + i) for i in range(self.layers) for name, (ours, _) in BLOCK.items()
        }
        return {VECTORS: "w1", POSITIONS: "p2", **blocks, "ln_f.weight": f"gamma{last}", "ln_f.bias": f"beta{last}"}


# ---- the network


def gpt(
    vocabulary: int, context: int, layers: int, heads: int, width: int, dropout: float = 0.0, **options: Any
) -> Network:
    """A language model with the architecture and the initial values of GPT-2: rows of `context` tokens, an output for
    each of `vocabulary` next tokens at every position. Token and position embeddings of `width` columns, so many
    `layers` of `TransformerBlock` with `heads` heads, LayerNorm, and an output that shares the matrix of the token
    embedding. GPT-2 (124M): gpt(50257, 1024, 12, 12, 768, dropout=0.1). Radford et al. 2019, "Language models are
    unsupervised multitask learners".

    Weights are initially N(0, 0.02^2), those in front of the 2 `layers` sums N(0, 0.02^2 / (2 layers)), biases 0. GPT-2
    was trained with weight decay on matrices alone: AdamW(weight_decay=0.1, decay_biases=False, clip_norm=1.0)."""
    check_integer("layers", layers, 1)
    check_integer("context", context, 1)
    if check_integer("width", width, 1) % check_integer("heads", heads, 1):
        raise value_error("heads", f"a divisor of width = {width}", heads)
    sizes, projection = Sizes(vocabulary, context, layers, width), normal(std=0.02 / (2 * layers) ** 0.5)
    return _network(sizes, _layers(sizes, heads, dropout, normal, projection), options)


def _layers(
    sizes: Sizes, heads: int, dropout: float, weights: Initializer = zeros, projection: Initializer = zeros
) -> list[Layer]:
    inits: dict[str, Any] = {"weight_init": weights, "projection_init": projection}
    blocks = [TransformerBlock(heads, dropout=dropout, **inits) for _ in range(sizes.layers)]
    embeddings = Embedding(sizes.vocabulary, sizes.width, weight_init=weights), PositionalEmbedding(weight_init=weights)
    output = Dense(sizes.vocabulary, use_bias=False, tie="embedding")
    return [*embeddings, Dropout(dropout), *blocks, LayerNorm(), output]


def _network(sizes: Sizes, layers: list[Layer], options: dict[str, Any]) -> Network:
    return Network(sizes.context, layers, **{"loss": "softmax_cross_entropy", **options})


# ---- reading


def gpt2(path: Path, *, context: int | None = None, heads: int | None = None, dropout: float = 0.0,
         **options: Any) -> Network:  # fmt: skip
    """The network of a GPT-2 in the layout of Hugging Face, `gpt` with these weights: of any size, as published (124M,
    355M, 774M, 1558M) or as `save_gpt2` wrote it.

        # a folder with model.safetensors, for texts of 128 tokens
        net = fastgd.models.gpt2("gpt2", context=128)

    path: a folder with model.safetensors and, if there is one, config.json; or a .safetensors file. The shapes give
        the sizes. Tensors of float32, float16, bfloat16 or float64, which are cast to the network's dtype; the names
        may begin with "transformer.". Buffers with the masks of attention are ignored. lm_head.weight may be there if
        it equals wte.weight.
    context: positions of a row, at most as many as in the file, whose first are used; None is all.
    heads: None is n_head of config.json, or what `save_gpt2` noted in the file, or else one for each 64 columns, as
        all published sizes have.
    dropout, options: as in `gpt`.

    Its tokens are those of GPT-2's tokenizer: `fastgd.text.Tokenizer.of(folder)`. The file is read straight into the
    network, tensor by tensor.

    Raises TypeError or ValueError that names the tensors that are missing, unexpected, of another shape or dtype, or
    not finite; or the settings of config.json that `gpt` does not have; OSError if a file cannot be read."""
    weights, config = _located(path)
    file = _File(weights)
    sizes = file.sizes()
    file.check(sizes)
    given = {"vocab_size": sizes.vocabulary, "n_positions": sizes.context, "n_layer": sizes.layers,
             "n_embd": sizes.width, "n_inner": 4 * sizes.width}  # fmt: skip
    for name, expected in (*((name, (value,)) for name, value in given.items()), *FORMULA.items()):
        if config.get(name) is not None and config[name] not in expected:
            raise value_error("path", f"{name} {shown(expected[0])} in {CONFIG}", shown(config[name]))
    heads = _heads(heads, config.get("n_head"), file.heads, sizes.width)
    if context is not None:
        check_integer("context", context, 1)
        if context > sizes.context:
            raise value_error("context", f"at most {sizes.context}, the positions of {weights!r}", context)
        sizes = sizes._replace(context=context)
    net = _network(sizes, _layers(sizes, heads, dropout), options)
    views = net.views()
    for theirs, ours in sizes.names().items():
        file.read(theirs, views[ours])
    file.check_output(views["w1"])
    return net


def _located(path):
    """The path of the weights, and the content of config.json or {}."""
    try:
        folder = os.fsdecode(path)
    except TypeError:
        folder = None
    if folder is None or not os.path.isdir(folder):
        return as_path(path), {}
    weights, config = os.path.join(folder, WEIGHTS), os.path.join(folder, CONFIG)
    if not os.path.exists(weights):
        got = f"{folder!r} without it" + (", in several files (shards)" if INDEX in os.listdir(folder) else "")
        raise value_error("path", f"a folder with {WEIGHTS}", got)
    if not os.path.exists(config):
        return weights, {}
    with open(config, "rb") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise value_error("path", f"JSON in {CONFIG}", f"{error}") from None
    if not isinstance(content, dict) or content.get("model_type", "gpt2") != "gpt2":
        got = shown(content.get("model_type")) if isinstance(content, dict) else shown(content)
        raise value_error("path", f"the model_type 'gpt2' in {CONFIG}", got)
    return weights, content


def _heads(given, of_config, of_file, width):
    """The number of heads."""
    if given is not None:
        return given
    if of_config is not None:
        return of_config
    if of_file is not None:
        return of_file
    if width % COLUMNS_OF_HEAD:
        expected = f"the number of heads, since {width} columns are no multiple of {COLUMNS_OF_HEAD}"
        raise value_error("heads", expected, None)
    return width // COLUMNS_OF_HEAD


class _File:
    """A safetensors file of a GPT-2.

    path     its path
    tensors  what its header says of each tensor, by name without the prefix; no masks
    heads    the number of heads that `save_gpt2` noted, or None"""

    def __init__(self, path):
        self.path = path
        if not os.path.isfile(path) and os.path.exists(path):  # open() of a pipe may wait for ever
            raise value_error("path", "a regular file, or a folder", f"{path!r}")
        with open(path, "rb") as file:
            start = file.read(8)
            try:
                with safetensors.safe_open(path, "numpy"):  # checks the header
                    pass
            except SafetensorError as error:
                got = next((format for magic, format in FOREIGN.items() if start.startswith(magic)), f"{error}")
                raise value_error("path", "a whole safetensors file", f"{path!r}: {got}") from None
            length = int.from_bytes(start, "little")
            header = json.loads(file.read(length))
        self._start = 8 + length
        noted = (header.pop("__metadata__", None) or {}).get("n_head")
        if noted is not None and not DIGITS.fullmatch(noted):
            raise value_error("path", "a whole number as the note 'n_head' of the file", shown(noted))
        self.heads = None if noted is None else int(noted)
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in header.items()}
        if len(tensors) < len(header):
            raise value_error("path", f"each name once, with or without {PREFIX!r}", f"{path!r} with both")
        self.tensors = {name: one for name, one in tensors.items() if not name.endswith(MASKS)}

    def sizes(self) -> Sizes:
        """The sizes that the shapes of the embeddings and the names of the blocks say."""
        shapes = {}
        for name in (VECTORS, POSITIONS):
            if name not in self.tensors:
                raise value_error("path", f"a GPT-2 with the tensor {name!r}", f"{self.path!r} without it")
            shapes[name] = self.tensors[name]["shape"]
            if len(shapes[name]) != 2 or 0 in shapes[name]:
                raise value_error("path", f"{name!r} with 2 axes", f"shape {tuple(shapes[name])}")
        numbers = [name.split(".")[1] for name in self.tensors if name.startswith("h.")]
        layers = 1 + max((int(number) for number in numbers if DIGITS.fullmatch(number)), default=0)
        layers = min(layers, len(self.tensors))  # of a name like h.999999.x
        return Sizes(shapes[VECTORS][0], shapes[POSITIONS][0], layers, shapes[VECTORS][1])

    def check(self, sizes: Sizes) -> None:
        """Raises TypeError or ValueError that names all tensors that do not belong to these sizes."""
        expected, found = sizes.shapes(), {name: tuple(one["shape"]) for name, one in self.tensors.items()}
        missing = [name for name in expected if name not in found]
        others = [f"{name} {found[name]}" for name in found if name not in expected and name != OUTPUT]
        expected[OUTPUT] = expected[VECTORS]
        wrong = [f"{name} {shape}, not {expected[name]}" for name, shape in found.items()
                 if shape != expected.get(name, shape)]  # fmt: skip
        parts = (("missing", missing), ("unexpected", others), ("of another shape", wrong))
        problems = [f"{what}: {_listed(names)}" for what, names in parts if names]
        if problems:
            raise value_error("path", f"the tensors of a GPT-2 with {sizes}", "; ".join(problems))
        known = [code for code in CODES if "F" in code]
        others = [f"{name} {one['dtype']}" for name, one in self.tensors.items() if one["dtype"] not in known]
        if others:
            raise type_error("path", f"tensors of {', '.join(known)}", _listed(others))

    def _parts(self, name: str) -> Iterator[Array]:
        """The elements of a tensor in order, in parts."""
        tensor = self.tensors[name]
        code, (begin, end) = CODES[tensor["dtype"]], tensor["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self._start + begin)
            while begin < end:
                data = file.read(min(PART, end - begin))
                begin += len(data)
                if not data:
                    raise value_error("path", "a whole safetensors file", f"{self.path!r}, which has changed")
                part: Array = np.frombuffer(data, code)
                yield (part.astype(np.uint32) << 16).view(np.float32) if tensor["dtype"] == "BF16" else part

    def read(self, name: str, array: Array) -> None:
        """Copies a tensor, or as much of it as there is room for, into an array."""
        flat, at = array.reshape(-1), 0
        with np.errstate(all="ignore"):
            for part in self._parts(name):
                flat[at : at + len(part)] = part[: len(flat) - at]
                at += len(part)
                if at >= len(flat):
                    break
        if not np.isfinite(flat).all():
            raise value_error("path", f"{name!r} of numbers that are finite in {array.dtype}", "others")

    def check_output(self, vectors: Array) -> None:
        """Raises ValueError if the output has a matrix of its own."""
        flat, at = vectors.reshape(-1), 0
        if OUTPUT not in self.tensors:
            return
        with np.errstate(all="ignore"):
            for part in self._parts(OUTPUT):
                if not np.array_equal(part.astype(flat.dtype), flat[at : at + len(part)]):
                    raise value_error("path", f"{OUTPUT!r} equal to {VECTORS!r}, which `gpt` shares", "others")
                at += len(part)


def _listed(names):
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


# ---- writing


def save_gpt2(net: Network, path: Path) -> None:
    """Writes the weights of a network of `gpt` in the layout of Hugging Face, with the names of GPT-2's published
    files; `gpt2` reads them again, as does `transformers.GPT2LMHeadModel.from_pretrained(folder)`.

    net: a network of `gpt` or `gpt2`, or of the same layers; its numbers are written in its dtype. Its vocabulary, the
        `preprocessing`, is not written.
    path: a file .safetensors; or else a folder, which is made if there is none, for model.safetensors and config.json.
        Existing files are replaced.

    Raises TypeError or ValueError that names the argument, and OSError if a file cannot be written."""
    if not isinstance(net, Network):
        raise type_error("net", "a fastgd.Network", shown(net))
    sizes, heads, dropout = _sizes_of(net)
    try:
        target = os.fsdecode(path)
    except TypeError:
        target = as_path(path)  # raises
    is_folder = bool(target) and (os.path.isdir(target) or not target.lower().endswith(".safetensors"))
    if is_folder:
        os.makedirs(target, exist_ok=True)
    weights = check_file(os.path.join(target, WEIGHTS) if is_folder else target)
    with net.executor.lock.reading():
        views = net.views()
        tensors = {theirs: views[ours] for theirs, ours in sizes.names().items()}
        replace_file(
            weights, (_header(tensors, heads), *(view.reshape(-1).view(np.uint8) for view in tensors.values()))
        )
    if is_folder:
        text = json.dumps(_config(sizes, heads, dropout, str(net.dtype)), indent=2) + "\n"
        replace_file(check_file(os.path.join(target, CONFIG)), (text.encode(),))


def _sizes_of(net):
    """The sizes, heads and dropout of a network; raises ValueError unless its layers are those of `gpt`."""
    expected = "the layers of fastgd.models.gpt"
    problem = value_error("net", expected, shown(list(net.layers)))
    if len(net.layers) < 6 or not isinstance(net.layers[0], Embedding):
        raise problem
    embedding, block = net.layers[0], net.layers[3]
    if not isinstance(block, TransformerBlock):
        raise problem
    sizes = Sizes(embedding.vocabulary, net.input_shape[0], len(net.layers) - 5, embedding.width)
    heads, dropout = block.attention.heads, block.attention.dropout
    twin = _layers(sizes, heads, dropout)
    for one, other in zip(net.layers, twin, strict=True):
        if _comparable(one, sizes.width) != _comparable(other, sizes.width):
            raise problem
    return sizes, heads, dropout


def _comparable(layer, width):
    """The configuration of a layer without what does not matter to its values in evaluation."""
    config = {name: value for name, value in layer.config().items() if name not in ("dropout", "rate")}
    if config.get("tie") == "w1.T":
        config["tie"] = "embedding"
    if "hidden" in config:
        config["hidden"] = config["hidden"] or 4 * width
    return config


def _header(tensors, heads):
    """The beginning of a safetensors file. transformers insists on the entry "format"."""
    content, at = {"__metadata__": {"format": "pt", "n_head": str(heads)}}, 0
    for name, array in tensors.items():
        code = f"F{8 * array.itemsize}"
        content[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _config(sizes, heads, dropout, dtype):
    """The content of config.json."""
    last = 50256 if sizes.vocabulary > 50256 else None  # <|endoftext|>
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": sizes.vocabulary,
        "n_positions": sizes.context, "n_ctx": sizes.context, "n_layer": sizes.layers, "n_head": heads,
        "n_embd": sizes.width, "n_inner": None, "embd_pdrop": dropout, "attn_pdrop": dropout, "resid_pdrop": dropout,
        **{name: values[0] for name, values in FORMULA.items()},
        "bos_token_id": last, "eos_token_id": last, "torch_dtype": dtype,
    }  # fmt: skip
