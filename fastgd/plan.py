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
    accumulate   the sum of the gradients of a few minibatches
    norms        the squares of the gradient,
    factor       and what it is clipped by
    update       the optimizer
    outer        the optimizer on a minibatch of one row, whose gradient is not made
    track        statistics of the minibatch into running ones

Over 400 lines: writing down, laying out, binding and running go through the same buffers and records."""

import collections
import time

import numpy as np

from ._plan import (
    BY_ROWS,
    CHECK_GRADIENT,
    CHECK_LOSS,
    CHECK_PEAK,
    DONE,
    FAULT,
    FUSED,
    OUT_OF_TIME,
    TOLD_TO_STOP,
    QuickStep,
    StepOfPython,
    Use,
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
from .interrupts import held
from .losses import penalty_gradient, penalty_value, sum_loss
from .program import GRAIN, UPDATE_PHASES, UPDATE_WALK, Fed, Program
from .steps import Feeds, Steps, addresses
from .update import write_update

PHASES = (
    "gather", "weight", "forward", "loss", "backward", "inputs", "peaks", "total", "peak", "parameters", "penalty",
    "check", *UPDATE_PHASES, "outer", "track",
)  # fmt: skip
# Phases in which a value may be another each step.
FED_PHASES = ("forward", "backward", *UPDATE_PHASES, "outer")
# The phases with a penalty: in the loss, and in the gradient.
PENALIZED = ("total", "penalty")
# Rows that a thread takes through all layers at a time: their activations stay in the second cache.
ROW_BLOCK = 256
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
_TRACK = ("track", "track", None, None, 0)
WALKS = {
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
        *UPDATE_WALK,
        _TRACK,
    ),
    "parameters": (_GRADIENT,),
    "guarded": (_GUARDED, _GRADIENT, *UPDATE_WALK, _TRACK),
    "fused": (_GUARDED, ("parameters", "parameters", None, None, FUSED), _TRACK),
    "outer": (_GUARDED, ("outer", "outer", None, None, 0)),
}


class Plan(Program):
    """The operations of one network for minibatches of up to `capacity` rows with targets for one loss kernel, the
    layers as they are in `training` or as in evaluation."""

    def __init__(self, network, capacity, loss_kernel, *, training, backend=None):
        super().__init__(PHASES, backend or network.backend, network.dtype)
        self.network, self.capacity, self.loss_kernel, self.training = network, capacity, loss_kernel, training
        self.rows = 0
        self.outer_products = []
        self.kinds = []
        self.optimizer = None
        self._prepared = None  # steps that the runner is in the middle of
        self.pace = collections.defaultdict(lambda: np.zeros(2))  # of each walk: see `Runner.run`
        self.torn = False  # whether a step is half done
        self._row_sizes = {}
        self._write_down()
        self._lay_out()
        self._bind()

    # ---- written down by name

    def row_buffer(self, name, columns):
        """Declares a workspace buffer (rows, columns), or of a number a row (rows,) if columns is None; returns its
        name."""
        self._row_sizes[name] = columns
        return name

    def vector(self, name, values):
        """Declares a buffer with these numbers in it, whatever the rows of a minibatch; returns its name."""
        self.buffers[name] = np.array(values, self.dtype)
        return name

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
        # No gradient goes beyond the first layer that has parameters.
        first = next(i for i, layer in enumerate(network.layers, 1) if layer.parameters(network.sizes[i - 1]))
        scalars, dy = network.loss_function.parameters.values(), self.row_buffer("dz", network.sizes[-1])
        self.add("loss", self.loss_kernel, "losses", dy, self.output, "y", "weight", *scalars)
        values = dict.fromkeys([*names[1:-1], dy])
        for i in range(len(network.layers), first - 1, -1):
            dy = network.layers[i - 1].backward(self, i, names[i - 1], dy, i > first)
            values |= {dy: None} if i > first else {}
        self.add("inputs", peak_of_rows, "peaks", "x")
        for name in ("workspace",) if self.capacity == 1 else values:
            self.add("peaks", raise_peak_of_rows, "peaks", name)
        self.add("total", sum_loss, "total", "losses")
        self.add("peak", largest_peak, "peak", "peaks")
        if network.n_weights and (network.l1 or network.l2):
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
        self.buffers["index"], self.buffers["row"] = np.zeros(capacity, np.int64), np.arange(capacity)
        self.row_names = {*sizes, *self.own, "index", "row"}
        self.buffers |= network.statistics
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
        return sum(self.buffers[name].nbytes for name in self.row_names) // self.capacity

    def _bind(self, place=0):
        self.bind(place)
        if self.backend != "numpy":
            total = self._phases["total"][0]
            self.make_runner(
                total=total.slot("total"),
                peak=self.buffers["peak"].ctypes.data,
                bad_gradients=self.buffers["bad_gradients"].ctypes.data,
                row_block=ROW_BLOCK,
            )

    def use_optimizer(self, optimizer):
        """Makes the update phases those of the optimizer."""
        if optimizer is self.optimizer:
            return
        self._prepared = None
        network = self.network
        optimizer.check_network(network)
        with network._turn.lent(Use.BORROW):  # a learning-rate function may ask it
            optimizer.prepare(self.backend, self.dtype, {part.kind for part in optimizer.parts_of(network)})
        parts = optimizer.bind(network)
        for phase in (*UPDATE_PHASES, "outer"):
            self._phases[phase].clear()
        named = []
        for start, stop, kind in parts:
            cut = "" if stop - start == network.n_parameters else f"[{start}:{stop}]"
            for name, flat in (("parameters", network.parameters), ("dparameters", network.gradient)):
                self.buffers[name + cut] = flat[start:stop]
            named.append((f"parameters{cut}", f"dparameters{cut}", kind))
        write_update(self, optimizer, named)
        outer = optimizer.outer_kernel
        covered = sum(self.buffers[name].size for b, w, _, _ in self.outer_products for name in (b, w))
        if outer and optimizer.is_plain and self.capacity == 1 and covered == network.n_parameters:
            for product in self.outer_products:
                self.add("outer", outer, *product, *(Fed((parts[0].kind, name)) for name in outer.scalars))
        self._bind(self.ends["check"])
        self.kinds = sorted({part.kind for part in parts})
        self._follow(parts)
        self.optimizer = optimizer
        self.best_walk = self._choose_walk()

    def _choose_walk(self):
        """The fastest way of a step through this plan; a penalty must be added to the gradient before it is checked."""
        network, optimizer = self.network, self.optimizer
        if self.runner is None or network.l1 or network.l2:
            return "step"
        few_values = self.capacity == 1 and self.workspace.size * FEW_VALUES < network.n_parameters
        if few_values and self._phases["outer"]:
            return "outer"
        if network.parameters.nbytes * 2 + optimizer.state_bytes(network) > FUSED_BYTES:
            return "fused" if optimizer.works_by_parts else "guarded"
        return "guarded" if few_values else "step"

    def _follow(self, parts):
        """Makes the update of a part follow each operation that finishes some of its gradient."""
        flat, followed = self.network.gradient, {}
        updates = range(*self.range_of("update", "update"))
        first = dict(zip(range(*self.range_of("accumulate", "accumulate")), updates, strict=False))
        for place, update in first.items():
            self._table[place, 6:] = update, 0, 1, 0
        for part, place in zip(parts, first or updates, strict=True):
            followed[part] = place
        for i, operation in enumerate(self._phases["parameters"], self.range_of("parameters", "parameters")[0]):
            array = operation.arguments[0]
            scale = array.size // array.shape[0]
            offset = (array.ctypes.data - flat.ctypes.data) // flat.itemsize
            block = max(FUSED_ROWS, FUSED_BLOCK // scale // GRAIN * GRAIN)
            self._table[i, 6:] = -1, 0, 0, 0
            for part, place in followed.items():
                if part.start <= offset < part.stop:
                    self._table[i, 6:] = place, block, scale, offset - part.start

    # ---- for each minibatch

    def _slots(self, name, stages):
        """Addresses of the slots that hold the address of a buffer, in the operations of some stages."""
        ranges = [*stages[:, 0:2].tolist(), *stages[:, 2:4].tolist()]
        used = {i for first, last in ranges for i in range(first, last)}
        links = (link for i in sorted(used) for link in self.operations[i].links)
        return [link.record.ctypes.data + 8 * link.buffers.index(name) for link in links if name in link.buffers]

    def set_rows(self, rows):
        """Makes the operations work on the first `rows` rows of their buffers, with weight 1 / rows each. The runner
        sets the sizes in the records by itself."""
        self.rows = rows
        self._prepared = None
        self._phases["weight"][0].set_scalars(value=1 / rows)
        for operation in self._penalties():
            operation.set_scalars(l2=self.network.l2)
        if self.runner is None:
            for operation in self.operations:
                for link in operation.links:
                    for j, name in enumerate(link.buffers):
                        if name in self.row_names:
                            link.arguments[j] = self.buffers[name][:rows]

    def set_minibatch(self, weight=None, **arrays):
        """Points the operations to the rows of x, and of y if given, where they lie: C-contiguous, aligned, of the
        dtype of `own`. weight: a factor of the loss for each row, of the plan's dtype; None is 1 / rows."""
        self.set_rows(len(arrays["x"]))
        for name, array in arrays.items():
            self.point(name, array)
        self._set_weight(self.buffers["weight"][: self.rows] if weight is None else weight)

    def feed_minibatch(self, number):
        """Makes the layers do what they do in the minibatch of this number."""
        for _, name, links in self.fed(("forward", "backward")):
            for link in links:
                link.set_scalars(**{name: float(number)})

    def _set_weight(self, array):
        """Makes the loss take the weights of the rows from here."""
        (loss,) = self._phases["loss"]
        j = loss.buffers.index("weight")
        loss.arguments[j] = array
        if loss.record is not None:
            loss.record[j] = array.ctypes.data

    def threads(self, rows):
        """How many threads the work on so many rows is worth."""
        return int(max(1, min(self.network.num_threads, self._work(rows) // THREAD_WORK, -(-rows // GRAIN))))

    def _work(self, rows):
        """Floating-point operations of a step, about."""
        return 6 * rows * (self.network.n_weights or self.network.n_parameters)

    def _stages(self, walk, gather=False):
        """The stages of a walk, with `gather` with the rows gathered first."""
        first = {"weight": "gather"} if gather else {}
        return self.stages([(first.get(stage[0], stage[0]), *stage[1:]) for stage in WALKS[walk]])

    def run(self, walk):
        """Walks once, with the minibatch that is set."""
        self.point("total", self.buffers["total"])
        stages = self._stages(walk)
        if self.runner is None:
            self.walk_in_python(stages)
        elif self.runner.run(stages, self.rows, self.threads(self.rows), self.pace[walk]) == FAULT:
            self.raise_fault(self.buffers["x"], None if walk == "forward" else self.buffers["y"])

    def raise_fault(self, x, y):
        """Raises what a function written by a user has raised in compiled code on these rows, if one has: by the same
        pass in Python. y None: a forward pass."""
        self.check_memory()
        failed = next((link for link in self.users_links if link.fault[0]), None)
        if failed is None:
            return
        update = self.failed_update()
        if update is not None:
            self.torn = True
            self.raise_in_update(update)
        twin = Plan(self.network, len(x), self.loss_kernel, training=self.training, backend="numpy")
        arrays = {"x": x} if y is None else {"x": x, "y": y}
        with np.errstate(over="ignore"):
            used = {
                name: np.require(a, twin.own[name].dtype).reshape(twin.own[name].shape) for name, a in arrays.items()
            }
        twin.set_minibatch(**used)
        for phase in ("forward", "loss", "backward"):
            for mine, its in zip(self._phases[phase], twin._phases[phase], strict=True):
                its.copy_scalars(mine)
        walk = ("forward", "forward") if y is None else ("weight", "backward")
        twin.walk_in_python(twin.stages([(*walk, None, None, 0)]))
        raise failed.kernel.fault()

    # ---- training

    def train(self, steps, first, pauses, walk, seconds, tell=None):
        """Runs training steps from `first` on, which follow those it was called for before, to before the last of
        `pauses`; returns the step at which it stopped, and why: that all are done; that so many seconds are over; that
        a step diverged; or that tell(s), called at pauses, says to stop. The optimizer is in use already. `release`
        is to follow."""
        if self.runner is None:
            end = int(pauses[np.searchsorted(pauses, first, side="right")])
            return self._train_in_python(steps, first, end, seconds)
        if not self.is_ready_for(steps) or self._prepared[1] != walk:
            self._prepare(steps, first, walk)
        threads, ending = self._prepared[2:4]
        result = self.runner.train(first, pauses, tell, threads, seconds)
        if ending is not None and result[1] in (DONE, OUT_OF_TIME, TOLD_TO_STOP):
            self.runner.run(ending, 1, 1, self.pace["parameters"])
        return result

    def _prepare(self, steps, first, walk):
        """Makes the runner ready for steps from `first` on."""
        feeds, stages = Feeds(), self._stages(walk, gather=not steps.in_place)
        # The short way for one row makes no gradient: that of the last step is made when all is done.
        ending = self._stages("parameters") if walk == "outer" else None
        used = stages if ending is None else np.concatenate([stages, ending])
        self._feed_update(feeds, steps)
        feeds.add([self.runner.peak_limit], steps.peak_limits)
        feeds.add(self._weight_slots, 1 / steps.rows)
        if steps.in_place:
            feeds.add(self._slots("x", used), addresses(steps.x, steps.starts))
            feeds.add(self._slots("y", used), addresses(steps.y, steps.starts))
        else:
            for name, array in self.own.items():
                self.point(name, array)
            for name, array in (("data.x", steps.x), ("data.y", steps.y)):
                self.point(name, array)
                for link, _ in self.links_with(name):
                    link.record[link.kernel.slots.index("m")] = len(array)
            feeds.add(self._slots("index", stages), addresses(steps.order, steps.starts))
        self._set_weight(self.buffers["weight"])
        if steps.weights is not None:
            slots = [operation.slot("weight") for operation in self._phases["loss"]]
            feeds.add(slots, addresses(steps.weights, steps.weight_starts))
        done = np.searchsorted(steps.ends, first, side="right")
        rows, table = int(steps.rows[0]), feeds.table()
        self.runner.prepare(
            stages, feeds=table, rows_of_step=steps.rows, marks=steps.ends[done:], times=steps.times[done:],
            losses=steps.losses[done:], sums=steps.sums, counter=self.optimizer.counter,
            minibatches=self.network.counter, pace=self.pace[walk],
            steps_between_looks=max(1, LOOK_WORK // self._work(rows)),
        )  # fmt: skip
        self._prepared = steps, walk, self.threads(rows), ending, (feeds, table, stages)

    def is_ready_for(self, steps):
        """Whether the runner is in the middle of these steps, and nothing else was done with this plan since."""
        return self.runner is None or (self._prepared is not None and self._prepared[0] is steps)

    def release(self):
        """Forgets the steps it has run, and with them the caller's arrays."""
        self._prepared = None
        if self.runner is not None:
            self.point("data.x", self.own["x"])
            self.point("data.y", self.own["y"])

    def _feed_update(self, feeds, steps):
        """What every step needs but the minibatch: where its loss goes, hyper-parameters, limit of the gradient."""
        total = self._phases["total"]
        feeds.add([o.slot("total") for o in total], addresses(steps.totals, np.arange(len(steps))))
        for key, name, links in self.fed(FED_PHASES):
            feeds.add([link.slot(name) for link in links], steps.values[key])
        for address, size in self.sometimes():
            feeds.add([address], steps.active * size)
        for phase in PENALIZED:
            values = steps.penalties.get(phase, np.broadcast_to(self.network.l2, len(steps)))
            feeds.add([operation.slot("l2") for operation in self._penalties(phase)], values)
        feeds.add([self._phases["check"][0].slot("limit")], steps.gradient_limits)

    def _penalties(self, *phases):
        """The operations of the penalty, or those in some phases."""
        return [o for phase in phases or PENALIZED for o in self._phases[phase] if "l2" in o.kernel.scalars]

    @property
    def _weight_slots(self):
        return [operation.slot("value") for operation in self._phases["weight"]]

    def quick_step(self, optimizer, count, last_loss):
        """A `QuickStep` for the next `count` steps of the optimizer, which is in use already."""
        steps = Steps.of(self, optimizer, None, None, rows=np.ones(count), starts=np.zeros(count))
        feeds = Feeds()
        self._set_weight(self.buffers["weight"])
        self._feed_update(feeds, steps)
        # A step by itself leaves its gradient to be looked at.
        walk = "guarded" if self.best_walk == "outer" else self.best_walk
        stages = self._stages(walk)
        x, y = self.own["x"], self.own["y"]
        return QuickStep(
            self.runner, self.network._turn, optimizer, stages=stages, feeds=feeds.table(),
            x_slots=np.array(self._slots("x", stages)), y_slots=np.array(self._slots("y", stages)),
            weight=self._weight_slots[0], limits=np.ascontiguousarray(steps.gradient_limits), counter=optimizer.counter,
            minibatches=self.network.counter, pace=self.pace[walk], capacity=self.capacity, x=x, y=y,
            labels=y.ndim == 1, threads=self.network.num_threads, work_of_row=float(self._work(1)),
            thread_work=THREAD_WORK, last_loss=last_loss, watched=self.watched(), raise_fault=self.raise_fault,
            kept=(self, steps, feeds),
        )  # fmt: skip

    def _train_in_python(self, steps, first, end, seconds):
        with held() as pressed:  # a step is done or not begun
            return self._steps_in_python(steps, first, end, seconds, pressed)

    def _steps_in_python(self, steps, first, end, seconds, pressed):
        deadline = time.monotonic() + seconds
        stages = self._stages("step")
        for s in range(first, end):
            if s > first and (pressed or time.monotonic() > deadline):
                return s, OUT_OF_TIME
            x, y = steps.minibatch(s)
            weight = None
            if steps.weights is not None:
                weight = steps.weights[steps.weight_starts[s] :][: len(x)]
            self.set_minibatch(weight, x=x, y=y)
            self.prepare_in_python(FED_PHASES, steps.values, s, steps.active[s])
            self._phases["check"][0].set_scalars(limit=float(steps.gradient_limits[s]))
            for phase, values in steps.penalties.items():
                for operation in self._penalties(phase):
                    operation.set_scalars(l2=float(values[s]))
            with StepOfPython():
                self.torn = True
                status = self.walk_in_python(stages)
                steps.totals[s] = self.buffers["total"][0]
                if status == DONE:
                    self.optimizer.counter[0] += 1
                    self.network.counter[0] += 1
                    steps.count(s)
                self.torn = False
            if status != DONE:
                return s, status
        return end, DONE
