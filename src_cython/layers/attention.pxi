# Bodies of fastgd/layers/attention.py.
#
# The products of a head go through `gemm`, on q, k and v where they lie in the rows of qkv. Of k and v only transposes
# are packed, by panels of NR columns. If a position sees none that is later, what lies above the diagonal is left out:
# of a panel of columns, the rows before its first column; of a few rows, the columns from the last of them on. What is
# computed above the diagonal within a panel is then set to 0. Zeros change no bit of a sum, so the bits do not depend
# on the height and width of a tile.

cdef enum:
    DROP_COLUMNS = 2048         # columns of P that are dropped at a time
    ATTENTION_STEP = 16         # rows of P are computed up to a multiple of this


cdef struct Drop:               # what dropout needs
    double rate
    real scale
    uint32_t least
    uint64_t start


cdef inline Drop drop_of(double rate, double key, double step) noexcept nogil:
    return Drop(rate=rate, scale=<real>(1 / (1 - rate)), least=share_of_32_bits(rate),
                start=mixed(whole(key) + whole(step) * GOLDEN_64))


cdef inline void drop_row(real *y, const real *x, int64_t n, const Drop *drop, uint64_t number,
                          uint32_t first) noexcept nogil:
    """y (n) <- x (n) or 0 with the mask of a row of `dropout` from column `first` on; y may be x."""
    cdef uint64_t h = mixed(drop.start + number * GOLDEN_64)
    cdef uint32_t low = <uint32_t>h + first * GOLDEN, high = <uint32_t>(h >> 32), z, least = drop.least
    cdef real scale = drop.scale
    cdef int32_t j, columns = <int32_t>n
    for j in range(columns):
        z = mixed_32((low + <uint32_t>j * GOLDEN) ^ high)
        y[j] = x[j] * (scale if z >= least else 0)


