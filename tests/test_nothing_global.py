"""The package needs and changes no global state: error states, encodings, streams, folders, signals."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Dense, Network, Standardize, callbacks, plots, schedules
from fastgd.activations import ACTIVATIONS
from fastgd.cli import parser as cli
from fastgd.optimizers import OPTIMIZERS
from fastgd.tables import Preprocessing


def command(*arguments, cwd, **options):
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.run([sys.executable, "-m", "fastgd", *arguments], cwd=cwd, env=environment, timeout=120,
                          check=False, **options)  # fmt: skip


@pytest.fixture
def towns(tmp_path):
    rows = "".join(f"{i % 7},{('Århus', 'Zürich €')[i % 2]},{i % 3}\n" for i in range(40))
    (tmp_path / "häuser.csv").write_text(f"größe,Stadt,c €\n{rows}", encoding="utf-8")
    return tmp_path


# ---- modules

LATER = """
import sys, fastgd
later = {"custom", "explore", "images", "models", "plots", "tables", "text"}
assert not {f"fastgd.{name}" for name in later} & {*sys.modules}
net = fastgd.Network(2, [fastgd.Dense(1)], loss="mse")
net.fit([[0.0, 1.0]] * 4, [0.0] * 4, epochs=1, progress=True, metrics="r2", checkpoint="m.safetensors")
fastgd.load("m.safetensors")
assert not {f"fastgd.{name}" for name in later} & {*sys.modules}
from fastgd import tables
assert fastgd.sweep is fastgd.sweep and fastgd.sweep.__module__ == "fastgd.explore.sweep"
for name in later - {"explore"}:
    assert dir(getattr(fastgd, name)) == sorted(getattr(fastgd, name).__all__)
try:
    tables.Preprocesing
except AttributeError as error:
    assert "did you mean 'Preprocessing'?" in str(error), error
