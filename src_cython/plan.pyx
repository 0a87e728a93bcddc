# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The native runner: runs a list of compiled kernels, from Cython or Numba, step after step.

A compiled kernel is `void kernel(const void *args, int64_t begin, int64_t end)`: `args` is its record (pointers,
sizes, scalars; eight bytes each), `[begin, end)` its share of the work. A pass is a list of stages. In each stage the
threads of a team share the work of the operations and then wait at a barrier. The last thread to arrive runs the
closing operations alone (sums, checks) and decides whether the run continues.

Over 400 lines, since the module also has the native code that is not a kernel: shuffling, reading rows of files, locks.
"""
from cpython.ref cimport PyObject
from libc.float cimport DBL_MAX
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

import os
from io import FileIO
from threading import Lock
from time import sleep

import numpy as np

cimport cython
cimport numpy as cnp

cnp.import_array()

cdef extern from "core/clock.h" nogil:
    double seconds_now()

cdef extern from "core/random.h" nogil:
    const uint64_t GOLDEN_64
    uint64_t mixed(uint64_t z)

cdef extern from "engine/files.h" nogil:
    int read_at(int file, void *out, int64_t size, int64_t offset)

cdef extern from "core/scratch.h" nogil:
    enum: SCRATCH_BYTES

cdef extern from "engine/forks.h":
    uint64_t fork_count, forking_thread
    uint64_t this_thread()
    void watch_forks()
    void fork_begins() nogil
    void fork_ends() nogil
    void steps_begin() nogil
    void step_done() nogil
    void steps_end() nogil

cdef extern from "engine/shares.h" nogil:
    int number_of_shares()
    double share_end(int thread)
    void adapt_shares(double *end, const int64_t *taken, int threads)

cdef extern from "engine/pool.h" nogil:
    ctypedef void (*team_work)(void *context, int thread, int threads) noexcept nogil
    void pool_initialize()
    int last_to_arrive(int thread, int threads)
    void release(int threads)
    bint should_regroup(double *pace, double rows, int threads, bint step_is_done)
    void team_run(team_work work, void *context, int threads, int *is_watched)
    char *scratch_of_thread()
    bint make_scratch()
    int limit_of_pool "thread_limit"()
    void set_fixed "fix_threads"(bint is_fixed)
    uint64_t flush_subnormals()
    void restore_subnormals(uint64_t before)

pool_initialize()
cdef bint threads_are_fixed = False
# Address of the function that gives a kernel the scratch memory of its thread.
scratch_address = <uintptr_t>&scratch_of_thread


cdef int check_scratch() except -1:
    """Makes sure that the calling thread has scratch memory for kernels."""
    if not make_scratch():
        raise MemoryError(f"kernels need {SCRATCH_BYTES} bytes of memory for each thread that calls them")
    return 0

ctypedef void (*kernel_t)(const void *args, int64_t begin, int64_t end) noexcept nogil

# Flags of a stage: how its work is shared, and what is checked at its end.
cpdef enum:
    BY_ROWS = 1             # every thread takes blocks of rows through all operations
    FUSED = 2               # the follower of an operation runs on each block as soon as that is finished
    CHECK_LOSS = 4          # stop if the loss is not finite
    CHECK_MAX_ABS = 8       # stop if the largest magnitude in the minibatch exceeds its limit
    CHECK_GRADIENT = 16     # stop if elements of the gradient exceed their limit

# The shares of the threads begin at multiples of this many rows, or elements of flat arrays.
cpdef enum:
    GRAIN = 8

# Images that lie side by side in a block: see fastgd/engine/rows.py.
cpdef enum:
    IMAGES = 16

# Status: why a run stopped.
cpdef enum:
    DONE = 0
    BAD_LOSS = 1
    HIGH_MAX_ABS = 2
    BAD_GRADIENT = 3
    OUT_OF_TIME = 4
    ASKED_TO_STOP = 5
    FAULT = 6               # a user's function raised

# An update has at most one thread per this many parameters.
cpdef enum:
    THREAD_ELEMENTS = 65_536

cdef enum:
    FREE_WORK = 1_000_000   # a fast step of more floating-point operations releases the GIL
    THREAD_WORK = 1_500_000  # the team has at most one thread per this many floating-point operations
    FREE_ELEMENTS = 50_000  # a fast update of more parameters releases the GIL

cdef packed struct Operation:
    int64_t kernel, record          # addresses
    int64_t end                     # its work is [0, end); 0 in steps that skip it
    int64_t grain                   # shares of the work begin at multiples of this
    int64_t rows                    # address of the slot of its record for (rows of the minibatch) * positions, or 0
    int64_t blocks                  # ... for (blocks of IMAGES rows) * positions, or 0
    int64_t positions               # positions in a row, or in a block
    int64_t images                  # 1 if its work is the first product, IMAGES if it is the second, else 0
    int64_t follower                # index of the operation that reads its output block by block, or -1
    int64_t block, scale, offset    # block [b, e) is followed by the follower's [offset + scale b, offset + scale e)

cdef packed struct Stage:
    int64_t first, last             # operations [first, last), which the threads share
    int64_t closing, end            # operations [closing, end), which the last thread to arrive runs
    int64_t flags

# The fields of both structs in order, eight bytes each, for the arrays that Python fills.
OPERATION = np.dtype([(name, np.int64) for name in (
    "kernel", "record", "end", "grain", "rows", "blocks", "positions", "images", "follower", "block", "scale",
    "offset")])
STAGE = np.dtype([(name, np.int64) for name in ("first", "last", "closing", "end", "flags")])

cdef packed struct PerStep:         # before step s, *slot = values[s]; both are addresses
    int64_t slot, values

cdef struct Slots:                  # n addresses of slots
    const int64_t *first
    int64_t n

cdef struct InputSlotLists:         # the slots that receive the inputs of a step:
    Slots x, y, index, weight       # addresses of its rows, of their indices, and of the weights of its losses
    Slots mean_weight               # 1 / (number of losses)
    Slots data_x, data_y, data_rows     # addresses of the data that rows are gathered from, and the number of its rows
    double losses, terms            # losses per row; see `Plan`

cdef struct Source:                 # of an input: the address for a step is base + stride starts[step]
    int64_t base, stride            # base 0: the input stays as it is
    const int64_t *starts

cdef struct Engine:
    Operation *operations
    int64_t n_operations
    const Stage *stages
    int64_t n_stages
    const PerStep *per_step
    int64_t n_per_step
    const InputSlotLists *inputs
    int64_t first_value             # index of step 0 in the per-step values and limits
    const int64_t *rows_of_step     # NULL: all inputs stay as they are
    Source x, y, index, weight
    const double *limits            # by step: largest magnitude allowed in the gradient
    int64_t rows                    # of the minibatch
    int64_t row_block               # rows that a thread takes through a stage at a time
    int64_t row_grain               # a thread's share of the rows begins at a multiple of this
    double **total                  # the slot that holds the address of the loss
    const double *largest           # largest magnitude in the minibatch
    double max_abs_limit            # ... and its limit
    const int64_t *bad_gradients    # elements of the gradient that exceed the limit
    const int64_t *faults           # addresses of numbers that a kernel sets to 1 when it raises
    int64_t n_faults
    int64_t step, end
    int64_t *counter                # counts the optimizer's minibatches, or NULL
    int64_t *minibatches            # counts the network's minibatches, or NULL
    const int64_t *epoch_ends       # numbers of steps after which an epoch ends
    double *times                   # result: time at the end of each epoch
    double *losses                  # result: mean loss of the epoch's rows
    int64_t n_epoch_ends
    double *sums                    # sum of the rows' losses and number of rows in the current epoch, or NULL
    double deadline
    int64_t steps_per_clock_check
    int64_t next_clock_check        # the number of steps after which the clock is read next
    int64_t status
    double *pace                    # see `should_regroup`
    int is_watched                  # whether the size of the team may change
    bint regroup                    # whether the pool must form the team again


include "engine/chain.pxi"


cdef void set_rows(Engine *e, int64_t rows) noexcept nogil:
    """Sets the number of rows in every operation."""
    cdef int64_t i, blocks = (rows + IMAGES - 1) // IMAGES
    cdef Operation *o
    if rows == e.rows:
        return
    e.rows = rows
    for i in range(e.n_operations):
        o = &e.operations[i]
        if o.rows:
            (<int64_t *>o.rows)[0] = rows * o.positions
        if o.blocks:
            (<int64_t *>o.blocks)[0] = blocks * o.positions
        if o.images:
            o.end = (rows if o.images == 1 else blocks) * o.positions


cdef inline void put(const Slots *slots, int64_t value) noexcept nogil:
    cdef int64_t i
    for i in range(slots.n):
        (<int64_t *>slots.first[i])[0] = value


cdef void set_inputs(Engine *e, int64_t rows, int64_t x, int64_t y, int64_t index, int64_t weight,
                     double limit) noexcept nogil:
    """Sets the number of rows and the addresses of the inputs, where 0 leaves an input as it is. limit: of the
    magnitudes in the gradient."""
    cdef const InputSlotLists *to = e.inputs
    cdef double mean_weight = 1 / (rows * to.losses)
    set_rows(e, rows)
    put(&to.mean_weight, (<int64_t *>&mean_weight)[0])
    e.max_abs_limit = sqrt(limit / (rows * to.terms))
    if x:
        put(&to.x, x)
    if y:
        put(&to.y, y)
    if index:
        put(&to.index, index)
    if weight:
        put(&to.weight, weight)


cdef inline int64_t address_for(const Source *source, int64_t step) noexcept nogil:
    return source.base + source.stride * source.starts[step] if source.base else 0


cdef inline void call(const Operation *o, int64_t begin, int64_t end) noexcept nogil:
    (<kernel_t><void *>o.kernel)(<const void *>o.record, begin, end)


cdef void run_operations(Engine *e, int64_t first, int64_t last) noexcept nogil:
    """Runs operations one after the other on all of their work."""
    cdef int64_t i
    for i in range(first, last):
        if e.operations[i].end:
            call(&e.operations[i], 0, e.operations[i].end)


cdef inline void split_work(int64_t whole, int64_t grain, int thread, int threads,
                            int64_t *begin, int64_t *end) noexcept nogil:
    """[begin, end) <- the share of a thread in the work [0, whole)."""
    cdef int64_t grains
    if threads == 1:
        begin[0] = 0
        end[0] = whole
        return
    grains = (whole + grain - 1) // grain
    begin[0] = <int64_t>(grains * share_end(thread - 1) + 0.5) * grain
    end[0] = min(whole, <int64_t>(grains * share_end(thread) + 0.5) * grain)


cdef void run_rows(Engine *e, const Stage *stage, int thread, int threads) noexcept nogil:
    """Takes a thread's rows block by block through all operations of the stage, so that each operation finds the
    output of the one before in cache."""
    cdef int64_t begin, end, stop, i
    cdef const Operation *o
    split_work(e.rows, e.row_grain, thread, threads, &begin, &end)
    while begin < end:
        stop = min(begin + e.row_block, end)
        for i in range(stage.first, stage.last):
            o = &e.operations[i]
            if o.images == IMAGES:
                call(o, begin // IMAGES * o.positions, (stop + IMAGES - 1) // IMAGES * o.positions)
            else:
                call(o, begin * o.positions, stop * o.positions)
        begin = stop


cdef void run_positions(Engine *e, const Stage *stage, int thread, int threads) noexcept nogil:
    """Runs a thread's share of the positions in all rows, with a barrier between operations. For minibatches that have
    fewer rows than threads."""
    cdef int64_t begin, end, i
    for i in range(stage.first, stage.last):
        if i > stage.first and last_to_arrive(thread, threads):
            release(threads)
        split_work(e.operations[i].end, e.operations[i].grain, thread, threads, &begin, &end)
        if begin < end:
            call(&e.operations[i], begin, end)


cdef void run_block(Engine *e, int64_t i, int64_t begin, int64_t end) noexcept nogil:
    """Runs an operation on a block, then its follower on the corresponding block, and so on."""
    cdef const Operation *o
    while True:
        o = &e.operations[i]
        call(o, begin, end)
        if o.follower < 0 or not e.operations[o.follower].end:
            return
        begin = o.offset + o.scale * begin
        end = o.offset + o.scale * end
        i = o.follower


cdef void run_shares(Engine *e, const Stage *stage, int thread, int threads) noexcept nogil:
    """Runs a thread's share of each operation of the stage."""
    cdef int64_t begin, end, stop, i
    for i in range(stage.first, stage.last):
        split_work(e.operations[i].end, e.operations[i].grain, thread, threads, &begin, &end)
        if not stage.flags & FUSED or e.operations[i].follower < 0:
            if begin < end:
                call(&e.operations[i], begin, end)
            continue
        while begin < end:
            stop = min(begin + e.operations[i].block, end)
            run_block(e, i, begin, stop)
            begin = stop


