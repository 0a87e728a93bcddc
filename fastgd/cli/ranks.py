"""The command line in one of several processes, the ranks, that mpiexec or srun started: `fastgd train` shares its work
over them. Rank 0 alone speaks and writes."""

import contextlib
import os
import sys
import time

from ..distributed import PATIENCE, world
from ..errors import RankError, value_error

# Environment variables of a process's rank and of the number of ranks, set by Open MPI's mpiexec; by those of MPICH and
# Intel, and srun --mpi=pmi2; by srun --mpi=pmix.
VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)
# Seconds in which rank 0 says why all fail.
FAREWELL = 1.0


def launched():
    """(rank, size) of this process as its launcher says, (0, 1) if there is none. It needs no MPI."""
    for names in VARIABLES:
        rank, size = (os.environ.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal():
            return int(rank), int(size)
    return 0, 1


def silent_unless_root(function, *arguments):
    """The exit code that a function returns. On ranks other than 0 it prints nothing: what all would say is said once.
    Those fail later than rank 0, since mpiexec ends all ranks when one has failed."""
    if launched()[0] == 0:
        return function(*arguments)
    code = None
    try:
        with open(os.devnull, "w") as none, contextlib.redirect_stdout(none), contextlib.redirect_stderr(none):
            code = function(*arguments)
        return code
    finally:
        if code != 0:
            time.sleep(FAREWELL)


def stream_of_errors(error):
    """Where a rank prints an error: rank 1 speaks for rank 0 if that cannot."""
    speaks = isinstance(error, RankError) and error.rank == 0 and not error.is_told
    return sys.__stderr__ if speaks and launched()[0] == 1 else sys.stderr


def check_alone():
    """Raises unless this process is the only one of its launcher."""
    size = launched()[1]
    if size > 1:
        raise value_error("-n", "1 process: only `fastgd train` shares its work over more", size)


@contextlib.contextmanager
def agreed():
    """Context of what each rank does for itself before `fit`, whose argument `parallel` it yields. It ends when all
    ranks have come to its end; if one of them has raised, all do."""
    size = launched()[1]
    if size == 1:
        yield None
        return
    comm = world()
    if comm.size != size:
        raise value_error("-n", f"{comm.size}, the number of processes that mpi4py's MPI knows of; is mpiexec that of "
                          "another MPI?", size)  # fmt: skip
    from ..training.ranks import Ranks

    ranks, failure, message = Ranks(comm, PATIENCE), None, None
    try:
        yield "mpi"
    except Exception as error:
        failure, message = error, f"{type(error).__name__}: {error}"
    try:
        ranks.agree(message)
    finally:
        ranks.close()
    if failure is not None:
        raise failure
