"""Compiler passes that make Numba compute in a user's function what Python computes.

A Python number takes the precision of the float32 that it is combined with (NumPy Enhancement Proposal 50): 0.1 x has
the same bits as in numpy, and the vector width of x. Numba would convert both to float64. Functions of `math` compute
in float64 and raise outside their domain. Python numbers raise when divided by 0, and when a power is too large or not
real; so does a local variable without a value. Integers to negative powers are fractions. The passes below transform
Numba's representation of the function, and do not read its source. The functions that they insert are in jit_checks.py.
Code that would silently compute something else is refused.

Remaining differences: sums of a variable and a constant near 2^63; numpy integers with fewer than 64 bits, which have
64 here; divisions by 0 of Python floats that were passed to another of the user's functions, which are infinite or NaN
here; random numbers, which come from Numba's generator.

Over 400 lines: each pass is short, and they transform the same statements one after the other.
"""

import inspect
import operator
from types import CodeType

import numpy as np
from numba import types
from numba.core import ir, postproc
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, FunctionPass, register_pass
from numba.core.errors import TypingError
from numba.core.ir_utils import build_definitions, get_definition, guard, mk_unique_var
from numba.core.typed_passes import NopythonTypeInference
from numba.core.untyped_passes import ReconstructSSA

from .jit_checks import (
    CHECKED,
    CONVERSIONS,
    NUMBERS,
    RAISING,
    SHIFTS,
    WITHIN,
    bound,
    check_number_power,
    contained,
    divisor,
    exponent,
    inverse_power,
    number_divisor,
    weak,
)

ARITHMETIC = {operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow}
ORDER = {operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne}
DIVISIONS = {operator.truediv, operator.floordiv, operator.mod}
# Functions in which Python numbers take the precision of the other arguments, from this argument index on.
MIXING = {
    min: 0, max: 0, divmod: 0, np.minimum: 0, np.maximum: 0, np.fmin: 0, np.fmax: 0, np.arctan2: 0, np.hypot: 0,
    np.copysign: 0, np.power: 0, np.clip: 0, np.where: 1,
}  # fmt: skip
# Functions that always return Python numbers, and functions that do so for arguments that are Python numbers.
GIVES_NUMBERS, KEEPS_NUMBERS = {int, float, len, range}, {abs, min, max, divmod, pow}
# Attributes of arrays that are Python numbers, or tuples of them.
SIZES = {"size", "ndim", "shape"}


class _Pass:
    def __init__(self):
        """Numba requires passes to define it."""


class _Editor:
    """Rewrites a function's blocks, statement by statement."""

    def __init__(self, func_ir):
        self.func_ir, self.statements = func_ir, []

    def function_of(self, expr):
        """The function that a call calls, or None."""
        return _constant_object(self.func_ir, expr.func)

    def variable(self, value, like, name="python"):
        """A new variable with a value, assigned before the statement `like`."""
        variable = like.target.scope.define(mk_unique_var(f"${name}"), like.loc)
        self.statements.append(ir.Assign(value, variable, like.loc))
        return variable

    def call(self, function, arguments, like):
        """A new variable with the result of a call, assigned before the statement `like`."""
        called = self.variable(ir.Global(function.__name__, function, like.loc), like)
        return self.variable(ir.Expr.call(called, arguments, (), like.loc), like)

    def run(self, edit):
        """Replaces the value of each assignment by edit(statement), which may insert statements before it."""
        for block in self.func_ir.blocks.values():
            self.statements = []
            for statement in block.body:
                if isinstance(statement, ir.Assign):
                    statement.value = edit(statement)
                self.statements.append(statement)
            block.body = self.statements
        self.func_ir._definitions = build_definitions(self.func_ir.blocks)
        postproc.PostProcessor(self.func_ir).run(emit_dels=False)


