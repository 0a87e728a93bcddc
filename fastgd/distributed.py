"""Training on many processes and machines, by MPI: `net.fit(..., parallel="mpi")` under mpiexec. Needs the extra
`mpi`."""

from typing import TYPE_CHECKING, Any

from .core.for_users import ForUsers
from .errors import check_flag, check_integer, check_number, shown, type_error, value_error

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

__all__ = ["Mpi", "mpi"]

# `exact` adds the gradients of this many parts of each minibatch, whatever the number of ranks.
EXACT_PARTS = 16
# Seconds that a rank waits for the others before it asks whether they are alive.
PATIENCE = 5.0


class Mpi(ForUsers):
    """What `mpi` returns: how `fit` shares its work over the ranks of a communicator. Its attributes are the arguments
    of `mpi`, and `rank` and `size`, the number of this process and of all."""

    _internal = frozenset({"comm"})

    def __init__(
        self, comm: "Intracomm", *, bucket_bytes: int | None, steps_between_syncs: int, outer_learning_rate: float,
        outer_momentum: float, sharded: bool, exact: bool, timeout: float,
    ) -> None:  # fmt: skip
        self.comm, self.rank, self.size = comm, int(comm.rank), int(comm.size)
        self.bucket_bytes, self.steps_between_syncs = bucket_bytes, steps_between_syncs
        self.outer_learning_rate, self.outer_momentum = outer_learning_rate, outer_momentum
        self.sharded, self.exact, self.timeout = sharded, exact, timeout

    def __repr__(self) -> str:
        return f"mpi(rank {self.rank} of {self.size})"


def mpi(
    comm: "Intracomm | None" = None,
    *,
    bucket_bytes: int | None = None,
    steps_between_syncs: int = 1,
    outer_learning_rate: float = 1.0,
    outer_momentum: float = 0.0,
    sharded: bool = False,
    exact: bool = False,
    timeout: float = PATIENCE,
) -> Mpi:
    """How `fit` shares its work over MPI's ranks: `net.fit(X, y, ..., parallel=fastgd.distributed.mpi())`, or short
    `parallel="mpi"`, in a script that `mpiexec -n 4 python train.py` runs. In a single process it changes nothing.

    All ranks call `fit` with the same arguments. Each minibatch of `batch_size` rows is cut into as many shares as
    there are ranks, each rank computes the gradient of its share, and the gradients are added (all-reduce) before every
    rank makes the same update. The parameters are those that one rank finds, up to the order of the sums, and have the
    same bits from run to run for the same number of ranks.

    comm: an mpi4py communicator; None is MPI.COMM_WORLD.
    bucket_bytes: the gradient is added in pieces of about this size, the last layers' first, while the
        gradients of earlier layers are computed. None: ten times the product of measured latency and bandwidth.
    steps_between_syncs: k > 1 makes k steps on each rank alone, with the gradients of its own share, and then averages
        the parameters over the ranks (local SGD: Stich 2019, arXiv:1805.09767); also at the ends of epochs, and where
        callbacks are called. Optimizers' state is each rank's own, and a file has rank 0's.
    outer_learning_rate, outer_momentum: with these the average is not taken as it is, but as a step from the parameters
        of the last average p to the new one q, with Nesterov momentum (DiLoCo: Douillard et al. 2023, arXiv:2311.08105,
        with 0.7 and 0.9): d = p - q; m <- outer_momentum m + d; p <- p - outer_learning_rate (d + outer_momentum m).
    sharded: False: X and y hold all rows on every rank. True: each rank's X and y hold its own rows, as many on each
        rank; a minibatch takes `batch_size` / ranks of them.
    exact: True gives the same bits for any number of ranks from 1 to 16: the gradients of 16 parts of each minibatch
        are added in a fixed tree. Smaller products and more data sent make it slower. Not for networks with BatchNorm.
    timeout: seconds without an answer after which a rank asks the others whether they are alive; one that is not is
        named in a `RankError` 3 s later.

    BatchNorm normalizes each share by its own statistics, or with `sync=True` by statistics of the whole minibatch
    (with steps_between_syncs=1 only); the running ones are averaged before they are used.
    Validation, metrics, callbacks, progress and checkpoints are rank 0's; if a callback changes the learning rate, the
    parameters, or stops the training, all ranks follow. Only a callback can stop it, by returning True: if a thread of
    yours sets `network.history.stopped`, on whichever rank, that rank ends without the others, and the run fails.

    Raises ImportError without mpi4py or an MPI library, TypeError or ValueError that names the argument."""
    if comm is None:
        comm = world()
    elif not (hasattr(comm, "Iallreduce") and hasattr(comm, "size")) or comm.Is_inter():
        raise type_error("comm", "an mpi4py communicator within one group", shown(comm))
    if bucket_bytes is not None:
        check_integer("bucket_bytes", bucket_bytes, 1)
    check_integer("steps_between_syncs", steps_between_syncs, 1)
    rate = check_number("outer_learning_rate", outer_learning_rate, 0.0, low_open=True)
    momentum = check_number("outer_momentum", outer_momentum, 0.0, 1.0, high_open=True)
    if steps_between_syncs == 1 and (rate, momentum) != (1.0, 0.0):
        raise value_error("steps_between_syncs", "at least 2 with an outer step", 1)
    if check_flag("exact", exact) and steps_between_syncs > 1:
        raise value_error("exact", "False with steps_between_syncs", exact)
    if exact and check_flag("sharded", sharded):
        raise value_error("exact", "False with sharded rows", exact)
    if exact and comm.size > EXACT_PARTS:
        raise value_error("exact", f"False with more than {EXACT_PARTS} ranks", exact)
    return Mpi(
        comm, bucket_bytes=bucket_bytes, steps_between_syncs=steps_between_syncs, outer_learning_rate=rate,
        outer_momentum=momentum, sharded=check_flag("sharded", sharded), exact=exact,
        timeout=check_number("timeout", timeout, 0.0, low_open=True),
    )  # fmt: skip


def world() -> "Intracomm":
    """The communicator of all ranks."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no MPI library
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise ImportError(f"several ranks need mpi4py and an MPI: pip install 'fastgd[mpi]'{why}") from error
    return MPI.COMM_WORLD


def check_parallel(parallel: Any) -> Mpi | None:
    """The `Mpi` that an argument of `fit` means, or None if one process does all."""
    if parallel is None:
        return None
    if parallel == "mpi":
        parallel = mpi()
    if not isinstance(parallel, Mpi):
        raise type_error("parallel", "None, 'mpi' or fastgd.distributed.mpi(...)", shown(parallel))
    return parallel if parallel.size > 1 or parallel.exact else None
