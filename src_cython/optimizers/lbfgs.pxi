# Bodies of fastgd/optimizers/lbfgs.py, where the algorithm is explained.

cdef extern from *:
    """
    #define DOT_BLOCK 4096          /* elements of a block of products */
    #define DECREASE 1e-4           /* of Armijo's condition */
    #define CURVATURE 0.9           /* of Wolfe's condition */
    #define LEAST_CURVATURE 1e-10   /* cosine of s and y from which on a pair is stored */
    #define MOST_TRIALS 30          /* of a line search */
    #define MOST_IDLE 10            /* accepted steps in a row that hardly change the loss */
    """
    const int64_t DOT_BLOCK
    const double DECREASE, CURVATURE, LEAST_CURVATURE, MOST_TRIALS, MOST_IDLE

constants.update(DOT_BLOCK=DOT_BLOCK, DECREASE=DECREASE, CURVATURE=CURVATURE, LEAST_CURVATURE=LEAST_CURVATURE,
                 MOST_TRIALS=MOST_TRIALS, MOST_IDLE=MOST_IDLE)

cdef enum:
    STATE, STORED, NEXT, IDLE, TRIALS, LOSS, SLOPE, SQUARE, LENGTH, STEP
    LOW, LOW_LOSS, LOW_SLOPE, HIGH, HIGH_LOSS, HIGH_SLOPE, NOISE

cdef enum:
    BEGIN, SEARCH, CONVERGED, DIVERGED

cdef enum:
    ACTION, SLOT, OLD_STEP, NEW_STEP, WEIGHTS

cdef enum:
    RETRY, ACCEPT, RESTART, BACK, STAY

cdef enum:
    PRODUCT_PARTS = 16
    MOVE_BLOCK = 256        # elements whose direction is summed at a time

cdef struct LBFGSDots:
    double *partial
    const real *vectors
    const real *g
    int64_t blocks, k, v, n


cdef double double_dot(const real *x, const real *g, int64_t n) noexcept nogil:
    """The sum of x g, as a fixed number of partial sums, whatever the width of a vector register."""
    cdef double part[PRODUCT_PARTS]
    cdef double total = 0
    cdef int64_t j = 0
    cdef int i
    for i in range(PRODUCT_PARTS):
        part[i] = 0
    while j + PRODUCT_PARTS <= n:
        for i in range(PRODUCT_PARTS):
            part[i] = multiply_add_double(x[j + i], g[j + i], part[i])
        j += PRODUCT_PARTS
    while j < n:
        total = multiply_add_double(x[j], g[j], total)
        j += 1
    for i in range(PRODUCT_PARTS):
        total += part[i]
    return total


