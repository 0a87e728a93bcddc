"""Loss functions: value and gradient of each row in one pass, and the table by name.

Every loss kernel takes the raw outputs z of the network, the targets y and a weight for each row, and writes
`loss[i] = weight[i] * l(z[i], y[i])` and `dz = d(sum of loss) / dz`. With weight 1/n the sum is the mean over the
batch. An invalid target (a label out of range, a negative probability) gives NaN, which stops the step. Sums over the
outputs are in float64, or in blocks whose sums are added in float64, since a float32 sum of many similar terms loses
digits.

Over 400 lines: one kernel after the other, each with its loop.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import sigmoid_forward, sigmoid_of
from .core.choice import POSITIVE, SHARE, Choice
from .core.domains import MASS_TOLERANCE, sum_to_one
from .core.kernel import In, Kernel, Out, kernel
from .core.types import Array, Shape
from .errors import value_error
from .metrics import METRICS, Metric

# Metrics of values, and those of classes that need no threshold.
OF_VALUES, BY_RANK = ("mae", "mse", "rmse", "r2"), ("auc", "average_precision")
# The least length of a vector by which a cosine is divided.
SHORTEST = 1e-8

__all__ = [
    "Loss", "binary_cross_entropy", "cosine_similarity", "gaussian_nll", "hinge", "huber", "kl_divergence", "mae",
    "mse", "poisson", "softmax_cross_entropy",
]  # fmt: skip


def _row_sums(x: Array) -> npt.NDArray[np.float64]:
    """The sum of each row, in float64."""
    sums: npt.NDArray[np.float64] = x.sum(axis=1, dtype=np.float64)
    return sums


@kernel
def mse_loss(loss: Out("rows"), dz: Out("rows", "k"), z: In("rows", "k"), y: In("rows", "k"), weight: In("rows")):
    """Mean squared error: l = mean over the k outputs of (z - y)^2, as torch's MSELoss."""
    d = z - y
    scale = weight / z.shape[1]
    np.copyto(loss, scale * _row_sums(d * d))
    np.multiply(d, 2 * scale[:, None], out=dz)


@mse_loss.loop
def mse_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        for j in range(k):
            d = z[i, j] - y[i, j]
            total += d * d
            dz[i, j] = (scale + scale) * d
        loss[i] = scale * total


@kernel
def mae_loss(loss: Out("rows"), dz: Out("rows", "k"), z: In("rows", "k"), y: In("rows", "k"), weight: In("rows")):
    """Mean absolute error: l = mean over the k outputs of |z - y|, gradient 0 at 0, as torch's L1Loss."""
    d = z - y
    scale = weight / z.shape[1]
    np.copyto(loss, scale * _row_sums(np.abs(d)))
    np.multiply(np.sign(d), scale[:, None], out=dz)


@mae_loss.loop
def mae_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        for j in range(k):
            d = z[i, j] - y[i, j]
            total += abs(d)
            dz[i, j] = scale if d > 0 else (-scale if d < 0 else d * scale)
        loss[i] = scale * total


@kernel
def huber_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k"),
    weight: In("rows"),
    delta: float,
):
    """Huber loss: mean over the k outputs of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = z - y.
    As torch's HuberLoss. Huber 1964, doi:10.1214/aoms/1177703732."""
    d = z - y
    size = np.abs(d)
    scale = weight / z.shape[1]
    value = np.where(size > delta, delta * (size - delta / 2), d * d / 2)
    np.copyto(loss, scale * _row_sums(value))
    np.multiply(np.clip(d, -delta, delta), scale[:, None], out=dz)


@huber_loss.loop
def huber_loss(loss, dz, z, y, weight, delta):
    k = z.shape[1]
    delta = loss.dtype.type(delta)
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        for j in range(k):
            d = z[i, j] - y[i, j]
            if abs(d) > delta:
                total += delta * (abs(d) - delta / 2)
                dz[i, j] = scale * delta if d > 0 else -scale * delta
            else:
                total += d * d / 2
                dz[i, j] = scale * d
        loss[i] = scale * total


def log_softmax(z: Array) -> Array:
    """log(softmax(z)): each row of z minus the logarithm of the sum of its exponentials."""
    shifted = z - z.max(axis=1, keepdims=True)
    logarithms: Array = shifted - np.log(_row_sums(np.exp(shifted))).astype(z.dtype)[:, None]
    return logarithms


