# Fast paths from Python into a pass, which cost little more than the arithmetic. `<cnp.ndarray>` casts without a test:
# all arrays have passed PyArray_CheckExact.

cdef inline bint has_rows(object array, const int64_t *shape, int rank):
    """Whether each row of an array has this shape."""
    cdef int i
    if cnp.PyArray_NDIM(<cnp.ndarray>array) != rank + 1:
        return False
    for i in range(rank):
        if cnp.PyArray_DIM(<cnp.ndarray>array, i + 1) != shape[i]:
            return False
    return True


cdef class FastStep:
    """Makes one training step per call, at little more than the cost of the arithmetic.

    It handles only calls that need no preparation: arrays that kernels can read in place, with up to `capacity` rows;
    the optimizer it was made for; and a step whose per-step values were prefetched. Otherwise, and if a step fails a
    check, it returns None with nothing changed, and the caller makes the step.
    """
    cdef Runner runner
    cdef UseLock lock, optimizer_lock
    cdef object optimizer, kept
    cdef const Stage[::1] stages
    cdef const int64_t[:, ::1] per_step
    cdef const int64_t *x_shape         # of a row
    cdef const int64_t *y_shape
    cdef int x_rank, y_rank
    cdef InputSlots inputs
    cdef const double[::1] limits
    cdef int64_t[::1] counter, minibatches
    cdef double[::1] pace
    cdef int64_t capacity, next, count, begin, changes, trained
    cdef int x_type, y_type
    cdef readonly double last_loss
    cdef list watched
    cdef object raise_fault

    def __init__(self, runner, lock, optimizer, *, stages, per_step, inputs, limits, counter, minibatches, pace,
                 capacity, x, y, last_loss, watched, raise_fault, kept):
        """x, y: examples of the arrays, for shape and dtype.
        inputs: the slots of the inputs in these stages.
        limits: largest magnitude allowed in the gradient, by step.
        counter: the optimizer's minibatches and changes.
        minibatches: the network's minibatches.
        pace: see `Runner.run`.
        last_loss: the loss of the step before.
        watched: see `unchanged`.
        raise_fault(x, y): raises the exception of a user's function.
        kept: objects to keep alive."""
        self.watched, self.raise_fault = watched, raise_fault
        self.runner, self.lock, self.optimizer = runner, lock, optimizer
        self.optimizer_lock = optimizer.lock
        self.stages, self.per_step, self.inputs = stages, per_step, inputs
        self.limits, self.counter, self.pace = limits, counter, pace
        self.minibatches, self.trained = minibatches, minibatches[0]
        cdef const int64_t[::1] shapes = np.array([*x.shape[1:], *y.shape[1:], 0], np.int64)    # never empty
        self.kept, self.capacity = (kept, shapes), capacity
        self.x_rank, self.y_rank = x.ndim - 1, y.ndim - 1
        self.x_shape, self.y_shape = &shapes[0], &shapes[self.x_rank]
        self.x_type, self.y_type = cnp.PyArray_TYPE(<cnp.ndarray>x), cnp.PyArray_TYPE(<cnp.ndarray>y)
        self.next, self.count, self.begin, self.changes = 0, len(limits), counter[0], counter[1]
        self.last_loss = last_loss

    @property
    def is_used_up(self):
        """Whether all prefetched steps are done."""
        return self.next == self.count

    cdef bint fits(self, object x, object y, object optimizer):
        if optimizer is not self.optimizer or self.next == self.count:
            return False
        if not (self.lock.is_open() and self.optimizer_lock.is_open()):
            return False
        if self.counter[0] != self.begin + self.next or self.counter[1] != self.changes:
            return False
        if self.minibatches[0] != self.trained + self.next or (self.watched and not unchanged(self.watched)):
            return False
        if not (cnp.PyArray_CheckExact(x) and cnp.PyArray_CheckExact(y)):
            return False
        if not (cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>y)):
            return False
        if cnp.PyArray_TYPE(<cnp.ndarray>x) != self.x_type or cnp.PyArray_TYPE(<cnp.ndarray>y) != self.y_type:
            return False
        if cnp.PyArray_NDIM(<cnp.ndarray>x) == 0 or cnp.PyArray_NDIM(<cnp.ndarray>y) == 0:
            return False
        cdef int64_t rows = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
        if not 1 <= rows <= self.capacity or cnp.PyArray_DIM(<cnp.ndarray>y, 0) != rows:
            return False
        if not has_rows(x, self.x_shape, self.x_rank):
            return False
        # If there is one number per position, the last axis may be missing.
        return has_rows(y, self.y_shape, self.y_rank) or (
            self.y_rank > 0 and self.y_shape[self.y_rank - 1] == 1 and has_rows(y, self.y_shape, self.y_rank - 1)
        )

    def __call__(self, x, y, optimizer):
        if not self.fits(x, y, optimizer):
            return None
        check_scratch()
        cdef Engine *e = &self.runner.engine
        cdef int64_t rows = cnp.PyArray_DIM(<cnp.ndarray>x, 0), at_x = <int64_t>cnp.PyArray_DATA(<cnp.ndarray>x)
        cdef int64_t at_y = <int64_t>cnp.PyArray_DATA(<cnp.ndarray>y)
        e.inputs = &self.inputs.to
        e.stages, e.n_stages = &self.stages[0], self.stages.shape[0]
        e.per_step, e.n_per_step = NULL, self.per_step.shape[0]
        if e.n_per_step:
            e.per_step = <const PerStep *>&self.per_step[0, 0]
        e.rows_of_step, e.n_epoch_ends, e.sums, e.next_clock_check = NULL, 0, NULL, -1
        e.counter, e.minibatches, e.pace = &self.counter[0], &self.minibatches[0], &self.pace[0]
        e.step, e.end, e.status = self.next, self.next + 1, DONE
        clear_faults(e)
        if rows * self.runner.work_of_row > FREE_WORK:
            self.lock.take(TRAIN)
            self.optimizer_lock.take(TRAIN)
            with nogil:
                steps_begin()
                set_inputs(e, rows, at_x, at_y, 0, 0, self.limits[self.next])
                begin_step(e)
                run_steps(e, self.runner.threads(rows))
                steps_end()
            self.optimizer_lock.release(False)
            self.lock.release(False)
        else:       # the GIL keeps other threads out
            set_inputs(e, rows, at_x, at_y, 0, 0, self.limits[self.next])
            begin_step(e)
            run_steps(e, 1)
        if e.status == FAULT:           # an update may have begun, so the step must not be repeated
            self.raise_fault(x, y)
        if e.status != DONE:
            return None
        self.next += 1
        self.last_loss = e.total[0][0]
        return self.last_loss


