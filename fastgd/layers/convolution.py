"""Conv2D: convolution of images, and its kernels.

The kernels work on blocks of 16 images (see engine/rows.py): x (blocks, h, w, c, 16), y (blocks, oh, ow, o, 16). The
weights (kh, kw, c / groups, o) are seen as a matrix (k, o), whose row (r width + t) channels + ch belongs to row r,
column t and channel ch of the window; width = kw, and channels = c / groups. The window of pixel (u, v) of y begins in
row u down - top and column v across - left of x, where `down` and `across` are the strides. Pixels beyond the border
are 0. Output n belongs to group n groups // o, which reads `channels` channels from group times channels on."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..activations import Activation
from ..core.kernel import In, Out, kernel
from ..core.types import Shape
from ..errors import check_integer, shown, type_error, value_error
from ..initializers import Initializer, pick_initializer
from .base import ActivatedLayer, ParameterSpec, layer
from .windows import check_padding, check_pair, onnx_windows, shown_pair, window, windows

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


def geometry(c, k, width, channels, down, across, top, left):
    """(taps, width, channels, groups, down, across, top, left) as integers. A width or stride below 1 counts as 1, a
    number of channels below 1 as all c. taps: rows of the matrix of weights / channels, rounded up."""
    each = min(int(channels), c) if channels >= 1 else c
    taps = (k + each - 1) // each
    return taps, max(1, int(width)), each, c // each, max(1, int(down)), max(1, int(across)), int(top), int(left)


def pixel(g, tap, u, v):
    """Row and column of the pixel of x, which may lie beyond the border, that this tap of the window of pixel (u, v) of
    y reads. g: as from `geometry`."""
    _, width, _, _, down, across, top, left = g
    return u * down + tap // width - top, v * across + tap % width - left


def _cost(blocks, oh, ow, o, images, k, **sizes):
    return 2 * blocks * oh * ow * o * images * k


def _parts(x, y, k, *options):
    """For each tap and group: (rows of the weights, their columns, pixels of x, pixels of y), as slices."""
    (_, h, w, c, _), (_, oh, ow, o, _) = x.shape, y.shape
    taps, width, channels, groups, down, across, top, left = geometry(c, k, *options)
    for tap in range(taps):
        r, t = divmod(tap, width)
        (u0, u1), (v0, v1) = window(r, down, top, h, oh), window(t, across, left, w, ow)
        if u0 == u1 or v0 == v1:
            continue
        i, j = u0 * down + r - top, v0 * across + t - left
        rows = slice(tap * channels, min(k, (tap + 1) * channels))
        for group in range(groups):
            columns = slice(-(-group * o // groups), -(-(group + 1) * o // groups))
            first = group * channels
            inputs = slice(first, first + rows.stop - rows.start)
            yield (
                rows, columns,
                (slice(None), slice(i, i + (u1 - u0 - 1) * down + 1, down),
                 slice(j, j + (v1 - v0 - 1) * across + 1, across), inputs),
                (slice(None), slice(u0, u1), slice(v0, v1), columns),
            )  # fmt: skip


@kernel(cost=_cost)
def conv2d_forward(
    y: Out("blocks", "oh", "ow", "o", "images"),
    x: In("blocks", "h", "w", "c", "images"),
    weights: In("k", "o"),
    bias: In("o"),
    width: float,
    channels: float,
    down: float,
    across: float,
    top: float,
    left: float,
    least: float,
):
    """y[u, v, n] <- max(least, bias[n] + sum over (r, t, ch) of x[down u + r - top, across v + t - left,
    channels g + ch] weights[(r width + t) channels + ch, n]), where g is the group of n. NaN stays NaN. least: -inf, or
    0 for relu. LeCun et al. 1989, doi:10.1162/neco.1989.1.4.541."""
    y[...] = bias[:, None]
    for rows, columns, at_x, at_y in _parts(x, y, len(weights), width, channels, down, across, top, left):
        y[at_y] += weights[rows, columns].T @ x[at_x]
    np.maximum(y, y.dtype.type(least), out=y)


def _loop_of_conv2d_forward(jit, dtype):
    geometry_of, pixel_of = jit(geometry), jit(pixel)

    def loop(y, x, weights, bias, width, channels, down, across, top, left, least):
        h, w, c = x.shape[1:4]
        k, o = weights.shape
        g = geometry_of(c, k, width, channels, down, across, top, left)
        taps, _, each, groups = g[:4]
        bound = y.dtype.type(least)
        for b in range(y.shape[0]):
            for u in range(y.shape[1]):
                for v in range(y.shape[2]):
                    for n in range(o):
                        first = n * groups // o * each
                        sums = y[b, u, v, n]
                        for i in range(sums.size):
                            sums[i] = bias[n]
                        for tap in range(taps):
                            p, q = pixel_of(g, tap, u, v)
                            if 0 <= p < h and 0 <= q < w:
                                for ch in range(min(each, k - tap * each)):
                                    factor, inputs = weights[tap * each + ch, n], x[b, p, q, first + ch]
                                    for i in range(sums.size):
                                        sums[i] += factor * inputs[i]
                        for i in range(sums.size):
                            if sums[i] < bound:
                                sums[i] = bound

    return loop


conv2d_forward.build_loop = _loop_of_conv2d_forward


@kernel(cost=_cost)
def conv2d_backward_input(
    dx: Out("blocks", "h", "w", "c", "images"),
    dy: In("blocks", "oh", "ow", "o", "images"),
    weights: In("k", "o"),
    width: float,
    channels: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """dx <- the gradient of x, where dy is the gradient of y in `conv2d_forward` without `least`."""
    dx[...] = 0
    for rows, columns, at_x, at_y in _parts(dx, dy, len(weights), width, channels, down, across, top, left):
        dx[at_x] += weights[rows, columns] @ dy[at_y]


def _loop_of_conv2d_backward_input(jit, dtype):
    geometry_of, pixel_of = jit(geometry), jit(pixel)

    def loop(dx, dy, weights, width, channels, down, across, top, left):
        h, w, c = dx.shape[1:4]
        k, o = weights.shape
        g = geometry_of(c, k, width, channels, down, across, top, left)
        taps, _, each, groups = g[:4]
        for b in range(dx.shape[0]):
            for i in range(h):
                for j in range(w):
                    for ch in range(c):
                        for lane in range(dx.shape[4]):
                            dx[b, i, j, ch, lane] = 0
            for u in range(dy.shape[1]):
                for v in range(dy.shape[2]):
                    for tap in range(taps):
                        p, q = pixel_of(g, tap, u, v)
                        if 0 <= p < h and 0 <= q < w:
                            for ch in range(min(each, k - tap * each)):
                                for n in range(o):
                                    factor = weights[tap * each + ch, n]
                                    sums, inputs = dx[b, p, q, n * groups // o * each + ch], dy[b, u, v, n]
                                    for i in range(sums.size):
                                        sums[i] += factor * inputs[i]

    return loop


conv2d_backward_input.build_loop = _loop_of_conv2d_backward_input


@kernel(cost=_cost)
def conv2d_backward_weights(
    dweights: Out("k", "o"),
    x: In("blocks", "h", "w", "c", "images"),
    dy: In("blocks", "oh", "ow", "o", "images"),
    width: float,
    channels: float,
    down: float,
    across: float,
    top: float,
    left: float,
):
    """dweights <- the gradient of the weights, summed over the pixels of all images, with a relative error near 1e-6
    for any number of them."""
    total = np.zeros(dweights.shape)
    for rows, columns, at_x, at_y in _parts(x, dy, len(dweights), width, channels, down, across, top, left):
        inputs, outputs = (np.ascontiguousarray(a[at].swapaxes(2, 3)) for a, at in ((x, at_x), (dy, at_y)))
        for block in range(len(x)):
            for p, q in zip(inputs[block], outputs[block], strict=True):  # each row of pixels
                total[rows, columns] += p.reshape(len(p), -1) @ q.reshape(len(q), -1).T
    dweights[...] = total


def _loop_of_conv2d_backward_weights(jit, dtype):
    geometry_of, pixel_of = jit(geometry), jit(pixel)

    def loop(dweights, x, dy, width, channels, down, across, top, left, begin, end):
        h, w, c, lanes = x.shape[1:]
        k, o = dweights.shape
        g = geometry_of(c, k, width, channels, down, across, top, left)
        _, _, each, groups, _, columns = g[:6]
        parts = np.empty(lanes, x.dtype)
        for row in range(begin, end):
            tap, ch = row // each, row % each
            for n in range(o):
                total, source = 0.0, n * groups // o * each + ch
                for b in range(x.shape[0]):
                    for u in range(dy.shape[1]):
                        p, first = pixel_of(g, tap, u, 0)
                        if not 0 <= p < h:
                            continue
                        parts[:] = 0
                        for v in range(dy.shape[2]):
                            q = first + v * columns
                            if 0 <= q < w:
                                for i in range(lanes):
                                    parts[i] += x[b, p, q, source, i] * dy[b, u, v, n, i]
                        for i in range(lanes):
                            total += parts[i]
                dweights[row, n] = total

    return loop


conv2d_backward_weights.build_loop = _loop_of_conv2d_backward_weights
conv2d_backward_weights.loop_gets_share = True


@kernel
def conv2d_backward_bias(dbias: Out("o"), dy: In("blocks", "pixels", "o", "images")):
    """dbias <- sum of dy over the pixels of all images, in float64."""
    dbias[...] = np.sum(dy, axis=(0, 1, 3), dtype=np.float64)


@conv2d_backward_bias.loop
def conv2d_backward_bias(dbias, dy):
    total = np.zeros(dbias.size)
    for b in range(dy.shape[0]):
        for p in range(dy.shape[1]):
            for n in range(dbias.size):
                for i in range(dy.shape[3]):
                    total[n] += dy[b, p, n, i]
    for n in range(dbias.size):
        dbias[n] = total[n]


@layer
class Conv2D(ActivatedLayer):
    """A convolution: y[u, v, n] = activation(b[n] + sum over the window's pixels and channels of x w), for x (h, w, c),
    y (oh, ow, filters), w (kh, kw, c / groups, filters), b (filters,). The windows are `strides` pixels apart; pixels
    beyond the border are 0. LeCun et al. 1989, doi:10.1162/neco.1989.1.4.541.

    filters: int >= 1, the number of output channels.
    kernel_size: the height and width of the window, an integer or a pair.
    activation: as in `Dense`.
    strides: an integer or a pair, >= 1.
    padding: "valid" (none: oh = (h - kh) / strides + 1, rounded down), "same" (oh = h / strides, rounded up), or the
        number of rows and columns of zeros at each border, an integer or a pair.
    groups: input and output channels are split into as many groups; each output group reads one input group. As many
        groups as channels make the convolution depthwise.
    use_bias: whether b is added.
    weight_init, bias_init: as in `Dense`; for the initializers fan_in is kh kw c / groups, fan_out kh kw filters.

    torch's weights are (filters, c / groups, kh, kw): `w.permute(2, 3, 1, 0)` brings them into this order.

    Raises TypeError or ValueError that names the argument.
    """

    in_blocks = True

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        activation: str | Activation = "identity",
        *,
        strides: int | tuple[int, int] = 1,
        padding: Literal["valid", "same"] | int | tuple[int, int] = "valid",
        groups: int = 1,
        use_bias: bool = True,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        bias_init: "str | Initializer | npt.NDArray[Any]" = "zeros",
    ) -> None:
        self.filters = check_integer("filters", filters, 1)
        self.kernel_size, self.strides = check_pair("kernel_size", kernel_size), check_pair("strides", strides)
        self.padding, self.groups = check_padding(padding, self.kernel_size), check_integer("groups", groups, 1)
        if self.filters % self.groups:
            raise value_error("groups", f"a divisor of filters = {filters}", groups)
        if not isinstance(use_bias, bool):
            raise type_error("use_bias", "True or False", shown(use_bias))
        self.use_bias = use_bias
        super().__init__(activation if activation is not None else "identity")
        self.weight_init = pick_initializer("weight_init", weight_init)
        self.bias_init = pick_initializer("bias_init", bias_init)

    def output_shape(self, shape: Shape) -> Shape:
        sizes, _ = windows(self, shape, self.kernel_size, self.strides, self.padding)
        if shape[-1] % self.groups:
            raise value_error("groups", f"a divisor of the {shape[-1]} channels of the input", self.groups)
        return (*sizes, self.filters)

    def parameters(self, shape: Shape) -> tuple[ParameterSpec, ...]:
        w_shape = (*self.kernel_size, shape[-1] // self.groups, self.filters)
        taps = self.kernel_size[0] * self.kernel_size[1]
        fans = taps * w_shape[2], taps * self.filters
        weights = ParameterSpec("w", w_shape, self.weight_init, is_weight=True, fans=fans)
        bias = ParameterSpec("b", (self.filters,), self.bias_init, is_weight=False, fans=fans)
        return (weights, bias) if self.use_bias else (weights,)

    def _geometry(self, shape):
        """The scalars of the kernels."""
        _, before = windows(self, shape, self.kernel_size, self.strides, self.padding)
        return self.kernel_size[1], shape[-1] // self.groups, *self.strides, *before

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        shape = plan.shape(x)
        z = self.row_buffer_of_z(plan, path, self.output_shape(shape), in_blocks=True)
        b = f"b{path}" if self.use_bias else plan.vector(f"zero{path}", np.zeros(self.filters))
        plan.add("forward", conv2d_forward, z, x, f"w{path}", b, *self._geometry(shape), self.least)
        if not self.is_relu:
            return self.activate(plan, path, z)
        plan.relu_outputs.add(z)
        return z

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        shape = plan.shape(x)
        dy = self.activate_backward(plan, path, dy)
        dx = plan.row_buffer(f"dx{path}", shape, in_blocks=True) if is_wanted else None
        if dx:
            plan.add("backward", conv2d_backward_input, dx, dy, f"w{path}", *self._geometry(shape))
        terms = plan.shape(dy)[0] * plan.shape(dy)[1]
        plan.add_gradient(conv2d_backward_weights, f"w{path}", x, dy, *self._geometry(shape), terms=terms)
        if self.use_bias:
            plan.add_gradient(conv2d_backward_bias, f"b{path}", dy, terms=terms)
        return dx

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        shape = graph.shapes[path]
        w = graph.parameters[f"w{path}"]
        if graph.dtype == np.float32:
            _, (top, left) = windows(self, shape, self.kernel_size, self.strides, self.padding)
            (oh, ow, _), (kh, kw), (down, across) = self.output_shape(shape), self.kernel_size, self.strides
            bottom, right = (oh - 1) * down + kh - top - shape[0], (ow - 1) * across + kw - left - shape[1]
            pads = [top, left, max(0, bottom), max(0, right)]
            first, weights = graph.add("Transpose", x, perm=[0, 3, 1, 2]), w.transpose(3, 2, 0, 1).copy()
            z = graph.add(
                "Conv", first, graph.constant(weights, f"w{path}"),
                strides=self.strides, pads=pads, group=self.groups,
            )  # fmt: skip
            z = graph.add("Transpose", z, perm=[0, 2, 3, 1])
        else:  # onnxruntime has Conv only in float32
            pieces = onnx_windows(graph, x, self, shape, self.kernel_size, 0.0)
            whole = np.zeros((*self.kernel_size, shape[-1], self.filters), w.dtype)
            inputs, outputs = w.shape[2], self.filters // self.groups
            for g in range(self.groups):
                columns = slice(g * outputs, (g + 1) * outputs)
                whole[:, :, g * inputs : (g + 1) * inputs, columns] = w[..., columns]
            z = graph.add("Sum", *(graph.add("MatMul", pixels, whole[r, t].copy()) for pixels, r, t in pieces))
        return self.activate_onnx(graph, graph.add("Add", z, graph.parameter(f"b{path}")) if self.use_bias else z)

    def config(self) -> dict[str, Any]:
        return {
            "layer": "Conv2D", "filters": self.filters, "kernel_size": self.kernel_size,
            "activation": self.activation.config(), "strides": self.strides, "padding": self.padding,
            "groups": self.groups, "use_bias": self.use_bias,
        }  # fmt: skip

    def __repr__(self) -> str:
        options = {"strides": shown_pair(self.strides), "padding": shown_pair(self.padding), "groups": self.groups}
        options |= {"use_bias": self.use_bias}
        usual = {"strides": 1, "padding": "valid", "groups": 1, "use_bias": True}
        shown_options = "".join(f", {name}={value!r}" for name, value in options.items() if value != usual[name])
        activation = "" if self.activation.forward is None else f", {self.activation!r}"
        return f"Conv2D({self.filters}, {shown_pair(self.kernel_size)}{activation}{shown_options})"
