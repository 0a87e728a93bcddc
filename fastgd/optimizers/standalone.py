"""Updates of lists of arrays, without a network, in one native call; and the checks of these arrays."""

import math
import sys
import typing

import numpy as np

from .._plan import THREAD_ELEMENTS, FastUpdate, StepInPython
from ..core.kernel import BACKENDS, DTYPES
from ..core.threads import check_threads
from ..data.mapped import check_mapping
from ..engine.program import UPDATE_PASS, UPDATE_PHASES, Operation, Program
from ..engine.update import write_update
from ..errors import choose, shown, type_error, value_error
from ..schedules import Schedule

# The most steps for which scalars are prefetched.
MAX_STEPS = 4096
# Packages whose arrays are immutable, even if they are exported as writable.
IMMUTABLE = ("jax", "jaxlib", "tensorflow")


class Standalone:
    """The program of an optimizer's update, bound to a list of parameter arrays."""

    def __init__(self, optimizer, parameters, gradients, num_threads, backend):
        self.wanted = num_threads, choose("backend", backend, {name: name for name in BACKENDS})
        threads = check_threads(num_threads)
        self.parameters, self.layouts = parameters, [_layout(p) for p in parameters]
        groups = [optimizer.group_of(i, p.ndim < 2) for i, p in enumerate(parameters)]
        unknown = [key for key in optimizer.learning_rate_factors if key not in range(len(parameters))]
        if unknown:
            raise value_error("learning_rate_factors", f"indices below {len(parameters)}", repr(unknown[0]))
        # Arrays that are updated: not empty, and with a factor that is not 0.
        self.used = [i for i, p in enumerate(parameters) if p.size and groups[i].factor]
        self.groups = sorted({groups[i] for i in self.used})
        # Scalars must be finite in the precision of every array.
        self.dtype = min([parameters[i].dtype for i in self.used], key=lambda dtype: dtype.itemsize, default=np.float64)
        backend = "cython" if backend == "auto" else backend
        optimizer.prepare(backend, self.dtype, self.groups)
        optimizer.allocate([parameters[i].reshape(-1) for i in self.used])
        self.program = program = Program(UPDATE_PHASES, backend, self.dtype)
        parts = []
        for i in self.used:
            names = f"params[{i}]", f"grads[{i}]"
            program.buffers |= zip(names, (parameters[i].reshape(-1), gradients[i].reshape(-1)), strict=True)
            parts.append((*names, groups[i]))
        write_update(program, optimizer, parts)
        program.bind()
        program.make_runner()
        self.gradients = list(_gradients(program, gradients))
        self._release_gradients()
        self.stages = program.stages(UPDATE_PASS)
        elements = sum(parameters[i].size for i in self.used)
        threads = int(max(1, min(threads, elements // THREAD_ELEMENTS)))
        self.count = 1
        self.fast = None
        if program.backend != "numpy":
            self._per_step = [
                (key, np.array([o.slot(name) for o in links])) for key, name, links in program.per_step(UPDATE_PHASES)
            ]
            self._skipped = np.array(program.conditional(), np.int64).reshape(-1, 2)
            slots = [(g.link.record.ctypes.data + 8 * g.position, g.number, g.offset) for g in self.gradients]
            self.fast = FastUpdate(
                program.runner, optimizer.lock, parameters, stages=self.stages, counter=optimizer.counter,
                slots=np.array(slots, np.int64).reshape(-1, 3), threads=threads, elements=elements,
                num_threads=self.wanted[0], backend=self.wanted[1], watched=program.watched(),
                raise_fault=self._raise_fault, kept=(program, parameters),
            )  # fmt: skip

    def step(self, optimizer, parameters, gradients, num_threads, backend):
        """Makes the update and returns True if this is bound to the parameters and the gradients fit; else returns
        False."""
        if (num_threads, backend) != self.wanted or self.fast is None or not self.program.is_current():
            return False
        if self.fast.run(parameters, gradients):
            return True
        self._prefetch(optimizer)
        return self.fast.run(parameters, gradients)

    def _prefetch(self, optimizer):
        """Computes the scalars of future steps. With a schedule of the package, four times as many as last time if all
        of those were used; otherwise only for the next step."""
        grows = isinstance(optimizer.schedule, Schedule) and self.fast.is_used_up
        self.count = min(4 * self.count, MAX_STEPS) if grows else 1
        try:
            _, active, values = optimizer.table(self.count, self.dtype, self.groups)
        except (TypeError, ValueError):  # perhaps for a step that is far ahead
            self.count = 1
            _, active, values = optimizer.table(1, self.dtype, self.groups)
        columns = {key: np.ascontiguousarray(values[key]) for key, _ in self._per_step}
        rows = [(slots, columns[key].ctypes.data) for key, slots in self._per_step]
        sizes = np.multiply.outer(self._skipped[:, 1], active)
        rows += [([slot], row.ctypes.data) for slot, row in zip(self._skipped[:, 0], sizes, strict=True)]
        per_step = [np.stack([slots, np.full(len(slots), address)], axis=1) for slots, address in rows]
        self.fast.prefetch_values(np.concatenate([np.zeros((0, 2), np.int64), *per_step]), self.count, (columns, sizes))

    def serves(self, parameters, num_threads, backend):
        """Whether this is bound to these arrays."""
        same = len(parameters) == len(self.parameters) and self.wanted == (num_threads, backend)
        return same and self.program.is_current() and [_layout(p) for p in parameters] == self.layouts

    def _release_gradients(self):
        """Drops references to the gradients, which belong to the caller."""
        for g in self.gradients:
            g.link.arguments[g.position] = self.program.buffers[g.link.buffers[g.position]] = None

    def step_in_python(self, optimizer, gradients):
        """Makes one update with numpy bodies."""
        _, active, values = optimizer.table(1, self.dtype, self.groups)
        self._take(gradients)
        self.program.prepare_in_python(UPDATE_PHASES, values, 0, active[0])
        try:
            with StepInPython():
                self.program.run_in_python(self.stages)
                optimizer.counter[0] += 1
        finally:
            self._release_gradients()

    def _take(self, gradients):
        """Points the arguments of numpy bodies to these gradients."""
        for g in self.gradients:
            flat = gradients[g.number].reshape(-1)
            start = g.offset // flat.itemsize
            g.link.arguments[g.position] = flat[start : start + math.prod(g.shape)].reshape(g.shape)

    def _raise_fault(self, gradients):
        """Raises the exception of a user's rule that raised in compiled code."""
        self.program.check_memory()
        self._take(gradients)
        try:
            self.program.raise_in_update(self.program.failed_update())
        finally:
            self._release_gradients()


def _layout(array):
    return array.ctypes.data, array.shape, array.dtype


class Gradient(typing.NamedTuple):
    """An operation that reads a gradient."""

    link: Operation
    position: int  # of the gradient among the operation's arrays
    number: int  # of the gradient in the list
    offset: int  # in bytes, of the part that the operation reads
    shape: tuple[int, ...]


def _gradients(program, gradients):
    for operation in program.operations:
        for link in operation.links:
            for position, name in enumerate(link.buffers):
                if name.startswith("grads["):
                    number, array = int(name[6 : name.index("]")]), link.arguments[position]
                    offset = array.ctypes.data - gradients[number].ctypes.data
                    yield Gradient(link, position, number, offset, array.shape)


class Converter:
    """Makes numpy arrays of objects that share their memory, and remembers the last list's."""

    def __init__(self):
        self._known = []  # (object, its layout, array)
        self._tensors = []  # the torch tensors among the objects

    def arrays(self, argument, values, remember):
        """An array or a list of arrays as a list of numpy arrays over the same memory."""
        single = not isinstance(values, (list, tuple))
        values = [values] if single else values
        known = self._known if remember and len(self._known) == len(values) else [(None, None, None)] * len(values)
        arrays, new = [], False
        for i, (value, (held, layout, array)) in enumerate(zip(values, known, strict=True)):
            if type(value) is np.ndarray:
                arrays.append(value)
            elif value is held is not None and layout == _tensor_layout(value):
                arrays.append(array)
            else:
                arrays.append(_as_numpy(argument if single else f"{argument}[{i}]", value))
                new = True
            if isinstance(value, np.memmap):
                check_mapping(value)
        if remember and new:
            self._known = [(value, _tensor_layout(value), array) for value, array in zip(values, arrays, strict=True)]
        if remember:
            tensor = _torch_tensor()
            self._tensors = [value for value in values if tensor is not None and isinstance(value, tensor)]
        return arrays

    def note_change(self):
        """Notifies torch that the remembered tensors were modified, so that going backward through a graph that has
        saved one of them raises."""
        for tensor in self._tensors:
            sys.modules["torch"].autograd.graph.increment_version(tensor)


def _torch_tensor():
    """torch.Tensor, or None if torch is not imported."""
    return getattr(sys.modules.get("torch"), "Tensor", None)


def _tensor_layout(value):
    """The attributes of a torch tensor that may change while it stays the same object; None for other objects."""
    return (value.data_ptr(), value.shape, value.stride()) if hasattr(value, "data_ptr") else None


def _as_numpy(argument, value):
    """A numpy array over the memory of a value."""
    expected = "a float32 or float64 array (or a list of them) in memory numpy can share"
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value)
    try:
        if hasattr(value, "detach"):  # torch tensors: faster than DLPack, and works if they require a gradient
            return value.detach().numpy()
        if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
            array = np.from_dlpack(value)
            if type(value).__module__.partition(".")[0] in IMMUTABLE:
                array.flags.writeable = False
            return array
        if not isinstance(value, np.ndarray):
            return np.asarray(memoryview(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__}: {error})") from None
    raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")


def check_arrays(argument, arrays, single, writable):
    """Raises unless kernels can work on the arrays in place."""
    for i, array in enumerate(arrays):
        name = argument if single else f"{argument}[{i}]"
        if str(array.dtype) not in DTYPES:
            raise type_error(name, "a float32 or float64 array", shown(array))
        check_mapping(array)
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise value_error(name, "a C-contiguous, aligned array", f"strides {array.strides}")
        if writable and not array.flags.writeable:
            raise value_error(name, "a writable array", f"a read-only {shown(array)}")


def check_pairs(parameters, gradients):
    """Raises unless each gradient fits its parameters, and no parameter array shares memory with another array."""
    if len(parameters) != len(gradients):
        raise value_error("grads", f"{len(parameters)} arrays as in params", len(gradients))
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        if p.shape != g.shape or p.dtype != g.dtype:
            raise value_error(f"grads[{i}]", f"a {p.dtype} array of shape {p.shape} as in params", shown(g))
    check_apart(parameters, gradients)


def check_apart(parameters, gradients):
    """Raises if a parameter array shares memory with another array."""
    spans = [(*np.lib.array_utils.byte_bounds(p), f"params[{i}]", True) for i, p in enumerate(parameters) if p.size]
    spans += [(*np.lib.array_utils.byte_bounds(g), f"grads[{i}]", False) for i, g in enumerate(gradients) if g.size]
    spans.sort()
    end, owner, written = 0, None, False
    for low, high, name, is_parameter in spans:
        if low < end and (is_parameter or written):
            raise value_error(name, "memory of its own", f"memory shared with {owner}")
        if high > end:
            end, owner, written = high, name, is_parameter
