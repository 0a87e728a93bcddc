# Fast paths of evaluation and of gradients: they change no parameters. See fast.pxi.

# Calls of more floating-point operations are not made at once in native code, since that does not look at signals.
cpdef enum:
    LONG_WORK = 500_000_000


cdef object new_array(int64_t rows, const RowLayout *layout):
    """A new array of this many rows."""
    cdef cnp.npy_intp shape[MAX_RANK]
    cdef int i
    shape[0] = rows
    for i in range(layout.rank):
        shape[i + 1] = layout.shape[i]
    return cnp.PyArray_EMPTY(layout.rank + 1, shape, layout.type, 0)


cdef class FastPass:
    """Runs a pass of a plan per call, at little more than the cost of the arithmetic.

    It handles only calls that need no preparation: arrays that kernels can read in place. Otherwise, and if an input
    is not finite, its methods return None, and the caller runs the pass; so do `loss` and `loss_and_gradient` if the
    loss is not finite.
    """
    cdef Runner runner
    cdef UseLock lock
    cdef int use                        # a `Use`
    cdef Pass forward
    cdef InputSlots inputs
    cdef RowLayout x, out, weight
    cdef Targets y
    cdef int64_t capacity, result, at_weight
    cdef const int64_t[::1] minibatch   # slots for the number of the minibatch
    cdef int64_t[::1] recorded
    cdef object gradient, raise_fault, kept
    cdef list watched

    def __init__(self, runner, lock, use, *, stages, pace, inputs, capacity, x, y, classes, checks_y, weights, out,
                 minibatch, gradient, recorded, watched, raise_fault, kept):
        """use: what it makes of the network.
        inputs: the slots of the inputs in all stages.
        capacity: rows that a pass takes at most.
        x, y, weights: examples of the arrays, for shape and dtype.
        classes, checks_y: see `Targets`.
        out: the buffer that the pass leaves its result in.
        minibatch: addresses of the slots for the number of the minibatch.
        gradient: the network's gradient, flat.
        recorded: see `Executor.recorded`.
        watched: see `unchanged`.
        raise_fault(x, y): raises the exception of a user's function.
        kept: objects to keep alive."""
        self.runner, self.lock, self.use = runner, lock, use
        self.forward, self.inputs, self.capacity = pass_of(stages, pace, inputs), inputs, capacity
        self.x, self.y, self.out = layout_of(x), targets_of(y, classes, checks_y), layout_of(out)
        self.weight, self.at_weight = layout_of(weights), self.inputs.own_weight
        self.result, self.minibatch = address_of(out), minibatch
        self.gradient, self.recorded = gradient, recorded
        self.watched, self.raise_fault = watched, raise_fault
        self.kept = kept, stages, pace, out

    cdef bint is_current(self, int64_t rows):
        """Whether nothing has changed that a pass over this many rows depends on."""
        return rows * self.runner.work_of_row <= LONG_WORK and not (self.watched and not unchanged(self.watched))

    cdef inline bint takes_lock(self, int64_t rows):
        return not GIL_KEEPS_OUT or rows * self.runner.work_of_row > FREE_WORK

    cdef inline bint enter(self, int64_t rows) except -1:
        """Whether a pass over this many rows can be made. If so, other threads are kept out until `leave`, by the lock
        or by the GIL."""
        check_scratch()
        return self.lock.take_if_open() if self.takes_lock(rows) else self.lock.is_open()

    cdef inline void leave(self, int64_t rows):
        if self.takes_lock(rows):
            self.lock.release(False)

    cdef void set_minibatch(self, int64_t number):
        cdef double value = number
        cdef int64_t i
        for i in range(self.minibatch.shape[0]):
            (<double *><void *>self.minibatch[i])[0] = value

    cdef int64_t run(self, const Pass *p, int64_t rows, int64_t x, int64_t y) noexcept nogil:
        """Runs a pass; returns the status."""
        cdef Engine *e = &self.runner.engine
        begin_pass(e, p)
        set_inputs(e, rows, x, y, 0, self.at_weight, 0)
        e.max_abs_limit = DBL_MAX
        run_steps(e, self.runner.threads(rows))
        return e.status

    cdef double run_blocks(self, int64_t rows, int64_t x, int64_t y, int64_t out) noexcept nogil:
        """Runs the pass on all rows, `capacity` at a time, and copies its results to `out` unless that is 0; returns
        the mean loss. It stops at the first block that fails a check."""
        cdef Engine *e = &self.runner.engine
        cdef int64_t first = 0, n, at_y
        cdef double total = 0
        while first < rows:
            n = min(self.capacity, rows - first)
            at_y = y + first * self.y.layout.bytes if y else 0
            if self.run(&self.forward, n, x + first * self.x.bytes, at_y) != DONE:
                return 0
            if out:
                memcpy(<void *>(out + first * self.out.bytes), <void *>self.result, n * self.out.bytes)
            if y:
                total += e.total[0][0] * n
            first += n
        return total / rows

    cdef double call(self, int64_t rows, int64_t x, int64_t y, int64_t out):
        """`run_blocks`, without the GIL if that takes long. For a caller that has entered."""
        cdef double loss
        if rows * self.runner.work_of_row <= FREE_WORK:
            return self.run_blocks(rows, x, y, out)
        with nogil:
            steps_begin()
            loss = self.run_blocks(rows, x, y, out)
            steps_end()
        return loss

    cdef bint is_done(self, int64_t status, object x, object y) except -1:
        """Whether a pass ended well; raises the exception of a user's function in it."""
        if status == FAULT:
            self.raise_fault(x, y)
        return status == DONE

    cdef object result_array(self, int64_t rows, object out):
        """`out`, or a new array if that is None; None if `out` cannot hold the result of these rows."""
        if out is None:
            return new_array(rows, &self.out)
        return out if count_rows(out, &self.out) == rows and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) else None

    def outputs(self, x, out):
        """The results of the pass for rows x, in `out` or a new array."""
        cdef int64_t rows = count_rows(x, &self.x), status
        if rows == 0 or not self.is_current(rows):
            return None
        result = self.result_array(rows, out)
        if result is None:
            return None
        if out is not None and rows > self.capacity:    # a later block may fail when the first is done
            result = new_array(rows, &self.out)
        if not self.enter(rows):
            return None
        self.call(rows, address_of(x), 0, address_of(result))
        status = self.runner.engine.status
        self.leave(rows)
        if not self.is_done(status, x, None):
            return None
        if out is not None and result is not out:
            memcpy(cnp.PyArray_DATA(<cnp.ndarray>out), cnp.PyArray_DATA(<cnp.ndarray>result), rows * self.out.bytes)
        return result if out is None else out

    cdef bint fits(self, x, y, weight):
        """Whether kernels can read rows x with targets y, and factors of their losses or None, in place."""
        cdef int64_t rows = count_rows(x, &self.x)
        if rows == 0 or not are_targets(y, rows, &self.y):
            return False
        return weight is None or (rows <= self.capacity and count_rows(weight, &self.weight) == rows)

    cdef double call_weighted(self, object x, object y, object weight):
        cdef double loss
        if weight is not None:
            self.at_weight = address_of(weight)
        loss = self.call(cnp.PyArray_DIM(<cnp.ndarray>x, 0), address_of(x), address_of(y), 0)
        self.at_weight = self.inputs.own_weight
        return loss

    def loss(self, x, y, weight):
        """The mean loss of rows x with targets y. weight: the factor of each loss, and 1 / (number of losses), or None
        for the latter alone."""
        cdef int64_t rows, status
        cdef double loss
        if not self.fits(x, y, weight):
            return None
        rows = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
        if not self.is_current(rows) or not self.enter(rows):
            return None
        loss = self.call_weighted(x, y, weight)
        status = self.runner.engine.status
        self.leave(rows)
        return loss if self.is_done(status, x, y) and isfinite(loss) else None

    def evaluate(self, x, y, out):
        """`loss`, for a caller that has the lock. The outputs are left in `out`, unless that is None."""
        cdef int64_t rows = count_rows(x, &self.x)
        cdef int64_t at_x, at_y, at_out = 0 if out is None else address_of(out)
        cdef double loss
        if rows == 0 or not are_targets(y, rows, &self.y) or not self.is_current(rows):
            return None
        at_x, at_y = address_of(x), address_of(y)
        check_scratch()
        with nogil:
            steps_begin()
            loss = self.run_blocks(rows, at_x, at_y, at_out)
            steps_end()
        return loss if self.is_done(self.runner.engine.status, x, y) else None

    def loss_and_gradient(self, x, y, int64_t minibatch, weight):
        """`loss`, and a copy of its gradient, which the pass leaves in the network."""
        if not self.fits(x, y, weight):
            return None
        cdef int64_t rows = cnp.PyArray_DIM(<cnp.ndarray>x, 0), status
        cdef object result = None
        if rows > self.capacity or not self.is_current(rows) or not self.enter(rows):
            return None
        try:
            self.set_minibatch(minibatch)
            self.recorded[0] = 0
            self.call_weighted(x, y, weight)
            status = self.runner.engine.status
            if status == DONE:
                gradient = cnp.PyArray_NewCopy(<cnp.ndarray>self.gradient, cnp.NPY_CORDER)
                result = self.runner.engine.total[0][0], gradient
        finally:
            self.leave(rows)
        self.is_done(status, x, y)
        return result