cdef void begin_step(Engine *e) noexcept nogil:
    """Writes the per-step values and the inputs of this step to their slots."""
    cdef int64_t i, value = e.first_value + e.step
    for i in range(e.n_per_step):
        (<int64_t *>e.per_step[i].slot)[0] = (<const int64_t *>e.per_step[i].values)[value]
    if e.rows_of_step != NULL:
        set_inputs(e, e.rows_of_step[e.step], address_for(&e.x, e.step), address_for(&e.y, e.step),
                   address_for(&e.index, e.step), address_for(&e.weight, e.step), e.limits[value])


cdef void end_step(Engine *e) noexcept nogil:
    e.step += 1
    if e.counter != NULL:
        e.counter[0] += 1
    if e.minibatches != NULL:
        e.minibatches[0] += 1
    if e.sums != NULL:
        e.sums[0] += e.rows * e.total[0][0]
        e.sums[1] += e.rows
    if e.n_epoch_ends and e.epoch_ends[0] == e.step:
        e.times[0] = seconds_now()
        e.losses[0] = e.sums[0] / e.sums[1]
        e.sums[0] = e.sums[1] = 0
        e.epoch_ends += 1
        e.times += 1
        e.losses += 1
        e.n_epoch_ends -= 1
    if e.step == e.end:
        return
    step_done()
    if e.step == e.next_clock_check:
        e.next_clock_check += e.steps_per_clock_check
        if seconds_now() > e.deadline:
            e.status = OUT_OF_TIME
            return
    begin_step(e)


