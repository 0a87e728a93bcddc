"""What a user picks by name: an activation, a loss, an initializer."""

import dataclasses
from collections.abc import Mapping

from ..errors import check_number, choose, shown, type_error


@dataclasses.dataclass(frozen=True)
class Choice:
    """A named thing with parameters. Calling it with keywords gives the same thing with other parameters:
    `huber` is `huber(delta=1.0)`. `ranges` holds the interval each may lie in, as keywords of `check_number`."""

    name: str
    parameters: Mapping = dataclasses.field(default_factory=dict, kw_only=True)
    ranges: Mapping = dataclasses.field(default_factory=dict, kw_only=True, repr=False)

    def __call__(self, **parameters):
        checked = {}
        for name, value in parameters.items():
            choose(f"{self.name}()", name, self.parameters)
            checked[name] = check_number(name, value, **self.ranges.get(name, {}))
        return dataclasses.replace(self, parameters={**self.parameters, **checked})

    def __hash__(self):
        return hash((self.name, *self.parameters.items()))

    def __repr__(self):
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.parameters.items())})"

    def config(self):
        """Name and parameters, to be written to a file."""
        return {"name": self.name, **self.parameters}


def pick(argument, value, table, kind):
    """The entry of `table` that `value` names; or `value`, if it is a `kind` already."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        return choose(argument, value, table)
    expected = f"a name ({', '.join(map(repr, table))}) or a {kind.__name__}"
    raise type_error(argument, expected, f"{shown(value)} ({type(value).__name__})")


# Ranges, as keywords of `check_number`. What takes parameters names the range of each in `ranges`, beside the
# definition; a parameter without one may be any finite number.
AT_LEAST_ZERO = {"low": 0.0}
AT_LEAST_ONE = {"low": 1.0}
POSITIVE = {"low": 0.0, "low_open": True}
FRACTION = {"low": 0.0, "high": 1.0, "high_open": True}
SHARE = {"low": 0.0, "high": 1.0}
