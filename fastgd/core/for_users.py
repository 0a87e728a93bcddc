"""What dir() and help() show of a class: the names for users.

A module lists those in `__all__`. Most names of a class are for users, so a class lists the others."""

from collections.abc import Iterable
from typing import ClassVar

# What Python and Cython keep in a class for themselves; help() would print it at length.
OF_PYTHON = frozenset((
    "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__delattr__", "__dict__", "__dir__",
    "__getstate__", "__init_subclass__", "__match_args__", "__post_init__", "__pyx_vtable__", "__reduce_cython__",
    "__replace__", "__setattr__", "__setstate__", "__setstate_cython__", "__slots__", "__weakref__",
))  # fmt: skip


class _Names(type):
    """Metaclass of `ForUsers`. help() of a class or of an object asks the class for its names, so its metaclass."""

    _internal: frozenset[str]

    def __dir__(cls) -> list[str]:
        return cls._for_users(super().__dir__())

    def _for_users(cls, names: Iterable[str]) -> list[str]:
        hidden = cls._internal | OF_PYTHON
        return sorted({n for n in names if n not in hidden and (n[:1] != "_" or n[:2] == "__")})


class ForUsers(metaclass=_Names):
    """Base of the classes that users meet: dir() and help() of them and of their objects show the names for users.

    They leave out names that begin with an underscore, which only the class itself uses, and those in `_internal`: what
    other modules of the package call or read, and what only subclasses define, such as `forward` of layers. A subclass
    adds names with `Base._internal | {...}`. Nothing but what is shown depends on it."""

    __slots__ = ()
    _internal: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> list[str]:
        return type(self)._for_users(super().__dir__())
