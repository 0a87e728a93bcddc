# What a row of numbers is reduced to. The partial results are always 16, whatever the width of a vector: the bits are
# the same on every instruction set.

cdef inline real sum_of(const real *x, int64_t n) noexcept nogil:
    """x[0] + ... + x[n - 1]."""
    cdef real part[16]
    cdef real total = 0
    cdef int64_t j = 0
    cdef int i
    if n >= 16:
        for i in range(16):
            part[i] = 0
        while j + 16 <= n:
            for i in range(16):
                part[i] += x[j + i]
            j += 16
        for i in range(8):
            part[i] += part[i + 8]
        for i in range(4):
            part[i] += part[i + 4]
        total = (part[0] + part[2]) + (part[1] + part[3])
    while j < n:
        total += x[j]
        j += 1
    return total


cdef inline real largest_of(const real *x, int64_t n) noexcept nogil:
    """The largest of x; NaN only if x[0] is."""
    cdef real part[16]
    cdef real top = x[0]
    cdef int64_t j = 0
    cdef int i
    if n >= 16:
        for i in range(16):
            part[i] = x[i]
        while j + 16 <= n:
            for i in range(16):
                part[i] = x[j + i] if x[j + i] > part[i] else part[i]
            j += 16
        for i in range(16):
            top = part[i] if part[i] > top else top
    while j < n:
        top = x[j] if x[j] > top else top
        j += 1
    return top
