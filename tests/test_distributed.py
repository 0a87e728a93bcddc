"""Training on several ranks, under mpiexec: of_ranks.py has what they do."""

import ast
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import fastgd
from fastgd import Dense, Network
from fastgd.distributed import mpi
from fastgd.engine.rank_steps import add_node
from fastgd.training.fit import fit
from fastgd.training.team import Team

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py")
SCRIPT = pathlib.Path(__file__).with_name("of_ranks.py")
ENVIRONMENT = {f"{name}_ALLOW_RUN_AS_ROOT{suffix}": "1" for name in ("OMPI", "PRTE") for suffix in ("", "_CONFIRM")} | {
    "OMP_NUM_THREADS": "1"
}


def run(function, ranks, *arguments, code=0, **environment):
    """What rank 0 printed."""
    mpiexec = pathlib.Path(sys.executable).with_name("mpiexec")
    command = [mpiexec if mpiexec.exists() else "mpiexec", "--oversubscribe", "-n", str(ranks), sys.executable]
    done = subprocess.run([*command, SCRIPT, function, *map(str, arguments)], text=True, capture_output=True,
                          timeout=300, env=os.environ | ENVIRONMENT | environment, check=False)  # fmt: skip
    assert (done.returncode == 0) == (code == 0), f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_equals_one_rank(ranks):
    run("equals_one_rank", ranks)


