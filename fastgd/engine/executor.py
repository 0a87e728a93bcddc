"""The executor runs one network: it owns the network's plans, its lock, and the fast paths of all calls. `Network`,
`fit`, sweeps and estimators use it. Over 400 lines: evaluation, gradients and training share the plans and the lock."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._plan import (
    ASKED_TO_STOP,
    BAD_GRADIENT,
    BAD_LOSS,
    DONE,
    FAULT,
    HIGH_MAX_ABS,
    IMAGES,
    Use,
    UseLock,
    fast_average,
)
from ..data.mapped import check_mapping, leave_pages
from ..data.samples import (
    Samples,
    as_array,
    check_inputs,
    check_rows,
    check_samples,
    check_targets,
    check_values,
    check_weights,
)
from ..errors import DivergenceError, check_integer, shown, type_error, value_error
from .gradient import average_parameters
from .plan import Plan
from .steps import Steps

# Rows that evaluation processes at a time, which bounds its memory. If rows have positions, a block also has at most
# EVALUATION_OUTPUTS outputs of layers. On images, whose layers share memory, no layer has more than EVALUATION_PIXELS.
EVALUATION_ROWS, EVALUATION_OUTPUTS, EVALUATION_PIXELS = 256, 2**22, 2**21
# Arguments of more numbers are cast a block of rows at a time.
CAST_SIZE = 2**20
# Calls with fast paths: names of passes, and whether layers behave as in training.
GRADIENT, TRAINING_GRADIENT = "gradient", "training gradient"
DOORS = ("forward", "predict", "loss", GRADIENT, TRAINING_GRADIENT)
SAMPLES = ("x", "y", "sample_weight")
# How long training runs natively before Python looks for signals.
SLICE_SECONDS = 0.05


class Executor:
    """Runs one network.

    lock: the network's `UseLock`.
    plan: the plan for training; None until it is needed.
    fast_step(x, y, optimizer): makes a training step that needs no preparation and returns its loss, or returns None.
    fast_update(optimizer): likewise an update from the network's gradient; returns whether it did.
    fast[door](...): likewise the other calls with a fast path, by name: see `FastPass`.
    recorded: three numbers of the last forward pass that `backward` may follow: its rows, or 0 if there is none; the
        network's minibatches before it; its number among all such passes.
    changes: how often the parameters were changed without a training step.
    last_rate: the learning rate of the last step that was no fast step.
    """

    lock: UseLock
    plan: Plan | None
    fast_step: Any
    fast_update: Callable[[Any], bool | None]
    fast: dict[str, Callable[..., Any]]
    recorded: npt.NDArray[np.int64]
    _recorded: Plan | None
    last_rate: float | None

    def __init__(self, network, last_loss=None):
        self.network, self.lock = network, UseLock("network")
        self.fast_step, self.last_rate = _not_ready, None
        self._last_loss, self.recorded, self.changes = last_loss, np.zeros(3, np.int64), 0
        self._totals = None  # losses of the steps in progress
        self._block_rows = _rows_at_a_time(network)
        self.drop_plans()

    # ---- plans

    def drop_plans(self):
        """Frees the memory of the plans."""
        self.plan = None
        # By kernel of the loss; and by whether layers behave as in training, and that kernel.
        self._evaluation_plans, self._gradient_plans, self._generator = {}, {}, None
        self._drop_fast_step()
        self._made, self.fast = {}, dict.fromkeys(DOORS, _not_ready)  # by door and kernel of the loss; those in use
        self._recorders, self._recorded = {}, None  # by whether layers behave as in training; the last one used

    def set_threads(self, num_threads):
        """Makes the plans use at most so many threads from now on."""
        plans = [self.plan, *self._evaluation_plans.values(), *self._gradient_plans.values()]
        for plan in plans:
            if plan is not None:
                plan.set_threads(num_threads)

    def _drop_fast_step(self):
        self._last_loss, self.fast_step = self.last_loss, _not_ready
        self.fast_update = _not_ready

    def _drop_fast_passes(self, plan, doors):
        """Drops the fast paths of a plan that is replaced."""
        for door in doors:
            made = self._made.pop((door, plan.loss_kernel), None)
            if self.fast[door] is made:
                self.fast[door] = _not_ready

    @property
    def last_loss(self):
        """The loss of the last training step, or None."""
        return getattr(self.fast_step, "last_loss", self._last_loss)

    @property
    def loss_of_step(self):
        """The loss of the last training step, even if an exception prevented its recording."""
        return self.last_loss if self._totals is None else self._totals.item(0)

    @property
    def version(self) -> tuple[int, int]:
        """Differs after any update of the parameters by methods of the network or by `optimizer.step(network)`."""
        return self.network.minibatches, self.changes

    @property
    def pass_number(self) -> int:
        """The number of the forward pass that `backward` would follow; 0 if there is none."""
        return int(self.recorded[2]) if self.recorded[0] and self._recorded is not None else 0

    @property
    def is_mid_step(self):
        """Whether a step was interrupted."""
        return self.plan is not None and self.plan.is_mid_step

    def _discard_disturbed(self):
        """Drops plans that an exception or a fork may have left inconsistent."""
        if self.lock.disturbed:
            self.drop_plans()
            self.lock.disturbed = False

    def training_plan(self, rows: int, kernel: Any = None, optimizer: Any = None) -> Plan:
        """The plan for training on minibatches of up to this many rows; uses the optimizer if one is given."""
        self._discard_disturbed()
        plan = self.plan
        if plan is None or not _serves(plan, rows, kernel):
            self._drop_fast_step()
            kernel = kernel or (plan.loss_kernel if plan else self.network.loss_function.kernels[0])
            plan = self.plan = Plan(self.network, _capacity(plan, rows), kernel, training=True)
        if optimizer is not None and optimizer is not plan.optimizer:
            self._drop_fast_step()
            plan.use_optimizer(optimizer)
        return plan

    def evaluation_plan(self, kernel=None):
        """The plan for evaluation, of a block of rows at a time."""
        self._discard_disturbed()
        kernel = kernel or self.network.loss_function.kernels[0]
        plan = self._evaluation_plans.get(kernel)
        if plan is None or not plan.is_current():
            if plan is not None:
                self._drop_fast_passes(plan, ("forward", "predict", "loss"))
            plan = Plan(self.network, self._block_rows, kernel, training=False, backward=False)
            self._evaluation_plans[kernel] = plan
        return plan

    def gradient_plan(self, rows, training, kernel=None):
        """The plan for gradients without an update, of up to this many rows as one minibatch."""
        self._discard_disturbed()
        kernel = kernel or self.network.loss_function.kernels[0]
        plan = self._gradient_plans.get((training, kernel))
        if plan is None or not _serves(plan, rows, kernel):
            capacity = _capacity(plan, rows)
            if plan is not None:
                self._drop_fast_passes(plan, (TRAINING_GRADIENT if training else GRADIENT,))
                if self._recorders.get(training) is plan:
                    del self._recorders[training]
            plan = Plan(self.network, capacity, kernel, training=training, to_input=True)
            self._gradient_plans[training, kernel] = plan
        return plan

    def take_generator(self, make):
        """The plans for generation, which `make(network)` makes, for one sequence; `keep_generator` keeps them for the
        next."""
        self._discard_disturbed()
        taken, self._generator = self._generator, None
        return taken if taken is not None and taken.is_current() else make(self.network)

    def keep_generator(self, taken):
        self._generator = taken

    def _fast(self, door, kernel=None):
        """The fast path of a door for a kernel of the loss; calls of any arguments try it once they are cast."""
        fast = self.fast[door] = self._made.get((door, kernel or self.network.loss_function.kernels[0]), _not_ready)
        return fast

    def _fast_pass(self, pass_name, plan, use):
        """The `FastPass` that runs a pass of a plan."""
        fast = plan.fast_passes.get(pass_name)
        if fast is None:
            fast = plan.fast_passes[pass_name] = plan.make_fast_pass(self.lock, use, pass_name)
        return fast

    def _prepare_fast(self, door, plan, use, pass_name, method):
        """Makes a method of a `FastPass` the fast path of a door, unless there is one or numpy bodies run."""
        takes_targets = door not in ("forward", "predict")
        if plan.runner is None or (takes_targets and not plan.can_check_targets):
            return
        if (door, plan.loss_kernel) not in self._made:
            fast = getattr(self._fast_pass(pass_name, plan, use), method)
            self.fast[door] = self._made[door, plan.loss_kernel] = fast

    def is_ready_for(self, steps):
        """Whether the runner is prepared for these steps and may continue them."""
        if self.plan is None or self.lock.disturbed:
            return False
        return self.plan.is_ready_for(steps) and self.plan.is_current()

    def release(self):
        """Drops references to the arrays of the last steps."""
        if self.plan is not None:
            self.plan.release()

    # ---- evaluation

    def _blocks(self, rows):
        """Slices of the rows that are evaluated at a time."""
        size = self._block_rows
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    @np.errstate(all="ignore")
    def _set(self, plan, x, y=None, weight=None):
        """Sets the minibatch of a plan to checked arrays, casting only those that kernels cannot read in place."""
        weight = None if weight is None else usable(weight / plan.losses_in(len(x)), plan.dtype)
        y = None if y is None else usable(y, plan.own["y"].dtype)
        plan.set_minibatch(usable(x, plan.dtype), y, weight)

    def outputs(self, door, x, out=None):
        """Raw outputs (the door "forward") or predictions ("predict") of rows x, in `out` or a new array. For any
        arguments: checks, casts and raises. Prepares the fast path."""
        network = self.network
        x = check_rows("x", x, network.input_shape)
        shape = (len(x), *network.output_shape)
        check_out(out, shape, network.dtype)
        if x.size <= CAST_SIZE:
            result = self._fast(door)(usable(x, network.dtype), out)
            if result is not None:
                return result
            check_inputs("x", x, network)  # an error within the lock would cost the plans
        with self.lock.use(Use.EVALUATE):
            result = np.empty(shape, network.dtype)
            for rows in self._blocks(len(x)):
                check_mapping(x)
                plan = self.evaluation_plan()
                self._set(plan, x[rows])
                plan.run(door)
                self._check_inputs(plan, x)
                leave_pages(x)
                result[rows] = plan.rows_of(plan.prediction if door == "predict" else plan.output)[: plan.rows]
            self._prepare_fast(door, plan, Use.EVALUATE, door, "outputs")
        return result if out is None else _copied(out, result)

    def loss(self, x, y, sample_weight=None, allow_negative=False):
        """`Network.loss` for any arguments: checks, casts and raises. Prepares the fast path."""
        loss = self._try_fast("loss", x, y, sample_weight, allow_negative=allow_negative)
        if loss is not None:
            return loss
        samples = self._samples(x, y, sample_weight, allow_negative)
        with self.lock.use(Use.EVALUATE):
            loss = self.evaluate(samples)[0]
            self._prepare_fast("loss", self.evaluation_plan(samples.kernel), Use.EVALUATE, "loss", "loss")
        return loss

    def _samples(self, x, y, sample_weight, allow_negative):
        """Checked `Samples`. Passes check themselves whether x is finite; small arrays are checked before, since an
        error within the lock would cost the plans."""
        x = as_array("x", x)
        finite = x.size <= CAST_SIZE
        return check_samples(
            self.network, x, y, sample_weight, names=SAMPLES, finite=finite, allow_negative=allow_negative
        )

    def _cast(self, x, y, kernel):
        """Checked arrays as arrays that kernels read in place."""
        dtype = self.network.dtype
        return usable(x, dtype), usable(y, kernel.arrays["y"].dtype or dtype)

    def _try_fast(self, door, x, y, sample_weight, *more, allow_negative=False):
        """The result of a door's fast path once the arrays are cast, or None. Raises unless they are arrays of real
        numbers of the right shapes."""
        network = self.network
        x = check_rows("x", x, network.input_shape)
        y, kernel = check_targets("y", y, len(x), network.loss_function, network.output_shape)
        if x.size + y.size > CAST_SIZE:
            return None
        weights = self._factors(len(x), sample_weight, allow_negative=allow_negative)
        return self._fast(door, kernel)(*self._cast(x, y, kernel), *more, weights)

    def _factors(self, rows, sample_weight, scaled=True, *, allow_negative=False):
        """Factors of the losses of a minibatch that include 1 / (number of losses), or None without sample weights."""
        if sample_weight is None:
            return None
        shape, dtype = (rows, *self.network.output_shape[:-1]), self.network.dtype
        weights = check_weights(
            "sample_weight", sample_weight, shape, dtype, scaled=scaled, allow_negative=allow_negative
        )
        return usable(weights / math.prod(shape), dtype)

    def evaluate(self, samples: Samples, metrics: Any = ()) -> tuple[float, dict[str, float]]:
        """Mean loss of samples, and values of metrics by name. The caller has the lock."""
        network = self.network
        outputs = np.empty((len(samples) if metrics else 0, *network.output_shape), network.dtype)
        loss, plan = None, self.evaluation_plan(samples.kernel)
        if plan.runner is not None and samples.weight is None and samples.index is None:
            fast = self._fast_pass("loss", plan, Use.EVALUATE)
            loss = fast.evaluate(samples.x, samples.y, outputs if metrics else None)
        if loss is None:
            loss = self._evaluate_in_blocks(samples, outputs)
        if not metrics:
            return loss, {}
        predictions = network.loss_function.predictions(outputs, network.backend)
        y, weight = samples.targets()
        with self.lock.lend(Use.BORROW):  # a metric may use the network
            return loss, {metric.column: metric.value(y, predictions, weight) for metric in metrics}

    def _evaluate_in_blocks(self, samples, outputs):
        """Mean loss of any samples. outputs: receives the raw outputs, if there is room for them."""
        total = 0.0
        for rows in self._blocks(len(samples)):
            x, y, weight = samples.part(rows.start, rows.stop)
            plan = self.evaluation_plan(samples.kernel)
            self._set(plan, x, y, weight)
            plan.run("loss")
            self._check_inputs(plan, samples.x)
            leave_pages(samples.x)
            leave_pages(samples.y)
            # The loss of every block includes the penalty; weighted by rows, it counts once.
            total += float(plan.buffers["total"][0]) * plan.rows
            if len(outputs):
                outputs[rows] = plan.rows_of(plan.output)[: plan.rows]
        return total / len(samples)

    # ---- gradients

    def loss_and_gradient(self, x, y, sample_weight, *, training, minibatch, allow_negative=False):
        """`Network.loss_and_gradient` for any arguments: checks, casts and raises. Prepares the fast path."""
        network, door = self.network, TRAINING_GRADIENT if training else GRADIENT
        result = self._try_fast(door, x, y, sample_weight, minibatch, allow_negative=allow_negative)
        if result is not None:
            return result
        samples = self._samples(x, y, sample_weight, allow_negative)
        use = Use.TRAIN if training else Use.BORROW
        with self.lock.use(use):
            plan = self.gradient_plan(len(samples), training, samples.kernel)
            self.recorded[0] = 0
            self._set(plan, samples.x, samples.y, samples.weight)
            plan.set_minibatch_number(minibatch)
            plan.run("gradient")
            self._check_inputs(plan, samples.x)
            result = float(plan.buffers["total"][0]), network.gradient.copy()
            self._prepare_fast(door, plan, use, "checked_gradient", "loss_and_gradient")
        return result

    def record(self, x, out, training, minibatch):
        """Raw outputs of rows x; keeps what `backward` needs."""
        plan = self._recorders.get(training)
        number = -1 if minibatch is None else minibatch
        if plan is not None and type(number) is int and -1 <= number < 2**63 and minibatch != -1:
            result = plan.fast_record.record(x, out, number)
            if result is not None:
                self._recorded = plan
                return result
        return self._record(x, out, training, minibatch)

    def _record(self, x, out, training, minibatch):
        """`record` for any arguments: checks, casts and raises. Prepares the fast path."""
        network = self.network
        x = check_rows("x", x, network.input_shape)
        check_out(out, (len(x), *network.output_shape), network.dtype)
        minibatch = network.minibatches if minibatch is None else check_integer("minibatch", minibatch, 0)
        used, plan = usable(x, network.dtype), self._recorders.get(training)
        result = None if plan is None else plan.fast_record.record(used, out, minibatch)
        if result is None:
            check_inputs("x", x, network)  # an error within the lock would cost the plans
            use = Use.TRAIN if training else Use.BORROW
            with self.lock.use(use):
                plan = self.gradient_plan(len(x), training)
                self.recorded[0] = 0
                own = plan.own["x"][: len(x)]  # the caller may change x
                np.copyto(own, used)
                self._set(plan, own)
                plan.set_minibatch_number(minibatch)
                plan.run("record")
                self._check_inputs(plan, x)
                result = _copied(out, plan.rows_of(plan.output)[: len(x)])
                if plan.fast_record is None and plan.runner is not None:
                    plan.fast_record = plan.make_fast_record(self.lock, use)
                    self._recorders[training] = plan
                number = int(self.recorded[2]) + 1
                plan.pass_number = number
                if plan.fast_record is not None:
                    plan.fast_record.pass_number = number
                self.recorded[:] = len(x), network.minibatches, number
        self._recorded = plan
        return result

    def backward(self, dy, to_input):
        """Returns the gradient of the input, or True if `to_input` is false. Writes the gradient of the parameters to
        the network's."""
        plan = self._recorded
        if plan is not None and plan.fast_record is not None:
            dx = plan.fast_record.backward(dy, to_input)
            if dx is not None:
                return dx
        return self._backward(dy, to_input)

    def _backward(self, dy, to_input):
        """`backward` for any arguments: checks, casts and raises."""
        network, plan = self.network, self._recorded
        rows, made_at, number = self.recorded.tolist()
        got = None
        if plan is None or not rows or (plan.fast_record or plan).pass_number != number:
            got = "no such call since the last other use or change"
        elif made_at != network.minibatches:
            got = "a training step since"
        elif not plan.is_current():
            got = "other functions of yours since"
        if got is not None:
            raise RuntimeError(
                "backward: expected a call of forward with training=True or record=True before it, and no other use of "
                f"the network's gradient or parameters since, got {got}"
            )
        dy, shape = as_array("dy", dy), (rows, *network.output_shape)
        if dy.shape != shape:
            raise value_error("dy", f"an array of shape {shape}, as forward returned", shown(dy))
        check_values("dy", dy, network.dtype)
        used = usable(dy, network.dtype)
        dx = None if plan.fast_record is None else plan.fast_record.backward(used, to_input)
        if dx is not None:
            return dx
        with self.lock.use(Use.TRAIN if plan.training else Use.BORROW):
            x = plan.own["x"][:rows]
            self._set(plan, x)
            np.copyto(plan.rows_of("dz")[:rows], used)
            plan.run("backward_to_input" if to_input else "backward", dy=used)
            return plan.rows_of(plan.dx)[:rows].copy() if to_input else True

    def _check_inputs(self, plan, x):
        if not np.isfinite(plan.buffers["largest"][0]):
            check_inputs("x", x, self.network)

    # ---- training

    def copy_from(self, other: "Executor", rate: float) -> None:
        """Moves parameters and statistics towards those of another executor's network, which has the same arrays."""
        state, source = self.network.state, other.network.state
        if not fast_average(self.lock, other.lock, average_parameters, state, source, rate):
            with other.lock.reading(), self.lock:
                if rate == 1:
                    np.copyto(state, source)
                else:
                    average_parameters(state, source, 1 - rate)
        self.note_change()

    def note_change(self):
        """Notes a change of the parameters other than a training step, so that `backward` refuses to continue a forward
        pass with the parameters before."""
        self.recorded[0] = 0
        self.changes += 1

    def step(
        self, x: Any, y: Any, optimizer: Any, sample_weight: Any = None, *, scaled: bool = True,
        allow_negative: bool = False,
    ) -> float:  # fmt: skip
        """`Network.train_step` for any arguments: checks, casts and raises. scaled: False uses the weights without
        scaling, as allow_negative does, too."""
        network = self.network
        x = check_rows("x", x, network.input_shape)
        y, kernel = check_targets("y", y, len(x), network.loss_function, network.output_shape)
        if kernel.functions and optimizer.is_bound:  # bad targets may not show in the loss
            check_values("y", y, network.dtype, kernel.arrays["y"], network.output_shape[-1])
        weights = self._factors(len(x), sample_weight, scaled, allow_negative=allow_negative)
        if self.fast_step is not _not_ready and x.size + y.size <= CAST_SIZE:
            loss: float | None = self.fast_step.weighted(*self._cast(x, y, kernel), optimizer, weights)
            if loss is not None:
                return loss
        return float(self._step(x, y, kernel, optimizer, weights))

    def penalized_step(self, x, y, kernel, optimizer, weights, l2):
        """The loss of a step of checked arrays that kernels can read in place. weights: factors of the losses, which
        include 1 / (number of losses); None for that alone. l2: see `Plan.set_l2`."""
        self.training_plan(len(x), kernel, optimizer).set_l2(l2)
        if self.fast_step is not _not_ready:
            loss = self.fast_step.weighted(x, y, optimizer, weights)
            if loss is not None:
                return loss
        return self._step(x, y, kernel, optimizer, weights)

    @np.errstate(all="ignore")
    def _step(self, x, y, kernel, optimizer, weights):
        """A step of checked arrays without the fast path, which it prepares for the next ones. weights: include
        1 / (number of losses)."""
        if not optimizer.is_bound:  # later, a value that is not finite shows in the loss or the gradient
            self._check_values(x, y, kernel)
        with self.lock, optimizer.lock:
            optimizer.discard_disturbed()
            plan = self.training_plan(len(x), kernel, optimizer)
            used = [usable(array, plan.own[name].dtype) for name, array in (("x", x), ("y", y))]
            steps = Steps.of(plan, optimizer, *used, rows=[len(x)], starts=[0], weights=weights)
            failed = self.train(steps)
            plan.release()
            if failed is not None and not optimizer.has_converged:
                self._check_values(x, y, kernel)
                raise self.failure(steps, failed, optimizer)
            if steps.parameter_limits is None:
                self._prepare_fast_step(optimizer)
            return float(steps.totals[0])

    @np.errstate(all="ignore")
    def update(self, optimizer: Any) -> None:
        """`Optimizer.step(network)` for any optimizer: checks and raises. Prepares `fast_update` for the next ones."""
        network = self.network
        with self.lock, optimizer.lock:
            optimizer.discard_disturbed()
            with self._keeping_gradient() if callable(optimizer.learning_rate) else contextlib.nullcontext():
                plan = self.training_plan(1, None, optimizer)
                known, first = plan.values_of_steps(optimizer, 1)
            risky, updater, rate = known.parameter_limits, None, float(known.rates[first])
            failed = risky is not None and not np.abs(network.parameters).max() <= risky[first]
            if not failed and plan.runner is None:
                failed = plan.update_in_python(known) != DONE
            elif not failed:
                updater = plan.make_updater(self.lock, optimizer, known)
                failed = not updater.run_update(optimizer)
            if failed:
                raise DivergenceError(
                    optimizer.steps + 1,
                    minibatch=network.minibatches + 1,
                    loss=None,
                    learning_rate=rate,
                    last_loss=None,
                )
            self.last_rate = rate
            if updater is not None and risky is None:
                self.fast_update = updater.update

    def _check_values(self, x, y, kernel):
        check_inputs("x", x, self.network)
        check_values("y", y, self.network.dtype, kernel.arrays["y"], self.network.output_shape[-1])

    @contextlib.contextmanager
    def _keeping_gradient(self):
        """A context that restores the gradient at its end: a learning-rate function may call `loss_and_gradient`."""
        gradient = self.network.gradient.copy()
        try:
            yield
        finally:
            np.copyto(self.network.gradient, gradient)

    def _prepare_fast_step(self, optimizer):
        """Makes `fast_step` for steps like the last one, unless the present one serves."""
        if self.fast_step is not _not_ready and self.fast_step.is_prepared(optimizer):
            return
        if self.plan.runner is not None and self.plan.can_check_targets:
            self.fast_step = self.plan.make_fast_step(self.lock, optimizer, self._last_loss) or _not_ready

    def train(self, steps, first=0, pauses=(), notify=None):
        """Runs training steps from `first` on with the optimizer in use; returns None, or the index of the step that
        failed. notify(s) is called after s steps, for every s in `pauses` and about every SLICE_SECONDS; training stops
        if it returns true."""
        plan, self._last_loss = self.plan, self.last_loss
        if steps.penalties:  # a fast step uses the network's own penalty
            self._drop_fast_step()
        s, pass_name, risky, self._totals = first, plan.best_pass, steps.parameter_limits, steps.totals
        pauses = np.array([*pauses, len(steps)], np.int64) if risky is None else np.arange(1, len(steps) + 1)
        while s < len(steps):
            if risky is not None and not np.abs(self.network.parameters).max() <= risky[s]:
                return s
            until = pauses if risky is None else pauses[s : s + 1]
            s, status = plan.train(steps, s, until, pass_name, SLICE_SECONDS, notify)
            if status == HIGH_MAX_ABS:  # the gradient may be too large: check it before the update
                pass_name = "step"
            elif status in (BAD_LOSS, BAD_GRADIENT, FAULT):
                return s
            elif status == ASKED_TO_STOP or (notify is not None and notify(s)):
                break
        self.note_steps(steps, s)
        return None

    def train_at_once(self, steps, pauses):
        """Makes steps of the plan in use in one native call, without a look at signals. Returns how many were made, and
        whether that is all; `train` may make the rest. pauses: their number, as an array."""
        plan = self.plan
        s, status = plan.train(steps, 0, pauses, plan.best_pass, SLICE_SECONDS)
        plan.release()
        if status == DONE:
            self.note_steps(steps, s)
        return s, status == DONE

    def note_steps(self, steps, s):
        """Notes that s of these steps were made."""
        self._last_loss, self.last_rate, self._totals = steps.totals.item(s - 1), steps.rates.item(s - 1), None
        if self.fast_step is not _not_ready:
            self.fast_step.last_loss = self._last_loss

    def failure(self, steps, s, optimizer, *, minibatch=None, epoch=None):
        """Returns the DivergenceError of a step that failed, or raises the exception of a user's function. minibatch,
        epoch: numbers within the run, from 1 on."""
        self.plan.raise_fault(*steps.minibatch(s))
        minibatch = self.network.minibatches + 1 if minibatch is None else minibatch
        last = float(steps.totals[s - 1]) if s else self._last_loss
        return DivergenceError(
            optimizer.steps + 1, minibatch=minibatch, epoch=epoch, loss=float(steps.totals[s]),
            learning_rate=float(steps.rates[s]), last_loss=last,
        )  # fmt: skip


