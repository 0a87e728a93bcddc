"""Networks as ONNX models (extra `onnx`), for onnxruntime and others. The models compute what `predict` does, in the
network's precision.

net.to_onnx("model.onnx")
session = onnxruntime.InferenceSession("model.onnx")
session.run(["prediction"], {"x": X})[0]  # as net.predict(X)

The input "x" is (rows, *input_shape), the output "prediction" (rows, *output_shape). A network with `preprocessing` has
an input (rows, 1) for each column of the table instead, under the column's name: numbers as float64, NaN if missing;
categories as text, "" if missing; with the preprocessing of images an input "images" of bytes. Its "prediction" (rows,)
is the result of `Preprocessing.decode`: numbers or classes. For classes there is also the output "probabilities" (rows,
n_out), or "scores" if the loss has no link; the metadata "classes" lists their order, as JSON. The vocabulary of a text
changes nothing: x are its tokens. Unlike fastgd, the model does not raise for numbers that are not finite.
"""

import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .core.choice import Choice
from .core.config import __version__
from .core.files import check_file, replace_file
from .core.kernel import Kernel
from .core.types import Path
from .errors import choose, value_error
from .tables import OUTPUTS
from .text import Vocabulary

if TYPE_CHECKING:
    from onnx import ModelProto

    from .network import Network

# Versions of ONNX 1.8 (November 2020), which onnxruntime reads since 1.6; nothing newer is needed.
OPSETS, IR_VERSION = {"": 13, "ai.onnx.ml": 2}, 7
# Protocol buffers are limited to 2 GiB; some bytes are left for everything but the parameters.
MOST_BYTES = 2**31 - 2**24


def onnx_modules() -> ModuleType:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("ONNX models need onnx: pip install 'fastgd[onnx]'") from error
    return onnx


def export(path: Path, network: "Network", *, unknown: str = "error") -> None:
    """Writes a network to `path` as an ONNX model, atomically, as `Network.save` does. unknown: for a category that was
    not in the table that the preprocessing was learnt from, "error" makes the model raise, "zeros" makes it treat the
    category as missing.

    Raises OSError if the file cannot be written, ValueError that names a part that ONNX does not have; a file that was
    at `path` is then unchanged."""
    path = check_file(path)
    data = model(network, unknown=unknown).SerializeToString()
    onnx_modules().checker.check_model(data, full_check=True)
    replace_file(path, (data,))


def model(network: "Network", *, unknown: str = "error") -> "ModelProto":
    """Returns a network as an onnx.ModelProto; see `export`."""
    onnx_modules()
    size = network.parameters.nbytes
    if size > MOST_BYTES:
        raise value_error("network", f"at most {MOST_BYTES:,} bytes of parameters, as ONNX files hold", f"{size:,}")
    graph, preprocessing = Graph(network, unknown), network.preprocessing
    if isinstance(preprocessing, Vocabulary):
        preprocessing = None  # the tokens are x
    if preprocessing is None:
        value = graph.input("x", network.dtype, *network.input_shape)
    else:
        value = preprocessing.onnx_encode(graph)
    value = network.body.onnx(graph, "", value)
    loss = network.loss_function
    value = graph.apply("loss", loss, loss.link, value)
    if preprocessing is None:
        graph.output("prediction", value, network.dtype, *network.output_shape)
        return graph.model()
    graph.output("prediction", *preprocessing.onnx_decode(graph, value))
    if "classes" in graph.metadata:
        name = "scores" if loss.link is None else "probabilities"
        graph.output(name, value, network.dtype, *network.output_shape)
    return graph.model()


