"""The network: flat buffers, views of them, and the plan that walks them.

Over 400 lines: it is the public face, and each of its methods is short."""

import contextlib
import math

import numpy as np

from ._plan import BAD_GRADIENT, BAD_LOSS, FAULT, HIGH_PEAK, TOLD_TO_STOP, Turn, Use
from .buffers import aligned_zeros
from .choice import pick
from .containers import Sequential, check_layers
from .data import check_mapping, leave_pages
from .errors import DivergenceError, check_flag, check_integer, check_number, choose, shown, type_error, value_error
from .kernel import BACKENDS, DTYPES
from .layer import check_shape, parameter_specs, statistic_specs
from .losses import LOSSES, Loss
from .metrics import check_metrics
from .optimizer import check_optimizer
from .optimizers import Adam
from .plan import Plan
from .samples import check_rows, check_samples, check_targets, check_values, check_weights
from .schedules import Schedule
from .steps import Steps
from .tables import Preprocessing
from .threads import check_threads
from .training import fit

# Rows that forward, predict and loss send through the network at a time: bounds the workspace they need.
BLOCK_ROWS = 256
# How long training runs natively before Python looks for signals.
SLICE_SECONDS = 0.05
# For how many steps to come the values of hyper-parameters are worked out, at most, for steps called one at a time.
MAX_QUICK_STEPS = 4096


