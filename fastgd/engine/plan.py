"""The plan: everything a network computes on a minibatch, as a list of kernels bound to their buffers.

Layers and the loss add operations (a kernel and the names of its buffers). The plan then allocates one workspace for
all buffers, chooses a body for every kernel and binds the operations. To run, it executes parts of the list: compiled
bodies (Cython or Numba) in C, numpy bodies in Python. The phases, in order:

    gather       copies the rows of the minibatch from the data
    weight       sets the weight of each loss
    forward      forward pass through the layers
    loss         losses, and their gradient with respect to the outputs
    backward     gradients with respect to the layers' inputs, from the last layer to the first
    to_input     the part of it that only the gradient of the network's input needs
    inputs       largest magnitude in each row of the inputs
    max_abs      raises it to the largest magnitude in the other factors of the parameters' gradient
    total        sums over the rows
    largest      largest magnitude in the minibatch
    parameters   gradient of the parameters
    sums         adds up the gradients of layers that share parameters
    additions    adds further gradients, by kernels that add to an array
    penalty      adds the gradient of the penalty
    check        counts elements of the gradient that exceed the limit
    accumulate   sums the gradients of several minibatches
    norms        sums of squares of the gradient
    factor       norm of the gradient, and the factor that clips it
    update       the optimizer's rule
    rank_one     the rule for a minibatch of one row, applied without storing the gradient
    track        updates running statistics from the minibatch's
    link         predictions from the outputs

Over 400 lines: adding, allocating, binding and running share the same buffers and records."""

import bisect
import collections
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._plan import (
    ASKED_TO_STOP,
    BY_ROWS,
    CHECK_GRADIENT,
    CHECK_LOSS,
    CHECK_MAX_ABS,
    DONE,
    FAULT,
    FUSED,
    GRAIN,
    IMAGES,
    OUT_OF_TIME,
    FastPass,
    FastRecord,
    FastStep,
    InputSlots,
    StepInPython,
    Use,
)
from ..core.buffers import aligned_bytes, aligned_zeros
from ..core.interrupts import held
from ..core.kernel import Kernel
from ..core.types import Shape
from ..errors import choose, value_error
from ..schedules import Schedule
from .gradient import accumulate_gradient
from .program import UPDATE_PASS, UPDATE_PHASES, Operation, PerStep, Program
from .rows import (
    copy_rows,
    count_exceeding,
    fill_rows,
    from_blocks,
    gather_labels,
    gather_rows,
    largest_max_abs,
    max_abs_of_rows,
    max_abs_of_tokens,
    raise_max_abs_of_rows,
    to_blocks,
)
from .steps import PerStepValues, StepValues, addresses
from .totals import penalty_gradient, penalty_value, sum_loss
from .update import write_update

PHASES = (
    "gather", "weight", "forward", "loss", "backward", "to_input", "inputs", "max_abs", "total", "largest",
    "parameters", "sums", "additions", "penalty", "check", *UPDATE_PHASES, "rank_one", "track", "link",
)  # fmt: skip
# Phases with scalars that change from step to step.
PER_STEP_PHASES = ("forward", "backward", *UPDATE_PHASES, "rank_one")
# Phases whose operations work row by row, phases that make the gradient, and phases that take most of the time.
BY_ROWS_PHASES = ("forward", "loss", "backward", "to_input")
GRADIENT_PHASES = ("parameters", "sums", "additions")
WORK_PHASES = (*BY_ROWS_PHASES, "parameters", "additions")
# Phases with a penalty term: of the loss, and of the gradient.
PENALIZED = ("total", "penalty")
# Names of arrays that the plan makes without declaring them.
ENGINE_ARRAYS = (
    "x", "y", "data.x", "data.y", "index", "row", "penalized", "dpenalized", "parameters", "dparameters", "workspace",
    "gradient", "total", "largest", "bad_gradients",
)  # fmt: skip
# Rows that a thread takes through all layers at a time, so that their activations stay in the L2 cache; and positions,
# where rows have several: the activations of sequences do not fit anyway, and each block packs all weights.
BLOCK, BLOCK_OF_POSITIONS = 256, 1024
# Floating-point operations between two readings of the clock.
CLOCK_CHECK_WORK = 1_000_000
# For how many steps per-step values are computed ahead: at first (a quarter), and at most.
FIRST_AHEAD, MAX_AHEAD = 16, 4096
# If parameters, gradient and optimizer state together exceed this many bytes, each part of the parameters is updated as
# soon as its gradient is finished; otherwise one sweep over all of them is faster.
FUSED_BYTES = 512 * 1024
# Block of a fused update: this many elements of the gradient, but at least this many rows of weights, since each block
# packs the gradient of the outputs again.
FUSED_BLOCK, FUSED_ROWS = 64 * 1024, 512
# With this many times more parameters than workspace values, checking the workspace instead of the gradient is faster.
FEW_VALUES = 4

# A pass is a list of stages: (first, last phase that the threads share; first, last closing phase, which the last
# thread to arrive runs alone; flags). See plan.pyx.
_INPUTS = ("inputs", "inputs", "largest", "largest", BY_ROWS | CHECK_MAX_ABS)  # must be finite
_FORWARD = ("forward", "forward", None, None, BY_ROWS)
_GUARDED = ("weight", "max_abs", "total", "largest", BY_ROWS | CHECK_LOSS | CHECK_MAX_ABS)
# The threads share a sum otherwise than the products before it, so it is a stage of its own.
_GRADIENT = tuple((phase, phase, None, None, 0) for phase in GRADIENT_PHASES)
_TRACK = ("track", "track", None, None, 0)
_PENALTY = ("penalty", "penalty", None, None, 0)
PASSES = {
    "forward": (_INPUTS, _FORWARD),
    "predict": (_INPUTS, _FORWARD, ("link", "link", None, None, BY_ROWS)),
    "loss": (_INPUTS, ("weight", "loss", "total", "total", BY_ROWS)),
    "gradient": (_INPUTS, ("weight", "backward", "total", "total", BY_ROWS), *_GRADIENT, _PENALTY),
    # Leaves the gradient as it is if the loss is not finite.
    "checked_gradient": (_INPUTS, ("weight", "backward", "total", "total", BY_ROWS | CHECK_LOSS), *_GRADIENT, _PENALTY),
    "record": (_INPUTS, _FORWARD, _TRACK),
    "backward": (("backward", "backward", None, None, BY_ROWS), *_GRADIENT, _PENALTY),
    "backward_to_input": (("backward", "to_input", None, None, BY_ROWS), *_GRADIENT, _PENALTY),
    "update": (("check", "check", None, None, CHECK_GRADIENT), *UPDATE_PASS),
    "step": (
        ("weight", "backward", "total", "total", BY_ROWS | CHECK_LOSS),
        *_GRADIENT,
        ("penalty", "penalty", "check", "check", CHECK_GRADIENT),
        *UPDATE_PASS,
        _TRACK,
    ),
    # A loss or gradient that is not finite is a step too long, and "ended" stops the run: see optimizers/lbfgs.py.
    "line_search": (
        ("weight", "backward", "total", "total", BY_ROWS),
        *_GRADIENT,
        _PENALTY,
        ("norms", "norms", "factor", "factor", 0),
        ("update", "update", None, None, CHECK_GRADIENT),
        _TRACK,
    ),
    "parameters": _GRADIENT,
    # The parts of a step whose gradient is a sum over ranks: see rank_steps.py.
    "rows_of_rank": (_INPUTS, ("weight", "backward", "total", "total", BY_ROWS)),
    "reduced_update": (("penalty", "penalty", "check", "check", CHECK_GRADIENT), *UPDATE_PASS),
    "track": (_TRACK,),
    "guarded": (_GUARDED, *_GRADIENT, *UPDATE_PASS, _TRACK),
    "fused": (_GUARDED, *((*stage[:-1], FUSED) for stage in _GRADIENT), _TRACK),
    "rank_one": (_GUARDED, ("rank_one", "rank_one", None, None, 0)),
}


