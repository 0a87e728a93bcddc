# cython: language_level=3, boundscheck=False, wraparound=False
"""The native runner: walks a list of compiled kernels, whoever wrote them.

A compiled kernel is `void kernel(const void *args, int64_t begin, int64_t end)`: `args` is its record (pointers,
sizes, scalars; eight bytes each), `[begin, end)` its share of the work.
"""
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free

ctypedef void (*kernel_t)(const void *args, int64_t begin, int64_t end) noexcept nogil

cdef struct Operation:
    kernel_t kernel
    const void *args
    int64_t begin
    int64_t end


cdef class Runner:
    """Holds `capacity` operations; the caller keeps the records and the arrays they point to alive."""
    cdef Operation *operations
    cdef Py_ssize_t capacity

    def __cinit__(self, Py_ssize_t capacity):
        self.operations = <Operation *>calloc(max(capacity, 1), sizeof(Operation))
        if self.operations == NULL:
            raise MemoryError()
        self.capacity = capacity

    def __dealloc__(self):
        free(self.operations)

    def set(self, Py_ssize_t index, uintptr_t kernel, uintptr_t record):
        """Puts a kernel and its record in a place; its share of the work is still empty."""
        if not 0 <= index < self.capacity:
            raise IndexError(f"index: expected 0 <= index < {self.capacity}, got {index}")
        self.operations[index] = Operation(kernel=<kernel_t><void *>kernel, args=<const void *>record, begin=0, end=0)

    def set_share(self, Py_ssize_t index, int64_t begin, int64_t end):
        """Sets the share `[begin, end)` of the work of one operation."""
        if not 0 <= index < self.capacity:
            raise IndexError(f"index: expected 0 <= index < {self.capacity}, got {index}")
        self.operations[index].begin = begin
        self.operations[index].end = end

    def run(self, Py_ssize_t first, Py_ssize_t last):
        """Runs the operations `first` to `last - 1`, in order, without the GIL."""
        cdef Py_ssize_t i
        cdef Operation *operation
        if not 0 <= first <= last <= self.capacity:
            raise IndexError(f"first, last: expected 0 <= first <= last <= {self.capacity}, got {first}, {last}")
        with nogil:
            for i in range(first, last):
                operation = &self.operations[i]
                if operation.begin < operation.end:
                    operation.kernel(operation.args, operation.begin, operation.end)


cdef class Turn:
    """`with turn:` serves one caller at a time; a second one gets a RuntimeError. In C, so that a signal cannot fall
    between taking the turn and the promise to give it back. `disturbed` tells that a caller left by an exception."""
    cdef bint taken
    cdef public bint disturbed

    def __enter__(self):
        if self.taken:
            raise RuntimeError("this network is in use by another call; give each thread a network of its own")
        self.taken = True

    def __exit__(self, kind, value, traceback):
        self.taken = False
        if kind is not None:
            self.disturbed = True
