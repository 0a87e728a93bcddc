# Detects changes of what a user's function reads besides its arguments.

cpdef bint unchanged(list watched) except -1:
    """Whether every (container, key, value) of a list still holds. A dict must have the value under the key, where None
    stands for a missing key; another container, a closure cell or a function, must have it as the attribute `key`.
    Values are compared by identity."""
    cdef tuple item
    for item in watched:
        container, key, value = item
        if isinstance(container, dict):
            if (<dict>container).get(key) is not value:
                return False
        else:
            try:
                if getattr(container, key) is not value:
                    return False
            except ValueError:          # the variable is deleted
                return False
    return True
