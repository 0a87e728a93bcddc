# Bodies of fastgd/generation/kernels.py.

cdef struct SplitKProduct:
    real *y
    const real *x
    const real *w
    int64_t parts, n, k


cdef void split_k_product(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SplitKProduct *a = <const SplitKProduct *>args
    cdef int64_t size = (a.k + a.parts - 1) // a.parts, i, first
    cdef real *y
    for i in range(begin, end):
        y = a.y + i * a.n
        first = min(i * size, a.k)
        memset(y, 0, a.n * sizeof(real))
        gemv_rows(y, y, a.x + first, NULL, a.w + first * a.n, a.n, a.n, min(size, a.k - first))

register("split_k_product", split_k_product, sizeof(SplitKProduct))


cdef struct SumOfSplits:
    real *y
    const real *x
    const real *b
    int64_t n, parts


cdef void sum_of_splits(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SumOfSplits *a = <const SumOfSplits *>args
    cdef int64_t i, j
    for j in range(begin, end):
        a.y[j] = a.x[j]
    for i in range(1, a.parts):
        for j in range(begin, end):
            a.y[j] += a.x[i * a.n + j]
    for j in range(begin, end):
        a.y[j] += a.b[j]

register("sum_of_splits", sum_of_splits, sizeof(SumOfSplits))


cdef struct TransposedProductOfRow:
    real *y
    const real *x
    const real *w
    int64_t n, k


cdef void transposed_product_of_row(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const TransposedProductOfRow *a = <const TransposedProductOfRow *>args
    gemv_transposed(a.y + begin, a.x, a.w + begin * a.k, end - begin, a.k)

register("transposed_product_of_row", transposed_product_of_row, sizeof(TransposedProductOfRow))


cdef struct SampleToken:
    real *token
    int64_t *chosen
    int64_t *count
    int64_t *position
    real *p
    int64_t *order
    const real *z
    int64_t one, length, m
    double tokens, temperature, top_k, top_p, key


cdef inline bint comes_first(const real *p, int64_t a, int64_t b) noexcept nogil:
    """Whether token a is more probable than b, or as probable and smaller."""
    return p[a] > p[b] or (p[a] == p[b] and a < b)


cdef void sift_down(int64_t *heap, const real *p, int64_t i, int64_t n) noexcept nogil:
    """Moves the i-th of n tokens down a heap until it comes before those below it."""
    cdef int64_t token = heap[i], child = 2 * i + 1
    while child < n:
        if child + 1 < n and comes_first(p, heap[child + 1], heap[child]):
            child += 1
        if comes_first(p, token, heap[child]):
            break
        heap[i] = heap[child]
        i = child
        child = 2 * i + 1
    heap[i] = token


cdef int64_t take_first(int64_t *order, const real *p, int64_t n, int64_t most, double mass) noexcept nogil:
    """order (n) <- the first tokens in their order, as many as sum to `mass`, but at most `most`, then others; returns
    their number. A heap, since few of many are wanted."""
    cdef int64_t i, taken = 0, token
    cdef double total = 0
    for i in range(n):
        order[i] = i
    for i in range(n // 2 - 1, -1, -1):
        sift_down(order, p, i, n)
    while taken < most and (taken == 0 or total < mass):
        token = order[0]
        total += p[token]
        taken += 1
        order[0] = order[n - taken]
        sift_down(order, p, 0, n - taken)
        order[n - taken] = token
    for i in range(n // 2):
        token = order[i]
        order[i] = order[n - 1 - i]
        order[n - 1 - i] = token
    return taken


cdef inline double sum_in_order(const real *p, const int64_t *order, int64_t n) noexcept nogil:
    cdef double total = 0
    cdef int64_t i
    for i in range(n):
        total += p[order[i]]
    return total


cdef int64_t keep_tokens(const SampleToken *a, int64_t n) noexcept nogil:
    """Puts the tokens to draw from at the beginning of order; returns their number. p: exp(z / temperature), scaled."""
    cdef int64_t k = <int64_t>a.top_k if 1 <= a.top_k < n else n, i, count
    cdef double total = 0, mass
    for i in range(n):
        a.order[i] = i
    if k < n:
        take_first(a.order, a.p, n, k, INFINITY)
    if not a.top_p < 1:
        return k
    mass = a.top_p * sum_in_order(a.p, a.order, k)
    if k == n:
        return take_first(a.order, a.p, n, n, mass)
    count = 0
    while count < k and (count == 0 or total < mass):
        total += a.p[a.order[count]]
        count += 1
    return count


cdef int64_t draw(const SampleToken *a, int64_t n, real top) noexcept nogil:
    """A token among the first n; also fills p and order."""
    cdef real temperature = <real>a.temperature
    cdef int64_t i, j, kept, chosen
    cdef double total, part = 0, u
    for i in range(n):
        a.p[i] = exp((a.z[i] - top) / temperature)
    kept = keep_tokens(a, n)
    total = sum_in_order(a.p, a.order, kept)
    u = total * ((mixed(mixed(whole(a.key)) + <uint64_t>a.count[0] * GOLDEN_64) >> 11) * 1.1102230246251565e-16)
    i = 0
    part = a.p[a.order[0]]
    while part <= u and i < kept - 1:
        i += 1
        part += a.p[a.order[i]]
    chosen = a.order[i]
    for i in range(kept):       # a sign marks those that are kept
        a.p[a.order[i]] = -a.p[a.order[i]]
    for j in range(n):
        a.p[j] = -a.p[j] / <real>total if a.p[j] < 0 else 0
    for i in range(kept, a.m):
        a.order[i] = -1
    return chosen


cdef void sample_token(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SampleToken *a = <const SampleToken *>args
    cdef int64_t n = <int64_t>max(1.0, min(a.tokens, <double>a.m)), best = 0, j
    cdef bint is_number = True
    for j in range(n):
        is_number &= a.z[j] == a.z[j]
        if a.z[j] > a.z[best]:
            best = j
    memset(a.p, 0, a.m * sizeof(real))
    if is_number and fabs(a.z[best]) < INFINITY and <real>a.temperature > 0:
        best = draw(a, n, a.z[best])
    else:
        if not (is_number and fabs(a.z[best]) < INFINITY):
            best = -1
        for j in range(a.m):
            a.order[j] = -1
        if best >= 0:
            a.order[0] = best
            a.p[best] = 1
    a.token[0] = <real>best
    if 0 <= a.count[0] < a.length:
        a.chosen[a.count[0]] = best
    a.count[0] += 1
    a.position[0] += 1

register("sample_token", sample_token, sizeof(SampleToken))