@kernel
def softmax_cross_entropy_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k", domain="probabilities"),
    weight: In("rows"),
    label_smoothing: float,
):
    """Cross-entropy of softmax(z) and rows of probabilities: l = -sum_j t_j log softmax(z)_j,
    t = (1 - label_smoothing) y + label_smoothing / k, as torch's CrossEntropyLoss."""
    log_p = log_softmax(z)
    t = (1 - label_smoothing) * y + label_smoothing / z.shape[1]
    valid = (y >= 0).all(axis=1) & sum_to_one(y)
    np.copyto(loss, np.where(valid, -weight * _row_sums(t * log_p), np.nan))
    np.multiply(np.exp(log_p) - t, weight[:, None], out=dz)


@softmax_cross_entropy_loss.loop
def softmax_cross_entropy_loss(loss, dz, z, y, weight, label_smoothing):
    k = z.shape[1]
    keep, base = loss.dtype.type(1 - label_smoothing), loss.dtype.type(label_smoothing / k)
    for i in range(z.shape[0]):
        top = z[i].max()
        total, mass, value = 0.0, 0.0, 0.0
        for j in range(k):
            dz[i, j] = np.exp(z[i, j] - top)
            total += dz[i, j]
        total = loss.dtype.type(total)
        log_total = np.log(total)
        valid = True
        for j in range(k):
            valid = valid and y[i, j] >= 0
            mass += y[i, j]
            t = keep * y[i, j] + base
            value += t * (log_total - (z[i, j] - top))
            dz[i, j] = weight[i] * (dz[i, j] / total - t)
        valid = valid and abs(mass - 1) <= MASS_TOLERANCE
        loss[i] = weight[i] * value if valid else np.nan


@kernel(in_place=("dz", "z"))
def softmax_cross_entropy_labels_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", dtype="int64", domain="labels", below="k"),
    weight: In("rows"),
    label_smoothing: float,
):
    """Cross-entropy of softmax(z) and integer labels: `softmax_cross_entropy_loss` with one-hot rows. dz may be z."""
    k = z.shape[1]
    valid = (y >= 0) & (y < k)
    t = np.full_like(z, label_smoothing / k)
    t[np.arange(len(y))[valid], y[valid]] += 1 - label_smoothing
    log_p = log_softmax(z)
    np.copyto(loss, np.where(valid, -weight * _row_sums(t * log_p), np.nan))
    np.multiply(np.exp(log_p) - t, weight[:, None], out=dz)


@softmax_cross_entropy_labels_loss.loop
def softmax_cross_entropy_labels_loss(loss, dz, z, y, weight, label_smoothing):
    k = z.shape[1]
    keep, base = loss.dtype.type(1 - label_smoothing), loss.dtype.type(label_smoothing / k)
    for i in range(z.shape[0]):
        top = z[i].max()
        chosen = z[i, y[i]] - top if 0 <= y[i] < k else top  # before dz, which may be z, is written
        total, shifted = 0.0, 0.0
        for j in range(k):
            apart = z[i, j] - top
            shifted += apart
            dz[i, j] = np.exp(apart)
            total += dz[i, j]
        total = loss.dtype.type(total)
        log_total = np.log(total)
        for j in range(k):
            dz[i, j] = weight[i] * (dz[i, j] / total - base)
        if 0 <= y[i] < k:
            dz[i, y[i]] -= weight[i] * keep
            # The sum over j of log(total) - shifted_j is k log(total) - shifted, which may overflow.
            rest = base * shifted if base > 0 else 0.0
            loss[i] = weight[i] * (log_total - keep * chosen - rest)
        else:
            loss[i] = np.nan


@kernel
def binary_cross_entropy_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k", domain="unit"),
    weight: In("rows"),
):
    """Binary cross-entropy on logits: mean over the k outputs of log(1 + exp(z)) - z y, as torch's
    BCEWithLogitsLoss."""
    scale = weight / z.shape[1]
    valid = ((y >= 0) & (y <= 1)).all(axis=1)
    # max(z, 0) - z y first: if both terms are z, they cancel exactly.
    value = (np.maximum(z, 0) - z * y) + np.log1p(np.exp(-np.abs(z)))
    np.copyto(loss, np.where(valid, scale * _row_sums(value), np.nan))
    np.multiply(sigmoid_of(z) - y, scale[:, None], out=dz)


@binary_cross_entropy_loss.loop
def binary_cross_entropy_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        valid = True
        for j in range(k):
            v = z[i, j]
            e = np.exp(-abs(v))
            valid = valid and 0 <= y[i, j] <= 1
            total += ((0 if v < 0 else v) - v * y[i, j]) + np.log1p(e)
            dz[i, j] = scale * ((1 / (1 + e) if v >= 0 else e / (1 + e)) - y[i, j])
        loss[i] = scale * total if valid else np.nan


