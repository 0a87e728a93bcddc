"""Users' update rules, activations and losses: plain Python functions, which Numba compiles for the native runner. The
numpy backend runs them in Python, element by element, without Numba.

Each decorator adds its function to the package's table under the function's name, so that it can be chosen by name,
saved and loaded like the others. A file stores the function's values at a few points (fingerprint.py); loading it fails
if the name means another function by then.

A function is compiled with the values that its globals, closure variables and the functions it calls have at the time.
If they change, it is compiled again, at the latest at the next call of the network or the next pause of `fit`. Compiled
code computes what Python computes (jit_python.py). Exceptions reach the caller, and the step is not counted; the
parameters are those before the step, except if an update rule raises: then some have been updated.

Over 400 lines: three decorators, each with its signatures, its checks and the source of its kernel.
"""

import functools
import inspect
import math
import pickle
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeAlias, overload

import numpy as np

from .activations import ACTIVATIONS, Activation, slope_backward
from .core import fingerprint
from .core.hints import show_names
from .core.kernel import In, InOut, Kernel, Out, kernels
from .core.types import Number, Rate
from .errors import check_integer, check_number, shown, type_error, value_error
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS
from .optimizers.base import Numbers, Optimizer, Options, check_rounded

__all__ = ["activation", "loss", "optimizer"]

# An activation's derivative is compared with finite differences at these points, which avoid the usual positions of
# kinks. A point where differences of two widths disagree is skipped.
CHECKED_POINTS = np.linspace(-4.0, 4.0, 66) + 0.0137
WIDTH, DERIVATIVE_TOLERANCE = 1e-3, 1e-6
# Limits for which the kernel of a rule fits in a chain, whatever its state_dtype.
MOST_SLOTS, MOST_HYPER = 100, 200

# An update rule, a function of scalars.
Rule: TypeAlias = Callable[..., Number | tuple[Number, ...]]
State: TypeAlias = Collection[str] | Mapping[str, float]


