"""The kernel: one operation, with up to three bodies.

The numpy body is the contract: its name, argument order, annotations and docstring hold for all bodies. Numba compiles
the plain loop beside it (`@name.loop`) when it is first needed. The Cython body is in src_cython/, in the file of the
same folder and stem; the fastest variant that this processor can run is chosen when a compiled kernel is first needed.

    @kernel
    def sgd_step(p: InOut("n"), g: In("n"), lr: float, weight_decay: float):
        ...

An activation or a link also has a function that exports it to ONNX (`@name.onnx`).

The arguments are arrays, annotated with their direction and the names of their dimensions, then floats.
A compiled body is `void body(const void *record, int64_t begin, int64_t end)`. The record lists, eight bytes each,
the addresses of the arrays, the sizes of the dimensions in order of first appearance, the scalars, and the address of
an int64, which a Numba body sets to 1 when something in it raises. [begin, end) is a share of the first dimension of
the first array.

Over 400 lines: the contract of a kernel, the choice of a body and the checks of a call are one class.
"""

import dataclasses
import functools
import importlib
import inspect
import math
import numbers
import os
import pickle
import types
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from .._plan import CHAIN_ARRAYS, CHAIN_SLOTS, IMAGES, CheckedCall, call_kernel
from ..core import fingerprint
from ..errors import choose, shown, type_error, value_error
from .domains import check_domain, domain_of
from .for_users import ForUsers

# The name of the package, wherever it is installed.
PACKAGE = __package__.partition(".")[0]
BODIES = ("numpy", "numba", "cython")
# The backends that a user may choose: a body, or "auto", which is "cython".
BACKENDS = ("auto", "cython", "numba", "numpy")
DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
# Sizes of dimensions that are the same in every call, by name.
FIXED_SIZES = {"images": IMAGES, "two": 2, "three": 3, "four": 4, "sixteen": 16}


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """The contract of one array.

    dtype: None is the dtype of the call, float32 or float64.
    domain: the valid values, a key of `domains.DOMAINS`.
    below: the dimension whose size bounds the values, for domains that have a bound.
    per: if given, the array has one element per this many elements of the first dimension of the first array; the last
        may stand for fewer."""

    direction: str
    dims: tuple[str, ...]
    dtype: str | None = None
    domain: str = "real"
    below: str | None = None
    per: int | None = None


def In(*dims: str, **options: Any) -> ArraySpec:
    """An array that the kernel reads."""
    return ArraySpec("in", dims, **options)


def Out(*dims: str, **options: Any) -> ArraySpec:
    """An array that the kernel overwrites without reading it."""
    return ArraySpec("out", dims, **options)


def InOut(*dims: str, **options: Any) -> ArraySpec:
    """An array that the kernel reads and updates."""
    return ArraySpec("inout", dims, **options)


@functools.cache
def variant():
    """Name of the compiled variant in use: the best variant that is built and that this processor can run, or the one
    that the environment variable FASTGD_ISA names."""
    cpu = importlib.import_module("._cpu", PACKAGE)
    supported = cpu.variants()
    if not supported:
        raise ImportError(
            f"fastgd: expected a processor that runs one of the variants built, {', '.join(map(repr, cpu.built()))}; "
            "a wheel has 'v2', 'v3' and 'v4' of x86-64, of which 'v2' needs SSE4.2 (made since about 2009)"
        )
    wanted = os.environ.get("FASTGD_ISA")
    if not wanted:
        return supported[0]
    if wanted not in supported:
        raise ImportError(
            f"environment variable FASTGD_ISA: expected one of {', '.join(map(repr, supported))} "
            f"(what is built and this processor can run), got {wanted!r}"
        )
    return wanted


@functools.cache
def _cython_bodies(dtype):
    return importlib.import_module(f"._kernels_{variant()}_{dtype}", PACKAGE).bodies