def _constant_object(func_ir, variable):
    """The value of a variable that is a global, a closure variable, or an attribute of a module; else None."""
    found = guard(get_definition, func_ir, variable)
    if isinstance(found, (ir.Global, ir.FreeVar)):
        return found.value
    return _attribute(func_ir, found) if isinstance(found, ir.Expr) and found.op == "getattr" else None


def _attribute(func_ir, expr):
    """An attribute of a module, or None."""
    of = _constant_object(func_ir, expr.value)
    return getattr(of, expr.attr, None) if inspect.ismodule(of) else None


def _hashable(function):
    return function if callable(function) and getattr(type(function), "__hash__", None) else None


@register_pass(mutates_CFG=False, analysis_only=False)
class PythonMath(_Pass, FunctionPass):
    """Makes functions of `math`, and conversions to Python numbers, compute in float64 and raise as in Python."""

    _name = "fastgd_python_math"

    def run_pass(self, state):
        editor = _Editor(state.func_ir)

        def edit(statement):
            value = statement.value
            if not isinstance(value, ir.Expr) or value.op != "call" or value.kws or value.vararg is not None:
                return value
            function = _hashable(editor.function_of(value))
            made = RAISING.get((function, len(value.args))) or (len(value.args) == 1 and CONVERSIONS.get(function))
            if made:
                return self.called(editor, made, (function, len(value.args)), statement)
            if function is pow and len(value.args) == 2:
                return ir.Expr.binop(operator.pow, *value.args, value.loc)
            return value

        editor.run(edit)
        return True

    def called(self, editor, made, key, statement):
        """The call that replaces the call of a function of `math`."""
        called = editor.variable(ir.Global(made.__name__, made, statement.loc), statement)
        return ir.Expr.call(called, statement.value.args, (), statement.loc)


@register_pass(mutates_CFG=False, analysis_only=False)
class DeferredPythonMath(PythonMath):
    """`PythonMath` for a function that the loop of a kernel calls: the function returns its value, and whether Python
    would have raised. A loop that need not end immediately can be vectorized. A function that contains a loop raises
    immediately, since the loop might not end otherwise; so does a function that may handle the exception."""

    _name = "fastgd_deferred_python_math"

    def run_pass(self, state):
        blocks = state.func_ir.blocks
        self.defers = not compute_cfg_from_blocks(blocks).loops() and not _handles(state.func_id.code)
        first = blocks[min(blocks)]
        self.is_bad = first.scope.define(mk_unique_var("$is_bad"), first.loc)
        super().run_pass(state)
        first.body.insert(0, ir.Assign(ir.Const(False, first.loc), self.is_bad, first.loc))
        for block in blocks.values():
            if isinstance(block.terminator, ir.Return):
                self.give_both(block)
        state.func_ir._definitions = build_definitions(blocks)
        postproc.PostProcessor(state.func_ir).run(emit_dels=False)
        return True

    def called(self, editor, made, key, statement):
        if not self.defers or key not in CHECKED:
            return super().called(editor, made, key, statement)
        loc = statement.loc
        both = editor.call(CHECKED[key], statement.value.args, statement)
        is_bad = editor.variable(ir.Expr.static_getitem(both, 1, None, loc), statement)
        either = ir.Expr.binop(operator.or_, self.is_bad, is_bad, loc)
        editor.statements.append(ir.Assign(either, self.is_bad, loc))
        return ir.Expr.static_getitem(both, 0, None, loc)

    def give_both(self, block):
        given, loc = block.terminator, block.loc
        both, cast = (block.scope.define(mk_unique_var("$both"), loc) for _ in range(2))
        block.body[-1:] = [
            ir.Assign(ir.Expr.build_tuple([given.value, self.is_bad], loc), both, loc),
            ir.Assign(ir.Expr.cast(both, loc), cast, loc),
            ir.Return(cast, loc),
        ]


def _handles(code):
    """Whether a code object, or one inside it, has a `try`."""
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return bool(code.co_exceptiontable) or any(map(_handles, inside))


