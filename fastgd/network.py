"""The network: its layers, and flat buffers that hold its parameters, statistics and gradient. The executor runs it.
Over 400 lines: all that users call on a network is methods of one class."""

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._plan import Use
from .core import hints
from .core.buffers import aligned_zeros
from .core.choice import pick
from .core.files import check_model_file
from .core.for_users import ForUsers
from .core.hints import explains_arguments
from .core.html import html_table
from .core.kernel import BACKENDS, DTYPES, ArraySpec, In
from .core.threads import check_threads
from .core.types import Array, HasTargets, Path, Shape, ShapeLike
from .data.samples import check_samples, with_targets
from .engine.executor import GRADIENT, TRAINING_GRADIENT, Executor
from .engine.plan import Plan
from .errors import check_flag, check_integer, check_number, choose, shown, type_error, value_error
from .generation.generate import generate
from .layers.base import EMBEDDING, Layer, check_names, check_shape, parameter_specs, statistic_specs
from .layers.containers import Sequential, check_layers
from .losses import LOSSES, Loss
from .metrics import Metrics, check_metrics
from .optimizers import Adam
from .optimizers.base import Optimizer, check_optimizer
from .training import checkpoint
from .training.fit import fit
from .training.history import History
from .training.repeated import RepeatedCalls

if TYPE_CHECKING:
    from . import images, tables
    from .tables.files import Table
    from .text import Vocabulary

    # What a network may store of the data that it was trained on.
    Preprocessing: TypeAlias = tables.Preprocessing | images.Preprocessing | Vocabulary