"""


def test_modules_that_few_programs_need_are_imported_when_they_are_used(tmp_path):
    done = subprocess.run([sys.executable, "-c", LATER], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- numpy's error state


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_under_an_error_state_that_raises(optimizer, backend, dtype, rng):
    X, y, ends = rng.normal(size=(40, 4)) * [1e-30, 1, 1e-30, 1], rng.normal(size=40) * 1e-40, []
    act = list(ACTIVATIONS)[list(OPTIMIZERS).index(optimizer) % len(ACTIVATIONS)]
    for state in ("ignore", "raise"):
        with np.errstate(all=state):
            network = Network(4, [Dense(5, act), Dense(1)], loss="mse", dtype=dtype, backend=backend)
            network.fit(X, y, epochs=60, batch_size=7, optimizer=OPTIMIZERS[optimizer](schedules.exponential(1e-3, 1)),
                        metrics=["r2", "rmse"], validation_fraction=0.2)  # fmt: skip
            network.predict(X * 1e15)
            assert np.geterr()["under"] == state
        ends.append(network.parameters.copy())
    np.testing.assert_array_equal(*ends)


def test_the_rest_under_an_error_state_that_raises(rng):
    X, y = rng.normal(size=(40, 4)) * 1e-30, rng.integers(0, 3, 40)
    with np.errstate(all="raise"):
        network = Network(4, [Standardize(scale=1e-20), Dense(3)], loss="softmax_cross_entropy")
        network.fit(X, y, epochs=1, sample_weight=rng.uniform(0, 1e-200, 40), metrics=["accuracy", "top_k"])
        fastgd.find_learning_rate(network, X, y, steps=20)
        fastgd.check_gradients(network, X[:5], y[:5])
        plots.loss_surface(network, X, y, resolution=3)
        plots.histograms(network, X, y)
        Standardize.of(X * 1e-200)
        for schedule in (
            schedules.exponential(1e-3, 10),
            schedules.step(1e-3, 5),
            schedules.cosine_restarts(1.0, 9, 2.0),
        ):
            assert schedule(np.arange(100_000))[-1] >= 0
        table = {"a": [1e-300, 2e-300, 3.0], "b": ["x", "y", "x"], "y": [1e-200, 2e-200, 5.0]}
        made = Preprocessing.of(table, "y")
        made.encode({"a": [1e-300, 1e-320, None], "b": ["x", None, "y"]})
        made.targets(table)
        made.decode(np.array([[1e-30]], np.float32))


# ---- locale and encodings

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["", "latin-1"])
def test_names_in_any_locale(encoding, towns):
    options = {"cwd": towns, "environment": {**PLAIN, "PYTHONIOENCODING": encoding}, "capture_output": True}
    done = command("train", "häuser.csv", "--target", "Stadt", "--drop", "größe", "--epochs", "1", "--save", "m",
                   "--log", "log", "--plot", "p.svg", "--quiet", **options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Training on häuser.csv" in (towns / "p.svg").read_text(encoding="utf-8")
    done = command("predict", "m", "häuser.csv", "--probabilities", **options)
    assert done.stdout.decode("utf-8").startswith("Stadt,probability of Zürich €,probability of Århus\n")
    assert command("predict", "m", "häuser.csv", "--keep", "c €", "--output", "out.csv", **options).returncode == 0
    assert (towns / "out.csv").read_text(encoding="utf-8").startswith("c €,Stadt\n0,")
    done = command("train", "häuser.csv", "--target", "Städte", **options)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


# ---- files: the old one or the new one


def test_predictions_that_fail_leave_the_file(towns, monkeypatch, capsys):
    monkeypatch.chdir(towns)
    assert cli.main(["train", "häuser.csv", "--target", "Stadt", "--epochs", "0", "--save", "m", "--quiet"]) == 0
    for name in ("out.csv", "p.png"):
        (towns / name).write_text("before")
    os.chmod(towns / "out.csv", 0o640)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(towns))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert cli.main(["predict", "m", "häuser.csv", "--output", "out.csv"]) == 1
        assert cli.main(["find-lr", "häuser.csv", "--target", "Stadt", "--steps", "20", "--plot", "p.png"]) == 1
    assert [(towns / name).read_text() for name in ("out.csv", "p.png")] == ["before"] * 2
    assert sorted(os.listdir(towns)) == before
    assert cli.main(["predict", "m", "häuser.csv", "--output", "out.csv"]) == 0
    assert (towns / "out.csv").stat().st_mode & 0o777 == 0o640
    assert cli.main(["predict", "m", "häuser.csv", "--output", os.devnull]) == 0
    os.mkfifo(towns / "pipe")
    capsys.readouterr()
    assert cli.main(["predict", "m", "häuser.csv", "--output", "pipe"]) == 1  # nobody reads
    assert capsys.readouterr().err.count("\n") == 1


# ---- standard streams


class Broken:
    """A pipe that nobody reads."""

    def write(self, text=""):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


@pytest.mark.parametrize("stream", [None, "closed", "broken"])
def test_training_goes_on_without_a_stream_for_its_bar(stream, rows, monkeypatch):
    files = {None: None, "closed": io.StringIO(), "broken": Broken()}
    if stream == "closed":
        files[stream].close()
    network = Network(6, [Dense(3)], loss="softmax_cross_entropy")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", files[stream])
        history = network.fit(*rows, epochs=3, progress=True)
        table = fastgd.sweep(network, *rows, {"seed": [1, 2]}, epochs=1, progress=True)
    assert (history.stopped, len(table)) == ("epochs", 2)


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("{fastgd} info m | true; exit ${{PIPESTATUS[0]}}", 0),
        ("{fastgd} info m >&- 2>&- <&-", 0),
        ("{fastgd} predict m häuser.csv >&-", 1),
        ("{fastgd} predict m none.csv 2>&-", 1),
        ("{fastgd} info m > /dev/full", 1),
        ("{fastgd} predict m häuser.csv --output /dev/stdout | grep -q Stadt", 0),
    ],
)
def test_closed_and_full_streams(shell, code, towns):
    table = fastgd.tables.read(towns / "häuser.csv")
    made = Preprocessing.of(table, "Stadt")
    network = Network(made.n_features, [Dense(made.n_outputs)], loss=made.loss)
    network.preprocessing = made
    network.save(towns / "m")
    line = shell.format(fastgd=f"{sys.executable} -m fastgd")
    done = subprocess.run(["bash", "-c", line], cwd=towns, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("\n") <= 1


# ---- working folder, threads, signals, random state


def test_another_working_folder_changes_no_file(rows, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    log = callbacks.json_lines("log")
    network = Network(6, [Dense(3)], loss="softmax_cross_entropy")
    network.fit(*rows, epochs=2, checkpoint="m", callbacks=[log, lambda run: os.chdir(tmp_path / "b")])
    network.fit(*rows, epochs=1, callbacks=[log])
    assert sorted(os.listdir(tmp_path / "a")) == ["log", "m"]
    assert os.listdir(tmp_path / "b") == []
    assert (tmp_path / "a" / "log").read_text().count("stopped") == 2


GONE = """
import os, sys
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
import numpy as np, fastgd
net = fastgd.Network(3, [fastgd.Dense(1)], loss="mse")
log = fastgd.callbacks.json_lines(sys.argv[2])
net.fit(np.ones((9, 3)), np.ones(9), epochs=1, checkpoint=sys.argv[1], callbacks=[log])
fastgd.load(sys.argv[1])
print("done")
"""


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="CPython 3.13.0 cannot import numpy there")
def test_a_working_folder_that_is_gone(tmp_path):
    done = subprocess.run([sys.executable, "-c", GONE, str(tmp_path / "m"), str(tmp_path / "log")], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.stdout == "done\n", done.stderr


def test_the_command_line_in_a_thread(towns, monkeypatch):
    monkeypatch.chdir(towns)
    codes = []
    arguments = ["train", "häuser.csv", "--target", "Stadt", "--epochs", "1", "--quiet", "--save", "m"]
    thread = threading.Thread(target=lambda: codes.append(cli.main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_nothing_global_is_left_changed(towns, monkeypatch, rows):
    import matplotlib
    import matplotlib.pyplot

    monkeypatch.chdir(towns)

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (handlers, np.geterr(), random.getstate(), numpy_state[1].tolist(), numpy_state[2], warnings.filters[:],
                dict(matplotlib.rcParams), matplotlib.get_backend(), matplotlib.pyplot.get_fignums(), os.getcwd(),
                dict(os.environ), sys.stdout.errors, sys.stderr.errors, np.get_printoptions())  # fmt: skip

    before = state()
    arguments = ["train", "häuser.csv", "--target", "Stadt", "--epochs", "1", "--save", "m", "--plot", "p.png"]
    assert cli.main(arguments) == 0
    assert cli.main(["find-lr", "häuser.csv", "--target", "Stadt", "--steps", "20", "--plot", "l.png"]) == 0
    network = Network(6, [Dense(3)], loss="softmax_cross_entropy")
    fastgd.sweep(network, *rows, {"seed": [1, 2]}, epochs=1)
    network.fit(*rows, optimizer=Adam(), epochs=2, validation_fraction=0.2, checkpoint="k")
    assert state() == before
