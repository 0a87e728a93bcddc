"""Networks as ONNX models (extra `onnx`), for onnxruntime and others, which compute what `predict` does, in the
network's precision.

net.to_onnx("model.onnx")
session = onnxruntime.InferenceSession("model.onnx")
session.run(["prediction"], {"x": X})[0]  # as net.predict(X)

The input "x" is (rows, *input_shape), the output "prediction" (rows, *output_shape). A network with `preprocessing`
takes the columns of the table instead, each an input (rows, 1) of its name: numbers as float64, missing ones NaN;
categories as text, missing ones "". Its "prediction" (rows,) is what `Preprocessing.decode` gives: numbers or classes.
With classes comes "probabilities" (rows, n_out), or "scores" where the loss has no link; the metadata "classes" is
their order, as JSON. Where fastgd raises an error for numbers that are not finite, the model does not: they pass
through it.
"""

import numpy as np

from .core.config import __version__
from .errors import choose, value_error
from .tables import OUTPUTS
from .training.checkpoint import check_file, replace_file

# Those of ONNX 1.8 of November 2020, which onnxruntime reads since 1.6; nothing that is newer is needed.
OPSETS, IR_VERSION = {"": 13, "ai.onnx.ml": 2}, 7
# Protocol buffers end below 2 GiB; some is left for all but the parameters.
MOST_BYTES = 2**31 - 2**24


def onnx_modules():
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("ONNX models need onnx: pip install 'fastgd[onnx]'") from error
    return onnx


def export(path, network, *, unknown="error"):
    """Writes a network to `path` as an ONNX model, as durably as `Network.save` does. unknown: what a category gives
    that was not there when the preprocessing was learnt: "error", raised where the model runs, or "zeros".

    Raises OSError if the file cannot be written, ValueError that names what ONNX does not know: then what was at `path`
    is still there."""
    path = check_file(path)
    data = model(network, unknown=unknown).SerializeToString()
    onnx_modules().checker.check_model(data, full_check=True)
    replace_file(path, (data,))


def model(network, *, unknown="error"):
    """A network as an onnx.ModelProto; see `export`."""
    onnx_modules()
    size = network.parameters.nbytes
    if size > MOST_BYTES:
        raise value_error("network", f"at most {MOST_BYTES:,} bytes of parameters, as ONNX files hold", f"{size:,}")
    graph, preprocessing = Graph(network, unknown), network.preprocessing
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
    if preprocessing.target.classes is not None:
        name = "scores" if loss.link is None else "probabilities"
        graph.output(name, value, network.dtype, *network.output_shape)
    return graph.model()


class Graph:
    """A graph of ONNX that is being written down: layers, kernels and columns add their nodes. Values are told apart by
    name.

    dtype, statistics: the network's. shapes: of a row of each layer's input, by the layer's path. unknown: as in
    `export`. metadata: text by name."""

    def __init__(self, network, unknown="error"):
        choose("unknown", unknown, dict.fromkeys(("error", "zeros")))
        self.dtype, self.unknown, self.metadata = network.dtype, unknown, {}
        self._parameters, self.statistics = network.views(), network.statistics
        self.shapes = {path: shape for path, _, shape in network.body.leaves("", network.input_shape)}
        self._inputs, self._outputs, self._constants, self._nodes = [], [], [], []
        self._names, self._numbers = set(OUTPUTS), {}  # taken; how often one was asked for

    def input(self, name, dtype, *shape, doc=""):
        """An input (rows, *shape), under exactly this name: they come before all else."""
        if name in self._names or not name:
            expected = f"columns of different names, none of them {', '.join(map(repr, OUTPUTS))} or empty"
            raise value_error("preprocessing", expected, repr(name))
        self._names.add(name)
        self._inputs.append(_value_info(name, dtype, ("rows", *shape), doc))
        return name

    def output(self, name, value, dtype, *shape):
        """Makes a value the output of a name, (rows, *shape)."""
        self._nodes.append(onnx_modules().helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(_value_info(name, dtype, ("rows", *shape)))

    def parameter(self, name):
        """An array of the network's parameters: "w1", ..."""
        return self.constant(self._parameters[name], name)

    def constant(self, values, name="constant"):
        """An array, of texts as one of objects, as a value; a number is one of the network's dtype."""
        array = np.array(values, self.dtype) if isinstance(values, float) else values
        name = self._free(name)
        self._constants.append(onnx_modules().numpy_helper.from_array(array, name))
        return name

    def add(self, operator, *inputs, domain="", of=None, **attributes):
        """A node; returns the name of its output. Inputs are names of values, or what `constant` takes; of: what
        errors of the node shall name."""
        inputs = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = self._free(f"{operator}_{len(self._nodes)}" if of is None else f"{operator} of {of}")
        helper = onnx_modules().helper
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def apply(self, argument, choice, kernel, x):
        """Nodes of the kernel of an activation or a loss, None for the identity. Raises ValueError if it has none."""
        if kernel is None:
            return x
        if kernel.onnx_function is None:
            expected = f"one that ONNX knows (@fastgd.kernels.{kernel.name}.onnx makes a function its nodes)"
            raise value_error(argument, expected, repr(choice))
        return kernel.onnx_function(self, x, *(choice.parameters[name] for name in kernel.scalars))

    def cast(self, value, dtype):
        return self.add("Cast", value, to=_element_type(dtype))

    def _free(self, name):
        free = name
        while free in self._names:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            free = f"{name}_{self._numbers[name]}"
        self._names.add(free)
        return free

    def model(self):
        """What has been written down, as an onnx.ModelProto."""
        helper = onnx_modules().helper
        graph = helper.make_graph(self._nodes, "fastgd", self._inputs, self._outputs, self._constants)
        domains = sorted({"", *(node.domain for node in self._nodes)})
        opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in domains]
        made = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastgd", producer_version=__version__
        )
        helper.set_model_props(made, self.metadata)
        return made


def _value_info(name, dtype, shape, doc=""):
    return onnx_modules().helper.make_tensor_value_info(name, _element_type(dtype), shape, doc)


def _element_type(dtype):
    """The code that ONNX has for a dtype; texts are objects."""
    return onnx_modules().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
