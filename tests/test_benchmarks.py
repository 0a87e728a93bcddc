"""benchmarks/slower.py notices a slower version, and peers.py prints the rows that fastgd loses."""

import importlib
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import fastgd

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
# A step sleeps for a thousand times as long as it takes; a method is not there.
CHANGED = """

import time


def slow(step):
    def slowed(self, *args, **options):
        time.sleep(1e-3)
        return step(self, *args, **options)

    return slowed


Network.train_step = slow(Network.train_step)
del Network.loss_and_gradient
"""


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders with copies of the package: as it is, and slower."""
    modules = list(pathlib.Path(importlib.import_module("fastgd._plan").__file__).parent.glob("*.so"))
    folder = tmp_path_factory.mktemp("versions")
    for name in ("same", "changed"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(pathlib.Path(fastgd.__file__).parent, folder / name / "fastgd", ignore=ignore)
        for module in modules:
            (folder / name / "fastgd" / module.name).symlink_to(module)
    with open(folder / "changed" / "fastgd" / "network.py", "a") as file:
        file.write(CHANGED)
    return folder / "same", folder / "changed"


def slower(old, new, cells):
    command = [sys.executable, str(BENCHMARKS / "slower.py"), str(old), "--new", str(new), "--cells", cells]
    return subprocess.run([*command, "--rounds", "3", "--repeats", "1"], capture_output=True, text=True, timeout=200)


def test_a_slower_version_fails(versions):
    same, changed = versions
    done = slower(same, changed, "train_step tiny_b1")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"old: {same}/fastgd\nnew: {changed}/fastgd\n" in done.stdout
    assert done.stdout.endswith("\nslower by over 5%: train_step tiny_b1\n")


def test_a_faster_version_passes_and_what_the_older_lacks_is_named(versions, tmp_path):
    same, changed = versions
    wheel = tmp_path / "old.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path in changed.rglob("*.*"):
            file.write(path, path.relative_to(changed))
    done = slower(wheel, same, "train_step tiny_b1,loss_and_gradient")
    assert (done.returncode, done.stderr) == (0, "")
    lacking = "AttributeError: 'Network' object has no attribute 'loss_and_gradient'"
    assert f"cannot run:\n  loss_and_gradient 32 rows ({lacking}" in done.stdout
    assert done.stdout.endswith("\nslower by over 5%: none\n")


def test_a_cell_that_this_version_cannot_run_is_an_error(versions):
    same, changed = versions
    done = slower(same, changed, "loss_and_gradient")
    assert done.returncode == 1
    assert "RuntimeError: loss_and_gradient 32 rows: AttributeError" in done.stderr


def test_what_is_no_package_is_refused(tmp_path):
    done = slower(tmp_path, tmp_path, "tiny")
    assert done.returncode == 1
    assert "expected a wheel of fastgd, or a folder with the package" in done.stderr


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        (1.02, [], False),
        (1.20, [[1.01, 1.02, 0.97, 1.30, 1.40]], False),
        (1.20, [[1.05, 1.05, 1.05]], False),
        (1.20, [[1.20, 1.20], [1.20, 1.20], [1.04, 1.05]], False),
        (1.04, [[1.06, 1.07, 1.051, 0.99, 1.00], [1.06], [1.06]], True),
    ],
)
def test_new_processes_decide_about_a_cell_that_looks_slower(first, later, expected, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    is_slower = importlib.import_module("slower").is_slower
    measured = iter(later)
    assert is_slower(first, lambda: next(measured)) is expected
    assert list(measured) == []


def result(cell, fit, scan):
    figures = {"gflops": 100.0, "gigabytes_per_second": 50.0, "products_gflops": [90.0, 80.0], "limit": fit / 2}
    return {"cell": cell, "microseconds": {"fastgd fit": fit, "numpy": 1.0, "JAX scan": scan}, **figures}


def test_the_table_names_the_rows_that_a_peer_wins(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    cells, tables = (importlib.import_module(name) for name in ("cells", "peer_tables"))
    results = {
        name: result(cells.CELLS[name]._asdict() | {"steps": 100}, fit, scan)
        for name, fit, scan in (("digits_b32", 2.0, 3.0), ("small_b1_sgd_short", 4.0, 2.0), ("float64_b200", 1.0, 1500))
    }
    run = tables.describe_run(2) | {"cells": results, "machine": "Abacus", "instruction set": "v3"}
    run["versions"] = {"fastgd": "1", "torch": None}
    tables.print_table(run)
    assert capsys.readouterr().out == (
        "Abacus, AVX2, 100 GFLOP/s a core, 2 threads; fastgd 1:\n\n"
        "| network, batch | fastgd fit | numpy | JAX scan | best peer / fit | best peer / limit | limit / fit |\n"
        "|---|---|---|---|---|---|---|\n"
        "| 64-64-10, 32 | 2 | 1 | 3 | 1.50 (JAX scan) | 3.00 | 0.50 |\n"
        "| 4-32-16-4 tanh, 1, SGD, 100 steps | 4 | 1 | 2 | **0.50 (JAX scan)** | 1.00 | 0.50 |\n"
        "| 30-100-100-1, 200, float64 | 1 | 1 | 1,500 | 1500.00 (JAX scan) | 3000.00 | 0.50 |\n\n"
        "Rows in which a peer is faster than `fit`: 4-32-16-4 tanh, 1, SGD, 100 steps (JAX scan, 0.50).\n"
    )
