"""Ranks on one machine or on many train one network: mpiexec -n 2 python examples/many_machines.py [WAY]

WAY says what they send each other: `gradients` (the default), `exact`, `sharded`, `local` or `diloco`, which
`fastgd.distributed.mpi` explains. It needs the extra `mpi`, and runs without mpiexec, too. How to start it on several
machines is in docs/how_to/many_machines.md."""

import hashlib
import sys

import numpy as np
from mpi4py import MPI

import fastgd

WAYS = {
    "gradients": {},
    "exact": {"exact": True},
    "sharded": {"sharded": True},
    "local": {"steps_between_syncs": 10},
    "diloco": {"steps_between_syncs": 10, "outer_learning_rate": 0.7, "outer_momentum": 0.9},
}
ROWS = 4096


def made_up(rows, rng):
    """Two sums of waves, with noise."""
    X = rng.uniform(-1, 1, (rows, 8)).astype(np.float32)
    y = np.sin(3 * X[:, :2]) + np.cos(2 * X[:, 2:4]) + rng.normal(0, 0.1, (rows, 2)).astype(np.float32)
    return X, y


def main(way):
    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(0)
    X, y = made_up(ROWS, rng)
    X_test, y_test = made_up(1024, rng)
    if way == "sharded":  # of data that no rank could hold, each would read its own file
        own = slice(ROWS * comm.rank // comm.size, ROWS * (comm.rank + 1) // comm.size)
        X, y = X[own], y[own]
    net = fastgd.Network(8, [fastgd.Dense(64, "tanh"), fastgd.Dense(64, "tanh"), fastgd.Dense(2)], loss="mse", seed=0)
    options = WAYS[way] if comm.size > 1 or way == "exact" else {}
    net.fit(X, y, optimizer=fastgd.Adam(3e-3), batch_size=64, epochs=12, parallel=fastgd.distributed.mpi(**options))
    loss = net.loss(X_test, y_test)
    found = comm.gather(hashlib.sha256(net.parameters.tobytes()).hexdigest())
    if comm.rank == 0:
        print(f"{comm.size} ranks, {way}: loss {loss:.4f} on new rows (the noise alone: 0.01)")
        print(f"parameters are the same on all ranks: {len(set(found)) == 1}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gradients")
