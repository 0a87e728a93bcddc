"""The command line under mpiexec. Skipped only if mpi4py, an extra, is not installed."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import sysconfig
import time
import types

import numpy as np
import pytest

import fastgd
from fastgd.cli import parser as cli
from fastgd.cli import ranks
from fastgd.distributed import world

needs_mpi = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
ROOT = pathlib.Path(__file__).parents[1]
LAUNCHERS = [name for names in ranks.VARIABLES for name in names]
TRAIN = ("train", "t.csv", "--target", "y", "--hidden", "8", "--threads", "1", "--epochs")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(203, 3))
    rows = np.column_stack([X, X @ [1, -2, 3] + 0.1 * rng.normal(size=203)])
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "y"], *rows.tolist()])
    return tmp_path


def environment(**more):
    """The environment of this process without what its launcher has set; Open MPI runs as root only if asked to."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    root = [f"{one}_ALLOW_RUN_AS_ROOT{end}" for one in ("OMPI", "PRTE") for end in ("", "_CONFIRM")]
    paths = [sysconfig.get_path("scripts"), os.environ["PATH"]]
    return {**kept, **dict.fromkeys(root, "1"), "PATH": os.pathsep.join(paths), **more}


def command(size, *arguments, python=("-m", "fastgd")):
    mpiexec = ["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", str(size)]
    return [*(mpiexec if size > 1 else []), sys.executable, *python, *arguments]


def run(size, *arguments, cwd, **options):
    """Runs `fastgd ...` on ranks; the standard error is that without mpiexec's own words."""
    done = subprocess.run(
        command(size, *arguments, **options), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    return done, [line for line in done.stderr.splitlines() if line.startswith("fastgd")]


def parameters(path):
    return fastgd.load(path)[0].parameters


def test_a_process_knows_its_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    assert ranks.launched() == (0, 1)
    monkeypatch.setenv("PMIX_RANK", "2")  # srun --mpi=pmix
    assert ranks.launched() == (0, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "5")
    assert ranks.launched() == (2, 5)
    monkeypatch.setenv("PMI_RANK", "1")  # MPICH
    monkeypatch.setenv("PMI_SIZE", "4")
    assert ranks.launched() == (1, 4)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")  # Open MPI, which sets PMIX_RANK, too
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "7")
    assert ranks.launched() == (3, 7)


