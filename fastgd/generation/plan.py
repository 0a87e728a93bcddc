"""The plan for generation: its rows are consecutive positions of one sequence, and it keeps the past of the sequence.

Layers that treat positions independently add the operations that they always add. `plan.past` tells the others that
earlier positions are not in the rows, but in arrays that they declare with `GenerationPlan.kept`."""

import copy
import dataclasses
import time

import numpy as np
import numpy.typing as npt

from .._plan import FAULT, GRAIN, STAGE
from ..core.buffers import aligned_zeros
from ..engine.plan import Plan
from ..engine.program import Operation
from ..layers.dense import dense_backward_input, dense_forward
from .kernels import sample_token, split_k_product, sum_of_splits, transposed_product_of_row

# Kernels that see no dimension of rows.
FLAT = {split_k_product, sum_of_splits, transposed_product_of_row, sample_token}
# A product of one row is the sum of so many parts, which the threads share.
PARTS = 8
# An operation of fewer floating-point operations is not worth a barrier, and a thread must have so many a pass. That is
# less than in training: a row reads each weight once, so threads help by their caches.
SHARED_WORK, THREAD_WORK = 10_000, 300_000


@dataclasses.dataclass
class Past:
    """What plans know of the earlier positions of a sequence.

    position    array (1,): the number of earlier positions
    arrays      by name: what layers keep of them"""

    position: npt.NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))
    arrays: dict[str, npt.NDArray[np.floating]] = dataclasses.field(default_factory=dict)


class GenerationPlan(Plan):
    """The operations for the next positions of a sequence.

    capacity: the most positions at a time. draws: whether it draws the token that follows, and puts it in the place of
    the one read; such a plan is for one position. Others only read tokens."""

    def __init__(self, network, capacity, past, *, draws=False, backend=None):
        self.past, self._draws = past, draws
        loss = network.loss_function.kernels[0]
        super().__init__(network, capacity, loss, training=False, backward=False, backend=backend)

    def kept(self, name, shape):
        """Declares an array that keeps something of all positions of the sequence; returns its name."""
        self._declare(name, "a kept array")
        self.buffers[name] = self.past.arrays.setdefault(name, np.zeros(shape, self.dtype))
        return name

    def _add_operations(self):
        self.row_shapes |= {"x": (1,), "row": ()}
        self._declare("position", "one of the engine")
        self.output = self.laid_out("forward", self.network.body.forward(self, "", "x"), in_blocks=False)
        if not self._draws:
            forward = self._phases["forward"]  # what no kept array follows from is of no use
            while not any(name in self.past.arrays for name in forward[-1].outputs):
                forward.pop()
            return
        p = self.row_buffer("sample.p", self.row_shapes[self.output])
        arrays = "x", "sample.chosen", "sample.count", "position", p, "sample.order", self.output
        self.add("link", sample_token, *arrays, *(0.0 for _ in sample_token.scalars))

    def add(self, phase, kernel, *arguments, conditional=False):
        """As `Plan.add`, but products of one row are shared by threads as rows are otherwise."""
        if self.capacity == 1 and kernel is dense_forward:
            y, x, w, b = arguments
            n = self.shape(y)[-1]
            parts = f"splits.{n}"
            self.buffers.setdefault(parts, np.zeros((PARTS, n), self.dtype))
            super().add(phase, split_k_product, parts, x, w)
            super().add(phase, sum_of_splits, y, parts, b)
        elif self.capacity == 1 and kernel is dense_backward_input:
            super().add(phase, transposed_product_of_row, *arguments)
        else:
            super().add(phase, kernel, *arguments, conditional=conditional)

    def operation(self, kernel, *arguments, conditional=False):
        if kernel in FLAT:
            n = len(kernel.arrays)
            return Operation(kernel, arguments[:n], arguments[n:], shapes=(None,) * n)
        return super().operation(kernel, *arguments, conditional=conditional)

    def _bind_link(self, link):
        super()._bind_link(link)
        if link.kernel in FLAT:  # its dimensions stay, however many rows there are
            link.row_dim = None

    def _enter(self, i, operation):
        super()._enter(i, operation)
        if operation.kernel is split_k_product:
            self._table[i]["grain"] = _grain(operation)

    def _lay_out(self):
        shapes = {
            name: self._shape_for(name, self.capacity)
            for name in self.row_shapes if name not in self._base and name != "row"
        }  # fmt: skip
        self.workspace, pieces = aligned_zeros([int(np.prod(shape)) for shape in shapes.values()], self.dtype)
        self.buffers |= {name: piece.reshape(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
        self.buffers |= {"row": np.arange(self.capacity), "position": self.past.position}
        if self._draws:
            self.buffers |= {name: np.zeros(1, np.int64) for name in ("sample.chosen", "sample.count")}
            self.buffers["sample.order"] = np.zeros(self.row_shapes[self.output][-1], np.int64)
        self.row_names = {*shapes, "row"}
        self.buffers |= self.network.statistics | self.network.views()

    def _bind(self, first=0):
        self.bind(first)
        self.work = sum(operation.work for operation in self.operations) / self.capacity
        self._pace = np.zeros(2)
        self._stages_of_pass = np.array(self._merged(), STAGE)
        self.make_runner()

    def _merged(self):
        """Each large operation as a stage, in which all threads take a share, with the small ones behind it, which the
        last thread to arrive runs alone."""
        stages = []
        for i, operation in enumerate(self.operations):
            is_shared = operation.work > SHARED_WORK and operation.size > _grain(operation)
            if is_shared or not stages:
                stages.append([i, i + is_shared, i + is_shared, i + 1, 0])
            stages[-1][3] = i + 1
        return [tuple(stage) for stage in stages]

    def begin(self, chosen, **scalars):
        """Makes the following passes write the tokens that they draw to an array. scalars: of `sample_token`."""
        self.buffers["sample.count"][0] = 0
        self.point("sample.chosen", chosen)
        (draw,) = self._phases["link"]
        if draw.record is not None:
            draw.record[sample_token.slots.index("length")] = len(chosen)
        draw.set_scalars(**scalars)

    def run_positions(self, rows, passes, seconds):
        """Runs up to so many passes over so many positions, at least one; returns how many it ran until the time was
        over. Raises what a user's function raised."""
        if self.runner is None:
            return self._repeat_in_python(rows, passes, seconds)
        threads = max(1, min(self.network.num_threads, int(rows * self.work / THREAD_WORK)))
        done, status = self.runner.repeat(self._stages_of_pass, rows, threads, self._pace, passes, seconds)
        if status == FAULT:
            self.check_memory()
            self._raise_fault(rows)
        return done

    def _raise_fault(self, rows):
        """Raises what a user's function raised in compiled code, by a pass in Python over copies."""
        failed = next(link for link in self.users_links if link.fault[0])
        past = copy.deepcopy(self.past)
        twin = GenerationPlan(self.network, self.capacity, past, draws=self._draws, backend="numpy")
        twin.buffers["x"][...] = self.buffers["x"]
        if self._draws:
            twin.begin(np.zeros(1, np.int64), tokens=1.0)
        twin.run_positions(rows, 1, 0.0)
        raise failed.kernel.fault()

    def _repeat_in_python(self, rows, passes, seconds):
        self.take_rows(rows)
        end = time.monotonic() + seconds
        done = 0
        while done < passes and (done == 0 or time.monotonic() < end):
            self.run_in_python(self._stages_of_pass)
            done += 1
        return done


def _grain(operation):
    """The shares of the threads begin at multiples of this: a part of a product is work enough."""
    return 1 if operation.kernel is split_k_product else GRAIN