cdef void clear_faults(Engine *e) noexcept nogil:
    cdef int64_t i
    for i in range(e.n_faults):
        (<int64_t *>e.faults[i])[0] = 0


cdef void close_stage(Engine *e, const Stage *stage) noexcept nogil:
    cdef int64_t i
    for i in range(e.n_faults):         # before another operation uses the unfinished output
        if (<int64_t *>e.faults[i])[0]:
            e.status = FAULT
            return
    run_operations(e, stage.closing, stage.end)
    if stage.flags & CHECK_LOSS and not isfinite(e.total[0][0]):
        e.status = BAD_LOSS
    elif stage.flags & CHECK_MAX_ABS and not e.largest[0] <= e.max_abs_limit:
        e.status = HIGH_MAX_ABS
    elif stage.flags & CHECK_GRADIENT and e.bad_gradients[0] != 0:
        e.status = BAD_GRADIENT


cdef void run_passes(void *context, int thread, int threads) noexcept nogil:
    """One thread's part of a run. If the team must be formed again in the middle of a step, thread 0 finishes the step
    alone."""
    cdef Engine *e = <Engine *>context
    cdef const Stage *stage
    cdef int64_t s, rows
    cdef bint is_last
    while not e.regroup and e.step < e.end and e.status == DONE:
        rows = e.rows
        for s in range(e.n_stages):
            stage = &e.stages[s]
            if threads == 1 and e.rows <= e.row_block and not stage.flags & FUSED:
                run_operations(e, stage.first, stage.last)
            elif stage.flags & BY_ROWS and e.rows <= (threads - 1) * e.row_grain:
                run_positions(e, stage, thread, threads)
            elif stage.flags & BY_ROWS:
                run_rows(e, stage, thread, threads)
            else:
                run_shares(e, stage, thread, threads)
            if last_to_arrive(thread, threads):
                is_last = s == e.n_stages - 1
                close_stage(e, stage)
                if is_last and e.status == DONE:
                    end_step(e)
                if e.is_watched and not e.regroup:
                    e.regroup = should_regroup(e.pace, max(rows, 1), threads, is_last)
                release(threads)
            if e.regroup:       # checked before the status, which thread 0 may change once it continues alone
                if thread > 0:
                    return
                threads = 1
            if e.status != DONE:
                return


