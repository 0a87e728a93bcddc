"""The installed package: instruction-set variants, an import without side effects, missing extras."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fastgd
from fastgd import _cpu

CHECK = """
import numpy as np, fastgd
from fastgd.cli.self_check import TOLERANCES, CHECKED_SIZES, body_error
from fastgd.core.kernel import variant
for kernel in vars(fastgd.kernels).values():
    for dtype in TOLERANCES:
        assert body_error(kernel, "cython", CHECKED_SIZES, dtype, np.random.default_rng(0)) <= TOLERANCES[dtype], kernel
print(variant())
"""


def python(code, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", _cpu.variants())
def test_every_variant_this_processor_runs_is_right(name, tmp_path):
    done = python(CHECK, tmp_path, FASTGD_ISA=name)
    assert done.stdout.strip() == name, done.stderr


TRAINED = """
import hashlib, itertools, numpy as np
from fastgd import Adam, Dense, Network, SGD
digest, rng = hashlib.sha256(), np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for sizes, loss in (((64, 64, 1), "mse"), ((37, 19, 5), "softmax_cross_entropy"), ((300, 70, 10), "mse")):
        X = rng.normal(size=(80, sizes[0])).astype(dtype) * (rng.random((80, sizes[0])) > 0.5)
        y = rng.integers(0, 5, 80) if loss != "mse" else rng.normal(size=(80, sizes[-1])).astype(dtype)
        for optimizer, batch_size, l2 in itertools.product((SGD, Adam), (1, 13), (0, 1e-3)):
            net = Network(sizes[0], [Dense(sizes[1], "tanh"), Dense(sizes[2])], loss=loss, dtype=dtype, l2=l2)
            net.fit(X.astype(dtype), y, optimizer=optimizer(1e-3), batch_size=batch_size, epochs=2)
            digest.update(net.parameters.tobytes())
print(digest.hexdigest())
"""


def test_variants_that_fuse_give_the_same_bits(tmp_path):
    outputs = {python(TRAINED, tmp_path, FASTGD_ISA=name).stdout for name in _cpu.variants() if name != "v2"}
    assert len(outputs) <= 1
    assert "" not in outputs


def test_the_best_variant_is_the_default(tmp_path):
    assert python(CHECK, tmp_path, FASTGD_ISA="").stdout.strip() == _cpu.variants()[0]


@pytest.mark.parametrize("wanted", ["v9", "avx2", "V3"])
def test_unknown_variant_is_an_error(wanted, tmp_path):
    done = python(CHECK, tmp_path, FASTGD_ISA=wanted)
    assert done.returncode != 0
    assert "FASTGD_ISA" in done.stderr
    assert repr(wanted) in done.stderr
    assert repr(_cpu.variants()[0]) in done.stderr


def test_unavailable_variant_is_an_error(monkeypatch):
    fastgd.core.kernel.variant.cache_clear()
    try:
        monkeypatch.setattr(_cpu, "variants", lambda: ("v3", "v2"))
        monkeypatch.setenv("FASTGD_ISA", "v4")
        with pytest.raises(ImportError, match="FASTGD_ISA.*'v3', 'v2'.*'v4'"):
            fastgd.core.kernel.variant()
        monkeypatch.setattr(_cpu, "variants", lambda: ())
        with pytest.raises(ImportError, match="v2"):
            fastgd.core.kernel.variant()
    finally:
        fastgd.core.kernel.variant.cache_clear()


def test_only_what_is_built_is_offered(monkeypatch):
    """`variants()` is a subset of `built()`, and the modules of every built variant exist."""
    assert set(_cpu.variants()) <= set(_cpu.built())
    for name in _cpu.built():
        for dtype in fastgd.core.kernel.DTYPES:
            assert importlib.util.find_spec(f"fastgd._kernels_{name}_{dtype}"), name
    fastgd.core.kernel.variant.cache_clear()
    try:
        monkeypatch.setattr(_cpu, "built", lambda: ("v4",))
        monkeypatch.setattr(_cpu, "variants", lambda: ())
        with pytest.raises(ImportError, match="one of the variants built, 'v4';"):
            fastgd.core.kernel.variant()
    finally:
        fastgd.core.kernel.variant.cache_clear()


def test_import_is_light_and_changes_nothing(tmp_path):
    code = """