def _annotations(function):
    """{name of an argument: its annotation} of a body. For plain functions it reads what inspect.signature reads, which
    for all kernels would take a tenth of the time of `import fastgd`."""
    if isinstance(function, types.FunctionType) and not vars(function):
        code, known = function.__code__, function.__annotations__
        if not code.co_kwonlyargcount and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
            names = code.co_varnames[: code.co_argcount]
            return {name: known.get(name, inspect.Parameter.empty) for name in names}
    return {name: p.annotation for name, p in inspect.signature(function).parameters.items()}


def _is_of_package(function):
    return (function.__module__ or "").startswith(f"{PACKAGE}.")


class Kernel(CheckedCall, ForUsers):
    """One operation with up to three bodies; see the head of this module.

    Calling it checks the arguments against the contract and runs the fastest body; `body(name)` returns a callable that
    does the same with the body of that name.
    """

    _internal = frozenset({
        "address", "arrays", "at_once", "build_loop", "check", "choose_body", "cost", "derived", "dims", "fault",
        "functions", "grain", "has_loop", "in_place", "is_elementwise", "loop", "loop_for", "loop_function",
        "loop_gets_share", "loops", "numba_loop", "onnx", "onnx_function", "operations", "raise_again", "range_dim",
        "record", "reference", "run_reference", "scalars", "slots", "whole_state"
    })  # fmt: skip

    name: str
    cost: Callable[..., float] | None  # floating-point operations, approximately, given the sizes by name
    arrays: dict[str, ArraySpec]
    dims: tuple[str, ...]
    scalars: tuple[str, ...]

    def __init__(
        self,
        reference: Callable[..., None],
        cost: Callable[..., float] | None = None,
        elementwise: bool = False,
        in_place: tuple[str, str] | None = None,
        at_once: bool = False,
    ) -> None:
        self.name = self.__name__ = reference.__name__
        self.__module__ = reference.__module__
        self.reference = reference
        self.loop_function: Callable[..., None] | None = None
        self.loop_gets_share = False  # see `loop`
        # Makes the loop, given a `jit.Compiler` and a dtype.
        self.build_loop: Callable[..., Callable[..., None]] | None = None
        # Users' functions that the loop calls: they may raise, and what they read may change.
        self.functions: tuple[Callable[..., Any], ...] = ()
        self.loops: dict[np.dtype[Any], Any] = {}  # compiled by Numba, by dtype
        self.onnx_function: Callable[..., str] | None = None
        self.cost, self.is_elementwise, self.in_place, self.at_once = cost, elementwise, in_place, at_once
        self.derived: dict[str, Kernel] = {}  # kernels derived from this one; see optimizers/low_memory.py
        self.whole_state = False  # whether the state of an update rule needs the precision of the parameters
        annotations = _annotations(reference)
        self.arrays = {name: a for name, a in annotations.items() if isinstance(a, ArraySpec)}
        self.scalars = tuple(name for name, a in annotations.items() if a is float)
        if not self.arrays or (*self.arrays, *self.scalars) != tuple(annotations):
            raise TypeError(f"kernel {self.name}: expected annotated arrays first, then floats, got {annotations}")
        self.dims = tuple(dict.fromkeys(dim for array in self.arrays.values() for dim in array.dims))
        for name, array in self.arrays.items():
            if not array.dims:
                raise TypeError(f"kernel {self.name}: expected at least one dimension of array {name}, got none")
            check_domain(f"array {name} of kernel {self.name}", array, self.dims)
        if elementwise and (len(self.dims) != 2 or {array.dims for array in self.arrays.values()} != {self.dims}):
            raise TypeError(f"kernel {self.name}: expected arrays (rows, n) of an elementwise kernel, got others")
        self.range_dim = next(iter(self.arrays.values())).dims[0]
        self.slots = (*self.arrays, *self.dims, *self.scalars)  # of the record of a compiled body
        if len(self.arrays) > CHAIN_ARRAYS or len(self.slots) >= CHAIN_SLOTS:
            raise ValueError(
                f"kernel {self.name}: expected at most {CHAIN_ARRAYS} arrays, and fewer than {CHAIN_SLOTS} arrays, "
                f"dimensions and scalars together, got {len(self.arrays)} and {len(self.slots)}"
            )
        self.__doc__ = f"{inspect.cleandoc(reference.__doc__ or self.name)}\n\n{self._contract()}"
        # Shares of the work begin at multiples of this.
        self.grain = max([1, *(array.per for array in self.arrays.values() if array.per)])

    def __getattr__(self, name: str) -> Any:
        """Makes the signature when it is first asked for."""
        if name != "__signature__":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        self.__signature__ = inspect.signature(self.reference)
        return self.__signature__

    def _contract(self):
        """Shapes, dtypes and directions of the arguments, and the errors, as text."""
        does = {"in": "read", "out": "overwritten", "inout": "read and updated"}
        lines = []
        for name, a in self.arrays.items():
            dims = [str(FIXED_SIZES.get(dim, dim)) for dim in a.dims]
            shape = f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"
            per = f", one for every {a.per} of {self.range_dim}" if a.per else ""
            values = "" if a.domain == "real" else f", {domain_of(a).expected.format(highest=f'{a.below} - 1')}"
            lines.append(f"{name}: {a.dtype or 'float32 or float64'} array {shape}{per}{values}; {does[a.direction]}.")
        if self.scalars:
            lines.append(f"{', '.join(self.scalars)}: real numbers.")
        lines.append("Arrays are C-contiguous and aligned; all float32 or float64 arrays have the same dtype.")
        lines.append("")
        lines.append(
            "Raises TypeError or ValueError before it changes an array; the message names the argument, what was"
        )
        lines.append("expected and what was received.")
        return "\n".join(lines)

    def loop(self, function: Callable[..., None]) -> "Kernel":
        """Decorator: attaches the loop that Numba compiles, with the arguments of the numpy body. It gets the parts of
        the arrays that belong to its share of the work; or, if it also takes `begin` and `end`, whole arrays and the
        share."""
        names = tuple(_annotations(function))
        self.loop_gets_share = names[-2:] == ("begin", "end")
        names = names[:-2] if self.loop_gets_share else names
        expected = (*self.arrays, *self.scalars)
        if names != expected:
            raise TypeError(f"kernel {self.name}: its loop takes {names}, expected {expected}")
        self.loop_function = function
        if not _is_of_package(function):
            self.functions = (function,)
        return self

    def onnx(self, function: Callable[..., str]) -> "Kernel":
        """Decorator: attaches the function that adds the nodes of an activation or a link to a graph
        (`fastgd.onnx.Graph`). It takes the graph, the name of the input and the scalars; it returns the name of the
        output."""
        names = tuple(_annotations(function))
        if names != ("graph", "x", *self.scalars):
            raise TypeError(f"kernel {self.name}: its nodes take {names}, expected {('graph', 'x', *self.scalars)}")
        self.onnx_function = function
        return self

    def operations(self, sizes):
        """The number of floating-point operations, approximately: `cost`, or one per element of the largest array."""
        if self.cost is not None:
            return self.cost(**sizes)
        return max(math.prod(sizes[dim] for dim in array.dims) for array in self.arrays.values())

    @property
    def has_loop(self):
        return self.loop_function is not None or self.build_loop is not None

    def loop_for(self, compiler, dtype):
        """The loop that Numba compiles for a dtype."""
        return self.loop_function or self.build_loop(compiler, dtype)

    def bodies(self) -> tuple[str, ...]:
        """Names of the bodies this kernel has."""
        has = {
            "numpy": True,
            "numba": self.has_loop,
            "cython": _is_of_package(self) and self.name in _cython_bodies("float32"),
        }
        return tuple(name for name in BODIES if has[name])

    def choose_body(self, backend):
        """The body to use on a backend: the backend's, else the other compiled one. Only "numpy" uses the numpy
        body."""
        if backend == "numpy":
            return "numpy"
        order = ("numba", "cython") if backend == "numba" else ("cython", "numba")
        compiled = next((name for name in order if name in self.bodies()), None)
        if compiled is None:
            raise ValueError(
                f"kernel {self.name}: backend {backend!r}: expected a compiled body, got numpy's alone; attach a loop "
                f'with @{self.name}.loop, or use backend="numpy"'
            )
        return compiled

    def address(self, body, dtype):
        """Address of the compiled body for a dtype. The caller must keep the `numba_loop` alive."""
        if body == "numba":
            return self.numba_loop(dtype).address
        address, size = _cython_bodies(str(dtype))[self.name]
        if size != 8 * len(self.slots):
            raise ImportError(
                f"kernel {self.name}: compiled record has {size} bytes, expected {8 * len(self.slots)}; "
                "the compiled modules are of another version of fastgd: install it again"
            )
        return address

    def numba_loop(self, dtype):
        """The body that Numba compiles for a dtype, a `jit.Loop`, up to date with the users' functions in it."""
        try:
            from .jit import compile_loop
        except ImportError as error:
            if "cython" in self.bodies():
                raise
            raise ImportError(
                f"kernel {self.name}: a compiled backend needs numba for a function written in Python: "
                "pip install 'fastgd[numba]', or use backend=\"numpy\""
            ) from error
        return compile_loop(self, np.dtype(dtype))

    def body(self, name: str) -> Callable[..., None]:
        """A function that checks its arguments and runs the body `name`: "numpy", "numba" or "cython".
        inspect.getsource shows the first two, which are written in Python."""
        choose("name", name, dict.fromkeys(self.bodies()))
        return _Body(self, name, {"numpy": self.reference, "numba": self.loop_function}.get(name))

    def _prepare_call(self):
        """Tells the base class the contract, for calls that it checks in C."""
        arrays = [
            (-1 if a.dtype is None else np.dtype(a.dtype).num, [self.dims.index(dim) for dim in a.dims], a.per or 0,
             a.direction != "in") for a in self.arrays.values()
        ]  # fmt: skip
        has_body = self.choose_body("cython") == "cython"
        bodies = [self.address("cython", dtype) if has_body else 0 for dtype in DTYPES.values()]
        fixed = [FIXED_SIZES.get(dim, 0) for dim in self.dims]
        self._set_contract(arrays, fixed, len(self.scalars), self.dims.index(self.range_dim), *bodies)

    def _call_any(self, arguments):
        self._call(self.choose_body("cython"), *arguments)

    def _call(self, body, *arguments):
        dtype, sizes = self.check(arguments)
        if body == "numpy":
            self.run_reference(arguments)
            return
        loop = self.numba_loop(dtype) if body == "numba" else None
        record, fault = self.record(arguments, sizes), np.zeros(1, np.int64)
        before = arguments
        record[-1] = fault.ctypes.data
        if self.functions:
            before = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        address = self.address(body, dtype) if loop is None else loop.address
        call_kernel(address, record.ctypes.data, 0, sizes[self.range_dim])
        if fault[0]:
            self.raise_again(before)

    def run_reference(self, arguments):
        """Runs the numpy body. An exception gets a note with the name of the kernel."""
        try:
            with np.errstate(all="ignore"):  # as the compiled bodies do
                self.reference(*arguments)
        except Exception as error:
            error.add_note(f"raised in kernel {self.name}")
            raise

    def raise_again(self, arguments):
        """Raises the exception that a user's function raised in compiled code, by running it in Python."""
        if self.functions:
            self.run_reference(arguments)
        raise self.fault()

    def fault(self):
        """The error if compiled code raised an exception that Python does not raise."""
        if not self.functions:
            return MemoryError(f"kernel {self.name}: no memory for the arrays that its loop allocates")
        names = ", ".join(repr(function.__name__) for function in self.functions)
        return RuntimeError(
            f"kernel {self.name}: expected {names} to return, got an exception in compiled code that Python does not "
            'raise (integers are 64-bit in compiled code); backend="numpy" runs it in Python'
        )

    def check(self, arguments):
        """The dtype of the call and the sizes of the dimensions; raises if the arguments break the contract."""
        if len(arguments) != len(self.arrays) + len(self.scalars):
            raise TypeError(f"{self.name}{self.__signature__}: got {len(arguments)} arguments")
        dtype, sizes = None, {dim: size for dim, size in FIXED_SIZES.items() if dim in self.dims}
        first = {}  # by dimension: the first array that has it
        for (name, spec), array in zip(self.arrays.items(), arguments, strict=False):
            if not isinstance(array, np.ndarray):
                raise type_error(name, "a numpy array", type(array).__name__)
            if spec.dtype is None and dtype is None:
                dtype = array.dtype
                if str(dtype) not in DTYPES:
                    raise type_error(name, "float32 or float64", shown(array))
            expected = dtype if spec.dtype is None else np.dtype(spec.dtype)
            if array.dtype != expected:
                raise type_error(name, f"{expected} like the other arrays", shown(array))
            shape = tuple(sizes.setdefault(d, n) for d, n in zip(spec.dims, array.shape, strict=False))
            if array.ndim != len(spec.dims) or array.shape != shape or 0 in shape:
                given = dict(zip(self.arrays, arguments, strict=False))
                raise self._wrong_shape(name, array, sizes, {d: (a, given[a].shape) for d, a in first.items()})
            first = {**dict.fromkeys(spec.dims, name), **first}
            if not (array.flags.c_contiguous and array.flags.aligned):
                raise value_error(
                    name, "a C-contiguous, aligned array", f"strides {array.strides}; use np.ascontiguousarray"
                )
            if spec.direction != "in" and not array.flags.writeable:
                raise value_error(name, "a writable array", f"a read-only {shown(array)}")
        for name, spec in self.arrays.items():
            blocks = -(-sizes[self.range_dim] // spec.per) if spec.per else None
            if spec.per and sizes[spec.dims[0]] != blocks:
                first_name = next(iter(self.arrays))
                expected = f"{blocks} along the first axis, one for every {spec.per} of the {sizes[self.range_dim]}"
                raise value_error(name, f"{expected} of {first_name!r}", sizes[spec.dims[0]])
        for name, value in zip(self.scalars, arguments[len(self.arrays) :], strict=True):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise type_error(name, "a real number", f"{shown(value)} ({type(value).__name__})")
            try:
                float(value)
            except OverflowError:
                raise value_error(name, "a number that a float can hold", shown(value)) from None
        return dtype or DTYPES["float32"], sizes  # any dtype will do if the kernel has no such arrays

    def _wrong_shape(self, name, array, sizes, given):
        """The error for an array of a wrong shape, which names those that it differs from. given: (name, shape) of the
        first array with a dimension."""
        dims = self.arrays[name].dims
        alike = array.ndim == len(dims)
        differ = [dim for i, dim in enumerate(dims) if not (alike and array.shape[i] == sizes[dim])]
        others = dict(given[dim] for dim in differ if dim in given)
        since = " and ".join(f"{other!r} has shape {shape}" for other, shape in others.items())
        known = [str((dim in given and sizes[dim]) or FIXED_SIZES.get(dim, dim)) for dim in dims]
        shape = f"({', '.join(known)}{',' if len(known) == 1 else ''})"
        return value_error(name, f"shape {shape}, nothing empty{since and f', since {since}'}", shown(array))

    def record(self, arguments, sizes):
        """The record of a compiled body as int64 slots. The last slot is for the address of an int64 that a Numba body
        sets to 1 when it raises. The caller must keep the arrays alive."""
        record = np.zeros(len(self.slots) + 1, np.int64)
        addresses = [array.ctypes.data for array in arguments[: len(self.arrays)]]
        record[: len(self.arrays) + len(self.dims)] = addresses + [sizes[dim] for dim in self.dims]
        first = len(self.arrays) + len(self.dims)
        record.view(np.float64)[first : first + len(self.scalars)] = arguments[len(self.arrays) :]
        return record

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        """Itself: the copy of an object that uses a kernel uses the same kernel, whatever its name means by then."""
        return self

    def __reduce__(self):
        """Pickles by name, as for functions; raises if the name means another kernel by now. Unpickling raises if the
        kernel is a user's and the name means another function by then."""
        if getattr(kernels, self.name, None) is not self:
            raise pickle.PicklingError(
                f"kernel {self.name}: not the same object as fastgd.kernels.{self.name} any more"
            )
        return _find, (self.__module__, self.name, fingerprint.of_kernel(self))

    def __repr__(self) -> str:
        return f"<kernel {self.name}{self.__signature__}>"


class _Body:
    """A body of a kernel as a function. source: the function that it is written as, or None."""

    def __init__(self, kernel, name, source):
        self._kernel, self._name = kernel, name
        functools.update_wrapper(self, kernel.reference)
        self.__doc__, self.__signature__ = kernel.__doc__, kernel.__signature__
        self.__wrapped__ = source
        if source is None:
            del self.__wrapped__

    def __call__(self, *arguments: Any) -> None:
        self._kernel._call(self._name, *arguments)

    def __reduce__(self):
        return Kernel.body, (self._kernel, self._name)

    def __repr__(self) -> str:
        return f"<{self._name} body of kernel {self._kernel.name}{self.__signature__}>"


class Kernels(types.SimpleNamespace):
    """All kernels, by name. The docstring of a kernel has the formula, its source, the arguments with their shapes, and
    the errors. Calling a kernel works in place and uses the fastest body; `kernel.body(name)` uses another body,
    "numpy", "numba" or "cython". `kernel.bodies()` lists the bodies."""

    def __repr__(self) -> str:
        return f"fastgd.kernels: {', '.join(vars(self))}"


kernels = Kernels()


def _find(module, name, rows):
    """The kernel with a name, after importing its module; raises unless its fingerprint is `rows`."""
    importlib.import_module(module)
    found = getattr(kernels, name)
    now = fingerprint.of_kernel(found)
    if (rows is None) != (now is None) or not fingerprint.agree(rows or [], now or []):
        raise pickle.UnpicklingError(f"kernel {name}: not the function that was pickled, but another one of its name")
    return found


@overload
def kernel(
    reference: Callable[..., None],
    *,
    cost: Callable[..., float] | None = None,
    elementwise: bool = False,
    in_place: tuple[str, str] | None = None,
    at_once: bool = False,
) -> Kernel: ...
@overload
def kernel(
    reference: None = None,
    *,
    cost: Callable[..., float] | None = None,
    elementwise: bool = False,
    in_place: tuple[str, str] | None = None,
    at_once: bool = False,
) -> Callable[[Callable[..., None]], Kernel]: ...
def kernel(
    reference: Callable[..., None] | None = None,
    *,
    cost: Callable[..., float] | None = None,
    elementwise: bool = False,
    in_place: tuple[str, str] | None = None,
    at_once: bool = False,
) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Decorator: makes a kernel of the numpy body `reference` and adds it to `kernels`.

    cost: function of the sizes of the dimensions, by name, that returns the approximate number of floating-point
        operations, `@kernel(cost=lambda rows, n: 2 * rows * n)`; the default is one per element of the largest array.
        The number of threads follows from it, and how often the clock is read.
    elementwise: whether all arrays are (rows, n), and an element of a result depends only on elements of the same row
        and column. Such a kernel also works on blocks of images.
    in_place: the names of an array that it overwrites and of one that it reads, of the same shape, which may share
        their memory.
    at_once: whether a thread takes all of its rows at once, not in blocks: for matrix products that have a row for each
        row of the minibatch where other operations have one for each position."""
    if reference is None:
        return functools.partial(kernel, cost=cost, elementwise=elementwise, in_place=in_place, at_once=at_once)
    made = Kernel(reference, cost, elementwise, in_place, at_once)
    setattr(kernels, made.name, made)
    return made
