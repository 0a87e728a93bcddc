"""The plan: the way of a minibatch, written down once as a list of kernels bound to their buffers.

Layers and the loss write operations down by name of kernel and buffers; then the plan lays out one workspace for all
buffers, chooses a body for every kernel and binds it. Running is walking a part of the list: in C for compiled
bodies, whoever wrote them, in Python for numpy bodies. Phases, in order:

    forward      the rows through the layers
    loss         value, and gradient of the outputs
    backward     the gradient of the rows, layer by layer
    parameters   the gradient of the parameters
    update       the optimizer
"""

import dataclasses

import numpy as np

from .data import count_exceeding
from .kernel import Kernel, plan_module
from .losses import penalty_gradient, penalty_value, sum_loss

PHASES = ("forward", "loss", "backward", "parameters", "update")
ALIGNMENT = 64


def aligned_empty(sizes, dtype):
    """Arrays of the given sizes in one allocation, each on a cache line of its own."""
    itemsize = np.dtype(dtype).itemsize
    line = ALIGNMENT // itemsize
    starts = np.cumsum([0, *(-(-size // line) * line for size in sizes)])
    raw = np.empty(int(starts[-1]) * itemsize + ALIGNMENT, np.uint8)
    shift = -raw.ctypes.data % ALIGNMENT
    block = raw[shift : shift + int(starts[-1]) * itemsize].view(dtype)
    return block, [block[start : start + size] for start, size in zip(starts, sizes, strict=False)]


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


class Plan:
    """The operations of one network for minibatches of up to `capacity` rows with targets for one loss kernel."""

    def __init__(self, network, capacity, loss_kernel):
        self.network, self.capacity, self.loss_kernel = network, capacity, loss_kernel
        self.dtype = network.dtype
        self.rows = 0
        self.buffers = {}
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

    def _write_down(self):
        network = self.network
        largest = float(np.finfo(self.dtype).max)
        self.add("forward", count_exceeding, "bad_inputs", "x", largest)
        names = ["x"]
        for i, layer in enumerate(network.layers, 1):
            names.append(layer.forward(self, i, names[-1]))
        self.output = names[-1]
        gradients = [None] + [self.row_buffer(f"da{i}", n) for i, n in enumerate(network.sizes[1:], 1)]
        scalars = network.loss_function.parameters.values()
        self.add("loss", self.loss_kernel, "losses", gradients[-1], self.output, "y", "weight", *scalars)
        self.add("loss", sum_loss, "total", "losses")
        for i in range(len(network.layers), 0, -1):
            network.layers[i - 1].backward(self, i, names[i - 1], gradients[i], gradients[i - 1])
        if network.l1 or network.l2:
            self.add("loss", penalty_value, "total", "penalized", network.l1, network.l2)
            self.add("parameters", penalty_gradient, "dpenalized", "penalized", network.l1, network.l2)
        self.add("parameters", count_exceeding, "bad_gradients", "gradient", largest)
        self._gradient_check = self._phases["parameters"][-1]

    # ---- laid out and bound

    def _lay_out(self):
        network, capacity = self.network, self.capacity
        sizes = {**self._row_sizes, "losses": None, "weight": None}
        self.workspace, pieces = aligned_empty([capacity * (n or 1) for n in sizes.values()], self.dtype)
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
        self._row_names = {*sizes, *self.own}
        for prefix, flat in (("", network.parameters), ("d", network.gradient)):
            self.buffers |= {prefix + name: view for name, view in network.views(flat).items()}
            self.buffers[f"{prefix}penalized"] = flat[: network.n_weights]
            self.buffers[f"{prefix}parameters"] = flat
        self.buffers["gradient"] = network.gradient.reshape(1, -1)
        self.buffers["total"] = np.zeros(1, np.float64)
        self.buffers["bad_inputs"] = np.zeros(1, np.int64)
        self.buffers["bad_gradients"] = np.zeros(1, np.int64)

    def _bind_all(self):
        self.operations, self.ends = [], {}
        for phase in PHASES:
            self.operations += self._phases[phase]
            self.ends[phase] = len(self.operations)
        self._runner = None
        if self.network.backend != "numpy":
            self._runner = plan_module().Runner(len(self.operations) + 1)  # and one for the update
        for i, operation in enumerate(self.operations):
            self._bind(i, operation)
        self._users = {
            name: [(o, o.buffers.index(name)) for o in self.operations if name in o.buffers] for name in self.own
        }
        self.set_rows(self.capacity)

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
            self._runner.set(i, kernel.address(operation.body, self.dtype), operation.record.ctypes.data)
            self._runner.set_share(i, 0, sizes[kernel.range_dim])

    def use_optimizer(self, optimizer):
        """Makes the update phase that of the optimizer."""
        if optimizer is self._optimizer:
            return
        optimizer.bind(self.network)
        names = {"p": "parameters", "g": "dparameters"}
        for slot, (array,) in optimizer.state.items():
            names[slot] = f"optimizer.{slot}"
            self.buffers[names[slot]] = array
        kernel = optimizer.kernel
        self._phases["update"].clear()
        self.add("update", kernel, *(names[name] for name in kernel.arrays), *(0.0 for _ in kernel.scalars))
        start = self.ends["parameters"]
        self.operations[start:] = self._phases["update"]
        self.ends["update"] = start + 1
        self._bind(start, self.operations[start])
        self._optimizer = optimizer

    # ---- for each minibatch

    def set_rows(self, rows):
        """Makes every operation work on the first `rows` rows of its buffers, with weight 1 / rows each."""
        if rows == self.rows:
            return
        self.rows = rows
        self.buffers["weight"][:rows] = 1 / rows
        for i, operation in enumerate(self.operations):
            if operation.row_dim is None:
                continue
            kernel = operation.kernel
            if operation.record is None:
                for j, name in enumerate(operation.buffers):
                    if name in self._row_names:
                        operation.arguments[j] = self.buffers[name][:rows]
            else:
                operation.record[kernel.slots.index(operation.row_dim)] = rows
                if operation.row_dim == kernel.range_dim:
                    self._runner.set_share(i, 0, rows)

    def set_minibatch(self, **arrays):
        """Points the operations to the rows of x, and of y if given, where they lie: C-contiguous, aligned, of the
        dtype of `own`."""
        self.set_rows(len(arrays["x"]))
        for name, array in arrays.items():
            self.buffers[name] = array
            address = array.ctypes.data
            for operation, j in self._users[name]:
                operation.arguments[j] = array
                if operation.record is not None:
                    operation.record[j] = address

    def set_scalars(self, operation, scalars):
        """Sets the scalars of an operation."""
        operation.arguments[len(operation.buffers) :] = scalars
        if operation.record is not None:
            operation.record.view(np.float64)[-len(scalars) :] = scalars

    def set_update(self, learning_rate, scalars):
        """Sets the hyper-parameters of the update, and how large a gradient may be for it: within the square root of
        the largest number squares do not overflow, nor do updates at a learning rate above 1."""
        limit = float(np.finfo(self.dtype).max) ** 0.5 / max(1.0, learning_rate)
        self.set_scalars(self._gradient_check, [limit])
        self.set_scalars(self.operations[-1], scalars)

    def run(self, first, last):
        """Runs the phases from `first` to `last`."""
        start = 0 if first == PHASES[0] else self.ends[PHASES[PHASES.index(first) - 1]]
        end = self.ends[last]
        if self._runner is not None:
            self._runner.run(start, end)
            return
        with np.errstate(all="ignore"):  # as the compiled bodies do: what comes of it is checked
            for operation in self.operations[start:end]:
                operation.kernel.reference(*operation.arguments)

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
