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
    STATE, STORED, NEXT, IDLE, TRIALS, LOSS, SLOPE, SQUARE, STEP
    LOW, LOW_LOSS, LOW_SLOPE, HIGH, HIGH_LOSS, HIGH_SLOPE, NOISE

cdef enum:
    BEGIN, SEARCH, CONVERGED, DIVERGED

cdef enum:
    ACTION, SLOT, OLD_STEP, NEW_STEP

cdef enum:
    RETRY, ACCEPT, RESTART, BACK, STAY

cdef enum:
    PRODUCT_PARTS = 16
    MOVE_BLOCK = 256        # elements whose direction is summed at a time

cdef struct LBFGSDots:
    double *partial
    const real *vectors
    const real *g
    int64_t blocks, k, n


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
        for k in range(a.k - 1):
            a.partial[b * a.k + k] = double_dot(a.vectors + k * a.n + first, a.g + first, length)
        a.partial[b * a.k + a.k - 1] = double_dot(a.g + first, a.g + first, length)

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
    if c[HIGH] <= 0:
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


cdef int64_t clamped(double x, int64_t high) noexcept nogil:
    """x as an index from 0 to `high`."""
    return <int64_t>x if 0 <= x <= high else high if x > high else 0


cdef int64_t store_pair(double *gram, double *c, double *dots, int64_t k, double slope) noexcept nogil:
    """Stores the pair of the accepted step in `gram`; returns its slot, or -1. k: the number of vectors."""
    cdef int64_t pairs = (k - 3) // 2, slot, j
    cdef double *before = gram + (k - 3) * k
    cdef double *along = before + k
    cdef double step = c[STEP], across = dots[k - 3], square = dots[k - 1], s, y
    cdef double curvature = step * (slope - c[SLOPE])
    cdef double change = square - 2 * across + c[SQUARE]
    cdef double length = step * step * along[k - 2]
    if not curvature > LEAST_CURVATURE * sqrt_double(fabs_double(change * length)):
        return -1
    slot = clamped(c[NEXT], pairs - 1)
    for j in range(2 * pairs):
        s, y = step * along[j], dots[j] - before[j]
        gram[slot * k + j] = gram[j * k + slot] = s
        gram[(pairs + slot) * k + j] = gram[j * k + pairs + slot] = y
    gram[slot * k + slot], gram[(pairs + slot) * k + pairs + slot] = length, change
    gram[slot * k + pairs + slot] = gram[(pairs + slot) * k + slot] = curvature
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


cdef void turn(double *weights, double *gram, double *c, int64_t k, double rate) noexcept nogil:
    """The direction by the two-loop recursion on coefficients, its products, and the start of its line search."""
    cdef int64_t pairs = (k - 3) // 2, v = 2 * pairs, i, j, back
    cdef int64_t stored = clamped(c[STORED], pairs), newest = clamped(c[NEXT], pairs) - 1 + pairs
    cdef double *before = gram + (k - 3) * k
    cdef double *along = before + k
    cdef double *own = weights + k - 3          # the weight of the gradient
    cdef double scale, slope, length = 0
    for j in range(k):
        weights[j] = 0
    own[0] = -1
    for back in range(stored):
        i = (newest - back) % pairs
        weights[pairs + i] -= product(weights, gram + i * k, v, own[0] * before[i]) / gram[i * k + pairs + i]
    if stored:
        i = newest % pairs
        scale = gram[i * k + pairs + i] / gram[(pairs + i) * k + pairs + i]
        for j in range(pairs):
            along[j] = -weights[pairs + j]      # alpha of the recursion
        for j in range(k):
            weights[j] *= scale
    for back in range(stored - 1, -1, -1):
        i = (newest - back) % pairs
        scale = product(weights, gram + (pairs + i) * k, v, own[0] * before[pairs + i])
        weights[i] += along[i] - scale / gram[i * k + pairs + i]
    slope = product(weights, before, v, own[0] * c[SQUARE])
    for j in range(v):
        along[j] = product(weights, gram + j * k, v, own[0] * before[j])
        length += weights[j] * along[j]
    length += own[0] * slope
    if stored and not (slope < 0 and 0 < length < INFINITY):
        c[STORED] = 0
        for j in range(v):
            weights[j], along[j] = 0, -before[j]
        own[0], slope, length = -1, -c[SQUARE], c[SQUARE]
    along[k - 2] = length
    c[SLOPE], c[TRIALS], c[STATE], c[STEP] = slope, 0, SEARCH, rate
    if not c[STORED] and c[SQUARE] > 1:
        c[STEP] = rate / sqrt_double(c[SQUARE])
    c[LOW], c[LOW_LOSS], c[LOW_SLOPE], c[HIGH] = 0, c[LOSS], slope, 0


