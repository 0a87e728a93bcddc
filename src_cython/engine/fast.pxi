# Fast paths from Python into a pass, which cost little more than the arithmetic. `<cnp.ndarray>` casts without a test:
# all arrays have passed PyArray_CheckExact.
#
# Where the GIL keeps other threads out, short calls only look whether the locks are free. Long ones, and all calls in
# free-threaded CPython, take the locks before they read what other calls change, until they have copied their results.

cdef enum:
    MAX_RANK = 64           # axes of an array

cdef struct RowLayout:              # the dtype of an array, and the shape of its rows
    int type, rank
    bint may_lack_last              # whether the last axis may be missing, since it has one element
    int64_t shape[MAX_RANK]
    int64_t bytes                   # of a row

cdef struct Targets:
    RowLayout layout
    int64_t classes                 # of labels; 0 for values
    bint is_checked                 # whether they are checked here: kernels of the package give NaN for bad ones

cdef struct Pass:
    const Stage *stages
    int64_t n_stages
    double *pace                    # see `Runner.run`
    const InputSlotLists *inputs    # the slots of its inputs, or NULL


cdef RowLayout layout_of(array, bint may_lack_last=False):
    """The layout of rows like those of an array. may_lack_last: whether a last axis of one element may be missing."""
    cdef RowLayout layout
    cdef int i
    layout.type, layout.rank = cnp.PyArray_TYPE(<cnp.ndarray>array), array.ndim - 1
    layout.bytes = array.itemsize
    for i in range(layout.rank):
        layout.shape[i] = array.shape[i + 1]
        layout.bytes *= layout.shape[i]
    layout.may_lack_last = may_lack_last and layout.rank > 0 and layout.shape[layout.rank - 1] == 1
    return layout


cdef inline bint is_plain(object array):
    """Whether it is an array, and no view of an array of a subclass: a numpy.memmap needs `check_mapping`."""
    cdef PyObject *base
    if not cnp.PyArray_CheckExact(array):
        return False
    base = cnp.PyArray_BASE(<cnp.ndarray>array)
    while base != NULL and cnp.PyArray_CheckExact(<object>base):
        base = cnp.PyArray_BASE(<cnp.ndarray><object>base)
    return base == NULL or not (cnp.PyArray_Check(<object>base) or hasattr(<object>base, "__array_interface__"))


cdef inline int64_t count_rows(object array, const RowLayout *layout):
    """The number of rows of an array that kernels can read in place; 0 if it is none, or has another layout."""
    cdef int i, rank
    if not is_plain(array) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array):
        return 0
    rank = cnp.PyArray_NDIM(<cnp.ndarray>array) - 1
    if cnp.PyArray_TYPE(<cnp.ndarray>array) != layout.type:
        return 0
    if rank != layout.rank and not (layout.may_lack_last and rank == layout.rank - 1):
        return 0
    for i in range(rank):
        if cnp.PyArray_DIM(<cnp.ndarray>array, i + 1) != layout.shape[i]:
            return 0
    return cnp.PyArray_DIM(<cnp.ndarray>array, 0)


cdef inline int64_t address_of(object array):
    return <int64_t>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef bint is_finite(object array):
    """Whether a contiguous float32 or float64 array has only finite elements."""
    cdef int64_t i, n = cnp.PyArray_SIZE(<cnp.ndarray>array)
    cdef const uint32_t *small = <const uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>array)
    cdef const uint64_t *large = <const uint64_t *>cnp.PyArray_DATA(<cnp.ndarray>array)
    cdef bint bad = False           # whether an exponent has only ones; such a loop vectorizes
    if cnp.PyArray_TYPE(<cnp.ndarray>array) == cnp.NPY_FLOAT32:
        for i in range(n):
            bad |= (small[i] & 0x7f800000) == 0x7f800000
    else:
        for i in range(n):
            bad |= (large[i] & <uint64_t>0x7ff0000000000000) == <uint64_t>0x7ff0000000000000
    return not bad


cdef bint are_labels(object array, int64_t classes):
    """Whether all elements of a contiguous int64 array are in [0, classes)."""
    cdef int64_t i, n = cnp.PyArray_SIZE(<cnp.ndarray>array)
    cdef const uint64_t *labels = <const uint64_t *>cnp.PyArray_DATA(<cnp.ndarray>array)
    cdef bint bad = False
    for i in range(n):
        bad |= labels[i] >= <uint64_t>classes
    return not bad


cdef Targets targets_of(y, int64_t classes, bint is_checked):
    """Targets like y; see the struct. Values may lack a last axis of one element."""
    return Targets(layout=layout_of(y, classes == 0), classes=classes, is_checked=is_checked)


