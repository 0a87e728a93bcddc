"""Objects that users choose by name: activations, losses, initializers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, TypedDict, TypeVar

from ..errors import check_number, choose, shown, type_error, value_error
from .aliases import named
from .for_users import ForUsers

T = TypeVar("T")


class Range(TypedDict, total=False):
    """The allowed interval of a parameter, as keywords of `check_number`."""

    low: float
    high: float
    low_open: bool
    high_open: bool


@dataclasses.dataclass(frozen=True)
class Choice(ForUsers):
    """A named object with parameters. Calling it with keywords returns the object with other parameters: `huber` is
    `huber(delta=1.0)`. ranges: the allowed interval of each parameter."""

    _internal = frozenset({"config", "ranges"})

    name: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict, kw_only=True, repr=False)

    def __call__(self, **parameters: float) -> Self:
        checked = {}
        for name, value in parameters.items():
            if not self.parameters:
                raise value_error(f"{self.name}()", "no parameters", shown(name))
            choose(f"{self.name}()", name, self.parameters)
            checked[name] = check_number(name, value, **self.ranges.get(name, {}))
        return dataclasses.replace(self, parameters={**self.parameters, **checked})

    def __hash__(self) -> int:
        return hash((self.name, *self.parameters.items()))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.parameters.items())})"

    def config(self) -> dict[str, Any]:
        """Name and parameters, for a file."""
        return {"name": self.name, **self.parameters}


C = TypeVar("C", bound=Choice)


def pick(argument: str, value: str | T, table: Mapping[str, T], cls: type[T]) -> T:
    """The entry of `table` with the name `value`, or an alias; or `value` itself if it is an instance of `cls`."""
    if isinstance(value, cls):
        return value
    if isinstance(value, str):
        return named(argument, value, table, cls.__name__)
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    expected = f"a name ({', '.join(map(repr, table))}) or {article} {cls.__name__}"
    raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")


class UndefinedError(ValueError):
    """A file names an activation or a loss that is not defined. See the attributes `argument`, `expected`, `got`."""

    def __init__(self, argument: str, expected: str, got: str) -> None:
        super().__init__(argument, expected, got)
        self.argument, self.expected, self.got = argument, expected, got

    def __str__(self) -> str:
        return f"argument {self.argument!r}: expected {self.expected}, got {self.got}"


def choice_from_config(argument: str, config: Mapping[str, Any], table: Mapping[str, C]) -> C:
    """The activation or the loss of a `config`; raises UndefinedError if `table` does not have its name."""
    parameters = dict(config)
    name = parameters.pop("name")
    if name not in table:
        expected = f"one of {', '.join(table)}, or your own, defined again before the file is loaded"
        raise UndefinedError(argument, expected, shown(name))
    made: C = table[name].__call__(**parameters)  # mypy takes table[name](...) for a Choice
    return made


# A parameter without a range may be any finite number.
AT_LEAST_ZERO: Range = {"low": 0.0}
AT_LEAST_ONE: Range = {"low": 1.0}
POSITIVE: Range = {"low": 0.0, "low_open": True}
FRACTION: Range = {"low": 0.0, "high": 1.0, "high_open": True}
SHARE: Range = {"low": 0.0, "high": 1.0}