class Network(ForUsers):
    """A feed-forward network and everything needed to train it.

    input_shape: int, number of features, or a tuple, the shape of a row: (T, C) for sequences, (height, width,
        channels) for images.
    layers: list of layers, e.g. [Dense(64, "relu"), Dense(10)], or of containers of layers, nested to any depth
        (`Sequential`, `Residual`, `Concatenate`). The last layer gives raw outputs: the loss applies the link (softmax,
        ...). If rows of the output have positions, (T, k), the loss is the mean over rows and positions.
    loss: a name ("mse", "softmax_cross_entropy", ...: `fastgd.losses.LOSSES`) or a `Loss`.
    l1, l2: penalty l1 sum |w| + (l2 / 2) sum w^2 on the weights, not the biases; part of the loss.
    dtype: "float32" or "float64".
    seed: int, for the initial values and the shuffling in `fit`.
    backend: the kernels that run: "cython", "numba" or "numpy"; "auto" is "cython".
    num_threads: int >= 1, or None for FASTGD_NUM_THREADS, OMP_NUM_THREADS or the number of available cores. Small steps
        use fewer threads, and so do all steps while other processes need the cores. The results do not depend on the
        number, bit for bit.

    Raises TypeError or ValueError that names the argument. While one call uses the network, a call from another thread
    or from a function that must not use it raises RuntimeError, with nothing changed.

    Attributes:

    layers              tuple of the layers
    input_shape         tuple, shape of a row of x
    output_shape        tuple, shape of a row of outputs
    vocabulary          number of tokens, if x are token ids (`Embedding`), whole numbers in [0, vocabulary); else None
    n_parameters        number of parameters
    parameters          flat array: all weights, layer by layer, then all biases
    gradient            flat array, as `parameters`
    statistics          arrays by name that training updates besides the parameters (running means of BatchNorm)
    state               flat array: parameters and statistics
    epochs              passes over data made by `fit`
    minibatches         training steps made, by any method
    history             `History` of the last `fit`, however it ended, or of the run in the file that the network was
                        loaded from; or None
    preprocessing       None, a `fastgd.tables.Preprocessing`, which encodes a table as rows of numbers, a
                        `fastgd.images.Preprocessing`, or the vocabulary of a text (`fastgd.text`); may be set, and is
                        saved with the network

    The name of an array ends with the path of its layer: "w1" belongs to the first layer, "w3.2" to the second layer in
    the third. `train_step` and `fit` run layers in training mode (Dropout drops, BatchNorm normalizes by the
    minibatch), all other methods in evaluation mode. Arrays of the network's dtype that are C-contiguous and aligned
    are used in place, others are cast."""

    _internal = frozenset({
        "body", "config", "counter", "executor", "input_spec", "layer_lines", "least_rows", "loss_function",
        "n_weights", "repeated_calls", "token_vectors"
    })  # fmt: skip

    input_shape: Shape
    output_shape: Shape
    loss_function: Loss
    l1: float
    l2: float
    dtype: np.dtype[Any]
    seed: int
    backend: str
    vocabulary: int | None
    token_vectors: str | None
    input_spec: ArraySpec | None
    n_parameters: int
    n_weights: int
    epochs: int
    history: History | None
    _state: "Array"
    _parameters: "Array"
    _gradient: "Array"
    _preprocessing: "Preprocessing | None"
    _num_threads: int

    @explains_arguments("Network(64, [Dense(64, 'relu'), Dense(10)], loss='softmax_cross_entropy')")
    def __init__(
        self,
        input_shape: "ShapeLike",
        layers: Sequence[Layer],
        *,
        loss: str | Loss,
        l1: float = 0.0,
        l2: float = 0.0,
        dtype: "npt.DTypeLike" = "float32",
        seed: int = 0,
        backend: str = "auto",
        num_threads: int | None = None,
    ) -> None:
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
        self._num_threads = check_threads(num_threads)
        self.output_shape = self.body.output_shape(self.input_shape)
        leaves = self.body.leaves("", self.input_shape)
        self.vocabulary, self.token_vectors, self.input_spec = self._tokens()
        # The least rows of a minibatch, and the layer that needs them.
        self.least_rows = max(((leaf.least_rows(shape), leaf) for _, leaf, shape in leaves), key=lambda pair: pair[0])
        self._check_layers()
        self._make_buffers()
        self.epochs, self.history, self._preprocessing = 0, None, None
        self.counter = np.zeros(1, np.int64)  # minibatches, counted by the native runner
        self.executor, self.repeated_calls = Executor(self), RepeatedCalls()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, as a tuple."""
        return self.body.layers

    @property
    def num_threads(self) -> int:
        """The largest number of threads of a step. It may be set, to None as well, also by a callback of `fit`; it
        holds from the next step on.

        Setting it raises TypeError or ValueError unless it is None or an int from 1 to 256, and RuntimeError while
        another thread uses the network."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, num_threads: int | None) -> None:
        threads = check_threads(num_threads)
        with self.executor.lock.use(Use.EVALUATE):
            self._num_threads = threads
            self.executor.set_threads(threads)

    def _tokens(self):
        """The number of tokens, the name of the array of their vectors, and the contract of x, if x are token ids; else
        None, None, None."""
        embeddings = {path: one for path, one, _ in self.body.leaves("", self.input_shape) if one.vocabulary}
        readers = set(self.body.readers(""))
        for path, one in embeddings.items():
            if path not in readers:
                raise value_error("layers", f"{one!r} as the first layer, whose x are tokens", f"it as layer {path}")
        if not embeddings:
            return None, None, None
        path = min(embeddings, key=lambda path: embeddings[path].vocabulary)
        return embeddings[path].vocabulary, f"w{path}", In("rows", domain="tokens", below="m")

    def _check_layers(self):
        """Raises ValueError unless the layers fit each other, the dtype and the loss."""
        leaves = list(self.body.leaves("", self.input_shape))
        if not any(leaf.parameters(shape) for _, leaf, shape in leaves):
            raise value_error("layers", "a layer that has parameters", shown(list(self.layers)))
        check_names(self.body, self.input_shape)
        shapes = {spec.name: spec.shape for spec in parameter_specs(self.body, self.input_shape)}
        if self.token_vectors:
            shapes[EMBEDDING] = shapes[self.token_vectors]
        for _, leaf, shape in leaves:
            leaf.check_dtype(self.dtype)
            for name, wanted in leaf.shared(shape):
                if shapes.get(name) != wanted:
                    known = ", ".join(shapes)
                    got = f"{name!r} of shape {shapes[name]}" if name in shapes else f"{name!r}, not one of {known}"
                    raise value_error("tie", f"the name of parameters of shape {wanted}, for {leaf!r}", got)
        # The loss applies its link to raw outputs: it must not be applied twice.
        loss = self.loss_function
        loss.check_outputs(self.output_shape[-1])
        for activation in self.body.output_activations(()):
            if loss.link is not None and activation.forward is loss.link:
                expected = f"layers with raw outputs: {loss.name} applies {activation.name} itself"
                raise value_error("layers", expected, f"outputs of {activation!r} in {shown(list(self.layers))}")

    def _make_buffers(self):
        """Allocates the flat buffers and sets the initial values."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        specs = parameter_specs(self.body, self.input_shape)
        self._shapes = {spec.name: spec.shape for spec in specs}
        self.n_parameters = sum(math.prod(shape) for shape in self._shapes.values())
        self.n_weights = sum(math.prod(spec.shape) for spec in specs if spec.is_weight)
        statistics = statistic_specs(self.body, self.input_shape)
        self._statistics = {name: shape for name, shape, _ in statistics}
        n_state = self.n_parameters + sum(math.prod(shape) for shape in self._statistics.values())
        # What another network must have in common with this one for `copy_from`.
        self._layout = repr((str(self.dtype), self._shapes, self._statistics))
        _, (self._state, self._gradient) = aligned_zeros([n_state, self.n_parameters], self.dtype, eighth=0)
        self._parameters = self._state[: self.n_parameters]
        for name, _, initial in statistics:
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
    def parameters(self) -> "Array":
        """Flat, writable view of all parameters."""
        return self._parameters

    @property
    def state(self) -> "Array":
        """Flat, writable view of everything that training changes: the parameters, then the statistics."""
        return self._state

    @property
    def statistics(self) -> "dict[str, Array]":
        """Arrays that training updates besides the parameters, as views by name: "mean2", "variance2" of BatchNorm."""
        return _cut(self._state[self.n_parameters :], self._statistics)

    @property
    def minibatches(self) -> int:
        """Number of minibatches that the network was trained on, by any optimizer. Random layers draw from it."""
        return int(self.counter[0])

    @property
    def gradient(self) -> "Array":
        """Flat array: the gradient of the last training step, `backward` or `loss_and_gradient`. After a step that
        diverged, any numbers."""
        return self._gradient

    @property
    def preprocessing(self) -> "Preprocessing | None":
        """The `fastgd.tables.Preprocessing` that encodes a table as rows of numbers, the `fastgd.images.Preprocessing`
        that says how images were read, the vocabulary of a text, or None."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing: "Preprocessing | None") -> None:
        from . import images, tables
        from .text import Vocabulary

        if not isinstance(preprocessing, tables.Preprocessing | images.Preprocessing | Vocabulary | None):
            expected = "a Preprocessing of tables or images, the vocabulary of a text, or None"
            raise type_error("preprocessing", expected, shown(preprocessing))
        if isinstance(preprocessing, Vocabulary):
            if len(self.input_shape) != 1 or self.output_shape[-1] < len(preprocessing):
                expected = f"a vocabulary of at most {self.output_shape[-1]} tokens, for rows of tokens (T,)"
                raise value_error("preprocessing", expected, f"{preprocessing!r} for rows {self.input_shape}")
        elif preprocessing is not None:
            shapes = (preprocessing.input_shape, (preprocessing.n_outputs,)), (self.input_shape, self.output_shape)
            made, needed = (tuple(s[0] if len(s) == 1 else s for s in pair) for pair in shapes)
            if made != needed:
                figures = "{} features and {} outputs"
                raise value_error("preprocessing", figures.format(*needed), figures.format(*made))
        self._preprocessing = preprocessing

    def like(self, **changes: Any) -> "Network":
        """A new network with the same layers and options and with initial values; `changes` are arguments of the
        constructor that differ. (Layers loaded from a file have the default initializers.)

        Raises TypeError or ValueError that names the argument."""
        options = {
            "input_shape": self.input_shape, "layers": self.layers, "loss": self.loss_function, "l1": self.l1,
            "l2": self.l2, "dtype": str(self.dtype), "seed": self.seed, "backend": self.backend,
            "num_threads": self.num_threads,
        }  # fmt: skip
        return Network(**{**options, **changes})

    def views(self, flat: "npt.NDArray[Any] | None" = None) -> "dict[str, npt.NDArray[Any]]":
        """Views of the parameters, or of a flat array of the same layout, by name: "w1", "b1", ...

        Raises ValueError unless `flat` is a numpy array (n_parameters,)."""
        flat = self._parameters if flat is None else flat
        if not isinstance(flat, np.ndarray) or flat.shape != (self.n_parameters,):
            raise value_error("flat", f"a flat array of {self.n_parameters} elements", shown(flat))
        return _cut(flat, self._shapes)

    # ---- running

    def forward(
        self,
        x: "npt.ArrayLike",
        *,
        out: "Array | None" = None,
        training: bool = False,
        record: bool = False,
        minibatch: int | None = None,
    ) -> "Array":
        """Raw outputs (rows, *output_shape) for x (rows, *input_shape).

        out: an array of the network's dtype and of that shape that receives the outputs and is returned; None is a new
            one.
        training: True runs the layers in training mode, on all rows as one minibatch: Dropout drops, BatchNorm
            normalizes by these rows and updates its running statistics.
        record: True keeps what `backward` needs, as `training` does, too.
        minibatch: with one of both, the number from which random layers draw; None is `minibatches`.

        Raises TypeError or ValueError that names the argument; then nothing has changed, except that `backward` can no
        longer follow an earlier pass if x is not finite."""
        executor = self.executor
        if training is not False or record is not False:
            training, record = check_flag("training", training), check_flag("record", record)
            if training or record:
                recorded: Array = executor.record(x, out, training, minibatch)
                return recorded
        if minibatch is not None:
            raise value_error("minibatch", "None without training=True or record=True", shown(minibatch))
        y: Array | None = executor.fast["forward"](x, out)
        if y is None:
            y = executor.outputs("forward", x, out)
        return y

    def backward(self, dy: "npt.ArrayLike", *, input_gradient: bool = True) -> "Array | None":
        """Goes back through the last `forward` with training=True or record=True, given dy = dL/dy, the gradient of any
        loss L with respect to its outputs y. Writes dL/dp for all parameters p to `gradient`, plus the gradient of the
        penalty, and returns dL/dx (rows, *input_shape), or None if `input_gradient` is False, which is faster.

        dy: (rows, *output_shape). It may be called several times for one forward pass; each time replaces `gradient`.

            y = network.forward(x, training=True)
            dx = network.backward((y - target) / len(y))
            optimizer.step(network)

        Raises TypeError or ValueError unless dy is an array of finite real numbers of that shape, and RuntimeError if
        there is no such forward pass, or the parameters have been updated or `loss_and_gradient` called since. Changes
        that you make to `parameters` yourself are not noticed."""
        if type(input_gradient) is not bool:
            input_gradient = check_flag("input_gradient", input_gradient)
        if input_gradient and self.vocabulary:
            raise value_error("input_gradient", "False for tokens, which have no gradient", input_gradient)
        dx = self.executor.backward(dy, input_gradient)
        return None if dx is True else dx

    def predict(self, x: "npt.ArrayLike", *, out: "Array | None" = None) -> "Array":
        """Outputs after the loss's link, (rows, *output_shape): probabilities for cross-entropy, values otherwise.

        out: as in `forward`.

        Raises TypeError or ValueError unless x is an array (rows, *input_shape) of finite real numbers."""
        y: Array | None = self.executor.fast["predict"](x, out)
        if y is None:
            y = self.executor.outputs("predict", x, out)
        return y

    def loss(
        self,
        x: "npt.ArrayLike",
        y: "npt.ArrayLike",
        *,
        sample_weight: "npt.ArrayLike | None" = None,
        allow_negative: bool = False,
    ) -> float:
        """Mean loss over the rows and their positions, plus the penalty.

        x: (rows, *input_shape). y: integer labels (rows, *output_shape[:-1]) for softmax_cross_entropy, else
            (rows, *output_shape); with one output the last axis may be left out.
        sample_weight: numbers >= 0 for a weighted mean, (rows,), or one for each position, (rows, *output_shape[:-1]).
        allow_negative: True takes weights below 0, too, such as the advantages of a policy gradient, and does not
            divide them by their mean: the loss is the mean of weight times loss. (Williams 1992,
            doi:10.1007/BF00992696.)
        Raises TypeError or ValueError that names the argument."""
        loss: float | None = self.executor.fast["loss"](x, y, None) if sample_weight is None else None
        if loss is None:
            allow_negative = check_flag("allow_negative", allow_negative)
            loss = float(self.executor.loss(x, y, sample_weight, allow_negative))
        return loss

    @explains_arguments("net.evaluate(X, y, metrics=['accuracy'])")
    def evaluate(
        self,
        x: "npt.ArrayLike | HasTargets",
        y: "npt.ArrayLike | None" = None,
        *,
        metrics: "Metrics" = (),
        sample_weight: "npt.ArrayLike | None" = None,
    ) -> dict[str, float]:
        """`loss`, and metrics of the predictions, as a dict: {"loss": ..., "accuracy": ...}.

        x, y: as in `loss`; or, without y, data with both as attributes, such as windows of a text.
        metrics: names ("accuracy", ...: `fastgd.metrics.METRICS`), metrics, or functions of (y, prediction), which may
            evaluate the network, but not train it. Of gaussian_nll, "mae", "mse", "rmse" and "r2" are those of the
            means; of hinge, metrics of classes go by the sign.
        Raises TypeError or ValueError that names the argument."""
        checked = [self.loss_function.adapted(metric) for metric in check_metrics("metrics", metrics)]
        if y is None:
            both = with_targets("x", self, x)
            if both is None:
                raise type_error("y", "targets, unless x is data with both: images, or windows of a text", None)
            samples = self._checked(both[0], both[1], sample_weight)
        else:
            samples = self._checked(x, y, sample_weight)
        with self.executor.lock.use(Use.EVALUATE):
            loss, values = self.executor.evaluate(samples, checked)
        return {"loss": loss, **values}

    def loss_and_gradient(
        self,
        x: "npt.ArrayLike",
        y: "npt.ArrayLike",
        *,
        sample_weight: "npt.ArrayLike | None" = None,
        training: bool = False,
        minibatch: int | None = None,
        allow_negative: bool = False,
    ) -> "tuple[float, Array]":
        """`loss`, and its gradient with respect to `parameters` as a flat array (a copy).

        training: True runs the layers in training mode, on all rows as one minibatch: Dropout drops, BatchNorm
            normalizes by these rows; its running statistics stay.
        minibatch: number from which random layers draw; None is `minibatches`, as in the next training step. This
            method does not count a step: a loop that updates the parameters itself passes its own numbers.
        allow_negative: as in `loss`.

        Raises TypeError or ValueError that names the argument."""
        executor, door = self.executor, TRAINING_GRADIENT if check_flag("training", training) else GRADIENT
        minibatch = self.counter.item() if minibatch is None else check_integer("minibatch", minibatch, 0)
        result: tuple[float, Array] | None = None
        if sample_weight is None:
            result = executor.fast[door](x, y, minibatch, None)
        if result is None:
            allow_negative = check_flag("allow_negative", allow_negative)
            result = executor.loss_and_gradient(
                x, y, sample_weight, training=training, minibatch=minibatch, allow_negative=allow_negative
            )
        return result

    def train_step(
        self,
        x: "npt.ArrayLike",
        y: "npt.ArrayLike",
        optimizer: Optimizer,
        *,
        sample_weight: "npt.ArrayLike | None" = None,
        allow_negative: bool = False,
    ) -> float:
        """Updates the parameters by one minibatch; returns its loss before the update. x, y, sample_weight,
        allow_negative: as in `loss`.

        Raises TypeError or ValueError that names the argument, and DivergenceError if the loss or the gradient is not
        finite; the parameters are then those before the step."""
        loss = self.executor.fast_step(x, y, optimizer) if sample_weight is None else None
        if loss is None:
            check_optimizer(optimizer)
            allow_negative = check_flag("allow_negative", allow_negative)
            loss = self.executor.step(x, y, optimizer, sample_weight, allow_negative=allow_negative)
        return loss

    fit = explains_arguments("net.fit(X, y, epochs=10)")(fit)
    generate = generate

    def predict_table(
        self, rows: "Table | dict[str, Any]", *, probabilities: bool = False, unknown: str = "error"
    ) -> Any:
        """Predictions for rows of a table: numbers in the units of the target, or classes, as an array (rows,).

        rows: the path of a file, a pyarrow.Table, a DataFrame, a dict of columns or a list of dicts, encoded by
            `preprocessing`; or one row, a dict {column: value} or a pandas.Series, for which the result is one number
            or class, or (n_classes,) probabilities. Columns that the network was not trained on are ignored.
        probabilities: True returns the probability of each class instead, (rows, n_classes), in the order of
            `preprocessing.classes`.
        unknown: as in `fastgd.tables.Preprocessing.encode`.

        Raises ValueError if the network has no preprocessing of tables or, with probabilities=True, no classes;
        TableError (a ValueError) that names source, column and row; TypeError for other data."""
        from .tables.prediction import predict_table

        return predict_table(self, rows, probabilities, unknown)

    def copy_from(self, other: "Network", rate: float = 1.0) -> None:
        """Moves parameters and statistics p towards those of another network, q, in place: p <- p + rate (q - p), or
        p <- q for rate 1. For target networks (soft updates: Lillicrap et al. 2016, arXiv:1509.02971).

        rate: in [0, 1].

        Raises TypeError or ValueError that names the argument, unless `other` is a network with the same arrays."""
        if type(rate) is not float or not 0 <= rate <= 1:
            rate = check_number("rate", rate, 0.0, 1.0)
        if not isinstance(other, Network):
            raise type_error("other", "a fastgd.Network", shown(other))
        if other is not self:
            if other._layout != self._layout:
                raise value_error("other", f"a network with the arrays of {self!r}", repr(other))
            self.executor.copy_from(other.executor, rate)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raises AttributeError, which knows what other libraries call the attributes."""
            raise hints.no_attribute(self, name, hints.of_attribute(name, dir(type(self)), hints.OF_NETWORKS))

    def _checked(self, x, y, sample_weight):
        return check_samples(self, x, y, sample_weight, names=("x", "y", "sample_weight"), finite=False)

    def __getstate__(self):
        with self.executor.lock.reading():  # never in the middle of a step
            state = {
                name: value
                for name, value in vars(self).items()
                if name not in ("executor", "repeated_calls", "_parameters")
            }
            arrays = {"_state": self._state.copy(), "_gradient": self._gradient.copy()}
            arrays["counter"] = self.counter.copy()
            return {**state, **arrays, "last_loss": self.executor.last_loss}

    def __setstate__(self, state):
        last_loss = state.pop("last_loss")
        vars(self).update(state)
        self._parameters = self._state[: self.n_parameters]
        self.executor, self.repeated_calls = Executor(self, last_loss), RepeatedCalls()

    # ---- descriptions and files

    def describe(self) -> str:
        """Layers and plan as text. One line per layer: path, shape of a row of its output, number of parameters. One
        line per operation, with the kernel that runs."""
        with self.executor.lock.use(Use.EVALUATE):
            return "\n".join([repr(self), *self.layer_lines(), *self.executor.training_plan(1).describe()])

    def layer_lines(self) -> list[str]:
        """One line per layer: path, layer, shape of a row of its output, number of parameters."""
        return [
            f"{'  ' * (1 + path.count('.'))}{path:<4} {text}  ->  {shape}, {n:,} parameters"
            for path, text, shape, n in self._layer_rows()
        ]

    def _layer_rows(self):
        """For each layer: path, layer, shape of a row of its output as text, number of parameters."""
        counts = {}
        for path, leaf, shape in self.body.leaves("", self.input_shape):
            counts[path] = sum(math.prod(array_shape) for _, array_shape, *_ in leaf.parameters(shape))
        for path, text, shape in self.body.describe("", self.input_shape):
            n = sum(count for leaf, count in counts.items() if f"{leaf}.".startswith(f"{path}."))
            yield path, text, _shape_text(shape), n

    def memory_estimate(self, batch_size: int, optimizer: Optimizer | None = None) -> dict[str, int]:
        """Bytes of memory that training takes besides the data, as a dict: "parameters", "gradient", "optimizer" (the
        state of `optimizer`; None is Adam), "workspace" (activations and their gradients for `batch_size` rows, where
        buffers share memory if they are not needed at the same time) and "total". `predict` and validation need less,
        besides these.

        Raises TypeError or ValueError unless batch_size is an int >= 1."""
        rows = check_integer("batch_size", batch_size, 1)
        optimizer = Adam() if optimizer is None else optimizer
        plan = self.executor.plan or Plan(self, 1, self.loss_function.kernels[0], training=True)
        parts = {
            "parameters": self._parameters.nbytes,
            "gradient": self._gradient.nbytes,
            "optimizer": optimizer.state_bytes(self),
            "workspace": plan.bytes_for(rows),
        }
        return {**parts, "total": sum(parts.values())}

    def save(self, path: "Path", *, optimizer: Optimizer | None = None) -> None:
        """Writes the network, and the optimizer with its state, to a safetensors file; see `fastgd.load`.

        Raises OSError if the file cannot be written, and TypeError or ValueError if `load` could not read it again, as
        with a function of yours as the schedule, or if the ending of the path is that of another format, such as ".pt".
        A file that was at `path` is then unchanged."""
        check_model_file(path)
        if optimizer is not None:
            check_optimizer(optimizer)
        with self.executor.lock.reading(), contextlib.nullcontext() if optimizer is None else optimizer.lock.reading():
            checkpoint.save(path, self, optimizer)

    def to_onnx(self, path: "Path", *, unknown: Literal["error", "zeros"] = "error") -> None:
        """Writes an ONNX model that computes what `predict` does, with `preprocessing` before and after it; see
        `fastgd.onnx`. unknown: as in `Preprocessing.encode`.

        Raises ImportError without the extra `onnx`, OSError if the file cannot be written, and ValueError that names
        what ONNX does not have. A file that was at `path` is then unchanged."""
        from .onnx import export

        with self.executor.lock.reading():
            export(path, self, unknown=unknown)

    def config(self) -> dict[str, Any]:
        """What a file stores to construct this network again, besides the parameters; a dict for JSON."""
        return {
            "input_shape": list(self.input_shape),
            "layers": [layer.config() for layer in self.layers],
            "loss": self.loss_function.config(),
            "l1": self.l1,
            "l2": self.l2,
            "dtype": str(self.dtype),
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        return (
            f"Network({'-'.join(map(_shape_text, shapes))}, loss={self.loss_function!r}, "
            f"dtype={self.dtype}, backend={self.backend}): "
            f"{self.n_parameters:,} parameters"
        )

    def _repr_html_(self) -> str:
        rows = [(path, text, shape, f"{n:,}") for path, text, shape, n in self._layer_rows()]
        return html_table(repr(self), ["", "layer", "output", "parameters"], rows)


def load(path: "Path", *, backend: str = "auto", num_threads: int | None = None) -> tuple[Network, Optimizer | None]:
    """Returns (network, optimizer) as saved; the optimizer is None if none was saved. If a training run was saved,
    `network.history` is its history.

    backend, num_threads: as in `Network`; files do not store them.

    Raises TypeError or ValueError that names one of these arguments, OSError if the file cannot be read, and
    CheckpointError if it is not a complete file of fastgd: it names the file, the field, the value expected and the
    value found."""
    choose("backend", backend, {name: name for name in BACKENDS})
    return checkpoint.load(path, Network, backend, check_threads(num_threads))


def _shape_text(shape):
    return "x".join(map(str, shape))


def _cut(flat: "npt.NDArray[Any]", shapes: dict[str, Shape]) -> "dict[str, npt.NDArray[Any]]":
    """Consecutive views of a flat array, by name. shapes: by name."""
    views, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        views[name] = flat[start : start + size].reshape(shape)
        start += size
    return views


def _dtype_name(dtype):
    """The name of a dtype given as a name, a numpy dtype or a numpy type."""
    try:
        return dtype if dtype is None or isinstance(dtype, str) else str(np.dtype(dtype))
    except TypeError:
        return dtype