cdef inline int64_t whole_steps(int64_t n, int64_t most) noexcept nogil:
    """n, up to a multiple of ATTENTION_STEP, but at most `most`."""
    return min((n + ATTENTION_STEP - 1) // ATTENTION_STEP * ATTENTION_STEP, most)


cdef void scores(real *s, const real *q, int64_t ld_q, const real *k, int64_t ld_k, int64_t t, int64_t d,
                 bint causal) noexcept nogil:
    """s (t, t) <- q k^T for q and k (t, d); if causal, only on the diagonal and below it."""
    cdef int64_t j = 0, first = 0
    while j < t:
        if causal:
            first = j
        gemm(s + first * t + j, t, NULL, 0, q + first * ld_q, ld_q, 1, k + j * ld_k, 1, ld_k, t - first,
             min(NR, t - j), d, 0)
        j += NR


cdef void weighted_rows(real *y, int64_t ld_y, const real *p, const real *v, int64_t ld_v, int64_t t, int64_t d,
                        bint causal, const Drop *drop, uint64_t number) noexcept nogil:
    """y (t, d) <- drop(p) v for p (t, t) and v (t, d). number: of the first row of the masks; drop NULL: none."""
    cdef real *dropped = <real *>sums_under_way     # (MR, DROP_COLUMNS)
    cdef int64_t i = 0, rows, terms, begin, n, r
    while i < t:
        rows = min(<int64_t>MR, t - i)      # so few that gemm packs neither side
        terms = i + rows if causal else t
        if drop == NULL:
            gemm(y + i * ld_y, ld_y, NULL, 0, p + i * t, t, 1, v, ld_v, 1, rows, d, terms, 0)
        else:
            begin = 0
            while begin < terms:
                n = min(terms - begin, <int64_t>DROP_COLUMNS)
                for r in range(rows):
                    drop_row(dropped + r * DROP_COLUMNS, p + (i + r) * t + begin, n, drop, number + i + r,
                             <uint32_t>begin)
                gemm(y + i * ld_y, ld_y, y + i * ld_y if begin else NULL, ld_y if begin else 0, dropped, DROP_COLUMNS,
                     1, v + begin * ld_v, ld_v, 1, rows, d, n, 0)
                begin += n
        i += rows


cdef void weighted_columns(real *y, int64_t ld_y, const real *p, const real *x, int64_t ld_x, int64_t t, int64_t d,
                           bint causal) noexcept nogil:
    """y (t, d) <- p^T x for p (t, t) and x (t, d)."""
    cdef int64_t j = 0, columns, first = 0
    while j < t:
        columns = min(<int64_t>MR, t - j)
        if causal:
            first = j
        gemm(y + j * ld_y, ld_y, NULL, 0, p + first * t + j, 1, t, x + first * ld_x, ld_x, 1, columns, d, t - first, 0)
        j += columns


cdef inline void fill_to(real *x, real value, int64_t n, int64_t width) noexcept nogil:
    """x[n], ..., x[width - 1] <- value, for width = whole_steps(n)."""
    cdef int64_t first = width - ATTENTION_STEP, j
    if first >= 0 and width % ATTENTION_STEP == 0:      # a loop of constant length, without a rest
        for j in range(ATTENTION_STEP):
            x[first + j] = x[first + j] if first + j < n else value
    else:
        for j in range(n, width):
            x[j] = value


cdef inline void softmax_row(real *x, const real *seen, int64_t n, int64_t t, real scale) noexcept nogil:
    """x (t) <- the softmax of scale x (n) over the positions that are seen (NULL: all), 0 at the others."""
    cdef int64_t width = whole_steps(n, t), j, i
    cdef real top, inverse
    fill_to(x, -INFINITY, n, width)
    if seen != NULL:
        for j in range(width):
            x[j] = x[j] if seen[j] != 0 else -INFINITY
    top = largest_of(x, width)
    if top == -INFINITY:
        memset(x, 0, t * sizeof(real))
        return
    j = 0
    while j + ATTENTION_STEP <= width:
        for i in range(ATTENTION_STEP):
            x[j + i] = exp((x[j + i] - top) * scale)
        j += ATTENTION_STEP
    for i in range(j, width):
        x[i] = exp((x[i] - top) * scale)
    inverse = 1 / sum_of(x, width)
    j = 0
    while j + ATTENTION_STEP <= width:
        for i in range(ATTENTION_STEP):
            x[j + i] *= inverse
        j += ATTENTION_STEP
    for i in range(j, width):
        x[i] *= inverse
    if width < t:
        memset(x + width, 0, (t - width) * sizeof(real))


cdef struct AttentionForward:
    real *y
    real *p
    const real *qkv
    const real *seen
    const int64_t *row
    int64_t rows, t, h, d, k, three
    double causal, rate, key, step


cdef void attention_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AttentionForward *a = <const AttentionForward *>args
    cdef int64_t c = a.h * a.d, t = a.t, b, i, u, number
    cdef bint causal = a.causal != 0
    cdef real scale = <real>(1 / sqrt_double(<double>a.d))
    cdef Drop drop = drop_of(a.rate, a.key, a.step)
    cdef const real *q
    cdef const real *seen
    cdef real *p
    for b in range(begin, end):
        seen = NULL
        for u in range(t):
            if a.seen[b * t + u] == 0:
                seen = a.seen + b * t
        for i in range(a.h):
            q = a.qkv + b * t * 3 * c + i * a.d
            p = a.p + (b * a.k + i % a.k) * t * t
            number = (a.row[b] * a.h + i) * t
            scores(p, q, 3 * c, q + c, 3 * c, t, a.d, causal)
            for u in range(t):
                softmax_row(p + u * t, seen, u + 1 if causal else t, t, scale)
            weighted_rows(a.y + b * t * c + i * a.d, c, p, q + 2 * c, 3 * c, t, a.d, causal,
                          &drop if a.rate else NULL, <uint64_t>number)

register("attention_forward", attention_forward, sizeof(AttentionForward))


cdef struct AttentionBackward:
    real *dqkv
    real *ds
    const real *dy
    const real *p
    const real *qkv
    const int64_t *row
    int64_t rows, t, three, h, d
    double causal, rate, key, step


cdef inline void softmax_row_backward(real *g, const real *p, int64_t n, int64_t t, real scale) noexcept nogil:
    """g (t) <- scale p (g - the sum of p g) at the first n positions, 0 at the others."""
    cdef int64_t width = whole_steps(n, t), j = 0, i
    cdef real part
    fill_to(g, 0, n, width)
    part = dot_of(p, g, width)
    while j + ATTENTION_STEP <= width:
        for i in range(ATTENTION_STEP):
            g[j + i] = p[j + i] * (g[j + i] - part) * scale
        j += ATTENTION_STEP
    for i in range(j, width):
        g[i] = p[i] * (g[i] - part) * scale
    if width < t:
        memset(g + width, 0, (t - width) * sizeof(real))


cdef void attention_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AttentionBackward *a = <const AttentionBackward *>args
    cdef int64_t c = a.h * a.d, t = a.t, b, i, u, n, number
    cdef bint causal = a.causal != 0
    cdef real scale = <real>(1 / sqrt_double(<double>a.d))
    cdef Drop drop = drop_of(a.rate, a.key, a.step)
    cdef const real *q
    cdef const real *p
    cdef const real *dy
    cdef real *dq
    cdef real *ds
    for b in range(begin, end):
        ds = a.ds + b * t * t
        for i in range(a.h):
            q = a.qkv + b * t * 3 * c + i * a.d
            dq = a.dqkv + b * t * 3 * c + i * a.d
            dy = a.dy + b * t * c + i * a.d
            p = a.p + (b * a.h + i) * t * t
            number = (a.row[b] * a.h + i) * t
            if a.rate:
                for u in range(t):
                    drop_row(ds + u * t, p + u * t, t, &drop, <uint64_t>(number + u), 0)
            weighted_columns(dq + 2 * c, 3 * c, <const real *>ds if a.rate else p, dy, c, t, a.d, causal)
            scores(ds, dy, c, q + 2 * c, 3 * c, t, a.d, causal)
            for u in range(t):
                n = u + 1 if causal else t
                if a.rate:
                    drop_row(ds + u * t, ds + u * t, n, &drop, <uint64_t>(number + u), 0)
                softmax_row_backward(ds + u * t, p + u * t, n, t, scale)
            weighted_rows(dq, 3 * c, ds, q + c, 3 * c, t, a.d, causal, NULL, 0)
            weighted_columns(dq + c, 3 * c, ds, q, 3 * c, t, a.d, causal)

register("attention_backward", attention_backward, sizeof(AttentionBackward))


cdef struct SeenTokens:
    real *seen
    const real *tokens
    int64_t rows
    double padding


cdef void seen_tokens(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SeenTokens *a = <const SeenTokens *>args
    cdef real padding = <real>a.padding
    cdef int64_t i
    for i in range(begin, end):
        a.seen[i] = 0 if a.tokens[i] == padding else 1

register("seen_tokens", seen_tokens, sizeof(SeenTokens))