cdef struct LBFGSSearch:
    int64_t *ended
    double *move
    double *control
    double *weights
    double *gram
    double *partial
    const double *total
    int64_t one, four, sixteen, k, blocks
    double lr, tolerance


cdef void lbfgs_search(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LBFGSSearch *a = <const LBFGSSearch *>args
    cdef double *dots = a.partial
    cdef double *c = a.control
    cdef double *move = a.move
    cdef double loss = a.total[0], slope, square
    cdef int64_t b, j, k = a.k
    for b in range(1, a.blocks):
        for j in range(k):
            dots[j] += a.partial[b * k + j]
    a.ended[0] = 1
    move[SLOT], move[OLD_STEP], move[ACTION] = -1, c[STEP], STAY
    if k < 5 or a.blocks < 1:
        return
    slope, square = dots[k - 2], dots[k - 1]
    if c[STATE] == BEGIN and not (is_number(loss) and is_number(square)):
        c[STATE] = DIVERGED
    if c[STATE] == DIVERGED or c[STATE] == CONVERGED:
        return
    if c[STATE] == BEGIN or judge(c, loss, slope, square):
        move[ACTION] = ACCEPT
        if c[STATE] == SEARCH:
            c[IDLE] = c[IDLE] + 1 if fabs_double(loss - c[LOSS]) <= c[NOISE] * fabs_double(loss) else 0
            move[SLOT] = store_pair(a.gram, c, dots, k, slope)
        c[LOSS], c[SQUARE] = loss, square
        for j in range(k - 3):
            a.gram[(k - 3) * k + j] = dots[j]
        if square <= a.tolerance * a.tolerance or c[IDLE] >= MOST_IDLE:
            c[STATE] = CONVERGED
            move[NEW_STEP] = 0
            for j in range(k):
                a.weights[j] = 0
            return
        turn(a.weights, a.gram, c, k, a.lr)
    elif c[STEP] != 0:
        move[ACTION] = RETRY
    elif c[STORED]:
        move[ACTION] = RESTART
        c[STORED] = 0
        turn(a.weights, a.gram, c, k, a.lr)
    else:
        move[ACTION] = BACK
        c[STATE] = CONVERGED
        return
    move[NEW_STEP] = c[STEP]
    a.ended[0] = 0

register("lbfgs_search", lbfgs_search, sizeof(LBFGSSearch))


cdef struct LBFGSMove:
    real *p
    real *vectors
    const real *g
    const double *weights
    const double *move
    int64_t n, k, four


cdef void lbfgs_move(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LBFGSMove *a = <const LBFGSMove *>args
    cdef const double *move = a.move
    cdef double action = move[ACTION]
    cdef int64_t pairs = (a.k - 3) // 2, slot = -1, i, k, stop
    cdef real *gradient = a.vectors + (a.k - 3) * a.n
    cdef real *direction = gradient + a.n
    cdef real *accepted = direction + a.n
    cdef real *s
    cdef real *y
    cdef const real *vector
    cdef real old_step = <real>move[OLD_STEP], step = <real>move[NEW_STEP]
    cdef double d[MOVE_BLOCK]
    if action == STAY or pairs < 1:
        return
    if action == ACCEPT and 0 <= move[SLOT] < pairs:
        slot = <int64_t>move[SLOT]
        s = a.vectors + slot * a.n
        y = a.vectors + (pairs + slot) * a.n
    while begin < end:
        stop = begin + MOVE_BLOCK if begin + MOVE_BLOCK < end else end
        if slot >= 0:
            for i in range(begin, stop):
                s[i], y[i] = old_step * direction[i], a.g[i] - gradient[i]
        if action == ACCEPT:
            for i in range(begin, stop):
                accepted[i], gradient[i] = a.p[i], a.g[i]
        if action == ACCEPT or action == RESTART:
            for i in range(stop - begin):
                d[i] = 0
            for k in range(a.k - 2):
                vector = a.vectors + k * a.n + begin
                for i in range(stop - begin):
                    d[i] = multiply_add_double(a.weights[k], vector[i], d[i])
            for i in range(begin, stop):
                direction[i] = <real>d[i - begin]
        if action == BACK:
            for i in range(begin, stop):
                a.p[i] = accepted[i]
        else:
            for i in range(begin, stop):
                a.p[i] = multiply_add(step, direction[i], accepted[i])
        begin = stop

register("lbfgs_move", lbfgs_move, sizeof(LBFGSMove))
