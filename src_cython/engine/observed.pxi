# Whether what a user's function reads besides its arguments is still the same.

cpdef bint unchanged(list watched) except -1:
    """Whether every (container, key, value) of a list holds: a dict has the value under the key, None if it has none;
    or the container is the cell of a closure, or a function, and has the value as its contents or as its code. Values
    are compared by identity."""
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