class CustomOptimizer(Optimizer):
    """Base class of the classes that `optimizer` makes. learning_rate: None is the default of the rule's lr."""

    _internal = Optimizer._internal | {"default_rate", "defaults", "initial_state", "rule", "takes_t"}

    rule: ClassVar[Rule]
    takes_t: ClassVar[bool]  # whether the rule takes the number of the update, after lr
    default_rate: ClassVar[float | None]
    defaults: ClassVar[dict[str, float]]  # of the hyper-parameters
    initial_state: ClassVar[dict[str, float]]

    def __init__(self, learning_rate: "Rate | None" = None, *, weight_decay: float = 0.0, **options: Any) -> None:
        learning_rate = self.default_rate if learning_rate is None else learning_rate
        if learning_rate is None:
            raise type_error("learning_rate", f"a number or a schedule: {type(self).__name__} has no default", "none")
        given = {hyper: options.pop(hyper, value) for hyper, value in self.defaults.items()}
        super().__init__(learning_rate, {"weight_decay": weight_decay, **given}, **options)

    def initial(self, slot: str) -> float:
        return self.initial_state[slot]

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return lr, *((t,) if self.takes_t else ()), *(self.hyper[hyper] for hyper in self.defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_formula": fingerprint.of_optimizer(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        formula = state.pop("_formula")
        vars(self).update(state)
        if not fingerprint.agree(formula, fingerprint.of_optimizer(self)):
            raise pickle.UnpicklingError(
                f"optimizer {type(self).__name__}: not the rule that was pickled, but another one"
            )


@overload
def optimizer(function: "Rule", *, state: "State" = (), nonnegative: Collection[str] = ()) -> type[CustomOptimizer]: ...
@overload
def optimizer(
    function: None = None, *, state: "State" = (), nonnegative: Collection[str] = ()
) -> "Callable[[Rule], type[CustomOptimizer]]": ...
def optimizer(
    function: "Rule | None" = None, *, state: "State" = (), nonnegative: Collection[str] = ()
) -> "type[CustomOptimizer] | Callable[[Rule], type[CustomOptimizer]]":
    """Makes an update rule an optimizer.

        @fastgd.custom.optimizer(state=["m"])
        def lion(p, g, m, lr, beta1=0.9, beta2=0.99):
            update = np.sign(beta1 * m + (1 - beta1) * g)
            return p - lr * update, beta2 * m + (1 - beta2) * g

        net.fit(X, y, optimizer=lion(1e-4, beta2=0.98))

    The function takes scalars: a parameter p, its gradient g, the value of each state slot, the learning rate lr (which
    may have a default), optionally the number t = 1, 2, ... of the update, and hyper-parameters with defaults. It
    returns the new p, followed by the new value of every slot if there are any. It may use whatever Numba compiles:
    arithmetic, conditions, loops, math and numpy functions, and other such functions. An exception ends the step in the
    middle of the update: some parameters and some of the state have then been updated.

    state: names of the slots, which start at 0, or a mapping of names to initial values.
    nonnegative: names of slots that are never negative, for which 8-bit state is more precise.

    Returns a class like `fastgd.Adam`, which takes a learning rate, the hyper-parameters, weight_decay, and the options
    of every optimizer. Weight decay is added to g before the call, or subtracted from p after it (decoupled=True).
    Raises TypeError or ValueError if the function is not such a rule.
    """
    if function is None:
        return lambda function: optimizer(function, state=state, nonnegative=nonnegative)
    name = _checked_name(function, OPTIMIZERS, Optimizer)
    initial = dict(state) if isinstance(state, Mapping) else dict.fromkeys(state, 0.0)
    initial = {slot: check_rounded(slot, check_number(slot, value)) for slot, value in initial.items()}
    expected = ("p", "g", *initial, "lr")
    names = tuple(inspect.signature(function).parameters)
    if names[: len(expected)] != expected:
        raise type_error(name, f"arguments {', '.join(expected)}, then hyper-parameters", ", ".join(names))
    rest = names[len(expected) :]
    takes_t = rest[:1] == ("t",)
    taken = {"learning_rate", "weight_decay", "shrink", "seed", "n", "blocks", *Options.__annotations__}
    taken |= {f"{slot}_base" for slot in initial}
    defaults = _defaults(function, rest[takes_t:], taken)
    for what, given, most in (("slots", initial, MOST_SLOTS), ("hyper-parameters", defaults, MOST_HYPER)):
        if len(given) > most:
            raise value_error(name, f"at most {most} {what}", len(given))
    _check_names(function, initial, {"average", "accumulated", *taken})
    for slot in nonnegative:
        if slot not in initial:
            raise value_error("nonnegative", f"names of state slots: {', '.join(initial)}", repr(slot))
    arrays = {"p": InOut("n")}
    for slot in initial:
        arrays[slot] = InOut("n", domain="nonnegative" if slot in nonnegative else "real")
    arrays["g"] = In("n")
    given = ("lr", *rest)
    learning_rate = inspect.signature(function).parameters["lr"].default
    learning_rate = None if learning_rate is inspect.Parameter.empty else check_number("lr", learning_rate)
    kernel = _kernel(
        f"custom_{name}_step",
        function,
        arrays,
        (*given, "weight_decay", "shrink"),
        functools.partial(_rule_source, initial, given),
    )

    made: type[CustomOptimizer] = _optimizer_class(function, kernel, initial, takes_t, learning_rate, defaults)
    OPTIMIZERS[name] = made
    return made


@overload
def activation(
    function: "Callable[..., Number]", *, derivative: "Callable[..., Number] | None" = None
) -> Activation: ...
@overload
def activation(
    function: None = None, *, derivative: "Callable[..., Number] | None" = None
) -> "Callable[[Callable[..., Number]], Activation]": ...
def activation(
    function: "Callable[..., Number] | None" = None, *, derivative: "Callable[..., Number] | None" = None
) -> "Activation | Callable[[Callable[..., Number]], Activation]":
    """Makes a function of a scalar an activation.

        @fastgd.custom.activation(derivative=lambda x, slope: 1.0 if x > 0 else slope)
        def leaky(x, slope=0.1):
            return x if x > 0 else slope * x

        fastgd.Dense(64, "leaky")    # or fastgd.Dense(64, leaky(slope=0.2))

    function: of x and of parameters with defaults.
    derivative: a function of the same arguments, evaluated in every forward pass; it is compared with finite
        differences. Without it, the derivative is a finite difference of fourth order, which takes four evaluations of
        the function and is less accurate; a warning says so.

    Returns an `Activation`. Raises ValueError if `derivative` is not the derivative of the function.
    """
    if function is None:
        return lambda function: activation(function, derivative=derivative)
    name = _checked_name(function, ACTIVATIONS, Activation)
    names = tuple(inspect.signature(function).parameters)
    if names[:1] != ("x",):
        raise type_error(name, "arguments x, then parameters", ", ".join(names))
    parameters = _defaults(function, names[1:], {"y", "rows", "n"})
    if derivative is None:
        warnings.warn(f"activation {name!r}: no derivative given; differences take its place", stacklevel=2)
    elif not callable(derivative):
        raise type_error("derivative", "a function", shown(derivative))
    else:
        _check_derivative(name, function, derivative, parameters.values())
    arrays = {"y": Out("rows", "n"), "x": InOut("rows", "n")}
    source = functools.partial(_activation_source, names[1:], derivative is not None)
    forward = _kernel(f"{name}_forward", function, arrays, names[1:], source, derivative, elementwise=True)
    ACTIVATIONS[name] = Activation(name, forward, slope_backward, "slope", parameters=parameters)
    return ACTIVATIONS[name]


@overload
def loss(
    function: "Callable[..., Number]", *, labels: bool = False, link: Kernel | None = None, targets: int | None = None
) -> Loss: ...
@overload
def loss(
    function: None = None, *, labels: bool = False, link: Kernel | None = None, targets: int | None = None
) -> "Callable[[Callable[..., Number]], Loss]": ...
def loss(
    function: "Callable[..., Number] | None" = None,
    *,
    labels: bool = False,
    link: Kernel | None = None,
    targets: int | None = None,
) -> "Loss | Callable[[Callable[..., Number]], Loss]":
    """Makes a function of a row of outputs and its target a loss.

        @fastgd.custom.loss
        def pinball(z, y, dz, q=0.9):
            total = 0.0
            for j in range(z.size):
                d = y[j] - z[j]
                dz[j] = -q if d > 0 else 1 - q
                total += q * d if d > 0 else (q - 1) * d
            return total

        fastgd.Network(8, layers, loss="pinball")    # or loss=pinball(q=0.5)

    function: takes the outputs z (k,) of a row, its target y, an array dz (k,), and parameters with defaults. It
        returns the loss of the row, and fills dz with its derivatives with respect to z. The loss of a minibatch is the
        mean over its rows.
    labels: whether y is the integer class of the row instead of values (k,).
    targets: the number of values of y, (targets,), if it differs from k, the number of outputs: 1 for the quantiles of
        one number, say.
    link: the kernel that turns outputs into predictions, such as fastgd.kernels.softmax_forward; None for identity.

    Returns a `Loss`. `fastgd.check_gradients` compares value and gradient.
    """
    if function is None:
        return lambda function: loss(function, labels=labels, link=link, targets=targets)
    name = _checked_name(function, LOSSES, Loss)
    names = tuple(inspect.signature(function).parameters)
    if names[:3] != ("z", "y", "dz"):
        raise type_error(name, "arguments z, y, dz, then parameters", ", ".join(names))
    if link is not None and not isinstance(link, Kernel):
        raise type_error("link", "a kernel such as fastgd.kernels.softmax_forward", shown(link))
    if targets is not None:
        targets = check_integer("targets", targets, 1)
        if labels:
            raise value_error("targets", "None for labels", targets)
    of_values = In("rows", "k") if targets is None else In("rows", "targets")
    arrays = {
        "loss": Out("rows"),
        "dz": Out("rows", "k"),
        "z": In("rows", "k"),
        "y": In("rows", dtype="int64", domain="labels", below="k") if labels else of_values,
        "weight": In("rows"),
    }
    parameters = _defaults(function, names[3:], {"loss", "weight", "rows", "k", "targets"})
    source = functools.partial(_loss_source, names[3:])
    kernel = _kernel(f"custom_{name}_loss", function, arrays, names[3:], source)
    LOSSES[name] = Loss(name, (kernel,), link, 2 if labels else 1, n_targets=targets, parameters=parameters)
    return LOSSES[name]


def _optimizer_class(function, kernel, initial, takes_t, learning_rate, defaults):
    """A subclass of `CustomOptimizer`."""
    kind = inspect.Parameter
    signature = [kind("learning_rate", kind.POSITIONAL_OR_KEYWORD, default=learning_rate)]
    signature += [kind(n, kind.KEYWORD_ONLY, default=v) for n, v in {**defaults, "weight_decay": 0.0}.items()]
    signature.append(kind("options", kind.VAR_KEYWORD))
    attributes = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__signature__": inspect.Signature(signature),
        "kernel": kernel,
        "rule": staticmethod(function),
        "takes_t": takes_t,
        "default_rate": learning_rate,
        "defaults": defaults,
        "initial_state": initial,
    }
    return type(function.__name__, (CustomOptimizer,), attributes)


