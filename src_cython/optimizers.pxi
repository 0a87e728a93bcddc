# Bodies of fastgd/optimizers.py: one loop over flat arrays. No sum has two products as its terms, of which the
# compiler might fuse one in a vector and the other in what is left over: the bits would depend on the share. Where the
# formula has such a sum, `multiply_add` says which is fused.

cdef inline real decayed(real g, real weight_decay, real p) noexcept nogil:
    return g + weight_decay * p


cdef inline real moved(real p, real shrink, real lr, real d) noexcept nogil:
    """p - shrink p - lr d."""
    return multiply_add(-shrink, p, multiply_add(-lr, d, p))


cdef inline real averaged(real a, real fresh, real x) noexcept nogil:
    """(1 - fresh) a + fresh x."""
    return a + fresh * (x - a)


cdef struct SGDStep:
    real *p
    const real *g
    int64_t n
    double lr, weight_decay, shrink


cdef void sgd_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SGDStep *a = <const SGDStep *>args
    cdef real lr = <real>a.lr, weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef int64_t i
    for i in range(begin, end):
        a.p[i] = moved(a.p[i], shrink, lr, decayed(a.g[i], weight_decay, a.p[i]))

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
    double lr, momentum, weight_decay, shrink


cdef void momentum_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MomentumStep *a = <const MomentumStep *>args
    cdef real lr = <real>a.lr, momentum = <real>a.momentum
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef int64_t i
    for i in range(begin, end):
        a.b[i] = momentum * a.b[i] + decayed(a.g[i], weight_decay, a.p[i])
        a.p[i] = moved(a.p[i], shrink, lr, a.b[i])

register("momentum_step", momentum_step, sizeof(MomentumStep))


cdef void nesterov_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MomentumStep *a = <const MomentumStep *>args
    cdef real lr = <real>a.lr, momentum = <real>a.momentum
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.b[i] = momentum * a.b[i] + d
        a.p[i] = moved(a.p[i], shrink, lr, d + momentum * a.b[i])

register("nesterov_step", nesterov_step, sizeof(MomentumStep))


cdef struct AdaGradStep:
    real *p
    real *s
    const real *g
    int64_t n
    double lr, eps, weight_decay, shrink


cdef void adagrad_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdaGradStep *a = <const AdaGradStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.s[i] += d * d
        a.p[i] = (a.p[i] - lr * d / (sqrt(a.s[i]) + eps)) - shrink * a.p[i]

register("adagrad_step", adagrad_step, sizeof(AdaGradStep))


cdef struct AdaDeltaStep:
    real *p
    real *s
    real *u
    const real *g
    int64_t n
    double lr, rho, eps, weight_decay, shrink


cdef void adadelta_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdaDeltaStep *a = <const AdaDeltaStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, fresh = <real>(1 - a.rho)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.s[i] = averaged(a.s[i], fresh, d * d)
        d = sqrt(a.u[i] + eps) / sqrt(a.s[i] + eps) * d
        a.u[i] = averaged(a.u[i], fresh, d * d)
        a.p[i] = moved(a.p[i], shrink, lr, d)

register("adadelta_step", adadelta_step, sizeof(AdaDeltaStep))


cdef struct RMSPropStep:
    real *p
    real *v
    const real *g
    int64_t n
    double lr, alpha, eps, weight_decay, shrink


cdef void rmsprop_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RMSPropStep *a = <const RMSPropStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, fresh = <real>(1 - a.alpha)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.v[i] = averaged(a.v[i], fresh, d * d)
        a.p[i] = (a.p[i] - lr * d / (sqrt(a.v[i]) + eps)) - shrink * a.p[i]

register("rmsprop_step", rmsprop_step, sizeof(RMSPropStep))


cdef struct RMSPropMomentumStep:
    real *p
    real *v
    real *b
    const real *g
    int64_t n
    double lr, alpha, eps, momentum, weight_decay, shrink


cdef void rmsprop_momentum_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RMSPropMomentumStep *a = <const RMSPropMomentumStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, momentum = <real>a.momentum, fresh = <real>(1 - a.alpha)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.v[i] = averaged(a.v[i], fresh, d * d)
        a.b[i] = momentum * a.b[i] + d / (sqrt(a.v[i]) + eps)
        a.p[i] = moved(a.p[i], shrink, lr, a.b[i])

register("rmsprop_momentum_step", rmsprop_momentum_step, sizeof(RMSPropMomentumStep))


cdef struct RMSPropCentredStep:
    real *p
    real *v
    real *a
    real *b
    const real *g
    int64_t n
    double lr, alpha, eps, momentum, weight_decay, shrink


