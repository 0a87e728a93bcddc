# Locks for networks, optimizers and estimators: one thread at a time uses them, also after a fork.
#
# Each lock is read and changed by one thread at a time: by the one that has the GIL or, in free-threaded CPython, the
# one in a critical section of the lock. With the GIL, a critical section is no code at all. It ends early where a
# thread waits for another, as in `sleep`, so nothing that was read before may be relied on after that.

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    enum { GIL_KEEPS_OUT = 0 };
    #else
    enum { GIL_KEEPS_OUT = 1 };
    #endif
    """
    enum: GIL_KEEPS_OUT     # whether other threads wait while a thread runs C code; not in free-threaded CPython

# Seconds between two checks whether readers are done.
READERS_SECONDS = 0.0002

# What a caller does with the owner of a lock.
cpdef enum Use:
    EVALUATE = 1            # changes nothing that readers see
    BORROW = 2              # changes the gradient, or the parameters temporarily
    TRAIN = 3               # changes everything

watch_forks()


@cython.final
cdef class UseLock:
    """`with lock:` lets one thread at a time use an object. A call from another thread, or a nested call from the same
    thread, raises RuntimeError. Compiled, so that no signal handler runs between acquiring the lock and entering the
    block that releases it.

    owner: a word for the object in error messages.

    `with lock.use(EVALUATE):` is for calls that do less than `TRAIN`.
    `with lock.lend(use):` surrounds the call of a user's function by the thread that holds the lock: calls made from
        that function may take the lock again, for at most `use`.
    `with lock.reading():` is for readers, any number at a time. Callers that change something wait for them.

    disturbed: whether a holder left with an exception, or is missing after a fork: prepared data may be inconsistent.
    uses: how often the lock was taken or read.

    In the child of a fork, locks of missing threads are free; the thread that forked keeps its locks.
    """
    cdef bint taken
    cdef public bint disturbed
    cdef readonly int64_t uses
    cdef int lending                # the `Use` that calls made from the holder's may make of it; 0 is none
    cdef uint64_t holder            # a thread
    cdef uint64_t forks             # the `fork_count` when holder and readers were recorded
    cdef list outer_lending         # `lending` of the enclosing holders, the outermost first
    cdef list readers               # threads
    cdef str owner

    def __init__(self, owner):
        self.owner, self.outer_lending, self.readers, self.forks = owner, [], [], fork_count

    def __reduce__(self):
        return UseLock, (self.owner,)

    cdef inline void check_fork(self):
        if self.forks != fork_count:
            self.free_lost_threads()

    cdef void free_lost_threads(self):
        """Frees locks held by threads that do not exist in this process."""
        if self.taken and self.holder != forking_thread:
            self.taken, self.lending, self.disturbed = False, 0, True
            self.outer_lending.clear()
        self.readers = [thread for thread in self.readers if thread == forking_thread]
        self.forks = fork_count

    cdef inline bint is_open(self):
        """Whether there is no reader, the lock is not disturbed, and it is free or lent to this thread for training.
        The caller keeps other threads out: by the GIL, or in a critical section."""
        self.check_fork()
        if self.disturbed or self.readers:
            return False
        return not self.taken or (self.lending == TRAIN and self.holder == this_thread())

    @cython.critical_section
    cdef bint take_if_open(self) except -1:
        """Takes the lock if it is open; returns whether it did."""
        if not self.is_open():
            return False
        self.hold()
        return True

    cdef int hold(self) except -1:
        """Takes the lock, which this thread may take. The caller keeps other threads out."""
        self.outer_lending.append(self.lending)
        self.taken, self.holder, self.lending = True, this_thread(), 0
        self.uses += 1
        return 0

    cdef int check(self, int use) except -1:
        """Raises RuntimeError unless this thread may take the lock for this use. The caller keeps other threads out."""
        self.check_fork()
        if not self.taken:
            return 0
        if self.holder != this_thread():
            raise RuntimeError(f"this {self.owner} is in use by another call; give each thread its own {self.owner}")
        if not self.lending:
            raise RuntimeError(
                f"this {self.owner} is already in use further up the call stack; "
                "callbacks, metrics and learning-rate functions may use it, other functions called by it may not"
            )
        if self.lending < use:
            raise RuntimeError(
                f"this {self.owner} is in use by another call, which lets the function it called evaluate, but not "
                "train; callbacks of fit may do that"
            )
        return 0

    @cython.critical_section
    cdef int take(self, int use) except -1:
        self.check(use)
        while use != EVALUATE and self.readers:
            if this_thread() in self.readers:
                raise RuntimeError(
                    f"this {self.owner} is being saved, exported or copied further up the call stack; "
                    "it may be evaluated, but not trained"
                )
            sleep(READERS_SECONDS)
            self.check(use)
        return self.hold()

    @cython.critical_section
    cdef void release(self, bint failed):
        self.lending = self.outer_lending.pop()
        self.taken = len(self.outer_lending) > 0
        if failed:
            self.disturbed = True

    @cython.critical_section
    cdef int lend_for(self, int use) except -2:
        """Lends the lock, if this thread holds it, for at most this use; returns what it was lent for, or -1."""
        cdef int before = self.lending
        self.check_fork()
        if not self.taken or self.holder != this_thread():
            return -1
        self.lending = use
        return before

    @cython.critical_section
    cdef int begin_reading(self) except -1:
        self.check(EVALUATE)
        self.readers.append(this_thread())
        self.uses += 1
        return 0

    @cython.critical_section
    cdef int end_reading(self) except -1:
        self.check_fork()
        self.readers.pop(self.number_of_reader())
        return 0

    cdef int64_t number_of_reader(self) except -1:
        """Where among the readers this thread is."""
        return self.readers.index(this_thread())

    def __enter__(self):
        self.take(TRAIN)

    def __exit__(self, kind, value, traceback):
        self.release(kind is not None)

    def use(self, int use):
        return UseContext(self, use)

    def lend(self, int use):
        return LendContext(self, use)

    def reading(self):
        return ReadContext(self)


@cython.final
cdef class UseContext:
    """A context that holds the lock for some use."""
    cdef UseLock lock
    cdef int use

    def __init__(self, lock, int use):
        self.lock, self.use = lock, use

    def __enter__(self):
        self.lock.take(self.use)

    def __exit__(self, kind, value, traceback):
        self.lock.release(kind is not None)


@cython.final
cdef class LendContext:
    """A context in which the thread that holds the lock may take it again. It does nothing for other threads."""
    cdef UseLock lock
    cdef int use, before

    def __init__(self, lock, int use):
        self.lock, self.use = lock, use

    def __enter__(self):
        self.before = self.lock.lend_for(self.use)

    def __exit__(self, kind, value, traceback):
        if self.before >= 0:
            self.lock.lend_for(self.before)


@cython.final
cdef class ReadContext:
    """A context that reads, concurrently with other readers."""
    cdef UseLock lock

    def __init__(self, lock):
        self.lock = lock

    def __enter__(self):
        self.lock.begin_reading()

    def __exit__(self, kind, value, traceback):
        self.lock.end_reading()


@cython.final
cdef class WaitingLock:
    """`with lock:` serves one thread at a time while the others wait. A nested call from the same thread raises
    RuntimeError. It is free in the child of a fork, unless the thread that forked holds it."""
    cdef object lock
    cdef uint64_t holder, forks
    cdef str owner

    def __init__(self, owner):
        self.owner, self.lock, self.forks = owner, Lock(), fork_count

    def __reduce__(self):
        return WaitingLock, (self.owner,)

    @cython.critical_section
    cdef object lock_to_take(self):
        """The lock, once it is known that this thread does not hold it."""
        if self.forks != fork_count:
            new = Lock()
            if self.forks != fork_count:    # no other thread came first
                if self.holder != forking_thread:
                    self.lock, self.holder = new, 0
                self.forks = fork_count
        if self.holder == this_thread():
            raise RuntimeError(f"this {self.owner} is already in use further up the call stack")
        return self.lock

    @cython.critical_section
    cdef void set_holder(self, uint64_t holder):
        self.holder = holder

    def __enter__(self):
        self.lock_to_take().acquire()
        self.set_holder(this_thread())

    def __exit__(self, kind, value, traceback):
        self.set_holder(0)
        self.lock.release()


@cython.final
cdef class StepInPython:
    """A context in which Python code makes a step; forks wait for its end."""

    def __enter__(self):
        with nogil:
            steps_begin()

    def __exit__(self, kind, value, traceback):
        steps_end()


def wait_for_steps():
    """Waits until no other thread is in the middle of a step. No thread begins a step until `steps_may_go_on`."""
    with nogil:
        fork_begins()


def steps_may_go_on():
    fork_ends()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait_for_steps, after_in_parent=steps_may_go_on)
