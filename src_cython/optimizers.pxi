# Bodies of fastgd/optimizers.py: one loop over the flat buffers. No sum has two products as its terms, of which the
# compiler might fuse one in a vector and the other in what is left over: the bits would depend on the share.

cdef struct SGDStep:
    real *p
    const real *g
    int64_t n
    double lr, weight_decay


cdef void sgd_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SGDStep *a = <const SGDStep *>args
    cdef real lr = <real>a.lr, weight_decay = <real>a.weight_decay
    cdef int64_t i
    for i in range(begin, end):
        a.p[i] -= lr * (a.g[i] + weight_decay * a.p[i])

register("sgd_step", sgd_step, sizeof(SGDStep))


cdef struct SGDOuterStep:
    real *b
    real *w
    const real *x
    const real *dy
    int64_t n_out, n_in, one
    double lr


cdef void sgd_outer_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SGDOuterStep *a = <const SGDOuterStep *>args
    cdef real lr = <real>a.lr
    cdef int64_t j
    for j in range(begin, end):
        a.b[j] -= lr * a.dy[j]
    subtract_outer(a.w + begin, a.n_out, lr, a.x, a.dy + begin, a.n_in, end - begin)

register("sgd_outer_step", sgd_outer_step, sizeof(SGDOuterStep))


cdef struct MomentumStep:
    real *p
    real *b
    const real *g
    int64_t n
    double lr, momentum, weight_decay


cdef void momentum_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MomentumStep *a = <const MomentumStep *>args
    cdef real lr = <real>a.lr, momentum = <real>a.momentum, weight_decay = <real>a.weight_decay
    cdef int64_t i
    for i in range(begin, end):
        a.b[i] = momentum * a.b[i] + (a.g[i] + weight_decay * a.p[i])
        a.p[i] -= lr * a.b[i]

register("momentum_step", momentum_step, sizeof(MomentumStep))


cdef void nesterov_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MomentumStep *a = <const MomentumStep *>args
    cdef real lr = <real>a.lr, momentum = <real>a.momentum, weight_decay = <real>a.weight_decay
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = a.g[i] + weight_decay * a.p[i]
        a.b[i] = momentum * a.b[i] + d
        a.p[i] -= lr * (d + momentum * a.b[i])

register("nesterov_step", nesterov_step, sizeof(MomentumStep))


cdef struct AdaGradStep:
    real *p
    real *s
    const real *g
    int64_t n
    double lr, eps, weight_decay


cdef void adagrad_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdaGradStep *a = <const AdaGradStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, weight_decay = <real>a.weight_decay
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = a.g[i] + weight_decay * a.p[i]
        a.s[i] += d * d
        a.p[i] -= lr * d / (sqrt(a.s[i]) + eps)

register("adagrad_step", adagrad_step, sizeof(AdaGradStep))


cdef struct RMSPropStep:
    real *p
    real *v
    const real *g
    int64_t n
    double lr, alpha, eps, weight_decay


cdef void rmsprop_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RMSPropStep *a = <const RMSPropStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, weight_decay = <real>a.weight_decay
    cdef real fresh = <real>(1 - a.alpha)
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = a.g[i] + weight_decay * a.p[i]
        a.v[i] += fresh * (d * d - a.v[i])
        a.p[i] -= lr * d / (sqrt(a.v[i]) + eps)

register("rmsprop_step", rmsprop_step, sizeof(RMSPropStep))


cdef struct AdamStep:
    real *p
    real *m
    real *v
    const real *g
    int64_t n
    double rate, beta1, beta2, eps, weight_decay, shrink


cdef void adam_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdamStep *a = <const AdamStep *>args
    cdef real rate = <real>a.rate, eps = <real>a.eps, weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real fresh1 = <real>(1 - a.beta1), fresh2 = <real>(1 - a.beta2)
    cdef real d, m, v
    cdef int64_t i
    for i in range(begin, end):
        d = a.g[i] + weight_decay * a.p[i]
        m = a.m[i] + fresh1 * (d - a.m[i])
        v = a.v[i] + fresh2 * (d * d - a.v[i])
        a.m[i] = m
        a.v[i] = v
        a.p[i] = shrink * a.p[i] - rate * m / (sqrt(v) + eps)

register("adam_step", adam_step, sizeof(AdamStep))