class Network:
    """A feed-forward network and everything needed to train it.

    input_shape: int, columns of the input, or a tuple, the shape of a row: (T, C) for sequences, (height, width,
        channels) for images.
    layers: list of layers, e.g. [Dense(64, "relu"), Dense(10)], or of containers of layers, nested to any depth
        (`Sequential`, `Residual`, `Concatenate`). The last gives raw outputs: the link (softmax, ...) is in the loss.
        Where outputs have more than one axis, (T, k), the loss is the mean over their positions, too.
    loss: a name ("mse", "softmax_cross_entropy", ...: `fastgd.losses.LOSSES`) or a `Loss`.
    l1, l2: penalty l1 sum |w| + (l2 / 2) sum w^2 on the weights, not the biases; part of the loss.
    dtype: "float32" or "float64".
    seed: int, of the initial values and of the shuffling in `fit`.
    backend: "cython", "numba" or "numpy"; "auto" is "cython".
    num_threads: int >= 1, or None for FASTGD_NUM_THREADS, OMP_NUM_THREADS or as many as there are cores to run on.
        Small steps use fewer, and so do all while other processes want the cores. The results do not depend on it, bit
        for bit.

    `parameters` and `gradient` are flat arrays: all weights, layer by layer, then all biases. Their names are those of
    the arrays with the path of the layer: "w1" of the first layer, "w3.2" of the second layer in the third.
    `statistics` has by name what training keeps besides (the running means of BatchNorm). `train_step` and `fit` work
    as layers do in training (Dropout drops, BatchNorm takes the minibatch's mean), all else as they do in evaluation.
    `epochs` counts the passes over data that `fit` has made, `minibatches` the steps of training, whoever made them;
    `history` is the `History` of the last `fit`, however it ended, or of the run in the file it was loaded from, or
    None. `preprocessing` may be set to what makes rows of numbers of a table (`fastgd.tables`): it is saved with the
    network. Arrays of the network's dtype that are C-contiguous and aligned are used where they lie, others are cast.
    """

    def __init__(
        self, input_shape, layers, *, loss, l1=0.0, l2=0.0, dtype="float32", seed=0, backend="auto", num_threads=None
    ):
        self.input_shape = check_shape("input_shape", input_shape)
        self.body = Sequential(check_layers("layers", layers))
        if not layers:
            raise value_error("layers", "at least one layer", "[]")
        self.loss_function = pick("loss", loss, LOSSES, Loss)
        self.l1, self.l2 = check_number("l1", l1, 0.0), check_number("l2", l2, 0.0)
        self.dtype = choose("dtype", _dtype_name(dtype), DTYPES)
        self.seed = check_integer("seed", seed, 0)
        self.backend = choose("backend", backend, {name: name for name in BACKENDS})
        if self.backend == "auto":
            self.backend = "cython"
        self.num_threads = check_threads(num_threads)
        self.output_shape = self.body.output_shape(self.input_shape)
        self._check_layers()
        self._make_buffers()
        self.epochs, self.history, self._preprocessing = 0, None, None
        self.counter = np.zeros(1, np.int64)  # of minibatches, on which the native runner counts
        self._quick_step = _not_ready
        self._last_loss, self._last_rate = None, None  # of the last step; the rate not if it was a quick one
        self._totals = None  # of the steps that are being run
        self._drop_plan()
        self._turn = Turn("network")

    @property
    def layers(self):
        """The layers, as a tuple."""
        return self.body.layers

    def _check_layers(self):
        """Raises unless the layers suit each other, the dtype and the loss."""
        leaves = list(self.body.leaves("", self.input_shape))
        if not any(leaf.parameters(shape) for _, leaf, shape in leaves):
            raise value_error("layers", "a layer that has parameters", shown(list(self.layers)))
        shapes = {spec.name: spec.shape for spec in parameter_specs(self.body, self.input_shape)}
        for _, leaf, shape in leaves:
            leaf.check_dtype(self.dtype)
            for name, wanted in leaf.shared(shape):
                if shapes.get(name) != wanted:
                    got = f"{name!r} of shape {shapes[name]}" if name in shapes else repr(name)
                    raise value_error("tie", f"the name of parameters of shape {wanted}, for {leaf!r}", got)
        # Raw outputs and the loss's link must be what was meant.
        loss, last = self.loss_function, leaves[-1][1]
        activation = getattr(last, "activation", None)
        if loss.kernels[0].arrays["y"].domain == "labels" and self.output_shape[-1] == 1:
            raise value_error("layers", f"at least 2 outputs for {loss.name} (or binary_cross_entropy)", "1 output")
        if loss.link is not None and getattr(activation, "forward", None) is loss.link:
            expected = f"a last layer of raw outputs: {loss.name} applies {activation.name} itself"
            raise value_error("layers", expected, repr(last))

    def _make_buffers(self):
        """The flat buffers and the initial values."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        specs = parameter_specs(self.body, self.input_shape)
        self._shapes = {spec.name: spec.shape for spec in specs}
        self.n_parameters = sum(math.prod(shape) for shape in self._shapes.values())
        self.n_weights = sum(math.prod(spec.shape) for spec in specs if spec.is_weight)
        kept = statistic_specs(self.body, self.input_shape)
        self._statistics = {name: shape for name, shape, _ in kept}
        n_kept = self.n_parameters + sum(math.prod(shape) for shape in self._statistics.values())
        _, (self._learnt, self._gradient) = aligned_zeros([n_kept, self.n_parameters], self.dtype, eighth=0)
        self._parameters = self._learnt[: self.n_parameters]
        for name, _, initial in kept:
            self.statistics[name][...] = initial
        views = self.views()
        for name, shape, initializer, _, fans in specs:
            values = initializer.values(rng, shape, fans, **initializer.parameters)
            with np.errstate(all="ignore"):
                views[name][...] = values
            if not np.isfinite(views[name]).all():
                raise value_error(
                    f"initial values of {name}", f"numbers that are finite in {self.dtype}", shown(values)
                )

    @property
    def parameters(self):
        """Flat, writable view of all parameters."""
        return self._parameters

    @property
    def learnt(self):
        """Flat, writable view of all that training changes: the parameters, then the statistics."""
        return self._learnt

    @property
    def statistics(self):
        """What training keeps besides the parameters, by name, as views: of BatchNorm "mean2", "variance2", ..."""
        return _cut(self._learnt[self.n_parameters :], self._statistics)

    @property
    def minibatches(self):
        """Minibatches that the network has been trained on, by whichever optimizer. `Dropout` draws its masks by it."""
        return int(self.counter[0])

    @property
    def gradient(self):
        """Flat array with the gradient of the last training step that did not diverge, or of `loss_and_gradient`."""
        return self._gradient

    @property
    def preprocessing(self):
        """What makes rows of numbers of a table, or None."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing):
        if not isinstance(preprocessing, Preprocessing | None):
            raise type_error("preprocessing", "a fastgd.tables.Preprocessing or None", shown(preprocessing))
        if preprocessing is not None:
            expected, made = (self.input_shape, self.output_shape), (preprocessing.n_features, preprocessing.n_outputs)
            if made != tuple(shape[0] if len(shape) == 1 else shape for shape in expected):
                text = "{} features and {} outputs"
                expected = (shape[0] if len(shape) == 1 else shape for shape in expected)
                raise value_error("preprocessing", text.format(*expected), text.format(*made))
        self._preprocessing = preprocessing

    def like(self, **changes):
        """A new network of the same layers and options but for `changes`, arguments of the constructor: with initial
        values, and nothing of what this one has learnt. (Layers that come from a file have the usual initializers.)"""
        options = {
            "input_shape": self.input_shape, "layers": self.layers, "loss": self.loss_function, "l1": self.l1,
            "l2": self.l2, "dtype": str(self.dtype), "seed": self.seed, "backend": self.backend,
            "num_threads": self.num_threads,
        }  # fmt: skip
        return Network(**{**options, **changes})

    def views(self, flat=None):
        """The parts of the parameters by name, "w1", "b1", ..., as views; or those of another flat array."""
        flat = self._parameters if flat is None else flat
        if not isinstance(flat, np.ndarray) or flat.shape != (self.n_parameters,):
            raise value_error("flat", f"a flat array of {self.n_parameters} elements", shown(flat))
        return _cut(flat, self._shapes)

    # ---- running

    def _drop_plan(self):
        self._plan, self._evaluation_plan, self._quick_steps = None, None, 16
        self._drop_quick_step()

    def _drop_quick_step(self):
        self._last_loss, self._quick_step = self._loss_before(), _not_ready

    def _loss_before(self):
        """The loss of the last training step, or None."""
        return getattr(self._quick_step, "last_loss", self._last_loss)

    def _plan_for(self, rows, loss_kernel=None, name="_plan"):
        """The plan for training, or that for evaluation: made anew when it is too small, for other targets, left half
        set by an interrupted call, or when a function written by a user is not what was compiled."""
        if self._turn.disturbed:
            self._drop_plan()
            self._turn.disturbed = False
        plan = getattr(self, name)
        kernel = loss_kernel or (plan.loss_kernel if plan else self.loss_function.kernels[0])
        if plan is None or plan.capacity < rows or plan.loss_kernel is not kernel or not plan.is_current():
            if name == "_plan":
                self._drop_quick_step()
            plan = Plan(self, max(rows, plan.capacity if plan else 0), kernel, training=name == "_plan")
            setattr(self, name, plan)
        return plan

    @np.errstate(all="ignore")
    def _minibatch(self, x, y, loss_kernel, weight=None, *, plan_name="_evaluation_plan"):
        """A plan, set to these checked arrays: in place if they can be used where they lie, else by a cast."""
        plan = self._plan_for(len(x), loss_kernel, plan_name)
        y = None if y is None else _usable(y, plan.own["y"].dtype)
        weight = None if weight is None else _usable(weight / plan.losses_in(len(x)), self.dtype)
        plan.set_minibatch(_usable(x, self.dtype), y, weight)
        return plan

    def forward(self, x):
        """Raw outputs (rows, *output_shape) for x (rows, *input_shape).

        Raises TypeError or ValueError if x is not real numbers, finite, of rows of that shape.
        """
        x = check_rows("x", x, self.input_shape)
        result = np.empty((len(x), *self.output_shape), self.dtype)
        with self._turn.use(Use.EVALUATE):
            for start in range(0, len(x), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                check_mapping(x)
                plan = self._minibatch(x[rows], None, None)
                plan.run("forward")
                self._check_inputs(plan, x)
                leave_pages(x)
                result[rows] = plan.buffers[plan.output][: plan.rows]
        return result

    def predict(self, x):
        """Outputs after the loss's link: probabilities for cross-entropy, values otherwise; (rows, *output_shape)."""
        return self._linked(self.forward(x))

    def _linked(self, outputs):
        """Predictions from raw outputs, in their place."""
        link = self.loss_function.link
        if link is not None:
            body = link.body(link.choose_body(self.backend))
            flat = outputs.reshape(-1, outputs.shape[-1])
            for start in range(0, len(flat), BLOCK_ROWS):
                block = flat[start : start + BLOCK_ROWS]
                body(block, block.copy())
        return outputs

    def loss(self, x, y, *, sample_weight=None):
        """Mean loss over the rows and the positions in them, with the penalty. x: (rows, *input_shape); y: integer
        labels (rows, *output_shape[:-1]) for softmax_cross_entropy, else (rows, *output_shape), for one output also
        without the last axis. sample_weight: numbers >= 0 for a weighted mean, (rows,) or one for each label.

        Raises TypeError or ValueError naming the argument.
        """
        samples = self._checked(x, y, sample_weight)
        with self._turn.use(Use.EVALUATE):
            return self._evaluate(samples)[0]

    def evaluate(self, x, y, *, metrics=(), sample_weight=None):
        """Mean loss as `loss`, and metrics of the predictions, as a dict: {"loss": ..., "accuracy": ...}.

        metrics: names ("accuracy", ...: `fastgd.metrics.METRICS`), metrics, or functions of (y, prediction), which may
            evaluate the network, too, but not train it.
        Raises TypeError or ValueError naming the argument.
        """
        metrics = check_metrics("metrics", metrics)
        samples = self._checked(x, y, sample_weight)
        with self._turn.use(Use.EVALUATE):
            loss, values = self._evaluate(samples, metrics)
        return {"loss": loss, **values}

    def _evaluate(self, samples, metrics=()):
        """Mean loss, and values of the metrics by name."""
        total, outputs = 0.0, np.empty((len(samples) if metrics else 0, *self.output_shape), self.dtype)
        for start in range(0, len(samples), BLOCK_ROWS):
            x, y, weight = samples.part(start, start + BLOCK_ROWS)
            plan = self._minibatch(x, y, samples.kernel, weight)
            plan.run("loss")
            self._check_inputs(plan, samples.x)
            leave_pages(samples.x)
            leave_pages(samples.y)
            # Every block adds the penalty: weighted by its rows, it is added once.
            total += float(plan.buffers["total"][0]) * plan.rows
            if metrics:
                outputs[start : start + plan.rows] = plan.buffers[plan.output][: plan.rows]
        values = {}
        if metrics:
            predictions = self._linked(outputs)
            y, weight = samples.targets()
            with self._turn.lent(Use.BORROW):  # a metric may ask the network for more
                values = {metric.column: metric.value(y, predictions, weight) for metric in metrics}
        return total / len(samples), values

    def loss_and_gradient(self, x, y, *, sample_weight=None, training=False, minibatch=None):
        """Mean loss as `loss`, and its gradient with respect to `parameters` as a flat array (a copy).

        training: True takes all rows as one minibatch of training: Dropout drops, BatchNorm takes their mean and
        variance, and keeps its running ones. minibatch: the number by which Dropout draws; None is the next
        training step's. This call does not count as a step: a loop that updates the parameters itself counts by itself.
        """
        if minibatch is not None:
            check_integer("minibatch", minibatch, 0)
        samples = self._checked(x, y, sample_weight)
        name = "_plan" if check_flag("training", training) else "_evaluation_plan"
        with self._turn.use(Use.TRAIN if training else Use.BORROW):
            if training:
                self._drop_quick_step()
            plan = self._minibatch(samples.x, samples.y, samples.kernel, samples.weight, plan_name=name)
            plan.feed_minibatch(self.minibatches if minibatch is None else minibatch)
            plan.run("gradient")
            self._check_inputs(plan, samples.x)
            return float(plan.buffers["total"][0]), self._gradient.copy()

    def train_step(self, x, y, optimizer, *, sample_weight=None):
        """One update from one minibatch, in place; returns its loss before the update.

        sample_weight: numbers >= 0 for a weighted mean of the losses, (rows,) or one for each of them.
        Raises TypeError or ValueError naming the argument, and DivergenceError if the loss or the gradient is not
        finite; then the parameters are those before the step.
        """
        loss = self._quick_step(x, y, optimizer) if sample_weight is None else None
        return self._prepared_step(x, y, optimizer, sample_weight) if loss is None else loss

    @np.errstate(all="ignore")
    def _prepared_step(self, x, y, optimizer, sample_weight=None, *, scaled=True):
        """`train_step` of anything: checks, casts, and raises. Makes ready for the quick way where it applies. Weights
        count as they are if they are not to be `scaled`."""
        check_optimizer(optimizer)
        if optimizer.state:  # a bad value shows in the loss or the gradient
            x = check_rows("x", x, self.input_shape)
            y, kernel = check_targets("y", y, len(x), self.loss_function, self.output_shape)
        else:  # the first step binds the optimizer, so all is checked before
            samples = self._checked(x, y, finite=True)
            x, y, kernel = samples.x, samples.y, samples.kernel
        weights = None
        if sample_weight is not None:
            shape = len(x), *self.output_shape[:-1]
            weights = check_weights("sample_weight", sample_weight, shape, self.dtype, scaled=scaled)
        with self._turn, optimizer.turn:
            optimizer.settle()
            plan = self._plan_for(len(x), kernel)
            plan.use_optimizer(optimizer)
            x_used, y_used = (_usable(array, plan.own[name].dtype) for name, array in (("x", x), ("y", y)))
            weights = None if weights is None else _usable(weights / plan.losses_in(len(x)), self.dtype)
            steps = Steps.of(plan, optimizer, x_used, y_used, rows=[len(x)], starts=[0], weights=weights)
            grows = getattr(self._quick_step, "is_used_up", True)
            failed = self._train(plan, steps)
            plan.release()
            if failed is not None:
                check_values("x", x, self.dtype)
                check_values("y", y, self.dtype, kernel.arrays["y"], self.output_shape[-1])
                raise self._failure(steps, failed, optimizer)
            quick = self.backend != "numpy" and isinstance(optimizer.schedule, Schedule) and weights is None
            if quick and x_used is x and y_used is y and steps.parameter_limits is None:
                self._quick_steps = min(4 * self._quick_steps, MAX_QUICK_STEPS) if grows else 1
                # A schedule that fails later on does so when that step comes.
                with contextlib.suppress(TypeError, ValueError):
                    self._quick_step = plan.quick_step(optimizer, self._quick_steps, self._last_loss)
            return float(steps.totals[0])

    def _train(self, plan, steps, first=0, pauses=(), tell=None):
        """Runs training steps from `first` on; returns None, or the step that failed. tell(s) is called when s steps
        are done, now and then, and at `pauses`; if it is true, that is the end."""
        self._drop_quick_step()  # it is not the next step any more, perhaps not even of the optimizer in use
        s, walk, risky, self._totals = first, plan.best_walk, steps.parameter_limits, steps.totals
        pauses = np.array([*pauses, len(steps)], np.int64) if risky is None else np.arange(1, len(steps) + 1)
        while s < len(steps):
            if risky is not None and not np.abs(self._parameters).max() <= risky[s]:
                return s
            until = pauses if risky is None else pauses[s : s + 1]
            s, status = plan.train(steps, s, until, walk, SLICE_SECONDS, tell)
            if status == HIGH_PEAK:  # the gradient may be too large: look at it before it is used
                walk = "step"
            elif status in (BAD_LOSS, BAD_GRADIENT, FAULT):
                return s
            elif status == TOLD_TO_STOP or (tell is not None and tell(s)):
                break
        self._last_loss, self._last_rate, self._totals = steps.totals.item(s - 1), steps.rates.item(s - 1), None
        return None

    def _failure(self, steps, s, optimizer, epoch=None):
        """The error of a step that failed: that it diverged, or what a function written by a user raised."""
        self._plan.raise_fault(*steps.minibatch(s))
        last = float(steps.totals[s - 1]) if s else self._last_loss
        loss, rate = float(steps.totals[s]), float(steps.rates[s])
        return DivergenceError(optimizer.steps + 1, epoch=epoch, loss=loss, learning_rate=rate, last_loss=last)

    def _checked(self, x, y, sample_weight=None, finite=False):
        return check_samples(self, x, y, sample_weight, names=("x", "y", "sample_weight"), finite=finite)

    def _check_inputs(self, plan, x):
        if not np.isfinite(plan.buffers["peak"][0]):
            check_values("x", x, self.dtype)

    fit = fit

    def __getstate__(self):
        made = ("_plan", "_evaluation_plan", "_turn", "_quick_step", "_quick_steps", "_parameters")
        with self._turn.reading():  # a copy of between two steps
            kept = {name: value for name, value in vars(self).items() if name not in made}
            arrays = {"_learnt": self._learnt.copy(), "_gradient": self._gradient.copy()}
            arrays["counter"] = self.counter.copy()
            return {**kept, **arrays, "_last_loss": self._loss_before()}

    def __setstate__(self, state):
        vars(self).update(state, _turn=Turn("network"), _quick_step=_not_ready)
        self._parameters = self._learnt[: self.n_parameters]
        self._drop_plan()

    # ---- telling and keeping

    def describe(self):
        """Layers and plan as text: for each layer its path, the shape of its rows and how many parameters it has; one
        line an operation, with the body in use."""
        with self._turn.use(Use.EVALUATE):
            return "\n".join([repr(self), *self.layer_lines(), *self._plan_for(1).describe()])

    def layer_lines(self):
        """One line a layer: path, layer, shape of a row of its output, parameters."""
        counts = {}
        for path, leaf, shape in self.body.leaves("", self.input_shape):
            counts[path] = sum(math.prod(of_array) for _, of_array, *_ in leaf.parameters(shape))
        lines = []
        for path, text, shape in self.body.describe("", self.input_shape):
            indent = "  " * (1 + path.count("."))
            n = sum(count for at, count in counts.items() if f"{at}.".startswith(f"{path}."))
            lines.append(f"{indent}{path:<4} {text}  ->  {_shape_text(shape)}, {n:,} parameters")
        return lines

    def memory_estimate(self, batch_size, optimizer=None):
        """Bytes that training takes, besides the data, as a dict: "parameters", "gradient", "optimizer" (its state;
        Adam's if None), "workspace" (activations and their gradients, for minibatches of `batch_size` rows) and
        "total"."""
        rows = check_integer("batch_size", batch_size, 1)
        optimizer = Adam() if optimizer is None else optimizer
        plan = self._plan or Plan(self, 1, self.loss_function.kernels[0], training=True)
        parts = {
            "parameters": self._parameters.nbytes,
            "gradient": self._gradient.nbytes,
            "optimizer": optimizer.state_bytes(self),
            "workspace": rows * plan.bytes_of_a_row(),
        }
        return {**parts, "total": sum(parts.values())}

    def save(self, path, *, optimizer=None):
        """Writes the network, and the optimizer with its state, to a safetensors file; see `fastgd.load`."""
        from .checkpoint import save

        if optimizer is not None:
            check_optimizer(optimizer)
        with self._turn.reading(), contextlib.nullcontext() if optimizer is None else optimizer.turn.reading():
            save(path, self, optimizer)

    def to_onnx(self, path, *, unknown="error"):
        """Writes what `predict` computes, and `preprocessing` before and after it, as an ONNX model; see
        `fastgd.onnx`. unknown: as in `Preprocessing.encode`."""
        from .onnx import export

        with self._turn.reading():
            export(path, self, unknown=unknown)

    def config(self):
        """What a file needs to make this network again, besides the parameters."""
        return {
            "input_shape": list(self.input_shape),
            "layers": [layer.config() for layer in self.layers],
            "loss": self.loss_function.config(),
            "l1": self.l1,
            "l2": self.l2,
            "dtype": str(self.dtype),
            "seed": self.seed,
        }

    def __repr__(self):
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        return (
            f"Network({'-'.join(map(_shape_text, shapes))}, loss={self.loss_function!r}, "
            f"dtype={self.dtype}, backend={self.backend}): "
            f"{self.n_parameters:,} parameters"
        )


def _shape_text(shape):
    return "x".join(map(str, shape))


def _cut(flat, shapes):
    """Views of a flat array by name, one after the other."""
    views, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        views[name] = flat[start : start + size].reshape(shape)
        start += size
    return views


def _not_ready(x, y, optimizer):
    """In place of a `QuickStep`."""


def _dtype_name(dtype):
    """The name of a dtype given as a name, a numpy dtype or a numpy type."""
    try:
        return dtype if dtype is None or isinstance(dtype, str) else str(np.dtype(dtype))
    except TypeError:
        return dtype


def _usable(array, dtype):
    """The array itself if a kernel can read it where it lies, else a contiguous copy in dtype."""
    with np.errstate(all="ignore"):
        return np.require(array, dtype, ["C", "ALIGNED"])