# ---- checks


def _checked_name(function, table, kind):
    """The name of a user's function. It must differ from the names of the package's functions. A user's function with
    the same name is replaced."""
    if not inspect.isfunction(function):
        raise type_error("function", "a function", shown(function))
    name = function.__name__
    if not name.isidentifier():
        raise value_error("function", "a function with a name", name)
    known = table.get(name)
    if known is not None and not _is_custom(known, kind):
        raise value_error("function", f"a name other than {', '.join(map(repr, table))}", repr(name))
    return name


def _is_custom(known, kind):
    if kind is Optimizer:
        return issubclass(known, CustomOptimizer)
    kernel = known.forward if kind is Activation else known.kernels[0]
    return kernel is not None and bool(kernel.functions)


def _check_names(function, names, taken):
    """Raises unless the names of parameters are allowed and not taken."""
    for name in names:
        kind = inspect.signature(function).parameters.get(name)
        if kind is not None and kind.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise type_error(function.__name__, "positional arguments", str(kind))
        if name in taken or name.startswith("_"):
            raise value_error(
                function.__name__, f"parameters of other names than _... and {', '.join(taken)}", repr(name)
            )


def _defaults(function, names, taken=()):
    """The defaults of parameters, which all must have one."""
    _check_names(function, names, taken)
    found = {}
    for name in names:
        default = inspect.signature(function).parameters[name].default
        if default is inspect.Parameter.empty:
            raise type_error(function.__name__, f"a default value for {name!r}", "none")
        found[name] = check_rounded(name, check_number(name, default))
    return found