cdef inline bint are_targets(object y, int64_t rows, const Targets *targets):
    """Whether y has targets for so many rows that kernels can read in place."""
    if count_rows(y, &targets.layout) != rows:
        return False
    if not targets.is_checked:
        return True
    return are_labels(y, targets.classes) if targets.classes else is_finite(y)


cdef Pass pass_of(const Stage[::1] stages, double[::1] pace, InputSlots inputs):
    """A pass; the caller keeps the arguments alive. inputs may be None."""
    cdef Pass p = Pass(stages=NULL, n_stages=stages.shape[0], pace=&pace[0], inputs=NULL)
    if inputs is not None:
        p.inputs = &inputs.to
    if p.n_stages:
        p.stages = &stages[0]
    return p


cdef inline void begin_pass(Engine *e, const Pass *p) noexcept nogil:
    """Makes the engine run a pass once, with nothing that a run of many steps has."""
    e.stages, e.n_stages, e.pace, e.inputs = p.stages, p.n_stages, p.pace, p.inputs
    e.per_step, e.n_per_step, e.first_value = NULL, 0, 0
    e.rows_of_step, e.n_epoch_ends, e.sums, e.next_clock_check = NULL, 0, NULL, -1
    e.counter = e.minibatches = NULL
    e.step, e.end, e.status = 0, 1, DONE
    clear_faults(e)