def usable(array, dtype):
    """The array itself if a kernel can read it in place, else a contiguous copy in dtype."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    with np.errstate(all="ignore"):
        return np.require(array, dtype, ["C", "ALIGNED"])


def check_out(out, shape, dtype):
    """Raises unless `out` is None or an array that can hold a result of this shape."""
    if out is None:
        return
    expected = f"None or a writable, C-contiguous, aligned {dtype} array of shape {shape}"
    if not isinstance(out, np.ndarray):
        raise type_error("out", expected, shown(out))
    if out.shape != shape or out.dtype != dtype:
        raise value_error("out", expected, shown(out))
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise value_error("out", expected, "one that is not")


def _copied(out, result):
    """The result, copied to `out` or a new array."""
    if out is None:
        return result.copy()
    np.copyto(out, result)
    return out


def _rows_at_a_time(network):
    """How many rows evaluation processes at a time. Images fill blocks, and the number is a power of two, so that
    threads have equal shares. It must not depend on the number of threads, since the rounding of the loss follows."""
    leaves = list(network.body.leaves("", network.input_shape))
    shapes = [leaf.output_shape(shape) for _, leaf, shape in leaves]
    if any(leaf.in_blocks for _, leaf, _ in leaves):
        fitting = EVALUATION_PIXELS // max(map(math.prod, shapes))
        return max(IMAGES, min(EVALUATION_ROWS, 2 ** (fitting.bit_length() - 1) if fitting else 0))
    has_positions = any(math.prod(shape[:-1]) > 1 for shape in shapes)
    fitting = EVALUATION_OUTPUTS // sum(map(math.prod, shapes)) if has_positions else EVALUATION_ROWS
    return max(1, min(EVALUATION_ROWS, fitting))


def _capacity(plan, rows):
    """The capacity of a plan for this many rows that replaces `plan`, which may be None. It at least doubles, so that
    slowly growing minibatches rarely need a new plan."""
    if plan is None:
        return rows
    return plan.capacity if rows <= plan.capacity else max(rows, 2 * plan.capacity)


def _serves(plan, rows, kernel):
    """Whether a plan has capacity for these rows, is for this loss kernel (None: any), and its compiled users'
    functions are up to date."""
    return plan.capacity >= rows and kernel in (None, plan.loss_kernel) and plan.is_current()


def _not_ready(*arguments):
    """Stands for a fast path until there is one."""