@register_pass(mutates_CFG=False, analysis_only=False)
class PythonNumbers(_Pass, FunctionPass):
    """Makes Python numbers take the precision of the float32 they are combined with, and integers behave as in Python
    in divisions and powers."""

    _name = "fastgd_python_numbers"

    def run_pass(self, state):
        self.func_ir = state.func_ir
        self.numbers = self.find_numbers()
        self.editor = _Editor(state.func_ir)
        self.editor.run(self.edit)
        return True

    # -- which variables are Python numbers, or contain only such

    def find_numbers(self):
        """Their names: all variables except those that are found to be something else."""
        assigned = [s for block in self.func_ir.blocks.values() for s in block.body if isinstance(s, ir.Assign)]
        self.numbers, size = {s.target.name for s in assigned}, -1
        while size != len(self.numbers):
            size = len(self.numbers)
            self.numbers -= {s.target.name for s in assigned if not self.is_number(s.value)}
        return self.numbers

    def is_number(self, value):
        if isinstance(value, ir.Var):
            return value.name in self.numbers
        if isinstance(value, (ir.Const, ir.Global, ir.FreeVar)):
            return _is_number(value.value)
        if not isinstance(value, ir.Expr):
            return False
        if value.op == "phi":
            return all(self.is_number(v) for v in value.incoming_values if v is not ir.UNDEFINED)
        if value.op in ("binop", "inplace_binop"):
            return self.is_number(value.lhs) and self.is_number(value.rhs)
        if value.op == "getattr":
            return value.attr in SIZES or _is_number(_attribute(self.func_ir, value))
        if value.op in ("build_tuple", "build_list"):
            return all(map(self.is_number, value.items))
        if value.op == "call":
            return self.gives_number(value)
        of_one = ("unary", "cast", "getitem", "static_getitem", "exhaust_iter", "getiter", "iternext", "pair_first")
        if value.op in of_one and self.is_number(value.value):
            return True
        return value.op == "static_getitem" and value.index == 0 and self.is_checked_math(value.value)

    def gives_number(self, call):
        function = _hashable(_constant_object(self.func_ir, call.func))
        if function in KEEPS_NUMBERS:
            return all(map(self.is_number, call.args))
        return function in GIVES_NUMBERS or function in NUMBERS

    def is_checked_math(self, variable):
        found = guard(get_definition, self.func_ir, variable)
        is_call = isinstance(found, ir.Expr) and found.op == "call"
        return is_call and _constant_object(self.func_ir, found.func) in CHECKED.values()

    # -- transforming statements

    def edit(self, statement):
        value = statement.value
        if isinstance(value, (ir.Const, ir.Global, ir.FreeVar)):
            _check_size(value.value)
        if not isinstance(value, ir.Expr):
            return value
        if value.op in ("binop", "inplace_binop"):
            return self.edit_binop(statement, value)
        if value.op == "call" and not value.kws and value.vararg is None:
            return self.edit_call(statement, value)
        return value

    def edit_binop(self, statement, value):
        function = value.fn if value.op == "binop" else value.immutable_fn
        other = contained if function is operator.contains else SHIFTS.get(function)
        if other is not None:
            called = self.editor.variable(ir.Global(other.__name__, other, value.loc), statement)
            return ir.Expr.call(called, (value.lhs, value.rhs), (), value.loc)
        if function not in ARITHMETIC and function not in ORDER:
            return value
        known = [self.constant(side) for side in (value.lhs, value.rhs)]
        if None not in known and function in ARITHMETIC:
            result = _folded(function, *known)
            if result is not None:
                return ir.Const(result, value.loc)
        left, right = (side.name in self.numbers for side in (value.lhs, value.rhs))
        if function in DIVISIONS and not known[1]:
            checked = number_divisor if left and right else divisor
            value.rhs = self.editor.call(checked, (value.lhs, value.rhs), statement)
        if function is operator.pow and left and right:
            self.editor.call(check_number_power, (value.lhs, value.rhs), statement)
        if function is operator.mul or (function in WITHIN and known == [None, None]):
            value.rhs = self.editor.call(WITHIN[function], (value.lhs, value.rhs), statement)
        if function is operator.pow:
            if type(known[1]) is int and known[1] < 0:
                called = self.editor.variable(ir.Global("inverse_power", inverse_power, value.loc), statement)
                return ir.Expr.call(called, (value.lhs, value.rhs), (), value.loc)
            if type(known[1]) is int:
                self.editor.call(exponent, (value.lhs, value.rhs), statement)
                right = False  # Numba expands it to products
            elif known[1] is None:
                value.rhs = self.editor.call(exponent, (value.lhs, value.rhs), statement)
        if left and not right and type(known[1]) is not int:
            value.lhs = self.editor.call(weak, (value.lhs, value.rhs), statement)
        elif right and not left:
            value.rhs = self.editor.call(weak, (value.rhs, value.lhs), statement)
        return value

    def edit_call(self, statement, value):
        function = _hashable(_constant_object(self.func_ir, value.func))
        is_binary = isinstance(function, np.ufunc) and function.nin == 2
        if function not in MIXING and not is_binary:
            return value
        arguments, first = list(value.args), MIXING.get(function, 0)
        if function is divmod and len(arguments) == 2:
            arguments[1] = self.editor.call(divisor, value.args, statement)
        others = [a for a in value.args[first:] if a.name not in self.numbers]
        for i, argument in enumerate(value.args[first:], first):
            if others and argument.name in self.numbers:
                arguments[i] = self.editor.call(weak, (arguments[i], others[0]), statement)
        value.args = tuple(arguments)
        return value

    def constant(self, variable):
        """The constant value of a variable, if it is a number, or None."""
        found = guard(get_definition, self.func_ir, variable)
        if isinstance(found, (ir.Const, ir.Global, ir.FreeVar)):
            return found.value if type(found.value) in (int, float) else None
        if isinstance(found, ir.Expr) and found.op == "getattr":
            value = _attribute(self.func_ir, found)
            return value if type(value) in (int, float) else None
        if isinstance(found, ir.Expr) and found.op == "unary" and found.fn in (operator.neg, operator.pos):
            of = self.constant(found.value)
            return None if of is None else found.fn(of)
        return None