cdef class FastRecord(FastPass):
    """A forward pass that keeps what the backward pass needs, and that backward pass, for a gradient of the outputs
    that the caller computes.

    pass_number: of the forward pass whose values it holds; see `Executor.recorded`.
    """
    cdef Pass backward_pass, backward_pass_to_input
    cdef int64_t at_x, at_dy, at_dx
    cdef object own_x, raise_backward_fault
    cdef public int64_t pass_number
    cdef const int64_t[::1] minibatches

    def prepare_backward(self, *, stages, stages_to_input, pace, pace_to_input, x, dy, dx, minibatches, raise_fault):
        """stages, stages_to_input: of the backward pass, without and with the gradient of the input.
        x, dy, dx: the buffers of the input, of the gradient of the outputs, and of the gradient of the input.
        minibatches: the network's minibatches.
        raise_fault(x, y, dy): raises the exception of a user's function."""
        self.backward_pass = pass_of(stages, pace, self.inputs)
        self.backward_pass_to_input = pass_of(stages_to_input, pace_to_input, self.inputs)
        self.at_x, self.at_dy, self.at_dx = address_of(x), address_of(dy), address_of(dx)
        self.minibatches, self.raise_backward_fault = minibatches, raise_fault
        self.kept = self.kept, stages, stages_to_input, pace, pace_to_input, x, dy, dx
        self.own_x = x

    def record(self, x, out, int64_t minibatch):
        """`outputs`, in the minibatch of this number, or the next one for -1; `backward` may follow."""
        cdef int64_t rows = count_rows(x, &self.x), status
        if not 1 <= rows <= self.capacity or not self.is_current(rows):
            return None
        out = self.result_array(rows, out)
        if out is None or not self.enter(rows):
            return None
        self.recorded[0] = 0
        memcpy(<void *>self.at_x, <void *>address_of(x), rows * self.x.bytes)   # the caller may change x
        self.set_minibatch(self.minibatches[0] if minibatch < 0 else minibatch)
        self.call(rows, self.at_x, 0, address_of(out))
        status = self.runner.engine.status
        if status == DONE:
            self.recorded[0], self.recorded[1] = rows, self.minibatches[0]
            self.recorded[2] += 1
            self.pass_number = self.recorded[2]
        self.leave(rows)
        return out if self.is_done(status, x, None) else None

    cdef inline bint is_recorded(self, int64_t rows):
        """Whether the last forward pass was over so many rows, and nothing has changed since."""
        if self.pass_number != self.recorded[2] or self.recorded[1] != self.minibatches[0]:
            return False
        return self.recorded[0] == rows

    cdef void run_backward(self, const Pass *p, int64_t rows, const void *dy) noexcept nogil:
        memcpy(<void *>self.at_dy, dy, rows * self.out.bytes)       # the backward pass overwrites it
        self.run(p, rows, self.at_x, 0)

    def backward(self, dy, bint to_input):
        """Writes the gradient of sum(dy outputs) with respect to the parameters to the network's gradient; returns the
        gradient of the input, or True if `to_input` is false."""
        cdef const Pass *p = &self.backward_pass_to_input if to_input else &self.backward_pass
        cdef const void *at = NULL
        cdef int64_t rows = self.recorded[0], status
        if not 1 <= rows <= self.capacity or count_rows(dy, &self.out) != rows:
            return None
        if not self.is_current(rows) or not is_finite(dy):
            return None
        dx = new_array(rows, &self.x) if to_input else True
        if not self.enter(rows):
            return None
        if not self.is_recorded(rows):
            self.leave(rows)
            return None
        at = cnp.PyArray_DATA(<cnp.ndarray>dy)
        if rows * self.runner.work_of_row <= FREE_WORK:
            self.run_backward(p, rows, at)
        else:
            with nogil:
                steps_begin()
                self.run_backward(p, rows, at)
                steps_end()
        status = self.runner.engine.status
        if to_input and status != FAULT:
            memcpy(cnp.PyArray_DATA(<cnp.ndarray>dx), <void *>self.at_dx, rows * self.x.bytes)
        self.leave(rows)
        if status == FAULT:
            self.raise_backward_fault(self.own_x[:rows], None, dy)
        return dx
