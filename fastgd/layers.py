"""Layers: shapes, initial values, and the kernels of the forward and backward pass."""

import numpy as np

from .data import check_mapping
from .errors import check_integer, shown, type_error, value_error
from .initializers import pick_initializer
from .kernel import In, InOut, Out, kernel
from .layer import ActivatedLayer, Layer, layer
from .samples import as_array, moments, scale_of


def add_product(c, a, b):
    """c <- c + a b, the rows of c contiguous. Compiled loops get that of jit_gemm.py."""
    c += a @ b


# Terms of a sum over rows that are added up one after the other in float32: where they are alike, the sum is right to
# 8e-7. Such sums are added up by themselves, and those of so many rows in float64. (src_cython/simd.h has the first,
# too; gemm.pxi has one more level between them.)
SUM_TERMS, SUM_ROWS = 48, 8 * 48


def product_over_rows(c, a, b):
    """c <- a b, where b may have millions of rows. Compiled loops get that of jit_gemm.py."""
    total = None
    for start in range(0, len(b), SUM_ROWS):
        c.fill(0)
        for p in range(start, min(start + SUM_ROWS, len(b)), SUM_TERMS):
            c += a[:, p : p + SUM_TERMS] @ b[p : p + SUM_TERMS]
        if len(b) > SUM_ROWS:
            total = c.astype(np.float64) if total is None else total + c
    if total is not None:
        c[...] = total


@kernel
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


@kernel
def dense_backward_input(dx: Out("rows", "n_in"), dy: In("rows", "n_out"), w: In("n_in", "n_out")):
    """dx <- dy w^T."""
    np.matmul(dy, w.T, out=dx)


@dense_backward_input.loop
def dense_backward_input(dx, dy, w):
    for i in range(dx.shape[0]):
        for j in range(dx.shape[1]):
            dx[i, j] = 0
    add_product(dx, dy, w.T)


@kernel
def dense_backward_weights(dw: Out("n_in", "n_out"), x: In("rows", "n_in"), dy: In("rows", "n_out")):
    """dw <- x^T dy, right to 1e-6 for any number of rows."""
    product_over_rows(dw, x.T, dy)


@dense_backward_weights.loop
def dense_backward_weights(dw, x, dy):
    product_over_rows(dw, x.T, dy)


@kernel
def dense_backward_bias(db: Out("n_out"), dy: In("rows", "n_out")):
    """db <- sum of dy over the rows, in float64, or in blocks of rows whose sums are added in float64: a float32 sum of
    many like terms loses digits."""
    db[...] = np.sum(dy, axis=0, dtype=np.float64)  # not out=db, in which numpy would keep its partial sums


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


@kernel
def standardize_forward(y: Out("rows", "n"), x: In("rows", "n"), shift: In("n"), scale: In("n")):
    """y <- (x - shift) scale."""
    np.subtract(x, shift, out=y)
    y *= scale


@standardize_forward.loop
def standardize_forward(y, x, shift, scale):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (x[i, j] - shift[j]) * scale[j]


@kernel
def standardize_backward(dx: Out("rows", "n"), dy: In("rows", "n"), scale: In("n")):
    """dx <- dy scale."""
    np.multiply(dy, scale, out=dx)


@standardize_backward.loop
def standardize_backward(dx, dy, scale):
    for i in range(dx.shape[0]):
        for j in range(dx.shape[1]):
            dx[i, j] = dy[i, j] * scale[j]


def _cost_of_product(rows, n_in, n_out):
    return 2 * rows * n_in * n_out


dense_forward.cost = dense_backward_input.cost = dense_backward_weights.cost = _cost_of_product