def _is_number(value):
    if isinstance(value, tuple):
        return all(map(_is_number, value))
    return type(value) in (int, float, bool)


def _check_size(value):
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise TypingError(f"a whole number beyond 64 bits, {value}; write it as a float")


def _folded(function, one, other):
    """The result of arithmetic on two numbers, or None if it is not a real number."""
    try:
        result = function(one, other)
    except (ArithmeticError, ValueError):
        return None
    _check_size(result)
    return None if isinstance(result, complex) else result


@register_pass(mutates_CFG=False, analysis_only=True)
class RefuseTruthArithmetic(_Pass, AnalysisPass):
    """Refuses arithmetic of two conditions, which numpy adds as `or` and does not subtract."""

    _name = "fastgd_refuse_truth_arithmetic"

    def run_pass(self, state):
        for block in state.func_ir.blocks.values():
            for expr in block.find_exprs():
                if expr.op in ("binop", "inplace_binop"):
                    function = expr.fn if expr.op == "binop" else expr.immutable_fn
                    operands, refused = (expr.lhs, expr.rhs), ARITHMETIC
                elif expr.op == "unary":
                    function, operands, refused = expr.fn, (expr.value,), {operator.neg, operator.pos}
                else:
                    continue
                of_operands = [state.typemap[operand.name] for operand in operands]
                if function in refused and all(isinstance(one, types.Boolean) for one in of_operands):
                    raise TypingError(f"arithmetic of conditions ({expr.loc.line}); use `and`, `or` or int(...)")
        return False


