"""What a training run does otherwise when several ranks share it: see `fastgd.distributed`."""

import contextlib
import functools
import os
import pathlib
import pickle
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ..core.config import __version__
from ..core.interrupts import Terminated, sigterm_raises
from ..distributed import EXACT_PARTS, Mpi, check_parallel
from ..engine.rank_steps import RankSteps
from ..errors import DivergenceError, RankError, raised_by_all, shown, type_error, value_error
from ..layers.normalization import BatchNorm
from .sampling import Minibatches

if TYPE_CHECKING:
    from ..network import Network
    from .run import Run


F = TypeVar("F", bound=Callable[..., Any])


class Team:
    """The ranks of a `fit`. Rank 0 evaluates, calls callbacks, shows progress and saves; the others follow.

    steps: runs the steps of the run on all ranks."""

    steps: RankSteps

    def __init__(self, ranks: Any, settings: Mpi) -> None:
        self.ranks, self.settings = ranks, settings
        self.parts = EXACT_PARTS if settings.exact else ranks.size

    @property
    def is_root(self) -> bool:
        return bool(self.ranks.rank == 0)

    @property
    def shards(self) -> int:
        """How many ranks have rows of their own; 1 if all have the same rows."""
        return int(self.ranks.size) if self.settings.sharded else 1

    def own_parts(self) -> tuple[int, int, int] | None:
        """(a, b, n): of each n-th of the rows of a minibatch, this rank takes [a, b); None if it has only its own."""
        if self.settings.sharded:
            return None
        rank, size = self.ranks.rank, self.ranks.size
        return self.parts * rank // size, self.parts * (rank + 1) // size, self.parts

    @property
    def local_steps(self) -> list[float] | None:
        """How many steps ranks make alone, and the options of the outer step; None if they make none."""
        its = self.settings
        if its.steps_between_syncs == 1:
            return None
        return [its.steps_between_syncs, its.outer_learning_rate, its.outer_momentum]

    def own_rows(self, given: int | None, size: int, **weights: object) -> int:
        """Rows of minibatches of a rank's data: of `size`, or of its share of them if it has only its own rows.
        weights: the arguments of `fit` that give rows weights."""
        if not self.settings.sharded:
            return size
        for name, weight in weights.items():
            if weight is not None:
                raise value_error(name, "None with sharded rows, whose mean weight no rank knows", shown(weight))
        if given is not None and given % self.ranks.size:
            raise value_error("batch_size", f"a multiple of {self.ranks.size}, the number of ranks", given)
        return size if given is None else min(size, given // self.ranks.size)

    def check(self, run: "Run") -> None:
        """Raises on all ranks unless all have the same versions, network, optimizer, data and options."""
        self.ranks.agree(None)
        settings = self.settings
        network, optimizer, stopping = run.network, run.optimizer, run.early_stopping
        same = {
            "fastgd": __version__, "numpy": np.__version__, "machine": platform.machine(), "layers": network.layers,
            "input_shape": network.input_shape, "loss": network.loss_function, "l1": network.l1, "l2": network.l2,
            "dtype": network.dtype, "seed": network.seed, "backend": network.backend, "optimizer": optimizer,
            "rows": run.source.rows, "batch_size": run.source.size, "shuffle": run.source.shuffle,
            "epochs": run.epochs, "steps_between_syncs": settings.steps_between_syncs, "exact": settings.exact,
            "outer_learning_rate": settings.outer_learning_rate, "outer_momentum": settings.outer_momentum,
            "bucket_bytes": settings.bucket_bytes, "sharded": settings.sharded, "metrics": stopping.columns,
            "validation": stopping.validation is not None, "monitor": stopping.monitor, "patience": stopping.patience,
            "tolerance": stopping.tolerance, "restore_best": stopping.restore_best,
            "checkpoint_every": run.checkpoint_every, "callbacks": run.callbacks_due,
            "minibatches of the optimizer": optimizer.minibatches, "epochs of the network": network.epochs,
            "minibatches of the network": network.minibatches,
        }  # fmt: skip
        if not settings.sharded and isinstance(run.source, Minibatches):
            same["data"] = run.source.samples.digest(network.dtype)
        self.ranks.check_same(same)
        leaves = (leaf for _, leaf, _ in network.body.leaves("", network.input_shape))
        error = None
        if settings.exact and network.statistics:
            error = value_error("exact", "False for networks with statistics, which are of a rank's rows", True)
        elif settings.steps_between_syncs > 1 and any(isinstance(leaf, BatchNorm) and leaf.sync for leaf in leaves):
            error = value_error("sync", "False in each BatchNorm with steps_between_syncs", True)
        if error is not None:
            raise raised_by_all(error)

    def begin(self, run: "Run") -> None:
        """Gives all ranks the parameters, statistics and state of rank 0."""
        self.ranks.share_from_root(run.network.state)
        for arrays in run.optimizer.state.values():
            for array in arrays:
                self.ranks.share_from_root(array)
        self.steps = RankSteps(run.network.executor, self.ranks, self.settings, run.optimizer, self.parts)
        self.steps.outer = run.outer

    @contextlib.contextmanager
    def file_of_root(self, path: str | None) -> Iterator[str | None]:
        """The path of a file with the contents of rank 0's; None if there is none."""

        def contents():
            return pathlib.Path(path).read_bytes() if path is not None and os.path.exists(path) else None

        found = self.from_root(contents)
        if self.is_root or found is None:
            yield path if found is not None else None
            return
        import tempfile  # slow

        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "run.safetensors"
            copy.write_bytes(found)
            yield str(copy)

    def largest_share(self, size: int) -> int:
        """The most rows that a part of a minibatch has."""
        return size if self.settings.sharded else -(-size // self.parts)

    def from_root(self, function: Callable[[], Any]) -> Any:
        return self.ranks.from_root(function)

    def follow_root(self, run: "Run", call: Callable[[], None]) -> None:
        """Makes a call on rank 0 that may change the learning rate or the network, or stop the run."""
        optimizer, network = run.optimizer, run.network
        before, version, minibatches = optimizer.changes, network.executor.version, optimizer.minibatches

        def changes():
            call()
            if optimizer.minibatches != minibatches:
                expected = "functions that leave run.optimizer's steps to the run, which makes them on all ranks"
                raise value_error("callbacks", expected, "one that made a step")
            rate = optimizer.learning_rate if optimizer.changes != before else None
            try:
                pickle.dumps(rate)
            except Exception as error:
                expected = "a number, a schedule or what pickle can send, for all ranks"
                raise type_error("learning_rate", expected, shown(rate)) from error
            return run.history.stopped, rate, network.executor.version != version

        stopped, rate, has_trained = self.from_root(changes)
        if not self.is_root:
            run.history.stopped = run.history.stopped or stopped
            if rate is not None:
                optimizer.learning_rate = rate
        if has_trained:
            self.ranks.share_from_root(network.state)
            self.ranks.share_from_root(network.counter)

    def end(self, network: "Network") -> None:
        """Raises on all ranks unless all have the same parameters at the end. Functions of the user, such as a learning
        rate, may have told them apart."""
        import hashlib  # slow

        digest = hashlib.sha256(network.parameters.tobytes()).hexdigest()[:16]
        self.ranks.check_same({"parameters at the end": digest})


def on_all_ranks(fit: F) -> F:
    """A decorator of `fit`, which gets a `Team` as its argument `parallel`, or None. The other ranks
    learn of an exception in it. SIGTERM, which mpiexec sends on Ctrl-C and when a rank has died, raises."""

    @functools.wraps(fit)
    def call(*arguments: Any, parallel: Any = None, **options: Any) -> Any:
        settings = check_parallel(parallel)
        if settings is None:
            return fit(*arguments, **options)
        from .ranks import Ranks

        ranks = Ranks(settings.comm, settings.timeout)
        try:
            with sigterm_raises():
                result = fit(*arguments, parallel=Team(ranks, settings), **options)
        except Terminated as error:
            dead = ranks.dead()
            if dead:
                raise RankError(f"rank {', '.join(map(str, dead))}: no answer; it has died", dead[0]) from error
            raise
        except BaseException as error:
            is_on_all = isinstance(error, DivergenceError) or getattr(error, "is_on_all_ranks", False)
            text = f"{type(error).__name__}: {error}"
            if not ranks.has_agreed and isinstance(error, Exception):
                ranks.agree(text)
                is_on_all = True
            elif not (is_on_all or isinstance(error, RankError)):
                ranks.tell_failure(text)
            ranks.close(is_failure=not is_on_all)
            raise
        ranks.close()
        return result

    return cast(F, call)
