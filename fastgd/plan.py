"""The plan: the way of a minibatch, written down once as a list of kernels bound to their buffers.

Layers and the loss write operations down by name of kernel and buffers; then the plan lays out one workspace for all
buffers, chooses a body for every kernel and binds it. Running is walking parts of the list: in C for compiled
bodies, whoever wrote them, in Python for numpy bodies. Phases, in order:

    gather       the rows of the minibatch out of the data
    weight       what each row counts
    forward      the rows through the layers
    loss         value, and gradient of the outputs
    backward     the gradient of the rows, layer by layer
    inputs       the largest magnitude of the inputs
    peaks        ... and of all that the gradient of the parameters is made of
    total        sums over the rows
    peak         the largest of the rows' magnitudes
    parameters   the gradient of the parameters
    penalty      ... with that of the penalty
    check        how many elements of it are too large
    update       the optimizer
    outer        the optimizer on a minibatch of one row, whose gradient is not made

Over 400 lines: how the list is written down, laid out, bound and walked is one train of thought.
"""

import dataclasses
import time

import numpy as np

from ._plan import (
    BAD_GRADIENT,
    BAD_LOSS,
    BY_ROWS,
    CHECK_GRADIENT,
    CHECK_LOSS,
    CHECK_PEAK,
    DONE,
    FUSED,
    OUT_OF_TIME,
    QuickStep,
    Runner,
)
from .buffers import aligned_zeros
from .data import (
    count_exceeding,
    fill_rows,
    gather_labels,
    gather_rows,
    largest_peak,
    peak_of_rows,
    raise_peak_of_rows,
)
from .kernel import Kernel
from .losses import penalty_gradient, penalty_value, sum_loss
from .steps import Feeds, Steps, addresses

PHASES = (
    "gather", "weight", "forward", "loss", "backward", "inputs", "peaks", "total", "peak", "parameters", "penalty",
    "check", "update", "outer",
)  # fmt: skip
# Rows that a thread takes through all layers at a time: their activations stay in the second cache.
ROW_BLOCK = 256
# Shares of threads begin at multiples of so many rows, or elements of flat arrays.
GRAIN = 8
# Floating-point operations that are worth a thread.
THREAD_WORK = 2e6
# ... and that may pass without a look at the clock.
LOOK_WORK = 1_000_000
# A network whose parameters, gradient and optimizer state fill more bytes than this updates each part of the
# parameters as its gradient is finished; else one sweep over all of them costs less.
FUSED_BYTES = 512 * 1024
# How many elements of the gradient are finished before they are used, and at least how many rows of weights: each
# block packs the gradient of the outputs anew.
FUSED_BLOCK, FUSED_ROWS = 64 * 1024, 512
# How many times as many parameters as values in the workspace there are for these to be checked in their stead.
FEW_VALUES = 4

# A walk is a list of stages: phases shared by the threads (first, last), phases that the last thread to finish them
# runs alone (first, last), flags. See plan.pyx.
_INPUTS = ("inputs", "inputs", "peak", "peak", BY_ROWS)
_GUARDED = ("weight", "peaks", "total", "peak", BY_ROWS | CHECK_LOSS | CHECK_PEAK)
_GRADIENT = ("parameters", "parameters", None, None, 0)
_UPDATE = ("update", "update", None, None, 0)
WALKS = {
    "nothing": (),
    "forward": (_INPUTS, ("forward", "forward", None, None, BY_ROWS)),
    "loss": (_INPUTS, ("weight", "loss", "total", "total", BY_ROWS)),
    "gradient": (
        _INPUTS,
        ("weight", "backward", "total", "total", BY_ROWS),
        _GRADIENT,
        ("penalty", "penalty", None, None, 0),
    ),
    "step": (
        ("weight", "backward", "total", "total", BY_ROWS | CHECK_LOSS),
        _GRADIENT,
        ("penalty", "penalty", "check", "check", CHECK_GRADIENT),
        _UPDATE,
    ),
    "parameters": (_GRADIENT,),
    "guarded": (_GUARDED, _GRADIENT, _UPDATE),
    "fused": (_GUARDED, ("parameters", "parameters", None, None, FUSED)),
    "outer": (_GUARDED, ("outer", "outer", None, None, 0)),
}


@dataclasses.dataclass
class Operation:
    """A kernel and what it works on: names of buffers, then scalars. `body` is the one in use; `row_dim` is the
    dimension that is the rows of the minibatch, if any."""

    kernel: Kernel
    buffers: tuple
    scalars: tuple
    body: str = ""
    row_dim: str | None = None
    arguments: list | None = None
    record: np.ndarray | None = None

    def slot(self, name):
        """Address of the slot of the record that holds an array, a dimension or a scalar."""
        return self.record.ctypes.data + 8 * self.kernel.slots.index(name)


