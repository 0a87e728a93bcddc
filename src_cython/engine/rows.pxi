# Bodies of fastgd/engine/rows.py.

cdef inline bits magnitude(const real *x, int64_t n, bits top) noexcept nogil:
    """The largest of top and the magnitudes of x, as bits. As integers they have the same order as the numbers, with
    NaN above all, so the search vectorizes."""
    cdef const bits *b = <const bits *>x
    cdef bits v
    cdef int64_t i
    for i in range(n):
        v = b[i] & MAGNITUDE
        top = v if v > top else top
    return top


cdef struct CountExceeding:
    int64_t *count
    const real *x
    int64_t one, rows, n
    double limit


cdef void count_exceeding(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const CountExceeding *a = <const CountExceeding *>args
    cdef real limit = <real>a.limit
    cdef bits top = magnitude(a.x, a.rows * a.n, 0)
    cdef int64_t i, count = 0
    if not from_bits(top) <= limit:
        for i in range(a.rows * a.n):
            count += not fabs(a.x[i]) <= limit
    a.count[0] = count

register("count_exceeding", count_exceeding, sizeof(CountExceeding))


cdef struct GatherRows:
    real *out
    const real *source
    const int64_t *index
    int64_t rows, n, m


cdef void gather_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GatherRows *a = <const GatherRows *>args
    cdef const real *row
    cdef real *out
    cdef int64_t i, j, whole = a.n - a.n % LANES
    for i in range(begin, end):
        row = a.source + min(max(a.index[i], 0), a.m - 1) * a.n
        out = a.out + i * a.n
        j = 0
        while j < whole:                # for short rows a call of memcpy would cost as much again
            (<vec *>(out + j))[0] = (<vec *>(row + j))[0]
            j += LANES
        copy_part(out + j, row + j, a.n - j)

register("gather_rows", gather_rows, sizeof(GatherRows))


cdef struct GatherLabels:
    int64_t *out
    const int64_t *source
    const int64_t *index
    int64_t rows, n, m


cdef void gather_labels(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GatherLabels *a = <const GatherLabels *>args
    cdef const int64_t *row
    cdef int64_t i, j
    for i in range(begin, end):
        row = a.source + min(max(a.index[i], 0), a.m - 1) * a.n
        for j in range(a.n):
            a.out[i * a.n + j] = row[j]

register("gather_labels", gather_labels, sizeof(GatherLabels))


cdef struct FillRows:
    real *out
    int64_t rows
    double value


cdef void fill_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const FillRows *a = <const FillRows *>args
    cdef int64_t i
    for i in range(begin, end):
        a.out[i] = <real>a.value

register("fill_rows", fill_rows, sizeof(FillRows))


cdef struct MaxAbsOfRows:
    real *max_abs
    const real *x
    int64_t rows, n


cdef void max_abs_of_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MaxAbsOfRows *a = <const MaxAbsOfRows *>args
    cdef int64_t i
    for i in range(begin, end):
        (<bits *>a.max_abs)[i] = magnitude(a.x + i * a.n, a.n, 0)

register("max_abs_of_rows", max_abs_of_rows, sizeof(MaxAbsOfRows))


cdef inline int64_t token_of(real token, int64_t begin, int64_t end) noexcept nogil:
    """A token as an index, or -1 unless it is a whole number in [begin, end)."""
    cdef int64_t index
    if not (begin <= token < end):
        return -1
    index = <int64_t>token
    return index if <real>index == token else -1


cdef struct MaxAbsOfTokens:
    real *max_abs
    const real *tokens
    const real *w
    int64_t rows, t, m, n


cdef void max_abs_of_tokens(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MaxAbsOfTokens *a = <const MaxAbsOfTokens *>args
    cdef const real *tokens
    cdef bint valid
    cdef int64_t i, j
    for i in range(begin, end):
        tokens = a.tokens + i * a.t
        valid = True
        for j in range(a.t):
            valid = valid and token_of(tokens[j], 0, a.m) >= 0
        a.max_abs[i] = largest_of(tokens, a.t) if valid else <real>NAN

register("max_abs_of_tokens", max_abs_of_tokens, sizeof(MaxAbsOfTokens))


cdef void raise_max_abs_of_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MaxAbsOfRows *a = <const MaxAbsOfRows *>args
    cdef int64_t i
    for i in range(begin, end):
        (<bits *>a.max_abs)[i] = magnitude(a.x + i * a.n, a.n, (<bits *>a.max_abs)[i] & MAGNITUDE)

register("raise_max_abs_of_rows", raise_max_abs_of_rows, sizeof(MaxAbsOfRows))


cdef struct ToBlocks:
    const real *x
    real *y
    int64_t rows, n, blocks, images
    double repeats


cdef void to_blocks(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ToBlocks *a = <const ToBlocks *>args
    cdef int64_t i = begin, images, j, p
    cdef real *y
    while i < end:
        images = min(<int64_t>IMAGES, end - i)
        y = a.y + i * a.n
        if images == IMAGES:
            transpose(y, IMAGES, a.x + i * a.n, a.n, a.n, IMAGES)
        else:
            for j in range(a.n):
                for p in range(images):
                    y[j * IMAGES + p] = a.x[(i + p) * a.n + j]
                for p in range(images, IMAGES):
                    y[j * IMAGES + p] = y[j * IMAGES + images - 1] if a.repeats != 0 else 0
        i += images

register("to_blocks", to_blocks, sizeof(ToBlocks))


cdef struct FromBlocks:
    real *y
    const real *x
    int64_t rows, n, blocks, images


cdef void from_blocks(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const FromBlocks *a = <const FromBlocks *>args
    cdef int64_t i = begin, images
    while i < end:
        images = min(<int64_t>IMAGES, end - i)
        transpose(a.y + i * a.n, a.n, a.x + i * a.n, IMAGES, images, a.n)
        i += images

register("from_blocks", from_blocks, sizeof(FromBlocks))


cdef struct LargestMaxAbs:
    double *largest
    const real *max_abs
    int64_t one, rows


cdef void largest_max_abs(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LargestMaxAbs *a = <const LargestMaxAbs *>args
    cdef bits top = magnitude(a.max_abs, a.rows, 0)
    a.largest[0] = from_bits(top)

register("largest_max_abs", largest_max_abs, sizeof(LargestMaxAbs))


cdef struct CopyRows:
    real *y
    const real *x
    int64_t rows, n


cdef void copy_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const CopyRows *a = <const CopyRows *>args
    memcpy(a.y + begin * a.n, a.x + begin * a.n, (end - begin) * a.n * sizeof(real))

register("copy_rows", copy_rows, sizeof(CopyRows))
