# Bodies of fastgd/activations.py: for each a function of one element, and a loop.

cdef extern from *:
    """
    #define ONE ((real)1)           /* Cython writes a literal 1 as a double, in which C would then compute */
    #define SQRT_2_OVER_PI 0.7978845608028653559
    #define GELU_CUBIC 0.044715
    #define GELU_FLAT 100.0         /* the slope of gelu is 0 or 1 from there on, where powers of x would overflow */
    """
    const real ONE
    const double SQRT_2_OVER_PI
    const double GELU_CUBIC
    const double GELU_FLAT

constants.update(SQRT_2_OVER_PI=SQRT_2_OVER_PI, GELU_CUBIC=GELU_CUBIC, GELU_FLAT=GELU_FLAT)

cdef struct Elementwise:                # (y, x) forward; (dy, kept) backward, in place on dy
    real *y
    const real *x
    int64_t rows, n

cdef struct ElementwiseSlope:           # (y, x) forward, which leaves the derivative in x
    real *y
    real *x
    int64_t rows, n

cdef struct ElementwiseParameter:       # `Elementwise` with one parameter of the activation
    real *y
    const real *x
    int64_t rows, n
    double parameter


cdef void relu_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = 0 if a.x[i] < 0 else a.x[i]

register("relu_forward", relu_forward, sizeof(Elementwise))


cdef void relu_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = a.y[i] if a.x[i] > 0 else 0

register("relu_backward", relu_backward, sizeof(Elementwise))


cdef void leaky_relu_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseParameter *a = <const ElementwiseParameter *>args
    cdef real slope = <real>a.parameter
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = slope * a.x[i] if a.x[i] < 0 else a.x[i]

register("leaky_relu_forward", leaky_relu_forward, sizeof(ElementwiseParameter))


cdef void leaky_relu_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseParameter *a = <const ElementwiseParameter *>args
    cdef real slope = <real>a.parameter
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = a.y[i] if a.x[i] > 0 else slope * a.y[i]

register("leaky_relu_backward", leaky_relu_backward, sizeof(ElementwiseParameter))


cdef void elu_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseParameter *a = <const ElementwiseParameter *>args
    cdef real alpha = <real>a.parameter
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = a.x[i] if a.x[i] > 0 else alpha * expm1(a.x[i])

register("elu_forward", elu_forward, sizeof(ElementwiseParameter))


cdef void elu_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseParameter *a = <const ElementwiseParameter *>args
    cdef real alpha = <real>a.parameter
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = a.y[i] if a.x[i] > 0 else a.y[i] * (a.x[i] + alpha)

register("elu_backward", elu_backward, sizeof(ElementwiseParameter))


cdef void tanh_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = tanh(a.x[i])

register("tanh_forward", tanh_forward, sizeof(Elementwise))


cdef void tanh_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] *= ONE - a.x[i] * a.x[i]

register("tanh_backward", tanh_backward, sizeof(Elementwise))


cdef void sigmoid_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = sigmoid(a.x[i])

register("sigmoid_forward", sigmoid_forward, sizeof(Elementwise))


cdef void sigmoid_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] *= a.x[i] * (ONE - a.x[i])

register("sigmoid_backward", sigmoid_backward, sizeof(Elementwise))


cdef inline real softplus(real x) noexcept nogil:
    cdef real positive = 0 if x < 0 else x
    return positive + log1p(exp(-fabs(x)))


cdef void softplus_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = softplus(a.x[i])

register("softplus_forward", softplus_forward, sizeof(Elementwise))


cdef void softplus_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] *= -expm1(-a.x[i])

register("softplus_backward", softplus_backward, sizeof(Elementwise))


cdef void gelu_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseSlope *a = <const ElementwiseSlope *>args
    cdef real x, below, density
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        x = a.x[i]
        below = normal_cdf(x, &density)
        a.y[i] = x * below
        a.x[i] = below + x * density

register("gelu_forward", gelu_forward, sizeof(ElementwiseSlope))


cdef void gelu_tanh_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseSlope *a = <const ElementwiseSlope *>args
    # (1 + tanh(u)) / 2 is sigmoid(2 u), which takes one division less and keeps its digits near 0.
    cdef real x, s, slope, flat = <real>GELU_FLAT, scale = <real>(2 * SQRT_2_OVER_PI)
    cdef real cubic = <real>GELU_CUBIC, cubic_3 = <real>(3 * GELU_CUBIC)
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        x = a.x[i]
        x = flat if x > flat else -flat if x < -flat else x     # NaN stays
        s = sigmoid(scale * (x + cubic * x * x * x))
        slope = scale * (ONE + cubic_3 * x * x)
        a.y[i] = a.x[i] * s
        a.x[i] = s + x * (s * (ONE - s)) * slope

register("gelu_tanh_forward", gelu_tanh_forward, sizeof(ElementwiseSlope))


cdef void silu_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ElementwiseSlope *a = <const ElementwiseSlope *>args
    cdef real x, s
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        x = a.x[i]
        s = sigmoid(x)
        a.y[i] = x * s
        a.x[i] = s * (ONE + x * (ONE - s))

register("silu_forward", silu_forward, sizeof(ElementwiseSlope))


cdef void slope_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] *= a.x[i]

register("slope_backward", slope_backward, sizeof(Elementwise))