cdef class FastUpdate:
    """Makes an optimizer's update of a list of arrays, at little more than the cost of the arithmetic.

    It handles only calls that need no preparation: numpy arrays; parameters at the same addresses as when this was
    made; gradients of the same shapes; and a step whose per-step values were prefetched. Otherwise it returns False
    with nothing changed, and the caller makes the update.
    """
    cdef Runner runner
    cdef object num_threads, backend, kept, held
    cdef const Stage[::1] stages
    cdef const int64_t[:, ::1] per_step, slots
    cdef int64_t[::1] counter, p_data, g_data, types, ranks, starts, ends
    cdef const int64_t[:, ::1] shapes
    cdef int64_t n, next, count, begin, changes, elements
    cdef int threads
    cdef double[2] pace
    cdef UseLock lock
    cdef list watched
    cdef object raise_fault

    def __init__(self, runner, lock, parameters, *, stages, counter, slots, threads, elements, num_threads, backend,
                 watched, raise_fault, kept):
        """slots: rows (address of a slot for the address of a gradient, index of the gradient, byte offset).
        watched: see `unchanged`.
        raise_fault(gradients): raises the exception of a user's rule.
        kept: objects to keep alive."""
        self.watched, self.raise_fault = watched, raise_fault
        self.runner, self.lock, self.stages, self.slots, self.kept = runner, lock, stages, slots, kept
        self.counter, self.num_threads, self.backend = counter, num_threads, backend
        self.next = self.count = 0
        self.pace[0] = self.pace[1] = 0
        self.threads, self.elements, self.n = threads, elements, len(parameters)
        self.ranks = np.array([p.ndim for p in parameters], np.int64)
        shapes = np.zeros((len(parameters), max([p.ndim for p in parameters] + [1])), np.int64)
        for row, p in zip(shapes, parameters):
            row[:p.ndim] = p.shape
        self.shapes = shapes
        self.types = np.array([p.dtype.num for p in parameters], np.int64)
        self.p_data = np.array([p.ctypes.data for p in parameters], np.int64)
        self.g_data = np.zeros(len(parameters), np.int64)
        spans = np.array(sorted((p.ctypes.data, p.ctypes.data + p.nbytes) for p in parameters if p.size), np.int64)
        self.starts, self.ends = spans.reshape(-1, 2).T.copy()

    def prefetch_values(self, const int64_t[:, ::1] per_step, int64_t count, held):
        """Sets the values of the next `count` steps: one row per `PerStep`. held: the object that owns the values."""
        self.per_step, self.held = per_step, held
        self.next, self.count, self.begin, self.changes = 0, count, self.counter[0], self.counter[1]

    @property
    def is_used_up(self):
        """Whether all prefetched steps are done."""
        return self.next == self.count

    cdef bint is_apart(self, int64_t begin, int64_t end):
        """Whether the memory [begin, end) does not overlap the parameters."""
        cdef int64_t low = 0, high = self.starts.shape[0], middle
        while low < high:       # the first span that begins at `end` or later
            middle = (low + high) // 2
            if self.starts[middle] < end:
                low = middle + 1
            else:
                high = middle
        return low == 0 or self.ends[low - 1] <= begin

    cdef bint fits(self, int64_t i, object p, object g):
        cdef int64_t elements = 1, size, address
        cdef int j
        if not (cnp.PyArray_CheckExact(p) and cnp.PyArray_CheckExact(g)):
            return False
        if not (cnp.PyArray_ISCARRAY(<cnp.ndarray>p) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>g)):
            return False
        if cnp.PyArray_TYPE(<cnp.ndarray>p) != self.types[i] or cnp.PyArray_TYPE(<cnp.ndarray>g) != self.types[i]:
            return False
        if <int64_t>cnp.PyArray_DATA(<cnp.ndarray>p) != self.p_data[i]:
            return False
        if cnp.PyArray_NDIM(<cnp.ndarray>p) != self.ranks[i] or cnp.PyArray_NDIM(<cnp.ndarray>g) != self.ranks[i]:
            return False
        for j in range(self.ranks[i]):
            size = self.shapes[i, j]
            if cnp.PyArray_DIM(<cnp.ndarray>p, j) != size or cnp.PyArray_DIM(<cnp.ndarray>g, j) != size:
                return False
            elements *= size
        address = <int64_t>cnp.PyArray_DATA(<cnp.ndarray>g)
        if address != self.g_data[i]:
            if not self.is_apart(address, address + elements * cnp.PyArray_ITEMSIZE(<cnp.ndarray>g)):
                return False
            self.g_data[i] = address
        return True

    cdef bint all_fit(self, object params, object grads):
        cdef int64_t i
        if cnp.PyArray_Check(params) or cnp.PyArray_Check(grads):
            return self.n == 1 and self.fits(0, params, grads)
        if not isinstance(params, (list, tuple)) or not isinstance(grads, (list, tuple)):
            return False
        if len(params) != self.n or len(grads) != self.n:
            return False
        for i in range(self.n):
            if not self.fits(i, params[i], grads[i]):
                return False
        return True

    cdef bint step(self, object params, object grads, object num_threads, object backend) except -1:
        """Makes the update and returns True, or returns False with nothing changed."""
        if not self.lock.is_open() or num_threads is not self.num_threads or backend is not self.backend:
            return False
        if self.watched and not unchanged(self.watched):
            return False
        if self.elements > FREE_ELEMENTS:
            with self.lock:
                return self.run(params, grads)
        return self.run(params, grads)      # the GIL keeps other threads out

    def run(self, params, grads):
        """`step` for a caller that has the lock, or has checked that it is free."""
        if self.next == self.count:
            return False
        if self.counter[0] != self.begin + self.next or self.counter[1] != self.changes:
            return False
        if not self.all_fit(params, grads):
            return False
        check_scratch()
        cdef Engine *e = &self.runner.engine
        cdef int64_t i
        for i in range(self.slots.shape[0]):
            (<int64_t *>self.slots[i, 0])[0] = self.g_data[self.slots[i, 1]] + self.slots[i, 2]
        if self.stages.shape[0] == 0:       # nothing to update
            self.counter[0] += 1
            self.next += 1
            return True
        e.stages, e.n_stages = &self.stages[0], self.stages.shape[0]
        e.per_step, e.n_per_step = NULL, self.per_step.shape[0]
        if e.n_per_step:
            e.per_step = <const PerStep *>&self.per_step[0, 0]
        e.rows_of_step, e.n_epoch_ends, e.counter, e.next_clock_check = NULL, 0, &self.counter[0], -1
        e.step, e.end, e.status, e.pace = self.next, self.next + 1, DONE, &self.pace[0]
        clear_faults(e)
        if self.elements > FREE_ELEMENTS:
            with nogil:
                steps_begin()
                begin_step(e)
                run_steps(e, self.threads)
                steps_end()
        else:
            begin_step(e)
            run_steps(e, 1)
        if e.status == FAULT:
            self.raise_fault(grads if isinstance(grads, (list, tuple)) else [grads])
        self.next += 1
        return True


@cython.auto_pickle(False)
cdef class Stepper:
    """Base class with the `step` of every optimizer: the fast path, with `_prepared_step` of the subclass for all other
    calls."""
    cdef public FastUpdate _fast

    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def step(self, params, grads, *, num_threads=None, backend="auto"):
        """Updates params in place from grads, in one native call.

        params, grads: an array and its gradient, or lists of arrays and gradients with equal shapes: C-contiguous,
            float32 or float64. Objects that share their memory through DLPack or the buffer protocol work too, such as
            torch CPU tensors (whether they require a gradient or not) and array.array. Immutable ones, such as JAX
            arrays, may only be gradients. torch's autograd is notified of the change: as after a step of torch.optim,
            going backward through a graph that has saved a parameter raises a RuntimeError.
        num_threads: as in `Network`. Small updates use one thread. The result does not depend on the number of threads,
            nor on how the parameters are split into arrays, except for 8-bit state, whose blocks begin with each array,
            and the last digit of the norm that clip_norm uses.
        backend: "auto", "cython", "numba" or "numpy".

        Raises TypeError or ValueError that names the argument; then nothing has changed.
        """
        if self._fast is None or not self._fast.step(params, grads, num_threads, backend):
            self._prepared_step(params, grads, num_threads, backend)