cdef void lbfgs_dots(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LBFGSDots *a = <const LBFGSDots *>args
    cdef int64_t b, k, first, length
    for b in range(begin, end):
        first = b * DOT_BLOCK
        length = a.n - first if a.n - first < DOT_BLOCK else DOT_BLOCK
        for k in range(a.v):
            a.partial[b * a.k + k] = double_dot(a.vectors + k * a.n + first, a.g + first, length)
        a.partial[b * a.k + a.v] = double_dot(a.g + first, a.g + first, length)

register("lbfgs_dots", lbfgs_dots, sizeof(LBFGSDots))


cdef bint is_number(double x) noexcept nogil:
    """Whether x is neither infinite nor NaN."""
    return -INFINITY < x < INFINITY


cdef double within(double x, double low, double high) noexcept nogil:
    x = low if x < low else x
    return high if x > high else x


cdef bint judge(double *c, double loss, double slope, double square) noexcept nogil:
    """The line search: whether it accepts the trial. If not, c has the next step, or 0 if there is none."""
    cdef double step = c[STEP], loss0 = c[LOSS], slope0 = c[SLOPE], low, low_slope, high, width, x, y, z, root, found
    cdef bint is_finite = is_number(loss) and is_number(slope) and is_number(square)
    cdef bint falls = is_finite and loss <= loss0 + DECREASE * step * slope0
    if is_finite and loss <= loss0 + c[NOISE] * fabs_double(loss0) and slope <= (2 * DECREASE - 1) * slope0:
        falls = True
    if falls and slope >= CURVATURE * slope0:
        return True
    c[TRIALS] += 1
    low, low_slope = c[LOW], c[LOW_SLOPE]
    if falls:
        c[LOW], c[LOW_LOSS], c[LOW_SLOPE] = step, loss, slope
    else:
        c[HIGH], c[HIGH_LOSS], c[HIGH_SLOPE] = step, loss, slope
    if c[HIGH] == INFINITY:
        c[STEP] = 10 * step
        if slope > low_slope:
            c[STEP] = within(step - slope * (step - low) / (slope - low_slope), 2 * step, 10 * step)
    else:
        low, high = c[LOW], c[HIGH]
        width = high - low
        c[STEP] = low + 0.1 * width
        if is_number(c[HIGH_LOSS]) and is_number(c[HIGH_SLOPE]):
            x, y = c[LOW_SLOPE], c[HIGH_SLOPE]
            z = x + y - 3 * (c[HIGH_LOSS] - c[LOW_LOSS]) / width
            root = z * z - x * y
            found = low + 0.5 * width
            if root >= 0:
                root = sqrt_double(root)
                if y - x + 2 * root != 0:
                    found = high - width * (y + root - z) / (y - x + 2 * root)
            c[STEP] = within(found, low + 0.1 * width, high - 0.1 * width)
        if width <= 1e-10 * high:
            c[STEP] = 0
    if c[TRIALS] >= MOST_TRIALS:
        c[STEP] = 0
    return False


cdef int64_t store_pair(double *gram, double *c, double *dots, int64_t v, double slope, double square) noexcept nogil:
    """Stores the pair of the accepted step in `gram`; returns its slot, or -1. v: rows of products, twice the pairs."""
    cdef int64_t pairs = v // 2, slot, j
    cdef double *before = gram + v * v
    cdef double *along = before + v
    cdef double step = c[STEP], across = dots[v], s, y
    cdef double curvature = step * (slope - c[SLOPE])
    cdef double change = square - 2 * across + c[SQUARE]
    cdef double length = step * step * c[LENGTH]
    if not curvature > LEAST_CURVATURE * sqrt_double(fabs_double(change) * length):
        return -1
    slot = <int64_t>c[NEXT]
    for j in range(v):
        s, y = step * along[j], dots[j] - before[j]
        gram[slot * v + j] = gram[j * v + slot] = s
        gram[(pairs + slot) * v + j] = gram[j * v + pairs + slot] = y
    gram[slot * v + slot], gram[(pairs + slot) * v + pairs + slot] = length, change
    gram[slot * v + pairs + slot] = gram[(pairs + slot) * v + slot] = curvature
    dots[slot], dots[pairs + slot] = step * slope, square - across
    c[NEXT] = (slot + 1) % pairs
    if c[STORED] < pairs:
        c[STORED] += 1
    return slot


cdef double product(const double *x, const double *y, int64_t n, double total) noexcept nogil:
    """total + the sum of x y, in order."""
    cdef int64_t j
    for j in range(n):
        total += x[j] * y[j]
    return total


cdef void turn(double *weights, double *gram, double *c, int64_t v, double rate) noexcept nogil:
    """The direction by the two-loop recursion on coefficients, its products, and the start of its line search."""
    cdef int64_t pairs = v // 2, stored = <int64_t>c[STORED], newest = <int64_t>c[NEXT] - 1, i, j, k
    cdef double *before = gram + v * v
    cdef double *along = before + v
    cdef double scale, slope, length = 0
    for j in range(v):
        weights[j] = 0
    weights[v] = -1
    for k in range(stored):
        i = (newest - k + pairs) % pairs
        weights[pairs + i] -= product(weights, gram + i * v, v, weights[v] * before[i]) / gram[i * v + pairs + i]
    if stored:
        i = (newest + pairs) % pairs
        scale = gram[i * v + pairs + i] / gram[(pairs + i) * v + pairs + i]
        for j in range(pairs):
            along[j] = -weights[pairs + j]      # alpha of the recursion
        for j in range(v + 1):
            weights[j] *= scale
    for k in range(stored - 1, -1, -1):
        i = (newest - k + pairs) % pairs
        scale = product(weights, gram + (pairs + i) * v, v, weights[v] * before[pairs + i])
        weights[i] += along[i] - scale / gram[i * v + pairs + i]
    slope = product(weights, before, v, weights[v] * c[SQUARE])
    for j in range(v):
        along[j] = product(weights, gram + j * v, v, weights[v] * before[j])
        length += weights[j] * along[j]
    length += weights[v] * slope
    if stored and not (slope < 0 and 0 < length < INFINITY):
        c[STORED] = 0
        for j in range(v):
            weights[j], along[j] = 0, -before[j]
        weights[v], slope, length = -1, -c[SQUARE], c[SQUARE]
    c[SLOPE], c[LENGTH], c[TRIALS], c[STATE] = slope, length, 0, SEARCH
    c[STEP] = rate
    if not c[STORED] and c[SQUARE] > 1:
        c[STEP] = rate * (1 / sqrt_double(c[SQUARE]))
    c[LOW], c[LOW_LOSS], c[LOW_SLOPE], c[HIGH] = 0, c[LOSS], slope, INFINITY


cdef struct LBFGSSearch:
    int64_t *ended
    double *move
    double *control
    double *gram
    double *partial
    const double *total
    int64_t one, m, c, r, v, blocks, k
    double lr, tolerance


cdef void lbfgs_search(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LBFGSSearch *a = <const LBFGSSearch *>args
    cdef double *dots = a.partial
    cdef double *c = a.control
    cdef double *move = a.move
    cdef double loss = a.total[0], slope, square
    cdef int64_t b, k, v = a.v
    for b in range(1, a.blocks):
        for k in range(a.k):
            dots[k] += a.partial[b * a.k + k]
    slope, square = dots[v + 1], dots[v + 2]
    move[SLOT], move[OLD_STEP] = -1, c[STEP]
    a.ended[0] = 1
    if c[STATE] == BEGIN and not (is_number(loss) and is_number(square)):
        c[STATE] = DIVERGED
    if c[STATE] == DIVERGED or c[STATE] == CONVERGED:
        move[ACTION] = STAY
        return
    if c[STATE] == BEGIN or judge(c, loss, slope, square):
        move[ACTION] = ACCEPT
        if c[STATE] == SEARCH:
            c[IDLE] = c[IDLE] + 1 if fabs_double(loss - c[LOSS]) <= c[NOISE] * fabs_double(loss) else 0
            move[SLOT] = store_pair(a.gram, c, dots, v, slope, square)
        c[LOSS], c[SQUARE] = loss, square
        for k in range(v):
            a.gram[v * v + k] = dots[k]
        if sqrt_double(square) <= a.tolerance or c[IDLE] >= MOST_IDLE:
            c[STATE] = CONVERGED
            move[NEW_STEP] = 0
            for k in range(v + 1):
                move[WEIGHTS + k] = 0
            return
        turn(move + WEIGHTS, a.gram, c, v, a.lr)
    elif c[STEP] != 0:
        move[ACTION] = RETRY
    elif c[STORED]:
        move[ACTION] = RESTART
        c[STORED] = 0
        turn(move + WEIGHTS, a.gram, c, v, a.lr)
    else:
        move[ACTION] = BACK
        c[STATE] = CONVERGED
        return
    move[NEW_STEP] = c[STEP]
    a.ended[0] = 0

register("lbfgs_search", lbfgs_search, sizeof(LBFGSSearch))


cdef struct LBFGSMove:
    real *p
    real *accepted
    real *vectors
    const real *g
    const double *move
    int64_t n, v, m


cdef void lbfgs_move(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LBFGSMove *a = <const LBFGSMove *>args
    cdef const double *move = a.move
    cdef int action = <int>move[ACTION]
    cdef int64_t slot = <int64_t>move[SLOT], pairs = a.v // 2 - 1, i, k, first, stop
    cdef real *gradient = a.vectors + 2 * pairs * a.n
    cdef real *direction = gradient + a.n
    cdef real *s = a.vectors + slot * a.n
    cdef real *y = a.vectors + (pairs + slot) * a.n
    cdef const real *vector
    cdef real old_step = <real>move[OLD_STEP], step = <real>move[NEW_STEP]
    cdef double d[MOVE_BLOCK]
    if action == STAY:
        return
    first = begin
    while first < end:
        stop = first + MOVE_BLOCK if first + MOVE_BLOCK < end else end
        if action == ACCEPT:
            if slot >= 0:
                for i in range(first, stop):
                    s[i], y[i] = old_step * direction[i], a.g[i] - gradient[i]
            for i in range(first, stop):
                a.accepted[i], gradient[i] = a.p[i], a.g[i]
        if action == ACCEPT or action == RESTART:
            for i in range(stop - first):
                d[i] = 0
            for k in range(2 * pairs + 1):
                if move[WEIGHTS + k] != 0:
                    vector = a.vectors + k * a.n + first
                    for i in range(stop - first):
                        d[i] = multiply_add_double(move[WEIGHTS + k], vector[i], d[i])
            for i in range(first, stop):
                direction[i] = <real>d[i - first]
        if action == BACK:
            for i in range(first, stop):
                a.p[i] = a.accepted[i]
        else:
            for i in range(first, stop):
                a.p[i] = multiply_add(step, direction[i], a.accepted[i])
        first = stop

register("lbfgs_move", lbfgs_move, sizeof(LBFGSMove))
