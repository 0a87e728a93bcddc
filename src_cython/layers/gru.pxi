# Bodies of fastgd/layers/gru.py. See lstm.pxi.

cdef struct GruForward:
    real *y
    real *hidden
    real *part
    real *state
    real *q
    real *gates
    const real *w
    const real *b
    int64_t rows, s, u, k, three, t


cdef inline void gru_row(real *h, real *g, const real *q, int64_t n) noexcept nogil:
    """h (n) <- the state after a step, g (3, n) <- its gates."""
    cdef const real *z = g + n
    cdef real *c = g + 2 * n        # n of the formula
    cdef int64_t j
    add_sigmoid(g, q, 2 * n)
    for j in range(n):
        c[j] = tanh(multiply_add(g[j], q[2 * n + j], c[j]))
    for j in range(n):
        h[j] = multiply_add(z[j], h[j] - c[j], c[j])


cdef void gru_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GruForward *a = <const GruForward *>args
    cdef int64_t u = a.u, n = 3 * a.u, i, b
    cdef bint is_packed = pack_of_steps(a.w, u, n, a.t - 1)
    cdef real *h
    memset(a.state + begin * u, 0, (end - begin) * u * sizeof(real))
    for i in range(a.t):
        if i > 0:
            product_of_step(a.q + begin * n, a.b, 0, a.state + begin * u, a.w, end - begin, n, u, is_packed)
        for b in range(begin, end):
            h = a.state + b * u
            if i == 0:
                memcpy(a.q + b * n, a.b, n * sizeof(real))
            memcpy(a.hidden + (b * a.k + i % a.k) * u, h, u * sizeof(real))
            memcpy(a.part + (b * a.k + i % a.k) * u, a.q + b * n + 2 * u, u * sizeof(real))
            gru_row(h, a.gates + (b * a.t + i) * n, a.q + b * n, u)
            memcpy(a.y + (b * a.s + i % a.s) * u, h, u * sizeof(real))

register("gru_forward", gru_forward, sizeof(GruForward))


cdef struct GruBackward:
    real *dgates
    real *dproduct
    real *dstate
    real *dq
    const real *dy
    const real *gates
    const real *part
    const real *hidden
    const real *wt
    int64_t rows, t, three, u, s


cdef inline void gru_row_backward(real *dgates, real *dq, real *dh, const real *dy, const real *g, const real *part,
                                  const real *h, int64_t n) noexcept nogil:
    """dgates (3, n) <- the gradient of the gates of a step, dq (3, n) <- the product's, dh (n) <- the part of
    the gradient of the state before that takes no product. dy: NULL is 0."""
    cdef const real *z = g + n
    cdef const real *c = g + 2 * n
    cdef real *dc = dgates + 2 * n
    cdef int64_t j
    if dy != NULL:
        for j in range(n):
            dh[j] += dy[j]
    for j in range(n):
        dc[j] = dh[j] * (1 - z[j]) * (1 - c[j] * c[j])
    for j in range(n):
        dq[j] = dc[j] * part[j] * (g[j] * (1 - g[j]))
    for j in range(n):
        dq[n + j] = dh[j] * (h[j] - c[j]) * (z[j] * (1 - z[j]))
    memcpy(dgates, dq, 2 * n * sizeof(real))
    for j in range(n):
        dq[2 * n + j] = dc[j] * g[j]
    for j in range(n):
        dh[j] *= z[j]


cdef void gru_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GruBackward *a = <const GruBackward *>args
    cdef int64_t u = a.u, n = 3 * a.u, rows = end - begin, i, b, at
    cdef real *dstate = a.dstate + begin * u
    cdef bint is_packed = pack_of_steps(a.wt, n, u, a.t - 1)
    cdef const real *dy
    memset(dstate, 0, rows * u * sizeof(real))
    for i in range(a.t - 1, -1, -1):
        for b in range(begin, end):
            at = b * a.t + i
            dy = a.dy + (b * a.s + i % a.s) * u if i + a.s >= a.t else NULL
            gru_row_backward(a.dgates + at * n, a.dq + b * n, a.dstate + b * u, dy, a.gates + at * n, a.part + at * u,
                             a.hidden + at * u, u)
            memcpy(a.dproduct + at * n, a.dq + b * n, n * sizeof(real))
        if i > 0:
            product_of_step(dstate, dstate, u, a.dq + begin * n, a.wt, rows, u, n, is_packed)

register("gru_backward", gru_backward, sizeof(GruBackward))


cdef struct GruContinue:
    real *state
    real *q
    real *y
    real *gates
    const real *w
    const real *b
    const int64_t *position
    int64_t one, u, three, rows


cdef void gru_continue(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GruContinue *a = <const GruContinue *>args
    cdef int64_t n = 3 * a.u, i
    for i in range(a.rows):
        if i + a.position[0] == 0:
            memset(a.state, 0, a.u * sizeof(real))
        gemv_rows(a.q, a.b, a.state, NULL, a.w, n, n, a.u)
        gru_row(a.state, a.gates + i * n, a.q, a.u)
        memcpy(a.y + i * a.u, a.state, a.u * sizeof(real))

register("gru_continue", gru_continue, sizeof(GruContinue))
