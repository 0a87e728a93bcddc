# A chain is a kernel that runs other kernels, its links, one after the other on each block of flat arrays.

# The largest record of a link; kernel.py refuses larger ones.
cpdef enum:
    CHAIN_SLOTS = 512
    CHAIN_ARRAYS = 256

cdef extern from "core/scratch.h" nogil:
    enum: CHAIN_ELEMENTS

# Every field has eight bytes.
cdef packed struct Link:
    int64_t kernel, record          # addresses
    int64_t slots, arrays           # of the record: arrays come first
    int64_t shift[CHAIN_ARRAYS]       # bytes of a block of each array; -1 is the scratch buffer

cdef packed struct Chain:
    int64_t n_links
    Link links[1]


cdef void run_link(const Link *link, int64_t begin, int64_t end) noexcept nogil:
    """Runs a link on the elements [begin, end), through a copy of its record that points to them."""
    cdef int64_t record[CHAIN_SLOTS]
    cdef int64_t i, shift
    memcpy(record, <const void *>link.record, 8 * link.slots)
    for i in range(link.arrays):
        shift = link.shift[i]
        if shift >= 0:
            record[i] += begin * shift // CHAIN_ELEMENTS
        else:
            record[i] = <int64_t>scratch_of_thread()
    (<kernel_t><void *>link.kernel)(record, 0, end - begin)


cdef void run_chain(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Chain *chain = <const Chain *>args
    cdef int64_t stop, i
    while begin < end:
        stop = min(begin + CHAIN_ELEMENTS, end)
        for i in range(chain.n_links):
            run_link(&chain.links[i], begin, stop)
        begin = stop


chain_address = <uintptr_t>&run_chain
globals()["CHAIN_ELEMENTS"] = CHAIN_ELEMENTS    # to Cython the name is the constant of scratch.h


def chain_record(links):
    """The record of a chain as an int64 array. links: (address of kernel, address of record, slots of the record,
    shifts) for each link."""
    per_link = sizeof(Link) // 8
    record = np.zeros(1 + len(links) * per_link, np.int64)
    record[0] = len(links)
    for row, (kernel, address, slots, shifts) in zip(record[1:].reshape(-1, per_link), links):
        if slots > CHAIN_SLOTS or len(shifts) > CHAIN_ARRAYS:
            raise ValueError(f"chain: expected at most {CHAIN_SLOTS} slots and {CHAIN_ARRAYS} arrays, "
                             f"got a kernel of {slots} and {len(shifts)}")
        row[:4 + len(shifts)] = kernel, address, slots, len(shifts), *shifts
    return record