def _renamed(names, old, new):
    return tuple(new if name == old else name for name in names)


def _terms_per_row(operation):
    """How many terms per row of a minibatch are summed in an element of a gradient: see `Plan.add_gradient`."""
    kernel, sizes, rows = operation.kernel, {}, set()
    gradient, *others = kernel.arrays.values()
    inputs = [
        (spec, shape) for spec, shape in zip(others, operation.shapes[1:], strict=True) if spec.direction != "out"
    ]
    for spec, shape in inputs:
        if shape is not None:
            rows.add(spec.dims[0])
            sizes |= zip(spec.dims[1:], shape, strict=True)
    summed = {dim for spec, _ in inputs for dim in spec.dims} - {*gradient.dims, *rows}
    unknown = [f"dimension {dim!r} of no buffer of rows" for dim in sorted(summed - set(sizes))]
    if not rows or rows & set(gradient.dims) or unknown:
        expected = "a gradient that is summed over the rows and other dimensions of buffers of rows"
        got = (
            ", ".join(unknown) or f"a gradient {gradient.dims} of {'buffers of rows' if rows else 'no buffer of rows'}"
        )
        raise ValueError(f"kernel {kernel.name}: expected {expected}, got {got}")
    return operation.positions * math.prod(sizes[dim] for dim in summed)


def _set_follower(entry, follower, **numbers):
    """Sets the follower of an operation, and other fields, in the runner's table: see `Operation` in plan.pyx."""
    entry["follower"] = follower
    for name, number in numbers.items():
        entry[name] = number