@kernel
def poisson_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k", domain="nonnegative"),
    weight: In("rows"),
):
    """Half the Poisson deviance of the rate exp(z): mean over the k outputs of exp(z) - y z + y log y - y. The first
    two terms are torch's PoissonNLLLoss; the others make it 0 at exp(z) = y. Nelder & Wedderburn 1972,
    doi:10.2307/2344614."""
    scale = weight / z.shape[1]
    rate = np.exp(z)
    value = (rate - y) + y * (np.log(np.where(y > 0, y, 1)) - z)
    valid = (y >= 0).all(axis=1)
    np.copyto(loss, np.where(valid, scale * _row_sums(value), np.nan))
    np.multiply(rate - y, scale[:, None], out=dz)


@poisson_loss.loop
def poisson_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        valid = True
        for j in range(k):
            v = y[i, j]
            d = np.exp(z[i, j]) - v
            valid = valid and v >= 0
            total += d + v * (np.log(v if v > 0 else loss.dtype.type(1)) - z[i, j])
            dz[i, j] = scale * d
        loss[i] = scale * total if valid else np.nan


@kernel
def gaussian_nll_loss(
    loss: Out("rows"),
    dz: Out("rows", "two", "k"),
    z: In("rows", "two", "k"),
    y: In("rows", "k"),
    weight: In("rows"),
):
    """Negative log-likelihood of k normal distributions, without the constant log(2 pi) / 2: mean over the k targets of
    (s + (y - m)^2 exp(-s)) / 2, where z has the means m, then the logarithms s of the variances. As torch's
    GaussianNLLLoss with var = exp(s). Nix & Weigend 1994, doi:10.1109/ICNN.1994.374138."""
    mean, log_variance = z[:, 0], z[:, 1]
    d, precision = mean - y, np.exp(-log_variance)
    scale = weight / y.shape[1]
    np.copyto(loss, scale * _row_sums((log_variance + d * d * precision) / 2))
    np.multiply(d * precision, scale[:, None], out=dz[:, 0])
    np.multiply((1 - d * d * precision) / 2, scale[:, None], out=dz[:, 1])


@gaussian_nll_loss.loop
def gaussian_nll_loss(loss, dz, z, y, weight):
    k = y.shape[1]
    for i in range(y.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        for j in range(k):
            d, s = z[i, 0, j] - y[i, j], z[i, 1, j]
            precision = np.exp(-s)
            total += (s + d * d * precision) / 2
            dz[i, 0, j] = scale * (d * precision)
            dz[i, 1, j] = scale * ((1 - d * d * precision) / 2)
        loss[i] = scale * total


@kernel
def hinge_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k", domain="signs"),
    weight: In("rows"),
):
    """Hinge loss of yes-or-no outputs, y = 1 or -1: mean over the k outputs of max(0, 1 - y z), gradient 0 at y z = 1.
    Cortes & Vapnik 1995, doi:10.1007/BF00994018."""
    margin = 1 - y * z
    scale = weight / z.shape[1]
    valid = (np.abs(y) == 1).all(axis=1)
    np.copyto(loss, np.where(valid, scale * _row_sums(np.maximum(margin, 0)), np.nan))
    np.multiply(np.where(margin > 0, -y, np.where(margin <= 0, 0, margin)), scale[:, None], out=dz)


@hinge_loss.loop
def hinge_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        total = 0.0
        scale = weight[i] / loss.dtype.type(k)
        valid = True
        for j in range(k):
            v = y[i, j]
            margin = 1 - v * z[i, j]
            valid = valid and abs(v) == 1
            total += 0 if margin < 0 else margin
            dz[i, j] = scale * (-v if margin > 0 else (0 if margin <= 0 else margin))
        loss[i] = scale * total if valid else np.nan


@kernel
def kl_divergence_loss(
    loss: Out("rows"),
    dz: Out("rows", "k"),
    z: In("rows", "k"),
    y: In("rows", "k", domain="probabilities"),
    weight: In("rows"),
):
    """Kullback-Leibler divergence of softmax(z) from rows of probabilities y: l = sum_j y_j (log y_j - log
    softmax(z)_j), with 0 log 0 = 0, as torch's KLDivLoss(reduction="batchmean") of log_softmax(z). It is the
    cross-entropy less the entropy of y, so 0 where softmax(z) = y. Kullback & Leibler 1951,
    doi:10.1214/aoms/1177729694."""
    log_p = log_softmax(z)
    valid = (y >= 0).all(axis=1) & sum_to_one(y)
    value = y * (np.log(np.where(y > 0, y, 1)) - log_p)
    np.copyto(loss, np.where(valid, weight * _row_sums(value), np.nan))
    np.multiply(np.exp(log_p) - y, weight[:, None], out=dz)