def test_exact_has_the_same_bits_for_any_number_of_ranks():
    network = Network(6, [Dense(2)], loss="mse")
    assert network.fit(np.ones((4, 6)), np.ones((4, 2)), epochs=1, parallel="mpi").loss  # one rank needs no mpiexec
    found = [run("exact_bits", ranks) for ranks in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert len(set(ast.literal_eval(found[0]))) == 2


def test_sums_in_a_tree_do_not_depend_on_the_order(rng):
    values, sums = rng.normal(size=(16, 3)), []
    for _ in range(5):
        nodes = {}
        for i in rng.permutation(16):
            add_node(nodes, 0, int(i), values[i])
        (total,) = nodes.values()
        sums.append(total)
    assert (np.array(sums) == sums[0]).all()
    np.testing.assert_allclose(sums[0], values.sum(axis=0), rtol=1e-12)


class Compared(Exception):
    """Ends a `fit` with the table of what its ranks compare."""


def compared(options, **settings):
    """What the first of two ranks would compare with the other."""

    def check_same(table):
        raise Compared({name: repr(value) for name, value in table.items()})

    comm = types.SimpleNamespace(rank=0, size=2, Iallreduce=None, Is_inter=lambda: False)
    ranks = types.SimpleNamespace(rank=0, size=2, agree=lambda failure: None, check_same=check_same)
    network = Network(3, [Dense(2)], loss="softmax_cross_entropy")
    given = {"X": np.arange(60.0).reshape(20, 3), "y": np.arange(20) % 2, **options}
    with pytest.raises(Compared) as raised:
        fit.__wrapped__(network, **given, parallel=Team(ranks, mpi(comm, **settings)))
    return raised.value.args[0]


def nothing(run):
    pass


# By argument of `fit`: options, and others that differ in it.
OTHERS = {
    "X": ({}, {"X": np.ones((20, 3))}), "y": ({}, {"y": np.zeros(20, int)}), "optimizer": ({}, {"optimizer": "SGD"}),
    "batch_size": ({}, {"batch_size": 10}), "epochs": ({}, {"epochs": 11}), "shuffle": ({}, {"shuffle": False}),
    "sample_weight": ({}, {"sample_weight": np.arange(20)}), "class_weight": ({}, {"class_weight": {0: 2.0}}),
    "validation_data": ({}, {"validation_data": (np.ones((2, 3)), [0, 1])}),
    "validation_fraction": ({"validation_fraction": 0.5}, {"validation_fraction": 0.3}),
    "metrics": ({}, {"metrics": "accuracy"}),
    "monitor": ({"metrics": "accuracy", "patience": 2}, {"metrics": "accuracy", "patience": 2, "monitor": "accuracy"}),
    "tolerance": ({}, {"tolerance": 0.5}), "patience": ({}, {"patience": 2}),
    "restore_best": ({}, {"restore_best": True}),
    "callbacks": ({"callbacks": nothing}, {"callbacks": fastgd.callbacks.every(2, nothing)}),
    "checkpoint_every": ({"checkpoint": "a"}, {"checkpoint": "a", "checkpoint_every": 5}),
    "allow_negative": ({"sample_weight": np.arange(20)}, {"sample_weight": np.arange(20), "allow_negative": True}),
}  # fmt: skip
# The same for `mpi`.
OTHER_SETTINGS = {
    "bucket_bytes": ({}, {"bucket_bytes": 8}), "steps_between_syncs": ({}, {"steps_between_syncs": 2}),
    "outer_learning_rate": ({"steps_between_syncs": 2}, {"steps_between_syncs": 2, "outer_learning_rate": 0.5}),
    "outer_momentum": ({"steps_between_syncs": 2}, {"steps_between_syncs": 2, "outer_momentum": 0.5}),
    "sharded": ({}, {"sharded": True}), "exact": ({}, {"exact": True}),
}  # fmt: skip
# Those that need not be the same: rank 0 alone shows progress, saves and resumes.
OF_EACH_RANK = {"self", "parallel", "progress", "checkpoint", "resume"}
SETTINGS_OF_EACH_RANK = {"comm", "timeout"}


def test_ranks_compare_the_arguments_of_fit():
    """What differs would leave a rank waiting for the others, or train them apart. A new argument is compared in
    `Team.check`, and is listed here; or each rank may choose it."""
    assert set(inspect.signature(fit).parameters) == {*OTHERS, *OF_EACH_RANK}
    assert set(inspect.signature(mpi).parameters) == {*OTHER_SETTINGS, *SETTINGS_OF_EACH_RANK}
    assert compared({}) == compared({"progress": True, "checkpoint": "a", "resume": True})
    for one, other in OTHERS.values():
        assert compared(one) == compared(one)
        assert compared(one) != compared(other), other
    for one, other in OTHER_SETTINGS.values():
        assert compared({}, **one) != compared({}, **other), other


ON_THREE = "sharded", "local_steps", "followers", "sums", "refuses"


@pytest.mark.parametrize(
    ("function", "ranks"),
    [
        ("repeated_bits", 2), ("sharded", 2), ("local_steps", 2), ("followers", 2), ("early_stopping", 2),
        ("statistics", 2), ("sums", 2), ("refuses", 2), ("diverges", 2), ("warns", 2),
        *(pytest.param(name, 3, marks=pytest.mark.slow) for name in ON_THREE),
    ],
)  # fmt: skip
def test_on_ranks(function, ranks):
    found = run(function, ranks)
    if function == "diverges":
        assert "training diverged at update" in found
    if function == "warns":
        assert re.search(r"2 ranks take [\d,]+ us for a step.*one rank would take about [\d,]+ us", found)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_run_is_resumed_with_any_number_of_ranks(ranks, tmp_path):
    run("saved", 2, tmp_path / "run.safetensors")
    run("resumed", ranks, tmp_path / "run.safetensors")


def test_of_mapped_files_only_a_ranks_rows_are_read(tmp_path):
    run("mapped_files", 2, tmp_path / "rows")


def test_local_steps_are_resumed(tmp_path):
    run("resumed_local_steps", 2, tmp_path / "run.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("die", "rank 2: no answer; it has died"), ("hang", "rank 2: no answer for . s; it hangs or has died"),
        ("raise", "rank 2: OSError: disk on fire"), ("argument", "rank 2: TypeError: argument 'batch_size': .*'x'"),
    ],
)  # fmt: skip
def test_a_rank_that_fails_is_named_on_all_others(kind, message, tmp_path):
    file = tmp_path / "run.safetensors"
    found = run("fault", 3, file, code=1, FAULT=kind)
    for rank in (0, 1):
        assert re.search(f"rank {rank} learns: {message}", found), found
    if kind != "argument":
        assert fastgd.load(file)[0].history.steps > 0


def test_arguments(data):
    (X, y), _ = data
    network = Network(64, [Dense(10)], loss="softmax_cross_entropy")
    with pytest.raises(TypeError, match=r"'parallel': expected None, 'mpi' or fastgd.distributed.mpi\(...\), got 4"):
        network.fit(X, y, parallel=4)
    for options, name in (
        ({"bucket_bytes": 0}, "bucket_bytes"), ({"steps_between_syncs": 0}, "steps_between_syncs"),
        ({"outer_momentum": 0.9}, "steps_between_syncs"), ({"exact": True, "steps_between_syncs": 2}, "exact"),
        ({"exact": True, "sharded": True}, "exact"), ({"timeout": 0}, "timeout"), ({"comm": 3}, "comm"),
        ({"steps_between_syncs": 2, "outer_momentum": 1.0}, "outer_momentum"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=f"'{name}'"):
            fastgd.distributed.mpi(**options)
