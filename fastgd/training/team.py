"""What a training run does otherwise when several ranks share it: see `fastgd.distributed`."""

import contextlib
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import __version__
from ..core.interrupts import sigterm_raises
from ..distributed import EXACT_PARTS, Mpi
from ..engine.rank_steps import RankSteps
from ..errors import DivergenceError, RankError
from .sampling import Minibatches

if TYPE_CHECKING:
    from .run import Run


class Team:
    """The ranks of a run. Rank 0 evaluates, calls callbacks, shows progress and saves; the others follow.

    steps: runs the steps of the run on all ranks."""

    steps: RankSteps

    def __init__(self, ranks: Any, settings: Mpi, run: "Run") -> None:
        self.ranks, self.settings, self._run = ranks, settings, run
        self.parts = EXACT_PARTS if settings.exact else ranks.size

    @property
    def is_root(self) -> bool:
        return bool(self.ranks.rank == 0)

    def check(self) -> None:
        """Raises on all ranks unless all have the same versions, network, optimizer, data and options."""
        run, settings = self._run, self.settings
        network, optimizer = run.network, run.optimizer
        same = {
            "fastgd": __version__, "numpy": np.__version__, "machine": platform.machine(), "layers": network.layers,
            "input_shape": network.input_shape, "loss": network.loss_function, "l1": network.l1, "l2": network.l2,
            "dtype": network.dtype, "seed": network.seed, "backend": network.backend, "optimizer": optimizer,
            "rows": run.source.rows, "batch_size": run.source.size, "shuffle": run.source.shuffle,
            "epochs": run.epochs, "steps_between_syncs": settings.steps_between_syncs, "exact": settings.exact,
            "bucket_bytes": settings.bucket_bytes, "sharded": settings.sharded, "pauses": run.pauses_at,
            "minibatches": optimizer.minibatches,
        }  # fmt: skip
        if not settings.sharded and isinstance(run.source, Minibatches):
            same["data"] = run.source.samples.digest(network.dtype)
        self.ranks.check_same(same)

    def begin(self) -> None:
        """Gives all ranks the parameters, statistics and state of rank 0."""
        run = self._run
        self.ranks.share_from_root(run.network.state)
        for arrays in run.optimizer.state.values():
            for array in arrays:
                self.ranks.share_from_root(array)
        self.steps = RankSteps(run.network.executor, self.ranks, self.settings, run.optimizer, self.parts)

    @contextlib.contextmanager
    def file_of_root(self, path: str | None) -> Iterator[str | None]:
        """The path of a file with the contents of rank 0's; None if there is none."""

        def contents():
            return pathlib.Path(path).read_bytes() if path is not None and os.path.exists(path) else None

        found = self.from_root(contents)
        if self.is_root or found is None:
            yield path if found is not None else None
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "run.safetensors"
            copy.write_bytes(found)
            yield str(copy)

    def largest_share(self, size: int) -> int:
        """The most rows that a part of a minibatch has."""
        return -(-size // self.parts)

    def from_root(self, function: Callable[[], Any]) -> Any:
        return self.ranks.from_root(function)

    def follow_root(self, call: Callable[[], None]) -> None:
        """Makes a call on rank 0 that may change the learning rate or the network, or stop the run."""
        run, optimizer, network = self._run, self._run.optimizer, self._run.network
        before, version = optimizer.changes, network.executor.version

        def changes():
            call()
            rate = optimizer.learning_rate if optimizer.changes != before else None
            return run.history.stopped, rate, network.executor.version != version

        stopped, rate, has_trained = self.from_root(changes)
        if not self.is_root:
            run.history.stopped = run.history.stopped or stopped
            if rate is not None:
                optimizer.learning_rate = rate
        if has_trained:
            self.ranks.share_from_root(network.state)


@contextlib.contextmanager
def team(settings: Mpi, run: "Run") -> Iterator[Team]:
    """The team of a run. An exception here is told to the other ranks. SIGTERM, which mpiexec sends on Ctrl-C and when
    a rank has died, raises."""
    from .ranks import Ranks

    ranks = Ranks(settings.comm, settings.timeout)
    try:
        with sigterm_raises():
            yield Team(ranks, settings, run)
    except BaseException as error:
        if not (isinstance(error, (DivergenceError, RankError)) or getattr(error, "is_on_all_ranks", False)):
            ranks.tell_failure(f"{type(error).__name__}: {error}")
        ranks.close(is_failure=True)
        raise
    ranks.close()
