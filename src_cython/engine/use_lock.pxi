# Who may use a network, an optimizer or an estimator: one thread at a time, also after a fork.

# Seconds between two looks whether those who read are done.
READERS_SECONDS = 0.0002

# What a caller does with what it uses.
cpdef enum Use:
    EVALUATE = 1            # changes nothing that others read
    BORROW = 2              # changes the gradient, or the parameters for a while
    TRAIN = 3               # changes all

watch_forks()


@cython.final
cdef class UseLock:
    """`with lock:` gives one thread at a time the use of the `owner`, a word for messages; a call from another thread
    gets a RuntimeError, as does a call that is made, by the same thread, from within. In C, so that a signal cannot
    fall between taking the lock and the promise to give it back.

    `with lock.use(EVALUATE):` is for calls that do less than `TRAIN`. `with lock.lend(use):` surrounds the call of a
    user's function by the thread that has the lock: calls made from it may take the lock again, for no more than `use`.
    `with lock.reading():` is for those who only read, any number at a time; who changes something waits for them.

    `disturbed` tells that a user left by an exception, or that a fork left it behind: what is prepared may be half set.
    `uses` counts how often the lock was taken, or read.

    In the child of a fork, what threads held that are not there is free; what the thread that forked holds, it keeps.
    """
    cdef bint taken
    cdef public bint disturbed
    cdef readonly int64_t uses
    cdef int lending                # what calls made from the holder may do; 0 is nothing
    cdef uint64_t holder            # a thread
    cdef uint64_t forks             # the `fork_count` at which holder and readers were noted
    cdef list outer_lending                 # `lending` of those whose lock was taken from within, the oldest first
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
        """Frees what is held by threads that this process does not have."""
        if self.taken and self.holder != forking_thread:
            self.taken, self.lending, self.disturbed = False, 0, True
            self.outer_lending.clear()
        self.readers = [thread for thread in self.readers if thread == forking_thread]
        self.forks = fork_count

    cdef inline bint is_free(self):
        """Whether nobody uses or reads it, and nothing is half set."""
        self.check_fork()
        return not (self.taken or self.disturbed or self.readers)

    cdef inline bint is_open(self):
        """As `is_free`, or lent to this thread, to train."""
        self.check_fork()
        if self.disturbed or self.readers:
            return False
        return not self.taken or (self.lending == TRAIN and self.holder == this_thread())

    cdef int check(self, int use) except -1:
        """Raises unless this thread may use it now."""
        self.check_fork()
        if not self.taken:
            return 0
        if self.holder != this_thread():
            raise RuntimeError(f"this {self.owner} is in use by another call; give each thread one of its own")
        if not self.lending:
            raise RuntimeError(
                f"this {self.owner} is in use by another call, in the middle of which this one was made; "
                "callbacks, metrics and learning-rate functions may use it, other functions called by it may not"
            )
        if self.lending < use:
            raise RuntimeError(
                f"this {self.owner} is in use by another call, which lets the function it called evaluate, but not "
                "train; callbacks of fit may do that"
            )
        return 0

    cdef int take(self, int use) except -1:
        cdef uint64_t thread = this_thread()
        self.check(use)
        while use != EVALUATE and self.readers:
            if thread in self.readers:
                raise RuntimeError(
                    f"this {self.owner} is being saved, exported or copied by the call in the middle of which this one "
                    "was made; it may be evaluated, but not trained"
                )
            sleep(READERS_SECONDS)
            self.check(use)
        self.outer_lending.append(self.lending)
        self.taken, self.holder, self.lending = True, thread, 0
        self.uses += 1
        return 0

    cdef void release(self, bint failed):
        self.lending = self.outer_lending.pop()
        self.taken = len(self.outer_lending) > 0
        if failed:
            self.disturbed = True

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
    """A context in which the lock is taken for some use."""
    cdef UseLock lock
    cdef int what

    def __init__(self, lock, int use):
        self.lock, self.what = lock, use

    def __enter__(self):
        self.lock.take(self.what)

    def __exit__(self, kind, value, traceback):
        self.lock.release(kind is not None)


@cython.final
cdef class LendContext:
    """A context in which calls made from the thread that has the lock may take it, too. It does nothing for a thread
    that has not."""
    cdef UseLock lock
    cdef int use, before
    cdef bint lends

    def __init__(self, lock, int use):
        self.lock, self.use = lock, use

    def __enter__(self):
        self.lock.check_fork()
        self.lends = self.lock.taken and self.lock.holder == this_thread()
        if self.lends:
            self.before, self.lock.lending = self.lock.lending, self.use

    def __exit__(self, kind, value, traceback):
        if self.lends:
            self.lock.lending = self.before


@cython.final
cdef class ReadContext:
    """A context in which something is read that others may read, too."""
    cdef UseLock lock

    def __init__(self, lock):
        self.lock = lock

    def __enter__(self):
        self.lock.check(EVALUATE)
        self.lock.readers.append(this_thread())
        self.lock.uses += 1

    def __exit__(self, kind, value, traceback):
        self.lock.check_fork()
        self.lock.readers.remove(this_thread())


@cython.final
cdef class WaitingLock:
    """`with lock:` serves one thread at a time, for which the others wait; a call made from within gets a RuntimeError.
    Free in the child of a fork, unless the thread that forked has it."""
    cdef object lock
    cdef uint64_t holder, forks
    cdef str owner

    def __init__(self, owner):
        self.owner, self.lock, self.forks = owner, Lock(), fork_count

    def __reduce__(self):
        return WaitingLock, (self.owner,)

    def __enter__(self):
        cdef uint64_t thread = this_thread()
        if self.forks != fork_count:
            new = Lock()
            if self.forks != fork_count:    # no other thread came first
                if self.holder != forking_thread:
                    self.lock, self.holder = new, 0
                self.forks = fork_count
        if self.holder == thread:
            raise RuntimeError(f"this {self.owner} is in use by the call in the middle of which this one was made")
        self.lock.acquire()
        self.holder = thread

    def __exit__(self, kind, value, traceback):
        self.holder = 0
        self.lock.release()


@cython.final
cdef class StepInPython:
    """A context in which Python code makes a step, in the midst of which no fork shall come."""

    def __enter__(self):
        with nogil:
            steps_begin()

    def __exit__(self, kind, value, traceback):
        steps_end()


def wait_for_steps():
    """Waits until no other thread is in the middle of a step; until `steps_may_go_on` none begins the next one."""
    with nogil:
        fork_begins()


def steps_may_go_on():
    fork_ends()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait_for_steps, after_in_parent=steps_may_go_on)
