"""Types of the compiled runner, src_cython/plan.pyx."""

import enum
import io
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

from .core.types import Path

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_Records = npt.NDArray[np.void]

BY_ROWS: Final[int]
FUSED: Final[int]
CHECK_LOSS: Final[int]
CHECK_MAX_ABS: Final[int]
CHECK_GRADIENT: Final[int]
GRAIN: Final[int]
IMAGES: Final[int]
THREAD_ELEMENTS: Final[int]
LONG_WORK: Final[int]
DONE: Final[int]
BAD_LOSS: Final[int]
HIGH_MAX_ABS: Final[int]
BAD_GRADIENT: Final[int]
OUT_OF_TIME: Final[int]
ASKED_TO_STOP: Final[int]
FAULT: Final[int]
CHAIN_ELEMENTS: Final[int]
CHAIN_SLOTS: Final[int]
CHAIN_ARRAYS: Final[int]
READERS_SECONDS: Final[float]
OPERATION: Final[np.dtype[np.void]]
STAGE: Final[np.dtype[np.void]]
chain_address: Final[int]
scratch_address: Final[int]

class Use(enum.IntEnum):
    EVALUATE = 1
    BORROW = 2
    TRAIN = 3

class _Context:
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class UseContext(_Context):
    def __init__(self, lock: UseLock, use: Use) -> None: ...

@final
class LendContext(_Context):
    def __init__(self, lock: UseLock, use: Use) -> None: ...

@final
class ReadContext(_Context):
    def __init__(self, lock: UseLock) -> None: ...

@final
class UseLock(_Context):
    disturbed: bool
    @property
    def uses(self) -> int: ...
    def __init__(self, owner: str) -> None: ...
    def use(self, use: Use) -> UseContext: ...
    def lend(self, use: Use) -> LendContext: ...
    def reading(self) -> ReadContext: ...

@final
class WaitingLock(_Context):
    def __init__(self, owner: str) -> None: ...

@final
class StepInPython(_Context): ...

@final
class InputSlots:
    def __init__(self, *, losses: float, terms: float, own: tuple[npt.NDArray[Any], ...], **slots: _Ints) -> None: ...

@final
class Runner:
    @property
    def uses(self) -> int: ...
    def __init__(
        self,
        operations: _Records,
        faults: _Ints,
        *,
        total: int = 0,
        largest: int = 0,
        bad_gradients: int = 0,
        row_block: int = 0,
        row_grain: int = 1,
    ) -> None: ...
    def set_work(self, work_of_row: float, max_threads: int, positions: int) -> None: ...
    def threads(self, rows: int) -> int: ...
    def set_inputs(self, inputs: InputSlots, rows: int, x: int, y: int, weight: int) -> None: ...
    def prepare(
        self,
        stages: _Records,
        inputs: InputSlots,
        per_step: _Ints,
        known: object,
        steps: object,
        epochs_done: int,
        counter: _Ints,
        minibatches: _Ints,
        pace: _Floats,
        steps_per_clock_check: int,
    ) -> None: ...
    def train(
        self, first: int, pauses: _Ints, notify: Callable[[int], object] | None, threads: int, seconds: float
    ) -> tuple[int, int]: ...
    def run(self, stages: _Records, rows: int, threads: int, pace: _Floats) -> int: ...
    def repeat(
        self, stages: _Records, rows: int, threads: int, pace: _Floats, passes: int, seconds: float
    ) -> tuple[int, int]: ...

class CheckedCall:
    def _set_contract(
        self,
        arrays: Sequence[tuple[int, Sequence[int], int, bool]],
        fixed: Sequence[int],
        n_scalars: int,
        range_dim: int,
        float32_body: int,
        float64_body: int,
    ) -> None: ...
    def __call__(self, *arguments: npt.NDArray[Any] | float) -> None: ...

class FastPass:
    def __init__(self, **prepared: Any) -> None: ...
    def outputs(self, x: object, out: object) -> npt.NDArray[Any] | None: ...
    def loss(self, x: object, y: object, weight: object) -> float | None: ...
    def evaluate(self, x: object, y: object, out: npt.NDArray[Any] | None) -> float | None: ...
    def loss_and_gradient(
        self, x: object, y: object, minibatch: int, weight: object
    ) -> tuple[float, npt.NDArray[Any]] | None: ...

class FastRecord(FastPass):
    pass_number: int
    def prepare_backward(
        self,
        *,
        stages: _Records,
        stages_to_input: _Records,
        pace: _Floats,
        pace_to_input: _Floats,
        x: npt.NDArray[Any],
        dy: npt.NDArray[Any],
        dx: npt.NDArray[Any],
        minibatches: _Ints,
        raise_fault: Callable[..., None],
    ) -> None: ...
    def record(self, x: object, out: object, minibatch: int) -> npt.NDArray[Any] | None: ...
    def backward(self, dy: object, to_input: bool) -> npt.NDArray[Any] | Literal[True] | None: ...

class FastStep:
    last_loss: float
    def __init__(self, runner: Runner, lock: UseLock, optimizer: Stepper, **prepared: Any) -> None: ...
    def __call__(self, x: object, y: object, optimizer: object) -> float | None: ...
    def weighted(self, x: object, y: object, optimizer: object, weight: object) -> float | None: ...
    def is_prepared(self, optimizer: object) -> bool: ...
    def update(self, optimizer: object) -> bool: ...
    def run_update(self, optimizer: object) -> bool: ...

class FastUpdate:
    @property
    def is_used_up(self) -> bool: ...
    def __init__(
        self, runner: Runner, lock: UseLock, parameters: Sequence[npt.NDArray[Any]], **prepared: Any
    ) -> None: ...
    def prefetch_values(self, per_step: _Ints, count: int, held: object) -> None: ...
    def run(self, params: object, grads: object) -> bool: ...

class Stepper:
    _fast: FastUpdate | None
    def step(
        self, params: object = None, grads: object = None, *, num_threads: int | None = None, backend: str = "auto"
    ) -> None: ...

def adapted_shares(ends: _Floats, taken: _Ints) -> _Floats: ...
def all_between(values: _Floats, low: float, high: float) -> bool: ...
def all_finite(array: npt.NDArray[np.floating[Any]]) -> bool: ...
def all_labels(array: _Ints, classes: int) -> bool: ...
def call_kernel(kernel: int, record: int, begin: int, end: int) -> None: ...
def chain_record(links: Sequence[tuple[int, int, int, Sequence[int]]]) -> _Ints: ...
def divide_by_mean(values: _Floats) -> bool: ...
def fast_average(
    lock: UseLock,
    other_lock: UseLock,
    kernel: CheckedCall,
    p: npt.NDArray[Any],
    q: npt.NDArray[Any],
    rate: float,
) -> bool: ...
def is_in_memory(array: object) -> bool: ...
def fill_shuffled(order: _Ints, seed: int, epoch: int) -> None: ...
def fix_threads(is_fixed: bool) -> None: ...
def open_to_read(path: Path) -> io.FileIO: ...
def read_rows(file: int, offset: int, stride: int, index: _Ints, out: npt.NDArray[np.uint8]) -> None: ...
def shares_of_team() -> _Floats: ...
def steps_may_go_on() -> None: ...
def sync_folder(folder: Path) -> None: ...
def thread_limit() -> int: ...
def unchanged(watched: Iterable[Any]) -> bool: ...
def wait_for_steps() -> None: ...