class Plan:
    """The operations of one network for minibatches of up to `capacity` rows with targets for one loss kernel."""

    def __init__(self, network, capacity, loss_kernel):
        self.network, self.capacity, self.loss_kernel = network, capacity, loss_kernel
        self.dtype = network.dtype
        self.rows = 0
        self.buffers = {}
        self.outer_products = []
        self._optimizer = None
        self._row_sizes = {}
        self._phases = {phase: [] for phase in PHASES}
        self._write_down()
        self._lay_out()
        self._bind_all()

    # ---- written down by name

    def row_buffer(self, name, columns):
        """Declares a workspace buffer (rows, columns); returns its name."""
        self._row_sizes[name] = columns
        return name

    def add(self, phase, kernel, *arguments):
        """Appends an operation to a phase: names of buffers, then scalars."""
        n = len(kernel.arrays)
        self._phases[phase].append(Operation(kernel, arguments[:n], arguments[n:]))

    def add_outer_product(self, b, w, x, dy):
        """Notes that for a minibatch of one row the gradient of b is dy and that of w is x^T dy."""
        self.outer_products.append((b, w, x, dy))

    def _write_down(self):
        network = self.network
        self.add("gather", gather_rows, "x", "data.x", "index")
        labels = len(self.loss_kernel.arrays["y"].dims) == 1
        self.add("gather", gather_labels if labels else gather_rows, "y", "data.y", "index")
        self.add("weight", fill_rows, "weight", 1.0)
        names = ["x"]
        for i, layer in enumerate(network.layers, 1):
            names.append(layer.forward(self, i, names[-1]))
        self.output = names[-1]
        gradients = [None] + [self.row_buffer(f"da{i}", n) for i, n in enumerate(network.sizes[1:], 1)]
        scalars = network.loss_function.parameters.values()
        self.add("loss", self.loss_kernel, "losses", gradients[-1], self.output, "y", "weight", *scalars)
        for i in range(len(network.layers), 0, -1):
            network.layers[i - 1].backward(self, i, names[i - 1], gradients[i], gradients[i - 1])
        self.add("inputs", peak_of_rows, "peaks", "x")
        for name in ("workspace",) if self.capacity == 1 else (*names[1:-1], *gradients[1:]):
            self.add("peaks", raise_peak_of_rows, "peaks", name)
        self.add("total", sum_loss, "total", "losses")
        self.add("peak", largest_peak, "peak", "peaks")
        if network.l1 or network.l2:
            self.add("total", penalty_value, "total", "penalized", network.l1, network.l2)
            self.add("penalty", penalty_gradient, "dpenalized", "penalized", network.l1, network.l2)
        self.add("check", count_exceeding, "bad_gradients", "gradient", 0.0)

    # ---- laid out and bound

    def _lay_out(self):
        network, capacity = self.network, self.capacity
        sizes = {**self._row_sizes, "losses": None, "weight": None, "peaks": None}
        self.workspace, pieces = aligned_zeros([capacity * (n or 1) for n in sizes.values()], self.dtype)
        for (name, columns), piece in zip(sizes.items(), pieces, strict=True):
            self.buffers[name] = piece if columns is None else piece.reshape(capacity, columns)
        y = self.loss_kernel.arrays["y"]
        columns = () if len(y.dims) == 1 else (network.sizes[-1],)
        # Rows that are gathered or cast; `set_minibatch` may point x and y elsewhere.
        self.own = {
            "x": np.zeros((capacity, network.sizes[0]), self.dtype),
            "y": np.zeros((capacity, *columns), y.dtype or self.dtype),
        }
        self.buffers |= self.own
        self.buffers |= {f"data.{name}": array for name, array in self.own.items()}
        self.buffers["index"] = np.zeros(capacity, np.int64)
        self._row_names = {*sizes, *self.own, "index"}
        for prefix, flat in (("", network.parameters), ("d", network.gradient)):
            self.buffers |= {prefix + name: view for name, view in network.views(flat).items()}
            self.buffers[f"{prefix}penalized"] = flat[: network.n_weights]
            self.buffers[f"{prefix}parameters"] = flat
        self.buffers["workspace"] = self.workspace.reshape(1, -1)
        self.buffers["gradient"] = network.gradient.reshape(1, -1)
        self.buffers["total"] = np.zeros(1, np.float64)
        self.buffers["peak"] = np.zeros(1, np.float64)
        self.buffers["bad_gradients"] = np.zeros(1, np.int64)

    def bytes_of_a_row(self):
        """Bytes of workspace that a row of the minibatch takes."""
        return sum(self.buffers[name].nbytes for name in self._row_names) // self.capacity

    def _bind_all(self):
        """Operations in order, with places for the update, each bound to its buffers; and the runner over them."""
        self.operations, self.ends = [], {}
        for phase in PHASES:
            self.operations += self._phases[phase]
            self.ends[phase] = len(self.operations)
        self._runner = None
        self._table = np.zeros((len(self.operations) + 1 + len(self.outer_products), 10), np.int64)
        for i, operation in enumerate(self.operations):
            self._bind(i, operation)
        if self.network.backend != "numpy":
            total = self._phases["total"][0]
            self._runner = Runner(
                self._table,
                total=total.slot("total"),
                peak=self.buffers["peak"].ctypes.data,
                bad_gradients=self.buffers["bad_gradients"].ctypes.data,
                row_block=ROW_BLOCK,
            )

    def _bind(self, i, operation):
        kernel = operation.kernel
        operation.body = kernel.choose_body(self.network.backend)
        operation.arguments = [self.buffers[name] for name in operation.buffers] + list(operation.scalars)
        for name, spec in zip(operation.buffers, kernel.arrays.values(), strict=True):
            if name in self._row_names:
                operation.row_dim = spec.dims[0]
        _, sizes = kernel.check(operation.arguments)
        if operation.body != "numpy":
            operation.record = kernel.record(operation.arguments, sizes)
            rows = operation.slot(operation.row_dim) if operation.row_dim else 0
            by_rows = operation.row_dim == kernel.range_dim
            self._table[i] = (
                kernel.address(operation.body, self.dtype), operation.record.ctypes.data,
                sizes[kernel.range_dim], GRAIN, rows, by_rows, -1, 0, 0, 0,
            )  # fmt: skip

    def use_optimizer(self, optimizer):
        """Makes the update phases those of the optimizer."""
        if optimizer is self._optimizer:
            return
        optimizer.bind(self.network)
        names = {"p": "parameters", "g": "dparameters"}
        for slot, (array,) in optimizer.state.items():
            names[slot] = f"optimizer.{slot}"
            self.buffers[names[slot]] = array
        self._phases["update"].clear()
        self._phases["outer"].clear()
        kernel, outer = optimizer.kernel, optimizer.outer_kernel
        self.add("update", kernel, *(names[name] for name in kernel.arrays), *(0.0 for _ in kernel.scalars))
        covered = sum(self.buffers[name].size for b, w, _, _ in self.outer_products for name in (b, w))
        if outer and self.capacity == 1 and covered == self.network.n_parameters:
            for product in self.outer_products:
                self.add("outer", outer, *product, *(0.0 for _ in outer.scalars))
        place = self.ends["check"]
        self.ends["update"] = place + 1
        self.operations[place:] = [*self._phases["update"], *self._phases["outer"]]
        self.ends["outer"] = len(self.operations)
        self._table[place:] = 0
        for i, operation in enumerate(self.operations[place:], place):
            self._bind(i, operation)
        self._follow(place)
        self._optimizer = optimizer
        self.best_walk = self._choose_walk()

    def _choose_walk(self):
        """The fastest way of a step through this plan; a penalty must be added to the gradient before it is checked."""
        network = self.network
        if self._runner is None or network.l1 or network.l2:
            return "step"
        few_values = self.capacity == 1 and self.workspace.size * FEW_VALUES < network.n_parameters
        if few_values and self._phases["outer"]:
            return "outer"
        if network.parameters.nbytes * (2 + len(self._optimizer.state)) > FUSED_BYTES:
            return "fused"
        return "guarded" if few_values else "step"

    def _follow(self, update):
        """Makes the update follow each operation that finishes a part of the gradient."""
        start = self.ends["peak"]
        flat = self.network.gradient
        for i, operation in enumerate(self._phases["parameters"], start):
            part = operation.arguments[0]
            scale = part.size // part.shape[0]
            offset = (part.ctypes.data - flat.ctypes.data) // flat.itemsize
            block = max(FUSED_ROWS, FUSED_BLOCK // scale // GRAIN * GRAIN)
            self._table[i, 6:] = update, block, scale, offset

    # ---- for each minibatch

    def _operations_with(self, name):
        return [(o, o.buffers.index(name)) for o in self.operations if name in o.buffers]

    def _slots(self, name, stages):
        """Addresses of the slots that hold the address of a buffer, in the operations of some stages."""
        ranges = [*stages[:, 0:2].tolist(), *stages[:, 2:4].tolist()]
        used = {i for first, last in ranges for i in range(first, last)}
        found = [(i, operation, operation.buffers) for i, operation in enumerate(self.operations) if i in used]
        return [o.record.ctypes.data + 8 * names.index(name) for _, o, names in found if name in names]

    def point(self, name, array):
        """Makes the operations use another array for a buffer: C-contiguous, aligned, of the same dtype."""
        self.buffers[name] = array
        for operation, j in self._operations_with(name):
            operation.arguments[j] = array
            if operation.record is not None:
                operation.record[j] = array.ctypes.data

    def set_rows(self, rows):
        """Makes the operations work on the first `rows` rows of their buffers, with weight 1 / rows each. The runner
        sets the sizes in the records by itself."""
        self.rows = rows
        self.set_scalars(self._phases["weight"][0], [1 / rows])
        if self._runner is None:
            for operation in self.operations:
                for j, name in enumerate(operation.buffers):
                    if name in self._row_names:
                        operation.arguments[j] = self.buffers[name][:rows]

    def set_scalars(self, operation, scalars):
        """Sets the scalars of an operation."""
        operation.arguments[len(operation.buffers) :] = scalars
        if operation.record is not None:
            operation.record.view(np.float64)[-len(scalars) :] = scalars

    def set_minibatch(self, **arrays):
        """Points the operations to the rows of x, and of y if given, where they lie: C-contiguous, aligned, of the
        dtype of `own`."""
        self.set_rows(len(arrays["x"]))
        for name, array in arrays.items():
            self.point(name, array)

    def threads(self, rows):
        """How many threads the work on so many rows is worth."""
        return int(max(1, min(self.network.num_threads, self._work(rows) // THREAD_WORK, -(-rows // GRAIN))))

    def _work(self, rows):
        """Floating-point operations of a step, about."""
        return 6 * rows * self.network.n_weights

    def _stages(self, walk, gather=False):
        """The stages of a walk: the operations of each, as ranges, and its flags."""
        stages = []
        for first, last, closing, end, flags in WALKS[walk]:
            first = "gather" if gather and first == "weight" else first
            shared, alone = self._range(first, last), self._range(closing, end) if closing else (0, 0)
            if shared[0] < shared[1] or alone[0] < alone[1]:
                stages.append((*shared, *alone, flags))
        return np.array(stages, np.int64).reshape(-1, 5)

    def _range(self, first, last):
        i = PHASES.index(first)
        return self.ends[PHASES[i - 1]] if i else 0, self.ends[last]

    def run(self, walk):
        """Walks once, with the minibatch that is set."""
        self.point("total", self.buffers["total"])
        stages = self._stages(walk)
        if self._runner is None:
            self._walk_in_python(stages)
        else:
            self._runner.run(stages, self.rows, threads=self.threads(self.rows))

    def _walk_in_python(self, stages):
        """One walk over numpy bodies; returns why it stopped."""
        with np.errstate(all="ignore"):  # as the compiled bodies do: what comes of it is checked
            for first, last, closing, end, flags in stages:
                for operation in (*self.operations[first:last], *self.operations[closing:end]):
                    operation.kernel.reference(*operation.arguments)
                if flags & CHECK_LOSS and not np.isfinite(self.buffers["total"][0]):
                    return BAD_LOSS
                if flags & CHECK_GRADIENT and self.buffers["bad_gradients"][0]:
                    return BAD_GRADIENT
        return DONE

    # ---- training

    def train(self, steps, first, end, walk, seconds):
        """Runs training steps first, ..., end - 1, for about so many seconds; returns the step at which it stopped,
        and why. The optimizer is in use already."""
        if self._runner is None:
            return self._train_in_python(steps, first, end, seconds)
        feeds, stages = Feeds(), self._stages(walk, gather=not steps.in_place)
        # The short way for one row makes no gradient: that of the last step is made when all is done.
        ending = self._stages("parameters" if walk == "outer" else "nothing")
        used = np.concatenate([stages, ending])
        self._feed_update(feeds, steps)
        feeds.add([self._runner.peak_limit], steps.peak_limits)
        feeds.add(self._weight_slots, 1 / steps.rows)
        if steps.in_place:
            feeds.add(self._slots("x", used), addresses(steps.x, steps.starts))
            feeds.add(self._slots("y", used), addresses(steps.y, steps.starts))
        else:
            for name, array in self.own.items():
                self.point(name, array)
            for name, array in (("data.x", steps.x), ("data.y", steps.y)):
                self.point(name, array)
                for operation, _ in self._operations_with(name):
                    operation.record[operation.kernel.slots.index("m")] = len(array)
            feeds.add(self._slots("index", stages), addresses(steps.order, steps.starts))
        done = np.searchsorted(steps.ends, first, side="right")
        rows = int(steps.rows[0])
        result = self._runner.run(
            stages, rows, first=first, end=end,
            feeds=feeds.table(), rows_of_step=steps.rows, marks=steps.ends[done:],
            times=steps.times[done:], counter=self._optimizer.counter, threads=self.threads(rows), seconds=seconds,
            steps_between_looks=max(1, LOOK_WORK // self._work(rows)),
        )  # fmt: skip
        if len(ending) and result[1] in (DONE, OUT_OF_TIME):
            self._runner.run(ending, rows)
        self.point("data.x", self.own["x"])  # what the caller owns is not kept
        self.point("data.y", self.own["y"])
        return result

    def _feed_update(self, feeds, steps):
        """What every step needs but the minibatch: where its loss goes, hyper-parameters, limit of the gradient."""
        total = self._phases["total"]
        feeds.add([o.slot("total") for o in total], addresses(steps.totals, np.arange(len(steps))))
        updates = [*self._phases["update"], *self._phases["outer"]]
        for name, values in zip(self._optimizer.kernel.scalars, steps.scalars, strict=True):
            feeds.add([o.slot(name) for o in updates if name in o.kernel.scalars], values)
        feeds.add([self._phases["check"][0].slot("limit")], steps.gradient_limits)

    @property
    def _weight_slots(self):
        return [operation.slot("value") for operation in self._phases["weight"]]

    def quick_step(self, optimizer, count, last_loss):
        """A `QuickStep` for the next `count` steps of the optimizer, which is in use already."""
        steps = Steps.of(self, optimizer, None, None, rows=np.ones(count), starts=np.zeros(count))
        feeds = Feeds()
        self._feed_update(feeds, steps)
        # A step by itself leaves its gradient to be looked at.
        stages = self._stages("guarded" if self.best_walk == "outer" else self.best_walk)
        x, y = self.own["x"], self.own["y"]
        return QuickStep(
            self._runner, self.network._turn, optimizer, stages=stages, feeds=feeds.table(),
            x_slots=np.array(self._slots("x", stages)), y_slots=np.array(self._slots("y", stages)),
            weight=self._weight_slots[0], limits=np.ascontiguousarray(steps.gradient_limits), counter=optimizer.counter,
            capacity=self.capacity, x=x, y=y, labels=y.ndim == 1, threads=self.network.num_threads,
            work_of_row=6.0 * self.network.n_weights, thread_work=THREAD_WORK, last_loss=last_loss,
            kept=(self, steps, feeds),
        )  # fmt: skip

    def _train_in_python(self, steps, first, end, seconds):
        deadline = time.monotonic() + seconds
        stages = self._stages("step")
        for s in range(first, end):
            if s > first and time.monotonic() > deadline:
                return s, OUT_OF_TIME
            start, rows = int(steps.starts[s]), int(steps.rows[s])
            if steps.in_place:
                self.set_minibatch(x=steps.x[start : start + rows], y=steps.y[start : start + rows])
            else:
                index = steps.order[start : start + rows]
                self.set_minibatch(x=np.take(steps.x, index, axis=0), y=np.take(steps.y, index, axis=0))
            self.set_scalars(self._phases["update"][0], [float(values[s]) for values in steps.scalars])
            self.set_scalars(self._phases["check"][0], [float(steps.gradient_limits[s])])
            status = self._walk_in_python(stages)
            steps.totals[s] = self.buffers["total"][0]
            if status != DONE:
                return s, status
            self._optimizer.steps += 1
            steps.times[steps.ends == s + 1] = time.monotonic()
        return end, DONE

    def describe(self):
        """One line an operation: phase, kernel with buffers and their shapes, body in use."""
        lines = []
        for phase in PHASES:
            for operation in self._phases[phase]:
                named = [
                    f"{name}{list(a.shape)}" for name, a in zip(operation.buffers, operation.arguments, strict=False)
                ]
                call = f"{operation.kernel.name}({', '.join(named)})"
                lines.append(f"  {phase:<11}{call:<88} {operation.body}")
        return lines
