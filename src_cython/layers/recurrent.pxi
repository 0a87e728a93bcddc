# Bodies of fastgd/layers/recurrent.py, and the products of the steps in lstm.pxi and gru.pxi.

cdef enum:
    LEAST_STEPS = 3             # products for which a matrix is packed beforehand


cdef struct Transposed:
    real *y
    const real *x
    int64_t n, m


cdef void transposed(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Transposed *a = <const Transposed *>args
    transpose(a.y + begin * a.m, a.m, a.x + begin, a.n, end - begin, a.m)

register("transposed", transposed, sizeof(Transposed))


# The products of all steps have the same matrix b. If it fits in the memory for panels, it is packed there once, in
# panels of its whole height. The sums are those of `gemm`, so no bit depends on whether it fits.

cdef bint pack_of_steps(const real *b, int64_t k, int64_t n, int64_t steps) noexcept nogil:
    """Packs b (k, n) for this many products, unless it is too large or the products too few; returns whether it did."""
    cdef int64_t j = 0
    if steps < LEAST_STEPS or (n + NR - 1) // NR * NR * k * <int64_t>sizeof(real) > PACKED_B:
        return False
    while j < n:
        pack(packed_b + j * k, NR, b + j, n, 1, k, min(<int64_t>NR, n - j))
        j += NR
    return True


cdef void product_of_step(real *c, const real *init, int64_t ld_init, const real *a, const real *b, int64_t m,
                          int64_t n, int64_t k, bint is_packed) noexcept nogil:
    """c (m, n) <- init + a (m, k) b (k, n), all of whole rows; NULL for init is zero. is_packed: of b, whether
    `pack_of_steps` did."""
    cdef int64_t j = 0
    cdef Product t
    if not is_packed:
        gemm(c, n, init, ld_init, a, k, 1, b, n, 1, m, n, k, 0)
        return
    while j < n:
        t = Product(c=c + j, init=&zeros[0], a=a, b=packed_b + j * k, b_end=NULL, ldc=n, ld_init=ld_init, a_row=k,
                    a_k=1, a_tile=0, ldb=NR, k=k, k_end=0, terms=0, fetch_b=False, fetch_c=False, next=NULL, next_row=0,
                    pause=k, part=NULL)
        if init != NULL:
            t.init = init + j
        sweep(&t, m, min(<int64_t>NR, n - j), NULL)
        j += NR