cdef class FastStep:
    """Makes one training step per call, at little more than the cost of the arithmetic.

    It handles only calls that need no preparation: arrays that kernels can read in place, with up to `capacity` rows;
    the optimizer it was made for; and a step whose per-step values were prefetched. Otherwise, and if a step fails a
    check, it returns None with nothing changed, and the caller makes the step.
    """
    cdef Runner runner
    cdef UseLock lock, optimizer_lock
    cdef object optimizer, kept
    cdef Pass step
    cdef const int64_t[:, ::1] per_step
    cdef RowLayout x, weight
    cdef Targets y
    cdef InputSlots inputs
    cdef const double[::1] limits
    cdef int64_t[::1] counter, minibatches
    cdef int64_t capacity, elements, count, begin, changes, trained
    cdef public double last_loss
    cdef list watched
    cdef object raise_fault

    def __init__(self, runner, lock, optimizer, *, stages, per_step, inputs, limits, begin, trained, counter,
                 minibatches, pace, capacity, x, y, classes, checks_y, weights, last_loss, elements, watched,
                 raise_fault, kept):
        """x, y: examples of the arrays, for shape and dtype.
        classes, checks_y: see `Targets`.
        inputs: the slots of the inputs in these stages.
        limits: largest magnitude allowed in the gradient, by step.
        begin, trained: minibatches of the optimizer and of the network before the first of these steps.
        counter: the optimizer's minibatches and changes.
        minibatches: the network's minibatches.
        pace: see `Runner.run`.
        last_loss: the loss of the step before.
        elements: number of parameters.
        watched: see `unchanged`.
        raise_fault(x, y): raises the exception of a user's function.
        kept: objects to keep alive."""
        self.watched, self.raise_fault = watched, raise_fault
        self.runner, self.lock, self.optimizer = runner, lock, optimizer
        self.optimizer_lock = optimizer.lock
        self.step, self.per_step, self.inputs = pass_of(stages, pace, inputs), per_step, inputs
        self.limits, self.counter = limits, counter
        self.minibatches, self.trained = minibatches, trained
        self.kept, self.capacity, self.elements = (kept, stages, pace), capacity, elements
        self.x, self.y, self.weight = layout_of(x), targets_of(y, classes, checks_y), layout_of(weights)
        self.count, self.begin, self.changes = len(limits), begin, counter[1]
        self.last_loss = last_loss

    cpdef bint is_prepared(self, object optimizer):
        """Whether the next step is prepared for this optimizer, and nothing it depends on has changed."""
        cdef int64_t next = self.counter[0] - self.begin
        if optimizer is not self.optimizer or self.counter[1] != self.changes or not 0 <= next < self.count:
            return False
        return self.minibatches[0] == self.trained + next and not (self.watched and not unchanged(self.watched))

    cdef inline bint enter(self, object optimizer, bint takes_locks) except -1:
        """Whether the next step can be made. If so, other threads are kept out, by the locks or by the GIL."""
        if takes_locks:
            return self.take_locks(optimizer)
        return self.lock.is_open() and self.optimizer_lock.is_open() and self.is_prepared(optimizer)

    cdef bint take_locks(self, object optimizer) except -1:
        """Takes the locks if the next step can be made; returns whether it did."""
        cdef bint ready = False
        if optimizer is not self.optimizer or not self.lock.take_if_open():
            return False
        if not self.optimizer_lock.take_if_open():
            self.lock.release(False)
            return False
        try:
            ready = self.is_prepared(optimizer)
        finally:
            if not ready:
                self.release_locks(False)
        return ready

    cdef void release_locks(self, bint failed):
        self.optimizer_lock.release(failed)
        self.lock.release(failed)

    cdef void set_step(self):
        """Makes the engine run the next step."""
        cdef Engine *e = &self.runner.engine
        begin_pass(e, &self.step)
        e.n_per_step = self.per_step.shape[0]
        if e.n_per_step:
            e.per_step = <const PerStep *>&self.per_step[0, 0]
        e.counter, e.minibatches = &self.counter[0], &self.minibatches[0]
        e.step = self.counter[0] - self.begin
        e.end = e.step + 1
        self.runner.uses += 1

    def __call__(self, x, y, optimizer):
        return self.make(x, y, optimizer, None)

    def weighted(self, x, y, optimizer, weight):
        """A step in which `weight` has the factor of each loss, and 1 / (number of losses)."""
        return self.make(x, y, optimizer, weight)

    cdef object make(self, x, y, optimizer, weight):
        cdef int64_t rows = count_rows(x, &self.x), at_weight = self.inputs.own_weight, status
        if not 1 <= rows <= self.capacity or not are_targets(y, rows, &self.y):
            return None
        if weight is not None:
            if count_rows(weight, &self.weight) != rows:
                return None
            at_weight = address_of(weight)
        check_scratch()
        cdef bint is_long = rows * self.runner.work_of_row > FREE_WORK
        cdef bint takes_locks = is_long or not GIL_KEEPS_OUT
        if not self.enter(optimizer, takes_locks):
            return None
        cdef Engine *e = &self.runner.engine
        cdef int64_t at_x = address_of(x), at_y = address_of(y)
        cdef double loss = 0
        self.set_step()
        if is_long:
            with nogil:
                steps_begin()
                set_inputs(e, rows, at_x, at_y, 0, at_weight, self.limits[e.step])
                begin_step(e)
                run_steps(e, self.runner.threads(rows))
                steps_end()
        else:
            set_inputs(e, rows, at_x, at_y, 0, at_weight, self.limits[e.step])
            begin_step(e)
            run_steps(e, 1)
        status = e.status
        if status == DONE:
            loss = self.last_loss = e.total[0][0]
        if takes_locks:
            self.release_locks(False)
        if status == FAULT:             # an update may have begun, so the step must not be repeated
            self.raise_fault(x, y)
        return loss if status == DONE else None

    def update(self, optimizer):
        """Makes the step if it is only an update from the network's gradient; returns whether it did."""
        cdef bint takes_locks = self.elements > FREE_ELEMENTS or not GIL_KEEPS_OUT, failed = True
        if not self.enter(optimizer, takes_locks):
            return False
        if not takes_locks:
            return self.run_update(optimizer)
        try:
            done = self.run_update(optimizer)
            failed = False
        finally:
            self.release_locks(failed)
        return done

    def run_update(self, optimizer):
        """`update` for a caller that has the locks."""
        if not self.is_prepared(optimizer):
            return False
        check_scratch()
        cdef Engine *e = &self.runner.engine
        self.set_step()
        if self.elements > FREE_ELEMENTS:
            with nogil:
                steps_begin()
                begin_step(e)
                run_steps(e, self.runner.threads_of_update(self.elements))
                steps_end()
        else:
            begin_step(e)
            run_steps(e, 1)
        if e.status == FAULT:
            self.raise_fault(None, None)
        if e.status != DONE:
            return False
        return True


def fast_average(UseLock lock, UseLock other_lock, CheckedCall kernel, cnp.ndarray p, cnp.ndarray q, double rate):
    """p <- p + rate (q - p) for small arrays, by the kernel `average_parameters`, or p <- q for rate = 1; returns
    whether it did. lock, other_lock: of the networks that p and q belong to."""
    if cnp.PyArray_SIZE(p) > FREE_ELEMENTS:
        return False
    if GIL_KEEPS_OUT:
        return lock.is_open() and other_lock.is_open() and move(kernel, p, q, rate)
    if not lock.take_if_open():
        return False
    try:
        if not other_lock.take_if_open():
            return False
        try:
            return move(kernel, p, q, rate)
        finally:
            other_lock.release(False)
    finally:
        lock.release(False)


cdef bint move(CheckedCall kernel, cnp.ndarray p, cnp.ndarray q, double rate) except -1:
    if rate == 1:
        memcpy(cnp.PyArray_DATA(p), cnp.PyArray_DATA(q), cnp.PyArray_NBYTES(p))
        return True
    return kernel.run((p, q, 1 - rate), True)
