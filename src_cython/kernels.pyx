# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The Cython bodies of the kernels, for one instruction set and one precision.

Each body is in the .pxi with the folder and name of the .py that has its contract. Its record is a struct that lists
the contract's arrays, then the sizes of their dimensions in order of appearance, then the scalars: eight bytes each.
Kernels whose records have the same fields share one struct. Hyper-parameters arrive as double and are rounded to `real`
once.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cdef extern from "core/simd.h" nogil:
    ctypedef double real
    ctypedef double vec     # a number to Cython; the C compiler works on its lanes
    ctypedef double block
    ctypedef int64_t bits
    ctypedef uint64_t unsigned_bits
    const vec ZERO
    const bits MAGNITUDE
    const real SMALLEST_NORMAL
    ctypedef void inlined
    enum: ROWS_AHEAD, LANES, LINE, MR, VECTORS, NARROW_ROWS, NR, KC, MC, NC, TILE_VECTORS, TILE_GROUPS, PANEL
    enum: IMAGES, IMAGE_VECTORS, CONV_VECTORS, CONV_ROWS, MOST_VECTORS, PACKED_B, PIXELS, CONV_GROUPS, MOST_CONV_ROWS
    enum: PIXELS_OF_A_SUM, CHUNK_COLUMNS, CHUNK, PACKED_TERMS_OF_CONV
    enum: LANE_ROWS, LANE_COLUMNS, FEW_OUTPUTS, SHORT_RUN, MANY_OUTPUTS, PACKED_A
    enum: PREFETCHED, LEAST_PAUSE, MOST_PREFETCHED, PACKED_TERMS
    enum: BLOCK, BLOCKS
    enum: PACK_ROWS, SPREAD, NEAR, PACK_COLUMNS, PACK_STRIDE, PACK_SIZE, FIRST_CACHE, FAR, LISTED, SUM_PARTS
    enum: GEMV_VECTORS, OUTER_VECTORS
    enum: DOT_ROWS, DOT_PARTS, DOT_VECTORS
    enum: SUM_TERMS, SUM_ROWS, SUMS, POINT_SUMS, MOST_TRANSPOSED
    ctypedef char *(*scratch_function)()
    scratch_function scratch_of_thread
    real *packed_a
    real *packed_b
    double *sums_under_way
    vec larger_or_nan(vec a, vec b)
    vec where_equal(vec a, vec b, vec x)
    vec where_different(vec a, vec b, vec x)
    vec where_larger(vec a, vec b, vec x)
    void assume(bint condition)
    void prefetch(const void *address)
    void prefetch_to_write(void *address)
    void transpose_block(real *to, int64_t ld_to, const real *source, int64_t ld_source)
    void transpose_strip(real *to, int64_t ld_to, const real *source, int64_t ld_source, int64_t rows)
    void sum_parts(real *c, const vec *sums)
    const double NAN, INFINITY
    real sqrt(real x)
    double sqrt_double "sqrt"(double x)
    real fabs(real x)
    double fabs_double "fabs"(double x)
    real multiply_add(real a, real b, real c)
    double multiply_add_double "multiply_add"(double a, double b, double c)

cdef extern from "core/elementary.h" nogil:
    real from_bits(unsigned_bits b)
    real exp "exp_real"(real x)
    real expm1 "expm1_real"(real x)
    real log "log_real"(real x)
    real log1p "log1p_real"(real x)
    real tanh "tanh_real"(real x)
    real sigmoid "sigmoid_real"(real x)
    real normal_cdf(real x, real *density)

cdef extern from "core/random.h" nogil:
    const uint64_t GOLDEN_64
    const uint32_t GOLDEN
    uint64_t whole(double x)
    uint32_t share_of_32_bits(double x)
    uint64_t mixed(uint64_t z)
    uint32_t mixed_32(uint32_t z)
    const uint64_t MIX_64
    const uint64_t LAST_MIX_64
    const uint32_t MIX
    const uint32_t LAST_MIX

from ._plan import scratch_address

scratch_of_thread = <scratch_function><uintptr_t>scratch_address

ctypedef void (*kernel_t)(const void *args, int64_t begin, int64_t end) noexcept nogil

# name -> (address, bytes of its record); kernel.py looks the bodies up here.
bodies = {}
# name -> value of constants that Python defines under the same name; tests/test_sources.py compares them.
constants = {}


cdef void register(str name, kernel_t body, size_t record_size):
    bodies[name] = (<uintptr_t>body, record_size)


constants.update(LINE=LINE * sizeof(real), FIRST_CACHE=FIRST_CACHE * sizeof(real), SUM_TERMS=SUM_TERMS)

# The .pxi files share one namespace, this module's, so a name may be defined in only one of them. A file comes after
# those whose types it uses, and optimizers/base.pxi before the rules: on import `register_rule` calls `check_rule`.
include "core/test_hooks.pxi"
include "core/sums.pxi"
include "core/packing.pxi"
include "core/gemm.pxi"
include "core/gemm_over_rows.pxi"
include "core/gemv.pxi"
include "engine/rows.pxi"
include "engine/totals.pxi"
include "engine/gradient.pxi"
include "layers/dense.pxi"
include "layers/standardize.pxi"
include "layers/containers.pxi"
include "layers/dropout.pxi"
include "layers/embedding.pxi"
include "layers/attention.pxi"
include "layers/past.pxi"
include "layers/recurrent.pxi"
include "layers/lstm.pxi"
include "layers/gru.pxi"
include "layers/augmentation.pxi"
include "layers/convolution.pxi"
include "layers/winograd.pxi"
include "layers/pooling.pxi"
include "layers/normalization.pxi"
include "layers/normalization_of_images.pxi"
include "generation/kernels.pxi"
include "activations.pxi"
include "losses.pxi"
include "optimizers/low_memory.pxi"
include "optimizers/base.pxi"
include "optimizers/sgd.pxi"
include "optimizers/adagrad.pxi"
include "optimizers/adam.pxi"
include "optimizers/lion.pxi"
include "optimizers/lbfgs.pxi"