import sys, numpy as np, signal, threading
before = np.geterr(), signal.getsignal(signal.SIGINT), threading.active_count(), np.random.get_state()[1].tolist()
import fastgd
heavy = [m for m in ("numba", "matplotlib", "sklearn", "scipy", "torch", "onnx", "tokenizers") if m in sys.modules]
assert not heavy, heavy
after = np.geterr(), signal.getsignal(signal.SIGINT), threading.active_count(), np.random.get_state()[1].tolist()
assert before == after
assert sys.float_info.min / 2 != 0
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_import_needs_no_slow_modules_of_python(tmp_path):
    code = """
import sys, numpy
known = set(sys.modules)
import fastgd
slow = {"difflib", "hashlib", "html", "logging", "multiprocessing", "shutil", "tempfile"} & (set(sys.modules) - known)
assert not slow, slow
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("numba", "fastgd.Network(2, [fastgd.Dense(1)], loss='mse', backend='numba').describe()", "fastgd[numba]"),
        ("matplotlib", "fastgd.plots.plot_loss(fastgd.History())", "fastgd[plots]"),
        ("sklearn", "fastgd.cli.datasets.digits()", "fastgd[sklearn]"),
        ("sklearn", "fastgd.sklearn.MLPClassifier()", "fastgd[sklearn]"),
        ("pyarrow", "fastgd.tables.read('t.csv')", "fastgd[data]"),
        ("tensorboard", "fastgd.callbacks.tensorboard('runs')", "fastgd[tensorboard]"),
        ("tokenizers", "fastgd.text.Tokenizer('{}', 1).encode('a')", "fastgd[text]"),
        ("onnx", "fastgd.Network(2, [fastgd.Dense(1)], loss='mse').to_onnx('m.onnx')", "fastgd[onnx]"),
    ],
)
def test_a_missing_extra_says_what_to_install(module, code, extra, tmp_path):
    block = f"import sys; sys.modules[{module!r}] = None; import fastgd, fastgd.plots, fastgd.cli.datasets; {code}"
    done = python(block, tmp_path)
    assert "ImportError" in done.stderr
    assert f"pip install '{extra}'" in done.stderr


def test_a_checkout_that_is_not_built_says_how(tmp_path):
    (tmp_path / "fastgd").mkdir()
    shutil.copy(fastgd.__file__, tmp_path / "fastgd")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", "import fastgd"], cwd=tmp_path, env=environment, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"ImportError: fastgd is not built in .*`pip install \.` in the checkout", done.stderr)


def test_compiled_modules_of_another_version_are_refused(monkeypatch):
    kernel = fastgd.kernels.sgd_step
    monkeypatch.setattr(kernel, "slots", (*kernel.slots, "more"))
    with pytest.raises(ImportError, match="sgd_step.*install it again"):
        kernel.address("cython", "float32")


def test_runner_refuses_tables_of_other_records():
    from fastgd._plan import OPERATION, STAGE, Runner

    table, stages, other = np.zeros(2, OPERATION), np.zeros(2, STAGE), np.zeros((2, 4), np.int64)
    none, pace = np.zeros(0, np.int64), np.zeros(2)
    for wrong in (other, stages):
        with pytest.raises(ValueError, match="[Bb]uffer"):
            Runner(wrong, none, total=0, largest=0, bad_gradients=0, row_block=1)
    runner = Runner(table, none, total=0, largest=0, bad_gradients=0, row_block=1)
    for wrong in (other, table):
        with pytest.raises(ValueError, match="[Bb]uffer"):
            runner.run(wrong, 1, 1, pace)


def test_show_config(capsys):
    fastgd.show_config()
    text = capsys.readouterr().out
    assert fastgd.__version__ in text
    assert fastgd.core.kernel.variant() in text


FROZEN = """
import importlib.metadata

def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.version = version
import fastgd
from fastgd.cli import parser as cli

fastgd.show_config()
try:
    cli.main(["--version"])
except SystemExit:
    pass
"""


def test_frozen_applications_have_no_metadata(tmp_path):
    done = python(FROZEN, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fastgd {fastgd.__version__}" in done.stdout
    assert re.search(r"numpy +installed without metadata", done.stdout)


def test_the_version_is_defined_once():
    assert importlib.metadata.version("fastgd") == fastgd.__version__
