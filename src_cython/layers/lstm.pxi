# Bodies of fastgd/layers/lstm.py.
#
# A step is one product for all rows of the share, whose operands and result are dense matrices, then the elementwise
# part row by row. That is several loops over a row, each over so few arrays that the compiler can vectorize it.

cdef struct LstmForward:
    real *y
    real *hidden
    real *cell
    real *state
    real *z
    real *gates
    const real *w
    int64_t rows, s, u, k, four, t


cdef inline void add_sigmoid(real *g, const real *z, int64_t n) noexcept nogil:
    """g (n) <- sigmoid(g + z)."""
    cdef int64_t j
    for j in range(n):
        g[j] = sigmoid(g[j] + z[j])


cdef inline void add_tanh(real *g, const real *z, int64_t n) noexcept nogil:
    """g (n) <- tanh(g + z)."""
    cdef int64_t j
    for j in range(n):
        g[j] = tanh(g[j] + z[j])


cdef inline void lstm_row(real *c, real *h, real *g, const real *z, const real *before, int64_t n) noexcept nogil:
    """c, h (n) <- cell and state after a step, g (4, n) <- its gates. c may be the cell before the step; NULL is 0."""
    cdef const real *f = g + n
    cdef const real *o = g + 3 * n
    cdef int64_t j
    add_sigmoid(g, z, 2 * n)
    add_tanh(g + 2 * n, z + 2 * n, n)
    add_sigmoid(g + 3 * n, z + 3 * n, n)
    for j in range(n):
        h[j] = g[j] * g[2 * n + j]
    if before != NULL:
        for j in range(n):
            h[j] = multiply_add(f[j], before[j], h[j])
    memcpy(c, h, n * sizeof(real))
    for j in range(n):
        h[j] = o[j] * tanh(h[j])


cdef void lstm_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LstmForward *a = <const LstmForward *>args
    cdef int64_t u = a.u, n = 4 * a.u, rows = end - begin, i, b
    cdef real *state = a.state + begin * u
    cdef real *z = a.z + begin * n
    cdef bint is_packed = pack_of_steps(a.w, u, n, a.t - 1)
    cdef real *h
    cdef real *before
    memset(state, 0, rows * u * sizeof(real))
    memset(z, 0, rows * n * sizeof(real))
    for i in range(a.t):
        if i > 0:
            product_of_step(z, NULL, 0, state, a.w, rows, n, u, is_packed)
        for b in range(begin, end):
            h = a.state + b * u
            before = a.cell + (b * a.k + (i - 1) % a.k) * u if i > 0 else NULL
            memcpy(a.hidden + (b * a.k + i % a.k) * u, h, u * sizeof(real))
            lstm_row(a.cell + (b * a.k + i % a.k) * u, h, a.gates + (b * a.t + i) * n, a.z + b * n, before, u)
            memcpy(a.y + (b * a.s + i % a.s) * u, h, u * sizeof(real))

register("lstm_forward", lstm_forward, sizeof(LstmForward))


cdef struct LstmBackward:
    real *dgates
    real *dstate
    real *dcell
    real *dz
    const real *dy
    const real *gates
    const real *cell
    const real *wt
    int64_t rows, t, four, u, s


cdef inline void lstm_row_backward(real *dz, real *dh, real *dc, const real *dy, const real *g, const real *c,
                                   const real *before, int64_t n) noexcept nogil:
    """dz (4, n) <- the gradient of the gates of a step, dc (n) <- the gradient of the cell before. dy: NULL is 0.
    before: the cell before the step; NULL is 0."""
    cdef const real *f = g + n
    cdef const real *o = g + 3 * n
    cdef real *dout = dz + 3 * n
    cdef int64_t j
    if dy != NULL:
        for j in range(n):
            dh[j] += dy[j]
    for j in range(n):
        dout[j] = tanh(c[j])
    for j in range(n):
        dc[j] = multiply_add(dh[j] * o[j], 1 - dout[j] * dout[j], dc[j])
    for j in range(n):
        dout[j] = dh[j] * dout[j] * (o[j] * (1 - o[j]))
    for j in range(n):
        dz[j] = dc[j] * g[2 * n + j] * (g[j] * (1 - g[j]))
    for j in range(n):
        dz[2 * n + j] = dc[j] * g[j] * (1 - g[2 * n + j] * g[2 * n + j])
    if before == NULL:
        memset(dz + n, 0, n * sizeof(real))
    else:
        for j in range(n):
            dz[n + j] = dc[j] * before[j] * (f[j] * (1 - f[j]))
    for j in range(n):
        dc[j] *= f[j]


cdef void lstm_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LstmBackward *a = <const LstmBackward *>args
    cdef int64_t u = a.u, n = 4 * a.u, rows = end - begin, i, b
    cdef bint is_packed = pack_of_steps(a.wt, n, u, a.t - 1)
    cdef const real *dy
    cdef const real *c
    memset(a.dstate + begin * u, 0, rows * u * sizeof(real))
    memset(a.dcell + begin * u, 0, rows * u * sizeof(real))
    for i in range(a.t - 1, -1, -1):
        for b in range(begin, end):
            dy = a.dy + (b * a.s + i % a.s) * u if i + a.s >= a.t else NULL
            c = a.cell + (b * a.t + i) * u
            lstm_row_backward(a.dz + b * n, a.dstate + b * u, a.dcell + b * u, dy, a.gates + (b * a.t + i) * n, c,
                              c - u if i > 0 else NULL, u)
            memcpy(a.dgates + (b * a.t + i) * n, a.dz + b * n, n * sizeof(real))
        if i > 0:
            product_of_step(a.dstate + begin * u, NULL, 0, a.dz + begin * n, a.wt, rows, u, n, is_packed)

register("lstm_backward", lstm_backward, sizeof(LstmBackward))


cdef struct LstmContinue:
    real *state
    real *cell
    real *z
    real *y
    real *gates
    const real *w
    const int64_t *position
    int64_t one, u, four, rows


cdef void lstm_continue(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LstmContinue *a = <const LstmContinue *>args
    cdef int64_t n = 4 * a.u, i
    for i in range(a.rows):
        if i + a.position[0] == 0:
            memset(a.state, 0, a.u * sizeof(real))
            memset(a.cell, 0, a.u * sizeof(real))
        memset(a.z, 0, n * sizeof(real))
        gemv_rows(a.z, a.z, a.state, NULL, a.w, n, n, a.u)
        lstm_row(a.cell, a.state, a.gates + i * n, a.z, a.cell, a.u)
        memcpy(a.y + i * a.u, a.state, a.u * sizeof(real))

register("lstm_continue", lstm_continue, sizeof(LstmContinue))
