"""Learning rate as a pure function of the step.

A schedule is called with the number of updates made so far (0 at the first update), a number or an array of numbers,
and returns the learning rate. Every optimizer takes a number, a schedule, or any function of the step. `fit` computes
the rates of schedules beforehand, as arrays that the native loop reads. Only `reduce_on_plateau` observes the loss.
"""

import copy
import dataclasses
import functools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from .core.choice import AT_LEAST_ONE, AT_LEAST_ZERO, POSITIVE, SHARE, Range
from .core.for_users import ForUsers
from .core.hints import explains_arguments, of_schedule
from .core.types import Rate
from .errors import check_integer, check_number, choose, shown, type_error, value_error

__all__ = [
    "Schedule", "constant", "cosine", "cosine_restarts", "exponential", "from_config", "inverse_time", "one_cycle",
    "piecewise", "polynomial", "reduce_on_plateau", "step", "warmup",
]  # fmt: skip

# A learning rate for one step, or for each of an array of steps.
Rates: TypeAlias = float | npt.NDArray[np.float64]
FACTOR: Range = {"low": 0.0, "low_open": True, "high": 1.0}


@functools.cache
def _field_types(cls: type) -> dict[str, Any]:
    """The types of a schedule's fields by name, also where the module postpones annotations."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a type that only type checkers know
        named = {"int": int, "float": float, "Rate": Rate}
        return {field.name: named.get(str(field.type), field.type) for field in dataclasses.fields(cls)}


class Schedule(ForUsers):
    """Base of the schedules: dataclasses with a method `learning_rates`. Fields are checked by type (int, float or
    `Rate`) and against the class's `ranges`. One that depends on the loss has `observes_loss = True` and a method
    `observe(loss)`.

    A call with one step returns a float, a call with an array of steps an array of that shape."""

    _internal = frozenset({"config", "copy", "observes_loss", "ranges"})

    ranges: ClassVar[dict[str, Range]] = {"learning_rate": POSITIVE, "final": AT_LEAST_ZERO}
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        cls: Any = type(self)  # mypy takes a class for an instance that is not hashable
        types = _field_types(cls)
        for field in dataclasses.fields(self):
            if not field.init:
                continue
            value, limits = getattr(self, field.name), self.ranges.get(field.name, {})
            if types[field.name] is int:
                value = check_integer(field.name, value, int(limits.get("low", 0)))
            elif types[field.name] is float:
                value = check_number(field.name, value, **limits)
            elif types[field.name] == Rate:
                value = _as_function(field.name, value)
            object.__setattr__(self, field.name, value)

    @typing.overload
    def __call__(self, step: int | np.integer[Any]) -> float: ...
    @typing.overload
    def __call__(self, step: npt.NDArray[Any]) -> npt.NDArray[np.float64]: ...
    def __call__(self, step: Any) -> Any:
        with np.errstate(all="ignore"):  # tiny rates underflow to 0 under any numpy error state of the user
            return np.asarray(self.learning_rates(np.asarray(step)), np.float64)[()]

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        """The learning rates at an array of steps, which has no dimensions for a single step."""
        raise NotImplementedError

    @property
    def observes_loss(self) -> bool:
        """Whether the schedule depends on losses, which are then passed to its `observe`."""
        return False

    def copy(self) -> Self:
        """A copy that observes losses independently of this schedule."""
        twin = copy.copy(self)
        vars(twin).update({name: value.copy() for name, value in vars(self).items() if isinstance(value, Schedule)})
        return twin

    def config(self) -> dict[str, Any] | None:
        """Name and fields as a dict for JSON, with that of a schedule among the fields nested in it; None if the class,
        or a function among the fields, is the user's own."""
        if SCHEDULES.get(type(self).__name__) is not type(self):
            return None
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in fields.items():
            if callable(value):
                fields[name] = value.config() if isinstance(value, Schedule) else None
                if fields[name] is None:
                    return None
        return {"name": type(self).__name__, **fields}