class Graph:
    """An ONNX graph under construction: layers, kernels and columns add their nodes. Values are identified by name.

    network             whose graph it is
    dtype, parameters, statistics   of the network
    shapes              shape of a row of each layer's input, by the path of the layer
    unknown             as in `export`
    metadata            text by name"""

    metadata: dict[str, str]
    _inputs: list[Any]
    _outputs: list[Any]
    _constants: list[Any]
    _nodes: list[Any]
    _numbers: dict[str, int]

    def __init__(self, network: "Network", unknown: str = "error") -> None:
        choose("unknown", unknown, dict.fromkeys(("error", "zeros")))
        self.network, self.dtype, self.unknown, self.metadata = network, network.dtype, unknown, {}
        self.parameters, self.statistics = network.views(), network.statistics
        self.shapes = {path: shape for path, _, shape in network.body.leaves("", network.input_shape)}
        self._inputs, self._outputs, self._constants, self._nodes = [], [], [], []
        self._names, self._numbers = set(OUTPUTS), {}  # names in use; the last number appended to a name

    def input(self, name: str, dtype: "npt.DTypeLike", *shape: int, doc: str = "") -> str:
        """Adds an input (rows, *shape) with exactly this name. Inputs have to be added first."""
        if name in self._names or not name:
            expected = f"columns of different names, none of them {', '.join(map(repr, OUTPUTS))} or empty"
            raise value_error("preprocessing", expected, repr(name))
        self._names.add(name)
        self._inputs.append(_value_info(name, dtype, ("rows", *shape), doc))
        return name

    def output(self, name: str, value: str, dtype: "npt.DTypeLike", *shape: int) -> None:
        """Makes a value the output `name`, (rows, *shape)."""
        self._nodes.append(onnx_modules().helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(_value_info(name, dtype, ("rows", *shape)))

    def parameter(self, name: str) -> str:
        """Adds an array of the network's parameters ("w1", ...); returns the name of the value."""
        return self.constant(self.parameters[name], name)

    def constant(self, values: "npt.NDArray[Any] | float", name: str = "constant") -> str:
        """Adds a constant; returns the name of the value. values: an array (text as dtype object), or a float, which
        gets the network's dtype."""
        array = np.array(values, self.dtype) if isinstance(values, float) else values
        name = self._free(name)
        self._constants.append(onnx_modules().numpy_helper.from_array(array, name))
        return name

    def add(
        self,
        operator: str,
        *inputs: "str | npt.NDArray[Any] | float",
        domain: str = "",
        of: str | None = None,
        output: int = 0,
        **attributes: Any,
    ) -> str:
        """Adds a node; returns the name of its output. inputs: names of values, or arguments of `constant`. of: name
        that error messages of the node should mention. output: which of several outputs; the others are left out."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = self._free(f"{operator}_{len(self._nodes)}" if of is None else f"{operator} of {of}")
        helper = onnx_modules().helper
        outputs = [*[""] * output, name]
        self._nodes.append(helper.make_node(operator, names, outputs, name=name, domain=domain, **attributes))
        return name

    def scan(self, step: Callable[..., Sequence[str]], states: Sequence[str], sequence: str, *sizes: int) -> list[str]:
        """Adds a loop over the steps of a sequence (t, rows, n): states <- step(*states, sequence[i]), which adds the
        nodes of a step to the graph that it shares with all others. Returns the names of the last states, and of the
        first of them after each step, (t, rows, size). sizes: of the states, (rows, size), then n."""
        helper, outer = onnx_modules().helper, self._nodes
        self._nodes = []
        given = [self._free("before") for _ in sizes]
        made = step(*given)
        results = [self.add("Identity", name) for name in (*made, made[0])]
        inputs, outputs = (
            [_value_info(name, self.dtype, ("rows", n)) for name, n in zip(names, ns, strict=True)]
            for names, ns in ((given, sizes), (results, (*sizes[:-1], sizes[0])))
        )
        body = helper.make_graph(self._nodes, self._free("step"), inputs, outputs)
        self._nodes = outer
        names = [self._free("after") for _ in results]
        options = {"name": self._free("Scan"), "body": body, "num_scan_inputs": 1}
        self._nodes.append(helper.make_node("Scan", [*states, sequence], names, **options))
        return names

    def apply(self, argument: str, choice: Choice, kernel: Kernel | None, x: str) -> str:
        """Adds the nodes of the kernel of an activation or a loss (None: the identity); returns the name of the output.
        Raises ValueError if the kernel has no nodes."""
        if kernel is None:
            return x
        if kernel.onnx_function is None:
            expected = f"one with ONNX nodes (@fastgd.kernels.{kernel.name}.onnx defines them)"
            raise value_error(argument, expected, repr(choice))
        output: str = kernel.onnx_function(self, x, *(choice.parameters[name] for name in kernel.scalars))
        return output

    def most_probable(self, classes: "npt.NDArray[Any]", prediction: str) -> tuple[str, "npt.DTypeLike"]:
        """Adds nodes for the class with the largest prediction, and the metadata "classes"; returns the name of the
        classes (rows,), and their dtype. classes: (n_out,), text as dtype object."""
        self.metadata["classes"] = json.dumps(classes.tolist())
        return self.add("Gather", classes, self.add("ArgMax", prediction, axis=1, keepdims=0)), classes.dtype

    def cast(self, value: str, dtype: "npt.DTypeLike") -> str:
        return self.add("Cast", value, to=_element_type(dtype))

    def _free(self, name: str) -> str:
        free = name
        while free in self._names:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            free = f"{name}_{self._numbers[name]}"
        self._names.add(free)
        return free

    def model(self) -> "ModelProto":
        """Returns the graph as an onnx.ModelProto."""
        helper = onnx_modules().helper
        graph = helper.make_graph(self._nodes, "fastgd", self._inputs, self._outputs, self._constants)
        domains = sorted({"", *(node.domain for node in self._nodes)})
        opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in domains]
        made: ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastgd", producer_version=__version__
        )
        helper.set_model_props(made, self.metadata)
        return made


def _value_info(name, dtype, shape, doc=""):
    return onnx_modules().helper.make_tensor_value_info(name, _element_type(dtype), shape, doc)


def _element_type(dtype):
    """ONNX's code for a dtype; text has dtype object."""
    return onnx_modules().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
