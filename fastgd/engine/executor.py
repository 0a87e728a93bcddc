"""The executor runs one network: it owns the network's plans, its lock, and the fast path of a training step.
`Network`, `fit`, sweeps and estimators use it."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._plan import ASKED_TO_STOP, BAD_GRADIENT, BAD_LOSS, FAULT, HIGH_MAX_ABS, Use, UseLock
from ..core.types import Array
from ..data.mapped import check_mapping, leave_pages
from ..data.samples import Samples, check_rows, check_samples, check_targets, check_values, check_weights
from ..errors import DivergenceError
from ..schedules import Schedule
from .plan import Plan
from .steps import Steps

# Rows that evaluation processes at a time, which bounds its memory. If rows have positions, a block also has at most
# EVALUATION_OUTPUTS outputs of layers.
EVALUATION_ROWS, EVALUATION_OUTPUTS = 256, 2**22
# How long training runs natively before Python looks for signals.
SLICE_SECONDS = 0.05
# For how many fast steps per-step values are prefetched: at first, and at most.
FIRST_FAST_STEPS, MAX_FAST_STEPS = 16, 4096


class Executor:
    """Runs one network.

    lock: the network's `UseLock`.
    plan: the plan for training; None until it is needed.
    fast_step(x, y, optimizer): makes a training step that needs no preparation and returns its loss, or returns None.
    last_rate: the learning rate of the last step; None if that was a fast step.
    """

    lock: UseLock
    plan: Plan | None
    fast_step: Callable[[Any, Any, Any], float | None]
    last_rate: float | None

    def __init__(self, network, last_loss=None):
        self.network, self.lock = network, UseLock("network")
        self.fast_step, self.last_rate = _not_ready, None
        self._last_loss = last_loss
        self._totals = None  # losses of the steps in progress
        shapes = [leaf.output_shape(shape) for _, leaf, shape in network.body.leaves("", network.input_shape)]
        has_positions = any(math.prod(shape[:-1]) > 1 for shape in shapes)
        fitting = EVALUATION_OUTPUTS // sum(map(math.prod, shapes)) if has_positions else EVALUATION_ROWS
        self._block_rows = max(1, min(EVALUATION_ROWS, fitting))
        self.drop_plans()

    # ---- plans

    def drop_plans(self):
        """Frees the memory of the plans."""
        self.plan, self._evaluation_plan, self._fast_steps = None, None, FIRST_FAST_STEPS
        self._drop_fast_step()

    def _drop_fast_step(self):
        self._last_loss, self.fast_step = self.last_loss, _not_ready

    @property
    def last_loss(self):
        """The loss of the last training step, or None."""
        return getattr(self.fast_step, "last_loss", self._last_loss)

    @property
    def loss_of_step(self):
        """The loss of the last training step, even if an exception prevented its recording."""
        return self.last_loss if self._totals is None else self._totals.item(0)

    @property
    def is_mid_step(self):
        """Whether a step was interrupted."""
        return self.plan is not None and self.plan.is_mid_step

    def _serves(self, plan, rows, kernel):
        """Whether a plan has capacity for these rows, is for this loss kernel (None: any), and its compiled users'
        functions are up to date."""
        fits = plan is not None and plan.capacity >= rows and kernel in (None, plan.loss_kernel)
        return fits and plan.is_current()

    def _new_plan(self, plan, rows, kernel, **options):
        """A new plan to replace `plan`, with at least its capacity."""
        kernel = kernel or (plan.loss_kernel if plan else self.network.loss_function.kernels[0])
        return Plan(self.network, max(rows, plan.capacity if plan else 0), kernel, **options)

    def _discard_disturbed(self):
        """Drops plans that an exception or a fork may have left inconsistent."""
        if self.lock.disturbed:
            self.drop_plans()
            self.lock.disturbed = False

    def training_plan(self, rows: int, kernel: Any = None, optimizer: Any = None) -> Plan:
        """The plan for training on minibatches of up to this many rows; uses the optimizer if one is given."""
        self._discard_disturbed()
        plan = self.plan
        if plan is None or not self._serves(plan, rows, kernel):
            self._drop_fast_step()
            plan = self.plan = self._new_plan(plan, rows, kernel, training=True)
        if optimizer is not None:
            plan.use_optimizer(optimizer)
        return plan

    def _plan_to_evaluate(self, rows, kernel=None, *, backward=False):
        """The plan for evaluation; backward: whether it must have a backward pass."""
        self._discard_disturbed()
        plan = self._evaluation_plan
        if not self._serves(plan, rows, kernel) or backward > plan.has_backward:
            backward = backward or (plan is not None and plan.has_backward)
            self._evaluation_plan = self._new_plan(plan, rows, kernel, training=False, backward=backward)
        return self._evaluation_plan

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

    def forward(self, x: Any) -> "Array":
        """Raw outputs for checked rows."""
        network = self.network
        result = np.empty((len(x), *network.output_shape), network.dtype)
        for rows in self._blocks(len(x)):
            check_mapping(x)
            plan = self._plan_to_evaluate(rows.stop - rows.start)
            self._set(plan, x[rows])
            plan.run("forward")
            self._check_inputs(plan, x)
            leave_pages(x)
            result[rows] = plan.buffers[plan.output][: plan.rows]
        return result

    def evaluate(self, samples: Samples, metrics: Any = ()) -> tuple[float, dict[str, float]]:
        """Mean loss of samples, and values of metrics by name."""
        network, total = self.network, 0.0
        outputs = np.empty((len(samples) if metrics else 0, *network.output_shape), network.dtype)
        for rows in self._blocks(len(samples)):
            x, y, weight = samples.part(rows.start, rows.stop)
            plan = self._plan_to_evaluate(len(x), samples.kernel)
            self._set(plan, x, y, weight)
            plan.run("loss")
            self._check_inputs(plan, samples.x)
            leave_pages(samples.x)
            leave_pages(samples.y)
            # The loss of every block includes the penalty; weighted by rows, it counts once.
            total += float(plan.buffers["total"][0]) * plan.rows
            if metrics:
                outputs[rows] = plan.buffers[plan.output][: plan.rows]
        values = {}
        if metrics:
            predictions = network.loss_function.predictions(outputs, network.backend)
            y, weight = samples.targets()
            with self.lock.lend(Use.BORROW):  # a metric may use the network
                values = {metric.column: metric.value(y, predictions, weight) for metric in metrics}
        return total / len(samples), values

    def gradient(self, samples: Samples, *, training: bool, minibatch: int) -> float:
        """Mean loss of samples as one minibatch; writes its gradient to the network's. training: whether layers behave
        as in training, in the minibatch of this number."""
        if training:
            self._drop_fast_step()
            plan = self.training_plan(len(samples), samples.kernel)
        else:
            plan = self._plan_to_evaluate(len(samples), samples.kernel, backward=True)
        self._set(plan, samples.x, samples.y, samples.weight)
        plan.set_minibatch_number(minibatch)
        plan.run("gradient")
        self._check_inputs(plan, samples.x)
        return float(plan.buffers["total"][0])

    def _check_inputs(self, plan, x):
        if not np.isfinite(plan.buffers["largest"][0]):
            check_values("x", x, plan.dtype)

    # ---- training

    @np.errstate(all="ignore")
    def step(self, x: Any, y: Any, optimizer: Any, sample_weight: Any = None, *, scaled: bool = True) -> float:
        """`Network.train_step` for any arguments: checks, casts and raises. Prepares `fast_step` for the next steps if
        they qualify. scaled: False uses the weights without scaling."""
        network = self.network
        if optimizer.is_bound:  # a value that is not finite shows in the loss or the gradient
            x = check_rows("x", x, network.input_shape)
            y, kernel = check_targets("y", y, len(x), network.loss_function, network.output_shape)
        else:  # the first step binds the optimizer, so everything is checked first
            samples = check_samples(network, x, y, names=("x", "y", ""))
            x, y, kernel = samples.x, samples.y, samples.kernel
        weights = None
        if sample_weight is not None:
            shape = len(x), *network.output_shape[:-1]
            weights = check_weights("sample_weight", sample_weight, shape, network.dtype, scaled=scaled)
        with self.lock, optimizer.lock:
            optimizer.discard_disturbed()
            plan = self.training_plan(len(x), kernel, optimizer)
            used = [usable(array, plan.own[name].dtype) for name, array in (("x", x), ("y", y))]
            weights = None if weights is None else usable(weights / plan.losses_in(len(x)), network.dtype)
            steps = Steps.of(plan, optimizer, *used, rows=[len(x)], starts=[0], weights=weights)
            grows = getattr(self.fast_step, "is_used_up", True)
            failed = self.train(steps)
            plan.release()
            if failed is not None:
                check_values("x", x, network.dtype)
                check_values("y", y, network.dtype, kernel.arrays["y"], network.output_shape[-1])
                raise self.failure(steps, failed, optimizer)
            if weights is None and used[0] is x and used[1] is y and steps.parameter_limits is None:
                self._prepare_fast_step(optimizer, grows)
            return float(steps.totals[0])

    def _prepare_fast_step(self, optimizer, grows):
        """Makes `fast_step` for steps like the last one; grows: whether to prefetch more steps than last time."""
        if self.network.backend == "numpy" or not isinstance(optimizer.schedule, Schedule):
            return
        self._fast_steps = min(4 * self._fast_steps, MAX_FAST_STEPS) if grows else 1
        with contextlib.suppress(TypeError, ValueError):  # a schedule that fails at a later step raises at that step
            self.fast_step = self.plan.make_fast_step(self.lock, optimizer, self._fast_steps, self._last_loss)

    def train(self, steps, first=0, pauses=(), notify=None):
        """Runs training steps from `first` on with the optimizer in use; returns None, or the index of the step that
        failed. notify(s) is called after s steps, for every s in `pauses` and about every SLICE_SECONDS; training stops
        if it returns true."""
        self._drop_fast_step()  # its prefetched values are for other steps, perhaps of another optimizer
        plan = self.plan
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
        self._last_loss, self.last_rate, self._totals = steps.totals.item(s - 1), steps.rates.item(s - 1), None
        return None

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
    with np.errstate(all="ignore"):
        return np.require(array, dtype, ["C", "ALIGNED"])


def _not_ready(x, y, optimizer):
    """Stands for a `FastStep` until there is one."""