class Plan(Program):
    """The operations of one network.

    capacity: the most rows in a minibatch.
    loss_kernel: the kernel of the loss, which decides the shape and dtype of the targets.
    training: whether layers behave as in training or as in evaluation.
    backward: whether there is a backward pass.
    to_input: whether that also computes the gradient of the network's input; tokens have none.
    positions: the most positions in a row that an operation treats independently, such as tokens of a sequence or
        pixels of an image; 1 if a row is a vector.
    terms: the most products per row of a minibatch that are summed in one element of the gradient; see
        `add_gradient`."""

    # The earlier positions of a sequence that goes on: see generation/plan.py.
    past = None

    def __init__(self, network, capacity, loss_kernel, *, training, backward=True, to_input=False, backend=None):
        super().__init__(PHASES, backend or network.backend, network.dtype)
        self.network, self.capacity, self.loss_kernel, self.training = network, capacity, loss_kernel, training
        self.has_backward, self.goes_to_input = backward, to_input and not network.vocabulary
        self.may_repeat_backward = to_input  # after one forward pass
        self.l2 = dict.fromkeys(PENALIZED, float(network.l2))  # by phase; see `set_l2`
        self.rows = 0
        # What each array is, by name: one namespace for the arrays of the network and of all layers.
        self._declared = dict.fromkeys(ENGINE_ARRAYS, "one of the engine")
        for name in network.views():
            self._declared |= {name: "parameters", f"d{name}": f"the gradient of {name!r}"}
        self._declared |= dict.fromkeys(network.statistics, "statistics")
        # By path of a container: names of the inputs of its layers, and of their outputs.
        self.child_inputs, self.child_outputs = {}, {}
        # Outputs of layers with relu; gradients that relu's backward pass has been applied to.
        self.relu_outputs, self.gradients_of_z = set(), set()
        self.rank_one_updates = []
        self.combinations = []  # see `combine_over_ranks`
        # By array of parameters: operations that write its gradient; products per row summed in an element of it.
        self._written, self._terms = collections.Counter(), collections.Counter()
        # For each operation of "parameters": how many of "backward" come before it; whether `_interleave` moved some.
        self._marks, self.is_interleaved = [], False
        self.groups = []  # the `UpdateGroup`s of the parameters
        self.optimizer = None
        self._prepared = None  # the steps that the runner is prepared for, and what belongs to them
        # The `StepValues` of the next steps, and for how many steps they were computed.
        self._known_values, self._ahead = None, FIRST_AHEAD
        self.pace = collections.defaultdict(lambda: np.zeros(2))  # by pass: see `Runner.run`
        self.dx = self.prediction = None  # names of the gradient of the input, and of the predictions
        self.is_mid_step = False  # whether a step was interrupted
        self.fast_record = None  # a `FastRecord`, once it was needed
        self.pass_number = 0  # of the last recorded forward pass: see `Executor.recorded`
        self.fast_passes = {}  # by name of the pass
        self._add_operations()
        self._lay_out()
        self._bind()

    # ---- adding operations

    def add(self, phase: str, kernel: Kernel, *arguments: Any, conditional: bool = False) -> None:
        """Appends an operation to a phase. arguments: names of buffers, then scalars.

        Raises ValueError if the phase is unknown, or if an operation outside the update has a per-step scalar that is
        never set: only PerStep("minibatch") is, in the forward and in the backward pass. Raises TypeError if the
        arguments are not as many as the kernel's."""
        choose("phase", phase, self._phases)
        self._check_arguments(phase, kernel, *arguments)
        has_minibatch = phase in ("forward", "backward")
        for name, scalar in zip(kernel.scalars, arguments[len(kernel.arrays) :], strict=True):
            known = phase in (*UPDATE_PHASES, "rank_one") or (has_minibatch and scalar == PerStep("minibatch"))
            if isinstance(scalar, PerStep) and not known:
                expected = "a number or PerStep('minibatch')" if has_minibatch else "a number"
                raise ValueError(
                    f"kernel {kernel.name}, phase {phase!r}: scalar {name!r}: expected {expected}, got {scalar}"
                )
        super().add(phase, kernel, *arguments, conditional=conditional)

    def _check_arguments(self, phase, kernel, *arguments):
        if len(arguments) != len(kernel.arrays) + len(kernel.scalars):
            expected = ", ".join((*kernel.arrays, *kernel.scalars))
            raise TypeError(f"kernel {kernel.name}, phase {phase!r}: expected {expected}, got {arguments}")

    def row_buffer(self, name: str, shape: Shape = (), *, in_blocks: bool = False) -> str:
        """Declares a workspace buffer (rows, *shape); returns its name. Raises ValueError if an array has that name.

        in_blocks: whether its rows are images that lie side by side in blocks: see rows.py."""
        self._declare(name, "a buffer of rows")
        self.row_shapes[name] = tuple(shape)
        if in_blocks:
            self.block_names.add(name)
        return name

    def is_in_blocks(self, name: str) -> bool:
        """Whether the rows of a buffer lie in blocks of images."""
        return name in self.block_names

    def laid_out(self, phase: str, name: str, in_blocks: bool) -> str:
        """A buffer's contents with its rows in blocks of images, or not: itself, or a copy that the phase makes."""
        if self.is_in_blocks(name) == in_blocks:
            return name
        copy = f"{name}.{'blocks' if in_blocks else 'rows'}"
        if phase == "backward":  # where a gradient may be overwritten after it was copied
            copy += str(len(self._phases[phase]))
        if copy not in self.row_shapes:
            self.row_buffer(copy, self.row_shapes[name], in_blocks=in_blocks)
            if in_blocks:  # gradients of missing images are 0
                self.add(phase, to_blocks, name, copy, float(phase == "forward"))
            else:
                self.add(phase, from_blocks, copy, name)
        return copy

    def reshaped(self, name: str, of: str, shape: Shape) -> str:
        """Declares a view `name` of the buffer `of`, with rows of another shape; returns its name."""
        view = self.row_buffer(name, shape, in_blocks=self.is_in_blocks(of))
        self._base[view] = self._base.get(of, of)
        return view

    def reshaped_parameters(self, name: str, shape: Shape) -> str:
        """Declares a view of an array of parameters with another shape; returns its name."""
        view = f"{name}.view"
        self._declare(view, "a view of parameters")
        self.buffers[view] = self.network.views()[name].reshape(shape)
        return view

    def shape(self, name: str) -> Shape:
        """The shape of a row of a buffer."""
        shape: Shape = self.row_shapes[name]
        return shape

    def vector(self, name: str, values: npt.ArrayLike) -> str:
        """Declares a buffer that holds these values and does not depend on the minibatch; returns its name. Raises
        ValueError if an array has that name."""
        self._declare(name, "a vector")
        self.buffers[name] = np.array(values, self.dtype)
        return name

    def combine_over_ranks(
        self, phase: str, function: Callable[..., Any], names: Sequence[str], positions: int
    ) -> None:
        """Says what the vectors `names` are where several ranks share a minibatch: after the last operation of a phase
        they become function(counts, own, *arrays). arrays: (ranks, n) float64 for each name, the vectors of all ranks.
        counts: positions times the rows of each rank; 0 of a rank without rows, whose vectors are zeros. own: that of
        this rank."""
        self.combinations.append((self._phases[phase][-1], function, tuple(names), positions))

    def _declare(self, name, kind):
        """Records the name of a new array, for which all arrays of the network share one namespace."""
        if name in self._declared:
            raise value_error("layers", "arrays of different names", f"{name!r} for {kind} and {self._declared[name]}")
        self._declared[name] = kind

    def add_gradient(self, kernel: Kernel, name: str, *arguments: Any, terms: int | None = None) -> None:
        """Appends an operation that computes the gradient of an array of parameters. If layers share the array, their
        gradients are summed in the order in which they were added. The operation may run at any time between the
        operations of the backward pass that were added before and the end of the pass: these compute its inputs, and
        later ones leave them as they are. In networks on images it runs before an operation of the backward pass that
        was added later and reads the gradient.

        kernel: its first array is the gradient, which it overwrites; or adds to, if the array is `InOut`. Each element
            must be a sum of elements of buffers of rows, or of products of two such elements: the guard against
            overflow knows the largest magnitude in these buffers, and how many terms are summed. Their number is the
            product of the sizes of the dimensions that inputs have and the gradient has not.
        terms: the number of terms per row, if it is another.

        Raises ValueError if the number cannot be derived from the contract: if no input is a buffer of rows, if the
        gradient has the dimension of the rows, or if a dimension of an input is neither the gradient's nor that of a
        buffer of rows."""
        self._check_arguments("parameters", kernel, f"d{name}", *arguments)
        self._terms[name] += terms or _terms_per_row(self.operation(kernel, f"d{name}", *arguments))
        self._written[name] += 1
        whole = self.network.views(self.network.gradient)[name]
        if next(iter(kernel.arrays.values())).direction == "inout":
            if self._written[name] == 1:
                self.buffers[f"d{name}.flat"] = whole.reshape(-1)
                self._add_gradient(fill_rows, f"d{name}.flat", 0.0)
            self.add("additions", kernel, f"d{name}", *arguments)
            return
        if self._written[name] == 1:
            self._add_gradient(kernel, f"d{name}", *arguments)
            return
        part = self.vector(f"d{name}+{self._written[name]}", np.zeros(whole.shape))
        self._add_gradient(kernel, part, *arguments)
        self.buffers[f"d{name}.flat"], self.buffers[f"{part}.flat"] = whole.reshape(-1), self.buffers[part].reshape(-1)
        self.add("sums", accumulate_gradient, f"d{name}.flat", f"{part}.flat", 1.0, 1.0)

    def _add_gradient(self, kernel, *arguments):
        self._marks.append(len(self._phases["backward"]))
        self.add("parameters", kernel, *arguments)

    def add_rank_one_update(self, b, w, x, dy):
        """Records that for one row of one position the gradient of b is dy and the gradient of w is x^T dy."""
        self.rank_one_updates.append((b, w, x, dy))

    def mark(self):
        """The current ends of the lists of operations, for `keep`."""
        phases = "backward", "parameters", "additions"
        return *(len(self._phases[phase]) for phase in phases), len(self.rank_one_updates)

    def keep(self, name, mark, result):
        """Preserves the contents that a buffer had at a mark: if an operation added to the backward pass since then
        writes to it, all operations added since then use a copy. Returns the name of their result, which may be that
        copy."""
        base = self._base.get(name, name)
        backward, parameters, additions, products = mark
        if not any(base in operation.outputs for operation in self._phases["backward"][backward:]):
            return result
        copy = self.row_buffer(
            f"{base}.copy{len(self.row_shapes)}", self.row_shapes[base], in_blocks=self.is_in_blocks(base)
        )
        added = zip(("backward", "parameters", "additions"), (backward, parameters, additions), strict=True)
        for operation in (o for phase, first in added for o in self._phases[phase][first:]):
            operation.buffers = _renamed(operation.buffers, base, copy)
        self.rank_one_updates[products:] = [_renamed(p, base, copy) for p in self.rank_one_updates[products:]]
        self._phases["backward"].insert(backward, self.operation(copy_rows, copy, base))
        self._marks[parameters:] = [mark + 1 for mark in self._marks[parameters:]]
        is_copy = self._base.get(result, result) == base
        return self.reshaped(f"{copy}.view", copy, self.row_shapes[result]) if is_copy else result

    def _add_operations(self):
        network, loss = self.network, self.loss_kernel
        self.loss_shape = network.output_shape[:-1]  # shape of the losses of a row: one per position
        labels = network.loss_function.takes_labels and loss is network.loss_function.kernels[0]
        y_shape = self.loss_shape if labels else network.loss_function.target_shape(network.output_shape)
        for name, shape in (("x", network.input_shape), ("y", y_shape)):
            self.row_shapes |= {name: shape, f"data.{name}": shape}
        self.row_shapes |= {"index": (), "row": ()}
        self.add("gather", gather_rows, "x", "data.x", "index")
        self.add("gather", gather_labels if labels else gather_rows, "y", "data.y", "index")
        self.add("weight", fill_rows, self.row_buffer("weight", self.loss_shape), 1.0)
        output = network.body.forward(self, "", "x")
        self.output = self.laid_out("forward", output, in_blocks=False)
        scalars, dy = network.loss_function.parameters.values(), self.row_buffer("dz", network.output_shape)
        losses = self.row_buffer("losses", self.loss_shape)
        per_target, z, dz = network.loss_function.outputs_per_target, self.output, dy
        if per_target > 1:
            shape = (*self.loss_shape, per_target, y_shape[-1])
            z, dz = self.reshaped("outputs.by_target", z, shape), self.reshaped("dz.by_target", dy, shape)
        self.add("loss", loss, losses, dz, z, "y", "weight", *scalars)
        if self.has_backward:
            dy = self.laid_out("backward", dy, self.is_in_blocks(output))
            self.dx = network.body.backward(self, "", "x", dy, self.goes_to_input)
            if loss.in_place == ("dz", "z"):
                self._share_outputs()
            if self.goes_to_input:
                self._part_to_input()
            for name in network.views():
                if not self._written[name]:
                    raise value_error(
                        "layers", "layers that add a gradient for all their parameters", f"none for {name!r}"
                    )
        if not self.training:
            self.prediction = self._add_link()
        self.terms = max(self._terms.values(), default=1)
        max_abs = self.row_buffer("max_abs")
        if network.vocabulary:
            self.add("inputs", max_abs_of_tokens, max_abs, "x", network.token_vectors)
        else:
            self.add("inputs", max_abs_of_rows, max_abs, "x")
        if self.block_names:
            self._interleave()
        for name in self._guarded():
            self.add("max_abs", raise_max_abs_of_rows, max_abs, name)
        self.add("total", sum_loss, "total", losses)
        self.add("largest", largest_max_abs, "largest", max_abs)
        if network.n_weights and (network.l1 or network.l2):
            self.add("total", penalty_value, "total", "penalized", network.l1, network.l2)
            self.add("penalty", penalty_gradient, "dpenalized", "penalized", network.l1, network.l2)
        self.add("check", count_exceeding, "bad_gradients", "gradient", 0.0)

    def _share_outputs(self):
        """Gives dz the memory of the outputs, unless the backward pass needs these: with many outputs, such as the
        tokens of a vocabulary, they are the largest buffers."""
        output = self._base.get(self.output, self.output)
        later = (o for phase in ("backward", *GRADIENT_PHASES, "track") for o in self._phases[phase])
        if output == "x" or any(output in operation.buffers for operation in later):
            return
        self._base["dz"] = output
        for operation in (o for phase in self._phases.values() for o in phase):
            operation.buffers = _renamed(operation.buffers, "dz", output)

    def _add_link(self):
        """Adds the loss's link; returns the name of the predictions."""
        link = self.network.loss_function.link
        if link is None:
            return self.output
        prediction = self.row_buffer("prediction", self.network.output_shape)
        self.add("link", link, prediction, self.output)
        return prediction

    def _part_to_input(self):
        """Moves the last operations of the backward pass to a phase of their own if only the gradient of the input
        needs them, and they do not read the gradients of parameters, which come later."""
        backward = self._phases["backward"]
        parameters = [operation for phase in GRADIENT_PHASES for operation in self._phases[phase]]
        needed = {name for operation in parameters for name in operation.buffers}
        gradients = {name for operation in parameters for name in operation.outputs}
        while backward and not needed.intersection(backward[-1].outputs) | gradients.intersection(backward[-1].buffers):
            self._phases["to_input"].insert(0, backward.pop())

    def _guarded(self):
        """The buffers except x whose products make up the gradient of the parameters: a limit on their elements
        implies one on the gradient. Networks on images check the gradient itself, which is smaller."""
        if self.block_names:
            return []
        if self.capacity == 1:
            return ["workspace"]
        gradients = (o for phase in GRADIENT_PHASES for o in self._phases[phase])
        used = {name: None for operation in gradients for name in operation.buffers}
        return [name for name in used if name in self.row_shapes and name != "x"]

    def _interleave(self):
        """Moves gradients of parameters into the backward pass, to the next operation that reads one, or for which the
        threads wait for each other anyway: then their inputs are still in a cache, and their memory is free sooner."""
        backward, parameters = self._phases["backward"], self._phases["parameters"]
        waiting, ordered = list(zip(self._marks, parameters, strict=True)), []
        for i, operation in enumerate(backward):
            is_read = any(set(gradient.outputs).intersection(operation.buffers) for _, gradient in waiting)
            if is_read or not self._goes_by_rows(operation):
                self.is_interleaved = True
                ordered += [gradient for mark, gradient in waiting if mark <= i]
                waiting = [(mark, gradient) for mark, gradient in waiting if mark > i]
            ordered.append(operation)
        backward[:], parameters[:] = ordered, [gradient for _, gradient in waiting]

    def _goes_by_rows(self, operation):
        """`Operation.is_by_rows` before the operation is bound."""
        kernel = operation.kernel
        named = zip(operation.buffers, kernel.arrays.values(), strict=True)
        rows = {spec.dims[0] for name, spec in named if name in self.row_shapes}
        return not kernel.at_once and kernel.range_dim in rows

    # ---- allocating and binding

    def _lay_out(self):
        network, capacity = self.network, self.capacity
        given = {"x", "y", "index", "row", "data.x", "data.y", *self._base}
        shapes = {name: self._shape_for(name, capacity) for name in self.row_shapes if name not in given}
        piece_of, self._pieces = self._assign_pieces({name: math.prod(shape) for name, shape in shapes.items()})
        self.workspace, pieces = aligned_zeros(self._sizes_for(capacity), self.dtype)
        for name, shape in shapes.items():
            self.buffers[name] = pieces[piece_of[name]].reshape(shape)
        # Buffers for rows that are gathered or cast; `set_minibatch` may point x and y to other arrays.
        y_dtype = self.loss_kernel.arrays["y"].dtype or self.dtype
        self.own = {
            name: np.zeros((capacity, *self.row_shapes[name]), dtype)
            for name, dtype in (("x", self.dtype), ("y", y_dtype))
        }
        self.buffers |= self.own
        self.buffers |= {f"data.{name}": array for name, array in self.own.items()}
        self.buffers["index"], self.buffers["row"] = np.zeros(capacity, np.int64), np.arange(capacity)
        self.row_names = {*shapes, *self.own, "index", "row"}
        self.buffers |= network.statistics
        for prefix, flat in (("", network.parameters), ("d", network.gradient)):
            self.buffers |= {prefix + name: view for name, view in network.views(flat).items()}
            self.buffers[f"{prefix}penalized"] = flat[: network.n_weights]
            self.buffers[f"{prefix}parameters"] = flat
        self.buffers["workspace"] = self.workspace.reshape(1, -1)
        self.buffers["gradient"] = network.gradient.reshape(1, -1)
        self.buffers["total"] = np.zeros(1, np.float64)
        self.buffers["largest"] = np.zeros(1, np.float64)
        self.buffers["bad_gradients"] = np.zeros(1, np.int64)

    def _shape_for(self, name, rows):
        """The shape of a buffer for minibatches of up to so many rows."""
        shape = self.row_shapes[name]
        return (-(-rows // IMAGES), *shape, IMAGES) if name in self.block_names else (rows, *shape)

    def _sizes_for(self, rows):
        """The sizes of the pieces of the workspace for minibatches of up to so many rows."""
        return [math.prod(self._shape_for(name, rows)) for name in self._pieces]

    def _assign_pieces(self, sizes):
        """({name: index of a piece of memory}, [name of a buffer in each piece]), given the sizes of the buffers.
        Buffers of layers share a piece if they have the same size, so that all rows stay in their place, and none is
        used after the next was written. The piece that became free last is taken first: a cache may still hold it.
        After a recorded forward pass the backward pass may be run again, so plans for that keep what it reads from the
        forward pass."""
        first, last = {}, {}
        for i, operation in enumerate(o for phase in PHASES for o in self._phases[phase]):
            for name in operation.buffers if isinstance(operation, Operation) else ():
                base = self._base.get(name, name)
                first.setdefault(base, i)
                last[base] = i
        backward = sum(len(self._phases[phase]) for phase in PHASES[: PHASES.index("backward")])
        piece_of, pieces, free = {}, [], collections.defaultdict(list)
        alone = self._alone()
        for name in sorted(sizes, key=lambda name: first.get(name, -1)):
            size = sizes[name]
            if name in first and name not in alone:
                is_kept = self.may_repeat_backward and first[name] < backward <= last[name]
                end = math.inf if is_kept else last[name]
                entries = [entry for entry in free[size, name in self.block_names] if entry[0] < first[name]]
                if entries:
                    found = max(entries)
                    found[0], piece_of[name] = end, found[1]
                    continue
                free[size, name in self.block_names].append([end, len(pieces)])
            piece_of[name] = len(pieces)
            pieces.append(name)
        return piece_of, pieces

    def _alone(self):
        """Buffers that share no memory, since others than operations read or write them, or the `inputs`, which may run
        first."""
        names = "weight", "losses", "dz", "max_abs", self.output, self.dx, self.prediction
        return {self._base.get(name, name) for name in names}

    def rows_of(self, name):
        """The array of a buffer of rows, or of a view of one, for as many rows as the plan has capacity for."""
        return self.buffers[self._base.get(name, name)].reshape(self.capacity, *self.row_shapes[name])

    def bytes_for(self, rows):
        """Bytes of the arrays of a plan like this for minibatches of up to so many rows: workspace, inputs, vectors."""
        inputs = *self.own.values(), self.buffers["index"], self.buffers["row"]
        vectors = sum(self.buffers[name].nbytes for name, kind in self._declared.items() if kind == "a vector")
        of_a_row = sum(array.nbytes for array in inputs) // self.capacity
        return aligned_bytes(self._sizes_for(rows), self.dtype) + rows * of_a_row + vectors

    def _bind(self, first=0):
        self._stages_of_pass = {}  # by name, and whether rows are gathered
        self._binding = object()  # another one as soon as records have other addresses
        self.bind(first)
        self.positions = max(operation.positions for phase in BY_ROWS_PHASES for operation in self._phases[phase])
        # Floating-point operations per row, approximately.
        self.work = sum(o.work for phase in WORK_PHASES for o in self._phases[phase]) / self.capacity
        if self.backend != "numpy":
            total = self._phases["total"][0]
            self.make_runner(
                total=total.slot("total"),
                largest=self.buffers["largest"].ctypes.data,
                bad_gradients=self.buffers["bad_gradients"].ctypes.data,
                row_block=IMAGES if self.block_names else self._row_block(),
                row_grain=IMAGES if self.block_names else max(1, GRAIN // self.positions),
            )
            self.set_threads(self.network.num_threads)
            self._inputs = self._input_slots()

    def _row_block(self):
        return BLOCK if self.positions == 1 else max(1, BLOCK_OF_POSITIONS // self.positions)

    def use_optimizer(self, optimizer):
        """Replaces the operations of the update phases by the optimizer's."""
        if optimizer is self.optimizer:
            return
        self._prepared, self._known_values, self._ahead = None, None, FIRST_AHEAD
        network = self.network
        optimizer.check_network(network)
        with network.executor.lock.lend(Use.BORROW):  # a learning-rate function may evaluate the network
            optimizer.prepare(self.backend, self.dtype, {part.group for part in optimizer.parts_of(network)})
        parts = optimizer.bind(network)
        for phase in (*UPDATE_PHASES, "rank_one"):
            self._phases[phase].clear()
        named = []
        for start, stop, group in parts:
            cut = "" if stop - start == network.n_parameters else f"[{start}:{stop}]"
            for name, flat in (("parameters", network.parameters), ("dparameters", network.gradient)):
                self.buffers[name + cut] = flat[start:stop]
            named.append((f"parameters{cut}", f"dparameters{cut}", group))
        write_update(self, optimizer, named)
        rank_one = optimizer.rank_one_kernel
        products = [name for b, w, _, _ in self.rank_one_updates for name in (b, w)]
        is_whole = sorted(products) == sorted(network.views()) and self.gradient_is_rank_one
        if rank_one and optimizer.is_plain and is_whole:
            for product in self.rank_one_updates:
                scalars = [PerStep((parts[0].group, name)) for name in rank_one.scalars]
                self.add("rank_one", rank_one, *product, *scalars)
        self._bind(self.ends["check"])
        self.groups = sorted({part.group for part in parts})
        self._set_followers(parts)
        self.optimizer = optimizer
        self.best_pass = self._choose_pass()

    @property
    def gradient_is_rank_one(self):
        """Whether each gradient is one outer product of two vectors."""
        return self.capacity * self.terms == 1

    def set_threads(self, num_threads):
        """Sets the most threads. The steps in progress are prepared again."""
        if self.runner is not None:
            self.runner.set_work(self.work, num_threads, self.positions)
            self._prepared = None

    def threads(self, rows):
        """How many threads the work on so many rows is worth."""
        return 1 if self.runner is None else self.runner.threads(rows)

    def _choose_pass(self):
        """The fastest pass for a training step. With a penalty it is "step": only that adds the penalty."""
        network, optimizer = self.network, self.optimizer
        if optimizer.training_pass is not None:
            return optimizer.training_pass
        if self.runner is None or network.l1 or network.l2 or self.block_names or self._has_large_rows():
            return "step"
        few_values = self.gradient_is_rank_one and self.workspace.size * FEW_VALUES < network.n_parameters
        if few_values and self._phases["rank_one"]:
            return "rank_one"
        if network.parameters.nbytes * 2 + optimizer.state_bytes(network) > FUSED_BYTES:
            return "fused" if optimizer.works_by_parts else "guarded"
        return "guarded" if few_values else "step"

    def _has_large_rows(self):
        """Whether rows have positions, and the guard would read more than a check of the gradient and a second reading
        in the update do."""
        shapes = [self._shape_for(name, self.capacity) for name in self._guarded() if name != "workspace"]
        return self.positions > 1 and sum(map(math.prod, shapes)) > 2 * self.network.n_parameters

    def _set_followers(self, parts):
        """Makes the update of a part the follower of each operation that finishes some of the part's gradient."""
        flat, followed = self.network.gradient, {}
        updates = range(*self.range_of("update", "update"))
        first = dict(zip(range(*self.range_of("accumulate", "accumulate")), updates, strict=False))
        for accumulate, update in first.items():
            _set_follower(self._table[accumulate], update, block=0, scale=1, offset=0)
        for part, follower in zip(parts, first or updates, strict=True):
            followed[part] = follower
        begin = self.range_of("parameters", "parameters")[0]
        finished = {}  # by address of an array of the gradient: the last operation that writes it, and the array
        for i, operation in enumerate((o for phase in GRADIENT_PHASES for o in self._phases[phase]), begin):
            _set_follower(self._table[i], -1, block=0, scale=0, offset=0)
            finished[operation.arguments[0].ctypes.data] = i, operation.arguments[0]
        for address, (i, array) in finished.items():
            offset = (address - flat.ctypes.data) // flat.itemsize
            scale = array.size // array.shape[0]
            block = max(FUSED_ROWS, FUSED_BLOCK // scale // GRAIN * GRAIN)
            for part, follower in followed.items():
                if part.start <= offset < part.stop:
                    _set_follower(self._table[i], follower, block=block, scale=scale, offset=offset - part.start)

    # ---- for each minibatch

    def _slots(self, name):
        """Addresses of the slots that hold the address of a buffer."""
        return np.array([link.record.ctypes.data + 8 * j for link, j in self.links_with(name)], np.int64)

    def losses_in(self, rows):
        """How many losses this many rows have: one per position."""
        return rows * math.prod(self.loss_shape)

    def set_minibatch(self, x, y=None, weight=None):
        """Makes `run` read the rows of x, and of y if given, in place.

        x, y: C-contiguous, aligned, with the dtypes of `own`. weight: a factor of the loss at each position, in the
        plan's dtype; None is 1 / `losses_in`."""
        self.rows, self._prepared = len(x), None
        self._minibatch = x, y, weight  # keeps the arrays alive
        self._write_l2()
        weight = self.buffers["weight"][: self.rows] if weight is None else weight
        if self.runner is None:
            self._set_arguments(x, y, weight)
        else:
            y_address = 0 if y is None else y.ctypes.data
            self.runner.set_inputs(self._inputs, self.rows, x.ctypes.data, y_address, weight.ctypes.data)

    def take_rows(self, rows):
        """Makes numpy bodies work on so many rows."""
        for operation in self.operations:
            for link in operation.links:
                for j, name in enumerate(link.buffers):
                    if name in self.row_names:
                        count = -(-rows // IMAGES) if name in self.block_names else rows
                        link.arguments[j] = link.view(j, self.buffers[name][:count])

    def _set_arguments(self, x, y, weight):
        """What `Runner.set_inputs` does, for numpy bodies."""
        self.take_rows(self.rows)
        self.point("x", x)
        if y is not None:
            self.point("y", y)
        self._phases["weight"][0].set_scalars(value=1 / self.losses_in(self.rows))
        (loss,) = self._phases["loss"]
        j = loss.buffers.index("weight")
        loss.arguments[j] = loss.view(j, weight)

    def _input_slots(self):
        """The slots for the inputs of a step, for the runner."""
        names = {"x": "x", "y": "y", "index": "index", "data_x": "data.x", "data_y": "data.y"}
        gathered = [operation.slot("m") for operation in self._phases["gather"]]
        return InputSlots(
            **{key: self._slots(name) for key, name in names.items()},
            weight=np.array([self._phases["loss"][0].slot("weight")]),
            mean_weight=np.array([self._phases["weight"][0].slot("value")]), data_rows=np.array(gathered),
            losses=self.losses_in(1), terms=self.terms, own=(self.own["x"], self.own["y"], self.buffers["weight"]),
        )  # fmt: skip

    def set_minibatch_number(self, number):
        """Sets the number of the minibatch, from which random layers derive their random numbers. (`add` refuses other
        per-step scalars in these phases.)"""
        for link, name in self._minibatch_scalars():
            link.set_scalars(**{name: float(number)})

    @property
    def is_random(self):
        """Whether layers draw random numbers."""
        return bool(self._minibatch_scalars())

    def _minibatch_scalars(self):
        return [(link, name) for _, name, links in self.per_step(BY_ROWS_PHASES) for link in links]

    def stages_of(self, pass_name, gather=False):
        """The stages of a pass; with `gather`, the pass gathers its rows first."""
        stages = self._stages_of_pass.get((pass_name, gather))
        if stages is None:
            first = {"weight": "gather"} if gather else {}
            parts = [part for stage in PASSES[pass_name] for part in self._parts_of(stage)]
            stages = self.stages([(first.get(part[0], part[0]), *part[1:]) for part in parts])
            self._stages_of_pass[pass_name, gather] = stages
        return stages

    def _parts_of(self, stage):
        """A stage; or two, where the backward pass follows the loss in it and computes gradients of parameters: these
        must not change before the loss is checked."""
        first, last, *closing, flags = stage
        has_both = PHASES.index(first) <= PHASES.index("loss") and PHASES.index("backward") <= PHASES.index(last)
        if not (self.is_interleaved and has_both):
            return (stage,)
        return (first, "loss", *closing, flags), ("backward", last, None, None, BY_ROWS)

    def run(self, pass_name, dy=None):
        """Runs a pass once on the minibatch set by `set_minibatch`. dy: as in `raise_fault`."""
        if any("total" in stage for stage in PASSES[pass_name]):
            self.point("total", self.buffers["total"])
        self.run_stages(self.stages_of(pass_name), pass_name, dy)

    def run_stages(self, stages, pass_name, dy=None):
        """`run` of the stages of a pass, or of some of them."""
        if not len(stages):
            return
        if self.runner is None:
            self.run_in_python(stages)
        elif self.runner.run(stages, self.rows, self.threads(self.rows), self.pace[pass_name]) == FAULT:
            self.raise_fault(*self._minibatch[:2], dy)

    def raise_fault(self, x, y, dy=None):
        """If a user's function raised in compiled code on these rows, repeats the pass in Python to raise its
        exception. y: None for a forward pass. dy: given for a backward pass from this gradient of the outputs."""
        self.check_memory()
        failed = next((link for link in self.users_links if link.fault[0]), None)
        if failed is None:
            return
        update = self.failed_update()
        if update is not None:
            self.is_mid_step = True
            self.raise_in_update(update)
        twin = Plan(
            self.network, len(x), self.loss_kernel, training=self.training, backward=self.has_backward,
            to_input=self.may_repeat_backward, backend="numpy",
        )  # fmt: skip
        with np.errstate(over="ignore"):
            used = {
                name: np.require(a, twin.own[name].dtype).reshape(twin.own[name].shape)
                for name, a in (("x", x), ("y", y)) if a is not None
            }  # fmt: skip
        twin.set_minibatch(**used)
        for phase in (*BY_ROWS_PHASES, "link"):
            for compiled, operation in zip(self._phases[phase], twin._phases[phase], strict=True):
                operation.copy_scalars(compiled)
        passes = [_FORWARD, ("link", "link", None, None, 0)] if y is None else [("weight", "backward", None, None, 0)]
        twin.run_in_python(twin.stages(passes if dy is None else [_FORWARD]))
        if dy is not None:
            twin.rows_of("dz")[...] = dy
            twin.run_in_python(twin.stages([("backward", "to_input", None, None, 0)]))
        raise failed.kernel.fault()

    # ---- training

    def train(self, steps, first, pauses, pass_name, seconds, notify=None):
        """Runs steps first ... pauses[-1]-1 and returns (step, status): the step at which it stopped, and why.

        The call must continue where the last call for these steps stopped, and the optimizer must be in use. Status:
        DONE; OUT_OF_TIME after this many seconds; BAD_LOSS, HIGH_MAX_ABS or BAD_GRADIENT; FAULT; ASKED_TO_STOP if
        notify(s), called after s steps for each s in `pauses`, returned true. Call `release` after the last call."""
        if self.runner is None:
            end = int(pauses[np.searchsorted(pauses, first, side="right")])
            return self._train_in_python(steps, first, end, seconds)
        if not self.is_ready_for(steps) or self._prepared[1] != pass_name:
            self._prepare(steps, first, pass_name)
        threads, ending = self._prepared[2:4]
        result = self.runner.train(first, pauses, notify, threads, seconds)
        if ending is not None and result[1] in (DONE, OUT_OF_TIME, ASKED_TO_STOP):
            self.runner.run(ending, 1, 1, self.pace["parameters"])
        return result

    def _prepare(self, steps, first, pass_name):
        """Prepares the runner for steps from `first` on."""
        stages = self.stages_of(pass_name, gather=not steps.in_place)
        # The pass for one row stores no gradient, so the gradient of the last step is computed at the end.
        ending = self.stages_of("parameters") if pass_name == "rank_one" else None
        per_step = self._table_of(steps.known, steps.penalties, steps.first)
        rows = int(steps.rows[0])
        self.runner.prepare(
            stages, self._inputs, per_step.table, steps.known, steps, bisect.bisect_right(steps.ends, first),
            self.optimizer.counter, self.network.counter, self.pace[pass_name],
            int(max(1, CLOCK_CHECK_WORK // (rows * self.work))),
        )  # fmt: skip
        kept = per_step, stages
        self._prepared = steps, pass_name, self.threads(rows), ending, self.runner.uses, kept

    def is_ready_for(self, steps):
        """Whether the runner is prepared for these steps, and the plan was not used for anything else since."""
        prepared = self._prepared
        return self.runner is None or (
            prepared is not None and prepared[0] is steps and prepared[4] == self.runner.uses
        )

    def release(self):
        """Drops the steps it has run, and with them the caller's arrays."""
        self._prepared = None

    def values_of_steps(self, optimizer, count):
        """(known, first): the `StepValues` of the optimizer's next `count` steps, from index `first` on; fewer if
        learning rates are not known that far. With a schedule of the package, values of further steps are computed with
        them: four times as many as last time if all of those were used."""
        known = self._known_values
        first = None if known is None else known.first_of_next(optimizer, self.network)
        may_look_ahead = self.runner is not None and isinstance(optimizer.schedule, Schedule)
        if first is not None and may_look_ahead and first + count <= len(known):
            return known, first
        self._known_values = None
        if may_look_ahead:
            self._ahead = min(4 * self._ahead, MAX_AHEAD) if first is not None or known is None else 1
            with contextlib.suppress(
                TypeError, ValueError
            ):  # a schedule that fails at a later step raises at that step
                known = StepValues.of(self, optimizer, max(count, self._ahead))
                self._known_values = known
                return known, 0
        return StepValues.of(self, optimizer, count), 0

    def _table_of(self, known, penalties, first=0):
        """The `PerStepValues` of known steps: addresses for the losses, scalars, limits of the gradient. penalties: as
        in `Steps`, from step `first` of the known ones on."""
        if known.table is None or known.binding is not self._binding or penalties:
            known.binding = self._binding
            known.table = table = PerStepValues()
            totals = addresses(known.totals, np.arange(len(known)))
            table.add(self._slots("total").tolist(), totals)
            for key, name, links in self.per_step(PER_STEP_PHASES):
                table.add([link.slot(name) for link in links], known.values[key])
            for address, size in self.conditional():
                table.add([address], known.active * size)
            for phase in PENALIZED:
                values = np.broadcast_to(self.l2[phase], len(known))
                if phase in penalties:
                    values = np.concatenate([np.zeros(first), penalties[phase]])
                table.add([operation.slot("l2") for operation in self._penalties(phase)], values)
            table.add([self._phases["check"][0].slot("limit")], known.gradient_limits)
        if penalties:  # later steps have others
            known.table, self._known_values = None, None
            return table
        return known.table

    def set_l2(self, values):
        """Sets l2 in the loss ("total") and in the gradient ("penalty") for steps that have no `penalties`."""
        if values != self.l2:
            self.l2 = values
            self._write_l2()

    def _write_l2(self):
        for phase, value in self.l2.items():
            for operation in self._penalties(phase):
                operation.set_scalars(l2=value)

    def phase(self, name):
        """The operations of a phase."""
        return self._phases[name]

    def leave_out_penalty(self):
        """Leaves the penalty out of the loss."""
        for operation in self._phases["total"][1:]:
            operation.set_scalars(l1=0.0, l2=0.0)
        self.l2 = {**self.l2, "total": 0.0}

    def _penalties(self, *phases):
        """The operations of the penalty, in all phases or in the given ones."""
        return [o for phase in phases or PENALIZED for o in self._phases[phase] if "l2" in o.kernel.scalars]

    @property
    def can_check_targets(self):
        """Whether fast paths notice bad targets: the package's kernels of losses give NaN for them, users' may not."""
        return not self.loss_kernel.functions or self.loss_kernel.arrays["y"].domain in ("real", "labels")

    def _target_options(self):
        labels = self.loss_kernel.arrays["y"].domain == "labels"
        classes = self.network.output_shape[-1] if labels else 0
        return {"y": self.own["y"], "classes": classes, "checks_y": bool(self.loss_kernel.functions)}

    def make_fast_step(self, lock, optimizer, last_loss):
        """A `FastStep` for the next steps of the optimizer, which must be in use; None if their values are unknown."""
        known = self._known_values
        first = None if known is None else known.first_of_next(optimizer, self.network)
        if first is None or first == len(known):
            return None
        # After a single step the caller may read the gradient, so "rank_one" does not serve.
        pass_name = "guarded" if self.best_pass == "rank_one" else self.best_pass
        return self._fast_step(pass_name, lock, optimizer, known, last_loss)

    def _fast_step(self, pass_name, lock, optimizer, known, last_loss):
        """A `FastStep` that runs a pass for steps whose `StepValues` are known."""
        per_step, stages = self._table_of(known, {}), self.stages_of(pass_name)
        return FastStep(
            self.runner, lock, optimizer, stages=stages, per_step=per_step.table,
            weights=self.buffers["weight"],
            inputs=self._inputs, limits=known.gradient_limits, begin=known.begin, trained=known.trained,
            counter=optimizer.counter, minibatches=self.network.counter, pace=self.pace[pass_name],
            capacity=self.capacity, x=self.own["x"], **self._target_options(), last_loss=last_loss,
            elements=self.network.n_parameters, watched=self.watched(), raise_fault=self.raise_fault,
            kept=(self, known, per_step),
        )  # fmt: skip

    def make_updater(self, lock, optimizer, known, pass_name="update"):
        """A `FastStep` for updates from the network's gradient, whose `StepValues` are known."""
        return self._fast_step(pass_name, lock, optimizer, known, math.nan)

    def update_in_python(self, known, pass_name="update"):
        """Makes the first of the updates whose `StepValues` are known, with numpy bodies; returns the status."""
        self.prepare_in_python(UPDATE_PHASES, known.values, 0, known.active[0])
        self._phases["check"][0].set_scalars(limit=float(known.gradient_limits[0]))
        with StepInPython():
            self.is_mid_step = True
            status = self.run_in_python(self.stages_of(pass_name))
            if status == DONE:
                self.optimizer.counter[0] += 1
                self.network.counter[0] += 1
            self.is_mid_step = False
        return status

    def make_fast_pass(self, lock, use, pass_name):
        """A `FastPass` that runs a pass."""
        result = self.prediction if pass_name == "predict" else self.output
        return FastPass(**self._fast_pass_options(lock, use, pass_name), out=self.rows_of(result))

    def make_fast_record(self, lock, use):
        """A `FastRecord` of the outputs, with the backward pass."""
        fast = FastRecord(**self._fast_pass_options(lock, use, "record"), out=self.rows_of(self.output))
        fast.prepare_backward(
            stages=self.stages_of("backward"), stages_to_input=self.stages_of("backward_to_input"),
            pace=self.pace["backward"], pace_to_input=self.pace["backward_to_input"], x=self.own["x"],
            dy=self.rows_of("dz"), dx=self.rows_of(self.dx or "x"), minibatches=self.network.counter,
            raise_fault=self.raise_fault,
        )  # fmt: skip
        return fast

    def _fast_pass_options(self, lock, use, pass_name):
        return {
            "runner": self.runner, "lock": lock, "use": use, "stages": self.stages_of(pass_name),
            "pace": self.pace[pass_name], "inputs": self._inputs, "capacity": self.capacity,
            "x": self.own["x"], **self._target_options(), "weights": self.buffers["weight"],
            "minibatch": np.array([link.slot(name) for link, name in self._minibatch_scalars()], np.int64),
            "gradient": self.network.gradient, "recorded": self.network.executor.recorded, "watched": self.watched(),
            "raise_fault": self.raise_fault, "kept": self,
        }  # fmt: skip

    def _train_in_python(self, steps, first, end, seconds):
        with held() as received:  # no signal interrupts a step
            return self._steps_in_python(steps, first, end, seconds, received)

    def _steps_in_python(self, steps, first, end, seconds, received):
        deadline = time.monotonic() + seconds
        stages = self.stages_of(self.best_pass)
        for s in range(first, end):
            if s > first and (received or time.monotonic() > deadline):
                return s, OUT_OF_TIME
            x, y = steps.minibatch(s)
            weight = None
            if steps.weights is not None:
                weight = steps.weights[steps.weight_starts[s] :][: len(x)]
            self.set_minibatch(x, y, weight)
            known, at = steps.known, steps.first + s
            self.prepare_in_python(PER_STEP_PHASES, known.values, at, known.active[at])
            self._phases["check"][0].set_scalars(limit=float(known.gradient_limits[at]))
            for phase, values in steps.penalties.items():
                for operation in self._penalties(phase):
                    operation.set_scalars(l2=float(values[s]))
            with StepInPython():
                self.is_mid_step = True
                status = self.run_in_python(stages)
                known.totals[at] = self.buffers["total"][0]
                if status == DONE:
                    self.optimizer.counter[0] += 1
                    self.network.counter[0] += 1
                    steps.count(s)
                self.is_mid_step = False
            if status != DONE:
                return s, status
        return end, DONE