cdef void rmsprop_centred_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RMSPropCentredStep *a = <const RMSPropCentredStep *>args
    cdef real lr = <real>a.lr, eps = <real>a.eps, momentum = <real>a.momentum, fresh = <real>(1 - a.alpha)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, variance
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        a.v[i] = averaged(a.v[i], fresh, d * d)
        a.a[i] = averaged(a.a[i], fresh, d)
        variance = a.v[i] - a.a[i] * a.a[i]
        variance = variance if variance > 0 else 0
        a.b[i] = momentum * a.b[i] + d / (sqrt(variance) + eps)
        a.p[i] = moved(a.p[i], shrink, lr, a.b[i])

register("rmsprop_centred_step", rmsprop_centred_step, sizeof(RMSPropCentredStep))


cdef struct AdamStep:
    real *p
    real *m
    real *v
    const real *g
    int64_t n
    double rate, beta1, beta2, adapt, eps, weight_decay, shrink


cdef void adam_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdamStep *a = <const AdamStep *>args
    cdef real rate = <real>a.rate, adapt = <real>a.adapt, eps = <real>a.eps
    cdef real fresh1 = <real>(1 - a.beta1), fresh2 = <real>(1 - a.beta2)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, m, v
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        m = averaged(a.m[i], fresh1, d)
        v = averaged(a.v[i], fresh2, d * d)
        a.m[i] = m
        a.v[i] = v
        a.p[i] = (a.p[i] - rate * m / (adapt * sqrt(v) + eps)) - shrink * a.p[i]

register("adam_step", adam_step, sizeof(AdamStep))


cdef struct AMSGradStep:
    real *p
    real *m
    real *v
    real *s
    const real *g
    int64_t n
    double rate, beta1, beta2, correct, eps, weight_decay, shrink


cdef void amsgrad_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AMSGradStep *a = <const AMSGradStep *>args
    cdef real rate = <real>a.rate, correct = <real>a.correct, eps = <real>a.eps
    cdef real fresh1 = <real>(1 - a.beta1), fresh2 = <real>(1 - a.beta2)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, m, v, s
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        m = averaged(a.m[i], fresh1, d)
        v = averaged(a.v[i], fresh2, d * d)
        s = correct * v
        s = s if s > a.s[i] else a.s[i]
        a.m[i] = m
        a.v[i] = v
        a.s[i] = s
        a.p[i] = (a.p[i] - rate * m / (sqrt(s) + eps)) - shrink * a.p[i]

register("amsgrad_step", amsgrad_step, sizeof(AMSGradStep))


cdef struct AdamaxStep:
    real *p
    real *m
    real *u
    const real *g
    int64_t n
    double rate, beta1, beta2, eps, weight_decay, shrink


cdef void adamax_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AdamaxStep *a = <const AdamaxStep *>args
    cdef real rate = <real>a.rate, beta2 = <real>a.beta2, eps = <real>a.eps, fresh1 = <real>(1 - a.beta1)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, m, u
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        m = averaged(a.m[i], fresh1, d)
        u = beta2 * a.u[i]
        d = fabs(d) + eps
        u = d if d > u else u
        a.m[i] = m
        a.u[i] = u
        a.p[i] = (a.p[i] - rate * m / u) - shrink * a.p[i]

register("adamax_step", adamax_step, sizeof(AdamaxStep))


cdef struct NAdamStep:
    real *p
    real *m
    real *v
    const real *g
    int64_t n
    double rate, fresh_rate, beta1, beta2, eps, weight_decay, shrink


cdef void nadam_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const NAdamStep *a = <const NAdamStep *>args
    cdef real rate = <real>a.rate, fresh_rate = <real>a.fresh_rate, eps = <real>a.eps
    cdef real fresh1 = <real>(1 - a.beta1), fresh2 = <real>(1 - a.beta2)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, m, v
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        m = averaged(a.m[i], fresh1, d)
        v = averaged(a.v[i], fresh2, d * d)
        a.m[i] = m
        a.v[i] = v
        a.p[i] = (a.p[i] - multiply_add(rate, m, fresh_rate * d) / (sqrt(v) + eps)) - shrink * a.p[i]

register("nadam_step", nadam_step, sizeof(NAdamStep))


cdef struct LionStep:
    real *p
    real *m
    const real *g
    int64_t n
    double lr, beta1, beta2, weight_decay, shrink


cdef void lion_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LionStep *a = <const LionStep *>args
    cdef real lr = <real>a.lr, fresh1 = <real>(1 - a.beta1), fresh2 = <real>(1 - a.beta2)
    cdef real weight_decay = <real>a.weight_decay, shrink = <real>a.shrink
    cdef real d, c
    cdef int64_t i
    for i in range(begin, end):
        d = decayed(a.g[i], weight_decay, a.p[i])
        c = averaged(a.m[i], fresh1, d)
        c = lr if c > 0 else (-lr if c < 0 else c)
        a.m[i] = averaged(a.m[i], fresh2, d)
        a.p[i] = (a.p[i] - c) - shrink * a.p[i]

register("lion_step", lion_step, sizeof(LionStep))
