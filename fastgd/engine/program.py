"""A program: operations (kernels bound to buffers) grouped in phases, and passes over the phases.

An operation is added as a kernel and the names of its buffers. `bind` then chooses a body for each and binds it to the
arrays. The native runner runs compiled bodies, Python runs numpy bodies.

Over 400 lines: how operations are bound, pointed at arrays and run follows from one layout of records.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from .._plan import (
    BAD_GRADIENT,
    BAD_LOSS,
    BY_ROWS,
    CHAIN_ELEMENTS,
    CHECK_GRADIENT,
    CHECK_LOSS,
    CHECK_MAX_ABS,
    DONE,
    GRAIN,
    HIGH_MAX_ABS,
    IMAGES,
    OPERATION,
    STAGE,
    Runner,
    StepInPython,
    chain_address,
    chain_record,
)
from ..core.kernel import Kernel

# The phases of an update, in order, and the pass over them.
UPDATE_PHASES = ("accumulate", "norms", "factor", "update")
UPDATE_PASS = (
    ("accumulate", "accumulate", None, None, 0),
    ("norms", "norms", "factor", "factor", 0),
    ("update", "update", None, None, 0),
)
# Prefix of the names of buffers that pass a block, which stays in the L1 cache, from one link of a chain to the next.
SCRATCH = "scratch"
NEVER = object()
# The note on an exception raised by an update rule.
HALF_DONE = "The update had begun: some parameters and some of the optimizer's state have been updated, others have not"


@dataclasses.dataclass(frozen=True)
class PerStep:
    """Stands for a scalar that changes from step to step; its values are found under this key."""

    key: object


def fold(kernel, row_shapes, in_blocks=None):
    """How a kernel sees the rows of its buffers: (positions in a row, shape of each array at a position).

    row_shapes: for each array of the kernel, the shape of a row of the minibatch: () for one number per row, None for
    an array without such rows.

    A row may have more axes than the kernel's contract. The leading axes that all arrays share are positions: the
    kernel sees rows x positions rows. Further axes are flattened into the last dimension. So a kernel with the contract
    (rows, n) sees tokens (rows, T, C) as rows T rows of n = C. If it also takes one number per row of the minibatch,
    such as the row's index, it sees rows of n = T C.

    in_blocks: for each array, whether its rows lie in blocks of images. A kernel that takes both kinds of rows sees no
    positions. In a block, further axes are flattened into the last dimension but "images"."""
    in_blocks = in_blocks or [False] * len(row_shapes)
    pairs = list(zip(kernel.arrays.values(), row_shapes, strict=True))
    spare = [row[: max(0, len(row) + 1 - len(spec.dims))] for spec, row in pairs if row is not None]
    if len({is_block for row, is_block in zip(row_shapes, in_blocks, strict=True) if row is not None}) > 1:
        spare = []
    shared = tuple(sizes[0] for sizes in itertools.takewhile(_all_equal, zip(*spare, strict=False)))
    shapes = []
    for (name, spec), row, is_block in zip(kernel.arrays.items(), row_shapes, in_blocks, strict=True):
        rest, rank = None if row is None else row[len(shared) :], len(spec.dims) - 1
        if rest is not None and len(rest) != rank:
            if len(rest) > rank > 1 and is_block:
                rest = (math.prod(rest[: len(rest) - rank + 1]), *rest[len(rest) - rank + 1 :])
            elif rank == 1:
                rest = (math.prod(rest),)
            else:
                raise ValueError(f"kernel {kernel.name}: array {name!r} has no place for rows of shape {row}")
        shapes.append(rest)
    return math.prod(shared), tuple(shapes)


def _all_equal(sizes):
    return len(set(sizes)) == 1


@dataclasses.dataclass(eq=False)
class Operation:
    """A kernel with the names of its buffers, and its scalars."""

    kernel: Kernel
    buffers: tuple
    scalars: tuple  # numbers or `PerStep`
    conditional: bool = False  # whether some steps skip it
    positions: int = 1  # see `fold`
    shapes: tuple = ()  # of each array at a position; see `fold`
    body: str = ""  # the body in use
    address: int = 0  # of the compiled body
    loop: object = None  # the Numba function that owns the code at the address
    fault: np.ndarray | None = None  # a compiled kernel sets it to 1 when a user's function raises
    row_dim: str | None = None  # the dimension that counts the rows of the minibatch, if any
    block_dim: str | None = None  # the dimension that counts blocks of images, if any
    arguments: list | None = None
    record: np.ndarray | None = None
    size: int = 0  # of the dimension that the threads share
    work: float = 0  # floating-point operations, approximately
    is_skipped: bool = False  # in the current step

    @property
    def links(self):
        return (self,)

    @property
    def outputs(self):
        """Names of the buffers that it writes."""
        named = zip(self.buffers, self.kernel.arrays.values(), strict=True)
        return [name for name, spec in named if spec.direction != "in"]

    @property
    def is_by_rows(self):
        """Whether a thread takes blocks of rows of the minibatch through it."""
        return not self.kernel.at_once and self.kernel.range_dim in (self.row_dim, self.block_dim)

    @property
    def per_step(self):
        """{name of a per-step scalar: key of its values}."""
        named = zip(self.kernel.scalars, self.scalars, strict=True)
        return {name: value.key for name, value in named if isinstance(value, PerStep)}

    def view(self, j, array):
        """An array with the shape that the kernel sees for its j-th buffer."""
        shape, rank = self.shapes[j], len(list(self.kernel.arrays.values())[j].dims)
        if shape is not None:
            return array.reshape(len(array) * self.positions, *shape)
        return array if array.ndim <= rank else array.reshape(-1, *array.shape[array.ndim - rank + 1 :])

    def slot(self, name):
        """Address of the slot of the record that holds an array, a dimension or a scalar."""
        return self.record.ctypes.data + 8 * self.kernel.slots.index(name)

    def set_scalars(self, **scalars):
        for name, value in scalars.items():
            self.arguments[len(self.buffers) + self.kernel.scalars.index(name)] = value
            if self.record is not None:
                self.record.view(np.float64)[self.kernel.slots.index(name)] = value

    def run(self):
        """Runs the numpy body."""
        self.kernel.run_reference(self.arguments)

    def copy_scalars(self, other):
        """Copies the scalars from another operation's record."""
        view = other.record.view(np.float64)
        self.set_scalars(**{name: view[self.kernel.slots.index(name)] for name in self.kernel.scalars})

    def describe(self, phase):
        named = [f"{name}{list(a.shape)}" for name, a in zip(self.buffers, self.arguments, strict=False)]
        call = f"{self.kernel.name}({', '.join(named)})"
        return f"  {phase:<11}{call:<88} {self.body}"