@register_pass(mutates_CFG=False, analysis_only=False)
class BoundLocals(_Pass, FunctionPass):
    """Adds a flag for each local variable that may be read without a value, and checks the flag before the read."""

    _name = "fastgd_bound_locals"

    def run_pass(self, state):
        blocks = state.func_ir.blocks
        at_entry = _assigned_at_entry(blocks)
        suspects = {v for label, block in blocks.items() for v in _read_unassigned(block, set(at_entry[label]))}
        if not suspects:
            return False
        first = blocks[min(blocks)]
        flags = {name: first.scope.define(mk_unique_var("$bound"), first.loc) for name in sorted(suspects)}
        for label, block in blocks.items():
            block.body = self.with_flags(block, flags, set(at_entry[label]))
        first.body[:0] = [ir.Assign(ir.Const(False, first.loc), flag, first.loc) for flag in flags.values()]
        state.func_ir._definitions = build_definitions(blocks)
        postproc.PostProcessor(state.func_ir).run(emit_dels=False)
        return True

    def with_flags(self, block, flags, assigned):
        statements = []
        for statement in block.body:
            loc = statement.loc
            for name in sorted(_reads(statement) & flags.keys() - assigned):
                called, nothing = (block.scope.define(mk_unique_var("$check"), loc) for _ in range(2))
                statements.append(ir.Assign(ir.Global("bound", bound, loc), called, loc))
                statements.append(ir.Assign(ir.Expr.call(called, (flags[name],), (), loc), nothing, loc))
            statements.append(statement)
            if isinstance(statement, ir.Assign) and statement.target.name in flags:
                statements.append(ir.Assign(ir.Const(True, loc), flags[statement.target.name], loc))
                assigned.add(statement.target.name)
        return statements


def _reads(statement):
    """Names of the variables that a statement reads."""
    if not isinstance(statement, ir.Assign):
        return {variable.name for variable in statement.list_vars()}
    if isinstance(statement.value, ir.Var):
        return {statement.value.name}
    return {v.name for v in statement.value.list_vars()} if isinstance(statement.value, ir.Expr) else set()


def _read_unassigned(block, assigned):
    """Names that a block may read without a value. assigned: the names that have one, to which it adds the names that
    the block assigns."""
    found = set()
    for statement in block.body:
        found |= {name for name in _reads(statement) - assigned if not name.startswith("$")}
        if isinstance(statement, ir.Assign):
            assigned.add(statement.target.name)
    return found


def _assigned_at_entry(blocks):
    """By block, the names that have a value on every path to it."""
    graph = compute_cfg_from_blocks(blocks)
    made = {label: {s.target.name for s in b.body if isinstance(s, ir.Assign)} for label, b in blocks.items()}
    every = set().union(*made.values())
    at_entry = {label: set() if label == min(blocks) else every for label in blocks}
    changed = True
    while changed:
        changed = False
        for label in blocks:
            before = [at_entry[p] | made[p] for p, _ in graph.predecessors(label)]
            now = set.intersection(*before) if before and label != min(blocks) else at_entry[label]
            changed, at_entry[label] = changed or now != at_entry[label], now
    return at_entry


class PythonCompiler(CompilerBase):
    """Numba's compiler, with the passes above."""

    math = PythonMath

    def define_pipelines(self):
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.add_pass_after(PythonNumbers, ReconstructSSA)
        at = [one for one, _ in pipeline.passes].index(ReconstructSSA)
        pipeline.add_pass_after(self.math, pipeline.passes[at - 1][0])
        pipeline.add_pass_after(BoundLocals, self.math)
        pipeline.add_pass_after(RefuseTruthArithmetic, NopythonTypeInference)
        pipeline.finalize()
        return [pipeline]


class DeferringPythonCompiler(PythonCompiler):
    """The compiler for functions that the loop of a kernel calls; see `DeferredPythonMath`."""

    math = DeferredPythonMath
