"""Compiles the loop of a kernel with Numba into a C function with the signature of every compiled body.

Of all modules only this one and jit_gemm.py import numba, and they are imported when a Numba body is first asked for.
"""

import functools
import os

import numpy as np

try:
    import numba
except ImportError as error:
    raise ImportError("the Numba backend needs numba: pip install 'fastgd[numba]'") from error
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from . import jit_gemm  # noqa: F401  gives compiled loops their `add_product`

# No reassociation: a sum keeps its order. Contraction to FMA is what the C compiler does, too.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}

if hasattr(os, "register_at_fork"):  # else the child of a fork waits for the end of a compilation that never comes
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


@functools.cache
def jit(function):
    """A function compiled for the arguments it is called with: once for each kind, whoever calls it."""
    return numba.njit(**OPTIONS)(function)


@functools.cache
def compile_loop(kernel, dtype):
    """The `numba.cfunc` of the kernel's loop for a precision. It hands the loop its share as views: every array is
    cut along the dimension that [begin, end) runs over, so the loop has the arguments of the numpy body."""
    slots = np.dtype([(name, "f8" if name in kernel.scalars else "i8") for name in kernel.slots])
    signature = types.void(types.CPointer(numba.from_dtype(slots)), types.int64, types.int64)
    names = {"_loop": jit(kernel.loop_for(jit, dtype)), "_pointer": _pointer, "_carray": numba.carray}
    values = []
    for name, spec in kernel.arrays.items():
        array_dtype = np.dtype(spec.dtype or dtype)
        names[f"_{name}_dtype"] = array_dtype.type
        address, sizes, cut = f"record.{name}", [f"record.{dim}" for dim in spec.dims], ""
        if spec.dims[0] == kernel.range_dim:  # a cut by hand is known to be contiguous
            address += f" + begin * {' * '.join([*sizes[1:], str(array_dtype.itemsize)])}"
            sizes[0] = "end - begin"
        elif spec.per:
            address += f" + begin // {spec.per} * {array_dtype.itemsize}"
            sizes[0] = f"(end - begin + {spec.per - 1}) // {spec.per}"
        elif kernel.range_dim in spec.dims:
            cut = "[" + ", ".join("begin:end" if dim == kernel.range_dim else ":" for dim in spec.dims) + "]"
        values.append(f"_carray(_pointer({address}), ({', '.join(sizes)},), _{name}_dtype){cut}")
    values += [f"record.{name}" for name in kernel.scalars]
    # Numba compiles functions of a fixed signature, so the unpacking of a record is written out for each kernel.
    source = f"""def entry(args, begin, end):
    record = _carray(args, 1)[0]
    _loop({", ".join(values)})
"""
    exec(compile(source, f"<entry of {kernel.name}>", "exec"), names)
    try:
        return numba.cfunc(signature, **OPTIONS)(names["entry"])
    except numba.core.errors.NumbaError as error:
        raise TypeError(f"kernel {kernel.name}: expected a function that Numba compiles, got {error}") from error