def notify(schedule: Any, loss: float) -> bool:
    """Passes a loss to a schedule, or a user's object, that observes losses; returns whether it does."""
    observes = bool(getattr(schedule, "observes_loss", False))
    if observes:
        schedule.observe(loss)
    return observes


def _as_function(argument, value):
    """Returns a schedule, or a function of the step, itself, and a number as a constant schedule."""
    return value if callable(value) else constant(check_number(argument, value, **POSITIVE))


def _rates_of(schedule: Any, step: Any) -> Rates:
    """The rates of a schedule, or of a function that takes a single step, at a step or an array of steps."""
    if isinstance(schedule, Schedule) or np.ndim(step) == 0:
        rates: Rates = schedule(step if isinstance(schedule, Schedule) else int(step))
        return rates
    return np.array([schedule(int(one)) for one in np.ravel(step)], np.float64).reshape(np.shape(step))


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a `config`. Raises TypeError or ValueError that names a field that is not valid."""
    fields = {name: from_config(value) if isinstance(value, dict) else value for name, value in config.items()}
    kind: type[Schedule] = choose("schedule", fields.pop("name"), SCHEDULES)
    state = {field.name: fields.pop(field.name) for field in dataclasses.fields(kind) if not field.init}
    made = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    for name, value in state.items():
        default = getattr(made, name)
        if value is not None or default is not None:
            setattr(made, name, type(0.0 if default is None else default)(check_number(name, value)))
    return made


@dataclasses.dataclass(frozen=True)
class constant(Schedule):
    """lr(t) = learning_rate."""

    learning_rate: float

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return np.broadcast_to(self.learning_rate, step.shape)


@dataclasses.dataclass(frozen=True)
class piecewise(Schedule):
    """lr(t) = rates[i] for steps[i - 1] <= t < steps[i]. steps ascend; there is one more rate than steps."""

    steps: Sequence[int]
    rates: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("steps", "rates"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise type_error(name, "a list of numbers", shown(getattr(self, name)))
        steps = tuple(check_integer(f"steps[{i}]", step, 1) for i, step in enumerate(self.steps))
        rates = tuple(check_number(f"rates[{i}]", rate, 0.0) for i, rate in enumerate(self.rates))
        if list(steps) != sorted(set(steps)):
            raise value_error("steps", "ascending numbers", shown(steps))
        if len(rates) != len(steps) + 1:
            raise value_error("rates", f"{len(steps) + 1} numbers, one more than steps", len(rates))
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "rates", rates)

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return np.asarray(self.rates)[np.searchsorted(self.steps, step, side="right")]


@dataclasses.dataclass(frozen=True)
class step(Schedule):
    """lr(t) = learning_rate factor^floor(t / every). As torch's StepLR."""

    ranges = Schedule.ranges | {"every": AT_LEAST_ONE, "factor": FACTOR}
    learning_rate: float
    every: int
    factor: float = 0.1

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return self.learning_rate * self.factor ** (step // self.every)


@dataclasses.dataclass(frozen=True)
class exponential(Schedule):
    """lr(t) = learning_rate factor^(t / every): falls by `factor` every `every` steps, a little each step. As optax's
    exponential_decay."""

    ranges = Schedule.ranges | {"every": AT_LEAST_ONE, "factor": FACTOR}
    learning_rate: float
    every: int
    factor: float = 0.1

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return self.learning_rate * self.factor ** (step / self.every)


@dataclasses.dataclass(frozen=True)
class inverse_time(Schedule):
    """lr(t) = learning_rate / (1 + rate t). Robbins & Monro 1951, doi:10.1214/aoms/1177729586."""

    ranges = Schedule.ranges | {"rate": AT_LEAST_ZERO}
    learning_rate: float
    rate: float

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return self.learning_rate / (1 + self.rate * step)


@dataclasses.dataclass(frozen=True)
class polynomial(Schedule):
    """lr(t) = final + (learning_rate - final) (1 - min(t / total_steps, 1))^power; linear with power 1. As optax's
    polynomial_schedule, and with final 0 torch's PolynomialLR."""

    ranges = Schedule.ranges | {"total_steps": AT_LEAST_ONE, "power": POSITIVE}
    learning_rate: float
    total_steps: int
    power: float = 1.0
    final: float = 0.0

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        left = 1 - np.minimum(step / self.total_steps, 1.0)
        return self.final + (self.learning_rate - self.final) * left**self.power


@dataclasses.dataclass(frozen=True)
class cosine(Schedule):
    """Linear warm-up, then half a cosine from learning_rate to final:
    lr(t) = learning_rate (t + 1) / warmup_steps for t < warmup_steps, then
    final + (learning_rate - final) (1 + cos(pi s)) / 2, s = (t - warmup_steps) / (total_steps - warmup_steps),
    and final after total_steps, which include the warm-up. Loshchilov & Hutter 2017, arXiv:1608.03983."""

    ranges = Schedule.ranges | {"total_steps": AT_LEAST_ONE}
    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps > self.total_steps:
            raise value_error("warmup_steps", f"at most total_steps = {self.total_steps}", self.warmup_steps)

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        rest = max(self.total_steps - self.warmup_steps, 1)
        done = np.clip((step - self.warmup_steps) / rest, 0.0, 1.0)
        falling = _half_cosine(self.learning_rate, self.final, done)
        rising = self.learning_rate * (step + 1) / max(self.warmup_steps, 1)
        return np.where(step < self.warmup_steps, rising, falling)


@dataclasses.dataclass(frozen=True)
class cosine_restarts(Schedule):
    """Half a cosine from learning_rate to final in `period` steps, then again from the start, each period `growth`
    times as long as the last: lr = final + (learning_rate - final) (1 + cos(pi s / T)) / 2 at step s of a period of T
    steps. Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5. As torch's CosineAnnealingWarmRestarts, in which growth is
    an integer."""

    ranges = Schedule.ranges | {"period": AT_LEAST_ONE, "growth": AT_LEAST_ONE}
    learning_rate: float
    period: int
    growth: float = 1.0
    final: float = 0.0

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        step = step.astype(np.float64)
        if self.growth == 1:
            done = step % self.period / self.period
        else:
            # After n periods period (growth^n - 1) / (growth - 1) steps are done.
            ratio = 1 + step * (self.growth - 1) / self.period
            n = np.floor(np.log(ratio) / math.log(self.growth) + 1e-12)
            start = self.period * (self.growth**n - 1) / (self.growth - 1)
            done = np.clip((step - start) / (self.period * self.growth**n), 0.0, 1.0)
        return _half_cosine(self.learning_rate, self.final, done)


@dataclasses.dataclass(frozen=True)
class one_cycle(Schedule):
    """Half a cosine up from peak / divisor to peak, in a fraction `rising` of total_steps, and half a cosine down to
    peak / (divisor final_divisor) at the last step, where it stays. Smith & Topin 2018, arXiv:1708.07120. As torch's
    OneCycleLR, without its change of the momentum."""

    ranges = Schedule.ranges | {
        "peak": POSITIVE,
        "total_steps": AT_LEAST_ONE,
        "rising": SHARE,
        "divisor": AT_LEAST_ONE,
        "final_divisor": AT_LEAST_ONE,
    }
    peak: float
    total_steps: int
    rising: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        step = step.astype(np.float64)
        top, last = self.rising * self.total_steps - 1, self.total_steps - 1.0
        start = self.peak / self.divisor
        up = _half_cosine(start, self.peak, np.clip(step / top, 0.0, 1.0) if top > 0 else 1.0)
        done = np.clip((step - top) / max(last - top, 1e-9), 0.0, 1.0)
        down = _half_cosine(self.peak, start / self.final_divisor, done)
        return np.where(step <= top, up, down)


@dataclasses.dataclass(frozen=True)
class warmup(Schedule):
    """Linear warm-up before any schedule: lr(t) = start + (schedule(0) - start) (t + 1) / steps for t < steps, then
    schedule(t - steps). So a schedule over total_steps ends at step steps + total_steps. Goyal et al. 2017,
    arXiv:1706.02677.

    schedule: a schedule, a number, or a function of the step."""

    ranges = Schedule.ranges | {"start": AT_LEAST_ZERO}
    schedule: Rate
    steps: int
    start: float = 0.0

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        rising = self.start + (_rates_of(self.schedule, 0) - self.start) * (step + 1) / max(self.steps, 1)
        return np.where(step < self.steps, rising, _rates_of(self.schedule, np.maximum(step - self.steps, 0)))

    @property
    def observes_loss(self) -> bool:
        return bool(getattr(self.schedule, "observes_loss", False))

    def observe(self, loss: float) -> None:
        """Passes the loss to the schedule."""
        notify(self.schedule, loss)


@dataclasses.dataclass
class reduce_on_plateau(Schedule):
    """lr(t) = max(scale learning_rate(t), final). scale starts at 1, and is multiplied by `factor` when for more than
    `patience` observations in a row the loss has not fallen below the best one by more than threshold |best|; after
    that, `cooldown` observations do not count. `fit` observes the validation loss, or without validation data the
    training loss, after each epoch; your own loop calls `optimizer.observe(loss)`. Each optimizer has its own copy of
    the schedule. As torch's ReduceLROnPlateau(threshold_mode="rel"), except where the best loss is negative, where
    torch takes smaller improvements.

    learning_rate: a number, another schedule, or a function of the step."""

    ranges = Schedule.ranges | {"factor": FACTOR, "threshold": AT_LEAST_ZERO}
    learning_rate: Rate
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    final: float = 0.0
    # What it has observed.
    scale: float = dataclasses.field(default=1.0, init=False)
    best: float | None = dataclasses.field(default=None, init=False)
    waited: int = dataclasses.field(default=0, init=False)
    cooldown_left: int = dataclasses.field(default=0, init=False)

    observes_loss = True

    def learning_rates(self, step: "npt.NDArray[Any]") -> "Rates":
        return np.maximum(self.scale * _rates_of(self.learning_rate, step), self.final)

    def observe(self, loss: float) -> None:
        """Observes a loss. One that is not finite is no improvement."""
        loss = float(loss)
        if math.isfinite(loss) and (self.best is None or loss < self.best - self.threshold * abs(self.best)):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.cooldown_left:
            self.cooldown_left, self.waited = self.cooldown_left - 1, 0
        if self.waited > self.patience:
            self.scale *= self.factor
            self.cooldown_left, self.waited = self.cooldown, 0


def _half_cosine(start: float, end: float, done: Rates) -> Rates:
    """Half a cosine from start to end, as `done` goes from 0 to 1."""
    return end + (start - end) * (1 + np.cos(np.pi * done)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule
    for schedule in (
        constant, piecewise, step, exponential, inverse_time, polynomial, cosine, cosine_restarts, one_cycle, warmup,
        reduce_on_plateau,
    )
}  # fmt: skip
for _usage in (
    "constant(1e-3)", "piecewise([1000], [1e-2, 1e-3])", "step(1e-2, every=1000)", "exponential(1e-2, every=1000)",
    "inverse_time(1e-2, rate=1e-3)", "polynomial(1e-2, 1000)", "cosine(1e-3, total_steps=1000)", "warmup(1e-3, 100)",
    "cosine_restarts(1e-3, period=1000)", "one_cycle(1e-2, total_steps=1000)", "reduce_on_plateau(1e-3)",
):  # fmt: skip
    _kind = SCHEDULES[_usage.partition("(")[0]]
    _kind.__init__ = explains_arguments(_usage, of_schedule)(_kind.__init__)  # type: ignore[method-assign]