@layer
class Dense(ActivatedLayer):
    """A fully connected layer: y = activation(x w + b), x (..., n_in), w (n_in, units), b (units,). On rows of several
    axes, such as sequences (T, n_in), it works at each position by itself.

    units: int >= 1, the number of outputs.
    activation: a name ("relu", "tanh", ...: `fastgd.activations.ACTIVATIONS`) or an `Activation`.
    weight_init, bias_init: a name ("glorot_uniform", ...: `fastgd.initializers`), an `Initializer`, or an array of the
        shape of w or b. "torch" for both is what torch.nn.Linear begins with.
    tie: the name of another layer's weights, "w1", which serve this layer, too, instead of weights of its own; "w1.T"
        is their transpose. Their gradient is the sum of both layers'. Press & Wolf 2017, arXiv:1608.05859.

    Raises TypeError or ValueError that names the argument.
    """

    def __init__(self, units, activation="identity", *, weight_init="glorot_uniform", bias_init="zeros", tie=None):
        self.units = check_integer("units", units, 1)
        super().__init__(activation)
        self.weight_init = pick_initializer("weight_init", weight_init)
        self.bias_init = pick_initializer("bias_init", bias_init)
        if not isinstance(tie, str | None):
            raise type_error("tie", "the name of the weights of another layer, such as 'w1', or None", shown(tie))
        self.tie = tie
        self.tied_to = tie and tie.removesuffix(".T")
        self.is_transposed = tie is not None and tie != self.tied_to

    def output_shape(self, shape):
        return (*shape[:-1], self.units)

    def parameters(self, shape):
        fans = shape[-1], self.units
        bias = ("b", (self.units,), self.bias_init, False, fans)
        return (bias,) if self.tie else (("w", fans, self.weight_init, True, fans), bias)

    def shared(self, shape):
        of_w = shape[-1], self.units
        return ((self.tied_to, of_w[::-1] if self.is_transposed else of_w),) if self.tie else ()

    def forward(self, plan, path, x):
        w, b = self.tied_to or f"w{path}", f"b{path}"
        z = self.row_buffer_of_z(plan, path, self.output_shape(plan.shape(x)))
        if self.is_transposed:
            plan.add("forward", dense_backward_input, z, x, w)
            plan.add("forward", add_bias, z, b)
        else:
            plan.add("forward", dense_forward, z, x, w, b)
        return self.activate(plan, path, z)

    def backward(self, plan, path, x, dy, is_wanted):
        w, b = self.tied_to or f"w{path}", f"b{path}"
        self.activate_backward(plan, path, dy)
        dx = plan.row_buffer(f"dx{path}", plan.shape(x)) if is_wanted else None
        if dx and self.is_transposed:
            zero = plan.vector(f"zero{path}", np.zeros(plan.shape(x)[-1]))
            plan.add("backward", dense_forward, dx, dy, w, zero)
        elif dx:
            plan.add("backward", dense_backward_input, dx, dy, w)
        plan.add_gradient(dense_backward_weights, w, *((dy, x) if self.is_transposed else (x, dy)))
        plan.add_gradient(dense_backward_bias, b, dy)
        if not self.tie:
            plan.add_rank_one_update(b, w, x, dy)
        return dx

    def onnx(self, graph, path, x):
        w = graph.parameter(self.tied_to or f"w{path}")
        # Gemm is both in one, but before 1.19 onnxruntime cannot run it in float64 in front of an activation.
        product = graph.add("MatMul", x, graph.add("Transpose", w) if self.is_transposed else w)
        return self.activate_onnx(graph, graph.add("Add", product, graph.parameter(f"b{path}")))

    def config(self):
        config = {"layer": "Dense", "units": self.units, "activation": self.activation.config()}
        return config | ({"tie": self.tie} if self.tie else {})

    def __repr__(self):
        return f"Dense({self.units}, {self.activation!r}{f', tie={self.tie!r}' if self.tie else ''})"


# How far from its value a standardised feature may be by the rounding of the data.
COARSEST = 0.01


@layer
class Standardize(Layer):
    """A layer that shifts and scales each feature, the last axis of its input: y = (x - shift) scale. It has no
    parameters; what it holds is saved with the network. `Standardize(scale=1 / 255)` brings bytes to [0, 1];
    `Standardize.of(X)` brings each feature to mean 0 and variance 1.

    shift, scale: a number each, or one for each feature. Data is cast to the network's dtype before: a network refuses
    a layer whose features would lose more than 1 % of a standard deviation by that, as time stamps do in float32.

    Raises TypeError or ValueError that names the argument.
    """

    def __init__(self, shift=0.0, scale=1.0):
        self.shift, self.scale = _numbers("shift", shift), _numbers("scale", scale)

    @classmethod
    def of(cls, X):
        """From the mean and the variance (divided by the rows) of each column of X (..., n_features), of any real
        dtype and layout, in one pass over blocks of rows. A constant column becomes 0, whatever comes later."""
        X = as_array("X", X)
        mean, variance = moments("X", X)
        return cls(mean, scale_of(mean, variance, X.size // X.shape[-1], otherwise=0.0))

    def output_shape(self, shape):
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if values.shape not in ((), shape[-1:]):
                raise value_error(name, f"a number, or one for each of {shape[-1]} features", shown(values))
        return shape

    def check_dtype(self, dtype):
        limits = np.finfo(dtype)
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if np.abs(values).max() > limits.max:
                raise value_error(name, f"numbers that are finite in {dtype}", shown(values[()]))
        # What a feature keeps of its last digits, where it is about the shift, after the scale.
        left = np.abs(self.shift) * np.abs(self.scale) * limits.eps
        if left.max() > COARSEST:
            feature = f"feature {int(np.argmax(left))}: " if left.ndim else ""
            ratio = f"{left.max() / limits.eps:.3g}"
            expected = f"features that {dtype} can tell apart (|shift| scale <= {COARSEST / limits.eps:.3g})"
            hint = "; use dtype='float64'" if dtype == np.float32 else ""
            raise value_error("shift", expected, f"{feature}{ratio}{hint}, or subtract a constant from X before")

    def forward(self, plan, path, x):
        y = plan.row_buffer(f"a{path}", plan.shape(x))
        constants = [
            plan.vector(f"{name}{path}", np.broadcast_to(values, plan.shape(x)[-1]))
            for name, values in (("shift", self.shift), ("scale", self.scale))
        ]
        plan.add("forward", standardize_forward, y, x, *constants)
        return y

    def backward(self, plan, path, x, dy, is_wanted):
        if not is_wanted:
            return None
        dx = plan.row_buffer(f"dx{path}", plan.shape(x))
        plan.add("backward", standardize_backward, dx, dy, f"scale{path}")
        return dx

    def onnx(self, graph, path, x):
        shift, scale = (values.astype(graph.dtype) for values in (self.shift, self.scale))
        return graph.add("Mul", graph.add("Sub", x, shift), scale)

    def config(self):
        return {"layer": "Standardize", "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    def __repr__(self):
        return f"Standardize(shift={shown(self.shift[()])}, scale={shown(self.scale[()])})"


def _numbers(name, values):
    """A number, or a list of them, as an array of float64."""
    array = np.asarray(values)
    check_mapping(array)
    if array.ndim > 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all() or not array.size:
        raise value_error(name, "a finite number, or one for each feature", shown(values))
    return array.astype(np.float64)


__all__ = ["Dense", "Standardize"]