@kl_divergence_loss.loop
def kl_divergence_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        top = z[i].max()
        total, mass, value = 0.0, 0.0, 0.0
        for j in range(k):
            dz[i, j] = np.exp(z[i, j] - top)
            total += dz[i, j]
        total = loss.dtype.type(total)
        log_total = np.log(total)
        valid = True
        for j in range(k):
            v = y[i, j]
            valid = valid and v >= 0
            mass += v
            value += v * (np.log(v if v > 0 else loss.dtype.type(1)) + (log_total - (z[i, j] - top)))
            dz[i, j] = weight[i] * (dz[i, j] / total - v)
        valid = valid and abs(mass - 1) <= MASS_TOLERANCE
        loss[i] = weight[i] * value if valid else np.nan


@kernel
def cosine_similarity_loss(
    loss: Out("rows"), dz: Out("rows", "k"), z: In("rows", "k"), y: In("rows", "k"), weight: In("rows")
):
    """1 - cosine of the angle between z and y: l = 1 - z.y / (max(|z|, eps) max(|y|, eps)), eps = 1e-8, with Euclidean
    lengths, as 1 - torch's cosine_similarity. Lengths do not matter, so `predict` gives directions only: from 0 where
    they agree to 2 where they are opposite."""
    z64, y64 = z.astype(np.float64), y.astype(np.float64)
    along = (z64 * y64).sum(axis=1)
    lengths = np.sqrt((z64 * z64).sum(axis=1)), np.sqrt((y64 * y64).sum(axis=1))
    length, other = (np.maximum(each, SHORTEST) for each in lengths)
    np.copyto(loss, weight * (1 - along / (length * other)))
    along = np.where(lengths[0] > SHORTEST, along, 0) / (length * other) / (length * length)
    np.copyto(dz, weight[:, None] * (along[:, None] * z - y / (length * other)[:, None]))


@cosine_similarity_loss.loop
def cosine_similarity_loss(loss, dz, z, y, weight):
    k = z.shape[1]
    for i in range(z.shape[0]):
        zz, yy, zy = 0.0, 0.0, 0.0
        for j in range(k):
            zz += np.float64(z[i, j]) * z[i, j]
            yy += np.float64(y[i, j]) * y[i, j]
            zy += np.float64(z[i, j]) * y[i, j]
        length, other = np.sqrt(zz), np.sqrt(yy)
        along = zy if length > SHORTEST else 0.0
        length, other = max(length, SHORTEST), max(other, SHORTEST)
        along = along / (length * other) / (length * length)
        for j in range(k):
            dz[i, j] = weight[i] * (along * z[i, j] - y[i, j] / (length * other))
        loss[i] = weight[i] * (1 - zy / (length * other))


