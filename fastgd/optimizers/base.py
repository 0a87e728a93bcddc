"""Base class of the optimizers: checks hyper-parameters, holds the state, computes the scalars of future steps, and
makes steps on arrays or in a network. Over 400 lines: the options common to all optimizers affect each of these."""

import contextlib
import functools
import inspect
import numbers
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from .._plan import Stepper, Use, UseLock
from ..core import hints
from ..core.aliases import letters
from ..core.buffers import aligned_zeros
from ..core.choice import AT_LEAST_ZERO, FRACTION, POSITIVE, Range
from ..core.for_users import ForUsers
from ..core.kernel import Kernel
from ..core.types import Array, Number, Rate
from ..errors import check_flag, check_integer, check_number, choose, shown, type_error, value_error
from ..schedules import Schedule, constant, notify
from .low_memory import STATE_BLOCK, STATE_DTYPES, low_memory_kernel, new_state, slots_of
from .standalone import Converter, Standalone, check_arrays, check_pairs

if TYPE_CHECKING:
    from ..network import Network

OPTIMIZERS: dict[str, type["Optimizer"]] = {}
TINY = float(np.finfo(np.float32).tiny)  # the smallest normal float32; compiled kernels take smaller ones as 0
# A number for one update, or an array with a number for each.
Numbers: TypeAlias = float | npt.NDArray[np.float64]


class Options(TypedDict, total=False):
    """Options of every optimizer; see `Optimizer`."""

    lr: Rate
    decoupled: bool | None
    decay_biases: bool
    clip_value: float | None
    clip_norm: float | None
    accumulate: int
    ema_decay: float | None
    learning_rate_factors: Mapping[str, float] | Mapping[int, float] | None
    state_dtype: Literal["bfloat16", "8bit"] | None


# The defaults of the options; the default of `decoupled` depends on the class.
COMMON: dict[str, Any] = {
    "decay_biases": True,
    "clip_value": None,
    "clip_norm": None,
    "accumulate": 1,
    "ema_decay": None,
    "learning_rate_factors": {},
    "state_dtype": None,
}


class UpdateGroup(NamedTuple):
    """Parameters with the same update: factor of the learning rate, and whether weight decay applies."""

    factor: float
    decays: bool


class Part(NamedTuple):
    """A slice of a network's flat parameters, and the group it belongs to."""

    start: int
    stop: int
    group: UpdateGroup


# The range of a term added to a denominator.
EPS: Range = {"low": 1e-30}


def _with_lr(constructor):
    """A constructor that also takes the learning rate as lr."""

    @functools.wraps(constructor)
    def take_lr(self, *arguments, **options):
        if "lr" in options:
            if arguments or "learning_rate" in options:
                raise type_error("lr", "one learning rate (lr is learning_rate)", "another one beside it")
            options["learning_rate"] = options.pop("lr")
        constructor(self, *arguments, **options)

    return take_lr