def _difference(f, x, width):
    """The derivative of f at x to fourth order."""
    return (8 * (f(x + width) - f(x - width)) - (f(x + 2 * width) - f(x - 2 * width))) / (12 * width)


def _check_derivative(name, function, derivative, parameters):
    """Raises unless the derivative agrees with differences of the function, wherever the function does not raise."""
    raised = []
    for x in CHECKED_POINTS.tolist():
        try:
            wide, narrow = (_difference(lambda v: function(v, *parameters), x, width) for width in (WIDTH, WIDTH / 2))
        except Exception as error:
            raised.append(error)
            continue
        got = derivative(x, *parameters)
        tolerance = DERIVATIVE_TOLERANCE * max(1.0, abs(narrow))
        if math.isfinite(narrow) and abs(wide - narrow) <= tolerance / 10 and not abs(got - narrow) <= tolerance:
            raise value_error("derivative", f"the derivative of {name}, {narrow:.8g} at x = {x:.4g}", got)
    if len(raised) == len(CHECKED_POINTS):
        raise raised[0]


# ---- kernels


class _Python:
    """Stands for a `jit.Compiler`, but does not compile."""

    def user(self, function):
        return function


def _kernel(name, function, arrays, scalars, source, derivative=None, *, elementwise=False):
    """A kernel whose loop, for Numba and for Python, is generated as source that calls the function as `_function`.
    source(is_compiled): returns the lines. A compiled function returns its value, and whether Python would have
    raised."""
    known = getattr(kernels, name, None)
    if known is not None and not known.functions:
        raise value_error("function", f"a name whose kernel, {name}, is not one of the package", function.__name__)

    def build(compiler, dtype=None):
        lines = [f"def loop({', '.join([*arrays, *scalars])}):", *source(dtype is not None)]
        names = {"np": np, "_width": WIDTH, "_function": compiler.user(function)}
        names["_derivative"] = derivative and compiler.user(derivative)
        exec(compile("\n    ".join(lines), f"<loop of {name}>", "exec"), names)
        return names["loop"]

    in_python = build(_Python())

    def reference(*arguments):
        in_python(*arguments)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, annotation=a) for n, a in arrays.items()]
    parameters += [inspect.Parameter(n, kind, annotation=float) for n in scalars]
    reference.__signature__ = inspect.Signature(parameters)
    reference.__name__, reference.__module__, reference.__doc__ = name, function.__module__, function.__doc__
    made = Kernel(reference, elementwise=elementwise)
    made.build_loop = build
    made.functions = (function,) if derivative is None else (function, derivative)
    setattr(kernels, name, made)
    return made


