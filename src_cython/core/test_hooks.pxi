# Functions for benchmarks and tests only: speed of the machine, accuracy of the elementary functions.

def fused_multiply_adds(int64_t count):
    """Runs `count` rounds of MR x VECTORS independent vector fused multiply-adds; returns the number of floating-point
    operations. Its rate is the maximum of one core."""
    cdef vec sums[MR][VECTORS]
    cdef vec factor[1]
    cdef real result = 0
    cdef int64_t n
    cdef int i, j
    with nogil:
        for i in range(LANES):
            (<real *>factor)[i] = <real>0.999
        for i in range(MR):
            for j in range(VECTORS):
                sums[i][j] = factor[0]
        for n in range(count):
            for i in range(MR):
                for j in range(VECTORS):
                    sums[i][j] = sums[i][j] * factor[0] + factor[0]
        for i in range(MR * VECTORS * LANES):
            result += (<real *>sums)[i]
    return 2 * count * MR * VECTORS * LANES if result > 0 else 0


def stream(uintptr_t p, uintptr_t m, uintptr_t v, uintptr_t g, int64_t n):
    """p, m, v <- p + g, m + g, v + g for n numbers at these addresses: the memory traffic of Adam with almost no
    arithmetic."""
    cdef int64_t i
    with nogil:
        for i in range(n):
            (<real *>p)[i] += (<real *>g)[i]
            (<real *>m)[i] += (<real *>g)[i]
            (<real *>v)[i] += (<real *>g)[i]


def apply_elementary(str name, uintptr_t y, uintptr_t x, int64_t n):
    """y <- f(x) for n numbers at these addresses, f an elementary function of elementary.h."""
    cdef real *out = <real *>y
    cdef const real *start = <const real *>x
    cdef int64_t i
    if name == "exp":
        for i in range(n):
            out[i] = exp(start[i])
    elif name == "expm1":
        for i in range(n):
            out[i] = expm1(start[i])
    elif name == "log":
        for i in range(n):
            out[i] = log(start[i])
    elif name == "log1p":
        for i in range(n):
            out[i] = log1p(start[i])
    elif name == "tanh":
        for i in range(n):
            out[i] = tanh(start[i])
    elif name == "sigmoid":
        for i in range(n):
            out[i] = sigmoid(start[i])
    else:
        raise ValueError(f"name: expected an elementary function, got {name!r}")