def test_one_process_needs_no_mpi(folder):
    script = "import sys; sys.modules['mpi4py'] = None; import fastgd.cli as c; sys.exit(c.main(sys.argv[1:]))"
    done, _ = run(1, *TRAIN, "1", cwd=folder, python=("-c", script))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_the_extra_is_named_once(rank, folder):
    """Without mpi4py; and for a command that one process carries out."""
    script = "import sys; sys.modules['mpi4py'] = None; import fastgd.cli as c; sys.exit(c.main(sys.argv[1:]))"
    for arguments, message in ((("train", "digits"), "pip install 'fastgd[mpi]'"), (("bench",), "only `fastgd train`")):
        done = subprocess.run(
            command(1, *arguments, python=("-c", script)), cwd=folder, text=True, capture_output=True, check=False,
            env=environment(PMI_RANK=str(rank), PMI_SIZE="2"),
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stdout == ""
        assert (message in done.stderr, done.stderr.count("\n")) == ((True, 1) if rank == 0 else (False, 0))


def test_the_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgd\[mpi\]'"):
        world()
    with pytest.raises(ImportError, match=r"pip install 'fastgd\[mpi\]'"):
        fastgd.distributed.mpi()


def test_an_mpi_that_knows_of_other_ranks_is_noticed(monkeypatch, folder, capsys):
    for name, value in zip(ranks.VARIABLES[0], ("0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "world", lambda: types.SimpleNamespace(size=1))
    monkeypatch.chdir(folder)
    assert cli.main([*TRAIN, "1"]) == 1
    assert "expected 1, the number of processes that mpi4py's MPI knows of" in capsys.readouterr().err


@needs_mpi
@pytest.mark.slow
def test_ranks_train_together(folder):
    """What one process finds, up to the order of sums; printed and written once."""
    files = ("--log", "log", "--plot", "p.png", "--tensorboard", "logs", "--save")
    alone, _ = run(1, *TRAIN, "4", "--dtype", "float64", "--quiet", "--save", "one.safetensors", cwd=folder)
    both, _ = run(2, *TRAIN, "4", "--dtype", "float64", *files, "two.safetensors", cwd=folder)
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    one, two = parameters(folder / "one.safetensors"), parameters(folder / "two.safetensors")
    np.testing.assert_allclose(two, one, rtol=1e-10, atol=1e-12)
    for text in ("162 training rows, 41 validation rows", "24 steps in", "validation r2", "model saved to two"):
        assert both.stdout.count(text) == 1, text
    assert both.stderr.count("4/4") >= 1
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, 4, None]
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((folder / "logs").iterdir())) == 1


@needs_mpi
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(folder):
    options = ("--dtype", "float64", "--quiet", "--plot", "", "--patience", "0", "--save")
    done, _ = run(1, *TRAIN, "6", *options, "whole.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr
    for epochs, size in ((2, 2), (4, 3), (6, 1)):
        done, _ = run(size, *TRAIN, str(epochs), *options, "parts.safetensors", "--resume", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("no parts.safetensors yet" if epochs == 2 else "continuing parts") == 1
    network, optimizer = fastgd.load(folder / "parts.safetensors")
    assert (network.epochs, optimizer.steps) == (6, 36)
    whole = parameters(folder / "whole.safetensors")
    np.testing.assert_allclose(network.parameters, whole, rtol=0, atol=0.02)  # planned for 2 epochs, at first
    assert not np.array_equal(network.parameters, whole)


@needs_mpi
@pytest.mark.slow
def test_an_error_of_all_ranks_is_printed_once(folder):
    for arguments, code, message in (
        ((*TRAIN, "x"), 2, "--epochs"),
        ((*TRAIN, "1", "--drop", "nothing"), 1, "'nothing'"),
        ((*TRAIN, "1", "--learning-rate", "1e25", "--optimizer", "SGD"), 1, "diverged"),
        (("evaluate", "m.safetensors", "t.csv"), 1, "only `fastgd train`"),
    ):
        done, lines = run(2, *arguments, cwd=folder)
        assert (done.returncode, len(lines)) == (code, 1), done.stderr
        assert message in lines[0]
        assert "Traceback" not in done.stderr
    assert not (folder / "t.safetensors").exists()


@needs_mpi
@pytest.mark.slow
def test_an_error_of_one_rank_ends_all(folder):
    """The file is missing on rank 1; or has other rows there."""
    (folder / "other").mkdir()
    text = (folder / "t.csv").read_text()
    moved = "import os, sys, fastgd.cli as c; os.environ['PMIX_RANK'] != '0' and os.chdir('other'); "
    script = ("-c", moved + "sys.exit(c.main(sys.argv[1:]))")
    done, lines = run(2, *TRAIN, "1", cwd=folder, python=script)
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert "rank 1: " in lines[0]
    assert "t.csv" in lines[0]
    (folder / "other" / "t.csv").write_text(text.replace("\n", "\n0,0,0,0\n", 1))
    done, lines = run(2, *TRAIN, "1", cwd=folder, python=script)
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert "the same on all ranks" in lines[0]


@needs_mpi
@pytest.mark.slow
def test_an_interrupt_saves_the_run(folder):
    """Open MPI passes on nothing that a rank says after Ctrl-C."""
    options = (*TRAIN, "1000000", "--patience", "0", "--plot", "", "--quiet", "--log", "log")
    process = subprocess.Popen(
        command(2, *options), cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 100
    while not (folder / "log").exists() or not (folder / "log").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "Traceback" not in errors
    epochs = fastgd.load(folder / "t.safetensors")[0].epochs
    assert epochs >= 1
    done, _ = run(2, *TRAIN, str(epochs + 2), *options[len(TRAIN) + 1 :], "--resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert fastgd.load(folder / "t.safetensors")[0].epochs == epochs + 2


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("way", ["gradients", "sharded"])
def test_the_example(way, tmp_path):
    done, _ = run(2, way, cwd=tmp_path, python=[str(ROOT / "examples" / "many_machines.py")])
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"2 ranks, {way}: loss 0.0")
    assert 0.01 < float(first.split("loss ")[1].split()[0]) < 0.03
    assert second == "parameters are the same on all ranks: True"


@needs_mpi
@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path):
    page = ROOT / "docs" / "how_to" / "many_machines.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "train.py").write_text("\n".join(block for block in blocks if "parallel=" in block))
    X = np.random.default_rng(0).normal(size=(640, 3))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", X[:, :1])
    done, _ = run(2, cwd=tmp_path, python=["train.py"])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1  # rank 0 prints the last loss
