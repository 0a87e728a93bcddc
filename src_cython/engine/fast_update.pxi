# Fast updates of lists of arrays, without a network. `<cnp.ndarray>` casts without a test, as in fast.pxi.

cdef class FastUpdate:
    """Makes an optimizer's update of a list of arrays, at little more than the cost of the arithmetic.

    It handles only calls that need no preparation: numpy arrays; parameters at the same addresses as when this was
    made; gradients of the same shapes; and a step whose per-step values were prefetched. Otherwise it returns False
    with nothing changed, and the caller makes the update.
    """
    cdef Runner runner
    cdef object num_threads, backend, kept, held
    cdef Pass update
    cdef const int64_t[:, ::1] per_step, slots
    cdef int64_t[::1] counter, p_data, g_data, types, ranks, starts, ends
    cdef const int64_t[:, ::1] shapes
    cdef int64_t n, next, count, begin, changes, elements
    cdef int threads
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
        pace = np.zeros(2)
        self.runner, self.lock, self.slots, self.kept = runner, lock, slots, (kept, stages, pace)
        self.update = pass_of(stages, pace, None)
        self.counter, self.num_threads, self.backend = counter, num_threads, backend
        self.next = self.count = 0
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
        cdef bint failed = True
        if num_threads is not self.num_threads or backend is not self.backend:
            return False
        if self.watched and not unchanged(self.watched):
            return False
        if GIL_KEEPS_OUT and self.elements <= FREE_ELEMENTS:
            return self.lock.is_open() and self.run(params, grads)
        if not self.lock.take_if_open():
            return False
        try:
            done = self.run(params, grads)
            failed = False
        finally:
            self.lock.release(failed)
        return done

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
        if self.update.n_stages == 0:       # nothing to update
            self.counter[0] += 1
            self.next += 1
            return True
        begin_pass(e, &self.update)
        e.n_per_step = self.per_step.shape[0]
        if e.n_per_step:
            e.per_step = <const PerStep *>&self.per_step[0, 0]
        e.counter, e.step, e.end = &self.counter[0], self.next, self.next + 1
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
    cdef FastUpdate fast

    @cython.critical_section
    cdef FastUpdate present_fast(self):
        """`fast`, which another thread may replace at any moment."""
        return self.fast

    @property
    def _fast(self):
        return self.present_fast()

    @_fast.setter
    @cython.critical_section
    def _fast(self, FastUpdate fast):
        self.fast = fast

    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def step(self, params=None, grads=None, *, num_threads=None, backend="auto"):
        """Updates params in place from grads, or the parameters of a network from its gradient, in one native call.

        params, grads: an array and its gradient, or lists of arrays and gradients with equal shapes: C-contiguous,
            float32 or float64. Objects that share their memory through DLPack or the buffer protocol work too, such as
            torch CPU tensors (whether they require a gradient or not) and array.array. Immutable ones, such as JAX
            arrays, may only be gradients. torch's autograd is notified of the change: as after a step of torch.optim,
            going backward through a graph that has saved a parameter raises a RuntimeError. Or params is a
            `fastgd.Network`, without grads: a training step with the gradient that `backward` or `loss_and_gradient`
            has left in it. It counts as one of the network's minibatches.
        num_threads: as in `Network`. Small updates use one thread. The result does not depend on the number of threads,
            nor on how the parameters are split into arrays, except for 8-bit state, whose blocks begin with each array,
            and the last digit of the norm that clip_norm uses. None for a network, which has its own.
        backend: "auto", "cython", "numba" or "numpy"; "auto" for a network, which has its own.

        Raises TypeError or ValueError that names the argument, and DivergenceError if the gradient of a network is not
        finite; then nothing has changed.
        """
        cdef FastUpdate fast
        if grads is None:
            self._step_network(params, num_threads, backend)
            return
        fast = self.present_fast()
        if fast is None or not fast.step(params, grads, num_threads, backend):
            self._prepared_step(params, grads, num_threads, backend)
