"""Definitions made at import. golden/defaults.txt lists the defaults of all public names, on which users' code, files
and results depend. A new public name needs a line there."""

import inspect
import operator
import pathlib

import fastgd
import fastgd.sklearn

TABLE = (pathlib.Path(__file__).with_name("golden") / "defaults.txt").read_text().splitlines()


def described(path):
    """`path(name=default, ...)` of a function, a class, or an activation, loss, metric or initializer."""
    value = operator.attrgetter(path.removeprefix("fastgd."))(fastgd)
    if isinstance(getattr(value, "parameters", None), dict):
        given = value.parameters
    else:
        parameters = inspect.signature(value).parameters.values() if callable(value) else ()
        given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return f"{path}({', '.join(f'{name}={default!r}' for name, default in given.items())})"


def test_defaults():
    public = [f"fastgd.{name}" for name in fastgd.__all__ if name != "kernels"]
    for path in tuple(public):
        value = getattr(fastgd, path.removeprefix("fastgd."))
        if inspect.isclass(value):
            public += [f"{path}.{name}" for name in vars(value) if not name.startswith("_")]
    expected = {line.partition("(")[0]: line for line in TABLE}
    for path in (*public, *expected):
        assert described(path) == expected.get(path, f"{path}()")


def test_kernels_say_what_state_of_few_bits_holds():
    domains = {}
    for kernel in (fastgd.kernels.adam_step_bfloat16, fastgd.kernels.adam_step_8bit):
        domains |= {(kernel.name, name): array.domain for name, array in kernel.arrays.items() if name[0] in "mv"}
    assert domains == {
        ("adam_step_bfloat16", "m"): "bfloat16",
        ("adam_step_bfloat16", "v"): "nonnegative bfloat16",
        ("adam_step_8bit", "m"): "code",
        ("adam_step_8bit", "m_base"): "base",
        ("adam_step_8bit", "v"): "code",
        ("adam_step_8bit", "v_base"): "nonnegative base",
    }
