# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Cython bodies of the kernels, for one instruction set and one precision.

Each body stands in the .pxi of the same stem as the .py that holds its contract. Its record is a struct that lists the
contract's arrays, then the names of their dimensions in order of appearance, then the scalars: eight bytes each.
Record fields of the same shape share one struct. Hyper-parameters arrive as double and are rounded to `real` once.
"""
from libc.stdint cimport int64_t, uintptr_t

cdef extern from "simd.h" nogil:
    ctypedef double real
    ctypedef double vec     # Cython knows it as a number; the C compiler works lane by lane
    enum: LANES, MR, NR, KC, TILE, PANEL
    const double NAN
    real sqrt(real x)
    real exp(real x)
    real expm1(real x)
    real log(real x)
    real log1p(real x)
    real tanh(real x)
    real erf(real x)
    real fabs(real x)

ctypedef void (*kernel_t)(const void *args, int64_t begin, int64_t end) noexcept nogil

# name -> (address, bytes of its record); kernel.py finds the bodies here.
bodies = {}


cdef void register(str name, kernel_t body, size_t record_size):
    bodies[name] = (<uintptr_t>body, record_size)


include "data.pxi"
include "gemm.pxi"
include "layers.pxi"
include "activations.pxi"
include "losses.pxi"
include "optimizers.pxi"
