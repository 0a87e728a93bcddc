# Calls of a kernel by name: the contract of fastgd/core/kernel.py, checked in C.

cdef extern from "Python.h":
    bint PyLong_CheckExact(object value)

cdef extern from *:
    """
    /* A thread that finds a flag set also finds what another thread has written before it set the flag. */
    static inline int is_set(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
    static inline void set_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELEASE); }
    """
    bint is_set(const bint *flag)
    void set_flag(bint *flag)

cdef enum:
    KERNEL_ARRAYS = 16          # at most, of a kernel that is called here
    KERNEL_SLOTS = 40
    KERNEL_AXES = 6

cdef struct ArrayContract:
    int type                            # -1: float32 or float64, the same for all arrays of the call
    int rank, per
    bint is_written
    int dims[KERNEL_AXES]               # index of each dimension among the kernel's


@cython.auto_pickle(False)
cdef class CheckedCall:
    """Base class of kernels. Calling it checks the arguments against the contract and runs the compiled body. Calls
    that break the contract, and kernels without a body of the package, are left to `_call_any` of the subclass."""
    cdef int n_arrays, n_dims, n_scalars, range_dim
    cdef ArrayContract arrays[KERNEL_ARRAYS]
    cdef int64_t fixed[KERNEL_SLOTS]    # sizes of dimensions that every call has, or 0
    cdef uintptr_t float32_body, float64_body
    cdef bint is_prepared, is_able

    @cython.critical_section
    def _set_contract(self, arrays, fixed, int n_scalars, int range_dim, uintptr_t float32_body,
                      uintptr_t float64_body):
        """arrays: for each array (number of its dtype or -1, indices of its dimensions, elements of the first dimension
        that one of its elements stands for or 0, whether it is written). fixed: for each dimension its size, or 0 if
        that is the call's. Bodies: addresses; 0 is none."""
        if self.is_prepared:            # by another thread
            return
        self.is_able = float32_body != 0 and self.hold_contract(arrays, fixed, n_scalars, range_dim)
        self.float32_body, self.float64_body = float32_body, float64_body
        set_flag(&self.is_prepared)

    cdef bint hold_contract(self, arrays, fixed, int n_scalars, int range_dim) except -1:
        """Returns whether there is room for the contract."""
        cdef int i, j, n_dims = len(fixed)
        n_slots = len(arrays) + n_dims + n_scalars + 1
        if len(arrays) > KERNEL_ARRAYS or n_slots > KERNEL_SLOTS:
            return False
        for i, (number, dims, per, is_written) in enumerate(arrays):
            if len(dims) > KERNEL_AXES:
                return False
            self.arrays[i].type, self.arrays[i].rank = number, len(dims)
            self.arrays[i].per, self.arrays[i].is_written = per, is_written
            for j in range(len(dims)):
                self.arrays[i].dims[j] = dims[j]
        self.n_arrays, self.n_dims, self.n_scalars, self.range_dim = len(arrays), n_dims, n_scalars, range_dim
        for i in range(n_dims):
            self.fixed[i] = fixed[i]
        return True

    def __call__(self, *arguments):
        if not is_set(&self.is_prepared):
            self._prepare_call()
        if not self.is_able or not self.run(arguments):
            self._call_any(arguments)

    cdef bint run(self, tuple arguments, bint keeps_gil=False) except -1:
        """Runs the body and returns True, or returns False with nothing changed. keeps_gil: for short calls that must
        keep other threads out by the GIL."""
        cdef int64_t record[KERNEL_SLOTS]
        cdef int64_t sizes[KERNEL_SLOTS]
        cdef int64_t fault = 0, size
        cdef int type = -1, i, j
        cdef const ArrayContract *c
        cdef uintptr_t body
        cdef uint64_t before
        if len(arguments) != self.n_arrays + self.n_scalars:
            return False
        for i in range(self.n_dims):
            sizes[i] = self.fixed[i]
        for i in range(self.n_arrays):
            c, array = &self.arrays[i], arguments[i]
            if not cnp.PyArray_Check(array) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array):
                return False
            if c.is_written and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
                return False
            if c.type == -1 and type == -1:
                type = cnp.PyArray_TYPE(<cnp.ndarray>array)
            if cnp.PyArray_TYPE(<cnp.ndarray>array) != (type if c.type == -1 else c.type):
                return False
            if cnp.PyArray_NDIM(<cnp.ndarray>array) != c.rank:
                return False
            for j in range(c.rank):
                size = cnp.PyArray_DIM(<cnp.ndarray>array, j)
                if size == 0 or (sizes[c.dims[j]] and sizes[c.dims[j]] != size):
                    return False
                sizes[c.dims[j]] = size
            record[i] = address_of(array)
        if type not in (-1, cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
            return False
        for i in range(self.n_arrays):
            c = &self.arrays[i]
            if c.per and sizes[c.dims[0]] != (sizes[self.range_dim] + c.per - 1) // c.per:
                return False
        for i in range(self.n_dims):
            record[self.n_arrays + i] = sizes[i]
        for i in range(self.n_scalars):
            scalar = arguments[self.n_arrays + i]
            if not (isinstance(scalar, (float, np.floating, np.integer)) or PyLong_CheckExact(scalar)):    # not bool
                return False
            try:
                (<double *>&record[self.n_arrays + self.n_dims + i])[0] = scalar
            except OverflowError:       # an int beyond the largest float
                return False
        record[self.n_arrays + self.n_dims + self.n_scalars] = <int64_t>&fault
        body = self.float64_body if type == cnp.NPY_FLOAT64 else self.float32_body
        check_scratch()
        if keeps_gil:
            before = flush_subnormals()
            (<kernel_t><void *>body)(<const void *>&record[0], 0, sizes[self.range_dim])
            restore_subnormals(before)
            return True
        with nogil:
            before = flush_subnormals()
            (<kernel_t><void *>body)(<const void *>&record[0], 0, sizes[self.range_dim])
            restore_subnormals(before)
        return True
