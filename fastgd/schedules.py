"""Learning rate as a pure function of the step.

A schedule is called with the number of updates made so far (0 at the first update), a number or an array of numbers,
and returns the learning rate. Every optimizer takes one in place of a number; so does any function of the step.
"""

import dataclasses

import numpy as np

from .errors import check_integer, check_number, value_error


class Schedule:
    """Base of the schedules: frozen dataclasses whose fields are checked by name."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                low = 1 if field.name in ("every", "total_steps") else 0
                value = check_integer(field.name, value, low)
            else:
                value = check_number(field.name, value, **_RANGES[field.name])
            object.__setattr__(self, field.name, value)

    def config(self):
        """Name and fields, to be written to a file."""
        return {"name": type(self).__name__, **dataclasses.asdict(self)}


_RANGES = {
    "learning_rate": {"low": 0.0, "low_open": True},
    "factor": {"low": 0.0, "low_open": True, "high": 1.0},
    "rate": {"low": 0.0},
    "final": {"low": 0.0},
}


@dataclasses.dataclass(frozen=True)
class constant(Schedule):
    """lr(t) = learning_rate."""

    learning_rate: "float"

    def __call__(self, step):
        return np.broadcast_to(self.learning_rate, np.shape(step))[()]


@dataclasses.dataclass(frozen=True)
class step(Schedule):
    """lr(t) = learning_rate factor^floor(t / every)."""

    learning_rate: "float"
    every: "int"
    factor: "float" = 0.1

    def __call__(self, step):
        return self.learning_rate * self.factor ** (np.asarray(step) // self.every)


@dataclasses.dataclass(frozen=True)
class exponential(Schedule):
    """lr(t) = learning_rate factor^(t / every): falls by `factor` every `every` steps, a little each step."""

    learning_rate: "float"
    every: "int"
    factor: "float" = 0.1

    def __call__(self, step):
        return self.learning_rate * self.factor ** (np.asarray(step) / self.every)


@dataclasses.dataclass(frozen=True)
class inverse_time(Schedule):
    """lr(t) = learning_rate / (1 + rate t). Robbins & Monro 1951, doi:10.1214/aoms/1177729586."""

    learning_rate: "float"
    rate: "float"

    def __call__(self, step):
        return self.learning_rate / (1 + self.rate * np.asarray(step))


@dataclasses.dataclass(frozen=True)
class cosine(Schedule):
    """Linear warm-up, then half a cosine from learning_rate to final:
    lr(t) = learning_rate (t + 1) / warmup_steps for t < warmup_steps, then
    final + (learning_rate - final) (1 + cos(pi s)) / 2, s = (t - warmup_steps) / (total_steps - warmup_steps),
    and final after total_steps. Loshchilov & Hutter 2017, arXiv:1608.03983."""

    learning_rate: "float"
    total_steps: "int"
    warmup_steps: "int" = 0
    final: "float" = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.warmup_steps > self.total_steps:
            raise value_error("warmup_steps", f"at most total_steps = {self.total_steps}", self.warmup_steps)

    def __call__(self, step):
        step = np.asarray(step)
        rest = max(self.total_steps - self.warmup_steps, 1)
        done = np.clip((step - self.warmup_steps) / rest, 0.0, 1.0)
        falling = self.final + (self.learning_rate - self.final) * (1 + np.cos(np.pi * done)) / 2
        rising = self.learning_rate * (step + 1) / max(self.warmup_steps, 1)
        return np.where(step < self.warmup_steps, rising, falling)


SCHEDULES = {schedule.__name__: schedule for schedule in (constant, step, exponential, inverse_time, cosine)}
