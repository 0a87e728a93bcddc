"""The sources of the Cython bodies against the contracts: the order of fields in each record, and the constants that
are defined in both languages."""

import importlib
import pathlib
import re
import sys

import pytest
from cases import KERNELS

import fastgd
from fastgd._plan import CHAIN_ELEMENTS
from fastgd.core.kernel import DTYPES, variant
from fastgd.optimizers.low_memory import slots_of

SOURCES = pathlib.Path(__file__).parents[1] / "src_cython"
TEXT = "\n".join(path.read_text() for path in sorted(SOURCES.rglob("*.pxi")))
# The C type of an array's elements by its dtype in a contract.
TYPES = {None: "real", "float64": "double", "int64": "int64_t"}


def structs(text=TEXT):
    """name -> (C type, field) of each field of a struct, in order."""
    found = {}
    for name, body in re.findall(r"^cdef struct (\w+):.*\n((?:    .*\n)+)", text, re.M):
        fields = []
        for line in body.splitlines():
            kind, names = re.fullmatch(r"\s+((?:const )?\w+) +([^#]+?)\s*(?:#.*)?", line).groups()
            fields += [(kind + "*" * field.startswith("*"), field.strip("*")) for field in names.split(", ")]
        found[name] = fields
    return found


def bodies(text=TEXT):
    """Two dicts by kernel name: (struct that the body reads, struct that it is registered with), and for update rules
    the arguments of `for_elements` or a variant of it."""
    records, loops = {}, {}
    for name, body in re.findall(r"^cdef void (\w+)\(const void \*args.*\n((?:    .*\n|\n)+)", text, re.M):
        records[name] = re.findall(r"= <const (\w+) \*>args", body)
        loops[name] = re.findall(
            r"^    (for_elements\w*)\(args, begin, end, \w+, (\d+), (\d+)(?:, 0b([01]+))?\)", body, re.M
        )
    registered = dict(re.findall(r'^register\("(\w+)", \1, sizeof\((\w+)\)\)', text, re.M))
    records = {name: (*read, registered[name]) for name, read in records.items() if name in registered}
    return records, {name: found[0] for name, found in loops.items() if found}


STRUCTS = structs()
RECORDS, PASSES = bodies()


def fields_of(kernel):
    """(C type, name) of each field that the contract requires."""
    arrays = [
        (f"{'const ' if spec.direction == 'in' else ''}{TYPES[spec.dtype]}*", name)
        for name, spec in kernel.arrays.items()
    ]
    return [*arrays, *(("int64_t", dim) for dim in kernel.dims), *(("double", name) for name in kernel.scalars)]


def is_order(fields, expected):
    """Whether a record has the fields of a contract, in its order. A struct that several kernels share may rename a
    field whose type no other field has, since it cannot be confused."""
    kinds = [kind for kind, _ in fields]
    return kinds == [kind for kind, _ in expected] and all(
        name == wanted or (kinds.count(kind) == 1 and kind != "int64_t")
        for (kind, name), (_, wanted) in zip(fields, expected, strict=True)
    )


def test_every_body_is_compared():
    assert set(RECORDS) | set(PASSES) == set(KERNELS)
    assert not set(RECORDS) & set(PASSES)


@pytest.mark.parametrize("name", RECORDS)
def test_the_fields_of_a_record_have_the_order_of_the_contract(name):
    read, registered = RECORDS[name]
    assert read == registered
    fields, expected = STRUCTS[read], fields_of(KERNELS[name])
    assert is_order(fields, expected), f"{read}: {fields}, expected {expected}"


@pytest.mark.parametrize("name", PASSES)
def test_a_rule_gets_the_slots_and_scalars_of_its_contract(name):
    """p, slots, g, n, then the scalars; 8-bit slots have a sign unless the contract says nonnegative."""
    for_elements, slots, scalars, signs = PASSES[name]
    suffix = for_elements.removeprefix("for_elements")
    assert name.endswith(suffix)
    rule = KERNELS[name.removesuffix(suffix)]
    assert tuple(rule.arrays) == ("p", *slots_of(rule), "g")
    assert rule.dims == ("n",)
    assert (len(slots_of(rule)), len(rule.scalars)) == (int(slots), int(scalars))
    if suffix == "_8bit":
        assert [s == "0" for s in reversed(signs)] == [rule.arrays[s].domain == "nonnegative" for s in slots_of(rule)]
    else:
        assert not signs


def test_a_wrong_order_is_noticed():
    """Two arrays, dimensions or scalars are swapped, or an array becomes writable."""
    expected = fields_of(KERNELS["dense_forward"])
    assert is_order(STRUCTS["DenseForward"], expected)
    for i, j in ((1, 2), (2, 3), (4, 5), (5, 6)):
        fields = list(expected)
        fields[i], fields[j] = fields[j], fields[i]
        assert not is_order(fields, expected)
    assert not is_order([("real*", name) if name == "w" else (kind, name) for kind, name in expected], expected)
    expected = fields_of(KERNELS["penalty_gradient"])
    assert not is_order([*expected[:-2], expected[-1], expected[-2]], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_agree_in_both_languages(dtype):
    compiled = importlib.import_module(f"fastgd._kernels_{variant()}_{dtype}").constants
    assert {"MASS_TOLERANCE", "NORM_EPS", "LEAST_SQUARES", "GELU_CUBIC", "STATE_BLOCK", "SUM_TERMS"} <= set(compiled)
    modules = [module for name, module in sys.modules.items() if name.startswith("fastgd.") and "._" not in name]
    for name, value in compiled.items():
        python = [vars(module)[name] for module in modules if name in vars(module)]
        assert python, f"{name} has no twin"
        assert set(python) == {value}, name


def test_threads_have_room_in_the_pool():
    (limit,) = re.findall(r"^\s*MAX_THREADS = (\d+),", (SOURCES / "engine" / "shares.h").read_text(), re.M)
    assert int(limit) == fastgd.core.threads.MAX_THREADS


def test_blocks_of_a_chain_begin_where_every_kernel_can():
    assert all(CHAIN_ELEMENTS % kernel.grain == 0 for kernel in KERNELS.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slots", "scalars"), [(4, 1), (1, 9), (100, 100)])
def test_a_rule_that_is_too_large_for_its_arrays_is_refused_by_name(slots, scalars, dtype):
    check_rule = importlib.import_module(f"fastgd._kernels_{variant()}_{dtype}").check_rule
    check_rule("adam_step", 3, 8)
    with pytest.raises(ValueError, match=f"rule big_step: expected at most 3 slots and 8 scalars, got {slots} and"):
        check_rule("big_step", slots, scalars)