cdef void run_steps(Engine *e, int threads) noexcept nogil:
    """Runs steps with at most this many threads until the end, or until the status says to stop."""
    while e.step < e.end and e.status == DONE:
        e.regroup = False
        team_run(run_passes, e, threads, &e.is_watched)


@cython.final
cdef class InputSlots:
    """The slots for the inputs of a step in the operations of some stages.

    x, y, index, weight: addresses of the slots for the address of the rows, of their indices, and of the weights of the
        losses.
    mean_weight: addresses of the slots for 1 / (number of losses).
    data_x, data_y, data_rows: addresses of the slots for the addresses of the data, and for the number of its rows, in
        operations that gather.
    losses: losses per row.
    terms: see `Plan`.
    own: the plan's arrays for gathered rows of x and y, and for equal weights of the losses.
    """
    cdef InputSlotLists to
    cdef int64_t own_x, own_y, own_weight
    cdef tuple kept

    def __init__(self, *, const int64_t[::1] x, const int64_t[::1] y, const int64_t[::1] index,
                 const int64_t[::1] weight, const int64_t[::1] mean_weight, const int64_t[::1] data_x,
                 const int64_t[::1] data_y, const int64_t[::1] data_rows, double losses, double terms, tuple own):
        self.kept = (x, y, index, weight, mean_weight, data_x, data_y, data_rows, own)
        self.to.x, self.to.y, self.to.index = slots_of(x), slots_of(y), slots_of(index)
        self.to.weight, self.to.mean_weight = slots_of(weight), slots_of(mean_weight)
        self.to.data_x, self.to.data_y, self.to.data_rows = slots_of(data_x), slots_of(data_y), slots_of(data_rows)
        self.to.losses, self.to.terms = losses, terms
        self.own_x, self.own_y, self.own_weight = address_of(own[0]), address_of(own[1]), address_of(own[2])