@dataclasses.dataclass(eq=False)
class Chain:
    """Operations that run one after the other on each block of flat arrays, so that a block that one leaves in SCRATCH
    is still in the L1 cache when the next reads it."""

    links: tuple
    conditional: bool = False
    record: np.ndarray | None = None
    size: int = 0
    is_skipped: bool = False
    row_dim = None
    is_by_rows = False

    def run(self):
        for link in self.links:
            link.run()

    def describe(self, phase):
        return "\n".join(link.describe(phase) for link in self.links)


class Program:
    """Operations in phases. `row_names`: buffers with one row per row of the minibatch."""

    def __init__(self, phases, backend, dtype):
        self.phases, self.backend, self.dtype = phases, backend, dtype
        self.buffers, self.row_names = {}, set()
        self.row_shapes = {}  # shape of a row, by name of a buffer in `row_names` or of a view of one
        self.block_names = set()  # those in `row_names` whose rows lie in blocks of images: see engine/rows.py
        self._base = {}  # {name of a view with another row shape: name of its buffer}
        self._phases = {phase: [] for phase in phases}
        self.operations, self.ends = [], {}
        self._table = np.zeros(0, OPERATION)
        self.runner = None  # None: Python runs the operations
        self._own_fault = np.zeros(1, np.int64)  # set to 1 when one of the package's Numba bodies raises
        self.users_links = []  # compiled operations that call users' functions

    def add(self, phase: str, kernel: Kernel, *arguments: Any, conditional: bool = False) -> None:
        """Appends an operation to a phase. arguments: names of buffers, then scalars."""
        self._phases[phase].append(self.operation(kernel, *arguments, conditional=conditional))

    def add_chain(self, phase, links, conditional=False):
        """Appends operations that run one after the other on each block of flat arrays: see `Chain`."""
        if len(links) == 1:
            links[0].conditional = conditional
        self._phases[phase].append(links[0] if len(links) == 1 else Chain(tuple(links), conditional))

    def operation(self, kernel, *arguments, conditional=False):
        names, scalars = arguments[: len(kernel.arrays)], arguments[len(kernel.arrays) :]
        in_blocks = [name in self.block_names for name in names]
        row_shapes = [self.row_shapes.get(name) for name in names]
        if any(in_blocks):
            takes_blocks = kernel.is_elementwise and all(in_blocks)
            for name, spec, is_block in zip(names, kernel.arrays.values(), in_blocks, strict=True):
                if is_block and spec.dims[-1] != "images" and not takes_blocks:
                    raise ValueError(f"kernel {kernel.name}: expected {name!r} by rows, got blocks of images")
            pairs = zip(row_shapes, in_blocks, strict=True)
            row_shapes = [(*shape, IMAGES) if is_block else shape for shape, is_block in pairs]
        positions, shapes = fold(kernel, row_shapes, in_blocks)
        buffers = tuple(self._base.get(name, name) for name in names)
        return Operation(kernel, buffers, scalars, conditional, positions, shapes)

    def bind(self, first=0):
        """Binds the operations from index `first` on; earlier ones are bound already."""
        self.operations, self.ends, self._uses = [], {}, {}
        for phase in self.phases:
            self.operations += self._phases[phase]
            self.ends[phase] = len(self.operations)
        table = np.zeros(len(self.operations), OPERATION)
        table[:first] = self._table[:first]
        self._table = table
        for i, operation in enumerate(self.operations[first:], first):
            for link in operation.links:
                self._bind_link(link)
            if self.backend != "numpy":
                self._enter(i, operation)
        links = (link for operation in self.operations for link in operation.links)
        self.users_links = [link for link in links if link.fault is not None and link.kernel.functions]

    def make_runner(self, **options):
        """Makes the native runner for the bound operations; for the options see `Runner`."""
        if self.backend != "numpy":
            faults = [*(link.fault for link in self.users_links), self._own_fault]
            self.faults = np.array([fault.ctypes.data for fault in faults], np.int64)
            self.runner = Runner(self._table, self.faults, **options)

    def _bind_link(self, link):
        kernel = link.kernel
        link.body = kernel.choose_body(self.backend)
        for name in link.buffers:
            if name not in self.buffers:
                raise ValueError(f"kernel {kernel.name}: expected names of arrays, got {name!r}")
        link.arguments = [link.view(j, self.buffers[name]) for j, name in enumerate(link.buffers)]
        link.arguments += [0.0 if isinstance(value, PerStep) else value for value in link.scalars]
        for name, spec in zip(link.buffers, kernel.arrays.values(), strict=True):
            if name in self.block_names:
                link.block_dim = spec.dims[0]
            elif name in self.row_names:
                link.row_dim = spec.dims[0]
        dtype, sizes = kernel.check(link.arguments)
        link.size, link.work = sizes[kernel.range_dim], kernel.operations(sizes)
        if link.body != "numpy":
            link.loop = kernel.numba_loop(dtype) if link.body == "numba" else None
            link.address = link.loop.address if link.loop else kernel.address(link.body, dtype)
            link.record = kernel.record(link.arguments, sizes)
            if link.body == "numba":
                link.fault = np.zeros(1, np.int64) if kernel.functions else self._own_fault
                link.record[-1] = link.fault.ctypes.data

    def _enter(self, i, operation):
        """Fills the entry of an operation in the runner's table."""
        grain = max([GRAIN, *(link.kernel.grain for link in operation.links)])
        entry = self._table[i]
        if isinstance(operation, Chain):
            entry["kernel"], operation.record = chain_address, chain_record(_links(operation.links))
            operation.size = operation.links[0].size
        else:
            entry["kernel"], entry["positions"] = operation.address, operation.positions
            entry["rows"] = operation.slot(operation.row_dim) if operation.row_dim else 0
            entry["blocks"] = operation.slot(operation.block_dim) if operation.block_dim else 0
            counts = {operation.row_dim: 1, operation.block_dim: IMAGES}
            entry["images"] = counts.get(operation.kernel.range_dim, 0)
            if operation.is_by_rows and operation.positions == 1 and len(operation.shapes[0] or ()) > 1:
                grain = operation.kernel.grain  # a whole sequence is work enough
            if operation.kernel.at_once:
                grain = operation.kernel.grain
            if operation.block_dim and operation.kernel.range_dim != operation.row_dim:
                grain = 1  # a block, or what all pixels give to a row of parameters, is work enough
        entry["record"], entry["end"], entry["grain"] = operation.record.ctypes.data, operation.size, grain
        entry["follower"] = -1

    # ---- faults in compiled code

    def check_memory(self):
        """Raises MemoryError if one of the package's Numba bodies could not allocate memory."""
        if self._own_fault[0]:
            error = MemoryError("no memory for the arrays that a loop of the Numba backend allocates")
            error.add_note(HALF_DONE)
            raise error

    def is_current(self):
        """Whether the compiled users' functions are up to date: code, globals and closures are unchanged."""
        return not self.users_links or all(link.loop.reads.are_current() for link in self.users_links)

    def watched(self):
        """What `unchanged` compares before a fast step. If a function reads an array, whose elements may change in
        place, the comparison always fails, so that every step checks `is_current`."""
        reads = [link.loop.reads for link in self.users_links]
        never = [({}, None, NEVER)] if any(r.may_change_in_place for r in reads) else []
        return [*never, *(triple for r in reads for triple in r.watched)]

    def failed_update(self):
        """The operation of the update in which a user's rule raised in compiled code, or None."""
        failed = [link for link in self.users_links if link.fault[0]]
        return next((o for o in self._phases["update"] if any(link in failed for link in o.links)), None)

    def raise_in_update(self, operation):
        """Raises the exception of a user's rule, by running it in Python on copies of its arrays as they are now."""
        copies = {}
        try:
            for link in operation.links:
                arrays = [
                    copies.setdefault(name, array.copy())
                    for name, array in zip(link.buffers, link.arguments, strict=False)
                ]
                first = len(link.kernel.arrays) + len(link.kernel.dims)
                scalars = link.record.view(np.float64)[first : first + len(link.kernel.scalars)]
                link.kernel.run_reference([*arrays, *scalars.tolist()])
            raise next(link for link in operation.links if link in self.users_links).kernel.fault()
        except Exception as error:
            error.add_note(HALF_DONE)
            raise

    def links_with(self, name):
        """(operation, index of the buffer among the operation's buffers) for each use of a buffer."""
        if name not in self._uses:
            links = (link for operation in self.operations for link in operation.links)
            self._uses[name] = [(link, j) for link in links for j, used in enumerate(link.buffers) if used == name]
        return self._uses[name]

    def point(self, name, array):
        """Makes the operations use another array for a buffer. It must be C-contiguous, aligned, of the same dtype."""
        self.buffers[name] = array
        for link, j in self.links_with(name):
            link.arguments[j] = link.view(j, array)
            if link.record is not None:
                link.record[j] = array.ctypes.data

    def range_of(self, first, last):
        """(begin, end) of the operations of the phases `first` to `last`."""
        i = self.phases.index(first)
        return self.ends[self.phases[i - 1]] if i else 0, self.ends[last]

    def stages(self, parts):
        """The stages of a pass as an array of `STAGE`.

        parts: tuples (first, last phase that the threads share; first, last closing phase, which the last thread to
        arrive runs alone; flags). Stages without operations are left out. In a stage by rows, an operation that needs
        all rows together, such as the statistics of a minibatch, or all rows of a thread becomes a separate stage."""
        stages = []
        for first, last, closing, end, flags in parts:
            shared, alone = self.range_of(first, last), self.range_of(closing, end) if closing else (0, 0)
            if shared[0] == shared[1] and alone[0] == alone[1]:
                continue
            begin, stop = shared
            for i in range(begin + 1, stop) if flags & BY_ROWS else ():
                by_rows = self.operations[i - 1].is_by_rows
                if self.operations[i].is_by_rows != by_rows or self._is_apart(i - 1) or self._is_apart(i):
                    stages.append((begin, i, 0, 0, BY_ROWS * by_rows))
                    begin = i
            if flags & BY_ROWS and begin < stop and not self.operations[begin].is_by_rows:
                flags -= BY_ROWS
            stages.append((begin, stop, *alone, flags))
        return np.array(stages, STAGE)

    def _is_apart(self, i):
        """Whether an operation needs a stage of its own: it reads what other threads may write in the one before."""
        return any(link.kernel.at_once for link in self.operations[i].links)

    def per_step(self, phases):
        """(key of the values, name of the scalar, operations) for every per-step scalar in the given phases."""
        found = {}
        for operation in (o for phase in phases for o in self._phases[phase]):
            for link in operation.links:
                for name, key in link.per_step.items():
                    found.setdefault((key, name), []).append(link)
        return [(key, name, links) for (key, name), links in found.items()]

    def conditional(self):
        """(address of its size in the runner's table, size) of each conditional operation."""
        first = self._table["end"].ctypes.data
        stride = self._table.strides[0]
        return [(first + i * stride, o.size) for i, o in enumerate(self.operations) if o.conditional]

    def run_in_python(self, stages):
        """Runs one pass with numpy bodies; returns the status."""
        # Like compiled bodies, numpy bodies ignore floating-point errors: the results are checked. A fork during the
        # pass could leave the child with a held lock of numpy's BLAS, so `StepInPython` delays it.
        with np.errstate(all="ignore"), StepInPython():
            for first, last, closing, end, flags in stages:
                for operation in (*self.operations[first:last], *self.operations[closing:end]):
                    if not operation.is_skipped:
                        self._run_in_python(operation)
                if flags & CHECK_MAX_ABS and not np.isfinite(self.buffers["largest"][0]):
                    return HIGH_MAX_ABS
                if flags & CHECK_LOSS and not np.isfinite(self.buffers["total"][0]):
                    return BAD_LOSS
                if flags & CHECK_GRADIENT and self.buffers["bad_gradients"][0]:
                    return BAD_GRADIENT
        return DONE

    def _run_in_python(self, operation):
        try:
            operation.run()
        except Exception as error:
            if operation in self._phases["update"]:
                error.add_note(HALF_DONE)
            raise

    def prepare_in_python(self, phases, values, s, active):
        """Sets the per-step scalars in the given phases to the values of step s."""
        for key, name, links in self.per_step(phases):
            for link in links:
                link.set_scalars(**{name: float(values[key][s])})
        for operation in self.operations:
            operation.is_skipped = operation.conditional and not active

    def describe(self):
        """One line per operation: phase, kernel with buffers and their shapes, body in use."""
        return [operation.describe(phase) for phase in self.phases for operation in self._phases[phase]]


def _links(links):
    """The argument of `chain_record`: for each link the addresses of body and record, the slots of the record, and for
    each array the bytes that CHAIN_ELEMENTS elements occupy, or -1 for the scratch buffer."""
    described = []
    for link in links:
        shifts = []
        for name, spec, array in zip(link.buffers, link.kernel.arrays.values(), link.arguments, strict=False):
            shift = 0 if spec.dims[0] == "one" else array.itemsize * CHAIN_ELEMENTS // (spec.per or 1)
            shifts.append(-1 if name.startswith(SCRATCH) else shift)
        described.append((link.address, link.record.ctypes.data, len(link.record), shifts))
    return described