def _rounded(array, scalars):
    """Lines that round scalars to the precision of an array."""
    return [f"{name} = {array}.dtype.type({name})" for name in scalars]


# The end of a compiled loop, where `_bad` says whether Python would have raised.
RAISE = ["if _bad:", "    raise ValueError('math domain error')"]


def _assigned(target, call, is_compiled):
    """Lines that assign the value of a call of a user's function."""
    return [f"({target}), _b = {call}", "_bad |= _b"] if is_compiled else [f"{target} = {call}"]


def _rule_source(state, given, is_compiled):
    slots = "".join(f", {slot}[_i]" for slot in state)
    call = f"_function(_old, g[_i] + weight_decay * _old{slots}, {', '.join(given)})"
    return [
        *_rounded("p", (*given, "weight_decay", "shrink")),
        "_bad = False",
        "for _i in range(p.size):",
        "    _old = p[_i]",
        *(f"    {line}" for line in _assigned(f"_new{slots}", call, is_compiled)),
        "    p[_i] = _new - shrink * _old",
        *(RAISE if is_compiled else []),
    ]


def _activation_source(parameters, has_derivative, is_compiled):
    more = "".join(f", {name}" for name in parameters)
    if has_derivative:
        slope = _assigned("x[_i, _j]", f"_derivative(_v{more})", is_compiled)
    else:
        slope = ["_h = _width * max(1.0, abs(_v))"]
        for name, n in (("_a", 1), ("_c", -1), ("_d", 2), ("_e", -2)):
            slope += _assigned(name, f"_function(_v + {n} * _h{more})", is_compiled)
        slope.append("x[_i, _j] = (8 * (_a - _c) - (_d - _e)) / (12 * _h)")
    return [
        *_rounded("x", parameters),
        "_bad = False",
        "for _i in range(x.shape[0]):",
        "    for _j in range(x.shape[1]):",
        f"        _v = {'x[_i, _j]' if has_derivative else 'np.float64(x[_i, _j])'}",
        *(f"        {line}" for line in _assigned("y[_i, _j]", f"_function(_v{more})", is_compiled)),
        *(f"        {line}" for line in slope),
        *(RAISE if is_compiled else []),
    ]


def _loss_source(parameters, is_compiled):
    more = "".join(f", {name}" for name in parameters)
    return [
        *_rounded("z", parameters),
        "_bad = False",
        "for _i in range(z.shape[0]):",
        *(f"    {line}" for line in _assigned("_value", f"_function(z[_i], y[_i], dz[_i]{more})", is_compiled)),
        "    loss[_i] = weight[_i] * _value",
        "    for _j in range(z.shape[1]):",
        "        dz[_i, _j] *= weight[_i]",
        *(RAISE if is_compiled else []),
    ]


show_names(__name__)
