"""What users' functions read besides their arguments: globals, variables of enclosing functions, and their code.

Compiled code contains these values. So they are recorded when a kernel is compiled, and the code is valid only as long
as they are unchanged. Modules and functions are compared by identity, together with everything that they read; numbers
and tuples by value; arrays by their elements. (A function made by `numba.njit` is not followed: Numba freezes what it
reads.)
"""

import builtins
import types

import numpy as np

from .._plan import unchanged
from ..errors import value_error

# Packages whose functions are assumed not to change.
FIXED = {"numpy", "numba", "fastgd", "math", "builtins"}
SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)


class Reads:
    """What some functions read, at the time this is made.

    watched: (container, key, value) triples for `fastgd._plan.unchanged`.
    """

    def __init__(self, functions):
        self.functions = tuple(functions)
        self.watched, self._arrays, self._known = [], [], []
        self._found = {}  # by function: values of globals, values of closure cells
        for function in self.functions:
            self._add_function(function)

    @property
    def may_change_in_place(self):
        """Whether the functions read an array, whose elements must be compared each time."""
        return bool(self._arrays)

    def are_current(self):
        """Whether the functions still read the same values."""
        if unchanged(self.watched) and all(_content(array) == content for array, content in self._arrays):
            return True
        now = Reads(self.functions)
        if not self._equals(now):
            return False
        self.watched[:], self._arrays, self._known = now.watched, now._arrays, now._known
        return True

    def _equals(self, other):
        if len(self.watched) != len(other.watched) or len(self._arrays) != len(other._arrays):
            return False
        pairs = zip(self.watched, other.watched, strict=True)
        same = all(one[0] is two[0] and one[1] == two[1] and _equal(one[2], two[2]) for one, two in pairs)
        pairs = zip(self._arrays, other._arrays, strict=True)
        return same and all(one == two for (_, one), (_, two) in pairs)

    def frozen(self, function, compiled):
        """(copy, fill): a copy of one of the functions that always reads the recorded values, once fill() is called.
        compiled(f) replaces every other function f that it reads."""
        globals_, cells = self._found[function]
        space = {"__builtins__": builtins, "__name__": function.__module__}
        closure = tuple(types.CellType() for _ in cells)
        code = function.__code__
        made = types.FunctionType(code, space, function.__name__, function.__defaults__, closure or None)
        made.__kwdefaults__ = function.__kwdefaults__

        def fill():
            space.update({name: self._replaced(value, compiled) for name, value in globals_.items()})
            for cell, value in zip(closure, cells, strict=True):
                cell.cell_contents = self._replaced(value, compiled)

        return made, fill

    def _replaced(self, value, compiled):
        return compiled(value) if isinstance(value, types.FunctionType) and value in self._found else value

    # ---- recorded

    def _watch(self, container, key, value, names):
        self.watched.append((container, key, value))
        self._add_value(value, names)

    def _add_function(self, function):
        if function in self._found:
            return
        code, space, names = function.__code__, function.__globals__, sorted(_names(function.__code__))
        cells = [_contents(*pair) for pair in zip(function.__closure__ or (), code.co_freevars, strict=True)]
        self._found[function] = {name: space[name] for name in names if name in space}, cells
        self._watch(function, "__code__", code, ())
        self._watch(function, "__defaults__", function.__defaults__, names)
        for name in names:  # also missing ones: a global may be added later, and hide a builtin
            self._watch(space, name, space.get(name), names)
        for cell, value in zip(function.__closure__ or (), cells, strict=True):
            self._watch(cell, "cell_contents", value, names)

    def _add_value(self, value, names):
        """Records parts of a value that may change while the name refers to the same object."""
        if any(value is known for known in self._known):
            return
        if isinstance(value, types.FunctionType):
            if (value.__module__ or "").partition(".")[0] not in FIXED:
                self._add_function(value)
        elif isinstance(value, types.ModuleType):
            self._known.append(value)
            for name in names:
                if name in vars(value):
                    self._watch(vars(value), name, vars(value)[name], names)
        elif isinstance(value, tuple):
            self._known.append(value)
            for part in value:
                self._add_value(part, names)
        elif isinstance(value, np.ndarray):
            self._known.append(value)
            self._arrays.append((value, _content(value)))


def _names(code):
    """Every name in a code object and in the code objects inside it: globals, attributes, imports."""
    inside = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inside))


def _contents(cell, name):
    """The value of a variable of an enclosing function."""
    try:
        return cell.cell_contents
    except ValueError:
        raise value_error(name, "a value of this variable of an enclosing function", "none") from None


def _content(array):
    return array.dtype, array.shape, array.tobytes()


def _equal(one, two):
    """Whether two values are the same for compiled code."""
    if one is two:
        return True
    if type(one) is not type(two):
        return False
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    if isinstance(one, np.ndarray):
        return _content(one) == _content(two)
    return isinstance(one, SCALARS) and repr(one) == repr(two)