class Optimizer(Stepper, ForUsers):
    """Base class of the optimizers.

    learning_rate: a number > 0, a schedule of `fastgd.schedules`, or any function of the number of updates made. By
        keyword it may also be called lr.
    hyper: the rule's hyper-parameters by name, each within its range in the class's `ranges`.
    A class that chooses its `kernel` by arguments sets it before it calls this constructor.

    Every optimizer also takes these options, by keyword:

    decoupled: True subtracts lr weight_decay p from the parameters (Loshchilov & Hutter 2019); False adds
        weight_decay p to the gradient (L2); None is the choice of the optimizer's paper, decoupled for AdamW and Lion.
    decay_biases: False exempts biases from weight decay: the biases of a network, or arrays with fewer than two
        dimensions.
    clip_value: clips each element of the gradient to [-clip_value, clip_value].
    clip_norm: scales the gradient down if its Euclidean norm, over all updated parameters, is larger. Applied before
        clip_value. `gradient_norm` is the norm of the last update, before clipping.
    accumulate: k makes one update every k minibatches, from the mean of their gradients. Schedules count updates. A
        partial sum at the end of an epoch, or of a `fit`, continues in the next.
    ema_decay: keeps an exponential moving average of the parameters, a <- decay a + (1 - decay) p after each update,
        starting with the parameters before the first update; see `averages` and `averaged`.
    learning_rate_factors: factors of the learning rate, by name of a network's parameter array ("w1", "b1", ...;
        `Network.views`) or by index in a list of arrays. Arrays with factor 0 are not updated and have no state.
    state_dtype: None keeps the state in the precision of the parameters; "bfloat16" in 16 bits; "8bit" in 8 bits with
        an exponent per block of 256. Both round stochastically (see fastgd.optimizers.low_memory). Rules whose kernel
        has `whole_state` take only None.

    `steps` counts the updates; `state` maps the name of each slot to a list of flat arrays, one for each part of the
    parameters. An optimizer belongs to the first network, or list of arrays, that it is used with.

    Raises TypeError or ValueError that names the argument.
    """

    _internal = frozenset({
        "allocate", "begin_run", "best", "bind", "changes", "check_fit", "check_hyper", "check_network", "clip_limit",
        "config", "counter", "discard_disturbed", "group_of", "has_converged", "initial", "is_bound", "is_plain",
        "kernel", "largest_factor", "lock", "norm", "options", "own_options", "parts_of", "prepare",
        "range_test_factor", "ranges", "rank_one_kernel", "rules", "scalars", "schedule", "slots", "table",
        "takes_all_rows", "training_pass", "update_kernel", "works_by_parts"
    })  # fmt: skip

    kernel: Kernel
    rules: ClassVar[tuple[Kernel, ...]] = ()  # the kernels that a class chooses from, if there are several
    ranges: ClassVar[dict[str, Range]] = {
        "learning_rate": POSITIVE,
        "weight_decay": AT_LEAST_ZERO,
        "clip_value": POSITIVE,
        "clip_norm": POSITIVE,
        "ema_decay": FRACTION,
    }
    # A kernel like `sgd_rank_one_update` with the scalars of `kernel`, if the rule has one.
    rank_one_kernel: Kernel | None = None
    # The pass that makes a training step, or None for the fastest one; whether a run trains on all rows at a time.
    training_pass: ClassVar[str | None] = None
    takes_all_rows: ClassVar[bool] = False
    decoupled: bool = False
    # The fraction of the rate found by a range test that suits a whole training.
    range_test_factor: ClassVar[float] = 1.0

    schedule: Callable[[int], float]  # the learning rate as a function
    decay_biases: bool
    clip_value: float | None
    clip_norm: float | None
    accumulate: int
    ema_decay: float | None
    learning_rate_factors: dict[str | int, float]
    state: dict[str, list[npt.NDArray[Any]]]
    _learning_rate: Rate
    _layout: list[tuple[int, str]] | None
    _network: "weakref.ref[Network] | None"
    _known_rate: tuple[Callable[[int], float], int, float] | None

    def __init__(
        self,
        learning_rate: "Rate",
        hyper: Mapping[str, float],
        *,
        decoupled: bool | None = None,
        decay_biases: bool = True,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        ema_decay: float | None = None,
        learning_rate_factors: Mapping[str, float] | Mapping[int, float] | None = None,
        state_dtype: Literal["bfloat16", "8bit"] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            parameters = inspect.signature(type(self)).parameters.values()
            known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
            known += [name for name in Options.__annotations__ if name != "lr"]
            got = f"{', '.join(unknown)}{hints.of_option(next(iter(unknown)), known)}"
            raise type_error(f"{type(self).__name__}()", f"options {', '.join(known)}", got)
        self.hyper = {name: self.check_hyper(name, value) for name, value in hyper.items()}
        self.decoupled = check_flag("decoupled", self.decoupled if decoupled is None else decoupled)
        self.decay_biases = check_flag("decay_biases", decay_biases)
        for name, value in (("clip_value", clip_value), ("clip_norm", clip_norm), ("ema_decay", ema_decay)):
            setattr(self, name, None if value is None else self.check_hyper(name, value))
        self.accumulate = check_integer("accumulate", accumulate, 1)
        self.learning_rate_factors = _checked_factors(learning_rate_factors)
        if state_dtype is not None:
            choose("state_dtype", state_dtype, dict.fromkeys(STATE_DTYPES))
            if self.kernel.whole_state:
                expected = f"None, since the state of {self.kernel.name} needs the precision of the parameters"
                raise value_error("state_dtype", expected, repr(state_dtype))
        self.state_dtype = state_dtype
        # [minibatches processed, which the native runner counts; `changes`]
        self.counter = np.zeros(2, np.int64)
        self.learning_rate = learning_rate
        self.state = {}
        self.norm = np.zeros(1)
        self._layout = None
        self._network = None
        self._standalone = None
        self._known_rate = None  # (schedule, step, learning rate) of the next step, once the schedule was called for it
        self._converter, self.lock = Converter(), UseLock("optimizer")

    def __init_subclass__(cls, **options: Any) -> None:
        """Lets the constructor of a class take lr for learning_rate, unless the class itself has another use for it."""
        super().__init_subclass__(**options)
        made = cls.__dict__.get("__init__")
        if made is not None and "lr" not in inspect.signature(made).parameters:
            cls.__init__ = _with_lr(made)  # type: ignore[method-assign]

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raises AttributeError, which knows what other libraries call the attributes."""
            raise hints.no_attribute(self, name, hints.of_attribute(name, dir(type(self)), hints.OF_STATE))

    def check_hyper(self, name: str, value: Number) -> float:
        """`value` as a float that is in its range, also when rounded to float32."""
        limits = self.ranges.get(name, {})
        return check_rounded(name, check_number(name, value, **limits), **limits)

    # ---- public attributes

    @property
    def learning_rate(self) -> Rate:
        """A number, a schedule, or a function of the number of updates made. May be set between two steps."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        if isinstance(value, Schedule):
            value = value.copy()  # its state belongs to this optimizer
        schedule = value if callable(value) else constant(self.check_hyper("learning_rate", value))
        vars(self).update(schedule=schedule, _learning_rate=value)  # atomic for other threads
        self.counter[1] += 1

    @property
    def steps(self) -> int:
        """The number of updates made."""
        return int(self.counter[0]) // self.accumulate

    @property
    def changes(self) -> int:
        """How often the user changed something that prefetched steps depend on."""
        return int(self.counter[1])

    @property
    def minibatches(self) -> int:
        """The number of minibatches processed; `accumulate` of them make a step."""
        return int(self.counter[0])

    @minibatches.setter
    def minibatches(self, value: int) -> None:
        value = check_integer("minibatches", value, 0)
        with self.lock:
            self.counter[:] = value, self.counter[1] + 1

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient of the last update before clipping; needs clip_norm."""
        if self.clip_norm is None:
            raise value_error("clip_norm", "a number, since the norm is computed only then", None)
        return float(self.norm[0])

    @property
    def averages(self) -> list[Array]:
        """The moving averages of the parameters, a flat array for each part; needs ema_decay and a first step."""
        if "average" not in self.state:
            raise value_error("ema_decay", "a number, and at least one step made", self.ema_decay)
        return self.state["average"]

    def observe(self, loss: float) -> None:
        """Passes the loss to a schedule that depends on it (`schedules.reduce_on_plateau`); `fit` does so every
        epoch."""
        if notify(self.schedule, loss):
            self.counter[1] += 1

    # ---- scalars of future steps

    @property
    def slots(self) -> list[str]:
        """Names of the state arrays of the rule."""
        return slots_of(self.kernel)

    @property
    def update_kernel(self) -> Kernel:
        """The kernel in use: `kernel`, or the kernel derived from it for low-memory state."""
        return low_memory_kernel(self.kernel, self.state_dtype) if self.state_dtype and self.slots else self.kernel

    def initial(self, slot: str) -> float:
        """Initial value of a state array."""
        return 0.0

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        """The scalars of the kernel at update t = 1, 2, ..., in order, except the last two."""
        raise NotImplementedError

    @np.errstate(all="ignore")
    def table(
        self, count: int, dtype: npt.DTypeLike, groups: Iterable[UpdateGroup]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], dict[Any, npt.NDArray[np.float64]]]:
        """(rates, active, values) for the next `count` minibatches: learning rates; whether the minibatch ends with an
        update; and per-step scalars by key, with stride 0 if they are constant.

        groups: the `UpdateGroup`s of the parameters. The arrays are shorter than `count` if the schedule uses the
        network: then only the rate of the next update is known.

        Raises TypeError or ValueError if a schedule returns anything but a finite number >= 0 that dtype can hold.
        """
        minibatches = np.arange(self.minibatches, self.minibatches + count)
        rates = self._rates(minibatches // self.accumulate)
        count, minibatches = len(rates), minibatches[: len(rates)]
        accumulated, steps = minibatches % self.accumulate, minibatches // self.accumulate
        once = rates[0] if rates.strides == (0,) else rates
        values: dict[Any, npt.NDArray[np.float64]] = {
            "keep": (accumulated > 0).astype(np.float64),
            "seed": steps.astype(np.float64),
        }
        for group in groups:
            for name, column in zip(self.kernel.scalars, self._columns(once, steps + 1.0, *group), strict=True):
                is_one = not isinstance(column, np.ndarray) or column.ndim == 0
                column = np.array([column], np.float64) if is_one else np.asarray(column, np.float64)
                values[group, name] = repeated(column, count) if is_one else np.broadcast_to(column, count)
                good = np.isfinite(column.astype(dtype))
                if not good.all():
                    step, expected = int(np.argmin(good)), f"a number whose step is finite in {dtype}"
                    if name in self.hyper:
                        raise value_error(name, expected, float(column[step]))
                    raise value_error(f"learning_rate (of step {steps[step] + 1})", expected, float(rates[step]))
        return rates, accumulated == self.accumulate - 1, values

    def _rates(self, steps):
        """Learning rates for minibatches of these updates. If the schedule uses the network, for its loss for example,
        only the rate of the next update is returned: later rates depend on the network as it will be then."""
        network = None if self._network is None else self._network()
        locks = [self.lock] if network is None else [self.lock, network.executor.lock]
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.lend(Use.BORROW))
            uses, rates, schedule = [lock.uses for lock in locks], [], self.schedule
            if isinstance(schedule, Schedule):
                rates = np.asarray(schedule(steps), np.float64)
                rates = np.broadcast_to(rates, len(steps)) if rates.ndim else repeated(rates.reshape(1), len(steps))
                known = steps[0] if [lock.uses for lock in locks] != uses else steps[-1]
                return rates[: np.searchsorted(steps, known, side="right")]
            for step in range(steps[0], steps[-1] + 1):
                rate = self._checked_rate(schedule, step)
                if [lock.uses for lock in locks] != uses:
                    rates = rates or [rate]
                    break
                rates.append(rate)
        steps = steps[: np.searchsorted(steps, steps[0] + len(rates))]
        return np.array(rates)[steps - steps[0]]

    def _checked_rate(self, schedule, step):
        known, self._known_rate = self._known_rate, None
        if known is not None and known[0] is schedule and known[1] == step:
            return known[2]
        value = schedule(step)
        value = value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
        return check_number(f"learning_rate (of step {step + 1})", value, 0.0)

    def _columns(self, lr, t, factor, decays):
        """The scalars of the kernel for an `UpdateGroup`."""
        lr = lr * factor
        decay = self.hyper.get("weight_decay", 0.0) if decays else 0.0
        added, shrink = (0.0, lr * decay) if self.decoupled else (decay, 0.0)
        return *self.scalars(lr, t), added, shrink

    def prepare(self, backend: str, dtype: npt.DTypeLike, groups: Iterable[UpdateGroup]) -> None:
        """Raises the errors of the first step before the optimizer allocates its state or is bound to parameters."""
        schedule, step = self.schedule, self.steps
        rates, *_ = self.table(1, dtype, groups)
        self._known_rate = schedule, step, float(rates[0])  # so that a user's function is called once per step
        body = self.update_kernel.choose_body(backend)
        if body != "numpy":
            self.update_kernel.address(body, np.dtype(dtype))  # which compiles it

    # ---- parts of the parameters, and their state

    def group_of(self, name: str | int, is_bias: bool) -> UpdateGroup:
        """The `UpdateGroup` of a parameter array."""
        decays = bool(self.hyper.get("weight_decay")) and (self.decay_biases or not is_bias)
        return UpdateGroup(self.learning_rate_factors.get(name, 1.0), decays)

    @property
    def is_plain(self) -> bool:
        """Whether an update is only the kernel, with the same scalars for all parameters."""
        special = self.clip_value, self.clip_norm, self.ema_decay, self.state_dtype
        return all(value is None for value in special) and self.accumulate == 1 and not self.learning_rate_factors

    @property
    def clip_limit(self) -> float | None:
        """The largest magnitude of an element of a clipped gradient, or None."""
        return min((limit for limit in (self.clip_value, self.clip_norm) if limit is not None), default=None)

    @property
    def largest_factor(self) -> float:
        return max([1.0, *self.learning_rate_factors.values()])

    @property
    def is_bound(self) -> bool:
        """Whether the optimizer belongs to a network or to arrays. It does from its first step on."""
        return self._layout is not None

    def check_fit(self, parameters: Sequence[Array]) -> None:
        """Raises unless the state, if there is one, fits these flat parameter arrays."""
        shapes = [(p.size, str(p.dtype)) for p in parameters]
        if self.is_bound and self._layout != shapes:
            raise value_error("params", f"arrays with the sizes and dtypes of the first step, {self._layout}", shapes)

    def allocate(self, parameters: Sequence[Array]) -> None:
        """Allocates the state for flat parameter arrays on first use; later checks that it fits them."""
        self.check_fit(parameters)
        if not self.is_bound:
            layout = [(p.size, str(p.dtype)) for p in parameters]
            state: dict[str, list[npt.NDArray[Any]]] = {}
            for p in parameters:
                for name, array in self._new_state(p).items():
                    state.setdefault(name, []).append(array)
            self._layout, self.state = layout, state  # complete, even if a signal interrupts

    def _new_state(self, p):
        """The state of a flat parameter array, by name."""
        state, slots = {}, self.slots
        if self.state_dtype is None:
            # Offset against the parameters and the gradient of a network; see `aligned_zeros`.
            _, arrays = aligned_zeros([p.size] * len(slots), p.dtype, eighth=2, like=p)
            for slot, array in zip(slots, arrays, strict=True):
                array += self.initial(slot)
                state[slot] = array
        else:
            state = new_state(self.kernel, p, self.state_dtype, [self.initial(slot) for slot in slots])
        if self.accumulate > 1:
            state["accumulated"] = np.zeros(p.size, p.dtype)
        if self.ema_decay is not None:
            state["average"] = p.copy()
        return state

    # ---- in a network

    def check_network(self, network: "Network") -> None:
        """Raises unless this optimizer is unused or belongs to this network: its state belongs to the parameters."""
        if self._network is not None and self._network() is not network:
            raise value_error("optimizer", "one that drives no other network", f"{self!r}, which drives another")
        unknown = [name for name in self.learning_rate_factors if name not in network.views()]
        if unknown:
            expected = f"names of this network's parameters: {', '.join(network.views())}"
            raise value_error("learning_rate_factors", expected, repr(unknown[0]))
        self.check_fit([network.parameters[part.start : part.stop] for part in self.parts_of(network)])

    def parts_of(self, network: "Network") -> list[Part]:
        """Slices of the flat parameters and their groups, without parameters whose factor is 0."""
        parts: list[Part] = []
        start = 0
        for name, view in network.views().items():
            group, stop = self.group_of(name, start >= network.n_weights), start + view.size
            if parts and parts[-1].stop == start and parts[-1].group == group:
                parts[-1] = Part(parts[-1].start, stop, group)
            elif group.factor:
                parts.append(Part(start, stop, group))
            start = stop
        return parts

    def bind(self, network: "Network") -> list[Part]:
        """Binds the optimizer to a network for good; returns the parts of its parameters."""
        self.check_network(network)
        parts = self.parts_of(network)
        self.allocate([network.parameters[part.start : part.stop] for part in parts])
        self._network = weakref.ref(network)
        return parts

    def state_bytes(self, network: "Network") -> int:
        """Bytes of the state for a network."""
        itemsize, total = network.dtype.itemsize, 0.0
        per_slot = {None: itemsize, "bfloat16": 2, "8bit": 1 + 4 / STATE_BLOCK}[self.state_dtype]
        for start, stop, _ in self.parts_of(network):
            extra = itemsize * ((self.accumulate > 1) + (self.ema_decay is not None))
            total += (stop - start) * (len(self.slots) * per_slot + extra)
        return int(total)

    @property
    def works_by_parts(self) -> bool:
        """Whether part of the parameters, from any element on, can be updated before the gradient of others is
        known."""
        return self.clip_norm is None and self.state_dtype != "8bit"

    @contextlib.contextmanager
    def averaged(self, network: "Network") -> Iterator["Network"]:
        """Context in which the network's parameters are their averages: `with optimizer.averaged(network): ...`. In the
        block, the same thread may evaluate and save the network. Training it, or using it from another thread, raises
        RuntimeError."""
        self.check_network(network)
        with network.executor.lock.use(Use.BORROW), self.lock.use(Use.BORROW):
            parts = [slice(part.start, part.stop) for part in self.parts_of(network)]
            pairs, held = list(zip(parts, self.averages, strict=True)), network.parameters.copy()
            network.executor.note_change()
            try:
                for part, average in pairs:
                    network.parameters[part] = average
                with network.executor.lock.lend(Use.BORROW), self.lock.lend(Use.BORROW):
                    yield network
            finally:
                network.parameters[...] = held
                network.executor.note_change()

    def _step_network(self, network, num_threads, backend):
        """`step` for a network."""
        executor = getattr(network, "executor", None)
        if network is None:
            raise type_error("params", "a network, or arrays and their gradients: optimizer.step(net)", None)
        if executor is None:
            raise type_error("grads", "arrays like params; only a network has its own gradient", None)
        for name, value, default in (("num_threads", num_threads, None), ("backend", backend, "auto")):
            if value != default:
                raise value_error(name, f"{default!r} for a network, which has its own", shown(value))
        if not executor.fast_update(self):
            executor.update(self)

    # ---- on arrays

    def _prepared_step(self, params, grads, num_threads, backend):
        """`step` for any arguments: checks and raises. Prepares the fast path for the next steps."""
        with self.lock:
            self.discard_disturbed()
            self._step_with_lock(params, grads, num_threads, backend)
            self._converter.note_change()

    def discard_disturbed(self) -> None:
        """Drops prepared data that an exception or a fork may have left inconsistent."""
        if self.lock.disturbed:
            self._standalone, self._fast, self._converter = None, None, Converter()
            self.lock.disturbed = False

    def _step_with_lock(self, params, grads, num_threads, backend):
        parameters = self._converter.arrays("params", params, True)
        gradients = self._converter.arrays("grads", grads, False)
        bound = self._standalone
        if bound is not None and bound.step(self, parameters, gradients, num_threads, backend):
            return
        check_arrays("params", parameters, not isinstance(params, (list, tuple)), True)
        check_arrays("grads", gradients, not isinstance(grads, (list, tuple)), False)
        check_pairs(parameters, gradients)
        if bound is None or not bound.serves(parameters, num_threads, backend):
            self._standalone = bound = Standalone(self, parameters, gradients, num_threads, backend)
            self._fast = bound.fast
        if self._fast is None:
            bound.step_in_python(self, gradients)
        elif not bound.step(self, parameters, gradients, num_threads, backend):
            raise AssertionError("arrays that passed every check do not fit")

    # ---- in a run

    def begin_run(self) -> None:
        """Called before the first step of a `fit` that resumes no other."""

    @property
    def has_converged(self) -> bool:
        """Whether a step has found that there is nothing to gain."""
        return False

    @property
    def best(self) -> "Array | None":
        """The parameters that a run is to end with, or None for the ones that the last step left."""
        return None

    # ---- saving

    def __getstate__(self) -> dict[str, Any]:
        with self.lock.reading():  # a copy of the state between two steps
            own: dict[str, Any] = {
                "_network": None,
                "_standalone": None,
                "_converter": Converter(),
                "lock": UseLock("optimizer"),
            }
            arrays: dict[str, Any] = {"counter": self.counter.copy(), "norm": self.norm.copy()}
            arrays["state"] = {slot: [a.copy() for a in parts] for slot, parts in self.state.items()}
            if isinstance(self.schedule, Schedule):
                own["schedule"] = self.schedule.copy()
                if self._learning_rate is self.schedule:
                    own["_learning_rate"] = own["schedule"]
            return {**vars(self), **own, **arrays}

    def config(self) -> dict[str, Any]:
        """Name, hyper-parameters and schedule, for a file; None for the schedule if it is a user's function."""
        schedule = self.schedule.config() if isinstance(self.schedule, Schedule) else None
        return {"name": type(self).__name__, "learning_rate": schedule, **self.options()}

    def own_options(self) -> dict[str, Any]:
        """Arguments of the constructor except the learning rate and the options of every optimizer."""
        return dict(self.hyper)

    def options(self) -> dict[str, Any]:
        """Arguments of the constructor except the learning rate, without options that have their default."""
        common = {name: getattr(self, name) for name in COMMON if getattr(self, name) != COMMON[name]}
        if self.decoupled != type(self).decoupled:
            common["decoupled"] = self.decoupled
        return {**self.own_options(), **common}

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({self.learning_rate!r}{options})"


def repeated(value: "npt.NDArray[np.float64]", count: int) -> "npt.NDArray[np.float64]":
    """The only element of an array, `count` times, with stride 0."""
    return np.ndarray((count,), np.float64, value, 0, (0,))


T = TypeVar("T", bound=Optimizer)


def optimizer(cls: type[T]) -> type[T]:
    """Decorator: adds a class of optimizers to OPTIMIZERS, and its rules with low-memory state to `fastgd.kernels`."""
    OPTIMIZERS[cls.__name__] = cls
    for rule in cls.rules or (cls.kernel,):
        if slots_of(rule) and not rule.whole_state:
            for state_dtype in STATE_DTYPES:
                low_memory_kernel(rule, state_dtype)
    return cls


def optimizers_of_minibatches() -> dict[str, type[Optimizer]]:
    """The optimizers that train on minibatches, by name."""
    return {name: kind for name, kind in OPTIMIZERS.items() if not kind.takes_all_rows}


def check_optimizer(optimizer: object, also: str = "") -> None:
    """Raises unless it is an optimizer; `also`: text of other accepted values for the message."""
    if isinstance(optimizer, Optimizer):
        return
    hint = ""
    if isinstance(optimizer, str) and not also:
        kind = next((name for name in OPTIMIZERS if letters(name) == letters(optimizer)), "Adam")
        hint = f"; a name serves in fit alone: optimizer = fastgd.{kind}(), made once, holds the state of all steps"
    elif isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        hint = f"; {optimizer.__name__}() makes one"
    raise type_error("optimizer", f"an optimizer such as fastgd.Adam(1e-3){also}", f"{shown(optimizer)}{hint}")


def check_rounded(name: str, value: float, high: float = np.inf, high_open: bool = False, **limits: Any) -> float:
    """The number itself; raises if rounding to float32 makes it 0 or infinite, or takes it out of its range."""
    with np.errstate(all="ignore"):
        rounded = np.float32(value)
    if value and abs(rounded) < TINY:
        raise value_error(name, f"0 or a number of at least {TINY:.4g}, which float32 can hold", value)
    if np.isinf(rounded) or (high_open and rounded >= high):
        raise value_error(name, "a number that stays in its range in float32", f"{value!r}, which is {rounded}")
    return value


def _checked_factors(factors):
    """{name or index: factor of the learning rate}."""
    name = "learning_rate_factors"
    if factors is None:
        return {}
    if not isinstance(factors, Mapping):
        raise type_error(name, "a dict of names or indices of parameter arrays, and factors", shown(factors))
    for key in factors:
        if isinstance(key, bool) or not isinstance(key, (str, numbers.Integral)):
            raise type_error(name, "names or indices of parameter arrays as keys", shown(key))
    return {
        key: check_rounded(f"{name}[{key!r}]", check_number(f"{name}[{key!r}]", value, 0.0))
        for key, value in factors.items()
    }
