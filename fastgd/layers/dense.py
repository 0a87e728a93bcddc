"""Dense: the fully connected layer and its kernels."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..activations import Activation
from ..core.kernel import In, InOut, Out, kernel
from ..core.matrix_product import add_product, product_over_rows
from ..core.types import Shape
from ..errors import check_flag, check_integer, shown, type_error
from ..initializers import Initializer, pick_initializer
from .base import EMBEDDING, ActivatedLayer, ParameterSpec, layer

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..network import Network
    from ..onnx import Graph


def _cost_of_product(rows, n_in, n_out):
    return 2 * rows * n_in * n_out


@kernel(cost=_cost_of_product)
def dense_forward(y: Out("rows", "n_out"), x: In("rows", "n_in"), w: In("n_in", "n_out"), b: In("n_out")):
    """y <- x w + b."""
    np.matmul(x, w, out=y)
    y += b


@dense_forward.loop
def dense_forward(y, x, w, b):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = b[j]
    add_product(y, x, w)


@kernel(cost=_cost_of_product)
def dense_backward_input(dx: Out("rows", "n_in"), dy: In("rows", "n_out"), w: In("n_in", "n_out")):
    """dx <- dy w^T."""
    np.matmul(dy, w.T, out=dx)


@dense_backward_input.loop
def dense_backward_input(dx, dy, w):
    for i in range(dx.shape[0]):
        for j in range(dx.shape[1]):
            dx[i, j] = 0
    add_product(dx, dy, w.T)


@kernel(cost=_cost_of_product)
def dense_backward_weights(dw: Out("n_in", "n_out"), x: In("rows", "n_in"), dy: In("rows", "n_out")):
    """dw <- x^T dy, with a relative error below 1e-6 for any number of rows."""
    product_over_rows(dw, x.T, dy)


@dense_backward_weights.loop
def dense_backward_weights(dw, x, dy):
    product_over_rows(dw, x.T, dy)


@kernel
def dense_backward_bias(db: Out("n_out"), dy: In("rows", "n_out")):
    """db <- sum of dy over the rows, in float64, or in blocks of rows whose sums are added in float64, since a float32
    sum of many similar terms loses digits."""
    db[...] = np.sum(dy, axis=0, dtype=np.float64)  # not out=db, which numpy would use for partial sums


@dense_backward_bias.loop
def dense_backward_bias(db, dy):
    total = np.zeros(db.size)
    for i in range(dy.shape[0]):
        for j in range(db.size):
            total[j] += dy[i, j]
    for j in range(db.size):
        db[j] = total[j]


@kernel
def add_bias(y: InOut("rows", "n"), b: In("n")):
    """y <- y + b."""
    y += b


@add_bias.loop
def add_bias(y, b):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] += b[j]


@layer
class Dense(ActivatedLayer):
    """A fully connected layer: y = activation(x w + b), x (..., n_in), w (n_in, units), b (units,). On rows with
    several axes, such as sequences (T, n_in), it acts on each position independently.

    units: int >= 1, the number of outputs.
    activation: a name ("relu", "tanh", ...: `fastgd.activations.ACTIVATIONS`) or an `Activation`.
    use_bias: whether b is added.
    weight_init, bias_init: a name ("glorot_uniform", ...: `fastgd.initializers`), an `Initializer`, or an array of the
        shape of w or b. "torch" for both gives the initial values of torch.nn.Linear.
    tie: the name of another layer's weights that this layer shares: "w" and the layer's path from the network, such as
        "w1" or, within the third layer, "w3.2"; with ".T" their transpose. "embedding" is the transposed matrix of the
        network's `Embedding` (of several, the one with the fewest tokens), for the output of a language model. Their
        gradient is the sum over both layers. `weight_init` is then not used. Press & Wolf 2017, arXiv:1608.05859.

    Raises TypeError or ValueError that names the argument.
    """

    _internal = ActivatedLayer._internal | {"is_transposed", "name_of_weights", "tied_to"}

    is_causal = True

    def __init__(
        self,
        units: int,
        activation: str | Activation = "identity",
        *,
        use_bias: bool = True,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        bias_init: "str | Initializer | npt.NDArray[Any]" = "zeros",
        tie: str | None = None,
    ) -> None:
        self.units = check_integer("units", units, 1)
        super().__init__(activation)
        self.use_bias = check_flag("use_bias", use_bias)
        self.weight_init = pick_initializer("weight_init", weight_init)
        self.bias_init = pick_initializer("bias_init", bias_init)
        if tie is not None and not (isinstance(tie, str) and tie.removesuffix(".T")):
            raise type_error("tie", "the name of the weights of another layer, such as 'w1', or None", shown(tie))
        self.tie = tie
        self.tied_to = tie and tie.removesuffix(".T")
        self.is_transposed = tie == EMBEDDING or tie != self.tied_to

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.units)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        fans = shape[-1], self.units
        bias = ParameterSpec("b", (self.units,), self.bias_init, is_weight=False, fans=fans)
        weights = ParameterSpec("w", fans, self.weight_init, is_weight=True, fans=fans)
        return (*(() if self.tie else (weights,)), *((bias,) if self.use_bias else ()))

    def shared(self, shape: Shape) -> tuple[tuple[str, Shape], ...]:
        w_shape = shape[-1], self.units
        return ((self.tied_to, w_shape[::-1] if self.is_transposed else w_shape),) if self.tied_to else ()

    def name_of_weights(self, network: "Network", path: str) -> str:
        """The name of w among the parameters of a network in which this layer has the path."""
        if self.tie == EMBEDDING and network.token_vectors:
            return network.token_vectors
        return self.tied_to or f"w{path}"

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        w, b = self.name_of_weights(plan.network, path), f"b{path}"
        z = self.row_buffer_of_z(plan, path, self.output_shape(plan.shape(x)))
        if self.is_transposed:
            plan.add("forward", dense_backward_input, z, x, w)
            if self.use_bias:
                plan.add("forward", add_bias, z, b)
        else:
            b = b if self.use_bias else plan.vector(f"zero{path}", np.zeros(self.units))
            plan.add("forward", dense_forward, z, x, w, b)
        return self.activate(plan, path, z)

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        w, b = self.name_of_weights(plan.network, path), f"b{path}"
        dy = self.activate_backward(plan, path, dy)
        dx = plan.row_buffer(f"dx{path}", plan.shape(x)) if is_wanted else None
        if dx and self.is_transposed:
            zero = plan.vector(f"zero{path}", np.zeros(plan.shape(x)[-1]))
            plan.add("backward", dense_forward, dx, dy, w, zero)
        elif dx:
            plan.add("backward", dense_backward_input, dx, dy, w)
        plan.add_gradient(dense_backward_weights, w, *((dy, x) if self.is_transposed else (x, dy)))
        if self.use_bias:
            plan.add_gradient(dense_backward_bias, b, dy)
        if self.use_bias and not self.tie:
            plan.add_rank_one_update(b, w, x, dy)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        w = graph.parameter(self.name_of_weights(graph.network, path))
        # Not Gemm: onnxruntime before 1.19 cannot run it in float64 in front of an activation.
        product = graph.add("MatMul", x, graph.add("Transpose", w) if self.is_transposed else w)
        z = graph.add("Add", product, graph.parameter(f"b{path}")) if self.use_bias else product
        return self.activate_onnx(graph, z)

    def config(self) -> dict[str, Any]:
        config = {"layer": "Dense", "units": self.units, "activation": self.activation.config()}
        return config | ({} if self.use_bias else {"use_bias": False}) | ({"tie": self.tie} if self.tie else {})

    def __repr__(self) -> str:
        options = ("" if self.use_bias else ", use_bias=False") + (f", tie={self.tie!r}" if self.tie else "")
        return f"Dense({self.units}, {self.activation!r}{options})"