cdef Slots slots_of(const int64_t[::1] addresses):
    cdef Slots slots
    slots.n = addresses.shape[0]
    slots.first = &addresses[0] if slots.n else NULL
    return slots


cdef Source source_of(array, starts):
    """The source of the rows of an array that begin at these indices."""
    cdef Source source
    source.base, source.stride = address_of(array), cnp.PyArray_STRIDE(<cnp.ndarray>array, 0)
    source.starts = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>starts)
    return source


@cython.final
cdef class Runner:
    """Runs passes over the operations of one plan.

    operations: array of `OPERATION`. The caller keeps it, the records, and everything they point to alive.
    faults: addresses of numbers (int64) that kernels set to 1 when they raise, which ends a run.
    total: address of the slot that holds the address of the loss (float64).
    largest, bad_gradients: addresses of the largest magnitude in the minibatch (float64), and of the number of elements
        of the gradient that exceed the limit (int64).
    row_block, row_grain: see `Engine`.
    """
    cdef Engine engine
    cdef object operations
    cdef const int64_t[::1] faults
    cdef readonly int64_t uses      # how often another call than `prepare` set what a run needs
    cdef double work_of_row
    cdef int max_threads
    cdef int64_t positions

    def __init__(self, Operation[::1] operations, const int64_t[::1] faults, *, uintptr_t total=0, uintptr_t largest=0,
                 uintptr_t bad_gradients=0, int64_t row_block=0, int64_t row_grain=1):
        memset(&self.engine, 0, sizeof(Engine))
        self.operations, self.faults = operations, faults
        self.engine.n_faults = faults.shape[0]
        if faults.shape[0]:
            self.engine.faults = &faults[0]
        if operations.shape[0]:
            self.engine.operations = &operations[0]
        self.engine.n_operations = operations.shape[0]
        self.engine.total = <double **>total
        self.engine.largest = <double *>largest
        self.engine.bad_gradients = <int64_t *>bad_gradients
        self.engine.row_block, self.engine.row_grain = row_block, row_grain

    def set_work(self, double work_of_row, int max_threads, int64_t positions):
        """Sets what `threads` depends on: floating-point operations per row (approximately), the most threads, and the
        positions in a row."""
        self.work_of_row, self.max_threads, self.positions = work_of_row, max_threads, positions

    cpdef int threads(self, int64_t rows) noexcept nogil:
        """How many threads this many rows are worth."""
        cdef int64_t most = min(<int64_t>self.max_threads, (rows * self.positions + GRAIN - 1) // GRAIN)
        if not threads_are_fixed:
            most = min(most, <int64_t>(rows * self.work_of_row / THREAD_WORK))
        return <int>max(1, most)

    cdef int threads_of_update(self, int64_t elements) noexcept nogil:
        """How many threads the update of this many parameters is worth."""
        return <int>max(1, min(<int64_t>self.max_threads, elements // THREAD_ELEMENTS))

    def set_inputs(self, InputSlots inputs, int64_t rows, uintptr_t x, uintptr_t y, uintptr_t weight):
        """Makes `run` use the inputs at these addresses; y = 0 leaves the targets as they are."""
        self.engine.inputs = &inputs.to
        set_inputs(&self.engine, rows, x, y, 0, weight, 0)
        self.engine.max_abs_limit = DBL_MAX

    def prepare(self, const Stage[::1] stages, InputSlots inputs, per_step, known, steps, int64_t epochs_done, counter,
                minibatches, double[::1] pace, int64_t steps_per_clock_check):
        """Prepares `train`. The caller keeps the arguments alive, and their arrays.

        inputs: the slots of the inputs in these stages.
        per_step: array with one row per `PerStep`.
        known, steps: the `StepValues` and the `Steps`.
        epochs_done: how many of the ends of epochs in `steps` are past.
        counter, minibatches: arrays that count the steps of the optimizer and the network.
        pace: see `run`.
        """
        cdef Engine *e = &self.engine
        cdef const InputSlotLists *to = &inputs.to
        cdef object x = steps.x, y = steps.y, starts = steps.starts, weights = steps.weights
        self.set_stages(stages)
        e.n_per_step, e.per_step = len(per_step), <const PerStep *>cnp.PyArray_DATA(<cnp.ndarray>per_step)
        e.inputs, e.first_value, e.limits = to, steps.first, <const double *>address_of(known.gradient_limits)
        e.rows_of_step, e.sums = <const int64_t *>address_of(steps.rows), <double *>address_of(steps.sums)
        e.index.base = e.x.base = e.y.base = e.weight.base = 0
        if steps.order is None:
            e.x, e.y = source_of(x, starts), source_of(y, starts)
        else:
            put(&to.x, inputs.own_x)
            put(&to.y, inputs.own_y)
            put(&to.data_x, address_of(x))
            put(&to.data_y, address_of(y))
            put(&to.data_rows, cnp.PyArray_DIM(<cnp.ndarray>x, 0))
            e.index = source_of(steps.order, starts)
        if weights is None:
            put(&to.weight, inputs.own_weight)
        else:
            e.weight = source_of(weights, steps.weight_starts)
        e.n_epoch_ends = len(steps.ends) - epochs_done
        e.epoch_ends = <const int64_t *>address_of(steps.ends) + epochs_done
        e.times, e.losses = <double *>address_of(steps.times), <double *>address_of(steps.losses)
        e.times += epochs_done
        e.losses += epochs_done
        e.counter, e.minibatches = <int64_t *>address_of(counter), <int64_t *>address_of(minibatches)
        e.steps_per_clock_check, e.pace = steps_per_clock_check, &pace[0]

    def train(self, int64_t first, const int64_t[::1] pauses, notify, int threads, double seconds):
        """Runs steps first ... pauses[-1]-1 without the GIL; returns (step, status). The call must continue where the
        last call stopped. After s steps, for each s in `pauses`, it calls notify(s) and stops if that returns true.
        seconds: it stops between two steps this long after the last pause."""
        cdef Engine *e = &self.engine
        cdef int64_t i = 0, last = pauses.shape[0] - 1
        while pauses[i] <= first and i < last:
            i += 1
        while True:
            self.start(0, first, pauses[i], threads, seconds)
            if e.status != DONE or i == last:
                return e.step, e.status
            first = pauses[i]
            if notify(first):
                return first, ASKED_TO_STOP
            i += 1

    def run(self, const Stage[::1] stages, int64_t rows, int threads, double[::1] pace):
        """Runs one pass on a minibatch of this many rows; returns the status. What `prepare` set stays as it was. pace:
        two numbers, initially 0, in which the pool keeps measurements of this pass; see team_size.h."""
        return self.repeat(stages, rows, threads, pace, 1, 0)[1]

    def repeat(self, const Stage[::1] stages, int64_t rows, int threads, double[::1] pace, int64_t passes,
               double seconds):
        """`run` for several passes, or until this many seconds have passed, if that is not 0; returns (number of
        passes, status)."""
        cdef Engine saved = self.engine
        cdef int64_t done, status
        self.set_stages(stages)
        self.engine.n_per_step, self.engine.n_epoch_ends, self.engine.first_value = 0, 0, 0
        self.engine.rows_of_step, self.engine.sums = NULL, NULL
        self.engine.counter, self.engine.minibatches = NULL, NULL
        self.engine.pace, self.engine.steps_per_clock_check = &pace[0], 1
        self.start(rows, 0, passes, threads, seconds)
        saved.rows, done, status = self.engine.rows, self.engine.step, self.engine.status
        self.engine = saved
        return done, status

    cdef int set_stages(self, const Stage[::1] stages) except -1:
        self.engine.stages, self.engine.n_stages = &stages[0], stages.shape[0]
        return 0

    cdef int start(self, int64_t rows, int64_t first, int64_t end, int threads, double seconds) except -1:
        cdef Engine *e = &self.engine
        check_scratch()
        e.step, e.end, e.status = first, end, DONE
        if first >= end:
            return 0
        e.next_clock_check = first + e.steps_per_clock_check if seconds > 0 else -1
        with nogil:
            steps_begin()
            e.deadline = seconds_now() + seconds
            clear_faults(e)
            if e.rows_of_step == NULL:
                set_rows(e, rows)
            begin_step(e)
            run_steps(e, threads)
            steps_end()
        return 0


def call_kernel(uintptr_t kernel, uintptr_t record, int64_t begin, int64_t end):
    """Runs one compiled kernel on a share of its work."""
    cdef kernel_t function = <kernel_t><void *>kernel
    cdef uint64_t before
    check_scratch()
    with nogil:
        before = flush_subnormals()
        function(<const void *>record, begin, end)
        restore_subnormals(before)


def fix_threads(bint is_fixed):
    """For tests: with True, teams have as many threads as are requested, and steps request as many as are allowed, even
    where fewer would be faster."""
    global threads_are_fixed
    threads_are_fixed = is_fixed
    set_fixed(is_fixed)


def shares_of_team():
    """Where the shares of the threads of the last team end, as fractions of the work; see shares.h."""
    return np.array([share_end(i) for i in range(number_of_shares())])


def adapted_shares(const double[::1] ends, const int64_t[::1] taken):
    """For tests: where the shares end that follow those that end here, after a stage in which the threads took this
    many nanoseconds."""
    cdef double[::1] end = np.array(ends)
    adapt_shares(&end[0], &taken[0], <int>taken.size)
    return np.asarray(end)


def thread_limit():
    """How many threads a team may have at the moment; a large number if there is no limit."""
    return limit_of_pool()


def is_in_memory(array):
    """Whether it is a numpy array that is no view of an array of a subclass, such as a numpy.memmap."""
    return is_plain(array)


def all_finite(array):
    """Whether a contiguous float32 or float64 array has only finite elements."""
    return is_finite(array)


def all_labels(array, int64_t classes):
    """Whether all elements of a contiguous int64 array are in [0, classes)."""
    return are_labels(array, classes)


def all_between(const double[::1] values, double low, double high):
    """Whether all numbers are in [low, high]."""
    cdef int64_t i
    cdef bint good = True
    for i in range(values.shape[0]):
        good &= low <= values[i] <= high
    return good


def divide_by_mean(double[::1] values):
    """Divides numbers >= 0 by their mean; returns whether that is above 0. The largest is divided out first, since
    their sum might overflow."""
    cdef double part[4]
    cdef double largest = 0, mean
    cdef int64_t i, n = values.shape[0]
    cdef int j
    for i in range(n):
        largest = max(largest, values[i])
    if largest == 0:
        return False
    for j in range(4):
        part[j] = 0
    for i in range(n):
        values[i] /= largest
        part[i % 4] += values[i]
    mean = ((part[0] + part[1]) + (part[2] + part[3])) / n
    for i in range(n):
        values[i] /= mean
    return True


def fill_shuffled(int64_t[::1] order, uint64_t seed, uint64_t epoch):
    """order <- a random permutation of 0, 1, ..., which depends only on seed and epoch: Durstenfeld's shuffle (1964)
    with the random numbers of SplitMix64."""
    cdef uint64_t state = mixed(mixed(seed) + epoch)
    cdef int64_t i, j, swapped
    with nogil:
        for i in range(order.shape[0]):
            order[i] = i
        for i in range(order.shape[0] - 1, 0, -1):
            state += GOLDEN_64
            j = <int64_t>(<double>(mixed(state) >> 11) * 1.1102230246251565e-16 * (i + 1))      # 2^-53
            swapped = order[i]
            order[i] = order[j]
            order[j] = swapped


def read_rows(int file, int64_t offset, int64_t stride, const int64_t[::1] index, cnp.uint8_t[:, ::1] out):
    """out[i] <- the bytes of the open file from offset + index[i] * stride on. Raises OSError."""
    cdef int64_t i, failed = -1
    with nogil:
        for i in range(index.shape[0]):
            if read_at(file, &out[i, 0], out.shape[1], offset + index[i] * stride):
                failed = i
                break
    if failed >= 0:
        raise OSError(f"row {index[failed]} of a mapped file could not be read: the file has changed")


def sync_folder(folder):
    """Flushes the entries of a folder to disk. Compiled, so that no signal handler runs between opening and closing."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_read(path):
    """Opens a file of any type as an io.FileIO, without waiting for the writer of a pipe. Compiled, so that no signal
    handler runs before there is an object that closes the file. Raises OSError."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


include "engine/use_lock.pxi"
include "engine/observed.pxi"
include "core/kernel.pxi"
include "engine/fast.pxi"
include "engine/fast_passes.pxi"
include "engine/fast_update.pxi"