@kernel(elementwise=True)
def exp_forward(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- exp(x)."""
    np.exp(x, out=y)


@exp_forward.loop
def exp_forward(y, x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = np.exp(x[i, j])


@exp_forward.onnx
def exp_forward(graph, x):
    return graph.add("Exp", x)


@kernel
def softmax_forward(p: Out("rows", "k"), z: In("rows", "k")):
    """p <- exp(z) / sum of exp(z), for each row."""
    np.exp(log_softmax(z), out=p)


@softmax_forward.loop
def softmax_forward(p, z):
    k = z.shape[1]
    for i in range(z.shape[0]):
        top = z[i].max()
        total = 0.0
        for j in range(k):
            p[i, j] = np.exp(z[i, j] - top)
            total += p[i, j]
        total = p.dtype.type(total)
        for j in range(k):
            p[i, j] /= total


@softmax_forward.onnx
def softmax_forward(graph, x):
    return graph.add("Softmax", x, axis=-1)


# Rows for which predictions are computed at a time.
PREDICTION_ROWS = 256


@dataclasses.dataclass(frozen=True, repr=False)
class Loss(Choice):
    """A loss function.

    kernels: the first one whose targets accept y is used. The parameters are the scalars of every kernel, in order.
    link: turns raw outputs into predictions; None leaves them unchanged.
    least_outputs: fewer outputs make no sense.
    outputs_per_target: if above 1, the kernels see outputs (rows, outputs_per_target, k) and targets (rows, k).
    n_targets: the number of columns of the targets, if the number of outputs does not decide it."""

    _internal = Choice._internal | {
        "adapted", "check_outputs", "kernels", "least_outputs", "link", "n_targets", "outputs_per_target",
        "predictions", "target_shape"
    }  # fmt: skip

    kernels: tuple[Kernel, ...]
    link: Kernel | None = None
    least_outputs: int = 1
    outputs_per_target: int = 1
    n_targets: int | None = None

    @property
    def takes_labels(self) -> bool:
        """Whether targets may be the integer class of each row."""
        return self.kernels[0].arrays["y"].domain == "labels"

    def target_shape(self, output_shape: Shape) -> Shape:
        """The shape of a row of targets that are values, for the shape of a row of outputs."""
        *positions, outputs = output_shape
        return (*positions, outputs // self.outputs_per_target if self.n_targets is None else self.n_targets)

    def check_outputs(self, n_outputs: int) -> None:
        """Raises ValueError unless a network may have so many outputs."""
        if n_outputs < self.least_outputs:
            hint = " (or binary_cross_entropy)" if self.takes_labels else ""
            expected = f"at least {self.least_outputs} outputs for {self.name}{hint}"
            raise value_error("layers", expected, f"{n_outputs} output{'s' if n_outputs > 1 else ''}")
        if n_outputs % self.outputs_per_target:
            expected = f"{self.outputs_per_target} outputs for each target of {self.name}"
            raise value_error("layers", expected, f"{n_outputs} output{'s' if n_outputs > 1 else ''}")

    __hash__ = Choice.__hash__

    def adapted(self, metric: Metric) -> Metric:
        """A metric as it is computed of the predictions of this loss. Where a target has several outputs, as in
        gaussian_nll, those of values are of the first ones, the means; where targets are 1 and -1, as in hinge, those
        of classes go by the signs of targets and outputs."""
        if METRICS.get(metric.name, metric).function is not metric.function:
            return metric
        given: Any = metric.function
        if self.outputs_per_target > 1 and metric.name in OF_VALUES:

            def function(y, prediction, weight, **parameters):
                return given(y, prediction[..., : y.shape[-1]], weight, **parameters)

        elif self.kernels[0].arrays["y"].domain == "signs" and metric.name not in OF_VALUES:

            def function(y, prediction, weight, **parameters):
                prediction = prediction if metric.name in BY_RANK else (prediction > 0).astype(prediction.dtype)
                return given((y > 0).astype(np.float64), prediction, weight, **parameters)

        else:
            return metric
        function.adapts = given  # type: ignore[attr-defined]
        return dataclasses.replace(metric, function=function)

    def predictions(self, outputs: Array, backend: str) -> Array:
        """Predictions for raw outputs (..., k): applies the link in place, with the body for a backend."""
        if self.link is not None:
            name, flat = self.link.choose_body(backend), outputs.reshape(-1, outputs.shape[-1])
            body = self.link if name == "cython" else self.link.body(name)  # calling the kernel itself is faster
            for start in range(0, len(flat), PREDICTION_ROWS):
                block = flat[start : start + PREDICTION_ROWS]
                body(block, block.copy())
        return outputs


mse = Loss("mse", (mse_loss,))
mae = Loss("mae", (mae_loss,))
huber = Loss("huber", (huber_loss,), parameters={"delta": 1.0}, ranges={"delta": POSITIVE})
softmax_cross_entropy = Loss(
    "softmax_cross_entropy",
    (softmax_cross_entropy_labels_loss, softmax_cross_entropy_loss),
    softmax_forward,
    least_outputs=2,
    parameters={"label_smoothing": 0.0},
    ranges={"label_smoothing": SHARE},
)
binary_cross_entropy = Loss("binary_cross_entropy", (binary_cross_entropy_loss,), sigmoid_forward)
poisson = Loss("poisson", (poisson_loss,), exp_forward)
gaussian_nll = Loss("gaussian_nll", (gaussian_nll_loss,), least_outputs=2, outputs_per_target=2)
hinge = Loss("hinge", (hinge_loss,))
kl_divergence = Loss("kl_divergence", (kl_divergence_loss,), softmax_forward, least_outputs=2)
cosine_similarity = Loss("cosine_similarity", (cosine_similarity_loss,), least_outputs=2)

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        mse, mae, huber, softmax_cross_entropy, binary_cross_entropy, poisson, gaussian_nll, hinge, kl_divergence,
        cosine_similarity,
    )
}  # fmt: skip
