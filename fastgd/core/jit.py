"""Compiles the loop of a kernel with Numba into a C function with the signature of every compiled body.

Only this module and the modules jit_... import numba; they are imported when a Numba body is first needed.
"""

import dataclasses
import functools
import os
import re

import numpy as np

try:
    import numba
except ImportError as error:
    raise ImportError("the Numba backend needs numba: pip install 'fastgd[numba]'") from error
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from . import jit_gemm  # noqa: F401  registers `add_product` for compiled loops
from .jit_python import DeferringPythonCompiler, PythonCompiler
from .kernel import PACKAGE
from .reads import Reads

# No reassociation, so that sums keep their order. The C compiler contracts to FMA, too.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
# Of functions that only compiled functions call; Python cannot call them.
INNER = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
MOST_ARGUMENTS = 30  # in one tuple: Python makes a longer one from a list, which Numba does not compile

if hasattr(os, "register_at_fork"):  # else a child forked during a compilation would wait for its end forever
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@intrinsic
def _pointer(typing_context, address):
    """An int64 address as a pointer."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@intrinsic
def _raises(typing_context, function, arguments):
    """Calls a compiled function with a tuple of arguments; whether it raised. It compiles in a fraction of the time of
    Numba's `try`."""
    called = function.get_call_type(typing_context, tuple(arguments), {})

    def codegen(context, builder, signature, values):
        compiled = function.dispatcher.overloads[called.args]
        context.add_linking_libs([compiled.library])
        given = cgutils.unpack_tuple(builder, values[1])
        status, _ = context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, given)
        return status.is_error

    return types.boolean(function, arguments), codegen


@functools.cache
def jit(function):
    """A function compiled on demand, once for each combination of argument types, and called by compiled functions."""
    return numba.njit(**INNER)(function)


class Compiler:
    """Compiles loops and the functions that they call. Calling it compiles a function of the package, or a user's loop.
    `user` compiles a user's function for a loop; it then returns its value, and whether Python would have raised."""

    def __init__(self, functions):
        self.reads = Reads(functions)
        self._compiled = {}

    def __call__(self, function):
        if function in self.reads.functions:
            return self._frozen(function)
        # Functions of the package are compiled once; generated source is compiled for its loop.
        is_of_package = (function.__module__ or "").startswith(f"{PACKAGE}.")
        return jit(function) if is_of_package else numba.njit(**INNER)(function)

    def user(self, function):
        return self._frozen(function, DeferringPythonCompiler)

    def _frozen(self, function, pipeline=PythonCompiler):
        key = function, pipeline
        if key not in self._compiled:
            copy, fill = self.reads.frozen(function, self._frozen)
            options = {**OPTIONS, "no_cfunc_wrapper": True, "boundscheck": True, "pipeline_class": pipeline}
            self._compiled[key] = numba.njit(**options)(copy)
            fill()  # after the entry is made, since the function may call itself
        return self._compiled[key]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A compiled loop. function: owns the code. reads: what users' functions in it read, or None."""

    function: object
    reads: Reads | None

    @property
    def address(self):
        return self.function.address


def compile_loop(kernel, dtype):
    """The compiled `Loop` of a kernel for a dtype. It is compiled again when something that users' functions in it read
    has changed."""
    loop = kernel.loops.get(dtype)
    if loop is None or (loop.reads is not None and not loop.reads.are_current()):
        kernel.loops[dtype] = loop = _compile(kernel, dtype)
    return loop


def reason(report):
    """What Numba found wrong, from its report, which wraps it in how it came to compile the function."""
    found = []
    for line in report.rpartition("TypingError: ")[2].splitlines():
        text = line.strip()
        if re.match(r"During: |File |There are \d+ candidate", text):
            break
        if text and not text.startswith("Failed in "):
            found.append(text)
    return " ".join(found) or report


def _tuple(arguments):
    """A tuple as text, the sum of several if it has more than MOST_ARGUMENTS."""
    parts = [", ".join(arguments[i : i + MOST_ARGUMENTS]) for i in range(0, len(arguments), MOST_ARGUMENTS)]
    return " + ".join(f"({part},)" for part in parts)


def _compile(kernel, dtype):
    """Compiles an entry point that calls the loop with views: every array is sliced along the dimension that
    [begin, end) refers to, so the loop has the arguments of the numpy body. An exception, raised by a user's function
    or for lack of memory, sets the number at `_fault` to 1; Numba's `cfunc` would print it and continue."""
    compiler = Compiler(kernel.functions)
    slots = np.dtype([(name, "f8" if name in kernel.scalars else "i8") for name in (*kernel.slots, "_fault")])
    signature = types.void(types.CPointer(numba.from_dtype(slots)), types.int64, types.int64)
    names = {"_pointer": _pointer, "_raises": _raises, "_carray": numba.carray, "_int64": np.int64}
    names["_loop"] = compiler(kernel.loop_for(compiler, dtype))
    values = []
    for name, spec in kernel.arrays.items():
        array_dtype = np.dtype(spec.dtype or dtype)
        names[f"_{name}_dtype"] = array_dtype.type
        address, sizes, cut = f"record.{name}", [f"record.{dim}" for dim in spec.dims], ""
        if kernel.loop_gets_share:
            pass
        elif spec.dims[0] == kernel.range_dim:  # with an explicit address Numba knows that the slice is contiguous
            address += f" + begin * {' * '.join([*sizes[1:], str(array_dtype.itemsize)])}"
            sizes[0] = "end - begin"
        elif spec.per:
            address += f" + begin // {spec.per} * {' * '.join([*sizes[1:], str(array_dtype.itemsize)])}"
            sizes[0] = f"(end - begin + {spec.per - 1}) // {spec.per}"
        elif kernel.range_dim in spec.dims:
            cut = "[" + ", ".join("begin:end" if dim == kernel.range_dim else ":" for dim in spec.dims) + "]"
        values.append(f"_carray(_pointer({address}), ({', '.join(sizes)},), _{name}_dtype){cut}")
    values += [f"record.{name}" for name in kernel.scalars]
    values += ["begin", "end"] if kernel.loop_gets_share else []
    # Numba needs a fixed signature, so the code that unpacks the record is generated for each kernel.
    arguments = [f"_{i}" for i in range(len(values))]
    lines = [
        "record = _carray(args, 1)[0]",
        *(f"{name} = {value}" for name, value in zip(arguments, values, strict=True)),
    ]
    lines += [f"if _raises(_loop, {_tuple(arguments)}):", "    _carray(_pointer(record._fault), 1, _int64)[0] = 1"]
    source = "\n    ".join(["def entry(args, begin, end):", *lines])
    exec(compile(source, f"<entry of {kernel.name}>", "exec"), names)
    try:
        function = numba.cfunc(signature, **OPTIONS)(names["entry"])
    except numba.core.errors.NumbaError as error:
        advice = 'with backend="numpy" Python runs it, and names the line'
        raise TypeError(
            f"kernel {kernel.name}: expected a function that Numba compiles, got: {reason(str(error))}; {advice}"
        ) from error
    return Loop(function, compiler.reads if kernel.functions else None)
